"""
Headroom: what each node may carry less what it does, in the failure case that leaves least.

    load of v given f <= derated power of v, for each failure f and each node v

Loads are a stated percentile of means of a minute (or their maximum), taken of the joint load at the node itself: the
sum of what hangs on it, minute by minute, moved as the failure moves it. Peaks of parts that do not coincide are never
added up, and a redundant feed is never counted as capacity: with either of two feeds lost the other carries all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.capacity.load import Leaf, Load
from analytics.capacity.tree import NOTHING, Case, Floats, Node, Tree, groups
from analytics.fleet import Fleet, Rack, spare_of
from collector.errors import NotEnoughData

PERCENTILE: Final = 0.99
MIN_DAYS: Final = 7.0
"""A week has each of its days in it; a peak percentile of less says little of the next."""
METHOD: Final = "headroom/1"


def require_days(load: Load, site: str, min_days: float) -> None:
    """
    Hold that there is enough of a measured load.

    Raises: NotEnoughData, saying how many more days are needed.
    """
    if load.measured and load.days < min_days:
        raise NotEnoughData(
            f"{site}: {load.days:.3g} days of its power are measured and {min_days:.3g} are needed: "
            f"{min_days - load.days:.3g} more days"
        )


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The load of every node of a site in every failure case; `percentile` 1 is the maximum."""

    tree: Tree
    load: Load
    racks: tuple[Rack, ...]
    percentile: float = PERCENTILE

    @cached_property
    def pools_w(self) -> Floats:
        """The load of each pool in each minute."""
        total = np.zeros((len(self.tree.pools), self.load.power_w.shape[1]))
        for leaf, row in zip(self.load.leaves, self.load.power_w, strict=True):
            total[self.tree.pools.index(leaf.pool)] += row
        return total

    @cached_property
    def rows(self) -> dict[str, Floats]:
        """The minutes of each leaf."""
        return {leaf.name: row for leaf, row in zip(self.load.leaves, self.load.power_w, strict=True)}

    @cached_property
    def weights(self) -> Floats:
        """Cases by nodes by pools (see `Tree.weights`)."""
        return np.stack([self.tree.weights(case) for case in self.tree.cases])

    @cached_property
    def capacity_w(self) -> Floats:
        """Cases by nodes; NaN where no limit is known."""
        return np.stack([self.tree.capacity_w(case) for case in self.tree.cases])

    @cached_property
    def load_w(self) -> Floats:
        """The percentile of the load: cases by nodes."""
        normal = self.normal_w
        found = np.tile(self.peak(normal), (len(self.tree.cases), 1))
        for at, case in enumerate(self.tree.cases):
            for node in np.flatnonzero(self._moved(case).any(axis=1)):
                found[at, node] = self.peak(self.case_w(case, int(node)))
        return found

    @cached_property
    def normal_w(self) -> Floats:
        """The load of each node in each minute while all stands."""
        whole: Floats = self.weights[0] @ self.pools_w
        return whole

    def case_w(self, case: Case, node: int) -> Floats:
        """The load of a node in each minute of the window, had *case* held then."""
        if case.rack is not None:
            moved = self.tree.rack_weights(case.rack, case)[node] - self._rack_column(case.rack)[node]
            row: Floats = self.normal_w[node] + moved * self.rows[case.rack]
            return row
        row = self.weights[self.tree.cases.index(case), node] @ self.pools_w
        return row

    def carried_w(self, racks_w: Mapping[str, float]) -> Floats:
        """What the nodes carry of so many watts in some racks: cases by nodes."""
        carried = np.zeros((len(self.tree.cases), len(self.tree.nodes)))
        for rack, watts in racks_w.items():
            carried += self.weights[:, :, self.tree.pools.index(self.tree.racks[rack])] * watts
            for at, case in enumerate(self.tree.cases):
                if case.rack == rack:
                    carried[at] += (self.tree.rack_weights(rack, case) - self._rack_column(rack)) * watts
        return carried

    @cached_property
    def slack_w(self) -> Floats:
        """What is left: cases by nodes; NaN where no limit is known."""
        return self.capacity_w - self.load_w

    @cached_property
    def worst(self) -> np.ndarray:
        """
        The case that leaves each node least; where no limit is known, in which it carries most.

        Of several that leave the same it is the loss of something of the node's own kind, if there is one.
        """
        slack = np.where(np.isnan(self.slack_w), -self.load_w, self.slack_w)
        alike = np.array([[self._kind(case) != node.kind for node in self.tree.nodes] for case in self.tree.cases])
        # Less than a milliwatt apart is the same.
        worst: np.ndarray = np.lexsort((alike, np.round(slack, 3)), axis=0)[0]
        return worst

    @cached_property
    def free_w(self) -> dict[tuple[str, ...], tuple[float, str, str]]:
        """What more each pool could draw: watts, the node that limits it, and the case; infinite without limits."""
        found = {}
        for column, pool in enumerate(self.tree.pools):
            carried = self.weights[:, :, column]
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where((carried > 0) & np.isfinite(self.slack_w), self.slack_w / carried, np.inf)
            at, node = np.unravel_index(int(np.argmin(room)), room.shape)
            found[pool] = (float(room[at, node]), self.tree.nodes[node].name, self.tree.cases[at].name)
        return found

    def rack_safe_w(self, rack: Rack) -> float | None:
        """What a rack's circuits may carry with one of them lost (the only one cannot be): of two equal ones, one."""
        if rack.rating is None:
            return None
        return rack.rating.derated_w * max(1, len(rack.feeds) - 1)

    def rack_free_w(self, rack: Rack) -> tuple[float, str, str]:
        """What more a rack could draw, what limits it, and in which case."""
        best = self.free_w[self.tree.racks[rack.name]]
        safe = self.rack_safe_w(rack)
        if safe is not None:
            own = safe - float(self.peak(self.rows[rack.name]))
            if own < best[0]:
                best = (own, rack.name, _cord_lost(rack))
        return best

    def free_units(self, rack: Rack) -> int | None:
        """Rack units that nothing stands in; None where that is not known."""
        used = self._leaves[rack.name].rack_units
        return None if rack.units is None or used is None else max(0, rack.units - used)

    def free_ports(self, rack: Rack) -> int | None:
        """Network ports that nothing is plugged into; None where that is not known."""
        used = self._leaves[rack.name].ports
        return None if rack.ports is None or used is None else max(0, rack.ports - used)

    @cached_property
    def _leaves(self) -> dict[str, Leaf]:
        return {leaf.name: leaf for leaf in self.load.leaves}

    def peak_w(self, leaf: str) -> float:
        """The percentile of a leaf's own load."""
        return float(self.peak(self.rows[leaf]))

    def _kind(self, case: Case) -> str | None:
        return None if case.node is None or case.rack else self.tree.nodes[self.tree.at[case.node]].kind

    def _moved(self, case: Case) -> Floats:
        """What *case* changes: nodes by pools, or nodes by one rack."""
        if case.rack is not None:
            return (self.tree.rack_weights(case.rack, case) - self._rack_column(case.rack))[:, None]
        moved: Floats = self.weights[self.tree.cases.index(case)] - self.weights[0]
        return moved

    def _rack_column(self, rack: str) -> Floats:
        column: Floats = self.weights[0][:, self.tree.pools.index(self.tree.racks[rack])]
        return column

    def of_leaves(self, pools: Floats) -> Floats:
        """What is of pools, of the leaves in them."""
        return np.array([pools[self.tree.pools.index(leaf.pool)] for leaf in self.load.leaves])

    def peak(self, minutes: Floats) -> Floats:
        """The percentile that counts, along the last axis."""
        if minutes.shape[-1] == 1:
            return minutes[..., 0]
        # A value that was seen, never one between two.
        found: Floats = np.quantile(minutes, self.percentile, axis=-1, method="higher")
        return found


