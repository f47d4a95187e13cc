"""Windows of a small fleet for tests of detectors: one job on all hosts, power as a law of what devices do."""

import numpy as np
import polars as pl

START_NS = 1_767_225_600_000_000_000
STEP_NS = 300_000_000_000
FEATURES = ("utilization_ratio", "clock_sm_hz", "temperature_c")


def windows(
    *, hosts: int = 6, per_host: int = 8, steps: int = 200, seed: int = 0, noise: float = 0.005
) -> pl.DataFrame:
    """Every device is busy by the same wave; its gain is its own, and readings err by *noise*."""
    rng = np.random.default_rng(seed)
    devices = hosts * per_host
    device = np.repeat(np.arange(devices), steps)
    step = np.tile(np.arange(steps), devices)
    busy = 0.6 + 0.3 * np.sin(step / 9.0) + 0.003 * rng.standard_normal(device.size)
    clock = 1.65e9 + 1.5e8 * np.sin(step / 5.0) + 1e6 * rng.standard_normal(device.size)
    heat = 30 + 40 * busy + rng.standard_normal(device.size)
    gain = 1 + 0.02 * rng.standard_normal(devices)
    power = (80 + 500 * busy * (clock / 1.8e9) ** 2) * gain[device] * np.exp(noise * rng.standard_normal(device.size))
    return pl.DataFrame(
        {
            "subject": [f"GPU-{one:03}" for one in device],
            "host": [f"node-{one // per_host}" for one in device],
            "time": pl.Series(START_NS + step * STEP_NS).cast(pl.Datetime("ns")),
            "kind": ["H100"] * device.size, "work": ["train"] * device.size, "group": ["job|H100"] * device.size,
            "normal": [True] * device.size, "value": power, "base": [1.0] * device.size,
            "utilization_ratio": busy, "clock_sm_hz": clock, "temperature_c": heat,
        }
    )  # fmt: skip
