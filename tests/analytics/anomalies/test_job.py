"""The job in a store: a simulated fleet with labelled faults, and what is found of them."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analytics.anomalies.rows import rows_before
from analytics.frames import scan
from analytics.jobs.chain import JOBS
from analytics.jobs.running import Documents, run
from collector.moments import NS
from collector.sources.simulated import faults, fleet, simulate
from collector.store import Store

HOUR_NS = 3600 * NS
START_NS = 1_767_225_600 * NS
HOURS = 30
LATER_NS = START_NS + (HOURS + 1) * HOUR_NS

FAULTS = [
    {"kind": "power_brake", "subject": "dublin-r01-n2", "start": 7200, "end": 8400},
    {"kind": "device_lost", "subject": 0, "start": 14_400, "end": 18_000},
    {"kind": "ecc_storm", "subject": 17, "start": 28_800, "end": 30_600},
    {"kind": "missing_samples", "subject": 9, "start": 36_000, "end": 37_800},
    # Over midnight, and still away when the data end.
    {"kind": "device_lost", "subject": 20, "start": 84_000, "end": HOURS * 3600},
]
OPTIONS = {
    "devices": 24, "seed": 5, "step_s": 60, "faults": FAULTS, "origin": START_NS // 1, "mix": {"H100": 1.0}
}  # fmt: skip


def told(store: Store) -> list[dict[str, Any]]:
    """What rules of devices found; of what detectors find test_scoring tells."""
    rows = [row for row in rows_before(scan(store, "incidents")) if row["part_of"] is None and row["p_value"] is None]
    rows = [row for row in rows if row["kind"] != "stalled"]
    return sorted(rows, key=lambda row: (row["start"], row["name"]))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.create(tmp_path_factory.mktemp("incidents") / "store")
    for tables in simulate(OPTIONS, START_NS, START_NS + HOURS * HOUR_NS):
        tables.pop("facility_samples", None)  # whose prices go before those of fleet.toml
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
    return store


@pytest.fixture(scope="module")
def documents() -> Documents:
    sites = [{key: site[key] for key in ("name", "currency", "price_per_kwh")} for site in fleet(OPTIONS)["site"]]
    text = "".join(
        '[[site]]\nhosts = ["*"]\npue = 1.2\n' + "".join(f"{key} = {json.dumps(site[key])}\n" for key in site)
        for site in sites
    )
    return Documents(texts={"fleet": text})


@pytest.fixture(scope="module")
def judged(filled: Store, documents: Documents) -> Store:
    outcomes = run(filled.root, documents=documents, now_ns=LATER_NS)
    states = {outcome.job: outcome.state for outcome in outcomes}
    assert states.keys() == {job.name for job in JOBS}
    # A day is too little to tell how long power will last, or what a day ahead will be.
    assert {states.pop("capacity"), states.pop("forecasts")} == {"skipped"}
    assert set(states.values()) == {"done"}
    return filled


def minutes(row: dict[str, Any]) -> tuple[float, float]:
    return (row["start"] - START_NS) / 60 / NS, (row["last"] - START_NS) / 60 / NS


def test_every_fault_that_a_rule_knows_is_one_incident_and_there_are_no_others(judged: Store) -> None:
    rows = [row for row in told(judged) if row["severity"] == "critical"]
    ids = scan(judged, "devices").select("device").unique().collect()["device"].sort().to_list()
    assert [(row["kind"], row["scope"]) for row in rows] == [
        ("power_brake", "host"), ("device_missing", "device"), ("memory_errors", "device"),
        ("device_missing", "device"), ("device_missing", "device"), ("device_missing", "site"),
    ]  # fmt: skip
    assert {row["name"] for row in rows} - set(ids) == {"dublin-r01-n2", "dublin"}
    for row, fault in zip(rows, FAULTS, strict=False):
        start, last = minutes(row)
        assert abs(start - fault["start"] / 60) <= 10, row  # type: ignore[operator]
        assert abs(last - fault["end"] / 60) <= 10 or row["state"] == "open", row  # type: ignore[operator]


def test_the_job_of_a_device_that_was_lost_is_told_with_it_and_is_no_incident_of_its_own(judged: Store) -> None:
    rows = rows_before(scan(judged, "incidents"))
    assert [row["name"] for row in rows if row["kind"] == "stalled"] == []
    lost = [one for one in faults(OPTIONS, START_NS, LATER_NS) if one.kind == "device_lost"]
    held = scan(judged, "allocations").collect()
    named = 0
    for fault in lost:
        (row,) = (row for row in told(judged) if row["name"] == fault.subject and row["kind"] == "device_missing")
        workloads = held.filter(pl.col("device") == fault.subject)["workload"].to_list()
        named += any(f"nothing was read, and {name} makes no " in row["evidence"] for name in workloads)
    assert named >= 1


def test_what_is_away_over_midnight_is_one_open_incident_with_two_rows(judged: Store) -> None:
    away, everything = told(judged)[-2:]
    assert (away["kind"], away["state"]) == ("device_missing", "open")
    assert "XID 79: the device fell off the bus; the device left; nothing was read" in away["evidence"]
    both = scan(judged, "incidents").filter(pl.col("incident") == away["incident"]).sort("time").collect()
    assert both.height == 2
    assert both["start"].n_unique() == 1
    assert both["windows"].is_sorted()
    # The data end an hour before it is looked at: then all the others are missing too, and that is one incident.
    assert (everything["scope"], everything["name"], everything["devices"]) == ("site", "dublin", 23)
    assert everything["evidence"].startswith(
        "3 of 3 hosts of site dublin: nothing was read, since 2026-01-02 06:00 UTC"
    )


def test_what_it_costs_is_told_where_it_is_known(judged: Store) -> None:
    rows = {row["kind"]: row for row in told(judged) if row["wasted_j"]}
    brake = rows["power_brake"]
    assert brake["lost_tokens"] is None or brake["lost_tokens"] >= 0
    kwh = brake["wasted_j"] / 3.6e6
    assert brake["wasted_cost"] == pytest.approx(kwh * 1.2 * 0.12)
    assert (brake["currency"], brake["site"]) == ("EUR", "dublin")


def test_looked_at_in_between_it_ends_the_same(judged: Store, documents: Documents, tmp_path: Path) -> None:
    jobs = tuple(job for job in JOBS if job.name in {"rollups", "incidents"})
    live = Store.create(tmp_path / "live")
    seen: dict[str, str] = {}
    for hour in (5, 26, HOURS):
        for table in ("device_samples", "devices", "events"):
            first = START_NS + (0 if hour == 5 else {26: 5, HOURS: 26}[hour]) * HOUR_NS
            rows = scan(judged, table, first, START_NS + hour * HOUR_NS).collect()
            if rows.height:
                live.write(table, rows, writer="live")
        run(live.root, jobs=jobs, documents=documents, now_ns=START_NS + hour * HOUR_NS + 60 * NS)
        for row in told(live):
            subject = f"{row['kind']} {row['name']} {row['start']}"
            assert seen.setdefault(subject, row["incident"]) == row["incident"]
    run(live.root, jobs=jobs, documents=documents, now_ns=LATER_NS)
    wanted = ("incident", "state", "start", "last", "severity", "name", "rule", "subjects")
    assert [[row[key] for key in wanted] for row in told(live)] == [
        [row[key] for key in wanted] for row in told(judged)
    ]


def test_run_again_nothing_is_doubled(judged: Store, documents: Documents) -> None:
    before = told(judged)
    outcomes = run(judged.root, names=["incidents"], force=True, documents=documents, now_ns=LATER_NS)
    assert not any(outcome.changed for outcome in outcomes if outcome.job == "incidents")
    assert told(judged) == before


def test_other_rules_make_it_due(judged: Store, documents: Documents) -> None:
    rules = '[[missing]]\nname = "absent"\nenabled = false\n'
    changed = Documents(texts={**documents.texts, "rules": rules})
    outcomes = run(judged.root, documents=changed, now_ns=LATER_NS)
    assert {outcome.job for outcome in outcomes} == {"incidents"}
    kinds = [(row["kind"], row["rule"]) for row in told(judged) if row["severity"] == "critical"]
    assert ("device_missing", "absent") not in kinds
    assert len(kinds) == len(FAULTS) - 1  # only the missing samples came without an event
