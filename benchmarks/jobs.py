"""
The jobs at size, what a pass costs when little is new, and what rules find of the faults of a simulated fleet.

Speed: a simulated day is laid down for each day of a fortnight. Faults: labelled, of kinds that rules know; beside them
the alerts that the same rules would be one by one, as an exporter's threshold alerts are.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from analytics.anomalies.rows import rows_before
from analytics.frames import scan
from analytics.jobs.engine import FAILED, Apart
from analytics.jobs.running import Documents
from analytics.jobs.running import run as run_jobs
from analytics.tables import write_toml
from benchmarks.agent import tree
from benchmarks.rows import Row
from collector.sources.simulated import faults, fleet, simulate
from collector.store import Store

BENCHMARK = "jobs"
NS, DAY_S = 1_000_000_000, 86_400
START_NS = 1_788_220_800 * NS
DEVICES, DAYS, STEP_S = 500, 14, 10
BAR_S, BAR_MB = 240.0, 6000.0
LOOK_S = 0.1
"""Between looks at how much memory the chain has."""
OPTIONS = {"devices": DEVICES, "sites": 3, "seed": 7, "mix": {"H100": 0.6, "MI300X": 0.2, "B200": 0.2}, "faults": 0.05}
JUDGED = {"devices": 192, "sites": 3, "seed": 11, "mix": {"H100": 1.0}, "faults": 0.3}
KNOWN = {
    "power_brake": {"power_brake"},
    "device_lost": {"device_missing"},
    "missing_samples": {"device_missing"},
    "ecc_storm": {"memory_errors"},
    "power_cap": {"power_cap"},
}
"""Faults that rules are about, and the kinds of incident that are right."""
SLACK_NS = 900 * NS
# A gap shorter than this is none by the rule for what is missing.
LEAST_S = {"missing_samples": 900, "power_brake": 300}


def run() -> list[Row]:
    """Lay the fleets down, run the jobs in processes of their own, and judge."""
    folder = Path(tempfile.mkdtemp(prefix="perfwatt-jobs-"))
    try:
        return [*_speed(folder / "fleet"), *_faults(folder / "judged")]
    finally:
        shutil.rmtree(folder)


def _speed(root: Path) -> list[Row]:
    rows = fortnight(root)
    whole = _child(root, DAYS * DAY_S)
    # Five more minutes of everything, as the timer meets them.
    _more(root, DAYS * DAY_S, 300)
    little = _child(root, DAYS * DAY_S + 300)
    nothing = _child(root, DAYS * DAY_S + 300)
    subject = f"{DEVICES} devices, {DAYS} days at {STEP_S} s: {rows / 1e6:.0f} M rows"
    chain = "the whole chain"
    return [
        Row(benchmark=BENCHMARK, subject=subject, measure=chain, value=whole["took_s"], unit="s",
            bar=f"<= {BAR_S:g} s", ok=whole["took_s"] <= BAR_S),
        Row(benchmark=BENCHMARK, subject=subject, measure=f"{chain}: processor time", value=whole["cpu_s"], unit="s"),
        Row(benchmark=BENCHMARK, subject=subject, measure=f"{chain}: most memory, both processes",
            value=whole["memory_mb"], unit="MB", bar=f"<= {BAR_MB:g} MB", ok=whole["memory_mb"] <= BAR_MB),
        Row(benchmark=BENCHMARK, subject=subject, measure="a pass over five new minutes: processor time",
            value=little["cpu_s"], unit="s", peer="everything again", peer_value=whole["cpu_s"]),
        Row(benchmark=BENCHMARK, subject=subject, measure="a pass over nothing new: processor time",
            value=nothing["cpu_s"], unit="s", peer="everything again", peer_value=whole["cpu_s"]),
    ]  # fmt: skip


def fortnight(root: Path) -> int:
    """The same day, day after day; gives the number of device rows."""
    store = Store.create(root)
    rows = 0
    for tables in simulate(OPTIONS, START_NS, START_NS + DAY_S * NS, step_s=STEP_S):
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
            rows += len(columns["time"]) if name == "device_samples" else 0
    for day in range(1, DAYS):
        _more(root, day * DAY_S, DAY_S)
    (root / "fleet.toml").write_text(write_toml(fleet(OPTIONS)))
    return rows * DAYS


def _more(root: Path, at_s: int, length_s: int) -> None:
    """The beginning of the day once more, *at_s* later."""
    store, shift = Store(root), pl.duration(seconds=at_s)
    for name in ("device_samples", "host_samples", "workload_samples", "facility_samples", "events", "allocations"):
        found = scan(store, name, START_NS, START_NS + length_s * NS).collect()
        times = [column for column in ("time", "start", "end") if column in found.columns]
        if found.height:
            store.write(name, found.with_columns(pl.col(times) + shift), writer="history")


def _child(root: Path, until_s: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.jobs", str(root), str(START_NS + until_s * NS)]
    # How memory is kept is as deploy/perfwatt-jobs.service has it.
    environment = os.environ | {
        "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "2", "_RJEM_MALLOC_CONF": "dirty_decay_ms:10000",
        "MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824",
    }  # fmt: skip
    largest = 0
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as wrong:
        child = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment, stdout=said, stderr=wrong)
        while child.poll() is None:
            largest = max(largest, sum(_resident(member) for member in tree(child.pid)))
            time.sleep(LOOK_S)
        said.seek(0)
        wrong.seek(0)
        if child.returncode:
            raise RuntimeError(f"jobs: exit code {child.returncode}: {wrong.read().strip()[-500:]}")
        answer: dict[str, float] = json.loads(said.read().splitlines()[-1])
    return answer | {"memory_mb": largest / 2**20}


def _resident(pid: int) -> int:
    """Bytes that a process has in memory, shared pages included; none once it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _pass(root: Path, now_ns: int) -> dict[str, float]:
    began_s = time.perf_counter()
    with closing(Apart()) as apart:
        documents = Documents.read(root, fleet=None)
        outcomes = run_jobs(root, documents=documents, now_ns=now_ns, at_once=2, apart=apart)
    took_s = time.perf_counter() - began_s
    # What is known too little of, as what is normal on the first morning, is skipped and says so.
    wrong = [outcome for outcome in outcomes if outcome.state == FAILED]
    if wrong:
        raise RuntimeError(f"{wrong[0].job}: {wrong[0].error}")
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "took_s": took_s,
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in used),
    }


