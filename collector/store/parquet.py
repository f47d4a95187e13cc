"""
Parquet files from encoded columns: pages, groups of rows and the footer, as parquet.thrift of Apache Parquet has them.

DuckDB writes what a statement gives; this writes what was encoded here (`plain`, `encoding`). Any reader of Parquet
reads both.
"""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import BinaryIO, Final

MAGIC: Final = b"PAR1"
PLAIN, RLE, DELTAS, DICTIONARY, SPLIT = 0, 3, 5, 8, 9
"""Encodings; in order: values as they are, levels, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT."""
UNCOMPRESSED, GZIP, BROTLI, ZSTD = 0, 2, 4, 6
"""Compressions."""
_BOOLEAN, _INT32, _INT64, _DOUBLE, _BYTES = 0, 1, 2, 5, 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_UTF8, _LIST_OF, _DECIMAL, _MILLIS, _MICROS, _UINT_32, _INT_16, _INT_32, _INT_64 = 0, 3, 5, 9, 10, 13, 16, 17, 18
"""Converted types, for readers that know no logical ones."""
_WHOLE: Final = {"SMALLINT": _INT_16, "UINTEGER": _UINT_32, "INTEGER": _INT_32, "BIGINT": _INT_64}
_UNITS: Final = {"TIMESTAMP_MS": 1, "TIMESTAMP": 2, "TIMESTAMP_NS": 3}
_DECIMAL_TYPE = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_SHORT: Final = {"INTEGER", "SMALLINT", "UINTEGER"}
_OF_LISTS: Final = re.compile(r"STRUCT\((\w+ \w+(?:, \w+ \w+)*)\)\[\]")


@dataclass(frozen=True, slots=True)
class Page:
    """What a page holds, compressed if its chunk is; `size` is what it was before."""

    encoding: int
    values: int
    size: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column in a group of rows; `low` and `high` are its extremes, PLAIN (None: not known)."""

    codec: int
    data: Page
    dictionary: Page | None
    nulls: int
    low: bytes | None
    high: bytes | None


@dataclass(frozen=True, slots=True)
class Field:
    """A column by its name and DuckDB type; one that is part of a column of lists says of which (`within`)."""

    name: str
    type: str
    within: str = ""

    @property
    def digits(self) -> int:
        """Digits after the point that its whole numbers stand for."""
        found = _DECIMAL_TYPE.fullmatch(self.type)
        return int(found[2]) if found is not None else 0

    @property
    def bytes(self) -> int:
        """How long a whole number of this type is."""
        return 4 if self.type in _SHORT or self.type.startswith("DECIMAL(9,") else 8

    @property
    def physical(self) -> int:
        """The number of the type that its values are stored in."""
        others = {"VARCHAR": _BYTES, "DOUBLE": _DOUBLE, "BOOLEAN": _BOOLEAN}
        return others.get(self.type, _INT32 if self.bytes == 4 else _INT64)


def is_storable(kind: str) -> bool:
    """Whether a column of the DuckDB type *kind* can be written here."""
    return kind in {"VARCHAR", "DOUBLE", "BOOLEAN", "INTEGER", "BIGINT", *_UNITS} or bool(_DECIMAL_TYPE.fullmatch(kind))


def parts_of(field: Field) -> list[Field]:
    """The fields of a column of lists of structs."""
    found = _OF_LISTS.fullmatch(field.type)
    listed = [part.split() for part in found[1].split(", ")] if found is not None else []
    return [Field(name, kind, within=field.name) for name, kind in listed]


def levels(rows: int, present: bool | bytes) -> bytes:
    """Which of *rows* values are there: all, none, or those whose bit is set (from the lowest of the first byte on)."""
    if isinstance(present, bool):
        run = varint(rows << 1) + (b"\1" if present else b"\0")
    else:
        run = varint(len(present) << 1 | 1) + present
    return len(run).to_bytes(4, "little") + run


# --------------------------------------------------------------------------------- Thrift's compact protocol, written

_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_TRUE, _FALSE = 1, 2
_BYTES_OF: Final = [bytes([number]) for number in range(0x80)]


def varint(number: int) -> bytes:
    """An unsigned number in groups of seven bits, the lowest first."""
    if number < 0x80:
        return _BYTES_OF[number]
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@lru_cache(4096)  # the same numbers come again and again, and an agent writes many small files
def zigzag(number: int) -> bytes:
    """A signed number of up to 64 bits as a varint."""
    return varint((number << 1 ^ number >> 63) & (1 << 64) - 1)


def _struct(*fields: tuple[int, int, bytes | None]) -> bytes:
    """Fields in rising order as number, type and value; one whose value is None is left out."""
    out, last = bytearray(), 0
    for number, kind, value in fields:
        if value is not None:
            out.append((number - last) << 4 | kind)
            out += value
            last = number
    return bytes(out) + b"\0"


def _i32(number: int, value: int | None) -> tuple[int, int, bytes | None]:
    return number, _I32, None if value is None else zigzag(value)


def _i64(number: int, value: int | None) -> tuple[int, int, bytes | None]:
    return number, _I64, None if value is None else zigzag(value)


def _binary(number: int, value: bytes | None) -> tuple[int, int, bytes | None]:
    return number, _BINARY, None if value is None else _bytes(value)


def _bytes(value: bytes) -> bytes:
    return varint(len(value)) + value


def _within(number: int, value: bytes | None) -> tuple[int, int, bytes | None]:
    return number, _STRUCT, value


def _listed(number: int, kind: int, values: Sequence[bytes]) -> tuple[int, int, bytes | None]:
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind]) + varint(len(values))
    return number, _LIST, head + b"".join(values)


def _header(content: bytes, at: int) -> tuple[list[int], int]:
    """The numbers that a page's header begins with: kind, size before and after compression, checksum if it has one."""
    numbers: list[int] = []
    while content[at] == 0x10 | _I32:
        number, shift, at = 0, 0, at + 1
        while content[at] & 0x80:
            number, shift, at = number | (content[at] & 0x7F) << shift, shift + 7, at + 1
        number |= content[at] << shift
        numbers.append(number >> 1 ^ -(number & 1))
        at += 1
    return numbers, at


