"""
The reader of fleet.toml, in which a planner keeps what the fleet is: sites, the power tree, racks, device types.

    [[site]]
    name = "dublin"
    hosts = ["dub-*"]                # hosts of the site, as names or patterns; those of its racks are too
    time_zone = "Europe/Dublin"      # of the tariff's hours and months; UTC by default
    limit_w = 2e6                    # the most that the grid connection may carry
    cooling_w = 1.5e6                # heat that the site can take away
    power_factor = 0.98              # of its domains and racks that say no other
    derating_ratio = 0.8             # likewise; 0.8 by default where a rating is a breaker's, else 1
    lead_days = 900                  # until more power could be had
    currency = "EUR"
    pue = 1.25
    price_per_kwh = 0.12             # where no period below holds
    carbon_g_per_kwh = 301           # of the grid (location-based)
    carbon_market_g_per_kwh = 0      # of what was bought (market-based)
    carbon_price_per_t = 80          # what a plan counts for a tonne of CO2e
    demand_per_kw = 12.5             # a month, for the highest mean of 15 minutes
    demand_ratchet_ratio = 0.8       # of the highest demand of the eleven months before, at least
    [[site.tariff]]                  # the first that holds
    name = "peak"
    price_per_kwh = 0.30
    days = ["mon", "tue", "wed", "thu", "fri"]
    hours = "08:00-20:00"
    months = [11, 12, 1, 2]

    [[domain]]                       # a node of the power tree
    name = "ups-a"
    kind = "ups"                     # one of KINDS
    site = "dublin"                  # that of its parents by default
    parents = ["switchgear-a"]       # what it hangs from; they share its load, but for a transfer switch, which takes
                                     # the first that stands
    rating_w = 400e3                 # or rating_va; or rating_v, rating_a and phases; of a unit. None: no limit known
    units = 3                        # of which redundancy says how many are spare
    redundancy = "N+1"               # N, N+k, 2N, 4N/3 (3N/2 ...): of its units, or with `group` of the group's members
    efficiency_ratio = 0.96          # of what it passes on over what it draws
    other_w = 5e3                    # what hangs on it and is in no rack: cooling, light
    meter = "ups-a-out"              # facility_samples' name of what measures it
    available_from = 2027-03-01
    lead_days = 240

    [[rack]]
    name = "dub-r01"
    feeds = ["rpp-a", "rpp-b"]       # two: dual-corded, either carries all of it
    rating_v = 415                   # of each feed's circuit, as for a domain
    rating_a = 60
    phases = 3
    units = 48                       # height, in rack units
    units_used = 40                  # not given: as its hosts and their SKU tell
    cooling_w = 40e3
    ports = 64
    ports_used = 24
    hosts = ["dub-r01-*"]
    nameplate_w = 30e3               # of what stands in it: stands in for what is not measured
    sku = "H100"                     # of its servers
    meters = ["pdu-r01-a", "pdu-r01-b"]

    [[sku]]                          # goes before the built-in one of the same device, key by key
    name = "H100"
    model = "NVIDIA H100 80GB HBM3"  # as the device says, or patterns of it
    vendor = "nvidia"
    tdp_w = 700
    flop_per_s = 989e12              # dense BF16
    memory_bytes = 80e9
    memory_bandwidth_bytes_per_s = 3.35e12
    capex = 30000                    # for a device, in `currency`
    currency = "EUR"
    discount_ratio = 0.10            # a year
    life_years = 5
    opex_per_h = 0.05
    [sku.server]                     # the machine that it is bought in
    accelerators = 8
    rack_units = 8
    ports = 10
    nameplate_w = 10200              # what is written on it
    peak_w = 9000                    # the most that it was seen to draw at the wall
    mean_w = 6500
    capex = 300000                   # of the whole machine; its devices' by default
    lead_days = 120

What nobody told is not known: None, never 0.
"""

import re
from collections.abc import Mapping
from datetime import UTC, timedelta, timezone, tzinfo
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Final

