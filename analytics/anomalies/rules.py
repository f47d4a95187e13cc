"""
What to raise incidents for: the rules that perfwatt comes with (rules.toml here), and those of a user's file over them.

What each key means is told at the top of that file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any, Final, Literal, TypeVar

from analytics.anomalies.figures import Figure
from analytics.tables import Keys, read_toml
from collector.errors import ConfigError
from collector.moments import NS, parse_span
from collector.store.derived import HEADROOM
from collector.store.schema import DEVICE_ROLLUPS

Severity = Literal["critical", "warning", "info"]
Waste = Literal["all", "excess", "slow"]

SEVERITIES: Final = ("critical", "warning", "info")
"""From the one that asks most of a person to the one that asks least."""
WASTES: Final = ("all", "excess", "slow")
WINDOWS_S: Final = {"5m": 300, "1h": 3600}
"""The windows that scores are of, as rules name them."""
LONGEST_FOR_S: Final = 6 * 3600.0
"""How long a condition may have to hold: no further does a job look back for what is pending."""
LONGEST_QUIET_S: Final = 7 * 86_400.0

_COLUMNS: Final = frozenset({"tdp_w", *(column.name for column in DEVICE_ROLLUPS if column.type == "DOUBLE")})
NODE_DAYS: Final = {"runway_p10_days": "runway_p10", "runway_p50_days": "runway_p50", "order_days": "order_by"}
"""What rules know of a node's dates: how many days are left, by column of headroom."""
NODE_KW: Final = {
    "load_kw": "load_w", "derated_kw": "derated_w", "failure_load_kw": "failure_load_w", "safe_kw": "safe_w",
    "headroom_kw": "headroom_w",
}  # fmt: skip
"""Kilowatts that a text can say, by column of headroom."""
NODE_WORDS: Final = ("worst_failure", "binding")
_NODE_COLUMNS: Final = frozenset(
    {*NODE_DAYS, *(column.name for column in HEADROOM if column.type in {"DOUBLE", "BIGINT"})}
)
_VALUE: Final = re.compile(r"(?P<left>\w+)(?: (?P<sign>[/-]) (?P<right>\w+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A column of device_rollups, or one over or less another."""

    left: str
    sign: str | None = None
    right: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What every rule says. Of several rules that tell of one incident the first of the worst severity speaks."""

    name: str
    kind: str
    severity: Severity
    says: str
    action: str
    for_ns: int = 0
    quiet_ns: int = 0
    again_ns: int = 0
    enabled: bool = True
    widens: bool = True
    waste: Waste | None = None
    runbook: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule(Rule):
    """
    A kind of event, at its moment or until an event `until`.

    Only with one of `codes`, where there are any; with `other_codes` only with one that no other rule has.
    """

    event: str
    codes: frozenset[str] = frozenset()
    other_codes: bool = False
    until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdRule(Rule):
    """A value (the first that was measured) beyond a limit, and until it is within another; `shows` is told with it."""

    values: tuple[Value, ...]
    above: bool
    raise_limit: float
    clear_limit: float
    shows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadroomRule(Rule):
    """A value of a node's headroom or runway beyond a limit, and until it is within another."""

    values: tuple[Value, ...]
    above: bool
    raise_limit: float
    clear_limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRule(Rule):
    """A device that was read within the last day and is not for `after_ns`; after `forget_ns` it counts as removed."""

    after_ns: int
    forget_ns: int
    except_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRule(Rule):
    """A p-value below a limit, of a deviation to one side, of at least a share of what was expected and an amount."""

    metric: str
    high: bool
    p_below: float
    detectors: tuple[str, ...] = ()
    least_ratio: float = 0.0
    least: float = 0.0
    window_s: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class StalledRule(Rule):
    """A workload that made something and makes nothing any more, though it is asked to, if it answers requests."""


_R = TypeVar("_R", bound=Rule)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that are enabled, in order."""

    rules: tuple[Rule, ...]

    def of(self, sort: type[_R]) -> list[_R]:
        """The rules of one sort."""
        return [rule for rule in self.rules if isinstance(rule, sort)]

    def named(self, name: str) -> Rule | None:
        """The rule called *name*; None: there is none, or it is not enabled."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Rule]:
        return {rule.name: rule for rule in self.rules}


def parse_rules(text: str = "", *, path: Path | str | None = None) -> Rules:
    """
    The built-in rules with those of *text* over them: a rule of a known name changes the keys that it has.

    Raises: ConfigError naming file, rule, key, value and limit: no TOML, an unknown key, a wrong type, a value out of
    range, a text with a field that there is not.
    """
    known = {name: (sort, Keys(table, f"{sort} {name}", "built-in rules")) for name, (sort, table) in _built_in()}
    told: set[str] = set()
    for sort, keys in _read(text, path):
        name = _name(sort, keys)
        if name in told:
            raise keys.wrong("name", f"is {name!r}, as another rule's")
        told.add(name)
        if name in known:
            before, built_in = known[name]
            if before != sort:
                raise keys.wrong("name", f"is {name!r}, which is a [[{before}]]")
            keys.left = {**built_in.left, **keys.left}
        known[name] = (sort, keys)
    rules = [_rule(sort, name, keys) for name, (sort, keys) in known.items()]
    return Rules(rules=tuple(rule for rule in rules if rule.enabled))


@lru_cache(maxsize=1)
def _built_in() -> tuple[tuple[str, tuple[str, dict[str, Any]]], ...]:
    text = files("analytics.anomalies").joinpath("rules.toml").read_text(encoding="utf-8")
    return tuple((_name(sort, keys), (sort, keys.left)) for sort, keys in _read(text, "built-in rules"))


def _read(text: str, path: Path | str | None) -> list[tuple[str, Keys]]:
    content = read_toml(text, "rules.toml", path=path)
    tables = [(sort, keys) for sort in _SORTS for keys in content.tables(sort)]
    content.end()
    return tables


def _name(sort: str, keys: Keys) -> str:
    """What a rule is called; an XID by its code."""
    if sort != "xid":
        return str(keys.needed("name", keys.text("name")))
    return f"xid_{keys.needed('code', keys.whole('code', low=1, high=100_000))}"


def _rule(sort: str, name: str, keys: Keys) -> Rule:
    kind, says, fields = _SORTS[sort]
    common = {
        "name": name,
        "kind": keys.text("kind") or name,
        "severity": keys.needed("severity", keys.one_of("severity", SEVERITIES)),
        "says": keys.needed("says", keys.text("says")),
        "action": keys.needed("action", keys.text("action")),
        "for_ns": _span(keys, "for", most_s=LONGEST_FOR_S) or 0,
        "quiet_ns": _span(keys, "quiet", most_s=LONGEST_QUIET_S) or 0,
        "again_ns": _span(keys, "again", most_s=LONGEST_QUIET_S) or 0,
        "enabled": _flag(keys, "enabled", default=True),
        "widens": _flag(keys, "widens", default=True),
        "waste": keys.one_of("waste", WASTES),
        "runbook": keys.text("runbook"),
    }
    own = says(keys, name)
    keys.end()
    shown = own.get("shows", ())
    _check_text(keys, common["says"], {**fields, **dict.fromkeys(shown, 1.5)})
    return kind(**common, **own)


def _missing(keys: Keys, _: str) -> dict[str, Any]:
    after_ns = _span(keys, "after", least_s=300.0) or 600 * NS
    return {
        "after_ns": after_ns,
        "forget_ns": _span(keys, "forget", least_s=after_ns / NS) or 259_200 * NS,
        "except_sources": keys.texts("except_sources", "sources or patterns of them"),
    }


def _event(keys: Keys, _: str) -> dict[str, Any]:
    return {
        "event": keys.needed("event", keys.text("event")),
        "codes": frozenset(keys.texts("codes", "codes, as texts")),
        "other_codes": _flag(keys, "other_codes", default=False),
        "until": keys.text("until"),
    }


def _xid(_: Keys, name: str) -> dict[str, Any]:
    return {"event": "xid", "codes": frozenset({name.removeprefix("xid_")})}


def _threshold(keys: Keys, _: str) -> dict[str, Any]:
    shows = keys.texts("shows", "columns")
    for column in shows:
        _column(keys, "shows", column, _COLUMNS, "device_rollups")
    return {**_limits(keys, _COLUMNS, "device_rollups"), "shows": shows}


def _headroom(keys: Keys, _: str) -> dict[str, Any]:
    return _limits(keys, _NODE_COLUMNS, "headroom")


def _limits(keys: Keys, columns: frozenset[str], table: str) -> dict[str, Any]:
    """What is looked at, where it begins, and where it ends."""
    values = tuple(_value(keys, text, columns, table) for text in keys.texts("value", "columns", or_one=True))
    if not values:
        raise keys.wrong("value", "is missing")
    raised = {key: keys.number(key, low=None) for key in ("raise_above", "raise_below")}
    cleared = {key: keys.number(key, low=None) for key in ("clear_below", "clear_above")}
    above = raised["raise_above"] is not None
    if above == (raised["raise_below"] is not None):
        raise keys.wrong(
            "raise_above", "and raise_below are both there" if above else "is missing, and raise_below too"
        )
    limit, clear, other = (
        (raised["raise_above"], cleared["clear_below"], "clear_above")
        if above
        else (raised["raise_below"], cleared["clear_above"], "clear_below")
    )
    assert limit is not None
    if cleared[other] is not None:
        raise keys.wrong(other, f"does not go with raise_{'above' if above else 'below'}")
    clear = limit if clear is None else clear
    if clear > limit if above else clear < limit:
        key, word = ("clear_below", "above") if above else ("clear_above", "below")
        raise keys.wrong(key, f"is {clear:g}, {word} {limit:g}, where it begins: it would end before it begins")
    return {"values": values, "above": above, "raise_limit": limit, "clear_limit": clear}


def _value(keys: Keys, text: str, columns: frozenset[str], table: str) -> Value:
    found = _VALUE.fullmatch(text)
    if found is None:
        raise keys.wrong("value", f"is {text!r}; write a column, 'a / b' or 'a - b'")
    for column in (found["left"], found["right"]):
        if column is not None:
            _column(keys, "value", column, columns, table)
    return Value(left=found["left"], sign=found["sign"], right=found["right"])


def _column(keys: Keys, key: str, column: str, columns: frozenset[str], table: str) -> None:
    if column not in columns:
        near = get_close_matches(column, columns, n=3)
        hint = f"; there are {', '.join(near)}" if near else ""
        raise keys.wrong(key, f"has {column!r}, which is no column of numbers of {table}{hint}")


def _score(keys: Keys, _: str) -> dict[str, Any]:
    return {
        "metric": keys.needed("metric", keys.text("metric")),
        "high": keys.needed("side", keys.one_of("side", ("high", "low"))) == "high",
        "p_below": keys.needed("p_below", keys.number("p_below", high=1.0)),
        "detectors": keys.texts("detectors", "detectors"),
        "least_ratio": keys.number("least_ratio") or 0.0,
        "least": keys.number("least") or 0.0,
        "window_s": WINDOWS_S[keys.one_of("window", tuple(WINDOWS_S)) or "5m"],
    }


def _stalled(_: Keys, __: str) -> dict[str, Any]:
    return {}


_COUNTED: Final = {"count": 2, "code": "79", "codes": "79, 94", "message": "words"}
_SORTS: Final[dict[str, tuple[type[Rule], Callable[[Keys, str], dict[str, Any]], Mapping[str, object]]]] = {
    "xid": (EventRule, _xid, _COUNTED),
    "event": (EventRule, _event, _COUNTED),
    "threshold": (ThresholdRule, _threshold, dict.fromkeys(("value", "mean", "sum", "limit"), 1.5)),
    "headroom": (
        HeadroomRule,
        _headroom,
        {**dict.fromkeys(("value", "limit", "beyond", *NODE_KW), 1.5), **dict.fromkeys(NODE_WORDS, "words")},
    ),
    "score": (ScoreRule, _score, dict.fromkeys(("observed", "expected", "low", "high", "p"), 1.5)),
    "stalled": (StalledRule, _stalled, {"what": "tokens", "before": 1.5, "waits": ""}),
    "missing": (MissingRule, _missing, {"stalls": ""}),
}
"""The sorts of rules, in the order in which they speak: what they are, their own keys, and what their text can say."""


def _span(keys: Keys, key: str, *, least_s: float = 0.0, most_s: float | None = None) -> int | None:
    text = keys.text(key)
    if text is None:
        return None
    try:
        span_ns = parse_span(text, option=key)
    except ConfigError as error:
        raise keys.wrong(key, f"is {text!r}; write 90s, 15m, 1h30m, 7d or 2w") from error
    if span_ns < least_s * NS:
        raise keys.wrong(key, f"is {text!r}, shorter than the least of {least_s:g} s")
    if most_s is not None and span_ns > most_s * NS:
        raise keys.wrong(key, f"is {text!r}, longer than the most of {most_s / 3600:g} h")
    return span_ns


def _flag(keys: Keys, key: str, *, default: bool) -> bool:
    value = keys.take(key)
    if value is not None and not isinstance(value, bool):
        raise keys.wrong(key, f"is {value!r}, not true or false")
    return default if value is None else value


def _check_text(keys: Keys, text: str, fields: Mapping[str, object]) -> None:
    """A text with a field that there is not is found when it is read, not in the night when it is needed."""
    try:
        named = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
        unknown = [name for name in named if name not in fields]
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in fields) or "none"
            raise keys.wrong("says", f"has {{{unknown[0]}}}; there are {known}")
        text.format(**{name: Figure(value) if isinstance(value, float) else value for name, value in fields.items()})
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise keys.wrong("says", f"is {text!r}: {error}") from error
