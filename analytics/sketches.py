"""
Percentiles from sketches: of one window, or of any windows, devices and sources put together.

The sketches are those of `collector.store.sketch` (DDSketch): how many values lie in each of bins that grow by a
constant factor. They are added up bin by bin, so it does not matter in which order, or what was put together first.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from collector.catalogue import Metric
from collector.store.schema import rollup_column
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


def distribution(
    rollups: pl.LazyFrame, samples: pl.LazyFrame, metric: Metric, *, per: Sequence[str] = (), by_s: int | None = None
) -> pl.LazyFrame:
    """
    How a metric was distributed, from rollups and the readings that are not in them.

    In:  rows of device_rollups of one length, and of device_samples: device, source, time, what *per* names.
    Out: *per*, time (the start of a window of *by_s* seconds, counted from the epoch; only if it is given), values (how
         many were read), then, named as the columns of rollups: the exact min and max, and p50, p95 and p99 of all
         values of all devices together, off by `collector.store.sketch.ACCURACY` of themselves at most.

    Of each device the source with most values is taken, so that no board counts twice. A reading on the edge of two
    windows is of the earlier one, as in rollups.
    """
    least, most, sketch = (rollup_column(metric, statistic) for statistic in ("min", "max", "sketch"))
    keys = list(dict.fromkeys(["device", "source", *per, *(["time"] if by_s else [])]))
    windows = [] if by_s is None else [pl.col("time").dt.truncate(f"{by_s}s")]
    rolled = rollups.with_columns(windows).select(*keys, low=least, high=most, bins=sketch)
    earlier = [] if by_s is None else [pl.col("time").dt.offset_by("-1ns").dt.truncate(f"{by_s}s")]
    read = samples.with_columns(earlier).select(*keys, value=metric.column).filter(pl.col("value").is_not_null())
    ends = read.group_by(keys).agg(low=pl.col("value").min(), high=pl.col("value").max())
    made = ends.join(sketched(read, keys, "value"), on=keys, nulls_equal=True).rename({"value": "bins"})
    parts = pl.concat([rolled, made.select(*keys, "low", "high", "bins")]).filter(pl.col("bins").is_not_null())
    count = pl.col("bins").list.eval(pl.element().struct.field("n").cast(pl.Int64)).list.sum().sum()
    sources = parts.group_by("device", "source").agg(count.alias("count")).sort("count", "source", descending=True)
    chosen = parts.join(
        sources.unique("device", keep="first", maintain_order=True), on=["device", "source"], how="semi"
    )
    # Something to group by where all is one.
    asked = [*per, *(["time"] if by_s else [])]
    chosen, every = chosen.with_columns(all=True), [*asked, "all"]
    found = quantiles(chosen, every, "bins")
    extremes = chosen.group_by(every).agg(pl.col("low").min().alias(least), pl.col("high").max().alias(most))
    named = [pl.col(_named(quantile)).alias(rollup_column(metric, _named(quantile))) for quantile in QUANTILES]
    joined = found.join(extremes, on=every, nulls_equal=True)
    return joined.select(*asked, "values", least, *named, most).sort(asked or "values")


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
