"""
Comparisons of known truth: how far off the effect is, how often its interval holds it, how often nothing is called one.

Windows of served workloads are simulated with what misleads: load that follows the day, a fleet that drifts, noise with
a memory of hours, boards that are off by percents, groups that differ. The mean after less the mean before of what
changed, which is what a dashboard shows, stands beside each figure. Then recordings: power limits whose effect is known
for each of dozens of configurations, of which some are taken for all, and measurements that were made twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from scipy.signal import lfilter

from analytics.effects.comparison import NOT_ENOUGH, compare
from analytics.effects.windows import WINDOWS
from benchmarks.rows import Row

BENCHMARK = "effects"
DATA = Path(__file__).parents[1] / "../shared/data"
REPEATS = 200
SUBSET = 15
"""Configurations of a power limit's effect that are taken for all."""
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


SCENARIOS = {
    "nothing changed, 8 of 16 hosts": Fleet(),
    "5 % less, 8 of 16 hosts": Fleet(effect=-0.05),
    "2 % more, load 30 % higher after": Fleet(effect=0.02, load_after=1.3),
    "nothing changed, fleet drifts by 6 %": Fleet(drift=0.06),
    "4 % less, rollout over two days, fleet drifts by 3 %": Fleet(effect=-0.04, spread_h=48.0, drift=0.03),
    "nothing changed, one host of 8": Fleet(hosts=8, changed=1),
    "nothing changed, one host of 2": Fleet(hosts=2, changed=1),
    "nothing changed, the worst hosts were chosen": Fleet(chosen=True, days=2.0, noise=0.03),
    "5 % less, all hosts at once": Fleet(changed=16, effect=-0.05),
    "nothing changed, all hosts at once, fleet drifts by 4 %": Fleet(changed=16, drift=0.04),
}
HELD_AGAINST_NOTHING = "all hosts at once"
"""Without hosts that stay nothing tells a drift from an effect: measured, without a bar."""


def run() -> list[Row]:
    """Repeat each scenario with other seeds; then the recordings."""
    rows = [row for name, fleet in SCENARIOS.items() for row in _scenario(name, fleet)]
    if not DATA.is_dir():
        return [*rows, _row("recordings", "present", 0.0, "", bar="not measured: no ../shared/data")]
    return [*rows, *_power_limits(), *_repeats()]


def _row(subject: str, measure: str, value: float, unit: str, **more: object) -> Row:
    return Row(benchmark=BENCHMARK, subject=subject, measure=measure, value=value, unit=unit, **more)  # type: ignore[arg-type]


def _scenario(name: str, fleet: Fleet) -> Iterator[Row]:
    errors, naive, held, halves, calls = [], [], [], [], []
    for seed in range(REPEATS):
        found = compare(
            simulated(fleet, seed).lazy(), by="driver_version", metrics=["joules_per_token"], reference="570.1"
        ).collect()
        row = found.row(0, named=True)
        errors.append(row["effect"] - fleet.effect)
        naive.append(row["naive_effect"] - fleet.effect)
        held.append(row["effect_low"] <= fleet.effect <= row["effect_high"])
        halves.append((row["effect_high"] - row["effect_low"]) / 2)
        calls.append(row["verdict"] in {"better", "worse"})
    coverage, error, theirs = float(np.mean(held)), _rms(errors), _rms(naive)
    least = 0.9 if HELD_AGAINST_NOTHING not in name else 0.0
    yield _row(
        name, f"95 % interval holds the truth, {REPEATS} repetitions", coverage, "",
        bar=f">= {least:g}" if least else "", ok=coverage >= least if least else None,
    )  # fmt: skip
    yield _row(
        name, "error of the effect (root mean square)", error, "", peer="mean after over mean before",
        peer_value=theirs, bar="< peer" if least else "", ok=error < theirs if least else None,
    )  # fmt: skip
    yield _row(name, "half width of the interval", float(np.mean(halves)), "")
    if fleet.effect == 0.0:
        alarms = float(np.mean(calls))
        yield _row(
            name, "called better or worse", alarms, "",
            bar=f"<= {1 - least:g}" if least else "", ok=alarms <= 1 - least + 1e-9 if least else None,
        )  # fmt: skip
    else:
        yield _row(name, "called by its name", float(np.mean(calls)), "")


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def power_limits(gpu: str) -> pl.DataFrame:
    """Zeus' sweep of power limits as windows: each configuration is a group by itself."""
    key = pl.concat_str("dataset", "network", "batch_size", "optimizer", separator="/")
    runs = pl.read_csv(DATA / f"efficiency/zeus/summary_power_{gpu}.csv")
    return full(
        runs.select(
            model=key, workload=key, host=key, boards=key.hash(), power_limit=pl.col("power_limit").cast(pl.String),
            joules_per_step=pl.col("time_per_epoch") * pl.col("average_power"),
            steps_per_s=1.0 / pl.col("time_per_epoch"),
        )
    )  # fmt: skip


