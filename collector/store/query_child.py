"""
The child process in which a statement runs: DuckDB with everything taken away but the store's segments.

Run by `query.py` as a program of its own (``python -I query_child.py``), not imported: it needs the standard library
and duckdb only, starts in 0.15 s, and its limits bind nobody else. A request is one JSON object on stdin; answers are
frames on stdout, four bytes of length and that many bytes of JSON: ``{"columns": ...}``, ``{"rows": ...}`` any number
of times, then ``{"end": true}`` or ``{"error": ..., "kind": ...}``.

DuckDB has no privilege boundary of its own, so several fences stand one behind the other: one statement of a reading
type; wrapped as a subquery, which alone refuses an INSERT hidden in a WITH (its type says SELECT); external access off,
with the segments as the only paths; configuration locked; and rlimits, since `memory_limit` bounds neither
``repeat('x', 2000000000)`` nor ``range(200000000)``, measured at 3.9 and 14 GB without them.
"""

import ctypes
import itertools
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

_FRAME_BYTES = 1 << 20
_RAW = re.compile(r"BOOLEAN|VARCHAR|U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|DOUBLE|FLOAT|\"NULL\"")
_NESTED = re.compile(r"(STRUCT|MAP|UNION|JSON|VARIANT)\b|.*\[\d*\]$", re.DOTALL)
_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?\s", re.IGNORECASE)


class Refused(Exception):
    """A statement that may not run here."""


def confine(limits: dict[str, int]) -> None:
    """Give up, for good, what a query does not need."""
    for name, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits["files"]),
    ):
        _, hard = resource.getrlimit(name)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    # A write beyond RLIMIT_FSIZE is an error to report, not a death to explain.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: a killed parent leaves nothing running
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if os.getppid() == 1 and limits.get("parent", 1) != 1:
            sys.exit(1)


def literal(text: str) -> str:
    """*text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def connect(request: dict[str, Any]) -> Any:
    """A locked connection with the request's views; paths are relative to the working directory, the store."""
    import duckdb

    con = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "threads": str(request["limits"]["threads"]),
            "async_threads": "0",
            "memory_limit": f"{request['limits']['working_bytes']}B",
        }
    )
    # The progress bar goes to stdout after two seconds, into the middle of the data.
    con.execute("SET enable_progress_bar = false")
    con.execute("SET python_enable_replacements = false")
    con.execute("SET temp_directory = ''")
    con.execute(f"SET TimeZone = {literal(request['tz'])}")
    con.execute(f"SET allowed_paths = [{', '.join(map(literal, request['files']))}]")
    con.execute("SET enable_external_access = false")
    wanted, newest = request["version"]
    for path, key, version in con.execute(request["metadata"]).fetchall() if request["metadata"] else ():
        if key == wanted and int(version) > newest:
            raise Refused(
                f"{path}: schema version {version} is newer than {newest}, the newest that this perfwatt reads"
            )
    for statement in request["views"]:
        con.execute(statement)
    con.execute("SET lock_configuration = true")
    return con


def without_semicolon(sql: str) -> str:
    """*sql* up to the semicolon that ends it, which a subquery cannot hold."""
    import duckdb

    tokens = [(start, kind) for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]
    data = sql.encode()
    while tokens and data[tokens[-1][0] : tokens[-1][0] + 1] == b";":
        data = data[: tokens.pop()[0]]
    return data.decode()


def checked(con: Any, sql: str) -> tuple[str, bool]:
    """
    The statement to wrap, and whether it is an EXPLAIN (whose statement comes without that word).

    Raises: Refused unless *sql* is a single statement that reads.
    """
    statements = con.extract_statements(sql)
    if len(statements) != 1:
        raise Refused(f"one statement at a time; here are {len(statements)}" if statements else "no statement to run")
    kind = statements[0].type.name
    sql = without_semicolon(sql)
    explained = _EXPLAIN.match(sql) if kind == "EXPLAIN" else None
    if explained:
        inner = con.extract_statements(sql[explained.end() :])
        kind = inner[0].type.name if len(inner) == 1 else "EXPLAIN"
        sql = sql[explained.end() :]
    # MULTI is a PIVOT; anything else that calls itself so does not parse as a subquery.
    if kind not in ("SELECT", "MULTI"):
        raise Refused(f"{kind.replace('_', ' ')} statements are not allowed here; a query may only read (SELECT)")
    if statements[0].named_parameters:
        raise Refused("parameters ($1, ?) have no values here; write the values into the statement")
    return sql, bool(explained)


