"""
What each exporter's names mean.

A mapping is a table in ``mappings/<exporter>.toml``: for each name of the exporter the metric of the catalogue, the
factor to its unit, and what to mind. `README.md` beside the tables describes the keys. A mapping is in force for a
target when one of the names it is recognised by is there; a target may speak several. What no mapping knows is
counted and listed, never guessed.
"""

import fnmatch
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from collector.catalogue import CATALOGUE, POWER, REQUESTS, SAMPLES, STEPS, TOKENS_OUT, Kind, Metric, Scope, metric_of
from collector.errors import ConfigError

TABLES: Final = Path(__file__).parent / "mappings"
_WORK_DONE: Final = (TOKENS_OUT, SAMPLES, STEPS, REQUESTS)

# DCGM's "blank" values, as old exporters let them through: int32, int64 and fp64, each with its four reasons.
_DCGM_BLANKS: Final = frozenset(
    [float(2147483632 + n) for n in range(4)]
    + [float(9223372036854775792 + n) for n in range(4)]
    + [140737488355328.0 + n / 10 for n in range(4)]
)
_BLANKS: Final[Mapping[str, frozenset[float]]] = {"": frozenset(), "dcgm": _DCGM_BLANKS}

POWER_METHODS: Final = ("counter", "instant", "average", "modelled")
POWER_SCOPES: Final = ("device", "module", "package", "die")
"""How a power value may have been measured, and of what (see `collector.sample.Device`)."""

