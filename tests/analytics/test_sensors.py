"""What a sensor does, from what a sensor of known period and window would have shown."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from analytics.sensors import arrays, response, sensors, update_period, window_from_edges
from collector.imports.clocks import zone_of
from collector.imports.nvidia_smi import read_query

Floats = NDArray[np.float64]
DATA = Path(__file__).parents[2] / "../shared/data/sensors"


def jumps(time_s: Floats) -> Floats:
    """Steps between 60 and 200 W: 3 s each, from second 2 on."""
    return np.where((time_s > 2) & ((time_s - 2) // 3 % 2 == 0), 200.0, 60.0)


def square(time_s: Floats) -> Floats:
    """52 ms on, 52 ms off from second 2 to 10, as a kernel that is launched again and again."""
    return np.where((time_s > 2) & (time_s < 10) & ((time_s - 2) % 0.1043 < 0.052), 200.0, 65.0)


def steady(time_s: Floats) -> Floats:
    return np.full_like(time_s, 150.0)


def recording(
    load: Callable[[Floats], Floats],
    *,
    window_s: float,
    period_s: float = 0.1,
    polled_s: float = 0.012,
    length_s: float = 12.0,
    settling: bool = False,
    gain: float = 0.95,
    offset_w: float = -2.0,
    seed: int = 1,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Readings, and a meter of 5 ms: a sensor that renews its value each *period_s* with a mean over *window_s*."""
    random = np.random.default_rng(seed)
    fine = np.arange(0, length_s, 0.0005)
    power = load(fine)
    joules = np.concatenate([[0.0], np.cumsum(power[1:] * 0.0005)])
    updates = np.arange(0.013, length_s, period_s)
    if settling:
        kernel = np.exp(-np.arange(0, window_s * 5, 0.0005) / (window_s / 2))
        seen = np.interp(updates, fine, np.convolve(power, kernel / kernel.sum())[: len(fine)])
    else:
        begins = np.maximum(updates - window_s, 0)
        seen = (np.interp(updates, fine, joules) - np.interp(begins, fine, joules)) / np.maximum(updates - begins, 1e-3)
    # Rounded as a sensor does, so that an idle board often shows the same value again.
    shown = np.round((gain * seen + offset_w + random.normal(0, 0.15, len(updates))) / 0.3) * 0.3
    polls = np.cumsum(polled_s * random.uniform(0.9, 1.1, int(length_s / polled_s)))
    polls = polls[(polls > updates[0]) & (polls < length_s)]
    meter_s = np.arange(0.005, length_s, 0.005)
    meter_w = np.diff(np.interp(np.concatenate([[0.0], meter_s]), fine, joules)) / 0.005
    return polls, shown[np.searchsorted(updates, polls) - 1], meter_s - 0.0025, meter_w


# ------------------------------------------------------------------------------------------------------- update period


@pytest.mark.parametrize(("period_s", "polled_s"), [(0.1, 0.012), (0.1, 0.03), (0.02, 0.007), (0.02, 0.0125)])
def test_the_update_period_is_found_though_values_repeat_and_readings_are_late(
    period_s: float, polled_s: float
) -> None:
    time_s, watts, _, _ = recording(square, window_s=0.02, period_s=period_s, polled_s=polled_s)
    found = update_period(time_s, watts)
    assert found.update_period_s == pytest.approx(period_s, abs=0.003)
    assert found.standard_error_s is not None
    assert found.standard_error_s < 0.02 * period_s


def test_where_most_renewals_leave_the_value_as_it_was_the_period_is_no_multiple() -> None:
    renewed = np.cumsum(np.random.default_rng(4).random(600) < 0.35).astype(float)
    time_s = np.arange(0, 60, 0.012)
    found = update_period(time_s, renewed[np.minimum((time_s / 0.1).astype(int), 599)])
    assert found.update_period_s == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("polled_s", [0.1, 0.15, 1.0])
def test_the_readers_own_period_is_not_taken_for_the_sensors(polled_s: float) -> None:
    time_s, watts, _, _ = recording(jumps, window_s=0.1, polled_s=polled_s, length_s=200)
    found = update_period(time_s, watts)
    assert found.update_period_s is None
    assert found.reason is not None
    assert "too slow" in found.reason


def test_a_value_that_hardly_changes_tells_no_period() -> None:
    time_s = np.arange(0, 60, 0.01)
    found = update_period(time_s, np.where(time_s < 30, 60.0, 61.0))
    assert (found.update_period_s, found.updates) == (None, 1)
    assert found.reason == "the value changed 1 times; 30 changes are needed"


def test_changes_at_no_fixed_period_are_no_period() -> None:
    random = np.random.default_rng(3)
    at = np.cumsum(random.exponential(0.3, 200) + 0.02)
    time_s = np.arange(0, at[-1], 0.01)
    found = update_period(time_s, np.searchsorted(at, time_s).astype(float))
    assert found.update_period_s is None
    assert found.reason is not None
    assert "no fixed period" in found.reason


def test_two_readings_are_too_few() -> None:
    assert update_period(np.array([0.0, 1.0]), np.array([5.0, 6.0])).reason == "2 readings; 3 are needed"


# ---------------------------------------------------------------------------------------------------------- from edges


@pytest.mark.parametrize("window_s", [0.5, 1.0])
def test_a_ramp_is_as_long_as_the_window(window_s: float) -> None:
    time_s, watts, _, _ = recording(jumps, window_s=window_s, length_s=14)
    found = window_from_edges(time_s, watts, 0.1)
    assert found.window_s == pytest.approx(window_s, rel=0.1)
    assert found.at_most_s is not None
    assert found.at_most_s >= window_s


