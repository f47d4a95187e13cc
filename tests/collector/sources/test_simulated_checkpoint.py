"""A simulated fleet goes on from a file where it was, and is the same fleet."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.errors import ConfigError
from collector.sample import Coded
from collector.sources.simulated import check_options, open_simulated, simulate
from collector.sources.simulated_fleet import NS, parse
from collector.sources.simulated_history import Simulation

DAY = 1_788_220_800 * NS
HOUR = 3600 * NS
OPTIONS: dict[str, Any] = {
    "devices": 4, "devices_per_host": 2, "sites": 2, "seed": 7, "mix": {"H100": 0.6, "MI300X": 0.4}, "faults": 12.0,
    "origin": DAY, "busy": 0.5, "growth": 0.5,
}  # fmt: skip


def rows(options: dict[str, Any], start_ns: int, end_ns: int) -> dict[str, dict[str, Any]]:
    """Columns of each table; text as words, times as numbers."""
    found: dict[str, dict[str, list[Any]]] = {}
    for tables in simulate(options, start_ns, end_ns, 60):
        for table, columns in tables.items():
            for name, column in columns.items():
                plain = np.array([*column.words, None], object)[column.codes] if isinstance(column, Coded) else column
                values = plain.view("i8") if plain.dtype.kind == "M" else plain
                found.setdefault(table, {}).setdefault(name, []).append(values)
    return {table: {name: np.concatenate(parts) for name, parts in columns.items()} for table, columns in found.items()}


def begun(path: Path) -> int:
    """Where a fleet starts that is asked for at ten."""
    return Simulation(parse({**OPTIONS, "checkpoint": str(path)}), DAY + 10 * HOUR).start_ns


def test_what_goes_on_from_a_file_is_what_began_at_the_origin(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    middle, end = DAY + 8 * HOUR + HOUR // 2, DAY + 14 * HOUR
    rows({**OPTIONS, "checkpoint": str(path)}, DAY, middle)
    assert begun(path) == DAY + 6 * HOUR
    again, whole = rows({**OPTIONS, "checkpoint": str(path)}, middle, end), rows(OPTIONS, middle, end)
    assert again.keys() == whole.keys()
    for table, columns in whole.items():
        assert again[table].keys() == columns.keys()
        for name, values in columns.items():
            np.testing.assert_array_equal(again[table][name], values, err_msg=f"{table}.{name}")


def test_a_live_fleet_goes_on_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    rows({**OPTIONS, "checkpoint": str(path)}, DAY, DAY + 8 * HOUR)
    now = DAY + 8 * HOUR + 600 * NS
    with open_simulated({**OPTIONS, "checkpoint": str(path)}, "here", clock_ns=lambda: now) as fleet:
        there = [reading.samples for reading in fleet.tick(1)]
    with open_simulated(OPTIONS, "here", clock_ns=lambda: now) as fleet:
        assert [reading.samples for reading in fleet.tick(1)] == there


@pytest.mark.parametrize(
    "other", [{"seed": 8}, {"devices": 24}, {"faults": 0.0}, {"growth": 0.1}, {"origin": DAY - 24 * HOUR}]
)
def test_the_file_of_another_fleet_is_not_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "state.npz"
    rows({**OPTIONS, **other, "checkpoint": str(path)}, DAY, DAY + 7 * HOUR)
    assert begun(path) == DAY


def test_a_later_state_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    rows({**OPTIONS, "checkpoint": str(path)}, DAY, DAY + 13 * HOUR)
    assert begun(path) == DAY


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04cut off"])
def test_a_broken_file_is_told_and_the_fleet_begins_at_its_origin(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert begun(path) == DAY
    assert str(path) in caplog.text


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        told = rows({**OPTIONS, "checkpoint": str(tmp_path / "nowhere" / "state.npz")}, DAY, DAY + HOUR)
    assert len(told["device_samples"]["time"])
    assert "cannot be kept" in caplog.text


def test_a_path_is_wanted() -> None:
    with pytest.raises(ConfigError, match="checkpoint: 7: a file's path"):
        check_options({**OPTIONS, "checkpoint": 7})


def starts(growth: float) -> tuple[dict[str, int], int]:
    """When each device was first given work in the hours after the origin, and how many devices there are."""
    options = {**OPTIONS, "devices": 96, "devices_per_host": 2, "faults": 0.0, "busy": 0.25, "growth": growth}
    held = rows(options, DAY, DAY + 12 * HOUR)["allocations"]
    first: dict[str, int] = {}
    for device, start_ns in zip(held["device"], held["start"].tolist(), strict=True):
        first[device] = min(start_ns, first.get(device, start_ns))
    return first, 96


def test_work_grows_from_the_share_that_was_busy() -> None:
    first, devices = starts(growth=1.0)
    for hour in (0, 4, 8, 12):
        share = sum(start_ns <= DAY + hour * HOUR for start_ns in first.values()) / devices
        assert share == pytest.approx(0.25 + hour / 24, abs=0.12), hour


def test_without_growth_what_is_idle_stays_so() -> None:
    first, devices = starts(growth=0.0)
    assert len(first) / devices == pytest.approx(0.25, abs=0.12)
