"""
What was done from what: for each window of a job, marks of the rows that went in and of those that came out.

A window is due when it was never done, or when something it depends on is other than it was. What is no longer there
(days that expired) is no change: what was made of it stays.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

from analytics.jobs.job import DAY_NS, HOUR_NS, NS, Job, Jobs, Window
from collector.store import Segment, Store
from collector.store.derived import JOB_RUNS
from collector.store.files import FILES, Files
from collector.store.schema import ROLLUP_TABLES
from collector.store.segments import day_of, day_start_ns, mark

Marks = dict[str, str]
"""What goes into a window: a mark for each day of a table that was measured, each window of a table that a job made."""

_SAMPLES_OF = {rollups.name: samples for samples, rollups in ROLLUP_TABLES.items()}


@dataclass(frozen=True, slots=True)
class Done:
    """A window as it was last done: what went in, a fingerprint of what came out for each table, and when."""

    start_ns: int
    end_ns: int
    inputs: Marks
    outputs: Marks
    rows: int
    at_ns: int


@dataclass
class Progress:
    """The windows of a job that are done, by start; kept in a file beside the runs."""

    path: Path
    windows: dict[int, Done] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, job: Job) -> "Progress":
        """What is known of *job*; without its file nothing is, and everything is done again."""
        path = store.root / JOB_RUNS.name / f"{job.name}.json"
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, {one["start_ns"]: Done(**one) for one in listed})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return cls(path)

    def take(self, done: Done, files: Files = FILES) -> None:
        """Keep that a window is done; windows that lie within it are part of it now."""
        within = [start for start, w in self.windows.items() if done.start_ns <= start and w.end_ns <= done.end_ns]
        for start in within:
            del self.windows[start]
        self.windows[done.start_ns] = done
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            files.make_folder(self.path.parent)
            listed = [asdict(self.windows[start]) for start in sorted(self.windows)]
            temporary.write_text(json.dumps(listed), encoding="utf-8")
            files.commit(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def between(self, start_ns: int, end_ns: int) -> Iterator[Done]:
        """The windows that are done and overlap [start_ns, end_ns)."""
        for done in self.windows.values():
            if done.start_ns < end_ns and done.end_ns > start_ns:
                yield done


class State:
    """What the store holds at one moment, and what was done: enough to tell what is due."""

    def __init__(self, store: Store, jobs: Jobs, now_ns: int, documents: Mapping[str, str]) -> None:
        self.store = store
        self.jobs = jobs
        self.now_ns = now_ns
        self.progress = {job.name: Progress.of(store, job) for job in jobs}
        self._documents = {name: digest(text) for name, text in documents.items()}
        tables = {item.table for job in jobs for item in job.inputs} - set(self._makers)
        # Before anything runs: what comes in meanwhile may be read, but counts as news to the next run.
        self._measured = {name: self._by_day(name) for name in {_SAMPLES_OF.get(table, table) for table in tables}}

    @cached_property
    def _makers(self) -> dict[str, list[Job]]:
        """The jobs that make a table. Rollups are known by the samples that they are of."""
        made: dict[str, list[Job]] = {}
        for job in self.jobs:
            for table in set(job.outputs) - set(_SAMPLES_OF):
                made.setdefault(table, []).append(job)
        return made

    def windows(self, job: Job, start_ns: int | None = None, end_ns: int | None = None) -> list[Window]:
        """The windows of *job* that overlap [start_ns, end_ns), whether due or not, in order."""
        fed, found = self._fed(job), []
        for day in self._days(job):
            first_ns = day_start_ns(day)
            if job.every == "hour" and first_ns + DAY_NS > self.now_ns:
                parts = [Window(start, end, self.now_ns) for start, end in self._parts(job, first_ns)]
                found += [part for part in parts if any(s < part.end_ns and e > part.start_ns for s, e in fed)]
            else:
                found.append(Window(first_ns, first_ns + DAY_NS, self.now_ns))
        if job.only_last:
            found = found[-1:]
        return [
            window
            for window in found
            if (start_ns is None or window.end_ns > start_ns) and (end_ns is None or window.start_ns < end_ns)
        ]

    def _parts(self, job: Job, first_ns: int) -> list[tuple[int, int]]:
        """
        A day that is not over in parts: those that were done, what was left out between them, the hour that is running.

        So a day that was not looked at for hours is caught up with at once and not hour by hour.
        """
        running_ns = self.now_ns // HOUR_NS * HOUR_NS
        edges = {first_ns, running_ns, running_ns + HOUR_NS}
        for done in self.progress[job.name].between(first_ns, running_ns):
            edges |= {done.start_ns, done.end_ns}
        ordered = sorted(edge for edge in edges if edge >= first_ns)
        return list(pairwise(ordered))

    def due(self, job: Job, window: Window) -> Marks | None:
        """The marks of what goes into *window*, if it is to be done; None if that is done already."""
        marks = self.marks(job, window)
        windows = self.progress[job.name].windows
        done = windows.get(window.start_ns)
        if job.only_last and done is None:
            # It told how things stand a moment ago, on the day before.
            last_ns = max((one.at_ns for one in windows.values()), default=self.now_ns - round(job.rest_s * NS))
            if 0 <= self.now_ns - last_ns < job.rest_s * NS:
                return None
        if done is None or done.end_ns != window.end_ns:
            return marks
        if 0 <= self.now_ns - done.at_ns < job.rest_s * NS:
            return None
        # While it runs, the passing of time is news to a job that looks for what did not come.
        if job.always and window.end_ns > self.now_ns and done.at_ns < self.now_ns:
            return marks
        return marks if any(done.inputs.get(key) != value for key, value in marks.items()) else None

    def marks(self, job: Job, window: Window) -> Marks:
        """What goes into *window* now."""
        found = {name: digest for name, digest in self._documents.items() if name in job.needs}
        for item in job.inputs:
            start_ns, end_ns = item.depends(window)
            if item.table in job.outputs:
                found |= self._before(job, window, item.table)
            for maker in self._makers.get(item.table, ()):
                if maker is not job:
                    windows = self.progress[maker.name].between(start_ns, end_ns)
                    found |= {f"{item.table} of {maker.name}/{d.start_ns}": d.outputs[item.table] for d in windows}
            if item.table not in self._makers:
                for day, segments in self._measured[_SAMPLES_OF.get(item.table, item.table)].items():
                    inside = [segment for segment in segments if segment.overlaps(start_ns, end_ns)]
                    if inside:
                        found[f"{item.table}/{day}"] = mark(inside)
        return found

    def _before(self, job: Job, window: Window, table: str) -> Marks:
        """Of a job that goes on from the window before: that window."""
        earlier = [done for done in self.progress[job.name].windows.values() if done.end_ns <= window.start_ns]
        last = max(earlier, key=lambda done: done.start_ns, default=None)
        return {} if last is None else {f"{table} before": last.outputs[table]}

    def _days(self, job: Job) -> list[date]:
        """The days in which there is something to do: those of the first input, and for some jobs the day after."""
        days = {day_of(start_ns) for start_ns, _ in self._fed(job)}
        if job.always and days:
            days.add(max(days) + timedelta(days=1))
        return sorted(day for day in days if day_start_ns(day) < self.now_ns)

    def _fed(self, job: Job) -> list[tuple[int, int]]:
        """The stretches for which the first input of *job* has something, each within a day."""
        table = job.inputs[0].table
        if table in self._makers:
            made = (self.progress[maker.name].windows.values() for maker in self._makers[table])
            return [(done.start_ns, done.end_ns) for windows in made for done in windows]
        return [(s.first_ns, s.last_ns + 1) for segments in self._by_day(table).values() for s in segments]

    def _by_day(self, table: str) -> dict[date, list[Segment]]:
        found: dict[date, list[Segment]] = {}
        for segment in self.store.segments(table):
            found.setdefault(segment.date, []).append(segment)
        return found


def digest(text: str) -> str:
    """A short fingerprint of a text."""
    return blake2b(text.encode(), digest_size=8).hexdigest()
