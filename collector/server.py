"""
The HTTP server of the agent: ``/metrics``, ``/healthz``, ``/readyz`` and a page that says so.

It listens on 127.0.0.1 unless told otherwise. Nobody who connects can stop the agent: connections are bounded, a TLS
handshake happens in the connection's own thread, and a connection that takes longer than its deadline is cut.
"""

import base64
import binascii
import contextlib
import logging
import queue
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from prometheus_client.exposition import choose_encoder, gzip_accepted

from collector.errors import ConfigError
from collector.exposition import Exposition
from collector.web_config import Doorkeeper, Reloading, Throttle, WebConfig

log = logging.getLogger(__name__)

LISTEN: Final = "127.0.0.1:9400"
MAX_CONNECTIONS: Final = 64
REQUEST_S: Final = 10.0
"""How long a connection may take over its handshake, its request and the sending of the answer."""
IDLE_S: Final = 75.0
"""How long a connection is kept between requests: above the usual scrape interval of a minute."""
IDLE_THREADS: Final = 2
"""Threads that are kept for the next connections."""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>perfwatt agent</title></head>
<body><h1>perfwatt agent</h1>
<ul>
<li><a href="metrics">metrics</a>: the latest sample of every device, host, workload and meter</li>
<li><a href="healthz">healthz</a>: the agent runs</li>
<li><a href="readyz">readyz</a>: the agent has samples</li>
</ul></body></html>
"""


@dataclass(slots=True)
class _Connection:
    """A client's connection, when it must be done, and whether it only waits for its next request."""

    socket: socket.socket
    deadline_s: float
    idle: bool = False


