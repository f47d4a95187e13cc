"""A replay shows what was recorded, at its speed, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analytics.frames import scan
from collector.errors import ConfigError, SourceUnavailable
from collector.replaying import check_options
from collector.replaying import open_replay as open_stored
from collector.sample import Reading
from collector.sources.replay import open_replay, parse
from collector.sources.simulated import simulate
from collector.store import Store

NS = 1_000_000_000
START = 1_788_220_800 * NS
LOST = {"kind": "device_lost", "subject": 2, "start": 300, "end": 600}


class Clock:
    """Time as a test wants it."""

    def __init__(self, ns: int = 1_900_000_000 * NS) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns


def row(second: float, *, device: str = "gpu", source: str = "nvml", power: float = 100.0) -> dict[str, Any]:
    return {"device": device, "time": START + round(second * NS), "source": source, "host": "node", "power_w": power}


class Tape:
    """Rows in memory, and which stretches of it were asked for."""

    def __init__(self, **tables: list[dict[str, Any]]) -> None:
        self.tables = tables
        self.asked: list[tuple[str, int, int]] = []

    def __call__(self, table: str, start_ns: int, end_ns: int) -> Iterator[dict[str, Any]]:
        self.asked.append((table, start_ns, end_ns))
        return (r for r in self.tables.get(table, []) if start_ns <= r["time"] < end_ns)


def times(readings: list[Reading]) -> list[float]:
    return [sample.time_ns / NS for reading in readings for sample in reading.samples]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty minutes of a simulated host, with a device that falls off the bus."""
    root = tmp_path / "recording"
    store = Store.create(root)
    options = {"devices": 8, "mix": {"H100": 1}, "faults": [LOST], "origin": START}
    for tables in simulate(options, START, START + 1200 * NS, 10):
        for table, columns in tables.items():
            store.write(table, columns, writer="simulated")
    return root


TABLES = ("device_samples", "host_samples", "workload_samples", "facility_samples", "allocations", "events")


def compared(root: Path, table: str, shift_s: int) -> pl.DataFrame:
    frame = scan(root, table).collect()
    moments = [name for name, kind in frame.schema.items() if kind == pl.Datetime("ns")]
    frame = frame.with_columns(pl.col(moments) - pl.duration(seconds=shift_s))
    if "source" in frame.columns:
        frame = frame.with_columns(pl.col("source").str.strip_prefix("replay:"))
    return frame.sort(frame.columns)


@pytest.mark.parametrize("speed", [1000.0, 60.0])
def test_what_is_replayed_into_a_store_is_what_was_recorded_but_for_the_time(
    recording: Path, tmp_path: Path, speed: float
) -> None:
    clock = Clock(START + 86_400 * NS)
    root = tmp_path / "again"
    writer = Store.create(root).writer("replay")
    with open_stored({"root": str(recording), "speed": speed}, "here", clock_ns=clock) as sources:
        for _ in range(30):
            writer.take(list(sources.tick(0.5)))
            clock.ns += 1 * NS if speed > 100 else 7 * NS
        assert list(sources.tick(0.5)) == []
    writer.close()
    for table in TABLES:
        recorded, replayed = compared(recording, table, 0), compared(root, table, 86_400)
        assert recorded.height > 0
        assert recorded.equals(replayed, null_equal=True), table
    told = scan(root, "devices").select("device", "model", "serial", "power_limit_w").unique().collect()
    assert told.height == 8


def test_rows_come_when_their_time_comes_at_the_speed_of_the_replay() -> None:
    clock = Clock()
    tape = Tape(device_samples=[row(s) for s in range(10)])
    with open_replay(parse({"root": "r", "speed": 2.0}), tape, (START, START + 10 * NS), clock_ns=clock) as sources:
        assert len(times(list(sources.tick(0.5)))) == 1
        assert times(list(sources.tick(0.5))) == []
        clock.ns += 2 * NS
        assert len(times(list(sources.tick(0.5)))) == 4
        clock.ns += NS // 2
        assert len(times(list(sources.tick(0.5)))) == 1


def test_slower_than_life_is_possible() -> None:
    clock = Clock()
    tape = Tape(device_samples=[row(s) for s in range(10)])
    with open_replay(parse({"root": "r", "speed": 0.1}), tape, (START, START + 10 * NS), clock_ns=clock) as sources:
        list(sources.tick(0.5))
        clock.ns += 9 * NS
        assert times(list(sources.tick(0.5))) == []
        clock.ns += NS
        assert len(times(list(sources.tick(0.5)))) == 1


def test_times_begin_now_or_are_kept() -> None:
    clock = Clock()
    for options, first in (({}, clock.ns / NS), ({"times": "keep"}, START / NS)):
        with open_replay(
            parse({"root": "r", **options}), Tape(device_samples=[row(0)]), (START, START + NS), clock_ns=clock
        ) as sources:
            assert times(list(sources.tick(0.5))) == [first]


