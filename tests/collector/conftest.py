"""A real agent over fake sources in real worker processes."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collector.agent import Agent
from collector.config import Config, SourceConfig
from collector.feed import Limits
from collector.health import Health
from collector.notify import Notifier
from collector.sample import Event, Reading

PERIOD_S = 0.05
QUICK = Limits(open_s=5.0, grace_s=0.5, backoff_s=0.1, backoff_most_s=2.0, stable_s=30.0, stop_s=0.3)
PATIENCE_S = 30.0  # a busy machine is no failure


@dataclass
class Recorder:
    """A sink that keeps everything and can be waited on."""

    readings: list[Reading] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, readings: Sequence[Reading]) -> None:
        with self.arrived:
            self.readings += readings
            self.arrived.notify_all()

    def close(self) -> None:
        return

    def of(self, source: str) -> list[Reading]:
        return [reading for reading in [*self.readings] if reading.source == source]

    def good(self, source: str) -> list[Reading]:
        return [reading for reading in self.of(source) if reading.samples]

    def gaps(self, source: str) -> list[str]:
        return [reading.gap.reason for reading in self.of(source) if reading.gap is not None]

    def events(self, kind: str) -> list[Event]:
        return [event for reading in [*self.readings] for event in reading.events if event.kind == kind]

    def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait until *condition* holds; it is asked whenever something arrives."""
        with self.arrived:
            assert self.arrived.wait_for(condition, timeout=PATIENCE_S), what or "it did not happen"

    def until_more(self, source: str, number: int = 3) -> None:
        """Wait for *number* further good readings of *source*."""
        target = len(self.good(source)) + number
        self.until(lambda: len(self.good(source)) >= target, f"{source} is not read")


@dataclass
class Control:
    """What the fake sources of one folder do."""

    folder: Path

    def put(self, name: str, what: str = "ok") -> None:
        temporary = self.folder / f".new-{name}"
        temporary.write_text(what)
        temporary.rename(self.folder / name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def flag(self, name: str, on: bool = True) -> None:
        (self.folder / f".{name}").touch() if on else (self.folder / f".{name}").unlink()

    @property
    def pids(self) -> set[int]:
        """Every worker that opened this folder so far."""
        return {int(path.name.removeprefix(".pid-")) for path in self.folder.glob(".pid-*")}

    def source(self, name: str = "fake", **fields: Any) -> SourceConfig:
        options = {"control": str(self.folder)} | fields.pop("options", {})
        given = {"period_s": PERIOD_S, "deadline_s": PERIOD_S * 0.6} | fields
        return SourceConfig(type="fake_sources:open_fake", name=name, options=options, **given)


@dataclass
class Running:
    """An agent in a thread."""

    agent: Agent
    recorder: Recorder
    health: Health
    thread: threading.Thread
    loads: list[Config | Exception] = field(default_factory=list)

    def stop(self) -> float:
        """End the agent; gives the seconds that it took."""
        began = time.monotonic()
        if self.thread.is_alive():
            self.agent.wake(signal.SIGTERM)
            self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return time.monotonic() - began

    def metric(self, prometheus: str, **labels: str) -> float | None:
        for metric, found, value in self.health.samples():
            if metric.prometheus == prometheus and labels.items() <= found.items():
                return value
        return None


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Control:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    folder = tmp_path / "control"
    folder.mkdir()
    return Control(folder)


@pytest.fixture
def another_control(control: Control, tmp_path: Path) -> Control:
    folder = tmp_path / "another"
    folder.mkdir()
    return Control(folder)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts agents and stops them at the end."""
    started: list[Running] = []

    def begin(*sources: SourceConfig, env: dict[str, str] | None = None, **options: Any) -> Running:
        recorder, health = Recorder(), Health()
        options.setdefault("limits", QUICK)
        options.setdefault("check", ["true"])
        loads: list[Config | Exception] = []

        def load() -> Config:
            loaded = loads.pop(0)
            if isinstance(loaded, Exception):
                raise loaded
            return loaded

        notifier = Notifier(env or {})
        agent = Agent(
            Config(sources=tuple(sources)),
            host="node1",
            sinks=[recorder, *options.pop("sinks", [])],
            health=health,
            notifier=notifier,
            load=load,
            **options,
        )

        def run() -> None:
            with notifier:
                agent.run()

        running = Running(agent, recorder, health, threading.Thread(target=run, daemon=True), loads)
        running.thread.start()
        started.append(running)
        return running

    yield begin
    for running in started:
        running.stop()


@pytest.fixture
def quick() -> Limits:
    return QUICK
