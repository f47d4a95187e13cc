"""What the sensors of the simulated fleet show of its physics: windows, ticks, steps, noise, what cannot be read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector import catalogue as c
from collector.catalogue import Metric
from collector.sources.simulated_demand import SEQUENCE, Bits, mixed
from collector.sources.simulated_fleet import CELL_S, NS, Fleet, Floats, Integers
from collector.sources.simulated_physics import CELLS, Block, Parts, high_seconds

Values = dict[Metric, Floats]
"""By metric: an array of subjects x moments; NaN where there is no value."""

TICK_NS: Final = NS // 10
"""The energy counter moves every 100 ms."""
TOKENS_PER_REQUEST: Final = 320.0
PATIENCE_S: Final = 60.0
"""After so long who asked gives up."""
DRIVERS: Final = {"nvidia": "580.95.05", "amd": "6.14.14", "intel": "1.22.0"}
_CELL_NS: Final = CELL_S * NS
_STUCK: Final = np.dtype([("device", "<i8"), ("since_ns", "<i8"), ("value", "<f8")])
_SLOTS: Final = 1 << 14


def _bell() -> Floats:
    """Values of a standard normal distribution at evenly spaced probabilities: a table to look noise up in."""
    grid = np.linspace(-5.0, 5.0, 40_001)
    mass = np.cumsum(np.exp(-grid * grid / 2))
    return np.interp((np.arange(_SLOTS) + 0.5) / _SLOTS, mass / mass[-1], grid)


_BELL: Final = _bell()


def _noise(bits: Bits, part: int) -> Floats:
    """One of four independent normal values from random bits."""
    values: Floats = _BELL[(bits >> np.uint64(14 * part)) & np.uint64(_SLOTS - 1)]
    return values


def _step(values: Floats, step: float) -> Floats:
    """*values* as a sensor with this resolution gives them."""
    # Fractions are divided out, so that 0.1 is the nearest number to 0.1.
    per = round(1 / step) if step < 1 else 1
    rounded: Floats = np.rint(values * per) / per if step < 1 else np.rint(values / step) * step
    return rounded


def cells_of(block: Block, times_ns: Integers) -> Integers:
    """The cell of each moment; -1 is the last before the block."""
    cells: Integers = np.maximum((times_ns - block.start_ns) // _CELL_NS, -1)
    return cells


class Sensors:
    """The sensors of the devices. Power that is stuck is remembered from block to block, nothing else is."""

    def __init__(self, fleet: Fleet, parts: Parts) -> None:
        self._fleet = fleet
        self._parts = parts
        self._stuck: dict[tuple[int, int], float] = {}
        vendor = np.array([sku.vendor for sku in fleet.skus])[fleet.sku_of]
        self._nvidia = vendor == "nvidia"
        self._amd = vendor == "amd"
        self._counter = fleet.each("counter") > 0
        self._instant = np.array([sku.instant_s is not None for sku in fleet.skus])[fleet.sku_of]
        self._window_ns = np.rint(fleet.each("window_s") * NS).astype(np.int64)
        self._instant_ns = np.rint(np.maximum(fleet.each("instant_s"), 0.025) * NS).astype(np.int64)
        self._linked = np.array([sku.name != "L40S" for sku in fleet.skus])[fleet.sku_of]

    def kept(self) -> dict[str, Any]:
        """What is remembered, by name: the device, the beginning and the value of each sensor that is stuck."""
        return {"stuck": np.array([(*key, value) for key, value in self._stuck.items()], dtype=_STUCK)}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Carry on from what another `kept` of the same fleet."""
        self._stuck = {(device, since): value for device, since, value in kept["stuck"].tolist()}

    def take_up(self, block: Block) -> None:
        """Remember what sensors that stick from now on show; called once for each block, in order."""
        for fault in block.faults:
            if fault.kind == "power_stuck" and block.start_ns <= fault.start_ns < block.start_ns + CELLS * _CELL_NS:
                values = self._power(block, np.array([fault.start_ns]), self._window_ns)
                for device in fault.devices:
                    self._stuck[device, fault.start_ns] = float(values[0, device])

    def present(self, block: Block, times_ns: Integers) -> NDArray[np.bool_]:
        """Whether each device is on its bus at each moment: moments x devices."""
        found: NDArray[np.bool_] = block.faulty.present[cells_of(block, times_ns)]
        return found

    def read(self, block: Block, times_ns: Integers) -> NDArray[np.bool_]:
        """Whether each device gives a sample at each moment: moments x devices."""
        cells = cells_of(block, times_ns)
        found: NDArray[np.bool_] = block.faulty.present[cells] & block.faulty.read[cells]
        return found

    def true_power(self, block: Block, times_ns: Integers, window_s: float) -> Floats:
        """The power that devices really draw, averaged over the window before each moment: moments x devices."""
        ends = self._energy(block, times_ns, true=True)
        return (ends - self._energy(block, times_ns - round(window_s * NS), true=True)) / window_s

    def true_energy(self, block: Block, times_ns: Integers) -> Floats:
        """The energy that devices have really drawn by each moment: moments x devices."""
        return self._energy(block, times_ns, true=True)

    def devices(self, block: Block, times_ns: Integers) -> Values:
        """
        What each device shows at each moment; the moments lie within the block.

        A device's power is its boxcar, with its sensor's gain and noise; counters are exact but for gain and tick.
        """
        cells = cells_of(block, times_ns)
        tau = ((times_ns - block.start_ns) % _CELL_NS / NS)[:, None]
        now, led = cells, cells + 1
        bits = mixed(self._parts.noise_seed[None, :], (times_ns // 1_000_000).astype(np.uint64)[:, None])
        scale = self._fleet.options.noise
        missing = ~(block.faulty.present[now] & block.faulty.read[now])

        power = self._power(block, times_ns, self._window_ns, bits)
        instant = self._power(block, times_ns, self._instant_ns, bits >> np.uint64(8)) if self._instant.any() else power
        power, instant = self._held(block, now, power), self._held(block, now, instant)
        ticks = times_ns - times_ns % TICK_NS
        # A tick before a reset belongs to the counter before it; the cell of the reset itself begins at 0.
        energy = np.maximum(
            self._energy(block, np.maximum(ticks, block.start_ns + cells * _CELL_NS)) - block.reset_j[now], 0
        )
        utilization = block.utilization[now] - 0.012 * scale * np.abs(_noise(bits, 2)) * (block.utilization[now] > 0)
        memory = block.memory[now] * (1 + 0.03 * scale * _noise(bits, 3))
        activity = np.clip(block.activity[now] * (1 + 0.01 * scale * _noise(bits, 1)), 0, 1)
        temperature = (
            block.temperature_c[now] + (block.temperature_c[now + 1] - block.temperature_c[now]) * tau / CELL_S
        )
        hot = temperature + 0.3 * scale * _noise(bits, 1)
        clock = block.clock[now] * self._parts.clock_max_hz
        used = self._memory_used(block, now)
        traffic = activity * np.where(block.wave_hz[led] > 0, 1.0, 0.15) * np.where(self._linked, 1.0, 0.0)
        limited = block.power_limited[now]
        wave = block.duty[led]
        values: Values = {
            c.POWER: _step(power, 1e-3),
            c.POWER_INSTANT: np.where(self._instant, _step(instant, 1e-3), np.nan),
            c.POWER_LIMIT: block.limit_w[now],
            c.ENERGY: np.where(self._counter, _step(energy, 1e-3), np.nan),
            c.UTILIZATION: _step(np.clip(utilization, 0, 1), 0.01),
            c.UTILIZATION_MEMORY: _step(np.clip(memory, 0, 1), 0.01),
            c.ACTIVITY_SM: np.where(self._nvidia, _step(np.minimum(activity * 1.05, 1), 1e-3), np.nan),
            c.ACTIVITY_TENSOR: np.where(self._nvidia, _step(activity * 0.62, 1e-3), np.nan),
            c.ACTIVITY_DRAM: np.where(self._nvidia, _step(np.clip(memory * 0.8, 0, 1), 1e-3), np.nan),
            c.CLOCK_SM: _step(clock, 1e6),
            c.CLOCK_MEMORY: np.broadcast_to(self._fleet.each("clock_memory_hz"), power.shape),
            c.TEMPERATURE: _step(hot, 1.0),
            c.TEMPERATURE_MEMORY: _step(hot + 3.0 + 12.0 * block.memory[now], 1.0),
            c.MEMORY_USED: _step(used, 1 << 20),
            c.PCIE_RX: _step(0.4e9 + 9e9 * activity * np.abs(_noise(bits, 0)), 1024.0),
            c.PCIE_TX: _step(0.2e9 + 5e9 * activity * np.abs(_noise(bits, 3)), 1024.0),
            c.FABRIC_TX: np.where(self._linked, _step(220e9 * traffic, 1024.0), np.nan),
            c.THROTTLING_POWER: limited,
            c.THROTTLING_THERMAL: block.heat_limited[now],
            c.THROTTLING_POWER_BRAKE: np.where(self._nvidia, block.faulty.brake[now], np.nan),
            c.THROTTLE_POWER: np.where(self._counter, block.power_limited_s[now] + limited * wave * tau, np.nan),
            c.THROTTLE_THERMAL: np.where(
                self._counter, block.heat_limited_s[now] + block.heat_limited[now] * tau, np.nan
            ),
            c.THROTTLE_POWER_BRAKE: np.where(self._nvidia, block.braked_s[now] + block.faulty.brake[now] * tau, np.nan),
            c.ECC_CORRECTED: block.corrected[now],
            c.ECC_UNCORRECTED: block.uncorrected[now],
            c.XID_ERRORS: np.where(self._nvidia, block.xids[now + 1], np.nan),
        }
        return {metric: np.where(missing, np.nan, array).T for metric, array in values.items()}

    def _energy(self, block: Block, times_ns: Integers, *, true: bool = False) -> Floats:
        """Energy by each moment, as the devices draw it (*true*) or as their sensors see it: moments x devices."""
        times = np.asarray(times_ns, dtype=np.int64)
        flat = times.ndim == 1
        cells = cells_of(block, times) + 1
        tau = (times - block.start_ns - (cells - 1) * _CELL_NS) / NS
        place: tuple[Integers, ...] = (cells,) if flat else (cells, np.arange(self._fleet.size)[None, :])
        tau = tau[:, None] if flat else tau
        high = high_seconds(block.wave_at[place], block.wave_hz[place], block.duty[place], tau)
        within = block.low_w[place] * tau + (block.high_w[place] - block.low_w[place]) * high
        if true:
            total: Floats = block.true_j[place] + within
        else:
            total = block.read_j[place] + block.gain[place] * within
        return total

    def _power(self, block: Block, times_ns: Integers, window_ns: Integers, bits: Bits | None = None) -> Floats:
        """Power averaged over each device's own window before each moment: moments x devices."""
        ends = self._energy(block, times_ns)
        power = np.empty_like(ends)
        for window in np.unique(window_ns).tolist():
            mine = window_ns == window
            begins = self._energy(block, times_ns - window)
            power[:, mine] = (ends - begins)[:, mine] / (window / NS)
        if bits is not None:
            power *= 1 + 0.004 * self._fleet.options.noise * _noise(bits, 0)
        return power

    def _held(self, block: Block, cells: Integers, power: Floats) -> Floats:
        since = block.faulty.stuck_since[cells]
        for row, device in zip(*np.nonzero(since >= 0), strict=True):
            power[row, device] = self._stuck[int(device), int(since[row, device])]
        return power

    def _memory_used(self, block: Block, cells: Integers) -> Floats:
        share = np.array([job.memory_used for job in block.jobs] + [0.006])[block.job_of[cells]]
        return share * self._fleet.each("memory_bytes")


def hosts(block: Block, times_ns: Integers) -> Values:
    """What each host shows: its powers as a BMC gives them (the mean of a cell), its counters as they are."""
    now = cells_of(block, times_ns)
    tau = ((times_ns - block.start_ns) % _CELL_NS / NS)[:, None]
    led = now + 1
    values = {
        c.HOST_CPU_UTILIZATION: _step(block.cpu[now], 1e-3),
        c.HOST_CPU_POWER: _step(block.cpu_w[now], 0.1),
        c.HOST_CPU_ENERGY: _step(block.cpu_j[now] + block.cpu_w[led] * tau, 1e-3),
        c.HOST_DRAM_POWER: _step(block.dram_w[now], 0.1),
        c.HOST_DRAM_ENERGY: _step(block.dram_j[now] + block.dram_w[led] * tau, 1e-3),
        c.HOST_PLATFORM_POWER: _step(block.platform_w[now], 1.0),
        c.HOST_PLATFORM_ENERGY: _step(block.platform_j[now] + block.platform_w[led] * tau, 1.0),
        c.HOST_INLET_TEMPERATURE: _step(block.inlet_c[now], 0.1),
        # Each kilowatt warms the air of full fans by about 2 °C.
        c.HOST_OUTLET_TEMPERATURE: _step(block.inlet_c[now] + block.platform_w[led] / 500.0 / block.fan[now], 0.1),
        c.HOST_FAN_RPM: _step(15_000 * block.fan[now], 10.0),
    }
    return {metric: array.T for metric, array in values.items()}


def facilities(block: Block, times_ns: Integers) -> Values:
    """What the meters and the grid of each site show."""
    now = cells_of(block, times_ns)
    tau = ((times_ns - block.start_ns) % _CELL_NS / NS)[:, None]
    values = {
        c.METER_POWER: _step(block.meter_w[now], 1.0),
        c.METER_ENERGY: _step(block.meter_j[now] + block.meter_w[now + 1] * tau, 1.0),
        c.IT_POWER: _step(block.site_w[now], 1.0),
        c.COOLING_POWER: _step(block.cooling_w[now], 1.0),
        c.OUTDOOR_TEMPERATURE: _step(block.around.outdoor_c[now], 0.1),
        c.SUPPLY_TEMPERATURE: _step(block.around.supply_c[now], 0.1),
        c.PRICE: _step(block.around.price_per_kwh[now], 1e-4),
        c.CARBON_INTENSITY: _step(block.around.carbon_g_per_kwh[now], 0.1),
    }
    return {metric: array.T for metric, array in values.items()}


def workloads(block: Block, times_ns: Integers, numbers: Sequence[int]) -> Values:
    """What the engines of the jobs with these *numbers* count, whether or not they run at each moment."""
    jobs = [block.jobs[number] for number in numbers]
    picked = list(numbers)
    now = cells_of(block, times_ns)
    tau = ((times_ns - block.start_ns) % _CELL_NS / NS)[:, None]

    def each(name: str) -> Floats:
        return np.array([float(getattr(job, name)) for job in jobs])[None, :]

    training = np.array([job.kind == "training" for job in jobs], dtype=bool)
    serving = np.array([job.kind == "serving" for job in jobs], dtype=bool)
    hz = (block.job_steps[now + 1] - block.job_steps[now])[:, picked] / CELL_S
    steps = np.floor(block.job_steps[now][:, picked] + hz * tau)
    speed = block.job_tokens_per_s[now][:, picked]
    served = np.floor(block.job_tokens[now][:, picked] + speed * tau)
    tokens = np.where(training, np.floor(steps * each("tokens_per_step")), served)
    share = block.job_load[now][:, picked]
    # Waiting grows without bound as demand nears what the engine can do.
    wait_s = 0.25 + 0.35 * share / np.maximum(1.02 - share, 0.02)
    answer_s = 3.2 * (0.7 + 0.9 * share) + wait_s
    requests = np.floor(served / TOKENS_PER_REQUEST)
    # An engine that makes nothing has those waiting who have not given up yet.
    asked = each("tokens_per_s") * share / TOKENS_PER_REQUEST
    waiting = np.where(speed > 0, np.maximum(share - 0.85, 0) * 200, asked * PATIENCE_S)
    counted = training | serving
    values = {
        c.TOKENS_OUT: np.where(counted, tokens, np.nan),
        c.TOKENS_IN: np.where(serving, np.floor(served * 2.4), np.nan),
        c.SAMPLES: np.where(training, np.floor(tokens / SEQUENCE), np.nan),
        c.STEPS: np.where(training, steps, np.nan),
        c.REQUESTS: np.where(serving, requests, np.nan),
        c.WORK: np.where(counted, np.floor(tokens) * each("flop_per_token"), np.nan),
        c.THROUGHPUT: np.where(serving, _step(speed, 0.1), np.nan),
        c.REQUESTS_RUNNING: np.where(serving, np.rint(speed / TOKENS_PER_REQUEST * answer_s), np.nan),
        c.QUEUE_LENGTH: np.where(serving, np.floor(waiting), np.nan),
        c.CACHE_USED: np.where(serving, _step(np.clip(0.1 + 0.85 * share, 0, 1), 1e-3), np.nan),
        c.STEP_SECONDS: np.where(training & (hz > 0), _step(1 / np.where(hz > 0, hz, 1.0), 1e-3), np.nan),
        c.LATENCY_P50: np.where(serving, _step(answer_s, 1e-3), np.nan),
        c.LATENCY_P99: np.where(serving, _step(answer_s * 1.9 + 3 * wait_s, 1e-3), np.nan),
    }
    return {metric: array.T for metric, array in values.items()}
