"""What people ask for is there before they do."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from collector.store import Store
from dashboards import ready
from dashboards.app import PAGES
from dashboards.controls import read
from dashboards.data import efficiency, home
from dashboards.data.stored import Stored
from dashboards.pages import efficiency as page
from dashboards.pages import jobs
from tests.dashboards import told
from tests.dashboards.conftest import END_NS

NS = 10**9


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "QUIET_S", 0.0)


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
    ready.refresh(stored, ready.Requests(), Event())
    assert len(spans) == 1
    clock.ns += 900 * NS
    ready.refresh(stored, ready.Requests(), Event())
    assert [end - start for start, end in spans] == [86_400 * NS] * 2
    assert spans[1][1] - spans[0][1] == 900 * NS
    page.PAGE.content(stored, read(page.PAGE.controls, "?window=24h"), "light")
    assert len(spans) == 2
    clock.ns += 3601 * NS
    ready.refresh(stored, ready.Requests(), Event())
    assert len(spans) == 2


def test_what_cannot_be_prepared_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fleet.toml").write_text("[[site]]\nnme = 'x'\n", encoding="utf-8")
    caplog.set_level("INFO", logger="dashboards.ready")
    for one in PAGES:
        ready.prepare(Stored(tmp_path, clock_ns=Clock()), one)
    assert {record.page for record in caplog.records} >= {"home", "plan", "efficiency"}  # type: ignore[attr-defined]


def test_what_is_kept_ready_ends_with_the_server(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, stop = Stored(store_root, clock_ns=Clock()), Event()
    threads = ready.keep_ready(stored, (page.PAGE,), ready.Requests(), stop)
    while not stored.wanted(60) or stored.prepared("home", 60) is None:
        assert all(thread.is_alive() for thread in threads)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_nothing_is_begun_while_somebody_waits_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "QUIET_S", 0.01)
    requests, stop = ready.Requests(), Event()
    assert requests.quiet(stop)
    requests.began()
    waiting = ThreadPoolExecutor(1)
    quiet = waiting.submit(requests.quiet, stop)
    with pytest.raises(TimeoutError):
        quiet.result(0.2)
    requests.ended()
    assert quiet.result(10)
    requests.began()
    quiet = waiting.submit(requests.quiet, stop)
    stop.set()
    assert not quiet.result(10)


def test_where_many_look_it_is_begun_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "PATIENCE_S", 0.05)
    requests = ready.Requests()
    requests.began()
    assert requests.quiet(Event())


def test_home_shows_what_was_prepared_while_jobs_go_on(told_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(told_root, tmp_path / "store")
    stored = Stored(root, clock_ns=lambda: told.NOW_NS)
    ready.renew(stored)
    before = home.view(stored, {})
    later = [{**told.HEADROOM[0], "time": told.END + timedelta(hours=6)}]
    store = Store(root)
    store.write("headroom", told.framed(store, "headroom", later))
    assert home.view(stored, {}) is before
    assert home.view(stored, {"site": ("oslo",)}).standings is before.standings
    ready.renew(stored)
    assert home.view(stored, {}).tree.height < before.tree.height
