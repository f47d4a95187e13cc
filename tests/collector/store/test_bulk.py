"""Whole tables at once: types, packing, days, repeats, parts."""

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics import frames
from collector.catalogue import metrics
from collector.errors import StoreError
from collector.sample import Reading
from collector.store import Coded, Store
from collector.store.schema import TABLES, Scope


def rows(store: Store, *columns: str) -> list[tuple[Any, ...]]:
    return (
        frames.scan(store, "device_samples").select("device", "time", *columns).sort("device", "time").collect().rows()
    )


def stored_types(store: Store) -> dict[str, str]:
    (segment,) = store.segments("device_samples")
    return {name: str(kind) for name, kind in pl.read_parquet_schema(segment.path).items()}


def test_arrays_codes_lists_and_frames_all_arrive(store: Store, day_ns: int) -> None:
    times = np.array([day_ns, day_ns + 10**9]).astype("datetime64[ns]")
    given_as: list[Any] = [
        {"device": Coded(np.array([0, 1]), ("a", "b")), "time": times, "power_w": np.array([1.5, math.nan])},
        {"device": ["a", "b"], "time": [day_ns, day_ns + 10**9], "power_w": [1.5, None]},
        {
            "device": np.array(["a", "b"], dtype=object),
            "time": times.astype("int64"),
            "power_w": np.array([1.5, math.nan]),
        },
        pl.DataFrame({"device": ["a", "b"], "time": pl.Series(times), "power_w": [1.5, None]}),
        {
            "device": ["a", "b"],
            "time": [datetime(2023, 11, 15), datetime(2023, 11, 15, 0, 0, 1)],
            "power_w": [1.5, None],
        },
    ]
    for number, data in enumerate(given_as):
        here = Store.create(store.root / str(number))
        here.write("device_samples", data)
        assert [row[::2] for row in rows(here, "power_w")] == [("a", 1.5), ("b", None)], number
        assert rows(here)[0][1] == datetime(2023, 11, 15), number


