"""What is known of a series at the moment a forecast is issued, as numbers for a model."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from analytics.forecasts.panel import DAY_S, Floats, Ints, Panel, held

LAGS_S: Final = (600, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
WINDOWS_S: Final = (3600, 21_600, 86_400, 604_800)
DAYS_BACK: Final = 7
"""Days of which the same time of day is looked at."""
HELD_S: Final = 3600
"""A gap of up to an hour is bridged by the value before it, so that one lost reading costs no forecast."""

_WEEK: Final = 7
NAMES: Final = (
    "horizon_h",
    *(f"change_since_{lag}_s" for lag in LAGS_S),
    *(f"same_time_{day}_days_back" for day in range(3)),
    "same_time_a_week_back",
    f"same_time_mean_{DAYS_BACK}_days",
    *(f"{what}_{window}_s" for what in ("mean", "low", "high", "spread") for window in WINDOWS_S),
    "level",
    "deviation_of_the_week",
    "still_h",
    "sine_of_day",
    "cosine_of_day",
    "day_of_week",
)
"""What the columns of `Past.features` are, in order: a model that was fitted on others is not used."""


@dataclass(frozen=True, slots=True)
class Past:
    """
    A panel with what its features need, computed once: everything at a step is of that step and those before.

    `scale` is what each series' differences are divided by, so that one model serves them all.
    """

    panel: Panel
    values: Floats
    scale: Floats
    means: tuple[Floats, ...]
    spreads: tuple[Floats, ...]
    lows: tuple[Floats, ...]
    highs: tuple[Floats, ...]
    still: Floats
    phases: Floats

    @staticmethod
    def of(panel: Panel, scale: Floats) -> "Past":
        """What *panel* holds, as of each of its steps."""
        values = held(panel.values, max(1, HELD_S // panel.step_s))
        windows = [max(2, window // panel.step_s) for window in WINDOWS_S]
        sums, squares, counts = (_running(x) for x in (_zeroed(values), _zeroed(values) ** 2, ~np.isnan(values) * 1.0))
        means, spreads = [], []
        for window in windows:
            count = _window(counts, window)
            enough = count >= max(2, window // 4)
            mean = np.where(enough, _window(sums, window) / np.maximum(count, 1), np.nan)
            square = np.where(enough, _window(squares, window) / np.maximum(count, 1), np.nan)
            means.append(mean)
            spreads.append(np.sqrt(np.maximum(square - mean**2, 0.0)))
        return Past(
            panel, values, scale, tuple(means), tuple(spreads),
            tuple(_rolling(values, window, least=True) for window in windows),
            tuple(_rolling(values, window, least=False) for window in windows),
            _still(values), _phases(values, panel.day),
        )  # fmt: skip

    def features(self, series: Ints, origin: Ints, horizon: Ints) -> npt.NDArray[np.float32]:
        """
        The features of forecasts of *series* (numbers), issued at *origin* (steps), *horizon* steps ahead.

        Out: rows x `NAMES`. Nothing after the step *origin* is looked at: the value of that step is the last that is
        known.
        """
        now, scale = self.values[series, origin], self.scale[series]
        step_s, day = self.panel.step_s, self.panel.day

        def ago(steps: Ints) -> Floats:
            at = origin - steps
            return np.where(at >= 0, self.values[series, np.maximum(at, 0)], np.nan)

        def relative(value: Floats) -> Floats:
            return np.asarray((value - now) / scale)

        columns = [horizon * step_s / 3600.0]
        columns += [relative(ago(np.full_like(origin, max(1, lag // step_s)))) for lag in LAGS_S]
        # The same time of day as the target's, on days that are over: the first that is known, and back from there.
        behind = -(-horizon // day) * day - horizon
        columns += [relative(ago(behind + back * day)) for back in range(3)]
        columns.append(relative(ago(behind + (_WEEK - -(-horizon // day)).clip(0) * day)))
        at = origin - behind
        columns.append(relative(np.where(at >= 0, self.phases[series, np.maximum(at, 0)], np.nan)))
        for table in (self.means, self.lows, self.highs):
            columns += [relative(part[series, origin]) for part in table]
        columns += [part[series, origin] / scale for part in self.spreads]
        columns.append(now / scale)
        columns.append(
            (now - self.means[-1][series, origin]) / np.maximum(self.spreads[-1][series, origin], 1e-9 * scale)
        )
        columns.append(self.still[series, origin] * step_s / 3600.0)
        target_s = (self.panel.start_ns // 1_000_000_000) + (origin + horizon) * step_s
        of_day = 2 * np.pi * (target_s % DAY_S) / DAY_S
        columns += [np.sin(of_day), np.cos(of_day), ((target_s // DAY_S + 3) % _WEEK).astype(np.float64)]
        return np.stack(columns, axis=1).astype(np.float32)


def _zeroed(values: Floats) -> Floats:
    return np.nan_to_num(values)


def _running(values: Floats) -> Floats:
    return np.concatenate([np.zeros((values.shape[0], 1)), np.cumsum(values, axis=1)], axis=1)


def _window(running: Floats, window: int) -> Floats:
    """Sums over the last *window* steps, this one included."""
    ends = np.arange(1, running.shape[1])
    return running[:, ends] - running[:, np.maximum(ends - window, 0)]


def _rolling(values: Floats, window: int, *, least: bool) -> Floats:
    frame = pl.DataFrame(values.T, orient="row").fill_nan(None)
    every = pl.all()
    few = max(1, window // 4)
    rolled = every.rolling_min(window, min_samples=few) if least else every.rolling_max(window, min_samples=few)
    return frame.select(rolled).fill_null(np.nan).to_numpy().T


def _still(values: Floats) -> Floats:
    """For how many steps the value has been what it is."""
    changed = np.ones(values.shape, bool)
    changed[:, 1:] = values[:, 1:] != values[:, :-1]
    number = np.arange(values.shape[1])
    return (number - np.maximum.accumulate(np.where(changed, number, 0), axis=1)).astype(np.float64)


def _phases(values: Floats, day: int) -> Floats:
    """The mean of the same time of day over the last `DAYS_BACK` days, this one included."""
    padded = np.full((values.shape[0], -(-values.shape[1] // day) * day), np.nan)
    padded[:, : values.shape[1]] = values
    days = padded.reshape(values.shape[0], -1, day)
    sums, counts = np.cumsum(_zeroed(days), axis=1), np.cumsum(~np.isnan(days) * 1.0, axis=1)
    sums[:, DAYS_BACK:] -= sums[:, :-DAYS_BACK].copy()
    counts[:, DAYS_BACK:] -= counts[:, :-DAYS_BACK].copy()
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).reshape(padded.shape)[:, : values.shape[1]]
