"""What is asked of the simulated fleet: jobs on its devices, weather, prices and carbon at its sites."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collector.sources.simulated_fleet import CELL_S, NS, Fleet, Floats, Site, seed_of

Bits = NDArray[np.uint64]

SEQUENCE: Final = 4096
"""Tokens in a training sample."""
MFU: Final = 0.42
"""Share of the peak arithmetic that training reaches at full clocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    A workload on a group of devices.

    Training alternates between computing and exchanging gradients, with all its devices in step: `period_s` is the
    length of a step at full clocks, `duty` the share that computes. Serving follows demand, at most `tokens_per_s`.
    """

    id: str
    name: str
    kind: str
    model: str
    framework: str
    user: str
    team: str
    devices: tuple[int, ...]
    start_ns: int
    end_ns: int
    core: float
    idle_core: float
    memory: float
    duty: float
    period_s: float
    compute_bound: float
    memory_used: float
    tokens_per_step: float
    tokens_per_s: float
    flop_per_token: float
    checkpoint_s: float = 1800.0
    pause_s: float = 50.0
    warmup_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model by its size and the devices it takes; serving speed is of one H100 at full load."""

    name: str
    parameters: float
    devices: int
    tokens_per_s: float


# Speeds near the best of the published H100 measurements (energy per token at 600 W a device).
SERVED: Final = (
    Model("Llama-3.1-8B", 8.0e9, 1, 8_600.0),
    Model("Qwen3-32B", 32.8e9, 2, 2_580.0),
    Model("Llama-3.1-70B", 70.6e9, 4, 1_600.0),
    Model("Qwen3-235B-A22B", 22.0e9, 8, 560.0),
)
TRAINED: Final = (
    Model("llama2-70b-lora", 70.6e9, 8, 0.0),
    Model("llama3-8b-pretrain", 8.0e9, 16, 0.0),
    Model("gpt3-175b-pretrain", 175e9, 64, 0.0),
    Model("mixtral-8x7b-finetune", 12.9e9, 32, 0.0),
)
TEAMS: Final = {
    "foundation": ("amara", "bo", "chiara"),
    "serving": ("svc-chat", "svc-search"),
    "research": ("dmitri", "elif", "farah", "goran"),
    "vision": ("hana", "ivo"),
}
_H100_FLOP: Final = 989e12
_H100_BYTES: Final = 3.35e12


@dataclass(slots=True)
class Pool:
    """Devices that take one job after the other."""

    devices: tuple[int, ...]
    role: str
    jobs: Iterator[Job]
    ahead: Job | None = None


class Schedule:
    """All jobs from *origin_ns* on, made as far ahead as asked for; the same for the same seed and origin."""

    def __init__(self, fleet: Fleet, origin_ns: int) -> None:
        self._fleet = fleet
        self._origin_ns = origin_ns
        pools = list(_pools(fleet))
        begins = _begins(fleet, [devices for devices, _ in pools], origin_ns)
        self._pools = [
            Pool(devices, role, self._timeline(number, devices, role, begin_ns))
            for number, ((devices, role), begin_ns) in enumerate(zip(pools, begins, strict=True))
            if begin_ns is not None
        ]
        self._jobs: list[Job] = []

    def between(self, start_ns: int, end_ns: int) -> list[Job]:
        """
        The jobs that run at some time from start to end, in the order of their devices.

        Jobs that ended before *start_ns* are forgotten: time only goes on.
        """
        for pool in self._pools:
            while pool.ahead is None or pool.ahead.start_ns < end_ns:
                if pool.ahead is not None:
                    self._jobs.append(pool.ahead)
                pool.ahead = next(pool.jobs)
        self._jobs = [job for job in self._jobs if job.end_ns > start_ns]
        running = [job for job in self._jobs if job.start_ns < end_ns]
        return sorted(running, key=lambda job: (job.devices, job.start_ns))

    def _timeline(self, number: int, devices: tuple[int, ...], role: str, begin_ns: int) -> Iterator[Job]:
        rng = np.random.default_rng(seed_of(self._fleet.options.seed, "pool", number, self._origin_ns))
        make = {"training": _training, "serving": _serving, "interactive": _interactive}[role]
        median_h, spread, gap_s = {
            "training": (5.0, 0.8, 600.0),
            "serving": (120.0, 0.5, 90.0),
            "interactive": (1.5, 0.7, 3000.0),
        }[role]
        start_ns, serial = begin_ns, 0
        while True:
            length_s = float(np.clip(median_h * 3600 * rng.lognormal(0.0, spread), 1200, 20 * 86_400))
            if serial == 0 and begin_ns == self._origin_ns:
                # The fleet was at work before the simulation looked.
                start_ns -= _cells(0.8 * rng.random() * length_s)
            end_ns = start_ns + _cells(length_s)
            yield make(self._fleet, rng, f"{number:04d}-{serial:03d}", devices, start_ns, end_ns)
            start_ns = end_ns + max(CELL_S * NS, _cells(rng.exponential(gap_s)))
            start_ns = max(start_ns, self._origin_ns)
            serial += 1


