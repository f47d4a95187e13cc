"""How warm devices are for what they draw: who is compared with whom, and what creeps."""

import numpy as np
import polars as pl
import pytest

from analytics.anomalies.calibration import FEWEST_HOURS, judged
from analytics.anomalies.findings import scores
from analytics.anomalies.observations import device_windows
from analytics.anomalies.peers import Peers
from analytics.anomalies.rules import ScoreRule, parse_rules
from analytics.fleet import Fleet
from analytics.frames import schema
from collector.moments import NS
from collector.store.schema import ALLOCATIONS, DEVICE_ROLLUPS, DEVICES

START_NS = 1_767_225_600 * NS
HOUR_NS = 3600 * NS
HOSTS, PER_HOST, HOURS = 8, 8, 36
CREEPS, SINCE = 19, 27


def rollups(power_w: np.ndarray, temperature_c: np.ndarray, step_s: int = 3600) -> pl.LazyFrame:
    """Windows of devices (rows) after one another (columns)."""
    devices, steps = power_w.shape
    device = np.repeat(np.arange(devices), steps)
    told = pl.DataFrame(
        {
            "device": [f"GPU-{one:02}" for one in device],
            "host": [f"node-{one // PER_HOST}" for one in device],
            "source": ["s"] * device.size,
            "time": pl.Series(START_NS + np.tile(np.arange(steps), devices) * step_s * NS).cast(pl.Datetime("ns")),
            "window_s": np.full(device.size, step_s), "rows": np.full(device.size, 60),
            "covered_s": np.full(device.size, float(step_s)), "power_mean_w": power_w.ravel(),
            "temperature_mean_c": temperature_c.ravel(),
            **{f"throttle_{name}_increase_s": np.zeros(device.size)
               for name in ("thermal_hardware", "thermal", "power_brake")},
        }
    )  # fmt: skip
    wanted = schema(DEVICE_ROLLUPS)
    return told.select(
        (pl.col(name) if name in told.columns else pl.lit(None)).cast(kind).alias(name) for name, kind in wanted.items()
    ).lazy()


def windows(power_w: np.ndarray, temperature_c: np.ndarray, step_s: int = 3600) -> pl.DataFrame:
    empty = (pl.LazyFrame(schema=schema(table)) for table in (ALLOCATIONS, DEVICES))
    return device_windows(
        rollups(power_w, temperature_c, step_s), *empty, Fleet(), until_ns=START_NS + HOURS * HOUR_NS, step_s=step_s
    )


def fleet() -> tuple[np.ndarray, np.ndarray]:
    """Power and temperature: loads swing by host, coolers and slots differ lastingly, fans are a host's."""
    rng = np.random.default_rng(5)
    devices = HOSTS * PER_HOST
    hour, host = np.arange(HOURS), np.arange(devices) // PER_HOST
    load = 450 + 120 * np.sin((hour + 3 * host[:, None]) / 5.0)
    power = load * (1 + 0.01 * rng.standard_normal((devices, HOURS)))
    cooler = 0.07 * (1 + 0.04 * rng.standard_normal(devices))
    fans = 1 + 0.2 * np.sin((hour + host[:, None]) / 4.0)
    heat = 23 + cooler[:, None] * fans * power + 0.2 * rng.standard_normal((devices, HOURS))
    return power, heat


def told_of(power: np.ndarray, heat: np.ndarray) -> list[tuple[str, str]]:
    frame = windows(power, heat)
    frame = frame.with_columns(value=pl.col("resistance_c_per_w"), group=pl.col("air"))
    since_ns = START_NS + 24 * HOUR_NS
    fitted = Peers().fit(frame.filter(pl.col("time").to_physical() < since_ns))
    told = judged(pl.concat([frame, fitted.score(frame)], how="horizontal"), since_ns=since_ns, fewest=FEWEST_HOURS)
    table = told.with_columns(
        window_s=pl.lit(3600), detector=pl.lit("peers"), metric=pl.lit("resistance_c_per_w"), observed=pl.col("value")
    )
    found = scores(table.lazy(), parse_rules().of(ScoreRule), START_NS + HOURS * HOUR_NS)
    return [(one.rule.name, one.name) for one in found if one.enough_ns is not None]


