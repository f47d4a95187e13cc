"""A libnvidia-ml.so.1 without a GPU: stub_nvml.c, compiled once, with its switches in reach."""

import ctypes
import math
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from collector.sample import Reading
from collector.sources.nvml_inventory import Inventory
from collector.sources.nvml_settings import settings_of

_LISTED, _NAME = 64, 64


class DeviceSwitches(ctypes.Structure):
    """`struct device` of stub_nvml.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("absent", "lost", "hang", "unknown", "slow_us", "calls")),
        ("instances", ctypes.c_int64),
        ("layout", ctypes.c_int64),
        ("xid", ctypes.c_int64 * 8),
        ("xid_made", ctypes.c_int64),
        ("xid_taken", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("reasons", "processes", "pid", "sleeping")),
        *((name, ctypes.c_int64) for name in ("module_scope", "architecture", "pstate", "pcie_wraps")),
        ("power_limit_mw", ctypes.c_int64),
        ("reset_at_mj", ctypes.c_int64),
        ("power_reads", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("mean_w", "swing_w", "period_s", "counter_gain")),
    )


class Switches(ctypes.Structure):
    """`struct control` of stub_nvml.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("devices", "clock_ns", "tick_ms", "average_ms", "instant_ms")),
        *((name, ctypes.c_int64) for name in ("driver_gone", "inits", "denied_count", "broken_count", "broken_code")),
        ("driver", ctypes.c_char * _NAME),
        ("denied", (ctypes.c_char * _NAME) * _LISTED),
        ("broken", (ctypes.c_char * _NAME) * _LISTED),
        ("device", DeviceSwitches * 32),
    )


class NvmlStub:
    """The switches of the stub, its clock, and what its physics says is true."""

    def __init__(self, library: Path, control: Path) -> None:
        self.library = library
        self.control_path = control
        self._defaults = ctypes.CDLL(str(library)).stub_defaults
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.switches = Switches.from_buffer(self._map)
        self.device = self.switches.device

    def reset(self, devices: int = 2) -> None:
        """Healthy boards, at 1,000 s of a clock that the test moves."""
        self._defaults(ctypes.byref(self.switches))
        self.switches.devices = devices
        self.switches.clock_ns = 1_000_000_000_000

    def deny(self, *names: str) -> None:
        """Let functions, or fields by ``field ID SCOPE``, be not supported."""
        self._list(self.switches.denied, "denied_count", names)

    def break_(self, *names: str, code: int = 999) -> None:
        """Let functions or fields fail, with an unknown error where no other is given."""
        self.switches.broken_code = code
        self._list(self.switches.broken, "broken_count", names)

    def _list(self, array: "ctypes.Array[ctypes.Array[ctypes.c_char]]", count: str, names: tuple[str, ...]) -> None:
        for index, name in enumerate(names):
            array[index].value = name.encode()
        setattr(self.switches, count, len(names))

    def xid(self, board: int, code: int) -> None:
        """Let the driver report an XID."""
        switches = self.device[board]
        switches.xid[switches.xid_made % 8] = code
        switches.xid_made += 1

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.switches.clock_ns += round(seconds * 1e9)

    def monotonic(self) -> float:
        return self.switches.clock_ns / 1e9

    def wall_ns(self) -> int:
        return 1_790_000_000_000_000_000 + self.switches.clock_ns

    def energy_j(self, board: int, since_s: float, until_s: float) -> float:
        """The energy that the board truly took."""
        device = self.device[board]
        turn = 2 * math.pi / device.period_s
        swing = device.swing_w / turn * (math.cos(turn * since_s) - math.cos(turn * until_s))
        return device.mean_w * (until_s - since_s) + swing

    def options(self, **more: object) -> dict[str, object]:
        """Options of a source over the stub: no sysfs, no processes, unless a test says otherwise."""
        return {"library": str(self.library), "sysfs": "/nonexistent", "processes_s": 0.0, **more}


def compile_stub(folder: Path) -> tuple[Path, Path]:
    """Compile the stub into *folder*; gives the library and a file for its switches. The benchmarks do so, too."""
    library, control = folder / "libnvidia-ml.so.1", folder / "switches"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    flags.append("-Wl,-soname,libnvidia-ml.so.1")
    source = Path(__file__).parent / "stub_nvml.c"
    subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-lm"], check=True)
    control.write_bytes(bytes(ctypes.sizeof(Switches)))
    assert ctypes.CDLL(str(library)).stub_size() == ctypes.sizeof(Switches)
    return library, control


@pytest.fixture(scope="session")
def _nvml_process_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NvmlStub]:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed; the stub of libnvidia-ml.so.1 is compiled with it")
    library, control = compile_stub(tmp_path_factory.mktemp("nvml"))
    # The library maps the file once for the process, so it is one file for all tests.
    before = os.environ.get("PERFWATT_STUB_NVML")
    os.environ["PERFWATT_STUB_NVML"] = str(control)
    yield NvmlStub(library, control)
    if before is None:
        del os.environ["PERFWATT_STUB_NVML"]
    else:
        os.environ["PERFWATT_STUB_NVML"] = before


@pytest.fixture
def nvml(_nvml_process_stub: NvmlStub) -> NvmlStub:
    """Two healthy boards."""
    _nvml_process_stub.reset()
    return _nvml_process_stub


class NvmlBench:
    """The boards as the source opens them, read one after the other."""

    def __init__(self, stub: NvmlStub) -> None:
        self.stub = stub
        self._stack = ExitStack()
        self.inventory: Inventory | None = None

    def open(self, **options: object) -> "NvmlBench":
        self.inventory = Inventory(
            settings_of(self.stub.options(**options)), "node7", monotonic=self.stub.monotonic, wall_ns=self.stub.wall_ns
        )
        self._stack.callback(self.inventory.close)
        self.sources = list(self.inventory.scan())
        return self

    def scan(self) -> list[str]:
        assert self.inventory is not None
        self.sources = list(self.inventory.scan())
        return [source.name for source in self.sources]

    def read(self, board: int = 0) -> Reading:
        return self.sources[board].read()

    def values(self, board: int = 0, subject: int = 0) -> dict[str, float]:
        """One more reading, by column."""
        return {metric.column: value for metric, value in self.read(board).samples[subject].values.items()}

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def bench(nvml: NvmlStub) -> Iterator[NvmlBench]:
    bench = NvmlBench(nvml)
    yield bench
    bench.close()
