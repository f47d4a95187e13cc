"""The derived tables: every surface that is made from the schema has them."""

import re
from pathlib import Path

import polars as pl
import pytest

from analytics import frames
from collector.store import TABLES, Store
from collector.store.derived import DERIVED_TABLES
from collector.store.query import query
from collector.store.table import Table
from collector.tables_page import PATH, page

every_table = pytest.mark.parametrize("table", DERIVED_TABLES, ids=lambda table: str(table.name))

SUFFIXES = r"(_w|_s|_j|_ratio|_per_token|_per_sample|_per_step|_per_joule|_per_s|_per_w|_per_year)$"
NUMBERS = {"DOUBLE", "BIGINT", "INTEGER"}
UNITLESS = {"observed", "score", "realised", "baseline_loss"}
"""In a unit that another column tells, or in none."""


def test_the_page_of_tables_is_current() -> None:
    assert PATH.read_text(encoding="utf-8") == page(), "run `make metrics`"


@every_table
def test_a_table_is_found_by_its_keys_and_says_what_its_columns_mean(table: Table) -> None:
    assert TABLES[table.name] is table
    assert set(table.keys) < set(table.names)
    assert table.columns[0].name == table.keys[0]
    assert table.help.endswith(".")
    for column in table:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
        assert column.type in frames.TYPES
        assert column.name == "time" or column.help.endswith(".")


@every_table
def test_seconds_joules_and_watts_end_the_name(table: Table) -> None:
    for column in table:
        said = re.search(r"\b(Energy|energy|Device-seconds|Mean power of|How long it took)\b", column.help)
        if column.type in NUMBERS and said and not column.name.startswith(("lost_", "wasted_cost")):
            assert re.search(SUFFIXES, column.name), column.name


@every_table
def test_a_row_goes_in_and_comes_out_on_every_way(table: Table, tmp_path: Path) -> None:
    moment = 1_767_225_600_000_000_000
    values = {"VARCHAR": "x", "DOUBLE": 1.5, "BIGINT": 7, "INTEGER": 3, "BOOLEAN": True, "TIMESTAMP_NS": moment}
    row = {column.name: values[column.type] for column in table}
    store = Store.create(tmp_path / "store")
    store.replace(table.name, "job", pl.DataFrame([row], schema=_integers(table)))
    scanned = frames.scan(store, table.name).collect()
    assert scanned.schema == frames.schema(table)
    assert scanned.cast({pl.Datetime: pl.Int64}).row(0, named=True) == row
    for name in [table.name] + [table.now] * table.states:
        with query(store.root, f"SELECT count(*), min(epoch_ns(time)) FROM {name}") as result:
            assert [tuple(map(int, found)) for found in result.rows] == [(1, moment)]
    store.publish()
    with store.connect() as connection:
        assert connection.execute(f"SELECT count(*) FROM {table.name}").fetchone() == (1,)


@pytest.mark.parametrize("table", [table for table in TABLES.values() if table.states], ids=lambda table: table.name)
def test_of_states_the_last_one_is_what_is_so_now(table: Table, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    keys = {key: ["x", "x"] for key in table.keys if key != "start"}
    starts = {"start": [1, 1]} if "start" in table.keys else {}
    store.write(table.name, {**keys, **starts, "time": [2_000, 1_000]})
    with query(store.root, f"SELECT epoch_ns(time) FROM {table.now}") as result:
        assert [int(value) for (value,) in result.rows] == [2_000]


def _integers(table: Table) -> pl.Schema:
    return pl.Schema(
        {name: pl.Int64() if kind == pl.Datetime("ns") else kind for name, kind in frames.schema(table).items()}
    )
