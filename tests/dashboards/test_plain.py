"""A page as plain HTML: what it says is there before any script has run, and gives way to the app."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from threading import Event
from typing import Any
from urllib.request import Request, urlopen

import pytest
from dash import dcc, html

from dashboards import plain
from dashboards.app import PAGES
from dashboards.data import quality
from dashboards.data.stored import Stored
from dashboards.markup import markup
from dashboards.parts import notice, small_table, tile
from tests.dashboards import told

OpenTab = Callable[..., Any]


@pytest.fixture
def stored(told_root: Path) -> Stored:
    return Stored(told_root, clock_ns=lambda: told.NOW_NS)


@pytest.mark.browser
def test_a_page_says_what_the_app_will_say(told_url: str, tab_at: OpenTab) -> None:
    shown = unescape(re.sub(r"<[^>]+>", "", urlopen(told_url).read().decode().partition("<footer>")[0]))
    tab = tab_at("/", base=told_url)
    for selector in (".pw-status", ".pw-tiles", "#home-wrong", "#home-ahead", "#home-decisions", "#home-tree"):
        assert tab.page.locator(f"#page {selector}").text_content() in shown, selector


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_without_scripts_everybody_can_read_it(told_url: str, browser: Any, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=False
    )
    page = context.new_page()
    page.goto(told_url)
    box = page.locator("#first .pw-tile").first.bounding_box()
    assert box["x"] + box["width"] <= width
    assert page.locator("#first main").bounding_box()["width"] <= width
    assert page.get_by_role("heading", name="What is wrong").is_visible()
    assert not page.get_by_text("Loading").is_visible()
    page.get_by_role("link", name="Fleet power").click()
    assert page.url.endswith("/fleet")
    context.close()


@pytest.mark.browser
def test_the_app_takes_its_place(told_url: str, tab_at: OpenTab) -> None:
    tab = tab_at("/", base=told_url)
    assert tab.page.locator("#first").count() == 0
    assert tab.page.locator(".pw-status").count() == 1


def test_what_a_store_says_is_text_and_never_markup() -> None:
    told_ = html.Div(["<script>alert(1)</script>", html.Span(title='"><b>', **{"data-label": "a & b"})])
    assert markup(told_) == (
        "<div>&lt;script&gt;alert(1)&lt;/script&gt;"
        '<span data-label="a &amp; b" title="&quot;&gt;&lt;b&gt;"></span></div>'
    )


def test_parts_of_every_kind_have_their_tags() -> None:
    assert markup([html.A("to", href="/x?a=1&b=2"), None, html.Br(), 5]) == '<a href="/x?a=1&amp;b=2">to</a><br>5'
    assert "<caption>all</caption>" in markup(small_table(("a",), [("b",)], caption="all"))
    assert "<strong>Title</strong><div>why</div>" in markup(notice("Title", "why"))
    shown = markup(tile("id", "Power", "5", "kW", ["measured"], href="/fleet"))
    assert shown.startswith('<section class="pw-tile" id="id"><a class="pw-tile-name" href="/fleet">Power</a>')
    assert " id=" not in markup(tile("id", "Power", "5", "kW", []), ids=False)
    bar = html.Div(style={"--pw-depth": 2, "maxWidth": "5%"})
    assert markup(bar) == '<div style="--pw-depth: 2; max-width: 5%"></div>'


@pytest.mark.parametrize("part", [dcc.Interval(id="t"), html.Div(n_clicks=0), html.P([html.Img(src="x")])])
def test_what_html_cannot_say_is_refused(part: Any) -> None:
    with pytest.raises(TypeError, match=r"no (component of|place in) HTML"):
        markup(part)


@pytest.mark.browser
def test_who_comes_from_another_page_finds_it_filled_too(told_url: str, tab_at: OpenTab) -> None:
    tab = tab_at("/fleet", base=told_url)
    tab.page.locator("#nav-home").click()
    tab.until("document.querySelector('#home-tile-power')?.innerText.includes('kW')")
    assert tab.text("#home-tree") == tab_at("/", base=told_url).text("#home-tree")


def test_a_page_that_is_not_filled_or_not_there_has_nothing_before(stored: Stored) -> None:
    assert plain.first(PAGES, stored, "/fleet", "") == ""
    assert plain.first(PAGES, stored, "/nowhere", "") == ""


def test_the_choice_in_the_address_holds(stored: Stored) -> None:
    assert "oslo-a" in plain.first(PAGES, stored, "/", "")
    assert "oslo-a" not in plain.first(PAGES, stored, "/", "?site=dallas")


def layout_of(base: str, path: str | None) -> str:
    request = Request(f"{base}/_dash-layout", headers={} if path is None else {"Referer": f"{base}{path}"})
    return str(urlopen(request).read().decode())


def test_the_app_comes_with_the_page_it_is_asked_from(told_url: str) -> None:
    assert "home-tile-power" in layout_of(told_url, "/")
    assert "oslo-b" not in layout_of(told_url, "/?site=dallas")
    assert "fleet-tick" in layout_of(told_url, "/fleet?window=1h")
    assert "There is no such page" in layout_of(told_url, "/nowhere")


@pytest.mark.browser
def test_a_browser_that_does_not_say_where_it_is_gets_its_page_too(told_url: str, tab_at: OpenTab) -> None:
    assert "home-tile-power" not in layout_of(told_url, None)
    tab = tab_at(base=told_url)
    tab.context.route(
        "**/_dash-layout", lambda route: route.fulfill(body=layout_of(told_url, None), content_type="application/json")
    )
    tab.open("/?site=dallas")
    assert "oslo" not in tab.text("#home-tree")
    assert tab.page.url.endswith("/?site=dallas")


@pytest.mark.browser
def test_a_page_that_takes_long_holds_up_nobody(url: str, tab_at: OpenTab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on, view = Event(), Event(), quality.view

    def slowly(*given: Any) -> Any:
        asked.set()
        assert go_on.wait(60)
        return view(*given)

    monkeypatch.setattr(quality, "view", slowly)
    tab = tab_at()
    tab.page.goto(f"{url}/quality", wait_until="commit")
    while not asked.is_set():
        tab.page.wait_for_timeout(20)
    with urlopen(f"{url}/healthz", timeout=10) as answer:
        assert answer.status == 200
    go_on.set()
    tab.filled()
