"""What `doctor` finds."""

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from collector.config import SourceConfig
from collector.doctor import Finding, agent_findings, examine, room_finding, source_finding, store_findings
from collector.store import Store

GIB = 1 << 30
SIMULATED = SourceConfig(type="simulated", name="fleet", options={"devices": 2})


def worst(found: list[Finding]) -> dict[str, Finding]:
    """The findings by what was looked at; of several the worst."""
    order = ("pass", "warn", "fail")
    return {one.check: one for one in sorted(found, key=lambda one: order.index(one.status))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store")
    made.write("device_samples", {"device": ["a"], "time": [time.time_ns()], "source": ["s"], "power_w": [1.0]})
    return made


def test_a_sound_fresh_store_passes(store: Store) -> None:
    found = worst(list(store_findings(store.root, whole=True)))
    assert {one.status for name, one in found.items() if name != "disk"} == {"pass"}
    assert "device_samples 1" in found["segments"].message


def test_a_damaged_segment_fails_and_is_named(store: Store) -> None:
    (segment,) = store.segments("device_samples")
    segment.path.write_bytes(segment.path.read_bytes()[:-20])
    found = worst(list(store_findings(store.root, whole=False)))
    assert found["segments"].status == "fail"
    assert segment.path.name in found["segments"].message
    assert found["segments"].advice


def test_no_store_fails(tmp_path: Path) -> None:
    (finding,) = store_findings(tmp_path / "none", whole=False)
    assert (finding.status, finding.check) == ("fail", "store")


@pytest.mark.parametrize(("ahead_s", "said"), [(7200, "minutes old"), (-60, "in the future")])
def test_old_and_future_rows_are_warnings(store: Store, ahead_s: int, said: str) -> None:
    now_ns = time.time_ns() + ahead_s * 1_000_000_000
    found = worst(list(store_findings(store.root, whole=False, now_ns=now_ns)))
    assert found["freshness"].status == "warn"
    assert said in found["freshness"].message


@pytest.mark.parametrize(("free", "status"), [(50, "pass"), (4, "warn"), (0.5, "fail")])
def test_a_disk_that_fills_is_told_in_time(tmp_path: Path, free: float, status: str) -> None:
    assert room_finding(tmp_path, (100 * GIB, 0, int(free * GIB))).status == status


def test_a_source_that_reads_passes() -> None:
    finding = source_finding(SIMULATED, 60.0)
    assert finding.status == "pass", finding
    assert "2 devices" in finding.message


def test_a_source_whose_options_are_wrong_fails_with_the_key() -> None:
    finding = source_finding(SourceConfig(type="simulated", name="x", options={"devises": 2}), 60.0)
    assert finding.status == "fail"
    assert "devises" in finding.message


def test_a_source_whose_module_is_missing_fails() -> None:
    finding = source_finding(SourceConfig(type="no_such_module:opener", name="x"), 60.0)
    assert (finding.status, "not installed" in finding.message) == ("fail", True)


def test_a_source_that_hangs_is_killed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_source.py").write_text(
        "import time\nfrom contextlib import contextmanager\n\n\n@contextmanager\ndef hang(options, host):\n"
        "    time.sleep(600)\n    yield\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    finding = source_finding(SourceConfig(type="hanging_source:hang", name="x"), 1.5)
    assert (finding.status, "no answer in 1.5 s" in finding.message) == ("fail", True)


PAGE = """\
# HELP perfwatt_source_up 1 while a source's last read was good.
# TYPE perfwatt_source_up gauge
perfwatt_source_up{source="nvml"} 1.0
perfwatt_source_up{source="scrape"} 0.0
perfwatt_source_age_seconds{source="nvml"} 0.5
perfwatt_gaps_total{reason="timeout",source="scrape"} 7.0
accel_power_watts{device="a"} 100.0
"""


@pytest.fixture
def page() -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401 if self.path == "/closed" else 200)
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_agent_tells_of_each_source_and_of_its_gaps(page: str) -> None:
    found = list(agent_findings(f"{page}/metrics", 5.0))
    assert [(one.status, one.check) for one in found] == [
        ("pass", "agent"),
        ("pass", 'agent source="nvml"'),
        ("fail", 'agent source="scrape"'),
        ("warn", "agent"),
    ]
    assert "read 0.5 s ago" in found[1].message
    assert 'reason="timeout"' in found[3].message


def test_an_agent_that_asks_for_a_password_is_a_warning(page: str) -> None:
    (finding,) = agent_findings(f"{page}/closed", 5.0)
    assert (finding.status, "401" in finding.message) == ("warn", True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "file:///etc/passwd"])
def test_an_agent_that_does_not_answer_fails(url: str) -> None:
    (finding,) = agent_findings(url, 2.0)
    assert finding.status == "fail"


def test_a_wrong_configuration_is_a_finding_and_the_rest_is_looked_at(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "p.toml"
    file.write_text("[agent]\nperiod_s = 0\n")
    found = worst(list(examine(env={"PERFWATT_CONFIG": str(file)}, store=store.root, timeout_s=5.0)))
    assert found["configuration"].status == "fail"
    assert "agent.period_s" in found["configuration"].message
    assert found["segments"].status == "pass"
    assert "clock" in found


def test_every_finding_that_is_not_a_pass_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[[source]]\ntype = "nvml"\n[store]\nroot = "/nonexistent"\n[prometheus]\nlisten = "127.0.0.1:9"\n')
    found = list(examine(env={"PERFWATT_CONFIG": str(file)}, targets=["http://127.0.0.1:9/metrics"], timeout_s=20.0))
    assert {one.check for one in found if one.status == "fail"} >= {
        "agent",
        "store",
        "target http://127.0.0.1:9/metrics",
    }
    assert all(one.advice for one in found if one.status == "fail")
