"""The numbers of a page against sums worked out by hand over the same readings."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree, rmtree

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analytics import frames
from analytics.frames import by_device
from collector.store import Store
from dashboards.controls import WINDOWS
from dashboards.data import fleet
from dashboards.data.fleet import BUCKETS, Totals, View, bucket_s
from dashboards.data.stored import Stored
from dashboards.selection import By, Selection
from tests.dashboards.conftest import FLEET


@pytest.fixture
def stored(store_root: Path, clock_ns: Callable[[], int]) -> Stored:
    return Stored(store_root, clock_ns=clock_ns)


def joules(samples: pl.DataFrame, device: str, *, max_gap_s: float = 15.0) -> tuple[float, float]:
    """The naive sum over neighbouring readings, and the seconds it covers."""
    rows = samples.filter(pl.col("device") == device).sort("time")
    seconds = [ns / 1e9 for ns in rows["time"].cast(pl.Int64)]
    watts = rows["power_w"].to_list()
    total = covered = 0.0
    for n in range(1, len(seconds)):
        step = seconds[n] - seconds[n - 1]
        if step <= max_gap_s:
            total += step * (watts[n] + watts[n - 1]) / 2
            covered += step
    return total, covered


def inside(samples: pl.DataFrame, view: View) -> pl.DataFrame:
    start = pl.lit(view.start.replace(tzinfo=None)).cast(pl.Datetime("ns"))
    return samples.filter(pl.col("time") >= start)


def test_energy_power_and_coverage_are_those_of_a_naive_sum(stored: Stored, samples: pl.DataFrame) -> None:
    view = fleet.view(stored, Selection(window="15m", by="device"))
    found = {name: joules(inside(samples, view), name) for name in ("GPU-a1", "GPU-a2", "TPU-b1")}
    totals = view.totals
    window_s = (view.end - view.start).total_seconds()
    assert totals.devices == 3
    assert totals.energy_j == pytest.approx(sum(j for j, _ in found.values()))
    assert totals.covered_ratio == pytest.approx(sum(s for _, s in found.values()) / 3 / window_s)
    assert totals.modelled_ratio == pytest.approx(found["TPU-b1"][0] / sum(j for j, _ in found.values()))
    assert totals.counter_ratio == 0.0
    by_device = {row["group"]: row for row in view.table.iter_rows(named=True)}
    for name, (energy_j, covered_s) in found.items():
        assert by_device[name]["energy_j"] == pytest.approx(energy_j)
        assert by_device[name]["covered_ratio"] == pytest.approx(covered_s / window_s)
        assert by_device[name]["power_mean_w"] == pytest.approx(energy_j / covered_s)
        assert by_device[name]["modelled_ratio"] == (1.0 if name == "TPU-b1" else 0.0)


def test_power_now_is_the_sum_of_the_latest_readings_and_says_what_is_modelled(stored: Stored) -> None:
    totals = fleet.view(stored, Selection(window="15m")).totals
    assert (totals.power_now_w, totals.power_now_devices, totals.power_now_modelled_w) == (800.0, 3, 100.0)


def test_an_old_reading_does_not_say_what_is_drawn_now(store_root: Path, clock_ns: Callable[[], int]) -> None:
    later = Stored(store_root, clock_ns=lambda: clock_ns() + 60 * 10**9)
    totals = fleet.view(later, Selection(window="15m")).totals
    assert (totals.power_now_w, totals.power_now_devices) == (None, 0)
    assert totals.energy_j is not None


def test_a_spike_of_one_reading_survives_downsampling(stored: Stored) -> None:
    for window in ("15m", "6h", "7d"):
        assert fleet.view(stored, Selection(window=window)).totals.power_peak_w == pytest.approx(1600.0)


def test_a_gap_is_not_drawn_over(stored: Stored) -> None:
    view = fleet.view(stored, Selection(window="15m", by="device"))
    modelled = view.groups.filter(pl.col("group") == "TPU-b1")
    measured = view.groups.filter(pl.col("group") == "GPU-a1")
    assert measured.height - modelled.height >= 28


def test_tokens_per_joule_counts_idle_energy_of_the_place(stored: Stored, samples: pl.DataFrame) -> None:
    view = fleet.view(stored, Selection(window="15m", by="site"))
    tokens = 1000.0 * 5 * (inside(samples, view).filter(pl.col("device") == "GPU-a1").height - 1)
    oslo = sum(joules(inside(samples, view), name)[0] for name in ("GPU-a1", "GPU-a2"))
    rows = {row["group"]: row for row in view.table.iter_rows(named=True)}
    assert rows["oslo"]["tokens"] == pytest.approx(tokens)
    assert rows["oslo"]["tokens_per_joule"] == pytest.approx(tokens / oslo)
    assert rows["dallas"]["tokens_per_joule"] is None
    assert view.totals.tokens_per_joule == pytest.approx(tokens / (view.totals.energy_j or 0.0))


def test_an_allocation_that_ended_before_the_window_brings_it_no_tokens(
    tmp_path: Path, samples: pl.DataFrame, clock_ns: Callable[[], int]
) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples.filter(pl.col("device") == "GPU-a1"))
    moments = samples.filter(pl.col("device") == "GPU-a1")["time"]
    store.write("workload_samples", pl.DataFrame({"workload": "w", "time": moments, "source": "t", "tokens_out": 1.0}))
    early = moments[0] - timedelta(hours=2)
    row = {"workload": ["w"], "device": ["GPU-a1"], "start": [early], "share": [1.0]}
    store.write("allocations", pl.DataFrame({**row, "time": [early], "end": [None]}))
    store.write(
        "allocations", pl.DataFrame({**row, "time": [early + timedelta(hours=1)], "end": [early + timedelta(hours=1)]})
    )
    assert fleet.view(Stored(tmp_path, clock_ns=clock_ns), Selection(window="15m")).totals.tokens is None


def test_utilisation_is_the_mean_over_devices(stored: Stored) -> None:
    assert fleet.view(stored, Selection(window="15m")).totals.utilization_ratio == pytest.approx(
        (0.25 + 0.75 + 0.75) / 3
    )


@pytest.mark.parametrize(
    ("selection", "devices"),
    [
        (Selection(sites=("oslo",)), {"GPU-a1", "GPU-a2"}),
        (Selection(hosts=("node-b1",)), {"TPU-b1"}),
        (Selection(devices=("GPU-a1", "TPU-b1")), {"GPU-a1", "TPU-b1"}),
        (Selection(sites=("oslo",), devices=("GPU-a2",)), {"GPU-a2"}),
        (Selection(sites=("nowhere",)), set()),
    ],
)
def test_filters_narrow_everything(stored: Stored, selection: Selection, devices: set[str]) -> None:
    from dataclasses import replace

    view = fleet.view(stored, replace(selection, by="device", window="15m"))
    assert set(view.table["group"]) == devices
    assert view.totals.devices == len(devices)
    assert set(view.groups["group"]) == devices


def test_groups_sum_to_the_whole(stored: Stored) -> None:
    for by in ("site", "host", "device"):
        view = fleet.view(stored, Selection(window="15m", by=by))  # type: ignore[arg-type]
        assert view.table["energy_j"].sum() == pytest.approx(view.totals.energy_j)
        summed = view.groups.group_by("window").agg(pl.col("power_mean_w").sum()).sort("window")
        assert summed["power_mean_w"].to_list() == pytest.approx(view.power["power_mean_w"].to_list())


@pytest.mark.parametrize("by", ["site", "host", "device"])
def test_a_page_computed_in_parts_is_the_page(
    tmp_path: Path, store_root: Path, samples: pl.DataFrame, clock_ns: Callable[[], int], by: By
) -> None:
    copytree(store_root, tmp_path, dirs_exist_ok=True)
    rmtree(tmp_path / "device_samples")
    for device in ("GPU-a2", "TPU-b1", "GPU-a1"):
        Store(tmp_path).write("device_samples", samples.filter(pl.col("device") == device))
    chosen = Selection(window="15m", by=by)
    whole = fleet.view(Stored(tmp_path, clock_ns=clock_ns), chosen)
    parts = fleet.view(Stored(tmp_path, clock_ns=clock_ns, part_rows=10), chosen)
    assert len(by_device(tmp_path, "device_samples", rows=10)) == 3
    for field in fields(Totals):
        value, expected = (getattr(view.totals, field.name) for view in (parts, whole))
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected), field.name
    for name in ("power", "groups", "utilization", "efficiency", "table"):
        assert_frame_equal(getattr(parts, name), getattr(whole, name))


DAY = 1_772_323_200
"""A midnight."""


def wandering(device: str, host: str, start_s: int, end_s: int, watts: float) -> dict[str, list[object]]:
    """Readings every minute that go up and down within the hour."""
    times = range(start_s, end_s, 60)
    return {
        "device": [device] * len(times), "time": [s * 10**9 for s in times], "source": ["s"] * len(times),
        "host": [host] * len(times), "power_w": [watts + s // 60 % 60 for s in times],
        "utilization_ratio": [0.5] * len(times),
    }  # fmt: skip


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A day and an hour of two hosts, of which one has two devices; and the same rolled up to less than 2 h ago."""
    store = Store.create(tmp_path_factory.mktemp("days") / "read")
    for device, host, watts in (("a1", "node-a", 300.0), ("a2", "node-a", 200.0), ("b1", "node-b", 100.0)):
        store.write("device_samples", wandering(device, host, DAY - 3600, DAY + 86_400, watts))
    (store.root / "fleet.toml").write_text(FLEET.replace("node-a*", "node-a").replace("node-b1", "node-b"))
    rolled = store.root.with_name("rolled")
    copytree(store.root, rolled)
    Store(rolled).roll_up((DAY + 80_000) * 10**9)
    return store.root, rolled


