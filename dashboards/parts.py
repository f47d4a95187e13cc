"""The parts that pages are made of: tiles, charts, tables, notices."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dash import html

from dashboards.data.derived import Standing

REFRESH_S: Final = 10
"""How often a page that follows the clock asks again."""


def labelled(text: str) -> dict[str, Any]:
    """The attribute that names a part for those who cannot see it."""
    return {"aria-label": text}


def tile(
    id: str,
    label: str,
    number: str,
    unit: str,
    notes: Sequence[str],
    *,
    warning: str = "",
    href: str = "",
    below: Any = None,
) -> Any:
    """One number with its unit, and below it the window, the coverage and what to know of it; at its foot *below*."""
    value = [html.Span(number, className="pw-number"), html.Span(unit, className="pw-unit")]
    # Plain elements: a page has some dozens of these, and all are made anew with each choice.
    lines: list[Any] = [html.P(note, className="pw-note") for note in notes]
    if warning:
        lines.append(html.Div(warning, className="pw-warning"))
    if below is not None:
        lines.append(below)
    name = "pw-tile-name"
    title = html.A(label, href=href, className=name) if href else html.P(label, className=name)
    return html.Section([title, html.Div(value, className="pw-value"), *lines], id=id, className="pw-tile")


def panel(title: str, children: Any, *, aside: Any = None, kind: str = "") -> Any:
    """A part of the page under a heading of its own, with *aside* to the heading's right."""
    head = html.Div([html.H2(title), aside], className="pw-panel-head")
    content = children if isinstance(children, list) else [children]
    return html.Section([head, *content], className=f"pw-panel {kind}".strip())


def beside(parts: Sequence[Any], columns: int = 2) -> Any:
    """Parts side by side in *columns*, where the screen has room for that."""
    return html.Div(list(parts), className=f"pw-beside pw-beside-{columns}")


def remark(text: Any, *, dim: bool = False) -> Any:
    """A remark."""
    return html.P(text, className="pw-small pw-dim" if dim else "pw-small")


def chart(id: str, title: str, *, height: int = 280, twin: bool = True) -> Any:
    """
    A figure under its title, with a legend, and with a sentence that says the same to those who cannot see it.

    With a *twin* its numbers can be taken away as CSV and JSON.
    """
    figure = html.Figure(
        [
            html.Ul(id=f"{id}-legend", className="pw-legend"),
            html.Div(id=id, className="pw-plot", style={"height": f"{height}px"}),
            html.Figcaption(id=f"{id}-words", className="pw-caption"),
        ],
        className="pw-figure",
    )
    return panel(title, figure, aside=twins(id, title) if twin else None, kind="pw-chart")


def twins(id: str, title: str) -> Any:
    """Links to the numbers as CSV and as JSON; the page fills in their addresses."""
    return html.Div(
        [
            html.A(
                form.upper(),
                id=f"{id}-{form}",
                href="#",
                className="pw-link pw-twin",
                **labelled(f"{title} as {form.upper()}"),
            )
            for form in ("csv", "json")
        ],
        className="pw-twins",
    )


def legend(entries: Mapping[str, str]) -> list[Any]:
    """What the colours of a chart mean: name and colour of each."""
    return [
        html.Li([html.Span(className="pw-swatch", style={"background": colour}), name], title=name)
        for name, colour in entries.items()
    ]


def notice(title: str, text: Any, *, color: str = "blue") -> Any:
    """A message in place of what cannot be shown, or above what needs an explanation."""
    return html.Div([html.Strong(title), html.Div(text)], className=f"pw-notice pw-notice-{color}", role="alert")


def answered(*parts: Any) -> Any:
    """Parts that only an answer fills: away where a notice says that there is none (and no tile shows one)."""
    return html.Div(parts, className="pw-answered")


