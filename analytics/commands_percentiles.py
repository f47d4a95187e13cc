"""The command that tells how a metric was distributed: percentiles."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

from enum import StrEnum
from typing import Annotated

import typer

from analytics.commands import ByOption, answer
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


class Sketched(StrEnum):
    """What rollups keep the distribution of."""

    POWER = "power_w"
    UTILIZATION = "utilization_ratio"
    TEMPERATURE = "temperature_c"


class Per(StrEnum):
    """What a row is of."""

    DEVICE = "device"
    HOST = "host"
    ALL = "all"


@app.command()
def percentiles(
    metric: Annotated[Sketched, typer.Argument(help="The metric, by its column.")] = Sketched.POWER,
    per: Annotated[
        Per, typer.Option("--per", help="A row for each device, for all devices of a host together, or for all.")
    ] = Per.DEVICE,
    store: StoreOption = None,
    by: ByOption = None,
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
    How a metric was distributed: least, median, p95, p99 and most, over months as fast as over a day.

    Percentiles are within 1 % of themselves (DDSketch, whose sketches the rollups hold); least and most are exact.
    Windows of --by are whole hours, or for power whole 5 minutes.
    """
    import polars as pl

    from analytics.energy import without_partitions
    from analytics.frames import scan, spliced
    from analytics.sketches import distribution
    from collector.errors import ConfigError
    from collector.moments import NS, parse_length
    from collector.store.schema import SKETCHED, SKETCHED_FINEST

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    of = next(sketched for sketched in SKETCHED if sketched.column == metric.value)
    finest_s = 300 if of in SKETCHED_FINEST else 3600
    by_s = None if by is None else parse_length(by, option="--by") / NS
    if by_s is not None and by_s % finest_s:
        raise ConfigError("--by", f"{by}: windows of {metric.value} are multiples of {finest_s} s")
    found = spliced(root, asked.start_ns, asked.end_ns, window_s=3600 if (by_s or 3600) % 3600 == 0 else finest_s)
    rollups = scan(root, "device_rollups", where=pl.lit(value=False)) if found is None else found.rollups
    samples = scan(root, "device_samples", asked.start_ns, asked.end_ns) if found is None else found.rest
    known = scan(root, "devices")
    rollups, samples = without_partitions(rollups, known), without_partitions(samples, known)
    keys = [] if per is Per.ALL else [per.value]
    told = distribution(rollups, samples, of, per=keys, by_s=None if by_s is None else round(by_s))
    answer("percentiles", told, asked, check)
