"""
A plan: the cheapest placement that holds, its proof, what limits it, the next best one, or why there is none.

Racks that are alike are placed together first. Where what a group was given does not pack into its racks, its racks are
taken one by one and the program is solved again: so the first answer is a bound, and the last one exact.
"""

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import date, timedelta
from itertools import product
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.capacity.assessment import Assessment
from analytics.fleet import Sku
from analytics.planning.model import Solution, conflict
from analytics.planning.packing import Counts, pack
from analytics.planning.prices import planned_w, prices
from analytics.planning.program import Ask, Program, program
from analytics.planning.proof import Placed, Proof, prove
from analytics.planning.request import DAYS_A_YEAR, Demand, Request
from analytics.planning.result import BINDING, PLACEMENTS, Plan
from analytics.planning.solving import cheapest
from analytics.planning.stages import Group, groups, needs, stages
from collector.errors import ConfigError

REFINEMENTS: Final = 8
"""How often groups that do not pack are taken apart before all of them are."""


def plan(
    found: Assessment,
    request: Request,
    *,
    pue: Mapping[str, float] | None = None,
    priced: bool = True,
    gap_ratio: float = 0.0,
    time_s: float = 60.0,
    runner_up: bool = True,
    spread: bool = False,
) -> Plan:
    """
    Place the servers that *request* asks for, at least cost, such that every node holds in every single failure.

    *found* is what is there; sites that it refused take no servers. Without *priced* nothing is priced, and servers go
    where they leave the least loaded node most room; with *spread* they do so among the cheapest placements.

    Raises: ConfigError (what nobody told: prices, what a server draws; no site that may be used).
    """
    began = time.monotonic()
    ask = _ask(found, request, pue or {}, priced=priced)
    apart: set[str] = set()
    for turn in range(REFINEMENTS + 1):
        racks = groups(found.fleet, ask.stages, [site.name for site in ask.sites], apart)
        made = program(ask, racks)
        solved = cheapest(made, ask, gap_ratio=gap_ratio, time_s=time_s - (time.monotonic() - began))
        if solved.values is None:
            return _impossible(made, ask, solved, began)
        if spread or not priced:
            solved = _spread(made, ask, solved, gap_ratio=gap_ratio, time_s=time_s - (time.monotonic() - began))
        counts, unpacked = _packed(made, ask, racks, solved)
        if not unpacked:
            break
        apart |= {rack for group in (racks if turn == REFINEMENTS - 1 else unpacked) for rack in group.racks}
    best = _plan(found, ask, racks, made, solved, counts, option=1, began=began)
    if not runner_up:
        return best
    left = max(1.0, time_s - (time.monotonic() - began))
    return replace(
        best, runner_up=_next_best(found, ask, made, racks, counts, gap_ratio, left, spread=spread or not priced)
    )


def fit(
    found: Assessment,
    sku: Sku,
    count: int,
    *,
    start: date,
    sites: Sequence[str] = (),
    nameplate: bool = False,
    pue: Mapping[str, float] | None = None,
    time_s: float = 60.0,
) -> Plan:
    """
    Where *count* servers of *sku* go at once, to stand there by *start*.

    At least cost of a year, where all prices are told and in one currency; among the cheapest places, or without
    prices, where they leave the most loaded node most room.

    Raises: ConfigError.
    """
    request = Request(
        start=start, period_days=DAYS_A_YEAR, currency=sku.currency, sites=tuple(sites), nameplate=nameplate,
        ordered=True, demands=(Demand(name=sku.name, skus=(sku.name,), needed=(float(count),)),),
    )  # fmt: skip
    try:
        return plan(found, request, pue=pue, spread=True, time_s=time_s)
    except ConfigError as error:
        told = plan(found, request, pue=pue, priced=False, time_s=time_s)
        return replace(told, basis=f"no prices ({error})")


def _ask(found: Assessment, request: Request, pue: Mapping[str, float], *, priced: bool) -> Ask:
    sites = tuple(
        survey.tree.site for survey in found.surveys if not request.sites or survey.tree.site.name in request.sites
    )
    if not sites:
        refused = "; ".join(found.refused.values())
        raise ConfigError("sites", f"leave none that servers may go to{f' ({refused})' if refused else ''}")
    names = dict.fromkeys(name for demand in request.demands for name in demand.skus)
    skus = tuple(_sku(found, name) for name in names)
    return Ask(
        request=request, sites=sites, skus=skus, needs={sku.name: needs(sku, request) for sku in skus},
        stages=stages(found, request, pue=pue), pue=pue,
        prices=prices(found.fleet, skus, sites, request, pue) if priced else None,
    )  # fmt: skip


