"""What an import read, kept, left out and stored; and the one way into the store."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from collector.errors import ImportFailed

SHOWN = 20
"""Bad lines shown per file; all are counted."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was kept out, by number, with the reason and the beginning of its text."""

    line: int
    reason: str
    text: str


@dataclass(slots=True)
class Account:
    """
    Where each line (or row) of one file went.

    `kept` counts by kind: reading, duplicate (the same reading again), absent (a reading that says there was none),
    header, blank, empty, other (a line of the format that holds nothing to import). What is neither kept nor bad is
    unaccounted, of which there is none.
    """

    path: Path | str
    lines: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    bad_count: int = 0
    bad: list[BadLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()

    def refuse(self, line: int, reason: str, text: str = "") -> None:
        """Count a bad line, and show it if it is among the first."""
        self.bad_count += 1
        if len(self.bad) < SHOWN:
            self.bad.append(BadLine(line, reason, text[:160]))

    @property
    def unaccounted(self) -> int:
        """Lines that are neither kept nor refused."""
        return self.lines - sum(self.kept.values()) - self.bad_count

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON has it."""
        return {
            "path": str(self.path),
            "lines": self.lines,
            "kept": dict(sorted(self.kept.items())),
            "bad": self.bad_count,
            "unaccounted": self.unaccounted,
            "bad_lines": [{"line": b.line, "reason": b.reason, "text": b.text} for b in self.bad],
            "ignored_columns": list(self.ignored),
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class Unit:
    """
    What is stored whole or not at all: one file, one run, one stretch of a series.

    `identity` names the recording, not the file: the same recording again, from a moved or a corrected or a longer
    file, replaces what was stored of it. `error` says why nothing of the unit can be stored; `facts` go into the
    report.
    """

    name: str
    identity: tuple[str, ...]
    files: list[Account]
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def bad(self) -> int:
        """Bad lines in all files of the unit."""
        return sum(account.bad_count for account in self.files)

    @property
    def part(self) -> str:
        """The name of the unit's segments in the store."""
        digest = hashlib.sha256("\0".join(self.identity).encode()).hexdigest()[:16]
        return f"import-{digest}"


class Store(Protocol):
    """The one thing that imports ask of a store."""

    def replace(self, table: str, part: str, data: pl.DataFrame) -> object:
        """Store *data* as the rows of *part*; the same part again replaces them."""
        ...


@dataclass(slots=True)
class Report:
    """What an import did, or would do."""

    kind: str
    source: str
    dry_run: bool = False
    units: list[dict[str, Any]] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    refused: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was taken in: no unit refused (bad lines left out by request are no failure)."""
        return self.refused == 0

    def as_dict(self) -> dict[str, Any]:
        """The report as ``-o json`` prints it."""
        return {
            "schema": "perfwatt.import/1",
            "kind": self.kind,
            "source": self.source,
            "dry_run": self.dry_run,
            "ok": self.ok,
            "units": self.units,
            "rows": dict(sorted(self.rows.items())),
            "bad_lines": self.bad,
            "refused_units": self.refused,
        }

    def text(self) -> Iterator[str]:
        """The report as a person reads it, line by line."""
        for unit in self.units:
            yield f"{unit['name']}: {unit['state']}" + (f" ({unit['error']})" if unit["error"] else "")
            for key, value in unit["facts"].items():
                yield f"  {key}: {value}"
            for account in unit["files"]:
                counts = ", ".join(f"{count} {name}" for name, count in account["kept"].items())
                bad = f"; {account['bad']} bad" if account["bad"] else ""
                yield f"  {account['path']}: {account['lines']} lines: {counts}{bad}"
                yield from (f"    note: {note}" for note in account["notes"])
                for line in account["bad_lines"]:
                    yield f"    line {line['line']}: {line['reason']}: {line['text']!r}"
                if account["bad"] > len(account["bad_lines"]):
                    yield f"    ... and {account['bad'] - len(account['bad_lines'])} more"
        rows = ", ".join(f"{count} {table}" for table, count in sorted(self.rows.items())) or "nothing"
        yield f"{'would store' if self.dry_run else 'stored'}: {rows}"


def take_in(
    kind: str,
    source: str,
    units: Iterable[Unit],
    store: Store | None,
    *,
    partial: bool = False,
) -> Report:
    """
    Store *units* and report; without a *store*, only report.

    A unit with bad lines or an error is refused: nothing of it is stored. With *partial* its good lines are.
    Raises: StoreError.
    """
    report = Report(kind, source, dry_run=store is None)
    for unit in units:
        refused = unit.error is not None or (unit.bad > 0 and not partial)
        report.bad += unit.bad
        report.refused += refused
        report.units.append(
            {
                "name": unit.name,
                "state": _state(unit, refused=refused, dry_run=store is None),
                "error": unit.error or (f"{unit.bad} bad lines; --partial imports the rest" if refused else None),
                "facts": unit.facts,
                "rows": {table: frame.height for table, frame in unit.frames.items()},
                "files": [account.as_dict() for account in unit.files],
            }
        )
        if refused:
            continue
        for table, frame in unit.frames.items():
            if store is not None:
                store.replace(table, unit.part, frame)
            report.rows[table] += frame.height
    if not report.units:
        raise ImportFailed(source, f"holds nothing that {kind} imports")
    return report


def _state(unit: Unit, *, refused: bool, dry_run: bool) -> str:
    if refused:
        return "refused"
    whole = "partly " if unit.bad else ""
    return f"{whole}readable" if dry_run else f"{whole}stored"


def merged(frames: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The frames that have rows."""
    return {table: frame for table, frame in frames.items() if frame.height}
