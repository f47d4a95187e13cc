"""What a scrape shows: the latest, of what is there, once."""

import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from collector.catalogue import (
    CATALOGUE,
    CLOCK_SM,
    ENERGY,
    FAMILY_HELP,
    GAPS,
    HOST_CPU_POWER,
    METER_POWER,
    POWER,
    QUEUE_LENGTH,
    SOURCE_UP,
    TEMPERATURE,
    THROTTLE_POWER,
    THROTTLE_THERMAL,
    TOKENS_OUT,
    UTILIZATION,
    Metric,
    Scope,
    metrics,
)
from collector.exposition import Exposition
from collector.sample import Device, Gap, Process, Reading, Sample

GOLDEN = Path(__file__).parent / "golden" / "metrics.prom"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Own:
    def samples(self) -> Iterable[tuple[Metric, Mapping[str, str], float]]:
        yield SOURCE_UP, {"source": "nvml"}, 1.0
        yield GAPS, {"source": "nvml", "reason": "timeout"}, 2.0


def device(id: str = "GPU-1", **fields: object) -> Device:
    known = {"host": "node1", "vendor": "NVIDIA", "model": "H100", "power_method": "instant", "power_scope": "device"}
    return Device(id=id, **known | fields)  # type: ignore[arg-type]


def sample(
    values: Mapping[Metric, float],
    subject: str = "GPU-1",
    *,
    time_ns: int = 1,
    scope: Scope = Scope.DEVICE,
    host: str = "node1",
    **text: str,
) -> Sample:
    return Sample(scope=scope, subject=subject, host=host, time_ns=time_ns, values=values, text=text)


def reading(*samples: Sample, source: str = "nvml", devices: tuple[Device, ...] = (), **fields: object) -> Reading:
    return Reading(source=source, samples=samples, devices=devices, **fields)  # type: ignore[arg-type]


def lines(exposition: Exposition, start: str = "") -> list[str]:
    text = exposition.render().decode()
    return [line for line in text.splitlines() if not line.startswith("#") and line.startswith(start)]


def full(own: Own | None = None) -> Exposition:
    """One of everything: every metric of every scope."""
    exposition = Exposition(own)
    values = {metric: 1.5 + index / 8 for index, metric in enumerate(CATALOGUE)}

    def of(scope: Scope) -> dict[Metric, float]:
        return {metric: values[metric] for metric in metrics(scope)}

    exposition.take(
        [
            reading(
                sample(of(Scope.DEVICE)),
                devices=(device(ordinal=0, serial="1320", bus="0000:1b:00.0", driver_version="570.1", mode="mig"),),
            ),
            reading(
                sample({UTILIZATION: 0.5, POWER: 1234567.0}, "GPU-2"),
                devices=(device("GPU-2", vendor="AMD", model='MI300X "OAM"\\\n', power_method="modelled"),),
                source="amd",
            ),
            reading(sample(of(Scope.HOST), "node1", scope=Scope.HOST), source="rapl"),
            reading(sample(of(Scope.WORKLOAD), "vllm-1", scope=Scope.WORKLOAD, model="llama"), source="scrape"),
            reading(sample(of(Scope.FACILITY), "pdu-7", scope=Scope.FACILITY, site="oslo"), source="scrape"),
        ]
    )
    return exposition


def test_the_whole_page_is_the_golden_one() -> None:
    """Renew it with: PERFWATT_RENEW=1 pytest tests/collector/test_exposition.py"""
    import os

    text = full(Own()).render()
    if os.environ.get("PERFWATT_RENEW"):
        GOLDEN.write_bytes(text)
    assert text.decode() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("own", [None, Own()])
def test_the_bytes_are_those_of_prometheus_client(own: Own | None) -> None:
    exposition = full(own)
    registry = CollectorRegistry()
    registry.register(exposition)
    assert exposition.render() == generate_latest(registry)
    assert exposition.render(openmetrics=True) == generate_openmetrics(registry)


def test_every_metric_of_the_catalogue_is_there_with_its_kind_and_help() -> None:
    found = {family.name: family for family in text_string_to_metric_families(full().render().decode())}
    for metric in CATALOGUE:
        if metric.scope is not Scope.AGENT:
            family = found[
                metric.prometheus.removesuffix("_total") if metric.kind.value == "counter" else metric.prometheus
            ]
            assert family.type == metric.kind.value
            assert family.documentation
            shown = [point for point in family.samples if set(metric.labels) <= set(point.labels.items())]
            assert shown, metric


