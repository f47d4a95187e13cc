"""
One job on one screen: who, what, where and when, what it drew and achieved, what it wasted, and what to change.

`job_report` looks at the frames of one workload and gives a `JobReport`, which the command line prints and the page of
a job shows. Nothing in it was guessed: what was not measured is None, an energy says how much of the time it covers and
how much of it was measured, and findings (`analytics.findings`) come with the number that they rest on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.attribution import platform_steps
from analytics.boards import with_meters
from analytics.cost import cost, fixed_cost, rates
from analytics.efficiency import counted_times, current, energy_in, held_energy, of_workloads
from analytics.energy import device_steps
from analytics.findings import findings, thin
from analytics.fleet import Fleet
from analytics.intervals import total
from analytics.inventory import device_types, held
from analytics.ledger import ledger
from analytics.report_records import (
    DeviceUse,
    Energy,
    Imbalance,
    JobReport,
    Money,
    Standing,
    Throttled,
    Waste,
    Work,
)
from analytics.signals import GAUGES
from analytics.steps import difference, in_order
from analytics.waste import placed
from analytics.work import work_of
from collector.catalogue import (
    ACTIVITY_DRAM,
    ACTIVITY_SM,
    ACTIVITY_TENSOR,
    CACHE_USED,
    CLOCK_SM,
    ENERGY,
    LATENCY_P50,
    LATENCY_P99,
    MEMORY_TOTAL,
    MEMORY_USED,
    POWER,
    POWER_LIMIT,
    PREEMPTIONS,
    QUEUE_LENGTH,
    REQUESTS_FAILED,
    REQUESTS_RUNNING,
    ROW_REMAP_FAILED,
    TEMPERATURE,
    UTILIZATION,
    Metric,
    Scope,
    metrics,
)
from collector.gaps import MAX_COUNTER_GAP_S

if TYPE_CHECKING:
    from analytics.frames import WorkloadFrames

__all__ = ["JobReport", "job_report", "other_runs"]

BUSY: Final = 0.5
"""Clocks are compared over the readings in which a device is busier than this: idle clocks say nothing of its speed."""
SLOW: Final = 0.03
"""A device is called slow when its clock is this far below the median of its group: beyond what manufacture spreads."""
FEWEST_RUNS: Final = 3
"""Other runs that a standing needs."""
BEST_WINDOWS: Final = 0.1
"""The cheapest tenth of the windows says what a token can cost."""

_ALL: Final = 0.99
_STANDING: Final = ("joules_per_token", "joules_per_step", "joules_per_sample")
_ACHIEVED: Final = (
    "tokens", "tokens_in", "samples", "steps", "requests", "tokens_per_s", *_STANDING, "tokens_per_s_per_w",
)  # fmt: skip
_THROTTLE: Final = tuple(metric for metric in metrics(Scope.DEVICE) if metric.family == "throttle")
_THROTTLING: Final = tuple(metric for metric in metrics(Scope.DEVICE) if metric.family == "throttling")
_READ: Final = (
    "device", "time", "source", "host", "power_method", "power_scope",
    *dict.fromkeys(metric.column for metric in (
        POWER, ENERGY, POWER_LIMIT, UTILIZATION, ACTIVITY_SM, ACTIVITY_TENSOR, ACTIVITY_DRAM, CLOCK_SM, TEMPERATURE,
        MEMORY_USED, MEMORY_TOTAL, ROW_REMAP_FAILED, *_THROTTLE, *_THROTTLING,
        *(metric for told in GAUGES.values() for metric in told),
    )),
)  # fmt: skip
# A counter of throttled seconds rises by a second a second at most; some drivers count a little ahead.
_SECONDS_A_SECOND: Final = 1.1
# Clocks that are low because there is no work are no fault.
_NO_FAULT: Final = frozenset({"idle", "low_utilization"})


def job_report(
    workload: str,
    told: "WorkloadFrames",
    *,
    fleet: Fleet | None = None,
    runs: pl.LazyFrame | None = None,
    max_gap_s: float | None = None,
) -> JobReport | None:
    """
    The report of one workload; None where nothing was allocated to it.

    In:  told: as `analytics.frames.of_workload` gives it; *fleet*: prices, PUE and carbon; *runs*: other workloads, as
         `other_runs` gives them, for its standing.
    """
    read = [name for name in _READ if name in told.device_samples.collect_schema().names()]
    told = told._replace(device_samples=told.device_samples.select(read))
    told = told._replace(**{name: frame.collect().lazy() for name, frame in told._asdict().items()})
    mine = current(told.allocations).filter(pl.col("workload") == workload).sort("start").collect()
    if mine.is_empty():
        return None
    fleet = fleet or Fleet()
    types = device_types(told.devices, fleet).collect().lazy()
    lines = _lines(workload, told, fleet, types, mine, max_gap_s)
    boards = _boards(mine, told.devices)
    samples = _while_held(told.device_samples, boards).collect().lazy()
    devices = _devices(lines, samples, boards, told.devices)
    spans = _machines(workload, told)
    hosts = tuple(sorted({device.host for device in devices if device.host} | {*spans["device"]}))
    first, last = samples.select(first=pl.col("time").min(), last=pl.col("time").max()).collect().row(0)
    called = _identity(workload, mine, told.workload_samples)
    work, counter_ratio = _work(workload, told, max_gap_s)
    report = JobReport(
        workload=workload,
        name=called["name"],
        user=called["user"],
        team=called["team"],
        model=called["model"],
        framework=called["framework"],
        hosts=hosts,
        sites=tuple(sorted(set(fleet.site_of(hosts).values()))),
        start_ns=_moment(mine["start"].min()),
        end_ns=None if mine["end"].null_count() else _moment(mine["end"].max()),
        seen_ns=None if first is None else (_moment(first), _moment(last)),
        device_h=sum(device.allocated_s for device in devices) / 3600.0,
        devices=devices,
        energy=_energy(lines, counter_ratio, _wall(spans, told, max_gap_s)),
        money=_money(lines, told, fleet),
        work=work,
        standing=_standing(workload, called, devices, work, runs),
        waste=_waste(lines),
        idle_end_s=_idle_end(lines),
        throttled=_together(devices),
        imbalance=_imbalance(devices),
    )
    wasted = tuple(replace(line, cost=report.cost_of(line.energy_j, line.device_s)) for line in report.waste)
    return replace(report, waste=wasted, findings=findings(report), thin=thin(report))


def _lines(
    workload: str,
    told: "WorkloadFrames",
    fleet: Fleet,
    types: pl.LazyFrame,
    mine: pl.DataFrame,
    max_gap_s: float | None,
) -> pl.LazyFrame:
    """The workload's lines of the ledger, by quarter-hours, with places and, where there are prices, costs."""
    start_ns = _moment(mine["start"].min())
    end_ns = None if mine["end"].null_count() else _moment(mine["end"].max())
    lines = ledger(
        told.device_samples,
        told.allocations,
        devices=told.devices,
        types=types,
        events=told.events,
        host_samples=told.host_samples,
        since_ns=start_ns,
        until_ns=end_ns,
        by="15m",
        max_gap_s=max_gap_s,
    )
    lines = with_meters(lines.filter(pl.col("workload") == workload), told.devices).collect().lazy()
    hosts = fleet.site_of(lines.select("host").drop_nulls().unique().collect()["host"])
    return placed(lines, hosts=hosts, types=types, workload_samples=told.workload_samples).collect().lazy()


