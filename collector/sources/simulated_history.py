"""The simulated fleet as rows and records: physics and sensors carried on hour by hour, and what changed on the way."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from collector.sample import Allocation, Coded, Device, Event, Severity
from collector.sources.simulated_checkpoint import identity, restore, save
from collector.sources.simulated_demand import Job
from collector.sources.simulated_fleet import CELL_S, DAY_NS, NS, FleetOptions, Integers, build
from collector.sources.simulated_physics import BLOCK_NS, Block, Physics
from collector.sources.simulated_sensors import DRIVERS, Sensors, Values, cells_of, facilities, hosts, workloads

Columns = dict[str, Any]
Tables = dict[str, Columns]

FACILITY_NS: Final = 60 * NS
"""Meters are read once a minute."""
KEPT_BLOCKS: Final = 6
"""A state is kept at every sixth hour: it costs milliseconds to write, and less than a second to go on from."""
XIDS: Final = {
    79: "the GPU has fallen off the bus",
    94: "contained memory error",
}


def origin(options: FleetOptions, first_ns: int) -> int:
    """When the simulation begins."""
    return first_ns - first_ns % DAY_NS if options.origin_ns is None else options.origin_ns


@dataclass(frozen=True, slots=True)
class _Names:
    """Text of the fleet that columns repeat."""

    by_id: Integers
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    methods: tuple[str, ...]
    method_of: Integers


class Simulation:
    """Physics and sensors together, from the origin on; time only goes forward."""

    def __init__(self, options: FleetOptions, first_ns: int) -> None:
        self.options = options
        self.fleet = build(options)
        origin_ns = origin(options, first_ns)
        self.physics = Physics(self.fleet, origin_ns)
        self.sensors = Sensors(self.fleet, self.physics.parts)
        self._identity = identity(options, origin_ns)
        kept = None if options.checkpoint is None else restore(options.checkpoint, self._identity, first_ns)
        if kept is not None:
            self.physics.go_on(kept)
            self.sensors.go_on(kept)
        methods = tuple(dict.fromkeys(sku.method for sku in self.fleet.skus))
        by_id = np.array(sorted(range(self.fleet.size), key=self.fleet.ids.__getitem__))
        self._names = _Names(
            by_id,
            tuple(self.fleet.ids[index] for index in by_id),
            tuple(f"simulated:{name}" for name in self.fleet.host_names),
            methods,
            np.array([methods.index(sku.method) for sku in self.fleet.skus], dtype=np.int32)[self.fleet.sku_of],
        )

    @property
    def start_ns(self) -> int:
        """Where the next block starts."""
        return self.physics.next_ns

    def advance(self) -> Block:
        """The next hour."""
        path = self.options.checkpoint
        if path is not None and self.start_ns % (KEPT_BLOCKS * BLOCK_NS) == 0:
            save(path, self._identity, self.physics.kept() | self.sensors.kept())
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
        names, fleet = self._names, self.fleet
        # Sorted as the store sorts, which then has nothing to do.
        rows = np.repeat(names.by_id, times.size)
        host = fleet.host_of[rows]
        columns: Columns = {
            "device": Coded(np.repeat(np.arange(fleet.size, dtype=np.int32), times.size), names.ids),
            "time": np.tile(times, fleet.size),
            "source": _recoded(host, names.sources),
            "host": _recoded(host, fleet.host_names),
            "power_method": Coded(names.method_of[rows], names.methods),
            "power_scope": Coded(np.zeros(rows.size, dtype=np.int32), ("device",)),
            **_measured({metric: array[names.by_id] for metric, array in self.sensors.devices(block, times).items()}),
        }
        keep = self.sensors.read(block, times).T[names.by_id].ravel()
        return columns if keep.all() else {name: _kept(column, keep) for name, column in columns.items()}

    def _host_rows(self, block: Block, times: Integers) -> Columns:
        names = self.fleet.host_names
        host = np.repeat(np.arange(len(names)), times.size)
        return {
            "host": _recoded(host, names),
            "time": np.tile(times, len(names)),
            "source": _recoded(host, self._names.sources),
            **_measured(hosts(block, times)),
        }

    def _workload_rows(self, block: Block, times: Integers) -> Columns:
        numbers = counted(block)
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


def counted(block: Block) -> list[int]:
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


def _recoded(codes: Integers, words: tuple[str, ...]) -> Coded:
    """Codes into *words* as codes into the same words sorted."""
    ordered = tuple(sorted(set(words)))
    place = {word: number for number, word in enumerate(ordered)}
    return Coded(np.array([place[word] for word in words], dtype=np.int32)[codes], ordered)


def joined(parts: list[Columns]) -> Columns:
    """The rows of several parts, one after the other."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _end_to_end([(part.get(name), len(part["time"])) for part in parts]) for name in names}


def _end_to_end(columns: list[tuple[Any, int]]) -> Any:
    coded = [column for column, _ in columns if isinstance(column, Coded)]
    if not coded:
        return np.concatenate([np.full(rows, np.nan) if column is None else column for column, rows in columns])
    words = tuple(sorted({word for column in coded for word in column.words}))
    place = {word: number for number, word in enumerate(words)}
    codes = [
        # The last place answers for the code -1, which is no word.
        np.array([*(place[word] for word in column.words), -1], dtype=np.int32)[column.codes]
        for column in coded
    ]
    return Coded(np.concatenate(codes), words)


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
        "message": _coded([event.message or None for event in seen]),
        "value": np.array([np.nan if event.value is None else event.value for event in seen]),
    }
