"""
What the agent itself costs: 16 NVIDIA boards at 1 Hz, stored, scraped every 5 s; nvitop-exporter on the same library.

Both load the stub of libnvidia-ml.so.1 that the tests use, one after the other, for the same time and with the same
client. The boards are at work: each runs one process, which the peer looks up at every update and the agent every 30 s.
Without processes the peer does about half as much, so that is measured, too.

CPU is utime + stime of all of a program's processes from /proc, memory their resident sets added up, which counts
shared pages as often as they are mapped. A device-sample is one board read once: the agent's are rows in its store, the
peer's are counted by the library.

A minute seldom sees what the agent does by the clock: merging and publishing each five minutes, upkeep once an hour. So
that is measured apart, over an hour of rows, and each device-sample is charged its share; the peer stores nothing.
"""

import importlib.util
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.rows import Row
from collector.catalogue import Scope, metrics
from collector.sample import Process, Reading, Sample
from collector.store import Store
from collector.store.views import Publisher

ROOT = Path(__file__).parents[1]
STUB = ROOT / "tests/collector/sources"
BOARDS = 16
PERIOD_S = 1.0
SCRAPE_S = 5.0
WARM_S = 15.0
MEASURE_S = 60.0
ASIDE_S = 30.0
"""For the rows that have no bar."""
SCRAPES = 500
HOUR_S, STEP_S, SEAL_S = 3600, 300, 5
METRICS = 40
TICK = os.sysconf("SC_CLK_TCK")

# What the stub can tell and the peer never asks for; without it the agent reads 40 metrics of a board.
NOT_ASKED_BY_PEER = (
    *(f"field {number} 0" for number in (74, 75, 76, 77, 78, 79, 269, 270, 271)),
    *(f"field {number} 0" for number in (3, 4, 29, 30, 38, 45, 52, 59, 94, 142, 143, 144, 145)),
    "field 185 2",
    "nvmlDeviceGetViolationStatus",
    "nvmlDeviceGetPcieReplayCounter",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceWorkloadPowerProfileGetCurrentProfiles",
    "nvmlDeviceGetFanSpeedRPM",
)
TOO_MANY = (
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceRegisterEvents",
    "nvmlDeviceGetMinMaxClockOfPState",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetTemperatureThreshold",
)


@dataclass(frozen=True)
class Cost:
    """What a program used over a stretch; `shared_bytes` counts a page that several map once."""

    cpu_s: float
    wall_s: float
    resident_bytes: float
    shared_bytes: float
    samples: int
    processes: int
    scrapes_s: Sequence[float] = ()
    aside_s: float = 0.0
    """CPU seconds for each device-sample that the stretch does not show."""

    @property
    def core_ratio(self) -> float:
        return self.per_sample_s * self.samples / self.wall_s

    @property
    def per_sample_s(self) -> float:
        return self.cpu_s / self.samples + self.aside_s


def run() -> list[Row]:
    """The agent with 40 metrics of a board beside the peer (the bar); then without processes, and with all metrics."""
    with tempfile.TemporaryDirectory(prefix="perfwatt-bench-") as folder:
        here = Path(folder)
        aside_s = by_the_clock_s(here / "hour") / (BOARDS * HOUR_S)
        stub = make_stub(here)
        stub.reset(BOARDS)
        stub.switches.clock_ns = 0
        stub.deny(*NOT_ASKED_BY_PEER, *TOO_MANY)
        set_processes(stub, 1)
        agent = measure_agent(here / "forty", stub, MEASURE_S, aside_s)
        peer = measure_peer(here / "peer", stub, MEASURE_S)
        set_processes(stub, 0)
        idle = measure_agent(here / "idle", stub, ASIDE_S, aside_s)
        idle_peer = measure_peer(here / "idle-peer", stub, ASIDE_S)
        set_processes(stub, 1)
        stub.switches.denied_count = 0
        full = measure_agent(here / "full", stub, ASIDE_S, aside_s)
    return [
        *rows(agent, "agent, 40 metrics", peer, bar=True),
        *rows(idle, "agent, 40 metrics, no processes", idle_peer, bar=False),
        *rows(full, "agent, all metrics", peer, bar=False),
    ]


def set_processes(stub: Any, count: int) -> None:
    """Let each board run *count* processes: this one."""
    for board in range(BOARDS):
        stub.device[board].processes, stub.device[board].pid = count, os.getpid()


