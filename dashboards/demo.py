"""
A demonstration: a simulated fleet with a past, what the jobs make of it, an agent that goes on with it, the dashboard.

What it keeps is in one directory: the store with its fleet.toml, the configuration and log of the agent and the log of
the jobs, the state of the simulation, and ``fleet.json``, which says what fleet it is and what goes wrong with it. The
next start takes the same fleet up where it ended, until its faults, drawn for some weeks, are used up.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from collector.errors import ConfigError, StoreError
from dashboards.story import DAYS_AHEAD, HOUR_NS, LONG_HOURS, NS, STEP_S, fleet_toml, options_of, plan_toml

if TYPE_CHECKING:
    from collector.sources.simulated_history import Tables
    from collector.store import Store

HOST: Final = "127.0.0.1"
SHORT_STEP_S: Final = 10.0
MOST_HOURS: Final = 24.0 * DAYS_AHEAD
"""Beyond the first history: of a later time no faults are drawn, and the fleet begins anew."""
PASS_S: Final = 120
"""The jobs look so often for what is new."""
FIRST: Final = ("rollups", "energy", "incidents", "capacity")
JOBS_NICENESS: Final = 10
"""Whoever looks at a page goes before the jobs, as in deploy/perfwatt-jobs.service."""
FIRST_SINCE: Final = "30h"
"""The jobs that Home stands on, of the time that it is about first; what takes longer comes while people look."""

# The agent's first look comes some seconds after its start; the history covers that time.
_HANDOVER_NS: Final = 20 * NS
_CATCH_UP_NS: Final = 10 * NS
_AHEAD: Final = 3
"""So many parts of the history wait to be written, which bounds memory."""
_STOP_S: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a demonstration."""

    root: Path

    @property
    def store(self) -> Path:
        """The store."""
        return self.root / "store"

    @property
    def fleet(self) -> Path:
        """What fleet it is: the options of the simulated source."""
        return self.root / "fleet.json"

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.root / "perfwatt.toml"

    @property
    def state(self) -> Path:
        """Where the simulation was."""
        return self.root / "fleet.npz"

    def log(self, name: str) -> Path:
        """What the agent says, or the jobs."""
        return self.root / f"{name}.log"


def run(directory: Path, *, port: int, hours: float, devices: int, browser: bool, say: Say) -> None:
    """
    Show the demonstration on 127.0.0.1:*port* until interrupted.

    Raises: ConfigError (the port or the directory is in use), StoreError.
    """
    began = time.monotonic()
    require_port(HOST, port)
    place = Place(directory.absolute())
    with _terminated(), _alone(place):
        options = fleet(place, hours=hours, devices=devices, now_ns=time.time_ns(), say=say)
        while time.time_ns() - filled(place, options, hours=hours, say=say) > _CATCH_UP_NS:
            pass
        metrics = free_port(9400)
        configure(place, options, metrics)
        with lasting(place, "agent", ["agent", "--config", str(place.config)], say):
            conclude(place, say)
            watch = ["jobs", "run", "--watch", str(PASS_S), "--store", str(place.store)]
            with lasting(place, "jobs", watch, say, niceness=JOBS_NICENESS):
                _show(place, port, metrics, began, browser=browser, say=say)


def _show(place: Place, port: int, metrics: int, began: float, *, browser: bool, say: Say) -> None:
    url = f"http://{HOST}:{port}/"
    say(f"dashboard  {url}")
    say(f"metrics    http://{HOST}:{metrics}/metrics")
    say(f"store      {place.store}   (perfwatt top --store {_short(place.store)})")

    def ready() -> None:
        say(f"ready after {time.monotonic() - began:.0f} s; Ctrl-C ends it")
        if browser:
            _open(url)

    _once_listening(port, ready)
    from dashboards.app import serve

    serve(place.store, HOST, port)


def require_port(host: str, port: int) -> None:
    """
    Make sure that *port* can be listened on.

    Raises: ConfigError.
    """
    try:
        _try_port(host, port)
    except OSError as error:
        raise ConfigError("--port", f"{host}:{port} cannot be listened on: {error.strerror}; choose another") from error


def free_port(wanted: int) -> int:
    """*wanted* if nobody listens on it, else one that is free."""
    for port in (wanted, 0):
        try:
            return _try_port(HOST, port)
        except OSError:
            continue
    raise ConfigError("--port", "no port is free on this machine")


def _try_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server will: a connection of a minute ago that is still closing is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        number: int = probe.getsockname()[1]
        return number


# ---------------------------------------------------------------------------------------------------- fleet and past


def fleet(place: Place, *, hours: float, devices: int, now_ns: int, say: Say) -> dict[str, Any]:
    """
    The options of the fleet in *place*: those it has, or new ones if it is another fleet, too young or too old.

    Raises: ConfigError when there is a store that no demonstration made.
    """
    options = _read(place.fleet)
    if options is not None:
        age_ns = now_ns - int(options["origin"])
        if {**options, "faults": ()} != {**options_of(devices, hours, int(options["origin"])), "faults": ()}:
            say("another fleet is wanted: beginning anew")
        elif hours * HOUR_NS <= age_ns + HOUR_NS and age_ns <= (hours + MOST_HOURS) * HOUR_NS:
            return options
        else:
            say("the history is of another length or too old: beginning anew")
    # Only what a demonstration made is ever deleted: fleet.json is there before the store is.
    if options is not None:
        shutil.rmtree(place.store, ignore_errors=True)
    elif place.store.exists():
        raise ConfigError("--directory", f"{place.store} is there, but is not a demonstration's; choose another")
    made = options_of(devices, hours, int(now_ns - hours * HOUR_NS) // HOUR_NS * HOUR_NS)
    temporary = place.fleet.with_suffix(".tmp")
    temporary.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    temporary.replace(place.fleet)
    return made


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("origin"), int) else None


