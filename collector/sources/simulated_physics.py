"""
How simulated devices draw power, warm up and slow down.

Time advances in cells. From cell to cell temperatures, fans, clocks and the progress of jobs are carried on; within a
cell power is a square wave (computing and exchanging) whose integral has a closed form. So any reading at any moment,
with any averaging window, is exact, and does not depend on which other moments were asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.sources.simulated_demand import Job, Load, Schedule, Surroundings, load, mixed, surroundings, uniform
from collector.sources.simulated_faults import Fault, Plan
from collector.sources.simulated_fleet import CELL_S, NS, Fleet, Floats, Integers, seed_of

CELLS: Final = 360
"""Cells in a block: an hour."""
BLOCK_NS: Final = CELLS * CELL_S * NS
WARMING: Final = 1.0 - float(np.exp(-CELL_S / 25.0))
"""Share of the way to its steady temperature that a device goes in a cell: heat sinks take about 25 s."""
RISE_C: Final = 38.0
"""Degrees above the air that enters, at the rated power and full fans; the air's part of it grows as fans slow."""
TARGET_C: Final = 72.0
"""What the fans hold the hottest device of a host at."""
SUPPLY_EFFICIENCY: Final = 0.94
_OF_DEVICES: Final = (
    "clock", "high_w", "low_w", "duty", "wave_hz", "wave_at", "temperature_c", "mean_w", "power_limited",
    "heat_limited",
)  # fmt: skip
_LED: Final = (
    "high_w", "low_w", "duty", "wave_hz", "wave_at", "activity", "memory", "gain", "cpu_w", "dram_w", "platform_w",
    "site_w", "cooling_w", "meter_w",
)  # fmt: skip
_LED_TOTALS: Final = ("true_j", "read_j")
"""What a block begins with of the last cell before it."""
UNIT_W: Final = 180.0
"""What a host draws besides devices, CPUs, memory and fans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The devices as made: figures of the type with the spread of manufacture, an array over devices each."""

    tdp_w: Floats
    limit_min_w: Floats
    base_w: Floats
    leakage_w: Floats
    memory_w: Floats
    dynamic_w: Floats
    clock_max_hz: Floats
    clock_step: Floats
    clock_low: Floats
    volts_low: Floats
    resistance: Floats
    slowdown_c: Floats
    preheat_c: Floats
    gain: Floats
    noise_seed: NDArray[np.uint64]


def parts(fleet: Fleet) -> Parts:
    """Draw each device's deviations from its type (leakage 12 %, dynamic power 2.5 %, cooling 4 %, sensor gain 2 %)."""
    rng = np.random.default_rng(seed_of(fleet.options.seed, "parts"))
    n, tdp = fleet.size, fleet.each("tdp_w")
    base, leakage, memory = fleet.each("base_w"), fleet.each("leakage_w"), fleet.each("memory_w")
    top = fleet.each("clock_max_hz")
    per_host = fleet.options.devices_per_host
    return Parts(
        tdp_w=tdp,
        limit_min_w=fleet.each("limit_min_w"),
        base_w=base,
        leakage_w=leakage * np.exp(0.12 * rng.standard_normal(n)),
        memory_w=memory,
        # All pipes busy at the highest clock would draw a sixth more than the limit: heavy work is power-limited.
        dynamic_w=(1.16 * tdp - base - leakage - 0.7 * memory) * (1 + 0.025 * rng.standard_normal(n)),
        clock_max_hz=top,
        clock_step=fleet.each("clock_step_hz") / top,
        clock_low=fleet.each("clock_min_hz") / top,
        volts_low=fleet.each("volts_min") / fleet.each("volts_max"),
        resistance=RISE_C / tdp * (1 + 0.04 * rng.standard_normal(n)),
        slowdown_c=fleet.each("slowdown_c"),
        # Air reaches the back half of a host after it has cooled the front.
        preheat_c=np.where(fleet.slot >= per_host / 2, 6.0, 0.0) + rng.uniform(0.0, 1.5, n),
        gain=np.clip(1 + 0.02 * rng.standard_normal(n), 0.95, 1.05),
        noise_seed=rng.integers(0, 2**63, n).astype(np.uint64),
    )