def test_a_window_below_three_updates_is_not_guessed() -> None:
    time_s, watts, _, _ = recording(jumps, window_s=0.025)
    found = window_from_edges(time_s, watts, 0.1)
    assert found.window_s is None
    assert found.reason is not None
    assert "meter" in found.reason
    assert found.at_most_s is not None
    assert 0.025 < found.at_most_s < 0.3


def test_one_ramp_may_be_the_load_itself() -> None:
    time_s, watts, _, _ = recording(lambda t: np.where(t > 3, 200.0, 60.0), window_s=1.0, length_s=8)
    found = window_from_edges(time_s, watts, 0.1)
    assert found.window_s is None
    assert found.reason == "one ramp only: the load may have risen slowly itself"


def test_loads_that_rise_at_different_speeds_are_no_window() -> None:
    points = [(0, 60.0), (3, 60.0), (3.5, 200.0), (7, 200.0), (9, 60.0), (12, 60.0)]
    time_s, watts, _, _ = recording(lambda t: np.interp(t, *zip(*points, strict=True)), window_s=0.025)
    found = window_from_edges(time_s, watts, 0.1)
    assert found.window_s is None
    assert found.reason is not None
    assert "do not agree" in found.reason


def test_without_a_jump_no_window_shows() -> None:
    time_s, watts, _, _ = recording(steady, window_s=1.0)
    assert window_from_edges(time_s, watts, 0.1).window_s is None


# -------------------------------------------------------------------------------------------------------- with a meter


@pytest.mark.parametrize(("load", "window_s"), [(square, 0.025), (square, 0.05), (jumps, 0.4), (jumps, 1.0)])
def test_beside_a_meter_the_window_is_found_even_where_a_load_aliases(
    load: Callable[[Floats], Floats], window_s: float
) -> None:
    found = response(*recording(load, window_s=window_s))
    assert found is not None
    assert found.window.window_s == pytest.approx(window_s, rel=0.15)
    assert found.window.shape == "mean"
    assert found.window.lag_s == pytest.approx(0.0, abs=0.012 + 0.05 * window_s)


def test_a_sensor_that_settles_is_told_from_one_that_averages() -> None:
    found = response(*recording(square, window_s=0.03, settling=True))
    assert found is not None
    assert (found.window.shape, found.window.window_s) == ("settling", pytest.approx(0.03, rel=0.15))


@pytest.mark.parametrize("clock_s", [-0.8, 0.35])
def test_clocks_that_differ_are_the_lag(clock_s: float) -> None:
    time_s, watts, meter_s, meter_w = recording(jumps, window_s=0.1, length_s=14)
    found = response(time_s + clock_s, watts, meter_s, meter_w)
    assert found is not None
    assert found.window.lag_s == pytest.approx(clock_s, abs=0.02)


def test_two_jumps_do_not_tell_a_short_window_and_it_is_said_so() -> None:
    found = response(*recording(lambda t: np.where((t > 3) & (t < 8), 200.0, 60.0), window_s=0.025))
    assert found is not None
    assert found.window.window_s is None
    assert found.window.reason is not None
    assert "alike" in found.window.reason
    assert found.window.at_most_s is not None
    assert found.window.at_most_s >= 0.025


def test_a_meter_of_another_hour_answers_nothing() -> None:
    time_s, watts, meter_s, meter_w = recording(jumps, window_s=0.1)
    assert response(time_s + 3600, watts, meter_s, meter_w) is None


# --------------------------------------------------------------------------------------------------------------- frames


def frame(time_s: Floats, watts: Floats, device: str) -> pl.DataFrame:
    return pl.DataFrame({"time": np.round(time_s * 1e9).astype(np.int64), "power_w": watts}).with_columns(
        pl.col("time").cast(pl.Datetime("ns")), device=pl.lit(device), source=pl.lit("smi")
    )


def test_devices_are_told_apart_in_any_order_of_rows() -> None:
    fast, slow = recording(jumps, window_s=1.0, length_s=14), recording(jumps, window_s=0.1, polled_s=1.0, length_s=60)
    both = pl.concat([frame(*fast[:2], "fast"), frame(*slow[:2], "slow")])
    found = sensors(both.sample(fraction=1.0, shuffle=True, seed=5).lazy()).collect()
    assert found.equals(sensors(both.lazy()).collect())
    first, second = found.to_dicts()
    assert first["update_period_s"] == pytest.approx(0.1, abs=0.003)
    assert first["window_s"] == pytest.approx(1.0, rel=0.1)
    assert (second["update_period_s"], second["window_s"]) == (None, None)
    assert "update period" in second["reason"]


def test_no_rows_are_no_sensors() -> None:
    empty = frame(np.array([]), np.array([]), "x").lazy()
    assert sensors(empty).collect().is_empty()


# ----------------------------------------------------------------------------------------------------------- recordings


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data/sensors")
@pytest.mark.parametrize(
    ("name", "period_s", "within_s"),
    [
        ("update_period/A100_gpudata.csv", 0.1, 0.005),
        ("update_period/V100_gpudata.csv", 0.02, 0.003),
        ("5050_A100/gpudata.csv", 0.1, 0.005),
        ("Transient_Response_A100_TR/gpudata.csv", 0.1, 0.005),
        ("5050_3090/gpudata.csv", 0.1, 0.005),
        ("Transient_Response_3090_TR/gpudata.csv", 0.1, 0.005),
    ],
)
def test_recorded_boards_update_as_published(name: str, period_s: float, within_s: float) -> None:
    (unit,) = read_query(DATA / name, tz=zone_of("+01:00"), devices={"": "GPU"})
    time_s, watts, _ = arrays(unit.frames["device_samples"], "power_w")
    assert update_period(time_s, watts).update_period_s == pytest.approx(period_s, abs=within_s)
