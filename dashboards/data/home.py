"""
What the Home page shows: load against limits, what is wrong, what runs out, what is to be decided.

It reads tables that jobs made, never readings, so that it is there at once however long the history is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import polars as pl

from analytics.anomalies.listed import listed
from analytics.capacity.tree import NOTHING, Tree, trees
from analytics.cost import priced, rates
from analytics.fleet import Fleet
from analytics.frames import scan
from analytics.known import column_sum
from analytics.ledger import EFFECTIVE_RATIO
from dashboards.controls import Values
from dashboards.data.derived import Standing, standing
from dashboards.data.stored import ALL, NS, Stored, utc

TABLES: Final = ("job_energy", "efficiency", "device_rollups", "incidents", "headroom", "recommendations")
DAY_S: Final = 86_400
WASTE_DAYS: Final = 7
"""Waste is told of a week, which has each of its days in it."""
MONTH_DAYS: Final = 365.25 / 12
PREPARED_S: Final = 30.0
"""So long the page shows what was prepared; whoever prepares does it more often."""

_QUARTER_NS: Final = 900 * NS
_WASTED: Final = ("idle", "unallocated")
_LINES: Final = (
    "time", "kind", "site", "host", "device", "workload", "span_s", "covered_s", "energy_j", "energy_low_j",
    "energy_high_j", "modelled_j",
)  # fmt: skip


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
    newest_ns: int | None
    """The time of the newest reading."""


def view(stored: Stored, values: Values) -> HomeView:
    """
    What the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    chosen = values.get("site")
    sites = chosen if isinstance(chosen, tuple) else ()
    prepared: _State | None = stored.prepared("home", PREPARED_S)
    state = prepared or _state(stored)
    return stored.kept((*state.key, sites), lambda: _work_out(state, sites))


def prepare(stored: Stored) -> None:
    """
    Have what anybody may ask of Home ready, for `PREPARED_S`.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    state = _state(stored)
    stored.kept((*state.key, ()), lambda: _work_out(state, ()))
    stored.prepare("home", state)


def _state(stored: Stored) -> "_State":
    standings = {table: standing(stored, table) for table in ("job_energy", "efficiency", "incidents", "headroom")}
    newest_ns = stored.newest_ns("job_energy")
    # A segment says only up to when it may have rows.
    newest_ns = None if newest_ns is None else newest_ns // _QUARTER_NS * _QUARTER_NS
    start_ns = None if newest_ns is None else newest_ns - WASTE_DAYS * DAY_S * NS
    key = (
        "home",
        stored.version(("job_energy", "efficiency", "device_rollups"), start_ns, None),
        stored.version(("<incidents", "<headroom", "<recommendations"), None, None),
    )
    told = stored.kept(key, lambda: _read(stored, newest_ns))
    reading_ns = stored.newest_ns()
    return _State(
        key=(*key, reading_ns, *standings.values()),
        told=told,
        newest_ns=newest_ns,
        reading_ns=reading_ns,
        standings=standings,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What Home stands on at a moment; `key` changes when any of it does. Times are of energy and of readings."""

    key: tuple[object, ...]
    told: "_Told"
    newest_ns: int | None
    reading_ns: int | None
    standings: Mapping[str, Standing]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """
    What the tables say, of all sites: read once, and narrowed as often as somebody chooses.

    costs: lines of today and of what is wasted, with what they cost. busy: device, busy_s of a day. tokens: workload,
    time, tokens, counted_j.
    """

    fleet: Fleet
    lines: pl.DataFrame
    costs: pl.DataFrame
    busy: pl.DataFrame
    tokens: pl.DataFrame
    limits: pl.DataFrame
    advice: pl.DataFrame
    incidents: pl.DataFrame

    def of(self, sites: tuple[str, ...]) -> "_Told":
        """The same of some sites alone; of none chosen, all."""
        if not sites:
            return self
        here = pl.col("site").is_in(sites)
        lines = self.lines.filter(here)
        # A workload is where its devices are.
        held = lines.select("workload").drop_nulls().unique()
        return replace(
            self,
            lines=lines,
            costs=self.costs.filter(here),
            busy=self.busy.join(lines.select("device").unique(), on="device", how="semi"),
            tokens=self.tokens.join(held, on="workload", how="semi"),
            limits=self.limits.filter(here),
            advice=self.advice.filter(here),
            incidents=self.incidents.filter(here),
        )


def _read(stored: Stored, newest_ns: int | None) -> _Told:
    store, fleet = stored.store(), stored.fleet() or Fleet()
    end_ns = 0 if newest_ns is None else newest_ns + _QUARTER_NS
    day_ns, start_ns = end_ns - DAY_S * NS, end_ns - WASTE_DAYS * DAY_S * NS
    quarters = pl.col("window_s") == 900
    lines = (
        scan(store, "job_energy", start_ns, end_ns, quarters)
        .select(_LINES)
        .with_columns(pl.col("site").fill_null(ALL))
        .collect()
    )
    tokens = scan(store, "efficiency", start_ns, end_ns, quarters & (pl.col("tokens") > 0))
    return _Told(
        fleet=fleet,
        lines=lines,
        costs=_priced(
            stored,
            fleet,
            lines.filter(pl.col("kind").is_in(_WASTED) | (pl.col("time").to_physical() >= _midnight(end_ns))),
        ),
        busy=_busy(stored, day_ns, end_ns),
        tokens=tokens.select("workload", "time", "tokens", "counted_j").drop_nulls().collect(),
        limits=_last(stored, "headroom", "node"),
        advice=_last(stored, "recommendations", "recommendation"),
        incidents=listed(scan(store, "incidents")).collect(),
    )


