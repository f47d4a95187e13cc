"""A store of which jobs have told something, in rows that are worked out by hand."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from analytics.frames import schema
from collector.store import Store

END = datetime(2026, 3, 4, 12, 0)
NOW_NS = int(END.replace(tzinfo=UTC).timestamp()) * 1_000_000_000
FLEET = """
[[site]]
name = "oslo"
hosts = ["node-a*"]
pue = 1.25
currency = "EUR"
price_per_kwh = 0.2

[[site]]
name = "dallas"
hosts = ["node-b1"]

[[domain]]
name = "oslo-a"
site = "oslo"
group = "oslo-feeds"
redundancy = "2N"
rating_w = 2000
derating_ratio = 0.8

[[domain]]
name = "oslo-b"
site = "oslo"
group = "oslo-feeds"
redundancy = "2N"
rating_w = 2000
derating_ratio = 0.8

[[rack]]
name = "oslo-r1"
site = "oslo"
feeds = ["oslo-a", "oslo-b"]
hosts = ["node-a1"]
"""


def line(kind: str, watts: float, **values: Any) -> dict[str, Any]:
    """What something drew in a quarter-hour."""
    joules = watts * 900
    return {"kind": kind, "window_s": 900, "span_s": 900.0, "covered_s": 900.0, "energy_j": joules,
            "energy_low_j": joules, "energy_high_j": joules, "modelled_j": 0.0, "site": "oslo", "host": "node-a1",
            **values}  # fmt: skip


def lines() -> list[dict[str, Any]]:
    """A day of quarter-hours: 700 W of accelerators, of which 400 W are idle, 100 W of their host; 100 W in Dallas."""
    rows = []
    for quarter in range(96):
        time = END - timedelta(minutes=15) * (quarter + 1)
        rows += [
            line("used", 300.0, device="GPU-a1", workload="vllm", time=time),
            line("idle", 400.0, device="GPU-a2", workload="vllm", time=time),
            line("host", 100.0, time=time),
            line("facility", 200.0, host=None, time=time, span_s=1800.0, covered_s=1800.0),
            {**line("unallocated", 100.0, device="TPU-b1", site="dallas", host="node-b1", time=time),
             "modelled_j": 90_000.0},
        ]  # fmt: skip
    return rows


def node(name: str, kind: str, load: float, failure: float, safe: float | None, **values: Any) -> dict[str, Any]:
    """A node of the power tree as the job of capacity tells it."""
    left, since = None if safe is None else safe - failure, END - timedelta(days=14)
    return {"node": name, "kind": kind, "site": "oslo", "load_w": load, "failure_load_w": failure, "safe_w": safe,
            "derated_w": safe, "headroom_w": left, "time": END, "start": since, **values}  # fmt: skip


HEADROOM = (
    node("oslo", "site", 1100.0, 1100.0, None, worst_failure="none"),
    node("oslo-a", "feed", 450.0, 900.0, 1600.0, worst_failure="oslo-b", binding="power", lead_days=90.0,
         runway_p10=datetime(2026, 5, 1), runway_p50=datetime(2026, 8, 1), order_by=datetime(2026, 1, 31),
         horizon=datetime(2027, 3, 4), runs_out_ratio=0.8),
    node("oslo-b", "feed", 450.0, 900.0, 1600.0, worst_failure="oslo-a", binding="power of oslo-a",
         runway_p10=datetime(2026, 5, 1)),
    node("oslo-feeds", "group", 900.0, 900.0, 1600.0, worst_failure="none", binding="power",
         runway_p10=datetime(2026, 5, 1)),
    node("oslo-r1", "rack", 900.0, 900.0, 1200.0, worst_failure="none"),
)  # fmt: skip
INCIDENTS: tuple[Mapping[str, Any], ...] = (
    {"incident": "i1", "scope": "device", "name": "GPU-a2", "host": "node-a1", "site": "oslo", "kind": "idle_allocated",
     "severity": "warning", "state": "open", "start": END - timedelta(hours=3), "last": END, "time": END,
     "evidence": "GPU-a2 on node-a1: held and idle, since 2026-03-04 09:00 UTC, for 3 h so far", "rule": "idle",
     "metric": "utilization_mean_ratio", "observed": 0.25, "expected_high": 0.5, "windows": 36, "flaps": 0,
     "devices": 1, "subjects": "device:GPU-a2", "wasted_j": 4.32e6, "wasted_cost": 0.24, "currency": "EUR",
     "action": "End the job.", "workload": "vllm"},
    {"incident": "i2", "scope": "host", "name": "node-b1", "host": "node-b1", "site": "dallas", "kind": "power_brake",
     "severity": "critical", "state": "open", "start": END - timedelta(hours=1), "last": END, "time": END,
     "evidence": "host node-b1: an external power brake held its clocks down", "rule": "power_brake", "windows": 12,
     "devices": 1, "flaps": 0, "subjects": "device:TPU-b1", "action": "Check the feeds."},
    {"incident": "i3", "scope": "device", "name": "GPU-a1", "host": "node-a1", "site": "oslo",
     "kind": "throttle_thermal", "severity": "warning", "state": "resolved", "start": END - timedelta(hours=9),
     "last": END - timedelta(hours=8), "end": END - timedelta(hours=8), "time": END - timedelta(hours=9),
     "evidence": "GPU-a1 on node-a1: too hot", "rule": "throttle_thermal", "windows": 12, "devices": 1, "flaps": 1,
     "subjects": "device:GPU-a1", "action": "Check fans."},
)  # fmt: skip
RECOMMENDATIONS = (
    {"recommendation": "r1", "kind": "plan", "scope": "site", "name": "oslo", "site": "oslo", "state": "new",
     "summary": "oslo: 0.3 kW more can be used", "effect_mid": 300.0, "effect_unit": "W", "query": "perfwatt capacity",
     "time": END},
    {"recommendation": "r2", "kind": "buy", "scope": "feed", "name": "oslo-a", "site": "oslo", "state": "new",
     "summary": "oslo-a: power runs out", "query": "perfwatt capacity --show nodes", "time": END},
    {"recommendation": "r3", "kind": "cord", "scope": "rack", "name": "oslo-r1", "site": "oslo", "state": "done",
     "summary": "a second feed", "query": "perfwatt capacity", "time": END},
)  # fmt: skip


def fill(store: Store) -> None:
    """Put it all into a store that has the readings of conftest.py."""
    work = [
        {"workload": "vllm", "time": END - timedelta(minutes=15) * (quarter + 1), "window_s": 900, "tokens": 900_000.0,
         "counted_j": 630_000.0}
        for quarter in range(96)
    ]  # fmt: skip
    for table, part, rows in (
        ("job_energy", "job.energy", lines()),
        ("efficiency", "job.energy", work),
        ("headroom", "job.capacity", HEADROOM),
        ("recommendations", "job.capacity", RECOMMENDATIONS),
        ("incidents", "job.incidents", INCIDENTS),
    ):
        store.replace(table, part, framed(store, table, rows))
    store.write("job_runs", framed(store, "job_runs", [ran(job) for job in ("energy", "capacity", "incidents")]))
    (store.root / "fleet.toml").write_text(FLEET, encoding="utf-8")


def ran(job: str, at: datetime = END, state: str = "done", error: str | None = None) -> dict[str, Any]:
    """A run of a job."""
    return {"job": job, "start": END - timedelta(hours=12), "time": at, "end": END, "state": state, "error": error}


def framed(store: Store, table: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame with the columns of *table*."""
    return pl.DataFrame(list(rows), schema=schema(store.table(table)))


def hot() -> list[dict[str, Any]]:
    """Ten hours of a device in windows of five minutes: for an hour of them heat held its clocks down half the time."""
    rows = []
    for window in range(120):
        time = END - timedelta(minutes=5) * (window + 1)
        held = END - timedelta(hours=9) <= time < END - timedelta(hours=8)
        rows.append(
            {"device": "GPU-a1", "host": "node-a1", "source": "test", "time": time, "window_s": 300, "rows": 60,
             "covered_s": 300.0, "power_mean_w": 310.0, "throttle_thermal_increase_s": 150.0 if held else 0.0}
        )  # fmt: skip
    return rows
