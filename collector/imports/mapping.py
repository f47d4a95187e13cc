"""
The mapping of a CSV or Parquet file: which column is the time, whose samples they are, what each metric is called and
in which unit. It is a TOML file::

    table = "device_samples"                  # or host_samples, workload_samples, facility_samples
    source = "lab-meter"                      # optional; the name of the mapping file otherwise
    separator = ","                           # CSV only
    absent = ["", "NaN", "n/a"]               # what stands for no value, besides null

    [time]
    column = "unix_ms"
    format = "unix_ms"                        # iso, unix_s, unix_ms, unix_us, unix_ns, or as "%d.%m.%Y %H:%M:%S"
    zone = "UTC"                              # for times without an offset of their own

    [subject]                                 # the device, host, workload or meter
    column = "uuid"                           # or: value = "GPU-...", or: text = "{node}/{gpu}" of several columns

    [host]                                    # optional
    value = "node7"

    [metrics]                                 # by the catalogue's column
    power_w = { column = "pmd_w", unit = "W", absent_below = 0 }    # a meter's -1 for "no reading"
    utilization_ratio = { column = "util", unit = "%" }
    temperature_c = { column = "value", unit = "C", where = { what = "temp" } }    # a row for each value

Rows that are no samples but records fill ``allocations`` (whose devices they were) or ``results`` (runs of a
benchmark). They have ``[columns]`` in place of subject, host and metrics, by the table's columns; a time takes format
and zone, too::

    table = "allocations"
    [columns]
    workload = { text = "slurm/{JobID}" }
    device = { column = "gpu_uuid" }
    start = { column = "Start", format = "iso", zone = "Europe/Berlin" }
    user = { column = "User" }

What a row lacks may be in another file beside it, which is joined by a column of both. `key` are the columns of the
other file that are compared, the first that has a value, so that one recording may stand for several runs. A time that
counts from the start of a recording is placed by a moment of the run: at the first row, or, where a column marks the
rows that are of the run, so that those lie within `origin` and `until`::

    [join]
    file = "runs.csv"
    on = "run_id"
    key = ["dup_of", "run_id"]

    [time]
    column = "t_s"
    format = "elapsed_s"
    marked = "in_window"
    origin = { column = "power_begin", format = "%m-%d-%Y %H:%M:%S%.f", zone = "UTC" }
    until = { column = "power_end", format = "%m-%d-%Y %H:%M:%S%.f", zone = "UTC" }
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from collector.catalogue import Metric, Scope, metric_of, metrics
from collector.errors import ConfigError
from collector.imports.clocks import Zone, zone_of
from collector.imports.conversions import KNOWN, Conversion
from collector.store.schema import ALLOCATIONS, RESULTS, SAMPLE_TABLES, SUBJECT
from collector.store.table import Table
from collector.units import COUNT, Unit

EPOCHS: Final = {"unix_s": 10**9, "unix_ms": 10**6, "unix_us": 10**3, "unix_ns": 1}
ELAPSED: Final = "elapsed_s"
BUILT_IN: Final = Path(__file__).parent / "mappings"

_KEYS: Final = {"table", "source", "separator", "absent", "time", "join"}
_OF_SAMPLES: Final = {"subject", "host", "metrics"}
_RECORDS: Final = {table.name: table for table in (ALLOCATIONS, RESULTS)}
_ABSENT: Final = ("", "NaN", "nan", "null", "NULL", "None", "NA", "N/A", "n/a", "[N/A]", "-")
_WHEN: Final = ("column", "format", "zone")
_FIELD: Final = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Where:
    """Where a text comes from: a column, one value for all rows, or a text with columns in braces."""

    column: str | None = None
    value: str | None = None
    text: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the file that it needs."""
        return (self.column,) if self.column else tuple(_FIELD.findall(self.text or ""))


@dataclass(frozen=True, slots=True)
class When:
    """A column of times, how they are written, and the zone of those that name none."""

    column: str
    form: str
    zone: Zone | None
    key: str


@dataclass(frozen=True, slots=True)
class Elapsed:
    """
    What places a time that counts from the start of a recording: a moment of its run, and, where a column tells which
    rows are the run's, that column and the moment of the run's end.
    """

    origin: When
    marked: tuple[str, When] | None


@dataclass(frozen=True, slots=True)
class Quantity:
    """
    A number: the column it fills and its metric, if it is one; the column it is in, and what others must say of it;
    how it is converted.
    """

    name: str
    metric: Metric | None
    column: str
    where: Mapping[str, str]
    conversion: Conversion
    absent_below: float | None


