"""Each finding has its evidence, its number and its flag; without evidence there is none."""

from dataclasses import replace
from typing import Any

import pytest

from analytics import findings as rules
from analytics.findings import MOST, RULES, findings, thin
from analytics.report_records import (
    DeviceUse,
    Energy,
    Finding,
    Imbalance,
    JobReport,
    Money,
    Standing,
    Throttled,
    Waste,
    Work,
)

HOUR = 3600.0
NOTHING = dict.fromkeys(Work.__dataclass_fields__)


def device(number: int, **more: Any) -> DeviceUse:
    told: dict[str, Any] = {
        "device": f"GPU-{number}", "host": f"node-{number // 4}", "ordinal": number % 4, "sku": "X",
        "allocated_s": 10 * HOUR, "covered_ratio": 1.0, "energy_j": 1e7, "power_mean_w": 300.0, "power_max_w": 400.0,
        "power_limit_w": 700.0, "utilization_ratio": 0.9, "sm_ratio": 0.7, "tensor_ratio": 0.4, "dram_ratio": 0.4,
        "memory_used_bytes": 70e9, "memory_total_bytes": 80e9, "temperature_max_c": 70.0, "clock_busy_hz": 1.9e9,
        "idle_s": 0.0,
    }  # fmt: skip
    return DeviceUse(**{**told, **more})


def job(devices: list[DeviceUse] | None = None, framework: str | None = "vllm", **more: Any) -> JobReport:
    devices = devices or [device(n) for n in range(4)]
    work = Work(**{**NOTHING, "tokens": 1e6, **more.pop("work", {})})
    energy = Energy(
        energy_j=1e7 * len(devices), low_j=None, high_j=None, covered_ratio=1.0, counter_ratio=1.0, modelled_ratio=0.0,
        power_mean_w=300.0,
    )  # fmt: skip
    told: dict[str, Any] = {
        "workload": "w", "name": "chat", "user": None, "team": None, "model": "llama", "framework": framework,
        "hosts": tuple(sorted({d.host for d in devices if d.host})), "sites": (), "start_ns": 0,
        "end_ns": round(10 * HOUR * 1e9), "seen_ns": (0, round(10 * HOUR * 1e9)), "device_h": 10.0 * len(devices),
        "devices": tuple(devices), "energy": energy, "money": Money(**dict.fromkeys(Money.__dataclass_fields__)),
        "work": work, "standing": None, "waste": (), "idle_end_s": 0.0, "throttled": (), "imbalance": None,
    }  # fmt: skip
    return JobReport(**{**told, **more})


def only(report: JobReport) -> Finding:
    (found,) = findings(report)
    return found


def waste(cause: str, ratio: float, reason: str | None = None, energy_j: float = 1e6) -> Waste:
    return Waste(cause=cause, reason=reason, ratio=ratio, energy_j=energy_j, device_s=ratio * 40 * HOUR)


def test_a_job_that_runs_well_has_no_findings() -> None:
    assert findings(job()) == ()
    assert all(rule(job()) is None for rule in RULES)


def test_devices_that_never_ran_a_kernel_are_named_with_the_flag_of_the_engine() -> None:
    devices = [device(0), device(1), device(2, idle_s=10 * HOUR), device(3, idle_s=10 * HOUR)]
    found = only(job(devices, waste=(waste("idle", 0.5),)))
    assert found.text == "2 of 4 devices never ran a kernel in 20.0 device-hours (node-0:2, node-0:3)."
    assert found.change == "ask for the used ones only: --tensor-parallel-size 2"
    assert (found.energy_j, found.value) == (2e7, 2.0)
    assert "torchrun --nproc-per-node=2" in only(job(devices, framework="pytorch 2.9")).change
    assert "--gpus-per-node=2" in only(job(devices, framework=None)).change


def test_tensor_parallel_devices_come_in_powers_of_two() -> None:
    devices = [device(n) for n in range(3)] + [device(3, idle_s=10 * HOUR)]
    assert only(job(devices)).change.endswith("--tensor-parallel-size 2")
    assert only(job(devices, framework="pytorch")).change.endswith("--nproc-per-node=3")