@dataclass(slots=True, kw_only=True)
class State:
    """What is carried from block to block."""

    temperature_c: Floats
    heat_limit: Floats
    fan: Floats
    true_j: Floats
    read_j: Floats
    reset_j: Floats
    power_limited_s: Floats
    heat_limited_s: Floats
    braked_s: Floats
    corrected: Floats
    uncorrected: Floats
    xids: Floats
    host_cpu_j: Floats
    host_dram_j: Floats
    host_platform_j: Floats
    meter_j: Floats
    steps: dict[str, float]
    served: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """What faults do in a block: arrays of cells x devices."""

    present: NDArray[np.bool_]
    read: NDArray[np.bool_]
    stuck_since: Integers
    hang: NDArray[np.bool_]
    clock: Floats
    brake: NDArray[np.bool_]
    speed: Floats
    air: Floats
    resistance: Floats
    limit: Floats
    gain: Floats
    reset: NDArray[np.bool_]
    corrected_per_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """
    An hour of the fleet. Arrays are cells x devices (or hosts, sites, jobs); those that add up have one more, the end.

    Cell 0 repeats the last cell before the block, for windows that look back across its start: cell `i` begins at
    ``start_ns + (i - 1) * CELL_S``.
    """

    start_ns: int
    jobs: list[Job]
    job_of: Integers
    faults: list[Fault]
    faulty: Faulty
    present_before: NDArray[np.bool_]
    limit_before: Floats
    clock: Floats
    high_w: Floats
    low_w: Floats
    duty: Floats
    wave_hz: Floats
    wave_at: Floats
    activity: Floats
    memory: Floats
    utilization: Floats
    temperature_c: Floats
    limit_w: Floats
    gain: Floats
    true_j: Floats
    read_j: Floats
    reset_j: Floats
    power_limited: Floats
    heat_limited: Floats
    power_limited_s: Floats
    heat_limited_s: Floats
    braked_s: Floats
    corrected: Floats
    uncorrected: Floats
    xids: Floats
    fan: Floats
    inlet_c: Floats
    cpu: Floats
    cpu_w: Floats
    dram_w: Floats
    platform_w: Floats
    cpu_j: Floats
    dram_j: Floats
    platform_j: Floats
    site_w: Floats
    cooling_w: Floats
    meter_w: Floats
    meter_j: Floats
    around: Surroundings
    job_rate: Floats
    job_steps: Floats
    job_tokens: Floats
    job_tokens_per_s: Floats
    job_load: Floats


