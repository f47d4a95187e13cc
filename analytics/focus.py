"""
The cost of energy in the FinOps Open Cost and Usage Specification (FOCUS), version 1.2.

One row for each charge period and whoever caused the cost; energy that nobody used, of hosts and of the facility has
rows of its own. All rows of a currency sum to its total, to the last digit.
"""

from collections.abc import Mapping
from typing import Final

import polars as pl

from collector.errors import ConfigError

VERSION: Final = "1.2"
MANDATORY: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "ServiceCategory", "ServiceName",
)  # fmt: skip
"""The columns that every FOCUS 1.2 dataset has."""
CONDITIONAL: Final = (
    "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "PricingCategory", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ResourceType", "SubAccountId", "SubAccountName",
)  # fmt: skip
OWN: Final = (
    "x_Kind", "x_Workload", "x_User", "x_Team", "x_Model", "x_EnergyKwh", "x_DeviceHours", "x_CoveredRatio",
    "x_PriceBasis", "x_CarbonLocationKg", "x_CarbonMarketKg",
)  # fmt: skip
COLUMNS: Final = (*MANDATORY, *CONDITIONAL, *OWN)
KEYS: Final = ("site", "period", "kind", "workload", "name", "user", "team", "model")
"""What charges are kept apart by."""

_DESCRIPTION: Final[Mapping[str, str]] = {
    "used": "Energy of accelerators at work",
    "idle": "Energy of accelerators that were allocated and idle",
    "unallocated": "Energy of accelerators that nobody had",
    "host": "Energy of hosts beyond their accelerators",
    "rack": "Energy of racks beyond their hosts",
    "facility": "Energy of the facility beyond its hosts (PUE)",
    "demand": "Demand charge for the month's highest quarter-hour",
}
_DIGITS: Final = 8


def focus(
    charges: pl.LazyFrame, *, provider: str, period: str = "1d", demand: pl.LazyFrame | None = None
) -> pl.DataFrame:
    """
    Charges as FOCUS rows.

    In:  charges: `KEYS` (period: its start; workload to model null where nobody's), currency, span_s, covered_ratio,
         energy_kwh, energy_cost, price_basis, carbon_location_kg, carbon_market_kg, as `analytics.cost.cost` gives them
         by `KEYS`; *period*: how long a charge period is, no longer than a day; *demand*: as
         `analytics.cost.demand` gives it, a row of its own for each site and month.
    Out: `COLUMNS`; costs are decimals with 8 digits. The rounded rows of a currency sum to its rounded total: each
         takes the difference of rounded running totals. Energy that was not covered has no row.

    Raises: ConfigError naming the site where energy has no price: a dataset that lacks a part would read as the whole.
    """
    told = charges.filter(pl.col("energy_kwh").is_not_null()).collect()
    unpriced = sorted(
        {row[0] or "unknown" for row in told.filter(pl.col("energy_cost").is_null()).select("site").rows()}
    )
    if unpriced:
        raise ConfigError(
            f"site {unpriced[0]!r}", "has energy without a price, and a part is no total; give price_per_kwh"
        )
    end = pl.col("period").dt.offset_by(period)
    rows = [
        told.lazy().with_columns(end=end, unit=pl.lit("kWh"), quantity=pl.col("energy_kwh"), cost=pl.col("energy_cost"))
    ]
    if demand is not None:
        rows.append(_demand_rows(demand))
    return (
        pl.concat(rows, how="diagonal")
        .sort("currency", "period", "site", "kind", "workload", "team", nulls_last=True)
        .with_columns(cost=_cascade(pl.col("cost")).over("currency"))
        .select(*_columns(provider))
        .collect()
    )


def _cascade(cost: pl.Expr) -> pl.Expr:
    """Rounded so that the sum of the rounded is the rounded sum."""
    units = (cost.cum_sum() * 10**_DIGITS).round().cast(pl.Int64)
    return units - units.shift(1, fill_value=0)


def _demand_rows(demand: pl.LazyFrame) -> pl.LazyFrame:
    begin = (pl.col("month") + "-01").str.to_datetime("%Y-%m-%d", time_unit="ns")
    return demand.select(
        "site", "currency", period=begin, end=begin.dt.offset_by("1mo"), kind=pl.lit("demand"),
        unit=pl.lit("kW"), quantity=pl.col("billed_w") / 1000.0, cost=pl.col("demand_cost"),
        covered_ratio="covered_ratio", price_basis=pl.lit("demand"),
    )  # fmt: skip


def _columns(provider: str) -> list[pl.Expr]:
    """`COLUMNS`, of `KEYS` and what `cost` found."""
    site, kind = pl.col("site").fill_null("unknown"), pl.col("kind")
    month = pl.col("period").dt.truncate("1mo")
    # Exact: a whole number of the smallest digit, as a decimal.
    money = pl.col("cost").cast(pl.Decimal(38, 0)).cast(pl.Decimal(38, _DIGITS)) / pl.lit(10**_DIGITS).cast(
        pl.Decimal(38, 0)
    )
    owner = pl.coalesce("team", "user", "workload")
    resource = pl.when(pl.col("workload").is_not_null()).then(pl.lit("Workload")).otherwise(pl.lit("Overhead"))
    named = {
        "BilledCost": money, "ContractedCost": money, "EffectiveCost": money, "ListCost": money,
        "BillingAccountId": site, "BillingAccountName": site, "BillingCurrency": pl.col("currency"),
        "BillingPeriodStart": month, "BillingPeriodEnd": month.dt.offset_by("1mo"),
        "ChargePeriodStart": pl.col("period"), "ChargePeriodEnd": pl.col("end"),
        "ChargeCategory": pl.lit("Usage"), "ChargeClass": pl.lit(None, pl.String),
        "ChargeDescription": kind.replace_strict(dict(_DESCRIPTION), return_dtype=pl.String),
        "ChargeFrequency": pl.lit("Usage-Based"), "PricingCategory": pl.lit("Standard"),
        "InvoiceIssuerName": pl.lit(provider), "ProviderName": pl.lit(provider), "PublisherName": pl.lit(provider),
        "PricingQuantity": pl.col("quantity"), "PricingUnit": pl.col("unit"),
        "ConsumedQuantity": pl.col("quantity"), "ConsumedUnit": pl.col("unit"),
        "ServiceCategory": pl.lit("AI and Machine Learning"), "ServiceName": pl.lit("Accelerator energy"),
        "RegionId": site, "RegionName": site,
        "ResourceId": pl.coalesce("workload", kind), "ResourceName": pl.coalesce("name", "workload", kind),
        "ResourceType": resource,
        "SubAccountId": owner, "SubAccountName": owner,
        "x_Kind": kind, "x_Workload": pl.col("workload"), "x_User": pl.col("user"), "x_Team": pl.col("team"),
        "x_Model": pl.col("model"), "x_EnergyKwh": pl.col("energy_kwh"), "x_DeviceHours": pl.col("span_s") / 3600.0,
        "x_CoveredRatio": pl.col("covered_ratio"), "x_PriceBasis": pl.col("price_basis"),
        "x_CarbonLocationKg": pl.col("carbon_location_kg"), "x_CarbonMarketKg": pl.col("carbon_market_kg"),
    }  # fmt: skip
    return [named[name].alias(name) for name in COLUMNS]
