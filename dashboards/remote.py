"""
``perfwatt top --url``: what agents and exporters say now, without a store of theirs.

Their pages are read as the scrape source reads them, into a store of its own that lasts as long as somebody looks; from
there on it is the same `top`.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from analytics.subjects import By
from analytics.top import Overview, overview
from collector.errors import ReadRetry
from collector.sample import Reading
from collector.sources.scrape import Scrape, open_scrape
from collector.store import Store
from collector.store.writer import Writer

LONGEST_WAIT_S: Final = 10.0
"""The first look waits for every address so long at most."""
_NS: Final = 1_000_000_000
_WINDOWS_KEPT: Final = 3


@contextmanager
def watched(
    urls: Sequence[str], *, interval_s: float, window_s: float, rounds: int = 1
) -> Iterator[Callable[[By], Overview]]:
    """
    What tells of *urls* what `analytics.top.overview` tells of a store; each is asked every *interval_s*.

    The first look waits until each has answered *rounds* times, or failed.

    Raises: ConfigError (an address that is none). What is given raises ReadRetry while no address answers.
    """
    options = {"targets": list(urls), "interval_s": interval_s, "timeout_s": min(interval_s, LONGEST_WAIT_S)}
    with (
        TemporaryDirectory(prefix="perfwatt-top-") as folder,
        open_scrape(options, socket.gethostname()) as scrape,
        closing(Store.create(folder).writer("top", seal_s=interval_s, publish=None, maintain=None)) as writer,
    ):
        yield _Watch(Path(folder), scrape, writer, window_s, rounds).look


class _Watch:
    """The addresses, and what each said last."""

    def __init__(self, root: Path, scrape: Scrape, writer: Writer, window_s: float, rounds: int) -> None:
        self._root = root
        self._scrape = scrape
        self._writer = writer
        self._window_s = window_s
        self._rounds = rounds
        self._answers: dict[str, int] = {}
        self._gaps: dict[str, str] = {}

    def look(self, by: By) -> Overview:
        """
        What the addresses tell now.

        Raises: ReadRetry.
        """
        until = time.monotonic() + LONGEST_WAIT_S
        self._take(self._scrape.tick(0.2))
        while not self._complete() and time.monotonic() < until:
            self._take(self._scrape.tick(0.5))
        self._writer.seal()
        self._forget()
        if self._gaps and self._gaps.keys() >= self._answers.keys():
            raise ReadRetry("; ".join(self._gaps.values()))
        if not self._answers:
            raise ReadRetry(f"no answer in {LONGEST_WAIT_S:g} s: {', '.join(self._scrape.targets())}", reason="timeout")
        found = overview(self._root, by=by, now_ns=time.time_ns(), window_s=self._window_s)
        return replace(found, trouble="; ".join(self._gaps.values()))

    def _take(self, readings: Iterable[Reading]) -> None:
        found = list(readings)
        for reading in found:
            self._answers[reading.source] = self._answers.get(reading.source, 0) + 1
            if reading.gap is None:
                self._gaps.pop(reading.source, None)
            else:
                self._gaps[reading.source] = reading.gap.message
        self._writer.take(found)

    def _complete(self) -> bool:
        """Whether each address has answered often enough, or failed."""
        sources = [f"scrape:{url}" for url in self._scrape.targets()]
        return all(source in self._gaps or self._answers.get(source, 0) >= self._rounds for source in sources)

    def _forget(self) -> None:
        """Delete what no look reaches back to: a terminal may stay open for weeks."""
        store, before_ns = Store(self._root), time.time_ns() - round(_WINDOWS_KEPT * self._window_s * _NS)
        for table in ("device_samples", "host_samples", "workload_samples", "facility_samples"):
            for segment in store.segments(table, None, before_ns):
                if segment.last_ns < before_ns:
                    segment.path.unlink(missing_ok=True)