class Physics:
    """The fleet, carried on block by block from its origin."""

    def __init__(self, fleet: Fleet, origin_ns: int) -> None:
        self.fleet = fleet
        self.origin_ns = origin_ns
        self.parts = parts(fleet)
        self.schedule = Schedule(fleet, origin_ns)
        self.plan = Plan(fleet, origin_ns)
        self.next_ns = origin_ns
        self._host_starts = np.arange(len(fleet.host_names)) * fleet.options.devices_per_host
        self._rack_c = 2.5 * uniform(mixed(self._host_seeds(), np.uint64(7) * np.ones(1, dtype=np.uint64)))
        self._state = self._first_state()
        self._last: dict[str, Floats] = {}

    def kept(self) -> dict[str, Any]:
        """All that is carried on, by name: arrays, and dictionaries of numbers by job."""
        return {
            "next_ns": self.next_ns,
            **{f"state.{name}": getattr(self._state, name) for name in State.__slots__},
            **{f"last.{name}": values for name, values in self._last.items()},
        }

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Carry on from what another `kept` of the same fleet and origin."""
        self.next_ns = int(kept["next_ns"])
        self._state = State(**{name: kept[f"state.{name}"] for name in State.__slots__})
        self._last = {name.removeprefix("last."): kept[name] for name in kept if name.startswith("last.")}

    def _host_seeds(self) -> NDArray[np.uint64]:
        return np.array([seed_of(self.fleet.options.seed, name) for name in self.fleet.host_names], dtype=np.uint64)

    def _first_state(self) -> State:
        n, hosts = self.fleet.size, len(self.fleet.host_names)
        rng = np.random.default_rng(seed_of(self.fleet.options.seed, "state", self.origin_ns))
        # Drivers were loaded some days ago, and have counted since.
        counted = rng.uniform(1, 30, n) * 86_400 * self.parts.tdp_w * 0.5
        return State(
            temperature_c=np.full(n, 45.0),
            heat_limit=np.ones(n),
            fan=np.full(hosts, 0.5),
            true_j=counted.copy(),
            read_j=counted,
            reset_j=np.zeros(n),
            power_limited_s=np.floor(rng.uniform(0, 40_000, n)),
            heat_limited_s=np.zeros(n),
            braked_s=np.zeros(n),
            corrected=np.floor(rng.exponential(3.0, n)),
            uncorrected=np.zeros(n),
            xids=np.zeros(n),
            host_cpu_j=rng.uniform(1e8, 1e9, hosts),
            host_dram_j=rng.uniform(1e7, 1e8, hosts),
            host_platform_j=rng.uniform(1e9, 1e10, hosts),
            meter_j=rng.uniform(1e12, 1e13, len(self.fleet.sites)),
            steps={},
            served={},
        )

    def advance(self) -> Block:
        """The next block."""
        fleet, made, state = self.fleet, self.parts, self._state
        start_ns = self.next_ns
        jobs = self.schedule.between(start_ns, start_ns + BLOCK_NS)
        # A fault that ended just before still resets a counter in the first cell.
        faults = self.plan.between(start_ns - CELL_S * NS, start_ns + BLOCK_NS)
        wanted = load(jobs, fleet, start_ns, CELLS)
        around = surroundings(fleet.sites, fleet.options.seed, start_ns, CELLS)
        job_of = _job_of(jobs, fleet.size, start_ns)
        faulty = _faulty(faults, fleet, start_ns)
        for fault in faults:
            if fault.kind == "idle_allocated":
                _hang(fault, job_of, faulty, start_ns, len(jobs))
        cell = np.arange(CELLS)[:, None]

        def of_job(values: Floats) -> Floats:
            return values[cell, job_of]

        quiet = faulty.hang | ~faulty.present
        core = np.where(quiet, 0.0, of_job(wanted.core))
        idle_core = np.where(quiet, 0.0, of_job(wanted.idle_core))
        memory = np.where(quiet, 0.0, of_job(wanted.memory))
        bound = np.array([job.compute_bound for job in jobs] + [0.0])[job_of]
        inlet = around.supply_c[:, fleet.host_site] + self._rack_c[None, :]
        air = inlet[:, fleet.host_of] + made.preheat_c[None, :]
        limit_w = np.maximum(made.limit_min_w, np.rint(made.tdp_w * faulty.limit))

        n = fleet.size
        run = {name: np.empty((CELLS, n)) for name in _OF_DEVICES}
        run["fan"] = np.empty((CELLS, len(fleet.host_names)))
        run["rate"] = rate = np.empty((CELLS, len(jobs) + 1))
        run["steps"] = steps = np.empty((CELLS + 1, len(jobs) + 1))
        steps[0] = [*(_steps_before(job, state, self.origin_ns) for job in jobs), 0.0]
        # What hangs makes nothing, and neither does who waits for it.
        speed = np.where(quiet, 0.0, faulty.speed)
        temperature, heat_limit, fans = state.temperature_c, state.heat_limit, state.fan
        lowest = made.clock_low
        for k in range(CELLS):
            group = job_of[k]
            # Clocks: the highest that heat, faults and the power limit allow, in the device's steps.
            allowed = np.minimum(faulty.clock[k], lowest + heat_limit * (1.0 - lowest))
            allowed = np.where(core[k] > 0.0, np.maximum(allowed, lowest), lowest)
            still_w = made.base_w + made.leakage_w * np.exp(0.015 * (temperature - 65.0)) + made.memory_w * memory[k]
            room = np.maximum(limit_w[k] - still_w, 1.0)
            clock = _highest_clock(allowed, room, made.dynamic_w * core[k], made)
            clock = np.maximum(np.floor(clock / made.clock_step + 1e-9) * made.clock_step, lowest)
            dynamic_w = made.dynamic_w * _switching(clock, made)
            high_w = still_w + dynamic_w * core[k]
            low_w = still_w + dynamic_w * idle_core[k]
            # Work: a group goes as fast as its slowest device; the faster ones wait in the exchange.
            own = speed[k] / (bound[k] / np.maximum(clock, 1e-3) + (1.0 - bound[k]))
            slowest = np.full(len(jobs) + 1, np.inf)
            np.minimum.at(slowest, group, own)
            slowest[~np.isfinite(slowest)] = 0.0
            rate[k] = slowest
            nominal = wanted.steps_per_s[k]
            wave_hz = (nominal * slowest)[group]
            duty = np.where(nominal[group] > 0.0, wanted.duty[k][group] * slowest[group] / np.maximum(own, 1e-9), 1.0)
            wave_at = steps[k][group]
            on_s = high_seconds(wave_at, wave_hz, duty, float(CELL_S))
            mean_w = low_w + (high_w - low_w) * on_s / CELL_S
            steps[k + 1] = steps[k] + nominal * slowest * CELL_S
            # Heat.
            air_flow = np.maximum(fans[fleet.host_of] * faulty.air[k], 0.02)
            rise = made.resistance * faulty.resistance[k] * (0.4 + 0.6 / air_flow) * mean_w
            for name, value in (
                ("clock", clock), ("high_w", high_w), ("low_w", low_w), ("duty", duty), ("wave_hz", wave_hz),
                ("wave_at", wave_at), ("temperature_c", temperature), ("mean_w", mean_w), ("fan", fans),
                ("heat_limited", (core[k] > 0.0) & (heat_limit < 1.0)),
                ("power_limited", (core[k] > 0.0) & (clock < allowed - made.clock_step)),
            ):  # fmt: skip
                run[name][k] = value
            temperature = temperature + (air[k] + rise - temperature) * WARMING
            over = temperature - made.slowdown_c
            # The driver lowers clocks as heat exceeds the threshold; well above it the hardware cuts them at once.
            cut = np.where(over > 3.0, 0.4, 0.0) + 0.03 * over
            heat_limit = np.clip(heat_limit - np.where(over > 0.0, cut, np.where(over < -3.0, -0.02, 0.0)), 0.02, 1.0)
            hottest = np.maximum.reduceat(temperature, self._host_starts)
            fans = np.clip(fans + np.clip(0.006 * (hottest - TARGET_C), -0.03, 0.06), 0.3, 1.0)
        state.temperature_c, state.heat_limit, state.fan = temperature, heat_limit, fans
        block = self._block(
            start_ns, jobs, job_of, faults, faulty, wanted, around, inlet, limit_w, core, idle_core, memory, run
        )
        self._last = {
            "present": faulty.present[-1:],
            "limit_w": limit_w[-1:],
            **{name: getattr(block, name)[-1:] for name in _LED},
            **{name: getattr(block, name)[-2:-1] for name in _LED_TOTALS},
        }
        self.next_ns = start_ns + BLOCK_NS
        return block

    def _block(
        self,
        start_ns: int,
        jobs: list[Job],
        job_of: Integers,
        faults: list[Fault],
        faulty: Faulty,
        wanted: Load,
        around: Surroundings,
        inlet: Floats,
        limit_w: Floats,
        core: Floats,
        idle_core: Floats,
        memory: Floats,
        run: Mapping[str, Floats],
    ) -> Block:
        """Everything that follows from the run of the cells, and the state for the next block."""
        fleet, made, state, last = self.fleet, self.parts, self._state, self._last
        power_limited, heat_limited, fan, rate, steps = (
            run[name] for name in ("power_limited", "heat_limited", "fan", "rate", "steps")
        )
        on = high_seconds(run["wave_at"], run["wave_hz"], run["duty"], float(CELL_S)) / CELL_S
        activity = idle_core + (core - idle_core) * on
        gain = made.gain * faulty.gain
        spent = run["mean_w"] * CELL_S
        true_j = _running(state.true_j, spent)
        read_j = _running(state.read_j, spent * gain)
        reset = np.vstack([faulty.reset, np.zeros((1, fleet.size), dtype=bool)])
        # At a reset the counter begins again: what it had read by then is taken off from there on.
        reset_j = np.where(reset, read_j, -np.inf)
        reset_j = np.maximum.accumulate(np.vstack([state.reset_j[None, :], reset_j]))[1:]
        # A swing of power moves the clock's limit in and out; only the computing part of it is limited.
        power_s = _running(state.power_limited_s, power_limited * on * CELL_S)
        heat_s = _running(state.heat_limited_s, heat_limited * CELL_S)
        braked_s = _running(state.braked_s, faulty.brake * float(CELL_S))
        corrected = _running(state.corrected, np.floor(faulty.corrected_per_s * CELL_S))
        storm = faulty.corrected_per_s > 0
        tenth = (np.arange(CELLS)[:, None] % 30 == 0) & storm
        uncorrected = _running(state.uncorrected, tenth.astype(float))
        was = last.get("present", faulty.present[:1])
        lost = ~faulty.present & np.vstack([was, faulty.present[:-1]])
        xids = _running(state.xids, (tenth | lost).astype(float))
        device_w = np.add.reduceat(run["mean_w"], self._host_starts, axis=1)
        busy = np.add.reduceat(activity, self._host_starts, axis=1) / fleet.options.devices_per_host
        cpu = np.clip(0.04 + 0.3 * busy, 0.0, 1.0)
        cpu_w = 130.0 + 420.0 * cpu
        dram_w = 45.0 + 60.0 * cpu
        platform_w = (device_w + cpu_w + dram_w + UNIT_W + 620.0 * fan**3) / SUPPLY_EFFICIENCY
        site_w = np.stack([platform_w[:, fleet.host_site == s].sum(axis=1) for s in range(len(fleet.sites))], axis=1)
        # Free cooling while it is cold, compressors the more the warmer; and losses of transformers and supplies.
        warm = np.clip((around.outdoor_c - 8.0) / 25.0, 0.0, 1.3)
        cooling_w = site_w * (0.045 + 0.20 * warm**1.5)
        meter_w = site_w * 1.045 + cooling_w
        tokens_per_s = wanted.tokens_per_s * np.minimum(rate, 1.0)
        tokens = np.vstack([np.zeros((1, len(jobs) + 1)), np.cumsum(tokens_per_s * CELL_S, axis=0)])
        tokens += np.array([*(_tokens_before(job, state, self.origin_ns) for job in jobs), 0.0])
        made_block = {
            "cpu_j": _running(state.host_cpu_j, cpu_w * CELL_S),
            "dram_j": _running(state.host_dram_j, dram_w * CELL_S),
            "platform_j": _running(state.host_platform_j, platform_w * CELL_S),
            "meter_j": _running(state.meter_j, meter_w * CELL_S),
        }
        state.true_j, state.read_j, state.reset_j = true_j[-1], read_j[-1], reset_j[-1]
        state.power_limited_s, state.heat_limited_s, state.braked_s = power_s[-1], heat_s[-1], braked_s[-1]
        state.corrected, state.uncorrected, state.xids = corrected[-1], uncorrected[-1], xids[-1]
        state.host_cpu_j, state.host_dram_j = made_block["cpu_j"][-1], made_block["dram_j"][-1]
        state.host_platform_j, state.meter_j = made_block["platform_j"][-1], made_block["meter_j"][-1]
        state.steps = {job.id: float(steps[-1, j]) for j, job in enumerate(jobs)}
        state.served = {job.id: float(tokens[-1, j]) for j, job in enumerate(jobs)}

        def led(name: str, values: Floats) -> Floats:
            """*values* with the last cell before the block in front."""
            return np.vstack([last.get(name, values[:1]), values])

        def led_total(name: str, values: Floats, amounts: Floats) -> Floats:
            """Running totals by the start of each cell, with the start of the last cell before the block in front."""
            return np.vstack([last.get(name, values[:1] - amounts[:1]), values])

        return Block(
            start_ns=start_ns, jobs=jobs, job_of=job_of, faults=faults, faulty=faulty,
            present_before=was[0], limit_before=last.get("limit_w", limit_w)[0],
            clock=run["clock"], high_w=led("high_w", run["high_w"]), low_w=led("low_w", run["low_w"]),
            duty=led("duty", run["duty"]), wave_hz=led("wave_hz", run["wave_hz"]),
            wave_at=led("wave_at", run["wave_at"]), activity=led("activity", activity), memory=led("memory", memory),
            utilization=np.where(
                faulty.hang | ~faulty.present, 0.0, wanted.utilization[np.arange(CELLS)[:, None], job_of]
            ),
            temperature_c=np.vstack([run["temperature_c"], state.temperature_c[None, :]]), limit_w=limit_w,
            gain=led("gain", gain), true_j=led_total("true_j", true_j, spent),
            read_j=led_total("read_j", read_j, spent * gain), reset_j=reset_j[:-1], power_limited=power_limited,
            heat_limited=heat_limited, power_limited_s=power_s, heat_limited_s=heat_s, braked_s=braked_s,
            corrected=corrected, uncorrected=uncorrected, xids=xids, fan=fan, inlet_c=inlet, cpu=cpu,
            cpu_w=led("cpu_w", cpu_w), dram_w=led("dram_w", dram_w), platform_w=led("platform_w", platform_w),
            site_w=led("site_w", site_w), cooling_w=led("cooling_w", cooling_w), meter_w=led("meter_w", meter_w),
            around=around, job_rate=rate, job_steps=steps, job_tokens=tokens, job_tokens_per_s=tokens_per_s,
            job_load=wanted.served, **made_block,
        )  # fmt: skip


def _switching(clock: Floats, made: Parts) -> Floats:
    """V² f over that at the highest clock; voltage rises with the clock in a straight line."""
    volts = made.volts_low + (1.0 - made.volts_low) * (clock - made.clock_low) / (1.0 - made.clock_low)
    switching: Floats = volts * volts * clock
    return switching


def _highest_clock(allowed: Floats, room_w: Floats, dynamic_w: Floats, made: Parts) -> Floats:
    """The highest clock up to *allowed* whose dynamic power fits into *room_w*."""
    target = room_w / np.maximum(dynamic_w, 1e-9)
    if not np.any(_switching(allowed, made) > target):
        return allowed
    slope = (1.0 - made.volts_low) / (1.0 - made.clock_low)
    clock = allowed
    # Newton's method comes down from above and never passes below the root: V² f is convex and rises.
    for _ in range(5):
        volts = made.volts_low + slope * (clock - made.clock_low)
        excess = volts * volts * clock - target
        clock = clock - np.maximum(excess, 0.0) / (volts * volts + 2.0 * volts * slope * clock)
        clock = np.maximum(clock, made.clock_low)
    return clock


def high_seconds(at: Floats, hz: Floats, duty: Floats, span_s: Floats | float) -> Floats:
    """Seconds of the high part in *span_s* of a square wave of *hz* from *at* (in periods) on; a still one mixes."""
    end = at + hz * span_s
    first, last = np.floor(at), np.floor(end)
    parts_on = np.minimum(end - last, duty) - np.minimum(at - first, duty) + (last - first) * duty
    return np.where(hz > 0.0, parts_on / np.where(hz > 0.0, hz, 1.0), duty * span_s)


def _running(start: Floats, amounts: Floats) -> Floats:
    """Totals by the start of each cell and the end of the last."""
    return np.cumsum(np.vstack([start[None, :], amounts]), axis=0)


def _steps_before(job: Job, state: State, origin_ns: int) -> float:
    """A job's steps by the start of the block; one that began before the origin has done its share."""
    if job.id in state.steps:
        return state.steps[job.id]
    return max(0, origin_ns - job.start_ns) / NS / job.period_s * 0.9 if job.kind == "training" else 0.0


