"""A Prometheus server's history arrives whole, once, and as the live scrape would have told it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl
import pytest

from collector.errors import ConfigError, ImportFailed, SourceUnavailable
from collector.imports.prometheus import STRETCH_S, Journal, journal_path, read_prometheus
from collector.imports.prometheus_server import Server
from collector.imports.report import Report, take_in
from collector.store import Store

ROOT = Path(__file__).parents[3]
T0 = 1_700_000_000 // STRETCH_S * STRETCH_S  # a stretch begins here
Serve = Callable[[str], AbstractContextManager[str]]


def dcgm(*, hours: float, hosts: int = 2, step_s: int = 60) -> str:
    """DCGM's names, whose energy is in millijoules and utilisation in percent, for hosts of two boards."""
    power, energy, util = [], [], []
    for host in range(hosts):
        for gpu in range(2):
            labels = f'gpu="{gpu}",UUID="GPU-{host}-{gpu}",modelName="NVIDIA H100",Hostname="node{host}"'
            labels += f',instance="node{host}:9400",job="dcgm"'
            for n in range(int(hours * 3600 / step_s)):
                at = f"{T0 + n * step_s}.{125 + host}"
                power.append(f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} {100 + n % 50 + gpu} {at}")
                energy.append(f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{labels}}} {1_000_000 + n * 6_000_000} {at}")
                util.append(f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} {n % 101} {at}")
    parts = [
        ("DCGM_FI_DEV_POWER_USAGE", power),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", energy),
        ("DCGM_FI_DEV_GPU_UTIL", util),
    ]
    lines = [line for name, samples in parts for line in (f"# TYPE {name} gauge", *samples)]
    return "\n".join([*lines, "# EOF", ""])


def run(url: str, store: Store | None, *, hours: float, journal: Path | None = None, **options: Any) -> Report:
    units = read_prometheus(
        Server(url), T0 * 1000, round((T0 + hours * 3600) * 1000), journal=Journal(journal), **options
    )
    return take_in("prometheus", url, units, store)


