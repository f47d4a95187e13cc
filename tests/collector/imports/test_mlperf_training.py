"""MLPerf training recordings: power beside the run, with clocks that agree in the end."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from analytics.frames import scan
from analytics.results import results
from collector.imports.clocks import zone_of
from collector.imports.mlperf_training import read_training
from collector.imports.report import Unit, take_in
from collector.store import Store

BEGIN = 1_728_509_275_412
END = BEGIN + 60_000


def mllog(time_ms: float, key: str, value: object = None, rank: str = "", **metadata: object) -> str:
    entry = {"namespace": "", "time_ms": time_ms, "event_type": "X", "key": key, "value": value, "metadata": metadata}
    return f"{rank}:::MLLOG {json.dumps(entry)}"


def result(*extra: str, begin: int = BEGIN, end: int = END) -> str:
    lines = [
        "Epoch 0: training output of the program itself",
        mllog(begin - 5000, "submission_benchmark", "llama2_70b_lora", " 0: "),
        mllog(begin - 5000, "submission_platform", "8xH100", " 0: "),
        mllog(begin - 5000, "global_batch_size", 8, " 0: "),
        mllog(begin, "run_start", None, " 0: "),
        mllog(begin + 20_000, "train_loss", 2.2, " 0: ", samples_count=80),
        mllog(begin + 40_000, "train_loss", 1.4, " 0: ", samples_count=164),
        mllog(begin + 55_000, "eval_accuracy", 0.92, " 0: ", samples_count=164),
        *extra,
        mllog(end, "run_stop", 0.92, " 0: ", samples_count=164, status="success"),
    ]
    return "\n".join(lines) + "\n"


def power(*extra: str, shift_s: float = 0, watts: float = 3000.0, begin: int = BEGIN, end: int = END) -> str:
    lines = [mllog(begin, "conversion_eff", 0.96, measurement_type="AC")]
    for time_ms in range(begin // 1000 * 1000 - 5000, end + 5000, 1000):
        line = mllog(round(time_ms - shift_s * 1000), "power_reading", watts)
        lines += [line, line] if time_ms % 5000 == 0 else [line]
    return "\n".join([*lines, *extra]) + "\n"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    (folder / "power/result_0").mkdir(parents=True)
    (folder / "result_0.txt").write_text(result())
    (folder / "power/result_0/node_0.txt").write_text(power())
    (folder / "power/result_0/sw_0.txt").write_text(power(shift_s=18_000, watts=690.0))
    return folder


def only(folder: Path, **options: object) -> Unit:
    (unit,) = read_training(folder, **options)  # type: ignore[arg-type]
    return unit


def utc(time_ms: float) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)


def test_every_line_is_accounted_for(recording: Path) -> None:
    unit = only(recording)
    assert [account.unaccounted for account in unit.files] == [0, 0, 0]
    assert unit.bad == 0
    node = unit.files[1]
    assert node.kept == {"other": 1, "reading": 71, "duplicate": 15}


def test_a_reading_logged_twice_is_stored_once(recording: Path) -> None:
    rows = only(recording).frames["host_samples"]
    assert rows.height == rows.unique(["host", "time"]).height == 71


def test_several_readings_in_one_moment_are_their_mean(recording: Path) -> None:
    moment = BEGIN // 1000 * 1000
    log = recording / "power/result_0/node_0.txt"
    log.write_text(power(mllog(moment, "power_reading", 4000.0)))
    unit = only(recording)
    at = unit.frames["host_samples"].filter(pl.col("time") == utc(moment))
    assert at["platform_power_w"].to_list() == [3500.0]
    assert any("mean" in note for note in unit.files[1].notes)


def test_a_clock_hours_off_is_aligned_with_the_run_and_told(recording: Path) -> None:
    unit = only(recording)
    meter = unit.frames["facility_samples"]
    assert meter["time"].min() == utc(BEGIN // 1000 * 1000 - 5000)
    assert meter["meter_power_w"].unique().to_list() == [690.0]
    shifted = unit.frames["events"].filter(pl.col("kind") == "clock_shifted")
    assert shifted.select("host", "value", "severity").rows() == [("8xH100-sw_0", 18_000.0, "warning")]
    assert unit.facts["clock_shifts_s"] == {"sw_0": 18_000}
    assert "+5:00 h" in unit.files[2].notes[0]


def test_a_log_far_longer_than_the_run_is_not_aligned_by_guessing(recording: Path) -> None:
    log = recording / "power/result_0/sw_0.txt"
    log.write_text(power(shift_s=0, begin=BEGIN - 3 * 3_600_000, end=END + 3 * 3_600_000))
    assert only(recording).error is None
    log.write_text(power(shift_s=36_000, begin=BEGIN - 3 * 3_600_000, end=END + 3 * 3_600_000))
    assert "--tz" in str(only(recording).error)
    told = only(recording, tz=zone_of("-10:00"))
    assert told.error is None
    assert told.facts["clock_shifts_s"]["sw_0"] == 36_000


def test_samples_and_steps_are_cumulative(recording: Path) -> None:
    rows = only(recording).frames["workload_samples"]
    assert rows.select("time", "samples", "steps").rows() == [
        (utc(BEGIN), 0.0, 0.0),
        (utc(BEGIN + 20_000), 80.0, 10.0),
        (utc(BEGIN + 40_000), 164.0, None),
        (utc(BEGIN + 55_000), 164.0, None),
        (utc(END), 164.0, None),
    ]
    assert rows["workload"].unique().to_list() == ["mlperf-training/8xH100/llama2_70b_lora/result_0"]


def test_the_run_is_an_allocation_of_each_node_and_two_events(recording: Path) -> None:
    unit = only(recording)
    row = unit.frames["allocations"].row(0, named=True)
    assert (row["device"], row["host"], row["start"], row["end"]) == (
        "8xH100-node_0",
        "8xH100-node_0",
        utc(BEGIN),
        utc(END),
    )
    kinds = unit.frames["events"]["kind"].to_list()
    assert sorted(kinds) == ["clock_shifted", "evaluation", "run_start", "run_stop"]


def test_a_negative_reading_is_absent(recording: Path) -> None:
    log = recording / "power/result_0/node_0.txt"
    log.write_text(power(mllog(BEGIN + 500, "power_reading", -9.0)))
    unit = only(recording)
    assert unit.bad == 0
    assert unit.files[1].kept["absent"] == 1
    assert unit.frames["host_samples"]["platform_power_w"].min() == 3000.0


@pytest.mark.parametrize(
    "line",
    [
        ":::MLLOG {",
        "garbage",
        ':::MLLOG {"time_ms": 1728509275000, "value": 3000.0}',
        ':::MLLOG {"time_ms": "soon", "key": "power_reading", "value": 3000.0}',
        ':::MLLOG {"time_ms": NaN, "key": "power_reading", "value": 3000.0}',
        ':::MLLOG {"time_ms": 1728509275000, "key": "power_reading", "value": "3000"}',
        ':::MLLOG {"time_ms": 1728509275000, "key": "power_reading", "value": true}',
        ':::MLLOG {"time_ms": 1728509275000, "key": "power_reading", "value": null}',
        ':::MLLOG {"time_ms": 1728509275000, "key": "power_reading", "value": Infinity}',
        ':::MLLOG {"time_ms": 2728509275000, "key": "power_reading", "value": 3000.0}',
    ],
)
def test_a_bad_line_is_counted_shown_and_kept_out(recording: Path, line: str) -> None:
    log = recording / "power/result_0/node_0.txt"
    log.write_text(power(line))
    unit = only(recording)
    account = unit.files[1]
    assert account.bad_count == 1
    assert account.bad[0].line == len(log.read_text().splitlines())
    assert account.unaccounted == 0
    assert unit.frames["host_samples"].height == 71


def test_a_half_broken_run_is_stored_only_when_told_and_replaced_by_the_whole_one(
    recording: Path, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    log = recording / "power/result_0/node_0.txt"
    whole = log.read_text()
    log.write_text(whole.replace('"power_reading"', "power_reading", 10))
    refused = take_in("mlperf-training", "x", read_training(recording), store)
    assert not refused.ok
    assert refused.units[0]["files"][1]["bad"] == 10
    assert store.tables() == []
    take_in("mlperf-training", "x", read_training(recording), store, partial=True)
    assert stored("host_samples").height < 71
    log.write_text(whole)
    for _ in range(2):
        take_in("mlperf-training", "x", read_training(recording), store)
    assert stored("host_samples").height == 71
    assert stored("facility_samples").height == 71
    assert stored("allocations").height == 1


def test_power_without_its_result_is_refused_with_the_reason(recording: Path) -> None:
    (recording / "result_0.txt").unlink()
    assert "run_start" in str(only(recording).error)


@pytest.mark.parametrize(
    ("benchmark", "epoch", "per_epoch", "samples"),
    [("bert", 150_069, None, 150_069.0), ("resnet", 3, 1_281_167, 3_843_501.0), ("gpt3", 50_331_648, 1_000, None)],
)
def test_what_an_epoch_number_counts_depends_on_the_benchmark(
    recording: Path, benchmark: str, epoch: int, per_epoch: int | None, samples: float | None
) -> None:
    lines = [
        mllog(BEGIN - 1, "submission_benchmark", benchmark),
        mllog(BEGIN - 1, "train_samples", per_epoch),
        mllog(BEGIN, "run_start"),
        mllog(BEGIN + 1000, "eval_accuracy", 0.5, epoch_num=epoch),
        mllog(END, "run_stop", status="success"),
    ]
    (recording / "result_0.txt").write_text("\n".join(lines) + "\n")
    reached = only(recording).frames["workload_samples"]["samples"].to_list()
    assert reached == ([0.0] if samples is None else [0.0, samples])


def test_the_recorded_h100_runs_import_whole(recordings: Path, store: Store) -> None:
    folder = recordings / "mlperf/raw/training-v4.1-dell-8x8-h100-llama2_70b_lora"
    report = take_in("mlperf-training", str(folder), read_training(folder), store)
    assert report.ok
    assert len(report.units) == 3
    accounts = [account for unit in report.units for account in unit["files"]]
    assert len(accounts) == 3 * 10
    assert sum(account["unaccounted"] + account["bad"] for account in accounts) == 0
    assert all(unit["facts"]["clock_shifts_s"] == {"sw_0": 18_000} for unit in report.units)


def test_of_all_published_runs_exactly_the_logs_that_are_hours_off_are_shifted(recordings: Path) -> None:
    from collector.imports.clocks import find_shift

    tables = recordings / "mlperf/tables"
    keys = ["round", "submitter", "system", "benchmark", "result"]
    events = pl.read_parquet(tables / "training_mllog_events.parquet")
    begin = events.filter(pl.col("key") == "run_start").group_by(keys).agg(begin=pl.col("time_ms").min())
    end = events.filter(pl.col("key") == "run_stop").group_by(keys).agg(end=pl.col("time_ms").max())
    runs = (
        pl.read_csv(tables / "training_node_runs.csv", infer_schema_length=None).join(begin, on=keys).join(end, on=keys)
    )
    runs = runs.filter(pl.col("t0_ms").is_not_null())
    assert runs.height > 1300
    for run in runs.iter_rows(named=True):
        shift = find_shift(*(run[name] / 1e3 for name in ("t0_ms", "t1_ms", "begin", "end")))
        off = run["submitter"] == "Dell" and run["host"] == "sw_0"
        assert (shift.seconds, shift.others) == (18_000 if off else 0, ()), run["source"]


def test_the_run_is_a_result_with_the_energy_of_nodes_and_switch(recording: Path, store: Store) -> None:
    unit = only(recording)
    (row,) = unit.frames["results"].to_dicts()
    assert (row["suite"], row["system"], row["metric"]) == ("mlperf-training", "8xH100", "train_s")
    assert (row["start"], row["end"], row["samples"]) == (utc(BEGIN), utc(END), 164.0)
    assert (row["benchmark"], row["phase"], row["verdict"]) == ("llama2_70b_lora", "result_0", "success")
    take_in("mlperf-training", "test", [unit], store)
    (seen,) = (
        results(*(scan(store, name) for name in ("results", "host_samples", "facility_samples", "allocations")))
        .collect()
        .to_dicts()
    )
    assert (seen["hosts"], seen["power_mean_w"]) == (2, 3690.0)
    assert seen["joules_per_sample"] == pytest.approx(3690.0 * seen["run_s"] / 164)