def rows(cost: Cost, subject: str, peer: Cost, *, bar: bool) -> list[Row]:
    """The rows of one run of the agent."""
    name = "nvitop-exporter"
    share = cost.per_sample_s / peer.per_sample_s
    p50, p99 = percentiles_s(cost)
    peer_p50, peer_p99 = percentiles_s(peer)

    def row(
        measure: str, value: float, unit: str, peer_value: float | None, limit: str = "", ok: bool | None = None
    ) -> Row:
        return Row(
            benchmark="agent",
            subject=subject,
            measure=measure,
            value=value,
            unit=unit,
            peer=name if peer_value is not None else None,
            peer_value=peer_value,
            bar=limit if bar else "",
            ok=ok if bar else None,
        )

    core, resident = cost.core_ratio * 100, cost.resident_bytes / 1e6
    return [
        row("CPU, all processes", core, "% of a core", peer.core_ratio * 100, "<= 1.5 %", core <= 1.5),
        row("resident, all processes", resident, "MB", peer.resident_bytes / 1e6, "<= 150 MB", resident <= 150),
        row("resident, shared pages once", cost.shared_bytes / 1e6, "MB", peer.shared_bytes / 1e6),
        row(
            "CPU per device-sample",
            cost.per_sample_s * 1e6,
            "us",
            peer.per_sample_s * 1e6,
            "<= 1/5 of the peer's",
            share <= 0.2,
        ),
        row("of that merging, publishing and upkeep", cost.aside_s * 1e6, "us", None),
        row("scrape, median", p50 * 1e3, "ms", peer_p50 * 1e3, "< 20 ms", p50 < 0.020),
        row("scrape, 99th percentile", p99 * 1e3, "ms", peer_p99 * 1e3, "< 20 ms", p99 < 0.020),
    ]


def percentiles_s(cost: Cost) -> tuple[float, float]:
    """The median and the 99th percentile of the scrapes."""
    found = statistics.quantiles(cost.scrapes_s, n=100)
    return found[49], found[98]


# ----------------------------------------------------------------------------------------------- what goes by the clock


