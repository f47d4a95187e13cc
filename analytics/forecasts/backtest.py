"""
A rolling backtest that is also how a forecast is made: fit, calibrate on what came after, choose, go on.

Methods are fitted on what was known, and tried on the stretch after; from their errors there each horizon gets its
calibration (conformal: each quantile is moved to where that share of recent outcomes lay below it) and its method: the
baseline, unless the model's loss was lower. All of that is of before the first forecast that is scored. From then on
errors are added as their outcomes become known, so that the calibration follows a shift; methods are refitted as the
series grow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from analytics.forecasts.features import Past
from analytics.forecasts.methods import QUANTILES, Method, last_value, pooled, seasonal
from analytics.forecasts.panel import Floats, Ints, Panel, scale_of
from analytics.forecasts.scores import coverage, pinball, weighted_quantile_loss

BASELINES: Final = ("last value", "same time of day")
MODEL: Final = "pooled model"
BLEND: Final = "model and last value"
"""The mean of the two, quantile by quantile."""
RECENT_S: Final = 4 * 86_400
"""Errors of this long count for the calibration: long enough for quantiles, short enough to follow a shift."""
BETTER: Final = 0.99
"""A model is taken where its loss was below this share of the best baseline's: a tie goes to what is simple."""
OWN: Final = 20
"""With so many independent errors (one for each horizon that passed) a series' calibration is half its own."""
FEWEST: Final = 50
"""Errors that a calibration needs; before, forecasts are as the method gives them."""
TESTED: Final = (0.1, 0.9)
"""The quantiles that losses are over, as published ones are."""
TRIED_RATIO: Final = 0.2
"""The share of the history on which methods are tried before the first forecast."""

