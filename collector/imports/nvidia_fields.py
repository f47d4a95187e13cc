"""What nvidia-smi calls its columns, as metrics: ``--query-gpu`` fields and ``dmon`` columns."""

from dataclasses import dataclass
from typing import Final

from collector import catalogue as c
from collector.catalogue import Metric

_PERCENT: Final = {"%": 0.01}
_WATT: Final = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
_MHZ: Final = {"MHz": 1e6, "GHz": 1e9}
# nvidia-smi says MB in dmon and means MiB, as everywhere else.
_MIB: Final = {"MiB": 2.0**20, "MB": 2.0**20, "GiB": 2.0**30, "KiB": 2.0**10}
_US: Final = {"us": 1e-6, "ms": 1e-3, "ns": 1e-9, "s": 1.0}
_CELSIUS: Final = {"C": 1.0}
_NONE: Final = {"": 1.0}


@dataclass(frozen=True, slots=True)
class Field:
    """
    A column: its metric, the factor of each unit it may have, and which unit is meant where none is written.

    `words` are values that are words. Of several fields of one metric the one with the lowest `rank` is taken.
    """

    metric: Metric
    units: dict[str, float]
    unit: str
    words: tuple[tuple[str, float], ...] = ()
    rank: int = 0


def _watts(metric: Metric, rank: int = 0) -> Field:
    return Field(metric, _WATT, "W", rank=rank)


def _percent(metric: Metric) -> Field:
    return Field(metric, _PERCENT, "%")


def _mhz(metric: Metric) -> Field:
    return Field(metric, _MHZ, "MHz")


def _mib(metric: Metric) -> Field:
    return Field(metric, _MIB, "MiB")


def _count(metric: Metric, rank: int = 0) -> Field:
    return Field(metric, _NONE, "", rank=rank)


def _celsius(metric: Metric) -> Field:
    return Field(metric, _CELSIUS, "C")


def _active(metric: Metric) -> Field:
    return Field(metric, _NONE, "", (("Active", 1.0), ("Not Active", 0.0)))


def _yes(metric: Metric) -> Field:
    return Field(metric, _NONE, "", (("Yes", 1.0), ("No", 0.0)))


def _spent(metric: Metric) -> Field:
    return Field(metric, _US, "us")


_REASONS: Final = {
    "gpu_idle": c.THROTTLING_IDLE,
    "applications_clocks_setting": c.THROTTLING_SETTING,
    "sw_power_cap": c.THROTTLING_POWER,
    "hw_slowdown": c.THROTTLING_HARDWARE,
    "hw_thermal_slowdown": c.THROTTLING_THERMAL_HARDWARE,
    "hw_power_brake_slowdown": c.THROTTLING_POWER_BRAKE,
    "sw_thermal_slowdown": c.THROTTLING_THERMAL,
    "sync_boost": c.THROTTLING_SYNC,
}
_SPENT: Final = {
    "sw_power_cap": c.THROTTLE_POWER,
    "sync_boost": c.THROTTLE_SYNC,
    "sw_thermal_slowdown": c.THROTTLE_THERMAL,
    "hw_thermal_slowdown": c.THROTTLE_THERMAL_HARDWARE,
    "hw_power_brake_slowdown": c.THROTTLE_POWER_BRAKE,
}

