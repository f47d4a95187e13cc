"""Medians of rows that belong together: who belongs to whom is worked out once, and serves one column after another."""

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.anomalies.detector import Floats

Ints = NDArray[np.int64]

_NONE: Final = -1


class Groups:
    """
    Rows by the number of what they belong to.

    numbers: of each group, in order. of_row: the place in it of each row's group.
    """

    def __init__(self, number: Ints) -> None:
        order = np.argsort(number, kind="stable")
        ordered = number[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
        sizes = np.diff(np.append(starts, len(ordered)))
        self.numbers: Ints = ordered[starts]
        self.of_row: Ints = np.empty(len(number), np.int64)
        self.of_row[order] = np.repeat(np.arange(len(starts)), sizes)
        # Groups of about one size are one matrix, a group a row of it, filled up with a place that has no value.
        self._alike: list[tuple[Ints, Ints]] = []
        rows, widths = np.append(order, len(order)), 1 << np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
        for width in np.unique(widths):
            groups = np.flatnonzero(widths == width)
            place = np.arange(width)
            at = np.where(place < sizes[groups, None], starts[groups, None] + place, len(order))
            self._alike.append((groups, rows[at]))

    def medians(self, values: Floats) -> Floats:
        """The median of *values*, one of each row, in each group; NaN counts nowhere, and is what has no value."""
        found, padded = np.full(len(self.numbers), np.nan), np.append(values, np.nan)
        for groups, rows in self._alike:
            ordered = np.sort(padded[rows], axis=1)  # with NaN at the end
            count = ordered.shape[1] - np.isnan(ordered).sum(axis=1)
            each = np.arange(len(groups))
            low, high = ordered[each, np.maximum(count - 1, 0) // 2], ordered[each, count // 2]
            found[groups] = low + (high - low) / 2
        return found

    def over(self, values: Floats) -> Floats:
        """For each row the median of its group."""
        return self.medians(values)[self.of_row]


def numbered(names: pl.Series) -> Ints:
    """A number for each name, the same for the same; -1 where there is none."""
    known = pl.Enum(names.drop_nulls().unique())
    numbers: Ints = names.cast(known).to_physical().cast(pl.Int64).fill_null(_NONE).to_numpy()
    return numbers


def pairs(first: Ints, second: Ints) -> Ints:
    """A number for each pair of *first* and *second*, the same for the same, in the order of both."""
    least = second.min(initial=0)
    step = int(np.gcd.reduce(second - least)) or 1
    place = (second - least) // step
    found: Ints = first * (int(place.max(initial=0)) + 1) + place
    return found
