"""The command that says what will be: forecast."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from analytics.commands import answer
from collector.errors import ConfigError, StoreError
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

if TYPE_CHECKING:
    import polars as pl

    from analytics.forecasts.series import Place

app = typer.Typer(rich_markup_mode=None)


class Subject(StrEnum):
    """What is forecast."""

    POWER = "power"
    DEVICES = "devices"
    TOKENS = "tokens"


class Whose(StrEnum):
    """Whose power, or who holds devices."""

    FLEET = "fleet"
    SITE = "site"
    HOST = "host"
    TEAM = "team"
    USER = "user"


_PER = {
    Subject.POWER: (Whose.FLEET, Whose.SITE, Whose.HOST),
    Subject.DEVICES: (Whose.FLEET, Whose.TEAM, Whose.USER),
    Subject.TOKENS: (),
}


@app.command()
def forecast(
    what: Annotated[
        Subject, typer.Argument(help="Power, devices held, or tokens per second by model.")
    ] = Subject.POWER,
    per: Annotated[
        Whose | None,
        typer.Option("--per", help="Power of each site, host or the fleet; devices of each team, user or the fleet."),
    ] = None,
    horizon: Annotated[
        str, typer.Option("--horizon", metavar="SPANS", help="How far ahead; several with commas between.")
    ] = "1h,6h,24h",
    step: Annotated[str, typer.Option("--step", metavar="SPAN", help="The grid; it divides a day.")] = "10m",
    fleet: Annotated[
        Path | None, typer.Option("--fleet", metavar="FILE", help="fleet.toml; the store's own if not given.")
    ] = None,
    store: StoreOption = None,
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
    What power, demand or throughput will be, as quantiles, by the method that was best on what came before.

    Each horizon says which method that is, its loss beside the best baseline's and how many outcomes it was tried on.
    Without --since two weeks are learned from.
    """
    from collector.moments import NS, parse_span

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    end_ns = asked.end_ns or time.time_ns()
    start_ns = asked.start_ns or end_ns - 14 * 86_400 * NS
    step_s = parse_span(step, option="--step") // NS
    if step_s < 1 or 86_400 % step_s:
        raise ConfigError("--step", f"{step}: whole seconds that divide a day, such as 10m, 15m or 1h")
    horizons = [parse_span(part.strip(), option="--horizon") // NS for part in horizon.split(",")]
    if any(ahead < step_s or ahead % step_s for ahead in horizons):
        raise ConfigError("--horizon", f"{horizon}: whole steps of {step}")
    if per is not None and per not in _PER[what]:
        allowed = ", ".join(_PER[what]) or "nothing: they are of models"
        raise ConfigError("--per", f"{per.value}: of {what.value} there is {allowed}")
    from analytics.forecasts.forecast import forecast as forecast_of

    series = _series(root, what, per or (*_PER[what], Whose.FLEET)[0], fleet, start_ns, end_ns, step_s)
    try:
        found = forecast_of(series, horizons_s=horizons, step_s=step_s)
    except ValueError as error:
        raise StoreError(root, f"no forecast of {what.value}: {error}") from error
    answer("forecast", found.lazy().drop("model_version"), asked, check)


def _series(
    root: Path, what: Subject, per: Whose, fleet: Path | None, start_ns: int, end_ns: int, step_s: int
) -> "pl.LazyFrame":
    """
    What is forecast, as series.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    import polars as pl

    from analytics.forecasts.series import devices_series, power_series, tokens_series
    from analytics.frames import boards, by_device, over_devices, scan

    if what is Subject.TOKENS:
        return tokens_series(scan(root, "workload_samples", start_ns, end_ns), step_s=step_s)
    if what is Subject.DEVICES:
        allocations = scan(root, "allocations", None, end_ns)
        return devices_series(allocations, start_ns, end_ns, step_s=step_s, per=per.value)
    hosts: dict[str, str] = {}
    if per is Whose.SITE:
        from analytics.commands_cost import fleet_of

        known = scan(root, "devices").select(pl.col("host").drop_nulls().unique()).collect()["host"].to_list()
        hosts = fleet_of(root, fleet).site_of(known)
    parts = by_device(root, "device_samples", start_ns, end_ns)
    place = cast("Place", per.value)
    return power_series(parts, over_devices, step_s=step_s, place=place, hosts=hosts, devices=boards(root))
