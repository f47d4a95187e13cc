"""Whole tables of rows into segments at once: what imports, simulations and jobs hand over."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from collector.errors import StoreError
from collector.sample import Coded
from collector.store import sql
from collector.store.engine import Engine
from collector.store.files import Files
from collector.store.packing import packed_columns
from collector.store.plain import plain_segment
from collector.store.segments import DAY_NS, day_folder, day_of
from collector.store.table import Table


@runtime_checkable
class Frame(Protocol):
    """What a polars DataFrame is here, where polars is not imported."""

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        ...

    def write_parquet(self, file: Any, *, compression: Any = ...) -> None:
        """Write the frame to a file."""
        ...


@runtime_checkable
class Arranged(Protocol):
    """Rows of one day, in order, each once, that can write themselves."""

    def write_days(
        self, files: Files, root: Path, label: str, metadata: Mapping[str, str], threads: int | None
    ) -> "list[Written]":
        """As `write_days`."""
        ...


# Kinds of arrays that are written as they are: flags, whole numbers, fractions, times.
_ARRAYS = "biufM"
Columns = Mapping[str, Any]
"""Columns by name: arrays, `Coded` or lists. Times are datetime64, or integers of nanoseconds; NaN is absent."""


@dataclass(frozen=True, slots=True)
class Written:
    """A day's rows in a temporary file that waits for its name."""

    day: date
    path: Path
    first_ns: int
    last_ns: int


@contextmanager
def _visible_to(
    engine: Engine, table: Table, data: Frame | Columns, scratch: Path
) -> Iterator[tuple[str, dict[str, Coded]]]:
    """Let DuckDB read *data*: gives what to select from, and the columns that are codes."""
    if isinstance(data, Frame):
        path = scratch.with_suffix(".frame")
        try:
            # Through a file, because DuckDB reads frames only by way of pyarrow, a dependency of 100 MB.
            data.write_parquet(path, compression="lz4")
            yield f"read_parquet({sql.text(path)})", {}
        finally:
            path.unlink(missing_ok=True)
        return
    coded = {name: column for name, column in data.items() if isinstance(column, Coded)}
    plain = {name: column for name, column in data.items() if not isinstance(column, Coded)}
    if coded or all(hasattr(column, "dtype") for column in plain.values()):
        with engine.registered("given", {**plain, **{name: column.codes for name, column in coded.items()}}):
            yield "given", coded
        return
    lists = {name: column.tolist() if hasattr(column, "dtype") else list(column) for name, column in plain.items()}
    path = scratch.with_suffix(".rows")
    try:
        times = [column.name for column in table if column.type == "TIMESTAMP_NS" and column.name in lists]
        lists.update({name: [_nanoseconds(value) for value in lists[name]] for name in times})
        lengths = {name: len(column) for name, column in lists.items()}
        if len(set(lengths.values())) > 1:
            raise StoreError(table.name, f"columns of different lengths: {lengths}")
        path.write_bytes(plain_segment(table, lists, min(lengths.values())))
        yield f"read_parquet({sql.text(path)})", {}
    finally:
        path.unlink(missing_ok=True)


def _is_array(column: Any) -> bool:
    """Whether a column is codes, or an array of numbers or times."""
    return isinstance(column, Coded) or getattr(getattr(column, "dtype", None), "kind", "O") in _ARRAYS


def _nanoseconds(value: Any) -> int | None:
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000
    return None if value is None else int(value)


def _typed(
    engine: Engine, table: Table, source: str, coded: Mapping[str, Coded], *, decoded: bool = True
) -> tuple[str, list[str]]:
    """
    A select of *source* in the schema's types, and its columns; refuses what the table does not have.

    Without *decoded* codes are left out, null: a statement that only looks at numbers need not carry every word.
    """
    given = {name: kind for name, kind, *_ in engine.run(f"DESCRIBE SELECT * FROM {source}")}
    _refuse(table, set(given))
    names = [column.name for column in table if column.name in given]
    chosen = []
    for column in table:
        if column.name not in given:
            continue
        name, kind = sql.quoted(column.name), given[column.name]
        value = name
        if column.name in coded:
            words = ", ".join(sql.text(word) for word in coded[column.name].words)
            value = f"CASE WHEN {name} >= 0 THEN ([{words}]::VARCHAR[])[{name} + 1] END" if decoded else "NULL::VARCHAR"
        elif column.type == "TIMESTAMP_NS":
            value = f"make_timestamp_ns({name}::BIGINT)" if "INT" in kind else f"{name}::TIMESTAMP_NS"
            if "TIME ZONE" in kind:
                value = f"({name} AT TIME ZONE 'UTC')::TIMESTAMP_NS"
        elif column.type == "DOUBLE":
            # Arrays have no null; what was not measured arrives as NaN.
            value = f"CASE WHEN isfinite({name}::DOUBLE) THEN {name}::DOUBLE END"
        elif kind != column.type:
            value = f"{name}::{column.type}"
        chosen.append(f"{value} AS {name}")
    return f"SELECT {', '.join(chosen)} FROM {source}", names


def _refuse(table: Table, given: set[str]) -> None:
    unknown = sorted(given - set(table.names))
    if unknown:
        raise StoreError(table.name, f"no column {', '.join(unknown)}; the table has {', '.join(table.names)}")
    missing = [name for name in ("time", table.keys[0]) if name not in given]
    if missing:
        raise StoreError(table.name, f"column {', '.join(missing)} is missing")