def filled(place: Place, options: Mapping[str, Any], *, hours: float, say: Say) -> int:
    """
    Fill the store up to now, and give the moment that was now.

    Raises: StoreError.
    """
    now_ns = time.time_ns()
    fill(place, options, hours=hours, now_ns=now_ns, say=say)
    return now_ns


def fill(place: Place, options: Mapping[str, Any], *, hours: float, now_ns: int, say: Say) -> int:
    """
    Write the history that the store lacks up to now, and a moment beyond; give the number of device rows.

    Raises: StoreError.
    """
    from collector.sources.simulated import simulate
    from collector.store import Store

    store = Store.create(place.store)
    start_ns = max(_last_ns(store, now_ns) + 1, int(now_ns - hours * HOUR_NS))
    end_ns = now_ns + _HANDOVER_NS
    if now_ns - start_ns > HOUR_NS // 60:
        say(f"simulating {(now_ns - start_ns) / HOUR_NS:.1f} hours of {options['devices']} devices ...")
    rows = 0
    step_s = STEP_S if hours > LONG_HOURS else SHORT_STEP_S
    # The simulation is Python's, and writing is the database's: each has a core of its own.
    with ThreadPoolExecutor(1) as writing:
        left: list[Future[None]] = []
        for tables in simulate({**options, "checkpoint": str(place.state)}, start_ns, end_ns, step_s):
            rows += len(tables.get("device_samples", {"time": ()})["time"])
            left.append(writing.submit(_write, store, tables))
            if len(left) > _AHEAD:
                left.pop(0).result()
        for one in left:
            one.result()
    (place.store / "fleet.toml").write_text(fleet_toml(options), encoding="utf-8")
    if not (place.store / "plan.toml").exists():
        (place.store / "plan.toml").write_text(plan_toml(now_ns), encoding="utf-8")
    store.publish()
    return rows


def _write(store: "Store", tables: "Tables") -> None:
    for name, columns in tables.items():
        store.write(name, columns, writer="history")


def conclude(place: Place, say: Say) -> None:
    """Run the jobs that Home stands on; what they say is in the log."""
    say("energy, incidents and capacity of it ...")
    command = ["jobs", "run", *FIRST, "--since", FIRST_SINCE]
    with child(place, "jobs", [*command, "--store", str(place.store), "-o", "jsonl"]) as process:
        if process.wait():
            say(f"not all of it could be done; {place.log('jobs')} says why")


def _last_ns(store: Any, now_ns: int) -> int:
    """The last row of the past in the store; the agent that has just started is writing the present."""
    lasts = [s.last_ns for s in store.segments("device_samples") if s.first_ns < now_ns - _HANDOVER_NS]
    return min(max(lasts, default=0), now_ns)


# ----------------------------------------------------------------------------------------------------------- processes


def configure(place: Place, options: Mapping[str, Any], metrics: int) -> None:
    """Write the agent's configuration."""
    from analytics.tables import write_toml

    source = {"type": "simulated", "period_s": 2, "deadline_s": 2, **options, "checkpoint": str(place.state)}
    faults, mix = source.pop("faults"), source.pop("mix")
    text = f"""\
# Of `perfwatt demo`, which writes it anew at each start.
[agent]
host = "demo"

[store]
root = {json.dumps(str(place.store))}
seal_s = 2
maintain_s = 120

[prometheus]
listen = "{HOST}:{metrics}"

"""
    text += write_toml({"source": [{**source, "mix": mix}]}) + write_toml({"source.faults": faults})
    place.config.write_text(text, encoding="utf-8")


@contextmanager
def lasting(place: Place, name: str, command: Sequence[str], say: Say, *, niceness: int = 0) -> Iterator[None]:
    """A `child` that is to last: it is told when it ends by itself."""
    ending = threading.Event()
    with child(place, name, command) as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)

        def watch() -> None:
            code = process.wait()
            if not ending.is_set():
                say(f"the {name} ended with code {code}; {place.log(name)} says why. The page shows what is stored")

        threading.Thread(target=watch, name=f"watch-{name}", daemon=True).start()
        try:
            yield
        finally:
            ending.set()


@contextmanager
def child(place: Place, name: str, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A perfwatt *command* as a child, which ends with this process whatever becomes of it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PERFWATT_")}
    with place.log(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # Ctrl-C on a terminal reaches the whole group; the child is to hear of the end from here, once.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (its only call is of libc)
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM as an orderly end: the server closes and hands the signal on, and the agent is still to be stopped."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """
    The directory, for this process alone.

    Raises: ConfigError when another demonstration has it, StoreError when it cannot be written.
    """
    try:
        place.root.mkdir(parents=True, exist_ok=True)
        lock = (place.root / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(place.root, f"cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("--directory", f"{place.root} is in use by another demonstration") from error
        yield


def _once_listening(port: int, then: Callable[[], None]) -> None:
    """Call *then*, in a thread, as soon as the dashboard answers on *port*."""

    def wait() -> None:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    break
            time.sleep(0.1)
        then()

    threading.Thread(target=wait, name="once-listening", daemon=True).start()


def _open(url: str) -> None:
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
