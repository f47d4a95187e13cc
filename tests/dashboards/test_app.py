"""What holds for every page: it opens at each width, in light and dark, for everybody, and asks nothing of others."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dashboards.app import PAGES
from dashboards.controls import read, write
from dashboards.data.stored import Stored
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]
NAMES = [page.name for page in PAGES]
SEEN = "until=2026-03-04T12:00:00Z&window=15m"
"""The window in which the store of conftest.py has something."""

SUBJECTS = {"job": "vllm", "incident": "i1", "device": "GPU-a1"}
"""Whom the pages of one thing are about."""
DRAWN_ELSEWHERE = {"incident", "plan", "plans"}
"""What they draw is in no store of conftest.py; their own tests have it."""


def address(name: str) -> str:
    page = next(page for page in PAGES if page.name == name)
    keys = {control.key for control in page.controls}
    if "id" in keys:
        window = f"&{SEEN}" if "until" in keys else ""
        of = f"/{SUBJECTS[name]}" if page.of else ""
        return f"{page.path}{of}?id={SUBJECTS[name]}{window}"
    site = "site=oslo" if "site" in keys else ""
    window = SEEN if {"until", "window"} <= keys else ""
    query = "&".join(filter(None, (window, site)))
    return f"{page.path}?{query}" if query else page.path


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_and_nobody_is_shut_out(tab_at: OpenTab, name: str, width: int, scheme: str) -> None:
    tab = tab_at(address(name), width=width, scheme=scheme)
    page = tab.page
    told = tab.barriers()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    parts = "[...document.querySelectorAll('.pw-tile, .pw-tile *, .pw-facts *, h1, h2')]"
    cut = f"{parts}.filter(x => x.clientWidth && x.scrollWidth > x.clientWidth + 1)"
    assert page.evaluate(f"{cut}.map(x => x.innerText)") == []
    assert told == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [page.name for page in PAGES if page.charts])
def test_what_is_drawn_is_in_words_that_plotly_knows(
    store_root: Path, told_root: Path, clock_ns: Callable[[], int], name: str, theme: str
) -> None:
    page = next(page for page in PAGES if page.name == name)
    drawn = 0
    for root in (store_root, told_root):
        values = read(page.controls, address(name).partition("?")[2])
        content = page.content(Stored(root, clock_ns=clock_ns), values, theme)
        for chart in content.charts.values():
            plotted(chart.figure)
            drawn += len(chart.figure.data)
    assert drawn or name in DRAWN_ELSEWHERE


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_reached_by_the_keyboard_alone(tab_at: OpenTab, name: str) -> None:
    tab = tab_at(address(NAMES[0]))
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "pw-skip"
    page = next(page for page in PAGES if page.name == name)
    if page.label:
        tab.page.locator(f"#nav-{name}").focus()
        tab.page.keyboard.press("Enter")
        tab.until(f"document.querySelector('h1')?.innerText === {json.dumps(page.title)}")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("fleet", ""),
        ("fleet", "?window=15m&by=site&until=2026-03-04T12:00:00Z&site=oslo&host=node-a1&host=node-b1"),
        ("fleet", "?windw=15m&window=99y&by=device"),
        ("results", "?until=2026-03-04"),
        ("incidents", "?state=all&kind=a%20b%26c"),
    ],
)
def test_the_browser_writes_the_url_that_a_program_would(tab_at: OpenTab, name: str, query: str) -> None:
    page = next(page for page in PAGES if page.name == name)
    tab = tab_at(f"{page.path}{query}")
    wanted = read(page.controls, write(page.controls, read(page.controls, query)))
    asked = urlsplit(tab.page.url).query
    assert read(page.controls, asked, strict=True) == wanted
    part = next(name for name in page.twins if tab.page.locator(f"#{page.name}-{name}-csv").count())
    assert tab.page.locator(f"#{page.name}-{part}-csv").get_attribute("href") == (
        f"/{page.name}/{part}.csv{'?' if asked else ''}{asked}"
    )


@pytest.mark.browser
def test_whoever_goes_back_at_once_is_back_and_stays(tab_at: OpenTab) -> None:
    tab = tab_at("/fleet?window=15m&by=site")
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    # Every answer of the server waits until somebody has gone back.
    tab.page.route("**/_dash-update-component", hold)
    tab.page.get_by_text("device", exact=True).click()
    tab.until("location.search.includes('by=device')")
    tab.page.go_back()
    tab.until("location.search.includes('by=site')")
    tab.page.unroute("**/_dash-update-component")
    for route in held:
        route.continue_()
    tab.until("document.querySelector('#fleet-by input:checked')?.value === 'site'")
    tab.until("document.querySelector('#fleet-power-legend')?.innerText.includes('oslo')")
    tab.page.wait_for_timeout(500)
    assert "by=site" in tab.page.url
    assert "oslo" in tab.text("#fleet-power-legend")


@pytest.mark.browser
def test_on_a_narrow_screen_the_pages_are_in_a_menu(tab_at: OpenTab) -> None:
    tab = tab_at(address(NAMES[0]), width=390)
    menu = tab.page.locator("#menu")
    link = tab.page.locator(f"#nav-{NAMES[-1]}")
    assert not link.is_visible() or tab.page.evaluate(
        "document.querySelector('nav').getBoundingClientRect().right <= 0"
    )
    menu.click()
    tab.until("document.querySelector('nav').getBoundingClientRect().left === 0")
    link.click()
    tab.until("document.querySelector('nav').getBoundingClientRect().right <= 0")


@pytest.mark.parametrize("name", NAMES)
def test_every_table_of_a_page_is_at_a_url_as_csv_and_json(url: str, name: str) -> None:
    page = next(page for page in PAGES if page.name == name)
    query = address(name).partition("?")[2]
    for table in ("", *(f"/{twin}" for twin in page.twins)):
        with urllib.request.urlopen(f"{url}/{name}{table}.json?{query}", timeout=30) as response:
            answer = json.load(response)
        with urllib.request.urlopen(f"{url}/{name}{table}.csv?{query}", timeout=30) as response:
            heading = response.readline().decode().strip().split(",")
        assert answer["schema"] == f"perfwatt.{name}.{table.removeprefix('/') or next(iter(page.twins))}/1"
        assert heading == [column["name"] for column in answer["columns"]]


def test_a_program_that_asks_wrongly_is_told(url: str) -> None:
    for path, code, words in (
        ("/fleet.csv?windw=1h", 400, "windw: is no parameter of this page"),
        ("/fleet.json?window=99y", 400, "'99y' is none of"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}{path}", timeout=30)
        with refused.value as answer:
            assert answer.code == code
            assert words in answer.read().decode()


def test_the_browser_is_told_to_run_nothing_else(url: str) -> None:
    with urllib.request.urlopen(f"{url}/", timeout=30) as response:
        policy = response.headers["Content-Security-Policy"]
        page = response.read().decode()
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    with urllib.request.urlopen(f"{url}/healthz", timeout=30) as response:
        assert response.status == 200


def test_whoever_opens_a_page_first_gets_it_with_its_styles(serving: Callable[..., Any], tmp_path: Path) -> None:
    with (
        serving(tmp_path, lambda: 0) as address,
        urllib.request.urlopen(f"{address}/{NAMES[-1]}", timeout=30) as response,
    ):
        assert "perfwatt.css" in response.read().decode()


def test_the_callbacks_are_described_to_nobody(url: str) -> None:
    for path in ("docs", "redoc", "openapi.json"):
        try:
            with urllib.request.urlopen(f"{url}/{path}", timeout=30) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
        assert "swagger" not in text.lower()
        assert '"openapi"' not in text
