"""The HTTP API of a Prometheus server, or of one that answers like it."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from collector.errors import ConfigError, ImportFailed, SourceUnavailable

_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a stretch: its labels, and times (milliseconds) with values as written."""

    name: str
    labels: Mapping[str, str]
    points: Sequence[tuple[int, str]]


@dataclass(slots=True)
class Server:
    """The HTTP API of a server at `url`; user and password may stand in the URL, a bearer token in `token`."""

    url: str
    token: str | None = None
    timeout_s: float = 60.0
    _headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError("URL", f"{self.url!r} is no http:// or https:// address")
        if parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            place = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
            parts = parts._replace(netloc=place)
        if self.token:
            self._headers["Authorization"] = f"Bearer {self.token}"
        self.url = urllib.parse.urlunsplit(parts).rstrip("/")

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Any:
        """
        The ``data`` of an answer.

        Raises: SourceUnavailable (after some attempts), ImportFailed (the server refused).
        """
        body = urllib.parse.urlencode(parameters).encode()
        # Long selectors do not fit into a URL; label values can only be asked for with GET.
        ask = (
            urllib.request.Request(f"{self.url}{path}", data=body, headers=self._headers)
            if path.endswith(("query", "series"))
            else urllib.request.Request(f"{self.url}{path}?{body.decode()}", headers=self._headers)
        )
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(ask, timeout=self.timeout_s) as answer:
                    return self._data(json.load(answer))
            except urllib.error.HTTPError as error:
                message = _message(error)
                if error.code < 500 and error.code != 429:
                    raise ImportFailed(self.url, f"{path}: {error.code}: {message}") from error
                failure = f"{error.code}: {message}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = str(error)
            if attempt < _ATTEMPTS:
                time.sleep(0.2 * 2**attempt)
        raise SourceUnavailable(f"{self.url}{path}: {failure} ({_ATTEMPTS} attempts)")

    def _data(self, answer: Any) -> Any:
        if not isinstance(answer, dict) or answer.get("status") != "success" or "data" not in answer:
            raise ValueError(f"no Prometheus API: {str(answer)[:200]}")
        return answer["data"]

    def label_values(self, label: str, matcher: str, start_ms: int, end_ms: int) -> list[str]:
        """The values of *label* among series that meet *matcher* in the time."""
        span = [("match[]", matcher), ("start", _seconds(start_ms)), ("end", _seconds(end_ms))]
        values = self.get(f"/api/v1/label/{label}/values", span)
        return sorted(str(value) for value in values)

    def samples(self, selector: str, start_ms: int, end_ms: int) -> list[Series]:
        """Every stored sample of *selector* in [start, end), halving the time where the server finds it too much."""
        # The left end of the range belongs to it in Prometheus 2 and not in 3: so it lies a millisecond early,
        # and what is there is cut off.
        query = [("query", f"{selector}[{end_ms - start_ms}ms]"), ("time", _seconds(end_ms - 1))]
        try:
            data = self.get("/api/v1/query", query)
        except ImportFailed as error:
            if "too many samples" not in str(error) or end_ms - start_ms < 2000:
                raise
            middle = (start_ms + end_ms) // 2
            return self.samples(selector, start_ms, middle) + self.samples(selector, middle, end_ms)
        if data.get("resultType") != "matrix":
            raise ImportFailed(self.url, f"{selector}: expected samples, got a {data.get('resultType')}")
        return [_series(result, start_ms, end_ms) for result in data["result"]]


def _series(result: Mapping[str, Any], start_ms: int, end_ms: int) -> Series:
    labels = dict(result["metric"])
    name = labels.pop("__name__", "")
    # Labels that the server added; what the exporter had under these names it keeps as exported_*.
    for label in ("instance", "job"):
        labels.pop(label, None)
        if f"exported_{label}" in labels:
            labels[label] = labels.pop(f"exported_{label}")
    stamped = ((round(stamp * 1000), value) for stamp, value in result.get("values", ()))
    return Series(name, labels, [(at, value) for at, value in stamped if start_ms <= at < end_ms])


def _seconds(ms: int) -> str:
    return f"{ms // 1000}.{ms % 1000:03d}"


def _message(error: urllib.error.HTTPError) -> str:
    body = error.read(10_000)
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace") or str(error.reason)
