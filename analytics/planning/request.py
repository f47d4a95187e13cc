"""
What a plan is asked for, as a planner writes it in plan.toml.

    start = 2027-01-01
    periods = 12
    period_days = 30
    currency = "EUR"                 # of costs and budget
    discount_ratio = 0.08            # a year, of money that is spent later
    growth_ratio_per_year = 0.05     # of the load that is there already
    budget = 5e6                     # of capital, a period; or a list, one for each period. None: no limit
    budget_carries = true            # whether what is left goes on to the next period
    power = "peak"                   # what a server is planned with: peak (the most it was seen to draw) or nameplate
    sites = ["dublin"]               # where servers may go; all by default

    [exchange]                       # what a unit of another currency is in `currency`
    USD = 0.92

    [[demand]]
    name = "chat"
    sku = ["H100", "B200"]           # which may serve it, as fleet.toml calls them
    amount = [4, 0, 2]               # how much more from each period on; nothing after the last
    unit = "servers"                 # servers, accelerators, flop_per_s, or any other with per_server
    sites = ["dublin"]
    [demand.per_server]              # what a server brings in that unit
    H100 = 25262
    B200 = 102909
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from math import ceil, isfinite
from pathlib import Path
from typing import Final

from analytics.fleet import Fleet, Sku
from analytics.tables import Keys, read_toml, unique
from collector.errors import ConfigError

UNITS: Final = ("servers", "accelerators", "flop_per_s")
DAYS_A_YEAR: Final = 365.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Something that servers are for; `needed` is how much from each period on, all in all."""

    name: str
    skus: tuple[str, ...]
    needed: tuple[float, ...]
    unit: str = "servers"
    per_server: Mapping[str, float] = field(default_factory=dict)
    sites: tuple[str, ...] = ()

    def supply(self, sku: Sku) -> float:
        """
        What a server of *sku* brings.

        Raises: ConfigError.
        """
        server = sku.server
        if self.unit == "servers":
            return 1.0
        if self.unit == "accelerators":
            return float(server.accelerators if server is not None else 1)
        if self.unit == "flop_per_s" and sku.name not in self.per_server:
            if sku.flop_per_s is None:
                raise ConfigError(f"demand {self.name}", f"is in flop_per_s, which nobody told of {sku.name}")
            return sku.flop_per_s * (server.accelerators if server is not None else 1)
        if sku.name not in self.per_server:
            raise ConfigError(f"demand {self.name}", f"is in {self.unit}, and per_server does not tell of {sku.name}")
        return self.per_server[sku.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A plan.toml."""

    start: date
    demands: tuple[Demand, ...]
    periods: int = 1
    period_days: float = 30.0
    currency: str | None = None
    discount_ratio: float = 0.0
    growth_ratio_per_year: float = 0.0
    budget: tuple[float, ...] | None = None
    budget_carries: bool = False
    nameplate: bool = False
    sites: tuple[str, ...] = ()
    exchange: Mapping[str, float] = field(default_factory=dict)
    ordered: bool = False
    """Whether everything is ordered already, so that no lead time counts."""

    def begin(self, period: int) -> datetime:
        """When a period starts; that after the last is when the plan ends."""
        midnight = datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC)
        return midnight + timedelta(days=self.period_days * period)

    def first_period(self, lead_days: float) -> int:
        """The first period in which something that is ordered at the start is there."""
        return 0 if self.ordered else ceil(lead_days / self.period_days - 1e-9)

    def growth(self, period: int) -> float:
        """What the load that is there has grown to at the end of a period."""
        years = self.period_days * (period + 1) / DAYS_A_YEAR
        return float((1.0 + self.growth_ratio_per_year) ** years)

    def rate(self, currency: str, key: str) -> float:
        """
        What a unit of *currency* is in the plan's.

        Raises: ConfigError naming *key*, whose currency it is.
        """
        if currency == self.currency:
            return 1.0
        if currency not in self.exchange:
            raise ConfigError(key, f"is in {currency}, the plan in {self.currency}, and [exchange] does not tell")
        return self.exchange[currency]


def parse_plan(text: str, fleet: Fleet, *, path: Path | str | None = None) -> Request:
    """
    A plan.toml, for *fleet*.

    Raises: ConfigError naming file, key, value and limit.
    """
    keys = read_toml(text, "plan.toml", path=path)
    periods = keys.whole("periods", low=1, high=240) or 1
    tables = keys.tables("demand")
    request = Request(
        start=keys.needed("start", keys.day("start")),
        periods=periods,
        period_days=keys.number("period_days", low=1.0, high=3650.0) or 30.0,
        currency=keys.text("currency"),
        discount_ratio=keys.number("discount_ratio", high=1.0) or 0.0,
        growth_ratio_per_year=keys.number("growth_ratio_per_year", low=-0.9, high=10.0) or 0.0,
        budget=_budget(keys, periods),
        budget_carries=keys.flag("budget_carries") or False,
        nameplate=keys.one_of("power", ("peak", "nameplate")) == "nameplate",
        sites=_sites(keys, fleet),
        exchange=_exchange(keys),
        demands=tuple(_demand(table, fleet, periods) for table in tables),
    )
    keys.end()
    if not tables:
        raise keys.wrong("demand", "is missing; write [[demand]]")
    unique((table, "name", demand.name) for table, demand in zip(tables, request.demands, strict=True))
    return request


def request_of(text: str) -> Request:
    """
    The request of a row of the table plans (see `analytics.planning.result.table`).

    Raises: ValueError (not such a text, as of a store that a later version wrote).
    """
    try:
        told = json.loads(text)
        demands = tuple(
            Demand(**{**one, **{name: tuple(one[name]) for name in ("skus", "needed", "sites")}})
            for one in told["demands"]
        )
        budget = None if told["budget"] is None else tuple(told["budget"])
        more = {"start": date.fromisoformat(told["start"]), "demands": demands, "budget": budget}
        return Request(**{**told, **more, "sites": tuple(told["sites"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the request of a plan: {error!r}") from error


def _budget(keys: Keys, periods: int) -> tuple[float, ...] | None:
    value = keys.take("budget")
    if value is None:
        return None
    found = value if isinstance(value, list) else [value] * periods
    if not all(isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one) for one in found):
        raise keys.wrong("budget", f"is {value!r}, not a number or a list of numbers")
    if len(found) != periods:
        raise keys.wrong("budget", f"has {len(found)} numbers, and there are {periods} periods")
    if min(found) < 0:
        raise keys.wrong("budget", f"has {min(found):g}, below the least of 0")
    return tuple(float(one) for one in found)


def _sites(keys: Keys, fleet: Fleet) -> tuple[str, ...]:
    names = keys.texts("sites", "names of sites")
    for name in names:
        if name not in {site.name for site in fleet.sites}:
            raise keys.wrong("sites", f"has {name!r}, which no [[site]] of fleet.toml is called")
    return names


def _exchange(keys: Keys) -> dict[str, float]:
    table = keys.table("exchange")
    if table is None:
        return {}
    rates = {currency: table.needed(currency, table.positive(currency)) for currency in list(table.left)}
    table.end()
    return rates


def _demand(keys: Keys, fleet: Fleet, periods: int) -> Demand:
    skus = keys.needed("sku", keys.texts("sku", "names of [[sku]]", or_one=True) or None)
    for name in skus:
        sku = fleet.sku(name)
        if sku is None:
            raise keys.wrong("sku", f"has {name!r}, which no [[sku]] of fleet.toml is called")
        if sku.server is None:
            raise keys.wrong("sku", f"has {name!r}, which has no [sku.server] in fleet.toml")
    amounts = keys.needed("amount", keys.some("amount", int | float, "numbers"))
    if len(amounts) > periods:
        raise keys.wrong("amount", f"has {len(amounts)} numbers, and there are {periods} periods")
    if min(amounts, default=0) < 0 or not all(isfinite(one) for one in amounts):
        raise keys.wrong("amount", f"is {amounts!r}; no amount is below 0")
    unit = keys.text("unit") or "servers"
    table = keys.table("per_server")
    per_server: dict[str, float] = {}
    if table is not None:
        if unit in {"servers", "accelerators"}:
            raise keys.wrong("per_server", f"is beside the unit {unit}, of which servers bring what they are")
        per_server = {_name(fleet, name): table.needed(name, table.positive(name)) for name in list(table.left)}
        table.end()
    elif unit not in UNITS:
        raise keys.wrong("per_server", f"is missing, and the unit {unit!r} is none of {', '.join(UNITS)}")
    padded = [*amounts, *[0.0] * (periods - len(amounts))]
    demand = Demand(
        name=keys.needed("name", keys.text("name")),
        skus=tuple(_name(fleet, name) for name in skus),
        needed=tuple(accumulate(float(one) for one in padded)),
        unit=unit,
        per_server=per_server,
        sites=_sites(keys, fleet),
    )
    keys.end()
    return demand


def _name(fleet: Fleet, name: str) -> str:
    """The name as the fleet writes it."""
    sku = fleet.sku(name)
    return name if sku is None else sku.name
