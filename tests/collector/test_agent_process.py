"""The agent as its users run it: a process with a configuration file, a store, a metrics page and signals."""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector import daemon
from collector.store import Store
from collector.store.files import WriterLock
from collector.store.store import UPKEEP
from collector.upkeep import retention

PATIENCE_S = 60.0
HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Process:
    """An agent, its files and its page."""

    home: Path
    port: int
    process: subprocess.Popen[str]

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def value(self, name: str, *labels: str) -> float | None:
        found = self.metrics()
        return next((v for k, v in found.items() if k.startswith(name) and all(label in k for label in labels)), None)

    def until(self, condition: Callable[[], bool]) -> None:
        # Polled, because it is another process; a failure shows its log.
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log
            try:
                if condition():
                    return
            except OSError:
                pass  # does not listen yet
            time.sleep(0.02)
        raise AssertionError(self.log)

    def end(self, number: int = signal.SIGTERM) -> float:
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        return time.monotonic() - began

    def rows(self, table: str, columns: str = "count(*)") -> list[Any]:
        pattern = f"{self.home}/store/{table}/*/*.parquet"
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{pattern}', union_by_name = true)").fetchall()


@pytest.fixture
def run(tmp_path: Path, control: Any) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*, source: str = "", seal_s: float = 0.2, env: dict[str, str] | None = None) -> Process:
        port = free_port()
        text = (
            f'[agent]\nperiod_s = 0.05\nhost = "node1"\n[store]\nroot = "{tmp_path}/store"\nseal_s = {seal_s}\n'
            f'[prometheus]\nlisten = "127.0.0.1:{port}"\n'
        )
        own = f'[[source]]\ntype = "fake_sources:open_fake"\nname = "fake"\ncontrol = "{control.folder}"\n'
        (tmp_path / "perfwatt.toml").write_text(text + (source or own))
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from collector.daemon import become; become('{tmp_path}/perfwatt.toml')",
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(env or {})},
            )
        started.append(Process(tmp_path, port, process))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.wait()
        if running.process.stdout is not None:
            running.process.stdout.close()


def test_what_is_read_is_served_and_stored_and_the_end_seals_it(run: Callable[..., Process], control: Any) -> None:
    control.put("GPU-1")
    agent = run(seal_s=600.0)
    agent.until(lambda: (agent.value("perfwatt_reads_total", 'source="fake:GPU-1"') or 0) > 20)
    assert agent.value("accel_power_watts", 'device="GPU-1"', 'host="node1"') is not None
    assert agent.value("perfwatt_source_up", 'source="fake:GPU-1"') == 1
    assert agent.value("perfwatt_resident_bytes", 'process="worker:fake"') is not None
    reads = agent.value("perfwatt_reads_total", 'source="fake:GPU-1"') or 0
    assert agent.end() < 2.0
    assert agent.process.returncode == 0
    assert "leaked" not in agent.log
    ((stored,),) = agent.rows("device_samples")
    assert stored >= reads
    assert agent.rows("devices", "DISTINCT device, host") == [("GPU-1", "node1")]


def test_it_ends_within_two_seconds_while_a_source_hangs_holding_the_interpreter(
    run: Callable[..., Process], control: Any
) -> None:
    control.put("GPU-1")
    agent = run()
    agent.until(lambda: (agent.value("perfwatt_reads_total", "fake:GPU-1") or 0) > 3)
    control.put("GPU-1", "freeze")
    agent.until(lambda: (agent.value("perfwatt_source_age_seconds", "fake:GPU-1") or 0) > 0.3)
    assert agent.end() < 2.0
    assert agent.process.returncode == 0
    assert not [pid for pid in control.pids if Path(f"/proc/{pid}").exists()]