# ------------------------------------------------------------------------------------------------------------ devices


def _moment(value: object) -> int:
    """A time of a frame as nanoseconds since 1970; Python's own have microseconds."""
    return int(pl.Series([value], dtype=pl.Datetime("ns")).to_physical().item())


def _boards(mine: pl.DataFrame, devices: pl.LazyFrame) -> pl.LazyFrame:
    """What was held when: part (what was allocated), device (the whole board it is on), start, end."""
    parents = devices.filter(pl.col("parent").is_not_null()).select(part="device", board="parent").unique("part")
    return (
        mine.lazy()
        .select("start", "end", part="device")
        .join(parents, on="part", how="left")
        .with_columns(device=pl.coalesce("board", "part"), partition=pl.col("board").is_not_null())
        .drop("board")
    )


def _while_held(device_samples: pl.LazyFrame, boards: pl.LazyFrame) -> pl.LazyFrame:
    """The samples of boards and their held partitions while they were held, `board` being the whole device."""
    spans = pl.concat([
        boards.select("start", "end", board="device", device="part"),
        boards.filter("partition").select("start", "end", board="device", device="device"),
    ]).unique()  # fmt: skip
    inside = (pl.col("time") >= pl.col("start")) & (pl.col("end").is_null() | (pl.col("time") < pl.col("end")))
    return device_samples.join(spans, on="device").filter(inside).drop("start", "end")