from analytics.fleet import (
    BREAKER_DERATING,
    KINDS,
    Domain,
    Fleet,
    Period,
    Rack,
    Rating,
    Server,
    Site,
    Sku,
    is_pattern,
    spare_of,
)
from analytics.tables import Keys, read_toml, unique
from collector.errors import ConfigError
from collector.moments import zone

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


def parse_fleet(text: str, *, path: Path | str | None = None) -> Fleet:
    """
    A fleet.toml.

    Raises: ConfigError naming file, key, value and limit: no TOML, an unknown key, a wrong type, a value out of range,
    a name that nothing bears, a cycle, a host in two places.
    """
    content = read_toml(text, "fleet.toml", path=path)
    tables = {name: content.tables(name) for name in ("site", "domain", "rack", "sku")}
    content.end()
    sites = [_site(keys) for keys in tables["site"]]
    domains = _domains(tables["domain"], sites)
    racks = _racks(tables["rack"], sites, domains)
    names = [*(site.name for site in sites), *domains, *(rack.name for rack in racks)]
    placed = [*tables["site"], *tables["domain"], *tables["rack"]]
    unique((keys, "name", name) for keys, name in zip(placed, names, strict=True))
    skus = [_sku(keys) for keys in tables["sku"]]
    unique((keys, "name", sku.name) for keys, sku in zip(tables["sku"], skus, strict=True))
    fleet = Fleet(
        sites=tuple(sites), domains=tuple(_in_order(domains, tables["domain"])), racks=tuple(racks), skus=tuple(skus),
        path=path,
    )  # fmt: skip
    _check_hosts(fleet, tables)
    for keys, rack in zip(tables["rack"], racks, strict=True):
        if rack.sku is not None and fleet.sku(rack.sku) is None:
            raise keys.wrong("sku", f"is {rack.sku!r}, which no [[sku]] is called")
    return fleet


def _site(keys: Keys) -> Site:
    east = keys.number("hours_east", low=-12.0, high=14.0)
    named = keys.text("time_zone")
    place: tzinfo = timezone(timedelta(hours=east)) if east is not None else UTC
    if named is not None:
        try:
            place = zone(named, option=f"{keys.name}.time_zone")
        except ConfigError as error:
            raise keys.wrong("time_zone", f"is {named!r}, which is no time zone") from error
    site = Site(
        name=keys.needed("name", keys.text("name")),
        hosts=keys.texts("hosts", "host names"),
        limit_w=keys.positive("limit_w"),
        cooling_w=keys.positive("cooling_w"),
        power_factor=_ratio(keys, "power_factor"),
        derating_ratio=_ratio(keys, "derating_ratio"),
        lead_days=keys.number("lead_days", high=36_500),
        zone=place,
        currency=keys.text("currency"),
        pue=keys.number("pue", low=1.0, high=10.0),
        price_per_kwh=keys.number("price_per_kwh", low=None),
        carbon_g_per_kwh=keys.number("carbon_g_per_kwh"),
        carbon_market_g_per_kwh=keys.number("carbon_market_g_per_kwh"),
        carbon_price_per_t=keys.number("carbon_price_per_t"),
        demand_per_kw=keys.number("demand_per_kw"),
        demand_ratchet_ratio=keys.number("demand_ratchet_ratio", high=1.0) or 0.0,
        tariff=tuple(_period(period) for period in keys.tables("tariff")),
    )
    keys.end()
    prices = (site.price_per_kwh, site.demand_per_kw, site.carbon_price_per_t)
    if site.currency is None and (site.tariff or any(price is not None for price in prices)):
        raise keys.wrong("currency", "is missing, and there is a price")
    return site


def _ratio(keys: Keys, key: str) -> float | None:
    return keys.positive(key, high=1.0)


