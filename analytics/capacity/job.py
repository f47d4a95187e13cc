"""The job of capacity: what is left at each node of the power tree, until when, and what to do about it."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import polars as pl

from analytics.attribution import measured_pue
from analytics.capacity.assessment import Assessment, assess, nodes
from analytics.capacity.ledger import ledger, smallest_server
from analytics.capacity.load import device_minutes, minutes_of
from analytics.capacity.paths import daily_peaks, paths
from analytics.fleet import Fleet
from analytics.frames import over_devices
from analytics.jobs.job import NS, Window
from analytics.planning.decisions import decisions
from collector.errors import NotEnoughData

_MINUTE_NS: Final = 60 * NS


def capacity(frames: Mapping[str, Any], window: Window, fleet: Fleet) -> dict[str, pl.DataFrame]:
    """
    Headroom and runway of each node (`analytics.capacity.assessment`), where power is stranded (`ledger`), and what to
    do (`analytics.planning.decisions`).

    Out: the tables headroom, stranded and recommendations, as of the last whole minute that is known of the window.

    Raises: NotEnoughData (no site in fleet.toml, or none with enough days of power).
    """
    if not fleet.sites:
        raise NotEnoughData("fleet.toml describes no site, so there is no power tree to look at")
    known = frames["devices"]
    partitions = known.filter(pl.col("parent").is_not_null()).select("device").unique().collect()["device"].to_list()
    devices = over_devices(partial(device_minutes, partitions=partitions), frames["device_samples"])
    first_ns = devices["time"].to_physical().min()
    start_ns = window.start_ns if first_ns is None else int(first_ns)  # type: ignore[arg-type]
    end_ns = window.until_ns // _MINUTE_NS * _MINUTE_NS
    told = minutes_of(
        devices, frames["host_samples"], frames["facility_samples"], known, start_ns=start_ns, end_ns=end_ns
    )
    pue = dict(measured_pue(frames["facility_samples"]).select("site", "pue").collect().iter_rows())
    found = assess(fleet, told, pue=pue)
    sku = smallest_server(fleet)
    ahead = _ahead(found)
    rows = nodes(found, sku=sku, paths=ahead)
    moment = pl.lit(max(window.start_ns, end_ns - _MINUTE_NS)).cast(pl.Datetime("ns"))
    made = {
        "headroom": rows,
        "stranded": pl.concat(ledger(one, sku) for one in found.surveys).with_columns(
            sku=pl.lit(None if sku is None else sku.name, pl.String)
        ),
        "recommendations": decisions(found, rows, sku=sku, paths=ahead, pue=pue),
    }
    return {table: frame.with_columns(time=moment) for table, frame in made.items()}


def _ahead(found: Assessment) -> dict[str, pl.DataFrame]:
    """Sample paths of the sites of which enough days are known; without them there is no runway."""
    ahead = {}
    for one in found.surveys:
        try:
            ahead[one.tree.site.name] = paths(daily_peaks(one))
        except NotEnoughData:
            continue  # headroom is told all the same
    return ahead
