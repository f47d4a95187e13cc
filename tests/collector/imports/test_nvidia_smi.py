"""nvidia-smi's CSV and dmon, in every form they are found in."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.errors import ConfigError, ImportFailed
from collector.imports.clocks import Zone, zone_of
from collector.imports.dmon import read_dmon
from collector.imports.nvidia_smi import read_query
from collector.imports.report import Unit, take_in
from collector.store import Store

HEADER = "timestamp, uuid, power.draw [W], utilization.gpu [%], memory.used [MiB], clocks.current.sm [MHz], pstate"
ROWS = [
    "2024/05/01 12:00:00.100, GPU-a, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P0",
    "2024/05/01 12:00:00.110, GPU-b, 71.25 W, 0 %, 4 MiB, 345 MHz, P8",
    "2024/05/01 12:00:01.100, GPU-a, 310.75 W, 100 %, 2048 MiB, 1980 MHz, P0",
    "2024/05/01 12:00:01.110, GPU-b, [N/A], [Not Supported], N/A, [Unknown Error], P8",
]
UTC = Zone("UTC", 0)


def write(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def query(path: Path, tz: Zone | None = UTC, **options: object) -> Unit:
    (unit,) = read_query(path, tz=tz, **options)  # type: ignore[arg-type]
    return unit


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", HEADER, *ROWS)


def samples(unit: Unit) -> list[dict[str, object]]:
    return unit.frames["device_samples"].sort("time").to_dicts()


def test_values_arrive_in_catalogue_units(log: Path) -> None:
    unit = query(log, host="node7")
    first = samples(unit)[0]
    assert first["time"] == datetime(2024, 5, 1, 12, 0, 0, 100_000)
    assert (first["device"], first["host"]) == ("GPU-a", "node7")
    assert first["power_w"] == 300.5
    assert first["utilization_ratio"] == pytest.approx(0.98)
    assert first["memory_used_bytes"] == 1024 * 2**20
    assert first["clock_sm_hz"] == 1.98e9
    assert first["performance_state"] == 0
    assert unit.files[0].kept == {"header": 1, "reading": 4, "duplicate": 0}
    assert unit.files[0].unaccounted == 0


def test_what_nvidia_smi_has_no_value_for_is_absent_not_zero(log: Path) -> None:
    last = samples(query(log))[-1]
    absent = ("power_w", "utilization_ratio", "memory_used_bytes", "clock_sm_hz")
    assert [last[name] for name in absent] == [None] * 4
    assert last["performance_state"] == 8


@pytest.mark.parametrize(
    ("end", "encoding"),
    [("\r\n", "utf-8"), ("\n", "utf-8-sig"), ("\r\n", "utf-16"), ("\r\n", "utf-16-le"), ("\n", "utf-16-be")],
)
def test_any_encoding_and_line_end_reads_the_same(log: Path, tmp_path: Path, end: str, encoding: str) -> None:
    other = write(tmp_path / "other.csv", HEADER, *ROWS, end=end, encoding=encoding)
    assert query(other).frames["device_samples"].equals(query(log).frames["device_samples"])


def test_without_units_or_with_the_columns_in_another_order_it_reads_the_same(log: Path, tmp_path: Path) -> None:
    order = [3, 1, 6, 0, 5, 2, 4]

    def shuffled(line: str) -> str:
        fields = line.split(", ")
        return ", ".join(fields[at] for at in order)

    bare = [re.sub(r" (W|%|MiB|MHz)(?=,|$)", "", row) for row in ROWS]
    other = write(tmp_path / "other.csv", shuffled(HEADER), *map(shuffled, bare))
    assert query(other).frames["device_samples"].equals(query(log).frames["device_samples"])


def test_a_file_without_a_header_needs_its_fields(log: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.csv", *ROWS)
    with pytest.raises(ImportFailed, match="--fields"):
        query(other)
    names = [name.split(" [")[0] for name in HEADER.split(", ")]
    unit = query(other, fields=names)
    # A field that was named and not headed has the unit that nvidia-smi gives it.
    assert unit.frames["device_samples"].equals(query(log).frames["device_samples"])


def test_a_log_continued_by_another_run_with_other_columns_is_read_on(log: Path) -> None:
    with log.open("a") as file:
        file.write(f"{HEADER}\n2024/05/01 12:00:02.100, GPU-a, 1.00 W, 1 %, 1 MiB, 1 MHz, P0\n")
        file.write("uuid, timestamp, temperature.gpu\nGPU-a, 2024/05/01 12:00:03.100, 61\n")
    rows = samples(query(log))
    assert rows[-2]["power_w"] == 1.0
    assert (rows[-1]["power_w"], rows[-1]["temperature_c"]) == (None, 61)


def test_local_times_need_a_zone_and_are_stored_in_utc(log: Path) -> None:
    with pytest.raises(ConfigError, match="--tz"):
        query(log, tz=None)
    assert samples(query(log, zone_of("Europe/Berlin")))[0]["time"] == datetime(2024, 5, 1, 10, 0, 0, 100_000)
    assert samples(query(log, zone_of("-0530")))[0]["time"] == datetime(2024, 5, 1, 17, 30, 0, 100_000)


def test_the_hour_that_autumn_repeats_is_told_apart_by_the_step_back(tmp_path: Path) -> None:
    times = ["02:30:00", "02:59:59", "02:00:00", "02:30:00", "03:00:00"]
    rows = [f"2024/10/27 {time}.000, GPU-a, 1.00 W" for time in times]
    unit = query(write(tmp_path / "log.csv", "timestamp, uuid, power.draw [W]", *rows), zone_of("Europe/Berlin"))
    assert [row["time"].strftime("%H:%M:%S") for row in samples(unit)] == [  # type: ignore[attr-defined]
        "00:30:00",
        "00:59:59",
        "01:00:00",
        "01:30:00",
        "02:00:00",
    ]


def test_the_hour_that_spring_skips_is_no_time(tmp_path: Path) -> None:
    rows = [f"2024/03/31 {time}:00.000, GPU-a, 1.00 W" for time in ("01:59", "02:30", "03:00")]
    unit = query(write(tmp_path / "log.csv", "timestamp, uuid, power.draw [W]", *rows), zone_of("Europe/Berlin"))
    assert [(bad.line, "Europe/Berlin" in bad.reason) for bad in unit.files[0].bad] == [(3, True)]


def test_a_device_without_a_lasting_id_must_be_named(tmp_path: Path) -> None:
    header = "timestamp, index, serial, power.draw [W]"
    rows = [f"2024/05/01 12:00:00.10{n}, {n}, 0, 100.00 W" for n in range(2)]
    log = write(tmp_path / "log.csv", header, *rows)
    with pytest.raises(ConfigError, match="INDEX=ID"):
        query(log)
    with pytest.raises(ConfigError, match="several devices"):
        query(log, devices={"": "GPU-x"})
    unit = query(log, devices={"0": "GPU-x", "1": "GPU-y"})
    assert [row["device"] for row in samples(unit)] == ["GPU-x", "GPU-y"]


def test_the_older_names_of_fields_mean_the_same(tmp_path: Path) -> None:
    header = "timestamp, gpu_uuid, gpu_name, clocks.sm [MHz], clocks.mem [MHz], clocks_throttle_reasons.sw_power_cap"
    row = "2020/05/01 12:00:00.100, GPU-a, Tesla V100-SXM2-16GB, 1530 MHz, 877 MHz, Active"
    unit = query(write(tmp_path / "log.csv", header, row))
    (first,) = samples(unit)
    assert (first["clock_sm_hz"], first["clock_memory_hz"], first["throttling_power"]) == (1.53e9, 8.77e8, 1.0)
    assert unit.frames["devices"].select("device", "model", "vendor").row(0) == (
        "GPU-a",
        "Tesla V100-SXM2-16GB",
        "NVIDIA",
    )


@pytest.mark.parametrize("word", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_a_mask_of_reasons_is_each_of_them_and_a_field_of_one_goes_before_it(tmp_path: Path, word: str) -> None:
    header = f"timestamp, uuid, {word}.active, {word}.sw_power_cap"
    rows = [
        f"2024/05/01 12:00:00.{at}00, GPU-a, {said}, Not Active"
        for at, said in enumerate(("0x0000000000000024", "0x0000000000000001", "[N/A]", "0", "36"))
    ]
    unit = query(write(tmp_path / "log.csv", header, *rows))
    found = [(row["throttling_thermal"], row["throttling_idle"], row["throttling_power"]) for row in samples(unit)]
    assert found == [(1, 0, 0), (0, 1, 0), (None, None, 0)]
    (file,) = unit.files
    assert [line.reason for line in file.bad] == [f"{word}.active is no value: {said}" for said in ("0", "36")]
    assert not file.ignored


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2024/05/01 12:00:02.100, GPU-a, 300.50 W, 98 %, 1024 MiB, 1980 MHz", "6 fields"),
        ("2024/05/01 12:00:02.100, GPU-a, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P0, P0", "8 fields"),
        ("2024/05/01 12:00:02.100, GPU-a, 30O.50 W, 98 %, 1024 MiB, 1980 MHz, P0", "power.draw is no value"),
        ("2024/05/01 12:00:02.100, GPU-a, 300.50 mW, 98 %, 1024 MiB, 1980 MHz, P0", "power.draw is in mW"),
        ("2024/05/01 12:00:02.100, GPU-a, 300.50 W, 198 %, 1024 MiB, 1980 MHz, P0", "utilization.gpu cannot be true"),
        ("2024/05/01 12:00:02.100, GPU-a, -1.00 W, 98 %, 1024 MiB, 1980 MHz, P0", "power.draw cannot be true"),
        ("2024/05/01 12:00:02.100, GPU-a, nan W, 98 %, 1024 MiB, 1980 MHz, P0", "power.draw is no value"),
        ("2024/05/41 12:00:02.100, GPU-a, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P0", "timestamp is no time"),
        ("2024/05/01 12:00:02.100, GPU-a, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P17", "pstate is no value"),
        ("2024/05/01 12:00:02.100, GPU-\ufffd, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P0", "broken characters"),
        ("2024/05/01 12:00:02.100, GPU-a\0, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P0", "broken characters"),
        ("Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.", "1 fields"),
        ("2014/05/01 12:00:02.100, GPU-a, 300.50 W, 98 %, 1024 MiB, 1980 MHz, P0", "does not fit the lines"),
    ],
)
def test_a_bad_line_is_counted_shown_with_its_reason_and_kept_out(tmp_path: Path, line: str, reason: str) -> None:
    unit = query(write(tmp_path / "log.csv", HEADER, *ROWS[:2], line, *ROWS[2:]))
    (bad,) = unit.files[0].bad
    assert bad.line == 4
    assert reason in bad.reason
    assert unit.frames["device_samples"].height == 4
    assert unit.files[0].unaccounted == 0


def test_a_last_line_without_its_end_is_stored_only_when_it_is_surely_whole(tmp_path: Path) -> None:
    header = "timestamp, uuid, power.draw [W]"
    rows = [f"2024/05/01 12:00:0{n}.100, GPU-a, 30{n}.50" for n in range(3)]
    text = "\n".join([header, *rows])
    log = tmp_path / "log.csv"
    log.write_text(text)
    assert query(log).frames["device_samples"].height == 3
    for cut in range(1, 5):
        log.write_text(text[:-cut])
        unit = query(log)
        assert unit.frames["device_samples"].height == 2, text[-9:-cut]
        assert unit.files[0].bad_count == 1


def test_a_half_broken_file_is_stored_only_when_told(
    tmp_path: Path, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    log = write(tmp_path / "log.csv", HEADER, *ROWS, "half a li")
    assert not take_in("nvidia-smi", "log", read_query(log, tz=UTC), store).ok
    assert store.tables() == []
    report = take_in("nvidia-smi", "log", read_query(log, tz=UTC), store, partial=True)
    assert report.ok
    assert report.bad == 1
    assert stored("device_samples").height == 4


def test_a_log_that_grew_moved_or_came_twice_is_stored_once(
    log: Path, tmp_path: Path, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    take_in("nvidia-smi", "log", read_query(log, tz=UTC), store)
    with log.open("a") as file:
        file.write("2024/05/02 12:00:02.100, GPU-a, 320.00 W, 98 %, 1024 MiB, 1980 MHz, P0\n")
    moved = log.rename(tmp_path / "moved.csv")
    for _ in range(2):
        take_in("nvidia-smi", "log", read_query(moved, tz=UTC), store)
    assert stored("device_samples").height == 5


def test_an_unknown_unit_in_the_header_is_an_error(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "timestamp, uuid, power.draw [hp]", "2024/05/01 12:00:00.100, GPU-a, 1 hp")
    with pytest.raises(ImportFailed, match="'hp'; known are W, kW, mW"):
        query(log)


NOISE = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(0, 200),
        st.sampled_from(
            ["", "x", ",", "W", "%", " ", "\t", ":", "/", "GPU", "[", "]", "[N/A]", "\0", "\ufffd", "é", "-"]
        ),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NOISE)
@example([(1, 0, "x", 0), (2, 0, "-", 0), (3, 28, "", 3), (4, 0, "x", 0)])  # the year -2024 is 2068 in nanoseconds
def test_damage_never_stores_a_value_that_was_not_written(
    tmp_path: Path, noise: list[tuple[int, int, str, int]]
) -> None:
    lines = [HEADER, *ROWS]
    for line, at, inserted, removed in noise:
        text = lines[line]
        at = min(at, len(text))
        # A digit lost inside a number leaves a number: no reader can know. All other damage must be seen.
        gone = "".join(c for c in text[at : at + removed] if c.isdigit() or c == ".")
        removed = 0 if gone else removed
        lines[line] = text[:at] + inserted + text[at + removed :]
    log = write(tmp_path / "noise.csv", *lines)
    written = {(row["time"], row["device"]): row for row in samples(query(write(tmp_path / "log.csv", HEADER, *ROWS)))}
    unit = query(log)
    assert unit.files[0].unaccounted == 0
    devices = ("GPU-a", "GPU-b")
    for row in samples(unit) if unit.frames else ():
        if row["device"] not in devices:
            continue
        true = written[row["time"], row["device"]]
        for name, value in row.items():
            assert value is None or name in {"source", "host"} or value == true[name], (name, lines)


# ----------------------------------------------------------------------------------------------------------------- dmon

DMON = """\
#Date       Time        gpu    pwr  gtemp  mtemp     sm    mem   mclk   pclk  pviol  tviol     fb  rxpci  txpci
#YYYYMMDD   HH:MM:SS    Idx      W      C      C      %      %    MHz    MHz      %   bool     MB   MB/s   MB/s
 20260529   09:51:25      0    630     53     41    100      8   3201   1980      3      0  19818    120     80
 20260529   09:51:25      1     75     28      -      0      0   2619    345      0      -      2      0      2
