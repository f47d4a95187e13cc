"""
Rollups: what the samples of five minutes, an hour and a day were, so that a year of a fleet answers as fast as a day.

Exact where it matters: energy and counters are summed step by step, resets handled, and shared by time between windows,
so that sums over windows lose nothing between them; the largest and smallest value survive, and percentiles are read
from sketches. Only hours that got new segments are computed again, and computing them twice changes nothing.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collector.store.engine import Engine, as_store_error
from collector.store.files import Files
from collector.store.schema import ROLLUP_TABLES, TABLES
from collector.store.segments import DAY_NS, day_start_ns, days, present, segments_of, visible
from collector.store.table import Table

if TYPE_CHECKING:
    from collector.store.rolling import Last, Rolled, Room

PART = "rollup"
RULES = 3
"""Raised when the same samples give other rollups."""
ROWS = 100_000
"""Rows that are rolled up at once, if they are of more than one subject: more fit no processor's cache."""
_ROOMY = 12
"""So many times as many are read at once where nobody bounded memory."""
_HOUR_NS = 3_600_000_000_000
# A day is folded when what reaches its last hour late, and the first sample of the next day, are there.
_SETTLED_NS = 2 * _HOUR_NS


@dataclass(frozen=True, slots=True)
class Work:
    """
    Hours of a day that follow each other, to be computed from its samples.

    whole: they are one piece, else one each. over: they are a day that is over, of which there is a window, too.
    """

    day: date
    first_hour: int
    last_hour: int
    whole: bool = False
    over: bool = False

    @property
    def start_ns(self) -> int:
        """When the first hour starts."""
        return day_start_ns(self.day) + self.first_hour * _HOUR_NS

    @property
    def end_ns(self) -> int:
        """When the last hour ends."""
        return day_start_ns(self.day) + (self.last_hour + 1) * _HOUR_NS


