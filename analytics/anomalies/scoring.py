"""
The job that scores: how odd devices and workloads were beside their past, their peers and what explains them.

A window is judged by what was learned from the days before it. Of the scores those are kept that are in the odd tail,
which is what incidents are made of; what was expected is kept by the hour.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from analytics.anomalies.calibration import LEVEL_S, ODD_P, ODD_RATIO, judged
from analytics.anomalies.detector import Detector
from analytics.anomalies.expectation import Expectation
from analytics.anomalies.findings import STEP_NS, STEP_S
from analytics.anomalies.learned import learned, tried
from analytics.anomalies.observations import FEATURES, device_windows, workload_windows
from analytics.anomalies.peers import Peers
from analytics.fleet import Fleet
from analytics.frames import schema
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
PEER_METRICS: Final = ("power_w", "temperature_c", "clock_sm_hz")
"""What peers are compared by."""
BUSY_RATIO: Final = 0.2
"""A workload is expected to make no less for being idler than this: that its devices idle explains nothing."""
_USUAL_S: Final = 24 * 3600


class Look(NamedTuple):
    """Windows of one metric and kind, with `value` (and `base`), and the detector that looks at them."""

    detector: Expectation | Peers
    metric: str
    kind: str
    windows: pl.DataFrame

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
    devices = device_windows(
        _thinned(frames["device_rollups"], window), frames["allocations"], frames["devices"], fleet,
        until_ns=window.until_ns,
    )  # fmt: skip
    empty = {table.name: pl.DataFrame(schema=schema(table)) for table in (ANOMALY_SCORES, EXPECTATIONS)}
    devices = _without_known(devices, frames["anomaly_scores"])
    time = devices["time"].to_physical()
    if not (time >= window.start_ns).any():
        return empty
    hours = (time.filter(time < window.start_ns) // HOUR_NS).n_unique()
    if hours < HOURS:
        raise NotEnoughData(f"{hours} hours of windows in the days before; {HOURS} are needed to know what is normal")
    workloads = _without_known(workload_windows(frames["workload_rollups"], devices), frames["anomaly_scores"])
    looks = [*_of_devices(devices), *_of_workloads(workloads)]
    found = [scored for look in looks for scored in _scored(look, window, root)]
    if not found:
        return empty
    whole = pl.concat(found)
    odd = whole.filter(pl.col("p_value") <= KEPT_P).select(schema(ANOMALY_SCORES).names())
    return {ANOMALY_SCORES.name: odd, EXPECTATIONS.name: _hourly(whole)}


def _thinned(rollups: pl.LazyFrame, window: Window) -> pl.LazyFrame:
    """The windows of the past as many as are needed; those of the window all."""
    time = pl.col("time").to_physical()
    of_step = rollups.filter(pl.col("window_s") == STEP_S)
    past = of_step.filter(time < window.start_ns).select(pl.len()).collect().item()
    # At least one of each hour, of which levels are.
    stride = min(-(-past // PAST_ROWS), HOUR_NS // STEP_NS) or 1
    return of_step.filter((time >= window.start_ns) | (time // STEP_NS % stride == 0))


def _without_known(windows: pl.DataFrame, scores: pl.LazyFrame) -> pl.DataFrame:
    """Windows that were found to be odd before, by whatever detector, are not normal."""
    off = (pl.col("observed") / pl.col("expected_mid") - 1).abs()
    odd = scores.filter((pl.col("p_value") <= ODD_P) & (off >= ODD_RATIO)).select("subject", "time").unique().collect()
    told = windows.join(odd.with_columns(known=True), on=["subject", "time"], how="left", maintain_order="left")
    return told.with_columns(normal=pl.col("normal") & pl.col("known").is_null()).drop("known")


def _of_devices(windows: pl.DataFrame) -> Iterator[Look]:
    """What is looked at of devices, type by type: what one type does tells nothing of another."""
    for (kind,), some in windows.partition_by("kind", as_dict=True).items():
        of_power = some.with_columns(value=pl.col("power_w"), base=pl.lit(1.0))
        yield Look(Expectation(features=tuple(FEATURES)), "power_w", kind, of_power)
        for metric in PEER_METRICS:
            yield Look(Peers(), metric, kind, some.with_columns(value=pl.col(metric)))


def _of_workloads(windows: pl.DataFrame) -> Iterator[Look]:
    """What is looked at of workloads, by the types of device that they run on."""
    detector = Expectation(features=("busy_ratio", "clock_ratio", "limit_ratio"))
    for (kind,), some in _of_their_usual(windows).partition_by("kind", as_dict=True).items():
        yield Look(detector, "tokens_per_s", kind, some)


def _of_their_usual(windows: pl.DataFrame) -> pl.DataFrame:
    """Windows of workloads with what they usually make (`base`) and do: the median of their last day."""
    usual = {
        "base": "tokens_per_s", "busy": "utilization_ratio", "clock": "clock_sm_hz", "limit": "power_limit_w",
    }  # fmt: skip
    # What a service makes is what it is asked, unless requests wait or nothing comes: only then it is told of.
    asked = pl.col("serves") & (pl.col("waiting").fill_null(0) < 1) & (pl.col("tokens_per_s") > 0)
    past = {
        name: pl.col(column)
        .rolling_median_by("time", window_size=f"{_USUAL_S}s", closed="left", min_samples=HOUR_NS // STEP_NS)
        .over("subject")
        for name, column in usual.items()
    }
    return (
        windows.sort("subject", "time")
        .with_columns(value=pl.col("tokens_per_s"), told=~asked, **past)
        .with_columns(
            busy_ratio=_at_least(pl.col("utilization_ratio") / pl.col("busy")),
            clock_ratio=pl.col("clock_sm_hz") / pl.col("clock"),
            limit_ratio=pl.col("power_limit_w") / pl.col("limit"),
        )
        .drop("busy", "clock", "limit")
    )


def _at_least(ratio: pl.Expr) -> pl.Expr:
    """Of what was never busy a ratio tells nothing; what is idler than `BUSY_RATIO` explains no more than that."""
    return pl.when(ratio.is_finite()).then(pl.max_horizontal(ratio, pl.lit(BUSY_RATIO)))


def _scored(look: Look, window: Window, root: Path) -> Iterator[pl.DataFrame]:
    """The windows that could be judged, as rows of the table; none where there is too little to learn from."""
    past = look.windows.filter((pl.col("time").to_physical() < window.start_ns) & pl.col("normal").fill_null(True))
    detector: Detector
    try:
        if isinstance(look.detector, Expectation):
            detector, version, candidate = learned(root, look.model, look.detector, past, window)
        else:
            detector, version, candidate = look.detector.fit(past), None, None
    except NotEnoughData:
        return  # of this kind; others are judged
    found = _judged(detector, look, window)
    if candidate is not None:
        tried(root, look.model, candidate, past, window, found, _judged(candidate, look, window))
    if found.height:
        yield found.with_columns(
            window_s=pl.lit(STEP_S, pl.Int32), detector=pl.lit(detector.name), metric=pl.lit(look.metric),
            observed=pl.col("value"), model_version=pl.lit(version, pl.String),
        ).select(pl.col(name).cast(kind) for name, kind in schema(ANOMALY_SCORES).items())  # fmt: skip


def _judged(detector: Detector, look: Look, window: Window) -> pl.DataFrame:
    scores = detector.score(look.windows)
    found = judged(pl.concat([look.windows, scores], how="horizontal"), since_ns=window.start_ns)
    return found.filter("told") if "told" in found.columns else found


def _hourly(found: pl.DataFrame) -> pl.DataFrame:
    """What was expected and measured in each hour, as the table expectations has it."""
    bounds = ("observed", "expected_low", "expected_mid", "expected_high")
    hours = (
        found.filter(pl.col("detector") == "expectation")
        .group_by("subject", "metric", pl.col("time").dt.truncate("1h"))
        .agg(pl.col("scope", "host", "model_version").last(), *(pl.col(name).mean() for name in bounds))
        .with_columns(window_s=pl.lit(HOUR_NS // NS, pl.Int32))
    )
    return hours.select(pl.col(name).cast(kind) for name, kind in schema(EXPECTATIONS).items())
