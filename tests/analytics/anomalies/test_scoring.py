"""The job that scores, in a store: a simulated fleet that runs a day as it should, and then does not."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analytics.anomalies.observations import device_windows
from analytics.anomalies.rows import rows_before
from analytics.anomalies.scoring import _of_their_usual, _unlike_peers
from analytics.fleet import Fleet
from analytics.frames import scan
from analytics.jobs.chain import JOBS
from analytics.jobs.running import run
from collector.moments import NS
from collector.sources.simulated import faults, simulate
from collector.store import Store

HOUR_NS = 3600 * NS
START_NS = 1_767_225_600 * NS
HOURS = 31
NOW_NS = START_NS + HOURS * HOUR_NS
NAMES = {"rollups", "anomaly_scores", "incidents"}
WANTED = tuple(job for job in JOBS if job.name in NAMES)

FAULTS = [
    {"kind": "clock_stuck", "subject": 3, "start": 26 * 3600, "end": 29 * 3600},
    {"kind": "thermal_degradation", "subject": 18, "start": 27 * 3600, "end": 30 * 3600, "value": 1.6},
    {"kind": "idle_allocated", "subject": 25, "start": 26 * 3600, "end": 28 * 3600},
    {"kind": "straggler", "subject": 29, "start": 28 * 3600, "end": 30 * 3600},
]
OPTIONS = {"devices": 48, "seed": 11, "step_s": 60, "faults": FAULTS, "origin": START_NS, "mix": {"H100": 1.0}}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.create(tmp_path_factory.mktemp("scores") / "store")
    for tables in simulate(OPTIONS, START_NS, NOW_NS):
        for name in ("device_samples", "workload_samples", "allocations", "devices"):
            if name in tables:
                store.write(name, tables[name], writer="history")
    outcomes = {outcome.window.start_ns: outcome for outcome in run(store.root, jobs=WANTED, now_ns=NOW_NS)
                if outcome.job == "anomaly_scores"}  # fmt: skip
    first, second = (outcomes[day] for day in sorted(outcomes))
    assert first.state == "skipped"
    assert first.error == "0 hours of windows in the days before; 12 are needed to know what is normal"
    assert second.state == "done", second.error
    return store


def test_scores_are_of_the_odd_tail_and_say_what_was_expected(scored: Store) -> None:
    found = scan(scored, "anomaly_scores").collect()
    assert found["p_value"].is_between(0, 0.05, closed="right").all()
    assert set(found["detector"]) == {"expectation", "peers"}
    assert set(found["metric"]) >= {"power_w", "temperature_c", "clock_sm_hz"}
    # Clocks at their highest are all the same, and so are the bounds.
    assert (found["expected_low"] <= found["expected_mid"]).all()
    assert (found["expected_mid"] <= found["expected_high"]).all()
    power = found.filter(pl.col("metric") == "power_w")
    assert ((power["expected_low"] < power["expected_mid"]) & (power["expected_mid"] < power["expected_high"])).all()
    off = found["observed"] - found["expected_mid"]
    assert (off.sign() == found["score"].sign()).all()
    assert (found["peers"].is_not_null() == (found["detector"] == "peers")).all()


def test_what_was_expected_is_told_of_every_device_and_hour(scored: Store) -> None:
    found = scan(scored, "expectations").filter(pl.col("metric") == "power_w").collect()
    assert found.height >= 0.9 * 48 * (HOURS - 24)
    error = (found["observed"] / found["expected_mid"] - 1).abs()
    assert error.median() < 0.03  # type: ignore[operator]


def test_faults_are_incidents_of_their_device_with_evidence_in_numbers(scored: Store) -> None:
    labels = {fault.kind: fault for fault in faults(OPTIONS, START_NS, NOW_NS)}
    rows = [row for row in rows_before(scan(scored, "incidents")) if row["part_of"] is None]
    (clock,) = [row for row in rows if row["kind"] == "clock_low" and row["name"] == labels["clock_stuck"].subject]
    assert abs(clock["start"] - labels["clock_stuck"].start_ns) <= 600 * NS
    assert clock["observed"] < 0.6 * clock["expected_mid"]
    assert clock["p_value"] <= 0.001
    assert " were expected" in clock["evidence"]


def incidents_of(store: Store, kind: str, since_h: float, until_h: float) -> list[dict[str, Any]]:
    """Those of a kind that began in some hours, latest word first, none that a wider one took in."""
    first, last = (START_NS + round(hour * HOUR_NS) for hour in (since_h, until_h))
    rows = rows_before(scan(store, "incidents"))
    return [row for row in rows if row["kind"] == kind and first <= row["start"] < last and row["part_of"] is None]


def workload_of(store: Store, device: str) -> str:
    mine = scan(store, "allocations").filter(pl.col("device") == device).collect()
    (workload,) = set(mine["workload"])
    return str(workload)


def test_a_service_that_hangs_is_one_incident_of_that_service(scored: Store) -> None:
    (fault,) = (one for one in faults(OPTIONS, START_NS, NOW_NS) if one.kind == "idle_allocated")
    (one,) = incidents_of(scored, "stalled", 24, HOURS)
    assert (one["scope"], one["name"]) == ("workload", workload_of(scored, fault.subject))
    assert abs(one["start"] - fault.start_ns) <= 600 * NS
    assert abs(one["last"] - fault.end_ns) <= 600 * NS
    assert one["severity"] == "critical"
    assert re.search(r"makes no tokens any more, after [\d.,]+ a second, and \d+ requests wait or run", one["evidence"])


def test_a_service_that_makes_less_than_what_its_device_does_for_it_is_slow(scored: Store) -> None:
    (fault,) = (one for one in faults(OPTIONS, START_NS, NOW_NS) if one.kind == "straggler")
    slow = incidents_of(scored, "slow", 24, HOURS)
    (one,) = (row for row in slow if row["name"] == workload_of(scored, fault.subject))
    assert abs(one["start"] - fault.start_ns) <= 900 * NS
    assert 0.7 < one["observed"] / one["expected_mid"] < 0.85
    # No service is slow before anything is wrong, in the quietest hours.
    assert not [row for row in slow if row["start"] < START_NS + 26 * HOUR_NS]


def test_weak_cooling_is_told_by_degrees_for_each_watt(scored: Store) -> None:
    (fault,) = (one for one in faults(OPTIONS, START_NS, NOW_NS) if one.kind == "thermal_degradation")
    hot = [row for row in incidents_of(scored, "hot", 26.5, 30) if row["name"] == fault.subject]
    assert len(hot) == 1
    assert "cooling_weak" in hot[0]["rule"].split()
    assert "each watt warmed it by" in hot[0]["evidence"]


def test_a_hot_device_is_odd_among_its_peers(scored: Store) -> None:
    (fault,) = (one for one in faults(OPTIONS, START_NS, NOW_NS) if one.kind == "thermal_degradation")
    inside = pl.col("time").to_physical().is_between(fault.start_ns, fault.end_ns)
    found = scan(scored, "anomaly_scores").filter(
        inside & (pl.col("subject") == fault.subject) & (pl.col("metric") == "temperature_c") & (pl.col("score") > 0)
    )
    assert found.filter(pl.col("p_value") <= 0.02).collect().height >= 5


def test_a_window_that_two_workloads_share_is_left_out(scored: Store, tmp_path: Path) -> None:
    found = device_windows(
        scan(scored, "device_rollups"), scan(scored, "allocations"), scan(scored, "devices"), Fleet(), until_ns=NOW_NS
    )
    ends = scan(scored, "allocations").filter(pl.col("end").is_not_null()).select(subject="device", end="end").collect()
    inside = ends.join(found, on="subject").filter(
        (pl.col("end") > pl.col("time")) & (pl.col("end") < pl.col("time") + pl.duration(minutes=5))
    )
    assert ends.height > 10
    assert inside.is_empty()
    assert found.select(pl.struct("subject", "time").is_unique().all()).item()


def test_done_again_nothing_changes(scored: Store) -> None:
    outcomes = run(scored.root, names=["anomaly_scores"], force=True, jobs=WANTED, now_ns=NOW_NS)
    assert not any(outcome.changed for outcome in outcomes if outcome.job == "anomaly_scores")


def of_a_service(busy: list[float], **more: Any) -> pl.DataFrame:
    """Windows of a workload that makes what its devices are busy, hour by hour."""
    times = pl.Series([START_NS + at * HOUR_NS for at in range(len(busy))]).cast(pl.Datetime("ns"))
    same = {"clock_sm_hz": 1.9e9, "power_limit_w": 700.0, "serves": True, "subject": "serve-1", "normal": True, **more}
    names = ("utilization_ratio", "activity_sm_ratio", "activity_dram_ratio", "utilization_memory_ratio")
    activity = dict.fromkeys(names, busy)
    told = pl.DataFrame({"time": times, **activity, "tokens_per_s": [1000.0 * one for one in busy]})
    return told.with_columns(pl.lit(value).alias(name) for name, value in same.items())


def test_a_service_that_is_quieter_than_ever_is_not_judged() -> None:
    day = [0.3 + 0.02 * hour for hour in range(24)]
    found = _of_their_usual(of_a_service([*day, 0.5, 0.2]), START_NS + 24 * HOUR_NS)
    assert found["value"].tail(2).to_list() == [500.0, None]
    # What it did while it hung is no quiet hour of it.
    hung = of_a_service([*day, *([0.01] * 3), 0.2]).with_columns(normal=pl.col("activity_sm_ratio") > 0.1)
    assert _of_their_usual(hung, START_NS + 27 * HOUR_NS)["value"].tail(1).to_list() == [None]
    # A run has no quiet nights: that it is idler than ever is told.
    run_ = _of_their_usual(of_a_service([*day, 0.5, 0.2], serves=False), START_NS + 24 * HOUR_NS)
    assert run_["value"].tail(2).to_list() == [500.0, 200.0]


def test_what_is_usual_of_a_service_is_the_same_at_night_as_at_noon() -> None:
    found = _of_their_usual(of_a_service([*([0.2] * 8), *([0.8] * 16), 0.5]), START_NS + 24 * HOUR_NS)
    assert found["base"].unique().to_list() == [800.0]
    young = _of_their_usual(of_a_service([0.5] * 30), START_NS + 20 * HOUR_NS)
    assert young["base"].null_count() == young.height, "of so few hours nothing is known"


def test_a_device_that_draws_what_its_workload_draws_is_not_odd_by_what_was_read_of_its_activity() -> None:
    row = {"time": START_NS, "metric": "power_w", "window_s": 300, "p_value": 1e-4}
    told = pl.DataFrame(
        [
            {**row, "subject": subject, "detector": detector, "p_value": p, "of_workload": of_workload,
             "observed": 500.0, "expected_mid": mid}
            for subject, detector, p, of_workload, mid in (
                ("alike", "expectation", 1e-4, True, 400.0), ("alike", "peers", 0.4, True, 400.0),
                # Rare among what does the same work at the same moment, but by less than boards differ.
                ("near", "expectation", 1e-4, True, 400.0), ("near", "peers", 1e-4, True, 490.0),
                ("unlike", "expectation", 1e-4, True, 400.0), ("unlike", "peers", 0.01, True, 450.0),
                ("of a rack", "expectation", 1e-4, False, 400.0), ("of a rack", "peers", 0.4, False, 499.0),
                ("alone", "expectation", 1e-4, False, 400.0),
            )
        ]
    )  # fmt: skip
    kept = _unlike_peers(told).filter(pl.col("detector") == "expectation")["subject"].to_list()
    assert kept == ["unlike", "of a rack", "alone"]
    heat = told.with_columns(metric=pl.lit("temperature_c"))
    assert _unlike_peers(heat).height == heat.height
