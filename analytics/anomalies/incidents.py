"""
Incidents: stretches of one kind and place put together, each once, whatever found it.

* What comes back within the quiet time of its rule is the same incident going on; what comes back a little later is the
  same incident coming back, and must then stay away twice as long before it is resolved. So nothing flaps.
* Where most of what belongs together has the same at the same time, the incident is of that: of a host instead of its
  devices, of a rack, a power domain, a site. It keeps the id of the one that began.
* An id depends on kind, place, day and how many there were before that day; computing it again changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Any, Final
from urllib.parse import quote, unquote

from analytics.anomalies.findings import Standing, Stretch
from analytics.anomalies.places import SCOPES, TOGETHER, Place, Places
from analytics.anomalies.rules import SEVERITIES, Rule, Rules
from collector.moments import NS

OPEN: Final = "open"
RESOLVED: Final = "resolved"
_MOST_DOUBLINGS: Final = 3
# What began further apart than this began for another reason.
_LINKED_NS: Final = 3600 * NS


@dataclass(kw_only=True, eq=False)
class Incident:
    """
    Something that is wrong with a place from `start_ns` to `last_ns`.

    `confirmed_ns` is when it had lasted long enough; None: it has not yet. `before` is its row of the window before, if
    it goes on from there. `into` is the incident that took it in, at `taken_ns`.
    """

    kind: str
    place: Place
    host: str | None
    start_ns: int
    last_ns: int
    id: str = ""
    confirmed_ns: int | None = None
    ongoing: bool = False
    flaps: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    members: set[Place] = field(default_factory=set)
    before: Mapping[str, Any] | None = None
    into: "Incident | None" = None
    taken_ns: int | None = None

    def rules(self, known: Rules) -> list[Rule]:
        """The rules that found it, the one that speaks first: of the worst severity, in the order of the rules."""
        told = {stretch.rule.name: stretch.rule for stretch in self.stretches}
        for name in str((self.before or {}).get("rule") or "").split():
            rule = known.named(name)
            if rule is not None:
                told.setdefault(name, rule)
        order = {rule.name: at for at, rule in enumerate(known.rules)}
        return sorted(told.values(), key=lambda rule: (SEVERITIES.index(rule.severity), order.get(rule.name, 0)))

    def quiet_ns(self, known: Rules) -> int:
        """How long it must be away to be over: longer each time that it came back."""
        longest = max((rule.quiet_ns for rule in self.rules(known)), default=0)
        return int(longest * 2 ** min(self.flaps, _MOST_DOUBLINGS))

    def again_ns(self, known: Rules) -> int:
        """How long after it was last seen it is the same, come back."""
        return max([self.quiet_ns(known), *(rule.again_ns for rule in self.rules(known))])

    def take(self, stretch: Stretch, known: Rules) -> None:
        """Let *stretch*, which begins no earlier than those before it, be part of it."""
        if self.stretches or self.before is not None:
            self.flaps += stretch.start_ns - self.last_ns > self.quiet_ns(known)
        self.stretches.append(stretch)
        self.members.add(Place(stretch.scope, stretch.name))
        self.host = self.host or stretch.host
        self.last_ns = max(self.last_ns, stretch.end_ns)
        self.ongoing = self.ongoing or stretch.ongoing
        if stretch.enough_ns is not None:
            self.confirmed_ns = min(stretch.enough_ns, self.confirmed_ns or stretch.enough_ns)

    def end_ns(self, known: Rules, until_ns: int) -> int | None:
        """When it was over; None while it is open at *until_ns*."""
        if self.taken_ns is not None:
            return self.taken_ns
        return None if self.ongoing or until_ns - self.last_ns < self.quiet_ns(known) else self.last_ns


def subjects_of(row: Mapping[str, Any]) -> list[Place]:
    """The affected that a row of incidents names."""
    pairs = (text.partition(":") for text in str(row["subjects"] or "").split())
    return [Place(scope, unquote(name)) for scope, _, name in pairs]


def subjects_text(places: Iterable[Place]) -> str:
    """The affected as a row names them: scope and name, separated by blanks."""
    return " ".join(f"{place.scope}:{quote(place.name, safe='/:+@')}" for place in sorted(places))


def standing(rows: Iterable[Mapping[str, Any]]) -> list[Standing]:
    """Whom open incidents of the window before are about, for rules that wait for an end."""
    return [
        Standing(
            rules=frozenset(str(row["rule"] or "").split()),
            scope=place.scope,
            name=place.name,
            host=row["host"],
            start_ns=row["start"],
            last_ns=row["last"],
        )
        for row in rows
        if row["state"] == OPEN
        for place in subjects_of(row)
    ]


def build(
    stretches: Sequence[Stretch],
    rules: Rules,
    places: Places,
    *,
    before: Iterable[Mapping[str, Any]] = (),
    start_ns: int,
) -> list[Incident]:
    """
    The incidents of a window from *start_ns* on of which there is something to tell, those taken in included.

    In:  stretches by their start, also from before the window where they reach into it or may not have lasted long
         enough then; before: the last row of each incident so far, as `analytics.anomalies.rows` gives them.
    """
    found: list[Incident] = []
    old = [_from(row) for row in before if not row["part_of"]]
    kinds = sorted({stretch.rule.kind for stretch in stretches} | {incident.kind for incident in old})
    for kind in kinds:
        of_kind = [stretch for stretch in stretches if stretch.rule.kind == kind]
        narrow = _gathered(of_kind, rules, places, [one for one in old if one.kind == kind], start_ns)
        _name(narrow, start_ns)
        found += _widened(narrow, rules, places)
    return [one for one in found if _is_news(one)]


def _from(row: Mapping[str, Any]) -> Incident:
    return Incident(
        id=row["incident"],
        kind=row["kind"],
        place=Place(row["scope"], row["name"]),
        host=row["host"],
        start_ns=row["start"],
        last_ns=row["last"],
        confirmed_ns=row["start"],
        flaps=row["flaps"] or 0,
        members=set(subjects_of(row)),
        before=row,
    )


def _gathered(
    stretches: Sequence[Stretch], rules: Rules, places: Places, old: Sequence[Incident], start_ns: int
) -> list[Incident]:
    """Stretches of one kind as incidents of their own place, or of a wider one that is open and has that place."""
    subjects = {Place(stretch.scope, stretch.name) for stretch in stretches}
    wide = [one for one in old if one.place not in subjects and one.place.scope in SCOPES[1:]]
    latest: dict[Place, Incident] = {}
    for one in sorted(old, key=lambda incident: incident.last_ns):
        latest[one.place] = one
    incidents = list(old)
    for stretch in stretches:
        subject = Place(stretch.scope, stretch.name)
        chain = places.chain(subject)
        known = next((one for one in wide if _holds(one, chain) and _reaches(one, stretch, rules)), None)
        known = known or latest.get(subject)
        if known is not None and known.before is not None and stretch.end_ns <= known.before["last"]:
            continue  # it was counted in the window before
        if known is None or stretch.start_ns - known.last_ns > known.again_ns(rules):
            known = Incident(
                kind=stretch.rule.kind,
                place=subject,
                host=stretch.host,
                start_ns=stretch.start_ns,
                last_ns=stretch.end_ns,
            )
            latest[subject] = known
            incidents.append(known)
        known.take(stretch, rules)
    # What ended before the window without having lasted, or belongs to an earlier one, is no news.
    return [one for one in incidents if one.confirmed_ns is not None and (one.before or one.last_ns >= start_ns)]


def _holds(incident: Incident, chain: frozenset[Place]) -> bool:
    return all(place in chain for place in incident.place.parts())


def _reaches(incident: Incident, stretch: Stretch, rules: Rules) -> bool:
    return stretch.start_ns - incident.last_ns <= incident.quiet_ns(rules)


def _name(incidents: Iterable[Incident], start_ns: int) -> None:
    """Give those that are new an id: by kind, place, the window's start and their number within it."""
    count: dict[Place, int] = {}
    for one in sorted(incidents, key=lambda incident: incident.start_ns):
        if not one.id:
            number = count.get(one.place, 0)
            count[one.place] = number + 1
            text = f"{one.kind}|{one.place.scope}|{one.place.name}|{start_ns}|{number}"
            one.id = f"i{blake2b(text.encode(), digest_size=6).hexdigest()}"