@pytest.mark.parametrize(
    "chosen",
    [
        Selection(window="24h", by="site"),
        Selection(window="24h", by="host", sites=("oslo",)),
        Selection(window="24h", by="device", hosts=("node-a",)),
        Selection(window="24h", by="host", devices=("a2", "b1")),
    ],
)
def test_a_day_that_is_rolled_up_shows_what_its_readings_do(days: tuple[Path, Path], chosen: Selection) -> None:
    read, rolled = (fleet.view(Stored(root, clock_ns=lambda: (DAY + 86_400) * 10**9), chosen) for root in days)
    assert (read.peaks_s, rolled.peaks_s) == (60.0, 300.0)
    names = ["group", "devices", "power_now_w", "energy_j", "covered_ratio", "power_mean_w"]
    # The step into the window is known to rollups, not to readings of the window alone.
    assert_frame_equal(rolled.table.select(names), read.table.select(names), rel_tol=2e-3)
    assert rolled.table["utilization_ratio"].to_list() == pytest.approx(read.table["utilization_ratio"].to_list())
    assert rolled.groups["power_mean_w"].to_list() == pytest.approx(read.groups["power_mean_w"].to_list(), rel=2e-3)
    assert rolled.totals.devices == read.totals.devices
    assert read.totals.power_mean_w is not None
    assert rolled.totals.power_peak_w is not None
    assert read.totals.power_peak_w is not None
    assert read.totals.power_mean_w < rolled.totals.power_peak_w <= read.totals.power_peak_w + 1e-6


