"""
A demonstration: a simulated fleet with a day behind it, an agent that goes on with it, and the dashboard.

What it keeps is in one directory: the store, the agent's configuration and log, and ``fleet.json``, which says what
fleet it is. The next start takes the same fleet up where it ended; after a few days it begins anew, since a simulation
has to run from its origin to now.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from collector.errors import ConfigError, StoreError

NS: Final = 1_000_000_000
HOUR_NS: Final = 3600 * NS
HOST: Final = "127.0.0.1"
STEP_S: Final = 10.0
MOST_HOURS: Final = 72.0
"""Beyond the first history: an older fleet begins anew, because a simulated day of it costs seconds at every start."""

# The agent's first look comes after it has simulated the fleet up to now; the history covers that time.
_HANDOVER_NS: Final = 20 * NS
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
    def log(self) -> Path:
        """What the agent says."""
        return self.root / "agent.log"


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
        metrics = free_port(9400)
        configure(place, options, metrics)
        with agent(place, say):
            fill(place, options, hours=hours, now_ns=time.time_ns(), say=say)
            url = f"http://{HOST}:{port}/"
            say(f"dashboard  {url}")
            say(f"metrics    http://{HOST}:{metrics}/metrics")
            say(f"store      {place.store}   (perfwatt top --store {_short(place.store)})")
            say(f"ready after {time.monotonic() - began:.0f} s; Ctrl-C ends it")
            if browser:
                _open_when_ready(url, port)
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
    wanted = _options(devices, 0)
    if options is not None and {**options, "origin": 0} == wanted:
        age_ns = now_ns - int(options["origin"])
        if hours * HOUR_NS <= age_ns + HOUR_NS and age_ns <= (hours + MOST_HOURS) * HOUR_NS:
            return options
        say("the history is of another length or too old: beginning anew")
    elif options is not None:
        say("another fleet is wanted: beginning anew")
    # Only what a demonstration made is ever deleted: fleet.json is there before the store is.
    if options is not None:
        shutil.rmtree(place.store, ignore_errors=True)
    elif place.store.exists():
        raise ConfigError("--directory", f"{place.store} is there, but is not a demonstration's; choose another")
    made = _options(devices, int(now_ns - hours * HOUR_NS) // HOUR_NS * HOUR_NS)
    temporary = place.fleet.with_suffix(".tmp")
    temporary.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    temporary.replace(place.fleet)
    return made


def _options(devices: int, origin_ns: int) -> dict[str, Any]:
    mixed = devices >= 16
    return {
        "devices": devices,
        "sites": 2 if mixed else 1,
        "seed": 7,
        "mix": {"H100": 0.6, "MI300X": 0.4} if mixed else {"H100": 1.0},
        "faults": 0.02,
        "origin": origin_ns,
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("origin"), int) else None


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
    say(f"simulating {(now_ns - start_ns) / HOUR_NS:.1f} hours of {options['devices']} devices ...")
    rows = 0
    for tables in simulate(options, start_ns, end_ns, STEP_S):
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
        rows += len(tables.get("device_samples", {"time": ()})["time"])
    store.publish()
    return rows


def _last_ns(store: Any, now_ns: int) -> int:
    """The last row of the past in the store; the agent that has just started is writing the present."""
    lasts = [s.last_ns for s in store.segments("device_samples") if s.first_ns < now_ns - _HANDOVER_NS]
    return min(max(lasts, default=0), now_ns)


# ----------------------------------------------------------------------------------------------------------- processes


def configure(place: Place, options: Mapping[str, Any], metrics: int) -> None:
    """Write the agent's configuration."""
    mix = ", ".join(f"{name} = {share}" for name, share in options["mix"].items())
    rest = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items() if key != "mix")
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

[[source]]
type = "simulated"
period_s = 2
deadline_s = 2
mix = {{ {mix} }}
{rest}
"""
    place.config.write_text(text, encoding="utf-8")


@contextmanager
def agent(place: Place, say: Say) -> Iterator[subprocess.Popen[bytes]]:
    """The agent as a child, which ends with this process whatever becomes of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERFWATT_")}
    with place.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "agent", "--config", str(place.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # Ctrl-C on a terminal reaches the whole group; the agent is to hear of the end from here, once.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (no thread runs yet)
        )
    ending = threading.Event()

    def watch() -> None:
        code = process.wait()
        if not ending.is_set():
            say(f"the agent ended with code {code}; {place.log} says why. The page shows what is stored")

    threading.Thread(target=watch, name="watch-agent", daemon=True).start()
    try:
        yield process
    finally:
        ending.set()
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


def _open_when_ready(url: str, port: int) -> None:
    if not (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return

    def wait_and_open() -> None:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    webbrowser.open(url)
                    return
            time.sleep(0.1)

    threading.Thread(target=wait_and_open, name="open-browser", daemon=True).start()


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
