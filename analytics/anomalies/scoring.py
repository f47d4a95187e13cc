"""
The job that scores: how odd devices and workloads were beside their past, their peers and what explains them.

A window is judged by what was learned from the days before it. Of the scores those are kept that are in the odd tail,
which is what incidents are made of; what was expected is kept by the hour.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from analytics.anomalies.calibration import FEWEST_HOURS, LEVEL_S, ODD_P, ODD_RATIO, judged
from analytics.anomalies.detector import Detector
from analytics.anomalies.expectation import Expectation
from analytics.anomalies.findings import STEP_S
from analytics.anomalies.learned import learned, tried
from analytics.anomalies.observations import FEATURES, OF_WORKLOAD, device_windows, workload_windows
from analytics.anomalies.peers import Peers
from analytics.fleet import Fleet
from analytics.frames import each_part, schema
from analytics.jobs.job import HOUR_NS, NS, Window
from collector.errors import NotEnoughData
from collector.store.derived import ANOMALY_SCORES, EXPECTATIONS

PAST_S: Final = LEVEL_S
"""So long before a window counts as recent."""
HOURS: Final = 12
"""Hours of the past that must be known: half a day has quiet and busy times."""
PAST_ROWS: Final = 40_000
"""Windows of the past that are looked at, evenly over time."""
KEPT_P: Final = 0.05
"""What is less odd is not kept."""
PEER_METRICS: Final = {
    "power_w": "group", "temperature_c": "group", "clock_sm_hz": "group", "resistance_c_per_w": "air",
}  # fmt: skip
"""What peers are compared by, and of which group they are."""
SLOW_METRICS: Final = ("resistance_c_per_w",)
"""What is compared by the hour, too: what creeps is below the noise of five minutes."""
BATCH: Final = ("busy_ratio", "clock_ratio", "limit_ratio")
"""What the throughput of a run is expected from. How busy it is beyond that comes of how fast it is."""
SERVICE: Final = (*BATCH, "sm_ratio", "dram_ratio", "memory_ratio")
"""What a service is expected to make is what it is asked, which shows in what its devices do for it."""
SERVICE_HOURS: Final = 22
"""Hours of a service that must be known: nearly a day, of which the quietest are a part."""
QUIETEST: Final = 0.05
"""A service is judged when it is no quieter than all but this share of its past: of fewer trees have no leaf."""
DRIFT_RATIO: Final = 0.03
"""By the hour noise is less, so what is off by so much is no part of what is normal."""
BUSY_RATIO: Final = 0.2
"""A workload is expected to make no less for being idler than this: that its devices idle explains nothing."""
HOUR_S: Final = HOUR_NS // NS
_USUAL_S: Final = 24 * 3600
_TOLD: Final = (
    "subject", "scope", "time", "host", "kind", "work", "workload", "group", "value", "normal", "covered_ratio",
)  # fmt: skip
"""What is told of a window beside what it was judged by."""


class Look(NamedTuple):
    """Windows of one metric and kind, with `value` (and `base`), and the detector that looks at them."""

    detector: Expectation | Peers
    metric: str
    kind: str
    windows: pl.DataFrame
    step_s: int = STEP_S

    @property
    def model(self) -> str:
        """What its detector is called among the models."""
        return f"{self.detector.name}/{self.metric}/{self.kind}"


def anomaly_scores(
    frames: Mapping[str, pl.LazyFrame], window: Window, fleet: Fleet, root: Path
) -> dict[str, pl.DataFrame]:
    """
    How odd each device and workload was, in windows of five minutes, and what was expected of it by the hour.

    In:  device_rollups and workload_rollups of `PAST_S` before the window too, and anomaly_scores of then: what was odd
         is not what is normal; allocations; devices.
    Out: the tables anomaly_scores (of p-values up to `KEPT_P`) and expectations.

    The expectations are versions of models in the store of *root*; see `analytics.anomalies.learned`.

    Raises: NotEnoughData (less than `HOURS` hours of windows before), StoreError.
    """
    known = _known(frames["anomaly_scores"])
    devices, hours_of = (
        _without_known(
            device_windows(
                _thinned(frames["device_rollups"], window, step_s), frames["allocations"], frames["devices"], fleet,
                until_ns=window.until_ns, step_s=step_s,
            ),
            known,
        )
        for step_s in (STEP_S, HOUR_S)
    )  # fmt: skip
    empty = {table.name: pl.DataFrame(schema=schema(table)) for table in (ANOMALY_SCORES, EXPECTATIONS)}
    time = devices["time"].to_physical()
    if not (time >= window.start_ns).any():
        return empty
    hours = (time.filter(time < window.start_ns) // HOUR_NS).n_unique()
    if hours < HOURS:
        raise NotEnoughData(f"{hours} hours of windows in the days before; {HOURS} are needed to know what is normal")
    workloads = _without_known(workload_windows(frames["workload_rollups"], devices), known)
    looks = [*_of_devices(devices), *_of_hours(hours_of), *_of_workloads(workloads, window.start_ns)]
    known_of = [one for look in looks for one in _learned(look, window, root)]
    # What is judged is independent of one another, and one core is as long at it as the whole fleet's energy is on two.
    found = each_part(lambda one: _judged(one.detector, one.look, window), known_of)
    for one, scores in zip(known_of, found, strict=True):
        if one.candidate is not None:
            candidates = _judged(one.candidate, one.look, window)
            tried(root, one.look.model, one.candidate, one.past, window, scores, candidates)
    told = [_as_rows(one, scores) for one, scores in zip(known_of, found, strict=True) if scores.height]
    if not told:
        return empty
    whole = pl.concat(told)
    odd = _unlike_peers(whole).filter(pl.col("p_value") <= KEPT_P).select(schema(ANOMALY_SCORES).names())
    return {ANOMALY_SCORES.name: odd, EXPECTATIONS.name: _hourly(whole)}


def _unlike_peers(scores: pl.DataFrame) -> pl.DataFrame:
    """
    *scores* without what is expected of devices otherwise, where those that hold the same workload do as they do: where
    a device is not odd among them, or by less than boards differ.

    Readings of activity beat with the steps of a run: read at the same place of each step for hours they tell of more,
    or less, than there is, while the power of all devices is what it always is.
    """
    power = (pl.col("metric") == "power_w") & (pl.col("window_s") == STEP_S)
    near = (pl.col("observed") / pl.col("expected_mid") - 1).abs() < ODD_RATIO
    of_peers = power & (pl.col("detector") == "peers") & pl.col("of_workload")
    alike = scores.filter(of_peers & (near | (pl.col("p_value") > KEPT_P)))
    keys = ["subject", "time"]
    expected = power & (pl.col("detector") == "expectation")
    told = scores.filter(expected).join(alike, on=keys, how="anti", maintain_order="left")
    return pl.concat([scores.filter(~expected), told])


def _thinned(rollups: pl.LazyFrame, window: Window, step_s: int) -> pl.LazyFrame:
    """The windows of the past as many as are needed; those of the window all."""
    time = pl.col("time").to_physical()
    of_step = rollups.filter(pl.col("window_s") == step_s)
    past = of_step.filter(time < window.start_ns).select(pl.len()).collect().item()
    # At least one of each hour, of which levels are.
    stride = min(-(-past // PAST_ROWS), HOUR_S // step_s) or 1
    return of_step.filter((time >= window.start_ns) | (time // (step_s * NS) % stride == 0))


def _known(scores: pl.LazyFrame) -> pl.DataFrame:
    """The windows in which a subject was found to be odd, by whatever detector: subject, time, window_s."""
    off = (pl.col("observed") / pl.col("expected_mid") - 1).abs()
    odd = scores.filter((pl.col("p_value") <= ODD_P) & (off >= ODD_RATIO))
    return odd.select("subject", "time", "window_s").unique().collect()


def _without_known(windows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Windows that were found to be odd before are not normal, nor are those within an hour that was."""
    hour = pl.col("time").dt.truncate("1h").alias("hour")
    hours = known.filter(pl.col("window_s") == HOUR_S).select("subject", hour, of_hour=True).unique(["subject", "hour"])
    told = windows.with_columns(hour).join(hours, on=["subject", "hour"], how="left", maintain_order="left")
    exact = known.select("subject", "time", of_window=True).unique(["subject", "time"])
    told = told.join(exact, on=["subject", "time"], how="left", maintain_order="left")
    odd = pl.col("of_hour").is_not_null() | pl.col("of_window").is_not_null()
    return told.with_columns(normal=pl.col("normal") & ~odd).drop("hour", "of_hour", "of_window")


