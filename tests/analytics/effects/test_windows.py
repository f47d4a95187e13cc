"""Windows of workloads with what was set of their devices."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analytics.effects.windows import MIXED, READ, WINDOWS, of_workload, windows
from analytics.frames import schema
from collector.store.schema import TABLES

START = datetime(2026, 3, 1)
HOUR = 3600


def at(second: float | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def table(name: str, rows: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=schema(TABLES[name]))


def found(
    devices: dict[str, list[tuple[float, str]]],
    held: list[tuple[str, str, float, float | None]],
    *,
    until: int = HOUR,
    gap: tuple[int, int] = (0, 0),
    requests: bool = True,
    **more: Any,
) -> pl.DataFrame:
    """Windows of devices with (second, driver) each; read every 10 s but in *gap*, 100 tokens a second."""
    seconds = [s for s in range(0, until + 1, 10) if not gap[0] < s < gap[1]]
    samples = table(
        "device_samples",
        [
            {"device": d, "source": "s", "host": f"host-{d}", "time": at(s), "power_w": 400.0, "temperature_c": 60.0,
             "utilization_ratio": 0.8, "clock_sm_hz": 1.5e9, "power_limit_w": 700.0}
            for d in devices for s in seconds
        ],
    )  # fmt: skip
    work = table(
        "workload_samples",
        [
            {"workload": w, "source": "e", "host": "h", "model": "llama", "framework": "vllm 0.11", "time": at(s),
             "tokens_out": 100.0 * s, "tokens_in": 300.0 * s, "requests": 1.0 * s if requests else None,
             "latency_p50_s": 2.0}
            for w in dict.fromkeys(w for w, *_ in held) for s in range(0, until + 1, 10)
        ],
    )  # fmt: skip
    allocations = table(
        "allocations",
        [
            {"workload": w, "device": d, "start": at(a), "end": at(b), "time": at(a), "name": "chat"}
            for w, d, a, b in held
        ],
    )
    told = table(
        "devices",
        [
            {"device": d, "source": "s", "host": f"host-{d}", "model": "X", "time": at(s), "driver_version": v}
            for d, versions in devices.items()
            for s, v in versions
        ],
    )
    return windows(samples.select(READ), work, allocations, told, **more).collect()


ONE = {"a": [(0.0, "570")]}


def test_a_window_has_what_was_measured_and_what_was_set() -> None:
    rows = found(ONE, [("w", "a", 0, None)], sites={"host-a": "dub"})
    assert rows.height == 12
    row = rows.row(3, named=True)
    assert row["joules_per_token"] == pytest.approx(4.0)
    assert row["load"] == pytest.approx(100.0)
    assert row["mix"] == pytest.approx(3.0)
    assert (row["driver_version"], row["power_limit"], row["sku"], row["site"]) == ("570", "700 W", "X", "dub")
    assert (row["framework"], row["framework_version"], row["model"]) == ("vllm", "0.11", "llama")
    assert (row["temperature_c"], row["clock_sm_hz"], row["latency_p50_s"]) == (60.0, 1.5e9, 2.0)
    assert row["asked"] is True


def test_the_columns_are_those_that_are_promised() -> None:
    assert found(ONE, [("w", "a", 0, None)]).schema == WINDOWS


def test_windows_around_a_change_are_neither_before_nor_after() -> None:
    rows = found({"a": [(0.0, "570"), (1830.0, "580")]}, [("w", "a", 0, None)], until=2 * HOUR)
    told = rows.select((pl.col("window") - pl.lit(START)).dt.total_minutes(), "driver_version").rows()
    assert [minute for minute, driver in told if driver == "570"] == [0, 5, 10, 15, 20, 25]
    # Changed after 30.5 minutes; a quarter of an hour later it has settled.
    assert min(minute for minute, driver in told if driver == "580") == 50


def test_without_settling_only_the_window_of_the_change_itself_is_left_out() -> None:
    rows = found({"a": [(0.0, "570"), (1830.0, "580")]}, [("w", "a", 0, None)], settle_s=0.0)
    assert rows.height == 11


def test_windows_in_which_a_device_came_or_went_are_left_out() -> None:
    rows = found(ONE, [("w", "a", 100.0, 1000.0)])
    assert rows["window"].to_list() == [at(300), at(600)]


def test_windows_that_are_not_wholly_measured_are_left_out() -> None:
    rows = found(ONE, [("w", "a", 0, None)], gap=(600, 1200))
    assert at(600) not in rows["window"].to_list()
    assert at(900) not in rows["window"].to_list()
    assert rows.height == 10


def test_a_group_of_which_a_device_was_not_read_has_no_windows() -> None:
    assert found(ONE, [("w", "a", 0.0, None), ("w", "unread", 0.0, None)]).is_empty()


def test_devices_of_a_group_that_differ_are_mixed() -> None:
    held = [("w", "a", 0.0, None), ("w", "b", 0.0, None)]
    row = found({"a": [(0.0, "570")], "b": [(0.0, "580")]}, held).row(0, named=True)
    assert row["driver_version"] == MIXED
    assert (row["devices"], row["host"]) == (2, "host-a,host-b")
    assert row["load"] == pytest.approx(50.0)


def test_the_same_boards_are_known_again_whatever_runs_on_them() -> None:
    held = [
        ("one", "a", 0.0, 1800.0),
        ("one", "b", 0.0, 1800.0),
        ("two", "b", 1800.0, None),
        ("two", "a", 1800.0, None),
    ]
    both = {"a": [(0.0, "570")], "b": [(0.0, "570")]}
    rows = found(both, held)
    assert rows["workload"].n_unique() == 2
    assert rows["boards"].n_unique() == 1
    assert found(both, held[:1])["boards"][0] != rows["boards"][0]


def test_work_without_requests_is_not_asked_for() -> None:
    assert not found(ONE, [("w", "a", 0, None)], requests=False)["asked"].any()


@pytest.mark.parametrize("wanted", ["w", "chat", "llama"])
def test_a_workload_is_found_by_its_id_its_name_or_its_model(wanted: str) -> None:
    rows = found(ONE, [("w", "a", 0, None)]).lazy()
    assert of_workload(rows, wanted).collect().height == 12
    assert of_workload(rows, "nothing").collect().is_empty()


def test_no_samples_are_no_windows() -> None:
    assert found({}, [("w", "a", 0, None)]).is_empty()