def _devices(
    lines: pl.LazyFrame, samples: pl.LazyFrame, boards: pl.LazyFrame, devices: pl.LazyFrame
) -> tuple[DeviceUse, ...]:
    used = lines.group_by("device").agg(
        pl.col("host").drop_nulls().last(),
        allocated_s=pl.col("span_s").sum(),
        covered_s=pl.col("covered_s").sum(),
        energy_j=pl.when(pl.col("energy_j").count() > 0).then(pl.col("energy_j").sum()),
        idle_s=pl.col("span_s").filter(pl.col("cause") == "idle").sum(),
    )
    told = devices.sort("time").group_by("device").agg(
        pl.col("host", "ordinal", "model", "power_limit_w", MEMORY_TOTAL.column).drop_nulls().last()
    )  # fmt: skip
    told = told.rename({"host": "told_host", "power_limit_w": "told_limit_w", MEMORY_TOTAL.column: "told_bytes"})
    found = (
        boards.select("device")
        .unique()
        .join(used, on="device", how="left")
        .join(told, on="device", how="left")
        .join(_gauges(samples), on="device", how="left")
        .sort(pl.coalesce("host", "told_host"), "ordinal", "device", nulls_last=True)
        .collect()
    )
    throttled = _throttled(samples)
    return tuple(_device(row, throttled.get(row["device"], ())) for row in found.iter_rows(named=True))


def _device(row: Mapping[str, Any], throttled: tuple[Throttled, ...]) -> DeviceUse:
    allocated_s, covered_s = row["allocated_s"] or 0.0, row["covered_s"] or 0.0
    return DeviceUse(
        device=row["device"],
        host=row["host"] or row["told_host"],
        ordinal=row["ordinal"],
        sku=row["model"],
        allocated_s=allocated_s,
        covered_ratio=covered_s / allocated_s if allocated_s else 0.0,
        energy_j=row["energy_j"],
        power_mean_w=row["energy_j"] / covered_s if covered_s else None,
        power_max_w=row["power_max_w"],
        power_limit_w=row["power_limit_w"] or row["told_limit_w"],
        utilization_ratio=row[UTILIZATION.column],
        sm_ratio=row[ACTIVITY_SM.column],
        tensor_ratio=row[ACTIVITY_TENSOR.column],
        dram_ratio=row[ACTIVITY_DRAM.column],
        memory_used_bytes=row[MEMORY_USED.column],
        memory_total_bytes=row[MEMORY_TOTAL.column] or row["told_bytes"],
        temperature_max_c=row[TEMPERATURE.column],
        clock_busy_hz=row["clock_busy_hz"],
        idle_s=row["idle_s"] or 0.0,
        throttled=throttled,
    )


