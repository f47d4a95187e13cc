"""What the Plan page shows: where so many servers go, by the load that the job of capacity looked at last."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.attribution import measured_pue
from analytics.capacity.assessment import Assessment, assess
from analytics.capacity.ledger import server_w, smallest_server
from analytics.fleet import Fleet, Sku
from analytics.frames import power_minutes, scan
from analytics.planning.plan import fit
from analytics.planning.result import Plan
from collector.errors import ConfigError, NotEnoughData
from dashboards.controls import Values
from dashboards.data.stored import NS, Stored, utc

POWERS: Final = ("peak", "nameplate")
"""What a server is planned with."""
DAYS: Final = 30
SOLVE_S: Final = 20.0
_STEP_NS: Final = 6 * 3600 * NS
"""While no job has looked at capacity, the load counts up to a whole part of a day, so that it is added up once."""
_MINUTE_NS: Final = 60 * NS


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """
    An answer.

    `plan` is None where there is none to give, and `why` says so. `shown` is the plan, or where it is infeasible that
    of as many as fit, if any do. `surveyed` are the sites that are known well enough, `refused` why others are not.
    """

    sku: str | None = None
    count: int = 1
    plan: Plan | None = None
    shown: Plan | None = None
    why: str | None = None
    surveyed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def view(stored: Stored, values: Values) -> PlanView:
    """
    What the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    fleet = stored.fleet() or Fleet()
    sku, count = _sku(fleet, str(values["sku"] or "")), int(str(values["count"]))
    sites = values["site"] if isinstance(values["site"], tuple) else ()
    if sku is None:
        return PlanView(count=count, why=_no_sku(fleet, str(values["sku"] or "")))
    try:
        found, pue = surveyed(stored, fleet)
    except (ConfigError, NotEnoughData) as error:
        return PlanView(sku=sku.name, count=count, why=str(error))
    nameplate = values["power"] == "nameplate"

    def planned(servers: int) -> Plan:
        start = utc(moment(stored)[0]).date() + timedelta(days=sku.lead_days)
        key = ("plan", moment(stored), sku.name, servers, sites, nameplate)
        return stored.kept(
            key,
            lambda: fit(found, sku, servers, start=start, sites=sites, nameplate=nameplate, pue=pue, time_s=SOLVE_S),
        )

    try:
        told = planned(count)
        most = round(told.most.get(sku.name, 0.0))
        shown = told if told.found else planned(most) if most >= 1 else None
    except ConfigError as error:
        return PlanView(sku=sku.name, count=count, why=str(error))
    return PlanView(
        sku=sku.name, count=count, plan=told, shown=shown, refused=tuple(found.refused.values()),
        surveyed=tuple(one.tree.site.name for one in found.surveys),
    )  # fmt: skip


def known(stored: Stored, _values: Values) -> dict[str, list[str]]:
    """The device types that come in a server, and the sites."""
    fleet = stored.fleet() or Fleet()
    skus = [sku.name for sku in fleet.skus if server_w(sku.server) is not None]
    return {"sku": sorted(skus), "site": sorted(site.name for site in fleet.sites)}


def _sku(fleet: Fleet, name: str) -> Sku | None:
    found = fleet.sku(name) if name else smallest_server(fleet)
    return found if found is not None and server_w(found.server) is not None else None


def _no_sku(fleet: Fleet, name: str) -> str:
    if not fleet.sites:
        return "fleet.toml describes no site"
    if name:
        return f"fleet.toml has no [[sku]] {name!r} whose [sku.server] tells peak_w or nameplate_w"
    return "no [[sku]] of fleet.toml has a [sku.server] that tells peak_w or nameplate_w"


def moment(stored: Stored) -> tuple[int, object]:
    """Up to when load counts: what the job of capacity looked at, else the last quarter of a day; and the fleet."""
    told = stored.newest_ns("headroom")
    now_ns = stored.now_ns() // _STEP_NS * _STEP_NS if told is None else told + _MINUTE_NS
    return now_ns, stored.version((), None, None)


def surveyed(stored: Stored, fleet: Fleet) -> tuple[Assessment, dict[str, float]]:
    """
    The sites with what their nodes carry, and the PUE of those where it is measured; worked out once for each moment.

    Raises: StoreError, ConfigError, NotEnoughData.
    """
    return stored.kept(("surveyed", moment(stored)), lambda: _surveyed(stored, fleet))


def _surveyed(stored: Stored, fleet: Fleet) -> tuple[Assessment, dict[str, float]]:
    end_ns, _ = moment(stored)
    store = stored.store()
    told = power_minutes(store, end_ns - DAYS * 86_400 * NS, end_ns, days=DAYS, now_ns=end_ns)
    facility = scan(store, "facility_samples", told.start_ns, told.end_ns)
    pue = dict(measured_pue(facility).select("site", "pue").collect().iter_rows())
    return assess(fleet, told, pue=pue), pue
