"""
The agent: sources to sinks, on the monotonic clock.

One loop waits for workers' messages, signals and the next thing due; it never waits for a source or a sink. Each
configured source is a `Feed` with processes of its own, so one that hangs, crashes or is missing is a gap of its own
and nobody else's. What arrives in one turn goes to every sink in one batch. `daemon.run` puts it all together.
"""

import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol

from collector import logs, wire
from collector.config import Config, SourceConfig
from collector.errors import ConfigError
from collector.feed import Feed, Limits
from collector.health import Health
from collector.notify import Notifier
from collector.process import Worker
from collector.sample import Event, Reading, Severity

log = logging.getLogger(__name__)

_JUMP_S: Final = 1.0
_WATCHDOG_SLACK_S: Final = 10.0
_FAULTS: Final = 10  # turns in a row that may fail before the agent gives up
_RELOAD: Final = "reload"


class Sink(Protocol):
    """Where readings go. `take` must not wait for anything slow."""

    def take(self, readings: Sequence[Reading]) -> None:
        """Take what one turn of the loop brought."""
        ...

    def close(self) -> None:
        """Keep what is not yet kept."""
        ...


class Agent:
    """
    Reads what *config* says into *sinks* until told to stop.

    For a reload, *check* is the command that checks the configuration on disk and *load* gives it. *clock* and
    *wall_ns* are arguments for the tests. `wake` may be called from any thread.
    """

    def __init__(
        self,
        config: Config,
        *,
        host: str,
        sinks: Sequence[Sink],
        health: Health,
        notifier: Notifier,
        load: Callable[[], Config],
        check: Sequence[str],
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self._host = host
        self._sinks = sinks
        self._health = health
        self._notifier = notifier
        self._load = load
        self._check = check
        self._limits = limits or Limits()
        self._clock = clock
        self._wall_ns = wall_ns
        self._selector = selectors.DefaultSelector()
        self._feeds: dict[str, Feed] = {}
        self._batch: list[Reading] = []
        self._ending: list[Worker] = []  # killed, not yet reaped
        self._checker: subprocess.Popen[bytes] | None = None
        self.stopped_s: float | None = None  # when the signal came
        self._ready = False
        self._alive_s = 0.0
        self._offset_ns: int | None = None
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)

    # -------------------------------------------------------------------------------------------------------- control

    @property
    def ringer(self) -> int:
        """The file descriptor that takes signal numbers (for `signal.set_wakeup_fd`)."""
        return self._bell.fileno()

    def wake(self, number: int) -> None:
        """Act as on the signal *number*: SIGTERM and SIGINT stop, SIGHUP reloads."""
        self._bell.send(bytes([number]))

    def ailment(self) -> str | None:
        """What is wrong with the agent itself, in words, or None."""
        now_s = self._clock()
        for name, feed in [*self._feeds.items()]:
            if feed.overdue_s(now_s) > _WATCHDOG_SLACK_S:
                return f"nothing was done about {name} for {feed.overdue_s(now_s):.0f} s"
        return None

    def cadence_s(self, source: str) -> float | None:
        """How often *source* is read, as observed; None before it is known."""
        found = (feed.cadence_s.get(source) for feed in [*self._feeds.values()])
        return next((cadence for cadence in found if cadence is not None), None)

    def run(self) -> None:
        """
        Read until stopped; then end the workers. The sinks stay open.

        Raises: ConfigError, when a source refuses its configuration at the start.
        """
        faults = 0
        now_s = self._clock()
        for source in self.config.sources:
            self._add(source, now_s)
        log.info("agent started", extra={"sources": len(self._feeds), "host": self._host})
        try:
            while self.stopped_s is None:
                try:
                    self._turn()
                    faults = 0
                except ConfigError:
                    raise
                except Exception:
                    # A bug; the next turn may well go on. When none does, the service manager's restart is the better.
                    log.exception("turn failed")
                    faults += 1
                    if faults >= _FAULTS:
                        raise
        finally:
            self._notifier.stopping()
            self._stop_workers()
            self._flush()

    # ----------------------------------------------------------------------------------------------------------- loop

    def _turn(self) -> None:
        now_s = self._clock()
        due_s = min((feed.due_s for feed in self._feeds.values()), default=now_s + 1.0)
        if self._notifier.watchdog_s is not None:
            due_s = min(due_s, self._alive_s + self._notifier.watchdog_s)
        if self._ending:
            due_s = min(due_s, now_s + 1.0)
        ready = self._selector.select(max(0.0, due_s - now_s))
        now_s = self._clock()
        if any(key.fileobj is self._ear for key, _ in ready):
            self._on_signals()
            if self.stopped_s is not None:
                return  # systemd ends the workers with the agent: that they die now is no event
        for key, _ in ready:
            if key.fileobj is self._ear:
                continue
            if key.data == _RELOAD:
                self._on_checked()
            else:
                feed, worker = key.data
                self._hear(feed, worker, now_s)
        for feed in self._feeds.values():
            if now_s >= feed.due_s:
                feed.on_time(now_s)
        self._ending = [worker for worker in self._ending if worker.exit_code() is None]
        self._watch_clock(now_s)
        self._flush()
        self._tell(now_s)

    def _hear(self, feed: Feed, worker: Worker, now_s: float) -> None:
        if worker not in feed.workers:
            return  # replaced earlier in this turn
        error = ""
        try:
            for message in worker.receive():
                feed.on_message(worker, message, now_s)
                if worker not in feed.workers:
                    return
        except wire.WireError as wrong:
            error = str(wrong)
        if worker.ended or error:
            feed.on_end(worker, now_s, error)

    def _flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            for sink in self._sinks:
                sink.take(batch)

    def _watch_clock(self, now_s: float) -> None:
        offset_ns = self._wall_ns() - int(now_s * 1e9)
        before_ns, self._offset_ns = self._offset_ns, offset_ns
        if before_ns is None or abs(offset_ns - before_ns) < _JUMP_S * 1e9:
            return
        step_s = (offset_ns - before_ns) / 1e9
        self._health.clock_jumped()
        log.warning("wall clock jumped", extra={"step_s": step_s})
        self._note("clock_jump", Severity.WARNING, f"the wall clock jumped by {step_s:+.3f} s", value=step_s)

    def _note(self, kind: str, severity: Severity, message: str, *, value: float | None = None) -> None:
        event = Event(
            time_ns=self._wall_ns(), kind=kind, host=self._host, severity=severity, message=message, value=value
        )
        self._batch.append(Reading(source="agent", events=(event,)))

    def _tell(self, now_s: float) -> None:
        for feed in self._feeds.values():
            if feed.rejected is not None:
                rejected, feed.rejected = feed.rejected, None
                if not self._ready:
                    raise ConfigError(f"source {feed.source.name}", rejected)
                self._refused(ConfigError(f"source {feed.source.name}", rejected))
        if not self._ready and all(feed.settled for feed in self._feeds.values()):
            self._ready = True
            self._notifier.ready(self._status())
            log.info("agent ready", extra={"sources": len(self._feeds)})
        watchdog_s = self._notifier.watchdog_s
        if watchdog_s is not None and now_s - self._alive_s >= watchdog_s:
            ailment = self.ailment()
            self._alive_s = now_s
            if ailment is None:
                self._notifier.alive(self._status())
            else:
                log.error("no progress", extra={"ailment": ailment})

    def _status(self) -> str:
        reading = sum(feed.reading for feed in self._feeds.values())
        return f"reading {reading} of {len(self._feeds)} sources"

    # -------------------------------------------------------------------------------------------------------- workers

    def _add(self, source: SourceConfig, now_s: float) -> None:
        feed = self._feeds[source.name] = Feed(
            source,
            host=self._host,
            health=self._health,
            limits=self._limits,
            deliver=self._batch_in,
            watch=self._watch,
            unwatch=self._unwatch,
            wall_ns=self._wall_ns,
            log_level=self.config.agent.log_level,
            log_format=self.config.agent.log_format,
        )
        feed.begin(now_s)

    def _batch_in(self, reading: Reading) -> None:
        self._batch.append(reading)

    def _watch(self, feed: Feed, worker: Worker) -> None:
        self._selector.register(worker.socket, selectors.EVENT_READ, (feed, worker))
        self._health.process(worker.pid, f"worker:{feed.source.name}")

    def _unwatch(self, worker: Worker) -> None:
        self._selector.unregister(worker.socket)
        self._health.process_ended(worker.pid)
        worker.kill()
        if worker.exit_code() is None:
            self._ending.append(worker)

    def _stop_workers(self) -> None:
        """Ask all of them to end, wait a little, kill the rest; one that a driver holds is left to the kernel."""
        workers = [worker for feed in self._feeds.values() for worker in feed.workers]
        for worker in workers:
            worker.finish()
        until_s = time.monotonic() + self._limits.stop_s
        for worker in workers:
            worker.exit_code(max(0.001, until_s - time.monotonic()))
        for worker in workers:
            self._unwatch(worker)
        for worker in self._ending:
            worker.exit_code(0.05)
        self._drop_checker()
        self._feeds.clear()
        self._selector.close()
        self._bell.close()
        self._ear.close()

    # -------------------------------------------------------------------------------------------------------- signals

    def _on_signals(self) -> None:
        for number in self._ear.recv(4096):
            if number in {signal.SIGTERM, signal.SIGINT}:
                log.info("agent stops", extra={"signal": signal.Signals(number).name})
                self.stopped_s = time.monotonic()
            elif number == signal.SIGHUP:
                self._reload()

    def _reload(self) -> None:
        """Load the new configuration; its source options are checked by a child, which imports what they need."""
        if self._checker is None:
            self._notifier.reloading()
        else:
            self._drop_checker()  # the file may have changed since
        log.info("reload begins")
        self._checker = subprocess.Popen([*self._check], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._checker.stdout is not None
        self._selector.register(self._checker.stdout, selectors.EVENT_READ, _RELOAD)

    def _drop_checker(self) -> None:
        if self._checker is not None and self._checker.stdout is not None:
            self._selector.unregister(self._checker.stdout)
            self._checker.kill()
            self._checker.stdout.close()
            self._checker.wait()
            self._checker = None

    def _on_checked(self) -> None:
        checker = self._checker
        assert checker is not None
        assert checker.stdout is not None
        fault = checker.stdout.read().decode()  # it says one thing and ends
        code = checker.wait()
        self._drop_checker()
        try:
            if code:
                raise ConfigError("configuration", fault or f"the check ended with exit code {code}")
            self._apply(self._load())
        except ConfigError as error:
            self._refused(error)
        self._notifier.ready(self._status())

    def _refused(self, error: ConfigError) -> None:
        log.error("configuration refused, the old one stays in force", extra={"error": str(error)})
        self._health.config_reload_ok(False)
        self._note("config_refused", Severity.WARNING, str(error))

    def _apply(self, new: Config) -> None:
        """Start, change and end feeds; a feed that is the same goes on untouched."""
        old, self.config = self.config, new
        now_s = self._clock()
        wanted = {source.name: source for source in new.sources}
        for name in [name for name in self._feeds if name not in wanted]:
            feed = self._feeds.pop(name)
            for worker in feed.workers:
                self._unwatch(worker)
            feed.end()
        for name, source in wanted.items():
            if name not in self._feeds:
                self._add(source, now_s)
            elif source != self._feeds[name].source:
                self._feeds[name].configure(source, now_s)
        logs.configure(level=new.agent.log_level, form=new.agent.log_format, env=os.environ)
        for section in ("store", "prometheus"):
            if getattr(old, section) != getattr(new, section):
                log.warning("section takes effect at the next start", extra={"section": section})
        if old.agent.host != new.agent.host:
            log.warning("section takes effect at the next start", extra={"section": "agent.host"})
        self._health.config_reload_ok(True)
        self._note("config_reloaded", Severity.INFO, f"{len(wanted)} sources")
        log.info("configuration reloaded", extra={"sources": len(wanted)})


@contextmanager
def signals(agent: Agent) -> Iterator[None]:
    """Send SIGTERM, SIGINT and SIGHUP to *agent*, whatever the interpreter is doing at the time."""

    def noted(_number: int, _frame: FrameType | None) -> None:
        # The number is already in the agent's socket.
        return

    before = {number: signal.signal(number, noted) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    wakeup = signal.set_wakeup_fd(agent.ringer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
