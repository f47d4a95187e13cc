"""
What a power sensor does, inferred from its readings: how often it updates, and over which window it averages.

The same driver call is a mean of 25 ms on one board and of one second on another, and both change with the driver, so
nothing is looked up by model. What the readings cannot tell is said so, with the reason, and never guessed.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shape = Literal["mean", "settling"]
"""A plain mean over the window, or a sensor that settles exponentially, with half the window as its time constant."""

MIN_UPDATES: Final = 30
"""Fewer changes of value give no period."""
MIN_RATIO: Final = 1.4
"""Updates must be this many readings apart, or the readings' own period is seen instead of the sensor's."""
WINDOW_ERROR: Final = 0.25
"""A window is identified when leaving out any part of the recording moves it by less than this share (1 sigma)."""
MIN_TELLING: Final = 3
"""Fewer readings that would differ with another window tell none, however well one happens to fit."""
BLOCKS: Final = 8
"""Parts of a recording that are left out in turn, to learn how sure an estimate is."""
MAX_UPDATES: Final = 600

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The update period of a sensor (None: `reason` says why not) from *updates* changes of value."""

    update_period_s: float | None
    standard_error_s: float | None
    updates: int
    reading_period_s: float | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The averaging window (None: `reason` says why not), and the most it can be where only that is known."""

    window_s: float | None
    standard_error_s: float | None = None
    at_most_s: float | None = None
    lag_s: float | None = None
    shape: Shape | None = None
    method: str = ""
    reason: str | None = None


def update_period(time_s: Floats, watts: Floats) -> Period:
    """
    How often the value behind readings at *time_s* (seconds, increasing) is renewed.

    A value that is renewed and stays the same looks like none, so intervals may be multiples of the period; a reading
    sees a change late by up to its distance from the one before, which cancels over many. A sensor that is read no
    faster than it updates shows the readers' period only.
    """
    if len(time_s) < 3:
        return Period(
            update_period_s=None, standard_error_s=None, updates=0, reading_period_s=None,
            reason=f"{len(time_s)} readings; 3 are needed",
        )  # fmt: skip
    polled = float(np.median(np.diff(time_s)))
    after, before = changes(watts)

    def unknown(reason: str) -> Period:
        return Period(
            update_period_s=None, standard_error_s=None, updates=len(after), reading_period_s=polled, reason=reason
        )

    if len(after) < MIN_UPDATES:
        return unknown(f"the value changed {len(after)} times; {MIN_UPDATES} changes are needed")
    intervals = np.diff(time_s[after])
    low, middle = (float(value) for value in np.quantile(intervals, [0.2, 0.5]))
    # Where most renewals leave the value as it was, the median is a multiple; a short interval is not, unless a late
    # reading made it, and those are few.
    seed = low if middle > 1.6 * low and low > 3 * polled else middle
    near = np.abs(intervals - seed) <= 1.25 * polled
    period = float(intervals[near].mean())
    if period < MIN_RATIO * polled:
        return unknown(
            f"read every {polled:.3g} s, which is too slow to tell an update period below {2 * polled:.3g} s"
        )
    count = np.ones(len(intervals))
    if period > 3 * polled:
        # A reading sees a change late by up to its distance from the one before; drivers and schedulers hold some up.
        late = np.maximum(time_s[after] - time_s[before], polled)
        tolerance = 1.25 * np.maximum(late[1:], late[:-1])
        for _ in range(5):
            count = np.round(intervals / period)
            near = (count >= 1) & (np.abs(intervals - count * period) <= np.minimum(tolerance, 0.3 * period))
            if not near.any():
                break
            period = float(intervals[near].sum() / count[near].sum())
    if near.mean() < 0.6:
        return unknown(f"the value changes at no fixed period: {near.mean():.0%} of the intervals fit {period:.3g} s")
    spread = float(np.std(intervals[near] - count[near] * period))
    return Period(
        update_period_s=period,
        standard_error_s=spread / float(np.sqrt(near.sum())),
        updates=len(after),
        reading_period_s=polled,
        reason=None,
    )


def changes(watts: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The positions of the readings that first show a new value, and of those before them."""
    after = np.flatnonzero(np.diff(watts) != 0) + 1
    return after, after - 1


