"""
What energy costs and emits: tariffs by time of use, demand charges, grid carbon, and the price of tokens.

Prices, tariffs and capital costs are those of fleet.toml (`analytics.fleet`). What nobody told is not known: no cost is
ever computed from a price of 0 that was not written down.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from analytics.attribution import sensor
from analytics.energy import window_start
from analytics.fleet import HOURS_A_YEAR, Fleet, capital_recovery
from analytics.intervals import BOUNDS, bounds, total
from analytics.inventory import device_types
from collector.catalogue import CARBON_INTENSITY, PRICE

COST: Final = ("energy_cost", "energy_cost_low", "energy_cost_high")
ENDS: Final = ("", "_low", "_high")
PRICED_S: Final = 900.0
"""Energy is priced in windows of a quarter-hour: tariffs change, and demand is billed, by quarter-hours."""
DEMAND_MONTHS: Final = 11
"""How far back a ratchet looks."""

_J_PER_KWH: Final = 3.6e6


def cost_per_hour(
    *,
    capex: float,
    discount_ratio: float,
    life_years: float,
    power_wall_w: float,
    pue: float,
    price_per_kwh: float,
    opex_per_h: float = 0.0,
) -> float:
    """
    The cost of an hour of a device: capital paid back, energy with that of the facility, and running costs.

    >>> round(cost_per_hour(capex=30000, discount_ratio=0.1, life_years=5, power_wall_w=1000, pue=1.25,
    ...                     price_per_kwh=0.12, opex_per_h=0.1), 4)
    1.1534
    """
    capital = capex * capital_recovery(discount_ratio, life_years) / HOURS_A_YEAR
    return capital + power_wall_w * pue * price_per_kwh / 1000.0 + opex_per_h


def cost_per_million_tokens(cost_per_h: float, *, tokens_per_s: float, utilization_ratio: float) -> float | None:
    """
    The cost of a million tokens, at the share of time in which they flow; null where none do. Show the share beside it.

    >>> round(cost_per_million_tokens(3.6, tokens_per_s=1000.0, utilization_ratio=0.5), 3)
    2.0
    """
    flowing = tokens_per_s * utilization_ratio
    return 1e6 * cost_per_h / (3600.0 * flowing) if flowing > 0 else None


# ------------------------------------------------------------------------------------------------------------ rates


def rates(fleet: Fleet, windows: Sequence[datetime], facility_samples: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """
    Price and carbon of each site in each quarter-hour.

    In:  windows: starts of quarter-hours, UTC without a zone; *facility_samples*: site, time, price_per_kwh,
         carbon_intensity_g_per_kwh: measured or published series, which go before what fleet.toml says where they
         have a reading in the window, or had one in the hour before.
    Out: site, window, currency, price_per_kwh, price_basis (``series``, ``tariff:peak``, ``flat``), carbon_g_per_kwh,
         carbon_basis (``series``, ``fleet.toml``), carbon_market_g_per_kwh; null where nobody said.
    """
    rows = []
    for site in fleet.sites:
        for window in windows:
            price, basis = site.price_at(window.replace(tzinfo=UTC))
            rows.append((site.name, window, site.currency, price, basis, site.carbon_g_per_kwh,
                         site.carbon_market_g_per_kwh))  # fmt: skip
    told = pl.LazyFrame(
        rows,
        orient="row",
        schema={
            "site": pl.String, "window": pl.Datetime("ns"), "currency": pl.String, "price_per_kwh": pl.Float64,
            "price_basis": pl.String, "carbon_g_per_kwh": pl.Float64, "carbon_market_g_per_kwh": pl.Float64,
        },
    )  # fmt: skip
    told = told.with_columns(carbon_basis=pl.when(pl.col("carbon_g_per_kwh").is_not_null()).then(pl.lit("fleet.toml")))
    if facility_samples is None:
        return told
    for metric, column, basis in (
        (PRICE, "price_per_kwh", "price_basis"), (CARBON_INTENSITY, "carbon_g_per_kwh", "carbon_basis"),
    ):  # fmt: skip
        series = (
            facility_samples.filter(pl.col(metric.column).is_not_null() & pl.col("site").is_not_null())
            .group_by("site", window=window_start("time", PRICED_S))
            .agg(read=pl.col(metric.column).mean())
            .sort("window")
        )
        told = (
            told.sort("window")
            .join_asof(series, on="window", by="site", strategy="backward", tolerance="45m", check_sortedness=False)
            .with_columns(
                pl.coalesce("read", column).alias(column),
                pl.when(pl.col("read").is_not_null()).then(pl.lit("series")).otherwise(basis).alias(basis),
            )
            .drop("read")
        )
    # A price without a currency is a number, not money.
    money = pl.col("currency").is_not_null()
    return told.with_columns(pl.when(money).then(pl.col(name)).alias(name) for name in ("price_per_kwh", "price_basis"))


def cost(lines: pl.LazyFrame, prices: pl.LazyFrame, *, keys: Sequence[str]) -> pl.LazyFrame:
    """
    What lines of energy cost and emit.

    In:  lines: *keys*, site, device, host, window (quarter-hours), span_s, covered_s, energy_j and its interval; prices
         as `rates` gives them.
    Out: *keys*, currency, since, until, span_s, covered_s, covered_ratio, energy_j, energy_low_j, energy_high_j,
         energy_kwh, energy_cost, energy_cost_low, energy_cost_high (as sure as the energy; prices are taken as they
         are), price_per_kwh (the mean paid), price_basis (all that were used), priced_ratio (of the energy), and
         carbon_location_kg, carbon_market_kg, carbon_basis.

    A sum of which a part has no price (or no carbon intensity) has none: it would read as if it were the whole.
    """
    kwh = pl.col("energy_j") / _J_PER_KWH
    paid, off = _paid()
    told = lines.join(prices, on=["site", "window"], how="left").with_columns(
        *bounds(paid, off, COST[1:]),
        energy_kwh=kwh,
        energy_cost=paid,
        location=kwh * pl.col("carbon_g_per_kwh") / 1000.0,
        market=kwh * pl.col("carbon_market_g_per_kwh") / 1000.0,
    )
    told, groups = told.collect().lazy(), [*keys, "currency"]
    board = sensor(told)
    energy_ends = total(told, groups, board=board).drop("energy_j")
    cost_ends = total(told, groups, board=board, columns=COST).drop("energy_cost")

    def whole(name: str) -> pl.Expr:
        covered = pl.col("energy_j").is_not_null()
        complete = pl.col(name).is_not_null().filter(covered).all() & covered.any()
        return pl.when(complete).then(pl.col(name).sum())

    def bases(name: str) -> pl.Expr:
        return pl.col(name).filter(pl.col("energy_j").is_not_null()).drop_nulls().unique().sort().str.join("+")

    priced = pl.col("energy_kwh").filter(pl.col("energy_cost").is_not_null()).abs().sum()
    length = pl.duration(seconds=PRICED_S)
    return (
        told.group_by(groups)
        .agg(
            pl.col("span_s", "covered_s").sum(),
            since=pl.col("window").min(),
            until=pl.col("window").max() + length,
            energy_j=pl.when(pl.col("energy_j").count() > 0).then(pl.col("energy_j").sum()),
            energy_kwh=pl.when(pl.col("energy_kwh").count() > 0).then(pl.col("energy_kwh").sum()),
            energy_cost=whole("energy_cost"),
            price_basis=bases("price_basis"),
            priced_ratio=pl.when(pl.col("energy_kwh").abs().sum() > 0).then(priced / pl.col("energy_kwh").abs().sum()),
            carbon_location_kg=whole("location"),
            carbon_market_kg=whole("market"),
            carbon_basis=bases("carbon_basis"),
        )
        .join(energy_ends, on=groups, nulls_equal=True)
        .join(cost_ends, on=groups, nulls_equal=True)
        .select(
            *keys, "currency", "since", "until", "span_s", "covered_s",
            covered_ratio=pl.when(pl.col("span_s") > 0).then(pl.col("covered_s") / pl.col("span_s")),
            **{name: pl.col(name) for name in ("energy_j", *BOUNDS, "energy_kwh", "energy_cost")},
            # Where a part has no price, neither the sum nor its ends are money.
            **{name: pl.when(pl.col("energy_cost").is_not_null()).then(name) for name in COST[1:]},
            price_per_kwh=pl.when(pl.col("energy_kwh") > 0).then(pl.col("energy_cost") / pl.col("energy_kwh")),
            price_basis=_known("price_basis"), priced_ratio="priced_ratio",
            carbon_location_kg="carbon_location_kg", carbon_market_kg="carbon_market_kg",
            carbon_basis=_known("carbon_basis"),
        )
        .sort(*keys, "currency", nulls_last=True)
    )  # fmt: skip


def _paid() -> tuple[pl.Expr, pl.Expr]:
    """What a line's energy costs, and half the interval of that."""
    price = pl.col("price_per_kwh") / _J_PER_KWH
    return pl.col("energy_j") * price, (pl.col("energy_high_j") - pl.col("energy_j")) * price.abs()


