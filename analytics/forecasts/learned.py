"""
Which version of a model forecasts, and when it is learned anew.

A version is fitted on the history up to some days ago and tried on the days since (see `backtest.split_of`), which the
version in use has not seen either: so both are compared on the same windows, and a candidate is in use only where its
error is within the budget of promotions. That is tried when a day has passed that could be learned from. What changes
sooner, the calibration and the choice of methods meet: both are made at every forecast, of the latest errors.
"""

import logging
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from analytics.forecasts.backtest import baselines, split_of
from analytics.forecasts.features import NAMES, Past
from analytics.forecasts.forecast import Learned
from analytics.forecasts.methods import QUANTILES, Method, Pooled, pooled
from analytics.forecasts.panel import DAY_S, Floats, Ints, Panel, scale_of
from analytics.forecasts.scores import pinball
from analytics.models.comparison import UNKNOWN, Trial
from analytics.models.versions import CHAMPION, Meta, listed, load, offer, promote
from collector.errors import StoreError
from collector.moments import NS

REFIT_S: Final = DAY_S
"""Of new history: after a day of it a version is learned anew."""
KIND: Final = "forecast/1"
BY: Final = "job forecasts"
TRIED_ROWS: Final = 12_000
"""Forecasts that two versions are compared on."""

log = logging.getLogger(__name__)


class _Unusable(Exception):
    """Why a version that is kept is not used."""


def in_use(root: Path, name: str, found: Panel, horizons: tuple[int, ...]) -> Learned:
    """
    The model that forecasts *found*: the version in use of *name*, or one that is learned now.

    A version whose file is damaged, or that was made for other horizons, features or steps, is not used: another is
    learned and takes its place, and its reason says why.

    Raises: ValueError (too short a history to learn from), StoreError (the store cannot be written).
    """
    split = split_of(found)
    rows = listed(root, name).with_columns(pl.col("end").to_physical())
    current, unusable = None, ""
    for version in rows.filter(state=CHAMPION)["version"].head(1):
        try:
            current = _restored(root, name, version, found, horizons)
        except _Unusable as error:
            unusable = f"{version} {error}"
            log.warning("forecast_model_unusable", extra={"model": name, "version": version, "reason": str(error)})
    if current is not None and _seen_enough(current, found, split):
        # Counted from the last that was learned, though it was not taken: the next hour would make no better one.
        new_ns = _moment(found, split) - rows["end"].max()
        if new_ns < REFIT_S * NS:
            return current
    model = pooled(found.until(split), horizons)
    tried = _Tried.of(found, horizons, split)
    meta = Meta(
        kind=KIND, start_ns=found.start_ns, end_ns=_moment(found, split),
        rows=int((~np.isnan(found.values[:, :split])).sum()),
        metrics=tried.metrics(model), settings=_settings(found, horizons),
    )  # fmt: skip
    unseen = current is not None and current.until <= split
    trial = tried.trial(current.model, model) if current is not None and unseen else None
    made, state = offer(root, name, model.arrays(), meta, trial, by=BY)
    if unusable and state != CHAMPION:
        # Beside what cannot be used there is nothing to compare.
        promote(root, name, made, by=BY, reason=unusable, force=True)
    elif current is not None and state != CHAMPION and _seen_enough(current, found, split):
        return current
    return Learned(model, split, made)


def _restored(root: Path, name: str, version: str, found: Panel, horizons: tuple[int, ...]) -> Learned:
    """
    A version as a model for *found*.

    Raises: _Unusable.
    """
    try:
        kept = load(root, name, version)
    except StoreError as error:
        raise _Unusable(str(error)) from error
    wanted, has = _settings(found, horizons), dict(kept.meta.settings)
    if kept.meta.kind != KIND:
        raise _Unusable(f"is of kind {kept.meta.kind!r}, not {KIND!r}")
    if other := [key for key in wanted if has.get(key) != wanted[key]]:
        raise _Unusable(f"was made with another {other[0]}")
    try:
        model = Pooled.of(kept.arrays, horizons, len(QUANTILES))
    except ValueError as error:
        raise _Unusable(f"{error}") from error
    return Learned(model, (kept.meta.end_ns - found.start_ns) // (found.step_s * NS), version)


def _settings(found: Panel, horizons: tuple[int, ...]) -> dict[str, Any]:
    """What a version has to have been made with."""
    return {
        "step_s": found.step_s, "horizons_s": [horizon * found.step_s for horizon in horizons],
        "quantiles": list(QUANTILES), "features": list(NAMES),
    }  # fmt: skip


def _seen_enough(current: Learned, found: Panel, split: int) -> bool:
    """Whether there are enough days that a version was not fitted on; on others its errors are too small."""
    return 2 * (found.steps - current.until) >= found.steps - split


class _Tried(NamedTuple):
    """The windows that versions are tried on: each series and horizon at each of some moments since a step."""

    past: Past
    horizons: tuple[int, ...]
    origins: Ints
    naive: Floats

    @classmethod
    def of(cls, found: Panel, horizons: tuple[int, ...], split: int) -> "_Tried":
        """The windows since *split*, with the error of the last value on each."""
        past = Past.of(found, scale_of(found.values, max(1, 3600 // found.step_s)))
        spaced = -(-(found.steps - split) * len(found.names) * len(horizons) // TRIED_ROWS)
        tried = cls(past, horizons, np.arange(split - 1, found.steps - min(horizons), spaced), np.empty(0))
        return tried._replace(naive=tried.errors(baselines(found.until(split), horizons)[0]))

    def errors(self, method: Method) -> Floats:
        """The mean quantile loss of each window, in the scale of its series: series x origins x horizons."""
        values, target = self.past.panel.values, self.origins[:, None] + np.array(self.horizons)
        outcome = np.where(target < values.shape[1], values[:, np.minimum(target, values.shape[1] - 1)], np.nan)
        loss: Floats = pinball(outcome, method.predict(self.past, self.origins), QUANTILES).mean(axis=-1)
        return loss / self.past.scale[:, None, None]

    def metrics(self, method: Method) -> dict[str, float]:
        """The loss of a method at each horizon beside that of the last value; what no outcome is known of has none."""
        mine, found = self.errors(method), {}
        for place, horizon in enumerate(self.horizons):
            known = np.isfinite(mine[:, :, place] + self.naive[:, :, place])
            theirs = self.naive[:, :, place][known].sum()
            if theirs > 0:
                name = f"loss_ratio_{horizon * self.past.panel.step_s}_s"
                found[name] = round(float(mine[:, :, place][known].sum() / theirs), 4)
        return found

    def trial(self, old: Method, new: Method) -> Trial | None:
        """Both beside each other and beside the last value; None where no outcome is known."""
        olds, news = self.errors(old), self.errors(new)
        number = np.arange(olds.shape[0] * olds.shape[2]).reshape(olds.shape[0], 1, olds.shape[2])
        known = np.isfinite(olds) & np.isfinite(news)
        if not known.any():
            return None
        series = np.broadcast_to(number, olds.shape)[known]
        times = np.broadcast_to(_moment(self.past.panel, self.origins + 1)[None, :, None], olds.shape)[known]
        # A forecast alarms nobody: what counts is its error.
        nothing = np.zeros(series.size)
        return Trial(
            series=series, time_ns=times, truth=np.full(series.size, UNKNOWN), champion=nothing, candidate=nothing,
            champion_error=olds[known], candidate_error=news[known], baseline_error=self.naive[known],
        )  # fmt: skip


def _moment(found: Panel, step: Any) -> Any:
    """The moment of a step, or of several."""
    return found.start_ns + step * found.step_s * NS