#Date       Time        gpu    pwr  gtemp  mtemp     sm    mem   mclk   pclk  pviol  tviol     fb  rxpci  txpci
#YYYYMMDD   HH:MM:SS    Idx      W      C      C      %      %    MHz    MHz      %   bool     MB   MB/s   MB/s
 20260529   09:51:26      0    631     53     41    100      8   3201   1980      3      1  19818    120     80
"""
TWO = {"0": "GPU-a", "1": "GPU-b"}


def monitor(path: Path, tz: Zone | None = UTC, devices: dict[str, str] | None = None, **options: object) -> Unit:
    (unit,) = read_dmon(path, tz=tz, devices=TWO if devices is None else devices, **options)  # type: ignore[arg-type]
    return unit


def test_dmon_with_dates_and_repeated_headings(tmp_path: Path) -> None:
    log = tmp_path / "dmon.txt"
    log.write_text(DMON)
    unit = monitor(log)
    first, second, third = samples(unit)
    assert first["time"] == datetime(2026, 5, 29, 9, 51, 25)
    assert (first["power_w"], first["temperature_memory_c"], first["utilization_ratio"]) == (630, 41, 1.0)
    assert (first["pcie_rx_bytes_per_s"], first["memory_used_bytes"]) == (120e6, 19818 * 2**20)
    assert (second["temperature_memory_c"], second["throttling_thermal"]) == (None, None)
    assert third["throttling_thermal"] == 1.0
    assert unit.files[0].kept == {"header": 4, "reading": 3, "duplicate": 0}
    assert unit.files[0].ignored == ("pviol",)


def test_dmon_names_devices_by_index_so_they_must_be_named(tmp_path: Path) -> None:
    log = tmp_path / "dmon.txt"
    log.write_text(DMON)
    with pytest.raises(ConfigError, match="index 1"):
        monitor(log, devices={"0": "GPU-a"})


BARE = "# gpu    pwr  gtemp \n# Idx      W      C \n"


def test_dmon_without_times_needs_a_start_and_a_period(tmp_path: Path) -> None:
    log = tmp_path / "dmon.txt"
    log.write_text(BARE + "".join(f"    {gpu}    {100 + n}     50 \n" for n in range(3) for gpu in (0, 1)))
    start = datetime(2026, 1, 1)
    with pytest.raises(ConfigError, match="--start"):
        monitor(log)
    with pytest.raises(ConfigError, match="--period"):
        monitor(log, start=start)
    rows = samples(monitor(log, start=start, period_s=2.0))
    seconds = {row["power_w"]: (row["time"] - start).total_seconds() for row in rows}  # type: ignore[operator]
    assert seconds == {100: 0, 101: 2, 102: 4}


def test_a_bad_line_of_a_dmon_without_times_does_not_pull_later_ones_forward(tmp_path: Path) -> None:
    log = tmp_path / "dmon.txt"
    lines = [f"    {gpu}    {100 + n}     50 \n" for n in range(4) for gpu in (0, 1)]
    lines[2] = "    0    1x1     50 \n"
    lines[5] = "junk\n"
    log.write_text(BARE + "".join(lines))
    unit = monitor(log, start=datetime(2026, 1, 1), period_s=1.0)
    assert unit.files[0].bad_count == 2
    rows = samples(unit)
    assert {(row["time"].second, row["power_w"]) for row in rows} == {(n, 100 + n) for n in range(4)}  # type: ignore[attr-defined]


def test_dmon_as_csv_reads_the_same(tmp_path: Path) -> None:
    log, other = tmp_path / "dmon.txt", tmp_path / "dmon.csv"
    log.write_text(DMON)
    lines = [line.replace("#", "# ").split() for line in DMON.splitlines()]
    other.write_text("\n".join(f"#{', '.join(f[1:])}" if f[0] == "#" else ", ".join(f) for f in lines) + "\n")
    assert monitor(other).frames["device_samples"].equals(monitor(log).frames["device_samples"])


def test_pmon_is_not_taken_for_dmon(tmp_path: Path) -> None:
    log = tmp_path / "pmon.txt"
    log.write_text(
        "# gpu         pid   type     sm    mem\n# Idx           #    C/G      %      %\n    0  10309  C  99  7\n"
    )
    with pytest.raises(ImportFailed, match="pmon"):
        monitor(log, start=datetime(2026, 1, 1), period_s=1.0)


def test_dmon_with_times_and_no_date_goes_on_past_midnight(tmp_path: Path) -> None:
    log = tmp_path / "dmon.txt"
    rows = ["23:59:59      0    100", "00:00:00      0    101", "00:00:01      0    102"]
    log.write_text("#Time        gpu    pwr\n#HH:MM:SS    Idx      W\n" + "".join(f" {row}\n" for row in rows))
    times = [row["time"] for row in samples(monitor(log, start=datetime(2026, 1, 31)))]
    assert times == [datetime(2026, 1, 31, 23, 59, 59), datetime(2026, 2, 1), datetime(2026, 2, 1, 0, 0, 1)]


# ----------------------------------------------------------------------------------------------------------- recordings


def test_recorded_logs_import_whole(recordings: Path) -> None:
    logs = sorted((recordings / "sensors").rglob("*gpudata.csv"))
    assert len(logs) == 6
    for log in logs:
        unit = query(log, zone_of("+01:00"), devices={"": "GPU-x"})
        lines = len(log.read_text().splitlines())
        assert unit.files[0].kept["reading"] + unit.files[0].kept["duplicate"] == lines - 1
        assert unit.files[0].bad_count == 0


def test_captures_of_whole_boards_and_dmon_are_read(recordings: Path, tmp_path: Path) -> None:
    captures = sorted((recordings / "captures/nvidia-smi").glob("*.txt"))
    assert captures
    for capture in captures:
        text = capture.read_text(errors="replace")
        for state in ("idle", "load"):
            body = re.search(rf"# {state} :: query-gpu .*?\n# \$.*?\n#+\n(.*?)\n#####", text, re.S)
            if body is None:
                continue
            unit = query(write(tmp_path / "log.csv", body[1].strip()))
            assert unit.bad == 0
            (row,) = samples(unit)
            assert row["power_w"]
            assert row["memory_total_bytes"]
        bodies = re.findall(r"# \$ nvidia-smi dmon -c 5\n#+\n(.*?)(?:\n\n|\n####|\Z)", text, re.S)
        for body in bodies:
            unit = monitor(
                write(tmp_path / "dmon.txt", body), devices={"": "GPU-x"}, start=datetime(2026, 1, 1), period_s=1.0
            )
            assert (unit.bad, unit.frames["device_samples"].height) == (0, 5)
