"""The commands that say what came of the energy and what did not: efficiency, pue, waste, funnel."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from analytics.commands import ByOption, GapOption, answer, window_of
from analytics.commands_cost import FleetOption, fleet_of
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
    from collections.abc import Sequence

    import polars as pl

    from analytics import leagues
    from analytics.energy import Group

app = typer.Typer(rich_markup_mode=None)


class Of(StrEnum):
    """What a row of `efficiency` is about: one's own figures, or a league of what is alike."""

    WORKLOAD = "workload"
    DEVICE = "device"
    HOST = "host"
    FLEET = "fleet"
    SKU = "sku"
    DRIVER = "driver_version"
    FRAMEWORK = "framework"
    TEAM = "team"
    SITE = "site"
    MODEL = "model"


class Within(StrEnum):
    """What rows of a league must share to be compared."""

    MODEL = "model"
    SKU = "sku"
    FRAMEWORK = "framework"
    SITE = "site"
    NONE = "none"


class Measure(StrEnum):
    """What joules are divided by."""

    TOKEN = "token"
    SAMPLE = "sample"
    STEP = "step"


class Axis(StrEnum):
    """What stands against joules in a Pareto front."""

    THROUGHPUT = "throughput"
    REQUEST = "request"
    FIRST_TOKEN = "first_token"
    TOKEN = "token"
    P50 = "p50"
    P90 = "p90"
    P99 = "p99"


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


