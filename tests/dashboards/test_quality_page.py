"""The Data quality page: verdicts with their reasons, gaps by reason, and what is chosen."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from collector.store import Store
from dashboards.controls import read
from dashboards.data import quality as data
from dashboards.data.stored import Stored
from dashboards.figures import quality as figures
from dashboards.pages.quality import PAGE
from dashboards.selection import selection_of, span_of
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]
QUERY = "?window=15m&until=2026-03-04T12:00:00Z"


def view(root: Path, query: str = "") -> data.QualityView:
    return data.view(Stored(root), selection_of(read(PAGE.controls, f"{QUERY}{query}")))


def test_the_modelled_device_with_a_gap_is_in_doubt_and_says_why(store_root: Path) -> None:
    rows = {row["device"]: row for row in view(store_root).devices.to_dicts()}
    assert (rows["GPU-a1"]["verdict"], rows["GPU-a1"]["site"]) == ("good", "oslo")
    doubtful = rows["TPU-b1"]
    assert doubtful["verdict"] != "good"
    assert "modelled" in doubtful["reason"]
    assert doubtful["longest_gap_s"] == 155.0


def test_gaps_are_summed_by_reason(store_root: Path, tmp_path: Path) -> None:
    copytree(store_root, tmp_path, dirs_exist_ok=True)
    gone = datetime(2026, 3, 4, 11, 47, 20, tzinfo=UTC)
    for seconds in range(0, 200, 5):
        event = {"host": "node-b1", "kind": "source_lost", "code": "timeout", "source": "test", "device": None}
        Store(tmp_path).write("events", {name: [value] for name, value in event.items()} | {
            "time": [int((gone + timedelta(seconds=seconds)).timestamp()) * 10**9]
        })  # fmt: skip
    (row,) = view(tmp_path).gaps.to_dicts()
    assert (row["reason"], row["gap_s"], row["devices"]) == ("timeout", 155.0, 1)


def test_a_choice_of_places_narrows_all_of_it(store_root: Path) -> None:
    assert set(view(store_root, "&site=oslo").devices["device"]) == {"GPU-a1", "GPU-a2"}
    assert view(store_root, "&host=node-a1").gaps.is_empty()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_device_without_a_counter_is_drawn_hollow(store_root: Path, theme: str) -> None:
    figure = plotted(figures.agreement(view(store_root), theme))
    symbols = {symbol for trace in figure.data for symbol in trace.marker.symbol}
    assert symbols == {"circle-open"}
    assert {trace.name for trace in plotted(figures.verdicts(view(store_root), theme)).data} == {"good", "fair", "poor"}


def test_a_window_that_ends_now_moves_in_steps() -> None:
    now_ns = 1_772_625_600 * 10**9 + 7 * 10**9
    selection = selection_of({"window": "24h", "until": None})
    start, end = span_of(selection, now_ns)
    assert end - start == 86_400 * 10**9
    assert end == now_ns // (900 * 10**9) * (900 * 10**9)
    assert span_of(selection, now_ns + 60 * 10**9) == (start, end)


@pytest.mark.browser
def test_the_page_shows_the_doubtful_first(tab_at: OpenTab) -> None:
    tab = tab_at(f"/quality{QUERY}")
    assert tab.text("#quality-tile-good").startswith("To be trusted 2 devices of 3")
    tab.page.locator("#quality-devices").scroll_into_view_if_needed()
    tab.page.wait_for_selector("#quality-devices .ag-row[row-index='0']")
    assert tab.text("#quality-devices .ag-pinned-left-cols-container .ag-row[row-index='0']") == "TPU-b1"
