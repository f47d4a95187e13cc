"""
How sure a figure in joules is, and a sum of such figures.

A board's sensor is off by the same share whenever it is read, and its energy counter by the same as its power, since
both come from one sensor. So a board's error does not average out over time: over windows, jobs and hours it adds up as
the joules do. Boards are off independently of each other, so their errors add up in quadrature. What boards share, the
meter that several were calibrated beside, adds up as the joules do again. Intervals hold 95 %.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

UNCALIBRATED_RATIO: Final = 0.05
"""What vendors say of their sensors, and what was found on boards beside a meter."""
SIGMAS: Final = 1.96
"""Intervals hold 95 %."""
BOUNDS: Final = ("energy_low_j", "energy_high_j")

_BOARD: Final = "__board"


def sensor_error(
    energy_j: str = "energy_j", counter_j: str = "counter_j", agreement_ratio: str = "agreement_ratio"
) -> pl.Expr:
    """
    Half the interval of a board's energy (J) that nobody calibrated; it adds up over the parts of the board.

    The vendors' 5 %. Of what a counter measured, as far as the power of the same time is from it, where that is more:
    one of the two is wrong then, and the interval holds both.
    """
    apart = (1.0 - 1.0 / pl.when(pl.col(agreement_ratio) > 0).then(agreement_ratio)).abs()
    counted = pl.max_horizontal(pl.lit(UNCALIBRATED_RATIO), apart)
    return UNCALIBRATED_RATIO * (pl.col(energy_j) - pl.col(counter_j)) + counted * pl.col(counter_j)


def bounds(value: pl.Expr, error: pl.Expr, names: Sequence[str] = BOUNDS) -> list[pl.Expr]:
    """The columns *names*: *value* less and plus *error*; what is not below 0 ends there. Null where one of both is."""
    low = pl.when((value >= 0) & (value < error)).then(0.0).otherwise(value - error)
    return [low.alias(names[0]), (value + error).alias(names[1])]


def measured(error_j: pl.Expr, modelled_j: pl.Expr) -> pl.Expr:
    """The error where all of the energy was measured: no sensor stands behind a modelled joule, so it has none."""
    return pl.when((modelled_j > 0).fill_null(False)).then(None).otherwise(error_j)


def total(
    parts: pl.LazyFrame,
    keys: Sequence[str],
    *,
    board: str | pl.Expr = "device",
    columns: Sequence[str] = ("energy_j", *BOUNDS),
    fits: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Figures of parts added up, with the interval of the sum.

    In:  parts: *keys*, *board* (whose sensor measured the part) and *columns*: a value, its low and its high end (both
         null where it has no interval). *fits*, as `analytics.boards.latest_fits` gives them, tells which boards
         were calibrated beside one meter; *board* is then the device.
    Out: *keys* and *columns*: the sum, null where no part has a value; its ends, null too where a part has a value and
         no interval.

    The parts of one board add up linearly, boards in quadrature, the error that boards have from one meter linearly.
    """
    value, _, high = columns
    half = pl.col(high) - pl.col(value)
    of_board = pl.col(board) if isinstance(board, str) else board
    boards = (
        parts.with_columns(of_board.alias(_BOARD))
        .group_by(*keys, _BOARD)
        .agg(
            value=pl.when(pl.col(value).count() > 0).then(pl.col(value).sum()),
            half=half.sum(),
            known=(half.is_not_null() | pl.col(value).is_null()).all(),
        )
    )
    if fits is None:
        boards = boards.with_columns(reference=pl.lit(None, pl.String), shared=pl.lit(0.0))
    else:
        told = fits.select("reference", "reference_error_ratio", **{_BOARD: pl.col("device")})
        boards = boards.join(told, on=_BOARD, how="left").with_columns(
            shared=(pl.col("value").abs() * pl.col("reference_error_ratio")).fill_null(0.0)
        )
    own = (pl.col("half") ** 2 - pl.col("shared") ** 2).clip(0.0)
    by_meter = boards.group_by(*keys, "reference").agg(
        pl.when(pl.col("value").count() > 0).then(pl.col("value").sum()).alias("value"),
        own=own.sum(),
        shared=pl.col("shared").sum() ** 2,
        known=pl.col("known").all(),
    )
    error = pl.when("known").then((pl.col("own") + pl.col("shared")).sqrt())
    return (
        by_meter.group_by(keys)
        .agg(
            pl.when(pl.col("value").count() > 0).then(pl.col("value").sum()).alias("value"),
            pl.col("own", "shared").sum(),
            pl.col("known").all(),
        )
        .select(*keys, pl.col("value").alias(value), *bounds(pl.col("value"), error, columns[1:]))
    )
