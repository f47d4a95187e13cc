"""Energy from rollups is the energy of the readings that they were made of, whatever these are."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import cli
from analytics.energy import Group, energy, of_boards, over_time, regrouped
from analytics.frames import scan, spliced
from analytics.rollups import energy_of_rollups, windows_of_rollups
from analytics.steps import readings as raw
from collector.gaps import GAP_S
from collector.store import Store
from collector.store.rollups import RULES, Progress

NS = 1_000_000_000
DAY_NS = 1_772_323_200 * NS
HOUR_S = 3600


def readings(device: str, seconds: Any, seed: int, *, source: str = "s", method: str = "average") -> pl.DataFrame:
    """Power that wanders, a counter that follows it and is reset once, and values that are missing."""
    random = np.random.default_rng(seed)
    n = len(seconds)
    power = np.clip(300 + np.cumsum(random.normal(0, 8, n)), 50, 700)
    joules = np.cumsum(power * np.diff(seconds, prepend=seconds[0])) + 1e6
    joules[n // 2 :] -= joules[n // 2] - 7.0
    return pl.DataFrame(
        {
            "device": device, "source": source, "host": f"h-{device}", "power_method": method, "power_scope": "device",
            "time": DAY_NS + np.round(np.asarray(seconds) * NS).astype(np.int64),
            "power_w": np.where(random.random(n) < 0.03, np.nan, power),
            "energy_j": np.where(random.random(n) < 0.03, np.nan, joules),
            "temperature_c": 40.0 + power / 20, "utilization_ratio": np.clip(power / 700, 0, 1),
        }
    ).fill_nan(None)  # fmt: skip


def seconds(until: float, every: float, seed: int, *, jitter: float = 0.2, gaps: int = 12) -> Any:
    random = np.random.default_rng(seed)
    steps = np.arange(0, until, every) + random.uniform(-jitter, jitter, len(np.arange(0, until, every)))
    for begin in random.uniform(0, until, gaps):
        steps = steps[(steps < begin) | (steps > begin + random.choice([25, 70, 400, 4000]))]
    return np.sort(np.abs(steps))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Thirty hours: a day that is over and folded, and hours of the next."""
    store = Store.create(tmp_path_factory.mktemp("rolled") / "store")
    until = 30 * HOUR_S
    parts = [
        readings("a", seconds(until, 10, 1), 1),
        readings("b", np.arange(0, until, 10.0), 2),  # readings on the edges of windows
        readings("c", seconds(until, 60, 3), 3, method="modelled"),
        readings("d", seconds(until, 7, 4), 4),
        readings("d", seconds(until, 15, 5), 5, source="other"),
        readings("stuck", seconds(until, 10, 6), 6).with_columns(energy_j=5.0),
        readings("nothing", seconds(until, 10, 17), 7).with_columns(pl.lit(None).alias("energy_j")),
        readings("late", seconds(until, 10, 8)[8000:], 8),
        readings("part", seconds(until, 10, 9), 9),
    ]
    store.write("device_samples", pl.concat(parts))
    told = {"device": ["part"], "parent": ["a"], "time": [DAY_NS]}
    store.write("devices", pl.DataFrame(told))
    assert store.roll_up(DAY_NS + until * NS) > 5
    return store


def from_rollups(store: Store, by: str | None, start_ns: int | None = None, end_ns: int | None = None) -> pl.DataFrame:
    window_s = 300 if by in {"5m", "30m"} else 3600
    found = spliced(store, start_ns, end_ns, window_s=window_s)
    assert found is not None
    return energy_of_rollups(found, by=by, devices=scan(store, "devices")).collect()


