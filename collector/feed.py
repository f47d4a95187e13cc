"""
One configured source as the agent sees it: its worker, and who else reads while that one is in trouble.

Usually there is one worker, the *main* one. When it reports a source that is stuck, a *replacement* is started without
that source; it takes over with its first complete tick, and only then is the old one killed, so the others miss
nothing. The stuck source waits in quarantine, ever longer, until a *probe*, a worker that reads it alone, has an
answer; then a replacement with all of them takes over from both. A worker that dies or falls silent is started again:
at once the first time, then with growing pauses. What no worker reads is a gap at each tick, with the reason.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from collector import wire
from collector.config import SourceConfig, opener_of
from collector.health import Health
from collector.intake import Intake
from collector.process import Worker
from collector.sample import Gap, Reading, Severity
from collector.sources.one_by_one import RESCAN
from collector.worker import CONFIG_REASON

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Patience, in seconds; tests have less of it."""

    open_s: float = 30.0  # from the start of a worker to its first tick; drivers wake sleeping boards
    grace_s: float = 1.0  # beyond period and deadline, before a silent worker is killed
    backoff_s: float = 1.0  # the second restart waits so long, the next twice that, ...
    backoff_most_s: float = 60.0
    stable_s: float = 60.0  # who ran so long without trouble starts afresh
    lost_after: int = 3  # gaps in a row before an event
    stop_s: float = 0.4  # for workers to end by themselves

    def pause_s(self, failures: int) -> float:
        """How long to wait after so many *failures* in a row."""
        return min(self.backoff_most_s, self.backoff_s * 2.0 ** min(max(0, failures - 1), 30))


@dataclass(slots=True)
class _Quarantine:
    until_s: float
    since_s: float
    reason: str