def _power_limits() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for gpu, default, limit in (("v100", "250", "150"), ("a40", "300", "200"), ("rtx6000", "260", "175")):
        runs = power_limits(gpu).filter(pl.col("power_limit").is_in([default, limit]))
        both = runs.group_by("model").agg(pl.col("power_limit").n_unique()).filter(pl.col("power_limit") == 2)["model"]
        runs = runs.filter(pl.col("model").is_in(both.implode()))
        truth = _limit(runs, default)["effect"]
        held = []
        for _ in range(REPEATS):
            some = pl.Series(rng.choice(both.sort().to_numpy(), SUBSET, replace=False))
            row = _limit(runs.filter(pl.col("model").is_in(some.implode())), default)
            held.append(row["effect_low"] <= truth <= row["effect_high"])
        subject = f"{gpu.upper()} at {limit} of {default} W, joules per epoch, {both.len()} configurations"
        yield _row(subject, "effect", truth, "")
        coverage = float(np.mean(held))
        yield _row(
            subject, f"interval of {SUBSET} of them holds it, {REPEATS} draws", coverage, "", bar=">= 0.9",
            ok=coverage >= 0.9,
        )  # fmt: skip


def _limit(runs: pl.DataFrame, default: str) -> dict[str, float]:
    found = compare(
        runs.lazy(), by="power_limit", metrics=["joules_per_step"], reference=default, control=["model"], fewest=1
    )
    return found.filter(pl.col("workload") == "all").collect().row(0, named=True)


def measured_twice() -> pl.DataFrame:
    """MLPerf's inference runs as windows: each was measured twice, which `user` tells apart."""
    runs = pl.read_csv(DATA / "mlperf/tables/inference_runs.csv", infer_schema_length=5000)
    # Both readings of a run must cover it, as windows must.
    whole = runs.filter((pl.col("avg_w") > 0) & (pl.col("win_samples") >= 0.9 * pl.col("win_s")))
    key = pl.concat_str("round", "submitter", "system", "benchmark", "scenario", separator="/")
    return full(
        whole.select(
            model=key, workload=key, boards=key.hash(), user="phase", power_mean_w="avg_w",
            joules_per_sample=pl.col("avg_w") / pl.col("samples_per_s"),
            host=pl.concat_str("round", "submitter", "system", separator="/"),
        )
    )  # fmt: skip


def _repeats() -> Iterator[Row]:
    found = compare(
        measured_twice().lazy(), by="user", metrics=["power_mean_w"], reference="ranging", control=["model"], fewest=1
    )
    row = found.filter(pl.col("workload") == "all").collect().row(0, named=True)
    subject = f"MLPerf inference, measured twice on {row['groups']} systems"
    yield _row(
        subject, "effect of measuring again on mean watts", row["effect"], "",
        peer="mean again over mean at first", peer_value=row["naive_effect"],
        bar="called no difference within 1 %", ok=row["verdict"] not in {"better", "worse", NOT_ENOUGH},
    )  # fmt: skip
    yield _row(subject, "half width of the interval", (row["effect_high"] - row["effect_low"]) / 2, "")


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
    steps = rng.standard_normal((rows, size)) * np.sqrt(1 - keep**2)
    steps[:, 0] = rng.standard_normal(rows)
    return np.asarray(lfilter([1.0], [1.0, -keep], steps, axis=1))
