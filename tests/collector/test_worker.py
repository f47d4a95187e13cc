"""The worker's schedule and its manners, without a process; the processes are in test_agent.py."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from collector import wire, worker
from collector.errors import ConfigError, ReadRetry, SourceUnavailable
from collector.sample import Reading

SCENE: dict[str, Any] = {}


@contextmanager
def open_scene(options: Any, host: str) -> Iterator[Any]:
    if "error" in SCENE:
        raise SCENE["error"]
    yield SCENE["sources"]


class Scripted:
    """Sources whose ticks take as long as the script says, by moving the clock."""

    def __init__(self, clock: "Clock", takes_s: list[float]) -> None:
        self.clock = clock
        self.takes_s = takes_s

    def tick(self, deadline_s: float) -> Iterator[Reading]:
        self.clock.now_s += self.takes_s.pop(0)
        yield Reading(source="a", read_s=0.1)


class Clock:
    now_s = 100.3

    def __call__(self) -> float:
        return self.now_s


class Link:
    """The agent's end, which waits by moving the clock and ends after a number of ticks."""

    def __init__(self, clock: Clock, ticks: int) -> None:
        self.clock = clock
        self.left = ticks
        self.sent: list[Any] = []
        self.ticks: list[tuple[int, int]] = []

    def send(self, *message: Any) -> None:
        self.sent.append(message)

    def send_tick(self, number: int, complete: bool, missed: int, readings: Any, stuck: Any) -> None:
        if complete:
            self.ticks.append((number, missed))

    def closed_within(self, wait_s: float) -> bool:
        self.clock.now_s += max(0.0, wait_s)
        self.left -= 1
        return self.left == 0


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Link]]:
    monkeypatch.setattr(worker, "_load", lambda opener: open_scene)
    order = wire.Order(name="fake", opener="m:f", options={}, host="n", period_s=1.0, deadline_s=0.5)

    def play(takes_s: list[float]) -> Link:
        clock = Clock()
        SCENE["sources"] = Scripted(clock, [*takes_s])
        link = Link(clock, len(takes_s))
        worker.work(order, link, lambda name: None, clock=clock)  # type: ignore[arg-type]
        return link

    yield play
    SCENE.clear()


def test_the_first_tick_is_at_once_and_the_others_on_the_grid(scene: Callable[..., Link]) -> None:
    link = scene([0.1, 0.1, 0.1])
    assert link.ticks == [(100, 0), (101, 0), (102, 0)]
    assert link.clock.now_s == pytest.approx(103.0)


def test_ticks_that_pass_while_one_runs_over_are_counted_and_not_caught_up(scene: Callable[..., Link]) -> None:
    assert scene([0.1, 3.5, 0.1, 0.1]).ticks == [(100, 0), (101, 0), (105, 3), (106, 0)]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SourceUnavailable("no driver"), (wire.FAILED, "unavailable", "no driver")),
        (ConfigError("power", "is wrong"), (wire.FAILED, "config", "power: is wrong")),
        (ImportError("x", name="pynvml"), (wire.FAILED, "unavailable", "pynvml cannot be imported: x")),
    ],
)
def test_what_keeps_a_source_from_opening_is_told(
    scene: Callable[..., Link], error: Exception, told: tuple[Any, ...]
) -> None:
    SCENE["error"] = error
    assert scene([]).sent == [told]


def test_a_source_that_fails_whole_for_one_tick_goes_on(scene: Callable[..., Link]) -> None:
    class Failing(Scripted):
        def tick(self, deadline_s: float) -> Iterator[Reading]:
            yield from super().tick(deadline_s)
            raise ReadRetry("busy")

    clock = Clock()
    link = Link(clock, 2)
    SCENE["sources"] = Failing(clock, [0.1, 0.1])
    order = wire.Order(name="fake", opener="m:f", options={}, host="n", period_s=1.0, deadline_s=0.5)
    worker.work(order, link, lambda name: None, clock=clock)  # type: ignore[arg-type]
    assert len(link.ticks) == 2


def test_a_worker_imports_neither_store_nor_exposition_nor_a_vendor() -> None:
    heavy = ["duckdb", "prometheus_client", "polars", "numpy", "asyncio", "aiohttp", "pynvml", "typer"]
    code = f"import sys, collector.worker; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
