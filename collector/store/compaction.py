"""
Fewer, larger segments; and the end of old days.

Seals of a few seconds become segments of five minutes, then of an hour, then of a day. A merged segment covers the ids
of those it was merged from, so its rename is the one moment at which it takes their place; they are deleted after a
grace in which readers that listed them earlier can finish.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from collector.errors import StoreError
from collector.store import sql
from collector.store.engine import Engine, as_store_error, check_version
from collector.store.files import Files
from collector.store.packing import packed_columns
from collector.store.parquet import is_storable
from collector.store.schema import TABLES
from collector.store.segments import (
    DAY_NS,
    EXPIRED,
    Segment,
    day_folder,
    day_start_ns,
    days,
    present,
    segment_name,
    visible,
)
from collector.store.table import Table

log = logging.getLogger(__name__)

GRACE_S = 900.0
"""How long a superseded or expired file stays for readers that listed it; a reader holds on to a listing no longer."""
# No write takes a day: a temporary file older than that was left by a crash.
_ABANDONED_S = 86_400.0
STEP_MS = 300_000
"""Seals are merged by these five minutes first."""
_HOUR_MS = 3_600_000
# A day is merged whole once nothing more is expected of it, not while its last rows are still on their way.
_SETTLED_NS = 900_000_000_000
# An agent's rows reach the store within seconds, after an outage within days: what comes later is history, imported.
_LATE_NS = 3 * DAY_NS
# Merging rewrites a segment; beyond this size one file less is not worth it.
_LARGEST_BYTES = 2 * 1024**3
# Of a file system's blocks a smaller file hardly takes fewer.
_LEAST_PACKED_BYTES = 16_384


def _settled(ordered: Sequence[Segment], now_ns: int) -> bool:
    """Whether nothing more is expected of a day, of which *ordered* are a writer's segments by id."""
    over_ns = day_start_ns(ordered[0].date) + DAY_NS + _SETTLED_NS
    return now_ns >= over_ns and now_ns // 1_000_000 - ordered[-1].last > STEP_MS