# ------------------------------------------------------------------------------------------------------------- widening


def _widened(incidents: list[Incident], rules: Rules, places: Places) -> list[Incident]:
    """Those of one kind, where most of what belongs together has it as one of that; level by level."""
    final: list[Incident] = []
    for scope in SCOPES:
        # A domain may hang from a domain, so what is found there is looked at once more.
        while level := [one for one in incidents if one.place.scope == scope]:
            incidents = [one for one in incidents if one.place.scope != scope]
            raised, rest = _raised(level, rules, places)
            final += rest
            incidents += raised
    return final + incidents


def _raised(level: Sequence[Incident], rules: Rules, places: Places) -> tuple[list[Incident], list[Incident]]:
    """Incidents of wider places, and those that stay, taken in ones included."""
    by_parent: dict[Place, list[Incident]] = {}
    for one in level:
        if TOGETHER in one.place.name or not all(rule.widens for rule in one.rules(rules)):
            continue
        for parent in places.above(one.place):
            by_parent.setdefault(parent, []).append(one)
    raised: list[Incident] = []
    left = set(level)
    found = [
        (share, parent, group)
        for parent, children in by_parent.items()
        for share, group in _common(children, len(places.inside(parent)), rules)
    ]
    # Where several power domains would do, the one with most of its own counts; a tie cannot be told apart.
    for share, parent, group in sorted(found, key=lambda one: (-one[0], one[1])):
        if not set(group.members) <= left:
            continue
        same = [p.name for s, p, g in found if s == share and set(g.members) == set(group.members)]
        place = Place(parent.scope, TOGETHER.join(sorted(set(same)))) if parent.scope == "domain" else parent
        raised.append(_wide(place, group))
        left -= set(group.members)
    taken = [one for one in level if one.into is not None and one.id != one.into.id]
    return raised, [*(one for one in level if one in left), *taken]


