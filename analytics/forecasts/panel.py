"""Series on one regular grid: what the forecasts are made of and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_S: Final = 86_400
_NS: Final = 1_000_000_000
_LEAST_SCALE: Final = 1e-3
"""Of a series' own mean size: what never moved has errors in a thousandth of its size, not in nothing."""


@dataclass(frozen=True, slots=True)
class Panel:
    """
    Series on one grid: `values` has a row for each of `names` and a column for each step; NaN is not known.

    A step's moment is `start_ns` + number x `step_s`; its value is the mean of the readings from then until the next.
    """

    names: tuple[str, ...]
    start_ns: int
    step_s: int
    values: Floats

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return int(self.values.shape[1])

    @property
    def day(self) -> int:
        """The steps of a day."""
        return DAY_S // self.step_s

    def times_ns(self) -> Ints:
        """The moment of each step."""
        return self.start_ns + np.arange(self.steps, dtype=np.int64) * self.step_s * _NS

    def until(self, step: int) -> "Panel":
        """What was known before *step*."""
        return Panel(self.names, self.start_ns, self.step_s, self.values[:, :step])


def panel(frame: pl.DataFrame, *, step_s: int, keys: Sequence[str] = ("series",), value: str = "value") -> Panel:
    """
    Readings as a panel on a grid of *step_s* seconds, which divides a day.

    In:  *keys*, time, *value* (null where unread). Any row order.
    Out: names are the keys joined by slashes, in order; a step is the mean of its readings, NaN without one.

    Raises: ValueError (a step that does not divide a day, no rows).
    """
    if step_s <= 0 or DAY_S % step_s:
        raise ValueError(f"step_s {step_s}: a day has to be a whole number of steps")
    if frame.is_empty():
        raise ValueError("no rows: a panel needs a reading")
    step_ns = step_s * _NS
    at = pl.col("time").cast(pl.Datetime("ns")).to_physical() // step_ns
    name = pl.concat_str(*keys, separator="/")
    cells = (
        frame.lazy()
        .filter(pl.col(value).is_not_null())
        .group_by(name=name, step=at)
        .agg(pl.col(value).cast(pl.Float64).mean().alias("value"))
        .sort("name", "step")
        .collect()
    )
    if cells.is_empty():
        raise ValueError(f"no value of {value}: a panel needs a reading")
    names = cells["name"].unique(maintain_order=True)
    first, last = int(_whole(cells["step"].min())), int(_whole(cells["step"].max()))
    values = np.full((names.len(), last - first + 1), np.nan)
    row = cells["name"].cast(pl.Enum(names)).to_physical().to_numpy()
    values[row, cells["step"].to_numpy() - first] = cells["value"].to_numpy()
    return Panel(tuple(names), first * step_ns, step_s, values)


def _whole(value: Any) -> int:
    return int(value)


def held(values: Floats, most: int) -> Floats:
    """*values* with the first *most* steps of each gap filled by the value before it."""
    known = ~np.isnan(values)
    at = np.where(known, np.arange(values.shape[1]), -1)
    at = np.maximum.accumulate(at, axis=1)
    near = (np.arange(values.shape[1]) - at <= most) & (at >= 0)
    filled = np.take_along_axis(values, np.maximum(at, 0), axis=1)
    return np.where(near, filled, np.nan)


def scale_of(values: Floats, step: int) -> Floats:
    """
    The size of a change of each series: its mean absolute change over *step* steps, of all it has.

    Never nothing: at least a thousandth of the mean size, 1 for a series of zeros.
    """
    with np.errstate(invalid="ignore"):
        moved = np.abs(values[:, step:] - values[:, :-step]) if values.shape[1] > step else values[:, :0]
        change, size = _mean(moved), _mean(np.abs(values))
    scale = np.maximum(np.nan_to_num(change), _LEAST_SCALE * np.nan_to_num(size))
    return np.where(scale > 0, scale, 1.0)


def _mean(values: Floats) -> Floats:
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
