"""Incidents as rows of the table of that name: numbers, and one sentence that says them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from analytics.anomalies.figures import Figure
from analytics.anomalies.findings import Stretch
from analytics.anomalies.incidents import OPEN, RESOLVED, Incident, subjects_text
from analytics.anomalies.places import Places
from analytics.anomalies.rules import Rule, Rules
from analytics.frames import schema
from collector.moments import NS
from collector.store.derived import INCIDENTS

_OTHERS: Final = 2
"""How many further rules a sentence tells of."""


def rows_before(incidents: pl.LazyFrame) -> list[dict[str, Any]]:
    """The last row of each incident, times as nanoseconds."""
    latest = incidents.sort("time").unique("incident", keep="last", maintain_order=True).collect()
    return list(latest.with_columns(pl.col(pl.Datetime("ns")).to_physical()).iter_rows(named=True))


def rows_of(
    incidents: Iterable[Incident], rules: Rules, places: Places, *, start_ns: int, until_ns: int
) -> list[dict[str, Any]]:
    """
    Incidents of a window as rows, without what they cost.

    A row's time is when the incident began, or the window, whichever is later.
    """
    return [_row(one, rules, places, start_ns, until_ns) for one in incidents]


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame of the table's columns."""
    wanted = schema(INCIDENTS)
    times = [name for name, kind in wanted.items() if isinstance(kind, pl.Datetime)]
    physical = pl.Schema({name: pl.Int64() if name in times else kind for name, kind in wanted.items()})
    return pl.DataFrame(list(rows), schema=physical).with_columns(pl.col(times).cast(pl.Datetime("ns")))


def _row(one: Incident, rules: Rules, places: Places, start_ns: int, until_ns: int) -> dict[str, Any]:
    before = one.before or {}
    ordered = one.rules(rules)
    end_ns = one.end_ns(rules, until_ns)
    worst = max(one.stretches, key=lambda s: (s.rule is ordered[0], s.windows), default=None) if ordered else None
    low, mid, high = worst.expected if worst else (None, None, None)
    since_ns = before.get("last") or 0
    fresh = sum(_fresh(stretch, since_ns) for stretch in one.stretches)
    p_values = [p for p in (*(s.p_value for s in one.stretches), before.get("p_value")) if p is not None]
    speaker = ordered[0] if ordered else None
    return {
        "incident": one.id,
        "time": max(start_ns, one.start_ns),
        "scope": one.place.scope,
        "name": one.place.name,
        "host": one.host,
        "site": places.site(one.place),
        "kind": one.kind,
        "severity": speaker.severity if speaker else before.get("severity"),
        "state": OPEN if end_ns is None else RESOLVED,
        "start": one.start_ns,
        "last": one.last_ns,
        "end": end_ns,
        "evidence": _evidence(one, ordered, places, end_ns, until_ns, fresh),
        "rule": " ".join(rule.name for rule in ordered) or before.get("rule"),
        "metric": worst.metric if worst else before.get("metric"),
        "observed": worst.observed if worst else before.get("observed"),
        "expected_low": low if worst else before.get("expected_low"),
        "expected_mid": mid if worst else before.get("expected_mid"),
        "expected_high": high if worst else before.get("expected_high"),
        "p_value": min(p_values, default=None),
        "windows": fresh + (before.get("windows") or 0),
        "flaps": one.flaps,
        "devices": sum(place.scope == "device" for place in one.members),
        "subjects": subjects_text(one.members),
        "part_of": one.into.id if one.into is not None else None,
        "action": speaker.action if speaker else before.get("action"),
        "runbook": next((rule.runbook for rule in ordered if rule.runbook), before.get("runbook")),
    }


def _fresh(stretch: Stretch, since_ns: int) -> int:
    """How many windows or events of a stretch are later than *since_ns*."""
    length_ns = stretch.end_ns - stretch.start_ns
    if stretch.start_ns >= since_ns or length_ns == 0:
        return stretch.windows
    return round(stretch.windows * max(0, stretch.end_ns - since_ns) / length_ns)


# ------------------------------------------------------------------------------------------------------------- evidence


class _Known(dict[str, Any]):
    """What a text can say; what has no value is said to be unknown."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, float):
            return Figure(value)
        return _UNKNOWN if value is None else value


class _Unknown:
    def __format__(self, spec: str) -> str:
        return "an unknown number of"


_UNKNOWN: Final = _Unknown()


def _evidence(
    one: Incident, ordered: Sequence[Rule], places: Places, end_ns: int | None, until_ns: int, fresh: int
) -> str:
    says = {rule.name: text for rule in ordered if (text := _says(one, rule, fresh)) is not None}
    texts = list(says.values())
    if one.before is not None and not (ordered and ordered[0].name in says):
        # Nothing new was seen by the rule that speaks first: what was said holds, with what others add to it.
        told = str(one.before["evidence"]).partition(": ")[2].rpartition(", since ")[0]
        heard = str(one.before["rule"] or "").split()
        texts = [told, *(text for name, text in says.items() if name not in heard)]
    if len(texts) > 1 + _OTHERS:
        more = len(texts) - 1 - _OTHERS
        texts = [*texts[: 1 + _OTHERS], f"and {more} more finding{'s' * (more > 1)}"]
    lasted = _span((until_ns if end_ns is None else end_ns) - one.start_ns)
    since = f"{datetime.fromtimestamp(one.start_ns // NS, UTC):%Y-%m-%d %H:%M} UTC"
    back = f", back {one.flaps} time{'s' * (one.flaps > 1)}" if one.flaps else ""
    part = f"; part of {one.into.id} from then on" if one.into is not None else ""
    so_far = " so far" if end_ns is None else ""
    return f"{_subject(one, places)}: {'; '.join(texts)}, since {since}, for {lasted}{so_far}{back}{part}"


def _says(one: Incident, rule: Rule, fresh: int) -> str | None:
    """What a rule says of an incident: of its longest stretch, with everything that it counted."""
    mine = [stretch for stretch in one.stretches if stretch.rule is rule]
    if not mine:
        return None
    longest = max(mine, key=lambda stretch: stretch.windows)
    told = dict(longest.says)
    if "count" in told:
        told["count"] = sum(s.says["count"] for s in mine)
        if one.before is not None and one.before["rule"] == rule.name:
            told["count"] = (one.before["windows"] or 0) + fresh  # with those of the windows before
        told["codes"] = ", ".join(sorted({code for s in mine for code in str(s.says["codes"]).split(", ")}))
    return rule.says.format_map(_Known(told))


def _subject(one: Incident, places: Places) -> str:
    place = one.place
    if place.scope == "device":
        return f"{place.name} on {one.host}" if one.host else place.name
    below = places.inside(place)
    affected = {child for member in one.members for child in places.chain(member) & below}
    if not affected:
        return f"{_NOUNS.get(place.scope, place.scope)} {place.name}"
    scopes = {child.scope for child in below}
    noun = _NOUNS[scopes.pop()] + "s" if len(scopes) == 1 else "parts"
    return f"{len(affected)} of {len(below)} {noun} of {_NOUNS[place.scope]} {place.name}"


_NOUNS: Final = {
    "device": "device",
    "host": "host",
    "rack": "rack",
    "domain": "power domain",
    "site": "site",
    "workload": "workload",
}


def _span(length_ns: int) -> str:
    """A length of time as people say it: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    seconds = max(0, length_ns) // NS
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
