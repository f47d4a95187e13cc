"""
A page as plain HTML, which a browser shows at once: what it says is there before any script has run.

Scripts of some megabytes take a second or more to load where a machine has other work; the app takes the place of this
page as soon as it stands. A page that does not come filled has nothing to say before.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from dash.development.base_component import Component

from dashboards.data.stored import Stored
from dashboards.page import Page

_VOID: Final = frozenset({"br", "hr", "img"})
_SILENT: Final = frozenset({"Interval", "Store", "Location"})
_TAGS: Final = {
    "Text": "p",
    "Paper": "section",
    "Anchor": "a",
    "Link": "a",
    "Table": "table",
    "TableThead": "thead",
    "TableTbody": "tbody",
    "TableTr": "tr",
    "TableTh": "th",
    "TableTd": "td",
    "TableCaption": "caption",
}
"""What stands for a component of Mantine or of Dash; those of HTML stand for themselves."""
_LOOKS: Final = frozenset({"Paper", "Table", "Title"})
_SIZES: Final = frozenset({"xs", "sm"})


def first(pages: Sequence[Page], stored: Stored, path: str, search: str) -> str:
    """What to show at *path* and *search* until the app stands; empty where that is no page that comes filled."""
    page = next((page for page in pages if page.holds(path)), None)
    if page is None or not page.filled:
        return ""
    links = ""
    for group in dict.fromkeys(one.group for one in pages if one.label):
        links += f'<p class="pw-nav-group pw-first-xs pw-first-dim">{escape(group)}</p>'
        links += "".join(_way(one, page) for one in pages if one.label and one.group == group)
    return (
        '<div id="first"><div class="pw-header"><span class="pw-brand">perfwatt</span></div>'
        f'<nav class="pw-nav" aria-label="Pages">{links}</nav>'
        f"<main>{markup(page.layout(stored, search, path))}</main></div>"
    )


def markup(part: Any) -> str:
    """
    A component, or what stands in its place, as HTML; ids are left to the app.

    >>> from dash import html
    >>> markup(html.P(["5 < 6 ", html.Code("a", className="pw-code")], id="p"))
    '<p>5 &lt; 6 <code class="pw-code">a</code></p>'
    """
    if part is None or isinstance(part, bool):
        return ""
    if isinstance(part, list | tuple):
        return "".join(markup(one) for one in part)
    if not isinstance(part, Component):
        return escape(str(part))
    kind = type(part).__name__
    if kind in _SILENT:
        return ""
    if kind == "Alert":
        return f'<div class="pw-first-alert"><strong>{markup(part.title)}</strong>{_inner(part)}</div>'  # type: ignore[attr-defined] # components are made at run time
    if kind == "MultiSelect":
        # A field is of no use before its script; its place is kept.
        return f'<div class="pw-first-field">{markup(part.label)}<div></div></div>'  # type: ignore[attr-defined]
    tag = f"h{part.order}" if kind == "Title" else _TAGS.get(kind, kind.lower())  # type: ignore[attr-defined]
    attributes = "".join(f' {name}="{escape(str(value))}"' for name, value in _attributes(part, kind))
    return f"<{tag}{attributes}>" if tag in _VOID else f"<{tag}{attributes}>{_inner(part)}</{tag}>"


def _inner(part: Component) -> str:
    return markup(getattr(part, "children", None))


def _attributes(part: Component, kind: str) -> Iterator[tuple[str, object]]:
    given: Mapping[str, Any] = part.to_plotly_json()["props"]  # type: ignore[no-untyped-call] # Dash is half typed
    sizes = [f"pw-first-{given['size']}"] if given.get("size") in _SIZES else []
    # HTML has a table, too, which is styled by its own class.
    looks = [f"pw-first-{kind.lower()}"] if kind in _LOOKS and part._namespace != "dash_html_components" else []
    dim = ["pw-first-dim"] if given.get("c") == "dimmed" else []
    classes = [*looks, *sizes, *dim, *str(given.get("className") or "").split()]
    if classes:
        yield "class", " ".join(classes)
    style = dict(given.get("style") or {})
    if "fw" in given:
        style["font-weight"] = given["fw"]
    if style:
        yield "style", "; ".join(f"{name}: {value}" for name, value in style.items())
    for name in ("href", "title", "role", "scope", "tabIndex"):
        if name in given and not (name == "title" and kind == "Alert"):
            yield name.lower(), given[name]
    for name, value in given.items():
        if name.startswith(("aria-", "data-")):
            yield name, value


def _way(page: Page, here: Page) -> str:
    current = ' aria-current="page"' if page is here else ""
    return f'<a href="{escape(page.path)}"{current}>{escape(page.label)}</a>'
