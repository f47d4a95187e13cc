"""Benchmark results: power as MLPerf counts it, against a loop over the readings."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.frames import schema
from analytics.results import best, front, results
from collector.store import TABLES

T0 = datetime(2024, 7, 17, 9, 0)


def at(second: float) -> datetime:
    return T0 + timedelta(seconds=second)


def frame(table: str, rows: list[dict[str, Any]]) -> pl.LazyFrame:
    known = schema(TABLES[table])
    names = list(dict.fromkeys(name for row in rows for name in row))
    data = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in names}, schema={name: known[name] for name in names}
    )
    missing = [pl.lit(None, kind).alias(name) for name, kind in known.items() if name not in names]
    return data.with_columns(missing).select(list(known)).lazy()


def run(workload: str = "w", host: str = "sys", begin: float = 10.0, end: float = 70.0, **more: Any) -> dict[str, Any]:
    return {"workload": workload, "host": host, "time": at(end), "start": at(begin), "end": at(end), **more}


def host(name: str, second: float, watts: float | None) -> dict[str, Any]:
    return {"host": name, "time": at(second), "platform_power_w": watts}


def meter(name: str, second: float, watts: float, system: str = "sys") -> dict[str, Any]:
    return {"meter": name, "host": system, "time": at(second), "meter_power_w": watts}


def allocation(device: str, workload: str = "w") -> dict[str, Any]:
    return {"workload": workload, "device": device, "start": at(0), "time": at(0)}


def found(
    runs: list[dict[str, Any]],
    hosts: list[dict[str, Any]] = [],  # noqa: B006 # read only
    meters: list[dict[str, Any]] = [],  # noqa: B006
    allocations: list[dict[str, Any]] = [],  # noqa: B006
) -> list[dict[str, Any]]:
    answer = results(
        frame("results", runs),
        frame("host_samples", hosts),
        frame("facility_samples", meters),
        frame("allocations", allocations),
    )
    return answer.collect().to_dicts()


readings = st.lists(
    st.tuples(st.integers(0, 900).map(lambda n: n / 10), st.floats(0, 5000) | st.none()),
    max_size=40,
    unique_by=lambda reading: reading[0],
)


@settings(deadline=None)
@given(readings, readings, st.integers(0, 400), st.integers(1, 500))
def test_power_is_the_mean_of_the_readings_from_start_to_end_of_each_host(
    one: list[tuple[float, float | None]], other: list[tuple[float, float | None]], begin: int, length: int
) -> None:
    start, end = begin / 10, (begin + length) / 10
    samples = [host(name, *reading) for name, rows in (("n1", one), ("n2", other)) for reading in rows]
    (row,) = found([run(begin=start, end=end)], samples, allocations=[allocation("n1"), allocation("n2")])
    inside = [
        [watts for second, watts in rows if start <= second <= end and watts is not None] for rows in (one, other)
    ]
    assert row["readings"] == sum(map(len, inside))
    if all(inside):
        expected = sum(sum(rows) / len(rows) for rows in inside)
        assert row["power_mean_w"] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert row["energy_j"] == pytest.approx(expected * (end - start), rel=1e-9, abs=1e-9)
    else:
        assert row["power_mean_w"] is None


def test_a_run_knows_its_readings_from_those_of_the_run_before_and_after() -> None:
    samples = [host("sys", second, 100.0 if second < 70 else 900.0) for second in range(200)]
    first, second = found([run("a", end=69), run("b", begin=70, end=130)], samples)
    assert (first["power_mean_w"], second["power_mean_w"]) == (100.0, 900.0)
    assert first["covered_ratio"] == 1.0


def test_coverage_is_what_lies_between_readings_that_are_near() -> None:
    samples = [host("sys", second, 100.0) for second in (*range(11), *range(40, 71))]
    (row,) = found([run(begin=0, end=70)], samples)
    assert row["covered_ratio"] == pytest.approx(40 / 70)


def test_a_switch_counts_and_the_channels_of_an_analyzer_do_not() -> None:
    nodes = [host(f"sys-node_{n}", second, 1000.0) for n in range(2) for second in range(80)]
    switch = [meter("sys-sw_0", second, 50.0) for second in range(80)]
    (row,) = found([run()], nodes, switch, [allocation("sys-node_0"), allocation("sys-node_1")])
    assert (row["power_mean_w"], row["hosts"]) == (2050.0, 3)
    whole = [host("sys", second, 300.0) for second in range(80)]
    channels = [meter(f"sys-ch{n}", second, 100.0) for n in (1, 2, 3) for second in range(80)]
    (row,) = found([run()], whole, channels, [allocation("sys")])
    assert (row["power_mean_w"], row["hosts"]) == (300.0, 1)


def test_a_node_without_readings_leaves_no_sum_of_the_others() -> None:
    samples = [host("n1", second, 1000.0) for second in range(80)]
    (row,) = found([run()], samples, allocations=[allocation("n1"), allocation("n2")])
    assert (row["power_mean_w"], row["energy_j"], row["covered_ratio"]) == (None, None, None)
    (row,) = found([run()], [host("another", 20, 5.0)])
    assert (row["power_mean_w"], row["readings"]) == (None, 0)


@pytest.mark.parametrize(
    ("said", "rate", "basis"),
    [
        ({"samples_per_s": 30.0, "samples": 60.0}, 30.0, "reported"),
        ({"samples": 60.0}, 1.0, "counted"),
        ({"metric": "train_s", "samples": 60.0, "samples_per_s": 30.0}, 1.0, "counted"),
        ({"metric": "train_s", "samples_per_s": 30.0}, 30.0, "reported"),
        ({"metric": "p90_latency_ns", "scenario": "singlestream", "latency_mean_s": 0.5}, 2.0, "latency"),
        # A single-stream result may be submitted as an offline one; its queries are of one sample all the same.
        ({"metric": "p90_latency_ns", "scenario": "multistream", "latency_mean_s": 0.5}, 2.0, "latency"),
        ({"metric": "p99_latency_ns", "scenario": "multistream", "latency_mean_s": 0.5}, 16.0, "latency"),
        ({"metric": "p99_latency_ns", "samples_per_query": 4.0, "latency_mean_s": 0.5}, 8.0, "latency"),
        ({"metric": "samples_per_s", "latency_mean_s": 0.5}, None, None),
    ],
)
def test_throughput_says_how_it_is_known(said: dict[str, Any], rate: float | None, basis: str | None) -> None:
    (row,) = found([run(**said)], [host("sys", second, 8.0) for second in range(80)])
    assert (row["samples_per_s"], row["throughput_basis"]) == (rate, basis)
    if rate is not None:
        assert row["joules_per_sample"] == pytest.approx(8.0 / rate)
        assert row["samples_per_joule"] == pytest.approx(rate / 8.0)


def test_tokens_have_their_joules_too() -> None:
    samples = [host("sys", second, 6000.0) for second in range(80)]
    (row,) = found([run(tokens_per_s=24_000.0, samples_per_s=80.0, accelerators=8)], samples)
    assert (row["joules_per_token"], row["tokens_per_joule"]) == (0.25, 4.0)
    assert row["power_per_accelerator_w"] == 750.0


def test_scenarios_are_called_as_the_rules_call_them_and_the_last_word_counts() -> None:
    early = run(scenario="offline", verdict="INVALID")
    (row,) = found([early | {"time": at(60)}, early | {"time": at(70), "verdict": "VALID"}])
    assert (row["scenario"], row["verdict"]) == ("Offline", "VALID")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from("ab")), max_size=12))
def test_the_front_is_what_nothing_beats(rows: list[tuple[int, int, str]]) -> None:
    table = pl.DataFrame(
        [(str(n), float(x), float(y), b, None) for n, (x, y, b) in enumerate(rows)],
        orient="row",
        schema={"workload": pl.String, "samples_per_s": pl.Float64, "samples_per_joule": pl.Float64,
                "benchmark": pl.String, "scenario": pl.String},
    )  # fmt: skip
    marked = front(table.lazy()).collect()
    expected = [not any(c == b and u >= x and v >= y and (u > x or v > y) for u, v, c in rows) for x, y, b in rows]
    assert marked["front"].to_list() == expected


def test_the_best_of_each_accelerator_is_its_most_efficient_run() -> None:
    common = {"accelerator": "X", "benchmark": "bert", "scenario": "Offline"}
    runs = [
        run("slow", samples_per_s=10.0, **common),
        run("fast", samples_per_s=20.0, **common),
        run("dark", host="nobody", samples_per_s=90.0, **common),
    ]
    every = results(
        frame("results", runs),
        frame("host_samples", [host("sys", second, 10.0) for second in range(80)]),
        frame("facility_samples", []),
        frame("allocations", []),
    )
    (row,) = best(every).collect().to_dicts()
    assert (row["workload"], row["runs"]) == ("fast", 2)
    assert front(every).collect().filter(pl.col("workload") == "dark")["front"].to_list() == [None]
