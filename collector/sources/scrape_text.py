"""
The Prometheus text format, read by layout.

Between two scrapes of a target the values change and the series do not. So the first scrape is parsed in full and
leaves a `Layout`: for each line the bytes before its value. A later scrape is cut at those places and compared as a
whole, and only the values that someone asked for become numbers. A line that moved, came or went is found again by
its bytes; only series never seen before are parsed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

_NAME = re.compile(r"[^\s{},=\"#]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SPACE = re.compile(r"[ \t]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


class ExpositionError(ValueError):
    """A line that is not in the text format; the text names the line's number."""


class Series(NamedTuple):
    """A series as its line names it: the name and the labels, in the line's order."""

    name: str
    labels: Mapping[str, str]


class Value(NamedTuple):
    """What follows a series on its line."""

    value: float
    timestamp_ms: int | None = None


def _unescape(text: str) -> str:
    # An escape that the format does not know stays as it is written.
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), text) if "\\" in text else text


def read_series(line: str) -> tuple[Series, int]:
    """
    The series that *line* begins with, and where its value begins.

    Raises: ValueError.
    """
    at = _skip(line, 0)
    name: str | None = None
    labels: dict[str, str] = {}
    if found := _NAME.match(line, at):
        name, at = found[0], _skip(line, found.end())
    if line.startswith("{", at):
        at, quoted = _read_labels(line, at + 1, labels)
        if quoted is not None and name is not None:
            raise ValueError("two names")
        name = name if name is not None else quoted
        at = _skip(line, at)
    if not name:
        raise ValueError("no name")
    return Series(name, labels), at


def _read_line(line: bytes, names: dict[bytes, str], labels: dict[bytes, Mapping[str, str]]) -> tuple[Series, int]:
    """The series of *line* and where its value begins; its name and labels are remembered by their bytes."""
    text = line.decode("utf-8")
    series, start = read_series(text)
    end = len(text[:start].encode("utf-8"))
    read_value(line[end:])
    brace = line.find(b"{")
    if 0 < brace < end and not line[:brace].endswith((b" ", b"\t")):
        names[line[:brace]] = series.name
        labels[line[brace:end].rstrip()] = series.labels
    return series, end


def _like_another(
    line: bytes, names: Mapping[bytes, str], labels: Mapping[bytes, Mapping[str, str]]
) -> tuple[Series, int] | None:
    """The same as `_read_line` for a line whose name and whose labels were both read before; most are."""
    brace, after = line.find(b"{"), line.rfind(b"}") + 1
    name = names.get(line[:brace]) if brace > 0 else None
    known = labels.get(line[brace:after]) if name is not None else None
    if name is None or known is None:
        return None
    tail = line[after:]
    try:
        float(tail)
    except ValueError:
        return None
    return Series(name, known), len(line) - len(tail.lstrip(b" \t"))


def _skip(line: str, at: int) -> int:
    found = _SPACE.match(line, at)
    return found.end() if found else at


def _read_labels(line: str, at: int, labels: dict[str, str]) -> tuple[int, str | None]:
    name: str | None = None
    while True:
        at = _skip(line, at)
        if line.startswith("}", at):
            return at + 1, name
        if quoted := _QUOTED.match(line, at):
            key, at = _unescape(quoted[1]), _skip(line, quoted.end())
            if not line.startswith("=", at):
                if name is not None:
                    raise ValueError("two names")
                name = key
                at = _after_comma(line, at)
                continue
        elif plain := _NAME.match(line, at):
            key, at = plain[0], _skip(line, plain.end())
        else:
            raise ValueError("no label name")
        if not line.startswith("=", at):
            raise ValueError(f"label {key} has no value")
        value = _QUOTED.match(line, _skip(line, at + 1))
        if value is None:
            raise ValueError(f"label {key} has no quoted value")
        if key in labels:
            raise ValueError(f"label {key} twice")
        labels[key] = _unescape(value[1])
        at = _after_comma(line, value.end())


def _after_comma(line: str, at: int) -> int:
    at = _skip(line, at)
    if line.startswith(",", at):
        return at + 1
    if not line.startswith("}", at):
        raise ValueError("labels do not end")
    return at