Fit = Callable[[Panel, Sequence[int], Sequence[float]], Sequence[Method]]


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
    """Forecasts of all methods as they were issued, with what came of them: what calibrates and chooses."""

    def __init__(self, panel: Panel, horizons: Sequence[int], quantiles: Sequence[float], scale: Floats) -> None:
        self._panel, self._scale = panel, scale
        self._horizons = np.array(horizons)
        self._quantiles = tuple(quantiles)
        self._origins: Ints = np.zeros(0, np.int64)
        self._made: dict[str, Floats] = {}

    def add(self, origins: Ints, made: dict[str, Floats]) -> None:
        """Keep what was forecast."""
        self._origins = np.concatenate([self._origins, origins])
        for name, forecast in made.items():
            before = self._made.get(name)
            self._made[name] = forecast if before is None else np.concatenate([before, forecast], axis=1)

    def calibrated(self, name: str, forecast: Floats, now: int) -> Floats:
        """*forecast* of method *name* issued at step *now*, moved by how far its recent quantiles were off."""
        moved = forecast.copy()
        for at in range(len(self._horizons)):
            shift = self._shift(name, at, now)
            moved[:, :, at] += shift * self._scale[:, None, None]
        moved = np.sort(moved, axis=-1)
        return np.maximum(moved, 0.0) if np.nanmin(self._panel.values[:, : now + 1]) >= 0 else moved

    def extend(self, panel: Panel) -> None:
        """Go on with more of the same series: *panel* has the steps that were known, and later ones."""
        self._panel = panel

    def calibrated_losses(self, now: int) -> dict[str, Floats]:
        """The mean loss of each method at each horizon, calibrated as of *now*, of what was known by then."""
        found = {}
        for name, made in self._made.items():
            losses = np.full(len(self._horizons), np.nan)
            for at in range(len(self._horizons)):
                outcome, recent = self._known(at, now)
                shift = self._shift(name, at, now) * self._scale[:, None, None]
                loss = pinball(outcome, made[:, recent, at] + shift, self._quantiles)
                if not np.isnan(loss).all():
                    losses[at] = np.nanmean(loss)
            found[name] = losses
        return found

    def scores(self, name: str, now: int) -> tuple[Scores, ...]:
        """The scores of a method at each horizon, calibrated as of *now*, on what was known by then."""
        found = []
        for at in range(len(self._horizons)):
            outcome, recent = self._known(at, now)
            shift = 0.0 if name in BASELINES else self._shift(name, at, now) * self._scale[:, None, None]
            found.append(score(outcome, np.sort(self._made[name][:, recent, at] + shift, axis=-1), self._quantiles))
        return tuple(found)

    def _known(self, at: int, now: int) -> tuple[Floats, Ints]:
        """The outcomes of recent forecasts at a horizon that were known at *now*, and which forecasts they are."""
        target = self._origins + self._horizons[at]
        first = now - max(RECENT_S // self._panel.step_s, 2 * int(self._horizons[at]))
        recent = np.flatnonzero((target <= now) & (target > first))
        return self._panel.values[:, target[recent]], recent

    def _shift(self, name: str, at: int, now: int) -> Floats:
        """
        How far off each quantile was, for each series in its own scale: series x 1 x quantiles.

        A series' own errors count where there are enough, beside all series' together where there are few.
        """
        outcome, recent = self._known(at, now)
        shift = np.zeros((len(self._scale), 1, len(self._quantiles)))
        errors = (outcome[..., None] - self._made[name][:, recent, at]) / self._scale[:, None, None]
        known = np.asarray(~np.isnan(errors).any(axis=2))
        if known.sum() < FEWEST:
            return shift
        pooled = _levels(errors[known], self._quantiles)
        # Forecasts issued within a horizon of each other err together.
        span = int(np.ptp(self._origins[recent])) + 1
        independent = min(span / int(self._horizons[at]), len(recent))
        for number, (own, read) in enumerate(zip(errors, known, strict=True)):
            count = independent * read.mean()
            weight = count / (count + OWN)
            theirs = _levels(own[read], self._quantiles) if read.any() else pooled
            shift[number, 0] = weight * theirs + (1 - weight) * pooled
        return shift


def _levels(errors: Floats, quantiles: Sequence[float]) -> Floats:
    """Of the errors of each quantile, that quantile."""
    return np.array([np.quantile(errors[:, at], level) for at, level in enumerate(quantiles)])


def fit_all(panel: Panel, horizons: Sequence[int], quantiles: Sequence[float] = QUANTILES) -> list[Method]:
    """
    Both baselines and the pooled model, fitted on *panel*.

    Raises: ValueError (too short for the model).
    """
    return [
        last_value(panel, horizons, quantiles),
        seasonal(panel, horizons, quantiles),
        pooled(panel, horizons, quantiles),
    ]


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


def tried(
    panel: Panel,
    horizons: Sequence[int],
    quantiles: Sequence[float],
    scale: Floats,
    *,
    stride: int = 1,
    fit: Fit | None = None,
) -> Track:
    """Methods fitted on four fifths of *panel* and tried on the last: what a first forecast is calibrated by."""
    split = round(panel.steps * (1 - TRIED_RATIO))
    fit = fit or fit_all
    track = Track(panel, horizons, quantiles, scale)
    origins = np.arange(split - 1, panel.steps - min(horizons), stride)
    track.add(origins, forecasts_of(fit(panel.until(split), horizons, quantiles), Past.of(panel, scale), origins))
    return track


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

    Methods are fitted anew each *refit* steps (a quarter of the stretch by default), the calibration each *calibrate*
    (a quarter of a day). What is scored was never fitted on, calibrated on or chosen by.
    """
    fit = fit or fit_all
    refit = refit or max(1, (panel.steps - start) // 4)
    calibrate = calibrate or max(1, panel.day // 4)
    known = panel.until(start)
    scale = scale_of(known.values, max(1, 3600 // panel.step_s))
    track = tried(known, horizons, quantiles, scale, stride=stride, fit=fit)
    # The same track goes on over the whole panel.
    track.extend(panel)
    past = Past.of(panel, scale)
    shape = (len(panel.names), 0, len(horizons), len(quantiles))
    forecast: dict[str, list[Floats]] = {"chosen": [np.zeros(shape)]}
    chosen: tuple[str, ...] = ()
    methods: Sequence[Method] = ()
    fitted = -1
    at = start - 1
    all_origins = []
    while at < panel.steps - min(horizons):
        if fitted < 0 or at - fitted >= refit:
            methods, fitted = fit(panel.until(at + 1), horizons, quantiles), at
        chosen = choose(track.calibrated_losses(at), len(horizons))
        origins = np.arange(at, min(at + calibrate, panel.steps - min(horizons)), stride)
        made = forecasts_of(methods, past, origins)
        moved = {name: track.calibrated(name, value, at) for name, value in made.items()}
        picked = np.stack([moved[name][:, :, place] for place, name in enumerate(chosen)], axis=2)
        for name in made:
            # Baselines as they are: what a model has to beat was not helped by a calibration.
            forecast.setdefault(name, []).append(made[name] if name in BASELINES else moved[name])
        forecast["chosen"].append(picked)
        track.add(origins, made)
        all_origins.append(origins)
        at = int(origins[-1]) + stride
    origins = np.concatenate(all_origins)
    whole = {name: np.concatenate(parts, axis=1) for name, parts in forecast.items()}
    outcome = np.full((len(panel.names), len(origins), len(horizons)), np.nan)
    for place, horizon in enumerate(horizons):
        inside = origins + horizon < panel.steps
        outcome[:, inside, place] = panel.values[:, origins[inside] + horizon]
    scores = {
        (name, horizon): score(outcome[:, :, place], made[:, :, place], quantiles)
        for name, made in whole.items()
        for place, horizon in enumerate(horizons)
    }
    return Backtest(tuple(horizons), tuple(quantiles), origins, outcome, whole["chosen"], chosen, scores)