def _of_devices(windows: pl.DataFrame) -> Iterator[Look]:
    """What is looked at of devices, type by type: what one type does tells nothing of another."""
    for (kind,), some in windows.partition_by("kind", as_dict=True).items():
        of_power = some.with_columns(value=pl.col("power_w"), base=pl.lit(1.0))
        yield Look(Expectation(features=tuple(FEATURES)), "power_w", kind, of_power)
        for metric, group in PEER_METRICS.items():
            yield Look(Peers(), metric, kind, some.with_columns(value=pl.col(metric), group=pl.col(group)))


def _of_hours(windows: pl.DataFrame) -> Iterator[Look]:
    """What is looked at of devices by the hour."""
    for (kind,), some in windows.partition_by("kind", as_dict=True).items():
        for metric in SLOW_METRICS:
            told = some.with_columns(value=pl.col(metric), group=pl.col(PEER_METRICS[metric]))
            yield Look(Peers(), metric, kind, told, HOUR_S)


def _of_workloads(windows: pl.DataFrame, start_ns: int) -> Iterator[Look]:
    """What is looked at of workloads, by the types of device that they run on, and by whether they answer requests."""
    for (kind, serves), some in _of_their_usual(windows, start_ns).partition_by("kind", "serves", as_dict=True).items():
        told, name = (SERVICE, f"{kind} services") if serves else (BATCH, kind)
        yield Look(Expectation(features=told), "tokens_per_s", name, some)