def write_days(
    engine: Engine,
    files: Files,
    root: Path,
    table: Table,
    data: Frame | Columns | Arranged,
    label: str,
    metadata: Mapping[str, str],
) -> list[Written]:
    """
    Write *data*, a temporary file for each day (UTC) that it has rows of, sorted, each row once.

    Raises: StoreError (a column the table does not have, a null time, a full disk); then no file is left.
    """
    files.make_folder(root / table.name)
    if isinstance(data, Arranged):
        return data.write_days(files, root, label, metadata, engine.threads)
    if not isinstance(data, Frame):
        _refuse(table, set(data))
        if all(_is_array(column) for column in data.values()):
            # Not above: numpy is needed by whoever has arrays, and would be half of an agent.
            from collector.store.arrays import write_arrays

            return write_arrays(files, root, table, data, label, metadata, engine.threads)
    written: list[Written] = []
    with _visible_to(engine, table, data, root / table.name / f".{label}.tmp") as (source, coded):
        rows, names = _typed(engine, table, source, coded)
        numbers, _ = _typed(engine, table, source, coded, decoded=False)
        count, timed, first, last = engine.run(
            f"SELECT count(*), count(time), epoch_ns(min(time)), epoch_ns(max(time)) FROM ({numbers})"
        )[0]
        if count != timed:
            raise StoreError(table.name, f"{count - timed} of {count} rows have no time")
        if not count:
            return []
        one_day = first // DAY_NS == last // DAY_NS
        keys = [name for name in table.keys if name in names]
        in_order = _in_order(engine, source, keys, coded) if one_day else False
        if not one_day:
            # Each day is a pass over the rows, which is cheaper over DuckDB's own columns than over what was given.
            engine.run(f"CREATE OR REPLACE TEMP TABLE of_many_days AS {rows}")
            rows = numbers = "SELECT * FROM of_many_days"
        try:
            columns = packed_columns(engine, table, f"({numbers})", count, keep=list(coded))
            packed = f"SELECT {', '.join(columns)} FROM ({rows})"
            held = [(first // DAY_NS,)]
            if not one_day:
                held = engine.run(f"SELECT DISTINCT epoch_ns(time) // {DAY_NS} AS d FROM ({rows}) ORDER BY d")
            for (number,) in held:
                start = number * DAY_NS
                folder = day_folder(root, table.name, day_of(start))
                files.make_folder(folder)
                path = folder / f".{label}.tmp"
                within = f"time >= make_timestamp_ns({start}) AND time < make_timestamp_ns({start + DAY_NS})"
                select = packed if one_day else f"{packed} WHERE {within}"
                written.append(Written(day_of(start), path, 0, 0))
                _write_sorted(engine, table, select, columns, path, metadata, in_order=in_order)
                times = (first, last) if one_day else _time_range(engine, path)
                written[-1] = Written(day_of(start), path, *times)
        except BaseException:
            for part in written:
                part.path.unlink(missing_ok=True)
            raise
        finally:
            if not one_day:
                engine.run("DROP TABLE IF EXISTS of_many_days")
    return written


def _time_range(engine: Engine, path: Path) -> tuple[int, int]:
    ends = ", ".join(f"epoch_ns({end}(time)::TIMESTAMP_NS)" for end in ("min", "max"))
    first, last = engine.run(f"SELECT {ends} FROM read_parquet({sql.text(path)})")[0]
    return first, last


def _in_order(engine: Engine, source: str, keys: list[str], coded: Mapping[str, Coded]) -> bool:
    """Whether the rows, as given, rise strictly by keys and time: then there is nothing to sort, and no row twice."""
    if any(list(column.words) != sorted(set(column.words)) for name, column in coded.items() if name in keys):
        return False
    rises = "time > lag(time) OVER ()"
    for name in reversed([sql.quoted(key) for key in keys]):
        before = f"lag({name}) OVER ()"
        rises = f"({name} > {before} OR ({name} = {before} AND {rises}))"
    return not engine.run(f"SELECT count(*) FROM (SELECT {rises} AS up FROM {source} OFFSET 1) WHERE up IS NOT TRUE")[
        0
    ][0]


def _write_sorted(
    engine: Engine,
    table: Table,
    select: str,
    columns: list[str],
    path: Path,
    metadata: Mapping[str, str],
    *,
    in_order: bool,
) -> None:
    if in_order:
        engine.run(sql.copy(select, path, table, metadata=metadata))
        return
    order = sql.order(table, columns)
    engine.run(sql.copy(f"{select} ORDER BY {order}", path, table, metadata=metadata))
    if _repeated(engine, path, order):
        # The rare case pays: of the rows with the same keys and time the one given last stays.
        numbered = f"SELECT *, row_number() OVER () AS nth FROM ({select})"
        last = f"row_number() OVER (PARTITION BY {order} ORDER BY nth DESC) = 1"
        once = f"SELECT * EXCLUDE (nth) FROM ({numbered}) QUALIFY {last}"
        engine.run(sql.copy(f"{once} ORDER BY {order}", path, table, metadata=metadata))


def _repeated(engine: Engine, path: Path, order: str) -> bool:
    """Whether a row of a sorted file has the keys and time of the one before it."""
    same = " AND ".join(f"{name} IS NOT DISTINCT FROM lag({name}) OVER ()" for name in order.split(", "))
    file = f"read_parquet({sql.text(path)})"
    return bool(engine.run(f"SELECT count(*) FROM (SELECT {same} AS again FROM {file} OFFSET 1) WHERE again")[0][0])
