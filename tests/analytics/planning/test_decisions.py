"""What a planner can decide now, as rows of the table recommendations."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics.capacity.assessment import Assessment, nodes
from analytics.capacity.headroom import survey
from analytics.capacity.load import Leaf, Load
from analytics.capacity.paths import PATHS
from analytics.capacity.tree import trees
from analytics.fleet_toml import parse_fleet
from analytics.planning.decisions import decisions
from analytics.planning.proof import PROOF, Proof

END_NS = 1_772_409_600_000_000_000
END = datetime(2026, 3, 2)
SITE = """
[[site]]
name = "{name}"
pue = 1.2
currency = "EUR"
price_per_kwh = 0.1
"""
ROW = """
[[domain]]
name = "{row}-a"
site = "{site}"
group = "{row}"
redundancy = "2N"
rating_w = {watts}
[[domain]]
name = "{row}-b"
site = "{site}"
group = "{row}"
redundancy = "2N"
rating_w = {watts}
"""
RACK = """
[[rack]]
name = "{rack}"
feeds = ["{row}-a", "{row}-b"]
units = 20
sku = "X"
"""
SKU = """
[[sku]]
name = "X"
currency = "EUR"
discount_ratio = 0
life_years = 5
[sku.server]
rack_units = 4
peak_w = 4000
mean_w = 3000
nameplate_w = 5000
capex = 60e3
lead_days = 30
"""
ONE_ROW = SITE.format(name="s") + ROW.format(row="r1", site="s", watts=10_000) + RACK.format(rack="k1", row="r1") + SKU
TWO_ROWS = ONE_ROW + ROW.format(row="r2", site="s", watts=10_000) + RACK.format(rack="k2", row="r2")


def told(text: str, watts: dict[str, float], *, paths: pl.DataFrame | None = None) -> dict[tuple[str, str], Any]:
    """Recommendations by kind and name; each rack has a host for each 3 kW that it draws."""
    fleet = parse_fleet(text)
    surveys = []
    for tree in trees(fleet):
        leaves = tuple(
            Leaf(
                name=rack, pool=pool, measured_w=watts[rack], rack_units=4 * round(watts[rack] / 3000), ports=0,
                hosts=round(watts[rack] / 3000),
            )
            for rack, pool in tree.racks.items()
        )  # fmt: skip
        load = Load(
            leaves=leaves, times=np.array(["2026-03-02T00:00"], dtype="datetime64[m]"),
            power_w=np.array([[leaf.measured_w] for leaf in leaves]), covered_ratio=1.0,
            start_ns=END_NS - 60_000_000_000, end_ns=END_NS,
        )  # fmt: skip
        surveys.append(survey(tree, load, fleet))
    found = Assessment(fleet=fleet, surveys=tuple(surveys))
    ahead = {tree.site.name: paths for tree in trees(fleet)} if paths is not None else None
    rows = decisions(found, nodes(found, sku=fleet.sku("X"), paths=ahead), sku=fleet.sku("X"), paths=ahead)
    return {(row["kind"], row["name"]): row for row in rows.iter_rows(named=True)}


def growing(by: float, days: int = 200) -> pl.DataFrame:
    """Ten paths of the site that all grow by so much in all."""
    rows = [("s", path, END + timedelta(days=day), 100.0 * (1 + by * day / (days - 1)))
            for path in range(10) for day in range(days)]  # fmt: skip
    return pl.DataFrame(rows, schema=PATHS, orient="row")


def test_the_next_servers_have_racks_headroom_dates_and_a_price() -> None:
    # 10 kW of either feed, 1.5 kW drawn: two of 4 kW, and half a kilowatt is left.
    row = told(ONE_ROW, {"k1": 1500.0})["place", "r1-a"]
    assert row["summary"].startswith("put 2 more servers of X (8.0 kW) on r1-a + r1-b at s (k1 2): 0.5 kW stay free at")
    assert "in the worst of 5 failure cases (r1-" in row["summary"]
    assert row["summary"].count("lost)") == 1
    assert "ordered now they stand on 2026-04-01, lead time 30 days" in row["summary"]
    assert (row["effect_low"], row["effect_mid"], row["effect_high"]) == (6000.0, 8000.0, 10_000.0)
    assert (row["cost"], row["currency"]) == (120e3, "EUR")
    # A year: a fifth of the price, and 3 kW at 1.2 x 0.1 an hour.
    assert "15,154 EUR a server and year" in row["summary"]
    assert row["query"] == "perfwatt fit --sku X --count 2 --site s"


def test_load_that_grows_leaves_room_for_fewer_and_the_runway_counts_the_new_ones() -> None:
    # Within 120 days load grows by 60 %: 1.5 kW become 2.4, and two of 4 kW no longer fit.
    row = told(ONE_ROW, {"k1": 1500.0}, paths=growing(1.0))["place", "r1-a"]
    assert row["summary"].startswith("put 1 more server of X (4.0 kW)")
    assert "load that grows by 60% up to 2026-06-30 included" in row["summary"]
    assert "with it nothing runs out up to 2026-09-17 in 9 of 10 paths" in row["summary"]
    # By 300 % in 200 days: 6 kW beside 4 kW are too much on the last day but none.
    later = told(ONE_ROW, {"k1": 1500.0}, paths=growing(3.2))["place", "r1-a"]
    assert "with it power runs out 2026-09" in later["summary"]


def test_a_site_that_is_full_says_what_one_more_server_lacks() -> None:
    found = told(ONE_ROW, {"k1": 6500.0})
    (summary,) = [row["summary"] for (kind, _), row in found.items() if kind == "relieve"]
    assert summary.startswith("s takes no further server of X (4.0 kW): k1 has 3.5 kW left, limited by r1-")
    assert "0.5 kW more there, or as much less load, makes room for one" in summary
    assert not any(kind == "place" for kind, _ in found)


def test_an_overload_is_ended_by_servers_that_move_to_a_rack_that_takes_them() -> None:
    found = told(TWO_ROWS, {"k1": 12_000.0, "k2": 3000.0})
    row = found["move", "r1-a"] if ("move", "r1-a") in found else found["move", "r1-b"]
    assert row["summary"].startswith("move 1 of the 4 servers of k1 (3.0 kW): 1 to k2; r1-")
    assert "is overloaded by 2.0 kW (r1-" in row["summary"]
    assert (row["baseline"].startswith("2.0 kW too much"), row["effect_mid"]) == (True, pytest.approx(2000.0))
    # One move ends both, and neither is told again, nor the pair that they are.
    assert [kind for kind, _ in found].count("move") == 1


def test_a_move_that_no_rack_takes_is_not_proposed() -> None:
    found = told(TWO_ROWS, {"k1": 12_000.0, "k2": 9000.0})
    assert "move 2.0 kW elsewhere" in found["move", "r1-a"]["summary"]
    assert "move 2.0 kW elsewhere" in found["move", "r1-b"]["summary"]


def test_servers_move_to_another_site_where_their_own_has_no_room() -> None:
    text = ONE_ROW + SITE.format(name="t") + ROW.format(row="r9", site="t", watts=10_000)
    text += RACK.format(rack="k9", row="r9")
    found = told(text, {"k1": 12_000.0, "k9": 3000.0})
    (row,) = [row for (kind, _), row in found.items() if kind == "move"]
    assert "1 to k9 at t" in row["summary"]


def test_a_placement_that_its_proof_refutes_is_told_and_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    refuted = Proof(cases=pl.DataFrame(schema=PROOF), violations=("r1-b carries 11.0 kW of 10.0 kW", "k1 is dark"))
    monkeypatch.setattr("analytics.planning.decisions.prove", lambda *_, **__: refuted)
    found = told(ONE_ROW, {"k1": 1500.0})
    assert not any(kind == "place" for kind, _ in found)
    summary = found["relieve", "s"]["summary"]
    assert "headroom has room for 2 (k1 2)" in summary
    assert "finds: r1-b carries 11.0 kW of 10.0 kW, and 1 more" in summary
