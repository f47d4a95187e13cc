"""What each change that was found did: the comparison of what was before it with what is after it."""

from datetime import timedelta
from typing import Any, Final

import polars as pl

from analytics.changes import SETTINGS
from analytics.effects.comparison import BY, MARGIN, NOT_ENOUGH, OUT, compare

ORDER: Final = ("joules_per_token", "joules_per_sample", "joules_per_step", "power_mean_w")
"""What a change is judged by: the first that was measured."""
REACH_S: Final = 7 * 86_400.0
"""How far before the first and after the last device of a rollout is looked."""

_TOLD: Final = (
    "metric", "effect", "effect_low", "effect_high", "unit", "verdict", "naive_effect", "design", "groups", "controls",
    "windows_reference", "windows_value", "together", "more_windows", "more_groups", "note",
)  # fmt: skip


def effects(
    rollouts: pl.LazyFrame, windows: pl.LazyFrame, *, margin: float = MARGIN, reach_s: float = REACH_S
) -> pl.LazyFrame:
    """
    Rollouts with what they did.

    In:  rollouts of `analytics.changes.rollouts`; windows of `analytics.effects.windows.windows` around them.
    Out: the rollouts and, of `analytics.effects.comparison.compare` over all workloads together, metric, effect,
         effect_low, effect_high, unit, verdict, naive_effect, design, groups, controls, windows of both, together,
         more_windows, more_groups, note.

    A setting that was set to and fro has no before and no after, so that it gets no verdict.
    """
    found, seen = rollouts.collect(), windows.collect()
    rows = [{**row, **_effect(row, seen, margin, timedelta(seconds=reach_s))} for row in found.iter_rows(named=True)]
    return pl.LazyFrame(rows, schema={**found.schema, **{name: OUT[name] for name in _TOLD}})


def _effect(rollout: dict[str, Any], windows: pl.DataFrame, margin: float, reach: timedelta) -> dict[str, Any]:
    what = rollout["what"]
    nothing: dict[str, Any] = {"verdict": NOT_ENOUGH}
    if rollout["steered"]:
        return {**nothing, "note": "set to and fro: there is no before and no after"}
    if what not in BY:
        return {**nothing, "note": f"{what} is not compared"}
    near = windows.filter(pl.col("window").is_between(rollout["first"] - reach, rollout["last"] + reach))
    for metric in ORDER:
        rows = compare(
            near.lazy(), by=what, metrics=[metric], reference=rollout["before"], value=rollout["after"], margin=margin
        ).collect()
        if rows.height and rows["effect"][0] is not None:
            return {name: rows[name][0] for name in _TOLD}
    return {**nothing, "note": "no work was measured before and after"}


assert set(SETTINGS) <= set(BY), "what changes can be compared"
