"""
One job on one screen: who, what, where and when, what it drew and achieved, what it wasted, and what to change.

`job_report` looks at the frames of one workload and gives a `JobReport`, which the command line prints and the page of
a job shows. Nothing in it was guessed: what was not measured is None, an energy says how much of the time it covers and
how much of it was measured, and findings (`analytics.findings`) come with the number that they rest on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.attribution import attribute, named
from analytics.calibration import calibrated_energy, latest_fits
from analytics.cost import cost, fixed_cost, rates
from analytics.efficiency import current, efficiency, energy_in, work_of
from analytics.energy import device_steps
from analytics.fleet import Fleet
from analytics.steps import MAX_COUNTER_GAP_S, difference, in_order
from collector.catalogue import (
    ACTIVITY_DRAM,
    ACTIVITY_SM,
    ACTIVITY_TENSOR,
    CLOCK_SM,
    ENERGY,
    MEMORY_TOTAL,
    MEMORY_USED,
    POWER,
    POWER_LIMIT,
    TEMPERATURE,
    TOKENS_OUT,
    UTILIZATION,
    Metric,
    Scope,
    metrics,
)

if TYPE_CHECKING:
    from analytics.frames import WorkloadFrames

BUSY: Final = 0.5
"""Clocks are compared over the readings in which a device is busier than this: idle clocks say nothing of its speed."""
SLOW: Final = 0.03
"""A device is called slow when its clock is this far below the median of its group: beyond what manufacture spreads."""
FEWEST_RUNS: Final = 3
"""Other runs that a standing needs."""

_STANDING: Final = ("joules_per_token", "joules_per_step", "joules_per_sample")
_THROTTLE: Final = tuple(metric for metric in metrics(Scope.DEVICE) if metric.family == "throttle")
_THROTTLING: Final = tuple(metric for metric in metrics(Scope.DEVICE) if metric.family == "throttling")
_READ: Final = (
    "device", "time", "source", "host", "power_method", "power_scope",
    *(metric.column for metric in (
        POWER, ENERGY, POWER_LIMIT, UTILIZATION, ACTIVITY_SM, ACTIVITY_TENSOR, ACTIVITY_DRAM, CLOCK_SM, TEMPERATURE,
        MEMORY_USED, MEMORY_TOTAL, *_THROTTLE, *_THROTTLING,
    )),
)  # fmt: skip
# A counter of throttled seconds rises by a second a second at most; some drivers count a little ahead.
_SECONDS_A_SECOND: Final = 1.1
# Clocks that are low because there is no work, or that follow another device, are no fault of this one.
_NO_FAULT: Final = frozenset({"idle", "low_utilization"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """Why clocks were held down, and in which share of the time (0 to 1)."""

    reason: str
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What the job made of one device, over the time it held it; ratios are means over that time."""

    device: str
    host: str | None
    ordinal: int | None
    sku: str | None
    allocated_s: float
    covered_ratio: float
    energy_j: float | None
    power_mean_w: float | None
    power_max_w: float | None
    power_limit_w: float | None
    utilization_ratio: float | None
    sm_ratio: float | None
    tensor_ratio: float | None
    dram_ratio: float | None
    memory_used_bytes: float | None
    """The most that was in use."""
    memory_total_bytes: float | None
    temperature_max_c: float | None
    clock_busy_hz: float | None
    """Mean clock of the compute units while it was busy."""
    idle_s: float
    throttled: tuple[Throttled, ...] = ()

    @property
    def memory_ratio(self) -> float | None:
        """The most memory in use over what there is."""
        if self.memory_used_bytes is None or not self.memory_total_bytes:
            return None
        return self.memory_used_bytes / self.memory_total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """
    The energy of the job's devices while it held them, idle or not.

    The interval holds the truth in 95 of 100 cases: by the boards' calibrations, else 5 % to either side; None where
    some of it was modelled. `counter_ratio` is the part that hardware counters measured, `modelled_ratio` the part
    that nothing measured; the rest is integrated power.
    """

    energy_j: float | None
    low_j: float | None
    high_j: float | None
    covered_ratio: float
    counter_ratio: float | None
    modelled_ratio: float | None
    calibrated_devices: int
    power_mean_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """
    What it cost and emitted, as `perfwatt cost` has it; None where fleet.toml does not say.

    `total` is energy and devices; `facility` is what the site's PUE adds to the energy, and not in it.
    """

    currency: str | None
    energy: float | None
    devices: float | None
    total: float | None
    facility: float | None
    pue: float | None
    price_basis: str | None
    carbon_location_kg: float | None
    carbon_market_kg: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What was achieved, over the time in which the workload's counters were read; None where nothing counted it."""

    tokens: float | None
    tokens_in: float | None
    samples: float | None
    steps: float | None
    requests: float | None
    tokens_per_s: float | None
    joules_per_token: float | None
    joules_per_step: float | None
    joules_per_sample: float | None
    tokens_per_s_per_w: float | None
    load_ratio: float | None
    """Tokens per second over the best hundredth of its minutes: how near the run was to its own best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    How the job compares with other runs of the same.

    `of` says what they have in common (such as ``chat, Llama-3.1-8B on NVIDIA H100``); `better_ratio` is the share of
    the others that needed more joules than it.
    """

    metric: str
    value: float
    of: str
    runs: int
    median: float
    best: float
    better_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Energy that brought nothing, by cause, in joules and device-seconds."""

    cause: str
    energy_j: float | None
    device_s: float
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """The device that holds its group back: how far its busy clock is below the median of the others."""

    device: str
    host: str | None
    clock_hz: float
    median_hz: float
    behind_ratio: float
    throttled: tuple[Throttled, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    One thing to change.

    `text` is a sentence with its number, `change` the exact flag or setting, `value` the number; `energy_j` is what it
    costs at most, None where that cannot be told (then it stands last).
    """

    kind: str
    text: str
    change: str
    value: float
    energy_j: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """One job. Times are nanoseconds since 1970; `end_ns` is None while it runs, and `seen_ns` is what was covered."""

    workload: str
    name: str | None
    user: str | None
    team: str | None
    model: str | None
    framework: str | None
    hosts: tuple[str, ...]
    sites: tuple[str, ...]
    start_ns: int
    end_ns: int | None
    seen_ns: tuple[int, int] | None
    device_h: float
    devices: tuple[DeviceUse, ...]
    energy: Energy
    money: Money
    work: Work
    standing: Standing | None
    waste: tuple[Waste, ...]
    throttled: tuple[Throttled, ...]
    imbalance: Imbalance | None
    findings: tuple[Finding, ...] = ()
    thin: tuple[str, ...] = ()
    """Why there are fewer findings than there could be: what was not measured, or too little of it."""