class Level(StrEnum):
    """What a row of `pue` is about."""

    SITE = "site"
    HOST = "host"
    FLEET = "fleet"


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
def efficiency(
    store: StoreOption = None,
    per: Annotated[Of, typer.Option("--per", help="What a row is about.")] = Of.WORKLOAD,
    by: ByOption = None,
    within: Annotated[
        list[Within] | None,
        typer.Option(
            "--within",
            help="Rank only rows of the same (may be repeated); not given: what suits --per.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[Measure, typer.Option("--measure", help="Joules for what, in a league.")] = Measure.TOKEN,
    least: Annotated[
        float | None,
        typer.Option(
            "--least",
            metavar="NUMBER",
            min=0.0,
            show_default=False,
            help="Rank from so many tokens, samples or steps on; not given: 100000, 1000, 100.",
        ),
    ] = None,
    pareto: Annotated[
        Axis | None,
        typer.Option("--pareto", help="Which rows nothing beats in both joules and this.", show_default=False),
    ] = None,
    split: Annotated[
        bool, typer.Option("--phases", help="Joules per prompt and per generated token of each workload, by a model.")
    ] = False,
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
    What the energy brought: joules per token, sample, step and request, tokens/s/W, MFU, latency, per wall joule.

    Per workload, device, host or fleet as it is; per sku, driver_version, framework, team, site or model as a league,
    ranked within a model (drivers and frameworks also within a SKU, models within a SKU) where there is enough
    evidence. --pareto also tells which rows (or workloads) nothing beats.
    """
    from analytics.efficiency import efficiency_by_place
    from analytics.frames import boards, scan
    from analytics.frames_ledger import read_held
    from analytics.leagues import alike
    from analytics.leagues import pareto as front_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    if pareto is None and per in {*_PLACES, Of.WORKLOAD}:
        _refuse_of_leagues(per, within=within, measure=measure, least=least)
    if split:
        found = _phases(root, asked, max_gap, per=per, by=by, pareto=pareto)
    elif per in _PLACES and pareto is None:
        found = efficiency_by_place(
            scan(root, "device_samples", asked.start_ns, asked.end_ns),
            scan(root, "workload_samples", asked.start_ns, asked.end_ns),
            read_held(root, asked.start_ns, asked.end_ns),
            place=_PLACES[per],
            by=window_of(by),
            max_gap_s=max_gap,
            devices=boards(root),
        )
    elif per is Of.WORKLOAD and pareto is None:
        found = _measures(root, asked, fleet, by=window_of(by), max_gap=max_gap)
    else:
        _refuse(per, by)
        key = cast("leagues.Key", per.value)
        wanted = None if within is None else [one.value for one in within if one is not Within.NONE]
        groups = alike(key, cast("list[leagues.Key] | None", wanted))
        found = _league(root, asked, fleet, max_gap, per=key, within=groups, measure=measure.value, least=least)
        if pareto is not None:
            found = front_of(found, axis=pareto.value, measure=measure.value, within=groups)
    answer("efficiency", found, asked, check)


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
    from analytics.frames_ledger import read_ledger
    from analytics.waste import waste as waste_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = read_ledger(
        root,
        asked.start_ns,
        asked.end_ns,
        fleet=fleet_of(root, fleet),
        effective_ratio=effective,
        max_gap_s=max_gap,
    )
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
    from analytics.frames_ledger import read_ledger
    from analytics.waste import funnel as funnel_of
    from analytics.waste import over_windows

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = read_ledger(
        root,
        asked.start_ns,
        asked.end_ns,
        fleet=fleet_of(root, fleet),
        effective_ratio=effective,
        max_gap_s=max_gap,
    )
    found = funnel_of(over_windows(told.lines), length_s=told.length_s, per=per.value)
    answer("funnel", found, asked, check)


@app.command()
def pue(
    store: StoreOption = None,
    per: Annotated[Level, typer.Option("--per", help="What a row is about.")] = Level.SITE,
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
    """What is drawn beyond the devices: ITUE, PUE, TUE, CUE of sites and hosts, and joules per token at each level."""
    from analytics.attribution import measured_pue
    from analytics.effectiveness import effectiveness
    from analytics.efficiency import tokens_of_devices
    from analytics.energy import device_steps, energy
    from analytics.frames import boards, by_device, over_devices, scan
    from analytics.frames_ledger import read_held, read_rates
    from analytics.measures import wall_ratios

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    window, known = (asked.start_ns, asked.end_ns), boards(root)
    parts = by_device(root, "device_samples", *window)
    used = over_devices(partial(energy, by="15m", max_gap_s=max_gap, devices=known), parts).lazy()
    steps = over_devices(partial(device_steps, max_gap_s=max_gap, devices=known), parts).lazy()
    told = fleet_of(root, fleet)
    hosts = told.site_of(used.select("host").drop_nulls().unique().collect()["host"])
    metered = measured_pue(scan(root, "facility_samples", *window)).select("site", "pue").collect().iter_rows()
    found = effectiveness(
        used,
        wall_ratios(steps, scan(root, "host_samples", *window), max_gap_s=max_gap),
        read_rates(root, told, used),
        hosts=hosts,
        pue={site: (value, "meters") for site, value in metered}
        | {site: (value, "fleet.toml") for site, value in told.pue.items()},
        tokens=tokens_of_devices(
            scan(root, "workload_samples", *window), read_held(root, asked.start_ns, asked.end_ns), by=None
        ),
        per=per.value,
    )
    answer("pue", found, asked, check)


# ----------------------------------------------------------------------------------------------------- what they share


_PLACES: "dict[Of, Group]" = {Of.DEVICE: "device", Of.HOST: "host", Of.FLEET: "fleet"}


def _refuse(per: Of, by: str | None) -> None:
    """
    Refuse what a league is not.

    Raises: ConfigError.
    """
    from collector.errors import ConfigError

    if by is not None:
        raise ConfigError("--by", f"{by}: a league is of the whole window; leave it out, or choose --per workload")
    if per in _PLACES:
        raise ConfigError("--pareto", f"is not for --per {per.value}: a device of a group has no tokens of its own")


def _refuse_of_leagues(per: Of, *, within: "Sequence[Within] | None", measure: Measure, least: float | None) -> None:
    """
    Refuse what only a league has: to be silent would be to rank by something else than was asked for.

    Raises: ConfigError.
    """
    from collector.errors import ConfigError

    given = {"--within": bool(within), "--measure": measure is not Measure.TOKEN, "--least": least is not None}
    for option in (name for name, there in given.items() if there):
        raise ConfigError(option, f"is of a league or a front: choose --per sku and the like, not --per {per.value}")


def _measures(
    root: Path, asked: Request, fleet_file: Path | None, *, by: str | None, max_gap: float | None
) -> "pl.LazyFrame":
    from analytics.frames import boards, scan
    from analytics.frames_ledger import read_held
    from analytics.inventory import device_types
    from analytics.measures import measures

    window = (asked.start_ns, asked.end_ns)
    known = boards(root)
    return measures(
        scan(root, "device_samples", *window),
        scan(root, "workload_samples", *window),
        read_held(root, asked.start_ns, asked.end_ns),
        types=device_types(known, fleet_of(root, fleet_file, tell=False)),
        host_samples=scan(root, "host_samples", *window),
        by=by,
        max_gap_s=max_gap,
        devices=known,
    )


def _phases(
    root: Path, asked: Request, max_gap: float | None, *, per: Of, by: str | None, pareto: Axis | None
) -> "pl.LazyFrame":
    """
    The split of what was asked for.

    Raises: ConfigError, StoreError.
    """
    from analytics.frames import boards, scan
    from analytics.frames_ledger import read_held
    from analytics.phases import phases
    from collector.errors import ConfigError

    if per is not Of.WORKLOAD or by is not None or pareto is not None:
        raise ConfigError("--phases", "is of workloads over the whole window: leave out --per, --by and --pareto")
    window = (asked.start_ns, asked.end_ns)
    samples, work = (scan(root, name, *window) for name in ("device_samples", "workload_samples"))
    return phases(samples, work, read_held(root, asked.start_ns, asked.end_ns), max_gap_s=max_gap, devices=boards(root))


def _league(
    root: Path,
    asked: Request,
    fleet_file: Path | None,
    max_gap: float | None,
    *,
    per: "leagues.Key",
    within: "Sequence[leagues.Key]",
    measure: "leagues.Measure",
    least: float | None,
) -> "pl.LazyFrame":
    from dataclasses import replace

    from analytics.frames_ledger import read_runs
    from analytics.leagues import Evidence, league

    fleet = fleet_of(root, fleet_file, tell="site" in {per, *within})
    told = read_runs(root, asked.start_ns, asked.end_ns, fleet=fleet, max_gap_s=max_gap)
    evidence = Evidence() if least is None else replace(Evidence(), **{measure: least})
    return league(told, per=per, within=within, measure=measure, evidence=evidence)
