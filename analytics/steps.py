"""
Steps: the time from one reading of a series to the next, and its joules.

A series is what one source reads of one device. Segments hold series in order, so nothing here sorts what is sorted:
the runs of a series are found by comparing neighbours, and from there on a series is a number, not two words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from collector.catalogue import POWER
from collector.gaps import FEW_INTERVALS, GAP_PERIODS, GAP_S, LONGEST_GAP_S, MAX_COUNTER_GAP_S

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KEYS: Final = ("device", "source")
TEXT: Final = ("device", "source", "host", "power_method", "power_scope")
NUMBERS: Final = ("power_w", "energy_j", "utilization_ratio")
NS: Final = 1_000_000_000
JOULES: Final = (
    "power_j", "power_s", "mixed_j", "mixed_s", "both_counter_j", "both_power_j", "counter_j",
    "mixed_modelled_j", "power_modelled_j",
)  # fmt: skip
"""What a step has: by the power; by the counter where it is good; by each where both are; its parts."""
BUSY: Final = ("busy_s", "busy_covered_s")
"""Utilisation integrated over time, for whoever asks for it."""

GROUP: Final = "__group"
_SHORT: Final = 100
_SLICED: Final = 200
"""Rows of a run from which on a slice of it costs less than its rows one by one."""


@dataclass(frozen=True)
class Ordered:
    """
    Rows in order, each time once.

    rows: `TEXT`, time, `NUMBERS`; each series is one run, by time. starts: the row with which each series begins.
    """

    rows: pl.DataFrame
    starts: Ints

    @cached_property
    def time(self) -> Ints:
        """Of each row, in nanoseconds."""
        return self.rows["time"].to_physical().to_numpy()

    @cached_property
    def span(self) -> Ints:
        """Nanoseconds since the row before in the series; 0 in a first row."""
        span = np.empty_like(self.time)
        np.subtract(self.time[1:], self.time[:-1], out=span[1:])
        span[self.starts] = 0
        return span

    @cached_property
    def first(self) -> NDArray[np.bool_]:
        """Whether a row is the first of its series."""
        first = np.zeros(self.rows.height, bool)
        first[self.starts] = True
        return first

    @cached_property
    def series(self) -> Ints:
        """The number of each row's series, rising."""
        return np.cumsum(self.first) - 1

    @cached_property
    def ends(self) -> Ints:
        """The last row of each series."""
        return np.append(self.starts[1:], self.rows.height)[: self.starts.size] - 1

    @cached_property
    def heads(self) -> pl.DataFrame:
        """Device and source of each series."""
        return self.rows.select(pl.col(KEYS).gather(self.starts))

    @cached_property
    def _numbers(self) -> dict[str, Floats]:
        return {name: self.rows[name].to_numpy() for name in NUMBERS}

    def values(self, column: str) -> Floats:
        """A column of `NUMBERS`; NaN where it was not read."""
        return self._numbers[column]


def readings(samples: pl.LazyFrame) -> pl.LazyFrame:
    """The columns that matter, with nulls for those that the frame lacks."""
    known = samples.collect_schema().names()
    absent = [pl.lit(None, pl.String).alias(name) for name in TEXT if name not in known]
    absent += [pl.lit(None, pl.Float64).alias(name) for name in NUMBERS if name not in known]
    return samples.with_columns(absent).select(
        *TEXT, pl.col("time").cast(pl.Datetime("ns")), *(pl.col(name).cast(pl.Float64) for name in NUMBERS)
    )


def ordered(rows: pl.DataFrame) -> Ordered:
    """Put `readings` in order; of rows of a series with the same time the last counts."""
    starts = _starts(rows)
    found = Ordered(rows, starts)
    if starts.size * 4 > rows.height:
        found = _sorted(rows)
    elif rows.select(pl.struct(KEYS).gather(starts).is_duplicated().any()).item():
        found = _joined(rows, starts)
    if (found.span < 0).any():
        found = _sorted(rows)
    again = found.span == 0
    again[found.starts] = False
    if again.any():
        rows = found.rows.filter(~np.append(again[1:], False))
        found = Ordered(rows, _starts(rows))
    return found


