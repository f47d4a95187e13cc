"""
What NVML tells of one board, as a table, and how it is read in few calls.

Each entry says how a vendor's number becomes a value in catalogue units. Everything that has a field id goes in one
call for the board. What a board does not support is found out once, at opening, and never asked again; of several ways
to the same metric the first that works is kept.

Ticks read what moves. Limits, thresholds and counters of errors are read every `slow_s` seconds and carried in between:
they change by somebody's act or by a fault, and a device has twice as many of them. So are some for which the driver
goes to the board's firmware (each over 1 ms of a core on an H100, where most take less than 0.1): two counters of rare
throttling, which lose nothing by it and of which the reasons tell at each tick whether they count, and the margin,
which the temperature beside it goes along with.
"""

import ctypes
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any, Final

import pynvml

from collector import catalogue as c
from collector.catalogue import Metric
from collector.nvidia import REASON_BITS
from collector.sources.nvml_library import ABSENT, FATAL, bind, failure

log = logging.getLogger(__name__)

Values = dict[Metric, float]

GPU, MODULE, MEMORY = 0, 1, 2  # the scopes of a power field
ALL_LINKS: Final = 0xFFFFFFFF
LINKS: Final = 18
"""NVLinks of the largest board; asking for one that is not there is an error of that field alone."""

_MHZ: Final = 1e6
_MILLI: Final = 1e-3
_NANO: Final = 1e-9
_PERCENT: Final = 1e-2
_KIB: Final = 1024.0


@dataclass(frozen=True, slots=True)
class Field:
    """A value with a field id; the fields of one `group` are summed (single-bit and double-bit, link by link)."""

    metric: Metric
    id: int
    factor: float = 1.0
    scope: int = GPU
    slow: bool = False
    group: str = ""

    @property
    def name(self) -> str:
        """How a log line and the tests call it."""
        return f"field {self.id} {self.scope}"


Part = tuple[Metric, str, float]
"""A number of a result: the metric, where in the result it is ("": it is all of it), and the factor to our unit."""


@dataclass(frozen=True, slots=True)
class Call:
    """
    A function: the arguments between the handle and the result, the result and the parts of it that are metrics.

    Where a number is not what it seems (a sentinel, a mask), `take` looks at the result and adds the metrics `more`.
    """

    function: str
    result: Callable[[], Any]
    parts: tuple[Part, ...] = ()
    arguments: tuple[int, ...] = ()
    slow: bool = False
    take: Callable[[Any, Values], None] | None = None
    more: tuple[Metric, ...] = ()

    @property
    def name(self) -> str:
        """How a log line and the tests call it."""
        return self.function

    @property
    def gives(self) -> tuple[Metric, ...]:
        """The metrics that it is read for."""
        return (*(metric for metric, _, _ in self.parts), *self.more)


def _one(
    metric: Metric, function: str, *arguments: int, factor: float = 1.0, result: Any = ctypes.c_uint, slow: bool = False
) -> Call:
    return Call(function, result, ((metric, "", factor),), arguments, slow)


def _parts(function: str, result: Callable[[], Any], *parts: Part, slow: bool = False) -> Call:
    return Call(function, result, parts, (), slow)


class _Pair(ctypes.Structure):
    """Two results of one function, each behind a pointer of its own."""

    _fields_ = (("first", ctypes.c_uint), ("second", ctypes.c_uint))


def _pair(function: str, *metrics: tuple[Metric, float], arguments: tuple[int, ...] = (), slow: bool = False) -> Call:
    parts = tuple((metric, name, factor) for (metric, factor), name in zip(metrics, ("first", "second"), strict=False))
    return Call(function, _Pair, parts, arguments, slow)


def _versioned(result: Any, version: int) -> Callable[[], Any]:
    return partial(result, version=version)


def _state(out: Any, values: Values) -> None:
    if out.value != pynvml.NVML_PSTATE_UNKNOWN:  # 32: a sentinel, not a slow state
        values[c.PERFORMANCE_STATE] = float(out.value)


def _profile(out: Any, values: Values) -> None:
    for word, bits in enumerate(out.enforcedProfilesMask.mask):
        if bits:
            values[c.POWER_PROFILE] = float(word * 32 + (bits & -bits).bit_length() - 1)
            return


