"""
MLPerf recordings through import, store and analytics, against sums made straight over the text of the logs.

The sums share no code with what they check: a regular expression, a list and a loop in float64. Energy is taken from
the run's first moment to its last, with the power between two readings on the straight line between them.
"""

import csv
import json
import math
import re
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl

from analytics.energy import integrate_power
from analytics.frames import scan
from benchmarks.rows import Row
from collector.imports.mlperf_inference import read_inference
from collector.imports.mlperf_training import read_training
from collector.imports.report import Report, take_in
from collector.store import Store

DATA = Path(__file__).parents[1] / "../shared/data/mlperf"
TRAINING = "raw/training-v4.1-dell-8x8-h100-llama2_70b_lora"
BAR = 0.001
Readings = list[tuple[float, float]]


def run() -> list[Row]:
    if not DATA.is_dir():
        return [row("recordings", "present", 0, "", bar="not measured: no ../shared/data", ok=None)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder)
        training = take_in("mlperf-training", TRAINING, read_training(DATA / TRAINING), store)
        inference = take_in("mlperf-inference", "raw", read_inference(DATA / "raw"), store)
        return [
            *whole("training v4.1, 8x8 H100", training),
            *whole("inference, 7 runs", inference),
            *training_energy(store),
            *inference_energy(store, inference),
        ]


def row(subject: str, measure: str, value: float, unit: str, *, bar: str, ok: bool | None, **peer: object) -> Row:
    return Row(benchmark="mlperf", subject=subject, measure=measure, value=value, unit=unit, bar=bar, ok=ok, **peer)  # type: ignore[arg-type]


