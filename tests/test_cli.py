"""The command line: its conventions, and that every command answers from a real store."""

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from collector import options
from collector.errors import (
    ConfigError,
    ImportFailed,
    QueryError,
    ReadRetry,
    SourceUnavailable,
    StoreBusy,
    StoreError,
    TelemetryError,
)
from collector.store import Store
from collector.store.files import WriterLock
from collector.store.store import UPKEEP

ROOT = Path(__file__).parents[1]
T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000
COMMANDS = {
    "agent", "demo", "dashboard", "import", "export", "devices", "metrics", "query", "top", "energy", "efficiency",
    "doctor", "config", "calibrate", "sensors", "attribution", "cost", "focus", "funnel", "waste", "quality",
    "jobs", "compare", "changes", "pue", "report", "capacity", "fleet", "fit", "plan",
    "incidents", "results", "forecast", "percentiles",
    "models", "maintain",
}  # fmt: skip
HEAVY = ("polars", "duckdb", "dash", "plotly", "sklearn", "numpy", "aiohttp", "prometheus_client", "rich", "yaml")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two devices at 100 and 200 W for a minute, one with a gap, and a workload on the first."""
    root = tmp_path_factory.mktemp("cli") / "store"
    made = Store.create(root)
    seconds = range(61)
    first, second = [T0 + s * S for s in seconds], [T0 + s * S for s in seconds if not 20 < s < 40]
    made.write(
        "device_samples",
        {
            "device": ["GPU-0"] * len(first) + ["GPU-1"] * len(second),
            "time": first + second,
            "source": ["test"] * (len(first) + len(second)),
            "host": ["node"] * (len(first) + len(second)),
            "power_w": [100.0] * len(first) + [200.0] * len(second),
        },
    )
    made.write(
        "devices",
        {"device": ["GPU-0"], "time": [T0], "source": ["test"], "host": ["node"], "vendor": ["nvidia"], "model": ["X"]},
    )
    made.write(
        "workload_samples",
        {
            "workload": ["w"] * len(first),
            "time": first,
            "source": ["test"] * len(first),
            "tokens_out": [50.0 * s for s in seconds],
        },
    )
    made.write("allocations", {"workload": ["w"], "device": ["GPU-0"], "start": [T0], "time": [T0], "source": ["test"]})
    return root


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PERFWATT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    # `--config` sets it; monkeypatch must know of it to take it back.
    monkeypatch.setenv("PERFWATT_CONFIG", "")


def run(*arguments: object, input: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=input)


def process(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


# ------------------------------------------------------------------------------------------------------------ --help


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield (*path, name), child
        yield from walk(child, (*path, name))


def test_the_commands_are_those_promised() -> None:
    from typer.main import get_command

    assert set(get_command(cli.app).commands) == COMMANDS  # type: ignore[attr-defined]


def test_every_command_and_option_is_documented() -> None:
    from typer.main import get_command

    for path, command in walk(get_command(cli.app)):
        assert command.help, f"{' '.join(path)} has no help"
        for parameter in command.params:
            named = getattr(parameter, "help", None) or parameter.param_type_name == "argument"
            assert named, f"{' '.join(path)}: {parameter.name} has no help"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nsys.argv = ['perfwatt', '--help']\nimport cli\n"
        "try: cli.app()\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Exit codes" in done.stdout


def test_help_of_a_command_is_plain_text() -> None:
    result = run("query", "--help")
    assert result.exit_code == 0
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout


def test_no_arguments_show_the_help_and_are_a_usage_error() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: perfwatt" in result.output or "Usage:" in result.output


def test_the_version_is_shown() -> None:
    assert run("--version").stdout[0].isdigit()


# -------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("k", "m"), 2),
        (SourceUnavailable("m"), 3),
        (ReadRetry("m"), 3),
        (StoreError("p", "m"), 1),
        (StoreBusy("p", "m"), 3),
        (QueryError("m"), 1),
        (ImportFailed("p", "m"), 1),
        (TelemetryError("m"), 1),
    ],
)
def test_each_error_has_its_documented_exit_code(error: TelemetryError, code: int) -> None:
    assert options.exit_code(error) == code


def test_an_error_is_one_line_on_stderr_and_nothing_on_stdout(tmp_path: Path) -> None:
    result = run("energy", "--store", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"perfwatt: {tmp_path / 'none'}: no store here: not a folder\n"


def test_a_store_that_no_agent_keeps_is_cleaned_up_and_one_that_is_being_is_left(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "store")
    for second in range(3):
        made.write("device_samples", {"device": ["a"], "source": ["s"], "time": [T0 + second * S], "power_w": [100.0]})
    with WriterLock(made.root, UPKEEP):
        result = run("maintain", "--store", made.root)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"in process {os.getpid()}" in result.stderr
    (row,) = json.loads(run("maintain", "--store", made.root, "-o", "json").stdout)["rows"]
    assert (row["rolled_up"] > 0, row["expired"], row["deleted"]) == (True, 0, 0)
    assert made.rolled_up("device_samples") is not None
    assert run("energy", "--store", made.root, "-o", "csv").stdout.splitlines()[1].startswith("a,")


def test_a_faulty_statement_is_1_and_a_wrong_option_is_2(store: Path) -> None:
    assert run("query", "SELECT nonsense", "--store", store).exit_code == 1
    assert run("query", "SELECT 1", "--store", store, "--since", "yesteryear").exit_code == 2
    assert run("query", "SELECT 1", "--store", store, "--output", "xml").exit_code == 2
    assert run("query", "SELECT 1", "--store", store, "--tz", "Mars/Olympus").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_a_bug_keeps_its_traceback_without_the_values_of_variables(store: Path) -> None:
    program = (
        "import sys, cli\n"
        "import collector.options as o\n"
        "def broken(given):\n    password = 'hunter2'\n    raise ZeroDivisionError('bug')\n"
        "import collector.commands as c\nc.store_root = broken\n"
        "sys.argv = ['perfwatt', 'query', 'SELECT 1']\ncli.app()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError: bug" in done.stderr
    assert done.stderr.count("hunter2") <= 1  # the line of source, not a list of locals
    assert "locals" not in done.stderr


def test_a_check_that_holds_exits_with_4_and_the_data_is_there_all_the_same(store: Path) -> None:
    result = run("energy", "--store", store, "-o", "json", "--check", "covered_s<60")
    assert result.exit_code == 4
    assert len(json.loads(result.stdout)["rows"]) == 2
    assert result.stderr == "check: covered_s<60 holds for 1 row\n"
    assert run("energy", "--store", store, "--check", "covered_s<1").exit_code == 0


def test_a_check_looks_at_rows_that_are_not_shown(store: Path) -> None:
    result = run("query", "FROM range(100)", "--store", store, "--limit", 5, "--check", "range==99")
    assert result.exit_code == 4
    assert len(result.stdout.splitlines()) == 7


@pytest.mark.parametrize("condition", ["covered_s", "nothing<1", "covered_s<many"])
def test_a_check_that_is_none_is_a_usage_error(store: Path, condition: str) -> None:
    assert run("energy", "--store", store, "--check", condition).exit_code == 2


def test_an_interrupt_exits_with_130_and_without_a_traceback(store: Path) -> None:
    running = process("query", "SELECT count(*) FROM range(1000000) a, range(1000000) b", "--store", store)
    deadline = time.monotonic() + 30
    while not Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in stderr


def test_a_reader_that_has_enough_is_no_error(store: Path) -> None:
    running = process("query", "FROM range(3000000)", "--store", store, "-o", "csv")
    assert running.stdout is not None
    assert running.stdout.readline() == "range\n"
    running.stdout.close()
    assert running.stderr is not None
    stderr = running.stderr.read()
    assert (running.wait(30), stderr) == (0, "")
    running.stderr.close()


# --------------------------------------------------------------------------------------------------- stdout and formats


def test_every_format_holds_the_same_rows(store: Path, tmp_path: Path) -> None:
    sql = "SELECT device, count(*) AS n, min(time) AS first FROM device_samples GROUP BY 1 ORDER BY 1"
    ask = ("query", sql, "--store", store, "-o")
    expected = [
        {"device": "GPU-0", "n": 61, "first": "2026-01-01T00:00:00Z"},
        {"device": "GPU-1", "n": 42, "first": "2026-01-01T00:00:00Z"},
    ]
    assert rows(run(*ask, "json")) == expected
    assert [json.loads(line) for line in run(*ask, "jsonl").stdout.splitlines()] == expected
    found = list(csv.DictReader(io.StringIO(run(*ask, "csv").stdout)))
    assert [{**row, "n": int(row["n"])} for row in found] == expected
    table = run(*ask, "table").stdout.splitlines()
    assert table[0].split() == ["device", "n", "first"]
    assert table[2].split() == ["GPU-0", "61", "2026-01-01T00:00:00Z"]
    assert run(*ask, "parquet", "--file", tmp_path / "x.parquet").stdout == ""
    import polars as pl

    frame = pl.read_parquet(tmp_path / "x.parquet")
    assert frame["first"].dtype == pl.Datetime("ns")
    assert frame["n"].to_list() == [61, 42]


def test_parquet_goes_to_a_redirected_stdout(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "query", "SELECT 1 AS a", "--store", store, "-o", "parquet"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert done.stdout[:4] == done.stdout[-4:] == b"PAR1"


def test_json_names_its_schema_and_columns(store: Path) -> None:
    answer = json.loads(run("energy", "--store", store, "-o", "json").stdout)
    assert (answer["schema"], answer["truncated"]) == ("perfwatt.energy/1", False)
    assert {"name": "energy_j", "type": "DOUBLE"} in answer["columns"]


def test_a_table_is_cut_loudly_and_other_formats_are_whole(store: Path) -> None:
    ask = ("query", "FROM range(700)", "--store", store)
    table = run(*ask, "--quiet")
    assert len(table.stdout.splitlines()) == 502
    assert table.stderr == "shown: the first 500 rows, and there are more; --limit 0 gives all\n"
    whole = run(*ask, "-o", "jsonl")
    assert (len(whole.stdout.splitlines()), whole.stderr) == (700, "")
    assert len(run(*ask, "--limit", 0).stdout.splitlines()) == 702
    cut = run(*ask, "--limit", 3, "-o", "json")
    assert json.loads(cut.stdout)["truncated"] is True
    assert "first 3 rows" in cut.stderr
    exact = run("query", "FROM range(500)", "--store", store)
    assert exact.stderr == ""


def test_an_answer_goes_to_a_file_whole_or_not_at_all(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    assert run("query", "SELECT 1 AS a", "--store", store, "-o", "csv", "--file", file).stdout == ""
    assert file.read_text() == "a\n1\n"
    assert run("query", "SELECT 1/0 AS b, error('x')", "--store", store, "-o", "csv", "--file", file).exit_code == 1
    assert file.read_text() == "a\n1\n"
    assert list(tmp_path.glob(".*")) == []
    nowhere = run("query", "SELECT 1", "--store", store, "-o", "csv", "--file", tmp_path / "no" / "x.csv")
    assert (nowhere.exit_code, "No such file" in nowhere.stderr) == (1, True)


def test_quiet_holds_before_and_after_the_command(store: Path, tmp_path: Path) -> None:
    loud = run("devices", "--store", store, "--until", "2000-01-01", "--since", "1999-01-01")
    assert loud.exit_code == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nothing found" in run("energy", "--store", empty).stderr
    assert run("energy", "--store", empty, "--quiet").stderr == ""
    assert run("--quiet", "energy", "--store", empty).stderr == ""
    assert "nothing found" in run("energy", "--store", empty).stderr  # and only there


def test_times_are_in_the_zone_asked_for(store: Path) -> None:
    (row,) = rows(
        run("query", "SELECT min(time) AS t FROM device_samples", "--store", store, "-o", "json", "--tz", "Asia/Tokyo")
    )
    assert row == {"t": "2026-01-01T09:00:00+09:00"}


def test_a_window_is_of_since_and_until(store: Path) -> None:
    ask = ("query", "SELECT count(*) AS n FROM device_samples", "--store", store, "-o", "json")
    assert rows(run(*ask, "--since", "2026-01-01T00:00:10", "--until", "@1767225620")) == [{"n": 20}]
    assert rows(run(*ask, "--since", "2026-01-01T09:00:50", "--tz", "Asia/Tokyo")) == [{"n": 22}]
    assert rows(run(*ask, "--since", "1h")) == [{"n": 0}]


# -------------------------------------------------------------------------------------------------------- the commands


def test_energy_is_power_over_time_and_a_gap_adds_nothing(store: Path) -> None:
    found = {row["device"]: row for row in rows(run("energy", "--store", store, "-o", "json"))}
    assert (found["GPU-0"]["energy_j"], found["GPU-0"]["covered_s"]) == (6000.0, 60.0)
    assert (found["GPU-1"]["energy_j"], found["GPU-1"]["covered_s"]) == (8000.0, 40.0)
    gap = {row["device"]: row for row in rows(run("energy", "--store", store, "-o", "json", "--max-gap", 30))}
    assert gap["GPU-1"]["covered_s"] == 60.0


def test_energy_by_window_says_which(store: Path) -> None:
    found = rows(run("energy", "--store", store, "-o", "json", "--by", "30s"))
    assert [(row["device"], row["window"]) for row in found][:2] == [
        ("GPU-0", "2026-01-01T00:00:00Z"),
        ("GPU-0", "2026-01-01T00:00:30Z"),
    ]


def test_efficiency_is_of_workloads_or_of_places(store: Path) -> None:
    (workload,) = rows(run("efficiency", "--store", store, "-o", "json"))
    assert (workload["workload"], workload["tokens"], workload["joules_per_token"]) == ("w", 3000.0, 2.0)
    (fleet,) = rows(run("efficiency", "--store", store, "-o", "json", "--per", "fleet"))
    assert (fleet["devices"], fleet["energy_j"]) == (2, 14000.0)


def test_devices_lists_those_that_never_described_themselves_too(store: Path) -> None:
    found = {row["device"]: row for row in rows(run("devices", "--store", store, "-o", "json"))}
    assert (found["GPU-0"]["model"], found["GPU-1"]["model"]) == ("X", None)
    assert (found["GPU-1"]["host"], found["GPU-1"]["samples"]) == ("node", 42)
    assert found["GPU-1"]["last_sample"] == "2026-01-01T00:01:00Z"


def test_metrics_lists_the_catalogue_and_what_is_stored(store: Path) -> None:
    from collector.catalogue import CATALOGUE

    everything = rows(run("metrics", "--store", store, "-o", "json"))
    assert [row["column"] for row in everything] == [metric.column for metric in CATALOGUE]
    power = next(row for row in everything if row["column"] == "power_w")
    assert (power["prometheus"], power["unit"], power["stored"]) == ("accel_power_watts", "W", "yes")
    stored = rows(run("metrics", "--store", store, "-o", "json", "--stored"))
    assert [row["column"] for row in stored] == ["power_w", "tokens_out"]


def test_sql_is_read_from_stdin(store: Path) -> None:
    assert run("query", "-", "--store", store, "-o", "csv", input="SELECT 7 AS x").stdout == "x\n7\n"


def test_a_query_out_of_time_names_the_limit(store: Path) -> None:
    result = run(
        "query", "FROM range(1e9::BIGINT) a, range(9) b SELECT sum(a.range)", "--store", store, "--timeout", 0.4
    )
    assert (result.exit_code, "longer than 0.4 s (--timeout)" in result.stderr) == (1, True)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_export_writes_a_table(store: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"x.{form}"
    result = run("export", "device_samples", "--store", store, "--file", file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "103 rows" in result.stderr
    assert file.stat().st_size > 0


def test_export_to_stdout_is_the_table_and_nothing_else(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "export", "devices", "--store", store], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert next(csv.DictReader(io.StringIO(done.stdout)))["model"] == "X"
    assert done.stderr == "1 rows\n"


def test_export_makes_a_database_that_stands_alone(store: Path, tmp_path: Path) -> None:
    import duckdb

    assert run("export", "--store", store, "--duckdb", tmp_path / "x.duckdb").exit_code == 0
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM device_samples").fetchall() == [(103,)]
    assert run("export", "--store", store).exit_code == 2
    assert run("export", "nothing", "--store", store, "--file", tmp_path / "x.csv").exit_code == 1


def test_top_prints_one_frame_where_there_is_no_terminal(store: Path) -> None:
    result = run("top", "--store", store)
    assert result.exit_code == 0
    assert result.stdout.startswith("perfwatt top")


def test_top_lives_on_a_terminal_of_80_by_24_and_ends_with_q(store: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="80", LINES="24")
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "cli", "top", "--store", str(store), "--interval", "0.2"])
    seen = ""
    try:
        for wanted, key in (("by device", b"h"), ("by host", b"w"), ("by workload", b"q")):
            deadline = time.monotonic() + 60
            while wanted not in seen and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.2)[0]:
                    seen += os.read(terminal, 65536).decode("utf-8", "replace")
            assert wanted in seen
            os.write(terminal, key)
        deadline = time.monotonic() + 30
        code = None
        while code is None and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert "\x1b[?1049l" in seen  # the screen from before is back
    finally:
        os.close(terminal)


# ------------------------------------------------------------------------------------------------------- configuration


def test_precedence_is_flag_then_environment_then_file(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[store]\nroot = "/from/file"\n[agent]\nperiod_s = 3\n')
    ask = ("query", "SELECT 1", "--config", file)
    assert "/from/file" in run(*ask).stderr
    monkeypatch.setenv("PERFWATT_STORE_ROOT", "/from/env")
    assert "/from/env" in run(*ask).stderr
    assert run(*ask, "--store", store).exit_code == 0
    shown = {row["key"]: row for row in rows(run("--config", file, "config", "show", "-o", "json"))}
    assert shown["store.root"] == {
        "key": "store.root", "value": "/from/env", "origin": "environment PERFWATT_STORE_ROOT",
    }  # fmt: skip
    assert shown["agent.period_s"]["origin"] == f"file {file}"
    assert shown["store.seal_s"]["origin"] == "default"


def test_a_configuration_named_but_missing_is_an_error(tmp_path: Path) -> None:
    result = run("--config", tmp_path / "none.toml", "config", "show")
    assert (result.exit_code, "cannot be read" in result.stderr) == (2, True)


def test_validate_names_file_key_and_value(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("[agent]\nperiod_s = -1\n")
    result = run("config", "validate", "--config", file)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in (str(file), "agent.period_s", "-1"))
    file.write_text("[agent]\nperiod_s = 2\n")
    assert run("config", "validate", "--config", file).exit_code == 0


def test_init_writes_a_file_that_validates_and_never_over_another(tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    assert run("config", "init", "--file", file).exit_code == 0
    assert run("config", "validate", "--config", file).exit_code == 0
    again = run("config", "init", "--file", file)
    assert (again.exit_code, "not overwritten" in again.stderr) == (2, True)
    assert run("config", "init").stdout == file.read_text()


def test_schema_is_a_json_schema() -> None:
    assert json.loads(run("config", "schema").stdout)["properties"]["agent"]["properties"]["period_s"]


def test_secrets_of_a_source_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(
        '[[source]]\ntype = "scrape"\ntargets = ["http://u:hunter2@127.0.0.1/metrics"]\npassword = "hunter2"\n'
    )
    result = run("config", "show", "--config", file)
    assert (result.exit_code, "hunter2" in result.output) == (0, False)


def test_the_agent_refuses_a_wrong_configuration_with_2(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("[agent]\nperiod = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "cli", "agent", "--config", file], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "agent.period" in done.stderr
