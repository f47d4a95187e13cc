"""DuckDB, held at arm's length: connections with the store's settings, and its exceptions as StoreError."""

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from collector.errors import StoreError
from collector.store import sql
from collector.store.parquet import only_page
from collector.store.schema import VERSION

Row = tuple[Any, ...]

# DuckDB makes no smaller group of rows.
_LEAST_GROUP = 2048
_SHORT_BYTES = 4 << 20


def connect(
    database: Path | str = ":memory:", *, threads: int | None = None, memory: str | None = None, read_only: bool = False
) -> duckdb.DuckDBPyConnection:
    """
    Open a DuckDB connection that fetches nothing from the network and prints nothing.

    With *threads* it works in so many and no more: DuckDB would add four for each core that only wait for files.
    """
    config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    if threads is not None:
        config |= {"threads": threads, "async_threads": 0}
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
        raise StoreError(path, str(error).splitlines()[0] + _room(path)) from error
    except OSError as error:
        raise StoreError(error.filename or path, (error.strerror or str(error)) + _room(path)) from error


def _room(path: Path | str) -> str:
    """What is left of the disk, if that is nearly nothing: not every library says that it was what failed."""
    place = next((place for place in [Path(path), *Path(path).parents] if place.exists()), None)
    free = shutil.disk_usage(place).free if place is not None else _SHORT_BYTES
    return "" if free >= _SHORT_BYTES else f" (its disk has {free >> 10} kB left)"


class Engine:
    """
    One in-memory DuckDB that writes segments; safe to use from several threads, one statement at a time.

    The defaults suit the agent: one thread, and memory that a few thousand rows need. Sorts beyond it go to *spill*.
    """

    def __init__(self, *, threads: int | None = 1, memory: str | None = "96MB", spill: Path | None = None) -> None:
        self.threads, self.memory, self._spill = threads, memory, spill
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._compressing = threading.Lock()
        self._press: Engine | None = None

    @property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        """Opened for the first statement, since most of the time an agent's has nothing to do."""
        if self._opened is None:
            self._opened = connect(threads=self.threads, memory=self.memory)
            if self._spill is not None:
                self._opened.execute(f"SET temp_directory = {sql.text(self._spill)}").fetchall()
        return self._opened

    def run(self, statement: str) -> list[Row]:
        """Run a statement to its end and give its rows."""
        with self._lock:
            # fetchall, because execute() alone streams: an unfetched COPY has not happened yet.
            return self._connection.execute(statement).fetchall()

    def arrays(self, statement: str) -> dict[str, Any]:
        """The answer of a statement as arrays by column, masked where it is null."""
        with self._lock:
            found: dict[str, Any] = self._connection.execute(statement).fetchnumpy()
            return found

    def beside(self, statement: str) -> dict[str, Any]:
        """As `arrays`, but statements of several threads run side by side; none sees what is `registered`."""
        if not hasattr(self._of_thread, "connection"):
            with self._lock:
                self._of_thread.connection = self._connection.cursor()
        found: dict[str, Any] = self._of_thread.connection.execute(statement).fetchnumpy()
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._press is not None:
            self._press.close()
        with self._lock:
            if self._opened is not None:
                self._opened.close()

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

    def compressed(self, words: Any, compression: str, scratch: Path) -> bytes:
        """
        *words*, an array of whole numbers of 32 bits, in a compression of DuckDB's, by way of the file *scratch*.

        Python has neither Brotli nor, before 3.14, Zstandard, but DuckDB has: a column that is never null, written
        plain, is one page, whose content is what was asked for.
        """
        plain = f"PARQUET_VERSION v1, DICTIONARY_SIZE_LIMIT 0, ROW_GROUP_SIZE {max(len(words), _LEAST_GROUP)}"
        with self._compressing:
            # Several threads would write what is in the table's second group of rows as a group of its own.
            self._press = self._press or Engine(memory=self.memory, spill=scratch.with_suffix(".spill.tmp"))
            self._press.run("CREATE OR REPLACE TEMP TABLE words (word INTEGER NOT NULL)")
            with self._press.registered("given_words", {"word": words}):
                self._press.run("INSERT INTO words SELECT word FROM given_words")
            self._press.run(f"COPY words TO {sql.text(scratch)} (FORMAT parquet, {plain}, COMPRESSION {compression})")
            content = scratch.read_bytes()
        start, size, length = only_page(content)
        if size != 4 * len(words):
            raise StoreError(scratch, f"DuckDB wrote a page of {size} bytes, not the {4 * len(words)} of its column")
        return content[start : start + length]

    def versions(self, paths: Sequence[Path]) -> dict[str, int]:
        """The schema version of each segment (0: none, so not a segment of ours)."""
        found = dict.fromkeys((str(path) for path in paths), 0)
        for name, key, value in self.run(sql.metadata(paths)) if paths else ():
            if key == sql.VERSION_KEY:
                found[name] = int(value)
        return found


def check_version(path: Path | str, version: int) -> None:
    """
    Raise if a segment's schema is not one that this perfwatt knows.

    Raises: StoreError.
    """
    if version > VERSION:
        raise StoreError(path, f"schema version {version} is newer than {VERSION}, the newest that this perfwatt reads")
    if version < 1:
        raise StoreError(path, "not a segment of perfwatt: it carries no schema version")
