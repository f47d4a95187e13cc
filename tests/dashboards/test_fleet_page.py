"""The Fleet page in a real browser."""

import csv
import io
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collector.store import Store

pytestmark = pytest.mark.browser

NS = 1_000_000_000
OpenTab = Callable[..., Any]
Serve = Callable[..., AbstractContextManager[str]]


def tile(tab: Any, name: str) -> str:
    text: str = tab.text(f"#fleet-tile-{name}")
    return text


def test_it_shows_what_was_measured(tab_at: OpenTab) -> None:
    tab = tab_at("/fleet?window=15m&by=site")
    # Worked out by hand from the store of conftest.py: 300 W and 400 W for 895 s (the window opens a second before its
    # first reading), 100 W for the 745 s without the gap, and a spike of 800 W that is 10 s wide at its foot.
    joules = 700 * 895 + 100 * 745 + 800 * 5
    covered = (2 * 895 + 745) / (3 * 901)
    assert tile(tab, "power").startswith("Power now 800 W 3 of 3 devices 2026-03-04 11:59:59 UTC")
    assert "100 W modelled, not measured" in tile(tab, "power")
    assert tile(tab, "peak").startswith("Peak power 1.60 kW")
    assert tile(tab, "energy").startswith(f"Energy {joules / 3600:.0f} Wh {covered * 100:.0f} % of 15 min covered")
    assert f"{(100 * 745 + 4000) / joules * 100:.0f} % modelled, not measured" in tile(tab, "energy")
    assert tile(tab, "utilization").startswith("Utilization 58 %")
    assert tile(tab, "efficiency").startswith(f"Tokens per joule {1000 * 895 / joules:.2f} tokens/J")
    tab.page.locator("#fleet-groups").scroll_into_view_if_needed()
    tab.page.wait_for_selector("#fleet-groups .ag-row")
    text = tab.page.locator("#fleet-groups").inner_text()
    assert "oslo" in text
    assert f"{700 * 895 / 3.6e6:.3f}" in text
    assert tab.page.locator("h1").all_inner_texts() == ["Fleet power and efficiency"]
    assert tab.page.title() == "Fleet power and efficiency · perfwatt"
    assert tab.page.locator("#fleet-power-legend li").all_inner_texts() == [
        "dallas (modelled)",
        "oslo",
        "peak in the bucket",
    ]


def test_rows_wait_for_the_script_of_their_grid(tab_at: OpenTab, url: str) -> None:
    tab, held = tab_at(), list[Any]()

    def hold(route: Any) -> None:
        held.append(route)

    tab.context.route("**/async-community*", hold)
    tab.page.goto(f"{url}/fleet?window=15m&by=device")
    tab.until("document.querySelector('#fleet-tile-power')?.innerText.includes('800')")
    assert tab.page.locator("#fleet-groups .ag-root").count() == 0
    for route in held:
        route.continue_()
    tab.until("document.querySelector('#fleet-groups')?.innerText.includes('GPU-a2')")


def test_a_filter_narrows_the_page_and_its_url_reproduces_it(tab_at: OpenTab, url: str) -> None:
    tab = tab_at("/fleet?window=15m")
    page = tab.page
    page.locator("#fleet-host").click()
    page.get_by_role("option", name="node-a1").click()
    tab.until("document.querySelector('#fleet-tile-power')?.innerText.includes('300')")
    page.get_by_text("device", exact=True).click()
    page.wait_for_url(re.compile("by=device"))
    assert "host=node-a1" in page.url
    again = tab_at(page.url.removeprefix(url))
    assert tile(again, "power").startswith("Power now 300 W 1 of 1 devices")
    assert again.page.locator("#fleet-power-legend li").all_inner_texts()[0] == "GPU-a1"
    assert again.page.locator("#fleet-host-label, label[for=fleet-host]").count() == 1


def test_back_brings_back_what_was_shown_before(tab_at: OpenTab) -> None:
    tab = tab_at("/fleet?window=15m&by=site")
    tab.page.get_by_text("device", exact=True).click()
    tab.until("document.querySelector('#fleet-power-legend')?.innerText.includes('GPU-a1')")
    tab.page.go_back()
    tab.until("document.querySelector('#fleet-power-legend')?.innerText.includes('oslo')")
    assert tab.page.locator("#fleet-by input:checked").get_attribute("value") == "site"


