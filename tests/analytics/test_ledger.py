"""Every joule and every second of a device has one cause, and each cause is what its signals say."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from analytics.energy import energy
from analytics.fleet import Fleet
from analytics.frames import scan
from analytics.inventory import device_types
from analytics.ledger import ledger, ledger_in_parts
from collector.sources.simulated import simulate
from collector.sources.simulated_fleet import build, parse
from collector.store import Store

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
TEXT = pl.String()


def at(second: float | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def device(name: str = "a", *, until: int = 600, every: int = 10, since: int = 0, **values: Any) -> pl.LazyFrame:
    """A device that reads the same all the time: 300 W, most of its compute units active, if not told otherwise."""
    told = {"power_w": 300.0, "utilization_ratio": 0.95, "activity_sm_ratio": 0.8, **values}
    rows = [{"device": name, "source": "s", "host": "h", "time": at(s), **told} for s in range(since, until + 1, every)]
    return pl.LazyFrame(rows, schema_overrides={"time": NS, **dict.fromkeys(told, pl.Float64)})


def held(*rows: tuple[str, str, float, float | None], share: float = 1.0) -> pl.LazyFrame:
    told = [
        {"workload": w, "device": d, "start": at(a), "end": at(b), "time": at(a), "share": share} for w, d, a, b in rows
    ]
    types = {"workload": TEXT, "device": TEXT, "start": NS, "end": NS, "time": NS, "share": pl.Float64}
    return pl.LazyFrame(told, schema=types)


def happened(*rows: tuple[str, float, str, str | None]) -> pl.LazyFrame:
    told = [{"device": d, "host": "h", "time": at(s), "kind": kind, "code": code} for d, s, kind, code in rows]
    return pl.LazyFrame(told, schema={"device": TEXT, "host": TEXT, "time": NS, "kind": TEXT, "code": TEXT})


ALL = held(("w", "a", 0, None))


def causes(lines: pl.LazyFrame, column: str = "span_s") -> dict[Any, float]:
    found = lines.group_by("cause", "reason").agg(pl.col(column).sum()).collect()
    return {cause if reason is None else (cause, reason): value for cause, reason, value in found.iter_rows()}


def test_what_nobody_held_is_unallocated_and_what_works_is_useful() -> None:
    lines = ledger(device(), held(("w", "a", 0, 450)))
    assert causes(lines) == pytest.approx({"useful": 450.0, "unallocated": 150.0})
    assert causes(lines, "energy_j") == pytest.approx({"useful": 450 * 300.0, "unallocated": 150 * 300.0})
    assert causes(lines, "judged_s")["useful"] == pytest.approx(450.0)


def test_held_without_a_kernel_is_idle() -> None:
    assert causes(ledger(device(utilization_ratio=0.0), ALL)) == pytest.approx({"idle": 600.0})


def test_low_activity_is_underused_and_utilisation_stands_in_where_activity_is_not_read() -> None:
    assert set(causes(ledger(device(activity_sm_ratio=0.3), ALL))) == {"underused"}
    by_use = ledger(device(activity_sm_ratio=None, utilization_ratio=0.6), ALL)
    assert set(causes(by_use)) == {"useful"}
    assert causes(by_use, "judged_s") == {"useful": 0.0}
    assert set(causes(ledger(device(activity_sm_ratio=None, utilization_ratio=0.4), ALL))) == {"underused"}


def test_activity_is_that_of_the_time_in_use() -> None:
    # Half the time idle and half at full use is half idle, half useful: not all of it underused.
    samples = pl.concat([device(until=150, utilization_ratio=0.0, activity_sm_ratio=0.0), device(since=160, until=300)])
    found = causes(ledger(samples, ALL))
    assert found == pytest.approx({"idle": 150.0, "useful": 150.0})


def test_without_any_measure_of_use_nothing_is_claimed() -> None:
    found = causes(ledger(device(utilization_ratio=None, activity_sm_ratio=None), ALL))
    assert found == pytest.approx({"unmeasured": 600.0})


def test_a_gap_in_what_is_held_is_unmeasured_and_has_no_energy() -> None:
    samples = device().filter(~pl.col("time").is_between(at(200), at(400), closed="none"))
    lines = ledger(samples, ALL)
    assert causes(lines) == pytest.approx({"useful": 400.0, "unmeasured": 200.0})
    assert causes(lines, "energy_j")["unmeasured"] == 0.0
    assert lines.filter(pl.col("cause") == "unmeasured").collect()["energy_j"].to_list() == [None]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"pcie_rx_bytes_per_s": 50e9, "pcie_generation": 5.0, "pcie_width_lanes": 16.0}, "input"),
        ({"pcie_rx_bytes_per_s": 20e9, "pcie_generation": 5.0, "pcie_width_lanes": 16.0}, None),
        ({"pcie_rx_bytes_per_s": 50e9}, None),
        ({"pcie_rx_bytes_per_s": 50e9, "pcie_generation": 5.0, "pcie_width_lanes": 0.0}, None),
        ({"fabric_tx_bytes_per_s": 40e9}, "network"),
        ({"fabric_tx_bytes_per_s": 40e9, "activity_dram_ratio": 0.8}, None),
        ({"fabric_tx_bytes_per_s": 40e9, "utilization_ratio": 0.6}, None),
        ({"fabric_tx_bytes_per_s": 0.0}, None),
    ],
)
def test_a_stall_is_claimed_only_where_its_signs_were_read(values: dict[str, Any], reason: str | None) -> None:
    found = causes(ledger(device(activity_sm_ratio=0.2, **values), ALL))
    assert set(found) == {"underused" if reason is None else ("stalled", reason)}


def test_full_host_cpus_beside_a_device_that_waits_are_a_stall_on_input() -> None:
    cpus = pl.LazyFrame(
        {"host": ["h"] * 3, "time": [at(s) for s in (10, 310, 590)], "cpu_utilization_ratio": [0.97] * 3}
    )
    samples = device(activity_sm_ratio=0.2, utilization_ratio=0.4)
    assert set(causes(ledger(samples, ALL, host_samples=cpus))) == {("stalled", "input")}
    assert set(causes(ledger(samples, ALL, host_samples=cpus.with_columns(cpu_utilization_ratio=0.5)))) == {"underused"}
    # A device that works hard beside them does not wait.
    assert set(causes(ledger(device(), ALL, host_samples=cpus))) == {"useful"}


def test_clocks_held_down_cost_the_time_that_the_clock_lacks() -> None:
    samples = device(clock_sm_hz=1.2e9, clock_sm_max_hz=1.6e9, throttling_thermal=1.0)
    found = ledger(samples, ALL)
    assert causes(found) == pytest.approx({("throttled", "thermal"): 150.0, "useful": 450.0})
    assert causes(found, "energy_j") == pytest.approx({("throttled", "thermal"): 150 * 300.0, "useful": 450 * 300.0})


def test_the_counter_of_throttled_seconds_goes_before_the_flag_and_overlapping_reasons_count_once() -> None:
    samples = device(clock_sm_hz=0.8e9, clock_sm_max_hz=1.6e9, throttling_thermal=1.0, throttling_power_brake=1.0)
    seconds = (pl.col("time") - pl.col("time").min()).dt.total_milliseconds() / 1e3
    samples = samples.with_columns(throttle_thermal_s=seconds * 0.4)
    found = causes(ledger(samples, ALL))
    assert found == pytest.approx(
        {("throttled", "thermal"): 120.0, ("throttled", "power_brake"): 180.0, "useful": 300.0}
    )


def test_without_a_maximum_the_highest_clock_seen_is_the_measure_and_without_a_clock_nothing_is_lost() -> None:
    slow = device(until=300, clock_sm_hz=0.8e9, throttling_hardware=1.0)
    fast = device(since=310, clock_sm_hz=1.6e9, throttling_hardware=0.0)
    found = causes(ledger(pl.concat([slow, fast]), ALL))
    assert found["throttled", "hardware"] == pytest.approx(150.0, rel=0.03)
    assert set(causes(ledger(device(throttling_thermal=1.0), ALL))) == {"useful"}
    # A clock that reads 0 all the time tells nothing.
    assert causes(ledger(device(throttling_thermal=1.0, clock_sm_hz=0.0), ALL), "energy_j") == {"useful": 180_000.0}


def test_a_power_limit_is_a_loss_only_below_the_default() -> None:
    clocks: dict[str, Any] = {"clock_sm_hz": 1.2e9, "clock_sm_max_hz": 1.6e9, "throttling_power": 1.0}
    capped = causes(ledger(device(**clocks, power_limit_w=500.0, power_limit_default_w=700.0), ALL))
    assert capped == pytest.approx({("throttled", "power_cap"): 150.0, "useful": 450.0})
    assert set(causes(ledger(device(**clocks, power_limit_w=700.0, power_limit_default_w=700.0), ALL))) == {"useful"}
    assert set(causes(ledger(device(**clocks, power_limit_w=500.0), ALL))) == {"useful"}
    # Where the default was not read, the type's own power stands in.
    types = pl.LazyFrame({"device": ["a"], "tdp_w": [700.0]})
    assert causes(ledger(device(**clocks, power_limit_w=500.0), ALL, types=types)) == pytest.approx(capped)


def test_a_device_that_is_lost_is_failed_until_it_is_read_again_whoever_holds_it() -> None:
    samples = pl.concat([device(until=200), device(since=400)])
    lines = ledger(samples, ALL, events=happened(("a", 205, "device_gone", None), ("a", 395, "device_back", None)))
    assert causes(lines)["failed", "lost"] == pytest.approx(190.0)
    assert lines.filter(pl.col("cause") == "failed").collect()["workload"].to_list() == ["w"]


def test_a_device_that_never_comes_back_is_failed_to_the_end_of_the_window() -> None:
    gone = happened(("a", 205, "device_gone", None))
    lines = ledger(device(until=200), held(), events=gone, until_ns=_ns(1000))
    assert causes(lines) == pytest.approx({"unallocated": 205.0, ("failed", "lost"): 795.0})
    # The readings of others tell when the window ends, if nobody else does.
    both = ledger(pl.concat([device(until=200), device("b", until=900)]), held(), events=gone)
    assert causes(both)["failed", "lost"] == pytest.approx(695.0)


def test_what_was_lost_before_the_window_counts_in_it_and_what_was_removed_long_ago_does_not() -> None:
    long_ago = -40 * 86_400
    gone = happened(("z", -3600, "device_gone", None), ("old", long_ago, "device_gone", None))
    lines = ledger(device(), held(), events=gone, since_ns=_ns(0), until_ns=_ns(600))
    assert causes(lines) == pytest.approx({"unallocated": 600.0, ("failed", "lost"): 600.0})
    assert lines.filter(pl.col("cause") == "failed").collect()["host"].to_list() == ["h"]


def test_after_a_fatal_xid_a_device_is_failed_until_it_works_again_or_was_reset() -> None:
    broken = happened(("a", 100, "xid", "95"))
    idle = device(utilization_ratio=0.0)
    assert causes(ledger(idle, held(), events=broken))["failed", "xid"] == pytest.approx(500.0)
    again = pl.concat([device(until=300, utilization_ratio=0.0), device(since=310)])
    assert causes(ledger(again, held(), events=broken))["failed", "xid"] == pytest.approx(200.0)
    seconds = (pl.col("time") - pl.col("time").min()).dt.total_milliseconds() / 1e3
    reset = idle.with_columns(
        energy_j=pl.when(seconds < 400).then(1e6 + 300 * seconds).otherwise(300 * (seconds - 400))
    )
    assert causes(ledger(reset, held(), events=broken))["failed", "xid"] == pytest.approx(300.0)
    # A job that goes on is proof that the device did not fail, and a program's own fault is no failure.
    assert set(causes(ledger(device(), ALL, events=broken))) == {"useful"}
    assert set(causes(ledger(idle, held(), events=happened(("a", 100, "xid", "31"))))) == {"unallocated"}


def test_after_a_row_remap_failed_an_idle_device_is_failed() -> None:
    samples = device(utilization_ratio=0.0, row_remap_failed=1.0)
    assert causes(ledger(samples, held()))["failed", "row_remap"] == pytest.approx(600.0)


def test_a_partition_is_judged_by_its_own_activity() -> None:
    told = pl.LazyFrame(
        {
            "device": ["b", "p", "q"],
            "parent": [None, "b", "b"],
            "partition": [None, "3g.40gb", "3g.40gb"],
            "model": ["H100"] * 3,
            "time": [START] * 3,
        },
        schema_overrides={"time": NS},
    )
    board = device("b", power_w=700.0, utilization_ratio=None, activity_sm_ratio=None)
    parts = [device("p", activity_sm_ratio=0.9), device("q", utilization_ratio=0.0, activity_sm_ratio=0.0)]
    allocations = held(("x", "p", 0, None), ("y", "q", 0, None))
    lines = ledger(pl.concat([board, *parts]), allocations, devices=told)
    by = {(row["cause"], row["workload"]): row["energy_j"] for row in lines.collect().iter_rows(named=True)}
    each = 700 * 600 * 3 / 7
    assert by == pytest.approx({("useful", "x"): each, ("idle", "y"): each, ("unallocated", None): 700 * 600 / 7})
    apart = ledger(board, allocations, devices=told, partition_samples=pl.concat(parts))
    assert apart.collect().equals(lines.collect())


def _ns(second: float) -> int:
    return int((START - datetime(1970, 1, 1)).total_seconds() * 1e9 + second * 1e9)


def test_devices_in_parts_give_the_same_lines() -> None:
    samples = [device("a"), device("b", activity_sm_ratio=0.1), device("c", utilization_ratio=0.0)]
    allocations = held(("w", "a", 0, None), ("w", "b", 100, 500), ("v", "c", 50, None))
    events = happened(("z", 100, "device_gone", None), ("c", 300, "xid", "79"))
    whole = ledger(pl.concat(samples), allocations, events=events, since_ns=_ns(0), until_ns=_ns(600)).collect()
    of_part = partial(ledger, allocations=allocations, since_ns=_ns(0), until_ns=_ns(600))
    parts = ledger_in_parts(samples, events, lambda part, happened: of_part(part, events=happened))
    assert {*parts["device"]} == {"a", "b", "c", "z"}
    assert_frame_equal(parts, whole, check_row_order=False)


def test_series_are_worked_on_some_at_a_time_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"throttling_thermal": 1.0, "clock_sm_hz": 1e9}
    samples = pl.concat(
        [
            device("a", **slow).with_columns(source=pl.lit("other"), clock_sm_hz=pl.lit(2e9)),
            *(device(name, until=600 + 300 * at, **slow) for at, name in enumerate("abcde")),
        ]
    )
    allocations = held(*(("w", name, 50 * at, None) for at, name in enumerate("abcde")))
    whole = ledger(samples, allocations).collect()
    monkeypatch.setattr("analytics.signals.BLOCK_ROWS", 100)
    assert_frame_equal(ledger(samples, allocations).collect(), whole)
    # Of two sources of a device one saw the higher clock.
    assert causes(whole.lazy().filter(pl.col("device") == "a"))["throttled", "thermal"] > 0
    assert ("throttled", "thermal") not in causes(whole.lazy().filter(pl.col("device") == "b"))


def test_no_rows_give_no_lines() -> None:
    assert ledger(device().head(0), held()).collect().is_empty()


# -------------------------------------------------------------------------------------------------------- a naive loop

EVERY = 10
level = st.sampled_from([0.0, 0.005, 0.3, 0.45, 0.6, 1.0])
reading = st.tuples(st.integers(0, 900), level, level, st.sampled_from([0.0, 1.0]), st.sampled_from([0.8e9, 1.6e9]))
held_from_to = st.tuples(st.sampled_from("xy"), st.integers(0, 80), st.integers(0, 80))


def naive(
    readings: list[tuple[int, float, float, float, float]], allocated: list[tuple[str, int, int]]
) -> dict[tuple[str, str | None], tuple[float, float]]:
    """Step by step, as one would by hand: seconds and joules by cause and workload, of one device read each 10 s."""
    found: dict[tuple[str, str | None], list[float]] = {}

    def add(cause: str, workload: str | None, seconds: float, joules: float) -> None:
        sums = found.setdefault((cause, workload), [0.0, 0.0])
        sums[0] += seconds
        sums[1] += joules

    stretches: dict[tuple[tuple[tuple[str, int, int], ...], int], list[tuple[float, float, float, float]]] = {}
    highest = max(clock for *_, clock in readings)
    for n in range(1, len(readings)):
        (w0, u0, a0, t0, c0), (w1, u1, a1, t1, c1) = readings[n - 1], readings[n]
        holders = tuple(one for one in allocated if one[1] < n <= one[2])
        joules, busy, activity = (w0 + w1) / 2 * EVERY, (u0 + u1) / 2, (a0 + a1) / 2
        if not holders:
            add("unallocated", None, EVERY, joules)
        elif busy <= 0.01:
            for workload, _, _ in holders:
                add("idle", workload, EVERY / len(holders), joules / len(holders))
        else:
            lost = (t0 + t1) / 2 * (1 - (c0 + c1) / 2 / highest)
            stretches.setdefault((holders, (n - 1) * EVERY // 300), []).append((joules, activity, lost, busy))
    for (holders, _), steps in stretches.items():
        activity = sum(one[1] for one in steps) / len(steps)
        lost = sum(one[2] for one in steps) / len(steps)
        seconds, joules = EVERY * len(steps) / len(holders), sum(one[0] for one in steps) / len(holders)
        for workload, _, _ in holders:
            if activity <= 0.5:
                add("underused", workload, seconds, joules)
            else:
                add("throttled", workload, seconds * lost, joules * lost)
                add("useful", workload, seconds * (1 - lost), joules * (1 - lost))
    return {key: (seconds, joules) for key, (seconds, joules) in found.items() if seconds > 1e-9}


@settings(max_examples=60, deadline=None)
@given(st.lists(reading, min_size=2, max_size=80), st.lists(held_from_to, max_size=3))
# The highest clock is of one reading, not of the mean of two.
@example([(0, 0.0, 0.0, 1.0, 0.8e9), (0, 0.3, 1.0, 0.0, 1.6e9), (0, 0.0, 0.005, 0.0, 0.8e9)], [("x", 0, 2)])
def test_the_ledger_is_what_a_naive_loop_finds(
    readings: list[tuple[int, float, float, float, float]], allocated: list[tuple[str, int, int]]
) -> None:
    names = ("power_w", "utilization_ratio", "activity_sm_ratio", "throttling_thermal", "clock_sm_hz")
    rows = [
        {
            "device": "a",
            "source": "s",
            "host": "h",
            "time": at(n * EVERY),
            **dict(zip(names, map(float, one), strict=True)),
        }
        for n, one in enumerate(readings)
    ]
    # An allocation told twice is one, and one that ends before it begins is none.
    once = list({(workload, first): (workload, first, last) for workload, first, last in allocated}.values())
    once = [one for one in once if one[1] < one[2]]
    allocations = pl.concat([held(), *(held((w, "a", first * EVERY, last * EVERY)) for w, first, last in once)])
    lines = ledger(pl.LazyFrame(rows, schema_overrides={"time": NS}), allocations)
    found = lines.group_by("cause", "workload").agg(pl.col("span_s").sum(), pl.col("energy_j").sum()).collect()
    told = {(cause, workload): (s, j) for cause, workload, s, j in found.iter_rows() if s > 1e-6}
    expected = naive(readings, once)
    assert set(told) == set(expected)
    for key, sums in expected.items():
        assert told[key] == pytest.approx(sums, rel=1e-9, abs=1e-6), key


# ------------------------------------------------------------------------------------------------------- conservation


readings = st.fixed_dictionaries(
    {
        "power_w": st.one_of(st.none(), st.floats(0.0, 1000.0)),
        "utilization_ratio": st.one_of(st.none(), st.just(0.0), st.floats(0.0, 1.0)),
        "activity_sm_ratio": st.one_of(st.none(), st.floats(0.0, 1.0)),
        "clock_sm_hz": st.one_of(st.none(), st.just(0.0), st.floats(1e8, 2e9)),
        "pcie_rx_bytes_per_s": st.one_of(st.none(), st.floats(0.0, 1e11)),
        "pcie_generation": st.one_of(st.none(), st.sampled_from([0.0, 4.0, 9.0])),
        "pcie_width_lanes": st.one_of(st.none(), st.sampled_from([0.0, 16.0])),
        "throttling_thermal": st.one_of(st.none(), st.floats(0.0, 1.0)),
        "throttle_power_s": st.one_of(st.none(), st.floats(0.0, 1e4)),
        "energy_j": st.one_of(st.none(), st.floats(0.0, 1e7)),
        "fabric_tx_bytes_per_s": st.one_of(st.none(), st.floats(0.0, 1e11)),
    }
)
samples_of = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2000), readings), min_size=1, max_size=60)
spans = st.lists(
    st.tuples(
        st.sampled_from("xyz"), st.sampled_from("ab"), st.integers(-100, 2000),
        st.one_of(st.none(), st.integers(0, 2200)), st.sampled_from([1.0, 0.5, 0.25]),
    ),
    max_size=6,
)  # fmt: skip
failures = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 2000), st.sampled_from(["device_gone", "device_back", "xid"]),
        st.sampled_from(["79", "31"]),
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(samples_of, spans, failures, st.sampled_from([None, "5m", "15m", "7m"]))
def test_causes_add_up_to_the_energy_and_the_time_of_each_device(
    rows: list[tuple[str, int, dict[str, float | None]]],
    allocated: list[tuple[str, str, int, int | None, float]],
    failed: list[tuple[str, int, str, str]],
    by: str | None,
) -> None:
    told = [{"device": d, "source": "s", "host": "h", "time": at(s), **values} for d, s, values in rows]
    names = list(rows[0][2])
    samples = pl.LazyFrame(
        told,
        schema={"device": TEXT, "source": TEXT, "host": TEXT, "time": NS, **dict.fromkeys(names, pl.Float64)},
    ).unique(["device", "time"], keep="last", maintain_order=True)
    allocations = pl.concat([held(), *(held((w, d, a, b), share=share) for w, d, a, b, share in allocated)])
    lines = ledger(samples, allocations, events=happened(*failed), by=by).collect()
    assert (lines["span_s"] >= 0).all()
    assert (lines["energy_j"].drop_nulls() >= 0).all()
    of_device = dict(lines.group_by("device").agg(pl.col("energy_j").sum()).iter_rows())
    for row in energy(samples, by=by).group_by("device").agg(pl.col("energy_j").sum()).collect().iter_rows(named=True):
        assert of_device.get(row["device"], 0.0) == pytest.approx(row["energy_j"], rel=1e-9, abs=1e-9)
    extent = samples.group_by("device").agg(first=pl.col("time").min(), last=pl.col("time").max()).collect()
    for row in extent.iter_rows(named=True):
        span_s = lines.filter(pl.col("device") == row["device"])["span_s"].sum()
        # At least the time between the first and the last reading; a device that failed counts beyond them.
        assert span_s >= (row["last"] - row["first"]).total_seconds() * (1 - 1e-9)
        assert span_s <= 2200.0


def test_a_line_carries_the_interval_of_its_energy() -> None:
    (useful,) = ledger(device(), ALL).collect().to_dicts()
    assert (useful["energy_low_j"], useful["energy_high_j"]) == pytest.approx((180_000 * 0.95, 180_000 * 1.05))
    modelled = ledger(device().with_columns(power_method=pl.lit("modelled")), ALL).collect()
    assert modelled["energy_low_j"].to_list() == [None]
    assert modelled["modelled_j"].to_list() == pytest.approx([180_000.0])


# ------------------------------------------------------------------------------------------------------ known faults


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Three hours of a simulated fleet in which known things go wrong in the second, minute by minute."""
    origin = 1_767_225_600 * 1_000_000_000
    hour_ns = 3600 * 1_000_000_000
    kinds = {"device_lost": 8, "idle_allocated": 9, "missing_samples": 10, "clock_stuck": 11}
    of_hosts = {"power_brake": 0, "power_cap": 2}
    faults = [
        {"kind": kind, "subject": subject, "start": 3600, "end": 7200} for kind, subject in (kinds | of_hosts).items()
    ]
    options = {"devices": 24, "sites": 1, "seed": 7, "mix": {"H100": 1.0}, "faults": faults, "origin": origin}
    store = Store.create(tmp_path_factory.mktemp("faulty") / "store")
    for tables in simulate(options, origin, origin + 3 * hour_ns, 10.0):
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
    devices = scan(store, "devices")
    lines = ledger(
        scan(store, "device_samples"),
        scan(store, "allocations"),
        devices=devices,
        types=device_types(devices, Fleet()),
        events=scan(store, "events"),
        host_samples=scan(store, "host_samples"),
        since_ns=origin,
        until_ns=origin + 3 * hour_ns,
        by="1m",
    )
    fleet = build(parse(options))
    ids = {kind: [fleet.ids[subject]] for kind, subject in kinds.items()}
    ids |= {kind: [fleet.ids[n] for n in np.flatnonzero(fleet.host_of == host)] for kind, host in of_hosts.items()}
    told = pl.DataFrame(
        [(kind, device) for kind, of in ids.items() for device in of], schema=["fault", "device"], orient="row"
    )
    inside = pl.col("window").cast(pl.Int64).is_between(origin + hour_ns, origin + 2 * hour_ns, closed="left")
    hours = pl.when(inside).then(pl.lit("during")).otherwise(pl.lit("else"))
    return lines.collect().join(told, on="device").with_columns(hours=hours)


