"""The commands of capacity and plans: capacity, fleet check, fleet show, fit, plan."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import time
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from analytics.commands import answer
from collector.errors import ConfigError, NotEnoughData, QueryError
from collector.options import (
    AT_FAULT,
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
    warn,
)
from collector.output import Format

if TYPE_CHECKING:
    import polars as pl

    from analytics.capacity.assessment import Assessment
    from analytics.fleet import Fleet, Sku
    from analytics.planning.result import Plan

app = typer.Typer(rich_markup_mode=None)
fleet_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="What fleet.toml says the fleet is.")
app.add_typer(fleet_app, name="fleet")


class Show(StrEnum):
    """What `capacity` answers with."""

    NODES = "nodes"
    CASES = "cases"
    LEDGER = "ledger"
    ADVICE = "advice"


class Peak(StrEnum):
    """Which load counts, of means of a minute."""

    P95 = "p95"
    P99 = "p99"
    P999 = "p99.9"
    MAX = "max"


class ShowPlan(StrEnum):
    """What a plan is shown as."""

    PLACEMENTS = "placements"
    PERIODS = "periods"
    PROOF = "proof"
    BINDING = "binding"


RATIO = {Peak.P95: 0.95, Peak.P99: 0.99, Peak.P999: 0.999, Peak.MAX: 1.0}
WINDOW_DAYS = 30

FleetOption = Annotated[
    Path | None,
    typer.Option("--fleet", metavar="FILE", help="Sites, power tree, racks, SKUs; else fleet.toml of the store."),
]
PeakOption = Annotated[Peak, typer.Option("--peak", help="Which load counts, of means of a minute.")]
DaysOption = Annotated[
    float, typer.Option("--min-days", min=0.0, metavar="DAYS", help="Refuse sites with fewer days of power.")
]
MeasuredOption = Annotated[
    bool, typer.Option("--measured/--unmeasured", help="By what the store measured, or by nameplates without a store.")
]
ShowPlanOption = Annotated[
    ShowPlan,
    typer.Option("--show", help="Placements; period by period; the proof, case by case; what limits the plan."),
]
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep the plan in the store, for pages and decisions.")]


@app.command()
def capacity(
    store: StoreOption = None,
    fleet: FleetOption = None,
    show: Annotated[Show, typer.Option("--show", help="Nodes; failure cases; the stranded power; what to do.")] = (
        Show.NODES
    ),
    site: Annotated[list[str] | None, typer.Option("--site", help="Only this site; may be repeated.")] = None,
    peak: PeakOption = Peak.P99,
    min_days: DaysOption = 7.0,
    sku: Annotated[
        str | None, typer.Option("--sku", help="The server that is to fit; else the smallest that fleet.toml has.")
    ] = None,
    paths: Annotated[
        Path | None,
        typer.Option(
            "--paths",
            metavar="FILE",
            help="Sample paths of load as Parquet: node, path, time, power_w; else from the days measured.",
        ),
    ] = None,
    horizon: Annotated[str, typer.Option("--horizon", metavar="SPAN", help="How far ahead the runway looks.")] = "365d",
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
    Headroom of every node of the power tree in its worst single failure, its runway, and what still fits.

    --since is 30 days before the newest reading by default. --check 'headroom_w<0' exits with 4 if one is overloaded.
    """
    import polars as pl

    from analytics.capacity.assessment import nodes
    from analytics.capacity.headroom import cases
    from analytics.capacity.ledger import ledger
    from analytics.planning.decisions import decisions

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    found, pue = _ready(root, asked, fleet, site, peak=peak, min_days=min_days)
    server = _server(found.fleet, sku)
    if show is Show.CASES:
        frame = pl.concat(cases(one) for one in found.surveys)
    elif show is Show.LEDGER:
        frame = pl.concat(ledger(one, server) for one in found.surveys)
    else:
        ahead = _paths(found, paths, horizon)
        frame = nodes(found, sku=server, paths=ahead)
        if show is Show.ADVICE:
            frame = decisions(found, frame, sku=server, paths=ahead, pue=pue)
        elif asked.output.format is Format.TABLE:
            frame = frame.select(_BRIEF).with_columns(pl.col(pl.Datetime).dt.date())
    answer(f"capacity.{show.value}", frame.lazy(), asked, check)


_BRIEF = (
    "node", "kind", "load_p50_w", "load_p99_w", "load_max_w", "derated_w", "safe_w", "failure_load_w", "worst_failure",
    "headroom_w", "free_w", "servers", "runway_p10", "runway_p50", "runway_p90", "binding", "order_by",
)  # fmt: skip