class Progress:
    """Up to which seal of which writer each day was rolled up, by which rules; else everything is rolled up again."""

    def __init__(self, root: Path, table: str) -> None:
        self.path = root / table / "progress.json"
        self.table = table
        self.done: dict[str, dict[str, int]] = {}
        try:
            kept = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return
        if kept.get("rules") == RULES:
            self.done = kept["done"]

    def save(self, files: Files) -> None:
        """Keep it."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            files.make_folder(self.path.parent)
            temporary.write_text(json.dumps({"rules": RULES, "done": self.done}, sort_keys=True))
            files.commit(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def stale(root: Path, samples: Table, progress: Progress) -> dict[date, set[int]]:
    """
    The hours of *samples* that got segments since they were rolled up, and those on either side.

    The step into an hour is of the hour before it, too, and the step into the next hour begins in it.
    """
    hours: dict[date, set[int]] = {}
    there = days(root, samples.name)
    for day in there:
        done = progress.done.get(day.isoformat(), {})
        for segment in visible(present(root, samples.name, day)):
            if segment.last > done.get(segment.writer, -1):
                start = day_start_ns(day)
                first, last = ((ns - start) // _HOUR_NS for ns in (segment.first_ns, segment.last_ns))
                for hour in range(first - 1, last + 2):
                    on = day + timedelta(days=hour // 24)
                    if on in there:
                        hours.setdefault(on, set()).add(hour % 24)
    return hours


def due(root: Path, samples: Table, progress: Progress, now_ns: int) -> list[Work]:
    """What is to be computed: hours that are `stale`; days that are over, as a whole."""
    hours = stale(root, samples, progress)
    work: list[Work] = []
    for day in days(root, samples.name):
        if not visible(present(root, samples.name, day)):
            continue  # what it was rolled up to is all that there is of it
        pieces = [piece for piece in visible(present(root, progress.table, day)) if piece.writer == PART]
        whole = any(piece.last > piece.first for piece in pieces)
        over = day_start_ns(day) + DAY_NS + _SETTLED_NS <= now_ns
        # A day that is over becomes one piece; so does one that already is: it would hide a piece of an hour.
        if (day in hours and (over or whole)) or (over and pieces and not whole):
            work.append(Work(day, 0, 23, whole=True, over=over))
        else:
            work += [Work(day, first, last) for first, last in _runs(sorted(hours.get(day, ())))]
    return work


def _runs(hours: list[int]) -> list[tuple[int, int]]:
    """The first and the last of *hours* that follow each other."""
    breaks = [at for at, (hour, following) in enumerate(pairwise(hours), 1) if following != hour + 1]
    return [(hours[a], hours[b - 1]) for a, b in pairwise([0, *breaks, len(hours)]) if a < b]


def current(root: Path, samples: Table, start_ns: int | None, end_ns: int | None) -> tuple[int, int] | None:
    """
    The first stretch of whole hours in [start_ns, end_ns) whose rollups hold everything that samples do.

    Days whose samples have expired count, too: there their rollups are all that there is.
    """
    rollups = ROLLUP_TABLES[samples.name]
    pieces = [piece for piece in segments_of(root, rollups.name, start_ns, end_ns) if piece.writer == PART]
    if not pieces:
        return None
    old = [
        day_start_ns(day) + hour * _HOUR_NS
        for day, hours in stale(root, samples, Progress(root, rollups.name)).items()
        for hour in hours
    ]
    first = min(piece.first_ns for piece in pieces) if start_ns is None else -(-start_ns // _HOUR_NS) * _HOUR_NS
    last = max(piece.last_ns for piece in pieces) // _HOUR_NS * _HOUR_NS + _HOUR_NS
    if end_ns is not None:
        last = min(last, end_ns // _HOUR_NS * _HOUR_NS)
    last = min([last, *(ns for ns in old if ns >= first)])
    return (first, last) if first < last else None


def seen(root: Path, samples: Table) -> dict[str, dict[str, int]]:
    """The last seal of each writer, by day, as of now."""
    found: dict[str, dict[str, int]] = {}
    for day in days(root, samples.name):
        for segment in visible(present(root, samples.name, day)):
            last = found.setdefault(day.isoformat(), {})
            last[segment.writer] = max(last.get(segment.writer, -1), segment.last)
    return found


@contextmanager
def rolled(
    engine: Engine, root: Path, samples: Table, work: Work, room: "Room", last: "Last | None", *, carry: bool
) -> Iterator[tuple["Rolled", "Last | None"]]:
    """The rollups that *work* asks for; what was read last `before` it, if that is known, and with *carry* in it."""
    from collector.store.rolling import Spill, Stretch, roll

    scratch = root / f".spill-rolled.{os.getpid()}.{threading.get_ident()}"
    scratch.mkdir()
    try:
        roomy = _ROOMY if engine.memory is None else 1
        with closing(Spill(scratch)) as spill:
            stretch = Stretch(engine, root, samples, work.start_ns, work.end_ns, ROWS, roomy)
            yield roll(stretch, spill, room, last, day=work.over, carry=carry)
    finally:
        shutil.rmtree(scratch)


def roll_up(store: Any, engine: Engine, now_ns: int, start_ns: int | None = None) -> int:
    """
    Bring the rollups of every table that has some up to date; gives the number of pieces written.

    With *start_ns* only those of days that end after it.

    Raises: StoreError.
    """
    # Not above: numpy is needed by whoever rolls up, and would be half of an agent.
    from collector.store.rolling import Room

    written, room = 0, Room()
    for name, rollups in ROLLUP_TABLES.items():
        samples = TABLES[name]
        progress = Progress(store.root, rollups.name)
        reached = {
            day: last
            for day, last in seen(store.root, samples).items()
            if start_ns is None or day_start_ns(date.fromisoformat(day)) + DAY_NS > start_ns
        }
        with as_store_error(store.root / rollups.name):
            todo = [work for work in due(store.root, samples, progress, now_ns) if work.day.isoformat() in reached]
            last: Last | None = None
            for number, work in enumerate(todo, 1):
                carry = number < len(todo) and todo[number].start_ns == work.end_ns
                with rolled(engine, store.root, samples, work, room, last, carry=carry) as (found, last):
                    written += _replaced(store, rollups, work, found)
            # What is no longer there is forgotten; what had to wait is as it was.
            done = reached if start_ns is None else progress.done | reached
            if done != progress.done:
                progress.done = done
                progress.save(store.files)
    return written


def _replaced(store: Any, rollups: Table, work: Work, found: "Rolled") -> int:
    """Put *found* in the place of what there was; gives the number of pieces."""
    if work.whole:
        pieces = [((work.first_hour, work.last_hour), found)]
    else:
        hours = range(work.first_hour, work.last_hour + 1)
        pieces = [((hour, hour), found.of_hour(day_start_ns(work.day) + hour * _HOUR_NS)) for hour in hours]
    # Where nothing was measured there is nothing to be replaced either: samples are never taken away from a day.
    pieces = [(hours, some) for hours, some in pieces if some.time.size]
    for (first, last), some in pieces:
        store.replace(rollups.name, PART, some, first=first, last=last, only=[work.day])
    return len(pieces)
