"""Headroom as the worst over all single failures of the joint load, and what becomes of every watt installed."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.capacity.headroom import Survey, cases, headroom, require_days, survey
from analytics.capacity.ledger import MEANING, ledger, most_servers, smallest_server
from analytics.capacity.load import Leaf, Load
from analytics.capacity.tree import trees
from analytics.fleet import Fleet, Server, Sku
from analytics.fleet_toml import parse_fleet
from collector.errors import NotEnoughData
from tests.analytics.fleets import fleets, walked

START_NS = 1_772_409_600_000_000_000
PAIR = """
[[site]]
name = "s"
power_factor = 1
[[domain]]
name = "a"
group = "ab"
redundancy = "2N"
rating_v = 415
rating_a = 60
phases = 3
[[domain]]
name = "b"
group = "ab"
redundancy = "2N"
rating_v = 415
rating_a = 60
phases = 3
[[rack]]
name = "r1"
feeds = ["a", "b"]
units = 42
[[rack]]
name = "r2"
feeds = ["a", "b"]
units = 42
"""


def surveyed(
    fleet: Fleet,
    watts: Mapping[str, list[float]],
    *,
    percentile: float = 1.0,
    plates: Mapping[str, float] | None = None,
) -> Survey:
    """A survey of the fleet's only site whose racks drew *watts* in minutes."""
    (tree,) = trees(fleet)
    length = len(next(iter(watts.values()), [0.0]))
    leaves = [
        Leaf(name=rack, pool=pool, measured_w=float(np.mean(watts[rack])),
             rack_units=fleet.rack(rack).units_used or 0, ports=fleet.rack(rack).ports_used or 0,
             nameplate_w=(plates or {}).get(rack))
        for rack, pool in tree.racks.items()
    ]  # fmt: skip
    rows = [watts[leaf.name] for leaf in leaves]
    for domain in fleet.domains:
        if domain.other_w:
            leaves.append(Leaf(name=f"{domain.name} (other)", pool=(domain.name,), assumed_w=domain.other_w))
            rows.append([domain.other_w] * length)
    load = Load(
        leaves=tuple(leaves), times=np.datetime64("2026-03-02T00:00", "m") + np.arange(length),
        power_w=np.array(rows, dtype=float).reshape(len(leaves), length), covered_ratio=1.0, start_ns=START_NS,
        end_ns=START_NS + length * 60_000_000_000,
    )  # fmt: skip
    return survey(tree, load, fleet, percentile=percentile)