def _tokens_before(job: Job, state: State, origin_ns: int) -> float:
    if job.id in state.served:
        return state.served[job.id]
    return float(np.floor(max(0, origin_ns - job.start_ns) / NS * job.tokens_per_s * 0.5))


def _job_of(jobs: list[Job], devices: int, start_ns: int) -> Integers:
    """The job on each device in each cell; the number after the last job is none."""
    job_of = np.full((CELLS, devices), len(jobs), dtype=np.int64)
    for number, job in enumerate(jobs):
        job_of[_slice(job.start_ns, job.end_ns, start_ns), list(job.devices)] = number
    return job_of


def _slice(begin_ns: int, end_ns: int, start_ns: int) -> slice:
    """The cells of a block that lie in a stretch of time."""
    first = -((start_ns - begin_ns) // (CELL_S * NS))
    last = -((start_ns - end_ns) // (CELL_S * NS))
    return slice(min(max(first, 0), CELLS), min(max(last, 0), CELLS))


def _faulty(faults: list[Fault], fleet: Fleet, start_ns: int) -> Faulty:
    shape = (CELLS, fleet.size)
    made = Faulty(
        present=np.ones(shape, dtype=bool),
        read=np.ones(shape, dtype=bool),
        stuck_since=np.full(shape, -1, dtype=np.int64),
        hang=np.zeros(shape, dtype=bool),
        clock=np.ones(shape),
        brake=np.zeros(shape, dtype=bool),
        speed=np.ones(shape),
        air=np.ones(shape),
        resistance=np.ones(shape),
        limit=np.ones(shape),
        gain=np.ones(shape),
        reset=np.zeros(shape, dtype=bool),
        corrected_per_s=np.zeros(shape),
    )
    at_ns = start_ns + np.arange(CELLS) * CELL_S * NS
    for fault in faults:
        cells = _slice(fault.start_ns, fault.end_ns, start_ns)
        where = (cells, list(fault.devices))
        if fault.kind == "power_stuck":
            made.stuck_since[where] = fault.start_ns
        elif fault.kind == "device_lost":
            made.present[where] = False
            # A reset brings the device back, and its counters begin again.
            back = _slice(fault.end_ns, fault.end_ns + CELL_S * NS, start_ns)
            made.reset[back, list(fault.devices)] = True
        elif fault.kind == "thermal_degradation":
            made.resistance[where] = fault.value
        elif fault.kind == "fan_failure":
            made.air[where] = fault.value
        elif fault.kind == "power_brake":
            made.clock[where] = fault.value
            made.brake[where] = True
        elif fault.kind == "power_cap":
            made.limit[where] = fault.value
        elif fault.kind == "straggler":
            made.speed[where] = fault.value
        elif fault.kind == "clock_stuck":
            made.clock[where] = fault.value
        elif fault.kind == "ecc_storm":
            made.corrected_per_s[where] = fault.value
        elif fault.kind == "missing_samples":
            made.read[where] = False
        elif fault.kind == "counter_reset":
            first = _slice(fault.start_ns, fault.start_ns + CELL_S * NS, start_ns)
            made.reset[first, list(fault.devices)] = True
        elif fault.kind == "gain_drift":
            done = np.clip((at_ns[cells] - fault.start_ns) / (fault.end_ns - fault.start_ns), 0.0, 1.0)
            made.gain[where] = (1.0 + (fault.value - 1.0) * done)[:, None]
    return made


def _hang(fault: Fault, job_of: Integers, faulty: Faulty, start_ns: int, none: int) -> None:
    """Stop the whole job that the fault's device is part of."""
    cells = _slice(fault.start_ns, fault.end_ns, start_ns)
    mine = job_of[cells, fault.devices[0]][:, None]
    faulty.hang[cells] |= (job_of[cells] == mine) & (mine != none)
