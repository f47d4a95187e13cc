"""Forecasts of series of the store: fitted, calibrated and chosen on their own past, in the columns of the table."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from analytics.forecasts.backtest import BASELINES, Scores, Track, baselines, choose, forecasts_of, split_of
from analytics.forecasts.features import Past
from analytics.forecasts.methods import QUANTILES, Method, pooled
from analytics.forecasts.panel import DAY_S, Floats, Panel, panel, scale_of

MODEL_VALUES: Final = 500
"""Of all series together: below, quantiles of what happened over a day cannot be told from luck."""
STEP_S: Final = 600
HORIZONS_S: Final = (3600, 21_600, 86_400)
LEAST_DAYS: Final = 1.0
"""Of history: below, a day ahead was never seen once."""
MODEL_DAYS: Final = 3.0
"""Of history: below, a model has seen too few days to tell one from another, and only baselines are tried."""
TRIED_ROWS: Final = 6000
"""Forecasts that a method is tried on, at evenly spaced moments: more cost time, and err as their neighbours did."""

SCHEMA: Final = pl.Schema(
    {
        "series": pl.String(), "time": pl.Datetime("ns"), "target": pl.Datetime("ns"), "horizon_s": pl.Int32(),
        **{f"q{round(q * 100):02}": pl.Float64() for q in QUANTILES},
        "method": pl.String(), "loss": pl.Float64(), "baseline_loss": pl.Float64(), "coverage_ratio": pl.Float64(),
        "outcomes": pl.Int64(), "history_days": pl.Float64(), "model_version": pl.String(),
    }
)  # fmt: skip


class Learned(NamedTuple):
    """A model, the step of a panel before which it was fitted, and its version where it is kept."""

    model: Method
    until: int
    version: str | None = None


Learn = Callable[[Panel, tuple[int, ...]], Learned]


def fitted(found: Panel, horizons: tuple[int, ...]) -> Learned:
    """
    The model fitted on *found* now, for who keeps none.

    Raises: ValueError (too short).
    """
    split = split_of(found)
    return Learned(pooled(found.until(split), horizons), split)


def forecast(
    samples: pl.LazyFrame,
    *,
    horizons_s: Sequence[int] = HORIZONS_S,
    step_s: int = STEP_S,
    keys: Sequence[str] = ("series",),
    learn: Learn = fitted,
) -> pl.DataFrame:
    """
    Forecast each series from its last whole step, *horizons_s* seconds ahead.

    In:  *keys*, time, value: readings at any rate; of other series, too, since the model learns from all at once.
    Out: `SCHEMA`: series (the keys joined by slashes), time (when it was issued: the end of the last whole step),
         target, horizon_s, quantiles in the unit of the value, method (what was taken at this horizon), loss (weighted
         quantile loss of the method over all series on the last days of the history, which it was not fitted on),
         baseline_loss (of the better baseline there), coverage_ratio (share of outcomes from q10 to q90 there),
         outcomes (how many), history_days, model_version (of the model where its method is used, if it is kept).

    A method other than a baseline is taken at a horizon only where its loss there was lower. A series without a reading
    in the last hour has none: what it is now is not known.

    *learn* gives the model for a panel, such as one that is kept and in use; it is asked where there is enough history.

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
    learned = learn(found, horizons) if enough else None
    split = max(split_of(found), learned.until if learned else 0)
    models = [learned.model] if learned else []
    now, past = found.steps - 1, Past.of(found, scale)
    track = Track(found, horizons, QUANTILES, scale)
    spaced = -(-(now - split + 1) * len(found.names) * len(horizons) // TRIED_ROWS)
    tried = np.arange(split - 1, now, spaced)
    track.go_through(tried, forecasts_of([*baselines(found.until(split), horizons), *models], past, tried))
    chosen = choose(track.losses(now), len(horizons))
    made = forecasts_of([*baselines(found, horizons), *models], past, np.array([now]))
    issued = track.issue(np.array([now]), made)
    current = ~np.isnan(past.values[:, now])
    scores = {name: track.scores(name, now) for name in made}
    rows: list[dict[str, object]] = []
    issued_ns = found.start_ns + found.steps * step_s * 1_000_000_000
    for place, (horizon_s, name) in enumerate(zip(horizons_s, chosen, strict=True)):
        values = issued[name][:, 0, place]
        version = learned.version if learned and name not in BASELINES else None
        best = min(scores[naive][place].loss for naive in BASELINES if naive in scores)
        for series, quantiles, known in zip(found.names, values, current, strict=True):
            if known and not np.isnan(quantiles).any():
                row = _row(series, issued_ns, horizon_s, quantiles, name, scores[name][place], best)
                rows.append({**row, "history_days": days, "model_version": version})
    return pl.DataFrame(rows, schema=SCHEMA).sort("series", "horizon_s")


def _row(
    series: str, issued_ns: int, horizon_s: int, quantiles: Floats, method: str, scored: Scores, best: float
) -> dict[str, object]:
    def known(value: float) -> float | None:
        return None if np.isnan(value) else value

    return {
        "series": series, "time": issued_ns, "target": issued_ns + horizon_s * 1_000_000_000, "horizon_s": horizon_s,
        **{f"q{round(level * 100):02}": float(value) for level, value in zip(QUANTILES, quantiles, strict=True)},
        "method": method, "loss": known(scored.loss), "baseline_loss": known(best),
        "coverage_ratio": known(scored.coverage_ratio), "outcomes": scored.outcomes,
    }  # fmt: skip


def _whole_steps(found: Panel) -> Panel:
    """Without the last step, which may not be over."""
    return found.until(found.steps - 1)
