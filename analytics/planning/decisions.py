"""
What a planner can decide now, server by server: where the next ones go, which are to move, what the next one lacks.

What is proposed is checked as a plan is: `analytics.planning.proof` walks every failure case with the servers where
they are to be. What it refutes is not proposed. All of a site's servers that are to come may come at once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.capacity.advice import ADVICE, SOON_DAYS, advice, day, kw, recommendation
from analytics.capacity.assessment import Assessment
from analytics.capacity.headroom import Survey
from analytics.capacity.ledger import most_servers, server_w
from analytics.capacity.load import Leaf
from analytics.capacity.runway import grown, runway
from analytics.capacity.tree import NOTHING, Floats, Pool, groups
from analytics.fleet import Fleet, Rack, Server, Sku
from analytics.planning.prices import prices
from analytics.planning.proof import Placed, Proof, prove
from analytics.planning.request import DAYS_A_YEAR, Request
from collector.errors import ConfigError

CAUTIOUS: Final = 0.9
"""Servers are placed beside the load as it grows at the most in so many of the paths."""
MOST_MOVES: Final = 5
"""Of a site; who has more overloads than that has another problem."""

TRIED: Final = 4
"""Overloads of a site that are looked at at once, and racks of each: each try places and proves."""

Paths = Mapping[str, pl.DataFrame]


def decisions(
    found: Assessment,
    rows: pl.DataFrame,
    *,
    sku: Sku | None = None,
    paths: Paths | None = None,
    pue: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """
    Recommendations from an assessment: all of `analytics.capacity.advice`, and those that name servers.

    In:  as `analytics.capacity.advice.advice`; *paths*: sample paths of each site, *pue* as measured.
    Out: `ADVICE`, what is overloaded first. Kinds besides: ``place`` (so many servers go to these racks, and what is
         left then), ``move`` (so many servers of a rack go to other racks), ``relieve`` (what the next server lacks).
         Of ``place``, effects are what the servers draw by mean, planned draw and nameplate; cost is their price.
    """
    moves: list[dict[str, Any]] = []
    cured: set[str] = set()
    now = {one.tree.site.name: one for one in found.surveys}
    for site in now:
        for row, nodes in _moves(found, now, site, pue or {}):
            moves.append(row)
            cured |= nodes
    # The next servers come after what moves has moved.
    made = [
        row
        for site, one in now.items()
        if (kind := _usual(found.fleet, one, sku)) is not None
        for row in _next(found, one, kind, (paths or {}).get(site), pue or {})
    ]
    rest = advice(found, rows, sku=sku, paths=paths, without=cured)
    return pl.concat([pl.DataFrame([*moves, *made], schema=ADVICE, orient="row"), rest])


def _usual(fleet: Fleet, found: Survey, other: Sku | None) -> Sku | None:
    """The device type that most of a site's racks have, of those whose server tells what it draws; else the other."""
    told = Counter(rack.sku for rack in found.racks if rack.sku is not None)
    known = ((count, name, fleet.sku(name)) for name, count in told.items())
    fit = [(count, name, sku) for count, name, sku in known if sku is not None and server_w(sku.server)]
    return max(fit, key=lambda one: (one[0], one[1]))[2] if fit else other


# ------------------------------------------------------------------------------------------------------------ the next


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outlook:
    """How far ahead a site is known, and by how much its load has grown by then in a cautious path."""

    growth: float = 1.0
    until: datetime | None = None


