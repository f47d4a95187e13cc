"""Segments written without DuckDB, with DuckDB and polars as readers."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics import frames
from collector.catalogue import ENERGY, POWER
from collector.errors import StoreError
from collector.sample import Reading
from collector.store import Store, sql
from collector.store import writer as writer_module
from collector.store.batch import batch_of, joined
from collector.store.derived import JOB_RUNS
from collector.store.engine import Engine, connect
from collector.store.extents import extents
from collector.store.plain import plain_segment
from collector.store.rows import Row
from collector.store.schema import ALLOCATIONS, DEVICE_ROLLUPS, DEVICE_SAMPLES, EVENTS, PROCESSES, TABLES
from collector.store.sketch import TYPE as SKETCH
from collector.store.table import Column, Table

Make = Callable[..., Reading]
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "DOUBLE": st.floats(allow_nan=False),
    "INTEGER": st.integers(-(2**31), 2**31 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "TIMESTAMP_NS": st.integers(0, 2**62),
    "VARCHAR": WORDS,
    "BOOLEAN": st.booleans(),
}


def plain(table: Table) -> list[Column]:
    """All columns but sketches, which only DuckDB writes: no agent seals any."""
    return [column for column in table if column.type != SKETCH]


@st.composite
def columns(draw: st.DrawFn) -> tuple[Table, dict[str, list[Any]], int]:
    """A table with some of its columns, of which some values are null."""
    table = draw(st.sampled_from([DEVICE_SAMPLES, ALLOCATIONS, PROCESSES, DEVICE_ROLLUPS, JOB_RUNS]))
    rows = draw(st.integers(1, 40))
    chosen = draw(st.lists(st.sampled_from(plain(table)), min_size=1, max_size=20, unique=True))
    return (
        table,
        {
            column.name: draw(st.lists(st.none() | VALUES[column.type], min_size=rows, max_size=rows))
            for column in chosen
        },
        rows,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_=columns())
def test_polars_and_duckdb_read_back_every_value(
    tmp_path: Path, given_: tuple[Table, dict[str, list[Any]], int]
) -> None:
    table, data, rows = given_
    path = tmp_path / "x.parquet"
    path.write_bytes(plain_segment(table, data, rows))
    frame = pl.read_parquet(path)
    assert frame.columns == [name for name in table.names if name in data]
    times = [column.name for column in table if column.type == "TIMESTAMP_NS" and column.name in data]
    assert frame.with_columns(pl.col(times).to_physical()).to_dict(as_series=False) == data
    for column in table:
        if column.name in data:
            name = sql.quoted(column.name)
            value = f"epoch_ns({name})" if column.type == "TIMESTAMP_NS" else name
            found = duckdb.execute(f"SELECT {value}, typeof({name}) FROM '{path}'").fetchall()
            assert [value for value, _ in found] == data[column.name]
            assert found[0][1] == column.type


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_segment_has_the_types_that_duckdb_writes(tmp_path: Path, table: Table) -> None:
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    names = [column.name for column in plain(table)]
    ours.write_bytes(plain_segment(table, {name: [None] for name in names}, 1))
    engine = Engine()
    engine.run(sql.copy(f"SELECT {', '.join(map(sql.quoted, names))} FROM ({sql.blank(table)})", theirs, table))

    def schema(path: Path) -> list[Any]:
        described = "name, type, converted_type, logical_type, duckdb_type"
        return engine.run(f"SELECT {described} FROM parquet_schema('{path}') WHERE type IS NOT NULL")

    assert schema(ours) == schema(theirs)
    assert engine.versions([ours]) == {str(ours): 1}
    engine.close()


def test_an_engine_works_in_the_threads_that_it_may_and_no_more() -> None:
    """An agent on a host of 128 cores would else have 512 threads that wait for files."""
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    with connect(threads=2) as connection:
        connection.execute("SELECT sum(range) FROM range(1000)").fetchall()
        assert len(list(tasks.iterdir())) <= before + 1


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(plain_segment(DEVICE_SAMPLES, {"device": [], "time": [], "power_w": []}, 0))
    assert pl.read_parquet(path).shape == (0, 3)
    assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(0,)]


def test_a_value_of_another_type_is_refused_by_its_column() -> None:
    with pytest.raises(StoreError, match="processes: column pid is BIGINT"):
        plain_segment(PROCESSES, {"pid": [2**63]}, 1)
    with pytest.raises(StoreError, match="device_samples: column power_w is DOUBLE"):
        plain_segment(DEVICE_SAMPLES, {"power_w": ["high"]}, 1)
    with pytest.raises(StoreError, match="job_runs: column changed is BOOLEAN"):
        plain_segment(JOB_RUNS, {"changed": ["yes"]}, 1)


def test_a_name_that_is_no_unicode_does_not_stop_the_sealing(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0, source="files:/tmp/\udcff")])
    assert writer.seal()
    writer.close()
    assert frames.scan(store, "device_samples").collect()["source"].to_list() == ["files:/tmp/?"]


def test_the_range_of_devices_is_known_without_reading_rows(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(second, device=f"GPU-{second % 7}") for second in range(20)])
    writer.close()
    (extent,) = extents(store.segments("device_samples"))
    assert (extent.rows, extent.low, extent.high) == (20, "GPU-0", "GPU-6")


def test_rows_with_and_without_a_key_are_sorted_with_those_without_last() -> None:
    rows = [Row(("h", "k", device, None, "s", at), {}, {}) for at, device in ((2, None), (1, "b"), (0, None), (3, "a"))]
    assert [key[2] for key in batch_of(EVENTS, rows).row_keys()] == ["a", "b", None, None]


ROWS = st.lists(
    st.builds(
        lambda device, at, power, energy, host: Row(
            (f"G{device}", "s", at),
            {metric: value for metric, value in ((POWER, power), (ENERGY, energy)) if value is not None},
            {} if host is None else {"host": host},
        ),
        st.integers(0, 3),
        st.integers(0, 50),
        st.none() | st.floats(0, 1e3),
        st.none() | st.floats(0, 1e9),
        st.none() | WORDS,
    ),
    min_size=2,
    max_size=30,
    unique_by=lambda row: row.key,
)


@given(rows=ROWS, cuts=st.sets(st.integers(1, 29), min_size=1, max_size=4))
def test_joined_batches_are_what_all_rows_at_once_would_be(rows: list[Row], cuts: set[int]) -> None:
    ends = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    parts = [rows[start:end] for start, end in pairwise(ends) if start < end]
    whole = batch_of(DEVICE_SAMPLES, rows)
    if len(parts) > 1:
        merged = joined(DEVICE_SAMPLES, [batch_of(DEVICE_SAMPLES, part) for part in parts])
        assert {name: list(values) for name, values in merged.columns.items()} == {
            name: list(values) for name, values in whole.columns.items()
        }
        assert merged.encoded() == whole.encoded()


def seal_each(writer: Any, clock: list[int], readings: list[Reading]) -> None:
    for reading in readings:
        clock[0] += 10**9
        writer.take([reading])
        assert writer.seal()


def test_five_minutes_of_seals_are_merged_without_duckdb(
    store: Store, reading: Make, day_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, publish=None, clock_ns=lambda: clock[0])
    writer.take([reading(0, device=f"GPU-{number}") for number in range(3)])  # their descriptions are merged by DuckDB
    seal_each(writer, clock, [reading(second, device=f"GPU-{second % 3}") for second in range(1, 30)])

    def refuse(**_: object) -> None:
        raise AssertionError("DuckDB was opened")

    monkeypatch.setattr("collector.store.engine.connect", refuse)
    assert writer.compact() == 0  # the five minutes still run
    clock[0] = day_ns + 301 * 10**9
    assert writer.compact() == 1
    assert writer.compact() == 0
    monkeypatch.undo()
    writer.close()
    (merged,) = store.segments("device_samples")
    assert merged.generation == 1
    frame = frames.scan(store, "device_samples").collect()
    assert frame.select("device", "time").equals(frame.select("device", "time").sort("device", "time"))
    assert sorted(frame["energy_j"]) == [1000.0, 1000.0] + [1000.0 + second for second in range(30)]


def test_a_later_merge_takes_up_what_was_merged_from_memory(store: Store, reading: Make, day_ns: int) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, publish=None, clock_ns=lambda: clock[0])
    seal_each(writer, clock, [reading(second) for second in range(4)])
    writer.close()
    # The same five minutes go on after a restart: what was sealed before is no longer in memory.
    writer = store.writer("agent", background=False, publish=None, clock_ns=lambda: clock[0])
    seal_each(writer, clock, [reading(second) for second in range(4, 9)])
    clock[0] = day_ns + 301 * 10**9
    assert writer.compact() == 3  # from memory, that with what was before, and the descriptions
    writer.close()
    assert len(store.segments("device_samples")) == 1
    assert frames.scan(store, "device_samples").collect().height == 9


def test_more_rows_than_memory_may_hold_are_read_back_to_be_merged(
    store: Store, reading: Make, day_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_HELD_ROWS", 5)
    clock = [day_ns]
    writer = store.writer("agent", background=False, publish=None, clock_ns=lambda: clock[0])
    seal_each(writer, clock, [reading(second) for second in range(20)])
    assert not any(writer._held.values())
    clock[0] = day_ns + 301 * 10**9
    assert writer.compact() == 1
    writer.close()
    assert frames.scan(store, "device_samples").collect().height == 20


def test_seals_that_were_merged_from_memory_are_deleted_after_the_grace(
    store: Store, reading: Make, day_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, publish=None, clock_ns=lambda: clock[0])
    seal_each(writer, clock, [reading(second) for second in range(3)])
    before = [segment.path for segment in store.segments("device_samples")]
    clock[0] = day_ns + 301 * 10**9
    monkeypatch.setattr(writer_module, "GRACE_S", 0.0)
    assert writer.compact() == 1
    assert all(path.exists() for path in before), "a reader that listed them may still be reading"
    writer.compact()
    assert not any(path.exists() for path in before)
    writer.close()
    assert frames.scan(store, "device_samples").collect().height == 3
