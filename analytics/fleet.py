"""
What the fleet is: sites, the power tree, racks and device types, as `analytics.fleet_toml` reads them.

Whatever has no value was not told, and is not known.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from fnmatch import translate
from functools import cached_property, lru_cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Final

HOURS_A_YEAR: Final = 8760.0
KINDS: Final = (
    "utility", "generator", "switchgear", "mdp", "ups", "transfer_switch", "pdu", "panelboard", "mlc", "rpp", "busway",
    "feed", "row",
)  # fmt: skip
"""What a power domain can be; the names that Nautobot has, and three."""
BREAKER_DERATING: Final = 0.8
"""A continuous load is sized at 125 %, so four fifths of a breaker carry it (NFPA 70, articles 100 and 210.20)."""

_REDUNDANCY: Final = re.compile(r"N|N\+(?P<spare>[1-9]\d*)|2N|(?P<all>[3-9]\d*)N/(?P<needed>[2-9]\d*)")


def capital_recovery(discount_ratio: float, life_years: float) -> float:
    """
    The capital recovery factor: what to pay back each year of what was spent at once.

    >>> round(capital_recovery(0.10, 5), 4)
    0.2638
    >>> capital_recovery(0.0, 5)
    0.2
    """
    if life_years <= 0:
        raise ValueError(f"life_years {life_years:g}: must be above 0")
    if discount_ratio == 0:
        return 1.0 / life_years
    grown = float((1.0 + discount_ratio) ** life_years)
    return discount_ratio * grown / (grown - 1.0)


def spare_of(redundancy: str, count: int) -> int:
    """
    How many of *count* equal units may be lost.

    Raises: ValueError, saying why *redundancy* does not suit so many.

    >>> [spare_of(*one) for one in (("N", 3), ("N+1", 3), ("2N", 2), ("4N/3", 4))]
    [0, 1, 1, 1]
    """
    found = _REDUNDANCY.fullmatch(redundancy)
    if not found:
        raise ValueError(f"is {redundancy!r}, not one of N, N+1, 2N, 4N/3 and the like")
    if redundancy == "N":
        return 0
    if redundancy == "2N":
        if count % 2:
            raise ValueError(f"is '2N', which needs pairs, not {count}")
        return count // 2
    if found["spare"]:
        if int(found["spare"]) >= count:
            raise ValueError(f"is {redundancy!r}, which needs more than the {count} there are")
        return int(found["spare"])
    if count != int(found["all"]) or int(found["needed"]) >= count:
        raise ValueError(f"is {redundancy!r}, which is of {found['all']}, not of {count}, of which fewer are needed")
    return count - int(found["needed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A price and when it holds; hours are minutes of the day, and wrap around midnight where the end is before."""

    name: str
    price_per_kwh: float
    days: frozenset[int] = frozenset(range(7))
    minutes: tuple[int, int] = (0, 1440)
    months: frozenset[int] = frozenset(range(1, 13))

    def holds(self, local: datetime) -> bool:
        """Whether it holds at a local time; the hours after midnight belong to the day that began them."""
        minute, (start, end) = local.hour * 60 + local.minute, self.minutes
        inside = start <= minute < end
        if end <= start:
            inside = minute >= start or minute < end
            if minute < end:
                local -= timedelta(days=1)
        return inside and local.weekday() in self.days and local.month in self.months


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place: what it may draw and cool, what its energy costs and emits."""

    name: str
    hosts: tuple[str, ...] = ()
    limit_w: float | None = None
    cooling_w: float | None = None
    power_factor: float | None = None
    derating_ratio: float | None = None
    lead_days: float | None = None
    zone: tzinfo = UTC
    currency: str | None = None
    pue: float | None = None
    price_per_kwh: float | None = None
    carbon_g_per_kwh: float | None = None
    carbon_market_g_per_kwh: float | None = None
    carbon_price_per_t: float | None = None
    demand_per_kw: float | None = None
    demand_ratchet_ratio: float = 0.0
    tariff: tuple[Period, ...] = ()

    def price_at(self, moment: datetime) -> tuple[float | None, str | None]:
        """The price at a moment and the name of what says so."""
        local = moment.astimezone(self.zone)
        for period in self.tariff:
            if period.holds(local):
                return period.price_per_kwh, f"tariff:{period.name}"
        return self.price_per_kwh, None if self.price_per_kwh is None else "flat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """
    What a unit may carry: `w` as rated, in real power, and `va` where it is rated in apparent power.

    A single phase carries V x A, three phases sqrt(3) x V (between lines) x A; of a continuous load, `derating_ratio`
    of that.
    """

    w: float
    va: float | None = None
    derating_ratio: float = 1.0

    @property
    def derated_w(self) -> float:
        """What it may carry day and night."""
        return self.w * self.derating_ratio

    @property
    def derated_va(self) -> float | None:
        """What it may carry day and night, in apparent power."""
        return None if self.va is None else self.va * self.derating_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A node of the power tree; `rating` is of each of its `units`, of which `spare` may be lost."""

    name: str
    site: str
    kind: str = "feed"
    parents: tuple[str, ...] = ()
    rating: Rating | None = None
    units: int = 1
    spare: int = 0
    redundancy: str | None = None
    group: str | None = None
    efficiency_ratio: float = 1.0
    other_w: float = 0.0
    meter: str | None = None
    lead_days: float | None = None
    available_from: date | None = None

    @property
    def standby(self) -> bool:
        """Whether it takes the first of its parents that stands instead of sharing its load over all."""
        return self.kind == "transfer_switch"

    @property
    def installed_w(self) -> float | None:
        """What all its units are rated for."""
        return None if self.rating is None else self.rating.w * self.units

    @property
    def derated_w(self) -> float | None:
        """What all its units may carry day and night."""
        return None if self.rating is None else self.rating.derated_w * self.units

    @property
    def safe_w(self) -> float | None:
        """What it may carry with its spare units lost."""
        return None if self.rating is None else self.rating.derated_w * (self.units - self.spare)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """Where servers stand: its feeds, and what it has of power (`rating`, of each feed's circuit), space, cooling."""

    name: str
    site: str
    feeds: tuple[str, ...] = ()
    rating: Rating | None = None
    units: int | None = None
    units_used: int | None = None
    cooling_w: float | None = None
    ports: int | None = None
    ports_used: int | None = None
    hosts: tuple[str, ...] = ()
    nameplate_w: float | None = None
    sku: str | None = None
    meters: tuple[str, ...] = ()
    available_from: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The machine that a device type is bought in."""

    accelerators: int = 1
    rack_units: int | None = None
    ports: int | None = None
    nameplate_w: float | None = None
    peak_w: float | None = None
    mean_w: float | None = None
    capex: float | None = None
    lead_days: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sku:
    """A device type: figures of one device, and the `server` that it comes in."""

    name: str
    models: tuple[str, ...] = ()
    vendor: str | None = None
    tdp_w: float | None = None
    memory_bytes: float | None = None
    flop_per_s: float | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    capex: float | None = None
    currency: str | None = None
    discount_ratio: float | None = None
    life_years: float | None = None
    opex_per_h: float | None = None
    server: Server | None = None

    @property
    def fixed_per_h(self) -> float | None:
        """Capital and running costs of an hour of a device; None where nobody told what it cost."""
        if self.capex is None or self.discount_ratio is None or self.life_years is None:
            return None
        back = self.capex * capital_recovery(self.discount_ratio, self.life_years) / HOURS_A_YEAR
        return back + (self.opex_per_h or 0.0)

    @property
    def lead_days(self) -> float:
        """How long after its order a server is there; 0 where nobody told."""
        return (self.server.lead_days if self.server is not None else None) or 0.0

    def over(self, other: "Sku | None") -> "Sku":
        """This one with what only *other* tells."""
        if other is None:
            return self
        missing = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) in (None, ())}
        return replace(self, **missing)


class Index:
    """Names and patterns to what they stand for; a name goes before patterns, and of those the first counts."""

    def __init__(self, owners: Iterable[tuple[str, Iterable[str]]]) -> None:
        self._names: dict[str, str] = {}
        # By what they begin with: of thousands of racks' patterns a host meets a handful.
        self._patterns: dict[str, list[tuple[int, re.Pattern[str], str]]] = {}
        order = count()
        for owner, texts in owners:
            for text in texts:
                if is_pattern(text):
                    found = self._patterns.setdefault(_SIGNS.split(text, maxsplit=1)[0], [])
                    found.append((next(order), re.compile(translate(text)), owner))
                else:
                    self._names.setdefault(text, owner)

    def find(self, text: str) -> str | None:
        """The owner of what is called *text*."""
        return self._names.get(text) or self.matched(text)

    def matched(self, text: str) -> str | None:
        """The owner of the first pattern that *text* meets."""
        near = (one for length in range(len(text) + 1) for one in self._patterns.get(text[:length], ()))
        return min(((at, owner) for at, pattern, owner in near if pattern.match(text)), default=(0, None))[1]


_SIGNS: Final = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Whether *text* is a pattern of names rather than a name."""
    return _SIGNS.search(text) is not None


