from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analytics import frames
from collector.errors import StoreError
from collector.store import Store
from collector.store.schema import TABLES

START = datetime(2026, 3, 1)
START_NS = 1_772_323_200_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def write(store: Store, days: int = 3, step_s: int = 3600, **more: Any) -> int:
    n = days * 86_400 // step_s
    times = [START_NS + number * step_s * 10**9 for number in range(n)]
    store.write(
        "device_samples", {"device": ["a"] * n, "source": ["s"] * n, "time": times, "power_w": [1.5] * n, **more}
    )
    return n


def test_an_empty_store_scans_as_an_empty_frame_of_the_right_types(store: Store) -> None:
    for table in TABLES.values():
        frame = frames.scan(store.root, table.name).collect()
        assert frame.is_empty()
        assert frame.schema["time"] == pl.Datetime("ns")
        assert all(frame.schema[column.name] == pl.Float64 for column in table if column.metric is not None)


def test_the_start_is_in_the_window_and_the_end_is_not(store: Store) -> None:
    write(store)
    hours = timedelta(hours=30)
    inside = frames.scan(store, "device_samples", START + hours, START + 2 * hours).collect()["time"]
    assert (inside.min(), inside.max(), len(inside)) == (START + hours, START + 2 * hours - timedelta(hours=1), 30)


