"""
Any Prometheus endpoint as a source, from one exporter on this host to a hub of a thousand.

Requests run on an event loop of their own, each target at its own offset within the interval, as Prometheus does it,
so load is even and a dead target is only its own gap. `tick` hands over what has come since the last one; it never
waits for a target.
"""

import asyncio
import hashlib
import logging
import resource
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from collector.catalogue import Scope
from collector.errors import ReadRetry, SourceUnavailable
from collector.sample import Gap, Reading
from collector.sources import Options
from collector.sources.scrape_http import Access, Door, fetch, session
from collector.sources.scrape_mapping import choose
from collector.sources.scrape_series import Reader
from collector.sources.scrape_targets import Target, TargetFiles, address, read_options

log = logging.getLogger(__name__)

# A target that failed this often is asked more seldom, but never more seldom than this: it may come back.
_FAILURES_BEFORE_BACKOFF: Final = 3
_MAX_BACKOFF_S: Final = 60.0
_FILES_EVERY_S: Final = 2.0
# Readings that wait for a tick: a stopped agent must not fill this process's memory.
_QUEUE_PER_TARGET: Final = 4
_OTHER_FILES: Final = 256
# The first round is spread this closely, so that a start shows something soon; later ones keep each target's own
# offset.
_FIRST_ROUND_S: Final = 0.02


def _offset(url: str, interval_s: float) -> float:
    """Where in the interval a target's turn is; the same in every process and after every start."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest()) / 2**64 * interval_s


def _allow_connections(targets: int) -> None:
    """Let this process hold a connection to each target: many systems allow 1,024 files unless asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = targets + _OTHER_FILES
    if soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("too few files allowed for the targets", extra={"targets": targets, "files": allowed})


@dataclass(eq=False)
class _Turn:
    """A target's own clock, memory and luck."""

    target: Target
    reader: Reader
    failures: int = 0
    reason: str = ""
    late_s: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def skip(self) -> int:
        """How many turns to the next: 1, and more for one that failed often."""
        if self.failures < _FAILURES_BEFORE_BACKOFF:
            return 1
        most = max(1, int(_MAX_BACKOFF_S / self.target.interval_s))
        return int(min(2 ** (self.failures - _FAILURES_BEFORE_BACKOFF + 1), most))