def row(found: Survey, node: str) -> dict[str, Any]:
    (one,) = headroom(found).filter(node=node).to_dicts()
    return one


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_headroom_is_the_worst_of_every_case_walked_minute_by_minute(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    minutes = data.draw(st.lists(st.tuples(*[st.integers(0, 20_000)] * len(fleet.racks)), min_size=1, max_size=4))
    watts = {rack.name: [float(m[at]) for m in minutes] for at, rack in enumerate(fleet.racks)}
    found = headroom(surveyed(fleet, watts))
    told = [list(walked(fleet, {name: row[at] for name, row in watts.items()}).values()) for at in range(len(minutes))]
    for one in found.filter(~found["kind"].is_in(["rack", "group"])).iter_rows(named=True):
        margins = []
        for at in range(len(told[0])):
            limit = told[0][at].capacity_w[one["node"]]
            if limit is not None:
                margins.append(limit - max(minute[at].load_w[one["node"]] for minute in told))
        if margins:
            assert one["headroom_w"] == pytest.approx(min(margins), abs=1e-6)
        else:
            assert one["headroom_w"] is None
    for one in found.filter(kind="rack").iter_rows(named=True):
        rack = fleet.rack(one["node"])
        if rack.rating is not None:
            alone = rack.rating.derated_w * max(1, len(rack.feeds) - 1)
            assert one["headroom_w"] == pytest.approx(alone - max(watts[rack.name]))


def test_two_feeds_of_60_a_at_415_v_are_34_5_kva_safe_and_counted_once() -> None:
    found = surveyed(parse_fleet(PAIR), {"r1": [10e3], "r2": [4e3]})
    one = 0.8 * sqrt(3) * 415 * 60
    pair, feed = row(found, "ab"), row(found, "a")
    assert pair["safe_w"] == pytest.approx(one)
    assert pair["safe_w"] == pytest.approx(34.5e3, rel=1e-3)
    assert pair["rated_w"] == pytest.approx(2 * sqrt(3) * 415 * 60)
    assert (pair["load_w"], pair["headroom_w"]) == (14e3, pytest.approx(one - 14e3))
    assert (feed["load_w"], feed["failure_load_w"], feed["worst_failure"]) == (7e3, 14e3, "b")
    assert feed["headroom_w"] == pytest.approx(one - 14e3)
    assert found.rack_free_w(fleet_rack(found, "r1"))[0] == pytest.approx(one - 14e3)


def fleet_rack(found: Survey, name: str) -> Any:
    return next(rack for rack in found.racks if rack.name == name)


def test_a_racks_circuits_are_safe_as_the_one_that_is_left() -> None:
    text = PAIR.replace("units = 42", "units = 42\nrating_v = 230\nrating_a = 32\nphases = 1", 1)
    found = surveyed(parse_fleet(text), {"r1": [4e3], "r2": [0.0]})
    circuit = 0.8 * 230 * 32
    assert (row(found, "r1")["safe_w"], row(found, "r1")["rated_w"]) == (pytest.approx(circuit), 2 * 230 * 32)
    assert found.rack_free_w(fleet_rack(found, "r1")) == (pytest.approx(circuit - 4e3), "r1", "r1: cord to a")


def test_peaks_that_do_not_coincide_are_not_added_up() -> None:
    found = surveyed(parse_fleet(PAIR), {"r1": [10e3, 1e3], "r2": [1e3, 10e3]})
    assert row(found, "ab")["load_w"] == 11e3
    assert row(found, "ab")["coincidence_ratio"] == pytest.approx(11 / 20)


def test_the_percentile_is_of_the_joint_load_and_a_value_that_was_seen() -> None:
    spike = [1e3] * 199 + [30e3]
    watts = {"r1": spike, "r2": [0.0] * 200}
    assert row(surveyed(parse_fleet(PAIR), watts, percentile=0.99), "ab")["load_w"] == 1e3
    assert row(surveyed(parse_fleet(PAIR), watts, percentile=1.0), "ab")["load_w"] == 30e3
    assert row(surveyed(parse_fleet(PAIR), watts, percentile=0.99), "ab")["load_basis"].startswith("p99 of 200 minutes")


def test_exceedance_is_the_share_of_minutes_in_which_the_worst_failure_would_overload() -> None:
    found = surveyed(parse_fleet(PAIR), {"r1": [20e3] * 3 + [40e3], "r2": [0.0] * 4})
    assert row(found, "a")["exceedance_ratio"] == 0.25
    assert row(found, "a")["headroom_w"] < 0


def test_oversubscription_is_nameplates_over_what_is_safe() -> None:
    found = surveyed(parse_fleet(PAIR), {"r1": [1.0], "r2": [1.0]}, plates={"r1": 40e3, "r2": 29e3})
    assert row(found, "ab")["oversubscription_ratio"] == pytest.approx(69e3 / (0.8 * sqrt(3) * 415 * 60))
    assert row(surveyed(parse_fleet(PAIR), {"r1": [1.0], "r2": [1.0]}), "ab")["oversubscription_ratio"] is None


def test_a_single_cord_goes_dark_and_the_case_says_how_much() -> None:
    found = cases(surveyed(parse_fleet(PAIR.replace('["a", "b"]', '["a"]', 1)), {"r1": [10e3], "r2": [4e3]}))
    lost = {one["case"]: one for one in found.to_dicts()}
    assert (lost["a"]["dark_w"], lost["b"]["dark_w"], lost["none"]["dark_w"]) == (10e3, 0.0, 0.0)
    assert (lost["b"]["node"], lost["b"]["load_w"]) == ("a", 14e3)
    assert lost["b"]["overloaded"] == 0


def test_a_host_of_which_nothing_is_known_leaves_no_headroom_to_be_told() -> None:
    found = surveyed(parse_fleet(PAIR), {"r1": [1.0], "r2": [1.0]})
    leaf = Leaf(name="r1", pool=("a", "b"), measured_w=1.0, unknown=("n1",))
    load = Load(**{**{name: getattr(found.load, name) for name in Load.__slots__},
                   "leaves": (leaf, found.load.leaves[1])})  # fmt: skip
    told = row(Survey(tree=found.tree, load=load, racks=found.racks), "a")
    assert (told["headroom_w"], told["unknown"]) == (None, 1)


def test_thin_data_refuses_and_says_how_many_more_days() -> None:
    found = surveyed(parse_fleet(PAIR), {"r1": [1.0] * 1440, "r2": [1.0] * 1440})
    with pytest.raises(NotEnoughData, match="1 days of its power are measured and 7 are needed: 6 more days"):
        require_days(found.load, "s", 7.0)


# ------------------------------------------------------------------------------------------------------------- ledger


def lines(found: Survey, sku: Sku | None) -> dict[str, float]:
    return dict(ledger(found, sku).select("cause", "power_w").iter_rows())


SKU = Sku(name="X", server=Server(accelerators=8, rack_units=8, peak_w=9e3, ports=4))


def test_the_ledger_of_a_pair_is_what_one_works_out_by_hand() -> None:
    rated, one = sqrt(3) * 415 * 60, 0.8 * sqrt(3) * 415 * 60
    found = surveyed(parse_fleet(PAIR), {"r1": [10e3], "r2": [4e3]}, plates={"r1": 20e3, "r2": 5e3})
    told = lines(found, SKU)
    assert told["installed"] == pytest.approx(2 * rated)
    assert told["derating"] == pytest.approx(2 * (rated - one))
    assert told["redundancy"] == pytest.approx(one)
    assert (told["upstream"], told["breaker"], told["in use"]) == (pytest.approx(0), pytest.approx(0), 14e3)
    assert told["fragments"] == pytest.approx(one - 14e3 - 2 * 9e3)
    assert (told["nameplate"], told["deployable"]) == (pytest.approx(9e3), pytest.approx(9e3))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_ledger_adds_up_to_what_is_installed(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    watts = {rack.name: [float(w) for w in data.draw(st.lists(st.integers(0, 9_000), min_size=2, max_size=2))]
             for rack in fleet.racks}  # fmt: skip
    for sku in (SKU, None):
        told = lines(surveyed(fleet, watts), sku)
        if told:
            whole = told.pop("installed")
            assert sum(told.values()) == pytest.approx(whole, abs=0.5)
            signed = {"imbalance"}
            assert all(value >= -0.5 for cause, value in told.items() if cause not in signed), told
            assert set(told) <= set(MEANING)


@pytest.mark.parametrize(
    ("replaced", "by", "cause"),
    [
        ("units = 42", "units = 7", "space"),
        ("units = 42", "units = 42\ncooling_w = 9e3", "cooling"),
        ("units = 42", "units = 42\nports = 3", "ports"),
        ("units = 42", "units = 42\nrating_w = 9e3\nderating_ratio = 1", "breaker"),
    ],
)
def test_what_a_rack_lacks_is_the_cause_that_the_ledger_names(replaced: str, by: str, cause: str) -> None:
    text = PAIR.replace(replaced, by)
    found = surveyed(parse_fleet(text), {"r1": [1e3], "r2": [1e3]}, plates={"r1": 1e3, "r2": 1e3})
    told, before = lines(found, SKU), lines(surveyed(parse_fleet(PAIR), {"r1": [1e3], "r2": [1e3]}), SKU)
    assert told["deployable"] == pytest.approx(0.0, abs=1e-6)
    assert told[cause] > before[cause] + 9e3
    assert sum(most_servers(found, SKU.server, found.racks).values()) == 0  # type: ignore[arg-type]


def test_the_smallest_server_is_that_which_draws_least() -> None:
    text = "".join(f'[[sku]]\nname = "{n}"\n[sku.server]\npeak_w = {w}\n' for n, w in (("a", 9e3), ("b", 5e3)))
    found = smallest_server(parse_fleet(text + '[[sku]]\nname = "c"\n'))
    assert found is not None
    assert found.name == "b"
    assert smallest_server(parse_fleet("")) is None
