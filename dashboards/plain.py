"""
A page as plain HTML, which a browser shows at once: what it says is there before any script has run.

Scripts of some megabytes take a second or more to load where a machine has other work; the app takes the place of this
page as soon as it stands. A page that does not come filled has nothing to say before.
"""

from collections.abc import Sequence
from html import escape

from dashboards.data.stored import Stored
from dashboards.markup import markup
from dashboards.page import Page


def first(pages: Sequence[Page], stored: Stored, path: str, search: str) -> str:
    """What to show at *path* and *search* until the app stands; empty where that is no page that comes filled."""
    page = next((page for page in pages if page.holds(path)), None)
    if page is None or not page.filled:
        return ""
    links = ""
    for group in dict.fromkeys(one.group for one in pages if one.label):
        links += f'<p class="pw-nav-group pw-note">{escape(group)}</p>'
        links += "".join(_way(one, page) for one in pages if one.label and one.group == group)
    return (
        '<div id="first"><div class="pw-header"><span class="pw-brand">perfwatt</span></div>'
        f'<nav class="pw-nav" aria-label="Pages">{links}</nav>'
        f"<main>{markup(page.plain(stored, search, path), ids=False)}</main></div>"
    )


def _way(page: Page, here: Page) -> str:
    current = ' aria-current="page"' if page is here else ""
    return f'<a href="{escape(page.path)}"{current}>{escape(page.label)}</a>'
