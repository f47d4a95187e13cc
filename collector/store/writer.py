"""The agent's way into the store: rows wait in memory for seconds, then become a segment."""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from collector.errors import StoreError
from collector.sample import Event, Reading, Severity
from collector.store.batch import Batch, batch_of, joined
from collector.store.compaction import GRACE_S, STEP_MS, compact
from collector.store.engine import Engine, as_store_error
from collector.store.files import FILES, Files, WriterLock
from collector.store.rows import Describer, Row, event_row, rows_of
from collector.store.schema import EVENTS, TABLES
from collector.store.segments import (
    Segment,
    checked_writer,
    day_folder,
    day_of,
    days,
    next_id,
    present,
    segment_name,
    unfinished,
)
from collector.store.table import Table

log = logging.getLogger(__name__)

# One seal of a backlog takes this many rows, so that the memory of a seal is bounded.
_BATCH_ROWS = 20_000
# A store that cannot be written is tried again after the usual seconds, then ever later up to this.
_LONGEST_WAIT_S = 30.0
# So many sealed rows of a table are held in memory (8 MB of 50 columns); where there are more, merging reads them back.
_HELD_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """How the writer is doing; counts are since it started."""

    ok: bool = True
    waiting: int = 0
    sealed: int = 0
    segments: int = 0
    dropped: int = 0
    errors: int = 0
    last_error: str | None = None
    seal_s: float = 0.0
    sealed_ns: int = 0