def _sku(found: Assessment, name: str) -> Sku:
    sku = found.fleet.sku(name)
    if sku is None or sku.server is None:
        raise ConfigError("sku", f"is {name!r}, which has no [sku.server] in fleet.toml")
    return sku


# ---------------------------------------------------------------------------------------------------------- solutions


def _spread(made: Program, ask: Ask, best: Solution, *, gap_ratio: float, time_s: float) -> Solution:
    """Of the placements that cost as little, one whose most loaded node is loaded least."""
    model = deepcopy(made.model)
    model.whole = [True] * len(model.whole)
    (load,) = model.variables(1, whole=False)
    k = len(ask.stages) - 1
    for site in ask.sites:
        found = ask.stages[k].surveys[site.name]
        nodes = {node.name: at for at, node in enumerate(found.tree.nodes)}
        cases = {case.name: at for at, case in enumerate(found.tree.cases)}
        for number in sorted(made.last & set(made.cases)):
            name, columns, factors, high = _named(model.rows[number])
            node = name.removeprefix("power of ")
            if node not in nodes:
                continue
            whole = float(found.capacity_w[cases[made.cases[number]], nodes[node]]) / 1000.0
            if whole > 0:
                # used + more <= load * whole
                model.row(
                    "", [*columns, load], [factor / whole for factor in factors] + [-1.0], high=high / whole - 1.0
                )
    if ask.prices is not None:
        priced = [(column, cost) for column, cost in enumerate(model.costs) if cost]
        scale = max(cost for _, cost in priced) if priced else 1.0
        limit = best.cost / scale * (1.0 + 1e-9) + 1e-7
        model.row("", [column for column, _ in priced], [cost / scale for _, cost in priced], high=limit)
    costs = [0.0] * len(model.costs)
    costs[load] = 1.0
    found_again = model.solve(gap_ratio=max(gap_ratio, 1e-4), time_s=time_s, costs=costs)
    if found_again.values is None:
        return best
    values = found_again.values[: len(made.model.costs)]
    cost = float(np.array(made.model.costs) @ values)
    return Solution(best.status, values, cost, min(best.bound, cost))


def _named(row: tuple[str, list[int], list[float], float, float]) -> tuple[str, list[int], list[float], float]:
    return row[0], row[1], row[2], row[4]


def _packed(made: Program, ask: Ask, racks: Sequence[Group], solved: Solution) -> tuple[Counts, list[Group]]:
    """Servers by rack, SKU and stage; and the groups whose servers do not pack."""
    counts: Counts = {}
    unpacked = []
    for group, wanted in zip(racks, _wanted(made, ask, racks, solved), strict=True):
        if any(wanted.values()):
            own = pack(group, wanted, ask.needs, len(ask.stages))
            if own is None:
                unpacked.append(group)
            else:
                counts.update(own)
    return counts, unpacked


def _wanted(made: Program, ask: Ask, racks: Sequence[Group], solved: Solution) -> list[dict[tuple[str, int], int]]:
    """
    The servers of each group, by SKU and stage.

    What was bought by a stage goes to racks that stand by then, as far as the program has room for it there, or at the
    next stage of which it says something; what stood before stays.
    """
    values = _values(solved)
    wanted: list[dict[tuple[str, int], int]] = [{} for _ in racks]
    for s, sku in enumerate(ask.skus):
        for p, site in enumerate(ask.sites):
            inside = [g for g, group in enumerate(racks) if group.site == site.name]
            there = dict.fromkeys(inside, 0)
            for k, stage in enumerate(ask.stages):
                left = sum(round(float(values[made.bought[s, p, t]])) for t in range(stage.period + 1))
                left -= sum(there.values())
                told = next(
                    one for one in range(k, len(ask.stages)) if not inside or (s, inside[0], one) in made.stands
                )
                for g in inside:
                    room = round(float(values[made.stands[s, g, told]])) if k in racks[g].stands else 0
                    more = min(left, max(0, room - there[g]))
                    there[g] += more
                    left -= more
                    wanted[g][sku.name, k] = there[g]
    return wanted