def only_page(content: bytes) -> tuple[int, int, int]:
    """Of a file of one page: where its content starts, its size before and after compression."""
    (_, size, compressed, *_), _ = _header(content, len(MAGIC))
    footer = int.from_bytes(content[-8:-4], "little")
    return len(content) - 8 - footer - compressed, size, compressed


def is_whole(page: bytes) -> bool:
    """Whether a page, header and content, is as it was written; one without a checksum is taken for whole."""
    numbers, at = _header(page, 0)
    if len(numbers) < 3 or at + numbers[2] > len(page):
        return False
    return len(numbers) == 3 or zlib.crc32(page[len(page) - numbers[2] :]) == numbers[3] & 0xFFFFFFFF


# ------------------------------------------------------------------------------------------------------------ the file


def write(
    out: BinaryIO, fields: Sequence[Field], groups: Iterable[tuple[int, Iterable[Chunk]]], metadata: Mapping[str, str]
) -> None:
    """Write a file of *groups*, each a number of rows and a chunk for each field."""
    out.write(MAGIC)
    total = 0
    described: list[bytes] = []
    for rows, chunks in groups:
        columns = [_chunk(out, field, chunk) for field, chunk in zip(fields, chunks, strict=True)]
        sizes = sum(size for _, size in columns)
        described.append(_struct(_listed(1, _STRUCT, [column for column, _ in columns]), _i64(2, sizes), _i64(3, rows)))
        total += rows
    elements = [element for _, some in groupby(fields, _column) for element in _elements(tuple(some))]
    root = _struct(_binary(4, b"rows"), _i32(5, len(dict.fromkeys(map(_column, fields)))))
    pairs = [_struct(_binary(1, k.encode()), _binary(2, v.encode())) for k, v in metadata.items()]
    typed = _struct(_within(1, _struct()))
    footer = _struct(
        _i32(1, 2),
        _listed(2, _STRUCT, [root, *elements]),
        _i64(3, total),
        _listed(4, _STRUCT, described),
        _listed(5, _STRUCT, pairs),
        _binary(6, b"perfwatt version 1"),
        _listed(7, _STRUCT, [typed] * len(fields)),
    )
    out.write(footer + len(footer).to_bytes(4, "little") + MAGIC)


