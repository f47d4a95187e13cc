"""The report of one job."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analytics import report_words as words
from analytics.fleet_toml import parse_fleet
from analytics.frames import WorkloadFrames, schema
from analytics.report import JobReport, job_report, other_runs
from collector.store.schema import TABLES

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
HOUR = 3600
FLEET = """
[[site]]
name = "dub"
hosts = ["node-*"]
currency = "EUR"
pue = 1.5
price_per_kwh = 0.2
carbon_g_per_kwh = 300

[[sku]]
model = "X"
capex = 8760
currency = "EUR"
discount_ratio = 0
life_years = 1
"""


def at(second: float | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def table(name: str, rows: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=schema(TABLES[name]))


def board(device: str, power_w: float, busy: float = 0.9, until: int = HOUR, **more: Any) -> list[dict[str, Any]]:
    """A device read each 10 s; *more* are columns, a callable of the second for what moves."""
    return [
        {
            "device": device,
            "source": "s",
            "host": "node-1",
            "time": at(s),
            "power_w": power_w,
            "utilization_ratio": busy,
            **{name: value(s) if callable(value) else value for name, value in more.items()},
        }
        for s in range(0, until + 1, 10)
    ]


def told(
    samples: list[dict[str, Any]],
    held: list[tuple[str, str, float, float | None]],
    work: list[dict[str, Any]] | None = None,
    devices: list[dict[str, Any]] | None = None,
) -> WorkloadFrames:
    names = list(dict.fromkeys(row["device"] for row in samples))
    described = devices or [
        {"device": name, "time": START, "host": "node-1", "model": "X", "ordinal": n, "memory_total_bytes": 80e9}
        for n, name in enumerate(names)
    ]
    allocated = [
        {"workload": w, "device": d, "start": at(a), "end": at(b), "time": at(b or a), "host": "node-1", "name": "chat",
         "user": "ada", "team": "ml", "share": 1.0}
        for w, d, a, b in held
    ]  # fmt: skip
    return WorkloadFrames(
        device_samples=table("device_samples", samples),
        workload_samples=table("workload_samples", work or []),
        allocations=table("allocations", allocated),
        devices=table("devices", described),
        host_samples=table("host_samples", []),
        facility_samples=table("facility_samples", []),
        events=table("events", []),
    )


def counted(rate: float, column: str = "tokens_out", until: int = HOUR, **more: Any) -> list[dict[str, Any]]:
    return [
        {"workload": "w", "source": "e", "model": "llama", "framework": "vllm", "time": at(s), column: rate * s, **more}
        for s in range(0, until + 1, 10)
    ]


def report(frames: WorkloadFrames, **more: Any) -> JobReport:
    found = job_report("w", frames, **more)
    assert found is not None
    return found


def test_a_report_says_who_and_how_much_with_interval_and_coverage() -> None:
    samples = board("a", 400.0) + board("b", 200.0, busy=0.0)
    found = report(told(samples, [("w", "a", 0, HOUR), ("w", "b", 0, HOUR)], counted(100.0)))
    assert (found.name, found.user, found.team, found.model, found.framework) == ("chat", "ada", "ml", "llama", "vllm")
    assert found.device_h == pytest.approx(2.0)
    assert found.energy.energy_j == pytest.approx(600 * HOUR)
    off = 0.05 * (400**2 + 200**2) ** 0.5
    assert found.energy.high_j == pytest.approx((600 + off) * HOUR)
    assert found.energy.low_j == pytest.approx((600 - off) * HOUR)
    assert found.energy.covered_ratio == pytest.approx(1.0)
    assert found.work.joules_per_token == pytest.approx(6.0)


def test_waste_is_that_of_the_ledger_and_useful_time_is_none() -> None:
    samples = board("a", 400.0, activity_sm_ratio=0.8) + board("b", 200.0, busy=0.0, activity_sm_ratio=0.0)
    found = report(told(samples, [("w", "a", 0, HOUR), ("w", "b", 0, HOUR)]))
    (line,) = found.waste
    assert (line.cause, line.energy_j, line.device_s) == ("idle", pytest.approx(200 * HOUR), pytest.approx(HOUR))
    assert line.ratio == pytest.approx(0.5)
    assert found.devices[1].idle_s == pytest.approx(HOUR)


def test_idle_time_at_the_end_is_told_apart() -> None:
    until = 2 * HOUR
    samples = board("a", 400.0, until=until, utilization_ratio=lambda s: 0.9 if s < HOUR else 0.0)
    found = report(told(samples, [("w", "a", 0, until)]))
    assert found.idle_end_s == pytest.approx(HOUR, abs=900)
    throughout = board("a", 400.0, until=until, utilization_ratio=lambda s: 0.9 if s // 600 % 2 else 0.0)
    assert report(told(throughout, [("w", "a", 0, until)])).idle_end_s == 0.0


def test_energy_by_counters_is_told() -> None:
    samples = board("a", 400.0, energy_j=lambda s: 400.0 * s) + board("b", 400.0)
    found = report(told(samples, [("w", "a", 0, None), ("w", "b", 0, None)]))
    assert found.energy.counter_ratio == pytest.approx(0.5)


def test_a_partition_is_told_by_its_own_activity_and_its_boards_power() -> None:
    samples = board("a", 400.0, busy=0.9) + [
        {**row, "power_w": None} for row in board("a-mig", 0.0, busy=0.3, memory_used_bytes=5e9)
    ]
    devices = [
        {"device": "a", "time": START, "host": "node-1", "model": "X"},
        {"device": "a-mig", "time": START, "host": "node-1", "model": "X", "parent": "a", "partition": "7g.80gb"},
    ]
    found = report(told(samples, [("w", "a-mig", 0, None)], devices=devices))
    (device,) = found.devices
    assert (device.device, device.utilization_ratio, device.memory_used_bytes) == ("a", pytest.approx(0.3), 5e9)
    assert device.energy_j == pytest.approx(400 * HOUR)


def test_what_others_draw_on_the_same_device_before_and_after_is_not_the_jobs() -> None:
    held = [("other", "a", 0, 600.0), ("w", "a", 600.0, 1200.0), ("other", "a", 1200.0, None)]
    found = report(told(board("a", 300.0), held))
    assert found.energy.energy_j == pytest.approx(300 * 600)
    assert found.device_h == pytest.approx(600 / 3600)
    assert found.end_ns is not None


def test_a_run_of_which_only_the_machine_was_measured_says_what_that_drew() -> None:
    frames = told([], [("w", "node-1", 600, 1800)], counted(10.0), devices=[])
    machine = [
        {"host": "node-1", "time": at(s), "source": "bmc", "platform_power_w": 1000.0} for s in range(0, HOUR + 1, 10)
    ]
    one = report(frames._replace(host_samples=table("host_samples", machine)))
    assert (one.energy.energy_j, one.hosts) == (None, ("node-1",))
    assert (one.energy.wall_j, one.energy.wall_ratio) == pytest.approx((1.2e6, 1.0))
    assert words.energy(one) == "1.2 MJ (0.333 kWh) of its machine as a whole, 100% of the time; devices not measured"
    assert words.energy(report(frames)) == "not measured"


def test_an_unknown_job_has_no_report() -> None:
    assert job_report("nobody", told(board("a", 300.0), [("w", "a", 0, None)])) is None


def test_money_is_that_of_the_command_cost() -> None:
    found = report(told(board("a", 400.0), [("w", "a", 0, HOUR)]), fleet=parse_fleet(FLEET))
    assert found.money.energy == pytest.approx(0.08)
    assert found.money.devices == pytest.approx(1.0)
    assert found.money.total == pytest.approx(1.08)
    assert found.money.facility == pytest.approx(0.04)
    assert found.money.currency == "EUR"
    assert found.money.carbon_location_kg == pytest.approx(0.12)


def test_without_prices_there_is_no_cost_and_no_zero() -> None:
    money = report(told(board("a", 400.0), [("w", "a", 0, HOUR)])).money
    assert (money.energy, money.devices, money.total, money.currency) == (None, None, None, None)


def test_modelled_energy_has_no_interval() -> None:
    found = report(told(board("a", 400.0, power_method="modelled"), [("w", "a", 0, HOUR)])).energy
    assert found.modelled_ratio == pytest.approx(1.0)
    assert found.low_j is None


def test_the_slowest_device_is_named_when_its_clock_is_behind() -> None:
    samples = [row for n in range(4) for row in board(f"g{n}", 500.0, clock_sm_hz=1.98e9 if n else 1.5e9)]
    held = [("w", f"g{n}", 0.0, None) for n in range(4)]
    found = report(told(samples, held)).imbalance
    assert found is not None
    assert found.device == "g0"
    assert found.behind_ratio == pytest.approx(1 - 1.5 / 1.98)


def test_devices_that_differ_by_manufacture_are_balanced() -> None:
    samples = [row for n in range(4) for row in board(f"g{n}", 500.0, clock_sm_hz=1.98e9 - n * 1e7)]
    assert report(told(samples, [("w", f"g{n}", 0.0, None) for n in range(4)])).imbalance is None


def test_throttling_is_told_by_counters_and_else_by_flags() -> None:
    samples = board("a", 400.0, throttle_power_s=lambda s: 0.25 * s, throttling_power=1.0)
    samples += board("b", 400.0, throttling_thermal=lambda s: float(s % 20 == 0))
    found = report(told(samples, [("w", "a", 0.0, None), ("w", "b", 0.0, None)]))
    assert {one.reason: one.ratio for one in found.devices[0].throttled} == {"power": pytest.approx(0.25)}
    assert {one.reason: one.ratio for one in found.devices[1].throttled} == {"thermal": pytest.approx(0.5, abs=0.01)}


def test_a_job_stands_among_runs_of_the_same_model_on_the_same_sku() -> None:
    frames = told(board("a", 400.0), [("w", "a", 0, HOUR)], counted(100.0))
    runs = pl.LazyFrame(
        {
            "workload": ["r1", "r2", "r3", "elsewhere"],
            "name": ["chat"] * 4,
            "model": ["llama"] * 4,
            "sku": ["X", "X", "X", "Y"],
            "joules_per_token": [2.0, 3.0, 5.0, 0.1],
            "joules_per_step": [None] * 4,
            "joules_per_sample": [None] * 4,
        }
    )
    found = report(frames, runs=runs).standing
    assert found is not None
    assert (found.runs, found.median, found.best, found.best_run) == (3, 3.0, 2.0, "r1")
    assert found.of == "chat, llama on X"
    assert found.better_ratio == pytest.approx(1 / 3)
    assert report(frames, runs=runs.head(2)).standing is None


def test_other_runs_are_all_their_energy_over_all_their_tokens() -> None:
    efficiency = pl.LazyFrame(
        {
            "workload": ["r", "r", "q"],
            "name": ["chat"] * 3,
            "model": ["llama"] * 3,
            "tokens": [100.0, 300.0, None],
            "steps": [None, None, 10.0],
            "samples": [None] * 3,
            "joules_per_token": [4.0, 2.0, None],
            "joules_per_step": [None, None, 5.0],
            "joules_per_sample": [None] * 3,
        },
        schema_overrides={"samples": pl.Float64, "joules_per_sample": pl.Float64},
    )
    frames = told(board("a", 1.0) + board("b", 1.0), [("r", "a", 0, None), ("q", "a", 0, None), ("q", "b", 0, None)])
    mixed = frames.devices.with_columns(model=pl.when(pl.col("device") == "b").then(pl.lit("Y")).otherwise("model"))
    rows = {row["workload"]: row for row in other_runs(efficiency, frames.allocations, mixed).collect().to_dicts()}
    assert (rows["r"]["joules_per_token"], rows["r"]["sku"]) == (pytest.approx(2.5), "X")
    assert (rows["q"]["joules_per_step"], rows["q"]["sku"]) == (pytest.approx(5.0), None)
