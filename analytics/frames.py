"""The store as LazyFrames, the schema checked at the door, and the fleet.toml beside it."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import polars as pl

from analytics.boards import with_calibrations
from analytics.capacity.load import Minutes, device_minutes, minutes_of
from analytics.fleet import Fleet
from analytics.fleet_toml import parse_fleet
from analytics.planning.request import Request, parse_plan
from analytics.slots import COUNTERS, SLOT_S, of_slots
from collector.errors import ConfigError, StoreError
from collector.store import Segment, Store
from collector.store.extents import Extent
from collector.store.schema import VERSION
from collector.store.sketch import TYPE as SKETCH
from collector.store.table import Table

Found = TypeVar("Found")
Part = TypeVar("Part")
Moment = datetime | int
"""A time: a datetime (without a zone it is UTC), or nanoseconds since 1970."""

TYPES = {
    "VARCHAR": pl.String(),
    "DOUBLE": pl.Float64(),
    "BIGINT": pl.Int64(),
    "INTEGER": pl.Int32(),
    "BOOLEAN": pl.Boolean(),
    "TIMESTAMP_NS": pl.Datetime("ns"),
    SKETCH: pl.List(pl.Struct({"bin": pl.Int16(), "n": pl.UInt32()})),
}


PART_ROWS = 1_000_000
"""Rows of a part of `by_device`: some hundreds of megabytes while energy is computed."""
SLOT_ROWS = 600_000
"""Rows of a part of `by_slot`."""
WORKLOAD_ROWS = 2_000_000
"""Readings of the devices of a workload that are looked at at once: a gigabyte, and some seconds."""
_LEAST_BYTES = 8
_MOST_THREADS = 4
_MINUTE_NS = 60_000_000_000
_HOUR_NS = 3_600_000_000_000

_TICKS_NS: dict[pl.DataType, int] = {pl.Datetime("ms"): 1_000_000, pl.Datetime("us"): 1_000, pl.Datetime("ns"): 1}


def schema(table: Table) -> pl.Schema:
    """The columns of *table* as `scan` gives them."""
    return pl.Schema({column.name: TYPES[column.type] for column in table})


def nanoseconds(moment: Moment) -> int:
    """A moment as nanoseconds since 1970."""
    if isinstance(moment, int):
        return moment
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000


def scan(
    store: Store | Path | str,
    table: str,
    start: Moment | None = None,
    end: Moment | None = None,
    where: pl.Expr | None = None,
    *,
    columns: Collection[str] | None = None,
) -> pl.LazyFrame:
    """
    The rows of *table* in [start, end) for which *where* holds, in the schema's columns and types.

    Out: every column of the table, or *columns*, in which *where* looks: metrics as Float64, `time` as Datetime("ns")
    in UTC, what was not measured as null. Only segments that can hold such rows are opened. Collect it within minutes:
    superseded files are deleted after a grace. The order of rows is not defined.

    Raises: StoreError (no store, no such table, a segment that is damaged or of a newer schema).
    """
    opened = store if isinstance(store, Store) else Store(store)
    found = opened.table(table)
    start_ns = None if start is None else nanoseconds(start)
    end_ns = None if end is None else nanoseconds(end)
    frame = _scanned(found, opened.groups(table, start_ns, end_ns), start_ns, end_ns, columns)
    return frame if where is None else frame.filter(where)


def read_fleet(path: Path) -> Fleet:
    """
    The fleet that the file *path* describes.

    Raises: ConfigError.
    """
    return parse_fleet(_text(path, "fleet.toml"), path=path)


def read_plan(path: Path, fleet: Fleet) -> Request:
    """
    What the file *path* asks a plan for.

    Raises: ConfigError.
    """
    return parse_plan(_text(path, "plan.toml"), fleet, path=path)


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(name, f"cannot be read: {error}", path=path) from error


def power_minutes(
    store: Store | Path | str, start: Moment | None, end: Moment | None, *, days: float, now_ns: int
) -> Minutes:
    """
    What was drawn in each minute of [start, end): by default *days* up to the newest reading, or to *now_ns* without.

    Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    named = ("device_samples", "host_samples", "facility_samples")
    if end is None:
        lasts = [one.last_ns for table in named for one in opened.segments(table)]
        end = (max(lasts, default=now_ns) // _MINUTE_NS + 1) * _MINUTE_NS
    end_ns = nanoseconds(end)
    if start is None:
        start = end_ns - round(days * 24 * _HOUR_NS)
        firsts = [one.first_ns for table in named for one in opened.segments(table, start, end_ns)]
        start = max(start, min(firsts, default=start))
    start_ns = nanoseconds(start)
    known = scan(opened, "devices")
    inside = known.filter(pl.col("parent").is_not_null()).select("device").unique().collect()["device"].to_list()
    parts = by_device(opened, "device_samples", start_ns, end_ns)
    return minutes_of(
        over_devices(partial(device_minutes, partitions=inside), parts),
        scan(opened, "host_samples", start_ns, end_ns),
        scan(opened, "facility_samples", start_ns, end_ns),
        known,
        start_ns=start_ns,
        end_ns=end_ns,
    )


def boards(store: Store | Path | str, start: Moment | None = None, end: Moment | None = None) -> pl.LazyFrame:
    """
    The devices as they were observed in [start, end), each with how its board is calibrated up to then.

    Out: of `analytics.boards.with_calibrations`. Raises: StoreError.
    """
    known = scan(store, "devices", start, end).collect().lazy()
    return with_calibrations(known, scan(store, "calibrations", None, end).collect().lazy()).collect().lazy()


def by_device(
    store: Store | Path | str,
    table: str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    rows: int = PART_ROWS,
) -> list[pl.LazyFrame]:
    """
    As `scan`, in parts of about *rows* rows, each with every row of its devices: what is too large to look at at once.

    Segments are sorted by device, so a part reads few groups of rows of few segments. The parts are in the order of
    the devices, and there is at least one.

    Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    found = opened.table(table)
    start_ns, end_ns = (None if moment is None else nanoseconds(moment) for moment in (start, end))
    listed = opened.groups(table, start_ns, end_ns)
    if sum(segment.bytes for segments, _ in listed for segment in segments) <= rows * _LEAST_BYTES:
        return [scan(opened, table, start, end)]
    ranges = _ranges(opened.extents(segment for segments, _ in listed for segment in segments))
    key, parts = found.keys[0], []
    cuts = [None, *_cuts(sorted(ranges, key=lambda item: item[1] or ""), rows), None]
    for low, high in pairwise(cuts):
        inside = {path for path, least, most, _ in ranges if _meets(least, most, low, high)}
        chosen = [
            ([segment for segment in segments if segment.path in inside], repeats) for segments, repeats in listed
        ]
        frame = _scanned(found, [some for some in chosen if some[0]], start_ns, end_ns)
        if low is not None:
            frame = frame.filter(pl.col(key) >= low)
        if high is not None:
            frame = frame.filter((pl.col(key) < high) | pl.col(key).is_null() if low is None else pl.col(key) < high)
        parts.append(frame)
    return parts


def each_part(function: Callable[[Part], Found], parts: Sequence[Part], *, threads: int | None = None) -> list[Found]:
    """What *function* makes of each of *parts* (such as those of `by_device`), two at a time on two cores."""
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        return list(pool.map(function, parts))


def over_devices(
    function: Callable[[pl.LazyFrame], pl.LazyFrame], parts: Sequence[pl.LazyFrame], *, threads: int | None = None
) -> pl.DataFrame:
    """What *function* makes of each of *parts* (see `by_device`), one below the other."""
    return pl.concat(each_part(lambda part: function(part).collect(), parts, threads=threads))


class Spliced(NamedTuple):
    """
    A window as rollups and readings tell it.

    rollups: of the whole hours in *hours_ns*. before, after: readings of the rest, in parts as of `by_device`, with an
    hour of what lies beyond: a step from one to the other is of both.
    """

    rollups: pl.LazyFrame
    hours_ns: tuple[int, int]
    before: list[pl.LazyFrame]
    after: list[pl.LazyFrame]

    @property
    def rest(self) -> pl.LazyFrame:
        """The readings that no rollup has; one at the end of the hours is in theirs."""
        first, last = (pl.lit(ns, pl.Datetime("ns")) for ns in self.hours_ns)
        before = [part.filter(pl.col("time") <= first) for part in self.before]
        return pl.concat([*before, *(part.filter(pl.col("time") > last) for part in self.after)])


def spliced(
    store: Store | Path | str,
    start: Moment | None = None,
    end: Moment | None = None,
    *,
    window_s: int = 3600,
    least_hours: int = 2,
) -> Spliced | None:
    """
    The devices in [start, end), by rollups of *window_s* wherever those hold everything that readings do.

    None where that is less than *least_hours*: then readings are as fast. Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    start_ns, end_ns = (None if moment is None else nanoseconds(moment) for moment in (start, end))
    hours = opened.rolled_up("device_samples", start_ns, end_ns)
    if hours is None or hours[1] - hours[0] < least_hours * _HOUR_NS:
        return None
    rollups = scan(opened, "device_rollups", *hours, pl.col("window_s") == window_s)
    before = by_device(opened, "device_samples", start_ns, hours[0] + _HOUR_NS) if start_ns != hours[0] else []
    after = by_device(opened, "device_samples", hours[1] - _HOUR_NS, end_ns)
    return Spliced(rollups, hours, [] if start_ns is None else before, after)


def by_slot(
    store: Store | Path | str, start: Moment, end: Moment, *, rows: int = SLOT_ROWS
) -> list[pl.LazyFrame] | None:
    """
    Readings as rollups of five minutes tell them (`analytics.slots.of_slots`), and those of what is not rolled up yet.

    In parts of about *rows* rows, each with every row of its devices. None where less than half of [start, end) is
    rolled up: then readings are as fast. Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    least_hours = (nanoseconds(end) - nanoseconds(start)) // (2 * _HOUR_NS)
    found = spliced(opened, start, end, window_s=SLOT_S, least_hours=max(1, least_hours))
    if found is None:
        return None
    held = scan(opened, "allocations", None, end).select("device", "start", "end").collect().lazy()
    edges = pl.concat([held.select("device", edge=edge) for edge in ("start", "end")]).drop_nulls()
    counters = [metric.column for metric in COUNTERS]
    last = pl.lit(found.hours_ns[1], pl.Datetime("ns"))
    until = pl.concat(found.after).filter(pl.col("time") <= last)
    ends = until.sort("time").group_by("device", "source").agg(pl.col(counters).drop_nulls().last()).collect().lazy()
    rest = found.rest.collect().lazy()
    known = found.rollups.select("device").collect()["device"].value_counts(sort=True).sort("device")
    step = max(1, known.height * rows // max(1, 2 * int(known["count"].sum())))
    names = [known["device"][at : at + step] for at in range(0, known.height, step)]
    others = rest.filter(~pl.col("device").is_in(known["device"].implode()))

    def of(devices: pl.Series) -> pl.LazyFrame:
        mine = pl.col("device").is_in(devices.implode())
        told = of_slots(found.rollups.filter(mine), edges.filter(mine), ends)
        return pl.concat([told.lazy(), rest.filter(mine)], how="diagonal")

    return [*each_part(of, names), others]


def latest(
    store: Store | Path | str, table: str, start: Moment | None = None, end: Moment | None = None
) -> pl.LazyFrame:
    """
    The last row of each key of *table* in [start, end): the present state, where a later row replaces an earlier one.

    Out: as `scan`, one row for each key.
    """
    opened = store if isinstance(store, Store) else Store(store)
    keys = list(opened.table(table).keys)
    return scan(opened, table, start, end).sort("time").unique(keys, keep="last", maintain_order=True)


class WorkloadFrames(NamedTuple):
    """
    What a store tells of one workload: the tables of these names, of its devices, while it held any of them.

    allocations: everybody's of its devices. host_samples: of its hosts. facility_samples: from an hour before it began,
    since a price holds on. events: of its devices, from a month before. devices: all.
    """

    device_samples: pl.LazyFrame
    workload_samples: pl.LazyFrame
    allocations: pl.LazyFrame
    devices: pl.LazyFrame
    host_samples: pl.LazyFrame
    facility_samples: pl.LazyFrame
    events: pl.LazyFrame


def of_workload(store: Store | Path | str, workload: str, *, rows: int = WORKLOAD_ROWS) -> WorkloadFrames:
    """
    The tables of *store* of one workload, from its first allocation to its last; all empty of one that has none.

    Where its devices were read more than about *rows* times, the samples are of the last part of it that has so many.

    Raises: StoreError.
    """
    opened = store if isinstance(store, Store) else Store(store)
    devices = boards(opened)
    own = scan(opened, "allocations", where=pl.col("workload") == workload).collect()
    # Where the last word on an allocation has no end, the workload holds it still.
    last = own.sort("time").unique(["device", "start"], keep="last", maintain_order=True)
    start, end = last["start"].to_physical().min(), last["end"].to_physical().max()
    start_ns = 0 if start is None else int(cast("int", start))
    end_ns = None if end is None or last["end"].null_count() else int(cast("int", end)) + 1
    parents = devices.filter(pl.col("device").is_in(own["device"].implode())).select("parent").drop_nulls().unique()
    named = pl.col("device").is_in([*own["device"].unique(), *parents.collect()["parent"]])
    hosts = pl.col("host").is_in(own["host"].unique().implode())
    read = scan(opened, "device_samples", start_ns, end_ns, named).select(
        pl.len(), first=pl.col("time").min().to_physical(), last=pl.col("time").max().to_physical()
    )
    count, first, last_read = read.collect().row(0)
    if count > rows:
        start_ns = last_read - round((last_read - first) * rows / count)
    return WorkloadFrames(
        device_samples=scan(opened, "device_samples", start_ns, end_ns, named),
        workload_samples=scan(opened, "workload_samples", start_ns, end_ns, pl.col("workload") == workload),
        allocations=scan(opened, "allocations", None, end_ns, named),
        devices=devices,
        host_samples=scan(opened, "host_samples", start_ns, end_ns, hosts),
        facility_samples=scan(opened, "facility_samples", max(0, start_ns - _HOUR_NS), end_ns),
        events=scan(opened, "events", max(0, start_ns - 30 * 24 * _HOUR_NS), end_ns, named),
    )


def _scanned(
    table: Table,
    groups: Sequence[tuple[Sequence[Segment], bool]],
    start_ns: int | None,
    end_ns: int | None,
    columns: Collection[str] | None = None,
) -> pl.LazyFrame:
    named = schema(table)
    wanted = list(named if columns is None else columns)
    same = [*table.keys, "time"]
    parts: list[pl.LazyFrame] = []
    for segments, repeats in groups:
        read = {name: named[name] for name in dict.fromkeys((*wanted, *(same if repeats else ())))}
        rows = _rows(read, [segment.path for segment in segments], start_ns, end_ns)
        parts.append(rows.unique(same, keep="last", maintain_order=True).select(wanted) if repeats else rows)
    return pl.concat(parts) if parts else pl.LazyFrame(schema={name: named[name] for name in wanted})


_Range = tuple[Path, str | None, str | None, int]


def _ranges(found: Sequence[Extent]) -> list[_Range]:
    return [(extent.segment.path, extent.low, extent.high, extent.rows) for extent in found]


def _cuts(ranges: Sequence[_Range], rows: int) -> list[str]:
    """The devices at which parts begin; *ranges* are by their first device."""
    cuts: list[str] = []
    held = 0
    for _, low, _, count in ranges:
        if held >= rows and low is not None and (not cuts or low > cuts[-1]):
            cuts.append(low)
            held = 0
        held += count
    return cuts


def _meets(least: str | None, most: str | None, low: str | None, high: str | None) -> bool:
    """Whether [least, most] may hold something of [low, high); what is not known may."""
    return (low is None or most is None or most >= low) and (high is None or least is None or least < high)


def _rows(
    read: Mapping[str, pl.DataType], paths: Sequence[Path], start_ns: int | None, end_ns: int | None
) -> pl.LazyFrame:
    """The columns to *read* of some segments within a window, in these types and in the order of the paths."""
    runs: list[tuple[pl.Schema, list[Path]]] = []
    for path in paths:
        stored = _stored_schema(path)
        # Neighbours that store the same types are one scan; a column that some lack does not make two.
        if runs and _alike(runs[-1][0], stored):
            runs[-1][0].update(stored)
            runs[-1][1].append(path)
        else:
            runs.append((pl.Schema(stored), [path]))
    return pl.concat([_typed(read, stored, run, start_ns, end_ns) for stored, run in runs])


def _alike(one: pl.Schema, other: pl.Schema) -> bool:
    return all(one.get(name, kind) == kind for name, kind in other.items())


def _typed(
    read: Mapping[str, pl.DataType], stored: pl.Schema, paths: list[Path], start_ns: int | None, end_ns: int | None
) -> pl.LazyFrame:
    rows = pl.scan_parquet(
        paths, schema=stored, missing_columns="insert", extra_columns="ignore", hive_partitioning=False, glob=False
    )
    # In the unit that is stored, so that row groups outside the window are skipped by their statistics.
    time = stored["time"]
    ticks = _TICKS_NS[time]
    for bound, compare in ((start_ns, pl.Expr.ge), (end_ns, pl.Expr.lt)):
        if bound is not None:
            # Rounded up for both: a moment between two ticks is after the first of them.
            rows = rows.filter(compare(pl.col("time"), pl.lit(-(-bound // ticks), dtype=pl.Int64).cast(time)))
    return rows.select(_column(name, kind, stored.get(name)) for name, kind in read.items())


def _column(name: str, kind: pl.DataType, stored: pl.DataType | None) -> pl.Expr:
    if stored is None:
        return pl.lit(None, dtype=kind).alias(name)
    return pl.col(name) if stored == kind else pl.col(name).cast(kind)


# A segment never changes, so what its footer says is read once; a day of one writer is some dozens of files.
@lru_cache(maxsize=20_000)
def _stored_schema(path: Path) -> pl.Schema:
    """
    The columns that a segment has.

    Raises: StoreError.
    """
    try:
        version = pl.read_parquet_metadata(path).get("perfwatt_schema")
        stored = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(path, f"the segment cannot be read: {str(error).splitlines()[0]}") from error
    if version is None:
        raise StoreError(path, "not a segment of perfwatt: it carries no schema version")
    if int(version) > VERSION:
        raise StoreError(path, f"schema version {version} is newer than {VERSION}, the newest that this perfwatt reads")
    return pl.Schema(stored)
