"""The commands that need no analysis: metrics, query, export, doctor, config, agent."""

import json
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from collector.options import (
    CHECK_FAILED,
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
from collector.output import Field, Format

app = typer.Typer(rich_markup_mode=None)
config_app = typer.Typer(
    name="config", help="Show, check and begin a configuration.", no_args_is_help=True, rich_markup_mode=None
)


# ------------------------------------------------------------------------------------------------------------ metrics


@app.command()
def metrics(
    store: StoreOption = None,
    stored: Annotated[bool, typer.Option("--stored", help="Only metrics that the store has values of.")] = False,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = 0,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """List the metrics: column, Prometheus name, unit, kind, and whether the store has values."""
    root = store_root(store)
    if store is None and not stored and not root.is_dir():
        held: dict[str, frozenset[str]] | None = None
    else:
        from collector.store import Store
        from collector.store.presence import holdings

        held = {holding.table: holding.columns for holding in holdings(Store(root))}
    fields = [Field(name) for name in ("scope", "column", "unit", "kind", "prometheus", "stored", "help")]
    give("metrics", fields, _metric_rows(held, stored), request(output, file, limit, None, None, "UTC"), None)


def _metric_rows(held: dict[str, frozenset[str]] | None, stored: bool) -> Iterator[tuple[str | None, ...]]:
    from collector.catalogue import CATALOGUE, Scope
    from collector.store.schema import SAMPLE_TABLES

    for metric in CATALOGUE:
        there = None
        if held is not None and metric.scope is not Scope.AGENT:
            there = metric.column in held.get(SAMPLE_TABLES[metric.scope].name, ())
        if stored and not there:
            continue
        labels = ",".join(f'{name}="{value}"' for name, value in metric.labels)
        name = f"{metric.prometheus}{{{labels}}}" if labels else metric.prometheus
        word = None if there is None else "yes" if there else "no"
        yield metric.scope.value, metric.column, metric.unit.symbol or "1", metric.kind.value, name, word, metric.help


# -------------------------------------------------------------------------------------------------------------- query


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads; - takes it from stdin.")],
    store: StoreOption = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=86_400, help="Seconds it may take.")] = 30.0,
    memory: Annotated[int, typer.Option("--memory", min=64, help="MiB that sorts and joins may take.")] = 1024,
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
    Run SQL (DuckDB's) over the store, in a process that can read the store's tables and nothing else.

    Tables: what was measured (device_samples, host_samples, workload_samples, facility_samples), their rollups, what
    was observed (devices, allocations, processes, events) and what jobs made of it (efficiency, incidents, forecasts
    ...; collector/TABLES.md has all); devices_now and the like hold the latest row of each. "SHOW TABLES" and
    "DESCRIBE device_samples" tell more.
    --since and --until bound the rows that the tables have.
    """
    from collector.store.query import MIB, Limits
    from collector.store.query import query as run

    asked = request(output, file, limit, since, until, tz)
    limits = Limits(timeout_s=timeout, working_bytes=memory * MIB, memory_bytes=(memory + 1024) * MIB)
    with run(
        store_root(store),
        sys.stdin.read() if sql == "-" else sql,
        start_ns=asked.start_ns,
        end_ns=asked.end_ns,
        limit=0 if check else asked.output.fetch,
        limits=limits,
        tz=tz,
    ) as result:
        give("query", [Field(column.name, column.type) for column in result.columns], result.rows, asked, check)


# ------------------------------------------------------------------------------------------------------------- config


@config_app.command("show")
def config_show(
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """Show every key with its value and where the value is from; secrets are hidden."""
    from collector.config import load

    rows = ((key, _value_text(value), origin) for key, value, origin in load(env=os.environ).rows())
    fields = [Field("key"), Field("value"), Field("origin")]
    give("config", fields, rows, request(output, file, 0, None, None, "UTC"), None)


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@config_app.command("validate")
def config_validate(quiet: QuietOption = False, config: ConfigOption = None) -> None:
    """Check the configuration, the options of each source too. Exit code 2 when something is wrong."""
    from collector.config import check_options, load

    loaded = load(env=os.environ)
    check_options(loaded)
    files = sorted({origin.removeprefix("file ") for origin in loaded.origins.values() if origin.startswith("file ")})
    say(f"valid: {', '.join(files) or 'defaults, no file'}; {len(loaded.sources)} source(s)")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the configuration."""
    from collector.config import schema

    typer.echo(json.dumps(schema(), indent=2))


@config_app.command("init")
def config_init(
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", help="Write there instead of to stdout; never over a file.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write a configuration to begin with: every key, its default and what it means."""
    from collector.config import example
    from collector.errors import ConfigError

    if file is None:
        typer.echo(example(), nl=False)
        return
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(example())
    except FileExistsError as error:
        raise ConfigError("--file", "exists, and is not overwritten", path=file) from error
    except OSError as error:
        raise ConfigError("--file", f"cannot be written: {error.strerror}", path=file) from error
    say(f"written: {file}")


# -------------------------------------------------------------------------------------------------------------- agent


@app.command()
def agent(
    store: Annotated[str | None, typer.Option("--store", metavar="DIR", help="Instead of store.root.")] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Instead of prometheus.listen.")
    ] = None,
    period: Annotated[float | None, typer.Option("--period", help="Instead of agent.period_s.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Instead of agent.host.")] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="Instead of agent.log_level.")] = None,
    config: ConfigOption = None,
) -> None:
    """
    Measure: read the sources, keep what they say in the store and serve it to Prometheus, until a signal ends it.

    SIGHUP reads the configuration again. The log is on stderr. Exit codes: 2 configuration, or the port is taken; 3 the
    store cannot be used.
    """
    from collector.daemon import become

    given = {
        "store.root": store,
        "prometheus.listen": listen,
        "agent.period_s": period,
        "agent.host": host,
        "agent.log_level": log_level,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    become(config, overrides)  # a process of its own, without what the command line needed


# ------------------------------------------------------------------------------------------------------------- export


class ExportFormat(StrEnum):
    """What a table is exported as."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


@app.command()
def export(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="One table; with --duckdb any.")
    ] = None,
    store: StoreOption = None,
    file: FileOption = None,
    output: Annotated[
        ExportFormat | None, typer.Option("--output", "-o", help="Format; else as the file's name ends.")
    ] = None,
    duckdb: Annotated[
        Path | None,
        typer.Option("--duckdb", metavar="PATH", help="Write a DuckDB database of these tables, or of all, instead."),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """Copy rows out of the store: a table as Parquet, CSV or JSON lines, or a DuckDB database that stands alone."""
    from collector.errors import ConfigError
    from collector.store.export import export_duckdb

    asked, root = request(Format.TABLE, None, None, since, until, tz), store_root(store)
    if duckdb is not None:
        if file is not None or output is not None:
            raise ConfigError("--duckdb", "takes the place of --file and --output; give one of them")
        counts = export_duckdb(root, duckdb, tables or None, asked.start_ns, asked.end_ns)
        say(f"written: {duckdb}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
    elif tables is None or len(tables) != 1:
        raise ConfigError("TABLE", f"is one table, such as device_samples; here are {len(tables or ())}")
    else:
        _export_one(root, tables[0], file, output, asked)


def _export_one(root: Path, table: str, file: Path | None, output: ExportFormat | None, asked: Request) -> None:
    import shutil
    import tempfile

    from collector.errors import ConfigError
    from collector.store.export import export_table

    form = output.value if output else None
    if file is not None:
        count = export_table(root, table, file, form, asked.start_ns, asked.end_ns)
        say(f"written: {file}: {count:,} rows")
        return
    if form == "parquet" and sys.stdout.isatty():
        raise ConfigError("--output", "parquet is no text for a terminal; give --file, or redirect stdout")
    with tempfile.TemporaryDirectory(prefix="perfwatt-") as folder:
        path = Path(folder) / "table"
        count = export_table(root, table, path, form or "csv", asked.start_ns, asked.end_ns)
        with path.open("rb") as rows:
            shutil.copyfileobj(rows, sys.stdout.buffer)
    say(f"{count:,} rows")


# ----------------------------------------------------------------------------------------------------------- maintain


@app.command()
def maintain(
    store: StoreOption = None,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    Clean up a store that no agent keeps: merge and pack segments, roll up, expire by store.retain_days, delete.

    What was imported after its day does not expire. Beside a running agent it is safe: one of both waits for its next
    turn (exit code 3).
    """
    from collector.config import load
    from collector.store import Store
    from collector.upkeep import retention

    root, retain_days = store_root(store), retention(load(env=os.environ).store.retain_days)
    done = Store(root).maintain(retain_days=retain_days)._asdict()
    give("maintain", [Field(name, "BIGINT") for name in done], [tuple(done.values())], _all(output, file), None)


def _all(output: Format, file: Path | None) -> Request:
    return request(output, file, 0, None, None, "UTC")


# ------------------------------------------------------------------------------------------------------------- doctor


@app.command()
def doctor(
    store: StoreOption = None,
    url: Annotated[
        str | None, typer.Option("--url", help="The agent's /metrics; else where the configuration has it.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="URL", help="Also look at this exporter. May be repeated.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Read every value of the store.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is a failure.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for each source and address.")] = 15.0,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    Check configuration, sources, agent, store and clock, and say what to do. Exit code 4 if something fails.

    Each source is opened and read once, in a process of its own.
    """
    from collector.doctor import STATUSES, examine

    found = []

    def told() -> Iterator[tuple[str, ...]]:
        for finding in examine(
            env=os.environ, store=store, url=url, targets=target or (), whole=whole, timeout_s=timeout
        ):
            found.append(finding.status)
            yield finding.status, finding.check, finding.message, finding.advice

    fields = [Field(name) for name in ("status", "check", "message", "advice")]
    asked = request(output, file, 0, None, None, "UTC")
    give("doctor", fields, told(), asked, None)
    say(", ".join(f"{found.count(status)} {status}" for status in STATUSES if status in found))
    if "fail" in found or (strict and "warn" in found):
        raise typer.Exit(CHECK_FAILED)
