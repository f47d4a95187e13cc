"""What surrounds every page: the header, the navigation, light and dark, and the turning of pages."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, set_props

from dashboards.data.stored import Stored
from dashboards.page import Page
from dashboards.parts import notice

log = logging.getLogger(__name__)

_SCHEME: Final = """function(clicks, kept) {
    const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    const now = kept || (dark ? "dark" : "light");
    return clicks ? (now === "dark" ? "light" : "dark") : now;
}"""
_APPLY: Final = """function(theme) {
    document.body.dataset.agThemeMode = theme || "light";
    return theme || "light";
}"""
# A page turns when the URL is not the one that its own controls have just written: a link, Back, Forward.
_TURN: Final = """function(path, search, written) {
    const wanted = path + search;
    if (wanted === written) return window.dash_clientside.no_update;
    return {path: path, search: search};
}"""
# What the pages share of a URL goes along from one to the next; the menu of a narrow screen closes behind a choice.
_LINKS: Final = """function(path, search) {
    const pages = %s, asked = new URLSearchParams(search);
    const here = pages.find(page => page.path === path || (page.of && path.startsWith(page.path + "/")))
        || {title: "perfwatt"};
    document.title = here.title === "perfwatt" ? here.title : here.title + " · perfwatt";
    const hrefs = pages.filter(page => page.label).map(page => {
        const kept = new URLSearchParams([...asked].filter(([key, _]) => page.keys.includes(key)));
        const query = kept.toString();
        return page.path + (query ? "?" + query : "");
    });
    const active = pages.filter(page => page.label).map(page => page.path === here.path || page.name === here.within);
    return [...hrefs, ...active, false];
}"""
_MENU: Final = """function(opened, shell) {
    return {...shell, collapsed: {mobile: !opened}};
}"""
_SHARED: Final = ("window", "until", "site", "host")


def frame(pages: Sequence[Page], stored: Stored, url: str | None = None) -> Any:
    """
    Everything around a page, and in it the page at *url*, where it is known.

    So the first page is there without another question and another answer.
    """
    path, search = ("", "") if url is None else _parts(url)
    shown = [page for page in pages if page.label]
    links: list[Any] = []
    for group in dict.fromkeys(page.group for page in shown):
        links.append(dmc.Text(group, size="xs", c="dimmed", fw=600, className="pw-nav-group"))
        links += [
            dmc.NavLink(label=page.label, href=page.path, id=f"nav-{page.name}", active=False)
            for page in shown
            if page.group == group
        ]
    header = html.Div(
        [
            html.Div(
                [
                    dmc.Burger(id="menu", opened=False, size="sm", hiddenFrom="sm", **{"aria-label": "Pages"}),
                    html.Span("perfwatt", className="pw-brand"),
                ],
                className="pw-header-left",
            ),
            dmc.Button("Light / dark", id="theme-toggle", size="xs", variant="default", n_clicks=0),
        ],
        className="pw-header",
    )
    navigation: dict[str, Any] = {"aria-label": "Pages"}
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="theme", storage_type="local"),
            dcc.Store(id="written", data=None if url is None else path + search),
            dcc.Store(id="turned"),
            html.A("Skip to the content", href="#page", className="pw-skip"),
            dmc.AppShell(
                [
                    dmc.AppShellHeader(header),
                    dmc.AppShellNavbar(links, className="pw-nav", **navigation),
                    dmc.AppShellMain(
                        [
                            html.Div(id="trouble", role="alert"),
                            html.Div(None if url is None else _at(pages, stored, path, search), id="page", tabIndex=-1),
                        ]
                    ),
                ],
                id="shell",
                header={"height": 48},
                navbar={"width": 184, "breakpoint": "sm", "collapsed": {"mobile": True}},
                padding=0,
            ),
        ],
        id="provider",
        theme={"primaryColor": "blue", "fontFamily": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"},
    )


def connect(app: Dash, pages: Sequence[Page], stored: Stored) -> None:
    """Turn the pages and keep the frame in step with the URL."""

    @app.callback(
        Output("page", "children"), Output("trouble", "children"), Input("turned", "data"), prevent_initial_call=True
    )
    async def turn(wanted: dict[str, str]) -> Any:
        # In a thread: the event loop has others to answer.
        return await asyncio.to_thread(_at, pages, stored, wanted["path"], wanted["search"]), None

    named = [
        {
            "path": page.path,
            "label": page.label,
            "title": page.title,
            "name": page.name,
            "within": page.within,
            "of": page.of,
            "keys": [control.key for control in page.controls if control.key in _SHARED],
        }
        for page in pages
    ]
    shown = [page for page in pages if page.label]
    on_client: Any = app.clientside_callback
    on_client(_SCHEME, Output("theme", "data"), Input("theme-toggle", "n_clicks"), State("theme", "data"))
    # What broke is not being worked out any more.
    on_client(
        "function(_) { window.perfwatt.busy('page', false); }",
        Input("trouble", "children"),
        prevent_initial_call=True,
    )
    on_client(_APPLY, Output("provider", "forceColorScheme"), Input("theme", "data"))
    on_client(
        _TURN,
        Output("turned", "data"),
        Input("url", "pathname"),
        Input("url", "search"),
        State("written", "data"),
    )
    on_client(
        _LINKS % json.dumps(named),
        *(Output(f"nav-{page.name}", "href") for page in shown),
        *(Output(f"nav-{page.name}", "active") for page in shown),
        Output("menu", "opened"),
        Input("url", "pathname"),
        Input("url", "search"),
        # A link to the page that is shown changes nothing in the URL, but it too was chosen in the menu.
        *(Input(f"nav-{page.name}", "n_clicks") for page in shown),
    )
    on_client(_MENU, Output("shell", "navbar"), Input("menu", "opened"), State("shell", "navbar"))


def failed(error: Exception) -> None:
    """Say on the page that something in it is broken; what it is stands in the log."""
    log.error("page failed", exc_info=error)
    set_props(
        "trouble",
        {
            "children": notice(
                "This page is broken",
                f"{type(error).__name__} on the server; its log has the traceback. What you see may be incomplete.",
                color="red",
            )
        },
    )


def _at(pages: Sequence[Page], stored: Stored, path: str, search: str) -> Any:
    page = next((page for page in pages if page.holds(path)), None)
    return _lost(path, pages[0]) if page is None else page.layout(stored, search, path)


def _parts(url: str) -> tuple[str, str]:
    """Path and query of a URL, as a browser's location has them."""
    told = urlsplit(url)
    return told.path or "/", f"?{told.query}" if told.query else ""


def _lost(path: str, home: Page) -> Any:
    way = dmc.Anchor(home.label, href=home.path)
    return html.Div(
        [
            dmc.Title("There is no such page", order=1, size="h3"),
            dmc.Text(["There is nothing at ", html.Code(path), ". ", way]),
        ],
        className="pw-stack",
    )
