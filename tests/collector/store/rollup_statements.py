"""
Rollups as statements of SQL: slower than `collector.store.windows` and written another way, to hold that against.

A *step* is the time from one reading of a series to the next. What flows (energy, seconds, bytes, a workload's tokens)
belongs to the step and is shared by time where the step crosses the edge of a window; what happens (an error) and what
is read (a temperature) belongs to the reading, one on an edge being of the window before. These are the rules of
`analytics.steps` and `analytics.cells`, so that rollups and raw readings give the same figures.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from collector.catalogue import ENERGY, POWER, Kind, Scope
from collector.gaps import FEW_INTERVALS, GAP_PERIODS, GAP_S, LONGEST_GAP_S, MAX_COUNTER_GAP_S
from collector.store.schema import ENERGY_SUMS, ROLLUP_TABLES, SKETCHED, SKETCHED_FINEST, STATISTICS, rollup_column
from collector.store.sketch import bin_of
from collector.store.sql import quoted, read_segments, typed_rows
from collector.store.store import Store
from collector.store.table import Column, Table
from collector.store.views import groups
from collector.units import COUNT

WINDOWS_S = (300, 3600)

_NS = 10**9
_FINEST_NS = WINDOWS_S[0] * _NS
_HOUR_NS = 3600 * _NS
_SHARED_NS = round(MAX_COUNTER_GAP_S * _NS)
_MOST_W = POWER.high or 50_000.0
# Finer than any meter, and coarse enough to be stored as decimals.
_DIGITS = 6


@dataclass(frozen=True)
class Plan:
    """
    What there is of a table of samples in a stretch of time.

    columns: those with a value. whole: those of them that every row has. inside, earlier, later: the rows of the
    stretch, both ends included, those of a day before it and of an hour after it, as selects.
    """

    samples: Table
    columns: frozenset[str]
    whole: frozenset[str]
    start_ns: int
    end_ns: int
    inside: str
    earlier: str | None
    later: str | None

    @cached_property
    def rollups(self) -> Table:
        """The table that is written."""
        return ROLLUP_TABLES[self.samples.name]

    @cached_property
    def series(self) -> str:
        """What tells one series from another."""
        return f"{quoted(self.samples.keys[0])}, source"

    @cached_property
    def words(self) -> list[str]:
        """The columns of text that a window has."""
        return [
            quoted(column.name)
            for column in self.samples
            if column.type == "VARCHAR" and column.name in self.rollups.names and column.name not in self.samples.keys
        ]

    def measured(self, kind: Kind) -> list[Column]:
        """The columns of metrics of a kind."""
        return [c for c in self.samples if c.metric is not None and c.metric.kind is kind and c.name in self.columns]

    @cached_property
    def flows(self) -> list[Column]:
        """Counters of what flows. A device's counts are of events, which are whole."""
        return [column for column in self.measured(Kind.COUNTER) if column.name != ENERGY.column and _flows(column)]

    @cached_property
    def events(self) -> list[Column]:
        """Counters of what happens."""
        return [column for column in self.measured(Kind.COUNTER) if not _flows(column)]

    @cached_property
    def sketched(self) -> list[Column]:
        """The gauges that have a sketch."""
        return [column for column in self.measured(Kind.GAUGE) if column.metric in SKETCHED]

    @cached_property
    def energy(self) -> bool:
        """Whether there is energy to tell."""
        return self.samples.name == "device_samples"

    # -------------------------------------------------------------------------------------------------------- the text

    def statement(self) -> str:
        """The windows that begin in the stretch."""
        return (
            f"WITH rows AS ({self._rows()}), steps AS MATERIALIZED ({self._steps()}), gaps AS ({self._gaps()}), "
            f"amounts AS ({self._amounts()}), cut AS ({self._cut()}), parts AS ({self._parts()}), "
            f"sums AS ({self._sums()}) "
            f"SELECT {self._given()} FROM ({self._readings()} UNION ALL BY NAME {self._flowed()}) GROUP BY ALL"
        )

    @cached_property
    def _paired(self) -> list[str]:
        """The columns whose readings around a step matter."""
        names = [column.name for column in self.flows]
        if self.energy:
            names += [name for name in (POWER.column, ENERGY.column) if name in self.columns]
        return names

    def _rows(self) -> str:
        """The readings of the stretch; of each series the last one before; and those after."""
        gauges = [quoted(column.name) for column in self.measured(Kind.GAUGE)]
        carried = [*self._paired, *(column.name for column in self.events)]
        partial = [name for name in self._paired if name not in self.whole]
        own = [f"CASE WHEN {quoted(name)} IS NOT NULL THEN time END AS {_called(name, 'time')}" for name in partial]
        names = list(dict.fromkeys([*self.words, *map(quoted, carried)]))
        rows = (
            f"SELECT time, {self.series}, true AS inside{_more(dict.fromkeys([*names, *gauges]))}{_more(own)} "
            f"FROM ({self.inside})"
        )
        if self.earlier is not None:
            values = [f"arg_max({name}, time) AS {name}" for name in names]
            values += [f"max(time) FILTER ({quoted(n)} IS NOT NULL) AS {_called(n, 'time')}" for n in partial]
            rows += (
                f" UNION ALL BY NAME SELECT {self.series}, max(time) AS time, false AS inside{_more(values)} "
                f"FROM ({self.earlier}) GROUP BY {self.series}"
            )
        if self.later is not None:
            rows += (
                f" UNION ALL BY NAME SELECT time, {self.series}, false AS inside{_more(names)}{_more(own)} "
                f"FROM ({self.later})"
            )
        return rows

    def _steps(self) -> str:
        """Each reading with the one before it, and the readings of each column around the step between the two."""
        pairs = [self._pair(name) for name in self._paired]
        rises = [
            f"{_increase(name, f'lag({name} IGNORE NULLS) OVER series')} AS {_called(c.name, 'rise')}"
            for c in self.events
            for name in [quoted(c.name)]
        ]
        before = "epoch_ns(lag(time) OVER series) AS before_ns"
        return (
            f"SELECT *, epoch_ns(time) AS at_ns, {before}{_more(pairs)}{_more(rises)} FROM rows "
            f"WINDOW series AS (PARTITION BY {self.series} ORDER BY time)"
        )

    def _pair(self, column: str) -> str:
        """The readings of a column around a step: values, and times where they are not those of the step."""
        name, (first, last, first_ns, last_ns) = quoted(column), self._ends(column)
        if column in self.whole:
            return f"lag({name}) OVER series AS {first}, {name} AS {last}"
        time = _called(column, "time")
        return (
            f"lag({name} IGNORE NULLS) OVER series AS {first}, "
            f"coalesce({name}, lead({name} IGNORE NULLS) OVER series) AS {last}, "
            f"epoch_ns(lag({time} IGNORE NULLS) OVER series) AS {first_ns}, "
            f"epoch_ns(coalesce({time}, lead({time} IGNORE NULLS) OVER series)) AS {last_ns}"
        )

    def _ends(self, column: str) -> tuple[str, str, str, str]:
        """A column's readings around a step and their times (ns), as `_steps` calls them."""
        first, last = _called(column, "first"), _called(column, "last")
        if column in self.whole:
            return first, last, "before_ns", "at_ns"
        return first, last, _called(column, "first ns"), _called(column, "last ns")

    def _gaps(self) -> str:
        """What counts as a gap in each hour of each series: between readings, and between readings of power."""
        # An hour is judged by its own readings, so that it is the same whatever it is rolled up with.
        hour = f"(at_ns - 1) // {_HOUR_NS}"
        rows = _gap(f"CASE WHEN inside AND before_ns >= {hour} * {_HOUR_NS} THEN at_ns - before_ns END")
        power = str(GAP_S)
        if POWER.column in self._paired:
            first_ns = self._ends(POWER.column)[2]
            read = f"inside AND {quoted(POWER.column)} IS NOT NULL AND {first_ns} >= {hour} * {_HOUR_NS}"
            power = _gap(f"CASE WHEN {read} THEN at_ns - {first_ns} END")
        return (
            f"SELECT {self.series}, {hour} AS hour, {rows} AS gap_s, {power} AS max_gap_s FROM steps "
            f"GROUP BY {self.series}, hour"
        )

    def _amounts(self) -> str:
        """What each step has in each hour that it is in."""
        flows = [f"{self._flow(column.name)} AS {_called(column.name, 'rise')}" for column in self.flows]
        subject = quoted(self.samples.keys[0])
        same = " AND ".join(f"s.{name} IS NOT DISTINCT FROM g.{name}" for name in (subject, "source", "hour"))
        seconds = "(at_ns - before_ns) / 1e9"
        base = (
            f"SELECT s.{subject}, s.source, s.hour, at_ns, before_ns, max_gap_s, "
            f"at_ns - before_ns AS apart_ns{_more(self.words)}, "
            f"CASE WHEN {seconds} <= gap_s THEN {seconds} ELSE 0 END AS covered_s{_more(flows)}"
            f"{_more(self._by_either())} FROM ({self._hours()}) s JOIN gaps g ON {same}"
        )
        if not self.energy:
            return base
        amounts = [f"{value} AS {name}" for name, value in zip(ENERGY_SUMS, _OF_STEP, strict=True)]
        return f"SELECT *{_more(amounts)} FROM ({base})"

    def _hours(self) -> str:
        """Steps with their hour; those over an edge that is shared by time once for each hour that they are in."""
        last = f"(at_ns - 1) // {_HOUR_NS}"
        first = f"CASE WHEN at_ns - before_ns <= {_SHARED_NS} THEN before_ns // {_HOUR_NS} ELSE {last} END"
        return (
            f"SELECT *, {last} AS hour FROM steps WHERE {first} = {last} UNION ALL "
            f"SELECT *, unnest(range({first}, {last} + 1)) AS hour FROM steps WHERE {first} < {last}"
        )

    def _flow(self, column: str) -> str:
        first, last, first_ns, last_ns = self._ends(column)
        risen = _increase(last, first)
        if column in self.whole:
            return risen
        # Rows between two readings of a counter share its rise; what rose over a long silence is told when it is read.
        return (
            f"CASE WHEN {last_ns} - {first_ns} <= {_SHARED_NS} "
            f"THEN {risen} * ((at_ns - before_ns) / ({last_ns} - {first_ns})) "
            f"WHEN {quoted(column)} IS NOT NULL THEN {risen} END"
        )

    def _by_either(self) -> list[str]:
        """Whether a step has energy by its power and by its counter, how much, and whether it is modelled."""
        if not self.energy:
            return []
        found = {"by_power": "false", "power_j": "0.0", "by_counter": "false", "counter_j": "0.0", "modelled": "false"}
        if POWER.column in self._paired:
            first, last, first_ns, last_ns = self._ends(POWER.column)
            near = f"{last_ns} - {first_ns} <= round(max_gap_s * {_NS})"
            found["by_power"] = f"coalesce({near} AND {first} + {last} IS NOT NULL, false)"
            found["power_j"] = f"({first} + {last}) * 0.5 * ((at_ns - before_ns) / 1e9)"
        if ENERGY.column in self._paired:
            first, last, first_ns, last_ns = self._ends(ENERGY.column)
            span, rise = f"({last_ns} - {first_ns})", f"({last} - {first})"
            possible = f"{rise} >= 0 AND {rise} * 1e9 <= {_MOST_W} * {span} AND {span} <= {_SHARED_NS}"
            found["by_counter"] = f"coalesce({possible}, false)"
            whole = ENERGY.column in self.whole
            found["counter_j"] = rise if whole else f"{rise} * ((at_ns - before_ns) / {span})"
        if "power_method" in self.columns:
            found["modelled"] = "coalesce(power_method = 'modelled', false)"
        return [f"{value} AS {name}" for name, value in found.items()]

    @cached_property
    def _shared(self) -> list[str]:
        """The amounts that are shared by time, as `_amounts` calls them."""
        return ["covered_s", *(ENERGY_SUMS if self.energy else ()), *(_called(c.name, "rise") for c in self.flows)]

    def _cut(self) -> str:
        """Steps, and the first and the last of the finest windows that each is in."""
        last = f"(at_ns - 1) // {_FINEST_NS}"
        first = f"CASE WHEN apart_ns <= {_SHARED_NS} THEN before_ns // {_FINEST_NS} ELSE {last} END"
        return f"SELECT *, {last} AS last, {first} AS first FROM amounts"

    def _parts(self) -> str:
        """Steps cut at the edges of the finest windows: each part's window and share."""
        kept = ", ".join([self.series, "at_ns", "max_gap_s", *self.words, *self._shared])
        overlap = f"(least(at_ns, (part + 1) * {_FINEST_NS}) - greatest(before_ns, part * {_FINEST_NS})) / apart_ns"
        return (
            f"SELECT {kept}, last AS part, 1.0 AS share FROM cut WHERE first = last UNION ALL "
            f"SELECT {kept}, part, {overlap} AS share FROM "
            f"(SELECT *, unnest(range(first, last + 1)) AS part FROM cut WHERE first < last) "
            f"WHERE part // {_HOUR_NS // _FINEST_NS} = hour"
        )

    def _sums(self) -> str:
        """Sums over the parts of each of the finest windows."""
        sums = [f"sum({name} * share) AS {name}" for name in self._shared]
        words = [f"arg_max({name}, at_ns) AS {name}" for name in self.words]
        within = f"part >= {self.start_ns // _FINEST_NS} AND part < {self.end_ns // _FINEST_NS}"
        return (
            f"SELECT {self.series}, part, max(at_ns) AS at_ns, max(max_gap_s) AS max_gap_s{_more(words)}{_more(sums)} "
            f"FROM parts WHERE {within} GROUP BY {self.series}, part"
        )

    def _flowed(self) -> str:
        """What flowed in windows of each length."""
        sums = [f"sum({name}) AS {name}" for name in self._shared]
        words = [f"arg_max({name}, at_ns) AS {_after(name)}" for name in self.words]
        return " UNION ALL BY NAME ".join(
            f"SELECT {self.series}, {window_s}::INTEGER AS window_s, part // {window_s // WINDOWS_S[0]} AS number, "
            f"max(max_gap_s) AS max_gap_s{_more(words)}{_more(sums)} FROM sums GROUP BY ALL"
            for window_s in WINDOWS_S
        )

    def _readings(self) -> str:
        """What was read in windows of each length."""
        found = [
            *(f"arg_max({name}, time) AS {name}" for name in self.words),
            "count(*) AS rows",
            *(
                f"{_FUNCTIONS[statistic]}({quoted(c.name)}) AS {quoted(_column(c, statistic))}"
                for c in self.measured(Kind.GAUGE)
                for statistic in STATISTICS[Kind.GAUGE]
            ),
            *(f"sum({_called(c.name, 'rise')}) AS {quoted(_column(c, 'increase'))}" for c in self.events),
        ]
        # A reading on an edge is of the window before, unless nothing was read there for long.
        read = f"SELECT *, at_ns - coalesce(at_ns - before_ns <= {_SHARED_NS}, false)::BIGINT AS in_ns FROM steps"
        within = f"inside AND in_ns >= {self.start_ns} AND in_ns < {self.end_ns}"
        return " UNION ALL BY NAME ".join(
            f"SELECT {self.series}, {window_s}::INTEGER AS window_s, in_ns // {window_s * _NS} AS number{_more(found)}"
            f"{_more(self._sketches(window_s))} FROM ({read}) WHERE {within} GROUP BY ALL"
            for window_s in WINDOWS_S
        )

    def _sketches(self, window_s: int) -> list[str]:
        return [
            f"{_entries(f'histogram({bin_of(quoted(c.name))})')} AS {quoted(_column(c, 'sketch'))}"
            for c in self.sketched
            if c.metric in SKETCHED_FINEST or window_s > WINDOWS_S[0]
        ]

    def _given(self) -> str:
        """One row for each window of what was read and what flowed in it."""
        read = [_column(c, s) for c in self.measured(Kind.GAUGE) for s in STATISTICS[Kind.GAUGE]]
        read += [_column(c, "increase") for c in self.events]
        flows = [f"max({_called(c.name, 'rise')}) AS {quoted(_column(c, 'increase'))}" for c in self.flows]
        lists = [_column(c, "sketch") for c in self.sketched]
        given = [
            *(f"coalesce(max({name}), max({_after(name)})) AS {name}" for name in self.words),
            "coalesce(max(rows), 0) AS rows",
            f"coalesce(round(max(covered_s), {_DIGITS}), 0) AS covered_s",
            *(["max(max_gap_s) AS max_gap_s"] if self.energy else []),
            *(f"round(max({name}), {_DIGITS}) AS {name}" for name in (ENERGY_SUMS if self.energy else ())),
            *flows,
            *(f"max({quoted(name)}) AS {quoted(name)}" for name in read),
            *(f"any_value({quoted(name)}) AS {quoted(name)}" for name in lists),
        ]
        start = f"make_timestamp_ns(number * window_s * {_NS}) AS time"
        return f"{self.series}, window_s, {start}, {', '.join(given)}"


