"""What is drawn is what was measured, and nothing else."""

import json
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from collector.catalogue import POWER, UTILIZATION
from collector.store import Store
from dashboards.data import fleet
from dashboards.data.fleet import View
from dashboards.data.stored import Stored
from dashboards.figures import fleet as figures
from dashboards.figures import style
from dashboards.figures.buckets import Buckets
from dashboards.page import changed
from dashboards.selection import Selection
from tests.dashboards.plotted import plotted


@pytest.fixture
def view(store_root: Path, clock_ns: Callable[[], int]) -> View:
    return fleet.view(Stored(store_root, clock_ns=clock_ns), Selection(window="15m", by="device"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axes_are_titled_from_the_catalogue(view: View, theme: str) -> None:
    assert plotted(figures.power(view, theme)).layout.yaxis.title.text == POWER.title == "Power (W)"
    assert plotted(figures.utilization(view, theme)).layout.yaxis.title.text == UTILIZATION.title
    assert plotted(figures.energy(view, theme)).layout.xaxis.title.text == "Energy (Wh)"


def test_bars_stack_to_the_fleets_mean_and_the_line_is_its_peak(view: View) -> None:
    figure = plotted(figures.power(view, "light"))
    bars = [trace.y for trace in figure.data if trace.type == "bar"]
    stacked = np.nansum(np.stack(bars), axis=0)
    assert stacked[stacked > 0].tolist() == pytest.approx(view.power["power_mean_w"].to_list())
    assert np.nanmax(figure.data[-1].y) == pytest.approx(1600.0)


def test_a_gap_is_no_number_and_not_zero(view: View) -> None:
    figure = plotted(figures.power(view, "light"))
    modelled = next(trace for trace in figure.data if trace.name.startswith("TPU-b1"))
    assert np.isnan(modelled.y).sum() >= 28
    assert 0.0 not in modelled.y
    line = next(trace for trace in plotted(figures.utilization(view, "light")).data if trace.name == "TPU-b1")
    assert line.connectgaps is False
    assert np.isnan(line.y).sum() >= 28


def test_modelled_watts_are_told_from_measured_ones(view: View) -> None:
    assert "TPU-b1 (modelled)" in {trace.name for trace in plotted(figures.power(view, "light")).data}
    patterns = {trace.y[0]: trace.marker.pattern.shape for trace in plotted(figures.energy(view, "light")).data}
    assert patterns == {"GPU-a1": "", "GPU-a2": "", "TPU-b1": "/"}


def test_more_groups_than_colours_are_shown_together_and_nothing_is_left_out(
    tmp_path: Path, clock_ns: Callable[[], int], samples: pl.DataFrame
) -> None:
    one = samples.filter(pl.col("device") == "GPU-a1")
    many = pl.concat(one.with_columns(device=pl.lit(f"GPU-{n:02}"), power_w=pl.lit(100.0 + n)) for n in range(20))
    Store.create(tmp_path).write("device_samples", many)
    view = fleet.view(Stored(tmp_path, clock_ns=clock_ns), Selection(window="15m", by="device"))
    bars = [trace for trace in plotted(figures.power(view, "light")).data if trace.type == "bar"]
    assert [trace.name for trace in bars][-1] == "12 others"
    assert len(bars) == style.SHOWN + 1
    assert sum(trace.y[100] for trace in bars) == pytest.approx(sum(100.0 + n for n in range(20)))


def test_what_was_not_measured_is_said_to_be_so(tmp_path: Path, clock_ns: Callable[[], int]) -> None:
    Store.create(tmp_path)
    view = fleet.view(Stored(tmp_path, clock_ns=clock_ns), Selection())
    assert "not measured" in plotted(figures.efficiency(view, "dark")).layout.annotations[0].text
    assert not plotted(figures.energy(view, "dark")).data


def test_the_time_axis_is_the_window_whatever_was_measured(view: View) -> None:
    first, last = plotted(figures.power(view, "light")).layout.xaxis.range
    assert (first, last) == (datetime(2026, 3, 4, 11, 45), datetime(2026, 3, 4, 12, 0, 1))
    assert view.end == datetime(2026, 3, 4, 12, 0, 1, tzinfo=UTC)


def test_a_figure_makes_room_for_the_names_beside_it_so_that_it_is_drawn_once() -> None:
    def left(name: str) -> int:
        figure = style.empty("light", y={"type": "category"})
        figure.add_bar(x=[1.0], y=[name], orientation="h")
        drawn = style.fitted(figure)
        assert "automargin" not in drawn["layout"]["yaxis"]
        return int(drawn["layout"]["margin"]["l"])

    assert left("phoenix-r02-n4") > 14 * 7
    assert left("phoenix-r02-n4") > left("phoenix") + 40


def test_what_the_browser_has_is_not_sent_again() -> None:
    other = style.hidden()
    other.add_bar(x=[1.0, float("nan")])
    parts = {"chart": {"figure": style.hidden().packed()}, "status": {"html": "5 < 6"}}
    first = json.loads(changed(parts, {}))
    assert first["parts"]["status"] == {"html": "5 &lt; 6"}
    assert first["parts"].keys() == first["has"].keys() == parts.keys()
    again = json.loads(changed(parts, first["has"]))
    assert again == {"parts": {}, "has": first["has"]}
    third = json.loads(changed({"chart": {"figure": other.packed()}}, first["has"]))
    assert third["parts"]["chart"]["figure"]["data"][0]["x"] == [1.0, None]
    # A part that is not told of is still there.
    assert third["has"]["status"] == first["has"]["status"]


def test_series_go_as_their_bytes_and_what_is_not_said_does_not_go() -> None:
    figure = style.empty("light")
    figure.add_scatter(x=[1, 2], y=pl.Series([1.5, float("nan")], dtype=pl.Float32), fill=None)
    (trace,) = figure.packed()["data"]
    assert trace.keys() == {"type", "x", "y"}
    assert trace["y"]["dtype"] == "f4"
    assert np.array_equal(np.frombuffer(b64decode(trace["y"]["bdata"]), "<f4"), [1.5, np.nan], equal_nan=True)


def test_buckets_are_whole_and_have_what_was_measured_in_them() -> None:
    start = datetime(2026, 3, 4, 11, 59, 50, tzinfo=UTC)
    buckets = Buckets(start, datetime(2026, 3, 4, 12, 1, 10, tzinfo=UTC), 30)
    assert buckets.axis == {"x0": datetime(2026, 3, 4, 11, 59, 30), "dx": 30_000}
    assert (buckets.edges_ms.diff().drop_nulls() / 1000).to_list() == [30.0, 0.0] * 3 + [30.0]
    assert buckets.edges_ms[-1] == datetime(2026, 3, 4, 12, 1, 30, tzinfo=UTC).timestamp() * 1000
    rows = pl.DataFrame({"window": [datetime(2026, 3, 4, 12, 0, 30)], "power_w": [2.0]})
    assert np.array_equal(buckets.values(rows, "power_w", 10), [np.nan, np.nan, 20.0, np.nan], equal_nan=True)
    of_groups = pl.DataFrame(
        {
            "window": [datetime(2026, 3, 4, 12, minute, second) for minute, second in ((1, 0), (0, 0), (0, 30))],
            "group": ["b", "a", "b"],
            "power_w": [1.0, 2.0, None],
        }
    )
    a, b, none = buckets.each(of_groups, "power_w", ["a", "b", "c"])
    for name, line in (("a", a), ("b", b)):
        alone = buckets.values(of_groups.filter(group=name), "power_w")
        assert line.dtype == alone.dtype
        assert np.array_equal(line, alone, equal_nan=True)
    assert b.to_list()[3] == 1.0
    assert none.is_nan().all()
    assert buckets.each(of_groups.clear(), "power_w", []) == []
