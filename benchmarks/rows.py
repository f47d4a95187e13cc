"""One line of the results table."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured value, the peer or bound measured in the same run, and whether the bar was met (None: no bar)."""

    benchmark: str
    subject: str
    measure: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    bar: str = ""
    ok: bool | None = None
