"""Rollups against a naive loop: exact sums, spikes kept, resets, only what changed computed again."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics import frames
from collector.sample import Reading
from collector.store import Coded, Store
from collector.store.engine import Engine
from collector.store.rollups import MAX_GAP_S, roll_up

Make = Callable[..., Reading]
HOUR = 3600


def write(store: Store, day_ns: int, seconds: Any, energy: Any, power: Any, device: str = "a") -> None:
    n = len(seconds)
    times = (day_ns + np.asarray(seconds) * 10**9).astype("int64")
    data = {"power_w": np.asarray(power, float), "energy_j": np.asarray(energy, float)}
    names = {"device": np.array([device] * n, object), "source": np.array(["s"] * n, object)}
    store.write("device_samples", {**names, "time": times, **data})


def roll(store: Store, now_ns: int) -> int:
    engine = Engine()
    try:
        return roll_up(store, engine, now_ns)
    finally:
        engine.close()


def rollups(store: Store, window_s: int) -> pl.DataFrame:
    return frames.scan(store, "device_rollups", where=pl.col("window_s") == window_s).sort("device", "time").collect()


def naive(seconds: list[int], energy: list[float], power: list[float], window_s: int) -> dict[int, dict[str, float]]:
    windows: dict[int, dict[str, float]] = {}
    before: tuple[int, float] | None = None
    for second, joules, watts in zip(seconds, energy, power, strict=True):
        window = windows.setdefault(
            second // window_s * window_s,
            {"rows": 0, "covered": 0.0, "energy": 0.0, "sum": 0.0, "max": -1.0, "min": 1e9},
        )
        window["rows"] += 1
        window["sum"] += watts
        window["max"] = max(window["max"], watts)
        window["min"] = min(window["min"], watts)
        if before is not None:
            gap = second - before[0]
            window["covered"] += gap if gap <= MAX_GAP_S else 0
            if joules >= before[1]:
                window["energy"] += joules - before[1]
            elif joules <= before[1] / 2:
                window["energy"] += joules
        before = second, joules
    return windows


def test_rollups_agree_with_a_naive_loop_over_gaps_resets_and_days(store: Store, day_ns: int) -> None:
    rng = np.random.default_rng(3)
    seconds = np.cumsum(
        rng.choice([1, 7, 10, 10, 10, 55, 61, 4000], 6000, p=[0.1, 0.1, 0.2, 0.2, 0.3, 0.05, 0.04, 0.01])
    )
    power = rng.uniform(60, 700, len(seconds)).round(3)
    energy = np.cumsum(power * 10).round(3) + 1e6
    energy[2000:] -= energy[2000] - 5.0  # the driver was loaded anew
    energy[4000] -= 3.0  # a glitch
    write(store, day_ns, seconds, energy, power)
    assert roll(store, day_ns + 30 * 86_400 * 10**9) > 1
    for window_s in (300, 3600):
        expected = naive(seconds.tolist(), energy.tolist(), power.tolist(), window_s)
        found = rollups(store, window_s)
        start = datetime(2023, 11, 15)
        assert found["time"].to_list() == [start + timedelta(seconds=second) for second in expected]
        for row, want in zip(found.iter_rows(named=True), expected.values(), strict=True):
            assert row["rows"] == want["rows"]
            assert row["covered_s"] == pytest.approx(want["covered"])
            assert (row["energy_increase_j"] or 0.0) == pytest.approx(want["energy"], abs=2e-3)
            assert row["power_mean_w"] == pytest.approx(want["sum"] / want["rows"], abs=1e-3)
            assert (row["power_min_w"], row["power_max_w"]) == (want["min"], want["max"])
        total = sum(want["energy"] for want in expected.values())
        assert found["energy_increase_j"].sum() == pytest.approx(total, abs=0.01)


def test_a_second_run_changes_nothing_and_late_rows_change_only_their_hours(store: Store, day_ns: int) -> None:
    seconds = np.arange(0, 6 * HOUR, 10)
    write(store, day_ns, seconds, 100.0 + seconds, np.full(len(seconds), 100.0))
    now = day_ns + 7 * HOUR * 10**9  # the day still runs: a piece for each hour
    assert roll(store, now) == 6
    assert roll(store, now) == 0
    names = {segment.path.name for segment in store.segments("device_rollups")}
    late = np.array([2 * HOUR + 5])
    write(store, day_ns, late, 100.0 + late, [900.0])
    assert roll(store, now) == 2  # its hour, and the next, whose first pair may have changed
    assert len(names & {segment.path.name for segment in store.segments("device_rollups")}) == 4
    hours = rollups(store, 3600)
    assert hours["power_max_w"].to_list() == [100.0, 100.0, 900.0, 100.0, 100.0, 100.0]
    assert hours["energy_increase_j"].sum() == seconds[-1]


def test_a_day_that_is_over_becomes_one_piece_even_after_pieces_of_hours(store: Store, day_ns: int) -> None:
    seconds = np.arange(0, 3 * HOUR, 60)
    write(store, day_ns, seconds, seconds, seconds)
    assert roll(store, day_ns + 4 * HOUR * 10**9) == 3
    write(store, day_ns, seconds, seconds, seconds, device="b")
    assert roll(store, day_ns + 30 * HOUR * 10**9) == 1
    assert len(store.segments("device_rollups")) == 1
    assert rollups(store, 3600)["device"].to_list() == ["a"] * 3 + ["b"] * 3
    write(
        store, day_ns, seconds[:1], seconds[:1], [900.0], device="c"
    )  # later still: the piece of the day is made again
    assert roll(store, day_ns + 4 * HOUR * 10**9) == 1
    assert rollups(store, 3600)["device"].to_list() == ["a"] * 3 + ["b"] * 3 + ["c"]


def test_the_pair_across_midnight_belongs_to_the_later_day(store: Store, day_ns: int) -> None:
    write(store, day_ns, [86_395, 86_405], [10.0, 14.0], [1.0, 1.0])
    roll(store, day_ns + 3 * 86_400 * 10**9)
    assert rollups(store, 3600)["energy_increase_j"].to_list() == [None, 4.0]


def test_merging_raw_segments_makes_no_rollup_stale(store: Store, reading: Make, day_ns: int) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, clock_ns=lambda: clock[0])
    for minute in range(30):
        clock[0] += 60 * 10**9
        writer.take([reading(minute * 60, energy_j=minute * 10.0)])
        writer.seal()
    roll(store, clock[0])
    clock[0] += HOUR * 10**9
    assert writer.compact() > 0
    writer.close()
    assert roll(store, clock[0]) == 0
    assert rollups(store, 3600)["energy_increase_j"].to_list() == [290.0]


def test_upkeep_with_little_memory_spills_into_the_store_and_leaves_nothing(store: Store, day_ns: int) -> None:
    n = 200_000
    rng = np.random.default_rng(1)
    columns = ("power_w", "energy_j", "temperature_c", "activity_sm_ratio", "voltage_core_v", "clock_sm_hz")
    data: dict[str, Any] = {name: rng.uniform(0, 1, n) for name in columns}
    data["device"] = Coded(np.arange(n) % 16, tuple(f"G{number:02d}" for number in range(16)))
    data["source"] = Coded(np.zeros(n, np.int8), ("s",))
    data["time"] = day_ns + np.arange(n) // 16 * 10**9
    store.write("device_samples", data)
    Store(store.root, threads=1, memory="24MB").maintain()
    assert rollups(store, 3600)["rows"].sum() == n
    assert not list(store.root.glob(".spill*"))
