"""The command `report job`: one screen about one job."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import tzinfo
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analytics.commands import GapOption
from analytics.commands_compare import unknown
from analytics.commands_cost import FleetOption, fleet_of
from collector.moments import format_moment, zone
from collector.options import (
    CheckOption,
    Checks,
    ConfigOption,
    FileOption,
    QuietOption,
    StoreOption,
    TzOption,
    store_root,
)
from collector.output import opened, printable

if TYPE_CHECKING:
    import polars as pl

    from analytics.report_records import DeviceUse, JobReport

app = typer.Typer(rich_markup_mode=None)
report_app = typer.Typer(name="report", help="Reports on one screen.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(report_app)

WIDTH = 100
_HOUR_NS = 3_600_000_000_000
RUNS = 20
"""Other runs that are worked out where no job has done so, the latest."""


class Shape(StrEnum):
    """What a report is written as."""

    TABLE = "table"
    JSON = "json"


@report_app.command()
def job(
    workload: Annotated[str, typer.Argument(metavar="ID", help="The workload: a job id, as allocations call it.")],
    store: StoreOption = None,
    fleet: FleetOption = None,
    max_gap: GapOption = None,
    output: Annotated[Shape, typer.Option("--output", "-o", help="A screen of text, or JSON.")] = Shape.TABLE,
    file: FileOption = None,
    tz: TzOption = "UTC",
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    One job on one screen: what it used, achieved, wasted and cost, how it compares, and which flag to change.

    A --check is tried on the figures of the report: energy_j, covered_ratio, device_h, joules_per_token, total_cost,
    wasted_ratio, findings ...
    """
    from analytics.frames import of_workload, scan
    from analytics.report import job_report

    root, place = store_root(store), zone(tz)
    told = of_workload(root, workload)
    runs = _runs(root, workload, told.workload_samples)
    found = job_report(workload, told, fleet=fleet_of(root, fleet), runs=runs, max_gap_s=max_gap)
    if found is None:
        names = scan(root, "allocations").select("workload").unique().collect().to_series().to_list()
        raise unknown("job", workload, names)
    figures = figures_of(found)
    checks = Checks(check, list(figures))
    with opened(file) as out:
        if output is Shape.JSON:
            out.write(json.dumps({"schema": "perfwatt.report/1", **asdict(found)}, allow_nan=False) + "\n")
        else:
            out.writelines(line + "\n" for line in screen(found, place))
    checks.conclude(checks.watch(iter([list(figures.values())])))


def _runs(root: Path, workload: str, own: "pl.LazyFrame") -> "pl.LazyFrame | None":
    """
    Other runs of the same model: as the job of that name worked them out, else the latest few of them from samples.

    Raises: StoreError.
    """
    import polars as pl

    from analytics.efficiency import efficiency
    from analytics.frames import scan
    from analytics.inventory import held
    from analytics.report import other_runs

    models = own.select("model").drop_nulls().unique().collect().to_series()
    if models.is_empty():
        return None
    same = pl.col("model").is_in(models.implode())
    devices, allocations = scan(root, "devices").collect().lazy(), scan(root, "allocations").collect().lazy()
    derived = scan(root, "efficiency", where=same).collect()
    if not derived.is_empty():
        return other_runs(derived.lazy(), allocations, devices)
    seen = scan(root, "workload_samples", where=same & (pl.col("workload") != workload))
    times = seen.group_by("workload").agg(first=pl.col("time").min(), last=pl.col("time").max())
    others = times.sort("last").tail(RUNS).collect()
    if others.is_empty():
        return None
    names = pl.col("workload").is_in(others["workload"].implode())
    start, end = (int(others[name].to_physical().sort()[at]) for name, at in (("first", 0), ("last", -1)))
    holding = held(allocations.filter(names), start, end + 1).collect().lazy()
    of = pl.col("device").is_in(holding.select("device").unique().collect().to_series().implode())
    samples = scan(root, "device_samples", start, end + 1, of)
    work = scan(root, "workload_samples", start, end + 1, names)
    return other_runs(efficiency(samples, work, holding, devices=devices), allocations, devices)


def figures_of(report: "JobReport") -> dict[str, float | None]:
    """The figures of a report that a --check is tried on."""
    wasted = [line for line in report.waste if line.cause != "useful"]
    work = report.work
    return {
        "device_h": report.device_h,
        "energy_j": report.energy.energy_j,
        "covered_ratio": report.energy.covered_ratio,
        "modelled_ratio": report.energy.modelled_ratio,
        "power_mean_w": report.energy.power_mean_w,
        "energy_cost": report.money.energy,
        "total_cost": report.money.total,
        "carbon_location_kg": report.money.carbon_location_kg,
        "tokens": work.tokens,
        "tokens_per_s": work.tokens_per_s,
        "joules_per_token": work.joules_per_token,
        "joules_per_step": work.joules_per_step,
        "joules_per_sample": work.joules_per_sample,
        "better_ratio": report.standing.better_ratio if report.standing else None,
        "wasted_ratio": sum(line.ratio for line in wasted),
        "wasted_j": sum(line.energy_j or 0.0 for line in wasted),
        "findings": float(len(report.findings)),
    }


