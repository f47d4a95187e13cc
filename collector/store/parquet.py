"""
A few rows as a Parquet file, written without DuckDB: what an agent seals every few seconds.

For 80 rows of 50 columns DuckDB takes 13 ms, nearly all of it for planning a statement; this takes less than one. The
files are the plainest there are: one row group, one page a column, values one after the other, uncompressed; they are
merged soon. The format: https://github.com/apache/parquet-format. Its metadata is in Thrift's compact protocol; the
comments below name the numbers of the fields.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from sys import byteorder
from typing import Any, Final

from collector.errors import StoreError
from collector.store.schema import VERSION
from collector.store.sql import TABLE_KEY, VERSION_KEY
from collector.store.table import Column, Table

assert byteorder == "little", "Parquet is little-endian, and so must be the arrays that are written as they are"

_MAGIC: Final = b"PAR1"
_STOP: Final = b"\0"  # ends a struct
_STRUCTS: Final = 0xC  # the type of a list of structs


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a type of the schema is stored: its physical type, the array that packs it, fields that tell its meaning."""

    physical: int
    code: str
    meaning: bytes


# After the physical type: field 6, the converted type, or field 10, the logical one.
_BOOLEAN: Final = _Kind(0, "", b"")
_KINDS: Final = {
    "BOOLEAN": _BOOLEAN,
    "DOUBLE": _Kind(5, "d", b""),
    "INTEGER": _Kind(1, "i", b"\x25\x22"),
    "BIGINT": _Kind(2, "q", b"\x25\x24"),
    "TIMESTAMP_NS": _Kind(2, "q", b"\x6c\x8c\x12\x1c\x3c" + 4 * _STOP),  # of no zone, in nanoseconds
    "VARCHAR": _Kind(6, "", b"\x25\x00"),
}


def parquet(table: Table, columns: Mapping[str, Sequence[Any]], rows: int) -> bytes:
    """
    A segment of *table*: *columns* by name, each with its *rows* values (None: null).

    The range of the first column, by which the rows are sorted, is noted in the file.

    Raises: StoreError for a value that is not of its column's type.
    """
    parts = [_MAGIC]
    position = len(_MAGIC)
    elements: list[bytes] = []
    chunks: list[bytes] = []
    count = _integer(rows)
    shapes: dict[int, tuple[bytes, bytes]] = {}  # by bytes of a page's content: most columns have the same
    for column in table:
        if (values := columns.get(column.name)) is None:
            continue
        try:
            data, optional = _packed(column, values)
        except (TypeError, ValueError, OverflowError) as error:
            raise StoreError(table.name, f"column {column.name} is {column.type}: {error}") from error
        header, sizes = shapes.get(len(data)) or shapes.setdefault(len(data), _shape(count, len(data)))
        parts += (header, data)
        elements.append(_element(column, optional))
        # ... 9: where the page is, 12: range)
        end = (b"" if chunks else _range(column, values)) + 2 * _STOP
        chunks.append(_chunk_start(column) + sizes + b"\x26" + _integer(position) + end)
        position += len(header) + len(data)
    footer = b"".join(
        (
            b"\x15\x04",  # 1: version 2
            b"\x19" + _list_of_structs([_root(len(elements)), *elements]),  # 2: schema
            b"\x16" + count,  # 3: number of rows
            b"\x19\x1c\x19" + _list_of_structs(chunks),  # 4: row groups, here one: 1: columns,
            b"\x16" + _integer(position - len(_MAGIC)) + b"\x16" + count + _STOP,  # 2: bytes, 3: number of rows
            b"\x19"
            + _list_of_structs([_pair(VERSION_KEY, str(VERSION)), _pair(TABLE_KEY, table.name)]),  # 5: keys and values
            b"\x18" + _text("perfwatt"),  # 6: created by
            b"\x19" + _list_of_structs([b"\x1c\x00\x00"] * len(elements)),  # 7: the order that ranges are in
            _STOP,
        )
    )
    parts += (footer, len(footer).to_bytes(4, "little"), _MAGIC)
    return b"".join(parts)


