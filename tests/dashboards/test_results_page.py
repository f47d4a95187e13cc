"""The Results page: what was measured, the front, the matrix, and what is chosen."""

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collector.store import Store
from dashboards.controls import read
from dashboards.data import results as data
from dashboards.data.stored import Stored
from dashboards.figures import results as figures
from dashboards.pages.results import PAGE
from tests.dashboards.plotted import plotted

OpenTab = Callable[..., Any]


@pytest.fixture
def stored(store_root: Path) -> Stored:
    return Stored(store_root)


def view(stored: Stored, query: str = "") -> data.ResultsView:
    return data.view(stored, read(PAGE.controls, query))


def test_the_benchmark_that_most_ran_is_shown_with_what_nothing_beats(stored: Stored) -> None:
    found = view(stored)
    assert found.benchmark == "bert"
    rows = {row["system"]: row for row in found.runs.to_dicts()}
    assert {name: row["samples_per_joule"] for name, row in rows.items()} == {"big": 4.0, "small": 6.0, "beaten": 4.0}
    assert {name: row["front"] for name, row in rows.items()} == {"big": True, "small": True, "beaten": False}


def test_ranging_runs_are_shown_only_when_asked_for(stored: Stored) -> None:
    assert view(stored, "?phase=ranging").runs["power_mean_w"].to_list() == [990.0]
    assert view(stored, "?phase=any").runs.height == 4


def test_the_best_of_each_accelerator_and_benchmark_is_in_the_matrix(stored: Stored) -> None:
    best = {(row["accelerator"], row["benchmark"]): row["system"] for row in view(stored).best.to_dicts()}
    assert best == {("Accel X", "bert"): "big", ("Accel X", "rnnt"): "big", ("Accel Y", "bert"): "small"}


def test_a_choice_narrows_and_another_suite_has_nothing(stored: Stored) -> None:
    assert view(stored, "?accelerator=Accel+Y").runs["system"].to_list() == ["small", "beaten"]
    assert view(stored, "?benchmark=rnnt").runs["samples_per_joule"].to_list() == [10.0]
    assert view(stored, "?suite=training").benchmark is None
    assert view(stored, "?scenario=Server").runs.is_empty()


def test_results_are_worked_out_once_and_again_when_there_are_more(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    stored = Stored(tmp_path)
    assert data.all_results(stored).is_empty()
    run = {"workload": ["w"], "time": [10**9], "source": ["t"], "host": ["h"], "start": [0], "end": [10**9]}
    store.write("results", run)
    first = data.all_results(stored)
    assert first["power_mean_w"].to_list() == [None]
    assert data.all_results(stored) is first
    store.write("host_samples", {"host": ["h"], "time": [5 * 10**8], "source": ["t"], "platform_power_w": [7.0]})
    assert data.all_results(stored)["power_mean_w"].to_list() == [7.0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_points_on_a_line_of_equal_power_have_that_power(stored: Stored, theme: str) -> None:
    figure = plotted(figures.pareto(view(stored), theme))
    dotted = [trace for trace in figure.data if trace.mode == "lines" and trace.line.dash == "dot"]
    watts = sorted(round(trace.x[0] / trace.y[0]) for trace in dotted)
    assert watts == [10, 100, 1000, 10_000]
    named = {trace.name for trace in figure.data if trace.name}
    assert named == {"Accel X", "Accel Y", "nothing beats these"}
    assert figure.layout.xaxis.title.text == "Throughput (samples/s)"


@pytest.mark.browser
def test_the_page_shows_results_and_a_benchmark_is_chosen_in_the_matrix(tab_at: OpenTab, url: str) -> None:
    tab = tab_at("/results")
    assert tab.text("#results-tile-best").startswith("Most per joule 6.00 samples/J 1 × Accel Y Acme v4.1")
    assert tab.text("#results-tile-fastest").startswith("Fastest 4.00 ksamples/s 8 × Accel X")
    assert "2 of 3 results are beaten by none" in tab.text("#results-pareto-words")
    tab.page.locator("#results-matrix").get_by_role("link", name="rnnt").click()
    tab.page.wait_for_url(re.compile("benchmark=rnnt"))
    tab.until("document.querySelector('#results-tile-best')?.innerText.includes('10.0')")
    again = tab_at(tab.page.url.removeprefix(url))
    assert again.page.locator("#results-benchmark").input_value() == "rnnt"
    again.page.get_by_text("ranging", exact=True).click()
    again.page.wait_for_url(re.compile("phase=ranging"))
    again.until("document.querySelector('#results-notice').innerText.includes('Nothing matches')")


@pytest.mark.browser
def test_a_store_without_results_says_how_to_bring_them_in(
    tab_at: OpenTab, serving: Callable[..., Any], tmp_path: Path
) -> None:
    Store.create(tmp_path)
    with serving(tmp_path, lambda: 0) as address:
        tab = tab_at("/results", base=address)
        assert "perfwatt import mlperf-inference" in tab.text("#results-notice")
        tab.page.goto("about:blank")


def test_a_csv_of_all_results_has_every_phase(url: str) -> None:
    with urllib.request.urlopen(f"{url}/results/all.csv", timeout=30) as response:
        found = pl.read_csv(response.read())
    assert found["phase"].value_counts().sort("phase").rows() == [("ranging", 1), ("run_1", 4)]
