"""MFU, MBU, latency, EDP and joules at the wall, against the figures that they are made of."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analytics.efficiency import efficiency
from analytics.measures import measures, wall_ratios

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
TYPES = pl.LazyFrame(
    {"device": ["a", "b"], "flop_per_s": [1e15, 1e15], "memory_bandwidth_bytes_per_s": [3e12, 3e12]},
)


def at(second: float | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def boards(**power_w: float) -> pl.LazyFrame:
    rows = [
        {"device": d, "source": "s", "host": "h", "time": at(s), "power_w": watts, "utilization_ratio": 0.9}
        for d, watts in power_w.items()
        for s in range(0, 601, 10)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS})


def work(**rates: float) -> pl.LazyFrame:
    """Counters that rise at so much a second, for ten minutes."""
    rows = [
        {"workload": "w", "source": "v", "model": "m", "time": at(s), **{name: r * s for name, r in rates.items()}}
        for s in range(0, 601, 10)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS})


def held(*devices: str, since: float = -1000.0) -> pl.LazyFrame:
    rows = [{"workload": "w", "device": d, "start": at(since), "end": None, "time": at(since)} for d in devices]
    types = {"workload": pl.String, "device": pl.String, "start": NS, "end": NS, "time": NS}
    return pl.LazyFrame(rows, schema=types)


def only(found: pl.LazyFrame) -> dict[str, Any]:
    (row,) = found.collect().to_dicts()
    return row


def test_mfu_and_mbu_are_work_over_what_the_devices_could_have_done() -> None:
    told = work(tokens_out=1.0, work_flop=8e14, memory_traffic_bytes=1.5e12)
    found = only(measures(boards(a=300.0, b=300.0), told, held("a", "b"), types=TYPES))
    assert found["work_flop"] == pytest.approx(8e14 * 600)
    assert (found["mfu_ratio"], found["mbu_ratio"]) == pytest.approx((0.4, 0.25))


def test_what_an_engine_tells_of_one_device_is_of_each_of_them() -> None:
    told = work(
        tokens_out=1.0,
        work_per_device_flop=4e14,
        memory_read_per_device_bytes=5e11,
        memory_written_per_device_bytes=1e11,
    )
    found = only(measures(boards(a=300.0, b=300.0), told, held("a", "b"), types=TYPES))
    assert found["work_flop"] == pytest.approx(2 * 4e14 * 600)
    assert (found["mfu_ratio"], found["mbu_ratio"]) == pytest.approx((0.4, 0.2))


def test_without_the_peak_of_one_device_there_is_no_mfu() -> None:
    told = work(tokens_out=1.0, work_flop=8e14)
    lacking = TYPES.filter(pl.col("device") == "a")
    assert only(measures(boards(a=300.0, b=300.0), told, held("a", "b"), types=lacking))["mfu_ratio"] is None
    assert only(measures(boards(a=300.0), told, held("a")))["mfu_ratio"] is None


def test_only_the_time_in_which_counters_were_read_counts() -> None:
    told = work(tokens_out=1.0, work_flop=8e14).filter(pl.col("time") <= at(300))
    found = only(measures(boards(a=300.0, b=300.0), told, held("a", "b"), types=TYPES))
    assert found["mfu_ratio"] == pytest.approx(0.4)


def test_mean_times_are_sums_over_counts_and_the_energy_delay_product_is_their_product_with_joules() -> None:
    told = work(
        tokens_out=200.0, requests=2.0, request_time_s=10.0, request_times=2.0, first_token_time_s=0.5,
        first_tokens=2.0, token_time_s=4.0, token_times=200.0, steps=0.5,
    )  # fmt: skip
    found = only(measures(boards(a=300.0), told, held("a")))
    assert (found["request_s"], found["first_token_s"], found["token_s"]) == pytest.approx((5.0, 0.25, 0.02))
    assert found["joules_per_request"] == pytest.approx(150.0)
    assert found["edp_request_js"] == pytest.approx(150.0 * 5.0)
    assert found["edp_step_js"] == pytest.approx(600.0 * 2.0)
    assert found["tokens_per_s_per_device"] == pytest.approx(200.0)


def test_what_was_not_reported_is_absent() -> None:
    found = only(measures(boards(a=300.0), work(tokens_out=1.0), held("a"), types=TYPES))
    for name in (
        "work_flop", "mfu_ratio", "mbu_ratio", "request_s", "latency_p99_s", "edp_request_js", "edp_step_js", "wall_j",
        "tokens_per_wall_joule", "joules_per_request",
    ):  # fmt: skip
        assert found[name] is None, name


def test_reported_quantiles_are_the_mean_of_what_was_reported() -> None:
    told = work(tokens_out=1.0).with_columns(
        latency_p99_s=pl.when(pl.col("time") < at(300)).then(2.0).otherwise(4.0), latency_p50_s=pl.lit(None, pl.Float64)
    )
    found = only(measures(boards(a=300.0), told, held("a")))
    assert found["latency_p99_s"] == pytest.approx(2.0 + 2.0 * 31 / 61)
    assert found["latency_p50_s"] is None


def machine(watts: float, until: int = 600) -> pl.LazyFrame:
    rows = [{"host": "h", "source": "bmc", "time": at(s), "platform_power_w": watts} for s in range(0, until + 1, 10)]
    return pl.LazyFrame(rows, schema_overrides={"time": NS}).with_columns(platform_energy_j=pl.lit(None, pl.Float64))


def test_at_the_wall_a_workload_has_its_devices_and_their_share_of_the_machine() -> None:
    samples = boards(a=300.0, b=100.0)
    found = only(measures(samples, work(tokens_out=100.0), held("a"), host_samples=machine(800.0)))
    assert found["energy_j"] == pytest.approx(300 * 600)
    assert found["wall_j"] == pytest.approx(600 * 600)
    assert found["tokens_per_wall_joule"] == pytest.approx(100 / 600)
    # A machine that nobody measured has no wall.
    assert only(measures(samples, work(tokens_out=1.0), held("a"), host_samples=machine(1.0).head(0)))["wall_j"] is None


def test_a_machines_ratio_is_over_the_time_in_which_all_was_measured() -> None:
    from analytics.energy import device_steps

    found = only(wall_ratios(device_steps(boards(a=300.0, b=100.0)), machine(800.0, until=300)))
    assert (found["host"], found["wall_ratio"], found["covered_s"]) == ("h", pytest.approx(2.0), pytest.approx(300.0))


def test_measures_by_window_are_those_of_each_window() -> None:
    told = work(tokens_out=1.0, work_flop=8e14, request_time_s=1.0, request_times=2.0)
    found = measures(
        boards(a=300.0, b=300.0), told, held("a", "b"), types=TYPES, host_samples=machine(1200.0), by="5m"
    ).collect()
    assert found.height == 2
    assert found["mfu_ratio"].to_list() == pytest.approx([0.4, 0.4])
    assert found["wall_j"].to_list() == pytest.approx([360_000.0] * 2)
    assert found["request_s"].to_list() == pytest.approx([0.5, 0.5])


def test_the_columns_of_efficiency_are_as_they_were() -> None:
    samples, told, allocations = boards(a=300.0), work(tokens_out=5.0, steps=0.1), held("a")
    plain = efficiency(samples, told, allocations).collect()
    assert measures(samples, told, allocations, types=TYPES).collect().select(plain.columns).equals(plain)


@pytest.mark.parametrize("by", [None, "1m"])
def test_an_allocation_open_for_years_costs_and_counts_no_more_than_what_was_measured(by: str | None) -> None:
    samples, told = boards(a=300.0), work(tokens_out=5.0)
    new, old = (efficiency(samples, told, held("a", since=since), by=by).collect() for since in (0, -30 * 365 * 86_400))
    assert old.equals(new)
    assert old["allocated_s"].sum() == pytest.approx(600.0)
