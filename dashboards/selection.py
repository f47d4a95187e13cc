"""What a page shows, as its URL says it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import parse_qs, urlencode

from analytics.frames import nanoseconds

By = Literal["site", "host", "device"]
BYS: Final[tuple[By, ...]] = ("site", "host", "device")
WINDOWS: Final = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
"""The windows on offer, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    A window, a grouping and a filter; an empty filter lets everything through.

    `until` is the window's end; None is now, and the page follows the clock.
    """

    window: str = "1h"
    by: By = "host"
    sites: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    until: datetime | None = None

    @property
    def window_s(self) -> int:
        """The window's length."""
        return WINDOWS[self.window]

    def at(self, now_ns: int) -> int:
        """The window's end, in nanoseconds, where *now_ns* is now."""
        return now_ns if self.until is None else nanoseconds(self.until)


def from_query(search: str) -> Selection:
    """The selection that a URL's query says; what it says wrongly is as if it were not there."""
    query = parse_qs((search or "").removeprefix("?"))
    selection = Selection(
        sites=tuple(query.get("site", ())), hosts=tuple(query.get("host", ())), devices=tuple(query.get("device", ()))
    )
    window, by, until = (query.get(name, [""])[0] for name in ("window", "by", "until"))
    if window in WINDOWS:
        selection = replace(selection, window=window)
    if by in BYS:
        selection = replace(selection, by=by)
    return replace(selection, until=moment(until))


def to_query(selection: Selection) -> str:
    """The query that reproduces *selection*; what is usual is left out."""
    usual = Selection()
    pairs = [("window", selection.window)] if selection.window != usual.window else []
    pairs += [("by", selection.by)] if selection.by != usual.by else []
    for name, values in (("site", selection.sites), ("host", selection.hosts), ("device", selection.devices)):
        pairs += [(name, value) for value in values]
    if selection.until is not None:
        pairs.append(("until", selection.until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
    return "?" + urlencode(pairs) if pairs else ""


def moment(text: str | None) -> datetime | None:
    """A time in ISO form (UTC where it names no zone); None where it is none."""
    try:
        found = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
