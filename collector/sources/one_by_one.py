"""
A list of devices as one `Sources`: read one after another, with a deadline for each.

The reads happen in a thread of their own. When one does not return in time, its thread is left behind, the source is a
gap ``timeout``, and further threads read the rest within the same tick; when more and more of them get stuck (one hung
device can hold the driver's lock), twice as many are started each time, so that a tick ends within two deadlines
whatever hangs. A source that is still stuck at later ticks stays a gap and shows in `stuck`: the agent then replaces
the whole process, which is the only way to be rid of a thread that does not return.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from collector.catalogue import Scope
from collector.errors import DeviceGone, SourceError, SourceUnavailable
from collector.sample import Event, Gap, Reading, Severity
from collector.sources import Source

log = logging.getLogger(__name__)

RESCAN: Final = "rescan"
"""What stands in the mark and in `stuck` for the search for devices."""


class _Slot:
    """A source (None: the search for devices) and the read of it that is under way."""

    def __init__(self, name: str, source: Source | None) -> None:
        self.name = name
        self.source = source
        self.started_s: float | None = None  # of the read under way, until it returns
        self.late = False  # the read under way is past its deadline: its result is not wanted
        self.result: Reading | None = None
        self.failure: SourceError | None = None
        self.devices: dict[str, str | None] = {}  # the parents by device id, of what was seen
        self.host = ""
        self.was_gone = False


class OneByOne:
    """
    Reads *sources* in order on every tick.

    *rescan* lists what is there now; it is called every *rescan_s* seconds, in the reading thread, after the sources.
    New names are added, and a device that left is taken up again. Without it, a device that left is itself tried again
    every *rescan_s*.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        rescan: Callable[[], Iterable[Source]] | None = None,
        rescan_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = {source.name: _Slot(source.name, source) for source in sources}
        self._gone: dict[str, _Slot] = {}
        self._rescan = rescan
        self._rescan_s = rescan_s
        self._rescan_slot = _Slot(RESCAN, None)
        self._found: list[Source] = []
        self._rescanned_s = clock()
        self._clock = clock
        self._mark: Callable[[str], None] = lambda _name: None
        self._skip: Collection[str] = ()
        self._only: str | None = None
        self._turn = threading.Condition()
        self._pending: deque[_Slot] = deque()
        self._left = 0
        self._idle = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources that are read."""
        return tuple(self._slots)

    def select(
        self, *, skip: Collection[str] = (), only: str | None = None, mark: Callable[[str], None] | None = None
    ) -> None:
        """
        Leave out the sources named in *skip*, or read *only* one.

        *mark* is told the name of each source before it is read, and an empty name after: what it was told last names
        the culprit when a read takes the process down.
        """
        self._skip, self._only = frozenset(skip), only
        self._slots = {name: slot for name, slot in self._slots.items() if self._wanted(name)}
        if mark is not None:
            self._mark = mark

    def stuck(self) -> Mapping[str, float]:
        """The sources whose read is past its deadline and has not returned, with the seconds since it began."""
        now_s = self._clock()
        return {
            slot.name: now_s - slot.started_s
            for slot in (*self._slots.values(), self._rescan_slot)
            if slot.late and slot.started_s is not None
        }

    def tick(self, deadline_s: float) -> Iterator[Reading]:
        """
        Read each source once; *deadline_s* holds for each.

        Raises: SourceUnavailable, when a rescan finds that the library is there no more.
        """
        now_s = self._clock()
        free: list[_Slot] = []
        waiting: list[_Slot] = []
        for slot in self._slots.values():
            (waiting if slot.started_s is not None else free).append(slot)
        for slot in waiting:
            slot.late = True
            yield self._timeout(slot, now_s)
        if now_s - self._rescanned_s >= self._rescan_s and self._rescan_slot.started_s is None:
            self._rescanned_s = now_s
            if self._rescan is not None:
                free.append(self._rescan_slot)
            else:
                free += self._gone.values()
        for slot in self._read_all(free, deadline_s):
            if slot is self._rescan_slot:
                self._take_up(slot)
            elif slot.late:
                yield self._timeout(slot, self._clock())
            else:
                yield self._taken(slot)

    def _read_all(self, slots: list[_Slot], deadline_s: float) -> Iterator[_Slot]:
        # Gives each slot once: read, or late.
        with self._turn:
            for slot in slots:
                slot.late, slot.result, slot.failure = False, None, None
            self._pending.extend(slots)
            self._left = len(slots)
            if slots and not self._idle:
                self._start_readers(1)
            self._turn.notify_all()
        waited = list(slots)
        readers = 1
        while waited:
            with self._turn:
                # The readers wake this thread once, after the last one; until then it looks up now and then.
                self._turn.wait_for(lambda: self._left == 0, timeout=deadline_s / 8)
                now_s = self._clock()
                still_waited: list[_Slot] = []
                finished: list[_Slot] = []
                for slot in waited:
                    overdue = slot.started_s is not None and now_s - slot.started_s > deadline_s
                    if overdue:
                        slot.late = True
                        self._left -= 1
                    done = overdue or slot.result is not None or slot.failure is not None
                    (finished if done else still_waited).append(slot)
                if self._pending and not self._idle and all(slot.late for slot in finished):
                    self._start_readers(min(readers, len(self._pending)))
                    readers *= 2
                waited = still_waited
            yield from finished

    def _start_readers(self, number: int) -> None:
        for _ in range(number):
            threading.Thread(target=self._reader, name="reader", daemon=True).start()

    def _reader(self) -> None:
        while True:
            with self._turn:
                while not self._pending:
                    if self._idle:
                        return  # one that waits is enough
                    self._idle += 1
                    self._turn.wait()
                    self._idle -= 1
                slot = self._pending.popleft()
                slot.started_s = started_s = self._clock()
                self._mark(slot.name)
            result: Reading | None = None
            # What a vendor's module does not foresee ends this thread, with its traceback, and is that source's gap.
            failure: SourceError = SourceError("the read failed in an unforeseen way; its traceback is in the log")
            try:
                result = self._read(slot)
            except SourceError as error:
                failure = error
            finally:
                with self._turn:
                    self._mark("")
                    slot.started_s = None
                    if not slot.late:
                        slot.result, slot.failure = result, None if result else failure
                        if result is not None and not result.read_s:
                            slot.result = replace(result, read_s=self._clock() - started_s)
                        self._left -= 1
                        if self._left == 0:
                            self._turn.notify_all()

    def _read(self, slot: _Slot) -> Reading:
        if slot.source is not None:
            return slot.source.read()
        assert self._rescan is not None
        self._found = list(self._rescan())
        return Reading(source=RESCAN)

    def _taken(self, slot: _Slot) -> Reading:
        if isinstance(slot.failure, DeviceGone):
            return self._left_us(slot, slot.failure)
        if slot.failure is not None:
            return Reading(source=slot.name, gap=Gap(reason=slot.failure.reason, message=str(slot.failure)))
        reading = slot.result
        assert reading is not None
        for device in reading.devices:
            slot.devices[device.id] = device.parent
            slot.host = device.host
        for sample in reading.samples:
            if sample.scope is Scope.DEVICE:
                slot.devices.setdefault(sample.subject, None)
                slot.host = sample.host
        for device_id in reading.gone:
            slot.devices.pop(device_id, None)
        if slot.was_gone and reading.gap is None:
            slot.was_gone = False
            self._gone.pop(slot.name, None)
            self._slots[slot.name] = slot
            event = Event(
                time_ns=time.time_ns(), kind="device_back", host=slot.host, device=_whole(slot), message=slot.name
            )
            return replace(reading, events=(*reading.events, event))
        return reading

    def _left_us(self, slot: _Slot, error: DeviceGone) -> Reading:
        self._slots.pop(slot.name, None)
        self._gone[slot.name] = slot
        gap = Gap(reason=error.reason, message=str(error))
        if slot.was_gone:  # it was only tried again: no second event
            return Reading(source=slot.name, gap=gap)
        slot.was_gone = True
        event = Event(
            time_ns=time.time_ns(),
            kind="device_gone",
            host=slot.host,
            severity=Severity.CRITICAL,
            device=_whole(slot),
            code=error.reason,
            message=str(error),
        )
        gone = tuple(slot.devices)
        return Reading(source=slot.name, gap=gap, gone=gone, events=(event,))

    def _take_up(self, slot: _Slot) -> None:
        failure = None if slot.late else slot.failure
        if isinstance(failure, SourceUnavailable):
            raise failure
        if failure is not None or slot.late:
            log.warning("search for devices failed", extra={"reason": failure or "timeout"})
            return
        found, self._found = self._found, []
        for source in found:
            if source.name in self._slots or not self._wanted(source.name):
                continue
            fresh = _Slot(source.name, source)
            old = self._gone.get(source.name)
            if old is not None:
                fresh.was_gone, fresh.devices, fresh.host = True, old.devices, old.host
            else:
                log.info("device found", extra={"source": source.name})
            self._slots[source.name] = fresh

    def _wanted(self, name: str) -> bool:
        return name == self._only if self._only is not None else name not in self._skip

    def _timeout(self, slot: _Slot, now_s: float) -> Reading:
        taken_s = now_s - slot.started_s if slot.started_s is not None else 0.0
        gap = Gap(reason="timeout", message=f"no answer for {taken_s:.3g} s")
        return Reading(source=slot.name, gap=gap, read_s=taken_s)


def _whole(slot: _Slot) -> str | None:
    """The device that is no partition of another."""
    return next((device for device, parent in slot.devices.items() if parent is None), None)
