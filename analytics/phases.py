"""
Joules per prompt token and per generated token of an engine that does both at once.

No sensor splits a device's energy between prefill and decode, and neither does any server: vLLM reports how long
requests were in each phase, but a hundred requests decode in the time of one. What is measured is how energy follows
the tokens from minute to minute, so the split is a model fitted to that, and is marked as one:

    energy = base_w x device-seconds + prefill x prompt tokens + decode x generated tokens

with no part below zero (least squares). Prompt tokens that came from a cache were not computed and do not count. An
engine that does one phase only (disaggregated serving) needs no model: its energy over its tokens is measured.
"""

from itertools import combinations
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.efficiency import counted_times, held_energy
from analytics.energy import device_steps, seconds
from analytics.intervals import SIGMAS
from analytics.work import work_of
from collector.catalogue import TOKENS_CACHED, TOKENS_IN, TOKENS_OUT

EVERY: Final = "1m"
FEWEST: Final = 30
"""Windows that a split needs."""
MIN_EXPLAINED: Final = 0.5
"""The share of what the energy varies by that the tokens must explain."""
MAX_ERROR: Final = 0.5
"""A split of which a part's interval is wider than this share of it, to either side, is not told."""
MIN_APART: Final = 0.02
"""How much of what prompt tokens vary by must be their own: one less the squared correlation with generated ones."""
ONE_PHASE: Final = 0.01
"""An engine whose other phase has fewer tokens than this share is of one phase: a prefill still gives a first token."""
BLOCKS: Final = 10
_COVERED: Final = 0.9

PHASES: Final = pl.Schema(
    {
        "workload": pl.String(),
        "model": pl.String(),
        "basis": pl.String(),
        **{
            f"{phase}_joules_per_token{end}": pl.Float64()
            for phase in ("prefill", "decode")
            for end in ("", "_low", "_high")
        },
        "base_w": pl.Float64(),
        "explained_ratio": pl.Float64(),
        "windows": pl.Int64(),
        "tokens_in": pl.Float64(),
        "tokens": pl.Float64(),
        "reason": pl.String(),
    }
)


def phases(
    device_samples: pl.LazyFrame,
    workload_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    *,
    every: str = EVERY,
    max_gap_s: float | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Joules per prompt token and per generated token of each workload.

    In:  as `analytics.efficiency.efficiency`; of workload_samples also tokens_cached.
    Out: workload, model, basis (``measured`` of an engine of one phase, ``modelled``; null where there is no split),
         prefill_joules_per_token and decode_joules_per_token with _low and _high (95 %, by the jackknife over stretches
         of the time; null where measured, where the interval is that of the energy), base_w (what a device draws
         whatever it does), explained_ratio (of the energy's variance), windows (of *every*), tokens_in (computed, not
         cached), tokens, reason (why there is no split).
    """
    steps = device_steps(device_samples, max_gap_s=max_gap_s, devices=devices)
    keys, joules = ["workload", "window"], pl.col("energy_j")
    drawn = (
        held_energy(steps, counted_times(workload_samples), allocations, by=every)
        .filter("counted")
        .group_by(keys)
        .agg(pl.col("span_s", "covered_s", "energy_j").sum(), held_s=pl.col("span_s").max())
    )
    work = work_of(workload_samples, seconds(every), more=(TOKENS_CACHED.column,))
    computed = pl.col(TOKENS_IN.column) - pl.col(TOKENS_CACHED.column).fill_null(0.0)
    rows = (
        drawn.join(work, on=keys)
        .filter(
            pl.col("covered_s") >= _COVERED * pl.col("span_s"),
            pl.col("work_s") >= _COVERED * pl.col("held_s"),
            pl.col("held_s") >= seconds(every) / 2,
        )
        .with_columns(joules * pl.col("span_s") / pl.col("covered_s"), prompt=computed.clip(0.0))
        .select(*keys, "energy_j", "span_s", "prompt", generated=TOKENS_OUT.column)
        .sort(keys)
        .collect()
    )
    models = workload_samples.group_by("workload").agg(pl.col("model").drop_nulls().last()).collect()
    names = dict(models.iter_rows())
    found = [{"workload": name, "model": names.get(name), **_split(part)} for (name,), part in
             rows.group_by("workload", maintain_order=True)]  # fmt: skip
    return pl.LazyFrame(found, schema=PHASES).sort("workload")


def _split(rows: pl.DataFrame) -> dict[str, Any]:
    """The split of one workload."""
    told: dict[str, Any] = {"windows": rows.height}
    read = {name: rows[name].null_count() < rows.height for name in ("prompt", "generated")}
    for name, column in (("prompt", "tokens_in"), ("generated", "tokens")):
        told[column] = float(rows[name].sum()) if read[name] else None
    joules, prompt, generated = float(rows["energy_j"].sum()), told["tokens_in"], told["tokens"]
    if prompt and generated is not None and generated <= ONE_PHASE * prompt:
        return {**told, "basis": "measured", "prefill_joules_per_token": joules / prompt}
    if generated and prompt is not None and prompt <= ONE_PHASE * generated:
        return {**told, "basis": "measured", "decode_joules_per_token": joules / generated}
    if not prompt or not generated:
        return {**told, "reason": "prompt and generated tokens were not both counted"}
    if rows.height < FEWEST:
        return {**told, "reason": f"{rows.height} windows with energy and tokens; {FEWEST} are needed"}
    whole = rows.drop_nulls()
    x = whole.select("span_s", "prompt", "generated").to_numpy()
    y = whole["energy_j"].to_numpy()
    fit = _least_squares(x, y)
    spread = float(((y - y.mean()) ** 2).sum())
    explained = 1.0 - float(((y - x @ fit) ** 2).sum()) / spread if spread > 0 else 0.0
    told |= {"explained_ratio": explained, "base_w": float(fit[0])}
    if explained < MIN_EXPLAINED:
        return {**told, "reason": f"tokens explain {explained:.0%} of the energy; {MIN_EXPLAINED:.0%} is needed"}
    apart = 1.0 - float(np.corrcoef(x[:, 1], x[:, 2])[0, 1]) ** 2
    if not apart >= MIN_APART:
        why = f"prompt and generated tokens rise and fall together ({apart:.1%} apart; {MIN_APART:.0%} is needed)"
        return {**told, "reason": why}
    block = np.arange(len(y)) * BLOCKS // len(y)
    without = np.array([_least_squares(x[block != left], y[block != left]) for left in range(BLOCKS)])
    error = SIGMAS * np.sqrt((BLOCKS - 1) / BLOCKS * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    # Both or none: what one part has too much, the other has too little.
    if (error[1:] > MAX_ERROR * fit[1:]).any():
        return {**told, "reason": f"the split is not known to {MAX_ERROR:.0%}; a longer time or more varied load tells"}
    told["basis"] = "modelled"
    for at, name in ((1, "prefill"), (2, "decode")):
        for end, value in (("", fit[at]), ("_low", fit[at] - error[at]), ("_high", fit[at] + error[at])):
            told[f"{name}_joules_per_token{end}"] = float(value)
    return told


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The coefficients of least squared error, none of them below 0: the best of those fits that have none."""
    size = x.shape[1]
    best, least = np.zeros(size), float((y**2).sum())
    for count in range(1, size + 1):
        for chosen in combinations(range(size), count):
            found = np.linalg.lstsq(x[:, chosen], y, rcond=None)[0]
            error = float(((y - x[:, chosen] @ found) ** 2).sum())
            if (found >= 0).all() and error < least:
                least, best = error, np.zeros(size)
                best[list(chosen)] = found
    return best
