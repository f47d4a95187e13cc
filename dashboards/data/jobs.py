"""What the pages of jobs show: all jobs of a window, and one job as its report has it, with its power over time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from analytics.boards import calibrated
from analytics.energy import over_time
from analytics.fleet import Fleet
from analytics.frames import by_device, latest, of_workload, scan
from analytics.frames_ledger import read_other_runs
from analytics.leagues import COUNTERS, league
from analytics.report import JobReport, job_report
from analytics.steps import readings
from dashboards.controls import Values
from dashboards.data.efficiency import Told, told_of
from dashboards.data.fleet import bucket_s
from dashboards.data.stored import NS, Stored, utc
from dashboards.selection import selection_of, span_of

OWNERS: Final = ("team", "user", "model")
USEFUL: Final = ("useful", "throttled")
"""Causes in which a device works, if more slowly than it could."""
_OF_JOB: Final = ("device_samples", "workload_samples", "host_samples", "facility_samples")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsView:
    """
    The jobs of a window that a choice lets through, the one that used most energy first.

    jobs: workload, name, user, team, model, devices, device_h, energy_j, power_mean_w (of one device), covered_ratio,
    useful_ratio (of its device-hours), wasted_j, worst (the cause that took most of its time), cost and currency (null
    without prices or in several currencies), tokens, joules_per_token, steps, joules_per_step, samples,
    joules_per_sample, start, end (null while it runs).
    """

    start: datetime
    end: datetime
    jobs: pl.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """
    One job.

    power: window, group (the device), power_mean_w, power_max_w. utilization: window, device, utilization_ratio. Both
    are of its devices from its start to its end, in windows of every_s.
    """

    report: JobReport
    start: datetime
    end: datetime
    every_s: int
    power: pl.DataFrame
    utilization: pl.DataFrame


def view(stored: Stored, values: Values) -> JobsView:
    """
    The jobs that the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    selection = selection_of(values)
    if selection.until is None:
        stored.want(selection.window)
    told = told_of(stored, selection)
    jobs = stored.kept(("jobs", told.key), lambda: _jobs(stored, told))
    for key in OWNERS:
        chosen = values.get(key)
        if isinstance(chosen, tuple) and chosen:
            jobs = jobs.filter(pl.col(key).is_in(chosen))
    return JobsView(start=told.start, end=told.end, jobs=jobs)


def known(stored: Stored, values: Values) -> dict[str, list[str]]:
    """What there is to choose from, by control: owners of whatever was allocated until then, models of the window."""
    store, (start_ns, end_ns) = stored.store(), span_of(selection_of(values), stored.now_ns())
    named = scan(store, "allocations", None, end_ns).select("team", "user").unique().collect()
    models = scan(store, "workload_samples", start_ns, end_ns).select("model").unique().collect()
    return {column.name: sorted(column.drop_nulls().unique()) for column in (*named, *models)}


def workloads(stored: Stored) -> list[str]:
    """All jobs that the store tells of, the latest first."""
    seen = latest(stored.store(), "allocations").group_by("workload").agg(pl.col("start").max())
    return seen.sort("start", descending=True).collect()["workload"].to_list()


