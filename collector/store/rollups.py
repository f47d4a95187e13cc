"""
Rollups: what the samples of five minutes and of an hour were, so that a year of a fleet answers as fast as a day.

Exact where it matters: a counter's increase is summed over every pair of samples, resets handled, and a pair belongs to
the window of its later sample, so that sums over windows lose nothing between them; the largest and smallest value
survive. Only hours that got new segments are computed again, and computing them twice changes nothing.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from collector.catalogue import Kind
from collector.store import sql
from collector.store.engine import Engine, as_store_error
from collector.store.files import Files
from collector.store.schema import ROLLUP_TABLES, STATISTICS, TABLES, rollup_column
from collector.store.segments import DAY_NS, Segment, day_start_ns, days, present, segments_of, visible
from collector.store.table import Column, Table
from collector.store.views import groups

WINDOWS_S = (300, 3600)
MAX_GAP_S = 60.0
"""Two samples further apart than this leave the time between them uncovered."""
PART = "rollup"
_HOUR_NS = 3_600_000_000_000
# How far back the sample before a window is looked for; the increase over a longer silence belongs to no window.
_LOOK_BACK_NS = DAY_NS


@dataclass(frozen=True, slots=True)
class Work:
    """Hours of a day to compute: all of them as one piece, or one piece each."""

    day: date
    first_hour: int
    last_hour: int


class Progress:
    """Up to which seal of which writer each day was rolled up; without it everything is rolled up again."""

    def __init__(self, root: Path, table: str) -> None:
        self.path = root / table / "progress.json"
        self.table = table
        try:
            self.done: dict[str, dict[str, int]] = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            self.done = {}

    def save(self, files: Files) -> None:
        """Keep it."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            files.make_folder(self.path.parent)
            temporary.write_text(json.dumps(self.done, sort_keys=True))
            files.commit(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def due(root: Path, samples: Table, progress: Progress, now_ns: int) -> list[Work]:
    """The hours of *samples* that got segments since they were rolled up, and the one after each (its first pair)."""
    hours: dict[date, set[int]] = {}
    there = days(root, samples.name)
    for day in there:
        done = progress.done.get(day.isoformat(), {})
        for segment in visible(present(root, samples.name, day)):
            if segment.last > done.get(segment.writer, -1):
                start = day_start_ns(day)
                span = range((segment.first_ns - start) // _HOUR_NS, (segment.last_ns - start) // _HOUR_NS + 2)
                hours.setdefault(day, set()).update(hour for hour in span if hour < 24)
                if 24 in span and day + timedelta(days=1) in there:
                    hours.setdefault(day + timedelta(days=1), set()).add(0)
    work: list[Work] = []
    for day, some in sorted(hours.items()):
        pieces = visible(present(root, progress.table, day))
        # A day that is over becomes one piece; so does one that already is: it would hide a piece of an hour.
        if day_start_ns(day) + DAY_NS <= now_ns or any(piece.last > piece.first for piece in pieces):
            work.append(Work(day, 0, 23))
        else:
            work += [Work(day, hour, hour) for hour in sorted(some)]
    return work


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
    before_ns = start_ns - _LOOK_BACK_NS
    inside = segments_of(root, samples.name, start_ns, end_ns)
    if not inside:
        return None
    present_now = _columns(engine, inside)
    measured = [column for column in samples if column.metric is not None and column.name in present_now]
    gauges = [column for column in measured if _kind(column) is Kind.GAUGE]
    counters = [column for column in measured if _kind(column) is Kind.COUNTER]
    subject = sql.quoted(samples.keys[0])
    rollups = ROLLUP_TABLES[samples.name]
    text = [column for column in samples if column.type == "VARCHAR" and column.name in rollups.names]
    others = [column for column in text if column.name not in samples.keys]
    needed = [sql.quoted(column.name) for column in (*text, *measured)]
    rows = f"SELECT time, {', '.join(needed)}, true AS inside FROM ({_between(samples, inside, start_ns, end_ns)})"
    earlier = segments_of(root, samples.name, before_ns, start_ns)
    if earlier and counters:
        last = ", ".join(f"arg_max({name}, time) AS {name}" for name in (sql.quoted(c.name) for c in counters))
        rows += (
            f" UNION ALL BY NAME SELECT {subject}, source, max(time) AS time, {last}, false AS inside "
            f"FROM ({_between(samples, earlier, before_ns, start_ns)}) GROUP BY {subject}, source"
        )
    increases = [f"{_increase(sql.quoted(c.name))} AS {sql.quoted(c.name)}" for c in counters]
    kept = ", ".join([subject, "source", *(sql.quoted(c.name) for c in (*others, *gauges)), *increases])
    pairs = (
        f"SELECT time, inside, {kept}, (epoch_ns(time) - epoch_ns(lag(time) OVER series)) / 1e9 AS apart_s FROM rows "
        f"WINDOW series AS (PARTITION BY {subject}, source ORDER BY time)"
    )
    sums = [
        *(f"arg_max({sql.quoted(c.name)}, time) AS {sql.quoted(c.name)}" for c in others),
        "count(*) AS rows",
        f"coalesce(sum(apart_s) FILTER (apart_s <= {MAX_GAP_S}), 0) AS covered_s",
        *(_statistic(c, statistic) for c in gauges for statistic in STATISTICS[Kind.GAUGE]),
        *(_statistic(c, "increase") for c in counters),
    ]
    each = " UNION ALL ".join(
        f"SELECT {subject}, source, {window}::INTEGER AS window_s, "
        f"make_timestamp_ns(epoch_ns(time) // {window * 10**9} * {window * 10**9}) AS start, {', '.join(sums)} "
        f"FROM pairs WHERE inside GROUP BY ALL"
        for window in WINDOWS_S
    )
    statement = f"WITH rows AS ({rows}), pairs AS MATERIALIZED ({pairs}) SELECT * RENAME (start AS time) FROM ({each})"
    names = [name for (name, *_) in engine.run(f"DESCRIBE {statement}")]
    return Rolled(engine, statement, names)


def _columns(engine: Engine, segments: Iterable[Segment]) -> set[str]:
    source = sql.read_segments([segment.path for segment in segments])
    return {name for name, *_ in engine.run(f"DESCRIBE SELECT * FROM {source}")}


def _kind(column: Column) -> Kind | None:
    return column.metric.kind if column.metric is not None else None


def _between(table: Table, segments: Sequence[Segment], start_ns: int, end_ns: int) -> str:
    listed = [([segment.path for segment in some], repeats) for some, repeats in groups(table, segments)]
    within = f"time >= make_timestamp_ns({start_ns}) AND time < make_timestamp_ns({end_ns})"
    return f"SELECT * FROM ({sql.typed_rows(table, listed)}) WHERE {within}"


def _increase(name: str) -> str:
    """
    What a counter grew by since its last value.

    A fall to less than half is a reset, after which it counts from 0 again. A smaller fall is a glitch, worth nothing:
    to take it for a reset would add the whole counter once more.
    """
    before = f"lag({name} IGNORE NULLS) OVER series"
    grown = f"WHEN {name} >= {before} THEN {name} - {before}"
    return f"CASE {grown} WHEN {name} <= {before} / 2 THEN {name} WHEN {name} < {before} THEN 0 END"


def _statistic(column: Column, statistic: str) -> str:
    assert column.metric is not None
    function = {"min": "min", "mean": "avg", "max": "max", "increase": "sum"}[statistic]
    return f"{function}({sql.quoted(column.name)}) AS {sql.quoted(rollup_column(column.metric, statistic))}"


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
                bounds = (start + work.first_hour * _HOUR_NS, start + (work.last_hour + 1) * _HOUR_NS)
                frame = rolled(engine, store.root, samples, *bounds)
                if frame is not None:
                    hours = {"first": work.first_hour, "last": work.last_hour}
                    store.replace(rollups.name, PART, frame, **hours, only=[work.day])
                    written += 1
            if reached != progress.done:
                progress.done = reached
                progress.save(store.files)
    return written
