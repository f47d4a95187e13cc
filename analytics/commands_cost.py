"""The commands that say whose energy it was and what it cost: attribution, cost, focus."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from analytics.commands import GapOption, answer
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

    from analytics.fleet import Fleet

app = typer.Typer(rich_markup_mode=None)


class Owner(StrEnum):
    """Whom energy is attributed to."""

    WORKLOAD = "workload"
    NAME = "name"
    USER = "user"
    TEAM = "team"
    MODEL = "model"
    DEVICE = "device"
    HOST = "host"
    SITE = "site"
    FLEET = "fleet"


class Basis(StrEnum):
    """How holders of partitions divide a board."""

    ALLOCATION = "allocation"
    ACTIVITY = "activity"


PerOption = Annotated[Owner, typer.Option("--per", help="Whom a row is about.")]
BasisOption = Annotated[
    Basis, typer.Option("--basis", help="Partitions of a board by their share of it, or by share times activity.")
]
FleetOption = Annotated[
    Path | None,
    typer.Option("--fleet", metavar="FILE", help="Sites, tariffs, PUE, carbon; else fleet.toml in the store's folder."),
]


@app.command()
def attribution(
    store: StoreOption = None,
    per: PerOption = Owner.WORKLOAD,
    basis: BasisOption = Basis.ALLOCATION,
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
    """Whose joules: used, idle, unallocated, and what hosts, racks and facility drew beyond; rows add up to all."""
    from analytics.attribution import attribution as attribution_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = _told(root, asked, fleet, basis=basis, max_gap=max_gap, by=None)
    found = attribution_of(told.lines, per=per.value, workload_samples=told.work, hosts=told.hosts)
    answer("attribution", found, asked, check)


@app.command()
def cost(
    store: StoreOption = None,
    per: PerOption = Owner.WORKLOAD,
    basis: BasisOption = Basis.ALLOCATION,
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
    What energy and devices cost and emitted, and what a million tokens cost; absent where a price is missing.

    A demand charge is a row of its own, for whole months: of one that is not covered whole it is the least it can be.
    """
    import polars as pl

    from analytics.attribution import OWNED, counted, of_counted
    from analytics.attribution import attribution as attribution_of
    from analytics.cost import cost as cost_of
    from analytics.cost import demand, demand_lines, fixed_cost, site_power, with_tokens
    from analytics.frames_ledger import read_rates

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = _told(root, asked, fleet, basis=basis, max_gap=max_gap, by="15m")
    keys = [per.value, "kind"]
    fixed = fixed_cost(told.lines, told.devices, told.fleet, keys=keys)
    whole, prices = told.lines.drop("window"), read_rates(root, told.fleet, told.lines)
    tokens = attribution_of(whole, per=per.value, workload_samples=told.work, hosts=told.hosts)
    done = counted(whole, told.work if per.value in OWNED else None).collect().lazy()
    mine, key = of_counted(told.lines, done).collect().lazy(), per.value
    own = fixed_cost(mine, told.devices, told.fleet, keys=[key]).rename({"currency": "fixed_currency"})
    amounts = mine.group_by(key).agg(
        counted_tokens=pl.struct("workload", "tokens").unique().struct.field("tokens").sum()
    )
    of_tokens = cost_of(mine, prices, keys=[key])
    for more in (own.drop("device_h"), amounts):
        of_tokens = of_tokens.join(more, on=key, how="left", nulls_equal=True)
    found = with_tokens(cost_of(told.lines, prices, keys=keys), fixed, tokens, of_tokens, per=key)
    charges = demand_lines(demand(site_power(told.lines), told.fleet), per=key).collect().lazy()
    answer("cost", pl.concat([found, charges], how="diagonal_relaxed"), asked, check)


