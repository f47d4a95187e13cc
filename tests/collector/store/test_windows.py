"""The pass over arrays against statements of SQL, on samples that are awkward in every way that was met."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics import frames
from analytics.sketches import quantiles
from collector.sample import Coded
from collector.store import Store
from collector.store.engine import Engine
from collector.store.rollups import roll_up
from collector.store.schema import ROLLUP_TABLES, TABLES
from collector.store.sketch import ACCURACY
from tests.collector.store.rollup_statements import statement_of

NS = 10**9
HOUR, DAY = 3600, 86_400
STEPS = ((1, 0.2), (10, 0.5), (29.5, 0.1), (60, 0.15), (300, 0.02), (1799, 0.015), (3600, 0.005), (4000, 0.005),
         (9000, 0.005))  # fmt: skip
STORED = {
    column.name: column.metric.resolution
    for table in ROLLUP_TABLES.values() for column in table
    if column.metric is not None and column.metric.resolution is not None
}  # fmt: skip
"""What a mean is stored in steps of."""
GAUGES = ("power_w", "utilization_ratio", "temperature_c", "voltage_core_v")
COUNTERS = ("energy_j", "throttle_power_s", "pcie_replays", "ecc_corrected")


def awkward(rng: np.random.Generator, day_ns: int, days: float, device: str, source: str | None) -> dict[str, Any]:
    """Samples of a device with gaps of all lengths, resets, glitches, missing values, and some exactly on edges."""
    apart = rng.choice([step for step, _ in STEPS], int(days * DAY / 120), p=[share for _, share in STEPS])
    seconds = np.cumsum(apart) + rng.integers(0, 50)
    # Some readings are on the edge of a window, of an hour, of a day.
    edges = rng.random(seconds.size) < 0.05
    seconds[edges] = np.round(seconds[edges] / 300) * 300
    seconds = np.unique(np.append(seconds[seconds < days * DAY], [HOUR, DAY, 2 * HOUR]))
    n = seconds.size
    columns: dict[str, Any] = {
        name: np.round(rng.uniform(-5 if name == "temperature_c" else 0, 700, n), 3) for name in GAUGES
    }
    columns["utilization_ratio"] = np.round(rng.uniform(0, 1, n) * (rng.random(n) < 0.7), 4)
    columns["energy_j"] = np.round(np.cumsum(rng.uniform(0, 9000, n)), 3)
    columns["throttle_power_s"] = np.round(np.cumsum(rng.uniform(0, 5, n)), 3) + 1e5
    columns["pcie_replays"] = np.cumsum(rng.random(n) < 0.05).astype(float)
    columns["ecc_corrected"] = np.cumsum(rng.random(n) < 0.01).astype(float)
    for name in COUNTERS:
        for at in rng.integers(1, n, 4):
            columns[name][at:] -= columns[name][at] - 1.0  # a reset
        columns[name][rng.integers(1, n)] *= 0.9  # a glitch
        columns[name] = np.maximum(columns[name], 0.0)
    for name in (*GAUGES, *COUNTERS):
        missing = rng.choice([0.0, 0.02, 0.3])
        columns[name][rng.random(n) < missing] = np.nan
        # Whole hours without a value, and for some devices none at all.
        columns[name][(seconds // HOUR) % 7 == rng.integers(0, 14)] = np.nan
        if rng.random() < 0.15:
            columns[name][:] = np.nan
    words = {
        "device": (device,),
        "source": (source or "s",),
        "host": ("h1", "h2"),
        "power_method": ("average", "modelled"),
    }
    codes = {
        "device": np.zeros(n, np.int64),
        "source": np.full(n, 0 if source else -1),
        "host": (seconds > days * DAY / 2).astype(np.int64) - (rng.random(n) < 0.02),
        "power_method": (rng.random(n) < 0.3).astype(np.int64),
    }
    times = (day_ns + np.round(seconds * NS)).astype(np.int64)
    return {"time": times, **columns, **{name: Coded(codes[name], words[name]) for name in words}}


def chosen(data: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {
        name: Coded(column.codes[rows], column.words) if isinstance(column, Coded) else column[rows]
        for name, column in data.items()
    }


def fill(store: Store, day_ns: int, seed: int) -> None:
    """Three days of devices, a partition and a second source; rows that come late, and rows that are written twice."""
    rng = np.random.default_rng(seed)
    series = [("GPU-1", "nvml"), ("GPU-1", "scrape"), ("GPU-2'", "nvml"), ("MIG-1/2", "nvml"), ("z", None)]
    late = []
    for device, source in series:
        data = awkward(rng, day_ns, 2.6, device, source)
        later = rng.random(len(data["time"])) < 0.1
        store.write("device_samples", chosen(data, ~later), writer=f"w.{source}")
        late.append((chosen(data, later), source))
        again = rng.random(len(data["time"])) < 0.03
        repeated = chosen(data, again)
        repeated["power_w"] = repeated["power_w"] + 1.0
        late.append((repeated, source))
    for data, source in late:
        store.write("device_samples", data, writer=f"w.{source}")


def roll(store: Store, now_ns: int, **limits: Any) -> None:
    engine = Engine(**limits)
    try:
        roll_up(store, engine, now_ns)
    finally:
        engine.close()


def rollups(store: Store, table: str = "device_rollups") -> pl.DataFrame:
    keys = [*ROLLUP_TABLES[table.replace("rollups", "samples")].keys, "time"]
    return frames.scan(store, table).sort(keys, nulls_last=True).collect()


def by_statements(store: Store, table: str, start_ns: int, end_ns: int, like: pl.DataFrame) -> pl.DataFrame:
    hours = []
    with store.connect() as db:
        for hour_ns in range(start_ns, end_ns, DAY * NS):
            found = db.execute(statement_of(store, TABLES[table], hour_ns, hour_ns + DAY * NS))
            names = [name for name, *_ in found.description]
            hours.append(pl.DataFrame(found.fetchall(), schema=names, orient="row", infer_schema_length=None))
    frame = pl.concat(hours, how="diagonal_relaxed")
    keys = [*ROLLUP_TABLES[table].keys, "time"]
    return frame.select(pl.col(name).cast(like.schema[name]) for name in frame.columns).sort(keys, nulls_last=True)


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame, *, steps: float = 1.01) -> None:
    assert found.height == wanted.height
    for name in wanted.columns:
        mine, theirs = found[name], wanted[name]
        if mine.dtype != pl.Float64:
            assert mine.equals(theirs), name
            continue
        assert mine.is_null().equals(theirs.is_null()), name
        off = ((mine - theirs).abs() - theirs.abs() * 1e-9).max()
        assert off is None or off <= steps * STORED.get(name, 1e-6), (name, off)


@pytest.mark.parametrize("seed", range(3))
def test_a_pass_over_arrays_finds_what_statements_find(store: Store, day_ns: int, seed: int) -> None:
    fill(store, day_ns, seed)
    roll(store, day_ns + 9 * DAY * NS)
    found = rollups(store)
    hours = found.filter(pl.col("window_s") <= HOUR)
    wanted = by_statements(store, "device_samples", day_ns, day_ns + 3 * DAY * NS, found)
    assert_same(hours.select(wanted.columns), wanted)
    assert hours["energy_j"].sum() > 0
    assert hours["energy_modelled_j"].sum() > 0
    empty = set(found.columns) - set(wanted.columns)
    assert all(found[name].null_count() == found.height for name in empty)


def test_days_hold_what_their_hours_and_their_samples_hold(store: Store, day_ns: int) -> None:
    fill(store, day_ns, seed=3)
    roll(store, day_ns + 9 * DAY * NS)
    found = rollups(store)
    keys = ["device", "source", "day"]
    parts = found.with_columns(day=pl.col("time").dt.truncate("1d"))
    sums = [
        name
        for name in found.columns
        if "increase" in name or name in {"energy_j", "energy_covered_s", "covered_s", "rows"}
    ]
    for window_s in (300, HOUR):
        days, of_hours = (
            parts.filter(pl.col("window_s") == length)
            .group_by(keys)
            .agg(pl.col(sums).sum())
            .sort(keys, nulls_last=True)
            for length in (DAY, window_s)
        )
        # Each of the parts is off by half a step.
        assert_same(of_hours, days, steps=DAY / window_s / 2 + 1)
    samples = frames.scan(store, "device_samples").sort("device", "source", "time", nulls_last=True).collect()
    near = (pl.col("time") - pl.col("time").shift().over("device", "source")) <= pl.duration(hours=1)
    # A reading on the edge of a day is of the day before, unless nothing was read for long.
    read = samples.with_columns(
        day=(pl.col("time") - pl.when(near).then(1).otherwise(0).cast(pl.Duration("ns"))).dt.truncate("1d")
    )
    of_day = found.filter(pl.col("window_s") == DAY, pl.col("rows") > 0).rename({"time": "day"})
    for column, told in (
        ("power_w", "power_{}_w"),
        ("utilization_ratio", "utilization_{}_ratio"),
        ("temperature_c", "temperature_{}_c"),
    ):
        value = pl.col(column)
        wanted = read.group_by(keys).agg(
            value.min().alias(told.format("min")), value.mean().alias(told.format("mean")),
            value.max().alias(told.format("max")), n=value.count().cast(pl.Int64), median=value.quantile(0.5, "lower"),
        ).sort(keys, nulls_last=True)  # fmt: skip
        assert_same(of_day, wanted.select(told.format("min"), told.format("mean"), told.format("max")))
        sketches = quantiles(of_day.lazy(), keys, told.format("sketch"), of=[0.5]).collect().sort(keys, nulls_last=True)
        wanted = wanted.filter(pl.col("n") > 0)
        assert sketches.select(keys).equals(wanted.select(keys))
        assert sketches["values"].to_list() == wanted["n"].to_list()
        assert ((sketches["p50"] - wanted["median"]).abs() <= wanted["median"].abs() * ACCURACY * 1.0001).all()


def test_hour_by_hour_or_at_once_some_series_at_a_time_or_all(
    store: Store, tmp_path: Path, day_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, day_ns, seed=8)
    other = Store.create(tmp_path / "other")
    fill(other, day_ns, seed=8)
    roll(store, day_ns + 9 * DAY * NS)
    monkeypatch.setattr("collector.store.rollups.ROWS", 700)
    monkeypatch.setattr("collector.store.rollups._ROOMY", 1)
    for hours in (3, 27, 9 * 24):
        roll(other, day_ns + hours * HOUR * NS, memory=None, threads=2)
    assert rollups(other).equals(rollups(store))


def test_workloads_are_rolled_up_by_the_same_rules(store: Store, day_ns: int) -> None:
    rng = np.random.default_rng(4)
    for number in range(3):
        seconds = np.cumsum(rng.choice([5, 15, 400], 900)).astype(np.int64)
        tokens = np.round(np.cumsum(rng.uniform(0, 900, seconds.size)), 1)
        tokens[rng.random(seconds.size) < 0.1] = np.nan
        store.write("workload_samples", {
            "workload": Coded(np.zeros(seconds.size, np.int64), (f"job-{number}",)),
            "source": Coded(np.zeros(seconds.size, np.int64), ("s",)),
            "model": Coded(np.zeros(seconds.size, np.int64), ("m",)),
            "time": day_ns + seconds * NS,
            "tokens_out": tokens,
            "requests_running": rng.integers(0, 9, seconds.size).astype(float),
        })  # fmt: skip
    roll(store, day_ns + 9 * DAY * NS)
    found = rollups(store, "workload_rollups")
    hours = found.filter(pl.col("window_s") <= HOUR)
    last_ns = max(segment.last_ns for segment in store.segments("workload_samples"))
    wanted = by_statements(store, "workload_samples", day_ns, last_ns, found)
    assert_same(hours.select(wanted.columns), wanted)
    assert hours["tokens_out_increase"].sum() > 0
