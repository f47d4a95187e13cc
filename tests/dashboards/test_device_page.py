"""The Device page: everything of one device, at an address of its own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from collector.store import Store
from dashboards.controls import Values, read
from dashboards.data import device as data
from dashboards.data.stored import NS, Stored
from dashboards.figures import device as figures
from dashboards.pages import device
from tests.dashboards import told
from tests.dashboards.conftest import END_NS
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]
QUERY = "window=15m&until=2026-03-04T12:00:00Z"


@pytest.fixture
def stored(store_root: Path, clock_ns: Callable[[], int]) -> Stored:
    return Stored(store_root, clock_ns=clock_ns)


def values(id: str, query: str = QUERY) -> Values:
    return read(device.PAGE.controls, f"{query}&id={id}", strict=True)


def test_a_device_is_its_readings_jobs_and_incidents(stored: Stored) -> None:
    view = data.view(stored, values("GPU-a1"))
    assert view is not None
    assert (view.power_now_w, view.told["host"]) == (300.0, "node-a1")
    assert view.energy_j == pytest.approx(300 * 895)
    assert view.power["power_mean_w"].drop_nulls().to_list() == pytest.approx([300.0] * view.power.height)
    assert set(view.means["utilization_ratio"]) == {0.25}
    assert view.workloads["workload"].to_list() == ["vllm"]
    assert view.incidents.is_empty()
    assert view.place == (("site", "oslo"),)
    assert view.quality["period_s"] == 5.0


def test_a_spike_and_a_gap_are_seen(stored: Stored) -> None:
    view = data.view(stored, values("TPU-b1"))
    assert view is not None
    assert view.power["power_max_w"].max() == 900.0
    figure = plotted(figures.power(view, "light"))
    mean = next(trace for trace in figure.data if trace.name == "mean power")
    assert 0 < np.isnan(mean.y).sum() < len(mean.y)


def test_an_open_incident_is_of_it_and_one_over_before_the_window_is_not(stored: Stored) -> None:
    for id, found in (("GPU-a2", ["i1"]), ("GPU-a1", [])):
        view = data.view(stored, values(id))
        assert view is not None
        assert view.incidents["incident"].to_list() == found


def test_an_incident_of_its_work_is_one_of_the_device(stored: Stored) -> None:
    stalled = {**told.INCIDENTS[0], "incident": "i9", "scope": "workload", "name": "vllm", "subjects": "workload:vllm"}
    other = {**stalled, "incident": "i8", "name": "another", "subjects": "workload:another"}
    stored.store().write("incidents", told.framed(stored.store(), "incidents", [stalled, other]))
    for id, found in (("GPU-a1", ["i9"]), ("TPU-b1", ["i2"])):
        view = data.view(stored, values(id))
        assert view is not None
        assert view.incidents["incident"].to_list() == found


def test_of_jobs_counts_what_was_told_by_the_end_of_the_window(tmp_path: Path, samples: pl.DataFrame) -> None:
    store, minute = Store.create(tmp_path), 60 * NS
    begin_ns = END_NS - 15 * minute
    store.write("device_samples", samples)

    def tell(workload: str, start: int, end: int | None, at: int) -> None:
        """Tell of an allocation, in minutes of the window."""
        moments = {
            name: None if value is None else pl.Series([begin_ns + value * minute]).cast(pl.Datetime("ns"))
            for name, value in {"start": start, "end": end, "time": at}.items()
        }
        store.write("allocations", pl.DataFrame({"workload": [workload], "device": ["GPU-a1"], **moments}))

    stored = Stored(tmp_path, clock_ns=lambda: END_NS)

    def jobs(query: str = QUERY) -> list[str]:
        view = data.view(stored, values("GPU-a1", query))
        assert view is not None
        return view.workloads["workload"].to_list()

    tell("over before", -9, None, -9)
    tell("over before", -9, -3, -2)
    tell("goes on", -8, None, -8)
    assert jobs() == ["goes on"]
    # Nobody knew then that it had ended long ago, and what came later was not there yet.
    tell("goes on", -8, -5, 20)
    tell("came later", 16, None, 16)
    assert jobs() == ["goes on"]
    tell("within", 3, 9, 9)
    assert jobs() == ["within", "goes on"]
    assert jobs("window=15m&until=2026-03-04T12:30:00Z") == ["came later"]


def test_the_power_tree_is_told_from_the_rack_up(tmp_path: Path, samples: pl.DataFrame) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples)
    told.fill(store)
    view = data.view(Stored(tmp_path, clock_ns=lambda: told.NOW_NS), values("GPU-a1"))
    assert view is not None
    assert view.place == (("rack", "oslo-r1"), ("feed", "oslo-a"), ("feed", "oslo-b"), ("site", "oslo"))


def test_what_holds_clocks_down_is_by_counter_where_there_is_one_and_a_reset_tells_nothing(
    tmp_path: Path, samples: pl.DataFrame
) -> None:
    mine = samples.filter(pl.col("device") == "GPU-a1").sort("time")
    # Half of the time by the counter, which is set back in the middle; the flag beside it says always.
    seconds = pl.int_range(pl.len()).cast(pl.Float64) * 2.5
    held = mine.with_columns(
        throttle_power_s=pl.when(pl.int_range(pl.len()) < 90).then(seconds).otherwise(seconds - 225.0),
        throttling_power=pl.lit(1.0),
        throttling_thermal=pl.when(pl.int_range(pl.len()) < 90).then(1.0).otherwise(0.0),
    )
    Store.create(tmp_path).write("device_samples", held)
    view = data.view(Stored(tmp_path, clock_ns=lambda: told.NOW_NS), values("GPU-a1"))
    assert view is not None
    power = view.throttled.filter(reason="power")["ratio"]
    assert power.median() == pytest.approx(0.5, abs=0.01)
    assert power.max() == pytest.approx(0.5, abs=0.01)
    assert view.throttled.filter(reason="thermal")["ratio"].mean() == pytest.approx(0.5, abs=0.02)


def test_a_device_that_nobody_knows_is_said_to_be_so_and_others_are_named(stored: Stored) -> None:
    assert data.view(stored, values("none")) is None
    content = device.PAGE.content(stored, values("none"), "light")
    assert "There is no device none" in str(content.notice)
    assert "/devices/GPU-a1" in str(content.notice)


@pytest.mark.browser
def test_its_address_names_it_and_another_choice_is_another_address(tab_at: OpenTab) -> None:
    tab = tab_at(f"/devices/GPU-a1?{QUERY}")
    assert tab.text("#device-tile-power").startswith("Power, last read 300 W")
    assert "GPU-a1" in tab.text("#device-facts h2")
    with tab.page.expect_download() as download:
        tab.page.locator("#device-power-csv").click()
    assert pl.read_csv(download.value.path())["power_mean_w"].drop_nulls().mean() == pytest.approx(300.0)
    tab.page.locator("#device-id").click()
    tab.page.get_by_role("option", name="GPU-a2").click()
    tab.until("document.querySelector('#device-tile-power')?.innerText.includes('400')")
    tab.page.wait_for_url(re.compile(r"/devices/GPU-a2\?window=15m"))
    tab.page.go_back()
    tab.until("document.querySelector('#device-tile-power')?.innerText.includes('300')")
    tab.page.get_by_text("1h", exact=True).click()
    tab.page.wait_for_url(re.compile(r"/devices/GPU-a1\?window=1h"))
    # The choice of devices is offered anew, and is still a list of them.
    tab.page.locator("#device-id").click()
    tab.page.get_by_role("option", name="TPU-b1").wait_for()


@pytest.mark.browser
def test_devices_are_linked_where_they_are_named(tab_at: OpenTab) -> None:
    tab = tab_at("/fleet?window=15m&by=device")
    tab.page.evaluate("window.kept = true")
    tab.page.locator("#fleet-groups").scroll_into_view_if_needed()
    tab.page.locator("#fleet-groups").get_by_role("link", name="GPU-a2").click()
    tab.until("document.querySelector('#device-facts')?.innerText.includes('GPU-a2')")
    # The page turned in place.
    assert tab.page.evaluate("window.kept")
    tab.page.locator("#device-incidents").get_by_role("link", name="i1").wait_for()


@pytest.mark.browser
def test_what_is_out_of_sight_follows_the_last_choice(tab_at: OpenTab) -> None:
    tab = tab_at(f"/devices/GPU-a1?{QUERY}")
    used = "document.querySelector('#device-use')._fullData[0].y"
    box = tab.page.locator("#device-use").bounding_box()
    assert box["y"] > 900
    assert tab.page.evaluate(f"Math.max(...{used}.filter((one) => one > 0))") == 0.25
    for device_ in ("TPU-b1", "GPU-a2"):
        tab.page.evaluate(f"dash_clientside.set_props('device-id', {{value: '{device_}'}})")
    tab.until("document.querySelector('#device-tile-power')?.innerText.includes('400')")
    tab.filled()
    assert tab.page.evaluate(f"Math.min(...{used}.filter((one) => one > 0))") == 0.75


@pytest.mark.browser
def test_who_goes_back_while_an_answer_is_drawn_sees_what_was_there(tab_at: OpenTab) -> None:
    tab = tab_at(f"/devices/GPU-a1?{QUERY}")
    tab.page.evaluate(
        """() => {
            const react = window.Plotly.react, wait = new Promise((done) => { window.drawOn = done; });
            window.Plotly.react = async (...given) => { await wait; return react(...given); };
        }"""
    )
    for device_, watts in (("GPU-a2", "400"), ("GPU-a1", "400")):
        tab.page.evaluate(f"dash_clientside.set_props('device-id', {{value: '{device_}'}})")
        tab.until(f"document.querySelector('#device-tile-power')?.innerText.includes('{watts}')")
    # The question has gone out that says of the first device that it is what stands there.
    tab.page.wait_for_timeout(1500)
    tab.page.evaluate("window.drawOn()")
    tab.until("document.querySelector('#device-tile-power')?.innerText.includes('300')")
    tab.filled()
    assert "GPU-a1" in tab.text("#device-facts h2")
    assert tab.page.evaluate("document.querySelector('#device-power').data.at(-1).name") == "mean power"
    power = "document.querySelector('#device-power')._fullData.at(-1).y"
    assert tab.page.evaluate(f"Math.max(...{power}.filter((one) => one > 0))") == 300


@pytest.mark.browser
def test_charts_are_as_wide_as_their_place(tab_at: OpenTab) -> None:
    tab = tab_at(f"/devices/GPU-a1?{QUERY}")
    wide = "document.querySelector('#device-power .main-svg').getBoundingClientRect().width"
    place = "document.querySelector('#device-power').getBoundingClientRect().width"
    before = tab.page.evaluate(wide)
    tab.page.set_viewport_size({"width": 900, "height": 900})
    tab.until(f"{wide} < {before} - 300 && Math.abs({wide} - {place}) < 1")


@pytest.mark.parametrize(("window", "said"), [("15m", "15 min"), ("24h", "1 d")])
def test_a_window_is_called_what_was_chosen(stored: Stored, window: str, said: str) -> None:
    asked = values("GPU-a1", f"window={window}&until=2026-03-04T12:00:00Z")
    assert device.PAGE.content(stored, asked, "light").status.startswith(f"{said} until 2026-03-04 12:00:00 UTC.")