def _gauges(samples: pl.LazyFrame) -> pl.LazyFrame:
    """
    Means and peaks of each board: of what its held partitions did, where it has any, else of its own.

    Power, heat and clocks are the board's in either case.
    """
    part = pl.col("device") != pl.col("board")
    busy = pl.col(UTILIZATION.column) > BUSY
    work = (UTILIZATION, ACTIVITY_SM, ACTIVITY_TENSOR, ACTIVITY_DRAM)

    def held(column: str) -> pl.Expr:
        value = pl.col(column)
        return pl.when(part.any()).then(value.filter(part).mean()).otherwise(value.mean())

    return samples.group_by(device="board").agg(
        *(held(metric.column).alias(metric.column) for metric in work),
        pl.when(part.any()).then(pl.col(MEMORY_USED.column).filter(part).max()).otherwise(
            pl.col(MEMORY_USED.column).max()
        ).alias(MEMORY_USED.column),
        pl.col(MEMORY_TOTAL.column).max(),
        pl.col(TEMPERATURE.column).max(),
        power_max_w=pl.col(POWER.column).max(),
        power_limit_w=pl.col(POWER_LIMIT.column).drop_nulls().last(),
        clock_busy_hz=pl.col(CLOCK_SM.column).filter(busy).mean(),
    )  # fmt: skip


def _throttled(samples: pl.LazyFrame) -> dict[str, tuple[Throttled, ...]]:
    """
    Why each board's clocks were held down: by its counters of seconds, else by the share of readings that say so.

    Of several sources the one that saw most counts.
    """
    own = samples.filter(pl.col("device") == pl.col("board"))
    keys = ("device", "source")
    found: dict[str, dict[str, float]] = {}
    counters = [metric.column for metric in _THROTTLE]
    steps = {name: difference(name, MAX_COUNTER_GAP_S, _SECONDS_A_SECOND) for name in counters}
    counted = (
        in_order(own, keys, counters)
        .select(*keys, *(e.alias(f"{n}|{i}") for n, pair in steps.items() for i, e in enumerate(pair)))
        .group_by(keys)
        .agg(pl.all().sum())
    )
    flags = own.group_by(keys).agg(pl.col(metric.column).mean() for metric in _THROTTLING)
    for row in counted.collect().iter_rows(named=True):
        for metric in _THROTTLE:
            rise, covered_s = row[f"{metric.column}|0"], row[f"{metric.column}|1"]
            if covered_s > 0:
                _keep(found, row["device"], _reason(metric), min(1.0, rise / covered_s))
    by_flag: dict[str, dict[str, float]] = {}
    for row in flags.collect().iter_rows(named=True):
        for metric in _THROTTLING:
            if row[metric.column] is not None:
                _keep(by_flag, row["device"], _reason(metric), row[metric.column])
    return {
        device: _in_order(by_flag.get(device, {}) | found.get(device, {}))
        for device in sorted(found.keys() | by_flag.keys())
    }


def _keep(found: dict[str, dict[str, float]], device: str, reason: str, ratio: float) -> None:
    if reason not in _NO_FAULT:
        of_device = found.setdefault(device, {})
        of_device[reason] = max(ratio, of_device.get(reason, 0.0))


def _reason(metric: Metric) -> str:
    return dict(metric.labels)["reason"]


def _in_order(ratios: Mapping[str, float]) -> tuple[Throttled, ...]:
    most = sorted(ratios.items(), key=lambda one: (-one[1], one[0]))
    return tuple(Throttled(reason=reason, ratio=ratio) for reason, ratio in most if ratio > 0)


def _together(devices: Sequence[DeviceUse]) -> tuple[Throttled, ...]:
    """Throttling of the group: the mean over its devices by the time they were held."""
    whole_s = sum(device.allocated_s for device in devices)
    sums: dict[str, float] = {}
    for device in devices:
        for one in device.throttled:
            sums[one.reason] = sums.get(one.reason, 0.0) + one.ratio * device.allocated_s
    return _in_order({reason: total / whole_s for reason, total in sums.items()}) if whole_s else ()


