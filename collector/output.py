"""
Answers as people and programs take them: a table, JSON, JSON lines, CSV or Parquet.

Every command that prints data ends here, so that all of them have the same formats, the same times and the same note
when rows were left out. Rows are consumed as they come; only a table needs them all, to know its widths, and so has a
limit by default.

JSON is one object, ``{"schema": "perfwatt.<what>/1", "columns": [...], "rows": [...], "truncated": false}``, that
depends on neither locale nor terminal. A later version may add keys; any other change raises the number.
"""

import csv
import io
import json
import math
import os
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TextIO

from collector.errors import ConfigError, QueryError
from collector.moments import NS, format_moment

TABLE_ROWS: Final = 500
"""Rows of a table when no limit was given; the other formats have none then."""

_TIMES = ("TIMESTAMP", "DATETIME")
_NUMBERS = ("DECIMAL", "DOUBLE", "FLOAT", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "HUGEINT", "UBIGINT", "UINTEGER")
_NESTED = ("STRUCT", "MAP", "UNION", "JSON")


class Format(StrEnum):
    """What an answer is written as."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Field:
    """A column of an answer: its name, which ends in the unit, and its DuckDB type."""

    name: str
    type: str = "VARCHAR"

    @property
    def is_time(self) -> bool:
        """Whether values are moments."""
        return self.type.startswith(_TIMES)

    @property
    def is_number(self) -> bool:
        """Whether values are set to the right in a table."""
        return self.type.startswith(_NUMBERS) and not self.is_nested

    @property
    def is_nested(self) -> bool:
        """Whether values are JSON text."""
        return self.type.startswith(_NESTED) or self.type.endswith("]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """
    How an answer is to be written.

    `limit` is the most rows: None for the format's own, 0 for all. `note` is told about rows left out, loudly.
    """

    format: Format = Format.TABLE
    file: Path | None = None
    limit: int | None = None
    tz: tzinfo = UTC
    note: Callable[[str], None] | None = None

    @property
    def rows(self) -> int:
        """The most rows to write, 0 for all."""
        if self.limit is not None:
            return self.limit
        return TABLE_ROWS if self.format is Format.TABLE else 0

    @property
    def fetch(self) -> int:
        """How many rows to ask for: one more than are written tells whether there are more. 0 for all."""
        return self.rows + 1 if self.rows else 0

    def write(self, schema: str, fields: Sequence[Field], rows: Iterable[Sequence[Any]]) -> int:
        """
        Write an answer to the file, or to stdout, and give the number of rows written.

        Raises: QueryError when the file cannot be written, ConfigError when the format needs a file and has none.
        """
        cut = _Cut(rows, self.rows)
        if self.format is Format.PARQUET:
            self._parquet(fields, cut)
        else:
            with opened(self.file) as out:
                self._text(out, schema, fields, cut)
        if cut.more and self.note is not None:
            self.note(f"shown: the first {self.rows:,} rows, and there are more; --limit 0 gives all")
        return cut.count

    def text(self, schema: str, fields: Sequence[Field], rows: Iterable[Sequence[Any]]) -> str:
        """The answer as text, in a format that is text."""
        out = io.StringIO()
        self._text(out, schema, fields, _Cut(rows, self.rows))
        return out.getvalue()

    def _text(self, out: TextIO, schema: str, fields: Sequence[Field], cut: "_Cut") -> None:
        if self.format is Format.JSON:
            _json(out, schema, fields, cut, self.tz)
        else:
            {Format.TABLE: _table, Format.JSONL: _jsonl, Format.CSV: _csv}[self.format](out, fields, cut, self.tz)

    def _parquet(self, fields: Sequence[Field], cut: "_Cut") -> None:
        from collector.store.answers import write_parquet

        if self.file is None and sys.stdout.isatty():
            raise ConfigError("--output", "parquet is no text for a terminal; give --file, or redirect stdout")
        if self.file is not None:
            write_parquet(self.file, [(field.name, field.type) for field in fields], cut)
            return
        with tempfile.TemporaryDirectory(prefix="perfwatt-") as folder:
            path = Path(folder) / "answer.parquet"
            write_parquet(path, [(field.name, field.type) for field in fields], cut)
            sys.stdout.buffer.write(path.read_bytes())


class _Cut:
    """The first *limit* rows (0: all); afterwards `count` were taken and `more` says whether there were others."""

    def __init__(self, rows: Iterable[Sequence[Any]], limit: int) -> None:
        self._rows = rows
        self._limit = limit
        self.count = 0
        self.more = False

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for row in self._rows:
            if self._limit and self.count == self._limit:
                self.more = True
                return
            self.count += 1
            yield row


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """
    Stdout, or a file that takes its name only when it is whole.

    Raises: QueryError when the file cannot be written.
    """
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as out:
            yield out
        temporary.replace(path)
    except OSError as error:
        raise QueryError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------ values


def moment_of(value: Any, tz: tzinfo) -> str | None:
    """A time as ISO 8601: from nanoseconds, a datetime, or DuckDB's text."""
    if value is None or isinstance(value, int):
        return None if value is None else format_moment(value, tz)
    if isinstance(value, datetime):
        whole = int(value.replace(tzinfo=value.tzinfo or UTC, microsecond=0).timestamp())
        return format_moment(whole * NS + value.microsecond * 1000, tz)
    text = str(value)
    try:
        moment = datetime.fromisoformat(text[:19])
        tail = text[19:]
        if "+" in tail or "-" in tail:  # a time with an offset
            full = datetime.fromisoformat(text)
            return format_moment(round(full.replace(microsecond=0).timestamp()) * NS + full.microsecond * 1000, tz)
        fraction = int(tail[1:].ljust(9, "0")) if tail.startswith(".") else 0
        return format_moment(int(moment.replace(tzinfo=UTC).timestamp()) * NS + fraction, tz)
    except (ValueError, OverflowError):
        return text  # infinity, or a year that Python has not


