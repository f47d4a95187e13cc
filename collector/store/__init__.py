"""The store: immutable Parquet segments, written and queried with DuckDB."""

from collector.sample import Coded
from collector.store.schema import TABLES, VERSION
from collector.store.segments import Segment
from collector.store.store import Store
from collector.store.table import Column, Table
from collector.store.writer import Writer, WriterStatus

__all__ = ["TABLES", "VERSION", "Coded", "Column", "Problem", "Segment", "Store", "Table", "Writer", "WriterStatus"]