def _packed(column: Column, values: Sequence[Any]) -> tuple[bytes, bool]:
    """The content of the page of *values*, and whether some are null."""
    kind = _KINDS[column.type]
    if isinstance(values, array):
        return values.tobytes(), False
    if None not in values:
        return _plain(kind, values), False
    return _levels(values) + _plain(kind, [value for value in values if value is not None]), True


def _plain(kind: _Kind, values: Sequence[Any]) -> bytes:
    if kind.code:
        return array(kind.code, values).tobytes()
    if kind is _BOOLEAN:
        if any(value not in (True, False) for value in values):
            raise ValueError("neither true nor false")
        return _bits(values)
    # A lone surrogate (a path or name that was no UTF-8) must not cost the seal.
    words = {word: str(word).encode("utf-8", "replace") for word in set(values)}
    packed = {word: len(data).to_bytes(4, "little") + data for word, data in words.items()}
    return b"".join([packed[value] for value in values])


def _levels(values: Sequence[Any]) -> bytes:
    """Which values are there, a bit each from the lowest, as one run, in front of which its length stands."""
    run = _varint((len(values) + 7) // 8 << 1 | 1) + _bits([value is not None for value in values])
    return len(run).to_bytes(4, "little") + run


def _bits(flags: Sequence[Any]) -> bytes:
    """A bit for each flag, from the lowest of the first byte on."""
    bits = "".join("1" if flag else "0" for flag in reversed(flags))
    return int(bits or "0", 2).to_bytes((len(flags) + 7) // 8, "little")


def _shape(count: bytes, size: int) -> tuple[bytes, bytes]:
    """The header of a page of *size* bytes, and what the footer says of its size."""
    length = _integer(size)
    # 1: data page, 2 and 3: bytes unpacked and packed, 5: (1: values, 2: plain, 3 and 4: levels as runs)
    header = b"\x15\x00\x15" + length + b"\x15" + length + b"\x2c\x15" + count + b"\x15\x00\x15\x06\x15\x06\0\0"
    whole = _integer(len(header) + size)
    # ... 5: values, 6 and 7: bytes unpacked and packed, ...
    return header, b"\x16" + count + b"\x16" + whole + b"\x16" + whole


def _root(columns: int) -> bytes:
    # 4: name, 5: number of children
    return b"\x48" + _text("rows") + b"\x15" + _integer(columns) + _STOP


@cache
def _element(column: Column, optional: bool) -> bytes:
    kind = _KINDS[column.type]
    # 1: type, 3: required or optional, 4: name, then what the type means
    start = b"\x15" + _integer(kind.physical) + b"\x25" + _integer(optional)
    return start + b"\x18" + _text(column.name) + kind.meaning + _STOP


@cache
def _chunk_start(column: Column) -> bytes:
    # 2: offset, of no use any more, 3: (1: type, 2: encodings plain and runs, 3: path, 4: uncompressed, ...
    start = b"\x26\x00\x1c\x15" + _integer(_KINDS[column.type].physical) + b"\x19\x25\x00\x06"
    return start + b"\x19\x18" + _text(column.name) + b"\x15\x00"


def _range(column: Column, values: Sequence[Any]) -> bytes:
    if column.type != "VARCHAR" or not values or None in values:
        return b""
    # 12: (5: highest value, 6: lowest)
    return b"\x3c\x58" + _text(values[-1]) + b"\x18" + _text(values[0]) + _STOP


def _pair(key: str, value: str) -> bytes:
    return b"\x18" + _text(key) + b"\x18" + _text(value) + _STOP


def _list_of_structs(items: Sequence[bytes]) -> bytes:
    count = len(items)
    head = bytes([count << 4 | _STRUCTS]) if count < 15 else bytes([0xF0 | _STRUCTS]) + _varint(count)
    return head + b"".join(items)


def _text(word: str) -> bytes:
    data = word.encode("utf-8", "replace")
    return _varint(len(data)) + data


def _integer(value: int) -> bytes:
    """A signed integer; the lowest bit says that it is not negative, as none here is."""
    return _varint(value << 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