def plain(value: Any, field: Field, tz: tzinfo) -> Any:
    """A value as JSON has it: what is no number in JSON (NaN, infinity) is null."""
    if value is None or isinstance(value, bool):
        return value
    if field.is_time:
        return moment_of(value, tz)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        if field.is_nested:
            return json.loads(value)
        return float(value) if field.type.startswith("DECIMAL") else value
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else value


def shown(value: Any, field: Field, tz: tzinfo) -> str:
    """A value in a cell of a table: at most seven digits, nothing that a terminal would obey."""
    if value is None:
        return "-"
    if field.is_time:
        return moment_of(value, tz) or "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:.7g}"
    return printable(str(value))


def printable(text: str) -> str:
    """*text* without control characters: a label from a scraped endpoint must not move anybody's cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


# ----------------------------------------------------------------------------------------------------------- formats


def _table(out: TextIO, fields: Sequence[Field], rows: Iterable[Sequence[Any]], tz: tzinfo) -> None:
    cells = [[shown(value, field, tz) for value, field in zip(row, fields, strict=True)] for row in rows]
    head = [printable(field.name) for field in fields]
    widths = [
        max(width(title), *(width(row[at]) for row in cells)) if cells else width(title)
        for at, title in enumerate(head)
    ]

    def line(row: Sequence[str]) -> str:
        parts = []
        for text, field, wide in zip(row, fields, widths, strict=True):
            pad = " " * (wide - width(text))
            parts.append(pad + text if field.is_number else text + pad)
        return "  ".join(parts).rstrip()

    if [field.name for field in fields] != ["plan"]:
        out.write(line(head) + "\n" + "  ".join("-" * wide for wide in widths) + "\n")
    out.writelines(line(row) + "\n" for row in cells)


def _json(out: TextIO, schema: str, fields: Sequence[Field], rows: _Cut, tz: tzinfo) -> None:
    columns = [{"name": field.name, "type": field.type} for field in fields]
    out.write(f'{{"schema": {json.dumps(schema)}, "columns": {json.dumps(columns)}, "rows": [')
    separator = "\n"
    for row in rows:
        out.write(separator + _object(row, fields, tz))
        separator = ",\n"
    out.write(f'\n], "truncated": {json.dumps(rows.more)}}}\n')


def _jsonl(out: TextIO, fields: Sequence[Field], rows: Iterable[Sequence[Any]], tz: tzinfo) -> None:
    out.writelines(_object(row, fields, tz) + "\n" for row in rows)


def _object(row: Sequence[Any], fields: Sequence[Field], tz: tzinfo) -> str:
    values = {field.name: plain(value, field, tz) for value, field in zip(row, fields, strict=True)}
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _csv(out: TextIO, fields: Sequence[Field], rows: Iterable[Sequence[Any]], tz: tzinfo) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in fields])
    for row in rows:
        writer.writerow(
            [moment_of(value, tz) if field.is_time else _word(value) for value, field in zip(row, fields, strict=True)]
        )
        _drain(buffer, out)
    _drain(buffer, out)


def _word(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if isinstance(value, float) and math.isnan(value) else value


def _drain(buffer: io.StringIO, out: TextIO) -> None:
    out.write(buffer.getvalue())
    buffer.seek(0)
    buffer.truncate()
