"""Tables that are sorted, filtered and scrolled in the browser."""

from dataclasses import dataclass
from typing import Any, Final

import dash_ag_grid as dag
import polars as pl

ROWS: Final = 12
"""Rows of a grid before it scrolls."""
_HEAD_PX: Final = 50
_ROW_PX: Final = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    A column of a grid: a column of the frame, its heading, and how it reads.

    `form` is a d3 format for numbers (None: text) and `scale` what a value is multiplied by to be in the heading's
    unit. `link` is the beginning of an address, such as ``/job?id=``, that the value, encoded, is appended to; where
    `link_of` names a column, that one's value, and where that is null there is no link.
    """

    name: str
    heading: str
    form: str | None = None
    scale: float = 1.0
    width: int = 92
    flex: float = 1.0
    pinned: bool = False
    filter: bool = False
    link: str = ""
    link_of: str = ""
    note: str = ""

    def definition(self) -> dict[str, Any]:
        """The column as AG Grid has it."""
        found: dict[str, Any] = {
            "field": self.name,
            "headerName": self.heading,
            "minWidth": self.width,
            "flex": self.flex,
        }
        if self.filter:
            found["filter"] = "agTextColumnFilter" if self.form is None else "agNumberColumnFilter"
        if self.pinned:
            found |= {"pinned": "left", "width": self.width}
        if self.note:
            found["headerTooltip"] = self.note
        if self.form is not None:
            shown = f"params.value == null ? '–' : d3.format('{self.form}')(params.value)"
            found |= {"type": "rightAligned", "valueFormatter": {"function": shown}}
        elif self.link:
            found |= {"cellRenderer": "Link", "cellRendererParams": {"to": self.link, "of": self.link_of}}
        else:
            found |= {
                "tooltipField": self.name,
                "valueFormatter": {"function": "params.value == null ? '–' : params.value"},
            }
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid of a page by name, with its columns; `key` is the column that tells rows apart."""

    name: str
    title: str
    key: str
    columns: tuple[Column, ...]

    def component(self, id: str) -> Any:
        """The grid, empty."""
        return dag.AgGrid(
            id=id,
            columnDefs=[column.definition() for column in self.columns],
            rowData=[],
            getRowId=f"params.data['{self.key}']",
            defaultColDef={
                "sortable": True,
                "resizable": True,
                "wrapHeaderText": True,
                "autoHeaderHeight": True,
                "suppressHeaderMenuButton": True,
            },
            dashGridOptions={
                "animateRows": False,
                "suppressNoRowsOverlay": True,
                "rowHeight": _ROW_PX,
                "tooltipShowDelay": 400,
                "enableCellTextSelection": True,
                "ensureDomOrder": True,
            },
            style={"height": f"{_HEAD_PX + _ROW_PX}px"},
        )

    def rows(self, frame: pl.DataFrame) -> list[dict[str, Any]]:
        """The rows of *frame* as the grid shows them: in its headings' units, to seven digits."""
        hidden = {self.key, *(column.link_of for column in self.columns if column.link_of)}
        hidden -= {column.name for column in self.columns}
        return frame.select(*(self._shown(column, frame) for column in self.columns), *sorted(hidden)).to_dicts()

    def _shown(self, column: Column, frame: pl.DataFrame) -> pl.Expr:
        value = pl.col(column.name)
        if column.form is None:
            return value.cast(pl.String) if frame.schema[column.name] != pl.String else value
        number = value.cast(pl.Float64) * column.scale
        return number.round_sig_figs(7).alias(column.name)


def height(rows: int) -> str:
    """As high as its rows, up to a dozen."""
    return f"{_HEAD_PX + 18 + _ROW_PX * min(max(rows, 1), ROWS)}px"
