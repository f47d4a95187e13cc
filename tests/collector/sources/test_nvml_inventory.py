"""Boards that come, leave, come back, sleep, hang; and the options of the source."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from collector.errors import ConfigError, DeviceGone, ReadRetry, SourceUnavailable
from collector.sources import OPENERS
from collector.sources.nvml import check_options, open_nvml
from collector.sources.nvml_library import load

ROOT = Path(__file__).parents[3]


def read(sources: Any) -> dict[str, Any]:
    return {reading.source: reading for reading in sources.tick(5)}


def name(board: int) -> str:
    return f"nvml:GPU-{board:08x}-0000-4000-8000-000000000000"


def test_the_opener_reads_every_board(nvml: Any) -> None:
    assert OPENERS["nvml"] == "collector.sources.nvml:open_nvml"
    nvml.reset(devices=16)
    with open_nvml(nvml.options(), "node7") as sources:
        readings = read(sources)
    assert list(readings) == [name(board) for board in range(16)]
    assert all(reading.samples and reading.gap is None for reading in readings.values())


def test_the_library_is_given_back(nvml: Any) -> None:
    holders = ctypes.CDLL(str(nvml.library)).stub_holders
    before = holders()
    with open_nvml(nvml.options(), "node7") as sources:
        read(sources)
        assert holders() == before + 1
    assert holders() == before


def test_a_board_that_fell_off_is_one_event_and_comes_back_by_its_id(nvml: Any) -> None:
    clock = nvml.monotonic
    with open_nvml(nvml.options(rescan_s=0.1), "node7", monotonic=clock) as sources:
        read(sources)
        nvml.device[0].lost = nvml.device[0].absent = 1
        nvml.advance(1)
        reading = read(sources)[name(0)]
        assert [event.kind for event in reading.events] == ["device_gone"]
        assert reading.gone == (name(0).removeprefix("nvml:"),)
        nvml.advance(1)
        assert list(read(sources)) == [name(1)]
        nvml.device[0].lost = nvml.device[0].absent = 0
        nvml.advance(60)
        deadline = time.monotonic() + 10
        seen: dict[str, Any] = {}
        while name(0) not in seen and time.monotonic() < deadline:
            time.sleep(0.05)
            seen = read(sources)
        assert [event.kind for event in seen[name(0)].events] == ["device_back"]
        assert nvml.switches.inits == 2  # opened anew: the library lists boards only then
        assert seen[name(1)].gap is None
        nvml.advance(120)
        time.sleep(0.11)
        read(sources)
        read(sources)
        assert nvml.switches.inits == 2  # nobody is missing any more


def test_opening_anew_keeps_what_the_other_boards_integrated(bench: Any, nvml: Any) -> None:
    bench.open().read(1)
    nvml.advance(9)
    nvml.xid(1, 13)
    before = bench.values(1)
    nvml.device[0].lost = nvml.device[0].absent = 1
    with pytest.raises(DeviceGone):
        bench.read(0)
    nvml.advance(60)
    assert bench.scan() == [name(1)]
    assert nvml.switches.inits == 2
    nvml.xid(1, 31)
    values = bench.values(0)
    assert values["energy_integrated_j"] == before["energy_integrated_j"] > 0
    assert values["xid_errors"] == 2


def test_a_board_that_is_added_is_found(bench: Any, nvml: Any) -> None:
    assert len(bench.open().scan()) == 2
    nvml.switches.devices = 3
    assert bench.scan() == [name(0), name(1), name(2)]


def test_a_known_board_stays_the_same_object_over_scans(bench: Any, nvml: Any) -> None:
    first = list(bench.open().sources)
    bench.scan()
    assert all(one is other for one, other in zip(first, bench.sources, strict=True))


def test_a_driver_that_went_ends_the_tick_so_that_the_source_is_opened_again(nvml: Any) -> None:
    with open_nvml(nvml.options(rescan_s=0.1), "node7") as sources:
        read(sources)
        nvml.switches.driver_gone = 1
        time.sleep(0.11)
        gaps = []
        with pytest.raises(SourceUnavailable, match="Uninitialized"):
            gaps += [reading.gap.reason for reading in sources.tick(5)]


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    for board in range(2):
        device = tmp_path / "bus/pci/devices" / f"0000:{16 + board:02x}:00.0"
        (device / "power").mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
        (device / "power/control").write_text("auto\n")
        (device / "power/runtime_status").write_text("active\n")
    bridge = tmp_path / "bus/pci/devices/0000:00:01.0"
    bridge.mkdir()
    (bridge / "vendor").write_text("0x10de\n")
    (bridge / "class").write_text("0x060400\n")
    return tmp_path


def sleep(sysfs: Path, board: int, *, asleep: bool) -> None:
    status = sysfs / "bus/pci/devices" / f"0000:{16 + board:02x}:00.0/power/runtime_status"
    status.write_text("suspended\n" if asleep else "active\n")


def test_a_board_that_falls_asleep_is_a_gap_and_is_not_touched(bench: Any, nvml: Any, sysfs: Path) -> None:
    bench.open(sysfs=str(sysfs)).read()
    sleep(sysfs, 0, asleep=True)
    calls = nvml.device[0].calls
    for _ in range(3):
        nvml.advance(10)
        assert bench.scan() == [name(1), name(0)]
        with pytest.raises(ReadRetry, match="sleeps") as raised:
            bench.read(1)
        assert raised.value.reason == "suspended"
    assert nvml.device[0].calls == calls
    assert bench.values(0)["power_w"] > 0
    sleep(sysfs, 0, asleep=False)
    assert bench.values(1)["power_w"] > 0


def test_with_every_board_asleep_the_library_is_not_even_opened(bench: Any, nvml: Any, sysfs: Path) -> None:
    sleep(sysfs, 0, asleep=True)
    sleep(sysfs, 1, asleep=True)
    bench.open(sysfs=str(sysfs))
    assert [source.name for source in bench.sources] == ["nvml:0000:10:00.0", "nvml:0000:11:00.0"]
    for source in bench.sources:
        with pytest.raises(ReadRetry, match="sleeps"):
            source.read()
    assert bench.scan() == ["nvml:0000:10:00.0", "nvml:0000:11:00.0"]
    assert (nvml.switches.inits, nvml.device[0].calls, nvml.device[1].calls) == (0, 0, 0)


def test_a_board_that_slept_at_the_start_is_read_when_something_woke_it(bench: Any, nvml: Any, sysfs: Path) -> None:
    sleep(sysfs, 0, asleep=True)
    assert [source.name for source in bench.open(sysfs=str(sysfs)).sources] == [name(1), "nvml:0000:10:00.0"]
    assert nvml.device[0].calls == 0
    sleep(sysfs, 0, asleep=False)
    reading = bench.read(1)
    assert reading.source == "nvml:0000:10:00.0"
    assert reading.samples[0].subject == "GPU-00000000-0000-4000-8000-000000000000"
    assert bench.scan() == [name(1), "nvml:0000:10:00.0"]  # once, not under two names


def test_a_board_that_may_not_sleep_costs_no_look_at_sysfs(bench: Any, nvml: Any, sysfs: Path) -> None:
    for control in sysfs.glob("bus/pci/devices/*/power/control"):
        control.write_text("on\n")
    bench.open(sysfs=str(sysfs)).read()
    sleep(sysfs, 0, asleep=True)  # cannot be: what is to be seen is that nobody looks
    assert bench.values()["power_w"] > 0


HANG = """
import sys
sys.path.insert(0, {root!r})
from collector.sources.nvml import check_options, open_nvml
with open_nvml({options!r}, "node7") as sources:
    list(sources.tick(5))
    print("hang", flush=True)
    sys.stdin.readline()
    for reading in sources.tick(0.3):
        print(reading.source, reading.gap.reason if reading.gap else "good", flush=True)
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_a_board_that_hangs_is_a_timeout_and_holds_nobody_else(nvml: Any) -> None:
    nvml.reset(devices=4)
    nvml.switches.clock_ns = 0
    code = HANG.format(root=str(ROOT), options=nvml.options())
    environment = {**os.environ, "PERFWATT_STUB_NVML": str(nvml.control_path)}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "hang\n"
        nvml.device[1].hang = 1
        began = time.monotonic()
        child.stdin.write("\n")
        child.stdin.flush()
        lines = [child.stdout.readline().split() for _ in range(5)]
        assert lines.pop() == ["done"]
        assert dict(lines) == {name(0): "good", name(1): "timeout", name(2): "good", name(3): "good"}
        assert time.monotonic() - began < 2
    finally:
        child.kill()
        child.communicate()
        nvml.device[1].hang = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slow": 3}, "slow: an nvml source has no such option"),
        ({"slow_s": "10"}, "slow_s: '10' is not a number"),
        ({"slow_s": -1}, "slow_s: -1 is not between 0 and 3600"),
        ({"activity": 1}, "activity: 1 is neither true nor false"),
        ({"library": 1}, "library: 1 is not a path"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_options(options)
    assert str(raised.value).startswith(message)


def test_a_library_that_is_not_there_is_named(nvml: Any) -> None:
    with pytest.raises(SourceUnavailable, match=r"/nonexistent/libnvidia-ml\.so\.1"):
        load("/nonexistent/libnvidia-ml.so.1")


def test_a_library_of_another_soname_is_refused_rather_than_left_unused(nvml: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    source = tmp_path / "other.c"
    source.write_text("int nothing(void) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(other), str(source)], check=True)
    load(str(nvml.library))
    with pytest.raises(SourceUnavailable, match="soname"):
        load(str(other))


def test_a_machine_without_boards_is_unavailable(nvml: Any) -> None:
    nvml.reset(devices=0)
    with pytest.raises(SourceUnavailable, match="no board"), open_nvml(nvml.options(), "node7"):
        pass