def whole(subject: str, report: Report) -> list[Row]:
    """Lines of all files, against a count of the files' own lines."""
    accounts = [account for unit in report.units for account in unit["files"]]
    lines = sum(len(Path(account["path"]).read_bytes().splitlines()) for account in accounts)
    accounted = sum(sum(account["kept"].values()) for account in accounts)
    return [
        row(subject, "lines taken in", accounted, "lines", peer="lines in the files", peer_value=lines, bar="all",
            ok=accounted == lines and report.ok),
        row(subject, "lines refused or unaccounted", lines - accounted + report.bad, "lines", bar="0",
            ok=lines - accounted + report.bad == 0),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ what is to be checked


def imported(store: Store, table: str, key: str, column: str, begin_s: float, end_s: float) -> dict[str, float]:
    """Joules by host or meter from *begin_s* to *end_s*, by the store's rows and `integrate_power`."""
    margin_s = 30
    rows = scan(store, table, int((begin_s - margin_s) * 1e9), int((end_s + margin_s) * 1e9)).select(
        key, "time", column
    )
    edges = (
        pl.Series("time", [round(begin_s * 1e3), round(end_s * 1e3)]).cast(pl.Datetime("ms")).cast(pl.Datetime("ns"))
    )
    subjects = rows.filter(pl.col(column).is_not_null()).select(key).unique()
    at_edges = subjects.join(edges.to_frame().lazy(), how="cross").with_columns(pl.lit(None, pl.Float64).alias(column))
    cut = (
        pl.concat([rows, at_edges])
        .unique([key, "time"], keep="first", maintain_order=True)
        .sort(key, "time")
        .with_columns(pl.col(column).interpolate_by("time").over(key))
        .filter(pl.col("time").is_between(edges[0], edges[1]))
    )
    found = integrate_power(cut, keys=(key,), column=column).collect()
    return dict(found.select(key, "energy_j").iter_rows())


# --------------------------------------------------------------------------------------------------------- the raw text


def joules(readings: Readings, begin_s: float, end_s: float) -> float:
    """The integral of the line through *readings* from *begin_s* to *end_s*."""
    parts = []
    for (t0, p0), (t1, p1) in pairwise(readings):
        left, right = max(t0, begin_s), min(t1, end_s)
        if left < right:
            slope = (p1 - p0) / (t1 - t0)
            parts.append((p0 + slope * ((left + right) / 2 - t0)) * (right - left))
    return math.fsum(parts)


def power_log(path: Path, shift_s: float) -> Readings:
    found = re.findall(r'"time_ms": (\d+)[^\n]*"power_reading", "value": ([\d.]+)', path.read_text())
    return sorted({int(ms) / 1e3 + shift_s: float(watts) for ms, watts in found}.items())


def wall_log(path: Path) -> Readings:
    found = re.findall(r"^Time,([^,]+),Watts,(-?[\d.]+)", path.read_text(), re.M)
    readings = [
        (datetime.strptime(time, "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC).timestamp(), float(watts))
        for time, watts in found
    ]
    return [(time, watts) for time, watts in readings if watts >= 0]


def worst(pairs: Iterable[tuple[float, float]]) -> float:
    return max(abs(ours / theirs - 1) for ours, theirs in pairs)


def training_energy(store: Store) -> list[Row]:
    folder = DATA / TRAINING
    with (DATA / "tables/training_node_runs.csv").open(newline="") as file:
        table = {(line["result"], line["host"]): line for line in csv.DictReader(file) if line["submitter"] == "Dell"
                 and line["benchmark"] == "llama2_70b_lora"}  # fmt: skip
    pairs: list[tuple[float, float]] = []
    highest: list[tuple[float, float]] = []
    totals: dict[str, float] = {}
    for result in sorted(folder.glob("result_*.txt")):
        text = result.read_text()
        begin_s, end_s = (
            int(re.findall(rf'"time_ms": (\d+)[^\n]*"{key}"', text)[-1]) / 1e3 for key in ("run_start", "run_stop")
        )
        hosts = imported(store, "host_samples", "host", "platform_power_w", begin_s, end_s)
        meters = imported(store, "facility_samples", "meter", "meter_power_w", begin_s, end_s)
        ours = {name.rpartition("-")[2]: value for name, value in (hosts | meters).items()}
        for path in sorted((folder / "power" / result.stem).glob("*.txt")):
            readings = power_log(path, 18_000.0 if path.stem.startswith("sw") else 0.0)
            pairs.append((ours[path.stem], joules(readings, begin_s, end_s)))
            published = table[result.stem, path.stem]
            highest.append((max(watts for _, watts in readings), float(published["max_w"])))
        totals[result.stem] = sum(ours.values())
    return [
        row("training v4.1, 8x8 H100", f"worst energy deviation of {len(pairs)} logs", worst(pairs), "",
            bar=f"<= {BAR:g}", ok=worst(pairs) <= BAR and len(pairs) == 27),
        row("training v4.1, 8x8 H100", "highest power against training_node_runs.csv, worst deviation", worst(highest),
            "", bar="0", ok=worst(highest) == 0),
        *(row(f"training {name}", "energy, 8 nodes and a switch", total / 3.6e6, "kWh", bar="", ok=None)
          for name, total in totals.items()),
    ]  # fmt: skip


def inference_energy(store: Store, report: Report) -> list[Row]:
    with (DATA / "tables/inference_runs.csv").open(newline="") as file:
        table = {(line["power_begin"], line["power_end"]): line for line in csv.DictReader(file)}
    pairs: list[tuple[float, float]] = []
    published: list[tuple[float, float]] = []
    tokens: list[Row] = []
    for unit in report.units:
        folder = Path(unit["name"])
        said = dict(re.findall(r'"key": "(power_begin|power_end)", "value": "([^"]+)"', _text(folder)))
        begin, end = said["power_begin"], said["power_end"]
        begin_s, end_s = (
            datetime.strptime(moment, "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC).timestamp() for moment in (begin, end)
        )
        (energy_j,) = imported(store, "host_samples", "host", "platform_power_w", begin_s, end_s).values()
        pairs.append((energy_j, joules(wall_log(folder / "spl.txt"), begin_s, end_s)))
        if (begin, end) in table:
            published.append((energy_j, float(table[begin, end]["energy_j"])))
        generated = unit["facts"].get("workload")
        done = (
            scan(store, "workload_samples").filter(pl.col("workload") == generated).select("tokens_out").max().collect()
        )
        if done.item():
            subject = generated.removeprefix("mlperf-inference/")
            tokens.append(row(subject, "energy per token", energy_j / done.item(), "J", bar="", ok=None))
    return [
        row("inference, 7 runs", f"worst energy deviation of {len(pairs)} runs", worst(pairs), "", bar=f"<= {BAR:g}",
            ok=worst(pairs) <= BAR and len(pairs) == 7),
        row("inference, 7 runs", f"against inference_runs.csv, worst of {len(published)} runs found there",
            worst(published), "", bar=f"<= {BAR:g}", ok=worst(published) <= BAR),
        *tokens,
    ]  # fmt: skip


def _text(folder: Path) -> str:
    return (folder / "mlperf_log_detail.txt").read_text()


if __name__ == "__main__":
    print(json.dumps([vars(one) for one in run()], indent=1))