def test_workers_do_not_outlive_an_agent_that_is_killed(run: Callable[..., Process], control: Any) -> None:
    control.put("GPU-1")
    agent = run()
    agent.until(lambda: (agent.value("perfwatt_reads_total", "fake:GPU-1") or 0) > 3)
    control.put("GPU-1", "freeze")
    agent.until(lambda: (agent.value("perfwatt_source_age_seconds", "fake:GPU-1") or 0) > 0.3)
    agent.end(signal.SIGKILL)
    until = time.monotonic() + PATIENCE_S
    while [pid for pid in control.pids if is_running(pid)] and time.monotonic() < until:
        time.sleep(0.01)
    assert not [pid for pid in control.pids if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_wrong_file_at_the_start_is_told_and_ends_it(run: Callable[..., Process]) -> None:
    agent = run(source='[[source]]\ntype = "nvml"\nperiod_s = -1\n')
    assert agent.process.wait(PATIENCE_S) == 2
    assert re.search(r"error=.*perfwatt.toml: source\[0\].period_s: is -1, below the least of 0.02", agent.log)


def test_a_wrong_option_of_a_source_is_told_and_ends_it(run: Callable[..., Process], control: Any) -> None:
    source = f'[[source]]\ntype = "fake_sources:open_fake"\ncontrol = "{control.folder}"\nwatts = 1\n'
    agent = run(source=source + 'name = "fake"\n')
    assert agent.process.wait(PATIENCE_S) == 2
    assert "source[0].watts: is no option of this source" in agent.log


def test_a_port_that_is_taken_is_told_and_ends_it(run: Callable[..., Process], control: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        agent = run(env={"PERFWATT_PROMETHEUS_LISTEN": f"127.0.0.1:{taken.getsockname()[1]}"})
        assert agent.process.wait(PATIENCE_S) == 2
    assert "prometheus.listen" in agent.log


def test_a_reload_of_a_wrong_file_keeps_the_old_one_and_of_a_right_one_takes_it(
    run: Callable[..., Process], control: Any
) -> None:
    control.put("GPU-1")
    agent = run()
    agent.until(lambda: (agent.value("perfwatt_reads_total", "fake:GPU-1") or 0) > 3)
    file = agent.home / "perfwatt.toml"
    right = file.read_text()
    file.write_text(right + "watts = 3\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.until(lambda: agent.value("perfwatt_config_reload_ok") == 0)
    assert "source[0].watts: is no option of this source" in agent.log
    reads = agent.value("perfwatt_reads_total", "fake:GPU-1") or 0
    agent.until(lambda: (agent.value("perfwatt_reads_total", "fake:GPU-1") or 0) > reads + 3)
    file.write_text(right + "rescan_s = 1.0\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.until(lambda: agent.value("perfwatt_config_reload_ok") == 1)
    assert len(agent.rows("events", "kind")) >= 1
    agent.end()
    assert ("config_refused",) in agent.rows("events", "kind")
    assert ("config_reloaded",) in agent.rows("events", "kind")


def test_a_store_that_cannot_be_written_stops_neither_reading_nor_serving(
    run: Callable[..., Process], control: Any, tmp_path: Path
) -> None:
    control.put("GPU-1")
    agent = run(seal_s=0.1)
    table, in_the_way = tmp_path / "store/device_samples", tmp_path / "in_the_way"
    agent.until(table.exists)
    in_the_way.write_text("no folder")
    for number in itertools.count():  # the writer may make the folder again in between
        with contextlib.suppress(OSError):
            table.rename(tmp_path / f"before-{number}")
            in_the_way.rename(table)
            break
    agent.until(lambda: (agent.value("perfwatt_store_errors_total") or 0) > 0)
    reads = agent.value("perfwatt_reads_total", "fake:GPU-1") or 0
    agent.until(lambda: (agent.value("perfwatt_reads_total", "fake:GPU-1") or 0) > reads + 10)
    assert (agent.value("perfwatt_queue_depth", 'queue="store"') or 0) > 0
    table.unlink()
    assert agent.end() < 2.0
    ((stored,),) = agent.rows("device_samples")
    assert stored > reads


def test_without_a_store_or_without_a_page_it_runs_on_the_other(run: Callable[..., Process], control: Any) -> None:
    control.put("GPU-1")
    agent = run(env={"PERFWATT_STORE_ROOT": ""})
    agent.until(lambda: (agent.value("perfwatt_reads_total", "fake:GPU-1") or 0) > 3)
    agent.end()
    assert not (agent.home / "store").exists()
    agent = run(env={"PERFWATT_PROMETHEUS_LISTEN": ""})
    agent.until((agent.home / "store/device_samples").exists)
    agent.end()
    assert agent.rows("device_samples")[0][0] > 0


def test_a_sink_that_does_not_close_does_not_keep_the_agent() -> None:
    hung = threading.Event()
    closed: list[str] = []
    began = time.monotonic()
    assert not daemon._close([hung.wait, lambda: closed.append("other")], began + 0.2)  # type: ignore[list-item]
    assert time.monotonic() - began < 1.5
    assert closed == ["other"]
    hung.set()
    assert daemon._close([lambda: None], time.monotonic() + 30)


@pytest.mark.parametrize(
    ("configured", "kept"),
    [
        ({"raw": 30}, {"device_samples": 30, "host_samples": 30}),
        ({"raw": 30, "host_samples": 0}, {"device_samples": 30, "host_samples": None}),
        ({"events": 90}, {"events": 90}),
    ],
)
def test_retention_is_by_table_and_raw_stands_for_the_samples(
    configured: dict[str, int], kept: dict[str, int | None]
) -> None:
    found = retention(configured)
    assert {table: found[table] for table in kept} == kept


def test_upkeep_of_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "collector.upkeep", str(tmp_path / "none"), "{}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 3
    assert "clean-up failed" in found.stderr


def test_upkeep_leaves_a_store_that_another_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "collector.upkeep", str(tmp_path), "{}"]
    with WriterLock(tmp_path, UPKEEP):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "another clean-up is under way" in done.stderr) == (0, True)


def test_upkeep_expires_what_is_older_than_it_should_be(tmp_path: Path) -> None:
    old = tmp_path / "device_samples/date=2020-01-01"
    old.mkdir(parents=True)
    duckdb.sql("SELECT 1 AS x").write_parquet(str(old / "a-0-1-1-00000000-00000000.parquet"))
    command = [sys.executable, "-m", "collector.upkeep", str(tmp_path), '{"raw": 3}']
    assert len(Store(tmp_path).segments("device_samples")) == 1
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert Store(tmp_path).segments("device_samples") == [], found.stderr
