"""Counters of work, differenced in one pass over rows in order, are what they are step by step."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.steps import difference, in_order, ordered, risen
from analytics.work import WORK, work_of

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
SECONDS = st.integers(0, 9000)
COUNT = st.none() | st.integers(0, 100)
READ = st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), SECONDS, COUNT, COUNT), max_size=40)
HELD = st.dictionaries(st.sampled_from("xyz"), st.tuples(SECONDS, SECONDS))


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def counted(rows: list[Any]) -> pl.LazyFrame:
    told = [(w, s, at(t), a, b) for w, s, t, a, b in rows]
    schema = {"workload": pl.String(), "source": pl.String(), "time": NS, WORK[0]: pl.Float64(), WORK[1]: pl.Float64()}
    frame = pl.LazyFrame(told, schema=schema, orient="row")
    return frame.unique(["workload", "source", "time"], keep="last", maintain_order=True)


@settings(max_examples=40, deadline=None)
@given(READ)
def test_rises_between_neighbours_are_those_of_the_expressions(rows: list[Any]) -> None:
    frame = counted(rows)
    keys = ["workload", "source"]
    amount, covered = difference(WORK[0], 3600.0, float("inf"))
    wanted = in_order(frame, keys, WORK[:1]).select(a=amount, b=covered).collect()
    found = risen(ordered(frame.rename({"workload": "device"}).collect()), WORK[0], 3600.0)
    assert found[0].tolist() == pytest.approx(wanted["a"].to_list())
    assert found[1].tolist() == pytest.approx(wanted["b"].to_list())


def naive(
    rows: pl.DataFrame, held: dict[str, tuple[int, int]], window_s: int
) -> dict[tuple[str, str, int], dict[str, float]]:
    """Second by second: what each counter rose by in each window, of each workload and source."""
    sums: dict[tuple[str, str, int], dict[str, float]] = {}
    for name in WORK[:2]:
        for (workload, source), part in rows.drop_nulls(name).sort("time").group_by("workload", "source"):
            read = [(round((time - START).total_seconds()), value) for time, value in part.select("time", name).rows()]
            low, high = held.get(str(workload), (-(10**9), 10**9))
            for (begin, before), (end, after) in pairwise(read):
                if after < before or end - begin > 3600:
                    continue
                for second in range(max(begin, low), min(end, high)):
                    window = sums.setdefault((str(workload), str(source), second // window_s), {})
                    window[name] = window.get(name, 0.0) + (after - before) / (end - begin)
                    window[f"{name}_s"] = window.get(f"{name}_s", 0.0) + 1.0
    return sums


@settings(max_examples=40, deadline=None)
@given(READ, HELD, st.sampled_from([300, 700, 7200]))
def test_work_in_windows_is_that_of_every_second(rows: list[Any], held: dict[str, Any], window_s: int) -> None:
    frame = counted(rows)
    # Windows are counted from the epoch, which is no multiple of some.
    skew = round((START - datetime(1970, 1, 1)).total_seconds()) % window_s
    frame = frame.with_columns(pl.col("time") - pl.duration(seconds=skew))
    bounds = pl.LazyFrame(
        [(name, at(a - skew), at(b - skew)) for name, (a, b) in held.items()],
        schema={"workload": pl.String(), "start": NS, "end": NS},
        orient="row",
    )
    told = work_of(frame, float(window_s), within=bounds).collect()
    wanted = naive(frame.collect().with_columns(pl.col("time") + pl.duration(seconds=skew)), held, window_s)
    best: dict[tuple[str, int], tuple[float, str]] = {}
    for (workload, source, window), sums in wanted.items():
        known_s = max(sums.get(f"{name}_s", 0.0) for name in WORK[:2])
        best[workload, window] = min(best.get((workload, window), (0.0, "~")), (-round(known_s), source))
    for row in told.to_dicts():
        window = round((row["window"] - START).total_seconds() + skew) // window_s
        known_s, source = best.get((row["workload"], window), (0.0, ""))
        assert row["work_s"] == pytest.approx(-known_s, abs=1e-6)
        sums = wanted.get((row["workload"], source, window), {})
        assert [row[name] for name in WORK[:2]] == [
            pytest.approx(sums[name]) if sums.get(f"{name}_s") else None for name in WORK[:2]
        ]
        best.pop((row["workload"], window), None)
    assert not best


def test_without_rows_there_is_no_work() -> None:
    assert work_of(counted([]), 300.0).collect().is_empty()
    assert work_of(counted([]), None).collect().is_empty()
