"""A board beside a meter: the fit, what it refuses, and figures with their intervals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import cli
from analytics.boards import latest_fits
from analytics.calibration import FIT, calibrate, calibrated_energy
from collector.errors import NotEnoughData
from collector.imports.clocks import zone_of
from collector.imports.nvidia_smi import read_query
from collector.store import Store

Floats = NDArray[np.float64]
DATA = Path(__file__).parents[2] / "../shared/data/sensors"
T0 = 1_767_225_600_000_000_000
GAIN, OFFSET_W = 0.93, 4.0


def square(time_s: Floats) -> Floats:
    """52 ms on, 52 ms off from second 1 to 9: slow swings, to a sensor that looks each 101 ms for 25 ms."""
    return np.where((time_s > 1) & (time_s < 9) & ((time_s - 1) % 0.1043 < 0.052), 200.0, 65.0)


def slow(time_s: Floats) -> Floats:
    return np.where((time_s > 1) & ((time_s - 1) % 4 < 2), 200.0, 65.0)


def board(
    load: Callable[[Floats], Floats],
    busy: Callable[[Floats], Floats] | None = None,
    window_s: float = 0.025,
    jitter_s: float = 0.0,
) -> tuple[pl.LazyFrame, pl.LazyFrame, float]:
    """Readings of a board that shows 0.93 of the power and 4 W more, a meter of 5 ms, and the joules."""
    random = np.random.default_rng(7)
    fine = np.arange(0, 11, 0.0005)
    power = load(fine)
    joules = np.concatenate([[0.0], np.cumsum(power[1:] * 0.0005)])
    updates = np.arange(0.05, 10.99, 0.1012)
    ends = updates + random.uniform(-jitter_s, jitter_s, len(updates))
    begins = np.maximum(ends - window_s, 0)
    seen = (np.interp(ends, fine, joules) - np.interp(begins, fine, joules)) / (ends - begins)
    shown = GAIN * seen + OFFSET_W + random.normal(0, 0.2, len(updates))
    polls = np.arange(0.06, 10.99, 0.012)
    meter_s = np.arange(0.005, 10.99, 0.005)
    meter_w = np.diff(np.interp(np.concatenate([[0.0], meter_s]), fine, joules)) / 0.005
    samples = columns(polls, power_w=shown[np.searchsorted(updates, polls) - 1]).with_columns(
        device=pl.lit("GPU"), source=pl.lit("smi"), utilization_ratio=(busy or (lambda t: t * 0))(polls)
    )
    meter = columns(meter_s - 0.0025, meter_power_w=meter_w).with_columns(meter=pl.lit("pmd"))
    return samples.lazy(), meter.lazy(), float(np.interp(polls[-1], fine, joules) - np.interp(polls[0], fine, joules))


def columns(time_s: Floats, **values: Floats) -> pl.DataFrame:
    nanoseconds = T0 + np.round(time_s * 1e9).astype(np.int64)
    return pl.DataFrame({"time": nanoseconds, **values}).with_columns(pl.col("time").cast(pl.Datetime("ns")))


def fit(**more: Any) -> pl.LazyFrame:
    """A calibration as the store has it."""
    row = {
        "device": "GPU", "metric": "power_w", "time": T0, "gain_ratio": 0.9, "offset_w": 10.0, "gain_error_ratio": 0.0,
        "offset_error_w": 0.0, "gain_offset_covariance_w": 0.0, "reference_error_ratio": 0.01, "update_period_s": 0.1,
        "window_s": 1.0,
    }  # fmt: skip
    return pl.LazyFrame([row | more], schema_overrides=FIT)


def constant(power_w: float, **more: Any) -> pl.LazyFrame:
    rows = columns(np.arange(0.0, 101.0), power_w=np.full(101, power_w))
    return rows.with_columns(
        **{name: pl.lit(value) for name, value in {"device": "GPU", "source": "smi", **more}.items()}
    ).lazy()


def only(frame: pl.LazyFrame) -> dict[str, Any]:
    return frame.collect().row(0, named=True)


# -------------------------------------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize(("load", "window_s"), [(square, 0.025), (slow, 0.025), (slow, 1.0)])
def test_gain_and_offset_are_found_whatever_the_sensor_misses(
    load: Callable[[Floats], Floats], window_s: float
) -> None:
    samples, meter, _ = board(load, window_s=window_s)
    found = calibrate(samples, meter).row(0, named=True)
    assert found["gain_ratio"] == pytest.approx(GAIN, abs=0.01)
    assert found["offset_w"] == pytest.approx(OFFSET_W, abs=1.5)
    assert found["gain_error_ratio"] < 0.01
    assert (found["device"], found["reference"], found["metric"]) == ("GPU", "pmd", "power_w")
    assert found["update_period_s"] == pytest.approx(0.1012, abs=0.001)


def test_a_clock_that_jitters_does_not_lower_the_gain() -> None:
    samples, meter, _ = board(square, jitter_s=0.01)
    assert calibrate(samples, meter)["gain_ratio"].item() == pytest.approx(GAIN, abs=0.01)


def test_the_order_of_rows_does_not_matter() -> None:
    samples, meter, _ = board(slow)
    mixed = [frame.collect().sample(fraction=1.0, shuffle=True, seed=2).lazy() for frame in (samples, meter)]
    assert calibrate(*mixed).equals(calibrate(samples, meter))


def test_a_steady_load_cannot_tell_gain_from_offset() -> None:
    samples, meter, _ = board(lambda t: 150 + 5 * np.sin(t * 3))
    with pytest.raises(NotEnoughData, match="the load must vary by 20% of its maximum"):
        calibrate(samples, meter)


def test_a_meter_of_another_board_is_refused() -> None:
    samples, _, _ = board(slow)
    other = np.random.default_rng(1).uniform(60, 200, 110)
    _, meter, _ = board(lambda t: other[(t * 10).astype(int)])
    with pytest.raises(NotEnoughData, match="measures something else"):
        calibrate(samples, meter)


def test_recordings_of_different_hours_are_refused() -> None:
    samples, meter, _ = board(slow)
    with pytest.raises(NotEnoughData, match="not measured at the same time"):
        calibrate(samples.with_columns(pl.col("time").dt.offset_by("1h")), meter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"source": pl.when(pl.col("power_w") > 100).then(pl.lit("a")).otherwise(pl.lit("b"))},
            "several of source: a, b",
        ),
        ({"power_w": pl.lit(None, pl.Float64)}, "0 readings"),
    ],
)
def test_what_cannot_be_fitted_is_said(change: dict[str, pl.Expr], said: str) -> None:
    samples, meter, _ = board(slow)
    with pytest.raises(NotEnoughData, match=said):
        calibrate(samples.with_columns(**change), meter)


# -------------------------------------------------------------------------------------------------------------- figures


def test_without_a_calibration_a_figure_is_good_to_five_percent() -> None:
    found = only(calibrated_energy(constant(100.0), fit(device="other")))
    assert (found["energy_j"], found["calibrated"]) == (10_000.0, False)
    assert (found["energy_low_j"], found["energy_high_j"]) == (pytest.approx(9_500), pytest.approx(10_500))


def test_a_calibrated_figure_is_corrected_and_has_the_meters_interval() -> None:
    found = only(calibrated_energy(constant(100.0), fit()))
    assert found["energy_j"] == pytest.approx((10_000 - 10 * 100) / 0.9)
    assert found["energy_raw_j"] == 10_000.0
    assert [found[f"power_{which}_w"] for which in ("min", "mean", "max")] == [pytest.approx(100.0)] * 3
    assert found["energy_high_j"] - found["energy_j"] == pytest.approx(100.0)
    assert found["energy_j"] - found["energy_low_j"] == pytest.approx(100.0)


def test_the_uncertainty_of_gain_and_offset_is_carried_with_their_covariance() -> None:
    errors = {"gain_error_ratio": 0.02, "offset_error_w": 1.5, "gain_offset_covariance_w": -0.015}
    found = only(calibrated_energy(constant(100.0), fit(**errors, reference_error_ratio=0.0)))
    variance = (10_000**2 * 0.02**2 + 100**2 * 1.5**2 - 2 * 10_000 * 100 * 0.015) / 0.9**2
    assert found["energy_high_j"] - found["energy_j"] == pytest.approx(1.96 * variance**0.5)


def test_modelled_energy_has_no_interval_and_no_sensor_to_calibrate() -> None:
    found = only(calibrated_energy(constant(100.0, power_method="modelled"), fit()))
    assert (found["energy_j"], found["calibrated"]) == (10_000.0, False)
    assert (found["energy_low_j"], found["energy_high_j"]) == (None, None)


def test_a_calibrated_boards_counter_is_set_aside_and_anothers_is_kept() -> None:
    counted = pl.concat([constant(100.0), constant(100.0, device="other")]).with_columns(
        energy_j=(pl.col("time").cast(pl.Int64) - T0) / 1e9 * 120
    )
    one, other = calibrated_energy(counted, fit()).collect().to_dicts()
    assert (one["device"], one["energy_raw_j"], one["counter_j"]) == ("GPU", pytest.approx(10_000), 0.0)
    assert (other["device"], other["energy_j"]) == ("other", pytest.approx(12_000))


def test_windows_are_corrected_one_by_one_and_add_up() -> None:
    whole = only(calibrated_energy(constant(100.0), fit()))
    parts = calibrated_energy(constant(100.0), fit(), by="20s").collect()
    assert parts.height == 5
    assert parts["energy_j"].sum() == pytest.approx(whole["energy_j"])


def test_the_latest_calibration_of_the_metric_holds() -> None:
    old, new = fit(gain_ratio=0.5), fit(time=T0 + 5, gain_ratio=0.8)
    other = fit(time=T0 + 9, metric="power_instant_w", gain_ratio=0.1)
    assert latest_fits(pl.concat([new, other, old])).collect()["gain_ratio"].to_list() == [0.8]


def test_no_samples_are_no_figures() -> None:
    assert calibrated_energy(constant(100.0).filter(pl.col("power_w") < 0), fit()).collect().is_empty()


# ---------------------------------------------------------------------------------------------------------------- beats


def half_busy(time_s: Floats) -> Floats:
    return np.where((time_s > 1.2) & (time_s < 9.2), 0.5, 0.0)


def test_swings_that_are_beats_of_a_part_time_sensor_are_evened_out() -> None:
    samples, meter, joules = board(square, half_busy)
    known = latest_fits(calibrate(samples, meter).lazy())
    found = only(calibrated_energy(samples, known))
    plain = (found["energy_raw_j"] - OFFSET_W * found["covered_s"]) / GAIN
    assert abs(plain / joules - 1) > 0.025
    assert found["energy_j"] == pytest.approx(joules, rel=0.02)
    assert found["energy_low_j"] < joules < found["energy_high_j"]
    assert found["energy_low_j"] < plain < found["energy_high_j"]


def test_work_that_comes_and_goes_is_no_beat() -> None:
    samples, meter, joules = board(slow, lambda t: np.where(slow(t) > 100, 0.9, 0.1))
    found = only(calibrated_energy(samples, latest_fits(calibrate(samples, meter).lazy())))
    assert found["beats_j"] is None
    assert found["energy_j"] == pytest.approx(joules, rel=0.02)


def test_a_sensor_that_sees_all_the_time_has_no_beats() -> None:
    samples, _, _ = board(square, half_busy)
    found = only(calibrated_energy(samples, fit(window_s=0.1, update_period_s=0.1)))
    assert found["beats_j"] is None


# --------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def root(tmp_path: Path) -> Path:
    samples, meter, _ = board(slow)
    store = Store.create(tmp_path / "store")
    store.write("device_samples", samples.collect())
    store.write("facility_samples", meter.with_columns(source=pl.lit("meter")).collect())
    return store.root


def run(*words: object) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_calibrate_is_kept_and_energy_uses_it(root: Path) -> None:
    before = json.loads(run("energy", "--store", root, "--calibration", "-o", "json").stdout)["rows"][0]
    made = run("calibrate", "GPU", "--meter", "pmd", "--store", root, "-o", "json")
    assert made.exit_code == 0, made.stderr
    after = json.loads(run("energy", "--store", root, "--calibration", "-o", "json").stdout)["rows"][0]
    names = [column["name"] for column in json.loads(made.stdout)["columns"]]
    assert names == list(FIT)
    assert before != after


def test_a_dry_run_keeps_nothing(root: Path) -> None:
    assert run("calibrate", "GPU", "--meter", "pmd", "--store", root, "--dry-run").exit_code == 0
    assert "calibrations" not in Store(root).tables()


def test_an_unknown_meter_is_said_and_keeps_nothing(root: Path) -> None:
    found = run("calibrate", "GPU", "--meter", "none", "--store", root)
    assert (found.exit_code, "no meter was measured" in found.stderr) == (1, True)
    assert "calibrations" not in Store(root).tables()


def test_sensors_tells_the_update_period(root: Path) -> None:
    found = run("sensors", "--store", root, "--check", "update_period_s<0.1", "--check", "update_period_s>0.103")
    assert found.exit_code == 0, found.stderr


# ----------------------------------------------------------------------------------------------------------- recordings


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data/sensors")
@pytest.mark.parametrize(
    ("fitted", "tested"),
    [
        ("5050_A100", "Transient_Response_A100_TR"),
        ("Transient_Response_A100_TR", "5050_A100"),
        ("5050_3090", "Transient_Response_3090_TR"),
        ("Transient_Response_3090_TR", "5050_3090"),
    ],
)
def test_a_calibration_holds_on_another_recording_of_the_same_board(fitted: str, tested: str) -> None:
    known = latest_fits(calibrate(*recorded(fitted)).lazy())
    samples, meter = recorded(tested)
    first, last = meter.select(pl.col("time").min(), last=pl.col("time").max()).collect().row(0)
    held = meter.collect().with_columns(span=pl.col("time").diff().dt.total_nanoseconds() / 1e9)
    power = held.select((pl.col("meter_power_w") * pl.col("span")).sum() / pl.col("span").sum()).item()
    found = only(calibrated_energy(samples.filter(pl.col("time").is_between(first, last)), known))
    expected = power * found["covered_s"]
    assert found["energy_j"] == pytest.approx(expected, rel=0.02)
    assert found["energy_low_j"] < expected < found["energy_high_j"]


def recorded(name: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    (unit,) = read_query(DATA / name / "gpudata.csv", tz=zone_of("+01:00"), devices={"": "GPU"})
    meter = pl.scan_csv(DATA / name / "meter_5ms.csv").select(
        meter=pl.lit("pmd"), time=(pl.col("unix_ms") * 10**6).cast(pl.Datetime("ns")), meter_power_w="pmd_w"
    )
    return unit.frames["device_samples"].lazy(), meter
