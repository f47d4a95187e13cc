"""Tokens per joule of workloads and places."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.efficiency import efficiency, efficiency_by_place, joules_per_token, tokens_per_joule
from analytics.energy import energy

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")


def at(second: float | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def devices(power: dict[str, float], until: int = 600, every: int = 10) -> pl.LazyFrame:
    rows = [
        {
            "device": d,
            "source": "s",
            "host": f"host-{d}",
            "time": at(s),
            "power_w": p,
            "energy_j": p * s,
            "utilization_ratio": 0.5,
        }
        for d, p in power.items()
        for s in range(0, until + 1, every)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS})


def work(rate: dict[str, float], until: int = 600, since: int = 0, source: str = "vllm") -> pl.LazyFrame:
    rows = [
        {"workload": w, "source": source, "model": "llama", "time": at(s), "tokens_out": r * s, "steps": float(s // 10)}
        for w, r in rate.items()
        for s in range(since, until + 1, 10)
    ]
    return pl.LazyFrame(rows, schema_overrides={"time": NS})


def held(*rows: tuple[str, str, float, float | None], share: float = 1.0) -> pl.LazyFrame:
    told = [
        {"workload": w, "device": d, "start": at(a), "end": at(b), "time": at(a), "user": "u", "share": share}
        for w, d, a, b in rows
    ]
    types = {
        "workload": pl.String,
        "device": pl.String,
        "start": NS,
        "end": NS,
        "time": NS,
        "user": pl.String,
        "share": pl.Float64,
    }
    return pl.LazyFrame(told, schema=types)


def only(found: pl.LazyFrame) -> dict[str, Any]:
    (row,) = found.collect().to_dicts()
    return row


def test_a_groups_tokens_are_divided_by_the_energy_of_all_its_devices_once() -> None:
    found = only(
        efficiency(
            devices({"a": 300.0, "b": 500.0, "idle": 80.0}),
            work({"chat": 100.0}),
            held(("chat", "a", 0, None), ("chat", "b", 0, None)),
        )
    )
    assert found["devices"] == 2
    assert found["energy_j"] == pytest.approx(800 * 600)
    assert found["tokens"] == pytest.approx(60_000)
    assert found["joules_per_token"] == pytest.approx(8.0)
    assert found["tokens_per_s_per_w"] == pytest.approx(1 / 8)
    assert found["joules_per_step"] == pytest.approx(8000.0)
    # Boards of 300 and 500 W, each off by 5 % and independently.
    apart = 0.05 * (300**2 + 500**2) ** 0.5 / 800
    assert found["joules_per_step_high"] == pytest.approx(8000.0 * (1 + apart))
    assert found["joules_per_token_low"] == pytest.approx(8.0 * (1 - apart))
    assert found["utilization_ratio"] == pytest.approx(0.5)
    assert (found["model"], found["user"], found["covered_ratio"]) == ("llama", "u", pytest.approx(1.0))


def test_a_device_counts_only_while_it_is_allocated() -> None:
    found = only(efficiency(devices({"a": 300.0}), work({"chat": 10.0}), held(("chat", "a", 105, 305))))
    assert found["energy_j"] == pytest.approx(300 * 200)
    assert found["allocated_s"] == pytest.approx(200)


def test_half_a_device_is_half_its_energy() -> None:
    found = only(efficiency(devices({"a": 300.0}), work({"chat": 10.0}), held(("chat", "a", 0, 600), share=0.5)))
    assert found["energy_j"] == pytest.approx(300 * 600 / 2)
    assert found["covered_s"] == pytest.approx(600)


def test_energy_before_the_counters_were_read_is_not_charged_to_the_tokens() -> None:
    found = only(efficiency(devices({"a": 300.0}), work({"chat": 100.0}, since=300), held(("chat", "a", 0, None))))
    assert found["energy_j"] == pytest.approx(300 * 600)
    assert found["counted_j"] == pytest.approx(300 * 300)
    assert found["joules_per_token"] == pytest.approx(3.0)


def test_device_seconds_without_energy_are_taken_at_the_mean_of_the_others_and_shown() -> None:
    samples = devices({"a": 300.0}).drop("energy_j").filter(~pl.col("time").is_between(at(200), at(400), closed="none"))
    found = only(efficiency(samples, work({"chat": 100.0}), held(("chat", "a", 0, None))))
    assert found["covered_ratio"] == pytest.approx(400 / 600)
    assert found["joules_per_token"] == pytest.approx(3.0)


def test_two_sources_of_one_workload_are_not_added() -> None:
    twice = pl.concat([work({"chat": 100.0}), work({"chat": 100.0}, source="triton")])
    assert only(efficiency(devices({"a": 300.0}), twice, held(("chat", "a", 0, None))))["tokens"] == pytest.approx(
        60_000
    )


def test_an_engine_that_restarts_loses_no_more_than_a_step() -> None:
    samples = work({"chat": 100.0}).with_columns(
        pl.when(pl.col("time") > at(300))
        .then(pl.col("tokens_out") - 30_000)
        .otherwise("tokens_out")
        .alias("tokens_out")
    )
    found = only(efficiency(devices({"a": 300.0}), samples, held(("chat", "a", 0, None))))
    assert found["tokens"] == pytest.approx(59_000)


def test_the_last_word_on_an_allocation_counts() -> None:
    first = held(("chat", "a", 0, None))
    second = held(("chat", "a", 0, 300)).with_columns(time=pl.lit(at(300), NS))
    found = only(efficiency(devices({"a": 300.0}), work({"chat": 1.0}), pl.concat([second, first])))
    assert found["energy_j"] == pytest.approx(300 * 300)


def test_a_workload_without_devices_has_no_energy_and_one_without_counters_no_tokens() -> None:
    found = efficiency(devices({"a": 300.0}), work({"lost": 1.0}), held(("silent", "a", 0, None))).collect()
    lost, silent = found.to_dicts()
    assert (lost["workload"], lost["energy_j"], lost["joules_per_token"], lost["devices"]) == ("lost", None, None, 0)
    assert (silent["workload"], silent["tokens"], silent["joules_per_token"]) == ("silent", None, None)
    assert silent["energy_j"] == pytest.approx(300 * 600)


def test_a_job_that_makes_no_tokens_has_no_joules_per_token() -> None:
    found = only(efficiency(devices({"a": 300.0}), work({"chat": 0.0}), held(("chat", "a", 0, None))))
    assert (found["tokens"], found["joules_per_token"], found["tokens_per_s_per_w"]) == (0.0, None, 0.0)


def test_nothing_gives_nothing() -> None:
    empty = efficiency(_no_devices(), _no_work(), held())
    assert empty.collect().is_empty()


def _no_devices() -> pl.LazyFrame:
    return devices({"a": 1.0}, 0).filter(pl.lit(False))


def _no_work() -> pl.LazyFrame:
    return work({"w": 1.0}, 0).filter(pl.lit(False))


def test_windows_add_up_to_the_whole() -> None:
    arguments = (
        devices({"a": 300.0, "b": 120.0}),
        work({"chat": 100.0}),
        held(("chat", "a", 15, 455), ("chat", "b", 100, None)),
    )
    whole, parts = only(efficiency(*arguments)), efficiency(*arguments, by="1m").collect()
    for name in ("energy_j", "tokens", "counted_j", "allocated_s", "covered_s"):
        assert parts[name].sum() == pytest.approx(whole[name]), name
    assert parts["window"].to_list() == [at(60 * n) for n in range(10)]


spans = st.lists(
    st.tuples(st.sampled_from("wxyz"), st.sampled_from("ab"), st.integers(0, 600), st.integers(1, 600)), max_size=8
)


@settings(max_examples=40, deadline=None)
@given(spans=spans)
def test_energy_by_allocation_equals_a_naive_loop(spans: list[tuple[str, str, int, int]]) -> None:
    power = {"a": 300.0, "b": 120.0}
    unique = {(w, d, start): start + length for w, d, start, length in spans}
    expected: dict[str, float] = {}
    for (w, d, start), end in unique.items():
        seconds = max(0, min(end, 600) - start)
        if seconds:
            expected[w] = expected.get(w, 0.0) + power[d] * seconds
    told = held(*((w, d, float(start), float(end)) for (w, d, start), end in unique.items()))
    found = efficiency(devices(power), _no_work(), told).collect()
    assert dict(found.filter(pl.col("energy_j") > 0).select("workload", "energy_j").iter_rows()) == pytest.approx(
        expected
    )


def test_jobs_and_idle_conserve_the_devices_energy() -> None:
    samples = devices({"a": 300.0, "b": 120.0})
    jobs = efficiency(samples, _no_work(), held(("x", "a", 0, 200), ("y", "a", 200, 600), ("z", "b", 0, 600))).collect()
    assert jobs["energy_j"].sum() == pytest.approx(energy(samples).collect()["energy_j"].sum())


@pytest.mark.parametrize("place", ["fleet", "site", "host", "device"])
@pytest.mark.parametrize("by", [None, "5m"])
def test_places_sum_to_the_fleet_idle_energy_included(place: Any, by: str | None) -> None:
    samples = devices({"a": 300.0, "b": 500.0, "idle": 80.0})
    found = efficiency_by_place(
        samples,
        work({"chat": 100.0}),
        held(("chat", "a", 0, None), ("chat", "b", 0, None)),
        place=place,
        hosts={"host-a": "north", "host-b": "north"},
        by=by,
    ).collect()
    assert found["energy_j"].sum() == pytest.approx(880 * 600)
    if place == "device":
        assert found["tokens"].null_count() == found["joules_per_token"].null_count() == found.height
    else:
        assert found["tokens"].sum() == pytest.approx(60_000)


def test_a_device_has_tokens_where_it_did_the_work_by_itself_and_a_group_s_are_nobody_s_alone() -> None:
    samples = devices({"a": 300.0, "b": 500.0, "c": 200.0})
    told = held(("chat", "a", 0, None), ("chat", "b", 0, None), ("small", "c", 0, None))
    found = efficiency_by_place(samples, work({"chat": 100.0, "small": 10.0}), told, place="device").collect()
    assert found["tokens"].to_list() == [None, None, pytest.approx(6000.0)]
    assert found["joules_per_token"].to_list() == [None, None, pytest.approx(20.0)]


@pytest.mark.parametrize("by", [None, "5m"])
def test_what_was_counted_outside_of_allocations_is_not_divided_by_their_energy(by: str | None) -> None:
    told = efficiency(devices({"a": 300.0}), work({"chat": 100.0}), held(("chat", "a", 305, 590)), by=by).collect()
    known = told.drop_nulls("joules_per_token")
    assert known["tokens"].sum() == pytest.approx(28_500.0)
    assert known["joules_per_token"].to_list() == pytest.approx([3.0] * known.height)
    assert known["tokens_per_s"].to_list() == pytest.approx([100.0] * known.height)
    rest = held(("chat", "a", 305, 590), ("chat", "b", 305, 590))
    place = efficiency_by_place(devices({"a": 300.0, "b": 0.0}), work({"chat": 100.0}), rest, by=by).collect()
    assert place["tokens"].sum() == pytest.approx(28_500.0)


def test_ratios_of_nothing_are_nothing() -> None:
    frame = pl.DataFrame({"tokens": [0.0, 5.0, None], "j": [10.0, 0.0, 3.0]})
    shown = frame.select(
        a=joules_per_token(pl.col("tokens"), pl.col("j")), b=tokens_per_joule(pl.col("tokens"), pl.col("j"))
    )
    assert shown.to_dict(as_series=False) == {"a": [None, 0.0, None], "b": [0.0, None, None]}


@pytest.mark.parametrize("by", [None, "5m"])
def test_a_device_that_was_never_seen_holds_up_nothing_while_it_is_allocated(by: str | None) -> None:
    """Nothing says when such an allocation ends; to the end of time it would be windows without number."""
    found = efficiency(
        devices({"a": 300.0}), work({"chat": 100.0}), held(("chat", "a", 0, None), ("chat", "ghost", 0, None)), by=by
    ).collect()
    assert found["allocated_s"].sum() == pytest.approx(600.0)
    assert found["energy_j"].sum() == pytest.approx(300.0 * 600)


def test_a_device_that_was_never_seen_counts_as_uncovered_where_its_allocation_has_an_end() -> None:
    found = only(
        efficiency(devices({"a": 300.0}), work({"chat": 100.0}), held(("chat", "a", 0, 600), ("chat", "ghost", 0, 600)))
    )
    assert found["allocated_s"] == pytest.approx(1200.0)
    assert found["covered_ratio"] == pytest.approx(0.5)
