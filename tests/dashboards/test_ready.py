"""What people ask for is there before they do."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest

from dashboards import ready
from dashboards.app import PAGES
from dashboards.controls import read
from dashboards.data import efficiency
from dashboards.data.stored import Stored
from dashboards.pages import efficiency as page
from dashboards.pages import jobs
from tests.dashboards.conftest import END_NS

NS = 10**9


class Clock:
    def __init__(self) -> None:
        self.ns = END_NS

    def __call__(self) -> int:
        return self.ns


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The stretches that are read from here on."""
    spans: list[tuple[int, int]] = []
    read_ = efficiency._read

    def spy(stored: Stored, key: object, start_ns: int, end_ns: int) -> Any:
        spans.append((start_ns, end_ns))
        return read_(stored, key, start_ns, end_ns)

    monkeypatch.setattr(efficiency, "_read", spy)
    return spans


def test_a_page_that_was_prepared_is_not_worked_out_when_it_is_opened(
    store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, spans = Stored(store_root, clock_ns=Clock()), counted(monkeypatch)
    ready.prepare(stored, page.PAGE)
    assert len(spans) == 1
    page.PAGE.content(stored, read(page.PAGE.controls, ""), "dark")
    jobs.PAGE.content(stored, read(jobs.PAGE.controls, ""), "light")
    assert len(spans) == 1


def test_a_window_that_somebody_looked_at_follows_the_clock_for_an_hour(
    store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    stored, spans = Stored(store_root, clock_ns=clock), counted(monkeypatch)
    page.PAGE.content(stored, read(page.PAGE.controls, "?window=24h"), "light")
    ready.refresh(stored)
    assert len(spans) == 1
    clock.ns += 900 * NS
    ready.refresh(stored)
    assert [end - start for start, end in spans] == [86_400 * NS] * 2
    assert spans[1][1] - spans[0][1] == 900 * NS
    page.PAGE.content(stored, read(page.PAGE.controls, "?window=24h"), "light")
    assert len(spans) == 2
    clock.ns += 3601 * NS
    ready.refresh(stored)
    assert len(spans) == 2


def test_what_cannot_be_prepared_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fleet.toml").write_text("[[site]]\nnme = 'x'\n", encoding="utf-8")
    caplog.set_level("INFO", logger="dashboards.ready")
    for one in PAGES:
        ready.prepare(Stored(tmp_path, clock_ns=Clock()), one)
    assert {record.page for record in caplog.records} >= {"home", "plan", "efficiency"}  # type: ignore[attr-defined]


def test_what_is_kept_ready_ends_with_the_server(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "BEGIN_S", 0.0)
    stored, stop = Stored(store_root, clock_ns=Clock()), Event()
    thread = ready.keep_ready(stored, (page.PAGE,), stop)
    while not stored.wanted(60):
        assert thread.is_alive()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
