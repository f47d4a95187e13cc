"""
What the sources of a feed brought: each reading once, gaps counted, losses and returns told.

Several workers may read a source while one replaces another; the first one to bring a tick counts.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Final

from collector.catalogue import Scope
from collector.health import Health
from collector.sample import Device, Event, Gap, Reading, Sample, Severity

log = logging.getLogger(__name__)

FORGET_S: Final = 3600.0
"""A source that its living worker has not mentioned for so long is configured no more."""

_DAY_NS: Final = 86_400_000_000_000
_SAME_TICK_S: Final = 1e-6


@dataclass(slots=True)
class _State:
    """What is remembered of a source."""

    tick_s: float  # monotonic time of the last tick that is accounted for
    mentioned_s: float
    by: object = None  # the worker that accounted for it
    gaps: int = 0  # in a row
    lost: bool = False
    gone: bool = False
    good_s: float | None = None
    devices: dict[str, Device | None] = field(default_factory=dict)
    day: int = 0


class Intake:
    """The readings of the feed called *feed* on their way to *deliver*."""

    def __init__(
        self,
        feed: str,
        *,
        host: str,
        health: Health,
        deliver: Callable[[Reading], None],
        wall_ns: Callable[[], int],
        lost_after: int,
    ) -> None:
        self.cadence_s: dict[str, float] = {}
        self._feed = feed
        self._host = host
        self._health = health
        self._deliver = deliver
        self._wall_ns = wall_ns
        self._lost_after = lost_after
        self._states: dict[str, _State] = {}
        self._begun_s = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The sources known so far."""
        return tuple(self._states)

    @property
    def devices_present(self) -> int:
        """How many devices are in view."""
        return sum(len(state.devices) for state in self._states.values() if not state.lost)

    def begin(self, tick_s: float) -> None:
        """What is not read counts as missing after *tick_s*."""
        self._begun_s = tick_s

    def expect(self, name: str, tick_s: float, now_s: float) -> None:
        """The source *name* exists and will be read."""
        self._states.setdefault(name, _State(tick_s=tick_s, mentioned_s=now_s))

    def take(self, reading: Reading, tick_s: float, by: object, now_s: float) -> None:
        """Note what *reading*, of the tick at *tick_s*, tells, and pass it on unless another worker did."""
        state = self._states.get(reading.source)
        if state is None:
            state = self._states[reading.source] = _State(tick_s=tick_s, mentioned_s=now_s)
        elif state.by is not by and state.by is not None and tick_s < state.tick_s + _SAME_TICK_S:
            return
        state.tick_s, state.by, state.mentioned_s = tick_s, by, now_s
        events = [event if event.host else replace(event, host=self._host) for event in reading.events]
        gone = tuple(reading.gone)
        devices = self._news(state, reading)
        if reading.gap is None:
            events += self._good(state, reading, now_s)
        else:
            if reading.gap.reason == "device_gone":
                # A worker that never read the device (a probe, a new one) does not know what left.
                gone = tuple(dict.fromkeys((*gone, *state.devices)))
                events += self._departed(state, reading, reading.gap)
            events += self._bad(state, reading.source, reading.gap, 1)
        for device_id in gone:
            state.devices.pop(device_id, None)
        samples = reading.samples
        if any(sample.scope is Scope.AGENT for sample in samples):
            samples = [sample for sample in samples if not self._own(sample, reading.source)]
        if events or gone or reading.devices or devices or samples is not reading.samples:
            reading = replace(reading, samples=samples, devices=devices, events=events, gone=gone)
        self._deliver(reading)

    def missed(self, name: str, gap: Gap, before_s: float, period_s: float) -> None:
        """Count a *gap* for each tick of *name* up to *before_s* that nobody accounted for."""
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = _State(tick_s=self._begun_s, mentioned_s=before_s)
        number = round((before_s - state.tick_s) / period_s)
        if number < 1 or state.gone:
            return
        state.tick_s, state.by = before_s, None
        self._deliver(Reading(source=name, gap=gap, events=self._bad(state, name, gap, number)))

    def tidy(self, now_s: float, *, keep: Collection[str]) -> None:
        """Forget what is configured no more, and the feed's own name once its sources have theirs."""
        for name, state in [*self._states.items()]:
            old = now_s - state.mentioned_s > FORGET_S and not state.gone and name not in keep
            placeholder = name == self._feed and state.good_s is None and len(self._states) > 1
            if old or placeholder:
                del self._states[name]
                self.cadence_s.pop(name, None)
                if name == self._feed:
                    self._health.forget_reads(name)
                else:
                    self._health.forget(name)

    def report(self, kind: str, severity: Severity, code: str | None, message: str) -> None:
        """Pass on an event of the feed as a whole."""
        event = Event(
            time_ns=self._wall_ns(), kind=kind, host=self._host, severity=severity, code=code, message=message
        )
        self._deliver(Reading(source=self._feed, events=(event,)))

    def _good(self, state: _State, reading: Reading, now_s: float) -> list[Event]:
        if not (reading.samples or reading.read_s):
            return []  # events only: nothing was read
        time_ns = reading.samples[0].time_ns if reading.samples else self._wall_ns()
        self._health.read(reading.source, time_ns=time_ns, read_s=reading.read_s)
        if state.good_s is not None and not state.gaps:
            self.cadence_s[reading.source] = now_s - state.good_s
        state.good_s = now_s
        state.gaps, state.gone = 0, False
        if not state.lost:
            return []
        state.lost = False
        log.info("source back", extra={"source": reading.source})
        return [self._event("source_back", Severity.INFO, None, reading.source, state)]

    def _bad(self, state: _State, name: str, gap: Gap, number: int) -> list[Event]:
        self._health.gap(name, gap.reason, number=number)
        state.gaps += number
        if state.lost or state.gone or state.gaps < self._lost_after:
            return []
        state.lost = True
        log.warning("source lost", extra={"source": name, "reason": gap.reason, "error": gap.message})
        return [self._event("source_lost", Severity.WARNING, gap.reason, f"{name}: {gap.message}", state)]

    def _departed(self, state: _State, reading: Reading, gap: Gap) -> list[Event]:
        if state.gone:
            return []
        state.gone = True
        if any(event.kind == "device_gone" for event in reading.events):
            return []
        return [self._event("device_gone", Severity.CRITICAL, gap.reason, gap.message or reading.source, state)]

    def _news(self, state: _State, reading: Reading) -> list[Device]:
        """The devices that are new, changed, or not yet told today: each day of the store is to stand alone."""
        news = [device for device in reading.devices if state.devices.get(device.id) != device]
        state.devices.update((device.id, device) for device in news)
        for sample in reading.samples:
            if sample.scope is Scope.DEVICE:
                state.devices.setdefault(sample.subject, None)
        day = self._wall_ns() // _DAY_NS
        if day != state.day and reading.gap is None:
            state.day = day
            return [device for device in state.devices.values() if device is not None]
        return news

    def _own(self, sample: Sample, source: str) -> bool:
        """Whether *sample* is about the agent itself; then it goes to its health."""
        if sample.scope is not Scope.AGENT:
            return False
        for metric, value in sample.values.items():
            self._health.level(metric, value, source=source)
        return True

    def _event(self, kind: str, severity: Severity, code: str | None, message: str, state: _State) -> Event:
        whole = [id for id, device in state.devices.items() if device is None or device.parent is None]
        return Event(
            time_ns=self._wall_ns(),
            kind=kind,
            host=self._host,
            severity=severity,
            device=whole[0] if len(whole) == 1 else None,
            code=code,
            message=message,
        )
