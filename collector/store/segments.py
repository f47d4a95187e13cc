"""
Segments: how a file's name says what it holds, and which files make up a table now.

    <root>/<table>/date=YYYY-MM-DD/<writer>-<generation>[x][p]-<first>-<last>-<from>-<to>.parquet

`first` and `last` are the ids of the seals a segment holds: a writer numbers its seals upwards, and a merged segment
covers a range of them. `from` and `to` are the earliest and latest row, in milliseconds of the day. An ``x`` says that
the segment may repeat a row (same keys, same time) of an earlier segment of its writer, a ``p`` that it is packed: the
same rows in fewer bytes.

One rule makes every change atomic: **a segment is hidden by one of the same writer, table and day that covers its ids
and has a higher generation, or the same and is packed.** So one rename publishes a merged segment and retires those it
was merged from, and a file can be deleted long after, when no reader can still be reading it.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from collector.errors import StoreError

DAY_NS = 86_400_000_000_000
EXPIRED = ".expired"
"""A file of this name in a day's folder says that the day is no longer part of the table."""

_NAME = re.compile(
    r"(?P<writer>[A-Za-z0-9_][A-Za-z0-9_.-]*)-(?P<generation>\d+)(?P<repeats>x?)(?P<packed>p?)"
    r"-(?P<first>\d+)-(?P<last>\d+)-(?P<start>\d{8})-(?P<end>\d{8})\.parquet"
)
# Ids from here on (2001) are the milliseconds of a seal.
_MOMENT_MS = 10**12
# A folder that changed less long ago may change once more in the same tick of its clock, and look the same.
_SETTLED_NS = 10 * 10**9
_WRITER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a table: immutable from the moment it has its name."""

    path: Path
    table: str
    date: date
    writer: str
    generation: int
    first: int
    last: int
    first_ns: int
    last_ns: int
    repeats: bool = False
    bytes: int = 0
    packed: bool = False

    @property
    def rank(self) -> tuple[int, bool]:
        """Of two segments that cover the same ids the one of the higher rank counts."""
        return self.generation, self.packed

    def covers(self, other: "Segment") -> bool:
        """Whether this segment takes the place of *other*, one of the same writer, table and day."""
        return self.rank > other.rank and self.first <= other.first and other.last <= self.last

    def overlaps(self, start_ns: int | None, end_ns: int | None) -> bool:
        """Whether a row may lie in [start_ns, end_ns)."""
        return (start_ns is None or self.last_ns >= start_ns) and (end_ns is None or self.first_ns < end_ns)


def checked_writer(root: Path, name: str) -> str:
    """
    *name*, if it can be part of a file name.

    Raises: StoreError.
    """
    if not _WRITER.fullmatch(name):
        raise StoreError(root, f"writer name {name!r}: use letters, digits, '_', '.' and '-', at most 100 of them")
    return name


def day_start_ns(day: date) -> int:
    """Midnight UTC at which *day* starts."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000_000


