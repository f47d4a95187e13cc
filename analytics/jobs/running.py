"""Runs what is due, job after job: what fails is told and kept apart, what was done stays done."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl

from analytics.anomalies.rules import parse_rules
from analytics.fleet_toml import parse_fleet
from analytics.frames import latest
from analytics.jobs.chain import JOBS, ROLLUPS
from analytics.jobs.engine import FAILED, SKIPPED, Engine, Local, Outcome, Task
from analytics.jobs.job import DAY_NS, NS, Job, Jobs, Window, closure, upstream
from analytics.jobs.progress import Done, Marks, State, digest
from collector.errors import ConfigError
from collector.store import Store
from collector.store.files import WriterLock

WRITER: Final = "jobs"
LOCK: Final = "jobs.all"
"""Who holds this name runs jobs; two at once would do the same twice."""

Tell = Callable[[Outcome, int, int], None]
"""Is told of each outcome: the how-manieth of how many windows of its job it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The files that people keep beside the data, fleet.toml and rules.toml: their texts, and where they are."""

    texts: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, **given: Path | None) -> "Documents":
        """
        What is *given* by name (``fleet``, ``rules``), else what is in the store's folder; what is not there is empty.

        Raises: ConfigError.
        """
        texts, paths = {}, {}
        for name, file in given.items():
            path = file or root / f"{name}.toml"
            if file is None and not path.exists():
                continue
            try:
                texts[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{name}.toml", f"cannot be read: {error}", path=path) from error
            paths[name] = str(path)
        parse_fleet(texts.get("fleet", ""), path=paths.get("fleet"))
        parse_rules(texts.get("rules", ""), path=paths.get("rules"))
        return cls(texts=texts, paths=paths)


def run(
    root: Path | str,
    *,
    names: Sequence[str] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
    force: bool = False,
    documents: Documents | None = None,
    jobs: Jobs = JOBS,
    engine: Engine | None = None,
    apart: Engine | None = None,
    now_ns: int | None = None,
    tell: Tell | None = None,
    at_once: int = 1,
) -> list[Outcome]:
    """
    Do what is due of the jobs *names* and of all that they need, in windows that overlap [start_ns, end_ns).

    Jobs that do not wait for one another run side by side, *at_once* of them; *tell* is called for one at a time. Those
    whose windows wait for one another run *apart*, so that no other holds them up; by default all in one *engine*. With
    *force* also what is not due of those named. Gives the outcome of every window that was due, in the order they
    came: a job that failed is an outcome, and so is what was skipped because of it. The table job_runs keeps them.

    Raises: KeyError (no job of that name), StoreError, StoreBusy (another process is running jobs).
    """
    chain = _Chain(
        Store(root),
        closure(tuple(names), jobs),
        engine or Local(),
        apart or engine or Local(),
        documents or Documents(),
        time.time_ns() if now_ns is None else now_ns,
        tell or (lambda *_: None),
    )
    forced = frozenset(names or (job.name for job in chain.jobs)) if force else frozenset[str]()
    with WriterLock(chain.store.root, LOCK):
        return chain.run(start_ns, end_ns, forced, at_once)


class _Chain:
    """One run over the chain."""

    def __init__(
        self, store: Store, jobs: Jobs, engine: Engine, apart: Engine, documents: Documents, now_ns: int, tell: Tell
    ) -> None:
        self.store = store
        self.jobs = jobs
        self.engine = engine
        self.apart = apart
        self.documents = documents
        self.now_ns = now_ns
        self.tell = tell
        self.state = State(store, jobs, now_ns, documents.texts)
        self.outcomes: list[Outcome] = []
        self._lock = threading.Lock()  # of outcomes, of telling and of keeping them
        self._stopped = threading.Event()

    def run(self, start_ns: int | None, end_ns: int | None, forced: frozenset[str], at_once: int = 1) -> list[Outcome]:
        waiting, running = list(self.jobs), dict[Future[None], Job]()
        with ThreadPoolExecutor(at_once) as pool:
            try:
                while waiting or running:
                    for job in self._next(waiting, list(running.values()), at_once):
                        waiting.remove(job)
                        running[pool.submit(self._job, job, start_ns, end_ns, force=job.name in forced)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        del running[future]
                        future.result()
            finally:
                # Interrupted, or a job's outcomes could not be kept: the others end with the window they are at.
                self._stopped.set()
        return self.outcomes

    @staticmethod
    def _next(waiting: Sequence[Job], running: Sequence[Job], at_once: int) -> list[Job]:
        """
        The jobs to begin now.

        Rollups leave little of the processors, and what takes longest waits for them: beside them there is room for
        what does its last window only. Of others those go first whose windows wait for one another, because they keep
        one core busy at most.
        """
        ready = [job for job in waiting if not upstream(job, (*waiting, *running))]
        if any(job.name == ROLLUPS for job in (*running, *ready)):
            ready = [job for job in ready if job.name == ROLLUPS or job.only_last]
        if at_once > 1:
            ready.sort(key=lambda job: (job.name != ROLLUPS, not job.in_order))
        return ready[: at_once - len(running)]

    def _job(self, job: Job, start_ns: int | None, end_ns: int | None, *, force: bool) -> None:
        try:
            if job.name == ROLLUPS:
                self._roll_up(job, start_ns)
                return
            windows = self.state.windows(job, start_ns, end_ns)
            # A window that goes on from the one before can only be looked at when that is done.
            for some in [[window] for window in windows] if job.in_order else [windows]:
                self._run(job, some, force=force)
        finally:
            with self._lock:
                record(self.store, [outcome for outcome in self.outcomes if outcome.job == job.name])

    def _roll_up(self, job: Job, start_ns: int | None) -> None:
        today_ns = self.now_ns // DAY_NS * DAY_NS
        task = replace(self._task(job, Window(today_ns, today_ns + DAY_NS, self.now_ns)), since_ns=start_ns)
        for outcome in self.engine.run([task]):
            # That nothing had to be rolled up is no news.
            if outcome.rows or outcome.state == FAILED:
                self._took(outcome, {}, 1, 1)

    def _run(self, job: Job, windows: Sequence[Window], *, force: bool) -> None:
        todo: dict[Window, Marks] = {}
        for window in windows:
            marks = self.state.due(job, window)
            if marks is None and force:
                marks = self.state.marks(job, window)
            if marks is None:
                continue
            if (reason := self._blocked(job, window)) is not None:
                self._took(_blocked(job, window, reason), marks, 1, 1)
            else:
                todo[window] = marks
        tasks = [self._task(job, window) for window in todo]
        if self._stopped.is_set():
            return
        engine = self.apart if job.in_order else self.engine
        for number, outcome in enumerate(engine.run(tasks), 1):
            self._took(outcome, todo[outcome.window], number, len(tasks))
            if self._stopped.is_set():
                return

    def _task(self, job: Job, window: Window) -> Task:
        done = self.state.progress[job.name].windows.get(window.start_ns)
        return Task(
            root=str(self.store.root),
            job=job,
            window=window,
            documents={name: self.documents.texts[name] for name in job.needs if name in self.documents.texts},
            paths=self.documents.paths,
            before=done.outputs if done is not None and done.end_ns == window.end_ns else {},
        )

    def _blocked(self, job: Job, window: Window) -> str | None:
        """Why *window* cannot be done: what it needs failed, or was skipped for that reason itself."""
        with self._lock:
            outcomes = list(self.outcomes)
        for outcome in outcomes:
            if outcome.state != FAILED and not outcome.blocked:
                continue
            if outcome.job == job.name:
                if job.in_order and outcome.window.end_ns <= window.start_ns:
                    return f"goes on from {_day(outcome.window)}, which {_WHAT[outcome.state]}"
                continue
            outputs = self._outputs(outcome.job)
            for item in job.inputs:
                start_ns, end_ns = item.depends(window)
                meets = outcome.window.start_ns < end_ns and outcome.window.end_ns > start_ns
                if item.needed and item.table in outputs and (meets or outcome.job == ROLLUPS):
                    return f"needs {outcome.job} of {_day(outcome.window)}, which {_WHAT[outcome.state]}"
        return None

    def _took(self, outcome: Outcome, marks: Marks, number: int, of: int) -> None:
        with self._lock:
            self.outcomes.append(replace(outcome, inputs=digest(json.dumps(marks, sort_keys=True))))
            self.tell(outcome, number, of)
        if outcome.job == ROLLUPS or outcome.state == FAILED or outcome.blocked:
            return
        progress = self.state.progress[outcome.job]
        known = progress.windows.get(outcome.window.start_ns)
        # Without enough data what was made before stays, until more comes in.
        made: Mapping[str, str] = known.outputs if outcome.state == SKIPPED and known else outcome.outputs
        outputs = {table: made.get(table, "") for table in self._outputs(outcome.job)}
        window, rows = outcome.window, outcome.rows
        progress.take(Done(window.start_ns, window.end_ns, marks, outputs, rows, self.now_ns), self.store.files)

    def _outputs(self, name: str) -> tuple[str, ...]:
        return next(job.outputs for job in self.jobs if job.name == name)


_WHAT: Final = {FAILED: "failed", SKIPPED: "was skipped"}


def _day(window: Window) -> str:
    return f"{datetime.fromtimestamp(window.start_ns // NS, UTC):%Y-%m-%d %H:%M}"


def _blocked(job: Job, window: Window, reason: str) -> Outcome:
    now_ns = time.time_ns()
    return Outcome(job=job.name, window=window, state=SKIPPED, began_ns=now_ns, took_s=0.0, error=reason, blocked=True)


def record(store: Store, outcomes: Sequence[Outcome]) -> None:
    """
    Keep outcomes in the table job_runs.

    Raises: StoreError.
    """
    if not outcomes:
        return
    columns = {
        "job": [outcome.job for outcome in outcomes],
        "start": [outcome.window.start_ns for outcome in outcomes],
        "time": [outcome.began_ns for outcome in outcomes],
        "end": [outcome.window.end_ns for outcome in outcomes],
        "state": [outcome.state for outcome in outcomes],
        "took_s": [outcome.took_s for outcome in outcomes],
        "rows": [outcome.rows for outcome in outcomes],
        "changed": [outcome.changed for outcome in outcomes],
        "error": [outcome.error for outcome in outcomes],
        "inputs": [outcome.inputs for outcome in outcomes],
    }
    store.write("job_runs", columns, writer=WRITER)


# ------------------------------------------------------------------------------------------------------------- status

STATUS: Final = pl.Schema(
    {
        "job": pl.String(), "table": pl.String(), "state": pl.String(), "done": pl.Int64(), "due": pl.Int64(),
        "failed": pl.Int64(), "oldest_due": pl.Datetime("ns"), "last_success": pl.Datetime("ns"),
        "age_s": pl.Float64(), "took_s": pl.Float64(), "rows": pl.Int64(), "error": pl.String(),
    }
)  # fmt: skip


def status(
    root: Path | str, *, documents: Documents | None = None, jobs: Jobs = JOBS, now_ns: int | None = None
) -> pl.DataFrame:
    """
    How each job stands, in the order in which they run.

    Out: job, table, state (``failed``: the last run of some window failed; ``due``; ``waiting``: for enough data;
    ``done``; ``empty``: nothing to do), done, due, failed (windows), oldest_due (start of the oldest window that is
    due), last_success (when its last good run was), age_s (since then), took_s, rows (of its last run), error (of the
    last failure that stands, or what it waits for). What is due is told of the inputs as they are: what a job that is
    due itself will bring is not known yet.

    Raises: StoreError.
    """
    store, now_ns = Store(root), time.time_ns() if now_ns is None else now_ns
    chain = closure((), jobs)
    state = State(store, chain, now_ns, (documents or Documents()).texts)
    runs = latest(store, "job_runs").sort("time").collect()
    rows = [_standing(job, state, runs.filter(pl.col("job") == job.name)) for job in chain]
    return pl.DataFrame(rows, schema=STATUS, orient="row")


def _standing(job: Job, state: State, runs: pl.DataFrame) -> tuple[object, ...]:
    windows = state.windows(job)
    done = state.progress[job.name].windows
    good = runs.filter(pl.col("state") != FAILED)["time"].to_physical().to_list()
    failed = runs.filter(pl.col("state") == FAILED)
    if job.name == ROLLUPS:
        # It knows itself what is due; a later good run mends all that failed.
        due, last_ns = [], max(good, default=None)
        failed = failed.filter(pl.col("time").to_physical() > (last_ns or 0))
        count = len(good)
    else:
        due = [window for window in windows if state.due(job, window) is not None]
        last_ns = max((one.at_ns for one in done.values()), default=None)
        # What failed in a window that there is no more (it expired, or is part of a day now) stands no longer.
        failed = failed.filter(pl.col("start").to_physical().is_in([window.start_ns for window in due]))
        count = len(done)
    word = "failed" if failed.height else "due" if due else "done" if count else "empty"
    last = runs.tail(1)
    error = failed["error"].last()
    if word == "done" and last["state"].first() == SKIPPED:
        word, error = "waiting", last["error"].first()
    return (
        job.name, job.output, word, count, len(due), failed.height, due[0].start_ns if due else None, last_ns,
        None if last_ns is None else (state.now_ns - last_ns) / NS, last["took_s"].first(), last["rows"].first(),
        error,
    )  # fmt: skip
