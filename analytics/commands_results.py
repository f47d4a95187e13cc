"""The command that shows benchmark results beside their power: results."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

from enum import StrEnum
from typing import Annotated

import typer

from analytics.commands import answer
from collector.options import (
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
    request,
    store_root,
)
from collector.output import Format

app = typer.Typer(rich_markup_mode=None)


class Only(StrEnum):
    """Which phase of a benchmark."""

    RESULT = "result"
    RANGING = "ranging"
    ANY = "any"


NamesOption = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Of this one only. May be repeated.")]


@app.command()
def results(
    store: StoreOption = None,
    benchmark: NamesOption = None,
    accelerator: NamesOption = None,
    submitter: NamesOption = None,
    suite: Annotated[str | None, typer.Option("--suite", help="mlperf-inference or mlperf-training.")] = None,
    scenario: Annotated[str | None, typer.Option("--scenario", help="Offline, Server, SingleStream ...")] = None,
    phase: Annotated[
        Only, typer.Option("--phase", help="The result, or the run that ranges the analyzer.")
    ] = Only.RESULT,
    best: Annotated[
        bool, typer.Option("--best", help="The most efficient of each accelerator, benchmark and scenario.")
    ] = False,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    Benchmark results with the power they were measured with: throughput, mean watts, joules per sample and token.

    They come in with `perfwatt import mlperf-inference`, `mlperf-training`, or as a table of runs by a mapping. --since
    and --until are about when a run ended.
    """
    from analytics.frames import scan
    from analytics.results import best as best_of
    from analytics.results import chosen, front, times_of
    from analytics.results import results as results_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    runs = scan(root, "results", asked.start_ns, asked.end_ns).collect()
    start_ns, end_ns = times_of(runs)
    found = chosen(
        results_of(
            runs.lazy(),
            scan(root, "host_samples", start_ns, end_ns),
            scan(root, "facility_samples", start_ns, end_ns),
            scan(root, "allocations", None, end_ns),
        ),
        phase=phase.value,
        suite=suite,
        scenario=scenario,
        benchmark=benchmark or (),
        accelerator=accelerator or (),
        submitter=submitter or (),
    )
    answer("results", best_of(found) if best else front(found), asked, check)
