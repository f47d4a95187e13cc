"""Names, visibility, merging, expiry, versions and damage."""

import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import polars as pl
import pytest

from analytics import frames
from collector.errors import StoreError
from collector.sample import Reading
from collector.store import Store
from collector.store.compaction import due, expire, sweep
from collector.store.export import export_duckdb, export_table
from collector.store.segments import Segment, day_start_ns, present, visible

DAY = date(2023, 11, 15)
HOUR_MS = 3_600_000
Make = Callable[..., Reading]


def segment(first: int, last: int, generation: int = 0, writer: str = "a", **more: Any) -> Segment:
    start = day_start_ns(DAY)
    return Segment(
        Path(f"{writer}{generation}.{first}.{last}"), "t", DAY, writer, generation, first, last, start, start, **more
    )


def test_a_segment_that_covers_others_of_its_writer_hides_them() -> None:
    parts = [segment(n, n) for n in range(6)]
    merged, all_of_them = segment(0, 3, 1), segment(0, 5, 2)
    other = segment(2, 2, writer="b")
    assert visible([*parts, other]) == sorted([*parts, other], key=lambda s: (s.first, s.writer))
    assert visible([*parts, merged]) == [merged, parts[4], parts[5]]
    assert visible([*parts, merged, all_of_them, other]) == [all_of_them, other]
    # A segment of the same seals and a lower generation is the older one, whichever is listed first.
    assert (
        visible([segment(0, 0, 1), segment(0, 0)]) == visible([segment(0, 0), segment(0, 0, 1)]) == [segment(0, 0, 1)]
    )


def test_only_what_is_over_is_merged_and_only_neighbours() -> None:
    start = day_start_ns(DAY) // 1_000_000
    seals = [segment(start + n * 60_000, start + n * 60_000) for n in range(9)]

    def groups(now_ms: int, some: list[Segment]) -> list[int]:
        return [len(group) for group in due(some, now_ms * 1_000_000)]

    assert groups(start + 4 * 60_000, seals[:5]) == []  # five minutes that still run
    assert groups(start + 6 * 60_000, seals[:7]) == [5]
    assert groups(start + HOUR_MS - 1, seals) == [5, 4]
    assert groups(start + HOUR_MS, seals) == [9]
    assert groups(start + 40 * HOUR_MS, [segment(start, start, 3)]) == []
    later = segment(start + 5 * HOUR_MS, start + 5 * HOUR_MS + 9, 1)
    assert groups(start + 40 * HOUR_MS, [*seals, later]) == [10]


def test_a_day_that_has_not_changed_is_not_listed_again_and_one_that_has_is(
    store: Store, day_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[object] = []

    def counted(root: Path, table: str, day: date) -> list[Segment]:
        listed.append(day)
        return present(root, table, day)

    monkeypatch.setattr("collector.store.segments.present", counted)
    rows = {"device": ["a"], "source": ["s"], "time": [day_ns]}

    def seen() -> tuple[int, int]:
        """How many segments there are, and how often a folder was listed for that."""
        listed.clear()
        return len(store.segments("device_samples")), len(listed)

    store.write("device_samples", rows)
    # Its folder has only just changed: it may do so again and look the same.
    assert [seen(), seen()] == [(1, 1), (1, 1)]
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert [seen(), seen()] == [(1, 1), (1, 0)]
    store.write("device_samples", rows, writer="another")
    assert [seen(), seen()] == [(2, 1), (2, 0)]
    store.segments("device_samples")[0].path.unlink()
    assert [seen(), seen()] == [(1, 1), (1, 0)]


def test_foreign_files_are_passed_over_and_reported(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0)])
    writer.close()
    folder = store.segments("device_samples")[0].path.parent
    (folder / "notes.parquet").write_bytes(b"not ours")
    (store.root / "device_samples" / "date=yesterday").mkdir()
    assert frames.scan(store, "device_samples").collect().height == 1
    assert [(p.path.name, "not named" in p.message) for p in store.check()] == [("notes.parquet", True)]