class Writer:
    """
    A sink that seals what it took every `seal_s` into the store, in a thread of its own.

    `take` never blocks on the disk and never fails for it: while the store cannot be written, rows wait, the oldest are
    given up when `spool_rows` wait, and `status` and an event say so.

    Raises: StoreError if the name is not one or another process writes under it.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        seal_s: float = 5.0,
        spool_rows: int = 200_000,
        host: str | None = None,
        publish: Callable[[], None] | None = None,
        maintain: Callable[[], None] | None = None,
        maintain_s: float = 300.0,
        files: Files = FILES,
        clock_ns: Callable[[], int] = time.time_ns,
        on_sealed: Callable[[Segment], None] | None = None,
        background: bool = True,
    ) -> None:
        self.root = root
        self.name = checked_writer(root, name)
        self._seal_s = seal_s
        self._spool_rows = spool_rows
        self._host = host or socket.gethostname()
        self._publish = publish
        self._maintain = maintain
        self._maintain_s = maintain_s
        self._files = files
        self._clock_ns = clock_ns
        self._on_sealed = on_sealed
        self._describer = Describer()
        self._waiting: deque[tuple[Table, Row]] = deque()
        self._last_times: dict[tuple[Any, ...], int] = {}
        self._held: dict[tuple[str, date, int], list[tuple[Segment, Batch]] | None] = {}
        self._superseded: deque[tuple[float, Sequence[Segment]]] = deque()
        self._next_ids: dict[str, int] = {}
        self._on_disk_ns: dict[str, int] = {}
        self._status = WriterStatus()
        self._guard = threading.Lock()  # the rows that wait and the status
        self._sealing = threading.Lock()  # one seal at a time
        self._stop = threading.Event()
        self._lock: WriterLock | None = None
        self._failures = 0
        self._step = -1  # which five minutes it was when segments were merged and published last
        self._due_maintain = time.monotonic() + maintain_s
        try:
            self._open()
        except OSError as error:  # read-only or full: rows wait, as they would if it happened later
            self._failed(StoreError(error.filename or root, error.strerror or str(error)))
        self._thread = threading.Thread(target=self._run, name=f"store-{name}", daemon=True) if background else None
        if self._thread is not None:
            self._thread.start()

    # ------------------------------------------------------------------------------------------------ the agent's side

    @property
    def status(self) -> WriterStatus:
        """Counts and the last error, as of now."""
        with self._guard:
            return replace(self._status, waiting=len(self._waiting))

    def take(self, readings: Sequence[Reading]) -> None:
        """Keep the rows of *readings* for the next seal."""
        rows = list(rows_of(readings, self._describer, self._clock_ns))
        with self._guard:
            self._waiting.extend(rows)
            self._drop_oldest()

    def close(self) -> None:
        """Seal what waits, and give the name back. Rows that cannot be sealed now are lost, and logged."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.seal()
        if self._publish is not None and self._lock is not None:
            self._try(self._publish)
        with self._sealing:
            if self._lock is not None:
                self._lock.close()
                self._lock = None
        lost = self.status.waiting
        if lost:
            log.error("rows lost at close", extra={"rows": lost, "store": str(self.root)})

    def seal(self) -> bool:
        """Seal everything that waits, now; False if the store could not be written."""
        with self._sealing:
            started = time.perf_counter()
            try:
                with as_store_error(self.root):
                    if self._lock is None:
                        self._open()
                    while self._seal_batch():
                        pass
            except StoreError as error:
                self._failed(error)
                return False
            self._succeeded(time.perf_counter() - started)
            return True

    # ------------------------------------------------------------------------------------------------ the disk's side

    def _open(self) -> None:
        self._files.make_folder(self.root)
        lock = WriterLock(self.root, self.name, files=self._files)
        try:
            for table in TABLES:
                self._next_ids[table] = next_id(self.root, table, self.name, self._clock_ns())
                for day in days(self.root, table):
                    for left in unfinished(self.root, table, day, self.name):
                        self._files.remove(left)  # half a file from a crash; the lock says nobody is writing it
                    mine = [
                        segment.last_ns for segment in present(self.root, table, day) if segment.writer == self.name
                    ]
                    self._on_disk_ns[table] = max([self._on_disk_ns.get(table, 0), *mine])
        except BaseException:
            lock.close()
            raise
        self._lock = lock

    def _seal_batch(self) -> bool:
        """Seal some of what waits; False when nothing is left."""
        with self._guard:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_ROWS))]
        if not batch:
            return False
        by_day: dict[tuple[str, date], list[Row]] = {}
        for table, row in batch:
            by_day.setdefault((table.name, day_of(row.time_ns)), []).append(row)
        done: set[tuple[str, date]] = set()
        try:
            for (name, day), rows in by_day.items():
                self._write(TABLES[name], day, rows)
                done.add((name, day))
        finally:
            if len(done) < len(by_day):
                # Those not sealed go back to where they were: the front.
                with self._guard:
                    self._waiting.extendleft(
                        (table, row) for table, row in reversed(batch) if (table.name, day_of(row.time_ns)) not in done
                    )
                    self._drop_oldest()
        return True

    def _write(self, table: Table, day: date, rows: list[Row]) -> None:
        batch = batch_of(table, rows)
        keys = batch.row_keys()
        repeats = not table.shared and self._may_repeat(table, keys)
        number = max(self._next_ids[table.name], self._clock_ns() // 1_000_000)
        segment = self._commit(batch, day, number, number, repeats=repeats)
        self._next_ids[table.name] = number + 1
        for *key, at in keys:
            place = (table.name, *key)
            self._last_times[place] = max(self._last_times.get(place, 0), at)
        self._hold(segment, batch)
        with self._guard:
            self._status = replace(
                self._status, sealed=self._status.sealed + len(rows), segments=self._status.segments + 1
            )
        if self._on_sealed is not None:
            self._on_sealed(segment)

    def _commit(
        self, batch: Batch, day: date, first: int, last: int, *, generation: int = 0, repeats: bool = False
    ) -> Segment:
        """Make *batch* a segment of the seals from *first* to *last*."""
        table = batch.table.name
        first_ns, last_ns = min(batch.times_ns), max(batch.times_ns)
        final = day_folder(self.root, table, day) / segment_name(
            self.name, generation, first, last, first_ns, last_ns, repeats=repeats
        )
        temporary = final.with_name(f".{final.name}.tmp")
        content = batch.encoded()
        try:
            self._files.make_folder(final.parent)
            temporary.write_bytes(content)
            self._files.commit(temporary, final)
        except BaseException:
            self._remove_quietly(temporary)
            raise
        return Segment(
            final, table, day, self.name, generation, first, last, first_ns, last_ns, repeats, bytes=len(content)
        )

    def _may_repeat(self, table: Table, keys: Iterable[tuple[Any, ...]]) -> bool:
        """Whether a row may have the keys and time of one sealed before: not later than the last of its series."""
        before = self._on_disk_ns.get(table.name, 0)
        return any(at <= self._last_times.get((table.name, *key), before) for *key, at in keys)

    def _remove_quietly(self, path: Path) -> None:
        try:
            self._files.remove(path)
        except OSError:
            # A store that went read-only keeps its half file until the next start; the error that matters is raised.
            log.debug("temporary file left", extra={"path": str(path)})

    # ------------------------------------------------------------------------------------------------ when it fails

    def _drop_oldest(self) -> None:
        excess = len(self._waiting) - self._spool_rows
        for _ in range(excess):
            self._waiting.popleft()
        if excess > 0:
            self._status = replace(self._status, dropped=self._status.dropped + excess)

    def _failed(self, error: StoreError) -> None:
        self._failures += 1
        first = self._failures == 1
        with self._guard:
            self._status = replace(self._status, ok=False, errors=self._status.errors + 1, last_error=str(error))
        if first:
            log.error("store cannot be written", extra={"error": str(error), "store": str(self.root)})
            self._note("store_failed", Severity.CRITICAL, str(error))

    def _succeeded(self, took_s: float) -> None:
        if self._failures:
            self._failures = 0
            log.info("store written again", extra={"store": str(self.root)})
            self._note("store_recovered", Severity.INFO, "", float(self._status.dropped))
        with self._guard:
            self._status = replace(self._status, ok=True, seal_s=took_s, sealed_ns=self._clock_ns())

    def _note(self, kind: str, severity: Severity, message: str, value: float | None = None) -> None:
        """Put an event of the store's own among the rows that wait."""
        event = Event(
            time_ns=self._clock_ns(), kind=kind, host=self._host, severity=severity, message=message, value=value
        )
        with self._guard:
            self._waiting.append((EVENTS, event_row(event, f"store:{self.name}")))
            self._drop_oldest()

    # ------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        due = time.monotonic() + self._seal_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            ok = self.seal()
            pause = self._seal_s if ok else min(self._seal_s * 2 ** min(self._failures, 8), _LONGEST_WAIT_S)
            now = time.monotonic()
            due = max(due + pause, now) if ok else now + pause
            if ok:
                self._tidy(now)

    def _tidy(self, now: float) -> None:
        step = self._clock_ns() // 1_000_000 // STEP_MS
        if step != self._step:
            self._step = step
            self.compact()
            if self._publish is not None:
                self._try(self._publish)
        if self._maintain is not None and now >= self._due_maintain:
            self._due_maintain = now + self._maintain_s
            self._try(self._maintain)

    def compact(self) -> int:
        """Merge what is due of this writer's segments; gives the number of segments made."""
        with self._sealing:
            if self._lock is None:
                return 0
            now_ns = self._clock_ns()
            try:
                with as_store_error(self.root), closing(Engine(spill=self.root / f".spill-{self.name}")) as engine:
                    self._remove_superseded()
                    return self._merge_held(now_ns) + compact(engine, self._files, self.root, self.name, now_ns)
            except StoreError as error:
                self._failed_aside(error)
                return 0

    def _hold(self, segment: Segment, batch: Batch) -> None:
        """
        Keep what was sealed until its five minutes are over, to merge it without reading it back.

        Reading back takes ten times as long. Rows that may repeat others, and those of before a crash, need it.
        """
        place = (segment.table, segment.date, segment.first // STEP_MS)
        held = self._held.setdefault(place, [])
        if held is not None:
            held.append((segment, batch))
            if batch.table.shared or segment.repeats or sum(len(some) for _, some in held) > _HELD_ROWS:
                self._held[place] = None

    def _merge_held(self, now_ns: int) -> int:
        """Merge what is held of five minutes that are over; gives the number of segments made."""
        made = 0
        for place in [place for place in self._held if (place[2] + 1) * STEP_MS <= now_ns // 1_000_000]:
            held = self._held.pop(place)
            if held is not None and len(held) > 1:
                segments, batches = zip(*held, strict=True)
                merged = joined(batches[0].table, batches)
                self._commit(merged, place[1], segments[0].first, segments[-1].last, generation=1)
                self._superseded.append((time.monotonic() + GRACE_S, segments))
                made += 1
        return made

    def _remove_superseded(self) -> None:
        """Delete the seals that were merged from memory a while ago; what is left by a crash, `maintain` deletes."""
        while self._superseded and self._superseded[0][0] <= time.monotonic():
            for segment in self._superseded.popleft()[1]:
                self._files.remove(segment.path)

    def _try(self, upkeep: Callable[[], None]) -> None:
        try:
            upkeep()
        except StoreError as error:
            self._failed_aside(error)

    def _failed_aside(self, error: StoreError) -> None:
        """Count what failed beside the sealing of rows, which goes on."""
        log.warning("store upkeep failed", extra={"error": str(error)})
        with self._guard:
            self._status = replace(self._status, errors=self._status.errors + 1, last_error=str(error))
