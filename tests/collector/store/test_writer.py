import contextlib
import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from analytics import frames
from collector.catalogue import POWER, TOKENS_OUT, Scope
from collector.errors import StoreError
from collector.sample import Allocation, Device, Event, Process, Reading, Sample, Severity
from collector.store import Store
from collector.store.files import Files

Make = Callable[..., Reading]


class Disk(Files):
    """A disk that can be full or read-only."""

    def __init__(self) -> None:
        self.error: int | None = None

    def commit(self, temporary: Path, final: Path) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error), str(final))
        super().commit(temporary, final)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk()


def powers(store: Store) -> list[float]:
    return frames.scan(store, "device_samples").sort("time").collect()["power_w"].to_list()


def test_rows_of_every_kind_reach_their_tables(store: Store, day_ns: int) -> None:
    writer = store.writer("agent", background=False, host="node7")
    workload = Sample(scope=Scope.WORKLOAD, subject="job-1", host="node7", time_ns=day_ns, values={TOKENS_OUT: 5.0})
    agent = Sample(scope=Scope.AGENT, subject="", host="node7", time_ns=day_ns, values={POWER: 1.0})
    writer.take(
        [
            Reading(
                source="s",
                samples=[workload, agent],
                devices=[Device(id="G", host="node7", vendor="nvidia", model="H100", power_limit_w=700.0)],
                events=[Event(time_ns=day_ns, kind="xid", host="node7", severity=Severity.CRITICAL, code="79")],
                allocations=[
                    Allocation(
                        time_ns=day_ns, workload="job-1", device="G", host="node7", start_ns=day_ns - 5, user="ada"
                    )
                ],
                processes=[Process(time_ns=day_ns, device="G", host="node7", pid=4711, name="python")],
            )
        ]
    )
    writer.close()
    assert store.tables() == ["workload_samples", "devices", "allocations", "processes", "events"]
    one = {table: frames.scan(store, table).collect().row(0, named=True) for table in store.tables()}
    assert one["workload_samples"]["tokens_out"] == 5.0
    assert one["devices"]["power_limit_w"] == 700.0
    assert (one["events"]["code"], one["events"]["severity"], one["events"]["device"]) == ("79", "critical", None)
    assert (one["allocations"]["user"], one["allocations"]["end"], one["allocations"]["share"]) == ("ada", None, 1.0)
    assert one["processes"]["pid"] == 4711


def test_a_device_is_described_once_and_again_when_it_changes(store: Store, reading: Make, day_ns: int) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(second) for second in range(5)])
    changed = Device(id="GPU-0", host="node7", vendor="nvidia", model="H100", power_limit_w=500.0)
    writer.take([Reading(source="nvml", samples=reading(9).samples, devices=[changed])])
    writer.close()
    rows = frames.scan(store, "devices").sort("time").collect()
    assert rows["power_limit_w"].to_list() == [None, 500.0]
    assert frames.latest(store, "devices").collect()["power_limit_w"].to_list() == [500.0]


def test_rows_around_midnight_go_to_their_days(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(86_399.5), reading(86_400), reading(86_400.5)])
    writer.close()
    folders = [segment.path.parent.name for segment in store.segments("device_samples")]
    assert len(set(folders)) == 2
    assert len(powers(store)) == 3


def test_nanoseconds_and_absent_values_survive(store: Store, reading: Make, day_ns: int) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0.123456789)])
    writer.close()
    row = frames.scan(store, "device_samples").collect()
    assert row["time"].to_physical().to_list() == [day_ns + 123_456_789]
    assert row["temperature_c"].to_list() == [None]


def test_a_full_disk_is_reported_survived_and_recovered_from(tmp_path: Path, disk: Disk, reading: Make) -> None:
    store = Store.create(tmp_path / "s", files=disk)
    writer = store.writer("agent", background=False, host="node7")
    writer.take([reading(0)])
    assert writer.seal()
    disk.error = errno.ENOSPC
    writer.take([reading(1)])
    assert not writer.seal()
    assert not writer.seal()
    status = writer.status
    assert not status.ok
    assert status.errors == 2
    assert "No space left" in (status.last_error or "")
    assert powers(store) == [300.0]
    disk.error = None
    writer.take([reading(2)])
    assert writer.seal()
    assert writer.status.ok
    writer.close()
    assert len(powers(store)) == 3
    kinds = frames.scan(store, "events").sort("time").collect()["kind"].to_list()
    assert kinds == ["store_failed", "store_recovered"]
    assert not list(store.root.rglob("*.tmp"))