def _known(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(name)


def demand(power: pl.LazyFrame, fleet: Fleet) -> pl.LazyFrame:
    """
    Demand charges: each month's highest mean of 15 minutes, or what a ratchet keeps of earlier months' where more.

    In:  power: site, window (quarter-hours), power_mean_w (of the site, facility included), covered_ratio.
    Out: site, month (local, ``2026-03``), currency, peak_w, peak_window, billed_w, demand_per_kw, demand_cost,
         windows (quarter-hours seen), covered_ratio (of the month, by quarter-hours and coverage). Sites without
         demand_per_kw have no row. Of a month that is not covered whole, the charge is the least that it can be.
    """
    rows: list[tuple[Any, ...]] = []
    frame = power.filter(pl.col("power_mean_w").is_not_null()).sort("window").collect()
    for site in fleet.sites:
        if site.demand_per_kw is None:
            continue
        months: dict[tuple[int, int], list[tuple[float, datetime, float]]] = {}
        seen = frame.filter(pl.col("site") == site.name).select("power_mean_w", "window", "covered_ratio")
        for watts, window, covered in seen.iter_rows():
            local = window.replace(tzinfo=UTC).astimezone(site.zone)
            months.setdefault((local.year, local.month), []).append((watts, window, covered or 0.0))
        peaks = {month: max(readings, key=lambda one: one[0]) for month, readings in months.items()}
        for (year, month), (peak_w, at, _) in peaks.items():
            number = year * 12 + month
            before = [p[0] for (y, m), p in peaks.items() if 0 < number - (y * 12 + m) <= DEMAND_MONTHS]
            billed_w = max(peak_w, site.demand_ratchet_ratio * max(before, default=0.0))
            covered_s = sum(one[2] for one in months[year, month]) * PRICED_S
            begin = datetime(year, month, 1, tzinfo=site.zone).astimezone(UTC)
            end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=site.zone).astimezone(UTC)
            rows.append((
                site.name, f"{year}-{month:02}", site.currency, peak_w, at, billed_w, site.demand_per_kw,
                billed_w / 1000.0 * site.demand_per_kw, len(months[year, month]),
                min(1.0, covered_s / (end - begin).total_seconds()),
            ))  # fmt: skip
    return pl.LazyFrame(
        rows,
        orient="row",
        schema={
            "site": pl.String, "month": pl.String, "currency": pl.String, "peak_w": pl.Float64,
            "peak_window": pl.Datetime("ns"), "billed_w": pl.Float64, "demand_per_kw": pl.Float64,
            "demand_cost": pl.Float64, "windows": pl.Int64, "covered_ratio": pl.Float64,
        },
    ).sort("site", "month")  # fmt: skip