_FUNCTIONS = {"min": "min", "mean": "avg", "max": "max"}


_SECONDS = "apart_ns / 1e9"
# What a step has of each of `ENERGY_SUMS`.
_OF_STEP = (
    "CASE WHEN by_counter THEN counter_j WHEN by_power THEN power_j ELSE 0 END",
    f"CASE WHEN by_counter OR by_power THEN {_SECONDS} ELSE 0 END",
    "CASE WHEN by_counter THEN counter_j ELSE 0 END",
    "CASE WHEN by_power THEN power_j ELSE 0 END",
    f"CASE WHEN by_power THEN {_SECONDS} ELSE 0 END",
    "CASE WHEN by_counter AND by_power THEN counter_j ELSE 0 END",
    "CASE WHEN by_counter AND by_power THEN power_j ELSE 0 END",
    "CASE WHEN NOT modelled THEN 0 WHEN by_counter THEN counter_j WHEN by_power THEN power_j ELSE 0 END",
    "CASE WHEN modelled AND by_power THEN power_j ELSE 0 END",
)


def _flows(column: Column) -> bool:
    assert column.metric is not None
    return column.metric.scope is not Scope.DEVICE or column.metric.unit is not COUNT


def _column(column: Column, statistic: str) -> str:
    assert column.metric is not None
    return rollup_column(column.metric, statistic)


