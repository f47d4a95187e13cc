"""Fetching a target's text: bounded in time and size, and every failure with a reason."""

import base64
import errno
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from collector.errors import ConfigError, ReadRetry

# The older text format first: it is what every exporter speaks and what costs least to read.
ACCEPT = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Access:
    """
    How a target is spoken to.

    Secrets are files, read again when they change, so that a rotated token needs no reload. Redirects are not
    followed: they would carry the credentials to where nobody sent them.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    username: str = ""
    password_file: Path | None = None
    bearer_token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    insecure_skip_verify: bool = False
    max_body_bytes: int = 16 << 20


class Secret:
    """The text of a file, read again when the file changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._text = ""

    def read(self) -> str:
        """
        The text, without the line's end.

        Raises: ReadRetry.
        """
        try:
            status = self._path.stat()
            if self._seen != (status.st_mtime_ns, status.st_size):
                self._text = self._path.read_text(encoding="utf-8").strip()
                self._seen = status.st_mtime_ns, status.st_size
        except (OSError, UnicodeDecodeError) as error:
            raise ReadRetry(f"{self._path}: cannot be read: {error}", reason="credentials") from error
        return self._text


class Door:
    """
    An `Access` made ready: the TLS context and the header lines.

    Raises: ConfigError, under *key*, when the certificates cannot be used.
    """

    def __init__(self, access: Access, *, key: str = "tls") -> None:
        self.access = access
        self._token = Secret(access.bearer_token_file) if access.bearer_token_file else None
        self._password = Secret(access.password_file) if access.password_file else None
        self.tls = _context(access, key)

    def headers(self) -> dict[str, str]:
        """
        The headers of the next request.

        Raises: ReadRetry.
        """
        headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip", **self.access.headers}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.read()}"
        elif self.access.username:
            password = self._password.read() if self._password is not None else ""
            pair = base64.b64encode(f"{self.access.username}:{password}".encode()).decode("ascii")
            headers["Authorization"] = f"Basic {pair}"
        return headers


def _context(access: Access, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(access.ca_file) if access.ca_file else None)
        if access.cert_file:
            context.load_cert_chain(access.cert_file, access.key_file)
    except (OSError, ssl.SSLError) as error:
        named = access.cert_file or access.ca_file
        raise ConfigError(key, f"{named}: cannot be used: {error}") from error
    if access.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def session() -> aiohttp.ClientSession:
    """
    A client for all targets: connections are kept, and no target waits for another's.

    Must be called inside a running event loop.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=90, ttl_dns_cache=60, enable_cleanup_closed=False)
    return aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())


async def fetch(client: aiohttp.ClientSession, url: str, door: Door, timeout_s: float) -> bytes:
    """
    The text at *url*.

    Raises: ReadRetry with the reason timeout, dns, refused, unreachable, tls, http_status, redirect, disconnected,
    too_large, encoding, credentials or http.
    """
    try:
        async with client.get(
            url,
            headers=door.headers(),
            ssl=door.tls if url.startswith("https") else True,
            server_hostname=(door.access.server_name or None) if url.startswith("https") else None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            if response.status != 200:
                raise _status(url, response)
            return await _body(url, response, door.access.max_body_bytes)
    except ReadRetry:
        raise
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise ReadRetry(f"{url}: {error or type(error).__name__}", reason=_reason(error)) from error


def _status(url: str, response: aiohttp.ClientResponse) -> ReadRetry:
    if 300 <= response.status < 400:
        where = response.headers.get("Location", "nowhere")
        return ReadRetry(f"{url}: answers {response.status} to {where}; redirects are not followed", reason="redirect")
    return ReadRetry(f"{url}: answers {response.status} {response.reason}", reason="http_status")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return "tls"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        if number == errno.ECONNREFUSED:
            return "refused"
        return "disconnected" if number in {errno.ECONNRESET, errno.EPIPE} else "unreachable"
    # The target had been reached. What ended the connection may carry no number of the system, or one of OpenSSL's.
    if isinstance(error, OSError) and error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT}:
        return "unreachable"
    if isinstance(error, OSError | aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return "disconnected"
    return "http"


async def _body(url: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
    too_large = ReadRetry(f"{url}: more than {limit} bytes", reason="too_large")
    if (response.content_length or 0) > limit:
        raise too_large
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"gzip", "identity", ""}:
        raise ReadRetry(f"{url}: answers in the encoding {encoding}", reason="encoding")
    # What is counted is what comes out of the decompressor, so a small answer cannot unfold into all of the memory.
    unfold = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK) if unfold else response.content.iter_any():
        try:
            part = unfold.decompress(chunk, limit + 1 - size) if unfold else chunk
        except zlib.error as error:
            raise ReadRetry(f"{url}: {error}", reason="encoding") from error
        parts.append(part)
        size += len(part)
        if size > limit:
            raise too_large
    if unfold is not None and not unfold.eof:
        raise ReadRetry(f"{url}: the compressed answer ends too early", reason="encoding")
    return parts[0] if len(parts) == 1 else b"".join(parts)