def day_of(time_ns: int) -> date:
    """The UTC day of a moment."""
    return date(1970, 1, 1) + timedelta(days=time_ns // DAY_NS)


def day_folder(root: Path, table: str, day: date) -> Path:
    """Where the segments of one day of a table are."""
    return root / table / f"date={day.isoformat()}"


def segment_name(
    writer: str,
    generation: int,
    first: int,
    last: int,
    first_ns: int,
    last_ns: int,
    *,
    repeats: bool = False,
    packed: bool = False,
) -> str:
    """A segment's file name; `first_ns` and `last_ns` are of one day."""
    start, end = (ns % DAY_NS // 1_000_000 for ns in (first_ns, last_ns))
    marks = ("x" if repeats else "") + ("p" if packed else "")
    return f"{writer}-{generation}{marks}-{first}-{last}-{start:08d}-{end:08d}.parquet"


def _days(root: Path, table: str) -> Iterator[tuple[date, Path]]:
    try:
        entries = sorted(os.scandir(root / table), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(root / table, error.strerror or str(error)) from error
    for entry in entries:
        if entry.name.startswith("date="):
            try:
                yield date.fromisoformat(entry.name[5:]), Path(entry.path)
            except ValueError:
                continue


def days(root: Path, table: str) -> list[date]:
    """The days a table has a folder for, expired ones too."""
    return [day for day, _ in _days(root, table)]


def present(root: Path, table: str, day: date) -> list[Segment]:
    """Every segment file of a day, hidden ones too, in the order of their ids. Foreign files are passed over."""
    folder = day_folder(root, table, day)
    found: list[Segment] = []
    midnight = day_start_ns(day)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None:
                    if entry.name == EXPIRED:
                        return []
                    continue
                try:
                    size = entry.stat().st_size
                except FileNotFoundError:
                    continue  # superseded and deleted since the listing began
                found.append(
                    Segment(
                        path=Path(entry.path),
                        table=table,
                        date=day,
                        writer=match["writer"],
                        generation=int(match["generation"]),
                        first=int(match["first"]),
                        last=int(match["last"]),
                        first_ns=midnight + int(match["start"]) * 1_000_000,
                        # `to` was rounded down to the millisecond.
                        last_ns=midnight + int(match["end"]) * 1_000_000 + 999_999,
                        repeats=bool(match["repeats"]),
                        bytes=size,
                        packed=bool(match["packed"]),
                    )
                )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(folder, error.strerror or str(error)) from error
    return sorted(found, key=lambda segment: (segment.first, segment.last, segment.rank, segment.writer))


def unfinished(root: Path, table: str, day: date, writer: str) -> list[Path]:
    """The temporary files of *writer* for a day: half files, if it does not run."""
    found = []
    for path in day_folder(root, table, day).glob(".*.tmp"):
        match = _NAME.fullmatch(path.name.removeprefix(".").removesuffix(".tmp"))
        if match is not None and match["writer"] == writer:
            found.append(path)
    return found


def visible(segments: Iterable[Segment]) -> list[Segment]:
    """Those of one day's segments that make up the table now: the ones that no other covers."""
    by_writer: dict[str, list[Segment]] = {}
    for segment in segments:
        by_writer.setdefault(segment.writer, []).append(segment)
    kept: list[Segment] = []
    for group in by_writer.values():
        # A segment can only be hidden by one of more ids or a higher rank, which sorts before it.
        group.sort(key=lambda segment: (segment.last - segment.first, segment.rank), reverse=True)
        tops: list[Segment] = []
        for segment in group:
            if not any(top.covers(segment) for top in tops):
                tops.append(segment)
        kept += tops
    return sorted(kept, key=lambda segment: (segment.first, segment.last, segment.writer))


def segments_of(root: Path, table: str, start_ns: int | None = None, end_ns: int | None = None) -> list[Segment]:
    """The visible segments that may hold a row of [start_ns, end_ns), by day and then by id."""
    found: list[Segment] = []
    for day, _ in _days(root, table):
        midnight = day_start_ns(day)
        if (start_ns is not None and midnight + DAY_NS <= start_ns) or (end_ns is not None and midnight >= end_ns):
            continue
        found += [segment for segment in _visible_of(root, table, day) if segment.overlaps(start_ns, end_ns)]
    return found


def _visible_of(root: Path, table: str, day: date) -> Iterable[Segment]:
    """The visible segments of a day; of one whose folder has not changed they are known."""
    try:
        changed_ns = day_folder(root, table, day).stat().st_ctime_ns
    except OSError:
        return visible(present(root, table, day))  # says what is wrong, or that it is gone
    if time.time_ns() - changed_ns < _SETTLED_NS:
        return visible(present(root, table, day))
    return _settled(root, table, day, changed_ns)


# All tables of a fortnight: to list them is most of what a question to a few rows takes.
@lru_cache(maxsize=512)
def _settled(root: Path, table: str, day: date, _changed_ns: int) -> tuple[Segment, ...]:
    return tuple(visible(present(root, table, day)))


def mark(segments: Iterable[Segment]) -> str:
    """
    What some visible segments hold, as a short text: another when rows came or were replaced, the same after a merge.

    A merged segment ends with the same seal as the last that it was merged from; a part of a job or an import, whose
    ids are no moments, is known by how often it was replaced.
    """
    last: dict[str, int] = {}
    replaced: list[str] = []
    for segment in segments:
        if segment.last >= _MOMENT_MS:
            last[segment.writer] = max(segment.last, last.get(segment.writer, 0))
        else:
            replaced.append(f"{segment.writer}-{segment.generation}-{segment.first}-{segment.last}")
    held = sorted([*replaced, *(f"{writer}-{number}" for writer, number in last.items())])
    return blake2b("\n".join(held).encode(), digest_size=8).hexdigest()


def next_id(root: Path, table: str, writer: str, now_ns: int) -> int:
    """An id above every id that *writer* has used in *table*: the clock's milliseconds, or more if it went back."""
    used = max(
        (
            segment.last
            for day, _ in _days(root, table)
            for segment in present(root, table, day)
            if segment.writer == writer
        ),
        default=0,
    )
    return max(used + 1, now_ns // 1_000_000)
