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
ROWS = 100_000
"""Rows that are rolled up at once, if they are of more than one subject: what the memory of an agent has room for."""
_ROOMY = 8
"""So many times as many where nobody bounded memory."""
_HOUR_NS = 3_600_000_000_000
# Rollups have many columns, all of a group of rows being in memory at once.
_WIDE_ROWS = 10_000
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
        self.statement = statement
        self.columns = list(columns)

    def write_parquet(self, file: Any, *, compression: Any = "lz4") -> None:
        """Compute and write to *file*."""
        self._engine.run(
            f"COPY ({self.statement}) TO {sql.text(file)} "
            f"(FORMAT parquet, COMPRESSION {compression}, ROW_GROUP_SIZE {_WIDE_ROWS})"
        )


def _plans(engine: Engine, root: Path, samples: Table, start_ns: int, end_ns: int) -> Iterator[Plan]:
    """The hours of *samples* from start to end, some subjects at a time; nothing without a sample."""
    inside = segments_of(root, samples.name, start_ns, end_ns + 1)
    if not inside:
        return
    earlier = segments_of(root, samples.name, start_ns - _LOOK_BACK_NS, start_ns)
    later = segments_of(root, samples.name, end_ns + 1, end_ns + _LOOK_AHEAD_NS)
    stretch = _between(samples, inside, start_ns, end_ns + 1)
    before = _between(samples, earlier, start_ns - _LOOK_BACK_NS, start_ns) if earlier else None
    after = _between(samples, later, end_ns + 1, end_ns + _LOOK_AHEAD_NS) if later else None
    columns = _columns(engine, inside)
    whole = _whole(engine, samples, columns, [select for select in (stretch, before, after) if select])
    for part in _parts(engine, samples, stretch):
        yield Plan(
            samples=samples,
            columns=frozenset(columns),
            whole=whole,
            start_ns=start_ns,
            end_ns=end_ns,
            inside=stretch + part,
            earlier=before and before + part,
            later=after and after + part,
        )


def _most(engine: Engine) -> int:
    return ROWS * (_ROOMY if engine.memory is None else 1)


def _together(engine: Engine, root: Path, samples: Table, work: Work) -> list[tuple[int, int]]:
    """The hours of *work* in stretches of at most about `ROWS` rows: a statement costs as much as some thousand."""
    start_ns = day_start_ns(work.day)
    begin_ns, end_ns = start_ns + work.first_hour * _HOUR_NS, start_ns + (work.last_hour + 1) * _HOUR_NS
    inside = segments_of(root, samples.name, begin_ns, end_ns)
    if not inside:
        return []
    rows: dict[int, int] = dict(
        engine.run(
            f"SELECT (epoch_ns(time) - {start_ns}) // {_HOUR_NS}, count(*) "
            f"FROM ({_between(samples, inside, begin_ns, end_ns)}) GROUP BY 1"
        )
    )
    stretches: list[tuple[int, int]] = []
    total = 0
    for hour in range(work.first_hour, work.last_hour + 1):
        count = rows.get(hour, 0)
        if not stretches or total + count > _most(engine):
            stretches.append((hour, hour))
            total = 0
        stretches[-1] = (stretches[-1][0], hour + 1)
        total += count
    return stretches


def _parts(engine: Engine, samples: Table, stretch: str) -> list[str]:
    """Conditions on rows, one for each part of their subjects that has about `ROWS` of them."""
    subject = sql.quoted(samples.keys[0])
    edges, rows = [], 0
    for name, count in engine.run(f"SELECT {subject}, count(*) FROM ({stretch}) GROUP BY 1 ORDER BY 1 NULLS FIRST"):
        rows += count
        if rows >= _most(engine) and name is not None:
            edges.append(sql.text(name))
            rows = 0
    above = ["", *(f" AND {subject} > {edge}" for edge in edges)]
    below = [*(f" AND coalesce({subject} <= {edge}, true)" for edge in edges), ""]
    return [low + high for low, high in zip(above, below, strict=True)]


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
def rolled(engine: Engine, root: Path, samples: Table, work: Work) -> Iterator[Rolled | None]:
    """
    The rollups of the hours that *work* asks for, with the day itself if it is to be folded; None without a sample.

    Made a little at a time, so that ten thousand devices and a day take no more memory than some devices and an hour.
    """
    scratch = root / f".spill-rolled.{os.getpid()}.{threading.get_ident()}"
    scratch.mkdir()
    start_ns = day_start_ns(work.day)
    try:
        paths: list[Path] = []
        for first, last in _together(engine, root, samples, work):
            for plan in _plans(engine, root, samples, start_ns + first * _HOUR_NS, start_ns + last * _HOUR_NS):
                paths.append(scratch / f"{len(paths):06}.parquet")
                _described(engine, plan.statement()).write_parquet(paths[-1])
        if not paths:
            yield None
            return
        hours = _described(engine, f"SELECT * FROM {sql.read_segments(paths)}")
        yield _folded(hours, engine, samples, work) if work.fold else hours
    finally:
        shutil.rmtree(scratch)


@contextmanager
def refolded(engine: Engine, root: Path, samples: Table, work: Work) -> Iterator[Rolled]:
    """The pieces of a day as one, with the day itself."""
    rollups, start_ns = ROLLUP_TABLES[samples.name], day_start_ns(work.day)
    pieces = [s for s in segments_of(root, rollups.name, start_ns, start_ns + DAY_NS) if s.writer == PART]
    hours = f"{_between(rollups, pieces, start_ns, start_ns + DAY_NS)} AND window_s <= {_HOUR_NS // 10**9}"
    there = ", ".join(sql.quoted(column.name) for column in rollups if column.name in _columns(engine, pieces))
    yield _folded(_described(engine, f"SELECT {there} FROM ({hours})"), engine, samples, work)


def _folded(hours: Rolled, engine: Engine, samples: Table, work: Work) -> Rolled:
    rollups = ROLLUP_TABLES[samples.name]
    return _described(engine, folded(rollups, hours.columns, hours.statement, day_start_ns(work.day)))


def roll_up(store: Any, engine: Engine, now_ns: int, start_ns: int | None = None) -> int:
    """
    Bring the rollups of every table that has some up to date; gives the number of pieces written.

    With *start_ns* only those of days that end after it.

    Raises: StoreError.
    """
    written = 0
    for name, rollups in ROLLUP_TABLES.items():
        samples = TABLES[name]
        progress = Progress(store.root, rollups.name)
        reached = {
            day: last
            for day, last in seen(store.root, samples).items()
            if start_ns is None or day_start_ns(date.fromisoformat(day)) + DAY_NS > start_ns
        }
        with as_store_error(store.root / rollups.name):
            for work in due(store.root, samples, progress, now_ns):
                if work.day.isoformat() not in reached:
                    continue
                making = rolled if work.roll else refolded
                with making(engine, store.root, samples, work) as frame:
                    if frame is not None:
                        hours = {"first": work.first_hour, "last": work.last_hour}
                        store.replace(rollups.name, PART, frame, **hours, only=[work.day])
                        written += 1
            # What is no longer there is forgotten; what had to wait is as it was.
            done = reached if start_ns is None else progress.done | reached
            if done != progress.done:
                progress.done = done
                progress.save(store.files)
    return written
