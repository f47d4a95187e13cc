"""What exporters say becomes what the catalogue means: one test for each trap, and the life of devices and jobs."""

from collections.abc import Mapping

import pytest

from collector.catalogue import (
    CLOCK_SM,
    ECC_UNCORRECTED,
    ENERGY,
    ENERGY_INTEGRATED,
    FABRIC_ERRORS,
    HOST_CPU_ENERGY,
    HOST_CPU_POWER,
    HOST_DRAM_ENERGY,
    HOST_PLATFORM_POWER,
    MEMORY_READ_PER_DEVICE,
    MEMORY_TOTAL,
    MEMORY_USED,
    MEMORY_WRITTEN_PER_DEVICE,
    PAGES_RETIRED,
    POWER,
    POWER_INSTANT,
    POWER_LIMIT,
    POWER_MEMORY,
    QUEUE_LENGTH,
    REQUESTS,
    REQUESTS_FAILED,
    SAMPLES,
    STEPS,
    TEMPERATURE,
    TEMPERATURE_MEMORY,
    THROTTLE_POWER,
    THROTTLING_IDLE,
    THROTTLING_POWER,
    THROTTLING_THERMAL,
    TOKENS_CACHED,
    TOKENS_IN,
    TOKENS_OUT,
    UNKNOWN_NAMES,
    UTILIZATION,
    WORK_PER_DEVICE,
    XID_ERRORS,
    XID_LAST,
    Metric,
    Scope,
    metrics,
)
from collector.errors import ReadRetry
from collector.exposition import Exposition
from collector.sample import Device, Reading, Sample, Severity
from collector.sources.scrape_mapping import tables
from collector.sources.scrape_series import Reader

T0 = 1_700_000_000_000_000_000
S = 1_000_000_000


class Exporter:
    """A target's reader with a clock of its own."""

    def __init__(self, **labels: str) -> None:
        self.reader = Reader(tables(), source="scrape:test", host="node7", instance="node7:9400", labels=labels)
        self.now_ns = T0

    def say(self, text: str, *, after_s: float = 15.0) -> Reading:
        self.now_ns += round(after_s * S)
        return self.reader.read(text.encode(), time_ns=self.now_ns)


def values(text: str, subject: str | None = None, **labels: str) -> Mapping[Metric, float]:
    reading = Exporter(**labels).say(text)
    found = [sample for sample in reading.samples if subject is None or sample.subject == subject]
    assert len(found) == 1, [sample.subject for sample in reading.samples]
    return found[0].values


GPU0 = 'gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"'

# -------------------------------------------------------------------------------------------------------- dcgm-exporter


def test_dcgm_units_become_si() -> None:
    found = values(
        f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 312.5\n"
        f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{GPU0}}} 5000000\n"
        f"DCGM_FI_DEV_GPU_UTIL{{{GPU0}}} 87\n"
        f"DCGM_FI_DEV_FB_USED{{{GPU0}}} 1024\n"
        f"DCGM_FI_DEV_SM_CLOCK{{{GPU0}}} 1980\n"
        f"DCGM_FI_DEV_POWER_VIOLATION{{{GPU0}}} 2500000000\n"
        f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{GPU0}}} 0.42\n"
    )
    assert {metric.column: value for metric, value in found.items()} == {
        "power_w": 312.5,
        "energy_j": 5000.0,
        "utilization_ratio": pytest.approx(0.87),
        "memory_used_bytes": 1024 * 1048576,
        "clock_sm_hz": 1.98e9,
        "throttle_power_s": pytest.approx(2.5),
        "activity_tensor_ratio": 0.42,
    }


@pytest.mark.parametrize(
    ("old", "new", "metric", "raw"),
    [
        ("DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_BOARD_POWER_WATTS", POWER, 300),
        ("DCGM_FI_DEV_POWER_USAGE_INSTANT", "DCGM_FI_DEV_BOARD_POWER_RAW_WATTS", POWER_INSTANT, 310),
        ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", POWER_LIMIT, 700),
        ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_CELSIUS", TEMPERATURE, 61),
        ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_GPU_UTIL_RATIO", UTILIZATION, 93),
        ("dcgm_power_usage", "DCGM_FI_DEV_BOARD_POWER_WATTS", POWER, 250),
        ("dcgm_sm_clock", "DCGM_FI_DEV_SM_CLOCK", CLOCK_SM, 1410),
    ],
)
def test_old_and_new_dcgm_names_mean_the_same_and_both_together_count_once(
    old: str, new: str, metric: Metric, raw: float
) -> None:
    before = values(f"{old}{{{GPU0}}} {raw}\n")[metric]
    assert values(f"{new}{{{GPU0}}} {raw}\n")[metric] == before
    assert values(f"{old}{{{GPU0}}} {raw}\n{new}{{{GPU0}}} {raw}\n")[metric] == before


