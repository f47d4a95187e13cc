"""The commands capacity and fleet, from a store and a fleet.toml to rows."""

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import cli
from analytics.capacity.paths import paths as sample_paths
from analytics.commands_capacity import _reach
from analytics.frames import scan
from collector.store import Store

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
MINUTE = 60_000_000_000
DAYS = 3
FLEET = """
[[site]]
name = "dub"
lead_days = 30
[[domain]]
name = "a"
rating_w = 3000
[[domain]]
name = "b"
rating_w = 3000
[[rack]]
name = "r1"
feeds = ["a", "b"]
units = 42
units_used = 8
hosts = ["n1"]
[[rack]]
name = "r2"
feeds = ["a"]
units = 42
units_used = 8
hosts = ["n2"]
[[rack]]
name = "r3"
feeds = ["a", "b"]
hosts = ["n3"]
[[sku]]
name = "X"
model = "X"
tdp_w = 300
[sku.server]
accelerators = 2
rack_units = 4
peak_w = 900
nameplate_w = 1000
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three days of two machines whose platform draws 500 W by day and 400 W otherwise; of a third nothing is known."""
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    root = tmp_path / "store"
    made = Store.create(root)
    times = [T0 + minute * MINUTE for minute in range(DAYS * 1440)]
    watts = [500.0 if 480 <= minute % 1440 < 1100 else 400.0 for minute in range(DAYS * 1440)]
    made.write(
        "host_samples",
        {
            "host": [name for name in ("n1", "n2") for _ in times],
            "time": times * 2,
            "source": ["bmc"] * 2 * len(times),
            "platform_power_w": watts * 2,
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


def test_capacity_tells_the_worst_failure_of_every_node(store: Path) -> None:
    result = run("capacity", "--store", store, "--min-days", "2", "-o", "json")
    found = {row["node"]: row for row in rows(result)}
    a, b = found["a"], found["b"]
    assert (a["load_p50_w"], a["load_max_w"], a["safe_w"]) == (600.0, 750.0, 3000.0)
    assert (a["failure_load_w"], a["worst_failure"], a["unknown"]) == (1000.0, "b", 1)
    assert a["headroom_w"] is None  # nothing is known of n3
    assert (b["failure_load_w"], b["worst_failure"]) == (500.0, "a")
    assert found["r1"]["free_w"] == pytest.approx(2000.0)
    assert (found["r1"]["servers"], found["dub"]["servers"]) == (2, 2)
    assert "dub: runway: peaks of 3 days are known, 14 are needed: 11 more days" in result.stderr
    assert a["load_basis"] == "p99 of 4,320 minutes, 100 % measured"


def test_what_is_built_later_is_no_headroom_yet_and_takes_servers_then(store: Path, tmp_path: Path) -> None:
    later = priced(store).joinpath("fleet.toml").read_text(encoding="utf-8")
    for name in ("c", "d"):
        later += f'[[domain]]\nname = "{name}"\nsite = "dub"\nrating_w = 3000\navailable_from = 2027-01-15\n'
    later += '[[rack]]\nname = "r9"\nfeeds = ["c", "d"]\nunits = 42\n'
    (store / "fleet.toml").write_text(later, encoding="utf-8")
    found = {row["node"]: row for row in rows(run("capacity", "--store", store, "--min-days", "0", "-o", "json"))}
    assert not {"c", "d", "r9"} & set(found)
    assert found["dub"]["servers"] == 2
    ledger = rows(run("capacity", "--store", store, "--min-days", "0", "-o", "json", "--show", "ledger"))
    assert ledger[0]["power_w"] == 6000.0
    file = tmp_path / "plan.toml"
    file.write_text(PLAN.replace("[1, 1]", "[1, 3]"), encoding="utf-8")
    told = rows(run("plan", file, "--store", store, "--min-days", "0", "-o", "json"))
    assert {(row["rack"], row["period"]) for row in told if row["option"] == 1} >= {("r9", 1)}


def test_thin_data_is_refused_with_the_days_that_it_lacks(store: Path) -> None:
    result = run("capacity", "--store", store)
    assert result.exit_code == 1
    assert "dub: 3 days of its power are measured and 7 are needed: 4 more days" in result.stderr


def test_check_finds_what_has_too_little_left(store: Path) -> None:
    text = FLEET.replace('hosts = ["n3"]\n', "").replace("rating_w = 3000", "rating_w = 900", 1)
    (store / "fleet.toml").write_text(text, encoding="utf-8")
    result = run("capacity", "--store", store, "--min-days", "0", "--check", "headroom_w<0", "-o", "csv")
    assert result.exit_code == 4
    assert "headroom_w<0 holds for 1 row" in result.stderr


def test_cases_ledger_and_advice_are_answers_of_their_own(store: Path) -> None:
    base = ("capacity", "--store", store, "--min-days", "0", "-o", "json", "--show")
    cases = {row["case"]: row for row in rows(run(*base, "cases"))}
    assert (cases["a"]["dark_w"], cases["b"]["dark_w"]) == (500.0, 0.0)
    ledger = {row["cause"]: row["power_w"] for row in rows(run(*base, "ledger"))}
    assert sum(ledger.values()) == pytest.approx(2 * ledger["installed"])
    advice = {(row["kind"], row["name"]): row for row in rows(run(*base, "advice"))}
    cord = advice["cord", "r2"]
    assert cord["summary"] == "r2 (0.5 kW) hangs on a alone, where others here have two feeds"
    assert (cord["effect_mid"], cord["effect_unit"], cord["covered_ratio"], cord["state"]) == (500.0, "W", 1.0, "new")
    assert cord["query"].startswith("perfwatt capacity --show cases --since @1767225600 --until @")
    gaps = advice["measure", "dub"]
    assert gaps["summary"] == "dub: of 1 hosts (n3) neither power nor nameplate is known"


def test_an_overload_and_an_order_that_is_due_are_recommended(store: Path, tmp_path: Path) -> None:
    text = FLEET.replace('hosts = ["n3"]\n', "").replace("rating_w = 3000", "rating_w = 900", 1)
    (store / "fleet.toml").write_text(text, encoding="utf-8")
    days = [T0 + (DAYS + day) * 1440 * MINUTE for day in range(60)]
    told = {"node": "b", "path": 0, "time": days, "power_w": [1.0 + day for day in range(60)]}
    file = tmp_path / "paths.parquet"
    pl.DataFrame(told, schema_overrides={"time": pl.Datetime("ns")}).write_parquet(file)
    base = ("capacity", "--store", store, "--min-days", "0", "-o", "json", "--paths", file)
    nodes = {row["node"]: row for row in rows(run(*base))}
    assert (nodes["b"]["runway_p50"], nodes["b"]["binding"]) == ("2026-01-10T00:00:00Z", "power")
    assert nodes["b"]["order_by"] == "2025-12-11T00:00:00Z"
    found = {(row["kind"], row["name"]): row for row in rows(run(*base, "--show", "advice"))}
    assert found["move", "a"]["effect_mid"] == pytest.approx(100.0)
    assert "a carries 1.0 kW with b lost and may carry 0.9 kW: move 0.1 kW" in found["move", "a"]["summary"]
    # It may carry 3 kW, carries 500 W in the worst failure, and load grows sixtyfold.
    assert found["buy", "b"]["effect_mid"] == pytest.approx(500.0 * 60 - 3000.0)
    assert "27.0 kW are lacking by then in one path of ten" in found["buy", "b"]["summary"]
    assert "it was to be ordered by 2025-12-11, as the lead time is 30 days" in found["buy", "b"]["summary"]


@pytest.mark.parametrize(
    ("days", "lead_days", "said"),
    [
        (365, 30, "14 days, up to 2026-03-12 (4 times as far as was measured); no date means later than that"),
        (
            365,
            200,
            "later than that. More power takes 200 days: what runs out sooner than it comes may not be seen yet",
        ),
        (10, None, "runway by a straight line through 14 days, up to 2026-01-25; no date means later than that"),
    ],
)
def test_runway_says_how_far_it_looks_and_whether_that_is_far_enough(
    days: int, lead_days: float | None, said: str
) -> None:
    measured = [date(2026, 1, 2 + day) for day in range(14)]
    daily = pl.DataFrame({"node": "dub", "day": measured, "power_w": [100.0 + day for day in range(14)]})
    assert _reach(daily, sample_paths(daily, days=days, count=5), lead_days).endswith(said)


def test_wrong_asks_are_named(store: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.parquet"
    wrong.write_text("no", encoding="utf-8")
    for options, code, message in (
        (("--site", "x"), 2, "--site: is 'x'; there are dub"),
        (("--sku", "Y"), 2, "--sku: is 'Y', which no [[sku]] is called; there are X"),
        (("--sku", "H100-SXM"), 2, "of which no [sku.server] tells peak_w"),
        (("--horizon", "20y"), 2, "--horizon"),
        (("--paths", wrong), 1, "no sample paths"),
        (("--fleet", tmp_path / "none.toml"), 2, "cannot be read"),
    ):
        result = run("capacity", "--store", store, "--min-days", "0", *options)
        assert (result.exit_code, message in result.stderr) == (code, True), result.output
    (store / "fleet.toml").unlink()
    assert "is needed: there is no" in run("capacity", "--store", store).stderr


def test_fleet_show_draws_the_tree_with_its_load(store: Path) -> None:
    result = run("fleet", "show", "--store", store)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("dub")
    assert "├─ r1 + b" in result.stdout
    assert next(line for line in lines if "r2" in line).endswith("no limit known")
    assert "1.0 of      3.0 kW without b" in next(line for line in lines if line.startswith("├─ a"))


def test_fleet_check_accepts_what_is_right_and_names_what_is_not(store: Path) -> None:
    right = run("fleet", "check", store / "fleet.toml")
    assert (right.exit_code, right.stdout) == (0, "")
    assert "1 sites, 2 power domains, 3 racks, 1 device types" in right.stderr
    (store / "fleet.toml").write_text(FLEET.replace("units = 42", "units = 420"), encoding="utf-8")
    wrong = run("fleet", "check", store / "fleet.toml")
    assert wrong.exit_code == 2
    assert "rack[0].units: is 420, above the most of 100" in wrong.stderr


MONEY = """
currency = "EUR"
discount_ratio = 0.1
life_years = 5
"""
PLAN = """
start = 2027-01-01
periods = 2
currency = "EUR"
[[demand]]
name = "more"
sku = "X"
amount = [1, 1]
"""


def priced(store: Path) -> Path:
    """The fleet with prices, and without the machine of which nothing is known."""
    text = FLEET.replace('hosts = ["n3"]\n', "").replace(
        'name = "dub"', 'name = "dub"\npue = 1.2\ncurrency = "EUR"\nprice_per_kwh = 0.1'
    )
    text = text.replace("tdp_w = 300", f"tdp_w = 300{MONEY}").replace("peak_w = 900", "peak_w = 900\ncapex = 1000")
    (store / "fleet.toml").write_text(text, encoding="utf-8")
    return store


def test_fit_places_servers_proves_it_and_tells_the_next_best(store: Path) -> None:
    base = ("fit", "--store", priced(store), "--sku", "x", "--count", "2", "--min-days", "0", "--by", "2027-03-01")
    result = run(*base, "-o", "json")
    found = rows(result)
    assert sum(row["servers"] for row in found if row["option"] == 1) == 2
    assert {row["option"] for row in found} == {1, 2}
    assert found[0]["start"] == "2027-03-01T00:00:00Z"
    assert "safe in each of 8 failure cases of 1 sites, walked through one by one" in result.stderr
    proof = rows(run(*base, "--show", "proof", "-o", "json"))
    assert {row["case"] for row in proof} >= {"none", "a", "b", "r1: cord to a", "r2: cord to a"}
    assert min(row["margin_w"] for row in proof) == pytest.approx(200.0)
    limits = rows(run(*base, "--show", "binding", "-o", "json"))
    assert {row["constraint"] for row in limits} == {"power of a"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "--sku", "Y", "--count", "1"), "--sku: is 'Y'"),
        (("fit", "--sku", "X", "--count", "1", "--by", "soon"), "soon"),
        (("plan", "/none/plan.toml"), "/none/plan.toml"),
    ],
)
def test_what_was_asked_is_looked_at_before_the_data(store: Path, words: tuple[str, ...], said: str) -> None:
    result = run(*words, "--store", priced(store))  # which has three days, and seven are needed
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_what_does_not_fit_is_refused_with_the_constraints_in_conflict(store: Path) -> None:
    result = run("fit", "--store", priced(store), "--sku", "X", "--count", "3", "--min-days", "0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "in conflict are demand X; power of a. At most 2 of X" in result.stderr


def test_a_plan_is_kept_in_the_store_for_those_who_decide(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(PLAN, encoding="utf-8")
    found = rows(run("plan", file, "--store", priced(store), "--min-days", "0", "--keep", "-o", "json"))
    assert [(row["period"], row["servers"]) for row in found if row["option"] == 1] == [(0, 1), (1, 1)]
    kept = scan(store, "plans").filter(pl.col("option") == 1).collect()
    assert kept["servers"].sum() == 2
    assert set(kept["status"]) == {"optimal"}
    assert json.loads(kept["request"][0])["periods"] == 2
    file.write_text(PLAN.replace("[1, 1]", "[1, 9]"), encoding="utf-8")
    refused = run("plan", file, "--store", store, "--min-days", "0", "--keep")
    assert refused.exit_code == 1
    last = scan(store, "plans").filter(pl.col("status") == "infeasible").collect()
    assert last["conflict"].to_list() == ["demand more; power of a"]


def test_without_a_store_a_plan_is_made_by_nameplates(store: Path, tmp_path: Path) -> None:
    text = (
        priced(store).joinpath("fleet.toml").read_text(encoding="utf-8").replace("units = 42", "units = 42\nsku = 'X'")
    )
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(text, encoding="utf-8")
    base = ("fit", "--unmeasured", "--fleet", fleet, "--store", tmp_path / "none", "--sku", "X", "--count")
    assert sum(row["servers"] for row in rows(run(*base, "1", "-o", "json")) if row["option"] == 1) == 1
    # Two machines of 1 kW by nameplate, and 3 kW are safe.
    assert "At most 1 of X" in run(*base, "2").stderr


def test_a_plan_that_lacks_a_price_says_which(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(PLAN, encoding="utf-8")
    result = run("plan", file, "--store", store, "--min-days", "0")
    assert (result.exit_code, "sku X: has no capex, and a plan is made by cost" in result.stderr) == (2, True), (
        result.stderr
    )
    assert run("fit", "--store", store, "--sku", "X", "--count", "1", "--by", "soon", "--min-days", "0").exit_code == 2