def describe(con: Any, sql: str, kind: str) -> list[tuple[str, str]]:
    """Names and types of the columns, the names made unique (``a``, ``a_2``)."""
    if kind == "SELECT":
        _ = con.sql(sql).columns  # binds what the user wrote, so that an error points into it
    found: list[tuple[str, str]] = []
    taken: set[str] = set()
    for row in con.execute(f"DESCRIBE SELECT * FROM (\n{sql}\n)").fetchall():
        name, count = str(row[0]), 2
        while name.lower() in taken:
            name, count = f"{row[0]}_{count}", count + 1
        taken.add(name.lower())
        found.append((name, str(row[1])))
    return found


def as_json(alias: str, kind: str) -> str:
    """A column as something JSON has: DuckDB's own text for times and decimals, JSON for what is nested."""
    if _RAW.fullmatch(kind):
        return alias
    return f"to_json({alias})::VARCHAR" if _NESTED.match(kind) else f"{alias}::VARCHAR"


def rows(con: Any, sql: str, columns: Sequence[tuple[str, str]], limit: int) -> Iterator[tuple[Any, ...]]:
    """The rows of *sql*, at most *limit* where that is not 0."""
    aliases = [f"c{index}" for index in range(len(columns))]
    values = ", ".join(as_json(alias, kind) for alias, (_, kind) in zip(aliases, columns, strict=True))
    statement = f"SELECT {values} FROM (\n{sql}\n) AS q({', '.join(aliases)})"
    result = con.execute(statement + (f" LIMIT {limit}" if limit else ""))
    while batch := result.fetchmany(500):
        yield from batch


def plan(con: Any, sql: str, head: str) -> Iterator[tuple[str]]:
    """The lines of a plan."""
    for _, text in con.execute(head + sql).fetchall():
        yield from ((line,) for line in text.splitlines())


class Frames:
    """Writes frames; rows are gathered into frames of about a megabyte."""

    def __init__(self, out: BinaryIO, row_bytes: int) -> None:
        self.out = out
        self.row_bytes = row_bytes
        self.waiting: list[bytes] = []
        self.size = 0

    def send(self, payload: bytes) -> None:
        """Write one frame."""
        self.out.write(len(payload).to_bytes(4, "big") + payload)
        self.out.flush()

    def row(self, row: Sequence[Any]) -> None:
        """
        Take one row.

        Raises: Refused when it is larger than a frame may be.
        """
        data = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(data) > self.row_bytes:
            raise Refused(f"a row of {len(data):,} bytes is over the limit of {self.row_bytes:,} bytes for a row")
        self.waiting.append(data)
        self.size += len(data)
        if self.size > _FRAME_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send the rows that wait."""
        if self.waiting:
            self.send(b'{"rows":[' + b",".join(self.waiting) + b"]}")
            self.waiting, self.size = [], 0


def answer(request: dict[str, Any], frames: Frames) -> None:
    """Run the request's statement and send what it brings."""
    con = connect(request)
    sql, explained = checked(con, request["sql"])
    kind = con.extract_statements(sql)[0].type.name
    columns = describe(con, sql, kind)
    if explained:
        head = _EXPLAIN.match(request["sql"])
        columns = [("plan", "VARCHAR")]
        found: Iterator[tuple[Any, ...]] = plan(con, sql, head.group() if head else "EXPLAIN ")
    else:
        found = rows(con, sql, columns, request["limit"])
    # The first row comes before the columns: until then the other side may ask again, should a segment have vanished.
    first = next(found, None)
    frames.send(json.dumps({"columns": columns}).encode())
    for row in itertools.chain([first] if first is not None else [], found):
        frames.row(row)
    frames.flush()
    frames.send(b'{"end":true}')


def main() -> int:
    """Serve one request."""
    request = json.loads(sys.stdin.buffer.read())
    confine(request["limits"])
    # Whatever a library prints goes to stderr; the real stdout is ours alone.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    import duckdb

    frames = Frames(out, request["limits"]["row_bytes"])
    try:
        answer(request, frames)
    except Refused as error:
        frames.send(json.dumps({"error": str(error), "kind": "Refused"}).encode())
    except MemoryError:
        frames.send(json.dumps({"error": "", "kind": "OutOfMemoryException"}).encode())
    except duckdb.Error as error:
        frames.send(json.dumps({"error": str(error), "kind": type(error).__name__}).encode("utf-8", "replace"))
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
