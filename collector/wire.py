"""
Readings between a worker and the agent: length-prefixed marshal frames over a socket pair.

Both ends are the same interpreter on the same machine, started by the agent; the greeting carries a version and the
catalogue's print all the same, because an upgrade replaces files under a running agent. A sample travels as two arrays,
the numbers of its metrics and its values; a device is sent when it is new or has changed. The values are checked where
they come in (`Decoder`): what cannot be true of a metric is left out and counted.
"""

import marshal
import mmap
import os
import pickle
import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from sys import float_info
from typing import Any, Final
from zlib import crc32

from collector.catalogue import CATALOGUE, Metric, Scope
from collector.sample import Allocation, Device, Event, Gap, Process, Reading, Sample, Severity

# Metrics travel as numbers, so both ends must count the same catalogue.
VERSION: Final = f"1:{crc32(repr(CATALOGUE).encode()):08x}"
MAX_FRAME: Final = 256 * 1024 * 1024

# The kinds of message; each is a tuple that begins with one of these.
HELLO: Final = 0  # (version,)
READY: Final = 1  # (names of the sources,)
TICK: Final = (
    2  # (number of the tick, whether it is complete, ticks missed before it, readings, {stuck source: seconds})
)
FAILED: Final = 3  # (reason, message): the worker ends

Message = tuple[Any, ...]

_MARK_BYTES: Final = 256  # length and name; no source's name is longer than a line
_SHAPES: Final = 4096  # where metrics come and go, what is remembered of them begins again rather than grow
_LENGTH = struct.Struct("<I")
_SCOPES: Final = tuple(Scope)
_SCOPE_NUMBER: Final = {scope: number for number, scope in enumerate(_SCOPES)}
_NUMBER: Final = {metric: number for number, metric in enumerate(CATALOGUE)}


class WireError(Exception):
    """The other end does not speak this version, or sent what is no message."""


def frame(message: Message) -> bytes:
    """*message* as it is sent."""
    payload = marshal.dumps(message)
    return _LENGTH.pack(len(payload)) + payload


class Unframer:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """
        The messages that *data* completes.

        Raises: WireError.
        """
        self._buffer += data
        start, end = 0, len(self._buffer)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length} bytes, above the most of {MAX_FRAME}")
            if end - start - _LENGTH.size < length:
                break
            start += _LENGTH.size
            yield _loaded(bytes(self._buffer[start : start + length]))
            start += length
        del self._buffer[:start]


def _loaded(payload: bytes) -> Message:
    try:
        message = marshal.loads(payload)  # from our own child
    except (EOFError, ValueError, TypeError) as error:
        raise WireError(f"no message: {error}") from error
    if not isinstance(message, tuple) or not message or message[0] not in {HELLO, READY, TICK, FAILED}:
        raise WireError(f"no message: {message!r:.100}")
    return message


class Encoder:
    """Turns readings into tuples for `frame`; remembers the devices it has sent."""

    def __init__(self) -> None:
        self._devices: dict[tuple[str, str], Device] = {}
        # A device has the same metrics on every tick: their numbers, by the metrics.
        self._shapes: dict[tuple[Metric, ...], bytes] = {}

    def encode(self, reading: Reading) -> Message:
        """*reading* as a tuple."""
        for device_id in reading.gone:
            self._devices.pop((reading.source, device_id), None)
        return (
            reading.source,
            reading.read_s,
            reading.gap and (reading.gap.reason, reading.gap.message),
            tuple(reading.gone),
            [self._sample(sample) for sample in reading.samples],
            [_DEVICE.values(device) for device in reading.devices if self._is_news(reading.source, device)],
            [(*_EVENT.values(event), event.severity.value) for event in reading.events],
            [_ALLOCATION.values(allocation) for allocation in reading.allocations],
            [_PROCESS.values(process) for process in reading.processes],
        )

    def _sample(self, sample: Sample) -> Message:
        return (
            _SCOPE_NUMBER[sample.scope],
            sample.subject,
            sample.host,
            sample.time_ns,
            self._shape(tuple(sample.values)),
            array("d", sample.values.values()).tobytes(),
            dict(sample.text) or None,
        )

    def _shape(self, metrics: tuple[Metric, ...]) -> bytes:
        shape = self._shapes.get(metrics)
        if shape is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            shape = self._shapes[metrics] = array("H", [_NUMBER[metric] for metric in metrics]).tobytes()
        return shape

    def _is_news(self, source: str, device: Device) -> bool:
        if self._devices.get((source, device.id)) == device:
            return False
        self._devices[source, device.id] = device
        return True