def survey(tree: Tree, load: Load, fleet: Fleet, *, percentile: float = PERCENTILE) -> Survey:
    """The survey of a site."""
    racks = tuple(rack for rack in fleet.racks if rack.site == tree.site.name)
    return Survey(tree=tree, load=load, racks=racks, percentile=percentile)


def _cord_lost(rack: Rack) -> str:
    return f"{rack.name}: cord to {rack.feeds[0]}" if len(rack.feeds) > 1 else NOTHING


# ------------------------------------------------------------------------------------------------------------- frames

NODES: Final = pl.Schema(
    {
        "node": pl.String(), "time": pl.Datetime("ns"), "kind": pl.String(), "site": pl.String(),
        "parent": pl.String(), "start": pl.Datetime("ns"), "rated_w": pl.Float64(), "derated_w": pl.Float64(),
        "safe_w": pl.Float64(), "load_mean_w": pl.Float64(), "load_p50_w": pl.Float64(), "load_p95_w": pl.Float64(),
        "load_p99_w": pl.Float64(), "load_max_w": pl.Float64(), "load_w": pl.Float64(), "load_basis": pl.String(),
        "worst_failure": pl.String(), "failure_load_w": pl.Float64(), "headroom_w": pl.Float64(),
        "exceedance_ratio": pl.Float64(), "nameplate_w": pl.Float64(), "oversubscription_ratio": pl.Float64(),
        "coincidence_ratio": pl.Float64(), "covered_ratio": pl.Float64(), "modelled_ratio": pl.Float64(),
        "unknown": pl.Int64(),
    }
)  # fmt: skip
CASES: Final = pl.Schema(
    {
        "site": pl.String(), "case": pl.String(), "dark_w": pl.Float64(), "node": pl.String(), "load_w": pl.Float64(),
        "capacity_w": pl.Float64(), "headroom_w": pl.Float64(), "overloaded": pl.Int64(), "checked": pl.Int64(),
    }
)  # fmt: skip


