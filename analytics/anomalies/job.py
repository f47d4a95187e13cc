"""The job that raises incidents; see `analytics.jobs.chain`."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from analytics.anomalies.causes import without_stalls_of_absence
from analytics.anomalies.findings import Stretch, columns_of, findings, windows_of
from analytics.anomalies.impact import impacts, with_impacts
from analytics.anomalies.incidents import OPEN, build, standing, subjects_of
from analytics.anomalies.places import Places
from analytics.anomalies.rows import frame_of, rows_before, rows_of
from analytics.anomalies.rules import LONGEST_QUIET_S, Rules, ThresholdRule
from analytics.fleet import Fleet
from analytics.inventory import device_types
from analytics.jobs.job import Window
from collector.moments import NS


def incidents(frames: Mapping[str, pl.LazyFrame], window: Window, fleet: Fleet, rules: Rules) -> pl.DataFrame:
    """
    What is wrong: what was seen within the window, and what was open before and is no longer.

    Out: the table incidents, one row for each incident of which the window has something to tell.
    """
    start_ns, until_ns = window.start_ns, window.until_ns
    tdp = device_types(frames["devices"], fleet).select("device", "tdp_w")
    wanted = [
        "device",
        "time",
        "window_s",
        "host",
        "source",
        "rows",
        *sorted(columns_of(rules.of(ThresholdRule)) - {"tdp_w"}),
    ]
    windows = (
        windows_of(frames["device_rollups"].select(sorted(wanted)))
        .join(tdp, on="device", how="left", maintain_order="left")
        .collect()
        .lazy()
    )
    devices = frames["devices"].sort("time").unique("device", keep="last", maintain_order=True).collect()
    partitions = set(devices.filter(pl.col("parent").is_not_null())["device"])
    # Long resolved, an incident comes back as another one.
    since_ns = start_ns - round(LONGEST_QUIET_S * NS)
    before = [row for row in rows_before(frames["incidents"]) if row["state"] == OPEN or row["last"] >= since_ns]
    found = findings(
        rules,
        windows=windows,
        workload_rollups=frames["workload_rollups"],
        events_found=frames["events"],
        anomaly_scores=frames["anomaly_scores"],
        headroom=frames["headroom"],
        partitions=partitions,
        until_ns=until_ns,
        now_ns=window.now_ns,
        standing=standing(before),
    )
    found = without_stalls_of_absence(found, frames["allocations"], until_ns)
    places = Places(_hosts(windows, devices, before, found, partitions), fleet)
    raised = build(found, rules, places, before=before, start_ns=start_ns)
    cost = impacts(
        raised,
        rules,
        places,
        fleet,
        device_energy=frames["device_energy"],
        job_energy=frames["job_energy"],
        efficiency=frames["efficiency"],
        facility_samples=frames["facility_samples"],
        start_ns=start_ns,
        until_ns=until_ns,
    )
    return frame_of(with_impacts(rows_of(raised, rules, places, start_ns=start_ns, until_ns=until_ns), cost, before))


def _hosts(
    windows: pl.LazyFrame,
    devices: pl.DataFrame,
    before: Iterable[Mapping[str, Any]],
    found: Iterable[Stretch],
    partitions: set[str],
) -> dict[str, str]:
    """The host of each whole device that is there now: seen within a day, or the subject of something."""
    told = dict(devices.select("device", "host").drop_nulls().iter_rows())
    open_now = (place.name for row in before if row["state"] == OPEN for place in subjects_of(row))
    hosts = {name: told[name] for name in open_now if name in told}
    hosts |= {stretch.name: stretch.host for stretch in found if stretch.scope == "device" and stretch.host}
    seen = windows.group_by("device").agg(pl.col("host").drop_nulls().last()).drop_nulls().collect()
    hosts |= dict(seen.iter_rows())
    return {device: host for device, host in hosts.items() if device not in partitions}