def unmade(standing: Standing) -> Any:
    """What to know of a table that is missing or old, with the command that makes it; None where all is well."""
    if not standing.says:
        return None
    return html.Div([standing.says, " ", html.Code(standing.command)], className="pw-unmade")


def coded(text: str) -> list[Any]:
    """
    A text with what stands between backticks as code.

    >>> [getattr(part, "children", part) for part in coded("Run `perfwatt doctor` on it.")]
    ['Run ', 'perfwatt doctor', ' on it.']
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        # One that has no partner is no quotation.
        return [text]
    return [html.Code(part) if at % 2 else part for at, part in enumerate(parts) if part]


def badge(word: str) -> Any:
    """A word that says how much something matters, or what kind it is."""
    return html.Span(word.replace("_", " "), className=f"pw-badge pw-badge-{word}")


def small_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: Sequence[int] = (),
    caption: str = "",
    stacked: bool = False,
) -> Any:
    """
    A table of a few rows as it is in a book; the columns at *numbers* are set to the right.

    One that is *stacked* has words in its last column, which on a narrow screen go below the others.
    """

    def cell(at: int, content: Any) -> Any:
        return html.Td(content, className="pw-right" if at in numbers else "")

    head = [html.Th(text, className="pw-right" if at in numbers else "") for at, text in enumerate(headings)]
    body = [html.Tr([cell(at, content) for at, content in enumerate(row)]) for row in rows]
    parts = [html.Thead(html.Tr(head)), html.Tbody(body)]
    if caption:
        parts.insert(0, html.Caption(caption))
    table = html.Table(parts, className="pw-table pw-stacked" if stacked else "pw-table")
    # A table that scrolls must be reachable by keyboard.
    return html.Div(table, className="pw-scroll", tabIndex=0, role="region", **labelled(caption or headings[0]))


def heat_table(
    corner: str,
    headings: Sequence[Any],
    rows: Sequence[tuple[str, Sequence[tuple[str, float | None, str]]]],
    *,
    caption: str,
) -> Any:
    """A table of numbers that are the darker the more they are; a cell is its text, its share of the most, a hint."""

    def cell(text: str, share: float | None, hint: str) -> Any:
        style = {} if share is None else {"--pw-heat": f"{100 * share:.0f}%"}
        return html.Td(text, title=hint, className="pw-right pw-cell", style=style)

    head = html.Thead(html.Tr([html.Th(corner, scope="col"), *(html.Th(text, scope="col") for text in headings)]))
    body = [html.Tr([html.Th(name, scope="row"), *(cell(*one) for one in cells)]) for name, cells in rows]
    table = html.Table([html.Caption(caption), head, html.Tbody(body)], className="pw-heat")
    return html.Div(table, className="pw-scroll", tabIndex=0, role="region", **labelled(caption))


def funnel(headings: Sequence[str], rows: Sequence[tuple[str, float, Sequence[str]]]) -> Any:
    """Steps that get smaller: the name of each, its share as a bar, and its cells, of which the last is words."""
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in headings]))

    def row(name: str, share: float, cells: Sequence[str]) -> Any:
        bar = html.Div(className="pw-bar", style={"width": f"{100 * share:.1f}%"})
        *numbers, words = cells
        labels: list[dict[str, Any]] = [{"data-label": label} for label in headings[2:]]
        return html.Tr(
            [
                html.Th(name, scope="row"),
                html.Td(bar, className="pw-bar-cell"),
                *(html.Td(text, className="pw-right", **label) for label, text in zip(labels, numbers, strict=False)),
                html.Td(words, className="pw-lost"),
            ]
        )

    body = html.Tbody([row(*one) for one in rows])
    table = html.Table([head, body], className="pw-funnel")
    return html.Div(table, className="pw-scroll", tabIndex=0, role="region", **labelled("Funnel"))


def facts(pairs: Sequence[tuple[str, Any]]) -> Any:
    """Names with their values, one below the other."""
    return html.Dl(
        [html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs],
        className="pw-facts",
    )
