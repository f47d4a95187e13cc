"""SQL over a store: what reads is answered, what does anything else is refused, what takes too much is stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from collector.errors import QueryError, StoreError
from collector.store import Store
from collector.store import query as module
from collector.store.query import MIB, Limits, query

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000
# Enough for every honest statement here, and soon reached by the others.
SMALL = Limits(timeout_s=20.0, memory_bytes=1400 * MIB, working_bytes=256 * MIB)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("query") / "store"
    store = Store.create(path)
    for part in range(3):
        times = [T0 + (part * 10 + second) * S + 123_456_789 for second in range(10)]
        store.write(
            "device_samples",
            {
                "device": ["GPU-0"] * 10 + ["GPU-1"] * 10,
                "time": times * 2,
                "source": ["test"] * 20,
                "power_w": [100.0 + part] * 10 + [200.0 + part] * 10,
            },
        )
    store.write(
        "devices",
        {
            "device": ["GPU-0", "GPU-0"],
            "time": [T0, T0 + S],
            "source": ["test"] * 2,
            "host": ["a"] * 2,
            "model": ["X"] * 2,
            "driver_version": ["1", "2"],
        },
    )
    return path


def ask(root: Path, sql: str, *, limits: Limits = SMALL, **options: Any) -> list[Sequence[Any]]:
    with query(root, sql, limits=limits, **options) as result:
        return list(result.rows)


def test_tables_are_read_with_every_column_of_the_schema(root: Path) -> None:
    assert ask(
        root, "SELECT device, count(*), avg(power_w), max(temperature_c) FROM device_samples GROUP BY 1 ORDER BY 1"
    ) == [
        ["GPU-0", 30, 101.0, None],
        ["GPU-1", 30, 201.0, None],
    ]


def test_the_latest_of_a_table_that_replaces_itself_has_a_view(root: Path) -> None:
    assert ask(root, "SELECT device, driver_version FROM devices_now") == [["GPU-0", "2"]]


def test_a_table_without_rows_is_empty_not_missing(root: Path) -> None:
    assert ask(root, "SELECT count(*) FROM workload_samples") == [[0]]


def test_times_keep_their_nanoseconds(root: Path) -> None:
    assert ask(root, "SELECT min(time) FROM device_samples") == [["2026-01-01 00:00:00.123456789"]]


def test_a_window_bounds_the_rows(root: Path) -> None:
    assert ask(root, "SELECT count(*) FROM device_samples", start_ns=T0 + 5 * S, end_ns=T0 + 12 * S) == [[14]]


def test_a_table_named_by_a_string_is_there_too(root: Path) -> None:
    assert ask(root, "SELECT count(*) FROM query_table('device_' || 'samples')") == [[60]]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1", "INTEGER", 1),
        ("170141183460469231731687303715884105727", "HUGEINT", 2**127 - 1),
        ("1.50::DECIMAL(5,2)", "DECIMAL(5,2)", "1.50"),
        ("0.1::DOUBLE", "DOUBLE", 0.1),
        ("true", "BOOLEAN", True),
        ("NULL", '"NULL"', None),
        ("[1, 2]", "INTEGER[]", "[1,2]"),
        ("{'a': 1}", "STRUCT(a INTEGER)", '{"a":1}'),
        ("MAP {'k': 1.5::DOUBLE}", "MAP(VARCHAR, DOUBLE)", '{"k":1.5}'),
        ("INTERVAL 1 DAY", "INTERVAL", "1 day"),
        ("'a'::BLOB", "BLOB", "a"),
        ("TIMESTAMPTZ '2026-01-01 00:00:00+02'", "TIMESTAMP WITH TIME ZONE", "2025-12-31 22:00:00+00"),
        ("DATE '2026-01-01'", "DATE", "2026-01-01"),
        ("'ünïcode '' \"'", "VARCHAR", "ünïcode ' \""),
    ],
)
def test_every_type_comes_as_something_json_has(root: Path, value: str, kind: str, expected: Any) -> None:
    with query(root, f"SELECT {value} AS v", limits=SMALL) as result:
        rows = list(result.rows)
        assert (result.columns[0].type, rows) == (kind, [[expected]])


def test_columns_of_one_name_are_told_apart(root: Path) -> None:
    with query(root, "SELECT 1 AS a, 2 AS a, 3 AS A", limits=SMALL) as result:
        assert len({column.name.lower() for column in result.columns}) == 3
        assert list(result.rows) == [[1, 2, 3]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 7 AS x;",
        "SELECT 7 AS x; -- done",
        "-- first\nSELECT 7 AS x",
        "FROM (VALUES (7)) t(x)",
        "WITH a AS (SELECT 7 AS x) FROM a",
        "SELECT ';' AS s, 7 AS x",
        "/* ; */ VALUES (7)",
    ],
)
def test_a_statement_may_be_written_as_people_write_it(root: Path, sql: str) -> None:
    assert ask(root, sql)[0][-1] == 7


@pytest.mark.parametrize(
    "sql", ["SHOW TABLES", "DESCRIBE device_samples", "SUMMARIZE devices", "PIVOT devices ON model"]
)
def test_what_shows_and_sums_up_is_allowed(root: Path, sql: str) -> None:
    assert ask(root, sql)


@pytest.mark.parametrize("head", ["EXPLAIN", "explain analyze"])
def test_a_plan_comes_line_by_line(root: Path, head: str) -> None:
    with query(root, f"{head} SELECT max(power_w) FROM device_samples", limits=SMALL) as result:
        assert [column.name for column in result.columns] == ["plan"]
        assert any("parquet" in str(row[0]).lower() for row in result.rows)


def test_order_survives_and_the_limit_holds(root: Path) -> None:
    rows = ask(root, "SELECT range AS n FROM range(100000) ORDER BY n DESC", limit=3)
    assert rows == [[99999], [99998], [99997]]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT foo FROM devices", 'column "foo" not found'),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("SELECT 'x'::INTEGER", "Could not convert string 'x'"),
        ("", "no statement"),
        ("SELECT 1; SELECT 2", "one statement at a time; here are 2"),
        ("SELECT $1", "parameters"),
    ],
)
def test_a_faulty_statement_gets_the_engines_own_words(root: Path, sql: str, said: str) -> None:
    with pytest.raises(QueryError, match=re.escape(said)):
        ask(root, sql)


# ------------------------------------------------------------------------------------------------ hostile statements

OUTSIDE = "refused: a query reads the store's tables and nothing else"
HOSTILE = {
    "read a file as text": ("SELECT content FROM read_text('/etc/passwd')", OUTSIDE),
    "read a file as bytes": ("SELECT content FROM read_blob('/etc/passwd')", OUTSIDE),
    "read a file as CSV": ("FROM read_csv('/etc/passwd')", OUTSIDE),
    "read a file by its name": ("FROM '/etc/passwd.csv'", OUTSIDE),
    "read a file as JSON": ("FROM read_json('/etc/passwd')", OUTSIDE),
    "sniff a file": ("FROM sniff_csv('/etc/passwd')", OUTSIDE),
    "list a folder": ("FROM glob('/etc/*')", OUTSIDE),
    "list the store": ("FROM glob('*')", OUTSIDE),
    "read beside the store": ("FROM read_text('../secret.txt')", OUTSIDE),
    "read through the store": ("FROM read_text('device_samples/../../secret.txt')", OUTSIDE),
    "read what is in the store but no segment": ("FROM read_text('notes.txt')", OUTSIDE),
    "read through a link": ("FROM read_text('link.txt')", OUTSIDE),
    "read the network": ("FROM read_csv('http://127.0.0.1:9/x.csv')", None),
    "read this process": ("FROM read_text('/proc/self/environ')", OUTSIDE),
    "read Parquet's footers outside": ("FROM parquet_metadata('/etc/x.parquet')", OUTSIDE),
    "write a file": ("COPY (SELECT 1) TO 'made.csv'", "COPY statements are not allowed"),
    "write over a segment": ("COPY (SELECT 1) TO 'device_samples/x.parquet'", "COPY statements are not allowed"),
    "write under EXPLAIN": ("EXPLAIN ANALYZE COPY (SELECT 1) TO 'made.csv'", "COPY statements are not allowed"),
    "load a file": ("COPY devices FROM '/etc/passwd'", "COPY"),
    "export": ("EXPORT DATABASE 'made'", "EXPORT statements are not allowed"),
    "import": ("IMPORT DATABASE '/tmp'", None),
    "attach": ("ATTACH '/tmp/x.duckdb'", "ATTACH statements are not allowed"),
    "detach": ("DETACH memory", "not allowed"),
    "install": ("INSTALL httpfs", "not allowed"),
    "load": ("LOAD '/tmp/x.duckdb_extension'", "LOAD statements are not allowed"),
    "force install": ("FORCE INSTALL httpfs FROM 'http://127.0.0.1:9'", "not allowed"),
    "set": ("SET memory_limit = '100GB'", "SET statements are not allowed"),
    "unlock": ("SET lock_configuration = false", "SET statements are not allowed"),
    "reset": ("RESET memory_limit", "not allowed"),
    "pragma": ("PRAGMA enable_profiling", "PRAGMA statements are not allowed"),
    "profile into a file": ("PRAGMA profiling_output = '/tmp/made'", "not allowed"),
    "where it is": ("PRAGMA database_list", "PRAGMA statements are not allowed"),
    "call": ("CALL pragma_version()", "CALL statements are not allowed"),
    "checkpoint": ("CHECKPOINT", "not allowed"),
    "vacuum": ("VACUUM", "VACUUM statements are not allowed"),
    "use": ("USE memory", "not allowed"),
    "begin": ("BEGIN", "TRANSACTION statements are not allowed"),
    "create": ("CREATE TABLE t AS SELECT 1", "CREATE statements are not allowed"),
    "create temporary": ("CREATE TEMP TABLE t AS SELECT 1", "CREATE statements are not allowed"),
    "create a macro": ("CREATE MACRO f() AS 1", "CREATE statements are not allowed"),
    "create a secret": ("CREATE SECRET s (TYPE s3)", "not allowed"),
    "drop": ("DROP VIEW devices", "DROP statements are not allowed"),
    "alter": ("ALTER VIEW devices RENAME TO x", "ALTER statements are not allowed"),
    "insert": ("INSERT INTO devices VALUES (1)", "INSERT statements are not allowed"),
    "insert inside WITH": ("WITH x AS (INSERT INTO devices VALUES ('a') RETURNING *) FROM x", None),
    "update": ("UPDATE devices SET model = 'x'", "UPDATE statements are not allowed"),
    "delete": ("DELETE FROM devices", "DELETE statements are not allowed"),
    "prepare": ("PREPARE p AS SELECT 1", "PREPARE statements are not allowed"),
    "execute": ("EXECUTE p", "EXECUTE statements are not allowed"),
    "environment": ("SELECT getenv('HOME')", "getenv does not exist"),
    "variables of this program": ("SELECT * FROM request", "request does not exist"),
    "close the subquery": ("SELECT 1) q; DROP VIEW devices; --", None),
    "comment out the end": ("SELECT 1 --", None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_statement_is_refused_and_changes_nothing(root: Path, name: str) -> None:
    sql, said = HOSTILE[name]
    (root / "notes.txt").write_text("secret")
    (root.parent / "secret.txt").write_text("secret")
    if not (root / "link.txt").is_symlink():
        (root / "link.txt").symlink_to("../secret.txt")
    before = sorted(root.rglob("*"))
    if name == "comment out the end":
        assert ask(root, sql) == [[1]]
    else:
        with pytest.raises(QueryError) as caught:
            ask(root, sql)
        assert said is None or said in str(caught.value)
        assert "secret" not in str(caught.value).replace("secret.txt", "")
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 2000000000)",
        "SELECT len(range(200000000))",
        "SELECT list(range) FROM range(60000000)",
        "SELECT count(*) FROM (SELECT DISTINCT range || 'x' FROM range(100000000))",
        "SELECT repeat('x', 20000000)",
    ],
)
def test_what_takes_too_much_memory_is_stopped(root: Path, sql: str) -> None:
    with pytest.raises(QueryError, match=r"more memory than it may have|over the limit of .* bytes for a row"):
        ask(root, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
        "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
        "SELECT count(*) FROM range(100000000) WHERE regexp_matches(repeat('a', 2000) || range, '(a|aa)+b')",
    ],
)
def test_what_takes_too_long_is_stopped_and_the_limit_is_named(root: Path, sql: str) -> None:
    begun = time.monotonic()
    with pytest.raises(QueryError, match=r"longer than 0\.7 s \(--timeout\)"):
        ask(root, sql, limits=Limits(timeout_s=0.7, memory_bytes=1400 * MIB))
    assert time.monotonic() - begun < 5


def test_there_are_no_secrets_and_no_network_extensions(root: Path) -> None:
    assert ask(root, "FROM duckdb_secrets()") == []
    with pytest.raises(QueryError, match=OUTSIDE):
        ask(root, "FROM duckdb_extensions()")


def test_an_answer_does_not_tell_where_the_store_is(root: Path) -> None:
    for sql in (
        "SELECT file FROM pragma_database_list",
        "SELECT path FROM duckdb_databases()",
        "SELECT sql FROM duckdb_views() WHERE view_name = 'device_samples'",
    ):
        assert str(root) not in json.dumps(ask(root, sql))


def test_the_child_has_no_environment_and_its_limits_are_in_force(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFWATT_TEST_SECRET", "s3cret")
    with query(root, "FROM range(10000000)", limits=SMALL) as result:
        next(iter(result.rows))
        (child,) = children()
        environment = Path(f"/proc/{child}/environ").read_bytes()
        limits = Path(f"/proc/{child}/limits").read_text()
    assert b"SECRET" not in environment
    kept = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
    assert kept["Max address space"] == str(1400 * MIB)
    assert kept["Max file size"] == kept["Max core file size"] == "0"
    assert (kept["Max open files"], kept["Max cpu time"]) == ("64", "42")


def children() -> list[int]:
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return [
        int(word) for word in task.read_text().split() if b"query_child" in Path(f"/proc/{word}/cmdline").read_bytes()
    ]


def test_leaving_the_answer_early_ends_the_child(root: Path) -> None:
    with query(root, "FROM range(100000000)", limits=SMALL) as result:
        next(iter(result.rows))
        assert len(children()) == 1
    assert children() == []


def test_a_slow_reader_is_not_cut_off(root: Path) -> None:
    with query(root, "SELECT repeat('x', 1000) FROM range(20000)", limits=Limits(timeout_s=4.0)) as result:
        rows = iter(result.rows)
        next(rows)
        time.sleep(4.5)
        assert sum(1 for _ in rows) == 19_999


def test_a_child_killed_for_its_processor_time_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = module._request

    def one_second(*arguments: Any) -> dict[str, Any]:
        made = request(*arguments)
        made["limits"]["cpu_s"] = 1
        return made

    monkeypatch.setattr(module, "_request", one_second)
    with pytest.raises(QueryError, match="more processor time"):
        ask(root, "SELECT count(*) FROM range(1000000) a, range(1000000) b")


def test_a_dead_child_is_an_error_not_an_end_of_rows(root: Path) -> None:
    with query(root, "FROM range(100000000)", limits=SMALL) as result:
        rows = iter(result.rows)
        next(rows)
        os.kill(children()[0], signal.SIGTERM)
        with pytest.raises(QueryError, match="ended with code -15"):
            for _ in rows:
                pass


def test_a_killed_parent_leaves_no_child(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from collector.store.query import query\n"
        f"with query(Path({str(root)!r}), 'FROM range(100000000)') as r:\n"
        "    next(iter(r.rows)); print(r.rows.gi_frame.f_locals['self']._process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdin is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and state(child) not in "ZX" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists() or state(child) in "ZX"


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_segment_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    (segment,) = store.write("devices", {"device": ["d"], "time": [T0], "source": ["s"]})
    import duckdb

    newer = segment.path.with_suffix(".tmp")
    duckdb.sql(
        f"COPY (FROM read_parquet('{segment.path}')) TO '{newer}' "
        "(FORMAT parquet, KV_METADATA {perfwatt_schema: '99', perfwatt_table: 'devices'})"
    )
    newer.replace(segment.path)
    with pytest.raises(QueryError, match="schema version 99 is newer than"):
        ask(store.root, "FROM devices")


def test_a_segment_merged_away_meanwhile_is_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path / "store")
    data = {"device": ["d"], "time": [T0], "source": ["s"], "model": ["x"]}
    (segment,) = store.replace("devices", "job", data)
    request, calls = module._request, []

    def then_merged(*arguments: Any) -> dict[str, Any]:
        calls.append(request(*arguments))
        if len(calls) == 1:
            store.replace("devices", "job", data)
            segment.path.unlink()
        return calls[-1]

    monkeypatch.setattr(module, "_request", then_merged)
    assert ask(store.root, "SELECT model FROM devices") == [["x"]]
    assert len(calls) == 2


def test_many_segments_can_be_read_at_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    (first,) = store.write("devices", {"device": ["d"], "time": [T0], "source": ["s"]}, writer="w")
    for part in range(400):
        shutil.copy(first.path, first.path.with_name(first.path.name.replace("w-", f"w{part}-")))
    assert ask(store.root, "SELECT count(*) FROM devices") == [[1]]
    assert ask(store.root, "SELECT count(*) FROM device_samples") == [[0]]


def test_no_store_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here"):
        ask(tmp_path / "nothing", "SELECT 1")
