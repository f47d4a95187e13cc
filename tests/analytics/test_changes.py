"""Changes found in descriptions, readings of limits and what engines say."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analytics.changes import changes, framework_name, framework_version, limits, rollouts, settings, workload_settings

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


def described(*rows: tuple[float, str, dict[str, Any]], source: str = "nvml") -> pl.LazyFrame:
    types = {"time": NS, "driver_version": pl.String, "firmware_version": pl.String, "mode": pl.String,
             "power_limit_w": pl.Float64}  # fmt: skip
    told = [
        {"device": device, "source": source, "host": f"host-{device}", "model": "X", "time": at(hour), **values}
        for hour, device, values in rows
    ]
    return pl.LazyFrame(told, schema_overrides=types)


def found(devices: pl.LazyFrame, samples: pl.LazyFrame | None = None) -> list[tuple[Any, ...]]:
    rows = changes(settings(devices, samples)).collect()
    return rows.select("subject", "what", "before", "after", "time").rows()


def test_a_description_with_another_driver_is_a_change() -> None:
    rows = found(described((0, "a", {"driver_version": "570"}), (5, "a", {"driver_version": "580"})))
    assert rows == [("a", "driver_version", "570", "580", at(5))]


def test_the_same_description_again_is_none() -> None:
    assert found(described(*((h, "a", {"driver_version": "570", "power_limit_w": 700.0}) for h in range(3)))) == []


def test_what_a_source_does_not_tell_is_no_change() -> None:
    rows = (0, "a", {"driver_version": "570"}), (1, "a", {"driver_version": None}), (2, "a", {"driver_version": "570"})
    assert found(described(*rows)) == []


def test_a_mode_is_named_where_it_is_a_special_one() -> None:
    rows = found(described((0, "a", {"mode": None}), (1, "a", {"mode": "mig"})))
    assert rows == [("a", "mode", "default", "mig", at(1))]


def test_two_sources_that_write_a_version_in_two_ways_are_no_change() -> None:
    one = described((0, "a", {"driver_version": "580.95.05"}), (4, "a", {"driver_version": "580.95.05"}))
    other = described((1, "a", {"driver_version": "580.95"}), (3, "a", {"driver_version": "580.95"}), source="scrape")
    assert found(pl.concat([one, other], how="diagonal")) == []


def test_a_limit_is_found_in_the_samples_when_it_changes() -> None:
    samples = pl.LazyFrame(
        {
            "device": ["a"] * 6,
            "source": ["nvml"] * 6,
            "host": ["h"] * 6,
            "time": [at(h) for h in range(6)],
            "power_limit_w": [700.0, 699.99, None, 500.0, 500.0, 500.0],
            "clock_sm_max_hz": [1.98e9] * 5 + [1.2e9],
        },
        schema_overrides={"time": NS},
    )
    rows = found(described((0, "a", {"power_limit_w": 700.0})), samples)
    assert rows == [
        ("a", "clock_limit", "1980 MHz", "1200 MHz", at(5)),
        ("a", "power_limit", "700 W", "500 W", at(3)),
    ]


def test_devices_that_change_within_a_day_are_one_rollout() -> None:
    rows: list[tuple[float, str, dict[str, Any]]] = []
    for number, hour in enumerate((10, 11, 20, 90)):
        rows += [(0, f"d{number}", {"driver_version": "570"}), (hour, f"d{number}", {"driver_version": "580"})]
    told = rollouts(changes(settings(described(*rows)))).collect()
    assert told.select("first", "last", "subjects", "hosts").rows() == [(at(10), at(20), 3, 3), (at(90), at(90), 1, 1)]
    assert told["where"][0] == "host-d0, host-d1, host-d2"
    assert not told["steered"].any()


def test_a_limit_set_to_and_fro_is_steered_and_no_rollout() -> None:
    rows = [(h, "a", {"power_limit_w": 700.0 if h % 2 else 500.0}) for h in range(12)]
    assert rollouts(changes(settings(described(*rows)))).collect()["steered"].all()


def test_a_service_that_comes_back_with_another_framework_changed() -> None:
    samples = pl.LazyFrame(
        {
            "workload": ["run-1", "run-1", "run-2", "other"],
            "host": ["h"] * 4,
            "time": [at(h) for h in range(4)],
            "model": ["llama"] * 4,
            "framework": ["vllm 0.10.1", "vllm 0.10.1", "vllm 0.11.0", "sglang 0.5"],
        },
        schema_overrides={"time": NS},
    )
    allocations = pl.LazyFrame(
        {
            "workload": ["run-1", "run-2"],
            "device": ["a", "a"],
            "start": [at(0), at(2)],
            "time": [at(0), at(2)],
            "name": ["chat", "chat"],
        },
        schema_overrides={"start": NS, "time": NS},
    )
    rows = changes(workload_settings(samples, allocations)).collect()
    assert rows.select("subject", "what", "before", "after").rows() == [
        ("chat@h", "framework_version", "0.10.1", "0.11.0")
    ]


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("vllm", "vllm", None),
        ("vllm 0.11.2", "vllm", "0.11.2"),
        ("vllm==0.11", "vllm", "0.11"),
        ("sglang v0.4", "sglang", "0.4"),
        ("TensorRT-LLM-0.9.1", "TensorRT-LLM", "0.9.1"),
        ("TensorRT 7.2.3, CUDA 11.1", "TensorRT", "7.2.3, CUDA 11.1"),
    ],
)
def test_a_framework_is_a_name_and_a_version(text: str, name: str, version: str | None) -> None:
    row = pl.DataFrame({"t": [text]}).select(framework_name(pl.col("t")), framework_version(pl.col("t")).alias("v"))
    assert row.row(0) == (name, version)


def test_nothing_described_is_nothing_changed() -> None:
    assert found(described((0, "a", {"driver_version": "570"})).filter(pl.lit(False))) == []


def busy(clock_mhz: list[float], *, flag: float | None = 0.0, power: float = 0.0, used: float = 0.9) -> pl.LazyFrame:
    """Half an hour at each clock of a device whose highest is 1980 MHz, which is told once an hour."""
    rows = [
        {"device": "a", "source": "nvml", "host": "h", "time": at(n / 2 + s / 3600), "utilization_ratio": used,
         "clock_sm_hz": clock * 1e6, "clock_sm_max_hz": 1980e6 if s == 0 else None, "throttling_setting": flag,
         "throttling_power": power}
        for n, clock in enumerate(clock_mhz)
        for s in range(0, 1800, 30)
    ]  # fmt: skip
    return pl.LazyFrame(rows, schema_overrides={"time": NS, "throttling_setting": pl.Float64})


KNOWN = described((0, "a", {"driver_version": "570"}))


def locked(samples: pl.LazyFrame) -> list[tuple[Any, ...]]:
    return [(before, after, time) for _, what, before, after, time in found(KNOWN, samples) if what == "clock_lock"]


def test_a_clock_that_comes_to_stand_below_the_highest_without_a_reason_was_locked() -> None:
    assert locked(busy([1980, 1410, 1980])) == [("none", "1410 MHz", at(0.5)), ("1410 MHz", "none", at(1))]


def test_a_driver_that_flags_a_setting_tells_a_lock_near_the_highest_clock() -> None:
    samples = pl.concat([busy([1980]), busy([1980, 1965], flag=1.0).filter(pl.col("time") >= at(0.5))])
    assert locked(samples) == [("none", "1965 MHz", at(0.5))]


@pytest.mark.parametrize(
    "samples",
    [
        busy([1980, 1410], power=1.0),
        busy([1980, 1410], used=0.1),
        busy([1980, 1410], flag=None),
        busy([1980, 1965, 1950]),
    ],
    ids=["held down by the power limit", "not in use", "of a source without flags", "a step down with heat"],
)
def test_what_is_no_lock_is_none(samples: pl.LazyFrame) -> None:
    assert locked(samples) == []


def test_a_lock_shows_through_a_stretch_that_tells_nothing() -> None:
    capped = busy([1980, 1410, 1300, 1410]).with_columns(
        throttling_power=pl.when(pl.col("clock_sm_hz") == 1300e6).then(1.0).otherwise(0.0)
    )
    assert locked(capped) == [("none", "1410 MHz", at(0.5))]


def test_limits_and_locks_of_a_day_can_be_put_together_from_its_parts() -> None:
    samples = busy([1980, 1410])
    assert found(KNOWN, limits(samples)) == found(KNOWN, samples) != []
