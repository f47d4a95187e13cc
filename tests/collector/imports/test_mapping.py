"""Mappings beyond samples with a time of their own: records, rows of several runs, clocks that count from a start."""

import tomllib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from collector.errors import ConfigError
from collector.imports.mapping import BUILT_IN, read_mapping
from collector.imports.report import Unit, take_in
from collector.imports.table import read_table
from collector.store import Store

RUNS = """\
run_id,dup_of,system,power_begin,power_end
1,,alpha,03-18-2021 21:14:15.000,03-18-2021 21:14:25.000
2,,beta,03-18-2021 22:00:00.000,03-18-2021 22:00:04.000
3,1,gamma,03-18-2021 21:14:15.000,03-18-2021 21:14:25.000
"""
BEGIN = datetime(2021, 3, 18, 21, 14, 15)


def power(**changed: str) -> str:
    text = (BUILT_IN / "mlperf-inference-power.toml").read_text(encoding="utf-8")
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inference_runs.csv").write_text(RUNS)
    # The recording of run 1 begins 3.4 s before the run and ends 3 s after it: 1 Hz, ten readings in the run.
    rows = [{"run_id": 1, "t_s": float(n), "watts": 100.0 + n, "in_window": 4 <= n < 14} for n in range(17)]
    rows += [{"run_id": 2, "t_s": n + 0.5, "watts": -1.0 if n == 2 else 50.0, "in_window": n >= 1} for n in range(5)]
    pl.DataFrame(rows).write_parquet(tmp_path / "power.parquet")
    return tmp_path


def read(folder: Path, mapping: str, file: str = "power.parquet") -> Unit:
    path = folder / "mapping.toml"
    path.write_text(mapping)
    (unit,) = read_table(folder / file, read_mapping(path))
    return unit


def test_marked_rows_lie_in_the_middle_of_their_run(folder: Path) -> None:
    (frame,) = read(folder, power()).frames.values()
    alpha = frame.filter(pl.col("host") == "alpha").sort("time")
    first = alpha.filter(pl.col("platform_power_w") == 104.0)["time"].item()
    # Ten readings, nine seconds from first to last, in a run of ten: half a second before and behind.
    assert first == BEGIN + timedelta(seconds=0.5)
    inside = alpha.filter(pl.col("time").is_between(BEGIN, BEGIN + timedelta(seconds=10)))
    assert inside["platform_power_w"].to_list() == [104.0 + n for n in range(10)]


def test_a_recording_may_stand_for_several_runs(folder: Path) -> None:
    unit = read(folder, power())
    (frame,) = unit.frames.values()
    by_host = {name: rows.sort("time").drop("host") for (name,), rows in frame.group_by("host")}
    assert by_host["gamma"].equals(by_host["alpha"])
    (account,) = unit.files
    assert account.unaccounted == 0
    assert account.notes == ["17 rows stand for further rows of inference_runs.csv"]


def test_what_the_analyzer_did_not_have_is_absent(folder: Path) -> None:
    unit = read(folder, power())
    (frame,) = unit.frames.values()
    assert frame.filter(pl.col("host") == "beta")["platform_power_w"].to_list() == [50.0] * 4
    assert (unit.files[0].kept["empty"], unit.bad) == (1, 0)
    refused = read(folder, power(**{", absent_below = 0": ""}))
    assert [bad.reason for bad in refused.files[0].bad] == ["watts cannot be true of platform_power_w: -1.0"]


def test_a_clock_without_marks_begins_with_the_run(folder: Path) -> None:
    (frame,) = read(folder, power(**{'marked = "in_window"\n': "", "until =": "# until ="})).frames.values()
    assert frame.filter(pl.col("host") == "alpha")["time"].min() == BEGIN


def test_rows_of_a_run_that_nobody_knows_are_counted_and_kept_out(folder: Path) -> None:
    (folder / "inference_runs.csv").write_text(RUNS.replace("2,,beta", "9,,beta"))
    unit = read(folder, power())
    assert unit.bad == 5
    assert {bad.reason for bad in unit.files[0].bad} == {"2 is not in inference_runs.csv"}


def test_a_run_whose_readings_cannot_lie_in_it_is_refused(folder: Path) -> None:
    (folder / "inference_runs.csv").write_text(RUNS.replace("21:14:25.000", "21:14:21.000"))
    reasons = {bad.reason for bad in read(folder, power()).files[0].bad}
    assert reasons == {"the rows marked by in_window last longer than power_begin to power_end"}


RECORDS = """
table = "allocations"
source = "slurm"
[time]
column = "Start"
zone = "Europe/Berlin"
[columns]
workload = { text = "slurm/{JobID}" }
device = { column = "gpu" }
start = { column = "Start" }
end = { column = "End" }
user = { column = "User" }
share = { column = "share" }
"""
JOBS = """\
JobID,gpu,Start,End,User,share
17,GPU-a,2026-03-04T12:00:00,2026-03-04T13:00:00,ada,0.5
17,GPU-b,2026-03-04T12:00:00,2026-03-04T13:00:00,ada,0.5
18,GPU-a,2026-03-04T14:00:00,Unknown,bob,
19,,2026-03-04T14:00:00,,,
"""


