"""How good forecasts were: quantile losses and coverage, over what was known."""

from collections.abc import Sequence

import numpy as np

from analytics.forecasts.panel import Floats


def pinball(outcome: Floats, forecast: Floats, quantiles: Sequence[float]) -> Floats:
    """The quantile loss of outcomes (...) under quantiles of forecasts (..., quantiles); NaN where unknown."""
    level = np.asarray(quantiles)
    error = outcome[..., None] - forecast
    return np.maximum(level * error, (level - 1.0) * error)


def weighted_quantile_loss(outcome: Floats, forecast: Floats, quantiles: Sequence[float]) -> float:
    """
    wQL: twice the quantile loss, mean over quantiles, over the size of the outcomes (of GluonTS and fev-bench).

    NaN where nothing was known or every outcome was nothing.
    """
    loss = pinball(outcome, forecast, quantiles)
    known = ~np.isnan(loss).any(axis=-1)
    size = np.abs(outcome[known]).sum()
    return float(2.0 * loss[known].sum() / (len(quantiles) * size)) if size > 0 else float("nan")


def scaled_quantile_loss(outcome: Floats, forecast: Floats, quantiles: Sequence[float], scale: Floats) -> float:
    """SQL: twice the quantile loss, mean over quantiles, over each series' own *scale*; mean over all (fev-bench)."""
    return float(np.nanmean(2.0 * pinball(outcome, forecast, quantiles).mean(axis=-1) / scale))


def coverage(
    outcome: Floats, forecast: Floats, quantiles: Sequence[float], *, low: float = 0.1, high: float = 0.9
) -> tuple[float, float]:
    """
    The share of known outcomes between the quantiles *low* and *high*: with ties shared, and with all of them inside.

    Demand stands still: where several quantiles are one value and the outcome is it, too, the outcome lies at all of
    their levels at once. It then counts by the share of those levels that is between *low* and *high* (the randomised
    PIT of Czado, Gneiting and Held, Biometrics 2009, in expectation); a device that was always off thus has 80 % from
    q10 to q90, not 100 %. The second figure counts such an outcome as inside. NaN without an outcome.
    """
    level = np.asarray(quantiles)
    known = ~(np.isnan(outcome) | np.isnan(forecast).any(axis=-1))
    if not known.any():
        return float("nan"), float("nan")
    # A level stands for what is nearer to it than to its neighbours.
    edges = np.concatenate([[0.0], (level[1:] + level[:-1]) / 2, [1.0]])
    at, made = outcome[known], forecast[known]
    first, last = (made < at[:, None]).sum(axis=1), (made <= at[:, None]).sum(axis=1)
    inside = (at >= made[:, quantiles.index(low)]) & (at <= made[:, quantiles.index(high)])
    tied = last > first
    begin, end = edges[first], edges[last]
    share = (np.minimum(end, high) - np.maximum(begin, low)).clip(0.0) / np.where(tied, end - begin, 1.0)
    return float(np.where(tied, share, inside).mean()), float(inside.mean())