def _next(
    found: Assessment, one: Survey, sku: Sku, ahead: pl.DataFrame | None, pue: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Where the next servers of a site go, by racks with the same feeds, or what keeps the next one out."""
    assert sku.server is not None
    unit, outlook = server_w(sku.server) or 0.0, _outlook(one, sku, ahead)
    later = replace(one, load=replace(one.load, power_w=one.load.power_w * outlook.growth))
    counts = {name: count for name, count in most_servers(later, sku.server, one.racks).items() if count}
    if not counts:
        yield from _lack(one, later, sku, unit, outlook)
        return
    proof = _proved(found, one, sku, counts, outlook.growth, pue)
    if proof.violations:
        yield _refuted(one, sku, counts, proof)
        return
    placed_w = {rack: count * unit for rack, count in counts.items()}
    dates = None if ahead is None else runway(one, ahead, found.fleet, placed_w=placed_w)
    alike: dict[Pool, dict[str, int]] = {}
    for rack, count in counts.items():
        alike.setdefault(one.tree.racks[rack], {})[rack] = count
    for feeds, inside in sorted(alike.items(), key=lambda item: (-sum(item[1].values()), item[0])):
        yield _place(found, one, sku, feeds, inside, proof, dates, outlook, pue)


def _refuted(one: Survey, sku: Sku, counts: Mapping[str, int], proof: Proof) -> dict[str, Any]:
    """Headroom takes servers and the proof does not: two answers to one question, and neither is to be acted on."""
    site, count = one.tree.site.name, sum(counts.values())
    listed = ", ".join(f"{rack} {number}" for rack, number in sorted(counts.items()))
    first, others = proof.violations[0], len(proof.violations) - 1
    more = f", and {others} more" if others else ""
    return recommendation(
        one, "relieve", "site", site, key=f"refuted/{sku.name}",
        summary=f"no further servers of {sku.name} are proposed at {site}: headroom has room for {count} ({listed}), "
                f"but a walk through every failure case finds: {first}{more}; check what fleet.toml says of it",
        baseline=f"headroom for {count} {_servers(count)} of {sku.name}", proposed=f"none: {first}{more}",
        effect_unit=None,
        query=f"perfwatt fit --sku {sku.name} --count {count} --site {site}",
    )  # fmt: skip


def _outlook(one: Survey, sku: Sku, ahead: pl.DataFrame | None) -> _Outlook:
    if ahead is None:
        return _Outlook()
    stand = _moment(one) + timedelta(days=sku.lead_days + SOON_DAYS)
    until = min(stand, ahead["time"].max())  # type: ignore[type-var] # of times
    assert isinstance(until, datetime)
    return _Outlook(growth=grown(one, ahead, until, CAUTIOUS), until=until)


def _moment(one: Survey) -> datetime:
    """The end of the load that was looked at."""
    return datetime.fromtimestamp(one.load.end_ns / 1e9, tz=UTC).replace(tzinfo=None)


def _proved(
    found: Assessment, one: Survey, sku: Sku, counts: Mapping[str, int], growth: float, pue: Mapping[str, float]
) -> Proof:
    """Every failure case of a site with servers in its racks and its load grown."""
    site = one.tree.site.name
    grown_load = replace(one.load, power_w=one.load.power_w * growth)
    alone = Assessment(fleet=found.fleet.only([site]), surveys=(replace(one, load=grown_load),))
    placed = [Placed(site, rack, sku.name, 0, count) for rack, count in counts.items()]
    # What is built later is not there yet.
    asked = Request(start=_moment(one).date(), demands=(), period_days=DAYS_A_YEAR, ordered=True)
    return prove(alone, asked, [sku], placed, {sku.name: server_w(sku.server) or 0.0}, pue=pue)


def _place(
    found: Assessment,
    one: Survey,
    sku: Sku,
    feeds: Pool,
    counts: Mapping[str, int],
    proof: Proof,
    dates: pl.DataFrame | None,
    outlook: _Outlook,
    pue: Mapping[str, float],
) -> dict[str, Any]:
    server, site, count = sku.server, one.tree.site, sum(counts.values())
    assert server is not None
    unit = server_w(server) or 0.0
    above = sorted(frozenset({site.name}).union(*(one.tree.above[feed] for feed in feeds)), key=one.tree.at.__getitem__)
    margins = [(*proof.margins[site.name, node], node) for node in above if (site.name, node) in proof.margins]
    margin, case, node = min(margins, default=(None, NOTHING, ""), key=lambda told: told[0] or 0.0)
    cases = proof.cases.height
    left = "" if margin is None else f": {kw(margin)} stay free at {node} in the worst of {cases} failure cases"
    grown_by = _grown(outlook, ", load that grows by {} up to {} included")
    stand = _moment(one) + timedelta(days=sku.lead_days)
    them = "it stands" if count == 1 else "they stand"
    order = f"; ordered now {them} on {day(stand)}, lead time {sku.lead_days:g} days" if sku.lead_days else ""
    money = _money(found.fleet, sku, one, pue)
    where = " + ".join(feeds) or site.name
    listed = ", ".join(f"{rack} {number}" for rack, number in sorted(counts.items()))
    more = kw(count * unit)
    return recommendation(
        one, "place", "domain" if feeds else "site", feeds[0] if feeds else site.name, key=f"{where}/{sku.name}",
        summary=f"put {count} more {_servers(count)} of {sku.name} ({more}) on {where} at {site.name} ({listed}){left}"
                f"{_lost(case)}{grown_by}{_runs_out(dates, [*feeds, *counts], count)}{order}{money.words}",
        baseline=f"{kw(_headroom(one, feeds))} of headroom on {where}",
        proposed=f"{count} {_servers(count)} of {sku.name}: {listed}",
        effect_low=count * (server.mean_w or unit), effect_mid=count * unit,
        effect_high=count * max(server.nameplate_w or unit, unit),
        cost=None if money.capex is None else count * money.capex, currency=money.currency, price_basis=money.basis,
        query=f"perfwatt fit --sku {sku.name} --count {count} --site {site.name}",
    )  # fmt: skip


def _grown(outlook: _Outlook, words: str) -> str:
    return words.format(f"{outlook.growth - 1:.0%}", day(outlook.until)) if outlook.growth > 1.0 else ""


def _servers(count: int) -> str:
    return "server" if count == 1 else "servers"


def _lost(case: str) -> str:
    return f" ({case} lost)" if case and case != NOTHING else ""


def _headroom(one: Survey, feeds: Sequence[str]) -> float:
    """What more may be drawn from some feeds together."""
    free = one.free_w.get(tuple(feeds), (0.0, "", ""))[0]
    return max(0.0, free) if np.isfinite(free) else 0.0


def _runs_out(dates: pl.DataFrame | None, nodes: Sequence[str], count: int) -> str:
    """When there is too little power with the servers in place, of the node that runs out first."""
    if dates is None:
        return "; how load grows is not known yet"
    own = dates.filter(pl.col("node").is_in(nodes)).sort("runway_p10", "runway_p50", nulls_last=True)
    first, them = own.row(0, named=True), "it" if count == 1 else "them"
    if first["runway_p10"] is None:
        return f"; with {them} nothing runs out up to {day(first['horizon'])} in 9 of 10 paths"
    told = " / ".join(day(first[f"runway_p{percent}"]) for percent in (10, 50, 90))
    return f"; with {them} {first['binding']} runs out {told} (p10/p50/p90)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Money:
    """What a server costs to buy, and what all of it costs in a year; or why that is not known."""

    basis: str
    capex: float | None = None
    currency: str | None = None
    words: str = ""


def _money(fleet: Fleet, sku: Sku, one: Survey, pue: Mapping[str, float]) -> _Money:
    asked = Request(start=_moment(one).date(), demands=(), period_days=DAYS_A_YEAR, currency=one.tree.site.currency)
    try:
        told = prices(fleet, [sku], [one.tree.site], asked, pue)
    except ConfigError as error:
        return _Money(basis=f"no price: {error}")
    yearly = float(told.cost[0, 0, 0])
    return _Money(
        basis=told.basis, capex=float(told.capex[0]), currency=told.currency,
        words=f"; {yearly:,.0f} {told.currency} a server and year",
    )  # fmt: skip


def _lack(one: Survey, later: Survey, sku: Sku, unit: float, outlook: _Outlook) -> Iterator[dict[str, Any]]:
    """Of the rack that comes nearest to one more server, what is missing."""
    near = [(*later.rack_free_w(rack), rack) for rack in one.racks]
    known = [found for found in near if np.isfinite(found[0]) and _takes(later, found[3], sku.server)]
    if not known:
        return
    free, node, case, rack = max(known, key=lambda found: found[0])
    if free >= unit:
        return  # power is not what is missing; the ledger tells what is
    grown_by = _grown(outlook, " once load has grown by {} ({})")
    site = one.tree.site.name
    yield recommendation(
        one, "relieve", "rack" if node == rack.name else "domain" if node != site else "site", node, key=sku.name,
        summary=f"{site} takes no further server of {sku.name} ({kw(unit)}): {rack.name} has {kw(max(0.0, free))} left"
                f"{grown_by}, limited by {node}{_lost(case)}; {kw(unit - free)} more there, or as much less load, "
                f"makes room for one",
        baseline=f"{kw(max(0.0, free))} left at {node}", proposed=f"{kw(unit - free)} more at {node}",
        effect_low=unit, effect_mid=unit, effect_high=unit,
        query=f"perfwatt fit --sku {sku.name} --count 1 --site {site}",
    )  # fmt: skip


def _takes(one: Survey, rack: Rack, server: Server | None) -> bool:
    """Whether a rack has the space and the ports for one more server."""
    assert server is not None
    room = (one.free_units(rack), server.rack_units), (one.free_ports(rack), server.ports)
    return all(free is None or not need or free >= need for free, need in room)


# ------------------------------------------------------------------------------------------------------------ the moves


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """Servers of a rack that go to other racks."""

    rack: str
    count: int
    hosts: int
    draw_w: float
    site: str
    to: Mapping[str, int]


def _moves(
    found: Assessment, now: dict[str, Survey], site: str, pue: Mapping[str, float]
) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Moves that end the overloads of a site, each with the nodes that it ends them of; *now* follows them."""
    for _ in range(MOST_MOVES):
        one = now[site]
        over = _over(one)
        tries = (_move(found, now, one, node, case, pue) for node, case, _ in over[:TRIED])
        moved = next((told for told in tries if told is not None), None)
        if moved is None:
            return
        move, then = moved
        before = {node: (case, watts) for node, case, watts in over}
        after = {node for node, *_ in _over(then.get(site, one))}
        cured = before.keys() - after
        if not cured:
            return
        first = max(cured, key=lambda node: (before[node][1], node))
        backed = {name for name, members in groups(one.tree.nodes).items()
                  if (inside := {node.name for node in members}) & cured and not inside & after}  # fmt: skip
        yield _moved(one, move, first, *before[first], cured), cured | backed
        now |= then


def _over(one: Survey) -> list[tuple[str, int, float]]:
    """The nodes that carry more than they may in some case, that case, and by how much; the most first."""
    told = [(node.name, int(one.worst[at]), -float(one.slack_w[int(one.worst[at]), at]))
            for at, node in enumerate(one.tree.nodes)]  # fmt: skip
    return sorted((row for row in told if row[2] > 0), key=lambda row: -row[2])


def _move(
    found: Assessment, now: Mapping[str, Survey], one: Survey, node: str, case: int, pue: Mapping[str, float]
) -> tuple[_Move, dict[str, Survey]] | None:
    """The fewest servers of a rack whose move ends the overload of *node*, to where it makes no other; what is then."""
    at, leaves = one.tree.at[node], {leaf.name: leaf for leaf in one.load.leaves}
    over = -float(one.slack_w[case, at])
    candidates = []
    for rack in one.racks:
        leaf, peak = leaves[rack.name], one.peak_w(rack.name)
        carried = float(one.carried_w({rack.name: 1.0})[case, at])
        if leaf.hosts and peak > 0 and carried > 0:
            draw = peak / leaf.hosts
            count = ceil(over / (draw * carried) - 1e-9)
            if count <= leaf.hosts:
                candidates.append((count, -draw, rack.name))
    for count, less_w, name in sorted(candidates)[:TRIED]:
        leaf, draw = leaves[name], -less_w
        without = _without(one, name, count, leaf)
        server = Server(
            peak_w=draw, rack_units=None if leaf.rack_units is None else ceil(leaf.rack_units / leaf.hosts),
            ports=None if leaf.ports is None else ceil(leaf.ports / leaf.hosts),
        )  # fmt: skip
        here = one.tree.site.name
        for target in (without, *(other for site, other in now.items() if site != here)):
            to = _destination(target, server, count, name)
            if to is None:
                continue
            site = target.tree.site.name
            if _proved(found, target, Sku(name=name, server=server), to, 1.0, pue).violations:
                continue
            move = _Move(rack=name, count=count, hosts=leaf.hosts, draw_w=draw, site=site, to=to)
            return move, {here: without, site: _with(target, to, server)}
    return None


def _destination(target: Survey, server: Server, count: int, source: str) -> dict[str, int] | None:
    """Racks that take so many servers, as few of them as can be; None where they do not."""
    racks = [rack for rack in target.racks if rack.name != source]
    room = most_servers(target, server, racks) if racks else {}
    taken: dict[str, int] = {}
    for rack in sorted(room, key=lambda name: (-room[name], name)):
        if (left := count - sum(taken.values())) and room[rack]:
            taken[rack] = min(left, room[rack])
    return taken if sum(taken.values()) == count else None


def _without(one: Survey, rack: str, count: int, leaf: Leaf) -> Survey:
    """The survey with some servers of a rack gone, and what they took."""
    kept = leaf.hosts - count
    left = replace(
        leaf, hosts=kept,
        rack_units=None if leaf.rack_units is None else leaf.rack_units * kept // leaf.hosts,
        ports=None if leaf.ports is None else leaf.ports * kept // leaf.hosts,
    )  # fmt: skip
    return _changed(one, {rack: (left, one.rows[rack] * (kept / leaf.hosts))})


def _with(one: Survey, counts: Mapping[str, int], server: Server) -> Survey:
    """The survey with more servers in some racks, and what they take."""
    changed = {}
    for leaf in one.load.leaves:
        count = counts.get(leaf.name, 0)
        if count:
            more = replace(
                leaf, hosts=leaf.hosts + count,
                rack_units=None if leaf.rack_units is None else leaf.rack_units + count * (server.rack_units or 0),
                ports=None if leaf.ports is None else leaf.ports + count * (server.ports or 0),
            )  # fmt: skip
            changed[leaf.name] = (more, one.rows[leaf.name] + count * (server_w(server) or 0.0))
    return _changed(one, changed)


def _changed(one: Survey, changed: Mapping[str, tuple[Leaf, Floats]]) -> Survey:
    """The survey with other leaves in the place of some."""
    leaves = [changed.get(leaf.name, (leaf, one.rows[leaf.name])) for leaf in one.load.leaves]
    power_w = np.vstack([row for _, row in leaves])
    return replace(one, load=replace(one.load, leaves=tuple(leaf for leaf, _ in leaves), power_w=power_w))


def _moved(one: Survey, move: _Move, node: str, case: int, over: float, cured: set[str]) -> dict[str, Any]:
    lost = one.tree.cases[case].name
    to = ", ".join(f"{number} to {rack}" for rack, number in sorted(move.to.items()))
    where = "" if move.site == one.tree.site.name else f" at {move.site}"
    others = sorted(cured - {node})
    also = f", as {', '.join(others)} {'is' if len(others) == 1 else 'are'}" if others else ""
    off = move.count * move.draw_w
    return recommendation(
        one, "move", one.tree.nodes[one.tree.at[node]].kind, node,
        summary=f"move {move.count} of the {move.hosts} {_servers(move.hosts)} of {move.rack} ({kw(off)}): "
                f"{to}{where}; {node} is overloaded by {kw(over)}{_lost(lost)}{also}, and then no longer; walked "
                f"through in every failure case",
        baseline=f"{kw(over)} too much on {node}{_lost(lost)}", proposed=f"{move.count} of {move.rack}: {to}{where}",
        effect_low=over, effect_mid=over, effect_high=max(over, off),
    )  # fmt: skip