def test_a_segment_of_a_newer_schema_is_refused_by_name_and_version(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0)])
    writer.close()
    old = store.segments("device_samples")[0].path
    path = old.with_name(old.name.replace("agent", "newer"))
    newer = f"COPY (FROM '{old}') TO '{path}' (FORMAT parquet, KV_METADATA {{perfwatt_schema: '2'}})"
    duckdb.connect().execute(newer).fetchall()
    with pytest.raises(StoreError, match=rf"{path}: schema version 2 is newer than 1"):
        frames.scan(store, "device_samples")
    assert "schema version 2 is newer than 1" in str(store.check()[0])
    with pytest.raises(StoreError, match="schema version 2"), store.connect():
        pass
    with pytest.raises(StoreError, match="schema version 2"):
        store.publish()


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_damaged_segment_is_named(store: Store, reading: Make, damage: str) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0)])
    writer.close()
    path = store.segments("device_samples")[0].path
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": os.urandom(500)}[damage])
    with pytest.raises(StoreError, match=path.name):
        frames.scan(store, "device_samples").collect()
    assert [problem.path for problem in store.check()] == [path]


def test_damage_within_a_segment_is_found_when_every_value_is_decoded(store: Store, day_ns: int) -> None:
    times = [day_ns + n * 10**9 for n in range(5000)]
    store.write(
        "device_samples", {"device": ["a"] * 5000, "time": times, "power_w": [n % 977 / 7 for n in range(5000)]}
    )
    path = store.segments("device_samples")[0].path
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[100:footer] = os.urandom(footer - 100)
    path.write_bytes(content)
    assert store.check() == []
    assert [problem.path for problem in store.check(whole=True)] == [path]


def test_a_column_of_a_later_version_of_the_table_reads_as_null_in_older_segments(store: Store, day_ns: int) -> None:
    store.write("device_samples", {"device": ["a"], "time": [day_ns], "power_w": [1.0]})
    store.write("device_samples", {"device": ["b"], "time": [day_ns], "voltage_core_v": [0.8]})
    frame = frames.scan(store, "device_samples").sort("device").collect()
    assert frame["power_w"].to_list() == [1.0, None]
    assert frame["voltage_core_v"].to_list() == [None, 0.8]
    with store.connect() as connection:
        seen = connection.execute(
            "SELECT power_w, voltage_core_v, oem FROM (SELECT *, 1 AS oem FROM device_samples) ORDER BY device"
        )
        assert seen.fetchall() == [(1.0, None, 1), (None, 0.8, 1)]


def test_a_merge_that_would_lose_rows_changes_nothing(
    store: Store, reading: Make, day_ns: int, monkeypatch: Any
) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, clock_ns=lambda: clock[0])
    for second in range(3):
        clock[0] += 10**9
        writer.take([reading(second)])
        writer.seal()
    writer.close()
    writer = store.writer("agent", background=False, clock_ns=lambda: clock[0])  # it has to read what it merges
    from collector.store import sql

    whole = sql.copy
    monkeypatch.setattr(sql, "copy", lambda select, *a, **k: whole(f"SELECT * FROM ({select}) LIMIT 2", *a, **k))
    clock[0] += 600 * 10**9
    assert writer.compact() == 0
    assert "gave 2: nothing was changed" in (writer.status.last_error or "")
    assert len(store.segments("device_samples")) == 3
    monkeypatch.undo()
    assert writer.compact() == 1
    assert frames.scan(store, "device_samples").collect().height == 3
    writer.close()


def test_old_days_expire_at_once_for_readers_and_are_deleted_after_the_grace(
    store: Store, reading: Make, day_ns: int
) -> None:
    writer = store.writer("agent", background=False, clock_ns=lambda: day_ns + 10**9)
    writer.take([reading(0)])
    writer.close()
    (path,) = [segment.path for segment in store.segments("device_samples")]
    keep: dict[str, int | None] = {"device_samples": 14, "devices": None}
    assert expire(store.files, store.root, keep, day_ns + 14 * 86_400 * 10**9) == 0
    assert expire(store.files, store.root, keep, day_ns + 15 * 86_400 * 10**9) == 1
    assert frames.scan(store, "device_samples").collect().height == 0
    sweep(store.files, store.root)
    assert path.exists(), "a reader that listed it may still be reading"
    sweep(store.files, store.root, grace_s=0)
    assert not path.parent.exists()
    assert frames.scan(store, "devices").collect().height == 1


