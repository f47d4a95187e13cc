"""Where devices are: hosts, racks, power domains and sites, and how many of each belong together."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final, NamedTuple

from analytics.fleet import Fleet

SCOPES: Final = ("device", "host", "rack", "domain", "site")
"""From the narrowest to the widest."""
TOGETHER: Final = " + "
"""Between the names of power domains of which nobody can say which it is."""


class Place(NamedTuple):
    """A device, host, rack, power domain (or several that cannot be told apart) or site."""

    scope: str
    name: str

    def parts(self) -> "list[Place]":
        """The power domains of one name, each; of anything else itself."""
        return [Place(self.scope, name) for name in self.name.split(TOGETHER)] if self.scope == "domain" else [self]


class Places:
    """
    The tree of a fleet, as far as fleet.toml tells and devices were seen.

    A rack that two feeds carry belongs to both; so do all that are above them.
    """

    def __init__(self, host_of: Mapping[str, str], fleet: Fleet) -> None:
        self.host_of = dict(host_of)
        self.fleet = fleet
        hosts = sorted(set(self.host_of.values()))
        self.rack_of = fleet.rack_of(hosts)
        self.site_of = fleet.site_of(hosts)
        self._racks = {rack.name: rack for rack in fleet.racks}
        self._domains = {domain.name: domain for domain in fleet.domains}
        self._chains: dict[Place, frozenset[Place]] = {}

    def above(self, place: Place) -> list[Place]:
        """
        What *place* belongs to directly: nothing, one, or several power domains.

        A place that is the only one in what it belongs to stands for it, so that is passed over.
        """
        found: list[Place] = []
        for parent in self._parents(place):
            found += [parent] if len(self.inside(parent)) > 1 else self.above(parent)
        return list(dict.fromkeys(found))

    def chain(self, place: Place) -> frozenset[Place]:
        """Everything that *place* belongs to, itself included."""
        if place not in self._chains:
            above = [self.chain(parent) for parent in self._parents(place)]
            self._chains[place] = frozenset({place}).union(*above)
        return self._chains[place]

    def site(self, place: Place) -> str | None:
        """The site of *place*."""
        return next((one.name for one in self.chain(place) if one.scope == "site"), None)

    def inside(self, place: Place) -> frozenset[Place]:
        """What belongs to *place* directly."""
        return frozenset.intersection(*(self._below.get(part, frozenset()) for part in place.parts()))

    @cached_property
    def _below(self) -> dict[Place, frozenset[Place]]:
        places: set[Place] = {Place("device", device) for device in self.host_of}
        found: dict[Place, set[Place]] = {}
        while places:
            above: set[Place] = set()
            for place in places:
                for parent in self._parents(place):
                    found.setdefault(parent, set()).add(place)
                    above.add(parent)
            places = above
        return {parent: frozenset(children) for parent, children in found.items()}

    def _parents(self, place: Place) -> list[Place]:
        if place.scope == "device":
            return _places("host", [self.host_of.get(place.name)])
        if place.scope == "host":
            rack = self.rack_of.get(place.name)
            return _places("rack", [rack]) or _places("site", [self.site_of.get(place.name)])
        if place.scope == "rack":
            told = self._racks.get(place.name)
            return [] if told is None else _places("domain", told.feeds) or _places("site", [told.site])
        if place.scope == "domain":
            domains = [one for part in place.parts() if (one := self._domains.get(part.name)) is not None]
            above = [name for domain in domains for name in domain.parents]
            return _places("domain", above) or _places("site", [domain.site for domain in domains])
        return []


def _places(scope: str, names: Iterable[str | None]) -> list[Place]:
    return [Place(scope, name) for name in dict.fromkeys(names) if name]
