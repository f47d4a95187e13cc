"""
Incidents as alerts of an Alertmanager.

An alert is known by its labels. Of one incident they change when it grows (worse, or of a wider place), which makes it
another alert; so what an Alertmanager still has of ours and should not is ended. Nothing else needs to be remembered.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from analytics.anomalies.figures import Figure
from analytics.anomalies.incidents import OPEN
from analytics.anomalies.places import SCOPES
from analytics.anomalies.rules import SEVERITIES
from collector.moments import NS, format_moment

ORIGIN: Final = "origin"
"""The label by which alerts of one store are told from everybody else's."""

Alert = Mapping[str, Any]


def alertname(kind: str) -> str:
    """
    The name of the alert of a kind of incident.

    >>> alertname("device_missing")
    'PerfwattIncidentDeviceMissing'
    """
    return "PerfwattIncident" + "".join(word.capitalize() for word in kind.split("_"))


def labels_of(row: Mapping[str, Any], origin: str) -> dict[str, str]:
    """What an incident's alert is known and routed by."""
    labels = {
        "alertname": alertname(row["kind"]), ORIGIN: origin, "incident": row["incident"], "severity": row["severity"],
        "kind": row["kind"], "scope": row["scope"], row["scope"] if row["scope"] in SCOPES else "name": row["name"],
        "host": row["host"], "site": row["site"],
    }  # fmt: skip
    return {name: str(value) for name, value in labels.items() if value}


def alerts_of(
    rows: Iterable[Mapping[str, Any]],
    *,
    origin: str,
    severity: str,
    now_ns: int,
    hold_s: float,
    link: str | None = None,
) -> list[dict[str, Any]]:
    """
    The alerts of the open incidents that are at least as severe as *severity*.

    In:  rows of incidents, times as nanoseconds.

    An alert ends by itself *hold_s* after *now_ns*, unless it is sent again; *link* is where its incident can be seen,
    with ``{incident}`` for the id.
    """
    worst = SEVERITIES[: SEVERITIES.index(severity) + 1]
    return [
        {
            "labels": labels_of(row, origin),
            "annotations": _annotations(row),
            "startsAt": format_moment(row["start"], UTC),
            "endsAt": format_moment(now_ns + round(hold_s * NS), UTC),
            **({"generatorURL": link.replace("{incident}", row["incident"])} if link else {}),
        }
        for row in rows
        if row["state"] == OPEN and row["severity"] in worst
    ]


def ended(there: Sequence[Alert], wanted: Sequence[Alert], *, now_ns: int) -> list[dict[str, Any]]:
    """Those alerts of *there*, ours that an Alertmanager has, that are not *wanted* any more, ended now."""
    keep = [alert["labels"] for alert in wanted]
    return [
        {
            "labels": dict(alert["labels"]),
            "annotations": dict(alert.get("annotations") or {}),
            "startsAt": alert["startsAt"],
            "endsAt": format_moment(now_ns, UTC),
        }
        for alert in there
        if dict(alert["labels"]) not in keep
    ]


def _annotations(row: Mapping[str, Any]) -> dict[str, str]:
    told = {
        "summary": row["evidence"],
        "description": row["action"],
        "runbook_url": row["runbook"],
        "cost": _cost(row),
    }
    return {name: str(value) for name, value in told.items() if value}


def _cost(row: Mapping[str, Any]) -> str | None:
    told = []
    if row["wasted_j"]:
        told.append(f"{Figure(row['wasted_j'] / 3.6e6):.3g} kWh")
    if row["wasted_cost"]:
        told.append(f"{row['wasted_cost']:.2f} {row['currency']}")
    if row["lost_tokens"]:
        told.append(f"{Figure(row['lost_tokens']):.3g} tokens")
    return f"so far {', '.join(told)}" if told else None


def is_ours(alert: Alert, origin: str) -> bool:
    """Whether an alert was sent by us, and has not ended yet."""
    end = datetime.fromisoformat(alert["endsAt"].replace("Z", "+00:00"))
    return alert["labels"].get(ORIGIN) == origin and end > datetime.now(UTC)
