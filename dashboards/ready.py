"""
What takes seconds to work out is worked out before somebody asks: Home, the usual pages, and windows that people like.

A page that goes by steps of its window (`dashboards.selection.span_of`) has another answer with each; whoever comes
first in a step would wait for it. Home is of what jobs add to all the time; it shows what was worked out some seconds
ago. Whoever asks goes before: between two pieces of work nothing is begun until the server has been quiet.
"""

import logging
import time
from collections.abc import Sequence
from threading import Event, Lock, Thread
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from collector.errors import TelemetryError
from dashboards.controls import read
from dashboards.data import efficiency, home
from dashboards.data.stored import Stored
from dashboards.page import Page
from dashboards.selection import Selection

log = logging.getLogger(__name__)

QUIET_S: Final = 3.0
"""So long nothing was asked before anything is begun: a browser that takes in a page asks more often."""
PATIENCE_S: Final = 60.0
"""After so long it is begun all the same, or nothing would be ready where many look."""
HOME_S: Final = 5.0
EVERY_S: Final = 60.0
WANTED_S: Final = 3600.0
"""A window that nobody looked at for so long is not kept ready any more."""


class Requests:
    """What is asked of the server: how much at the moment, and since when nothing."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open = 0
        self._last_s = time.monotonic()

    def began(self) -> None:
        """One came."""
        with self._lock:
            self._open += 1

    def ended(self) -> None:
        """One was answered."""
        with self._lock:
            self._open -= 1
            self._last_s = time.monotonic()

    def quiet(self, stop: Event) -> bool:
        """Wait until nothing was asked for `QUIET_S`, or for `PATIENCE_S`; False where *stop* came first."""
        end_s = time.monotonic() + PATIENCE_S
        while not stop.is_set():
            with self._lock:
                now_s = time.monotonic()
                left_s = QUIET_S if self._open else self._last_s + QUIET_S - now_s
            if left_s <= 0 or now_s >= end_s:
                return True
            stop.wait(min(left_s, end_s - now_s))
        return False


class Counted:
    """Counts the requests that pass to an application."""

    def __init__(self, app: ASGIApp, *, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._requests.began()
        try:
            await self._app(scope, receive, send)
        finally:
            self._requests.ended()


def keep_ready(stored: Stored, pages: Sequence[Page], requests: Requests, stop: Event) -> list[Thread]:
    """Work out in the background, until *stop*, Home, what *pages* show first and what people asked for in an hour."""

    def home_again() -> None:
        while True:
            renew(stored)
            if stop.wait(HOME_S):
                return

    def the_rest() -> None:
        for page in pages:
            if not requests.quiet(stop):
                return
            prepare(stored, page)
        while not stop.wait(EVERY_S):
            refresh(stored, requests, stop)

    threads = [Thread(target=work, name=work.__name__, daemon=True) for work in (home_again, the_rest)]
    for thread in threads:
        thread.start()
    return threads


def renew(stored: Stored) -> None:
    """Work out what Home shows now."""
    try:
        home.prepare(stored)
    except TelemetryError as error:
        # Whoever opens the page sees it.
        log.debug("home not ready", extra={"reason": str(error)})


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


def refresh(stored: Stored, requests: Requests, stop: Event) -> None:
    """Work out anew what people asked for within an hour and is of another step by now."""
    for window in stored.wanted(WANTED_S):
        if not requests.quiet(stop):
            return
        try:
            efficiency.told_of(stored, Selection(window=window))
        except TelemetryError as error:
            log.info("window not ready", extra={"window": window, "reason": str(error)})
