"""The agent over real nvidia-ml-py and a library whose boards hang, fall off the bus and come back."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from collector.catalogue import ENERGY, POWER
from collector.config import SourceConfig


@pytest.fixture
def boards(nvml: Any, start: Callable[..., Any]) -> Any:
    """An agent that reads four boards."""
    nvml.reset(4)
    nvml.switches.clock_ns = 0  # the stub goes by the machine's clock
    options = nvml.options(rescan_s=0.3)
    source = SourceConfig(type="nvml", name="nvml", period_s=0.4, deadline_s=0.2, options=options)
    running = start(source)
    running.recorder.until(lambda: len(names(running)) == 4)
    running.recorder.until_more(names(running)[3], 5)
    yield running
    for board in range(4):
        nvml.device[board].hang = 0
        nvml.device[board].lost = 0


def names(running: Any) -> list[str]:
    return sorted({reading.source for reading in [*running.recorder.readings] if reading.samples})


def test_four_boards_are_read_in_step_with_power_and_energy(boards: Any) -> None:
    for name in names(boards):
        values = boards.recorder.good(name)[-1].samples[0].values
        assert values[POWER] > 0
        assert values[ENERGY] > 0
        assert boards.recorder.gaps(name) == []


def test_a_board_that_hangs_in_the_driver_is_a_gap_and_the_others_miss_no_tick(boards: Any, nvml: Any) -> None:
    before = {name: len(boards.recorder.good(name)) for name in names(boards)}
    nvml.device[1].hang = 1
    boards.recorder.until(lambda: bool(boards.recorder.events("source_lost")))
    hung = {name for name in names(boards) if boards.recorder.gaps(name)}
    assert len(hung) == 1
    others = [name for name in names(boards) if name not in hung]
    for name in others:
        boards.recorder.until_more(name, 8)
        times = [reading.samples[0].time_ns for reading in boards.recorder.good(name)[before[name] :]]
        assert max((b - a) / 1e9 for a, b in pairwise(times)) < 0.78, "a tick was missed"
    assert set(boards.recorder.gaps(*hung)) == {"timeout"}
    nvml.device[1].hang = 0
    boards.recorder.until_more(*hung, 3)
    assert boards.metric("perfwatt_source_up", source=next(iter(hung))) == 1


def test_a_board_that_falls_off_the_bus_ends_and_is_taken_up_when_it_is_back(boards: Any, nvml: Any) -> None:
    nvml.device[2].lost = 1
    boards.recorder.until(lambda: bool(boards.recorder.events("device_gone")))
    (event,) = boards.recorder.events("device_gone")
    assert event.device is not None
    (gone,) = [reading.source for reading in boards.recorder.readings if event.device in reading.gone]
    others = [name for name in names(boards) if name != gone]
    boards.recorder.until_more(others[0], 3)
    nvml.device[2].lost = 0
    boards.recorder.until_more(gone, 3)
    for name in others:
        assert boards.recorder.gaps(name) == []