def _imbalance(devices: Sequence[DeviceUse]) -> Imbalance | None:
    """The slowest device, where it is slower than `SLOW`; devices of one SKU are compared."""
    clocks = [(device, device.clock_busy_hz) for device in devices if device.clock_busy_hz]
    if len({device.sku for device, _ in clocks}) > 1 or len(clocks) < 2:
        return None
    slowest, clock = min(clocks, key=lambda one: one[1])
    middle = median(hz for device, hz in clocks if device is not slowest)
    behind = 1.0 - clock / middle
    if behind < SLOW:
        return None
    return Imbalance(
        device=slowest.device,
        host=slowest.host,
        clock_hz=clock,
        median_hz=middle,
        behind_ratio=behind,
        throttled=slowest.throttled,
    )


# --------------------------------------------------------------------------------------------------- energy and money


def _machines(workload: str, told: "WorkloadFrames") -> pl.DataFrame:
    """When the workload held anything of each machine, as allocations name it: device (the machine), start, end."""
    last_ns = told.host_samples.select(pl.col("time").max().cast(pl.Datetime("ns")).to_physical()).collect().item()
    now = pl.lit(last_ns, pl.Int64).cast(pl.Datetime("ns"))
    return (
        told.allocations.filter((pl.col("workload") == workload) & pl.col("host").is_not_null())
        .sort("time")
        .unique(["device", "start"], keep="last", maintain_order=True)
        .group_by(device="host")
        .agg(
            pl.col("start").cast(pl.Datetime("ns")).min(),
            end=pl.col("end").cast(pl.Datetime("ns")).fill_null(now).max(),
        )
        .sort("device")
        .collect()
    )


def _wall(spans: pl.DataFrame, told: "WorkloadFrames", max_gap_s: float | None) -> tuple[float | None, float | None]:
    """The energy of the machines in that time, as far as they were read, and the share of it that was measured."""
    steps = platform_steps(told.host_samples, max_gap_s=max_gap_s).collect().lazy()
    inside = spans.lazy().with_columns(share=pl.lit(1.0))
    found = energy_in(inside, steps, sums=("energy_j", "covered_s")).select("energy_j", "covered_s", "span_s")
    joules, covered_s, span_s = found.sum().collect().row(0)
    return (joules, covered_s / span_s) if covered_s else (None, None)


def _energy(
    lines: pl.LazyFrame, counter_ratio: float | None, wall: tuple[float | None, float | None] = (None, None)
) -> Energy:
    sums = lines.select(pl.col("span_s", "covered_s", "modelled_j").sum()).collect()
    span_s, covered_s, modelled_j = sums.row(0)
    whole = total(lines.with_columns(all=pl.lit(0)), ["all"]).collect()
    energy_j, low_j, high_j = whole.row(0)[1:] if whole.height else (None, None, None)
    return Energy(
        energy_j=energy_j,
        low_j=low_j,
        high_j=high_j,
        covered_ratio=covered_s / span_s if span_s else 0.0,
        counter_ratio=counter_ratio,
        modelled_ratio=modelled_j / energy_j if energy_j else None,
        power_mean_w=energy_j / covered_s if energy_j is not None and covered_s else None,
        wall_j=wall[0],
        wall_ratio=wall[1],
    )


def _money(lines: pl.LazyFrame, told: "WorkloadFrames", fleet: Fleet) -> Money:
    windows = lines.select(pl.col("window").cast(pl.Datetime("us")).unique().sort()).collect()["window"].to_list()
    charged = cost(lines, rates(fleet, windows, told.facility_samples), keys=["workload"]).collect()
    fixed = fixed_cost(lines, told.devices, fleet, keys=["workload"]).collect()
    # Two currencies are two rows, and no sum.
    row = charged.row(0, named=True) if charged.height == 1 else {}
    devices, currency = (fixed["fixed_cost"].item(), fixed["currency"].item()) if fixed.height == 1 else (None, None)
    energy = row.get("energy_cost")
    currencies = {c for c in (row.get("currency"), currency) if c is not None}
    factors = set(lines.select(pl.col("site").replace_strict(fleet.pue, default=None, return_dtype=pl.Float64)
                               .unique()).collect().to_series().to_list())  # fmt: skip
    pue = factors.pop() if len(factors) == 1 else None
    return Money(
        currency=currencies.pop() if len(currencies) == 1 else None,
        energy=energy,
        devices=devices,
        total=energy + devices if len(currencies) < 2 and energy is not None and devices is not None else None,
        facility=energy * (pue - 1.0) if energy is not None and pue is not None else None,
        pue=pue,
        price_basis=row.get("price_basis"),
        carbon_location_kg=row.get("carbon_location_kg"),
        carbon_market_kg=row.get("carbon_market_kg"),
    )


