"""The pages of jobs: what the ledger and the report say, in a table and on a page of their own."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from analytics.frames import of_workload
from analytics.report import job_report
from dashboards.controls import Values, read
from dashboards.data import jobs as data
from dashboards.data.stored import Stored
from dashboards.figures import jobs as figures
from dashboards.pages import job, jobs
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]
QUERY = "?window=15m&until=2026-03-04T12:00:00Z"


@pytest.fixture
def stored(store_root: Path, clock_ns: Callable[[], int]) -> Stored:
    return Stored(store_root, clock_ns=clock_ns)


def values(query: str = "") -> Values:
    return read(jobs.PAGE.controls, f"{QUERY}{query}")


def test_a_job_is_its_devices_energy_and_work_in_the_window(stored: Stored) -> None:
    (row,) = data.view(stored, values()).jobs.to_dicts()
    assert (row["workload"], row["devices"], row["model"]) == ("vllm", 1, "llama")
    assert row["energy_j"] == pytest.approx(300 * 895)
    assert row["tokens"] == pytest.approx(1000 * 895)
    assert row["joules_per_token"] == pytest.approx(0.3, rel=0.01)
    # A quarter busy: at low activity throughout.
    assert (row["useful_ratio"], row["worst"]) == (0.0, "underused")
    assert row["wasted_j"] == pytest.approx(row["energy_j"])
    assert row["end"] is None


def test_a_choice_of_owners_narrows_and_is_offered(stored: Stored) -> None:
    assert data.known(stored, values()) == {"team": [], "user": [], "model": ["llama"]}
    assert data.view(stored, values("&model=llama")).jobs.height == 1
    assert data.view(stored, values("&team=vision")).jobs.is_empty()


def test_a_jobs_page_is_its_report(stored: Stored, store_root: Path) -> None:
    view = data.job(stored, "vllm")
    assert view is not None
    assert view.report == job_report("vllm", of_workload(store_root, "vllm"), fleet=stored.fleet())
    assert set(view.power["group"]) == {"GPU-a1"}
    assert view.power["power_mean_w"].drop_nulls().to_list() == pytest.approx([300.0] * view.power.height)
    assert set(view.utilization["utilization_ratio"]) == {0.25}
    assert view.start <= datetime(2026, 3, 4, 11, 44, 59, tzinfo=UTC)


def test_a_job_is_worked_out_once(stored: Stored) -> None:
    assert data.job(stored, "vllm") is data.job(stored, "vllm")


def test_a_job_that_nobody_knows_is_said_to_be_so_and_others_are_named(stored: Stored) -> None:
    assert data.job(stored, "none") is None
    content = job.PAGE.content(stored, {"id": "none"}, "light")
    assert "There is no job none" in str(content.notice)
    assert "vllm" in str(content.notice)
    assert job.PAGE.twins["devices"](stored, {"id": "none"}).is_empty()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_power_of_a_job_stacks_to_its_devices(stored: Stored, theme: str) -> None:
    view = data.job(stored, "vllm")
    assert view is not None
    figure = plotted(figures.power(view, theme))
    assert [trace.name for trace in figure.data] == ["GPU-a1"]
    assert figure.layout.yaxis.title.text == "Power (W)"
    assert {round(value) for value in figure.data[0].y} == {300}


@pytest.mark.browser
def test_from_the_table_to_the_report(tab_at: OpenTab) -> None:
    tab = tab_at(f"/jobs{QUERY}")
    assert tab.text("#jobs-tile-count").startswith("Jobs 1 1 still running")
    assert "vllm used most" in tab.text("#jobs-energy-words")
    tab.page.locator("#jobs-jobs").scroll_into_view_if_needed()
    tab.page.locator("#jobs-jobs").get_by_role("link", name="vllm").click()
    tab.page.wait_for_url(re.compile(r"/job\?id=vllm"))
    tab.filled()
    assert "user unknown" in tab.text("#job-facts")
    assert "0.3 J/token" in tab.text("#job-facts")
    assert "low activity" in tab.text("#job-findings")
    assert tab.text("#job-waste").startswith("Where its time went Cause Share Device time Energy Cost underused 99.9 %")


@pytest.mark.browser
def test_a_page_without_a_job_offers_the_latest(tab_at: OpenTab) -> None:
    tab = tab_at()
    tab.page.goto(f"{tab.base}/job")
    tab.page.wait_for_selector("#job-notice [role=alert]")
    tab.page.get_by_role("link", name="vllm").click()
    tab.until("document.querySelector('#job-facts')?.innerText.includes('vllm')")
