"""What a table of the store is: columns, keys, and how its rows replace one another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from collector.catalogue import Metric
from collector.units import Unit


@dataclass(frozen=True, slots=True)
class Column:
    """A column by name and DuckDB type, with the metric it holds where it holds one, else its unit and meaning."""

    name: str
    type: str
    metric: Metric | None = None
    help: str = ""
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table: its key columns (which, with `time`, find a row and sort a segment), then the rest.

    Every table has a column `time` (TIMESTAMP_NS, UTC), by whose day it is partitioned. Of a `shared` table several
    writers may write the same row and readers look for the latest; in the others a row belongs to one writer. The rows
    of a table of `states` tell what was so from `time` on: the last row of each key is what is so now, and a view
    called ``<name>_now`` holds those.
    """

    name: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    shared: bool = False
    states: bool = False
    help: str = ""

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def now(self) -> str:
        """What the view of the latest states is called."""
        return f"{self.name}_now"


TIME: Final = Column("time", "TIMESTAMP_NS")


def text(*names: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(name, "VARCHAR") for name in names)