def _period(keys: Keys) -> Period:
    days = keys.some("days", str, "days") or list(_DAYS)
    if wrong := [day for day in days if day not in _DAYS]:
        raise keys.wrong("days", f"has {wrong[0]!r}, not one of {', '.join(_DAYS)}")
    months = keys.some("months", int, "months") or list(range(1, 13))
    if wrong_months := [month for month in months if not 1 <= month <= 12]:
        raise keys.wrong("months", f"has {wrong_months[0]}, not one of 1 to 12")
    text = keys.text("hours") or "00:00-24:00"
    found = _HOURS.fullmatch(text)
    minutes = [int(part) for part in found.groups()] if found else []
    if (
        not found
        or minutes[1] % 15
        or minutes[3] % 15
        or max(minutes[0] * 60 + minutes[1], minutes[2] * 60 + minutes[3]) > 1440
    ):
        raise keys.wrong("hours", f"is {text!r}; write 08:00-20:00, in quarter-hours, up to 24:00")
    period = Period(
        name=keys.text("name") or "unnamed",
        price_per_kwh=keys.needed("price_per_kwh", keys.number("price_per_kwh", low=None)),
        days=frozenset(_DAYS.index(day) for day in days),
        minutes=(minutes[0] * 60 + minutes[1], minutes[2] * 60 + minutes[3]),
        months=frozenset(months),
    )
    keys.end()
    return period


def _domains(tables: list[Keys], sites: list[Site]) -> dict[str, Domain]:
    """The domains by name, in the order of the file."""
    named = [keys.needed("name", keys.text("name")) for keys in tables]
    unique((keys, "name", name) for keys, name in zip(tables, named, strict=True))
    parents = {name: _parents(keys) for keys, name in zip(tables, named, strict=True)}
    told = {name: _place(keys, sites) for keys, name in zip(tables, named, strict=True)}
    for keys, name in zip(tables, named, strict=True):
        for parent in parents[name]:
            if parent not in parents:
                raise keys.wrong("parents", f"has {parent!r}, which no [[domain]] is called")
    placed = _inherited(tables, named, parents, told, sites)
    domains = {name: _domain(keys, name, placed[name], parents[name]) for keys, name in zip(tables, named, strict=True)}
    _check_groups(tables, domains)
    return domains


def _parents(keys: Keys) -> tuple[str, ...]:
    one, several = keys.text("parent"), keys.texts("parents", "names of domains")
    if one is not None and several:
        raise keys.wrong("parent", "is beside parents; write one of them")
    return (one,) if one is not None else several


def _place(keys: Keys, sites: list[Site]) -> Site | None:
    """The site that a table names; None where it names none."""
    name = keys.text("site")
    if name is None:
        return None
    found = next((site for site in sites if site.name == name), None)
    if found is None:
        raise keys.wrong("site", f"is {name!r}, which no [[site]] is called")
    return found


def _inherited(
    tables: list[Keys],
    names: list[str],
    parents: Mapping[str, tuple[str, ...]],
    told: Mapping[str, Site | None],
    sites: list[Site],
) -> dict[str, Site]:
    """The site of each domain: its own, that of its parents, or the only one."""
    keys_of = dict(zip(names, tables, strict=True))
    placed: dict[str, Site] = {}
    for name in _sorted(parents, keys_of):
        keys = keys_of[name]
        own = told[name] or (placed[parents[name][0]] if parents[name] else None)
        placed[name] = _only(keys, sites) if own is None else own
        for parent in parents[name]:
            if placed[parent] is not placed[name]:
                raise keys.wrong("parents", f"has {parent!r}, of {placed[parent].name}; it is of {placed[name].name}")
    return placed


def _only(keys: Keys, sites: list[Site]) -> Site:
    if len(sites) != 1:
        raise keys.wrong("site", f"is missing, and there are {len(sites)} sites")
    return sites[0]


def _sorted(parents: Mapping[str, tuple[str, ...]], keys_of: Mapping[str, Keys]) -> list[str]:
    """The names, parents first."""
    try:
        return list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        around = error.args[1]
        raise keys_of[around[0]].wrong("parents", f"go round in a circle: {' > '.join(around)}") from error


def _in_order(domains: Mapping[str, Domain], tables: list[Keys]) -> list[Domain]:
    order = _sorted({name: domain.parents for name, domain in domains.items()}, dict(zip(domains, tables, strict=True)))
    return [domains[name] for name in order]