def demand_lines(charges: pl.LazyFrame, *, per: str) -> pl.LazyFrame:
    """
    Demand charges as rows like those of `cost`: kind ``demand``, of sites and the fleet; nobody's of anybody else.

    In:  charges as `demand` gives them. Out: *per*, kind, currency, since, until, covered_ratio, energy_cost,
         price_basis.
    """
    begin = (pl.col("month") + "-01").str.to_datetime("%Y-%m-%d", time_unit="ns")
    whose = {"site": pl.col("site"), "fleet": pl.lit("fleet")}.get(per, pl.lit(None, pl.String))
    return (
        charges.with_columns(whose.alias(per), since=begin, until=begin.dt.offset_by("1mo"))
        .group_by(per, "currency")
        .agg(
            pl.col("since").min(), pl.col("until").max(), covered_ratio=pl.col("covered_ratio").mean(),
            energy_cost=pl.col("demand_cost").sum(),
        )
        .with_columns(kind=pl.lit("demand"), price_basis=pl.lit("demand"))
        .sort(per, "currency", nulls_last=True)
    )  # fmt: skip


def site_power(lines: pl.LazyFrame, *, least_ratio: float = 0.5) -> pl.LazyFrame:
    """
    The mean power of each site in each quarter-hour, for `demand`.

    In:  lines of energy of all kinds with site and window (quarter-hours).
    Out: site, window, power_mean_w, covered_ratio. Devices that were not read all the time count with their mean; where
         less than *least_ratio* of the device-seconds is covered there is no power: minutes are no quarter-hour.
    """
    device = pl.col("device").is_not_null()
    covered_s, count = pl.col("covered_s").filter(device).sum(), pl.col("device").drop_nulls().n_unique()
    return (
        lines.filter(pl.col("site").is_not_null())
        .group_by("site", "window")
        .agg(
            power_mean_w=pl.col("energy_j").sum() * count / covered_s,
            covered_ratio=pl.min_horizontal(pl.lit(1.0), covered_s / (count * PRICED_S)),
        )
        .filter(pl.col("covered_ratio") >= least_ratio)
        .sort("site", "window")
    )