def test_a_negative_code_is_null_and_a_day_is_split(store: Store, day_ns: int) -> None:
    times = day_ns + np.arange(4) * 43_200 * 10**9
    store.write(
        "device_samples",
        {"device": Coded(np.zeros(4, int), ("a",)), "host": Coded(np.array([-1, 0, -1, 0]), ("h",)), "time": times},
    )
    assert [row[2] for row in rows(store, "host")] == [None, "h", None, "h"]
    assert len(store.segments("device_samples")) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"device": ["a"], "time": [0], "watts": [1.0]}, "no column watts"),
        ({"device": ["a"], "power_w": [1.0]}, "column time is missing"),
        ({"time": [0]}, "column device is missing"),
        ({"device": ["a", "b"], "time": [0, None]}, "1 of 2 rows have no time"),
        ({"device": ["a", "b"], "time": [0]}, "different lengths"),
        ({"device": ["a"], "time": [0], "power_w": ["much"]}, "device_samples"),
    ],
)
def test_what_does_not_fit_the_table_is_refused_by_name(store: Store, data: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.write("device_samples", data)
    assert not [path for path in store.root.rglob("*") if path.is_file() and path.parent.name != ".locks"]


def test_a_table_that_does_not_exist_is_refused_by_name(store: Store) -> None:
    with pytest.raises(StoreError, match="no table 'watts'; there are device_samples, "):
        store.write("watts", {})


def test_values_are_stored_as_the_shortest_exact_decimal(store: Store, day_ns: int) -> None:
    n = 5
    store.write(
        "device_samples",
        {
            "device": ["a"] * n,
            "time": [day_ns + second * 10**9 for second in range(n)],
            "power_w": [300.123, 299.5, 300.0, 0.001, None],
            "energy_j": [1e12 + 0.001, 1e12, 1.0, 2.0, 3.0],
            "temperature_c": [41.0, 42.0, 43.0, 44.0, 45.0],
            "energy_agreement_ratio": [1 / 3, 0.1, 0.2, 0.3, 0.4],
            "fabric_received_bytes": [0.5, 1.0, 2.0, 3.0, 4.0],
            "fabric_sent_bytes": [1e23, 1.0, 2.0, 3.0, 4.0],
        },
    )
    kinds = stored_types(store)
    assert kinds["power_w"] == "Decimal(precision=9, scale=3)"
    assert kinds["energy_j"] == "Decimal(precision=18, scale=3)"
    assert kinds["temperature_c"] == "Int32"
    assert kinds["energy_agreement_ratio"] == "Decimal(precision=9, scale=4)"
    assert kinds["fabric_received_bytes"] == "Decimal(precision=9, scale=1)"
    assert kinds["fabric_sent_bytes"] == "Float64"
    assert kinds["time"] == "Datetime(time_unit='ms', time_zone=None)"
    frame = frames.scan(store, "device_samples").sort("time").collect()
    assert frame["power_w"].to_list() == [300.123, 299.5, 300.0, 0.001, None]
    assert frame["energy_j"].to_list() == [1e12 + 0.001, 1e12, 1.0, 2.0, 3.0]
    assert frame["energy_agreement_ratio"][0] == pytest.approx(1 / 3, abs=0.5e-4)
    assert frame["fabric_sent_bytes"][0] == 1e23
    with store.connect() as connection:
        seen = connection.execute("SELECT power_w, energy_j FROM device_samples ORDER BY time LIMIT 1").fetchall()
        assert seen == [(300.123, 1e12 + 0.001)]


_METRICS = [
    metric
    for metric in metrics(Scope.DEVICE)
    if metric.name
    in (
        "power",
        "energy",
        "utilization",
        "clock_sm",
        "memory_used",
        "fabric_received",
        "voltage_core",
        "throttle_power",
    )
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_is_damaged_beyond_its_metrics_resolution(
    tmp_path_factory: Any, day_ns: int, data: st.DataObject
) -> None:
    metric = data.draw(st.sampled_from(_METRICS))
    low, high = metric.low or 0.0, metric.high or 1e15
    step = metric.resolution or 1.0
    value = st.one_of(
        st.none(),
        st.floats(low, high),
        st.floats(low, min(high, 1e4)),
        st.integers(0, int(min(high / step, 2**52))).map(lambda n: float(round(n * step, 6))),
    )
    values = data.draw(st.lists(value, min_size=1, max_size=30))
    store = Store.create(tmp_path_factory.mktemp("s"))
    times = [day_ns + 10**9 * number for number in range(len(values))]
    store.write("device_samples", {"device": ["a"] * len(values), "time": times, metric.column: values})
    column = frames.scan(store, "device_samples").sort("time").collect()[metric.column].to_list()
    with store.connect(threads=1) as connection:
        viewed = [
            row[0] for row in connection.execute(f"SELECT {metric.column} FROM device_samples ORDER BY time").fetchall()
        ]
    assert viewed == column
    for was, now in zip(values, column, strict=True):
        if was is None:
            assert now is None
        elif metric.resolution is None:
            assert now == was
        else:
            assert now == was or abs(now - was) <= metric.resolution / 2 * (1 + 1e-9) + abs(was) * 2e-16
            if round(was, 6) == was and round(was / metric.resolution) * metric.resolution == pytest.approx(
                was, rel=1e-15
            ):
                assert now == pytest.approx(was, rel=1e-15, abs=0)


def test_unsorted_and_repeated_rows_are_stored_sorted_and_once(store: Store, day_ns: int) -> None:
    store.write(
        "device_samples",
        {
            "device": ["b", "a", "b", "a"],
            "source": ["s"] * 4,
            "time": [day_ns + 2 * 10**9, day_ns + 10**9, day_ns + 2 * 10**9, day_ns],
            "power_w": [1.0, 2.0, 3.0, 4.0],
        },
    )
    stored = pl.read_parquet(store.segments("device_samples")[0].path)
    assert stored["device"].to_list() == ["a", "a", "b"]
    assert stored["power_w"].cast(pl.Float64).to_list() == [4.0, 2.0, 3.0]


def test_writing_the_same_rows_again_replaces_them_and_marks_the_segment(store: Store, day_ns: int) -> None:
    data: dict[str, Any] = {"device": ["a", "b"], "source": ["s", "s"], "time": [day_ns, day_ns], "power_w": [1.0, 1.0]}
    store.write("device_samples", data)
    store.write("device_samples", {**data, "device": ["c", "d"]})  # same times, other devices: nothing to replace
    assert not any(segment.repeats for segment in store.segments("device_samples"))
    store.write("device_samples", {**data, "power_w": [2.0, 2.0]})
    assert [segment.repeats for segment in store.segments("device_samples")] == [False, False, True]
    assert [row[2] for row in rows(store, "power_w")] == [2.0, 2.0, 1.0, 1.0]
    store.maintain(day_ns + 3 * 86_400 * 10**9)


def test_a_part_replaces_itself_and_only_itself(store: Store, day_ns: int) -> None:
    def of(device: str, *days: int) -> dict[str, Any]:
        n = len(days)
        return {"device": [device] * n, "source": ["j"] * n, "time": [day_ns + day * 86_400 * 10**9 for day in days]}

    store.replace("device_samples", "job-1", of("a", 0, 1))
    store.replace("device_samples", "job-2", of("b", 0))
    store.replace("device_samples", "job-1", of("c", 0))
    assert [row[0] for row in rows(store)] == ["b", "c"]
    store.replace("device_samples", "job-1", of("c", 0))
    assert [row[0] for row in rows(store)] == ["b", "c"]
    store.replace("device_samples", "job-1", of("d", 1))
    assert [row[0] for row in rows(store)] == ["b", "d"]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 2), st.integers(0, 5), st.integers(0, 999)),
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 5), st.integers(0, 999)),
        st.tuples(st.just("replace"), st.integers(0, 1), st.integers(0, 5), st.integers(0, 999)),
        st.tuples(st.just("seal"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("compact"), st.integers(1, 5000), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_any_order_of_writing_sealing_merging_and_replacing_reads_as_the_plain_list(
    tmp_path_factory: Any, reading: Callable[..., Reading], day_ns: int, operations: list[tuple[str, int, int, int]]
) -> None:
    store = Store.create(Path(tmp_path_factory.mktemp("s")))
    clock = [day_ns]
    expected: dict[tuple[str, ...], float] = {}
    options: dict[str, Any] = {"background": False, "clock_ns": lambda: clock[0], "publish": None}
    writer = store.writer("agent", **options)
    for what, which, second, value in operations:
        clock[0] += 10**9
        if what == "take":
            writer.take([reading(second, device=f"G{which}", power_w=float(value))])
            expected["taken", f"G{which}", str(second)] = float(value)
        elif what == "write":
            data = {
                "device": [f"G{which}"],
                "source": ["bulk"],
                "time": [day_ns + second * 10**9],
                "power_w": [float(value)],
            }
            store.write("device_samples", data)
            expected["bulk", f"G{which}", str(second)] = float(value)
        elif what == "replace":
            for key in [key for key in expected if key[0] == f"part{which}"]:
                del expected[key]
            seconds = range(second)
            store.replace(
                "device_samples",
                f"part{which}",
                {
                    "device": ["P"] * second,
                    "source": [f"part{which}"] * second,
                    "time": [day_ns + s * 10**9 for s in seconds],
                    "power_w": [float(value)] * second,
                },
            )
            expected.update({(f"part{which}", "P", str(s)): float(value) for s in seconds})
        elif what == "seal":
            assert writer.seal()
        elif what == "compact":
            clock[0] += which * 10**9
            writer.compact()
        else:
            writer.close()
            writer = store.writer("agent", **options)
    writer.close()
    with store.connect(threads=1) as connection:
        viewed = connection.execute("SELECT power_w FROM device_samples").fetchall()
    scanned = frames.scan(store, "device_samples").collect()["power_w"].to_list()
    assert sorted(scanned) == sorted(expected.values()) == sorted(row[0] for row in viewed)


def test_every_table_can_be_written_and_read_empty_and_with_one_row(store: Store, day_ns: int) -> None:
    for table in TABLES.values():
        assert frames.scan(store, table.name).collect().schema == frames.schema(table)
        store.write(table.name, {table.keys[0]: ["x"], "time": [day_ns]})
        frame = frames.scan(store, table.name).collect()
        assert frame.schema == frames.schema(table)
        assert frame.height == 1
