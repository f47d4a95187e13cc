"""Frames as answers: the columns and rows that the command line and the pages give away."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import polars as pl

from collector.output import Field

_TYPES: Final = {
    "Datetime": "TIMESTAMP_NS",
    "Float64": "DOUBLE",
    "Float32": "FLOAT",
    "Int64": "BIGINT",
    "Int32": "INTEGER",
    "UInt32": "UINTEGER",
    "UInt64": "UBIGINT",
    "Boolean": "BOOLEAN",
    "Decimal": "DECIMAL(38,8)",
}


def answer_of(frame: pl.DataFrame) -> tuple[Sequence[Field], Iterator[Sequence[Any]]]:
    """The fields and rows of *frame*; times are nanoseconds, since Python's own end at microseconds."""
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    fields = [Field(name, _TYPES.get(str(kind).split("(")[0], "VARCHAR")) for name, kind in frame.schema.items()]
    return fields, frame.with_columns(pl.col(times).cast(pl.Datetime("ns")).cast(pl.Int64)).iter_rows()
