"""Rows given as arrays: the same rows as if they had been given in any other way."""

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics import frames
from collector.errors import StoreError
from collector.store import Coded, Store
from collector.store.arrays import Array, Lists, write_ordered
from collector.store.files import FILES
from collector.store.schema import TABLES

DAY_NS = 86_400 * 10**9
WORDS = ("b", "a", "zz", "a")


def rows(store: Store, table: str = "device_samples") -> pl.DataFrame:
    frame = frames.scan(store, table).collect()
    return frame.select(column.name for column in frame if column.null_count() < frame.height).sort(pl.all())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrays_are_stored_as_lists_are(tmp_path_factory: Any, day_ns: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))

    def drawn(value: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(value, min_size=size, max_size=size))

    devices, sources = drawn(st.integers(0, 3)), drawn(st.integers(-1, 1))
    unit = data.draw(st.sampled_from([10**9, 10**6, 10**3, 1]))
    times = [day_ns + DAY_NS + unit * step for step in drawn(st.integers(-(DAY_NS // unit), 5))]
    power = drawn(st.one_of(st.none(), st.sampled_from([0.0, 1.5, 300.123, 1e7]), st.floats(0, 1e5)))
    sent = drawn(st.one_of(st.none(), st.integers(0, 2**53), st.floats(0, 1e300)))
    listed = {
        "device": [WORDS[code] for code in devices],
        "source": [None if code < 0 else WORDS[code] for code in sources],
        "time": times,
        "power_w": power,
        "fabric_sent_bytes": sent,
    }
    arrays = {
        "fabric_sent_bytes": np.array([math.nan if value is None else value for value in sent], np.float64),
        "device": Coded(np.array(devices), WORDS),
        "power_w": np.ma.masked_array([value or 0.0 for value in power], [value is None for value in power]),
        "time": np.array(times).astype("datetime64[ns]") if unit == 1 else np.array(times),
        "source": Coded(np.array(sources, np.int8), WORDS),
    }
    stores = [Store.create(tmp_path_factory.mktemp("s")) for _ in range(2)]
    for store, given_as in zip(stores, (listed, arrays), strict=True):
        store.write("device_samples", given_as)
    one, other = (rows(store) for store in stores)
    assert one.equals(other)
    kinds = [[pl.read_parquet_schema(s.path) for s in store.segments("device_samples")] for store in stores]
    # Listed rows of several days have one type for all, arrays one for each day. And the types of lists are chosen for
    # all rows, also for those that a later one replaces.
    if len(kinds[0]) == 1 and len(other) == size:
        assert kinds[1] == kinds[0]


@pytest.mark.parametrize("strange", [-0.0, 5e-324, -2.2e-308, 1.7e308, 0.1 + 0.2, 2.0**53 + 2])
@pytest.mark.parametrize("make", [np.array, list])
def test_a_number_comes_back_bit_by_bit(store: Store, day_ns: int, make: Any, strange: float) -> None:
    sent = [strange, 1.5, 0.0, 3.0, math.nan]
    times = make([day_ns + n for n in range(5)])
    device = Coded(np.zeros(5, int), ("d",)) if make is np.array else ["d"] * 5
    store.write("device_samples", {"device": device, "time": times, "fabric_sent_bytes": make(sent)})
    store.maintain(time.time_ns() + 3600 * 10**9, retain_days={"device_samples": None})
    assert repr(frames.scan(store, "device_samples").collect()["fabric_sent_bytes"].to_list()) == repr(
        [*sent[:-1], None]
    )


def test_whole_numbers_times_and_nulls_arrive_in_tables_of_all_kinds(store: Store, day_ns: int) -> None:
    times = np.array([day_ns, day_ns + 1, day_ns + 2]).astype("datetime64[ns]")
    end = times.copy()
    end[1] = np.datetime64("NaT")
    given_rows = {
        "workload": Coded(np.array([0, 0, 0]), ("w",)),
        "device": Coded(np.array([0, 1, 0]), ("d", "e")),
        "start": times,
        "time": times,
        "end": end,
        "share": np.array([1, 0, 1]),
    }
    store.write("allocations", given_rows)
    assert rows(store, "allocations")["end"].to_list().count(None) == 1
    store.write(
        "processes",
        {"device": Coded(np.array([0, 0]), ("d",)), "pid": np.array([2**62, 7]), "time": times[:2].astype(np.int64)},
    )
    assert rows(store, "processes")["pid"].to_list() == [7, 2**62]


@pytest.mark.parametrize(
    ("column", "given_as", "message"),
    [
        ("device", Coded(np.array([0, 3]), ("a", "b")), "column device: code 3 of 2 words"),
        ("power_w", np.array(["2020", "2021"], "M8[Y]"), r"column power_w: an array of datetime64\[Y\] is no DOUBLE"),
        ("power_w", Coded(np.array([0, 0]), ("a",)), "column power_w: words are no DOUBLE"),
        ("power_w", np.array([1.0, 2.0, 3.0]), "different lengths"),
        ("time", np.array([0.5, 1.5]), "column time: a fraction in a column of TIMESTAMP_NS"),
        ("time", np.array([math.nan, 1.0]), "1 of 2 rows have no time"),
        ("time", np.array(["1500", "2020"], "M8[Y]"), "beyond what nanoseconds reach"),
        ("time", np.array([1, 2**63], np.uint64), "1 to 9223372036854775808 is beyond TIMESTAMP_NS"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(store: Store, column: str, given_as: Any, message: str) -> None:
    data = {"device": Coded(np.array([0, 1]), ("a", "b")), "time": np.array([0, 1]), column: given_as}
    with pytest.raises(StoreError, match=message):
        store.write("device_samples", data)
    assert not [path for path in store.root.rglob("*") if path.is_file() and path.parent.name != ".locks"]


def test_rows_in_any_order_are_stored_in_order_and_the_last_of_a_kind_once(store: Store, day_ns: int) -> None:
    rng = np.random.default_rng(3)
    device, source, step = rng.integers(0, 5, 4000), rng.integers(-1, 2, 4000), rng.integers(0, 300, 4000)
    data = {
        "device": Coded(device, ("d", "c", "b", "a", "e")),
        "source": Coded(source, ("y", "x")),
        "time": day_ns + step * 10**9,
        "power_w": np.arange(4000.0),
    }
    store.write("device_samples", data)
    keys = zip(device.tolist(), source.tolist(), step.tolist(), strict=True)
    last = {("dcbae"[d], None if s < 0 else "yx"[s], t): n for n, (d, s, t) in enumerate(keys)}
    stored = pl.read_parquet(store.segments("device_samples")[0].path)
    assert stored.select("device", "source", "time").equals(
        stored.select("device", "source", "time").sort("device", "source", "time", nulls_last=True)
    )
    assert stored["power_w"].to_list() == [
        last[d, s, t] for d, s, t in sorted(last, key=lambda key: (key[0], key[1] is None, key[1] or "", key[2]))
    ]


def test_a_file_of_many_values_has_groups_that_a_reader_can_skip(store: Store, day_ns: int) -> None:
    count = 100_000
    data: dict[str, Any] = {
        "device": Coded(np.repeat(np.arange(100), 1000), tuple(f"d{n:02d}" for n in range(100))),
        "time": day_ns + np.tile(np.arange(1000), 100) * 10**9,
    }
    columns = [name for name in frames.schema(store.table("device_samples")) if name.endswith("_bytes")]
    data |= {name: np.arange(count, dtype=float) for name in columns}
    assert count * len(data) < 8_000_000
    store.write("device_samples", data)
    assert len(store.extents(store.segments("device_samples"))) == 1
    from collector.store import arrays

    assert arrays.group_rows(count, len(data)) == count
    assert arrays.group_rows(count, 81) == 61_440


def test_an_agent_seals_and_merges_without_numpy(tmp_path: Path) -> None:
    # It would be a third of its memory.
    script = """
import sys, time
from collector.catalogue import POWER, Scope
from collector.sample import Device, Reading, Sample
from collector.store import Store
now = [1_700_006_400_000_000_000]
writer = Store.create(sys.argv[1]).writer("agent", background=False, clock_ns=lambda: now[0])
for second in range(3):
    now[0] += 10**9
    sample = Sample(scope=Scope.DEVICE, subject="d", host="h", time_ns=now[0], values={POWER: 1.5})
    writer.take([Reading(source="s", samples=[sample])])
    writer.seal()
now[0] += 3 * 86_400 * 10**9
assert writer.compact() == 1, writer.status
writer.close()
print("numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "False\n"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(st.lists(st.tuples(st.integers(-999, 999), st.integers(1, 2**31 - 1)), max_size=5), min_size=1))
def test_a_column_of_lists_is_read_by_polars_and_duckdb_as_it_was_given(
    tmp_path_factory: Any, day_ns: int, lists: list[list[tuple[int, int]]]
) -> None:
    table, count = TABLES["device_rollups"], len(lists)
    columns = {column.name: column for column in table}
    there = np.ones(count, bool)
    arrays = [
        Array(columns["device"], np.zeros(count, np.int64), there, ("a",)),
        Array(columns["time"], day_ns + np.arange(count) * 10**9, there),
        Lists(
            columns["power_sketch_w"],
            np.array([len(entries) for entries in lists]),
            tuple(np.array([entry[at] for entries in lists for entry in entries], np.int64) for at in (0, 1)),
        ),
    ]
    root = tmp_path_factory.mktemp("s")
    (written,) = write_ordered(FILES, root, table, arrays, "label", {})
    wanted = [[{"bin": bin, "n": n} for bin, n in entries] or None for entries in lists]
    if any(lists):
        read = pl.read_parquet(written.path)["power_sketch_w"]
        assert read.dtype == pl.List(pl.Struct({"bin": pl.Int16, "n": pl.UInt32}))
        assert read.to_list() == wanted
        select = f"SELECT power_sketch_w, typeof(power_sketch_w) FROM read_parquet('{written.path}')"
        with duckdb.connect() as db:
            assert db.execute(select).fetchall() == [(entries, columns["power_sketch_w"].type) for entries in wanted]
    else:
        assert "power_sketch_w" not in pl.read_parquet_schema(written.path)


def test_lists_in_many_groups_of_rows_and_some_rows_of_them(tmp_path: Path, day_ns: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("collector.store.arrays.WHOLE_VALUES", 10)
    monkeypatch.setattr("collector.store.sql.ROW_GROUP_ROWS", 7)
    table = TABLES["device_rollups"]
    columns = {column.name: column for column in table}
    lengths = np.arange(100) % 4
    flat = np.arange(lengths.sum())
    time = Array(columns["time"], day_ns + np.arange(100) * 10**9, np.ones(100, bool))
    lists = Lists(columns["power_sketch_w"], lengths, (flat, flat + 1))
    some = np.flatnonzero(np.arange(100) % 3 > 0)
    (written,) = write_ordered(FILES, tmp_path, table, [time[some], lists[some]], "label", {})
    first = np.cumsum(lengths) - lengths
    assert pl.read_parquet(written.path)["power_sketch_w"].to_list() == [
        [{"bin": at, "n": at + 1} for at in range(first[row], first[row] + lengths[row])] or None
        for row in some.tolist()
    ]


def test_halves_of_the_last_digit_are_rounded_the_same_however_they_are_given(tmp_path: Path, day_ns: int) -> None:
    watts = [66.2425, -66.2425, 0.0005, 2.5, 1.00049999]
    times = [day_ns + at for at in range(len(watts))]
    given = {
        "lists": {"device": ["b"] * len(watts), "time": times, "power_w": watts},
        "arrays": {
            "device": Coded(np.zeros(len(watts), int), ("b",)),
            "time": np.array(times),
            "power_w": np.array(watts),
        },
    }
    stores = [Store.create(tmp_path / name) for name in given]
    for store, rows_given in zip(stores, given.values(), strict=True):
        store.write("device_samples", rows_given)
    one, other = (rows(store) for store in stores)
    assert one["power_w"].to_list() == other["power_w"].to_list() == [66.243, -66.243, 0.001, 2.5, 1.0]
