"""Comparisons on simulated fleets whose truth is known, and on recordings."""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics.effects.comparison import MEASURES, NOT_ENOUGH, compare
from benchmarks.effects import DATA, Fleet, measured_twice, power_limits, simulated

needs_recordings = pytest.mark.skipif(not DATA.is_dir(), reason="no recordings at ../shared/data")


def told(windows: pl.DataFrame, **more: Any) -> dict[str, Any]:
    asked = {"by": "driver_version", "metrics": ["joules_per_token"], "reference": "570.1", **more}
    found = compare(windows.lazy(), **asked).collect()
    return found.row(0, named=True)


def holds(row: dict[str, Any], truth: float) -> bool:
    return bool(row["effect_low"] <= truth <= row["effect_high"])


def test_a_known_effect_is_found_against_those_that_stayed() -> None:
    row = told(simulated(Fleet(effect=-0.05), seed=1))
    assert row["design"] == "against those that stayed"
    assert holds(row, -0.05)
    assert row["verdict"] == "better"
    assert (row["groups"], row["controls"]) == (8, 8)


def test_nothing_is_called_nothing_when_the_interval_is_within_the_margin() -> None:
    row = told(simulated(Fleet(effect=0.0), seed=1), margin=0.02)
    assert row["verdict"] == "no difference within ±2 %"
    assert holds(row, 0.0)


@pytest.mark.parametrize("load_after", [0.6, 1.5])
def test_a_shift_of_load_is_no_effect(load_after: float) -> None:
    row = told(simulated(Fleet(load_after=load_after), seed=2), margin=0.02)
    assert holds(row, 0.0)
    assert abs(row["effect"]) < 0.01
    assert abs(row["naive_effect"]) > 0.1
    unmatched = told(simulated(Fleet(load_after=load_after), seed=2), load="none")
    assert abs(unmatched["effect"]) > 0.1


def test_loads_that_do_not_overlap_are_not_compared() -> None:
    windows = simulated(Fleet(hosts=4, changed=4), seed=3)
    apart = windows.with_columns(
        load=pl.when(pl.col("driver_version") == "580.1").then(pl.col("load") + 1e6).otherwise("load")
    )
    row = told(apart)
    assert (row["verdict"], row["effect"]) == (NOT_ENOUGH, None)
    assert row["note"] == "no load that both had"


def test_an_effect_that_is_larger_at_high_load_is_found_as_the_mean_over_the_loads_of_both() -> None:
    windows = simulated(Fleet(noise=0.005, own=0.0), seed=2)
    # A limit that bites from half of the load on, up to a quarter of the energy.
    bites = 0.5 * (pl.col("utilization_ratio") - 0.5).clip(0.0)
    saved = pl.when(pl.col("driver_version") == "580.1").then(1.0 - bites).otherwise(1.0)
    windows = windows.with_columns(joules_per_token=pl.col("joules_per_token") * saved)
    alone = told(
        windows.filter(pl.col("host").is_in(windows.filter(pl.col("driver_version") == "580.1")["host"].implode()))
    )
    truth = float(np.expm1(windows.select((1.0 - bites).log().mean()).item()))
    for row in (told(windows), alone):
        assert row["effect"] == pytest.approx(truth, abs=0.01)
        # The effect follows the load of the day; that is no noise.
        assert row["effect_high"] - row["effect_low"] < 0.02


def test_a_drift_of_the_whole_fleet_is_no_effect() -> None:
    fleet = Fleet(drift=0.1)
    row = told(simulated(fleet, seed=4), margin=0.02)
    assert holds(row, 0.0)
    assert row["naive_effect"] > 0.03


def test_a_drift_that_nothing_can_be_held_against_widens_the_interval_and_is_said() -> None:
    row = told(simulated(Fleet(changed=16, drift=0.06), seed=5))
    assert row["design"] == "before and after"
    assert holds(row, 0.0)
    assert "before the change already" in row["note"]
    assert "nothing stayed: whatever else moved meanwhile is in it" in row["note"]


