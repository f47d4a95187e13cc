"""The samples that the store and its peers are given: a fleet as its sensors would report it, and real recordings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from collector.catalogue import (
    CLOCK_SM,
    ENERGY,
    HOST_PLATFORM_POWER,
    MEMORY_USED,
    POWER,
    TEMPERATURE,
    UTILIZATION,
    Metric,
)
from collector.store import Coded

DAY_MS = 86_400_000
RECORDINGS = Path(__file__).parents[1] / "../shared/data/mlperf/tables"


@dataclass(frozen=True)
class Series:
    """One series as a peer sees it: name, labels, and its samples in order of time."""

    name: str
    labels: dict[str, str]
    time_ms: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Sampled:
    """Samples of some metrics, regular or not: the columns for the store, and the same by series."""

    name: str
    table: str
    subject: str
    words: tuple[str, ...]
    codes: np.ndarray
    time_ms: np.ndarray
    metrics: dict[Metric, np.ndarray]

    @property
    def samples(self) -> int:
        """Values, counted as a time-series database counts them."""
        return len(self.time_ms) * len(self.metrics)

    def columns(self) -> dict[str, object]:
        """What `Store.write` takes."""
        return {
            self.subject: Coded(self.codes, self.words),
            "source": Coded(np.zeros(len(self.codes), np.int8), ("benchmark",)),
            "time": self.time_ms.astype("datetime64[ms]").astype("datetime64[ns]"),
            **{metric.column: values for metric, values in self.metrics.items()},
        }

    def series(self) -> Iterator[Series]:
        """The same samples, one series after the other; rows are ordered by subject and time."""
        bounds = np.flatnonzero(np.diff(self.codes)) + 1
        starts, ends = [0, *bounds], [*bounds, len(self.codes)]
        for start, end in zip(starts, ends, strict=True):
            subject = self.words[self.codes[start]]
            for metric, values in self.metrics.items():
                yield Series(metric.prometheus, {self.subject: subject}, self.time_ms[start:end], values[start:end])


def fleet(devices: int, start_ms: int, *, step_s: int = 10, seed: int = 7) -> Sampled:
    """
    A day of *devices* accelerators: demand by job and hour, a one-pole thermal mass, sensors that quantise and jitter.

    Steps as NVML has them: power 1 mW, energy 1 mJ, utilisation 1 %, clock 15 MHz, temperature 1 degree, memory 2 MiB.
    """
    rng = np.random.default_rng(seed)
    steps = 86_400 // step_s
    job = 360  # an hour of samples: a job holds a device for hours, an idle device idles for as long
    jobs = -(-steps // job)
    busy = rng.random((devices, jobs)) < 0.85
    level = np.where(busy, rng.uniform(0.55, 1.0, (devices, jobs)), 0.0).repeat(job, axis=1)[:, :steps]
    hour = 1 + 0.08 * np.sin(2 * np.pi * np.arange(steps) / steps)
    utilization = np.clip(level * hour + rng.normal(0, 0.05, (devices, steps)) * (level > 0), 0, 1).round(2)
    draw = 75 + 520 * utilization**1.2 + rng.normal(0, 6, (devices, steps))
    power = np.clip(draw, 60, 700).round(3)
    energy = (np.cumsum(power, axis=1) * step_s + rng.uniform(0, 3e9, (devices, 1))).round(3)
    clock = np.where(level > 0, 1980 - 15 * np.clip(rng.poisson(2, (devices, steps)), 0, 20), 345) * 1e6
    warm = 28 + power / 18
    for step in range(1, steps):
        warm[:, step] = warm[:, step - 1] * 0.9 + warm[:, step] * 0.1
    temperature = (warm + rng.normal(0, 0.4, (devices, steps))).round()
    memory = np.round(
        np.where(busy, rng.uniform(1e10, 8e10, (devices, jobs)), 6e8).repeat(job, axis=1)[:, :steps] / 2**21
    )
    times = start_ms + np.arange(steps, dtype=np.int64) * step_s * 1000
    return Sampled(
        name=f"fleet of {devices}, a day at {step_s} s",
        table="device_samples",
        subject="device",
        words=tuple(f"GPU-{number:08x}-5d1c-4c3e-9b1a-{number * 7919:012x}" for number in range(devices)),
        codes=np.arange(devices, dtype=np.int32).repeat(steps),
        time_ms=np.tile(times, devices),
        metrics={
            POWER: power.ravel(),
            ENERGY: energy.ravel(),
            UTILIZATION: utilization.ravel(),
            CLOCK_SM: clock.ravel(),
            TEMPERATURE: temperature.ravel(),
            MEMORY_USED: (memory * 2**21).ravel(),
        },
    )


def inference_power(end_ms: int) -> Sampled:
    """MLPerf inference: wall power of hundreds of runs at 1 Hz, laid into the day before *end_ms* a run at a time."""
    rows = pl.read_parquet(RECORDINGS / "inference_power_1hz.parquet", columns=["run_id", "t_s", "watts"])
    rows = rows.filter(pl.col("watts") >= 0).with_columns(
        ms=(pl.col("t_s").cast(pl.Float64) * 1000).round().cast(pl.Int64)
    )
    return _recorded("MLPerf inference, 1 Hz", rows.rename({"run_id": "host"}), end_ms)


def training_power(end_ms: int) -> Sampled:
    """MLPerf training: power of every node as logged, about 1 s apart."""
    rows = pl.read_parquet(RECORDINGS / "training_power.parquet")
    return _recorded("MLPerf training", rows.rename({"node_run_id": "host", "time_ms": "ms"}), end_ms)


def _recorded(name: str, rows: pl.DataFrame, end_ms: int) -> Sampled:
    # The tables hold single precision; the meters wrote decimals of at most three digits, which is what a client sends.
    rows = rows.with_columns(pl.col("watts").cast(pl.Float64).round(3))
    rows = rows.with_columns(host=pl.col("host").cast(pl.String)).unique(["host", "ms"], keep="last")
    # Each run starts at the same moment of a day that the peers accept; what matters is what lies between its samples.
    rows = rows.with_columns(ms=pl.col("ms") - pl.col("ms").min().over("host") + (end_ms - DAY_MS))
    rows = rows.filter(pl.col("ms") < end_ms).sort("host", "ms")
    words = tuple(rows["host"].unique(maintain_order=True))
    number = {word: index for index, word in enumerate(words)}
    return Sampled(
        name=name,
        table="host_samples",
        subject="host",
        words=words,
        codes=rows["host"].replace_strict(number, return_dtype=pl.Int32).to_numpy(),
        time_ms=rows["ms"].cast(pl.Int64).to_numpy(),
        metrics={HOST_PLATFORM_POWER: rows["watts"].to_numpy()},
    )
