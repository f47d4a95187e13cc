"""
Whatever happens to a log, no reader ends in a traceback, loses count of a line or stores a value that was not written.

Damage here never removes or inserts digits, signs and points: a digit lost inside a number leaves a number, and no
reader can know.
"""

import gzip
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.errors import ImportFailed, TelemetryError
from collector.imports.clocks import Zone
from collector.imports.dmon import read_dmon
from collector.imports.lines import read_lines
from collector.imports.mlperf_inference import read_inference
from collector.imports.mlperf_training import read_training
from collector.imports.nvidia_smi import read_query
from collector.imports.report import Unit
from collector.imports.table import read_mapping, read_table

UTC = Zone("UTC", 0)
DIGITS = frozenset("0123456789.+-eE")
JUNK = st.sampled_from(
    ["", "x", ",", "W", "%", " ", "\t", ":", "{", "}", '"', "\0", "\ufffd", "é", "[N/A]", "#", ",,", "Ch"]
)
DAMAGE = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300), JUNK, st.integers(0, 4)), min_size=1, max_size=5)
WHOLE = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["drop", "twice", "swap", "cut"])), max_size=4)

MLLOG = ':::MLLOG {{"namespace": "", "time_ms": {at}, "key": "{key}", "value": {value}, "metadata": {{}}}}'
BEGIN = 1_728_509_275_000


def power_log() -> list[str]:
    return [MLLOG.format(at=BEGIN + 1000 * n, key="power_reading", value=f"{3000 + 7 * n}.5") for n in range(30)]


def wall_log() -> list[str]:
    return [
        f"Time,07-17-2024 09:52:{n:02d}.305,Watts,{1500 + n}.500000,Volts,239.16,Amps,3.48,PF,0.96,Mark,x,"
        f"Ch1,Watts,{800 + n}.500000,Volts,239.36,Amps,3.58,PF,0.96,Ch2,Watts,700.000000,Volts,239.36,Amps,3.58,PF,0.96"
        for n in range(30)
    ]


def monitor_log() -> list[str]:
    head = ["#Date       Time        gpu    pwr  gtemp", "#YYYYMMDD   HH:MM:SS    Idx      W      C"]
    return head + [f" 20260529   09:51:{n:02d}      0    {600 + n}     {50 + n % 9}" for n in range(30)]


def query_log() -> list[str]:
    rows = [f"2024/05/01 12:00:{n:02d}.100, GPU-a, {300 + n}.50 W, {n} %" for n in range(30)]
    return ["timestamp, uuid, power.draw [W], utilization.gpu [%]", *rows]


def csv_log() -> list[str]:
    return ["when,id,p", *(f"{1_700_000_000 + n}.5,GPU-a,{300 + n}.25" for n in range(30))]


def training(folder: Path, lines: list[str]) -> Unit:
    (folder / "power/result_0").mkdir(parents=True, exist_ok=True)
    run = [
        MLLOG.format(at=BEGIN + at, key=key, value="null") for key, at in (("run_start", 1000), ("run_stop", 28_000))
    ]
    (folder / "result_0.txt").write_text("\n".join([*run, ""]))
    (folder / "power/result_0/node_0.txt").write_text("\n".join([*lines, ""]))
    (unit,) = read_training(folder)
    return unit


def inference(folder: Path, lines: list[str]) -> Unit:
    run = folder / "system/run"
    run.mkdir(parents=True, exist_ok=True)
    said = {"power_begin": '"07-17-2024 09:52:01.000"', "power_end": '"07-17-2024 09:52:28.000"'}
    (run / "mlperf_log_detail.txt").write_text(
        "".join(MLLOG.format(at=1, key=k, value=v) + "\n" for k, v in said.items())
    )
    (run / "spl.txt").write_text("\n".join([*lines, ""]))
    (unit,) = read_inference(folder)
    return unit


def monitor(folder: Path, lines: list[str]) -> Unit:
    path = folder / "dmon.txt"
    path.write_text("\n".join([*lines, ""]))
    (unit,) = read_dmon(path, tz=UTC, devices={str(index): f"GPU-{index}" for index in range(10_000)})
    return unit


