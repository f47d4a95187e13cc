"""How figures look: colours that everybody can tell apart, axes titled from the catalogue, nothing in the way."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import log10
from typing import Any, Final

import polars as pl

from collector.catalogue import Metric
from dashboards.figures.figure import Figure

# Near Okabe and Ito's, moved until each stands out 3 : 1 from its ground and any two differ by a CIE76 distance of 20
# for people with protanopia, deuteranopia and tritanopia too (Machado et al. 2009).
COLOURS: Final = {
    "light": ("#09467c", "#9f6100", "#057b4f", "#dc6f9c", "#2e9dd3", "#8c0800", "#817df2", "#919852"),
    "dark": ("#5664f3", "#eaa100", "#1d9766", "#ffbcd1", "#6ac7ff", "#ce4a04", "#7d6db1", "#b2b561"),
}
SHOWN: Final = len(COLOURS["light"])
"""Groups with a colour of their own; the rest are one."""
REST: Final = "others"
REST_COLOUR: Final = {"light": "#7c838b", "dark": "#9aa0a6"}
PAPER: Final = {"light": "#ffffff", "dark": "#25282c"}
INK: Final = {"light": "#343a40", "dark": "#c9cdd2"}
STRONG: Final = {"light": "#c92a2a", "dark": "#ff8787"}
"""For one line that must not be overlooked: a peak, a limit, a front."""
_GRID: Final = {"light": "#e9ecef", "dark": "#3b3f45"}
_EDGE_PX: Final = 8
_LINE_PX: Final = 16
_TITLE_PX: Final = 24
_NUMBER_PX: Final = 46
_WIDTH_PX: Final = dict.fromkeys("ijl.,:;'|!()-/ ", 4.3) | dict.fromkeys("mwMW%@", 11.0)
"""How wide letters are that are not as the others, in the widest of the fonts."""
_OTHERS_PX: Final = 7.6


def axis(metric: Metric, unit: str | None = None) -> str:
    """An axis title from the catalogue, with another unit of the same quantity where people use one."""
    return metric.title if unit is None else metric.title.replace(f"({metric.unit.symbol})", f"({unit})")


def colours(names: Iterable[str], theme: str) -> dict[str, str]:
    """A colour for each of the first names, by alphabet, so that a name keeps its colour from chart to chart."""
    return dict(zip(sorted(list(names)[:SHOWN]), COLOURS[theme], strict=False))


def short(name: str, most: int = 22) -> str:
    """A long id by its two ends."""
    return name if len(name) <= most else f"{name[: most - 10]}…{name[-8:]}"


def empty(theme: str, *, x: dict[str, Any] | None = None, y: dict[str, Any] | None = None, **layout: Any) -> Figure:
    """A figure without anything in it; *x* and *y* are what its axes have besides the usual."""
    lines = {
        "gridcolor": _GRID[theme],
        "zerolinecolor": _GRID[theme],
        "linecolor": _GRID[theme],
        "ticks": "",
    }
    looks: dict[str, Any] = dict(
        autotypenumbers="strict",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": INK[theme]},
        hoverlabel={
            "align": "left",
            "bgcolor": PAPER[theme],
            "bordercolor": _GRID[theme],
            "font": {"color": INK[theme]},
        },
        # Names and colours stand above the figure, where they wrap at any width.
        showlegend=False,
        uirevision="keep",
        xaxis={**lines, "tickangle": 0, **(x or {})},
        yaxis={**lines, **(y or {})},
        **layout,
    )
    return Figure(looks)


def hidden() -> Figure:
    """A figure of nothing, without axes."""
    return Figure({"xaxis": {"visible": False}, "yaxis": {"visible": False}})


def fitted(figure: Figure) -> dict[str, Any]:
    """
    The figure as it goes to the browser, with room for what stands beside its axes.

    A browser that has to find out how much that needs draws twice.
    """
    drawn = figure.packed()
    layout = drawn["layout"]
    x, y = layout["xaxis"], layout["yaxis"]
    named = [y.get("categoryarray", []), *(trace.get("y", []) for trace in drawn["data"])]
    words = [word for words in named if isinstance(words, list | tuple) for word in words if isinstance(word, str)]
    widest = max(map(_wide_px, words), default=0.0) if y.get("type") == "category" else _NUMBER_PX
    two = "\n" in x.get("tickformat", "") or any("<br>" in str(word) for word in x.get("tickvals", []))
    layout["margin"] = {
        "l": _EDGE_PX + _beside(y, round(widest)),
        "b": _EDGE_PX + _beside(x, (2 if two else 1) * _LINE_PX),
        # A label in the middle of the last tick stands over the edge.
        "r": _EDGE_PX + (_beside(x, _LINE_PX) and _LINE_PX),
        "t": _EDGE_PX,
    }
    return drawn


def _beside(axis: Mapping[str, Any], labels_px: int) -> int:
    """The room that an axis takes with labels of that size."""
    if axis.get("visible") is False or axis.get("showticklabels") is False:
        return 0
    return labels_px + (_TITLE_PX if axis.get("title") else 0)


def _wide_px(word: str) -> float:
    return sum(_WIDTH_PX.get(letter, _OTHERS_PX) for letter in word)


def gap_of(bars: int) -> float:
    """The share of a category that is left free beside its bar, so that one alone is no wall."""
    return max(0.3, 0.85 - 0.13 * bars)


def titled(text: str) -> dict[str, Any]:
    """An axis's title."""
    return {"text": text, "standoff": 8}


def time_axis(start: datetime, end: datetime) -> dict[str, Any]:
    """An axis from *start* to *end*, with hours where it is of a day or so."""
    day = end - start <= timedelta(days=1, hours=1)
    return {
        "type": "date",
        "showgrid": False,
        "range": [moment.astimezone(UTC).replace(tzinfo=None) for moment in (start, end)],
        "tickformat": "%H:%M\n%-d %b" if day else "%-d %b",
    }


def log_axis(values: pl.Series, margin: float = 0.12) -> dict[str, Any]:
    """A logarithmic axis over positive *values*: ticks at 1, 2 and 5, or at whole decades where there are several."""
    low, high = (log10(float(end)) for end in (values.min(), values.max()))  # type: ignore[arg-type] # numbers
    margin = max(margin * (high - low), 0.1)
    return {"type": "log", "range": [low - margin, high + margin], "dtick": 1 if high - low > 2.5 else "D2"}


def without(figure: Figure, text: str) -> Figure:
    """The figure, saying *text* in the place of what it cannot show."""
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font={"size": 13})
    figure.layout["xaxis"].update(showticklabels=False, showgrid=False, zeroline=False)
    figure.layout["yaxis"].update(showticklabels=False, showgrid=False, zeroline=False)
    return figure


def legend_of(figure: Figure) -> dict[str, str]:
    """The colour of each trace that has a name."""
    return {
        trace["name"]: trace["line" if _is_line(trace) else "marker"]["color"]
        for trace in figure.data
        if trace.get("name")
    }


def _is_line(trace: Mapping[str, Any]) -> bool:
    return trace["type"] == "scatter" and "lines" in trace["mode"]