def _chunk(out: BinaryIO, field: Field, chunk: Chunk) -> tuple[bytes, int]:
    """Write the pages of a chunk; gives its description and its size before compression."""
    start = out.tell()
    words, dictionary_at, size = chunk.dictionary, None, 0
    if words is not None:
        dictionary_at = start
        size += _page(out, _DICTIONARY_PAGE, words, (7, _struct(_i32(1, words.values), _i32(2, PLAIN))))
    data, data_at = chunk.data, out.tell()
    head = _struct(_i32(1, data.values), _i32(2, data.encoding), _i32(3, RLE), _i32(4, RLE))
    size += _page(out, _DATA_PAGE, data, (5, head))
    used = {data.encoding, RLE} | ({PLAIN} if words is not None else set())
    described = _struct(
        _i32(1, field.physical),
        _listed(2, _I32, [zigzag(encoding) for encoding in sorted(used)]),
        _listed(3, _BINARY, [_bytes(name.encode()) for name in _path(field)]),
        _i32(4, chunk.codec),
        _i64(5, data.values),
        _i64(6, size),
        _i64(7, out.tell() - start),
        _i64(9, data_at),
        _i64(11, dictionary_at),
        _within(12, _struct(_i64(3, chunk.nulls), _binary(5, chunk.high), _binary(6, chunk.low))),
    )
    return _struct(_i64(2, start), _within(3, described)), size


def _page(out: BinaryIO, kind: int, page: Page, head: tuple[int, bytes]) -> int:
    checksum = zlib.crc32(page.content)
    header = _struct(
        _i32(1, kind),
        _i32(2, page.size),
        _i32(3, len(page.content)),
        _i32(4, checksum - (checksum >> 31 << 32)),
        _within(*head),
    )
    out.write(header)
    out.write(page.content)
    return len(header) + page.size


def _column(field: Field) -> str:
    return field.within or field.name


def _path(field: Field) -> list[str]:
    return [field.within, "list", "element", field.name] if field.within else [field.name]


@cache
def _elements(fields: tuple[Field, ...]) -> list[bytes]:
    """A column in the schema: one field, or those of the structs that it has lists of."""
    if not fields[0].within:
        return [_element(fields[0], _OPTIONAL)]
    logical = _struct(_within(3, _struct()))
    return [
        _struct(_i32(3, _OPTIONAL), _binary(4, fields[0].within.encode()), _i32(5, 1), _i32(6, _LIST_OF),
                _within(10, logical)),
        _struct(_i32(3, _REPEATED), _binary(4, b"list"), _i32(5, 1)),
        _struct(_i32(3, _REQUIRED), _binary(4, b"element"), _i32(5, len(fields))),
        *(_element(field, _REQUIRED) for field in fields),
    ]  # fmt: skip


def _element(field: Field, repetition: int) -> bytes:
    """A field in the schema, with its logical type."""
    converted: int | None = None
    scale = precision = logical = None
    if field.type == "VARCHAR":
        converted = _UTF8
    elif field.type in _UNITS:
        unit = _UNITS[field.type]
        converted = {1: _MILLIS, 2: _MICROS, 3: None}[unit]
        local = (1, _FALSE, b"")  # not adjusted to UTC: a time without a zone, which the store takes for UTC
        logical = _struct(_within(8, _struct(local, _within(2, _struct(_within(unit, _struct()))))))
    elif (found := _DECIMAL_TYPE.fullmatch(field.type)) is not None:
        converted, precision, scale = _DECIMAL, int(found[1]), int(found[2])
        logical = _struct(_within(5, _struct(_i32(1, scale), _i32(2, precision))))
    else:
        converted = _WHOLE.get(field.type)
    return _struct(
        _i32(1, field.physical),
        _i32(3, repetition),
        _binary(4, field.name.encode()),
        _i32(6, converted),
        _i32(7, scale),
        _i32(8, precision),
        _within(10, logical),
    )
