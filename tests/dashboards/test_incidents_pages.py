"""The pages of incidents: filters, and one incident with the series that show it."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collector.errors import ConfigError
from collector.store import Store
from dashboards.controls import Values, read
from dashboards.data import incidents as data
from dashboards.data.stored import Stored
from dashboards.figures import incidents as figures
from dashboards.pages import incident, incidents
from tests.dashboards import told
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]


@pytest.fixture
def stored(told_root: Path) -> Stored:
    return Stored(told_root, clock_ns=lambda: told.NOW_NS)


def values(query: str = "") -> Values:
    return read(incidents.PAGE.controls, query, strict=True)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["i2", "i1"]),
        ("state=past", ["i3"]),
        ("state=all", ["i2", "i1", "i3"]),
        ("state=all&severity=critical", ["i2"]),
        ("state=all&site=oslo", ["i1", "i3"]),
        ("state=all&host=node-b1", ["i2"]),
        ("state=all&kind=throttle_thermal&kind=power_brake", ["i2", "i3"]),
        ("state=all&rule=throttle_thermal", ["i3"]),
    ],
)
def test_each_filter_narrows(stored: Stored, query: str, found: list[str]) -> None:
    assert data.view(stored, values(query)).incidents["incident"].to_list() == found


def test_what_is_open_is_shown_however_long_ago_it_was_seen(tmp_path: Path, samples: pl.DataFrame) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples)
    long_ago = told.END - timedelta(days=40)
    rows = [{**row, "last": long_ago, "start": long_ago} for row in told.INCIDENTS]
    store.write("incidents", told.framed(store, "incidents", rows))
    assert data.view(Stored(tmp_path), values("state=all&window=30d")).incidents.height == 2
    assert data.view(Stored(tmp_path), values("state=all&window=all")).incidents.height == 3


def test_the_last_word_on_an_incident_counts(tmp_path: Path, samples: pl.DataFrame) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples)
    over = {**told.INCIDENTS[0], "state": "resolved", "time": told.END + timedelta(hours=1)}
    store.write("incidents", told.framed(store, "incidents", [told.INCIDENTS[0], over]))
    assert data.view(Stored(tmp_path), values()).incidents.is_empty()
    view = data.incident(Stored(tmp_path), "i1")
    assert view is not None
    assert view.history["state"].to_list() == ["open", "resolved"]


def test_an_incident_is_shown_by_what_its_rule_looked_at(stored: Stored) -> None:
    view = data.incident(stored, "i3")
    assert view is not None
    (first,) = view.evidence
    assert (first.rule, first.limits) == ("throttle_thermal", {"limit": 0.2, "clear": 0.05})
    assert first.title == "Share of the time: throttle thermal"
    assert first.series["value"].max() == pytest.approx(0.5)
    assert first.series["subject"].unique().to_list() == ["GPU-a1"]
    assert view.power["value"].to_list() == pytest.approx([310.0] * view.power.height)
    assert plotted(figures.power(view, "light")).data
    figure = plotted(figures.evidence(view, first, "light"))
    assert [shape.y0 for shape in figure.layout.shapes if shape.type == "line"] == [0.2, 0.05]


def test_a_rule_of_the_stores_own_file_is_what_it_was_held_against(
    tmp_path: Path, samples: pl.DataFrame, told_root: Path
) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples)
    told.fill(store)
    store.write("device_rollups", told.framed(store, "device_rollups", told.hot()))
    rules = tmp_path / "rules.toml"
    rules.write_text('[[threshold]]\nname = "throttle_thermal"\nraise_above = 0.4\n', encoding="utf-8")
    view = data.incident(Stored(tmp_path), "i3")
    assert view is not None
    assert view.evidence[0].limits["limit"] == 0.4
    rules.write_text("[[threshold]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rules\.toml"):
        data.incident(Stored(tmp_path), "i3")


def test_an_incident_that_nobody_knows_is_said_to_be_so(stored: Stored) -> None:
    content = incident.PAGE.content(stored, {"id": "none"}, "light")
    assert "There is no incident none" in str(content.notice)
    assert "i2" in str(content.notice)
    assert incident.PAGE.twins["evidence"](stored, {"id": "none"}).is_empty()


def test_without_incidents_it_says_which_command_finds_them(tmp_path: Path, samples: pl.DataFrame) -> None:
    Store.create(tmp_path).write("device_samples", samples)
    content = incidents.PAGE.content(Stored(tmp_path), values(), "light")
    assert "perfwatt jobs run incidents" in str(content.notice)


@pytest.mark.browser
def test_from_the_table_to_what_shows_it(tab_at: OpenTab, told_url: str) -> None:
    tab = tab_at("/incidents", base=told_url)
    assert tab.text("#incidents-tile-count").startswith("Incidents 2 2 open")
    tab.page.get_by_text("all", exact=True).first.click()
    tab.until("document.querySelector('#incidents-tile-count')?.innerText.includes('3')")
    tab.page.wait_for_url(re.compile("state=all"))
    with tab.page.expect_download() as download:
        tab.page.locator("#incidents-incidents-csv").click()
    assert pl.read_csv(download.value.path())["incident"].to_list() == ["i2", "i1", "i3"]
    tab.page.locator("#incidents-incidents").get_by_role("link", name="i3").click()
    tab.page.wait_for_url(re.compile(r"/incident\?id=i3"))
    tab.until("document.querySelector('#incident-facts')?.innerText.includes('Check fans')")
    tab.filled()
    assert "The line is its limit, 0.2" in tab.text("#incident-evidence-words")
    assert "over, so perfwatt incidents push ends it" in tab.text("#incident-facts")


@pytest.mark.browser
def test_from_home_to_the_incident(tab_at: OpenTab, told_url: str) -> None:
    tab = tab_at("/", base=told_url)
    tab.page.get_by_text("held and idle").click()
    tab.page.wait_for_url(re.compile(r"/incident\?id=i1"))
    tab.until("document.querySelector('#incident-tile-cost')?.innerText.includes('0.24')")
    assert "firing from perfwatt incidents push on" in tab.text("#incident-facts")
