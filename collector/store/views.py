"""The tables as DuckDB views over exact lists of files: never a superseded one beside its successor."""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from collector.store import sql
from collector.store.engine import as_store_error, check_version, connect
from collector.store.files import Files
from collector.store.schema import TABLES
from collector.store.segments import Segment, segments_of
from collector.store.sketch import reader
from collector.store.table import Table

DATABASE = "perfwatt.duckdb"


def groups(table: Table, segments: Sequence[Segment]) -> list[tuple[list[Segment], bool]]:
    """
    *segments* in groups, with True those in which a later row may replace an earlier one (same keys, same time).

    In a shared table that is all of them. Otherwise a row belongs to one writer, which marks the segments that may
    repeat a row: then its segments of that day, up to the last one marked, are such a group.
    """
    if table.shared:
        return [(list(segments), True)] if segments else []
    last_marked: dict[tuple[str, object], int] = {}
    for segment in segments:
        if segment.repeats:
            place = (segment.writer, segment.date)
            last_marked[place] = max(last_marked.get(place, 0), segment.last)
    plain: list[Segment] = []
    marked: dict[tuple[str, object], list[Segment]] = {}
    for segment in segments:
        place = (segment.writer, segment.date)
        if segment.first <= last_marked.get(place, -1):
            marked.setdefault(place, []).append(segment)
        else:
            plain.append(segment)
    return ([(plain, False)] if plain else []) + [(some, True) for some in marked.values()]


def table_view(connection: duckdb.DuckDBPyConnection, root: Path, table: Table) -> str:
    """
    The rows of *table* now, as a select.

    Raises: StoreError (a segment of a newer schema).
    """
    segments = segments_of(root, table.name)
    _check_versions(connection, [segment.path for segment in segments])
    listed = groups(table, segments)
    return sql.typed_rows(table, [([segment.path for segment in some], repeats) for some, repeats in listed])


# A segment never changes, so its version is read once; publishing looks at the new ones only.
_CHECKED: set[Path] = set()


def _check_versions(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> None:
    new = [path for path in paths if path not in _CHECKED]
    if new:
        versions = dict.fromkeys(map(str, new), 0)
        for name, key, value in connection.execute(sql.metadata(new)).fetchall():
            if key == sql.VERSION_KEY:
                versions[name] = int(value)
        for name, version in versions.items():
            check_version(name, version)
        if len(_CHECKED) > 100_000:
            _CHECKED.clear()
        _CHECKED.update(new)


def selects(connection: duckdb.DuckDBPyConnection, root: Path) -> Iterator[tuple[str, str]]:
    """A view by name for each table, and for the latest of what replaces itself, as selects."""
    for table in TABLES.values():
        yield table.name, table_view(connection, root, table)
    for table in (table for table in TABLES.values() if table.states):
        yield table.now, sql.latest_of(table)


def create(connection: duckdb.DuckDBPyConnection, root: Path) -> None:
    """
    Make the views of *root*, as it is now, in an empty database.

    Raises: StoreError (a segment of a newer schema).
    """
    for name, select in selects(connection, root):
        connection.execute(f"CREATE VIEW {sql.quoted(name)} AS {select}").fetchall()
    connection.execute(reader()).fetchall()


class Publisher:
    """
    Writes the views database and puts it in place of the one before, in one rename.

    While that one is its own, only the views that have changed are made anew: making all takes four times as long.
    """

    def __init__(self, root: Path, files: Files) -> None:
        self._root, self._files = root, files
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._published: dict[str, str] = {}
        self._mark: tuple[int, int] | None = None  # of the file that holds them

    def publish(self) -> None:
        """
        Publish the views of now.

        Raises: StoreError; then what was published stays.
        """
        final = self._root / DATABASE
        temporary = self._root / f".{DATABASE}.{os.getpid()}.{threading.get_ident()}.tmp"
        with as_store_error(final):
            try:
                published = self._write(temporary, final)
                mark = _mark(temporary)  # a rename changes neither
                self._files.commit(temporary, final)
                self._published, self._mark = published, mark
            except BaseException:
                self.close()
                raise
            finally:
                temporary.unlink(missing_ok=True)
                temporary.with_name(f"{temporary.name}.wal").unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection that is kept for the next time."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, temporary: Path, final: Path) -> dict[str, str]:
        before = self._published if self._mark is not None and _mark(final) == self._mark else {}
        if before:
            shutil.copyfile(final, temporary)
        if self._connection is None:
            self._connection = connect(threads=1)
        connection = self._connection
        connection.execute(f"ATTACH {sql.text(temporary)} AS published").fetchall()
        connection.execute("USE published").fetchall()
        if not before:
            connection.execute(reader()).fetchall()
        published = {}
        for name, select in selects(connection, self._root):
            published[name] = select
            if before.get(name) != select:
                connection.execute(f"CREATE OR REPLACE VIEW {sql.quoted(name)} AS {select}").fetchall()
        connection.execute("USE memory").fetchall()
        connection.execute("DETACH published").fetchall()
        return published


def _mark(path: Path) -> tuple[int, int] | None:
    """What tells a file from any other that was put in its place."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
