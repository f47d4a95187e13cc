"""Capacity and Plan: what the jobs told and what a plan comes to, over a store whose numbers are known."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analytics.fleet_toml import parse_fleet
from analytics.jobs.chain import JOBS
from analytics.jobs.running import Documents, run
from collector.store import Store
from dashboards.controls import Values, read
from dashboards.data import capacity as data
from dashboards.data import plan as plan_data
from dashboards.data.stored import Stored
from dashboards.figures import capacity as figures
from dashboards.figures import plan as plan_figures
from dashboards.pages import capacity, plan
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]
NS = 1_000_000_000
DAYS = 16
END = datetime(2026, 3, 17, tzinfo=UTC)
END_NS = int(END.timestamp()) * NS
FLEET = """
[[site]]
name = "dub"
pue = 1.2
currency = "EUR"
price_per_kwh = 0.1
[[domain]]
name = "row1-a"
rating_w = 1400
lead_days = 90
[[domain]]
name = "row1-b"
rating_w = 1400
lead_days = 90
[[domain]]
name = "row2-a"
rating_w = 1000
[[domain]]
name = "row2-b"
rating_w = 1000
[[rack]]
name = "r1"
feeds = ["row1-a", "row1-b"]
units = 42
hosts = ["n1", "n2"]
sku = "X"
[[rack]]
name = "r2"
feeds = ["row2-a", "row2-b"]
units = 42
sku = "X"
[[sku]]
name = "X"
model = "X"
tdp_w = 300
currency = "EUR"
discount_ratio = 0.1
life_years = 5
[sku.server]
accelerators = 2
rack_units = 4
peak_w = 400
mean_w = 300
nameplate_w = 600
capex = 1000
lead_days = 60
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hosts that draw 10 W more each day, from 500 W on, on feeds of 1,400 W; a row that is empty; a forecast."""
    root = tmp_path_factory.mktemp("planned") / "store"
    made = Store.create(root)
    first_ns = END_NS - DAYS * 86_400 * NS
    times = [first_ns + minute * 60 * NS for minute in range(DAYS * 1440)]
    watts = [500.0 + 10.0 * (minute // 1440) for minute in range(DAYS * 1440)]
    hosts = {
        "host": [name for name in ("n1", "n2") for _ in times],
        "time": times * 2,
        "source": ["bmc"] * 2 * len(times),
        "platform_power_w": watts * 2,
    }
    made.write("host_samples", hosts)
    # What the machines draw is measured at the wall; of their devices a reading every ten minutes is enough.
    few = times[::10]
    devices = {
        "device": [name for name in ("d1", "d2") for _ in few],
        "time": few * 2,
        "source": ["nvml"] * 2 * len(few),
        "host": [name for name in ("n1", "n2") for _ in few],
        "power_w": [300.0] * 2 * len(few),
    }
    made.write("device_samples", devices)
    (root / "fleet.toml").write_text(FLEET, encoding="utf-8")
    (outcome,) = run(
        root,
        jobs=tuple(job for job in JOBS if job.name == "capacity"),
        names=["capacity"],
        documents=Documents(texts={"fleet": FLEET}),
        now_ns=END_NS + 3600 * NS,
    )
    assert outcome.state == "done", outcome.error
    made.write("forecasts", forecasts())
    return root


def forecasts() -> pl.DataFrame:
    quantiles = {f"q{q:02}": 1000.0 + 2 * q for q in (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)}
    rows = [
        {
            "series": f"power/{site}", "time": END_NS, "target": END_NS + hours * 3600 * NS, "horizon_s": hours * 3600,
            "scope": "site", "name": site, "metric": "power_w", **quantiles, "method": method, "loss": loss,
            "baseline_loss": 0.05, "coverage_ratio": 0.8, "outcomes": 900, "history_days": 16.0,
        }
        for site in ("dub", "oslo")
        for hours, method, loss in ((1, "last_value", 0.05), (6, "pooled_model", 0.04), (24, "pooled_model", 0.03))
    ]  # fmt: skip
    moments = [pl.col(name).cast(pl.Datetime("ns")) for name in ("time", "target")]
    return pl.DataFrame(rows).with_columns(*moments, pl.col("horizon_s").cast(pl.Int32))


@pytest.fixture
def stored(root: Path) -> Stored:
    return Stored(root, clock_ns=lambda: END_NS)


@pytest.fixture(scope="module")
def planned_url(root: Path, serving: Callable[..., Any]) -> Iterator[str]:
    with serving(root, lambda: END_NS) as address:
        yield address


def values(query: str = "") -> Values:
    return read(capacity.PAGE.controls, query)


def asked(query: str = "") -> Values:
    return read(plan.PAGE.controls, query)


# ------------------------------------------------------------------------------------------------------------ capacity


def test_nodes_stand_below_what_they_hang_from(stored: Stored) -> None:
    view = data.view(stored, values())
    order = [(row["node"], row["depth"]) for row in view.nodes.iter_rows(named=True)]
    assert order[0] == ("dub", 0)
    assert dict(order)["row1-a"] == 1
    assert order.index(("r1", 2)) == order.index(("row1-a", 1)) + 1


def test_what_is_charted_is_a_share_of_what_is_safe(stored: Stored) -> None:
    view = data.view(stored, values())
    rows = {row["node"]: row for row in view.charted("domains").iter_rows(named=True)}
    # 650 W each on the last day; with one feed lost the other carries both.
    assert rows["row1-a"]["failure_ratio"] == pytest.approx(1300 / 1400)
    assert rows["row1-a"]["load_ratio"] == pytest.approx(650 / 1400)
    assert set(view.charted("racks")["kind"]) <= {"rack"}
    figure = plotted(figures.limits(view, "domains", "light"))
    assert {trace.name for trace in figure.data} == {"load while all stands", "load in the worst failure"}


def test_what_runs_out_by_itself_comes_first_by_date(stored: Stored) -> None:
    view = data.view(stored, values())
    assert {row["node"] for row in view.ahead.iter_rows(named=True)} == {"row1-a", "row1-b"}
    first = view.ahead.row(0, named=True)
    # 20 W a day of the 100 W that are left.
    assert END.replace(tzinfo=None) < first["runway_p10"] < END.replace(tzinfo=None) + timedelta(days=9)
    figure = plotted(figures.runway(view, "dark"))
    assert [trace.name for trace in figure.data if trace.name] == ["power"]


def test_a_date_beyond_what_was_looked_at_is_told_as_later_and_not_left_blank(stored: Stored) -> None:
    content = capacity.PAGE.content(stored, values(), "light")
    found = {row["node"]: row for row in content.grids["nodes"].iter_rows(named=True)}
    horizon = found["dub"]["horizon"]
    assert found["dub"]["runway_p50"] is None
    assert found["dub"]["runway_p50_day"] == f"after {horizon:%Y-%m-%d}"
    assert found["row1-a"]["runway_p10_day"] == f"{found['row1-a']['runway_p10']:%Y-%m-%d}"


def test_the_ledger_adds_up_and_the_next_servers_are_named(stored: Stored) -> None:
    view = data.view(stored, values())
    told = dict(view.stranded.select("cause", "power_w").iter_rows())
    assert sum(watts for cause, watts in told.items() if cause != "installed") == pytest.approx(told["installed"])
    kinds = view.recommendations["kind"].to_list()
    assert {"place", "buy"} <= set(kinds)
    (place,) = view.recommendations.filter(pl.col("kind") == "place").iter_rows(named=True)
    assert place["summary"].startswith("put 2 more servers of X (0.8 kW) on row2-a + row2-b at dub (r2 2)")
    assert data.plan_query(place["query"]) == "?sku=X&count=2&site=dub"
    assert data.plan_query("perfwatt capacity --show cases") is None


def test_a_forecast_says_by_what_and_follows_the_choice(stored: Stored) -> None:
    view = data.view(stored, values())
    assert (view.series, view.forecast.height) == ("power/dub", 3)
    assert data.view(stored, values("?series=power/oslo")).series == "power/oslo"
    content = capacity.PAGE.content(stored, values(), "light")
    words = content.charts["forecast"].words
    assert "By last value at 1 h; pooled model at 6 h to 24 h (20 % to 40 % less error than the best baseline)" in words
    figure = plotted(content.charts["forecast"].figure)
    assert figure.layout.yaxis.title.text == "Power (W)"
    assert {trace.name for trace in figure.data} == {"5 to 95 in 100", "10 to 90 in 100", "median"}


def test_a_site_that_is_not_there_has_no_nodes(stored: Stored) -> None:
    view = data.view(stored, values("?site=oslo"))
    assert (view.nodes.height, view.stranded.height, view.recommendations.height) == (0, 0, 0)


def test_without_capacity_the_page_says_how_to_get_it_or_what_went_wrong(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    told = capacity.PAGE.content(Stored(tmp_path), values(), "light")
    assert "perfwatt jobs run capacity" in str(told.notice)
    run_row = {
        "job": ["capacity"], "start": [0], "time": [NS], "end": [NS], "state": ["skipped"],
        "error": ["dub: 3 days of its power are measured and 7 are needed: 4 more days"],
    }  # fmt: skip
    store.write("job_runs", run_row)
    assert "4 more days" in str(capacity.PAGE.content(Stored(tmp_path), values(), "light").notice)


# ---------------------------------------------------------------------------------------------------------------- plan


def test_a_plan_places_proves_prices_and_tells_the_next_best(stored: Stored) -> None:
    view = plan_data.view(stored, asked("?sku=X&count=2"))
    assert view.plan is not None
    assert (view.plan.status, view.plan.violations) == ("optimal", ())
    placed = {row["rack"]: row["servers"] for row in view.plan.placements.iter_rows(named=True)}
    # 100 W are left on row 1, a server takes 400.
    assert placed == {"r2": 2}
    assert min(view.plan.proof["margin_w"]) == pytest.approx(100.0)
    assert plotted(plan_figures.margins(view, "light")).data
    cases = plan_figures.cases(view)
    assert cases["margin_w"].is_sorted()
    assert set(cases["case"]) >= {"none", "row2-a", "row2-b", "r2: cord to row2-a"}


def test_what_does_not_fit_names_the_conflict_and_shows_as_many_as_do(stored: Stored) -> None:
    view = plan_data.view(stored, asked("?sku=X&count=5"))
    assert view.plan is not None
    assert view.shown is not None
    assert view.plan.status == "infeasible"
    assert {"demand X", "power of row2-b"} <= set(view.plan.conflict)
    assert view.shown.placements["servers"].sum() == 2
    content = plan.PAGE.content(stored, asked("?sku=X&count=5"), "light")
    assert "There is no room for 5 servers of X" in str(content.notice)
    assert "At most 2 fit" in str(content.notice)


def test_where_none_fits_a_tile_says_so(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    large = parse_fleet(FLEET.replace("peak_w = 400", "peak_w = 5000").replace("nameplate_w = 600", ""))
    monkeypatch.setattr(stored, "fleet", lambda: large)
    content = plan.PAGE.content(stored, asked("?sku=X"), "light")
    assert "None fits" in str(content.notice)
    (told,) = content.tiles
    assert "'0'" in str(told)
    assert content.grids["placements"].is_empty()


def test_by_nameplate_fewer_fit(stored: Stored) -> None:
    view = plan_data.view(stored, asked("?sku=X&count=2&power=nameplate"))
    assert view.shown is not None
    assert view.shown.placements["servers"].sum() == 1


def test_a_plan_is_worked_out_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_data.view(stored, asked("?sku=X&count=1"))
    monkeypatch.setattr(plan_data, "power_minutes", lambda *_, **__: pytest.fail("added up again"))
    monkeypatch.setattr(plan_data, "fit", lambda *_, **__: pytest.fail("solved again"))
    plan_data.view(stored, asked("?sku=X&count=1"))


@pytest.mark.parametrize(
    ("fleet", "query", "message"),
    [
        ("", "", "fleet.toml describes no site"),
        ('[[site]]\nname = "s"\n', "", "no [[sku]] of fleet.toml has a [sku.server]"),
        (FLEET, "?sku=Y", "fleet.toml has no [[sku]] 'Y'"),
        (FLEET, "?sku=X&site=nowhere", "leave none that servers may go to"),
    ],
)
def test_what_cannot_be_planned_is_said(tmp_path: Path, fleet: str, query: str, message: str) -> None:
    Store.create(tmp_path)
    (tmp_path / "fleet.toml").write_text(fleet, encoding="utf-8")
    told = plan.PAGE.content(Stored(tmp_path, clock_ns=lambda: END_NS), asked(query), "light")
    assert message in str(told.notice)


def test_a_number_of_servers_is_within_limits(planned_url: str) -> None:
    assert asked("?count=0")["count"] == "1"
    for query, message in (("count=0", "no whole number from 1 to 10000"), ("power=mean", "none of peak, nameplate")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{planned_url}/plan.csv?{query}", timeout=30)
        assert refused.value.code == 400
        assert message in refused.value.read().decode()


# ------------------------------------------------------------------------------------------------------------- browser


@pytest.mark.browser
def test_the_capacity_page_opens_filters_and_leads_to_a_plan(tab_at: OpenTab, planned_url: str) -> None:
    tab = tab_at("/capacity", base=planned_url)
    assert tab.text("#capacity-tile-headroom").startswith("Least headroom 100 W")
    assert "row1-a" in tab.text("#capacity-tile-runway")
    assert "All 4 nodes hold in every single failure" in tab.text("#capacity-limits-words")
    tab.page.get_by_text("racks", exact=True).click()
    tab.page.wait_for_url(re.compile("show=racks"))
    assert tab.page.locator("#capacity-nodes-csv").get_attribute("href").startswith("/capacity/nodes.csv?show=racks")
    with tab.page.expect_download() as found:
        tab.page.locator("#capacity-stranded-csv").click()
    assert "redundancy" in found.value.path().read_text(encoding="utf-8")
    tab.page.locator("#capacity-advice").get_by_role("link", name="Plan it").first.click()
    tab.page.wait_for_url(re.compile(r"/plan\?sku=X&count=2&site=dub"))
    tab.until("document.querySelector('#plan-tile-servers')?.innerText.includes('2')")


@pytest.mark.browser
def test_the_plan_page_answers_and_its_url_asks_the_same_again(tab_at: OpenTab, planned_url: str) -> None:
    tab = tab_at("/plan?sku=X", base=planned_url)
    assert tab.text("#plan-tile-servers").startswith("Placed 1 X in 1 rack of 1 site 400 W")
    tab.page.locator("#plan-count").fill("3")
    tab.page.wait_for_url(re.compile("count=3"))
    tab.until("document.querySelector('#plan-notice').innerText.includes('There is no room for 3 servers of X')")
    assert "power of row2-" in tab.text("#plan-notice")
    again = tab_at(tab.page.url.removeprefix(planned_url), base=planned_url)
    assert again.text("#plan-tile-servers").startswith("Fit, of 3 2 X")
    with again.page.expect_download() as found:
        again.page.locator("#plan-proof-csv").click()
    told = pl.read_csv(found.value.path())
    assert told["margin_w"].min() == pytest.approx(100.0)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
@pytest.mark.parametrize("path", ["/capacity", "/plan?sku=X&count=2", "/plan?sku=X&count=5"])
def test_full_pages_shut_nobody_out(tab_at: OpenTab, planned_url: str, path: str, width: int, scheme: str) -> None:
    tab = tab_at(path, base=planned_url, width=width, scheme=scheme)
    assert tab.barriers() == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_half_of_the_outcomes_do_not_need_is_told_by_what_the_others_do() -> None:
    needs = {"effect_mid": 0.0, "effect_high": 9800.0, "effect_unit": "W"}
    assert capacity._effect(needs) == "up to 9.80 kW"
    assert capacity._effect({**needs, "effect_mid": 4900.0}) == "4.90 kW"
    assert capacity._effect({**needs, "effect_mid": None}) == "–"
