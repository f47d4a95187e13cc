"""MLPerf's log lines: ``:::MLLOG {json}``, perhaps behind a rank."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from collector.imports.lines import Lines, is_text
from collector.imports.report import Account

_MARK = ":::MLLOG"


@dataclass(frozen=True, slots=True)
class Entry:
    """One MLLOG line: its number, time, key, value and metadata."""

    line: int
    time_ms: float
    key: str
    value: Any
    metadata: dict[str, Any]

    @property
    def time_ns(self) -> int:
        """The time in Unix nanoseconds."""
        # The logs have milliseconds; a float of nanoseconds would not be exact.
        return round(self.time_ms * 1000) * 1000


def entries(lines: Lines, account: Account, *, only: bool) -> Iterator[Entry]:
    """
    The MLLOG lines of a file; refuses the broken ones into *account*.

    With *only*, a line that is no MLLOG line is bad as well; otherwise it is a program's other output. The caller
    counts the entries.
    """
    for number, text in enumerate(lines.texts, 1):
        stripped = text.strip()
        if not stripped:
            account.kept["blank"] += 1
            continue
        at = stripped.find(_MARK)
        if at < 0:
            if only or "MLLOG" in stripped or '"time_ms"' in stripped:
                account.refuse(number, "no MLLOG line", text)
            else:
                account.kept["other"] += 1
            continue
        entry = _entry(number, stripped[at + len(_MARK) :]) if is_text(text) else "broken characters"
        if isinstance(entry, str):
            account.refuse(number, entry, text)
        else:
            yield entry


def _entry(number: int, text: str) -> Entry | str:
    try:
        data = json.loads(text)
    except ValueError:
        return "not JSON"
    if not isinstance(data, dict) or not isinstance(data.get("key"), str):
        return "no key"
    time_ms = data.get("time_ms")
    if not is_number(time_ms):
        return f"time_ms is no number: {time_ms!r}"
    metadata = data.get("metadata")
    return Entry(number, time_ms, data["key"], data.get("value"), metadata if isinstance(metadata, dict) else {})


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number (a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
