"""``perfwatt import``: history from elsewhere into the store."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collector.options import (
    ConfigOption,
    FileOption,
    OutputOption,
    QuietOption,
    StoreOption,
    exit_code,
    say,
    store_root,
    warn,
)
from collector.output import Field, Format, Output

if TYPE_CHECKING:
    from collector.imports.clocks import Zone
    from collector.imports.report import Report, Unit
    from collector.store import Store

app = typer.Typer(
    name="import",
    help="""Bring history from elsewhere into the store.

    The report is on stdout, everything else on stderr. Exit codes: 0 all was taken in; 1 something was refused (nothing
    of it is stored); 2 a wrong option or mapping; 3 no connection, try again.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)


DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and report; store nothing.")]
Partial = Annotated[bool, typer.Option("--partial", help="Import the good lines of what has bad ones.")]
Tz = Annotated[
    str | None,
    typer.Option("--tz", help="Zone of times that have none: UTC, +01:00, Europe/Berlin.", show_default=False),
]
Host = Annotated[str | None, typer.Option("--host", help="Host or system, instead of what the file says.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="Device id for a file that has none: ID, or INDEX=ID for each.", show_default=False),
]
Directory = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Searched with all folders below it.")]
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]


@app.command("mlperf-training")
def mlperf_training(
    directory: Directory,
    store: StoreOption = None,
    dry_run: DryRun = False,
    partial: Partial = False,
    tz: Tz = None,
    host: Host = None,
    output: OutputOption = Format.TABLE,
    report_file: FileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """MLPerf training: result_N.txt with power/result_N/node_K.txt; clocks that are hours off are aligned."""

    def units() -> "Iterator[Unit]":
        from collector.imports.mlperf_training import read_training

        return read_training(directory, host=host, tz=_zone(tz))

    _import(
        "mlperf-training",
        str(directory),
        units,
        store,
        dry_run=dry_run,
        partial=partial,
        output=Output(format=output, file=report_file),
    )


@app.command("mlperf-inference")
def mlperf_inference(
    directory: Directory,
    store: StoreOption = None,
    dry_run: DryRun = False,
    partial: Partial = False,
    tz: Tz = None,
    host: Host = None,
    output: OutputOption = Format.TABLE,
    report_file: FileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """MLPerf inference: spl.txt with mlperf_log_summary.txt and mlperf_log_detail.txt."""

    def units() -> "Iterator[Unit]":
        from collector.imports.mlperf_inference import read_inference

        return read_inference(directory, host=host, tz=_zone(tz))

    _import(
        "mlperf-inference",
        str(directory),
        units,
        store,
        dry_run=dry_run,
        partial=partial,
        output=Output(format=output, file=report_file),
    )


@app.command("nvidia-smi")
def nvidia_smi(
    file: File,
    store: StoreOption = None,
    dry_run: DryRun = False,
    partial: Partial = False,
    tz: Tz = None,
    host: Host = None,
    device: Devices = None,
    fields: Annotated[
        str | None, typer.Option("--fields", help="The --query-gpu fields of a file without a header.")
    ] = None,
    output: OutputOption = Format.TABLE,
    report_file: FileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """nvidia-smi --query-gpu=... --format=csv: any columns; its times are local, so --tz is needed."""

    def units() -> "Iterator[Unit]":
        from collector.imports.nvidia_smi import read_query

        names = fields.split(",") if fields else ()
        return read_query(file, tz=_zone(tz), host=host, devices=_named(device), fields=names)

    _import(
        "nvidia-smi",
        str(file),
        units,
        store,
        dry_run=dry_run,
        partial=partial,
        output=Output(format=output, file=report_file),
    )


@app.command("dmon")
def dmon(
    file: File,
    store: StoreOption = None,
    dry_run: DryRun = False,
    partial: Partial = False,
    tz: Tz = None,
    host: Host = None,
    device: Devices = None,
    start: Annotated[
        str | None,
        typer.Option("--start", help="Local time of the first line of a file without dates (dmon without -o DT)."),
    ] = None,
    period: Annotated[
        float | None, typer.Option("--period", min=0.001, help="Seconds between readings of a file without times.")
    ] = None,
    output: OutputOption = Format.TABLE,
    report_file: FileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """nvidia-smi dmon: any selection; devices are named by --device INDEX=ID."""

    def units() -> "Iterator[Unit]":
        from collector.imports.dmon import read_dmon

        return read_dmon(file, tz=_zone(tz), host=host, devices=_named(device), start=_local(start), period_s=period)

    _import(
        "dmon",
        str(file),
        units,
        store,
        dry_run=dry_run,
        partial=partial,
        output=Output(format=output, file=report_file),
    )


@app.command("table")
def table(
    file: File,
    mapping: Annotated[Path, typer.Option("--mapping", help="TOML: time, subject and metrics by column and unit.")],
    store: StoreOption = None,
    dry_run: DryRun = False,
    partial: Partial = False,
    tz: Tz = None,
    host: Host = None,
    device: Annotated[
        str | None, typer.Option("--device", help="The subject, instead of what the mapping says.")
    ] = None,
    output: OutputOption = Format.TABLE,
    report_file: FileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """
    Any CSV or Parquet file, by a mapping file.

    \b
    table = "device_samples"     # or host_samples, workload_samples, facility_samples
    [time]
    column = "when"
    format = "iso"               # or unix_s, unix_ms, unix_us, unix_ns, "%d.%m.%Y %H:%M:%S"
    zone = "Europe/Berlin"       # for times without an offset
    [subject]                    # the device, host, workload or meter
    column = "uuid"              # or: value = "GPU-..."
    [host]                       # optional, as subject
    value = "node7"
    [metrics]                    # by column of METRICS.md
    power_w = { column = "watts", unit = "W" }
    """  # noqa: D301  # a backspace, which keeps the lines as they are

    def units() -> "Iterator[Unit]":
        from collector.imports.table import read_mapping, read_table

        checked, zone = read_mapping(mapping), _zone(tz)
        if zone is not None:
            checked = checked.within(zone)
        return read_table(file, checked, host=host, device=device)

    _import(
        "table",
        str(file),
        units,
        store,
        dry_run=dry_run,
        partial=partial,
        output=Output(format=output, file=report_file),
    )


@app.command("prometheus")
def prometheus(
    url: Annotated[str, typer.Argument(help="http://host:9090; VictoriaMetrics, Thanos and Mimir answer alike.")],
    since: Annotated[str, typer.Option("--since", help="1h, 7d, ISO time or @epoch.")] = "1d",
    until: Annotated[str, typer.Option("--until", help="As --since.")] = "now",
    match: Annotated[str, typer.Option("--match", help="""Label matchers, as job="dcgm".""")] = "",
    mapping: Annotated[
        list[str] | None,
        typer.Option("--mapping", help="Mapping of the exporter's names: auto, a name or a .toml file."),
    ] = None,
    store: StoreOption = None,
    dry_run: DryRun = False,
    host: Host = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=32, help="Queries at a time.")] = 4,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="File with a bearer token.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Take in again what an earlier run has stored.")] = False,
    output: OutputOption = Format.TABLE,
    report_file: FileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """A Prometheus server's stored samples, family by family; killed, it goes on where it was."""

    def units() -> "Iterator[Unit]":
        from collector.imports.prometheus import Journal, journal_path, read_prometheus
        from collector.imports.prometheus_server import Server

        start_ms, end_ms = _window(since, until)
        server = Server(url, token=token_file.read_text(encoding="utf-8").strip() if token_file else None)
        path = None if dry_run else journal_path(store_root(store), server.url, match)
        if path is not None and restart:
            path.unlink(missing_ok=True)
        return read_prometheus(
            server,
            start_ms,
            end_ms,
            match=match,
            host=host,
            mapping=mapping or "auto",
            journal=Journal(path),
            workers=workers,
            progress=_Bar(quiet=quiet).show,
        )

    _import(
        "prometheus", url, units, store, dry_run=dry_run, partial=False, output=Output(format=output, file=report_file)
    )


# ----------------------------------------------------------------------------------------------------- what they share


def _import(
    kind: str,
    source: str,
    units: "Callable[[], Iterator[Unit]]",
    store: Path | None,
    *,
    dry_run: bool,
    partial: bool,
    output: Output,
) -> None:
    """Read, store, print the report, and exit as the report says."""
    from collector.errors import TelemetryError
    from collector.imports.report import take_in

    try:
        read = units()
        report = take_in(kind, source, read, None if dry_run else _store(store), partial=partial)
        _print(report, output)
    except TelemetryError as error:
        warn(f"perfwatt: {error}")
        raise typer.Exit(exit_code(error)) from error
    if not report.ok:
        warn(f"{report.refused} of {len(report.units)} refused; nothing of them is stored")
        raise typer.Exit(1)


_COLUMNS = (
    *(Field(name) for name in ("unit", "state", "error", "file")),
    *(Field(name, "BIGINT") for name in ("lines", "reading", "duplicate", "absent", "other", "bad", "unaccounted")),
    Field("notes"),
)


def _print(report: "Report", output: Output) -> None:
    """
    The report as text (table), whole (json), or with a row for each file (jsonl, csv, parquet).

    Raises: QueryError, ConfigError.
    """
    if output.format in {Format.TABLE, Format.JSON}:
        import json

        whole = [json.dumps(report.as_dict(), ensure_ascii=False)]
        text = "".join(f"{line}\n" for line in (whole if output.format is Format.JSON else report.text()))
        if output.file is not None:
            output.file.write_text(text, encoding="utf-8")
        else:
            typer.echo(text, nl=False)
        return
    rows = []
    for unit in report.units:
        for account in unit["files"]:
            kept = account["kept"]
            other = sum(kept.values()) - sum(kept.get(name, 0) for name in ("reading", "duplicate", "absent"))
            counts = [kept.get(name, 0) for name in ("reading", "duplicate", "absent")]
            place = [unit["name"], unit["state"], unit["error"], account["path"], account["lines"]]
            rows.append([*place, *counts, other, account["bad"], account["unaccounted"], "; ".join(account["notes"])])
    output.write("perfwatt.import/1", _COLUMNS, rows)


def _store(given: Path | None) -> "Store":
    from collector.store import Store

    return Store.create(store_root(given))


def _zone(text: str | None) -> "Zone | None":
    from collector.imports.clocks import zone_of

    return None if text is None else zone_of(text)


def _named(devices: list[str] | None) -> dict[str, str]:
    """``ID`` and ``INDEX=ID`` as ids by index."""
    found: dict[str, str] = {}
    for given in devices or ():
        index, equals, device = given.rpartition("=")
        found[index if equals else ""] = device
    return found


def _local(text: str | None) -> Any:
    from datetime import datetime

    from collector.errors import ConfigError

    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError as error:
        raise ConfigError("--start", f"{text!r} is no ISO time, as 2026-05-01T12:00:00") from error


def _window(since: str, until: str) -> tuple[int, int]:
    from datetime import UTC

    from collector.errors import ConfigError
    from collector.moments import parse_window

    start_ns, end_ns = parse_window(since, None if until == "now" else until, tz=UTC)
    if start_ns is None:
        raise ConfigError("--since", "is missing")
    import time

    return start_ns // 1_000_000, (time.time_ns() if end_ns is None else end_ns) // 1_000_000


class _Bar:
    """A progress bar on stderr: redrawn in place on a terminal, else a line for each tenth."""

    def __init__(self, *, quiet: bool) -> None:
        self._told = -1
        self._quiet = quiet
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, done: int, total: int, what: str) -> None:
        """Tell that *done* of *total* stretches are stored."""
        if self._live and not self._quiet:
            filled = 30 * done // max(total, 1)
            end = "\n" if done == total else ""
            typer.echo(
                f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {what[:40]:<40}{end}", err=True, nl=False
            )
        elif 10 * done // max(total, 1) != self._told:
            self._told = 10 * done // max(total, 1)
            say(f"{done} of {total} stretches: {what}")
