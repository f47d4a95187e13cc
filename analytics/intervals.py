"""
How sure a figure in joules is, and a sum of such figures.

A board's sensor is off by the same share whenever it is read, and its energy counter by the same as its power, since
both come from one sensor. So a board's error does not average out over time: over windows, jobs and hours it adds up as
the joules do. Boards are off independently of each other, so their errors add up in quadrature. What boards share, the
meter that several were calibrated beside, adds up as the joules do again. Intervals hold 95 %.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

UNCALIBRATED_RATIO: Final = 0.05
"""What vendors say of their sensors, and what was found on boards beside a meter."""
SIGMAS: Final = 1.96
"""Intervals hold 95 %."""
BOUNDS: Final = ("energy_low_j", "energy_high_j")

METERS: Final = pl.Schema({"reference": pl.String(), "reference_error_ratio": pl.Float64()})
"""What tells which boards share the error of a meter: its name, and half its own interval over what it shows."""

_BOARD: Final = "__board"
_HALF: Final = "__half"


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
) -> pl.LazyFrame:
    """
    Figures of parts added up, with the interval of the sum.

    In:  parts: *keys*, *board* (whose sensor measured the part) and *columns*: a value, its low and its high end (both
         null where it has no interval), and `METERS` where boards were calibrated (`analytics.boards.with_meters`).
    Out: *keys* and *columns*: the sum, null where no part has a value; its ends, null too where a part has a value and
         no interval.

    The parts of one board add up linearly, boards in quadrature, the error that boards have from one meter linearly.
    """
    value, _, high = columns
    half = pl.col(high) - pl.col(value)
    sums = parts.group_by(keys).agg(
        pl.when(pl.col(value).count() > 0).then(pl.col(value).sum()).alias(value),
        known=(half.is_not_null() | pl.col(value).is_null()).all(),
    )
    errors = error_of_sums(parts.with_columns(half.alias(_HALF)), keys, {_HALF: value}, board=board)
    error = pl.when("known").then(_HALF)
    return sums.join(errors, on=list(keys), nulls_equal=True).select(
        *keys, value, *bounds(pl.col(value), error, columns[1:])
    )


def error_of_sums(
    parts: pl.LazyFrame, keys: Sequence[str], errors: Mapping[str, str], *, board: str | pl.Expr = "device"
) -> pl.LazyFrame:
    """
    Half the intervals of sums of parts.

    In:  parts: *keys*, *board*, the columns of *errors* (half the interval of a part, and the value that it is of; what
         is null counts as none), and `METERS` where boards were calibrated.
    Out: *keys* and the names of *errors*: as `total` has it.
    """
    of_board = pl.col(board) if isinstance(board, str) else board
    names = parts.collect_schema().names()
    meter = [pl.col(name) if name in names else pl.lit(None, kind).alias(name) for name, kind in METERS.items()]
    by_meter = (
        parts.with_columns(*meter, of_board.alias(_BOARD))
        .group_by(*keys, _BOARD)
        .agg(
            pl.col(*METERS).drop_nulls().last(),
            *(pl.col(name).sum() for name in errors),
            *(pl.col(value).sum().alias(f"{name}_of") for name, value in errors.items()),
        )
        .with_columns(
            (pl.col(f"{name}_of").abs() * pl.col("reference_error_ratio")).fill_null(0.0).alias(f"{name}_meter")
            for name in errors
        )
        .group_by(*keys, "reference")
        .agg(
            *((pl.col(name) ** 2 - pl.col(f"{name}_meter") ** 2).clip(0.0).sum() for name in errors),
            *(pl.col(f"{name}_meter").sum() ** 2 for name in errors),
        )
    )
    return by_meter.group_by(keys).agg(
        (pl.col(name).sum() + pl.col(f"{name}_meter").sum()).sqrt().alias(name) for name in errors
    )