def test_a_loop_begins_again_and_time_goes_on() -> None:
    clock = Clock()
    tape = Tape(device_samples=[row(0), row(1)])
    options = parse({"root": "r", "loop": True, "end": START // NS * NS + 2 * NS})
    with open_replay(options, tape, (START, START + 2 * NS), clock_ns=clock) as sources:
        clock.ns += 5 * NS
        seen = times(list(sources.tick(0.5)))
    first = 1_900_000_000.0
    assert seen == [first + second for second in range(6)]


def test_series_end_with_the_recording() -> None:
    clock = Clock()
    tape = Tape(device_samples=[row(0), row(0, device="other"), row(0, device="third", source="scrape")])
    with open_replay(parse({"root": "r"}), tape, (START, START + NS), clock_ns=clock) as sources:
        readings = list(sources.tick(0.5))
        assert [(r.source, r.gone) for r in readings if r.gone] == [
            ("replay:nvml", ("gpu", "other")),
            ("replay:scrape", ("third",)),
        ]
        assert list(sources.tick(0.5)) == []


def test_a_device_that_left_in_the_recording_leaves_in_the_replay() -> None:
    gone = {"host": "node", "kind": "device_gone", "time": START + NS, "device": "gpu", "source": "nvml"}
    tape = Tape(device_samples=[row(0), row(2, device="other")], events=[gone])
    clock = Clock()
    with open_replay(parse({"root": "r"}), tape, (START, START + 4 * NS), clock_ns=clock) as sources:
        list(sources.tick(0.5))
        clock.ns += NS
        (reading,) = sources.tick(0.5)
    assert reading.gone == ("gpu",)
    assert [event.kind for event in reading.events] == ["device_gone"]


def test_rows_of_one_source_at_one_time_are_one_reading_and_sources_stay_apart() -> None:
    tape = Tape(
        device_samples=[row(0, device="a", source="x"), row(0, device="b", source="y"), row(0, device="c", source="x")],
        host_samples=[{"host": "node", "time": START, "source": "x", "cpu_power_w": 90.0}],
    )
    with open_replay(parse({"root": "r"}), tape, (START, START + NS), clock_ns=Clock()) as sources:
        readings = [reading for reading in sources.tick(0.5) if reading.samples]
    assert [(r.source, [s.subject for s in r.samples]) for r in readings] == [
        ("replay:x", ["a", "c", "node"]),
        ("replay:y", ["b"]),
    ]


def test_only_a_stretch_of_the_recording_is_read_at_once() -> None:
    clock = Clock()
    tape = Tape(device_samples=[row(0), row(3000)])
    options = parse({"root": "r", "tables": ["device_samples"]})
    with open_replay(options, tape, (START, START + 3001 * NS), clock_ns=clock) as sources:
        list(sources.tick(0.5))
        clock.ns += 3000 * NS
        assert len(times(list(sources.tick(0.5)))) == 1
    assert [(end - start) / NS for _, start, end in tape.asked] == [600, 600, 600, 600, 600, 1]


def test_a_tick_given_up_half_way_loses_and_doubles_nothing() -> None:
    tape = Tape(device_samples=[row(s) for s in range(6)])
    clock = Clock()
    with open_replay(parse({"root": "r"}), tape, (START, START + 6 * NS), clock_ns=clock) as sources:
        clock.ns += 10 * NS
        first = next(iter(sources.tick(0.5)))
        rest = list(sources.tick(0.5))
    assert times([first, *rest]) == [clock.ns / NS - 10 + second for second in range(6)]


@pytest.mark.parametrize(
    ("options", "key", "says"),
    [
        ({}, "root", "directory of the store"),
        ({"root": "r", "speed": 0}, "speed", "between 0.01 and 100000"),
        ({"root": "r", "speed": True}, "speed", "a number"),
        ({"root": "r", "speed": float("nan")}, "speed", "between"),
        ({"root": "r", "loop": 1}, "loop", "true or false"),
        ({"root": "r", "times": "later"}, "times", '"now" or "keep"'),
        ({"root": "r", "times": "keep", "loop": True}, "loop", "repeat the times"),
        ({"root": "r", "start": "soon"}, "start", "ISO time"),
        ({"root": "r", "start": "2026-01-02", "end": "2026-01-01"}, "end", "later than the start"),
        ({"root": "r", "tables": ["device_sample"]}, "tables", "a list of device_samples"),
        ({"root": "r", "rate": 3}, "rate", "unknown; a replay takes root"),
    ],
)
def test_a_wrong_option_is_named_with_its_limit(options: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check_options(options)
    assert caught.value.key == key


def test_no_store_and_an_empty_stretch_are_unavailable(tmp_path: Path, recording: Path) -> None:
    for options in (
        {"root": str(tmp_path / "none")},
        {"root": str(Store.create(tmp_path / "empty").root)},
        {"root": str(recording), "start": "2031-01-01"},
        {"root": str(recording), "end": "2001-01-01"},
    ):
        with pytest.raises(SourceUnavailable, match=r"replay|store"), open_stored(options, "here"):
            pass