def test_every_sample_arrives_in_catalogue_units(
    prometheus: Serve, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    with prometheus(dcgm(hours=13)) as url:
        report = run(url, store, hours=13)
    assert report.ok
    accounts = [account for unit in report.units for account in unit["files"]]
    assert sum(account["lines"] for account in accounts) == 2 * 2 * 3 * 780
    assert all(account["unaccounted"] == 0 for account in accounts)
    rows = stored("device_samples").sort("device", "time")
    assert rows.height == 2 * 2 * 780
    assert rows.unique(["device", "time"]).height == rows.height
    one = rows.filter(pl.col("device") == "GPU-1-1")
    assert one["power_w"].to_list() == [101 + n % 50 for n in range(780)]
    assert one["utilization_ratio"].to_list() == pytest.approx([n % 101 / 100 for n in range(780)])
    assert one["energy_j"].to_list() == pytest.approx([1000 + n * 6000 for n in range(780)])
    stamps = [round(time.replace(tzinfo=None).timestamp() * 1000) % 1000 for time in one["time"].to_list()]
    assert set(stamps) == {126}
    assert set(one["host"]) == {"node1"}
    devices = stored("devices")
    assert set(devices["model"]) == {"NVIDIA H100"}


def test_victoria_metrics_gives_every_sample_as_well(
    victoria_metrics: Serve, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    with victoria_metrics(dcgm(hours=7)) as url:
        report = run(url, store, hours=7)
    assert sum(account["lines"] for unit in report.units for account in unit["files"]) == 2 * 2 * 3 * 420
    rows = stored("device_samples").filter(pl.col("device") == "GPU-0-1").sort("time")
    assert rows["power_w"].to_list() == [101 + n % 50 for n in range(420)]


def test_the_same_import_again_changes_nothing(
    prometheus: Serve, store: Store, stored: Callable[[str], pl.DataFrame], tmp_path: Path
) -> None:
    with prometheus(dcgm(hours=7, hosts=1)) as url:
        run(url, store, hours=7)
        once = stored("device_samples").sort("device", "time")
        run(url, store, hours=7)
        # A shorter time must not cut what a longer one stored.
        run(url, store, hours=6.5, journal=tmp_path / "journal")
    assert stored("device_samples").sort("device", "time").equals(once)


def test_an_import_killed_half_way_goes_on_where_it_was_and_doubles_nothing(
    prometheus: Serve, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    command = [sys.executable, "-c", "from collector.imports.commands import app; app()", "prometheus"]
    with prometheus(dcgm(hours=30, step_s=120)) as url:
        options = [url, "--store", str(store.root), "--since", f"@{T0}", "--until", f"@{T0 + 30 * 3600}", "-o", "json"]
        killed = subprocess.Popen(
            [*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert killed.stderr is not None
        for line in killed.stderr:
            if not line.startswith("0 of "):
                break
        killed.kill()
        assert killed.wait() == -9
        killed.stderr.close()
        journal = Journal(journal_path(store.root, url, ""))
        before = len(journal.done)
        assert 0 < before < 10
        again = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(json.loads(again.stdout)["units"]) == 10 - before
    rows = stored("device_samples")
    assert rows.height == 2 * 2 * 900
    assert rows.unique(["device", "time"]).height == rows.height


def test_a_journal_line_cut_off_by_a_kill_is_taken_in_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.add("a", 0, 10)
    path.write_bytes(path.read_bytes() + b'\n{"target": "b", "sta')
    again = Journal(path)
    assert again.has("a", 0, 10)
    assert not again.has("a", 0, 11)
    again.add("c", 0, 5)
    assert Journal(path).done == {("a", 0): 10, ("c", 0): 5}


def test_what_perfwatt_exposed_comes_back_as_it_was(
    prometheus: Serve, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    labels = 'device="GPU-a",host="n1",vendor="NVIDIA",model="H100",instance="n1:9400",job="perfwatt"'
    text = "\n".join(
        [
            "# TYPE accel_power_watts gauge",
            *(f'accel_power_watts{{{labels},method="average",scope="device"}} {300 + n} {T0 + n}' for n in range(5)),
            "# TYPE accel_throttle_seconds gauge",
            f'accel_throttle_seconds_total{{{labels},reason="power"}} 1.5 {T0}',
            "# TYPE facility_meter_power_watts gauge",
            f'facility_meter_power_watts{{meter="m1",site="s1",instance="n1:9400"}} 5000 {T0}',
            "# TYPE workload_tokens gauge",
            f'workload_tokens_total{{workload="w1",host="n1",direction="out",instance="n1:9400"}} 77 {T0}',
            "# TYPE accel_info gauge",
            f'accel_info{{{labels},serial="123",ordinal="3"}} 1 {T0}',
            "# EOF",
            "",
        ]
    )
    with prometheus(text) as url:
        report = run(url, store, hours=1)
    assert report.ok
    rows = stored("device_samples").sort("time")
    assert rows["power_w"].to_list() == [300, 301, 302, 303, 304]
    assert rows["throttle_power_s"].to_list() == [1.5, None, None, None, None]
    assert rows["power_method"].to_list() == ["average"] * 5
    assert stored("facility_samples").select("meter", "site", "meter_power_w").row(0) == ("m1", "s1", 5000.0)
    assert stored("workload_samples").select("workload", "tokens_out").row(0) == ("w1", 77.0)
    assert stored("devices").select("device", "serial", "ordinal").row(0) == ("GPU-a", "123", 3)


def test_a_server_that_is_not_there_is_a_retryable_error() -> None:
    with pytest.raises(SourceUnavailable, match="4 attempts"):
        run("http://127.0.0.1:9", None, hours=1)


@pytest.mark.parametrize("url", ["node7:9090", "ftp://node7/", ""])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="URL"):
        Server(url)


def test_a_wrong_matcher_is_the_servers_answer(prometheus: Serve) -> None:
    with prometheus(dcgm(hours=0.1)) as url, pytest.raises(ImportFailed, match="parse error"):
        run(url, None, hours=1, match="job=")


class Flaky(BaseHTTPRequestHandler):
    """Fails every other time, and finds a query over more than an hour too much."""

    calls: list[str] = []

    def do_GET(self) -> None:
        self._answer(["node0:9400"] if "/label/instance/" in self.path else ["accel_power_watts"])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        range_ms = int(body.split("%5B")[1].split("ms")[0])
        if range_ms > 3_600_000:
            self._send(422, {"status": "error", "error": "query processing would load too many samples into memory"})
            return
        end = float(body.split("time=")[1])
        metric = {"__name__": "accel_power_watts", "device": "GPU-a", "instance": "node0:9400"}
        # As Prometheus 2 does, the sample at the left end is given too.
        values = [[end - range_ms / 1000, "1"], [end, "1"]]
        self._answer({"resultType": "matrix", "result": [{"metric": metric, "values": values}]})

    def _answer(self, data: object) -> None:
        self.calls.append(self.path)
        if len(self.calls) % 2:
            self._send(503, {"status": "error", "error": "shutting down"})
        else:
            self._send(200, {"status": "success", "data": data})

    def _send(self, code: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_failing_server_is_asked_again_and_a_too_large_question_is_halved(flaky: str) -> None:
    series = Server(flaky).samples('{__name__="accel_power_watts"}', T0 * 1000, T0 * 1000 + 4 * 3_600_000)
    stamps = [at for one in series for at, _ in one.points]
    assert len(stamps) == len(set(stamps)) == 4, "the ends that two questions share are counted once"
    assert all(T0 * 1000 <= at < T0 * 1000 + 4 * 3_600_000 for at in stamps)
