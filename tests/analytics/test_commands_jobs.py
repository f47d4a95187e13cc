"""The commands jobs and incidents, from a store to rows."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

import cli
from analytics import commands_incidents
from analytics.jobs import chain, running
from analytics.jobs.running import LOCK
from collector.store import Store
from collector.store.files import WriterLock

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two boards read each ten seconds: one for two hours, one until it fell off the bus after the first."""
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    store = Store.create(tmp_path / "store")
    ends = {"GPU-0": 7200, "GPU-1": 3600}
    rows = [(device, s) for device, end in ends.items() for s in range(0, end, 10)]
    store.write(
        "device_samples",
        {
            "device": [device for device, _ in rows],
            "time": [T0 + s * S for _, s in rows],
            "source": ["test"] * len(rows),
            "host": ["node-1"] * len(rows),
            "power_w": [300.0] * len(rows),
        },
    )
    store.write(
        "events",
        {
            "host": ["node-1"], "kind": ["xid"], "time": [T0 + 3600 * S], "device": ["GPU-1"], "code": ["79"],
            "source": ["test"], "severity": ["critical"],
        },
    )  # fmt: skip
    return store.root


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def rows_of(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_jobs_are_listed_in_the_order_in_which_they_run() -> None:
    result = run("jobs", "list", "-o", "jsonl")
    assert result.exit_code == 0
    names = [row["job"] for row in rows_of(result)]
    assert names[0] == "rollups"
    assert names.index("energy") < names.index("incidents")
    assert set(names) == {job.name for job in chain.JOBS}


def test_run_does_what_is_due_says_so_and_is_done(root: Path) -> None:
    result = run("jobs", "run", "--store", root, "-o", "jsonl")
    assert result.exit_code == 0, result.stderr
    told = rows_of(result)
    assert {row["job"] for row in told} == {job.name for job in chain.JOBS}
    states = {row["job"]: row["state"] for row in told}
    assert {job for job, state in states.items() if state != "done"} == {"anomaly_scores", "forecasts", "capacity"}
    assert "fleet.toml describes no site" in result.stderr
    assert "energy         1/1  2026-01-01T00:00  done, " in result.stderr
    again = run("jobs", "run", "--store", root, "-o", "jsonl")
    assert (again.exit_code, again.stdout) == (0, "")


def test_status_tells_how_jobs_stand_and_check_watches_it(root: Path) -> None:
    before = rows_of(run("jobs", "status", "--store", root, "-o", "jsonl"))
    states = {row["job"]: row["state"] for row in before}
    assert (states["energy"], states["rollups"], states["incidents"]) == ("due", "empty", "empty")
    assert run("jobs", "status", "--store", root, "--check", "due>0").exit_code == 4
    run("jobs", "run", "--store", root)
    after = rows_of(run("jobs", "status", "--store", root, "-o", "jsonl"))
    waiting = {row["job"]: row["error"] for row in after if row["state"] == "waiting"}
    assert {row["state"] for row in after} == {"done", "waiting"}
    assert set(waiting) == {"anomaly_scores", "forecasts", "capacity"}
    assert "days of history" in waiting["forecasts"]
    assert all(row["age_s"] < 600 and row["last_success"] for row in after)
    assert run("jobs", "status", "--store", root, "--check", "due>0", "--check", "failed>0").exit_code == 0


def test_one_job_and_what_it_needs_are_run_by_name(root: Path) -> None:
    told = rows_of(run("jobs", "run", "energy", "--store", root, "-o", "jsonl"))
    assert {row["job"] for row in told} == {"energy"}
    result = run("jobs", "run", "enrgy", "--store", root)
    assert result.exit_code == 2
    assert "'enrgy' is no job; there are rollups, energy" in result.stderr


def test_a_job_that_fails_ends_with_1_and_the_others_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tuple(replace(job, function="json:nothing") if job.name == "energy" else job for job in chain.JOBS)
    monkeypatch.setattr(running.run, "__kwdefaults__", {**running.run.__kwdefaults__, "jobs": broken})
    result = run("jobs", "run", "--store", root, "-o", "jsonl")
    assert result.exit_code == 1
    states = {row["job"]: row["state"] for row in rows_of(result)}
    # Whatever can be told without energy is told.
    assert (states["energy"], states["rollups"], states["incidents"]) == ("failed", "done", "done")
    assert "energy         1/1  2026-01-01T00:00  failed: AttributeError: module 'json' has no" in result.stderr


def test_a_store_that_is_busy_a_wrong_file_and_no_store_have_their_exit_codes(root: Path, tmp_path: Path) -> None:
    with WriterLock(root, LOCK):
        busy = run("jobs", "run", "--store", root)
    assert busy.exit_code == 3
    assert "is open already, in process" in busy.stderr
    (root / "rules.toml").write_text('[[threshold]]\nname = "hot"\nraise_below = "warm"\n')
    wrong = run("jobs", "run", "--store", root)
    assert wrong.exit_code == 2
    assert f"{root}/rules.toml: threshold[0].raise_below: is 'warm', not a number" in wrong.stderr
    assert run("jobs", "run", "--store", tmp_path / "none").exit_code == 1
    missing = run("jobs", "run", "--store", root, "--rules", tmp_path / "none.toml")
    assert missing.exit_code == 2
    assert "cannot be read" in missing.stderr


def test_how_jobs_stand_is_exported(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "perfwatt.prom"
    assert run("jobs", "run", "--store", root, "--metrics", page).exit_code == 0
    families = {family.name: family for family in text_string_to_metric_families(page.read_text())}
    due = {sample.labels["name"]: sample.value for sample in families["perfwatt_job_due_windows"].samples}
    assert due == dict.fromkeys((job.name for job in chain.JOBS), 0.0)
    (last,) = families["perfwatt_jobs_last_run_timestamp_seconds"].samples
    assert last.value > 1.7e9
    stamps = families["perfwatt_job_last_success_timestamp_seconds"].samples
    assert all(sample.value > 1.7e9 for sample in stamps)
    assert page.stat().st_mode & 0o777 == 0o644
    result = run("jobs", "run", "--store", root, "--metrics", tmp_path / "no" / "such.prom")
    assert result.exit_code == 2
    assert "--metrics: " in result.stderr


class Stopped(Exception):
    """Ends a watch."""


def test_watch_goes_on_after_a_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        (root / "rules.toml").unlink(missing_ok=True)
        if len(naps) == 3:
            raise Stopped

    monkeypatch.setattr("analytics.commands_jobs.time.sleep", nap)
    (root / "rules.toml").write_text("wrong")
    result = run("jobs", "run", "--store", root, "--watch", "60")
    assert isinstance(result.exception, Stopped)
    assert result.stderr.count("rules.toml: is not TOML") == 1
    assert "incidents      1/1" in result.stderr
    assert all(seconds <= 60 for seconds in naps)


def test_incidents_are_told_the_worst_first_and_filtered(root: Path) -> None:
    nothing = run("incidents", "--store", root)
    assert nothing.exit_code == 0
    run("jobs", "run", "--store", root)
    (lost,) = rows_of(run("incidents", "--store", root, "--all", "--severity", "critical", "-o", "jsonl"))
    assert (lost["kind"], lost["name"], lost["scope"]) == ("device_missing", "GPU-1", "device")
    assert lost["evidence"].startswith("GPU-1 on node-1: XID 79: the device fell off the bus; nothing was read, since")
    assert lost["action"].startswith("Drain the host")
    assert rows_of(run("incidents", "--store", root, "--all", "--kind", "hot", "-o", "jsonl")) == []
    assert rows_of(run("incidents", "--store", root, "--all", "--until", "2026-01-01T00:30", "-o", "jsonl")) == []
    check = run("incidents", "--store", root, "--all", "--check", "devices>0")
    assert check.exit_code == 4


def test_no_alertmanager_is_tried_again_later(
    root: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    monkeypatch.setattr(commands_incidents, "PAUSE_S", 0.0)
    result = run("incidents", "push", "--store", root, "--alertmanager", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == 3
    assert "no Alertmanager after 3 attempts" in result.stderr
    wrong = run("incidents", "push", "--store", root, "--alertmanager", "localhost:9093")
    assert wrong.exit_code == 2


@pytest.fixture
def free_port() -> Callable[[], int]:
    import socket

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
