"""
The same rows in fewer bytes: what is done once to the segments of a day that is over.

A packed segment has the ids and generation of the one it was made from, so it takes that one's place and no other's:
whoever merges or replaces the segment meanwhile is not disturbed, and needs not be waited for.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.errors import StoreError
from collector.store import sql
from collector.store.arrays import TIMES, Array, group_rows, write_file
from collector.store.encoding import WAYS, Compression, Effort, Way, gzip
from collector.store.engine import Engine
from collector.store.files import Files
from collector.store.parquet import BROTLI, ZSTD, Field
from collector.store.segments import Segment, segment_name
from collector.store.table import Column

# Of recordings of MLPerf, Brotli makes 1.61 bytes a sample, Zstandard 1.70 at its highest level and 1.88 at 9. Brotli
# takes 8 us a value, so it is for segments of one group of rows; of a large fleet, of which more is noise, Zstandard at
# 9 is within 2 % of 19 at a sixth of the time.
_BEST: Final = "brotli"
_USUAL: Final = "zstd, COMPRESSION_LEVEL 9"
_WAYS: Final = (*WAYS, Way(128, whole=False), Way(None, whole=False))
_TRIED: Final = 1 << 18
_EPOCH: Final = {"TIMESTAMP_MS": "epoch_ms", "TIMESTAMP": "epoch_us", "TIMESTAMP_NS": "epoch_ns"}


def repack(engine: Engine, files: Files, segment: Segment, *, threads: int | None = None) -> Segment:
    """
    Make of *segment* one that holds the same in fewer bytes, and takes its place.

    Raises: StoreError; then nothing has changed.
    """
    final = segment.path.with_name(
        segment_name(
            segment.writer,
            segment.generation,
            segment.first,
            segment.last,
            segment.first_ns,
            segment.last_ns,
            repeats=segment.repeats,
            packed=True,
        )
    )
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    scratch = final.with_name(f".{final.name}.{os.getpid()}.words.tmp")
    try:
        _write(engine, _Source(engine, segment.path), temporary, scratch, threads)
        if engine.run(sql.digest(temporary)) != engine.run(sql.digest(segment.path)):
            raise StoreError(segment.path, "packed, it does not read as before: nothing was changed")
        if temporary.stat().st_size > segment.bytes:
            shutil.copyfile(segment.path, temporary)
        files.commit(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
        scratch.unlink(missing_ok=True)
    return replace(segment, path=final, bytes=final.stat().st_size, packed=True)


class _Source:
    """A segment as arrays in the types that it is stored in, group of rows by group of rows."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._from = sql.read_segments([path])
        self.metadata: dict[str, str] = dict(engine.run(sql.all_metadata(path)))
        ((self.rows,),) = engine.run(f"SELECT count(*) FROM {self._from}")
        in_ms = {name for (name,) in engine.run(sql.milliseconds(path))}
        self.fields = [
            Field(name, "TIMESTAMP_MS" if name in in_ms else kind)
            for name, kind, *_ in engine.run(f"DESCRIBE SELECT * FROM {self._from}")
        ]
        self._words = {
            field.name: tuple(word for (word,) in engine.run(sql.words_of(field.name, path)))
            for field in self.fields
            if field.type == "VARCHAR"
        }

    def groups(self, size: int) -> Iterator[list[Array]]:
        """All rows, *size* at a time."""
        chosen = ", ".join(self._whole(index, field) for index, field in enumerate(self.fields))
        for start in range(0, self.rows, size):
            found = self._engine.arrays(f"SELECT {chosen} FROM {self._from} LIMIT {size} OFFSET {start}")
            yield [self._array(field, found[field.name]) for field in self.fields]

    def _whole(self, index: int, field: Field) -> str:
        """A column as what it is stored as."""
        name = sql.quoted(field.name)
        if field.type == "VARCHAR":
            words = ", ".join(map(sql.text, self._words[field.name]))
            self._engine.run(f"CREATE OR REPLACE TYPE words_{index} AS ENUM ({words})")
            return f"coalesce(enum_code({name}::words_{index})::INTEGER, -1) AS {name}"
        if field.type in TIMES:
            return f"{_EPOCH[field.type]}({name}) AS {name}"
        if field.digits:
            # In 38 digits, because 18 do not hold the product.
            return f"({name}::DECIMAL(38, {field.digits}) * {10**field.digits})::BIGINT AS {name}"
        return name

    def _array(self, field: Field, found: NDArray[Any]) -> Array:
        present = ~np.ma.getmaskarray(found)
        values = np.ma.getdata(found)
        if field.type == "VARCHAR":
            present = values >= 0
        elif field.type not in {"DOUBLE", "BOOLEAN"}:
            values = values.astype(np.int64)
        return Array(Column(field.name, field.type), values, present, self._words.get(field.name, ()))


def _write(engine: Engine, source: _Source, path: Path, scratch: Path, threads: int | None) -> None:
    def compressed(content: bytes, compression: str) -> bytes:
        return engine.compressed(np.frombuffer(content, "<i4"), compression, scratch)

    size = group_rows(source.rows, len(source.fields))
    usual = partial(compressed, compression=_USUAL)
    dense = Compression(ZSTD, usual, words=True)
    if size >= source.rows:
        dense = Compression(BROTLI, partial(compressed, compression=_BEST), words=True)
    effort = Effort(dense, gzip(9), _WAYS, _TRIED, rank=usual)
    write_file(path, source.fields, source.groups(size), source.metadata, effort, threads)
