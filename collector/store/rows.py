"""Readings as rows of the tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from collector.catalogue import Metric
from collector.sample import Allocation, Device, Event, Process, Reading, Sample
from collector.store.schema import ALLOCATIONS, DEVICES, EVENTS, PROCESSES, SAMPLE_TABLES
from collector.store.segments import DAY_NS
from collector.store.table import Table


class Row(NamedTuple):
    """A row: the values of the table's keys, then its time; what was measured; other columns that have a value."""

    key: tuple[Any, ...]
    measured: Mapping[Metric, float]
    others: Mapping[str, Any]

    @property
    def time_ns(self) -> int:
        """When it was."""
        time_ns: int = self.key[-1]
        return time_ns


def sample_row(sample: Sample, source: str) -> Row:
    """A sample as a row of its scope's table, whose keys are the subject and the source."""
    # A site's meter is on no host.
    others = {**sample.text, "host": sample.host} if sample.host else sample.text
    return Row((sample.subject, source, sample.time_ns), sample.values, others)


def device_row(device: Device, source: str, time_ns: int) -> Row:
    """A device's description as a row."""
    columns = {name: getattr(device, name, None) for name in DEVICES.names}
    return _row(DEVICES, {**columns, "device": device.id, "time": time_ns, "source": source})


def event_row(event: Event, source: str) -> Row:
    """An event as a row."""
    columns = {
        "time": event.time_ns,
        "kind": event.kind,
        "host": event.host,
        "severity": event.severity.value,
        "device": event.device,
        "code": event.code,
        "message": event.message or None,
        "value": event.value,
        "source": source,
    }
    return _row(EVENTS, columns)


def allocation_row(allocation: Allocation, source: str) -> Row:
    """An allocation as a row."""
    columns = {
        "workload": allocation.workload,
        "device": allocation.device,
        "start": allocation.start_ns,
        "time": allocation.time_ns,
        "end": allocation.end_ns,
        "source": source,
        "host": allocation.host,
        "name": allocation.name,
        "user": allocation.user,
        "team": allocation.team,
        "share": allocation.share,
    }
    return _row(ALLOCATIONS, columns)


def process_row(process: Process, source: str) -> Row:
    """A process as a row."""
    columns = {name: getattr(process, name, None) for name in PROCESSES.names}
    return _row(PROCESSES, {**columns, "time": process.time_ns, "source": source})


def _row(table: Table, columns: Mapping[str, Any]) -> Row:
    key = tuple(columns[name] for name in (*table.keys, "time"))
    return Row(key, {}, {name: value for name, value in columns.items() if value is not None})


class Describer:
    """Knows each device's last description, and tells when it changed or a day began (so that each day is complete)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Device, int]] = {}

    def changed(self, device: Device, source: str, time_ns: int) -> bool:
        """Whether this description is news."""
        told = (device, time_ns // DAY_NS)
        if self._known.get((source, device.id)) == told:
            return False
        self._known[source, device.id] = told
        return True

    def forget(self, source: str, device: str) -> None:
        """Tell it anew when it comes back."""
        self._known.pop((source, device), None)


def rows_of(
    readings: Iterable[Reading], describer: Describer, clock_ns: Callable[[], int]
) -> Iterator[tuple[Table, Row]]:
    """Every row that some readings bring, with its table; the agent's own metrics are not stored."""
    for reading in readings:
        source = reading.source
        for sample in reading.samples:
            table = SAMPLE_TABLES.get(sample.scope)
            if table is not None and sample.values:
                yield table, sample_row(sample, source)
        for device in reading.devices:
            time_ns = reading.samples[0].time_ns if reading.samples else clock_ns()
            if describer.changed(device, source, time_ns):
                yield DEVICES, device_row(device, source, time_ns)
        for gone in reading.gone:
            describer.forget(source, gone)
        for event in reading.events:
            yield EVENTS, event_row(event, source)
        for allocation in reading.allocations:
            yield ALLOCATIONS, allocation_row(allocation, source)
        for process in reading.processes:
            yield PROCESSES, process_row(process, source)
