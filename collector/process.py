"""A worker process, from the agent's side."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from collector import wire

_STDERR: Final = 2
_RECEIVE_BYTES: Final = 1 << 18


class Worker:
    """A worker process, from the agent's side."""

    def __init__(self, order: wire.Order, now_s: float) -> None:
        self.order = order
        self.started_s = self.heard_s = now_s
        self.ticked = False
        self.ended = False
        self.names: tuple[str, ...] = ()
        self.failure: tuple[str, str] | None = None
        self.socket, theirs = socket.socketpair()
        self._page = wire.Page.create(order)
        self._unframer = wire.Unframer()
        fds = (theirs.fileno(), self._page.fd)
        command = [sys.executable, "-P", "-m", "collector.worker", order.name, *map(str, fds), str(os.getpid())]
        with theirs:
            # stdout is the agent's, for data; a library that prints does so to stderr.
            self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=_STDERR)
        self.socket.setblocking(False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def receive(self) -> Iterator[wire.Message]:
        """
        What has come; sets `ended` when nothing more can.

        Raises: wire.WireError.
        """
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            yield from self._unframer.feed(data)
        else:
            self.ended = True

    def marked(self) -> str:
        """The name of the source that it reads, or died reading."""
        return self._page.marked()

    def finish(self) -> None:
        """Ask it to end."""
        self.socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it now; a process inside a driver may take its time all the same."""
        self._process.kill()
        self.socket.close()
        self._page.close()

    def exit_code(self, within_s: float = 0.0) -> int | None:
        """Its exit code (negative: the signal that killed it), or None while it lives. Reaps the process."""
        try:
            return self._process.wait(within_s) if within_s else self._process.poll()
        except subprocess.TimeoutExpired:
            return None
