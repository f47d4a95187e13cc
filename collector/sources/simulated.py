"""
A simulated fleet as a source, live or in bulk.

`open_simulated` gives readings for now; `simulate` gives whole tables for a stretch of history, far faster. Both show the
same fleet: with the same options (and the same origin) a moment looks the same from either.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from collector.catalogue import Scope
from collector.sample import Allocation, Coded, Device, Event, Gap, Reading, Sample, Severity
from collector.sources import Options, Sources
from collector.sources.simulated_demand import Job
from collector.sources.simulated_faults import Fault, Plan
from collector.sources.simulated_fleet import (
    CELL_S,
    DAY_NS,
    NS,
    Fleet,
    FleetOptions,
    Integers,
    build,
    describe,
    parse,
)
from collector.sources.simulated_physics import BLOCK_NS, Block, Physics
from collector.sources.simulated_sensors import DRIVERS, Sensors, Values, cells_of, facilities, hosts, workloads

Columns = dict[str, Any]
Tables = dict[str, Columns]

FACILITY_NS: Final = 60 * NS
"""Meters are read once a minute."""
XIDS: Final = {
    79: "the GPU has fallen off the bus",
    94: "contained memory error",
}


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
    Yield history from *start_ns* until before *end_ns*, an hour at a time: columns for each table of the store.

    Device, host and workload rows come every *step_s* (a divisor or multiple of the physics' 10 s serves best; default: the
    option), counted from the epoch; facility rows every minute. Columns are arrays (times are int64 nanoseconds, NaN is
    absent) or `Coded` text.
    Raises: ConfigError.
    """
    chosen = options if isinstance(options, FleetOptions) else parse(options)
    step_ns = round((chosen.step_s if step_s is None else step_s) * NS)
    simulation = Simulation(chosen, start_ns)
    first = True
    while simulation.start_ns < end_ns:
        block = simulation.advance()
        begin, end = max(start_ns, block.start_ns), min(end_ns, block.start_ns + BLOCK_NS)
        if begin < end:
            yield simulation.tables(block, begin, end, step_ns, first=first)
            first = False


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
    plan = Plan(build(chosen), _origin(chosen, start_ns))
    return sorted(plan.between(start_ns, end_ns), key=lambda fault: (fault.start_ns, fault.subject))


def _origin(options: FleetOptions, first_ns: int) -> int:
    return first_ns - first_ns % DAY_NS if options.origin_ns is None else options.origin_ns


@dataclass(frozen=True, slots=True)
class _Names:
    """Text of the fleet that columns repeat."""

    sources: tuple[str, ...]
    methods: tuple[str, ...]
    method_of: Integers


