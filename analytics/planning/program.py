"""
The program of a plan: how many servers of each SKU are bought for each site in each period, and where they stand.

    bought[s, site, t]      servers of a SKU that come to a site in a period; all costs are theirs
    stands[s, group, k]     room for servers of a SKU in a group of racks at a stage, those of earlier stages included
    given[d, s, site, t]    servers for a demand, where a SKU serves several

What each node carries is linear in `stands`, in every failure case; so are space, heat and ports. Racks that are alike
are one group and periods between stages one stage, so what could be exchanged for one another is not told apart; and a
limit that a later one implies is left out, since servers stay where they are put.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Final

import numpy as np

from analytics.capacity.rows import power_rows
from analytics.fleet import Site, Sku
from analytics.planning.model import Model
from analytics.planning.prices import Prices
from analytics.planning.request import Demand, Request
from analytics.planning.stages import RESOURCES, Group, Stage

SCALE: Final = {"circuits": 1000.0, "cooling": 1000.0}
"""Watts are in kilowatts, so that a server is some units of one."""


@dataclass(slots=True)
class Program:
    """A model with its variables by what they mean."""

    model: Model
    bought: dict[tuple[int, int, int], int] = field(default_factory=dict)
    stands: dict[tuple[int, int, int], int] = field(default_factory=dict)
    site_of: list[int] = field(default_factory=list)
    """The site of each group."""
    cases: dict[int, str] = field(default_factory=dict)
    """The failure case of a row of power, by the row's number."""
    last: set[int] = field(default_factory=set)
    """The rows of the last stage, and those of no stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a plan is made of."""

    request: Request
    sites: tuple[Site, ...]
    skus: tuple[Sku, ...]
    needs: Mapping[str, Mapping[str, float]]
    stages: Sequence[Stage]
    prices: Prices | None
    pue: Mapping[str, float] = field(default_factory=dict)

    @property
    def most(self) -> float:
        """More servers than all demands together could want."""
        total = 0.0
        for demand in self.request.demands:
            supplies = [demand.supply(sku) for sku in self.skus if sku.name in demand.skus]
            total += ceil(demand.needed[-1] / min(supplies) + 1e-9) if supplies else 0.0
        return total

    def may(self, demand: Demand, site: Site) -> bool:
        """Whether a demand may be served from a site."""
        return not demand.sites or site.name in demand.sites


