"""
Any CSV or Parquet file, by a mapping: which column is the time, whose samples they are, what each metric is called and
in which unit. The mapping is a TOML file::

    table = "device_samples"                  # or host_samples, workload_samples, facility_samples
    source = "lab-meter"                      # optional; the name of the mapping file otherwise
    separator = ","                           # CSV only
    absent = ["", "NaN", "n/a"]               # what stands for no value, besides null

    [time]
    column = "unix_ms"
    format = "unix_ms"                        # iso, unix_s, unix_ms, unix_us, unix_ns, or as "%d.%m.%Y %H:%M:%S"
    zone = "UTC"                              # for times without an offset of their own

    [subject]                                 # the device, host, workload or meter
    column = "uuid"                           # or: value = "GPU-..."

    [host]                                    # optional
    value = "node7"

    [metrics]                                 # by the catalogue's column
    power_w = { column = "pmd_w", unit = "W" }
    utilization_ratio = { column = "util", unit = "%" }
"""

import csv
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from collector.catalogue import Metric, Scope, metric_of, metrics
from collector.errors import ConfigError, ImportFailed
from collector.imports import columns
from collector.imports.clocks import Zone, zone_of
from collector.imports.conversions import KNOWN, Conversion
from collector.imports.lines import BROKEN, Lines, read_lines
from collector.imports.report import Account, Unit
from collector.imports.tables import implausible, shaped
from collector.store.schema import SAMPLE_TABLES, SUBJECT

_KEYS: Final = {"table", "source", "separator", "absent", "time", "subject", "host", "metrics"}
_EPOCHS: Final = {"unix_s": 10**9, "unix_ms": 10**6, "unix_us": 10**3, "unix_ns": 1}
_ABSENT: Final = ("", "NaN", "nan", "null", "NULL", "None", "NA", "N/A", "n/a", "[N/A]", "-")


@dataclass(frozen=True, slots=True)
class _Where:
    """A column of the file, or one value for all its rows."""

    column: str | None
    value: str | None


@dataclass(frozen=True, slots=True)
class TableMapping:
    """A mapping, checked."""

    path: Path
    scope: Scope
    source: str
    separator: str
    absent: tuple[str, ...]
    time: str
    form: str
    zone: Zone | None
    subject: _Where
    host: _Where | None
    metrics: tuple[tuple[Metric, str, Conversion], ...]

    @property
    def table(self) -> str:
        """The table it fills."""
        return SAMPLE_TABLES[self.scope].name


