"""
NVIDIA boards through NVML, the library of the driver (nvidia-ml-py).

    [[source]]
    type = "nvml"
    library = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"   # default: as the loader finds it
    slow_s = 10.0              # limits, thresholds, error counters, MIG layout
    processes_s = 30.0         # 0: no processes
    rescan_s = 10.0            # boards that came, left, woke or came back
    max_gap_s = 10.0           # readings further apart are not integrated
    activity = false           # SM, tensor and DRAM activity (Hopper and later); profiling can raise idle power
    pcie_throughput = false    # for boards without PCIe byte counters; blocks 40 ms for each board

A board that sleeps (runtime D3) is left to sleep: sysfs says so without waking it, and its reads are gaps.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from collector.errors import SourceUnavailable
from collector.sources import Options, Sources
from collector.sources.nvml_inventory import Inventory
from collector.sources.nvml_settings import settings_of
from collector.sources.one_by_one import OneByOne


def check_options(options: Options) -> None:
    """
    Look at *options* without opening anything.

    Raises: ConfigError.
    """
    settings_of(options)


@contextmanager
def open_nvml(
    options: Options,
    host: str,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    wall_ns: Callable[[], int] = time.time_ns,
) -> Iterator[Sources]:
    """
    The boards of this machine.

    Raises: SourceUnavailable without driver, library or any board; ConfigError.
    """
    settings = settings_of(options)
    inventory = Inventory(settings, host, monotonic=monotonic, wall_ns=wall_ns)
    try:
        sources = inventory.scan()
        if not sources:
            raise SourceUnavailable("the NVIDIA driver lists no board")
        yield OneByOne(sources, rescan=inventory.scan, rescan_s=settings.rescan_s)
    finally:
        inventory.close()
