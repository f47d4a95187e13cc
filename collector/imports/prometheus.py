"""
A Prometheus server's history (Prometheus, VictoriaMetrics, Thanos, Mimir): every stored sample, as it was scraped.

Each target (instance) is taken in stretches of hours that begin at fixed moments, family by family in parallel. A
stretch is put together again scrape by scrape and read by the same mappings as a live scrape, so that unit traps, MIG
copies and sentinels are treated alike. A journal beside the store tells what is stored, so that a killed import goes on
where it was; and each stretch has its own name in the store, so that one taken in again replaces itself.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from collector.catalogue import CATALOGUE, Metric, Scope
from collector.errors import ConfigError, ImportFailed, ReadRetry
from collector.imports import readings
from collector.imports.prometheus_server import Series, Server
from collector.imports.report import Account, Unit
from collector.sample import Allocation, Device, Event, Sample
from collector.sources.scrape_mapping import Table, choose
from collector.sources.scrape_series import Reader

STRETCH_S: Final = 6 * 3600
_OWN_SUBJECT: Final = {
    Scope.DEVICE: "device",
    Scope.HOST: "host",
    Scope.WORKLOAD: "workload",
    Scope.FACILITY: "meter",
}
Progress = Callable[[int, int, str], None]
"""Called with stretches done, stretches in all, and what was done last."""


# ------------------------------------------------------------------------------------------------------------- journal


class Journal:
    """
    Which stretches are stored: a line each, beside the store.

    A stretch is written down after it is stored; one stored and not written down is taken in again and replaces itself.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.done: dict[tuple[str, int], int] = {}
        if path is None or not path.exists():
            return
        for line in path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                self.done[entry["target"], entry["start_ms"]] = entry["end_ms"]
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut off

    def has(self, target: str, start_ms: int, end_ms: int) -> bool:
        """Whether the stretch is stored as far as *end_ms*."""
        return self.done.get((target, start_ms), 0) >= end_ms

    def add(self, target: str, start_ms: int, end_ms: int) -> None:
        """Write down that the stretch is stored."""
        self.done[target, start_ms] = end_ms
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = json.dumps({"target": target, "start_ms": start_ms, "end_ms": end_ms})
        with self.path.open("ab") as file:
            # A line that a kill cut off must not swallow this one.
            file.write(b"\n" + entry.encode())
            file.flush()
            os.fsync(file.fileno())


def journal_path(store_root: Path, url: str, match: str) -> Path:
    """Where the journal of an import from *url* into a store is."""
    digest = sha256(f"{url}\0{match}".encode()).hexdigest()[:16]
    return store_root / ".imports" / f"prometheus-{digest}.jsonl"


# -------------------------------------------------------------------------------------------------------------- import


@dataclass(frozen=True, slots=True)
class Stretch:
    """A target's hours: [start, end)."""

    target: str
    start_ms: int
    end_ms: int


def read_prometheus(
    server: Server,
    start_ms: int,
    end_ms: int,
    *,
    match: str = "",
    host: str | None = None,
    mapping: str | Sequence[str] = "auto",
    journal: Journal | None = None,
    workers: int = 4,
    progress: Progress | None = None,
) -> Iterator[Unit]:
    """
    What the server has of the time from *start_ms* to *end_ms*: one unit for each target and stretch that has anything.

    Whole stretches are taken, so that the time may begin and end up to a stretch further out. *match* are matchers as
    ``job="dcgm"``. A unit is finished when the next one is asked for: then the journal has it.
    Raises: SourceUnavailable, ImportFailed, ConfigError.
    """
    if end_ms <= start_ms:
        raise ConfigError("--until", "is not after --since")
    candidates = choose(mapping)
    step = STRETCH_S * 1000
    known = journal or Journal(None)
    with ThreadPoolExecutor(workers, thread_name_prefix="import") as pool:
        first = start_ms // step * step
        # The last stretch goes as far as there is anything: a shorter one would replace a longer one stored before.
        last = max(end_ms, round(time.time() * 1000))
        stretches = [
            Stretch(target, begin, min(begin + step, last))
            for begin in range(first, end_ms, step)
            for target in server.label_values("instance", _selector("", match, None), begin, min(begin + step, last))
        ]
        if not stretches:
            raise ImportFailed(
                server.url, f"has no series with an instance{' and ' + match if match else ''} in the time"
            )
        for done, stretch in enumerate(stretches):
            label = f"{stretch.target} {time.strftime('%Y-%m-%d %H:%M', time.gmtime(stretch.start_ms / 1000))}"
            if progress is not None:
                progress(done, len(stretches), label)
            if known.has(stretch.target, stretch.start_ms, stretch.end_ms):
                continue
            unit = _unit(server, stretch, match, host, candidates, pool)
            if unit is not None:
                yield unit
            known.add(stretch.target, stretch.start_ms, stretch.end_ms)
        if progress is not None:
            progress(len(stretches), len(stretches), "done")


