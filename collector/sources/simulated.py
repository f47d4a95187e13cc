"""
A simulated fleet as a source, live or in bulk.

`open_simulated` gives readings for now; `simulate` gives whole tables for a stretch of history, far faster. Both show
the same fleet: with the same options (and the same origin) a moment looks the same from either.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from collector.catalogue import Scope
from collector.errors import ConfigError
from collector.sample import Allocation, Device, Event, Gap, Reading, Sample
from collector.sources import Options, Sources
from collector.sources.simulated_demand import Schedule
from collector.sources.simulated_faults import Fault, Plan
from collector.sources.simulated_fleet import CELL_S, NS, FleetOptions, build, describe, parse
from collector.sources.simulated_history import FACILITY_NS, Columns, Simulation, Tables, counted, joined, origin
from collector.sources.simulated_physics import BLOCK_NS, Block
from collector.sources.simulated_sensors import Values, facilities, hosts, workloads

SMALL_BLOCKS: Final = 6
"""The small tables of as many hours come together: a segment costs more than its rows."""
ROWS: Final = 300_000
PARTS: Final = (1, 2, 3, 4, 6, 8, 12, 24)
"""At most so many rows of devices come together, of one of so many hours: no part goes over midnight."""


def check_options(options: Options) -> None:
    """
    Whether the options of a ``[[source]]`` table are right.

    Raises: ConfigError.
    """
    made = parse(options)
    if not isinstance(made.faults, float):
        Plan(build(made), 0)


@contextmanager
def open_simulated(options: Options, host: str, *, clock_ns: Callable[[], int] = time.time_ns) -> Iterator[Sources]:
    """
    A fleet that lives now, or faster: with *speed* its clock starts now and runs that many times as fast.

    The fleet has its own hosts; *host* is only the machine that simulates it.
    Raises: ConfigError.
    """
    del host
    yield Live(parse(options), clock_ns)


def simulate(
    options: Options | FleetOptions, start_ns: int, end_ns: int, step_s: float | None = None
) -> Iterator[Tables]:
    """
    Yield history from *start_ns* until before *end_ns*: columns for each table of the store, of some hours at a time
    (device_samples up to about `ROWS` rows, the other tables six hours).

    Device, host and workload rows come every *step_s* (default: the option), counted from the epoch; facility rows
    every minute. Columns are arrays (times are int64 nanoseconds, NaN is absent) or `Coded` text.
    Raises: ConfigError.
    """
    chosen = options if isinstance(options, FleetOptions) else parse(options)
    waiting: dict[str, list[Columns]] = {}
    step_ns = round((chosen.step_s if step_s is None else step_s) * NS)
    simulation = Simulation(chosen, start_ns)
    per_hour = chosen.devices * BLOCK_NS / step_ns
    hours = max((count for count in PARTS if count * per_hour <= ROWS), default=1)
    first = True
    while simulation.start_ns < end_ns:
        block = simulation.advance()
        begin, end = max(start_ns, block.start_ns), min(end_ns, block.start_ns + BLOCK_NS)
        if begin < end:
            for name, columns in simulation.tables(block, begin, end, step_ns, first=first).items():
                waiting.setdefault(name, []).append(columns)
            first = False
            number = block.start_ns // BLOCK_NS + 1
            due = {
                name for name in waiting
                if end == end_ns or number % (hours if name == "device_samples" else SMALL_BLOCKS) == 0
            }  # fmt: skip
            if due:
                yield {name: joined(waiting.pop(name)) for name in sorted(due)}


def fleet(options: Options) -> dict[str, Any]:
    """
    The simulated fleet as a planner would write it down: sites, domains, racks with their hosts, device types.

    Raises: ConfigError.
    """
    return describe(build(parse(options)))


def faults(options: Options, start_ns: int, end_ns: int) -> list[Fault]:
    """
    The labels: what is wrong with the fleet from start to end, for tests and benchmarks. No sample or event tells.

    Raises: ConfigError.
    """
    chosen = parse(options)
    plan = Plan(build(chosen), origin(chosen, start_ns))
    return sorted(plan.between(start_ns, end_ns), key=lambda fault: (fault.start_ns, fault.subject))


def working(options: Options, start_ns: int, end_ns: int) -> list[tuple[str, tuple[int, ...]]]:
    """
    The jobs that run all the time from start to end: what kind each is, and the places of its devices in the fleet.

    Raises: ConfigError.
    """
    chosen = parse(options)
    jobs = Schedule(build(chosen), origin(chosen, start_ns)).between(start_ns, end_ns)
    return [(job.kind, job.devices) for job in jobs if job.start_ns <= start_ns and job.end_ns >= end_ns]


class Live:
    """The fleet now: a reading for each host and site at each tick."""

    def __init__(self, options: FleetOptions, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._speed = options.speed
        self._opened_ns = clock_ns()
        self._simulation = Simulation(options, self._opened_ns)
        self._seen_ns: int | None = None
        if self._simulation.start_ns > self._opened_ns:
            raise ConfigError("origin", "in the future; a live fleet needs one that has been")
        # Up to now before the first tick: from midnight on this takes seconds, a tick must not.
        self._block = self._simulation.advance()
        while self._block.start_ns + BLOCK_NS <= self._opened_ns:
            self._block = self._simulation.advance()

    def now_ns(self) -> int:
        """The fleet's time."""
        return self._opened_ns + round((self._clock_ns() - self._opened_ns) * self._speed)

    def tick(self, deadline_s: float) -> Iterable[Reading]:
        """What every host and site shows now, and what happened since the tick before."""
        del deadline_s
        began = time.perf_counter()
        # Whole milliseconds: finer than any sensor, and coarse enough for a bulk run to name the same moment.
        now_ns = self.now_ns() // 1_000_000 * 1_000_000
        # A wall clock that is set back: the fleet cannot go back with it.
        now_ns = max(now_ns, self._seen_ns or 0)
        told = self._until(now_ns)
        block = self._block
        readings = [*self._hosts(block, now_ns, told), *self._sites(block, now_ns)]
        self._seen_ns = now_ns
        spent = (time.perf_counter() - began) / max(len(readings), 1)
        return [Reading(**{**_fields(reading), "read_s": spent}) for reading in readings]

    def _until(self, now_ns: int) -> "_Told":
        """Carry the fleet on to now and collect what happened on the way."""
        told = _Told([], [], [])
        simulation = self._simulation
        while self._block.start_ns + BLOCK_NS <= now_ns:
            if self._seen_ns is not None:
                begin_ns = max(self._seen_ns + 1, self._block.start_ns)
                self._collect(told, self._block, begin_ns, self._block.start_ns + BLOCK_NS)
            self._block = simulation.advance()
        if self._seen_ns is None:
            self._collect(told, self._block, now_ns, now_ns + 1)
        else:
            self._collect(told, self._block, max(self._seen_ns + 1, self._block.start_ns), now_ns + 1)
        return told

    def _collect(self, told: "_Told", block: Block, begin_ns: int, end_ns: int) -> None:
        first = self._seen_ns is None
        simulation = self._simulation
        if first:
            # What holds at the first look is told as of the cell that it falls into.
            cell_ns = begin_ns - begin_ns % (CELL_S * NS)
            told.devices += [device for device, _ in simulation.observed(block, cell_ns, cell_ns + 1, first=True)]
        else:
            told.devices += [device for device, _ in simulation.observed(block, begin_ns, end_ns, first=False)]
            told.events += list(simulation.events(block, begin_ns, end_ns))
        told.allocations += list(simulation.allocated(block, begin_ns, end_ns, first=first))

    def _hosts(self, block: Block, now_ns: int, told: "_Told") -> Iterator[Reading]:
        fleet, times = self._simulation.fleet, np.array([now_ns])
        values = _listed(self._simulation.sensors.devices(block, times))
        read = self._simulation.sensors.read(block, times)[0]
        of_hosts = _listed(hosts(block, times))
        running = [
            number for number in counted(block) if block.jobs[number].start_ns <= now_ns < block.jobs[number].end_ns
        ]
        engines = _listed(workloads(block, times, running))
        per_host = fleet.options.devices_per_host
        for host, name in enumerate(fleet.host_names):
            samples = [
                self._device_sample(index, now_ns, values)
                for index in range(host * per_host, min((host + 1) * per_host, fleet.size))
                if read[index]
            ]
            gap = None
            if not samples:
                gap = Gap(reason="read_failed", message="no device of the host answers")
            else:
                samples.append(_sample(Scope.HOST, name, name, now_ns, of_hosts, host, {}))
                samples += [
                    _sample(
                        Scope.WORKLOAD, job.id, name, now_ns, engines, place,
                        {"model": job.model, "framework": job.framework},
                    )
                    for place, job in enumerate(block.jobs[number] for number in running)
                    if fleet.host_of[job.devices[0]] == host
                ]  # fmt: skip
            yield Reading(
                source=f"simulated:{name}",
                samples=tuple(samples),
                devices=tuple(device for device in told.devices if device.host == name),
                events=tuple(event for event in told.events if event.host == name),
                allocations=tuple(held for held in told.allocations if held.host == name),
                gone=tuple(e.device for e in told.events if e.host == name and e.kind == "device_gone" and e.device),
                gap=gap,
            )

    def _device_sample(self, index: int, now_ns: int, values: "_Listed") -> Sample:
        fleet = self._simulation.fleet
        text = {"power_method": fleet.sku(index).method, "power_scope": "device"}
        host = fleet.host_names[fleet.host_of[index]]
        return _sample(Scope.DEVICE, fleet.ids[index], host, now_ns, values, index, text)

    def _sites(self, block: Block, now_ns: int) -> Iterator[Reading]:
        minute_ns = now_ns - now_ns % FACILITY_NS
        if self._seen_ns is not None and self._seen_ns >= minute_ns:
            return
        values = _listed(facilities(block, np.array([minute_ns])))
        for place, site in enumerate(self._simulation.fleet.sites):
            sample = _sample(Scope.FACILITY, f"{site.name}/main", "", minute_ns, values, place, {"site": site.name})
            yield Reading(source=f"simulated:{site.name}", samples=(sample,))


@dataclass(slots=True)
class _Told:
    devices: list[Device]
    events: list[Event]
    allocations: list[Allocation]


_Listed = Mapping[Any, list[float]]


def _listed(values: Values) -> _Listed:
    return {metric: array[:, 0].tolist() for metric, array in values.items()}


def _sample(
    scope: Scope, subject: str, host: str, time_ns: int, values: _Listed, place: int, text: Mapping[str, str]
) -> Sample:
    found = {metric: column[place] for metric, column in values.items()}
    # What a device does not measure has no key.
    measured = {metric: value for metric, value in found.items() if not math.isnan(value)}
    return Sample(scope=scope, subject=subject, host=host, time_ns=time_ns, values=measured, text=text)


def _fields(reading: Reading) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in Reading.__slots__}