def test_a_job_on_several_hosts_is_told_the_devices_of_each() -> None:
    devices = [device(n, idle_s=10 * HOUR if n % 4 == 3 else 0.0) for n in range(8)]
    assert only(job(devices, framework="pytorch")).change.endswith("--nproc-per-node=3")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"idle_end_s": 16 * HOUR}, "a shorter SLURM --time"),
        ({"idle_end_s": 16 * HOUR, "end_ns": None}, "scancel"),
        ({"work": {"requests": 10.0}}, "minReplicas"),
        ({}, "--gres=gpu:1g.10gb:1"),
    ],
)
def test_idle_time_has_the_change_that_fits_when_it_was(more: dict[str, Any], said: str) -> None:
    devices = [device(n, idle_s=5 * HOUR) for n in range(4)]
    found = only(job(devices, waste=(waste("idle", 0.5, energy_j=3e6),), **more))
    assert found.text.startswith("No kernel ran in 50% of the 40.0 device-hours")
    assert said in found.change
    assert found.energy_j == pytest.approx(3e6)
    assert rules.idle(job([device(n, idle_s=0.9 * HOUR) for n in range(4)], **more)) is None


@pytest.mark.parametrize(
    ("cause", "reason", "most", "said"),
    [
        ("stalled", "input", rules.STALLED, "num_workers"),
        ("stalled", "network", rules.STALLED, "--switches=1"),
        ("underused", None, rules.UNDERUSED, "per_device_train_batch_size twice as large"),
        ("throttled", "power_cap", rules.THROTTLED, "nvidia-smi -pl"),
        ("throttled", "thermal", rules.THROTTLED, "cooling"),
        ("throttled", "sync", rules.THROTTLED, "slow device"),
    ],
)
def test_waste_of_a_cause_is_a_finding_from_its_threshold_on(
    cause: str, reason: str | None, most: float, said: str
) -> None:
    found = only(job(framework="pytorch", waste=(waste(cause, most + 0.01, reason),)))
    assert said in found.change
    assert f"{most + 0.01:.0%}" in found.text
    assert found.energy_j == 1e6
    assert findings(job(framework="pytorch", waste=(waste(cause, most - 0.01, reason),))) == ()


def test_the_host_of_the_hot_device_is_to_be_avoided_and_no_other() -> None:
    devices = [device(n) for n in range(7)] + [device(7, throttled=(Throttled(reason="thermal", ratio=0.4),))]
    assert "--exclude=node-1 " in only(job(devices, waste=(waste("throttled", 0.1, "thermal"),))).change


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (
            {"requests": 9.0, "queue_length": 5.0, "load_ratio": 0.9, "requests_running": 32.0},
            "--max-num-seqs above 32",
        ),
        ({"requests": 9.0, "queue_length": 5.0, "load_ratio": 0.4, "requests_running": 32.0}, "fewer replicas"),
        ({"requests": 9.0, "queue_length": 0.0, "load_ratio": 0.9}, "fewer devices: --tensor-parallel-size 2"),
    ],
)
def test_a_served_model_gets_a_larger_batch_only_where_requests_wait(work: dict[str, Any], said: str) -> None:
    assert said in only(job(waste=(waste("underused", 0.5),), work=work)).change


def test_memory_that_was_never_used_allows_a_larger_batch_of_work_that_is_not_served() -> None:
    devices = [device(n, memory_used_bytes=20 * 2**30, memory_total_bytes=80 * 2**30) for n in range(4)]
    found = only(job(devices, framework="pytorch"))
    assert found.text == "At most 25% of the device memory was in use (20 of 80 GiB)."
    assert "per_device_train_batch_size up to 4 times as large" in found.change
    assert found.energy_j is None
    # An engine takes all memory at once, however little it needs.
    assert findings(job(devices, work={"requests": 1.0})) == ()
    assert findings(job([*devices[:3], device(3)], framework="pytorch")) == ()
    assert findings(job([*devices[:3], device(3, memory_used_bytes=None)], framework="pytorch")) == ()


def test_an_empty_cache_is_a_finding_unless_requests_wait() -> None:
    work = {"requests": 1.0, "cache_used_max_ratio": 0.2, "queue_length": 0.0}
    assert "--tensor-parallel-size 2" in only(job(work=work)).change
    assert "--gpu-memory-utilization down" in only(job([device(0)], work=work)).change
    assert findings(job(work={**work, "queue_length": 3.0})) == ()
    assert findings(job(work={**work, "cache_used_max_ratio": 0.5})) == ()


def test_requests_put_back_are_a_finding_from_one_in_a_hundred_on() -> None:
    found = only(job(work={"requests": 1000.0, "preemptions": 20.0}))
    assert "2.0% of those answered" in found.text
    assert "--gpu-memory-utilization up, or --max-num-seqs down" in found.change
    assert findings(job(work={"requests": 1000.0, "preemptions": 5.0})) == ()