def _selector(name: str, match: str, target: str | None) -> str:
    parts = [f'__name__="{name}"'] if name else ['instance!=""']
    if target is not None:
        quoted = target.replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'instance="{quoted}"')
    return "{" + ",".join([*parts, *([match] if match else [])]) + "}"


def _unit(
    server: Server,
    stretch: Stretch,
    match: str,
    host: str | None,
    candidates: Sequence[Table],
    pool: ThreadPoolExecutor,
) -> Unit | None:
    target = stretch.target
    names = server.label_values("__name__", _selector("", match, target), stretch.start_ms, stretch.end_ms)
    in_force = [table for table in candidates if table.recognises(names)]
    wanted = [name for name in names if name in _OWN or name == "accel_info" or any(t.find(name) for t in in_force)]
    if not wanted:
        return None
    per_family = pool.map(
        lambda name: server.samples(_selector(name, match, target), stretch.start_ms, stretch.end_ms), wanted
    )
    series = [one for family in per_family for one in family if one.points]
    if not series:
        return None
    account = Account(f"{server.url} {target}", lines=sum(len(one.points) for one in series))
    account.ignored = tuple(name for name in names if name not in wanted)
    source = f"prometheus:{target}"
    own = [one for one in series if one.name in _OWN or one.name == "accel_info"]
    others = [one for one in series if one.name not in _OWN and one.name != "accel_info"]
    taken = _Taken()
    _take_own(own, taken, account)
    if others:
        _take_scrapes(others, target, host, source, in_force, taken, account)
    unit = Unit(
        name=f"{target} {time.strftime('%Y-%m-%dT%H:%MZ', time.gmtime(stretch.start_ms / 1000))}",
        identity=("prometheus", server.url, match, target, str(stretch.start_ms)),
        files=[account],
        facts={"families": len(wanted), "series": len(series)},
    )
    unit.frames = readings.frames(
        taken.samples, source, devices=taken.devices, events=taken.events, allocations=taken.closed()
    )
    return unit


