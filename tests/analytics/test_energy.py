"""Energy against a loop that anyone can read, on generated samples; and each trap by name."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from analytics.energy import energy, energy_from_counters, integrate_power, over_time, power_over_time, seconds
from analytics.steps import ordered
from analytics.steps import readings as readings_of

START = datetime(2026, 3, 1)
TYPES = {
    "device": pl.String(),
    "source": pl.String(),
    "host": pl.String(),
    "power_method": pl.String(),
    "time": pl.Datetime("ns"),
    "power_w": pl.Float64(),
    "energy_j": pl.Float64(),
}


def frame(rows: list[dict[str, Any]]) -> pl.LazyFrame:
    """Rows with `s` (seconds from START) for time, and what else they say."""
    told = [{**{k: v for k, v in row.items() if k != "s"}, "time": START + timedelta(seconds=row["s"])} for row in rows]
    given_ = [{"device": "gpu", "source": "nvml", "host": "node", "power_method": "average", **row} for row in told]
    return pl.LazyFrame(given_, schema=TYPES)


Rows = list[dict[str, Any]]
Lines = dict[tuple[str, ...], list[tuple[float, float]]]


def steady(
    power: float, until: int, *, every: int = 10, counter: float | None = None, **more: Any
) -> list[dict[str, Any]]:
    """A device that draws *power*, with a counter that begins at *counter* where there is one."""
    rows = []
    for s in range(0, until + 1, every):
        row = {"s": s, "power_w": power, **more}
        rows.append(row if counter is None else {**row, "energy_j": counter + power * s})
    return rows


def only(found: pl.LazyFrame) -> dict[str, Any]:
    (row,) = found.collect().to_dicts()
    return row


# ------------------------------------------------------------------------------------ against a naive loop

moments = st.lists(st.integers(0, 120), max_size=25)
watts = st.none() | st.floats(0, 900)
joules = st.none() | st.floats(0, 50_000)


@st.composite
def readings(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for device in draw(st.sampled_from([["a"], ["a", "b"]])):
        for source in draw(st.sampled_from([["x"], ["x", "y"]])):
            rows += [
                {"device": device, "source": source, "s": s, "power_w": draw(watts), "energy_j": draw(joules)}
                for s in draw(moments)
            ]
    return draw(st.permutations(rows))


def in_order(rows: Rows, column: str, keys: tuple[str, ...]) -> Lines:
    """For each key the readings by time, the last of those at one time, without the unread."""
    latest: dict[tuple[Any, ...], float | None] = {}
    for row in rows:
        latest[*(row[key] for key in keys), row["s"]] = row[column]
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {tuple(row[key] for key in keys): [] for row in rows}
    for place in sorted(latest, key=lambda place: place[-1]):
        if latest[place] is not None:
            found[place[:-1]].append((place[-1], latest[place]))  # type: ignore[arg-type]
    return found


@settings(max_examples=60, deadline=None)
@given(rows=readings(), max_gap_s=st.sampled_from([5.0, 10.0, 40.0]))
def test_integrating_power_equals_a_naive_loop(rows: list[dict[str, Any]], max_gap_s: float) -> None:
    expected = {}
    for (device, source), line in in_order(rows, "power_w", ("device", "source")).items():
        joules_, covered = 0.0, 0.0
        for (t0, p0), (t1, p1) in pairwise(line):
            if t1 - t0 <= max_gap_s:
                joules_ += (p0 + p1) / 2 * (t1 - t0)
                covered += t1 - t0
        expected[device, source] = (joules_ if covered else None, covered)
    found = integrate_power(frame(rows), keys=("device", "source"), max_gap_s=max_gap_s).collect()
    assert found.height == len(expected)
    for device, source, joules_, covered in found.select("device", "source", "energy_j", "covered_s").iter_rows():
        assert (joules_, covered) == (
            pytest.approx(expected[device, source][0]),
            pytest.approx(expected[device, source][1]),
        )


@settings(max_examples=60, deadline=None)
@given(rows=readings(), max_gap_s=st.sampled_from([15.0, 3600.0]))
def test_differencing_counters_equals_a_naive_loop(rows: list[dict[str, Any]], max_gap_s: float) -> None:
    expected = {}
    for key, line in in_order(rows, "energy_j", ("device", "source")).items():
        joules_, covered, resets = 0.0, 0.0, 0
        for (t0, e0), (t1, e1) in pairwise(line):
            resets += e1 < e0
            if e1 >= e0 and t1 - t0 <= max_gap_s and e1 - e0 <= 50_000 * (t1 - t0):
                joules_ += e1 - e0
                covered += t1 - t0
        expected[key] = (joules_ if covered else None, covered, resets)
    found = energy_from_counters(frame(rows), max_gap_s=max_gap_s).collect()
    assert found.height == len(expected)
    for device, source, *values in found.select("device", "source", "energy_j", "covered_s", "resets").iter_rows():
        want = expected[device, source]
        assert values[0] == (None if want[0] is None else pytest.approx(want[0], abs=1e-6))
        assert values[1:] == [pytest.approx(want[1]), want[2]]


@settings(max_examples=60, deadline=None)
@given(rows=readings(), by=st.sampled_from(["7s", "30s", "1m"]))
def test_windows_add_up_to_the_whole_where_one_source_reports(rows: list[dict[str, Any]], by: str) -> None:
    one = frame([row for row in rows if row["source"] == "x"])
    whole = energy(one).collect()
    parts = energy(one, by=by).group_by("device").agg(pl.col("energy_j", "covered_s", "counter_j").sum()).collect()
    both = whole.join(parts, on="device", suffix="_parts")
    assert both.height == whole.height == parts.height
    for name in ("energy_j", "covered_s", "counter_j"):
        for all_, sum_ in both.select(pl.col(name).fill_null(0.0), f"{name}_parts").iter_rows():
            assert sum_ == pytest.approx(all_, rel=1e-9, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=readings())
def test_the_order_of_rows_does_not_matter(rows: list[dict[str, Any]]) -> None:
    once = {(row["device"], row["source"], row["s"]): row for row in rows}
    forth, back = list(once.values()), list(once.values())[::-1]
    assert energy(frame(forth)).collect().equals(energy(frame(back)).collect())


# ------------------------------------------------------------------------------------ edge cases


@pytest.mark.parametrize("by", [None, "1m"])
def test_no_rows_give_no_rows(by: str | None) -> None:
    assert energy(frame([]), by=by).collect().is_empty()
    assert integrate_power(frame([])).collect().is_empty()
    assert energy_from_counters(frame([])).collect().is_empty()
    assert power_over_time(frame([]), every_s=60).collect().is_empty()


def test_one_row_covers_nothing_and_is_no_zero() -> None:
    found = only(energy(frame([{"s": 0, "power_w": 100.0, "energy_j": 5.0}])))
    assert (found["energy_j"], found["covered_s"], found["power_mean_w"]) == (None, 0.0, None)


def test_columns_that_a_frame_lacks_are_taken_as_unread() -> None:
    bare = frame(steady(100.0, 60)).select("device", "time", "power_w")
    assert only(energy(bare))["energy_j"] == 6000.0
    assert only(integrate_power(bare))["energy_j"] == 6000.0


def test_times_in_microseconds_are_the_same_times() -> None:
    coarse = frame(steady(100.0, 60, counter=0.0)).with_columns(pl.col("time").cast(pl.Datetime("us")))
    assert only(energy(coarse))["energy_j"] == 6000.0


# ------------------------------------------------------------------------------------ traps


def test_a_gap_beyond_the_limit_adds_nothing_to_power_and_says_so() -> None:
    rows = [row for row in steady(100.0, 300) if not 100 < row["s"] < 200]
    found = only(energy(frame(rows)))
    assert (found["energy_j"], found["covered_s"]) == (20_000.0, 200.0)


def test_a_counter_bridges_a_gap_in_the_reading() -> None:
    rows = [row for row in steady(100.0, 300, counter=7.0) if not 100 < row["s"] < 200]
    found = only(energy(frame(rows)))
    assert (found["energy_j"], found["covered_s"], found["power_method"]) == (30_000.0, 300.0, "counter")


def test_a_reset_is_no_negative_energy_and_power_stands_in_for_the_step() -> None:
    rows = steady(100.0, 300, counter=50_000.0)
    for row in rows[15:]:
        row["energy_j"] = 100.0 * (row["s"] - 145)
    found = only(energy(frame(rows)))
    assert found["energy_j"] == pytest.approx(30_000.0)
    assert found["covered_s"] == 300.0
    assert found["counter_j"] == pytest.approx(29_000.0)
    assert only(energy_from_counters(frame(rows)))["resets"] == 1


def test_a_rise_that_no_device_can_draw_is_not_counted() -> None:
    rows = steady(100.0, 100, counter=0.0)
    for row in rows[5:]:
        row["energy_j"] += 1e12
    assert only(energy(frame(rows)))["energy_j"] == pytest.approx(10_000.0)
    assert only(energy_from_counters(frame(rows)))["energy_j"] == pytest.approx(9_000.0)


@pytest.mark.parametrize(("every", "gap_s"), [(1, 10.0), (15, 52.5), (30, 105.0), (60, 210.0), (200, 300.0)])
def test_what_is_a_gap_follows_from_how_often_a_device_is_read(every: int, gap_s: float) -> None:
    found = only(energy(frame(steady(100.0, 30 * every, every=every))))
    assert found["max_gap_s"] == gap_s
    assert (found["energy_j"], found["covered_s"]) == (pytest.approx(3000.0 * every), pytest.approx(30.0 * every))


def test_a_gap_is_each_devices_own_and_can_be_given() -> None:
    rows = steady(100.0, 600, every=5, device="quick") + steady(100.0, 600, every=30, device="slow")
    rows = [row for row in rows if not 300 < row["s"] < 360]
    found = energy(frame(rows)).collect()
    assert found["max_gap_s"].to_list() == [17.5, 105.0]
    assert found["covered_s"].to_list() == pytest.approx([540.0, 600.0])
    assert energy(frame(rows), max_gap_s=20.0).collect()["covered_s"].to_list() == [540.0, 0.0]


def test_a_few_readings_do_not_say_how_often_a_device_is_read() -> None:
    assert only(energy(frame(steady(100.0, 120, every=60))))["covered_s"] == 0.0


def test_power_that_is_read_seldom_has_a_gap_of_its_own() -> None:
    rows = [
        row if row["s"] % 30 == 0 else {k: v for k, v in row.items() if k != "power_w"} for row in steady(100.0, 600)
    ]
    found = only(energy(frame(rows)))
    assert (found["max_gap_s"], found["energy_j"], found["covered_s"]) == (105.0, 60_000.0, 600.0)


@pytest.mark.parametrize("hours", [[0, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize("overlap", [0, 20])
def test_a_series_in_several_segments_is_one_series(hours: list[int], overlap: int) -> None:
    line = {name: steady(power, 10_800, device=name, counter=0.0) for name, power in (("a", 100.0), ("b", 300.0))}
    segments = [
        [row for name in ("a", "b") for row in line[name] if 0 <= row["s"] - 3600 * hour <= 3600 + overlap]
        for hour in hours
    ]
    found = energy(frame([row for segment in segments for row in segment]), by="5m").collect()
    assert found.equals(energy(frame(line["a"] + line["b"]), by="5m").collect())
    assert found["energy_j"].sum() == pytest.approx(400.0 * 10_800)


@settings(max_examples=60, deadline=None)
@given(rows=readings(), cut=st.integers(0, 60))
def test_readings_in_order_are_those_sorted_whatever_runs_they_come_in(rows: list[dict[str, Any]], cut: int) -> None:
    table = readings_of(frame(rows)).collect()
    runs = pl.concat([table[cut:].sort("device", "source", "time", maintain_order=True), table[:cut]])
    expected = runs.unique(["device", "source", "time"], keep="last", maintain_order=True)
    assert ordered(runs).rows.sort("device", "source", "time").equals(expected.sort("device", "source", "time"))
    found = ordered(runs)
    assert found.series.tolist() == found.rows.select(pl.struct("device", "source").rle_id()).to_series().to_list()
    assert found.rows.select(pl.struct("device", "source")).to_series().n_unique() == found.first.sum()


@pytest.mark.parametrize("wrong", [0.0, 1000.0])
def test_a_counter_that_stands_still_or_has_another_unit_is_not_used(wrong: float) -> None:
    rows = [{**row, "energy_j": 5.0 + wrong * row["power_w"] * row["s"]} for row in steady(40.0, 300)]
    found = only(energy(frame(rows)))
    assert found["energy_j"] == 12_000.0
    assert found["power_method"] == "average"
    assert found["counter_j"] == 0.0
    assert found["agreement_ratio"] == pytest.approx(wrong)


def test_counters_that_are_read_seldom_share_their_rise_by_time() -> None:
    rows = [
        row if row["s"] % 60 == 0 else {k: v for k, v in row.items() if k != "energy_j"}
        for row in steady(100.0, 600, counter=0.0)
    ]
    found = energy(frame(rows), by="30s").collect()
    assert found["energy_j"].to_list() == [pytest.approx(3000.0)] * 20
    assert found["counter_j"].sum() == pytest.approx(60_000.0)


def test_several_sources_of_a_device_are_never_added() -> None:
    rows = steady(100.0, 600, source="nvml", counter=0.0) + steady(101.0, 600, source="dcgm")
    found = only(energy(frame(rows)))
    assert (found["energy_j"], found["source"]) == (60_000.0, "nvml")


def test_the_source_that_covers_the_hour_is_chosen_before_the_better_one() -> None:
    rows = steady(100.0, 60, source="nvml", counter=0.0) + steady(101.0, 3000, source="dcgm")
    assert only(energy(frame(rows)))["source"] == "dcgm"


def test_a_hand_over_from_one_source_to_another_loses_no_hours() -> None:
    rows = steady(100.0, 7200, source="old") + [
        {**row, "s": row["s"] + 7200} for row in steady(100.0, 7200, source="new")
    ]
    assert only(energy(frame(rows)))["covered_s"] == 14_400.0


def test_modelled_watts_come_last_and_are_told_apart() -> None:
    modelled = steady(90.0, 600, source="estimate", power_method="modelled")
    found = only(energy(frame(modelled)))
    assert (found["modelled_j"], found["modelled_ratio"], found["power_method"]) == (54_000.0, 1.0, "modelled")
    both = only(energy(frame(modelled + steady(100.0, 560, source="zzz"))))
    assert (both["source"], both["modelled_ratio"]) == ("zzz", 0.0)


def test_partitions_are_not_added_to_their_parents() -> None:
    rows = [row for device in ("gpu", "mig-1", "mig-2") for row in steady(300.0, 600, device=device)]
    devices = pl.LazyFrame({"device": ["gpu", "mig-1", "mig-2"], "parent": [None, "gpu", "gpu"]})
    assert only(energy(frame(rows), devices=devices))["device"] == "gpu"
    (power,) = power_over_time(frame(rows), every_s=3600, devices=devices).collect()["power_mean_w"]
    assert power == pytest.approx(300.0)


def test_a_step_is_shared_between_the_windows_it_crosses() -> None:
    rows = [{"s": s, "power_w": 100.0} for s in (56, 64)]
    found = energy(frame(rows), by="1m").collect()
    assert found["energy_j"].to_list() == [400.0, 400.0]
    assert found["window"].to_list() == [START, START + timedelta(minutes=1)]


@pytest.mark.parametrize("bad", ["5", "m", "0m", "5 m", "-1h", "1y", ""])
def test_a_window_that_is_none_is_refused_by_name(bad: str) -> None:
    with pytest.raises(ValueError, match="5m"):
        seconds(bad)


# ------------------------------------------------------------------------------------ over time


def test_the_fleets_maximum_is_of_one_moment_not_the_sum_of_maxima() -> None:
    rows = []
    for s in range(0, 301, 10):
        high = (s // 100) % 2 == 0
        rows += [{"device": "a", "s": s, "power_w": 700.0 if high else 100.0}]
        rows += [{"device": "b", "s": s, "power_w": 100.0 if high else 700.0}]
    found = power_over_time(frame(rows), every_s=300).collect().row(0, named=True)
    assert found["power_max_w"] == pytest.approx(800.0, rel=0.02)
    assert found["power_min_w"] == pytest.approx(800.0, rel=0.02)
    together = power_over_time(frame([row for row in rows if row["device"] == "a"]), every_s=300).collect()
    assert together.row(0, named=True)["power_max_w"] == pytest.approx(700.0, rel=0.05)


def test_a_late_reading_is_no_dip() -> None:
    rows = steady(500.0, 300, device="a") + [row for row in steady(500.0, 300, device="b") if row["s"] % 30 == 0]
    found = power_over_time(frame(rows), every_s=300, max_gap_s=60).collect().row(0, named=True)
    assert (found["power_min_w"], found["power_max_w"]) == (pytest.approx(1000.0), pytest.approx(1000.0))
    assert found["devices"] == 2


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("fleet", {"fleet": 300.0}),
        ("site", {"north": 100.0, "unknown": 200.0}),
        ("host", {"n1": 100.0, "n2": 200.0}),
        ("device", {"a": 100.0, "b": 200.0}),
    ],
)
def test_power_is_grouped_as_asked(by: Any, groups: dict[str, float]) -> None:
    rows = steady(100.0, 300, device="a", host="n1") + steady(200.0, 300, device="b", host="n2")
    found = power_over_time(frame(rows), every_s=300, by=by, hosts={"n1": "north"}).collect()
    first = found.filter(pl.col("window") == START)
    assert dict(first.select("group", "power_mean_w").iter_rows()) == pytest.approx(groups)
    assert first["covered_ratio"].to_list() == [1.0] * len(groups)


def test_coverage_falls_with_what_was_not_read() -> None:
    found = power_over_time(frame(steady(100.0, 150)), every_s=300).collect().row(0, named=True)
    assert (found["covered_ratio"], found["power_mean_w"]) == (0.5, 100.0)


def test_parts_of_a_fleet_come_to_what_the_whole_comes_to() -> None:
    rows = [
        row | {"host": f"n{n // 2}", "utilization_ratio": 0.5} if row["s"] % (n + 3) else row | {"host": f"n{n // 2}"}
        for n in range(5)
        for row in steady(100.0 + n, 900 + 70 * n, device=str(n), every=5 + n, counter=0.0 if n % 2 else None)
    ]
    samples = pl.LazyFrame(
        [{**{k: v for k, v in row.items() if k != "s"}, "time": START + timedelta(seconds=row["s"])} for row in rows],
        schema={"device": pl.String(), "host": pl.String(), "time": pl.Datetime("ns"), "power_w": pl.Float64(),
                "energy_j": pl.Float64(), "utilization_ratio": pl.Float64()},
    )  # fmt: skip
    whole = readings_of(samples).collect()
    start_ns = whole["time"].to_physical().min()
    assert isinstance(start_ns, int)
    parts = [whole.filter(pl.col("device") < "3"), whole.clear(), whole.filter(pl.col("device") >= "3")]
    groups: Any = ("fleet", "host", "device")
    found = over_time(parts, every_s=300, by=groups, within_ns=(start_ns, start_ns + 1500 * 10**9))
    for group in groups:
        expected = power_over_time(samples, every_s=300, by=group).collect()
        assert_frame_equal(found.power[group], expected)
        assert expected.height > 3
    assert_frame_equal(found.devices, energy(samples, by="5m").collect())
    read = samples.with_columns(window=pl.col("time").dt.truncate("5m")).group_by("device", "window")
    busy = read.agg(pl.col("utilization_ratio").mean()).drop_nulls().sort("device", "window").collect()
    assert_frame_equal(found.utilization.select("device", "window", "utilization_ratio").sort("device", "window"), busy)


def test_a_group_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="fleet, site, host, device"):
        power_over_time(frame(steady(1.0, 10)), every_s=60, by="rack").collect()  # type: ignore[arg-type]
