"""Tables that jobs make: whether they are there, since when nothing was added, and which command works them out."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import polars as pl

from analytics.frames import scan
from analytics.jobs.chain import JOBS
from analytics.jobs.engine import DONE
from dashboards.data.stored import NS, Stored, utc
from dashboards.words import length, when

OLD_S: Final = 3 * 3600
"""How much later readings may be than the job, before its table is said to be old."""
_SLOW_OLD_S: Final = 24 * 3600
"""The same of jobs that rest for hours between two runs."""

State = Literal["made", "old", "failed", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a table stands: when the job that makes it last ended well, and what went wrong since."""

    table: str
    job: str
    state: State
    at: datetime | None = None
    behind_s: float = 0.0
    """How much later the newest reading is."""
    error: str = ""

    @property
    def command(self) -> str:
        """What makes the table anew."""
        return f"perfwatt jobs run {self.job}"

    @property
    def says(self) -> str:
        """What is to be known of it, in a sentence that the command follows; empty where all is well."""
        if self.state == "never":
            return "Not worked out yet. What does it:"
        if self.state == "failed":
            return f"Could not be worked out: {self.error}. What tries again:"
        if self.state == "old":
            return (
                f"As of {when(self.at)}; readings came in for {_about(self.behind_s)} since. What brings it up to date:"
            )
        return ""


def standing(stored: Stored, table: str) -> Standing:
    """
    How *table* stands.

    Raises: StoreError, KeyError (no job makes it).
    """
    job = next(job for job in JOBS if table in job.outputs)
    key = ("standing", table, stored.version(("<job_runs",), None, None), stored.newest_ns())
    return stored.kept(key, lambda: _standing(stored, table, job.name, _SLOW_OLD_S if job.rest_s else OLD_S))


def _standing(stored: Stored, table: str, job: str, old_s: int) -> Standing:
    runs = scan(stored.store(), "job_runs").filter(pl.col("job") == job).select("time", "state", "error").collect()
    if runs.is_empty():
        return Standing(table=table, job=job, state="never")
    runs = runs.sort("time")
    last, done = runs.row(-1, named=True), runs.filter(pl.col("state") == DONE)
    if last["state"] != DONE:
        at = utc(int(done["time"].cast(pl.Int64)[-1])) if done.height else None
        return Standing(table=table, job=job, state="failed", at=at, error=str(last["error"] or "no reason was given"))
    at_ns, newest_ns = int(done["time"].cast(pl.Int64)[-1]), stored.newest_ns() or 0
    behind_s = (newest_ns - at_ns) / NS
    state: State = "old" if behind_s > old_s else "made"
    return Standing(table=table, job=job, state=state, at=utc(at_ns), behind_s=max(0.0, behind_s))


def _about(seconds: float) -> str:
    return length(round(seconds / 3600) * 3600) if seconds < 2 * 86_400 else length(round(seconds / 86_400) * 86_400)
