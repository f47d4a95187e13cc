"""
Steps: the time from one reading of a series to the next, and its joules.

A series is what one source reads of one device. Segments hold series in order, so nothing here sorts what is sorted:
the runs of a series are found by comparing neighbours, and from there on a series is a number, not two words.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from collector.catalogue import POWER

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
AMOUNTS: Final = (
    "power_j", "power_s", "mixed_j", "mixed_s", "both_counter_j", "both_power_j", "counter_j",
    "mixed_modelled_j", "power_modelled_j",
)  # fmt: skip
"""What a step has: by the power; by the counter where it is good; by each where both are; its parts."""
BUSY: Final = ("busy_s", "busy_covered_s")
"""Utilisation integrated over time, for whoever asks for it."""
EXTREMES: Final = ("power_min_w", "power_max_w")
"""Of the readings with which the steps of a window end."""
TALLY: Final = pl.Schema(
    {
        **dict.fromkeys(TEXT, pl.String()),
        "chunk": pl.Datetime("ns"),
        "max_gap_s": pl.Float64(),
        **dict.fromkeys(EXTREMES, pl.Float64()),
        **dict.fromkeys(AMOUNTS, pl.Float64()),
    }
)

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


# What the same comes to in a column without a null: there is nothing to look for before and after.


def _trapezoid_whole(column: str, gap_ns: int | pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    counts = ~pl.col("first") & (pl.col("span") <= gap_ns)
    mean = (pl.col(column) + pl.col(column).shift(1)) * 0.5
    return (
        pl.when(counts).then(mean * pl.col("span_s")).otherwise(0.0),
        pl.when(counts).then("span_s").otherwise(0.0),
    )


def _difference_whole(column: str, max_gap_s: float, max_power_w: float) -> tuple[pl.Expr, pl.Expr]:
    rise = pl.col(column) - pl.col(column).shift(1)
    possible = (rise >= 0) & (rise * NS <= max_power_w * pl.col("span"))
    counts = ~pl.col("first") & possible & (pl.col("span") <= round(max_gap_s * NS))
    return pl.when(counts).then(rise).otherwise(0.0), pl.when(counts).then("span_s").otherwise(0.0)


# -------------------------------------------------------------------------------------------------------------- steps


def gaps_s(found: Ordered, column: str, max_gap_s: float | None) -> np.ndarray:
    """
    What counts as a gap in each series: *max_gap_s*, or what the series itself says.

    That is three times its own median interval between readings of *column*, at least 10 s and at most 300 s; 10 s of a
    series that was read fewer than four times.
    """
    count = 0 if found.series.is_empty() else int(found.series[-1]) + 1
    if max_gap_s is not None:
        return np.full(count, max_gap_s)
    rows = found.rows.select(column, time=nanoseconds("time")).with_columns(found.series.alias(GROUP))
    if rows[column].null_count():
        rows = rows.filter(pl.col(column).is_not_null())
    apart = rows.select(GROUP, span=pl.when(pl.col(GROUP) == pl.col(GROUP).shift(1)).then(_span()))
    own = apart.group_by(GROUP).agg(pl.col("span").median(), n=pl.col("span").count()).filter(pl.col("n") >= _FEW)
    gaps = np.full(count, GAP_S)
    gaps[own[GROUP].to_numpy()] = np.clip(own["span"].to_numpy() / NS * GAP_PERIODS, GAP_S, LONGEST_GAP_S)
    return gaps


def steps(found: Ordered, max_gap_s: float | None = None, *, busy: bool = False) -> pl.DataFrame:
    """
    One row for each reading: the step that ends with it.

    Out: `GROUP`, first, time and span (ns; the span null in a first row), by_counter and modelled where any are, and
    of `AMOUNTS`, and of `BUSY` if they are asked for, those that can be anything but 0. Where there is no counter, what
    is mixed is what is by the power.
    """
    rows = found.rows
    there = {name: rows[name].null_count() < rows.height for name in NUMBERS}
    whole = {name: rows[name].null_count() == 0 for name in NUMBERS}
    base = rows.select(*NUMBERS, time=nanoseconds("time")).with_columns(found.series.alias(GROUP), found.first)
    base = base.with_columns(span=_span()).with_columns(span_s=pl.col("span") / NS)

    def integral(column: str) -> tuple[pl.Expr, pl.Expr]:
        gaps = np.rint(gaps_s(found, column, max_gap_s) * NS).astype(np.int64)
        same = gaps.size == 0 or (gaps == gaps[0]).all()
        gap = int(gaps[0]) if same and gaps.size else pl.lit(pl.Series(gaps)).gather(pl.col(GROUP)) if gaps.size else 0
        return _trapezoid_whole(column, gap) if whole[column] else trapezoid(column, gap)

    nothing = (pl.lit(0.0), pl.lit(0.0))
    power_j, power_s = integral("power_w") if there["power_w"] else nothing
    named = {"power_j": power_j, "power_s": power_s}
    counted = there["energy_j"]
    if counted:
        of_counter = _difference_whole if whole["energy_j"] else difference
        named["counter_j"], named["counter_s"] = of_counter("energy_j", MAX_COUNTER_GAP_S, POWER.high or 50_000.0)
    if busy and there["utilization_ratio"]:
        named["busy_s"], named["busy_covered_s"] = integral("utilization_ratio")
    kept = [GROUP, "first", "time", "span"]
    frame = base.lazy().select(*kept, *(value.alias(name) for name, value in named.items()))
    modelled = (rows["power_method"] == "modelled").fill_null(False).alias("modelled")
    if counted:
        by_counter = pl.col("counter_s") > 0
        both = by_counter & (pl.col("power_s") > 0)
        frame = frame.with_columns(
            by_counter=by_counter,
            mixed_j=pl.when(by_counter).then("counter_j").otherwise("power_j"),
            mixed_s=pl.when(by_counter).then("counter_s").otherwise("power_s"),
            both_counter_j=pl.when(both).then("counter_j").otherwise(0.0),
            both_power_j=pl.when(both).then("power_j").otherwise(0.0),
        ).drop("counter_s")
    if modelled.any():
        frame = frame.with_columns(modelled).with_columns(
            power_modelled_j=pl.when("modelled").then("power_j").otherwise(0.0),
            **({"mixed_modelled_j": pl.when("modelled").then("mixed_j").otherwise(0.0)} if counted else {}),
        )
    return frame.collect()


def tally(rows: pl.DataFrame, *, length_s: float, max_gap_s: float | None = None) -> pl.DataFrame:
    """
    The steps of `readings`, cut at the edges of windows, summed for each series and window: the columns of `TALLY`.

    A step that crosses an edge is shared by time.
    """
    return tally_of(ordered(rows), length_s=length_s, max_gap_s=max_gap_s)


def tally_of(found: Ordered, *, length_s: float, max_gap_s: float | None = None) -> pl.DataFrame:
    """`tally` of rows that are in order."""
    if found.rows.is_empty():
        return pl.DataFrame(schema=TALLY)
    length = round(length_s * NS)
    taken = steps(found, max_gap_s)
    amounts = [name for name in AMOUNTS if name in taken.columns]
    time, first = taken["time"].to_numpy(), taken["first"].to_numpy()
    span = taken["span"].fill_null(0).to_numpy()
    window = time // length
    # A step that ends on an edge belongs to the window before it.
    last = window - ((time == window * length) & ~first)
    crossing = np.flatnonzero(~first & (last != _before(window)))
    starts = np.flatnonzero(first | (last != _before(last)))
    share = (time[crossing] - last[crossing] * length) / span[crossing]
    cut = taken[crossing].with_columns(__last=pl.Series(last[crossing]), __first=pl.Series(window[crossing - 1]))
    # Where a step that crosses carries nothing (a gap of days), there is nothing to share.
    carries = cut.select(pl.any_horizontal(pl.col(name) > 0 for name in amounts)).to_series().to_numpy()
    cut = cut.with_columns(__row=pl.Series(crossing)).filter(carries)
    # Sums of runs, by numpy: rows of a series and a window are neighbours, so there is nothing to look up.
    ends = np.append(starts[1:], time.size)
    empty = np.zeros(time.size, bool)
    empty[crossing[~carries]] = True
    power = found.rows["power_w"].to_numpy()
    sums = {
        GROUP: found.series.to_numpy()[starts],
        "__last": last[starts],
        "__row": ends - 1,
        "power_min_w": np.fmin.reduceat(power, starts),
        "power_max_w": np.fmax.reduceat(power, starts),
    }
    for name in amounts:
        values = taken[name].to_numpy().copy()
        values[crossing] *= share
        sums[name] = np.add.reduceat(values, starts)
    whole = pl.DataFrame(sums, nan_to_null=True).filter(np.add.reduceat(~empty, starts) > 0)
    before = (
        cut.with_columns(__part=pl.int_ranges("__first", "__last"))
        .explode("__part", empty_as_null=False, keep_nulls=False)
        .with_columns(start=pl.max_horizontal(pl.col("time") - pl.col("span"), pl.col("__part") * length))
        .with_columns(share=((pl.col("__part") + 1) * length - pl.col("start")) / pl.col("span"))
        .select(
            GROUP,
            pl.col("__part").alias("__last"),
            "__row",
            *(pl.lit(None, pl.Float64).alias(name) for name in EXTREMES),
            *(pl.col(name) * pl.col("share") for name in amounts),
        )
    )
    sums_of = (
        pl.concat([whole, before.select(whole.columns)])
        .group_by(GROUP, "__last")
        .agg(
            pl.col("__row").max(),
            pl.col("power_min_w").min(),
            pl.col("power_max_w").max(),
            *(pl.col(name).sum() for name in amounts),
        )
    )
    return _described(found, sums_of, length, gaps_s(found, "power_w", max_gap_s))


def _before(values: np.ndarray) -> np.ndarray:
    """Each row's value of the row before; the first row's own."""
    return np.append(values[:1], values[:-1])


def _described(found: Ordered, sums: pl.DataFrame, length: int, gaps: np.ndarray) -> pl.DataFrame:
    """Sums by series and window in the columns of `TALLY`."""
    rows = sums["__row"]
    words = {name: found.rows[name].gather(rows) for name in KEYS}
    for name in TEXT[len(KEYS) :]:
        words[name] = _last_known(found, name).gather(rows)
    filled = dict.fromkeys(AMOUNTS, pl.lit(0.0)) | {"mixed_j": pl.col("power_j"), "mixed_s": pl.col("power_s")}
    if "power_modelled_j" in sums.columns:
        filled["mixed_modelled_j"] = pl.col("power_modelled_j")
    return sums.select(
        *words.values(),
        chunk=(pl.col("__last") * length).cast(pl.Datetime("ns")),
        max_gap_s=pl.lit(pl.Series(gaps)).gather(pl.col(GROUP)),
        **{name: pl.col(name) for name in EXTREMES},
        **{name: pl.col(name) if name in sums.columns else filled[name] for name in AMOUNTS},
    )


def _last_known(found: Ordered, name: str) -> pl.Series:
    """A word that a device says of itself, and what it last said where it does not."""
    column = found.rows[name]
    if column.null_count() in {0, column.len()}:
        return column
    read = pl.DataFrame({GROUP: found.series, name: column})
    return read.select(pl.col(name).forward_fill().over(GROUP)).to_series()