def records(tmp_path: Path, mapping: str = RECORDS, jobs: str = JOBS) -> Unit:
    (tmp_path / "jobs.csv").write_text(jobs)
    return read(tmp_path, mapping, "jobs.csv")


def test_records_of_a_scheduler_become_allocations(
    tmp_path: Path, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    unit = records(tmp_path)
    assert [(bad.line, bad.reason) for bad in unit.files[0].bad] == [(5, "names no device")]
    report = take_in("table", "jobs.csv", [unit], store, partial=True)
    assert report.rows == {"allocations": 3}
    found = stored("allocations").sort("start", "device")
    assert found["workload"].to_list() == ["slurm/17", "slurm/17", "slurm/18"]
    assert found["start"].to_list()[0] == datetime(2026, 3, 4, 11)
    assert found["end"].to_list() == [datetime(2026, 3, 4, 12)] * 2 + [None]
    assert found["share"].to_list() == [0.5, 0.5, None]
    assert set(found["source"]) == {"import:slurm"}


def test_a_number_may_hold_only_where_another_column_says_so(tmp_path: Path) -> None:
    mapping = """
    table = "results"
    [time]
    column = "end"
    format = "unix_s"
    [columns]
    workload = { column = "run" }
    tokens_per_s = { column = "value", where = { what = "tokens" } }
    latency_p99_s = { column = "value", unit = "ms", where = { what = "p99" } }
    """
    (tmp_path / "log.csv").write_text("end,run,what,value\n1700000000,a,tokens,5\n1700000000,b,p99,250\n")
    (frame,) = read(tmp_path, mapping, "log.csv").frames.values()
    rows = {row["workload"]: row for row in frame.to_dicts()}
    assert rows["a"]["tokens_per_s"] == 5.0
    assert rows["b"]["latency_p99_s"] == 0.25
    assert (rows["a"]["latency_p99_s"], rows["b"]["tokens_per_s"]) == (None, None)


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ('device = { column = "gpu" }\n', "", "columns.device", "tells one row from another"),
        ('user = { column = "User" }', 'usr = { column = "User" }', "columns.usr", "user"),
        ('start = { column = "Start" }', 'start = { column = "Start", format = "?" }', "columns.start.format", "iso"),
        ('share = { column = "share" }', "share = 1", "columns.share", "column, value or text"),
        ('share = { column = "share" }', 'share = { column = "share", where = 1 }', "columns.share.where", "table"),
        ('text = "slurm/{JobID}"', 'text = "slurm"', "columns.workload.text", "names no column"),
        ('zone = "Europe/Berlin"\n', "", "time.zone", "UTC or Europe/Berlin"),
        ("[columns]", '[metrics]\npower_w = { column = "p", unit = "W" }\n[columns]', "metrics", "columns, join"),
        ('table = "allocations"', 'table = "incidents"', "table", "allocations, results"),
    ],
)
def test_a_wrong_mapping_of_records_names_its_key(tmp_path: Path, old: str, new: str, key: str, allowed: str) -> None:
    assert old in RECORDS
    with pytest.raises(ConfigError, match=allowed) as caught:
        records(tmp_path, RECORDS.replace(old, new))
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ('on = "run_id"', 'on = "id"', "join.on", "no column 'id'"),
        ('file = "inference_runs.csv"', 'file = "runs.csv"', "join.file", "there is no"),
        ('key = ["dup_of", "run_id"]', 'key = ["dup"]', "dup", "run_id, dup_of, system"),
        ('key = ["dup_of", "run_id"]', 'key = "run_id"', "join.key", "no list"),
        ("until =", "# until =", "time.until", "column, format, zone"),
        ("origin =", "# origin =", "time.origin", "column, format, zone"),
        ("absent_below = 0", 'absent_below = "0"', "metrics.platform_power_w.absent_below", "no number"),
        ('column = "system"', 'column = "place"', "place", "no such column"),
    ],
)
def test_a_wrong_mapping_of_recordings_names_its_key(folder: Path, old: str, new: str, key: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed) as caught:
        read(folder, power(**{old: new}))
    assert caught.value.key == key


@pytest.mark.parametrize("path", sorted(BUILT_IN.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_built_in_is_found_by_its_name_and_says_what_it_is_for(path: Path) -> None:
    assert read_mapping(Path(path.stem)).path == path
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert tomllib.loads(path.read_text(encoding="utf-8"))["source"]


def test_a_name_that_is_neither_a_file_nor_built_in_is_told_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="built in are mlperf-inference-power, mlperf-inference-runs"):
        read_mapping(tmp_path / "none.toml")


def test_the_recordings_of_mlperf_import_whole(recordings: Path, store: Store) -> None:
    tables = recordings / "mlperf/tables"
    runs = read_table(tables / "inference_runs.csv", read_mapping(Path("mlperf-inference-runs")))
    report = take_in("table", "runs", runs, store)
    assert (report.ok, dict(report.rows)) == (True, {"results": 2092})
    rows: list[dict[str, Any]] = report.units
    assert rows[0]["files"][0]["unaccounted"] == 0
