"""Readings made of rollups have what the readings had that the rollups were made of."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics.energy import energy
from analytics.fleet import Fleet
from analytics.frames import by_slot, scan
from analytics.frames_ledger import read_ledger, read_runs
from analytics.slots import SLOT_S
from analytics.waste import waste
from collector.store import Store

NS = 1_000_000_000
DAY_NS = 1_772_323_200 * NS
HOUR_S = 3600
END_S = 30 * HOUR_S
STEP_S = 30
CHANGED_S = 6 * HOUR_S + 130
"""When a job ends and another begins, in the middle of a slot."""
IDLE_S = (10 * HOUR_S, 10 * HOUR_S + 1350)
"""From a slot's beginning to the middle of another."""


def readings(device: str, *, counter: bool) -> pl.DataFrame:
    """At work but for `IDLE_S`, and not read for an hour."""
    at = np.arange(STEP_S, END_S + 1, STEP_S)
    at = at[(at <= 15 * HOUR_S) | (at > 16 * HOUR_S)]
    idle = (at > IDLE_S[0]) & (at <= IDLE_S[1])
    # It wanders by the hour.
    watts = np.where(idle, 80.0, 500.0 + 50 * np.sin(at / 7000))
    joules = 1e6 + np.cumsum(watts * np.diff(at, prepend=0))
    return pl.DataFrame(
        {
            "device": device, "source": "s", "host": "h", "power_method": "average", "power_scope": "device",
            "time": DAY_NS + at * NS, "power_w": watts, "energy_j": joules if counter else None,
            "utilization_ratio": np.where(idle, 0.0, 0.9), "activity_sm_ratio": np.where(idle, 0.0, 0.7),
            "throttle_thermal_s": np.cumsum(np.where(at > 20 * HOUR_S, 3.0, 0.0)) + 50,
            "clock_sm_hz": np.where(at > 20 * HOUR_S, 1.2e9, 1.8e9),
        },
        schema_overrides={"energy_j": pl.Float64},
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.create(tmp_path_factory.mktemp("slots") / "store")
    store.write("device_samples", pl.concat([readings("a", counter=True), readings("b", counter=False)]))
    edges = [(0, CHANGED_S, "one"), (CHANGED_S, None, "two")]
    store.write(
        "allocations",
        pl.DataFrame(
            [
                {
                    "workload": name, "device": device, "host": "h", "user": name, "share": 1.0,
                    "start": DAY_NS + since * NS, "end": None if until is None else DAY_NS + until * NS,
                    "time": DAY_NS + since * NS, "source": "s",
                }
                for since, until, name in edges
                for device in ("a", "b")
            ],
            schema_overrides={"end": pl.Int64},
        ),
    )  # fmt: skip
    assert store.roll_up(DAY_NS + END_S * NS) > 5
    return store


@pytest.fixture(scope="module")
def slots(store: Store) -> pl.DataFrame:
    parts = by_slot(store, DAY_NS, DAY_NS + END_S * NS, rows=500)
    assert parts is not None
    # Each device by itself, and what was never rolled up.
    assert len(parts) == 3
    return pl.concat(parts, how="diagonal").collect()


def test_energy_is_that_of_the_readings_in_fewer_rows(store: Store, slots: pl.DataFrame) -> None:
    read = scan(store, "device_samples").collect()
    assert slots.height < read.height / 3
    found = energy(slots.lazy(), by="1h", max_gap_s=SLOT_S).collect()
    expected = energy(read.lazy(), by="1h").collect()
    assert found.select("device", "window").equals(expected.select("device", "window"))
    assert found["counter_j"].to_list() == pytest.approx(expected["counter_j"].to_list(), rel=1e-6, abs=1e-3)
    # At the edges of what was not read a step is shared by time.
    assert found["energy_j"].sum() == pytest.approx(expected["energy_j"].sum(), rel=1e-5)
    assert found["covered_s"].sum() == pytest.approx(expected["covered_s"].sum(), abs=2)


def test_counters_go_on_in_what_is_read_after_the_rollups(slots: pl.DataFrame) -> None:
    for _, rows in slots.sort("time").group_by("device"):
        for name in ("energy_j", "throttle_thermal_s"):
            told = rows[name].drop_nulls()
            assert told.is_sorted()
    last = slots.filter(device="a").sort("time")["throttle_thermal_s"][-1]
    # A reading at the end of the window is not in it.
    assert last == pytest.approx(50 + 3 * (10 * HOUR_S / STEP_S - 1))


def told(store: Store, parts: list[pl.LazyFrame] | None) -> dict[str, tuple[float, float]]:
    gap_s = None if parts is None else float(SLOT_S)
    window = DAY_NS, DAY_NS + END_S * NS
    lines = read_ledger(store, *window, fleet=Fleet(), parts=parts, max_gap_s=gap_s).lines
    rows = waste(lines).collect()
    return {row["cause"]: (row["device_h"], row["energy_j"] or 0.0) for row in rows.iter_rows(named=True)}


def test_the_ledger_finds_the_same_causes(store: Store) -> None:
    expected, found = told(store, None), told(store, by_slot(store, DAY_NS, DAY_NS + END_S * NS))
    assert {"idle", "throttled", "useful", "unmeasured"} <= expected.keys()
    for cause in expected.keys() | found.keys():
        (hours, joules), (found_h, found_j) = (some.get(cause, (0.0, 0.0)) for some in (expected, found))
        assert found_h == pytest.approx(hours, rel=0.01, abs=0.03), cause
        assert found_j == pytest.approx(joules, rel=0.01, abs=2e5), cause


def test_a_job_has_what_it_held_to_the_second(store: Store) -> None:
    window = DAY_NS, DAY_NS + END_S * NS
    whole = read_runs(store, *window, fleet=Fleet()).collect()
    found = read_runs(store, *window, fleet=Fleet(), parts=by_slot(store, *window), max_gap_s=SLOT_S).collect()
    for runs in (whole, found):
        first = runs.filter(pl.col("workload") == "one").group_by("device").agg(pl.col("span_s", "energy_j").sum())
        assert first["span_s"].to_list() == pytest.approx([CHANGED_S] * 2, abs=STEP_S + 1)
    of = [runs.group_by("workload").agg(pl.col("energy_j").sum()).sort("workload") for runs in (whole, found)]
    assert of[1]["energy_j"].to_list() == pytest.approx(of[0]["energy_j"].to_list(), rel=1e-3)


def test_what_is_not_rolled_up_is_not_made_up(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_samples", readings("a", counter=True))
    assert by_slot(store, DAY_NS, DAY_NS + END_S * NS) is None
