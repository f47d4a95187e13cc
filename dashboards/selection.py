"""What pages over a window show: the window, a grouping and a filter of places."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast

from analytics.frames import nanoseconds
from dashboards.controls import WINDOWS, Values

NS: Final = 1_000_000_000

By = Literal["site", "host", "device"]
BYS: Final[tuple[By, ...]] = ("site", "host", "device")


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


def selection_of(values: Values) -> Selection:
    """The selection that a page's controls say; a control that the page does not have says what is usual."""
    names = {"window": "window", "by": "by", "site": "sites", "host": "hosts", "device": "devices", "until": "until"}
    return Selection(**{name: cast("str", values[key]) for key, name in names.items() if key in values})  # type: ignore[arg-type]


SPANS: Final = 96
"""A window that ends now begins and ends at a whole part of itself, of which there are so many."""


def span_of(selection: Selection, now_ns: int) -> tuple[int, int]:
    """
    From when until when a page without a clock looks, in nanoseconds.

    What takes seconds to work out is worked out once for every such step, not at every look.
    """
    end_ns = selection.at(now_ns)
    if selection.until is None:
        step_ns = max(selection.window_s // SPANS, 1) * NS
        end_ns = end_ns // step_ns * step_ns
    return end_ns - selection.window_s * NS, end_ns
