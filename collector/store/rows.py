"""Readings as rows of the tables."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from collector.sample import Allocation, Device, Event, Process, Reading, Sample
from collector.store.schema import ALLOCATIONS, DEVICES, EVENTS, PROCESSES, SAMPLE_TABLES, SUBJECT
from collector.store.segments import DAY_NS
from collector.store.table import Table

Values = dict[str, Any]
"""A row by column name, without the columns that have no value."""


def sample_row(sample: Sample, source: str) -> Values:
    """A sample as a row of its scope's table."""
    row: Values = {metric.column: value for metric, value in sample.values.items()}
    row.update(sample.text)
    row[SUBJECT[sample.scope]] = sample.subject
    row["time"] = sample.time_ns
    row["source"] = source
    if sample.host:  # a site's meter is on none
        row["host"] = sample.host
    return row


def device_row(device: Device, source: str, time_ns: int) -> Values:
    """A device's description as a row."""
    row = {name: value for name in DEVICES.names if (value := getattr(device, name, None)) is not None}
    row.update(device=device.id, time=time_ns, source=source)
    return row


def event_row(event: Event, source: str) -> Values:
    """An event as a row."""
    row = {
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
    return {name: value for name, value in row.items() if value is not None}


def allocation_row(allocation: Allocation, source: str) -> Values:
    """An allocation as a row."""
    row = {
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
    return {name: value for name, value in row.items() if value is not None}


def process_row(process: Process, source: str) -> Values:
    """A process as a row."""
    row = {name: value for name in PROCESSES.names if (value := getattr(process, name, None)) is not None}
    row.update(time=process.time_ns, source=source)
    return row


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
) -> Iterator[tuple[Table, Values]]:
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
