"""XIDs and processes."""

import os
from pathlib import Path
from typing import Any

import pytest

from collector.catalogue import XID_ERRORS, XID_LAST
from collector.errors import DeviceGone
from collector.sample import Severity
from collector.sources.nvml_events import XIDS, xid

MIB = 1 << 20


def test_an_xid_is_an_event_of_its_board_with_its_meaning(bench: Any, nvml: Any) -> None:
    bench.open().read(1)
    nvml.xid(1, 48)
    (event,) = bench.read(1).events
    assert (event.kind, event.code, event.severity) == ("xid", "48", Severity.CRITICAL)
    assert event.device == "GPU-00000001-0000-4000-8000-000000000000"
    assert (event.host, event.time_ns, event.value) == ("node7", nvml.wall_ns(), 48)
    assert "ECC" in event.message
    assert bench.read(0).events == bench.read(1).events == []


def test_xids_are_counted_and_the_last_is_kept(bench: Any, nvml: Any) -> None:
    values = bench.open().read().samples[0].values
    assert values[XID_ERRORS] == 0
    assert XID_LAST not in values
    for code in (13, 31, 74):
        nvml.xid(0, code)
    reading = bench.read()
    assert [event.code for event in reading.events] == ["13", "31", "74"]
    assert (reading.samples[0].values[XID_ERRORS], reading.samples[0].values[XID_LAST]) == (3, 74)


def test_the_count_of_xids_lasts_when_mig_is_switched(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.xid(0, 13)
    bench.read()
    nvml.device[0].instances = 2
    nvml.advance(10)
    bench.read()
    nvml.xid(0, 31)
    assert bench.read().samples[0].values[XID_ERRORS] == 2


def test_a_program_that_failed_asks_less_of_a_person_than_a_board_that_fell_off() -> None:
    assert xid(13)[0] is Severity.INFO
    assert xid(79)[0] is Severity.CRITICAL
    assert xid(9999)[0] is Severity.WARNING
    assert all(text for _, text in XIDS.values())


def test_the_last_words_of_a_lost_board_are_not_lost_with_it(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.xid(0, 79)
    nvml.device[0].lost = 1
    reading = bench.read()
    assert [event.code for event in reading.events] == ["79"]
    assert reading.gap is not None
    assert reading.gap.reason == "device_gone"
    assert not reading.samples
    with pytest.raises(DeviceGone):
        bench.read()


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for pid, name in ((4000, "python3"), (4001, "gpu_burn")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    return tmp_path


def test_processes_come_with_name_user_memory_and_utilisation(bench: Any, nvml: Any, proc: Path) -> None:
    nvml.device[0].processes, nvml.device[0].pid = 3, 4000
    first, second, third = bench.open(processes_s=30.0, proc=str(proc)).read().processes
    assert (first.pid, first.name, first.memory_used_bytes, first.utilization_ratio) == (
        4000,
        "python3",
        2566 * MIB,
        0.42,
    )
    assert first.user == ("root" if os.geteuid() == 0 else first.user)
    assert first.device == "GPU-00000000-0000-4000-8000-000000000000"
    assert (second.name, second.memory_used_bytes, second.utilization_ratio) == ("gpu_burn", None, None)
    assert (third.pid, third.name, third.user) == (4002, None, None)  # of another pid namespace


def test_processes_have_a_cadence_of_their_own_and_can_be_left_out(bench: Any, nvml: Any, proc: Path) -> None:
    nvml.device[0].processes, nvml.device[0].pid = 1, 4000
    bench.open(processes_s=30.0, proc=str(proc))
    told = []
    for second in range(70):
        if bench.read().processes:
            told.append(second)
        nvml.advance(1)
    assert told == [0, 30, 60]
    assert not bench.open(processes_s=0.0).read().processes


def test_a_process_on_a_mig_board_belongs_to_its_instance(bench: Any, nvml: Any, proc: Path) -> None:
    nvml.device[0].instances, nvml.device[0].processes, nvml.device[0].pid = 2, 2, 4000
    reading = bench.open(processes_s=30.0, proc=str(proc)).read()
    _, *instances = reading.devices
    assert [process.device for process in reading.processes] == [device.id for device in instances]
