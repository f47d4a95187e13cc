"""
Benchmark results against what others computed of the same recordings: every MLPerf Inference run that was measured.

The tables come in by the built-in mappings, the raw logs by their own import; `perfwatt results` shows both. Peer for
speed: the same means by one SQL statement of DuckDB over the same store, in a process of its own, two threads each.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from analytics.frames import scan
from analytics.results import chosen, results, times_of
from benchmarks.rows import Row
from collector.imports.mapping import read_mapping
from collector.imports.mlperf_inference import read_inference
from collector.imports.report import take_in
from collector.imports.table import read_table
from collector.store import Store

DATA = Path(__file__).parents[1] / "../shared/data/mlperf"
BAR = 0.005


def run() -> list[Row]:
    if not DATA.is_dir():
        return [row("recordings", "present", 0, "", bar="not measured: no ../shared/data", ok=None)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        store = Store.create(Path(folder) / "tables", threads=2)
        for name, mapping in (
            ("inference_runs.csv", "mlperf-inference-runs"),
            ("inference_power_1hz.parquet", "mlperf-inference-power"),
        ):
            path = DATA / "tables" / name
            report = take_in("table", str(path), read_table(path, read_mapping(Path(mapping))), store)
            assert report.ok, report.as_dict()
        took = time.process_time() - began
        raw = Store.create(Path(folder) / "raw", threads=2)
        take_in("mlperf-inference", "raw", read_inference(DATA / "raw"), raw)
        readings = pl.scan_parquet(DATA / "tables/inference_power_1hz.parquet").select(pl.len()).collect().item()
        return [
            row("2,092 runs as tables", "imported", readings / took, "readings per CPU second", bar="", ok=None),
            *_tables(store),
            *_raw(raw),
            *_speed(store),
        ]


def row(subject: str, measure: str, value: float, unit: str, *, bar: str, ok: bool | None, **peer: object) -> Row:
    return Row(benchmark="results", subject=subject, measure=measure, value=value, unit=unit, bar=bar, ok=ok, **peer)  # type: ignore[arg-type]


def found(store: Store) -> pl.DataFrame:
    runs = scan(store, "results").collect()
    start_ns, end_ns = times_of(runs)
    every = results(
        runs.lazy(),
        scan(store, "host_samples", start_ns, end_ns),
        scan(store, "facility_samples", start_ns, end_ns),
        scan(store, "allocations", None, end_ns),
    )
    return chosen(every, phase="any").collect()


def published() -> list[dict[str, str]]:
    with (DATA / "tables/inference_runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _tables(store: Store) -> list[Row]:
    ours = {line["workload"]: line for line in found(store).iter_rows(named=True)}
    pairs, efficient, dark = [], 0, 0
    for line in published():
        name = "/".join(line[key] for key in ("round", "submitter", "system", "benchmark", "scenario", "phase"))
        mine = ours[f"mlperf-inference/{name}"]
        if not line["avg_w"]:
            # Four runs whose power nobody recorded.
            dark += mine["power_mean_w"] is None
            continue
        pairs.append(deviation(mine["power_mean_w"], float(line["avg_w"])))
        efficient += (mine["joules_per_token"] or mine["joules_per_sample"] or 0.0) > 0
    subject = "2,092 runs as tables"
    within = sum(pair <= BAR for pair in pairs)
    return [
        row(subject, "mean watts within 0.5 % of inference_runs.csv", within, "runs", peer="runs with power",
            peer_value=len(pairs), bar="all", ok=within == len(pairs) == 2088),
        row(subject, "mean watts, worst deviation", max(pairs), "", bar=f"<= {BAR:g}", ok=max(pairs) <= BAR),
        row(subject, "J/token or J/sample computed", efficient, "runs", peer="runs with power", peer_value=len(pairs),
            bar="all", ok=efficient == len(pairs)),
        row(subject, "without power where none was recorded", dark, "runs", bar="4", ok=dark == 4),
    ]  # fmt: skip


def _raw(store: Store) -> list[Row]:
    known = {(line["power_begin"], line["power_end"]): float(line["avg_w"]) for line in published() if line["avg_w"]}
    pairs = []
    for line in found(store).iter_rows(named=True):
        window = tuple(line[edge].strftime("%m-%d-%Y %H:%M:%S.%f")[:-3] for edge in ("start", "end"))
        if window in known:
            pairs.append(deviation(line["power_mean_w"], known[window]))
    return [
        row("7 raw logs", f"mean watts, worst deviation of {len(pairs)} runs in inference_runs.csv", max(pairs), "",
            bar=f"<= {BAR:g}", ok=len(pairs) >= 5 and max(pairs) <= BAR),
    ]  # fmt: skip


def deviation(ours: float | None, theirs: float) -> float:
    return 1.0 if ours is None else abs(ours / theirs - 1)


SQL = """
    SELECT r.workload, avg(h.platform_power_w) FROM results r
    JOIN host_samples h ON h.host = r.host AND h.time BETWEEN r.start AND r."end"
    WHERE h.platform_power_w IS NOT NULL GROUP BY r.workload
"""


def _speed(store: Store) -> list[Row]:
    ours, theirs = (_apart(how, store.root) for how in ("ours", "sql"))
    return [
        row("2,092 runs, 1.6 M readings", "results from the store", ours["cpu_s"], "CPU s",
            peer="the means alone by SQL", peer_value=theirs["cpu_s"], bar="", ok=None),
    ]  # fmt: skip


def _apart(how: str, root: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.results", how, str(root)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "POLARS_MAX_THREADS": "2"}
    )
    answer: dict[str, float] = json.loads(done.stdout)
    assert answer["rows"] == (2092 if how == "ours" else 2088)
    return answer


def _main(how: str, root: str) -> None:
    store = Store(root)
    began = time.process_time()
    if how == "ours":
        rows = found(store).height
    else:
        with store.connect(threads=2) as connection:
            rows = len(connection.execute(SQL).fetchall())
    print(json.dumps({"rows": rows, "cpu_s": time.process_time() - began}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
