"""
What the agent knows about itself: per source, per process, per queue.

Written by the agent's loop and its sinks, read by the Prometheus server's threads; every value is a metric of
`Scope.AGENT`. A label ``source`` names what is read (``nvml:GPU-5d1c…``) or, for what is counted by worker (restarts,
missed ticks), the configured source.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from collector.catalogue import (
    CLOCK_JUMPS,
    CONFIG_RELOAD_OK,
    CPU_SECONDS,
    DEVICES_PRESENT,
    GAPS,
    READ_SECONDS,
    READS,
    RESIDENT_BYTES,
    SOURCE_AGE,
    SOURCE_LAST_SUCCESS,
    SOURCE_UP,
    TICKS_MISSED,
    VALUES_DROPPED,
    WORKER_RESTARTS,
    Metric,
)

Value = tuple[Metric, dict[str, str], float]
"""A metric, its labels and its value."""
Gauges = Callable[[], Iterable[Value]]
_Series = tuple[Metric, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _SourceHealth:
    up: bool = False
    last_ns: int | None = None  # wall clock
    last_s: float = 0.0  # monotonic
    read_s: float = 0.0
    reads: int = 0
    gaps: Counter[str] = field(default_factory=Counter)


class Health:
    """
    The agent's own metrics. Thread-safe.

    *clock* is monotonic seconds; *proc* is where process files are found. Both are arguments for the tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = proc
        self._lock = Lock()
        self._sources: dict[str, _SourceHealth] = {}
        self._totals: defaultdict[_Series, float] = defaultdict(float)
        self._levels: dict[_Series, float] = {}
        self._processes: dict[int, str] = {os.getpid(): "agent"}
        self._gauges: list[Gauges] = []
        self.count(CLOCK_JUMPS, 0)
        self.level(CONFIG_RELOAD_OK, 1)

    def read(self, source: str, *, time_ns: int, read_s: float) -> None:
        """A good read of *source* at *time_ns* (Unix) that took *read_s*."""
        with self._lock:
            entry = self._source(source)
            entry.up = True
            entry.last_ns, entry.last_s, entry.read_s = time_ns, self._clock(), read_s
            entry.reads += 1

    def gap(self, source: str, reason: str, *, number: int = 1) -> None:
        """*number* reads of *source* that brought nothing, because of *reason*."""
        with self._lock:
            entry = self._source(source)
            entry.up = False
            entry.gaps[reason] += number

    def forget(self, source: str) -> None:
        """End the series of a source that is configured no more."""
        self.forget_reads(source)
        with self._lock:
            tables: tuple[dict[_Series, float], ...] = (self._totals, self._levels)
            for table in tables:
                for key in [key for key in table if ("source", source) in key[1]]:
                    del table[key]

    def forget_reads(self, source: str) -> None:
        """End what is told of the reads of *source*; what is counted by worker goes on."""
        with self._lock:
            self._sources.pop(source, None)

    def started(self, source: str) -> None:
        """Begin the counters of the configured *source* at zero, so that a first restart is seen as an increase."""
        self.count(TICKS_MISSED, 0, source=source)
        self.count(WORKER_RESTARTS, 0, source=source)

    def ticks_missed(self, source: str, number: int) -> None:
        """*number* ticks of the configured *source* passed unread."""
        self.count(TICKS_MISSED, number, source=source)

    def worker_restarted(self, source: str) -> None:
        """The worker of the configured *source* was started again."""
        self.count(WORKER_RESTARTS, 1, source=source)

    def devices_present(self, source: str, number: int) -> None:
        """The configured *source* sees *number* devices."""
        self.level(DEVICES_PRESENT, number, source=source)

    def clock_jumped(self) -> None:
        """The wall clock stepped."""
        self.count(CLOCK_JUMPS, 1)

    def config_reload_ok(self, ok: bool) -> None:
        """Whether the configuration in force is the one on disk."""
        self.level(CONFIG_RELOAD_OK, ok)

    def values_dropped(self, source: str, dropped: Mapping[Metric, int]) -> None:
        """Values of *source* that cannot be true, by metric."""
        for metric, number in dropped.items():
            self.count(VALUES_DROPPED, number, source=source, metric=f"{metric.scope.value}.{metric.column}")

    def count(self, metric: Metric, number: float, /, **labels: str) -> None:
        """Add *number* to a counter."""
        with self._lock:
            self._totals[metric, tuple(sorted(labels.items()))] += number

    def level(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._levels[metric, tuple(sorted(labels.items()))] = float(value)

    def watch(self, gauges: Gauges) -> None:
        """Ask *gauges* whenever the metrics are read: for what lies elsewhere, such as the depth of a queue."""
        with self._lock:
            self._gauges.append(gauges)

    def process(self, pid: int, name: str) -> None:
        """Count the process *pid* as one of ours, under *name*."""
        with self._lock:
            self._processes[pid] = name

    def process_ended(self, pid: int) -> None:
        """Count *pid* no more."""
        with self._lock:
            self._processes.pop(pid, None)

    def samples(self) -> Iterator[Value]:
        """Every own metric, with its labels and its value now."""
        with self._lock:
            values = [value for name, entry in self._sources.items() for value in self._of_source(name, entry)]
            values += [(metric, dict(labels), number) for (metric, labels), number in self._totals.items()]
            values += [(metric, dict(labels), number) for (metric, labels), number in self._levels.items()]
            processes, gauges = dict(self._processes), list(self._gauges)
        yield from values
        yield from self._of_processes(processes)
        for ask in gauges:
            yield from ask()

    def _source(self, name: str) -> _SourceHealth:
        entry = self._sources.get(name)
        if entry is None:
            entry = self._sources[name] = _SourceHealth()
        return entry

    def _of_source(self, name: str, entry: _SourceHealth) -> Iterator[Value]:
        yield SOURCE_UP, {"source": name}, float(entry.up)
        yield READS, {"source": name}, float(entry.reads)
        if entry.last_ns is not None:  # a source that was never read has no age, rather than one since 1970
            yield SOURCE_AGE, {"source": name}, max(0.0, self._clock() - entry.last_s)
            yield SOURCE_LAST_SUCCESS, {"source": name}, entry.last_ns / 1e9
            yield READ_SECONDS, {"source": name}, entry.read_s
        for reason, number in entry.gaps.items():
            yield GAPS, {"source": name, "reason": reason}, float(number)

    def _of_processes(self, processes: Mapping[int, str]) -> Iterator[Value]:
        # Two processes share a name while one replaces the other.
        cpu: defaultdict[str, float] = defaultdict(float)
        resident: defaultdict[str, float] = defaultdict(float)
        for pid, name in processes.items():
            usage = process_usage(pid, self._proc)
            if usage is not None:
                cpu[name] += usage[0]
                resident[name] += usage[1]
        for name in cpu:
            yield CPU_SECONDS, {"process": name}, cpu[name]
            yield RESIDENT_BYTES, {"process": name}, resident[name]


def process_usage(pid: int, proc: Path = Path("/proc")) -> tuple[float, int] | None:
    """CPU seconds (user and system) and resident bytes of *pid*; None when it has ended."""
    try:
        # The command, in brackets, may hold spaces and brackets itself: count from its end.
        words = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), int(words[21]) * os.sysconf("SC_PAGE_SIZE")
