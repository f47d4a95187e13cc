"""
Rows given as arrays, made into segment files without a statement for each column: what imports and simulations have.

They are put in order, each row once, in the types that damage none of their values (see `packing`).
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.errors import StoreError
from collector.sample import Coded
from collector.store import sql
from collector.store.bulk import Written
from collector.store.encoding import FAST, Effort, Encoder, Present
from collector.store.files import Files
from collector.store.packing import candidates, resolution_digits, stored_type
from collector.store.parquet import Chunk, Field, parts_of, write
from collector.store.segments import DAY_NS, day_folder, day_of
from collector.store.table import Column, Table

_NUMBERS: Final = "biuf"
TIMES: Final = {"TIMESTAMP_MS": 1_000_000, "TIMESTAMP": 1_000, "TIMESTAMP_NS": 1}
"""Types of times by their nanoseconds, the coarsest first."""
_INTEGERS: Final = {"INTEGER": 1 << 31, "BIGINT": 1 << 63}
# The digits of some rows are looked at first, and those found then proven on all rows.
_PROBED_ROWS: Final = 20_000
# A file of so few values is read whole: there is nothing to skip in it, and one group of rows compresses best.
WHOLE_VALUES: Final = 8_000_000


@dataclass(frozen=True, slots=True)
class Array:
    """A column: values of its type (times in nanoseconds, text as codes into sorted `words`), and which are there."""

    column: Column
    values: NDArray[Any]
    present: Present
    words: tuple[str, ...] = ()

    def __getitem__(self, rows: Any) -> "Array":
        return replace(self, values=self.values[rows], present=self.present[rows])


@dataclass(frozen=True, slots=True)
class Lists:
    """A column of lists of structs: how many structs each row has (0: null), and each of their fields, one array."""

    column: Column
    lengths: NDArray[Any]
    values: tuple[NDArray[Any], ...]

    def __getitem__(self, rows: Any) -> "Lists":
        lengths = self.lengths[rows]
        ends = np.cumsum(self.lengths)
        first = (ends - self.lengths)[rows]
        at = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        return replace(self, lengths=lengths, values=tuple(values[at] for values in self.values))


def read(table: Table, data: Mapping[str, Any]) -> list[Array]:
    """
    *data* in the order and types of the table's columns; what is not finite is absent.

    Raises: StoreError (a column of another kind or length, a number that its type does not hold).
    """
    found = [_read(table, column, data[column.name]) for column in table if column.name in data]
    lengths = {array.column.name: len(array.values) for array in found}
    if len(set(lengths.values())) > 1:
        raise StoreError(table.name, f"columns of different lengths: {lengths}")
    return found


def _read(table: Table, column: Column, given: Any) -> Array:
    if isinstance(given, Coded):
        return _coded(table, column, given)
    array = np.asarray(np.ma.getdata(given))
    masked = np.ma.getmaskarray(given) if isinstance(given, np.ma.MaskedArray) else False
    kind = array.dtype.kind
    if column.type == "DOUBLE" and kind in _NUMBERS:
        values = array.astype(np.float64, copy=False)
        return Array(column, values, np.isfinite(values) & ~np.asarray(masked))
    if column.type == "BOOLEAN" and kind == "b":
        return Array(column, array, ~np.broadcast_to(masked, array.shape))
    if column.type == "TIMESTAMP_NS" and kind == "M":
        values = array.astype("datetime64[ns]").astype(np.int64)
        present = ~np.isnat(array) & ~np.asarray(masked)
        if array.dtype != "M8[ns]" and (values.astype("M8[ns]").astype(array.dtype) != array)[present].any():
            raise StoreError(table.name, f"column {column.name}: a time beyond what nanoseconds reach (1677 to 2262)")
        return Array(column, values, present)
    if column.type in {*_INTEGERS, "TIMESTAMP_NS"} and kind in _NUMBERS:
        present = ~np.asarray(masked) & (np.isfinite(array) if kind == "f" else np.ones(array.shape, bool))
        return Array(column, _whole(table, column, array, present), present)
    raise StoreError(table.name, f"column {column.name}: an array of {array.dtype} is no {column.type}")


def _coded(table: Table, column: Column, given: Coded) -> Array:
    codes = np.asarray(given.codes)
    if column.type != "VARCHAR":
        raise StoreError(table.name, f"column {column.name}: words are no {column.type}")
    if codes.size and int(codes.max()) >= len(given.words):
        raise StoreError(table.name, f"column {column.name}: code {codes.max()} of {len(given.words)} words")
    words = tuple(sorted(set(given.words)))
    if words != given.words:
        place = {word: index for index, word in enumerate(words)}
        moved = np.array([*(place[word] for word in given.words), -1], np.int64)
        codes = moved[np.maximum(codes, -1)]
    return Array(column, codes, codes >= 0, words)


def _whole(table: Table, column: Column, array: NDArray[Any], present: Present) -> NDArray[np.int64]:
    most = _INTEGERS.get(column.type, 1 << 63)
    held = array[present]
    if held.size and not (-most <= held.min() and held.max() < most):
        raise StoreError(table.name, f"column {column.name}: {held.min()} to {held.max()} is beyond {column.type}")
    values = np.where(present, array, 0).astype(np.int64)
    if array.dtype.kind == "f" and (values[present] != held).any():
        raise StoreError(table.name, f"column {column.name}: a fraction in a column of {column.type}")
    return values


# --------------------------------------------------------------------------------------------------------------- order


def in_order(table: Table, arrays: Sequence[Array]) -> list[Array]:
    """Sorted by keys and time; of rows with the same keys and time the one given last."""
    by_name = {array.column.name: array for array in arrays}
    ranks = [rank for name in (*table.keys, "time") if name in by_name for rank in _ranks(by_name[name])]
    if _rises(ranks):
        return list(arrays)
    order = np.lexsort(ranks[::-1])
    sorted_ranks = [rank[order] for rank in ranks]
    again = reduce(np.logical_and, (rank[1:] == rank[:-1] for rank in sorted_ranks))
    kept = order[np.append(~again, True)]
    return [array[kept] for array in arrays]


def _ranks(array: Array) -> list[NDArray[Any]]:
    """What sorts as the column does, nulls last."""
    return [array.values] if array.present.all() else [~array.present, array.values]


def _rises(ranks: Sequence[NDArray[Any]]) -> bool:
    """Whether each row is after the one before: then there is nothing to sort, and no row twice."""
    rises = np.zeros(max(0, len(ranks[0]) - 1), bool)
    for rank in reversed(ranks):
        rises = (rank[1:] > rank[:-1]) | ((rank[1:] == rank[:-1]) & rises)
    return bool(rises.all())


# -------------------------------------------------------------------------------------------------------------- writing


def write_ordered(
    files: Files,
    root: Path,
    table: Table,
    arrays: Sequence[Array | Lists],
    label: str,
    metadata: Mapping[str, str],
    threads: int | None = None,
    effort: Effort = FAST,
) -> list[Written]:
    """
    Write rows of one day that are in order, each once, to a temporary file; none, if there are none.

    Raises: StoreError; then no file is left.
    """
    (time,) = (array for array in arrays if array.column.name == "time")
    assert isinstance(time, Array)
    if not len(time.values):
        return []
    first_ns, last_ns = int(time.values.min()), int(time.values.max())
    day = day_of(first_ns)
    item = Written(day, day_folder(root, table.name, day) / f".{label}.tmp", first_ns, last_ns)
    files.make_folder(item.path.parent)
    flat = [array for array in arrays if isinstance(array, Array)]
    columns = _columns(table, flat, threads)
    lists = [array for array in arrays if isinstance(array, Lists) and array.lengths.any()]
    listed = [Field(array.column.name, array.column.type) for array in lists]
    fields = [*(field for field, _ in columns), *(part for field in listed for part in parts_of(field))]
    rows = len(time.values)
    size = group_rows(rows, len(columns))

    def group(some: slice) -> list[Array | Lists]:
        parts = [replace(held, values=(one,)) for array in lists for held in [array[some]] for one in held.values]
        return [*(array[some] for _, array in columns), *parts]

    groups = (group(slice(start, start + size)) for start in range(0, rows, size))
    try:
        write_file(item.path, fields, groups, sql.file_metadata(table, metadata), effort, threads)
    except BaseException:
        item.path.unlink(missing_ok=True)
        raise
    return [item]


def write_arrays(
    files: Files,
    root: Path,
    table: Table,
    data: Mapping[str, Any],
    label: str,
    metadata: Mapping[str, str],
    threads: int | None = None,
) -> list[Written]:
    """
    Write *data*, a temporary file for each day (UTC) that it has rows of, sorted, each row once.

    Raises: StoreError; then no file is left.
    """
    arrays = in_order(table, read(table, data))
    written: list[Written] = []
    try:
        for item, rows in _by_day(root, table, arrays, label):
            files.make_folder(item.path.parent)
            written.append(item)
            columns = _columns(table, rows, threads)
            fields = [field for field, _ in columns]
            write_file(item.path, fields, _groups(columns), sql.file_metadata(table, metadata), FAST, threads)
    except BaseException:
        for item in written:
            item.path.unlink(missing_ok=True)
        raise
    return written


def _by_day(root: Path, table: Table, arrays: Sequence[Array], label: str) -> Iterator[tuple[Written, list[Array]]]:
    (time,) = (array for array in arrays if array.column.name == "time")
    if missing := np.count_nonzero(~time.present):
        raise StoreError(table.name, f"{missing} of {len(time.values)} rows have no time")
    number = time.values // DAY_NS
    one = len(number) > 0 and number.min() == number.max()
    for held in [int(number[0])] if one else np.unique(number).tolist():
        rows = slice(None) if one else np.flatnonzero(number == held)
        day, times = day_of(held * DAY_NS), time.values[rows]
        path = day_folder(root, table.name, day) / f".{label}.tmp"
        yield Written(day, path, int(times.min()), int(times.max())), [array[rows] for array in arrays]


def _groups(columns: Sequence[tuple[Field, Array]]) -> Iterator[list[Array]]:
    """Ordered rows in groups for a file."""
    rows = len(columns[0][1].values)
    size = group_rows(rows, len(columns))
    return ([array[start : start + size] for _, array in columns] for start in range(0, rows, size))


def group_rows(rows: int, columns: int) -> int:
    """How many rows a group of a file has."""
    return max(rows, 1) if rows * columns <= WHOLE_VALUES else sql.ROW_GROUP_ROWS


def write_file(
    path: Path,
    fields: Sequence[Field],
    groups: Iterable[Sequence[Array | Lists]],
    metadata: Mapping[str, str],
    effort: Effort,
    threads: int | None = None,
) -> None:
    """Write groups of ordered rows, in the types to store them in, as one Parquet file."""
    encoders = [Encoder(field, effort) for field in fields]
    with path.open("wb") as out, ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        write(out, fields, _encoded(pool, encoders, fields, groups), metadata)


def _encoded(
    pool: ThreadPoolExecutor,
    encoders: Sequence[Encoder],
    fields: Sequence[Field],
    groups: Iterable[Sequence[Array | Lists]],
) -> Iterator[tuple[int, Iterator[Chunk]]]:
    """The rows and chunks of each group; while one is written, the next is encoded already."""
    before: Sequence[Future[Chunk] | None] = [None] * len(fields)
    waiting: deque[tuple[int, list[Future[Chunk]]]] = deque()
    for arrays in groups:
        begun = [pool.submit(_chunk, *each) for each in zip(encoders, fields, arrays, before, strict=True)]
        waiting.append((_length(arrays[0]), begun))
        before = begun
        if len(waiting) > 1:
            rows, chunks = waiting.popleft()
            yield rows, (chunk.result() for chunk in chunks)
    for rows, chunks in waiting:
        yield rows, (chunk.result() for chunk in chunks)


def _length(array: Array | Lists) -> int:
    return len(array.values if isinstance(array, Array) else array.lengths)


def _chunk(encoder: Encoder, field: Field, array: Array | Lists, before: Future[Chunk] | None) -> Chunk:
    if before is not None:
        # An encoder learns from the first group. The pool begins in order, so what is waited for has begun.
        before.result()
    if isinstance(array, Lists):
        return encoder.listed(array.values[0].astype(np.int64), array.lengths)
    if field.type == "VARCHAR":
        return encoder.words(array.values, array.words)
    if field.type == "DOUBLE":
        return encoder.doubles(array.values, array.present)
    if field.type == "BOOLEAN":
        return encoder.flags(array.values, array.present)
    return encoder.integers(array.values, array.present)


def _columns(table: Table, arrays: Sequence[Array], threads: int | None) -> list[tuple[Field, Array]]:
    """The columns that hold something, in the types to store them in."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return [stored for stored in pool.map(partial(_stored, table), arrays) if stored is not None]


