"""Devices read one after another: who hangs is a gap, who leaves is an event, and nobody waits for either."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from collector.catalogue import POWER, Scope
from collector.errors import DeviceGone, ReadRetry, SourceUnavailable
from collector.sample import Device, Reading, Sample
from collector.sources.one_by_one import GivenUp, OneByOne

DEADLINE_S = 0.08


def power(name: str) -> Reading:
    sample = Sample(scope=Scope.DEVICE, subject=name, host="node1", time_ns=1, values={POWER: 100.0})
    device = Device(id=name, host="node1", vendor="v", model="m")
    return Reading(source=name, samples=(sample,), devices=(device,))


@dataclass
class Fake:
    """A device that does what its test says: waits for `gate`, raises `error`."""

    name: str
    error: Exception | None = None
    gate: threading.Event | None = None
    started: threading.Event = field(default_factory=threading.Event)
    reads: int = 0

    def read(self) -> Reading:
        self.reads += 1
        self.started.set()
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return power(self.name)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hung devices wait for; opened at the end, so that no thread is left."""
    opened = threading.Event()
    yield opened
    opened.set()


def tick(sources: OneByOne, deadline_s: float = DEADLINE_S) -> dict[str, Reading]:
    readings = list(sources.tick(deadline_s))
    assert len({reading.source for reading in readings}) == len(readings), "a source was read twice"
    return {reading.source: reading for reading in readings}


def gaps(readings: dict[str, Reading]) -> dict[str, str]:
    return {name: reading.gap.reason for name, reading in readings.items() if reading.gap is not None}


def test_every_source_is_read_once_in_order_with_its_duration() -> None:
    devices = [Fake(name) for name in "abc"]
    sources = OneByOne(devices)
    readings = tick(sources)
    assert list(readings) == ["a", "b", "c"]
    assert gaps(readings) == {}
    assert all(0 < reading.read_s < 5 for reading in readings.values())
    tick(sources)
    assert [device.reads for device in devices] == [2, 2, 2]


def test_one_thread_reads_while_nobody_hangs() -> None:
    seen: set[int] = set()

    class Noting(Fake):
        def read(self) -> Reading:
            seen.add(threading.get_ident())
            return super().read()

    sources = OneByOne([Noting("a"), Noting("b")])
    for _ in range(5):
        tick(sources, 5.0)
    assert len(seen) == 1


def test_a_source_that_hangs_is_a_gap_and_the_rest_are_read_in_the_same_tick(gate: threading.Event) -> None:
    sources = OneByOne([Fake("a"), Fake("b", gate=gate), Fake("c"), Fake("d")])
    readings = tick(sources)
    assert gaps(readings) == {"b": "timeout"}
    assert readings["d"].samples
    assert list(sources.stuck()) == ["b"]


def test_a_source_that_hangs_is_not_read_again_until_it_returned(gate: threading.Event) -> None:
    stuck = Fake("b", gate=gate)
    sources = OneByOne([Fake("a"), stuck])
    for _ in range(4):
        assert gaps(tick(sources)) == {"b": "timeout"}
    assert stuck.reads == 1
    assert sources.stuck()["b"] > DEADLINE_S
    gate.set()
    deadline = time.monotonic() + 30
    while sources.stuck() and time.monotonic() < deadline:
        tick(sources)
    assert gaps(tick(sources)) == {}


def test_a_tick_ends_within_two_deadlines_when_everything_hangs(gate: threading.Event) -> None:
    sources = OneByOne([Fake(f"d{number}", gate=gate) for number in range(16)])
    began = time.monotonic()
    readings = tick(sources, 1.0)
    assert time.monotonic() - began < 2.0
    assert set(gaps(readings).values()) == {"timeout"}
    assert len(readings) == 16


def test_what_a_late_read_brings_is_not_passed_on_as_if_it_were_new(gate: threading.Event) -> None:
    slow = Fake("a", gate=gate)
    sources = OneByOne([slow])
    assert gaps(tick(sources)) == {"a": "timeout"}
    gate.set()
    deadline = time.monotonic() + 30
    while sources.stuck() and time.monotonic() < deadline:
        time.sleep(0.001)
    tick(sources, 5.0)
    assert slow.reads == 2