@pytest.mark.parametrize(
    "blank",
    [
        *("2147483632", "2147483633", "2147483634", "2147483635", "9223372036854775792", "9223372036854775794"),
        *("9223372036854775795", "140737488355328", "140737488355328.1", "140737488355328.3", "NaN", "+Inf", "-1"),
    ],
)
def test_a_dcgm_blank_is_absent(blank: str) -> None:
    found = values(
        f"DCGM_FI_DEV_GPU_TEMP{{{GPU0}}} 40\n"
        f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{GPU0}}} {blank}\n"
        f"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{GPU0}}} {blank}\n"
        f"DCGM_FI_DEV_FB_USED{{{GPU0}}} {blank}\n"
        f"DCGM_FI_DEV_XID_ERRORS{{{GPU0}}} {blank}\n"
        f"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{{{GPU0}}} {blank}\n"
        # Twice, so that merging cannot let one through either.
        f'DCGM_FI_DEV_MEMORY_TEMP{{{GPU0},hpc_job="1"}} {blank}\n'
        f'DCGM_FI_DEV_MEMORY_TEMP{{{GPU0},hpc_job="2"}} {blank}\n'
    )
    assert found == {TEMPERATURE: 40.0}


MIG = [
    f'gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA A800",GPU_I_PROFILE="{p}",GPU_I_ID="{i}",Hostname="n1"'
    for i, p in ((1, "1g.10gb"), (2, "1g.10gb"), (5, "3g.40gb"))
]


def test_mig_instances_that_repeat_the_board_count_it_once_and_keep_what_is_their_own() -> None:
    reading = Exporter().say(
        "".join(
            f"DCGM_FI_DEV_POWER_USAGE{{{part}}} {watts}\n"
            f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{part}}} 9000000\n"
            f"DCGM_FI_DEV_FB_USED{{{part}}} {100 * number}\n"
            for number, (part, watts) in enumerate(zip(MIG, (78.174, 78.174, 78.446), strict=True), 1)
        )
    )
    by_subject = {sample.subject: sample.values for sample in reading.samples}
    assert by_subject == {
        "GPU-a": {POWER: 78.174, ENERGY: 9000.0},
        "GPU-a/1": {MEMORY_USED: 100 * 1048576},
        "GPU-a/2": {MEMORY_USED: 200 * 1048576},
        "GPU-a/5": {MEMORY_USED: 300 * 1048576},
    }
    parts = {device.id: device for device in reading.devices}
    assert parts["GPU-a/5"].parent == "GPU-a"
    assert parts["GPU-a/5"].partition == "3g.40gb"
    assert parts["GPU-a"].parent is None
    assert parts["GPU-a"].partition is None


def test_a_board_counter_that_instances_repeat_does_not_fall_when_they_change_places() -> None:
    exporter = Exporter()
    first, second = (f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{part}}} %d\n" for part in MIG[:2])
    before = exporter.say(first % 9_000_400 + second % 9_000_000).samples[0].values[ENERGY]
    after = exporter.say(second % 9_000_300 + first % 9_000_900).samples[0].values[ENERGY]
    assert after >= before


