"""The text of every statement that the store runs; nothing here touches a file or a connection."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from collector.store.schema import VERSION
from collector.store.table import Table

VERSION_KEY = "perfwatt_schema"
TABLE_KEY = "perfwatt_table"
# Measured on a day of 150 devices: 1.141 bytes a sample in groups of 30,720 rows, 1.136 of 61,440, 1.135 of 122,880, in
# which recordings of short series take 3 % more and a merge needs twice the memory.
ROW_GROUP_ROWS = 61_440
# Of columns with more values than this, deltas are smaller than indices: 0.26 bytes a sample on recordings of MLPerf.
DICTIONARY_VALUES = 512


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str | Path) -> str:
    """A string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def read_segments(paths: Sequence[Path], extra: str = "") -> str:
    """The rows of some segments as they are stored; a column that only some have is null in the others."""
    listed = ", ".join(text(path) for path in paths)
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false{extra})"


def blank(table: Table) -> str:
    """No rows, with every column of *table* in its type."""
    return f"SELECT {', '.join(f'NULL::{c.type} AS {quoted(c.name)}' for c in table)} WHERE false"


def typed_rows(table: Table, groups: Iterable[tuple[Sequence[Path], bool]]) -> str:
    """
    The rows of *table* in the types of the schema, from groups of segments in the order they were written.

    In a group marked True a row may repeat one before it (same keys, same time): only the latest is given.
    """
    parts = [
        latest_rows(table, paths) if repeats else f"SELECT * FROM {read_segments(paths)}" for paths, repeats in groups
    ]
    # BY NAME adds the columns that no segment has, and makes one type of decimals and doubles.
    union = " UNION ALL BY NAME ".join([*parts, blank(table)])
    columns = ", ".join(f"{quoted(c.name)}::{c.type} AS {quoted(c.name)}" for c in table)
    return f"SELECT {columns} FROM ({union})"


def latest_rows(table: Table, paths: Sequence[Path]) -> str:
    """The rows of some segments, of those with the same keys and time only the one written last."""
    listed = ", ".join(text(path) for path in paths)
    keys = ", ".join(quoted(name) for name in (*table.keys, "time"))
    rows = read_segments(paths, ", filename = true, file_row_number = true")
    # A key that no segment has is null in all rows, as it is for whoever reads them.
    whole = f"(SELECT * FROM {rows} UNION ALL BY NAME {blank(table)})"
    return (
        f"SELECT * EXCLUDE (filename, file_row_number) FROM {whole} QUALIFY row_number() OVER "
        f"(PARTITION BY {keys} ORDER BY list_position([{listed}], filename) DESC, file_row_number DESC) = 1"
    )


def latest_of(table: Table) -> str:
    """Of the rows of *table* with the same keys, the latest."""
    keys = ", ".join(quoted(name) for name in table.keys)
    latest = f"row_number() OVER (PARTITION BY {keys} ORDER BY time DESC) = 1"
    return f"SELECT * FROM {quoted(table.name)} QUALIFY {latest}"


def order(table: Table, columns: Iterable[str] | None = None) -> str:
    """
    The sort of a segment: keys, then time, so that a series is one run and time is delta-encoded.

    *columns*, where given, are the expressions of those that there are.
    """
    there = None if columns is None else {column.rpartition(" AS ")[2] for column in columns}
    return ", ".join(
        name for key in (*table.keys, "time") if (name := quoted(key)) and (there is None or name in there)
    )


def file_metadata(table: Table, more: Mapping[str, str]) -> dict[str, str]:
    """What each segment file says of itself, and *more*."""
    return {VERSION_KEY: str(VERSION), TABLE_KEY: table.name, **more}


def copy(select: str, path: Path, table: Table, *, metadata: Mapping[str, str] | None = None) -> str:
    """Write the rows of *select* as one segment file."""
    listed = ", ".join(f"{key}: {text(value)}" for key, value in file_metadata(table, metadata or {}).items())
    return (
        f"COPY ({select}) TO {text(path)} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 6, PARQUET_VERSION v2, "
        f"DICTIONARY_SIZE_LIMIT {DICTIONARY_VALUES}, ROW_GROUP_SIZE {ROW_GROUP_ROWS}, KV_METADATA {{{listed}}})"
    )


def words_of(column: str, path: Path) -> str:
    """The words of a text column of a segment, in order."""
    name = quoted(column)
    return f"SELECT DISTINCT {name} FROM {read_segments([path])} WHERE {name} IS NOT NULL ORDER BY {name}"


def digest(path: Path) -> str:
    """How many rows a segment has, and a number that another order or another value makes another."""
    rows = read_segments([path], ", file_row_number = true")
    return f"SELECT count(*), bit_xor(hash(row_)) FROM {rows} AS row_"


def milliseconds(path: Path) -> str:
    """The columns of a segment that are times in milliseconds, which are read as if they were in microseconds."""
    return f"SELECT name FROM parquet_schema({text(path)}) WHERE converted_type = 'TIMESTAMP_MILLIS'"


def pages(path: Path) -> str:
    """Of a segment not written by DuckDB, each column of each group: where its words and data are, start and size."""
    words, data = "dictionary_page_offset", "data_page_offset"
    columns = f"path_in_schema, {words}, {data}, coalesce({words}, {data}), total_compressed_size"
    ours = f"SELECT created_by LIKE 'perfwatt%' FROM parquet_file_metadata({text(path)})"
    return f"SELECT {columns} FROM parquet_metadata({text(path)}) WHERE ({ours})"


def all_metadata(path: Path) -> str:
    """What a segment says of itself: key, value."""
    return f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({text(path)})"


def metadata(paths: Sequence[Path]) -> str:
    """The perfwatt keys of some segments: file, key, value."""
    listed = ", ".join(text(path) for path in paths)
    return (
        f"SELECT file_name, decode(key), decode(value) FROM parquet_kv_metadata([{listed}]) "
        f"WHERE decode(key) LIKE 'perfwatt%'"
    )
