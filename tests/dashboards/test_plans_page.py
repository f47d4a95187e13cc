"""Plans of several periods: the page answers as the command does, and says why where there is none."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import cli
from analytics.fleet_toml import parse_fleet
from analytics.planning.request import parse_plan, request_of
from analytics.planning.result import table
from collector.store import Store
from dashboards.controls import Values, read
from dashboards.data import plans as data
from dashboards.data.stored import Stored
from dashboards.pages import plans
from tests.dashboards.conftest import Serving
from tests.dashboards.plotted import plotted
from tests.dashboards.test_capacity_pages import DAYS, END_NS, FLEET, NS

OpenTab = Callable[..., Any]
PLAN = """
start = 2026-06-01
periods = 3
period_days = 60
currency = "EUR"
discount_ratio = 0.08
budget = [1500, 0, 1000]
budget_carries = true
[[demand]]
name = "chat"
sku = "X"
amount = [0, 1, 1]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hosts that draw 550 W each on two feeds of 1,400 W; a row that is empty; a plan for it."""
    root = tmp_path_factory.mktemp("plans") / "store"
    made = Store.create(root)
    times = [END_NS - DAYS * 86_400 * NS + minute * 60 * NS for minute in range(DAYS * 1440)]
    hosts = {
        "host": [name for name in ("n1", "n2") for _ in times], "time": times * 2, "source": ["bmc"] * 2 * len(times),
        "platform_power_w": [550.0] * 2 * len(times),
    }  # fmt: skip
    made.write("host_samples", hosts)
    (root / "fleet.toml").write_text(FLEET, encoding="utf-8")
    (root / "plan.toml").write_text(PLAN, encoding="utf-8")
    return root


@pytest.fixture
def stored(root: Path) -> Stored:
    return Stored(root, clock_ns=lambda: END_NS)


def asked(query: str = "") -> Values:
    return read(plans.PAGE.controls, query)


def test_the_page_answers_what_the_command_does(root: Path, stored: Stored) -> None:
    view = data.view(stored, asked())
    assert (view.name, view.why) == ("plan", None)
    assert view.plan is not None
    words = ["plan", str(root / "plan.toml"), "--store", str(root), "-o", "json"]
    for show in ("placements", "periods", "proof", "binding"):
        ran = CliRunner().invoke(cli.app, [*words, "--show", show])
        assert ran.exit_code == 0, ran.stderr
        told = json.loads(ran.stdout)["rows"]
        shown = plans.PAGE.twins[show](stored, asked())
        assert len(told) == shown.height > 0
        for column in ("rack", "period", "servers", "cost", "margin_w", "case", "node", "constraint"):
            if column in shown.columns:
                assert [row[column] for row in told] == pytest.approx(shown[column].to_list()), column


def test_periods_add_up_to_the_plan_and_to_what_may_be_spent(stored: Stored) -> None:
    view = data.view(stored, asked())
    assert view.plan is not None
    rows = view.periods
    assert rows["servers"].to_list() == [0, 1, 1]
    assert rows["standing"].to_list() == [0, 1, 2]
    assert rows["cost"].sum() == pytest.approx(view.plan.cost)
    # Servers of 1,000 EUR; of 1,500 EUR what is left carries on.
    assert rows["capital"].to_list() == [0.0, 1000.0, 1000.0]
    assert rows["left"].to_list() == [1500.0, 500.0, 500.0]
    assert rows["order_by"].dt.to_string("%Y-%m-%d").to_list() == [None, "2026-06-01", "2026-07-31"]
    # 300 W are left on row 1. Row 2 is empty, its feeds are of 1,000 W, a server takes 400 W.
    assert rows["margin_w"].to_list() == [None, pytest.approx(300.0), pytest.approx(200.0)]
    content = plans.PAGE.content(stored, asked(), "light")
    assert "1 X at dub" in str(content.slots["periods"])
    assert set(content.grids["proof"]["period_shown"]) == {2, 3}
    drawn = {name: plotted(chart.figure) for name, chart in content.charts.items()}
    assert all(figure.data for figure in drawn.values())
    assert [list(trace.y) for trace in drawn["money"].data] == [[0.0, 1000.0, 1000.0], [1500.0, 1500.0, 1500.0]]


def test_another_text_of_the_file_is_answered_anew(tmp_path: Path, root: Path) -> None:
    for name in ("fleet.toml", "plan.toml"):
        (tmp_path / name).write_text((root / name).read_text())
    (tmp_path / "host_samples").symlink_to(root / "host_samples")
    stored = Stored(tmp_path, clock_ns=lambda: END_NS)
    assert data.view(stored, asked()).periods["standing"][-1] == 2
    (tmp_path / "plan.toml").write_text(PLAN.replace("[0, 1, 1]", "[0, 1, 0]"))
    assert data.view(stored, asked()).periods["standing"][-1] == 1


def test_a_plan_that_was_kept_is_listed_and_asked_again(tmp_path: Path, root: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    (tmp_path / "host_samples").symlink_to(root / "host_samples")
    stored = Stored(tmp_path, clock_ns=lambda: END_NS)
    assert "no plan was kept" in str(data.view(stored, asked()).why)
    told = data.view(Stored(root, clock_ns=lambda: END_NS), asked()).plan
    assert told is not None
    Store(tmp_path).write("plans", table(told, time_ns=END_NS), writer="plan")
    view = data.view(stored, asked())
    assert view.names == (view.name,)
    assert view.plan is not None
    assert_frame_equal(view.plan.placements, told.placements)
    assert view.kept.select("status", "servers", "currency").rows() == [("optimal", 2, "EUR")]
    assert view.kept_cost == pytest.approx(told.cost)
    assert "It was kept on 2026-03-17" in plans.PAGE.content(stored, asked(), "light").status
    assert "no plan 'other'" in str(data.view(stored, asked("?plan=other")).why)


def test_a_plan_that_cannot_be_names_the_conflict_and_how_much_could(tmp_path: Path, root: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    (tmp_path / "plan-b.toml").write_text(PLAN.replace("[0, 1, 1]", "[0, 1, 8]").replace("[1500, 0, 1000]", "90000"))
    (tmp_path / "host_samples").symlink_to(root / "host_samples")
    content = plans.PAGE.content(Stored(tmp_path, clock_ns=lambda: END_NS), asked("?plan=plan-b"), "light")
    assert "There is no such plan" in str(content.notice)
    assert "demand chat" in str(content.notice)
    assert "At most 3 of chat" in str(content.notice)
    assert content.grids["placements"].is_empty()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAN.replace("currency", "curency"), "curency"),
        (PLAN.replace('"X"', '"Y"'), "'Y', which no [[sku]] of fleet.toml is called"),
    ],
)
def test_a_file_that_is_wrong_is_said_to_be(tmp_path: Path, text: str, message: str) -> None:
    Store.create(tmp_path)
    (tmp_path / "fleet.toml").write_text(FLEET)
    (tmp_path / "plan.toml").write_text(text)
    told = plans.PAGE.content(Stored(tmp_path, clock_ns=lambda: END_NS), asked(), "light")
    assert message in str(told.notice)


def test_what_was_asked_is_read_back_from_the_store(stored: Stored) -> None:
    view = data.view(stored, asked())
    assert view.plan is not None
    kept = table(view.plan, time_ns=END_NS)["request"][0]
    assert request_of(kept) == view.plan.request == parse_plan(PLAN, parse_fleet(FLEET))
    with pytest.raises(ValueError, match="not the request of a plan"):
        request_of("{}")


@pytest.fixture(scope="module")
def plans_url(root: Path) -> Iterator[str]:
    with Serving(root, lambda: END_NS) as address:
        yield address


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")])
def test_the_plans_page_shows_periods_and_shuts_nobody_out(
    tab_at: OpenTab, plans_url: str, width: int, scheme: str
) -> None:
    tab = tab_at("/plans?plan=plan", base=plans_url, width=width, scheme=scheme)
    assert tab.text("#plans-tile-servers").startswith("Servers 2")
    assert "2026-07-31" in tab.text("#plans-periods")
    assert tab.barriers() == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    with tab.page.expect_download() as found:
        tab.page.locator("#plans-periods-csv").click()
    assert pl.read_csv(found.value.path())["standing"].to_list() == [0, 1, 2]


@pytest.mark.browser
def test_without_a_plan_there_is_no_room_kept_for_one(tab_at: OpenTab, plans_url: str) -> None:
    tab = tab_at("/plans?plan=other", base=plans_url)
    tab.until("document.querySelector('#plans-notice').innerText.includes('other')")
    assert not tab.page.locator("#plans-placements").is_visible()
    assert not tab.page.locator("#plans-tiles").is_visible()
    assert tab.page.locator("#plans-kept").is_visible()
