"""
What workloads did: counters of tokens, samples, steps and requests, differenced series by series.

A series is what one source counts of one workload. As in `analytics.steps`, its rows are in order and it is a number.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from analytics.steps import NS, Floats, Ints, Ordered, ordered, risen
from collector.catalogue import REQUESTS, SAMPLES, STEPS, TOKENS_IN, TOKENS_OUT
from collector.gaps import MAX_COUNTER_GAP_S

WORK: Final = (TOKENS_OUT.column, TOKENS_IN.column, SAMPLES.column, STEPS.column, REQUESTS.column)
"""The counters of work done that are differenced for each workload."""

_WORDS: Final = ("workload", "source", "model")
_OPEN_NS: Final = 2**62


def counters(workload_samples: pl.LazyFrame, more: Sequence[str] = ()) -> pl.LazyFrame:
    """Workload, source, model, time, `WORK` and *more*, with nulls for what the frame lacks."""
    known, names = workload_samples.collect_schema().names(), (*WORK, *more)
    absent = [pl.lit(None, pl.String).alias(name) for name in _WORDS if name not in known]
    absent += [pl.lit(None, pl.Float64).alias(name) for name in names if name not in known]
    numbers = (pl.col(name).cast(pl.Float64) for name in names)
    return workload_samples.with_columns(absent).select(*_WORDS, pl.col("time").cast(pl.Datetime("ns")), *numbers)


def work_of(
    workload_samples: pl.LazyFrame,
    window_s: float | None,
    *,
    more: Sequence[str] = (),
    within: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    What each workload did, by its best source.

    *within* (workload, start, end) bounds the time of those that it names; what crosses an edge is shared by time.

    Out: workload, window (of *window_s*, if that is given), work_s (how long one of the counters of `WORK` was known),
         the rise of those counters and of *more*, null where not read.
    """
    names = (*WORK, *more)
    window = {} if window_s is None else {"window": pl.Datetime("ns")}
    amounts = dict.fromkeys((*names, *(f"{name}_s" for name in names)), pl.Float64())
    group = ["workload", *window]
    sums = counters(workload_samples, more).map_batches(
        partial(_sums, names=names, window_s=window_s, within=within),
        schema=pl.Schema({"workload": pl.String(), "source": pl.String(), **window, **amounts}),
        predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False,
    )  # fmt: skip
    return (
        sums.with_columns(work_s=pl.max_horizontal(f"{name}_s" for name in WORK))
        .sort([*group, "work_s", "source"], descending=[*(False for _ in group), True, False])
        .unique(group, keep="first", maintain_order=True)
        .select(*group, "work_s", *(pl.when(pl.col(f"{name}_s") > 0).then(name).alias(name) for name in names))
    )


def _sums(
    rows: pl.DataFrame, *, names: Sequence[str], window_s: float | None, within: pl.LazyFrame | None
) -> pl.DataFrame:
    """The rise of each counter, and the seconds for which it was known, of each series (and window)."""
    found = ordered(rows.rename({"workload": "device"}))
    steps = _Steps.of(found, within)
    length = None if window_s is None else round(window_s * NS)
    first, last = steps.windows(length)
    starts = np.flatnonzero(np.append(True, (first[1:] != first[:-1]) | found.first[1:]))[: first.size]
    crossing = np.flatnonzero(first != last)
    # What lasts longer carries nothing, and may be years.
    cut = crossing[found.span[crossing] <= round(MAX_COUNTER_GAP_S * NS)]
    carries, whole, shared = np.zeros(cut.size, bool), dict[str, Floats](), dict[str, Floats]()
    for name in names:
        if found.rows[name].null_count() == found.rows.height:
            continue
        for kind, values in zip((name, f"{name}_s"), risen(found, name), strict=True):
            values[steps.shorter] *= steps.share
            shared[kind] = values[cut]
            carries |= shared[kind] > 0
            values[crossing] = 0.0
            whole[kind] = np.add.reduceat(values, starts)
    held = np.ones(found.rows.height, bool)
    held[crossing] = False
    runs = np.flatnonzero(np.add.reduceat(held, starts))
    of, window, share = steps.parts(cut[carries], first, last, length)
    place, series, moment = _places(
        np.append(found.series[starts[runs]], found.series[cut[carries]][of]), np.append(first[starts[runs]], window)
    )
    sums = dict[str, Floats]()
    for kind in (f"{name}{end}" for end in ("", "_s") for name in names):
        sums[kind] = np.zeros(series.size)
        if kind in whole:
            parts = np.append(whole[kind][runs], shared[kind][carries][of] * share)
            np.add.at(sums[kind], place, parts)
    of_window = {} if length is None else {"window": pl.Series(moment * length).cast(pl.Datetime("ns"))}
    heads = found.heads.rename({"device": "workload"})
    return heads[series].with_columns(**of_window, **{name: pl.Series(values) for name, values in sums.items()})


class _Steps(NamedTuple):
    """
    From when until when each row brought something: since the row before of its series, and within bounds.

    shorter, share: the steps of which a part is out of bounds, and the share that is not.
    """

    begin: Ints
    time: Ints
    shorter: Ints
    share: Floats

    @staticmethod
    def of(found: Ordered, within: pl.LazyFrame | None) -> "_Steps":
        """The steps of *found* within the bounds of their workloads (workload, start, end)."""
        begin, time = found.time - found.span, found.time
        if within is None:
            return _Steps(begin, time, np.zeros(0, np.int64), np.zeros(0))
        bounds = found.heads.lazy().join(
            within, left_on="device", right_on="workload", how="left", maintain_order="left"
        ).select(
            pl.col("start").to_physical().fill_null(-_OPEN_NS), pl.col("end").to_physical().fill_null(_OPEN_NS)
        ).collect()  # fmt: skip
        low = np.maximum(begin, bounds["start"].to_numpy()[found.series])
        high = np.minimum(time, bounds["end"].to_numpy()[found.series])
        shorter = np.flatnonzero((low > begin) | (high < time))
        share = np.maximum(high - low, 0)[shorter] / np.maximum(found.span[shorter], 1)
        # What is wholly outside stays where it was, without anything in it.
        inside = low < high
        return _Steps(np.where(inside, low, begin), np.where(inside, high, time), shorter, share)

    def windows(self, length: int | None) -> tuple[Ints, Ints]:
        """The numbers of the first and the last window of *length* ns that each step is in."""
        if length is None:
            return np.zeros_like(self.begin), np.zeros_like(self.begin)
        first = self.begin // length
        # A step that ends on an edge belongs to the window before it.
        return first, np.maximum((self.time - 1) // length, first)

    def parts(self, rows: Ints, first: Ints, last: Ints, length: int | None) -> tuple[Ints, Ints, Floats]:
        """Steps cut at the edges of their windows: of each part the place in *rows*, the window, and the share."""
        if length is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        count = (last - first)[rows] + 1
        of = np.repeat(np.arange(rows.size), count)
        row = rows[of]
        window = first[row] + np.arange(of.size) - np.repeat(np.cumsum(count) - count, count)
        begin, time = self.begin[row], self.time[row]
        inside = np.minimum(time, (window + 1) * length) - np.maximum(begin, window * length)
        return of, window, inside / (time - begin)


def _places(series: Ints, window: Ints) -> tuple[Ints, Ints, Ints]:
    """A number for each pair of series and window that there is, and which they are."""
    base = int(window.min(initial=0))
    width = int(window.max(initial=0)) - base + 1
    pairs, place = np.unique(series * width + (window - base), return_inverse=True)
    return place, pairs // width, pairs % width + base
