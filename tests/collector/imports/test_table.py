"""Any CSV or Parquet by a mapping file."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from collector.catalogue import CATALOGUE, Scope
from collector.errors import ConfigError, ImportFailed
from collector.imports.conversions import KNOWN
from collector.imports.report import Unit, take_in
from collector.imports.table import read_mapping, read_table
from collector.store import Store
from collector.units import UNITS

MAPPING = """
table = "device_samples"
[time]
column = "when"
format = "unix_ms"
[subject]
column = "id"
[host]
value = "node7"
[metrics]
power_w = { column = "p", unit = "mW" }
utilization_ratio = { column = "u", unit = "%" }
temperature_c = { column = "t", unit = "F" }
"""
HEAD = MAPPING.partition("[metrics]")[0]
CSV = """\
when,id,p,u,t,note
1700000000123,GPU-a,300500,98,212,"one, two"
1700000001123,GPU-a,,NaN,32,
1700000001123,GPU-b,71250,0,-40,
"""


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "lab.toml"
    path.write_text(MAPPING)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(CSV)
    return path


def only(log: Path, mapping: Path, **options: str) -> Unit:
    (unit,) = read_table(log, read_mapping(mapping), **options)  # type: ignore[arg-type]
    return unit


def rows(unit: Unit) -> list[dict[str, object]]:
    (frame,) = unit.frames.values()
    return frame.sort("time", frame.columns[0]).to_dicts()


def test_values_arrive_in_catalogue_units(log: Path, mapping: Path) -> None:
    unit = only(log, mapping)
    first, second, third = rows(unit)
    assert first["time"] == datetime(2023, 11, 14, 22, 13, 20, 123_000)
    assert (first["device"], first["host"], first["source"]) == ("GPU-a", "node7", "import:lab")
    assert first["power_w"] == pytest.approx(300.5)
    assert first["utilization_ratio"] == pytest.approx(0.98)
    assert first["temperature_c"] == pytest.approx(100)
    assert (second["power_w"], second["utilization_ratio"]) == (None, None)
    assert second["temperature_c"] == pytest.approx(0)
    assert third["temperature_c"] == pytest.approx(-40)
    assert unit.files[0].ignored == ("note",)
    assert unit.files[0].unaccounted == 0


def test_parquet_says_the_same(log: Path, mapping: Path, tmp_path: Path) -> None:
    other = tmp_path / "log.parquet"
    pl.read_csv(log).write_parquet(other)
    assert rows(only(other, mapping)) == rows(only(log, mapping))


def test_a_bad_row_of_parquet_is_counted_by_its_number(mapping: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    values = {"when": [1_700_000_000_000] * 4, "id": ["GPU-a", "GPU-\x00", None, "GPU-b"], "p": [1e3, 1e3, 1e3, -1e9]}
    pl.DataFrame(values | {"u": [1] * 4, "t": [50] * 4}).write_parquet(log)
    unit = only(log, mapping)
    assert [bad.line for bad in unit.files[0].bad] == [2, 3, 4]
    assert unit.files[0].unaccounted == 0
    assert [row["device"] for row in rows(unit)] == ["GPU-a"]


def test_times_of_every_form(tmp_path: Path, mapping: Path) -> None:
    expected = datetime(2023, 11, 14, 22, 13, 20, 123_000)
    for form, zone, written in [
        ("unix_s", "", "1700000000.123"),
        ("unix_us", "", "1700000000123000"),
        ("unix_ns", "", "1700000000123000000"),
        ("iso", "", "2023-11-14T22:13:20.123Z"),
        ("iso", "", "2023-11-14T23:13:20.123+01:00"),
        ("iso", "Europe/Berlin", "2023-11-14 23:13:20.123"),
        ("%d.%m.%Y %H:%M:%S%.3f", "UTC", "14.11.2023 22:13:20.123"),
    ]:
        log = tmp_path / "log.csv"
        log.write_text(f"when,id,p,u,t\n{written},GPU-a,1000,1,50\n")
        mapping.write_text(
            MAPPING.replace(
                'format = "unix_ms"', f'format = "{form}"\nzone = "{zone}"' if zone else f'format = "{form}"'
            )
        )
        assert rows(only(log, mapping))[0]["time"] == expected, (form, written)


@pytest.mark.parametrize(
    ("form", "zone", "written"),
    [
        ("unix_s", "", "253402300799"),
        ("unix_ns", "", "99999999999999999999"),
        ("iso", "", "9999-12-31T23:59:59Z"),
        ("iso", "UTC", "9999-12-31 23:59:59"),
        ("%d.%m.%Y %H:%M:%S", "UTC", "31.12.9999 23:59:59"),
    ],
)
def test_a_time_that_nanoseconds_cannot_hold_is_no_other_time(
    tmp_path: Path, mapping: Path, form: str, zone: str, written: str
) -> None:
    """An end that is not known is often written as the year 9999, which would come out as 1816."""
    log = tmp_path / "log.csv"
    log.write_text(f"when,id,p,u,t\n{written},GPU-a,1000,1,50\n")
    mapping.write_text(
        MAPPING.replace('format = "unix_ms"', f'format = "{form}"' + (f'\nzone = "{zone}"' if zone else ""))
    )
    (bad,) = only(log, mapping).files[0].bad
    assert "its time is no time" in bad.reason


def test_a_parquet_time_that_nanoseconds_cannot_hold_is_no_other_time(tmp_path: Path, mapping: Path) -> None:
    times = [datetime(2023, 11, 14, 22, 13, 20), datetime(9999, 12, 31)]
    data = pl.DataFrame({"when": times, "id": ["GPU-a"] * 2, "p": [1000] * 2, "u": [1] * 2, "t": [50] * 2})
    log = tmp_path / "log.parquet"
    for unit in ("us", "ms"):
        data.with_columns(pl.col("when").dt.cast_time_unit(unit).dt.replace_time_zone("UTC")).write_parquet(log)
        found = only(log, mapping)
        assert [row["time"] for row in rows(found)] == times[:1]
        assert [bad.line for bad in found.files[0].bad] == [2]


def test_a_parquet_time_needs_a_zone_only_when_it_has_none(tmp_path: Path, mapping: Path) -> None:
    moment = datetime(2023, 11, 14, 22, 13, 20)
    data = pl.DataFrame({"when": [moment], "id": ["GPU-a"], "p": [1000], "u": [1], "t": [50]})
    log = tmp_path / "log.parquet"
    data.with_columns(pl.col("when").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")).write_parquet(log)
    assert rows(only(log, mapping))[0]["time"] == moment
    data.write_parquet(log)
    with pytest.raises(ConfigError, match=r"time\.zone"):
        only(log, mapping)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1700000002123,GPU-a,3o0,98,50,", "p is no number"),
        ("1700000002123,GPU-a,-1,98,50,", "p cannot be true of power_w"),
        ("1700000002123,GPU-a,1,998,50,", "u cannot be true of utilization_ratio"),
        ("soon,GPU-a,1,98,50,", "its time is no time"),
        ("1700000002123,,1,98,50,", "names no subject"),
        ("1700000002123,GPU-a,1,98", "4 fields"),
        ("1700000002123,GPU-a,1_000,98,50,", "p is no number"),
        ("1700000002123,GPU-\ufffd,1,98,50,", "broken characters"),
    ],
)
def test_a_bad_row_is_counted_shown_and_kept_out(log: Path, mapping: Path, line: str, reason: str) -> None:
    log.write_text(f"{CSV}{line}\n")
    unit = only(log, mapping)
    (bad,) = unit.files[0].bad
    assert (bad.line, reason in bad.reason) == (5, True)
    assert len(rows(unit)) == 3


@pytest.mark.parametrize(
    ("old", "new", "key", "allowed"),
    [
        ('unit = "mW"', 'unit = "hp"', "metrics.power_w.unit", "uW, mW, kW, MW"),
        ("power_w =", "power_watts =", "metrics.power_watts", "power_w, power_instant_w"),
        ('"device_samples"', '"devices"', "table", "device_samples, host_samples"),
        ('"unix_ms"', '"epoch"', "time.format", "iso, unix_s"),
        ('column = "when"', "colum = 1", "time.colum", "column, format, zone"),
        ('column = "p"', 'column = "q"', "q", "when, id, p, u, t, note"),
        ('value = "node7"', 'value = "node7"\ncolumn = "id"', "host", "either column or value"),
        ('[subject]\ncolumn = "id"', "", "subject", "missing"),
        ('column = "p"', "column = 3", "metrics.power_w.column", "no text"),
        ("[time]", "[time", "--mapping", "TOML"),
    ],
)
def test_a_wrong_mapping_is_an_error_that_names_the_key_and_what_it_may_be(
    log: Path, mapping: Path, old: str, new: str, key: str, allowed: str
) -> None:
    assert old in MAPPING
    mapping.write_text(MAPPING.replace(old, new))
    with pytest.raises(ConfigError, match=allowed) as caught:
        only(log, mapping)
    assert caught.value.key == key
    assert str(mapping) in str(caught.value)


def test_every_unit_of_the_catalogue_can_be_mapped() -> None:
    assert set(KNOWN) == set(UNITS)
    for metric in CATALOGUE:
        if metric.scope is not Scope.AGENT:
            assert any(conversion == (1.0, 0.0) for conversion in KNOWN[metric.unit].values()), metric


def test_host_and_device_can_be_said_instead(log: Path, mapping: Path) -> None:
    first = rows(only(log, mapping, host="other", device="GPU-z"))[0]
    assert (first["device"], first["host"]) == ("GPU-z", "other")


def test_a_table_of_hosts_has_the_subject_as_its_host(tmp_path: Path, mapping: Path) -> None:
    mapping.write_text(
        HEAD.replace("device_samples", "host_samples") + '[metrics]\nplatform_power_w = { column = "p", unit = "kW" }\n'
    )
    log = tmp_path / "log.csv"
    log.write_text("when,id,p\n1700000000123,n1,3.5\n")
    (row,) = rows(only(log, mapping))
    assert (row["host"], row["platform_power_w"]) == ("n1", 3500.0)


def test_two_files_of_one_device_with_other_metrics_both_stay(
    tmp_path: Path, store: Store, stored: Callable[[str], pl.DataFrame]
) -> None:
    for name, column in (("power_w", "p"), ("temperature_c", "t")):
        path = tmp_path / f"{column}.toml"
        unit = "W" if column == "p" else "C"
        path.write_text(HEAD + f'[metrics]\n{name} = {{ column = "{column}", unit = "{unit}" }}\n')
        log = tmp_path / f"{column}.csv"
        log.write_text(f"when,id,{column}\n1700000000123,GPU-a,50\n")
        take_in("table", str(log), read_table(log, read_mapping(path)), store)
    found = stored("device_samples")
    assert sorted(value for name in ("power_w", "temperature_c") for value in found[name].drop_nulls()) == [50, 50]


def test_what_is_no_table_is_an_error(tmp_path: Path, mapping: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("\n\n")
    with pytest.raises(ImportFailed, match="is empty"):
        only(empty, mapping)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(ImportFailed, match="no readable Parquet"):
        only(broken, mapping)


def test_a_meter_recording_imports_whole(recordings: Path, mapping: Path) -> None:
    mapping.write_text(
        'table = "facility_samples"\n[time]\ncolumn = "unix_ms"\nformat = "unix_ms"\n[subject]\nvalue = "pmd"\n'
        '[metrics]\nmeter_power_w = { column = "pmd_w", unit = "W" }\n'
    )
    log = recordings / "sensors/5050_A100/meter_5ms.csv"
    unit = only(log, mapping)
    assert len(rows(unit)) == len(log.read_text().splitlines()) - 1
    assert rows(unit)[0]["meter_power_w"] == 65.59
