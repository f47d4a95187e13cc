"""
A list of devices as one `Sources`: read one after another, with a deadline for each.

The reads happen in a thread of their own. When one does not return in time, its thread is left behind, the source is a
gap ``timeout``, and further threads read the rest within the same tick; when more and more of them get stuck (one hung
device can hold the driver's lock), twice as many are started each time, so that a tick ends within two deadlines
whatever hangs. A source that is still stuck at later ticks stays a gap and shows in `stuck`: the agent then replaces
the whole process, which is the only way to be rid of a thread that does not return.

To hand each tick to another thread and wait for it takes a quarter of the time of reading 16 devices. So where somebody
watches (`select`), the thread that ticks reads by itself; when a read takes long, that thread is given up (`give_up`),
and the next one that ticks goes on where it was, as above.
"""

import logging
import math
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

_PATIENCE: Final = 1 / 8
"""After this part of its deadline a read no longer has the others wait for it."""


class GivenUp(Exception):
    """The thread that ticked was given up while it read: another one ticks now."""


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
        self._watched = False
        self._ticking: _Slot | None = None  # what the thread that ticks is reading
        self._rest: deque[_Slot] = deque()  # what it has not read yet
        self._slow: _Slot | None = None  # what it was reading when it was given up
        self._turn = threading.Condition()
        self._pending: deque[_Slot] = deque()
        self._left = 0
        self._idle = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources that are read."""
        return tuple(self._slots)

    def select(
        self,
        *,
        skip: Collection[str] = (),
        only: str | None = None,
        mark: Callable[[str], None] | None = None,
        watched: bool = False,
    ) -> None:
        """
        Leave out the sources named in *skip*, or read *only* one.

        *mark* is told the name of each source before it is read, and an empty name after: what it was told last names
        the culprit when a read takes the process down. *watched* says that `give_up` is called by another thread than
        the one that ticks.
        """
        self._watched = watched
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

    def give_up(self, deadline_s: float) -> float | None:
        """
        Give up the thread that ticks, if it is at one read for long; the next `tick`, in another thread, goes on.

        Otherwise gives the seconds after which to look again, infinity when the tick is over.
        """
        with self._turn:
            slot, patience_s = self._ticking, _PATIENCE * deadline_s
            if slot is None or slot.started_s is None:
                return patience_s if self._rest else math.inf
            left_s = slot.started_s + patience_s - self._clock()
            if left_s > 0:
                return left_s
            self._ticking, self._slow = None, slot
            return None

    def tick(self, deadline_s: float) -> Iterator[Reading]:
        """
        Read each source once; *deadline_s* holds for each.

        Raises: SourceUnavailable, when a rescan finds that the library is there no more; GivenUp.
        """
        slow, self._slow = self._slow, None
        if slow is not None:
            rest, self._rest = list(self._rest), deque()
            yield from self._told(self._read_all(rest, deadline_s, begun=slow))
            return
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
        yield from self._told(self._read_here(free) if self._watched else self._read_all(free, deadline_s))

    def _told(self, slots: Iterable[_Slot]) -> Iterator[Reading]:
        """What each of *slots*, read or late, has to say."""
        for slot in slots:
            if slot is self._rescan_slot:
                self._take_up(slot)
            elif slot.late:
                yield self._timeout(slot, self._clock())
            else:
                yield self._taken(slot)

    def _read_here(self, slots: list[_Slot]) -> Iterator[_Slot]:
        # Gives each slot once, read in the calling thread.
        _clear(slots)
        rest = self._rest = deque(slots)
        while rest:
            with self._turn:
                slot = self._ticking = rest.popleft()
                self._begin(slot)
            self._read(slot)
            if self._ticking is not slot:
                raise GivenUp
            self._ticking = None
            yield slot

    def _read_all(self, slots: list[_Slot], deadline_s: float, *, begun: _Slot | None = None) -> Iterator[_Slot]:
        # Gives each slot once, and one that is *begun* already: read, or late.
        with self._turn:
            _clear(slots)
            self._pending.extend(slots)
            waited = [begun, *slots] if begun is not None else list(slots)
            self._left = sum(slot.result is None and slot.failure is None for slot in waited)
            if slots and not self._idle:
                self._start_readers(1)
            self._turn.notify_all()
        readers = 1
        while waited:
            with self._turn:
                # The readers wake this thread once, after the last one; until then it looks up now and then.
                self._turn.wait_for(lambda: self._left == 0, timeout=deadline_s * _PATIENCE)
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
                self._begin(slot)
            self._read(slot)

    def _begin(self, slot: _Slot) -> None:
        slot.started_s = self._clock()
        self._mark(slot.name)

    def _read(self, slot: _Slot) -> None:
        """Read *slot*, in this thread; what comes of it late is dropped."""
        started_s = slot.started_s or 0.0
        result: Reading | None = None
        failure: SourceError | None = None
        try:
            result = self._asked(slot)
        except SourceError as error:
            failure = error
        except Exception as error:  # noqa: BLE001
            # What a vendor's module does not foresee is that source's gap, with the traceback in the log.
            failure = SourceError("the read failed in an unforeseen way; its traceback is in the log")
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))
        with self._turn:
            self._mark("")
            slot.started_s = None
            if not slot.late:
                if result is not None and not result.read_s:
                    result = replace(result, read_s=self._clock() - started_s)
                slot.result, slot.failure = result, failure
                self._left -= 1
                if self._left == 0:
                    self._turn.notify_all()

    def _asked(self, slot: _Slot) -> Reading:
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


def _clear(slots: Iterable[_Slot]) -> None:
    for slot in slots:
        slot.late, slot.result, slot.failure = False, None, None


def _whole(slot: _Slot) -> str | None:
    """The device that is no partition of another."""
    return next((device for device, parent in slot.devices.items() if parent is None), None)
