"""
The process that reads one configured source: ``python -m collector.worker NAME SOCKET PAGE AGENT``.

The agent starts it, says in a shared page what to read, and can kill it at any moment. It ticks by itself on the
monotonic clock, at multiples of the period, so that all workers of a machine read together and a replacement falls into
step; ticks that pass while one runs over are counted, never caught up. Devices that are read one by one are read by the
thread that ticks, while the main thread watches it and lets another go on when a read hangs. It ends when the agent
closes the socket, and dies with the agent. It imports neither the store nor the exposition.
"""

import ctypes
import gc
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import Final, NoReturn

from collector import logs, wire
from collector.errors import ConfigError, ReadRetry, SourceError
from collector.sample import Gap, Reading
from collector.sources import Opener, Sources
from collector.sources.one_by_one import GivenUp, OneByOne

log = logging.getLogger(__name__)

CONFIG_REASON: Final = "config"
"""The reason of a FAILED message that no second try will mend."""

_PR_SET_PDEATHSIG: Final = 1
_FLUSH_READINGS: Final = 256
_FLUSH_S: Final = 0.2


class Link:
    """The worker's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._encoder = wire.Encoder()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, *message: object) -> None:
        """
        Send *message*; waits while the agent is busy.

        Raises: BrokenPipeError, ConnectionResetError when the agent is gone.
        """
        self._sock.sendall(wire.frame(message))

    def send_tick(
        self, number: int, complete: bool, missed: int, readings: list[Reading], stuck: Mapping[str, float]
    ) -> None:
        """Send what a tick brought so far."""
        self.send(
            wire.TICK, number, complete, missed, [self._encoder.encode(reading) for reading in readings], dict(stuck)
        )

    def closed_within(self, wait_s: float) -> bool:
        """Wait, at most *wait_s*, for the agent to close the socket: its word to end."""
        return bool(self._poll.poll(max(0.0, wait_s * 1000)))


def _load(opener: str) -> Opener:
    module, _, function = opener.partition(":")
    loaded: Opener = getattr(import_module(module), function)
    return loaded


def work(
    order: wire.Order, link: Link, mark: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Open the source and read it on the schedule until the agent closes the link."""
    try:
        with _load(order.opener)(order.options, order.host) as sources:
            names: tuple[str, ...] = ()
            if isinstance(sources, OneByOne):
                sources.select(skip=order.skip, only=order.only, mark=mark, watched=True)
                names = sources.names
            link.send(wire.READY, names)
            gc.collect()
            gc.freeze()  # what was loaded stays: leave it out of every later collection
            ticks = _Ticks(order, link, sources, clock)
            if isinstance(sources, OneByOne):
                _watch(ticks, sources, order.deadline_s)
            else:
                ticks.run()
    except ConfigError as error:
        link.send(wire.FAILED, CONFIG_REASON, str(error))
    except ImportError as error:
        link.send(wire.FAILED, "unavailable", f"{error.name or order.opener} cannot be imported: {error}")
    except SourceError as error:
        link.send(wire.FAILED, error.reason, str(error))


class _Ticks:
    """The ticks, one after another; what of one is not sent yet is kept, so that another thread can go on with it."""

    def __init__(self, order: wire.Order, link: Link, sources: Sources, clock: Callable[[], float]) -> None:
        self._order, self._link, self._sources, self._clock = order, link, sources, clock
        self._number = int(clock() / order.period_s)  # the first at once: a slow period is not waited for
        self._missed = 0
        self._readings: list[Reading] = []
        self._first_s = 0.0
        self.alarm: Callable[[float], object] = lambda _after_s: None

    def run(self) -> None:
        """Tick until the agent closes the link."""
        period_s = self._order.period_s
        while True:
            self.alarm(self._order.deadline_s / 8)
            self._tick()
            self.alarm(0.0)
            following = max(self._number, int(self._clock() / period_s)) + 1
            self._missed, self._number = following - self._number - 1, following
            if self._link.closed_within(following * period_s - self._clock()):
                return

    def _tick(self) -> None:
        # Readings go out as they come where that takes long, and in one message where it does not.
        order, sources = self._order, self._sources
        try:
            for reading in sources.tick(order.deadline_s):
                if not self._readings:
                    self._first_s = time.monotonic()
                self._readings.append(reading)
                if len(self._readings) >= _FLUSH_READINGS or time.monotonic() - self._first_s > _FLUSH_S:
                    self._send(complete=False)
        except ReadRetry as error:
            self._readings.append(Reading(source=order.name, gap=Gap(reason=error.reason, message=str(error))))
        self._send(complete=True)

    def _send(self, *, complete: bool) -> None:
        stuck = self._sources.stuck() if complete and isinstance(self._sources, OneByOne) else {}
        self._link.send_tick(self._number, complete, self._missed, self._readings, stuck)
        self._readings, self._missed = [], 0


def _watch(ticks: _Ticks, sources: OneByOne, deadline_s: float) -> None:
    """
    Let *ticks* run in a thread of its own, and another go on when a read in it takes long.

    The kernel's timer tells of that, so that this thread need not wake up at each tick to see that all is well.
    """
    ended = False
    errors: list[BaseException] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # in every thread that follows: it is waited for below
    ticks.alarm = partial(signal.setitimer, signal.ITIMER_REAL)

    def run() -> None:
        nonlocal ended
        try:
            ticks.run()
        except GivenUp:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread, below
            errors.append(error)
        ended = True
        os.kill(os.getpid(), signal.SIGALRM)

    def start() -> None:
        threading.Thread(target=run, name="ticks", daemon=True).start()

    start()
    while not ended:
        signal.sigwait({signal.SIGALRM})
        again_s = sources.give_up(deadline_s)
        if again_s is None:
            start()
        elif again_s < math.inf:
            ticks.alarm(max(again_s, 0.001))  # 0 would be no alarm
    if errors:
        raise errors[0]


class _Once:
    """Prints the traceback of a thread that ended by an unforeseen error, each kind of error once in ten minutes."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        kind, now_s = f"{args.exc_type.__name__}: {args.exc_value}", time.monotonic()
        if now_s - self._seen.get(kind, -1e9) < 600 or len(self._seen) > 1000:
            return
        self._seen[kind] = now_s
        if args.exc_value is not None:
            log.error("read broke", exc_info=(args.exc_type, args.exc_value, args.exc_traceback))


def main(arguments: list[str]) -> NoReturn:
    """Run a worker; never returns, since a thread that is stuck in a library could keep the interpreter from ending."""
    _, sock_fd, page_fd, parent = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the agent decides
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(0)  # the agent died before the line above
    page = wire.Page(int(page_fd))
    order = page.order()
    logs.configure(level=order.log_level, form=order.log_format, env=os.environ)
    threading.excepthook = _Once()
    sys.excepthook = _broke
    with socket.socket(fileno=int(sock_fd)) as sock:
        link = Link(sock)
        try:
            link.send(wire.HELLO, wire.VERSION)
            work(order, link, page.mark)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the agent is gone, and so is the reason to read
    sys.stderr.flush()
    os._exit(0)


def _broke(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("worker broke", exc_info=(kind, error, trace))


if __name__ == "__main__":
    main(sys.argv[1:])