class Watched:
    """Sources whose ticking thread is watched; `tick` is what a thread brings until it is done or given up."""

    def __init__(self, devices: Sequence[Fake], deadline_s: float = DEADLINE_S, **options: object) -> None:
        self.sources = OneByOne(devices, **options)  # type: ignore[arg-type]
        self.sources.select(watched=True)
        self.deadline_s = deadline_s
        self.given_up = threading.Event()
        self.then: Callable[[], None] = lambda: None

    def tick(self) -> dict[str, Reading]:
        """What one tick brings, whichever threads it takes."""
        readings: list[Reading] = []

        def run() -> None:
            try:
                for reading in self.sources.tick(self.deadline_s):
                    readings.append(reading)
            except GivenUp:
                self.given_up.set()

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive():
            thread.join(0.001)
            if self.sources.give_up(self.deadline_s) is None:
                self.then()
                thread = threading.Thread(target=run)
                thread.start()
        assert len({reading.source for reading in readings}) == len(readings), "a source was read twice"
        return {reading.source: reading for reading in readings}


def test_the_thread_that_ticks_reads_by_itself_where_it_is_watched() -> None:
    seen: list[int] = []

    class Noting(Fake):
        def read(self) -> Reading:
            seen.append(threading.get_ident())
            return super().read()

    sources = OneByOne([Noting("a"), Noting("b")], rescan=lambda: [Noting("c")], rescan_s=0.0)
    sources.select(watched=True)
    assert list(tick(sources, 5.0)) == ["a", "b"]
    assert list(tick(sources, 5.0)) == ["a", "b", "c"]
    assert set(seen) == {threading.get_ident()}
    assert sources.give_up(0.0) == float("inf")


def test_a_watched_thread_that_hangs_is_given_up_and_the_rest_are_read_in_the_same_tick(gate: threading.Event) -> None:
    devices = [Fake("a"), Fake("b", gate=gate), Fake("c"), Fake("d")]
    watched = Watched(devices)
    for _ in range(3):
        readings = watched.tick()
        assert gaps(readings) == {"b": "timeout"}
        assert set(readings) == set("abcd")
        assert list(watched.sources.stuck()) == ["b"]
    assert [device.reads for device in devices] == [3, 1, 3, 3]
    assert not watched.given_up.is_set()
    gate.set()
    assert watched.given_up.wait(30), "the thread that hung went on as if nothing had happened"
    assert gaps(watched.tick()) == {}
    assert watched.sources.stuck() == {}


def test_a_watched_tick_ends_within_two_deadlines_when_everything_hangs(gate: threading.Event) -> None:
    watched = Watched([Fake(f"d{number}", gate=gate) for number in range(16)], deadline_s=1.0)
    began = time.monotonic()
    readings = watched.tick()
    assert time.monotonic() - began < 2.0
    assert set(gaps(readings).values()) == {"timeout"}
    assert len(readings) == 16


def test_a_slow_read_that_answers_before_its_deadline_is_no_gap_though_its_thread_was_given_up(
    gate: threading.Event,
) -> None:
    watched = Watched([Fake("a"), Fake("b", gate=gate), Fake("c")], deadline_s=4.0)
    watched.then = gate.set
    readings = watched.tick()
    assert gaps(readings) == {}
    assert set(readings) == set("abc")
    assert watched.given_up.wait(30)


def test_a_watched_rescan_that_hangs_delays_nobody(gate: threading.Event) -> None:
    def rescan() -> list[Fake]:
        gate.wait(30)
        return []

    watched = Watched([Fake("a"), Fake("b")], rescan=rescan, rescan_s=0.0)
    for _ in range(3):
        assert gaps(watched.tick()) == {}
    assert list(watched.sources.stuck()) == ["rescan"]


def test_a_bug_in_a_watched_source_is_its_gap_and_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    sources = OneByOne([Fake("a", error=KeyError("x")), Fake("b")])
    sources.select(watched=True)
    readings = tick(sources)
    assert gaps(readings) == {"a": "error"}
    assert readings["b"].samples
    assert seen == [KeyError]


def test_a_retry_is_a_gap_with_the_reason_of_the_error() -> None:
    sources = OneByOne([Fake("a", error=ReadRetry("busy", reason="in_reset")), Fake("b")])
    readings = tick(sources)
    assert gaps(readings) == {"a": "in_reset"}
    assert readings["a"].gap is not None
    assert readings["a"].gap.message == "busy"


def test_a_bug_in_one_source_is_its_gap_and_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    sources = OneByOne([Fake("a", error=KeyError("x")), Fake("b")])
    assert gaps(tick(sources)) == {"a": "error"}
    assert gaps(tick(sources)) == {"a": "error"}
    assert seen == [KeyError, KeyError]


def test_a_device_that_leaves_is_told_once_with_what_leaves_with_it() -> None:
    device = Fake("a")
    sources = OneByOne([device], rescan_s=0.0)
    tick(sources)
    device.error = DeviceGone("lost")
    reading = tick(sources)["a"]
    assert reading.gone == ("a",)
    assert [(event.kind, event.device, event.host) for event in reading.events] == [("device_gone", "a", "node1")]
    again = tick(sources)["a"]
    assert (again.gone, again.events) == ((), ())
    assert again.gap is not None