def read_mapping(path: Path) -> TableMapping:
    """
    The mapping in *path*.

    Raises: ConfigError with the key, and what it may be.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("--mapping", f"cannot be read: {error.strerror or error}", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("--mapping", f"is not TOML: {error}", path=path) from error
    _known(given, _KEYS, "", path)
    scope = _scope(given.get("table"), path)
    time = _part(given, "time", {"column", "format", "zone"}, path)
    form = _text(time, "time", "format", path, default="iso")
    if form not in {"iso", *_EPOCHS} and "%" not in form:
        raise ConfigError(
            "time.format",
            f"{form!r} is none of iso, {', '.join(_EPOCHS)} nor a pattern as '%d.%m.%Y %H:%M:%S'",
            path=path,
        )
    zone = _text(time, "time", "zone", path, default="")
    absent = given.get("absent", _ABSENT)
    if not isinstance(absent, Sequence) or isinstance(absent, str) or not all(isinstance(word, str) for word in absent):
        raise ConfigError("absent", f"{absent!r} is no list of words", path=path)
    separator = _text(given, "", "separator", path, default=",")
    if len(separator) != 1:
        raise ConfigError("separator", f"{separator!r} is not one character", path=path)
    return TableMapping(
        path=path,
        scope=scope,
        source=f"import:{_text(given, '', 'source', path, default=path.stem)}",
        separator=separator,
        absent=tuple(absent),
        time=_text(time, "time", "column", path),
        form=form,
        zone=zone_of(zone, key=f"{path}: time.zone") if zone else None,
        subject=_where(given, "subject", path),
        host=_where(given, "host", path) if "host" in given else None,
        metrics=_metrics(given, scope, path),
    )


def _known(given: Mapping[str, Any], keys: set[str], prefix: str, path: Path) -> None:
    for key in given:
        if key not in keys:
            raise ConfigError(f"{prefix}{key}", f"is no key; known are {', '.join(sorted(keys))}", path=path)


def _part(given: Mapping[str, Any], key: str, keys: set[str], path: Path) -> Mapping[str, Any]:
    part = given.get(key)
    if not isinstance(part, Mapping):
        raise ConfigError(key, "is missing: a table with " + ", ".join(sorted(keys)), path=path)
    _known(part, keys, f"{key}.", path)
    return part


def _text(part: Mapping[str, Any], prefix: str, key: str, path: Path, *, default: str | None = None) -> str:
    value = part.get(key, default)
    if not isinstance(value, str):
        name = f"{prefix}.{key}" if prefix else key
        raise ConfigError(name, "is missing" if value is None else f"{value!r} is no text", path=path)
    return value


def _scope(name: object, path: Path) -> Scope:
    for scope, table in SAMPLE_TABLES.items():
        if table.name == name:
            return scope
    known = ", ".join(table.name for table in SAMPLE_TABLES.values())
    raise ConfigError("table", "is missing" if name is None else f"{name!r} is none of {known}", path=path)


def _where(given: Mapping[str, Any], key: str, path: Path) -> _Where:
    part = _part(given, key, {"column", "value"}, path)
    if len(part) != 1:
        raise ConfigError(key, "has either column or value", path=path)
    column = _text(part, key, "column", path) if "column" in part else None
    value = _text(part, key, "value", path) if "value" in part else None
    return _Where(column, value)


def _metrics(given: Mapping[str, Any], scope: Scope, path: Path) -> tuple[tuple[Metric, str, Conversion], ...]:
    part = given.get("metrics")
    if not isinstance(part, Mapping) or not part:
        raise ConfigError("metrics", 'is missing: a table as power_w = { column = "watts", unit = "W" }', path=path)
    found = []
    for name, said in part.items():
        key = f"metrics.{name}"
        try:
            metric = metric_of(scope, name)
        except KeyError as error:
            known = ", ".join(metric.column for metric in metrics(scope))
            raise ConfigError(key, f"is no metric of a {scope.value}; known are {known}", path=path) from error
        if not isinstance(said, Mapping):
            raise ConfigError(key, f"{said!r} is no table with column and unit", path=path)
        _known(said, {"column", "unit"}, f"{key}.", path)
        known_units = KNOWN[metric.unit]
        unit = _text(said, key, "unit", path, default="" if "" in known_units else None)
        if unit not in known_units:
            names = ", ".join(filter(None, known_units))
            raise ConfigError(f"{key}.unit", f"{unit!r} is none of {names}", path=path)
        found.append((metric, _text(said, key, "column", path), known_units[unit]))
    return tuple(found)


# -------------------------------------------------------------------------------------------------------------- files


def read_table(
    path: Path, mapping: TableMapping, *, host: str | None = None, device: str | None = None
) -> Iterator[Unit]:
    """
    The rows of one file by *mapping*: one unit.

    *host* and *device* replace what the mapping says of the host and the subject. Raises: ImportFailed, ConfigError.
    """
    account = Account(path)
    lines = None if _is_parquet(path) else read_lines(path)
    data = _parquet(path, account) if lines is None else _csv(lines, account, mapping)
    needed = [mapping.time, *(column for _, column, _ in mapping.metrics)]
    needed += [where.column for where in (mapping.subject, mapping.host) if where is not None and where.column]
    for column in needed:
        if f"in:{column}" not in data.columns:
            have = ", ".join(name.removeprefix("in:") for name in data.columns if name.startswith("in:"))
            raise ConfigError(column, f"{path} has no such column; it has {have}", path=mapping.path)
    account.ignored = tuple(
        name.removeprefix("in:")
        for name in data.columns
        if name.startswith("in:") and name.removeprefix("in:") not in needed
    )
    data = _timed(data, mapping)
    data = _placed(data, "subject", _Where(None, device) if device else mapping.subject, mapping)
    data = _placed(data, "host", _Where(None, host) if host else mapping.host, mapping)
    data = data.with_columns(
        reason=pl.coalesce("reason", pl.when(pl.col("subject").is_null()).then(pl.lit("names no subject")))
    )
    for metric, column, conversion in mapping.metrics:
        data = _measured(data, metric, f"in:{column}", conversion, mapping.absent)
    data = _refused(lines, account, data, mapping)
    return iter([_unit(path, account, data, mapping)])


def _unit(path: Path, account: Account, data: pl.DataFrame, mapping: TableMapping) -> Unit:
    subject = SUBJECT[mapping.scope]
    names = [metric.column for metric, _, _ in mapping.metrics]
    data = data.drop(subject, strict=False).rename({"subject": subject})
    empty = data.filter(pl.all_horizontal(pl.col(names).is_null()))
    data = data.filter(~pl.all_horizontal(pl.col(names).is_null()))
    once = data.unique([subject, "time"], keep="last", maintain_order=True)
    account.kept["empty"] += empty.height
    account.kept["duplicate"] += data.height - once.height
    account.kept["reading"] += once.height
    unit = Unit(path.name, ("table",), [account])
    if not once.height:
        unit.error = None if account.bad_count else "has no reading"
        return unit
    first = once.row(0, named=True)
    unit.identity = ("table", mapping.source, *sorted(names), str(first[subject]), str(first["time"]))
    fields = ["host"] if subject != "host" else []
    unit.frames = {
        mapping.table: shaped(
            mapping.table, once.select(subject, "time", pl.lit(mapping.source).alias("source"), *fields, *names)
        )
    }
    unit.facts = {
        "subjects": once[subject].n_unique(),
        "first": str(once["time"].min()),
        "last": str(once["time"].max()),
    }
    return unit


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise ImportFailed(path, f"cannot be read: {error.strerror or error}") from error


def _parquet(path: Path, account: Account) -> pl.DataFrame:
    try:
        data = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ImportFailed(path, f"is no readable Parquet file: {error}") from error
    account.lines = data.height
    data = data.rename({name: f"in:{name}" for name in data.columns})
    return data.with_row_index("line", 1).with_columns(
        pl.col("line").cast(pl.Int64), reason=pl.lit(None, pl.String), text=pl.lit("")
    )


def _csv(lines: Lines, account: Account, mapping: TableMapping) -> pl.DataFrame:
    account.lines = len(lines.texts)
    numbers = [number for number, line in enumerate(lines.texts, 1) if line.strip()]
    account.kept["blank"] += len(lines.texts) - len(numbers)
    if not numbers:
        raise ImportFailed(lines.path, "is empty")
    heading, numbers = _fields(lines.texts[numbers[0] - 1], mapping.separator), numbers[1:]
    account.kept["header"] += 1
    if len(set(heading)) < len(heading):
        raise ImportFailed(lines.path, f"has several columns of one name: {', '.join(heading)}", line=1)
    if any('"' in lines.texts[number - 1] for number in numbers):
        data = _quoted(lines, numbers, mapping.separator, len(heading))
    else:
        data = columns.split(lines, numbers, mapping.separator, len(heading))
    return data.rename({f"f{at}": f"in:{name}" for at, name in enumerate(heading)})


def _fields(line: str, separator: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def _quoted(lines: Lines, numbers: list[int], separator: str, width: int) -> pl.DataFrame:
    records: list[dict[str, Any]] = []
    for number in numbers:
        line = lines.texts[number - 1]
        fields = _fields(line, separator)
        wrong = None if len(fields) == width else f"{len(fields)} fields, the header has {width}"
        padded = [*fields, *[None] * width][:width]
        records.append(
            {"line": number, "text": line, "reason": wrong} | {f"f{at}": field for at, field in enumerate(padded)}
        )
    names = ["text", "reason", *(f"f{at}" for at in range(width))]
    return pl.DataFrame(records, schema={"line": pl.Int64(), **dict.fromkeys(names, pl.String())})


def _timed(data: pl.DataFrame, mapping: TableMapping) -> pl.DataFrame:
    """*data* with the column time in UTC, and a reason where there is none."""
    written = data[f"in:{mapping.time}"]
    key = "time.zone"
    if written.dtype == pl.Datetime:
        local = written.cast(pl.Datetime("ns", written.dtype.time_zone))  # type: ignore[attr-defined]  # Datetime has it
        if local.dtype.time_zone is not None:  # type: ignore[attr-defined]
            return _with_time(data, local.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
        return _with_time(data, _zoned(local, mapping, key))
    if mapping.form in _EPOCHS:
        number = written.cast(pl.String).str.strip_chars()
        whole = number.str.extract(r"^([0-9]+)(?:\.0*)?$", 1).cast(pl.Int64, strict=False)
        scale = _EPOCHS[mapping.form]
        # A float of nanoseconds is not exact; fractions are, taken apart.
        fraction = number.str.extract(r"^[0-9]+(\.[0-9]+)$", 1).cast(pl.Float64, strict=False)
        parts = number.str.extract(r"^([0-9]+)\.[0-9]+$", 1).cast(pl.Int64, strict=False)
        exact = pl.select(
            pl.coalesce(whole * scale, parts * scale + (fraction * scale).round().cast(pl.Int64))
        ).to_series()
        return _with_time(data, exact.cast(pl.Datetime("ns")))
    text = written.cast(pl.String).str.strip_chars()
    if mapping.form == "iso":
        has_offset = text.str.contains(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$").fill_null(False)
        aware = text.str.to_datetime(time_unit="ns", time_zone="UTC", strict=False) if has_offset.any() else None
        if has_offset.all() and aware is not None:
            return _with_time(data, aware.dt.replace_time_zone(None))
        forms = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
        naive = pl.select(
            pl.coalesce(text.str.to_datetime(form, time_unit="ns", strict=False) for form in forms)
        ).to_series()
        return _with_time(data, _zoned(naive, mapping, key))
    if "%z" in mapping.form or "%:z" in mapping.form:
        aware = text.str.to_datetime(mapping.form, time_unit="ns", time_zone="UTC", strict=False)
        return _with_time(data, aware.dt.replace_time_zone(None))
    return _with_time(data, _zoned(text.str.to_datetime(mapping.form, time_unit="ns", strict=False), mapping, key))


def _zoned(local: pl.Series, mapping: TableMapping, key: str) -> pl.Series:
    if mapping.zone is None:
        raise ConfigError(
            key, "is missing: the times have no offset of their own, as UTC or Europe/Berlin", path=mapping.path
        )
    return mapping.zone.utc(local)[0]


def _with_time(data: pl.DataFrame, time: pl.Series) -> pl.DataFrame:
    return data.with_columns(time.alias("time")).with_columns(
        reason=pl.coalesce("reason", pl.when(pl.col("time").is_null()).then(pl.lit("its time is no time")))
    )


def _placed(data: pl.DataFrame, name: str, where: _Where | None, mapping: TableMapping) -> pl.DataFrame:
    if where is None or where.column is None:
        return data.with_columns(pl.lit(where.value if where else None, pl.String).alias(name))
    written = pl.col(f"in:{where.column}").cast(pl.String).str.strip_chars()
    return data.with_columns(pl.when(~written.is_in(list(mapping.absent))).then(written).alias(name))


def _measured(
    data: pl.DataFrame, metric: Metric, column: str, conversion: Conversion, absent: Sequence[str]
) -> pl.DataFrame:
    said = pl.col(column)
    if data.schema[column].is_numeric():
        number = said.cast(pl.Float64)
        missing = said.is_null() | number.is_nan()
        shown = said.cast(pl.String)
    else:
        shown = said.cast(pl.String).str.strip_chars()
        missing = shown.is_null() | shown.is_in(list(absent))
        number = shown.cast(pl.Float64, strict=False)
    name = column.removeprefix("in:")
    data = data.with_columns(
        pl.when(~missing).then((number + conversion.offset) * conversion.factor).alias(metric.column)
    )
    bad = (
        pl.when(pl.col(metric.column).is_null() & ~missing)
        .then(pl.concat_str(pl.lit(f"{name} is no number: "), shown))
        .when(implausible(metric))
        .then(pl.concat_str(pl.lit(f"{name} cannot be true of {metric.column}: "), shown))
    )
    return data.with_columns(reason=pl.coalesce("reason", bad))


def _refused(lines: Lines | None, account: Account, data: pl.DataFrame, mapping: TableMapping) -> pl.DataFrame:
    if lines is not None:
        return columns.refuse(lines, account, data, separator=mapping.separator)
    broken = pl.any_horizontal(pl.col("subject", "host").str.contains(BROKEN).fill_null(False))
    data = data.with_columns(reason=pl.coalesce("reason", pl.when(broken).then(pl.lit("broken characters"))))
    for line, reason in data.filter(pl.col("reason").is_not_null()).select("line", "reason").iter_rows():
        account.refuse(line, reason)
    return data.filter(pl.col("reason").is_null())
