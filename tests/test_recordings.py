"""What an H100 really said, through the agent, nvidia-smi and the analyses: units, meanings and joules hold on it."""

import gzip
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics.efficiency import efficiency
from analytics.frames import scan
from analytics.sensors import response, update_period
from collector.imports.clocks import zone_of
from collector.imports.nvidia_smi import read_query
from collector.imports.report import take_in
from collector.store import Store

H100 = Path(__file__).parent / "recordings/h100"
LIMIT_W = 700.0
FLOP_PER_CYCLE = 132 * 4096
"""Dense bfloat16: 989.4 TFLOP/s at 1.83 GHz, as the maker says of the SXM board."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("h100") / "store"
    shutil.copytree(H100 / "store", root)
    return Store(root)


@pytest.fixture(scope="module")
def samples(store: Store) -> pl.DataFrame:
    """Every reading, with the number and name of the phase that it fell into, half a second after it began."""
    found = scan(store, "device_samples").collect().sort("time")
    time_s = found["time"].cast(pl.Int64).to_numpy() / 1e9
    number = np.full(len(time_s), -1)
    for at, phase in enumerate(phases()):
        number[(time_s >= phase["start"] + 0.5) & (time_s < phase["end"])] = at
    return found.with_columns(time_s=pl.Series(time_s), phase=pl.Series(number))


def phases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((H100 / "phases.json").read_text())
    return found


def during(samples: pl.DataFrame, name: str) -> pl.DataFrame:
    """The readings of the last phase of that name."""
    number = max(at for at, phase in enumerate(phases()) if phase["phase"] == name)
    return samples.filter(pl.col("phase") == number)


def unpacked(name: str, tmp_path: Path) -> Path:
    path = tmp_path / name.removesuffix(".gz")
    path.write_bytes(gzip.decompress((H100 / name).read_bytes()))
    return path


def test_every_phase_shows_what_ran(samples: pl.DataFrame) -> None:
    def mean(name: str, column: str) -> float:
        value = during(samples, name)[column].mean()
        assert isinstance(value, float)
        return value

    assert mean("matmul", "power_instant_w") == pytest.approx(LIMIT_W, rel=0.02)
    assert mean("matmul", "throttling_power") > 0.95
    assert mean("matmul", "clock_sm_hz") < 0.95 * mean("matmul", "clock_sm_max_hz")
    assert mean("matmul", "activity_tensor_ratio") > 0.8
    assert mean("copy", "activity_dram_ratio") > 0.8
    assert mean("copy", "activity_tensor_ratio") < 0.01
    assert mean("copy", "throttling_power") < 0.05
    for busy in ("matmul", "copy", "train"):
        assert mean(busy, "utilization_ratio") > 0.9
    assert mean("idle", "utilization_ratio") < 0.1
    assert mean("idle", "activity_sm_ratio") < 0.01


def test_joules_by_counter_and_by_power_agree(samples: pl.DataFrame) -> None:
    time_s, counter = samples["time_s"].to_numpy(), samples["energy_j"].to_numpy()
    for column in ("power_average_w", "power_instant_w"):
        integral = np.trapezoid(samples[column].to_numpy(), time_s)
        assert integral == pytest.approx(counter[-1] - counter[0], rel=0.01)
    assert samples["energy_agreement_ratio"].drop_nulls().to_list()[-1] == pytest.approx(1, abs=0.01)


def test_nvidia_smi_beside_says_the_same(samples: pl.DataFrame, tmp_path: Path) -> None:
    """Two clients of one driver: what they read within 50 ms is the same number, or the one after it."""
    path = unpacked("nvidia_smi.csv.gz", tmp_path)
    other = Store.create(tmp_path / "smi")
    assert take_in("nvidia-smi", path.name, read_query(path, tz=zone_of("+00:00"), host="node1"), other).ok
    pairs = samples.join_asof(
        scan(other, "device_samples").collect().sort("time"), on="time", strategy="nearest", tolerance="50ms"
    ).filter(pl.col("source_right").is_not_null())
    assert pairs.height > 1300
    for column, alike in {
        "power_average_w": 0.75, "power_instant_w": 0.6, "utilization_ratio": 0.9, "utilization_memory_ratio": 0.9,
        "clock_sm_hz": 0.75, "clock_memory_hz": 1.0, "temperature_c": 0.85, "temperature_memory_c": 0.85,
        "memory_used_bytes": 0.99, "power_limit_requested_w": 1.0, "performance_state": 1.0,
        "throttling_power": 0.9, "throttling_thermal": 1.0,
    }.items():  # fmt: skip
        ours, theirs = pairs[column].to_numpy(), pairs[f"{column}_right"].to_numpy()
        # nvidia-smi rounds to whole MiB, MHz and hundredths of a watt.
        assert np.mean(np.isclose(ours, theirs, rtol=1e-3)) >= alike, column
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.01), column


def test_the_sensors_of_an_h100_are_what_was_published(tmp_path: Path) -> None:
    """Its default is a mean of a second, the other one much shorter; both are renewed every 0.1 s, with some jitter."""
    read = pl.read_csv(unpacked("fast.csv.gz", tmp_path))
    time_s = (read["time_ns"].to_numpy() - read["time_ns"][0]) / 1e9
    average, instant = (read[name].to_numpy() / 1e3 for name in ("average_mw", "instant_mw"))
    assert (read["power_mw"] == read["average_mw"]).mean() > 0.99  # the call without provenance is the mean
    for watts in (average, instant):
        assert update_period(time_s, watts).update_period_s == pytest.approx(0.1, rel=0.05)
    joules = read["energy_mj"].to_numpy() / 1e3
    ticks = np.flatnonzero(np.diff(joules)) + 1
    assert np.median(np.diff(time_s[ticks])) == pytest.approx(0.1, rel=0.02)
    # Its own counter as the meter: mean power between two ticks.
    meter_s = (time_s[ticks[1:]] + time_s[ticks[:-1]]) / 2
    meter_w = np.diff(joules[ticks]) / np.diff(time_s[ticks])
    second = response(time_s, average, meter_s, meter_w)
    assert second is not None
    assert second.window.window_s == pytest.approx(1.0, rel=0.1)
    short = response(time_s, instant, meter_s, meter_w)
    assert short is not None
    assert short.window.at_most_s is not None
    assert short.window.at_most_s < 0.3


def test_joules_per_step_and_flop_are_those_of_the_training(store: Store, samples: pl.DataFrame) -> None:
    phase = next(phase for phase in phases() if phase["phase"] == "train")
    start, end = (datetime.fromtimestamp(phase[edge], UTC).replace(tzinfo=None) for edge in ("start", "end"))
    allocation = {"workload": "train-1", "device": samples["device"][0], "start": start, "end": end, "time": start}
    times = dict.fromkeys(("start", "end", "time"), pl.Datetime("ns"))
    allocations = pl.LazyFrame([allocation | {"share": 1.0}], schema_overrides=times)
    (found,) = efficiency(
        scan(store, "device_samples"), scan(store, "workload_samples"), allocations
    ).collect().to_dicts()  # fmt: skip
    training = during(samples, "train")
    watts = float(np.ptp(training["energy_j"].to_numpy()) / np.ptp(training["time_s"].to_numpy()))
    steps_per_s = phase["done"] / (phase["end"] - phase["start"])
    assert found["power_mean_w"] == pytest.approx(watts, rel=0.02)
    assert found["joules_per_step"] == pytest.approx(watts / steps_per_s, rel=0.03)
    assert found["steps"] == pytest.approx(phase["done"], rel=0.03)
    # What the job says it computed is what the tensor cores were seen to do, at the clock that the limit left them.
    counted = scan(store, "workload_samples").collect()
    flop_per_step = counted["work_flop"].max() / counted["steps"].max()  # type: ignore[operator]
    seen = training["activity_tensor_ratio"] * training["clock_sm_hz"] * FLOP_PER_CYCLE
    assert flop_per_step * steps_per_s == pytest.approx(seen.mean(), rel=0.05)
