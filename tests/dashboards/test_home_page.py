"""The Home page: what jobs told, against what was worked out by hand; and what it says where they told nothing."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collector.store import Store
from dashboards.data import home as data
from dashboards.data.derived import standing
from dashboards.data.stored import Stored
from dashboards.pages import home
from tests.dashboards import told

OpenTab = Callable[..., Any]


@pytest.fixture
def stored(told_root: Path) -> Stored:
    return Stored(told_root, clock_ns=lambda: told.NOW_NS)


def test_the_figures_add_up_by_hand(stored: Stored) -> None:
    found = data.view(stored, {}).figures
    # 700 W of accelerators and 100 W of their host, times a PUE of 1.25, and 100 W in Dallas, whose PUE nobody knows.
    assert found.power_w == pytest.approx(800 * 1.25 + 100)
    assert found.accelerators_w == pytest.approx(800)
    assert (found.devices, found.devices_now, found.modelled_ratio) == (3, 3, pytest.approx(1 / 8))
    # The day began twelve hours ago; Dallas has no price, so the cost is of less than all.
    assert found.today_j == pytest.approx(1100 * 12 * 3600)
    assert found.today_cost is not None
    assert found.today_cost.amount == pytest.approx(1.0 * 12 * 0.2)
    assert not found.today_cost.complete
    assert found.joules_per_token == pytest.approx(0.7)
    assert found.joules_per_token_before is None
    assert (found.total, found.allocated, found.active) == pytest.approx((3.0, 2.0, 1.0))
    # Idle and held by nobody: 400 W in Oslo, which has a price.
    assert found.waste is not None
    assert found.waste.amount == pytest.approx(0.4 * 24 * 0.2 * data.MONTH_DAYS)
    assert found.waste_j == pytest.approx(500 * 86_400 * data.MONTH_DAYS)
    assert found.pue == pytest.approx(1.25)
    assert found.pue_of == {"oslo": pytest.approx(1.25)}


def test_a_choice_of_sites_narrows_every_part(stored: Stored) -> None:
    view = data.view(stored, {"site": ("dallas",)})
    assert view.figures.power_w == pytest.approx(100)
    assert view.figures.joules_per_token is None
    assert view.incidents["incident"].to_list() == ["i2"]
    assert view.tree.is_empty()
    assert view.decisions.is_empty()


def test_each_node_has_its_load_now_and_its_feed_loss_limit(stored: Stored) -> None:
    tree = data.view(stored, {}).tree
    assert tree["node"].to_list() == ["oslo", "oslo-a", "oslo-b"]
    assert tree["depth"].to_list() == [0, 1, 1]
    # The rack's 800 W are shared by its two feeds; the site has its PUE on top.
    assert tree["load_now_w"].to_list() == pytest.approx([1000.0, 400.0, 400.0])
    # With one feed lost the other carries twice as much, so half of 1,600 W is the limit of each.
    assert tree["feed_loss_w"].to_list() == [None, 800.0, 800.0]


def test_what_waits_for_another_node_does_not_run_out_by_itself(stored: Stored) -> None:
    view = data.view(stored, {})
    assert view.ahead["node"].to_list() == ["oslo-a"]
    assert view.decisions["recommendation"].to_list() == ["r2", "r1"]
    assert view.decisions["deadline"].to_list() == [datetime(2026, 1, 31), None]


def test_what_a_job_tells_no_more_is_not_told(tmp_path: Path, samples: pl.DataFrame) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples)
    told.fill(store)
    later = [{**told.HEADROOM[0], "time": told.END + timedelta(hours=6)}]
    store.write("headroom", told.framed(store, "headroom", later))
    view = data.view(Stored(tmp_path, clock_ns=lambda: told.NOW_NS), {})
    assert view.tree["node"].to_list() == ["oslo"]
    assert view.ahead.is_empty()


@pytest.mark.parametrize(
    ("runs", "state", "says"),
    [
        ([], "never", "Not worked out yet"),
        ([told.ran("capacity")], "made", ""),
        ([told.ran("capacity", told.END - timedelta(days=3))], "old", "readings came in for 3 d since"),
        (
            [told.ran("capacity", told.END - timedelta(days=3)), told.ran("capacity", state="failed", error="too few")],
            "failed",
            "Could not be worked out: too few",
        ),
        ([told.ran("capacity", told.END - timedelta(hours=9))], "made", ""),
    ],
)
def test_how_a_table_stands(
    tmp_path: Path, samples: pl.DataFrame, runs: list[dict[str, Any]], state: str, says: str
) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples)
    if runs:
        store.write("job_runs", told.framed(store, "job_runs", runs))
    found = standing(Stored(tmp_path), "headroom")
    assert (found.state, found.command) == (state, "perfwatt jobs run capacity")
    assert says in found.says
    assert bool(found.says) == bool(says)


def test_without_its_tables_each_part_says_which_command_makes_them(tmp_path: Path, samples: pl.DataFrame) -> None:
    Store.create(tmp_path).write("device_samples", samples)
    content = home.PAGE.content(Stored(tmp_path, clock_ns=lambda: told.NOW_NS), {"site": ()}, "light")
    for tile in content.tiles:
        assert "perfwatt jobs run energy" in str(tile), tile.id
    assert "perfwatt jobs run incidents" in str(content.slots["wrong"])
    for part in ("tree", "ahead", "decisions"):
        assert "perfwatt jobs run capacity" in str(content.slots[part]), part


@pytest.mark.browser
def test_it_opens_on_what_matters_and_every_tile_leads_on(tab_at: OpenTab, told_url: str) -> None:
    tab = tab_at("/", base=told_url)
    assert tab.page.title() == "The fleet now · perfwatt"
    assert tab.text("#home-tile-power").startswith("Fleet power 1.10 kW accelerators 800 W 3 of 3 devices read")
    assert "oslo-a" in tab.text("#home-tree")
    assert "without oslo-b" in tab.text("#home-tree")
    # The most severe first.
    assert tab.page.locator("#home-wrong .pw-badge").all_inner_texts() == ["critical", "warning"]
    assert "So far 1.20 kWh wasted, 0.24 EUR." in tab.text("#home-wrong")
    assert "2026-05-01 – 2026-08-01 – after 2027-03-04" in tab.text("#home-ahead")
    assert "overdue since 2026-01-31" in tab.text("#home-decisions")
    ways = [link.get_attribute("href") for link in tab.page.locator(".pw-tile a, #home-ahead a, #home-tree a").all()]
    assert "/capacity?site=oslo" in ways
    for href in ways:
        assert href is not None
        tab.page.goto(f"{told_url}{href}")
        tab.filled()
        assert tab.page.locator("h1").inner_text() != "There is no such page"


@pytest.mark.browser
def test_a_site_is_chosen_and_the_url_says_so(tab_at: OpenTab, told_url: str) -> None:
    tab = tab_at("/", base=told_url)
    tab.page.locator("#home-site").click()
    tab.page.get_by_role("option", name="dallas").click()
    tab.until("document.querySelector('#home-tile-power')?.innerText.includes('100')")
    tab.page.wait_for_url(re.compile(r"/\?site=dallas$"))
    assert tab.page.locator("#home-wrong-csv").get_attribute("href") == "/home/wrong.csv?site=dallas"
    with tab.page.expect_download() as download:
        tab.page.locator("#home-wrong-csv").click()
    rows = pl.read_csv(download.value.path())
    assert rows["incident"].to_list() == ["i2"]
