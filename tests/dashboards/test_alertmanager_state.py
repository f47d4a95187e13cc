"""What the Incident page says of an Alertmanager: by a server that answers as one, slowly, wrongly or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from cli import app
from dashboards.data.alertmanager import alert_of
from dashboards.data.stored import Stored
from dashboards.pages import incident
from tests.dashboards import told

SILENCED = {
    "labels": {"incident": "i1"},
    "receivers": [{"name": "on-call"}],
    "status": {"state": "suppressed", "silencedBy": ["s-17"], "inhibitedBy": []},
}


@contextmanager
def answering(body: bytes, asked: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def fact(root: Path, url: str) -> str:
    stored = Stored(root, clock_ns=lambda: told.NOW_NS, alertmanagers=[url])
    facts: Any = incident.PAGE.content(stored, {"id": "i1"}, "light").slots["facts"]
    return str(facts)


def test_a_silence_is_told_with_its_id_and_who_would_be_told(store_root: Path) -> None:
    asked: list[str] = []
    with answering(json.dumps([SILENCED]).encode(), asked) as url:
        assert f"{url}: suppressed to on-call, silenced by s-17" in fact(store_root, url)
    assert parse_qs(urlsplit(asked[0]).query) == {"filter": ['incident="i1"']}


def test_what_was_never_handed_over_or_has_ended_is_absent(store_root: Path) -> None:
    with answering(b"[]", []) as url:
        assert f"{url} has no alert of it" in fact(store_root, url)


@pytest.mark.parametrize("body", [b"<html>", b'{"error": 1}'])
def test_who_answers_as_no_alertmanager_does_is_named(store_root: Path, body: bytes) -> None:
    with answering(body, []) as url:
        assert f"{url} cannot be asked" in fact(store_root, url)


def test_who_does_not_answer_leaves_the_page_whole(store_root: Path) -> None:
    with answering(b"[]", []) as url:
        pass
    assert alert_of(url, "i1").state == "unreachable"
    assert "End the job" in fact(store_root, url)


def test_an_address_that_is_none_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dashboard", "--store", str(tmp_path), "--alertmanager", "file:///etc/passwd"])
    assert result.exit_code == 2
    assert "'file:///etc/passwd' is no address" in str(result.stderr) + str(result.exception)
