"""
A recorded stretch as a source, at any speed.

What the recording's sources read comes again, reading by reading, with their names behind ``replay:``. Times are moved
by one amount, so that the stretch begins now (or kept, with ``times = "keep"``): a replay faster than life runs ahead
of the clock, and intervals, hence every rate and energy, are what they were.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from collector.catalogue import Metric, Scope, metrics
from collector.errors import ConfigError, SourceUnavailable
from collector.sample import Allocation, Device, Event, Process, Reading, Sample, Severity
from collector.sources import Options, Sources

Row = dict[str, Any]
Rows = Callable[[str, int, int], Iterable[Row]]
"""Gives the rows of a table in a stretch of time, in the order of time; times are nanoseconds, nulls have no key."""

NS: Final = 1_000_000_000
CHUNK_NS: Final = 600 * NS
"""Rows are fetched for as much recorded time at once."""
MOST_ROWS: Final = 200_000
"""A tick passes on no more than this (in whole readings); the rest comes with the next."""

_SUBJECT: Final = {
    "device_samples": (Scope.DEVICE, "device"),
    "host_samples": (Scope.HOST, "host"),
    "workload_samples": (Scope.WORKLOAD, "workload"),
    "facility_samples": (Scope.FACILITY, "meter"),
}
_METRICS: Final[Mapping[Scope, Mapping[str, Metric]]] = {
    scope: {metric.column: metric for metric in metrics(scope)} for scope, _ in _SUBJECT.values()
}
TABLES: Final = (*_SUBJECT, "devices", "allocations", "processes", "events")
_KNOWN: Final = ("root", "start", "end", "speed", "loop", "times", "tables")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What the ``[[source]]`` table of a replay says; None: as far as the recording goes."""

    root: str
    start_ns: int | None = None
    end_ns: int | None = None
    speed: float = 1.0
    loop: bool = False
    keep_times: bool = False
    tables: tuple[str, ...] = TABLES


def check_options(options: Options) -> None:
    """
    Whether the options of a ``[[source]]`` table are right.

    Raises: ConfigError.
    """
    parse(options)


def parse(options: Options) -> ReplayOptions:
    """
    Options from a table: root, start, end (ISO time or nanoseconds), speed, loop, times ("now" or "keep"), tables.

    Raises: ConfigError.
    """
    for key in options:
        if key not in _KNOWN:
            raise ConfigError(key, f"unknown; a replay takes {', '.join(_KNOWN)}")
    root, speed, loop = options.get("root"), options.get("speed", 1.0), options.get("loop", False)
    times, tables = options.get("times", "now"), options.get("tables", TABLES)
    if not isinstance(root, str) or not root:
        raise ConfigError("root", f"{root!r}: the directory of the store to replay is wanted")
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0.01 <= speed <= 100_000:
        raise ConfigError("speed", f"{speed!r}: a number between 0.01 and 100000 is wanted")
    if not isinstance(loop, bool):
        raise ConfigError("loop", f"{loop!r}: true or false is wanted")
    if times not in {"now", "keep"}:
        raise ConfigError("times", f'{times!r}: "now" or "keep" is wanted')
    if loop and times == "keep":
        raise ConfigError("loop", 'with times = "keep" a second round would repeat the times of the first')
    if isinstance(tables, str) or not tables or not set(tables) <= set(TABLES):
        raise ConfigError("tables", f"{tables!r}: a list of {', '.join(TABLES)} is wanted")
    start_ns, end_ns = _moment("start", options.get("start")), _moment("end", options.get("end"))
    if start_ns is not None and end_ns is not None and end_ns <= start_ns:
        raise ConfigError("end", "later than the start is wanted")
    return ReplayOptions(
        root=root,
        start_ns=start_ns,
        end_ns=end_ns,
        speed=float(speed),
        loop=loop,
        keep_times=times == "keep",
        tables=tuple(tables),
    )