def job_report(
    workload: str,
    told: "WorkloadFrames",
    *,
    fleet: Fleet | None = None,
    runs: pl.LazyFrame | None = None,
    waste: Sequence[Waste] = (),
    max_gap_s: float | None = None,
) -> JobReport | None:
    """
    The report of one workload; None where nothing was allocated to it.

    In:  told: as `analytics.frames.of_workload` gives it; *fleet*: prices, PUE and carbon; *runs*: workload, name,
         model, sku and joules_per_token, joules_per_step, joules_per_sample of other workloads, for its standing;
         *waste*: its lines of a ledger of waste, else what was idle.
    """
    told = told._replace(device_samples=told.device_samples.select(_READ))
    frames = told._replace(**{name: frame.collect().lazy() for name, frame in told._asdict().items()})
    mine = current(frames.allocations).filter(pl.col("workload") == workload).sort("start").collect()
    if mine.is_empty():
        return None
    fleet = fleet or Fleet()
    lines = attribute(frames.device_samples, frames.allocations, devices=frames.devices, by="15m", max_gap_s=max_gap_s)
    lines = lines.filter(pl.col("workload") == workload).collect().lazy()
    boards = _boards(mine, frames.devices)
    samples = _while_held(frames.device_samples, boards).collect().lazy()
    devices = _devices(lines, samples, boards, frames.devices)
    hosts = tuple(sorted({device.host for device in devices if device.host}))
    sites = fleet.site_of(hosts)
    work = _work(workload, frames, max_gap_s)
    first, last = samples.select(first=pl.col("time").min(), last=pl.col("time").max()).collect().row(0)
    called = _identity(workload, mine, frames.workload_samples)
    return JobReport(
        workload=workload,
        name=called["name"],
        user=called["user"],
        team=called["team"],
        model=called["model"],
        framework=called["framework"],
        hosts=hosts,
        sites=tuple(sorted(set(sites.values()))),
        start_ns=_moment(mine["start"].min()),
        end_ns=None if mine["end"].null_count() else _moment(mine["end"].max()),
        seen_ns=None if first is None else (_moment(first), _moment(last)),
        device_h=sum(device.allocated_s for device in devices) / 3600.0,
        devices=devices,
        energy=_energy(devices, samples, frames, boards, max_gap_s),
        money=_money(lines, frames, fleet, sites),
        work=work,
        standing=_standing(workload, called, devices, work, runs),
        waste=tuple(waste) or _idle(lines),
        throttled=_together(devices),
        imbalance=_imbalance(devices),
    )


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
        idle_s=pl.col("span_s").filter(pl.col("kind") == "idle").sum(),
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


