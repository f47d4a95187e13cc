"""
From a target's text to what it measured.

`Reader` keeps for one target the layout of its text and, for each device, host and workload in it, a plan: which
places of the values hold which metric. A scrape whose series did not change costs a comparison, the numbers, and the
filling of one dictionary for each subject. When series come or go the plan is made again, and what the change means
(a device came or left, a job began or ended) is told.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from collector.catalogue import UNKNOWN_NAMES, XID_LAST, Kind, Metric, Scope
from collector.errors import ReadRetry
from collector.sample import Allocation, Device, Event, Reading, Sample, Severity
from collector.sources.scrape_mapping import OWN_NAMES, Rule, Table
from collector.sources.scrape_text import ExpositionError, Layout, Series

# Prometheus' own limit: an exporter's timestamp older than this is a value that nobody renewed.
STALE_S: Final = 300.0
_FLOOR: Final = 5e-324
_ENDLESS: Final = 1.7e308
# What exporters write into a label when they have nothing to say.
_NOTHING: Final = frozenset({"", "N/A", "[N/A]", "n/a", "None", "none", "null", "unknown", "<no value>"})
_MOST_NAMES: Final = 20_000
_NAME: Final = re.compile(rb"[^\s{}#\"]+")
# Fields whose labels tell who had the device, not what was counted: a series copied for each job is one series.
_SAME_SUBJECT: Final = ("job", "pod", "namespace", "container", "user", "index", "host")
# No CPU socket draws more for long: a counter that fell from further below its limit than this allows did not wrap.
_ZONE_W: Final = 2000.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the labels of a series say of its device beside the value; series of one device share one of these."""

    device: Device
    job: Allocation | None


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
    """A series and what it is for."""

    rule: Rule
    subject: str
    facts: Facts | None
    model: str
    """Of a workload; of a meter its site."""
    group: tuple[tuple[str, str], ...]
    host: str


@dataclass(slots=True)
class _Choice:
    """One way to a metric: the places that are merged, and how."""

    rule: Rule
    places: list[list[int]]
    low: float
    high: float

    def value(self, values: Sequence[float]) -> float | None:
        """The metric's value, or None where there is no plausible one."""
        rule, low, high = self.rule, self.low, self.high
        found: list[float] = []
        for places in self.places:
            alike = [
                value
                for at in places
                if values[at] not in rule.blanks and low <= (value := values[at] * rule.scale) <= high
            ]
            if alike:
                found.append(alike[0] if rule.merging == "first" else max(alike))
        if not found:
            return None
        if rule.merging in {"sum", "total"}:
            return sum(found)
        if rule.merging == "mean":
            return sum(found) / len(found)
        return found[0] if rule.merging == "first" else min(found) if rule.merging == "min" else max(found)


@dataclass(slots=True)
class _Plan:
    """What one subject is read from."""

    scope: Scope
    subject: str
    host: str
    text: dict[str, str]
    singles: list[tuple[Metric, int, float, float, float]] = field(default_factory=list)
    blanks: frozenset[float] = frozenset()
    choices: list[tuple[Metric, list[_Choice]]] = field(default_factory=list)
    specials: list[tuple[Rule, int, str]] = field(default_factory=list)
    unwrapped: list[tuple[Metric, list[tuple[Rule, int, tuple[str, ...]]]]] = field(default_factory=list)
    power_text: dict[Rule, dict[str, str]] = field(default_factory=dict)


_EACH: Final = frozenset({"mean", "sum", "total"})
"""The merges in which every series counts."""


def _limits(rule: Rule) -> tuple[float, float]:
    metric = rule.metric
    if metric is None:
        return -_ENDLESS, _ENDLESS
    low = -_ENDLESS if metric.low is None else metric.low
    return (low if rule.zero else max(low, _FLOOR)), (_ENDLESS if metric.high is None else metric.high)


def _first(labels: Mapping[str, str], names: Iterable[str]) -> str:
    for name in names:
        value = labels.get(name, "")
        if value not in _NOTHING:
            return value
    return ""


