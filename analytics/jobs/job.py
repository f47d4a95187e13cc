"""What a job is; nothing here reads, writes or imports what a job needs."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

NS: Final = 1_000_000_000
HOUR_NS: Final = 3600 * NS
DAY_NS: Final = 24 * HOUR_NS

Every = Literal["hour", "day"]
NEEDS: Final = ("fleet", "rules", "root")


@dataclass(frozen=True, slots=True)
class Window:
    """
    What one run of a job is about: [start_ns, end_ns), within one day of UTC.

    `now_ns` is the moment of the run: nothing later is known, so a window may be only partly over.
    """

    start_ns: int
    end_ns: int
    now_ns: int

    @property
    def until_ns(self) -> int:
        """The end of what can be known of the window."""
        return min(self.end_ns, self.now_ns)


@dataclass(frozen=True, slots=True)
class Input:
    """
    A table that a job reads, from `look_back_s` before its window to `look_ahead_s` after.

    Rows that come to that stretch make the window due again. With a look_back_s of None the job reads everything before
    the window's end, and only rows of the window itself make it due: for what changes seldom and holds for long. What
    is not `needed` is read as it is where it could not be made.
    """

    table: str
    look_back_s: float | None = 0.0
    look_ahead_s: float = 0.0
    needed: bool = True

    def reads(self, window: Window) -> tuple[int | None, int]:
        """From when until when rows are read."""
        end_ns = window.end_ns + round(self.look_ahead_s * NS)
        return None if self.look_back_s is None else window.start_ns - round(self.look_back_s * NS), end_ns

    def depends(self, window: Window) -> tuple[int, int]:
        """From when until when rows make *window* due."""
        start_ns, end_ns = self.reads(window)
        return window.start_ns if start_ns is None else start_ns, end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    A job: a pure function from the rows of some tables in a window to the rows of one in that window, or of several.

    `function` is where it is, ``"analytics.jobs.functions:energy"``; it is imported when it is first run, and called as
    ``function(frames, window, **needs)`` with a LazyFrame for each input, by table. It gives a frame with some or all
    of `output`'s columns and `time` within the window; where there are further tables, `also`, it gives a frame of each
    by its name. The first input tells which windows there are. `every` is how long they are while a day is running; a
    day that is over is one window.

    `needs` are what it takes besides: ``fleet`` (an `analytics.fleet.Fleet`), ``rules`` (an
    `analytics.anomalies.rules.Rules`; a change of either file makes every window due), and ``root``, the store's
    folder, for who keeps models there. With `by_device` the first input comes as a list of LazyFrames that hold devices
    whole (see `analytics.frames.by_device`), which bounds memory: of about `part_rows` rows, if it tells. `always`:
    there is something to find also where nothing came in, so windows go on until a day after the last row. `only_last`:
    it tells how things stand, so only the last window is done. A window is done again no sooner than `rest_s` after it
    was done last; where only the last is done, the next day's waits so long, too.
    """

    name: str
    function: str
    inputs: tuple[Input, ...]
    output: str
    every: Every = "day"
    needs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    by_device: bool = False
    part_rows: int | None = None
    always: bool = False
    only_last: bool = False
    rest_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.inputs or not set(self.needs) <= set(NEEDS):
            raise ValueError(f"job {self.name}: inputs {self.inputs}, needs {self.needs} of {NEEDS}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tables that come of it."""
        return (self.output, *self.also)

    @property
    def part(self) -> str:
        """What its segments are called in the output's table."""
        return f"job.{self.name}"

    @property
    def in_order(self) -> bool:
        """Whether a window goes on from the one before: the job reads what it wrote itself."""
        return any(item.table in self.outputs for item in self.inputs)

    def reads(self, item: Input, window: Window) -> tuple[int | None, int]:
        """From when until when rows of an input are read; of what the job wrote itself, up to the window only."""
        start_ns, end_ns = item.reads(window)
        return start_ns, window.start_ns if item.table in self.outputs else end_ns

    def load(self) -> Callable[..., Any]:
        """The function."""
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


Jobs = tuple[Job, ...]


def upstream(job: Job, jobs: Jobs, *, needed: bool = False) -> Jobs:
    """The other jobs whose output *job* reads, or only those that it cannot do without."""
    tables = {item.table for item in job.inputs if item.needed or not needed}
    return tuple(other for other in jobs if tables.intersection(other.outputs) and other.name != job.name)


def in_sequence(jobs: Jobs) -> Jobs:
    """
    *jobs* so that each comes after those whose output it reads.

    Raises: ValueError when they wait for each other in a circle or two have the same name.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError(f"jobs of the same name: {', '.join(job.name for job in jobs)}")
    ordered: list[Job] = []
    left = list(jobs)
    while left:
        ready = [job for job in left if not upstream(job, tuple(left))]
        if not ready:
            raise ValueError(f"jobs that wait for each other: {', '.join(job.name for job in left)}")
        ordered += ready
        left = [job for job in left if job not in ready]
    return tuple(ordered)


def closure(names: tuple[str, ...], jobs: Jobs) -> Jobs:
    """
    The jobs of these *names* and all that they need, in sequence; all jobs, if no name is given.

    Raises: KeyError with a name that is none.
    """
    by_name = {job.name: job for job in jobs}
    wanted = {name: by_name[name] for name in names} if names else by_name
    while True:
        more = {other.name: other for job in wanted.values() for other in upstream(job, jobs, needed=True)}
        if more.keys() <= wanted.keys():
            return tuple(job for job in in_sequence(jobs) if job.name in wanted)
        wanted = {**wanted, **more}