def _energy(
    devices: Sequence[DeviceUse],
    samples: pl.LazyFrame,
    told: "WorkloadFrames",
    boards: pl.LazyFrame,
    max_gap_s: float | None,
) -> Energy:
    of_boards = samples.filter(pl.col("device") == pl.col("board"))
    spread = calibrated_energy(of_boards, latest_fits(told.calibrations), max_gap_s=max_gap_s).collect()
    interval = {row["device"]: row for row in spread.iter_rows(named=True)}
    # Far enough for any store and near enough that nanoseconds do not overflow.
    end = pl.col("end").fill_null(pl.lit(2**62).cast(pl.Datetime("ns")))
    spans = boards.select("device", "start", end=end, share=pl.lit(1.0)).unique()
    steps = device_steps(told.device_samples, max_gap_s=max_gap_s, devices=told.devices)
    sums = ("energy_j", "counter_j", "modelled_j")
    whole = energy_in(spans, steps, sums=sums).select(pl.col(name).sum() for name in sums).collect()
    joules, counter, modelled = whole.row(0)
    known = [device for device in devices if device.energy_j is not None]
    allocated_s = sum(device.allocated_s for device in devices)
    covered_s = sum(device.covered_ratio * device.allocated_s for device in devices)
    energy_j = sum(device.energy_j or 0.0 for device in known) if known else None
    ends = [
        tuple((device.energy_j or 0.0) * interval[device.device][name] / interval[device.device]["energy_raw_j"]
              for name in ("energy_low_j", "energy_high_j"))
        for device in known
        if device.device in interval
        and interval[device.device]["energy_low_j"] is not None
        and interval[device.device]["energy_raw_j"]
    ]  # fmt: skip
    sure = len(ends) == len(known) > 0
    return Energy(
        energy_j=energy_j,
        low_j=sum(low for low, _ in ends) if sure else None,
        high_j=sum(high for _, high in ends) if sure else None,
        covered_ratio=covered_s / allocated_s if allocated_s else 0.0,
        counter_ratio=counter / joules if joules else None,
        modelled_ratio=modelled / joules if joules else None,
        calibrated_devices=sum(1 for row in interval.values() if row["calibrated"]),
        power_mean_w=energy_j / covered_s if energy_j is not None and covered_s else None,
    )


