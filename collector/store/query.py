"""
SQL over a store, for people: in a child process that can be stopped and has nothing but the store's segments.

    with query(root, "SELECT device, max(power_w) FROM device_samples GROUP BY 1") as result:
        for row in result.rows: ...

The statement runs in `query_child.py`; what it may do and what stops it is said there. This side counts the time that
it waits for the child, not the time that its own reader takes: who pages through an answer is not cut off. DuckDB's
`max_execution_time` counts the reader's time too, and is not used.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from collector.errors import QueryError, StoreError
from collector.store import sql as statements
from collector.store import views
from collector.store.schema import TABLES, VERSION
from collector.store.segments import segments_of
from collector.store.sketch import reader

MIB: Final = 1 << 20
_CHILD = Path(__file__).with_name("query_child.py")
# SQL that can name a table by a string put together at run time: every table must be there.
_INDIRECT = re.compile(r"\bquery(_table)?\s*\(|u&\"", re.IGNORECASE)
_OTHER_FILES: Final = 64
# Of a file that is gone DuckDB says the first; or it takes the name for a folder's, which is no allowed path.
_VANISHED = re.compile(r"No such file|No files found|Cannot open file|\.parquet/\*\*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What one statement may use.

    `timeout_s` is wall-clock time spent waiting for the statement. `memory_bytes` bounds the address space of the whole
    process, of which DuckDB and Python take 0.6 GB unused; `working_bytes` what DuckDB gives to sorts and joins.
    """

    timeout_s: float = 30.0
    memory_bytes: int = 2048 * MIB
    working_bytes: int = 1024 * MIB
    row_bytes: int = 16 * MIB
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer, its type as DuckDB calls it."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Result:
    """
    An answer: columns, and rows that come while the statement runs.

    Numbers, booleans and text are themselves; times are text in UTC as DuckDB writes it; lists and structs are JSON.
    Iterating `rows` raises QueryError when the statement fails or runs over a limit.
    """

    columns: tuple[Column, ...]
    rows: Iterator[Sequence[Any]]


@contextmanager
def query(
    root: Path,
    sql: str,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    limit: int = 0,
    tz: str = "UTC",
    limits: Limits | None = None,
) -> Iterator[Result]:
    """
    Run one reading statement over the store at *root* and give its answer, at most *limit* rows where that is not 0.

    The tables hold the rows of [start_ns, end_ns) only. Leaving the block stops the statement.

    Raises: QueryError when the statement is refused, fails or runs over a limit; StoreError when there is no store.
    """
    if not root.is_dir():
        raise StoreError(root, "no store here: no such directory")
    limits = limits or Limits()
    for attempt in range(3):
        request = _request(root.absolute(), sql, start_ns, end_ns, limit, tz, limits)
        child = _Child(root, request, limits)
        try:
            columns = child.columns()
        except QueryError as error:
            child.stop()
            # A segment may be merged away between the listing and its opening; the next listing has its successor.
            if attempt == 2 or not _VANISHED.search(str(error)):
                raise
            continue
        except BaseException:
            child.stop()
            raise
        try:
            yield Result(columns, child.rows())
        finally:
            child.stop()
        return


def _request(
    root: Path, sql: str, start_ns: int | None, end_ns: int | None, limit: int, tz: str, limits: Limits
) -> dict[str, Any]:
    everything = bool(_INDIRECT.search(sql))
    words = set(re.findall(r"\w+", sql.lower()))
    made: list[str] = []
    files: list[Path] = []
    for table in TABLES.values():
        # Opening the footers of a table's segments is what costs; a table that is not named can stay empty.
        named = everything or table.name in words or table.now in words
        segments = segments_of(root, table.name, start_ns, end_ns) if named else []
        # Relative to the store, where the child works: its definitions do not tell where that is.
        listed = [
            ([segment.path.relative_to(root) for segment in some], repeats)
            for some, repeats in views.groups(table, segments)
        ]
        files += [path for paths, _ in listed for path in paths]
        select = statements.typed_rows(table, listed) + _within(start_ns, end_ns)
        made.append(f"CREATE VIEW {statements.quoted(table.name)} AS {select}")
        if table.states:
            made.append(f"CREATE VIEW {statements.quoted(table.now)} AS {statements.latest_of(table)}")
    return {
        "sql": sql,
        "views": [*made, reader()],
        "files": [str(path) for path in files],
        "metadata": statements.metadata(files) if files else "",
        "version": [statements.VERSION_KEY, VERSION],
        "limit": limit,
        "tz": tz,
        "limits": {
            "memory_bytes": limits.memory_bytes,
            "working_bytes": limits.working_bytes,
            "row_bytes": limits.row_bytes,
            # DuckDB keeps every file of a view open to see its columns.
            "files": len(files) + _OTHER_FILES,
            "threads": limits.threads,
            "cpu_s": int(limits.timeout_s * limits.threads) + 2,
        },
    }


