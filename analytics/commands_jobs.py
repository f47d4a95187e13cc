"""The commands of the jobs: run, list, status."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collector.errors import ConfigError, TelemetryError
from collector.options import (
    AT_FAULT,
    CheckOption,
    ConfigOption,
    FileOption,
    LimitOption,
    OutputOption,
    QuietOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
    give,
    request,
    say,
    store_root,
    warn,
)
from collector.output import Field, Format

if TYPE_CHECKING:
    from analytics.jobs.engine import Outcome
    from analytics.jobs.running import Documents

app = typer.Typer(name="jobs", help="Turn what was measured into what it means.", rich_markup_mode=None)

FleetFile = Annotated[
    Path | None, typer.Option("--fleet", metavar="FILE", help="The fleet; else fleet.toml in the store's folder.")
]
RulesFile = Annotated[
    Path | None,
    typer.Option("--rules", metavar="FILE", help="Rules of incidents besides the built-in; else rules.toml there."),
]


@app.command()
def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Jobs; what they need runs too.")
    ] = None,
    store: StoreOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    force: Annotated[bool, typer.Option("--force", help="Also what is not due of the jobs named.")] = False,
    watch: Annotated[
        float | None, typer.Option("--watch", metavar="SECONDS", min=1, help="Go on, every so many seconds.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Windows of a job at a time.")] = 1,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, max=8, help="Jobs at a time, of those that need not wait for another.")
    ] = 2,
    alertmanager: Annotated[
        list[str] | None,
        typer.Option("--alertmanager", metavar="URL", help="Hand incidents over there, as `incidents push` does."),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", metavar="FILE", help="Write how jobs stand for node_exporter's textfile collector."),
    ] = None,
    fleet: FleetFile = None,
    rules: RulesFile = None,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    Run what is due: windows whose inputs got new rows since they were last done.

    It may be killed at any moment and goes on where it was. A job that fails is told and kept in the table job_runs;
    jobs that need it are skipped, the others run, and the exit code is 1. With --watch failures do not end it.
    """
    from analytics.jobs.chain import JOBS

    known = [job.name for job in JOBS]
    for name in names or ():
        if name not in known:
            raise ConfigError("NAME", f"{name!r} is no job; there are {', '.join(known)}")
    asked, root = request(output, file, limit, since, until, tz), store_root(store)

    def once() -> "list[Outcome]":
        from analytics.jobs.engine import Apart, Local
        from analytics.jobs.running import run as run_jobs

        documents = _documents(root, fleet, rules)
        with closing(Apart()) as apart:
            outcomes = run_jobs(
                root,
                names=names or (),
                start_ns=asked.start_ns,
                end_ns=asked.end_ns,
                force=force,
                documents=documents,
                engine=Local(workers),
                apart=apart if at_once > 1 else None,
                tell=_tell,
                at_once=at_once,
            )
        _pass_on(root, documents, metrics, alertmanager or ())
        return outcomes

    while watch is not None:
        began_s = time.monotonic()
        try:
            once()
        except TelemetryError as error:
            warn(f"perfwatt: {error}")
        time.sleep(max(0.0, began_s + watch - time.monotonic()))
    outcomes = once()
    give("jobs.run", [Field(name, kind) for name, kind in _RUN], (_row(one) for one in outcomes), asked, check)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(AT_FAULT)


@app.command("list")
def list_jobs(
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """List the jobs in the order in which they run: what they read, how far around their window, what they write."""
    from analytics.jobs.chain import JOBS
    from analytics.jobs.job import in_sequence

    fields = [Field(name) for name in ("job", "table", "window", "inputs", "needs")]
    rows = (
        (
            job.name,
            " ".join([job.output, *job.also]),
            job.every,
            " ".join(item.table + _reach(item.look_back_s, item.look_ahead_s) for item in job.inputs),
            " ".join(job.needs) or None,
        )
        for job in in_sequence(JOBS)
    )
    give("jobs", fields, rows, request(output, file, limit, None, None, "UTC"), None)


@app.command()
def status(
    store: StoreOption = None,
    fleet: FleetFile = None,
    rules: RulesFile = None,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    tz: TzOption = "UTC",
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """Tell how each job stands: windows done, due and failed, when it last ran well, and why it failed."""
    from analytics.commands import answer
    from analytics.jobs.running import status as status_of

    asked, root = request(output, file, limit, None, None, tz), store_root(store)
    answer("jobs.status", status_of(root, documents=_documents(root, fleet, rules)).lazy(), asked, check)


# ----------------------------------------------------------------------------------------------------- what they share

_RUN = (
    ("job", "VARCHAR"), ("start", "TIMESTAMP_NS"), ("end", "TIMESTAMP_NS"), ("state", "VARCHAR"), ("rows", "BIGINT"),
    ("changed", "BOOLEAN"), ("took_s", "DOUBLE"), ("error", "VARCHAR"),
)  # fmt: skip


def _row(outcome: "Outcome") -> tuple[object, ...]:
    window = outcome.window
    return (
        outcome.job, window.start_ns, window.end_ns, outcome.state, outcome.rows, outcome.changed,
        round(outcome.took_s, 3), outcome.error,
    )  # fmt: skip


def _reach(back_s: float | None, ahead_s: float) -> str:
    back = "-all" if back_s is None else f"-{back_s / 3600:g}h" if back_s else ""
    return back + (f"+{ahead_s / 3600:g}h" if ahead_s else "")


def _documents(root: Path, fleet: Path | None, rules: Path | None) -> "Documents":
    from analytics.jobs.running import Documents

    return Documents.read(root, fleet=fleet, rules=rules)


def _pass_on(root: Path, documents: "Documents", metrics: Path | None, alertmanagers: Sequence[str]) -> None:
    """Tell those who wait for it how jobs stand, and what is wrong."""
    if metrics is not None:
        from analytics.jobs.exported import write_metrics
        from analytics.jobs.running import status as status_of

        write_metrics(metrics, status_of(root, documents=documents))
    if alertmanagers:
        from analytics.commands_incidents import hand_over

        say(hand_over(root, alertmanagers, severity="warning", origin="perfwatt", hold="1h"))


def _tell(outcome: "Outcome", number: int, of: int) -> None:
    from collector.moments import format_moment

    start = format_moment(outcome.window.start_ns, UTC)[:16]
    line = f"{outcome.job:<14} {number}/{of}  {start}  {outcome.state}"
    if outcome.error is not None:
        (warn if outcome.state == "failed" else say)(f"{line}: {outcome.error}")
    else:
        say(f"{line}, {outcome.rows:,} rows{'' if outcome.changed else ' as before'}, {outcome.took_s:.1f} s")
