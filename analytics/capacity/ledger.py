"""
The stranded power ledger: where every watt that is installed is, by cause.

The most that a site's racks could draw is computed again and again, with one more limit each time; what a limit takes
away is what it strands. So the lines add up to what is installed, and none of them is counted twice. What is derated,
redundant or out of balance is told of the domains that feed racks: the same watts pass through every level above.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy.optimize import Bounds, LinearConstraint, milp

from analytics.capacity.headroom import Survey
from analytics.capacity.rows import PowerRows, power_rows
from analytics.capacity.tree import Floats
from analytics.fleet import Fleet, Rack, Server, Sku

LEDGER: Final = pl.Schema(
    {"site": pl.String(), "cause": pl.String(), "power_w": pl.Float64(), "ratio": pl.Float64(), "meaning": pl.String()}
)
MEANING: Final = {
    "installed": "what the domains that feed racks are rated for",
    "derating": "kept free because the load is continuous",
    "redundancy": "kept free for the loss of one feed or unit",
    "upstream": "more than the domains above can carry",
    "other": "drawn by what is in no rack",
    "imbalance": "out of reach as load hangs now, peaks that do not coincide included; below 0: overloaded",
    "breaker": "more than the circuits of the racks can carry",
    "space": "no rack units are left for a server",
    "cooling": "the heat of a server could not be taken away",
    "ports": "no network ports are left for a server",
    "fragments": "less than a server",
    "nameplate": "can be used if planned by what is measured, not by nameplates",
    "deployable": "can be used even if planned by nameplates",
    "in use": "the peak that was measured",
}


def smallest_server(fleet: Fleet) -> Sku | None:
    """The device type whose server draws least, of those of the file that tell what their server draws."""
    known = [sku for sku in fleet.skus if sku.server is not None and server_w(sku.server) is not None]
    return min(known, key=lambda sku: server_w(sku.server) or 0.0, default=None)


def server_w(server: Server | None) -> float | None:
    """What to plan for a server: the most that it was seen to draw, else its nameplate."""
    return None if server is None else server.peak_w or server.nameplate_w


def ledger(found: Survey, sku: Sku | None) -> pl.DataFrame:
    """
    The ledger of a site; *sku* is the server that is to fit, without which nothing below ``breaker`` is told apart.

    Out: `LEDGER`: site, cause (in the order of `MEANING`), power_w, ratio (of what is installed), meaning. The lines
         but ``installed`` add up to it. No rows where no domain that feeds racks has a rating.
    """
    lines = _lines(found, None if sku is None else sku.server)
    whole = lines.get("installed", 0.0)
    rows = [(found.tree.site.name, cause, lines[cause], lines[cause] / whole, meaning)
            for cause, meaning in MEANING.items() if cause in lines]  # fmt: skip
    return pl.DataFrame(rows, schema=LEDGER, orient="row")


def most_servers(found: Survey, server: Server, racks: Sequence[Rack], *, nameplate: bool = False) -> dict[str, int]:
    """
    How many more servers each of *racks* could take, such that together they take the most.

    Where nothing limits a rack (no rating, no space told), it is said to take none: nothing is known of it. With
    *nameplate* what stands there counts with its nameplates.
    """
    slack = _nameplate_slack(found) if nameplate else found.slack_w
    rows, caps = power_rows(found, [rack.name for rack in racks], slack_w=slack), _caps(found, racks, server)
    counts = _most(rows, server, caps, _site_cooling_w(found))
    return {rack.name: int(count) for rack, count in zip(racks, counts, strict=True)}


def _fed(found: Survey) -> list[Rack]:
    """The racks whose feeds all have a rating."""
    rated = {node.name for node in found.tree.nodes if node.rated_w is not None}
    return [rack for rack in found.racks if rack.feeds and set(rack.feeds) <= rated]


def _lines(found: Survey, server: Server | None) -> dict[str, float]:
    racks = _fed(found)
    feeds = {feed for rack in racks for feed in rack.feeds}
    nodes = [node for node in found.tree.nodes if node.name in feeds]
    if not nodes:
        return {}
    names = [rack.name for rack in racks]
    installed = sum(node.rated_w or 0.0 for node in nodes)
    derated = sum(node.derated_w or 0.0 for node in nodes)
    empty = power_rows(found, names, slack_w=found.capacity_w)
    own = np.array([name in feeds for name in empty.nodes])
    safe = _largest(empty.weights[own], empty.slack_w[own], np.full(len(racks), np.inf))
    whole = _largest(empty.weights, empty.slack_w, np.full(len(racks), np.inf))
    others = power_rows(found, names, slack_w=found.capacity_w - _others(found))
    shared = _largest(others.weights, np.maximum(others.slack_w, 0.0), np.full(len(racks), np.inf))
    used = float(found.peak(np.sum([found.rows[name] for name in names], axis=0)))
    left = power_rows(found, names)
    slack = np.maximum(left.slack_w, 0.0)
    free = _largest(left.weights, slack, np.full(len(racks), np.inf))
    lines = {"installed": installed, "derating": installed - derated, "redundancy": derated - safe,
             "upstream": safe - whole, "other": whole - shared, "imbalance": shared - used - free}  # fmt: skip
    caps = _caps(found, racks, server)
    limit = np.full(len(racks), np.inf)
    for cause, cap in caps.items():
        limit = np.minimum(limit, np.maximum(cap, 0.0))
        cooling = _site_cooling_w(found) if cause in {"cooling", "ports"} else None
        rest = _largest(left.weights, slack, limit, total=cooling)
        lines[cause], free = free - rest, rest
    if server is None:
        return lines | {"deployable": free, "in use": used}
    unit = server_w(server) or 0.0
    most = sum(most_servers(found, server, racks).values()) * unit
    by_plate = sum(most_servers(found, server, racks, nameplate=True).values()) * unit
    return lines | {"fragments": free - most, "nameplate": most - by_plate, "deployable": by_plate, "in use": used}


def _caps(found: Survey, racks: Sequence[Rack], server: Server | None) -> dict[str, Floats]:
    """What more each rack could draw by each of its own limits, in the order in which they are told."""
    peaks = {rack.name: found.peak_w(rack.name) for rack in racks}

    def of(limit: float | None, used: float) -> float:
        return np.inf if limit is None else limit - used

    caps = {"breaker": np.array([of(found.rack_safe_w(rack), peaks[rack.name]) for rack in racks])}
    unit = server_w(server)
    if server is None or unit is None:
        return caps
    spaces, ports = [], []
    for rack in racks:
        units, plugs = found.free_units(rack), found.free_ports(rack)
        spaces.append(of(None if units is None or not server.rack_units else units // server.rack_units * unit, 0.0))
        ports.append(of(None if plugs is None or not server.ports else plugs // server.ports * unit, 0.0))
    cooling = np.array([of(rack.cooling_w, peaks[rack.name]) for rack in racks])
    return caps | {"space": np.array(spaces), "cooling": cooling, "ports": np.array(ports)}


def _site_cooling_w(found: Survey) -> float | None:
    """What more heat the site can take away; None where nobody told."""
    if found.tree.site.cooling_w is None:
        return None
    return max(0.0, found.tree.site.cooling_w - float(found.peak(found.load.power_w.sum(axis=0))))


def _others(found: Survey) -> Floats:
    """What each node carries of what is in no rack, by its own peaks: cases by nodes."""
    drawn = np.zeros(len(found.tree.pools))
    for leaf in found.load.leaves:
        if leaf.name not in found.tree.racks:
            drawn[found.tree.pools.index(leaf.pool)] += found.peak_w(leaf.name)
    return np.stack([weights @ drawn for weights in found.weights])


def _nameplate_slack(found: Survey) -> Floats:
    """What is left by nameplates, of which none counts less than what was measured."""
    plates = np.zeros(len(found.tree.pools))
    for leaf in found.load.leaves:
        plates[found.tree.pools.index(leaf.pool)] += max(leaf.nameplate_w or 0.0, found.peak_w(leaf.name))
    booked = np.stack([weights @ plates for weights in found.weights])
    for at, case in enumerate(found.tree.cases):
        if case.rack is not None:
            leaf = next(leaf for leaf in found.load.leaves if leaf.name == case.rack)
            moved = found.tree.rack_weights(case.rack, case) - found.tree.rack_weights(case.rack, found.tree.cases[0])
            booked[at] = booked[0] + moved * max(leaf.nameplate_w or 0.0, found.peak_w(leaf.name))
    slack: Floats = found.capacity_w - np.maximum(booked, found.load_w)
    return slack


def _largest(weights: Floats, slack_w: Floats, limit_w: Floats, *, total: float | None = None) -> float:
    """The most that racks may draw together, each up to its own limit."""
    count = len(limit_w)
    rows = weights if total is None else np.vstack([weights, np.ones(count)])
    upper = slack_w if total is None else np.append(slack_w, total)
    # A rack that nothing limits draws nothing that could be told; a bound far beyond any site keeps it finite.
    bounds = Bounds(0.0, np.minimum(limit_w, _BEYOND_W) / 1e3)
    constraints = [LinearConstraint(rows, -np.inf, upper / 1e3)] if len(upper) else []
    solved = milp(-np.ones(count), bounds=bounds, constraints=constraints)
    assert solved.success, solved.message
    return float(-solved.fun * 1e3)


_BEYOND_W: Final = 1e9


def _most(rows: PowerRows, server: Server, caps: dict[str, Floats], total: float | None) -> Floats:
    """The most servers, by rack; *total* is what all together may draw."""
    unit = server_w(server)
    assert unit is not None
    count = rows.weights.shape[1]
    limit = np.min([*caps.values(), np.full(count, np.inf)], axis=0)
    bounded = np.isfinite(limit) | (rows.weights > 0).any(axis=0)
    limit = np.where(bounded, np.minimum(limit, _BEYOND_W), 0.0)
    whole = np.floor(np.maximum(limit, 0.0) / unit + 1e-9)
    upper = np.maximum(rows.slack_w, 0.0) / unit
    constraints = [LinearConstraint(rows.weights, -np.inf, upper)] if len(upper) else []
    if total is not None:
        constraints.append(LinearConstraint(np.ones((1, count)), -np.inf, total / unit))
    solved = milp(-np.ones(count), integrality=np.ones(count), bounds=Bounds(0.0, whole), constraints=constraints)
    assert solved.success, solved.message
    counts: Floats = np.round(solved.x)
    return counts
