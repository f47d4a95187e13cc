"""What an Alertmanager knows of an incident that was handed over to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

from collector.errors import ConfigError

TIMEOUT_S: Final = 2.0
"""A page waits no longer for who does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """
    The alert of an incident at one Alertmanager.

    state: ``active``, ``suppressed``, ``unprocessed``, ``absent`` (it knows no such alert, or has ended it) or
    ``unreachable``, with the reason. receivers are told of it; silences and inhibitions, by id, keep it quiet.
    """

    url: str
    state: str
    reason: str = ""
    receivers: tuple[str, ...] = ()
    silenced_by: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()


def require_urls(urls: Sequence[str], *, option: str) -> tuple[str, ...]:
    """
    Addresses of Alertmanagers, without the slash at the end.

    Raises: ConfigError.
    """
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(option, f"{url!r} is no address; write http://127.0.0.1:9093")
    return tuple(url.rstrip("/") for url in urls)


def alert_of(url: str, incident: str) -> Alert:
    """What the Alertmanager at *url*, of `require_urls`, knows of *incident*."""
    wanted = quote(f"incident={json.dumps(incident)}")
    try:
        with urlopen(f"{url}/api/v2/alerts?filter={wanted}", timeout=TIMEOUT_S) as answer:
            found = json.loads(answer.read())
        if not isinstance(found, list):
            raise ValueError("it answered with no list")
    except (URLError, TimeoutError, ConnectionError, ValueError) as error:
        return Alert(url=url, state="unreachable", reason=str(getattr(error, "reason", error)))
    return _alert(url, found[0]) if found else Alert(url=url, state="absent")


def _alert(url: str, told: Mapping[str, Any]) -> Alert:
    status: Mapping[str, Any] = told.get("status") or {}
    return Alert(
        url=url,
        state=str(status.get("state", "active")),
        receivers=tuple(str(one.get("name")) for one in told.get("receivers") or ()),
        silenced_by=tuple(map(str, status.get("silencedBy") or ())),
        inhibited_by=tuple(map(str, status.get("inhibitedBy") or ())),
    )