def program(ask: Ask, groups: Sequence[Group]) -> Program:
    """The program of *ask* over *groups* of racks."""
    places = {site.name: p for p, site in enumerate(ask.sites)}
    made = Program(Model(), site_of=[places[group.site] for group in groups])
    _purchases(made, ask)
    _demands(made, ask)
    limits = needed([*_power(ask, groups), *_rooms(ask, groups)])
    _places(made, ask, groups, limits)
    for limit in limits:
        _limit(made, ask, limit)
    _budget(made, ask)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    What groups of racks may take together of a resource, at a stage: weights (by group) times what a server needs.

    With `sku` it is a number of servers of that SKU.
    """

    name: str
    site: str
    stage: int
    resource: str
    weights: Mapping[int, float]
    high: float
    sku: int | None = None
    case: str | None = None

    def implies(self, other: "Limit") -> bool:
        """Whether *other*, of an earlier stage, holds wherever this one does: servers stay where they are put."""
        return self.high <= other.high and all(
            self.weights.get(g, 0.0) >= weight for g, weight in other.weights.items()
        )  # fmt: skip


def needed(limits: Sequence[Limit]) -> list[Limit]:
    """The limits that none of a later stage implies."""
    later: dict[tuple[str, str, int | None], list[Limit]] = {}
    kept = []
    for limit in sorted(limits, key=lambda one: -one.stage):
        alike = later.setdefault((limit.name, limit.resource, limit.sku), [])
        if not any(one.stage > limit.stage and one.implies(limit) for one in alike):
            alike.append(limit)
            kept.append(limit)
    return kept


def _purchases(made: Program, ask: Ask) -> None:
    model, most = made.model, ask.most
    for s, sku in enumerate(ask.skus):
        first = ask.request.first_period(sku.lead_days)
        for p in range(len(ask.sites)):
            columns = model.variables(ask.request.periods, high=most)
            made.bought.update({(s, p, t): column for t, column in enumerate(columns)})
            if ask.prices is not None:
                for t, column in enumerate(columns):
                    model.costs[column] = float(ask.prices.cost[s, p, t])
            early = columns[:first]
            if early:
                made.last.add(len(model.rows))
                model.row(f"lead time of {sku.name} ({sku.lead_days:g} days)", early, [1.0] * len(early), high=0.0)


def _places(made: Program, ask: Ask, groups: Sequence[Group], limits: Sequence[Limit]) -> None:
    """
    Where what was bought stands, at the last stage and at those that have limits of their own.

    Of any other stage it is enough that what was bought by then finds room in racks that stand by then.
    """
    model, last = made.model, len(ask.stages) - 1
    for p, site in enumerate(ask.sites):
        name = f"racks at {site.name} that come later"
        inside = [g for g, group in enumerate(groups) if group.site == site.name]
        own = sorted({limit.stage for limit in limits if limit.site == site.name} | {last})
        for s in range(len(ask.skus)):
            for g in inside:
                columns = model.variables(len(own), high=ask.most)
                made.stands.update({(s, g, k): column for k, column in zip(own, columns, strict=True)})
                for earlier, later in pairwise(columns):
                    model.row("", [later, earlier], [1.0, -1.0], low=0.0)
                for k, column in zip(own, columns, strict=True):
                    if k not in groups[g].stands:
                        model.row(name, [column], [1.0], high=0.0)
            for k, stage in enumerate(ask.stages):
                come = [made.bought[s, p, t] for t in range(stage.period + 1)]
                if k in own:
                    # Room for what was bought; that there may be more of it makes whole numbers easier to find.
                    standing = [made.stands[s, g, k] for g in inside]
                    model.row("", standing + come, [1.0] * len(standing) + [-1.0] * len(come), low=0.0)
                elif any(k not in groups[g].stands for g in inside):
                    following = min(one for one in own if one > k)
                    room = [made.stands[s, g, following] for g in inside if k in groups[g].stands]
                    model.row(name, come + room, [1.0] * len(come) + [-1.0] * len(room), high=0.0)


def _limit(made: Program, ask: Ask, limit: Limit) -> None:
    columns, factors = [], []
    for g, weight in limit.weights.items():
        for s, sku in enumerate(ask.skus):
            each = 1.0 if limit.sku is not None else ask.needs[sku.name][limit.resource]
            if (limit.sku is None or limit.sku == s) and each > 0:
                columns.append(made.stands[s, g, limit.stage])
                factors.append(weight * each / SCALE.get(limit.resource, 1.0))
    if limit.case is not None:
        made.cases[len(made.model.rows)] = limit.case
    if limit.stage == len(ask.stages) - 1 and limit.sku is None:
        made.last.add(len(made.model.rows))
    made.model.row(limit.name, columns, factors, high=limit.high / SCALE.get(limit.resource, 1.0))


def _power(ask: Ask, groups: Sequence[Group]) -> Iterator[Limit]:
    """Every node in every failure case, and the heat that a site can take away."""
    for k, stage in enumerate(ask.stages):
        for site in ask.sites:
            found = stage.surveys[site.name]
            inside = [g for g, group in enumerate(groups) if group.site == site.name and k in group.stands]
            rows = power_rows(found, [groups[g].racks[0] for g in inside])
            # What is nearest to the racks first: of several conflicts that with the first names is told.
            for at in reversed(range(len(rows.nodes))):
                weights = {g: float(w) for g, w in zip(inside, rows.weights[at], strict=True) if w > 0}
                yield Limit(
                    name=f"power of {rows.nodes[at]}", site=site.name, stage=k, resource="circuits", weights=weights,
                    high=max(0.0, float(rows.slack_w[at])), case=rows.cases[at],
                )  # fmt: skip
            if site.cooling_w is not None and inside:
                heat = float(found.peak(found.load.power_w.sum(axis=0)))
                yield Limit(
                    name=f"cooling of {site.name}", site=site.name, stage=k, resource="cooling",
                    weights=dict.fromkeys(inside, 1.0), high=max(0.0, site.cooling_w - heat),
                )  # fmt: skip


def _rooms(ask: Ask, groups: Sequence[Group]) -> Iterator[Limit]:
    """Circuits, space, cooling and ports of racks: together, and for each SKU as many as fit one by one."""
    last = len(ask.stages) - 1
    for g, group in enumerate(groups):
        for k in range(len(ask.stages)):
            if k < last and group.shrinks(k, last):
                continue
            alone = {s: group.most(k, ask.needs[sku.name]) for s, sku in enumerate(ask.skus)}
            told: list[tuple[str, str, float, int | None]] = []
            for resource in RESOURCES:
                name = f"{resource} of racks at {group.site}"
                told.append((name, resource, group.total(k, resource), None))
                if len(group.racks) > 1:
                    told += [(name, resource, each[resource], s) for s, (each, _) in alone.items()]
            told += [(f"racks at {group.site}", "space", all_, s) for s, (each, all_) in alone.items()
                     if all_ < min(each.values())]  # fmt: skip
            for name, resource, high, sku in told:
                if np.isfinite(high):
                    yield Limit(
                        name=name, site=group.site, stage=k, resource=resource, weights={g: 1.0}, high=high, sku=sku
                    )  # fmt: skip


def _demands(made: Program, ask: Ask) -> None:
    """Every demand met from its period on; where demands share a SKU, each server is for one of them at a time."""
    model = made.model
    demands = [demand for demand in ask.request.demands if demand.needed[-1] > 0]
    shared = {sku.name for sku in ask.skus if sum(sku.name in demand.skus for demand in demands) > 1}
    rises = {demand.name: {t for t, needed in enumerate(demand.needed) if needed > (demand.needed[t - 1] if t else 0.0)}
             for demand in demands}  # fmt: skip
    # Sites that may serve the same demands are one: which of them gives a server makes no difference.
    alike: dict[tuple[bool, ...], list[int]] = {}
    for p, site in enumerate(ask.sites):
        alike.setdefault(tuple(ask.may(demand, site) for demand in demands), []).append(p)
    given: dict[tuple[int, tuple[int, ...], int], list[int]] = {}
    for number, demand in enumerate(demands):
        # What is given to one may be taken from another whenever any of them rises.
        others = list(rises) if shared & set(demand.skus) else [demand.name]
        for t in sorted(set().union(*(rises[name] for name in others))):
            if demand.needed[t] == 0:
                continue
            columns: list[int] = []
            factors: list[float] = []
            for s, sku in enumerate(ask.skus):
                if sku.name not in demand.skus:
                    continue
                for may, sites in alike.items():
                    if not may[number]:
                        continue
                    come = [made.bought[s, p, earlier] for p in sites for earlier in range(t + 1)]
                    if sku.name in shared:
                        come = model.variables(1, high=ask.most)
                        given.setdefault((s, tuple(sites), t), []).extend(come)
                    columns += come
                    factors += [demand.supply(sku) / demand.needed[-1]] * len(come)
            model.row(f"demand {demand.name}", columns, factors, low=demand.needed[t] / demand.needed[-1] - 1e-9)
    for (s, where, t), parts in given.items():
        come = [made.bought[s, p, earlier] for p in where for earlier in range(t + 1)]
        model.row("", parts + come, [1.0] * len(parts) + [-1.0] * len(come), high=0.0)


def _budget(made: Program, ask: Ask) -> None:
    request, prices = ask.request, ask.prices
    if request.budget is None or prices is None:
        return
    scale = max(1.0, float(prices.capex.max(initial=1.0)))
    for t in range(request.periods):
        periods = range(t + 1) if request.budget_carries else (t,)
        columns = [
            made.bought[s, p, one] for s in range(len(ask.skus)) for p in range(len(ask.sites)) for one in periods
        ]
        factors = [float(prices.capex[s]) / scale for s in range(len(ask.skus)) for _ in ask.sites for _ in periods]
        whole = sum(request.budget[one] for one in periods)
        made.last.add(len(made.model.rows))
        when = "up to" if request.budget_carries else "of"
        made.model.row(f"budget {when} period {t}", columns, factors, high=whole / scale + 1e-9)
