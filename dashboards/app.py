"""The app: its frame, its pages, its server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards.data import FleetData
from dashboards.pages import fleet

PAGES: Final = (fleet,)
"""The pages, in the order of the navigation; nothing registers itself."""

_INDEX: Final = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""

_SCHEME: Final = """function(clicks, kept) {
    const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    const now = kept || (dark ? "dark" : "light");
    return clicks ? (now === "dark" ? "light" : "dark") : now;
}"""
_APPLY: Final = """function(theme) {
    document.body.dataset.agThemeMode = theme || "light";
    return theme || "light";
}"""


def create(store_root: Path | str, *, data: FleetData | None = None) -> Dash:
    """
    The app over the store at *store_root*, which need not exist yet; `create(...).server` is an ASGI application.

    It asks nothing of any other machine: every script, style and font comes from here.
    """
    source = data or FleetData(store_root)
    # FastAPI's own pages describe the callbacks to whoever asks.
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = Dash(
        __name__,
        server=server,  # type: ignore[arg-type] # the annotation is of before FastAPI
        title="perfwatt",
        update_title="",
        suppress_callback_exceptions=True,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        health_endpoint="healthz",
    )
    app.index_string = _INDEX
    app.layout = _frame()
    for page in PAGES:
        page.register(app, source)

    @app.callback(Output("page", "children"), Input("url", "pathname"), State("url", "search"))
    def turn(path: str, search: str) -> Any:
        page = next((page for page in PAGES if path == page.PATH), None)
        return _lost(path) if page is None else _titled(page.TITLE, page.layout(source, search))

    on_client: Any = app.clientside_callback
    on_client(_SCHEME, Output("theme", "data"), Input("theme-toggle", "n_clicks"), State("theme", "data"))
    on_client(_APPLY, Output("provider", "forceColorScheme"), Input("theme", "data"))
    server.add_middleware(Headers, policy=_policy(app.csp_hashes()))
    return app


def serve(store_root: Path | str, host: str = "127.0.0.1", port: int = 8050) -> None:
    """Serve the pages until interrupted."""
    import uvicorn

    # Not app.run(): it starts a child process, which outlives its parent's SIGTERM.
    uvicorn.run(create(store_root).server, host=host, port=port, log_level="warning")


class Headers:
    """Adds to every answer what keeps a browser from running, framing or guessing anything else."""

    def __init__(self, app: ASGIApp, *, policy: str) -> None:
        self._app = app
        self._added = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with the headers."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._added)
            await send(message)

        await self._app(scope, receive, answer if scope["type"] == "http" else send)


def _policy(hashes: Sequence[str]) -> str:
    scripts = " ".join(f"'{found}'" if not found.startswith("'") else found for found in hashes)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {scripts}",
            # The grid and the charts place their parts by inline styles.
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _frame() -> Any:
    links = [dmc.Anchor(page.NAME, href=page.PATH, size="sm", underline="never", fw=600) for page in PAGES]
    header = dmc.Group(
        [
            dmc.Group([html.Span("perfwatt", className="pw-brand"), *links], gap="lg"),
            dmc.Button("Light / dark", id="theme-toggle", size="xs", variant="default", n_clicks=0),
        ],
        justify="space-between",
        className="pw-header",
    )
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="theme", storage_type="local"),
            html.Header(header),
            html.Main(id="page", className="pw-page"),
        ],
        id="provider",
        theme={"primaryColor": "blue", "fontFamily": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"},
    )


def _titled(title: str, content: Any) -> Any:
    return html.Div([dmc.Title(title, order=1, size="h3", mb="sm"), content])


def _lost(path: str) -> Any:
    return _titled(
        "There is no such page",
        dmc.Text(["There is nothing at ", html.Code(path), ". ", dmc.Anchor("Fleet", href="/")]),
    )
