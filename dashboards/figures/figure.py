"""
A figure as the browser takes it: traces and a layout, in Plotly's words.

Plotly's own classes look at each word and copy each value; on a page with four charts that took as long as what they
show. Whether the words are Plotly's is asked once, by the tests, and not at each look.
"""

from base64 import b64encode
from typing import Any, Final

import polars as pl

_BESIDE: Final = {"x": "y", "y": "x"}
_TYPES: Final[dict[pl.DataType, str]] = {pl.Float32(): "f4", pl.Float64(): "f8"}
"""What Plotly calls them."""


class Figure:
    """
    Traces and shapes over *layout*.

    Values are lists, or series of floats, which go packed.
    """

    def __init__(self, layout: dict[str, Any]) -> None:
        self.data: list[dict[str, Any]] = []
        self.layout = layout

    def add_bar(self, **trace: Any) -> None:
        """Bars."""
        self.data.append({"type": "bar", **trace})

    def add_scatter(self, **trace: Any) -> None:
        """A line, points, or both."""
        self.data.append({"type": "scatter", **trace})

    def add_vline(self, at: Any, **shape: Any) -> None:
        """A line from the bottom to the top."""
        self._across("x", at, at, type="line", **shape)

    def add_hline(self, at: Any, **shape: Any) -> None:
        """A line from the left to the right."""
        self._across("y", at, at, type="line", **shape)

    def add_vrect(self, first: Any, last: Any, **shape: Any) -> None:
        """A field without an edge, from the bottom to the top."""
        self._across("x", first, last, type="rect", line={"width": 0}, **shape)

    def add_annotation(self, **annotation: Any) -> None:
        """A text."""
        self.layout.setdefault("annotations", []).append(annotation)

    def _across(self, axis: str, first: Any, last: Any, **shape: Any) -> None:
        other = _BESIDE[axis]
        place = {f"{axis}0": first, f"{axis}1": last, f"{axis}ref": axis}
        whole = {f"{other}0": 0, f"{other}1": 1, f"{other}ref": f"{other} domain"}
        self.layout.setdefault("shapes", []).append({**place, **whole, **shape})

    def packed(self) -> dict[str, Any]:
        """The figure, with its series as Plotly takes arrays: their type, and their bytes in base 64."""
        data = [{name: _packed(value) for name, value in trace.items() if value is not None} for trace in self.data]
        return {"data": data, "layout": dict(self.layout)}


def _packed(value: Any) -> Any:
    if not isinstance(value, pl.Series):
        return value
    return {"dtype": _TYPES[value.dtype], "bdata": b64encode(value.to_numpy().tobytes()).decode("ascii")}
