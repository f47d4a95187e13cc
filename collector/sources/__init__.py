"""
Where samples come from.

A source type is an opener: a function that takes its options and yields `Sources`, whose `tick` reads everything it
has once. The worker calls `tick` on the schedule, in a process that can be killed; nothing here knows of the store or
of Prometheus. A vendor module with one handle per device is a table of readers, an opener and `read`;
`one_by_one.OneByOne` turns a list of `Source` into `Sources` with a deadline for each.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from collector.sample import Reading


class Source(Protocol):
    """
    One device (or endpoint, or host) with one method.

    Raises, from `read`: ReadRetry (a gap; try again next tick), DeviceGone (an event; the series ends).
    """

    name: str

    def read(self) -> Reading:
        """Read once, now."""
        ...


class Sources(Protocol):
    """Everything that one worker reads."""

    def tick(self, deadline_s: float) -> Iterable[Reading]:
        """
        Read each source once and give a reading for each, one with a `gap` for those that failed.

        A source slower than *deadline_s* is a gap with the reason ``timeout``; it never delays the others.
        Whoever iterates passes readings on as they come.
        """
        ...


Options = Mapping[str, Any]
Opener = Callable[[Options, str], AbstractContextManager[Sources]]
"""Takes the options of a ``[[source]]`` table and the host's name. Raises: SourceUnavailable, ConfigError."""

OPENERS: Mapping[str, str] = {
    "nvml": "collector.sources.nvml:open_nvml",
    "scrape": "collector.sources.scrape:open_scrape",
    "replay": "collector.replaying:open_replay",
    "simulated": "collector.sources.simulated:open_simulated",
}
"""The one list of source types; resolved when asked for, so that an unused vendor library is never imported."""
