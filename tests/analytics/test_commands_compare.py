"""The commands compare and changes, from a store to rows."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import cli
from analytics.commands_compare import What, _windows
from analytics.effects.comparison import BY
from collector.options import request
from collector.output import Format
from collector.store import Store

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000
HOSTS, HOURS, CHANGED = 8, 12, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a day of eight hosts that serve one model; half of them get a driver that saves a tenth of the energy."""
    place = tmp_path_factory.mktemp("compare") / "store"
    made = Store.create(place)
    rng = np.random.default_rng(1)
    seconds = np.arange(0, HOURS * 3600 + 1, 60)
    half = HOURS * 1800
    rows: dict[str, list[Any]] = {name: [] for name in ("device", "time", "source", "host", "power_w",
                                                        "utilization_ratio", "temperature_c")}  # fmt: skip
    work: dict[str, list[Any]] = {name: [] for name in ("workload", "time", "source", "host", "model", "framework",
                                                        "tokens_out", "requests")}  # fmt: skip
    for number in range(HOSTS):
        rate = 1000.0 * (1.0 + 0.3 * np.sin(seconds / 3000.0 + number))
        saved = np.where((seconds > half) & (number < CHANGED), 0.9, 1.0)
        power = (300.0 + 0.2 * rate) * saved * (1 + 0.01 * rng.standard_normal(seconds.size))
        rows["device"] += [f"GPU-{number}"] * seconds.size
        rows["time"] += (T0 + seconds * S).tolist()
        rows["source"] += ["test"] * seconds.size
        rows["host"] += [f"node-{number}"] * seconds.size
        rows["power_w"] += power.tolist()
        rows["utilization_ratio"] += [0.9] * seconds.size
        rows["temperature_c"] += [60.0] * seconds.size
        work["workload"] += [f"w-{number}"] * seconds.size
        work["time"] += (T0 + seconds * S).tolist()
        work["source"] += ["engine"] * seconds.size
        work["host"] += [f"node-{number}"] * seconds.size
        work["model"] += ["llama"] * seconds.size
        work["framework"] += ["vllm 0.11"] * seconds.size
        work["tokens_out"] += np.cumsum(rate * 60).tolist()
        work["requests"] += np.cumsum(rate / 5).tolist()
    made.write("device_samples", rows)
    made.write("workload_samples", work)
    names = [f"GPU-{n}" for n in range(HOSTS)]
    again = list(range(CHANGED))
    made.write(
        "devices",
        {
            "device": [*names, *(names[n] for n in again)],
            "time": [T0] * HOSTS + [T0 + half * S] * CHANGED,
            "source": ["test"] * (HOSTS + CHANGED),
            "host": [*(f"node-{n}" for n in range(HOSTS)), *(f"node-{n}" for n in again)],
            "vendor": ["nvidia"] * (HOSTS + CHANGED),
            "model": ["X"] * (HOSTS + CHANGED),
            "driver_version": ["570.1"] * HOSTS + ["580.1"] * CHANGED,
        },
    )
    made.write(
        "allocations",
        {
            "workload": [f"w-{n}" for n in range(HOSTS)],
            "device": names,
            "start": [T0] * HOSTS,
            "time": [T0] * HOSTS,
            "source": ["test"] * HOSTS,
            "name": ["chat"] * HOSTS,
        },
    )
    return place


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


def test_compare_finds_what_a_driver_did(root: Path) -> None:
    result = run("compare", "--store", root, "--by", "driver_version", "--workload", "llama", "-o", "json")
    found = {row["metric"]: row for row in rows(result)}
    tokens = found["joules_per_token"]
    assert (tokens["reference"], tokens["value"], tokens["groups"], tokens["controls"]) == ("570.1", "580.1", 4, 4)
    assert tokens["effect_low"] < -0.1 < tokens["effect_high"]
    assert tokens["verdict"] == "better"
    assert found["temperature_c"]["verdict"] == "no difference within ±1 °C"


def test_windows_are_the_same_over_midnight_and_in_one_piece(root: Path) -> None:
    told = functools.partial(_windows, root, workload=None, fleet_file=None, max_gap=None)
    # The half day begins at midnight; shifted days cut it in two.
    whole = told(request(Format.TABLE, None, None, None, None, "UTC")).collect()
    assert whole.height == HOSTS * (HOURS * 12) - CHANGED * 4
    late = told(request(Format.TABLE, None, None, "2026-01-01T03:02", None, "UTC")).collect()
    same = whole.filter(pl.col("window") >= late["window"].min())
    assert_frame_equal(late, same, check_row_order=False)


def test_a_check_fails_a_pipeline_when_it_got_worse(root: Path) -> None:
    asked = ("compare", "--store", root, "--by", "driver_version", "--metric", "joules_per_token")
    assert run(*asked, "--check", "effect_low>0.02").exit_code == 0
    other = run(*asked, "--reference", "580.1", "--check", "effect_low>0.02")
    assert other.exit_code == 4
    assert "check: effect_low>0.02 holds for 1 row" in other.output


def test_changes_lists_the_rollout_with_what_it_did(root: Path) -> None:
    (row,) = rows(run("changes", "--store", root, "-o", "json"))
    assert (row["what"], row["before"], row["after"]) == ("driver_version", "570.1", "580.1")
    assert (row["subjects"], row["hosts"], row["where"]) == (4, 4, "node-0, node-1, node-2, node-3")
    assert row["metric"] == "joules_per_token"
    assert row["effect_low"] < -0.1 < row["effect_high"]
    assert row["verdict"] == "better"


def test_changes_can_be_only_a_list_and_of_one_kind_or_time(root: Path) -> None:
    (row,) = rows(run("changes", "--store", root, "--no-effect", "-o", "json"))
    assert "effect" not in row
    assert rows(run("changes", "--store", root, "--no-effect", "--what", "mode", "-o", "json")) == []
    later = "2026-01-01T07:00"
    assert rows(run("changes", "--store", root, "--no-effect", "--since", later, "-o", "json")) == []


def test_one_value_is_nothing_to_compare_and_said(root: Path) -> None:
    result = run("compare", "--store", root, "--by", "framework_version")
    assert result.exit_code == 0
    assert "framework_version has 1 value: 0.11" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--by", "driver_version", "--metric", "speed"), 2, "--metric: 'speed': one of joules_per_token"),
        (("--by", "driver_version", "--control", "moon"), 2, "--control: 'moon': one of workload"),
        (("--by", "colour"), 2, "colour"),
        (("--by", "driver_version", "--margin", "0"), 2, "--margin"),
        (("--by", "driver_version", "--workload", "lama"), 1, "no workload 'lama'; nearest: llama"),
        (("--by", "driver_version", "--workload", "zzzz"), 1, "nothing is called like that"),
        (("--by", "driver_version", "--reference", "579"), 1, "no driver_version '579'"),
        (("--by", "driver_version", "--value", "579"), 1, "no driver_version '579'"),
    ],
)
def test_what_cannot_be_answered_is_said_with_its_exit_code(
    root: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run("compare", "--store", root, *arguments)
    assert result.exit_code == code
    assert said in result.output


def test_the_command_offers_what_can_be_compared() -> None:
    assert set(What) == set(BY)
