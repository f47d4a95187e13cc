"""The steps of a window, as an axis of evenly spaced points and as values on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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
    def edges_ms(self) -> pl.Series:
        """When each begins and ends, in milliseconds since 1970: twice as many as there are steps."""
        return (
            self._number.repeat_by(2).explode().shift(-1, fill_value=self._last).cast(pl.Float64) * self.every_s * 1e3
        )

    def values(self, frame: pl.DataFrame, column: str, scale: float = 1.0) -> pl.Series:
        """*column* by the step that begins at `window`, to seven digits; not a number where there is none."""
        return self._laid(self._places(frame), frame[column] * scale, 1)

    def each(self, frame: pl.DataFrame, column: str, groups: Sequence[str]) -> list[pl.Series]:
        """The `values` of each of *groups*, in one pass over a frame that has no others."""
        steps, row = self._last - self._first, frame["group"].cast(pl.Enum(groups)).to_physical().cast(pl.Int64)
        found = self._laid(self._places(frame) + row * steps, frame[column], len(groups))
        return [found.slice(number * steps, steps) for number in range(len(groups))]

    def _places(self, frame: pl.DataFrame) -> pl.Series:
        """Which step each row is of."""
        return frame["window"].dt.epoch("s") // self.every_s - self._first

    def _laid(self, places: pl.Series, values: pl.Series, rows: int) -> pl.Series:
        """The values at their places in so many rows of steps."""
        found = pl.repeat(float("nan"), rows * (self._last - self._first), dtype=pl.Float32, eager=True)
        return found.scatter(places, values.cast(pl.Float32).fill_null(float("nan")))

    @property
    def _number(self) -> pl.Series:
        return pl.int_range(self._first, self._last, eager=True)

    @property
    def _first(self) -> int:
        return int(self.start.timestamp()) // self.every_s

    @property
    def _last(self) -> int:
        return -int(-self.end.timestamp() // self.every_s)