def query(folder: Path, lines: list[str]) -> Unit:
    path = folder / "log.csv"
    path.write_text("\n".join([*lines, ""]))
    (unit,) = read_query(path, tz=UTC, devices={str(index): f"GPU-{index}" for index in range(16)})
    return unit


def table(folder: Path, lines: list[str]) -> Unit:
    mapping = folder / "mapping.toml"
    mapping.write_text(
        'table = "device_samples"\n[time]\ncolumn = "when"\nformat = "unix_s"\n[subject]\ncolumn = "id"\n'
        '[metrics]\npower_w = { column = "p", unit = "W" }\n'
    )
    path = folder / "log.csv"
    path.write_text("\n".join([*lines, ""]))
    (unit,) = read_table(path, read_mapping(mapping))
    return unit


Reader = Callable[[Path, list[str]], Unit]
LOGS: dict[str, tuple[Reader, list[str], int, str, str]] = {
    "training": (training, power_log(), 0, "host_samples", "platform_power_w"),
    "inference": (inference, wall_log(), 0, "host_samples", "platform_power_w"),
    "dmon": (monitor, monitor_log(), 2, "device_samples", "power_w"),
    "query": (query, query_log(), 1, "device_samples", "power_w"),
    "table": (table, csv_log(), 1, "device_samples", "power_w"),
}


def pairs(unit: Unit, name: str, column: str) -> set[tuple[datetime, float]]:
    if name not in unit.frames or column not in unit.frames[name].columns:
        return set()
    return set(unit.frames[name].select("time", column).drop_nulls().rows())


def damaged(
    lines: list[str], head: int, damage: list[tuple[int, int, str, int]], whole: list[tuple[int, str]]
) -> list[str]:
    lines = list(lines)
    for line, at, junk, removed in damage:
        line = head + line % (len(lines) - head)
        text = lines[line]
        at = min(at, len(text))
        if DIGITS.isdisjoint(text[at : at + removed]):
            lines[line] = text[:at] + junk + text[at + removed :]
    for line, what in whole:
        line = head + line % max(len(lines) - head - 1, 1)
        if len(lines) < head + 3:
            break
        if what == "drop":
            del lines[line]
        elif what == "twice":
            lines.insert(line, lines[line])
        elif what == "swap":
            lines[line], lines[line + 1] = lines[line + 1], lines[line]
        else:
            lines[line] = lines[line][: len(lines[line]) // 3]
    return lines


@pytest.mark.parametrize("kind", LOGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=DAMAGE, whole=WHOLE)
def test_damage_is_counted_and_never_becomes_a_value(
    tmp_path: Path, kind: str, damage: list[tuple[int, int, str, int]], whole: list[tuple[int, str]]
) -> None:
    read, lines, head, name, column = LOGS[kind]
    true = pairs(read(tmp_path, lines), name, column)
    assert len(true) == 30
    unit = read(tmp_path, damaged(lines, head, damage, whole))
    assert [account.unaccounted for account in unit.files] == [0] * len(unit.files)
    assert pairs(unit, name, column) <= true


@pytest.mark.parametrize("kind", LOGS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.text(max_size=60), max_size=12), head=st.booleans())
def test_noise_is_refused_without_a_traceback(tmp_path: Path, kind: str, noise: list[str], head: bool) -> None:
    read, lines, heading, _, _ = LOGS[kind]
    printable = [line.encode("utf-8", "replace").decode() for line in noise]
    try:
        unit = read(tmp_path, [*(lines[:heading] if head else []), *printable])
    except TelemetryError:
        return  # said in words: no header, no such column
    assert [account.unaccounted for account in unit.files] == [0] * len(unit.files)


def test_a_gzipped_log_reads_as_the_plain_one(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a", tmp_path / "a.gz"
    plain.write_text("one\r\ntwo\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_lines(packed).texts == read_lines(plain).texts == ["one", "two"]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ImportFailed, match=r"a\.gz: cannot be read"):
        read_lines(packed)