def _domain(keys: Keys, name: str, site: Site, parents: tuple[str, ...]) -> Domain:
    redundancy, group = keys.text("redundancy"), keys.text("group")
    units = keys.whole("units", low=1, high=10_000)
    if units is None:
        units = 2 if redundancy == "2N" and group is None else 1
    spare = 0
    if redundancy is not None and group is None:
        spare = _spare(keys, redundancy, units)
    elif group is not None and units > 1:
        raise keys.wrong("units", f"is {units} beside a group; the members of a group are its units")
    domain = Domain(
        name=name,
        site=site.name,
        kind=keys.one_of("kind", KINDS) or "feed",
        parents=parents,
        rating=_rating(keys, site),
        units=units,
        spare=spare,
        redundancy=redundancy,
        group=group,
        efficiency_ratio=_ratio(keys, "efficiency_ratio") or 1.0,
        other_w=keys.number("other_w") or 0.0,
        meter=keys.text("meter"),
        lead_days=keys.number("lead_days", high=36_500),
        available_from=keys.day("available_from"),
    )
    keys.end()
    if domain.standby and len(parents) < 2:
        raise keys.wrong("parents", "are fewer than two, and a transfer switch chooses between them")
    return domain


def _spare(keys: Keys, redundancy: str, count: int) -> int:
    try:
        return spare_of(redundancy, count)
    except ValueError as error:
        raise keys.wrong("redundancy", str(error)) from error


def _rating(keys: Keys, site: Site) -> Rating | None:
    """A rating in watts, in volt-amperes, or as volts, amperes and phases."""
    rated_w, rated_va = keys.positive("rating_w"), keys.positive("rating_va")
    volts, amps = keys.positive("rating_v"), keys.positive("rating_a")
    phases = keys.whole("phases", low=1, high=3)
    factor = _ratio(keys, "power_factor") or site.power_factor
    derating = _ratio(keys, "derating_ratio") or site.derating_ratio
    breaker = volts is not None or amps is not None or phases is not None
    ways = [name for name, told in (("rating_w", rated_w), ("rating_va", rated_va), ("rating_v", breaker)) if told]
    if not ways:
        return None
    if len(ways) > 1:
        raise keys.wrong(ways[1], f"is beside {ways[0]}; give one rating")
    if breaker:
        volts, amps = keys.needed("rating_v", volts), keys.needed("rating_a", amps)
        if phases == 2:
            raise keys.wrong("phases", "is 2, not 1 or 3")
        rated_va = volts * amps * (sqrt(3.0) if keys.needed("phases", phases) == 3 else 1.0)
    if rated_va is not None:
        if factor is None:
            raise keys.wrong("power_factor", "is missing, here and at the site, and the rating is not in watts")
        rated_w = rated_va * factor
    assert rated_w is not None
    return Rating(w=rated_w, va=rated_va, derating_ratio=derating or (BREAKER_DERATING if breaker else 1.0))


def _check_groups(tables: list[Keys], domains: Mapping[str, Domain]) -> None:
    groups: dict[str, list[tuple[Keys, Domain]]] = {}
    for keys, domain in zip(tables, domains.values(), strict=True):
        if domain.group is not None:
            groups.setdefault(domain.group, []).append((keys, domain))
    for group, members in groups.items():
        first = members[0][1]
        for keys, domain in members:
            if domain.redundancy is None:
                raise keys.wrong("redundancy", f"is missing, and {domain.name} is of the group {group!r}")
            if domain.redundancy != first.redundancy or domain.site != first.site:
                raise keys.wrong("group", f"is {group!r}, whose member {first.name} has another redundancy or site")
        _spare(members[0][0], first.redundancy or "N", len(members))


