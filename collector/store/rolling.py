"""
Reads samples as `collector.store.windows` wants them, and keeps what it makes of them.

A *sweep* is as many series as there is room for. Each segment is read once for it, some columns at a time, in the types
that it stores, and each row is put where it belongs: segments are sorted by series, so a sweep is put in order by the
runs of rows that it has in each. Then windows are made of some series of the sweep at a time.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.catalogue import POWER, Kind
from collector.gaps import MAX_COUNTER_GAP_S
from collector.store import sql
from collector.store.arrays import Array, Lists, write_ordered
from collector.store.bulk import Written
from collector.store.encoding import FAST, QUICK, Effort
from collector.store.engine import Engine
from collector.store.extents import Extent, extents
from collector.store.files import Files
from collector.store.places import Places
from collector.store.schema import ROLLUP_TABLES
from collector.store.segments import DAY_NS, Segment, segments_of
from collector.store.table import Table
from collector.store.views import groups
from collector.store.windows import HOUR_S, TOGETHER, Flags, Floats, Ints, Readings, Sketches, Windows

HOUR_NS: Final = HOUR_S * 10**9
# How far back the reading before a window is looked for; what rose over a longer silence belongs to no window.
_LOOK_BACK_NS: Final = DAY_NS
_LOOK_AHEAD_NS: Final = round(MAX_COUNTER_GAP_S * 10**9)
# Series that are read for less than a day take room for a day all the same.
_ROOM: Final = 288
# A sweep is so many times what windows are made of at once, and so many columns of that are held.
_SWEEP: Final = 4
_COLUMNS: Final = 40
# Rather than to read the same more often more memory is taken.
_READ: Final = 3
# Segments are read together up to so many rows: the answer to each statement is memory that the next takes again.
_ANSWER: Final = 400_000
# Each takes memory for as many rows as there is room for.
_MOST_THREADS: Final = 4

Key = tuple[str | None, str | None]
"""A series: its subject and source."""


@dataclass
class Last:
    """
    What was read last before `at_ns`: when each series was read, the value of each column, and when that was read.

    Where there is none, NaN and -1.
    """

    at_ns: int
    place: dict[Key, int] = field(default_factory=dict)
    time: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    values: dict[str, Floats] = field(default_factory=dict)
    read_ns: dict[str, Ints] = field(default_factory=dict)

    def of(self, keys: Sequence[Key], names: Sequence[str], start_ns: int) -> "Last":
        """That of some series, nothing of it before *start_ns*."""
        at = np.array([self.place.get(key, -1) for key in keys], np.int64)
        time = _taken(self.time, at, -1)
        found = Last(self.at_ns, {key: number for number, key in enumerate(keys)}, np.where(time < start_ns, -1, time))
        for name in names:
            read_ns = _taken(self.read_ns.get(name, self.time[:0]), at, -1)
            values = _taken(self.values.get(name, np.zeros(0)), at, np.nan)
            old = read_ns < start_ns
            found.read_ns[name], found.values[name] = np.where(old, -1, read_ns), np.where(old, np.nan, values)
        return found

    def add(self, other: "Last") -> None:
        """Take *other*, of other series, as well."""
        count = len(self.place)
        self.place |= {key: count + number for key, number in other.place.items()}
        self.time = np.append(self.time, other.time)
        for name in {*self.values, *other.values}:
            for mine, theirs, empty in ((self.values, other.values, np.nan), (self.read_ns, other.read_ns, -1)):
                parts = [
                    part.get(name, np.full(size, empty)) for part, size in ((mine, count), (theirs, len(other.place)))
                ]
                mine[name] = np.concatenate(parts)


def _taken(values: NDArray[Any], at: Ints, empty: Any) -> NDArray[Any]:
    if not values.size:
        return np.full(at.size, empty)
    return np.where(at >= 0, values[at], empty)


class Room:
    """Memory for columns, which one sweep after another fills: to be given it anew each time costs as much as that."""

    def __init__(self) -> None:
        self._held: list[Floats] = []

    def columns(self, count: int, size: int) -> list[Floats]:
        """Columns of *size* values, whatever they are."""
        if any(column.size < size for column in self._held):
            self._held = []
        self._held += [np.empty(size) for _ in range(count - len(self._held))]
        return [column[:size] for column in self._held[:count]]


class Spill:
    """The columns of rows that come some at a time, each in a file of its own, so that only the system holds them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any]]] = {}

    def add(self, name: str, values: NDArray[Any]) -> None:
        """More of a column."""
        if name not in self._files:
            self._files[name] = (self._folder / f"{len(self._files):04}").open("w+b"), values.dtype
        file, kind = self._files[name]
        values.astype(kind, copy=False).tofile(file)

    def __getitem__(self, name: str) -> NDArray[Any]:
        file, kind = self._files[name]
        file.flush()
        return np.memmap(file, kind, "r") if file.tell() else np.zeros(0, kind)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def close(self) -> None:
        """Give the files back."""
        for file, _ in self._files.values():
            file.close()


