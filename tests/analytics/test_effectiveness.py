"""ITUE, PUE, TUE and CUE are ratios of what was measured, and absent where one side is not."""

from datetime import datetime
from typing import Any

import polars as pl
import pytest

from analytics.effectiveness import effectiveness

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
HOSTS = {"h1": "dub", "h2": "dub", "h3": "phx"}
PUE = {"dub": (1.25, "fleet.toml"), "phx": (1.5, "meters")}


def energies(**kwh: float | None) -> pl.LazyFrame:
    """One device on each host."""
    rows = [
        {"device": f"d-{host}", "host": host, "window": START, "energy_j": None if value is None else value * 3.6e6}
        for host, value in kwh.items()
    ]
    return pl.LazyFrame(rows, schema={"device": pl.String, "host": pl.String, "window": NS, "energy_j": pl.Float64})


def machines(**ratios: float) -> pl.LazyFrame:
    whole_j, parts_j = [3.6e6 * ratio for ratio in ratios.values()], [3.6e6] * len(ratios)
    off = {"whole_error_j": [0.05 * value for value in whole_j], "parts_error_j": [0.02 * value for value in parts_j]}
    frame = pl.DataFrame({"host": list(ratios), "whole_j": whole_j, "parts_j": parts_j, **off})
    return frame.cast({"host": pl.String, pl.selectors.exclude("host"): pl.Float64}).lazy()


def carbon(**grams: tuple[float | None, float | None]) -> pl.LazyFrame:
    return pl.LazyFrame(
        {
            "site": list(grams),
            "window": [START] * len(grams),
            "carbon_g_per_kwh": [one for one, _ in grams.values()],
            "carbon_market_g_per_kwh": [other for _, other in grams.values()],
        },
        schema={"site": pl.String, "window": NS, "carbon_g_per_kwh": pl.Float64, "carbon_market_g_per_kwh": pl.Float64},
    )


TOKENS = pl.LazyFrame({"device": ["d-h1", "d-h2"], "tokens": [3.6e6, None]})


def found(per: Any = "site", **more: Any) -> dict[Any, dict[str, Any]]:
    told = effectiveness(
        more.pop("energies", energies(h1=1.0, h2=3.0, h3=2.0)),
        more.pop("machines", machines(h1=1.2, h2=1.4, h3=1.3)),
        more.pop("prices", carbon(dub=(400.0, 0.0), phx=(500.0, None))),
        hosts=HOSTS, pue=more.pop("pue", PUE), tokens=TOKENS, per=per,
    )  # fmt: skip
    return {row[per]: row for row in told.collect().to_dicts()}


def test_itue_and_tue_are_as_sure_as_the_sensors_of_machines_and_devices() -> None:
    one = found(machines=machines(h1=1.2))["dub"]
    half = 1.2 * (0.05**2 + 0.02**2) ** 0.5
    assert (one["itue_low"], one["itue_high"]) == pytest.approx((1.2 - half, 1.2 + half))
    assert (one["tue_low"], one["tue_high"]) == pytest.approx((1.25 * (1.2 - half), 1.25 * (1.2 + half)))
    many = found(machines=machines(h1=1.2, h2=1.2))["dub"]
    # Two machines and their devices are off independently.
    assert many["itue_high"] - many["itue"] == pytest.approx(half / 2**0.5)


def test_a_sites_ratios_are_those_of_its_machines_and_meters() -> None:
    dub = found()["dub"]
    assert (dub["itue"], dub["pue"], dub["tue"]) == pytest.approx((1.3, 1.25, 1.3 * 1.25))
    assert (dub["cue_location_kg_per_kwh"], dub["cue_market_kg_per_kwh"]) == pytest.approx((0.5, 0.0))
    assert (dub["hosts"], dub["devices"], dub["pue_basis"]) == (2, 2, "fleet.toml")
    assert dub["joules_per_token"] == pytest.approx(4.0)
    assert dub["joules_per_token_wall"] == pytest.approx(4.0 * 1.3)
    assert dub["joules_per_token_facility"] == pytest.approx(4.0 * 1.3 * 1.25)
    assert found()["phx"]["cue_market_kg_per_kwh"] is None


def test_a_host_has_its_own_machine_and_its_sites_facility() -> None:
    h1 = found("host")["h1"]
    assert (h1["itue"], h1["pue"], h1["tue"]) == pytest.approx((1.2, 1.25, 1.5))
    assert h1["joules_per_token_wall"] == pytest.approx(1.2)


def test_the_fleet_is_weighted_by_energy_and_absent_where_a_site_is_not_known() -> None:
    fleet = found("fleet")["fleet"]
    assert fleet["pue"] == pytest.approx((4 * 1.25 + 2 * 1.5) / 6)
    assert fleet["pue_basis"] == "fleet.toml+meters"
    assert fleet["cue_location_kg_per_kwh"] == pytest.approx((4 * 1.25 * 0.4 + 2 * 1.5 * 0.5) / 6)
    assert found("fleet", pue={"dub": (1.25, "meters")})["fleet"]["pue"] is None
    assert found("fleet", pue={"dub": (1.25, "meters")})["fleet"]["pue_basis"] is None


def test_what_was_not_measured_is_absent_and_how_much_stands_behind_a_ratio_is_told() -> None:
    dub = found(machines=machines(h1=1.2))["dub"]
    assert (dub["itue"], dub["itue_ratio"]) == pytest.approx((1.2, 0.25))
    none = found(machines=machines())["dub"]
    assert (none["itue"], none["tue"], none["joules_per_token_wall"], none["pue"]) == (None, None, None, 1.25)
    gap = found(energies=energies(h1=None, h2=None, h3=2.0))["dub"]
    assert (gap["energy_j"], gap["pue"], gap["joules_per_token"]) == (None, None, None)
