"""The FOCUS export: every mandatory column, idle energy in the open, and a sum that is the total."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.attribution import attribute
from analytics.cost import cost, demand, rates
from analytics.fleet_toml import parse_fleet
from analytics.focus import COLUMNS, CONDITIONAL, KEYS, MANDATORY, focus
from collector.errors import ConfigError

DAY = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
FLEET = '[[site]]\nname = "dub"\nhosts = ["h"]\ncurrency = "EUR"\nprice_per_kwh = 0.123\ndemand_per_kw = 10\n'


def charges(*costs: float | None, currency: str = "EUR", kinds: tuple[str, ...] = ("used", "idle")) -> pl.LazyFrame:
    rows = [
        {"site": "dub", "period": DAY + timedelta(days=n // 3), "kind": kinds[n % len(kinds)], "workload": f"w{n}",
         "name": None, "user": "u", "team": "t", "model": "llama", "currency": currency, "span_s": 3600.0,
         "covered_ratio": 1.0, "energy_kwh": 1.0, "energy_cost": amount, "price_basis": "flat",
         "carbon_location_kg": 0.3, "carbon_market_kg": None}
        for n, amount in enumerate(costs)
    ]  # fmt: skip
    types = {"period": NS, "energy_cost": pl.Float64(), "name": pl.String(), "carbon_market_kg": pl.Float64()}
    return pl.LazyFrame(rows, schema_overrides=types)


def test_every_mandatory_column_of_focus_is_there_and_others_are_named_as_it_asks() -> None:
    found = focus(charges(1.0), provider="us")
    assert found.columns == list(COLUMNS)
    assert len(MANDATORY) == 21
    assert all(name in MANDATORY or name in CONDITIONAL or name.startswith("x_") for name in found.columns)
    nullable = {"ChargeClass"}
    for name in set(MANDATORY) - nullable:
        assert found[name].null_count() == 0, name


def test_periods_are_half_open_and_a_billing_period_is_a_month() -> None:
    (row,) = focus(charges(1.0), provider="us").to_dicts()
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == (DAY, DAY + timedelta(days=1))
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (DAY, datetime(2026, 4, 1))
    assert (row["ChargeCategory"], row["PricingUnit"], row["BillingCurrency"]) == ("Usage", "kWh", "EUR")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e6), min_size=1, max_size=60))
def test_the_rounded_rows_sum_to_the_rounded_total(costs: list[float]) -> None:
    found = focus(charges(*costs), provider="us")
    billed = sum(found["BilledCost"].to_list(), Decimal(0))
    assert abs(billed - Decimal(sum(costs))) < Decimal("0.005")
    assert round(billed, 2) == pytest.approx(Decimal(round(sum(costs), 2)), abs=Decimal("0.01"))
    assert found["BilledCost"].to_list() == found["EffectiveCost"].to_list()


def test_thousands_of_rows_of_a_fraction_of_a_cent_are_not_rounded_away() -> None:
    found = focus(charges(*[0.003] * 3000), provider="us")
    assert sum(found["BilledCost"].to_list(), Decimal(0)) == Decimal("9")


def test_currencies_reconcile_apart() -> None:
    found = focus(pl.concat([charges(1.0, 2.0), charges(0.5, currency="USD")]), provider="us")
    sums: dict[Any, Any] = dict(found.group_by("BillingCurrency").agg(pl.col("BilledCost").sum()).iter_rows())
    assert sums == {"EUR": Decimal(3), "USD": Decimal("0.5")}


def test_energy_without_a_price_is_refused_by_the_name_of_its_site() -> None:
    with pytest.raises(ConfigError, match="site 'dub': has energy without a price"):
        focus(charges(1.0, None), provider="us")


def test_from_samples_to_rows_idle_and_unallocated_energy_stand_apart_and_all_reconciles() -> None:
    rows = [
        {"device": d, "source": "s", "host": "h", "time": DAY + timedelta(seconds=s), "power_w": p,
         "utilization_ratio": u}
        for d, p, u in (("a", 700.0, 0.9), ("b", 120.0, 0.0), ("c", 90.0, 0.0))
        for s in range(0, 3601, 10)
    ]  # fmt: skip
    allocations = pl.LazyFrame(
        {"workload": ["x", "x"], "device": ["a", "b"], "start": [DAY] * 2, "end": [None] * 2, "time": [DAY] * 2,
         "user": ["u"] * 2, "team": ["t"] * 2},
        schema_overrides={"start": NS, "end": NS, "time": NS},
    )  # fmt: skip
    fleet = parse_fleet(FLEET)
    lines = attribute(pl.LazyFrame(rows, schema_overrides={"time": NS}), allocations, by="15m").with_columns(
        site=pl.lit("dub"), model=pl.lit(None, pl.String), period=pl.col("window").dt.truncate("1d")
    )
    windows = [DAY + timedelta(minutes=15 * n) for n in range(4)]
    charged = cost(lines, rates(fleet, windows), keys=KEYS)
    power = pl.LazyFrame({"site": "dub", "window": windows, "power_mean_w": 910.0, "covered_ratio": 1.0})
    found = focus(charged, provider="us", demand=demand(power, fleet))
    by_kind = dict(found.select("x_Kind", pl.col("BilledCost").cast(pl.Float64)).iter_rows())
    assert by_kind == pytest.approx(
        {"used": 0.7 * 0.123, "idle": 0.12 * 0.123, "unallocated": 0.09 * 0.123, "demand": 9.1}
    )
    assert round(sum(found["BilledCost"].to_list(), Decimal(0)), 2) == Decimal(str(round(0.91 * 0.123 + 9.1, 2)))
