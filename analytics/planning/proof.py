"""
The proof of a placement: every failure case walked through, node by node, minute by minute.

It shares no code with what placed the servers: it knows neither pools nor weights, but takes a fleet and what each rack
draws, takes a part away and carries the watts up the tree. Space, heat, ports, money, lead times and demands are added
up again from the placement as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from analytics.capacity.assessment import Assessment
from analytics.capacity.headroom import Survey
from analytics.capacity.tree import Floats
from analytics.fleet import Domain, Fleet, Rack, Site, Sku, standing
from analytics.planning.model import Model
from analytics.planning.request import Request

TOLERANCE_W: Final = 0.1
CELLS: Final = 200_000
"""Cases times minutes that are carried up the tree at once."""
PROOF: Final = pl.Schema(
    {
        "site": pl.String(), "period": pl.Int64(), "case": pl.String(), "node": pl.String(), "load_w": pl.Float64(),
        "capacity_w": pl.Float64(), "margin_w": pl.Float64(), "dark": pl.Int64(), "checked": pl.Int64(),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """
    Some failure cases of a site: what each node and circuit carries (cases by minutes) and may carry (by case).

    A node without a limit has no capacity. `dark` tells of each rack in which cases nothing feeds it.
    """

    site: str
    cases: tuple[str, ...]
    load_w: Mapping[str, Floats]
    capacity_w: Mapping[str, Floats]
    dark: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Lost:
    """What a case takes away: a domain, units of one, or a rack's cord to a feed."""

    name: str
    domain: str | None = None
    units: int = 0
    cord: tuple[str, str] | None = None


class Placed(NamedTuple):
    """Servers of a SKU that come to a rack in a period."""

    site: str
    rack: str
    sku: str
    period: int
    servers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """
    The proof of a placement.

    cases: `PROOF`: for each site, period and case the node with the least margin; violations: everything that does not
    hold, in words; margins: of each node at the end, the least margin and the case that leaves it.
    """

    cases: pl.DataFrame
    violations: tuple[str, ...] = ()
    margins: Mapping[tuple[str, str], tuple[float, str]] = field(default_factory=dict)


