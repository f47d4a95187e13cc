"""The agent as a process: configuration, log, store, metrics page, signals; ends within two seconds whatever hangs."""

import gc
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from collector import logs
from collector.agent import Agent, Sink, signals
from collector.catalogue import QUEUE_DEPTH, ROWS_DROPPED, ROWS_STORED, SEAL_SECONDS, STORE_ERRORS
from collector.config import Config, load
from collector.errors import ConfigError, StoreError
from collector.exposition import STALE_AFTER_S, Exposition
from collector.feed import Limits
from collector.health import Health, Value
from collector.notify import Notifier
from collector.server import Server
from collector.store import Store, Writer
from collector.upkeep import Upkeep

log = logging.getLogger("collector.daemon")  # also when it is run as a program

EXIT_S: Final = 1.8
"""From the signal to the end of the process, whatever hangs."""

UNKNOWN_CADENCE_S: Final = 120.0
"""How long a sample is shown that is the first of its source: some are read once a minute."""

OK: Final = 0
WRONG_CONFIG: Final = 2
UNAVAILABLE: Final = 3


def run(
    path: Path | None,
    *,
    env: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    limits: Limits | None = None,
) -> int:
    """
    Run the agent until a signal ends it; the exit code is 0, 2 (configuration) or 3 (the store or the port is taken).

    What is wrong is logged, with file, key and value.
    """

    def from_disk() -> Config:
        return load(path, env=env, overrides=overrides)

    check = [sys.executable, "-P", "-m", "collector.config", *([str(path)] if path else [])]
    logs.configure(level="info", form="logfmt", env=env)
    try:
        config = from_disk()
        logs.configure(level=config.agent.log_level, form=config.agent.log_format, env=env)
        # Its source options: a child imports what they need, so that this process stays small.
        fault = subprocess.run(check, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        if fault.returncode:
            raise ConfigError("configuration", fault.stdout.decode() or "the check of the source options failed")
        return _run(config, from_disk, check, env, limits)
    except ConfigError as error:
        log.error("configuration refused", extra={"error": str(error)})
        return WRONG_CONFIG
    except StoreError as error:
        log.error("store refused", extra={"error": str(error)})
        return UNAVAILABLE


def _run(
    config: Config, from_disk: Callable[[], Config], check: Sequence[str], env: Mapping[str, str], limits: Limits | None
) -> int:
    health = Health()
    host = config.agent.host or socket.gethostname()
    agents: list[Agent] = []  # the page shows what the agent knows, and the agent feeds the page
    sinks: list[Sink] = []
    closers: list[Callable[[], None]] = []
    if config.prometheus.listen:
        exposition = Exposition(health, stale_after_s=lambda source: _lifetime_s(agents, source))
        sinks.append(exposition)
        server = Server(
            exposition,
            config.prometheus.listen,
            web_config=Path(config.prometheus.web_config) if config.prometheus.web_config else None,
            alive=lambda: agents[0].ailment() if agents else None,
        )
        closers.append(server.close)
    if config.store.root:
        store = Store.create(Path(config.store.root).expanduser(), threads=1, memory="96MB")
        # Upkeep knows the configured retention; the writer's own would expire by the default.
        writer = store.writer(f"agent-{_file_name(host)}", seal_s=config.store.seal_s, host=host, maintain=None)
        health.watch(lambda: _store_values(writer))
        sinks.append(writer)
        closers.append(writer.close)
        if config.store.maintain_s:
            closers.append(Upkeep(store.root, config.store.retain_days, config.store.maintain_s).close)
    with Notifier(env) as notifier:
        agent = Agent(
            config,
            host=host,
            sinks=sinks,
            health=health,
            notifier=notifier,
            load=from_disk,
            check=check,
            limits=limits,
        )
        agents.append(agent)
        if config.prometheus.listen:
            server.start()
        gc.collect()
        gc.freeze()  # what was loaded stays: to look through all of it would hold up a scrape for 20 ms
        try:
            with signals(agent):
                agent.run()
        finally:
            began_s = agent.stopped_s if agent.stopped_s is not None else time.monotonic()
            if not _close(closers, began_s + EXIT_S):
                # A disk or a driver that does not answer: what is sealed is sealed, and the rest cannot be saved.
                log.error("ended without closing everything")
                logging.shutdown()
                os._exit(OK)
    return OK


def _lifetime_s(agents: Sequence[Agent], source: str) -> float:
    """How long a sample of *source* is shown: three of its reads, as often as it is seen to be read."""
    cadence_s = agents[0].cadence_s(source) if agents else None
    return UNKNOWN_CADENCE_S if cadence_s is None else max(STALE_AFTER_S, 3 * cadence_s)


def _store_values(writer: Writer) -> Iterable[Value]:
    status = writer.status
    yield QUEUE_DEPTH, {"queue": "store"}, float(status.waiting)
    yield ROWS_STORED, {}, float(status.sealed)
    yield ROWS_DROPPED, {"queue": "store"}, float(status.dropped)
    yield STORE_ERRORS, {}, float(status.errors)
    if status.sealed_ns:
        yield SEAL_SECONDS, {}, status.seal_s


def _file_name(host: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in host).strip("-") or "host"


def _close(closers: Sequence[Callable[[], None]], until_s: float) -> bool:
    """Call each of *closers* in a thread of its own; whether all were done by *until_s* (monotonic)."""
    threads = [threading.Thread(target=close, name="close", daemon=True) for close in closers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def become(path: Path | None, overrides: Mapping[str, object] | None = None) -> NoReturn:
    """Make this process the agent, under its own pid: what a command line has imported by now is not kept in memory."""
    order = json.dumps({"path": str(path) if path else None, "overrides": dict(overrides or {})})
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "collector.daemon", order])


def main(arguments: Sequence[str]) -> int:
    """Run the agent as `become` orders; the order may be left out."""
    order = json.loads(arguments[0]) if arguments else {"path": None, "overrides": {}}
    return run(Path(order["path"]) if order["path"] else None, env=os.environ, overrides=order["overrides"])


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # All is closed. Taking the interpreter apart costs time, and what was frozen DuckDB's binding would call leaked.
    logging.shutdown()
    os._exit(code)
