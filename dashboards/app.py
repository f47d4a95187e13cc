"""The app: its frame, its pages, its server."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

from dash import Dash
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboards import frame, plain, twins
from dashboards.data.stored import Stored
from dashboards.pages import (
    capacity,
    device,
    efficiency,
    fleet,
    home,
    incident,
    incidents,
    job,
    jobs,
    plan,
    plans,
    quality,
    results,
)
from dashboards.ready import Counted, Requests, keep_ready

PAGES: Final = (
    home.PAGE,
    fleet.PAGE,
    incidents.PAGE,
    incident.PAGE,
    device.PAGE,
    quality.PAGE,
    capacity.PAGE,
    plan.PAGE,
    plans.PAGE,
    efficiency.PAGE,
    jobs.PAGE,
    job.PAGE,
    results.PAGE,
)
"""The pages, in the order of the navigation; the first is the one to begin with."""

# What Dash asks for once its scripts run is asked for while they are still on their way.
_INDEX: Final = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}
<link rel="preload" href="/_dash-layout" as="fetch" crossorigin>
<link rel="preload" href="/_dash-dependencies" as="fetch" crossorigin></head>
<body><!--first-->{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def create(store_root: Path | str, *, stored: Stored | None = None) -> Dash:
    """
    The app over the store at *store_root*, which need not exist yet; `create(...).server` is an ASGI application.

    It asks nothing of any other machine: every script, style and font comes from here.
    """
    source = stored or Stored(store_root)
    # FastAPI's own pages describe the callbacks to whoever asks.
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    twins.serve(server, PAGES, source)
    app = _App(
        __name__,
        server=server,  # type: ignore[arg-type] # the annotation is of before FastAPI
        title="perfwatt",
        update_title="",
        suppress_callback_exceptions=True,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        health_endpoint="healthz",
        on_error=frame.failed,
    )
    app.index_string = _INDEX
    app.first = partial(plain.first, PAGES, source)
    app.layout = lambda: frame.frame(PAGES, source, _asked_from(app))
    frame.connect(app, PAGES, source)
    for page in PAGES:
        page.register(app, source)
    # Dash finds its assets at the first request for "/" or its own paths: whoever opens another page first would get it
    # without styles.
    app._setup_server()  # type: ignore[no-untyped-call] # Dash is half typed
    server.add_middleware(Headers, policy=_policy(app.csp_hashes()))
    return app


def create_ready(stored: Stored, stop: Event) -> Dash:
    """The app over *stored*, and until *stop* in the background what people will ask it for."""
    requests = Requests()
    # Home first: it is worked out while the app comes together.
    keep_ready(stored, PAGES, requests, stop)
    app = create(stored.root, stored=stored)
    app.server.add_middleware(Counted, requests=requests)
    return app


def serve(
    store_root: Path | str, host: str = "127.0.0.1", port: int = 8050, *, alertmanagers: Sequence[str] = ()
) -> None:
    """Serve the pages until interrupted; *alertmanagers* are asked what they know of an incident."""
    import uvicorn

    # Not app.run(): it starts a child process, which outlives its parent's SIGTERM.
    stored, stop = Stored(store_root, alertmanagers=alertmanagers), Event()
    app = create_ready(stored, stop)
    try:
        uvicorn.run(app.server, host=host, port=port, log_level="warning")
    finally:
        stop.set()


class _App(Dash):
    """Dash, whose first answer says already what the page does."""

    first: Callable[[str, str], str]

    def interpolate_index(self, **parts: str) -> str:  # type: ignore[override] # Dash names them, as words
        """The first answer, with the page at its address as plain HTML."""
        index: str = super().interpolate_index(**parts)  # type: ignore[no-untyped-call] # Dash is half typed
        asked = self.backend.request_adapter()
        query = str(asked.args)
        # Only now: what a page says is no template.
        return index.replace("<!--first-->", self.first(asked.path, f"?{query}" if query else ""), 1)


def _asked_from(app: Dash) -> str | None:
    """The address of the page that asks for the layout, where one does and says so."""
    if not app.backend.has_request_context():
        return None
    found: str | None = app.backend.request_adapter().headers.get("referer")
    return found


class Headers:
    """Adds to every answer what keeps a browser from running, framing or guessing anything else."""

    def __init__(self, app: ASGIApp, *, policy: str) -> None:
        self._app = app
        self._added = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            # Its own pages tell where they are: what asks for the layout is at the page that it is to show.
            "Referrer-Policy": "same-origin",
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
