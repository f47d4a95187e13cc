"""Sketches against the sorted values themselves: within the promised error, in any order, parts as the whole."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import cli
from analytics.frames import scan
from analytics.sketches import merged, quantiles, sketched
from collector.store import Store
from collector.store.query import query
from collector.store.sketch import ACCURACY, LEAST

RECORDING = Path(__file__).parents[2] / "../shared/data/mlperf/tables/inference_power_1hz.parquet"
OF = (0.0, 0.01, 0.5, 0.95, 0.99, 1.0)
NAMES = ("p0", "p1", "p50", "p95", "p99", "p100")
DAY_NS = 1_772_323_200_000_000_000


def frame(values: Any, **more: Any) -> pl.LazyFrame:
    told = pl.LazyFrame({"value": pl.Series(values, dtype=pl.Float64)})
    return told.with_columns(pl.lit("all").alias("key"), **{name: pl.Series(some) for name, some in more.items()})


def within(values: Any, sketches: pl.LazyFrame) -> None:
    """Whether the quantiles of sketches are those of the values, by what is promised."""
    (row,) = quantiles(sketches, ["key"], "value", of=OF).collect().to_dicts()
    ordered = np.sort(np.asarray(values, float))
    assert row["values"] == len(ordered)
    for quantile, name in zip(OF, NAMES, strict=True):
        exact = ordered[int(np.floor(quantile * (len(ordered) - 1)))]
        assert abs(row[name] - exact) <= ACCURACY * abs(exact) * (1 + 1e-9) + LEAST, (name, row[name], exact)


VALUES = st.lists(
    st.floats(-60, 50_000) | st.sampled_from([0.0, 1.0, -1.0, LEAST, 1e-9, 299.99, 300.0, 300.01]),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_quantiles_are_within_the_promised_error(values: list[float]) -> None:
    within(values, sketched(frame(values), ["key"], "value"))


@settings(max_examples=40, deadline=None)
@given(VALUES, st.randoms(use_true_random=False))
def test_parts_put_together_in_any_order_are_the_whole(values: list[float], random: Any) -> None:
    part = [random.randrange(4) for _ in values]
    whole = sketched(frame(values), ["key"], "value").collect()
    parts = sketched(frame(values, part=part), ["key", "part"], "value").collect().rows(named=True)
    random.shuffle(parts)
    found = pl.DataFrame(parts, schema_overrides={"value": whole.schema["value"]})
    assert merged(found.lazy(), ["key"], "value").collect().equals(whole)
    halves = [merged(half.lazy(), ["key"], "value").collect() for half in (found[::2], found[1::2])]
    assert merged(pl.concat(halves).lazy(), ["key"], "value").collect().equals(whole)


@pytest.mark.parametrize(
    "values",
    [
        np.full(1000, 300.0),
        np.geomspace(LEAST, 50_000, 5000),
        np.concatenate([np.zeros(990), np.full(10, 700.0)]),
        np.concatenate([np.full(500, 60.0), np.full(500, 700.0)]),
        1.0202 ** np.arange(300),
        np.random.default_rng(1).pareto(0.5, 5000).clip(0, 5e4),
        -np.geomspace(LEAST, 60, 500),
    ],
    ids=["constant", "all scales", "rare", "two levels", "edges of bins", "heavy tail", "below zero"],
)
def test_adversarial_values_are_within_the_promised_error(values: Any) -> None:
    within(values, sketched(frame(values), ["key"], "value"))


@pytest.mark.skipif(not RECORDING.exists(), reason="no ../shared/data/mlperf")
def test_a_recording_is_within_the_promised_error() -> None:
    watts = pl.read_parquet(RECORDING, columns=["watts"])["watts"].cast(pl.Float64).drop_nulls()
    within(watts.to_numpy(), sketched(frame(watts), ["key"], "value"))


def test_what_was_not_read_is_in_no_sketch() -> None:
    found = sketched(frame([1.0, None, None]), ["key"], "value").collect()
    assert found["value"].to_list()[0][0]["n"] == 1
    assert sketched(frame([None]), ["key"], "value").collect().is_empty()
    nothing = pl.LazyFrame({"key": ["all"], "value": [None]}, schema_overrides={"value": found.schema["value"]})
    assert quantiles(nothing, ["key"], "value").collect().is_empty()


def test_a_quantile_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="quantile 95: from 0 to 1"):
        quantiles(sketched(frame([1.0]), ["key"], "value"), ["key"], "value", of=[95.0])


def test_the_stores_sketches_are_those_of_the_readings_and_hours_are_their_windows(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    at = np.arange(5, 26 * 3600, 10)  # none on an edge
    power = np.where(random.random(at.size) < 0.3, random.uniform(60, 90, at.size), random.normal(600, 40, at.size))
    busy, warm = random.random(at.size).round(2), random.uniform(-5, 80, at.size).round()
    store = Store.create(tmp_path / "store")
    rows = {"device": "a", "source": "s", "time": DAY_NS + at * 10**9, "power_w": power, "utilization_ratio": busy}
    store.write("device_samples", pl.DataFrame({**rows, "temperature_c": warm}))
    store.roll_up(DAY_NS + 60 * 3600 * 10**9)
    samples = scan(store, "device_samples")
    for metric, unit in (("power", "w"), ("utilization", "ratio"), ("temperature", "c")):
        name = f"{metric}_sketch_{unit}"
        rollups = scan(store, "device_rollups").select("window_s", "time", value=name, key=pl.lit("all"))
        hours = rollups.filter(pl.col("window_s") == 3600)
        values = samples.select(pl.lit("all").alias("key"), value=f"{metric}_{unit}")
        whole = sketched(values, ["key"], "value").collect()
        assert merged(hours, ["key"], "value").collect().equals(whole)
        days = rollups.filter(pl.col("window_s") == 86_400)
        assert days.collect().height == 2
        assert merged(days, ["key"], "value").collect().equals(whole)
        if metric == "power":
            fives = rollups.filter(pl.col("window_s") == 300)
            assert merged(fives, ["key"], "value").collect().equals(whole)
        within(values.collect()["value"].to_numpy(), hours)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Thirty hours of two hosts: the last hour is not rolled up; a device has two sources and one a partition."""
    random = np.random.default_rng(5)
    store = Store.create(tmp_path_factory.mktemp("told") / "store")
    at = np.arange(0, 30 * 3600, 20)  # also on edges
    parts = [
        pl.DataFrame({"device": device, "source": source, "host": host, "time": DAY_NS + at[::every] * 10**9})
        .with_columns(power_w=pl.Series(random.gamma(3.0, 90.0, at[::every].size)))
        for device, source, host, every in (
            ("a", "s", "h1", 1), ("b", "s", "h1", 1), ("b", "t", "h1", 3), ("c", "s", "h2", 1), ("part", "s", "h2", 1),
        )
    ]  # fmt: skip
    early = pl.concat(parts).with_columns(late=pl.col("time") > DAY_NS + 29 * 3600 * 10**9)
    store.write("device_samples", early.filter(~pl.col("late")).drop("late"))
    store.write("devices", {"device": ["part"], "source": ["s"], "parent": ["c"], "time": [DAY_NS]})
    store.roll_up(DAY_NS + 29 * 3600 * 10**9)
    store.write("device_samples", early.filter("late").drop("late"))
    return store


