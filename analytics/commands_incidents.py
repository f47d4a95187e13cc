"""The commands about what is wrong: incidents, and incidents push to an Alertmanager."""

# ruff: noqa: ARG001 (the options --quiet and --config act by themselves, when they are read)

import json
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import typer

from collector.errors import ConfigError, QueryError, SourceUnavailable
from collector.options import (
    CheckOption,
    ConfigOption,
    FileOption,
    LimitOption,
    OutputOption,
    QuietOption,
    SinceOption,
    StoreOption,
    TzOption,
    UntilOption,
    request,
    say,
    store_root,
)
from collector.output import Format

ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0
TIMEOUT_S: Final = 10.0

app = typer.Typer(name="incidents", rich_markup_mode=None, invoke_without_command=True)


class Severity(StrEnum):
    """From which severity on."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


AlertmanagerOption = Annotated[
    list[str],
    typer.Option("--alertmanager", metavar="URL", help="Where it answers; each of a cluster. May be repeated."),
]
OriginOption = Annotated[
    str, typer.Option("--origin", help="The label by which our alerts are known; one for each store.")
]
HoldOption = Annotated[
    str, typer.Option("--hold", metavar="SPAN", help="An alert ends by itself so long after it was last sent.")
]
LinkOption = Annotated[
    str | None,
    typer.Option("--link", metavar="URL", help="Where an incident can be seen; {incident} stands for its id."),
]


@app.callback()
def incidents(
    context: typer.Context,
    store: StoreOption = None,
    all_states: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    severity: Annotated[Severity, typer.Option("--severity", help="From which severity on.")] = Severity.INFO,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only of this kind. May be repeated.")] = None,
    output: OutputOption = Format.TABLE,
    file: FileOption = None,
    limit: LimitOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: TzOption = "UTC",
    check: CheckOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    What is wrong: open incidents with evidence, cost so far and what to do; the worst and the latest first.

    `perfwatt jobs run` finds them. --since and --until bound when an incident was last seen and when it began.
    """
    if context.invoked_subcommand is not None:
        return
    from analytics.anomalies.listed import listed
    from analytics.commands import answer
    from analytics.frames import scan

    asked = request(output, file, limit, since, until, tz)
    found = listed(
        scan(store_root(store), "incidents"),
        resolved=all_states,
        severity=severity.value,
        kinds=tuple(kind or ()),
        start_ns=asked.start_ns,
        end_ns=asked.end_ns,
    )
    answer("incidents", found, asked, check)


@app.command()
def push(
    alertmanager: AlertmanagerOption,
    store: StoreOption = None,
    severity: Annotated[Severity, typer.Option("--severity", help="From which severity on.")] = Severity.WARNING,
    origin: OriginOption = "perfwatt",
    hold: HoldOption = "15m",
    link: LinkOption = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """
    Hand open incidents to an Alertmanager, each once, and end those alerts of ours that are over.

    It may be run as often as one likes: an Alertmanager knows an alert by its labels. Exit code 3 if one cannot be
    reached, after some attempts.
    """
    told = hand_over(store_root(store), alertmanager, severity=severity.value, origin=origin, hold=hold, link=link)
    say(told)


def hand_over(
    root: Path, urls: Sequence[str], *, severity: str, origin: str, hold: str, link: str | None = None
) -> str:
    """
    Bring each Alertmanager up to date; gives what was done in words.

    Raises: ConfigError, SourceUnavailable (one of them could not be reached, after all others were), QueryError (one
    refused).
    """
    from analytics.anomalies.alerts import alerts_of, ended, is_ours
    from analytics.anomalies.rows import rows_before
    from analytics.frames import scan
    from collector.moments import NS, parse_span

    hold_s = parse_span(hold, option="--hold") / NS
    now_ns = time.time_ns()
    rows = [row for row in rows_before(scan(root, "incidents")) if not row["part_of"]]
    wanted = alerts_of(rows, origin=origin, severity=severity, now_ns=now_ns, hold_s=hold_s, link=link)
    over = 0
    failures: list[SourceUnavailable] = []
    for url in urls:
        base = _base(url)
        try:
            there = _call(f"{base}/api/v2/alerts?filter={quote(f'origin={json.dumps(origin)}')}")
            gone = ended([alert for alert in there if is_ours(alert, origin)], wanted, now_ns=now_ns)
            if wanted or gone:
                _call(f"{base}/api/v2/alerts", [*wanted, *gone])
            over = max(over, len(gone))
        except SourceUnavailable as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return f"{len(wanted)} open incidents handed over, {over} alerts ended"


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError("--alertmanager", f"{url!r} is no address; write http://127.0.0.1:9093")
    return url.rstrip("/")


def _call(url: str, body: Sequence[dict[str, Any]] | None = None) -> Any:
    """
    What the Alertmanager answers.

    Raises: SourceUnavailable, QueryError.
    """
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(ATTEMPTS):
        try:
            # The scheme was checked: a file: or ftp: address never comes here.
            asked = HttpRequest(url, data=data, headers={"Content-Type": "application/json"})
            with urlopen(asked, timeout=TIMEOUT_S) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except HTTPError as error:
            if error.code < 500:
                said = error.read(500).decode(errors="replace").strip()
                raise QueryError(f"{url}: the Alertmanager refused ({error.code}): {said}") from error
            reason = f"it answered {error.code}"
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
        except ValueError as error:
            raise QueryError(f"{url}: no Alertmanager answers there: {error}") from error
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE_S * 2**attempt)
    raise SourceUnavailable(f"{url}: no Alertmanager after {ATTEMPTS} attempts: {reason}")
