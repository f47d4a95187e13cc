"""DuckDB, held at arm's length: connections with the store's settings, and its exceptions as StoreError."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb

from collector.errors import StoreError
from collector.store import sql
from collector.store.schema import VERSION
from collector.store.table import Column, Table

Row = tuple[Any, ...]

_CHUNK_ROWS = 2048


def connect(
    database: Path | str = ":memory:", *, threads: int | None = None, memory: str | None = None, read_only: bool = False
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB connection that fetches nothing from the network and prints nothing."""
    config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    if threads is not None:
        config["threads"] = threads
    if memory is not None:
        config["memory_limit"] = memory
    connection = duckdb.connect(str(database), read_only=read_only, config=config)
    # On an interactive terminal DuckDB draws its progress bar into stdout, which is data here; connect() cannot say so.
    connection.execute("SET enable_progress_bar = false").fetchall()
    return connection


@contextmanager
def as_store_error(path: Path | str) -> Iterator[None]:
    """Turn DuckDB's and the operating system's errors into StoreError: the path and the first line of their text."""
    try:
        yield
    except duckdb.Error as error:
        raise StoreError(path, str(error).splitlines()[0]) from error
    except OSError as error:
        raise StoreError(error.filename or path, error.strerror or str(error)) from error


class Engine:
    """
    One in-memory DuckDB that writes segments; safe to use from several threads, one statement at a time.

    The defaults suit the agent: one thread, and memory that a few thousand rows need. Sorts beyond it go to *spill*.
    """

    def __init__(self, *, threads: int | None = 1, memory: str | None = "96MB", spill: Path | None = None) -> None:
        self._connection = connect(threads=threads, memory=memory)
        self._lock = threading.Lock()
        self._buffers: dict[str, tuple[str, ...]] = {}
        self._appenders: dict[str, Any] = {}
        if spill is not None:
            self.run(f"SET temp_directory = {sql.text(spill)}")

    def run(self, statement: str) -> list[Row]:
        """Run a statement to its end and give its rows."""
        with self._lock:
            # fetchall, because execute() alone streams: an unfetched COPY has not happened yet.
            return self._connection.execute(statement).fetchall()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._appenders.clear()
            self._connection.close()

    @contextmanager
    def registered(self, name: str, data: Mapping[str, Any]) -> Iterator[None]:
        """Let statements see *data* (columns as arrays) as a table called *name*."""
        with self._lock:
            self._connection.register(name, data)
        try:
            yield
        finally:
            with self._lock:
                self._connection.unregister(name)

    def write_rows(
        self, table: Table, names: tuple[str, ...], rows: Iterable[Row], path: Path, *, ordered: bool = False
    ) -> None:
        """
        Write rows as they came from the agent, `time` and the like as integer nanoseconds.

        Values stay doubles: packing them takes a pass that is not worth its time for a few dozen rows. Nor is a sort of
        wide rows, where the caller has them *ordered*.
        """
        columns = [column for column in table if column.name in names]
        buffer = sql.quoted(f"rows_of_{table.name}")
        with self._lock:
            appender = self._appender(table, names)
        try:
            with self._lock:
                _append(appender, rows)
            select = ", ".join(_unbuffered(column) for column in columns)
            order = "" if ordered else f" ORDER BY {sql.order(table, map(sql.quoted, names))}"
            self.run(sql.copy(f"SELECT {select} FROM {buffer}{order}", path, table, lasting=False))
        finally:
            self.run(f"TRUNCATE {buffer}")

    def _appender(self, table: Table, names: tuple[str, ...]) -> Any:
        """What fills the table's buffer, which is made anew when its columns change."""
        buffer = f"rows_of_{table.name}"
        if self._buffers.get(table.name) != names:
            self._appenders.pop(table.name, None)
            types = {column.name: _buffered(column) for column in table}
            listed = ", ".join(f"{sql.quoted(name)} {types[name]}" for name in names)
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {sql.quoted(buffer)} ({listed})").fetchall()
            self._buffers[table.name] = names
            # Kept, because to open one takes half as long as to fill it: it looks up every column.
            self._appenders[table.name] = self._connection.appender(buffer)
        return self._appenders[table.name]

    def versions(self, paths: Sequence[Path]) -> dict[str, int]:
        """The schema version of each segment (0: none, so not a segment of ours)."""
        found = dict.fromkeys((str(path) for path in paths), 0)
        for name, key, value in self.run(sql.metadata(paths)) if paths else ():
            if key == sql.VERSION_KEY:
                found[name] = int(value)
        return found


def _append(appender: Any, rows: Iterable[Row]) -> None:
    pending = iter(rows)
    try:
        while chunk := list(islice(pending, _CHUNK_ROWS)):
            appender.append_rows(chunk)
        appender.flush()
    except BaseException:
        appender.clear()
        raise


def check_version(path: Path | str, version: int) -> None:
    """
    Raise if a segment's schema is not one that this perfwatt knows.

    Raises: StoreError.
    """
    if version > VERSION:
        raise StoreError(path, f"schema version {version} is newer than {VERSION}, the newest that this perfwatt reads")
    if version < 1:
        raise StoreError(path, "not a segment of perfwatt: it carries no schema version")


def _buffered(column: Column) -> str:
    return "BIGINT" if column.type == "TIMESTAMP_NS" else column.type


def _unbuffered(column: Column) -> str:
    name = sql.quoted(column.name)
    # Python's datetime ends at microseconds, so nanoseconds pass through as integers.
    return f"make_timestamp_ns({name}) AS {name}" if column.type == "TIMESTAMP_NS" else name
