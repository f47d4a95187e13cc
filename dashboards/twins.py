"""The tables of the pages as programs take them: each page's URL with ``.csv`` or ``.json`` at the end of its path."""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from analytics.answers import answer_of
from collector.errors import ConfigError, TelemetryError
from collector.output import Format, Output
from dashboards.controls import read
from dashboards.data.stored import Stored
from dashboards.page import Page

_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.JSON: "application/json"}


def serve(server: FastAPI, pages: Sequence[Page], stored: Stored) -> None:
    """Answer ``/PAGE.csv``, ``/PAGE/TABLE.csv`` and the same with ``.json``; the query is the page's own."""
    for page in pages:
        for at, name in enumerate(page.twins):
            for form in _TYPES:
                paths = [f"/{page.name}/{name}.{form.value}", *([f"/{page.name}.{form.value}"] if at == 0 else [])]
                for path in paths:
                    server.add_api_route(path, _twin(page, name, form, stored), methods=["GET"])


def _twin(page: Page, name: str, form: Format, stored: Stored):  # type: ignore[no-untyped-def]
    # Not async: the server runs it in a thread, and the event loop goes on.
    def answer(request: Request) -> Response:
        try:
            values = read(page.controls, request.url.query, strict=True)
            fields, rows = answer_of(page.twins[name](stored, values))
        except ConfigError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        except TelemetryError as error:
            return PlainTextResponse(f"{error}\n", status_code=500)
        text = Output(format=form).text(f"perfwatt.{page.name}.{name}/1", fields, rows)
        shown = f'attachment; filename="perfwatt-{page.name}-{name}.csv"' if form is Format.CSV else "inline"
        return Response(
            text, media_type=_TYPES[form], headers={"Content-Disposition": shown, "Cache-Control": "no-store"}
        )

    return answer
