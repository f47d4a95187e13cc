"""The job of energy: day by day, hour by hour or at once, it comes to the same as one pass over everything."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analytics.efficiency import efficiency
from analytics.energy import energy
from analytics.frames import scan
from analytics.inventory import held
from analytics.jobs.chain import JOBS
from analytics.jobs.running import Documents, run
from collector.sources.simulated import simulate
from collector.store import Store

NS = 1_000_000_000
HOUR_NS = 3600 * NS
# From ten in the evening to two at night, so that there is a midnight in it.
START_NS = 1_767_225_600 * NS + 22 * HOUR_NS
END_NS = START_NS + 4 * HOUR_NS
ENERGY = tuple(job for job in JOBS if job.name == "energy")
FLEET = Documents(texts={"fleet": '[[site]]\nname = "dublin"\nhosts = ["dublin-*"]\npue = 1.25\n'})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store.create(tmp_path_factory.mktemp("energy") / "store")
    for tables in simulate({"devices": 16, "seed": 3, "step_s": 20, "faults": 0.5}, START_NS, END_NS):
        tables.pop("facility_samples", None)
        for name, columns in tables.items():
            made.write(name, columns, writer="history")
    return made


@pytest.fixture(scope="module")
def done(store: Store) -> Store:
    outcomes = run(store.root, jobs=ENERGY, documents=FLEET, now_ns=END_NS + 48 * HOUR_NS)
    assert [(outcome.state, outcome.error) for outcome in outcomes] == [("done", None)] * 2
    return store


def test_days_of_energy_are_the_energy_of_one_pass(done: Store) -> None:
    whole = energy(scan(done, "device_samples"), by="900s", devices=scan(done, "devices")).collect()
    days = scan(done, "device_energy").collect()
    keys = ["device", "window"]
    columns = [*keys, "energy_j", "covered_s", "counter_j", "power_max_w", "power_min_w"]
    assert_frame_equal(
        days.rename({"time": "window"}).sort(keys).select(columns), whole.sort(keys).select(columns), rel_tol=1e-9
    )


def test_lines_add_up_to_devices_and_facilities_to_their_share(done: Store) -> None:
    lines = scan(done, "job_energy").collect()
    of_devices = lines.filter(pl.col("kind").is_in(["used", "idle", "unallocated"]))
    devices = scan(done, "device_energy").collect()
    assert of_devices["energy_j"].sum() == pytest.approx(devices["energy_j"].sum(), rel=1e-9)
    facility = lines.filter(pl.col("kind") == "facility")["energy_j"].sum()
    it = lines.filter(pl.col("kind") != "facility")["energy_j"].sum()
    assert facility == pytest.approx(0.25 * it, rel=1e-9)
    assert set(lines["kind"]) == {"used", "idle", "unallocated", "host", "facility"} & set(lines["kind"])
    assert lines["site"].unique().to_list() == ["dublin"]


def test_days_of_efficiency_are_the_efficiency_of_one_pass(done: Store) -> None:
    allocations = held(scan(done, "allocations"), None, END_NS)
    work, devices = scan(done, "workload_samples"), scan(done, "devices")
    whole = efficiency(scan(done, "device_samples"), work, allocations, by="900s", devices=devices).collect()
    days = scan(done, "efficiency").collect().rename({"time": "window"})
    keys = ["workload", "window"]
    columns = [*keys, "energy_j", "tokens", "devices", "allocated_s", "tokens_per_s"]
    told = [frame.sort(keys).select(columns).cast({"devices": pl.Int64}) for frame in (days, whole)]
    assert_frame_equal(*told, rel_tol=1e-6, abs_tol=1e-6)
    assert days["tokens"].sum() > 0


def test_hour_by_hour_while_it_runs_and_then_as_days_it_ends_the_same(
    store: Store, done: Store, tmp_path: Path
) -> None:
    live = Store.create(tmp_path / "live")
    tables = ("device_samples", "host_samples", "workload_samples", "devices", "allocations")
    for hour in range(4):
        for table in tables:
            rows = scan(store, table, START_NS + hour * HOUR_NS, START_NS + (hour + 1) * HOUR_NS).collect()
            if rows.height:
                live.write(table, rows, writer="live")
        run(live.root, jobs=ENERGY, documents=FLEET, now_ns=START_NS + (hour + 1) * HOUR_NS)
    run(live.root, jobs=ENERGY, documents=FLEET, now_ns=END_NS + 48 * HOUR_NS)
    for table, keys in (("device_energy", ["device", "time"]), ("efficiency", ["workload", "time"])):
        ends = [scan(root, table).collect().sort(keys) for root in (live, done)]
        assert_frame_equal(*ends, rel_tol=1e-6, abs_tol=1e-6)
