"""
The statistics of a comparison: how far apart two states of device groups are, and the interval of it.

A measure is given as panels: a row for each group of devices, a column for each block of time, nan where nothing was
measured. Neighbouring windows of one group are alike, so a thousand of them are not a thousand observations. Intervals
therefore come from one of two places:

* from groups: each group is collapsed to one number, its state after less its state before, less the same of the
  groups that stayed as they were over the same blocks (Bertrand, Duflo and Mullainathan 2004); groups are independent
  of each other, so Student's t over those numbers holds however long the memory within a group is. Where only one or
  two groups changed, how much groups differ is learnt from those that stayed (Conley and Taber 2011).
* from time, where there are too few groups: the long-run variance of the mean, from its slowest cosines (Lazarus,
  Lewis, Stock and Watson 2018), which widens by itself where values have a long memory.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

LEVEL: Final = 0.95
FEWEST_FREE: Final = 3.0
"""Degrees of freedom that an interval from groups needs: with fewer its t is a guess about the guess."""
FEWEST_BLOCKS: Final = 6
"""Blocks of time before and after that an interval from time needs."""
_COSINES: Final = 0.3
_COSINE_POWER: Final = 2.0 / 3.0

Basis = Literal["groups", "time"]


@dataclass(frozen=True, slots=True)
class Panel:
    """
    Groups by blocks in two states: the mean of the measure in each (nan where there is none) and how many windows.

    `cell` is what a group is compared within (a workload on a SKU, say) and `cluster` what it shares its fate with
    (its hosts). A group that has blocks in both states switched; the others stayed.
    """

    mean: tuple[Floats, Floats]
    count: tuple[Floats, Floats]
    cell: Numbers
    cluster: Numbers

    @property
    def switched(self) -> NDArray[np.bool_]:
        """Which groups have blocks in both states."""
        return np.asarray((self.count[0] > 0).any(axis=1) & (self.count[1] > 0).any(axis=1))

    def parted(self, rows: NDArray[np.bool_]) -> tuple["Panel", "Panel"]:
        """Some of the groups, and the others."""
        return self.only(rows), self.only(np.logical_not(rows))

    def only(self, rows: NDArray[np.bool_]) -> "Panel":
        """Some of the groups."""
        first, second = self.mean
        few, many = self.count
        return Panel((first[rows], second[rows]), (few[rows], many[rows]), self.cell[rows], self.cluster[rows])


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    A difference and half its 95 % interval, in the measure's own scale (logarithms where effects are ratios).

    `half` is inf where there is too little to tell. `changed` and `stayed` count the clusters on either side.
    """

    value: float
    half: float
    basis: Basis
    changed: int
    stayed: int
    free: float


def half_of(variance: float, free: float) -> float:
    """Half the 95 % interval of a mean with this variance and these degrees of freedom."""
    if not np.isfinite(variance) or free <= 0:
        return float("inf")
    return float(stdtrit(free, 0.5 + LEVEL / 2) * np.sqrt(max(variance, 0.0)))