# ------------------------------------------------------------------------------------------------------------ screen


def screen(report: "JobReport", tz: tzinfo) -> Iterator[str]:
    """A report as lines of text, at most `WIDTH` wide but for names."""
    yield "=" * WIDTH
    yield f" Job {printable(report.workload)}"
    yield "=" * WIDTH
    yield from _wrapped("Who", " ".join(_words(report)))
    yield from _wrapped("Where", _where(report))
    yield from _wrapped("When", _when(report, tz))
    yield from _wrapped("Energy", _energy(report))
    yield from _wrapped("Cost", _cost(report))
    yield from _wrapped("Work", _work(report))
    yield from _wrapped("Standing", _standing(report))
    yield ""
    yield from _devices(report.devices)
    yield ""
    yield from _wasted(report)
    if report.throttled:
        said = ", ".join(f"{one.reason.replace('_', ' ')} {one.ratio:.1%}" for one in report.throttled)
        yield from _wrapped("Throttled", f"{said} of the time")
    if report.imbalance is not None:
        slow = report.imbalance
        yield from _wrapped(
            "Slowest",
            f"{slow.device} on {slow.host or 'an unknown host'}: {slow.clock_hz / 1e6:.0f} MHz while busy, "
            f"{slow.behind_ratio:.0%} below the median of the others",
        )
    yield ""
    yield from _findings(report)
    yield "=" * WIDTH


def _wrapped(title: str, text: str) -> Iterator[str]:
    """A titled paragraph."""
    from textwrap import wrap

    for number, line in enumerate(wrap(printable(text), WIDTH - 12) or ["-"]):
        yield f" {title if not number else '':<10} {line}"


def _words(report: "JobReport") -> Iterator[str]:
    yield f"{report.name or 'unnamed'},"
    yield f"user {report.user or 'unknown'}" + (f" of {report.team}" if report.team else "")
    if report.model:
        yield f"| {report.model}" + (f" on {report.framework}" if report.framework else "")
    elif report.framework:
        yield f"| {report.framework}"


def _where(report: "JobReport") -> str:
    skus: dict[str, int] = {}
    for device in report.devices:
        skus[device.sku or "unknown device"] = skus.get(device.sku or "unknown device", 0) + 1
    devices = ", ".join(f"{count} x {sku}" for sku, count in sorted(skus.items()))
    hosts = ", ".join(report.hosts[:8]) + (f" and {len(report.hosts) - 8} more" if len(report.hosts) > 8 else "")
    sites = f" ({', '.join(report.sites)})" if report.sites else ""
    return f"{devices} on {hosts or 'unknown hosts'}{sites}"


def _when(report: "JobReport", tz: tzinfo) -> str:
    start = format_moment(report.start_ns, tz)
    if report.end_ns is not None:
        span = _span((report.end_ns - report.start_ns) / 1e9)
        text = f"{start} to {format_moment(report.end_ns, tz)}, {span}"
    else:
        text = f"since {start}, still running"
    text += f"; {report.device_h:.1f} device-hours seen"
    if report.seen_ns is not None and report.seen_ns[0] > report.start_ns + _HOUR_NS:
        text += f", from {format_moment(report.seen_ns[0], tz)} on"
    return text


def _energy(report: "JobReport") -> str:
    energy = report.energy
    if energy.energy_j is None:
        return "not measured"
    text = f"{_kwh(energy.energy_j)}"
    if energy.low_j is not None and energy.high_j is not None:
        text += f" ({_kwh(energy.low_j)} to {_kwh(energy.high_j)})"
    text += f", {energy.covered_ratio:.0%} of the time covered"
    if energy.counter_ratio is not None:
        text += f", {energy.counter_ratio:.0%} by energy counters, {energy.modelled_ratio or 0.0:.0%} modelled"
    return f"{text}; {energy.power_mean_w:.0f} W a device" if energy.power_mean_w is not None else text


def _cost(report: "JobReport") -> str:
    money = report.money
    if money.energy is None and money.devices is None and money.carbon_location_kg is None:
        return "not known: fleet.toml has no prices for it"
    unit = money.currency or ""
    parts = []
    if money.total is not None:
        shares = f"energy {money.energy:.2f} ({money.price_basis}), devices {money.devices:.2f}"
        parts.append(f"{money.total:.2f} {unit}: {shares}")
    elif money.energy is not None:
        parts.append(f"energy {money.energy:.2f} {unit} ({money.price_basis})")
    elif money.devices is not None:
        parts.append(f"devices {money.devices:.2f} {unit}")
    if money.facility is not None and money.pue is not None:
        parts.append(f"the facility adds {money.facility:.2f} (PUE {money.pue:.2f})")
    if money.carbon_location_kg is not None:
        market = "" if money.carbon_market_kg is None else f", {money.carbon_market_kg:.1f} kg market-based"
        parts.append(f"{money.carbon_location_kg:.1f} kg CO2e{market}")
    return "; ".join(parts)