def read_value(tail: bytes) -> Value:
    """
    The value that ends a line, with its timestamp; an exemplar is passed over.

    Raises: ValueError.
    """
    words = tail.split(b"#", 1)[0].split()
    if not words or len(words) > 2 or b"_" in words[0]:
        raise ValueError("no value, or more than a value and a timestamp")
    if len(words) == 1:
        return Value(float(words[0]))
    stamp = float(words[1])
    # OpenMetrics writes seconds with a point, the older format whole milliseconds.
    return Value(float(words[0]), round(stamp * 1000) if b"." in words[1] else round(stamp))


class Layout:
    """
    Where the values are in a target's text.

    `wanted` decides once for each series whether its value matters: what it returns is kept in `bound` (None: skip
    the value). `read` gives the values of the bound series, in the order of `bound`; `changed` says whether that
    order is new.
    """

    def __init__(self, wanted: Callable[[Series], object | None]) -> None:
        self._wanted = wanted
        self._heads: list[bytes] = []
        self._ends: list[int | None] = []
        self._kept: list[object | None] = []
        self._lines: list[int] = []
        self._cuts: list[int] = []
        self.bound: Sequence[object] = ()
        self.changed = True
        self.series = 0
        """How many series the text has, wanted or not."""
        self.timestamps_ms: Mapping[int, int] = {}
        """The series (by place in `bound`) that came with a timestamp of their own in the last `read`."""

    def read(self, body: bytes) -> list[float]:
        """
        The values of *body*.

        Raises: ExpositionError.
        """
        lines = body.split(b"\n")
        self.changed = False
        if self.timestamps_ms:
            self.timestamps_ms = {}
        ends = self._ends
        if len(lines) == len(ends) and [line[:end] for line, end in zip(lines, ends, strict=True)] == self._heads:
            try:
                return [float(lines[at][cut:]) for at, cut in zip(self._lines, self._cuts, strict=True)]
            except ValueError:
                pass
        else:
            self._lay_out(lines)
        try:
            return self._read_with_timestamps(lines)
        except ValueError:
            # What followed the series was no value: a line that only begins like one we know.
            self._heads = []
            self._lay_out(lines)
            return self._read_with_timestamps(lines)

    def _read_with_timestamps(self, lines: list[bytes]) -> list[float]:
        values: list[float] = []
        stamps: dict[int, int] = {}
        for place, (at, cut) in enumerate(zip(self._lines, self._cuts, strict=True)):
            try:
                values.append(float(lines[at][cut:]))
            except ValueError:
                value, stamp = read_value(lines[at][cut:])
                values.append(value)
                if stamp is not None:
                    stamps[place] = stamp
        self.timestamps_ms = stamps
        return values

    def _lay_out(self, lines: list[bytes]) -> None:
        known = {head: at for at, head in enumerate(self._heads)}
        heads: list[bytes] = []
        ends: list[int | None] = []
        kept: list[object | None] = []
        names: dict[bytes, str] = {}
        labels: dict[bytes, Mapping[str, str]] = {}
        for number, line in enumerate(lines, 1):
            head = line[: line.rfind(b" ") + 1]
            before = known.get(head)
            if before is not None and before < len(self._ends) and self._ends[before] is not None:
                heads.append(self._heads[before])
                ends.append(self._ends[before])
                kept.append(self._kept[before])
                continue
            stripped = line.strip()
            if not stripped or stripped.startswith(b"#"):
                heads.append(line)
                ends.append(None)
                kept.append(None)
                continue
            found = _like_another(line, names, labels)
            if found is None:
                try:
                    found = _read_line(line, names, labels)
                except ValueError as error:
                    raise ExpositionError(f"line {number}: {error}: {line[:120]!r}") from error
            series, end = found
            heads.append(line[:end])
            ends.append(end)
            kept.append(self._wanted(series))
        self._heads, self._ends, self._kept = heads, ends, kept
        self._lines = [at for at, binding in enumerate(kept) if binding is not None]
        self._cuts = [end for at, end in enumerate(ends) if end is not None and kept[at] is not None]
        self.series = sum(end is not None for end in ends)
        self.bound = [binding for binding in kept if binding is not None]
        self.changed = True