class Reader:
    """
    One target's memory.

    `instance` is ``host:port``; `labels` are the target's own (``host``, ``workload``, ``user``, ``team``) and win
    over the exporter's. `dropped` and `unknown` tell, for each name, why it is left out, and which names no mapping
    knows.
    """

    def __init__(
        self, tables: Sequence[Table], *, source: str, host: str, instance: str, labels: Mapping[str, str] | None = None
    ) -> None:
        self.source = source
        self.dropped: dict[str, str] = {}
        self.mapped: dict[str, set[Metric]] = {}
        self.unknown: set[str] = set()
        self.in_force: tuple[Table, ...] = ()
        self._candidates = tuple(tables)
        self._host = host
        self._instance = instance
        self._labels = dict(labels or {})
        self._layout = Layout(self._bind)
        self._rules: dict[str, tuple[Table, tuple[Rule, ...]] | None] = {}
        self._plain: dict[str, tuple[Table, Rule]] = {}
        self._names: set[str] = set()
        self._shared: dict[Facts, Facts] = {}
        # By the identity of the labels, which are kept beside so that no other labels can take it.
        self._read_facts: dict[tuple[int, str, bool, bool], tuple[Mapping[str, str], Facts | None]] = {}
        self._whole: dict[str, str] = {}
        self._guessed: set[str] = set()
        self._guessed_wrong = False
        self._plans: list[_Plan] = []
        self._must: list[tuple[Rule, int]] = []
        self._devices: dict[str, Device] = {}
        self._running: dict[str, dict[str, Allocation]] = {}
        self._xid: dict[str, float] = {}
        self._zones: dict[tuple[str, ...], tuple[float, int]] = {}
        self._sums: dict[tuple[str, Metric], float] = {}
        self._first_scrape = True
        self._unknown_told = 0

    def read(self, body: bytes, *, time_ns: int, read_s: float = 0.0) -> Reading:
        """
        What *body* says.

        Raises: ReadRetry (with the reason ``parse``, ``empty`` or ``exporter_stale``).
        """
        try:
            self._recognise(body)
            values = self._layout.read(body)
            if self._guessed_wrong:
                # A partition stood before the first one of its package; now that one is known, all are read again.
                self._guessed_wrong = False
                self._guessed.clear()
                self._layout = Layout(self._bind)
                values = self._layout.read(body)
        except ExpositionError as error:
            raise ReadRetry(f"{self.source}: {error}", reason="parse") from error
        if not self._layout.series:
            # An exporter that reloads answers with nothing; its devices are not gone.
            raise ReadRetry(f"{self.source}: no series in {len(body)} bytes", reason="empty")
        if self._layout.timestamps_ms:
            oldest = time_ns / 1e6 - STALE_S * 1e3
            for place, stamp in self._layout.timestamps_ms.items():
                if stamp < oldest:
                    values[place] = float("nan")
        devices: list[Device] = []
        events: list[Event] = []
        allocations: list[Allocation] = []
        gone: list[str] = []
        if self._layout.changed:
            self._plan()
        self._refuse_failed_exporter(values)
        if self._layout.changed:
            self._follow_devices(time_ns, devices, events, gone)
            self._follow_jobs(time_ns, allocations)
        samples = [
            Sample(
                scope=plan.scope, subject=plan.subject, host=plan.host, time_ns=time_ns, values=found, text=plan.text
            )
            for plan in self._plans
            if (found := self._fill(plan, values, time_ns, events))
        ]
        if self._layout.changed and len(self.unknown) != self._unknown_told:
            self._unknown_told = len(self.unknown)
            told = {UNKNOWN_NAMES: float(self._unknown_told)}
            samples.append(
                Sample(scope=Scope.AGENT, subject=self.source, host=self._host, time_ns=time_ns, values=told)
            )
        self._first_scrape = False
        return Reading(
            source=self.source,
            samples=samples,
            devices=devices,
            events=events,
            allocations=allocations,
            gone=gone,
            read_s=read_s,
        )

    # ------------------------------------------------------------------------------------------------- names to rules

    def _recognise(self, body: bytes) -> None:
        # Which mappings are in force follows from all names together, so they are looked at once before the first
        # layout, and again only when a name appears that was not there.
        if len(self._names) > _MOST_NAMES:
            # No exporter has that many: its names hold what belongs into labels. Begin anew rather than grow.
            for memory in (self._names, self.unknown, self.dropped, self.mapped):
                memory.clear()
        if self._names:
            return
        names: set[bytes] = set()
        begun = b"#"
        for line in body.split(b"\n"):
            # The series of one name stand together, and comments begin alike.
            if not line.startswith(begun) and (found := _NAME.match(line)):
                names.add(found[0])
                begun = found[0] + line[found.end() : found.end() + 1]
        self._choose({name.decode("utf-8", "replace") for name in names})

    def _choose(self, names: set[str]) -> None:
        self.in_force = _recognised(self._candidates, frozenset(names))
        self._rules.clear()
        self._plain.clear()

    def _rule_for(self, series: Series) -> tuple[Table, Rule] | None:
        name = series.name
        plain = self._plain.get(name)
        if plain is not None:
            return plain
        if name not in self._names:
            self._names.add(name)
            fresh = [table for table in self._candidates if table not in self.in_force and table.recognises((name,))]
            if fresh:
                self._choose(self._names)
        if name not in self._rules:
            self._rules[name] = next(((table, rules) for table in self.in_force if (rules := table.find(name))), None)
        known = self._rules[name]
        if known is None:
            if OWN_NAMES.fullmatch(name):
                self.dropped[name] = "about the exporter itself"
            else:
                self.unknown.add(name)
            return None
        table, rules = known
        rule = next((rule for rule in rules if rule.applies(series.labels)), None)
        if rule is None:
            self.dropped.setdefault(name, "its labels meet no condition of the mapping")
            return None
        if rule.drop:
            self.dropped[name] = rule.drop
            return None
        fills = self.mapped.setdefault(name, set())
        fills.update([rule.metric] if rule.metric is not None else [metric for _, metric in rule.bits])
        if not rules[0].when:
            # Whatever its labels: the next series of this name need not be asked.
            self._plain[name] = table, rule
        return table, rule

    def _bind(self, series: Series) -> _Bound | None:
        found = self._rule_for(series)
        if found is None:
            return None
        table, rule = found
        labels = series.labels
        host = self._labels.get("host") or _first(labels, table.labels.get("host", ())) or self._host
        facts: Facts | None = None
        subject, model = host, ""
        if rule.scope is Scope.DEVICE:
            facts = self._facts_of(table, rule, labels, host)
            if facts is None:
                self.dropped.setdefault(series.name, "no label says which device is meant, or it speaks for another")
                return None
            subject = facts.device.id
        elif rule.scope is Scope.WORKLOAD:
            model = _first(labels, table.labels.get("model", ()))
            own = self._labels.get("workload") or _first(labels, table.labels.get("workload", ()))
            subject = own or f"{self._instance}/{model}".removesuffix("/")
        elif rule.scope is Scope.FACILITY:
            subject = _first(labels, table.labels.get("meter", ())) or self._instance
            model = _first(labels, table.labels.get("site", ()))
        group = self._group(table, rule, labels) if rule.merging in _EACH or rule.event else ()
        return _Bound(rule, subject, facts, model, group, host)

    @staticmethod
    def _group(table: Table, rule: Rule, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The labels by which a series is another one of those to be added, and not the same one again."""
        merged = set(rule.same)
        for kind in _SAME_SUBJECT if rule.part else (*_SAME_SUBJECT, "part", "partition"):
            merged.update(table.labels.get(kind, ()))
        return tuple(sorted((key, value) for key, value in labels.items() if key not in merged))

    # ------------------------------------------------------------------------------------------------- who was measured

    def _facts_of(self, table: Table, rule: Rule, labels: Mapping[str, str], host: str) -> Facts | None:
        key = id(labels), table.name, rule.part, rule.metric is not None
        known = self._read_facts.get(key)
        if known is None:
            known = self._read_facts[key] = labels, self._facts(table, rule, labels, host)
        return known[1]

    def _facts(self, table: Table, rule: Rule, labels: Mapping[str, str], host: str) -> Facts | None:
        at = table.labels
        index = _first(labels, at.get("index", ()))
        serial = _first(labels, at.get("serial", ()))
        whole = _first(labels, at.get("id", ()))
        if whole and table.id_prefix and not whole.startswith((table.id_prefix, "MIG-")):
            whole = table.id_prefix + whole
        if not whole:
            if not index:
                return None
            # Without an id of the vendor's, the best that is lasting: the host, the vendor and the place.
            whole = f"{host}/{(_first(labels, at.get('vendor', ())) or table.vendor or table.name).lower()}-{index}"
        part = _first(labels, at.get("part", ()))
        partition = _first(labels, at.get("partition", ()))
        if partition in table.no_partition:
            part, partition = "", ""
        if part and table.whole_part and serial:
            # Partitions of one package may carry ids of their own; the first one's is the package's.
            if part == table.whole_part:
                self._guessed_wrong |= serial in self._guessed and self._whole.get(serial) != whole
                self._whole[serial] = whole
            elif serial not in self._whole:
                self._guessed.add(serial)
            whole = self._whole.get(serial, whole)
        parent = _first(labels, at.get("parent", ())) or None
        device_id = whole
        if part and rule.part:
            parent, device_id = whole, f"{whole}/{part}"
        elif part and table.whole_part and part != table.whole_part and rule.metric is not None:
            return None
        ordinal = int(index) if index.isdecimal() else None
        device = Device(
            id=device_id,
            host=host,
            vendor=_first(labels, at.get("vendor", ())) or table.vendor or "unknown",
            model=_first(labels, at.get("model", ())) or "unknown",
            ordinal=ordinal,
            parent=parent,
            partition=(partition or part) if parent else None,
            serial=serial or None,
            bus=_first(labels, at.get("bus", ())) or None,
            driver_version=_first(labels, at.get("driver_version", ())) or None,
            firmware_version=_first(labels, at.get("firmware_version", ())) or None,
            mode=_first(labels, at.get("mode", ())) or None,
        )
        facts = Facts(device, self._job(table, labels, device_id if rule.part or not part else f"{whole}/{part}", host))
        return self._shared.setdefault(facts, facts)

    def _job(self, table: Table, labels: Mapping[str, str], device: str, host: str) -> Allocation | None:
        at = table.labels
        job = _first(labels, at.get("job", ()))
        pod = _first(labels, at.get("pod", ()))
        if not job and not pod:
            return None
        namespace = _first(labels, at.get("namespace", ()))
        # time and start are filled in when the job is first seen on the device.
        return Allocation(
            time_ns=0,
            start_ns=0,
            workload=job or (f"{namespace}/{pod}" if namespace else pod),
            device=device,
            host=host,
            name=pod or None,
            user=self._labels.get("user") or _first(labels, at.get("user", ())) or None,
            team=self._labels.get("team") or namespace or None,
        )

    def _follow_devices(self, time_ns: int, devices: list[Device], events: list[Event], gone: list[str]) -> None:
        present: dict[str, Device] = {}
        facts_now = {
            id(bound.facts): bound.facts
            for bound in self._layout.bound
            if isinstance(bound, _Bound) and bound.facts is not None
        }
        for facts in facts_now.values():
            known = present.get(facts.device.id)
            present[facts.device.id] = facts.device if known is None else _join(known, facts.device)
        for plan in self._plans:
            if plan.subject in present and plan.text.get("power_method"):
                present[plan.subject] = replace(
                    present[plan.subject],
                    power_method=plan.text["power_method"],
                    power_scope=plan.text.get("power_scope"),
                )
        for device in present.values():
            before = self._devices.get(device.id)
            if before != device:
                devices.append(device)
            if before is None and not self._first_scrape:
                events.append(_event(time_ns, "device_appeared", device, Severity.INFO, self.source))
            elif before is not None and before.driver_version != device.driver_version:
                events.append(_event(time_ns, "driver_changed", device, Severity.INFO, self.source))
        for device_id in self._devices.keys() - present.keys():
            gone.append(device_id)
            events.append(_event(time_ns, "device_gone", self._devices[device_id], Severity.WARNING, self.source))
        self._devices = present
        self._shared = {facts: facts for facts in facts_now.values()}
        self._read_facts.clear()

    def _follow_jobs(self, time_ns: int, allocations: list[Allocation]) -> None:
        now: dict[str, dict[str, Allocation]] = {}
        for facts in self._shared:
            if facts.job is not None:
                now.setdefault(facts.job.device, {})[facts.job.workload] = facts.job
        for device in self._running.keys() | now.keys():
            before, jobs = self._running.get(device, {}), now.get(device, {})
            if before.keys() == jobs.keys():
                continue
            # Who shares a device changed, so every share did: all end, and those that stay begin anew.
            allocations.extend(replace(job, time_ns=time_ns, end_ns=time_ns) for job in before.values())
            self._running[device] = {
                workload: replace(job, time_ns=time_ns, start_ns=time_ns, share=1.0 / len(jobs))
                for workload, job in jobs.items()
            }
            allocations.extend(self._running[device].values())
            if not jobs:
                del self._running[device]

    # ------------------------------------------------------------------------------------------------ places to metrics

    def _plan(self) -> None:
        plans: dict[tuple[Scope, str], _Plan] = {}
        ways: dict[tuple[Scope, str], dict[Metric, list[tuple[int, _Bound]]]] = {}
        self._must = []
        for at, bound in enumerate(self._layout.bound):
            if not isinstance(bound, _Bound):
                continue
            rule = bound.rule
            if rule.must is not None:
                self._must.append((rule, at))
                continue
            if rule.scope is None:
                continue
            key = rule.scope, bound.subject
            plan = plans.get(key)
            if plan is None:
                plan = plans[key] = _Plan(rule.scope, bound.subject, bound.host, {})
                ways[key] = {}
            if rule.scope is Scope.WORKLOAD:
                if bound.model:
                    plan.text.setdefault("model", bound.model)
                framework = next((t.framework for t in self.in_force if t.name == rule.mapping), "")
                if framework:
                    plan.text.setdefault("framework", framework)
            elif rule.scope is Scope.FACILITY and bound.model:
                plan.text.setdefault("site", bound.model)
            if rule.bits or rule.event:
                series = ",".join(f"{k}={v}" for k, v in bound.group)
                plan.specials.append((rule, at, series))
            if rule.metric is not None and rule.event != "xid":
                ways[key].setdefault(rule.metric, []).append((at, bound))
        for key, plan in plans.items():
            for metric, found in ways[key].items():
                self._plan_metric(plan, metric, found)
        self._plans = list(plans.values())

    def _plan_metric(self, plan: _Plan, metric: Metric, found: list[tuple[int, _Bound]]) -> None:
        if len(found) == 1:
            at, bound = found[0]
            rule = bound.rule
            if not rule.unwrap and not (rule.blanks and plan.blanks and rule.blanks is not plan.blanks):
                plan.blanks = plan.blanks or rule.blanks
                plan.singles.append((metric, at, rule.scale, *_limits(rule)))
                plan.text.update(self._power_text(bound))
                return
        by_rule: dict[Rule, dict[tuple[tuple[str, str], ...], list[int]]] = {}
        mappings = [table.name for table in self.in_force]
        ordered = sorted(found, key=lambda one: (mappings.index(one[1].rule.mapping), one[1].rule.order))
        lead = ordered[0][1].rule
        if lead.unwrap:
            plan.unwrapped.append((metric, [(lead, at, _zone(bound)) for at, bound in ordered if bound.rule is lead]))
            return
        for at, bound in ordered:
            rule = lead if bound.rule.merge == "total" else bound.rule
            group = (*bound.group, ("", bound.rule.name)) if bound.rule.merge == "total" else bound.group
            by_rule.setdefault(rule, {}).setdefault(group, []).append(at)
            plan.power_text.setdefault(bound.rule, self._power_text(bound))
        choices = [_Choice(rule, list(groups.values()), *_limits(rule)) for rule, groups in by_rule.items()]
        # A gauge may step in for another; of two counters one has to be kept to, or each change would look like a
        # reset.
        plan.choices.append((metric, choices[:1] if metric.kind is Kind.COUNTER else choices))
        plan.text.update(plan.power_text[choices[0].rule])

    def _power_text(self, bound: _Bound) -> dict[str, str]:
        rule = bound.rule
        if not rule.power_scope:
            return {}
        method = rule.method
        if method == "draw":
            table = next(table for table in self.in_force if table.name == rule.mapping)
            model = bound.facts.device.model if bound.facts is not None else "unknown"
            if model == "unknown":
                model = next(
                    (
                        other.facts.device.model
                        for other in self._layout.bound
                        if isinstance(other, _Bound)
                        and other.facts is not None
                        and other.subject == bound.subject
                        and other.facts.device.model != "unknown"
                    ),
                    "unknown",
                )
            momentary = any(fnmatchcase(model, pattern) for pattern in table.instant_models)
            method = "" if model == "unknown" else "instant" if momentary else "average"
        return {"power_scope": rule.power_scope} | ({"power_method": method} if method else {})

    # ------------------------------------------------------------------------------------------------ values to samples

    def _refuse_failed_exporter(self, values: Sequence[float]) -> None:
        for rule, at in self._must:
            if values[at] != rule.must:
                raise ReadRetry(
                    f"{self.source}: {rule.name} is {values[at]:g}, so what it shows is old", reason="exporter_stale"
                )

    def _fill(self, plan: _Plan, values: Sequence[float], time_ns: int, events: list[Event]) -> dict[Metric, float]:
        found: dict[Metric, float] = {}
        blanks = plan.blanks
        for metric, at, scale, low, high in plan.singles:
            value = values[at] * scale
            if low <= value <= high and values[at] not in blanks:
                found[metric] = value
        for metric, choices in plan.choices:
            for choice in choices:
                chosen = choice.value(values)
                if chosen is not None:
                    found[metric] = chosen
                    if plan.power_text and choice.rule.power_scope and len(choices) > 1:
                        self._tell_power(plan, plan.power_text[choice.rule])
                    break
        for metric, zones in plan.unwrapped:
            total = self._unwrap(plan, metric, zones, values, time_ns)
            if total is not None:
                found[metric] = total
        for rule, at, series in plan.specials:
            self._special(plan, rule, series, values[at], time_ns, found, events)
        return found

    @staticmethod
    def _tell_power(plan: _Plan, text: dict[str, str]) -> None:
        # A new mapping each time it differs: samples already given out keep theirs.
        told = {key: value for key, value in plan.text.items() if key not in {"power_method", "power_scope"}} | text
        if told != plan.text:
            plan.text = told

    def _unwrap(
        self,
        plan: _Plan,
        metric: Metric,
        zones: Sequence[tuple[Rule, int, tuple[str, ...]]],
        values: Sequence[float],
        time_ns: int,
    ) -> float | None:
        key = plan.subject, metric
        seen = False
        gained: dict[tuple[str, ...], float] = {}
        for rule, at, zone in zones:
            now = values[at] * rule.scale
            if not 0.0 <= now <= _ENDLESS:
                continue
            seen = True
            before, when_ns = self._zones.get(zone, (now, time_ns))
            self._zones[zone] = now, time_ns
            gain = now - before
            if gain < 0.0:
                elapsed_s = max((time_ns - when_ns) / 1e9, 1.0)
                limit = next((r for r in sorted(rule.unwrap) if 0.0 <= r - before <= _ZONE_W * elapsed_s), None)
                # Fallen from the top: it wrapped. Fallen from elsewhere: it began anew, and what it had gained is not
                # known.
                gain = now + (limit - before) if limit is not None else now
            same = tuple(part for part in zone if not part.startswith("path="))
            gained[same] = max(gained.get(same, 0.0), gain)
        if not seen:
            return None
        self._sums[key] = self._sums.get(key, 0.0) + sum(gained.values())
        return self._sums[key]

    def _special(
        self,
        plan: _Plan,
        rule: Rule,
        series: str,
        value: float,
        time_ns: int,
        found: dict[Metric, float],
        events: list[Event],
    ) -> None:
        if value in rule.blanks or not 0.0 <= value <= _ENDLESS:
            return
        for mask, metric in rule.bits:
            found[metric] = 1.0 if int(value) & mask else 0.0
        if rule.event == "xid":
            if not XID_LAST.plausible(value):
                return
            found[XID_LAST] = value
            if self._changed(f"{plan.subject}|{rule.event}", value) and value > 0:
                events.append(_xid(time_ns, plan, f"{value:g}"))
        elif rule.event == "xid_count":
            code = dict(pair.partition("=")[::2] for pair in series.split(",")).get("xid", "unknown")
            key = f"{plan.subject}|{series}"
            before = self._xid.get(key, value if self._first_scrape else 0.0)
            self._xid[key] = value
            if value > before:
                events.append(_xid(time_ns, plan, code, count=value - before))

    def _changed(self, key: str, value: float) -> bool:
        before = self._xid.get(key)
        self._xid[key] = value
        # At the first sight nobody knows how old it is.
        return before is not None and before != value

    @property
    def devices(self) -> tuple[str, ...]:
        """The ids of the devices in the last scrape."""
        return tuple(self._devices)

    def end(self, time_ns: int) -> Reading | None:
        """What is to be told when the target itself leaves the configuration."""
        ended = [
            replace(job, time_ns=time_ns, end_ns=time_ns) for jobs in self._running.values() for job in jobs.values()
        ]
        if not ended and not self._devices:
            return None
        return Reading(source=self.source, allocations=ended, gone=list(self._devices))


@lru_cache(maxsize=256)
def _recognised(tables: tuple[Table, ...], names: frozenset[str]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table.recognises(names))


def _zone(bound: _Bound) -> tuple[str, ...]:
    return (bound.rule.name, *(f"{key}={value}" for key, value in bound.group))


def _join(known: Device, more: Device) -> Device:
    """One device from what two of its series say: a known word wins over none, and the earlier over the later."""
    return replace(
        known,
        vendor=more.vendor if known.vendor == "unknown" else known.vendor,
        model=more.model if known.model == "unknown" else known.model,
        ordinal=more.ordinal if known.ordinal is None else known.ordinal,
        parent=known.parent or more.parent,
        partition=more.partition if known.partition in {None, known.id.rpartition("/")[2]} else known.partition,
        serial=known.serial or more.serial,
        bus=known.bus or more.bus,
        driver_version=known.driver_version or more.driver_version,
        firmware_version=known.firmware_version or more.firmware_version,
        mode=known.mode or more.mode,
    )


def _event(time_ns: int, kind: str, device: Device, severity: Severity, source: str) -> Event:
    return Event(
        time_ns=time_ns,
        kind=kind,
        host=device.host,
        severity=severity,
        device=device.id,
        code=device.driver_version if kind == "driver_changed" else None,
        message=f"{device.model} as {source} shows it",
    )


def _xid(time_ns: int, plan: _Plan, code: str, *, count: float = 1.0) -> Event:
    return Event(
        time_ns=time_ns,
        kind="xid",
        host=plan.host,
        severity=Severity.WARNING,
        device=plan.subject,
        code=code,
        message=f"XID {code}",
        value=count,
    )
