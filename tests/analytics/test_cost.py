"""Money and carbon of energy; what nobody priced has no cost."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analytics.cost import (
    capital_recovery,
    carbon_usage,
    cost,
    cost_per_hour,
    cost_per_million_tokens,
    demand,
    fixed_cost,
    rates,
    site_power,
    with_tokens,
)
from analytics.fleet_toml import parse_fleet
from analytics.intervals import bounds

START = datetime(2026, 3, 2)  # a Monday
NS = pl.Datetime("ns")
DUBLIN = """
[[site]]
name = "dublin"
hosts = ["dub-*", "extra"]
currency = "EUR"
price_per_kwh = 0.10
carbon_g_per_kwh = 300
carbon_market_g_per_kwh = 0
demand_per_kw = 10
[[site.tariff]]
name = "peak"
price_per_kwh = 0.30
days = ["mon", "tue", "wed", "thu", "fri"]
hours = "08:00-20:00"
"""


def windows(count: int, start: datetime = START) -> list[datetime]:
    return [start + timedelta(minutes=15 * n) for n in range(count)]


def lines(*kwh: float | None, site: str = "dublin", start: datetime = START) -> pl.LazyFrame:
    rows = [
        {"team": "t", "site": site, "device": "d", "host": "h", "window": w, "span_s": 900.0,
         "covered_s": 900.0 if e is not None else 0.0, "energy_j": None if e is None else e * 3.6e6}
        for w, e in zip(windows(len(kwh), start), kwh, strict=True)
    ]  # fmt: skip
    told = pl.LazyFrame(rows, schema_overrides={"window": NS, "energy_j": pl.Float64})
    return told.with_columns(bounds(pl.col("energy_j"), 0.05 * pl.col("energy_j")))


def priced(text: str, told: pl.LazyFrame, facility: pl.LazyFrame | None = None) -> dict[str, Any]:
    seen = told.select(pl.col("window").cast(pl.Datetime("us"))).collect()["window"].to_list()
    (row,) = cost(told, rates(parse_fleet(text), seen, facility), keys=["team"]).collect().to_dicts()
    return row


def test_the_capital_recovery_factor_is_that_of_the_books() -> None:
    assert capital_recovery(0.10, 5) == pytest.approx(0.2638, abs=5e-5)
    assert capital_recovery(0.0, 4) == 0.25
    with pytest.raises(ValueError, match="life_years 0"):
        capital_recovery(0.1, 0)


def test_an_hour_costs_capital_energy_at_the_wall_and_running_costs() -> None:
    hour = cost_per_hour(
        capex=30_000, discount_ratio=0.10, life_years=5, power_wall_w=1000, pue=1.25, price_per_kwh=0.12, opex_per_h=0.1
    )
    assert hour == pytest.approx(30_000 * 0.26379748 / 8760 + 0.15 + 0.1)


def test_tokens_cost_more_the_less_of_the_time_they_flow() -> None:
    assert cost_per_million_tokens(3.6, tokens_per_s=1000, utilization_ratio=1.0) == pytest.approx(1.0)
    assert cost_per_million_tokens(3.6, tokens_per_s=1000, utilization_ratio=0.3) == pytest.approx(1 / 0.3)
    assert cost_per_million_tokens(3.6, tokens_per_s=0, utilization_ratio=0.3) is None


def test_energy_is_priced_by_the_time_of_its_use() -> None:
    night, day = START + timedelta(hours=7, minutes=45), START + timedelta(hours=8)
    row = priced(DUBLIN, pl.concat([lines(10.0, start=night), lines(10.0, start=day)]))
    assert row["energy_cost"] == pytest.approx(10 * 0.10 + 10 * 0.30)
    assert row["price_per_kwh"] == pytest.approx(0.20)
    assert (row["energy_cost_low"], row["energy_cost_high"]) == (pytest.approx(3.8), pytest.approx(4.2))
    assert (row["price_basis"], row["priced_ratio"], row["currency"]) == ("flat+tariff:peak", 1.0, "EUR")
    assert (row["since"], row["until"]) == (night, day + timedelta(minutes=15))
    assert (row["carbon_location_kg"], row["carbon_market_kg"]) == (pytest.approx(6.0), 0.0)


def test_a_tariff_follows_the_sites_own_clock_through_summer_time() -> None:
    (site,) = parse_fleet(DUBLIN.replace('currency = "EUR"', 'currency = "EUR"\ntime_zone = "Europe/Dublin"')).sites
    assert site.price_at(datetime(2026, 3, 2, 7, 30, tzinfo=UTC)) == (0.10, "flat")
    assert site.price_at(datetime(2026, 6, 1, 7, 30, tzinfo=UTC)) == (0.30, "tariff:peak")


def test_hours_over_midnight_belong_to_the_day_that_began_them() -> None:
    night = DUBLIN.replace('"08:00-20:00"', '"22:00-06:00"').replace('["mon", "tue", "wed", "thu", "fri"]', '["fri"]')
    (site,) = parse_fleet(night).sites
    prices = [
        site.price_at(datetime(2026, 3, day, hour, tzinfo=UTC))[0] for day, hour in ((6, 21), (6, 23), (7, 5), (7, 23))
    ]
    assert prices == [0.10, 0.30, 0.30, 0.10]


def test_without_a_price_there_is_no_cost_rather_than_none() -> None:
    row = priced('[[site]]\nname = "dublin"\npue = 1.2\n', lines(10.0))
    assert (row["energy_cost"], row["price_basis"], row["priced_ratio"]) == (None, None, 0.0)
    assert (row["carbon_location_kg"], row["carbon_market_kg"]) == (None, None)
    assert row["energy_kwh"] == pytest.approx(10.0)


def test_a_sum_of_which_a_part_has_no_price_has_none_and_says_how_much() -> None:
    only_peak = DUBLIN.replace("price_per_kwh = 0.10\n", "")
    night, day = START + timedelta(hours=7, minutes=45), START + timedelta(hours=8)
    row = priced(only_peak, pl.concat([lines(30.0, start=night), lines(10.0, start=day)]))
    assert (row["energy_cost"], row["priced_ratio"]) == (None, pytest.approx(0.25))
    assert (row["energy_cost_low"], row["energy_cost_high"]) == (None, None)


def test_energy_that_is_not_covered_has_no_cost_and_its_price_is_not_missed() -> None:
    assert priced(DUBLIN, lines(None))["energy_cost"] is None
    assert priced(DUBLIN, lines(10.0, None))["energy_cost"] == pytest.approx(1.0)


def test_a_series_of_prices_goes_before_the_file_and_may_be_negative() -> None:
    facility = pl.LazyFrame(
        {"site": ["dublin"], "time": [START], "price_per_kwh": [-0.05], "carbon_intensity_g_per_kwh": [100.0]},
        schema_overrides={"time": NS},
    )
    row = priced(DUBLIN, lines(10.0, 10.0), facility)
    assert (row["energy_cost"], row["price_basis"]) == (pytest.approx(-1.0), "series")
    assert (row["energy_cost_low"], row["energy_cost_high"]) == (pytest.approx(-1.05), pytest.approx(-0.95))
    assert (row["carbon_location_kg"], row["carbon_basis"]) == (pytest.approx(2.0), "series")
    later = priced(DUBLIN, lines(10.0, start=START + timedelta(hours=2)), facility)
    assert (later["energy_cost"], later["price_basis"]) == (pytest.approx(1.0), "flat")


def test_two_currencies_are_never_one_sum() -> None:
    text = DUBLIN + '[[site]]\nname = "oregon"\ncurrency = "USD"\nprice_per_kwh = 0.06\n'
    told = pl.concat([lines(10.0), lines(10.0, site="oregon")])
    found = cost(told, rates(parse_fleet(text), windows(1)), keys=["team"]).collect()
    assert found["currency"].to_list() == ["EUR", "USD"]
    assert found["energy_cost"].to_list() == pytest.approx([1.0, 0.6])


def power(*watts: float, start: datetime = START) -> pl.LazyFrame:
    return pl.LazyFrame(
        {"site": "dublin", "window": windows(len(watts), start), "power_mean_w": list(watts), "covered_ratio": 1.0},
        schema_overrides={"window": NS},
    )


def test_demand_is_the_months_highest_quarter_hour() -> None:
    (row,) = demand(power(1000.0, 50_000.0, 2000.0), parse_fleet(DUBLIN)).collect().to_dicts()
    assert (row["month"], row["peak_w"], row["demand_cost"], row["currency"]) == ("2026-03", 50_000.0, 500.0, "EUR")
    assert row["peak_window"] == windows(2)[1]
    assert row["covered_ratio"] == pytest.approx(3 / (31 * 96))


def test_a_ratchet_bills_what_it_keeps_of_earlier_months() -> None:
    fleet = parse_fleet(DUBLIN.replace("demand_per_kw = 10", "demand_per_kw = 10\ndemand_ratchet_ratio = 0.8"))
    told = pl.concat(
        [power(50_000.0), power(10_000.0, start=datetime(2026, 4, 1)), power(1.0, start=datetime(2027, 3, 1))]
    )
    assert demand(told, fleet).collect()["billed_w"].to_list() == pytest.approx([50_000.0, 40_000.0, 8_000.0])


def test_a_site_that_bills_no_demand_has_no_row() -> None:
    assert demand(power(1.0), parse_fleet(DUBLIN.replace("demand_per_kw = 10\n", ""))).collect().is_empty()


def test_device_hours_cost_what_their_sku_does_and_nothing_is_guessed() -> None:
    sku = '[[sku]]\nmodel = "H100"\ncapex = 8760\ncurrency = "EUR"\ndiscount_ratio = 0\nlife_years = 1\n'
    sku += "opex_per_h = 0.5\n"
    devices = pl.LazyFrame({"device": ["a", "b"], "model": ["H100", "other"], "time": [START, START]})
    told = pl.LazyFrame({"team": ["t", "t", "u"], "device": ["a", None, "b"], "span_s": [7200.0, 100.0, 3600.0]})
    found = fixed_cost(told, devices, parse_fleet(sku), keys=["team"]).collect().to_dicts()
    assert found[0] == {"team": "t", "currency": "EUR", "device_h": 2.0, "fixed_cost": pytest.approx(3.0)}
    assert (found[1]["fixed_cost"], found[1]["currency"]) == (None, None)
    patterns = parse_fleet(sku.replace('model = "H100"', 'name = "H100"\nmodel = ["h1*"]'))
    assert fixed_cost(told, devices, patterns, keys=["team"]).collect()["fixed_cost"].to_list() == [3.0, None]


def test_a_sites_power_counts_devices_with_gaps_at_their_mean_and_needs_half_a_quarter_hour() -> None:
    rows = [
        ("dublin", 0, "a", 900.0, 900_000.0),
        ("dublin", 0, "b", 450.0, 450_000.0),
        ("dublin", 0, None, 900.0, 270_000.0),
        ("dublin", 1, "a", 90.0, 900_000.0),
    ]
    told = pl.LazyFrame(
        [(site, windows(2)[n], device, covered, joules) for site, n, device, covered, joules in rows],
        orient="row", schema={"site": pl.String, "window": NS, "device": pl.String, "covered_s": pl.Float64,
                              "energy_j": pl.Float64},
    )  # fmt: skip
    (row,) = site_power(told).collect().to_dicts()
    assert (row["power_mean_w"], row["covered_ratio"]) == (pytest.approx(2400.0), pytest.approx(0.75))


def test_tokens_cost_what_their_group_does_idle_time_included_and_say_of_what() -> None:
    costs = pl.LazyFrame(
        {"team": ["t", "t", None], "kind": ["used", "idle", "unallocated"], "currency": ["EUR"] * 3,
         "span_s": [2700.0, 900.0, 10.0], "energy_cost": [3.0, 1.0, 7.0], "energy_cost_low": [2.7, 0.9, 6.3],
         "energy_cost_high": [3.3, 1.1, 7.7]}
    )  # fmt: skip
    fixed = pl.LazyFrame(
        {"team": ["t", "t", None], "kind": ["used", "idle", "unallocated"], "currency": ["EUR", "EUR", None],
         "device_h": [0.75, 0.25, 0.1], "fixed_cost": [6.0, 2.0, None]}
    )  # fmt: skip
    told = pl.LazyFrame({"team": ["t"], "kind": ["used"], "tokens": [2.5e6], "counted_ratio": [0.9]})
    counted = pl.LazyFrame(
        {"team": ["t"], "currency": ["EUR"], "energy_cost": [4.0], "energy_cost_low": [3.6], "energy_cost_high": [4.4],
         "fixed_currency": ["EUR"], "fixed_cost": [8.0], "counted_tokens": [2e6]}
    )  # fmt: skip
    used = with_tokens(costs, fixed, told, counted, per="team").collect().filter(pl.col("kind") == "used").to_dicts()[0]
    assert (used["cost_per_million_tokens"], used["cost_basis"]) == (pytest.approx(6.0), "energy+devices")
    assert (used["cost_per_million_tokens_low"], used["cost_per_million_tokens_high"]) == pytest.approx((5.8, 6.2))
    assert (used["active_ratio"], used["total_cost"]) == (pytest.approx(0.75), pytest.approx(9.0))
    unknown = fixed.with_columns(currency=pl.lit(None, pl.String), fixed_cost=pl.lit(None, pl.Float64))
    energy = counted.with_columns(fixed_currency=pl.lit(None, pl.String), fixed_cost=pl.lit(None, pl.Float64))
    used = (
        with_tokens(costs, unknown, told, energy, per="team").collect().filter(pl.col("kind") == "used").to_dicts()[0]
    )
    assert (used["cost_per_million_tokens"], used["cost_basis"]) == (pytest.approx(2.0), "energy")
    assert used["total_cost"] is None
    unpriced = counted.with_columns(energy_cost=pl.lit(None, pl.Float64))
    assert with_tokens(costs, fixed, told, unpriced, per="team").collect()["cost_per_million_tokens"].null_count() == 3


def test_carbon_usage_is_kilograms_over_kilowatt_hours() -> None:
    frame = pl.DataFrame({"kg": [3.0, 3.0], "kwh": [10.0, 0.0]}).select(cue=carbon_usage(pl.col("kg"), pl.col("kwh")))
    assert frame["cue"].to_list() == [pytest.approx(0.3), None]
