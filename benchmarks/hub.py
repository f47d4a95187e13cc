"""
One process as the hub of a site: 1,000 targets of 640 series each, every 15 s.

A second process plays the exporters (16 devices with 40 of dcgm-exporter's metrics each, values that change from scrape
to scrape) and notes when each target was asked, so that punctuality is seen from outside. Four parts: the parser beside
the client library's on the same text; the source with all targets alive; with 200 of them refusing or hanging; the
whole agent, which also stores and serves what comes.

``python -m benchmarks.hub --part calm`` runs one part; ``--serve`` and ``--hub`` are the other processes.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

TARGETS = 1_000
BROKEN = 200
DEVICES = 16
INTERVAL_S = 15.0
ROUNDS = 3
BLANK = b"#########"

NAMES = [
    *("POWER_USAGE", "POWER_USAGE_INSTANT", "ENFORCED_POWER_LIMIT", "POWER_MGMT_LIMIT", "TOTAL_ENERGY_CONSUMPTION"),
    *("GPU_UTIL", "MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL", "SM_CLOCK", "MEM_CLOCK", "VIDEO_CLOCK", "PSTATE"),
    *("GPU_TEMP", "MEMORY_TEMP", "GPU_TEMP_LIMIT", "SLOWDOWN_TEMP", "SHUTDOWN_TEMP", "FB_USED", "FB_FREE"),
    *("FB_RESERVED", "PCIE_LINK_GEN", "PCIE_LINK_WIDTH", "PCIE_REPLAY_COUNTER", "POWER_VIOLATION", "THERMAL_VIOLATION"),
    *("SYNC_BOOST_VIOLATION", "BOARD_LIMIT_VIOLATION", "ECC_SBE_VOL_TOTAL", "ECC_DBE_VOL_TOTAL"),
    *("CORRECTABLE_REMAPPED_ROWS", "UNCORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_FAILURE"),
]
PROF = [
    *("GR_ENGINE_ACTIVE", "SM_ACTIVE", "SM_OCCUPANCY", "PIPE_TENSOR_ACTIVE", "DRAM_ACTIVE"),
    *("PCIE_TX_BYTES", "PCIE_RX_BYTES"),
]


def template(target: int) -> bytes:
    """A target's text with a blank of nine characters for each value."""
    lines = []
    for name in [f"DCGM_FI_DEV_{name}" for name in NAMES] + [f"DCGM_FI_PROF_{name}" for name in PROF]:
        lines.append(f"# HELP {name} what it is (in its unit).\n# TYPE {name} gauge")
        for gpu in range(DEVICES):
            lines.append(
                f'{name}{{gpu="{gpu}",UUID="GPU-{target:08x}-4a1b-11ee-be56-{gpu:012x}",'
                f'pci_bus_id="00000000:{gpu:02X}:00.0",device="nvidia{gpu}",modelName="NVIDIA H100 80GB HBM3",'
                f'Hostname="node{target:04d}",DCGM_FI_DRIVER_VERSION="550.90.07"}} {BLANK.decode()}'
            )
    return ("\n".join(lines) + "\n").encode()


def filled(text: bytes, scrape: int) -> bytes:
    """*text* with a value in each blank, another one for each *scrape*."""
    # Within 0 and 1, so that every metric can hold it.
    return text.replace(BLANK, b"0.%06d" % (1 + scrape * 7919 % 999_999))


# ----------------------------------------------------------------------------------------------- the exporters' process


class Exporters(asyncio.Protocol):
    """The least server that keeps connections: it reads the path, and answers from what was made before."""

    templates: dict[int, bytes] = {}
    asked: dict[int, list[float]] = {}
    hanging: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            self.answer(head.split(b" ", 2)[1].decode())

    def answer(self, path: str) -> None:
        if path == "/asked":
            body = json.dumps(self.asked).encode()
        else:
            target = int(path.rpartition("/")[2])
            times = self.asked.setdefault(target, [])
            times.append(time.monotonic())
            if target in self.hanging:
                return
            text = self.templates.get(target)
            if text is None:
                text = self.templates[target] = template(target)
            body = filled(text, target + len(times))
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.transport.write(body)