def test_light_and_dark_are_the_browsers_wish_until_somebody_chooses(tab_at: OpenTab) -> None:
    tab = tab_at("/fleet?window=15m", scheme="dark")
    scheme = "document.documentElement.getAttribute('data-mantine-color-scheme')"
    ink = "getComputedStyle(document.querySelector('#fleet-power .ytick text')).fill"
    tab.until(f"{scheme} === 'dark' && {ink} === 'rgb(201, 205, 210)'")
    assert tab.page.evaluate("document.body.dataset.agThemeMode") == "dark"
    tab.page.locator("#theme-toggle").click()
    tab.until(f"{scheme} === 'light' && {ink} === 'rgb(52, 58, 64)'")
    tab.page.reload()
    tab.until(f"{scheme} === 'light'")


def test_its_tables_are_at_urls_of_their_own(tab_at: OpenTab, url: str) -> None:
    tab = tab_at("/fleet?window=15m&by=device")
    with tab.page.expect_download() as download:
        tab.page.locator("#fleet-groups-csv").click()
    assert download.value.suggested_filename == "perfwatt-fleet-groups.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    rows = {row["group"]: row for row in csv.DictReader(io.StringIO(text))}
    assert set(rows) == {"GPU-a1", "GPU-a2", "TPU-b1"}
    assert float(rows["GPU-a1"]["energy_j"]) == pytest.approx(300 * 895)
    assert float(rows["TPU-b1"]["modelled_ratio"]) == 1.0
    assert rows["GPU-a2"]["tokens_per_joule"] == ""
    with urllib.request.urlopen(f"{url}/fleet.csv?window=15m&by=device", timeout=30) as response:
        assert response.read().decode() == text
    assert tab.page.locator("#fleet-power-json").get_attribute("href") == "/fleet/power.json?window=15m&by=device"


def test_new_samples_appear_by_themselves(
    tab_at: OpenTab, serving: Serve, tmp_path: Path, samples: pl.DataFrame
) -> None:
    store = Store.create(tmp_path)
    with serving(tmp_path, lambda: int(samples["time"].cast(pl.Int64).max()) + NS) as address:  # type: ignore[arg-type]
        tab = tab_at("/fleet?window=15m", base=address)
        assert "The store is empty" in tab.text("#fleet-notice")
        assert tile(tab, "power").startswith("Power now – W")
        store.write("device_samples", samples.filter(pl.col("device") == "GPU-a1"))
        tab.page.evaluate("dash_clientside.set_props('fleet-tick', {n_intervals: 1})")
        tab.until("document.querySelector('#fleet-tile-power')?.innerText.includes('300')")
        tab.until("document.querySelector('#fleet-notice')?.innerText === ''")
        tab.page.goto("about:blank")


def test_a_store_with_history_alone_points_to_it(tab_at: OpenTab, serving: Serve, store_root: Path) -> None:
    with serving(store_root, lambda: 1_900_000_000 * NS) as address:
        tab = tab_at("/fleet?window=15m", base=address)
        assert "The newest sample of this store is from 2026-03-04 11:59:59 UTC" in tab.text("#fleet-notice")
        tab.page.get_by_text("Show the window up to it").click()
        tab.until("document.querySelector('#fleet-tile-energy')?.innerText.includes('Wh')")
        tab.until("document.querySelector('#fleet-tile-energy')?.innerText.includes('–') === false")
        assert "until=2026-03-04T11" in tab.page.url
        tab.page.goto("about:blank")


def test_a_store_that_cannot_be_read_is_an_answer_and_not_a_dead_page(
    tab_at: OpenTab, serving: Serve, tmp_path: Path
) -> None:
    Store.create(tmp_path)
    (tmp_path / "fleet.toml").write_text("[[site]\n", encoding="utf-8")
    with serving(tmp_path, lambda: 1_900_000_000 * NS) as address:
        tab = tab_at(base=address)
        tab.page.goto(f"{address}/fleet")
        tab.page.wait_for_selector("#fleet-notice [role=alert]", timeout=60_000)
        assert "fleet.toml" in tab.text("#fleet-notice")
        tab.page.goto("about:blank")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/fleet.csv", timeout=30)
        with refused.value as answer:
            assert (answer.code, "fleet.toml" in answer.read().decode()) == (400, True)
