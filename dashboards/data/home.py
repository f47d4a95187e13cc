"""
What the Home page shows: load against limits, what is wrong, what runs out, what is to be decided.

It reads tables that jobs made, never readings, so that it is there at once however long the history is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from analytics.anomalies.listed import listed
from analytics.capacity.tree import NOTHING, Tree, trees
from analytics.cost import priced, rates
from analytics.fleet import Fleet
from analytics.frames import scan
from analytics.ledger import EFFECTIVE_RATIO
from dashboards.controls import Values
from dashboards.data.derived import Standing, standing
from dashboards.data.stored import ALL, NS, Stored, utc

TABLES: Final = ("job_energy", "efficiency", "device_rollups", "incidents", "headroom", "recommendations")
DAY_S: Final = 86_400
WASTE_DAYS: Final = 7
"""Waste is told of a week, which has each of its days in it."""
MONTH_DAYS: Final = 365.25 / 12

_QUARTER_NS: Final = 900 * NS
_WASTED: Final = ("idle", "unallocated")
_LINES: Final = ("time", "kind", "site", "host", "device", "span_s", "covered_s", "energy_j", "modelled_j")
_INTERVAL: Final = ("energy_low_j", "energy_high_j")


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount in one currency; `others` are what there is in others, `complete` whether all of it has a price."""

    amount: float
    currency: str
    others: tuple[tuple[float, str], ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The fleet in a few numbers; None is what is not known."""

    power_w: float | None = None
    """Mean of the last quarter-hour, facilities included where a PUE is known."""
    accelerators_w: float | None = None
    devices: int = 0
    devices_now: int = 0
    """Devices of a day, and those of them that were measured in the last quarter-hour."""
    modelled_ratio: float = 0.0
    today_j: float | None = None
    today_cost: Money | None = None
    joules_per_token: float | None = None
    joules_per_token_before: float | None = None
    """Of the day, and of the days before it."""
    total: float | None = None
    allocated: float | None = None
    active: float | None = None
    effective: float | None = None
    """Mean numbers of devices over a day."""
    waste: Money | None = None
    waste_j: float | None = None
    waste_days: float = 0.0
    waste_with_devices: bool = False
    """Whether the waste has what devices cost in it, besides their energy."""
    pue: float | None = None
    pue_of: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeView:
    """
    What is known now.

    end: of the last quarter-hour. tree: nodes in the order of the power tree (what hangs from a node below it) with
    site, node, kind, depth, also (further parents), load_now_w, load_w, derated_w, safe_w, feed_loss_w (the load at
    which the worst single failure would just fill it), worst_failure, failure_load_w, headroom_w, as_of. racks: the
    same of racks. incidents: as `analytics.anomalies.listed`. ahead: node, kind, site, binding, runway_p10, runway_p50,
    runway_p90, order_by, horizon, runs_out_ratio; the first to run out first. decisions: the recommendations that wait
    for somebody, with a `deadline` where they have one. sites: site, kind, energy_j, power_w of a day.
    """

    end: datetime | None
    figures: Figures
    tree: pl.DataFrame
    racks: pl.DataFrame
    incidents: pl.DataFrame
    ahead: pl.DataFrame
    decisions: pl.DataFrame
    sites: pl.DataFrame
    standings: Mapping[str, Standing]


def view(stored: Stored, values: Values) -> HomeView:
    """
    What the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    chosen = values.get("site")
    sites = chosen if isinstance(chosen, tuple) else ()
    standings = {table: standing(stored, table) for table in ("job_energy", "efficiency", "incidents", "headroom")}
    newest_ns = stored.newest_ns("job_energy")
    # A segment says only up to when it may have rows.
    newest_ns = None if newest_ns is None else newest_ns // _QUARTER_NS * _QUARTER_NS
    start_ns = None if newest_ns is None else newest_ns - WASTE_DAYS * DAY_S * NS
    key = (
        "home",
        sites,
        stored.version(("job_energy", "efficiency", "device_rollups"), start_ns, None),
        stored.version(("<incidents", "<headroom", "<recommendations"), None, None),
        tuple(standings.values()),
    )
    return stored.kept(key, lambda: _work_out(stored, sites, newest_ns, standings))


def _work_out(
    stored: Stored, sites: tuple[str, ...], newest_ns: int | None, standings: Mapping[str, Standing]
) -> HomeView:
    fleet = stored.fleet()
    lines = _lines(stored, newest_ns)
    if sites:
        lines = lines.filter(pl.col("site").is_in(sites))
    end = None if newest_ns is None else utc(newest_ns + _QUARTER_NS)
    limits = _last(stored, "headroom", "node", sites)
    nodes = _nodes(fleet or Fleet(), limits, _hosts_now(lines, newest_ns))
    ahead = _ahead(limits)
    return HomeView(
        end=end,
        figures=_figures(stored, fleet or Fleet(), lines, newest_ns, sites),
        tree=nodes.filter(pl.col("kind") != "rack"),
        racks=nodes.filter(pl.col("kind") == "rack"),
        incidents=_incidents(stored, sites),
        ahead=ahead,
        decisions=_decisions(_last(stored, "recommendations", "recommendation", sites), limits),
        sites=_sites(lines, newest_ns),
        standings=standings,
    )


# ------------------------------------------------------------------------------------------------------------- figures


def _lines(stored: Stored, newest_ns: int | None) -> pl.DataFrame:
    """Lines of energy of the last week, by quarter-hours."""
    wanted = (*_LINES, *_INTERVAL)
    if newest_ns is None:
        return scan(stored.store(), "job_energy", 0, 1).select(wanted).collect()
    start_ns = newest_ns + _QUARTER_NS - WASTE_DAYS * DAY_S * NS
    lines = scan(stored.store(), "job_energy", start_ns, newest_ns + _QUARTER_NS, pl.col("window_s") == 900)
    return lines.select(wanted).with_columns(pl.col("site").fill_null(ALL)).collect()


def _since(lines: pl.DataFrame, start_ns: int) -> pl.DataFrame:
    return lines.filter(pl.col("time").to_physical() >= start_ns)


def _figures(
    stored: Stored, fleet: Fleet, lines: pl.DataFrame, newest_ns: int | None, sites: tuple[str, ...]
) -> Figures:
    if newest_ns is None or lines.is_empty():
        return Figures()
    end_ns = newest_ns + _QUARTER_NS
    day_ns = end_ns - DAY_S * NS
    now, day = _since(lines, newest_ns), _since(lines, day_ns)
    # The day that the newest readings are of; a window begins in it, so midnight itself is of the day before.
    midnight_ns = newest_ns // (DAY_S * NS) * DAY_S * NS
    today = _since(lines, midnight_ns)
    power_w, accelerators_w = _power_now(now)
    held = day.filter(pl.col("device").is_not_null())
    length_s = max(min(DAY_S, (end_ns - int(day["time"].to_physical().min())) / NS), 1.0)  # type: ignore[arg-type]
    spans = {kind: float(held.filter(pl.col("kind") == kind)["span_s"].sum()) / length_s for kind in ("used", *_WASTED)}
    costs = _priced(
        stored, fleet, lines.filter(pl.col("kind").is_in(_WASTED) | (pl.col("time").to_physical() >= midnight_ns))
    )
    wasted = costs.filter(pl.col("kind").is_in(_WASTED))
    waste_days = (end_ns - int(lines["time"].to_physical().min())) / NS / DAY_S  # type: ignore[arg-type]
    whole = wasted["fixed_cost"].null_count() == 0 and wasted.height > 0
    per_month = MONTH_DAYS / waste_days
    amount = pl.col("energy_cost") + (pl.col("fixed_cost") if whole else 0.0)
    pues = _pues(day)
    tokens = _tokens(stored, lines, day_ns, end_ns, sites)
    known_now = now.filter(pl.col("device").is_not_null() & pl.col("energy_j").is_not_null())
    joules = float(known_now["energy_j"].sum())
    active = spans["used"]
    return Figures(
        power_w=power_w,
        accelerators_w=accelerators_w,
        devices=held["device"].n_unique(),
        devices_now=known_now["device"].n_unique(),
        modelled_ratio=float(known_now["modelled_j"].sum()) / joules if joules else 0.0,
        today_j=_sum(today, "energy_j"),
        today_cost=_money(_since(costs, midnight_ns), pl.col("energy_cost"), 1.0),
        joules_per_token=tokens[0],
        joules_per_token_before=tokens[1],
        total=sum(spans.values()),
        allocated=spans["used"] + spans["idle"],
        active=active,
        effective=_effective(stored, held, day_ns, end_ns, length_s, active),
        waste=_money(wasted, amount, per_month),
        waste_j=None if (found := _sum(wasted, "energy_j")) is None else found * per_month,
        waste_days=waste_days,
        waste_with_devices=whole,
        pue=_pue(day.filter(pl.col("site").is_in(list(pues)))),
        pue_of=pues,
    )


def _power_now(now: pl.DataFrame) -> tuple[float | None, float | None]:
    """What all drew in the last quarter-hour, and what accelerators did: energy over the time that it covers."""
    told = now.filter(pl.col("kind") != "facility")
    if told["energy_j"].count() == 0:
        return None, None
    watts = _watts(told)
    accelerators_w = float(watts.filter(pl.col("device").is_not_null())["power_w"].sum())
    by_site = watts.group_by("site").agg(pl.col("power_w").sum())
    pues = _pues(now)
    return sum(watts * pues.get(site, 1.0) for site, watts in by_site.iter_rows()), accelerators_w


def _watts(lines: pl.DataFrame) -> pl.DataFrame:
    """Mean power of each device, and of each host beyond its devices: site, host, device, power_w."""
    keys = ["site", "host", "device"]
    return (
        lines.filter(pl.col("energy_j").is_not_null() & (pl.col("covered_s") > 0))
        .group_by(keys)
        .agg(power_w=pl.col("energy_j").sum() / pl.col("covered_s").sum())
    )


def _pues(lines: pl.DataFrame) -> dict[str, float]:
    """The PUE of each site of which what the facility drew is known."""
    sums = lines.group_by("site").agg(
        whole=pl.col("energy_j").sum(),
        facility=pl.col("energy_j").filter(pl.col("kind") == "facility").sum(),
        known=(pl.col("kind") == "facility").any(),
    )
    return {
        row["site"]: row["whole"] / (row["whole"] - row["facility"])
        for row in sums.filter("known").iter_rows(named=True)
        if row["whole"] > row["facility"]
    }


def _pue(lines: pl.DataFrame) -> float | None:
    whole = float(lines["energy_j"].sum())
    facility = float(lines.filter(pl.col("kind") == "facility")["energy_j"].sum())
    return whole / (whole - facility) if whole > facility > 0 else None


def _priced(stored: Stored, fleet: Fleet, lines: pl.DataFrame) -> pl.DataFrame:
    windows = sorted(lines["time"].unique())
    prices = rates(fleet, windows)
    told = lines.rename({"time": "window"}).lazy()
    found = priced(told, prices, scan(stored.store(), "devices"), fleet)
    return found.rename({"window": "time"}).collect()


def _money(costs: pl.DataFrame, amount: pl.Expr, factor: float) -> Money | None:
    """What lines cost by currency, the most first; None where none has a price."""
    told = costs.filter(pl.col("energy_j").is_not_null())
    known = told.filter(pl.col("energy_cost").is_not_null() & pl.col("currency").is_not_null())
    sums = known.group_by("currency").agg(amount=amount.sum() * factor).sort("amount", "currency", descending=True)
    if sums.is_empty():
        return None
    (currency, most), *rest = sums.iter_rows()
    others = tuple((value, name) for name, value in rest)
    return Money(amount=most, currency=currency, others=others, complete=known.height == told.height)


def _effective(
    stored: Stored, held: pl.DataFrame, start_ns: int, end_ns: int, length_s: float, active: float
) -> float | None:
    """Devices with more than half of their compute units active, or as busy where that is not read."""
    activity = pl.coalesce("activity_sm_mean_ratio", "utilization_mean_ratio")
    rows = (
        scan(stored.store(), "device_rollups", start_ns, end_ns, pl.col("window_s") == 300)
        .filter(pl.col("device").is_in(held["device"].unique().to_list()))
        .select("device", "time", "covered_s", activity=activity)
        # Of several sources of a device the one that says most.
        .group_by("device", "time")
        .agg(pl.col("covered_s").max(), pl.col("activity").max())
        .drop_nulls("activity")
        .collect()
    )
    if rows.is_empty():
        return None
    busy_s = float(rows.filter(pl.col("activity") > EFFECTIVE_RATIO)["covered_s"].sum())
    return min(busy_s / length_s, active)


def _tokens(
    stored: Stored, lines: pl.DataFrame, day_ns: int, end_ns: int, sites: tuple[str, ...]
) -> tuple[float | None, float | None]:
    """Joules per token of the last day, and of the days before: of jobs that count tokens, idle time included."""
    start_ns = int(lines["time"].to_physical().min())  # type: ignore[arg-type]
    rows = scan(stored.store(), "efficiency", start_ns, end_ns, pl.col("window_s") == 900).filter(
        pl.col("tokens") > 0, pl.col("counted_j").is_not_null()
    )
    if sites:
        # A workload is where its devices are; the lines have been narrowed to the sites.
        held = scan(stored.store(), "job_energy", start_ns, end_ns).filter(pl.col("site").is_in(sites))
        rows = rows.join(held.select("workload").unique(), on="workload", how="semi")
    told = rows.select("time", "tokens", "counted_j").collect()
    last = pl.col("time").to_physical() >= day_ns
    return _per_token(told.filter(last)), _per_token(told.filter(~last))


def _per_token(rows: pl.DataFrame) -> float | None:
    tokens = float(rows["tokens"].sum())
    return float(rows["counted_j"].sum()) / tokens if tokens else None


def _sites(lines: pl.DataFrame, newest_ns: int | None) -> pl.DataFrame:
    """Energy of a day by site and kind."""
    day = lines if newest_ns is None else _since(lines, newest_ns + _QUARTER_NS - DAY_S * NS)
    return (
        day.group_by("site", "kind")
        .agg(
            pl.col("device").drop_nulls().n_unique().alias("devices"),
            pl.col("span_s", "covered_s").sum(),
            energy_j=pl.when(pl.col("energy_j").count() > 0).then(pl.col("energy_j").sum()),
        )
        .sort("site", "kind")
    )


def _sum(frame: pl.DataFrame, column: str) -> float | None:
    return float(frame[column].sum()) if frame[column].count() else None


# ---------------------------------------------------------------------------------------------------------- power tree


def _last(stored: Stored, table: str, key: str, sites: tuple[str, ...]) -> pl.DataFrame:
    """The last word on each *key* of a table of states, as of the last time that anything was said."""
    rows = scan(stored.store(), table)
    if sites:
        rows = rows.filter(pl.col("site").is_in(sites))
    # A job tells all at once: what it does not tell any more is no longer so.
    return rows.filter(pl.col("time") == pl.col("time").max()).unique(key, keep="last").collect()


def _hosts_now(lines: pl.DataFrame, newest_ns: int | None) -> dict[str, float]:
    """What each host drew in the last quarter-hour, its devices included."""
    if newest_ns is None:
        return {}
    now = _since(lines, newest_ns).filter(pl.col("kind") != "facility")
    watts = _watts(now).filter(pl.col("host").is_not_null())
    return dict(watts.group_by("host").agg(pl.col("power_w").sum()).iter_rows())


_NODES: Final = pl.Schema(
    {
        "site": pl.String(), "node": pl.String(), "kind": pl.String(), "depth": pl.Int64(), "also": pl.String(),
        "load_now_w": pl.Float64(), "load_w": pl.Float64(), "derated_w": pl.Float64(), "safe_w": pl.Float64(),
        "feed_loss_w": pl.Float64(), "worst_failure": pl.String(), "failure_load_w": pl.Float64(),
        "headroom_w": pl.Float64(), "as_of": pl.Datetime("ns"),
    }
)  # fmt: skip


def _nodes(fleet: Fleet, limits: pl.DataFrame, hosts: Mapping[str, float]) -> pl.DataFrame:
    """The nodes of each site's tree with their limits and loads, what hangs from a node below it."""
    told = {row["node"]: row for row in limits.iter_rows(named=True)}
    named = set(limits["site"])
    rows = []
    for tree in trees(fleet):
        if tree.site.name in named:
            now = _loads_now(fleet, tree, hosts)
            rows += [_node(*one, told, now) for one in _order(tree) if one[0] in told]
    return pl.DataFrame(rows, schema=_NODES, orient="row")


def _node(
    name: str, depth: int, also: str, told: Mapping[str, Mapping[str, object]], now: Mapping[str, float]
) -> dict[str, object]:
    row = told[name]
    load, failure, safe = (_number(row[key]) for key in ("load_w", "failure_load_w", "safe_w"))
    room = safe * load / failure if safe is not None and load and failure else None
    return {
        **{key: row[key] for key in ("site", "kind", "derated_w", "safe_w", "worst_failure", "headroom_w")},
        "node": name, "depth": depth, "also": also or None, "load_now_w": now.get(name), "load_w": load,
        "failure_load_w": failure, "as_of": row["time"],
        "feed_loss_w": room if row["worst_failure"] != NOTHING else safe,
    }  # fmt: skip


def _order(tree: Tree) -> Iterator[tuple[str, int, str]]:
    """Each node and rack once, below the first that it hangs from: name, depth, the others that it hangs from."""
    below: dict[str, list[tuple[str, str]]] = {}
    for node in tree.nodes:
        for parent in node.parents[:1]:
            below.setdefault(parent, []).append((node.name, ", ".join(node.parents[1:])))
    for rack, feeds in tree.racks.items():
        first, *others = feeds or (tree.site.name,)
        below.setdefault(first, []).append((rack, ", ".join(others)))

    def branch(name: str, depth: int, also: str) -> Iterator[tuple[str, int, str]]:
        yield name, depth, also
        for child, others in below.get(name, ()):
            yield from branch(child, depth + 1, others)

    for node in tree.nodes:
        if not node.parents:
            yield from branch(node.name, 0, "")


def _loads_now(fleet: Fleet, tree: Tree, hosts: Mapping[str, float]) -> dict[str, float]:
    """What each node carries now: of what is measured, by host, shared over the feeds as the tree says."""
    site_of, rack_of = fleet.site_of(hosts), fleet.rack_of(hosts)
    mine = {host: watts for host, watts in hosts.items() if site_of.get(host) == tree.site.name}
    if not mine:
        return {}
    racks, loose_w = dict.fromkeys(tree.racks, 0.0), 0.0
    for host, watts in mine.items():
        if host in rack_of:
            racks[rack_of[host]] += watts
        else:
            loose_w += watts
    return tree.carried_w(racks, loose_w=loose_w) | racks


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


# -------------------------------------------------------------------------------------------- what is wrong, due, next


def _incidents(stored: Stored, sites: tuple[str, ...]) -> pl.DataFrame:
    found = listed(scan(stored.store(), "incidents")).collect()
    return found.filter(pl.col("site").is_in(sites)) if sites else found


def _ahead(limits: pl.DataFrame) -> pl.DataFrame:
    """What runs out by itself, the first first; what only waits for another node goes with that one."""
    own = ~pl.col("binding").fill_null("").str.starts_with("power of ")
    return (
        limits.filter(pl.col("runway_p10").is_not_null() & own)
        .sort("runway_p10", "runway_p50", "node", nulls_last=True)
        .select(
            "node", "kind", "site", "binding", "runway_p10", "runway_p50", "runway_p90", "order_by", "lead_days",
            "runs_out_ratio", "horizon",
        )
    )  # fmt: skip


def _decisions(told: pl.DataFrame, limits: pl.DataFrame) -> pl.DataFrame:
    """What waits for a decision, the most urgent first: a purchase is due when what runs out has to be ordered."""
    due = limits.select(name="node", order_by="order_by").unique("name")
    joined = told.filter(pl.col("state").is_in(["new", "needs_data"])).join(due, on="name", how="left")
    return (
        joined.with_columns(deadline=pl.when(pl.col("kind") == "buy").then("order_by"))
        .sort("deadline", "effect_mid", "recommendation", descending=[False, True, False], nulls_last=True)
        .select(
            "recommendation", "kind", "scope", "name", "site", "summary", "deadline", "proposed", "effect_low",
            "effect_mid", "effect_high", "effect_unit", "saving_per_year", "currency", "state", "query",
        )
    )  # fmt: skip
