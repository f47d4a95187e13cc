"""When something runs out, and what runs out first."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from analytics.capacity.paths import daily_peaks, futures, paths
from analytics.capacity.runway import runway
from analytics.fleet_toml import parse_fleet
from collector.errors import NotEnoughData
from tests.analytics.capacity.test_headroom import surveyed

FLEET = """
[[site]]
name = "s"
lead_days = 100
[[domain]]
name = "top"
rating_w = 30e3
[[domain]]
name = "a"
parent = "top"
rating_w = 20e3
lead_days = 7
[[rack]]
name = "r"
feeds = ["a"]
[[rack]]
name = "q"
feeds = ["a"]
"""
DAY = datetime(2026, 4, 1)


def grown(*rates_w: float, node: str = "s", days: int = 100, start: float = 10e3) -> pl.DataFrame:
    """Paths that grow by so many watts a day."""
    rows = [(node, path, DAY + timedelta(days=day), start + rate * day)
            for path, rate in enumerate(rates_w) for day in range(days)]  # fmt: skip
    schema = {"node": pl.String(), "path": pl.Int64(), "time": pl.Datetime("ns"), "power_w": pl.Float64()}
    return pl.DataFrame(rows, orient="row", schema=schema)


def told(text: str, watts: dict[str, list[float]], ahead: pl.DataFrame, node: str) -> dict[str, object]:
    fleet = parse_fleet(text)
    (one,) = runway(surveyed(fleet, watts), ahead, fleet).filter(node=node).to_dicts()
    return one


def test_the_runway_is_the_distribution_of_the_days_on_which_the_paths_run_out() -> None:
    """From 10 kW on, 20 kW are exceeded by rates of 1, 2 ... 10 kW in ten days after 100, 50 ... 10 days."""
    rates = [100.0 * n for n in range(1, 11)]
    one = told(FLEET, {"r": [10e3], "q": [0.0]}, grown(*rates), "a")
    assert one["runway_p10"] == DAY + timedelta(days=11)
    assert one["runway_p50"] == DAY + timedelta(days=17)
    assert one["runway_p90"] == DAY + timedelta(days=51)
    assert (one["runs_out_ratio"], one["binding"], one["paths"]) == (0.9, "power", 10)
    assert (one["lead_days"], one["order_by"]) == (7.0, DAY + timedelta(days=4))


def test_beyond_the_horizon_there_is_no_date() -> None:
    one = told(FLEET, {"r": [10e3], "q": [0.0]}, grown(0.0, 0.0, 500.0), "a")
    assert (one["runway_p50"], one["runway_p10"]) == (None, DAY + timedelta(days=21))
    assert told(FLEET, {"r": [10e3], "q": [0.0]}, grown(0.0), "a")["binding"] is None


def test_what_is_above_binds_where_it_is_reached_first() -> None:
    text = FLEET.replace("rating_w = 30e3", "rating_w = 12e3")
    one = told(text, {"r": [10e3], "q": [0.0]}, grown(500.0), "a")
    assert (one["binding"], one["lead_days"]) == ("power of top", 100.0)
    assert told(text, {"r": [10e3], "q": [0.0]}, grown(500.0), "top")["binding"] == "power"


@pytest.mark.parametrize(
    ("key", "binding"),
    [
        ("units = 12\nunits_used = 10", "space"),
        ("ports = 12\nports_used = 10", "ports"),
        ("cooling_w = 12e3", "cooling"),
    ],
)
def test_space_ports_and_cooling_run_out_in_the_proportion_in_which_load_grows(key: str, binding: str) -> None:
    text = FLEET.replace('name = "r"', f'name = "r"\n{key}').replace('[[rack]]\nname = "q"\nfeeds = ["a"]\n', "")
    one = told(text, {"r": [10e3]}, grown(500.0), "r")
    assert (one["binding"], one["runway_p50"]) == (binding, DAY + timedelta(days=5))
    assert one["lead_days"] == 100.0


def test_a_limit_that_one_rack_does_not_tell_is_none_of_the_row() -> None:
    text = FLEET.replace('name = "r"', 'name = "r"\ncooling_w = 11e3')
    assert told(text, {"r": [10e3], "q": [1e3]}, grown(500.0), "a")["binding"] == "power"


def test_what_is_overloaded_already_has_run_out() -> None:
    assert told(FLEET, {"r": [21e3], "q": [0.0]}, grown(-50.0), "a")["runway_p90"] == DAY


def test_a_node_grows_by_its_own_paths_before_those_above_it() -> None:
    ahead = pl.concat([grown(0.0), grown(1000.0, node="a")])
    assert told(FLEET, {"r": [10e3], "q": [0.0]}, ahead, "a")["runway_p50"] == DAY + timedelta(days=11)
    assert told(FLEET, {"r": [10e3], "q": [0.0]}, ahead, "top")["runway_p50"] is None


# -------------------------------------------------------------------------------------------------------------- paths


def test_daily_peaks_are_of_days_that_are_measured() -> None:
    found = surveyed(parse_fleet(FLEET), {"r": [1e3] * 1440 + [2e3] * 1500, "q": [0.0] * 2940})
    peaks = daily_peaks(found).filter(node="a")
    assert peaks["day"].to_list() == [date(2026, 3, 2), date(2026, 3, 3)]
    assert peaks["power_w"].to_list() == [1e3, 2e3]


def test_a_short_history_is_refused_with_the_days_that_it_lacks() -> None:
    daily = pl.DataFrame({"node": "a", "day": [date(2026, 3, day) for day in range(1, 10)], "power_w": 1.0})
    with pytest.raises(NotEnoughData, match="9 days are known, 14 are needed: 5 more days"):
        paths(daily)


def test_paths_go_on_where_the_history_ends_and_nodes_share_one_future() -> None:
    days = [date(2026, 3, 1) + timedelta(days=n) for n in range(20)]
    noise = np.random.default_rng(1).normal(0, 10, 20)
    daily = pl.concat(
        pl.DataFrame({"node": name, "day": days, "power_w": 1000.0 + 5.0 * np.arange(20) + noise}) for name in "ab"
    )
    found = paths(daily, days=30, count=50, seed=3)
    assert found["time"].min() == datetime(2026, 3, 21)
    assert found.height == 2 * 50 * 30
    a, b = (found.filter(node=name).sort("path", "time")["power_w"] for name in "ab")
    assert a.to_list() == pytest.approx(b.to_list())
    assert paths(daily, days=30, count=50, seed=3).equals(found)
    last = found.filter(pl.col("time") == pl.col("time").max())["power_w"].median()
    assert last == pytest.approx(1000.0 + 5.0 * 49, rel=0.03)


def test_what_comes_is_within_the_bands_of_the_paths_about_as_often_as_they_say() -> None:
    """Trends with noise that lasts for days; the band of 80 % holds for single days 15 days ahead."""
    rng, inside, trials = np.random.default_rng(0), 0, 150
    for trial in range(trials):
        shocks = rng.normal(0, 20, 80)
        noise = np.array([sum(0.5**k * shocks[n - k] for k in range(8)) for n in range(8, 80)])
        series = 1000.0 + rng.uniform(0, 10) * np.arange(72) + noise
        ahead = futures(series[:56, None], days=16, count=120, seed=trial)[:, 14, 0]
        low, high = np.quantile(ahead, [0.1, 0.9])
        inside += low <= series[70] <= high
    assert 0.70 <= inside / trials <= 0.88
