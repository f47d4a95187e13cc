"""One NVIDIA board as a source: its own sample, and one of each MIG instance on it."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pynvml

from collector import catalogue as c
from collector.catalogue import Metric, Scope
from collector.errors import DeviceGone, ReadRetry
from collector.sample import Device, Event, Gap, Process, Reading, Sample, Severity
from collector.sources import nvml_activity
from collector.sources.nvml_energy import CounterPower, EnergyCheck, Finding, Meaning, power_meaning
from collector.sources.nvml_events import XidWatch, xid
from collector.sources.nvml_library import ask
from collector.sources.nvml_processes import ProcessList
from collector.sources.nvml_readers import CALLS, FIELDS, LINKS, PARTITION_CALLS, PCIE_CALLS, Readers, Values
from collector.sources.nvml_settings import Settings

VENDOR: Final = "nvidia"
PCI_DEVICES: Final = "bus/pci/devices"

_RATES: Final = ((c.FABRIC_TX_TOTAL, c.FABRIC_TX), (c.FABRIC_RX_TOTAL, c.FABRIC_RX))
_FINDINGS: Final = {
    "energy_disagrees": Severity.WARNING,
    "energy_agrees": Severity.INFO,
    "energy_counter_reset": Severity.INFO,
    "energy_counter_scope": Severity.INFO,
}


class Rate:
    """Bytes per second from a counter of bytes; None at first and where the counter fell."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._wraps = False

    def of(self, time_s: float, count: float) -> float | None:
        """The rate since the last call."""
        last, self._last = self._last, (time_s, count)
        if last is None or self._wraps or time_s <= last[0]:
            return None
        if count < last[1]:
            # A counter of 32 bits wraps several times between ticks on a busy link: what it gives is noise.
            self._wraps = last[1] < 2**32
            return None
        return (count - last[1]) / (time_s - last[0])


class Partition:
    """A MIG instance: a device with a parent. It has memory and activity of its own, and no power."""

    def __init__(self, library: ctypes.CDLL, handle: Any, *, board: Any, device: Device, settings: Settings) -> None:
        self.device = device
        self.instance: int | None = ask(pynvml.nvmlDeviceGetGpuInstanceId, handle)
        self._readers = Readers(library, handle, fields=(), calls=PARTITION_CALLS)
        self._activity = None
        if settings.activity and self.instance is not None and nvml_activity.supported(board):
            self._activity = nvml_activity.Activity(board, self.instance)

    def read(self, time_ns: int) -> Sample:
        """The sample of now. Raises: DeviceGone, ReadRetry, SourceUnavailable."""
        values: Values = {}
        self._readers.read(values)
        if self._activity is not None:
            self._activity.read(values)
        return Sample(scope=Scope.DEVICE, subject=self.device.id, host=self.device.host, time_ns=time_ns, values=values)

    def close(self) -> None:
        """Give back what the library lent."""
        if self._activity is not None:
            self._activity.close()