def _model_index(skus: Iterable["Sku"]) -> Index:
    return Index((sku.name, [model.lower() for model in sku.models]) for sku in skus)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet.toml. Domains come before what hangs from them."""

    sites: tuple[Site, ...] = ()
    domains: tuple[Domain, ...] = ()
    racks: tuple[Rack, ...] = ()
    skus: tuple[Sku, ...] = ()
    path: Path | str | None = field(default=None, compare=False)

    def site_of(self, hosts: Iterable[str]) -> dict[str, str]:
        """The site of each host: that of its rack, or the first that names or matches it."""
        return _found(hosts, lambda host: self._rack_site(host) or self.site_hosts.find(host))

    def rack_of(self, hosts: Iterable[str]) -> dict[str, str]:
        """The rack of each host that stands in one."""
        return _found(hosts, self.rack_hosts.find)

    def only(self, names: Collection[str]) -> "Fleet":
        """The fleet of some sites alone."""
        return replace(
            self,
            sites=tuple(site for site in self.sites if site.name in names),
            domains=tuple(domain for domain in self.domains if domain.site in names),
            racks=tuple(rack for rack in self.racks if rack.site in names),
        )

    def site(self, name: str) -> Site:
        """
        The site called *name*.

        Raises: KeyError.
        """
        return self._sites[name]

    def domain(self, name: str) -> Domain:
        """
        The power domain called *name*.

        Raises: KeyError.
        """
        return self._domains[name]

    def rack(self, name: str) -> Rack:
        """
        The rack called *name*.

        Raises: KeyError.
        """
        return self._racks[name]

    def sku_of(self, model: str | None) -> Sku | None:
        """
        The device type of a device, by what it calls its model; None where nobody knows it.

        What the file does not tell of it is as the built-in one has it: flop_per_s, memory_bandwidth_bytes_per_s, ...
        """
        if model is None:
            return None
        known, name = _known_model(model), self._models.find(model.lower())
        if name is None and known is not None:
            name = next((sku.name for sku in self.skus if sku.name.lower() == known.name.lower()), None)
        return known if name is None else self._skus[name].over(known)

    def sku(self, name: str) -> Sku | None:
        """The device type called *name* in the file or else among the built-in ones; case does not matter."""
        told = next((sku for sku in self.skus if sku.name.lower() == name.lower()), None)
        known = next((sku for sku in built_in_skus() if sku.name.lower() == name.lower()), None)
        if told is None:
            return known
        if known is None:
            known = next((found for model in told.models if (found := _known_model(model)) is not None), None)
        return told.over(known)

    @property
    def pue(self) -> dict[str, float]:
        """The PUE of each site that has one."""
        return {site.name: site.pue for site in self.sites if site.pue is not None}

    def _rack_site(self, host: str) -> str | None:
        rack = self.rack_hosts.find(host)
        return None if rack is None else self._racks[rack].site

    @cached_property
    def _sites(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    @cached_property
    def _domains(self) -> dict[str, Domain]:
        return {domain.name: domain for domain in self.domains}

    @cached_property
    def _racks(self) -> dict[str, Rack]:
        return {rack.name: rack for rack in self.racks}

    @cached_property
    def _skus(self) -> dict[str, Sku]:
        return {sku.name: sku for sku in self.skus}

    @cached_property
    def site_hosts(self) -> Index:
        """Hosts to sites, by what the sites say alone."""
        return Index((site.name, site.hosts) for site in self.sites)

    @cached_property
    def rack_hosts(self) -> Index:
        """Hosts to racks."""
        return Index((rack.name, rack.hosts) for rack in self.racks)

    @cached_property
    def _models(self) -> Index:
        return _model_index(self.skus)


def _found(hosts: Iterable[str], find: Callable[[str], str | None]) -> dict[str, str]:
    return {host: owner for host in hosts if (owner := find(host)) is not None}


@lru_cache(maxsize=1)
def built_in_skus() -> tuple[Sku, ...]:
    """The device types that perfwatt knows by itself, from skus.toml: what their makers state of them."""
    content = tomllib.loads(files("analytics").joinpath("skus.toml").read_text(encoding="utf-8"))
    return tuple(Sku(models=tuple(told.pop("model")), **told) for told in content["sku"])


@lru_cache(maxsize=1)
def _known_models() -> Index:
    return _model_index(built_in_skus())


def _known_model(model: str) -> Sku | None:
    name = _known_models().find(model.lower())
    return next((sku for sku in built_in_skus() if sku.name == name), None)


def standing(fleet: Fleet, day: date, loaded: Collection[str] = ()) -> Fleet:
    """
    The fleet as it stands on a day: what comes later is not there, nor what hangs on that alone.

    A rack without all its feeds is not there either, unless it is among those *loaded* already.
    """
    gone: set[str] = set()
    domains = []
    for domain in fleet.domains:
        parents = tuple(parent for parent in domain.parents if parent not in gone)
        if (domain.available_from is not None and domain.available_from > day) or (domain.parents and not parents):
            gone.add(domain.name)
        else:
            domains.append(replace(domain, parents=parents))
    racks = []
    for rack in fleet.racks:
        feeds = tuple(feed for feed in rack.feeds if feed not in gone)
        later = rack.available_from is not None and rack.available_from > day
        if rack.name in loaded or not (later or len(feeds) < len(rack.feeds)):
            racks.append(replace(rack, feeds=feeds))
    return replace(fleet, domains=tuple(domains), racks=tuple(racks))
