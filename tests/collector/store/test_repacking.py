"""Packing: the same rows in fewer bytes, at no moment less and in nobody's way."""

import subprocess
import sys
import time
from collections.abc import Callable
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
from collector.store.compaction import pack, sweep, unpacked
from collector.store.engine import Engine
from collector.store.repacking import repack
from collector.store.segments import present, visible

LATER_NS = 3600 * 10**9
KEEP = {"device_samples": None}


def walk(day_ns: int, count: int = 5000, devices: int = 4, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    each = count // devices
    power = np.clip(300 + np.cumsum(rng.normal(0, 3, count)), 0, 700).round(3)
    power[rng.random(count) < 0.05] = np.nan
    return {
        "device": Coded(np.repeat(np.arange(devices), each), tuple(f"GPU-{n:03d}" for n in range(devices))),
        "source": Coded(np.zeros(each * devices, int), (f"s{seed}",)),
        "time": day_ns + np.tile(np.cumsum(1000 + rng.integers(-9, 9, each)), devices) * 10**6,
        "power_w": power[: each * devices],
        "energy_j": np.tile(np.cumsum(rng.random(each) * 900).round(3) + 2e9, devices),
        "utilization_ratio": rng.integers(0, 100, each * devices) / 100,
        "fabric_sent_bytes": rng.random(each * devices) * 1e17,
    }


def whole(store: Store, table: str = "device_samples") -> pl.DataFrame:
    return frames.scan(store, table).sort("device", "source", "time").collect()


def test_a_day_that_is_over_is_packed_once_and_reads_the_same(store: Store, day_ns: int) -> None:
    store.write("device_samples", {name: column for name, column in walk(day_ns).items() if "fabric" not in name})
    before, (was,) = whole(store), store.segments("device_samples")
    store.maintain(retain_days=KEEP)
    assert store.segments("device_samples") == [was], "rows may still be on their way"
    later = time.time_ns() + LATER_NS
    store.maintain(later, retain_days=KEEP)
    (packed,) = store.segments("device_samples")
    assert (packed.packed, was.packed) == (True, False)
    assert packed.bytes < 0.9 * was.bytes
    assert (packed.generation, packed.first, packed.last) == (was.generation, was.first, was.last)
    assert whole(store).equals(before)
    assert store.check(whole=True) == []
    stamp = packed.path.stat().st_mtime_ns
    store.maintain(later, retain_days=KEEP)
    assert store.segments("device_samples")[0].path.stat().st_mtime_ns == stamp
    assert was.path.exists(), "a reader that listed it may still be reading"
    sweep(store.files, store.root, grace_s=0)
    assert not was.path.exists()
    assert whole(store).equals(before)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_segment_reads_the_same_when_it_is_packed(tmp_path_factory: Any, day_ns: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def some(made: Any) -> list[Any]:
        gone = rng.random(size) < data.draw(st.sampled_from([0.0, 0.4, 1.0]))
        return [None if absent else value for value, absent in zip(made, gone, strict=True)]

    store = Store.create(tmp_path_factory.mktemp("s"))
    unit = data.draw(st.sampled_from([1, 10**3, 10**6]))
    store.write(
        "job_runs",
        {
            "job": [str(word) for word in rng.choice(["a", "ü", "", "it's"], size)],
            "time": [day_ns + unit * n for n in range(size)],
            **_columns(store, "job_runs", some, rng, size),
        },
    )
    (segment,) = store.segments("job_runs")
    before = pl.read_parquet(segment.path)
    packed = repack(Engine(), store.files, segment)
    after = pl.read_parquet(packed.path)
    assert after.schema == before.schema
    assert after.equals(before)
    assert store.segments("job_runs") == [packed]


def _columns(store: Store, table: str, some: Callable[[Any], list[Any]], rng: Any, size: int) -> dict[str, list[Any]]:
    """Values for every column of *table* that is no key, of its type."""
    made = {
        "VARCHAR": np.array([f"{n:x}" for n in rng.integers(0, 40, size)]),
        "DOUBLE": rng.random(size) * 10.0 ** rng.integers(-3, 300, size),
        "INTEGER": rng.integers(-(2**31), 2**31, size),
        "BIGINT": rng.integers(-(2**63), 2**63 - 1, size),
        "BOOLEAN": rng.random(size) < 0.5,
        "TIMESTAMP_NS": rng.integers(0, 2**62, size),
    }
    columns = store.table(table)
    return {c.name: some(made[c.type].tolist()) for c in columns if c.name not in (*columns.keys, "time")}


@pytest.mark.parametrize("digits", [1, 2, 3, 4, 6])
def test_decimals_of_any_size_read_the_same_when_they_are_packed(store: Store, day_ns: int, digits: int) -> None:
    most = 0.99 * 2**53 / 10**digits
    sent = np.array([-most, most, 1.5, -(10.0**-digits), 1e9, 0.0]).round(digits)
    device, time_ns = Coded(np.zeros(6, int), ("d",)), day_ns + np.arange(6)
    store.write("device_samples", {"device": device, "time": time_ns, "fabric_sent_bytes": sent})
    (segment,) = store.segments("device_samples")
    before = pl.read_parquet(segment.path)
    assert before.schema["fabric_sent_bytes"] == pl.Decimal(18, digits)
    assert pl.read_parquet(repack(Engine(), store.files, segment).path).equals(before)


def test_segments_of_all_encodings_and_ages_read_as_one(store: Store, day_ns: int) -> None:
    later = time.time_ns() + LATER_NS
    store.write("device_samples", walk(day_ns, seed=1), writer="packed")
    store.maintain(later, retain_days=KEEP)
    store.write("device_samples", walk(day_ns, seed=2) | {"voltage_core_v": np.full(5000, 0.8)}, writer="arrays")
    coarse = {name: column for name, column in walk(day_ns, seed=3).items() if name != "energy_j"}
    coarse["power_w"] = np.round(coarse["power_w"])
    listed = {
        name: [column.words[code] for code in column.codes] if isinstance(column, Coded) else column.tolist()
        for name, column in coarse.items()
    }
    store.write("device_samples", listed, writer="lists")
    assert [s.packed for s in store.segments("device_samples")] == [True, False, False]
    types = [pl.read_parquet_schema(s.path).get("power_w") for s in store.segments("device_samples")]
    assert len({str(kind) for kind in types}) == 2
    frame = whole(store)
    assert frame.height == 15_000
    assert frame["voltage_core_v"].drop_nulls().to_list() == [0.8] * 5000
    assert frame["energy_j"].null_count() == 5000
    with store.connect(threads=1) as connection:
        sums = connection.execute("SELECT sum(power_w), count(power_w), sum(energy_j) FROM device_samples").fetchall()
    assert sums[0] == pytest.approx((frame["power_w"].sum(), frame["power_w"].count(), frame["energy_j"].sum()))
    # Merged they are of one encoding, and packed again, by writer.
    store.maintain(later, retain_days=KEEP)
    assert all(segment.packed for segment in store.segments("device_samples"))
    assert whole(store).equals(frame)


def test_what_an_agent_that_runs_has_merged_is_packed_beside_it(store: Store, reading: Any, day_ns: int) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, clock_ns=lambda: clock[0], publish=None)
    rng = np.random.default_rng(4)
    for second in range(3):
        clock[0] += 10**9
        writer.take([reading(second + n / 1000, f"G{n}", power_w=round(float(rng.random()), 3)) for n in range(800)])
        writer.seal()
    clock[0] += 2 * 86_400 * 10**9
    assert writer.compact() > 0
    before = whole(store)
    assert pack(Engine(), store.files, store.root, clock[0]) > 0
    (packed,) = store.segments("device_samples")
    assert packed.packed
    # A row that comes late is merged with what was packed, as if it had not been.
    writer.take([reading(900, "late")])
    writer.seal()
    clock[0] += LATER_NS
    assert writer.compact() > 0
    (merged,) = store.segments("device_samples")
    assert (merged.packed, merged.generation) == (False, packed.generation + 1)
    assert whole(store).height == before.height + 1
    writer.close()


def test_a_part_that_is_replaced_while_it_is_packed_stays_replaced(store: Store, day_ns: int) -> None:
    store.replace("device_samples", "job", walk(day_ns), metadata={"perfwatt_job": "j", "other": "kept"})
    (old,) = store.segments("device_samples")
    store.replace("device_samples", "job", walk(day_ns, seed=2))
    new = whole(store)
    packed = repack(Engine(), store.files, old)
    assert packed.path.exists()
    assert whole(store).equals(new)
    assert {"perfwatt_job": "j", "other": "kept", "perfwatt_schema": "1"}.items() <= dict(
        pl.read_parquet_metadata(packed.path)
    ).items()


def test_a_segment_that_would_not_read_the_same_is_not_packed(store: Store, day_ns: int, monkeypatch: Any) -> None:
    store.write("device_samples", walk(day_ns))
    before, (segment,) = whole(store), store.segments("device_samples")
    from collector.store import encoding

    right = encoding.deltas
    monkeypatch.setattr(encoding, "deltas", lambda values, *a, **k: right(np.roll(values, 1), *a, **k))
    with pytest.raises(StoreError, match="it does not read as before: nothing was changed"):
        pack(Engine(), store.files, store.root, time.time_ns() + LATER_NS)
    assert store.segments("device_samples") == [segment]
    assert whole(store).equals(before)
    assert [path.name for path in segment.path.parent.iterdir()] == [segment.path.name]


def test_what_cannot_be_had_in_fewer_bytes_is_kept_as_it_is_and_not_tried_again(
    store: Store, day_ns: int, monkeypatch: Any
) -> None:
    store.write("device_samples", walk(day_ns))
    (was,) = store.segments("device_samples")
    from collector.store import repacking

    monkeypatch.setattr(repacking, "_WAYS", repacking._WAYS[2:3])
    monkeypatch.setattr(Engine, "compressed", lambda self, words, *a: bytes(was.bytes) + words.tobytes())
    monkeypatch.setattr(repacking.sql, "digest", lambda path: "SELECT 1")
    packed = repack(Engine(), store.files, was)
    assert packed.path.read_bytes() == was.path.read_bytes()
    assert unpacked(store.root, time.time_ns() + LATER_NS) == []


@pytest.mark.parametrize("many", [122_880, 122_881, 124_928, 245_761])
def test_words_are_one_page_however_many_and_with_several_threads(tmp_path: Path, many: int) -> None:
    words = np.arange(many, dtype=np.int32)
    assert Engine(threads=2).compressed(words, "brotli", tmp_path / "words") == Engine().compressed(
        words, "brotli", tmp_path / "words"
    )


def test_a_page_that_is_not_of_the_bytes_alone_is_not_taken_for_them(tmp_path: Path, monkeypatch: Any) -> None:
    words, scratch = np.arange(5000, dtype=np.int32), tmp_path / "words"
    engine = Engine()
    frame = engine.compressed(words, "zstd", scratch)
    run = Engine.run
    nullable = {" NOT NULL": "", "SELECT word": "SELECT nullif(word, 7)"}

    def changed(self: Engine, text: str) -> Any:
        for old, new in nullable.items():
            text = text.replace(old, new)
        return run(self, text)

    monkeypatch.setattr(Engine, "run", changed)
    with pytest.raises(StoreError, match=r"a page of 20\d\d\d bytes, not the 20000 of its column"):
        engine.compressed(words, "zstd", scratch)
    monkeypatch.undo()
    assert engine.compressed(words, "zstd", scratch) == frame


@pytest.mark.parametrize("moment", ["sync", "replace", "sync_folder"])
def test_a_packing_that_is_killed_loses_and_doubles_nothing(store: Store, day_ns: int, moment: str) -> None:
    store.write("device_samples", walk(day_ns))
    before, (segment,) = whole(store), store.segments("device_samples")
    script = f"""
import os, sys, time
from pathlib import Path
from collector.store import Store
from collector.store.compaction import pack
from collector.store.engine import Engine
from collector.store.files import Files

def die(*_):
    os.kill(os.getpid(), 9)

setattr(Path if {moment!r} == "replace" else Files, {moment!r}, die)
pack(Engine(), Files(), Path(sys.argv[1]), time.time_ns() + {LATER_NS})
"""
    done = subprocess.run([sys.executable, "-c", script, str(store.root)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -9
    shown = store.segments("device_samples")
    assert [one.packed for one in shown] == [moment == "sync_folder"]
    assert whole(store).equals(before)
    assert pack(Engine(), store.files, store.root, time.time_ns() + LATER_NS) == (moment != "sync_folder")
    assert whole(store).equals(before)
    assert store.check(whole=True) == []
    sweep(store.files, store.root, grace_s=0, now_s=time.time() + 2 * 86_400)
    assert [path.name for path in segment.path.parent.iterdir()] == [store.segments("device_samples")[0].path.name]


def test_small_segments_and_days_that_go_on_are_left(store: Store, reading: Any, day_ns: int) -> None:
    store.write("device_samples", walk(day_ns, count=400))
    store.write("host_samples", {"host": ["h"], "time": [day_ns]})
    assert unpacked(store.root, time.time_ns() + LATER_NS) == []
    today_ns = time.time_ns() // (86_400 * 10**9) * 86_400 * 10**9
    store.write("device_samples", walk(today_ns))
    assert unpacked(store.root, today_ns + 20 * 3600 * 10**9) == []
    (day,) = {s.date for s in store.segments("device_samples", today_ns)}
    assert unpacked(store.root, today_ns + 50 * 3600 * 10**9) == visible(present(store.root, "device_samples", day))


def test_rollups_with_sketches_are_left(store: Store, day_ns: int) -> None:
    store.write("device_samples", walk(day_ns, count=40_000))
    store.maintain(time.time_ns() + LATER_NS, retain_days=KEEP)
    rolled = store.segments("device_rollups")
    assert rolled
    assert not any(segment.packed for segment in rolled)
    assert all(segment.packed for segment in store.segments("device_samples"))


def test_damage_is_found_also_where_nothing_is_compressed(store: Store, day_ns: int) -> None:
    store.write("device_samples", walk(day_ns))
    (segment,) = store.segments("device_samples")
    place = duckdb.execute(
        f"SELECT data_page_offset, total_compressed_size FROM parquet_metadata('{segment.path}') "
        "WHERE path_in_schema = 'fabric_sent_bytes' AND compression = 'UNCOMPRESSED'"
    ).fetchall()
    content = bytearray(segment.path.read_bytes())
    at = place[0][0] + place[0][1] // 2 if place else len(content) // 2
    content[at] ^= 0xFF
    segment.path.write_bytes(content)
    assert store.check() == []
    assert [problem.path for problem in store.check(whole=True)] == [segment.path]
