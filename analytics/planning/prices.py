"""
What a server costs over a plan, by site and by the period in which it is installed.

    cost a year = capex * CRF + opex + kWh * (price + carbon price * grid) + kW * demand charge * 12

of which every period from the installation on pays its share, discounted to the start (capital recovery factor: see
`analytics.fleet.capital_recovery`). Energy is the server's mean draw (its planned draw where no mean is told) at the
wall, times the PUE; its price is the mean of the site's tariff over a year, hour by hour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

from analytics.capacity.ledger import server_w
from analytics.capacity.tree import Floats
from analytics.fleet import HOURS_A_YEAR, Fleet, Site, Sku, capital_recovery
from analytics.planning.request import DAYS_A_YEAR, Request
from collector.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """
    cost: SKUs by sites by periods, all of a server installed in the period up to the end of the plan; capex: of SKUs.

    `basis` says in words what is in it.
    """

    cost: Floats
    capex: Floats
    currency: str
    basis: str


def planned_w(sku: Sku, request: Request) -> float:
    """
    What a server is planned to draw.

    Raises: ConfigError.
    """
    server = sku.server
    watts = None if server is None else server.nameplate_w if request.nameplate else server_w(server)
    if watts is None:
        raise ConfigError(f"sku {sku.name}", f"has no server.{'nameplate_w' if request.nameplate else 'peak_w'}")
    return watts


def prices(
    fleet: Fleet, skus: Sequence[Sku], sites: Sequence[Site], request: Request, pue: Mapping[str, float]
) -> Prices:
    """
    The prices of a plan.

    Raises: ConfigError naming what nobody told: a currency, a price, a PUE, what a server costs.
    """
    if request.currency is None:
        raise ConfigError("currency", "is missing, and a plan is made by cost")
    yearly = np.zeros((len(skus), len(sites)))
    capex = np.zeros(len(skus))
    for row, sku in enumerate(skus):
        capex[row] = capital(sku) * request.rate(_told(sku.currency, sku, "currency"), f"sku {sku.name}")
        for column, site in enumerate(sites):
            yearly[row, column] = _yearly(sku, site, request, {**pue, **fleet.pue}.get(site.name))
    years = request.period_days / DAYS_A_YEAR
    worth = years * (1.0 + request.discount_ratio) ** (-years * np.arange(request.periods))
    # Of a server installed in a period: what that one and all after it are worth.
    left = np.cumsum(worth[::-1])[::-1]
    parts = ["capex (CRF)", "opex", "energy"]
    parts += ["demand charges"] if any(site.demand_per_kw for site in sites) else []
    parts += ["carbon"] if any(site.carbon_price_per_t for site in sites) else []
    return Prices(
        cost=yearly[:, :, None] * left[None, None, :], capex=capex, currency=request.currency,
        basis=f"{' + '.join(parts)}, fleet.toml, {request.discount_ratio:.1%} a year",
    )  # fmt: skip


def _told(value: str | None, sku: Sku, key: str) -> str:
    if value is None:
        raise ConfigError(f"sku {sku.name}", f"has no {key}, and a plan is made by cost")
    return value


def capital(sku: Sku) -> float:
    """
    What a server costs to buy, in the currency of its SKU.

    Raises: ConfigError.
    """
    if sku.server is not None and sku.server.capex is not None:
        return sku.server.capex
    if sku.capex is None:
        raise ConfigError(f"sku {sku.name}", "has no capex, and a plan is made by cost")
    return sku.capex * (sku.server.accelerators if sku.server is not None else 1)


def _yearly(sku: Sku, site: Site, request: Request, pue: float | None) -> float:
    """What a server costs in a year at a site, in the plan's currency."""
    price = mean_price(site)
    if price is None:
        raise ConfigError(f"site {site.name}", "has no price_per_kwh for each hour, and a plan is made by cost")
    if pue is None:
        raise ConfigError(f"site {site.name}", "has no pue, neither told nor measured, and a plan is made by cost")
    if site.carbon_price_per_t is not None and site.carbon_g_per_kwh is None:
        raise ConfigError(f"site {site.name}", "has a carbon_price_per_t and no carbon_g_per_kwh")
    assert sku.server is not None
    assert sku.discount_ratio is not None
    assert sku.life_years is not None
    assert site.currency is not None
    assert sku.currency is not None
    planned = planned_w(sku, request)
    kwh = (sku.server.mean_w or planned) * pue * HOURS_A_YEAR / 1000.0
    carbon = (site.carbon_price_per_t or 0.0) * (site.carbon_g_per_kwh or 0.0) / 1e6
    demand = 12.0 * (site.demand_per_kw or 0.0) * planned * pue / 1000.0
    at_site = (kwh * (price + carbon) + demand) * request.rate(site.currency, f"site {site.name}")
    opex = (sku.opex_per_h or 0.0) * sku.server.accelerators * HOURS_A_YEAR
    yearly = capital(sku) * capital_recovery(sku.discount_ratio, sku.life_years)
    return at_site + (yearly + opex) * request.rate(sku.currency, f"sku {sku.name}")


@lru_cache(maxsize=1000)
def mean_price(site: Site) -> float | None:
    """The mean of a site's tariff over the hours of a year; None where an hour has no price."""
    first = datetime(2027, 1, 1, tzinfo=UTC)
    told = [site.price_at(first + timedelta(hours=hour))[0] for hour in range(round(HOURS_A_YEAR))]
    known = [price for price in told if price is not None]
    return sum(known) / len(told) if len(known) == len(told) else None