def test_a_sensor_that_creeps_is_found_by_the_heat_that_does_not() -> None:
    power, heat = fleet()
    power[CREEPS, SINCE:] *= 1 + 0.08 * np.linspace(0.2, 1, HOURS - SINCE)
    assert told_of(power, heat) == [("heat_disagrees", f"GPU-{CREEPS:02}")]


def test_a_fleet_that_is_well_has_no_sensor_that_creeps() -> None:
    assert told_of(*fleet()) == []


def test_a_load_that_rises_with_its_heat_is_no_sensor_that_creeps() -> None:
    power, heat = fleet()
    power[CREEPS, SINCE:] *= 1.15
    heat[CREEPS, SINCE:] = 23 + (heat[CREEPS, SINCE:] - 23) * 1.15
    assert told_of(power, heat) == []


def test_what_a_counter_counted_through_a_gap_is_no_power_of_the_time_that_was_read() -> None:
    power, heat = np.full((8, 2), 400.0), np.full((8, 2), 60.0)
    told = rollups(power, heat).with_columns(energy_increase_j=pl.lit(410.0 * 3600))
    gap = pl.col("device") == "GPU-02"
    told = told.with_columns(covered_s=pl.when(gap).then(3000.0).otherwise("covered_s"))
    empty = (pl.LazyFrame(schema=schema(table)) for table in (ALLOCATIONS, DEVICES))
    found = device_windows(told, *empty, Fleet(), until_ns=START_NS + HOURS * HOUR_NS, step_s=3600)
    assert dict(found.group_by("subject").agg(pl.col("power_w").max()).sort("subject").head(3).iter_rows()) == {
        "GPU-00": 410.0, "GPU-01": 410.0, "GPU-02": 400.0,
    }  # fmt: skip


def test_who_passes_the_median_of_its_host_moves_nobody_else() -> None:
    """Coolers differ lastingly, and one in the middle creeps: those left of it and right of it are as they were."""
    power, heat = np.full((64, HOURS), 400.0), np.empty((64, HOURS))
    cooler = 0.07 * (1 + 0.06 * (np.arange(64) % PER_HOST))
    heat[:] = 22 + cooler[:, None] * power + 0.1 * np.random.default_rng(1).standard_normal((64, HOURS))
    drifts = 4
    power[drifts, SINCE:] *= 1 + 0.12 * np.linspace(0.2, 1, HOURS - SINCE)
    frame = windows(power, heat).with_columns(value=pl.col("resistance_c_per_w"), group=pl.col("air"))
    since_ns = START_NS + 24 * HOUR_NS
    fitted = Peers().fit(frame.filter(pl.col("time").to_physical() < since_ns))
    told = judged(pl.concat([frame, fitted.score(frame)], how="horizontal"), since_ns=since_ns, fewest=FEWEST_HOURS)
    last = told.filter((pl.col("host") == "node-0") & (pl.col("time") == told["time"].max())).sort("subject")
    off = last["off"].to_numpy()
    assert off[drifts] == pytest.approx(-np.log(1.12), abs=0.01)
    assert np.abs(np.delete(off, drifts)).max() < 0.01


def test_cooling_is_compared_among_devices_of_a_host_that_draw_alike_and_are_warm() -> None:
    power = np.full((8, 2), 400.0)
    heat = np.full((8, 2), 60.0)
    power[1], heat[1] = 90.0, 45.0  # it idles: the air that others warm would make its cooler look bad
    heat[2] = 30.0  # too cold to tell
    found = windows(power, heat).filter(pl.col("time").to_physical() == START_NS)
    ratio = dict(found.select("subject", "resistance_c_per_w").iter_rows())
    assert ratio["GPU-00"] == (60.0 - 22.0) / 400.0
    assert ratio["GPU-01"] is None
    assert ratio["GPU-02"] is None


def test_a_host_of_few_devices_has_nobody_to_compare_its_cooling_with() -> None:
    found = windows(np.full((4, 2), 400.0), np.full((4, 2), 60.0))
    assert found["air"].null_count() == found.height
    assert found["resistance_c_per_w"].null_count() == found.height
