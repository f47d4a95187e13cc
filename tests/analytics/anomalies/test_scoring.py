"""The job that scores, in a store: a simulated fleet that runs a day as it should, and then does not."""

from pathlib import Path

import polars as pl
import pytest

from analytics.anomalies.observations import device_windows
from analytics.anomalies.rows import rows_before
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
    {"kind": "thermal_degradation", "subject": 12, "start": 27 * 3600, "end": 30 * 3600, "value": 1.6},
]
OPTIONS = {"devices": 40, "seed": 11, "step_s": 60, "faults": FAULTS, "origin": START_NS, "mix": {"H100": 1.0}}


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
    assert (found["expected_low"] < found["expected_mid"]).all()
    assert (found["expected_mid"] < found["expected_high"]).all()
    off = found["observed"] - found["expected_mid"]
    assert (off.sign() == found["score"].sign()).all()
    assert (found["peers"].is_not_null() == (found["detector"] == "peers")).all()


def test_what_was_expected_is_told_of_every_device_and_hour(scored: Store) -> None:
    found = scan(scored, "expectations").filter(pl.col("metric") == "power_w").collect()
    assert found.height >= 0.9 * 40 * (HOURS - 24)
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