@pytest.mark.parametrize("per", ["device", "host", "all"])
@pytest.mark.parametrize("by", [None, "1h", "5m", "1d"])
def test_percentiles_of_rollups_and_of_what_is_not_rolled_up_are_those_of_the_readings(
    told: Store, per: str, by: str | None
) -> None:
    asked = ["percentiles", "power_w", "--per", per, "--store", str(told.root), "-o", "jsonl"]
    result = CliRunner().invoke(cli.app, [*asked, *(["--by", by] if by else [])])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    keys = [*([] if per == "all" else [per]), *(["time"] if by else [])]
    length = {None: "1d", "1h": "1h", "5m": "5m", "1d": "1d"}[by]
    values = (
        scan(told, "device_samples")
        .filter(pl.col("device") != "part", pl.col("source") == "s")
        .with_columns(pl.lit("all").alias("all"), pl.col("time").dt.offset_by("-1ns").dt.truncate(length))
        # The first reading of all has none before it: it is of the window that it begins.
        .with_columns(pl.col("time").clip(pl.lit(DAY_NS, pl.Datetime("ns"))))
        .sort("power_w")
        .group_by(keys or ["all"])
        .agg("power_w")
        .sort(keys or ["all"])
        .collect()
    )
    assert len(rows) == values.height
    for row, exact in zip(rows, values["power_w"], strict=True):
        assert row["values"] == len(exact)
        assert (row["power_min_w"], row["power_max_w"]) == pytest.approx((exact[0], exact[-1]))
        for name, quantile in (("power_p50_w", 0.50), ("power_p95_w", 0.95), ("power_p99_w", 0.99)):
            place = int(quantile * (len(exact) - 1))
            assert row[name] == pytest.approx(exact[place], rel=ACCURACY * 1.0001)


def test_windows_that_rollups_do_not_have_are_refused(told: Store) -> None:
    result = CliRunner().invoke(cli.app, ["percentiles", "temperature_c", "--by", "5m", "--store", str(told.root)])
    assert result.exit_code == 2
    assert "--by: 5m: windows of temperature_c are multiples of 3600 s" in result.stderr


def test_sql_reads_and_merges_sketches(told: Store) -> None:
    hours = scan(told, "device_rollups", where=pl.col("window_s") == 3600).filter(pl.col("device") == "a")
    (mine,) = quantiles(hours.with_columns(key=1), ["key"], "power_sketch_w", of=[0.0, 0.5, 0.99, 1.0]).collect().rows()
    read = ", ".join(f"sketch_quantile(bins, {quantile})" for quantile in (0, 0.5, 0.99, 1))
    asked = (
        "SELECT " + read + " FROM (SELECT flatten(list(power_sketch_w)) AS bins FROM device_rollups "
        "WHERE window_s = 3600 AND device = 'a')"
    )
    with query(told.root, asked) as result:
        assert [float(value) for value in next(iter(result.rows))] == pytest.approx(mine[2:])
    told.publish()
    with duckdb.connect(str(told.root / "perfwatt.duckdb"), read_only=True) as connection:
        assert connection.execute(asked).fetchone() == pytest.approx(mine[2:])
