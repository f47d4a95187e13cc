"""
The power tree as a network: which node carries what share of which rack's load, in each failure case.

A rack shares its load evenly over the feeds that stand, a domain over its parents that stand; a transfer switch takes
the first that does. A node stands unless it has failed or nothing above it stands. What hangs on nothing that stands is
dark: it draws nothing, and is told as such.

Failure cases are the loss of each domain as a whole, or, of a domain with spare units, of those units; and of one cord
of each rack. The loss of a cord moves one rack's load where the loss of its feed moves all of them, so it is a case of
its own only where a node carries more by it than by either nothing or the feed's loss.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from analytics.fleet import Fleet, Site

NOTHING: Final = "none"
"""The case in which all stands."""

_EXACT: Final = 1e-12

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """
    A node that carries load; `safe_w` is what it may carry with its spare units lost, `derated_w` with all of them.

    A site is a node above its roots (but for generators): what its grid connection may carry.
    """

    name: str
    kind: str
    site: str
    parents: tuple[str, ...]
    standby: bool = False
    rated_w: float | None = None
    derated_w: float | None = None
    safe_w: float | None = None
    spare: int = 0
    group: str | None = None
    redundancy: str | None = None
    gain: float = 1.0
    """What it draws over what it passes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A failure case: what is lost, a domain (or its spare units, `units`) or a cord of a rack."""

    name: str
    node: str | None = None
    units: int = 0
    rack: str | None = None


Pool = tuple[str, ...]
"""Racks with the same feeds load the tree alike: a pool is the tuple of its feeds."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """
    The power tree of one site; nodes come after what they hang from, and the first is the site itself.

    `pue` is that of the site unless the tree tells what else hangs on it (other_w), which would count it twice.
    """

    site: Site
    nodes: tuple[Node, ...]
    pools: tuple[Pool, ...]
    racks: Mapping[str, Pool] = field(default_factory=dict)
    pue: float | None = None

    @cached_property
    def at(self) -> dict[str, int]:
        """The row of each node in the arrays."""
        return {node.name: row for row, node in enumerate(self.nodes)}

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All stands, then every single failure."""
        lost = [
            Case(name=f"{node.name}: {node.spare} of its units", node=node.name, units=node.spare)
            if node.spare
            else Case(name=node.name, node=node.name)
            for node in self.nodes
            if node.kind != "site"
        ]
        return (Case(name=NOTHING), *lost, *self._cords)

    @cached_property
    def above(self) -> dict[str, frozenset[str]]:
        """The nodes that each node can draw from, itself included."""
        found: dict[str, frozenset[str]] = {}
        for node in self.nodes:
            found[node.name] = frozenset({node.name}).union(*(found[parent] for parent in node.parents))
        return found

    def below(self, name: str) -> tuple[Pool, ...]:
        """The pools that can draw from a node."""
        return tuple(pool for pool in self.pools if any(name in self.above[feed] for feed in pool))

    def weights(self, case: Case) -> Floats:
        """
        What each node carries of a watt of each pool: nodes by pools.

        A cord's loss is that of one rack, not of its pool: see `rack_weights`.
        """
        failed = case.node
        if failed is None or case.units or case.rack:
            return self._whole
        moved = self._whole.copy()
        flows: dict[str, Floats] = {}
        for column, pool in enumerate(self.pools):
            if any(failed in self.above[feed] for feed in pool):
                moved[:, column] = self._of_pool(pool, failed, flows)
        return moved

    def rack_weights(self, rack: str, case: Case) -> Floats:
        """What each node carries of a watt of *rack* in *case*."""
        pool = self.racks[rack]
        if case.rack == rack:
            return self._of_pool(tuple(feed for feed in pool if feed != case.node), None, {})
        column: Floats = self.weights(case)[:, self.pools.index(pool)]
        return column

    def carried_w(self, racks: Mapping[str, float], *, loose_w: float = 0.0) -> dict[str, float]:
        """What each node carries while all stands, where racks draw so much, and hosts in no rack *loose_w*."""
        pools = np.zeros(len(self.pools))
        for rack, watts in racks.items():
            pools[self.pools.index(self.racks[rack])] += watts
        pools[self.pools.index(())] += loose_w
        carried = self._whole @ pools
        return {node.name: float(carried[at]) for at, node in enumerate(self.nodes)}

    def capacity_w(self, case: Case) -> Floats:
        """What each node may carry in *case*; NaN where no limit is known."""
        values = [
            node.safe_w if case.units and case.node == node.name else node.derated_w for node in self.nodes
        ]  # fmt: skip
        return np.array([np.nan if value is None else value for value in values])

    def dark(self, case: Case) -> tuple[Pool, ...]:
        """The pools that nothing feeds in *case*."""
        if case.node is None or case.units or case.rack:
            return ()
        return tuple(pool for pool in self.pools if pool and not any(self._stands(feed, case.node) for feed in pool))

    @cached_property
    def _whole(self) -> Floats:
        flows: dict[str, Floats] = {}
        columns = [self._of_pool(pool, None, flows) for pool in self.pools]
        return np.column_stack(columns) if columns else np.zeros((len(self.nodes), 0))

    def _stands(self, name: str, failed: str | None) -> bool:
        if failed is None or failed not in self.above[name]:
            return True
        parents = self.nodes[self.at[name]].parents
        return name != failed and bool(parents) and any(self._stands(parent, failed) for parent in parents)

    def _of_pool(self, pool: Pool, failed: str | None, flows: dict[str, Floats]) -> Floats:
        """What each node carries of a watt that is drawn evenly from those of *pool* that stand."""
        standing = [feed for feed in pool or (self.site.name,) if self._stands(feed, failed)]
        total = np.zeros(len(self.nodes))
        for feed in standing:
            total += self._flow(feed, failed, flows) / len(standing)
        return total

    def _flow(self, name: str, failed: str | None, flows: dict[str, Floats]) -> Floats:
        """What each node carries of a watt that is drawn from *name*, which stands."""
        found = flows.get(name)
        if found is None:
            node = self.nodes[self.at[name]]
            found = np.zeros(len(self.nodes))
            found[self.at[name]] = self.pue or 1.0 if node.kind == "site" else 1.0
            standing = [parent for parent in node.parents if self._stands(parent, failed)]
            taken = standing[:1] if node.standby else standing
            for parent in taken:
                passed = self._flow(parent, failed, flows) / len(taken)
                found[1:] += passed[1:] * node.gain
                # At the site itself the PUE has the losses of the tree in it already.
                found[0] += passed[0] * (1.0 if self.pue else node.gain)
            flows[name] = found
        return found

    @cached_property
    def _cords(self) -> tuple[Case, ...]:
        """The cords whose loss some node feels more than nothing, and than the loss of their feed, which moves all."""
        uneven = set()
        for feed in dict.fromkeys(feed for pool in self.pools for feed in pool):
            spare = self.nodes[self.at[feed]].spare
            lost = self._whole if spare else self.weights(Case(name=feed, node=feed))
            heavier = (lost >= self._whole - _EXACT).all(axis=1)
            for column, pool in enumerate(self.pools):
                if feed not in pool or len(pool) == 1:
                    continue
                moved = self._of_pool(tuple(other for other in pool if other != feed), None, {})
                least = np.where(heavier, np.maximum(lost[:, column], self._whole[:, column]), self._whole[:, column])
                if (moved > least + _EXACT).any():
                    uneven.add((pool, feed))
        return tuple(
            Case(name=f"{rack}: cord to {feed}", node=feed, rack=rack)
            for rack, pool in self.racks.items()
            for feed in pool
            if (pool, feed) in uneven
        )