def _money(lines: pl.LazyFrame, told: "WorkloadFrames", fleet: Fleet, sites: Mapping[str, str]) -> Money:
    placed = named(lines, told.workload_samples, sites).collect().lazy()
    windows = placed.select(pl.col("window").cast(pl.Datetime("us")).unique().sort()).collect()["window"].to_list()
    charged = cost(placed, rates(fleet, windows, told.facility_samples), keys=["workload"]).collect()
    fixed = fixed_cost(placed, told.devices, fleet, keys=["workload"]).collect()
    # Two currencies are two rows, and no sum.
    row = charged.row(0, named=True) if charged.height == 1 else {}
    devices, currency = (fixed["fixed_cost"].item(), fixed["currency"].item()) if fixed.height == 1 else (None, None)
    energy = row.get("energy_cost")
    currencies = {c for c in (row.get("currency"), currency) if c is not None}
    factors = {fleet.pue.get(site) for site in set(sites.values())} or {None}
    pue = factors.pop() if len(factors) == 1 else None
    total = energy + devices if len(currencies) == 1 and energy is not None and devices is not None else None
    return Money(
        currency=currencies.pop() if len(currencies) == 1 else None,
        energy=energy,
        devices=devices,
        total=total,
        facility=energy * (pue - 1.0) if energy is not None and pue is not None else None,
        pue=pue,
        price_basis=row.get("price_basis"),
        carbon_location_kg=row.get("carbon_location_kg"),
        carbon_market_kg=row.get("carbon_market_kg"),
    )


def _idle(lines: pl.LazyFrame) -> tuple[Waste, ...]:
    idle = lines.filter(pl.col("kind") == "idle").select(
        energy_j=pl.when(pl.col("energy_j").count() > 0).then(pl.col("energy_j").sum()), device_s=pl.col("span_s").sum()
    )
    joules, seconds = idle.collect().row(0)
    return (Waste(cause="idle", energy_j=joules, device_s=seconds),) if seconds else ()


# --------------------------------------------------------------------------------------------------- work and standing


def _identity(workload: str, mine: pl.DataFrame, workload_samples: pl.LazyFrame) -> dict[str, str | None]:
    told = mine.select(pl.col("name", "user", "team").drop_nulls().last()).row(0, named=True) if mine.height else {}
    seen = workload_samples.filter(pl.col("workload") == workload).select(
        pl.col("model", "framework").drop_nulls().last()
    )
    models = seen.collect()
    return {**told, **(models.row(0, named=True) if models.height else {"model": None, "framework": None})}


def _work(workload: str, told: "WorkloadFrames", max_gap_s: float | None) -> Work:
    own = told.workload_samples.filter(pl.col("workload") == workload)
    mine = told.allocations.filter(pl.col("workload") == workload)
    row = (
        efficiency(told.device_samples, own, mine, max_gap_s=max_gap_s, devices=told.devices)
        .collect()
        .row(0, named=True)
    )
    minutes = work_of(own, 60.0).filter(pl.col("work_s") > 30.0)
    pace = minutes.select((pl.col(TOKENS_OUT.column) / pl.col("work_s")).quantile(0.99)).collect().item()
    rate = row["tokens_per_s"]
    return Work(
        tokens=row["tokens"],
        tokens_in=row["tokens_in"],
        samples=row["samples"],
        steps=row["steps"],
        requests=row["requests"],
        tokens_per_s=rate,
        joules_per_token=row["joules_per_token"],
        joules_per_step=row["joules_per_step"],
        joules_per_sample=row["joules_per_sample"],
        tokens_per_s_per_w=row["tokens_per_s_per_w"],
        load_ratio=min(1.0, rate / pace) if rate and pace else None,
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
    named_same = others.filter(pl.col("name").eq_missing(told["name"]))
    chosen, common = (named_same, f"{told['name']}, ") if named_same.height >= FEWEST_RUNS else (others, "")
    if chosen.height < FEWEST_RUNS:
        return None
    own, values = getattr(work, metric), chosen[metric]
    return Standing(
        metric=metric,
        value=own,
        of=f"{common if told['name'] else ''}{told['model']} on {sku or 'the same devices'}",
        runs=chosen.height,
        median=float(values.median()),  # type: ignore[arg-type]
        best=float(values.min()),  # type: ignore[arg-type]
        better_ratio=float((values > own).mean() or 0.0),
    )