async def serve(port: int, hanging: int) -> None:
    Exporters.hanging = set(range(hanging))
    server = await asyncio.get_running_loop().create_server(Exporters, "127.0.0.1", port, backlog=4096)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def exporters(hanging: int = 0) -> Iterator[int]:
    """The port of a process that plays the exporters; it ends when its input does."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hub", "--serve", str(port), "--hanging", str(hanging)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield port
    finally:
        process.communicate()


def asked(port: int) -> dict[int, list[float]]:
    """When each target was asked, by the exporters' clock."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(b"GET /asked HTTP/1.1\r\nHost: x\r\n\r\n")
        with link.makefile("rb") as answer:
            length = 0
            while (line := answer.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return {int(target): times for target, times in json.loads(answer.read(length)).items()}


# ---------------------------------------------------------------------------------------------------- the hub's process


def hub(port: int, refused: int, hanging: int) -> dict[str, Any]:
    """Scrape for some rounds, in a process of its own; what it cost and what came."""
    from collector.sources.scrape import open_scrape

    dead = free_port()
    targets = [f"http://127.0.0.1:{port}/t/{n}" for n in range(refused, TARGETS)]
    targets += [f"http://127.0.0.1:{dead}/t/{n}" for n in range(refused)]
    counts: dict[str, int] = {}
    good: dict[str, int] = {}
    times: list[float] = []
    values = 0
    warm: tuple[float, float] | None = None
    began = time.monotonic()
    cpu_began = time.process_time()
    # Round 0 meets every target for the first time; what follows is what a hub does all day.
    with open_scrape({"targets": targets, "interval_s": INTERVAL_S, "timeout_s": 10}, "hub") as scrape:
        while True:
            elapsed = time.monotonic() - began
            if warm is None and elapsed >= 2 * INTERVAL_S:
                warm = elapsed, time.process_time()
                counts, good, times, values = {}, {}, [], 0
            if warm is not None and elapsed >= warm[0] + ROUNDS * INTERVAL_S:
                break
            readings = list(scrape.tick(0.5))
            for reading in readings:
                reason = reading.gap.reason if reading.gap else "ok"
                counts[reason] = counts.get(reason, 0) + 1
                if reading.gap is None:
                    good[reading.source] = good.get(reading.source, 0) + 1
                    times.append(reading.read_s)
                    values += sum(len(sample.values) for sample in reading.samples)
            time.sleep(max(0.0, 1.0 - (time.monotonic() - began - elapsed)))
        assert warm is not None
        window_s = time.monotonic() - began - warm[0]
        cpu_s = time.process_time() - warm[1]
    return {
        "window_s": window_s,
        "cpu_cores": cpu_s / window_s,
        "cpu_first_round_s": warm[1] - cpu_began,
        "resident_bytes": resident(),
        "counts": counts,
        "values": values,
        "targets_read": len(good),
        "fewest_reads": min(good.values(), default=0),
        "read_s": sorted(times),
        "hanging": hanging,
        "warm_from": began + warm[0],
    }


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def measured(*, refused: int = 0, hanging: int = 0) -> tuple[dict[str, Any], list[float]]:
    """One hub process against the exporters: its account, and each living target's lateness in every interval."""
    with exporters(hanging + refused if hanging else 0) as port:
        command = [sys.executable, "-m", "benchmarks.hub", "--hub", str(port), "--refused", str(refused)]
        command += ["--hanging", str(hanging)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        seen = asked(port)
    late: list[float] = []
    for target, moments in seen.items():
        if target < refused + hanging:
            continue
        # Both processes read the same clock; what was before the hub was warm is its first round.
        steady = [moment for moment in moments if moment >= told["warm_from"]]
        late.extend(abs(after - before - INTERVAL_S) for before, after in pairwise(steady))
    return told, sorted(late)


def at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


# ------------------------------------------------------------------------------------------------------------- the rows


def parser_rows() -> list[Row]:
    from prometheus_client.parser import text_string_to_metric_families

    from collector.sources.scrape_mapping import tables
    from collector.sources.scrape_series import Reader

    text = template(1)
    bodies = [filled(text, n) for n in range(8)]
    series = len(NAMES + PROF) * DEVICES
    reader = Reader(tables(), source="scrape:benchmark", host="h", instance="h:9400")
    began = time.process_time()
    values = sum(len(s.values) for s in reader.read(bodies[0], time_ns=time.time_ns()).samples)
    first_s = time.process_time() - began
    # Interleaved, so that what disturbs one disturbs the other; the best of each is what it can do.
    ours, theirs = [], []
    for _ in range(5):
        began = time.process_time()
        for n in range(40):
            reader.read(bodies[n % 8], time_ns=time.time_ns())
        ours.append(40 * series / (time.process_time() - began))
        began = time.process_time()
        count = sum(
            len(family.samples) for n in range(2) for family in text_string_to_metric_families(bodies[n].decode())
        )
        theirs.append(count / (time.process_time() - began))
    speed, peer = max(ours), max(theirs)
    return [
        Row(
            benchmark="hub", subject="parser with mapping", measure="samples per second and core", value=speed,
            unit="samples/s", peer="prometheus_client parser", peer_value=peer, bar=">= 200,000",
            ok=speed >= 200_000 and values == series,
        ),
        Row(
            benchmark="hub", subject="parser with mapping", measure="times the library's speed", value=speed / peer,
            unit="x", peer="prometheus_client parser", peer_value=1.0,
        ),
        Row(
            benchmark="hub", subject="parser, first scrape of a target", measure="samples per second and core",
            value=series / first_s, unit="samples/s", peer="prometheus_client parser", peer_value=peer,
        ),
    ]  # fmt: skip


def hub_rows(name: str, told: dict[str, Any], late: list[float], calm: list[float] | None) -> list[Row]:
    def row(
        measure: str, value: float, unit: str, bar: str = "", ok: bool | None = None, peer: float | None = None
    ) -> Row:
        return Row(
            benchmark="hub", subject=name, measure=measure, value=value, unit=unit, bar=bar, ok=ok,
            peer="without broken targets" if peer is not None else None, peer_value=peer,
        )  # fmt: skip

    broken = told["hanging"] + (BROKEN - told["hanging"] if calm is not None else 0)
    living = TARGETS - broken
    on_time = sum(value <= 0.5 for value in late) / len(late) if late else 0.0
    expected = told["window_s"] / INTERVAL_S * living
    rows = [
        row("CPU", told["cpu_cores"], "cores", "<= 1", told["cpu_cores"] <= 1.0),
        row("peak resident", told["resident_bytes"] / 1e6, "MB", "<= 1000", told["resident_bytes"] <= 1e9),
        row("scrapes read of those due", told["counts"].get("ok", 0) / expected, "", ">= 0.99",
            told["counts"].get("ok", 0) >= 0.99 * expected),
        row("values taken", told["values"] / told["window_s"], "samples/s"),
        row("scrapes within 0.5 s of their turn", on_time, "", ">= 0.99", on_time >= 0.99),
        row("lateness of the living, median", at(late, 0.5) * 1e3, "ms", peer=at(calm, 0.5) * 1e3 if calm else None),
        row("lateness of the living, p99", at(late, 0.99) * 1e3, "ms",
            "within 50 ms of the same hub without them" if calm else "",
            at(late, 0.99) <= at(calm, 0.99) + 0.05 if calm else None, at(calm, 0.99) * 1e3 if calm else None),
        row("scrape with parsing, p99", at(told["read_s"], 0.99) * 1e3, "ms"),
        row("CPU of the first round, which meets each series", told["cpu_first_round_s"], "s"),
    ]  # fmt: skip
    return rows


def family(pid: int) -> list[int]:
    """*pid* and the processes it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def cpu_s(pid: int) -> float:
    """CPU seconds of *pid*, with those of its children that ended."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")


def proportional_bytes(pid: int) -> int:
    """Memory of *pid*, with what it shares counted in parts."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError("no Pss in smaps_rollup")


def agent_rows() -> list[Row]:
    """The whole agent as a hub: worker, wire, store and metrics page; all its processes together."""
    import duckdb

    name = "perfwatt agent as the hub, storing and serving"
    with exporters() as port, tempfile.TemporaryDirectory() as folder:
        targets = [f"http://127.0.0.1:{port}/t/{n}" for n in range(TARGETS)]
        config = Path(folder) / "perfwatt.toml"
        config.write_text(
            f"[[source]]\ntype = 'scrape'\nname = 'fleet'\ninterval_s = {INTERVAL_S}\ntargets = {json.dumps(targets)}\n"
        )
        store = Path(folder) / "store"
        command = [str(Path(sys.executable).parent / "perfwatt"), "agent", "--config", str(config)]
        command += ["--store", str(store), "--listen", f"127.0.0.1:{free_port()}"]
        with (Path(folder) / "log").open("w") as log:
            agent = subprocess.Popen(command, stderr=log)
            try:
                time.sleep(2 * INTERVAL_S)
                warm, began = time.monotonic(), {pid: cpu_s(pid) for pid in family(agent.pid)}
                peak = 0
                while time.monotonic() < warm + ROUNDS * INTERVAL_S:
                    peak = max(peak, sum(proportional_bytes(pid) for pid in family(agent.pid)))
                    time.sleep(2.0)
                window_s = time.monotonic() - warm
                spent = sum(cpu_s(pid) - began.get(pid, 0.0) for pid in family(agent.pid))
                # What came in the last seconds may be on its way when the agent is told to end.
                settled = time.monotonic()
                time.sleep(4.0)
            finally:
                agent.terminate()
                agent.wait()
        seen = asked(port)
        files = str(store / "device_samples" / "*" / "*.parquet")
        rows_stored, rounds = duckdb.execute(
            f"select count(*), count(*) / count(distinct device) from read_parquet('{files}', union_by_name=true)"
        ).fetchall()[0]
    late = sorted(
        abs(after - before - INTERVAL_S)
        for moments in seen.values()
        for before, after in pairwise([moment for moment in moments if moment >= warm])
    )
    scrapes = sum(moment < settled for moments in seen.values() for moment in moments)
    cores = spent / window_s

    def row(measure: str, value: float, unit: str, bar: str = "", ok: bool | None = None) -> Row:
        return Row(benchmark="hub", subject=name, measure=measure, value=value, unit=unit, bar=bar, ok=ok)

    return [
        row("CPU, all processes", cores, "cores", "<= 1", cores <= 1.0),
        row("memory, all processes, peak", peak / 1e6, "MB", "<= 1000", peak <= 1e9),
        row("samples stored per sample scraped", rows_stored / (scrapes * DEVICES), "", ">= 0.99",
            rows_stored >= 0.99 * scrapes * DEVICES),
        row("scrapes of each device stored", rounds, ""),
        row("lateness, p99", at(late, 0.99) * 1e3, "ms"),
    ]  # fmt: skip


def run() -> list[Row]:
    """All parts, about four minutes."""
    rows = parser_rows()
    told, calm = measured()
    rows += hub_rows("1,000 targets of 640 series every 15 s", told, calm, None)
    told, late = measured(refused=BROKEN // 2, hanging=BROKEN // 2)
    rows += hub_rows("the same, 100 refusing and 100 hanging", told, late, calm)
    return rows + agent_rows()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--serve", type=int)
    options.add_argument("--hub", type=int)
    options.add_argument("--refused", type=int, default=0)
    options.add_argument("--hanging", type=int, default=0)
    options.add_argument("--part", choices=("parser", "calm", "broken", "agent"))
    given = options.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.hanging))
    elif given.hub:
        print(json.dumps(hub(given.hub, given.refused, given.hanging)))
        sys.stdout.flush()
        os._exit(0)
    elif given.part == "parser":
        print(*parser_rows(), sep="\n")
    elif given.part == "agent":
        print(*agent_rows(), sep="\n")
    else:
        parts = {"calm": {}, "broken": {"refused": BROKEN // 2, "hanging": BROKEN // 2}}
        told, late = measured(**parts[given.part])
        print(*hub_rows(given.part, told, late, late if given.part == "broken" else None), sep="\n")
        print(told["counts"])


if __name__ == "__main__":
    main()