@dataclass(frozen=True, slots=True)
class Join:
    """Another file, whose columns are added where its `key` is what the rows have in `on`."""

    file: str
    on: str
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableMapping:
    """A mapping, checked. `texts` and `times` are by the table's column; `keys` are the texts that a row must have."""

    path: Path
    table: str
    source: str
    separator: str
    absent: tuple[str, ...]
    time: When
    elapsed: Elapsed | None
    join: Join | None
    subject: str
    keys: tuple[str, ...]
    texts: Mapping[str, Where]
    times: Mapping[str, When]
    quantities: tuple[Quantity, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the file must have, or the one that is joined to it, each once."""
        moments = [self.time, *self.times.values()]
        found = [moment.column for moment in moments]
        if self.elapsed is not None:
            found.append(self.elapsed.origin.column)
            if self.elapsed.marked is not None:
                found += [self.elapsed.marked[0], self.elapsed.marked[1].column]
        found += [column for quantity in self.quantities for column in (quantity.column, *quantity.where)]
        found += [column for where in self.texts.values() for column in where.columns]
        return tuple(dict.fromkeys(found))

    def within(self, zone: Zone) -> "TableMapping":
        """The mapping with times in *zone* where they name none."""
        times = {name: replace(when, zone=zone) for name, when in self.times.items()}
        return replace(self, time=replace(self.time, zone=zone), times=times)


def read_mapping(path: Path) -> TableMapping:
    """
    The mapping in *path*, or the built-in one of that name.

    Raises: ConfigError with the key, and what it may be.
    """
    built_in = BUILT_IN / f"{path}.toml"
    if not path.exists() and built_in.is_file():
        path = built_in
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.toml")))
        raise ConfigError(
            "--mapping", f"cannot be read: {error.strerror or error}; built in are {names}", path=path
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("--mapping", f"is not TOML: {error}", path=path) from error
    return _Reader(path).mapping(given)


class _Reader:
    """Reads the parts of a mapping; every error names the key and the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mapping(self, given: Mapping[str, Any]) -> TableMapping:
        name = given.get("table")
        scope = next((scope for scope, table in SAMPLE_TABLES.items() if table.name == name), None)
        if scope is None and name not in _RECORDS:
            known = ", ".join((*(table.name for table in SAMPLE_TABLES.values()), *_RECORDS))
            raise self.wrong("table", "is missing" if name is None else f"{name!r} is none of {known}")
        self.known(given, _KEYS | (_OF_SAMPLES if scope is not None else {"columns"}))
        absent = given.get("absent", _ABSENT)
        if not isinstance(absent, Sequence) or isinstance(absent, str) or not all(isinstance(w, str) for w in absent):
            raise self.wrong("absent", f"{absent!r} is no list of words")
        separator = self.text(given, "", "separator", default=",")
        if len(separator) != 1:
            raise self.wrong("separator", f"{separator!r} is not one character")
        time, elapsed = self.time(given)
        of_rows = self.samples(given, scope) if scope is not None else self.records(given, _RECORDS[str(name)], time)
        return TableMapping(
            path=self.path,
            source=f"import:{self.text(given, '', 'source', default=self.path.stem)}",
            separator=separator,
            absent=tuple(absent),
            time=time,
            elapsed=elapsed,
            join=self.join(given),
            **of_rows,
        )

    def samples(self, given: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
        """What the rows fill, where they are samples."""
        subject = SUBJECT[scope]
        texts = {subject: self.where(self.part(given, "subject", ("column", "value", "text")), "subject")}
        if "host" in given and subject != "host":
            texts["host"] = self.where(self.part(given, "host", ("column", "value", "text")), "host")
        found = {
            "table": SAMPLE_TABLES[scope].name,
            "subject": subject,
            "keys": (subject,),
            "texts": texts,
            "times": {},
        }
        return found | {"quantities": self.metrics(given, scope)}

    def records(self, given: Mapping[str, Any], table: Table, time: When) -> dict[str, Any]:
        """What the rows fill, where they are records of *table*."""
        said = given.get("columns")
        if not isinstance(said, Mapping) or not said:
            raise self.wrong("columns", 'is missing: a table as workload = { column = "job" }')
        columns = {column.name: column for column in table if column.name not in {"time", "source"}}
        self.known(said, columns, prefix="columns.")
        texts: dict[str, Where] = {}
        times: dict[str, When] = {}
        numbers: list[Quantity] = []
        for name, how in said.items():
            key = f"columns.{name}"
            if not isinstance(how, Mapping):
                raise self.wrong(key, f"{how!r} is no table with column, value or text")
            match columns[name].type:
                case "VARCHAR":
                    texts[name] = self.where(self.checked(how, key, ("column", "value", "text")), key)
                case "TIMESTAMP_NS":
                    times[name] = self.when(self.checked(how, key, _WHEN), key, time)
                case _:
                    numbers.append(self.quantity(name, None, columns[name].unit or COUNT, how, key))
        needed = [name for name in table.keys if name != "source"]
        for name in needed:
            if name not in said:
                raise self.wrong(f"columns.{name}", "is missing: it tells one row from another")
        keys = tuple(name for name in needed if name in texts)
        return {
            "table": table.name,
            "subject": keys[0],
            "keys": keys,
            "texts": texts,
            "times": times,
            "quantities": tuple(numbers),
        }

    def metrics(self, given: Mapping[str, Any], scope: Scope) -> tuple[Quantity, ...]:
        part = given.get("metrics")
        if not isinstance(part, Mapping) or not part:
            raise self.wrong("metrics", 'is missing: a table as power_w = { column = "watts", unit = "W" }')
        found = []
        for name, said in part.items():
            key = f"metrics.{name}"
            try:
                metric = metric_of(scope, name)
            except KeyError as error:
                known = ", ".join(metric.column for metric in metrics(scope))
                raise self.wrong(key, f"is no metric of a {scope.value}; known are {known}") from error
            if not isinstance(said, Mapping):
                raise self.wrong(key, f"{said!r} is no table with column and unit")
            found.append(self.quantity(metric.column, metric, metric.unit, said, key))
        return tuple(found)

    def quantity(self, name: str, metric: Metric | None, unit: Unit, said: Mapping[str, Any], key: str) -> Quantity:
        self.checked(said, key, ("column", "unit", "absent_below", "where"))
        units = KNOWN[unit]
        written = self.text(said, key, "unit", default="" if "" in units else None)
        if written not in units:
            raise self.wrong(f"{key}.unit", f"{written!r} is none of {', '.join(filter(None, units))}")
        least = said.get("absent_below")
        if least is not None and (isinstance(least, bool) or not isinstance(least, int | float)):
            raise self.wrong(f"{key}.absent_below", f"{least!r} is no number")
        where = said.get("where", {})
        if not isinstance(where, Mapping) or not all(isinstance(word, str) for word in where.values()):
            raise self.wrong(f"{key}.where", f"{where!r} is no table of columns and what they say")
        return Quantity(name, metric, self.text(said, key, "column"), where, units[written], least)

    def time(self, given: Mapping[str, Any]) -> tuple[When, Elapsed | None]:
        part = given.get("time")
        if not isinstance(part, Mapping) or part.get("format") != ELAPSED:
            return self.when(self.part(given, "time", _WHEN), "time", None), None
        self.checked(part, "time", ("column", "format", "origin", "until", "marked"))
        counted = When(self.text(part, "time", "column"), ELAPSED, None, "time")
        origin = self.when(self.part(part, "origin", _WHEN, prefix="time."), "time.origin", None)
        if "marked" not in part:
            return counted, Elapsed(origin, None)
        until = self.when(self.part(part, "until", _WHEN, prefix="time."), "time.until", None)
        return counted, Elapsed(origin, (self.text(part, "time", "marked"), until))

    def when(self, part: Mapping[str, Any], key: str, usual: When | None) -> When:
        """A column of times; what is not said is as in *usual*."""
        form = self.text(part, key, "format", default=usual.form if usual is not None else "iso")
        if form not in {"iso", *EPOCHS} and "%" not in form:
            known = f"iso, {', '.join(EPOCHS)}" + (f", {ELAPSED}" if key == "time" else "")
            raise self.wrong(f"{key}.format", f"{form!r} is none of {known} nor a pattern as '%d.%m.%Y %H:%M:%S'")
        named = self.text(part, key, "zone", default="")
        zone = zone_of(named, key=f"{self.path}: {key}.zone") if named else usual.zone if usual is not None else None
        return When(self.text(part, key, "column"), form, zone, key)

    def join(self, given: Mapping[str, Any]) -> Join | None:
        if "join" not in given:
            return None
        part = self.part(given, "join", ("file", "on", "key"))
        on = self.text(part, "join", "on")
        key = part.get("key", [on])
        if not isinstance(key, list) or not key or not all(isinstance(name, str) for name in key):
            raise self.wrong("join.key", f"{key!r} is no list of columns")
        return Join(self.text(part, "join", "file"), on, tuple(key))

    def where(self, part: Mapping[str, Any], key: str) -> Where:
        if len(part) != 1:
            raise self.wrong(key, "has either column or value (or text)")
        ((name, _),) = part.items()
        where = Where(**{name: self.text(part, key, name)})
        if where.text is not None and not where.columns:
            raise self.wrong(f"{key}.text", f"{where.text!r} names no column in braces")
        return where

    def part(self, given: Mapping[str, Any], name: str, keys: Iterable[str], *, prefix: str = "") -> Mapping[str, Any]:
        part = given.get(name)
        if not isinstance(part, Mapping):
            raise self.wrong(f"{prefix}{name}", "is missing: a table with " + ", ".join(sorted(keys)))
        return self.checked(part, f"{prefix}{name}", keys)

    def checked(self, part: Mapping[str, Any], key: str, keys: Iterable[str]) -> Mapping[str, Any]:
        self.known(part, keys, prefix=f"{key}.")
        return part

    def known(self, given: Mapping[str, Any], keys: Iterable[str], *, prefix: str = "") -> None:
        for key in given:
            if key not in set(keys):
                raise self.wrong(f"{prefix}{key}", f"is no key; known are {', '.join(sorted(keys))}")

    def text(self, part: Mapping[str, Any], prefix: str, key: str, *, default: str | None = None) -> str:
        value = part.get(key, default)
        if not isinstance(value, str):
            name = f"{prefix}.{key}" if prefix else key
            raise self.wrong(name, "is missing" if value is None else f"{value!r} is no text")
        return value

    def wrong(self, key: str, reason: str) -> ConfigError:
        return ConfigError(key, reason, path=self.path)