_REASONS_OF: Final[dict[int, Values]] = {}


def _reasons(out: Any, values: Values) -> None:
    mask = out.value
    found = _REASONS_OF.get(mask)
    if found is None:
        found = _REASONS_OF[mask] = {metric: 1.0 if mask & bit else 0.0 for metric, bit in REASON_BITS}
    values.update(found)


def _throttling(function: str) -> Call:
    return Call(function, ctypes.c_ulonglong, take=_reasons, more=tuple(metric for metric, _ in REASON_BITS))


def _violation(metric: Metric, policy: int) -> Call:
    part = (metric, "violationTime", _NANO)
    return Call("nvmlDeviceGetViolationStatus", pynvml.c_nvmlViolationTime_t, (part,), (policy,))


def _clock(metric: Metric, kind: int) -> Call:
    return _one(metric, "nvmlDeviceGetClockInfo", kind, factor=_MHZ)


def _clock_max(metric: Metric, kind: int) -> Call:
    return _one(metric, "nvmlDeviceGetMaxClockInfo", kind, factor=_MHZ, slow=True)


def _threshold(metric: Metric, which: int) -> Call:
    # Since Ada the thresholds are also given as distances (fields 193 to 196, "-2 C"): those are not temperatures.
    return _one(metric, "nvmlDeviceGetTemperatureThreshold", which, slow=True)


def _links(metric: Metric, field: int) -> tuple[Field, ...]:
    # From Blackwell on, links count one by one, and a board has many: they are not for every tick.
    return tuple(Field(metric, field, 1.0, link, slow=True, group="links") for link in range(LINKS))


FIELDS: Final = (
    Field(c.POWER_AVERAGE, pynvml.NVML_FI_DEV_POWER_AVERAGE, _MILLI),
    Field(c.POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_INSTANT, _MILLI),
    Field(c.POWER_MODULE, pynvml.NVML_FI_DEV_POWER_AVERAGE, _MILLI, MODULE),
    Field(c.POWER_MODULE, pynvml.NVML_FI_DEV_POWER_INSTANT, _MILLI, MODULE),
    Field(c.POWER_MEMORY, pynvml.NVML_FI_DEV_POWER_AVERAGE, _MILLI, MEMORY),
    Field(c.POWER_MEMORY, pynvml.NVML_FI_DEV_POWER_INSTANT, _MILLI, MEMORY),
    Field(c.ENERGY, pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, _MILLI),
    Field(c.TEMPERATURE_MEMORY, pynvml.NVML_FI_DEV_MEMORY_TEMP),
    # The time that clocks were held down, in ns. 269 to 271 came later; 75 is the older name of 269.
    Field(c.THROTTLE_POWER, pynvml.NVML_FI_DEV_PERF_POLICY_POWER, _NANO),
    Field(c.THROTTLE_THERMAL, pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, _NANO),
    Field(c.THROTTLE_THERMAL, pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL, _NANO),
    Field(c.THROTTLE_THERMAL_HARDWARE, pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, _NANO, slow=True),
    Field(c.THROTTLE_POWER_BRAKE, pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, _NANO, slow=True),
    Field(c.THROTTLE_SYNC, pynvml.NVML_FI_DEV_PERF_POLICY_SYNC_BOOST, _NANO),
    Field(c.THROTTLE_BOARD, pynvml.NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT, _NANO),
    Field(c.THROTTLE_RELIABILITY, pynvml.NVML_FI_DEV_PERF_POLICY_RELIABILITY, _NANO),
    Field(c.THROTTLE_LOW_UTILIZATION, pynvml.NVML_FI_DEV_PERF_POLICY_LOW_UTILIZATION, _NANO),
    Field(c.FABRIC_TX_TOTAL, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _KIB, ALL_LINKS),
    Field(c.FABRIC_RX_TOTAL, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _KIB, ALL_LINKS),
    *_links(c.FABRIC_TX_TOTAL, pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES),
    *_links(c.FABRIC_RX_TOTAL, pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES),
    # Bytes so far: the board makes a rate of them, which the blocking nvmlDeviceGetPcieThroughput (20 ms) also is.
    Field(c.PCIE_TX, pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES),
    Field(c.PCIE_RX, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES),
    Field(c.PCIE_REPLAYS, pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER, slow=True),
    Field(c.ECC_CORRECTED, pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL, slow=True),
    Field(c.ECC_UNCORRECTED, pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL, slow=True),
    Field(c.PAGES_RETIRED, pynvml.NVML_FI_DEV_RETIRED_SBE, slow=True, group="pages"),
    Field(c.PAGES_RETIRED, pynvml.NVML_FI_DEV_RETIRED_DBE, slow=True, group="pages"),
    Field(c.ROWS_REMAPPED_CORRECTED, pynvml.NVML_FI_DEV_REMAPPED_COR, slow=True),
    Field(c.ROWS_REMAPPED_UNCORRECTED, pynvml.NVML_FI_DEV_REMAPPED_UNC, slow=True),
    Field(c.ROWS_PENDING, pynvml.NVML_FI_DEV_REMAPPED_PENDING, slow=True),
    Field(c.ROW_REMAP_FAILED, pynvml.NVML_FI_DEV_REMAPPED_FAILURE, slow=True),
    Field(c.FABRIC_ERRORS, pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, slow=True, group="totals"),
    Field(c.FABRIC_ERRORS, pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, slow=True, group="totals"),
    Field(c.FABRIC_ERRORS, pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, slow=True, group="totals"),
    Field(c.FABRIC_ERRORS, pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, slow=True, group="totals"),
    *_links(c.FABRIC_ERRORS, pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS),
)

