"""The job of capacity, in a store of ten days."""

import polars as pl
import pytest

from analytics.frames import scan
from analytics.jobs.chain import JOBS
from analytics.jobs.running import Documents, run
from collector.store import Store

NS = 1_000_000_000
DAY_S = 86_400
START_S = 1_767_225_600
DAYS = 10
FLEET = """
[[site]]
name = "oslo"
pue = 1.2
[[domain]]
name = "a"
site = "oslo"
rating_w = 900
[[domain]]
name = "b"
site = "oslo"
rating_w = 900
[[rack]]
name = "r1"
feeds = ["a", "b"]
hosts = ["h1"]
[[rack]]
name = "r2"
feeds = ["a", "b"]
hosts = ["h2"]
"""
CHAIN = tuple(job for job in JOBS if job.name in {"rollups", "capacity", "incidents"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two hosts of one board of 500 W each, read every minute."""
    made = Store.create(tmp_path_factory.mktemp("capacity") / "store")
    times = list(range(START_S, START_S + DAYS * DAY_S, 60))
    made.write(
        "device_samples",
        {
            "device": [name for name in ("d1", "d2") for _ in times],
            "time": [at * NS for _ in range(2) for at in times],
            "source": ["s"] * 2 * len(times),
            "host": [name for name in ("h1", "h2") for _ in times],
            "power_w": [500.0] * 2 * len(times),
        },
    )
    return made


@pytest.mark.timeout(300)
def test_a_node_that_cannot_bear_a_failure_is_an_incident_and_advice(store: Store) -> None:
    now_ns = (START_S + DAYS * DAY_S + 3600) * NS
    outcomes = run(store.root, jobs=CHAIN, documents=Documents(texts={"fleet": FLEET}), now_ns=now_ns)
    assert {(outcome.job, outcome.state, outcome.error) for outcome in outcomes} == {
        ("rollups", "done", None),
        ("capacity", "done", None),
        ("incidents", "done", None),
    }
    rows = {row["node"]: row for row in scan(store, "headroom").collect().iter_rows(named=True)}
    # With one feed lost the other carries both racks: 1 kW on 900 W.
    assert rows["a"]["headroom_w"] == pytest.approx(900.0 - 1000.0)
    assert {"oslo", "a", "b", "r1", "r2"} <= set(rows)
    ledger = dict(scan(store, "stranded").select("cause", "power_w").collect().iter_rows())
    assert sum(watts for cause, watts in ledger.items() if cause != "installed") == pytest.approx(ledger["installed"])
    advice = scan(store, "recommendations").collect()
    assert "move" in advice["kind"].to_list()
    assert advice["state"].null_count() == 0
    wrong = scan(store, "incidents").filter(pl.col("kind") == "overload").collect()
    assert sorted(wrong["name"].unique()) == ["a", "b"]
    assert set(wrong["scope"]) == {"domain"}
    assert "it would carry 1.0 kW of the 0.9 kW that it may" in wrong["evidence"][0]
    again = run(store.root, jobs=CHAIN, documents=Documents(texts={"fleet": FLEET}), now_ns=now_ns)
    assert again == []


def test_without_a_site_or_days_enough_it_waits(store: Store) -> None:
    (one,) = run(store.root, names=["capacity"], jobs=CHAIN, now_ns=(START_S + DAYS * DAY_S) * NS, force=True)
    assert (one.state, one.error) == (
        "skipped", "fleet.toml describes no site, so there is no power tree to look at"
    )  # fmt: skip