class Board:
    """
    One board with one method, `read`.

    `gone` says that it fell off the bus; the next scan may find it again, as a new board of the same name.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        handle: Any,
        *,
        host: str,
        settings: Settings,
        monotonic: Callable[[], float],
        wall_ns: Callable[[], int],
    ) -> None:
        self._settings, self._host = settings, host
        self._monotonic, self._wall_ns = monotonic, wall_ns
        self._partitions: dict[str, Partition] = {}
        self._told: dict[str, Device] = {}
        self._check = EnergyCheck(max_gap_s=settings.max_gap_s)
        self._counter_power = CounterPower()
        self._rates: dict[Metric, Rate] = {}
        self._slow: Values = {}
        self._next_slow_s = self._next_processes_s = -math.inf
        self._watch: XidWatch | None = None
        self._xid_count = 0
        self._xid_last: int | None = None
        self._activity: nvml_activity.Activity | None = None
        self.gone = False
        self.id: str = ask(pynvml.nvmlDeviceGetUUID, handle)
        self.bus = bus_of(handle)
        self.name = f"nvml:{self.id}"
        self.attach(library, handle)

    def attach(self, library: ctypes.CDLL, handle: Any) -> None:
        """Bind everything to *handle*: at opening, after the library was opened anew, when MIG was switched."""
        self.close()
        self._library, self._handle = library, handle
        calls = (*CALLS, *PCIE_CALLS) if self._settings.pcie_throughput else CALLS
        self._readers = Readers(library, handle, fields=FIELDS, calls=calls)
        self._meaning = self._find_meaning()
        self._text = {"power_method": self._meaning.method, "power_scope": self._meaning.scope} if self._meaning else {}
        self._watch = XidWatch(library, handle)
        self._processes = ProcessList(handle, proc=self._settings.proc)
        if self._settings.activity and nvml_activity.supported(handle):
            self._activity = nvml_activity.Activity(handle)
        self._mig = self._mig_mode()
        self.device = self._describe()
        self._runtime = self._settings.sysfs / PCI_DEVICES / self.bus / "power" if self.bus else None
        self._may_suspend = True

    def read(self) -> Reading:
        """
        Everything about the board, now.

        Raises: DeviceGone, ReadRetry (with the reason ``suspended`` for a board that sleeps and is left to),
        SourceUnavailable.
        """
        if self._may_suspend and self._runtime is not None and is_suspended(self._runtime):
            raise asleep(self.name)
        start_s, time_ns = self._monotonic(), self._wall_ns()
        events = self._xids(time_ns)
        try:
            return self._read(start_s, time_ns, events)
        except DeviceGone as error:
            self.gone = True
            if not events:
                raise
            # What the board said at last is worth a reading of its own; the next read raises.
            return Reading(source=self.name, events=events, gap=Gap(reason=error.reason, message=str(error)))

    def close(self) -> None:
        """Give back what the library lent."""
        for part in (self._watch, self._activity, *self._partitions.values()):
            if part is not None:
                part.close()
        self._watch = self._activity = None
        self._partitions = {}

    def _read(self, start_s: float, time_ns: int, events: list[Event]) -> Reading:
        gone: list[str] = []
        slow = start_s >= self._next_slow_s
        if slow:
            gone = self._refresh(start_s)
        fresh: Values = {}
        self._readers.read(fresh)
        if finding := self._derive(start_s, fresh):
            events.append(self._event(time_ns, finding))
        if self._activity is not None:
            self._activity.read(fresh)
        if self._watch is not None and self._watch.works:
            fresh[c.XID_ERRORS] = float(self._xid_count)
        if self._xid_last is not None:
            fresh[c.XID_LAST] = float(self._xid_last)
        values = {**self._slow, **fresh}
        samples = [
            Sample(
                scope=Scope.DEVICE, subject=self.id, host=self._host, time_ns=time_ns, values=values, text=self._text
            )
        ]
        for key, partition in list(self._partitions.items()):
            try:
                samples.append(partition.read(time_ns))
            except ReadRetry:  # it was destroyed since it was listed
                gone.append(key)
                partition.close()
                del self._partitions[key]
                self._next_slow_s = start_s
        return Reading(
            source=self.name,
            samples=samples,
            devices=self._news(values) if slow else (),
            events=events,
            processes=self._running(start_s, time_ns),
            gone=gone,
            read_s=self._monotonic() - start_s,
        )

    def _derive(self, time_s: float, values: Values) -> Finding | None:
        """Add what follows from the readings: power, its integral, rates."""
        self._add_rates(time_s, values)
        meaning = self._meaning
        energy_j = values.get(c.ENERGY)
        if meaning is None:
            return None
        if meaning.method == "counter":
            power_w = None if energy_j is None else self._counter_power.of(time_s, energy_j)
            if power_w is not None:
                values[c.POWER] = power_w
            return None
        power_w = values.get(meaning.metric)
        if power_w is None:
            return None
        values[c.POWER] = power_w
        if not c.POWER.plausible(power_w):  # whoever takes the sample drops it and counts it; here it must not add up
            return None
        module_w = values.get(c.POWER_MODULE) if meaning.scope == "device" else None
        finding = self._check.take(time_s, power_w, module_w=module_w, energy_j=energy_j)
        if self._check.integrated_j is not None:
            values[c.ENERGY_INTEGRATED] = self._check.integrated_j
        if self._check.agreement is not None:
            values[c.ENERGY_AGREEMENT] = self._check.agreement
        return finding

    def _add_rates(self, time_s: float, values: Values) -> None:
        for total, rate in _RATES:
            if (count := values.get(total)) is not None:
                self._add_rate(time_s, rate, count, values)
        for metric in (c.PCIE_TX, c.PCIE_RX):
            if (count := values.pop(metric, None)) is not None:
                self._add_rate(time_s, metric, count, values)

    def _add_rate(self, time_s: float, metric: Metric, count: float, values: Values) -> None:
        rate = self._rates.get(metric)
        if rate is None:
            rate = self._rates[metric] = Rate()
        if (value := rate.of(time_s, count)) is not None:
            values[metric] = value

    def _refresh(self, time_s: float) -> list[str]:
        """Read what seldom changes, look for other partitions; gives the ids of those that left."""
        self._next_slow_s = time_s + self._settings.slow_s
        if self._mig_mode() is not self._mig:
            # In MIG mode a board has other readings: no utilisation.
            before = set(self._partitions)
            self.attach(self._library, self._handle)
            gone = before - set(self._list_partitions())
        else:
            gone = set(self._partitions) - set(self._list_partitions())
        for key in gone & set(self._partitions):
            self._partitions.pop(key).close()
        slow: Values = {}
        self._readers.read(slow, slow=True)
        for total, rate in _RATES:
            if (count := slow.get(total)) is not None:
                self._add_rate(time_s, rate, count, slow)
        links = self._links_active()
        if links is not None:
            slow[c.FABRIC_LINKS_ACTIVE] = links
        self._slow = slow
        self._may_suspend = self._runtime is not None and text_of(self._runtime / "control") == "auto"
        return sorted(gone)

    def _list_partitions(self) -> list[str]:
        """The ids of the partitions there are; opens the new ones."""
        found: list[str] = []
        if not self._mig:
            return found
        for index in range(ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, self._handle) or 0):
            handle = ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, self._handle, index)
            key = ask(pynvml.nvmlDeviceGetUUID, handle) if handle is not None else None
            if key is None:
                continue
            found.append(key)
            if key not in self._partitions:
                self._partitions[key] = Partition(
                    self._library,
                    handle,
                    board=self._handle,
                    device=self._describe_partition(key, handle, index),
                    settings=self._settings,
                )
        return found

    def _links_active(self) -> float | None:
        states = []
        for link in range(LINKS):
            state = ask(pynvml.nvmlDeviceGetNvLinkState, self._handle, link)
            if state is None:
                break
            states.append(state)
        return float(sum(states)) if states else None

    def _mig_mode(self) -> bool:
        modes = ask(pynvml.nvmlDeviceGetMigMode, self._handle)
        return modes is not None and bool(modes[0])

    def _find_meaning(self) -> Meaning | None:
        return power_meaning(
            self._readers.metrics,
            architecture=ask(pynvml.nvmlDeviceGetArchitecture, self._handle) or 0,
            capability=tuple(ask(pynvml.nvmlDeviceGetCudaComputeCapability, self._handle) or (0, 0)),
            driver=ask(pynvml.nvmlSystemGetDriverVersion) or "",
        )

    def _describe(self) -> Device:
        meaning = self._meaning
        return Device(
            id=self.id,
            host=self._host,
            vendor=VENDOR,
            model=ask(pynvml.nvmlDeviceGetName, self._handle) or "NVIDIA",
            ordinal=ask(pynvml.nvmlDeviceGetIndex, self._handle),
            serial=ask(pynvml.nvmlDeviceGetSerial, self._handle),
            bus=self.bus,
            driver_version=ask(pynvml.nvmlSystemGetDriverVersion),
            firmware_version=ask(pynvml.nvmlDeviceGetVbiosVersion, self._handle),
            mode="mig" if self._mig else None,
            power_method=meaning.method if meaning else None,
            power_scope=meaning.scope if meaning else None,
            power_window_s=meaning.window_s if meaning else None,
        )

    def _describe_partition(self, key: str, handle: Any, index: int) -> Device:
        name = ask(pynvml.nvmlDeviceGetName, handle) or ""
        profile = name.rpartition("MIG ")[2] if "MIG " in name else None
        return replace(
            self.device,
            id=key,
            ordinal=index,
            parent=self.id,
            partition=profile,
            serial=None,
            mode=None,
            power_method=None,
            power_scope=None,
            power_window_s=None,
        )

    def _news(self, values: Values) -> list[Device]:
        """The devices that are new or of which something changed."""
        now = [
            replace(
                self.device,
                energy_scope=self._check.scope if c.ENERGY in self._readers.metrics else None,
                power_limit_w=values.get(c.POWER_LIMIT),
                memory_total_bytes=values.get(c.MEMORY_TOTAL),
            ),
            *(partition.device for partition in self._partitions.values()),
        ]
        changed = [device for device in now if self._told.get(device.id) != device]
        self._told = {device.id: device for device in now}
        return changed

    def _xids(self, time_ns: int) -> list[Event]:
        events = []
        for code in self._watch.take() if self._watch is not None else ():
            severity, meaning = xid(code)
            events.append(
                Event(
                    time_ns=time_ns,
                    kind="xid",
                    host=self._host,
                    severity=severity,
                    device=self.id,
                    code=str(code),
                    message=meaning,
                    value=float(code),
                )
            )
            self._xid_count += 1
            self._xid_last = code
        return events

    def _event(self, time_ns: int, finding: Finding) -> Event:
        return Event(
            time_ns=time_ns,
            kind=finding.kind,
            host=self._host,
            severity=_FINDINGS[finding.kind],
            device=self.id,
            message=finding.message,
            value=finding.ratio,
        )

    def _running(self, start_s: float, time_ns: int) -> Sequence[Process]:
        if not self._settings.processes_s or start_s < self._next_processes_s:
            return ()
        self._next_processes_s = start_s + self._settings.processes_s
        instances = {
            partition.instance: key for key, partition in self._partitions.items() if partition.instance is not None
        }
        return self._processes.read(time_ns, host=self._host, device=self.id, instances=instances)


def bus_of(handle: Any) -> str | None:
    """The PCI address as sysfs spells it (``0000:3b:00.0``); the library gives the domain eight digits."""
    info = ask(pynvml.nvmlDeviceGetPciInfo, handle)
    if info is None:
        return None
    text = info.busId.decode() if isinstance(info.busId, bytes) else info.busId
    domain, _, rest = text.partition(":")
    return f"{int(domain, 16):04x}:{rest.lower()}"


def is_suspended(power: Path) -> bool:
    """Whether a PCI device sleeps, by its ``power`` folder in sysfs; asking the driver would wake it."""
    return text_of(power / "runtime_status") == "suspended"


def asleep(name: str) -> ReadRetry:
    """The gap of a board that sleeps."""
    return ReadRetry(f"{name} sleeps; reading would wake it", reason="suspended")


def text_of(path: Path) -> str | None:
    """What a small file says, or None where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
