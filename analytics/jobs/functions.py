"""The job of energy: windows of a quarter-hour, because tariffs and demand go by quarter-hours."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from analytics.attribution import account, facility_lines, measured_pue, named
from analytics.boards import with_calibrations
from analytics.cost import PRICED_S
from analytics.fleet import Fleet
from analytics.frames import schema
from analytics.inventory import held
from analytics.jobs.job import Window
from collector.store.derived import DEVICE_ENERGY, EFFICIENCY, JOB_ENERGY
from collector.store.table import Table

BY: Final = f"{PRICED_S:g}s"


def energy(frames: Mapping[str, Any], window: Window, fleet: Fleet) -> dict[str, pl.DataFrame]:
    """
    Energy of each device, whose it was (hosts and facilities included) and what it brought, in one pass over samples.

    See `analytics.attribution.account`.
    """
    samples: list[pl.LazyFrame] = frames["device_samples"]
    work, devices = frames["workload_samples"], with_calibrations(frames["devices"], frames["calibrations"])
    allocations = held(frames["allocations"], None, window.until_ns)
    found = account(
        samples,
        allocations,
        devices=devices,
        host_samples=frames["host_samples"],
        workload_samples=work,
        windows=BY,
        by=BY,
    )
    assert found.workloads is not None
    lines = _whose(_inside(found.lines.lazy(), window), frames["facility_samples"], work, fleet)
    told = {DEVICE_ENERGY: found.windows.lazy(), JOB_ENERGY: lines, EFFICIENCY: found.workloads.lazy()}
    return {table.name: _windows(frame, window, table).collect() for table, frame in told.items()}


def _whose(lines: pl.LazyFrame, facility: pl.LazyFrame, work: pl.LazyFrame, fleet: Fleet) -> pl.LazyFrame:
    """The lines with their sites and models, and what facilities drew beyond."""
    hosts = fleet.site_of(lines.select("host").drop_nulls().unique().collect()["host"])
    pue = dict(measured_pue(facility).select("site", "pue").collect().iter_rows())
    whole = pl.concat([lines, facility_lines(lines, hosts, {**pue, **fleet.pue})], how="diagonal")
    site = pl.coalesce("site", pl.col("host").replace_strict(hosts, default=None, return_dtype=pl.String))
    return named(whole.with_columns(site=site), work, None)


def _inside(found: pl.LazyFrame, window: Window) -> pl.LazyFrame:
    start, end = (pl.lit(moment).cast(pl.Datetime("ns")) for moment in (window.start_ns, window.end_ns))
    return found.filter(pl.col("window").is_between(start, end, closed="left"))


def _windows(found: pl.LazyFrame, window: Window, table: Table) -> pl.LazyFrame:
    """What lies within *window*, as *table* has it."""
    length = pl.lit(round(PRICED_S), pl.Int32)
    told = _inside(found, window).rename({"window": "time"}).with_columns(window_s=length)
    known = set(told.collect_schema().names())
    return told.select(pl.col(name).cast(kind) for name, kind in schema(table).items() if name in known)
