"""
Anomalies: injected faults on recorded nodes, labelled faults of a simulated fleet, and expected power of systems.

Recorded: 64 nodes in one GPT-3 training (MLPerf v4.0), a fault of one kind in one node at a time. The run lasts an
hour, so a window of 15 s stands for one of five minutes: detector and calibration are the job's, and so is the rule of
power with 5 % as the least that counts. Minder's figures (NSDI'25: precision 0.904, F1 0.893) are of faults in
production and only say what is good.

Simulated: the jobs over days of fleets with labelled faults, with detectors and rules as they come, on seeds that no
choice was made on, judged together. A page is an incident of severity warning or critical that no wider one took in,
whatever raised it. It is right where it is of a kind that a fault shows as, of the device, its workload or what else is
part of that, at that time; all others are false. How few false ones there may be by chance is said by the upper end of
the 90 % interval of a Poisson count. Precision is of the pages that a detector or a stall raised: what a driver reports
(a device left) is read, not found, and always right. Of faults those count as missed that last three quarters of an
hour on devices that work all the while, of the kinds that no driver reports. A notebook counts nothing that it makes:
one that hangs looks like one that waits for its user, and one that is slow like any other, so they have a line of their
own. A page's delay is until the longest of its rules has held for as long as it must.

Systems: mean power of MLPerf inference runs of datacenter systems, each expected from all other runs, beside an
additive model of system and benchmark (the bar: 5.9 % mean and 4.3 % median, what that model reaches). The variances
of the pooled model are those of edge systems, of which none is tested.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from scipy.stats import chi2

from analytics.anomalies.calibration import judged
from analytics.anomalies.findings import STEP_NS, STEP_S, Stretch, scores
from analytics.anomalies.incidents import subjects_of
from analytics.anomalies.peers import Peers
from analytics.anomalies.pooled import Pooled, additive
from analytics.anomalies.rows import rows_before
from analytics.anomalies.rules import Rules, ScoreRule, StalledRule, parse_rules
from analytics.frames import scan
from analytics.inventory import held
from analytics.jobs.chain import JOBS
from analytics.jobs.engine import FAILED, Outcome
from analytics.jobs.job import DAY_NS, NS
from analytics.jobs.running import run as run_jobs
from benchmarks.rows import Row
from collector.sources.simulated import faults, simulate
from collector.sources.simulated_faults import Fault
from collector.sources.simulated_fleet import build as build_fleet
from collector.sources.simulated_fleet import parse
from collector.store import Store

DATA: Final = Path(__file__).parents[1] / "../shared/data/mlperf/tables"
MINDER: Final = {"precision": 0.904, "F1": 0.893}
START_NS: Final = 1_767_225_600 * NS

REPEATS: Final = 20
WINDOW_S: Final = 15
INJECTED: Final = ("scaled by 0.88", "capped at 90 %", "idle gaps", "gain drift of 5 %")

SIMULATED: Final = {"devices": 304, "step_s": 60, "faults": 0.05, "origin": START_NS}
DAYS: Final = 8
SEEDS: Final = (7411, 8623)
FALSE_PAGES: Final = 1.0
"""Of 1,000 device-days."""
UPPER: Final = 0.95
"""With so much confidence there are no more false pages than the upper bound."""
LASTING_NS: Final = 2700 * NS
_POWER: Final = frozenset({"power_high", "power_low", "power_drift"})
SHOWS_AS: Final = {
    "clock_stuck": {"clock_low", "slow", *_POWER},
    "thermal_degradation": {"hot", "throttle_thermal", "clock_low", "slow", *_POWER},
    "fan_failure": {"hot", "throttle_thermal", "clock_low", "slow", *_POWER},
    # What it holds up waits, draws less and is cooler than the one that it waits for.
    "straggler": {"slow", "hot", *_POWER},
    "idle_allocated": {"stalled", "slow", "clock_low", *_POWER},
    "gain_drift": _POWER,
    "power_brake": {"power_brake", "clock_low", "slow", *_POWER},
    "power_cap": {"power_cap", "clock_low", "slow", *_POWER},
    "power_stuck": {"energy_disagrees", "hot", *_POWER},
    "device_lost": {"device_missing", "xid", "stalled", "slow", "hot", "clock_low", *_POWER},
    "missing_samples": {"device_missing"},
    "ecc_storm": {"memory_errors", "xid", "recovery"},
    "counter_reset": frozenset[str](),
}
"""The kinds of incident that a fault may show as."""
SEEN: Final = ("clock_stuck", "thermal_degradation", "gain_drift", "straggler", "idle_allocated")
"""Faults that only show in power, heat, clocks or throughput; those that drivers report are read, not found."""
UNCOUNTED: Final = ("straggler", "idle_allocated")
"""What only shows in what a workload makes, which a notebook does not count."""


def run() -> list[Row]:
    recorded = [*systems(), *nodes()] if DATA.is_dir() else []
    return [*recorded, *simulated()]


# -------------------------------------------------------------------------------------------------------------- systems


EFFECTS: Final = (
    ("system",), ("benchmark",), ("accelerator", "benchmark"), ("accelerator", "scenario"), ("benchmark", "scenario"),
    ("accelerator", "n_accel"), ("system", "scenario"), ("system", "benchmark"),
    ("accelerator", "benchmark", "scenario"), ("submitter",),
)  # fmt: skip


def systems() -> list[Row]:
    """Mean power of runs, each from all others."""
    found = (
        pl.read_csv(DATA / "inference_runs.csv", infer_schema_length=None)
        .filter((pl.col("phase") == "run_1") & pl.col("dup_of").is_null() & (pl.col("avg_w") > 0))
        .with_columns(devices=pl.max_horizontal(pl.col("n_accel").fill_null(1), pl.lit(1)))
    )
    tested = found.filter(pl.col("system_type") == "datacenter")
    model = Pooled(effects=EFFECTS, size="devices").tuned(found.filter(pl.col("system_type") == "edge"), "avg_w")
    expected = {
        "pooled": model.left_out(tested, "avg_w"),
        "additive": additive(tested, "avg_w", ("system", "benchmark")),
    }
    # Where the baseline cannot tell, nobody is asked.
    told = ~np.isnan(expected["additive"])
    off = {name: np.abs(value / tested["avg_w"].to_numpy() - 1)[told] for name, value in expected.items()}
    subject = f"mean power of {told.sum()} runs of {tested['system'].n_unique()} MLPerf systems, each left out"
    return [
        _row(subject, f"{name} absolute error", 100 * float(take(off["pooled"])), "additive log model",
             100 * float(take(off["additive"])), f"< {bar} %", take(off["pooled"]) < bar / 100, unit="%")
        for name, take, bar in (("mean", np.mean, 5.9), ("median", np.median, 4.3))
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- nodes


def nodes() -> list[Row]:
    """Faults in one of 64 nodes that train together."""
    background = training()
    rules = parse_rules()
    rows, totals = [], np.zeros(3)
    for kind in INJECTED:
        counts, delays = np.zeros(3), []
        for seed in range(REPEATS):
            frame, subject, first = injected(background, kind, seed)
            right, wrong, delay = _hits(found_in(frame, rules), subject, first)
            counts += (right, wrong, not right)
            delays += [delay] if right else []
        totals += counts
        rows += [
            _row(f"one of 64 nodes, {kind}", "recall", counts[0] / REPEATS),
            *([_row(f"one of 64 nodes, {kind}", "time to detect, median", float(np.median(delays)), unit="windows")]
              if delays else []),
        ]  # fmt: skip
    # A drift of 5 % is as large as what differs from board to board: it is below the least that is paged.
    precision, recall = totals[0] / max(totals[0] + totals[1], 1), totals[0] / (totals[0] + totals[2])
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    subject = f"one of 64 nodes, {REPEATS * len(INJECTED)} faults"
    return [
        *rows,
        _row(subject, "event precision", precision, "Minder, published", MINDER["precision"], ">= 0.904",
             precision >= MINDER["precision"]),
        _row(subject, "event recall", recall),
        _row(subject, "event F1", f1, "Minder, published", MINDER["F1"], ">= 0.893", f1 >= MINDER["F1"]),
        _row(subject, "false events in runs", float(totals[1]), unit="events"),
    ]  # fmt: skip


def training() -> pl.DataFrame:
    """Power of the nodes of the GPT-3 run in windows, of which each stands for five minutes."""
    runs = pl.read_csv(DATA / "training_node_runs.csv", infer_schema_length=None).filter(pl.col("benchmark") == "gpt3")
    runs = runs.filter(pl.col("host").str.starts_with("node"))
    power = pl.read_parquet(DATA / "training_power.parquet").join(runs.select("node_run_id", "host"), on="node_run_id")
    first, last = runs["t0_ms"].max(), runs["t1_ms"].min()
    told = power.filter(pl.col("time_ms").is_between(first, last)).group_by(
        "host", window=(pl.col("time_ms") - first) // (1000 * WINDOW_S)
    )
    return (
        told.agg(value=pl.col("watts").mean(), read=pl.len())
        .select(
            "host", "value", subject="host", window=pl.col("window").cast(pl.Int64),
            time=(START_NS + pl.col("window").cast(pl.Int64) * STEP_NS).cast(pl.Datetime("ns")),
            kind=pl.lit("node"), work=pl.lit("gpt3"), group=pl.lit("gpt3"), normal=pl.lit(True), base=pl.lit(1.0),
        )
        .sort("subject", "time")
    )  # fmt: skip


def injected(frame: pl.DataFrame, kind: str, seed: int) -> tuple[pl.DataFrame, str, int]:
    """*frame* with a fault in one node from one window on, in the later half; the node and the window."""
    rng = np.random.default_rng([seed, INJECTED.index(kind)])
    subject = str(rng.choice(frame["subject"].unique().sort().to_numpy()))
    last = int(frame["window"].max())  # type: ignore[arg-type]
    first = int(rng.integers(last // 2 + 2, last - 30))
    since = pl.col("window") - first
    value = pl.col("value")
    usual = frame.filter(pl.col("subject") == subject)["value"].median()
    changed = {
        "scaled by 0.88": value * 0.88,
        "capped at 90 %": pl.min_horizontal(value, pl.lit(usual) * 0.9),
        "idle gaps": pl.when(since % 4 < 3).then(value * 0.35).otherwise(value),
        "gain drift of 5 %": value * (1 + 0.05 * (since / 12).clip(0, 1)),
    }[kind]
    mine = (pl.col("subject") == subject) & (since >= 0)
    return frame.with_columns(value=pl.when(mine).then(changed).otherwise(value)), subject, first


def _last(frame: pl.DataFrame) -> int:
    """The number of the last window."""
    return int(frame["window"].max())  # type: ignore[arg-type]


def found_in(frame: pl.DataFrame, rules: Rules) -> list[Stretch]:
    """What the rules of power find of peers' scores in the later half, learned from the earlier."""
    since_ns = START_NS + _last(frame) // 2 * STEP_NS
    past = frame.filter(pl.col("time").to_physical() < since_ns)
    scored = judged(pl.concat([frame, Peers().fit(past).score(frame)], how="horizontal"), since_ns=since_ns)
    table = scored.with_columns(
        window_s=pl.lit(300), scope=pl.lit("host"), detector=pl.lit("peers"), metric=pl.lit("power_w"),
        observed=pl.col("value"),
    )  # fmt: skip
    until_ns = START_NS + (_last(frame) + 1) * STEP_NS
    power = [replace(rule, least_ratio=0.05) for rule in rules.of(ScoreRule) if rule.metric == "power_w"]
    return [one for one in scores(table.lazy(), power, until_ns) if one.enough_ns is not None]


