"""
The proof of a placement: every failure case walked through, node by node.

It shares no code with what placed the servers: it knows neither pools nor weights, but takes a fleet and what each rack
draws, takes a part away and carries the watts up the tree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from analytics.fleet import Domain, Fleet, Rack


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """A case: what each node and circuit carries and may carry (None: no limit is known), and which racks are dark."""

    site: str
    case: str
    load_w: Mapping[str, float]
    capacity_w: Mapping[str, float | None]
    dark: tuple[str, ...]

    @property
    def least(self) -> tuple[str, float] | None:
        """The node with the least margin, and the margin; None where no limit is known."""
        known = {name: limit for name, limit in self.capacity_w.items() if limit is not None}
        margins = {name: limit - self.load_w.get(name, 0.0) for name, limit in known.items()}
        return min(margins.items(), key=lambda item: item[1]) if margins else None


def walk(fleet: Fleet, draws_w: Mapping[str, float], *, pue: Mapping[str, float] | None = None) -> Iterator[Walked]:
    """
    Every failure case of every site: none, each domain (or its spare units), each cord of each rack.

    *draws_w* is what each rack draws (0 where absent); what domains feed besides racks is added. At the site itself the
    load is the equipment's times its PUE, where the file tells it (or *pue*) and no domain tells what else hangs on it.
    """
    known = {**(pue or {}), **fleet.pue}
    for site in fleet.sites:
        domains = [domain for domain in fleet.domains if domain.site == site.name]
        racks = [rack for rack in fleet.racks if rack.site == site.name]
        factor = None if any(domain.other_w for domain in domains) else known.get(site.name)
        lost: list[tuple[str, str | None, int, tuple[str, str] | None]] = [("none", None, 0, None)]
        for domain in domains:
            if domain.spare:
                lost.append((f"{domain.name}: {domain.spare} of its units", None, domain.spare, (domain.name, "")))
            else:
                lost.append((domain.name, domain.name, 0, None))
        lost += [(f"{rack.name}: cord to {feed}", None, 0, (rack.name, feed)) for rack in racks for feed in rack.feeds]
        for case, gone, units, part in lost:
            load, dark = _carried(site.name, domains, racks, draws_w, gone, None if units else part, factor)
            capacity: dict[str, float | None] = {site.name: site.limit_w}
            for domain in domains:
                fewer = units if part is not None and part[0] == domain.name else 0
                rating = domain.rating
                capacity[domain.name] = None if rating is None else rating.derated_w * (domain.units - fewer)
            for rack in racks:
                for feed in rack.feeds or ("",):
                    capacity[f"{rack.name}/{feed}"] = None if rack.rating is None else rack.rating.derated_w
            yield Walked(site=site.name, case=case, load_w=load, capacity_w=capacity, dark=tuple(dark))


def _carried(
    site: str,
    domains: list[Domain],
    racks: list[Rack],
    draws_w: Mapping[str, float],
    gone: str | None,
    cord: tuple[str, str] | None,
    factor: float | None,
) -> tuple[dict[str, float], list[str]]:
    """The load of each node and circuit, and the racks that are dark."""
    up: dict[str, bool] = {}
    for domain in domains:  # what a domain hangs from comes before it
        up[domain.name] = domain.name != gone and (not domain.parents or any(up[one] for one in domain.parents))
    load = {domain.name: 0.0 for domain in domains} | {site: 0.0}
    lossless = dict(load)
    dark: list[str] = []
    for rack in racks:
        watts = draws_w.get(rack.name, 0.0)
        feeds = [feed for feed in rack.feeds if up[feed] and cord != (rack.name, feed)]
        if rack.feeds and not feeds:
            dark.append(rack.name)
        for feed in feeds if rack.feeds else ("",):
            part = watts / max(1, len(feeds))
            load[feed or site] += part
            lossless[feed or site] += part
            load[f"{rack.name}/{feed}"] = part
    for domain in reversed(domains):
        if not up[domain.name]:
            continue
        load[domain.name] += domain.other_w
        lossless[domain.name] += domain.other_w
        above = [parent for parent in domain.parents if up[parent]]
        if domain.kind == "transfer_switch":
            above = above[:1]
        elif not domain.parents and domain.kind != "generator":
            above = [site]
        for parent in above:
            load[parent] += load[domain.name] / domain.efficiency_ratio / len(above)
            lossless[parent] += lossless[domain.name] / len(above)
    if factor is not None:
        load[site] = lossless[site] * factor
    return load, dark
