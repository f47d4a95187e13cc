"""The commands that say what came of the energy and what did not: waste, funnel."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from analytics.commands import GapOption, answer
from analytics.commands_cost import FleetOption, fleet_of, rates_of
from collector.options import (
    CheckOption,
    ConfigOption,
    FileOption,
    LimitOption,
    OutputOption,
    QuietOption,
    Request,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
    request,
    store_root,
)
from collector.output import Format

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(rich_markup_mode=None)


class Per(StrEnum):
    """What the rows of `waste` are about."""

    CAUSE = "cause"
    WORKLOAD = "workload"
    NAME = "name"
    USER = "user"
    TEAM = "team"
    MODEL = "model"
    HOST = "host"
    SKU = "sku"
    SITE = "site"


class Place(StrEnum):
    """What a `funnel` is of."""

    FLEET = "fleet"
    SITE = "site"
    SKU = "sku"
    TEAM = "team"
    USER = "user"
    HOST = "host"


EffectiveOption = Annotated[
    float,
    typer.Option(
        "--effective", metavar="RATIO", min=0.0, max=1.0, help="A device is used well above this activity of its units."
    ),
]


@app.command()
def waste(
    store: StoreOption = None,
    per: Annotated[Per, typer.Option("--per", help="Whose waste a row is.")] = Per.CAUSE,
    effective: EffectiveOption = 0.5,
    fleet: FleetOption = None,
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
    What was lost, by cause, dearest first, and what to do about it; with what was useful, rows add up to the devices.

    Failed, unallocated, unmeasured, idle, stalled on input or network, underused, throttled (the time that held-down
    clocks cost). Each joule and each second of a device has one cause. Costs are of the devices' own energy and of
    their hours, where fleet.toml has prices.
    """
    from analytics.waste import waste as waste_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = _ledger(root, asked, fleet, effective=effective, max_gap=max_gap)
    answer("waste", waste_of(told.lines, per=per.value), asked, check)


@app.command()
def funnel(
    store: StoreOption = None,
    per: Annotated[Place, typer.Option("--per", help="What a funnel is of.")] = Place.FLEET,
    effective: EffectiveOption = 0.5,
    fleet: FleetOption = None,
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
    """Devices in total, allocated, active, effective: in device-hours, watts, joules, money; what each step loses."""
    from analytics.waste import funnel as funnel_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = _ledger(root, asked, fleet, effective=effective, max_gap=max_gap)
    found = funnel_of(told.lines, length_s=told.length_s, per=per.value)
    answer("funnel", found, asked, check)


# ----------------------------------------------------------------------------------------------------- what they share


class _Told(NamedTuple):
    """The priced lines of the ledger of a window, and the window's length."""

    lines: "pl.LazyFrame"
    length_s: float


def _ledger(root: Path, asked: Request, fleet_file: Path | None, *, effective: float, max_gap: float | None) -> _Told:
    """
    The ledger of what was asked for, with places, types and costs.

    Raises: ConfigError, StoreError.
    """
    import polars as pl

    from analytics.cost import priced
    from analytics.frames import by_device, scan
    from analytics.inventory import device_types, held
    from analytics.ledger import REMOVED_S, ledger_in_parts
    from analytics.waste import placed

    window = (asked.start_ns, asked.end_ns)
    start_ns, end_ns = seen(root, asked)
    known, fleet = scan(root, "devices").collect().lazy(), fleet_of(root, fleet_file)
    types = device_types(known, fleet).collect().lazy()
    before = None if asked.start_ns is None else asked.start_ns - round(REMOVED_S * _NS)
    partitions = known.filter(pl.col("parent").is_not_null()).select("device").unique().collect().to_series()
    lines = ledger_in_parts(
        by_device(root, "device_samples", *window),
        held(scan(root, "allocations", None, asked.end_ns), asked.start_ns, asked.end_ns or time.time_ns()),
        events=scan(root, "events", before, asked.end_ns),
        devices=known,
        types=types,
        partition_samples=scan(root, "device_samples", *window, pl.col("device").is_in(partitions.implode()))
        if len(partitions)
        else None,
        host_samples=scan(root, "host_samples", *window),
        since_ns=start_ns,
        until_ns=end_ns,
        by="15m",
        effective_ratio=effective,
        max_gap_s=max_gap,
    ).lazy()
    hosts = fleet.site_of(lines.select("host").drop_nulls().unique().collect()["host"])
    told = placed(lines, hosts=hosts, types=types, workload_samples=scan(root, "workload_samples", *window))
    told = told.collect().lazy()
    if fleet.sites or fleet.skus:
        told = priced(told, rates_of(root, fleet, told), known, fleet).collect().lazy()
    return _Told(told, (end_ns - start_ns) / _NS)


def seen(root: Path, asked: Request) -> tuple[int, int]:
    """
    The window that was asked for, as far as there are samples: nanoseconds since 1970.

    Raises: StoreError.
    """
    from collector.store import Store

    segments = Store(root).segments("device_samples", asked.start_ns, asked.end_ns)
    if not segments:
        return asked.start_ns or 0, asked.start_ns or 0
    first, last = min(s.first_ns for s in segments), max(s.last_ns for s in segments)
    return max(first, asked.start_ns or first), min(last, asked.end_ns or last)


_NS = 1_000_000_000
