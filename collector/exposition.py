"""
What Prometheus sees: the latest sample of every subject, in the catalogue's words.

`Exposition` is a sink of the agent and a collector of prometheus_client. `render` writes the same bytes as
prometheus_client's own encoders, which a test holds, from label strings that are built once: a scrape competes with the
agent for one interpreter lock, and 16 devices are 700 lines.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Final, Protocol

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample as Point
from prometheus_client.utils import floatToGoString

from collector.catalogue import CATALOGUE, FAMILY_HELP, POWER, Kind, Metric, Scope
from collector.sample import Device, Reading, Sample
from collector.units import JOULE, WATT

STALE_AFTER_S: Final = 15.0
"""Three ticks of the slowest usual period; a source with a longer one is given its own."""

INFO: Final = "accel_info"
INFO_HELP: Final = "1 for each device that is being measured, with what is known of it as labels."
_INFO_FIELDS: Final = (
    "vendor",
    "model",
    "ordinal",
    "parent",
    "partition",
    "serial",
    "bus",
    "driver_version",
    "firmware_version",
    "mode",
    "power_method",
    "power_scope",
    "power_window_s",
)

_formatted: Callable[[float], str] = floatToGoString
_remembered: Callable[[float], str] = lru_cache(4096)(floatToGoString)


def _number(value: float) -> str:
    """*value* as Prometheus writes it; most are those of the last scrape, or of another device."""
    return _remembered(value) if value else _formatted(value)  # there are two zeros, and they are equal


Labels = tuple[tuple[str, str], ...]
OwnSample = tuple[Metric, Mapping[str, str], float]


class OwnMetrics(Protocol):
    """The agent's account of itself."""

    def samples(self) -> Iterable[OwnSample]:
        """The agent's metrics now, each with its labels."""
        ...


@dataclass(slots=True, eq=False)
class _Live:
    """The latest sample of one subject by one source, and the beginnings of its lines."""

    sample: Sample
    arrived_s: float
    device: Device | None
    labels: Labels
    starts: dict[Metric, str] = field(default_factory=dict)

    def labels_of(self, metric: Metric) -> Labels:
        extra = _provenance(self) if metric is POWER else ()
        return (*self.labels, *metric.labels, *extra)

    def line(self, metric: Metric, value: float) -> str:
        start = self.starts.get(metric)
        if start is None:
            start = self.starts[metric] = _start(metric.prometheus, self.labels_of(metric))
        return f"{start}{_number(value)}\n"

    def now(self) -> "_Live":
        """This, as it is now: the next sample does not change it."""
        return _Live(self.sample, self.arrived_s, self.device, self.labels, self.starts)


_Subjects = dict[Scope, dict[str, tuple[_Live, ...]]]


@dataclass(frozen=True, slots=True)
class _Group:
    """Metrics that share a Prometheus name."""

    name: str
    metrics: tuple[Metric, ...]

    @property
    def kind(self) -> Kind:
        return self.metrics[0].kind

    @property
    def unit(self) -> str:
        return self.metrics[0].unit.prometheus

    @property
    def help(self) -> str:
        return FAMILY_HELP[self.name] if self.metrics[0].family else self.metrics[0].help

    @property
    def plain_name(self) -> str:
        """The name as OpenMetrics declares it: of a counter without its ending."""
        return self.name.removesuffix("_total") if self.kind is Kind.COUNTER else self.name

    @property
    def headers(self) -> tuple[str, str]:
        """What precedes the lines, in the text format and in OpenMetrics."""
        kind, unit = self.kind.value, f"# UNIT {self.plain_name} {self.unit}\n" if self.unit else ""
        return (
            f"# HELP {self.name} {_escaped_help(self.help)}\n# TYPE {self.name} {kind}\n",
            f"# HELP {self.plain_name} {_escaped(self.help)}\n# TYPE {self.plain_name} {kind}\n{unit}",
        )