@app.command()
def fit(
    sku: Annotated[str, typer.Option("--sku", help="Which servers, as fleet.toml calls them.")],
    count: Annotated[int, typer.Option("--count", min=1, max=100_000, help="How many.")],
    store: StoreOption = None,
    fleet: FleetOption = None,
    site: Annotated[list[str] | None, typer.Option("--site", help="Only there; may be repeated.")] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="DATE", help="When they are to stand there; else after their lead time."),
    ] = None,
    nameplate: Annotated[
        bool,
        typer.Option("--nameplate", help="Plan a server with its nameplate, not with the most it was seen to draw."),
    ] = False,
    measured: MeasuredOption = True,
    show: ShowPlanOption = ShowPlan.PLACEMENTS,
    peak: PeakOption = Peak.P99,
    min_days: DaysOption = 7.0,
    keep: KeepOption = False,
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
    Where the next servers fit, safe in every single failure: the racks, the proof, what limits it and the next best.

    Where they do not fit, the constraints in conflict are named, and the exit code is 1.
    """
    from analytics.planning.plan import fit as fit_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    # What was asked is looked at before a month of readings is.
    server = _server(fleet_of(root, fleet), sku)
    assert server is not None
    start = datetime.now(UTC).date() + timedelta(days=server.lead_days) if by is None else _day(by)
    ready = _ready(root, asked, fleet, site, peak=peak, min_days=min_days, measured=measured)
    told = fit_of(ready.found, server, count, start=start, sites=site or (), nameplate=nameplate, pue=ready.pue)
    _give_plan(told, ready.found.fleet, root, asked, check, show, keep=keep)


@app.command()
def plan(
    ask: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.toml: periods, budget and demands.")],
    store: StoreOption = None,
    fleet: FleetOption = None,
    measured: MeasuredOption = True,
    show: ShowPlanOption = ShowPlan.PLACEMENTS,
    peak: PeakOption = Peak.P99,
    min_days: DaysOption = 7.0,
    gap: Annotated[
        float, typer.Option("--gap", min=0.0, max=0.5, metavar="RATIO", help="How far from the best is near enough.")
    ] = 0.001,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="How long to look for the best.")] = 60.0,
    keep: KeepOption = False,
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
    The cheapest plan for the demands of PLAN: which servers go where and when, safe in every single failure.

    Where the demands cannot be met, the constraints in conflict are named, and the exit code is 1.
    """
    from analytics.frames import read_plan
    from analytics.planning.plan import plan as plan_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    wanted = read_plan(ask, fleet_of(root, fleet))
    ready = _ready(root, asked, fleet, None, peak=peak, min_days=min_days, measured=measured)
    told = plan_of(ready.found, wanted, pue=ready.pue, gap_ratio=gap, time_s=seconds)
    _give_plan(told, ready.found.fleet, root, asked, check, show, keep=keep)


@fleet_app.command("check")
def check_fleet(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A fleet.toml.")],
    quiet: QuietOption = False,
) -> None:
    """Check a fleet.toml: what is wrong is named with key, value and limit, and the exit code is 2."""
    from analytics.frames import read_fleet

    found = read_fleet(file)
    say(
        f"{file}: {len(found.sites)} sites, {len(found.domains)} power domains, {len(found.racks)} racks, "
        f"{len(found.skus)} device types"
    )