def test_devices_chosen_because_they_looked_bad_do_not_look_cured() -> None:
    windows = simulated(Fleet(noise=0.01), seed=3)
    change = windows.filter(pl.col("driver_version") == "580.1")["window"].min()
    chosen = pl.col("host").is_in(windows.filter(pl.col("driver_version") == "580.1")["host"].unique().implode())
    # For a day and a half before the change they needed 6 % more, and then no longer, for no reason of the driver.
    bad = chosen & pl.col("window").is_between(change - timedelta(hours=36), change, closed="left")  # type: ignore[operator]
    row = told(
        windows.with_columns(joules_per_token=pl.col("joules_per_token") * pl.when(bad).then(1.06).otherwise(1.0))
    )
    assert row["effect"] < -0.015
    assert holds(row, 0.0)
    assert row["verdict"] == NOT_ENOUGH
    assert "before the change already" in row["note"]


def test_a_mix_of_workloads_that_shifts_is_no_effect() -> None:
    windows = simulated(Fleet(models=2, effect=0.0), seed=6)
    # After the change the dear model runs half as often: the plain mean falls.
    rare = (
        (pl.col("model") == "model-1") & (pl.col("driver_version") == "580.1") & (pl.col("window").dt.hour() % 2 == 0)
    )
    found = compare(
        windows.filter(~rare).lazy(), by="driver_version", metrics=["joules_per_token"], reference="570.1"
    ).collect()
    assert found["workload"][0] == "all"
    assert found.height == 3
    assert all(holds(row, 0.0) for row in found.iter_rows(named=True))
    assert found["naive_effect"][0] < -0.05


def test_boards_that_run_more_of_a_dear_model_after_the_change_show_no_effect() -> None:
    windows = simulated(Fleet(effect=0.0), seed=6)
    # Each host runs two models by turns, hour by hour; after the change the cheap one has half of its windows.
    number = pl.col("host").str.extract(r"(\d+)").cast(pl.Int8)
    odd, late = (pl.col("window").dt.hour() + number) % 2 == 1, pl.col("driver_version") == "580.1"
    windows = windows.with_columns(
        model=pl.when(odd).then(pl.lit("dear")).otherwise(pl.lit("cheap")),
        joules_per_token=pl.col("joules_per_token") * pl.when(odd).then(3.0).otherwise(1.0),
    ).filter(~late | odd | (pl.col("window").dt.minute() < 30))
    row = told(windows)
    assert row["workload"] == "all"
    assert holds(row, 0.0)
    assert row["naive_effect"] > 0.1


def test_sensors_cancel_on_the_same_boards_and_widen_between_boards() -> None:
    windows = simulated(Fleet(hosts=16, changed=8, gain=0.0, own=0.0, noise=0.004), seed=7)
    same = told(windows)
    late = windows.filter(pl.col("window") >= windows["window"].median())
    apart = told(late)
    assert apart["design"] == "side by side"
    assert "sensors" in apart["note"]
    half = (apart["effect_high"] - apart["effect_low"]) / 2
    # Eight boards of eight devices on either side, each off by 5 %.
    assert half > 0.05 * np.sqrt(2 / 64) > (same["effect_high"] - same["effect_low"]) / 2
    # A measure that no power sensor stands behind is not widened.
    clocks = late.with_columns(clock_sm_hz=pl.col("joules_per_token"))
    row = told(clocks, metrics=["clock_sm_hz"])
    assert (row["effect_high"] - row["effect_low"]) / 2 < half
    assert row["note"] is None


def test_a_thousand_windows_of_one_host_are_not_a_thousand_observations() -> None:
    fleet = Fleet(hosts=1, changed=1, days=4.0, noise=0.05, memory_h=6.0, own=0.0)
    rows = [told(simulated(fleet, seed)) for seed in range(30)]
    # Plain t over windows: noise over the root of a thousand, which holds the truth in a third of the cases.
    plain = 1.96 * 0.05 * np.sqrt(2 / 1152)
    widths = [(row["effect_high"] - row["effect_low"]) / 2 for row in rows]
    assert np.median(widths) > 4 * plain
    assert sum(holds(row, 0.0) for row in rows) >= 24
    assert sum(abs(row["effect"]) < plain for row in rows) < 15


def test_few_groups_say_so_and_how_many_more_are_needed() -> None:
    row = told(simulated(Fleet(hosts=2, changed=1, days=1.0, effect=0.01, noise=0.03), seed=9))
    assert row["verdict"] == NOT_ENOUGH
    assert "too few device groups" in row["note"]
    assert row["more_windows"] > 0
    assert f"{row['more_windows']:,} more windows, about" in row["note"]


