"""The agent's own metrics."""

import os
from pathlib import Path

import pytest

from collector.catalogue import POWER, QUEUE_DEPTH, Scope
from collector.health import Health, process_usage


def metrics(health: Health) -> dict[tuple[str, ...], float]:
    return {
        (metric.prometheus, *(f"{key}={value}" for key, value in sorted(labels.items()))): value
        for metric, labels, value in health.samples()
        if not metric.prometheus.startswith(("perfwatt_cpu", "perfwatt_resident"))
    }


def test_a_source_that_was_read_has_its_age_on_the_monotonic_clock() -> None:
    now = [100.0]
    health = Health(clock=lambda: now[0])
    health.read("a", time_ns=5_000_000_000, read_s=0.25)
    now[0] = 103.0
    found = metrics(health)
    assert found["perfwatt_source_up", "source=a"] == 1
    assert found["perfwatt_source_age_seconds", "source=a"] == 3
    assert found["perfwatt_source_last_success_timestamp_seconds", "source=a"] == 5
    assert found["perfwatt_read_seconds", "source=a"] == 0.25
    assert found["perfwatt_reads_total", "source=a"] == 1


def test_a_source_that_was_never_read_has_no_age_rather_than_a_wrong_one() -> None:
    health = Health()
    health.gap("a", "unavailable", number=3)
    found = metrics(health)
    assert found["perfwatt_source_up", "source=a"] == 0
    assert found["perfwatt_gaps_total", "reason=unavailable", "source=a"] == 3
    assert ("perfwatt_source_age_seconds", "source=a") not in found
    assert ("perfwatt_source_last_success_timestamp_seconds", "source=a") not in found


def test_gaps_are_counted_by_reason_and_a_good_read_ends_the_trouble() -> None:
    health = Health()
    for reason in ("timeout", "read_failed", "timeout"):
        health.gap("a", reason)
    health.read("a", time_ns=1, read_s=0.1)
    found = metrics(health)
    assert found["perfwatt_gaps_total", "reason=timeout", "source=a"] == 2
    assert found["perfwatt_gaps_total", "reason=read_failed", "source=a"] == 1
    assert found["perfwatt_source_up", "source=a"] == 1


def test_counters_begin_at_zero_so_that_the_first_increase_is_seen() -> None:
    health = Health()
    health.started("nvml")
    found = metrics(health)
    assert found["perfwatt_worker_restarts_total", "source=nvml"] == 0
    assert found["perfwatt_ticks_missed_total", "source=nvml"] == 0
    assert found["perfwatt_clock_jumps_total",] == 0
    assert found["perfwatt_config_reload_ok",] == 1


def test_a_forgotten_source_has_no_series() -> None:
    health = Health()
    health.started("a")
    health.read("a", time_ns=1, read_s=0.1)
    health.devices_present("a", 3)
    health.values_dropped("a", {POWER: 1})
    health.forget("a")
    assert not [key for key in metrics(health) if "source=a" in key]


def test_dropped_values_are_counted_by_metric() -> None:
    health = Health()
    health.values_dropped("a", {POWER: 2})
    health.values_dropped("a", {POWER: 1})
    assert metrics(health)["perfwatt_values_dropped_total", "metric=device.power_w", "source=a"] == 3


def test_what_lies_elsewhere_is_asked_for_at_each_reading() -> None:
    health = Health()
    depth = [1.0]
    health.watch(lambda: [(QUEUE_DEPTH, {"queue": "store"}, depth[0])])
    depth[0] = 7.0
    assert metrics(health)["perfwatt_queue_depth", "queue=store"] == 7


def test_cpu_and_memory_of_this_process_are_plausible() -> None:
    usage = process_usage(os.getpid())
    assert usage is not None
    cpu_s, resident = usage
    assert 0.01 < cpu_s < 10_000
    assert 5e6 < resident < 10e9


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for pid, user in ((1, 100), (2, 300)):
        (tmp_path / str(pid)).mkdir()
        words = ["S", *["0"] * 10, str(user), "50", *["0"] * 8, "1000", *["0"] * 10]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (evil) name) " + " ".join(words))
    return tmp_path


def test_a_process_whose_name_has_brackets_is_read_right(proc: Path) -> None:
    assert process_usage(1, proc) == (150 / os.sysconf("SC_CLK_TCK"), 1000 * os.sysconf("SC_PAGE_SIZE"))
    assert process_usage(3, proc) is None


def test_two_processes_of_one_name_are_added_up(proc: Path) -> None:
    health = Health(proc=proc)
    health.process(1, "worker:nvml")
    health.process(2, "worker:nvml")
    found = {
        labels["process"]: value
        for metric, labels, value in health.samples()
        if metric.prometheus == "perfwatt_cpu_seconds_total"
    }
    assert found == {"worker:nvml": 500 / os.sysconf("SC_CLK_TCK")}
    health.process_ended(2)
    found = {
        labels["process"]: value
        for metric, labels, value in health.samples()
        if metric.prometheus == "perfwatt_resident_bytes"
    }
    assert found == {"worker:nvml": 1000 * os.sysconf("SC_PAGE_SIZE")}


def test_every_own_metric_is_of_the_agents_scope() -> None:
    health = Health()
    health.started("a")
    health.read("a", time_ns=1, read_s=0.1)
    health.gap("a", "timeout")
    assert {metric.scope for metric, _, _ in health.samples()} == {Scope.AGENT}
