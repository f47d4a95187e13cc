"""Sums and means of what is known: None where nothing is, for an unknown is no 0."""

from collections.abc import Iterable

import polars as pl


def sum_of(values: Iterable[float | None]) -> float | None:
    """
    The sum of those of *values* that are known.

    >>> sum_of([1.0, None, 2.0]), sum_of([None])
    (3.0, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """
    The mean of those of *values* that are known.

    >>> mean_of([1.0, None, 2.0]), mean_of([])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def column_sum(frame: pl.DataFrame, column: str) -> float | None:
    """The sum of what is known in a *column* of a frame."""
    return float(frame[column].sum()) if frame[column].count() else None