def _starts(rows: pl.DataFrame) -> Ints:
    """Where a row has other keys than the row before."""
    changed = rows.select(changed=pl.any_horizontal(_differs(key) for key in KEYS)).to_series().to_numpy().copy()
    changed[:1] = True
    return np.flatnonzero(changed)


def _differs(key: str) -> pl.Expr:
    return pl.col(key).ne_missing(pl.col(key).shift(1))


def _sorted(rows: pl.DataFrame) -> Ordered:
    rows = rows.sort([*KEYS, "time"], maintain_order=True)
    return Ordered(rows, _starts(rows))


def _joined(rows: pl.DataFrame, starts: Ints) -> Ordered:
    """Bring the runs of a series together: a store has one in each segment. Runs are few where rows are many."""
    heads = rows.select(pl.col(*KEYS, "time").gather(starts)).with_row_index("run")
    runs = heads.sort([*KEYS, "time"], maintain_order=True)["run"].to_numpy()
    length = np.diff(np.append(starts, rows.height))[runs]
    ends = np.cumsum(length)
    if starts.size * _SLICED < rows.height:
        # Slices copy no words, which are most of a row.
        moved = pl.concat([rows.slice(at, count) for at, count in zip(starts[runs], length, strict=True)])
    else:
        moved = rows[np.arange(rows.height) + np.repeat(starts[runs] - (ends - length), length)]
    joined = Ordered(moved, _starts(moved))
    joints = ends[:-1]
    # Runs that overlap in time are sorted row by row; which of two rows of one time came later is lost here.
    if (~joined.first[joints] & (joined.time[joints] <= joined.time[joints - 1])).any():
        return _sorted(rows)
    return joined


# ------------------------------------------------------------------------------------------------------- expressions


def in_order(samples: pl.LazyFrame, keys: Sequence[str], columns: Sequence[str]) -> pl.LazyFrame:
    """Sorted by *keys* and time, each time once, with `GROUP`: a number for each combination of keys."""
    rows = samples.with_columns(pl.col("time").cast(pl.Datetime("ns")), *(pl.col(c).cast(pl.Float64) for c in columns))
    rows = rows.sort([*keys, "time"], maintain_order=True)
    # Comparing neighbours of a sorted frame costs a tenth of a window function over two text columns.
    changed = pl.any_horizontal(_differs(key) for key in keys)
    rows = rows.with_columns(changed.fill_null(True).cum_sum().alias(GROUP))
    again = (pl.col(GROUP) == pl.col(GROUP).shift(-1)) & (pl.col("time") == pl.col("time").shift(-1))
    return rows.filter(~again.fill_null(False))


def _where_read(column: str, value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col(column).is_not_null()).then(value)


def _earlier(column: str) -> pl.Expr:
    """The last value of *column* before this row; it may be another group's, see `_continues`."""
    return pl.col(column).shift(1).forward_fill()


def _continues(column: str) -> pl.Expr:
    """Whether the last value before this row and the next from it on are both of this row's group."""
    group = _where_read(column, pl.col(GROUP))
    return (group.shift(1).forward_fill() == pl.col(GROUP)) & (group.backward_fill() == pl.col(GROUP))


def falls(column: str) -> pl.Expr:
    """Whether a counter fell since its last reading."""
    return ((pl.col(column) < _earlier(column)) & _continues(column)).fill_null(False)


def _around(column: str) -> tuple[pl.Expr, pl.Expr]:
    """The times (ns) of the last reading of *column* before this row, and of the next from this row on."""
    read = _where_read(column, nanoseconds("time"))
    return read.shift(1).forward_fill(), read.backward_fill()


def nanoseconds(column: str) -> pl.Expr:
    """A time as whole nanoseconds since 1970."""
    return pl.col(column).to_physical()


def _span() -> pl.Expr:
    """Nanoseconds since the row before."""
    return nanoseconds("time") - nanoseconds("time").shift(1)


