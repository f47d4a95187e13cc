"""Readings of the NVML source, through nvidia-ml-py, over the stub of the driver's library."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from collector.catalogue import ENERGY, POWER
from collector.errors import DeviceGone, ReadRetry, SourceUnavailable
from collector.sample import Sample

MIB = 1 << 20

# What the stub's first board says, in catalogue units: an H100 with everything that NVML can tell.
FIXED = {
    "utilization_ratio": 0.50,
    "utilization_memory_ratio": 0.20,
    "utilization_encoder_ratio": 0.03,
    "utilization_decoder_ratio": 0.04,
    "memory_total_bytes": 81559 * MIB,
    "memory_used_bytes": 11125 * MIB,
    "memory_reserved_bytes": 479 * MIB,
    "memory_free_bytes": (81559 - 11125 - 479) * MIB,
    "clock_graphics_hz": 1980e6,
    "clock_sm_hz": 1975e6,
    "clock_memory_hz": 2619e6,
    "clock_video_hz": 1545e6,
    "clock_graphics_max_hz": 1981e6,
    "clock_sm_max_hz": 1982e6,
    "clock_memory_max_hz": 2620e6,
    "clock_sm_min_hz": 345e6,
    "performance_state": 0,
    "power_profile": 3,
    "power_memory_w": 93.98,
    "power_limit_w": 700,
    "power_limit_requested_w": 710,
    "power_limit_default_w": 700,
    "power_limit_min_w": 200,
    "power_limit_max_w": 720,
    "temperature_c": 52,
    "temperature_memory_c": 58,
    "temperature_margin_c": 35,
    "temperature_limit_slowdown_c": 90,
    "temperature_limit_shutdown_c": 95,
    "temperature_limit_memory_c": 105,
    "temperature_limit_operating_c": 87,
    "fan_speed_ratio": 0.38,
    "fan_speed_rpm": 2100,
    "pcie_generation": 5,
    "pcie_width_lanes": 16,
    "pcie_replays": 9,
    "pcie_tx_bytes_per_s": 4e6,
    "pcie_rx_bytes_per_s": 9e6,
    "fabric_tx_bytes_per_s": 2_000_000 * 1024,
    "fabric_rx_bytes_per_s": 1_000_000 * 1024,
    "fabric_sent_bytes": 1001 * 2_000_000 * 1024,
    "fabric_received_bytes": 1001 * 1_000_000 * 1024,
    "fabric_errors": 1 + 2 + 3 + 4,
    "fabric_links_active": 16,
    "throttling_idle": 0,
    "throttling_setting": 0,
    "throttling_power": 1,
    "throttling_hardware": 0,
    "throttling_sync": 0,
    "throttling_thermal": 0,
    "throttling_thermal_hardware": 0,
    "throttling_power_brake": 0,
    "throttle_power_s": 221.310321 + 1.001,
    "throttle_thermal_s": 6,
    "throttle_thermal_hardware_s": 7,
    "throttle_power_brake_s": 8,
    "throttle_sync_s": 1,
    "throttle_board_s": 2,
    "throttle_reliability_s": 4,
    "throttle_low_utilization_s": 3,
    "ecc_corrected": 7,
    "ecc_uncorrected": 1,
    "pages_retired": 5,
    "rows_remapped_corrected": 5,
    "rows_remapped_uncorrected": 6,
    "rows_pending": 1,
    "row_remap_failed": 0,
    "xid_errors": 0,
}
PHYSICAL = {"power_w", "power_instant_w", "power_average_w", "energy_j", "energy_integrated_j"}


def test_every_number_of_the_library_arrives_in_catalogue_units(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.advance(1)
    values = bench.values()
    assert {name: values[name] for name in FIXED} == pytest.approx(FIXED)
    assert set(values) == set(FIXED) | PHYSICAL
    assert len(values) >= 40


def test_a_sample_says_whose_when_and_by_which_method_of_what_scope(bench: Any, nvml: Any) -> None:
    reading = bench.open().read(1)
    (sample,) = reading.samples
    assert isinstance(sample, Sample)
    assert sample.subject == "GPU-00000001-0000-4000-8000-000000000000"
    assert reading.source == f"nvml:{sample.subject}"
    assert (sample.host, sample.time_ns) == ("node7", nvml.wall_ns())
    assert sample.text == {"power_method": "average", "power_scope": "device"}


def test_a_board_is_described_once_and_again_when_something_changed(bench: Any, nvml: Any) -> None:
    (device,) = bench.open().read().devices
    assert (device.vendor, device.model, device.ordinal) == ("nvidia", "NVIDIA H100 80GB HBM3", 0)
    assert (device.bus, device.serial) == ("0000:10:00.0", "1650023000000")
    assert (device.driver_version, device.firmware_version) == ("590.48.01", "96.00.A5.00.01")
    assert (device.power_limit_w, device.memory_total_bytes) == (700, 81559 * MIB)
    assert (device.power_method, device.power_scope, device.power_window_s) == ("average", "device", 1.0)
    nvml.advance(60)
    assert bench.read().devices == []
    nvml.device[0].power_limit_mw = 450_000
    nvml.advance(60)
    (device,) = bench.read().devices
    assert device.power_limit_w == 450


@pytest.mark.parametrize(
    ("denied", "columns"),
    [
        ("nvmlDeviceGetFanSpeed", {"fan_speed_ratio"}),
        ("nvmlDeviceGetUtilizationRates", {"utilization_ratio", "utilization_memory_ratio"}),
        ("nvmlDeviceGetMemoryInfo_v2", {name for name in FIXED if name.startswith("memory_")}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit_w"}),
        ("nvmlDeviceWorkloadPowerProfileGetCurrentProfiles", {"power_profile"}),
        ("nvmlDeviceGetNvLinkState", {"fabric_links_active"}),
        ("nvmlDeviceRegisterEvents", {"xid_errors"}),
        ("field 82 0", {"temperature_memory_c"}),
        ("field 186 0", {"power_instant_w"}),
        ("field 197 0", {"pcie_tx_bytes_per_s"}),
    ],
)
def test_a_metric_the_device_lacks_is_absent_not_zero(bench: Any, nvml: Any, denied: str, columns: set[str]) -> None:
    nvml.deny(denied)
    bench.open().read()
    nvml.advance(1)
    assert set(bench.values()) == (set(FIXED) | PHYSICAL) - columns


def test_what_is_not_supported_is_asked_once(bench: Any, nvml: Any) -> None:
    nvml.deny("nvmlDeviceGetFanSpeed", "field 82 0")
    bench.open().read()
    nvml.switches.denied_count = 0
    nvml.advance(30)
    assert not {"fan_speed_ratio", "temperature_memory_c"} & set(bench.values())


def test_a_function_that_the_driver_is_too_old_for_is_absent(bench: Any, nvml: Any) -> None:
    # The stub has no such symbol at all, as a driver from before it has none.
    from collector.sources.nvml_library import bind, load

    assert bind(load(str(nvml.library)), "nvmlDeviceGetSomethingNew")() == 13
    bench.open().read()


def test_the_older_way_is_taken_where_the_newer_is_not_known(bench: Any, nvml: Any) -> None:
    nvml.deny(
        "field 269 0",
        "field 74 0",
        "field 83 0",
        "field 94 0",
        "nvmlDeviceGetCurrentClocksEventReasons",
    )
    values = bench.open().values()
    assert values["throttle_thermal_s"] == 5  # the thermal policy's counter
    assert values["throttle_power_s"] == 1.5  # violation status
    assert values["pcie_replays"] == 9
    assert values["energy_j"] == pytest.approx(nvml.energy_j(0, 0, 1000), abs=0.001)
    assert values["throttling_power"] == 1


def test_an_unknown_error_of_one_reader_costs_that_metric_only_and_is_logged_once(
    bench: Any, nvml: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench.open().read()
    nvml.break_("nvmlDeviceGetTemperature", "field 185 0")
    with caplog.at_level(logging.WARNING):
        nvml.advance(1)
        values = bench.values()
        bench.values()
    assert not {"temperature_c", "power_average_w", "power_w"} & set(values)
    assert values["utilization_ratio"] == 0.5
    assert sorted(record.reader for record in caplog.records) == ["field 185 0", "nvmlDeviceGetTemperature"]
    nvml.switches.broken_count = 0
    assert bench.values()["temperature_c"] == 52


def test_a_sum_that_lacks_a_part_is_absent_so_that_no_counter_falls(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.break_("field 52 0")
    nvml.advance(30)
    values = bench.values()
    assert "fabric_errors" not in values
    assert values["pages_retired"] == 5


def test_a_board_of_which_nothing_can_be_read_is_a_gap_with_the_first_error(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.device[0].unknown = 1
    with pytest.raises(ReadRetry, match="Unknown Error"):
        bench.read()
    nvml.device[0].unknown = 0
    assert bench.values()["power_w"] > 0


def test_the_unknown_performance_state_is_absent(bench: Any, nvml: Any) -> None:
    nvml.device[0].pstate = 32
    assert "performance_state" not in bench.open().values()
    nvml.device[0].pstate = 8
    assert bench.values()["performance_state"] == 8


def test_each_bit_of_the_clock_reasons_is_a_metric(bench: Any, nvml: Any) -> None:
    bench.open()
    names = ["idle", "setting", "power", "hardware", "sync", "thermal", "thermal_hardware", "power_brake"]
    for bit, name in enumerate(names):
        nvml.device[0].reasons = 1 << bit
        values = bench.values()
        assert [other for other in names if values[f"throttling_{other}"]] == [name]


def test_a_pcie_counter_of_32_bits_that_wrapped_is_given_up(bench: Any, nvml: Any) -> None:
    bench.open()
    nvml.device[0].pcie_wraps = 1
    bench.read()
    rates = []
    for _ in range(80):  # 9 MB/s wraps 32 bits every 477 s
        nvml.advance(10)
        rates.append(bench.values().get("pcie_rx_bytes_per_s"))
    wrap = rates.index(None)
    assert rates[:wrap] == pytest.approx([9e6] * wrap)
    assert set(rates[wrap:]) == {None}
    assert 0 < wrap < 79


def test_pcie_throughput_is_asked_only_when_told_to_and_stays_out_of_the_ticks(bench: Any, nvml: Any) -> None:
    nvml.deny("field 197 0", "field 198 0")
    assert "pcie_tx_bytes_per_s" not in bench.open().values()
    values = bench.open(pcie_throughput=True).values()
    assert (values["pcie_tx_bytes_per_s"], values["pcie_rx_bytes_per_s"]) == (4217e3, 8691e3)


@pytest.mark.parametrize(
    ("asked", "metric"),
    [
        ("nvmlDeviceGetMarginTemperature", "temperature_margin_c"),
        ("field 270 0", "throttle_thermal_hardware_s"),
        ("field 271 0", "throttle_power_brake_s"),
    ],
)
def test_what_the_firmware_must_be_asked_for_is_not_asked_at_each_tick(
    bench: Any, nvml: Any, asked: str, metric: str
) -> None:
    before = bench.open().values()[metric]
    nvml.break_(asked)
    nvml.advance(1)
    assert bench.values()[metric] == before
    nvml.advance(10)
    assert metric not in bench.values()


def test_links_that_count_one_by_one_are_summed(bench: Any, nvml: Any) -> None:
    nvml.deny("field 138 4294967295", "field 139 4294967295")
    nvml.device[0].architecture = 10
    bench.open().read()
    nvml.advance(20)
    values = bench.values()
    assert values["fabric_sent_bytes"] == pytest.approx(18 * 1020 * 1e9)
    assert values["fabric_tx_bytes_per_s"] == pytest.approx(18e9)
    nvml.advance(1)
    assert bench.values()["fabric_tx_bytes_per_s"] == pytest.approx(18e9)  # carried, not a rate of nothing


def test_activity_of_the_pipes_is_read_only_when_told_to(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.advance(1)
    assert not {name for name in bench.values() if name.startswith("activity")}
    bench.open(activity=True).read()
    nvml.advance(1)
    values = bench.values()
    assert (values["activity_sm_ratio"], values["occupancy_ratio"]) == (0.20, 0.30)
    assert (values["activity_tensor_ratio"], values["activity_dram_ratio"]) == (0.50, 1.0)
    nvml.break_("nvmlGpmMetricsGet")  # a profiler took the counters
    nvml.advance(1)
    values = bench.values()
    assert "activity_sm_ratio" not in values
    assert values["power_w"] > 0


def test_power_that_cannot_be_true_is_not_integrated(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.advance(1)
    before = bench.values()["energy_integrated_j"]
    nvml.device[0].mean_w = 4_000_000  # W: an overflowed sensor
    nvml.advance(1)
    assert not POWER.plausible(bench.values()["power_w"])  # to be dropped and counted at the door
    nvml.device[0].mean_w = 400
    nvml.advance(1)
    assert bench.values()["energy_integrated_j"] - before < 2000


@pytest.mark.parametrize("metric", [POWER, ENERGY])
def test_a_slow_board_keeps_its_own_pace_and_order(bench: Any, nvml: Any, metric: Any) -> None:
    nvml.device[0].slow_us = 200
    bench.open()
    assert metric in bench.read(0).samples[0].values
    assert metric in bench.read(1).samples[0].values


def test_a_lost_board_is_gone_and_its_neighbour_is_not(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.device[0].lost = 1
    with pytest.raises(DeviceGone, match="lost"):
        bench.read(0)
    assert bench.values(1)["power_w"] > 0


@pytest.mark.parametrize("reader", ["nvmlDeviceGetTemperature", "field 185 0", "nvmlDeviceGetFieldValues"])
def test_a_board_that_one_reader_finds_lost_is_lost(bench: Any, nvml: Any, reader: str) -> None:
    bench.open().read()
    nvml.break_(reader, code=15)
    with pytest.raises(DeviceGone):
        bench.read()
    assert [source.name for source in bench.open().sources] == []


def test_a_board_that_wants_a_reset_is_a_gap_that_says_so(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.break_("nvmlDeviceGetUtilizationRates", code=16)
    with pytest.raises(ReadRetry) as raised:
        bench.read()
    assert raised.value.reason == "reset_required"


def test_a_driver_that_went_makes_the_source_unavailable(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.switches.driver_gone = 1
    with pytest.raises(SourceUnavailable, match="Uninitialized"):
        bench.read()


def test_opening_without_a_driver_says_so(bench: Any, nvml: Any) -> None:
    nvml.switches.driver_gone = 1
    with pytest.raises(SourceUnavailable, match="Driver Not Loaded"):
        bench.open()


def test_many_reads_hold_no_memory(bench: Any, nvml: Any) -> None:
    import gc
    import tracemalloc

    bench.open(activity=True)
    read: Callable[[], object] = bench.read
    for _ in range(50):
        nvml.advance(1)
        read()
    gc.collect()
    tracemalloc.start()
    for _ in range(300):
        nvml.advance(1)
        read()
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50_000