class Scrape:
    """The targets of one ``[[source]]`` table, read side by side."""

    def __init__(self, options: Options, host: str) -> None:
        groups = read_options(options, host)
        self._files = TargetFiles(groups, host)
        self._fixed = tuple(target for group in groups for target in group.targets)
        self._turns: dict[str, _Turn] = {}
        self._named = self._files.read(strict=True) or ()
        self._readings: deque[Reading] = deque(maxlen=max(1024, _QUEUE_PER_TARGET * 4096))
        self._arrived = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._dropped = 0

    # ----------------------------------------------------------------------------------------------- the worker's side

    def start(self) -> None:
        """Begin to ask the targets."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="scrape", daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Stop asking, and close every connection."""
        if self._loop is not None and self._stopping is not None and self._thread is not None:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=5.0)

    def tick(self, deadline_s: float) -> Iterable[Reading]:
        """
        What came since the last tick; waits for the first reading at most half of *deadline_s*, and never for a target.

        Raises: SourceUnavailable when the loop itself has ended.
        """
        if not self._readings:
            self._arrived.wait(deadline_s / 2)
        self._arrived.clear()
        if self._thread is not None and not self._thread.is_alive():
            raise SourceUnavailable(f"the scrape loop ended: {self._failure!r}") from self._failure
        while self._readings:
            yield self._readings.popleft()

    def unknown(self) -> dict[str, list[str]]:
        """For each target the names that no mapping knows."""
        return {
            turn.target.url: sorted(turn.reader.unknown) for turn in list(self._turns.values()) if turn.reader.unknown
        }

    def targets(self) -> list[str]:
        """The addresses that are asked now."""
        return list(self._turns)

    # -------------------------------------------------------------------------------------------------- the loop's side

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._main(ready))
        except (OSError, RuntimeError) as error:
            self._failure = error
            log.exception("scrape loop ended")
        finally:
            ready.set()
            self._arrived.set()

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with session() as client:
            self._follow(client)
            ready.set()
            while not self._stopping.is_set():
                try:
                    await asyncio.wait_for(self._stopping.wait(), _FILES_EVERY_S)
                except TimeoutError:
                    named = self._files.read()
                    if named is not None:
                        self._named = named
                        self._follow(client)
            for turn in self._turns.values():
                if turn.task is not None:
                    turn.task.cancel()
            await asyncio.gather(*(turn.task for turn in self._turns.values() if turn.task), return_exceptions=True)

    def _follow(self, client: aiohttp.ClientSession) -> None:
        wanted = {target.url: target for target in (*self._fixed, *self._named)}
        for url, turn in list(self._turns.items()):
            if wanted.get(url) != turn.target or wanted[url].labels != turn.target.labels:
                if turn.task is not None:
                    turn.task.cancel()
                del self._turns[url]
                last = turn.reader.end(time.time_ns())
                if last is not None:
                    self._pass_on(last)
        fresh = [target for url, target in wanted.items() if url not in self._turns]
        _allow_connections(len(wanted))
        for target in fresh:
            reader = Reader(
                target.tables,
                source=f"scrape:{target.url}",
                host=target.host,
                instance=target.instance,
                labels=target.labels,
            )
            turn = self._turns[target.url] = _Turn(target, reader)
            turn.task = asyncio.create_task(self._keep_asking(client, turn, len(fresh)))

    async def _keep_asking(self, client: aiohttp.ClientSession, turn: _Turn, beside: int) -> None:
        loop = asyncio.get_running_loop()
        interval_s = turn.target.interval_s
        offset_s = _offset(turn.target.url, interval_s)
        now = loop.time()
        first = now + offset_s * min(1.0, beside * _FIRST_ROUND_S / interval_s)
        await asyncio.sleep(first - now)
        await self._ask(client, turn)
        # Turns are on a grid of the clock itself, so that they neither drift nor move with the time of a start.
        number = int((loop.time() - offset_s) // interval_s) + 1
        if number * interval_s + offset_s - loop.time() < interval_s / 2:
            number += 1
        while True:
            due = number * interval_s + offset_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            turn.late_s = loop.time() - due
            await self._ask(client, turn)
            number += turn.skip()
            number = max(number, int((loop.time() - offset_s) // interval_s) + 1)

    async def _ask(self, client: aiohttp.ClientSession, turn: _Turn) -> None:
        target = turn.target
        began = time.perf_counter()
        time_ns = time.time_ns()
        try:
            body = await fetch(client, target.url, target.door, target.timeout_s)
            reading = turn.reader.read(body, time_ns=time_ns, read_s=time.perf_counter() - began)
        except ReadRetry as error:
            turn.failures += 1
            if error.reason != turn.reason:
                log.warning("target failed", extra={"url": target.url, "reason": error.reason, "error": str(error)})
                turn.reason = error.reason
            gap = Gap(reason=error.reason, message=str(error))
            self._pass_on(Reading(source=turn.reader.source, gap=gap, read_s=time.perf_counter() - began))
            return
        if turn.reason:
            log.info("target answers again", extra={"url": target.url, "failures": turn.failures})
        turn.failures, turn.reason = 0, ""
        self._pass_on(reading)

    def _pass_on(self, reading: Reading) -> None:
        if len(self._readings) == self._readings.maxlen:
            self._dropped += 1
            if self._dropped == 1:
                log.warning("nobody takes the readings; the oldest are given up")
        self._readings.append(reading)
        self._arrived.set()


def check_options(options: Options) -> None:
    """
    Whether *options* are right, certificates and mappings included; no target is asked.

    Raises: ConfigError.
    """
    TargetFiles(read_options(options, "localhost"), "localhost").read(strict=True)


@contextmanager
def open_scrape(options: Options, host: str) -> Iterator[Scrape]:
    """
    The source of a ``[[source]]`` table with ``type = "scrape"``.

    Raises: ConfigError.
    """
    scrape = Scrape(options, host)
    scrape.start()
    try:
        yield scrape
    finally:
        scrape.stop()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `doctor` found at one address."""

    url: str
    gap: Gap | None = None
    mappings: Sequence[str] = ()
    devices: Sequence[str] = ()
    mapped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name to the columns it fills."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name to the reason why it is left out."""
    unknown: Sequence[str] = ()
    samples: int = 0
    read_s: float = 0.0


def doctor(
    url: str, *, mapping: str | Sequence[str] = "auto", access: Access | None = None, timeout_s: float = 10.0
) -> Report:
    """
    Ask *url* once and tell what perfwatt makes of it.

    Raises: ConfigError.
    """
    whole = address(url, key="url")
    reader = Reader(choose(mapping), source=f"scrape:{whole}", host=whole.split("/")[2], instance=whole.split("/")[2])
    door = Door(access or Access())

    async def once() -> Reading:
        async with session() as client:
            began = time.perf_counter()
            body = await fetch(client, whole, door, timeout_s)
            return reader.read(body, time_ns=time.time_ns(), read_s=time.perf_counter() - began)

    try:
        reading = asyncio.run(once())
    except ReadRetry as error:
        return Report(url=whole, gap=Gap(reason=error.reason, message=str(error)))
    return Report(
        url=whole,
        mappings=[f"{table.name} (version {table.version}): {table.title}" for table in reader.in_force],
        devices=sorted(reader.devices),
        mapped={name: sorted(metric.column for metric in found) for name, found in sorted(reader.mapped.items())},
        dropped=dict(sorted((name, why) for name, why in reader.dropped.items() if name not in reader.mapped)),
        unknown=sorted(reader.unknown),
        samples=sum(len(sample.values) for sample in reading.samples if sample.scope is not Scope.AGENT),
        read_s=reading.read_s,
    )