def _waste(lines: pl.LazyFrame) -> tuple[Waste, ...]:
    """What was not useful, the most energy first."""
    whole_s = lines.select(pl.col("span_s").sum()).collect().item()
    rows = (
        lines.filter(pl.col("cause") != "useful")
        .group_by("cause", "reason")
        .agg(
            pl.col("span_s").sum(),
            energy_j=pl.when(pl.col("energy_j").count() > 0).then(pl.col("energy_j").sum()),
        )
        .sort("energy_j", "span_s", "cause", descending=[True, True, False], nulls_last=True)
        .collect()
    )
    return tuple(
        Waste(cause=cause, reason=reason, device_s=span_s, energy_j=energy_j, ratio=span_s / whole_s)
        for cause, reason, span_s, energy_j in rows.iter_rows()
    )


def _idle_end(lines: pl.LazyFrame) -> float:
    """How long (device-seconds) all devices were idle at the end: the quarter-hours after the last with work."""
    idle = pl.col("span_s").filter(pl.col("cause") == "idle").sum() >= _ALL * pl.col("span_s").sum()
    windows = lines.group_by("window").agg(pl.col("span_s").sum(), idle=idle).sort("window", descending=True)
    return float(windows.filter(pl.col("idle").cum_min()).select(pl.col("span_s").sum()).collect().item())


# --------------------------------------------------------------------------------------------------- work and standing


def _identity(workload: str, mine: pl.DataFrame, workload_samples: pl.LazyFrame) -> dict[str, str | None]:
    told = mine.select(pl.col("name", "user", "team").drop_nulls().last()).row(0, named=True) if mine.height else {}
    seen = workload_samples.filter(pl.col("workload") == workload).select(
        pl.col("model", "framework").drop_nulls().last()
    )
    models = seen.collect()
    return {**told, **(models.row(0, named=True) if models.height else {"model": None, "framework": None})}


def _work(workload: str, told: "WorkloadFrames", max_gap_s: float | None) -> tuple[Work, float | None]:
    """What was achieved, and the share of the energy that hardware counters measured."""
    own = told.workload_samples.filter(pl.col("workload") == workload)
    mine = told.allocations.filter(pl.col("workload") == workload)
    steps = device_steps(told.device_samples, max_gap_s=max_gap_s, devices=told.devices).collect().lazy()
    # What runs still ends, for now, with the last that was seen.
    last = steps.select(pl.col("time").max().to_physical().fill_null(0)).collect().item()
    mine = held(mine, None, last)
    read = counted_times(own).collect().lazy()
    used = with_meters(held_energy(steps, read, mine, by=None), told.devices)
    joules, counter = used.filter(~pl.col("counted")).select(pl.col("energy_j", "counter_j").sum()).collect().row(0)
    found = of_workloads(used, own, by=None).collect()
    row = found.row(0, named=True) if found.height else dict.fromkeys(found.columns)
    windows = of_workloads(held_energy(steps, read, mine, by="5m"), own, by="5m")
    best, pace = windows.select(
        pl.col("joules_per_token").quantile(BEST_WINDOWS), pace=pl.col("tokens_per_s").quantile(0.99)
    ).collect().row(0)  # fmt: skip
    more = work_of(own, None, more=(REQUESTS_FAILED.column, PREEMPTIONS.column)).collect()
    counts = more.row(0, named=True) if more.height else {}
    engine = own.select(
        *(pl.col(metric.column).mean() for metric in (REQUESTS_RUNNING, QUEUE_LENGTH, LATENCY_P50, LATENCY_P99)),
        pl.col(CACHE_USED.column).max(),
    ).collect().row(0, named=True)  # fmt: skip
    rate = row["tokens_per_s"]
    work = Work(
        **{name: row[name] for name in _ACHIEVED},
        best_joules_per_token=best,
        load_ratio=min(1.0, rate / pace) if rate and pace else None,
        requests_failed=counts.get(REQUESTS_FAILED.column),
        preemptions=counts.get(PREEMPTIONS.column),
        requests_running=engine[REQUESTS_RUNNING.column],
        queue_length=engine[QUEUE_LENGTH.column],
        cache_used_max_ratio=engine[CACHE_USED.column],
        latency_p50_s=engine[LATENCY_P50.column],
        latency_p99_s=engine[LATENCY_P99.column],
    )
    return work, counter / joules if joules else None