class Simulation:
    """Physics and sensors together, from the origin on; time only goes forward."""

    def __init__(self, options: FleetOptions, first_ns: int) -> None:
        self.options = options
        self.fleet = build(options)
        self.physics = Physics(self.fleet, _origin(options, first_ns))
        self.sensors = Sensors(self.fleet, self.physics.parts)
        methods = tuple(dict.fromkeys(sku.method for sku in self.fleet.skus))
        self._names = _Names(
            tuple(f"simulated:{name}" for name in self.fleet.host_names),
            methods,
            np.array([methods.index(sku.method) for sku in self.fleet.skus])[self.fleet.sku_of],
        )

    @property
    def start_ns(self) -> int:
        """Where the next block starts."""
        return self.physics.next_ns

    def advance(self) -> Block:
        """The next hour."""
        block = self.physics.advance()
        self.sensors.take_up(block)
        return block

    # ------------------------------------------------------------------------------------------------------- bulk

    def tables(self, block: Block, begin_ns: int, end_ns: int, step_ns: int, *, first: bool) -> Tables:
        """Rows of *block* from begin until before end."""
        times = _multiples(begin_ns, end_ns, step_ns)
        tables: Tables = {}
        if times.size:
            tables["device_samples"] = self._device_rows(block, times)
            tables["host_samples"] = self._host_rows(block, times)
            tables["workload_samples"] = self._workload_rows(block, times)
        minutes = _multiples(begin_ns, end_ns, max(step_ns, FACILITY_NS))
        if minutes.size:
            tables["facility_samples"] = self._facility_rows(block, minutes)
        devices = [device for device, since in self.observed(block, begin_ns, end_ns, first=first)]
        when = [since for _, since in self.observed(block, begin_ns, end_ns, first=first)]
        if devices:
            tables["devices"] = self._observed_rows(devices, when)
        held = list(self.allocated(block, begin_ns, end_ns, first=first))
        if held:
            tables["allocations"] = _allocation_rows(held)
        seen = list(self.events(block, begin_ns, end_ns))
        if seen:
            tables["events"] = _event_rows(seen)
        return {name: columns for name, columns in tables.items() if len(columns["time"])}

    def _device_rows(self, block: Block, times: Integers) -> Columns:
        n, fleet = self.fleet.size, self.fleet
        keep = self.sensors.read(block, times).T.ravel()
        whole = bool(keep.all())
        device = np.repeat(np.arange(n, dtype=np.int32), times.size)
        host = fleet.host_of.astype(np.int32)[device]
        columns: Columns = {
            "device": Coded(device, fleet.ids),
            "time": np.tile(times, n),
            "source": Coded(host, self._names.sources),
            "host": Coded(host, fleet.host_names),
            "power_method": Coded(self._names.method_of.astype(np.int32)[device], self._names.methods),
            "power_scope": Coded(np.zeros(device.size, dtype=np.int32), ("device",)),
        }
        columns |= _measured(self.sensors.devices(block, times))
        return columns if whole else {name: _kept(column, keep) for name, column in columns.items()}

    def _host_rows(self, block: Block, times: Integers) -> Columns:
        host = np.repeat(np.arange(len(self.fleet.host_names), dtype=np.int32), times.size)
        return {
            "host": Coded(host, self.fleet.host_names),
            "time": np.tile(times, len(self.fleet.host_names)),
            "source": Coded(host, self._names.sources),
            **_measured(hosts(block, times)),
        }

    def _workload_rows(self, block: Block, times: Integers) -> Columns:
        numbers = _counted(block)
        jobs = [block.jobs[number] for number in numbers]
        job = np.repeat(np.arange(len(jobs), dtype=np.int32), times.size)
        heads = np.array([self.fleet.host_of[job_.devices[0]] for job_ in jobs], dtype=np.int32)
        models, frameworks = _words(job_.model for job_ in jobs), _words(job_.framework for job_ in jobs)
        keep = np.concatenate(
            [(times >= job_.start_ns) & (times < job_.end_ns) for job_ in jobs] or [np.zeros(0, bool)]
        )
        columns: Columns = {
            "workload": Coded(job, tuple(job_.id for job_ in jobs)),
            "time": np.tile(times, len(jobs)),
            "source": Coded(heads[job], self._names.sources),
            "host": Coded(heads[job], self.fleet.host_names),
            "model": Coded(np.array([models.index(j.model) for j in jobs], dtype=np.int32)[job], models),
            "framework": Coded(
                np.array([frameworks.index(j.framework) for j in jobs], dtype=np.int32)[job], frameworks
            ),
            **_measured(workloads(block, times, numbers)),
        }
        return {name: _kept(column, keep) for name, column in columns.items()}

    def _facility_rows(self, block: Block, times: Integers) -> Columns:
        names = tuple(site.name for site in self.fleet.sites)
        site = np.repeat(np.arange(len(names), dtype=np.int32), times.size)
        return {
            "meter": Coded(site, tuple(f"{name}/main" for name in names)),
            "time": np.tile(times, len(names)),
            "source": Coded(site, tuple(f"simulated:{name}" for name in names)),
            "site": Coded(site, names),
            **_measured(facilities(block, times)),
        }

    def _observed_rows(self, devices: list[Device], when: list[int]) -> Columns:
        rows: Columns = {"time": np.array(when, dtype=np.int64)}
        for name in (
            "host", "vendor", "model", "serial", "bus", "driver_version", "power_method", "power_scope",
        ):  # fmt: skip
            rows[name] = _coded([getattr(device, name) for device in devices])
        rows["device"] = _coded([device.id for device in devices])
        rows["source"] = _coded([f"simulated:{device.host}" for device in devices])
        rows["ordinal"] = np.array([device.ordinal for device in devices], dtype=np.int32)
        for name in ("power_window_s", "power_limit_w", "memory_total_bytes"):
            rows[name] = np.array([getattr(device, name) for device in devices], dtype=np.float64)
        return rows

    # ---------------------------------------------------------------------------------------- what is not a sample

    def device(self, index: int, limit_w: float) -> Device:
        """A device as its driver describes it."""
        sku, slot = self.fleet.sku(index), int(self.fleet.slot[index])
        return Device(
            id=self.fleet.ids[index],
            host=self.fleet.host_names[self.fleet.host_of[index]],
            vendor=sku.vendor,
            model=sku.model,
            ordinal=slot,
            serial=f"{1_650_000_000_000 + index}",
            bus=f"0000:{0x18 + 0x11 * slot:02x}:00.0",
            driver_version=DRIVERS[sku.vendor],
            power_method=sku.method,
            power_scope="device",
            power_window_s=sku.window_s,
            power_limit_w=limit_w,
            memory_total_bytes=float(sku.memory_bytes),
        )

    def observed(self, block: Block, begin_ns: int, end_ns: int, *, first: bool) -> Iterator[tuple[Device, int]]:
        """The devices as first seen, and again when a limit changes or they come back, each with the time."""
        times = _multiples(begin_ns, end_ns, CELL_S * NS)
        if not times.size:
            return
        cells = cells_of(block, times)
        present, limit = block.faulty.present[cells], block.limit_w[cells]
        before = present[0] if first else self._shown(block, cells[0], "present")
        limit_before = limit[0] if first else self._shown(block, cells[0], "limit")
        if first:
            yield from (
                (self.device(i, float(limit[0, i])), int(times[0])) for i in np.flatnonzero(present[0]).tolist()
            )
        back = present & ~np.vstack([before[None, :], present[:-1]])
        changed = present & (limit != np.vstack([limit_before[None, :], limit[:-1]]))
        for row, index in np.argwhere(back | changed).tolist():
            yield self.device(index, float(limit[row, index])), int(times[row])

    def _shown(self, block: Block, cell: int, what: str) -> Any:
        """What was so in the cell before *cell*."""
        if cell > 0:
            return block.faulty.present[cell - 1] if what == "present" else block.limit_w[cell - 1]
        return block.present_before if what == "present" else block.limit_before

    def allocated(self, block: Block, begin_ns: int, end_ns: int, *, first: bool) -> Iterator[Allocation]:
        """The allocations that begin or end from begin until before end, and at first those that hold already."""
        for job in block.jobs:
            starts = begin_ns <= job.start_ns < end_ns or (first and job.start_ns < begin_ns < job.end_ns)
            if starts:
                yield from self._held(job, max(job.start_ns, begin_ns) if first else job.start_ns, None)
            if begin_ns <= job.end_ns < end_ns:
                yield from self._held(job, job.end_ns, job.end_ns)

    def _held(self, job: Job, time_ns: int, end_ns: int | None) -> Iterator[Allocation]:
        for index in job.devices:
            yield Allocation(
                time_ns=time_ns,
                workload=job.id,
                device=self.fleet.ids[index],
                host=self.fleet.host_names[self.fleet.host_of[index]],
                start_ns=job.start_ns,
                end_ns=end_ns,
                name=job.name,
                user=job.user,
                team=job.team,
            )

    def events(self, block: Block, begin_ns: int, end_ns: int) -> Iterator[Event]:
        """What drivers report from begin until before end: XIDs, devices that leave the bus and come back."""
        times = _multiples(begin_ns, end_ns, CELL_S * NS)
        if not times.size:
            return
        cells = cells_of(block, times)
        present = block.faulty.present[cells]
        before = np.vstack([self._shown(block, cells[0], "present")[None, :], present[:-1]])
        for row, index in np.argwhere(before & ~present).tolist():
            yield self._xid(index, int(times[row]), 79)
            yield self._event(index, int(times[row]), "device_gone", Severity.CRITICAL)
        for row, index in np.argwhere(~before & present).tolist():
            yield self._event(index, int(times[row]), "device_back", Severity.INFO)
        worse = block.uncorrected[cells + 1] > block.uncorrected[cells]
        for row, index in np.argwhere(worse).tolist():
            yield self._xid(index, int(times[row]), 94)

    def _xid(self, index: int, time_ns: int, code: int) -> Event:
        severity = Severity.CRITICAL if code == 79 else Severity.WARNING
        return self._event(index, time_ns, "xid", severity, code, XIDS[code])

    def _event(
        self, index: int, time_ns: int, kind: str, severity: Severity, code: int | None = None, message: str = ""
    ) -> Event:
        return Event(
            time_ns=time_ns,
            kind=kind,
            host=self.fleet.host_names[self.fleet.host_of[index]],
            severity=severity,
            device=self.fleet.ids[index],
            code=None if code is None else str(code),
            message=message,
            value=None if code is None else float(code),
        )


