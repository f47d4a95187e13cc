"""
Equal load: which windows of two states can be compared at all, and what load does within them taken out.

Rows are windows with `__state` (whether it is the second one), `__cell` (what is compared within), `__unit` (a group of
devices), `__cluster` (what units share their fate with) and `__y` (the measure; its logarithm where effects are
ratios).
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.effects import estimate as est
from analytics.effects.estimate import Floats, Numbers, Panel
from analytics.intervals import SIGMAS

STRATA: Final = 10
"""Strata of load, of equally many windows each."""
FEWEST: Final = 3
"""Windows that both states need in a stratum."""
UTILIZATION_STRATA: Final = (0.1, 0.5, 0.9)
"""Edges of the strata of work that nobody asks for by the request: waiting, half busy, busy."""
KNOTS: Final = (0.25, 0.5, 0.75)
"""Quantiles of load at which the line through it breaks."""
BLOCK_S: Final = 3600.0
"""Blocks of time, as long as there are so many:"""
BLOCKS: Final = 48

Bools = NDArray[np.bool_]
Load = Literal["auto", "none"]
Design = Literal["against those that stayed", "before and after", "side by side", "nothing to compare"]


def matched(work: pl.DataFrame, of: pl.Series | None, load: Load, fewest: int = FEWEST) -> pl.DataFrame:
    """
    The windows at loads that both states have seen (in strata of their cell), with their `__stratum`.

    *of* says of which rows both states must have some (*fewest*), else of all.
    """
    asked = work.select(pl.col("asked").any().over("__cell") & pl.lit(load == "auto")).to_series()
    rank = pl.col("load").rank("average").over("__cell") / pl.len().over("__cell")
    by_load = (rank * STRATA).ceil().cast(pl.Int32)
    busy = pl.sum_horizontal(
        (pl.col("utilization_ratio") > edge).fill_null(False).cast(pl.Int32) for edge in UTILIZATION_STRATA
    )
    stratum = pl.when(asked & pl.col("load").is_not_null()).then(by_load).otherwise(-1 - busy)
    if load == "none":
        stratum = pl.lit(0, pl.Int32)
    rows = work.with_columns(__stratum=stratum, __of=pl.lit(True) if of is None else of, __asked=asked)
    mine = pl.col("__state").filter("__of")
    share = mine.sum().clip(0), mine.len() - mine.sum()
    enough = pl.min_horizontal(*share).over("__cell", "__stratum") >= fewest
    return rows.filter(enough)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """
    The measure at equal load, and what is not certain about that.

    `place` is the group and block of each row as one number, `shape` how many there are of both; `cell` and `cluster`
    are of the groups.
    """

    state: Bools
    value: Floats
    basis: Floats
    covariance: Floats
    place: Numbers
    shape: tuple[int, int]
    cell: Numbers
    cluster: Numbers

    @staticmethod
    def of(rows: pl.DataFrame, load: Load) -> "Adjusted":
        """Take out what load, mix and utilisation do within groups and states."""
        time_s = rows["window"].to_physical().to_numpy() / 1e9
        # Finer blocks of a short time would take its slow moves for a trend.
        length_s = min(BLOCK_S, max(1.0, float(np.ptp(time_s)) / BLOCKS))
        blocks, block = np.unique(time_s // length_s, return_inverse=True)
        y, state = rows["__y"].to_numpy(), rows["__state"].to_numpy()
        units, first, unit = np.unique(rows["__unit"].to_numpy(), return_index=True, return_inverse=True)
        basis = _basis(rows) if load == "auto" else np.zeros((y.size, 0))
        group = np.unique(unit * 2 + state, return_inverse=True)[1].astype(np.int64)
        days, day = np.unique(time_s // 86_400, return_inverse=True)
        slope, covariance = _slopes(y, basis, group, group * days.size + day)
        return Adjusted(
            state,
            y - basis @ slope,
            basis,
            covariance,
            unit * blocks.size + block,
            (units.size, blocks.size),
            rows["__cell"].to_numpy()[first],
            rows["__cluster"].to_numpy()[first],
        )

    def panel(self, values: Floats) -> Panel:
        """Groups by blocks of *values*."""
        means, counts = [], []
        for of in (False, True):
            mine, size = self.state == of, self.shape[0] * self.shape[1]
            count = np.bincount(self.place[mine], minlength=size).astype(np.float64)
            total = np.bincount(self.place[mine], weights=values[mine], minlength=size)
            counts.append(count.reshape(self.shape))
            means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(self.shape))
        return Panel((means[0], means[1]), (counts[0], counts[1]), self.cell, self.cluster)

    def uncertainty(self, design: Design) -> float:
        """
        Half the interval that comes of the slopes: what load moved between the states, times how sure its slope is.

        All groups are adjusted by the same slopes, so that how groups differ does not show it.
        """
        if not self.basis.shape[1]:
            return 0.0
        moves = []
        for column in self.basis.T:
            panel = self.panel(column)
            if design == "side by side":
                right, left = panel.parted(np.asarray((panel.count[1] > 0).any(axis=1)))
                apart = est.side_by_side(left, right)
            else:
                changed, stayed = panel.parted(panel.switched)
                apart = est.moved(changed)[:, None] if design == "before and after" else est.contrasts(changed, stayed)
            moves.append(float(np.nanmean(apart)))
        moved = np.array(moves)
        return SIGMAS * float(np.sqrt(max(0.0, moved @ self.covariance @ moved)))


def _basis(rows: pl.DataFrame) -> Floats:
    """
    What explains the measure besides the state: by cell a broken line through log load and the log of the mix where
    work is asked for, strata of utilisation where it is not.

    Each state has its own line, since a change may do more at one load than at another, and lines are read half-way
    between the means of both states: the effect is that at the loads of both.
    """
    cell, asked = rows["__cell"].to_numpy(), rows["__asked"].to_numpy()
    load = np.log(rows["load"].fill_null(float("nan")).to_numpy())
    mix = np.log(rows["mix"].fill_null(float("nan")).to_numpy())
    stratum, state, of = (rows[name].to_numpy() for name in ("__stratum", "__state", "__of"))
    columns = []
    for one in np.unique(cell):
        mine = cell == one
        served = mine & asked & np.isfinite(load)
        lines = []
        if served.any():
            x = load[served]
            lines += [_placed(part, served) for part in (x, *(np.maximum(x - k, 0.0) for k in np.quantile(x, KNOTS)))]
            told = served & np.isfinite(mix)
            if told.sum() == served.sum() and np.ptp(mix[served]) > 0:
                lines.append(_placed(mix[served], served))
        levels = np.unique(stratum[mine & ~served])
        lines += [(mine & ~served & (stratum == level)).astype(np.float64) for level in levels[1:]]
        sides = [mine & of & (state == side) for side in (False, True)]
        for line in lines:
            middle = 0.5 * sum(float(line[side].mean()) for side in sides)
            columns += [np.where(mine & (state == side), line - middle, 0.0) for side in (False, True)]
    return np.stack(columns, axis=1) if columns else np.zeros((cell.size, 0))


def _placed(values: Floats, rows: Bools) -> Floats:
    column = np.zeros(rows.size)
    column[rows] = values
    return column


def _slopes(y: Floats, basis: Floats, group: Numbers, cluster: Numbers) -> tuple[Floats, Floats]:
    """Least squares within groups, and the covariance of the slopes with clusters (of a group, a state and a day)."""
    count = basis.shape[1]
    if not count:
        return np.zeros(0), np.zeros((0, 0))
    size = np.bincount(group)

    def within(values: Floats) -> Floats:
        return values - (np.bincount(group, weights=values) / size)[group]

    x = np.stack([within(column) for column in basis.T], axis=1)
    target = within(y)
    # Scaled, so that what has no variation within groups is told by its rank.
    inverse = np.linalg.pinv(x.T @ x, rcond=1e-10, hermitian=True)
    slope = inverse @ (x.T @ target)
    scores = x * (target - x @ slope)[:, None]
    sums = np.stack([np.bincount(cluster, weights=column) for column in scores.T], axis=1)
    clusters = int((np.bincount(cluster) > 0).sum())
    spread = sums.T @ sums * (clusters / max(clusters - 1, 1))
    return slope, inverse @ spread @ inverse