def test_history_that_was_imported_does_not_expire(store: Store, day_ns: int) -> None:
    store.write("device_samples", {"device": ["a"], "time": [day_ns], "power_w": [1.0]})
    store.maintain()
    assert frames.scan(store, "device_samples").collect().height == 1


def test_what_expires_goes_also_when_nothing_can_be_rolled_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns()
    store.write("device_samples", {"time": [now_ns], "device": ["d0"], "power_w": [300.0]})

    def full(*_: object) -> int:
        raise OSError("12 requested and 4 written")

    monkeypatch.setattr("collector.store.store.roll_up", full)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=300 << 10))
    with pytest.raises(StoreError, match=r"12 requested and 4 written \(its disk has 300 kB left\)"):
        store.maintain(now_ns + 20 * 86_400 * 10**9)
    assert store.segments("device_samples") == []


def test_maintaining_merges_what_nobody_writes_and_leaves_what_is_written(store: Store, day_ns: int) -> None:
    for second in range(3):
        store.write("device_samples", {"device": ["a"], "source": ["s"], "time": [day_ns + second * 10**9]})
    day = store.segments("device_samples")[0].date
    held = store.writer("import", background=False)
    import time

    later = time.time_ns() + 3600 * 10**9
    store.maintain(later)
    assert len(visible(present(store.root, "device_samples", day))) == 3
    held.close()
    store.maintain(later)
    assert len(visible(present(store.root, "device_samples", day))) == 1
    assert frames.scan(store, "device_samples").collect().height == 3


def test_an_export_is_a_database_of_its_own(store: Store, reading: Make, tmp_path: Path, day_ns: int) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(second) for second in range(10)])
    writer.close()
    file = tmp_path / "out.duckdb"
    assert export_duckdb(store.root, file, ["device_samples", "devices"], day_ns + 2 * 10**9, day_ns + 5 * 10**9) == {
        "device_samples": 3,
        "devices": 0,
    }
    for path in store.root.rglob("*.parquet"):
        path.unlink()
    with duckdb.connect(str(file), read_only=True) as connection:
        assert connection.execute("SELECT count(*), sum(power_w) FROM device_samples").fetchone() == (3, 900.0)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_table_is_exported_as_a_file(store: Store, reading: Make, tmp_path: Path, form: str) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(1), reading(0)])
    writer.close()
    file = tmp_path / f"rows.{form}"
    assert export_table(store.root, "device_samples", file) == 2
    read: dict[str, Callable[[Path], pl.DataFrame]] = {
        "parquet": pl.read_parquet,
        "csv": pl.read_csv,
        "jsonl": pl.read_ndjson,
    }
    frame = read[form](file)
    assert frame["energy_j"].to_list() == [1000.0, 1001.0]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]


def test_an_export_says_what_it_cannot_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="formats are parquet, csv, jsonl"):
        export_table(store.root, "devices", tmp_path / "x.xlsx")
    with pytest.raises(StoreError, match="there is no folder"):
        export_table(store.root, "devices", tmp_path / "no" / "x.csv")
    with pytest.raises(StoreError, match="no table watts"):
        export_duckdb(store.root, tmp_path / "x.duckdb", ["watts"])


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here"):
        Store(tmp_path / "nothing")


def test_a_state_that_no_source_is_named_of_is_published_and_read(store: Store, day_ns: int) -> None:
    store.write("devices", {"device": ["a", "a"], "time": [day_ns, day_ns + 1], "driver_version": ["1", "2"]})
    store.publish()
    with store.connect() as connection:
        rows = connection.execute("SELECT device, source, driver_version FROM devices_now").fetchall()
    assert rows == [("a", None, "2")]