# ------------------------------------------------------------------------------------------------------ without a meter


def window_from_edges(time_s: Floats, watts: Floats, period_s: float) -> Window:
    """
    The averaging window from how long the sensor takes to follow a load that jumps.

    The mean over a window answers a jump with a straight ramp as long as the window. Two ramps at least must agree,
    since a load may rise slowly itself; a ramp shorter than three updates only says what the window is at most.
    """
    edges = _edges(watts)
    if not edges:
        return Window(window_s=None, reason="no jump between two steady levels: the window shows in nothing else")
    ramps = [_ramp(time_s, watts, edge, period_s) for edge in edges]
    at_most = min(longest for _, longest, _ in ramps)
    lengths = np.array([length for length, _, straight in ramps if length is not None and straight])
    if not len(lengths):
        short = any(length is None for length, _, _ in ramps)
        reason = "the value follows a jump within three updates" if short else "the value follows a jump in no straight"
        return Window(window_s=None, at_most_s=at_most, reason=f"{reason}; a reference meter is needed")
    if len(lengths) < 2:
        reason = "one ramp only: the load may have risen slowly itself"
        return Window(window_s=None, at_most_s=at_most, reason=reason)
    middle = float(np.median(lengths))
    spread = float(lengths.max() - lengths.min())
    if spread > 0.25 * middle:
        reason = f"ramps of {lengths.min():.3g} to {lengths.max():.3g} s do not agree"
        return Window(window_s=None, at_most_s=at_most, reason=reason)
    # Each end of a ramp lies between two updates.
    error = float(np.hypot(spread / 2, period_s / np.sqrt(6 * len(lengths))))
    return Window(window_s=middle, standard_error_s=error, at_most_s=at_most, method="edges")


def _edges(watts: Floats) -> list[tuple[int, float, float, int, int]]:
    """Jumps between steady levels: where half is crossed, the two levels, and the reach of the levels."""
    low, high = np.quantile(watts, [0.05, 0.95])
    if high - low < max(5.0, 0.1 * abs(high)):
        return []
    above = watts > (low + high) / 2
    crossings = np.flatnonzero(above[1:] != above[:-1]) + 1
    bounds = [0, *crossings.tolist(), len(watts)]
    found = []
    for before, at, after in zip(bounds, bounds[1:], bounds[2:], strict=False):
        levels = [float(np.median(part)) for part in (watts[before:at], watts[at:after])]
        jump = abs(levels[1] - levels[0])
        steady = all(
            np.subtract(*np.quantile(part, [0.75, 0.25])) <= 0.15 * jump for part in (watts[before:at], watts[at:after])
        )
        if steady and jump > 0.5 * (high - low):
            found.append((at, levels[0], levels[1], before, after))
    return found


def _ramp(
    time_s: Floats, watts: Floats, edge: tuple[int, float, float, int, int], period_s: float
) -> tuple[float | None, float, bool]:
    """The length of a ramp (None: shorter than three updates), the most it can be, and whether it is straight."""
    at, first, last, before, after = edge
    way = (watts[before:after] - first) / (last - first)
    clock = time_s[before:after]
    middle = at - before
    begin = int(np.flatnonzero(way[:middle] < 0.1)[-1]) if (way[:middle] < 0.1).any() else 0
    over = np.flatnonzero(way[middle:] >= 0.9)
    end = middle + int(over[0]) if len(over) else len(way) - 1
    # From below a tenth to above nine tenths is eight tenths of the whole, or more.
    longest = (float(clock[end] - clock[begin]) + period_s) / 0.8
    shown = np.concatenate([[begin], begin + 1 + changes(way[begin : end + 1])[1], [end]])
    inside = np.unique(shown[(way[shown] > 0.1) & (way[shown] < 0.9)])
    steps = np.unique(way[inside])
    if len(steps) < 3:
        return None, longest, False
    # Of each value only the first reading that shows it: that one is at the update.
    starts = np.array([np.flatnonzero(way[begin : end + 1] == value)[0] + begin for value in steps])
    slope, start = np.polyfit(clock[starts], way[starts], 1)
    straight = bool(np.max(np.abs(way[starts] - (slope * clock[starts] + start))) <= 0.12)
    return float(abs(1.0 / slope)), longest, straight


