"""Every joule of a device, a host and a site is somebody's line or a line of its own, and the lines add up."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.attribution import (
    attribute,
    attribution,
    facility_lines,
    host_lines,
    measured_pue,
    meter_steps,
    overhead,
    partition_shares,
    platform_steps,
    rack_lines,
)
from analytics.energy import device_steps, energy
from analytics.fleet_toml import parse_fleet

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
TEXT = pl.String()


def at(second: float | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def device(name: str, power_w: float, *, busy: float | None = 0.5, until: int = 600, host: str = "h") -> pl.LazyFrame:
    rows = [
        {"device": name, "source": "s", "host": host, "time": at(s), "power_w": power_w, "utilization_ratio": busy}
        for s in range(0, until + 1, 10)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS, "utilization_ratio": pl.Float64})


def held(*rows: tuple[str, str, float, float | None, float]) -> pl.LazyFrame:
    told = [
        {"workload": w, "device": d, "start": at(a), "end": at(b), "time": at(a), "share": share, "user": f"of {w}"}
        for w, d, a, b, share in rows
    ]
    types = {"workload": TEXT, "device": TEXT, "start": NS, "end": NS, "time": NS, "share": pl.Float64, "user": TEXT}
    return pl.LazyFrame(told, schema=types)


def parted(*rows: tuple[str, str | None, str | None, str]) -> pl.LazyFrame:
    told = [{"device": d, "parent": p, "partition": name, "model": m, "time": at(0)} for d, p, name, m in rows]
    types = {"device": TEXT, "parent": TEXT, "partition": TEXT, "model": TEXT, "time": NS}
    return pl.LazyFrame(told, schema=types)


def joules(lines: pl.LazyFrame, *keys: str) -> dict[Any, float]:
    found = lines.group_by(keys).agg(pl.col("energy_j").sum()).collect()
    return {row[0] if len(keys) == 1 else row[:-1]: row[-1] for row in found.iter_rows()}


def work(**rates: float) -> pl.LazyFrame:
    rows = [
        {"workload": w, "source": "v", "model": "llama", "time": at(s), "tokens_out": rate * s}
        for w, rate in rates.items()
        for s in range(0, 601, 10)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS})


def test_what_is_held_used_idle_and_free_add_up_to_the_device() -> None:
    samples = pl.concat([device("a", 300.0), device("b", 500.0, busy=0.0)])
    lines = attribute(samples, held(("x", "a", 100, 400, 1.0), ("y", "b", 0, None, 0.25)))
    assert joules(lines, "device", "kind", "workload") == pytest.approx(
        {
            ("a", "used", "x"): 300 * 300.0,
            ("a", "unallocated", None): 300 * 300.0,
            ("b", "idle", "y"): 500 * 150.0,
            ("b", "unallocated", None): 500 * 450.0,
        }
    )


def test_two_that_hold_the_whole_device_at_once_have_half_each() -> None:
    lines = attribute(device("a", 300.0), held(("x", "a", 0, 400, 1.0), ("y", "a", 200, 600, 1.0)))
    assert joules(lines, "workload") == pytest.approx({"x": 300 * 300.0, "y": 300 * 300.0})


def test_shares_that_round_to_less_than_one_leave_no_crumb_to_nobody() -> None:
    lines = attribute(device("a", 300.0), held(*((f"w{n}", "a", 0, None, 0.1) for n in range(10))))
    assert set(joules(lines, "kind")) == {"used"}


def test_where_utilisation_was_not_read_nothing_is_called_idle() -> None:
    lines = attribute(device("a", 300.0, busy=None), held(("x", "a", 0, None, 1.0)))
    assert set(joules(lines, "kind")) == {"used"}


def test_a_gap_has_no_energy_and_is_shown_as_not_covered() -> None:
    samples = device("a", 300.0).filter(~pl.col("time").is_between(at(200), at(400), closed="none"))
    (row,) = attribute(samples, held(("x", "a", 0, None, 1.0))).collect().to_dicts()
    assert (row["span_s"], row["covered_s"], row["energy_j"]) == pytest.approx((600.0, 400.0, 300 * 400.0))


def test_partitions_repeat_their_board_and_are_charged_by_their_slices_once() -> None:
    told = parted(("board", None, None, "H100"), ("p1", "board", "3g.40gb", "H100"), ("p2", "board", "1g.10gb", "H100"))
    samples = pl.concat([device(name, 700.0) for name in ("board", "p1", "p2")])
    lines = attribute(samples, held(("x", "p1", 0, None, 1.0), ("y", "p2", 0, None, 1.0)), devices=told)
    assert joules(lines, "workload") == pytest.approx({"x": 3 * 60_000.0, "y": 60_000.0, None: 3 * 60_000.0})
    assert sum(joules(lines, "device").values()) == pytest.approx(700 * 600.0)


@pytest.mark.parametrize(
    ("profile", "model", "fraction"),
    [
        ("1g.10gb", "NVIDIA H100", 1 / 7),
        ("7g.80gb", "NVIDIA H100", 1.0),
        ("1c.3g.40gb", "NVIDIA H100", 1 / 7),
        ("MIG 2g.20gb", "NVIDIA H100", 2 / 7),
        ("2g.12gb", "NVIDIA A30", 2 / 4),
        ("cpx", "AMD MI300X", 1 / 2),
    ],
)
def test_a_partition_is_its_slices_of_the_board(profile: str, model: str, fraction: float) -> None:
    told = parted(("b", None, None, model), ("p", "b", profile, model), ("q", "b", "other", model))
    found = partition_shares(told).filter(pl.col("part") == "p").collect()
    assert found["fraction"].item() == pytest.approx(fraction)


def test_by_activity_the_holders_of_partitions_divide_what_they_hold_by_use() -> None:
    told = parted(("b", None, None, "H100"), ("p", "b", "3g.40gb", "H100"), ("q", "b", "3g.40gb", "H100"))
    samples = pl.concat([device("b", 700.0, busy=None), device("p", 700.0, busy=0.9), device("q", 700.0, busy=0.1)])
    allocations = held(("x", "p", 0, None, 1.0), ("y", "q", 0, None, 1.0))
    by_use = joules(attribute(samples, allocations, devices=told, basis="activity"), "workload")
    assert by_use == pytest.approx({"x": 324_000.0, "y": 36_000.0, None: 60_000.0})
    by_slices = joules(attribute(samples, allocations, devices=told), "workload")
    assert by_slices == pytest.approx({"x": 180_000.0, "y": 180_000.0, None: 60_000.0})


def test_tokens_of_a_group_are_the_groups_and_its_idle_energy_is_in_their_price() -> None:
    samples = pl.concat([device("a", 300.0), device("b", 500.0, busy=0.0), device("c", 50.0)])
    lines = attribute(samples, held(("chat", "a", 0, None, 1.0), ("chat", "b", 0, None, 1.0)))
    found = {
        (row["workload"], row["kind"]): row
        for row in attribution(lines, workload_samples=work(chat=100.0)).collect().to_dicts()
    }
    assert found["chat", "used"]["tokens"] == pytest.approx(60_000)
    assert found["chat", "used"]["joules_per_token"] == pytest.approx(8.0)
    assert found["chat", "idle"]["tokens"] is None
    assert found[None, "unallocated"]["energy_j"] == pytest.approx(50 * 600.0)
    places = attribution(lines, per="device", workload_samples=work(chat=100.0)).collect()
    assert places["tokens"].null_count() == places.height


def test_a_notebook_beside_an_engine_is_not_in_the_price_of_its_tokens() -> None:
    samples = pl.concat([device("a", 300.0), device("b", 500.0)])
    lines = attribute(samples, held(("chat", "a", 0, None, 1.0), ("book", "b", 0, None, 1.0)))
    told = attribution(lines.with_columns(team=pl.lit("t")), per="team", workload_samples=work(chat=100.0))
    (row,) = told.collect().to_dicts()
    assert (row["tokens"], row["counted_ratio"]) == pytest.approx((60_000.0, 0.5))
    assert row["joules_per_token"] == pytest.approx(3.0)
    assert row["energy_j"] == pytest.approx(800 * 600.0)


def test_tokens_that_were_counted_for_a_while_do_not_carry_the_energy_of_hours() -> None:
    lines = attribute(device("a", 300.0), held(("chat", "a", 0, None, 1.0)))
    for until, per_token in ((540, 300 * 600 / 54_000), (530, None)):
        some = work(chat=100.0).filter(pl.col("time") <= at(until))
        (row,) = attribution(lines, workload_samples=some).collect().to_dicts()
        assert row["tokens"] == pytest.approx(100.0 * until)
        assert row["joules_per_token"] == (per_token if per_token is None else pytest.approx(per_token))
        assert row["counted_ratio"] == (0.0 if per_token is None else 1.0)


def test_users_and_models_sum_over_their_workloads() -> None:
    samples = pl.concat([device("a", 300.0), device("b", 500.0)])
    allocations = held(("x", "a", 0, None, 1.0), ("y", "b", 0, None, 1.0))
    lines = attribute(samples, allocations, by="5m")
    told = attribution(lines, per="model", workload_samples=work(x=1.0, y=2.0), by="5m").collect()
    assert told["tokens"].to_list() == pytest.approx([900.0, 900.0])
    assert told["energy_j"].sum() == pytest.approx(800 * 600.0)
    assert set(attribution(lines, per="user", by="5m").collect()["user"]) == {"of x", "of y"}


def platform(power_w: float, *, every: int = 30, until: int = 600, missing: tuple[int, int] = (0, 0)) -> pl.LazyFrame:
    rows = [
        {"host": "h", "source": "bmc", "time": at(s), "platform_power_w": power_w, "platform_energy_j": None}
        for s in range(0, until + 1, every)
        if not missing[0] < s < missing[1]
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS, "platform_energy_j": pl.Float64})


def test_a_host_draws_what_its_devices_do_and_an_overhead_of_its_own() -> None:
    samples = pl.concat([device("a", 300.0), device("b", 500.0)])
    (row,) = host_lines(samples, platform(1000.0), max_gap_s=60.0).collect().to_dicts()
    assert (row["kind"], row["host"], row["energy_j"]) == ("host", "h", pytest.approx(200 * 600.0))
    assert row["covered_s"] == pytest.approx(600.0)


def test_where_a_device_was_not_measured_its_power_is_no_overhead() -> None:
    silent = device("b", 500.0).filter(~pl.col("time").is_between(at(300), at(600), closed="none"))
    (row,) = host_lines(pl.concat([device("a", 300.0), silent]), platform(1000.0), max_gap_s=60.0).collect().to_dicts()
    assert row["energy_j"] == pytest.approx(200 * 300.0)
    assert (row["span_s"], row["covered_s"]) == pytest.approx((600.0, 300.0))


def test_a_machine_that_nobody_measures_has_no_overhead_rather_than_none() -> None:
    assert host_lines(device("a", 300.0), platform(1.0).limit(0)).collect().is_empty()


def test_racks_add_what_their_meters_see_beyond_their_hosts() -> None:
    meter = platform(1100.0).select("time", "source", meter=pl.lit("rack-1"), host=pl.lit(None, pl.String),
                                    meter_power_w="platform_power_w", meter_energy_j="platform_energy_j")  # fmt: skip
    belongs = pl.LazyFrame({"part": ["h"], "whole": ["rack-1"]})
    found = overhead(
        meter_steps(meter, max_gap_s=60.0), platform_steps(platform(1000.0), max_gap_s=60.0), belongs, by="5m"
    ).collect()
    assert found["overhead_j"].to_list() == pytest.approx([100 * 300.0] * 2)


FLEET = parse_fleet(
    """
    [[site]]
    name = "dub"
    [[rack]]
    name = "r1"
    site = "dub"
    hosts = ["h"]
    meters = ["a", "b"]
    [[rack]]
    name = "r2"
    site = "dub"
    hosts = ["g"]
    """
)


def feeds(**watts: float) -> pl.LazyFrame:
    parts = [
        platform(w).select("time", "source", meter=pl.lit(name), host=pl.lit(None, pl.String),
                           meter_power_w="platform_power_w", meter_energy_j="platform_energy_j")
        for name, w in watts.items()
    ]  # fmt: skip
    return meter_steps(pl.concat(parts), max_gap_s=60.0)


@pytest.mark.parametrize("by", [None, "5m"])
def test_a_rack_is_what_its_feeds_see_together_beyond_its_hosts(by: str | None) -> None:
    machines = platform_steps(platform(1000.0), max_gap_s=60.0)
    found = rack_lines(machines, feeds(a=700.0, b=500.0), FLEET, by=by).collect()
    assert found["energy_j"].sum() == pytest.approx(200 * 600.0)
    assert set(found.select("kind", "site", "rack", "host").rows()) == {("rack", "dub", "r1", None)}
    # Three sensors that are off by 5 % independently of each other.
    half = (found["energy_high_j"] - found["energy_j"]).sum()
    assert half == pytest.approx(0.05 * 600 * (1000.0**2 + 700.0**2 + 500.0**2) ** 0.5, rel=1e-6)


def test_a_rack_of_which_a_feed_is_not_read_has_no_line() -> None:
    machines = platform_steps(platform(1000.0), max_gap_s=60.0)
    assert rack_lines(machines, feeds(a=700.0), FLEET).collect().is_empty()


def test_a_host_without_a_sensor_is_in_its_rack_beyond_its_devices() -> None:
    nobody = platform_steps(platform(1.0).limit(0))
    found = rack_lines(nobody, feeds(a=700.0, b=500.0), FLEET, unmetered=device_steps(device("x", 800.0))).collect()
    assert found["energy_j"].sum() == pytest.approx(400 * 600.0)


def test_the_facility_is_added_to_racks_too_and_once() -> None:
    lines = pl.concat([
        attribute(device("x", 800.0), held()),
        host_lines(device("x", 800.0), platform(1000.0), max_gap_s=60.0),
        rack_lines(platform_steps(platform(1000.0), max_gap_s=60.0), feeds(a=700.0, b=500.0), FLEET),
    ], how="diagonal")  # fmt: skip
    lines = pl.concat([lines, facility_lines(lines, {"h": "dub"}, {"dub": 1.25})], how="diagonal")
    told = attribution(lines, per="site", hosts={"h": "dub"}).collect()
    found = dict(told.select("kind", "energy_j").rows())
    assert found == pytest.approx(
        {"unallocated": 480_000.0, "host": 120_000.0, "rack": 120_000.0, "facility": 0.25 * 720_000.0}
    )
    assert set(told["site"]) == {"dub"}


def test_a_site_without_a_pue_has_no_facility_energy() -> None:
    assert facility_lines(attribute(device("a", 800.0), held()), {"h": "dub"}, {}).collect().is_empty()


def test_pue_is_measured_only_while_both_meters_are_read() -> None:
    rows = [
        {"site": "dub", "meter": "m", "source": "s", "time": at(s), "meter_power_w": 1200.0,
         "it_power_w": 1000.0 if s <= 300 else None}
        for s in range(0, 601, 10)
    ]  # fmt: skip
    (row,) = measured_pue(pl.LazyFrame(rows, schema_overrides={"time": NS})).collect().to_dicts()
    assert (row["site"], row["pue"], row["covered_s"]) == ("dub", pytest.approx(1.2), pytest.approx(300.0))


def test_what_a_device_drew_before_hours_of_silence_is_not_spread_over_them() -> None:
    samples = device("a", 300.0, until=30_000).filter(~pl.col("time").is_between(at(500), at(20_000), closed="right"))
    lines = attribute(samples, held(("x", "a", 0, None, 1.0)), by="15m").collect()
    of_windows = energy(samples, by="15m").collect()
    covered = lines.filter(pl.col("covered_s") > 0)
    assert covered["window"].unique().sort().to_list() == of_windows["window"].to_list()
    assert joules(covered.lazy(), "window") == pytest.approx(joules(of_windows.lazy(), "window"))


# ---------------------------------------------------------------------------------------------------- conservation

SECONDS = st.integers(0, 900)
READINGS = st.lists(
    st.tuples(
        st.sampled_from("abp"), SECONDS, st.none() | st.floats(0, 2000), st.none() | st.integers(0, 10**6),
        st.none() | st.floats(0, 1),
    ), max_size=40,
)  # fmt: skip
SPANS = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from("abp"), SECONDS, st.none() | SECONDS, st.floats(0.01, 1.5)),
    max_size=8,
)
PLATFORM = st.lists(st.tuples(SECONDS, st.none() | st.floats(0, 5000), st.none() | st.integers(0, 10**6)), max_size=30)


def measured(rows: list[Any]) -> pl.LazyFrame:
    names = ("device", "time", "power_w", "energy_j", "utilization_ratio")
    told = [dict(zip(names, (d, at(s), p, e, u), strict=True)) | {"source": "s", "host": "h"} for d, s, p, e, u in rows]
    types = {name: pl.Float64() for name in names[2:]} | {"device": TEXT, "time": NS, "source": TEXT, "host": TEXT}
    return pl.LazyFrame(told, schema=types).unique(["device", "time"], keep="last", maintain_order=True)


@settings(max_examples=25, deadline=None)
@given(READINGS, SPANS, st.sampled_from([None, "1m", "5m"]), st.sampled_from(["allocation", "activity"]))
def test_the_lines_of_a_device_add_up_to_it_whatever_the_gaps_overlaps_and_resets(
    rows: list[Any], spans: list[Any], by: str | None, basis: Any
) -> None:
    told = parted(("a", None, None, "H100"), ("p", "a", "3g.40gb", "H100"), ("b", None, None, "H100"))
    samples = measured(rows)
    lines = attribute(samples, held(*spans), devices=told, by=by, basis=basis).collect()
    whole = energy(samples, devices=told).collect().filter(pl.col("energy_j").is_not_null())
    wanted = {row["device"]: row["energy_j"] for row in whole.to_dicts()}
    found = joules(lines.lazy().filter(pl.col("energy_j").is_not_null()), "device")
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-6)
    covered = dict(lines.group_by("device").agg(pl.col("covered_s").sum()).filter(pl.col("covered_s") > 0).iter_rows())
    assert covered == pytest.approx(dict(whole.select("device", "covered_s").iter_rows()), rel=1e-9)
    together = attribution(lines.lazy(), per="user", by=by).collect()["energy_j"].sum()
    assert together == pytest.approx(sum(wanted.values()), rel=1e-9, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(READINGS, PLATFORM)
def test_devices_and_overhead_add_up_to_the_host_wherever_both_are_measured(rows: list[Any], host: list[Any]) -> None:
    told = [
        {"host": "h", "source": "s", "time": at(s), "platform_power_w": p, "platform_energy_j": e} for s, p, e in host
    ]
    types = {
        "host": TEXT,
        "source": TEXT,
        "time": NS,
        "platform_power_w": pl.Float64(),
        "platform_energy_j": pl.Float64(),
    }
    frame = pl.LazyFrame(told, schema=types).unique("time", keep="last", maintain_order=True)
    steps = device_steps(measured(rows))
    belongs = steps.select(part="device", whole="host").unique()
    machine = platform_steps(frame)
    found = overhead(machine, steps, belongs).collect()
    in_one_pass = host_lines(measured(rows), frame).collect()
    assert in_one_pass["energy_j"].to_list() == pytest.approx(found["overhead_j"].to_list(), rel=1e-9, abs=1e-6)
    assert in_one_pass["covered_s"].to_list() == pytest.approx(found["covered_s"].to_list(), rel=1e-9)
    limit = machine.select(pl.col("energy_j").sum(), pl.col("covered_s").sum()).collect()
    for row in found.to_dicts():
        assert row["parts_j"] + row["overhead_j"] == pytest.approx(row["whole_j"], rel=1e-9, abs=1e-6)
        assert row["whole_j"] <= limit["energy_j"].item() * (1 + 1e-9) + 1e-6
        assert row["covered_s"] <= limit["covered_s"].item() + 1e-9