QUERY: Final[dict[str, Field]] = {
    "power.draw": _watts(c.POWER),
    "power.draw.average": _watts(c.POWER_AVERAGE),
    "power.draw.instant": _watts(c.POWER_INSTANT),
    "module.power.draw.average": _watts(c.POWER_MODULE, 1),
    "module.power.draw.instant": _watts(c.POWER_MODULE),
    "enforced.power.limit": _watts(c.POWER_LIMIT),
    "power.limit": _watts(c.POWER_LIMIT_REQUESTED),
    "power.default_limit": _watts(c.POWER_LIMIT_DEFAULT),
    "power.min_limit": _watts(c.POWER_LIMIT_MIN),
    "power.max_limit": _watts(c.POWER_LIMIT_MAX),
    "utilization.gpu": _percent(c.UTILIZATION),
    "utilization.memory": _percent(c.UTILIZATION_MEMORY),
    "utilization.encoder": _percent(c.UTILIZATION_ENCODER),
    "utilization.decoder": _percent(c.UTILIZATION_DECODER),
    "fan.speed": _percent(c.FAN_SPEED),
    "clocks.current.sm": _mhz(c.CLOCK_SM),
    "clocks.sm": _mhz(c.CLOCK_SM),
    "clocks.current.graphics": _mhz(c.CLOCK_GRAPHICS),
    "clocks.gr": _mhz(c.CLOCK_GRAPHICS),
    "clocks.current.memory": _mhz(c.CLOCK_MEMORY),
    "clocks.mem": _mhz(c.CLOCK_MEMORY),
    "clocks.current.video": _mhz(c.CLOCK_VIDEO),
    "clocks.video": _mhz(c.CLOCK_VIDEO),
    "clocks.max.sm": _mhz(c.CLOCK_SM_MAX),
    "clocks.max.graphics": _mhz(c.CLOCK_GRAPHICS_MAX),
    "clocks.max.gr": _mhz(c.CLOCK_GRAPHICS_MAX),
    "clocks.max.memory": _mhz(c.CLOCK_MEMORY_MAX),
    "clocks.max.mem": _mhz(c.CLOCK_MEMORY_MAX),
    "temperature.gpu": _celsius(c.TEMPERATURE),
    "temperature.gpu.tlimit": _celsius(c.TEMPERATURE_MARGIN),
    "temperature.memory": _celsius(c.TEMPERATURE_MEMORY),
    "memory.total": _mib(c.MEMORY_TOTAL),
    "memory.used": _mib(c.MEMORY_USED),
    "memory.free": _mib(c.MEMORY_FREE),
    "memory.reserved": _mib(c.MEMORY_RESERVED),
    "pcie.link.gen.gpucurrent": _count(c.PCIE_GENERATION),
    "pcie.link.gen.current": _count(c.PCIE_GENERATION, 1),
    "pcie.link.width.current": Field(c.PCIE_WIDTH, _NONE, ""),
    "pstate": Field(c.PERFORMANCE_STATE, _NONE, "", tuple((f"P{state}", float(state)) for state in range(16))),
    "ecc.errors.corrected.volatile.total": _count(c.ECC_CORRECTED),
    "ecc.errors.corrected.aggregate.total": _count(c.ECC_CORRECTED, 1),
    "ecc.errors.uncorrected.volatile.total": _count(c.ECC_UNCORRECTED),
    "ecc.errors.uncorrected.aggregate.total": _count(c.ECC_UNCORRECTED, 1),
    "remapped_rows.correctable": _count(c.ROWS_REMAPPED_CORRECTED),
    "remapped_rows.uncorrectable": _count(c.ROWS_REMAPPED_UNCORRECTED),
    "remapped_rows.pending": _yes(c.ROWS_PENDING),
    "remapped_rows.failure": _yes(c.ROW_REMAP_FAILED),
    # Drivers before 535 say clocks_throttle_reasons.
    **{
        f"{word}.{name}": _active(m)
        for word in ("clocks_event_reasons", "clocks_throttle_reasons")
        for name, m in _REASONS.items()
    },
    **{f"clocks_event_reasons_counters.{name}": _spent(metric) for name, metric in _SPENT.items()},
}
"""The fields of ``--query-gpu`` that are metrics."""

MASKS: Final = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""All reasons in one number, such as 0x0000000000000004; a field of one reason goes before it."""

IDENTITY: Final = {
    "uuid": "uuid",
    "gpu_uuid": "uuid",
    "serial": "serial",
    "gpu_serial": "serial",
    "index": "index",
    "pci.bus_id": "bus",
    "gpu_bus_id": "bus",
    "name": "model",
    "gpu_name": "model",
    "driver_version": "driver_version",
    "vbios_version": "firmware_version",
    "mig.mode.current": "mode",
}
"""The fields of ``--query-gpu`` that say which device it is."""

DMON: Final[dict[str, Field]] = {
    "pwr": _watts(c.POWER),
    "gtemp": _celsius(c.TEMPERATURE),
    "temp": _celsius(c.TEMPERATURE),
    "mtemp": _celsius(c.TEMPERATURE_MEMORY),
    "sm": _percent(c.UTILIZATION),
    "mem": _percent(c.UTILIZATION_MEMORY),
    "enc": _percent(c.UTILIZATION_ENCODER),
    "dec": _percent(c.UTILIZATION_DECODER),
    "mclk": _mhz(c.CLOCK_MEMORY),
    "pclk": _mhz(c.CLOCK_SM),
    "fb": _mib(c.MEMORY_USED),
    "sbecc": Field(c.ECC_CORRECTED, {"errs": 1.0}, "errs"),
    "dbecc": Field(c.ECC_UNCORRECTED, {"errs": 1.0}, "errs"),
    "pci": Field(c.PCIE_REPLAYS, {"errs": 1.0}, "errs"),
    "rxpci": Field(c.PCIE_RX, {"MB/s": 1e6, "KB/s": 1e3, "GB/s": 1e9}, "MB/s"),
    "txpci": Field(c.PCIE_TX, {"MB/s": 1e6, "KB/s": 1e3, "GB/s": 1e9}, "MB/s"),
    "tviol": Field(c.THROTTLING_THERMAL, {"bool": 1.0}, "bool"),
}
"""
The columns of ``dmon`` that are metrics.

Not among them: pviol (the share of the last second at the power limit: neither 0 or 1 nor a counter), jpg, ofa, bar1,
ccpm.
"""