def by_the_clock_s(folder: Path) -> float:
    """CPU seconds of merging, publishing and upkeep over an hour of 16 boards, each with METRICS metrics at 1 Hz."""
    store = Store.create(folder, threads=1, memory="96MB")
    clock_ns = [(time.time_ns() // 10**9 // HOUR_S - 1) * HOUR_S * 10**9]
    writer = store.writer("agent", background=False, publish=None, clock_ns=lambda: clock_ns[0])
    publisher = Publisher(store.root, store.files)
    publisher.publish()  # the first time all views are made, which is no matter of each hour
    used = 0.0
    for second in range(HOUR_S + SEAL_S):
        writer.take([readings_of(board, clock_ns[0], second) for board in range(BOARDS)])
        clock_ns[0] += 10**9
        if (second + 1) % SEAL_S == 0:
            writer.seal()
        if second % STEP_S == SEAL_S - 1 and second > SEAL_S:
            before = time.process_time()
            writer.compact()
            publisher.publish()
            used += time.process_time() - before
    before = children_s()
    subprocess.run([sys.executable, "-m", "collector.upkeep", str(store.root), "{}"], check=True, cwd=ROOT)
    used += children_s() - before
    writer.close()
    publisher.close()
    return used


def children_s() -> float:
    """CPU seconds of the processes that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def readings_of(board: int, time_ns: int, second: int) -> Reading:
    """What a board at work brings: half of its metrics move, and each 30 s it lists its process."""
    device = f"GPU-00000000-0000-0000-0000-{board:012}"
    values = {
        metric: (second * 37 + number * 11 + board) % 1000 / 10 if number < METRICS // 2 else 80.0
        for number, metric in enumerate(metrics(Scope.DEVICE)[:METRICS])
    }
    text = {"power_method": "average", "power_scope": "device"}
    sample = Sample(scope=Scope.DEVICE, subject=device, host="node", time_ns=time_ns, values=values, text=text)
    process = Process(time_ns=time_ns, device=device, host="node", pid=4711, name="python", memory_used_bytes=1e9)
    return Reading(source=f"nvml:{device}", samples=[sample], processes=[process] if second % 30 == 0 else ())


# ----------------------------------------------------------------------------------------------------- the programs


def measure_agent(home: Path, stub: Any, measure_s: float, aside_s: float) -> Cost:
    """Run ``perfwatt agent`` over the stub; *aside_s* is what each device-sample costs beside the stretch."""
    home.mkdir()
    port = free_port()
    store = home / "store"
    (home / "perfwatt.toml").write_text(
        f'[agent]\nperiod_s = {PERIOD_S}\n[store]\nroot = "{store}"\n[prometheus]\nlisten = "127.0.0.1:{port}"\n'
        f'[[source]]\ntype = "nvml"\nlibrary = "{stub.library}"\nsysfs = "/nonexistent"\n',
        encoding="utf-8",
    )
    command = [str(Path(sys.executable).with_name("perfwatt")), "agent", "--config", str(home / "perfwatt.toml")]
    with program(command, {"PERFWATT_STUB_NVML": str(stub.control_path)}, home / "log") as pid:
        url = f"http://127.0.0.1:{port}/metrics"
        wait_for(url, "accel_power_watts")
        with scraped(url):
            time.sleep(WARM_S)
            began_ns, before, began = time.time_ns(), cpu_s(pid), time.monotonic()
            time.sleep(measure_s)
            used, wall, ended_ns = cpu_s(pid) - before, time.monotonic() - began, time.time_ns()
            resident, shared, processes = memory(pid)
        times = scrape_times_s(url)
    # The agent seals as it ends, so that every row of the stretch is there to be counted.
    samples = stored_samples(store, began_ns, ended_ns)
    if samples < BOARDS * (measure_s / PERIOD_S) * 0.98:
        raise RuntimeError(f"the agent stored {samples} device-samples in {wall:.0f} s; see {home / 'log'}")
    return Cost(used, wall, resident, shared, samples, processes, times, aside_s)


def measure_peer(home: Path, stub: Any, measure_s: float) -> Cost:
    """Run nvitop-exporter over the stub."""
    home.mkdir()
    port = free_port()
    command = [peer_program(), "--bind-address", "127.0.0.1", "--port", str(port), "--interval", str(PERIOD_S)]
    environment = {"PERFWATT_STUB_NVML": str(stub.control_path), "LD_LIBRARY_PATH": str(stub.library.parent)}
    with program(command, environment, home / "log") as pid:
        url = f"http://127.0.0.1:{port}/metrics"
        wait_for(url, "gpu_power_usage_W")
        with scraped(url):
            time.sleep(WARM_S)
            reads, before, began = power_reads(stub), cpu_s(pid), time.monotonic()
            time.sleep(measure_s)
            used, wall, samples = cpu_s(pid) - before, time.monotonic() - began, power_reads(stub) - reads
            resident, shared, processes = memory(pid)
        times = scrape_times_s(url)
    return Cost(used, wall, resident, shared, samples, processes, times)


def peer_program() -> str:
    """Where nvitop-exporter is installed."""
    for place in (Path(sys.executable).parent, ROOT / ".venv-bench/bin"):
        if (place / "nvitop-exporter").exists():
            return str(place / "nvitop-exporter")
    raise FileNotFoundError("nvitop-exporter is not installed; `make bench` installs it")


@contextmanager
def program(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """Run a program while the block runs; ended as an operator ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, cwd=ROOT
        )
        try:
            yield process.pid
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended by itself: {log.read_text(errors='replace')[-2000:]}")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# ------------------------------------------------------------------------------------------------------- the client


def scrape(url: str) -> tuple[float, bytes]:
    """Seconds and text of one scrape."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read()
    return time.perf_counter() - began, text


def scrape_times_s(url: str) -> list[float]:
    """How long each of SCRAPES scrapes took, one after another with pauses."""
    times_s = []
    for _ in range(SCRAPES):
        time.sleep(0.05)
        times_s.append(scrape(url)[0])
    return times_s


def wait_for(url: str, word: str) -> None:
    """Wait until *word* is served."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if word.encode() in scrape(url)[1]:
                return
        except OSError:
            pass  # not listening yet
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not show {word} within 30 s")


@contextmanager
def scraped(url: str) -> Iterator[None]:
    """Scrape *url* every SCRAPE_S while the block runs."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(SCRAPE_S):
            scrape(url)

    client = threading.Thread(target=work)
    client.start()
    try:
        yield
    finally:
        stop.set()
        client.join()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# ----------------------------------------------------------------------------------------------------- the measures


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := stat_of(int(entry.name))) is not None:
            children.setdefault(int(found[1]), []).append(int(entry.name))
    found_pids, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found_pids.append(current)
        waiting += children.get(current, [])
    return found_pids


def stat_of(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None  # it ended


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, of those that descend from it, and of those that did and have ended."""
    total = 0
    for member in tree(pid):
        if (found := stat_of(member)) is not None:
            total += sum(int(value) for value in found[11:15])  # utime, stime, and those of children waited for
    return total / TICK


def memory(pid: int) -> tuple[float, float, int]:
    """Bytes resident and bytes with shared pages shared out, of all processes; and how many these are."""
    resident = shared = 0.0
    members = tree(pid)
    for member in members:
        for line in Path(f"/proc/{member}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Rss:"):
                resident += int(line.split()[1]) * 1024
            elif line.startswith("Pss:"):
                shared += int(line.split()[1]) * 1024
    return resident, shared, len(members)


def power_reads(stub: Any) -> int:
    """How often the peer read a board: it asks each for its power once an update."""
    return sum(int(stub.device[board].power_reads) for board in range(BOARDS))


def stored_samples(store: Path, began_ns: int, ended_ns: int) -> int:
    """Rows of device_samples within the stretch."""
    (found,) = duckdb.execute(
        f"SELECT count(*) FROM read_parquet('{store}/device_samples/*/*.parquet', union_by_name = true) "
        f"WHERE epoch_ns(time) BETWEEN {began_ns} AND {ended_ns}"
    ).fetchall()
    return int(found[0])


# --------------------------------------------------------------------------------------------------------- the stub


def make_stub(folder: Path) -> Any:
    """Compile the stub of the tests and open its switches."""
    if shutil.which("gcc") is None:
        raise FileNotFoundError("gcc is not installed; the stub of libnvidia-ml.so.1 is compiled with it")
    spec = importlib.util.spec_from_file_location("nvml_stub", STUB / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NvmlStub(*module.compile_stub(folder))


if __name__ == "__main__":
    for result in run():
        print(result)