@pytest.mark.parametrize(
    "start",
    [
        START_NS + 3600 * 10**9,
        START + timedelta(hours=1),
        (START + timedelta(hours=1)).replace(tzinfo=UTC),
        (START + timedelta(hours=3)).replace(tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_a_moment_is_nanoseconds_or_a_datetime_with_or_without_zone(store: Store, start: Any) -> None:
    n = write(store)
    assert frames.scan(store, "device_samples", start).collect().height == n - 1


def test_a_bound_between_two_stored_ticks_counts_as_it_should(store: Store) -> None:
    write(store)  # whole seconds, so stored in milliseconds
    first = START_NS + 3600 * 10**9
    scan = lambda start, end: frames.scan(store, "device_samples", start, end).collect().height  # noqa: E731
    assert scan(first, first + 1) == 1
    assert scan(first + 1, first + 2) == 0
    assert scan(first - 1, first) == 0


def test_only_segments_that_can_hold_the_window_are_opened(store: Store) -> None:
    write(store)
    untouched = [s.path for s in store.segments("device_samples")[:2]]
    for path in untouched:
        path.write_bytes(b"opening this would fail")
    assert frames.scan(store, "device_samples", START + timedelta(days=2)).collect().height == 24
    with pytest.raises(StoreError, match=untouched[0].name):
        frames.scan(store, "device_samples")


def test_the_window_and_the_condition_reach_the_parquet_reader(store: Store) -> None:
    write(store)
    plan = frames.scan(store, "device_samples", START, START + timedelta(hours=1), where=pl.col("device") == "a")
    plan = plan.select("power_w")
    assert "FILTER" not in plan.explain().replace("SELECTION", ""), plan.explain()
    assert "PROJECT" in plan.explain()
    assert plan.collect()["power_w"].to_list() == [1.5]


def test_segments_stored_in_different_types_read_as_one_column(store: Store) -> None:
    for number, values in enumerate(([1.0, 2.0], [0.5, 0.125], [1 / 3, 1e30])):
        times = [START_NS + number * 10**9 + tick for tick in (0, 1 if number else 1_000_000)]
        store.write("device_samples", {"device": ["a"] * 2, "time": times, "fabric_received_bytes": values})
    frame = frames.scan(store, "device_samples").sort("time").collect()
    assert frame["fabric_received_bytes"].to_list() == [1.0, 2.0, 0.5, 0.125, 1 / 3, 1e30]


def test_latest_gives_the_last_row_of_each_key(store: Store) -> None:
    for power in (400.0, 500.0):
        now = START_NS + int(power) * 10**9
        store.write(
            "devices", {"device": ["a", "b"], "source": ["s"] * 2, "time": [now] * 2, "power_limit_w": [power, 1.0]}
        )
    found = frames.latest(store, "devices").sort("device").collect()
    assert found["power_limit_w"].to_list() == [500.0, 1.0]


def test_an_allocation_that_ended_replaces_the_one_that_ran(store: Store) -> None:
    base = {"workload": ["job"], "device": ["a"], "start": [START_NS], "source": ["slurm"]}
    store.write("allocations", {**base, "time": [START_NS]})
    store.write("allocations", {**base, "time": [START_NS + 10], "end": [START_NS + 9]}, writer="other")
    assert frames.scan(store, "allocations").collect().height == 2
    assert frames.latest(store, "allocations").collect()["end"].is_null().to_list() == [False]


def test_the_same_event_from_two_writers_is_one_row(store: Store) -> None:
    event = {"host": ["h"], "kind": ["xid"], "time": [START_NS], "source": ["s"], "message": ["one"]}
    store.write("events", event)
    store.write("events", {**event, "message": ["two"]}, writer="other")
    assert frames.scan(store, "events").collect()["message"].to_list() == ["two"]
    assert frames.scan(store, "events", columns=("message",)).collect().to_dict(as_series=False) == {"message": ["two"]}


def test_columns_that_are_named_are_all_there_is_also_of_what_no_segment_has(store: Store) -> None:
    wanted = ("power_w", "device", "fan_speed_ratio")
    empty = frames.scan(store, "device_samples", columns=wanted).collect()
    write(store)
    whole = frames.scan(store, "device_samples", START_NS + 1).select(wanted).collect()
    named = frames.scan(store, "device_samples", START_NS + 1, columns=wanted)
    assert_frame_equal(named.collect(), whole, check_row_order=False)
    assert empty.schema == named.collect_schema()
    one = whole["device"][0]
    mine = frames.scan(store, "device_samples", START_NS + 1, where=pl.col("device") == one, columns=wanted).collect()
    assert 0 < mine.height == whole.filter(device=one).height


def test_no_store_and_no_table_are_errors(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="no store here"):
        frames.scan(tmp_path / "nothing", "device_samples")
    with pytest.raises(StoreError, match="no table 'watts'"):
        frames.scan(store, "watts")


def fleet(store: Store) -> None:
    """Segments that share devices, one that repeats rows of another, and a device in two days."""
    for names, hour in (("abc", 0), ("cde", 1), ("ef", 2), ("abc", 0), ("ag", 24)):
        times = [START_NS + (hour * 3600 + 10 * n) * 10**9 for n in range(20)]
        rows = {"device": [name for name in names for _ in times], "time": times * len(names)}
        store.write("device_samples", {**rows, "source": ["s"] * len(rows["time"]), "power_w": [1.0] * len(names) * 20})


def test_parts_have_every_device_whole_and_every_row_once(store: Store) -> None:
    fleet(store)
    parts = [part.collect() for part in frames.by_device(store, "device_samples", rows=40)]
    assert len(parts) > 2
    devices = [set(part["device"]) for part in parts]
    assert sum(len(some) for some in devices) == len(set.union(*devices)) == 7
    whole = frames.scan(store, "device_samples").collect()
    keys = ["device", "source", "time"]
    assert pl.concat(parts).sort(keys).equals(whole.sort(keys))
    assert whole.height == 20 * 10


def test_parts_are_cut_to_the_window_and_a_small_store_is_one(store: Store) -> None:
    assert [part.collect().height for part in frames.by_device(store, "device_samples")] == [0]
    fleet(store)
    end = START + timedelta(hours=3)
    parts = frames.by_device(store, "device_samples", START + timedelta(hours=1), end, rows=10)
    assert sum(part.collect().height for part in parts) == 20 * 5
    assert len(frames.by_device(store, "device_samples")) == 1


def test_what_is_made_of_each_part_comes_to_what_is_made_of_the_whole(store: Store) -> None:
    fleet(store)

    def longest(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.group_by("device").agg(pl.col("time").max(), n=pl.len())

    parts = frames.by_device(store, "device_samples", rows=30)
    found = frames.over_devices(longest, parts)
    assert found.sort("device").equals(longest(frames.scan(store, "device_samples")).sort("device").collect())
