"""The agent over real workers: what hangs, crashes or leaves is its own gap and nobody else's."""

import contextlib
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.agent import Agent
from collector.catalogue import POWER, UTILIZATION
from collector.config import Config, SourceConfig
from collector.errors import ConfigError
from collector.feed import Limits
from collector.health import Health
from collector.notify import Notifier

Start = Callable[..., Any]


def test_every_source_is_read_on_every_tick(control: Any, start: Start) -> None:
    control.put("a")
    control.put("b")
    running = start(control.source())
    running.recorder.until_more("fake:a", 10)
    assert abs(len(running.recorder.good("fake:a")) - len(running.recorder.good("fake:b"))) <= 1
    assert running.recorder.gaps("fake:a") == []


def ticks(running: Any, source: str) -> list[int]:
    """The numbers of the ticks of the good readings, by the time of their samples."""
    return [reading.samples[0].time_ns for reading in running.recorder.good(source)]


def longest_pause_s(running: Any, source: str) -> float:
    times = ticks(running, source)
    return max((b - a) / 1e9 for a, b in itertools.pairwise(times))


def test_while_one_device_hangs_the_others_miss_no_tick(control: Any, start: Start) -> None:
    for name in "abc":
        control.put(name)
    running = start(control.source(period_s=0.4, deadline_s=0.2, options={"open_s": 1.0}))
    running.recorder.until_more("fake:c")
    control.put("b", "hang")
    running.recorder.until(lambda: len(control.pids) >= 2, "the worker was not replaced")
    running.recorder.until_more("fake:a", 5)
    running.recorder.until_more("fake:c", 5)
    assert "timeout" in running.recorder.gaps("fake:b")
    for name in "ac":
        assert running.recorder.gaps(f"fake:{name}") == []
        assert longest_pause_s(running, f"fake:{name}") < 0.78, "a tick was missed"


def test_a_device_that_hung_comes_back_when_it_answers(control: Any, start: Start) -> None:
    control.put("a")
    control.put("b", "hang")
    running = start(control.source())
    running.recorder.until(lambda: bool(running.recorder.events("source_lost")))
    control.put("b")
    running.recorder.until_more("fake:b", 10)
    assert [event.device for event in running.recorder.events("source_back")] == ["b"]
    assert running.metric("perfwatt_source_up", source="fake:b") == 1