def share(faulty: pl.DataFrame, fault: str, cause: str, reason: str | None = None, hours: str = "during") -> float:
    rows = faulty.filter(pl.col("fault") == fault, pl.col("hours") == hours)
    found = rows.filter(pl.col("cause") == cause, pl.col("reason").eq_missing(pl.lit(reason, pl.String)))
    return float(found["span_s"].sum() / rows["span_s"].sum())


@pytest.mark.parametrize(
    ("fault", "cause", "reason", "least"),
    [
        ("device_lost", "failed", "lost", 0.97),
        ("idle_allocated", "idle", None, 0.85),
        ("missing_samples", "unmeasured", None, 0.9),
        ("power_brake", "throttled", "power_brake", 0.3),
        ("power_cap", "throttled", "power_cap", 0.02),
    ],
)
def test_what_goes_wrong_in_a_simulated_fleet_is_found_as_what_it_is(
    faulty: pl.DataFrame, fault: str, cause: str, reason: str | None, least: float
) -> None:
    assert share(faulty, fault, cause, reason) >= least
    assert share(faulty, fault, cause, reason, hours="else") <= 0.2 * least


def test_a_slow_clock_without_a_reason_is_no_throttling(faulty: pl.DataFrame) -> None:
    rows = faulty.filter(pl.col("fault") == "clock_stuck", pl.col("hours") == "during")
    assert "throttled" not in set(rows["cause"])
