"""
nvidia-smi's CSV: ``--query-gpu=... --format=csv``, any columns in any order, with or without units and header.

Its timestamps are local time without a zone, so that the zone must be said. A device is known by its UUID, or else its
serial number; an index or a bus address is no lasting id, so that without either the caller must name the devices.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from collector.errors import ConfigError, ImportFailed
from collector.imports import columns
from collector.imports.clocks import Zone, parsed
from collector.imports.columns import Column
from collector.imports.lines import Lines, read_lines
from collector.imports.nvidia_fields import IDENTITY, MASKS, QUERY
from collector.imports.report import Account, Unit, merged
from collector.imports.tables import shaped
from collector.nvidia import REASON_BITS

SOURCE = "import:nvidia-smi"
_HEADING = re.compile(r"^([A-Za-z_][\w.]*)(?: \[([^\[\]]*)\])?$")
_TIMES = ("%Y/%m/%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
_TEXTS = ("uuid", "serial", "index", "bus", "model", "driver_version", "firmware_version", "mode")


def read_query(
    path: Path,
    *,
    tz: Zone | None,
    host: str | None = None,
    devices: Mapping[str, str] | None = None,
    fields: Sequence[str] = (),
) -> Iterator[Unit]:
    """
    The readings of one CSV file: one unit.

    *devices* gives ids by index or bus address, or with the key ``""`` the id of the one device of a file that names
    none; *fields* are the columns of a file without a header. Raises: ImportFailed, ConfigError.
    """
    lines = read_lines(path)
    account = Account(path, lines=len(lines.texts))
    blocks = list(_blocks(lines, account, fields))
    if not blocks:
        raise ImportFailed(path, "has no header that names --query-gpu fields; name its columns with --fields")
    unit = Unit(path.name, ("nvidia-smi",), [account])
    ignored: dict[str, None] = {}
    parts = []
    for block in blocks:
        ignored |= dict.fromkeys(column.name for column in block[0] if not _known(column.name))
        parts.append(_read_block(lines, account, *block))
    account.ignored = tuple(ignored)
    data = pl.concat(parts, how="diagonal_relaxed")
    if "local" not in data.columns:
        raise ImportFailed(path, "has no timestamp column: without times nothing can be stored")
    if tz is None:
        raise ConfigError("--tz", f"{path}: its timestamps are local time; name their zone, as Europe/Berlin or +01:00")
    data = columns.to_utc(lines, account, _named(path, data, host, devices or {}), tz)
    once = data.unique(["device", "time"], keep="last", maintain_order=True)
    account.kept["duplicate"] += data.height - once.height
    account.kept["reading"] += once.height
    if not once.height:
        unit.error = None if account.bad_count else "has a header and no reading"
        return iter([unit])
    first = once.row(0, named=True)
    unit.identity = ("nvidia-smi", str(host), first["device"], str(first["time"]))
    unit.frames = _frames(once, host)
    unit.facts = {
        "devices": once["device"].unique(maintain_order=True).to_list(),
        "first": str(once["time"].min()),
        "last": str(once["time"].max()),
        "encoding": lines.encoding,
    }
    return iter([unit])


def _known(name: str) -> bool:
    return name == "timestamp" or name in QUERY or name in IDENTITY or name in MASKS


def _blocks(lines: Lines, account: Account, fields: Sequence[str]) -> Iterator[tuple[list[Column], list[int]]]:
    """Headers with the line numbers below each; a header again (a log continued by another run) begins a block."""
    heading = [_column(at, field, path=lines.path) for at, field in enumerate(fields)]
    numbers: list[int] = []
    for number, line in enumerate(lines.texts, 1):
        if not line.strip():
            account.kept["blank"] += 1
            continue
        found = _header(line, lines.path)
        if found is None:
            numbers.append(number)
            continue
        account.kept["header"] += 1
        if heading and numbers:
            yield heading, numbers
        elif numbers:
            for early in numbers:
                account.refuse(early, "before the header", lines.texts[early - 1])
        heading, numbers = found, []
    if heading:
        yield heading, numbers


def _header(line: str, path: Path) -> list[Column] | None:
    """The columns, if the line is a header: all fields are words, and one is known."""
    if not _HEADING.match(line.partition(",")[0].strip()):
        return None
    parts = [part.strip() for part in line.split(",")]
    found = [_HEADING.match(part) for part in parts]
    if not all(found) or not any(match and _known(match[1]) for match in found):
        return None
    return [_column(at, part, path=path) for at, part in enumerate(parts)]


def _column(position: int, heading: str, *, path: Path) -> Column:
    found = _HEADING.match(heading.strip())
    if found is None:
        raise ConfigError("--fields", f"{heading!r} is no --query-gpu field")
    name, unit = found[1], found[2]
    field = QUERY.get(name)
    if field is not None and unit is not None and unit not in field.units:
        raise ImportFailed(path, f"{name} has the unit {unit!r}; known are {', '.join(sorted(field.units))}")
    return Column(position, name, unit)


def _read_block(lines: Lines, account: Account, heading: list[Column], numbers: list[int]) -> pl.DataFrame:
    data = columns.split(lines, numbers, ",", len(heading))
    names = {column.name: column for column in heading}
    if "timestamp" in names:
        written = pl.col(f"f{names['timestamp'].position}")
        data = data.with_columns(local=pl.coalesce(parsed(written, form) for form in _TIMES)).with_columns(
            reason=pl.coalesce("reason", pl.when(pl.col("local").is_null()).then(pl.lit("timestamp is no time")))
        )
    for column in heading:
        if column.name in IDENTITY:
            data = columns.text(data, column, IDENTITY[column.name])
    for column, field in columns.best((column, QUERY[column.name]) for column in heading if column.name in QUERY):
        data = columns.value(data, column, field)
    for column in heading:
        if column.name in MASKS:
            data = columns.mask(data, column, REASON_BITS)
    return columns.refuse(lines, account, data, separator=",").drop(f"f{at}" for at in range(len(heading)))


def _named(path: Path, data: pl.DataFrame, host: str | None, devices: Mapping[str, str]) -> pl.DataFrame:
    """*data* with the column device."""
    data = data.with_columns(pl.lit(None, pl.String).alias(name) for name in _TEXTS if name not in data.columns)
    # Boards without a serial number say 0 or a row of zeros.
    lasting = pl.coalesce("uuid", pl.when(~pl.col("serial").str.contains("^0*$")).then("serial"))
    by_place = pl.coalesce(
        pl.col("index").replace_strict(dict(devices), default=None, return_dtype=pl.String),
        pl.col("bus").replace_strict(dict(devices), default=None, return_dtype=pl.String),
    )
    only = devices.get("")
    several = data["index"].n_unique() > 1 or data["bus"].n_unique() > 1 or data["uuid"].n_unique() > 1
    if only is not None and several:
        raise ConfigError("--device", f"{path}: holds several devices; name each by its index, as 0=GPU-...")
    data = data.with_columns(device=pl.coalesce(by_place, pl.lit(only, pl.String), lasting))
    unnamed = data.filter(pl.col("device").is_null())
    if unnamed.height:
        place = unnamed.select(pl.coalesce(pl.format("index {}", "index"), "bus", pl.lit("its one device"))).item(0, 0)
        raise ConfigError(
            "--device", f"{path}: has no uuid and no serial for {place}; name it with --device ID or --device INDEX=ID"
        )
    return data.with_columns(host=pl.lit(host, pl.String))


def _frames(data: pl.DataFrame, host: str | None) -> dict[str, pl.DataFrame]:
    metrics = sorted({field.metric.column for field in QUERY.values()} & set(data.columns))
    identity = data.select(
        "device",
        "time",
        pl.lit(SOURCE).alias("source"),
        pl.lit(host, pl.String).alias("host"),
        pl.lit("NVIDIA").alias("vendor"),
        "model",
        pl.col("index").cast(pl.Int32, strict=False).alias("ordinal"),
        "serial",
        "bus",
        "driver_version",
        "firmware_version",
        "mode",
    )
    changes = identity.unique([name for name in identity.columns if name != "time"], keep="first", maintain_order=True)
    return merged(
        {
            "device_samples": shaped(
                "device_samples", data.select("device", "time", pl.lit(SOURCE).alias("source"), "host", *metrics)
            ),
            "devices": shaped("devices", changes),
        }
    )