@dataclass(slots=True)
class _Taken:
    """What the scrapes of a stretch brought."""

    samples: list[Sample] = field(default_factory=list)
    devices: list[tuple[int, Device]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    allocations: dict[tuple[str, str, int], Allocation] = field(default_factory=dict)
    last_ns: int = 0

    def closed(self) -> list[Allocation]:
        """The allocations; one that runs at the stretch's end ends there, and the next stretch begins it anew."""
        return [
            one if one.end_ns is not None else replace(one, end_ns=self.last_ns) for one in self.allocations.values()
        ]


def _take_scrapes(
    series: Sequence[Series],
    target: str,
    host: str | None,
    source: str,
    tables: Sequence[Table],
    taken: _Taken,
    account: Account,
) -> None:
    """Put each scrape's text together again, and read it as a live scrape is read."""
    name = target.rsplit(":", 1)[0]
    reader = Reader(tables, source=source, host=host or name, instance=target, labels={"host": host} if host else None)
    scrapes: dict[int, list[str]] = {}
    for one in series:
        text = _text(one)
        for at, value in one.points:
            scrapes.setdefault(at, []).append(f"{text} {value}")
    for at in sorted(scrapes):
        lines = scrapes[at]
        try:
            reading = reader.read("\n".join(lines).encode() + b"\n", time_ns=at * 1_000_000)
        except ReadRetry as error:
            account.kept["other"] += len(lines)
            note = f"scrapes left out: {error}"
            if note not in account.notes and len(account.notes) < 20:
                account.notes.append(note)
            continue
        values = sum(len(sample.values) for sample in reading.samples)
        # Series that tell the same (partitions, jobs) are one value; a bit mask is several.
        account.kept["reading"] += min(values, len(lines))
        account.kept["other"] += len(lines) - min(values, len(lines))
        taken.last_ns = at * 1_000_000
        taken.samples.extend(reading.samples)
        taken.devices.extend((at * 1_000_000, device) for device in reading.devices)
        taken.events.extend(reading.events)
        for allocation in reading.allocations:
            taken.allocations[allocation.workload, allocation.device, allocation.start_ns] = allocation
    if reader.dropped:
        account.notes.append(
            f"{len(reader.dropped)} families known and left out: {', '.join(sorted(reader.dropped)[:10])}"
        )


def _text(one: Series) -> str:
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(one.labels.items()))
    return f"{one.name}{{{labels}}}" if labels else one.name


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


# ------------------------------------------------------------------------------------------- perfwatt's own exposition


def _own_families() -> dict[str, list[Metric]]:
    families: dict[str, list[Metric]] = {}
    for metric in CATALOGUE:
        if metric.scope in _OWN_SUBJECT:
            families.setdefault(metric.prometheus, []).append(metric)
    return families


_OWN: Final = _own_families()


def _take_own(series: Sequence[Series], taken: _Taken, account: Account) -> None:
    """What perfwatt itself exposed, back as it was."""
    values: dict[tuple[Scope, str, int], dict[Metric, float]] = {}
    texts: dict[tuple[Scope, str], dict[str, str]] = {}
    for one in series:
        if one.name == "accel_info":
            account.kept["other"] += len(one.points)
            if one.labels.get("device"):
                taken.devices.append((one.points[0][0] * 1_000_000, _device(one.labels)))
            continue
        metric = next((m for m in _OWN[one.name] if all(one.labels.get(key) == value for key, value in m.labels)), None)
        subject = one.labels.get(_OWN_SUBJECT[metric.scope], "") if metric else ""
        if metric is None or not subject:
            account.kept["other"] += len(one.points)
            continue
        text = texts.setdefault((metric.scope, subject), {})
        text |= {key: one.labels[key] for key in ("host", "model", "site") if one.labels.get(key)}
        if metric.column == "power_w":
            text |= {f"power_{key}": one.labels[key] for key in ("method", "scope") if one.labels.get(key)}
        for at, written in one.points:
            value = float(written)
            if metric.plausible(value):
                account.kept["reading"] += 1
                values.setdefault((metric.scope, subject, at), {})[metric] = value
            else:
                account.kept["absent"] += 1
    for (scope, subject, at), found in values.items():
        text = texts[scope, subject]
        taken.samples.append(
            Sample(
                scope=scope,
                subject=subject,
                host=text.get("host", subject),
                time_ns=at * 1_000_000,
                values=found,
                text={key: word for key, word in text.items() if key != "host"},
            )
        )


def _device(labels: Mapping[str, str]) -> Device:
    window = labels.get("power_window_s")
    return Device(
        id=labels["device"],
        host=labels.get("host", ""),
        vendor=labels.get("vendor", "unknown"),
        model=labels.get("model", "unknown"),
        ordinal=int(labels["ordinal"]) if labels.get("ordinal", "").isdecimal() else None,
        power_window_s=float(window) if window else None,
        parent=labels.get("parent"),
        partition=labels.get("partition"),
        serial=labels.get("serial"),
        bus=labels.get("bus"),
        driver_version=labels.get("driver_version"),
        firmware_version=labels.get("firmware_version"),
        mode=labels.get("mode"),
        power_method=labels.get("power_method"),
        power_scope=labels.get("power_scope"),
    )
