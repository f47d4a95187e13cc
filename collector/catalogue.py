"""
Every metric, once.

Store columns, Prometheus names, METRICS.md, axis titles and import mappings derive from `CATALOGUE`.
Code names a metric by its constant, so that a typo is an import error.

Conventions that hold for every entry:

* a value is in the unit that ends its column name, and absent when it was not measured;
* a counter is cumulative as the hardware or engine gives it, and may reset;
* metrics that Prometheus users sum or compare by a label share a `family`: the store has a column for each
  (``throttle_power_s``), Prometheus one name with a label (``accel_throttle_seconds_total{reason="power"}``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import isfinite
from types import MappingProxyType
from typing import Final

from collector.units import (
    BYTE,
    BYTES_PER_SECOND,
    CELSIUS,
    COUNT,
    CURRENCY_PER_KWH,
    FLOP,
    GRAM_PER_KWH,
    HERTZ,
    JOULE,
    LANES,
    RATIO,
    RPM,
    SECOND,
    TOKENS_PER_SECOND,
    VOLT,
    WATT,
    Unit,
)


class Kind(Enum):
    """How a value behaves over time."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Scope(Enum):
    """What a value is a property of; the store has a table for each scope but AGENT."""

    DEVICE = "device"
    HOST = "host"
    WORKLOAD = "workload"
    FACILITY = "facility"
    AGENT = "agent"

    @property
    def prefix(self) -> str:
        """The first word of a Prometheus name."""
        return _PREFIX[self]


_PREFIX = {
    Scope.DEVICE: "accel",
    Scope.HOST: "host",
    Scope.WORKLOAD: "workload",
    Scope.FACILITY: "facility",
    Scope.AGENT: "perfwatt",
}


# eq=False: a metric is compared and hashed by identity, which keeps dict[Metric, float] as fast as dict[str, float].
@dataclass(frozen=True, eq=False, repr=False)
class Metric:
    """
    One quantity.

    `low` and `high` bound what can be true: a value outside is a sentinel or a unit error and is dropped at the door.
    `resolution` is the step below which the value carries no information; the store may round to it.
    """

    name: str
    unit: Unit
    kind: Kind
    scope: Scope
    help: str
    family: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    low: float | None = 0.0
    high: float | None = None
    resolution: float | None = None

    @cached_property
    def column(self) -> str:
        """The column in the store: the name and the unit."""
        return f"{self.name}_{self.unit.suffix}" if self.unit.suffix else self.name

    @cached_property
    def prometheus(self) -> str:
        """The Prometheus family name, with ``_total`` for a counter."""
        words = [self.scope.prefix, self.family or self.name, self.unit.prometheus]
        if self.kind is Kind.COUNTER:
            words.append("total")
        return "_".join(word for word in words if word)

    @cached_property
    def title(self) -> str:
        """What an axis says: the name in words and the unit's symbol."""
        words = self.name.replace("_", " ").capitalize()
        return f"{words} ({self.unit.symbol})" if self.unit.symbol else words

    def plausible(self, value: float) -> bool:
        """Whether *value* can be true of this metric (a NaN or an infinity never can)."""
        return isfinite(value) and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __repr__(self) -> str:
        return f"<Metric {self.scope.value}.{self.column}>"

    def __reduce__(self) -> tuple[object, ...]:
        return _find, (self.scope, self.column)


