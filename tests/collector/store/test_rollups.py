"""Rollups against a naive loop: exact sums, spikes kept, resets, only what changed computed again."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics import frames
from collector.sample import Reading
from collector.store import Coded, Store
from collector.store.engine import Engine
from collector.store.rolling import Part, Stretch
from collector.store.rollups import roll_up

Make = Callable[..., Reading]
HOUR = 3600


def write(store: Store, day_ns: int, seconds: Any, energy: Any, power: Any, device: Any = "a") -> None:
    n = len(seconds)
    times = (day_ns + np.asarray(seconds) * 10**9).astype("int64")
    data = {"power_w": np.asarray(power, float), "energy_j": np.asarray(energy, float)}
    names = {
        "device": np.array([device] * n, object) if isinstance(device, str) else device,
        "source": np.array(["s"] * n, object),
    }
    store.write("device_samples", {**names, "time": times, **data})


def roll(store: Store, now_ns: int) -> int:
    engine = Engine()
    try:
        return roll_up(store, engine, now_ns)
    finally:
        engine.close()


def rollups(store: Store, window_s: int) -> pl.DataFrame:
    return frames.scan(store, "device_rollups", where=pl.col("window_s") == window_s).sort("device", "time").collect()


def naive(
    seconds: list[int], throttled: list[float], errors: list[float], power: list[float], window_s: int
) -> dict[int, dict[str, float]]:
    """Each window by a loop: what flows is shared by time, what happens is where it was seen."""
    windows: dict[int, dict[str, float]] = {}

    def of(start: int) -> dict[str, float]:
        nothing = {"rows": 0, "flow": 0.0, "events": 0.0, "sum": 0.0, "max": -1.0, "min": 1e9}
        return windows.setdefault(start, nothing)

    before: tuple[int, float, float] | None = None
    for second, flow, count, watts in zip(seconds, throttled, errors, power, strict=True):
        near = before is not None and second - before[0] <= HOUR
        read = of((second - near) // window_s * window_s)  # on an edge: of the window before
        read["rows"] += 1
        read["sum"] += watts
        read["max"], read["min"] = max(read["max"], watts), min(read["min"], watts)
        if before is not None:
            read["events"] += count - before[2]
            # A fall to less than half is a reset; a smaller one a glitch.
            rise = flow - before[1] if flow >= before[1] else flow if flow <= before[1] / 2 else 0.0
            if not near:
                of((second - 1) // window_s * window_s)["flow"] += rise
            else:
                for start in range(before[0] // window_s * window_s, second, window_s):
                    inside = min(second, start + window_s) - max(before[0], start)
                    of(start)["flow"] += rise * inside / (second - before[0])
        before = second, flow, count
    return windows


def test_rollups_agree_with_a_naive_loop_over_gaps_resets_and_days(store: Store, day_ns: int) -> None:
    rng = np.random.default_rng(3)
    apart = rng.choice([1, 7, 10, 10, 10, 55, 61, 4000], 6000, p=[0.1, 0.1, 0.2, 0.2, 0.3, 0.05, 0.04, 0.01])
    seconds = np.cumsum(apart)
    power = rng.uniform(60, 700, len(seconds)).round(3)
    flow = np.cumsum(rng.uniform(0, 5, len(seconds))).round(3) + 1e6
    flow[2000:] -= flow[2000] - 5.0  # the driver was loaded anew
    flow[4000] -= 3.0  # a glitch
    errors = np.cumsum(rng.random(len(seconds)) < 0.01).astype(float)
    names = {"device": np.array(["a"] * len(seconds), object), "source": np.array(["s"] * len(seconds), object)}
    more = {"power_w": power, "throttle_power_s": flow, "pcie_replays": errors}
    store.write("device_samples", {**names, "time": day_ns + seconds * 10**9, **more})
    assert roll(store, day_ns + 30 * 86_400 * 10**9) > 1
    for window_s in (300, 3600):
        expected = naive(seconds.tolist(), flow.tolist(), errors.tolist(), power.tolist(), window_s)
        found = rollups(store, window_s)
        start = datetime(2023, 11, 15)
        assert found["time"].to_list() == [start + timedelta(seconds=second) for second in sorted(expected)]
        for row, (_, want) in zip(found.iter_rows(named=True), sorted(expected.items()), strict=True):
            assert row["rows"] == want["rows"]
            assert (row["throttle_power_increase_s"] or 0.0) == pytest.approx(want["flow"], abs=1e-5)
            assert (row["pcie_replays_increase"] or 0.0) == want["events"]
            if want["rows"]:
                assert row["power_mean_w"] == pytest.approx(want["sum"] / want["rows"], abs=1e-3)
                assert (row["power_min_w"], row["power_max_w"]) == (want["min"], want["max"])
        assert found["pcie_replays_increase"].sum() == errors[-1] - errors[0]


def test_a_second_run_changes_nothing_and_late_rows_change_only_their_hours(store: Store, day_ns: int) -> None:
    seconds = np.arange(5, 6 * HOUR, 10)
    write(store, day_ns, seconds, 100.0 + seconds, np.full(len(seconds), 100.0))
    now = day_ns + 7 * HOUR * 10**9  # the day still runs: a piece for each hour
    assert roll(store, now) == 6
    assert roll(store, now) == 0
    names = {segment.path.name for segment in store.segments("device_rollups")}
    late = np.array([2 * HOUR + 7])
    write(store, day_ns, late, 100.0 + late, [900.0])
    assert roll(store, now) == 3  # its hour, and those that share a step with it
    assert len(names & {segment.path.name for segment in store.segments("device_rollups")}) == 3
    hours = rollups(store, 3600)
    assert hours["power_max_w"].to_list() == [100.0, 100.0, 900.0, 100.0, 100.0, 100.0]
    assert hours["energy_increase_j"].sum() == seconds[-1] - seconds[0]


def test_a_step_into_the_next_hour_is_shared_with_it_once_that_is_known(store: Store, day_ns: int) -> None:
    write(store, day_ns, [HOUR - 8], [0.0], [10.0])
    assert roll(store, day_ns + HOUR * 10**9) == 1
    write(store, day_ns, [HOUR + 2], [100.0], [10.0])
    roll(store, day_ns + 2 * HOUR * 10**9)
    hours = rollups(store, 3600)
    assert hours["energy_increase_j"].to_list() == pytest.approx([80.0, 20.0])
    assert hours["energy_covered_s"].to_list() == pytest.approx([8.0, 2.0])


def test_a_step_across_midnight_is_shared_by_the_two_days(store: Store, day_ns: int) -> None:
    write(store, day_ns, [86_395, 86_405], [10.0, 14.0], [1.0, 1.0])
    roll(store, day_ns + 3 * 86_400 * 10**9)
    assert rollups(store, 3600)["energy_increase_j"].to_list() == [2.0, 2.0]


def test_a_day_that_is_over_is_folded_into_one_piece_with_the_day_itself(store: Store, day_ns: int) -> None:
    seconds = np.arange(60, 3 * HOUR, 60)
    write(store, day_ns, seconds, seconds, seconds)
    assert roll(store, day_ns + 4 * HOUR * 10**9) == 3
    assert rollups(store, 86_400).is_empty()
    assert roll(store, day_ns + 25 * HOUR * 10**9) == 0  # its last hour may still get something
    before = rollups(store, 3600)
    assert roll(store, day_ns + 27 * HOUR * 10**9) == 1
    assert roll(store, day_ns + 27 * HOUR * 10**9) == 0
    assert len(store.segments("device_rollups")) == 1
    assert rollups(store, 3600).equals(before)
    (day,) = rollups(store, 86_400).to_dicts()
    assert (day["rows"], day["power_min_w"], day["power_max_w"]) == (len(seconds), 60.0, float(seconds[-1]))
    assert day["power_mean_w"] == pytest.approx(seconds.mean())
    assert day["energy_increase_j"] == pytest.approx(seconds[-1] - seconds[0])
    assert sum(entry["n"] for entry in day["power_sketch_w"]) == len(seconds)


def test_what_comes_for_a_day_that_is_folded_makes_it_anew(store: Store, day_ns: int) -> None:
    seconds = np.arange(60, 3 * HOUR, 60)
    for device in ("a", "b"):
        write(store, day_ns, seconds, seconds, seconds, device=device)
        assert roll(store, day_ns + 30 * HOUR * 10**9) == 1
    assert rollups(store, 3600)["device"].to_list() == ["a"] * 3 + ["b"] * 3
    write(store, day_ns, seconds[:1], seconds[:1], [900.0], device="c")
    assert roll(store, day_ns + 30 * HOUR * 10**9) == 1
    assert rollups(store, 86_400)["device"].to_list() == ["a", "b", "c"]


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


@pytest.mark.parametrize(("sweep", "read_at_once"), [(1, [2, 2, 2, 1]), (4, [7])])
def test_subjects_are_rolled_up_some_at_a_time_to_the_same_end(
    store: Store, tmp_path: Path, day_ns: int, monkeypatch: pytest.MonkeyPatch, sweep: int, read_at_once: list[int]
) -> None:
    other = Store.create(tmp_path / "other")
    seconds = np.arange(3, 2 * HOUR, 40)
    for number in range(7):
        write(store, day_ns, seconds, seconds * number, seconds % 97 + number, device=f"d'{number}")
    # In one segment of many groups of rows it is read by their numbers.
    monkeypatch.setattr("collector.store.arrays.WHOLE_VALUES", 0)
    monkeypatch.setattr("collector.store.sql.ROW_GROUP_ROWS", 100)
    numbers = np.repeat(np.arange(7), len(seconds))
    names = np.array([f"d'{number}" for number in numbers], object)
    write(other, day_ns, np.tile(seconds, 7), np.tile(seconds, 7) * numbers, np.tile(seconds % 97, 7) + numbers, names)
    now_ns = day_ns + 30 * HOUR * 10**9
    roll(store, now_ns)
    asked: list[int] = []
    made: list[int] = []
    read, part = Stretch.read, Part.made
    monkeypatch.setattr("collector.store.rollups.ROWS", 2 * len(seconds))
    monkeypatch.setattr("collector.store.rolling._SWEEP", sweep)
    monkeypatch.setattr("collector.store.rolling._READ", 9)
    monkeypatch.setattr("collector.store.rolling._COLUMNS", 0)
    monkeypatch.setattr("collector.store.rolling._ANSWER", 1)
    monkeypatch.setattr("collector.store.rolling._ROOM", 0)
    monkeypatch.setattr(Stretch, "read", lambda self, keys, *more: asked.append(len(keys)) or read(self, keys, *more))
    monkeypatch.setattr(Part, "made", lambda self, **more: made.append(len(self._keys)) or part(self, **more))
    roll(other, now_ns)
    assert asked == read_at_once
    assert made == [2, 2, 2, 1]
    for window_s in (300, 3600, 86_400):
        assert rollups(other, window_s).equals(rollups(store, window_s))
        assert rollups(store, window_s)["device"].n_unique() == 7


def test_upkeep_with_little_memory_spills_into_the_store_and_leaves_nothing(store: Store, day_ns: int) -> None:
    n = 200_000
    rng = np.random.default_rng(1)
    columns = ("power_w", "energy_j", "temperature_c", "activity_sm_ratio", "voltage_core_v", "clock_sm_hz")
    data: dict[str, Any] = {name: rng.uniform(0, 1, n) for name in columns}
    data["device"] = Coded(np.arange(n) % 16, tuple(f"G{number:02d}" for number in range(16)))
    data["source"] = Coded(np.zeros(n, np.int8), ("s",))
    data["time"] = day_ns + np.arange(n) // 16 * 10**9
    store.write("device_samples", data)
    Store(store.root, threads=1, memory="32MB").maintain()
    assert rollups(store, 3600)["rows"].sum() == n
    assert not list(store.root.glob(".spill*"))