def test_one_group_on_each_side_gives_no_verdict_on_a_driver_but_does_on_the_hosts_themselves() -> None:
    windows = simulated(Fleet(hosts=2, changed=1, days=3.0, effect=0.3, noise=0.01), seed=9)
    late = windows.filter(pl.col("window") >= windows["window"].median())
    row = told(late)
    assert (row["design"], row["verdict"]) == ("side by side", NOT_ENOUGH)
    hosts = told(late, by="host", reference=None)
    assert hosts["verdict"] in {"better", "worse"}


def test_one_run_before_and_another_after_is_no_verdict_on_what_is_not_served() -> None:
    windows = simulated(Fleet(hosts=1, changed=1, effect=-0.3, noise=0.01), seed=9).with_columns(asked=False)
    again = pl.concat_str("workload", "driver_version")
    assert told(windows)["verdict"] == "better"
    row = told(windows.with_columns(workload=again))
    assert row["verdict"] == NOT_ENOUGH
    assert "other runs before than after" in row["note"]
    # A service that comes back is the same, under its name.
    assert told(windows.with_columns(workload=again, name=pl.lit("chat"), asked=True))["verdict"] == "better"


def test_a_few_windows_in_another_state_make_no_group_that_changed() -> None:
    windows = simulated(Fleet(effect=-0.05), seed=1)
    drivers = windows.group_by("host").agg(pl.col("driver_version").n_unique())
    never = drivers.filter(pl.col("driver_version") == 1)["host"].min()
    odd = (pl.col("host") == never) & (pl.col("window") < windows["window"].min() + timedelta(minutes=20))
    driver = pl.when(odd).then(pl.lit("580.1")).otherwise("driver_version")
    row = told(windows.with_columns(driver_version=driver))
    assert (row["groups"], row["controls"]) == (8, 8)
    assert holds(row, -0.05)


def test_what_changed_together_is_named() -> None:
    windows = simulated(Fleet(effect=-0.05), seed=10).with_columns(
        firmware_version=pl.when(pl.col("driver_version") == "580.1").then(pl.lit("96.2")).otherwise(pl.lit("96.1"))
    )
    assert told(windows)["together"] == "firmware_version 96.1 -> 96.2"


def test_what_else_changed_is_held_constant() -> None:
    windows = simulated(Fleet(effect=0.0, hosts=12, changed=6), seed=11)
    # On the last day some of the hosts that changed were capped, too, and needed a tenth less.
    capped = (pl.col("window") > windows["window"].max() - pl.duration(days=1)) & (pl.col("driver_version") == "580.1")
    windows = windows.with_columns(
        power_limit=pl.when(capped).then(pl.lit("500 W")).otherwise(pl.lit("700 W")),
        joules_per_token=pl.when(capped).then(pl.col("joules_per_token") * 0.9).otherwise("joules_per_token"),
    )
    row = told(windows, margin=0.02)
    assert row["together"] is None
    assert holds(row, 0.0)
    assert abs(row["effect"]) < 0.01


