"""The commands attribution, cost and focus, from a store and a fleet.toml to rows."""

import csv
import io
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from collector.store import Store

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000
FLEET = """
[[site]]
name = "dub"
hosts = ["node-*"]
currency = "EUR"
pue = 1.5
price_per_kwh = 0.2
carbon_g_per_kwh = 300

[[sku]]
model = "X"
capex = 8760
currency = "EUR"
discount_ratio = 0
life_years = 1
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An hour of three boards at 400, 200 and 100 W in a machine of 1 kW: one works, one waits, one is nobody's."""
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    root = tmp_path / "store"
    made = Store.create(root)
    times = [T0 + s * S for s in range(0, 3601, 10)]
    boards = (("GPU-0", 400.0, 0.9), ("GPU-1", 200.0, 0.0), ("GPU-2", 100.0, 0.0))
    made.write(
        "device_samples",
        {
            "device": [name for name, _, _ in boards for _ in times],
            "time": times * 3,
            "source": ["test"] * 3 * len(times),
            "host": ["node-1"] * 3 * len(times),
            "power_w": [power for _, power, _ in boards for _ in times],
            "utilization_ratio": [busy for _, _, busy in boards for _ in times],
        },
    )
    made.write(
        "devices",
        {
            "device": [name for name, _, _ in boards],
            "time": [T0] * 3,
            "source": ["test"] * 3,
            "host": ["node-1"] * 3,
            "vendor": ["nvidia"] * 3,
            "model": ["X"] * 3,
        },
    )
    made.write(
        "host_samples",
        {
            "host": ["node-1"] * len(times),
            "time": times,
            "source": ["bmc"] * len(times),
            "platform_power_w": [1000.0] * len(times),
        },
    )
    made.write(
        "workload_samples",
        {
            "workload": ["w"] * len(times),
            "time": times,
            "source": ["test"] * len(times),
            "model": ["llama"] * len(times),
            "tokens_out": [1000.0 * s for s in range(0, 3601, 10)],
        },
    )
    made.write(
        "allocations",
        {
            "workload": ["w", "w"],
            "device": ["GPU-0", "GPU-1"],
            "start": [T0, T0],
            "time": [T0, T0],
            "source": ["test"] * 2,
            "user": ["ada"] * 2,
            "team": ["ml"] * 2,
        },
    )
    (root / "fleet.toml").write_text(FLEET, encoding="utf-8")
    return root


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


def test_attribution_adds_up_to_the_site_with_idle_energy_in_the_open(store: Path) -> None:
    result = run("attribution", "--store", store, "--per", "team", "-o", "json")
    found = {(row["team"], row["kind"]): row["energy_j"] / 3.6e6 for row in rows(result)}
    assert found == pytest.approx(
        {
            ("ml", "used"): 0.4,
            ("ml", "idle"): 0.2,
            (None, "unallocated"): 0.1,
            (None, "host"): 0.3,
            (None, "facility"): 0.5,
        }
    )
    assert "PUE of dub: 1.5 (fleet.toml)" in result.stderr


def test_a_rack_with_meters_is_a_level_of_its_own_in_every_command(store: Path) -> None:
    rack = '\n[[rack]]\nname = "r1"\nsite = "dub"\nhosts = ["node-*"]\nmeters = ["a", "b"]\n'
    (store / "fleet.toml").write_text(FLEET.replace('hosts = ["node-*"]\n', "") + rack, encoding="utf-8")
    times = [T0 + s * S for s in range(0, 3601, 10)]
    told = {"meter": ["a"] * len(times) + ["b"] * len(times), "time": times * 2, "source": ["pdu"] * 2 * len(times)}
    Store(store).write("facility_samples", told | {"meter_power_w": [600.0] * 2 * len(times)})
    found = {row["kind"]: row for row in rows(run("attribution", "--store", store, "--per", "site", "-o", "json"))}
    assert found["rack"]["energy_j"] / 3.6e6 == pytest.approx(0.2)
    assert found["facility"]["energy_j"] / 3.6e6 == pytest.approx(0.5 * 1.2)
    assert {row["site"] for row in found.values()} == {"dub"}
    priced = {row["kind"]: row for row in rows(run("cost", "--store", store, "--per", "site", "-o", "json"))}
    assert priced["rack"]["energy_cost"] == pytest.approx(0.2 * 0.2)
    bill = rows(run("focus", "--provider", "x", "--store", store, "-o", "json"))
    assert sum(float(row["BilledCost"]) for row in bill if row["x_Kind"] == "rack") == pytest.approx(0.04)