def _called(name: str, word: str) -> str:
    """What is derived of a column, within a statement."""
    return quoted(f"{name} {word}")


def _after(name: str) -> str:
    """A word of the last step, beside that of the last reading."""
    return _called(name.strip('"'), "after")


def _more(parts: Iterable[str]) -> str:
    return "".join(f", {part}" for part in parts if part)


def _gap(span: str) -> str:
    own = f"least(greatest({GAP_PERIODS} * median({span}) / 1e9, {GAP_S}), {LONGEST_GAP_S})"
    return f"CASE WHEN count({span}) >= {FEW_INTERVALS} THEN {own} ELSE {GAP_S} END"


def _increase(value: str, before: str) -> str:
    """
    What a counter grew by since its last value.

    A fall to less than half is a reset, after which it counts from 0 again. A smaller fall is a glitch, worth nothing:
    to take it for a reset would add the whole counter once more.
    """
    grown = f"WHEN {value} >= {before} THEN {value} - {before}"
    return f"CASE {grown} WHEN {value} <= {before} / 2 THEN {value} WHEN {value} < {before} THEN 0 END"


def _entries(histogram: str) -> str:
    """A map of bins as a list of structs, which every client reads."""
    return f"list_transform(map_entries({histogram}), lambda e: {{bin: e.key, n: e.value::UINTEGER}})"


def statement_of(store: Store, samples: Table, start_ns: int, end_ns: int) -> str:
    """The statement of the rollups that begin in a stretch of hours, of five minutes and of an hour."""

    def between(first_ns: int, until_ns: int) -> str | None:
        segments = store.segments(samples.name, first_ns, until_ns)
        listed = [([segment.path for segment in some], repeats) for some, repeats in groups(samples, segments)]
        within = f"time >= make_timestamp_ns({first_ns}) AND time < make_timestamp_ns({until_ns})"
        return f"SELECT * FROM ({typed_rows(samples, listed)}) WHERE {within}" if segments else None

    inside, earlier = between(start_ns, end_ns + 1), between(start_ns - 24 * _HOUR_NS, start_ns)
    later = between(end_ns + 1, end_ns + _SHARED_NS)
    assert inside is not None
    with store.connect() as db:
        source = read_segments([segment.path for segment in store.segments(samples.name, start_ns, end_ns + 1)])
        columns = {name for name, *_ in db.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    return Plan(
        samples=samples, columns=frozenset(columns), whole=frozenset(), start_ns=start_ns, end_ns=end_ns,
        inside=inside, earlier=earlier, later=later,
    ).statement()  # fmt: skip
