"""
What the commands of every package share: options, exit codes, and what they turn into.

Exit codes: 0 done; 1 the data or a statement is at fault; 2 usage or configuration; 3 try again later; 4 a ``--check``
found something; 130 interrupted. Stdout is data, everything else goes to stderr.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from collector.errors import ConfigError, QueryError, ReadRetry, SourceUnavailable, StoreBusy, TelemetryError
from collector.moments import parse_window, zone
from collector.output import Field, Format, Output

AT_FAULT: Final = 1
WRONG_USE: Final = 2
TRY_AGAIN: Final = 3
CHECK_FAILED: Final = 4
INTERRUPTED: Final = 130


class _Voice:
    """Whether to narrate; one for the process, as stderr is."""

    quiet = False


def _set_quiet(value: bool) -> bool:
    _Voice.quiet = _Voice.quiet or value
    return value


def _set_config(value: Path | None) -> Path | None:
    if value is not None:
        # In the environment, so that the agent's helpers and children read the same file.
        os.environ["PERFWATT_CONFIG"] = str(value)
    return value


StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="The store; else PERFWATT_STORE_ROOT, else store.root as configured."),
]
OutputOption = Annotated[Format, typer.Option("--output", "-o", help="What the answer is written as.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="PATH", help="Write the answer there instead of to stdout.")
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=0, help="Most rows; 0 for all. A table has 500 by default, the others have all."),
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", help="From: 1h, 2d12h, 2026-05-01T12:00, @1767225600, today."),
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Up to, as --since.")]
TzOption = Annotated[str, typer.Option("--tz", metavar="ZONE", help="Zone of times, in and out: UTC, Europe/Berlin.")]
CheckOption = Annotated[
    list[str] | None,
    typer.Option(
        "--check", metavar="COND", help="Exit 4 if a row meets it, such as 'covered_ratio<0.9'. May be repeated."
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Say nothing on stderr but errors and warnings.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", callback=_set_config, help="Configuration to use instead of the usual files."
    ),
]


def begin(*, quiet: bool = False) -> None:
    """Start a run of the program afresh."""
    _Voice.quiet = quiet


def say(text: str) -> None:
    """Tell a person something that is not data; ``--quiet`` silences it."""
    if not _Voice.quiet:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Tell a person something that must not be missed."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def exit_code(error: TelemetryError) -> int:
    """What the program exits with for *error*."""
    if isinstance(error, ConfigError):
        return WRONG_USE
    if isinstance(error, SourceUnavailable | ReadRetry | StoreBusy):
        return TRY_AGAIN
    return AT_FAULT


def store_root(given: Path | None) -> Path:
    """
    The store's folder: the flag, else the environment, else the configuration.

    Raises: ConfigError.
    """
    if given is not None:
        return given
    from collector import config

    root = config.load(env=os.environ).store.root
    if not root:
        raise ConfigError("store.root", "is empty, so there is no store; give --store")
    return Path(root)


@dataclass(frozen=True, slots=True)
class Request:
    """What a command that answers from a store was asked for."""

    start_ns: int | None
    end_ns: int | None
    output: Output


def request(
    output: Format, file: Path | None, limit: int | None, since: str | None, until: str | None, tz: str
) -> Request:
    """
    The options that every answer has, understood.

    Raises: ConfigError.
    """
    place = zone(tz)
    start_ns, end_ns = parse_window(since, until, tz=place)
    return Request(start_ns, end_ns, Output(format=output, file=file, limit=limit, tz=place, note=warn))


def give(
    schema: str, fields: Sequence[Field], rows: Iterable[Sequence[Any]], asked: Request, check: Sequence[str] | None
) -> None:
    """
    Write an answer, and exit with 4 if a condition of *check* holds for a row of it, shown or not.

    Raises: ConfigError, QueryError.
    """
    checks = Checks(check, [field.name for field in fields])
    watched = checks.watch(iter(rows))
    asked.output.write(f"perfwatt.{schema}/1", fields, watched)
    checks.conclude(watched)


# ------------------------------------------------------------------------------------------------------------- checks

_COMPARE = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "!=": lambda a, b: a != b,
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


class Checks:
    """
    Conditions such as ``covered_ratio<0.9``, tried on the rows that pass.

    Raises: ConfigError when one is no condition or names no column.
    """

    def __init__(self, conditions: Sequence[str] | None, columns: Sequence[str]) -> None:
        self._tests = [self._parsed(text, columns) for text in conditions or ()]
        self.met: dict[str, int] = {}

    @staticmethod
    def _parsed(text: str, columns: Sequence[str]) -> tuple[str, int, Any, float]:
        for sign, compare in _COMPARE.items():
            name, found, number = text.partition(sign)
            if not found:
                continue
            try:
                value = float(number)
            except ValueError as error:
                raise ConfigError("--check", f"{text!r}: {number.strip()!r} is no number") from error
            if name.strip() not in columns:
                raise ConfigError("--check", f"{text!r}: no column {name.strip()!r}; there are {', '.join(columns)}")
            return text, columns.index(name.strip()), compare, value
        raise ConfigError("--check", f"{text!r} is no condition; write COLUMN<NUMBER, or <=, >, >=, ==, !=")

    def watch(self, rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """The same rows; what has no value meets no condition."""
        for row in rows:
            for text, at, compare, value in self._tests:
                try:
                    met = row[at] is not None and compare(float(row[at]), value)
                except (TypeError, ValueError) as error:
                    raise QueryError(f"--check {text!r}: {row[at]!r} is no number") from error
                if met:
                    self.met[text] = self.met.get(text, 0) + 1
            yield row

    def conclude(self, rest: Iterable[Sequence[Any]]) -> None:
        """Try what was not shown too, say what was found, and exit with 4 if anything was."""
        if self._tests:
            for _ in rest:
                pass
        for text, count in self.met.items():
            warn(f"check: {text} holds for {count:,} row{'s' if count != 1 else ''}")
        if self.met:
            raise typer.Exit(CHECK_FAILED)
