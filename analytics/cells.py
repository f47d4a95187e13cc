"""
Cells: the steps of each series, cut at edges in time and summed between them, and the source that speaks for each hour.

Edges are those of windows and whatever else divides a device's time, such as the beginning and end of allocations. So
energy, windows and attribution come from one pass over the readings, and add up to each other.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.steps import JOULES, KEYS, NS, TEXT, Floats, Ints, Ordered, gaps_s, nanoseconds, steps
from collector.gaps import LONGEST_GAP_S, MAX_COUNTER_GAP_S

TRUST: Final = (0.1, 10.0)
"""A counter whose total over the integrated power lies outside is stuck or in a wrong unit: not used (Zeus' rule)."""
HOUR_S: Final = 3600.0
"""Sources of one device are chosen for each hour, so that a hand-over from one to another loses no more."""
IDLE_RATIO: Final = 0.01
"""A device is idle while no more of its time than this is in use."""
AMOUNTS: Final = ("energy_j", "covered_s", "counter_j", "modelled_j")
"""Joules and the seconds they account for; those that a counter measured; those that nobody measured."""
USE: Final = ("busy_s", "busy_covered_s", "idle_j", "idle_s", "idle_counter_j", "idle_modelled_j")
"""Utilisation integrated over time, the time for which that is known, and what of `AMOUNTS` was idle."""
EXTREMES: Final = ("power_min_w", "power_max_w")
"""Of the readings in a cell; one on an edge is of the cell before."""
CELLS: Final = pl.Schema(
    {
        **dict.fromkeys(TEXT, pl.String()),
        **dict.fromkeys(("begin", "time", "hour"), pl.Datetime("ns")),
        "readings": pl.Int64(),
        **dict.fromkeys(("max_gap_s", "agreement_ratio", *EXTREMES, *AMOUNTS, *USE), pl.Float64()),
    }
)

_BY: Final = {"energy_j": "j", "covered_s": "s", "modelled_j": "modelled_j"}
_SERIES: Final = "__series"
_KEYS: Final = 2**62


class Cells(NamedTuple):
    """
    The cells of the sources that speak for their devices.

    frame: `CELLS`; the rows of a device follow each other, by time; the time from begin to time lies between two
    neighbouring edges, and between the first and the last reading of the series. of_row: the row of frame that each
    reading begins or goes on in; -1 where there is none, or another source speaks.
    """

    frame: pl.DataFrame
    of_row: Ints


def cells(
    found: Ordered,
    *,
    lengths_s: Sequence[float] = (),
    edges: pl.DataFrame | None = None,
    max_gap_s: float | None = None,
    idle_ratio: float = IDLE_RATIO,
    use: bool = False,
    judge: bool = True,
    at_gaps: bool = False,
) -> Cells:
    """
    Sum the steps of readings between edges: of windows of each of *lengths_s*, of hours, and *edges* (device, edge).

    A step that crosses an edge is shared by time. `USE` is there if it is asked for: a step is idle if no more than
    *idle_ratio* of it is in use; where utilisation was not read it is not. Without *judge* there are the cells of all
    sources, with `analytics.steps.JOULES` in place of `AMOUNTS`, for `judged`. With *at_gaps* (and *judge*) no cell
    holds both steps with energy and steps without.
    """
    rows = found.rows
    if rows.is_empty():
        return Cells(pl.DataFrame(schema=CELLS), np.zeros(0, np.int64))
    gaps = gaps_s(found, "power_w", max_gap_s)
    amounts, agreement = steps(found, max_gap_s, busy=use), np.full(found.starts.size, np.nan)
    if judge:
        amounts = _judged(amounts, found, agreement, idle_ratio if use else None)
    elif "mixed_j" not in amounts:
        amounts |= {f"mixed_{name}": amounts[f"power_{name}"] for name in ("j", "s")}
    longest_s = max(MAX_COUNTER_GAP_S, LONGEST_GAP_S, max_gap_s or 0.0)
    own = own_edges(found.heads, edges)
    if at_gaps:
        more = _gaps(found, amounts["covered_s"] > 0)
        own = np.append(own[0], more[0]), np.append(own[1], more[1])
    cut = Cut.of(found, found.span > round(longest_s * NS), _lengths(lengths_s), own)
    kept, last_row, sums, of_row = cut.summed(amounts, found)
    of = cut.series[kept]
    begin = np.maximum(cut.time[kept], found.time[found.starts][of])
    end = np.minimum(cut.upper()[kept], found.time[found.ends][of])
    words = {name: rows[name].gather(last_row) for name in KEYS}
    words |= {name: _last_known(found, name).gather(last_row) for name in TEXT[len(KEYS) :]}
    names = (*(AMOUNTS if judge else JOULES), *(USE if use else ()))
    filled = {name: sums.get(name, np.zeros(kept.size)) for name in names}
    hour = cut.time[kept] // round(HOUR_S * NS) * round(HOUR_S * NS)
    frame = pl.DataFrame(
        {
            **words, "begin": begin, "time": end, "hour": hour, "max_gap_s": gaps[of], "agreement_ratio": agreement[of],
            "readings": sums["readings"].astype(np.int64), **{name: sums[name] for name in EXTREMES}, **filled,
            _SERIES: of,
        },
        nan_to_null=True,
    ).with_columns(pl.col("begin", "time", "hour").cast(pl.Datetime("ns")))  # fmt: skip
    return _of_best_sources(frame, found.heads, of_row) if judge else Cells(frame.drop(_SERIES), of_row)


def _lengths(lengths_s: Sequence[float]) -> list[int]:
    """The windows that cells are cut at: hours and those asked for, without those whose edges others have."""
    lengths = sorted({round(length_s * NS) for length_s in (HOUR_S, *lengths_s)})
    return [length for length in lengths if not any(length % other == 0 for other in lengths if other < length)]


def own_edges(heads: pl.DataFrame, edges: pl.DataFrame | None) -> tuple[Ints, Ints]:
    """The series and times of edges of devices."""
    if edges is None or edges.is_empty():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    known = heads.select("device", series=pl.int_range(pl.len(), dtype=pl.Int64))
    own = edges.select("device", edge=nanoseconds("edge")).drop_nulls().join(known, on="device")
    return own["series"].to_numpy(), own["edge"].to_numpy()


def _gaps(found: Ordered, covered: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The series and times at which steps without energy begin, and those with it again."""
    bare = ~covered & ~found.first
    begins = np.flatnonzero(bare & ~np.append(False, bare[:-1]))
    ends = np.flatnonzero(bare & ~np.append(bare[1:], False))
    of = np.append(begins, ends)
    return found.series[of], np.append((found.time - found.span)[begins], found.time[ends])


def _judged(there: dict[str, Floats], found: Ordered, agreement: Floats, idle_ratio: float | None) -> dict[str, Floats]:
    """The amounts of each step, by its series' counter where that is trusted, else by power; fills *agreement*."""
    amounts = {"energy_j": there["power_j"], "covered_s": there["power_s"]}
    if "power_modelled_j" in there:
        amounts["modelled_j"] = there["power_modelled_j"]
    if "counter_j" in there:
        counter, power = (np.add.reduceat(there[name], found.starts) for name in ("both_counter_j", "both_power_j"))
        np.divide(counter, power, out=agreement, where=power > 0)
        trusted = np.isnan(agreement) | ((agreement >= TRUST[0]) & (agreement <= TRUST[1]))
        by_counter = {"energy_j": "mixed_j", "covered_s": "mixed_s", "modelled_j": "mixed_modelled_j"}
        amounts = {name: there[by_counter[name]] for name in amounts} | {"counter_j": there["counter_j"]}
        if not trusted.all():
            of_row = trusted[found.series]
            by_power = {"energy_j": "power_j", "covered_s": "power_s", "modelled_j": "power_modelled_j"}
            amounts = {
                name: np.where(of_row, values, there[by_power[name]] if name in by_power else 0.0)
                for name, values in amounts.items()
            }
    if idle_ratio is not None and "busy_s" in there:
        busy, known = there["busy_s"], there["busy_covered_s"]
        amounts |= {"busy_s": busy, "busy_covered_s": known}
        idle = (known > 0) & (np.divide(busy, known, out=np.ones_like(busy), where=known > 0) <= idle_ratio)
        if idle.any():
            parts = (("idle_j", "energy_j"), ("idle_s", "covered_s"), ("idle_counter_j", "counter_j"),
                     ("idle_modelled_j", "modelled_j"))  # fmt: skip
            amounts |= {name: np.where(idle, amounts[whole], 0.0) for name, whole in parts if whole in amounts}
    return amounts


class Cut(NamedTuple):
    """
    Edges in time of series, in order; the first of a series is not after its first reading.

    series, time: of each edge. after: the number of the last edge not after each reading; end: of the last one before
    it, which is where the step to it ends; a first reading, also after a silence, has no step.
    """

    series: Ints
    time: Ints
    after: Ints
    end: Ints

    @staticmethod
    def of(found: Ordered, silent: NDArray[np.bool_], lengths: Sequence[int], own: tuple[Ints, Ints]) -> "Cut":
        """Edges of windows of *lengths* (ns) and *own* (series, time), anew after each row that is *silent*."""
        series, time, first = found.series, found.time, found.first
        # After a silence edges begin anew: those within it would divide nothing, and there may be years of them. But
        # that with which the window of its beginning ends is there, or what was before would be spread over it.
        starts = np.flatnonzero(first | silent)
        ends = np.append(starts[1:], time.size) - 1
        some = [own]
        for length in lengths:
            window = time[starts] // length
            count = time[ends] // length - window + 2
            number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            some.append((np.repeat(series[starts], count), (np.repeat(window, count) + number) * length))
        of, at = (np.concatenate(arrays) for arrays in zip(*some, strict=True))
        if own[0].size or len(lengths) > 1 or silent.any():
            order = np.lexsort((at, of))
            of, at = of[order], at[order]
        new = np.append(True, (of[1:] != of[:-1]) | (at[1:] != at[:-1]))
        of, at = of[new], at[new]
        place, hit = _places(series, time, of, at)
        # An edge at the time of a reading is before what follows the reading, and after the step that ends with it.
        after = np.cumsum(np.bincount(place, minlength=time.size + 1)[:-1]) - 1
        met = place[hit]
        met = met[~(first | silent)[met]]
        end = after.copy()
        end[met] -= 1
        return Cut(of, at, after, end)

    def upper(self) -> Ints:
        """Where the time after each edge ends."""
        last = np.append(self.series[1:] != self.series[:-1], True)
        return np.where(last, np.iinfo(np.int64).max, np.append(self.time[1:], 0))

    def summed(
        self,
        amounts: dict[str, Floats],
        found: Ordered,
    ) -> tuple[Ints, Ints, dict[str, Floats], Ints]:
        """The edges after which there is something; of each the last reading and sums; each reading's place in them."""
        time, span = found.time, found.span
        begin = np.append(self.after[:1], self.after[:-1])
        begin[found.starts] = self.end[found.starts]
        crossing = np.flatnonzero(begin != self.end)
        carries = np.zeros(crossing.size, bool)
        for values in amounts.values():
            carries |= values[crossing] > 0
        # Rows of a series between two edges are neighbours, so there is nothing to look up.
        starts = np.flatnonzero(np.append(True, self.end[1:] != self.end[:-1]))
        run = self.end[starts]
        there = np.zeros(self.time.size, bool)
        there[run] = True
        last_row = np.zeros(self.time.size, np.int64)
        last_row[run] = np.append(starts[1:], time.size) - 1
        # A step that crosses edges is in its last cell by its row, and here in those before, unless it carries nothing.
        crossed = crossing[carries]
        parts = (self.end - begin)[crossed]
        row = np.repeat(crossed, parts)
        edge = np.repeat(begin[crossed], parts) + np.arange(row.size) - np.repeat(np.cumsum(parts) - parts, parts)
        share = (self.time[edge + 1] - np.maximum(time[row] - span[row], self.time[edge])) / span[row]
        there[edge] = True
        np.maximum.at(last_row, edge, row)
        last = (time[crossing] - self.time[self.end[crossing]]) / np.maximum(span[crossing], 1)
        sums: dict[str, Floats] = {}
        for name, values in amounts.items():
            own = values
            if crossing.size:
                own = values.copy()
                own[crossing] *= last
            sums[name] = np.zeros(self.time.size)
            sums[name][run] = np.add.reduceat(own, starts)
            np.add.at(sums[name], edge, values[row] * share)
        sums["readings"] = np.zeros(self.time.size)
        sums["readings"][run] = np.diff(np.append(starts, time.size))
        for name, extreme in zip(EXTREMES, (np.fmin, np.fmax), strict=True):
            sums[name] = np.full(self.time.size, np.nan)
            sums[name][run] = extreme.reduceat(found.values("power_w"), starts)
        kept = np.flatnonzero(there)
        number = np.full(self.time.size, -1)
        number[kept] = np.arange(kept.size)
        return kept, last_row[kept], {name: total[kept] for name, total in sums.items()}, number[self.after]


def _places(series: Ints, time: Ints, of: Ints, at: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """For each edge the first row of its series not before it (or what follows the series), and whether they meet."""
    base = int(time.min())
    width = int(time.max()) - base + 2
    at = np.clip(at - base, 0, width - 1)
    # Series and time in one number; as many series at once as fit.
    together = max(1, _KEYS // width)
    if int(series[-1]) < together:
        row_key, edge_key = series * width + (time - base), of * width + at
        place = np.searchsorted(row_key, edge_key)
        return place, np.append(row_key, -1)[place] == edge_key
    places, hits = [], []
    for low in range(0, int(series[-1]) + 1, together):
        a, b = np.searchsorted(series, (low, low + together))
        c, d = np.searchsorted(of, (low, low + together))
        place, hit = _places(series[a:b] - low, time[a:b], of[c:d] - low, at[c:d] + base)
        places.append(place + a)
        hits.append(hit)
    return np.concatenate(places), np.concatenate(hits)


def _last_known(found: Ordered, name: str) -> pl.Series:
    """A word that a device says of itself, and what it last said where it does not."""
    column = found.rows[name]
    if column.null_count() in {0, column.len()}:
        return column
    read = pl.DataFrame({_SERIES: found.series, name: column})
    return read.select(pl.col(name).forward_fill().over(_SERIES)).to_series()


def judged(sums: pl.LazyFrame) -> pl.LazyFrame:
    """
    Cells of the sources that speak for their devices.

    In:  cells of all sources (see `cells` without *judge*), whatever lengths of time they are of, none across an hour.
    Out: the columns of `CELLS` without `USE`, the rows of a device by time.
    """
    something = (pl.col("readings") > 0) | (pl.col("covered_s") > 0)
    agreement = sums.group_by("device", "source").agg(
        agreement_ratio=pl.when(pl.col("both_power_j").sum() > 0).then(
            pl.col("both_counter_j").sum() / pl.col("both_power_j").sum()
        )
    )
    trusted = pl.col("agreement_ratio").is_between(*TRUST).fill_null(True)
    chosen = {name: pl.when(trusted).then(f"mixed_{short}").otherwise(f"power_{short}") for name, short in _BY.items()}
    told = (
        sums.drop("agreement_ratio", strict=False)
        .join(agreement, on=["device", "source"], how="left", nulls_equal=True)
        .with_columns(**chosen, counter_j=pl.when(trusted).then("counter_j").otherwise(0.0))
        # Where only a counter that is not trusted went on there is nothing.
        .filter(something)
        .collect()
    )
    best = best_hours(told)
    keys = ["device", "source", "hour"]
    return told.lazy().join(best.lazy(), on=keys, how="semi", nulls_equal=True).sort("device", "begin").select(
        name for name in CELLS if name not in USE
    )  # fmt: skip


def best_hours(frame: pl.DataFrame, *more: pl.Expr) -> pl.DataFrame:
    """
    One source for each device and hour.

    In:  device, source, hour, covered_s, counter_j, power_method. Out: device, source, hour, and *more* of each.

    A source that covers less than nine tenths of what the best one does is out; among the others measured goes before
    modelled, a counter before power, more coverage before less, and then the name decides.
    """
    return (
        frame.group_by("device", "source", "hour")
        .agg(pl.col("covered_s", "counter_j").sum(), pl.col("power_method").drop_nulls().last(), *more)
        .with_columns(enough=pl.col("covered_s") >= 0.9 * pl.col("covered_s").max().over("device", "hour"))
        .sort(
            "device", "hour", "enough", pl.col("power_method").ne_missing("modelled"), pl.col("counter_j") > 0,
            pl.col("covered_s").round(3), "source",
            descending=[False, False, True, True, True, True, False],
        )
        .unique(["device", "hour"], keep="first", maintain_order=True)
        .drop("covered_s", "counter_j", "power_method", "enough")
    )  # fmt: skip


def _of_best_sources(frame: pl.DataFrame, heads: pl.DataFrame, of_row: Ints) -> Cells:
    """The cells of one source for each device and hour."""
    if heads["device"].n_unique() == heads.height:
        return Cells(frame.drop(_SERIES), of_row)
    hours = best_hours(frame.with_row_index("row"), pl.col("row"))
    chosen = frame.with_row_index("row").join(hours.explode("row"), on="row", how="semi").sort("device", "begin")
    number = np.full(frame.height + 1, -1)
    number[chosen["row"].to_numpy()] = np.arange(chosen.height)
    return Cells(chosen.drop(_SERIES, "row"), number[of_row])