# ------------------------------------------------------------------------------------------------------------- faults


def _faults(root: Path) -> list[Row]:
    store = Store.create(root)
    for tables in simulate(JUDGED, START_NS, START_NS + DAY_S * NS, step_s=30):
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
    (root / "fleet.toml").write_text(write_toml(fleet(JUDGED)))
    truth = [
        fault
        for fault in faults(JUDGED, START_NS, START_NS + DAY_S * NS)
        if fault.kind in KNOWN and fault.end_ns - fault.start_ns >= LEAST_S.get(fault.kind, 0) * NS
        and fault.end_ns < START_NS + DAY_S * NS
    ]  # fmt: skip
    run_jobs(root, names=["incidents"], documents=Documents.read(root, fleet=None), now_ns=START_NS + (DAY_S + 60) * NS)
    kinds = set().union(*KNOWN.values())
    rows = [row for row in rows_before(scan(store, "incidents")) if row["kind"] in kinds and not row["part_of"]]
    matched = {row["incident"]: fault for row in rows for fault in truth if _is(row, fault)}
    found = [fault for fault in truth if any(_is(row, fault) for row in rows)]
    every = faults(JUDGED, START_NS, START_NS + DAY_S * NS)
    right = [row for row in rows if any(_is(row, fault) for fault in every if fault.kind in KNOWN)]
    late_s = [
        max(0.0, (row["start"] - matched[row["incident"]].start_ns) / NS) for row in rows if row["incident"] in matched
    ]
    subject = f"{JUDGED['devices']} simulated devices, a day, {len(truth)} faults of {len(KNOWN)} kinds that rules know"
    alerts = sum(row["windows"] for row in rows)
    return [
        Row(benchmark=BENCHMARK, subject=subject, measure="faults found", value=len(found) / len(truth), unit="",
            bar=">= 0.9", ok=len(found) >= 0.9 * len(truth)),
        Row(benchmark=BENCHMARK, subject=subject, measure="incidents that are faults",
            value=len(right) / len(rows) if rows else 0.0, unit="", bar=">= 0.9", ok=len(right) >= 0.9 * len(rows)),
        Row(benchmark=BENCHMARK, subject=subject, measure="from its beginning to the incident's, median",
            value=median(late_s) if late_s else float("nan"), unit="s"),
        Row(benchmark=BENCHMARK, subject=subject, measure="what a person is told, for each fault",
            value=len(rows) / len(truth), unit="incidents", peer="the same rules, an alert for each window or event",
            peer_value=alerts / len(truth)),
    ]  # fmt: skip


def _is(row: dict[str, Any], fault: Any) -> bool:
    """Whether an incident is of the fault's kind, place and time."""
    there = fault.subject in {row["name"], row["host"]} or f":{fault.subject}" in row["subjects"]
    return (
        row["kind"] in KNOWN[fault.kind]
        and there
        and row["start"] < fault.end_ns + SLACK_NS
        and row["last"] > fault.start_ns - SLACK_NS
    )


if __name__ == "__main__":
    print(json.dumps(_pass(Path(sys.argv[1]), int(sys.argv[2]))))
