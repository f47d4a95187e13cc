"""The commands that say whether something worked: compare, changes."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analytics.commands import GapOption, answer
from analytics.commands_cost import FleetOption, fleet_of
from collector.errors import ConfigError, QueryError
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
    say,
    store_root,
)
from collector.output import Format

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(rich_markup_mode=None)


class What(StrEnum):
    """What is compared."""

    DRIVER_VERSION = "driver_version"
    FIRMWARE_VERSION = "firmware_version"
    MODE = "mode"
    POWER_LIMIT = "power_limit"
    CLOCK_LIMIT = "clock_limit"
    CLOCK_LOCK = "clock_lock"
    POWER_PROFILE = "power_profile"
    FRAMEWORK = "framework"
    FRAMEWORK_VERSION = "framework_version"
    MODEL = "model"
    SKU = "sku"
    SITE = "site"
    HOST = "host"
    TEAM = "team"
    USER = "user"
    NAME = "name"


class Matching(StrEnum):
    """Whether loads are matched."""

    AUTO = "auto"
    NONE = "none"


MarginOption = Annotated[
    float,
    typer.Option(
        "--margin", metavar="RATIO", min=0.0001, max=1.0, help="Differences within this are none: 0.01 is 1 %."
    ),
]
WorkloadOption = Annotated[
    str | None, typer.Option("--workload", metavar="NAME", help="Only this workload, name or model.")
]


@app.command()
def compare(
    by: Annotated[What, typer.Option("--by", help="What is compared.")],
    store: StoreOption = None,
    workload: WorkloadOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="METRIC", help="joules_per_token ...; all that were measured by default."),
    ] = None,
    control: Annotated[
        str,
        typer.Option("--control", metavar="COLUMNS", help="What must be equal in all that is compared, with commas."),
    ] = "model,framework,sku,devices",
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="VALUE", help="What to compare with; the usual one by default.")
    ] = None,
    value: Annotated[
        str | None, typer.Option("--value", metavar="VALUE", help="What to compare; each by default.")
    ] = None,
    margin: MarginOption = 0.01,
    load: Annotated[Matching, typer.Option("--load", help="Compare at equal load, or not.")] = Matching.AUTO,
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
    Did it work: what each driver, framework, limit, host ... does to joules per token and more, with 95 % intervals.

    The same work on the same kind of device at equal load: groups of devices before and after, against those that did
    not change, or side by side. An effect is the value over the reference less one: -0.03 is 3 % less. Other versions
    and limits are held constant, or named (together) where they changed at the same time.
    """
    import polars as pl

    from analytics.effects.comparison import CONTROLS, MEASURES
    from analytics.effects.comparison import compare as comparison

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    columns = [name.strip() for name in control.split(",") if name.strip()]
    for option, given, known in (("--metric", metric or [], MEASURES), ("--control", columns, CONTROLS)):
        for name in given:
            _known(option, name, known)
    windows = _windows(root, asked, workload, fleet, max_gap).collect().lazy()
    told = windows.select(pl.col(by.value).drop_nulls().unique().sort()).collect().to_series().to_list()
    for name in filter(None, (reference, value)):
        if name not in told:
            raise unknown(by.value, name, told)
    found = comparison(
        windows, by=by.value, metrics=metric, control=columns, reference=reference, value=value, margin=margin,
        load=load.value,
    ).collect()  # fmt: skip
    if found.is_empty():
        say(f"{by.value} has {len(told)} value{'s' if len(told) != 1 else ''}: {', '.join(told) or 'none'}")
    answer("compare", found.lazy(), asked, check)