def _jobs(stored: Stored, told: Told) -> pl.DataFrame:
    lines, runs = told.lines, told.runs
    hours, joules, cause = pl.col("span_s").sum() / 3600.0, pl.col("energy_j"), pl.col("cause")
    money = "currency" in lines.columns
    one = (pl.col("currency").n_unique() == 1) & (pl.col("energy_cost").null_count() == 0) if money else pl.lit(False)
    mine = lines.lazy().filter(pl.col("workload").is_not_null())
    useful = cause.is_in(USEFUL)
    used = mine.group_by("workload").agg(
        pl.col("name", "user", "team", "model").drop_nulls().last(),
        devices=pl.col("device").n_unique(),
        device_h=hours,
        energy_j=pl.when(joules.count() > 0).then(joules.sum()),
        power_mean_w=pl.when(pl.col("covered_s").sum() > 0).then(joules.sum() / pl.col("covered_s").sum()),
        covered_ratio=pl.col("covered_s").sum() / pl.col("span_s").sum(),
        useful_ratio=pl.col("span_s").filter(useful).sum() / pl.col("span_s").sum(),
        wasted_j=pl.when(joules.count() > 0).then(joules.filter(~useful).sum()),
        currency=pl.when(one).then(pl.col("currency").first()) if money else pl.lit(None, pl.String),
        cost=pl.when(one).then(pl.col("energy_cost").sum()) if money else pl.lit(None, pl.Float64),
    )
    worst = (
        mine.filter(~useful)
        .group_by("workload", worst="cause")
        .agg(lost_s=pl.col("span_s").sum())
        .sort("lost_s", "worst", descending=[True, False])
        .unique("workload", keep="first", maintain_order=True)
        .drop("lost_s")
    )
    held = latest(stored.store(), "allocations", None, told.end).group_by("workload").agg(
        pl.col("start").min(),
        end=pl.when(pl.col("end").null_count() == 0).then(pl.col("end").max()),
    )  # fmt: skip
    found = used.join(worst, on="workload", how="left").join(held, on="workload", how="left")
    for measure in COUNTERS:
        figures = league(runs.lazy(), per="workload", within=(), measure=measure)
        found = found.join(
            figures.select("workload", f"{measure}s", f"joules_per_{measure}"), on="workload", how="left"
        )
    return found.sort("energy_j", "workload", descending=[True, False], nulls_last=True).collect()


def job(stored: Stored, workload: str) -> JobView | None:
    """
    The job called *workload*; None where nothing was allocated to it.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    known_now = stored.version(("<allocations", "<devices", "<events", "calibrations"), None, None)
    span = stored.kept(("job span", workload, known_now), lambda: _span(stored, workload))
    if span is None:
        return None
    start_ns, end_ns = span
    key = ("job", workload, known_now, stored.version(_OF_JOB, start_ns, end_ns))
    return stored.kept(key, lambda: _job(stored, workload))


def _span(stored: Stored, workload: str) -> tuple[int, int | None] | None:
    """From when until when it held devices; no end while it runs."""
    mine = latest(stored.store(), "allocations").filter(pl.col("workload") == workload).collect()
    if mine.is_empty():
        return None
    ends = mine.select(pl.col("start").min().to_physical(), pl.col("end").max().to_physical()).row(0)
    return int(ends[0]), None if mine["end"].null_count() else int(ends[1]) + 1


def _job(stored: Stored, workload: str) -> JobView | None:
    store, fleet = stored.store(), stored.fleet() or Fleet()
    told = of_workload(store, workload)
    runs = read_other_runs(store, workload, told.workload_samples)
    report = job_report(workload, told, fleet=fleet, runs=runs)
    if report is None:
        return None
    start_ns, last_ns = report.seen_ns or (report.start_ns, report.end_ns or report.start_ns)
    every_s = bucket_s((last_ns - start_ns) / NS, devices=len(report.devices))
    start_ns = start_ns // (every_s * NS) * every_s * NS
    end_ns = -(-(last_ns + 1) // (every_s * NS)) * every_s * NS
    ids = [device.device for device in report.devices]
    parts = by_device(store, "device_samples", start_ns, min(end_ns, report.end_ns or end_ns), rows=stored.part_rows)
    known = told.devices
    rows = (readings(calibrated(part.filter(pl.col("device").is_in(ids)), known)).collect() for part in parts)
    found = over_time(rows, every_s=every_s, by=("fleet", "device"), within_ns=(start_ns, end_ns), devices=known)
    return JobView(
        report=report,
        start=utc(start_ns),
        end=utc(end_ns),
        every_s=every_s,
        power=found.power["device"],
        utilization=found.utilization,
    )