class Live:
    """The fleet now: a reading for each host and site at each tick."""

    def __init__(self, options: FleetOptions, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._speed = options.speed
        self._opened_ns = clock_ns()
        self._simulation = Simulation(options, self._opened_ns)
        self._block: Block | None = None
        self._seen_ns: int | None = None

    def now_ns(self) -> int:
        """The fleet's time."""
        return self._opened_ns + round((self._clock_ns() - self._opened_ns) * self._speed)

    def tick(self, deadline_s: float) -> Iterable[Reading]:
        """What every host and site shows now, and what happened since the tick before."""
        del deadline_s
        began = time.perf_counter()
        # Whole milliseconds: finer than any sensor, and coarse enough for a bulk run to name the same moment.
        now_ns = self.now_ns() // 1_000_000 * 1_000_000
        told = self._until(now_ns)
        block = self._block
        assert block is not None
        readings = [*self._hosts(block, now_ns, told), *self._sites(block, now_ns)]
        self._seen_ns = now_ns
        spent = (time.perf_counter() - began) / max(len(readings), 1)
        return [Reading(**{**_fields(reading), "read_s": spent}) for reading in readings]

    def _until(self, now_ns: int) -> "_Told":
        """Carry the fleet on to now and collect what happened on the way."""
        told = _Told([], [], [])
        simulation = self._simulation
        while self._block is None or self._block.start_ns + BLOCK_NS <= now_ns:
            if self._block is not None and self._seen_ns is not None:
                self._collect(told, self._block, self._seen_ns + 1, self._block.start_ns + BLOCK_NS)
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
            number for number in _counted(block) if block.jobs[number].start_ns <= now_ns < block.jobs[number].end_ns
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
    # NaN is the one value that differs from itself: what a device does not measure has no key.
    measured = {metric: value for metric, value in found.items() if value == value}
    return Sample(scope=scope, subject=subject, host=host, time_ns=time_ns, values=measured, text=text)


def _fields(reading: Reading) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in Reading.__slots__}


