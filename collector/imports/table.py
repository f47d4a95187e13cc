"""Any CSV or Parquet file, by a mapping: see `collector.imports.mapping`."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from collector.errors import ConfigError, ImportFailed
from collector.imports import columns
from collector.imports.clocks import has_offset, parsed
from collector.imports.lines import BROKEN, Lines, read_lines
from collector.imports.mapping import EPOCHS, Elapsed, Join, Quantity, TableMapping, When, Where, read_mapping
from collector.imports.report import Account, Unit
from collector.imports.tables import implausible, schema, shaped
from collector.store.schema import SAMPLE_TABLES

__all__ = ["read_mapping", "read_table"]

_TOLERANCE_S = 1.0
_SAMPLES = frozenset(table.name for table in SAMPLE_TABLES.values())


def read_table(
    path: Path, mapping: TableMapping, *, host: str | None = None, device: str | None = None
) -> Iterator[Unit]:
    """
    The rows of one file by *mapping*: one unit.

    *host* and *device* replace what the mapping says of the host and the subject. Raises: ImportFailed, ConfigError.
    """
    said = {"host": host} if host else {}
    if device:
        said[mapping.subject] = device
    mapping = replace(mapping, texts={**mapping.texts, **{name: Where(value=text) for name, text in said.items()}})
    account = Account(path)
    lines = None if _is_parquet(path) else read_lines(path)
    needed = mapping.columns
    data = _parquet(path, account, mapping) if lines is None else _csv(lines, account, mapping)
    mine = [name.removeprefix("in:") for name in data.columns if name.startswith("in:")]
    if mapping.join is not None:
        data = _joined(path, account, data, mapping, mapping.join)
    for column in needed:
        if f"in:{column}" not in data.columns:
            have = ", ".join(name.removeprefix("in:") for name in data.columns if name.startswith("in:"))
            raise ConfigError(column, f"{path} has no such column; it has {have}", path=mapping.path)
    on = () if mapping.join is None else (mapping.join.on,)
    account.ignored = (*account.ignored, *(name for name in mine if name not in {*needed, *on}))
    data = _placed(data, mapping)
    data = _timed(data, mapping)
    for name, when in mapping.times.items():
        data = data.with_columns(_moments(data, when, mapping).alias(name))
    for quantity in mapping.quantities:
        data = _measured(data, quantity, mapping.absent)
    data = _refused(lines, account, data, mapping)
    return iter([_unit(path, account, data, mapping)])


def _unit(path: Path, account: Account, data: pl.DataFrame, mapping: TableMapping) -> Unit:
    names = [quantity.name for quantity in mapping.quantities]
    if mapping.table in _SAMPLES:
        empty = pl.all_horizontal(pl.col(names).is_null())
        account.kept["empty"] += data.filter(empty).height
        data = data.filter(~empty)
    once = data.unique([*mapping.keys, "time"], keep="last", maintain_order=True)
    account.kept["duplicate"] += data.height - once.height
    account.kept["reading"] += once.height
    unit = Unit(path.name, ("table",), [account])
    if not once.height:
        unit.error = None if account.bad_count else "has no reading"
        return unit
    first = once.row(0, named=True)
    unit.identity = ("table", mapping.source, *sorted(names), str(first[mapping.subject]), str(first["time"]))
    filled = once.with_columns(source=pl.lit(mapping.source))
    unit.frames = {
        mapping.table: shaped(mapping.table, filled.select(n for n in schema(mapping.table) if n in filled.columns))
    }
    unit.facts = {
        "subjects": once[mapping.subject].n_unique(),
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


def _parquet(path: Path, account: Account, mapping: TableMapping) -> pl.DataFrame:
    """The columns that are needed, and what there is besides into the account."""
    try:
        there = pl.read_parquet_schema(path)
        needed = {*mapping.columns, *([mapping.join.on] if mapping.join is not None else [])}
        data = pl.read_parquet(path, columns=[name for name in there if name in needed] or list(there))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ImportFailed(path, f"is no readable Parquet file: {error}") from error
    account.lines = data.height
    account.ignored = tuple(name for name in there if name not in data.columns)
    data = data.rename({name: f"in:{name}" for name in data.columns})
    return data.with_row_index("line", 1).with_columns(
        pl.col("line").cast(pl.Int64), reason=pl.lit(None, pl.String), text=pl.lit("")
    )


def _joined(path: Path, account: Account, data: pl.DataFrame, mapping: TableMapping, join: Join) -> pl.DataFrame:
    """*data* with the columns that it lacks, from the other file; a row that it names nowhere has a reason."""
    other = path.parent / join.file
    if not other.is_file():
        raise ConfigError("join.file", f"there is no {other}", path=mapping.path)
    if f"in:{join.on}" not in data.columns:
        raise ConfigError("join.on", f"{path} has no column {join.on!r}", path=mapping.path)
    there = Account(other)
    if _is_parquet(other):
        found = pl.read_parquet(other).rename(lambda name: f"in:{name}")
    else:
        found = (
            _csv(read_lines(other), there, mapping).filter(pl.col("reason").is_null()).drop("line", "text", "reason")
        )
    lacking = [f"in:{name}" for name in mapping.columns if f"in:{name}" not in data.columns]
    for name in (*(f"in:{name}" for name in join.key), *lacking):
        if name not in found.columns:
            have = ", ".join(column.removeprefix("in:") for column in found.columns)
            raise ConfigError(name.removeprefix("in:"), f"{other} has no such column; it has {have}", path=mapping.path)
    key = pl.coalesce(_said(pl.col(f"in:{name}"), mapping.absent) for name in join.key)
    found = found.select(key.alias("key"), *lacking).unique(maintain_order=True)
    joined = data.with_columns(key=pl.col(f"in:{join.on}").cast(pl.String).str.strip_chars()).join(
        found.with_columns(met=pl.lit(True)), on="key", how="left", maintain_order="left"
    )
    more = joined.height - data.height
    if more:
        account.lines += more
        account.notes.append(f"{more} rows stand for further rows of {join.file}")
    unmet = pl.when(pl.col("met").is_null()).then(pl.format(f"{{}} is not in {join.file}", pl.col("key")))
    return joined.with_columns(reason=pl.coalesce("reason", unmet)).drop("key", "met")


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


def _said(written: pl.Expr, absent: Sequence[str]) -> pl.Expr:
    """What is written, as text; null where that stands for no value."""
    text = written.cast(pl.String).str.strip_chars()
    return pl.when(~text.is_in(list(absent))).then(text)


def _placed(data: pl.DataFrame, mapping: TableMapping) -> pl.DataFrame:
    """*data* with the columns of text, and a reason where one that is needed has none."""
    texts = {name: _text(where, mapping.absent).alias(name) for name, where in mapping.texts.items()}
    data = data.with_columns(texts.values())
    for key in mapping.keys:
        what = "subject" if mapping.table in _SAMPLES else key
        missing = pl.when(pl.col(key).is_null()).then(pl.lit(f"names no {what}"))
        data = data.with_columns(reason=pl.coalesce("reason", missing))
    return data


def _text(where: Where, absent: Sequence[str]) -> pl.Expr:
    if where.column is not None:
        return _said(pl.col(f"in:{where.column}"), absent)
    if where.text is None:
        return pl.lit(where.value, pl.String)
    pattern = where.text
    for column in where.columns:
        pattern = pattern.replace(f"{{{column}}}", "{}")
    return pl.format(pattern, *(_said(pl.col(f"in:{column}"), absent) for column in where.columns))


# ----------------------------------------------------------------------------------------------------------- times


def _timed(data: pl.DataFrame, mapping: TableMapping) -> pl.DataFrame:
    """*data* with the column time in UTC, and a reason where there is none."""
    if mapping.elapsed is None:
        data = data.with_columns(_moments(data, mapping.time, mapping).alias("time"))
    else:
        data = _since(data, mapping.time, mapping.elapsed, mapping)
    return data.with_columns(
        reason=pl.coalesce("reason", pl.when(pl.col("time").is_null()).then(pl.lit("its time is no time")))
    )


def _since(data: pl.DataFrame, counted: When, elapsed: Elapsed, mapping: TableMapping) -> pl.DataFrame:
    """
    Times that count from the start of a recording, placed by a moment of its run.

    The clock of such a recording and that of its run are one, but which row is the run's first is all that is told. So
    the marked rows are laid in the middle of the run, where they are no further off than half of one interval.
    """
    second = pl.col("second")
    data = data.with_columns(
        _moments(data, elapsed.origin, mapping).alias("origin"),
        second=pl.col(f"in:{counted.column}").cast(pl.Float64, strict=False),
    )
    if elapsed.marked is None:
        return data.with_columns(time=pl.col("origin") + _duration(second)).drop("origin", "second")
    column, until = elapsed.marked
    data = data.with_columns(_moments(data, until, mapping).alias("until"))
    recording = ["origin", *([f"in:{mapping.join.on}"] if mapping.join is not None else [])]
    mine = second.filter(_true(pl.col(f"in:{column}")))
    first, last = mine.min().over(recording), mine.max().over(recording)
    slack_s = (pl.col("until") - pl.col("origin")).dt.total_nanoseconds() / 1e9 - (last - first)
    wrong = (
        pl.when(first.is_null())
        .then(pl.lit(f"no row of its recording is marked by {column}"))
        .when(slack_s < -_TOLERANCE_S)
        .then(pl.lit(f"the rows marked by {column} last longer than {elapsed.origin.column} to {until.column}"))
    )
    placed = pl.col("origin") + _duration(second - first + slack_s.clip(lower_bound=0.0) / 2)
    return data.with_columns(time=placed, reason=pl.coalesce("reason", wrong)).drop("origin", "until", "second")


def _duration(seconds: pl.Expr) -> pl.Expr:
    return (seconds * 1e9).round().cast(pl.Int64).cast(pl.Duration("ns"))


def _true(written: pl.Expr) -> pl.Expr:
    return written.cast(pl.String).str.to_lowercase().is_in(["true", "1", "yes"])


def _moments(data: pl.DataFrame, when: When, mapping: TableMapping) -> pl.Series:
    """The column of *when* as times in UTC; null where it says none."""
    written = data[f"in:{when.column}"]
    if written.dtype == pl.Datetime:
        zone = written.dtype.time_zone  # type: ignore[attr-defined]  # Datetime has it
        local = written.cast(pl.Datetime("ns", zone), strict=False)  # null where nanoseconds cannot hold it
        if zone is not None:
            return local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return _zoned(local, when, mapping)
    if when.form in EPOCHS:
        number = written.cast(pl.String).str.strip_chars()
        whole = number.str.extract(r"^([0-9]+)(?:\.0*)?$", 1).cast(pl.Int64, strict=False)
        scale = EPOCHS[when.form]
        # What would not fit comes out as another time.
        held = number.cast(pl.Float64, strict=False) * scale < 2.0**63
        # A float of nanoseconds is not exact; fractions are, taken apart.
        fraction = number.str.extract(r"^[0-9]+(\.[0-9]+)$", 1).cast(pl.Float64, strict=False)
        parts = number.str.extract(r"^([0-9]+)\.[0-9]+$", 1).cast(pl.Int64, strict=False)
        exact = pl.select(
            pl.when(held).then(pl.coalesce(whole * scale, parts * scale + (fraction * scale).round().cast(pl.Int64)))
        ).to_series()
        return exact.cast(pl.Datetime("ns"))
    text = pl.lit(written.cast(pl.String).str.strip_chars())
    if when.form == "iso":
        offsets = pl.select(text.str.contains(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$").fill_null(False)).to_series()
        if offsets.all():
            return pl.select(parsed(text)).to_series()
        forms = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
        return _zoned(pl.select(pl.coalesce(parsed(text, form) for form in forms)).to_series(), when, mapping)
    found = pl.select(parsed(text, when.form)).to_series()
    return found if has_offset(when.form) else _zoned(found, when, mapping)


def _zoned(local: pl.Series, when: When, mapping: TableMapping) -> pl.Series:
    if when.zone is None:
        raise ConfigError(
            f"{when.key}.zone",
            "is missing: the times have no offset of their own, as UTC or Europe/Berlin",
            path=mapping.path,
        )
    return when.zone.utc(local)[0]


# ---------------------------------------------------------------------------------------------------------- numbers


def _measured(data: pl.DataFrame, quantity: Quantity, absent: Sequence[str]) -> pl.DataFrame:
    column = f"in:{quantity.column}"
    said = pl.col(column)
    if data.schema[column].is_numeric():
        number = said.cast(pl.Float64)
        missing = said.is_null() | number.is_nan()
        shown = said.cast(pl.String)
    else:
        shown = said.cast(pl.String).str.strip_chars()
        missing = shown.is_null() | shown.is_in(list(absent))
        number = shown.cast(pl.Float64, strict=False)
    for other, word in quantity.where.items():
        missing |= (_said(pl.col(f"in:{other}"), absent) != word).fill_null(True)
    if quantity.absent_below is not None:
        missing |= (number < quantity.absent_below).fill_null(False)
    converted = (number + quantity.conversion.offset) * quantity.conversion.factor
    data = data.with_columns(pl.when(~missing).then(converted).alias(quantity.name))
    impossible = pl.lit(False) if quantity.metric is None else implausible(quantity.metric)
    bad = (
        pl.when(pl.col(quantity.name).is_null() & ~missing)
        .then(pl.concat_str(pl.lit(f"{quantity.column} is no number: "), shown))
        .when(impossible)
        .then(pl.concat_str(pl.lit(f"{quantity.column} cannot be true of {quantity.name}: "), shown))
    )
    return data.with_columns(reason=pl.coalesce("reason", bad))


def _refused(lines: Lines | None, account: Account, data: pl.DataFrame, mapping: TableMapping) -> pl.DataFrame:
    if lines is not None:
        return columns.refuse(lines, account, data, separator=mapping.separator)
    broken = pl.any_horizontal(pl.col(list(mapping.texts)).str.contains(BROKEN).fill_null(False))
    data = data.with_columns(reason=pl.coalesce("reason", pl.when(broken).then(pl.lit("broken characters"))))
    for line, reason in data.filter(pl.col("reason").is_not_null()).select("line", "reason").iter_rows():
        account.refuse(line, reason)
    return data.filter(pl.col("reason").is_null())