def test_the_slowest_device_costs_what_the_others_wait() -> None:
    slow = Imbalance(device="GPU-3", host="node-0", clock_hz=1.5e9, median_hz=2e9, behind_ratio=0.25, throttled=())
    found = only(job(imbalance=slow))
    assert "GPU-3 ran at 1500 MHz, 25% below the median" in found.text
    assert "--exclude=node-0" in found.change
    assert found.energy_j == pytest.approx(0.25 * 3e7)


def test_few_requests_cost_what_a_token_costs_beyond_the_best_windows() -> None:
    work = {"requests": 1.0, "load_ratio": 0.1, "joules_per_token": 4.0, "best_joules_per_token": 1.0}
    found = only(job(work=work))
    assert "10% of the tokens per second of its own best windows, at 4 J/token against 1 there" in found.text
    assert found.energy_j == pytest.approx(3e7)
    assert findings(job(work={**work, "load_ratio": 0.5})) == ()
    assert findings(job(work={**work, "requests": None})) == ()


def test_a_dear_run_is_pointed_to_the_best_one() -> None:
    standing = Standing(
        metric="joules_per_token", value=3.0, of="chat, llama on X", runs=8, median=2.0, best=1.5, best_run="r7",
        better_ratio=0.1,
    )  # fmt: skip
    found = only(job(standing=standing))
    assert "1.5 times the joules per token of the median of 8 other runs of chat, llama on X" in found.text
    assert "r7" in found.change
    assert findings(job(standing=replace(standing, value=2.4))) == ()


def test_the_dearest_comes_first_and_there_are_at_most_five() -> None:
    causes = [("stalled", "input", 5e6), ("underused", None, 9e6), ("throttled", "thermal", 1e6)]
    lines = tuple(waste(cause, 0.3, reason, energy) for cause, reason, energy in causes)
    devices = [device(n, memory_used_bytes=20e9, idle_s=2 * HOUR) for n in range(3)] + [device(3, idle_s=10 * HOUR)]
    slow = Imbalance(device="GPU-1", host="node-0", clock_hz=1e9, median_hz=2e9, behind_ratio=0.5, throttled=())
    found = findings(job(devices, framework="pytorch", waste=(*lines, waste("idle", 0.3)), imbalance=slow))
    assert len(found) == MOST
    joules = [one.energy_j or 0.0 for one in found]
    assert joules == sorted(joules, reverse=True)
    assert found[0].kind == "imbalance"


def test_with_prices_a_finding_has_a_cost_of_energy_and_device_time_and_that_decides() -> None:
    money = Money(
        currency="EUR", energy=4.0, devices=40.0, total=44.0, facility=None, pue=None, price_basis="flat",
        carbon_location_kg=None, carbon_market_kg=None,
    )  # fmt: skip
    lines = (waste("stalled", 0.1, "input", energy_j=8e6), waste("underused", 0.5, energy_j=4e6))
    first, second = findings(job(framework="pytorch", waste=lines, money=money))
    # An hour of a device costs 1, a joule 1e-7.
    assert (first.kind, first.cost) == ("underused", pytest.approx(0.4 + 20.0))
    assert (second.kind, second.cost) == ("stalled", pytest.approx(0.8 + 4.0))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"seen_ns": None}, "none of its devices was read"),
        ({"seen_ns": (0, round(300e9))}, "seen for 5 min"),
        ({"energy": replace(job().energy, covered_ratio=0.3)}, "only 30% of its time was measured"),
    ],
)
def test_a_run_seen_too_short_or_too_thinly_has_no_findings_and_says_why(more: dict[str, Any], said: str) -> None:
    report = job([device(n, idle_s=10 * HOUR) for n in range(4)], **more)
    assert findings(report) == ()
    assert said in thin(report)[0]


def test_what_was_not_read_is_said() -> None:
    report = job([device(0, utilization_ratio=None, sm_ratio=None)], work={"tokens": None})
    said = " | ".join(thin(report))
    assert "utilisation was not read" in said
    assert "activity of the compute units was not read" in said
    assert "what the energy brought is not known" in said


def test_what_was_not_measured_is_no_evidence() -> None:
    blank = dict.fromkeys(("utilization_ratio", "sm_ratio", "memory_used_bytes", "clock_busy_hz", "energy_j"))
    assert findings(job([device(n, **blank) for n in range(4)])) == ()