# --------------------------------------------------------------------------------------------------------- with a meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """
    How a sensor follows a reference: the window and lag that explain it best, and what the sensor should have seen.

    At `time_s` the sensor first showed `watts`; `reference_w` is the reference's mean over the window before, and
    `shift_w_per_s` how much it changes with the window's place: near an edge the clocks decide, not the board.
    """

    window: Window
    time_s: Floats
    watts: Floats
    reference_w: Floats
    shift_w_per_s: Floats
    explained_ratio: float


def response(
    time_s: Floats, watts: Floats, meter_s: Floats, meter_w: Floats, *, search_s: float = 1.0
) -> Response | None:
    """
    The averaging window and lag of a sensor beside a faster reference; None where the two share too little time.

    The sensor's clock may be off the meter's by up to *search_s*: offset and delay of the sensor together are the lag,
    which is estimated. The loss is the mean absolute deviation after the best gain and offset, since readings at the
    edges of a load are off by as much as the clocks jitter.
    """
    at, shown = _updates(time_s, watts)
    inside = (at >= meter_s[0]) & (at <= meter_s[-1])
    if inside.sum() < MIN_UPDATES:
        return None
    at, shown = at[inside], shown[inside]
    some = np.linspace(0, len(at) - 1, min(MAX_UPDATES, len(at))).astype(np.intp)
    at, shown = at[some], shown[some]
    fits = [_search(_Meter(meter_s, meter_w, shape), at, shown, search_s) for shape in _SHAPES]
    # A mean is what vendors describe: another shape must explain clearly more.
    meter, window_s, lag_s, loss = min(fits, key=lambda fit: fit[3] * (1.0 if fit[0].shape == "mean" else 1.25))
    if not np.isfinite(loss):
        return None
    shortest = _SHORTEST * meter.step_s
    error = _window_error(meter, at, shown, window_s, lag_s, shortest)
    reference, covered = meter.mean(at - lag_s, window_s)
    ahead, _ = meter.mean(at - lag_s + _SHIFT_S, window_s)
    behind, _ = meter.mean(at - lag_s - _SHIFT_S, window_s)
    telling = _telling(meter, at, window_s, lag_s)
    sure = error <= WINDOW_ERROR * window_s and window_s > 1.05 * shortest and telling >= MIN_TELLING
    reason = None
    if not sure:
        low, high = max(0.0, window_s - 2 * error), window_s + 2 * error
        reason = f"{telling} readings tell one window from another; {low:.3g} to {high:.3g} s explain the rest alike"
        if window_s <= 1.05 * shortest:
            reason = f"shorter than {shortest:.3g} s, which the meter cannot resolve"
    spread = float(np.var(shown[covered]))
    gain, offset = line(reference[covered], shown[covered])
    rest = float(np.var(shown[covered] - gain * reference[covered] - offset))
    return Response(
        window=Window(
            window_s=window_s if sure else None,
            standard_error_s=error,
            at_most_s=window_s + 2 * error,
            lag_s=lag_s,
            shape=meter.shape,
            method="meter",
            reason=reason,
        ),
        time_s=at[covered],
        watts=shown[covered],
        reference_w=reference[covered],
        shift_w_per_s=((ahead - behind) / (2 * _SHIFT_S))[covered],
        explained_ratio=1 - rest / spread if spread > 0 else 0.0,
    )


_SHAPES: Final[tuple[Shape, ...]] = ("mean", "settling")
_SHORTEST: Final = 2
"""The shortest window that is looked for, in steps of the meter."""
_SHIFT_S: Final = 0.004
_KEPT: Final = 40


class _Meter:
    """What a sensor with some window would have seen of a reference, at any time."""

    def __init__(self, time_s: Floats, watts: Floats, shape: Shape) -> None:
        self.time_s = time_s
        self.step_s = float(np.median(np.diff(time_s)))
        self.shape = shape
        self._watts = watts
        self._joules = np.concatenate([[0.0], np.cumsum((watts[1:] + watts[:-1]) / 2 * np.diff(time_s))])
        self._settled: dict[float, Floats] = {}

    def mean(self, end_s: Floats, window_s: float) -> tuple[Floats, NDArray[np.bool_]]:
        """The mean over *window_s* before each end, and whether the meter was there for all of it."""
        inside = (end_s - window_s >= self.time_s[0]) & (end_s <= self.time_s[-1])
        if self.shape == "mean":
            upto, since = (np.interp(when, self.time_s, self._joules) for when in (end_s, end_s - window_s))
            return (upto - since) / window_s, inside
        # Two time constants of a settling sensor: then what it sees is as old, on average, as by a mean.
        if window_s not in self._settled:
            # The jackknife comes back to the same windows; a recording of hours times all windows would not fit.
            if len(self._settled) >= _KEPT:
                self._settled.clear()
            self._settled[window_s] = self._settle(window_s / 2)
        return np.interp(end_s, self.time_s, self._settled[window_s]), inside

    def _settle(self, constant_s: float) -> Floats:
        kept = np.exp(-np.diff(self.time_s) / constant_s).tolist()
        levels = ((self._watts[1:] + self._watts[:-1]) / 2).tolist()
        shown = [float(self._watts[0])]
        for keep, level in zip(kept, levels, strict=True):
            shown.append(level + (shown[-1] - level) * keep)
        return np.array(shown)


def _updates(time_s: Floats, watts: Floats) -> tuple[Floats, Floats]:
    """
    The moments at which the sensor took a new value, as near as the readings tell, and the values.

    A reading is late by up to its period; the sensor's clock is regular over some updates, so the middle of its
    neighbours says better where an update was. Where updates are not seen, the readings themselves are taken.
    """
    found = update_period(time_s, watts)
    if found.update_period_s is None:
        return time_s, watts
    period = found.update_period_s
    after, before = changes(watts)
    middle = (time_s[after] + time_s[before]) / 2
    number = np.concatenate([[0.0], np.cumsum(np.round(np.diff(time_s[after]) / period))])
    at = middle.copy()
    for i in range(len(middle)):
        some = slice(max(0, i - 6), i + 7)
        at[i] = np.median(middle[some] - period * (number[some] - number[i]))
    return np.clip(at, time_s[before], time_s[after]), watts[after]


def _search(meter: _Meter, at: Floats, shown: Floats, search_s: float) -> tuple[_Meter, float, float, float]:
    """The window and lag that explain the readings best: coarse over everything, then finer where that is low."""
    shortest = _SHORTEST * meter.step_s
    longest = max(shortest * 2, min(5.0, float(meter.time_s[-1] - meter.time_s[0]) / 4))
    windows = np.geomspace(shortest, longest, max(2, int(np.log(longest / shortest) / np.log(1.25))))
    lags = np.arange(-search_s, search_s, max(0.01, search_s / 200))
    everything = np.ones(len(at), dtype=bool)
    found = []
    for window_s, lag_s in _valleys(_losses(meter, at, shown, windows, lags), windows, lags):
        found.append(_best(meter, at, shown, *_around(window_s, lag_s, 0.5, shortest), everything))
    # A load that repeats looks alike one of its periods later, and two clocks are rather near than far.
    least = min(fit[2] for fit in found)
    window_s, lag_s, _ = min((fit for fit in found if fit[2] <= 1.3 * least), key=lambda fit: abs(fit[1]))
    window_s, lag_s, loss = _best(meter, at, shown, *_around(window_s, lag_s, 0.12, shortest), everything)
    return meter, window_s, lag_s, loss


_VALLEYS: Final = 8


def _valleys(losses: Floats, windows: Floats, lags: Floats) -> list[tuple[float, float]]:
    """Where a coarse grid is lowest: a periodic load has a valley for each of its periods, only one of them deepest."""
    left = losses.copy()
    found = []
    for _ in range(_VALLEYS):
        window, lag = (int(at) for at in np.unravel_index(np.argmin(left), left.shape))
        found.append((float(windows[window]), float(lags[lag])))
        left[max(0, window - 2) : window + 3, max(0, lag - 3) : lag + 4] = np.inf
    return found


def _around(window_s: float, lag_s: float, reach: float, shortest: float) -> tuple[Floats, Floats]:
    windows = np.geomspace(max(shortest, window_s / (1 + reach)), window_s * (1 + reach), 25)
    wide = max(0.06, 0.3 * window_s) * reach
    return windows, np.linspace(lag_s - wide, lag_s + wide, 41)


def _best(
    meter: _Meter, at: Floats, shown: Floats, windows: Floats, lags: Floats, used: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """The window and lag with the least loss over the readings that are *used*, and the loss."""
    losses = _losses(meter, at[used], shown[used], windows, lags)
    window, lag = (int(place) for place in np.unravel_index(np.argmin(losses), losses.shape))
    return float(windows[window]), float(lags[lag]), float(losses[window, lag])


def _losses(meter: _Meter, at: Floats, shown: Floats, windows: Floats, lags: Floats) -> Floats:
    """The loss for each window and lag."""
    ends = at[None, :] - lags[:, None]
    return np.array([_loss(*meter.mean(ends, float(window_s)), shown[None, :]) for window_s in windows])


def _loss(x: Floats, covered: NDArray[np.bool_], y: Floats) -> Floats:
    """
    Mean absolute deviation from the best rising line over that from the mean, for each row: 0 explains all, 1 nothing.

    Over that from the mean, since a lag that leaves the edges of the load outside the meter's time would seem to
    explain what is left best. Infinite where too little is covered.
    """
    weight = covered.astype(np.float64)
    rest = np.zeros_like(x)
    for _ in range(6):
        total = np.maximum(weight.sum(1, keepdims=True), 1e-12)
        mean_x, mean_y = ((weight * value).sum(1, keepdims=True) / total for value in (x, y))
        slope = (weight * (x - mean_x) * (y - mean_y)).sum(1, keepdims=True) / np.maximum(
            (weight * (x - mean_x) ** 2).sum(1, keepdims=True), 1e-12
        )
        rest = np.abs(y - mean_y - slope * (x - mean_x))
        weight = covered / np.maximum(rest, 0.3)
    seen = covered.sum(1)
    middle = (covered * y).sum(1, keepdims=True) / np.maximum(seen, 1)[:, None]
    whole = np.maximum((np.abs(y - middle) * covered).sum(1), 1e-9)
    # A sensor that falls while the reference rises follows another load.
    good = (seen >= 0.6 * x.shape[1]) & (slope[:, 0] > 0)
    loss: Floats = np.where(good, (rest * covered).sum(1) / whole, np.inf)
    return loss


def _window_error(meter: _Meter, at: Floats, shown: Floats, window_s: float, lag_s: float, shortest: float) -> float:
    """The standard error of the window by the jackknife over stretches of the recording."""
    windows = np.geomspace(max(shortest, window_s / 2.5), window_s * 2.5, 37)
    _, lags = _around(window_s, lag_s, 0.5, shortest)
    block = np.arange(len(at)) * BLOCKS // len(at)
    without = [_best(meter, at, shown, windows, lags, block != left)[0] for left in range(BLOCKS)]
    deviations = np.array(without) - window_s
    # A grid has no finer answer than its steps.
    step = window_s * float(np.log(windows[1] / windows[0])) / 2
    return float(np.sqrt((BLOCKS - 1) / BLOCKS * np.sum(deviations**2) + step**2))


def _telling(meter: _Meter, at: Floats, window_s: float, lag_s: float) -> int:
    """How many readings would differ by more than a twentieth of the load if the window were another by half."""
    narrow, _ = meter.mean(at - lag_s - window_s / 6, window_s / 1.5)
    wide, covered = meter.mean(at - lag_s + window_s / 4, window_s * 1.5)
    low, high = np.quantile(wide[covered], [0.05, 0.95]) if covered.any() else (0.0, 0.0)
    return int(np.sum((np.abs(wide - narrow) > 0.05 * (high - low)) & covered))


def line(x: Floats, y: Floats, weight: Floats | None = None) -> tuple[float, float]:
    """Slope and intercept of y over x by weighted least squares."""
    w = np.ones_like(x) if weight is None else weight
    mean_x, mean_y = (w * x).sum() / w.sum(), (w * y).sum() / w.sum()
    slope = float((w * (x - mean_x) * (y - mean_y)).sum() / max(float((w * (x - mean_x) ** 2).sum()), 1e-12))
    return slope, float(mean_y - slope * mean_x)


# --------------------------------------------------------------------------------------------------------------- frames


SENSORS: Final = pl.Schema(
    {
        "device": pl.String(),
        "source": pl.String(),
        "readings": pl.Int64(),
        "reading_period_s": pl.Float64(),
        "updates": pl.Int64(),
        "update_period_s": pl.Float64(),
        "update_error_s": pl.Float64(),
        "window_s": pl.Float64(),
        "window_error_s": pl.Float64(),
        "window_at_most_s": pl.Float64(),
        "reason": pl.String(),
    }
)


def sensors(samples: pl.LazyFrame, *, column: str = "power_w") -> pl.LazyFrame:
    """
    What each device's power sensor does, as far as its own readings tell.

    In:  device, source, time, *column* (watts, null where unread). Any row order.
    Out: device, source, readings, reading_period_s, updates (changes of value), update_period_s, update_error_s,
         window_s, window_error_s, window_at_most_s (each null where the readings do not tell), reason: why something is
         null. Sorted by device and source.
    """

    def one(rows: pl.DataFrame) -> pl.DataFrame:
        time_s, watts, _ = arrays(rows, column)
        period = update_period(time_s, watts)
        window = Window(window_s=None, reason=None)
        if period.update_period_s is not None:
            window = window_from_edges(time_s, watts, period.update_period_s)
        reasons = [
            f"update period: {period.reason}" if period.reason else "",
            f"window: {window.reason}" if window.reason else "",
        ]
        found = {
            "device": rows.item(0, "device"),
            "source": rows.item(0, "source"),
            "readings": len(time_s),
            "reading_period_s": period.reading_period_s,
            "updates": period.updates,
            "update_period_s": period.update_period_s,
            "update_error_s": period.standard_error_s,
            "window_s": window.window_s,
            "window_error_s": window.standard_error_s,
            "window_at_most_s": window.at_most_s,
            "reason": "; ".join(filter(None, reasons)) or None,
        }
        return pl.DataFrame([found], schema=SENSORS)

    read = samples.filter(pl.col(column).is_not_null()).select("device", "source", "time", column)
    return read.group_by("device", "source").map_groups(one, schema=SENSORS).sort("device", "source")


def arrays(rows: pl.DataFrame, column: str, origin_ns: int | None = None) -> tuple[Floats, Floats, int]:
    """
    Times in seconds since the origin (the first row's, if none is given), values, and the origin.

    Sorted, each time once, nulls left out. Seconds from 1970 would leave a float64 only 0.2 microseconds.
    """
    kept = (
        rows.filter(pl.col(column).is_not_null())
        .select(pl.col("time").cast(pl.Datetime("ns")).cast(pl.Int64), column)
        .unique("time", keep="last", maintain_order=True)
        .sort("time")
    )
    nanoseconds = kept["time"].to_numpy()
    origin = origin_ns if origin_ns is not None else (int(nanoseconds[0]) if len(nanoseconds) else 0)
    return (nanoseconds - origin) / _NS, kept[column].cast(pl.Float64).to_numpy(), origin
