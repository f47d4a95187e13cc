"""What several commands and pages read of a store before they say anything: the ledger, runs, prices."""

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from analytics.attribution import attribute
from analytics.boards import with_meters
from analytics.cost import priced, rates
from analytics.efficiency import efficiency
from analytics.fleet import Fleet
from analytics.frames import boards, by_device, over_devices, scan
from analytics.inventory import device_types, held
from analytics.leagues import WINDOW, runs
from analytics.ledger import EFFECTIVE_RATIO, ledger, ledger_in_parts
from analytics.report import other_runs
from analytics.waste import placed
from collector.store import Store

BY: Final = "15m"
"""The windows of the ledger: tariffs go by quarter-hours."""
OTHER_RUNS: Final = 20
"""Other runs of a model that are worked out where no job has done so."""
_NS: Final = 1_000_000_000


class Told(NamedTuple):
    """The lines of the ledger of a window with places, types and, where there are prices, costs; its length."""

    lines: pl.LazyFrame
    length_s: float


def read_ledger(
    store: Store | Path | str,
    start_ns: int | None,
    end_ns: int | None,
    *,
    fleet: Fleet,
    effective_ratio: float = EFFECTIVE_RATIO,
    max_gap_s: float | None = None,
    parts: Sequence[pl.LazyFrame] | None = None,
) -> Told:
    """
    The ledger of what there is in [start_ns, end_ns), for `analytics.waste.waste` and `funnel`.

    *parts* are the readings in the place of those of the store, such as `analytics.frames.by_slot` gives them.
    Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    window = (start_ns, end_ns)
    first_ns, last_ns = seen(opened, start_ns, end_ns)
    known = boards(opened)
    types = device_types(known, fleet).collect().lazy()
    allocations, hosts_read = read_held(opened, start_ns, end_ns), scan(opened, "host_samples", *window)
    inside = known.filter(pl.col("parent").is_not_null()).select("device").unique().collect().to_series()
    of_partitions = None
    if len(inside):
        of_partitions = scan(opened, "device_samples", *window, pl.col("device").is_in(inside.implode()))

    def of_part(part: pl.LazyFrame, events: pl.LazyFrame) -> pl.LazyFrame:
        return ledger(
            part, allocations, devices=known, types=types, partition_samples=of_partitions, events=events,
            host_samples=hosts_read, since_ns=first_ns, until_ns=last_ns, by=BY, effective_ratio=effective_ratio,
            max_gap_s=max_gap_s,
        )  # fmt: skip

    events = scan(opened, "events", None, end_ns)
    lines = ledger_in_parts(parts or by_device(opened, "device_samples", *window), events, of_part).lazy()
    hosts = fleet.site_of(lines.select("host").drop_nulls().unique().collect()["host"])
    lines, work = with_meters(lines, known), scan(opened, "workload_samples", *window)
    told = placed(lines, hosts=hosts, types=types, workload_samples=work).collect().lazy()
    if fleet.sites or fleet.skus:
        told = priced(told, read_rates(opened, fleet, told), known, fleet).collect().lazy()
    return Told(told, (last_ns - first_ns) / _NS)


def read_runs(
    store: Store | Path | str,
    start_ns: int | None,
    end_ns: int | None,
    *,
    fleet: Fleet,
    max_gap_s: float | None = None,
    parts: Sequence[pl.LazyFrame] | None = None,
) -> pl.LazyFrame:
    """
    What devices did for whom in [start_ns, end_ns), for `analytics.leagues.league`; *parts* as for `read_ledger`.

    Raises: StoreError.
    """
    window = (start_ns, end_ns)
    known = boards(store)
    allocations = read_held(store, start_ns, end_ns)
    of_part = partial(attribute, allocations=allocations, devices=known, by=WINDOW, max_gap_s=max_gap_s)
    lines = over_devices(of_part, parts or by_device(store, "device_samples", *window))
    return runs(
        lines.lazy(),
        scan(store, "workload_samples", *window),
        devices=known,
        types=device_types(known, fleet),
        hosts=fleet.site_of(lines["host"].drop_nulls().unique()),
    )


def read_rates(store: Store | Path | str, fleet: Fleet, lines: pl.LazyFrame) -> pl.LazyFrame:
    """
    The prices of the windows of *lines*, from the store's series and the fleet.

    Raises: StoreError.
    """
    windows = lines.select(pl.col("window").cast(pl.Datetime("us")).unique().sort()).collect()["window"].to_list()
    if not windows:
        return rates(fleet, windows)
    # A price published in the hour before still holds.
    first, last = windows[0] - timedelta(hours=1), windows[-1] + timedelta(minutes=15)
    return rates(fleet, windows, scan(store, "facility_samples", first, last))


def read_held(store: Store | Path | str, start_ns: int | None, end_ns: int | None) -> pl.LazyFrame:
    """
    The allocations that hold in [start_ns, end_ns), cut to it; one that began before may.

    Raises: StoreError.
    """
    told = scan(store, "allocations", None, end_ns)
    return held(told, start_ns, end_ns or time.time_ns()).collect().lazy()


def read_other_runs(store: Store | Path | str, workload: str, own: pl.LazyFrame) -> pl.LazyFrame | None:
    """
    Other runs of the model of *own* (the workload's samples), for `analytics.report.job_report`; None without a model.

    As the job of efficiency worked them out, else the latest few of them, from samples.
    Raises: StoreError.
    """
    models = own.select("model").drop_nulls().unique().collect().to_series()
    if models.is_empty():
        return None
    same = pl.col("model").is_in(models.implode())
    devices, allocations = boards(store), scan(store, "allocations").collect().lazy()
    derived = scan(store, "efficiency", where=same).collect()
    if not derived.is_empty():
        return other_runs(derived.lazy(), allocations, devices)
    told = scan(store, "workload_samples", where=same & (pl.col("workload") != workload))
    times = told.group_by("workload").agg(first=pl.col("time").min(), last=pl.col("time").max())
    others = times.sort("last").tail(OTHER_RUNS).collect()
    if others.is_empty():
        return None
    names = pl.col("workload").is_in(others["workload"].implode())
    start, end = (int(others[name].to_physical().sort()[at]) for name, at in (("first", 0), ("last", -1)))
    holding = held(allocations.filter(names), start, end + 1).collect().lazy()
    of = pl.col("device").is_in(holding.select("device").unique().collect().to_series().implode())
    samples = scan(store, "device_samples", start, end + 1, of)
    work = scan(store, "workload_samples", start, end + 1, names)
    return other_runs(efficiency(samples, work, holding, devices=devices), allocations, devices)


def seen(store: Store | Path | str, start_ns: int | None, end_ns: int | None) -> tuple[int, int]:
    """
    [start_ns, end_ns) as far as there are samples: nanoseconds since 1970.

    Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    segments = opened.segments("device_samples", start_ns, end_ns)
    if not segments:
        return start_ns or 0, start_ns or 0
    first, last = min(s.first_ns for s in segments), max(s.last_ns for s in segments)
    return max(first, start_ns or first), min(last, end_ns or last)