def other_runs(efficiency: pl.LazyFrame, allocations: pl.LazyFrame, devices: pl.LazyFrame) -> pl.LazyFrame:
    """
    Runs that a job can be compared with.

    In:  efficiency: the table of that name, or what `analytics.efficiency.efficiency` gives; allocations, devices: the
         tables.
    Out: workload, name, model, sku (null where its devices differ), joules_per_token, joules_per_step,
         joules_per_sample: all energy over all work, of windows added up.
    """
    models = devices.sort("time").group_by("device").agg(pl.col("model").drop_nulls().last())
    skus = (
        current(allocations)
        .join(models, on="device")
        .group_by("workload")
        .agg(sku=pl.when(pl.col("model").n_unique() == 1).then(pl.col("model").first()))
    )
    ratios = {
        f"joules_per_{one}": pl.when(pl.col(f"joules_per_{one}").count() > 0).then(
            (pl.col(f"joules_per_{one}") * pl.col(f"{one}s")).sum()
            / pl.col(f"{one}s").filter(pl.col(f"joules_per_{one}").is_not_null()).sum()
        )
        for one in ("token", "step", "sample")
    }
    return (
        efficiency.group_by("workload")
        .agg(pl.col("name", "model").drop_nulls().last(), **ratios)
        .join(skus, on="workload", how="left")
        .select("workload", "name", "model", "sku", *ratios)
        .sort("workload")
    )


def _standing(
    workload: str,
    told: Mapping[str, str | None],
    devices: Sequence[DeviceUse],
    work: Work,
    runs: pl.LazyFrame | None,
) -> Standing | None:
    """Beside runs of the same name and model where there are enough, else of the same model; on the same SKU."""
    if runs is None or told["model"] is None:
        return None
    skus = {device.sku for device in devices}
    metric = next((name for name in _STANDING if getattr(work, name) is not None), None)
    if metric is None or len(skus) != 1:
        return None
    (sku,) = skus
    others = runs.filter(
        (pl.col("workload") != workload)
        & (pl.col("model") == told["model"])
        & pl.col("sku").eq_missing(sku)
        & pl.col(metric).is_not_null()
    ).collect()
    namesakes = others.filter(pl.col("name").eq_missing(told["name"]))
    chosen, of = others, str(told["model"])
    if namesakes.height >= FEWEST_RUNS:
        chosen, of = namesakes, ", ".join(dict.fromkeys(word for word in (told["name"], told["model"]) if word))
    if chosen.height < FEWEST_RUNS:
        return None
    own, values = getattr(work, metric), chosen[metric]
    return Standing(
        metric=metric,
        value=own,
        of=f"{of} on {sku or 'the same devices'}",
        runs=chosen.height,
        median=float(values.median()),  # type: ignore[arg-type]
        best=float(values.min()),  # type: ignore[arg-type]
        best_run=chosen.sort(metric, "workload")["workload"][0],
        better_ratio=float((values > own).mean() or 0.0),
    )
