"""Reads samples as `collector.store.windows` wants them, some series at a time, and keeps what it makes of them."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.catalogue import ENERGY, POWER, Kind
from collector.gaps import MAX_COUNTER_GAP_S
from collector.store import sql
from collector.store.arrays import Array, Lists, write_ordered
from collector.store.bulk import Written
from collector.store.encoding import FAST, QUICK, Effort
from collector.store.engine import Engine
from collector.store.extents import extents
from collector.store.files import Files
from collector.store.schema import ROLLUP_TABLES
from collector.store.segments import DAY_NS, Segment, segments_of
from collector.store.table import Table
from collector.store.views import groups
from collector.store.windows import HOUR_S, Flags, Floats, Ints, Readings, Sketches, windows

HOUR_NS: Final = HOUR_S * 10**9
# How far back the reading before a window is looked for; what rose over a longer silence belongs to no window.
_LOOK_BACK_NS: Final = DAY_NS
_LOOK_AHEAD_NS: Final = round(MAX_COUNTER_GAP_S * 10**9)
# Series that are read for less than a day take room for a day all the same.
_ROOM: Final = 288
# So many columns of as many rows as there is room for are held at once; of more rows, fewer.
_COLUMNS: Final = 40
# Reading the same thrice costs less than arrays so large that the system gives and takes their memory each time.
_READ: Final = 3
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
    """The samples of some hours, and what is needed of those before and after."""

    def __init__(self, engine: Engine, root: Path, samples: Table, start_ns: int, end_ns: int, most: int) -> None:
        self.engine = engine
        self.samples = samples
        self.start_ns, self.end_ns = start_ns, end_ns
        self._root = root
        self._most = most
        self._segments = segments_of(root, samples.name, start_ns, end_ns + _LOOK_AHEAD_NS)
        self.repeats = any(segment.repeats for segment in self._segments)
        self._rows = between(samples, self._segments, start_ns, end_ns + _LOOK_AHEAD_NS)
        inside = [segment for segment in self._segments if segment.overlaps(start_ns, end_ns + 1)]
        self.columns = frozenset(columns(engine, inside)) if inside else frozenset[str]()

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

    def parts(self) -> Iterator[list[Key]]:
        """The series, as many at a time as there is room for; all series of a subject together."""
        sizes = [max(count, _ROOM) for _, _, count in self._series]
        most = max(self._most, sum(sizes) / self._divisible()) if sum(sizes) > self._most else self._most
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
        Into how many parts the rows come without being read more than about `_READ` times.

        A group of rows is read for each part that it has a subject of; those of small segments have all subjects.
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

    def _codes(self, name: str) -> str:
        """A column of text as codes; -1 where there is none, -2 for a word that no row of the stretch has."""
        words, column = self.words[name], sql.quoted(name)
        if not words:
            return "-1::INTEGER"
        kind = sql.quoted(f"words of {name}")
        code = f"coalesce(enum_code(TRY_CAST({column} AS {kind}))::INTEGER, -2)"
        return f"CASE WHEN {column} IS NULL THEN -1 ELSE {code} END"

    def begin(self) -> None:
        """Tell the engine the words."""
        for name, words in self.words.items():
            if words:
                listed = ", ".join(map(sql.text, words))
                self.engine.run(f"CREATE OR REPLACE TYPE {sql.quoted(f'words of {name}')} AS ENUM ({listed})")

    def _number(self, keys: Sequence[Key], subjects: NDArray[Any], sources: NDArray[Any]) -> Ints:
        """The number of each row's series among *keys*; -1 for another."""
        places = [{word: at for at, word in enumerate(self.words[name])} for name in (self.samples.keys[0], "source")]
        wide = len(places[1]) + 2
        table = np.full((len(places[0]) + 2) * wide, -1, np.int64)
        for number, (subject, source) in enumerate(keys):
            codes = [-1 if word is None else place[word] for word, place in zip((subject, source), places, strict=True)]
            table[(codes[0] + 2) * wide + codes[1] + 2] = number
        found: Ints = table[(subjects.astype(np.int64) + 2) * wide + sources + 2]
        return found

    def read(self, keys: Sequence[Key], last: Last | None) -> Readings:
        """The readings of *keys*; *last* is what was read before, if that is known."""
        names = self._metrics()
        subject = self.samples.keys[0]
        others = [name for name in self.words if name not in {subject, "source"}]
        told = [f"{self._codes(name)} AS {sql.quoted(name)}" for name in (subject, "source", *others)]
        # Of rows that replace others the order is not the same twice.
        at_once = len(names) if self.repeats else max(1, _COLUMNS * self._most // max(self._most, self._count(keys)))
        found = self._arrays([*told, "epoch_ns(time) AS time", *_numbers(names[:at_once])], keys)
        before = self._last(keys, last)
        there = np.flatnonzero(before.time >= 0)
        series = np.concatenate([self._number(keys, found[subject], found["source"]), there])
        time = np.concatenate([found["time"], before.time[there]])
        order = slice(None) if _rises(series, time) else np.lexsort((time, series))

        def ordered(values: NDArray[Any], more: NDArray[Any] | int) -> NDArray[Any]:
            more = np.broadcast_to(more, there.size).astype(values.dtype)
            return (np.concatenate([values, more]) if there.size else values)[order]

        def columns_of(some: Sequence[str], read: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
            # What is never looked at there is no value, and no lack of one either.
            return {n: ordered(read[n], before.values[n][there] if n in before.values else 0) for n in some}

        words = {name: ordered(found[name], -1) for name in others}
        methods = self.words.get("power_method", ())
        is_modelled = methods.index("modelled") if "modelled" in methods else len(methods)
        return Readings(
            samples=self.samples,
            series=series[order],
            time=time[order],
            before=(np.arange(time.size) >= time.size - there.size)[order],
            values=_Columns(
                lambda some: columns_of(some, self._arrays(_numbers(some), keys)),
                names,
                at_once,
                columns_of(names[:at_once], found),
            ),
            words=words,
            read_ns={n: ordered(found["time"], before.read_ns[n][there]) for n in before.read_ns} if there.size else {},
            modelled=words["power_method"] == is_modelled if methods else np.zeros(time.size, bool),
        )

    def _count(self, keys: Sequence[Key]) -> int:
        wanted = set(keys)
        return sum(count for subject, source, count in self._series if (subject, source) in wanted)

    def _metrics(self) -> list[str]:
        """The columns of metrics, in the order in which they are looked at, those first that are together."""
        kinds = {c.name: c.metric.kind for c in self.samples if c.metric is not None and c.name in self.columns}
        together = {POWER.column, ENERGY.column}
        return sorted(kinds, key=lambda name: (name not in together, kinds[name] is not Kind.COUNTER))

    def carried(self) -> list[str]:
        """The columns of which the last value before a window matters."""
        return [
            column.name
            for column in self.samples
            if column.metric is not None
            and column.name in self.columns
            and (column.metric.kind is Kind.COUNTER or column.metric is POWER)
        ]

    def _arrays(self, chosen: Sequence[str], keys: Sequence[Key]) -> dict[str, NDArray[Any]]:
        found = self.engine.arrays(f"SELECT {', '.join(chosen)} FROM ({self._rows}) WHERE {self._of(keys)}")
        return {name: np.ma.getdata(values) for name, values in found.items()}

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
        chosen = [f"{self._codes(name)} AS {sql.quoted(name)}" for name in (subject, "source")]
        chosen.append("epoch_ns(max(time)) AS time")
        for name in map(sql.quoted, names):
            chosen.append(f"coalesce(arg_max({name}, time), 'nan'::DOUBLE) AS {name}")
            chosen.append(f'coalesce(epoch_ns(max(time) FILTER ({name} IS NOT NULL)), -1) AS {name[:-1]} ns"')
        rows = f"SELECT * FROM ({between(self.samples, segments, start_ns, end_ns)}) WHERE {self._of(keys)}"
        found = self.engine.arrays(f"SELECT {', '.join(chosen)} FROM ({rows}) GROUP BY {sql.quoted(subject)}, source")
        number = self._number(keys, *(np.ma.getdata(found[name]) for name in (subject, "source")))
        mine = np.flatnonzero(number >= 0)
        at = number[mine]
        last.time[at] = np.where(last.time[at] < 0, np.ma.getdata(found["time"])[mine], last.time[at])
        for name in names:
            lacks = last.read_ns[name][at] < 0
            last.values[name][at[lacks]] = np.ma.getdata(found[name])[mine][lacks]
            last.read_ns[name][at[lacks]] = np.ma.getdata(found[f"{name} ns"])[mine][lacks]

    def after(self, keys: Sequence[Key], readings: Readings) -> Last:
        """What `Last` is at the end of the stretch."""
        starts = np.flatnonzero(np.append(True, readings.series[1:] != readings.series[:-1]))
        inside = readings.time < self.end_ns
        there = {key: at for at, key in enumerate(keys[int(number)] for number in readings.series[starts])}
        last = Last(self.end_ns, there, np.maximum.reduceat(np.where(inside, readings.time, -1), starts))
        rows = np.arange(readings.time.size)
        for name in self.carried():
            values = readings.values[name]
            row = np.maximum.reduceat(np.where(inside & ~np.isnan(values), rows, -1), starts)
            time = readings.time
            if name in readings.read_ns:
                time = np.where(readings.before, readings.read_ns[name], time)
            last.values[name] = np.where(row >= 0, values[row], np.nan)
            last.read_ns[name] = np.where(row >= 0, time[row], -1)
        return last

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


class _Columns(Mapping[str, Floats]):
    """Columns by name, read some at a time, in the order in which they are asked for."""

    def __init__(
        self,
        read: Callable[[Sequence[str]], dict[str, Floats]],
        names: Sequence[str],
        at_once: int,
        held: dict[str, Floats],
    ) -> None:
        self._read, self._names, self._at_once, self._held = read, names, at_once, held

    def __getitem__(self, name: str) -> Floats:
        if name not in self._held:
            at = self._names.index(name) // self._at_once * self._at_once
            self._held = {}
            self._held = self._read(self._names[at : at + self._at_once])
        return self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def roll(stretch: Stretch, spill: Spill, last: Last | None, *, day: bool, carry: bool) -> tuple[Rolled, Last | None]:
    """
    The rollups of *stretch*, with those of the day that it is if *day*; and with *carry* what was read last in it.

    Made some series at a time, so that ten thousand devices and a day take no more memory than some devices.
    """
    stretch.begin()

    def part(keys: list[Key]) -> tuple[list[tuple[str, NDArray[Any]]], Last | None]:
        readings = stretch.read(keys, last)
        # Before the windows, because these begin with the same columns.
        read = stretch.after(keys, readings) if carry else None
        found = windows(readings, stretch.start_ns, stretch.end_ns, day=day)
        return list(stretch.named(keys, found)), read

    after = Last(stretch.end_ns) if carry else None
    with ThreadPoolExecutor(min(stretch.engine.threads or os.cpu_count() or 1, _MOST_THREADS)) as pool:
        for columns, read in pool.map(part, stretch.parts()):
            for name, values in columns:
                spill.add(name, values)
            if after is not None and read is not None:
                after.add(read)
    return Rolled(ROLLUP_TABLES[stretch.samples.name], stretch.stored(spill)), after


def _numbers(names: Sequence[str]) -> list[str]:
    """Columns of numbers, NaN where they are null."""
    return [f"coalesce({sql.quoted(name)}, 'nan'::DOUBLE) AS {sql.quoted(name)}" for name in names]


def _rises(series: Ints, time: Ints) -> bool:
    later = (series[1:] == series[:-1]) & (time[1:] >= time[:-1])
    return bool((later | (series[1:] > series[:-1])).all())


def columns(engine: Engine, segments: Sequence[Segment]) -> set[str]:
    """The columns that some segments have."""
    source = sql.read_segments([segment.path for segment in segments])
    return {name for name, *_ in engine.run(f"DESCRIBE SELECT * FROM {source}")}


def between(table: Table, segments: Sequence[Segment], start_ns: int, end_ns: int) -> str:
    """The rows of *segments* in [start_ns, end_ns), as a select."""
    listed = [([segment.path for segment in some], repeats) for some, repeats in groups(table, segments)]
    within = f"time >= make_timestamp_ns({start_ns}) AND time < make_timestamp_ns({end_ns})"
    return f"SELECT * FROM ({sql.typed_rows(table, listed)}) WHERE {within}"
