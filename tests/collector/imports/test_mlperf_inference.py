"""MLPerf inference recordings: wall power in local time beside a run in UTC."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from collector.errors import ImportFailed
from collector.imports.clocks import zone_of
from collector.imports.mlperf_inference import read_inference
from collector.imports.report import Unit, take_in
from collector.store import Store

BEGIN = datetime(2024, 7, 17, 9, 52, 23, 554_000, tzinfo=UTC)
END = BEGIN + timedelta(seconds=120)

SUMMARY = """\
================================================
MLPerf Results Summary
================================================
SUT name : llama2-70b-Offline-SUT
Scenario : Offline
Mode     : PerformanceOnly
Samples per second: 20
Tokens per second: 5000
Result is : VALID
  Min duration satisfied : Yes

================================================
Additional Stats
================================================
Max latency (ns)                : 120000000000
50.00 percentile latency (ns)   : 1586150215723
90.00 percentile latency (ns)   : 2821275392051
99.00 percentile latency (ns)   : 3080286267875
Mean First Token latency (ns)                : 223764881
"""


def detail(begin: datetime = BEGIN, end: datetime = END) -> str:
    said = [
        ("test_datetime", f"{begin - timedelta(hours=7):%Y-%m-%dT%H:%M:%SZ}"),
        ("effective_scenario", "Offline"),
        ("generated_query_count", 1),
        ("generated_samples_per_query", 2304),
        ("power_begin", f"{begin:%m-%d-%Y %H:%M:%S}.{begin.microsecond // 1000:03d}"),
        ("power_end", f"{end:%m-%d-%Y %H:%M:%S}.{end.microsecond // 1000:03d}"),
    ]
    return "".join(f":::MLLOG {json.dumps({'key': key, 'value': value, 'time_ms': 0.5})}\n" for key, value in said)


def reading(time: datetime, *channels: float, total: float | None = None) -> str:
    watts = sum(channels) if total is None else total
    line = f"Time,{time:%m-%d-%Y %H:%M:%S}.{time.microsecond // 1000:03d},Watts,{watts:.6f}"
    line += ",Volts,239.166667,Amps,3.478000,PF,0.964409,Mark,2024-07-17_01-39-59_testing"
    for number, value in enumerate(channels, 1):
        line += f",Ch{number},Watts,{value:.6f},Volts,239.360000,Amps,3.582000,PF,0.964300"
    return line


def spl(*extra: str, zone_h: float = 0.0) -> str:
    first = BEGIN - timedelta(seconds=40) + timedelta(hours=zone_h)
    lines = [reading(first + timedelta(seconds=n), 800.0 + n, 700.0) for n in range(200)]
    return "\n".join([*lines, *extra, ""]) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "8xH200/llama2-70b-Offline"
    folder.mkdir(parents=True)
    (folder / "spl.txt").write_text(spl())
    (folder / "mlperf_log_detail.txt").write_text(detail())
    (folder / "mlperf_log_summary.txt").write_text(SUMMARY)
    return folder


def only(folder: Path, **options: object) -> Unit:
    (unit,) = read_inference(folder, **options)  # type: ignore[arg-type]
    return unit


def test_every_line_of_the_three_files_is_accounted_for(run: Path) -> None:
    unit = only(run)
    assert unit.bad == 0
    assert [account.unaccounted for account in unit.files] == [0, 0, 0]
    assert unit.files[0].kept["reading"] == 200
    assert unit.facts["workload"] == "mlperf-inference/8xH200/llama2-70b/Offline"


@pytest.mark.parametrize("zone_h", [0, -7, 5.5, 5.75, 13])
def test_the_zone_of_the_power_log_is_found_from_the_run(run: Path, zone_h: float) -> None:
    (run / "spl.txt").write_text(spl(zone_h=zone_h))
    unit = only(run)
    assert unit.facts["clock_shift_s"] == -zone_h * 3600
    assert unit.facts["window_covered"] == 1.0
    first = unit.frames["host_samples"]["time"].min()
    assert first == (BEGIN - timedelta(seconds=40)).replace(tzinfo=None)
    kinds = unit.frames["events"]["kind"].to_list()
    assert ("clock_shifted" in kinds) is (zone_h != 0)


def test_without_the_run_the_zone_must_be_said(run: Path) -> None:
    (run / "mlperf_log_detail.txt").unlink()
    assert "--tz" in str(only(run).error)
    unit = only(run, tz=zone_of("America/Los_Angeles"))
    assert unit.error is None
    first = unit.frames["host_samples"]["time"].min()
    assert first == (BEGIN - timedelta(seconds=40) + timedelta(hours=7)).replace(tzinfo=None)
    assert "workload_samples" not in unit.frames


def test_the_total_is_the_hosts_and_each_channel_a_meter(run: Path) -> None:
    unit = only(run)
    host = unit.frames["host_samples"]
    assert host["platform_power_w"].to_list() == [1500.0 + n for n in range(200)]
    meters = unit.frames["facility_samples"]
    assert meters["meter"].unique().sort().to_list() == ["8xH200-ch1", "8xH200-ch2"]
    assert meters["meter_power_w"].sum() == pytest.approx(host["platform_power_w"].sum())
    assert meters["meter_voltage_v"].unique().to_list() == [239.36]


def test_channels_need_not_begin_at_one(run: Path) -> None:
    (run / "spl.txt").write_text(spl().replace("Ch1", "Ch4").replace("Ch2", "Ch11"))
    unit = only(run)
    assert unit.bad == 0
    meters = unit.frames["facility_samples"]
    assert meters["meter"].unique().sort().to_list() == ["8xH200-ch11", "8xH200-ch4"]
    assert meters.filter(pl.col("meter") == "8xH200-ch11")["meter_power_w"].unique().to_list() == [700.0]


def test_the_analyzers_minus_one_is_absent_and_not_a_power(run: Path) -> None:
    extra = [
        reading(BEGIN + timedelta(seconds=160), -1.0, -1.0, total=-1.0),
        reading(BEGIN + timedelta(seconds=161), 800.0, -1.0, total=-1.0),
    ]
    (run / "spl.txt").write_text(spl(*extra))
    unit = only(run)
    assert unit.bad == 0
    assert unit.frames["host_samples"].height == 200
    assert unit.frames["facility_samples"].height == 401
    assert unit.frames["facility_samples"]["meter_power_w"].min() >= 0  # type: ignore[operator]
    assert any("2 readings without power" in note for note in unit.files[0].notes)


def test_what_was_done_is_counted_from_the_start_to_the_end_of_the_window(run: Path) -> None:
    # 20 samples/s for 120 s; the number of samples that LoadGen "generated" is before it filled the query up.
    rows = only(run).frames["workload_samples"]
    assert rows.select("time", "samples", "tokens_out", "throughput_tokens_per_s").rows() == [
        (BEGIN.replace(tzinfo=None), 0.0, 0.0, None),
        (END.replace(tzinfo=None), 2400.0, 600_000.0, 5000.0),
    ]
    assert rows["latency_p99_s"].to_list() == [None, 3080.286267875]


def test_a_server_run_is_counted_in_queries(run: Path) -> None:
    summary = SUMMARY.replace("Samples per second", "Completed samples per second")
    (run / "mlperf_log_summary.txt").write_text(summary.replace("Tokens per second", "Completed tokens per second"))
    said = (
        detail()
        .replace('"Offline"', '"Server"')
        .replace(": 2304", ": 1")
        .replace('"generated_query_count", "value": 1', '"generated_query_count", "value": 2400')
    )
    (run / "mlperf_log_detail.txt").write_text(said)
    last = only(run).frames["workload_samples"].row(1, named=True)
    assert (last["samples"], last["requests"], last["tokens_out"]) == (2400.0, 2400.0, 600_000.0)
    assert last["first_token_time_s"] == pytest.approx(0.223764881 * 2400)


@pytest.mark.parametrize(
    "line",
    [
        reading(BEGIN + timedelta(seconds=160), 800.0, 700.0).replace("Watts,1500", "Watts,150"),
        reading(BEGIN + timedelta(seconds=160), 800.0, 700.0)[:-40],
        reading(BEGIN + timedelta(seconds=160), 800.0),
        reading(BEGIN + timedelta(seconds=160), 800.0, 700.0).replace("Time,07-17", "Time,17-07"),
        reading(BEGIN + timedelta(seconds=160), 800.0, 700.0).replace("239.36", "239,36"),
        reading(BEGIN + timedelta(days=100), 800.0, 700.0),
        "Notice: PTDaemon restarted",
    ],
)
def test_a_damaged_line_is_counted_shown_and_kept_out(run: Path, line: str) -> None:
    (run / "spl.txt").write_text(spl(line))
    unit = only(run)
    assert [bad.line for bad in unit.files[0].bad] == [201]
    assert unit.frames["host_samples"].height == 200
    assert unit.files[0].unaccounted == 0


def test_an_hour_damaged_in_one_line_costs_that_line_only(run: Path) -> None:
    lines = spl().split("\n")
    lines[100] = lines[100].replace(" 09:", " 01:")
    (run / "spl.txt").write_text("\n".join(lines))
    unit = only(run)
    assert [bad.line for bad in unit.files[0].bad] == [101]


def test_a_last_line_cut_off_in_a_number_is_kept_out(run: Path) -> None:
    (run / "spl.txt").write_text(spl().rstrip("\n")[:-3])
    assert [bad.reason for bad in only(run).files[0].bad] == ["has no line end: cut off"]
    (run / "spl.txt").write_text(spl().rstrip("\n"))
    assert only(run).bad == 0


def test_the_folders_of_a_submission_name_system_and_benchmark(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed/NVIDIA/results/H200x8_TRT/resnet50/Offline/performance/run_1"
    folder.parent.mkdir(parents=True)
    run.rename(folder)
    unit = only(tmp_path / "closed")
    assert unit.facts["workload"] == "mlperf-inference/H200x8_TRT/resnet50/Offline/run_1"
    assert only(tmp_path / "closed", host="lab").facts["system"] == "lab"


def test_the_recordings_import_whole_and_again_without_a_change(
    recordings: Path, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    folder = recordings / "mlperf/raw"
    for _ in range(2):
        report = take_in("mlperf-inference", str(folder), read_inference(folder), store)
        assert report.ok
        accounts = [account for unit in report.units for account in unit["files"]]
        assert len(report.units) == 7
        assert sum(account["unaccounted"] + account["bad"] for account in accounts) == 0
        readings = sum(unit["files"][0]["kept"]["reading"] for unit in report.units)
        assert stored("host_samples").height == readings == 13_661


def test_the_run_is_a_result_as_it_was_reported(run: Path) -> None:
    (row,) = only(run).frames["results"].to_dicts()
    assert (row["suite"], row["system"], row["benchmark"]) == ("mlperf-inference", "8xH200", "llama2-70b")
    assert (row["scenario"], row["metric"], row["verdict"]) == ("Offline", "tokens_per_s", "VALID")
    assert (row["samples_per_s"], row["tokens_per_s"]) == (20.0, 5000.0)
    assert (row["start"], row["end"]) == (BEGIN.replace(tzinfo=None), END.replace(tzinfo=None))
    assert row["time"] == row["end"]


def test_a_submissions_tree_says_who_and_on_what(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "inference_results_v4.1/closed/Acme"
    folder = place / "results/8xH200/llama2-70b/Offline/performance/run_1"
    shutil.copytree(run, folder)
    (place / "systems").mkdir()
    described = {
        "submitter": "Acme Inc.",
        "system_name": "Acme 8xH200",
        "accelerator_model_name": "NVIDIA H200",
        "accelerators_per_node": "8",
        "number_of_nodes": "2",
        "framework": "TensorRT",
    }
    (place / "systems/8xH200.json").write_text(json.dumps(described))
    (row,) = only(folder).frames["results"].to_dicts()
    assert (row["version"], row["division"], row["submitter"]) == ("v4.1", "closed", "Acme Inc.")
    assert (row["accelerator"], row["accelerators"], row["nodes"]) == ("NVIDIA H200", 16, 2)
    assert (row["system"], row["phase"], row["framework"]) == ("8xH200", "run_1", "TensorRT")
    (place / "systems/8xH200.json").write_text("{")
    with pytest.raises(ImportFailed, match=r"8xH200\.json.*no JSON"):
        only(folder)