def test_boards_whose_lock_is_not_known_are_still_compared_with_those_that_have_none() -> None:
    windows = simulated(Fleet(effect=0.0), seed=1)
    hosts = sorted(windows["host"].unique())
    old, known = pl.col("host").is_in(hosts[: len(hosts) // 2]), pl.col("host").is_in(hosts[-4:])
    row = told(
        windows.with_columns(
            driver_version=pl.when(old).then(pl.lit("570.1")).otherwise(pl.lit("580.1")),
            clock_lock=pl.when(known).then(pl.lit("none")),
        )
    )
    assert (row["design"], row["groups"], row["controls"]) == ("side by side", 8, 8)


def test_what_became_known_did_not_change() -> None:
    windows = simulated(Fleet(effect=-0.05), seed=12).with_columns(
        firmware_version=pl.when(pl.col("driver_version") == "580.1").then(pl.lit("96.1"))
    )
    row = told(windows)
    assert row["together"] is None
    assert row["groups"] == 8


def test_different_devices_at_different_times_are_not_compared() -> None:
    windows = simulated(Fleet(hosts=8, changed=4), seed=13)
    middle = windows["window"].median()
    changed = pl.col("host").is_in(windows.filter(pl.col("driver_version") == "580.1")["host"].unique().implode())
    row = told(windows.filter(changed == (pl.col("window") > middle)))
    assert (row["design"], row["effect"]) == ("nothing to compare", None)


def test_a_staggered_rollout_is_compared_group_by_group() -> None:
    row = told(simulated(Fleet(effect=-0.04, spread_h=60.0, drift=0.08), seed=14))
    assert holds(row, -0.04)
    assert row["verdict"] == "better"


def test_more_is_better_where_more_is_better() -> None:
    windows = simulated(Fleet(effect=-0.05), seed=15).with_columns(tokens_per_s_per_w=1.0 / pl.col("joules_per_token"))
    row = told(windows, metrics=["tokens_per_s_per_w"])
    assert row["effect"] == pytest.approx(1 / 0.95 - 1, abs=0.01)
    assert row["verdict"] == "better"


def test_temperatures_are_compared_in_degrees() -> None:
    windows = simulated(Fleet(), seed=16)
    warm = pl.when(pl.col("driver_version") == "580.1").then(3.0).otherwise(0.0)
    noise = np.random.default_rng(1).normal(0, 0.5, windows.height)
    row = told(windows.with_columns(temperature_c=60.0 + warm + noise), metrics=["temperature_c"])
    assert row["unit"] == "°C"
    assert row["effect"] == pytest.approx(3.0, abs=0.2)
    assert row["verdict"] == "worse"


def test_the_rate_of_served_work_is_load_and_no_achievement() -> None:
    windows = simulated(Fleet(), seed=17).with_columns(tokens_per_s=pl.col("load") * 8)
    found = compare(windows.lazy(), by="driver_version").collect()
    assert "tokens_per_s" not in found["metric"].to_list()
    assert "joules_per_token" in found["metric"].to_list()


def test_a_metric_that_was_asked_for_and_not_measured_has_a_row_that_says_so() -> None:
    row = told(simulated(Fleet(), seed=18), metrics=["latency_p50_s"])
    assert (row["verdict"], row["effect"]) == (NOT_ENOUGH, None)


@pytest.mark.parametrize(("option", "value"), [("by", "colour"), ("metrics", ["speed"]), ("control", ["moon"])])
def test_what_is_not_known_is_refused_with_what_is(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match="is wanted"):
        told(simulated(Fleet(days=0.1), seed=1), **{option: value})


def test_the_reference_is_the_usual_value_unless_given() -> None:
    windows = simulated(Fleet(changed=4), seed=19)
    found = compare(windows.lazy(), by="driver_version", metrics=["joules_per_token"]).collect()
    assert (found["reference"][0], found["value"][0]) == ("570.1", "580.1")


def test_no_windows_are_no_rows() -> None:
    windows = simulated(Fleet(days=0.1), seed=1).clear()
    assert compare(windows.lazy(), by="driver_version").collect().is_empty()


def test_every_measure_is_a_column_of_windows() -> None:
    assert set(MEASURES) <= set(simulated(Fleet(days=0.1), seed=1).columns)


# ------------------------------------------------------------------------------------------------------- recordings


@needs_recordings
def test_repeated_measurements_of_mlperf_show_no_difference() -> None:
    found = compare(
        measured_twice().lazy(), by="user", metrics=["power_mean_w", "joules_per_sample"], control=["model"], fewest=1
    )
    rows = found.filter(pl.col("workload") == "all").collect()
    assert rows["verdict"].to_list() == ["no difference within ±1 %"] * 2
    assert rows["groups"].min() > 80  # type: ignore[operator]


@needs_recordings
@pytest.mark.parametrize(("gpu", "default"), [("v100", 250), ("a40", 300), ("rtx6000", 260), ("p100", 250)])
def test_a_power_limit_saves_energy_and_costs_time(gpu: str, default: int) -> None:
    runs = power_limits(gpu)
    found = (
        compare(runs.lazy(), by="power_limit", reference=str(default), value="150", control=["model"], fewest=1)
        .filter(pl.col("workload") == "all")
        .collect()
    )
    verdicts = dict(found.select("metric", "verdict").iter_rows())
    assert verdicts == {"joules_per_step": "better", "steps_per_s": "worse"}
    # The mean over configurations of the ratio within each, by other means.
    pairs = runs.pivot(on="power_limit", index="model", values="joules_per_step")
    within = (pairs["150"] / pairs[str(default)]).drop_nulls()
    assert found["effect"][0] == pytest.approx(float(np.exp(within.log().mean())) - 1.0, abs=1e-9)  # type: ignore[arg-type]
