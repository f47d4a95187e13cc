"""Answers to questions as Parquet files: rows of Python values with the types that the question named."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from collector.store import sql
from collector.store.engine import as_store_error, connect

# What stands as itself in a row; any other type stands as text that DuckDB reads back.
_ITSELF = {
    "BOOLEAN",
    "DOUBLE",
    "FLOAT",
    "VARCHAR",
    *(f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")),
}
_TEXT = re.compile(r"TIMESTAMP(_NS|_MS|_S)?|TIMESTAMP WITH TIME ZONE|DATE|TIME|UUID|DECIMAL\(\d{1,2},\d{1,2}\)")


def write_parquet(path: Path, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> None:
    """
    Write *rows* to *path*, which takes its name only when it is whole; what has no type of its own is text.

    Raises: StoreError when the file cannot be written.
    """
    # A type comes from a child that ran somebody's SQL: only what is known becomes part of a statement here.
    kinds = [kind if kind in _ITSELF or _TEXT.fullmatch(kind) else "VARCHAR" for _, kind in columns]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with as_store_error(path):
        connection = connect()
        try:
            held = [kind if kind in _ITSELF else "VARCHAR" for kind in kinds]
            names = [f"c{index}" for index in range(len(columns))]
            listed = ", ".join(f"{name} {kind}" for name, kind in zip(names, held, strict=True))
            connection.execute(f"CREATE TEMP TABLE answer ({listed})").fetchall()
            with connection.appender("answer") as appender:
                for row in rows:
                    appender.append_row(*(_fitting(value, kind) for value, kind in zip(row, held, strict=True)))
            select = ", ".join(
                f"{_read_back(name, kind)} AS {sql.quoted(title)}"
                for name, kind, (title, _) in zip(names, kinds, columns, strict=True)
            )
            connection.execute(
                f"COPY (SELECT {select} FROM answer) TO {sql.text(temporary)} (FORMAT parquet, COMPRESSION zstd)"
            ).fetchall()
            temporary.replace(path)
        finally:
            connection.close()
            temporary.unlink(missing_ok=True)


def _fitting(value: Any, kind: str) -> Any:
    return str(value) if kind == "VARCHAR" and value is not None and not isinstance(value, str) else value


def _read_back(name: str, kind: str) -> str:
    if kind == "TIMESTAMP_NS":  # as text, or as whole nanoseconds
        return f"coalesce(make_timestamp_ns(TRY_CAST({name} AS BIGINT)), TRY_CAST({name} AS TIMESTAMP_NS))"
    return name if kind in _ITSELF else f"{name}::{kind}"
