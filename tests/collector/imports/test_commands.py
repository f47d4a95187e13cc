"""``perfwatt import`` as it is typed: stdout is the report, stderr the rest, exit codes are kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collector.imports.commands import app

ROOT = Path(__file__).parents[3]
HEADER = "timestamp, uuid, power.draw [W]"
ROW = "2024/05/01 12:00:00.100, GPU-a, 300.50 W"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(f"{HEADER}\n{ROW}\n")
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_report_is_json_on_stdout_and_the_rows_are_stored(log: Path, tmp_path: Path) -> None:
    code, out, err = run("nvidia-smi", log, "--tz", "UTC", "--store", tmp_path / "s", "-o", "json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["schema"] == "perfwatt.import/1"
    assert report["rows"] == {"device_samples": 1, "devices": 1}
    assert list((tmp_path / "s/device_samples/date=2024-05-01").glob("import-*.parquet"))


def test_other_formats_have_a_row_for_each_file(log: Path, tmp_path: Path) -> None:
    arguments = ("nvidia-smi", log, "--tz", "UTC", "--dry-run")
    code, out, _ = run(*arguments, "-o", "csv")
    assert code == 0
    header, row = out.splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["reading"] == "1"
    for kind in ("json", "jsonl", "parquet", "table"):
        code, out, _ = run(*arguments, "-o", kind, "--file", tmp_path / kind)
        assert (code, out) == (0, "")
        assert (tmp_path / kind).stat().st_size


def test_a_dry_run_stores_nothing(log: Path, tmp_path: Path) -> None:
    code, out, _ = run("nvidia-smi", log, "--tz", "UTC", "--store", tmp_path / "s", "--dry-run")
    assert code == 0
    assert "would store: 1 device_samples" in out
    assert not (tmp_path / "s").exists()


def test_bad_lines_refuse_the_file_unless_told_to_take_the_rest(log: Path, tmp_path: Path) -> None:
    log.write_text(f"{HEADER}\n{ROW}\nhalf a l\n")
    arguments = ("nvidia-smi", log, "--tz", "UTC", "--store", tmp_path / "s")
    code, out, err = run(*arguments)
    assert code == 1
    assert "line 3: 1 fields, the header has 3: 'half a l'" in out
    assert "1 of 1 refused" in err
    assert not list((tmp_path / "s").rglob("*.parquet"))
    code, out, _ = run(*arguments, "--partial")
    assert code == 0
    assert "stored: 1 device_samples" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tz", "Mars/Olympus"), "Mars/Olympus"),
        ((), "--tz"),
        (("--tz", "+99:00"), "+99:00"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_a_wrong_option_exits_2_and_names_it(log: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run("nvidia-smi", log, "--store", tmp_path / "s", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_no_connection_exits_3(tmp_path: Path) -> None:
    code, out, err = run("prometheus", "http://127.0.0.1:9", "--store", tmp_path / "s")
    assert (code, out) == (3, "")
    assert "refused" in err


def test_a_folder_without_recordings_is_an_error_and_not_an_empty_success(tmp_path: Path) -> None:
    for command in ("mlperf-training", "mlperf-inference"):
        code, _, err = run(command, tmp_path, "--store", tmp_path / "s")
        assert code == 1
        assert "holds nothing" in err


def test_a_store_that_cannot_be_written_is_an_error(log: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file")
    code, _, err = run("nvidia-smi", log, "--tz", "UTC", "--store", tmp_path / "s")
    assert code == 1
    assert str(tmp_path / "s") in err


def test_importing_the_commands_loads_neither_polars_nor_duckdb() -> None:
    code = "import sys, collector.imports.commands; print({'polars', 'duckdb', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
