"""
What there is to place servers in: the fleet as it stands at each period that matters, and racks that are alike.

Servers stay where they are put, and the load that is there only grows, so what fits at the end fits before. Only where
something is built on the way does an earlier period matter as well: the last one without it. Those periods are the
stages. Racks with the same feeds at every stage are one group; the power tree cannot tell them apart.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, inf
from typing import Final

import numpy as np

from analytics.capacity.assessment import Assessment
from analytics.capacity.headroom import Survey
from analytics.capacity.load import Leaf
from analytics.capacity.tree import trees
from analytics.fleet import Fleet, Rack, Sku, standing
from analytics.planning.prices import planned_w
from analytics.planning.request import Request

RESOURCES: Final = ("circuits", "space", "cooling", "ports")
_NEARLY: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The fleet as it stands at the end of a period, and the survey of each site then."""

    period: int
    fleet: Fleet
    surveys: Mapping[str, Survey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """
    Racks of a site with the same feeds, and the stages at which they stand.

    `room` is what each has left, by stage and resource (infinite: no limit); before it stands, what it will have.
    """

    site: str
    racks: tuple[str, ...]
    feeds: tuple[str, ...]
    stands: frozenset[int]
    room: Mapping[tuple[str, int], Mapping[str, float]]

    def total(self, stage: int, resource: str) -> float:
        """What its racks have left of a resource together."""
        return sum(self.room[rack, stage][resource] for rack in self.racks)

    def most(self, stage: int, need: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """How many servers that need so much its racks hold, one by one: by each resource alone, and by all of them."""
        each = np.array([[fits(self.room[rack, stage][name], need[name]) for name in RESOURCES] for rack in self.racks])
        return dict(zip(RESOURCES, each.sum(axis=0).tolist(), strict=True)), float(each.min(axis=1).sum())

    def shrinks(self, stage: int, later: int) -> bool:
        """Whether no rack has more left at a later stage, so that what holds then holds before."""
        rooms = ((self.room[rack, stage], self.room[rack, later]) for rack in self.racks)
        return all(before[name] >= after[name] for before, after in rooms for name in RESOURCES)


def fits(room: float, need: float) -> float:
    """How many servers a room holds of which each needs so much; infinite where it needs nothing, or has no limit."""
    return inf if need <= 0 or room == inf else float(max(0, floor(room / need + _NEARLY)))


def needs(sku: Sku, request: Request) -> dict[str, float]:
    """
    What a server takes of each resource; what nobody told of it is taken as nothing.

    Raises: ConfigError.
    """
    watts = planned_w(sku, request)
    assert sku.server is not None
    return {
        "circuits": watts, "cooling": watts, "space": float(sku.server.rack_units or 0),
        "ports": float(sku.server.ports or 0),
    }  # fmt: skip


def stages(found: Assessment, request: Request, *, pue: Mapping[str, float]) -> list[Stage]:
    """The stages of a plan, in order; the last is that of its last period."""
    loaded = [leaf.name for survey in found.surveys for leaf in survey.load.leaves if _drawn(survey, leaf.name)]
    fleets = [standing(found.fleet, request.begin(period).date(), loaded) for period in range(request.periods)]
    last = request.periods - 1
    wanted = [period for period in range(last) if fleets[period] != fleets[period + 1]]
    if request.growth_ratio_per_year < 0:
        wanted = list(range(last))
    made = []
    for period in [*wanted, last]:
        told = {tree.site.name: tree for tree in trees(fleets[period], pue)}
        surveys = {}
        for survey in found.surveys:
            tree = told[survey.tree.site.name]
            kept = [
                at for at, leaf in enumerate(survey.load.leaves)
                if leaf.name in tree.racks or (leaf.name not in survey.tree.racks and leaf.pool in tree.pools)
            ]  # fmt: skip
            leaves = tuple(
                replace(leaf, pool=tree.racks.get(leaf.name, leaf.pool))
                for leaf in (survey.load.leaves[at] for at in kept)
            )
            new = [rack for rack in fleets[period].racks if rack.name in tree.racks and rack.name not in survey.rows]
            leaves += tuple(
                Leaf(
                    name=rack.name,
                    pool=tree.racks[rack.name],
                    rack_units=rack.units_used or 0,
                    ports=rack.ports_used or 0,
                )
                for rack in new
            )
            # Growth is never less than at the beginning of the period, nor more than at its end.
            power_w = survey.load.power_w[kept] * max(request.growth(period), request.growth(period - 1))
            power_w = np.vstack([power_w, np.zeros((len(new), power_w.shape[1]))])
            load = replace(survey.load, leaves=leaves, power_w=power_w)
            racks = tuple(rack for rack in fleets[period].racks if rack.site == tree.site.name)
            surveys[tree.site.name] = Survey(tree=tree, load=load, racks=racks, percentile=survey.percentile)
        made.append(Stage(period=period, fleet=fleets[period], surveys=surveys))
    return made


def _drawn(survey: Survey, leaf: str) -> bool:
    return leaf in survey.tree.racks and bool(np.any(survey.rows[leaf] > 0))


def groups(fleet: Fleet, made: Sequence[Stage], sites: Collection[str], apart: Collection[str] = ()) -> list[Group]:
    """
    The groups of the racks of some sites; racks *apart* are groups of their own.

    So are those whose single cords are failure cases of their own: the tree tells them from the others.
    """
    corded = {case.rack for stage in made for survey in stage.surveys.values() for case in survey.tree.cases}
    found: dict[tuple[object, ...], list[Rack]] = {}
    for rack in fleet.racks:
        if rack.site in sites:
            feeds = tuple(stage.surveys[rack.site].tree.racks.get(rack.name) for stage in made)
            own = rack.name if rack.name in apart or rack.name in corded else None
            found.setdefault((rack.site, feeds, own), []).append(rack)
    return [_group(made, racks) for racks in found.values()]


def _group(made: Sequence[Stage], racks: Sequence[Rack]) -> Group:
    first = racks[0]
    surveys = [stage.surveys[first.site] for stage in made]
    return Group(
        site=first.site,
        racks=tuple(rack.name for rack in racks),
        feeds=first.feeds,
        stands=frozenset(k for k, survey in enumerate(surveys) if first.name in survey.tree.racks),
        room={(rack.name, k): _room(survey, rack) for rack in racks for k, survey in enumerate(surveys)},
    )


def _room(survey: Survey, rack: Rack) -> dict[str, float]:
    """What a rack has left; all of it, where it does not stand."""

    def left(limit: float | None, used: float) -> float:
        return inf if limit is None else max(0.0, limit - used)

    standing = rack.name in survey.rows
    peak = survey.peak_w(rack.name) if standing else 0.0
    units, ports = (survey.free_units(rack), survey.free_ports(rack)) if standing else (rack.units, rack.ports)
    return {
        "circuits": left(survey.rack_safe_w(rack), peak), "cooling": left(rack.cooling_w, peak),
        "space": left(units, 0.0), "ports": left(ports, 0.0),
    }  # fmt: skip