# Every client library adds these about itself.
OWN_NAMES: Final = re.compile(
    r"(go|process|python|promhttp|jvm|http|scrape|otelcol|rest_client|workqueue)_.*|.*_created|target_info|up"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A label that must, or must not, match one of some patterns; a label that is not there is the empty text."""

    label: str
    patterns: tuple[str, ...]
    wanted: bool = True

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether *labels* meet it."""
        value = labels.get(self.label, "")
        return any(fnmatch.fnmatchcase(value, pattern) for pattern in self.patterns) is self.wanted


@dataclass(frozen=True, eq=False, kw_only=True)
class Rule:
    """What one series means; see ``mappings/README.md`` for each key."""

    name: str
    mapping: str
    order: int
    metric: Metric | None = None
    scale: float = 1.0
    when: tuple[Condition, ...] = ()
    merge: str = ""
    same: tuple[str, ...] = ()
    part: bool = False
    zero: bool = True
    method: str = ""
    power_scope: str = ""
    event: str = ""
    bits: tuple[tuple[int, Metric], ...] = ()
    unwrap: tuple[float, ...] = ()
    info: bool = False
    must: float | None = None
    drop: str = ""
    blanks: frozenset[float] = frozenset()

    @functools.cached_property
    def scope(self) -> Scope | None:
        """What the value is a property of."""
        if self.metric is not None:
            return self.metric.scope
        return Scope.DEVICE if self.bits or self.event or self.info else None

    @functools.cached_property
    def merging(self) -> str:
        """How several series for one metric of one subject become one value."""
        # A board's counter that every partition repeats was read at slightly different moments: the highest is the
        # newest, and unlike "the first" it cannot fall when the series change their order.
        return self.merge or ("max" if self.metric is not None and self.metric.kind is Kind.COUNTER else "first")

    def applies(self, labels: Mapping[str, str]) -> bool:
        """Whether the series with *labels* is meant."""
        return all(condition.holds(labels) for condition in self.when)


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """A mapping: how it is recognised, where identity stands in the labels, and its rules by name."""

    name: str
    title: str
    version: int
    detect: tuple[str, ...]
    rules: Mapping[str, tuple[Rule, ...]]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Field of a Device, a job or a workload, to the labels it may stand in, the best first."""
    vendor: str = ""
    framework: str = ""
    id_prefix: str = ""
    whole_part: str = ""
    no_partition: tuple[str, ...] = ()
    instant_models: tuple[str, ...] = ()
    prefixed: bool = False
    drops: tuple[tuple[str, str], ...] = ()

    def recognises(self, names: Iterable[str]) -> bool:
        """Whether an exporter with *names* is one that this mapping is for."""
        return any(_recognised(self, name) for name in names)

    def spellings(self, name: str) -> Iterable[str]:
        """The names that *name* may stand for: itself, and what follows each of its words where sites add a prefix."""
        yield name
        if self.prefixed:
            at = name.find("_")
            while at >= 0:
                yield name[at + 1 :]
                at = name.find("_", at + 1)

    def find(self, name: str) -> tuple[Rule, ...]:
        """The rules for *name*; none when the mapping does not know it."""
        return _found(self, name)


# A thousand targets speak the same few hundred names.
@functools.lru_cache(maxsize=1 << 16)
def _recognised(table: Table, name: str) -> bool:
    return any(fnmatch.fnmatchcase(known, pattern) for known in table.spellings(name) for pattern in table.detect)


@functools.lru_cache(maxsize=1 << 16)
def _found(table: Table, name: str) -> tuple[Rule, ...]:
    for spelling in table.spellings(name):
        if found := table.rules.get(spelling):
            return found
    for spelling in table.spellings(name):
        for pattern, reason in table.drops:
            if fnmatch.fnmatchcase(spelling, pattern):
                return (Rule(name=name, mapping=table.name, order=0, drop=reason),)
    return ()


_RULE_KEYS: Final = {
    "to", "scale", "when", "merge", "same", "part", "zero", "method", "power_scope", "event", "bits", "unwrap", "info",
    "must", "drop",
}  # fmt: skip
_TABLE_KEYS: Final = {
    "name", "title", "version", "detect", "blanks", "vendor", "framework", "id_prefix", "whole_part", "no_partition",
    "instant_models", "prefixed", "method", "power_scope", "labels", "metrics", "drop",
}  # fmt: skip
LABEL_FIELDS: Final = {
    "id", "index", "part", "partition", "model", "serial", "bus", "driver_version", "firmware_version", "mode",
    "vendor", "host", "job", "pod", "namespace", "container", "user", "team", "workload", "parent", "meter", "site",
}  # fmt: skip
_MERGES: Final = {"", "first", "max", "mean", "min", "sum", "total"}


def _refuse_unknown(given: Mapping[str, Any], known: set[str], key: str, path: Path) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{key}{name}", f"unknown key; known are {', '.join(sorted(known))}", path=path)


def _metric(column: str, key: str, path: Path) -> Metric:
    scope, dot, rest = column.partition(".")
    try:
        return metric_of(Scope(scope), rest) if dot else metric_of(Scope.DEVICE, column)
    except (KeyError, ValueError) as error:
        raise ConfigError(key, f"no metric has the column {column!r}", path=path) from error


def _conditions(when: Mapping[str, str | list[str]], key: str, path: Path) -> tuple[Condition, ...]:
    conditions = []
    for label, given in when.items():
        patterns = [given] if isinstance(given, str) else list(given)
        negated = [pattern.startswith("!") for pattern in patterns]
        if any(negated) and not all(negated):
            raise ConfigError(f"{key}.when.{label}", "mixes patterns with and without '!'", path=path)
        wanted = not (negated and negated[0])
        conditions.append(
            Condition(label=label, patterns=tuple(pattern.removeprefix("!") for pattern in patterns), wanted=wanted)
        )
    return tuple(conditions)


def _rule(name: str, given: Mapping[str, Any], order: int, table: Mapping[str, Any], path: Path) -> Rule:
    key = f"metrics.{name}"
    _refuse_unknown(given, _RULE_KEYS, f"{key}.", path)
    metric = _metric(given["to"], f"{key}.to", path) if "to" in given else None
    if metric is None and not any(word in given for word in ("bits", "event", "info", "must", "drop")):
        raise ConfigError(key, "says neither 'to' nor what else the series is for", path=path)
    if given.get("merge", "") not in _MERGES:
        raise ConfigError(f"{key}.merge", f"{given['merge']!r} is not one of {sorted(_MERGES - {''})}", path=path)
    power = metric is not None and metric.column == "power_w"
    return Rule(
        name=name,
        mapping=table["name"],
        order=order,
        metric=metric,
        scale=float(given.get("scale", 1.0)),
        when=_conditions(given.get("when", {}), key, path),
        merge=given.get("merge", ""),
        same=tuple(given.get("same", ())),
        part=bool(given.get("part", False)),
        zero=given.get("zero", "") != "absent",
        method=given.get("method", table.get("method", "")) if power else "",
        power_scope=given.get("power_scope", table.get("power_scope", "device")) if power else "",
        event=given.get("event", ""),
        bits=tuple((int(mask, 0), _metric(to, f"{key}.bits", path)) for mask, to in given.get("bits", {}).items()),
        unwrap=tuple(float(limit) for limit in given.get("unwrap", ())),
        info=bool(given.get("info", False)),
        must=given.get("must"),
        drop=given.get("drop", ""),
        blanks=_BLANKS[table.get("blanks", "")],
    )


def load_table(path: Path) -> Table:
    """
    A mapping from its file.

    Raises: ConfigError.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("mapping", f"cannot be read: {error.strerror or error}", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("mapping", f"is not TOML: {error}", path=path) from error
    _refuse_unknown(given, _TABLE_KEYS, "", path)
    for key in ("name", "detect", "metrics"):
        if key not in given:
            raise ConfigError(key, "is missing", path=path)
    if given.get("blanks", "") not in _BLANKS:
        raise ConfigError("blanks", f"{given['blanks']!r} is not one of {sorted(_BLANKS)}", path=path)
    _refuse_unknown(given.get("labels", {}), LABEL_FIELDS, "labels.", path)
    rules: dict[str, tuple[Rule, ...]] = {}
    for order, (name, said) in enumerate(given["metrics"].items()):
        several: Sequence[Mapping[str, Any]] = said if isinstance(said, list) else [said]
        rules[name] = tuple(_rule(name, one, order * 100 + at, given, path) for at, one in enumerate(several))
    return Table(
        name=given["name"],
        title=given.get("title", given["name"]),
        version=int(given.get("version", 1)),
        detect=tuple(given["detect"]),
        rules=rules,
        labels={
            key: (said,) if isinstance(said, str) else tuple(said) for key, said in given.get("labels", {}).items()
        },
        vendor=given.get("vendor", ""),
        framework=given.get("framework", ""),
        id_prefix=given.get("id_prefix", ""),
        whole_part=given.get("whole_part", ""),
        no_partition=tuple(given.get("no_partition", ())),
        instant_models=tuple(given.get("instant_models", ())),
        prefixed=bool(given.get("prefixed", False)),
        drops=tuple(given.get("drop", {}).items()),
    )


@functools.cache
def tables() -> tuple[Table, ...]:
    """Every mapping that comes with perfwatt, in the order in which one name would be asked of them."""
    return (*(load_table(path) for path in sorted(TABLES.glob("*.toml"))), own_table())


def own_table() -> Table:
    """What perfwatt's own agents export, by the catalogue that they export it from; a job may export the same names."""
    name = "perfwatt"
    rules: dict[str, list[Rule]] = {}
    for order, metric in enumerate(CATALOGUE):
        when = tuple(Condition(label=label, patterns=(value,)) for label, value in metric.labels)
        make = functools.partial(Rule, name=metric.prometheus, mapping=name, order=order * 100, metric=metric)
        found = rules.setdefault(metric.prometheus, [])
        if metric.scope is Scope.AGENT:
            found.append(Rule(name=metric.prometheus, mapping=name, order=order * 100, drop="the agent about itself"))
        elif metric is POWER:
            found += [
                make(when=_said(method=method, scope=scope), method=method, power_scope=scope)
                for method in POWER_METHODS
                for scope in POWER_SCOPES
            ]
            found.append(make(power_scope="device"))
        else:
            found.append(make(when=when))
    rules["accel_info"] = [Rule(name="accel_info", mapping=name, order=-1, info=True)]
    alike = ("vendor", "model", "serial", "bus", "driver_version", "firmware_version", "mode", "parent", "partition")
    return Table(
        name=name,
        title="perfwatt's own agents, and jobs that count their work under perfwatt's names",
        version=1,
        # The last are what a training or serving job says of itself, where no agent stands between.
        detect=("accel_info", f"{Scope.AGENT.prefix}_source_up", *(metric.prometheus for metric in _WORK_DONE)),
        rules={metric: tuple(found) for metric, found in rules.items()},
        labels={
            **{label: (label,) for label in (*alike, "host", "workload", "meter", "site")},
            "id": ("device",),
            "index": ("ordinal",),
        },
    )


def _said(**labels: str) -> tuple[Condition, ...]:
    return tuple(Condition(label=label, patterns=(value,)) for label, value in labels.items())


def choose(wanted: str | Sequence[str], *, key: str = "mapping") -> tuple[Table, ...]:
    """
    The mappings that a configuration names: ``auto`` for all that come with perfwatt, a name, or the path of a file.

    Raises: ConfigError.
    """
    chosen: list[Table] = []
    by_name = {table.name: table for table in tables()}
    for word in [wanted] if isinstance(wanted, str) else wanted:
        if word == "auto":
            chosen.extend(tables())
        elif word in by_name:
            chosen.append(by_name[word])
        elif word.endswith(".toml"):
            chosen.append(load_table(Path(word)))
        else:
            raise ConfigError(key, f"{word!r} is neither auto, a file ending in .toml, nor one of {', '.join(by_name)}")
    return tuple(chosen)
