"""Messages to systemd (sd_notify): ready, reloading, stopping, and that the agent still makes progress."""

import logging
import socket
import time
from collections.abc import Mapping
from types import TracebackType

log = logging.getLogger(__name__)


class Notifier:
    """
    Tells the service manager named in *env* what state the agent is in; does nothing where there is none.

    `watchdog_s` is how often `alive` is to be called, half of what systemd allows; None without a watchdog.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)  # a service manager that is busy must not stop the agent
        micros = env.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(micros) / 2e6 if self._socket is not None and micros.isdecimal() and int(micros) else None

    def __enter__(self) -> "Notifier":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()

    def ready(self, status: str) -> None:
        """The agent reads; also said after a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload begins; ends with `ready`. The time is what Type=notify-reload asks for."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The agent ends."""
        self._send("STOPPING=1")

    def alive(self, status: str) -> None:
        """The agent made progress since the last time."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("service manager not told", extra={"text": text.partition("\n")[0], "error": error})