def _begins(fleet: Fleet, pools: Sequence[tuple[int, ...]], origin_ns: int) -> list[int | None]:
    """When each pool is first given work, None for never: one after the other at each site, as the options tell."""
    busy, growth = fleet.options.busy, fleet.options.growth
    begins: list[int | None] = [origin_ns] * len(pools)
    site_of = fleet.site_of
    for site in range(len(fleet.sites)):
        ours = [number for number, devices in enumerate(pools) if site_of[devices[0]] == site]
        ours.sort(key=lambda number: seed_of(fleet.options.seed, "growth", number))
        before, total = 0, sum(len(pools[number]) for number in ours)
        for number in ours:
            # By its middle: a large pool is as often early as late.
            late = (before + len(pools[number]) / 2) / total - busy
            before += len(pools[number])
            if late >= 0:
                begins[number] = origin_ns + _cells(late / growth * 86_400) if growth else None
    return begins


def _cells(seconds: float) -> int:
    return int(seconds // CELL_S) * CELL_S * NS


def _pools(fleet: Fleet) -> Iterator[tuple[tuple[int, ...], str]]:
    """Divide each site's hosts between training (in groups), serving (split by model) and single devices for people."""
    rng = np.random.default_rng(seed_of(fleet.options.seed, "roles"))
    shares = {"training": 0.5, "serving": 0.38, "interactive": 0.12}
    given = dict.fromkeys(shares, 0.0)
    hosts = len(fleet.host_names)
    of_host = [tuple(np.flatnonzero(fleet.host_of == host).tolist()) for host in range(hosts)]
    host = 0
    while host < hosts:
        role = max(shares, key=lambda name: shares[name] * (host + 1) - given[name])
        count = 1
        if role == "training":
            count = int(rng.choice([1, 2, 4, 8], p=[0.35, 0.3, 0.2, 0.15]))
            alike = (
                fleet.host_site[other] == fleet.host_site[host]
                and fleet.sku_of[of_host[other][0]] == fleet.sku_of[of_host[host][0]]
                for other in range(host, min(host + count, hosts))
            )
            count = next((n for n, same in enumerate(alike) if not same), min(count, hosts - host))
            # A fleet of a few hosts shows every kind of work.
            count = max(1, min(count, hosts // 3))
        members = tuple(device for other in range(host, host + count) for device in of_host[other])
        given[role] += count
        host += count
        if role == "training":
            yield members, role
        elif role == "interactive":
            yield from (((device,), role) for device in members)
        else:
            size = int(rng.choice([1, 2, 4, 8]))
            yield from ((members[i : i + size], role) for i in range(0, len(members), size))


def _training(
    fleet: Fleet, rng: np.random.Generator, serial: str, devices: tuple[int, ...], start_ns: int, end_ns: int
) -> Job:
    model = TRAINED[int(rng.integers(len(TRAINED)))]
    sku = fleet.sku(devices[0])
    team, user = _person(rng, ("foundation", "research", "vision"))
    period_s = float(rng.uniform(2.0, 9.0))
    flop_per_token = 6.0 * model.parameters
    return Job(
        id=f"train-{serial}",
        name=model.name,
        kind="training",
        model=model.name,
        framework="pytorch",
        user=user,
        team=team,
        devices=devices,
        start_ns=start_ns,
        end_ns=end_ns,
        core=float(rng.uniform(0.76, 0.95)),
        idle_core=float(rng.uniform(0.16, 0.30)),
        memory=float(rng.uniform(0.45, 0.75)),
        duty=float(rng.uniform(0.74, 0.90)),
        period_s=period_s,
        compute_bound=0.65,
        memory_used=float(rng.uniform(0.72, 0.95)),
        tokens_per_step=MFU * sku.flop_per_s * len(devices) / flop_per_token * period_s,
        tokens_per_s=0.0,
        flop_per_token=flop_per_token,
        warmup_s=float(rng.uniform(60, 240)),
        checkpoint_s=float(rng.choice([900, 1800, 3600])),
        pause_s=float(rng.uniform(20, 80)),
    )


def _serving(
    fleet: Fleet, rng: np.random.Generator, serial: str, devices: tuple[int, ...], start_ns: int, end_ns: int
) -> Job:
    model = max((m for m in SERVED if m.devices <= len(devices)), key=lambda m: m.devices)
    sku = fleet.sku(devices[0])
    # Decoding is bound by memory first and by arithmetic second.
    speed = (sku.bytes_per_s / _H100_BYTES) ** 0.6 * (sku.flop_per_s / _H100_FLOP) ** 0.4
    team, user = _person(rng, ("serving",))
    return Job(
        id=f"serve-{serial}",
        name=f"{model.name} endpoint",
        kind="serving",
        model=model.name,
        framework="vllm",
        user=user,
        team=team,
        devices=devices,
        start_ns=start_ns,
        end_ns=end_ns,
        core=0.72,
        idle_core=0.0,
        memory=0.80,
        duty=1.0,
        period_s=1.0,
        compute_bound=0.3,
        memory_used=0.9,
        tokens_per_step=0.0,
        tokens_per_s=model.tokens_per_s * len(devices) * speed,
        flop_per_token=2.0 * model.parameters,
        warmup_s=90.0,
    )


def _interactive(
    fleet: Fleet, rng: np.random.Generator, serial: str, devices: tuple[int, ...], start_ns: int, end_ns: int
) -> Job:
    del fleet
    team, user = _person(rng, ("research", "vision"))
    return Job(
        id=f"notebook-{serial}",
        name="notebook",
        kind="interactive",
        model="notebook",
        framework="pytorch",
        user=user,
        team=team,
        devices=devices,
        start_ns=start_ns,
        end_ns=end_ns,
        core=float(rng.uniform(0.2, 0.7)),
        idle_core=0.0,
        memory=float(rng.uniform(0.2, 0.5)),
        duty=1.0,
        period_s=1.0,
        compute_bound=0.6,
        memory_used=float(rng.uniform(0.05, 0.6)),
        tokens_per_step=0.0,
        tokens_per_s=0.0,
        flop_per_token=0.0,
    )


def _person(rng: np.random.Generator, teams: tuple[str, ...]) -> tuple[str, str]:
    team = teams[int(rng.integers(len(teams)))]
    return team, TEAMS[team][int(rng.integers(len(TEAMS[team])))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the jobs of a block want, cell by cell: arrays of cells x (jobs + 1); the last column is no job at all."""

    core: Floats
    idle_core: Floats
    memory: Floats
    duty: Floats
    steps_per_s: Floats
    tokens_per_s: Floats
    utilization: Floats
    served: Floats


def load(jobs: list[Job], fleet: Fleet, start_ns: int, cells: int) -> Load:
    """What *jobs* want in each of *cells* from *start_ns*: warm-up, checkpoints, demand that follows the day."""
    at_s = start_ns / NS + CELL_S * np.arange(cells)[:, None]

    def each(name: str) -> Floats:
        return np.array([float(getattr(job, name)) for job in jobs])[None, :]

    training = np.array([job.kind == "training" for job in jobs], dtype=bool)
    serving = np.array([job.kind == "serving" for job in jobs], dtype=bool)
    age = at_s - each("start_ns") / NS
    warm = np.clip(age / each("warmup_s"), 0.05, 1.0)
    paused = training & (np.mod(age, each("checkpoint_s")) < each("pause_s")) & (age > each("warmup_s"))
    seeds = np.array([seed_of(fleet.options.seed, "demand", job.id) for job in jobs], dtype=np.uint64)
    local_h = at_s / 3600 + np.array(
        [fleet.sites[fleet.site_of[job.devices[0]]].hours_east for job in jobs], dtype=float
    )
    weekend = np.where(np.mod(np.floor(local_h / 24) + 3, 7) >= 5, 0.72, 1.0)
    rhythm = 0.5 - 0.5 * np.cos(2 * np.pi * (np.mod(local_h, 24) - 4.0) / 24)
    demand = (0.22 + 0.68 * rhythm) * weekend * (1 + 0.22 * wander(seeds, at_s, 300.0)) + 0.06 * wander(
        seeds, at_s, 40.0
    )
    demand = np.clip(demand, 0.02, 1.0) * np.where(age < each("warmup_s"), 0.0, 1.0)
    awake = (wander(seeds, at_s, 240.0) > 0.45).astype(float)
    share = np.select([training, serving], [warm, demand], awake)
    core = np.select(
        [training, serving],
        [each("core") * np.sqrt(warm), each("core") * (0.16 + 0.84 * demand**0.8)],
        each("core") * awake,
    )
    memory = np.select(
        [training, serving], [each("memory") * warm, each("memory") * (0.22 + 0.78 * demand)], each("memory") * awake
    )
    core = np.where(paused, 0.04, core)
    memory = np.where(paused, 0.08, memory)
    steps = np.where(training & ~paused, warm / each("period_s"), 0.0)
    busy = np.select([training, serving], [np.where(paused, 0.06, 1.0), 1 - (1 - demand) ** 3], 0.9 * awake)
    none = np.zeros((cells, 1))
    return Load(
        core=np.hstack([core, none]),
        idle_core=np.hstack([np.where(paused, 0.04, np.broadcast_to(each("idle_core"), core.shape)), none]),
        memory=np.hstack([memory, none]),
        duty=np.hstack([np.where(training & ~paused, each("duty"), 1.0), none + 1.0]),
        steps_per_s=np.hstack([steps, none]),
        tokens_per_s=np.hstack([np.where(serving, each("tokens_per_s") * demand, 0.0), none]),
        utilization=np.hstack([busy, none]),
        served=np.hstack([np.where(serving, share, 0.0), none]),
    )


def wander(seeds: Bits, at_s: Floats, every_s: float) -> Floats:
    """Slow noise between -1 and 1 for each seed: random values every *every_s*, joined by straight lines."""
    slot = np.floor(at_s / every_s)
    part = at_s / every_s - slot
    before = uniform(mixed(seeds, slot.astype(np.uint64)))
    after = uniform(mixed(seeds, slot.astype(np.uint64) + np.uint64(1)))
    return 2 * (before + (after - before) * part) - 1


def mixed(seeds: Bits, moments: Bits) -> Bits:
    """Random bits for each seed and moment (splitmix64's finaliser): no state, so time may be cut up as one likes."""
    bits = seeds.astype(np.uint64) + moments * np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def uniform(bits: Bits) -> Floats:
    """Numbers from 0 to 1 from random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Weather and grid of the sites, cell by cell: arrays of cells x sites."""

    outdoor_c: Floats
    supply_c: Floats
    price_per_kwh: Floats
    carbon_g_per_kwh: Floats


def surroundings(sites: tuple[Site, ...], seed: int, start_ns: int, cells: int) -> Surroundings:
    """The year's and the day's swing, weather fronts of some hours, an evening peak in price, the sun at noon."""
    at_s = start_ns / NS + CELL_S * np.arange(cells)[:, None]

    def each(name: str) -> Floats:
        return np.array([float(getattr(site, name)) for site in sites])[None, :]

    seeds = np.array([seed_of(seed, "weather", site.name) for site in sites], dtype=np.uint64)
    day = np.mod(at_s / 3600 + each("hours_east"), 24)
    year = np.mod(at_s / 86_400, 365.2425)
    outdoor = (
        each("outdoor_c")
        - each("outdoor_year_c") * np.cos(2 * np.pi * (year - 20) / 365.2425)
        - each("outdoor_day_c") * np.cos(2 * np.pi * (day - 3.5) / 24)
        + 3.0 * wander(seeds, at_s, 6 * 3600.0)
    )
    noon = np.exp(-(((day - 13) / 3.0) ** 2))
    evening = np.exp(-(((day - 19) / 2.0) ** 2))
    price = each("price_per_kwh") * (
        0.9 - 0.35 * noon + 0.7 * evening + 0.25 * wander(seeds + np.uint64(1), at_s, 3600.0)
    )
    carbon = each("carbon_g_per_kwh") * (
        1.02 - 0.3 * noon + 0.15 * evening + 0.12 * wander(seeds + np.uint64(2), at_s, 7200.0)
    )
    return Surroundings(
        outdoor_c=outdoor,
        supply_c=21.0 + 0.35 * np.maximum(outdoor - 22.0, 0.0),
        price_per_kwh=price,
        carbon_g_per_kwh=np.maximum(carbon, 1.0),
    )