def _groups() -> tuple[_Group, ...]:
    by_name: dict[str, list[Metric]] = {}
    for metric in CATALOGUE:
        by_name.setdefault(metric.prometheus, []).append(metric)
    return tuple(_Group(name, tuple(found)) for name, found in by_name.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escaped_help(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n")


def _start(name: str, labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(labels))
    return f"{name}{{{text}}} " if text else f"{name} "


_GROUPS: Final = _groups()
_HEADERS: Final = {group.name: group.headers for group in _GROUPS}
_INFO_HEADERS: Final = (
    f"# HELP {INFO} {INFO_HELP}\n# TYPE {INFO} gauge\n",
    f"# HELP {INFO.removesuffix('_info')} {INFO_HELP}\n# TYPE {INFO.removesuffix('_info')} info\n",
)
_OWN_STARTS: Final = 16_384
_REPEATED: Final = frozenset(metric for metric in CATALOGUE if metric.unit in (WATT, JOULE))


class Exposition:
    """
    The latest sample of every subject.

    *stale_after_s* is how long a sample lives, a number or a function of the source's name; age is counted on the
    monotonic clock from the arrival of a sample with a new time, so neither a jump of the wall clock nor a source that
    repeats an old answer keeps a series alive.

    Where two sources measure one subject, the one that came first speaks for each metric it has, and the other fills in
    what is missing: a name and its labels appear once. A partition's watts and joules are left out while its parent's
    are there, so that a sum over a name counts no watt twice.
    """

    def __init__(
        self,
        own: OwnMetrics | None = None,
        *,
        stale_after_s: float | Callable[[str], float] = STALE_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._stale_after = stale_after_s if callable(stale_after_s) else lambda _source: stale_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._live: dict[Scope, dict[str, dict[str, _Live]]] = {
            scope: {} for scope in Scope if scope is not Scope.AGENT
        }
        self._devices: dict[tuple[str, str], Device] = {}
        self._own_starts: dict[tuple[str, Labels], str] = {}

    def take(self, readings: Sequence[Reading]) -> None:
        """Keep the latest samples; end the series of devices that left."""
        now_s = self._clock()
        with self._lock:
            for reading in readings:
                for device in reading.devices:
                    self._devices[device.id, reading.source] = device
                for sample in reading.samples:
                    self._keep(sample, reading.source, now_s)
                for device_id in reading.gone:
                    self._end(device_id, reading.source)

    def close(self) -> None:
        """End every series."""
        with self._lock:
            for subjects in self._live.values():
                subjects.clear()
            self._devices.clear()

    @property
    def empty(self) -> bool:
        """Whether no sample is alive."""
        return not any(self._living().values())

    def render(self, *, openmetrics: bool = False, names: Collection[str] = ()) -> bytes:
        """Everything now, in the Prometheus text format or OpenMetrics 1.0; with *names*, only those families."""
        own, current = self._own_points(), self._living()
        form = 1 if openmetrics else 0
        found: defaultdict[Metric, list[str]] = defaultdict(list)
        for metric, live, value in _chosen(current):
            found[metric].append(live.line(metric, value))
        lines: list[str] = []
        for group in _GROUPS:
            if names and group.name not in names:
                continue
            start = len(lines)
            for metric in group.metrics:
                lines += found.get(metric, ())
            for labels, value in own.get(group.name, ()):
                lines.append(self._own_line(group.name, labels, value))
            if len(lines) > start:
                lines.insert(start, _HEADERS[group.name][form])
        infos = () if names and INFO not in names else _infos(current)
        if infos:
            lines.append(_INFO_HEADERS[form])
            lines += [f"{_start(INFO, labels)}1.0\n" for labels in infos]
        if openmetrics:
            lines.append("# EOF\n")
        # A lone surrogate in a label (a path or name that was no UTF-8) must not cost the whole scrape.
        return "".join(lines).encode("utf-8", "replace")

    def collect(self) -> Iterator[Family]:
        """The same as families of prometheus_client, for a registry of its own or another's."""
        own, current = self._own_points(), self._living()
        found: defaultdict[Metric, list[Point]] = defaultdict(list)
        for metric, live, value in _chosen(current):
            found[metric].append(Point(metric.prometheus, dict(live.labels_of(metric)), value))
        for group in _GROUPS:
            points = [point for metric in group.metrics if metric in found for point in found[metric]]
            points += [Point(group.name, dict(labels), value) for labels, value in own.get(group.name, ())]
            if points:
                yield _family(group.plain_name, group.help, group.kind.value, group.unit, points)
        infos = [Point(INFO, dict(labels), 1.0) for labels in _infos(current)]
        if infos:
            yield _family(INFO.removesuffix("_info"), INFO_HELP, "info", "", infos)

    def _keep(self, sample: Sample, source: str, now_s: float) -> None:
        sources = self._live[sample.scope].setdefault(sample.subject, {})
        before = sources.get(source)
        device = self._devices.get((sample.subject, source)) if sample.scope is Scope.DEVICE else None
        if before is None:
            sources[source] = _Live(sample, now_s, device, _labels(sample, device))
            return
        if sample.time_ns != before.sample.time_ns:
            before.arrived_s = now_s
        if device is not before.device or sample.text != before.sample.text or sample.host != before.sample.host:
            before.device = device
            labels = _labels(sample, device)
            if labels != before.labels or sample.text != before.sample.text:
                before.labels = labels
                before.starts = {}
        before.sample = sample

    def _end(self, device_id: str, source: str) -> None:
        ended = {device_id} | {key[0] for key, device in self._devices.items() if device.parent == device_id}
        for ended_id in ended:
            self._devices.pop((ended_id, source), None)
            sources = self._live[Scope.DEVICE].get(ended_id, {})
            sources.pop(source, None)
            if not sources:
                self._live[Scope.DEVICE].pop(ended_id, None)

    def _living(self) -> _Subjects:
        """Drop what is stale; what is left, by scope, then by subject, the first source of each subject first."""
        now_s = self._clock()
        current: _Subjects = {}
        with self._lock:
            for scope, subjects in self._live.items():
                for subject in [*subjects]:
                    sources = subjects[subject]
                    for source in [*sources]:
                        if now_s - sources[source].arrived_s > self._stale_after(source):
                            del sources[source]
                    if not sources:
                        del subjects[subject]
                # A copy of each, because the agent may put the next sample in while the lines are written.
                current[scope] = {
                    subject: tuple([live.now() for live in subjects[subject].values()]) for subject in sorted(subjects)
                }
        return current

    def _own_line(self, name: str, labels: Labels, value: float) -> str:
        start = self._own_starts.get((name, labels))
        if start is None:
            if len(self._own_starts) >= _OWN_STARTS:  # sources that come and go: begin again rather than grow
                self._own_starts.clear()
            start = self._own_starts[name, labels] = _start(name, labels)
        return f"{start}{_number(value)}\n"

    def _own_points(self) -> dict[str, list[tuple[Labels, float]]]:
        points: dict[str, list[tuple[Labels, float]]] = {}
        if self._own is not None:
            for metric, labels, value in self._own.samples():
                if isfinite(value):
                    key = tuple(sorted((*labels.items(), *metric.labels)))
                    points.setdefault(metric.prometheus, []).append((key, value))
        return {name: sorted(found) for name, found in points.items()}


def _labels(sample: Sample, device: Device | None) -> Labels:
    """The labels that every metric of *sample* has."""
    match sample.scope:
        case Scope.DEVICE:
            known = {"device": sample.subject, "host": sample.host}
            if device is not None:
                known |= {"vendor": device.vendor, "model": device.model}
                known |= {"parent": device.parent or "", "partition": device.partition or ""}
        case Scope.HOST:
            known = {"host": sample.subject}
        case Scope.WORKLOAD:
            text = sample.text
            known = {"workload": sample.subject, "host": sample.host, "model": text.get("model", "")}
        case _:
            known = {"meter": sample.subject, "site": sample.text.get("site", "")}
    return tuple(sorted((key, value) for key, value in known.items() if value))


def _provenance(live: _Live) -> Labels:
    """How a power value came to be: without it a modelled watt would be summed as if it were measured."""
    method = live.sample.text.get("power_method") or (live.device and live.device.power_method)
    scope = live.sample.text.get("power_scope") or (live.device and live.device.power_scope)
    return tuple((key, value) for key, value in (("method", method), ("scope", scope)) if value)


def _chosen(current: _Subjects) -> Iterator[tuple[Metric, _Live, float]]:
    """For each subject and each of its metrics, the sample that speaks for it."""
    for scope, subjects in current.items():
        for sources in subjects.values():
            spoken: set[Metric] = set()
            for live in sources:
                partition = live.device is not None and live.device.parent is not None
                for metric, value in live.sample.values.items():
                    if metric in spoken or metric.scope is not scope or not isfinite(value):
                        continue
                    if len(sources) > 1:
                        spoken.add(metric)
                    if not (partition and metric in _REPEATED and _parent_has(metric, live, current)):
                        yield metric, live, value


def _parent_has(metric: Metric, live: _Live, current: _Subjects) -> bool:
    if live.device is None or live.device.parent is None:
        return False
    return any(metric in parent.sample.values for parent in current[Scope.DEVICE].get(live.device.parent, ()))


def _infos(current: _Subjects) -> list[Labels]:
    """The labels of the info series: of each device with a living sample, what its first describing source said."""
    found: list[Labels] = []
    for sources in current[Scope.DEVICE].values():
        device = next((live.device for live in sources if live.device is not None), None)
        if device is not None:
            known = {"device": device.id, "host": device.host}
            for name in _INFO_FIELDS:
                value = getattr(device, name)
                known[name] = "" if value is None else str(value)
            found.append(tuple(sorted((key, value) for key, value in known.items() if value)))
    return found


def _family(name: str, help: str, kind: str, unit: str, points: list[Point]) -> Family:
    family = Family(name, help, kind, unit)
    family.samples = points
    return family