def _work(report: "JobReport") -> str:
    work = report.work
    parts = []
    for count, name in ((work.tokens, "tokens"), (work.steps, "steps"), (work.samples, "samples"),
                        (work.requests, "requests")):  # fmt: skip
        if count is not None:
            parts.append(f"{_count(count)} {name}")
    if work.tokens_per_s is not None:
        parts.append(f"{_count(work.tokens_per_s)} tokens/s")
    for value, name in ((work.joules_per_token, "J/token"), (work.joules_per_step, "J/step"),
                        (work.joules_per_sample, "J/sample")):  # fmt: skip
        if value is not None:
            parts.append(f"{_joules(value)} {name}")
    if work.best_joules_per_token is not None:
        parts.append(f"at best {_joules(work.best_joules_per_token)} J/token")
    if work.latency_p50_s is not None:
        parts.append(f"latency p50 {work.latency_p50_s:.2g} s")
    return ", ".join(parts) or "nothing was counted"


def _standing(report: "JobReport") -> str:
    standing = report.standing
    if standing is None:
        return "not known"
    unit = "J/" + standing.metric.removeprefix("joules_per_")
    return (
        f"needs less than {standing.better_ratio:.0%} of {standing.runs} other runs of {standing.of}: "
        f"{_joules(standing.value)} {unit}, median {_joules(standing.median)}, best {_joules(standing.best)} "
        f"({standing.best_run})"
    )


def _devices(devices: Sequence["DeviceUse"]) -> Iterator[str]:
    """A row for each device, of many those that are used least and most of what."""
    head = f" {'Devices':<22} {'utilisation':<17} {'units active':<17} {'tensor':>6} {'memory':<12} {'W':>5} {'°C':>4}"
    yield head
    shown = devices if len(devices) <= 16 else [*devices[:15]]
    for device in shown:
        named = device.host is not None and device.ordinal is not None
        name = f"{device.host}:{device.ordinal}" if named else device.device
        yield (
            f" {printable(name)[:22]:<22} {_bar(device.utilization_ratio)} {_bar(device.sm_ratio)} "
            f"{_percent(device.tensor_ratio):>6} {_bar(device.memory_ratio, 6)} "
            f"{'-' if device.power_mean_w is None else f'{device.power_mean_w:.0f}':>5} "
            f"{'-' if device.temperature_max_c is None else f'{device.temperature_max_c:.0f}':>4}"
            + (f"  {device.throttled[0].reason} {device.throttled[0].ratio:.0%}" if device.throttled else "")
        )
    if len(shown) < len(devices):
        yield f" ... and {len(devices) - len(shown)} more; -o json has all"


def _bar(ratio: float | None, width: int = 10) -> str:
    if ratio is None:
        return f"{'-':<{width + 6}}"
    full = round(min(max(ratio, 0.0), 1.0) * width)
    return f"[{'|' * full}{' ' * (width - full)}]{ratio:>4.0%}".ljust(width + 6)


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0%}"


def _wasted(report: "JobReport") -> Iterator[str]:
    lines = [line for line in report.waste if line.ratio >= 0.001]
    if not lines:
        yield from _wrapped("Wasted", "nothing that was measured")
        return
    said = []
    for line in lines:
        why = f" ({line.reason.replace('_', ' ')})" if line.reason else ""
        joules = "" if line.energy_j is None else f", {_kwh(line.energy_j)}"
        joules += "" if line.cost is None else f", {line.cost:.2f} {report.money.currency or ''}".rstrip()
        said.append(f"{line.cause}{why} {line.ratio:.0%} of the time{joules}")
    yield from _wrapped("Wasted", "; ".join(said))


def _findings(report: "JobReport") -> Iterator[str]:
    from textwrap import wrap

    if not report.findings:
        yield from _wrapped("Findings", "none" + (": " + "; ".join(report.thin) if report.thin else ""))
        return
    yield " Findings"
    for number, one in enumerate(report.findings, start=1):
        cost = [] if one.energy_j is None else [f"up to {_kwh(one.energy_j)}"]
        if one.cost is not None:
            cost.append(f"{one.cost:.2f} {report.money.currency or ''}".strip())
        text = printable(one.text) + (f" [{', '.join(cost)}]" if cost else "")
        for at, line in enumerate(wrap(text, WIDTH - 5)):
            yield f" {f'{number}.' if not at else '':<3} {line}"
        for at, line in enumerate(wrap(printable(one.change), WIDTH - 8)):
            yield f"     {'->' if not at else '  '} {line}"
    for reason in report.thin:
        yield from _wrapped("Not known", reason)


def _joules(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _kwh(joules: float) -> str:
    kwh = joules / 3.6e6
    return f"{kwh:.3g} kWh" if kwh >= 0.1 else f"{1000 * kwh:.3g} Wh"


def _count(value: float) -> str:
    for size, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (size if size > 1e4 else 1e3):.3g}{name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    return (f"{days} d " if days else "") + (f"{hours} h " if hours or days else "") + f"{minutes % 60} min"
