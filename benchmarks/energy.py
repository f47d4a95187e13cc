"""
Energy at size: a day of 10,000 devices at 10 s in one pass beside plain SQL, and what a page of 1,000 devices costs.

Each job runs in a process of its own, which says its time and its largest memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from analytics.energy import energy
from analytics.frames import by_device, over_devices
from benchmarks.rows import Row
from collector.store import Coded, Store
from dashboards.data.fleet import view
from dashboards.data.stored import Stored
from dashboards.selection import Selection

BENCHMARK = "energy"
START_S, DAY_S, STEP_S = 1_788_220_800, 86_400, 10
CHUNK, CHUNKS, PEER_CHUNKS, PAGE_CHUNKS = 250, 40, 8, 4
THREADS, MEMORY = 2, "6GB"
BAR_S, BAR_MB, BAR_PAGE_S = 60.0, 6000.0, 3.0
WINDOWS = ("1h", "6h", "24h")


def run() -> list[Row]:
    """Write the day, then give it to each."""
    folder = Path(tempfile.mkdtemp(prefix="perfwatt-energy-"))
    try:
        files = _written(folder / "day")
        peers, page = (_linked(folder / name, files[:count]) for name, count in _SMALLER.items())
        whole, ours, theirs = _child("ours", folder / "day"), _child("ours", peers), _child("sql", peers)
        pages = [_child("page", page, window) for window in WINDOWS]
    finally:
        shutil.rmtree(folder)
    apart = abs(ours["energy_j"] / theirs["energy_j"] - 1)
    subject = f"{CHUNK * CHUNKS:,} devices, a day at {STEP_S} s: {whole['rows'] / 1e6:.1f} M rows"
    smaller = f"{CHUNK * PEER_CHUNKS:,} devices, a day at {STEP_S} s: {ours['rows'] / 1e6:.1f} M rows"
    what = "energy and 5-minute windows, one pass"
    sql = f"plain DuckDB SQL, {THREADS} threads"
    return [
        Row(
            benchmark=BENCHMARK, subject=subject, measure=what, value=whole["took_s"], unit="s",
            bar=f"<= {BAR_S:g} s", ok=whole["took_s"] <= BAR_S,
        ),
        Row(
            benchmark=BENCHMARK, subject=subject, measure="largest memory", value=whole["memory_mb"], unit="MB",
            bar=f"<= {BAR_MB:g} MB", ok=whole["memory_mb"] <= BAR_MB,
        ),
        Row(
            benchmark=BENCHMARK, subject=smaller, measure=what, value=ours["rows"] / ours["took_s"], unit="rows/s",
            peer=sql, peer_value=theirs["rows"] / theirs["took_s"],
        ),
        Row(
            benchmark=BENCHMARK, subject=smaller, measure="largest memory", value=ours["memory_mb"], unit="MB",
            peer=sql, peer_value=theirs["memory_mb"],
        ),
        Row(
            benchmark=BENCHMARK, subject=smaller, measure="energy of the day, off the SQL's", value=apart, unit="",
            bar="< 1e-9", ok=apart < 1e-9,
        ),
        *(
            Row(
                benchmark=BENCHMARK, subject=f"{CHUNK * PAGE_CHUNKS:,} devices at {STEP_S} s, by host",
                measure=f"first page, {window}, nothing kept", value=page["processor_s"], unit="CPU s",
                bar=f"< {BAR_PAGE_S:g} s", ok=page["processor_s"] < BAR_PAGE_S,
            )
            for window, page in zip(WINDOWS, pages, strict=True)
        ),
    ]  # fmt: skip


_SMALLER = {"peers": PEER_CHUNKS, "page": PAGE_CHUNKS}


def _written(root: Path) -> list[Path]:
    """A day of the fleet, a segment for each chunk of devices."""
    store = Store.create(root)
    steps = DAY_S // STEP_S
    at = (START_S + np.arange(steps) * STEP_S).astype("datetime64[s]").astype("datetime64[ns]")
    number = np.arange(CHUNK, dtype=np.int32)
    files = []
    for chunk in range(CHUNKS):
        rng = np.random.default_rng(chunk)
        level = rng.uniform(90, 650, (CHUNK, steps // 360)).repeat(360, axis=1)
        power = np.clip(level + rng.normal(0, 12, (CHUNK, steps)), 60, 700).round(3)
        joules = (np.cumsum(power, axis=1) * STEP_S).round(3)
        columns: dict[str, object] = {
            "device": Coded(
                number.repeat(steps), tuple(f"GPU-{chunk:04x}{n:04x}-5d1c-4c3e-9b1a-{n * 7919:012x}" for n in number)
            ),
            "source": Coded(np.zeros(CHUNK * steps, np.int8), ("nvml",)),
            "host": Coded((number // 8).repeat(steps), tuple(f"host-{chunk}-{n:02d}" for n in range(CHUNK // 8 + 1))),
            "time": np.tile(at, CHUNK),
            "power_w": power.ravel(),
            "energy_j": joules.ravel(),
        }
        columns["utilization_ratio"] = rng.random(CHUNK * steps).round(2)
        files += [segment.path for segment in store.write("device_samples", columns)]
    return files


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
    parts = by_device(root, "device_samples")
    windows = over_devices(partial(energy, by="5m"), parts, threads=THREADS)
    devices = windows.group_by("device").agg(pl.col("energy_j").sum())
    return {"energy_j": float(devices["energy_j"].sum()), "windows": windows.height, "rows": _rows(root)}


def _sql(root: Path) -> dict[str, float]:
    """What a careful reader of the store would write, less what energy has beyond it: shared steps, trust, sources."""
    connection = duckdb.connect(config={"threads": THREADS, "memory_limit": MEMORY, "temp_directory": str(root)})
    statement = f"""
        CREATE TEMP TABLE windows AS
        SELECT device, epoch_ns(time) // 300000000000 AS part,
               sum(CASE WHEN energy_j >= before_j THEN energy_j - before_j END) AS energy_j,
               sum(apart_s) FILTER (apart_s <= 3600) AS covered_s,
               sum((power_w + before_w) / 2 * apart_s) FILTER (apart_s <= 30) AS power_j,
               min(power_w) AS power_min_w, max(power_w) AS power_max_w, last(host) AS host
        FROM (SELECT device, host, time, power_w::DOUBLE AS power_w, energy_j::DOUBLE AS energy_j,
                     lag(power_w::DOUBLE) OVER series AS before_w, lag(energy_j::DOUBLE) OVER series AS before_j,
                     (epoch_ns(time) - epoch_ns(lag(time) OVER series)) / 1e9 AS apart_s
              FROM read_parquet('{root}/device_samples/*/*.parquet')
              WINDOW series AS (PARTITION BY device, source ORDER BY time))
        GROUP BY device, part"""
    connection.execute(statement).fetchall()
    joules, windows = connection.execute("SELECT sum(energy_j), count(*) FROM windows").fetchall()[0]
    return {"energy_j": joules, "windows": windows, "rows": _rows(root)}


def _page(root: Path, window: str) -> dict[str, float]:
    stored = Stored(root, clock_ns=lambda: (START_S + DAY_S) * 10**9)
    began = time.process_time()
    found = view(stored, Selection(window=window, by="host"))
    return {"processor_s": time.process_time() - began, "devices": found.totals.devices}


def _rows(root: Path) -> int:
    files = f"{root}/device_samples/*/*.parquet"
    return int(duckdb.execute(f"SELECT sum(num_rows) FROM parquet_file_metadata('{files}')").fetchall()[0][0])


def _main(job: str, root: str, *words: str) -> None:
    began = time.perf_counter()
    jobs: dict[str, Callable[..., dict[str, float]]] = {"ours": _ours, "sql": _sql, "page": _page}
    found = jobs[job](Path(root), *words)
    took = time.perf_counter() - began
    # Not ru_maxrss, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    memory = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(json.dumps({**found, "took_s": took, "memory_mb": memory}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