CALLS: Final = (
    _parts(
        "nvmlDeviceGetUtilizationRates",
        pynvml.c_nvmlUtilization_t,
        (c.UTILIZATION, "gpu", _PERCENT),
        (c.UTILIZATION_MEMORY, "memory", _PERCENT),
    ),
    _pair("nvmlDeviceGetEncoderUtilization", (c.UTILIZATION_ENCODER, _PERCENT)),
    _pair("nvmlDeviceGetDecoderUtilization", (c.UTILIZATION_DECODER, _PERCENT)),
    # The first version of this function counts what the driver keeps as used.
    _parts(
        "nvmlDeviceGetMemoryInfo_v2",
        _versioned(pynvml.c_nvmlMemory_v2_t, pynvml.nvmlMemory_v2),
        (c.MEMORY_TOTAL, "total", 1.0),
        (c.MEMORY_USED, "used", 1.0),
        (c.MEMORY_FREE, "free", 1.0),
        (c.MEMORY_RESERVED, "reserved", 1.0),
    ),
    _clock(c.CLOCK_GRAPHICS, pynvml.NVML_CLOCK_GRAPHICS),
    _clock(c.CLOCK_SM, pynvml.NVML_CLOCK_SM),
    _clock(c.CLOCK_MEMORY, pynvml.NVML_CLOCK_MEM),
    _clock(c.CLOCK_VIDEO, pynvml.NVML_CLOCK_VIDEO),
    _one(c.TEMPERATURE, "nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
    _parts(
        "nvmlDeviceGetMarginTemperature",
        _versioned(pynvml.c_nvmlMarginTemperature_v1_t, pynvml.nvmlMarginTemperature_v1),
        (c.TEMPERATURE_MARGIN, "marginTemperature", 1.0),
        slow=True,
    ),
    Call("nvmlDeviceGetPerformanceState", ctypes.c_uint, take=_state, more=(c.PERFORMANCE_STATE,)),
    _throttling("nvmlDeviceGetCurrentClocksEventReasons"),
    _throttling("nvmlDeviceGetCurrentClocksThrottleReasons"),
    # Only where the fields above are not known to the driver.
    _one(c.POWER, "nvmlDeviceGetPowerUsage", factor=_MILLI),
    _one(c.ENERGY, "nvmlDeviceGetTotalEnergyConsumption", factor=_MILLI, result=ctypes.c_ulonglong),
    _violation(c.THROTTLE_POWER, pynvml.NVML_PERF_POLICY_POWER),
    _violation(c.THROTTLE_THERMAL, pynvml.NVML_PERF_POLICY_THERMAL),
    _violation(c.THROTTLE_SYNC, pynvml.NVML_PERF_POLICY_SYNC_BOOST),
    _violation(c.THROTTLE_BOARD, pynvml.NVML_PERF_POLICY_BOARD_LIMIT),
    _violation(c.THROTTLE_RELIABILITY, pynvml.NVML_PERF_POLICY_RELIABILITY),
    _violation(c.THROTTLE_LOW_UTILIZATION, pynvml.NVML_PERF_POLICY_LOW_UTILIZATION),
    _one(c.FAN_SPEED, "nvmlDeviceGetFanSpeed", factor=_PERCENT, slow=True),
    _parts(
        "nvmlDeviceGetFanSpeedRPM",
        _versioned(pynvml.c_nvmlFanSpeedInfo_t, pynvml.nvmlFanSpeedInfo_v1),
        (c.FAN_RPM, "speed", 1.0),
        slow=True,
    ),
    _one(c.POWER_LIMIT, "nvmlDeviceGetEnforcedPowerLimit", factor=_MILLI, slow=True),
    _one(c.POWER_LIMIT_REQUESTED, "nvmlDeviceGetPowerManagementLimit", factor=_MILLI, slow=True),
    _one(c.POWER_LIMIT_DEFAULT, "nvmlDeviceGetPowerManagementDefaultLimit", factor=_MILLI, slow=True),
    _pair(
        "nvmlDeviceGetPowerManagementLimitConstraints",
        (c.POWER_LIMIT_MIN, _MILLI),
        (c.POWER_LIMIT_MAX, _MILLI),
        slow=True,
    ),
    _clock_max(c.CLOCK_GRAPHICS_MAX, pynvml.NVML_CLOCK_GRAPHICS),
    _clock_max(c.CLOCK_SM_MAX, pynvml.NVML_CLOCK_SM),
    _clock_max(c.CLOCK_MEMORY_MAX, pynvml.NVML_CLOCK_MEM),
    _pair(
        "nvmlDeviceGetMinMaxClockOfPState",
        (c.CLOCK_SM_MIN, _MHZ),
        arguments=(pynvml.NVML_CLOCK_SM, pynvml.NVML_PSTATE_0),
        slow=True,
    ),
    _threshold(c.TEMPERATURE_LIMIT_SHUTDOWN, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
    _threshold(c.TEMPERATURE_LIMIT_SLOWDOWN, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
    _threshold(c.TEMPERATURE_LIMIT_MEMORY, pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
    _threshold(c.TEMPERATURE_LIMIT_OPERATING, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
    _one(c.PCIE_GENERATION, "nvmlDeviceGetCurrPcieLinkGeneration", slow=True),
    _one(c.PCIE_WIDTH, "nvmlDeviceGetCurrPcieLinkWidth", slow=True),
    _one(c.PCIE_REPLAYS, "nvmlDeviceGetPcieReplayCounter", slow=True),
    Call(
        "nvmlDeviceWorkloadPowerProfileGetCurrentProfiles",
        pynvml.c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t,
        slow=True,
        take=_profile,
        more=(c.POWER_PROFILE,),
    ),
)

PARTITION_CALLS: Final = tuple(call for call in CALLS if call.function == "nvmlDeviceGetMemoryInfo_v2")
"""What a MIG instance has of its own. Asked for power or energy it answers with the whole board's."""

# 20 ms for each direction, and the driver's "KB" is 1000 bytes; opt-in, for boards without the byte counters.
PCIE_CALLS: Final = (
    _one(c.PCIE_TX, "nvmlDeviceGetPcieThroughput", pynvml.NVML_PCIE_UTIL_TX_BYTES, factor=1e3, slow=True),
    _one(c.PCIE_RX, "nvmlDeviceGetPcieThroughput", pynvml.NVML_PCIE_UTIL_RX_BYTES, factor=1e3, slow=True),
)

# c_nvmlFieldValue_t: id, scope, timestamp, latency, type, return code, value. Unpacking all at once takes a third of
# the time of going through the attributes of nvidia-ml-py's structures.
_FIELD_VALUE: Final = struct.Struct("@IIqqII8s")
assert _FIELD_VALUE.size == ctypes.sizeof(pynvml.c_nvmlFieldValue_t)
_DECODE: Final = tuple(struct.Struct(f"@{code}").unpack_from for code in ("d", "I", "L", "Q", "q", "i", "H"))
"""By value type: double, unsigned int, unsigned long, unsigned long long, signed long long, int, unsigned short."""


def _arguments(call: Call, handle: Any, out: Any) -> list[Any]:
    pointers = [ctypes.byref(out)]
    if isinstance(out, _Pair):
        pointers.append(ctypes.byref(out, ctypes.sizeof(ctypes.c_uint)))
    return [handle, *(ctypes.c_uint(value) for value in call.arguments), *pointers]


class _Fields:
    """Fields of one board that are read together, in an array that is made once."""

    def __init__(self, library: ctypes.CDLL, handle: Any, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._taken = tuple((field.metric, field.factor, field.group, field.name) for field in fields)
        count = len(self.fields)
        self._array = (pynvml.c_nvmlFieldValue_t * count)()
        for slot, field in zip(self._array, self.fields, strict=True):
            slot.fieldId, slot.scopeId = field.id, field.scope
        self._call = bind(library, "nvmlDeviceGetFieldValues", handle, ctypes.c_int(count), self._array)

    def read(self, values: Values, failed: Callable[[str, int], None]) -> int:
        """Read all, tell *failed* of each that did not answer, and give the number that did."""
        if not self.fields:
            return 0
        if code := self._call():
            failed("nvmlDeviceGetFieldValues", code)
            return 0
        good = 0
        sums: Values = {}
        short: set[Metric] = set()
        # The array reuses its memory: every value is taken out before the next call.
        for (metric, factor, group, name), (_, _, _, _, kind, code, raw) in zip(
            self._taken, _FIELD_VALUE.iter_unpack(self._array), strict=True
        ):
            if code:
                failed(name, code)
                if group:
                    short.add(metric)
                continue
            value = _DECODE[kind](raw)[0] * factor
            if group:
                sums[metric] = sums.get(metric, 0.0) + value
            else:
                values[metric] = value
            good += 1
        # A sum that lacks a part would look like a counter that fell.
        for metric, value in sums.items():
            if metric not in short:
                values[metric] = value
        return good


class _Calls:
    """
    Functions that are called for one board, one after another.

    Their results stand side by side in one piece of memory, so that the numbers can be taken out and multiplied at
    once, in a quarter of the time that it takes one by one.
    """

    def __init__(self, library: ctypes.CDLL, handle: Any, calls: Sequence[Call]) -> None:
        results = [call.result() for call in calls]
        sizes = [-(-ctypes.sizeof(result) // 8) * 8 for result in results]
        self._memory = (ctypes.c_char * sum(sizes))()
        self._calls: list[tuple[Callable[[], int], str]] = []
        self._parts: list[tuple[int, Metric, float]] = []  # the number of the call, the metric, the factor
        self._taken: list[tuple[int, Callable[[Any, Values], None], Any]] = []
        layout, end, start = "=", 0, 0
        for number, (call, result, size) in enumerate(zip(calls, results, sizes, strict=True)):
            placed = type(result).from_buffer(self._memory, start)
            ctypes.memmove(ctypes.byref(placed), ctypes.byref(result), ctypes.sizeof(result))  # it may name its version
            self._calls.append((bind(library, call.function, *_arguments(call, handle, placed)), call.name))
            # In the order of memory, in which `Struct` goes.
            for at, code, metric, factor in sorted((*_place(result, name), m, f) for m, name, f in call.parts):
                layout += f"{start + at - end}x{code}"
                end = start + at + struct.calcsize(f"={code}")
                self._parts.append((number, metric, factor))
            if call.take is not None:
                self._taken.append((number, call.take, placed))
            start += size
        self._layout = struct.Struct(layout)
        self._metrics = tuple(metric for _, metric, _ in self._parts)
        self._factors = tuple(factor for _, _, factor in self._parts)

    def read(self, values: Values, failed: Callable[[str, int], None]) -> int:
        """Call all, tell *failed* of each that did not answer, and give the number that did."""
        bad: set[int] = set()
        for number, (call, name) in enumerate(self._calls):
            if code := call():
                failed(name, code)
                bad.add(number)
        numbers = map(mul, self._layout.unpack_from(self._memory), self._factors)
        if not bad:
            values.update(zip(self._metrics, numbers, strict=True))
        else:
            for (number, metric, _), value in zip(self._parts, numbers, strict=True):
                if number not in bad:
                    values[metric] = value
        for number, take, result in self._taken:
            if number not in bad:
                take(result, values)
        return len(self._calls) - len(bad)


def _place(result: Any, name: str) -> tuple[int, str]:
    """Where in *result* a number is, and its type as `struct` calls it, standard size."""
    kind, at = (dict(result._fields_)[name], getattr(type(result), name).offset) if name else (type(result), 0)
    return at, _STANDARD[ctypes.sizeof(kind), kind(-1).value < 0]


_STANDARD: Final = {(4, False): "I", (4, True): "i", (8, False): "Q", (8, True): "q"}
"""By size and whether it has a sign."""


class Readers:
    """
    The readers of one handle that work, bound to it.

    `metrics` are those that are read. Raises, from opening and reading: DeviceGone, ReadRetry, SourceUnavailable.
    """

    def __init__(self, library: ctypes.CDLL, handle: Any, *, fields: Sequence[Field], calls: Sequence[Call]) -> None:
        self._library, self._handle = library, handle
        self._complained: set[str] = set()
        kept_fields = self._probe_fields(fields)
        given = {field.metric for field in kept_fields}
        # One number for power: the way without provenance is the last resort.
        if c.POWER_INSTANT in given or c.POWER_AVERAGE in given or c.POWER_MODULE in given:
            given.add(c.POWER)
        kept_calls = self._probe_calls(calls, given)
        self._fields = {
            slow: _Fields(library, handle, [field for field in kept_fields if field.slow is slow])
            for slow in (False, True)
        }
        self._calls = {
            slow: _Calls(library, handle, [call for call in kept_calls if call.slow is slow]) for slow in (False, True)
        }
        self.metrics = {field.metric for field in kept_fields} | {m for call in kept_calls for m in call.gives}

    def read(self, values: Values, *, slow: bool = False) -> None:
        """
        Read into *values* what moves, or with *slow* what seldom does.

        A reader that fails leaves its metric out. Raises: DeviceGone, SourceUnavailable; ReadRetry when all failed.
        """
        first: list[tuple[str, int]] = []

        def failed(name: str, code: int) -> None:
            if code in FATAL:
                raise failure(code, name)
            first.append((name, code))

        good = self._fields[slow].read(values, failed) + self._calls[slow].read(values, failed)
        if first:
            self._complain(first)
            if not good:
                raise failure(first[0][1], first[0][0])

    def _complain(self, failures: Sequence[tuple[str, int]]) -> None:
        for name, code in failures:
            if name not in self._complained:
                self._complained.add(name)
                log.warning("nvml_reader_failed", extra={"reader": name, "error": str(pynvml.NVMLError(code))})

    def _probe_fields(self, fields: Sequence[Field]) -> list[Field]:
        codes: dict[str, int] = {}
        everything = _Fields(self._library, self._handle, fields)

        def failed(name: str, code: int) -> None:
            if code in FATAL:
                raise failure(code, name)
            codes[name] = code

        everything.read({}, failed)
        if (code := codes.get("nvmlDeviceGetFieldValues")) is not None:
            return [] if code in ABSENT else list(fields)
        kept: list[Field] = []
        way: dict[Metric, str] = {}
        for field in fields:
            if codes.get(field.name) in ABSENT:
                continue
            if field.metric not in way or (field.group and way[field.metric] == field.group):
                way[field.metric] = field.group
                kept.append(field)
        return kept

    def _probe_calls(self, calls: Sequence[Call], given: set[Metric]) -> list[Call]:
        kept: list[Call] = []
        for call in calls:
            if given.issuperset(call.gives):
                continue
            code = bind(self._library, call.function, *_arguments(call, self._handle, call.result()))()
            if code in FATAL:
                raise failure(code, call.function)
            if code in ABSENT:
                continue
            given.update(call.gives)
            kept.append(call)
        return kept
