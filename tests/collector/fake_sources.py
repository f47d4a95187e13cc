"""
Sources for the tests of the agent, read in real worker processes; a test changes what they do while they run.

The folder in the option ``control`` holds a file for each source; its first word is what the source does next:
ok, retry, gone, slow SECONDS, hang (in C, without the interpreter lock), freeze (in C, holding it), crash, break.
A source without a file is not there.
"""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector.catalogue import ENERGY, POWER, UTILIZATION, Scope
from collector.errors import ConfigError, DeviceGone, ReadRetry, SourceUnavailable
from collector.sample import Device, Reading, Sample
from collector.sources.one_by_one import OneByOne


class FakeSource:
    def __init__(self, path: Path, host: str) -> None:
        self.name = f"fake:{path.name}"
        self._path = path
        self._reads = 0
        self._device = Device(id=path.name, host=host, vendor="fake", model="fake")

    def read(self) -> Reading:
        self._reads += 1
        what, *words = self._path.read_text().split() if self._path.exists() else ["gone"]
        match what:
            case "retry":
                raise ReadRetry("try again")
            case "gone":
                raise DeviceGone("fell off the bus")
            case "slow":
                time.sleep(float(words[0]))
            case "hang":
                ctypes.CDLL(None).pause()
            case "freeze":
                ctypes.PyDLL(None).pause()
            case "crash":
                ctypes.string_at(0)
            case "break":
                raise KeyError("a bug")
        values = {POWER: 100.0 + self._reads % 7, UTILIZATION: 0.5, ENERGY: float(self._reads)}
        if what == "absurd":
            values[POWER] = 2147483647.0
        sample = Sample(
            scope=Scope.DEVICE,
            subject=self._device.id,
            host=self._device.host,
            time_ns=time.time_ns(),
            values=values,
        )
        return Reading(source=self.name, samples=(sample,), devices=(self._device,))


@contextmanager
def open_fake(options: dict[str, Any], host: str) -> Iterator[OneByOne]:
    control = Path(options["control"])
    time.sleep(options.get("open_s", 0.0))
    if (control / ".refuse").exists():
        raise ConfigError("power", "is wrong")
    paths = [path for path in sorted(control.iterdir()) if not path.name.startswith(".")]
    if not paths or (control / ".unavailable").exists():
        raise SourceUnavailable("no driver")
    (control / f".pid-{os.getpid()}").touch()

    def scan() -> list[FakeSource]:
        return [FakeSource(path, host) for path in sorted(control.iterdir()) if not path.name.startswith(".")]

    yield OneByOne(scan(), rescan=scan, rescan_s=options.get("rescan_s", 0.1))


class _Frozen:
    def tick(self, deadline_s: float) -> Iterator[Reading]:
        ctypes.PyDLL(None).pause()
        return iter(())


@contextmanager
def open_frozen(options: dict[str, Any], host: str) -> Iterator[_Frozen]:
    yield _Frozen()


def check_options(options: dict[str, Any]) -> None:
    if "watts" in options:
        raise ConfigError("watts", "is no option of this source")
