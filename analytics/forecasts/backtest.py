"""
A rolling backtest that is also how a forecast is made: fit, calibrate on what came after, choose, go on.

The model is fitted on what was known up to some days ago (`split_of`), and tried on the days since; from the errors
there each horizon gets its calibration (conformal: each quantile is moved to where that share of recent outcomes lay
below it) and its method: the baseline, unless the model's loss was lower. So what is measured is what forecasts, on
days that it has not seen. From then on errors are added as their outcomes become known, so that the calibration
follows a shift; the model is fitted anew as the series grow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from analytics.forecasts.features import Past
from analytics.forecasts.methods import LAST, MODEL, QUANTILES, SEASONAL, Method, last_value, pooled, seasonal
from analytics.forecasts.panel import DAY_S, Floats, Ints, Panel, scale_of
from analytics.forecasts.scores import coverage, pinball, weighted_quantile_loss

BASELINES: Final = (LAST, SEASONAL)
BLEND: Final = "model and last value"
"""The mean of the two, quantile by quantile."""
RECENT_S: Final = 4 * 86_400
"""Errors of this long count for the calibration: long enough for quantiles, short enough to follow a shift."""
BETTER: Final = 0.97
"""A model is taken where its loss was below this share of the best baseline's: a tie goes to what is simple."""
OWN: Final = 30
"""With so many independent errors (one for each horizon that passed) a series' calibration is half its own."""
WIDEN: Final = 0.07
"""An hour's forecasts of which none fell between q10 and q90 widen the levels by so much of 0.8; see `Track`."""
NARROWEST, WIDEST = 0.5, 1.1
"""Of the levels' distance from one half: at 1.1 q05 is nearly the least error of all, and nothing is beyond that."""
CALIBRATED_S: Final = 3600
"""So long a calibration holds: forecasts are made as often."""
FEWEST: Final = 50
"""Errors that a calibration needs; before, forecasts are as the method gives them."""
TESTED: Final = (0.1, 0.9)
"""The quantiles that losses are over, as published ones are."""
TRIED_RATIO: Final = 0.2
TRIED_S: Final = 7 * 86_400
"""A model is tried on the last fifth of the history, a week at the most: as much as calibrates, and no more."""

Fit = Callable[[Panel, Sequence[int], Sequence[float]], Method]


@dataclass(frozen=True, slots=True)
class Scores:
    """
    What a method did at a horizon: weighted quantile loss over q10 to q90, share of outcomes from q10 to q90 with ties
    shared and with ties inside (see `scores.coverage`), and how many outcomes there were.
    """

    loss: float
    coverage_ratio: float
    closed_ratio: float
    outcomes: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """
    What was forecast at `origins`, of series x origins x horizons (x quantiles); NaN is not known.

    `chosen` names the method of each horizon and origin's stretch; `scores` are by method ("chosen" among them) and
    horizon.
    """

    horizons: tuple[int, ...]
    quantiles: tuple[float, ...]
    origins: Ints
    outcome: Floats
    forecast: Floats
    chosen: tuple[str, ...]
    scores: dict[tuple[str, int], Scores]


