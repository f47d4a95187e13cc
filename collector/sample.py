"""What the collector passes on: who was measured, when, and what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from collector.catalogue import Metric, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """
    An accelerator, or a partition of one, as observed; a change of any field is a new row of the devices table.

    `id` is the vendor's own lasting id (UUID, serial), never an index. A partition names its `parent`.
    `power_method` is counter, instant, average or modelled; `power_scope` is device, module, package or die. The energy
    counter may cover more than the power reading does (GH200): `energy_scope` says what.
    """

    id: str
    host: str
    vendor: str
    model: str
    ordinal: int | None = None
    parent: str | None = None
    partition: str | None = None
    serial: str | None = None
    bus: str | None = None
    driver_version: str | None = None
    firmware_version: str | None = None
    mode: str | None = None
    power_method: str | None = None
    power_scope: str | None = None
    power_window_s: float | None = None
    energy_scope: str | None = None
    power_limit_w: float | None = None
    memory_total_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    What one subject measured at one moment.

    `subject` is a device id, a host name, a workload id or a meter id, as `scope` says. A metric that was not measured
    has no key. `text` holds the table's text columns (`power_method`, `power_scope`, `model`, `framework`, ...).
    """

    scope: Scope
    subject: str
    host: str
    time_ns: int
    values: Mapping[Metric, float]
    text: Mapping[str, str] = field(default_factory=dict)


class Severity(Enum):
    """How much an event asks of a person."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    Something that happened at a moment: XID, device gone, source lost, driver changed, clock jumped.

    `kind` is a lower-case word or words with underscores; `code` is the vendor's number or name for it.
    """

    time_ns: int
    kind: str
    host: str
    severity: Severity = Severity.INFO
    device: str | None = None
    code: str | None = None
    message: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """
    A device given to a workload from `start_ns` until `end_ns` (None while it runs).

    A row with the same workload, device and start replaces the earlier one.
    """

    time_ns: int
    workload: str
    device: str
    host: str
    start_ns: int
    end_ns: int | None = None
    name: str | None = None
    user: str | None = None
    team: str | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process seen on a device; it goes to the store only, never to Prometheus (pids are unbounded)."""

    time_ns: int
    device: str
    host: str
    pid: int
    name: str | None = None
    user: str | None = None
    memory_used_bytes: float | None = None
    utilization_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A read that brought nothing, and why: timeout, read_failed, device_gone, unavailable, worker_lost, suspended."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    What one read of one source brought.

    `source` is the source's name, unique within the agent (``nvml:GPU-5d1c…``, ``scrape:http://node7:9400/metrics``).
    `gap` says why there is nothing; a reading with a gap has no samples. `read_s` is how long the read took.
    `gone` are the ids of devices that left: their series end.
    """

    source: str
    samples: Sequence[Sample] = ()
    devices: Sequence[Device] = ()
    events: Sequence[Event] = ()
    allocations: Sequence[Allocation] = ()
    processes: Sequence[Process] = ()
    gone: Sequence[str] = ()
    gap: Gap | None = None
    read_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Coded:
    """A text column of many rows: integer codes (an array; a negative code is null) into `words`."""

    codes: Any
    words: tuple[str, ...]