def _stored(table: Table, array: Array) -> tuple[Field, Array] | None:
    """A column in the type to store it in; None if it holds nothing."""
    column = array.column
    if not array.present.any() and column.name not in (*table.keys, "time"):
        return None
    if column.name == "time":
        for kind, ticks in TIMES.items():
            whole = array.values // ticks
            if np.array_equal(whole * ticks, array.values):
                return Field(column.name, kind), replace(array, values=whole)
    if column.type != "DOUBLE":
        return Field(column.name, column.type), array
    values = array.values if array.present.all() else np.where(array.present, array.values, 0.0)
    digits, scaled = _decimal(column, values)
    furthest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    kind = stored_type(column, digits, furthest)
    if kind == "DOUBLE" or scaled is None:
        return Field(column.name, "DOUBLE"), array
    return Field(column.name, kind), replace(array, values=scaled.astype(np.int64))


def _decimal(column: Column, values: NDArray[np.float64]) -> tuple[int | None, NDArray[np.float64] | None]:
    """The fewest digits in which all values are exact, else those of the metric; and the values as whole numbers."""
    some = values[:: 1 + len(values) // _PROBED_ROWS]
    with np.errstate(over="ignore"):
        for digits in candidates(column):
            if _exact(some, digits) is not None and (scaled := _exact(values, digits)) is not None:
                return digits, scaled
        finest = resolution_digits(column)
        return finest, None if finest is None else _rounded(values * 10.0**finest)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole numbers; halves go away from zero, as where DuckDB writes them."""
    whole = np.trunc(values)
    return np.where(np.abs(values - whole) >= 0.5, whole + np.copysign(1.0, values), whole)


def _exact(values: NDArray[np.float64], digits: int) -> NDArray[np.float64] | None:
    scaled = values * 10.0**digits
    np.rint(scaled, out=scaled)
    scaled += 0.0  # a whole number has no minus zero
    return scaled if np.array_equal((scaled / 10.0**digits).view(np.int64), values.view(np.int64)) else None