class Track:
    """
    Forecasts of all methods as they were issued, with what came of them: what calibrates and chooses.

    A calibration moves each quantile to where that share of recent outcomes lay below it, and widens or narrows all of
    them by how often outcomes of the forecasts that were so issued fell between q10 and q90 (adaptive conformal
    inference: Gibbs and Candès, NeurIPS 2021, here of all series together). Whatever is issued at a step uses outcomes
    up to that step alone.
    """

    def __init__(self, panel: Panel, horizons: Sequence[int], quantiles: Sequence[float], scale: Floats) -> None:
        self._panel, self._scale = panel, scale
        self._horizons = np.array(horizons)
        self._quantiles, self._levels = tuple(quantiles), np.array(quantiles)
        self._origins: Ints = np.zeros(0, np.int64)
        self._made: dict[str, Floats] = {}
        self._issued: dict[str, Floats] = {}
        self._width: dict[str, Floats] = {}
        self._learned = np.zeros(len(horizons), np.int64)

    def issue(self, origins: Ints, made: dict[str, Floats]) -> dict[str, Floats]:
        """What was *made* for *origins* (in order, later than those before), calibrated as of the first; it is kept."""
        now = int(origins[0])
        self._learn(now)
        issued = {name: self._calibrated(name, forecast, now) for name, forecast in made.items()}
        self._origins = np.concatenate([self._origins, origins])
        for kept, more in ((self._made, made), (self._issued, issued)):
            for name, forecast in more.items():
                kept[name] = np.concatenate([kept[name], forecast], axis=1) if name in kept else forecast
        return issued

    def go_through(self, origins: Ints, made: dict[str, Floats]) -> None:
        """Issue what was *made* for *origins* bit by bit, each as of its own moment."""
        size = max(1, int(np.searchsorted(origins, origins[:1] + self._panel.day * CALIBRATED_S // DAY_S)[0]))
        for begin in range(0, len(origins), size):
            part = slice(begin, begin + size)
            self.issue(origins[part], {name: forecast[:, part] for name, forecast in made.items()})

    def losses(self, now: int) -> dict[str, Floats]:
        """The mean loss of each method at each horizon, of recent forecasts as issued whose outcome was known *now*."""
        found = {}
        for name, issued in self._issued.items():
            losses = np.full(len(self._horizons), np.nan)
            for at in range(len(self._horizons)):
                outcome, recent = self._known(at, now, -1)
                loss = pinball(outcome, issued[:, recent, at], self._quantiles)
                if not np.isnan(loss).all():
                    losses[at] = np.nanmean(loss)
            found[name] = losses
        return found

    def scores(self, name: str, now: int) -> tuple[Scores, ...]:
        """The scores of a method at each horizon, of recent forecasts as issued whose outcome was known *now*."""
        found = []
        for at in range(len(self._horizons)):
            outcome, recent = self._known(at, now)
            found.append(score(outcome, self._issued[name][:, recent, at], self._quantiles))
        return tuple(found)

    def _calibrated(self, name: str, forecast: Floats, now: int) -> Floats:
        """*forecast* of method *name* issued at step *now*, moved by how far its recent quantiles were off."""
        shift = np.stack([self._shift(name, at, now) for at in range(len(self._horizons))], axis=1)
        moved = np.sort(forecast + shift[:, None] * self._scale[:, None, None, None], axis=-1)
        return np.maximum(moved, 0.0) if np.nanmin(self._panel.values[:, : now + 1]) >= 0 else moved

    def _known(self, at: int, now: int, since: int | None = None) -> tuple[Floats, Ints]:
        """The outcomes of recent forecasts at a horizon that were known at *now*, and which forecasts they are."""
        target = self._origins + self._horizons[at]
        first = now - max(RECENT_S // self._panel.step_s, 2 * int(self._horizons[at])) if since is None else since
        recent = np.flatnonzero((target <= now) & (target > first))
        return self._panel.values[:, target[recent]], recent

    def _learn(self, now: int) -> None:
        """Take up what came of forecasts since the last time: too few within q10 to q90 widen, too many narrow."""
        for at in range(len(self._horizons)):
            outcome, recent = self._known(at, now, int(self._learned[at]))
            self._learned[at] = now
            for name, issued in self._issued.items():
                width = self._width.setdefault(name, np.ones(len(self._horizons)))
                for place, step in enumerate(recent):
                    inside, _ = coverage(outcome[:, place], issued[:, step, at], self._quantiles)
                    if not np.isnan(inside):
                        width[at] += WIDEN * self._gap_h(step) * (TESTED[1] - TESTED[0] - inside)
                width[at] = min(max(width[at], NARROWEST), WIDEST)

    def _gap_h(self, step: int) -> float:
        """The hours from the forecast before to this one: whoever forecasts oftener takes smaller steps."""
        gap = self._origins[step] - self._origins[step - 1] if step else 1
        return min(float(gap) * self._panel.step_s / 3600.0, 1.0)

    def _shift(self, name: str, at: int, now: int) -> Floats:
        """
        How far off each quantile was, for each series in its own scale: series x quantiles.

        A series' own errors count where there are enough, beside all series' together where there are few.
        """
        shift = np.zeros((len(self._scale), len(self._quantiles)))
        if name not in self._made:
            return shift
        outcome, recent = self._known(at, now)
        errors = (outcome[..., None] - self._made[name][:, recent, at]) / self._scale[:, None, None]
        known: npt.NDArray[np.bool_] = ~np.isnan(errors.sum(axis=2))
        if known.sum() < FEWEST:
            return shift
        width = self._width[name][at] if name in self._width else 1.0
        levels = (0.5 + (self._levels - 0.5) * width).clip(0.0, 1.0)
        errors[~known] = np.nan
        pooled = _levels(errors[known][None], levels)
        own = np.where(np.asarray(known.any(axis=1))[:, None], _levels(errors, levels), pooled)
        # Forecasts issued within a horizon of each other err together.
        span = int(np.ptp(self._origins[recent])) + 1
        count = min(span / int(self._horizons[at]), len(recent)) * np.asarray(known.mean(axis=1))[:, None]
        weight = count / (count + OWN)
        return np.asarray(weight * own + (1 - weight) * pooled)


def _levels(errors: Floats, levels: Floats) -> Floats:
    """Of the errors (series x forecasts x quantiles) of each quantile that level, with NaN left out: linear between."""
    ordered = np.sort(errors, axis=1)
    last = np.maximum((~np.isnan(errors[..., 0])).sum(axis=1) - 1, 0)[:, None]
    at = last * levels
    low = np.floor(at).astype(np.int64)
    below, above = (np.take_along_axis(ordered, np.minimum(k, last)[:, None], axis=1)[:, 0] for k in (low, low + 1))
    return np.asarray(below + (at - low) * (above - below))


def baselines(panel: Panel, horizons: Sequence[int], quantiles: Sequence[float] = QUANTILES) -> list[Method]:
    """Both baselines, fitted on *panel*."""
    return [last_value(panel, horizons, quantiles), seasonal(panel, horizons, quantiles)]


def split_of(panel: Panel) -> int:
    """The step before which a model is fitted; on what comes from it on it is tried."""
    return panel.steps - max(1, min(round(panel.steps * TRIED_RATIO), TRIED_S // panel.step_s))


def forecasts_of(methods: Sequence[Method], past: Past, origins: Ints) -> dict[str, Floats]:
    """What each method forecasts, and the mean of model and last value."""
    made = {method.name: method.predict(past, origins) for method in methods}
    if MODEL in made and BASELINES[0] in made:
        made[BLEND] = (made[MODEL] + made[BASELINES[0]]) / 2
    return made


def choose(losses: dict[str, Floats], horizons: int) -> tuple[str, ...]:
    """The method of each horizon: the best baseline, unless another's loss was clearly lower."""
    chosen = []
    for at in range(horizons):
        known = {name: loss[at] for name, loss in losses.items() if not np.isnan(loss[at])}
        naive = {name: loss for name, loss in known.items() if name in BASELINES}
        best_naive = min(naive, key=naive.__getitem__, default=BASELINES[0])
        best = min(known, key=known.__getitem__, default=best_naive)
        better = best_naive not in known or known[best] < BETTER * known[best_naive]
        chosen.append(best if better else best_naive)
    return tuple(chosen)


def score(outcome: Floats, forecast: Floats, quantiles: Sequence[float]) -> Scores:
    """The scores of forecasts (..., quantiles) of *outcome* (...)."""
    tested = [place for place, level in enumerate(quantiles) if TESTED[0] <= level <= TESTED[1]]
    loss = weighted_quantile_loss(outcome, forecast[..., tested], [quantiles[place] for place in tested])
    return Scores(loss, *coverage(outcome, forecast, quantiles), int((~np.isnan(outcome)).sum()))


def backtest(
    panel: Panel,
    horizons: Sequence[int],
    *,
    start: int,
    stride: int = 1,
    refit: int | None = None,
    calibrate: int | None = None,
    quantiles: Sequence[float] = QUANTILES,
    fit: Fit | None = None,
) -> Backtest:
    """
    Forecast at each *stride*-th step from *start* - 1 (the last that is known then) to the end, as one would have.

    The model is fitted anew each *refit* steps (a quarter of the stretch by default), the calibration each *calibrate*
    (an hour). What is scored was never fitted on, calibrated on or chosen by: a forecast issued at a step
    uses outcomes up to that step alone.
    """
    fit = fit or pooled
    refit = refit or max(1, (panel.steps - start) // 4)
    calibrate = calibrate or max(1, panel.day * CALIBRATED_S // DAY_S)
    scale = scale_of(panel.until(start).values, max(1, 3600 // panel.step_s))
    past = Past.of(panel, scale)
    forecast: dict[str, list[Floats]] = {}
    chosen: tuple[str, ...] = ()
    every = np.arange(start - 1, panel.steps - min(horizons), stride)
    for first in range(0, len(every), -(-refit // stride)):
        stretch = every[first : first + -(-refit // stride)]
        known = panel.until(int(stretch[0]) + 1)
        split = split_of(known)
        model = fit(known.until(split), horizons, quantiles)
        track = Track(panel, horizons, quantiles, scale)
        before = np.arange(split - 1, stretch[0], stride)
        track.go_through(
            before, forecasts_of([*baselines(known.until(split), horizons, quantiles), model], past, before)
        )
        made = forecasts_of([*baselines(known, horizons, quantiles), model], past, stretch)
        for begin in range(0, len(stretch), -(-calibrate // stride)):
            part = slice(begin, begin + -(-calibrate // stride))
            at = int(stretch[begin])
            chosen = choose(track.losses(at), len(horizons))
            given = {name: value[:, part] for name, value in made.items()}
            issued = track.issue(stretch[part], given)
            # Baselines as they are: what a model has to beat was not helped by a calibration.
            told = {name: given[name] if name in BASELINES else issued[name] for name in given}
            told["chosen"] = np.stack([issued[name][:, :, place] for place, name in enumerate(chosen)], axis=2)
            for name, value in told.items():
                forecast.setdefault(name, []).append(value)
    whole = {name: np.concatenate(parts, axis=1) for name, parts in forecast.items()}
    outcome = np.full((len(panel.names), len(every), len(horizons)), np.nan)
    for place, horizon in enumerate(horizons):
        inside = every + horizon < panel.steps
        outcome[:, inside, place] = panel.values[:, every[inside] + horizon]
    scores = {
        (name, horizon): score(outcome[:, :, place], made[:, :, place], quantiles)
        for name, made in whole.items()
        for place, horizon in enumerate(horizons)
    }
    return Backtest(tuple(horizons), tuple(quantiles), every, outcome, whole["chosen"], chosen, scores)