def headroom(found: Survey) -> pl.DataFrame:
    """
    One row for each node of a site: the site, its domains and their groups, its racks.

    Out: `NODES`. rated_w as built, derated_w day and night, safe_w in the failure that leaves least; loads while all
         stands as mean and percentiles of means of a minute; load_w the percentile that counts; failure_load_w in the
         worst failure, and headroom_w = safe_w - failure_load_w (below 0: overloaded, null: no limit is known, or some
         load is not). exceedance_ratio: the share of minutes in which the load in the worst failure was above
         what is safe. nameplate_w of what hangs on it, in that failure; oversubscription_ratio = nameplate_w / safe_w.
         coincidence_ratio: its peak over the sum of the peaks of what hangs on it. modelled_ratio: the part of its mean
         load that is modelled or a nameplate. unknown: hosts below of which neither power nor nameplate is known.
    """
    places = [_of_node(found, at, node) for at, node in enumerate(found.tree.nodes)]
    places += [_of_group(found, name, members) for name, members in groups(found.tree.nodes).items()]
    places += [_of_rack(found, rack) for rack in found.racks]
    return pl.DataFrame([_row(found, place) for place in places], schema=NODES, orient="row")


def cases(found: Survey) -> pl.DataFrame:
    """
    One row for each failure case of a site: the proof that it holds, or where it does not.

    Out: `CASES`. dark_w: the load that loses all power; node: that with least headroom in the case, with its load and
         capacity; overloaded: nodes above their capacity; checked: nodes with a limit.
    """
    rows: list[tuple[Any, ...]] = []
    for at, case in enumerate(found.tree.cases):
        slack = found.slack_w[at]
        known = np.isfinite(slack)
        dark = [found.pools_w[found.tree.pools.index(pool)] for pool in found.tree.dark(case)]
        dark_w = float(found.peak(np.sum(dark, axis=0))) if dark else 0.0
        node: tuple[Any, ...] = (None, None, None, None)
        if known.any():
            least = int(np.nanargmin(slack))
            node = (
                found.tree.nodes[least].name, float(found.load_w[at, least]), float(found.capacity_w[at, least]),
                float(slack[least]),
            )  # fmt: skip
        over = int((slack[known] < 0).sum())
        rows.append((found.tree.site.name, case.name, dark_w, *node, over, int(known.sum())))
    return pl.DataFrame(rows, schema=CASES, orient="row")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a row is about: its limits, its load while all stands and in the worst failure, and whose load that is."""

    name: str
    kind: str
    parent: str | None
    rated_w: float | None
    derated_w: float | None
    safe_w: float | None
    normal_w: Floats
    worst_w: Floats
    failure: str
    usual: Floats
    """What it carries of a watt of each leaf while all stands."""
    carried: Floats
    """The same in the worst failure."""


def _of_node(found: Survey, at: int, node: Node) -> _Place:
    worst = int(found.worst[at])
    case, safe = found.tree.cases[worst], float(found.capacity_w[worst, at])
    return _Place(
        name=node.name, kind=node.kind, parent=node.parents[0] if node.parents else None, rated_w=node.rated_w,
        derated_w=node.derated_w, safe_w=None if np.isnan(safe) else safe, normal_w=found.normal_w[at],
        worst_w=found.case_w(case, at), failure=case.name, usual=found.of_leaves(found.weights[0, at]),
        carried=found.of_leaves(found.weights[worst, at]),
    )  # fmt: skip


def _of_rack(found: Survey, rack: Rack) -> _Place:
    row, feeds = found.rows[rack.name], max(1, len(rack.feeds))
    own = np.array([float(leaf.name == rack.name) for leaf in found.load.leaves])
    return _Place(
        name=rack.name, kind="rack", parent=rack.feeds[0] if rack.feeds else rack.site,
        rated_w=None if rack.rating is None else rack.rating.w * feeds,
        derated_w=None if rack.rating is None else rack.rating.derated_w * feeds, safe_w=found.rack_safe_w(rack),
        normal_w=row, worst_w=row, failure=_cord_lost(rack), usual=own, carried=own,
    )  # fmt: skip


def _of_group(found: Survey, name: str, members: Sequence[Node]) -> _Place:
    """Members that back each other up: all but the largest spare ones are to carry what all carry now."""
    at = [found.tree.at[member.name] for member in members]
    spare = spare_of(members[0].redundancy or "N", len(members))
    rated = [member.rated_w for member in members if member.rated_w is not None]
    derated = sorted(member.derated_w for member in members if member.derated_w is not None)
    known = len(derated) == len(members)
    largest = max(members, key=lambda member: member.derated_w or 0.0)
    shares = found.of_leaves(found.weights[0, at].sum(axis=0))
    minutes: Floats = found.normal_w[at].sum(axis=0)
    return _Place(
        name=name, kind="group", parent=largest.parents[0] if largest.parents else None,
        rated_w=sum(rated) if known else None, derated_w=sum(derated) if known else None,
        safe_w=sum(derated[: len(derated) - spare]) if known else None, normal_w=minutes, worst_w=minutes,
        failure=largest.name if spare else NOTHING, usual=shares, carried=shares,
    )  # fmt: skip


def _row(found: Survey, place: _Place) -> dict[str, Any]:
    load_w, failure_load_w = float(found.peak(place.normal_w)), float(found.peak(place.worst_w))
    touched = [(leaf, w) for leaf, w in zip(found.load.leaves, place.carried, strict=True) if w > 0]
    plates = [(leaf.nameplate_w, weight) for leaf, weight in touched]
    plate = None if any(w is None for w, _ in plates) else sum((w or 0.0) * share for w, share in plates)
    whole = sum(leaf.measured_w + leaf.modelled_w + leaf.assumed_w for leaf, _ in touched)
    soft = sum(leaf.modelled_w + leaf.assumed_w for leaf, _ in touched)
    unknown = sum(len(leaf.unknown) for leaf, _ in touched)
    apart_w = float(sum(w * found.peak_w(leaf.name) for leaf, w in zip(found.load.leaves, place.usual, strict=True)))
    p50, p95, p99 = (float(q) for q in np.quantile(place.normal_w, [0.5, 0.95, 0.99], method="higher"))
    return {
        "node": place.name, "time": found.load.end_ns, "kind": place.kind, "site": found.tree.site.name,
        "parent": place.parent, "start": found.load.start_ns, "rated_w": place.rated_w,
        "derated_w": place.derated_w, "safe_w": place.safe_w, "load_mean_w": float(place.normal_w.mean()),
        "load_p50_w": p50, "load_p95_w": p95, "load_p99_w": p99, "load_max_w": float(place.normal_w.max()),
        "load_w": load_w, "load_basis": _basis(found, soft / whole if whole else 0.0),
        "worst_failure": place.failure, "failure_load_w": failure_load_w,
        "headroom_w": None if place.safe_w is None or unknown else place.safe_w - failure_load_w,
        "exceedance_ratio": None if place.safe_w is None else float((place.worst_w > place.safe_w).mean()),
        "nameplate_w": plate,
        "oversubscription_ratio": plate / place.safe_w if plate is not None and place.safe_w else None,
        "coincidence_ratio": load_w / apart_w if apart_w > 0 else None, "covered_ratio": found.load.covered_ratio,
        "modelled_ratio": soft / whole if whole else None, "unknown": unknown,
    }  # fmt: skip


def _basis(found: Survey, soft_ratio: float) -> str:
    """In words, which load counts and how much of it is measured at the wall."""
    if not found.load.measured:
        return "nameplate"
    what = "max" if found.percentile >= 1.0 else f"p{found.percentile * 100:g}"
    return f"{what} of {len(found.load.times):,} minutes, {100 * (1 - soft_ratio):.0f} % measured"
