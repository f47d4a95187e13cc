"""The commands efficiency, waste and funnel, from a store and a fleet.toml to rows."""

import json
import os
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
price_per_kwh = 0.2

[[sku]]
name = "big"
model = ["X"]
flop_per_s = 1e15
capex = 8760
currency = "EUR"
discount_ratio = 0
life_years = 1
"""
BOARDS = {
    # power, utilisation, SM activity
    "GPU-0": (400.0, 0.95, 0.8),
    "GPU-1": (200.0, 0.9, 0.2),
    "GPU-2": (100.0, 0.0, 0.0),
    "GPU-3": (100.0, 0.0, 0.0),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An hour of four boards: one works, one is underused, one waits, one is nobody's; a fifth was lost on the way."""
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    root = tmp_path / "store"
    made = Store.create(root)
    times = [T0 + s * S for s in range(0, 3601, 10)]
    of = {name: values for name, values in BOARDS.items() for _ in times}
    names = [name for name in BOARDS for _ in times]
    made.write(
        "device_samples",
        {
            "device": names,
            "time": times * len(BOARDS),
            "source": ["test"] * len(names),
            "host": ["node-1"] * len(names),
            "power_w": [of[name][0] for name in names],
            "utilization_ratio": [of[name][1] for name in names],
            "activity_sm_ratio": [of[name][2] for name in names],
        },
    )
    boards = [*BOARDS, "GPU-4"]
    made.write(
        "devices",
        {
            "device": boards,
            "time": [T0] * len(boards),
            "source": ["test"] * len(boards),
            "host": ["node-1"] * len(boards),
            "vendor": ["nvidia"] * len(boards),
            "model": ["X"] * len(boards),
        },
    )
    made.write(
        "allocations",
        {
            "workload": ["w", "w", "v"],
            "device": ["GPU-0", "GPU-1", "GPU-2"],
            "start": [T0 - 90 * 86_400 * S] * 3,
            "time": [T0] * 3,
            "source": ["test"] * 3,
            "user": ["ada", "ada", "bob"],
            "team": ["ml", "ml", "web"],
        },
    )
    made.write(
        "workload_samples",
        {
            "workload": ["w"] * len(times),
            "time": times,
            "source": ["vllm"] * len(times),
            "model": ["llama"] * len(times),
            "framework": ["vllm"] * len(times),
            "tokens_out": [100.0 * s for s in range(0, 3601, 10)],
            "work_flop": [1e14 * s for s in range(0, 3601, 10)],
            "latency_p99_s": [2.5] * len(times),
        },
    )
    made.write(
        "events",
        {
            "host": ["node-1"],
            "kind": ["device_gone"],
            "time": [T0 + 1800 * S],
            "device": ["GPU-4"],
            "source": ["test"],
            "severity": ["critical"],
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


def test_waste_is_by_cause_with_money_the_dearest_first_and_what_to_do(store: Path) -> None:
    found = rows(run("waste", "--store", store, "-o", "json"))
    assert [(row["cause"], row["reason"]) for row in found] == [
        ("underused", None), ("idle", None), ("unallocated", None), ("failed", "lost"), ("useful", None),
    ]  # fmt: skip
    assert [row["device_h"] for row in found] == pytest.approx([1.0, 1.0, 1.0, 0.5, 1.0])
    assert [row["cost"] for row in found] == pytest.approx([1.04, 1.02, 1.02, 0.5, 1.08])
    assert sum(row["energy_j"] or 0.0 for row in found) == pytest.approx(800 * 3600.0)
    assert found[1]["advice"].startswith("1.0 device-hours (22.2 %) held without a kernel running: end jobs")


def test_waste_per_team_and_type_adds_up(store: Path) -> None:
    found = {
        (row["team"], row["cause"]): row for row in rows(run("waste", "--store", store, "--per", "team", "-o", "json"))
    }
    assert set(found) == {
        ("ml", "underused"), ("web", "idle"), (None, "unallocated"), (None, "failed"), ("ml", "useful"),
    }  # fmt: skip
    assert found["ml", "underused"]["time_ratio"] == pytest.approx(0.5)
    of_type = rows(run("waste", "--store", store, "--per", "sku", "-o", "json"))
    assert {row["sku"] for row in of_type} == {"big"}


def test_the_bar_of_effective_use_is_the_users(store: Path) -> None:
    found = rows(run("waste", "--store", store, "--effective", 0.1, "-o", "json"))
    assert "underused" not in {row["cause"] for row in found}
    assert run("waste", "--store", store, "--effective", 2).exit_code == 2


def test_the_funnel_counts_devices_watts_and_money_down_to_the_effective(store: Path) -> None:
    found = rows(run("funnel", "--store", store, "-o", "json"))
    assert [row["step"] for row in found] == ["total", "allocated", "active", "effective"]
    assert [row["devices"] for row in found] == pytest.approx([4.5, 3.0, 2.0, 1.0])
    assert [row["power_mean_w"] for row in found] == pytest.approx([800.0, 700.0, 600.0, 400.0])
    assert [row["lost_cost"] for row in found] == [None, *(pytest.approx(n) for n in (1.52, 1.02, 1.04))]
    assert [row["currency"] for row in found] == ["EUR"] * 4


def test_a_window_counts_from_its_own_start(store: Path) -> None:
    found = rows(
        run("funnel", "--store", store, "--since", "2026-01-01T00:30", "--until", "2026-01-01T00:45", "-o", "json")
    )
    # The lost device counts all along, though its event is at the edge; its readings are none.
    assert [row["devices"] for row in found] == pytest.approx([5.0, 3.0, 2.0, 1.0], rel=0.02)


def test_without_a_fleet_file_there_is_no_money_and_it_says_so(store: Path) -> None:
    (store / "fleet.toml").unlink()
    result = run("waste", "--store", store, "-o", "json")
    assert "cost" not in rows(result)[0]
    assert "prices, PUE and sites are not known" in result.stderr


def test_an_empty_window_is_no_error(store: Path) -> None:
    for command in ("waste", "funnel"):
        result = run(command, "--store", store, "--since", "2027-01-01", "-o", "json")
        assert rows(result) == []
        assert "nothing found" in result.stderr


def test_a_check_watches_a_step(store: Path) -> None:
    assert run("funnel", "--store", store, "--check", "ratio<0.5").exit_code == 4
    assert run("funnel", "--store", store, "--check", "ratio<0.01").exit_code == 0


def test_efficiency_of_a_workload_has_its_share_of_the_peak(store: Path) -> None:
    found = {row["workload"]: row for row in rows(run("efficiency", "--store", store, "-o", "json"))}
    assert found["w"]["joules_per_token"] == pytest.approx(6.0)
    assert found["w"]["mfu_ratio"] == pytest.approx(0.05)
    assert (found["w"]["latency_p99_s"], found["w"]["wall_j"]) == (2.5, None)
    assert found["v"]["joules_per_token"] is None


@pytest.mark.parametrize("per", ["sku", "driver_version", "framework", "team", "site", "model"])
def test_efficiency_is_a_league_of_what_is_alike(store: Path, per: str) -> None:
    found = rows(run("efficiency", "--store", store, "--per", per, "-o", "json"))
    ranked = [row for row in found if row["rank"]]
    if per == "driver_version":  # nobody told of drivers
        assert [row["unranked"] for row in found] == ["no driver_version is known"] * 2
        return
    (row,) = ranked
    assert (row["joules_per_token"], row["rank"], row["model"]) == (pytest.approx(6.0), 1, "llama")
    assert row["joules_per_token_low"] < 6.0 < row["joules_per_token_high"]
    assert all(row["unranked"] for row in found if row not in ranked)


def test_the_least_work_for_a_rank_is_the_users_choice(store: Path) -> None:
    (row,) = [
        row
        for row in rows(run("efficiency", "--store", store, "--per", "sku", "--least", 1e6, "-o", "json"))
        if row["model"] == "llama"
    ]
    assert (row["rank"], row["unranked"]) == (None, "360000 tokens; 1,000,000 are needed")


def test_a_pareto_front_is_of_workloads_or_of_a_league(store: Path) -> None:
    found = rows(run("efficiency", "--store", store, "--pareto", "p99", "-o", "json"))
    assert {row["workload"]: row["front"] for row in found} == {"w": True, "v": None}
    of_type = rows(run("efficiency", "--store", store, "--per", "sku", "--pareto", "throughput", "-o", "json"))
    assert [row["front"] for row in of_type] == [True, None]


def test_what_is_no_league_is_refused_with_the_reason(store: Path) -> None:
    result = run("efficiency", "--store", store, "--per", "sku", "--by", "5m")
    assert (result.exit_code, "--by" in result.stderr) == (2, True)
    result = run("efficiency", "--store", store, "--per", "device", "--pareto", "throughput")
    assert (result.exit_code, "no tokens of its own" in result.stderr) == (2, True)
    assert run("efficiency", "--store", store, "--per", "colour").exit_code == 2
    for option in (("--within", "model"), ("--measure", "step"), ("--least", "5")):
        for per in ("workload", "device", "fleet"):
            result = run("efficiency", "--store", store, "--per", per, *option)
            assert (result.exit_code, f"{option[0]}: is of a league" in result.stderr) == (2, True)


def test_leagues_may_rank_across_models(store: Path) -> None:
    found = rows(run("efficiency", "--store", store, "--per", "team", "--within", "none", "-o", "json"))
    assert [(row["team"], row["rank"]) for row in found] == [("ml", 1), ("web", None)]
    assert "model" not in found[0]


def test_pue_tells_what_is_drawn_beyond_the_devices_where_it_was_measured(store: Path) -> None:
    (unmeasured,) = rows(run("pue", "--store", store, "-o", "json"))
    assert (unmeasured["site"], unmeasured["itue"], unmeasured["pue"]) == ("dub", None, None)
    times = [T0 + s * S for s in range(0, 3601, 10)]
    Store(store).write(
        "host_samples",
        {
            "host": ["node-1"] * len(times),
            "time": times,
            "source": ["bmc"] * len(times),
            "platform_power_w": [1200.0] * len(times),
        },
    )
    Store(store).write(
        "facility_samples",
        {
            "meter": ["main"] * len(times),
            "time": times,
            "source": ["meter"] * len(times),
            "site": ["dub"] * len(times),
            "meter_power_w": [1800.0] * len(times),
            "it_power_w": [1200.0] * len(times),
            "carbon_intensity_g_per_kwh": [300.0] * len(times),
        },
    )
    (site,) = rows(run("pue", "--store", store, "-o", "json"))
    assert (site["itue"], site["pue"], site["tue"]) == pytest.approx((1.5, 1.5, 2.25))
    assert site["cue_location_kg_per_kwh"] == pytest.approx(0.45)
    assert (site["pue_basis"], site["joules_per_token_facility"]) == ("meters", pytest.approx(8.0 * 2.25))
    (host,) = rows(run("pue", "--store", store, "--per", "host", "-o", "json"))
    assert (host["host"], host["tue"]) == ("node-1", pytest.approx(2.25))
    workload = {row["workload"]: row for row in rows(run("efficiency", "--store", store, "-o", "json"))}["w"]
    assert workload["tokens_per_wall_joule"] == pytest.approx(1 / (6.0 * 1.5))


def test_phases_say_why_there_is_no_split(store: Path) -> None:
    (row,) = rows(run("efficiency", "--store", store, "--phases", "-o", "json"))
    assert (row["workload"], row["basis"]) == ("w", None)
    assert row["reason"] == "prompt and generated tokens were not both counted"
    assert run("efficiency", "--store", store, "--phases", "--per", "sku").exit_code == 2


def test_a_partition_in_use_and_one_idle_are_told_apart(store: Path) -> None:
    times = [T0 + s * S for s in range(0, 3601, 10)]
    parts = ("MIG-a", "MIG-b")
    Store(store).write(
        "devices",
        {
            "device": list(parts),
            "time": [T0] * 2,
            "source": ["test"] * 2,
            "host": ["node-1"] * 2,
            "parent": ["GPU-3"] * 2,
            "partition": ["3g.40gb"] * 2,
        },
    )
    Store(store).write(
        "device_samples",
        {
            "device": [part for part in parts for _ in times],
            "time": times * 2,
            "source": ["mig"] * 2 * len(times),
            "host": ["node-1"] * 2 * len(times),
            "power_w": [100.0] * 2 * len(times),
            "activity_sm_ratio": [0.9] * len(times) + [0.0] * len(times),
            "utilization_ratio": [0.9] * len(times) + [0.0] * len(times),
        },
    )
    Store(store).write(
        "allocations",
        {"workload": ["x", "y"], "device": list(parts), "start": [T0] * 2, "time": [T0] * 2, "source": ["test"] * 2},
    )
    found = {
        row["workload"]: row
        for row in rows(run("waste", "--store", store, "--per", "workload", "-o", "json"))
        if row["workload"] in {"x", "y"}
    }
    assert {name: row["cause"] for name, row in found.items()} == {"x": "useful", "y": "idle"}
    assert [row["energy_j"] for row in found.values()] == pytest.approx([100 * 3600 * 3 / 7] * 2)