def walk(
    fleet: Fleet,
    draws_w: Mapping[str, float | Floats],
    *,
    pue: Mapping[str, float] | None = None,
    others_w: Mapping[str, float | Floats] | None = None,
) -> Iterator[Walked]:
    """
    Every failure case of every site: none, each domain (or its spare units), each cord of each rack.

    *draws_w* is what each rack draws (0 where absent), *others_w* what domains and sites feed besides (by default what
    the file says): a number, or the minutes of a window. At the site itself the load is the equipment's times its PUE,
    where the file tells it (or *pue*) and no domain tells what else hangs on it.
    """
    known = {**(pue or {}), **fleet.pue}
    for site in fleet.sites:
        domains = [domain for domain in fleet.domains if domain.site == site.name]
        racks = [rack for rack in fleet.racks if rack.site == site.name]
        others = {domain.name: domain.other_w for domain in domains} if others_w is None else others_w
        factor = None if any(domain.other_w for domain in domains) else known.get(site.name)
        lost = [_Lost("none")]
        lost += [
            _Lost(f"{domain.name}: {domain.spare} of its units", domain.name, domain.spare) if domain.spare
            else _Lost(domain.name, domain.name) for domain in domains
        ]  # fmt: skip
        lost += [_Lost(f"{rack.name}: cord to {feed}", cord=(rack.name, feed)) for rack in racks for feed in rack.feeds]
        minutes = max((np.size(row) for row in [*draws_w.values(), *others.values()]), default=1)
        step = max(1, CELLS // minutes)
        for first in range(0, len(lost), step):
            yield _walked(site, domains, racks, draws_w, others, factor, lost[first : first + step])


def _walked(
    site: Site,
    domains: Sequence[Domain],
    racks: Sequence[Rack],
    draws_w: Mapping[str, float | Floats],
    others_w: Mapping[str, float | Floats],
    factor: float | None,
    lost: Sequence[_Lost],
) -> Walked:
    """Some cases at once: every value is an array of cases by minutes."""
    column = (len(lost), 1)
    up: dict[str, np.ndarray] = {}
    for domain in domains:  # what a domain hangs from comes before it
        stands = np.array([one.domain != domain.name or one.units > 0 for one in lost]).reshape(column)
        fed = np.any([up[parent] for parent in domain.parents], axis=0) if domain.parents else True
        up[domain.name] = stands & fed
    load = {domain.name: np.zeros(column) for domain in domains} | {
        site.name: np.zeros(column) + others_w.get(site.name, 0.0)
    }
    lossless = dict(load)
    circuits: dict[str, Floats] = {}
    dark: dict[str, np.ndarray] = {}
    for rack in racks:
        watts = draws_w.get(rack.name, 0.0)
        plugged = {
            feed: up[feed] & np.array([one.cord != (rack.name, feed) for one in lost]).reshape(column)
            for feed in rack.feeds
        }
        feeding = sum((on.astype(float) for on in plugged.values()), np.zeros(column))
        dark[rack.name] = (feeding == 0) & bool(rack.feeds)
        for feed, on in plugged.items() if rack.feeds else [("", np.ones(column))]:
            part = on * (watts / np.maximum(feeding, 1.0))
            load[feed or site.name] = load[feed or site.name] + part
            lossless[feed or site.name] = lossless[feed or site.name] + part
            circuits[f"{rack.name}/{feed}"] = part
    for domain in reversed(domains):
        other = up[domain.name] * others_w.get(domain.name, 0.0)
        load[domain.name] = load[domain.name] + other
        lossless[domain.name] = lossless[domain.name] + other
        for parent, share in _shares(domain, site, up, column).items():
            load[parent] = load[parent] + load[domain.name] / domain.efficiency_ratio * share
            lossless[parent] = lossless[parent] + lossless[domain.name] * share
    if factor is not None:
        load[site.name] = lossless[site.name] * factor
    return Walked(
        site=site.name, cases=tuple(one.name for one in lost), load_w=load | circuits,
        capacity_w=_capacity(site, domains, racks, lost), dark=dark,
    )  # fmt: skip


def _shares(domain: Domain, site: Site, up: Mapping[str, np.ndarray], column: tuple[int, int]) -> dict[str, Floats]:
    """What each parent of a domain carries of its draw: an even share of those that stand, or the first of them all."""
    if not domain.parents:
        return {} if domain.kind == "generator" else {site.name: np.ones(column)}
    standing = {parent: up[parent].astype(float) for parent in domain.parents}
    if domain.kind != "transfer_switch":
        whole = np.maximum(sum(standing.values(), np.zeros(column)), 1.0)
        return {parent: on / whole for parent, on in standing.items()}
    shares, left = {}, np.ones(column)
    for parent, on in standing.items():
        shares[parent] = on * left
        left = left - shares[parent]
    return shares


def _capacity(site: Site, domains: Sequence[Domain], racks: Sequence[Rack], lost: Sequence[_Lost]) -> dict[str, Floats]:
    """What each node and circuit with a limit may carry, by case."""
    capacity: dict[str, Floats] = {}
    if site.limit_w is not None:
        capacity[site.name] = np.full(len(lost), site.limit_w)
    for domain in domains:
        if domain.rating is not None:
            units = [domain.units - (one.units if one.domain == domain.name else 0) for one in lost]
            capacity[domain.name] = domain.rating.derated_w * np.array(units, dtype=float)
    for rack in racks:
        if rack.rating is not None:
            capacity |= {
                f"{rack.name}/{feed}": np.full(len(lost), rack.rating.derated_w) for feed in rack.feeds or ("",)
            }
    return capacity


# -------------------------------------------------------------------------------------------------------------- proof


def prove(
    found: Assessment,
    request: Request,
    skus: Sequence[Sku],
    placed: Sequence[Placed],
    watts: Mapping[str, float],
    *,
    pue: Mapping[str, float] | None = None,
) -> Proof:
    """
    Walk every failure case of every site that gets servers, each of which draws its SKU's *watts*.

    Periods between which nothing at a site changes are walked as one, with the most that load grows to in them. A node
    that is overloaded as it is may stay so, if nothing is added to it.
    """
    cases: list[pl.DataFrame] = []
    wrong: list[str] = []
    margins: dict[tuple[str, str], tuple[float, str]] = {}
    for survey in found.surveys:
        site = survey.tree.site.name
        loaded = [leaf.name for leaf in survey.load.leaves if np.any(survey.rows[leaf.name] > 0)]
        states = [
            (standing(found.fleet.only([site]), request.begin(period).date(), loaded), _there(placed, site, period))
            for period in range(request.periods)
        ]  # fmt: skip
        for first, last in _stretches(states):
            fleet, there = states[last]
            if there:
                growth = max(request.growth(period) for period in range(first - 1, last + 1))
                told = _proved(survey, fleet, there, watts, growth, last, pue)
                cases.append(told.cases)
                wrong += [*told.violations, *_rooms(survey, fleet, skus, there, watts, growth, last)]
                if last == request.periods - 1:
                    margins.update(told.margins)
    wrong += [*_late(request, skus, placed), *_unmet(request, skus, placed)]
    return Proof(cases=pl.concat([pl.DataFrame(schema=PROOF), *cases]), violations=tuple(wrong), margins=margins)


def _there(placed: Sequence[Placed], site: str, period: int) -> Counter[tuple[str, str]]:
    """The servers that stand at a site in a period, by rack and SKU."""
    there: Counter[tuple[str, str]] = Counter()
    for one in placed:
        if one.site == site and one.period <= period:
            there[one.rack, one.sku] += one.servers
    return there


def _stretches(states: Sequence[object]) -> list[tuple[int, int]]:
    """First and last of each run of states that are the same."""
    ends = [at for at in range(len(states)) if at + 1 == len(states) or states[at] != states[at + 1]]
    return list(zip([0, *(end + 1 for end in ends)], ends, strict=False))


def _proved(
    survey: Survey,
    fleet: Fleet,
    there: Mapping[tuple[str, str], int],
    watts: Mapping[str, float],
    growth: float,
    period: int,
    pue: Mapping[str, float] | None,
) -> Proof:
    """One site in one period."""
    base = {
        rack.name: survey.rows[rack.name] * growth if rack.name in survey.rows else np.zeros(1) for rack in fleet.racks
    }
    others = {leaf.pool[0] if leaf.pool else survey.tree.site.name: survey.rows[leaf.name] * growth
              for leaf in survey.load.leaves if leaf.name not in survey.tree.racks}  # fmt: skip
    added = {rack: sum(count * watts[sku] for (one, sku), count in there.items() if one == rack) for rack in base}
    placed = {rack: row + added[rack] for rack, row in base.items()}
    wrong = [
        f"{rack} does not stand in period {period}" for (rack, _), count in there.items() if count and rack not in base
    ]
    frames: list[pl.DataFrame] = []
    margins: dict[tuple[str, str], tuple[float, str]] = {}
    for now, then in zip(
        walk(fleet, placed, pue=pue, others_w=others), walk(fleet, base, pue=pue, others_w=others), strict=True
    ):
        nodes = list(now.capacity_w)
        loads = np.array([_peak(survey, now.load_w[node]) for node in nodes]).reshape(len(nodes), len(now.cases))
        limits = np.array([now.capacity_w[node] for node in nodes]).reshape(len(nodes), len(now.cases))
        left = limits - loads
        for at, case in zip(*np.nonzero(left < -TOLERANCE_W), strict=True):
            if loads[at, case] > _peak(survey, then.load_w[nodes[at]])[case] + TOLERANCE_W:
                carries = f"{nodes[at]} carries {loads[at, case]:.0f} of {limits[at, case]:.0f} W"
                wrong.append(f"{carries} in period {period} with {now.cases[case]} lost")
        for at, node in enumerate(nodes):
            least = int(np.argmin(left[at]))
            if left[at, least] < margins.get((now.site, node), (np.inf, ""))[0]:
                margins[now.site, node] = (float(left[at, least]), now.cases[least])
        worst = np.argmin(left, axis=0) if nodes else None
        told = np.arange(len(now.cases))
        frames.append(pl.DataFrame({
            "site": now.site, "period": period, "case": now.cases,
            "node": None if worst is None else [nodes[at] for at in worst],
            "load_w": None if worst is None else loads[worst, told],
            "capacity_w": None if worst is None else limits[worst, told],
            "margin_w": None if worst is None else left[worst, told],
            "dark": np.sum([off[:, 0] for off in now.dark.values()], axis=0) if now.dark else 0,
            "checked": len(nodes),
        }).select(pl.col(name).cast(kind) for name, kind in PROOF.items()))  # fmt: skip
    return Proof(cases=pl.concat(frames), violations=tuple(wrong), margins=margins)


def _peak(survey: Survey, load: Floats) -> Floats:
    """The percentile that counts, over the minutes."""
    found: Floats = np.quantile(load, survey.percentile, axis=-1, method="higher")
    return found


def _rooms(
    survey: Survey,
    fleet: Fleet,
    skus: Sequence[Sku],
    there: Mapping[tuple[str, str], int],
    watts: Mapping[str, float],
    growth: float,
    period: int,
) -> Iterator[str]:
    """Space, ports and heat of each rack, and the heat of the site."""
    site, heat = survey.tree.site, 0.0
    leaves = {leaf.name: leaf for leaf in survey.load.leaves}
    for rack in fleet.racks:
        mine = [(sku, there.get((rack.name, sku.name), 0)) for sku in skus]
        if not any(count for _, count in mine):
            continue
        more = sum(count * watts[sku.name] for sku, count in mine)
        heat += more
        own = float(_peak(survey, survey.rows[rack.name] * growth)) if rack.name in survey.rows else 0.0
        leaf = leaves.get(rack.name)
        told = [("cooling_w", rack.cooling_w, own + more)]
        for name, whole, used, each in (
            ("units", rack.units, None if leaf is None else leaf.rack_units, "rack_units"),
            ("ports", rack.ports, None if leaf is None else leaf.ports, "ports"),
        ):
            if used is not None:
                new = sum(count * (getattr(sku.server, each) or 0) for sku, count in mine)
                told.append((name, None if whole is None else float(whole), float(used + new) if new else 0.0))
        for name, limit, used_now in told:
            if limit is not None and used_now > limit + TOLERANCE_W:
                yield f"{rack.name} takes {used_now:g} of {limit:g} {name} in period {period}"
    whole_w = float(_peak(survey, survey.load.power_w.sum(axis=0) * growth)) + heat
    if site.cooling_w is not None and heat > 0 and whole_w > site.cooling_w + TOLERANCE_W:
        yield f"{site.name} has {whole_w:.0f} W of heat in period {period} and can take away {site.cooling_w:.0f} W"


def _late(request: Request, skus: Sequence[Sku], placed: Sequence[Placed]) -> Iterator[str]:
    for sku in () if request.ordered else skus:
        for one in placed:
            if one.sku == sku.name and one.period * request.period_days < sku.lead_days - 1e-6:
                yield f"{one.servers} {one.sku} come to {one.rack} before {sku.lead_days:g} days are over"


def _unmet(request: Request, skus: Sequence[Sku], placed: Sequence[Placed]) -> Iterator[str]:
    """Demands that the servers of a period do not meet, each server being for one demand at a time."""
    for period in range(request.periods):
        here: Counter[tuple[str, str]] = Counter()
        for one in placed:
            if one.period <= period:
                here[one.sku, one.site] += one.servers
        model = Model()
        parts: dict[tuple[str, str], list[int]] = {}
        for demand in request.demands:
            columns, supplies = [], []
            for (name, site), sku in product(here, skus):
                if sku.name == name and name in demand.skus and (not demand.sites or site in demand.sites):
                    columns += model.variables(1, high=here[name, site])
                    supplies.append(demand.supply(sku))
                    parts.setdefault((name, site), []).append(columns[-1])
            needed = demand.needed[period]
            if needed > 0:
                model.row("", columns, [supply / needed for supply in supplies], low=1.0 - 1e-6)
        for key, own in parts.items():
            model.row("", own, [1.0] * len(own), high=float(here[key]))
        if model.rows and (not model.costs or model.solve().values is None):
            yield f"the servers of period {period} do not meet all demands"
