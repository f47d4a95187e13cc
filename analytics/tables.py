"""Tables of a TOML file that a person wrote, read key by key; what is wrong is named with file, key, value, limit."""

import json
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any

from collector.errors import ConfigError


def read_toml(text: str, name: str, *, path: Path | str | None = None) -> "Keys":
    """
    The keys of a TOML file called *name*.

    Raises: ConfigError.
    """
    try:
        return Keys(tomllib.loads(text), "", path)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(name, f"is not TOML: {error}", path=path) from error


class Keys:
    """The keys of a table, taken one by one and checked; what is left at the end is unknown."""

    def __init__(self, table: Mapping[str, Any], name: str, path: Path | str | None = None) -> None:
        self.left, self.name, self.path = dict(table), name, path
        self.known: set[str] = set()

    def wrong(self, key: str, message: str) -> ConfigError:
        """The error of a key, to be raised."""
        return ConfigError(f"{self.name}.{key}" if self.name else key, message, path=self.path)

    def take(self, key: str) -> Any:
        """The value of a key as it stands; None where there is none."""
        self.known.add(key)
        return self.left.pop(key, None)

    def number(self, key: str, *, low: float | None = 0.0, high: float | None = None) -> float | None:
        """A number within [low, high]."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise self.wrong(key, f"is {value!r}, not a number")
        self._within(key, value, low, high)
        return float(value)

    def positive(self, key: str, *, high: float | None = None) -> float | None:
        """A number above 0."""
        value = self.number(key, high=high)
        if value == 0:
            raise self.wrong(key, "is 0, and must be above 0")
        return value

    def whole(self, key: str, *, low: int = 0, high: int | None = None) -> int | None:
        """A whole number within [low, high]."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, f"is {value!r}, not a whole number")
        self._within(key, value, low, high)
        return value

    def text(self, key: str) -> str | None:
        """A text that is not empty."""
        value = self.take(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.wrong(key, f"is {value!r}, not text")
        return value

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, f"is {value!r}, not true or false")
        return value

    def one_of(self, key: str, choices: Collection[str]) -> str | None:
        """One of some words."""
        value = self.text(key)
        if value is not None and value not in choices:
            raise self.wrong(key, f"is {value!r}, not one of {', '.join(choices)}")
        return value

    def day(self, key: str) -> date | None:
        """A date, written 2027-03-01 without quotes."""
        value = self.take(key)
        if value is not None and (not isinstance(value, date) or isinstance(value, datetime)):
            raise self.wrong(key, f"is {value!r}, not a date; write 2027-03-01, without quotes")
        return value

    def some(self, key: str, kind: type | UnionType, words: str) -> list[Any] | None:
        """A list of values of a type."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, kind) and not isinstance(one, bool) for one in value):
            raise self.wrong(key, f"is {value!r}, not a list of {words}")
        return value

    def texts(self, key: str, words: str, *, or_one: bool = False) -> tuple[str, ...]:
        """A list of texts, each once; with *or_one* a single text too."""
        value = self.take(key)
        found = [value] if or_one and isinstance(value, str) else value if value is not None else []
        if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
            raise self.wrong(key, f"is {value!r}, not a list of {words}")
        for at, one in enumerate(found):
            if one in found[:at]:
                raise self.wrong(key, f"has {one!r} twice")
        return tuple(found)

    def table(self, key: str) -> "Keys | None":
        """A table within the table."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, f"is {value!r}, not a table")
        return Keys(value, f"{self.name}.{key}" if self.name else key, self.path)

    def tables(self, key: str) -> "list[Keys]":
        """A list of tables, ``[[key]]``."""
        value = self.take(key)
        found = [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self.wrong(key, f"is not a list of tables; write [[{key}]]")
        name = f"{self.name}.{key}" if self.name else key
        return [Keys(one, f"{name}[{number}]", self.path) for number, one in enumerate(found)]

    def needed(self, key: str, value: Any) -> Any:
        """*value*, which must be there."""
        if value is None:
            raise self.wrong(key, "is missing")
        return value

    def end(self) -> None:
        """Nothing else may be there."""
        if self.left:
            raise self.wrong(min(self.left), f"is not a key; known: {', '.join(sorted(self.known))}")

    def _within(self, key: str, value: float, low: float | None, high: float | None) -> None:
        if low is not None and value < low:
            raise self.wrong(key, f"is {value:g}, below the least of {low:g}")
        if high is not None and value > high:
            raise self.wrong(key, f"is {value:g}, above the most of {high:g}")


def unique(values: Iterable[tuple[Keys, str, str]]) -> None:
    """
    Hold that no two tables have the same name: (table, key, value).

    Raises: ConfigError naming the second.
    """
    seen: dict[str, str] = {}
    for keys, key, value in values:
        if value in seen:
            raise keys.wrong(key, f"has {value!r}, as {seen[value]} has")
        seen[value] = keys.name


def write_toml(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """
    Lists of tables as TOML; a table within a table is the last thing of it.

    >>> print(write_toml({"sku": [{"name": "X", "tdp_w": 700.0, "server": {"accelerators": 8}}]}), end="")
    [[sku]]
    name = "X"
    tdp_w = 700.0
    [sku.server]
    accelerators = 8
    """
    lines = []
    for name, rows in tables.items():
        for row in rows:
            lines.append(f"[[{name}]]")
            lines += [f"{key} = {_literal(value)}" for key, value in row.items() if not isinstance(value, Mapping)]
            for key, value in row.items():
                if isinstance(value, Mapping):
                    lines.append(f"[{name}.{key}]")
                    lines += [f"{inner} = {_literal(told)}" for inner, told in value.items()]
    return "".join(line + "\n" for line in lines)


def _literal(value: Any) -> str:
    """A value as TOML writes it; of text, numbers and lists JSON writes the same."""
    return value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)