def due(segments: Sequence[Segment], now_ns: int) -> list[list[Segment]]:
    """
    The groups, of one writer's visible segments of a day, that should now become one segment each.

    A group is a run of neighbours by id, because a merged segment covers every id between its first and its last.
    """
    if not segments:
        return []
    ordered = sorted(segments, key=lambda segment: segment.first)
    if _settled(ordered, now_ns):
        small = sum(segment.bytes for segment in ordered) <= _LARGEST_BYTES
        return [ordered] if len(ordered) > 1 and small else []
    return [group for group in _runs(ordered, now_ns // 1_000_000) if len(group) > 1]


def _runs(ordered: Sequence[Segment], now_ms: int) -> Iterator[list[Segment]]:
    """Neighbours that lie in one hour that is over, or in one five minutes that are over of an hour that is not."""
    run: list[Segment] = []
    bucket: tuple[int, int] | None = None
    for segment in ordered:
        found = None
        for width in (_HOUR_MS, STEP_MS):
            index = segment.first // width
            if segment.last // width == index and (index + 1) * width <= now_ms:
                found = (width, index)
                break
        if found is None or found != bucket:
            yield run
            run = []
        bucket = found
        if found is not None:
            run.append(segment)
    yield run


def merge(
    engine: Engine, files: Files, root: Path, table: Table, group: Sequence[Segment], of: Sequence[Segment]
) -> Segment:
    """
    Make one segment of *group*, neighbours among *of* (the writer's visible segments of that day).

    Raises: StoreError; then nothing has changed.
    """
    paths = [segment.path for segment in group]
    folder = day_folder(root, table.name, group[0].date)
    for path, version in engine.versions(paths).items():
        check_version(path, version)
    may_repeat = table.shared or any(segment.repeats for segment in group)
    # What the group may repeat of still earlier segments it goes on repeating.
    reaches_back = any(segment.repeats for segment in group) and any(
        other.first < group[0].first and other.last_ns >= min(segment.first_ns for segment in group) for other in of
    )
    name = segment_name(
        group[0].writer,
        max(segment.generation for segment in group) + 1,
        min(segment.first for segment in group),
        max(segment.last for segment in group),
        min(segment.first_ns for segment in group),
        max(segment.last_ns for segment in group),
        repeats=reaches_back,
    )
    temporary, final = folder / f".{name}.tmp", folder / name
    rows = sql.latest_rows(table, paths) if may_repeat else f"SELECT * FROM {sql.read_segments(paths)}"
    try:
        before = _count(engine, paths)
        columns = packed_columns(engine, table, sql.read_segments(paths), before)
        chosen = f"SELECT {', '.join(columns)} FROM ({rows}) ORDER BY {sql.order(table, columns)}"
        engine.run(sql.copy(chosen, temporary, table))
        after = _count(engine, [temporary])
        if after > before or (after < before and not may_repeat):
            raise StoreError(final, f"merging {len(group)} segments of {before} rows gave {after}: nothing was changed")
        files.commit(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Segment(
        path=final,
        table=table.name,
        date=group[0].date,
        writer=group[0].writer,
        generation=max(segment.generation for segment in group) + 1,
        first=min(segment.first for segment in group),
        last=max(segment.last for segment in group),
        first_ns=min(segment.first_ns for segment in group),
        last_ns=max(segment.last_ns for segment in group),
        repeats=reaches_back,
        bytes=final.stat().st_size,
    )


def _count(engine: Engine, paths: Sequence[Path]) -> int:
    return int(engine.run(f"SELECT count(*) FROM {sql.read_segments(paths)}")[0][0])


def compact(engine: Engine, files: Files, root: Path, writer: str, now_ns: int, *, only: date | None = None) -> int:
    """
    Merge what is due of *writer*, whose lock the caller holds; gives the number of segments made.

    Raises: StoreError for the first group that could not be merged, after all others have been.
    """
    made = 0
    failure: StoreError | None = None
    for table in TABLES.values():
        for day in days(root, table.name) if only is None else [only]:
            mine = visible(segment for segment in present(root, table.name, day) if segment.writer == writer)
            for group in due(mine, now_ns):
                try:
                    with as_store_error(day_folder(root, table.name, day)):
                        merge(engine, files, root, table, group, mine)
                    made += 1
                except StoreError as error:
                    failure = failure or error
    if failure is not None:
        raise failure
    return made


def unpacked(root: Path, now_ns: int) -> list[Segment]:
    """The segments that stay as they are from now on, and may be packed."""
    found: list[Segment] = []
    for table in TABLES.values():
        if not all(is_storable(column.type) for column in table):
            continue  # sketches are lists
        for day in days(root, table.name):
            by_writer: dict[str, list[Segment]] = {}
            for segment in visible(present(root, table.name, day)):
                by_writer.setdefault(segment.writer, []).append(segment)
            for mine in by_writer.values():
                if _settled(mine, now_ns) and not due(mine, now_ns):
                    found += [one for one in mine if not one.packed and one.bytes >= _LEAST_PACKED_BYTES]
    return found


def pack(engine: Engine, files: Files, root: Path, now_ns: int) -> int:
    """
    Pack the segments of days that are over; gives the number of them. It needs nobody's lock.

    Raises: StoreError for the first that could not be packed, after all others have been.
    """
    found = unpacked(root, now_ns)
    if not found:
        return 0
    # Not above: an agent merges, but what packs is a process of its own, and takes more memory.
    from collector.store.repacking import repack

    failure: StoreError | None = None
    for segment in found:
        try:
            with as_store_error(segment.path):
                repack(engine, files, segment)
        except StoreError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return len(found)


def sweep(files: Files, root: Path, *, grace_s: float = GRACE_S, now_s: float | None = None) -> int:
    """Delete superseded segments, and days that expired, once the grace is over; gives the number of files deleted."""
    now_s = time.time() if now_s is None else now_s
    removed = 0
    for table in TABLES:
        for day in days(root, table):
            folder = day_folder(root, table, day)
            expired = folder / EXPIRED
            if expired.exists():
                if now_s - expired.stat().st_mtime >= grace_s:
                    removed += _remove_day(files, folder)
                continue
            for left in folder.glob(".*"):
                if left.name != EXPIRED and now_s - left.stat().st_mtime >= max(grace_s, _ABANDONED_S):
                    files.remove(left)
                    removed += 1
            segments = present(root, table, day)
            shown = visible(segments)
            for segment in set(segments) - set(shown):
                above = [top for top in shown if top.writer == segment.writer and top.covers(segment)]
                if above and now_s - max(top.path.stat().st_mtime for top in above) >= grace_s:
                    files.remove(segment.path)
                    removed += 1
    return removed


def _remove_day(files: Files, folder: Path) -> int:
    # The mark goes last: a crash in between must not bring half a day back.
    gone = [path for path in folder.iterdir() if path.name != EXPIRED]
    for path in gone:
        files.remove(path)
    files.remove(folder / EXPIRED)
    folder.rmdir()
    return len(gone)


def expire(files: Files, root: Path, retain_days: Mapping[str, int | None], now_ns: int) -> int:
    """
    Mark the days that are older than their table keeps; readers no longer see them, `sweep` deletes them.

    A day is kept while it holds rows that were written days after it: somebody imported that history to have it.
    """
    marked = 0
    for table, keep in retain_days.items():
        for day in days(root, table) if keep is not None else ():
            over_ns = day_start_ns(day) + DAY_NS
            folder = day_folder(root, table, day)
            if keep is None or over_ns + keep * DAY_NS > now_ns or (folder / EXPIRED).exists():
                continue
            if any(segment.last * 1_000_000 >= over_ns + _LATE_NS for segment in present(root, table, day)):
                continue
            (folder / EXPIRED).touch()
            files.sync_folder(folder)
            marked += 1
    return marked
