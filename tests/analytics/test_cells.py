"""Cells are the steps of a device, shared at edges and summed between them: against each step by itself."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics import cells as cells_module
from analytics.attribution import account, attribute, held_parts, lines_of, partition_shares
from analytics.cells import CELLS, cells
from analytics.efficiency import energy_in
from analytics.energy import device_cells, device_steps, energy, over_time
from analytics.steps import ordered, readings

START = datetime(2026, 3, 1, 0, 30)
NS = pl.Datetime("ns")
TEXT = pl.String()


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


SECONDS = st.integers(0, 4000)
READ = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from("xy"), SECONDS, st.none() | st.floats(0, 2000),
        st.none() | st.integers(0, 10**6), st.none() | st.sampled_from([0.0, 0.005, 0.5, 1.0]),
        st.sampled_from(["average", "modelled"]),
    ), max_size=40,
)  # fmt: skip
EDGES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-100, 4100)), max_size=10)
NAMES = ("device", "source", "time", "power_w", "energy_j", "utilization_ratio", "power_method")


def measured(rows: list[Any]) -> pl.LazyFrame:
    told = [dict(zip(NAMES, (d, s, at(t), *rest), strict=True)) | {"host": "h"} for d, s, t, *rest in rows]
    types = {name: pl.Float64() for name in NAMES[3:6]} | {"device": TEXT, "source": TEXT, "time": NS}
    frame = pl.LazyFrame(told, schema={**types, "power_method": TEXT, "host": TEXT})
    return frame.unique(["device", "source", "time"], keep="last", maintain_order=True)


def edges_of(edges: list[tuple[str, int]]) -> pl.DataFrame:
    return pl.DataFrame([(d, at(s)) for d, s in edges], orient="row", schema={"device": TEXT, "edge": NS})


SUMS = ("energy_j", "covered_s", "counter_j", "modelled_j", "error_j", "busy_s", "busy_covered_s", "idle_j", "idle_s",
        "idle_error_j")  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(READ, EDGES, st.sampled_from([(), (300.0,), (7.0,), (7200.0, 700.0)]))
def test_between_edges_cells_hold_what_the_steps_do(
    rows: list[Any], edges: list[tuple[str, int]], lengths_s: tuple[float, ...]
) -> None:
    samples = measured(rows)
    found = device_cells(readings(samples).collect(), edges=edges_of(edges), lengths_s=lengths_s)
    steps = device_steps(samples).collect()
    for name in SUMS:
        assert found[name].sum() == pytest.approx(steps[name].sum(), rel=1e-9, abs=1e-6)
    for device in "ab":
        cuts = sorted({second for name, second in edges if name == device} | {-200, 4200})
        spans = pl.LazyFrame(
            [{"device": device, "start": at(a), "end": at(b), "share": 1.0} for a, b in pairwise(cuts)],
            schema={"device": TEXT, "start": NS, "end": NS, "share": pl.Float64},
        )
        want, have = (
            energy_in(spans, some, sums=SUMS).sort("start").collect() for some in (steps.lazy(), found.lazy())
        )
        assert have.select("start", "end").equals(want.select("start", "end"))
        for name in SUMS:
            expected = want[name].fill_null(0.0).to_list()
            assert have[name].fill_null(0.0).to_list() == pytest.approx(expected, rel=1e-9, abs=1e-6)


SPANS = st.lists(
    st.tuples(st.sampled_from("vw"), st.sampled_from("abp"), SECONDS, st.none() | SECONDS, st.floats(0.01, 1.5)),
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(READ, SPANS, st.sampled_from([None, "5m", "7s"]), st.booleans())
def test_attribution_in_one_pass_is_that_of_every_step(
    rows: list[Any], spans: list[Any], by: str | None, active: bool
) -> None:
    told = pl.LazyFrame(
        [("a", None, None), ("b", None, None), ("p", "a", "3g.40gb"), ("q", "a", "1g.10gb")], orient="row",
        schema={"device": TEXT, "parent": TEXT, "partition": TEXT},
    ).with_columns(model=pl.lit("H100"), time=pl.lit(at(0), NS))  # fmt: skip
    samples = measured(rows)
    if active:
        of_parts = [
            {"device": part, "source": "x", "time": at(s), "utilization_ratio": (s % 7) / 7, "host": "h"}
            for part in "pq"
            for s in range(0, 4000, 150)
        ]
        types = {"device": TEXT, "source": TEXT, "time": NS, "utilization_ratio": pl.Float64, "host": TEXT}
        samples = pl.concat([samples, pl.LazyFrame(of_parts, schema=types)], how="diagonal")
    allocations = pl.LazyFrame(
        [{"workload": w, "device": d, "start": at(a), "end": None if b is None else at(b), "time": at(a), "share": s}
         for w, d, a, b, s in spans],
        schema={"workload": TEXT, "device": TEXT, "start": NS, "end": NS, "time": NS, "share": pl.Float64},
    )  # fmt: skip
    basis: Any = "activity" if active else "allocation"
    found = attribute(samples, allocations, devices=told, by=by, basis=basis).collect()
    whole = samples.join(told.filter(pl.col("parent").is_not_null()), on="device", how="anti")
    use = None
    if active:
        use = (
            samples.join(partition_shares(told), left_on="device", right_on="part")
            .select("parent", part="device", activity="utilization_ratio", bucket=pl.col("time").dt.truncate("5m"))
            .group_by("part", "parent", "bucket")
            .agg(pl.col("activity").mean())
        )
    expected = lines_of(device_steps(whole), held_parts(allocations, told), use, by=by).collect()
    keys = ["kind", "device", "workload", *(["window"] if by else [])]
    both = expected.join(found, on=keys, how="full", coalesce=True, suffix="_found", nulls_equal=True)
    assert both.height == expected.height == found.height
    for name in ("span_s", "covered_s", "energy_j", "energy_low_j", "energy_high_j", "modelled_j"):
        have, want = both[f"{name}_found"].to_list(), both[name].to_list()
        assert [value is None for value in have] == [value is None for value in want]
        assert [v or 0.0 for v in have] == pytest.approx([v or 0.0 for v in want], rel=1e-9, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(READ, st.sampled_from(["7s", "5m", "45m", "1d"]))
def test_windows_add_up_to_the_whole_whatever_the_sources(rows: list[Any], by: str) -> None:
    samples = measured(rows)
    whole = energy(samples).collect()
    parts = energy(samples, by=by).group_by("device").agg(pl.col("energy_j", "covered_s", "counter_j").sum()).collect()
    both = whole.join(parts, on="device", suffix="_parts")
    assert both.height == whole.height == parts.height
    for name in ("energy_j", "covered_s", "counter_j"):
        assert both[f"{name}_parts"].to_list() == pytest.approx(both[name].fill_null(0.0).to_list(), rel=1e-9, abs=1e-6)


def test_one_pass_gives_the_windows_and_the_lines_that_two_give() -> None:
    rows = [(d, "x", s, 100.0 + s % 7, s * 100, s % 50 / 50, "average") for d in "ab" for s in range(0, 4000, 10)]
    samples = measured(rows)
    allocations = pl.LazyFrame(
        {"workload": ["v", "w"], "device": ["a", "b"], "start": [at(105), at(0)], "end": [at(2005), at(3000)]},
        schema={"workload": TEXT, "device": TEXT, "start": NS, "end": NS},
    )
    parts = [samples.filter(pl.col("device") == name) for name in "ab"]
    found = account(parts, allocations, windows="5m")
    assert found.windows.sort("device", "window")["energy_j"].to_list() == pytest.approx(
        energy(samples, by="5m").collect()["energy_j"].to_list(), rel=1e-12
    )
    lines = attribute(samples, allocations).collect()
    assert found.lines["energy_j"].to_list() == pytest.approx(lines["energy_j"].to_list(), rel=1e-12)
    assert found.lines["energy_j"].sum() == pytest.approx(found.windows["energy_j"].sum(), rel=1e-12)


# --------------------------------------------------------------------------------------------------------------- traps


def of(*seconds: float, power_w: float = 100.0, device: str = "a") -> pl.DataFrame:
    return readings(measured([(device, "x", s, power_w, None, None, "average") for s in seconds])).collect()


def test_years_without_a_reading_make_no_cells() -> None:
    years = 10 * 365 * 86_400
    found = cells(ordered(of(0, 10, 20, years, years + 10)), lengths_s=(1.0,)).frame
    assert found.height < 40
    assert found["energy_j"].sum() == pytest.approx(3000.0)
    assert found["covered_s"].sum() == pytest.approx(30.0)


def test_an_edge_at_the_time_of_a_reading_divides_nothing() -> None:
    found = cells(ordered(of(0, 10, 20)), edges=edges_of([("a", 10)])).frame
    assert found["energy_j"].to_list() == [1000.0, 1000.0]
    assert found.select("begin", "time").rows() == [(at(0), at(10)), (at(10), at(20))]


def test_an_edge_within_a_step_shares_it_by_time() -> None:
    found = cells(ordered(of(0, 10)), edges=edges_of([("a", 3), ("b", 5), ("a", -50), ("a", 70)])).frame
    assert found["energy_j"].to_list() == pytest.approx([300.0, 700.0])


def test_a_reading_on_an_edge_is_of_the_cell_before_and_what_follows_of_the_next() -> None:
    rows = of(0, 10, 20).with_columns(power_w=pl.Series([1.0, 9.0, 5.0]))
    found = cells(ordered(rows), edges=edges_of([("a", 10)]))
    assert found.frame.select("power_min_w", "power_max_w").rows() == [(1.0, 9.0), (5.0, 5.0)]
    assert found.of_row.tolist() == [0, 1, 1]


def test_readings_of_a_source_that_does_not_speak_are_in_no_cell() -> None:
    rows = pl.concat([of(0, 10, 20), of(0, 10).with_columns(source=pl.lit("other"))])
    found = cells(ordered(rows))
    assert found.frame["source"].unique().to_list() == ["x"]
    assert sorted(found.of_row.tolist()) == [-1, -1, 0, 0, 0]


def test_many_series_over_many_years_are_looked_up_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pl.concat([of(*range(0, 4000, 50), device=f"d{number}", power_w=number) for number in range(9)])
    edges = edges_of([(f"d{number}", 333 + number) for number in range(9)])
    whole = cells(ordered(rows), edges=edges)
    monkeypatch.setattr(cells_module, "_KEYS", 4 * 4000 * 10**9)
    parts = cells(ordered(rows), edges=edges)
    assert parts.frame.equals(whole.frame)
    assert np.array_equal(parts.of_row, whole.of_row)


def test_no_readings_make_no_cells() -> None:
    assert cells(ordered(of())).frame.schema == CELLS
    assert over_time([], every_s=60.0).devices.is_empty()
