"""Intervals against what many fleets of boards, each board off by a gain of its own, come to."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics.attribution import attribute, attribution, host_lines
from analytics.efficiency import efficiency, efficiency_by_place
from analytics.energy import energy
from analytics.intervals import BOUNDS, SIGMAS, UNCALIBRATED_RATIO, bounds, total

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
SIGMA = UNCALIBRATED_RATIO / SIGMAS
TRIALS = 20_000


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def board(name: str, power_w: float, *, counter: float | None = None, host: str = "h", **more: Any) -> pl.LazyFrame:
    """Ten minutes of a device; its counter tells *counter* times what its power does."""
    rows = [
        {"device": name, "source": "s", "host": host, "time": at(s), "power_w": power_w, "utilization_ratio": 0.5,
         "energy_j": None if counter is None else counter * power_w * s, **more}
        for s in range(0, 601, 10)
    ]  # fmt: skip
    return pl.LazyFrame(rows, schema_overrides={"time": NS, "energy_j": pl.Float64})


def held(*rows: tuple[str, str]) -> pl.LazyFrame:
    told = [{"workload": w, "device": d, "start": at(0), "end": at(600), "time": at(0)} for w, d in rows]
    return pl.LazyFrame(told, schema_overrides={"start": NS, "end": NS, "time": NS})


def tokens(rate: float, *workloads: str) -> pl.LazyFrame:
    rows = [
        {"workload": w, "source": "v", "model": "m", "time": at(s), "tokens_out": rate * s}
        for w in workloads
        for s in range(0, 601, 10)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS})


def half(row: dict[str, Any], name: str = "energy_high_j", of: str = "energy_j") -> float:
    return float(row[name] - row[of])


def only(frame: pl.LazyFrame) -> dict[str, Any]:
    return frame.collect().row(0, named=True)


def parts(joules: np.ndarray, error: float = UNCALIBRATED_RATIO) -> pl.LazyFrame:
    """A row for each board (rows of *joules*) and hour (columns)."""
    boards, hours = joules.shape
    told = pl.LazyFrame(
        {
            "fleet": "all",
            "device": np.repeat([f"b{n}" for n in range(boards)], hours),
            "hour": np.tile(np.arange(hours), boards),
            "energy_j": joules.ravel(),
        }
    )
    value = pl.col("energy_j")
    return told.with_columns(*bounds(value, error * value))


# ------------------------------------------------------------------------------------------------- against Monte Carlo


def test_a_sum_over_boards_and_hours_is_as_sure_as_many_fleets_show() -> None:
    random = np.random.default_rng(5)
    joules = random.uniform(1e5, 2e6, (12, 6))
    seen = ((1 + random.normal(0, SIGMA, (TRIALS, 12)))[:, :, None] * joules).sum(axis=(1, 2))
    found = half(only(total(parts(joules), ["fleet"])))
    assert found == pytest.approx(SIGMAS * seen.std(), rel=0.03)
    assert np.mean(np.abs(seen - joules.sum()) <= found) == pytest.approx(0.95, abs=0.006)


def test_hours_of_one_board_do_not_average_its_error_out() -> None:
    random = np.random.default_rng(5)
    joules = random.uniform(1e5, 2e6, (1, 100))
    seen = (1 + random.normal(0, SIGMA, TRIALS)) * joules.sum()
    found = half(only(total(parts(joules), ["fleet"])))
    assert found == pytest.approx(SIGMAS * seen.std(), rel=0.03)
    assert found == pytest.approx(UNCALIBRATED_RATIO * joules.sum())


def test_boards_beside_one_meter_share_its_error_and_those_beside_two_do_not() -> None:
    random = np.random.default_rng(5)
    joules = random.uniform(1e5, 2e6, (10, 3))
    own, meter = 0.005, 0.01
    reference = ["m1"] * 6 + ["m2"] * 4
    fits = pl.LazyFrame(
        {"device": [f"b{n}" for n in range(10)], "reference": reference, "reference_error_ratio": [meter] * 10}
    )
    meters = random.normal(0, meter / SIGMAS, (TRIALS, 2))[:, [int(name == "m2") for name in reference]]
    seen = ((1 + random.normal(0, own / SIGMAS, (TRIALS, 10)) + meters) * joules.sum(axis=1)).sum(axis=1)
    beside = parts(joules, float(np.hypot(own, meter))).join(fits, on="device")
    found = half(only(total(beside, ["fleet"])))
    assert found == pytest.approx(SIGMAS * seen.std(), rel=0.03)
    alone = half(only(total(parts(joules, float(np.hypot(own, meter))), ["fleet"])))
    assert alone < 0.7 * found


def test_joules_per_token_of_a_group_are_as_sure_as_many_groups_show() -> None:
    watts = np.array([300.0, 500.0, 700.0])
    samples = pl.concat([board(f"b{n}", w) for n, w in enumerate(watts)])
    allocations = held(*(("chat", f"b{n}") for n in range(3)))
    seen = ((1 + np.random.default_rng(1).normal(0, SIGMA, (TRIALS, 3))) * watts).sum(axis=1) / 100.0
    found = only(efficiency(samples, tokens(100.0, "chat"), allocations))
    told = only(attribution(attribute(samples, allocations), workload_samples=tokens(100.0, "chat")))
    place = only(efficiency_by_place(samples, tokens(100.0, "chat"), allocations))
    for row in (found, told, place):
        assert half(row, "joules_per_token_high", "joules_per_token") == pytest.approx(SIGMAS * seen.std(), rel=0.03)
        middle = (row["joules_per_token_low"] + row["joules_per_token_high"]) / 2
        assert middle == pytest.approx(row["joules_per_token"]) == pytest.approx(15.0)


def test_what_a_host_draws_beyond_its_devices_is_as_sure_as_all_their_sensors() -> None:
    samples = pl.concat([board("a", 300.0), board("b", 500.0)])
    machine = pl.LazyFrame(
        [{"host": "h", "source": "bmc", "time": at(s), "platform_power_w": 1000.0, "platform_energy_j": None}
         for s in range(0, 601, 10)],
        schema_overrides={"time": NS, "platform_energy_j": pl.Float64},
    )  # fmt: skip
    gains = 1 + np.random.default_rng(2).normal(0, SIGMA, (TRIALS, 3))
    seen = 600.0 * (gains[:, 0] * 1000.0 - gains[:, 1] * 300.0 - gains[:, 2] * 500.0)
    for by in (None, "5m"):
        rows = host_lines(samples, machine, by=by).collect()
        joules, high = rows["energy_j"].sum(), rows["energy_high_j"].sum()
        assert joules == pytest.approx(200 * 600.0)
        assert high - joules == pytest.approx(SIGMAS * seen.std(), rel=0.03)


# ---------------------------------------------------------------------------------------------------------- one by one


def test_energy_carries_five_percent_and_windows_add_up_to_it() -> None:
    whole = only(energy(board("a", 300.0, counter=1.0)))
    assert half(whole) == pytest.approx(0.05 * 180_000)
    assert whole["energy_j"] - whole["energy_low_j"] == pytest.approx(0.05 * 180_000)
    windows = energy(board("a", 300.0, counter=1.0), by="1m").collect()
    assert windows["energy_high_j"].sum() == pytest.approx(whole["energy_high_j"])


@pytest.mark.parametrize("ratio", [0.5, 1.7])
def test_where_counter_and_power_disagree_the_interval_holds_both(ratio: float) -> None:
    row = only(energy(board("a", 300.0, counter=ratio)))
    assert row["energy_j"] == pytest.approx(ratio * 180_000)
    assert row["energy_low_j"] <= min(1.0, ratio) * 180_000 * (1 + 1e-9)
    assert row["energy_high_j"] >= max(1.0, ratio) * 180_000 * (1 - 1e-9)


def test_modelled_energy_has_no_interval_and_neither_has_a_sum_with_it() -> None:
    modelled = board("m", 300.0, power_method="modelled")
    assert [only(energy(modelled))[name] for name in BOUNDS] == [None, None]
    both = pl.concat([board("a", 300.0, power_method="average"), modelled])
    lines = attribute(both, held(("x", "a"), ("y", "m")))
    found = {row["workload"]: row for row in attribution(lines).collect().to_dicts()}
    assert found["x"]["energy_high_j"] == pytest.approx(1.05 * 180_000)
    assert [found["y"][name] for name in BOUNDS] == [None, None]
    fleet = only(attribution(lines, per="fleet"))
    assert fleet["energy_j"] == pytest.approx(2 * 180_000)
    assert [fleet[name] for name in BOUNDS] == [None, None]


def test_lines_of_a_device_are_as_sure_as_the_device() -> None:
    lines = attribute(board("a", 300.0), held(("x", "a")).with_columns(share=pl.lit(0.25)), by="1m").collect()
    assert (lines["energy_high_j"] - lines["energy_j"]).sum() == pytest.approx(0.05 * 180_000)


def test_a_part_without_a_value_has_no_interval_to_miss() -> None:
    told = parts(np.array([[1.0, 2.0]])).with_columns(
        pl.when(pl.col("hour") == 0).then(pl.col(name)).alias(name) for name in ("energy_j", *BOUNDS)
    )
    assert only(total(told, ["fleet"]))["energy_high_j"] == pytest.approx(1.05)
    nothing = told.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("energy_j", *BOUNDS))
    assert only(total(nothing, ["fleet"])) == {"fleet": "all", "energy_j": None} | dict.fromkeys(BOUNDS)


def test_no_energy_ends_below_nothing_unless_it_is_below_already() -> None:
    told = pl.DataFrame({"value": [10.0, -10.0, 100.0], "off": [20.0, 20.0, 20.0]})
    found = told.select(bounds(pl.col("value"), pl.col("off")))
    assert found["energy_low_j"].to_list() == [0.0, -30.0, 80.0]