def test_the_pause_before_the_next_try_grows(control: Any, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    control.put("a")
    control.put("b", "hang")
    running = start(control.source())

    def tries() -> list[float]:
        return [record.next_try_s for record in caplog.records if record.message == "source in quarantine"]

    running.recorder.until(lambda: len(tries()) >= 4)
    assert tries()[:4] == [0.1, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("how", ["freeze", "crash"])
def test_a_device_that_takes_its_process_down_is_found_out_and_the_others_go_on(
    control: Any, start: Start, how: str
) -> None:
    for name in "abc":
        control.put(name)
    running = start(control.source())
    running.recorder.until_more("fake:c")
    control.put("b", how)
    running.recorder.until(lambda: bool(running.recorder.events("worker_lost")))
    running.recorder.until_more("fake:a", 10)
    running.recorder.until_more("fake:c", 10)
    lost = running.recorder.events("worker_lost")
    assert len(lost) == 1, "the others were taken down again"
    assert "fake:b" in lost[0].message
    control.put("b")
    running.recorder.until_more("fake:b", 5)


def test_a_bug_in_the_reading_of_one_device_is_its_own_gap(control: Any, start: Start) -> None:
    control.put("a", "break")
    control.put("b")
    running = start(control.source())
    running.recorder.until_more("fake:b", 5)
    assert set(running.recorder.gaps("fake:a")) == {"error"}
    assert len(control.pids) == 1


def test_a_device_that_leaves_is_an_event_and_an_ended_series_and_is_taken_up_again(control: Any, start: Start) -> None:
    control.put("a")
    control.put("b")
    running = start(control.source())
    running.recorder.until_more("fake:b")
    control.remove("b")
    running.recorder.until(lambda: bool(running.recorder.events("device_gone")))
    (event,) = running.recorder.events("device_gone")
    assert (event.device, event.host, event.code, event.severity.value) == ("b", "node1", "device_gone", "critical")
    assert [reading.gone for reading in running.recorder.of("fake:b") if reading.gone] == [("b",)]
    assert running.metric("perfwatt_source_up", source="fake:b") == 0
    running.recorder.until_more("fake:a")
    assert running.metric("perfwatt_devices_present", source="fake") == 1
    control.put("b")
    running.recorder.until_more("fake:b")
    assert [event.device for event in running.recorder.events("device_back")] == ["b"]
    assert [reading.devices[0].id for reading in running.recorder.good("fake:b") if reading.devices] == ["b", "b"]


def test_a_device_that_hangs_and_then_leaves_is_gone(control: Any, start: Start) -> None:
    control.put("a")
    control.put("b")
    running = start(control.source())
    running.recorder.until_more("fake:b")
    control.put("b", "hang")
    running.recorder.until(lambda: "timeout" in running.recorder.gaps("fake:b"))
    control.remove("b")
    running.recorder.until(lambda: any(reading.gone == ("b",) for reading in running.recorder.of("fake:b")))
    assert len(running.recorder.events("device_gone")) == 1
    control.put("b")
    running.recorder.until_more("fake:b")


def test_a_driver_that_is_not_there_yet_is_a_gap_until_it_is(control: Any, start: Start) -> None:
    control.put("a")
    control.flag("unavailable")
    running = start(control.source())
    running.recorder.until(lambda: len(running.recorder.gaps("fake")) > 3)
    assert set(running.recorder.gaps("fake")) == {"unavailable"}
    assert running.metric("perfwatt_source_up", source="fake") == 0
    control.flag("unavailable", False)
    running.recorder.until_more("fake:a")
    assert running.metric("perfwatt_source_up", source="fake") is None
    assert running.metric("perfwatt_source_up", source="fake:a") == 1


def test_a_source_that_is_slow_to_open_holds_up_nobody(control: Any, another_control: Any, start: Start) -> None:
    control.put("a")
    another_control.put("b")
    running = start(control.source("slow", options={"open_s": 0.5}), another_control.source("quick"))
    running.recorder.until_more("fake:a")
    assert len(running.recorder.good("fake:b")) >= 8


def test_a_worker_that_hangs_whole_is_started_again_with_growing_pauses(
    control: Any, start: Start, quick: Limits
) -> None:
    control.put("a")
    limits = replace(quick, open_s=2.0)
    frozen = SourceConfig(type="fake_sources:open_frozen", name="frozen", period_s=0.05, deadline_s=0.02)
    running = start(frozen, control.source(), limits=limits)
    running.recorder.until(lambda: (running.metric("perfwatt_worker_restarts_total", source="frozen") or 0) >= 2)
    assert set(running.recorder.gaps("frozen")) == {"timeout"}
    assert running.recorder.gaps("fake:a") == []


def test_a_value_that_cannot_be_true_is_absent_and_counted(control: Any, start: Start) -> None:
    control.put("a", "absurd")
    running = start(control.source())
    running.recorder.until_more("fake:a")
    assert all(POWER not in reading.samples[0].values for reading in running.recorder.good("fake:a"))
    assert UTILIZATION in running.recorder.good("fake:a")[0].samples[0].values
    dropped = running.metric("perfwatt_values_dropped_total", source="fake:a", metric="device.power_w")
    assert dropped is not None
    assert dropped >= 3


def test_a_device_is_described_once_and_again_after_its_worker_was_replaced_only_if_it_changed(
    control: Any, start: Start
) -> None:
    control.put("a")
    control.put("b")
    running = start(control.source())
    running.recorder.until_more("fake:a")
    control.put("b", "crash")
    running.recorder.until(lambda: bool(running.recorder.events("worker_lost")))
    running.recorder.until_more("fake:a")
    assert len([reading for reading in running.recorder.good("fake:a") if reading.devices]) == 1


def test_a_retry_is_a_gap_with_its_reason_and_no_event_before_the_third(
    control: Any, start: Start, quick: Limits
) -> None:
    control.put("a")
    running = start(control.source(), limits=replace(quick, lost_after=3))
    running.recorder.until_more("fake:a")
    control.put("a", "retry")
    running.recorder.until(lambda: len(running.recorder.events("source_lost")) == 1)
    assert running.recorder.gaps("fake:a") == ["read_failed"] * 3
    assert running.metric("perfwatt_gaps_total", source="fake:a", reason="read_failed") == 3


# ------------------------------------------------------------------------------------------------------ stop and reload


@pytest.mark.parametrize("how", ["hang", "freeze"])
def test_it_stops_within_two_seconds_while_a_source_hangs(control: Any, start: Start, how: str) -> None:
    control.put("a")
    running = start(control.source())
    running.recorder.until_more("fake:a")
    control.put("a", how)
    # Frozen, a worker cannot tell; that no reading comes is how one knows.
    count = len(running.recorder.of("fake:a"))
    running.recorder.until(lambda: len(running.recorder.of("fake:a")) > count)
    assert running.stop() < 2.0
    for pid in control.pids:
        assert not Path(f"/proc/{pid}").exists(), "a worker was left behind"


def test_what_arrived_before_the_stop_reaches_the_sinks(control: Any, start: Start) -> None:
    control.put("a")
    running = start(control.source())
    running.recorder.until_more("fake:a")
    running.stop()
    assert running.recorder.good("fake:a")


def test_a_reload_touches_only_what_changed(control: Any, another_control: Any, start: Start) -> None:
    control.put("a")
    another_control.put("b")
    same, slower = control.source("same"), another_control.source("changed", period_s=0.1, deadline_s=0.05)
    running = start(same, another_control.source("changed"))
    running.recorder.until_more("fake:a")
    running.recorder.until_more("fake:b")
    running.loads.append(Config(sources=(same, slower)))
    running.agent.wake(signal.SIGHUP)
    running.recorder.until(lambda: bool(running.recorder.events("config_reloaded")))
    running.recorder.until(lambda: len(another_control.pids) == 2)
    running.recorder.until_more("fake:b", 5)
    assert len(control.pids) == 1
    assert running.recorder.gaps("fake:b") == [], "the change cost a tick"
    times = ticks(running, "fake:b")[-3:]
    assert all(b - a > 70e6 for a, b in itertools.pairwise(times)), "still read at the old pace"


def test_a_source_that_is_configured_no_more_ends_with_its_metrics(
    control: Any, another_control: Any, start: Start
) -> None:
    control.put("a")
    another_control.put("b")
    running = start(control.source("kept"), another_control.source("dropped"))
    running.recorder.until_more("fake:b")
    running.loads.append(Config(sources=(control.source("kept"),)))
    running.agent.wake(signal.SIGHUP)
    running.recorder.until(lambda: bool(running.recorder.events("config_reloaded")))
    running.recorder.until_more("fake:a")
    assert running.metric("perfwatt_source_up", source="fake:b") is None
    assert running.metric("perfwatt_worker_restarts_total", source="dropped") is None
    assert running.metric("perfwatt_source_up", source="fake:a") == 1


def test_a_wrong_new_configuration_leaves_the_old_one_in_force(
    control: Any, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    control.put("a")
    running = start(control.source())
    running.recorder.until_more("fake:a")
    running.loads.append(ConfigError("agent.period_s", "is -1, below the least of 0.02", path="perfwatt.toml"))
    running.agent.wake(signal.SIGHUP)
    running.recorder.until(lambda: bool(running.recorder.events("config_refused")))
    assert running.metric("perfwatt_config_reload_ok") == 0
    assert "perfwatt.toml: agent.period_s: is -1" in str([record.__dict__ for record in caplog.records])
    running.recorder.until_more("fake:a")
    assert len(control.pids) == 1
    running.loads.append(Config(sources=(control.source(),)))
    running.agent.wake(signal.SIGHUP)
    running.recorder.until(lambda: bool(running.recorder.events("config_reloaded")))
    assert running.metric("perfwatt_config_reload_ok") == 1


def test_options_that_the_check_refuses_leave_the_old_ones_in_force(control: Any, start: Start) -> None:
    control.put("a")
    refuse = [sys.executable, "-c", "print('perfwatt.toml: source[0].watts: is unknown', end=''); raise SystemExit(2)"]
    running = start(control.source(), check=refuse)
    running.recorder.until_more("fake:a")
    running.agent.wake(signal.SIGHUP)
    running.recorder.until(lambda: bool(running.recorder.events("config_refused")))
    assert "source[0].watts" in running.recorder.events("config_refused")[0].message
    running.recorder.until_more("fake:a")


def test_options_that_only_the_worker_finds_wrong_leave_the_old_worker_reading(control: Any, start: Start) -> None:
    control.put("a")
    running = start(control.source())
    running.recorder.until_more("fake:a")
    control.flag("refuse")
    running.loads.append(Config(sources=(control.source(options={"changed": 1}),)))
    running.agent.wake(signal.SIGHUP)
    running.recorder.until(lambda: bool(running.recorder.events("config_refused")))
    running.recorder.until_more("fake:a")
    assert running.recorder.gaps("fake:a") == []
    assert running.metric("perfwatt_config_reload_ok") == 0


def test_a_source_that_refuses_its_options_at_the_start_ends_the_agent(control: Any, start: Start) -> None:
    control.flag("refuse")
    agent = Agent(
        Config(sources=(control.source(),)),
        host="node1",
        sinks=[],
        health=Health(),
        notifier=Notifier({}),
        load=Config,
        check=["true"],
    )
    with pytest.raises(ConfigError, match="source fake: power: is wrong"):
        agent.run()


# ------------------------------------------------------------------------------------------------------ clock and sinks


class Wall:
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.offset_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.offset_ns


def test_a_step_of_the_wall_clock_is_an_event(control: Any, start: Start) -> None:
    control.put("a")
    wall = Wall()
    running = start(control.source(), wall_ns=wall)
    running.recorder.until_more("fake:a")
    wall.offset_ns = -3600 * 10**9
    running.recorder.until(lambda: bool(running.recorder.events("clock_jump")))
    running.recorder.until_more("fake:a")
    (event,) = running.recorder.events("clock_jump")
    assert event.value == pytest.approx(-3600, abs=0.5)
    assert running.metric("perfwatt_clock_jumps_total") == 1


def test_a_clock_that_is_steered_slowly_is_no_event(control: Any, start: Start) -> None:
    control.put("a")
    wall = Wall()
    running = start(control.source(), wall_ns=wall)
    for _ in range(4):
        running.recorder.until_more("fake:a", 2)
        wall.offset_ns += 400 * 10**6
    running.recorder.until_more("fake:a", 2)
    assert running.recorder.events("clock_jump") == []


def test_a_new_day_begins_with_every_device_described(control: Any, start: Start) -> None:
    control.put("a")
    wall = Wall()
    running = start(control.source(), wall_ns=wall)
    running.recorder.until_more("fake:a")
    wall.offset_ns = 86_400 * 10**9
    running.recorder.until(lambda: len([r for r in running.recorder.good("fake:a") if r.devices]) == 2)


class Broken:
    """A sink with a bug."""

    def __init__(self, times: int) -> None:
        self.times = times

    def take(self, readings: Any) -> None:
        if self.times:
            self.times -= 1
            raise RuntimeError("a bug")

    def close(self) -> None:
        return


def test_a_sink_that_fails_now_and_then_stops_nothing(
    control: Any, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    control.put("a")
    running = start(control.source(), sinks=[Broken(times=3)])
    running.recorder.until_more("fake:a", 10)
    assert [record.message for record in caplog.records].count("turn failed") == 3


# ------------------------------------------------------------------------------------------------------ service manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30.0)
        yield listener


def heard(manager: socket.socket, word: str) -> str:
    while True:
        message = manager.recv(4096).decode()
        if message.startswith(word):
            return message


def test_the_service_manager_is_told_ready_reloading_alive_and_stopping(
    control: Any, start: Start, manager: socket.socket
) -> None:
    control.put("a")
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    running = start(control.source(), env=env)
    assert heard(manager, "READY=1") == "READY=1\nSTATUS=reading 1 of 1 sources"
    assert running.recorder.good("fake:a"), "ready before the first tick"
    heard(manager, "WATCHDOG=1")
    running.loads.append(Config(sources=(control.source(),)))
    running.agent.wake(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in heard(manager, "RELOADING=1")
    heard(manager, "READY=1")
    running.agent.wake(signal.SIGTERM)
    heard(manager, "STOPPING=1")


def test_a_source_that_cannot_be_opened_does_not_keep_the_agent_from_being_ready(
    control: Any, start: Start, manager: socket.socket
) -> None:
    start(control.source(), env={"NOTIFY_SOCKET": manager.getsockname()})
    assert heard(manager, "READY=1") == "READY=1\nSTATUS=reading 0 of 1 sources"


def test_the_watchdog_hears_nothing_from_an_agent_that_makes_no_progress(
    control: Any, start: Start, manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    control.put("a")
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "100000"}
    running = start(control.source(), env=env)
    running.recorder.until_more("fake:a")
    # What is due is never done: the supervision itself is broken.
    running.agent._feeds["fake"].overdue_s = lambda now_s: 60.0
    running.recorder.until(lambda: any(record.message == "no progress" for record in caplog.records))
    manager.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            manager.recv(4096)
    running.recorder.until_more("fake:a", 10)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
