"""What the Efficiency page shows: where devices, watts and money went, and who does the same for fewer joules."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final, cast

import polars as pl

from analytics.fleet import Fleet
from analytics.frames import by_slot
from analytics.frames_ledger import read_ledger, read_runs
from analytics.leagues import Axis, Key, Measure, alike, league, pareto
from analytics.slots import SLOT_S
from analytics.waste import funnel, over_windows, waste
from dashboards.controls import Values
from dashboards.data.stored import NS, Stored, utc
from dashboards.selection import Selection, selection_of, span_of

PER: Final[dict[str, Key]] = {
    "type": "sku",
    "model": "model",
    "driver": "driver_version",
    "framework": "framework",
    "team": "team",
    "site": "site",
}
"""What a league is of, as the page calls it."""
AGAINST: Final[dict[str, Axis]] = {"throughput": "throughput", "first token": "first_token", "p99 latency": "p99"}
"""What a front has against joules."""
MEASURES: Final[tuple[Measure, ...]] = ("token", "sample", "step")
LONGEST_READ_S: Final = 86_400
"""A window that is longer is worked out from rollups, as far as there are any."""
_TABLES: Final = (
    "device_samples", "workload_samples", "host_samples", "facility_samples", "<devices", "<allocations", "<events",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyView:
    """
    A window of a selection.

    funnel: as `analytics.waste.funnel`, of the whole. waste: as `analytics.waste.waste`, by cause. funnel_cost and
    waste_cost: the same by currency, where there are prices (else empty). league: as `analytics.leagues.pareto` of
    `per` within `within`; `measure` and `axis` are what it was asked for. slot_s: as of `Told`.
    """

    start: datetime
    end: datetime
    length_s: float
    slot_s: int | None
    funnel: pl.DataFrame
    funnel_cost: pl.DataFrame
    waste: pl.DataFrame
    waste_cost: pl.DataFrame
    league: pl.DataFrame
    per: Key
    within: tuple[Key, ...]
    measure: Measure
    axis: Axis


@dataclass(frozen=True, slots=True)
class Told:
    """
    A window of the store, whatever is chosen of it: what takes long.

    lines: of the ledger, as `analytics.frames_ledger.read_ledger` gives them, over its windows. runs: as `read_runs`
    does. length_s: of the window, as far as there are samples. slot_s: how long the means are that it is worked out
    from; None where those are readings. key: what changes when any of it does.
    """

    key: object
    start: datetime
    end: datetime
    lines: pl.DataFrame
    runs: pl.DataFrame
    length_s: float
    slot_s: int | None


def view(stored: Stored, values: Values) -> EfficiencyView:
    """
    What the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    selection = selection_of(values)
    if selection.until is None:
        stored.want(selection.window)
    told = told_of(stored, selection)
    chosen = [pl.col("site").is_in(selection.sites)] if selection.sites else []
    chosen += [pl.col("host").is_in(selection.hosts)] if selection.hosts else []
    lines, runs = told.lines.lazy().filter(*chosen), told.runs.lazy().filter(*chosen)
    per, axis = PER[str(values["by"])], AGAINST[str(values["against"])]
    measure, within = cast("Measure", values["measure"]), alike(PER[str(values["by"])])
    priced = "currency" in told.lines.columns
    of_hosts = (told.key, tuple(sorted(selection.sites)), tuple(sorted(selection.hosts)))
    # Whatever the league is of, this is the same.
    lost = stored.kept(("lost", *of_hosts), lambda: _lost(lines, told.length_s or 1.0, priced=priced))
    return EfficiencyView(
        start=told.start,
        end=told.end,
        length_s=told.length_s,
        slot_s=told.slot_s,
        funnel=lost[0],
        funnel_cost=_priced(lost[1]) if priced else pl.DataFrame(),
        waste=lost[2],
        waste_cost=_priced(lost[3]) if priced else pl.DataFrame(),
        league=pareto(
            league(runs, per=per, within=within, measure=measure), axis=axis, measure=measure, within=within
        ).collect(),
        per=per,
        within=within,
        measure=measure,
        axis=axis,
    )


def _lost(lines: pl.LazyFrame, length_s: float, *, priced: bool) -> list[pl.DataFrame]:
    """Funnel, funnel by currency, waste, waste by currency; without prices the second is the first."""
    plain = lines.drop("currency", strict=False)
    costed = lines if priced else plain
    # At once: what they have in common is worked out once, the rest on all cores.
    return pl.collect_all(
        [funnel(plain, length_s=length_s), funnel(costed, length_s=length_s), waste(plain), waste(costed)]
    )


def told_of(stored: Stored, selection: Selection) -> Told:
    """
    What the window of *selection* holds, whatever else it says.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    span = span_of(selection, stored.now_ns())
    key = ("efficiency", span, stored.version(_TABLES, *span), stored.version(("calibrations",), None, None))
    return stored.kept(key, lambda: _read(stored, key, *span))


def _read(stored: Stored, key: object, start_ns: int, end_ns: int) -> Told:
    store, fleet = stored.store(), stored.fleet() or Fleet()
    slots = by_slot(store, start_ns, end_ns) if end_ns - start_ns > LONGEST_READ_S * NS else None
    gap_s = None if slots is None else float(SLOT_S)
    # Each reads the samples for itself, on a core of its own.
    with ThreadPoolExecutor(2) as pool:
        ledger = pool.submit(read_ledger, store, start_ns, end_ns, fleet=fleet, max_gap_s=gap_s, parts=slots)
        found = read_runs(store, start_ns, end_ns, fleet=fleet, max_gap_s=gap_s, parts=slots).collect()
        lines, length_s = ledger.result()
        summed = over_windows(lines).collect()
    return Told(
        key=key, start=utc(start_ns), end=utc(end_ns), lines=summed, runs=found, length_s=length_s,
        slot_s=None if slots is None else SLOT_S,
    )  # fmt: skip


def _priced(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("currency").is_not_null() & pl.col("cost").is_not_null())
