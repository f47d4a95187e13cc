"""The parts that pages are made of."""

from collections.abc import Sequence
from typing import Any, Final

import dash_mantine_components as dmc
from dash import dcc, html

REFRESH_S: Final = 10
"""How often a page that follows the clock asks again."""


def tile(id: str, label: str, number: str, unit: str, notes: Sequence[str], *, warning: str = "") -> Any:
    """One number with its unit, and below it the window, the coverage and what to know of it."""
    value = [html.Span(number, className="pw-number"), html.Span(unit, className="pw-unit")]
    lines = [dmc.Text(note, size="xs", c="dimmed") for note in notes]
    if warning:
        lines.append(html.Div(warning, className="pw-warning"))
    return dmc.Paper(
        [dmc.Text(label, size="sm", fw=600), html.Div(value, className="pw-value"), *lines],
        id=id,
        className="pw-tile",
        withBorder=True,
        p="sm",
        radius="md",
    )


def chart(id: str, title: str, *, height: int = 300) -> Any:
    """A figure under its title, with a sentence that says the same to those who cannot see it."""
    return dmc.Paper(
        html.Figure(
            [
                dmc.Title(title, order=2, size="h5", mb=4),
                dcc.Graph(id=id, style={"height": f"{height}px"}, config={"displayModeBar": False, "responsive": True}),
                html.Figcaption(id=f"{id}-words", className="pw-caption"),
            ],
            className="pw-figure",
        ),
        withBorder=True,
        p="sm",
        radius="md",
    )


def choice(id: str, label: str, values: Sequence[str], value: str) -> Any:
    """One of a few."""
    control = dmc.SegmentedControl(id=id, data=list(values), value=value, size="sm")
    label_id = f"{id}-label"
    named: dict[str, Any] = {"role": "group", "aria-labelledby": label_id}
    return html.Div([dmc.Text(label, size="sm", fw=500, id=label_id, mb=2), control], **named)


def choices(id: str, label: str, values: Sequence[str], chosen: Sequence[str]) -> Any:
    """Any of many; none chosen is all."""
    select = dmc.MultiSelect(
        id=id,
        label=label,
        data=sorted({*values, *chosen}),
        value=list(chosen),
        placeholder="" if chosen else "all",
        searchable=True,
        clearable=True,
        hidePickedOptions=True,
        limit=200,
        size="sm",
        nothingFoundMessage="none in this window",
    )
    return html.Div(select, className="pw-choices")