def _values(solved: Solution) -> np.ndarray:
    assert solved.values is not None
    return solved.values


def _placed(made: Program, ask: Ask, racks: Sequence[Group], solved: Solution, counts: Counts) -> list[Placed]:
    """Which servers come to which rack in which period: those that come first go to the first racks."""
    values = _values(solved)
    placed: list[Placed] = []
    for s, sku in enumerate(ask.skus):
        for p, site in enumerate(ask.sites):
            inside = [rack for group in racks if group.site == site.name for rack in group.racks]
            before = 0
            for k, stage in enumerate(ask.stages):
                come = [round(float(values[made.bought[s, p, t]])) for t in range(before, stage.period + 1)]
                arrivals = [before + at for at, count in enumerate(come) for _ in range(count)]
                for rack in inside:
                    new = counts.get((rack, sku.name, k), 0) - (counts.get((rack, sku.name, k - 1), 0) if k else 0)
                    for period in sorted(set(arrivals[:new])):
                        count = arrivals[:new].count(period)
                        placed.append(Placed(site.name, rack, sku.name, period, count))
                    arrivals = arrivals[new:]
                before = stage.period + 1
    return placed


def _plan(
    found: Assessment,
    ask: Ask,
    racks: Sequence[Group],
    made: Program,
    solved: Solution,
    counts: Counts,
    *,
    option: int,
    began: float,
) -> Plan:
    placed = _placed(made, ask, racks, solved, counts)
    watts = {sku.name: planned_w(sku, ask.request) for sku in ask.skus}
    proof = prove(found, ask.request, ask.skus, placed, watts, pue=ask.pue)
    prices = ask.prices
    return Plan(
        status=solved.status, request=ask.request, placements=_placements(ask, racks, placed, proof, option),
        proof=proof.cases, violations=(*proof.violations, *_overspent(ask, placed)), binding=_binding(made, solved),
        cost=None if prices is None else solved.cost, bound=None if prices is None else solved.bound,
        currency=None if prices is None else prices.currency, basis=None if prices is None else prices.basis,
        gap_ratio=0.0 if prices is None else solved.gap_ratio, took_s=time.monotonic() - began,
    )  # fmt: skip


def _placements(ask: Ask, racks: Sequence[Group], placed: Sequence[Placed], proof: Proof, option: int) -> pl.DataFrame:
    """The rows of a plan, each with the node above it that has least left at the end, and in which failure."""
    feeds = {rack: group.feeds for group in racks for rack in group.racks}
    skus = {sku.name: (s, sku) for s, sku in enumerate(ask.skus)}
    sites = {site.name: p for p, site in enumerate(ask.sites)}
    rows: list[dict[str, Any]] = []
    for one in placed:
        s, sku = skus[one.sku]
        start = ask.request.begin(one.period).replace(tzinfo=None)
        tree = ask.stages[-1].surveys[one.site].tree
        above = frozenset({one.site}).union(*(tree.above[feed] for feed in feeds[one.rack]))
        circuits = [f"{one.rack}/{feed}" for feed in feeds[one.rack] or ("",)]
        told = [
            (*proof.margins[one.site, node], node)
            for node in sorted((*above, *circuits))
            if (one.site, node) in proof.margins
        ]
        margin, case, node = min(told, default=(None, None, None), key=lambda item: item[0] or 0.0)
        prices = ask.prices
        rows.append({
            "option": option, "site": one.site, "rack": one.rack, "domain": " + ".join(feeds[one.rack]), "sku": one.sku,
            "period": one.period, "start": start,
            "order_by": start - timedelta(days=sku.lead_days) if sku.lead_days else None, "servers": one.servers,
            "power_w": one.servers * ask.needs[one.sku]["circuits"],
            "cost": None if prices is None else one.servers * float(prices.cost[s, sites[one.site], one.period]),
            "currency": None if prices is None else prices.currency, "worst_failure": case, "margin_w": margin,
            "binding": node,
        })  # fmt: skip
    return pl.DataFrame(rows, schema=PLACEMENTS, orient="row").sort("option", "period", "site", "rack", "sku")


