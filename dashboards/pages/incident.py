"""The Incident page: one incident with the series that show it, its cost, what to do, and who is told."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import polars as pl
from dash import html

from analytics.anomalies.alerts import labels_of
from analytics.anomalies.evidence import Evidence
from dashboards.controls import One, Values
from dashboards.data import incidents as data
from dashboards.data.alertmanager import Alert, alert_of
from dashboards.data.incidents import IncidentView
from dashboards.data.stored import Stored, utc
from dashboards.figures import incidents as figures
from dashboards.figures.style import legend_of, short
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import badge, beside, chart, coded, facts, notice, panel, remark, small_table, tile, twins
from dashboards.words import ABSENT, joined, money, number, watt_hours, when

_CONTROLS: Final = (One("id", "Incident", placeholder="choose an incident"),)
_ROWS: Final = 12


def _body() -> Sequence[Any]:
    return (
        html.Div(id="incident-facts"),
        beside(
            [
                chart("incident-evidence", "What its rule looked at", height=300),
                chart("incident-power", "Power of its devices", height=300),
            ]
        ),
        html.Div(id="incident-happened"),
        panel("Events", html.Div(id="incident-told"), aside=twins("incident-events", "Events")),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    id = str(values["id"])
    view = data.incident(stored, id) if id else None
    if view is None:
        return Content(notice=_nothing(stored, id))
    first = view.evidence[0] if view.evidence else None
    shown, power = figures.evidence(view, first, theme), figures.power(view, theme)
    return Content(
        status=f"{view.row['state'].capitalize()}, last seen {when(utc(view.row['last']))}.",
        tiles=_tiles(view.row),
        charts={
            "evidence": Drawn(figure=shown, words=_evidence_words(view, first), legend=legend_of(shown)),
            "power": Drawn(
                figure=power, words="Means of five minutes; shaded is how long it lasted.", legend=legend_of(power)
            ),
        },
        slots={
            "facts": _facts(view, [alert_of(url, id) for url in stored.alertmanagers]),
            "happened": _history(view),
            "told": _events(view),
        },
    )


def _nothing(stored: Stored, id: str) -> Any:
    known = data.ids(stored)[:8]
    if not known:
        return notice("No incident is known", "perfwatt jobs run incidents finds what is wrong.")
    links = [part for name in known for part in (html.A(name, href=f"/incident?id={name}", className="pw-link"), ", ")]
    return notice(
        "Choose an incident" if not id else f"There is no incident {id}", ["The worst are ", *links[:-1], "."]
    )


def _tiles(row: Mapping[str, Any]) -> list[Any]:
    lasted_s = ((row["end"] or row["last"]) - row["start"]) / 1e9
    amount = (ABSENT, "") if row["wasted_cost"] is None else _apart(money(row["wasted_cost"], row["currency"]))
    return [
        tile("incident-tile-severity", "Severity", row["severity"], "", [row["kind"].replace("_", " "), row["state"]]),
        tile("incident-tile-lasted", "Lasted", *_span(lasted_s), [f"since {when(utc(row['start']))}", _back(row)]),
        tile(
            "incident-tile-devices", "Devices", f"{row['devices'] or 0}", "affected", [f"{row['scope']} {row['name']}"]
        ),
        tile("incident-tile-cost", "Cost so far", *amount, [_wasted(row)]),
        tile(
            "incident-tile-observed",
            "Observed",
            number(row["observed"]),
            "",
            [
                f"expected {_expected(row)}",
                *([] if row["p_value"] is None else [f"p-value {number(row['p_value'])}"]),
            ],
        ),
    ]


def _wasted(row: Mapping[str, Any]) -> str:
    joules = row["wasted_j"]
    return "no energy is known to be wasted" if joules is None else f"{joined(watt_hours(joules), 'Wh')} wasted"


def _apart(text: str) -> tuple[str, str]:
    amount, _, unit = text.partition(" ")
    return amount, unit


def _span(seconds: float) -> tuple[str, str]:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0"), unit
    return f"{seconds:.0f}", "s"


def _back(row: Mapping[str, Any]) -> str:
    flaps = row["flaps"] or 0
    return "without a break" if not flaps else "came back once" if flaps == 1 else f"came back {flaps} times"


def _expected(row: Mapping[str, Any]) -> str:
    low, mid, high = (row[f"expected_{end}"] for end in ("low", "mid", "high"))
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    if high is not None:
        return f"at most {number(high)}"
    if low is not None:
        return f"at least {number(low)}"
    return number(mid)


def _facts(view: IncidentView, alerts: Sequence[Alert]) -> Any:
    row = view.row
    devices = [
        part
        for name in view.devices["device"].sort()
        for part in (
            html.A(short(name), href=f"/devices/{quote(name, safe='')}", className="pw-link", title=name),
            ", ",
        )
    ][:-1]
    pairs: list[tuple[str, Any]] = [
        ("What to do", coded(row["action"] or ABSENT)),
        ("Where", _where(row)),
        ("Rules", (row["rule"] or ABSENT).replace(" ", ", ")),
        ("Alertmanager", "; ".join(map(_known, alerts)) or _alert(row)),
    ]
    if devices:
        pairs.append(("Devices", html.Span(devices)))
    if row["workload"]:
        href = f"/job?id={quote(row['workload'], safe='')}"
        pairs.append(("Job that suffers", html.A(row["workload"], href=href, className="pw-link")))
    if row["lost_tokens"]:
        pairs.append(("Tokens lost", joined(row["lost_tokens"], "")))
    if row["part_of"]:
        pairs.append(("Part of", html.A(row["part_of"], href=f"/incident?id={row['part_of']}", className="pw-link")))
    if row["runbook"]:
        pairs.append(("Runbook", html.Code(row["runbook"])))
    if view.parts.height:
        links = [
            part
            for id, name in view.parts.select("incident", "name").iter_rows()
            for part in (html.A(name, href=f"/incident?id={id}", className="pw-link"), ", ")
        ][:-1]
        pairs.append(("Took in", html.Span(links)))
    head = html.Div([badge(row["severity"]), html.Span(coded(row["evidence"]))], className="pw-list-head pw-evidence")
    return panel(row["kind"].replace("_", " ").capitalize(), [head, facts(pairs)])


def _where(row: Mapping[str, Any]) -> str:
    host = None if row["host"] == row["name"] else row["host"]
    site = None if row["site"] == row["name"] else row["site"]
    return ", ".join(filter(None, (f"{row['scope']} {row['name']}", host, site)))


def _known(alert: Alert) -> str:
    """What an Alertmanager knows of it."""
    if alert.state == "unreachable":
        return f"{alert.url} cannot be asked: {alert.reason}"
    if alert.state == "absent":
        return f"{alert.url} has no alert of it; perfwatt incidents push hands open ones over"
    told = f" to {', '.join(alert.receivers)}" if alert.receivers else ""
    by = [
        f"{word} {', '.join(ids)}"
        for word, ids in (("silenced by", alert.silenced_by), ("inhibited by", alert.inhibited_by))
        if ids
    ]
    return f"{alert.url}: {alert.state}{told}{', ' if by else ''}{', '.join(by)}"


def _alert(row: Mapping[str, Any]) -> Any:
    """Under which labels an Alertmanager has it, and whether it is told at all."""
    labels = labels_of(row, "perfwatt")
    name = labels["alertname"]
    if row["state"] != "open":
        return f"{name}: over, so perfwatt incidents push ends it."
    if row["part_of"]:
        return f"Told as part of {row['part_of']}."
    if row["severity"] == "info":
        return f"{name}: not told, since by default alerts begin at warning."
    return f"{name}, incident {row['incident']}: firing from perfwatt incidents push on."


def _evidence_words(view: IncidentView, first: Evidence | None) -> str:
    gone = "".join(f" Nothing to show of the rule {name}: {reason}." for name, reason in view.without.items())
    if first is None:
        return gone.strip() or "Nothing is kept of what its rules looked at."
    limits = first.limits
    held = ""
    if limits:
        back = "" if limits["clear"] == limits["limit"] else f", and over again at {number(limits['clear'])} (dotted)"
        held = f" The line is its limit, {number(limits['limit'])}{back}."
    elif first.series["high"].count() or first.series["low"].count():
        held = " The band is what was expected."
    others = [told.rule for told in view.evidence[1:]]
    also = f" Also found by {', '.join(others)}." if others else ""
    return f"{first.title}, by the rule {first.rule}.{held}{also}{gone}"


def _history(view: IncidentView) -> Any:
    rows = [
        (_minute(row["time"]), row["state"], row["severity"], row["evidence"])
        for row in view.history.tail(_ROWS).iter_rows(named=True)
    ]
    return panel(
        "What was said of it", small_table(("Since (UTC)", "State", "Severity", "Evidence"), rows, stacked=True)
    )


def _events(view: IncidentView) -> Any:
    if view.events.is_empty():
        return remark("No event on its devices in this time.")
    rows = [
        (
            _minute(row["time"]),
            row["kind"].replace("_", " "),
            row["code"] or ABSENT,
            row["device"] or row["host"],
            row["message"] or ABSENT,
        )
        for row in view.events.head(_ROWS).iter_rows(named=True)
    ]
    more = view.events.height - len(rows)
    caption = f"{more} more are in the table as CSV." if more > 0 else ""
    return small_table(("Time (UTC)", "Event", "Code", "Of", "Message"), rows, caption=caption, stacked=True)


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _offer(stored: Stored, _values: Values) -> Offer:
    return {"id": data.ids(stored)}


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        view = data.incident(stored, str(values["id"]))
        if view is None:
            return pl.DataFrame(schema={"incident": pl.String})
        if name == "evidence":
            told = [one.series.select(pl.lit(one.rule).alias("rule"), pl.all()) for one in view.evidence]
            return pl.concat(told) if told else pl.DataFrame(schema={"rule": pl.String})
        found: pl.DataFrame = getattr(view, name)
        return found

    return frame


PAGE: Final = Page(
    name="incident",
    label="",
    group="Now",
    within="incidents",
    title="Incident",
    about="One incident: what shows it, what it cost so far, what to do, and who is told.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={name: _twin(name) for name in ("history", "evidence", "power", "events", "devices")},
    charts=("evidence", "power"),
    slots=("facts", "happened", "told"),
    linked=("events",),
)
