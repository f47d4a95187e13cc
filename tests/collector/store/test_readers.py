"""Readers beside a writer: they never wait for it, never fail for it, and see each sealed row once."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.sample import Event, Reading, Severity
from collector.store import Store, views
from collector.store.compaction import sweep
from collector.store.schema import TABLES
from collector.store.views import Publisher

RUN_S = 60.0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_agent_and_four_readers_run_for_a_minute_without_an_error(tmp_path: Path, agents: Any, day_ns: int) -> None:
    root = tmp_path / "store"
    # Sealing five times a second, with a clock 60 times as fast: hours of merging, and files deleted 3 s after.
    pid = agents.start(root, tmp_path / "sealed", 0, day_ns, 60, 3, 0.2, RUN_S + 5)
    until = time.monotonic() + 30
    while not (root / "perfwatt.duckdb").exists():
        assert time.monotonic() < until, "the agent published nothing"
        time.sleep(0.01)
    script = Path(__file__).with_name("reader_process.py")
    readers = [
        subprocess.Popen(
            [sys.executable, str(script), how, str(root), str(RUN_S)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for how in ("frames", "frames", "views", "database")
    ]
    answers = [(reader.communicate(timeout=RUN_S + 60), reader.returncode) for reader in readers]
    agents.wait_dead(pid)
    assert all(code == 0 for _, code in answers), [err[-2000:] for (_, err), _ in answers]
    reads, rows = zip(*(map(int, out.split()) for (out, _), _ in answers), strict=True)
    assert min(reads) > 20
    assert min(rows) > 200
    generations = {segment.generation for segment in Store(root).segments("device_samples")}
    assert max(generations) > 0, "nothing was merged meanwhile"


def test_the_published_database_opens_from_any_folder_and_answers_every_table(
    store: Store, reading: Callable[..., Reading], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0), reading(1)])
    writer.close()
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(str(store.root / "perfwatt.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*), max(power_w) FROM device_samples").fetchone() == (2, 300.0)
        assert connection.execute("SELECT model FROM devices_now").fetchall() == [("H100",)]
        for (table,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall():
            connection.execute(f"SELECT * FROM {table}").fetchall()


def test_a_metric_column_is_a_double_in_the_views_however_it_is_stored(
    store: Store, reading: Callable[..., Reading]
) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0)])
    writer.close()
    with store.connect() as connection:
        types = connection.execute("SELECT typeof(power_w), typeof(clock_sm_hz), typeof(time) FROM device_samples")
        assert types.fetchall() == [("DOUBLE", "DOUBLE", "TIMESTAMP_NS")]


def test_a_listing_made_before_a_merge_can_be_read_after_it(
    store: Store, reading: Callable[..., Reading], day_ns: int
) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, clock_ns=lambda: clock[0])
    for second in range(3):
        clock[0] += 10**9
        writer.take([reading(second)])
        writer.seal()
    before = store.segments("device_samples")
    clock[0] += 600 * 10**9
    assert writer.compact() == 1
    sweep(store.files, store.root)
    assert len(store.segments("device_samples")) == 1
    assert len(before) == 3
    assert all(segment.path.exists() for segment in before)
    sweep(store.files, store.root, grace_s=0)
    assert not any(segment.path.exists() for segment in before)
    writer.close()


def test_what_is_published_is_what_there_is_whoever_published_in_between(
    store: Store, reading: Callable[..., Reading]
) -> None:
    def shown() -> list[tuple[int, ...]]:
        with duckdb.connect(str(store.root / "perfwatt.duckdb"), read_only=True) as connection:
            return connection.execute(
                "SELECT (SELECT count(*) FROM device_samples), (SELECT count(*) FROM events), "
                "(SELECT count(*) FROM devices_now)"
            ).fetchall()

    publisher = Publisher(store.root, store.files)
    publisher.publish()
    assert shown() == [(0, 0, 0)]
    writer = store.writer("agent", background=False, publish=None)
    writer.take([reading(0)])
    writer.seal()
    publisher.publish()
    assert shown() == [(1, 0, 1)]
    event = Event(time_ns=1, kind="xid", host="h", severity=Severity.INFO)
    writer.take([Reading(source="s", events=[event])])
    writer.seal()
    store.publish()  # somebody else
    writer.take([reading(1)])
    writer.seal()
    publisher.publish()
    assert shown() == [(2, 1, 1)]
    (store.root / "perfwatt.duckdb").unlink()
    publisher.publish()
    assert shown() == [(2, 1, 1)]
    writer.close()
    publisher.close()


def test_views_that_did_not_change_are_not_made_anew(
    store: Store, reading: Callable[..., Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    whole = views.connect

    class Noting:
        def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
            self._connection = connection

        def execute(self, statement: str) -> duckdb.DuckDBPyConnection:
            made.extend(re.findall(r'VIEW "(\w+)"', statement))
            return self._connection.execute(statement)

        def close(self) -> None:
            self._connection.close()

    monkeypatch.setattr(views, "connect", lambda **options: Noting(whole(**options)))
    publisher = Publisher(store.root, store.files)
    publisher.publish()
    assert len(made) == len(TABLES) + sum(table.states for table in TABLES.values())
    made.clear()
    writer = store.writer("agent", background=False, publish=None)
    writer.take([Reading(source="nvml", samples=reading(0).samples)])
    writer.close()
    publisher.publish()
    assert made == ["device_samples"]
    publisher.close()