def _work_out(state: _State, sites: tuple[str, ...]) -> HomeView:
    told, newest_ns = state.told.of(sites), state.newest_ns
    nodes = _nodes(told.fleet, told.limits, _hosts_now(told.lines, newest_ns))
    return HomeView(
        end=None if newest_ns is None else utc(newest_ns + _QUARTER_NS),
        figures=Figures() if newest_ns is None or told.lines.is_empty() else _figures(told, newest_ns),
        tree=nodes.filter(pl.col("kind") != "rack"),
        racks=nodes.filter(pl.col("kind") == "rack"),
        incidents=told.incidents,
        ahead=_ahead(told.limits),
        decisions=_decisions(told.advice, told.limits),
        sites=_sites(told.lines, newest_ns),
        standings=state.standings,
        newest_ns=state.reading_ns,
    )


# ------------------------------------------------------------------------------------------------------------- figures


def _midnight(end_ns: int) -> int:
    """When the day of the last quarter-hour began: it begins in that day, so midnight itself is of the day before."""
    return (end_ns - _QUARTER_NS) // (DAY_S * NS) * DAY_S * NS


def _since(lines: pl.DataFrame, start_ns: int) -> pl.DataFrame:
    return lines.filter(pl.col("time").to_physical() >= start_ns)


def _figures(told: _Told, newest_ns: int) -> Figures:
    lines, end_ns = told.lines, newest_ns + _QUARTER_NS
    day_ns, midnight_ns = end_ns - DAY_S * NS, _midnight(end_ns)
    now, day = _since(lines, newest_ns), _since(lines, day_ns)
    today = _since(lines, midnight_ns)
    power_w, accelerators_w = _power_now(now)
    held = day.filter(pl.col("device").is_not_null())
    length_s = max(min(DAY_S, (end_ns - int(day["time"].to_physical().min())) / NS), 1.0)  # type: ignore[arg-type]
    spans = {kind: float(held.filter(pl.col("kind") == kind)["span_s"].sum()) / length_s for kind in ("used", *_WASTED)}
    costs = told.costs
    wasted = costs.filter(pl.col("kind").is_in(_WASTED))
    waste_days = (end_ns - int(lines["time"].to_physical().min())) / NS / DAY_S  # type: ignore[arg-type]
    whole = wasted["fixed_cost"].null_count() == 0 and wasted.height > 0
    per_month = MONTH_DAYS / waste_days
    amount = pl.col("energy_cost") + (pl.col("fixed_cost") if whole else 0.0)
    pues = _pues(day)
    last = pl.col("time").to_physical() >= day_ns
    known_now = now.filter(pl.col("device").is_not_null() & pl.col("energy_j").is_not_null())
    joules = float(known_now["energy_j"].sum())
    active = spans["used"]
    return Figures(
        power_w=power_w,
        accelerators_w=accelerators_w,
        devices=held["device"].n_unique(),
        devices_now=known_now["device"].n_unique(),
        modelled_ratio=float(known_now["modelled_j"].sum()) / joules if joules else 0.0,
        today_j=column_sum(today, "energy_j"),
        today_cost=_money(_since(costs, midnight_ns), pl.col("energy_cost"), 1.0),
        joules_per_token=_per_token(told.tokens.filter(last)),
        joules_per_token_before=_per_token(told.tokens.filter(~last)),
        total=sum(spans.values()),
        allocated=spans["used"] + spans["idle"],
        active=active,
        effective=min(float(told.busy["busy_s"].sum()) / length_s, active) if told.busy.height else None,
        waste=_money(wasted, amount, per_month),
        waste_j=None if (found := column_sum(wasted, "energy_j")) is None else found * per_month,
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


def _busy(stored: Stored, start_ns: int, end_ns: int) -> pl.DataFrame:
    """Of each device the time in which more than half of its compute units were active, or it was as busy."""
    activity = pl.coalesce("activity_sm_mean_ratio", "utilization_mean_ratio")
    return (
        scan(stored.store(), "device_rollups", start_ns, end_ns, pl.col("window_s") == 300)
        .select("device", "time", "covered_s", activity=activity)
        .drop_nulls("activity")
        # Of several sources of a device the one that says most.
        .group_by("device", "time")
        .agg(pl.col("covered_s").max(), pl.col("activity").max())
        .group_by("device")
        .agg(busy_s=pl.col("covered_s").filter(pl.col("activity") > EFFECTIVE_RATIO).sum())
        .collect()
    )


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


# ---------------------------------------------------------------------------------------------------------- power tree


def _last(stored: Stored, table: str, key: str) -> pl.DataFrame:
    """The last word on each *key* of a table of states, as of the last time that anything was said."""
    rows = scan(stored.store(), table)
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


def _ahead(limits: pl.DataFrame) -> pl.DataFrame:
    """What runs out by itself, the first first; what only waits for another node goes with that one."""
    own = ~pl.col("binding").fill_null("").str.starts_with("power of ")
    return (
        limits.filter(pl.col("runway_p10").is_not_null() & own & (pl.col("kind") != "group"))
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
