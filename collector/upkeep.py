"""
Cleaning up a store, as a child of the agent: ``python -m collector.upkeep ROOT RETAIN_DAYS``.

What that takes of memory is given back when it ends, and when it hangs on a dead disk nobody else does.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from collector import logs
from collector.errors import StoreBusy, StoreError

log = logging.getLogger("collector.upkeep")  # also when it is run as a program

SAMPLES: Final = ("device_samples", "host_samples", "workload_samples", "facility_samples", "processes")
"""What ``raw`` stands for in store.retain_days."""


FIRST_S: Final = 600.0
"""When the first clean-up is due, also where they are further apart: an agent that is often started anew needs them."""


class Upkeep:
    """Cleans up the store at *root* every *every_s* seconds, in a process of its own at low priority."""

    def __init__(self, root: Path, retain_days: Mapping[str, int], every_s: float) -> None:
        self._command = [sys.executable, "-P", "-m", "collector.upkeep", str(root), json.dumps(dict(retain_days))]
        self._every_s = every_s
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, also in the middle: segments are made and deleted one by one, and the next run goes on."""
        self._stop.set()
        if self._child is not None:
            self._child.kill()

    def _run(self) -> None:
        wait_s = min(self._every_s, FIRST_S)
        while not self._stop.wait(wait_s):
            wait_s = self._every_s
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            if self._stop.is_set():
                self._child.kill()
            code = self._child.wait()
            if code and not self._stop.is_set():
                log.warning("clean-up of the store failed", extra={"exit_code": code})


def retention(retain_days: Mapping[str, int]) -> dict[str, int | None]:
    """
    *retain_days* of the configuration by table; None is for ever.

    >>> retention({"raw": 30, "processes": 0})["processes"] is None
    True
    """
    days = dict.fromkeys(SAMPLES, retain_days["raw"]) if "raw" in retain_days else {}
    days |= {table: number for table, number in retain_days.items() if table != "raw"}
    return {table: number or None for table, number in days.items()}


def main(arguments: Sequence[str]) -> int:
    """Clean up once; the exit code is 3 when something of it failed."""
    from collector.store import Store

    root, retain_days = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    logs.configure(level="info", form="logfmt", env=os.environ)
    try:
        Store(root, threads=1, memory="128MB").maintain(retain_days=retention(json.loads(retain_days)))
    except StoreBusy as error:
        log.info("another clean-up is under way", extra={"error": str(error)})
    except StoreError as error:
        log.warning("clean-up failed", extra={"error": str(error)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
