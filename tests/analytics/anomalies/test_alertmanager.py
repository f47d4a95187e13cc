"""Incidents in a real Alertmanager: each notified once, and resolved once."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import pytest

from analytics import commands_incidents
from analytics.anomalies.alerts import alertname, alerts_of, ended, labels_of
from analytics.anomalies.rows import frame_of
from analytics.commands_incidents import hand_over
from collector.errors import ConfigError, QueryError, SourceUnavailable
from collector.moments import NS
from collector.store import Store

START_NS = 1_767_225_600 * NS
needs_alertmanager = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None, reason="prometheus-alertmanager is not installed"
)


def row(**keys: Any) -> dict[str, Any]:
    return {
        "incident": "i1", "time": START_NS, "scope": "device", "name": "GPU-1", "host": "n1", "site": "oslo",
        "kind": "device_missing", "severity": "critical", "state": "open", "start": START_NS, "last": START_NS,
        "end": None, "evidence": "GPU-1 on n1: nothing was read", "rule": "absent", "flaps": 0, "devices": 1,
        "subjects": "device:GPU-1", "part_of": None, "action": "Look.", "runbook": "runbooks/DeviceMissing.md",
        "wasted_j": 7.2e6, "wasted_cost": 0.5, "currency": "EUR", "lost_tokens": 1e6, **keys,
    }  # fmt: skip


class Receiver:
    """A webhook that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    labels = alert["labels"]
                    told.append((alert["status"], labels["incident"], labels["scope"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, count: int) -> list[tuple[str, str, str]]:
        """What was told, once it is *count* things or ten seconds are over."""
        until_s = time.monotonic() + 10
        while len(self.told) < count and time.monotonic() < until_s:
            time.sleep(0.05)
        time.sleep(1.5)  # two group intervals, in which something that should not come would
        return sorted(self.told)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def alertmanager(tmp_path: Path, receiver: Receiver) -> Iterator[str]:
    config = tmp_path / "alertmanager.yml"
    config.write_text(
        "route: {receiver: hook, group_by: [incident], group_wait: 100ms, group_interval: 500ms, repeat_interval: 1h}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: 'http://127.0.0.1:{receiver.server.server_port}/'}}]}}]\n"
    )
    port = free_port()
    child = subprocess.Popen(
        [
            "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until_s = time.monotonic() + 20
        while True:
            try:
                urlopen(f"{url}/-/ready", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until_s, "the Alertmanager did not start"
                time.sleep(0.05)
        yield url
    finally:
        child.terminate()
        child.wait(10)


def put(store: Store, *rows: dict[str, Any]) -> None:
    store.replace("incidents", "job.incidents", frame_of(rows))


def push(store: Store, *urls: str, **options: Any) -> str:
    return hand_over(store.root, urls, **{"severity": "warning", "origin": "perfwatt", "hold": "15m", **options})


@needs_alertmanager
def test_an_incident_reaches_an_alertmanager_once_and_resolves_once(
    alertmanager: str, receiver: Receiver, tmp_path: Path
) -> None:
    store = Store.create(tmp_path / "store")
    hidden = row(incident="i3", severity="info", kind="power_cap")
    put(store, row(), row(incident="i2", name="GPU-2", kind="hot", severity="warning"), hidden)
    for _ in range(3):
        assert push(store, alertmanager) == "2 open incidents handed over, 0 alerts ended"
    assert receiver.wait(2) == [("firing", "i1", "device"), ("firing", "i2", "device")]
    put(store, row(state="resolved", end=START_NS), row(incident="i2", name="GPU-2", kind="hot", severity="warning"))
    assert push(store, alertmanager) == "1 open incidents handed over, 1 alerts ended"
    assert push(store, alertmanager) == "1 open incidents handed over, 0 alerts ended"
    told = receiver.wait(3)
    assert told.count(("resolved", "i1", "device")) == 1
    assert [one for one in told if one[1] == "i2"] == [("firing", "i2", "device")]


@needs_alertmanager
def test_one_that_grows_to_a_host_ends_as_a_device_and_is_told_as_a_host(
    alertmanager: str, receiver: Receiver, tmp_path: Path
) -> None:
    store = Store.create(tmp_path / "store")
    put(store, row())
    push(store, alertmanager)
    receiver.wait(1)
    put(store, row(scope="host", name="n1"))
    assert push(store, alertmanager) == "1 open incidents handed over, 1 alerts ended"
    assert set(receiver.wait(3)) >= {("firing", "i1", "device"), ("firing", "i1", "host"), ("resolved", "i1", "device")}


@needs_alertmanager
def test_what_others_sent_is_left_alone(alertmanager: str, receiver: Receiver, tmp_path: Path) -> None:
    store, other = Store.create(tmp_path / "store"), Store.create(tmp_path / "other")
    put(store, row())
    put(other, row(incident="i9"))
    push(store, alertmanager)
    push(other, alertmanager, origin="other site")
    put(store, row(state="resolved", end=START_NS))
    assert push(store, alertmanager) == "0 open incidents handed over, 1 alerts ended"
    assert [one for one in receiver.wait(3) if one[1] == "i9"] == [("firing", "i9", "device")]


@needs_alertmanager
def test_an_alert_that_is_not_sent_again_ends_by_itself(alertmanager: str, receiver: Receiver, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    put(store, row())
    push(store, alertmanager, hold="3s")
    assert receiver.wait(2) == [("firing", "i1", "device"), ("resolved", "i1", "device")]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_incidents, "PAUSE_S", 0.01)


def test_one_that_cannot_be_reached_is_tried_again_and_then_told(hurried: None, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    put(store, row())
    with pytest.raises(SourceUnavailable, match="no Alertmanager after 3 attempts"):
        push(store, f"http://127.0.0.1:{free_port()}")


@needs_alertmanager
def test_of_two_the_living_one_is_told_all_the_same(
    hurried: None, alertmanager: str, receiver: Receiver, tmp_path: Path
) -> None:
    store = Store.create(tmp_path / "store")
    put(store, row())
    with pytest.raises(SourceUnavailable):
        push(store, f"http://127.0.0.1:{free_port()}", alertmanager)
    assert receiver.wait(1) == [("firing", "i1", "device")]


@needs_alertmanager
def test_one_that_refuses_says_why(alertmanager: str, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    put(store, row())
    with pytest.raises(QueryError, match=r"the Alertmanager refused \(404\)"):
        push(store, f"{alertmanager}/nowhere")


@pytest.mark.parametrize("url", ["localhost:9093", "file:///etc/passwd", "http://", "127.0.0.1"])
def test_what_is_no_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        push(Store.create(tmp_path / "store"), url)


def test_labels_route_and_annotations_tell() -> None:
    assert alertname("device_missing") == "PerfwattIncidentDeviceMissing"
    assert labels_of(row(), "here") == {
        "alertname": "PerfwattIncidentDeviceMissing", "origin": "here", "incident": "i1", "severity": "critical",
        "kind": "device_missing", "scope": "device", "device": "GPU-1", "host": "n1", "site": "oslo",
    }  # fmt: skip
    (alert,) = alerts_of(
        [row(), row(state="resolved")], origin="here", severity="critical", now_ns=START_NS, hold_s=60.0,
        link="https://watt/incidents?id={incident}",
    )  # fmt: skip
    assert alert["annotations"] == {
        "summary": "GPU-1 on n1: nothing was read", "description": "Look.", "runbook_url": "runbooks/DeviceMissing.md",
        "cost": "so far 2 kWh, 0.50 EUR, 1,000,000 tokens",
    }  # fmt: skip
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z")
    assert alert["generatorURL"] == "https://watt/incidents?id=i1"
    assert ended([alert], [alert], now_ns=START_NS) == []
    (over,) = ended([alert], [], now_ns=START_NS)
    assert (over["labels"], over["endsAt"]) == (alert["labels"], "2026-01-01T00:00:00Z")
