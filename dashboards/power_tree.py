"""The power tree as a table with bars: what each node carries now against what it may carry."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
from dash import html

from dashboards.parts import labelled
from dashboards.words import ABSENT, joined

_CLOSE: Final = 0.9
"""Of a limit: beyond it the bar warns."""
_KINDS: Final = {
    "transfer_switch": "transfer switch",
    "mdp": "MDP",
    "ups": "UPS",
    "pdu": "PDU",
    "mlc": "MLC",
    "rpp": "RPP",
}
_HEADINGS: Final = ("Node", "Load", "Now", "Feed-loss limit", "Derated limit", "Left")


def power_tree(rows: pl.DataFrame, *, label: str) -> Any:
    """
    The nodes of a site, as `dashboards.data.home.HomeView.tree` has them.

    On one bar: the load now, the peak that counts, and marks at the feed-loss and the derated limit.
    """
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in _HEADINGS]))
    table = html.Table([head, html.Tbody([_row(row) for row in rows.iter_rows(named=True)])], className="pw-tree")
    # A table that scrolls must be reachable by keyboard.
    return html.Div(table, className="pw-scroll", tabIndex=0, role="region", **labelled(label))


def kind_of(word: str) -> str:
    """
    What a node is, as people call it.

    >>> kind_of("ups"), kind_of("transfer_switch"), kind_of("row")
    ('UPS', 'transfer switch', 'row')
    """
    return _KINDS.get(word, word)


def key() -> Any:
    """What the parts of a bar mean."""
    entries = (
        ("pw-tree-now", "load now"),
        ("pw-tree-peak", "peak that counts"),
        ("pw-tree-feed", "feed-loss limit: at this load the worst single failure fills it"),
        ("pw-tree-derated", "derated limit"),
    )
    return html.Ul(
        [html.Li([html.Span(className=f"pw-tree-key {name}"), text]) for name, text in entries], className="pw-legend"
    )


def _row(row: Mapping[str, Any]) -> Any:
    also = html.Span(f" + {row['also']}", className="pw-tree-also") if row["also"] else None
    kind = html.Span(kind_of(row["kind"]), className="pw-tree-kind")
    name = html.Th(
        [html.Span(row["node"], className="pw-tree-name"), also, kind],
        scope="row",
        style={"--pw-depth": row["depth"]},
    )
    left = row["headroom_w"]
    worst = "" if row["worst_failure"] in (None, "none") else f"without {row['worst_failure']}"
    note = [html.Div(worst, className="pw-tree-worst", title=worst)] if worst else []
    numbers = [
        _cell(joined(row[column], "W"), heading)
        for column, heading in zip(("load_now_w", "feed_loss_w", "derated_w"), _HEADINGS[2:], strict=False)
    ]
    shown = html.Span(ABSENT if left is None else joined(left, "W"), className=f"pw-tree-left {_state(row)}")
    return html.Tr(
        [name, html.Td(_bar(row), className="pw-tree-bar-cell"), *numbers, _cell([shown, *note], _HEADINGS[-1])]
    )


def _cell(content: Any, heading: str) -> Any:
    # On a narrow screen a row is a block, and each number says what it is.
    named: dict[str, Any] = {"data-label": heading}
    return html.Td(content, className="pw-right", **named)


def _state(row: Mapping[str, Any]) -> str:
    """How near a node is to what it may carry in its worst failure."""
    failure, safe = row["failure_load_w"], row["safe_w"]
    if failure is None or not safe:
        return ""
    return "pw-over" if failure > safe else "pw-close" if failure > _CLOSE * safe else ""


def _bar(row: Mapping[str, Any]) -> Any:
    derated, feed = row["derated_w"], row["feed_loss_w"]
    loads = [row[name] for name in ("load_now_w", "load_w") if row[name] is not None]
    whole = max([1.0, *(limit for limit in (derated, feed) if limit is not None), *loads]) * 1.04

    def at(value: float) -> str:
        return f"{100 * value / whole:.1f}%"

    parts = []
    if row["load_w"] is not None:
        parts.append(html.Div(className="pw-tree-peak", style={"width": at(row["load_w"])}))
    if row["load_now_w"] is not None:
        parts.append(html.Div(className=f"pw-tree-now {_state(row)}", style={"width": at(row["load_now_w"])}))
    parts += [
        html.Div(className=name, style={"left": at(limit)})
        for name, limit in (("pw-tree-feed", feed), ("pw-tree-derated", derated))
        if limit is not None
    ]
    peak = "" if row["load_w"] is None else f"peak {joined(row['load_w'], 'W')}"
    return html.Div(parts, className="pw-tree-bar", title=peak)