def long_run(values: Floats) -> tuple[float, float]:
    """
    The variance of the sum of a series about its mean, memory included, and its degrees of freedom.

    The mean square of the coefficients on the slowest cosines, which are orthogonal to the mean. Too short: inf and 0.
    """
    size = values.size
    if size < FEWEST_BLOCKS:
        return float("inf"), 0.0
    cosines = int(np.clip(round(_COSINES * size**_COSINE_POWER), 2, size // 2))
    at = (np.arange(size) + 0.5) / size
    waves = np.sqrt(2.0 / size) * np.cos(np.pi * np.arange(1, cosines + 1)[:, None] * at[None, :])
    return float(size * np.mean((waves @ (values - values.mean())) ** 2)), float(cosines)


# ------------------------------------------------------------------------------------------------------ over groups


def contrasts(changed: Panel, stayed: Panel) -> Floats:
    """
    Each group that changed beside each that stayed: after less before of their difference, over blocks both have.

    Out: changed x stayed; nan where they have no block in common in one of the states, or are of different cells.
    """
    level, there = together(stayed)
    seen = there.astype(np.float64)
    base = np.where(there, level, 0.0)
    sums = []
    for mean, count in zip(changed.mean, changed.count, strict=True):
        weight = np.where(np.isnan(mean), 0.0, count)
        total = weight @ seen.T
        with np.errstate(invalid="ignore", divide="ignore"):
            sums.append(
                ((np.nan_to_num(mean) * weight) @ seen.T - weight @ base.T) / np.where(total > 0, total, np.nan)
            )
    apart: Floats = sums[1] - sums[0]
    apart[changed.cell[:, None] != stayed.cell[None, :]] = np.nan
    return apart


def side_by_side(left: Panel, right: Panel) -> Floats:
    """Each group of *right* less each of *left*, over the blocks that both have, within a cell; nan where none."""
    (one, one_there), (other, other_there) = together(left), together(right)
    both = other_there.astype(np.float64) @ one_there.T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart: Floats = (
            np.where(other_there, other, 0.0) @ one_there.T.astype(np.float64)
            - other_there.astype(np.float64) @ np.where(one_there, one, 0.0).T
        ) / np.where(both > 0, both, np.nan)
    apart[right.cell[:, None] != left.cell[None, :]] = np.nan
    return apart


def together(panel: Panel) -> tuple[Floats, NDArray[np.bool_]]:
    """The measure of each group and block whatever its state, and where there is one."""
    weight = [np.where(np.isnan(mean), 0.0, count) for mean, count in zip(panel.mean, panel.count, strict=True)]
    total = weight[0] + weight[1]
    there = total > 0
    summed = sum(np.nan_to_num(mean) * w for mean, w in zip(panel.mean, weight, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(summed / np.where(there, total, np.nan)), there


def over_groups(apart: Floats, changed: Panel, stayed: Panel) -> Estimate:
    """
    The mean contrast with its interval over clusters of groups.

    In:  apart: changed x stayed, see `contrasts` and `side_by_side`.

    Groups of a cluster count as one. Within each cell rows tell how clusters that changed differ, columns how those
    that stayed do; the spread is pooled over cells. With three or more on either side each has its own (Welch), else
    both have one in common.
    """
    sides: list[list[tuple[Floats, float]]] = [[], []]
    value = 0.0
    blocks = []
    for cell in np.unique(changed.cell):
        rows, columns = changed.cell == cell, stayed.cell == cell
        block = merged(apart[np.ix_(rows, columns)], changed.cluster[rows])
        block = merged(block.T, stayed.cluster[columns]).T if columns.any() else block
        there = np.isfinite(block)
        block = block[there.any(axis=1)][:, there.any(axis=0)]
        if block.size:
            blocks.append(block)
    whole = sum(block.shape[0] for block in blocks)
    for block in blocks:
        weight = block.shape[0] / whole
        of_changed, of_stayed = _nanmean(block.T), _nanmean(block)
        value += weight * float(of_changed.mean())
        sides[0].append((of_changed - of_changed.mean(), weight))
        sides[1].append((of_stayed - of_stayed.mean(), weight))
    counts = [sum(numbers.size for numbers, _ in side) for side in sides]
    frees = [sum(numbers.size - 1 for numbers, _ in side) for side in sides]
    spreads = [sum(float((numbers**2).sum()) for numbers, _ in side) for side in sides]
    shares = [sum(weight**2 / numbers.size for numbers, weight in side) for side in sides]
    if min(frees) >= 2:
        parts = [spread / free * share for spread, free, share in zip(spreads, frees, shares, strict=True)]
        variance = sum(parts)
        free = variance**2 / sum(p**2 / f for p, f in zip(parts, frees, strict=True)) if variance else float(sum(frees))
    else:
        free = float(sum(frees))
        variance = sum(spreads) / free * sum(shares) if free else float("inf")
    return Estimate(value, half_of(variance, free), "groups", counts[0], counts[1], free)


def of_groups(moved: Floats, clusters: Numbers) -> Estimate:
    """The mean of what each group did by itself, with its interval over clusters: nothing to hold it against."""
    numbers = merged(moved[:, None], clusters)[:, 0]
    free = float(numbers.size - 1)
    variance = float(numbers.var(ddof=1)) / numbers.size if free else float("inf")
    return Estimate(float(numbers.mean()), half_of(variance, free), "groups", numbers.size, 0, free)


def moved(panel: Panel) -> Floats:
    """Each group's own after less before."""
    ends = []
    for mean, count in zip(panel.mean, panel.count, strict=True):
        weight = np.where(np.isnan(mean), 0.0, count)
        ends.append((np.nan_to_num(mean) * weight).sum(axis=1) / weight.sum(axis=1))
    apart: Floats = ends[1] - ends[0]
    return apart


def merged(rows: Floats, clusters: Numbers) -> Floats:
    """Rows of one cluster as their mean."""
    with np.errstate(invalid="ignore"):
        found = [_nanmean(rows[clusters == cluster]) for cluster in np.unique(clusters)]
    return np.stack(found) if found else rows


def _nanmean(rows: Floats) -> Floats:
    there = np.isfinite(rows)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, rows, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


# -------------------------------------------------------------------------------------------------------- over time


def over_time(changed: Panel, stayed: Panel) -> Estimate:
    """
    The mean of the groups' own after less before, with its interval from how the groups' mean moves over time.

    Where there are groups that stayed, their mean movement is taken off first. How groups differ from each other is
    not in this interval.
    """
    moves = _movement(stayed, changed) if stayed.cell.size else np.zeros(changed.mean[0].shape)
    size = changed.cell.size
    value, variance, parts = 0.0, 0.0, []
    for sign, mean, count in zip((-1.0, 1.0), changed.mean, changed.count, strict=True):
        own = mean - moves
        weight = np.where(np.isnan(own), 0.0, count)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        centre = (np.nan_to_num(own) * weight).sum(axis=1, keepdims=True)
        value += sign * float(centre.mean())
        pull = (np.nan_to_num(own - centre) * weight).sum(axis=0) / size
        some, free = long_run(pull[(weight > 0).any(axis=0)])
        variance += some
        parts.append((some, free))
    free = variance**2 / sum(v**2 / f for v, f in parts if f) if variance and all(f for _, f in parts) else 0.0
    if variance == 0.0 and all(f for _, f in parts):
        free = sum(f for _, f in parts)
    clusters = np.unique(changed.cluster).size
    return Estimate(value, half_of(variance, free), "time", clusters, np.unique(stayed.cluster).size, free)


def apart_over_time(left: Panel, right: Panel) -> Estimate:
    """How far the mean of *right* is from that of *left*, block by block, with its interval over time."""
    both = []
    for panel in (left, right):
        level, there = together(panel)
        both.append(_nanmean(np.where(there, level, np.nan)))
    series = both[1] - both[0]
    series = series[np.isfinite(series)]
    size = series.size
    some, free = long_run(series / size) if size else (float("inf"), 0.0)
    clusters = [np.unique(panel.cluster).size for panel in (right, left)]
    value = float(series.mean()) if size else float("nan")
    return Estimate(value, half_of(some, free), "time", clusters[0], clusters[1], free)


def _movement(stayed: Panel, changed: Panel) -> Floats:
    """How the groups that stayed moved in each block, for each group that changed by its cell; nan where none was."""
    level, there = together(stayed)
    swing = level - _nanmean(level.T)[:, None]
    found = np.full(changed.mean[0].shape, np.nan)
    for cell in np.unique(changed.cell):
        rows = stayed.cell == cell
        if rows.any():
            found[changed.cell == cell] = _nanmean(np.where(there, swing, np.nan)[rows])
    return found


def time_apart(panel: Panel) -> float:
    """How many blocks the middles of both states are apart."""
    at = np.arange(panel.count[0].shape[1])
    before, after = (float((count.sum(axis=0) * at).sum() / count.sum()) for count in panel.count)
    return abs(after - before)


def halves(panel: Panel) -> Panel:
    """What the groups did before, as if it had changed half-way: the earlier half beside the later one."""
    mean, count = panel.mean[0], panel.count[0]
    there = (count > 0) & ~np.isnan(mean)
    order = np.cumsum(there, axis=1)
    late = there & (order > order[:, -1:] / 2)
    early = there & ~late

    def part(rows: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        return np.where(rows, mean, np.nan), np.where(rows, count, 0.0)

    (first, few), (second, many) = part(early), part(late)
    return Panel((first, second), (few, many), panel.cell, panel.cluster)