def test_while_the_disk_is_full_the_oldest_rows_are_given_up_and_counted(
    tmp_path: Path, disk: Disk, reading: Make
) -> None:
    store = Store.create(tmp_path / "s", files=disk)
    writer = store.writer("agent", background=False, spool_rows=10)
    disk.error = errno.EROFS
    for second in range(30):
        writer.take([reading(second, power_w=float(second))])
        if second % 7 == 0:
            assert not writer.seal()
    assert writer.status.waiting == 10
    disk.error = None
    assert writer.seal()
    writer.close()
    kept = powers(store)
    assert kept[-1] == 29.0
    assert kept == sorted(kept)
    # The thirty samples, the device's description and the event of the failure: all but ten were given up.
    assert writer.status.dropped == 32 - 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_that_runs_full_loses_nothing_that_fits_the_spool(small_disk: Path, reading: Make) -> None:
    store = Store.create(small_disk / "s")
    writer = store.writer("agent", background=False, publish=None, host="node7")
    for second in range(20):
        writer.take([reading(second)])
        assert writer.seal()
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert os.statvfs(small_disk).f_bavail == 0
    for second in range(20, 40):
        writer.take([reading(second)])
    assert not writer.seal()
    assert len(powers(store)) == 20
    ballast.unlink()
    assert writer.seal()
    writer.close()
    assert len(powers(store)) == 40


def test_an_agent_that_starts_on_a_read_only_disk_waits_for_it(tmp_path: Path, reading: Make) -> None:
    class ReadOnly(Files):
        writable = False

        def make_folder(self, path: Path) -> None:
            if not self.writable:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            super().make_folder(path)

    disk = ReadOnly()
    (tmp_path / "s").mkdir()
    store = Store(tmp_path / "s", files=disk)
    writer = store.writer("agent", background=False, host="node7")
    assert "Read-only file system" in (writer.status.last_error or "")
    writer.take([reading(0)])
    assert not writer.seal()
    disk.writable = True
    assert writer.seal()
    writer.close()
    assert powers(store) == [300.0]


def test_one_name_has_one_writer(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    with pytest.raises(StoreError, match=rf"'agent' is open already, in process {os.getpid()}"):
        store.writer("agent", background=False)
    writer.close()
    store.writer("agent", background=False).close()


def test_a_name_that_is_no_file_name_is_refused(store: Store) -> None:
    for name in ("", "../up", "a/b", "-a", ".hidden", "a" * 101):
        with pytest.raises(StoreError, match="writer name"):
            store.writer(name, background=False)


def test_taking_does_not_wait_for_a_slow_disk(tmp_path: Path, reading: Make) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(Files):
        def commit(self, temporary: Path, final: Path) -> None:
            entered.set()
            assert leave.wait(30)
            super().commit(temporary, final)

    store = Store.create(tmp_path / "s", files=Slow())
    writer = store.writer("agent", seal_s=0.01, publish=None, maintain=None)
    writer.take([reading(0)])
    assert entered.wait(30)
    began = time.perf_counter()
    writer.take([reading(1)])
    assert time.perf_counter() - began < 1.0
    assert writer.status.waiting >= 1
    leave.set()
    writer.close()
    assert len(powers(store)) == 2


def test_the_thread_seals_and_publishes_by_itself(store: Store, reading: Make) -> None:
    sealed = threading.Event()
    writer = store.writer("agent", seal_s=0.01, on_sealed=lambda _: sealed.set())
    writer.take([reading(0)])
    assert sealed.wait(30)
    writer.close()
    assert (store.root / "perfwatt.duckdb").exists()
    assert powers(store) == [300.0]


def test_a_later_row_of_the_same_series_and_time_replaces_the_earlier(store: Store, reading: Make, day_ns: int) -> None:
    clock = [day_ns]
    writer = store.writer("agent", background=False, clock_ns=lambda: clock[0])
    for power in (1.0, 2.0, 3.0):
        clock[0] += 10**9
        writer.take([reading(5, power_w=power), reading(4 + power, device="GPU-1", power_w=9.0)])
        writer.seal()
        assert powers(store).count(9.0) == int(power)
        assert [p for p in powers(store) if p != 9.0] == [power]
    with store.connect() as connection:
        assert connection.execute("SELECT count(*) FROM device_samples").fetchone() == (4,)
    clock[0] += 600 * 10**9
    assert writer.compact() > 0
    (merged,) = store.segments("device_samples")
    assert not merged.repeats
    assert sorted(powers(store)) == [3.0, 9.0, 9.0, 9.0]
    writer.close()


def test_a_writer_that_repeats_what_it_wrote_before_a_restart_replaces_it(store: Store, reading: Make) -> None:
    for power in (1.0, 2.0):
        writer = store.writer("replay", background=False)
        writer.take([reading(5, power_w=power)])
        writer.close()
    assert powers(store) == [2.0]


def test_segments_hold_only_the_columns_that_have_a_value(store: Store, reading: Make) -> None:
    writer = store.writer("agent", background=False)
    writer.take([reading(0)])
    writer.close()
    stored = pl.read_parquet_schema(store.segments("device_samples")[0].path)
    assert list(stored) == ["device", "time", "source", "host", "power_method", "power_w", "energy_j"]