def _moment(key: str, value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(key, f"{value!r}: an ISO time or nanoseconds are wanted") from None
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return int(aware.timestamp()) * NS + aware.microsecond * 1_000


@contextmanager
def open_replay(
    options: ReplayOptions,
    rows: Rows,
    extent: tuple[int, int] | None,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Iterator[Sources]:
    """
    A recording as a source; *rows* reads it and *extent* says from when until before when it goes.

    Raises: SourceUnavailable (nothing is recorded there).
    """
    first, last = extent or (0, 0)
    start_ns = first if options.start_ns is None else options.start_ns
    end_ns = last if options.end_ns is None else options.end_ns
    if extent is None or start_ns >= last or end_ns <= first:
        raise SourceUnavailable(f"{options.root}: nothing is recorded in the stretch to replay")
    yield Replay(options, rows, start_ns, end_ns, clock_ns)


class Replay:
    """Where a replay is; each tick brings what the recording has up to now."""

    def __init__(
        self, options: ReplayOptions, rows: Rows, start_ns: int, end_ns: int, clock_ns: Callable[[], int]
    ) -> None:
        self._options = options
        self._rows = rows
        self._start_ns, self._end_ns = start_ns, end_ns
        self._clock_ns = clock_ns
        self._opened_ns = clock_ns()
        self._round = 0
        self._shift_ns = 0 if options.keep_times else self._opened_ns - start_ns
        self._seen: dict[str, set[str]] = {}
        self._waiting = self._readings()
        self._next: tuple[int, Reading] | None = next(self._waiting, None)

    def tick(self, deadline_s: float) -> Iterable[Reading]:
        """The readings whose time has come, oldest first; after the last, the series end."""
        del deadline_s
        passed = 0
        while self._next is not None and passed < MOST_ROWS:
            time_ns, reading = self._next
            if time_ns - self._start_ns + self._round * (self._end_ns - self._start_ns) > self._played_ns():
                return
            passed += len(reading.samples)
            # Asked for before it is passed on: a tick that is abandoned loses nothing, and doubles nothing.
            self._next = next(self._waiting, None) or self._again()
            yield reading
        if self._next is None:
            seen, self._seen = self._seen, {}
            yield from (Reading(source=source, gone=tuple(sorted(gone))) for source, gone in seen.items())

    def _played_ns(self) -> int:
        return round((self._clock_ns() - self._opened_ns) * self._options.speed)

    def _again(self) -> tuple[int, Reading] | None:
        if not self._options.loop:
            return None
        self._round += 1
        self._shift_ns += self._end_ns - self._start_ns
        self._waiting = self._readings()
        return next(self._waiting, None)

    def _readings(self) -> Iterator[tuple[int, Reading]]:
        """The recording's readings with their recorded times: rows of one source at one time belong together."""
        for begin in range(self._start_ns, self._end_ns, CHUNK_NS):
            end = min(begin + CHUNK_NS, self._end_ns)
            streams = [self._stream(table, begin, end) for table in self._options.tables]
            ordered = heapq.merge(*streams, key=lambda item: item[:2])
            for (time_ns, source), rows in groupby(ordered, key=lambda item: item[:2]):
                yield time_ns, self._reading(source, [(table, row) for _, _, table, row in rows])

    def _stream(self, table: str, begin: int, end: int) -> Iterator[tuple[int, str, str, Row]]:
        rows = self._rows(table, begin, end)
        for _, together in groupby(rows, key=lambda row: row["time"]):
            # Of one moment by source, as the merge expects.
            for row in sorted(together, key=lambda row: str(row.get("source", ""))):
                yield row["time"], str(row.get("source", "")), table, row

    def _reading(self, source: str, rows: list[tuple[str, Row]]) -> Reading:
        found: dict[str, list[Any]] = {table: [] for table in TABLES}
        for table, row in rows:
            found[table].append(_SHOWN.get(table, _sample)(table, row, self._shift_ns))
        name = f"replay:{source}"
        devices: list[Device] = found["devices"]
        events: list[Event] = found["events"]
        gone = tuple(event.device for event in events if event.kind == "device_gone" and event.device)
        seen = self._seen.setdefault(name, set())
        seen.update(row["device"] for table, row in rows if table == "device_samples")
        seen.difference_update(gone)
        return Reading(
            source=name,
            samples=tuple(sample for table in _SUBJECT for sample in found[table]),
            devices=tuple(devices),
            events=tuple(events),
            allocations=tuple(found["allocations"]),
            processes=tuple(found["processes"]),
            gone=gone,
        )


def _sample(table: str, row: Row, shift_ns: int) -> Sample:
    scope, subject = _SUBJECT[table]
    known = _METRICS[scope]
    return Sample(
        scope=scope,
        subject=row[subject],
        host=row.get("host", ""),
        time_ns=row["time"] + shift_ns,
        values={known[name]: value for name, value in row.items() if name in known},
        text={
            name: value
            for name, value in row.items()
            if name not in known and name not in {subject, "time", "host", "source"}
        },
    )


def _device(table: str, row: Row, shift_ns: int) -> Device:
    del table, shift_ns
    fields = {name: value for name, value in row.items() if name not in {"device", "time", "source"}}
    return Device(id=row["device"], **{"vendor": "", "model": "", "host": "", **fields})


def _allocation(table: str, row: Row, shift_ns: int) -> Allocation:
    del table
    fields = {name: row[name] for name in ("name", "user", "team", "share") if name in row}
    return Allocation(
        time_ns=row["time"] + shift_ns,
        workload=row["workload"],
        device=row["device"],
        host=row.get("host", ""),
        start_ns=row["start"] + shift_ns,
        end_ns=row["end"] + shift_ns if "end" in row else None,
        **fields,
    )


def _process(table: str, row: Row, shift_ns: int) -> Process:
    del table
    fields = {name: value for name, value in row.items() if name not in {"time", "source"}}
    return Process(time_ns=row["time"] + shift_ns, **{"host": "", **fields})


def _event(table: str, row: Row, shift_ns: int) -> Event:
    del table
    return Event(
        time_ns=row["time"] + shift_ns,
        kind=row["kind"],
        host=row.get("host", ""),
        severity=Severity(row.get("severity", "info")),
        device=row.get("device"),
        code=row.get("code"),
        message=row.get("message", ""),
        value=row.get("value"),
    )


_SHOWN: Final[Mapping[str, Callable[[str, Row, int], Any]]] = {
    "devices": _device,
    "allocations": _allocation,
    "processes": _process,
    "events": _event,
}