def test_a_device_that_left_comes_back_with_an_event() -> None:
    device = Fake("a")
    sources = OneByOne([device], rescan_s=0.0)
    tick(sources)
    device.error = DeviceGone("lost")
    tick(sources)
    device.error = None
    reading = tick(sources)["a"]
    assert [event.kind for event in reading.events] == ["device_back"]
    assert reading.samples
    assert tick(sources)["a"].events == ()


def scanner(found: list[Fake]) -> Callable[[], Sequence[Fake]]:
    return lambda: list(found)


def test_a_rescan_takes_up_new_devices_and_keeps_the_old_ones() -> None:
    first = Fake("a")
    found = [Fake("a"), Fake("b")]
    sources = OneByOne([first], rescan=scanner(found), rescan_s=0.0)
    tick(sources, 5.0)
    assert list(tick(sources, 5.0)) == ["a", "b"]
    assert first.reads == 2
    assert found[0].reads == 0


def test_a_rescan_takes_up_a_device_that_came_back_as_a_new_object() -> None:
    found: list[Fake] = []
    sources = OneByOne([Fake("a", error=DeviceGone("lost"))], rescan=scanner(found), rescan_s=0.0)
    tick(sources, 5.0)
    assert tick(sources, 5.0) == {}
    found.append(Fake("a"))
    tick(sources, 5.0)
    assert [event.kind for event in tick(sources, 5.0)["a"].events] == ["device_back"]


def test_a_rescan_happens_only_as_often_as_it_should() -> None:
    now = [0.0]
    scans: list[float] = []

    def rescan() -> list[Fake]:
        scans.append(now[0])
        return []

    sources = OneByOne([], rescan=rescan, rescan_s=10.0, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        tick(sources)
    assert scans == [10.0, 20.0]


def test_a_rescan_that_hangs_delays_nobody(gate: threading.Event) -> None:
    def rescan() -> list[Fake]:
        gate.wait(30)
        return []

    sources = OneByOne([Fake("a")], rescan=rescan, rescan_s=0.0)
    for _ in range(3):
        assert gaps(tick(sources)) == {}
    assert list(sources.stuck()) == ["rescan"]


def test_a_driver_that_is_unloaded_is_told_to_whoever_opened_it() -> None:
    def rescan() -> list[Fake]:
        raise SourceUnavailable("driver not loaded")

    sources = OneByOne([Fake("a")], rescan=rescan, rescan_s=0.0)
    with pytest.raises(SourceUnavailable, match="driver not loaded"):
        tick(sources, 5.0)


def test_a_rescan_that_fails_once_changes_nothing() -> None:
    def rescan() -> list[Fake]:
        raise ReadRetry("busy")

    sources = OneByOne([Fake("a")], rescan=rescan, rescan_s=0.0)
    assert list(tick(sources, 5.0)) == ["a"]


def test_sources_left_out_are_not_read_nor_taken_up_by_a_rescan() -> None:
    bad = Fake("b")
    sources = OneByOne([Fake("a"), bad], rescan=scanner([bad]), rescan_s=0.0)
    sources.select(skip={"b"})
    assert sources.names == ("a",)
    for _ in range(3):
        assert list(tick(sources, 5.0)) == ["a"]
    assert bad.reads == 0


def test_only_one_source_can_be_read() -> None:
    sources = OneByOne([Fake("a"), Fake("b")], rescan=scanner([Fake("a"), Fake("c")]), rescan_s=0.0)
    sources.select(only="b")
    for _ in range(3):
        assert list(tick(sources, 5.0)) == ["b"]


def test_the_mark_names_the_source_that_is_being_read(gate: threading.Event) -> None:
    marks: list[str] = []
    sources = OneByOne([Fake("a"), Fake("b")])
    sources.select(mark=marks.append)
    tick(sources, 5.0)
    assert marks == ["a", "", "b", ""]


def test_partitions_leave_with_their_device() -> None:
    class Board(Fake):
        def read(self) -> Reading:
            if self.error is not None:
                raise self.error
            devices = (
                Device(id="slice", host="node1", vendor="v", model="m", parent="board"),
                Device(id="board", host="node1", vendor="v", model="m"),
            )
            return Reading(source=self.name, devices=devices)

    board = Board("nvml:board")
    sources = OneByOne([board])
    tick(sources)
    board.error = DeviceGone("lost")
    reading = tick(sources)["nvml:board"]
    assert set(reading.gone) == {"slice", "board"}
    assert [event.device for event in reading.events] == ["board"]
