"""Plans against brute force, and what they say of what limits them."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.capacity.assessment import Assessment
from analytics.capacity.headroom import survey
from analytics.capacity.load import Leaf, Load
from analytics.capacity.tree import trees
from analytics.fleet import Fleet
from analytics.fleet_toml import parse_fleet
from analytics.planning.plan import fit, plan
from analytics.planning.prices import planned_w, prices
from analytics.planning.proof import Placed, prove
from analytics.planning.request import Request, parse_plan
from analytics.planning.result import Plan
from collector.errors import ConfigError

START_NS = 1_772_409_600_000_000_000
SKUS = """
[[sku]]
name = "big"
currency = "EUR"
discount_ratio = 0
life_years = 5
[sku.server]
rack_units = 8
ports = 2
peak_w = 9000
mean_w = 6000
capex = 100e3
[[sku]]
name = "small"
currency = "EUR"
discount_ratio = 0
life_years = 5
[sku.server]
rack_units = 5
ports = 1
peak_w = 4000
mean_w = 3000
capex = 60e3
lead_days = 30
"""


def site(name: str, *, price: float = 0.1, feed_w: float = 20e3, racks: int = 2, rack: str = "", top_w: float = 1e6,
         extra: str = "") -> str:  # fmt: skip
    text = f"""
    [[site]]
    name = "{name}"
    pue = 1.2
    currency = "EUR"
    price_per_kwh = {price}
    {extra}
    [[domain]]
    name = "{name}-top"
    site = "{name}"
    rating_w = {top_w}
    """
    for side in "ab":
        text += f'[[domain]]\nname = "{name}-{side}"\nparent = "{name}-top"\nrating_w = {feed_w}\n'
    for at in range(racks):
        text += f'[[rack]]\nname = "{name}-r{at}"\nfeeds = ["{name}-a", "{name}-b"]\nunits = 16\n{rack}\n'
    return text


def assessed(fleet: Fleet, watts: Mapping[str, float] | None = None) -> Assessment:
    """What is there, with racks that draw *watts* all the time."""
    surveys = []
    for tree in trees(fleet):
        leaves = tuple(
            Leaf(name=rack, pool=pool, measured_w=(watts or {}).get(rack, 0.0), rack_units=0, ports=0)
            for rack, pool in tree.racks.items()
        )
        load = Load(
            leaves=leaves, times=np.array(["2026-03-02T00:00"], dtype="datetime64[m]"),
            power_w=np.array([[leaf.measured_w] for leaf in leaves]).reshape(len(leaves), 1), covered_ratio=1.0,
            start_ns=START_NS, end_ns=START_NS + 60_000_000_000,
        )  # fmt: skip
        surveys.append(survey(tree, load, fleet))
    return Assessment(fleet=fleet, surveys=tuple(surveys))


def asked(fleet: Fleet, demands: str, **values: Any) -> Request:
    told = {"start": "2027-01-01", "currency": '"EUR"', **values}
    head = "".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else value}\n" for key, value in told.items()
    )
    return parse_plan(head + demands, fleet)


def demand(name: str, skus: list[str], amount: list[float], rest: str = "") -> str:
    return f'[[demand]]\nname = "{name}"\nsku = {skus}\namount = {amount}\n{rest}\n'


def planned(text: str, demands: str, watts: Mapping[str, float] | None = None, **values: Any) -> Plan:
    fleet = parse_fleet(text + SKUS)
    return plan(assessed(fleet, watts), asked(fleet, demands, **values), runner_up=False)


# -------------------------------------------------------------------------------------------------------- brute force


@st.composite
def problems(draw: st.DrawFn) -> tuple[str, str, dict[str, float], dict[str, Any]]:
    sites = draw(st.integers(1, 2))
    text = "".join(
        site(
            f"s{at}", price=draw(st.sampled_from([0.05, 0.3])), feed_w=draw(st.sampled_from([9e3, 13e3, 30e3])),
            racks=1 if sites == 2 else draw(st.integers(1, 2)), top_w=draw(st.sampled_from([12e3, 40e3])),
            rack=draw(st.sampled_from(["", "cooling_w = 10e3", "ports = 2", "rating_w = 9e3"])),
            extra=draw(st.sampled_from(["", "limit_w = 20e3", "cooling_w = 13e3"])),
        )
        for at in range(sites)
    )  # fmt: skip
    periods = draw(st.integers(1, 2))
    amounts = st.tuples(st.integers(0, 2), st.integers(0, 1)).map(lambda two: [float(one) for one in two[:periods]])
    if draw(st.booleans()):
        skus = draw(st.sampled_from([["big"], ["small"], ["big", "small"]]))
        demands = demand(
            "d", skus, draw(amounts), 'unit = "x"\n[demand.per_server]\nbig = 2\nsmall = 1' if len(skus) == 2 else ""
        )
    else:
        demands = demand("d", ["big"], draw(amounts)) + demand("e", ["small"], draw(amounts))
    watts = {f"s{at}-r0": draw(st.sampled_from([0.0, 3e3])) for at in range(sites)}
    values: dict[str, Any] = {"periods": periods}
    if draw(st.booleans()):
        values |= {"budget": draw(st.sampled_from([70e3, 120e3])), "budget_carries": draw(st.booleans())}
    if draw(st.booleans()):
        values["growth_ratio_per_year"] = 0.5
    return text, demands, watts, values


def cheapest(fleet: Fleet, found: Assessment, request: Request) -> float | None:
    """The least cost of all placements that the proof accepts."""
    skus = [sku for sku in (fleet.sku("big"), fleet.sku("small")) if sku is not None
            and any(sku.name in one.skus for one in request.demands)]  # fmt: skip
    told = prices(fleet, skus, fleet.sites, request, {})
    places = [
        (rack, s, t) for rack in fleet.racks for s in range(len(skus)) for t in range(request.periods)
    ]  # fmt: skip
    cost = {place: float(told.cost[place[1], [x.name for x in fleet.sites].index(place[0].site), place[2]])
            for place in places}  # fmt: skip
    watts = {sku.name: planned_w(sku, request) for sku in skus}
    best: float | None = None

    def candidates(at: int, left: int) -> Iterator[list[int]]:
        if at == len(places):
            yield []
            return
        for count in range(min(left, 3) + 1):
            for rest in candidates(at + 1, left - count):
                yield [count, *rest]

    ordered = sorted(
        (sum(count * cost[place] for count, place in zip(counts, places, strict=True)), counts)
        for counts in candidates(0, 6)
    )
    for total, counts in ordered:
        placed = [Placed(rack.site, rack.name, skus[s].name, t, count)
                  for count, (rack, s, t) in zip(counts, places, strict=True) if count]  # fmt: skip
        if not _cheap_checks(request, told, skus, placed):
            continue
        if not prove(found, request, skus, placed, watts).violations:
            best = total
            break
    return best


def _cheap_checks(request: Request, told: Any, skus: Any, placed: list[Placed]) -> bool:
    names = [sku.name for sku in skus]
    for one in request.demands:
        for t in range(request.periods):
            supply = sum(p.servers * one.supply(skus[names.index(p.sku)]) for p in placed
                         if p.sku in one.skus and p.period <= t)  # fmt: skip
            if supply < one.needed[t]:
                return False
    if request.budget is not None:
        left = 0.0
        for t, budget in enumerate(request.budget):
            spent = sum(p.servers * float(told.capex[names.index(p.sku)]) for p in placed if p.period == t)
            left = (left if request.budget_carries else 0.0) + budget - spent
            if left < 0:
                return False
    return True


@settings(max_examples=25, deadline=None)
@given(problems())
def test_a_plan_costs_what_the_best_of_all_placements_does(
    problem: tuple[str, str, dict[str, float], dict[str, Any]],
) -> None:
    text, demands, watts, values = problem
    fleet = parse_fleet(text + SKUS)
    found, request = assessed(fleet, watts), asked(fleet, demands, **values)
    told, best = plan(found, request, runner_up=False), cheapest(fleet, found, request)
    if best is None:
        assert (told.status, told.placements.height) == ("infeasible", 0)
        assert told.conflict
    else:
        assert told.status == "optimal"
        assert told.cost == pytest.approx(best, rel=1e-6, abs=1e-3)
        assert told.violations == ()
        assert told.placements["cost"].sum() == pytest.approx(best, rel=1e-6, abs=1e-3)


def test_nothing_wanted_costs_nothing() -> None:
    told = planned(site("s"), demand("d", ["big"], [0.0]))
    assert (told.status, told.cost, told.placements.height) == ("optimal", 0.0, 0)


# --------------------------------------------------------------------------------------------- what limits, and where


def test_a_plan_stays_within_one_feed_whatever_the_other_could_carry() -> None:
    two = planned(site("s"), demand("d", ["big"], [2.0]))
    assert (two.status, two.placements["servers"].sum(), two.violations) == ("optimal", 2, ())
    row = two.placements.to_dicts()[0]
    assert (row["binding"], row["worst_failure"], row["margin_w"]) == ("s-a", "s-b", pytest.approx(2e3))
    three = planned(site("s"), demand("d", ["big"], [3.0]))
    assert three.status == "infeasible"
    assert three.conflict in {("demand d", "power of s-a"), ("demand d", "power of s-b")}
    assert three.most == {"d": pytest.approx(2.0)}


@pytest.mark.parametrize(
    ("text", "demands", "values", "conflict"),
    [
        (site("s", rack="cooling_w = 8e3"), demand("d", ["big"], [1.0]), {}, {"demand d", "cooling of racks at s"}),
        (site("s", rack="ports = 1"), demand("d", ["big"], [1.0]), {}, {"demand d", "ports of racks at s"}),
        (site("s", rack="rating_w = 8e3"), demand("d", ["big"], [1.0]), {}, {"demand d", "circuits of racks at s"}),
        (site("s", racks=1, feed_w=1e6), demand("d", ["big"], [3.0]), {}, {"demand d", "space of racks at s"}),
        (site("s", extra="cooling_w = 8e3"), demand("d", ["big"], [1.0]), {}, {"demand d", "cooling of s"}),
        (site("s", extra="limit_w = 8e3"), demand("d", ["big"], [1.0]), {}, {"demand d", "power of s"}),
        (site("s"), demand("d", ["small"], [1.0]), {"periods": 2}, {"demand d", "lead time of small (30 days)"}),
        (site("s"), demand("d", ["big"], [1.0]), {"budget": 99e3}, {"demand d", "budget of period 0"}),
        (site("s", racks=1, rack="available_from = 2028-01-01"), demand("d", ["big"], [1.0]), {"periods": 2},
         {"demand d", "racks at s that come later"}),
        (site("s") + site("t", feed_w=1e3), demand("d", ["big"], [1.0], 'sites = ["t"]'), {},
         {"demand d", "power of t-a"}),
    ],
)  # fmt: skip
def test_what_cannot_be_met_names_the_constraints_in_conflict(
    text: str, demands: str, values: dict[str, Any], conflict: set[str]
) -> None:
    told = planned(text, demands, **values)
    assert told.status == "infeasible"
    assert {name.replace("t-b", "t-a") for name in told.conflict} == conflict


def test_a_conflict_has_nothing_that_could_be_left_out() -> None:
    """Four demands, of which one alone is too much for the only feeds."""
    demands = "".join(demand(f"d{n}", ["big"], [amount]) for n, amount in enumerate([1.0, 3.0, 0.0, 1.0]))
    told = planned(site("s"), demands)
    assert set(told.conflict) - {"power of s-a", "power of s-b"} == {"demand d1"}
    assert told.most == {"d0": 1.0, "d1": pytest.approx(2.0), "d3": 1.0}


def test_servers_that_fit_together_but_pack_into_no_rack_are_not_placed() -> None:
    """48 units hold one server of 8 and eight of 5, but three racks of 16 do not."""
    big_and_small = demand("d", ["big"], [1.0]) + demand("e", ["small"], [0.0, 8.0])
    alone = planned(site("s", racks=3, feed_w=1e6), big_and_small, periods=2)
    assert alone.status == "infeasible"
    assert set(alone.conflict) == {"demand d", "demand e", "space of racks at s"}
    dearer = planned(site("s", racks=3, feed_w=1e6) + site("t", price=0.5), big_and_small, periods=2)
    assert (dearer.status, dearer.violations) == ("optimal", ())
    assert dearer.placements.filter(site="t")["servers"].sum() == 1


def test_what_is_built_later_takes_servers_later() -> None:
    text = (
        site("s", racks=1)
        + """
    [[domain]]
    name = "new"
    parent = "s-top"
    rating_w = 50e3
    available_from = 2027-01-31
    [[rack]]
    name = "n"
    feeds = ["new"]
    units = 48
    """
    )
    told = planned(text, demand("d", ["big"], [2.0, 3.0]), periods=2, period_days=30)
    assert told.status == "optimal"
    late = told.placements.filter(rack="n")
    assert (late["servers"].sum(), late["period"].min()) == (3, 1)
    early = planned(text, demand("d", ["big"], [3.0, 2.0]), periods=2, period_days=30)
    assert early.status == "infeasible"


def test_load_that_grows_leaves_less() -> None:
    watts = {"s-r0": 8e3}
    assert planned(site("s"), demand("d", ["big"], [1.0]), watts, growth_ratio_per_year=0.0).status == "optimal"
    told = planned(site("s"), demand("d", ["big"], [1.0]), watts, growth_ratio_per_year=4.0, periods=3)
    assert (told.status, "demand d" in told.conflict) == ("infeasible", True)


def test_a_node_that_is_overloaded_already_takes_nothing_more_and_does_not_forbid_the_rest() -> None:
    told = planned(site("s") + site("t", price=0.5), demand("d", ["big"], [1.0]), {"s-r0": 25e3})
    assert (told.placements["site"].to_list(), told.violations) == (["t"], ())


def test_the_cheaper_site_is_chosen_and_the_next_best_told_with_what_it_costs() -> None:
    fleet = parse_fleet(site("dear", price=0.4) + site("cheap", price=0.1) + SKUS)
    told = plan(assessed(fleet), asked(fleet, demand("d", ["big"], [1.0])))
    assert told.runner_up is not None
    assert told.cost is not None
    assert told.runner_up.cost is not None
    assert (told.placements["site"][0], told.runner_up.placements["site"][0]) == ("cheap", "dear")
    year = 30 / 365
    assert told.runner_up.cost - told.cost == pytest.approx(6.0 * 1.2 * 8760 * 0.3 * year)
    assert told.runner_up.placements["option"].to_list() == [2]
    assert told.cost == pytest.approx(year * (100e3 / 5 + 6.0 * 1.2 * 8760 * 0.1))
    assert told.basis == "capex (CRF) + opex + energy, fleet.toml, 0.0% a year"


def test_the_next_best_of_a_fit_is_another_place_and_costs_more() -> None:
    """Also where the other site is loaded more: the program then makes room for more servers than it buys."""
    fleet = parse_fleet(site("dear", price=0.4, feed_w=40e3) + site("cheap", price=0.1, feed_w=40e3) + SKUS)
    sku = fleet.sku("small")
    assert sku is not None
    for count in (1, 2, 3):
        told = fit(assessed(fleet, {"dear-r0": 15e3}), sku, count, start=date(2027, 1, 1))
        assert told.runner_up is not None
        assert told.cost is not None
        assert told.runner_up.cost is not None
        assert told.runner_up.cost > told.cost
        assert set(told.placements["site"]) == {"cheap"}
        assert "dear" in told.runner_up.placements["site"]


def test_where_there_is_one_place_only_there_is_no_next_best() -> None:
    fleet = parse_fleet(site("s", racks=1) + SKUS)
    assert plan(assessed(fleet), asked(fleet, demand("d", ["big"], [1.0]))).runner_up is None


def test_carbon_demand_charges_and_exchange_are_in_the_cost() -> None:
    extra = "carbon_g_per_kwh = 500\ncarbon_price_per_t = 100\ndemand_per_kw = 10"
    told = planned(
        site("s", extra=extra).replace('"EUR"', '"USD"'), demand("d", ["big"], [1.0]) + "[exchange]\nUSD = 0.5"
    )
    kwh, year = 6.0 * 1.2 * 8760, 30 / 365
    assert told.cost == pytest.approx(year * (100e3 / 5 + 0.5 * (kwh * (0.1 + 0.05) + 12 * 10 * 9.0 * 1.2)))


def test_money_spent_later_is_worth_less() -> None:
    demands = demand("d", ["big"], [0.0, 1.0])
    told = planned(site("s"), demands, periods=2, period_days=365, discount_ratio=0.1)
    assert told.cost == pytest.approx((100e3 / 5 + 6.0 * 1.2 * 8760 * 0.1) / 1.1)


def test_a_server_is_for_one_demand_at_a_time() -> None:
    """The second demand rises when the first does not: its server is one more."""
    demands = demand("d", ["big"], [1.0]) + demand("e", ["big", "small"], [0.0, 1.0])
    told = planned(site("s"), demands, periods=2)
    assert told.placements["servers"].sum() == 2


def test_demands_in_tokens_take_what_serves_them_at_least_cost() -> None:
    per_server = 'unit = "tokens_per_s"\n[demand.per_server]\nbig = 1000\nsmall = 300'
    told = planned(site("s", feed_w=1e6), demand("d", ["big", "small"], [0.0, 2000.0], per_server), periods=2)
    assert dict(told.placements.select("sku", "servers").iter_rows()) == {"big": 2}
    few = planned(site("s", feed_w=1e6), demand("d", ["big", "small"], [0.0, 300.0], per_server), periods=2)
    assert dict(few.placements.select("sku", "servers").iter_rows()) == {"small": 1}
    assert few.placements["order_by"][0].date() == date(2027, 1, 1)


def test_without_prices_servers_go_where_the_most_loaded_node_has_most_left() -> None:
    text = (site("s") + site("t", feed_w=50e3)).replace("pue = 1.2", "").replace("price_per_kwh = 0.1", "")
    fleet = parse_fleet(text + SKUS)
    sku = fleet.sku("big")
    assert sku is not None
    told = fit(assessed(fleet), sku, 2, start=date(2027, 1, 1))
    assert (told.cost, set(told.placements["site"])) == (None, {"t"})
    assert told.basis is not None
    assert told.basis.startswith("no prices")
    assert told.violations == ()
    with pytest.raises(ConfigError, match="has no price_per_kwh"):
        plan(assessed(fleet), asked(fleet, demand("d", ["big"], [1.0])))


def test_a_placement_that_does_not_hold_is_refuted() -> None:
    fleet = parse_fleet(site("s", rack="cooling_w = 18e3") + SKUS)
    found, request = assessed(fleet), asked(fleet, demand("d", ["big"], [1.0]))
    skus = [sku for sku in (fleet.sku("big"), fleet.sku("small")) if sku is not None]
    watts = {sku.name: planned_w(sku, request) for sku in skus}

    def refuted(*placed: Placed) -> str:
        return "; ".join(prove(found, request, skus, placed, watts).violations)

    assert refuted(Placed("s", "s-r0", "big", 0, 1)) == ""
    assert "s-a carries 27000 of 20000 W in period 0 with s-b lost" in refuted(
        Placed("s", "s-r0", "big", 0, 2), Placed("s", "s-r1", "big", 0, 1)
    )
    assert "s-r0 takes 27000 of 18000 cooling_w" in refuted(Placed("s", "s-r0", "big", 0, 3))
    assert "s-r0 takes 24 of 16 units" in refuted(Placed("s", "s-r0", "big", 0, 3))
    assert "before 30 days are over" in refuted(Placed("s", "s-r0", "big", 0, 1), Placed("s", "s-r0", "small", 0, 1))
    assert refuted() == "the servers of period 0 do not meet all demands"


def test_the_proof_has_a_row_for_every_case_of_every_period() -> None:
    told = planned(site("s"), demand("d", ["big"], [1.0, 1.0]), periods=2)
    cases = {"none", "s-top", "s-a", "s-b", *(f"s-r{n}: cord to s-{side}" for n in range(2) for side in "ab")}
    for period in range(2):
        assert set(told.proof.filter(period=period)["case"]) == cases
    assert told.proof.filter(case="s-top")["dark"].to_list() == [2, 2]