def _racks(tables: list[Keys], sites: list[Site], domains: Mapping[str, Domain]) -> list[Rack]:
    by_name = {site.name: site for site in sites}
    racks = []
    for keys in tables:
        name, told, feeds = keys.needed("name", keys.text("name")), _place(keys, sites), keys.texts("feeds", "domains")
        for feed in feeds:
            if feed not in domains:
                raise keys.wrong("feeds", f"has {feed!r}, which no [[domain]] is called")
        site = told or (by_name[domains[feeds[0]].site] if feeds else _only(keys, sites))
        for feed in feeds:
            if domains[feed].site != site.name:
                raise keys.wrong("feeds", f"has {feed!r} of {domains[feed].site}; {name} is of {site.name}")
        rack = Rack(
            name=name,
            site=site.name,
            feeds=feeds,
            rating=_rating(keys, site),
            units=keys.whole("units", low=1, high=100),
            units_used=keys.whole("units_used"),
            cooling_w=keys.positive("cooling_w"),
            ports=keys.whole("ports"),
            ports_used=keys.whole("ports_used"),
            hosts=keys.texts("hosts", "host names"),
            nameplate_w=keys.number("nameplate_w"),
            sku=keys.text("sku"),
            meters=keys.texts("meters", "names of meters"),
            available_from=keys.day("available_from"),
        )
        keys.end()
        for used, whole in (("units_used", "units"), ("ports_used", "ports")):
            if getattr(rack, used) is not None and getattr(rack, used) > keys.needed(whole, getattr(rack, whole)):
                raise keys.wrong(used, f"is {getattr(rack, used)}, above {whole} of {getattr(rack, whole)}")
        racks.append(rack)
    return racks


def _sku(keys: Keys) -> Sku:
    models = keys.texts("model", "models of devices", or_one=True)
    name = keys.text("name") or (models[0] if models else None)
    server = keys.table("server")
    sku = Sku(
        name=keys.needed("name", name),
        models=models,
        vendor=keys.text("vendor"),
        tdp_w=keys.positive("tdp_w"),
        memory_bytes=keys.positive("memory_bytes"),
        flop_per_s=keys.positive("flop_per_s"),
        memory_bandwidth_bytes_per_s=keys.positive("memory_bandwidth_bytes_per_s"),
        capex=keys.number("capex"),
        currency=keys.text("currency"),
        discount_ratio=keys.number("discount_ratio", high=1.0),
        life_years=keys.number("life_years", low=0.1, high=50.0),
        opex_per_h=keys.number("opex_per_h"),
        server=None if server is None else _server(server),
    )
    keys.end()
    bought = sku.capex is not None or (sku.server is not None and sku.server.capex is not None)
    if bought or sku.opex_per_h is not None:
        keys.needed("currency", sku.currency)
        keys.needed("discount_ratio", sku.discount_ratio)
        keys.needed("life_years", sku.life_years)
        if not bought:
            raise keys.wrong("capex", "is missing")
    return sku


def _server(keys: Keys) -> Server:
    server = Server(
        accelerators=keys.whole("accelerators", low=1, high=10_000) or 1,
        rack_units=keys.whole("rack_units", low=1, high=100),
        ports=keys.whole("ports"),
        nameplate_w=keys.positive("nameplate_w"),
        peak_w=keys.positive("peak_w"),
        mean_w=keys.positive("mean_w"),
        capex=keys.number("capex"),
        lead_days=keys.number("lead_days", high=36_500),
    )
    keys.end()
    rising = [("mean_w", server.mean_w), ("peak_w", server.peak_w), ("nameplate_w", server.nameplate_w)]
    known = [(key, value) for key, value in rising if value is not None]
    for (below, less), (key, more) in pairwise(known):
        if less > more:
            raise keys.wrong(below, f"is {less:g}, above {key} of {more:g}")
    return server


def _check_hosts(fleet: Fleet, tables: Mapping[str, list[Keys]]) -> None:
    """No host is in two places."""
    for keys_of, hosts_of in (
        (tables["site"], [site.hosts for site in fleet.sites]),
        (tables["rack"], [rack.hosts for rack in fleet.racks]),
    ):
        unique((keys, "hosts", host) for keys, hosts in zip(keys_of, hosts_of, strict=True) for host in hosts)
    for keys, rack in zip(tables["rack"], fleet.racks, strict=True):
        for host in rack.hosts:
            if is_pattern(host):
                continue
            other = fleet.rack_hosts.matched(host)
            if other is not None and other != rack.name:
                raise keys.wrong("hosts", f"has {host!r}, which is also among the hosts of rack {other}")
            site = fleet.site_hosts.find(host)
            if site is not None and site != rack.site:
                raise keys.wrong("hosts", f"has {host!r}, a host of {site}; the rack is of {rack.site}")