class Server(ThreadingMixIn, TCPServer):
    """Serves *exposition* from threads until `close`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        exposition: Exposition,
        listen: str = LISTEN,
        *,
        web_config: Path | None = None,
        alive: Callable[[], str | None] = lambda: None,
        ready: Callable[[], str | None] | None = None,
        max_connections: int = MAX_CONNECTIONS,
        request_s: float = REQUEST_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """
        Listen on *listen* (``host:port``) at once; nothing is answered before `start`.

        *alive* and *ready* say what is wrong, or None; without *ready* the agent is ready once it has a sample.

        Raises: ConfigError, for an address that cannot be had or a wrong web configuration file.
        """
        self.exposition = exposition
        self.alive = alive
        self.ready = ready or (lambda: "no sample yet" if exposition.empty else None)
        self.web_config = Reloading(web_config)
        self.doorkeeper = Doorkeeper()
        self.throttle = Throttle()
        self.request_s = request_s
        self.idle_s = idle_s
        self._max_connections = max_connections
        self._connections: dict[int, _Connection] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._accepted: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()  # None: there will be no more
        self._idle = 0  # threads that wait for a connection
        host, port = _parsed(listen)
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, _, _, _, address = found[0]
            super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise ConfigError("prometheus.listen", f"{listen}: {error.strerror or error}") from error

    @property
    def port(self) -> int:
        """The port in use; of interest where 0 was asked for."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = str(self.socket.getsockname()[0])
        scheme = "http" if self.web_config().tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"

    def start(self) -> None:
        """Answer, in threads of its own."""
        self._thread = threading.Thread(target=self._serve, name="perfwatt-http", daemon=True)
        self._thread.start()
        log.info("listening", extra={"url": self.url})

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._closing = True
        if self._thread is not None:
            _cut(self.socket)  # wakes the thread
            self._thread.join()
        self.server_close()
        with self._lock:
            connections = list(self._connections.values())
            idle, self._idle = self._idle, 0
        for connection in connections:
            _cut(connection.socket)
        for _ in range(idle):
            self._accepted.put(None)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver calls it so
        """Whether there is room for one more; a connection that only waits makes room for it."""
        with self._lock:
            if len(self._connections) >= self._max_connections:
                idle = [connection for connection in self._connections.values() if connection.idle]
                if not idle:
                    return False
                longest = min(idle, key=lambda connection: connection.deadline_s)
                longest.idle = False
                _cut(longest.socket)
            self._connections[id(request)] = _Connection(request, time.monotonic() + self.request_s)
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a thread serve a connection, one that waits for it where there is one: to start one takes a while."""
        with self._lock:
            waiting, self._idle = self._idle, max(0, self._idle - 1)
        self._accepted.put((request, client_address))
        if not waiting:
            threading.Thread(target=self._work, name="perfwatt-http", daemon=True).start()

    def _work(self) -> None:
        while (accepted := self._accepted.get()) is not None:
            self.process_request_thread(*accepted)
            with self._lock:
                if self._idle >= IDLE_THREADS or self._closing:
                    return
                self._idle += 1

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: the handshake, then its requests."""
        connection = self._connections[id(request)]
        config = self.web_config()
        try:
            if config.tls is not None:
                # The handshake comes after the connection is known under its new socket, so that it can be cut.
                connection.socket = config.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                connection.socket.settimeout(self.request_s)
                connection.socket.do_handshake()
                if not config.client_allowed(connection.socket.getpeercert()):
                    log.info("client_refused", extra={"client": str(client_address), "reason": "client_allowed_sans"})
                    return
            # The deadline is the server's; this is for a server whose own thread has ended.
            connection.socket.settimeout(max(self.request_s, self.idle_s))
            _Handler(connection.socket, client_address, self, connection)
        except (OSError, ValueError) as error:
            # Somebody left, was cut, or spoke no TLS: nothing that an operator could act on.
            log.debug("connection_ended", extra={"client": str(client_address), "reason": str(error)})
        finally:
            if connection.socket is not request:
                connection.socket.close()

    def shutdown_request(self, request: Any) -> None:
        """Close, and make room."""
        with self._lock:
            self._connections.pop(id(request), None)
        super().shutdown_request(request)

    def _serve(self) -> None:
        """Accept connections and cut those whose time is over. (`serve_forever` wakes up twice a second for that.)"""
        while not self._closing:
            self.handle_request()
            now_s = time.monotonic()
            left_s: list[float] = []
            with self._lock:
                for connection in self._connections.values():
                    if connection.deadline_s < now_s:
                        _cut(connection.socket)  # its own thread ends with it
                    else:
                        left_s.append(connection.deadline_s - now_s)
            # One that only waited has less time once its request comes, of which nobody tells this thread.
            self.timeout = min(*left_s, self.request_s / 2) if left_s else None

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver calls it so
        """Log what went wrong inside; the client sees its connection end."""
        log.exception("request_failed", extra={"client": str(client_address)})

    def waits(self, connection: _Connection) -> None:
        """*connection* waits for its next request."""
        with self._lock:
            connection.deadline_s = time.monotonic() + self.idle_s
            connection.idle = True

    def works(self, connection: _Connection) -> None:
        """*connection* has begun a request."""
        with self._lock:
            connection.deadline_s = time.monotonic() + self.request_s
            connection.idle = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "perfwatt"
    sys_version = ""
    # Headers and body leave together: in two small packets the second would wait 40 ms for the first's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def __init__(self, request: Any, client_address: Any, server: Server, connection: _Connection) -> None:
        self._connection = connection
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        """Answer until the connection closes."""
        self.handle_one_request()
        while not self.close_connection:
            self.server.waits(self._connection)
            if not self.rfile.peek(1):  # type: ignore[attr-defined]
                return
            self.server.works(self._connection)
            self.handle_one_request()

    def do_GET(self) -> None:
        """Answer one of the four paths, for those who may ask."""
        # A body would be read as the next request.
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        config = self.server.web_config()
        if not self.server.throttle.admits(config.interval_s, config.burst):
            self._answer(config, HTTPStatus.TOO_MANY_REQUESTS, "too many requests\n")
        elif config.users and not self._admitted(config):
            challenge = ("WWW-Authenticate", 'Basic realm="perfwatt", charset="UTF-8"')
            self._answer(config, HTTPStatus.UNAUTHORIZED, "unauthorized\n", challenge)
        else:
            self._route(config)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def do_POST(self) -> None:
        """Refuse: there is nothing to write here."""
        self.close_connection = True
        self._answer(self.server.web_config(), HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD\n", ("Allow", "GET, HEAD"))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 - http.server looks for these names

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing per request."""

    def _route(self, config: WebConfig) -> None:
        parts = urlsplit(self.path)
        match parts.path:
            case "/metrics":
                self._metrics(config, parse_qs(parts.query).get("name[]", []))
            case "/healthz" | "/readyz":
                wrong = self.server.alive() if parts.path == "/healthz" else self.server.ready()
                status = HTTPStatus.OK if wrong is None else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(config, status, f"{wrong or 'ok'}\n")
            case "/":
                self._answer(config, HTTPStatus.OK, _PAGE, ("Content-Type", "text/html; charset=utf-8"))
            case _:
                self._answer(config, HTTPStatus.NOT_FOUND, "not found; there are /metrics, /healthz and /readyz\n")

    def _metrics(self, config: WebConfig, names: list[str]) -> None:
        _, wanted = choose_encoder(self.headers.get("Accept", ""))
        openmetrics = wanted.startswith("application/openmetrics-text")
        # Every name here is a plain one, so that `underscores` says the truth whatever was asked for.
        if openmetrics:
            content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
        elif "version=1.0.0" in wanted:
            content_type = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
        else:
            content_type = "text/plain; version=0.0.4; charset=utf-8"
        body = self.server.exposition.render(openmetrics=openmetrics, names=names)
        headers = [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding")]
        if gzip_accepted(self.headers.get("Accept-Encoding", "")):
            packer = zlib.compressobj(level=1, wbits=31)
            body = packer.compress(body) + packer.flush()
            headers.append(("Content-Encoding", "gzip"))
        self._answer(config, HTTPStatus.OK, body, *headers)

    def _answer(self, config: WebConfig, status: HTTPStatus, body: str | bytes, *headers: tuple[str, str]) -> None:
        content = body.encode("utf-8", "replace") if isinstance(body, str) else body
        known = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", **config.headers}
        known |= dict(headers)
        known["Content-Length"] = str(len(content))
        if self.close_connection:
            known["Connection"] = "close"
        self.send_response(status)
        for name, value in known.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _admitted(self, config: WebConfig) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).partition(b":")
            name = user.decode()
        except (binascii.Error, ValueError):
            return False
        return scheme.lower() == "basic" and self.server.doorkeeper.admits(config.users, name, password)


def _cut(connection: socket.socket) -> None:
    """End *connection* from another thread; the thread that reads or writes it wakes with an end or an error."""
    # Not SSLSocket.shutdown, which drops the encryption first: a write still under way would go out in the clear.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _parsed(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("prometheus.listen", f"{listen!r}: must be HOST:PORT, such as {LISTEN}")
    return host.removeprefix("[").removesuffix("]"), int(port)
