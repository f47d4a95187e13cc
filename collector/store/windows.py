"""
What the readings of some series were over windows of time, from arrays, in one pass over each column.

A *step* is the time from one reading of a series to the next. What flows (energy, seconds, bytes, a workload's tokens)
belongs to the step and is shared by time where the step crosses the edge of a window; what happens (an error) and what
is read (a temperature) belongs to the reading, one on an edge being of the window before. These are the rules of
`analytics.steps` and `analytics.cells`, so that rollups and raw readings give the same figures.

Every column becomes a grid, a row for each series and a place for each of the finest windows; longer windows are made
of those. Columns come some at a time, so that a day of many series need not be held whole.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.catalogue import ENERGY, POWER, Kind, Scope
from collector.gaps import FEW_INTERVALS, GAP_PERIODS, GAP_S, LONGEST_GAP_S, MAX_COUNTER_GAP_S
from collector.store.schema import ENERGY_SUMS, SKETCHED, SKETCHED_FINEST, rollup_column
from collector.store.sketch import LEAST, LOG_GAMMA, SHIFT
from collector.store.table import Column, Table
from collector.units import COUNT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

HOUR_S: Final = 3600
DAY_S: Final = 86_400
WINDOWS_S: Final = (300, HOUR_S, DAY_S)
"""The lengths that there are; days once they are over."""

_NS: Final = 10**9
_FINEST_NS: Final = WINDOWS_S[0] * _NS
_OF_HOUR: Final = HOUR_S // WINDOWS_S[0]
_SHARED_NS: Final = round(MAX_COUNTER_GAP_S * _NS)
_MOST_W: Final = POWER.high or 50_000.0
# Finer than any meter, and coarse enough to be stored as decimals.
_DIGITS: Final = 6
_BINS: Final = 1 << 16
_SPAN_BITS: Final = 42
"""Between two readings within an hour there are no more nanoseconds than this many bits hold."""


TOGETHER: Final = (POWER.column, ENERGY.column)
"""Columns that are looked at together."""


class Sketches(NamedTuple):
    """Of each row how many bins it has; and those of all rows one after another, with how many values are in each."""

    lengths: Ints
    bins: NDArray[np.int16]
    counts: NDArray[np.uint32]


@dataclass(frozen=True)
class Readings:
    """
    Readings of a table of samples, each series one run, by time.

    series: the number of each row's series, from 0, each one there. before: rows that stand for all that was read
    before the stretch, at most one of a series and its first; of each column they have the last value, and `read_ns`
    tells of them alone when that was read (the row's own time is that of the last reading). words: codes, negative
    where there is none. modelled: rows whose power nobody measured. The values of metrics come with `Windows.of`.
    """

    samples: Table
    series: Ints
    time: Ints
    before: Flags
    words: Mapping[str, NDArray[Any]]
    read_ns: Mapping[str, Ints]
    modelled: Flags

    def read_at(self, column: str) -> Ints:
        """When each row's value of *column* was read."""
        if column not in self.read_ns:
            return self.time
        time = self.time.copy()
        time[self.before] = self.read_ns[column]
        return time


class _Runs(NamedTuple):
    """Neighbouring rows of one cell: where each run starts, its cell, and which runs are in a cell at all."""

    starts: Ints
    within: Flags
    cells: Ints

    @staticmethod
    def of(cells: Ints) -> "_Runs":
        starts = np.append(0, np.flatnonzero(cells[1:] != cells[:-1]) + 1)
        held = cells[starts]
        return _Runs(starts, held >= 0, held[held >= 0])

    def reduced(self, function: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        """What *function* makes of the values of each run in a cell."""
        found: NDArray[Any] = function.reduceat(values, self.starts)[self.within]
        return found


class _Pieces(NamedTuple):
    """Steps over an edge that are shared by time, once for each window that they are in: row, cell, hour and share."""

    rows: Ints
    cells: Ints
    hours: Ints
    share: Floats


class _Pair(NamedTuple):
    """A column around each step: its last value before and its next, whether both are there, and the time between."""

    first: Floats
    last: Floats
    known: Flags
    span: Ints
    whole: bool


class Windows:
    """
    The windows that begin in [start_ns, end_ns), which are whole hours.

    With *day* the stretch is one, of which there is a window, too. Columns are arrays, NaN where they are null, with
    their rows in the order of the table. Series are numbers, in the column of the subject; times are in nanoseconds,
    words are codes, sketches are `Sketches`.
    """

    def __init__(self, readings: Readings, start_ns: int, end_ns: int, *, day: bool) -> None:
        self._of = readings
        self._values: Mapping[str, Floats] = {}
        self.start_ns, self.end_ns = start_ns, end_ns
        self.count = (end_ns - start_ns) // _FINEST_NS
        self.series = int(readings.series[-1]) + 1
        self.factors = [length // WINDOWS_S[0] for length in WINDOWS_S[: 3 if day else 2]]
        self.first = np.append(True, readings.series[1:] != readings.series[:-1])
        self.span = np.append(0, np.diff(readings.time))
        self.span[self.first] = 0
        self.near = ~self.first & (self.span <= _SHARED_NS)

    def head(self, values: Mapping[str, Floats]) -> Iterator[tuple[str, Any]]:
        """What is of no single metric, with energy, by column; *values* has `TOGETHER` as far as there are any."""
        self._values = values
        samples = self._of.samples
        wide = [
            (np.flatnonzero(there), factor, self.count // factor)
            for there, factor in zip(self._there, self.factors, strict=True)
        ]
        yield samples.keys[0], np.concatenate([at // many for at, _, many in wide])[self._order]
        starts = [self.start_ns + at % many * (factor * _FINEST_NS) for at, factor, many in wide]
        yield "time", np.concatenate(starts)[self._order]
        yield (
            "window_s",
            np.concatenate([np.full(at.size, factor * WINDOWS_S[0]) for at, factor, _ in wide])[self._order],
        )
        for name in self._of.words:
            yield name, self._word(name)
        counts = np.diff(np.append(self.read.starts, self._of.time.size))[self.read.within]
        yield "rows", self._rows(self._levels(self._grid(self.read.cells, counts, 0), np.add))
        yield from self._seconds()

    def of(self, values: Mapping[str, Floats]) -> Iterator[tuple[str, Any]]:
        """What is of the metrics of *values* (by column, NaN where it was not read), by column."""
        self._values = values
        for column in self._of.samples:
            if column.metric is None or column.name not in values:
                continue
            if column.metric.kind is Kind.GAUGE:
                yield from self._gauge(column)
            elif column.name != ENERGY.column or self._of.samples.name != "device_samples":
                found = self._flow(column.name) if _flows(column) else self._events(column.name)
                yield rollup_column(column.metric, "increase"), found

    # -------------------------------------------------------------------------------------------------- where rows are

    @cached_property
    def _ends(self) -> Ints:
        """The number of the window, from the start, in which the step to each row ends; one on an edge is before it."""
        return (self._of.time - (1 + self.start_ns)) // _FINEST_NS

    @cached_property
    def _begins(self) -> Ints:
        return np.where(self.near, (self._of.time - self.span - self.start_ns) // _FINEST_NS, self._ends)

    @cached_property
    def read(self) -> _Runs:
        """Rows by the window that they were read in."""
        read_ns = self._of.time - self.near - self.start_ns
        inside = ~self._of.before & (read_ns >= 0) & (read_ns < self.end_ns - self.start_ns)
        return _Runs.of(np.where(inside, self._of.series * self.count + read_ns // _FINEST_NS, -1))

    @cached_property
    def whole(self) -> _Runs:
        """Rows by the window that all of their step is in."""
        one = (self._begins >= self._ends) & (self._ends >= 0) & (self._ends < self.count)
        return _Runs.of(np.where(one, self._of.series * self.count + self._ends, -1))

    @cached_property
    def pieces(self) -> _Pieces:
        """The others."""
        crossing = np.flatnonzero(self._begins < self._ends)
        parts = self._ends[crossing] - self._begins[crossing] + 1
        rows = np.repeat(crossing, parts)
        number = np.arange(rows.size) - np.repeat(np.cumsum(parts) - parts, parts) + self._begins[rows]
        there = (number >= 0) & (number < self.count)
        rows, number = rows[there], number[there]
        edge_ns = self.start_ns + number * _FINEST_NS
        time, span = self._of.time[rows], self.span[rows]
        share = (np.minimum(time, edge_ns + _FINEST_NS) - np.maximum(time - span, edge_ns)) / span
        series = self._of.series[rows]
        hours = self.count // _OF_HOUR
        return _Pieces(rows, series * self.count + number, series * hours + number // _OF_HOUR, share)

    @cached_property
    def hours(self) -> Ints:
        """The number of the series' hour in which the step to each row ends, held within the stretch."""
        hours = self.count // _OF_HOUR
        return self._of.series * hours + np.clip(self._ends // _OF_HOUR, 0, hours - 1)

    # ---------------------------------------------------------------------------------------------------------- levels

    @cached_property
    def _flowed(self) -> Flags:
        flowed = np.zeros(self.series * self.count, bool)
        flowed[self.whole.cells] = True
        flowed[self.pieces.cells] = True
        return flowed

    @cached_property
    def _there(self) -> list[Flags]:
        """Of each length the windows that there are."""
        there = self._flowed.copy()
        there[self.read.cells] = True
        return list(self._levels(there, np.logical_or))

    @cached_property
    def _order(self) -> Ints:
        """The place of each row of all lengths, the shortest first, in the order of the table."""
        series = [
            np.flatnonzero(there) // (self.count // k) for there, k in zip(self._there, self.factors, strict=True)
        ]
        return np.argsort(np.concatenate(series), kind="stable")

    def _levels(self, grid: NDArray[Any], function: np.ufunc) -> Iterator[NDArray[Any]]:
        """*grid* for each length of windows: longer ones are what *function* makes of those in them."""
        for factor in self.factors:
            yield grid if factor == 1 else function.reduce(grid.reshape(-1, factor), axis=1)

    def _rows(self, levels: Iterator[NDArray[Any]]) -> NDArray[Any]:
        """The rows of the table, of grids for each length."""
        found = [grid[there] for grid, there in zip(levels, self._there, strict=True)]
        return np.concatenate(found)[self._order]

    def _grid(self, cells: Ints, values: NDArray[Any], empty: Any) -> NDArray[Any]:
        grid = np.full(self.series * self.count, empty, np.result_type(values, type(empty)))
        grid[cells] = values
        return grid

    # --------------------------------------------------------------------------------------------------------- columns

    def _gauge(self, column: Column) -> Iterator[tuple[str, Any]]:
        assert column.metric is not None
        values = self._values[column.name]
        missing = np.isnan(values)
        some, total = bool(missing.any()), values
        extremes: tuple[np.ufunc, np.ufunc] = (np.minimum, np.maximum)
        if some:
            extremes, total = (np.fmin, np.fmax), np.where(missing, 0.0, values)
        cells, runs = self.read.cells, self.read
        least, most = (self._grid(cells, runs.reduced(extreme, values), np.nan) for extreme in extremes)
        if some:
            count = runs.reduced(np.add, (~missing).astype(np.int64))
        else:
            count = np.diff(np.append(runs.starts, values.size))[runs.within]
        sums = self._rows(self._levels(self._grid(cells, runs.reduced(np.add, total), 0.0), np.add))
        counts = self._rows(self._levels(self._grid(cells, count, 0), np.add))
        yield rollup_column(column.metric, "min"), self._rows(self._levels(least, np.fmin))
        yield (
            rollup_column(column.metric, "mean"),
            np.divide(sums, counts, out=np.full(sums.size, np.nan), where=counts > 0),
        )
        yield rollup_column(column.metric, "max"), self._rows(self._levels(most, np.fmax))
        if column.metric in SKETCHED:
            finest = column.metric in SKETCHED_FINEST
            yield (
                rollup_column(column.metric, "sketch"),
                self._sketches(values, missing if some else None, finest=finest),
            )

    def _sketches(self, values: Floats, missing: Flags | None, *, finest: bool) -> Sketches:
        cell = np.repeat(self.read.cells, np.diff(np.append(self.read.starts, values.size))[self.read.within])
        row = np.repeat(self.read.within, np.diff(np.append(self.read.starts, values.size)))
        if missing is not None:
            cell, row = cell[~missing[row]], row & ~missing
        keys = (cell if finest else cell // _OF_HOUR) * _BINS + (bins(values[row]) + (_BINS >> 1))
        keys.sort()
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if keys.size else np.zeros(0, np.int64)
        keys, counts = keys[starts], np.diff(np.append(starts, keys.size))
        place = np.empty(self._order.size, np.int64)
        place[self._order] = np.arange(self._order.size)
        rows_of = np.cumsum([0, *(np.count_nonzero(there) for there in self._there)])
        of_row, of_bin, of_count = [], [], []
        has = 1 if finest else _OF_HOUR
        for there, factor, first in zip(self._there, self.factors, rows_of[:-1], strict=True):
            if factor < has:
                continue
            if factor > has:
                wider = keys // _BINS // (factor // has) * _BINS + keys % _BINS
                keys, at = np.unique(wider, return_inverse=True)
                counts, has = np.bincount(at, counts, keys.size).astype(np.int64), factor
            number = np.cumsum(there) - 1 + first
            of_row.append(place[number[keys // _BINS]])
            of_bin.append(keys % _BINS - (_BINS >> 1))
            of_count.append(counts)
        rows = np.concatenate(of_row)
        order = np.argsort(rows, kind="stable")
        return Sketches(
            np.bincount(rows, minlength=self._order.size),
            np.concatenate(of_bin)[order].astype(np.int16),
            np.concatenate(of_count)[order].astype(np.uint32),
        )

    def _word(self, name: str) -> NDArray[Any]:
        """The last word that was read in each window, else that of the last step that is in it."""
        codes = self._of.words[name]
        at = np.where(codes >= 0, np.arange(codes.size), -1)
        read = self._grid(self.read.cells, self.read.reduced(np.maximum, at), -1)
        flowed = self._grid(self.whole.cells, self.whole.reduced(np.maximum, at), -1)
        np.maximum.at(flowed, self.pieces.cells, at[self.pieces.rows])
        last, after = (self._rows(self._levels(grid, np.maximum)) for grid in (read, flowed))
        row = np.where(last >= 0, last, after)
        return np.where(row >= 0, codes[row], -1)

    def _events(self, column: str) -> Floats:
        """What a counter of what happens rose by at the readings of each window."""
        pair, values = self._pair(column), self._values[column]
        rise = np.where(pair.known & ~np.isnan(values), _increase(pair.last, pair.first), np.nan)
        known = ~np.isnan(rise)
        sums = self._grid(self.read.cells, self.read.reduced(np.add, np.where(known, rise, 0.0)), 0.0)
        some = self._grid(self.read.cells, self.read.reduced(np.logical_or, known), False)
        total, any_of = self._rows(self._levels(sums, np.add)), self._rows(self._levels(some, np.logical_or))
        return np.where(any_of, total, np.nan)

    # ------------------------------------------------------------------------------------------------------------ steps

    def _pair(self, column: str) -> _Pair:
        values = self._values[column]
        missing = np.isnan(values)
        if not missing.any():
            return _Pair(np.append(np.nan, values[:-1]), values, ~self.first, self.span, True)
        read_ns = self._of.read_at(column)
        rows = np.arange(values.size)
        earlier = np.append(-1, np.maximum.accumulate(np.where(missing, -1, rows))[:-1])
        later = np.minimum.accumulate(np.where(missing, values.size, rows)[::-1])[::-1]
        starts = np.flatnonzero(self.first)
        ends = np.append(starts[1:], values.size)
        known = (earlier >= starts[self._of.series]) & (later < ends[self._of.series])
        earlier, later = np.where(known, earlier, 0), np.where(known, later, 0)
        return _Pair(
            values[earlier], values[later], known, np.where(known, read_ns[later] - read_ns[earlier], 0), False
        )

    def _flow(self, column: str) -> Floats:
        """What a counter of what flows rose by in each window."""
        pair = self._pair(column)
        rise = _increase(pair.last, pair.first)
        if not pair.whole:
            # Rows between two readings share what it rose by; over a long silence that is told when it is read.
            share = np.divide(self.span, pair.span, out=np.zeros(rise.size), where=pair.span > 0)
            rise = np.where(pair.span <= _SHARED_NS, rise * share, rise)
            told = (pair.span <= _SHARED_NS) | ~np.isnan(self._values[column])
            rise = np.where(told, rise, np.nan)
        rise = np.where(pair.known, rise, np.nan)
        known = ~np.isnan(rise)
        total = self._shared(lambda rows, _: np.where(known[rows], rise[rows], 0.0))
        some = self._grid(self.whole.cells, self.whole.reduced(np.logical_or, known), False)
        some[self.pieces.cells[known[self.pieces.rows]]] = True
        sums, any_of = self._rows(self._levels(total, np.add)), self._rows(self._levels(some, np.logical_or))
        return np.where(any_of, sums, np.nan)

    def _shared(self, amounts: Callable[[Any, Ints], Floats]) -> Floats:
        """The sums in each of the finest windows, of steps (rows, the hours that they are looked at in)."""
        grid = self._grid(self.whole.cells, self.whole.reduced(np.add, amounts(slice(None), self.hours)), 0.0)
        if self.pieces.rows.size:
            weights = amounts(self.pieces.rows, self.pieces.hours) * self.pieces.share
            grid += np.bincount(self.pieces.cells, weights, grid.size)
        return grid

    def _seconds(self) -> Iterator[tuple[str, Any]]:
        """The seconds between readings that are near each other, and energy."""
        gaps_s = self._gaps(self.span, ~self.first)
        span_s = self.span / _NS

        def covered(rows: Any, hours: Ints) -> Floats:
            return np.where(span_s[rows] <= gaps_s[hours], span_s[rows], 0.0)

        yield "covered_s", np.round(self._rows(self._levels(self._shared(covered), np.add)), _DIGITS)
        if self._of.samples.name == "device_samples":
            yield from self._joules(gaps_s)

    def _joules(self, gaps_s: Floats) -> Iterator[tuple[str, Any]]:
        nothing = np.zeros(self.span.size)
        span_s = self.span / _NS
        by_counter, counter_j, power_j = np.zeros(self.span.size, bool), nothing, nothing
        power_known, power_span = by_counter, self.span
        if POWER.column in self._values:
            pair = self._pair(POWER.column)
            power_known, power_span = pair.known, pair.span
            power_j = (pair.first + pair.last) * 0.5 * span_s
            if not pair.whole:
                gaps_s = self._gaps(pair.span, pair.known & ~np.isnan(self._values[POWER.column]))
        else:
            gaps_s = np.full(gaps_s.size, GAP_S)
        if ENERGY.column in self._values:
            pair = self._pair(ENERGY.column)
            rise = pair.last - pair.first
            by_counter = pair.known & (rise >= 0) & (rise * 1e9 <= _MOST_W * pair.span) & (pair.span <= _SHARED_NS)
            if not pair.whole:
                rise = rise * np.divide(self.span, pair.span, out=np.zeros(rise.size), where=pair.span > 0)
            counter_j = np.where(by_counter, rise, 0.0)
        gap_ns = np.rint(gaps_s * _NS).astype(np.int64)
        modelled = self._of.modelled

        def by_power(rows: Any, hours: Ints) -> Flags:
            counts: Flags = power_known[rows] & (power_span[rows] <= gap_ns[hours])
            return counts

        def mixed(rows: Any, hours: Ints) -> Floats:
            return np.where(by_counter[rows], counter_j[rows], power(rows, hours))

        def power(rows: Any, hours: Ints) -> Floats:
            return np.where(by_power(rows, hours), power_j[rows], 0.0)

        def of_modelled(amount: Callable[[Any, Ints], Floats]) -> Callable[[Any, Ints], Floats]:
            if not modelled.any():
                return lambda rows, _: nothing[rows]
            return lambda rows, hours: np.where(modelled[rows], amount(rows, hours), 0.0)

        amounts: tuple[Callable[[Any, Ints], Floats], ...] = (
            mixed,
            lambda rows, hours: np.where(by_counter[rows] | by_power(rows, hours), span_s[rows], 0.0),
            lambda rows, _: counter_j[rows],
            power,
            lambda rows, hours: np.where(by_power(rows, hours), span_s[rows], 0.0),
            lambda rows, hours: np.where(by_power(rows, hours), counter_j[rows], 0.0),
            lambda rows, hours: np.where(by_counter[rows], power(rows, hours), 0.0),
            of_modelled(mixed),
            of_modelled(power),
        )
        flowed = self._rows(self._levels(self._flowed, np.logical_or))
        of_hour = np.where(self._flowed, np.repeat(gaps_s, _OF_HOUR), np.nan)
        yield "max_gap_s", self._rows(self._levels(of_hour, np.fmax))
        for name, amount in zip(ENERGY_SUMS, amounts, strict=True):
            sums = np.round(self._rows(self._levels(self._shared(amount), np.add)), _DIGITS)
            yield name, np.where(flowed, sums, np.nan)

    def _gaps(self, span: Ints, known: Flags) -> Floats:
        """
        What counts as a gap in each hour of each series, of the *span* to each row from its last *known* reading.

        An hour is judged by its own readings, so that it is the same whatever it is rolled up with.
        """
        hours = self.count // _OF_HOUR
        ends = self._ends // _OF_HOUR
        began = self._of.time - span >= self.start_ns + ends * (HOUR_S * _NS)
        inside = known & began & ~self._of.before & (ends >= 0) & (ends < hours)
        keys = (self._of.series[inside] * hours + ends[inside] << _SPAN_BITS) + span[inside]
        keys.sort()
        found = np.full(self.series * hours, GAP_S)
        of = keys >> _SPAN_BITS
        starts = np.flatnonzero(np.append(True, of[1:] != of[:-1])) if of.size else np.zeros(0, np.int64)
        count = np.diff(np.append(starts, of.size))
        starts, count = starts[count >= FEW_INTERVALS], count[count >= FEW_INTERVALS]
        middle = [keys[starts + nth] & (1 << _SPAN_BITS) - 1 for nth in ((count - 1) // 2, count // 2)]
        found[of[starts]] = np.clip(GAP_PERIODS * (middle[0] + middle[1]) / 2 / _NS, GAP_S, LONGEST_GAP_S)
        return found


def bins(values: Floats) -> Ints:
    """The bin of each value, as `collector.store.sketch.bin_of` has it."""
    size = np.abs(values)
    found = np.ceil(np.log(np.maximum(size, LEAST)) / LOG_GAMMA) + SHIFT
    return np.where(size >= LEAST, np.copysign(found, values), 0.0).astype(np.int64)


def _flows(column: Column) -> bool:
    """Whether a counter is of what flows; a device's counts are of events, which are whole."""
    assert column.metric is not None
    return column.metric.scope is not Scope.DEVICE or column.metric.unit is not COUNT


def _increase(value: Floats, before: Floats) -> Floats:
    """
    What a counter grew by since its last value.

    A fall to less than half is a reset, after which it counts from 0 again. A smaller fall is a glitch, worth nothing:
    to take it for a reset would add the whole counter once more.
    """
    rise = value - before
    fell = rise < 0
    return np.where(fell, np.where(value <= before / 2, value, 0.0), rise) if fell.any() else rise
