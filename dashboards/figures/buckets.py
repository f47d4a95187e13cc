"""The steps of a window, as an axis of evenly spaced points and as values on it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True, slots=True)
class Buckets:
    """The steps of *every_s* that meet [*start*, *end*), each whole."""

    start: datetime
    end: datetime
    every_s: int

    @property
    def axis(self) -> dict[str, Any]:
        """When they begin, as traces have it."""
        first = datetime.fromtimestamp(self._first * self.every_s, tz=UTC)
        return {"x0": first.replace(tzinfo=None), "dx": self.every_s * 1000}

    @property
    def edges_ms(self) -> npt.NDArray[np.float64]:
        """Their beginnings, and the end of the last."""
        return np.arange(self._first, self._last + 1, dtype=np.float64) * self.every_s * 1000

    def values(self, frame: pl.DataFrame, column: str, scale: float = 1.0) -> npt.NDArray[np.float32]:
        """*column* by the step that begins at `window`, to seven digits; not a number where there is none."""
        found = np.full(self._last - self._first, np.nan, dtype=np.float32)
        at = frame["window"].dt.epoch("s").to_numpy() // self.every_s - self._first
        found[at] = frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy() * scale
        return found

    @property
    def _first(self) -> int:
        return int(self.start.timestamp()) // self.every_s

    @property
    def _last(self) -> int:
        return -int(-self.end.timestamp() // self.every_s)
