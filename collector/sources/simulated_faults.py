"""What goes wrong in the simulated fleet, labelled: the truth that detectors are judged by, never part of a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from collector.errors import ConfigError
from collector.sources.simulated_fleet import CELL_S, DAY_NS, NS, Fleet, seed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One injected fault, from `start_ns` until before `end_ns`.

    `subject` is a device's id or a host's name; `devices` are the places in the fleet that it touches. `value` is its
    size, as `KINDS` says.
    """

    kind: str
    subject: str
    start_ns: int
    end_ns: int
    value: float
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: whether it strikes a host, how long it lasts, its usual size and what that is."""

    of_host: bool
    shortest_s: float
    longest_s: float
    value: float
    low: float
    high: float
    meaning: str


KINDS: Final = {
    "power_stuck": Kind(False, 1200, 7200, 1.0, 1.0, 1.0, "the power sensor repeats its last value"),
    "device_lost": Kind(False, 600, 5400, 1.0, 1.0, 1.0, "the device falls off the bus, and comes back reset"),
    "thermal_degradation": Kind(False, 3600, 14_400, 1.9, 1.0, 5.0, "thermal resistance times value"),
    "fan_failure": Kind(True, 1800, 7200, 0.35, 0.05, 1.0, "airflow times value"),
    "power_brake": Kind(True, 120, 900, 0.2, 0.05, 1.0, "clocks held at value of the maximum by an external signal"),
    "power_cap": Kind(True, 3600, 10_800, 0.7, 0.2, 1.0, "power limit at value of the default"),
    "straggler": Kind(False, 1800, 10_800, 0.78, 0.05, 1.0, "work done at value of the speed, clocks unchanged"),
    "clock_stuck": Kind(False, 1800, 10_800, 0.5, 0.1, 1.0, "clock stays at value of the maximum, no reason given"),
    "idle_allocated": Kind(False, 1800, 14_400, 1.0, 1.0, 1.0, "the job on the device hangs, its devices stay taken"),
    "ecc_storm": Kind(False, 600, 3600, 40.0, 0.1, 10_000, "value corrected errors a second, some not corrected, XIDs"),
    "missing_samples": Kind(False, 120, 1800, 1.0, 1.0, 1.0, "nothing is read from the device"),
    "counter_reset": Kind(False, CELL_S, CELL_S, 1.0, 1.0, 1.0, "the energy counter begins again at 0"),
    "gain_drift": Kind(False, 14_400, 36_000, 1.08, 0.5, 2.0, "power and energy read times value, reached by the end"),
}  # fmt: skip


class Plan:
    """All faults: drawn day by day (so any day can be had without those before it), or as the options list them."""

    def __init__(self, fleet: Fleet, origin_ns: int) -> None:
        self._fleet = fleet
        self._origin_ns = origin_ns
        self._days: dict[int, list[Fault]] = {}
        self._given: list[Fault] | None = None
        if not isinstance(fleet.options.faults, float):
            self._given = [given(fleet, origin_ns, number, fault) for number, fault in enumerate(fleet.options.faults)]

    def between(self, start_ns: int, end_ns: int) -> list[Fault]:
        """The faults that are at work at some time from start to end."""
        if self._given is not None:
            found = self._given
        else:
            # The longest fault reaches into the day after the one in which it began.
            days = range(max(self._origin_ns, start_ns - DAY_NS) // DAY_NS, (end_ns - 1) // DAY_NS + 1)
            found = [fault for day in days for fault in self._of_day(day)]
        return [fault for fault in found if fault.start_ns < end_ns and fault.end_ns > start_ns]

    def _of_day(self, day: int) -> list[Fault]:
        if day not in self._days:
            self._days[day] = self._drawn(day)
        return self._days[day]

    def _drawn(self, day: int) -> list[Fault]:
        fleet, rate = self._fleet, self._fleet.options.faults
        assert isinstance(rate, float)
        rng = np.random.default_rng(seed_of(fleet.options.seed, "faults", day))
        faults: list[Fault] = []
        names = list(KINDS)
        # Kinds take turns from a random one on, so that a day of a small fleet is not all of one kind.
        first = int(rng.integers(len(names)))
        for number in range(int(rng.poisson(rate * fleet.size))):
            name = names[(first + number) % len(names)]
            kind = KINDS[name]
            length_s = float(rng.uniform(kind.shortest_s, kind.longest_s))
            start_ns = day * DAY_NS + _cells(float(rng.uniform(0, 86_400)))
            subject = int(rng.integers(len(fleet.host_names) if kind.of_host else fleet.size))
            end_ns = start_ns + max(CELL_S * NS, _cells(length_s))
            fault = _made(fleet, name, subject, start_ns, end_ns, kind.value)
            # Two at once on one device would hide which one a detector found.
            if start_ns >= self._origin_ns and not any(_meet(fault, other) for other in faults):
                faults.append(fault)
        return faults


def given(fleet: Fleet, origin_ns: int, number: int, table: Mapping[str, Any]) -> Fault:
    """
    A fault as the options tell it: kind, subject, start and end (seconds from the origin), value.

    Raises: ConfigError.
    """
    key = f"faults[{number}]"
    for name in table:
        if name not in {"kind", "subject", "start", "end", "value"}:
            raise ConfigError(f"{key}.{name}", "unknown; a fault has kind, subject, start, end, value")
    kind = KINDS.get(str(table.get("kind")))
    if kind is None:
        raise ConfigError(f"{key}.kind", f"{table.get('kind')!r}: one of {', '.join(KINDS)} is wanted")
    names = fleet.host_names if kind.of_host else fleet.ids
    subject = table.get("subject", 0)
    if isinstance(subject, int) and not isinstance(subject, bool) and 0 <= subject < len(names):
        place = subject
    elif subject in names:
        place = names.index(str(subject))
    else:
        what = "host" if kind.of_host else "device"
        raise ConfigError(f"{key}.subject", f"{subject!r}: a {what}'s name or its number below {len(names)} is wanted")
    start: Any = table.get("start", 0)
    end: Any = table.get("end")
    value: Any = table.get("value", kind.value)
    end = start + CELL_S if end is None and table["kind"] == "counter_reset" else end
    for name, number_ in (("start", start), ("end", end)):
        if isinstance(number_, bool) or not isinstance(number_, int | float) or number_ < 0 or number_ % CELL_S:
            raise ConfigError(
                f"{key}.{name}", f"{number_!r}: seconds from the origin, a multiple of {CELL_S}, are wanted"
            )
    if end <= start:
        raise ConfigError(f"{key}.end", f"{end}: more than the start, {start}, is wanted")
    if isinstance(value, bool) or not isinstance(value, int | float) or not kind.low <= value <= kind.high:
        raise ConfigError(
            f"{key}.value", f"{value!r}: between {kind.low:g} and {kind.high:g} is wanted ({kind.meaning})"
        )
    ends = (origin_ns + round(start) * NS, origin_ns + round(end) * NS)
    return _made(fleet, str(table["kind"]), place, *ends, float(value))


def _made(fleet: Fleet, kind: str, place: int, start_ns: int, end_ns: int, value: float) -> Fault:
    of_host = KINDS[kind].of_host
    devices = tuple(np.flatnonzero(fleet.host_of == place).tolist()) if of_host else (place,)
    subject = fleet.host_names[place] if of_host else fleet.ids[place]
    return Fault(kind=kind, subject=subject, start_ns=start_ns, end_ns=end_ns, value=value, devices=devices)


def _meet(one: Fault, other: Fault) -> bool:
    in_time = one.start_ns < other.end_ns and other.start_ns < one.end_ns
    return in_time and not set(one.devices).isdisjoint(other.devices)


def _cells(seconds: float) -> int:
    return int(seconds // CELL_S) * CELL_S * NS