def with_tokens(
    costs: pl.LazyFrame, fixed: pl.LazyFrame, told: pl.LazyFrame, counted: pl.LazyFrame, *, per: str
) -> pl.LazyFrame:
    """
    Costs with those of the devices and the price of tokens.

    In:  costs as `cost` gives them and fixed as `fixed_cost` does, by *per* and kind; told: `attribution` by *per*;
         counted: what those whose tokens were counted (`analytics.attribution.of_counted`) cost: *per*, currency,
         energy_cost with its ends, fixed_currency, fixed_cost, counted_tokens.
    Out: costs, and device_h, fixed_cost, total_cost (absent where one of both is not known), tokens, counted_ratio,
         active_ratio (of the time that devices were held, the share in which they were in use) and
         cost_per_million_tokens: what is known of used and idle (``cost_basis``: ``energy+devices`` or ``energy``) of
         whose tokens were counted over these tokens, and its ends, cost_per_million_tokens_low and
         cost_per_million_tokens_high.
    """
    keys = [per, "kind"]
    same = pl.col("currency") == pl.col("fixed_currency")
    rows = (
        costs.join(fixed.rename({"currency": "fixed_currency"}), on=keys, how="left", nulls_equal=True)
        .join(told.select(*keys, "tokens", "counted_ratio"), on=keys, how="left", nulls_equal=True)
        .with_columns(total_cost=pl.when(same).then(pl.col("energy_cost") + pl.col("fixed_cost")))
    )
    owned = rows.filter(pl.col("kind").is_in(["used", "idle"]))
    used_s = pl.col("span_s").filter(pl.col("kind") == "used").sum()
    owners = owned.group_by(per, "currency").agg(active_ratio=used_s / pl.col("span_s").sum())
    energy_cost = pl.col("energy_cost")
    group_total = pl.when(same).then(energy_cost + pl.col("fixed_cost"))
    group = counted.select(
        per, "currency", "counted_tokens", group_energy=energy_cost, group_total=group_total,
        **{f"group{end}": pl.col(f"energy_cost{end}") - energy_cost for end in ENDS[1:]},
    )  # fmt: skip
    owners = owners.join(group, on=[per, "currency"], how="left", nulls_equal=True)
    group_cost, amount = pl.coalesce("group_total", "group_energy"), pl.col("counted_tokens")
    million = {end: (group_cost + pl.col(f"group{end}") if end else group_cost) / amount * 1e6 for end in ENDS}
    basis = pl.when(pl.col("group_total").is_not_null()).then(pl.lit("energy+devices")).otherwise(pl.lit("energy"))
    priced = (amount > 0) & pl.col("tokens").is_not_null() & pl.col("group_energy").is_not_null()
    return (
        rows.join(owners, on=[per, "currency"], how="left", nulls_equal=True)
        .with_columns(
            **{f"cost_per_million_tokens{end}": pl.when(priced).then(value) for end, value in million.items()},
            cost_basis=pl.when(priced).then(basis),
        )
        .drop("fixed_currency", "group_energy", "group_total", "group_low", "group_high", "counted_tokens")
        .sort(*keys, "currency", nulls_last=True)
    )