def from_readings(store: Store, by: str | None, start_ns: int | None = None, end_ns: int | None = None) -> pl.DataFrame:
    samples = scan(store, "device_samples", start_ns, end_ns)
    return energy(samples, by=by, devices=scan(store, "devices")).collect()


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Rollups are rounded to microseconds and microjoules; a gap is told from each hour by itself."""
    names = [name for name in expected.columns if name not in {"max_gap_s", "power_mean_w"}]
    assert_frame_equal(found.select(names), expected.select(names), rel_tol=1e-9, abs_tol=1e-5)
    assert_frame_equal(found.select("power_mean_w"), expected.select("power_mean_w"), rel_tol=1e-4)


@pytest.mark.parametrize("by", [None, "5m", "30m", "1h", "3h", "1d"])
def test_energy_from_rollups_is_that_of_the_readings(store: Store, by: str | None) -> None:
    found, expected = from_rollups(store, by), from_readings(store, by)
    assert_same(found, expected)
    assert expected.height >= 7
    gaps = list(zip(found["max_gap_s"], expected["max_gap_s"], strict=True))
    # An hour with few readings tells nothing of the interval.
    assert all(told == pytest.approx(gap, rel=0.1) or told == GAP_S for told, gap in gaps)
    assert sum(told != pytest.approx(gap, rel=0.1) for told, gap in gaps) <= len(gaps) / 100


@pytest.mark.parametrize("every_s", [600, 3600])
def test_windows_of_hosts_and_devices_from_rollups_are_those_of_the_readings(store: Store, every_s: int) -> None:
    start_ns, end_ns = DAY_NS, DAY_NS + 29 * HOUR_S * NS + 777 * NS
    known, hosts = scan(store, "devices"), {"h-a": "one", "h-b": "one"}
    found = spliced(store, start_ns, end_ns, window_s=300)
    assert found is not None
    told = windows_of_rollups(found, every_s=every_s, within_ns=(start_ns, end_ns), devices=known)
    rows = raw(of_boards(scan(store, "device_samples", start_ns, end_ns), known)).collect()
    expected = over_time([rows], every_s=every_s, by=("host", "device"), within_ns=(start_ns, end_ns), devices=known)
    sums = ["device", "window", "host", "energy_j", "covered_s", "counter_j", "modelled_j", "power_min_w"]
    sums.append("power_max_w")
    assert_frame_equal(told.devices.select(sums), expected.devices.select(sums), rel_tol=1e-9, abs_tol=1e-5)
    for by in ("fleet", "site", "host"):
        some, all_ = (regrouped(one, by=by, hosts=hosts).sort("window", "group") for one in (told, expected))  # type: ignore[arg-type]
        same = ["window", "group", "power_mean_w", "devices", "covered_ratio", "modelled_ratio"]
        assert_frame_equal(some.select(same), all_.select(same), rel_tol=1e-6)
        # The mean of five minutes is between the least and the most of the readings; beside gaps, about so.
        assert (some["power_max_w"] <= all_["power_max_w"] * 1.01).all()
        assert (some["power_min_w"] >= all_["power_min_w"] * 0.99).all()
        assert (some["power_max_w"] > some["power_mean_w"]).mean() > 0.5
    keys = ["device", "window"]
    used, busy = (one.utilization.sort(keys) for one in (told, expected))
    assert_frame_equal(used.select(keys), busy.select(keys))
    assert used["utilization_ratio"].to_list() == pytest.approx(busy["utilization_ratio"].to_list(), rel=0.05)


@pytest.mark.parametrize("by", ["fleet", "site", "host"])
def test_groups_made_of_hosts_are_those_worked_out_at_once(store: Store, by: Group) -> None:
    rows, hosts = raw(scan(store, "device_samples")).collect(), {"h-a": "one", "h-b": "one"}
    expected = over_time([rows], every_s=600, by=(by,), hosts=hosts).power[by]
    found = regrouped(over_time([rows], every_s=600, by=("host",)), by=by, hosts=hosts)
    assert_frame_equal(found, expected, rel_tol=1e-9)


def test_hours_that_have_new_readings_are_told_from_them(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    rows = readings("a", np.arange(0, 10.0 * HOUR_S, 10), 1)
    store.write("device_samples", rows[:2880])
    store.roll_up(DAY_NS + 8 * HOUR_S * NS)
    assert store.rolled_up("device_samples") == (DAY_NS, DAY_NS + 8 * HOUR_S * NS)
    store.write("device_samples", rows[2880:])
    assert store.rolled_up("device_samples") == (DAY_NS, DAY_NS + 7 * HOUR_S * NS)
    assert_frame_equal(from_rollups(store, "1h"), from_readings(store, "1h"), rel_tol=1e-9)


def test_a_window_within_the_rollups_is_spliced_of_hours_and_readings(store: Store) -> None:
    start_ns, end_ns = DAY_NS + 5000 * NS, DAY_NS + 77_777 * NS
    found, expected = (of(store, "5m", start_ns, end_ns) for of in (from_rollups, from_readings))
    assert_same(found, expected)


def test_days_whose_readings_have_expired_are_still_told(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", readings("a", np.arange(0, 26.0 * HOUR_S, 10), 1))
    expected = from_readings(store, "1h")
    store.roll_up(DAY_NS + 60 * HOUR_S * NS)
    for segment in store.segments("device_samples"):
        if segment.date == date(2026, 3, 1):
            segment.path.unlink()
    assert_frame_equal(from_rollups(store, "1h"), expected, rel_tol=1e-9)


def test_rollups_by_older_rules_are_made_again(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", readings("a", np.arange(0, 5.0 * HOUR_S, 10), 1))
    store.roll_up(DAY_NS + 5 * HOUR_S * NS)
    progress = Progress(store.root, "device_rollups")
    progress.path.write_text(progress.path.read_text().replace(f'"rules": {RULES}', '"rules": 1'))
    assert store.rolled_up("device_samples") is None
    assert store.roll_up(DAY_NS + 5 * HOUR_S * NS) == 5


def test_a_store_without_rollups_is_told_from_readings(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", readings("a", np.arange(0, 5.0 * HOUR_S, 10), 1))
    assert spliced(store) is None


def test_the_command_gives_the_same_with_rollups_as_without(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", readings("a", np.arange(0, 5.0 * HOUR_S, 10), 1))
    words = ["energy", "--store", str(store.root), "--by", "1h", "-o", "csv"]
    before = pl.read_csv(CliRunner().invoke(cli.app, words).stdout.encode())
    store.roll_up(DAY_NS + 5 * HOUR_S * NS)
    after = pl.read_csv(CliRunner().invoke(cli.app, words).stdout.encode())
    assert_frame_equal(after, before, rel_tol=1e-9)
    assert after.height == 5


def test_days_before_a_moment_wait_and_are_rolled_up_the_next_time(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", readings("a", np.arange(0, 53.0 * HOUR_S, 60), 1))
    now_ns = DAY_NS + 53 * HOUR_S * NS

    def days() -> set[int]:
        times = scan(store, "device_rollups").select(pl.col("time").to_physical()).collect()["time"]
        return set(((times - DAY_NS) // (24 * HOUR_S * NS)).to_list())

    store.roll_up(now_ns, start_ns=DAY_NS + 30 * HOUR_S * NS)
    assert days() == {1, 2}
    store.roll_up(now_ns)
    assert days() == {0, 1, 2}
    assert store.roll_up(now_ns) == 0
    assert_same(from_rollups(store, "1h"), from_readings(store, "1h"))


def test_rollups_of_an_earlier_shape_are_read_and_tell_nothing_that_they_do_not_hold(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    old = {
        "device": "a", "source": "s", "window_s": 3600, "time": [DAY_NS - 24 * HOUR_S * NS], "rows": 360,
        "covered_s": 3590.0, "power_mean_w": 300.0, "power_max_w": 310.0, "energy_increase_j": 1e6,
    }  # fmt: skip
    yesterday = date.fromtimestamp(DAY_NS // NS - 12 * HOUR_S)
    # What a day was whose readings have expired since.
    store.replace("device_rollups", "rollup", pl.DataFrame(old), first=0, last=23, only=[yesterday])
    store.write("device_samples", readings("a", np.arange(0, 5.0 * HOUR_S, 10), 1))
    store.roll_up(DAY_NS + 5 * HOUR_S * NS)
    (row,) = (
        scan(store, "device_rollups").filter(pl.col("rows") == 360, pl.col("power_max_w") == 310.0).collect().to_dicts()
    )
    assert (row["energy_j"], row["power_sketch_w"], row["energy_increase_j"]) == (None, None, 1e6)
    assert_same(from_rollups(store, "1h"), from_readings(store, "1h"))
    result = CliRunner().invoke(cli.app, ["percentiles", "--store", str(store.root), "-o", "csv"])
    read = scan(store, "device_samples").select(pl.col("power_w").count()).collect().item()
    assert (result.exit_code, result.stdout.splitlines()[1].split(",")[:2]) == (0, ["a", str(read)])