def trapezoid(column: str, gap_ns: int | pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Integral and covered seconds of each step; rows between two readings share the trapezoid between them by time."""
    earlier, later = _around(column)
    mean = (_earlier(column) + pl.col(column).backward_fill()) * 0.5
    counts = (((later - earlier) <= gap_ns) & _continues(column)).fill_null(False)
    return (
        pl.when(counts).then(mean * (_span() / NS)).otherwise(0.0),
        pl.when(counts).then(_span() / NS).otherwise(0.0),
    )


def difference(column: str, max_gap_s: float, max_power_w: float) -> tuple[pl.Expr, pl.Expr]:
    """Rise and covered seconds of each step; rows between two readings of the counter share its rise by time."""
    earlier, later = _around(column)
    rise = pl.col(column).backward_fill() - _earlier(column)
    # Compared in whole nanoseconds: as seconds, polars gives 15.000000000000002 for 15 s where a frame is in chunks.
    span = later - earlier
    possible = (rise >= 0) & (rise * NS <= max_power_w * span)
    counts = (possible & (span <= round(max_gap_s * NS)) & _continues(column)).fill_null(False)
    return (
        pl.when(counts).then(rise * (_span() / span)).otherwise(0.0),
        pl.when(counts).then(_span() / NS).otherwise(0.0),
    )


# -------------------------------------------------------------------------------------------------------------- steps


def risen(found: Ordered, column: str, max_gap_s: float = MAX_COUNTER_GAP_S) -> tuple[Floats, Floats]:
    """As `difference` without a limit of power, of rows in order: rise and covered seconds of each step."""
    values, longest = found.rows[column].to_numpy(), round(max_gap_s * NS)
    if not found.rows[column].null_count():
        rise = np.diff(values, prepend=values[:1])
        counts = ~found.first & (rise >= 0) & (found.span <= longest)
        return np.where(counts, rise, 0.0), np.where(counts, found.span / NS, 0.0)
    read = ~np.isnan(values)
    at = np.flatnonzero(read)
    rise, span = np.diff(values[at]), np.diff(found.time[at])
    counts = (found.series[at[1:]] == found.series[at[:-1]]) & (rise >= 0) & (span <= longest)
    # Of each row the two readings around it, by the number of the first; none before the first and after the last.
    pair = np.cumsum(read) - read - 1
    counts = np.append(counts, False)[pair]
    shared = np.append(rise, 0.0)[pair] * (found.span / np.append(np.maximum(span, 1), 1)[pair])
    return np.where(counts, shared, 0.0), np.where(counts, found.span / NS, 0.0)


def gaps_s(found: Ordered, column: str, max_gap_s: float | None) -> Floats:
    """
    What counts as a gap in each series: *max_gap_s*, or what the series itself says.

    That is three and a half times its own median interval between readings of *column*, at least 10 s and at most
    300 s; 10 s of a series that was read fewer than four times.
    """
    count = found.starts.size
    if max_gap_s is not None:
        return np.full(count, float(max_gap_s))
    time, starts, ends = found.time, found.starts, found.ends + 1
    if found.rows[column].null_count():
        read = ~np.isnan(found.values(column))
        before = np.append(0, np.cumsum(read))
        time, starts, ends = time[read], before[starts], before[ends]
    enough = np.flatnonzero(ends - starts > FEW_INTERVALS)
    gaps = np.full(count, GAP_S)
    gaps[enough] = np.clip(_medians(time, starts[enough], ends[enough]) / NS * GAP_PERIODS, GAP_S, LONGEST_GAP_S)
    return gaps


def _medians(time: Ints, starts: Ints, ends: Ints) -> Floats:
    """The median interval of each stretch of *time*."""
    if starts.size < time.size // _SHORT:
        return np.array([np.median(np.diff(time[a:b])) for a, b in zip(starts, ends, strict=True)])
    # Many short ones are sorted together.
    count = ends - starts - 1
    at = np.repeat(starts - np.cumsum(count) + count, count) + np.arange(count.sum())
    span = time[at + 1] - time[at]
    span = span[np.lexsort((span, np.repeat(np.arange(count.size), count)))]
    first = np.cumsum(count) - count
    middle: Floats = (span[first + (count - 1) // 2] + span[first + count // 2]) / 2
    return middle


def usual_period_s(rows: pl.DataFrame) -> float:
    """The usual time between two readings of a device by one source; 0 where nothing was read twice."""
    found = ordered(rows)
    spans = np.diff(found.time)[~found.first[1:]]
    return float(np.median(spans)) / NS if spans.size else 0.0


def steps(found: Ordered, max_gap_s: float | None = None, *, busy: bool = False) -> dict[str, Floats]:
    """
    The amounts of the step that ends with each reading; a first reading of a series has none.

    Of `JOULES`, and of `BUSY` if they are asked for, those that can be anything but 0. Where there is no counter, what
    is mixed is what is by the power.
    """
    base = _Base(found, found.span, found.span / NS)
    amounts = dict(zip(("power_j", "power_s"), base.integral("power_w", max_gap_s), strict=True))
    modelled = found.rows["power_method"] == "modelled"
    if not base.absent("energy_j"):
        amounts |= base.counted(amounts["power_j"], amounts["power_s"])
    if modelled.any():
        of_row = modelled.fill_null(False).to_numpy()
        amounts |= {
            f"{by}_modelled_j": np.where(of_row, amounts[f"{by}_j"], 0.0)
            for by in ("power", "mixed")
            if f"{by}_j" in amounts
        }
    if busy and not base.absent("utilization_ratio"):
        amounts |= dict(zip(BUSY, base.integral("utilization_ratio", max_gap_s), strict=True))
    return amounts


class _Base(NamedTuple):
    """Readings and the spans between them; columns without a null go the short way."""

    found: Ordered
    span: Ints
    span_s: Floats

    def absent(self, column: str) -> bool:
        return self.found.rows[column].null_count() == self.found.rows.height

    def integral(self, column: str, max_gap_s: float | None) -> tuple[Floats, Floats]:
        """Integral and covered seconds of each step."""
        if self.absent(column):
            return np.zeros(self.span.size), np.zeros(self.span.size)
        gaps = np.rint(gaps_s(self.found, column, max_gap_s) * NS).astype(np.int64)
        same = gaps.size == 0 or bool((gaps == gaps[0]).all())
        if self.found.rows[column].null_count():
            gap = int(gaps[0]) if same else pl.lit(pl.Series(gaps)).gather(pl.col(GROUP))
            return self._by_expressions(column, *trapezoid(column, gap))
        # A first row has a span of 0.
        covered = np.where(self.span <= (gaps[0] if same else gaps[self.found.series]), self.span_s, 0.0)
        values = self.found.values(column)
        joules = np.zeros(self.span.size)
        np.add(values[1:], values[:-1], out=joules[1:])
        joules *= 0.5
        joules *= covered
        return joules, covered

    def counted(self, power_j: Floats, power_s: Floats) -> dict[str, Floats]:
        """What the counter says of each step, and what it comes to with the power where the counter says nothing."""
        counter_j, counter_s = self._difference()
        by_counter, by_power = counter_s > 0, power_s > 0
        if np.array_equal(by_counter, by_power):
            return {"counter_j": counter_j, "mixed_j": counter_j, "mixed_s": counter_s,
                    "both_counter_j": counter_j, "both_power_j": power_j}  # fmt: skip
        both = by_counter & by_power
        return {
            "counter_j": counter_j,
            "mixed_j": np.where(by_counter, counter_j, power_j),
            "mixed_s": np.where(by_counter, counter_s, power_s),
            "both_counter_j": np.where(both, counter_j, 0.0),
            "both_power_j": np.where(both, power_j, 0.0),
        }

    def _difference(self) -> tuple[Floats, Floats]:
        limit_w = POWER.high or 50_000.0
        if self.found.rows["energy_j"].null_count():
            return self._by_expressions("energy_j", *difference("energy_j", MAX_COUNTER_GAP_S, limit_w))
        rise = np.diff(self.found.values("energy_j"), prepend=0.0)
        rise[self.found.starts] = 0.0
        counts = (rise >= 0) & (rise * NS <= limit_w * self.span) & (self.span <= round(MAX_COUNTER_GAP_S * NS))
        return np.where(counts, rise, 0.0), np.where(counts, self.span_s, 0.0)

    def _by_expressions(self, column: str, amount: pl.Expr, covered: pl.Expr) -> tuple[Floats, Floats]:
        frame = self.found.rows.lazy().select(column, "time", pl.lit(pl.Series(GROUP, self.found.series)))
        told = frame.select(amount=amount, covered=covered).collect()
        return told["amount"].to_numpy(), told["covered"].to_numpy()
