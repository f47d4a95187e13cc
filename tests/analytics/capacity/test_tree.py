"""The power tree against a walk through it, and what is safe of it by hand."""

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.capacity.tree import NOTHING, Tree, trees
from analytics.fleet import Domain, Fleet, Rack, Site
from analytics.fleet_toml import parse_fleet
from tests.analytics.fleets import draws, fleets, rating, walked


def loads(tree: Tree, fleet: Fleet, watts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The load of each node in each case, by the tree's weights."""
    drawn = dict.fromkeys(tree.pools, 0.0)
    for rack, pool in tree.racks.items():
        drawn[pool] += watts[rack]
    for domain in fleet.domains:
        if domain.site == tree.site.name:
            drawn[domain.name,] = drawn.get((domain.name,), 0.0) + domain.other_w
    pools = np.array([drawn[pool] for pool in tree.pools])
    found = {}
    for case in tree.cases:
        total = tree.weights(case) @ pools
        if case.rack is not None:
            moved = tree.rack_weights(case.rack, case) - tree.rack_weights(case.rack, tree.cases[0])
            total = tree.weights(tree.cases[0]) @ pools + moved * watts[case.rack]
        found[case.name] = dict(zip(tree.at, total.tolist(), strict=True))
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_node_carries_in_every_case_what_a_walk_through_the_tree_finds(data: st.DataObject) -> None:
    fleet = data.draw(fleets(sites=2))
    watts = data.draw(draws(fleet))
    told = walked(fleet, watts)
    for tree in trees(fleet):
        found = loads(tree, fleet, watts)
        for case, load in found.items():
            one = told[tree.site.name, case]
            assert load == pytest.approx({name: one.load_w[name] for name in load}, abs=1e-6)
        # A cord that is no case of its own is no worse for any node than its feed, or than nothing.
        for (site, case), one in told.items():
            if site == tree.site.name and case not in found:
                _, feed = case.split(": cord to ")
                for name in tree.at:
                    most = max(found["none"][name], found.get(feed, found["none"])[name])
                    assert one.load_w[name] <= most + 1e-6, (case, name)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_capacities_and_dark_racks_are_those_of_the_walk(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    (tree,) = trees(fleet)
    told = {case: one for (_, case), one in walked(fleet, {rack.name: 1.0 for rack in fleet.racks}).items()}
    for case in tree.cases:
        one = told[case.name]
        limits = dict(zip(tree.at, tree.capacity_w(case).tolist(), strict=True))
        for name, limit in limits.items():
            known = one.capacity_w[name]
            assert np.isnan(limit) if known is None else limit == pytest.approx(known)
        if case.rack is None:
            assert {rack for rack, pool in tree.racks.items() if pool in tree.dark(case)} == one.dark


def test_a_transfer_switch_loads_the_generator_only_when_the_utility_is_lost() -> None:
    fleet = Fleet(
        sites=(Site(name="s", limit_w=1e6),),
        domains=(
            Domain(name="grid", site="s", kind="utility"),
            Domain(name="diesel", site="s", kind="generator"),
            Domain(name="ats", site="s", kind="transfer_switch", parents=("grid", "diesel")),
        ),
        racks=(Rack(name="r", site="s", feeds=("ats",)),),
    )
    (tree,) = trees(fleet)
    found = loads(tree, fleet, {"r": 10.0})
    assert found["none"] == {"s": 10.0, "grid": 10.0, "diesel": 0.0, "ats": 10.0}
    assert found["grid"] == {"s": 0.0, "grid": 0.0, "diesel": 10.0, "ats": 10.0}


def test_losses_add_up_on_the_way_and_the_pue_of_the_site_has_them_in_it() -> None:
    text = """
    [[site]]
    name = "s"
    pue = 1.5
    [[domain]]
    name = "ups"
    efficiency_ratio = 0.9
    [[domain]]
    name = "pdu"
    parent = "ups"
    efficiency_ratio = 0.8
    [[rack]]
    name = "r"
    feeds = ["pdu"]
    """
    fleet = parse_fleet(text)
    found = loads(trees(fleet)[0], fleet, {"r": 72.0})["none"]
    assert found == pytest.approx({"s": 108.0, "ups": 90.0, "pdu": 72.0})
    plain = parse_fleet(text.replace("pue = 1.5", ""))
    assert loads(trees(plain)[0], plain, {"r": 72.0})["none"]["s"] == pytest.approx(100.0)
    told = parse_fleet(text.replace('name = "ups"', 'name = "ups"\nother_w = 9'))
    assert loads(trees(told)[0], told, {"r": 72.0})["none"]["s"] == pytest.approx(110.0)


def test_the_worst_cord_of_an_uneven_pair_is_a_case_of_its_own() -> None:
    """Feed a is of both halves of the board, feed b of one: losing the cord to a moves its other half there."""
    fleet = Fleet(
        sites=(Site(name="s"),),
        domains=(
            Domain(name="x", site="s", rating=rating(1e3)),
            Domain(name="y", site="s", rating=rating(1e3)),
            Domain(name="a", site="s", parents=("x", "y")),
            Domain(name="b", site="s", parents=("x",)),
        ),
        racks=(Rack(name="r", site="s", feeds=("a", "b")), Rack(name="single", site="s", feeds=("a",))),
    )
    (tree,) = trees(fleet)
    assert [case.name for case in tree.cases] == ["none", "x", "y", "a", "b", "r: cord to a"]
    found = loads(tree, fleet, {"r": 100.0, "single": 400.0})
    assert found["r: cord to a"]["x"] == pytest.approx(300.0)
    assert found["none"]["x"] == pytest.approx(275.0)
    assert found["a"]["x"] == pytest.approx(100.0)


def test_two_feeds_of_60_a_at_415_v_are_34_5_kva_safe_not_69() -> None:
    fleet = parse_fleet("""
    [[site]]
    name = "s"
    power_factor = 1
    [[domain]]
    name = "a"
    rating_v = 415
    rating_a = 60
    phases = 3
    [[domain]]
    name = "b"
    rating_v = 415
    rating_a = 60
    phases = 3
    [[rack]]
    name = "r"
    feeds = ["a", "b"]
    """)
    (tree,) = trees(fleet)
    capacity = tree.capacity_w(tree.cases[0])[1:]
    assert capacity == pytest.approx([0.8 * sqrt(3) * 415 * 60] * 2)
    # The most that the rack may draw such that no node is above its capacity in any case.
    weights = [tree.rack_weights("r", case)[1:] for case in tree.cases]
    most = min(limit / weight for one in weights for limit, weight in zip(capacity, one, strict=True) if weight)
    assert most == pytest.approx(34.5e3, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_nodes_carry_now_is_the_case_in_which_all_stands(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    fleet = replace(fleet, domains=tuple(replace(domain, other_w=0.0) for domain in fleet.domains))
    (tree,) = trees(fleet)
    watts = {name: 1000.0 * (at + 1) for at, name in enumerate(tree.racks)}
    carried = tree.carried_w(watts)
    for name, load in loads(tree, fleet, watts)[NOTHING].items():
        assert carried[name] == pytest.approx(load)
