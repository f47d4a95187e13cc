"""The command report job: from a store to one screen."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from analytics import frames
from analytics.commands_report import WIDTH
from analytics.frames import of_workload
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
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hours: one job on two boards of which one never works, and four earlier runs of the same model."""
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    place = tmp_path / "store"
    made = Store.create(place)
    times = [T0 + s * S for s in range(0, 7201, 10)]
    boards = [("GPU-0", 400.0, 0.9), ("GPU-1", 100.0, 0.0), *((f"OLD-{n}", 200.0 + n, 0.9) for n in range(4))]
    made.write(
        "device_samples",
        {
            "device": [name for name, _, _ in boards for _ in times],
            "time": times * len(boards),
            "source": ["test"] * len(boards) * len(times),
            "host": ["node-1"] * len(boards) * len(times),
            "power_w": [power for _, power, _ in boards for _ in times],
            "utilization_ratio": [busy for _, _, busy in boards for _ in times],
            "activity_sm_ratio": [busy * 0.9 for _, _, busy in boards for _ in times],
        },
    )
    made.write(
        "devices",
        {
            "device": [name for name, _, _ in boards],
            "time": [T0] * len(boards),
            "source": ["test"] * len(boards),
            "host": ["node-1"] * len(boards),
            "vendor": ["nvidia"] * len(boards),
            "model": ["X"] * len(boards),
            "ordinal": list(range(len(boards))),
        },
    )
    runs = ["job-42", *(f"old-{n}" for n in range(4))]
    made.write(
        "workload_samples",
        {
            "workload": [name for name in runs for _ in times],
            "time": times * len(runs),
            "source": ["engine"] * len(runs) * len(times),
            "model": ["llama"] * len(runs) * len(times),
            "framework": ["pytorch 2.9"] * len(runs) * len(times),
            "tokens_out": [100.0 * s for _ in runs for s in range(0, 7201, 10)],
        },
    )
    held = [("job-42", "GPU-0"), ("job-42", "GPU-1"), *((f"old-{n}", f"OLD-{n}") for n in range(4))]
    made.write(
        "allocations",
        {
            "workload": [name for name, _ in held],
            "device": [name for _, name in held],
            "start": [T0] * len(held),
            "time": [T0] * len(held),
            "source": ["test"] * len(held),
            "host": ["node-1"] * len(held),
            "name": ["train"] * len(held),
            "user": ["ada"] * len(held),
            "team": ["ml"] * len(held),
        },
    )
    (place / "fleet.toml").write_text(FLEET, encoding="utf-8")
    return place


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_job_is_on_one_screen(root: Path) -> None:
    result = run("report", "job", "job-42", "--store", root)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= WIDTH
    text = " ".join(" ".join(lines).split())
    for said in (
        "train, user ada of ml | llama on pytorch 2.9",
        "2 x X on node-1 (dub)",
        "since 2026-01-01T00:00:00Z, still running; 4.0 device-hours seen",
        "3.6 MJ (1 kWh), between 3.45 MJ and 3.75 MJ; 100% of the time covered, 0% by energy counters, 0% modelled; "
        "250 W a device",
        "energy 0.20 EUR (flat); the facility adds 0.10 (PUE 1.50); 0.3 kg CO2e",
        "5 J/token",
        "needs less than 0% of 4 other runs of train, llama on X: 5 J/token, median 2.015, best 2 (old-0)",
        "node-1:0 [||||||||| ] 90%",
        "idle 50% of the time, 720 kJ (0.2 kWh)",
        "1 of 2 devices never ran a kernel in 2.0 device-hours (node-1:1). [up to 720 kJ (0.2 kWh), 0.04 EUR]",
        "-> ask for the used ones only: torchrun --nproc-per-node=1",
        "2.5 times the joules per token of the median",
    ):
        assert said in text


def test_of_a_long_job_the_last_part_is_seen_and_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = of_workload(root, "job-42", rows=361)
    assert told.device_samples.collect()["time"].min() == datetime(2026, 1, 1, 1, 30)
    monkeypatch.setattr(frames, "of_workload", lambda store, workload: told)
    result = run("report", "job", "job-42", "--store", root)
    assert "1.0 device-hours seen, from 2026-01-01T01:30:00Z on" in " ".join(result.stdout.split())


def test_json_has_the_whole_record(root: Path) -> None:
    result = run("report", "job", "job-42", "--store", root, "-o", "json")
    found = json.loads(result.stdout)
    assert found["schema"] == "perfwatt.report/1"
    assert found["energy"]["energy_j"] == pytest.approx(3.6e6)
    assert [device["device"] for device in found["devices"]] == ["GPU-0", "GPU-1"]
    assert found["standing"]["runs"] == 4
    assert found["findings"][0]["kind"] == "dear"


def test_a_report_goes_to_a_file(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "report.txt"
    result = run("report", "job", "job-42", "--store", root, "--file", place)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Job job-42" in place.read_text(encoding="utf-8")


def test_an_unknown_job_is_told_with_the_nearest_names(root: Path) -> None:
    result = run("report", "job", "job-4", "--store", root)
    assert result.exit_code == 1
    assert "no job 'job-4'; nearest: job-42" in result.output


@pytest.mark.parametrize(
    ("condition", "code"), [("joules_per_token>4", 4), ("joules_per_token>6", 0), ("findings>0", 4)]
)
def test_a_check_is_tried_on_the_figures(root: Path, condition: str, code: int) -> None:
    assert run("report", "job", "job-42", "--store", root, "--check", condition).exit_code == code


def test_a_check_of_no_figure_says_which_there_are(root: Path) -> None:
    result = run("report", "job", "job-42", "--store", root, "--check", "speed>1")
    assert result.exit_code == 2
    assert "joules_per_token" in result.output


def test_without_prices_the_cost_is_not_known(root: Path) -> None:
    (root / "fleet.toml").unlink()
    result = run("report", "job", "job-42", "--store", root)
    assert "not known: fleet.toml has no prices for it" in result.stdout


def test_what_jobs_worked_out_is_taken_where_there_is_any(root: Path) -> None:
    Store(root).write(
        "efficiency",
        {
            "workload": ["a", "b", "c"],
            "time": [T0] * 3,
            "window_s": [3600] * 3,
            "name": ["train"] * 3,
            "model": ["llama"] * 3,
            "tokens": [10.0] * 3,
            "joules_per_token": [7.0, 8.0, 9.0],
        },
        writer="test",
    )
    Store(root).write(
        "allocations",
        {"workload": ["a", "b", "c"], "device": ["GPU-0"] * 3, "start": [T0 - 9 * S] * 3, "end": [T0 - S] * 3,
         "time": [T0] * 3, "source": ["test"] * 3},
    )  # fmt: skip
    found = json.loads(run("report", "job", "job-42", "--store", root, "-o", "json").stdout)
    assert (found["standing"]["runs"], found["standing"]["better_ratio"]) == (3, 1.0)
