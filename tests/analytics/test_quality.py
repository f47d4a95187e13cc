"""What readings are worth: each fault by name, with its reason, and nothing held against a sound device."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import cli
from analytics.quality import QUALITY, quality
from analytics.steps import readings
from collector.store import Store

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
DATA = Path(__file__).parents[2] / "../shared/data/sensors"
TYPES = {"time": NS, "energy_j": pl.Float64, "utilization_ratio": pl.Float64, "power_method": pl.String}


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def ns(second: float) -> int:
    return 1_772_323_200_000_000_000 + round(second * 1e9)


def read(seconds: Iterable[float], device: str = "gpu", power_w: float | None = None, **more: Any) -> pl.DataFrame:
    """Readings at *seconds*, of power that moves unless it is given, and a counter that tells the same."""
    rows = [
        {"device": device, "source": f"nvml:{device}", "host": "h", "time": at(s),
         "power_w": 300.0 + s % 70 if power_w is None else power_w, "utilization_ratio": s % 100 / 100, **more}
        for s in seconds
    ]  # fmt: skip
    return readings(pl.LazyFrame(rows, schema_overrides=TYPES)).collect()


def events(*rows: dict[str, Any]) -> pl.LazyFrame:
    told = [{"host": "h", "device": None, "code": None, "source": None, **row, "time": at(row["time"])} for row in rows]
    types = {"time": NS} | dict.fromkeys(("host", "kind", "device", "code", "source"), pl.String())
    return pl.LazyFrame(told, schema=types)


def one(*parts: pl.DataFrame, **more: Any) -> dict[str, Any]:
    (row,) = quality(parts, **more).to_dicts()
    return row


def test_a_device_that_is_read_all_the_time_is_good() -> None:
    row = one(read(range(0, 3601, 10)), start_ns=ns(0), end_ns=ns(3601))
    assert (row["verdict"], row["reason"]) == ("good", None)
    assert (row["readings"], row["period_s"], row["gaps"], row["gap_s"]) == (361, 10.0, 0, 0.0)
    assert (row["covered_s"], row["covered_ratio"]) == (3600.0, pytest.approx(1.0, abs=0.001))
    assert (row["first_reading"], row["last_reading"], row["age_s"]) == (at(0), at(3600), 1.0)
    assert "read every 10 s" in row["sensor_reason"]


def test_the_frame_has_the_columns_it_promises_even_of_nothing() -> None:
    assert quality([]).schema == QUALITY
    assert quality([read(range(0, 100, 10))]).schema == QUALITY


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"kind": "source_lost", "code": "timeout", "device": "gpu", "time": 1010}, "timeout"),
        ({"kind": "source_lost", "code": "unavailable", "source": "nvml:gpu", "time": 1010}, "unavailable"),
        ({"kind": "device_gone", "device": "gpu", "time": 1005}, "device_gone"),
        ({"kind": "clock_jump", "time": 1500, "source": "agent"}, "clock_jump"),
        ({"kind": "source_lost", "code": "timeout", "device": "other", "time": 1010}, "unknown"),
        ({"kind": "source_lost", "code": "timeout", "device": "gpu", "time": 2500}, "unknown"),
        ({"kind": "clock_jump", "host": "elsewhere", "time": 1500, "source": "agent"}, "unknown"),
        ({"kind": "xid", "code": "13", "device": "gpu", "time": 1500}, "unknown"),
    ],
)
def test_a_gap_has_the_reason_that_an_event_of_its_time_tells(event: dict[str, Any], reason: str) -> None:
    rows = read(s for s in range(0, 7201, 10) if not 1000 < s < 2000)
    row = one(rows, events=events(event), start_ns=ns(0), end_ns=ns(7201))
    assert (row["gaps"], row["gap_s"], row["longest_gap_s"]) == (1, 1000.0, 1000.0)
    assert row["gap_reasons"] == f"{reason} 1000 s"
    assert row["verdict"] == "fair"
    assert row["reason"].startswith(f"86.1% of the time is covered (gaps: {reason} 1000 s)")


def test_gaps_are_summed_by_reason_the_longest_first() -> None:
    rows = read(s for s in range(0, 7201, 10) if not (1000 < s < 1100 or 2000 < s < 4000 or 5000 < s < 5100))
    told = events({"kind": "device_gone", "device": "gpu", "time": 2010})
    row = one(rows, events=told)
    assert (row["gaps"], row["gap_reasons"]) == (3, "device_gone 2000 s, unknown 200 s")


def test_a_device_that_was_lost_before_the_window_is_not_read_for_that_reason() -> None:
    lost = {"kind": "device_gone", "device": "gpu", "time": -5000}
    described = pl.LazyFrame({"device": ["gpu"], "parent": [None], "host": ["h"], "time": [at(-9000)]},
                             schema_overrides={"parent": pl.String, "time": NS})  # fmt: skip
    window = {"start_ns": ns(0), "end_ns": ns(7200), "devices": described}
    row = one(events=events(lost), **window)
    assert (row["verdict"], row["reason"]) == ("poor", "not read at all (device_gone 7200 s)")
    assert (row["readings"], row["covered_ratio"], row["host"]) == (0, 0.0, "h")
    back = events(lost, {"kind": "device_back", "device": "gpu", "time": -100})
    assert one(events=back, **window)["gap_reasons"] == "unknown 7200 s"


def test_a_partition_that_is_not_read_is_not_missed() -> None:
    described = pl.LazyFrame({"device": ["mig"], "parent": ["gpu"], "host": ["h"], "time": [at(0)]},
                             schema_overrides={"time": NS})  # fmt: skip
    assert quality([read(range(0, 100, 10))], devices=described)["device"].to_list() == ["gpu"]


def test_a_device_that_came_within_the_window_is_judged_from_then_on() -> None:
    rows = read(range(3600, 7201, 10))
    assert one(rows, start_ns=ns(0), end_ns=ns(7201))["covered_ratio"] == pytest.approx(1.0, abs=0.001)
    described = pl.LazyFrame({"device": ["gpu"], "parent": [None], "host": ["h"], "time": [at(0)]},
                             schema_overrides={"parent": pl.String, "time": NS})  # fmt: skip
    row = one(rows, devices=described, start_ns=ns(0), end_ns=ns(7200))
    assert (row["covered_ratio"], row["gap_s"]) == (pytest.approx(0.5), 3600.0)


@pytest.mark.parametrize(
    ("last", "verdict", "reason"), [(7170, "good", None), (7000, "fair", "200 s"), (3000, "poor", "4200 s")]
)
def test_a_device_that_is_no_longer_read_says_for_how_long(last: int, verdict: str, reason: str | None) -> None:
    row = one(read(range(0, last + 1, 10)), end_ns=ns(7200))
    assert row["verdict"] == verdict
    assert reason is None or f"not read for the last {reason}" in row["reason"]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.05, "good"), (1.2, "fair"), (0.8, "fair"), (3.0, "poor")])
def test_a_counter_that_disagrees_with_power_is_told(ratio: float, verdict: str) -> None:
    rows = read(range(0, 3601, 10), power_w=100.0).with_columns(
        energy_j=(pl.col("time").to_physical() - ns(0)) / 1e9 * 100 * ratio, utilization_ratio=0.5
    )
    row = one(rows)
    assert (row["agreement_ratio"], row["verdict"]) == (pytest.approx(ratio), verdict)
    assert verdict == "good" or f"the energy counter is {ratio} times what power integrates to" in row["reason"]


def test_power_that_stands_still_while_the_device_works_is_no_reading() -> None:
    row = one(read(range(0, 3601, 10), power_w=100.0))
    assert (row["stuck"], row["verdict"]) == (True, "poor")
    assert row["reason"] == "power stands still while utilisation moves"
    idle = read(range(0, 3601, 10), power_w=100.0).with_columns(utilization_ratio=0.0)
    assert (one(idle)["stuck"], one(idle)["verdict"]) == (False, "good")


def test_modelled_energy_is_fair_at_best() -> None:
    row = one(read(range(0, 3601, 10), power_method="modelled"))
    assert (row["verdict"], row["reason"], row["modelled_ratio"]) == ("fair", "100.0% of the energy is modelled", 1.0)


def test_rows_that_come_twice_and_late_are_counted() -> None:
    rows = pl.concat([read(range(0, 3601, 10)), read(range(0, 500, 10))])
    row = one(rows)
    assert (row["readings"], row["duplicates"], row["verdict"]) == (361, 50, "fair")
    late = one(read(s for s in range(0, 3601, 10) if s % 200))
    assert (late["late"], late["gaps"], late["verdict"]) == (17, 0, "fair")
    assert late["reason"] == "17 readings came late"


def test_two_sources_of_a_device_fill_each_others_gaps() -> None:
    one_ = read(s for s in range(0, 3601, 10) if not 1000 < s < 2000)
    other = read(range(500, 2500, 10)).with_columns(source=pl.lit("dcgm"))
    row = one(pl.concat([one_, other]))
    assert (row["gaps"], row["readings"]) == (0, 361)
    assert row["duplicates"] == 0


def test_a_clock_that_jumped_makes_the_devices_of_its_host_fair() -> None:
    jump = events({"kind": "clock_jump", "time": 100, "source": "agent"})
    assert one(read(range(0, 3601, 10)), events=jump)["reason"] == "the clock of its host jumped 1 times"
    assert one(read(range(0, 3601, 10), host="elsewhere"), events=jump)["verdict"] == "good"


@pytest.mark.parametrize(("days", "verdict"), [(30, "good"), (500, "fair")])
def test_a_calibration_has_an_age(days: int, verdict: str) -> None:
    made = pl.LazyFrame({"device": ["gpu"], "metric": ["power_w"], "time": [at(3600 - 86_400 * days)]},
                        schema_overrides={"time": NS})  # fmt: skip
    row = one(read(range(0, 3601, 10)), calibrations=made)
    assert (row["calibrated"], row["calibration_age_s"], row["verdict"]) == (True, 86_400.0 * days, verdict)


def test_the_poorest_come_first() -> None:
    parts = [read(range(0, 3601, 10), "good"), read(range(0, 1201, 10), "poor")]
    parts += [read((s for s in range(0, 3601, 10) if not 1000 < s < 1300), "fair")]
    found = quality(parts)
    assert found["device"].to_list() == found["verdict"].to_list() == ["poor", "fair", "good"]
    assert_frame_equal(found, quality([pl.concat(parts)]))


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data/sensors")
def test_a_part_time_sensor_of_a_recording_is_told() -> None:
    from collector.imports.clocks import zone_of
    from collector.imports.nvidia_smi import read_query

    (unit,) = read_query(DATA / "update_period" / "A100_gpudata.csv", tz=zone_of("+01:00"), devices={"": "GPU"})
    row = one(readings(unit.frames["device_samples"].lazy()).collect())
    assert row["update_period_s"] == pytest.approx(0.101, abs=0.005)


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_tells_the_poorest_first_and_can_be_checked(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", pl.concat([read(range(0, 3601, 10), "a"), read(range(0, 3601, 10), "mig")]))
    described = {"device": ["b", "mig"], "parent": [None, "a"], "host": ["h", "h"], "time": [at(0), at(0)]}
    store.write("devices", pl.DataFrame(described, schema_overrides={"time": NS}))
    found = CliRunner().invoke(cli.app, ["quality", "--store", str(store.root), "-o", "json"])
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert [column["name"] for column in told["columns"]] == list(QUALITY)
    assert [row["device"] if isinstance(row, dict) else row[0] for row in told["rows"]] == ["b", "a"]
    checked = CliRunner().invoke(cli.app, ["quality", "--store", str(store.root), "--check", "covered_ratio<0.9"])
    assert checked.exit_code == 4
