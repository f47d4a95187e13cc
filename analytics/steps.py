"""
Steps: the time from one reading of a series to the next, and its joules.

A series is what one source reads of one device. Segments hold series in order, so nothing here sorts what is sorted:
the runs of a series are found by comparing neighbours, and from there on a series is a number, not two words.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from collector.catalogue import POWER

Floats = NDArray[np.float64]

KEYS: Final = ("device", "source")
TEXT: Final = ("device", "source", "host", "power_method", "power_scope")
NUMBERS: Final = ("power_w", "energy_j", "utilization_ratio")
MAX_COUNTER_GAP_S: Final = 3600.0
"""A counter counts while nobody reads; beyond this a reboot between two readings is likelier than a quiet reader."""
GAP_S: Final = 10.0
"""The least that counts as a gap where the caller does not say."""
GAP_PERIODS: Final = 3.0
LONGEST_GAP_S: Final = 300.0
"""The most that a device's own interval makes of a gap: power is not known between readings a quarter-hour apart."""
NS: Final = 1_000_000_000
JOULES: Final = (
    "power_j", "power_s", "mixed_j", "mixed_s", "both_counter_j", "both_power_j", "counter_j",
    "mixed_modelled_j", "power_modelled_j",
)  # fmt: skip
"""What a step has: by the power; by the counter where it is good; by each where both are; its parts."""
BUSY: Final = ("busy_s", "busy_covered_s")
"""Utilisation integrated over time, for whoever asks for it."""

GROUP: Final = "__group"
_FEW: Final = 3
"""Intervals that a device's own one is told from, at least."""


class Ordered(NamedTuple):
    """
    Rows in order, each time once.

    rows: `TEXT`, time, `NUMBERS`; each series is one run, by time. series: the number of each row's series, rising.
    first: whether a row is the first of its series.
    """

    rows: pl.DataFrame
    series: pl.Series
    first: pl.Series


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
    first = _changes(rows)
    starts = first.arg_true()
    if starts.len() * 4 > rows.height:
        rows, first = _sorted(rows)
    elif rows.select(pl.struct(KEYS).gather(starts).is_duplicated().any()).item():
        rows, first = _joined(rows, starts.to_numpy())
    span = rows["time"].to_physical().diff()
    if ((span < 0) & ~first).any():
        rows, first = _sorted(rows)
        span = rows["time"].to_physical().diff()
    again = (span == 0) & ~first
    if again.any():
        rows = rows.filter(~again.shift(-1, fill_value=False))
        first = _changes(rows)
    return Ordered(rows, first.cast(pl.UInt32).cum_sum().set_sorted() - 1, first)


def _changes(rows: pl.DataFrame) -> pl.Series:
    changed = pl.any_horizontal(pl.col("time").shift(1).is_null(), *(_differs(key) for key in KEYS))
    return rows.select(changed.alias("first")).to_series()


def _differs(key: str) -> pl.Expr:
    return pl.col(key).ne_missing(pl.col(key).shift(1))