def test_series_copied_for_each_job_are_one_and_the_jobs_share_the_device() -> None:
    exporter = Exporter()
    lines = "".join(
        f'DCGM_FI_DEV_{name}{{{GPU0},hpc_job="{job}"}} {value}\n'
        for name, value in (("POWER_USAGE", 400), ("NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 3), ("RETIRED_SBE", 2))
        for job in ("101", "102")
    )
    reading = exporter.say(lines)
    assert reading.samples[0].values == {POWER: 400.0, FABRIC_ERRORS: 3.0, PAGES_RETIRED: 2.0}
    assert [(a.workload, a.device, a.share, a.end_ns) for a in reading.allocations] == [
        ("101", "GPU-a", 0.5, None),
        ("102", "GPU-a", 0.5, None),
    ]
    assert not exporter.say(lines).allocations
    later = exporter.say(lines.replace('"102"', '"101"').replace(" 400\n", " 401\n", 1))
    told = {(a.workload, a.start_ns, a.end_ns, a.share) for a in later.allocations}
    now, then = exporter.now_ns, T0 + 15 * S
    assert told == {("101", then, now, 0.5), ("102", then, now, 0.5), ("101", now, None, 1.0)}
    assert {a.end_ns for a in exporter.say(f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 90\n").allocations} == {exporter.now_ns}


def test_pages_retired_for_both_causes_are_added_but_two_spellings_of_one_are_not() -> None:
    found = values(
        f"DCGM_FI_DEV_RETIRED_SBE{{{GPU0}}} 2\nDCGM_FI_DEV_RETIRED_DBE{{{GPU0}}} 5\n"
        f"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{GPU0}}} 7\ndcgm_ecc_dbe_volatile_total{{{GPU0}}} 7\n"
    )
    assert found[PAGES_RETIRED] == 7.0
    assert found[ECC_UNCORRECTED] == 7.0


def test_a_pod_is_an_allocation_and_no_series() -> None:
    reading = Exporter().say(f'DCGM_FI_DEV_POWER_USAGE{{{GPU0},pod="p-1",namespace="ml",container="c"}} 1\n')
    (row,) = reading.allocations
    assert (row.workload, row.name, row.team, row.device, row.host) == ("ml/p-1", "p-1", "ml", "GPU-a", "n1")


def test_the_last_xid_is_news_only_when_it_changes() -> None:
    exporter = Exporter()
    line = f"DCGM_FI_DEV_XID_ERRORS{{{GPU0}}} %d\n"
    # At the start nobody knows how old it is.
    first = exporter.say(line % 31)
    assert not first.events
    assert first.samples[0].values == {XID_LAST: 31.0}
    assert not exporter.say(line % 31).events
    (event,) = exporter.say(line % 79).events
    assert (event.kind, event.code, event.device, event.severity) == ("xid", "79", "GPU-a", Severity.WARNING)
    assert not exporter.say(line % 79).events
    assert not exporter.say(line % 0).events


def test_an_xid_is_told_once_although_instances_and_jobs_repeat_it() -> None:
    exporter = Exporter()
    text = "".join(f"DCGM_FI_DEV_XID_ERRORS{{{part}}} %d\n" for part in MIG)
    exporter.say(text % (0, 0, 0))
    assert [event.code for event in exporter.say(text % (48, 48, 48)).events] == ["48"]


def test_the_throttle_bitmask_becomes_reasons() -> None:
    found = values(f"DCGM_FI_DEV_CLOCKS_EVENT_REASONS{{{GPU0}}} 36\n")
    assert (found[THROTTLING_IDLE], found[THROTTLING_POWER], found[THROTTLING_THERMAL]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("NVIDIA H100 80GB HBM3", "average"),
        ("NVIDIA A100-SXM4-80GB", "instant"),
        ("NVIDIA A10G", "average"),
        ("Tesla V100-SXM2-16GB", "instant"),
        ("NVIDIA L40S", "average"),
        ("NVIDIA A30", "instant"),
    ],
)
def test_power_says_by_which_method_it_was_read(model: str, method: str) -> None:
    reading = Exporter().say(f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-a",modelName="{model}"}} 300\n')
    assert reading.samples[0].text == {"power_method": method, "power_scope": "device"}
    assert (reading.devices[0].power_method, reading.devices[0].power_scope) == (method, "device")


def test_a_counter_whose_unit_is_not_known_is_left_out_with_the_reason() -> None:
    exporter = Exporter()
    exporter.say(f"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL{{{GPU0}}} 5\nDCGM_FI_DEV_GPU_TEMP{{{GPU0}}} 50\n")
    assert "unit" in exporter.reader.dropped["DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"]


def test_names_that_no_mapping_knows_are_listed() -> None:
    exporter = Exporter()
    text = f"DCGM_FI_DEV_BRAND_NEW{{{GPU0}}} 5\nDCGM_FI_DEV_GPU_TEMP{{{GPU0}}} 50\ngo_goroutines 9\nup 1\n"
    first = exporter.say(text)
    assert exporter.reader.unknown == {"DCGM_FI_DEV_BRAND_NEW"}
    # Counted for the agent's own metrics, once for as long as it is so.
    assert [sample.values for sample in first.samples if sample.scope is Scope.AGENT] == [{UNKNOWN_NAMES: 1.0}]
    assert all(sample.scope is Scope.DEVICE for sample in exporter.say(text).samples)


def test_an_exporter_that_invents_names_without_end_does_not_fill_the_memory() -> None:
    exporter = Exporter()
    for scrape in range(5):
        exporter.say("".join(f"x_{scrape}_{n} 1\n" for n in range(9_000)) + f"DCGM_FI_DEV_GPU_TEMP{{{GPU0}}} 50\n")
    assert len(exporter.reader.unknown) <= 30_000
    assert exporter.say(f"DCGM_FI_DEV_GPU_TEMP{{{GPU0}}} 51\n").samples[0].values == {TEMPERATURE: 51.0}


# -------------------------------------------------------------------------------------------------- devices come and go


def test_a_device_that_left_is_an_event_and_its_series_end() -> None:
    exporter = Exporter()
    second = GPU0.replace("GPU-a", "GPU-b")
    exporter.say(f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 1\nDCGM_FI_DEV_POWER_USAGE{{{second}}} 2\n")
    left = exporter.say(f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 1\n")
    assert left.gone == ["GPU-b"]
    assert [(e.kind, e.device) for e in left.events] == [("device_gone", "GPU-b")]
    assert [sample.subject for sample in left.samples] == ["GPU-a"]
    back = exporter.say(f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 1\nDCGM_FI_DEV_POWER_USAGE{{{second}}} 2\n")
    assert [(e.kind, e.device) for e in back.events] == [("device_appeared", "GPU-b")]
    assert [device.id for device in back.devices] == ["GPU-b"]


def test_an_exporter_that_says_nothing_is_a_gap_and_its_devices_stay() -> None:
    exporter = Exporter()
    exporter.say(f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 1\n")
    with pytest.raises(ReadRetry) as caught:
        exporter.say("")
    assert caught.value.reason == "empty"
    with pytest.raises(ReadRetry) as caught:
        exporter.say("# HELP only a comment\n")
    assert caught.value.reason == "empty"
    after = exporter.say(f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 2\n")
    assert not after.gone
    assert not after.events


def test_a_device_is_described_once_and_again_when_its_driver_changes() -> None:
    exporter = Exporter()
    line = f'DCGM_FI_DEV_POWER_USAGE{{{GPU0},pci_bus_id="00000000:01:00.0",DCGM_FI_DRIVER_VERSION="%s"}} 1\n'
    (device,) = exporter.say(line % "550.1").devices
    assert (device.vendor, device.model, device.ordinal, device.host) == ("NVIDIA", "NVIDIA H100 80GB HBM3", 0, "n1")
    assert (device.bus, device.driver_version) == ("00000000:01:00.0", "550.1")
    assert not exporter.say(line % "550.1").devices
    changed = exporter.say(line % "570.2")
    assert [device.driver_version for device in changed.devices] == ["570.2"]
    assert [(e.kind, e.code) for e in changed.events] == [("driver_changed", "570.2")]
    assert not changed.gone


def test_the_targets_own_host_wins_over_what_a_container_calls_itself() -> None:
    text = f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 1\n"
    assert Exporter().say(text).samples[0].host == "n1"
    assert Exporter(host="rack3-n1").say(text).samples[0].host == "rack3-n1"


def test_an_old_timestamp_is_no_value() -> None:
    exporter = Exporter()
    fresh, old = (T0 + 10 * S) // 1_000_000, (T0 - 400 * S) // 1_000_000
    found = exporter.say(
        f"DCGM_FI_DEV_GPU_TEMP{{{GPU0}}} 40 {fresh}\nDCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 300 {old}\n"
    ).samples[0]
    assert found.values == {TEMPERATURE: 40.0}


# -------------------------------------------------------------------------------------------------- nvidia_gpu_exporter


def test_nvidia_gpu_exporters_shortened_uuid_is_made_whole() -> None:
    reading = Exporter().say('nvidia_smi_power_draw_watts{uuid="df6e7a7c-7314"} 28.07\n')
    assert reading.samples[0].subject == "GPU-df6e7a7c-7314"


def test_what_nvidia_gpu_exporter_repeats_after_a_failed_collection_is_a_gap() -> None:
    exporter = Exporter()
    text = 'nvidia_smi_power_draw_watts{uuid="a"} 28\nnvidia_smi_last_collect_success %d\n'
    exporter.say(text % 1)
    with pytest.raises(ReadRetry, match="nvidia_smi_last_collect_success is 0") as caught:
        exporter.say(text % 0)
    assert caught.value.reason == "exporter_stale"
    assert not exporter.say(text % 1).gone


def test_counted_xids_are_events_from_the_first_one_after_the_start() -> None:
    exporter = Exporter()
    base = 'nvidia_smi_power_draw_watts{uuid="a"} 28\n'
    exporter.say(base + 'nvidia_smi_xid_errors_total{uuid="a",xid="13"} 4\n')
    later = exporter.say(
        base + 'nvidia_smi_xid_errors_total{uuid="a",xid="13"} 6\nnvidia_smi_xid_errors_total{uuid="a",xid="79"} 1\n'
    )
    assert [(e.code, e.value) for e in later.events] == [("13", 2.0), ("79", 1.0)]
    assert later.samples[0].values[XID_ERRORS] == 7.0


def test_a_gpu_instance_of_nvidia_gpu_exporter_is_a_part_with_its_profile() -> None:
    reading = Exporter().say(
        'nvidia_smi_mig_info{uuid="a",gpu_instance_id="3",compute_instance_id="0",profile="2g.20gb"} 1\n'
        'nvidia_smi_mig_memory_used_bytes{uuid="a",gpu_instance_id="3"} 5e9\n'
        'nvidia_smi_power_draw_watts{uuid="a"} 200\n'
    )
    assert {s.subject: s.values for s in reading.samples} == {"GPU-a/3": {MEMORY_USED: 5e9}, "GPU-a": {POWER: 200.0}}
    part = next(device for device in reading.devices if device.id == "GPU-a/3")
    assert (part.parent, part.partition) == ("GPU-a", "2g.20gb")


# --------------------------------------------------------------------------------------------------------------- others


def test_all_smi_watts_of_amd_boards_are_left_out_and_others_are_not() -> None:
    exporter = Exporter()
    line = 'all_smi_gpu_power_consumption_watts{gpu="%s",instance="n",gpu_uuid="%s",gpu_index="0"} %s\n'
    reading = exporter.say(line % ("AMD Instinct MI300X", "amd-1", "0.412") + line % ("NVIDIA H100", "GPU-1", "412"))
    assert {sample.subject: sample.values for sample in reading.samples} == {"GPU-1": {POWER: 412.0}}
    assert "1000" in exporter.reader.dropped["all_smi_gpu_power_consumption_watts"]


def test_all_smis_energy_is_not_taken_for_the_hardware_counter() -> None:
    reading = Exporter().say(
        'all_smi_energy_consumed_joules_total{host="n",scope="gpu",gpu_index="0",gpu_uuid="GPU-1"} 8.43e6\n'
    )
    assert reading.samples[0].values == {ENERGY_INTEGRATED: 8.43e6}


AMD = 'gpu_id="%d",gpu_uuid="%s",serial_number="%s",card_model="Instinct MI300X",hostname="n1"'


def test_amd_energy_is_microjoules_memory_mebibytes_and_the_clock_name_loses_its_prefix() -> None:
    card = AMD % (0, "u0", "s0")
    found = values(
        f"gpu_package_power{{{card}}} 748\n"
        f"gpu_energy_consumed{{{card}}} 1400000000\n"
        f"gpu_total_vram{{{card}}} 196592\n"
        f'gpu_clock{{{card},clock_type="GPU_CLOCK_TYPE_SYSTEM",clock_index="0"}} 1533\n'
        f'gpu_clock{{{card},clock_type="system",clock_index="1"}} 1600\n'
        f'gpu_clock{{{card},clock_type="GPU_CLOCK_TYPE_FABRIC",clock_index="9"}} 2000\n'
    )
    assert found == {POWER: 748.0, ENERGY: 1400.0, MEMORY_TOTAL: 196592 * 1048576, CLOCK_SM: 1.6e9}


def test_an_amd_zero_is_not_supported_and_the_average_steps_in() -> None:
    card = AMD % (0, "u0", "s0")
    reading = Exporter().say(
        f"gpu_package_power{{{card}}} 0\ngpu_average_package_power{{{card}}} 41\ngpu_energy_consumed{{{card}}} 0\n"
    )
    assert reading.samples[0].values == {POWER: 41.0}
    assert reading.samples[0].text == {"power_method": "average", "power_scope": "package"}


def test_an_amd_prefix_of_the_sites_own_choice_is_seen_through() -> None:
    card = AMD % (0, "u0", "s0")
    assert values(f"amd_gpu_package_power{{{card}}} 748\n")[POWER] == 748.0
    assert values(f"our_site_gpu_package_power{{{card}}} 748\n")[POWER] == 748.0


def test_power_of_a_partitioned_amd_package_is_the_first_partitions_whatever_the_others_say() -> None:
    def line(name: str, partition: int, value: float) -> str:
        card = AMD % (partition, f"u{partition}", "s0")
        return f'{name}{{{card},gpu_partition_id="{partition}",gpu_compute_partition_type="cpx"}} {value}\n'

    exporter = Exporter()
    reading = exporter.say(
        # The second partition first: exporters promise no order.
        line("gpu_used_vram", 1, 10) + line("gpu_used_vram", 0, 20)
        + line("gpu_package_power", 1, 555) + line("gpu_package_power", 0, 700)
    )  # fmt: skip
    assert {sample.subject: sample.values for sample in reading.samples} == {
        "u0": {POWER: 700.0},
        "u0/0": {MEMORY_USED: 20 * 1048576},
        "u0/1": {MEMORY_USED: 10 * 1048576},
    }
    whole = AMD % (0, "u0", "s0")
    spx = f'gpu_package_power{{{whole},gpu_partition_id="0",gpu_compute_partition_type="spx"}} 600\n'
    (device,) = Exporter().say(spx).devices
    assert (device.id, device.parent, device.partition) == ("u0", None, None)


def test_gaudi_power_is_milliwatts_under_both_names_and_its_energy_is_left_out() -> None:
    card = 'Serial="AN1",UUID="01P0-HL2080A0",device="AN1",id="3",driver="1.2"'
    exporter = Exporter()
    reading = exporter.say(
        f"habanalabs_power_mW{{{card}}} 312000\naccelerator_power_usage_watts{{{card}}} 312000\n"
        f"habanalabs_energy{{{card}}} 123456\n"
        f"accelerator_sm_clock_hertz{{{card}}} 1650\nhabanalabs_clock_soc_mhz{{{card}}} 1650\n"
    )
    assert reading.samples[0].values == {POWER: 312.0, CLOCK_SM: 1.65e9}
    assert "unit" in exporter.reader.dropped["habanalabs_energy"]
    # Each name alone: 600 mW could pass for the watts of a busy card.
    for name in ("habanalabs_power_mW", "accelerator_power_usage_watts"):
        assert values(f"habanalabs_utilization{{{card}}} 1\n{name}{{{card}}} 600\n")[POWER] == 0.6


def test_intel_power_of_the_card_is_not_added_to_its_parts() -> None:
    base = 'hw_id="gpu-1",pci_bdf="0000:4d:00.0",hw_sensor_location="%s"'
    found = values(
        "".join(
            f"hw_power_watts{{{base % place}}} {watts}\nhw_energy_joules_total{{{base % place}}} {watts * 100}\n"
            for place, watts in (("package", 250), ("card", 300), ("memory", 40), ("gpu_core", 200))
        )
        .replace('"gpu_core"', '"core"')
    )  # fmt: skip
    assert found == {POWER: 300.0, POWER_MEMORY: 40.0, ENERGY: 30000.0}


def test_older_xpum_tiles_are_parts_of_the_device() -> None:
    found = values(
        'xpum_power_watts{uuid="u",dev_name="Max 1550"} 400\n'
        'xpum_power_watts{uuid="u",dev_name="Max 1550",sub_device_id="0"} 190\n'
    )
    assert found[POWER] == 400.0


def test_omnistat_cards_are_named_by_host_and_place_and_zero_watts_are_absent() -> None:
    reading = Exporter().say(
        'rocm_average_socket_power_watts{card="0",source="current_socket_power"} 410\n'
        'rocm_average_socket_power_watts{card="1",source="current_socket_power"} 0\n'
        'rocm_utilization_percentage{card="1"} 50\n'
        'rocm_temperature_celsius{card="0",location="hbm_0"} 46\n'
        'rocm_temperature_celsius{card="0",location="hbm_1"} 49\n'
    )
    assert {sample.subject: sample.values for sample in reading.samples} == {
        "node7/amd-0": {POWER: 410.0, TEMPERATURE_MEMORY: 49.0},
        "node7/amd-1": {UTILIZATION: 0.5},
    }
    assert reading.samples[0].text["power_method"] == "instant"


def test_neurons_created_gauges_are_no_counters() -> None:
    exporter = Exporter()
    reading = exporter.say(
        'execution_status_total{instance_id="i-1",status_type="completed"} 50\n'
        'execution_status_created{instance_id="i-1",status_type="completed"} 1.7e9\n'
        'execution_status_total{instance_id="i-1",status_type="timed_out"} 2\n'
        'neuroncore_utilization_ratio{instance_id="i-1",neuroncore="3",runtime_tag="1"} 0.25\n'
    )
    by_scope = {sample.scope: sample.values for sample in reading.samples}
    assert by_scope == {Scope.WORKLOAD: {REQUESTS: 50.0, REQUESTS_FAILED: 2.0}, Scope.DEVICE: {UTILIZATION: 0.25}}
    assert "execution_status_created" in exporter.reader.dropped


def test_jobstats_power_is_milliwatts_and_its_jobid_an_allocation() -> None:
    reading = Exporter().say(
        'nvidia_gpu_power_usage_milliwatts{minor_number="0",name="A100",uuid="GPU-1",jobid="77"} 66500\n'
    )
    assert reading.samples[0].values == {POWER: 66.5}
    assert reading.allocations[0].workload == "77"


def test_triton_energy_is_joules_and_inferences_are_no_tokens() -> None:
    reading = Exporter().say(
        'nv_energy_consumption{gpu_uuid="GPU-1"} 4567.5\nnv_gpu_utilization{gpu_uuid="GPU-1"} 0.9\n'
        'nv_inference_count{model="bert",version="1"} 100\nnv_inference_count{model="bert",version="2"} 20\n'
    )
    by_subject = {sample.subject: sample.values for sample in reading.samples}
    assert by_subject == {"GPU-1": {ENERGY: 4567.5, UTILIZATION: 0.9}, "node7:9400/bert": {SAMPLES: 120.0}}


# ---------------------------------------------------------------------------------------------------------------- hosts


def rapl(zone: str, index: int, joules: float, path: str = "intel-rapl") -> str:
    return f'node_rapl_{zone}_joules_total{{index="{index}",path="/sys/class/powercap/{path}:{index}"}} {joules}\n'


def test_rapl_zones_are_followed_one_by_one_so_that_a_wrap_of_one_is_neither_a_loss_nor_a_spike() -> None:
    exporter = Exporter()
    total = [
        exporter.say(rapl("package", 0, a) + rapl("package", 1, b)).samples[0].values[HOST_CPU_ENERGY]
        for a, b in ((262_100.0, 130_000.0), (262_140.0, 130_050.0), (36.671150, 130_090.0), (96.671150, 130_150.0))
    ]
    # 262143.32885 J is where zone 0 wraps: 3.32885 J to it and 36.67115 J beyond.
    assert total == pytest.approx([0.0, 90.0, 170.0, 290.0])


def test_rapl_that_began_anew_adds_only_what_is_known() -> None:
    exporter = Exporter()
    total = [
        exporter.say(rapl("package", 0, a)).samples[0].values[HOST_CPU_ENERGY] for a in (5_000.0, 5_100.0, 40.0, 60.0)
    ]
    assert total == pytest.approx([0.0, 100.0, 140.0, 160.0])


def test_neither_psys_nor_mmio_nor_core_is_added_to_the_packages() -> None:
    exporter = Exporter()

    def say(package: float) -> Mapping[Metric, float]:
        return exporter.say(
            rapl("package", 0, package) + rapl("package", 0, package, "intel-rapl-mmio")
            + rapl("package", 3, package, "intel-rapl-mmio") + rapl("psys", 1, 3 * package)
            + rapl("core", 0, package / 2) + rapl("dram", 0, package / 4)
        ).samples[0].values  # fmt: skip

    say(1000.0)
    found = say(1400.0)
    assert found[HOST_CPU_ENERGY] == pytest.approx(400.0)
    assert found[HOST_DRAM_ENERGY] == pytest.approx(100.0)
    assert HOST_PLATFORM_POWER not in found


def test_a_rapl_zone_that_cannot_be_read_once_is_not_taken_for_a_wrap() -> None:
    exporter = Exporter()
    exporter.say(rapl("package", 0, 262_100.0) + rapl("package", 1, 100.0))
    without = exporter.say(rapl("package", 1, 150.0)).samples[0].values[HOST_CPU_ENERGY]
    again = exporter.say(rapl("package", 0, 262_130.0) + rapl("package", 1, 160.0)).samples[0].values[HOST_CPU_ENERGY]
    assert (without, again) == (pytest.approx(50.0), pytest.approx(90.0))


def test_kepler_gives_the_node_and_not_its_own_attribution() -> None:
    exporter = Exporter()
    reading = exporter.say(
        'kepler_node_cpu_watts{zone="package",node_name="w1"} 80\n'
        'kepler_node_cpu_watts{zone="psys",node_name="w1"} 200\n'
        'kepler_node_cpu_watts{zone="core",node_name="w1"} 60\nkepler_process_cpu_watts{pid="1",zone="package"} 4\n'
        'kepler_node_gpu_watts{gpu="0",gpu_uuid="GPU-a",gpu_name="T4",vendor="nvidia",node_name="w1"} 65.5\n'
    )
    assert {sample.subject: sample.values for sample in reading.samples} == {
        "w1": {HOST_CPU_POWER: 80.0},
        "GPU-a": {POWER: 65.5},
    }
    assert "kepler_process_cpu_watts" in exporter.reader.dropped


def test_of_ipmi_only_the_current_power_is_taken() -> None:
    found = values(
        'ceems_ipmi_dcmi_avg_watts{hostname="h"} 5000\nceems_ipmi_dcmi_max_watts{hostname="h"} 6132\n'
        'ceems_ipmi_dcmi_current_watts{hostname="h"} 5942\n'
    )
    assert found == {HOST_PLATFORM_POWER: 5942.0}


def test_scaphandre_is_microwatts_and_its_wrapping_sum_is_left_out() -> None:
    exporter = Exporter()
    exporter.say('scaph_host_power_microwatts 45000000\nscaph_socket_energy_microjoules{socket_id="0"} 1000000\n')
    reading = exporter.say(
        "scaph_host_power_microwatts 46000000\nscaph_host_energy_microjoules 99\n"
        'scaph_socket_energy_microjoules{socket_id="0"} 3000000\n'
    )
    assert reading.samples[0].values == {HOST_CPU_POWER: 46.0, HOST_CPU_ENERGY: pytest.approx(2.0)}
    assert "wrap" in exporter.reader.dropped["scaph_host_energy_microjoules"]


# -------------------------------------------------------------------------------------------------------------- serving

VLLM = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 7.307144e+06
vllm:generation_tokens_total{engine="1",model_name="m"} 1.0e+06
vllm:prompt_tokens_total{engine="0",model_name="m"} 2e6
vllm:iteration_tokens_total_bucket{engine="0",model_name="m",le="1.0"} 5
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 9.9e6
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 4321
vllm:request_generation_tokens_sum{engine="0",model_name="m"} 7.0e6
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 90
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 8
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 2
vllm:num_requests_waiting{engine="0",model_name="m"} 3
"""


def test_vllms_tokens_belong_to_the_engine_and_its_histogram_is_no_counter() -> None:
    reading = Exporter().say(VLLM)
    (sample,) = reading.samples
    assert (sample.scope, sample.subject) == (Scope.WORKLOAD, "node7:9400/m")
    assert sample.text == {"model": "m", "framework": "vllm"}
    assert sample.values == {
        TOKENS_OUT: 8_307_144.0,
        TOKENS_IN: 2e6,
        STEPS: 4321.0,
        REQUESTS: 98.0,
        REQUESTS_FAILED: 2.0,
        QUEUE_LENGTH: 3.0,
    }
    assert not reading.devices


def test_vllms_estimates_for_one_gpu_of_each_engine_are_those_of_a_gpu_of_the_group() -> None:
    found = values(
        'vllm:estimated_flops_per_gpu_total{engine="0",model_name="m"} 3e18\n'
        'vllm:estimated_flops_per_gpu_total{engine="1",model_name="m"} 1e18\n'
        'vllm:estimated_read_bytes_per_gpu_total{engine="0",model_name="m"} 6e15\n'
        'vllm:estimated_write_bytes_per_gpu_total{engine="0",model_name="m"} 2e15\n'
    )
    assert found == {WORK_PER_DEVICE: 2e18, MEMORY_READ_PER_DEVICE: 6e15, MEMORY_WRITTEN_PER_DEVICE: 2e15}


def test_an_engine_can_be_given_the_name_of_its_job() -> None:
    assert Exporter(workload="slurm-42").say(VLLM).samples[0].subject == "slurm-42"


def test_old_and_new_vllm_names_together_count_once() -> None:
    found = values('vllm:gpu_cache_usage_perc{model_name="m"} 0.5\nvllm:kv_cache_usage_perc{model_name="m"} 0.5\n')
    assert list(found.values()) == [0.5]


def test_sglang_ranks_that_repeat_the_engine_count_once_and_its_other_labels_add() -> None:
    found = values(
        "".join(
            f'sglang:generation_tokens_total{{model_name="m",is_streaming="{how}",tp_rank="{rank}"}} {tokens}\n'
            for how, tokens in (("true", 50), ("false", 100))
            for rank in (0, 1, 2, 3)
        )
        + 'sglang:num_queue_reqs{model_name="m",tp_rank="0",priority=""} 3\n'
        + 'sglang:num_queue_reqs{model_name="m",tp_rank="0",priority="1"} 2\n'
        + 'sglang:cached_tokens_total{cache_source="device",model_name="m"} 400\n'
        + 'sglang:cached_tokens_total{cache_source="host",model_name="m"} 40\n'
        + 'sglang:realtime_tokens_total{mode="decode",model_name="m"} 999\n'
    )
    assert found == {TOKENS_OUT: 150.0, QUEUE_LENGTH: 3.0, TOKENS_CACHED: 440.0}


def test_sglang_tokens_by_mode_step_in_where_the_counters_of_requests_are_not_told() -> None:
    ranks = "".join(
        f'sglang:realtime_tokens_total{{mode="{mode}",model_name="m",tp_rank="{rank}"}} {tokens}\n'
        for mode, tokens in (("prefill_compute", 700), ("prefill_cache", 300), ("decode", 90))
        for rank in (0, 1)
    )
    assert values(ranks) == {TOKENS_IN: 1000.0, TOKENS_OUT: 90.0}


def test_what_an_agent_exports_is_read_back_as_it_was_measured() -> None:
    """A hub reads agents as it reads any exporter: every metric, provenance, identity and partition."""
    board = Device(id="GPU-1", host="node", vendor="NVIDIA", model="H100", driver_version="580", serial="7")
    part = Device(id="MIG-2", host="node", vendor="NVIDIA", model="H100", parent="GPU-1", partition="1g.10gb")
    subjects = {Scope.DEVICE: "GPU-1", Scope.HOST: "node", Scope.WORKLOAD: "chat", Scope.FACILITY: "pdu"}
    text = {
        Scope.DEVICE: {"power_method": "average", "power_scope": "module"},
        Scope.WORKLOAD: {"model": "llama"},
        Scope.FACILITY: {"site": "oslo"},
    }
    told = {
        scope: {metric: 0.5 if metric.high is None else min(0.5, metric.high) for metric in metrics(scope)}
        for scope in subjects
    }
    samples = [
        Sample(scope=scope, subject=name, host="node", time_ns=1, values=told[scope], text=text.get(scope, {}))
        for scope, name in subjects.items()
    ]
    more = Sample(scope=Scope.DEVICE, subject="MIG-2", host="node", time_ns=1, values={UTILIZATION: 0.25}, text={})
    exposition = Exposition()
    exposition.take([Reading(source="nvml", samples=[*samples, more], devices=[board, part])])
    reading = Exporter().say(exposition.render().decode())
    found = {sample.subject: sample for sample in reading.samples}
    for scope, name in subjects.items():
        assert found[name].values == told[scope]
        assert (found[name].scope, found[name].text) == (scope, text.get(scope, {}))
    assert found["GPU-1"].host == found["chat"].host == "node"
    devices = {device.id: device for device in reading.devices}
    assert (devices["GPU-1"].driver_version, devices["GPU-1"].serial, devices["GPU-1"].parent) == ("580", "7", None)
    assert (devices["MIG-2"].parent, devices["MIG-2"].partition) == ("GPU-1", "1g.10gb")
    assert found["MIG-2"].values == {UTILIZATION: 0.25}


def test_a_job_may_count_its_work_under_perfwatts_names() -> None:
    """A training loop with a client library and no engine's names: nothing else tells whose it is."""
    loop = """workload_tokens_total{workload="pretrain",model="llama",direction="in"} 8192
workload_steps_total{workload="pretrain",model="llama"} 2
"""
    (sample,) = Exporter().say(loop).samples
    assert (sample.subject, sample.text, sample.values) == ("pretrain", {"model": "llama"}, {TOKENS_IN: 8192, STEPS: 2})


def test_tgi_tokens_are_the_sums_of_its_histograms() -> None:
    found = values(
        'tgi_request_generated_tokens_bucket{le="10"} 1\ntgi_request_generated_tokens_sum 12345\n'
        "tgi_request_generated_tokens_count 99\ntgi_request_input_length_sum 777\n"
    )
    assert found == {TOKENS_OUT: 12345.0, TOKENS_IN: 777.0}


def test_one_endpoint_may_speak_for_several_exporters() -> None:
    reading = Exporter().say(VLLM + 'nv_gpu_power_usage{gpu_uuid="GPU-a"} 300\n' + rapl("package", 0, 5.0))
    assert {sample.scope for sample in reading.samples} == {Scope.WORKLOAD, Scope.DEVICE, Scope.HOST}


def test_a_second_exporter_that_appears_later_is_recognised() -> None:
    exporter = Exporter()
    exporter.say(rapl("package", 0, 5.0))
    reading = exporter.say(rapl("package", 0, 6.0) + f"DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 300\n")
    assert {sample.scope for sample in reading.samples} == {Scope.HOST, Scope.DEVICE}


def test_two_exporters_of_one_device_do_not_double_it() -> None:
    found = values(
        f'DCGM_FI_DEV_POWER_USAGE{{{GPU0}}} 300\nnv_gpu_power_usage{{gpu_uuid="GPU-a"}} 299\n', subject="GPU-a"
    )
    assert found == {POWER: 300.0}


def test_throttled_seconds_come_from_nvidia_smi_as_seconds() -> None:
    text = 'nvidia_smi_clocks_event_reasons_counters_sw_power_cap_seconds{uuid="a"} 221.310321\n'
    assert values(text) == {THROTTLE_POWER: 221.310321}