def test_a_day_that_is_rolled_up_shows_new_readings_at_once(days: tuple[Path, Path], tmp_path: Path) -> None:
    copytree(days[1], tmp_path, dirs_exist_ok=True)
    stored = Stored(tmp_path, clock_ns=lambda: (DAY + 86_400) * 10**9)
    before = fleet.view(stored, Selection(window="24h", by="device"))
    assert before.peaks_s == 300.0
    Store(tmp_path).write("device_samples", wandering("late", "node-b", DAY + 40_000, DAY + 86_400, 50.0))
    after = fleet.view(stored, Selection(window="24h", by="device"))
    assert set(after.table["group"]) - set(before.table["group"]) == {"late"}
    assert after.totals.power_now_w == pytest.approx((before.totals.power_now_w or 0.0) + 50.0 + 59.0)


def test_choosing_hosts_reads_nothing_anew(days: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(days[0], clock_ns=lambda: (DAY + 86_400) * 10**9)
    whole = fleet.view(stored, Selection(window="6h", by="host"))
    monkeypatch.setattr(fleet, "_drawn", lambda *_: pytest.fail("read anew"))
    chosen = fleet.view(stored, Selection(window="6h", by="host", sites=("dallas",)))
    assert chosen.table.row(0) == whole.table.filter(pl.col("group") == "node-b").row(0)


def test_what_was_seen_before_the_last_hour_is_known_from_the_rollups(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    hour_ns, end_ns = 3600 * 10**9, 1_772_323_200 * 10**9
    for device, age in (("old", 20), ("new", 0)):
        times = [end_ns - age * hour_ns - n * 10**9 for n in range(1, 10)]
        rows = {"device": [device] * 9, "time": times, "source": ["s"] * 9, "host": ["n"] * 9, "power_w": [1.0] * 9}
        store.write("device_samples", rows)
    stored = Stored(tmp_path, clock_ns=lambda: end_ns)
    before = fleet.known(stored, Selection(window="24h"))
    store.maintain(end_ns)
    assert store.segments("device_rollups")
    assert fleet.known(stored, Selection(window="24h")) == before
    assert before.devices == ("new", "old")
    assert fleet.known(stored, Selection(window="1h")).devices == ("new",)


def test_partitions_repeat_nothing(tmp_path: Path, samples: pl.DataFrame, clock_ns: Callable[[], int]) -> None:
    store = Store.create(tmp_path)
    board = samples.filter(pl.col("device") == "GPU-a1")
    part = board.with_columns(device=pl.lit("MIG-1"))
    store.write("device_samples", pl.concat([board, part]))
    first = board["time"].min()
    rows = {"device": ["GPU-a1", "MIG-1"], "time": [first] * 2, "source": ["test"] * 2, "host": ["node-a1"] * 2}
    store.write("devices", pl.DataFrame({**rows, "parent": [None, "GPU-a1"]}))
    totals = fleet.view(Stored(tmp_path, clock_ns=clock_ns), Selection(window="15m")).totals
    assert (totals.devices, totals.power_now_w, totals.power_peak_w) == (1, 300.0, pytest.approx(300.0))


def test_a_fixed_end_reproduces_the_page(store_root: Path, stored: Stored) -> None:
    fixed = Selection(window="15m", until=datetime(2026, 3, 4, 12, tzinfo=UTC))
    years_later = Stored(store_root, clock_ns=lambda: 2 * 10**18)
    assert fleet.view(years_later, fixed).totals == fleet.view(stored, fixed).totals
    assert fleet.view(years_later, fixed).totals.energy_j == pytest.approx(
        fleet.view(stored, Selection(window="15m")).totals.energy_j
    )


def test_a_view_is_worked_out_once_and_again_when_the_store_has_more(
    tmp_path: Path, samples: pl.DataFrame, clock_ns: Callable[[], int]
) -> None:
    store = Store.create(tmp_path)
    store.write("device_samples", samples.filter(pl.col("device") == "GPU-a1"))
    stored = Stored(tmp_path, clock_ns=clock_ns)
    first = fleet.view(stored, Selection(window="15m"))
    assert fleet.view(stored, Selection(window="15m")) is first
    store.write("device_samples", samples.filter(pl.col("device") == "GPU-a2"))
    assert fleet.view(stored, Selection(window="15m")).totals.devices == 2


def test_what_workloads_did_is_read_once_for_all_devices_and_again_when_there_is_more(
    store_root: Path, tmp_path: Path, clock_ns: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(store_root, tmp_path, dirs_exist_ok=True)
    stored, read = Stored(tmp_path, clock_ns=clock_ns), list[int]()
    tokens_of = fleet._tokens

    def counted(store: Store, start_ns: int, end_ns: int, every_s: int) -> pl.DataFrame:
        read.append(start_ns)
        return tokens_of(store, start_ns, end_ns, every_s)

    monkeypatch.setattr(fleet, "_tokens", counted)
    own, other = (Selection(window="15m", devices=(device,)) for device in ("GPU-a1", "GPU-a2"))
    whole = fleet.view(stored, Selection(window="15m"))
    assert fleet.view(stored, own).totals.tokens == whole.totals.tokens
    assert fleet.view(stored, other).totals.tokens is None
    assert len(read) == 1
    work = frames.scan(tmp_path, "workload_samples").sort("time").tail(1).collect()
    more = work.with_columns(pl.col("time").dt.offset_by("500ms"), pl.col("tokens_out") + 1e6)
    stored.store().write("workload_samples", more, writer="more")
    assert fleet.view(stored, own).totals.tokens == pytest.approx((whole.totals.tokens or 0.0) + 1e6)
    assert len(read) == 2


def test_a_store_that_is_not_there_or_empty_shows_nothing_and_is_not_made(tmp_path: Path) -> None:
    root = tmp_path / "later"
    stored = Stored(root)
    assert fleet.view(stored, Selection()).table.is_empty()
    assert fleet.known(stored, Selection()).newest is None
    assert not root.exists()
    Store.create(root)
    assert fleet.view(stored, Selection()).totals.energy_j is None


def test_what_is_known_is_what_the_window_holds(stored: Stored) -> None:
    known = fleet.known(stored, Selection(window="15m", hosts=("node-a1",)))
    assert known.sites == ("dallas", "oslo")
    assert known.hosts == ("node-a1", "node-a2", "node-b1")
    assert known.devices == ("GPU-a1", "GPU-a2", "TPU-b1")
    assert str(known.newest).startswith("2026-03-04 11:59:59")


@pytest.mark.parametrize("window", WINDOWS)
def test_buckets_are_few_and_divide_the_window(window: str) -> None:
    step = bucket_s(WINDOWS[window])
    assert WINDOWS[window] % step == 0
    assert WINDOWS[window] / step <= BUCKETS


def test_no_bucket_is_shorter_than_the_time_between_two_readings(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for device, watts in (("a1", 300.0), ("a2", 200.0)):
        store.write("device_samples", wandering(device, "node-a", DAY - 7200, DAY, watts))
    view = fleet.view(Stored(tmp_path, clock_ns=lambda: DAY * 10**9), Selection(window="1h"))
    assert view.every_s == 60
    assert view.utilization.height == 60


def test_a_large_fleet_has_wider_buckets_but_not_a_few() -> None:
    assert bucket_s(3600) == bucket_s(3600, devices=100) == 15
    assert bucket_s(3600, devices=1000) == 60
    assert bucket_s(3600, devices=10**6) == 60
