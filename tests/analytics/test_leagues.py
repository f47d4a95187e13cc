"""League tables rank like with like where there is evidence, and a front is what nothing beats."""

import csv
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.attribution import attribute
from analytics.leagues import Evidence, league, pareto, runs

CONFIGURATIONS = Path(__file__).parents[2] / "../shared/data/efficiency/mlenergy_v3_configurations.csv"
START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
HOURS = 4


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


class Fleet:
    """Devices that draw the same all the time, and workloads that do the same all the time, for four hours."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        self.work: list[dict[str, Any]] = []
        self.held: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.types: dict[str, str] = {}

    def device(self, name: str, watts: float, sku: str, *drivers: tuple[float, str], method: str = "average") -> None:
        self.types[name] = sku
        self.told += [{"device": name, "time": at(hour), "driver_version": driver} for hour, driver in drivers]
        self.samples += [
            {"device": name, "source": "s", "host": f"host-{sku}", "time": at(s / 60), "power_w": watts,
             "utilization_ratio": 0.9, "power_method": method}
            for s in range(HOURS * 60 + 1)
        ]  # fmt: skip

    def runs(
        self, workload: str, devices: str, tokens_per_s: float, *, model: str = "m", framework: str = "vllm",
        team: str = "t", since: float = 0.0, until: float = HOURS, **more: float,
    ) -> None:  # fmt: skip
        minutes = range(round(since * 60), round(until * 60) + 1)
        self.work += [
            {"workload": workload, "source": "v", "model": model, "framework": framework, "time": at(m / 60),
             "tokens_out": tokens_per_s * 60 * m, **more}
            for m in minutes
        ]  # fmt: skip
        self.held += [
            {"workload": workload, "device": device, "start": at(0), "end": None, "time": at(0), "team": team}
            for device in devices
        ]

    def league(self, per: Any, **options: Any) -> list[dict[str, Any]]:
        return league(self.collect(), per=per, **options).collect().to_dicts()

    def collect(self) -> pl.LazyFrame:
        text = pl.String()
        samples = pl.LazyFrame(self.samples, schema_overrides={"time": NS})
        held = pl.LazyFrame(
            self.held,
            schema={"workload": text, "device": text, "start": NS, "end": NS, "time": NS, "team": text},
        )
        lines = attribute(samples, held, by="1h", max_gap_s=300.0)
        return runs(
            lines,
            pl.LazyFrame(self.work, schema_overrides={"time": NS}, infer_schema_length=None),
            devices=pl.LazyFrame(self.told, schema={"device": text, "time": NS, "driver_version": text}),
            types=pl.LazyFrame({"device": list(self.types), "sku": list(self.types.values())}),
            hosts={"host-old": "here", "host-new": "there"},
        )


@pytest.fixture
def fleet() -> Fleet:
    """Two models on two device types, one type with a driver that changes half-way."""
    made = Fleet()
    for name in "ab":
        made.device(name, 300.0, "old", (0, "1.0"), (2, "2.0"))
    for name in "cd":
        made.device(name, 500.0, "new", (-100, "1.0"))
    made.runs("w1", "ab", 100.0, team="red")
    made.runs("w2", "c", 250.0, team="blue")
    made.runs("w3", "d", 10.0, model="large", framework="sglang", team="blue")
    return made


def test_a_league_ranks_within_a_model_by_joules(fleet: Fleet) -> None:
    found = fleet.league("sku")
    assert [(row["model"], row["sku"], row["rank"]) for row in found] == [
        ("large", "new", 1), ("m", "new", 1), ("m", "old", 2),
    ]  # fmt: skip
    assert [row["joules_per_token"] for row in found] == pytest.approx([50.0, 2.0, 6.0])
    assert found[2]["tokens_per_joule"] == pytest.approx(1 / 6)
    # A device each: boards are off independently of each other, 5 % each.
    assert found[1]["joules_per_token_high"] == pytest.approx(2.0 * 1.05)
    assert found[2]["joules_per_token_low"] == pytest.approx(6.0 * (1 - 0.05 / 2**0.5))
    assert [row["tokens_per_s_per_device"] for row in found] == pytest.approx([10.0, 250.0, 50.0], rel=1e-2)
    assert (found[2]["workloads"], found[2]["devices"], found[2]["device_h"]) == (1, 2, pytest.approx(8.0))


def test_what_ranks_together_is_the_callers_choice(fleet: Fleet) -> None:
    found = fleet.league("team", within=())
    assert {row["team"]: row["rank"] for row in found} == {"blue": 1, "red": 2}
    assert "model" not in found[0]


def test_drivers_and_frameworks_are_ranked_within_a_type_and_models_too(fleet: Fleet) -> None:
    assert list(fleet.league("driver_version")[0])[:4] == ["model", "sku", "driver_version", "rank"]
    assert list(fleet.league("framework")[0])[:4] == ["model", "sku", "framework", "rank"]
    of_new = {row["model"]: row["rank"] for row in fleet.league("model") if row["sku"] == "new"}
    assert of_new == {"m": 1, "large": 2}


@pytest.mark.parametrize(
    ("per", "names"), [("framework", {"vllm", "sglang"}), ("site", {"here", "there"}), ("workload", {"w1", "w2", "w3"})]
)
def test_any_of_the_keys_can_be_ranked(fleet: Fleet, per: str, names: set[str]) -> None:
    assert {row[per] for row in fleet.league(per)} == names


def test_work_belongs_to_the_driver_of_its_time(fleet: Fleet) -> None:
    found = {
        row["driver_version"]: row for row in fleet.league("driver_version", within=["model"]) if row["model"] == "m"
    }
    assert set(found) == {"1.0", "2.0"}
    # The new devices and the first two hours of the old ones; then the rest of the old ones.
    assert found["1.0"]["device_h"] == pytest.approx(4 + 2 * 2)
    assert found["2.0"]["device_h"] == pytest.approx(2 * 2)
    assert found["2.0"]["joules_per_token"] == pytest.approx(6.0)


def test_a_window_in_which_the_driver_changed_belongs_to_none(fleet: Fleet) -> None:
    fleet.told = [{**row, "time": at(2.5) if row["driver_version"] == "2.0" else row["time"]} for row in fleet.told]
    found = {row["driver_version"]: row for row in fleet.league("driver_version") if row["model"] == "m"}
    assert found["several"]["rank"] is None
    assert found["several"]["device_h"] == pytest.approx(2.0)
    assert found["2.0"]["device_h"] == pytest.approx(2.0)


def test_a_group_on_two_types_is_listed_and_not_ranked(fleet: Fleet) -> None:
    fleet.device("e", 300.0, "old", (0, "1.0"))
    fleet.device("f", 500.0, "new", (0, "1.0"))
    fleet.runs("mixed", "ef", 100.0)
    found = {row["sku"]: row for row in fleet.league("sku") if row["model"] == "m"}
    assert (found["several"]["rank"], found["several"]["joules_per_token"]) == (None, pytest.approx(8.0))
    assert "several at once" in found["several"]["unranked"]
    assert found["old"]["joules_per_token"] == pytest.approx(6.0)


def lone(fleet: Fleet, **league_options: Any) -> dict[str, Any]:
    (row,) = [row for row in fleet.league("sku", **league_options) if row["model"] == "x"]
    return row


def test_a_row_without_enough_evidence_is_listed_with_the_reason() -> None:
    few = Fleet()
    few.device("a", 300.0, "old", (0, "1"))
    few.runs("w", "a", 1.0, model="x")
    row = lone(few)
    assert (row["rank"], row["joules_per_token"]) == (None, pytest.approx(300.0))
    assert row["unranked"] == "14400 tokens; 100,000 are needed"
    assert lone(few, evidence=Evidence(token=1000.0))["rank"] == 1
    assert "device-hours; 10 are needed" in lone(few, evidence=Evidence(token=1.0, device_h=10.0))["unranked"]

    gaps = Fleet()
    gaps.device("a", 300.0, "old", (0, "1"))
    gaps.samples = [row for row in gaps.samples if not at(1) < row["time"] < at(2)]
    gaps.runs("w", "a", 100.0, model="x")
    assert lone(gaps)["unranked"] == "75 % of the time has energy; 90% is needed"
    # What has no energy is taken at the mean of the rest, so the figure is not too low by it.
    assert lone(gaps)["joules_per_token"] == pytest.approx(3.0, rel=0.01)

    unread = Fleet()
    unread.device("a", 300.0, "old", (0, "1"))
    unread.runs("w", "a", 100.0, model="x", until=2.0)
    assert lone(unread)["unranked"] == "counters were read in 50 % of the time; 90% is needed"
    assert lone(unread)["joules_per_token"] == pytest.approx(3.0)

    modelled = Fleet()
    modelled.device("a", 300.0, "old", (0, "1"), method="modelled")
    modelled.runs("w", "a", 100.0, model="x")
    assert lone(modelled)["unranked"] == "some of the energy is modelled, not measured"
    assert lone(modelled)["joules_per_token_low"] is None

    silent = Fleet()
    silent.device("a", 300.0, "old", (0, "1"))
    silent.runs("w", "a", 0.0, model="x")
    assert lone(silent)["unranked"] == "no tokens were counted"
    assert lone(silent, measure="sample")["unranked"] == "no samples were counted"


def test_joules_per_sample_and_step_are_leagues_too(fleet: Fleet) -> None:
    fleet.work = [{**row, "samples": row["tokens_out"] / 10, "steps": row["tokens_out"] / 1000} for row in fleet.work]
    assert [row["joules_per_sample"] for row in fleet.league("sku", measure="sample")] == pytest.approx(
        [500.0, 20.0, 60.0]
    )
    assert [row["joules_per_step"] for row in fleet.league("sku", measure="step")] == pytest.approx(
        [50_000.0, 2000.0, 6000.0]
    )


def test_latency_is_the_mean_over_time(fleet: Fleet) -> None:
    fleet.runs("w9", "d", 50.0, latency_p99_s=2.0)
    row = next(row for row in fleet.league("workload") if row["workload"] == "w9")
    assert (row["latency_p99_s"], row["latency_p50_s"]) == (pytest.approx(2.0), None)


# ---------------------------------------------------------------------------------------------------------------- front


def table(points: list[tuple[str, float | None, float | None, bool]]) -> pl.LazyFrame:
    return pl.LazyFrame(
        [
            {"model": model, "workload": str(n), "rank": 1 if ranked else None, "joules_per_token": joules,
             "tokens_per_s_per_device": rate, "latency_p99_s": rate}
            for n, (model, joules, rate, ranked) in enumerate(points)
        ],
        schema={"model": pl.String, "workload": pl.String, "rank": pl.UInt32, "joules_per_token": pl.Float64,
                "tokens_per_s_per_device": pl.Float64, "latency_p99_s": pl.Float64},
    )  # fmt: skip


def naive(points: list[tuple[str, float | None, float | None, bool]], sign: float) -> dict[str, bool | None]:
    """Every pair of rows compared."""

    whole = {
        n: (model, joules, sign * rate)
        for n, (model, joules, rate, ranked) in enumerate(points)
        if ranked and joules is not None and rate is not None
    }

    def beats(one: tuple[str, float, float], other: tuple[str, float, float]) -> bool:
        no_worse = one[0] == other[0] and one[1] <= other[1] and one[2] >= other[2]
        return no_worse and (one[1] < other[1] or one[2] > other[2])

    front = {n: not any(beats(other, one) for other in whole.values()) for n, one in whole.items()}
    return {str(n): front.get(n) for n in range(len(points))}


number = st.one_of(st.none(), st.integers(0, 6).map(float))
points_of = st.lists(st.tuples(st.sampled_from(["m", "n"]), number, number, st.booleans()), max_size=12)


@given(points_of)
def test_the_front_is_what_no_other_row_beats(points: list[tuple[str, float | None, float | None, bool]]) -> None:
    for axis, sign in (("throughput", 1.0), ("p99", -1.0)):
        found = pareto(table(points), axis=axis).collect()  # type: ignore[arg-type]
        assert dict(found.select("workload", "front").iter_rows()) == naive(points, sign)


def test_the_front_comes_first_within_its_model() -> None:
    found = pareto(table([("m", 3.0, 1.0, True), ("m", 1.0, 1.0, True), ("m", 2.0, 5.0, True), ("a", 9.0, 9.0, True)]))
    assert found.collect()["workload"].to_list() == ["3", "1", "2", "0"]


@pytest.mark.skipif(not CONFIGURATIONS.exists(), reason="no ../shared/data/efficiency")
def test_the_front_of_measured_configurations_is_what_comparing_all_pairs_gives() -> None:
    with CONFIGURATIONS.open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["energy_per_token_joules"]]
    points: list[tuple[str, float | None, float | None, bool]] = [
        (
            f"{row['task']} {row['model_id']}",
            float(row["energy_per_token_joules"]),
            float(row["output_throughput_tokens_per_sec"]) / float(row["num_gpus"]),
            True,
        )
        for row in rows
    ]
    found = pareto(table(points)).collect()
    assert len(points) > 800
    assert dict(found.select("workload", "front").iter_rows()) == naive(points, 1.0)
