"""The Efficiency page: the funnel and its waste add up, the league follows the choice, money where there is a price."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from dashboards.controls import Values, read
from dashboards.data import efficiency as data
from dashboards.data.stored import Stored
from dashboards.figures import efficiency as figures
from dashboards.pages.efficiency import PAGE
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]
QUERY = "?window=15m&until=2026-03-04T12:00:00Z"


@pytest.fixture
def stored(store_root: Path) -> Stored:
    return Stored(store_root)


def values(query: str = "") -> Values:
    return read(PAGE.controls, f"{QUERY}{query}")


def steps(view: data.EfficiencyView) -> dict[str, dict[str, Any]]:
    return {row["step"]: row for row in view.funnel.to_dicts()}


def test_each_step_of_the_funnel_is_the_one_before_less_what_it_loses(stored: Stored) -> None:
    found = list(steps(data.view(stored, values())).values())
    assert [row["step"] for row in found] == ["total", "allocated", "active", "effective"]
    for before, after in pairwise(found):
        assert before["device_h"] - after["lost_device_h"] == pytest.approx(after["device_h"])
        assert before["energy_j"] - after["lost_energy_j"] == pytest.approx(after["energy_j"])


def test_what_nobody_held_is_the_waste_and_a_filter_leaves_it_out(stored: Stored) -> None:
    # Of three devices one is held, a quarter busy: two are unallocated, the third is at low activity.
    view = data.view(stored, values())
    causes = {row["cause"]: row for row in view.waste.to_dicts()}
    assert causes["unallocated"]["devices"] == 2
    assert causes["underused"]["devices"] == 1
    assert causes["underused"]["energy_j"] == pytest.approx(300 * 895)
    dallas = data.view(stored, values("&site=dallas"))
    assert {row["cause"] for row in dallas.waste.to_dicts()} <= {"unallocated", "unmeasured", "failed"}
    assert steps(dallas)["allocated"]["devices"] == 0.0


def test_a_league_is_of_what_was_chosen_and_says_why_nothing_is_ranked(stored: Stored) -> None:
    for by, column in data.PER.items():
        view = data.view(stored, values(f"&by={by}"))
        assert column in view.league.columns
    view = data.view(stored, values("&by=site&measure=token"))
    (row,) = view.league.filter(view.league["site"] == "oslo").to_dicts()
    assert row["tokens"] == pytest.approx(1000 * 895)
    assert (row["rank"], "device-hours" in row["unranked"]) == (None, True)
    assert data.view(stored, values("&measure=step")).league["steps"].drop_nulls().is_empty()


def test_money_is_shown_where_fleet_toml_has_a_price_and_nowhere_else(store_root: Path, tmp_path: Path) -> None:
    assert data.view(Stored(store_root), values()).funnel_cost.is_empty()
    copytree(store_root, tmp_path, dirs_exist_ok=True)
    fleet = (
        (tmp_path / "fleet.toml")
        .read_text()
        .replace('name = "oslo"', 'name = "oslo"\ncurrency = "NOK"\nprice_per_kwh = 2')
    )
    (tmp_path / "fleet.toml").write_text(fleet)
    view = data.view(Stored(tmp_path), values())
    total = view.funnel_cost.filter(view.funnel_cost["step"] == "total").to_dicts()
    assert [(row["currency"], row["cost"]) for row in total] == [("NOK", pytest.approx(700 * 895 / 3.6e6 * 2))]


def test_what_takes_long_is_worked_out_once_whatever_is_chosen(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    data.view(stored, values())
    monkeypatch.setattr(data, "read_ledger", lambda *_, **__: pytest.fail("worked out again"))
    data.view(stored, values("&by=team&measure=sample&against=first+token&site=oslo"))


@pytest.mark.parametrize("against", data.AGAINST)
def test_axes_say_what_they_are(stored: Stored, against: str) -> None:
    view = data.view(stored, values(f"&against={against.replace(' ', '+')}"))
    figure = plotted(figures.front(view, "light"))
    if figure.data:
        assert figure.layout.yaxis.title.text == "Energy per token (J/token)"
        assert "(tokens/s)" in figure.layout.xaxis.title.text or "(s)" in figure.layout.xaxis.title.text
    else:
        assert "no tokens with energy" in figure.layout.annotations[0].text


@pytest.mark.browser
def test_the_page_shows_the_funnel_and_what_to_do(tab_at: OpenTab) -> None:
    tab = tab_at(f"/efficiency{QUERY}")
    assert "−2.0: held by nobody, or failed" in tab.text("#efficiency-funnel")
    assert "at low activity: a larger batch" in tab.text("#efficiency-advice")
    assert "fleet.toml tells no price" in tab.text("#efficiency-tile-cost")
    assert "unallocated" in tab.text("#efficiency-waste-words")
    tab.page.get_by_text("site", exact=True).click()
    tab.page.wait_for_url(re.compile("by=site"))
    tab.page.locator("#efficiency-league").scroll_into_view_if_needed()
    tab.until("document.querySelector('#efficiency-league').innerText.includes('oslo')")
    assert (
        tab.page.locator("#efficiency-league-csv")
        .get_attribute("href")
        .endswith("&by=site&until=2026-03-04T12%3A00%3A00Z")
    )
