"""The commands of models on a store: what is told, what is refused, and the codes they exit with."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from analytics.models import versions
from collector.store import Store
from tests.analytics.models.trials import NAME, arrays, meta, trial


def run(store: Store, *arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["models", *map(str, arguments), "--store", str(store.root)])


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A champion and a candidate that finds more, but loses some of the old alarms where it is not sure."""
    made = Store.create(tmp_path / "store")
    first = versions.save(made.root, NAME, arrays(1), meta())
    versions.promote(made.root, NAME, first, by="test")
    second = versions.save(made.root, NAME, arrays(2), meta())
    versions.record_trial(made.root, NAME, second, trial(lost=25, found=50))
    return made


def in_use(store: Store) -> str:
    (row,) = [row for row in rows(run(store, "list", "-o", "json")) if row["state"] == "champion"]
    return str(row["version"])


def test_the_list_has_the_champion_first_and_says_why(store: Store) -> None:
    first, second = rows(run(store, "list", "-o", "json"))
    assert (first["state"], first["reason"], first["by"]) == ("champion", "first version", "test")
    assert (second["state"], second["end"]) == ("candidate", "2026-01-15T00:00:00Z")
    assert second["lost_alarm_ratio"] == 0.1
    assert "checksum" not in first
    assert len(rows(run(store, "list", NAME, "--all", "-o", "json"))[0]["checksum"]) == 64
    assert rows(run(store, "list", "other", "-o", "json")) == []


def test_compare_tells_bounds_and_limits_and_check_makes_it_a_gate(store: Store) -> None:
    result = run(store, "compare", NAME, "--hand-over", 0, "-o", "json", "--check", "within==0")
    assert result.exit_code == 4
    found = {row["measure"]: row for row in json.loads(result.stdout)["rows"]}
    lost = found["lost_alarm_ratio"]
    assert lost["low"] < lost["value"] == 0.1 < lost["high"]
    assert (lost["limit"], lost["within"], lost["blocks"]) == (0.01, False, 50)
    assert found["error_ratio"]["within"] is True
    assert "6,000 windows, of which the truth is known of 6,000; taking over outright" in result.stderr
    kept = run(store, "compare", NAME, "--check", "within==0")
    assert (kept.exit_code, "handed over by 0.45, alarms withdrawn by 0.5" in kept.stderr) == (0, True)
    same = run(store, "compare", NAME, "--hand-over", 0.35)
    assert "handed over by 0.35, alarms withdrawn by 0.35" in same.stderr


def test_a_promotion_beyond_the_budget_is_refused_and_the_rule_makes_it_fit(store: Store) -> None:
    before = in_use(store)
    refused = run(store, "promote", NAME, "--hand-over", 0)
    assert refused.exit_code == 1
    assert f"the champion {before} stays" in refused.stderr
    assert "lost_alarm_ratio is 0.1, at most" in refused.stderr
    assert "--hand-over 0.45 --withdraw 0.5 would be within the budget" in refused.stderr
    assert in_use(store) == before
    promoted = run(store, "promote", NAME, "--by", "ann", "--hand-over", 0.45, "--withdraw", 0.495)
    assert (promoted.exit_code, "handed over by 0.45, alarms withdrawn by 0.495" in promoted.stderr) == (0, True)
    assert versions.in_use(store.root, NAME)[-1].hand_over == (0.45, 0.495)
    first, second = rows(run(store, "list", "-o", "json"))
    assert (first["state"], first["by"], first["lost_alarm_ratio"]) == ("champion", "ann", 0.0)
    assert (second["version"], second["state"]) == (before, "retired")
    again = run(store, "promote", NAME, first["version"], "--hand-over", 0.1)
    assert (again.exit_code, "handed over by 0.45, alarms withdrawn by 0.495" in again.stderr) == (0, True)


def test_a_bad_promotion_is_taken_back_with_a_reason(store: Store) -> None:
    before = in_use(store)
    assert run(store, "promote", NAME, "--force").exit_code == 2
    forced = run(store, "promote", NAME, "--force", "--reason", "in a hurry")
    assert (forced.exit_code, "without a comparison" in forced.stderr) == (0, True)
    assert in_use(store) != before
    assert run(store, "rollback", NAME).exit_code == 2
    back = run(store, "rollback", NAME, "--reason", "pages all night")
    assert (back.exit_code, back.stdout) == (0, "")
    assert f"{before} is in use again" in back.stderr
    assert in_use(store) == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("compare", "none"), 2, "'none' has no candidate"),
        (("compare", NAME, "20260101-0"), 1, "no version '20260101-0'; there are 2026"),
        (("promote", NAME, "../x"), 1, "no version '../x'"),
        (("promote", NAME, "--hand-over", "0.7"), 2, "equal to 0.5"),
        (("promote", NAME, "--withdraw", "0.49"), 2, "give --hand-over above 0 with it"),
        (("compare", NAME, "--hand-over", "0", "--withdraw", "0.49"), 2, "give --hand-over above 0 with it"),
        (("rollback", NAME, "--reason", "x"), 1, "nothing was in use before"),
        (("rollback", NAME, "--reason", "x", "--to", "y"), 1, "no version 'y'"),
        (("rollback", "none", "--reason", "x"), 1, "no version is in use; there are none"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_code(
    store: Store, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run(store, *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_version_is_named_and_what_is_in_use_stays(store: Store) -> None:
    before = in_use(store)
    second = rows(run(store, "list", "-o", "json"))[1]["version"]
    path = versions.path_of(store.root, NAME, second)
    path.write_bytes(b"broken")
    result = run(store, "promote", NAME, second, "--force", "--reason", "x")
    assert (result.exit_code, f"{path}: is damaged" in result.stderr) == (1, True)
    assert in_use(store) == before


def test_a_store_without_models_lists_none(tmp_path: Path) -> None:
    result = run(Store.create(tmp_path / "empty"), "list")
    assert (result.exit_code, "nothing found" in result.stderr) == (0, True)