class Feed:
    """
    Reads one ``[[source]]``; readings go to *deliver*, workers to *watch* when they start and *unwatch* when they end.

    Every method takes the monotonic time. `due_s` is when `on_time` wants to be called next.
    """

    def __init__(
        self,
        source: SourceConfig,
        *,
        host: str,
        health: Health,
        limits: Limits,
        deliver: Callable[[Reading], None],
        watch: Callable[["Feed", Worker], None],
        unwatch: Callable[[Worker], None],
        wall_ns: Callable[[], int],
        log_level: str = "info",
        log_format: str = "logfmt",
    ) -> None:
        self.source = source
        self.settled = False  # whether the first attempt is over, well or not
        self.rejected: str | None = None  # what is wrong with its configuration
        self._host = host
        self._health = health
        self._limits = limits
        self._watch = watch
        self._unwatch = unwatch
        self._log = {"log_level": log_level, "log_format": log_format}
        self._main: Worker | None = None
        self._replacement: Worker | None = None
        self._replacement_source = source
        self._probe: Worker | None = None
        self._start_s: float | None = None  # when the main worker is to be started
        self._replace_s: float | None = None  # when a replacement is to be started
        self._failures = 0
        self._replace_failures = 0
        self._intake = Intake(
            source.name, host=host, health=health, deliver=deliver, wall_ns=wall_ns, lost_after=limits.lost_after
        )
        self._down = Gap(reason="unavailable", message="not opened yet")
        self._quarantine: dict[str, _Quarantine] = {}
        self._strikes: dict[str, int] = {}
        self._decoder = wire.Decoder()
        self._boundary_s = 0.0
        health.started(source.name)

    # ---------------------------------------------------------------------------------------------- the agent's side

    @property
    def workers(self) -> list[Worker]:
        """The workers there are now."""
        return [worker for worker in (self._main, self._replacement, self._probe) if worker is not None]

    @property
    def reading(self) -> bool:
        """Whether a worker has ticked and lives."""
        return self._main is not None and self._main.ticked

    @property
    def due_s(self) -> float:
        """When there is something to do next, if nothing arrives before."""
        dues = [self._silent_s(worker) for worker in self.workers]
        dues += [self._start_s] if self._start_s is not None else []
        dues += [self._replace_s] if self._replace_s is not None and self._replacement is None else []
        if self._quarantine or self._main is None or not self._main.ticked:
            dues.append(self._boundary_s)
        if self._probe is None and self._main is not None and self._main.ticked and self._replacement is None:
            dues += [entry.until_s for entry in self._quarantine.values()]
        return min(dues)

    @property
    def cadence_s(self) -> Mapping[str, float]:
        """The seconds between good reads, by source."""
        return self._intake.cadence_s

    def begin(self, now_s: float) -> None:
        """Start the worker."""
        self._boundary_s = self._next_boundary(now_s)
        self._intake.begin(self._tick_before(now_s))
        self._start_main(now_s)

    def configure(self, source: SourceConfig, now_s: float) -> None:
        """Read as *source* says from the first tick of a worker that does; until then, as before."""
        self._replacement_source = source
        if self._main is None:
            self.source = source
        self._drop_replacement()
        self._replace_failures = 0
        self._replace_s = now_s

    def end(self) -> None:
        """Forget this feed; its workers are the agent's to stop."""
        for name in (self.source.name, *self._intake.names):
            self._health.forget(name)

    def on_message(self, worker: Worker, message: wire.Message, now_s: float) -> None:
        """
        Take in what *worker* said.

        Raises: wire.WireError.
        """
        worker.heard_s = now_s
        match message:
            case (wire.HELLO, version):
                if version != wire.VERSION:
                    raise wire.WireError(f"the worker speaks {version}, the agent {wire.VERSION}: restart the agent")
            case (wire.READY, names):
                worker.names = names
                self._on_ready(worker, now_s)
            case (wire.TICK, number, complete, missed, readings, stuck):
                self._on_tick(worker, number, complete, missed, readings, stuck, now_s)
            case (wire.FAILED, reason, text):
                worker.failure = (reason, text)
            case _:
                raise wire.WireError(f"no message: {message!r:.100}")

    def on_end(self, worker: Worker, now_s: float, error: str = "") -> None:
        """*worker* died, ended, or spoke nonsense (*error*)."""
        code = worker.exit_code(0.1)
        if worker.failure is not None:
            reason, message = worker.failure
        else:
            reason, message = "worker_lost", error or _cause_of(code)
            message += f" while reading {worker.marked()}" if worker.marked() else ""
            log.warning("worker lost", extra={"source": self.source.name, "cause": message})
        self._dismiss(worker, reason, message, now_s)

    def on_time(self, now_s: float) -> None:
        """Do what is due."""
        for worker in self.workers:
            if now_s >= self._silent_s(worker):
                self._on_silence(worker, now_s)
        if self._start_s is not None and now_s >= self._start_s:
            self._start_main(now_s)
        if self._replace_s is not None and now_s >= self._replace_s and self._replacement is None:
            self._start_replacement(now_s)
        if now_s >= self._boundary_s:
            self._account(now_s)
            self._boundary_s = self._next_boundary(now_s)
        self._probe_next(now_s)

    def overdue_s(self, now_s: float) -> float:
        """How long something has been due and was not done; what the watchdog asks."""
        return max(0.0, now_s - self.due_s)

    # ------------------------------------------------------------------------------------------------------- workers

    def _launch(self, source: SourceConfig, now_s: float, *, only: str | None = None) -> Worker:
        order = wire.Order(
            name=source.name,
            opener=opener_of(source.type) or "",
            options=source.options,
            host=self._host,
            period_s=source.period_s,
            deadline_s=source.deadline_s,
            skip=frozenset() if only else frozenset(self._quarantine),
            only=only,
            **self._log,
        )
        worker = Worker(order, now_s)
        self._watch(self, worker)
        return worker

    def _start_main(self, now_s: float) -> None:
        self._start_s = None
        self._replace_s = None
        self.source = self._replacement_source
        self._main = self._launch(self.source, now_s)

    def _start_replacement(self, now_s: float) -> None:
        self._replace_s = None
        if self._main is None:
            return  # it is about to be started anyway
        self._replacement = self._launch(self._replacement_source, now_s)

    def _promote(self, now_s: float) -> None:
        """The replacement has read everything once: it is the main worker now."""
        old, self._main, self._replacement = self._main, self._replacement, None
        self.source = self._replacement_source
        self._boundary_s = self._next_boundary(now_s)
        self._replace_failures = 0
        self._health.worker_restarted(self.source.name)
        if old is not None:
            self._unwatch(old)
        if self._probe is not None and self._probe.order.only not in self._quarantine:
            self._unwatch(self._probe)
            self._probe = None
        log.info("worker replaced", extra={"source": self.source.name, "without": sorted(self._quarantine) or None})

    def _drop_replacement(self) -> None:
        if self._replacement is not None:
            self._unwatch(self._replacement)
            self._replacement = None

    def _silent_s(self, worker: Worker) -> float:
        """When *worker* has been silent for too long."""
        if not worker.ticked:
            return worker.started_s + self._limits.open_s
        # Twice the deadline: the longest tick of a OneByOne of which everything hangs.
        return worker.heard_s + worker.order.period_s + 2 * worker.order.deadline_s + self._limits.grace_s

    def _on_silence(self, worker: Worker, now_s: float) -> None:
        silent_s = now_s - worker.heard_s
        culprit = worker.marked()
        log.warning("worker hung", extra={"source": self.source.name, "silent_s": silent_s, "reading": culprit or None})
        where = f" while reading {culprit}" if culprit else ""
        self._dismiss(worker, "timeout", f"the worker was silent for {silent_s:.3g} s{where}", now_s)

    def _dismiss(self, worker: Worker, reason: str, message: str, now_s: float) -> None:
        """Be rid of *worker*, and decide what follows."""
        culprit = worker.marked() if reason in {"timeout", "worker_lost"} else ""
        self._unwatch(worker)
        if worker is self._probe:
            self._probe = None
            self._put_in_quarantine(worker.order.only or "", reason, now_s)
        elif worker is self._replacement:
            self._replacement = None
            self._on_failed_replacement(worker, reason, message, culprit, now_s)
        elif worker is self._main:
            self._main = None
            self._on_failed_main(worker, reason, message, culprit, now_s)

    def _on_failed_replacement(self, worker: Worker, reason: str, message: str, culprit: str, now_s: float) -> None:
        if reason == CONFIG_REASON:
            self.rejected = message
            self._replacement_source = self.source
            return
        self._suspect(culprit, reason, now_s)
        self._replace_failures += 1
        self._replace_s = now_s + self._limits.pause_s(self._replace_failures)
        log.warning("replacement failed", extra={"source": worker.order.name, "reason": reason, "error": message})

    def _on_failed_main(self, worker: Worker, reason: str, message: str, culprit: str, now_s: float) -> None:
        self.settled = True
        if reason == CONFIG_REASON:
            self.rejected, reason = message, "unavailable"
        if reason != self._down.reason or message != self._down.message or worker.ticked:
            log.warning("source down", extra={"source": self.source.name, "reason": reason, "error": message})
        self._down = Gap(reason=reason, message=message)
        if reason in {"timeout", "worker_lost"}:
            self._intake.report("worker_lost", Severity.WARNING, reason, message)
        self._suspect(culprit, reason, now_s)
        if worker.ticked:
            # Ticks that passed while it hung; what is missed from now on, `on_time` counts.
            self._account(now_s)
        if self._replacement is not None:
            self._main, self._replacement = self._replacement, None
            self.source = self._replacement_source
            self._health.worker_restarted(self.source.name)
            return
        if now_s - worker.started_s >= self._limits.stable_s:
            self._failures = 0
        at_once = worker.ticked and not self._failures
        self._failures += 1
        self._start_s = now_s if at_once else now_s + self._limits.pause_s(self._failures)
        self._boundary_s = min(self._boundary_s, self._next_boundary(now_s))
        self._health.worker_restarted(self.source.name)

    # -------------------------------------------------------------------------------------------- stuck, out and back

    def _suspect(self, culprit: str, reason: str, now_s: float) -> None:
        # Reading it took a whole process down: the next one does without it until a probe has read it.
        if culprit and culprit != RESCAN:
            self._put_in_quarantine(culprit, reason, now_s)

    def _put_in_quarantine(self, name: str, reason: str, now_s: float) -> None:
        before = self._quarantine.get(name)
        strikes = self._strikes[name] = self._strikes.get(name, 0) + 1
        pause_s = self._limits.pause_s(strikes)
        since_s = before.since_s if before else now_s
        self._quarantine[name] = _Quarantine(now_s + pause_s, since_s, reason)
        level = logging.INFO if before else logging.WARNING
        log.log(level, "source in quarantine", extra={"source": name, "reason": reason, "next_try_s": pause_s})

    def _on_stuck(self, stuck: dict[str, float], now_s: float) -> None:
        names = [name for name in stuck if name != RESCAN]
        if not names or self._replacement is not None or self._replace_s is not None:
            return
        # One at a time: a hung device that holds the driver's lock makes all of them look stuck.
        culprit = max(names, key=lambda name: stuck[name])
        self._put_in_quarantine(culprit, "timeout", now_s)
        self._start_replacement(now_s)

    def _probe_next(self, now_s: float) -> None:
        if self._probe is not None or self._replacement is not None or self._main is None or not self._main.ticked:
            return
        due = [name for name, entry in self._quarantine.items() if now_s >= entry.until_s]
        if due:
            name = min(due, key=lambda name: self._quarantine[name].until_s)
            self._probe = self._launch(self.source, now_s, only=name)

    def _on_ready(self, worker: Worker, now_s: float) -> None:
        only = worker.order.only
        if worker is self._probe and only is not None and only not in worker.names:
            # It hung, and now it is not even listed.
            gone = Reading(source=only, gap=Gap(reason="device_gone", message="not listed any more"))
            self._intake.take(gone, now_s, worker, now_s)
            self._release(only, now_s)
        for name in worker.names:
            self._intake.expect(name, self._tick_before(now_s), now_s)

    def _on_probed(self, name: str, readings: Sequence[Reading], now_s: float) -> None:
        for reading in readings:
            if reading.source != name or name not in self._quarantine:
                continue
            if reading.gap is None or reading.gap.reason == "device_gone":
                self._release(name, now_s)
            elif self._probe is not None:
                self._dismiss(self._probe, reading.gap.reason, reading.gap.message, now_s)
                return

    def _release(self, name: str, now_s: float) -> None:
        """*name* may be read with the others again."""
        entry = self._quarantine.pop(name)
        log.info("source out of quarantine", extra={"source": name, "after_s": now_s - entry.since_s})
        self._drop_replacement()  # one that was started without it
        self._replace_s = now_s

    # ------------------------------------------------------------------------------------------------------ readings

    def _on_tick(
        self,
        worker: Worker,
        number: int,
        complete: bool,
        missed: int,
        messages: Sequence[wire.Message],
        stuck: dict[str, float],
        now_s: float,
    ) -> None:
        if complete:
            worker.ticked = True
            if worker is self._replacement:
                self._promote(now_s)
        tick_s = number * worker.order.period_s
        readings = [self._decoder.decode(message) for message in messages]
        for reading in readings:
            self._intake.take(reading, tick_s, worker, now_s)
        for source, dropped in self._decoder.dropped.items():
            self._health.values_dropped(source, dropped)
        self._decoder.dropped.clear()
        if worker is self._probe:
            self._on_probed(worker.order.only or "", readings, now_s)
            return
        if missed:
            self._health.ticks_missed(self.source.name, missed)
        if worker is self._main and complete:
            self._after_tick(worker, readings, stuck, now_s)

    def _after_tick(self, worker: Worker, readings: Sequence[Reading], stuck: dict[str, float], now_s: float) -> None:
        self.settled = True
        if now_s - worker.started_s >= self._limits.stable_s:
            self._failures = 0
            self._strikes = {name: number for name, number in self._strikes.items() if name in self._quarantine}
        for reading in readings:
            # It came back by itself, before anybody replaced its worker.
            if reading.gap is None and reading.source in self._quarantine and worker is self._main:
                del self._quarantine[reading.source]
                self._drop_replacement()
        if stuck:
            self._on_stuck(stuck, now_s)
        self._intake.tidy(now_s, keep=self._quarantine)
        self._health.devices_present(self.source.name, self._intake.devices_present)

    # ---------------------------------------------------------------------------------------------------------- gaps

    def _account(self, now_s: float) -> None:
        """A gap for each tick that passed and that no worker accounted for."""
        before_s = self._tick_before(now_s)
        if not self.settled:
            return  # the first opening: nothing was there to be lost
        if self._main is not None and self._main.ticked:
            for name, entry in self._quarantine.items():
                self._intake.missed(
                    name, Gap(reason=entry.reason, message="in quarantine"), before_s, self.source.period_s
                )
        else:
            for name in self._intake.names or (self.source.name,):
                self._intake.missed(name, self._down, before_s, self.source.period_s)

    def _next_boundary(self, now_s: float) -> float:
        # Shortly before a tick the one before has had all the time there is.
        period_s = self.source.period_s
        return (int(now_s / period_s + 0.1) + 1) * period_s - 0.1 * period_s

    def _tick_before(self, now_s: float) -> float:
        return int(now_s / self.source.period_s) * self.source.period_s


def _cause_of(code: int | None) -> str:
    if code is None:
        return "the worker closed its socket"
    return f"the worker was killed by signal {-code}" if code < 0 else f"the worker ended with exit code {code}"
