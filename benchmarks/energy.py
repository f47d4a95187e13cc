"""
Energy at size: energy, its attribution and 5-minute windows of a day of 10,000 devices at 10 s in one pass, beside the
same three answers in plain SQL, and in PromQL on a size that all can do; and what a page of 1,000 devices costs, and
the ledger of where their joules went beside the one pass.

Each job runs in a process of its own, which says its time and its largest memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from analytics.attribution import account
from analytics.fleet import Fleet
from analytics.frames import by_device, scan
from analytics.frames_ledger import read_ledger
from benchmarks.rows import Row
from benchmarks.store_fleet import Sampled, Series
from benchmarks.store_peers import VictoriaMetrics
from collector.catalogue import ENERGY, POWER, UTILIZATION
from collector.store import Coded, Store
from dashboards.data.fleet import view
from dashboards.data.stored import Stored
from dashboards.selection import Selection

BENCHMARK = "energy"
START_S, DAY_S, STEP_S = 1_788_220_800, 86_400, 10
CHUNK, CHUNKS, PEER_CHUNKS, PAGE_CHUNKS, PROMQL_CHUNKS = 250, 40, 8, 4, 2
DEVICES_A_HOST, IDLE_RATIO = 8, 0.01
THREADS, MEMORY = 2, "6GB"
BAR_S, BAR_MB, BAR_PAGE_S, BAR_LEDGER = 60.0, 6000.0, 3.0, 2.0
WINDOWS = ("1h", "6h", "24h")


def run() -> list[Row]:
    """Write the day, then give it to each."""
    folder = Path(tempfile.mkdtemp(prefix="perfwatt-energy-"))
    try:
        files = _written(folder / "day")
        smaller = {"peers": PEER_CHUNKS, "page": PAGE_CHUNKS, "promql": PROMQL_CHUNKS}
        peers, page, promql = (_linked(folder / name, files[: 2 * count]) for name, count in smaller.items())
        whole, ours, theirs = _child("ours", folder / "day"), _child("ours", peers), _child("sql", peers)
        least = [_child(job, promql) for job in ("ours", "sql", "promql")]
        pages = [_child("page", page, window) for window in WINDOWS]
        passed, causes = _child("ours", page), _child("ledger", page)
    finally:
        shutil.rmtree(folder)
    apart = max(abs(ours[name] / theirs[name] - 1) for name in ("energy_j", "used_j", "idle_j", "unallocated_j"))
    subject = f"{CHUNK * CHUNKS:,} devices, a day at {STEP_S} s: {whole['rows'] / 1e6:.1f} M rows"
    smaller_subject = f"{CHUNK * PEER_CHUNKS:,} devices, a day at {STEP_S} s: {ours['rows'] / 1e6:.1f} M rows"
    least_subject = f"{CHUNK * PROMQL_CHUNKS:,} devices, a day at {STEP_S} s: {least[0]['rows'] / 1e6:.1f} M rows"
    what = "energy, attribution and 5-minute windows"
    sql = f"plain DuckDB SQL, {THREADS} threads"
    return [
        Row(
            benchmark=BENCHMARK, subject=subject, measure=f"{what}, one pass", value=whole["took_s"], unit="s",
            bar=f"<= {BAR_S:g} s", ok=whole["took_s"] <= BAR_S,
        ),
        Row(
            benchmark=BENCHMARK, subject=subject, measure=f"{what}, one pass", value=whole["processor_s"], unit="CPU s",
        ),
        Row(
            benchmark=BENCHMARK, subject=subject, measure="largest memory", value=whole["memory_mb"], unit="MB",
            bar=f"<= {BAR_MB:g} MB", ok=whole["memory_mb"] <= BAR_MB,
        ),
        Row(
            benchmark=BENCHMARK, subject=smaller_subject, measure=what, value=ours["rows"] / ours["took_s"],
            unit="rows/s", peer=sql, peer_value=theirs["rows"] / theirs["took_s"],
        ),
        Row(
            benchmark=BENCHMARK, subject=smaller_subject, measure="largest memory", value=ours["memory_mb"], unit="MB",
            peer=sql, peer_value=theirs["memory_mb"],
        ),
        Row(
            benchmark=BENCHMARK, subject=smaller_subject, measure="used, idle and unallocated energy, off the SQL's",
            value=apart, unit="", bar="< 1e-9", ok=apart < 1e-9,
        ),
        *(
            Row(
                benchmark=BENCHMARK, subject=least_subject, measure=what, value=least[0]["rows"] / least[0]["took_s"],
                unit="rows/s", peer=peer, peer_value=other["rows"] / other["took_s"],
            )
            for peer, other in zip((sql, "PromQL on VictoriaMetrics, by 5 minutes"), least[1:], strict=True)
        ),
        Row(
            benchmark=BENCHMARK, subject=least_subject, measure="used energy, off the SQL's", unit="",
            value=abs(least[0]["used_j"] / least[1]["used_j"] - 1), peer="PromQL on VictoriaMetrics, by 5 minutes",
            peer_value=abs(least[2]["used_j"] / least[1]["used_j"] - 1),
        ),
        *(
            Row(
                benchmark=BENCHMARK, subject=f"{CHUNK * PAGE_CHUNKS:,} devices at {STEP_S} s, by host",
                measure=f"first page, {window}, nothing kept", value=page["processor_s"], unit="CPU s",
                bar=f"< {BAR_PAGE_S:g} s", ok=page["processor_s"] < BAR_PAGE_S,
            )
            for window, page in zip(WINDOWS, pages, strict=True)
        ),
        Row(
            benchmark=BENCHMARK, subject=f"{CHUNK * PAGE_CHUNKS:,} devices, a day at {STEP_S} s",
            measure="the ledger by cause, over the one pass", value=causes["processor_s"] / passed["processor_s"],
            unit="", bar=f"<= {BAR_LEDGER:g}", ok=causes["processor_s"] <= BAR_LEDGER * passed["processor_s"],
        ),
    ]  # fmt: skip


def _written(root: Path) -> list[Path]:
    """A day of the fleet and its allocations, a segment for each chunk of devices."""
    store = Store.create(root)
    return [
        segment.path
        for chunk in range(CHUNKS)
        for table, columns in _chunk(chunk).items()
        for segment in store.write(table, columns)
    ]


def _chunk(chunk: int) -> dict[str, dict[str, object]]:
    """Hours of work and of idleness by device; jobs that hold a host's devices from minute to minute, with pauses."""
    rng, steps = np.random.default_rng(chunk), DAY_S // STEP_S
    number = np.arange(CHUNK, dtype=np.int32)
    names = tuple(f"GPU-{chunk:04x}{n:04x}-5d1c-4c3e-9b1a-{n * 7919:012x}" for n in number)
    hosts = tuple(f"host-{chunk}-{n:02d}" for n in range(-(-CHUNK // DEVICES_A_HOST)))
    busy = (rng.random((CHUNK, DAY_S // 3600)) < 0.85).repeat(3600 // STEP_S, axis=1)
    utilization = np.where(busy, rng.random((CHUNK, steps)), 0.0).round(2)
    level = rng.uniform(300, 650, (CHUNK, 1)) * busy + 90
    power = np.clip(level + rng.normal(0, 12, (CHUNK, steps)), 60, 700).round(3)
    device = Coded(number.repeat(steps), names)
    samples = {
        "device": device,
        "source": Coded(np.zeros(CHUNK * steps, np.int8), ("nvml",)),
        "host": Coded((number // DEVICES_A_HOST).repeat(steps), hosts),
        "time": np.tile(_moments(np.arange(steps) * STEP_S), CHUNK),
        POWER.column: power.ravel(),
        ENERGY.column: (np.cumsum(power, axis=1) * STEP_S).round(3).ravel(),
        UTILIZATION.column: utilization.ravel(),
    }
    holds: list[tuple[int, str, int, int]] = []
    for host in range(len(hosts)):
        at = int(rng.integers(0, 3600))
        while at < DAY_S - 3600:
            end = min(DAY_S, at + 60 * int(rng.integers(30, 360)))
            job = f"job-{chunk}-{host}-{at}"
            holds += [(n, job, at, end) for n in range(host * DEVICES_A_HOST, min(CHUNK, (host + 1) * DEVICES_A_HOST))]
            at = end + 60 * int(rng.integers(1, 40))
    of, jobs, starts, ends = zip(*holds, strict=True)
    allocations: dict[str, object] = {
        "workload": np.array(jobs, object),
        "device": np.array([names[n] for n in of], object),
        "start": _moments(np.array(starts)), "end": _moments(np.array(ends)), "time": _moments(np.array(starts)),
        "host": np.array([hosts[n // DEVICES_A_HOST] for n in of], object),
    }  # fmt: skip
    return {"device_samples": samples, "allocations": allocations}


def _moments(seconds: np.ndarray) -> np.ndarray:
    return (START_S + seconds).astype("datetime64[s]").astype("datetime64[ns]")


def _linked(root: Path, files: list[Path]) -> Path:
    """A store of some of the same segments."""
    for file in files:
        place = root.joinpath(*file.parts[-3:])
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, place)
    return root


def _child(job: str, root: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.energy", job, str(root), *words]
    place = Path(__file__).parents[1]
    environment = os.environ | {"POLARS_MAX_THREADS": str(THREADS)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _ours(root: Path) -> dict[str, float]:
    found = account(
        by_device(root, "device_samples"), scan(root, "allocations"), windows="5m", idle_ratio=IDLE_RATIO,
        threads=THREADS,
    )  # fmt: skip
    devices = found.windows.group_by("device").agg(pl.col("energy_j").sum())
    kinds = dict(found.lines.group_by("kind").agg(pl.col("energy_j").sum()).iter_rows())
    return {
        "energy_j": float(devices["energy_j"].sum()), "windows": found.windows.height, "rows": _rows(root),
        **{f"{kind}_j": float(joules) for kind, joules in kinds.items()},
    }  # fmt: skip


def _sql(root: Path) -> dict[str, float]:
    """What a careful reader of the store would write, less what energy has beyond it: trust, sources, overlaps."""
    connection = duckdb.connect(config={"threads": THREADS, "memory_limit": MEMORY, "temp_directory": str(root)})
    for statement in (
        f"""
        CREATE TEMP TABLE steps AS
        SELECT device, host, before AS begin, time, power_w, before_w,
               epoch_ns(time) // 300000000000 AS part, (epoch_ns(time) - epoch_ns(before)) / 1e9 AS apart_s,
               CASE WHEN energy_j >= before_j THEN energy_j - before_j END AS joules,
               (utilization_ratio + before_u) / 2 <= {IDLE_RATIO} AS idle
        FROM (SELECT device, host, time, power_w::DOUBLE AS power_w, energy_j::DOUBLE AS energy_j,
                     utilization_ratio::DOUBLE AS utilization_ratio, lag(time) OVER series AS before,
                     lag(power_w::DOUBLE) OVER series AS before_w, lag(energy_j::DOUBLE) OVER series AS before_j,
                     lag(utilization_ratio::DOUBLE) OVER series AS before_u
              FROM read_parquet('{root}/device_samples/*/*.parquet')
              WINDOW series AS (PARTITION BY device, source ORDER BY time))""",
        """
        CREATE TEMP TABLE windows AS
        SELECT device, part, sum(joules) AS energy_j, sum(apart_s) FILTER (apart_s <= 3600) AS covered_s,
               sum((power_w + before_w) / 2 * apart_s) FILTER (apart_s <= 30) AS power_j,
               min(power_w) AS power_min_w, max(power_w) AS power_max_w, last(host) AS host
        FROM steps GROUP BY device, part""",
        f"""
        CREATE TEMP TABLE lines AS
        SELECT workload, idle, s.device,
               sum(joules * (epoch_ns(least(a."end", s.time)) - epoch_ns(greatest(a.start, s.begin))) / 1e9 / apart_s)
                   AS energy_j
        FROM steps s JOIN read_parquet('{root}/allocations/*/*.parquet') a
          ON s.device = a.device AND a.start < s.time AND a."end" > s.begin
        GROUP BY workload, idle, s.device""",
    ):
        connection.execute(statement).fetchall()
    joules, windows = connection.execute("SELECT sum(energy_j), count(*) FROM windows").fetchall()[0]
    held = dict(connection.execute("SELECT idle, sum(energy_j) FROM lines GROUP BY idle").fetchall())
    return {
        "energy_j": joules, "windows": windows, "rows": _rows(root), "used_j": held[False], "idle_j": held[True],
        "unallocated_j": joules - held[False] - held[True],
    }  # fmt: skip


@dataclass(frozen=True)
class _Held(Sampled):
    """Samples, and who held each device as a series of ones, as schedulers' exporters give it."""

    holds: Sequence[tuple[str, str, int, int]] = ()

    def series(self) -> Iterator[Series]:
        yield from super().series()
        moments = np.unique(self.time_ms)
        for device, workload, start_ms, end_ms in self.holds:
            times = moments[(moments >= start_ms) & (moments < end_ms)]
            yield Series("allocation", {"device": device, "workload": workload}, times, np.ones(times.size))


def _promql(root: Path) -> dict[str, float]:
    """The same three answers, where edges of allocations and idleness need be no finer than 5 minutes."""
    rows = scan(root, "device_samples").select("device", "time", *_METRICS).sort("device", "time").collect()
    held = scan(root, "allocations").select("device", "workload", "start", "end").collect()
    words = tuple(rows["device"].unique(maintain_order=True))
    milliseconds = [pl.col(name).dt.epoch("ms") for name in ("start", "end")]
    data = _Held(
        name="fleet", table="device_samples", subject="device", words=words,
        codes=rows["device"].cast(pl.Enum(words)).to_physical().to_numpy(),
        time_ms=rows["time"].dt.epoch("ms").to_numpy(),
        metrics={metric: rows[metric.column].to_numpy() for metric in (POWER, ENERGY, UTILIZATION)},
        holds=held.select("device", "workload", *milliseconds).rows(),
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="perfwatt-promql-"))
    metrics = VictoriaMetrics(folder)
    try:
        metrics.ingest(data, attempts=1)
        energy, power, busy = (f"{metric.prometheus}" for metric in (ENERGY, POWER, UTILIZATION))
        steps = {"start": START_S + 300, "end": START_S + DAY_S, "step": 300}
        began = time.perf_counter()
        whole = metrics.query("/api/v1/query", query=f"increase({energy}[1d])", time=START_S + DAY_S)
        windows = [
            metrics.query("/api/v1/query_range", query=query, **steps)
            for query in (
                f"increase({energy}[5m])", f"min_over_time({power}[5m])", f"max_over_time({power}[5m])",
            )
        ]  # fmt: skip
        of_step = f"increase({energy}[5m]) * on(device) group_left(workload) allocation"
        idle = f"on(device) (avg_over_time({busy}[5m]) <= {IDLE_RATIO})"
        lines = [
            metrics.query("/api/v1/query_range", query=f"sum by (workload) ({query})", **steps)
            for query in (of_step, f"{of_step} and {idle}")
        ]
        took_s = time.perf_counter() - began
    finally:
        metrics.close()
        shutil.rmtree(folder)
    sums = [sum(float(value) for one in some for _, value in one["values"]) for some in lines]
    return {
        "energy_j": sum(float(one["value"][1]) for one in whole), "windows": len(windows[0]), "rows": _rows(root),
        "used_j": sums[0] - sums[1], "idle_j": sums[1], "took_s": took_s,
    }  # fmt: skip


_METRICS = (POWER.column, ENERGY.column, UTILIZATION.column)


def _page(root: Path, window: str) -> dict[str, float]:
    stored = Stored(root, clock_ns=lambda: (START_S + DAY_S) * 10**9)
    began = time.process_time()
    found = view(stored, Selection(window=window, by="host"))
    return {"processor_s": time.process_time() - began, "devices": found.totals.devices}


def _ledger(root: Path) -> dict[str, float]:
    began = time.process_time()
    lines = read_ledger(root, START_S * 10**9, (START_S + DAY_S) * 10**9, fleet=Fleet()).lines.collect()
    return {"processor_s": time.process_time() - began, "energy_j": float(lines["energy_j"].sum())}


def _rows(root: Path) -> int:
    files = f"{root}/device_samples/*/*.parquet"
    return int(duckdb.execute(f"SELECT sum(num_rows) FROM parquet_file_metadata('{files}')").fetchall()[0][0])


def _main(job: str, root: str, *words: str) -> None:
    began, spent = time.perf_counter(), time.process_time()
    jobs: dict[str, Callable[..., dict[str, float]]] = {
        "ours": _ours, "sql": _sql, "promql": _promql, "page": _page, "ledger": _ledger,
    }  # fmt: skip
    found = jobs[job](Path(root), *words)
    took, processor_s = time.perf_counter() - began, time.process_time() - spent
    # Not ru_maxrss, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    memory = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(json.dumps({"took_s": took, "processor_s": processor_s, "memory_mb": memory, **found}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
