"""The processes on a board: for the store only, at a slow cadence."""

import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pynvml

from collector.sample import Process
from collector.sources.nvml_library import ask

_NO_INSTANCE = 0xFFFFFFFF


class ProcessList:
    """
    Who runs on one board.

    `proc` is where ``/proc`` is; names and users are those that this host's kernel gives to the pids.
    """

    def __init__(self, handle: Any, *, proc: Path) -> None:
        self._handle = handle
        self._proc = proc
        self._seen_us = 0

    def read(self, time_ns: int, *, host: str, device: str, instances: Mapping[int, str]) -> list[Process]:
        """
        The processes now; on a MIG board each with its instance, by *instances* (GPU instance id to device id).

        A process that computes and draws is listed once. Raises: DeviceGone, ReadRetry, SourceUnavailable.
        """
        found: dict[int, tuple[str, float | None]] = {}
        for function in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
            for process in ask(function, self._handle) or ():
                used = process.usedGpuMemory  # None where the driver does not tell
                where = device
                if process.gpuInstanceId != _NO_INSTANCE:
                    where = instances.get(process.gpuInstanceId, device)
                known = found.get(process.pid)
                if known is None or (used is not None and used > (known[1] or 0)):
                    found[process.pid] = (known[0] if known else where, None if used is None else float(used))
        busy = self._utilization() if found else {}
        return [
            Process(
                time_ns=time_ns,
                device=where,
                host=host,
                pid=pid,
                name=self._name(pid),
                user=self._user(pid),
                memory_used_bytes=used,
                utilization_ratio=busy.get(pid),
            )
            for pid, (where, used) in found.items()
        ]

    def _utilization(self) -> dict[int, float]:
        busy: dict[int, float] = {}
        latest = self._seen_us
        for sample in ask(pynvml.nvmlDeviceGetProcessUtilization, self._handle, self._seen_us) or ():
            # The driver keeps a second of samples; the last one of a process counts.
            if sample.timeStamp > self._seen_us and sample.smUtil <= 100:
                busy[sample.pid] = sample.smUtil / 100
                latest = max(latest, sample.timeStamp)
        self._seen_us = latest
        return busy

    def _name(self, pid: int) -> str | None:
        try:
            return (self._proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip() or None
        except OSError:  # it ended, or runs in another pid namespace
            return None

    def _user(self, pid: int) -> str | None:
        try:
            uid = (self._proc / str(pid)).stat().st_uid
        except OSError:
            return None
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)