def fixed_cost(lines: pl.LazyFrame, devices: pl.LazyFrame, fleet: Fleet, *, keys: Sequence[str]) -> pl.LazyFrame:
    """
    What device-hours cost besides energy: capital paid back and running costs.

    In:  lines of `analytics.attribution.attribute` with *keys*; devices: device, model, time.
    Out: *keys*, currency, device_h, fixed_cost; null where the model of one of the devices has no costs in fleet.toml,
         or where they are in several currencies.
    """
    types = device_types(devices, fleet).select("device", "sku_currency", "fixed_per_h")
    told = lines.filter(pl.col("device").is_not_null()).join(types, on="device", how="left")
    hours, per_h = pl.col("span_s") / 3600.0, pl.col("fixed_per_h")
    one = per_h.is_not_null().all() & (pl.col("sku_currency").n_unique() == 1)
    return (
        told.group_by(keys)
        .agg(
            currency=pl.when(one).then(pl.col("sku_currency").first()),
            device_h=hours.sum(),
            fixed_cost=pl.when(one).then((hours * per_h).sum()),
        )
        .sort(*keys, nulls_last=True)
    )


def priced(lines: pl.LazyFrame, prices: pl.LazyFrame, devices: pl.LazyFrame, fleet: Fleet) -> pl.LazyFrame:
    """
    Lines with what each costs, one by one, for whoever sums them by something else.

    In:  lines: device, site, window (quarter-hours), span_s, energy_j and its interval; prices as `rates` gives them;
         devices: device, model, time.
    Out: the lines and currency, energy_cost, energy_cost_low, energy_cost_high (null where there is no price, or no
         energy), fixed_cost (of the device's time: capital and running costs; null where its type has none, or has them
         in another currency).
    """
    window = ["site", "window"]
    paid, off = _paid()
    types = device_types(devices, fleet).select("device", "sku_currency", "fixed_per_h")
    return (
        lines.join(prices.select(*window, "currency", "price_per_kwh"), on=window, how="left")
        .join(types, on="device", how="left")
        .with_columns(currency=pl.coalesce("currency", "sku_currency"))
        .with_columns(
            *bounds(paid, off, COST[1:]),
            energy_cost=paid,
            fixed_cost=pl.when(pl.col("sku_currency") == pl.col("currency")).then(
                pl.col("span_s") / 3600.0 * pl.col("fixed_per_h")
            ),
        )
        .drop("price_per_kwh", "sku_currency", "fixed_per_h")
    )


def carbon_usage(carbon_kg: pl.Expr, it_kwh: pl.Expr) -> pl.Expr:
    """CUE: kilograms of CO2e over kWh into IT equipment; null without either."""
    return pl.when(it_kwh > 0).then(carbon_kg / it_kwh)