class _Fields:
    """The fields of a dataclass as a tuple and back."""

    def __init__(self, cls: type[Any], *left_out: str) -> None:
        self._cls = cls
        self._names = tuple(spec.name for spec in fields(cls) if spec.name not in left_out)
        self.values: Any = attrgetter(*self._names)

    def build(self, values: Message, **more: object) -> Any:
        return self._cls(**dict(zip(self._names, values, strict=False)), **more)


_DEVICE: Final = _Fields(Device)
_EVENT: Final = _Fields(Event, "severity")
_ALLOCATION: Final = _Fields(Allocation)
_PROCESS: Final = _Fields(Process)


class Decoder:
    """Turns tuples back into readings; leaves out and counts the values that cannot be true."""

    def __init__(self) -> None:
        # A device sends the same metrics on every tick: by their numbers, the metrics with what bounds them.
        self._shapes: dict[bytes, tuple[tuple[Metric, float, float], ...]] = {}
        self.dropped: dict[str, Counter[Metric]] = {}

    def decode(self, message: Message) -> Reading:
        """The reading in *message*; `dropped` grows by source and metric."""
        source, read_s, gap, gone, samples, devices, events, allocations, processes = message
        return Reading(
            source=source,
            read_s=read_s,
            gap=Gap(reason=gap[0], message=gap[1]) if gap else None,
            gone=gone,
            samples=[self._sample(source, sample) for sample in samples],
            devices=[_DEVICE.build(device) for device in devices],
            events=[_EVENT.build(event, severity=Severity(event[-1])) for event in events],
            allocations=[_ALLOCATION.build(allocation) for allocation in allocations],
            processes=[_PROCESS.build(process) for process in processes],
        )

    def _sample(self, source: str, message: Message) -> Sample:
        scope, subject, host, time_ns, shape, packed, text = message
        metrics = self._shapes.get(shape) or self._learn(shape)
        numbers = array("d", packed)
        # A NaN fails both comparisons.
        values = {m: v for (m, low, high), v in zip(metrics, numbers, strict=True) if low <= v <= high}
        if len(values) < len(metrics):
            dropped = self.dropped.setdefault(source, Counter())
            dropped.update(metric for metric, _, _ in metrics if metric not in values)
        return Sample(scope=_SCOPES[scope], subject=subject, host=host, time_ns=time_ns, values=values, text=text or {})

    def _learn(self, shape: bytes) -> tuple[tuple[Metric, float, float], ...]:
        most = float_info.max
        metrics = [CATALOGUE[number] for number in array("H", shape)]
        bounded = tuple(
            (metric, -most if metric.low is None else metric.low, most if metric.high is None else metric.high)
            for metric in metrics
        )
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        self._shapes[shape] = bounded
        return bounded


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the agent asks of a worker. `skip` and `only` choose among the sources of a `OneByOne`."""

    name: str
    opener: str
    options: Mapping[str, Any]
    host: str
    period_s: float
    deadline_s: float
    skip: frozenset[str] = frozenset()
    only: str | None = None
    log_level: str = "info"
    log_format: str = "logfmt"


class Page:
    """
    Memory that the agent and a worker share, so that one can be read whatever state the other is in.

    It holds the order, which thus waits for no pipe and shows in no argument list, and the mark: the name of the source
    that is being read, which tells the culprit when a read takes its process down.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _MARK_BYTES)

    @classmethod
    def create(cls, order: Order) -> "Page":
        """A new page with *order* in it."""
        fd = os.memfd_create("perfwatt-order")
        os.pwrite(fd, bytes(_MARK_BYTES) + pickle.dumps(order), 0)
        return cls(fd)

    def order(self) -> Order:
        """The order, which is then gone from the page: options may hold secrets."""
        size = os.fstat(self.fd).st_size
        order = pickle.loads(os.pread(self.fd, size - _MARK_BYTES, _MARK_BYTES))  # from our own parent
        os.ftruncate(self.fd, _MARK_BYTES)
        assert isinstance(order, Order)
        return order

    def mark(self, name: str) -> None:
        """Note that *name* is about to be read; an empty name when nothing is."""
        data = name.encode("utf-8", "surrogateescape")[: _MARK_BYTES - 1]
        self._memory[0] = 0
        self._memory[1 : 1 + len(data)] = data
        self._memory[0] = len(data)

    def marked(self) -> str:
        """What was marked last."""
        return self._memory[1 : 1 + self._memory[0]].decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
        os.close(self.fd)
