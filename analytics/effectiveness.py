"""
How much more is drawn, and emitted, than what reaches the accelerators: ITUE, PUE, TUE, CUE.

* PUE: energy of the facility over energy into IT equipment (ISO/IEC 30134-2).
* ITUE: energy into IT equipment over energy into its compute components; TUE = ITUE x PUE (Patterson et al. 2013,
  doi 10.1007/978-3-642-38750-0_28). The components are the accelerators: what a machine draws beyond them, its CPUs
  included, counts as overhead.
* CUE: kilograms of CO2e over kWh into IT equipment (ISO/IEC 30134-8), of the grid and of what was bought.

Each ratio is over the time in which both sides were measured, and absent where one never was.
"""

from collections.abc import Mapping
from typing import Literal

import polars as pl

from analytics.intervals import bounds

Per = Literal["site", "host", "fleet"]

_G_PER_KG = 1000.0


def effectiveness(
    energies: pl.LazyFrame,
    machines: pl.LazyFrame,
    prices: pl.LazyFrame,
    *,
    hosts: Mapping[str, str],
    pue: Mapping[str, tuple[float, str]],
    tokens: pl.LazyFrame | None = None,
    per: Per = "site",
) -> pl.LazyFrame:
    """
    ITUE, PUE, TUE and CUE of each site, host, or the fleet, and joules per token at each level.

    In:  energies: device, host, window (quarter-hours), energy_j, as `analytics.energy.energy` gives it; machines:
         host, whole_j, parts_j, whole_error_j, parts_error_j, as `analytics.measures.wall_ratios` does; prices: site,
         window, carbon_g_per_kwh, carbon_market_g_per_kwh, as `analytics.cost.rates` does; *hosts*: each host's site;
         *pue*: each site's, and who says so; *tokens*: device, tokens.
    Out: *per*, hosts, devices, energy_j (of the devices), itue, itue_low and itue_high (as sure as the sensors of
         machines and devices, which are off independently), itue_ratio (of the devices' energy, how much stands
         behind the ITUE), pue, pue_basis (``meters``, ``fleet.toml``), tue, tue_low and tue_high (the PUE is taken as
         it is told), cue_location_kg_per_kwh,
         cue_market_kg_per_kwh, tokens, joules_per_token, joules_per_token_wall (of whole machines),
         joules_per_token_facility.

    Of several sites together PUE and CUE are weighted by the energy of their devices, and absent if one has none.
    """
    site = pl.col("host").replace_strict(dict(hosts), default=None, return_dtype=pl.String)
    group = {"site": site, "host": pl.col("host"), "fleet": pl.lit("fleet")}[per].alias(per)
    factors = pl.LazyFrame(
        [(name, value, basis) for name, (value, basis) in pue.items()],
        orient="row",
        schema={"site": pl.String, "pue": pl.Float64, "pue_basis": pl.String},
    )
    told = (
        energies.with_columns(site=site)
        .with_columns(group)
        .join(prices.select("site", "window", "carbon_g_per_kwh", "carbon_market_g_per_kwh"), on=["site", "window"],
              how="left")
        .join(factors, on="site", how="left")
    )  # fmt: skip
    joules, known = pl.col("energy_j"), pl.col("energy_j").is_not_null()

    def weighted(value: pl.Expr) -> pl.Expr:
        """The mean over the joules; null if it is not known of one of them."""
        whole = value.is_not_null().filter(known).all() & (joules.sum() > 0)
        return pl.when(whole).then((value * joules).sum() / joules.sum())

    sums = told.group_by(per).agg(
        hosts=pl.col("host").drop_nulls().n_unique(),
        devices=pl.col("device").n_unique(),
        energy_j=pl.when(joules.count() > 0).then(joules.sum()),
        pue=weighted(pl.col("pue")),
        pue_basis=pl.col("pue_basis").drop_nulls().unique().sort().str.join("+"),
        **{
            f"cue_{name}_kg_per_kwh": weighted(pl.col(column) * pl.col("pue")) / _G_PER_KG
            for name, column in (("location", "carbon_g_per_kwh"), ("market", "carbon_market_g_per_kwh"))
        },
    )
    walls = machines.with_columns(group).group_by(per).agg(
        itue=pl.col("whole_j").sum() / pl.col("parts_j").sum(), parts_j=pl.col("parts_j").sum(),
        off=pl.sum_horizontal(
            (pl.col(f"{side}_error_j") ** 2).sum() / pl.col(f"{side}_j").sum() ** 2 for side in ("whole", "parts")
        ).sqrt(),
    )  # fmt: skip
    counted = pl.LazyFrame(schema={per: pl.String(), "tokens": pl.Float64()})
    if tokens is not None:
        of_device = told.select("device", per).unique("device")
        count = pl.col("tokens")
        counted = of_device.join(tokens, on="device").group_by(per).agg(pl.when(count.count() > 0).then(count.sum()))
    itue, tue = pl.col("itue"), pl.col("itue") * pl.col("pue")
    ends = bounds(itue, itue * pl.col("off"))
    per_token = pl.when(pl.col("tokens") > 0).then(joules / pl.col("tokens"))
    return (
        sums.join(walls, on=per, how="left", nulls_equal=True)
        .join(counted, on=per, how="left", nulls_equal=True)
        .select(
            per, "hosts", "devices", "energy_j", "itue", *bounds(itue, itue * pl.col("off"), ("itue_low", "itue_high")),
            itue_ratio=pl.when(joules > 0).then(pl.min_horizontal(pl.lit(1.0), pl.col("parts_j") / joules)),
            pue="pue",
            pue_basis=pl.when(pl.col("pue").is_not_null()).then("pue_basis"),
            tue=tue, tue_low=ends[0] * pl.col("pue"), tue_high=ends[1] * pl.col("pue"),
            cue_location_kg_per_kwh="cue_location_kg_per_kwh",
            cue_market_kg_per_kwh="cue_market_kg_per_kwh",
            tokens="tokens",
            joules_per_token=per_token,
            joules_per_token_wall=per_token * itue,
            joules_per_token_facility=per_token * tue,
        )
        .sort(per, nulls_last=True)
    )  # fmt: skip
