"""
Rollups: what the samples of five minutes, an hour and a day were, so that a year of a fleet answers as fast as a day.

Exact where it matters: energy and counters are summed step by step, resets handled, and shared by time between windows,
so that sums over windows lose nothing between them; the largest and smallest value survive, and percentiles are read
from sketches. Only hours that got new segments are computed again, and computing them twice changes nothing.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from collector.catalogue import POWER, Kind
from collector.gaps import MAX_COUNTER_GAP_S
from collector.store import sql
from collector.store.engine import Engine, as_store_error
from collector.store.files import Files
from collector.store.rollup_sql import Plan, folded
from collector.store.schema import ROLLUP_TABLES, TABLES
from collector.store.segments import DAY_NS, Segment, day_start_ns, days, present, segments_of, visible
from collector.store.table import Table
from collector.store.views import groups

PART = "rollup"
RULES = 2
"""Raised when the same samples give other rollups."""
_HOUR_NS = 3_600_000_000_000
# How far back the sample before a window is looked for; what rose over a longer silence belongs to no window.
_LOOK_BACK_NS = DAY_NS
_LOOK_AHEAD_NS = round(MAX_COUNTER_GAP_S * 10**9)
# A day is folded when what reaches its last hour late, and the first sample of the next day, are there.
_SETTLED_NS = 2 * _HOUR_NS


@dataclass(frozen=True, slots=True)
class Work:
    """
    Hours of a day: all of them as one piece, or one piece each.

    roll: compute them from samples, not from the pieces that there are. fold: add the day as a whole.
    """

    day: date
    first_hour: int
    last_hour: int
    roll: bool = True
    fold: bool = False


class Progress:
    """Up to which seal of which writer each day was rolled up, by which rules; else everything is rolled up again."""

    def __init__(self, root: Path, table: str) -> None:
        self.path = root / table / "progress.json"
        self.table = table
        self.done: dict[str, dict[str, int]] = {}
        try:
            kept = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return
        if kept.get("rules") == RULES:
            self.done = kept["done"]

    def save(self, files: Files) -> None:
        """Keep it."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            files.make_folder(self.path.parent)
            temporary.write_text(json.dumps({"rules": RULES, "done": self.done}, sort_keys=True))
            files.commit(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def stale(root: Path, samples: Table, progress: Progress) -> dict[date, set[int]]:
    """
    The hours of *samples* that got segments since they were rolled up, and those on either side.

    The step into an hour is of the hour before it, too, and the step into the next hour begins in it.
    """
    hours: dict[date, set[int]] = {}
    there = days(root, samples.name)
    for day in there:
        done = progress.done.get(day.isoformat(), {})
        for segment in visible(present(root, samples.name, day)):
            if segment.last > done.get(segment.writer, -1):
                start = day_start_ns(day)
                first, last = ((ns - start) // _HOUR_NS for ns in (segment.first_ns, segment.last_ns))
                for hour in range(first - 1, last + 2):
                    on = day + timedelta(days=hour // 24)
                    if on in there:
                        hours.setdefault(on, set()).add(hour % 24)
    return hours


def due(root: Path, samples: Table, progress: Progress, now_ns: int) -> list[Work]:
    """What is to be computed: hours that are `stale`; days that are over are folded."""
    hours = stale(root, samples, progress)
    work: list[Work] = []
    for day in days(root, samples.name):
        pieces = [piece for piece in visible(present(root, progress.table, day)) if piece.writer == PART]
        over = day_start_ns(day) + DAY_NS + _SETTLED_NS <= now_ns
        # A day that is over becomes one piece; so does one that already is: it would hide a piece of an hour.
        if day in hours and (over or any(piece.last > piece.first for piece in pieces)):
            work.append(Work(day, 0, 23, fold=over))
        else:
            work += [Work(day, hour, hour) for hour in sorted(hours.get(day, ()))]
            if over and pieces and not any(piece.last > piece.first for piece in pieces):
                work.append(Work(day, 0, 23, roll=False, fold=True))
    return work


def current(root: Path, samples: Table, start_ns: int | None, end_ns: int | None) -> tuple[int, int] | None:
    """
    The first stretch of whole hours in [start_ns, end_ns) whose rollups hold everything that samples do.

    Days whose samples have expired count, too: there their rollups are all that there is.
    """
    rollups = ROLLUP_TABLES[samples.name]
    pieces = [piece for piece in segments_of(root, rollups.name, start_ns, end_ns) if piece.writer == PART]
    if not pieces:
        return None
    old = [
        day_start_ns(day) + hour * _HOUR_NS
        for day, hours in stale(root, samples, Progress(root, rollups.name)).items()
        for hour in hours
    ]
    first = min(piece.first_ns for piece in pieces) if start_ns is None else -(-start_ns // _HOUR_NS) * _HOUR_NS
    last = max(piece.last_ns for piece in pieces) // _HOUR_NS * _HOUR_NS + _HOUR_NS
    if end_ns is not None:
        last = min(last, end_ns // _HOUR_NS * _HOUR_NS)
    last = min([last, *(ns for ns in old if ns >= first)])
    return (first, last) if first < last else None


def seen(root: Path, samples: Table) -> dict[str, dict[str, int]]:
    """The last seal of each writer, by day, as of now."""
    found: dict[str, dict[str, int]] = {}
    for day in days(root, samples.name):
        for segment in visible(present(root, samples.name, day)):
            last = found.setdefault(day.isoformat(), {})
            last[segment.writer] = max(last.get(segment.writer, -1), segment.last)
    return found


class Rolled:
    """The rollup of some hours, as a frame that DuckDB computes when it is written."""

    def __init__(self, engine: Engine, statement: str, columns: Sequence[str]) -> None:
        self._engine = engine
        self._statement = statement
        self.columns = list(columns)

    def write_parquet(self, file: Any, *, compression: Any = "lz4") -> None:
        """Compute and write to *file*."""
        self._engine.run(f"COPY ({self._statement}) TO {sql.text(file)} (FORMAT parquet, COMPRESSION {compression})")


def rolled(engine: Engine, root: Path, samples: Table, start_ns: int, end_ns: int) -> Rolled | None:
    """The rollups of *samples* over [start_ns, end_ns), whole hours; None if there is no sample."""
    inside = segments_of(root, samples.name, start_ns, end_ns + 1)
    if not inside:
        return None
    earlier = segments_of(root, samples.name, start_ns - _LOOK_BACK_NS, start_ns)
    later = segments_of(root, samples.name, end_ns + 1, end_ns + _LOOK_AHEAD_NS)
    before = (_between(samples, earlier, start_ns - _LOOK_BACK_NS, start_ns), bool(earlier))
    after = (_between(samples, later, end_ns + 1, end_ns + _LOOK_AHEAD_NS), bool(later))
    stretch = _between(samples, inside, start_ns, end_ns + 1)
    columns = _columns(engine, inside)
    plan = Plan(
        samples=samples,
        columns=frozenset(columns),
        whole=_whole(engine, samples, columns, [stretch, *(select for select, there in (before, after) if there)]),
        start_ns=start_ns,
        end_ns=end_ns,
        inside=stretch,
        earlier=before[0] if before[1] else None,
        later=after[0] if after[1] else None,
    )
    return _described(engine, plan.statement())


def _described(engine: Engine, statement: str) -> Rolled:
    return Rolled(engine, statement, [name for (name, *_) in engine.run(f"DESCRIBE {statement}")])


def _columns(engine: Engine, segments: Iterable[Segment]) -> set[str]:
    source = sql.read_segments([segment.path for segment in segments])
    return {name for name, *_ in engine.run(f"DESCRIBE SELECT * FROM {source}")}


def _whole(engine: Engine, samples: Table, columns: set[str], selects: Sequence[str]) -> frozenset[str]:
    """The counters, and power, that every row has: then what lies between two readings is between two rows."""
    names = [
        column.name
        for column in samples
        if column.metric is not None
        and (column.metric.kind is Kind.COUNTER or column.metric is POWER)
        and column.name in columns
    ]
    counts = ", ".join(["count(*)", *(f"count({sql.quoted(name)})" for name in names)])
    rows = [engine.run(f"SELECT {counts} FROM ({select})")[0] for select in selects]
    return frozenset(name for at, name in enumerate(names, 1) if all(row[at] == row[0] for row in rows))


def _between(table: Table, segments: Sequence[Segment], start_ns: int, end_ns: int) -> str:
    listed = [([segment.path for segment in some], repeats) for some, repeats in groups(table, segments)]
    within = f"time >= make_timestamp_ns({start_ns}) AND time < make_timestamp_ns({end_ns})"
    return f"SELECT * FROM ({sql.typed_rows(table, listed)}) WHERE {within}"


@contextmanager
def rolled_day(engine: Engine, root: Path, samples: Table, start_ns: int, *, fold: bool) -> Iterator[Rolled | None]:
    """
    The rollups of the day that begins at *start_ns*, with the day itself if it is to *fold*; None without a sample.

    Hour by hour, so that a day takes no more memory than an hour does.
    """
    rollups = ROLLUP_TABLES[samples.name]
    scratch = root / f".spill-rolled.{os.getpid()}.{threading.get_ident()}"
    scratch.mkdir()
    try:
        paths = []
        for hour in range(24):
            begin_ns = start_ns + hour * _HOUR_NS
            frame = rolled(engine, root, samples, begin_ns, begin_ns + _HOUR_NS)
            if frame is not None:
                paths.append(scratch / f"{hour:02}.parquet")
                frame.write_parquet(paths[-1])
        if not paths:
            yield None
            return
        hours = f"SELECT * FROM {sql.read_segments(paths)}"
        yield _described(engine, folded(rollups, hours, start_ns) if fold else hours)
    finally:
        shutil.rmtree(scratch)


def refolded(engine: Engine, root: Path, rollups: Table, start_ns: int) -> Rolled:
    """The pieces of the day that begins at *start_ns* as one, with the day itself."""
    pieces = [s for s in segments_of(root, rollups.name, start_ns, start_ns + DAY_NS) if s.writer == PART]
    hours = f"SELECT * FROM ({_between(rollups, pieces, start_ns, start_ns + DAY_NS)}) WHERE window_s <= 3600"
    return _described(engine, folded(rollups, hours, start_ns))


@contextmanager
def _made(engine: Engine, root: Path, samples: Table, work: Work, day_ns: int) -> Iterator[Rolled | None]:
    """What *work* asks for."""
    if not work.roll:
        yield refolded(engine, root, ROLLUP_TABLES[samples.name], day_ns)
    elif work.first_hour < work.last_hour:
        with rolled_day(engine, root, samples, day_ns, fold=work.fold) as frame:
            yield frame
    else:
        start_ns = day_ns + work.first_hour * _HOUR_NS
        yield rolled(engine, root, samples, start_ns, start_ns + _HOUR_NS)


def roll_up(store: Any, engine: Engine, now_ns: int) -> int:
    """
    Bring the rollups of every table that has some up to date; gives the number of pieces written.

    Raises: StoreError.
    """
    written = 0
    for name, rollups in ROLLUP_TABLES.items():
        samples = TABLES[name]
        progress = Progress(store.root, rollups.name)
        reached = seen(store.root, samples)
        with as_store_error(store.root / rollups.name):
            for work in due(store.root, samples, progress, now_ns):
                start = day_start_ns(work.day)
                with _made(engine, store.root, samples, work, start) as frame:
                    if frame is not None:
                        hours = {"first": work.first_hour, "last": work.last_hour}
                        store.replace(rollups.name, PART, frame, **hours, only=[work.day])
                        written += 1
            if reached != progress.done:
                progress.done = reached
                progress.save(store.files)
    return written