@dataclass(frozen=True, slots=True)
class _Group:
    """Incidents that most of one place had at the same moment, and those that followed while it lasted."""

    members: tuple[Incident, ...]
    since_ns: int


def _common(children: Sequence[Incident], siblings: int, rules: Rules) -> list[tuple[float, _Group]]:
    """The groups among *children* of one place with *siblings* in it, each with the share of it that is affected."""
    # One that is quiet is there until it has been so for long enough.
    ends = {one: inf if one.ongoing else float(one.last_ns + one.quiet_ns(rules)) for one in children}
    begins = {one: one.confirmed_ns or one.start_ns for one in children}
    found: list[tuple[float, _Group]] = []
    left = sorted(children, key=lambda one: begins[one])
    for moment_ns in sorted(set(begins.values())):
        active = [one for one in left if begins[one] <= moment_ns < ends[one]]
        together = _linked(active)
        # One that had it long before has a story of its own, and is none of those that could get it now.
        count, others = len({one.place for one in together}), siblings - len(active) + len(together)
        if count < 2 or 2 * count <= others:
            continue
        end_ns = max(ends[one] for one in together)
        for one in left:
            if one not in active and moment_ns <= begins[one] <= end_ns:
                together.append(one)
                end_ns = max(end_ns, ends[one])
        share = len({one.place for one in together}) / siblings
        found.append((share, _Group(tuple(together), moment_ns)))
        left = [one for one in left if one not in together]
    return found


def _linked(active: Sequence[Incident]) -> list[Incident]:
    """The last to begin of *active*, and those before that began within an hour of one another."""
    found: list[Incident] = []
    for one in sorted(active, key=lambda one: one.start_ns, reverse=True):
        if found and found[-1].start_ns - one.start_ns > _LINKED_NS:
            break
        found.append(one)
    return found


def _wide(place: Place, group: _Group) -> Incident:
    """One incident of *place* in the stead of a group; it is the earliest of them, grown."""
    first = min(group.members, key=lambda one: (one.start_ns, one.place))
    hosts = {one.host for one in group.members}
    wide = Incident(
        id=first.id,
        kind=first.kind,
        place=place,
        host=place.name if place.scope == "host" else hosts.pop() if len(hosts) == 1 else None,
        start_ns=first.start_ns,
        last_ns=max(one.last_ns for one in group.members),
        confirmed_ns=group.since_ns,
        ongoing=any(one.ongoing for one in group.members),
        flaps=max(one.flaps for one in group.members),
        stretches=[stretch for one in group.members for stretch in one.stretches],
        members={member for one in group.members for member in one.members},
        before=first.before,
    )
    for one in group.members:
        one.into, one.taken_ns = wide, group.since_ns
    return wide


def _is_news(incident: Incident) -> bool:
    """Whether a window has to tell of an incident: it was seen in it, or was open and is no longer."""
    if incident.into is not None:
        # One that was never told of needs no end.
        told = incident.before is not None and incident.before["state"] == OPEN
        return told or (incident.confirmed_ns or 0) < (incident.taken_ns or 0)
    if incident.stretches:
        return True
    return incident.before is not None and incident.before["state"] == OPEN