class Rolled:
    """The rollups of some hours of a day."""

    def __init__(self, table: Table, arrays: Sequence[Array | Lists], effort: Effort = FAST) -> None:
        self.table = table
        self.arrays = arrays
        self.effort = effort

    @cached_property
    def time(self) -> Ints:
        """When each window starts."""
        times = (array.values for array in self.arrays if isinstance(array, Array) and array.column.name == "time")
        return next(times, np.zeros(0, np.int64))

    def of_hour(self, start_ns: int) -> "Rolled":
        """The windows that begin within an hour; they are written anew with each five minutes, and with their day."""
        rows = np.flatnonzero((self.time >= start_ns) & (self.time < start_ns + HOUR_NS))
        return Rolled(self.table, [array[rows] for array in self.arrays], QUICK)

    def write_days(
        self, files: Files, root: Path, label: str, metadata: Mapping[str, str], threads: int | None
    ) -> list[Written]:
        """Write them to a temporary file (see `collector.store.bulk.write_days`)."""
        return write_ordered(files, root, self.table, self.arrays, label, metadata, threads, self.effort)


class Stretch:
    """
    The samples of some hours, and what is needed of those before and after.

    at_once: how many rows windows are made of at once. roomy: how many times as much may be read at once as where
    memory is bounded.
    """

    def __init__(
        self, engine: Engine, root: Path, samples: Table, start_ns: int, end_ns: int, at_once: int, roomy: int
    ) -> None:
        self.engine = engine
        self.samples = samples
        self.start_ns, self.end_ns = start_ns, end_ns
        self.at_once, self.roomy = at_once, roomy
        self._root = root
        self._segments = segments_of(root, samples.name, start_ns, end_ns + _LOOK_AHEAD_NS)
        self._rows = between(samples, self._segments, start_ns, end_ns + _LOOK_AHEAD_NS)
        inside = [segment for segment in self._segments if segment.overlaps(start_ns, end_ns + 1)]
        self._stored = stored_columns(engine, self._segments)
        self.columns = frozenset[str]().union(*(self._stored[segment.path] for segment in inside))

    @cached_property
    def _series(self) -> list[tuple[str | None, str | None, int]]:
        """Subject, source and number of rows of each series, in the order of a segment: nulls last."""
        subject = sql.quoted(self.samples.keys[0])
        return self.engine.run(
            f"SELECT {subject}, source, count(*) FROM ({self._rows}) GROUP BY ALL ORDER BY 1 NULLS LAST, 2 NULLS LAST"
        )

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The words of each column of text that a rollup has, sorted."""
        rollups = ROLLUP_TABLES[self.samples.name]
        subject, source, *others = [c.name for c in rollups if c.type == "VARCHAR"]
        found = {
            name: tuple(word for (word,) in self.engine.run(
                f"SELECT DISTINCT {sql.quoted(name)} FROM ({self._rows}) WHERE {sql.quoted(name)} IS NOT NULL"
            ))
            for name in others if name in self.columns
        }  # fmt: skip
        found |= {subject: tuple(s for s, *_ in self._series if s is not None),
                  source: tuple(s for _, s, _ in self._series if s is not None)}  # fmt: skip
        return {name: tuple(sorted(set(words))) for name, words in found.items()}

    def sweeps(self) -> Iterator[list[Key]]:
        """The series, as many at a time as there is room for; all series of a subject together."""
        sizes = [max(count, _ROOM) for _, _, count in self._series]
        most = float(self.at_once * _SWEEP * self.roomy)
        if sum(sizes) > most:
            most = max(most, sum(sizes) / self._divisible())
        some: list[Key] = []
        rows = 0
        for (subject, source, _), size in zip(self._series, sizes, strict=True):
            if rows >= most and subject != some[-1][0]:
                yield some
                some, rows = [], 0
            some.append((subject, source))
            rows += size
        if some:
            yield some

    def _divisible(self) -> float:
        """
        Into how many sweeps the rows come without being read more than about `_READ` times.

        A group of rows is read for each sweep that it has a subject of; those of small segments have all subjects.
        """
        subjects = list(dict.fromkeys(subject for subject, *_ in self._series if subject is not None))
        held = total = 0.0
        for group in extents(self._segments):
            low = 0 if group.low is None else bisect_left(subjects, group.low)
            high = len(subjects) if group.high is None else bisect_right(subjects, group.high)
            held += group.rows * (high - low) / max(1, len(subjects))
            total += group.rows
        return _READ * max(1.0, total / max(held, 1.0))

    # --------------------------------------------------------------------------------------------------------- reading

    def _of(self, keys: Sequence[Key]) -> str:
        """The condition that a row is of the subjects of *keys*, which are neighbours in order."""
        name = sql.quoted(self.samples.keys[0])
        held = [subject for subject, _ in keys if subject is not None]
        within = f"{name} >= {sql.text(held[0])} AND {name} <= {sql.text(held[-1])}" if held else "false"
        return f"({within}{f' OR {name} IS NULL' if len(held) < len(keys) else ''})"

    def begin(self) -> None:
        """Tell the engine the words, and that segments do not change: their footers are read once."""
        self.engine.run("SET parquet_metadata_cache = true")
        for name, words in self.words.items():
            if words:
                listed = ", ".join(map(sql.text, words))
                self.engine.run(f"CREATE OR REPLACE TYPE {sql.quoted(f'words of {name}')} AS ENUM ({listed})")

    def read(self, keys: Sequence[Key], last: Last | None, pool: ThreadPoolExecutor) -> "Sweep":
        """The readings of *keys*; *last* is what was read before, if that is known."""
        return Sweep(self, keys, self._chunks(keys), self._last(keys, last), pool)

    def _chunks(self, keys: Sequence[Key]) -> list["_Chunk"]:
        """What is read of *keys* at once: some small segments after one another, or some row groups of a large one."""
        by_path: dict[Path, list[Extent]] = {segment.path: [] for segment in self._segments}
        for extent in extents(self._segments):
            by_path[extent.segment.path].append(extent)
        found: list[_Chunk] = []
        for number, (some, repeats) in enumerate(groups(self.samples, self._segments)):
            for segments, ranged in _portions(some, by_path, keys):
                columns = frozenset[str]().union(*(self._stored[segment.path] for segment in segments))
                rows = self._select(keys, segments, columns, ranged)
                found.append(_Chunk(rows, columns, number if repeats else -1))
        return found

    def _select(
        self, keys: Sequence[Key], some: Sequence[Segment], columns: frozenset[str], ranged: tuple[int, int] | None
    ) -> str:
        """The rows of *keys* of some segments, or of the rows from one number to another of a segment."""
        where = [f"file_row_number >= {ranged[0]} AND file_row_number < {ranged[1]}"] if ranged else []
        # Names tell milliseconds.
        if any(one.first_ns < self.start_ns or one.last_ns + 10**6 > self.end_ns + _LOOK_AHEAD_NS for one in some):
            where.append(_within(self.start_ns, self.end_ns + _LOOK_AHEAD_NS))
        if len(keys) < len(self._series):
            where.append(self._of(keys) if self.samples.keys[0] in columns else str(keys[-1][0] is None).lower())
        source = sql.read_segments([segment.path for segment in some], ", file_row_number = true" if ranged else "")
        return f"{source} WHERE {' AND '.join(where)}" if where else source

    def number(self, keys: Sequence[Key], subjects: NDArray[Any], sources: NDArray[Any]) -> Ints:
        """The number of each row's series among *keys*; -1 for another."""
        places = [{word: at for at, word in enumerate(self.words[name])} for name in (self.samples.keys[0], "source")]
        wide = len(places[1]) + 2
        table = np.full((len(places[0]) + 2) * wide, -1, np.int64)
        for number, (subject, source) in enumerate(keys):
            codes = [-1 if word is None else place[word] for word, place in zip((subject, source), places, strict=True)]
            table[(codes[0] + 2) * wide + codes[1] + 2] = number
        found: Ints = table[(subjects.astype(np.int64) + 2) * wide + sources + 2]
        return found

    def metrics(self) -> list[str]:
        """The columns of metrics, those first that are looked at together."""
        names = [c.name for c in self.samples if c.metric is not None and c.name in self.columns]
        return sorted(names, key=lambda name: name not in TOGETHER)

    def codes(self, name: str) -> str:
        """A column of text as codes; -1 where there is none, -2 for a word that no row of the stretch has."""
        words, column = self.words[name], sql.quoted(name)
        if not words:
            return "-1::INTEGER"
        kind = sql.quoted(f"words of {name}")
        code = f"coalesce(enum_code(TRY_CAST({column} AS {kind}))::INTEGER, -2)"
        return f"CASE WHEN {column} IS NULL THEN -1 ELSE {code} END"

    def carried(self) -> list[str]:
        """The columns of which the last value before a window matters."""
        return [
            column.name
            for column in self.samples
            if column.metric is not None
            and column.name in self.columns
            and (column.metric.kind is Kind.COUNTER or column.metric is POWER)
        ]

    # -------------------------------------------------------------------------------------------- what was read before

    def _last(self, keys: Sequence[Key], known: Last | None) -> Last:
        names = self.carried()
        start_ns = self.start_ns - _LOOK_BACK_NS
        if known is not None:
            return known.of(keys, names, start_ns)
        nothing = Last(self.start_ns).of(keys, names, start_ns)
        # Nearly all is found within the hour before; a day is looked through only for what is not.
        self._look(nothing, keys, names, self.start_ns - HOUR_NS, self.start_ns)
        silent = bool((nothing.time < 0).any())
        missing = names if silent else [name for name in names if (nothing.read_ns[name] < 0).any()]
        if silent or missing:
            self._look(nothing, keys, missing, start_ns, self.start_ns - HOUR_NS)
        return nothing

    def _look(self, last: Last, keys: Sequence[Key], names: Sequence[str], start_ns: int, end_ns: int) -> None:
        """Fill what *last* lacks with what was read from start to end."""
        segments = segments_of(self._root, self.samples.name, start_ns, end_ns)
        if not segments:
            return
        subject = self.samples.keys[0]
        chosen = [f"{self.codes(name)} AS {sql.quoted(name)}" for name in (subject, "source")]
        chosen.append("epoch_ns(max(time)) AS time")
        for name in map(sql.quoted, names):
            chosen.append(f"coalesce(arg_max({name}, time), 'nan'::DOUBLE) AS {name}")
            chosen.append(f'coalesce(epoch_ns(max(time) FILTER ({name} IS NOT NULL)), -1) AS {name[:-1]} ns"')
        rows = f"SELECT * FROM ({between(self.samples, segments, start_ns, end_ns)}) WHERE {self._of(keys)}"
        found = self.engine.arrays(f"SELECT {', '.join(chosen)} FROM ({rows}) GROUP BY {sql.quoted(subject)}, source")
        number = self.number(keys, *(np.ma.getdata(found[name]) for name in (subject, "source")))
        mine = np.flatnonzero(number >= 0)
        at = number[mine]
        last.time[at] = np.where(last.time[at] < 0, np.ma.getdata(found["time"])[mine], last.time[at])
        for name in names:
            lacks = last.read_ns[name][at] < 0
            last.values[name][at[lacks]] = np.ma.getdata(found[name])[mine][lacks]
            last.read_ns[name][at[lacks]] = np.ma.getdata(found[f"{name} ns"])[mine][lacks]

    # --------------------------------------------------------------------------------------------------------- writing

    def named(self, keys: Sequence[Key], columns: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """The columns of *keys* as they are kept: series by their words, sketches by their parts."""
        subject = self.samples.keys[0]
        for name, values in columns:
            if isinstance(values, Sketches):
                yield from ((_kept(name, part), some) for part, some in values._asdict().items())
            elif name == subject:
                for at, of in enumerate((subject, "source")):
                    place = {word: code for code, word in enumerate(self.words[of])}
                    codes = np.array([-1 if (word := key[at]) is None else place[word] for key in keys], np.int64)
                    yield of, codes[values]
            else:
                yield name, values

    def stored(self, spill: Spill) -> list[Array | Lists]:
        """The columns of the rollups, of what was kept."""
        arrays: list[Array | Lists] = []
        for column in ROLLUP_TABLES[self.samples.name]:
            if _kept(column.name, "lengths") in spill:
                lengths, *values = (spill[_kept(column.name, part)] for part in Sketches._fields)
                arrays.append(Lists(column, lengths, tuple(values)))
            elif column.name in spill:
                found = spill[column.name]
                present: Flags = np.ones(found.size, bool)
                if column.type in {"VARCHAR", "DOUBLE"}:
                    present = np.asarray(found >= 0 if column.type == "VARCHAR" else ~np.isnan(found))
                arrays.append(Array(column, found, present, self.words.get(column.name, ())))
        return arrays


def _kept(column: str, part: str) -> str:
    """What a part of a column of sketches is called."""
    return f"{column} {part}"


class _Chunk(NamedTuple):
    """
    Segments that are read at once.

    rows: what to select from. columns: those that there are. group: of segments of which a row may replace one of
    another, the same number; -1 where none does.
    """

    rows: str
    columns: frozenset[str]
    group: int


class Sweep:
    """The readings of some series in order: `keys`, of which each is one run of rows, by time."""

    def __init__(
        self, stretch: Stretch, keys: Sequence[Key], chunks: Sequence[_Chunk], before: Last, pool: ThreadPoolExecutor
    ) -> None:
        self._stretch, self._keys, self._chunks, self._before, self._pool = stretch, keys, chunks, before, pool
        self._there = np.flatnonzero(before.time >= 0)
        found = list(pool.map(self._head, chunks))
        series = [*(one["series"] for one in found), self._there]
        time = [*(one["time"] for one in found), before.time[self._there]]
        self._sizes = [len(one["time"]) for one in found]
        # What was read before is one more part.
        self._places = Places(series, time, [*(chunk.group for chunk in chunks), -1])
        self._series, self._time = self._places.together(series), self._places.together(time)
        self._is_before = np.zeros(self._places.size, bool)
        self._places.put(len(chunks), np.ones(self._there.size, bool), self._is_before)
        nothing = np.full(self._there.size, -1, np.int32)
        self._words = {name: self._places.together([*(one[name] for one in found), nothing]) for name in self._others}
        self._parts = list(self._divided())

    @property
    def _others(self) -> list[str]:
        """The columns of text that are no key."""
        return [name for name in self._stretch.words if name not in {self._stretch.samples.keys[0], "source"}]

    def _head(self, chunk: _Chunk) -> dict[str, NDArray[Any]]:
        """The series, the time and the words of each row."""
        subject = self._stretch.samples.keys[0]
        codes = {
            name: self._stretch.codes(name) if name in chunk.columns else "-1::INTEGER"
            for name in (subject, "source", *self._others)
        }
        chosen = [f"{code} AS {sql.quoted(name)}" for name, code in codes.items()]
        found = self._read(chunk, ["epoch_ns(time) AS time", *chosen])
        told = {name: np.ma.getdata(found[name]) for name in ("time", *self._others)}
        return {"series": self._stretch.number(self._keys, found[subject], found["source"]), **told}

    def _read(self, chunk: _Chunk, chosen: Sequence[str]) -> dict[str, NDArray[Any]]:
        return self._stretch.engine.beside(f"SELECT {', '.join(chosen)} FROM {chunk.rows}")

    def _divided(self) -> Iterator[tuple[slice, list[Key]]]:
        """Rows of which windows are made at once, and their series; all series of a subject together."""
        starts = np.flatnonzero(np.append(True, self._series[1:] != self._series[:-1]))
        numbers, ends = self._series[starts], np.append(starts[1:], self._series.size)
        first = 0
        for at in range(len(starts)):
            keys = [self._keys[number] for number in numbers[first : at + 1]]
            over = ends[at] - starts[first] >= self._stretch.at_once
            if at + 1 == len(starts) or (over and self._keys[numbers[at + 1]][0] != keys[-1][0]):
                yield slice(int(starts[first]), int(ends[at])), keys
                first = at + 1

    def parts(self, *, day: bool, carry: bool) -> Iterator["Part"]:
        """What windows are made of, in order."""
        stretch, before = self._stretch, self._before
        methods = stretch.words.get("power_method", ())
        is_modelled = methods.index("modelled") if "modelled" in methods else len(methods)
        for rows, keys in self._parts:
            words = {name: codes[rows] for name, codes in self._words.items()}
            is_before, series = self._is_before[rows], self._series[rows]
            readings = Readings(
                samples=stretch.samples,
                series=np.cumsum(np.append(0, series[1:] != series[:-1])),
                time=self._time[rows],
                before=is_before,
                words=words,
                read_ns={name: read_ns[series[is_before]] for name, read_ns in before.read_ns.items()},
                modelled=words["power_method"] == is_modelled if methods else np.zeros(series.size, bool),
            )
            yield Part(stretch, rows, keys, readings, day=day, carry=carry)

    def columns(self, room: Room) -> Iterator[dict[str, Floats]]:
        """The columns of metrics as far as there is *room*, `TOGETHER` first, NaN where there is no value."""
        names = self._stretch.metrics()
        together = sum(name in TOGETHER for name in names)
        most = max(1, _COLUMNS * self._stretch.at_once * self._stretch.roomy // max(1, self._time.size))
        first = max(together, most)
        for some in [names[:first], *(names[at : at + most] for at in range(first, len(names), most))]:
            found = dict(zip(some, room.columns(len(some), self._places.size), strict=True))
            for _ in self._pool.map(partial(self._fill, columns=found), range(len(self._chunks))):
                pass  # of each, so that none fails unseen
            for name, values in found.items():
                # What is never looked at there is no value, and no lack of one either.
                known = self._before.values.get(name, np.zeros(len(self._keys)))
                self._places.put(len(self._chunks), known[self._there], values)
            yield found

    def _fill(self, at: int, columns: Mapping[str, Floats]) -> None:
        """Put the values of a chunk where they belong."""
        chunk = self._chunks[at]
        there = [name for name in columns if name in chunk.columns]
        found = self._read(chunk, [sql.quoted(name) for name in there]) if there else {}
        for name, values in columns.items():
            read = found.get(name, np.broadcast_to(np.nan, self._sizes[at]))
            plain = np.ma.filled(read.astype(np.float64), np.nan) if np.ma.isMaskedArray(read) else read
            self._places.put(at, plain, values)


class Part:
    """
    Some series of a sweep: the windows of them, made of some columns at a time.

    rows: where they are in the sweep. last: what was read last of the columns so far; None if nobody asks.
    """

    def __init__(
        self, stretch: Stretch, rows: slice, keys: list[Key], readings: Readings, *, day: bool, carry: bool
    ) -> None:
        self._stretch, self._rows, self._keys, self._readings = stretch, rows, keys, readings
        self._starts = np.flatnonzero(np.append(True, readings.series[1:] != readings.series[:-1]))
        self._windows = Windows(readings, stretch.start_ns, stretch.end_ns, day=day)
        self.last: Last | None = None
        if carry:
            time = np.maximum.reduceat(np.where(self._inside, readings.time, -1), self._starts)
            self.last = Last(stretch.end_ns, {key: at for at, key in enumerate(keys)}, time)

    @property
    def _inside(self) -> Flags:
        return np.asarray(self._readings.time < self._stretch.end_ns)

    def made(self, columns: Mapping[str, Floats], *, head: bool) -> list[tuple[str, NDArray[Any]]]:
        """What is made of some columns of the sweep, and what is of no single one if *head*, as it is kept."""
        values = {name: column[self._rows] for name, column in columns.items()}
        if self.last is not None:
            for name in set(self._stretch.carried()).intersection(values):
                self._carry(self.last, name, values[name])
        found = [*(self._windows.head(values) if head else ()), *self._windows.of(values)]
        return list(self._stretch.named(self._keys, iter(found)))

    def _carry(self, last: Last, name: str, values: Floats) -> None:
        """Add a column to *last*."""
        row = np.maximum.reduceat(np.where(self._inside & ~np.isnan(values), np.arange(values.size), -1), self._starts)
        last.values[name] = np.where(row >= 0, values[row], np.nan)
        last.read_ns[name] = np.where(row >= 0, self._readings.read_at(name)[row], -1)


def roll(
    stretch: Stretch, spill: Spill, room: Room, last: Last | None, *, day: bool, carry: bool
) -> tuple[Rolled, Last | None]:
    """
    The rollups of *stretch*, with those of the day that it is if *day*; and with *carry* what was read last in it.

    Made some series at a time, so that ten thousand devices and a day take no more memory than some devices.
    """
    stretch.begin()
    after = Last(stretch.end_ns) if carry else None
    with ThreadPoolExecutor(min(stretch.engine.threads or os.cpu_count() or 1, _MOST_THREADS)) as pool:
        for keys in stretch.sweeps():
            sweep = stretch.read(keys, last, pool)
            parts = list(sweep.parts(day=day, carry=carry))
            for number, columns in enumerate(sweep.columns(room)):
                for found in pool.map(partial(Part.made, columns=columns, head=number == 0), parts):
                    for name, values in found:
                        spill.add(name, values)
            for part in parts:
                if after is not None and part.last is not None:
                    after.add(part.last)
    return Rolled(ROLLUP_TABLES[stretch.samples.name], stretch.stored(spill)), after


def _portions(
    segments: Sequence[Segment], by_path: Mapping[Path, Sequence[Extent]], keys: Sequence[Key]
) -> Iterator[tuple[list[Segment], tuple[int, int] | None]]:
    """*segments* in portions of about `_ANSWER` rows, those that are larger by the numbers of their rows."""
    subjects = [subject for subject, _ in keys if subject is not None]
    low, high = (subjects[0], subjects[-1]) if subjects else (None, None)
    small: list[Segment] = []
    held = 0
    for segment in segments:
        rows = sum(extent.rows for extent in by_path[segment.path])
        if small and held + rows > _ANSWER:  # also before one that is larger itself: their order tells what replaces
            yield small, None
            small, held = [], 0
        if rows <= _ANSWER:
            small.append(segment)
            held += rows
            continue
        start = end = 0
        for extent in by_path[segment.path]:
            # Nulls are beyond the last, whose row group may be any.
            outside = keys[-1][0] is not None and not _meets(extent, low, high)
            if (outside or end - start >= _ANSWER) and end > start:
                yield [segment], (start, end)
                start = end
            end += extent.rows
            start = end if outside else start
        if end > start:
            yield [segment], (start, end)
    if small:
        yield small, None


def _meets(extent: Extent, low: str | None, high: str | None) -> bool:
    """Whether a row group may have something of [low, high]; what is not known may."""
    return (low is None or extent.high is None or extent.high >= low) and (
        high is None or extent.low is None or extent.low <= high
    )


def stored_columns(engine: Engine, segments: Sequence[Segment]) -> dict[Path, set[str]]:
    """The columns that each of *segments* has."""
    by_path: dict[Path, set[str]] = {segment.path: set() for segment in segments}
    if by_path:
        listed = ", ".join(map(sql.text, by_path))
        for path, name in engine.run(f"SELECT file_name, name FROM parquet_schema([{listed}])"):
            by_path[Path(path)].add(name)
    return by_path


def _within(start_ns: int, end_ns: int) -> str:
    return f"time >= make_timestamp_ns({start_ns}) AND time < make_timestamp_ns({end_ns})"


def between(table: Table, segments: Sequence[Segment], start_ns: int, end_ns: int) -> str:
    """The rows of *segments* in [start_ns, end_ns), as a select."""
    listed = [([segment.path for segment in some], repeats) for some, repeats in groups(table, segments)]
    return f"SELECT * FROM ({sql.typed_rows(table, listed)}) WHERE {_within(start_ns, end_ns)}"
