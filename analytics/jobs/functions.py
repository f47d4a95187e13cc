"""The jobs of energy: windows of a quarter-hour, because tariffs and demand go by quarter-hours."""

from collections.abc import Mapping
from typing import Final

import polars as pl

from analytics.attribution import attribute, facility_lines, host_lines, measured_pue, named
from analytics.cost import PRICED_S
from analytics.efficiency import efficiency as efficiency_of
from analytics.energy import energy
from analytics.fleet import Fleet
from analytics.frames import schema
from analytics.inventory import held
from analytics.jobs.job import Window
from collector.store.derived import DEVICE_ENERGY, EFFICIENCY, JOB_ENERGY
from collector.store.table import Table

Frames = Mapping[str, pl.LazyFrame]

BY: Final = f"{PRICED_S:g}s"


def device_energy(frames: Frames, window: Window) -> pl.LazyFrame:
    """Energy of each device; see `analytics.energy.energy`."""
    found = energy(frames["device_samples"], by=BY, devices=frames["devices"])
    return _windows(found, window, DEVICE_ENERGY)


def job_energy(frames: Frames, window: Window, fleet: Fleet) -> pl.LazyFrame:
    """Lines of energy by whose it was, hosts and facilities included; see `analytics.attribution.attribute`."""
    samples, devices = frames["device_samples"], frames["devices"]
    lines = attribute(samples, _held(frames, window), devices=devices, by=BY)
    above = host_lines(samples, frames["host_samples"], devices=devices, by=BY)
    lines = pl.concat([_inside(lines, window), _inside(above, window)]).collect().lazy()
    hosts = fleet.site_of(lines.select("host").drop_nulls().unique().collect()["host"])
    pue = dict(measured_pue(frames["facility_samples"]).select("site", "pue").collect().iter_rows())
    lines = pl.concat([lines, facility_lines(lines, hosts, {**pue, **fleet.pue})], how="diagonal")
    site = pl.coalesce("site", pl.col("host").replace_strict(hosts, default=None, return_dtype=pl.String))
    told = named(lines.with_columns(site=site), frames["workload_samples"], None)
    return _windows(told, window, JOB_ENERGY)


def efficiency(frames: Frames, window: Window) -> pl.LazyFrame:
    """Energy and work of each workload; see `analytics.efficiency.efficiency`."""
    found = efficiency_of(
        frames["device_samples"],
        frames["workload_samples"],
        _held(frames, window),
        by=BY,
        devices=frames["devices"],
    )
    return _windows(found, window, EFFICIENCY)


def _held(frames: Frames, window: Window) -> pl.LazyFrame:
    return held(frames["allocations"], None, window.until_ns)


def _inside(found: pl.LazyFrame, window: Window) -> pl.LazyFrame:
    start, end = (pl.lit(moment).cast(pl.Datetime("ns")) for moment in (window.start_ns, window.end_ns))
    return found.filter(pl.col("window").is_between(start, end, closed="left"))


def _windows(found: pl.LazyFrame, window: Window, table: Table) -> pl.LazyFrame:
    """What lies within *window*, as *table* has it."""
    length = pl.lit(round(PRICED_S), pl.Int32)
    told = _inside(found, window).rename({"window": "time"}).with_columns(window_s=length)
    known = set(told.collect_schema().names())
    return told.select(pl.col(name).cast(kind) for name, kind in schema(table).items() if name in known)
