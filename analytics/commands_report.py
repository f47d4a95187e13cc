"""The command `report job`: one screen about one job."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import tzinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from analytics import report_words as words
from analytics.commands import GapOption
from analytics.commands_compare import unknown
from analytics.commands_cost import FleetOption, fleet_of
from collector.moments import zone
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
    from analytics.report_records import DeviceUse, JobReport

app = typer.Typer(rich_markup_mode=None)
report_app = typer.Typer(name="report", help="Reports on one screen.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(report_app)

WIDTH = 100


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
    from analytics.frames_ledger import read_other_runs
    from analytics.report import job_report

    root, place = store_root(store), zone(tz)
    told = of_workload(root, workload)
    runs = read_other_runs(root, workload, told.workload_samples)
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
    yield from _wrapped("Who", words.who(report))
    yield from _wrapped("Where", words.where(report))
    yield from _wrapped("When", words.when(report, tz))
    yield from _wrapped("Energy", words.energy(report))
    yield from _wrapped("Cost", words.cost(report))
    yield from _wrapped("Work", words.work(report))
    yield from _wrapped("Standing", words.standing(report))
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
        joules = "" if line.energy_j is None else f", {words.amount(line.energy_j)}"
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
        cost = [] if one.energy_j is None else [f"up to {words.amount(one.energy_j)}"]
        if one.cost is not None:
            cost.append(f"{one.cost:.2f} {report.money.currency or ''}".strip())
        text = printable(one.text) + (f" [{', '.join(cost)}]" if cost else "")
        for at, line in enumerate(wrap(text, WIDTH - 5)):
            yield f" {f'{number}.' if not at else '':<3} {line}"
        for at, line in enumerate(wrap(printable(one.change), WIDTH - 8)):
            yield f"     {'->' if not at else '  '} {line}"
    for reason in report.thin:
        yield from _wrapped("Not known", reason)
