"""
Percentiles from sketches: of one window, or of any windows, devices and sources put together.

The sketches are those of `collector.store.sketch` (DDSketch): how many values lie in each of bins that grow by a
constant factor. They are added up bin by bin, so it does not matter in which order, or what was put together first.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from collector.store.sketch import GAMMA, LEAST, LOG_GAMMA, SHIFT

QUANTILES: Final = (0.50, 0.95, 0.99)
BINS: Final = pl.List(pl.Struct({"bin": pl.Int16(), "n": pl.UInt32()}))


def sketched(values: pl.LazyFrame, keys: Sequence[str], column: str) -> pl.LazyFrame:
    """
    The sketch of *column* for each of *keys*, as the rollups make it.

    Out: *keys* and *column*: a list of bin and n, null where nothing was read.
    """
    value = pl.col(column)
    above = (value.abs().log() / LOG_GAMMA).ceil() + SHIFT
    bins = pl.when(value.abs() < LEAST).then(0.0).otherwise(above * value.sign())
    counted = values.select(*keys, bin=bins.cast(pl.Int16)).drop_nulls("bin")
    return _listed(counted.group_by(*keys, "bin").agg(n=pl.len().cast(pl.UInt32)), keys, column)


def merged(sketches: pl.LazyFrame, keys: Sequence[str], column: str) -> pl.LazyFrame:
    """
    Sketches put together.

    In:  *keys* and *column*, a sketch (null where there is none). Out: the same, a row for each of *keys* with a value.
    """
    return _listed(_counted(sketches, keys, column), keys, column)


def quantiles(
    sketches: pl.LazyFrame, keys: Sequence[str], column: str, *, of: Sequence[float] = QUANTILES
) -> pl.LazyFrame:
    """
    Quantiles of everything that the sketches of each of *keys* hold.

    In:  *keys* and *column*, a sketch.
    Out: *keys*, values (how many there are), and p50, p95, p99 or whatever *of* asks for, in the unit of the column.
         Each is off by no more than `collector.store.sketch.ACCURACY` of itself from the value at that place in the
         sorted values (the lower one, where it is between two).

    Raises: ValueError for a quantile that is none.
    """
    wrong = [quantile for quantile in of if not 0.0 <= quantile <= 1.0]
    if wrong:
        raise ValueError(f"quantile {wrong[0]:g}: from 0 to 1 is wanted")
    counted = _counted(sketches, keys, column).sort(*keys, "bin")
    upto, total = pl.col("n").cast(pl.Int64).cum_sum(), pl.col("n").cast(pl.Int64).sum()
    bin = pl.col("bin").cast(pl.Float64)
    middle = pl.when(bin == 0).then(0.0).otherwise(bin.sign() * 2 * GAMMA ** (bin.abs() - SHIFT) / (GAMMA + 1))
    found = {_named(quantile): middle.filter(upto > (quantile * (total - 1)).floor()).first() for quantile in of}
    return counted.group_by(keys, maintain_order=True).agg(values=total, **found)


def _named(quantile: float) -> str:
    return f"p{quantile * 100:g}".replace(".", "_")


def _counted(sketches: pl.LazyFrame, keys: Sequence[str], column: str) -> pl.LazyFrame:
    return (
        sketches.select(*keys, pl.col(column).cast(BINS).alias("bins"))
        .filter(pl.col("bins").list.len() > 0)
        .explode("bins", empty_as_null=False, keep_nulls=False)
        .unnest("bins")
        .group_by(*keys, "bin")
        .agg(pl.col("n").cast(pl.Int64).sum().cast(pl.UInt32))
    )


def _listed(counted: pl.LazyFrame, keys: Sequence[str], column: str) -> pl.LazyFrame:
    return (
        counted.sort(*keys, "bin")
        .group_by(keys, maintain_order=True)
        .agg(pl.struct("bin", "n").alias(column))
        .with_columns(pl.col(column).cast(BINS))
    )
