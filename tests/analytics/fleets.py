"""Small fleets for tests: drawn by Hypothesis, or written by hand."""

from collections.abc import Mapping
from typing import NamedTuple

from hypothesis import strategies as st

from analytics.fleet import Domain, Fleet, Rack, Rating, Site
from analytics.planning.proof import walk


def rating(watts: float | None, derating: float = 1.0) -> Rating | None:
    return None if watts is None else Rating(w=watts, derating_ratio=derating)


@st.composite
def fleets(draw: st.DrawFn, *, sites: int = 1, most_racks: int = 4) -> Fleet:
    """A fleet whose trees have everything: losses, units, transfer switches, generators, single and dual cords."""
    places, domains, racks = [], [], []
    for number in range(draw(st.integers(1, sites))):
        site = f"s{number}"
        places.append(
            Site(
                name=site,
                limit_w=draw(st.sampled_from([None, 40e3, 80e3])),
                cooling_w=draw(st.sampled_from([None, 50e3])),
                pue=draw(st.sampled_from([None, 1.3])),
            )
        )
        names: list[str] = []
        for layer in range(3):
            made = []
            for at in range(draw(st.integers(1, 3))):
                name = f"{site}-{layer}{at}"
                parents = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
                units = draw(st.integers(1, 3))
                kinds = ["ups", "transfer_switch"] if len(parents) > 1 else ["ups"] if parents else ["ups", "generator"]
                made.append(
                    Domain(
                        name=name,
                        site=site,
                        kind=draw(st.sampled_from(kinds)),
                        parents=tuple(parents),
                        rating=rating(draw(st.sampled_from([None, 10e3, 20e3, 45e3]))),
                        units=units,
                        spare=draw(st.integers(0, units - 1)),
                        efficiency_ratio=draw(st.sampled_from([1.0, 0.9])),
                        other_w=draw(st.sampled_from([0.0, 0.0, 500.0])),
                    )
                )
            domains += made
            names += [domain.name for domain in made]
        for at in range(draw(st.integers(1, most_racks))):
            feeds = draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
            racks.append(
                Rack(
                    name=f"{site}-r{at}",
                    site=site,
                    feeds=tuple(feeds),
                    rating=rating(draw(st.sampled_from([None, 8e3, 17e3]))),
                    units=draw(st.sampled_from([None, 10, 42])),
                    cooling_w=draw(st.sampled_from([None, 9e3])),
                    ports=draw(st.sampled_from([None, 8])),
                )
            )
    return Fleet(sites=tuple(places), domains=tuple(domains), racks=tuple(racks))


def draws(fleet: Fleet) -> st.SearchStrategy[Mapping[str, float]]:
    """What each rack draws."""
    watts = st.floats(0, 15e3).map(lambda value: round(value, 1))
    return st.fixed_dictionaries({rack.name: watts for rack in fleet.racks})


class Case(NamedTuple):
    """A failure case at one moment."""

    load_w: dict[str, float]
    capacity_w: dict[str, float | None]
    dark: set[str]


def walked(fleet: Fleet, watts: Mapping[str, float]) -> dict[tuple[str, str], Case]:
    """Every failure case of every site, walked one by one."""
    found = {}
    for told in walk(fleet, watts):
        for at, case in enumerate(told.cases):
            load = {node: float(row[at, 0]) for node, row in told.load_w.items()}
            limits = {node: float(told.capacity_w[node][at]) if node in told.capacity_w else None for node in load}
            dark = {rack for rack, off in told.dark.items() if off[at, 0]}
            found[told.site, case] = Case(load, limits, dark)
    return found