def _hits(found: Iterable[Stretch], subject: str, first: int) -> tuple[int, int, float]:
    """Whether the fault was found, how many other findings there are, and after how many windows a page went out."""
    mine = [one for one in found if one.name == subject]
    delay = min((((one.enough_ns or 0) - START_NS) / STEP_NS - first for one in mine), default=0.0)
    return int(bool(mine)), len({one.name for one in found} - {subject}), delay


# ------------------------------------------------------------------------------------------------------------ simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    An incident that somebody is called for: the subjects that it is about, and when it was told at the latest.

    `detected`: a detector or a stall raised it.
    """

    kind: str
    detected: bool
    subjects: frozenset[str]
    start_ns: int
    last_ns: int
    told_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A simulated fleet's pages, with what was wrong with it in the days that were judged."""

    pages: list[Page]
    held: pl.DataFrame
    ids: tuple[str, ...]
    faults: list[Fault]
    device_days: float
    cpu_s: float
    windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one fleet: pages and which were false, and counted faults with the delay of their first page."""

    found: Labelled
    false: list[Page]
    delays_s: dict[Fault, float | None]
    notebooks: dict[Fault, float | None]


def simulated() -> list[Row]:
    """Pages of rules and detectors beside what was wrong."""
    verdicts = [verdict_of(labelled(seed)) for seed in SEEDS]
    days = sum(one.found.device_days for one in verdicts)
    pages = [page for one in verdicts for page in one.found.pages]
    false = [page for one in verdicts for page in one.false]
    detected, wrong = (sum(page.detected for page in some) for some in (pages, false))
    # By fleet, since two may have a fault alike.
    delays = [(fault.kind, delay) for one in verdicts for fault, delay in one.delays_s.items()]
    seen = [delay for _, delay in delays if delay is not None]
    notebooks = [delay is not None for one in verdicts for delay in one.notebooks.values()]
    precision, recall = 1 - wrong / max(detected, 1), len(seen) / max(len(delays), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    rate = len(false) / days * 1000
    upper = float(chi2.ppf(UPPER, 2 * (len(false) + 1))) / 2 / days * 1000
    subject = f"simulated fleets, {days:,.0f} device-days, {len(delays)} faults, {len(pages)} pages"
    cpu_s, windows = sum(one.found.cpu_s for one in verdicts), sum(one.found.windows for one in verdicts)
    rows = [
        _row(subject, "false pages in 1,000 device-days", rate, bar="<= 1", ok=rate <= FALSE_PAGES),
        _row(subject, "false pages in 1,000 device-days, upper 95 % bound", upper),
        _row(subject, "of those that detectors raised", wrong / days * 1000),
        _row(subject, "event precision", precision, "Minder, published", MINDER["precision"], ">= 0.904",
             precision >= MINDER["precision"]),
        _row(subject, "event recall", recall),
        _row(subject, "event F1", f1, "Minder, published", MINDER["F1"], ">= 0.893", f1 >= MINDER["F1"]),
        _row(subject, "time to detect, median", float(np.median(seen or [np.nan])) / 60, unit="min"),
        _row(subject, "time to detect, 90th percentile", float(np.quantile(seen or [np.nan], 0.9)) / 60, unit="min"),
        _row(subject, "anomaly_scores", cpu_s / windows * 1e6, unit="CPU s per million windows"),
    ]  # fmt: skip
    for kind in SEEN:
        hits = [delay is not None for of_kind, delay in delays if of_kind == kind]
        if hits:
            rows.append(_row(f"{subject}, {kind}", "recall", sum(hits) / len(hits), unit=f"of {len(hits)}"))
    for kind, count in sorted(Counter(page.kind for page in false).items()):
        rows.append(_row(f"{subject}, {kind}", "false pages", count, unit="pages"))
    if notebooks:
        told = f"{subject}, notebooks that hang or are slow"
        rows.append(_row(told, "recall", sum(notebooks) / len(notebooks), unit=f"of {len(notebooks)}"))
    return rows


def verdict_of(found: Labelled) -> Verdict:
    """Which pages of a fleet were false, and when its faults were told of."""
    reach = [(fault, _touched(fault, found)) for fault in found.faults]
    delays = {
        fault: (names, _delay_s(fault, names, found))
        for fault, names in reach
        if fault.kind in SEEN and _lasts(fault, found)
    }
    notebooks = {fault for fault, (names, _) in delays.items() if fault.kind in UNCOUNTED and _is_notebook(names)}
    return Verdict(
        found=found,
        false=[page for page in found.pages if not any(_explains(fault, names, page) for fault, names in reach)],
        delays_s={fault: delay for fault, (_, delay) in delays.items() if fault not in notebooks},
        notebooks={fault: delay for fault, (_, delay) in delays.items() if fault in notebooks},
    )


def labelled(seed: int) -> Labelled:
    """Simulate a fleet, and run the jobs over it."""
    options = {**SIMULATED, "seed": seed}
    end_ns = START_NS + DAYS * DAY_NS
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder)
        for tables in simulate(options, START_NS, end_ns):
            for name in ("device_samples", "workload_samples", "allocations", "devices", "events"):
                if name in tables:
                    store.write(name, tables[name], writer="history")
        jobs = tuple(job for job in JOBS if job.name in {"rollups", "anomaly_scores", "incidents"})
        _done(run_jobs(store.root, names=["rollups"], jobs=jobs, now_ns=end_ns))
        began = time.process_time()
        _done(run_jobs(store.root, names=["anomaly_scores"], jobs=jobs, now_ns=end_ns))
        cpu_s = time.process_time() - began
        _done(run_jobs(store.root, jobs=jobs, now_ns=end_ns))
        rows = [row for row in rows_before(scan(store, "incidents")) if not row["part_of"]]
        windows = scan(store, "device_rollups").filter(pl.col("window_s") == STEP_S).select(pl.len()).collect().item()
        return Labelled(
            pages=[_page(row) for row in rows if row["severity"] != "info" and row["start"] >= START_NS + DAY_NS],
            held=held(scan(store, "allocations"), None, end_ns).select("device", "workload", "start", "end").collect(),
            ids=build_fleet(parse(options)).ids,
            faults=faults(options, START_NS, end_ns),
            device_days=float(SIMULATED["devices"]) * (DAYS - 1),
            cpu_s=cpu_s,
            windows=windows,
        )


def _done(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.state == FAILED:
            raise RuntimeError(f"{outcome.job}: {outcome.error}")


def _was_detected(row: Mapping[str, Any]) -> bool:
    """Whether a detector or a stall raised it."""
    found = [parse_rules().named(name) for name in str(row["rule"]).split()]
    return any(isinstance(rule, ScoreRule | StalledRule) for rule in found)


def _page(row: Mapping[str, Any]) -> Page:
    rules = parse_rules()
    waits = [rule.for_ns for name in str(row["rule"]).split() if (rule := rules.named(name)) is not None]
    return Page(
        kind=row["kind"],
        detected=_was_detected(row),
        subjects=frozenset(place.name for place in subjects_of(row)),
        start_ns=row["start"],
        last_ns=row["last"],
        told_ns=row["start"] + max(waits, default=0),
    )


def _touched(fault: Fault, found: Labelled) -> frozenset[str]:
    """The devices of a fault, the workloads that it holds up, and all devices of those."""
    mine = [found.ids[device] for device in fault.devices]
    then = found.held.filter(
        (pl.col("start").to_physical() < fault.end_ns) & (pl.col("end").to_physical() > fault.start_ns)
    )
    workloads = then.filter(pl.col("device").is_in(mine))["workload"].unique()
    others = then.filter(pl.col("workload").is_in(workloads.implode()))["device"].unique()
    return frozenset([*mine, *workloads, *others])


def _explains(fault: Fault, names: frozenset[str], page: Page) -> bool:
    in_time = page.start_ns < fault.end_ns + 6 * STEP_NS and page.last_ns > fault.start_ns
    return in_time and page.kind in SHOWS_AS[fault.kind] and not names.isdisjoint(page.subjects)


def _delay_s(fault: Fault, names: frozenset[str], found: Labelled) -> float | None:
    """How long until somebody was told of a fault by a page that began with it; None: nobody was."""
    # A window that it begins in tells of it, too.
    mine = [page for page in found.pages if _explains(fault, names, page) and page.start_ns > fault.start_ns - STEP_NS]
    return min(((page.told_ns - fault.start_ns) / NS for page in mine), default=None)


def _is_notebook(names: frozenset[str]) -> bool:
    return any(name.startswith("notebook-") for name in names)


def _lasts(fault: Fault, found: Labelled) -> bool:
    """Whether a fault of the days that are judged lasts, and strikes devices that work all the while."""
    mine = [found.ids[device] for device in fault.devices]
    working = found.held.filter(
        pl.col("device").is_in(mine)
        & (pl.col("start").to_physical() <= fault.start_ns)
        & (pl.col("end").to_physical() >= fault.end_ns)
    )
    within = fault.start_ns >= START_NS + DAY_NS and fault.end_ns <= START_NS + DAYS * DAY_NS
    return within and fault.end_ns - fault.start_ns >= LASTING_NS and working.height > 0


def _row(
    subject: str,
    measure: str,
    value: float,
    peer: str | None = None,
    peer_value: float | None = None,
    bar: str = "",
    ok: bool | None = None,
    unit: str = "",
) -> Row:
    return Row(
        benchmark="anomalies", subject=subject, measure=measure, value=float(value), unit=unit, peer=peer,
        peer_value=None if peer_value is None else float(peer_value), bar=bar, ok=None if ok is None else bool(ok),
    )  # fmt: skip