def _within(start_ns: int | None, end_ns: int | None) -> str:
    tests = [
        f'"time" {sign} make_timestamp_ns({moment})'
        for sign, moment in ((">=", start_ns), ("<", end_ns))
        if moment is not None
    ]
    return f" WHERE {' AND '.join(tests)}" if tests else ""


class _Child:
    """The process and the frames it sends; `stop` may be called at any time, any number of times."""

    def __init__(self, root: Path, request: dict[str, Any], limits: Limits) -> None:
        self._limits = limits
        self._waited_s = 0.0
        self._buffer = bytearray()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", str(_CHILD)],
            cwd=root,
            # Nothing of the user's environment: SQL has no way to it, and nothing there is needed.
            env={"PATH": os.defpath, "HOME": "/nonexistent", "TZ": "UTC"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died; reading its answer says of what
            self._process.stdin.write(json.dumps(request).encode())
            self._process.stdin.close()

    def columns(self) -> tuple[Column, ...]:
        """
        The columns of the answer.

        Raises: QueryError.
        """
        return tuple(Column(str(name), str(kind)) for name, kind in self._frame()["columns"])

    def rows(self) -> Iterator[Sequence[Any]]:
        """The rows of the answer, as they come."""
        while "end" not in (frame := self._frame()):
            yield from frame["rows"]

    def stop(self) -> None:
        """Kill the process if it runs, and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _close(pipe)

    def _frame(self) -> dict[str, Any]:
        size = int.from_bytes(self._take(4), "big")
        if size > self._limits.row_bytes + 4 * MIB:
            raise QueryError("the query process sent something that is no answer")
        frame: dict[str, Any] = json.loads(self._take(size))
        if "error" in frame:
            raise QueryError(self._explained(str(frame["kind"]), str(frame["error"])))
        return frame

    def _take(self, size: int) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        while len(self._buffer) < size:
            begun = time.monotonic()
            ready, _, _ = select.select([stdout], [], [], max(self._limits.timeout_s - self._waited_s, 0.0))
            self._waited_s += time.monotonic() - begun
            if not ready:
                raise QueryError(f"stopped: the query took longer than {self._limits.timeout_s:g} s (--timeout)")
            data = os.read(stdout, MIB)
            if not data:
                raise QueryError(self._death())
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _explained(self, kind: str, message: str) -> str:
        if kind == "OutOfMemoryException":
            return f"stopped: the query needs more memory than it may have ({self._memory()})"
        if kind == "PermissionException":
            return f"refused: a query reads the store's tables and nothing else. {message}"
        return message

    def _memory(self) -> str:
        return f"{self._limits.working_bytes // MIB} MiB to work with, {self._limits.memory_bytes // MIB} MiB in all"

    def _death(self) -> str:
        code = self._process.wait()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode("utf-8", "replace").strip()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"stopped: the query used more processor time than {self._limits.timeout_s:g} s of --timeout allow"
        if "bad_alloc" in said or code in (-signal.SIGABRT, -signal.SIGSEGV):
            return f"stopped: the query process ran out of memory ({self._memory()})"
        return f"the query process ended with code {code}: {said.splitlines()[-1] if said else 'no message'}"


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with suppress(BrokenPipeError):  # what was still to be written to a dead process
            pipe.close()