@pytest.mark.parametrize(("per", "whose"), [("site", "dub"), ("fleet", "fleet"), ("team", None)])
def test_a_demand_charge_is_a_row_and_cost_sums_to_the_bill(store: Path, per: str, whose: str | None) -> None:
    (store / "fleet.toml").write_text(FLEET.replace("pue = 1.5", "pue = 1.5\ndemand_per_kw = 10"), encoding="utf-8")
    found = rows(run("cost", "--store", store, "--per", per, "-o", "json"))
    (charge,) = (row for row in found if row["kind"] == "demand")
    assert (charge[per], charge["energy_cost"], charge["price_basis"]) == (whose, pytest.approx(15.0), "demand")
    bill = rows(run("focus", "--provider", "x", "--store", store, "-o", "json"))
    assert sum(row["energy_cost"] or 0.0 for row in found) == pytest.approx(
        sum(float(row["BilledCost"]) for row in bill)
    )


def test_cost_prices_energy_devices_and_tokens(store: Path) -> None:
    found = {
        (row["user"], row["kind"]): row for row in rows(run("cost", "--store", store, "--per", "user", "-o", "json"))
    }
    used = found["ada", "used"]
    assert used["energy_cost"] == pytest.approx(0.4 * 0.2)
    assert used["fixed_cost"] == pytest.approx(1.0)
    assert (used["currency"], used["price_basis"]) == ("EUR", "flat")
    assert used["carbon_location_kg"] == pytest.approx(0.4 * 0.3)
    assert used["cost_per_million_tokens"] == pytest.approx((0.6 * 0.2 + 2.0) / 3.6)
    assert (used["active_ratio"], used["cost_basis"]) == (pytest.approx(0.5), "energy+devices")
    assert found[None, "facility"]["energy_cost"] == pytest.approx(0.5 * 0.2)


def test_without_a_fleet_file_costs_are_absent_and_it_says_so(store: Path) -> None:
    (store / "fleet.toml").unlink()
    result = run("cost", "--store", store, "-o", "json")
    assert {row["energy_cost"] for row in rows(result)} == {None}
    assert "prices, PUE and sites are not known" in result.stderr
    refused = run("focus", "--store", store, "--provider", "us")
    assert refused.exit_code == 2
    assert "energy without a price" in refused.stderr


def test_a_wrong_fleet_file_is_an_error_of_configuration(store: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[[site]]\nname = "x"\ncolour = "red"\n', encoding="utf-8")
    result = run("cost", "--store", store, "--fleet", wrong)
    assert result.exit_code == 2
    assert f"{wrong}: site[0].colour: is not a key" in result.stderr
    assert run("cost", "--store", store, "--fleet", tmp_path / "none.toml").exit_code == 2


def test_focus_reconciles_to_the_bill_to_the_cent(store: Path) -> None:
    result = run("focus", "--store", store, "--provider", "us")
    assert result.exit_code == 0, result.output
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {row["x_Kind"] for row in found} == {"used", "idle", "unallocated", "host", "facility"}
    assert sum(Decimal(row["BilledCost"]) for row in found) == Decimal("0.3")
    assert found[0]["ChargePeriodStart"] == "2026-01-01T00:00:00Z"
    assert found[0]["BillingPeriodEnd"] == "2026-02-01T00:00:00Z"
