"""
Odd stretches of any recording, without knowing what it is of: unusual level, unusual shape, or both.

Columns are standardised and decorrelated, since what moves together says one thing. A window is odd by its energy (how
far its values are from usual, as sub-sequence PCA measures it for the most part) and by its distance to the nearest of
some patterns found by k-means (as KMeansAD does): level finds what was never seen, shape finds what is in range and yet
never so. A row's score is the mean over the windows that it is in. Window, patterns and shrinkage were chosen on
recordings other than those of the benchmark.
"""

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from collector.errors import NotEnoughData

Floats = NDArray[np.float64]

NUMBERS: Final = 128
"""How many values of one column a window has; many columns say as much in fewer rows."""
LEAST_WINDOW: Final = 10
LEAST_WINDOWS: Final = 8
PATTERNS: Final = 10
SHRINKAGE: Final = 0.01
"""Of the mean variance, added to each direction: what hardly ever moves is not infinitely odd when it does."""
_SAMPLED: Final = 8_000
_WINDOWS: Final = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Subsequences:
    """
    What is usual of a recording of some columns.

    mean, transform: columns to decorrelated directions of unit variance. patterns: (patterns, window x directions).
    centre, spread: mean and deviation of energy and of distance over the windows that were learned from.
    """

    mean: Floats
    transform: Floats
    patterns: Floats
    centre: Floats
    spread: Floats
    window: int

    def score(self, values: Floats) -> Floats:
        """
        How odd each row is: (rows,), in deviations from usual; higher is odder.

        In:  (rows, columns) in the order of time, at the step of what was learned; NaN, what was not measured, counts
        as what the other columns let expect.

        Raises: ValueError (other columns), NotEnoughData (fewer rows than a window).
        """
        if values.ndim != 2 or values.shape[1] != len(self.mean):
            raise ValueError(f"rows of {values.shape[1:]} columns; learned of {len(self.mean)}")
        found = _oddness(_directions(values, self.mean, self.transform), self.window, self.patterns)
        odd = ((found - self.centre) / self.spread).sum(axis=1)
        return _over_rows(odd, self.window, len(values))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a model of it keeps."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}


def fit(values: Floats, *, window: int | None = None, patterns: int = PATTERNS, seed: int = 0) -> Subsequences:
    """
    Learn what is usual of *values*: (rows, columns) in the order of time and at equal steps, NaN what was not measured.

    It need not be free of faults: what is rare is odd. Without *window* it is 128 rows of one column, fewer of many
    columns or of a short recording.

    Raises: NotEnoughData (less than eight windows one after another, or a column that was never measured).
    """
    rows, columns = values.shape
    size = window or max(LEAST_WINDOW, min(NUMBERS // columns, rows // LEAST_WINDOWS))
    if rows < LEAST_WINDOWS * size:
        raise NotEnoughData(f"{rows} rows; windows of {size} need {LEAST_WINDOWS * size}")
    unmeasured = np.isnan(values).all(axis=0)
    if unmeasured.any():
        raise NotEnoughData(f"column {int(np.argmax(unmeasured))} was never measured")
    mean = np.nanmean(values, axis=0)
    deviation = np.nanstd(values, axis=0)
    centred = np.where(np.isnan(values), 0.0, (values - mean) / np.where(deviation > 0, deviation, 1.0))
    variance, axes = np.linalg.eigh(centred.T @ centred / rows)
    whitened = axes / np.sqrt(np.maximum(variance, 0.0) + SHRINKAGE * max(float(variance.mean()), 1e-12))
    transform = whitened / np.where(deviation > 0, deviation, 1.0)[:, None]
    moved = _directions(values, mean, transform)
    cut = sliding_window_view(moved, size, axis=0)
    sample = cut[:: max(1, len(cut) // _SAMPLED)].reshape(-1, size * moved.shape[1])
    means = MiniBatchKMeans(min(patterns, len(sample)), random_state=seed, n_init=3, batch_size=1024).fit(sample)
    centres: Floats = means.cluster_centers_
    found = _oddness(moved, size, centres)
    return Subsequences(
        mean=mean, transform=transform, patterns=centres, centre=found.mean(axis=0),
        spread=np.maximum(found.std(axis=0), 1e-12), window=size,
    )  # fmt: skip


def _directions(values: Floats, mean: Floats, transform: Floats) -> Floats:
    """The rows in decorrelated directions; what was not measured is what the measured columns let expect."""
    centred, missing = values - mean, np.isnan(values)
    if missing.any():
        precision = transform @ transform.T
        for pattern in np.unique(missing, axis=0):
            rows = (missing == pattern).all(axis=1)
            known = centred[np.ix_(rows, ~pattern)] @ precision[np.ix_(~pattern, pattern)]
            centred[np.ix_(rows, pattern)] = -known @ np.linalg.pinv(precision[np.ix_(pattern, pattern)])
    moved: Floats = centred @ transform
    return moved


def _oddness(moved: Floats, size: int, patterns: Floats) -> Floats:
    """
    Mean energy, and distance to the nearest pattern, of each window: (windows, 2).

    Raises: NotEnoughData.
    """
    if len(moved) < size:
        raise NotEnoughData(f"{len(moved)} rows; a window has {size}")
    cut = sliding_window_view(moved, size, axis=0)
    found = np.empty((len(cut), 2))
    norms = (patterns**2).sum(axis=1)
    for start in range(0, len(cut), _WINDOWS):
        part = cut[start : start + _WINDOWS].reshape(-1, patterns.shape[1])
        energy = (part**2).sum(axis=1)
        distance = energy + (norms - 2 * part @ patterns.T).min(axis=1)
        found[start : start + _WINDOWS, 0] = energy / part.shape[1]
        found[start : start + _WINDOWS, 1] = np.sqrt(np.maximum(distance, 0.0))
    return found


def _over_rows(odd: Floats, size: int, rows: int) -> Floats:
    """Of each row the mean over the windows that it is in."""
    sums = np.concatenate([[0.0], np.cumsum(odd)])
    at = np.arange(rows)
    first, last = np.maximum(at - size + 1, 0), np.minimum(at, len(odd) - 1)
    means: Floats = (sums[last + 1] - sums[first]) / (last - first + 1)
    return means
