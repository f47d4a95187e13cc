"""A store: a folder of tables, and everything one does with it."""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from collector.errors import StoreBusy, StoreError
from collector.store import sql, views
from collector.store.bulk import Arranged, Columns, Frame, Written, write_days
from collector.store.checking import Problem, check
from collector.store.compaction import GRACE_S, compact, expire, pack, sweep
from collector.store.engine import Engine, as_store_error, connect
from collector.store.extents import Extent, extents
from collector.store.files import FILES, Files, WriterLock
from collector.store.rollups import current, roll_up
from collector.store.schema import TABLES
from collector.store.segments import (
    Segment,
    checked_writer,
    day_folder,
    days,
    next_id,
    present,
    segment_name,
    segments_of,
    visible,
)
from collector.store.table import Table
from collector.store.writer import Writer

ROLLUP = "rollups.all"
"""Who holds this name rolls up: of two at once the slower would put older rows in place of newer ones."""
UPKEEP = "upkeep.all"
"""Who holds this name cleans up; another that would do the same at once is refused."""
RETAIN_DAYS: Mapping[str, int | None] = {
    "device_samples": 14,
    "host_samples": 14,
    "workload_samples": 14,
    "processes": 14,
    "expectations": 90,
    "anomaly_scores": 90,
    "job_runs": 30,
}
"""Days that a table keeps (None or absent: for ever). Rollups, what jobs made of them and what changes seldom stay."""


class Upkept(NamedTuple):
    """What a clean-up did: segments merged, pieces of rollups made, segments packed, days expired, files deleted."""

    merged: int = 0
    rolled_up: int = 0
    packed: int = 0
    expired: int = 0
    deleted: int = 0


