"""
What a report of a job holds, as records: see `analytics.report.job_report`, which makes them.

What was not measured is None. Ratios are from 0 to 1, times of a device are device-seconds.
"""

from dataclasses import dataclass


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

    The interval holds the truth in 95 of 100 cases (see `analytics.intervals`); None where some of it was modelled.
    `counter_ratio` is the part that hardware counters measured, `modelled_ratio` the part that nothing measured; the
    rest is integrated power.
    """

    energy_j: float | None
    low_j: float | None
    high_j: float | None
    covered_ratio: float
    counter_ratio: float | None
    modelled_ratio: float | None
    power_mean_w: float | None
    wall_j: float | None = None
    """What its machines drew by their own sensors while it held devices there, whoever else ran on them included."""
    wall_ratio: float | None = None
    """The share of that time in which they were measured."""


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
    best_joules_per_token: float | None
    """In the tenth of its windows in which tokens were cheapest."""
    load_ratio: float | None
    """Tokens per second over those of its best hundredth of windows: how near the run was to its own best."""
    requests_failed: float | None
    preemptions: float | None
    requests_running: float | None
    """Mean number of requests that were answered at once."""
    queue_length: float | None
    """Mean number of requests that waited."""
    cache_used_max_ratio: float | None
    latency_p50_s: float | None
    latency_p99_s: float | None
    """The mean of what the engine said."""


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
    best_run: str
    better_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """What brought nothing, by cause and reason of `analytics.ledger`: energy, device time, its share, its cost."""

    cause: str
    energy_j: float | None
    device_s: float
    reason: str | None = None
    ratio: float = 0.0
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

    `text` is a sentence with its number, `change` the exact flag or setting, `value` the number; `energy_j` and
    `device_s` are what goes into it, the most that the change can save, and `cost` is what that costs. None where it
    cannot be told.
    """

    kind: str
    text: str
    change: str
    value: float
    energy_j: float | None = None
    device_s: float | None = None
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
    idle_end_s: float
    """Device-seconds at the end in which none of its devices did anything."""
    throttled: tuple[Throttled, ...]
    imbalance: Imbalance | None
    findings: tuple[Finding, ...] = ()
    thin: tuple[str, ...] = ()
    """Why there are fewer findings than there could be: what was not measured, or too little of it."""

    def cost_of(self, energy_j: float | None, device_s: float | None) -> float | None:
        """A part of the job's cost: its energy at the price paid, and its device time where devices have a cost."""
        whole_j = self.energy.energy_j
        if energy_j is None or self.money.energy is None or not whole_j:
            return None
        cost = energy_j * self.money.energy / whole_j
        if self.money.devices is not None and device_s is not None and self.device_h:
            cost += device_s / 3600.0 * self.money.devices / self.device_h
        return cost
