"""
What a detector is: it learns what is normal of a metric, and says of each window how far from that it was.

All deviations are ratios, as differences of logarithms: a board of 1000 W and one of 300 W are judged alike, and what
a sensor's gain changes is a constant.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

MOST: Final = 3.0
"""Deviations are cut here: a twentieth or twenty times of what was expected is as odd as can be."""
LEAST_WIDTH: Final = 0.005
"""Nothing is known better than to half a percent: readings themselves are not."""
MAD_SIGMA: Final = 1.4826
"""The standard deviation of normal values over their median absolute deviation."""

SCORED: Final = pl.Schema(
    {
        "score": pl.Float64(), "deviation": pl.Float64(), "expected": pl.Float64(), "below": pl.Float64(),
        "above": pl.Float64(), "peers": pl.Int64(),
    }
)  # fmt: skip


class Detector(Protocol):
    """
    Says what was to be expected, and how far from it each window was.

    A window is a row of subject, host, time, value (>= 0; null where not measured) and what the detector looks at.
    `fit` learns, `score` does not. No row is judged by what was learned from itself, also of rows that were fitted on.
    """

    @property
    def name(self) -> str:
        """What it is called in the table anomaly_scores."""
        ...

    def fit(self, windows: pl.DataFrame, *, seed: int = 0) -> Self:
        """
        A detector that has learned from *windows*; the same of the same rows and seed.

        Raises: NotEnoughData.
        """
        ...

    def score(self, windows: pl.DataFrame) -> pl.DataFrame:
        """
        Out: `SCORED`, a row for each row of *windows* in their order, null where it cannot tell: score (deviation over
        the usual one to that side: signed, 0 is as expected), deviation (logarithm of value over expected), expected
        (in the value's unit), below and above (the usual deviations, as logarithms), peers (compared with).
        """
        ...

    def state(self) -> dict[str, Array]:
        """What it learned, as arrays of numbers."""
        ...

    def restored(self, state: Mapping[str, Array]) -> Self:
        """
        The same detector with a state that was kept.

        Raises: ValueError (of another detector).
        """
        ...


def scored(
    windows: pl.DataFrame,
    expected: Floats,
    peers: Array | None,
    below: Floats | float,
    above: Floats | float | None = None,
) -> pl.DataFrame:
    """What `Detector.score` gives; NaN is what is not known."""
    value = windows["value"].cast(pl.Float64()).fill_null(np.nan).to_numpy()
    known = (expected > 0) & (value >= 0)
    deviation = np.full(len(value), np.nan)
    with np.errstate(divide="ignore"):
        deviation[known] = np.clip(np.log(value[known] / expected[known]), -MOST, MOST)
    widths = [
        np.where(known, np.fmax(width, LEAST_WIDTH), np.nan) for width in (below, below if above is None else above)
    ]
    return pl.DataFrame(
        {
            "score": deviation / np.where(deviation < 0, *widths),
            "deviation": deviation,
            "expected": np.where(known, expected, np.nan),
            "below": widths[0],
            "above": widths[1],
            "peers": pl.Series([None] * len(value), dtype=pl.Int64) if peers is None else np.where(known, peers, -1),
        },
        schema=SCORED,
        nan_to_null=True,
    ).with_columns(peers=pl.when(pl.col("peers") >= 0).then("peers"))
