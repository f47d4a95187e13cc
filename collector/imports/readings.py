"""What sources' readings hold, as frames of the store's tables."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import polars as pl

from collector.catalogue import Metric, Scope
from collector.imports.tables import allocation_row, event_row, rows, schema, shaped
from collector.sample import Allocation, Device, Event, Sample
from collector.store.schema import SAMPLE_TABLES, SUBJECT

Seen = tuple[int, Device]
"""A device, and when (nanoseconds) it was first seen so."""


def sample_frame(scope: Scope, samples: Sequence[Sample], source: str) -> pl.DataFrame:
    """The samples of one scope as rows of its table."""
    table = SAMPLE_TABLES[scope].name
    subject = SUBJECT[scope]
    columns: dict[str, list[object]] = {
        subject: [sample.subject for sample in samples],
        "time": [sample.time_ns for sample in samples],
    }
    if subject != "host":
        columns["host"] = [sample.host for sample in samples]
    # By metric and not by row: a device has a tenth of the catalogue, and a row of Nones costs more than its values.
    values: dict[Metric, list[object]] = {}
    texts: dict[str, list[object]] = {}
    count = len(samples)
    for at, sample in enumerate(samples):
        for metric, value in sample.values.items():
            if metric not in values:
                values[metric] = [None] * count
            values[metric][at] = value
        for name, word in sample.text.items():
            texts.setdefault(name, [None] * count)[at] = word
    columns |= {metric.column: found for metric, found in values.items()}
    types = schema(table)
    columns |= {name: found for name, found in texts.items() if name in types}
    data = pl.DataFrame(columns, schema={name: pl.Int64() if name == "time" else types[name] for name in columns})
    return shaped(table, data.with_columns(pl.from_epoch(pl.col("time"), "ns"), pl.lit(source).alias("source")))


def frames(
    samples: Iterable[Sample],
    source: str,
    *,
    devices: Iterable[Seen] = (),
    events: Iterable[Event] = (),
    allocations: Iterable[Allocation] = (),
) -> dict[str, pl.DataFrame]:
    """All of it, by table; tables without a row are left out."""
    by_scope: dict[Scope, list[Sample]] = {}
    for sample in samples:
        by_scope.setdefault(sample.scope, []).append(sample)
    found = {SAMPLE_TABLES[scope].name: sample_frame(scope, several, source) for scope, several in by_scope.items()}
    found["devices"] = rows("devices", [_device_row(device, time_ns, source) for time_ns, device in devices])
    found["events"] = rows("events", [event_row(event, source) for event in events])
    found["allocations"] = rows("allocations", [allocation_row(one, source) for one in allocations])
    return {table: frame for table, frame in found.items() if frame.height}


_RENAMED = {"id": "device"}


def _device_row(device: Device, time_ns: int, source: str) -> dict[str, object]:
    row: dict[str, object] = {_RENAMED.get(f.name, f.name): getattr(device, f.name) for f in fields(Device)}
    return row | {"time": time_ns, "source": source}
