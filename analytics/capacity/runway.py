"""
Runway: when something runs out at each node, as a distribution over sample paths, and what runs out first.

In each path load grows from what it is now by the path's growth: the load in the worst failure against what is safe, at
the node itself and at all above it; rack units, ports and heat of the racks below in the same proportion, since what
draws power also takes space and has to be cooled. The first limit that is reached is what binds in that path.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.capacity.headroom import Survey
from analytics.capacity.tree import Floats
from analytics.fleet import Fleet, Rack

RUNWAY: Final = pl.Schema(
    {
        "node": pl.String(), "runway_p10": pl.Datetime("ns"), "runway_p50": pl.Datetime("ns"),
        "runway_p90": pl.Datetime("ns"), "runs_out_ratio": pl.Float64(), "binding": pl.String(),
        "binding_ratio": pl.Float64(), "lead_days": pl.Float64(), "order_by": pl.Datetime("ns"),
        "horizon": pl.Datetime("ns"), "paths": pl.Int64(),
    }
)  # fmt: skip
NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class _Limit:
    """Something that runs out: what it is, who has it, how much is used of it now, and in which node's growth."""

    what: str
    node: str
    used: float
    whole: float


def runway(
    found: Survey, paths: pl.DataFrame, fleet: Fleet, *, placed_w: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """
    One row for each node and rack of a site.

    In:  paths: node, path, time, power_w (see `analytics.capacity.paths.PATHS`), of nodes, of racks, or of the site; a
         node without paths grows as the nearest node above it that has some. *placed_w*: what more some racks draw, of
         servers that are to come and do not grow.
    Out: `RUNWAY`: runway_p10, p50, p90 (a tenth, half, nine tenths of the paths run out before; null: not within the
         horizon), runs_out_ratio (of the paths, within the horizon), binding (what is reached first in most paths:
         power, power of NODE above, space, ports, cooling), binding_ratio (of the paths that run out), lead_days (of
         what binds, as fleet.toml tells), order_by (runway_p10 less lead_days), horizon, paths (how many).

    Growth is over the median of the paths' first day.
    """
    growth = _Growth(found, paths)
    more_w = dict(placed_w or {})
    added = found.carried_w(more_w)
    rows = []
    for name in [*found.tree.at, *(rack.name for rack in found.racks)]:
        limits = _limits(found, name, added, more_w.get(name, 0.0))
        first = np.full(growth.count, NEVER)
        which = np.full(growth.count, -1)
        for number, limit in enumerate(limits):
            reached = growth.reached(limit)
            which = np.where(reached < first, number, which)
            first = np.minimum(first, reached)
        rows.append(_row(name, first, [limits[at] for at in which if at >= 0], growth, fleet, found))
    return pl.DataFrame(rows, schema=RUNWAY, orient="row")


class _Growth:
    """The paths of a site as growth: paths by days, of each node."""

    def __init__(self, found: Survey, paths: pl.DataFrame) -> None:
        self._found = found
        self.times = paths["time"].unique().sort()
        self.count = paths["path"].n_unique()
        self._of: dict[str, Floats] = {}
        for (name,), part in paths.group_by("node"):
            grid = part.sort("path", "time")["power_w"].to_numpy().reshape(self.count, len(self.times))
            level = float(np.median(grid[:, 0]))
            if level > 0:
                self._of[str(name)] = grid / level

    def of(self, node: str) -> Floats:
        """The growth of a node, or of the nearest above it that has paths; none of them: no growth."""
        seen = [node]
        for name in seen:
            if name in self._of:
                return self._of[name]
            seen += [above for above in _parents(self._found, name) if above not in seen]
        return self._of.get(self._found.tree.site.name, np.ones((self.count, len(self.times))))

    def reached(self, limit: _Limit) -> np.ndarray:
        """The day of each path on which a limit is first exceeded."""
        over = limit.used * self.of(limit.node) > limit.whole
        if limit.used > limit.whole:
            over[:, 0] = True
        return np.where(over.any(axis=1), over.argmax(axis=1), NEVER)


def _parents(found: Survey, name: str) -> tuple[str, ...]:
    if name in found.tree.at:
        return found.tree.nodes[found.tree.at[name]].parents
    return found.tree.racks.get(name) or (found.tree.site.name,)


def grown(found: Survey, paths: pl.DataFrame, until: datetime, ratio: float) -> float:
    """By how much the site's load grows up to a day at the most in a share of *ratio* of the paths; at least 1."""
    growth = _Growth(found, paths)
    days = max(1, int((growth.times <= until).sum()))
    highest = growth.of(found.tree.site.name)[:, :days].max(axis=1)
    return max(1.0, float(np.quantile(highest, ratio, method="higher")))


def short_w(found: Survey, paths: pl.DataFrame, node: str) -> tuple[float, float, float]:
    """Power that a node lacks at the most within the horizon: in a tenth, half and nine tenths of the paths."""
    limits = _power(found, node, "power", found.carried_w({}))
    if not limits:
        return 0.0, 0.0, 0.0
    (limit,) = limits
    highest = _Growth(found, paths).of(node).max(axis=1)
    low, mid, high = np.maximum(limit.used * np.quantile(highest, [0.1, 0.5, 0.9]) - limit.whole, 0.0)
    return float(low), float(mid), float(high)


def _limits(found: Survey, name: str, added: Floats, more_w: float) -> list[_Limit]:
    """What can run out at a node: its own first, then what is above it."""
    limits: list[_Limit] = []
    if name in found.tree.at:
        inside = [rack for rack in found.racks if _hangs(found, rack, name)]
        limits += _power(found, name, "power", added)
    else:
        inside = [rack for rack in found.racks if rack.name == name]
        safe = found.rack_safe_w(inside[0])
        if safe is not None:
            limits.append(_Limit("power", name, found.peak_w(name), safe - more_w))
    for above in sorted(_above(found, name) - {name}, key=found.tree.at.__getitem__):
        limits += _power(found, above, f"power of {above}", added)
    limits += _shared("space", name, [(rack.units, found.free_units(rack)) for rack in inside])
    limits += _shared("ports", name, [(rack.ports, found.free_ports(rack)) for rack in inside])
    cooled = [(found.peak_w(rack.name), rack.cooling_w) for rack in inside]
    if cooled and all(whole is not None for _, whole in cooled):
        limits.append(_Limit("cooling", name, sum(w for w, _ in cooled), sum(whole or 0.0 for _, whole in cooled)))
    if name == found.tree.site.name and found.tree.site.cooling_w is not None:
        heat = float(found.peak(found.load.power_w.sum(axis=0)))
        limits.append(_Limit("cooling", name, heat, found.tree.site.cooling_w))
    return limits


def _power(found: Survey, node: str, what: str, added: Floats) -> list[_Limit]:
    at = found.tree.at[node]
    slack = found.slack_w[:, at] - added[:, at]
    if np.isnan(slack).all():
        return []
    worst = int(np.nanargmin(slack)) if added[:, at].any() else int(found.worst[at])
    return [_Limit(what, node, float(found.load_w[worst, at]), float(found.capacity_w[worst, at] - added[worst, at]))]


def _shared(what: str, node: str, racks: list[tuple[int | None, int | None]]) -> list[_Limit]:
    """A limit of racks together; none where one of them does not tell."""
    if not racks or any(whole is None or free is None for whole, free in racks):
        return []
    whole = sum(has or 0 for has, _ in racks)
    return [_Limit(what, node, float(whole - sum(free or 0 for _, free in racks)), float(whole))]


def _hangs(found: Survey, rack: Rack, node: str) -> bool:
    return node == rack.site or any(node in found.tree.above[feed] for feed in rack.feeds)


def _above(found: Survey, name: str) -> frozenset[str]:
    if name in found.tree.at:
        return found.tree.above[name]
    return frozenset({found.tree.site.name}).union(*(found.tree.above[feed] for feed in found.tree.racks[name]))


def _row(
    name: str, first: np.ndarray, bound: list[_Limit], growth: _Growth, fleet: Fleet, found: Survey
) -> dict[str, Any]:
    ordered = np.sort(first)
    dates: dict[int, datetime | None] = {}
    for percent in (10, 50, 90):
        day = int(ordered[max(0, -(-percent * len(ordered) // 100) - 1)])
        dates[percent] = None if day == NEVER else growth.times[day]
    most = Counter((limit.what, limit.node) for limit in bound).most_common(1)
    lead = None if not most else _lead_days(fleet, found, *most[0][0])
    soonest = dates[10]
    return {
        "node": name, "runway_p10": soonest, "runway_p50": dates[50], "runway_p90": dates[90],
        "runs_out_ratio": len(bound) / len(first), "binding": most[0][0][0] if most else None,
        "binding_ratio": most[0][1] / len(bound) if most else None, "lead_days": lead,
        "order_by": None if soonest is None or lead is None else soonest - timedelta(days=lead),
        "horizon": growth.times[-1], "paths": len(first),
    }  # fmt: skip


def _lead_days(fleet: Fleet, found: Survey, what: str, node: str) -> float | None:
    """How long it takes to have more: of the domain itself, else of the site."""
    domains: Mapping[str, float | None] = {domain.name: domain.lead_days for domain in fleet.domains}
    own = domains.get(node) if what.startswith("power") else None
    return found.tree.site.lead_days if own is None else own