@app.command()
def focus(
    provider: Annotated[str, typer.Option("--provider", help="Who bills: issuer, provider and publisher.")],
    store: StoreOption = None,
    basis: BasisOption = Basis.ALLOCATION,
    fleet: FleetOption = None,
    max_gap: GapOption = None,
    output: OutputOption = Format.CSV,
    file: FileOption = None,
    limit: LimitOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """Export the cost of energy as FOCUS 1.2: rows by day and owner, idle energy in rows of its own."""
    import polars as pl

    from analytics.cost import cost as cost_of
    from analytics.cost import demand, site_power
    from analytics.focus import KEYS
    from analytics.focus import focus as focus_of
    from analytics.frames_ledger import read_rates

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    told = _told(root, asked, fleet, basis=basis, max_gap=max_gap, by="15m")
    lines = told.lines.with_columns(period=pl.col("window").dt.truncate("1d"))
    charges = cost_of(lines, read_rates(root, told.fleet, told.lines), keys=KEYS)
    found = focus_of(charges, provider=provider, demand=demand(site_power(told.lines), told.fleet))
    answer("focus", found.lazy(), asked, check)


# ----------------------------------------------------------------------------------------------------- what they share


class _Told(NamedTuple):
    """What a store and a fleet.toml tell of a window."""

    lines: "pl.LazyFrame"
    work: "pl.LazyFrame"
    devices: "pl.LazyFrame"
    fleet: "Fleet"
    hosts: dict[str, str]


def _told(
    root: Path, asked: Request, fleet_file: Path | None, *, basis: Basis, max_gap: float | None, by: str | None
) -> _Told:
    """
    Lines of every level, with their sites and models.

    Raises: ConfigError, StoreError.
    """
    import polars as pl

    from analytics.attribution import attribute, facility_lines, measured_pue, named
    from analytics.boards import with_meters
    from analytics.frames import boards, by_device, scan
    from analytics.frames_ledger import read_held

    window = (asked.start_ns, asked.end_ns)
    parts, known = by_device(root, "device_samples", *window), boards(root)
    work = scan(root, "workload_samples", *window)
    allocations = read_held(root, *window)
    machines = scan(root, "host_samples", *window)
    lines = attribute(
        parts, allocations, devices=known, host_samples=machines, by=by, basis=basis.value, max_gap_s=max_gap
    )
    fleet = fleet_of(root, fleet_file)
    lines = pl.concat([lines, *_racks(root, window, fleet, machines, known, by=by, max_gap=max_gap)], how="diagonal")
    hosts = fleet.site_of(lines.select("host").drop_nulls().unique().collect()["host"])
    pue = dict(measured_pue(scan(root, "facility_samples", *window)).select("site", "pue").collect().iter_rows())
    for site, value in sorted({**pue, **fleet.pue}.items()):
        say(f"PUE of {site}: {value:.3g} ({'fleet.toml' if site in fleet.pue else 'measured'})")
    lines = pl.concat([with_meters(lines, known), facility_lines(lines, hosts, {**pue, **fleet.pue})], how="diagonal")
    return _Told(named(lines, work, hosts).collect().lazy(), work, known, fleet, hosts)


def _racks(
    root: Path,
    window: tuple[int | None, int | None],
    fleet: "Fleet",
    machines: "pl.LazyFrame",
    known: "pl.LazyFrame",
    *,
    by: str | None,
    max_gap: float | None,
) -> "Iterator[pl.LazyFrame]":
    """The lines of racks with meters; the readings of devices are only read where their hosts have no own."""
    from functools import partial

    import polars as pl

    from analytics.attribution import meter_steps, platform_steps, rack_lines
    from analytics.energy import device_steps
    from analytics.frames import by_device, over_devices, scan

    named = [meter for rack in fleet.racks for meter in rack.meters]
    if not named:
        return
    meters = scan(root, "facility_samples", *window, pl.col("meter").is_in(named))
    of_hosts = platform_steps(machines, max_gap_s=max_gap).collect().lazy()
    own = of_hosts.select(pl.col("device").unique()).collect().to_series().implode()
    parts = [part.filter(~pl.col("host").is_in(own)) for part in by_device(root, "device_samples", *window)]
    others = over_devices(partial(device_steps, max_gap_s=max_gap, devices=known), parts)
    metered = meter_steps(meters, max_gap_s=max_gap)
    yield rack_lines(of_hosts, metered, fleet, unmetered=others.lazy(), by=by)


def fleet_of(root: Path, file: Path | None, *, tell: bool = True) -> "Fleet":
    """
    The fleet as *file* describes it, or the store's own fleet.toml, or nothing (and say so, if *tell*).

    Raises: ConfigError.
    """
    from analytics.fleet import Fleet
    from analytics.frames import read_fleet

    path = file or root / "fleet.toml"
    if file is None and not path.exists():
        if tell:
            say(f"no {path}: prices, PUE and sites are not known")
        return Fleet()
    return read_fleet(path)