@app.command()
def changes(
    store: StoreOption = None,
    workload: WorkloadOption = None,
    what: Annotated[What | None, typer.Option("--what", help="Only changes of this.")] = None,
    effect: Annotated[
        bool, typer.Option("--effect/--no-effect", help="With what each change did, or only a list.")
    ] = True,
    margin: MarginOption = 0.01,
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
    What changed: drivers, firmware, modes, limits, locked clocks, frameworks, models; where, when, and what it did.

    Devices that changed alike within a day of each other are one rollout. Its effect is found as `compare` does, from a
    week before to a week after, as far as --since and --until let it.
    """
    import polars as pl

    from analytics.changes import changes as changes_of
    from analytics.changes import limits, rollouts, settings, workload_settings
    from analytics.effects.rollouts import effects
    from analytics.frames import by_device, over_devices, scan

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    window = (asked.start_ns, asked.end_ns)
    known = scan(root, "devices", None, asked.end_ns).collect().lazy()
    of_devices = settings(known, over_devices(limits, by_device(root, "device_samples", *window)).lazy())
    of_work = workload_settings(scan(root, "workload_samples", *window), scan(root, "allocations", None, asked.end_ns))
    found = rollouts(changes_of(pl.concat([of_devices, of_work])))
    found = found.filter(_within(asked), pl.lit(True) if what is None else pl.col("what") == what.value)
    if effect:
        found = effects(found, _windows(root, asked, workload, fleet, max_gap), margin=margin)
    answer("changes", found, asked, check)


# ----------------------------------------------------------------------------------------------------- what they share


def _known(option: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(option, f"{name!r}: one of {', '.join(known)} is wanted")


def unknown(what: str, name: str, known: Sequence[str]) -> QueryError:
    """The error that there is no such thing in the store, with the names that are nearest."""
    near = get_close_matches(name, known, n=5, cutoff=0.5)
    return QueryError(f"no {what} {name!r}; {'nearest: ' + ', '.join(near) if near else 'nothing is called like that'}")


def _within(asked: Request) -> "pl.Expr":
    import polars as pl

    begins = pl.lit(True) if asked.start_ns is None else pl.col("last").to_physical() >= asked.start_ns
    return begins if asked.end_ns is None else begins & (pl.col("first").to_physical() < asked.end_ns)


def _windows(
    root: Path, asked: Request, workload: str | None, fleet_file: Path | None, max_gap: float | None
) -> "pl.LazyFrame":
    """
    The windows that are compared.

    Raises: ConfigError, StoreError.
    """
    import polars as pl

    from analytics.effects.windows import of_workload
    from analytics.frames import scan
    from analytics.frames_ledger import seen

    allocations = scan(root, "allocations", None, asked.end_ns).collect().lazy()
    models = scan(root, "workload_samples", asked.start_ns, asked.end_ns).select("workload", "model").unique()
    if workload is not None:
        named = allocations.select("workload", "name").join(models, on="workload", how="left").collect().lazy()
        mine = of_workload(named, workload).select("workload").unique().collect().to_series()
        if mine.is_empty():
            told = named.select(pl.concat_list("workload", "name", "model").explode().drop_nulls().unique())
            raise unknown("workload", workload, told.collect().to_series().to_list())
        allocations = allocations.filter(pl.col("workload").is_in(mine.implode())).collect().lazy()
    hosts = allocations.select("host").drop_nulls().unique().collect().to_series()
    sites = fleet_of(root, fleet_file).site_of(hosts)
    start_ns, end_ns = seen(root, asked.start_ns, asked.end_ns)
    # A day at a time, so that memory does not grow with the time that is asked for.
    days = range(start_ns // _DAY_NS * _DAY_NS, end_ns + 1, _DAY_NS)
    parts = [
        _of_day(root, allocations, sites, max(day, start_ns), min(day + _DAY_NS, end_ns + 1), max_gap) for day in days
    ]
    return pl.concat(parts).lazy()


def _of_day(
    root: Path, allocations: "pl.LazyFrame", sites: "dict[str, str]", start_ns: int, end_ns: int, max_gap: float | None
) -> "pl.DataFrame":
    """The windows that begin within [start_ns, end_ns), with the readings on either side of it."""
    import polars as pl

    from analytics.effects.windows import READ, windows
    from analytics.frames import boards, scan
    from analytics.inventory import held

    around = start_ns - _BEYOND_NS, end_ns + _BEYOND_NS
    holding = held(allocations, *around).collect().lazy()
    devices, workloads = (
        pl.col(name).is_in(holding.select(name).unique().collect().to_series().implode())
        for name in ("device", "workload")
    )
    found = windows(
        scan(root, "device_samples", *around, devices).select(READ),
        scan(root, "workload_samples", *around, workloads),
        holding,
        boards(root, None, end_ns).filter(devices),
        sites=sites,
        max_gap_s=max_gap,
    )
    return found.filter(pl.col("window").to_physical().is_between(start_ns, end_ns, closed="left")).collect()


_DAY_NS = 86_400_000_000_000
_BEYOND_NS = 600_000_000_000