def _sorted(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    rows = rows.sort([*KEYS, "time"], maintain_order=True)
    return rows, _changes(rows)


def _joined(rows: pl.DataFrame, starts: np.ndarray) -> tuple[pl.DataFrame, pl.Series]:
    """Bring the runs of a series together: a store has one in each segment. Runs are few where rows are many."""
    heads = rows.select(pl.col(*KEYS, "time").gather(starts)).with_row_index("run")
    runs = heads.sort([*KEYS, "time"], maintain_order=True)["run"].to_numpy()
    length = np.diff(np.append(starts, rows.height))[runs]
    ends = np.cumsum(length)
    moved = rows[np.arange(rows.height) + np.repeat(starts[runs] - (ends - length), length)]
    first, joints = _changes(moved), ends[:-1]
    time = moved["time"].to_physical().to_numpy()
    # Runs that overlap in time are sorted row by row; which of two rows of one time came later is lost here.
    if (~first.to_numpy()[joints] & (time[joints] <= time[joints - 1])).any():
        return _sorted(rows)
    return moved, first


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
    """Integral and covered seconds of each step: the value half-way between its ends, on the line between readings."""
    earlier, later = _around(column)
    first, last = _earlier(column), pl.col(column).backward_fill()
    middle = ((nanoseconds("time") - earlier) + (nanoseconds("time").shift(1) - earlier)) / 2 / (later - earlier)
    counts = (((later - earlier) <= gap_ns) & _continues(column)).fill_null(False)
    return (
        pl.when(counts).then((first + (last - first) * middle) * (_span() / NS)).otherwise(0.0),
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


def gaps_s(found: Ordered, column: str, max_gap_s: float | None) -> np.ndarray:
    """
    What counts as a gap in each series: *max_gap_s*, or what the series itself says.

    That is three times its own median interval between readings of *column*, at least 10 s and at most 300 s; 10 s of a
    series that was read fewer than four times.
    """
    count = 0 if found.series.is_empty() else int(found.series[-1]) + 1
    if max_gap_s is not None:
        return np.full(count, float(max_gap_s))
    rows = found.rows.select(column, time=nanoseconds("time")).with_columns(found.series.alias(GROUP))
    if rows[column].null_count():
        rows = rows.filter(pl.col(column).is_not_null())
    apart = rows.select(GROUP, span=pl.when(pl.col(GROUP) == pl.col(GROUP).shift(1)).then(_span()))
    own = apart.group_by(GROUP).agg(pl.col("span").median(), n=pl.col("span").count()).filter(pl.col("n") >= _FEW)
    gaps = np.full(count, GAP_S)
    gaps[own[GROUP].to_numpy()] = np.clip(own["span"].to_numpy() / NS * GAP_PERIODS, GAP_S, LONGEST_GAP_S)
    return gaps


class Steps(NamedTuple):
    """
    The step that ends with each reading; a first reading of a series has none.

    first, time, span (ns; 0 in a first row): of each reading. amounts: of `JOULES`, and of `BUSY` if they were asked
    for, those that can be anything but 0. Where there is no counter, what is mixed is what is by the power.
    """

    first: NDArray[np.bool_]
    time: NDArray[np.int64]
    span: NDArray[np.int64]
    amounts: dict[str, Floats]


def steps(found: Ordered, max_gap_s: float | None = None, *, busy: bool = False) -> Steps:
    """The steps of readings: by power, by the counter, and how busy the device was."""
    first, time = found.first.to_numpy(), found.rows["time"].to_physical().to_numpy()
    span = np.append(time[:1], time[1:] - time[:-1])
    span[first] = 0
    base = _Base(found, first, span, span / NS)
    amounts = dict(zip(("power_j", "power_s"), base.integral("power_w", max_gap_s), strict=True))
    modelled = (found.rows["power_method"] == "modelled").fill_null(False).to_numpy()
    if not base.absent("energy_j"):
        amounts |= base.counted(amounts["power_j"], amounts["power_s"])
    if modelled.any():
        amounts |= {
            f"{by}_modelled_j": np.where(modelled, amounts[f"{by}_j"], 0.0)
            for by in ("power", "mixed")
            if f"{by}_j" in amounts
        }
    if busy and not base.absent("utilization_ratio"):
        amounts |= dict(zip(BUSY, base.integral("utilization_ratio", max_gap_s), strict=True))
    return Steps(first, time, span, amounts)


class _Base(NamedTuple):
    """Readings and the spans between them; columns without a null go the short way."""

    found: Ordered
    first: NDArray[np.bool_]
    span: NDArray[np.int64]
    span_s: Floats

    def absent(self, column: str) -> bool:
        return self.found.rows[column].null_count() == self.found.rows.height

    def integral(self, column: str, max_gap_s: float | None) -> tuple[Floats, Floats]:
        """Integral and covered seconds of each step."""
        if self.absent(column):
            return np.zeros(self.span.size), np.zeros(self.span.size)
        gaps = np.rint(gaps_s(self.found, column, max_gap_s) * NS).astype(np.int64)
        same = bool((gaps == gaps[0]).all())
        if self.found.rows[column].null_count():
            gap = int(gaps[0]) if same else pl.lit(pl.Series(gaps)).gather(pl.col(GROUP))
            return self._by_expressions(column, *trapezoid(column, gap))
        counts = (self.span <= (gaps[0] if same else gaps[self.found.series.to_numpy()])) & ~self.first
        covered, values = np.where(counts, self.span_s, 0.0), self.found.rows[column].to_numpy()
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
        values = self.found.rows["energy_j"].to_numpy()
        rise = np.zeros(values.size)
        np.subtract(values[1:], values[:-1], out=rise[1:])
        counts = (rise >= 0) & (rise * NS <= limit_w * self.span) & ~self.first
        counts &= self.span <= round(MAX_COUNTER_GAP_S * NS)
        return np.where(counts, rise, 0.0), np.where(counts, self.span_s, 0.0)

    def _by_expressions(self, column: str, amount: pl.Expr, covered: pl.Expr) -> tuple[Floats, Floats]:
        frame = self.found.rows.lazy().select(column, "time").with_columns(self.found.series.alias(GROUP))
        told = frame.select(amount=amount, covered=covered).collect()
        return told["amount"].to_numpy(), told["covered"].to_numpy()
