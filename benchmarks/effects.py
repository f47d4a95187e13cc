"""
Comparisons of known truth: how far off the effect is, how often its interval holds it, how often nothing is called one.

Windows of served workloads are simulated with what misleads: load that follows the day, a fleet that drifts, noise with
a memory of hours, boards that are off by percents, groups that differ. The plain mean of before and after, which is
what a dashboard shows, stands beside each figure.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from analytics.effects.windows import WINDOWS

START_NS = 1_788_220_800_000_000_000
WINDOW_S = 300


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """
    A fleet in which some hosts change their driver.

    hosts: how many; changed: how many of them change, at the same time up to *spread_h* later; days: before and after,
    each; effect: on joules per token, as a ratio less one; load_after: factor on load after the change, of those that
    changed or of all (*demand*); drift: of all hosts, over the whole time; noise: standard deviation of a window,
    with a memory of *memory_h* hours; own: of what a host does for no reason at all after the change; gain: of
    boards; chosen: hosts that change are those that did worst in the last hours before (*chosen*), not any.
    """

    hosts: int = 16
    changed: int = 8
    days: float = 4.0
    effect: float = 0.0
    spread_h: float = 0.0
    load_after: float = 1.0
    demand: float = 1.0
    drift: float = 0.0
    noise: float = 0.02
    memory_h: float = 3.0
    own: float = 0.004
    gain: float = 0.02
    chosen: bool = False
    models: int = 1


def simulated(fleet: Fleet, seed: int) -> pl.DataFrame:
    """Windows as `analytics.effects.windows.windows` gives them."""
    rng = np.random.default_rng(seed)
    size = int(fleet.days * 86_400 / WINDOW_S) * 2
    at_s = np.arange(size) * WINDOW_S
    half = size // 2
    noise = _memory(rng, fleet.hosts, size, fleet.memory_h) * fleet.noise
    order = np.argsort(-noise[:, half - int(6 * 3600 / WINDOW_S) : half].mean(axis=1))
    changed = np.zeros(fleet.hosts, bool)
    changed[order[: fleet.changed] if fleet.chosen else rng.permutation(fleet.hosts)[: fleet.changed]] = True
    at = half + (rng.uniform(0, fleet.spread_h, fleet.hosts) * 3600 / WINDOW_S).astype(int)
    late = np.arange(size)[None, :] >= at[:, None]
    after = late & changed[:, None]
    day = 0.55 + 0.3 * np.sin(2 * np.pi * at_s / 86_400)[None, :]
    load = day * np.exp(0.15 * _memory(rng, fleet.hosts, size, 1.0))
    load = load * np.where(after, fleet.load_after, 1.0) * np.where(late, fleet.demand, 1.0)
    load = np.clip(load, 0.03, 1.0)
    # A device draws a third of its power before the first token, so tokens are dear where they are few.
    joules = (220.0 + 430.0 * load**0.8) / (8000.0 * load)
    off = rng.normal(0, fleet.gain, fleet.hosts)[:, None] + np.where(
        late, rng.normal(0, fleet.own, fleet.hosts)[:, None], 0
    )
    shared = fleet.drift * np.arange(size)[None, :] / size
    value = joules * np.exp(off + shared + noise) * np.where(after, 1.0 + fleet.effect, 1.0)
    hosts = np.repeat(np.arange(fleet.hosts), size)
    words = [f"node-{n:02d}" for n in range(fleet.hosts)]
    model = hosts % fleet.models
    # The hours around a change are no windows: engines start anew.
    settled = ~(late & ~np.roll(late, 3, axis=1) & changed[:, None])
    frame = pl.DataFrame({
        "workload": [f"w-{n}" for n in hosts],
        "window": (START_NS + np.tile(at_s, fleet.hosts).astype(np.int64) * 10**9).astype("datetime64[ns]"),
        "host": [words[n] for n in hosts],
        "boards": hosts.astype(np.uint64),
        "model": [f"model-{n}" for n in model],
        "driver_version": np.where(after, "580.1", "570.1").ravel(),
        "joules_per_token": (value * np.where(model.reshape(value.shape) > 0, 3.0, 1.0)).ravel(),
        "load": (load * 8000.0).ravel(),
        "utilization_ratio": np.clip(load * 1.1, 0, 1).ravel(),
        "power_mean_w": (value * 8000.0 * load).ravel(),
    })  # fmt: skip
    told = frame.with_columns(devices=pl.lit(8, pl.UInt32), asked=pl.lit(True))
    return full(told).filter(pl.Series(settled.ravel()))


def full(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that `analytics.effects.windows.windows` has and *frame* has not, mostly null."""
    usual = {"devices": 1, "asked": False, "window": datetime(2026, 1, 1), "framework": "vllm", "sku": "X"}
    absent = [pl.lit(usual.get(name), kind).alias(name) for name, kind in WINDOWS.items() if name not in frame.columns]
    return frame.with_columns(absent).select(pl.col(name).cast(kind) for name, kind in WINDOWS.items())


def _memory(rng: np.random.Generator, rows: int, size: int, hours: float) -> np.ndarray:
    """Noise of standard deviation 1 that forgets within *hours*."""
    keep = np.exp(-WINDOW_S / (hours * 3600.0))
    out = np.empty((rows, size))
    out[:, 0] = rng.standard_normal(rows)
    steps = rng.standard_normal((rows, size)) * np.sqrt(1 - keep**2)
    for n in range(1, size):
        out[:, n] = keep * out[:, n - 1] + steps[:, n]
    return out
