"""
Ways to forecast, behind one contract: two baselines and a pooled model.

A method is fitted on a panel and asked with the past of a panel on the same grid: for origins (steps, the last that is
known) it gives an array of series x origins x horizons x quantiles in the panel's unit, which never cross, and NaN
where it cannot tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from analytics.forecasts.features import NAMES, Past
from analytics.forecasts.panel import Floats, Ints, Panel, scale_of
from analytics.models.quantiles import QuantileRegressor
from analytics.models.trees import Trees, predictions, trees

QUANTILES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LAST: Final = "last value"
SEASONAL: Final = "same time of day"
MODEL: Final = "pooled model"
ROWS: Final = 6_000
"""
Pairs of origin and horizon that a model is fitted on, drawn evenly over series, time and horizons. Neighbouring origins
tell the same: of more of them, or with more trees, it learned its days by heart and erred more on later ones.
"""
ITERATIONS: Final = 40
"""Trees of each quantile."""
FEWEST: Final = 200
"""Pairs that there must be: fewer tell nothing of quantiles."""

_SCALE_S: Final = 3600


class Method(Protocol):
    """Something that forecasts."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def predict(self, past: Past, origins: Ints) -> Floats:
        """Series x origins x horizons x quantiles."""
        ...


@dataclass(frozen=True, slots=True)
class Residuals:
    """A naive value and how far off it was: quantiles of its errors for each series and horizon (NaN: never seen)."""

    name: str
    horizons: tuple[int, ...]
    season: int
    offsets: Floats
    low: float

    def predict(self, past: Past, origins: Ints) -> Floats:
        """The naive value of each horizon with the quantiles of its errors."""
        naive = np.stack([_naive(past.values, origins, h, self.season) for h in self.horizons], axis=2)
        return np.maximum(naive[..., None] + self.offsets[:, None], self.low)


def last_value(panel: Panel, horizons: Sequence[int], quantiles: Sequence[float] = QUANTILES) -> Residuals:
    """The last value, with the quantiles of how it changed over each horizon: the bar on clusters' demand."""
    return _residuals(LAST, panel, horizons, quantiles, 0)


def seasonal(panel: Panel, horizons: Sequence[int], quantiles: Sequence[float] = QUANTILES) -> Residuals:
    """The value of the same time on the last day that is over, with the quantiles of its errors in *panel*."""
    return _residuals(SEASONAL, panel, horizons, quantiles, panel.day)


@dataclass(frozen=True, slots=True)
class Pooled:
    """
    One gradient-boosted quantile model over all series and horizons: of the change from the last value, in the series'
    own scale. It knows no series by name, and so serves those that came later, too.
    """

    name: str
    horizons: tuple[int, ...]
    models: tuple[Trees, ...]

    def predict(self, past: Past, origins: Ints) -> Floats:
        """As the models say, sorted so that quantiles never cross."""
        shape = (len(past.values), len(origins), len(self.horizons))
        series, origin, horizon = (
            part.ravel() for part in np.meshgrid(np.arange(shape[0]), origins, np.array(self.horizons), indexing="ij")
        )
        rows = past.features(series, origin, horizon)
        change = np.sort(np.stack(predictions(self.models, rows), axis=1), axis=1)
        now = past.values[series, origin]
        low = _low(past.panel.until(int(origins.max()) + 1))
        found: Floats = np.maximum(now[:, None] + change * past.scale[series][:, None], low)
        return found.reshape(*shape, len(self.models))

    def arrays(self) -> dict[str, Any]:
        """What it learned, as a model's arrays."""
        return {name: array for at, model in enumerate(self.models) for name, array in model.arrays(_of(at)).items()}

    @classmethod
    def of(cls, arrays: Mapping[str, Any], horizons: Sequence[int], quantiles: int) -> "Pooled":
        """
        The model of a model's arrays.

        Raises: ValueError (these are no trees, or of other features than those of today).
        """
        models = tuple(Trees.of(arrays, _of(at)) for at in range(quantiles))
        wrong = {model.features for model in models} - {len(NAMES)}
        if wrong:
            raise ValueError(f"it was fitted on {wrong.pop()} features, not on the {len(NAMES)} of today")
        return cls(MODEL, tuple(horizons), models)


def _of(at: int) -> str:
    return f"quantile{at}_"


def pooled(
    panel: Panel,
    horizons: Sequence[int],
    quantiles: Sequence[float] = QUANTILES,
    *,
    rows: int = ROWS,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Pooled:
    """
    Fit the pooled model on *panel*: at most *rows* pairs of origin and horizon, drawn with *seed*.

    Raises: ValueError (fewer than `FEWEST` pairs: the panel is too short for its horizons).
    """
    scale = scale_of(panel.values, max(1, _SCALE_S // panel.step_s))
    past = Past.of(panel, scale)
    random = np.random.default_rng(seed)
    count = min(rows, panel.values.size * len(horizons))
    series = random.integers(0, len(panel.names), count)
    horizon = random.choice(np.array(horizons), count)
    origin = (random.random(count) * (panel.steps - horizon)).astype(np.int64)
    fits = horizon < panel.steps
    series, horizon, origin = series[fits], horizon[fits], origin[fits]
    change = (panel.values[series, origin + horizon] - past.values[series, origin]) / scale[series]
    known = ~np.isnan(change)
    if known.sum() < FEWEST:
        raise ValueError(f"{known.sum()} pairs of origin and outcome: at least {FEWEST} are needed to fit")
    features, change = past.features(series[known], origin[known], horizon[known]), change[known]
    # Of what nobody has seen yet, such as a week ago in the first days, the library makes no bins.
    features[:, np.isnan(features).all(axis=0)] = 0.0
    # A handful of threads for a few thousand rows wait for one another more than they work.
    with threadpool_limits(limits=1, user_api="openmp"):
        models = tuple(
            trees(
                QuantileRegressor(
                    loss="quantile", quantile=quantile, max_iter=iterations, learning_rate=0.06, max_leaf_nodes=15,
                    min_samples_leaf=max(20, min(100, len(change) // 100)), l2_regularization=1.0, max_features=0.5,
                    early_stopping=False, random_state=seed,
                ).fit(features, change)
            )
            for quantile in quantiles
        )  # fmt: skip
    return Pooled(MODEL, tuple(horizons), models)


def _residuals(name: str, panel: Panel, horizons: Sequence[int], quantiles: Sequence[float], season: int) -> Residuals:
    offsets = np.full((len(panel.names), len(horizons), len(quantiles)), np.nan)
    for at, horizon in enumerate(horizons):
        origins = np.arange(panel.steps - horizon) if horizon < panel.steps else np.arange(0)
        errors = panel.values[:, origins + horizon] - _naive(panel.values, origins, horizon, season)
        known = ~np.isnan(errors).all(axis=1) if errors.shape[1] else np.zeros(len(errors), bool)
        if known.any():
            offsets[known, at] = np.nanquantile(errors[known], quantiles, axis=1).T
    return Residuals(name, tuple(horizons), season, offsets, _low(panel))


def _naive(values: Floats, origins: Ints, horizon: int, season: int) -> Floats:
    """The last value, or that of the same time of the last season that was over at the origin."""
    at = origins if season == 0 else origins + horizon - -(-horizon // season) * season
    return np.where(at >= 0, values[:, np.maximum(at, 0)], np.nan)


def _low(panel: Panel) -> float:
    """What was never below zero is not forecast below it: watts, tokens and devices are not."""
    return 0.0 if np.nanmin(panel.values) >= 0 else -np.inf
