"""Which subjects are where: what the footers of segments say, without a row being read."""

from collections.abc import Sequence
from dataclasses import dataclass

from collector.store import sql
from collector.store.engine import connect
from collector.store.schema import TABLES
from collector.store.segments import Segment


@dataclass(frozen=True, slots=True)
class Extent:
    """A row group of a segment: its rows, and the range of the table's first key in it (None: not known)."""

    segment: Segment
    rows: int
    low: str | None
    high: str | None


def extents(segments: Sequence[Segment]) -> list[Extent]:
    """The row groups of *segments*, all of one table."""
    if not segments:
        return []
    (table,) = {segment.table for segment in segments}
    key = TABLES[table].keys[0]
    by_path = {str(segment.path): segment for segment in segments}
    listed = ", ".join(sql.text(path) for path in by_path)
    statement = (
        f"SELECT file_name, row_group_num_rows, stats_min_value, stats_max_value FROM parquet_metadata([{listed}]) "
        f"WHERE path_in_schema = {sql.text(key)}"
    )
    connection = connect(threads=1)
    try:
        found = connection.execute(statement).fetchall()
    finally:
        connection.close()
    return [Extent(by_path[name], rows, low, high) for name, rows, low, high in found]
