"""Forecasts of series of the store: fitted, calibrated and chosen on their own past, in the columns of the table."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from analytics.forecasts.backtest import BASELINES, Scores, choose, fit_all, forecasts_of, tried
from analytics.forecasts.features import Past
from analytics.forecasts.methods import QUANTILES, Method, last_value, seasonal
from analytics.forecasts.panel import DAY_S, Floats, Panel, panel, scale_of

MODEL_VALUES: Final = 500
"""Of all series together: below, quantiles of what happened over a day cannot be told from luck."""
STEP_S: Final = 600
HORIZONS_S: Final = (3600, 21_600, 86_400)
LEAST_DAYS: Final = 1.0
"""Of history: below, a day ahead was never seen once."""
MODEL_DAYS: Final = 3.0
"""Of history: below, a model has seen too few days to tell one from another, and only baselines are tried."""

SCHEMA: Final = pl.Schema(
    {
        "series": pl.String(), "time": pl.Datetime("ns"), "target": pl.Datetime("ns"), "horizon_s": pl.Int32(),
        **{f"q{round(q * 100):02}": pl.Float64() for q in QUANTILES},
        "method": pl.String(), "loss": pl.Float64(), "baseline_loss": pl.Float64(), "coverage_ratio": pl.Float64(),
        "outcomes": pl.Int64(), "history_days": pl.Float64(),
    }
)  # fmt: skip


def forecast(
    samples: pl.LazyFrame,
    *,
    horizons_s: Sequence[int] = HORIZONS_S,
    step_s: int = STEP_S,
    keys: Sequence[str] = ("series",),
) -> pl.DataFrame:
    """
    Forecast each series from its last whole step, *horizons_s* seconds ahead.

    In:  *keys*, time, value: readings at any rate; of other series, too, since the model learns from all at once.
    Out: `SCHEMA`: series (the keys joined by slashes), time (when it was issued: the end of the last whole step),
         target, horizon_s, quantiles in the unit of the value, method (what was taken at this horizon), loss (weighted
         quantile loss of the method over all series on the last fifth of the history, which it was not fitted on),
         baseline_loss (of the better baseline there), coverage_ratio (share of outcomes from q10 to q90 there),
         outcomes (how many), history_days.

    A method other than a baseline is taken at a horizon only where its loss there was lower. A series without a reading
    in the last hour has none: what it is now is not known.

    Raises: ValueError (a step or a horizon that does not fit, less than a day of history or than two of the longest
    horizon: the message says how much more is needed).
    """
    wrong = [horizon for horizon in horizons_s if horizon <= 0 or horizon % step_s]
    if wrong or not horizons_s:
        raise ValueError(f"horizon {wrong[0] if wrong else 'missing'}: whole steps of {step_s} s are wanted")
    found = _whole_steps(panel(samples.collect(), step_s=step_s, keys=keys))
    days, needed = found.steps * step_s / DAY_S, max(LEAST_DAYS, 2.5 * max(horizons_s) / DAY_S)
    if days < needed:
        raise ValueError(
            f"{days:.1f} days of history: {needed - days:.1f} more are needed for a forecast that far ahead"
        )
    horizons = tuple(horizon // step_s for horizon in horizons_s)
    scale = scale_of(found.values, max(1, 3600 // step_s))
    enough = days >= MODEL_DAYS and (~np.isnan(found.values)).sum() >= MODEL_VALUES
    fit = fit_all if enough else _baselines
    track = tried(found, horizons, QUANTILES, scale, fit=fit)
    now = found.steps - 1
    chosen = choose(track.calibrated_losses(now), len(horizons))
    origins = np.array([now])
    past = Past.of(found, scale)
    current = ~np.isnan(past.values[:, now])
    # A model that was not taken need not be fitted again.
    final = _baselines if set(chosen) <= set(BASELINES) else fit
    made = forecasts_of(final(found, horizons, QUANTILES), past, origins)
    scores = {name: track.scores(name, now) for name in made}
    rows: list[dict[str, object]] = []
    issued = found.start_ns + found.steps * step_s * 1_000_000_000
    for place, (horizon_s, name) in enumerate(zip(horizons_s, chosen, strict=True)):
        values = track.calibrated(name, made[name], now)[:, 0, place]
        best = min(scores[naive][place].loss for naive in BASELINES if naive in scores)
        for series, quantiles, known in zip(found.names, values, current, strict=True):
            if known and not np.isnan(quantiles).any():
                rows.append(_row(series, issued, horizon_s, quantiles, name, scores[name][place], best, days))
    return pl.DataFrame(rows, schema=SCHEMA).sort("series", "horizon_s")


def _row(
    series: str, issued: int, horizon_s: int, quantiles: Floats, method: str, scored: Scores, best: float, days: float
) -> dict[str, object]:
    def known(value: float) -> float | None:
        return None if np.isnan(value) else value

    return {
        "series": series, "time": issued, "target": issued + horizon_s * 1_000_000_000, "horizon_s": horizon_s,
        **{f"q{round(level * 100):02}": float(value) for level, value in zip(QUANTILES, quantiles, strict=True)},
        "method": method, "loss": known(scored.loss), "baseline_loss": known(best),
        "coverage_ratio": known(scored.coverage_ratio), "outcomes": scored.outcomes, "history_days": days,
    }  # fmt: skip


def _baselines(known: Panel, horizons: Sequence[int], quantiles: Sequence[float]) -> list[Method]:
    return [last_value(known, horizons, quantiles), seasonal(known, horizons, quantiles)]


def _whole_steps(found: Panel) -> Panel:
    """Without the last step, which may not be over."""
    return found.until(found.steps - 1)