@fleet_app.command("show")
def show_fleet(
    store: StoreOption = None,
    fleet: FleetOption = None,
    site: Annotated[list[str] | None, typer.Option("--site", help="Only this site; may be repeated.")] = None,
    peak: PeakOption = Peak.P99,
    min_days: DaysOption = 0.0,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """The power tree with what each node carries, and what is left of it in the worst single failure."""
    from analytics.capacity.drawing import drawing

    asked = request(Format.TABLE, None, None, since, until, tz)
    found = _ready(store_root(store), asked, fleet, site, peak=peak, min_days=min_days).found
    for one in found.surveys:
        typer.echo(drawing(one))


# ----------------------------------------------------------------------------------------------------- what they share


def fleet_of(root: Path, file: Path | None) -> "Fleet":
    """
    The fleet as *file* describes it, or the store's own fleet.toml.

    Raises: ConfigError.
    """
    from analytics.frames import read_fleet

    path = file or root / "fleet.toml"
    if file is None and not path.exists():
        raise ConfigError("--fleet", f"is needed: there is no {path} that says what the fleet is")
    return read_fleet(path)


class _Ready(NamedTuple):
    """The sites surveyed, and the PUE of those where it is measured."""

    found: "Assessment"
    pue: dict[str, float]


def _ready(
    root: Path,
    asked: Request,
    file: Path | None,
    sites: list[str] | None,
    *,
    peak: Peak,
    min_days: float,
    measured: bool = True,
) -> _Ready:
    """
    The sites surveyed over the window, or by nameplates alone; those with too little data are named on stderr.

    Raises: ConfigError, StoreError, NotEnoughData.
    """
    from analytics.attribution import measured_pue
    from analytics.capacity.assessment import assess
    from analytics.capacity.load import no_minutes
    from analytics.frames import power_minutes, scan

    fleet, pue = fleet_of(root, file), {}
    for name in sites or ():
        if name not in {one.name for one in fleet.sites}:
            raise ConfigError("--site", f"is {name!r}; there are {', '.join(one.name for one in fleet.sites)}")
    told = no_minutes(time.time_ns())
    if measured:
        told = power_minutes(root, asked.start_ns, asked.end_ns, days=WINDOW_DAYS, now_ns=time.time_ns())
        facility = scan(root, "facility_samples", told.start_ns, told.end_ns)
        pue = dict(measured_pue(facility).select("site", "pue").collect().iter_rows())
    chosen = fleet.only(sites) if sites else fleet
    found = assess(chosen, told, pue=pue, percentile=RATIO[peak], min_days=min_days)
    for reason in found.refused.values():
        warn(reason)
    return _Ready(found, pue)


def _day(text: str) -> date:
    """
    A date.

    Raises: ConfigError.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("--by", f"is {text!r}, not a date; write 2027-03-01") from error


def _give_plan(
    told: "Plan", fleet: "Fleet", root: Path, asked: Request, check: list[str] | None, show: ShowPlan, *, keep: bool
) -> None:
    """Say what a plan comes to, keep it, write it; one that cannot be met ends with 1."""
    import polars as pl

    from analytics.planning.periods import by_period
    from analytics.planning.result import table
    from collector.store import Store

    for line in told.said():
        say(line)
    if told.violations:
        raise QueryError(f"the plan does not hold, which is a fault of perfwatt: {'; '.join(told.violations)}")
    if keep:
        Store(root).write("plans", table(told, time_ns=time.time_ns()), writer="plan")
    if not told.found:
        warn(told.refusal())
        raise typer.Exit(AT_FAULT)
    frames = [told.placements, *([told.runner_up.placements] if told.runner_up is not None else [])]
    frame = {
        ShowPlan.PLACEMENTS: pl.concat(frames), ShowPlan.PERIODS: by_period(told, fleet), ShowPlan.PROOF: told.proof,
        ShowPlan.BINDING: told.binding,
    }[show]  # fmt: skip
    answer(f"plan.{show.value}", frame.lazy(), asked, check)


def _server(fleet: "Fleet", name: str | None) -> "Sku | None":
    """
    The SKU called *name*, or that with the smallest server.

    Raises: ConfigError.
    """
    from analytics.capacity.ledger import server_w, smallest_server

    if name is None:
        smallest = smallest_server(fleet)
        if smallest is None:
            say("no [[sku]] tells what its server draws: what still fits is not known")
        return smallest
    found = fleet.sku(name)
    if found is None:
        raise ConfigError("--sku", f"is {name!r}, which no [[sku]] is called; there are {_names(fleet)}")
    if server_w(found.server) is None:
        raise ConfigError("--sku", f"is {name!r}, of which no [sku.server] tells peak_w or nameplate_w")
    return found


def _names(fleet: "Fleet") -> str:
    return ", ".join(sku.name for sku in fleet.skus) or "none"


def _paths(found: "Assessment", file: Path | None, horizon: str) -> "dict[str, pl.DataFrame]":
    """
    Sample paths of each site: of a file, or of the days that are measured, where they are enough.

    Raises: ConfigError, QueryError.
    """
    import polars as pl

    from analytics.capacity.paths import PATHS, daily_peaks
    from analytics.capacity.paths import paths as paths_of
    from collector.moments import NS, parse_span

    days = round(parse_span(horizon, option="--horizon") / (86_400 * NS))
    if not 1 <= days <= 3650:
        raise ConfigError("--horizon", f"is {horizon!r}, not within 1 to 3650 days")
    if file is not None:
        try:
            told = pl.read_parquet(file)
            told = told.select(pl.col(name).cast(kind) for name, kind in PATHS.items())
        except (OSError, pl.exceptions.PolarsError) as error:
            raise QueryError(f"{file}: no sample paths (node, path, time, power_w): {error}") from error
        return {one.tree.site.name: told for one in found.surveys}
    ahead = {}
    for one in found.surveys:
        try:
            daily = daily_peaks(one)
            ahead[one.tree.site.name] = paths_of(daily, days=days)
            say(f"{one.tree.site.name}: {_reach(daily, ahead[one.tree.site.name], one.tree.site.lead_days)}")
        except NotEnoughData as error:
            say(f"{one.tree.site.name}: {error}")
    return ahead


def _reach(daily: "pl.DataFrame", ahead: "pl.DataFrame", lead_days: float | None) -> str:
    """How far runway looks, of how many days, and whether that is far enough to order in time."""
    import polars as pl

    from analytics.capacity.paths import REACH

    known, far = daily["day"].n_unique(), ahead["time"].n_unique()
    last = ahead.select(pl.col("time").max().dt.strftime("%Y-%m-%d")).item()
    said = f"runway by a straight line through {known} days, up to {last}"
    if far == REACH * known:
        said += f" ({REACH} times as far as was measured)"
    said += "; no date means later than that"
    if lead_days is not None and lead_days > far:
        said += f". More power takes {lead_days:g} days: what runs out sooner than it comes may not be seen yet"
    return said
