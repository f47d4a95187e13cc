"""The commands that analyse: devices, energy, calibrate, sensors."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

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
    give,
    request,
    say,
    store_root,
)
from collector.output import Format

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

app = typer.Typer(rich_markup_mode=None)


class Sensor(StrEnum):
    """Which reading of a board's power sensor."""

    POWER = "power_w"
    INSTANT = "power_instant_w"
    AVERAGE = "power_average_w"


ByOption = Annotated[
    str | None, typer.Option("--by", metavar="WINDOW", help="A row for each window, such as 5m or 1h, too.")
]
GapOption = Annotated[
    float | None,
    typer.Option(
        "--max-gap",
        metavar="SECONDS",
        min=0.001,
        help="Readings further apart than this are a gap; not given: 10, or 3.5 times a device's own interval where "
        "that is longer, at most 300.",
        show_default=False,
    ),
]
MetricOption = Annotated[Sensor, typer.Option("--metric", help="Which of the board's power readings.")]


@app.command()
def devices(
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
    """List the devices: as they last described themselves, and when they were measured."""
    from analytics.frames import scan
    from analytics.inventory import inventory

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    # A device describes itself once and is measured for years: the window is one of samples only.
    samples = scan(root, "device_samples", asked.start_ns, asked.end_ns)
    answer("devices", inventory(scan(root, "devices"), samples), asked, check)


@app.command()
def energy(
    store: StoreOption = None,
    by: ByOption = None,
    max_gap: GapOption = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also what a calibrated sensor shows and cannot see: jumps and beats.")
    ] = False,
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
    """Joules per device, with the seconds they cover and how much of them was measured, not modelled."""
    from analytics.frames import boards, scan

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    known = boards(root)
    if not calibration:
        answer("energy", _energy(root, asked, window_of(by), max_gap, known), asked, check)
        return
    from analytics.boards import latest_fits
    from analytics.calibration import calibrated_energy

    samples, fits = (
        scan(root, "device_samples", asked.start_ns, asked.end_ns),
        latest_fits(scan(root, "calibrations")),
    )
    found = calibrated_energy(samples, fits, by=window_of(by), max_gap_s=max_gap, devices=known)
    answer("energy", found, asked, check)


def _energy(
    root: "Path", asked: Request, by: str | None, max_gap: float | None, known: "pl.LazyFrame"
) -> "pl.LazyFrame":
    """Energy from rollups and the readings that are not rolled up; from readings where a gap or a window needs them."""
    from functools import partial

    from analytics.energy import energy as energy_of
    from analytics.energy import seconds
    from analytics.frames import by_device, over_devices, spliced
    from analytics.rollups import WINDOWS_S, energy_of_rollups

    window_s = 3600.0 if by is None else seconds(by)
    rolled = next((length for length in WINDOWS_S if window_s % length == 0), None)
    if rolled is not None and max_gap is None:
        found = spliced(root, asked.start_ns, asked.end_ns, window_s=rolled)
        if found is not None:
            return energy_of_rollups(found, by=by, devices=known)
    of_part = partial(energy_of, by=by, max_gap_s=max_gap, devices=known)
    return over_devices(of_part, by_device(root, "device_samples", asked.start_ns, asked.end_ns)).lazy()


@app.command()
def calibrate(
    device: Annotated[str, typer.Argument(help="The device whose sensor was recorded beside a meter.")],
    meter: Annotated[str, typer.Option("--meter", help="The reference, as facility_samples call it.")],
    store: StoreOption = None,
    metric: MetricOption = Sensor.POWER,
    source: Annotated[
        str | None, typer.Option("--source", help="The source, where several measured the device.")
    ] = None,
    accuracy: Annotated[
        float, typer.Option("--accuracy", metavar="RATIO", min=0.0, max=0.5, help="The meter's own: 0.01 is 1 %.")
    ] = 0.01,
    search: Annotated[
        float, typer.Option("--clocks", metavar="SECONDS", min=0.01, max=60.0, help="Clocks may differ by this much.")
    ] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and show; store nothing.")] = False,
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
    Fit a board's own gain and offset beside a reference meter, for every figure in joules of it.

    Record the device while its load varies, fast (nvidia-smi at 20 ms or faster), and the meter faster still. Bring
    both in with `perfwatt import`: the meter as facility_samples with meter_power_w.
    """
    import polars as pl

    from analytics.calibration import calibrate as calibration_of
    from analytics.frames import scan

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    of_device = (
        pl.col("device") == device if source is None else (pl.col("device") == device) & (pl.col("source") == source)
    )
    fit = calibration_of(
        scan(root, "device_samples", asked.start_ns, asked.end_ns, of_device),
        scan(root, "facility_samples", asked.start_ns, asked.end_ns, pl.col("meter") == meter),
        column=metric.value,
        search_s=search,
        reference_error_ratio=accuracy,
    )
    if not dry_run:
        _keep(root, fit)
    answer("calibrate", fit.lazy(), asked, check)


@app.command()
def sensors(
    store: StoreOption = None,
    metric: MetricOption = Sensor.POWER,
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
    """How often each power sensor updates and over which window it averages, as far as its readings tell."""
    from analytics.frames import scan
    from analytics.sensors import sensors as sensors_of

    asked, root = request(output, file, limit, since, until, tz), store_root(store)
    samples = scan(root, "device_samples", asked.start_ns, asked.end_ns)
    answer("sensors", sensors_of(samples, column=metric.value), asked, check)


# ----------------------------------------------------------------------------------------------------- what they share


def window_of(text: str | None) -> str | None:
    """
    A window as the jobs take it.

    Raises: ConfigError.
    """
    if text is None:
        return None
    from collector.moments import NS, parse_length

    # A sensor tells nothing finer, and a row for each millisecond of a fleet would fill the memory.
    return f"{parse_length(text, option='--by', least_s=0.1) / NS}s"


def _keep(root: "Path", fit: "pl.DataFrame") -> None:
    """Put a calibration into the store."""
    from collector.store import Store

    Store(root).write("calibrations", fit, writer="calibrate")


def answer(schema: str, frame: "pl.LazyFrame", asked: Request, check: Sequence[str] | None) -> None:
    """Collect *frame* and write it; empty, say where nothing was found."""
    from analytics.answers import answer_of

    found = frame.collect()
    if found.is_empty():
        say("nothing found; 'perfwatt doctor' says what the store holds")
    fields, rows = answer_of(found)
    give(schema, fields, rows, asked, check)
