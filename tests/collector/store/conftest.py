"""What the tests of the store share: a store, readings, and a processor of many short-lived agents."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.catalogue import ENERGY, POWER, Metric, Scope
from collector.sample import Device, Reading, Sample
from collector.store import Store

ROOT = Path(__file__).parents[3]
# Midnight UTC of a day long ago, so that whatever depends on today shows.
DAY_NS = 1_700_006_400_000_000_000 // 86_400_000_000_000 * 86_400_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def day_ns() -> int:
    return DAY_NS


@pytest.fixture
def reading() -> Callable[..., Reading]:
    def make(second: float, device: str = "GPU-0", source: str = "nvml", **values: float) -> Reading:
        chosen: dict[Metric, float] = {POWER: 300.0, ENERGY: 1000.0 + second}
        chosen.update({{"power_w": POWER, "energy_j": ENERGY}[name]: value for name, value in values.items()})
        time_ns = DAY_NS + round(second * 1e9)
        return Reading(
            source=source,
            samples=[
                Sample(
                    scope=Scope.DEVICE,
                    subject=device,
                    host="node7",
                    time_ns=time_ns,
                    values=chosen,
                    text={"power_method": "average"},
                )
            ],
            devices=[Device(id=device, host="node7", vendor="nvidia", model="H100")],
        )

    return make


class Agents:
    """Starts agents fast (a process that has everything imported forks them) and kills them without warning."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("agent_process.py")
        self._parent = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def start(self, root: Path, *arguments: object) -> int:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(" ".join(map(str, (root, *arguments))) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def wait_dead(self, pid: int) -> None:
        """Block until the forking process has seen the end of *pid*."""
        assert self._parent.stdout is not None
        assert int(self._parent.stdout.readline()) == pid

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.wait_dead(pid)

    def close(self) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(30)
        self._parent.stdout.close()


@pytest.fixture
def agents() -> Iterator[Agents]:
    found = Agents()
    yield found
    found.close()