class Store:
    """
    A store at *root*, for reading and for writing whole tables; `writer` gives what an agent writes with.

    `threads` and `memory` ("96MB") bound what writing and upkeep may use; an agent bounds them, an import does not.

    Raises: StoreError if *root* is not a folder (`create` makes one).
    """

    def __init__(
        self, root: Path | str, *, files: Files = FILES, threads: int | None = None, memory: str | None = None
    ) -> None:
        self.root = Path(root).absolute()
        self.files = files
        self._threads = threads
        self._memory = memory
        if not self.root.is_dir():
            raise StoreError(self.root, "no store here: not a folder")

    @classmethod
    def create(
        cls, root: Path | str, *, files: Files = FILES, threads: int | None = None, memory: str | None = None
    ) -> "Store":
        """
        Open the store at *root*, making the folder if there is none.

        Raises: StoreError.
        """
        path = Path(root).absolute()
        with as_store_error(path):
            files.make_folder(path)
        return cls(path, files=files, threads=threads, memory=memory)

    # ------------------------------------------------------------------------------------------------ reading

    def tables(self) -> list[str]:
        """The tables that hold a segment."""
        return [name for name in TABLES if any(visible(present(self.root, name, day)) for day in days(self.root, name))]

    def table(self, name: str) -> Table:
        """
        The table called *name*.

        Raises: StoreError.
        """
        if name not in TABLES:
            raise StoreError(self.root, f"no table {name!r}; there are {', '.join(TABLES)}")
        return TABLES[name]

    def segments(self, table: str, start_ns: int | None = None, end_ns: int | None = None) -> list[Segment]:
        """The segments that may hold a row of *table* in [start_ns, end_ns), in the order they were written, by day."""
        return segments_of(self.root, self.table(table).name, start_ns, end_ns)

    def groups(
        self, table: str, start_ns: int | None = None, end_ns: int | None = None
    ) -> list[tuple[list[Segment], bool]]:
        """The segments in groups: True where a later row may replace an earlier one (same keys and time)."""
        return views.groups(self.table(table), self.segments(table, start_ns, end_ns))

    def extents(self, segments: Iterable[Segment]) -> list[Extent]:
        """
        What the footers of *segments*, all of one table, say of each group of rows: the range of its first key.

        Raises: StoreError.
        """
        with as_store_error(self.root):
            return extents(list(segments))

    @contextmanager
    def connect(self, *, threads: int | None = None, memory: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """An in-memory DuckDB with a view for each table, as the store is now."""
        with as_store_error(self.root):
            connection = connect(threads=threads, memory=memory)
            try:
                views.create(connection, self.root)
                yield connection
            finally:
                connection.close()

    def publish(self) -> Path:
        """
        Write ``perfwatt.duckdb``: views over the segments of now, for any DuckDB client.

        A client that holds it open for longer than the grace opens it anew.

        Raises: StoreError.
        """
        publisher = views.Publisher(self.root, self.files)
        publisher.publish()
        publisher.close()
        return self.root / views.DATABASE

    # ------------------------------------------------------------------------------------------------ writing

    def writer(self, name: str, *, seal_s: float = 5.0, spool_rows: int = 200_000, **options: Any) -> Writer:
        """
        A sink that seals every *seal_s*; see `Writer` for the *options*.

        Raises: StoreError if *name* is in use.
        """
        options.setdefault("files", self.files)
        options.setdefault("publish", views.Publisher(self.root, self.files).publish)
        options.setdefault("maintain", self.maintain)
        return Writer(self.root, name, seal_s=seal_s, spool_rows=spool_rows, **options)

    def write(
        self, table: str, data: Frame | Columns, writer: str = "import", *, threads: int | None = None
    ) -> list[Segment]:
        """
        Seal *data*, a polars DataFrame or columns by name (see `bulk.Columns`), at once: a segment for each day.

        Raises: StoreError; then nothing of *data* is in the store, unless a rename failed between two days.
        """
        checked_writer(self.root, writer)
        with self._bulk(self.table(table), data, writer, threads, {}) as (engine, found, written):
            number = next_id(self.root, table, writer, time.time_ns())
            return [
                self._commit(
                    found,
                    part,
                    writer,
                    0,
                    number,
                    number,
                    repeats=self._meets(engine, found, part, writer),
                )
                for part in written
            ]

    def replace(
        self,
        table: str,
        part: str,
        data: Frame | Columns | Arranged,
        *,
        first: int = 0,
        last: int = 0,
        only: Collection[date] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Segment]:
        """
        Make *data* the whole of *part* of *table*: what the same part held before is no longer there.

        Each day changes at one moment; a crash between two days is mended by running the job again. `first` and `last`
        divide a part into pieces that are replaced one by one, or together by a piece that covers them; `only` are the
        days to which the part is replaced (all of them, if not given).

        Raises: StoreError.
        """
        checked_writer(self.root, part)
        with self._bulk(self.table(table), data, part, None, metadata or {}) as (_, found, written):
            touched = {item.day for item in written} | set(days(self.root, table) if only is None else only)
            held = {
                day: [
                    segment
                    for segment in present(self.root, table, day)
                    if segment.writer == part and first <= segment.first and segment.last <= last
                ]
                for day in touched
            }
            higher = 1 + max((segment.generation for some in held.values() for segment in some), default=0)
            sealed = [self._commit(found, item, part, higher, first, last) for item in written]
            for day in {day for day, some in held.items() if some} - {item.day for item in written}:
                self._bury(found, part, higher, first, last, day)
            return sealed

    @contextmanager
    def _bulk(
        self,
        table: Table,
        data: Frame | Columns | Arranged,
        writer: str,
        threads: int | None,
        metadata: Mapping[str, str],
    ) -> Iterator[tuple[Engine, Table, list[Written]]]:
        """Write *data* to temporary files, then hold the writer's name while they are given theirs."""
        label = f"{writer}.{os.getpid()}.{threading.get_ident()}"
        with as_store_error(self.root / table.name):
            spill = self.root / f".spill-{label}"
            engine = Engine(threads=threads or self._threads, memory=self._memory, spill=spill)
            written: list[Written] = []
            try:
                written = write_days(engine, self.files, self.root, table, data, label, metadata)
                with WriterLock(self.root, writer, wait_s=60.0, files=self.files):
                    yield engine, table, written
            finally:
                engine.close()
                for item in written:
                    item.path.unlink(missing_ok=True)

    def _commit(
        self, table: Table, item: Written, writer: str, generation: int, first: int, last: int, *, repeats: bool = False
    ) -> Segment:
        name = segment_name(writer, generation, first, last, item.first_ns, item.last_ns, repeats=repeats)
        final = day_folder(self.root, table.name, item.day) / name
        self.files.commit(item.path, final)
        return Segment(
            final,
            table.name,
            item.day,
            writer,
            generation,
            first,
            last,
            item.first_ns,
            item.last_ns,
            repeats,
            final.stat().st_size,
        )

    def _bury(self, table: Table, part: str, generation: int, first: int, last: int, day: date) -> None:
        """Cover what a part held on a day with a segment of no rows."""
        folder = day_folder(self.root, table.name, day)
        final = folder / segment_name(part, generation, first, last, 0, 0)
        temporary = folder / f".{final.name}.tmp"
        engine = Engine()
        try:
            engine.run(sql.copy(sql.blank(table), temporary, table))
            self.files.commit(temporary, final)
        finally:
            engine.close()
            temporary.unlink(missing_ok=True)

    def _meets(self, engine: Engine, table: Table, item: Written, writer: str) -> bool:
        """Whether a row of *item* has the keys and time of one that the writer has written before."""
        mine = [s for s in visible(present(self.root, table.name, item.day)) if s.writer == writer]
        paths = [segment.path for segment in mine if segment.overlaps(item.first_ns, item.last_ns + 1)]
        if table.shared or not paths:
            return False
        new, old = (sql.typed_rows(table, [(some, False)]) for some in ([item.path], paths))
        same = " AND ".join(
            f"n.{sql.quoted(key)} IS NOT DISTINCT FROM o.{sql.quoted(key)}" for key in (*table.keys, "time")
        )
        window = f"time >= make_timestamp_ns({item.first_ns}) AND time <= make_timestamp_ns({item.last_ns})"
        statement = f"SELECT count(*) FROM ({new}) n SEMI JOIN (SELECT * FROM ({old}) WHERE {window}) o ON {same}"
        return bool(engine.run(statement)[0][0])

    # ------------------------------------------------------------------------------------------------ upkeep

    def maintain(
        self,
        now_ns: int | None = None,
        *,
        retain_days: Mapping[str, int | None] | None = None,
        grace_s: float = GRACE_S,
    ) -> Upkept:
        """
        Merge segments, roll up, pack and expire days, delete what is superseded, publish.

        A writer that runs merges its own segments.

        Raises: StoreBusy when another process cleans up now; StoreError for the first thing that failed, after
        everything else was done.
        """
        with as_store_error(self.root), WriterLock(self.root, UPKEEP, files=self.files):
            return self._maintain(time.time_ns() if now_ns is None else now_ns, retain_days or {}, grace_s)

    def _maintain(self, now_ns: int, retain_days: Mapping[str, int | None], grace_s: float) -> Upkept:
        failures: list[StoreError] = []

        def done(step: Callable[[], int]) -> int:
            """What *step* gives; the next are done whatever becomes of it: on a full disk expiry makes room."""
            try:
                with as_store_error(self.root):
                    return step()
            except StoreError as error:
                failures.append(error)
                return 0

        def merge_all() -> int:
            writers = {s.writer for t in TABLES for day in days(self.root, t) for s in present(self.root, t, day)}
            return sum(done(partial(merge, writer)) for writer in sorted(writers))

        def merge(writer: str) -> int:
            try:
                lock = WriterLock(self.root, writer, files=self.files)
            except StoreBusy:
                return 0  # it runs, and merges its own
            with lock:
                return compact(engine, self.files, self.root, writer, now_ns)

        def roll() -> int:
            try:
                lock = WriterLock(self.root, ROLLUP, files=self.files)
            except StoreBusy:
                return 0  # another process is rolling up, to the same end
            with lock:
                return roll_up(self, engine, now_ns)

        def published() -> int:
            self.publish()
            return 0

        retain = {**RETAIN_DAYS, **retain_days}
        engine = Engine(threads=self._threads, memory=self._memory, spill=self.root / f".spill-maintain.{os.getpid()}")
        with closing(engine):
            merged, rolled_up = done(merge_all), done(roll)
            packed = done(lambda: pack(engine, self.files, self.root, now_ns))
            expired = done(lambda: expire(self.files, self.root, retain, now_ns))
            deleted = done(lambda: sweep(self.files, self.root, grace_s=grace_s))
        done(published)
        if failures:
            raise failures[0]
        return Upkept(merged, rolled_up, packed, expired, deleted)

    def roll_up(self, now_ns: int | None = None, *, start_ns: int | None = None, wait_s: float = 60.0) -> int:
        """
        Bring the rollups up to date, as `maintain` does; gives the number of pieces written.

        With *start_ns* only those of days that end after it.

        Raises: StoreError; StoreBusy when another process is still at it after *wait_s*.
        """
        engine = Engine(threads=self._threads, memory=self._memory, spill=self.root / f".spill-rollup.{os.getpid()}")
        try:
            with WriterLock(self.root, ROLLUP, wait_s=wait_s, files=self.files):
                return roll_up(self, engine, time.time_ns() if now_ns is None else now_ns, start_ns)
        finally:
            engine.close()

    def rolled_up(self, table: str, start_ns: int | None = None, end_ns: int | None = None) -> tuple[int, int] | None:
        """The first stretch of whole hours in [start_ns, end_ns) whose rollups say all that samples of *table* do."""
        return current(self.root, self.table(table), start_ns, end_ns)

    def check(self, *, whole: bool = False) -> list[Problem]:
        """What is wrong with the segments: damaged, of a newer schema, foreign; with *whole* every value is decoded."""
        return check(self.root, whole=whole)
