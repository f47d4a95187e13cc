"""What is shipped for running perfwatt holds together: names exist, rules fire, the unit is tight."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml

from analytics.anomalies.rules import parse_rules
from collector.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules"
UNIT = DEPLOY / "perfwatt-agent.service"
UNITS = (UNIT, DEPLOY / "perfwatt-jobs.service")

SETS = {
    path.name.removesuffix(".rules.yml"): yaml.safe_load(path.read_text(encoding="utf-8"))["groups"][0]["rules"]
    for path in sorted(RULES.glob("*.rules.yml"))
}
ALERTS = [alert for alerts in SETS.values() for alert in alerts]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def run(*words: str, cwd: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_every_metric_in_the_rules_exists() -> None:
    known = {metric.prometheus for metric in CATALOGUE}
    for alert in ALERTS:
        text = alert["expr"] + str(alert["annotations"])
        named = set(re.findall(r"\b(?:perfwatt|accel|host|workload|facility)_[a-z_]+", text))
        assert named <= known, alert["alert"]
        assert named or alert["alert"] == "PerfwattAgentDown"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_says_what_it_means_and_what_to_do(alert: dict[str, dict[str, str]]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    runbook = (DEPLOY / alert["annotations"]["runbook_url"]).read_text(encoding="utf-8")
    assert runbook.startswith(f"# {alert['alert']}\n")
    assert f"```promql\n{alert['expr']}```" in runbook
    meaning, todo = runbook.split("## What it means")[1].split("## What to do")
    assert len(meaning.split()) > 15
    assert "1. " in todo
    for link in re.findall(r"\]\((\w+\.md)\)", runbook):
        assert (DEPLOY / "runbooks" / link).exists()


def test_there_is_no_runbook_without_an_alert_or_a_rule_of_incidents() -> None:
    used = {Path(alert["annotations"]["runbook_url"]).name for alert in ALERTS}
    used |= {Path(rule.runbook).name for rule in parse_rules().rules if rule.runbook}
    assert {path.name for path in (DEPLOY / "runbooks").iterdir()} == used


@pytest.mark.parametrize("name", sorted({rule.runbook for rule in parse_rules().rules if rule.runbook}))
def test_a_runbook_of_an_incident_says_what_it_means_and_what_to_do(name: str) -> None:
    runbook = (DEPLOY / name).read_text(encoding="utf-8")
    meaning, todo = runbook.split("## What it means")[1].split("## What to do")
    assert len(meaning.split()) > 15
    assert "1. " in todo


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    done = run("promtool", "check", "config", "prometheus.yml", cwd=DEPLOY / "prometheus")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", SETS)
def test_every_alert_fires_when_it_should_and_not_otherwise(name: str) -> None:
    done = run("promtool", "test", "rules", f"{name}.test.yml", cwd=RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SETS)
def test_every_alert_is_tried_firing(name: str) -> None:
    cases = yaml.safe_load((RULES / f"{name}.test.yml").read_text(encoding="utf-8"))["tests"]
    fired = re.findall(r'alertname="(\w+)"', str([case.get("promql_expr_test") for case in cases]))
    assert sorted(fired) == sorted(alert["alert"] for alert in SETS[name])


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, DEPLOY / "perfwatt-jobs.timer"], ids=lambda unit: unit.name)
def test_systemd_understands_the_unit(unit: Path, tmp_path: Path) -> None:
    for path in DEPLOY.glob("perfwatt-*"):
        text = path.read_text(encoding="utf-8").replace("/opt/perfwatt/bin/perfwatt", sys.executable)
        (tmp_path / path.name).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_is_as_tight_as_the_tightest_of_its_kind(unit: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))
    score = re.search(r"Overall exposure level for \S+ (\d+\.\d+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= 1.5


def test_the_jobs_run_where_memory_cannot_be_both_written_and_executed(tmp_path: Path) -> None:
    # What MemoryDenyWriteExecute asks of the kernel (PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), and the unit sets.
    program = (
        "import ctypes, sys\n"
        "refused = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)\n"
        "sys.exit(77) if refused else None\n"
        "from collector.store import Store\n"
        f"Store.create({str(tmp_path)!r}).write('device_samples', {{'device': ['a'] * 360, 'source': ['s'] * 360,"
        " 'host': ['h'] * 360, 'time': [n * 10_000_000_000 for n in range(360)], 'power_w': [1.5] * 360})\n"
        f"sys.argv = ['perfwatt', 'jobs', 'run', '--store', {str(tmp_path)!r}, '-o', 'jsonl']\n"
        "import cli\n"
        "cli.app(prog_name='perfwatt')\n"
    )
    settings = re.findall(r"^Environment=(\w+)=(\S+)$", UNITS[1].read_text(encoding="utf-8"), re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **dict(settings)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
    assert '"job": "energy"' in done.stdout


def test_the_unit_hides_no_accelerator_and_asks_for_no_privilege() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    settings = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    known = {key: value for key, value in settings if key != "DeviceAllow"}
    assert "PrivateDevices" not in known
    assert {value for key, value in settings if key == "DeviceAllow"} >= {
        "char-nvidia rw",
        "char-drm rw",
        "char-kfd rw",
    }
    assert (known["Type"], known["CapabilityBoundingSet"], known["DynamicUser"]) == ("notify", "", "yes")
    assert known["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_container_has_exactly_the_packages_that_the_agent_needs() -> None:
    wanted = set((DEPLOY / "agent-packages.txt").read_text(encoding="utf-8").split())
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    assert wanted <= locked
    roots = {"prometheus-client", "duckdb", "typer", "rich", "aiohttp", "pyyaml", "bcrypt", "numpy", "nvidia-ml-py"}
    closed: set[str] = set()
    todo = set(roots)
    while todo:
        name = todo.pop()
        closed.add(name)
        for requirement in requires(name) or []:
            needed, _, marker = requirement.partition(";")
            name_only = re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9_.-]", needed.strip())[0]).lower()
            # A marker here is an extra, another Python or another system, none of which is the container's.
            if name_only in locked and "extra" not in marker and not _for_others(marker):
                todo |= {name_only} - closed
    assert wanted == closed


def _for_others(marker: str) -> bool:
    old = re.search(r"python_(?:full_)?version\s*<\s*['\"]3\.(\d+)", marker)
    return "win32" in marker or "Windows" in marker or (old is not None and int(old[1]) <= 11)


def test_the_container_is_not_root_and_names_no_registry() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    images = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert images
    assert all("/" not in image for image in images)
    assert "\nUSER 65532:65532\n" in text
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
