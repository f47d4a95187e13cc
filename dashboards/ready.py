"""
What takes seconds to work out is worked out before somebody asks: the usual page, and the windows that people look at.

A page that goes by steps of its window (`dashboards.selection.span_of`) has another answer with each; whoever comes
first in a step would wait for it.
"""

import logging
import time
from collections.abc import Sequence
from threading import Event, Thread
from typing import Final

from collector.errors import TelemetryError
from dashboards.controls import read
from dashboards.data import efficiency
from dashboards.data.stored import Stored
from dashboards.page import Page
from dashboards.selection import Selection

log = logging.getLogger(__name__)

BEGIN_S: Final = 4.0
"""Whoever opens the first page goes before."""
EVERY_S: Final = 60.0
WANTED_S: Final = 3600.0
"""A window that nobody looked at for so long is not kept ready any more."""


def keep_ready(stored: Stored, pages: Sequence[Page], stop: Event) -> Thread:
    """Work out in the background, until *stop*, what *pages* show first and what people asked for within an hour."""

    def work() -> None:
        if stop.wait(BEGIN_S):
            return
        for page in pages:
            prepare(stored, page)
        while not stop.wait(EVERY_S):
            refresh(stored)

    thread = Thread(target=work, name="ready", daemon=True)
    thread.start()
    return thread


def prepare(stored: Stored, page: Page) -> None:
    """Work out what *page* shows to whoever opens it."""
    began = time.monotonic()
    try:
        page.content(stored, read(page.controls, ""), "light")
    except TelemetryError as error:
        # Whoever opens the page sees it.
        log.info("page not ready", extra={"page": page.name, "reason": str(error)})
        return
    log.debug("page ready", extra={"page": page.name, "took_s": round(time.monotonic() - began, 3)})


def refresh(stored: Stored) -> None:
    """Work out anew what people asked for within an hour and is of another step by now."""
    for window in stored.wanted(WANTED_S):
        try:
            efficiency.told_of(stored, Selection(window=window))
        except TelemetryError as error:
            log.info("window not ready", extra={"window": window, "reason": str(error)})
