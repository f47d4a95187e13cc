"""The first page in a real browser."""

import csv
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl
import pytest

from collector.store import Store

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

NS = 1_000_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Tab:
    """A page, and everything it complained of or asked of others."""

    def __init__(self, browser: Any, base: str, *, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.base = base
        self.trouble: list[str] = []
        self.page.on("console", lambda m: m.type in {"error", "warning", "trace"} and self.trouble.append(m.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.trouble.append(f"asked {request.url}")

    def open(self, query: str = "?window=15m") -> Any:
        self.page.goto(f"{self.base}/{query}")
        self.page.wait_for_selector("#fleet-tile-power", timeout=60_000)
        self.page.wait_for_selector("#fleet-power .main-svg", timeout=60_000)
        return self.page

    def until(self, script: str, *, for_s: float = 60.0) -> None:
        # Playwright's own wait_for_function compiles a string, which the page's policy rightly refuses.
        end_s = monotonic() + for_s
        while not self.page.evaluate(script):
            assert monotonic() < end_s, f"it did not happen: {script}"
            self.page.wait_for_timeout(50)

    def tile(self, name: str) -> str:
        text: str = self.page.locator(f"#fleet-tile-{name}").inner_text()
        return " ".join(text.split())


@pytest.fixture
def tab(browser: Any, url: str) -> Iterator[Tab]:
    opened = Tab(browser, url)
    yield opened
    opened.context.close()


def test_it_shows_what_was_measured_and_complains_of_nothing(tab: Tab) -> None:
    page = tab.open("?window=15m&by=site")
    # Worked out by hand from the store of conftest.py: 300 W and 400 W for 895 s (the window opens a second before its
    # first reading), 100 W for the 745 s without the gap, and a spike of 800 W that is 10 s wide at its foot.
    joules = 700 * 895 + 100 * 745 + 800 * 5
    covered = (2 * 895 + 745) / (3 * 901)
    assert tab.tile("power").startswith("Power now 800 W 3 of 3 devices 2026-03-04 11:59:59 UTC")
    assert "100 W modelled, not measured" in tab.tile("power")
    assert tab.tile("peak").startswith("Peak power 1.60 kW")
    assert tab.tile("energy").startswith(f"Energy {joules / 3600:.0f} Wh {covered * 100:.0f} % of 15 min covered")
    assert f"{(100 * 745 + 4000) / joules * 100:.0f} % modelled, not measured" in tab.tile("energy")
    assert tab.tile("utilization").startswith("Utilization 58 %")
    assert tab.tile("efficiency").startswith(f"Tokens per joule {1000 * 895 / joules:.2f} tokens/J")
    page.locator("#fleet-table").scroll_into_view_if_needed()
    page.wait_for_selector("#fleet-table .ag-row")
    text = page.locator("#fleet-table").inner_text()
    assert "oslo" in text
    assert f"{700 * 895 / 3.6e6:.3f}" in text
    assert page.locator("h1").all_inner_texts() == ["Fleet power and efficiency"]
    assert page.evaluate("document.documentElement.lang") == "en"
    assert tab.trouble == []


def test_a_filter_narrows_the_page_and_its_url_reproduces_it(tab: Tab, browser: Any, url: str) -> None:
    page = tab.open()
    page.locator("#fleet-hosts").click()
    page.get_by_role("option", name="node-a1").click()
    tab.until("document.querySelector('#fleet-tile-power').innerText.includes('300')")
    page.get_by_text("device", exact=True).click()
    page.wait_for_url(re.compile("by=device"))
    assert "host=node-a1" in page.url
    again = Tab(browser, url)
    again.open(page.url.removeprefix(f"{url}/"))
    assert again.tile("power").startswith("Power now 300 W 1 of 1 devices")
    assert again.page.locator("#fleet-power .legendtext").all_text_contents()[0] == "GPU-a1"
    assert again.page.locator("#fleet-hosts-label, label[for=fleet-hosts]").count() == 1
    assert [tab.trouble, again.trouble] == [[], []]
    again.context.close()


def test_light_and_dark_are_the_browsers_wish_until_somebody_chooses(browser: Any, url: str) -> None:
    tab = Tab(browser, url, scheme="dark")
    page = tab.open()
    scheme = "document.documentElement.getAttribute('data-mantine-color-scheme')"
    ink = "getComputedStyle(document.querySelector('#fleet-power .ytick text')).fill"
    tab.until(f"{scheme} === 'dark' && {ink} === 'rgb(201, 205, 210)'")
    assert page.evaluate("document.body.dataset.agThemeMode") == "dark"
    page.locator("#theme-toggle").click()
    tab.until(f"{scheme} === 'light' && {ink} === 'rgb(52, 58, 64)'")
    page.reload()
    tab.until(f"{scheme} === 'light'")
    assert tab.trouble == []
    tab.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_nothing_is_cut_off_at_any_width(browser: Any, url: str, tmp_path: Path, width: int, scheme: str) -> None:
    tab = Tab(browser, url, width=width, scheme=scheme)
    page = tab.open()
    page.wait_for_selector("#fleet-table .ag-header-cell")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    parts = "[...document.querySelectorAll('.pw-tile, .pw-tile *')]"
    cut = f"{parts}.filter(x => x.clientWidth && x.scrollWidth > x.clientWidth + 1)"
    assert page.evaluate(f"{cut}.map(x => x.innerText)") == []
    shot = tmp_path / f"fleet-{width}-{scheme}.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000
    assert tab.trouble == []
    tab.context.close()


def test_the_table_can_be_taken_away_as_csv(tab: Tab) -> None:
    page = tab.open("?window=15m&by=device")
    page.locator("#fleet-table").scroll_into_view_if_needed()
    page.wait_for_selector("#fleet-table .ag-row")
    with page.expect_download() as download:
        page.locator("#fleet-csv").click()
    assert download.value.suggested_filename == "perfwatt-fleet.csv"
    with Path(download.value.path()).open(encoding="utf-8-sig") as file:
        rows = {row["Group"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"GPU-a1", "GPU-a2", "TPU-b1"}
    assert float(rows["GPU-a1"]["Energy (kWh)"]) == pytest.approx(300 * 895 / 3.6e6)
    assert float(rows["TPU-b1"]["Modelled (%)"]) == 100.0
    assert rows["GPU-a2"]["Tokens/J"] == ""


def test_new_samples_appear_by_themselves(
    browser: Any, serving: Callable[..., AbstractContextManager[str]], tmp_path: Path, samples: pl.DataFrame
) -> None:
    store = Store.create(tmp_path)
    with serving(tmp_path, lambda: int(samples["time"].cast(pl.Int64).max()) + NS) as address:  # type: ignore[arg-type]
        tab = Tab(browser, address)
        page = tab.open()
        assert "The store is empty" in page.locator("#fleet-notice").inner_text()
        assert tab.tile("power").startswith("Power now – W")
        store.write("device_samples", samples.filter(pl.col("device") == "GPU-a1"))
        page.evaluate("dash_clientside.set_props('fleet-tick', {n_intervals: 1})")
        tab.until("document.querySelector('#fleet-tile-power').innerText.includes('300')")
        tab.until("document.querySelector('#fleet-notice').innerText === ''")
        assert tab.trouble == []
        tab.context.close()


def test_a_store_with_history_alone_points_to_it(
    browser: Any, serving: Callable[..., AbstractContextManager[str]], store_root: Path
) -> None:
    with serving(store_root, lambda: 1_900_000_000 * NS) as address:
        tab = Tab(browser, address)
        page = tab.open()
        assert (
            "The newest sample of this store is from 2026-03-04 11:59:59 UTC"
            in page.locator("#fleet-notice").inner_text()
        )
        page.get_by_text("Show the window up to it").click()
        tab.until("document.querySelector('#fleet-tile-energy')?.innerText.includes('Wh')")
        tab.until("!document.querySelector('#fleet-tile-energy').innerText.includes('–')")
        assert "until=2026-03-04T11" in page.url
        assert tab.trouble == []
        tab.context.close()


def test_a_store_that_cannot_be_read_is_an_answer_and_not_a_dead_page(
    browser: Any, serving: Callable[..., AbstractContextManager[str]], tmp_path: Path
) -> None:
    Store.create(tmp_path)
    (tmp_path / "fleet.toml").write_text("[[site]\n", encoding="utf-8")
    with serving(tmp_path, lambda: 1_900_000_000 * NS) as address:
        tab = Tab(browser, address)
        tab.page.goto(address)
        tab.page.wait_for_selector("#fleet-notice [role=alert]", timeout=60_000)
        assert "fleet.toml" in tab.page.locator("#fleet-notice").inner_text()
        tab.context.close()


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