def _of_their_usual(windows: pl.DataFrame, start_ns: int) -> pl.DataFrame:
    """
    Windows of workloads with what they usually make (`base`), and what they do as a share of what they usually do.

    What is usual of a run is the median of its last day, as far as there is one. A service follows the day: what is
    usual of it must be the same at night as at noon, and so is the median of all that is known from before *start_ns*.
    """
    usual = {
        "base": "tokens_per_s", "busy": "utilization_ratio", "clock": "clock_sm_hz", "limit": "power_limit_w",
        "sm": "activity_sm_ratio", "dram": "activity_dram_ratio", "memory": "utilization_memory_ratio",
    }  # fmt: skip
    past = (pl.col("time").to_physical() < start_ns) & pl.col("normal").fill_null(True)
    hours = pl.col("time").filter(past).dt.truncate("1h").n_unique().over("subject")
    median = {
        name: pl.when(pl.col("serves"))
        .then(pl.when(hours >= SERVICE_HOURS).then(pl.col(column).filter(past).median().over("subject")))
        .otherwise(
            pl.col(column)
            .rolling_median_by("time", window_size=f"{_USUAL_S}s", closed="left", min_samples=HOUR_S // STEP_S)
            .over("subject")
        )
        for name, column in usual.items()
    }
    of_usual = {
        f"{name}_ratio": pl.col(column) / pl.col(name) for name, column in usual.items() if name in ("clock", "limit")
    } | {f"{name}_ratio": _at_least(pl.col(usual[name]) / pl.col(name)) for name in ("busy", "sm", "dram", "memory")}
    # Quieter than it was before nothing has been learned of a service, and trees go no further than what they saw.
    activity = [pl.col(usual[name]) for name in ("busy", "sm", "dram", "memory")]
    quiet = [one < one.filter(past).quantile(QUIETEST).over("subject") for one in activity]
    unseen = pl.col("serves") & pl.any_horizontal(one.fill_null(False) for one in quiet)
    return (
        windows.sort("subject", "time")
        .with_columns(value=pl.when(~unseen).then("tokens_per_s"), **median)
        .with_columns(**of_usual)
        .drop(name for name in usual if name != "base")
    )


def _at_least(ratio: pl.Expr) -> pl.Expr:
    """Of what was never busy a ratio tells nothing; what is idler than `BUSY_RATIO` explains no more than that."""
    return pl.when(ratio.is_finite()).then(pl.max_horizontal(ratio, pl.lit(BUSY_RATIO)))


class _Learned(NamedTuple):
    """A look with the detector that judges it, of which version, what it learns from, and one to try beside it."""

    look: Look
    detector: Detector
    past: pl.DataFrame
    version: str | None = None
    candidate: Expectation | None = None


def _learned(look: Look, window: Window, root: Path) -> Iterator[_Learned]:
    """*look* with what judges it; nothing where there is too little to learn from."""
    past = look.windows.filter((pl.col("time").to_physical() < window.start_ns) & pl.col("normal").fill_null(True))
    try:
        if isinstance(look.detector, Expectation):
            detector, version, candidate = learned(root, look.model, look.detector, past, window)
            yield _Learned(look, detector, past, version, candidate)
        else:
            yield _Learned(look, look.detector.fit(past), past)
    except NotEnoughData:
        return  # of this kind; others are judged


def _as_rows(known: _Learned, scores: pl.DataFrame) -> pl.DataFrame:
    """What was judged as rows of the table."""
    return scores.with_columns(
        window_s=pl.lit(known.look.step_s, pl.Int32), detector=pl.lit(known.detector.name),
        metric=pl.lit(known.look.metric), observed=pl.col("value"), model_version=pl.lit(known.version, pl.String),
    ).select(
        *(pl.col(name).cast(kind) for name, kind in schema(ANOMALY_SCORES).items()),
        of_workload=pl.col("group").str.starts_with(OF_WORKLOAD).fill_null(False),
    )  # fmt: skip


def _judged(detector: Detector, look: Look, window: Window) -> pl.DataFrame:
    told = pl.concat([look.windows.select(_TOLD), detector.score(look.windows)], how="horizontal")
    if look.step_s == STEP_S:
        return judged(told, since_ns=window.start_ns)
    return judged(told, since_ns=window.start_ns, fewest=FEWEST_HOURS, odd_ratio=DRIFT_RATIO)


def _hourly(found: pl.DataFrame) -> pl.DataFrame:
    """What was expected and measured in each hour, as the table expectations has it."""
    bounds = ("observed", "expected_low", "expected_mid", "expected_high")
    hours = (
        found.filter(pl.col("detector") == "expectation")
        .group_by("subject", "metric", pl.col("time").dt.truncate("1h"))
        .agg(pl.col("scope", "host", "model_version").last(), *(pl.col(name).mean() for name in bounds))
        .with_columns(window_s=pl.lit(HOUR_S, pl.Int32))
    )
    return hours.select(pl.col(name).cast(kind) for name, kind in schema(EXPECTATIONS).items())