def _overspent(ask: Ask, placed: Sequence[Placed]) -> list[str]:
    """The periods whose budget the placement exceeds, added up from the servers."""
    request, prices = ask.request, ask.prices
    if request.budget is None or prices is None:
        return []
    each = {sku.name: float(prices.capex[s]) for s, sku in enumerate(ask.skus)}
    wrong, left = [], 0.0
    for period, budget in enumerate(request.budget):
        spent = sum(one.servers * each[one.sku] for one in placed if one.period == period)
        left = (left if request.budget_carries else 0.0) + budget - spent
        if left < -1e-6 * max(1.0, budget):
            wrong.append(f"period {period} costs {spent:.0f}, {-left:.0f} more than there is")
    return wrong


def _binding(made: Program, solved: Solution) -> pl.DataFrame:
    """The limits at the end that leave less than one more server of any SKU that they limit."""
    values = _values(solved)
    rows: list[dict[str, Any]] = []
    for number in sorted(made.last):
        name, columns, factors, _, high = made.model.rows[number]
        used = float(np.dot(factors, values[columns]))
        most = max(factors, default=0.0)
        if name and most > 0 and np.isfinite(high) and high - used < most - 1e-9:
            rows.append({"constraint": name, "case": made.cases.get(number), "used": used, "limit": high,
                         "left": high - used, "servers": (high - used) / most})  # fmt: skip
    return pl.DataFrame(rows, schema=BINDING, orient="row").sort("servers", "constraint")


def _impossible(made: Program, ask: Ask, solved: Solution, began: float) -> Plan:
    """Why there is no plan, and how much of each demand there could be."""
    told = conflict(made.model) if solved.status == "infeasible" else ()
    return Plan(
        status=solved.status, request=ask.request, conflict=told, most=_most(made, ask) if told else {},
        took_s=time.monotonic() - began,
    )  # fmt: skip


def _most(made: Program, ask: Ask) -> dict[str, float]:
    """How much of each demand can be met at the end of the plan if nothing else is asked for."""
    model = deepcopy(made.model)
    found = {}
    others = [name for name in model.names if not name.startswith("demand ")]
    for demand in ask.request.demands:
        rows = [row for row in model.rows if row[0] == f"demand {demand.name}"]
        costs = [0.0] * len(model.costs)
        for column, factor in zip(rows[-1][1], rows[-1][2], strict=True) if rows else ():
            costs[column] = -factor
        solved = model.solve(only=others, costs=costs, time_s=10.0)
        if solved.values is not None and rows:
            found[demand.name] = min(1.0, -solved.cost) * demand.needed[-1]
    return found


def _next_best(
    found: Assessment,
    ask: Ask,
    made: Program,
    racks: Sequence[Group],
    best: Counts,
    gap_ratio: float,
    time_s: float,
    *,
    spread: bool,
) -> Plan | None:
    """
    The best plan in which some site, or where only one may be used some group of racks, has fewer of some SKU.

    None where there is no other, or none was found in time.
    """
    began = time.monotonic()
    model = deepcopy(made.model)
    most, k = ask.most, len(ask.stages) - 1
    inside = [[g for g, group in enumerate(racks) if group.site == site.name] for site in ask.sites]
    if len(ask.sites) == 1:
        inside = [[g] for g in range(len(racks))]
    switches = []
    for (s, sku), chosen in product(enumerate(ask.skus), inside):
        columns = [made.stands[s, g, k] for g in chosen]
        # What is placed: the program may make room for more than it buys.
        count = sum(best.get((rack, sku.name, k), 0) for g in chosen for rack in racks[g].racks)
        if count >= 1:
            # To have more somewhere would be no other plan, only a dearer one.
            (fewer,) = model.variables(1, high=1.0)
            switches.append(fewer)
            model.row("", [*columns, fewer], [1.0] * len(columns) + [most - count + 1.0], high=most)
    if not switches:
        return None
    model.row("", switches, [1.0] * len(switches), low=1.0)
    other = replace(made, model=model)
    solved = cheapest(other, ask, gap_ratio=gap_ratio, time_s=time_s)
    if solved.values is None:
        return None
    if spread:
        solved = _spread(other, ask, solved, gap_ratio=gap_ratio, time_s=time_s)
    counts, unpacked = _packed(made, ask, racks, solved)
    if unpacked:
        return None
    return _plan(found, ask, racks, made, solved, counts, option=2, began=began)
