"""The command that says which devices' numbers to trust: quality."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import time

import typer

from analytics.commands import GapOption, answer
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


@app.command()
def quality(
    store: StoreOption = None,
    max_gap: GapOption = None,
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
    Which devices' numbers to trust: coverage, gaps and why, counter against power, what the sensor sees.

    The poorest come first. Without --since and --until all that the store holds is judged, up to its last reading.
    """
    from analytics.energy import without_partitions
    from analytics.frames import by_device, scan
    from analytics.quality import quality as quality_of
    from analytics.steps import readings

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    # With a beginning relative to now, what was not read until now is missing.
    end_ns = asked.end_ns or (None if asked.start_ns is None else time.time_ns())
    known = scan(root, "devices")
    parts = by_device(root, "device_samples", asked.start_ns, asked.end_ns)
    found = quality_of(
        (readings(without_partitions(part, known)).collect() for part in parts),
        devices=known,
        events=scan(root, "events", None, end_ns),
        calibrations=scan(root, "calibrations", None, end_ns),
        start_ns=asked.start_ns,
        end_ns=end_ns,
        max_gap_s=max_gap,
    )
    answer("quality", found.lazy(), asked, check)