def trees(fleet: Fleet, pue: Mapping[str, float] | None = None) -> tuple[Tree, ...]:
    """The power tree of each site, in the order of the file; *pue* as measured, where the file tells none."""
    known = {**(pue or {}), **fleet.pue}
    return tuple(_tree(fleet, site, known.get(site.name)) for site in fleet.sites)


def _tree(fleet: Fleet, site: Site, pue: float | None) -> Tree:
    domains = [domain for domain in fleet.domains if domain.site == site.name]
    top = Node(
        name=site.name, kind="site", site=site.name, parents=(), rated_w=site.limit_w, derated_w=site.limit_w,
        safe_w=site.limit_w,
    )  # fmt: skip
    nodes = [top]
    for domain in domains:
        hung = domain.parents or (() if domain.kind == "generator" else (site.name,))
        nodes.append(
            Node(
                name=domain.name,
                kind=domain.kind,
                site=site.name,
                parents=hung,
                standby=domain.standby,
                rated_w=domain.installed_w,
                derated_w=domain.derated_w,
                safe_w=domain.safe_w,
                spare=domain.spare,
                group=domain.group,
                redundancy=domain.redundancy,
                gain=1.0 / domain.efficiency_ratio,
            )
        )
    racks = {rack.name: rack.feeds for rack in fleet.racks if rack.site == site.name}
    extra = [(domain.name,) for domain in domains if domain.other_w or domain.meter]
    # Racks without feeds, and hosts without racks, hang on the site itself.
    pools = tuple(dict.fromkeys([*racks.values(), *extra, ()]))
    told = any(domain.other_w for domain in domains)
    return Tree(site=site, nodes=tuple(nodes), pools=pools, racks=racks, pue=None if told else pue)


def groups(nodes: Iterable[Node]) -> dict[str, Sequence[Node]]:
    """The nodes that back each other up, by the name of their group."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        if node.group is not None:
            found.setdefault(node.group, []).append(node)
    return {name: tuple(members) for name, members in found.items()}
