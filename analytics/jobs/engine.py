"""Where tasks run; tasks and outcomes are plain values, which an engine may carry to another process or machine."""

import atexit
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final, Protocol

import polars as pl

from analytics.frames import PART_ROWS, by_device, nanoseconds, scan
from analytics.jobs.chain import ROLLUPS
from analytics.jobs.job import Job, Window
from collector.errors import NotEnoughData, TelemetryError
from collector.store import Store
from collector.store.segments import day_of

DONE: Final = "done"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """
    One window of one job over one store.

    `before` are fingerprints of what the window gave last, by table. `since_ns` bounds the upkeep of rollups.
    """

    root: str
    job: Job
    window: Window
    documents: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    since_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What became of a task.

    `outputs` are fingerprints of the rows, by table. `blocked`: it was not tried, because what it needs failed.
    """

    job: str
    window: Window
    state: str
    began_ns: int
    took_s: float
    rows: int = 0
    outputs: Mapping[str, str] = field(default_factory=dict)
    changed: bool = False
    error: str | None = None
    blocked: bool = False
    inputs: str = ""


class Engine(Protocol):
    """Runs tasks that do not depend on one another, and gives each outcome as it comes, in any order."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """The outcome of each task."""
        ...


class Local:
    """This process: *workers* tasks at a time."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """The outcome of each task. When the caller leaves, what runs ends and nothing else is begun."""
        todo = iter(tasks)
        with ThreadPoolExecutor(self.workers) as pool:
            running = {pool.submit(perform, task) for task in islice(todo, self.workers)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(perform, task) for task in islice(todo, len(finished))}
                for one in finished:
                    yield one.result()


class Apart:
    """
    A process beside this one, for what would share this one's interpreter with others and so wait for it.

    It begins with the second task: most passes over a store have one window of a job to do, which is done here sooner
    than a process has begun. It ends with this one, however that ends.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._begun = False

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """The outcome of each task."""
        for task in tasks:
            yield self._there(task) if self._begun else perform(task)
            self._begun = True

    def _there(self, task: Task) -> Outcome:
        began_ns, began_s = time.time_ns(), time.perf_counter()
        try:
            self._pool = self._pool or ProcessPoolExecutor(1, get_context("spawn"), _watch_parent)
            return self._pool.submit(perform, task).result()
        except (OSError, ImportError):
            # A container may have no memory to share, or no room for another process: then here.
            return perform(task)
        except BrokenProcessPool:
            self.close()
            return Outcome(
                job=task.job.name,
                window=task.window,
                state=FAILED,
                began_ns=began_ns,
                took_s=time.perf_counter() - began_s,
                error="the process that it ran in was killed; it may have had too little memory",
            )

    def close(self) -> None:
        """End the process, once it has done what it is at."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _watch_parent() -> None:
    """End when the parent does: who is killed tells nobody. An interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    # What it did is in the store; libraries that look for leaks on the way out would tell of this very thread.
    atexit.register(os._exit, 0)


def perform(task: Task) -> Outcome:
    """
    Do a task: read what it needs, compute, put the result in the place of what the window gave before.

    Whatever goes wrong is the outcome, not an exception: other jobs go on.
    """
    began_ns, began_s = time.time_ns(), time.perf_counter()

    def ended(state: str, **values: Any) -> Outcome:
        took_s = time.perf_counter() - began_s
        return Outcome(job=task.job.name, window=task.window, state=state, began_ns=began_ns, took_s=took_s, **values)

    try:
        store = Store(task.root)
        if task.job.name == ROLLUPS:
            pieces = store.roll_up(task.window.now_ns, start_ns=task.since_ns, wait_s=600.0)
            return ended(DONE, rows=pieces, changed=pieces > 0)
        changed, rows, outputs = False, 0, {}
        for table, found in _computed(store, task).items():
            outputs[table] = fingerprint(found)
            rows += found.height
            if outputs[table] != task.before.get(table) or not _there(store, task, table, found):
                _put(store, task, table, found)
                changed = True
        return ended(DONE, rows=rows, outputs=outputs, changed=changed)
    except NotEnoughData as error:
        return ended(SKIPPED, error=str(error))
    except Exception as error:  # noqa: BLE001 (the one place: a job's bug must not end the others')
        return ended(FAILED, error=_told(error))


def fingerprint(frame: pl.DataFrame) -> str:
    """
    A text that is the same for the same rows in any order.

    It holds within one version of polars; after an upgrade what it is compared with is made once more.
    """
    rows = frame.select(sorted(frame.columns)).hash_rows(seed=7)
    # A sum does not depend on the order; it wraps, which does no harm.
    total = int(rows.to_numpy().sum(dtype="uint64")) if frame.height else 0
    return f"{frame.height}-{total:016x}"


def _computed(store: Store, task: Task) -> dict[str, pl.DataFrame]:
    """What the job makes of the window, by table."""
    job, window, function = task.job, task.window, task.job.load()
    needs = {name: _need(name, task) for name in job.needs}
    frames: dict[str, Any] = {item.table: scan(store, item.table, *job.reads(item, window)) for item in job.inputs}
    if job.by_device:
        parted = job.inputs[0]
        rows = job.part_rows or PART_ROWS
        frames[parted.table] = by_device(store, parted.table, *job.reads(parted, window), rows=rows)
    made = function(frames, window, **needs)
    found = dict(made) if job.also else {job.output: made}
    if set(found) != set(job.outputs):
        raise ValueError(f"gives {', '.join(found)}, not {', '.join(job.outputs)}")
    return {table: _within(window, _collected(found[table])) for table in job.outputs}


def _need(name: str, task: Task) -> Any:
    text, path = task.documents.get(name, ""), task.paths.get(name)
    if name == "fleet":
        from analytics.fleet_toml import parse_fleet

        return parse_fleet(text, path=path)
    if name == "rules":
        from analytics.anomalies.rules import parse_rules

        return parse_rules(text, path=path)
    return Path(task.root)


def _collected(found: pl.LazyFrame | pl.DataFrame) -> pl.DataFrame:
    return found.collect() if isinstance(found, pl.LazyFrame) else found


def _within(window: Window, found: pl.DataFrame) -> pl.DataFrame:
    """*found*, if all of it lies within *window*; a row outside would stay when the window is done again."""
    if found.is_empty():
        return found
    first, last = found.select(pl.col("time").min().alias("a"), pl.col("time").max().alias("b")).row(0)
    if first is None or nanoseconds(first) < window.start_ns or nanoseconds(last) >= window.end_ns:
        raise ValueError(f"rows from {first} to {last} are not within the window")
    return found


def _put(store: Store, task: Task, table: str, found: pl.DataFrame) -> None:
    """Make *found* what the window holds. Ids are the window's, so hours stay apart until their day covers them."""
    first, last = (moment // 1_000_000 for moment in (task.window.start_ns, task.window.end_ns))
    day = day_of(task.window.start_ns)
    store.replace(table, task.job.part, found, first=first, last=last - 1, only=[day])


def _there(store: Store, task: Task, table: str, found: pl.DataFrame) -> bool:
    """Whether what the window gave before is still in the store."""
    held = store.segments(table, task.window.start_ns, task.window.end_ns)
    return found.is_empty() or any(segment.writer == task.job.part for segment in held)


def _told(error: Exception) -> str:
    """What went wrong, and for a bug where."""
    text = f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__
    if isinstance(error, TelemetryError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"