def test_every_shared_name_has_a_help_of_its_own_and_no_other() -> None:
    assert set(FAMILY_HELP) == {metric.prometheus for metric in CATALOGUE if metric.family}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=full(Own()).render(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def test_a_metric_the_device_lacks_is_absent_not_zero() -> None:
    exposition = Exposition()
    exposition.take([reading(sample({POWER: 300.0}))])
    assert [line.split("{")[0] for line in lines(exposition)] == ["accel_power_watts"]
    assert b"accel_temperature" not in exposition.render()


def test_a_metric_that_is_no_longer_read_ends_with_the_next_sample() -> None:
    exposition = Exposition()
    exposition.take([reading(sample({POWER: 300.0, TEMPERATURE: 60.0}))])
    exposition.take([reading(sample({POWER: 301.0}, time_ns=2))])
    assert lines(exposition, "accel_temperature") == []


def test_a_number_that_is_none_is_absent() -> None:
    exposition = Exposition()
    exposition.take([reading(sample({POWER: float("nan"), TEMPERATURE: float("inf"), CLOCK_SM: 1e9}))])
    assert [line.split("{")[0] for line in lines(exposition)] == ["accel_clock_sm_hertz"]


def test_metrics_that_share_a_name_differ_by_a_label() -> None:
    exposition = Exposition()
    exposition.take([reading(sample({THROTTLE_POWER: 1.0, THROTTLE_THERMAL: 2.0}))])
    assert lines(exposition) == [
        'accel_throttle_seconds_total{device="GPU-1",host="node1",reason="power"} 1.0',
        'accel_throttle_seconds_total{device="GPU-1",host="node1",reason="thermal"} 2.0',
    ]


def test_power_says_how_it_was_found_so_that_modelled_watts_are_never_summed_as_measured() -> None:
    exposition = Exposition()
    exposition.take(
        [reading(sample({POWER: 90.0, ENERGY: 5.0}, power_method="modelled"), devices=(device(power_scope="package"),))]
    )
    assert 'method="modelled"' in lines(exposition, "accel_power_watts")[0]
    assert 'scope="package"' in lines(exposition, "accel_power_watts")[0]
    assert "method" not in lines(exposition, "accel_energy")[0]


def test_labels_name_the_device_and_what_is_known_of_it_but_no_process() -> None:
    exposition = Exposition()
    process = Process(time_ns=1, device="GPU-1", host="node1", pid=4711, name="python", user="ada")
    exposition.take([reading(sample({UTILIZATION: 0.5}), devices=(device(ordinal=3),), processes=[process])])
    assert lines(exposition) == [
        'accel_utilization_ratio{device="GPU-1",host="node1",model="H100",vendor="NVIDIA"} 0.5',
        'accel_info{device="GPU-1",host="node1",model="H100",ordinal="3",power_method="instant",power_scope="device",'
        'vendor="NVIDIA"} 1.0',
    ]
    assert b"4711" not in exposition.render()
    assert b"ada" not in exposition.render()


def test_a_change_of_the_device_changes_its_labels_from_the_next_sample() -> None:
    exposition = Exposition()
    exposition.take([reading(sample({UTILIZATION: 0.5}))])
    assert "H100" not in lines(exposition)[0]
    exposition.take([reading(sample({UTILIZATION: 0.5}, time_ns=2), devices=(device(driver_version="1"),))])
    assert 'model="H100"' in lines(exposition, "accel_util")[0]
    exposition.take([reading(sample({UTILIZATION: 0.5}, time_ns=3), devices=(device(driver_version="2"),))])
    assert 'driver_version="2"' in lines(exposition, "accel_info")[0]


def test_hosts_workloads_and_meters_have_labels_of_their_own() -> None:
    exposition = Exposition()
    exposition.take(
        [
            reading(sample({HOST_CPU_POWER: 100.0}, "node1", scope=Scope.HOST)),
            reading(sample({TOKENS_OUT: 7.0}, "vllm-1", scope=Scope.WORKLOAD, model="llama", user="ada", job="4711")),
            reading(sample({QUEUE_LENGTH: 1.0}, "vllm-1", scope=Scope.WORKLOAD), source="other"),
            reading(sample({METER_POWER: 9.0}, "pdu-7", scope=Scope.FACILITY, site="oslo")),
        ]
    )
    assert lines(exposition) == [
        'host_cpu_power_watts{host="node1"} 100.0',
        'workload_tokens_total{direction="out",host="node1",model="llama",workload="vllm-1"} 7.0',
        'workload_queue_length{host="node1",workload="vllm-1"} 1.0',
        'facility_meter_power_watts{meter="pdu-7",site="oslo"} 9.0',
    ]


def test_a_device_that_left_ends_its_series_and_its_partitions() -> None:
    exposition = Exposition()
    slice_ = device("MIG-1", parent="GPU-1", partition="1g.10gb")
    exposition.take(
        [reading(sample({UTILIZATION: 0.5}), sample({UTILIZATION: 0.5}, "MIG-1"), devices=(device(), slice_))]
    )
    assert len(lines(exposition)) == 4
    exposition.take([reading(gone=("GPU-1",), gap=Gap(reason="device_gone"))])
    assert lines(exposition) == []
    exposition.take([reading(sample({UTILIZATION: 0.5}, time_ns=9), devices=(device(),))])
    assert len(lines(exposition)) == 2


def test_a_partition_repeats_neither_the_watts_nor_the_joules_of_its_parent() -> None:
    exposition = Exposition()
    values = {POWER: 78.174, ENERGY: 5.0, UTILIZATION: 0.5}
    slices = tuple(device(f"MIG-{n}", parent="GPU-1", partition="1g.10gb") for n in range(3))
    exposition.take([reading(sample(values), *(sample(values, x.id) for x in slices), devices=(device(), *slices))])
    for name in ("accel_power_watts", "accel_energy_joules_total"):
        assert [line for line in lines(exposition, name) if "MIG" in line] == []
        assert len(lines(exposition, name)) == 1
    assert len(lines(exposition, "accel_utilization_ratio")) == 4


def test_a_partition_shows_power_that_only_it_knows() -> None:
    exposition = Exposition()
    part = device("CPX-1", parent="GPU-1", partition="cpx")
    exposition.take([reading(sample({UTILIZATION: 0.1}), sample({POWER: 90.0}, "CPX-1"), devices=(device(), part))])
    assert len(lines(exposition, "accel_power_watts")) == 1


def test_a_stale_sample_ends_its_series() -> None:
    clock = Clock()
    exposition = Exposition(stale_after_s=5.0, clock=clock)
    exposition.take([reading(sample({POWER: 1.0}), devices=(device(),))])
    clock.now_s += 5.0
    assert lines(exposition)
    clock.now_s += 0.1
    assert lines(exposition) == []
    assert exposition.empty


def test_a_source_that_repeats_an_old_answer_does_not_stay_fresh() -> None:
    clock = Clock()
    exposition = Exposition(stale_after_s=5.0, clock=clock)
    for _ in range(7):
        exposition.take([reading(sample({POWER: 1.0}, time_ns=1))])
        clock.now_s += 1.0
    assert lines(exposition) == []


def test_a_clock_that_jumps_back_does_not_end_a_series() -> None:
    clock = Clock()
    exposition = Exposition(stale_after_s=5.0, clock=clock)
    for time_ns in (10**18, 5):
        clock.now_s += 4.0
        exposition.take([reading(sample({POWER: 1.0}, time_ns=time_ns))])
    clock.now_s += 4.0
    assert lines(exposition)


def test_each_source_may_have_a_patience_of_its_own() -> None:
    clock = Clock()
    exposition = Exposition(stale_after_s=lambda source: 100.0 if source == "bmc" else 5.0, clock=clock)
    exposition.take([reading(sample({POWER: 1.0})), reading(sample({POWER: 2.0}, "GPU-2"), source="bmc")])
    clock.now_s += 50.0
    assert [line.split('"')[1] for line in lines(exposition)] == ["GPU-2"]


def test_two_sources_of_one_device_are_one_series_of_each_metric() -> None:
    clock = Clock()
    exposition = Exposition(stale_after_s=5.0, clock=clock)
    exposition.take([reading(sample({POWER: 1.0}))])
    exposition.take([reading(sample({POWER: 2.0, TEMPERATURE: 60.0}), source="dcgm")])
    assert [line.rsplit(" ")[-1] for line in lines(exposition)] == ["1.0", "60.0"]
    clock.now_s += 4.0
    exposition.take([reading(sample({POWER: 3.0}, time_ns=2), source="dcgm")])
    clock.now_s += 4.0
    assert [line.rsplit(" ")[-1] for line in lines(exposition)] == ["3.0"]


def test_the_agents_own_metrics_are_part_of_the_page() -> None:
    assert lines(Exposition(Own())) == [
        'perfwatt_source_up{source="nvml"} 1.0',
        'perfwatt_gaps_total{reason="timeout",source="nvml"} 2.0',
    ]


def test_one_may_ask_for_some_names_only() -> None:
    text = full(Own()).render(names=["accel_energy_joules_total", "accel_info"]).decode()
    assert {line.split("{")[0] for line in text.splitlines() if line[0] != "#"} == {
        "accel_energy_joules_total",
        "accel_info",
    }


def test_a_name_that_is_no_text_does_not_cost_the_whole_page() -> None:
    exposition = Exposition()
    exposition.take([reading(sample({POWER: 1.0}, "GPU-\udcff")), reading(sample({POWER: 2.0}, "GPU-2"))])
    assert b'device="GPU-?"' in exposition.render()


def test_closing_ends_every_series() -> None:
    exposition = full()
    exposition.close()
    assert exposition.render() == b""


def test_sixteen_devices_are_rendered_well_within_a_scrape() -> None:
    exposition = Exposition()
    values = dict.fromkeys(metrics(Scope.DEVICE)[:45], 123.456)
    exposition.take([reading(sample(values, f"GPU-{n}"), devices=(device(f"GPU-{n}"),)) for n in range(16)])
    assert len(lines(exposition)) == 16 * 46
    took_s = []
    for _ in range(10):
        begun_s = time.process_time()
        exposition.render()
        took_s.append(time.process_time() - begun_s)
    assert min(took_s) < 0.010
