"""
Components of HTML as the text of HTML.

What a page says goes to the browser in this form: as components, each would be taken apart, kept and asked again at
every change of any other.
"""

from collections.abc import Iterator
from html import escape
from typing import Any, Final

from dash.development.base_component import Component

_VOID: Final = frozenset({"br", "hr", "img"})
_ATTRIBUTES: Final = {
    "id": "id",
    "className": "class",
    "href": "href",
    "title": "title",
    "role": "role",
    "scope": "scope",
    "tabIndex": "tabindex",
    "colSpan": "colspan",
    "rowSpan": "rowspan",
}
_FREE: Final = ("aria-", "data-")
_OF_DASH: Final = frozenset({"children", "style", "available_properties", "available_wildcard_properties"})


def markup(part: Any, *, ids: bool = True) -> str:
    """
    A component of HTML, or a text, or several, as HTML; without *ids*, these are left out.

    Raises: TypeError at a component of another kind, or at a property that no attribute stands for.

    >>> from dash import html
    >>> markup(html.P(["5 < 6 ", html.Code("a", className="pw-code")], id="p"))
    '<p id="p">5 &lt; 6 <code class="pw-code">a</code></p>'
    """
    if part is None or isinstance(part, bool):
        return ""
    if isinstance(part, list | tuple):
        return "".join([markup(one, ids=ids) for one in part])
    if not isinstance(part, Component):
        return escape(str(part))
    kind = type(part).__name__
    if part._namespace != "dash_html_components":
        raise TypeError(f"{kind} of {part._namespace} is no component of HTML")
    tag = kind.lower()
    attributes = "".join(
        [f' {name}="{escape(str(value))}"' for name, value in _attributes(part) if ids or name != "id"]
    )
    if tag in _VOID:
        return f"<{tag}{attributes}>"
    return f"<{tag}{attributes}>{markup(getattr(part, 'children', None), ids=ids)}</{tag}>"


def _attributes(part: Component) -> Iterator[tuple[str, object]]:
    # Not `to_plotly_json`, which asks for each property that there may be; in an order that does not change from one
    # process to the next.
    for name, value in sorted(vars(part).items()):
        if name in _ATTRIBUTES:
            yield _ATTRIBUTES[name], value
        elif name.startswith(_FREE):
            yield name, value
        elif name == "style":
            yield "style", "; ".join(f"{_hyphened(word)}: {set_}" for word, set_ in value.items())
        elif not name.startswith("_") and name not in _OF_DASH:
            raise TypeError(f"{name} of {type(part).__name__} has no place in HTML")


def _hyphened(word: str) -> str:
    """A property of CSS as a style sheet has it."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in word)