def _counted(block: Block) -> list[int]:
    """The jobs that an engine counts for: not the notebooks."""
    return [number for number, job in enumerate(block.jobs) if job.kind != "interactive"]


def _multiples(begin_ns: int, end_ns: int, step_ns: int) -> Integers:
    """Multiples of a step from begin until before end."""
    return np.arange(-(-begin_ns // step_ns) * step_ns, end_ns, step_ns, dtype=np.int64)


def _measured(values: Values) -> Columns:
    # A metric that nothing in the fleet has is no column.
    return {
        metric.column: np.ascontiguousarray(array).ravel().astype(np.float64, copy=False)
        for metric, array in values.items()
        if not np.isnan(array).all()
    }


def _kept(column: Any, keep: Any) -> Any:
    return Coded(column.codes[keep], column.words) if isinstance(column, Coded) else column[keep]


def _words(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _coded(texts: list[str | None]) -> Coded:
    words = _words(text for text in texts if text is not None)
    place = {word: number for number, word in enumerate(words)}
    return Coded(np.array([-1 if text is None else place[text] for text in texts], dtype=np.int32), words)


def _allocation_rows(held: list[Allocation]) -> Columns:
    none = np.iinfo(np.int64).min  # NaT
    ends = np.array([none if one.end_ns is None else one.end_ns for one in held], dtype=np.int64)
    return {
        "workload": _coded([one.workload for one in held]),
        "device": _coded([one.device for one in held]),
        "start": np.array([one.start_ns for one in held], dtype=np.int64).view("datetime64[ns]"),
        "time": np.array([one.time_ns for one in held], dtype=np.int64).view("datetime64[ns]"),
        "end": ends.view("datetime64[ns]"),
        "source": _coded([f"simulated:{one.host}" for one in held]),
        "host": _coded([one.host for one in held]),
        "name": _coded([one.name for one in held]),
        "user": _coded([one.user for one in held]),
        "team": _coded([one.team for one in held]),
        "share": np.array([one.share for one in held]),
    }


def _event_rows(seen: list[Event]) -> Columns:
    return {
        "host": _coded([event.host for event in seen]),
        "kind": _coded([event.kind for event in seen]),
        "time": np.array([event.time_ns for event in seen], dtype=np.int64),
        "device": _coded([event.device for event in seen]),
        "code": _coded([event.code for event in seen]),
        "source": _coded([f"simulated:{event.host}" for event in seen]),
        "severity": _coded([event.severity.value for event in seen]),
        "message": _coded([event.message for event in seen]),
        "value": np.array([np.nan if event.value is None else event.value for event in seen]),
    }