def _sorted(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _device(
    name: str,
    unit: Unit,
    help: str,
    *,
    kind: Kind = Kind.GAUGE,
    family: str | None = None,
    labels: Mapping[str, str] = MappingProxyType({}),
    low: float | None = 0.0,
    high: float | None = None,
    resolution: float | None = None,
) -> Metric:
    return Metric(name, unit, kind, Scope.DEVICE, help, family, _sorted(labels), low, high, resolution)


def _power(name: str, help: str) -> Metric:
    # 50 kW: above any device or module sold; an int32 or int64 "blank" is far beyond it.
    return _device(name, WATT, help, high=50_000.0, resolution=1e-3)


def _ratio(name: str, help: str) -> Metric:
    # 1.05: some drivers report 101 or 102 % for a saturated engine.
    return _device(name, RATIO, help, high=1.05, resolution=1e-4)


def _temperature(name: str, help: str) -> Metric:
    return _device(name, CELSIUS, help, low=-60.0, high=250.0, resolution=0.01)


def _clock(name: str, help: str) -> Metric:
    return _device(name, HERTZ, help, high=20e9, resolution=1e3)


def _throttled(reason: str, help: str) -> Metric:
    name, labels = f"throttle_{reason}", {"reason": reason}
    return _device(name, SECOND, help, kind=Kind.COUNTER, family="throttle", labels=labels, resolution=1e-6)


def _throttling(reason: str, help: str) -> Metric:
    return _device(f"throttling_{reason}", COUNT, help, family="throttling", labels={"reason": reason}, high=1.0)


def _count(name: str, help: str, *, family: str | None = None, **labels: str) -> Metric:
    return _device(name, COUNT, help, kind=Kind.COUNTER, family=family, labels=labels, high=1e18)


def _traffic(name: str, help: str, *, family: str, **labels: str) -> Metric:
    return _device(name, BYTES_PER_SECOND, help, family=family, labels=labels, high=1e14)


def _traffic_total(name: str, help: str, *, family: str, **labels: str) -> Metric:
    return _device(name, BYTE, help, kind=Kind.COUNTER, family=family, labels=labels, high=1e24)


def _of(
    scope: Scope, name: str, unit: Unit, help: str, kind: Kind = Kind.GAUGE, *, family: str | None = None, **labels: str
) -> Metric:
    low: float | None = 0.0
    if unit is CELSIUS:
        low = -90.0
    if unit is CURRENCY_PER_KWH:
        low = None  # wholesale prices do fall below zero
    return Metric(name, unit, kind, scope, help, family, _sorted(labels), low)


# ---------------------------------------------------------------------------------------------------- devices: power

POWER: Final = _power("power", "Power draw; the sample says by which method and of what scope.")
POWER_INSTANT: Final = _power("power_instant", "Power draw at the moment of reading, as near as the sensor gives it.")
POWER_AVERAGE: Final = _power("power_average", "Power draw averaged by the device, usually over one second.")
POWER_MODULE: Final = _power("power_module", "Power draw of the whole module: accelerator, CPU and memory.")
POWER_MEMORY: Final = _power("power_memory", "Power draw of the device's memory.")
POWER_LIMIT: Final = _power("power_limit", "Power limit in force.")
POWER_LIMIT_REQUESTED: Final = _power("power_limit_requested", "Power limit an operator asked for.")
POWER_LIMIT_DEFAULT: Final = _power("power_limit_default", "Power limit the device ships with.")
POWER_LIMIT_MIN: Final = _power("power_limit_min", "Lowest power limit the device accepts.")
POWER_LIMIT_MAX: Final = _power("power_limit_max", "Highest power limit the device accepts.")
ENERGY: Final = _device(
    "energy",
    JOULE,
    "Energy by the hardware's own counter, since the driver loaded.",
    kind=Kind.COUNTER,
    high=1e15,
    resolution=1e-3,
)
ENERGY_INTEGRATED: Final = _device(
    "energy_integrated",
    JOULE,
    "Energy that the agent integrated from power since it started; what the hardware counter is checked against.",
    kind=Kind.COUNTER,
    high=1e15,
    resolution=1e-3,
)
ENERGY_AGREEMENT: Final = _device(
    "energy_agreement",
    RATIO,
    "Hardware energy counter over integrated power, over the last minutes; 1 when both tell the same.",
    high=1e6,
    resolution=1e-4,
)
VOLTAGE: Final = _device("voltage_core", VOLT, "Core supply voltage.", high=100.0, resolution=1e-3)

# ----------------------------------------------------------------------------------------------- devices: activity

UTILIZATION: Final = _ratio("utilization", "Share of time in which at least one kernel ran.")
UTILIZATION_MEMORY: Final = _ratio("utilization_memory", "Share of time in which device memory was read or written.")
UTILIZATION_ENCODER: Final = _ratio("utilization_encoder", "Share of time in which the video encoder was busy.")
UTILIZATION_DECODER: Final = _ratio("utilization_decoder", "Share of time in which the video decoder was busy.")
ACTIVITY_SM: Final = _ratio("activity_sm", "Share of cycles with work resident on the compute units (SM, CU, core).")
ACTIVITY_GRAPHICS: Final = _ratio(
    "activity_graphics", "Share of time in which the compute or graphics engine was busy."
)
ACTIVITY_TENSOR: Final = _ratio("activity_tensor", "Share of cycles in which the tensor or matrix pipes were busy.")
ACTIVITY_FP64: Final = _ratio("activity_fp64", "Share of cycles in which the FP64 pipe was busy.")
ACTIVITY_FP32: Final = _ratio("activity_fp32", "Share of cycles in which the FP32 pipe was busy.")
ACTIVITY_FP16: Final = _ratio("activity_fp16", "Share of cycles in which the FP16 pipe was busy.")
ACTIVITY_DRAM: Final = _ratio("activity_dram", "Share of cycles in which the memory interface moved data.")
OCCUPANCY: Final = _ratio("occupancy", "Resident over possible warps or wavefronts.")

# ------------------------------------------------------------------------------------------------- devices: clocks

CLOCK_SM: Final = _clock("clock_sm", "Clock of the compute units.")
CLOCK_GRAPHICS: Final = _clock("clock_graphics", "Clock of the graphics or system domain.")
CLOCK_MEMORY: Final = _clock("clock_memory", "Clock of the memory.")
CLOCK_VIDEO: Final = _clock("clock_video", "Clock of the video engines.")
CLOCK_SM_MAX: Final = _clock("clock_sm_max", "Highest clock of the compute units.")
CLOCK_GRAPHICS_MAX: Final = _clock("clock_graphics_max", "Highest clock of the graphics domain.")
CLOCK_MEMORY_MAX: Final = _clock("clock_memory_max", "Highest clock of the memory.")
CLOCK_SM_MIN: Final = _clock("clock_sm_min", "Lowest clock of the compute units.")
PERFORMANCE_STATE: Final = _device(
    "performance_state", COUNT, "Performance state: 0 is the fastest (P0), 15 the slowest.", high=32.0
)
POWER_PROFILE: Final = _device("power_profile", COUNT, "Number of the workload power profile in force.", high=255.0)

# -------------------------------------------------------------------------------------------- devices: temperature

TEMPERATURE: Final = _temperature("temperature", "Temperature of the die.")
TEMPERATURE_MEMORY: Final = _temperature("temperature_memory", "Temperature of the memory.")
TEMPERATURE_HOTSPOT: Final = _temperature("temperature_hotspot", "Highest temperature on the die.")
TEMPERATURE_BOARD: Final = _temperature("temperature_board", "Temperature of the board.")
TEMPERATURE_MARGIN: Final = _temperature("temperature_margin", "Distance to the temperature at which clocks fall.")
TEMPERATURE_LIMIT_SLOWDOWN: Final = _temperature("temperature_limit_slowdown", "Temperature at which clocks fall.")
TEMPERATURE_LIMIT_SHUTDOWN: Final = _temperature(
    "temperature_limit_shutdown", "Temperature at which the device shuts down."
)
TEMPERATURE_LIMIT_MEMORY: Final = _temperature(
    "temperature_limit_memory", "Highest memory temperature for normal operation."
)
TEMPERATURE_LIMIT_OPERATING: Final = _temperature(
    "temperature_limit_operating", "Highest die temperature for normal operation."
)
FAN_SPEED: Final = _device("fan_speed", RATIO, "Fan speed over its maximum.", high=2.0, resolution=1e-3)
FAN_RPM: Final = _device("fan_speed", RPM, "Fan speed.", high=100_000.0)

# ------------------------------------------------------------------------------------------------- devices: memory

MEMORY_TOTAL: Final = _device("memory_total", BYTE, "Device memory.", high=1e15)
MEMORY_USED: Final = _device("memory_used", BYTE, "Device memory in use.", high=1e15)
MEMORY_FREE: Final = _device("memory_free", BYTE, "Device memory free.", high=1e15)
MEMORY_RESERVED: Final = _device("memory_reserved", BYTE, "Device memory kept by the driver.", high=1e15)

# -------------------------------------------------------------------------------------------------- devices: links

PCIE_RX: Final = _traffic("pcie_rx", "Bytes per second received over PCIe.", family="pcie", direction="rx")
PCIE_TX: Final = _traffic("pcie_tx", "Bytes per second sent over PCIe.", family="pcie", direction="tx")
PCIE_GENERATION: Final = _device("pcie_generation", COUNT, "PCIe generation of the link now.", high=16.0)
PCIE_WIDTH: Final = _device("pcie_width", LANES, "PCIe lanes of the link now.", high=64.0)
PCIE_REPLAYS: Final = _count("pcie_replays", "PCIe packets sent again.")
FABRIC_RX: Final = _traffic(
    "fabric_rx", "Bytes per second received over NVLink, XGMI or the like.", family="fabric", direction="rx"
)
FABRIC_TX: Final = _traffic(
    "fabric_tx", "Bytes per second sent over NVLink, XGMI or the like.", family="fabric", direction="tx"
)
FABRIC_RX_TOTAL: Final = _traffic_total(
    "fabric_received", "Bytes received over NVLink, XGMI or the like.", family="fabric_traffic", direction="rx"
)
FABRIC_TX_TOTAL: Final = _traffic_total(
    "fabric_sent", "Bytes sent over NVLink, XGMI or the like.", family="fabric_traffic", direction="tx"
)
FABRIC_ERRORS: Final = _count("fabric_errors", "Errors on NVLink, XGMI or the like: CRC, replay, recovery.")
FABRIC_LINKS_ACTIVE: Final = _device("fabric_links_active", COUNT, "Fabric links that are up.", high=1024.0)

# --------------------------------------------------------------------------------------------- devices: throttling

THROTTLING_IDLE: Final = _throttling("idle", "1 while clocks are low because there is no work.")
THROTTLING_SETTING: Final = _throttling("setting", "1 while an operator's clock setting holds clocks down.")
THROTTLING_POWER: Final = _throttling("power", "1 while the power limit holds clocks down.")
THROTTLING_HARDWARE: Final = _throttling(
    "hardware", "1 while the hardware holds clocks down (heat, power brake or supply)."
)
THROTTLING_SYNC: Final = _throttling("sync", "1 while clocks follow the slowest device of a group.")
THROTTLING_THERMAL: Final = _throttling("thermal", "1 while the driver holds clocks down for heat.")
THROTTLING_THERMAL_HARDWARE: Final = _throttling("thermal_hardware", "1 while the hardware holds clocks down for heat.")
THROTTLING_POWER_BRAKE: Final = _throttling("power_brake", "1 while an external power brake holds clocks down.")
THROTTLE_POWER: Final = _throttled("power", "Seconds in which the power limit held clocks down.")
THROTTLE_THERMAL: Final = _throttled("thermal", "Seconds in which heat held clocks down.")
THROTTLE_THERMAL_HARDWARE: Final = _throttled(
    "thermal_hardware", "Seconds in which the hardware held clocks down for heat."
)
THROTTLE_POWER_BRAKE: Final = _throttled("power_brake", "Seconds in which an external power brake held clocks down.")
THROTTLE_SYNC: Final = _throttled("sync", "Seconds in which clocks followed the slowest device of a group.")
THROTTLE_BOARD: Final = _throttled("board", "Seconds in which the board's limits held clocks down.")
THROTTLE_RELIABILITY: Final = _throttled("reliability", "Seconds in which voltage reliability held clocks down.")
THROTTLE_LOW_UTILIZATION: Final = _throttled("low_utilization", "Seconds in which clocks were low for want of work.")

# ------------------------------------------------------------------------------------------------- devices: health

ECC_CORRECTED: Final = _count(
    "ecc_corrected", "Memory errors that ECC corrected.", family="ecc_errors", type="corrected"
)
ECC_UNCORRECTED: Final = _count(
    "ecc_uncorrected", "Memory errors that ECC could not correct.", family="ecc_errors", type="uncorrected"
)
ECC_DEFERRED: Final = _count(
    "ecc_deferred", "Memory errors found but not yet used.", family="ecc_errors", type="deferred"
)
ROWS_REMAPPED_CORRECTED: Final = _count(
    "rows_remapped_corrected", "Memory rows remapped after corrected errors.", family="rows_remapped", cause="corrected"
)
ROWS_REMAPPED_UNCORRECTED: Final = _count(
    "rows_remapped_uncorrected",
    "Memory rows remapped after uncorrected errors.",
    family="rows_remapped",
    cause="uncorrected",
)
ROWS_PENDING: Final = _device("rows_pending", COUNT, "1 while a row remap waits for a reset.", high=1e6)
ROW_REMAP_FAILED: Final = _device("row_remap_failed", COUNT, "1 after a row remap failed.", high=1.0)
PAGES_RETIRED: Final = _count("pages_retired", "Memory pages retired.")
XID_ERRORS: Final = _count("xid_errors", "XID errors that the agent saw since it started; events carry the codes.")
XID_LAST: Final = _device("xid_last", COUNT, "Code of the last XID error the driver reported.", high=100_000.0)

# --------------------------------------------------------------------------------------------------------- hosts

HOST_CPU_UTILIZATION: Final = _of(Scope.HOST, "cpu_utilization", RATIO, "Share of CPU time in use.")
HOST_CPU_POWER: Final = _of(Scope.HOST, "cpu_power", WATT, "Power draw of the CPU packages.")
HOST_CPU_ENERGY: Final = _of(Scope.HOST, "cpu_energy", JOULE, "Energy of the CPU packages.", Kind.COUNTER)
HOST_CORE_ENERGY: Final = _of(
    Scope.HOST, "core_energy", JOULE, "Energy of the CPU cores (part of the packages).", Kind.COUNTER
)
HOST_DRAM_POWER: Final = _of(Scope.HOST, "dram_power", WATT, "Power draw of host memory.")
HOST_DRAM_ENERGY: Final = _of(Scope.HOST, "dram_energy", JOULE, "Energy of host memory.", Kind.COUNTER)
HOST_PLATFORM_POWER: Final = _of(Scope.HOST, "platform_power", WATT, "Power draw of the whole machine.")
HOST_PLATFORM_ENERGY: Final = _of(Scope.HOST, "platform_energy", JOULE, "Energy of the whole machine.", Kind.COUNTER)
HOST_MEMORY_USED: Final = _of(Scope.HOST, "memory_used", BYTE, "Host memory in use.")
HOST_MEMORY_TOTAL: Final = _of(Scope.HOST, "memory_total", BYTE, "Host memory.")
HOST_INLET_TEMPERATURE: Final = _of(Scope.HOST, "inlet_temperature", CELSIUS, "Temperature of the air that enters.")
HOST_OUTLET_TEMPERATURE: Final = _of(Scope.HOST, "outlet_temperature", CELSIUS, "Temperature of the air that leaves.")
HOST_CPU_TEMPERATURE: Final = _of(Scope.HOST, "cpu_temperature", CELSIUS, "Temperature of the hottest CPU package.")
HOST_FAN_RPM: Final = _of(Scope.HOST, "fan_speed", RPM, "Speed of the fastest fan.")

# ------------------------------------------------------------------------------------------------------ workloads

TOKENS_OUT: Final = _of(
    Scope.WORKLOAD, "tokens_out", COUNT, "Tokens generated.", Kind.COUNTER, family="tokens", direction="out"
)
TOKENS_IN: Final = _of(
    Scope.WORKLOAD, "tokens_in", COUNT, "Prompt tokens processed.", Kind.COUNTER, family="tokens", direction="in"
)
TOKENS_CACHED: Final = _of(
    Scope.WORKLOAD,
    "tokens_cached",
    COUNT,
    "Prompt tokens answered from a cache.",
    Kind.COUNTER,
    family="tokens",
    direction="cached",
)
SAMPLES: Final = _of(Scope.WORKLOAD, "samples", COUNT, "Training or inference samples processed.", Kind.COUNTER)
STEPS: Final = _of(Scope.WORKLOAD, "steps", COUNT, "Training steps or engine iterations done.", Kind.COUNTER)
REQUESTS: Final = _of(Scope.WORKLOAD, "requests", COUNT, "Requests answered.", Kind.COUNTER)
REQUESTS_FAILED: Final = _of(Scope.WORKLOAD, "requests_failed", COUNT, "Requests that failed.", Kind.COUNTER)
PREEMPTIONS: Final = _of(Scope.WORKLOAD, "preemptions", COUNT, "Requests put back for want of memory.", Kind.COUNTER)
WORK: Final = _of(
    Scope.WORKLOAD, "work", FLOP, "Floating-point operations done, as the engine estimates them.", Kind.COUNTER
)
MEMORY_TRAFFIC: Final = _of(
    Scope.WORKLOAD, "memory_traffic", BYTE, "Device memory read and written, as the engine estimates it.", Kind.COUNTER
)
WORK_PER_DEVICE: Final = _of(
    Scope.WORKLOAD,
    "work_per_device",
    FLOP,
    "Floating-point operations done by each of the engine's devices, as the engine estimates them.",
    Kind.COUNTER,
)
MEMORY_READ_PER_DEVICE: Final = _of(
    Scope.WORKLOAD,
    "memory_read_per_device",
    BYTE,
    "Device memory read on each of the engine's devices, as the engine estimates it.",
    Kind.COUNTER,
)
MEMORY_WRITTEN_PER_DEVICE: Final = _of(
    Scope.WORKLOAD,
    "memory_written_per_device",
    BYTE,
    "Device memory written on each of the engine's devices, as the engine estimates it.",
    Kind.COUNTER,
)
THROUGHPUT: Final = _of(Scope.WORKLOAD, "throughput", TOKENS_PER_SECOND, "Tokens per second, as the engine reports it.")
REQUESTS_RUNNING: Final = _of(Scope.WORKLOAD, "requests_running", COUNT, "Requests being answered.")
QUEUE_LENGTH: Final = _of(Scope.WORKLOAD, "queue_length", COUNT, "Requests that wait.")
CACHE_USED: Final = _of(Scope.WORKLOAD, "cache_used", RATIO, "Share of the key-value cache in use.")
FIRST_TOKEN_SECONDS: Final = _of(
    Scope.WORKLOAD,
    "first_token_time",
    SECOND,
    "Sum of the times to the first token, over the requests counted.",
    Kind.COUNTER,
)
FIRST_TOKEN_COUNT: Final = _of(
    Scope.WORKLOAD, "first_tokens", COUNT, "Requests in the sum of times to the first token.", Kind.COUNTER
)
TOKEN_SECONDS: Final = _of(
    Scope.WORKLOAD, "token_time", SECOND, "Sum of the times between tokens, over the tokens counted.", Kind.COUNTER
)
TOKEN_COUNT: Final = _of(
    Scope.WORKLOAD, "token_times", COUNT, "Token intervals in the sum of times between tokens.", Kind.COUNTER
)
REQUEST_SECONDS: Final = _of(
    Scope.WORKLOAD, "request_time", SECOND, "Sum of the times from request to last token.", Kind.COUNTER
)
REQUEST_COUNT: Final = _of(
    Scope.WORKLOAD, "request_times", COUNT, "Requests in the sum of request times.", Kind.COUNTER
)
PREFILL_SECONDS: Final = _of(Scope.WORKLOAD, "prefill_time", SECOND, "Sum of the times in prefill.", Kind.COUNTER)
DECODE_SECONDS: Final = _of(Scope.WORKLOAD, "decode_time", SECOND, "Sum of the times in decode.", Kind.COUNTER)
STEP_SECONDS: Final = _of(Scope.WORKLOAD, "step_time", SECOND, "Duration of the last training step.")
LATENCY_P50: Final = _of(
    Scope.WORKLOAD, "latency_p50", SECOND, "Median request latency.", family="latency", percentile="50"
)
LATENCY_P90: Final = _of(
    Scope.WORKLOAD, "latency_p90", SECOND, "90th percentile of request latency.", family="latency", percentile="90"
)
LATENCY_P99: Final = _of(
    Scope.WORKLOAD, "latency_p99", SECOND, "99th percentile of request latency.", family="latency", percentile="99"
)

# ----------------------------------------------------------------------------------------------------- facilities

METER_POWER: Final = _of(Scope.FACILITY, "meter_power", WATT, "Power through a meter.")
METER_ENERGY: Final = _of(Scope.FACILITY, "meter_energy", JOULE, "Energy through a meter.", Kind.COUNTER)
METER_VOLTAGE: Final = _of(Scope.FACILITY, "meter_voltage", VOLT, "Voltage at a meter.")
METER_POWER_FACTOR: Final = _of(Scope.FACILITY, "meter_power_factor", RATIO, "Real over apparent power at a meter.")
COOLING_POWER: Final = _of(Scope.FACILITY, "cooling_power", WATT, "Power draw of cooling.")
IT_POWER: Final = _of(Scope.FACILITY, "it_power", WATT, "Power into IT equipment.")
OUTDOOR_TEMPERATURE: Final = _of(Scope.FACILITY, "outdoor_temperature", CELSIUS, "Temperature outdoors.")
SUPPLY_TEMPERATURE: Final = _of(Scope.FACILITY, "supply_temperature", CELSIUS, "Temperature of supplied air or water.")
PRICE: Final = _of(Scope.FACILITY, "price", CURRENCY_PER_KWH, "Price of electricity, in the site's currency.")
CARBON_INTENSITY: Final = _of(Scope.FACILITY, "carbon_intensity", GRAM_PER_KWH, "Carbon intensity of the grid.")

# ------------------------------------------------------------------------------------- the agent's own, not stored

SOURCE_UP: Final = _of(Scope.AGENT, "source_up", COUNT, "1 while a source's last read was good.")
SOURCE_AGE: Final = _of(Scope.AGENT, "source_age", SECOND, "Seconds since a source was last read without error.")
SOURCE_LAST_SUCCESS: Final = _of(
    Scope.AGENT, "source_last_success_timestamp", SECOND, "Unix time of a source's last good read."
)
READ_SECONDS: Final = _of(Scope.AGENT, "read", SECOND, "Seconds that a source's last read took.")
READS: Final = _of(Scope.AGENT, "reads", COUNT, "Good reads of a source.", Kind.COUNTER)
GAPS: Final = _of(Scope.AGENT, "gaps", COUNT, "Reads that brought no sample, by reason.", Kind.COUNTER)
TICKS_MISSED: Final = _of(
    Scope.AGENT, "ticks_missed", COUNT, "Ticks that passed unread because the one before ran over.", Kind.COUNTER
)
WORKER_RESTARTS: Final = _of(
    Scope.AGENT, "worker_restarts", COUNT, "Times a source's worker was started again.", Kind.COUNTER
)
QUEUE_DEPTH: Final = _of(Scope.AGENT, "queue_depth", COUNT, "Rows that wait in a queue.")
ROWS_STORED: Final = _of(Scope.AGENT, "rows_stored", COUNT, "Rows sealed into the store.", Kind.COUNTER)
ROWS_DROPPED: Final = _of(Scope.AGENT, "rows_dropped", COUNT, "Rows given up because a queue was full.", Kind.COUNTER)
STORE_ERRORS: Final = _of(Scope.AGENT, "store_errors", COUNT, "Times a segment could not be written.", Kind.COUNTER)
SEAL_SECONDS: Final = _of(Scope.AGENT, "seal", SECOND, "Seconds that the last seal took.")
CPU_SECONDS: Final = _of(Scope.AGENT, "cpu", SECOND, "CPU time of perfwatt's own processes.", Kind.COUNTER)
RESIDENT_BYTES: Final = _of(Scope.AGENT, "resident", BYTE, "Resident memory of perfwatt's own processes.")
CLOCK_JUMPS: Final = _of(
    Scope.AGENT, "clock_jumps", COUNT, "Jumps of the wall clock against the monotonic clock.", Kind.COUNTER
)
CONFIG_RELOAD_OK: Final = _of(
    Scope.AGENT, "config_reload_ok", COUNT, "1 while the configuration in force is the one on disk."
)
DEVICES_PRESENT: Final = _of(Scope.AGENT, "devices_present", COUNT, "Devices that a source sees.")
VALUES_DROPPED: Final = _of(
    Scope.AGENT, "values_dropped", COUNT, "Values left out because they cannot be true, by metric.", Kind.COUNTER
)
UNKNOWN_NAMES: Final = _of(Scope.AGENT, "unknown_names", COUNT, "Metric names of a source that no mapping knows.")
JOBS_LAST_RUN: Final = _of(
    Scope.AGENT, "jobs_last_run_timestamp", SECOND, "Unix time of the last pass over the jobs of `perfwatt jobs`."
)
JOB_LAST_SUCCESS: Final = _of(
    Scope.AGENT, "job_last_success_timestamp", SECOND, "Unix time of the last good run of a job of `perfwatt jobs`."
)
JOB_DUE_WINDOWS: Final = _of(Scope.AGENT, "job_due_windows", COUNT, "Windows that a job has still to do.")
JOB_FAILED_WINDOWS: Final = _of(Scope.AGENT, "job_failed_windows", COUNT, "Windows of a job that failed and stand so.")
JOB_SECONDS: Final = _of(Scope.AGENT, "job_run", SECOND, "Seconds that the last run of a job took.")

CATALOGUE: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

FAMILY_HELP: Final = {
    "accel_pcie_bytes_per_second": "Bytes per second over PCIe, by direction.",
    "accel_fabric_bytes_per_second": "Bytes per second over NVLink, XGMI or the like, by direction.",
    "accel_fabric_traffic_bytes_total": "Bytes moved over NVLink, XGMI or the like, by direction.",
    "accel_throttling": "1 while something holds clocks down, by reason.",
    "accel_throttle_seconds_total": "Seconds in which something held clocks down, by reason.",
    "accel_ecc_errors_total": "Memory errors that ECC found, by type.",
    "accel_rows_remapped_total": "Memory rows remapped, by cause.",
    "workload_tokens_total": "Tokens, by direction: in (prompt), out (generated), cached (prompt, from a cache).",
    "workload_latency_seconds": "Request latency, by percentile, as the engine reports it.",
}
"""What Prometheus says of a name that several metrics share."""

_BY_COLUMN: Final = {(metric.scope, metric.column): metric for metric in CATALOGUE}


def _find(scope: Scope, column: str) -> Metric:
    return _BY_COLUMN[scope, column]


def metrics(scope: Scope) -> tuple[Metric, ...]:
    """The metrics of one scope, in the catalogue's order."""
    return tuple(metric for metric in CATALOGUE if metric.scope is scope)


def metric_of(scope: Scope, column: str) -> Metric:
    """
    The metric whose store column is *column*.

    Raises: KeyError.
    """
    return _BY_COLUMN[scope, column]
