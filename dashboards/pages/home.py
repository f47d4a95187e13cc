"""The Home page: load against limits, what is wrong, what runs out, what is to be decided."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import polars as pl
from dash import html

from dashboards.controls import SITES, Values
from dashboards.data import home as data
from dashboards.data.home import Figures, HomeView, Money
from dashboards.data.stored import Stored, utc
from dashboards.page import Content, Offer, Page
from dashboards.parts import badge, coded, notice, panel, remark, small_table, tile, twins, unmade
from dashboards.power_tree import key, power_tree
from dashboards.words import ABSENT, joined, money, percent, scaled, watt_hours, when

_SHOWN: Final = 6
"""Of what is wrong, runs out or is due: the first; the pages behind have the rest."""
_NODES: Final = 40
_SLOTS: Final = ("wrong", "ahead", "decisions", "tree")


def _body() -> Sequence[Any]:
    titles = {
        "wrong": "What is wrong",
        "ahead": "What runs out",
        "decisions": "Decisions due",
        "tree": "Power tree",
    }
    parts = {
        name: panel(
            title,
            html.Div(id=f"home-{name}"),
            aside=twins(f"home-{name}", title),
            kind="pw-last" if name == "tree" else "",
        )
        for name, title in titles.items()
    }
    columns = (("wrong", "ahead"), ("tree", "decisions"))
    return (
        html.Div(
            [html.Div([parts[name] for name in column], className="pw-column") for column in columns],
            className="pw-halves",
        ),
    )


def _content(stored: Stored, values: Values, _theme: str) -> Content:
    view = data.view(stored, values)
    if view.newest_ns is None:
        empty = "No agent has written a sample into this store yet. The page follows as soon as one does."
        return Content(notice=notice("The store is empty", empty), status="Nothing to show.")
    read = f"The newest reading is of {when(utc(view.newest_ns))}."
    told = f" Numbers are of what jobs worked out up to {when(view.end)}." if view.end is not None else ""
    return Content(
        status=read + told,
        tiles=_tiles(view),
        slots={
            "tree": _tree(view),
            "wrong": _wrong(view),
            "ahead": _ahead(view),
            "decisions": _decisions(view),
        },
    )


# --------------------------------------------------------------------------------------------------------------- tiles


def _tiles(view: HomeView) -> list[Any]:
    told, energy = view.figures, view.standings["job_energy"]
    late = unmade(energy)
    return [
        tile(
            "home-tile-power", "Fleet power", *scaled(told.power_w, "W"),
            [f"accelerators {joined(told.accelerators_w, 'W')}", f"{told.devices_now} of {told.devices} devices read"]
            if told.power_w is not None else [],
            warning=f"{percent(told.modelled_ratio)} modelled, not measured" if told.modelled_ratio else "",
            href="/fleet", below=late,
        ),
        tile(
            "home-tile-energy", _day_of(view.end), *scaled(watt_hours(told.today_j), "Wh"),
            [money(told.today_cost.amount, told.today_cost.currency), *_others(told.today_cost)]
            if told.today_cost else (["fleet.toml tells no price"] if told.today_j is not None else []),
            href="/fleet?window=24h", below=late,
        ),
        tile(
            "home-tile-token", "Energy per token", *scaled(told.joules_per_token, "J/token"),
            ["over 24 h, idle time of jobs included", _against(told)] if told.joules_per_token is not None
            else ["no tokens were counted"],
            href="/efficiency?window=24h", below=unmade(view.standings["efficiency"]),
        ),
        tile(
            "home-tile-devices", "Effective devices", *_effective(told),
            [f"of {told.total:.0f}: {told.allocated:.0f} allocated, {told.active:.0f} active", "mean of 24 h"]
            if told.total is not None and told.allocated is not None and told.active is not None else [],
            href="/efficiency?window=24h", below=late,
        ),
        tile(
            "home-tile-waste", "Waste per month",
            *((f"{told.waste.amount:,.0f}", told.waste.currency) if told.waste else (ABSENT, "")),
            _waste(told), href="/efficiency?window=7d", below=late,
        ),
        tile(
            "home-tile-pue", "PUE", ABSENT if told.pue is None else f"{told.pue:.2f}", "",
            [", ".join(f"{site} {pue:.2f}" for site, pue in sorted(told.pue_of.items()))] if told.pue_of
            else ["no meter of a facility, and no pue in fleet.toml"],
            href="/fleet?by=site&window=24h", below=late,
        ),
    ]  # fmt: skip


def _day_of(end: datetime | None) -> str:
    last = None if end is None else end - timedelta(seconds=1)
    return "Energy today" if last is None or last.date() == datetime.now(UTC).date() else f"Energy on {last:%-d %b}"


def _others(cost: Money) -> list[str]:
    return ["+ " + " + ".join(money(amount, currency) for amount, currency in cost.others)] if cost.others else []


def _against(told: Figures) -> str:
    before, now = told.joules_per_token_before, told.joules_per_token
    if before is None or now is None:
        return "no days before it to compare with"
    change = now / before - 1.0
    return f"{abs(change):.0%} {'more' if change > 0 else 'less'} than in the days before".replace("%", " %")


def _effective(told: Figures) -> tuple[str, str]:
    return (ABSENT, "") if told.effective is None else (f"{told.effective:.0f}", "devices")


def _waste(told: Figures) -> list[str]:
    if told.waste_j is None:
        return []
    amount = joined(watt_hours(told.waste_j), "Wh")
    if told.waste is None:
        return [f"{amount} idle or held by nobody", "fleet.toml tells no price"]
    of = "energy and devices" if told.waste_with_devices else "energy alone"
    return [*_others(told.waste), f"{amount} idle or held by nobody; {of}", f"as over the last {told.waste_days:.0f} d"]


# ---------------------------------------------------------------------------------------------------------- power tree


def _tree(view: HomeView) -> Any:
    late = unmade(view.standings["headroom"])
    parts: list[Any] = [late] if late is not None else []
    if view.tree.is_empty():
        return parts or remark("fleet.toml describes no power tree.")
    parts.append(key())
    left = _NODES
    for site, rows in view.tree.group_by("site", maintain_order=True):
        shown = rows.head(max(left, 1))
        left -= shown.height
        parts.append(power_tree(shown, label=f"Power tree of {site[0]}"))
        racks = view.racks.filter(pl.col("site") == site[0])
        way = html.A("All of it", href=f"/capacity?show=all&site={quote(str(site[0]), safe='')}", className="pw-link")
        notes: list[Any] = [[f"{_racks(racks)} ", way, "."]] if racks.height else [[way, "."]]
        if shown.height < rows.height:
            notes.append(f"{rows.height - shown.height} more nodes are on the page of capacity.")
        parts += [html.P(note, className="pw-note pw-tree-note") for note in notes]
    parts.append(html.P(_basis(view), className="pw-note"))
    return parts


def _racks(racks: pl.DataFrame) -> str:
    known = racks.drop_nulls("headroom_w").sort("headroom_w")
    counted = "1 rack" if racks.height == 1 else f"{racks.height} racks"
    if known.is_empty():
        return f"{counted}; no limit is known."
    first = known.row(0, named=True)
    return f"{counted}; the least is left in {first['node']}: {joined(first['headroom_w'], 'W')}."


def _basis(view: HomeView) -> str:
    as_of = view.tree["as_of"].max()
    assert isinstance(as_of, datetime)
    return (
        f"Now is the mean of the last quarter-hour; peaks and limits are as of {as_of:%Y-%m-%d %H:%M} UTC. What is "
        "left is in the worst single failure."
    )


# ----------------------------------------------------------------------------------------------------------- incidents


def _wrong(view: HomeView) -> Any:
    late, rows = unmade(view.standings["incidents"]), view.incidents
    parts: list[Any] = [late] if late is not None else []
    if rows.is_empty():
        if view.standings["incidents"].state != "never":
            parts.append(remark("No incident is open."))
        return parts
    parts.append(html.Ul([_incident(row) for row in rows.head(_SHOWN).iter_rows(named=True)], className="pw-list"))
    if rows.height > _SHOWN:
        parts.append(html.A(f"{rows.height - _SHOWN} more are open", href="/incidents", className="pw-link pw-more"))
    return parts


def _incident(row: Mapping[str, Any]) -> Any:
    cost = cost_so_far(row)
    return html.Li(
        [
            html.Div(
                [
                    badge(row["severity"]),
                    html.A(coded(row["evidence"]), href=f"/incident?id={row['incident']}", className="pw-plain"),
                ],
                className="pw-list-head",
            ),
            html.Div(f"So far {cost}.", className="pw-list-cost") if cost else None,
            html.Div(coded(row["action"] or ""), className="pw-list-note"),
        ]
    )


def cost_so_far(row: Mapping[str, Any]) -> str:
    """What an incident cost so far, in words; empty where nothing is known."""
    told = []
    if row["wasted_j"]:
        told.append(f"{joined(watt_hours(row['wasted_j']), 'Wh')} wasted")
    if row["wasted_cost"]:
        told.append(money(row["wasted_cost"], row["currency"]))
    if row["lost_tokens"]:
        told.append(f"{joined(row['lost_tokens'], '')} tokens lost")
    return ", ".join(told)


# ----------------------------------------------------------------------------------------------- what runs out, is due


def _waits(view: HomeView) -> Any:
    """What comes with the power tree says in a few words that it is not there either."""
    told = view.standings["headroom"]
    return (
        None
        if told.state in ("made", "old")
        else html.Div(["Comes with the power tree: ", html.Code(told.command)], className="pw-unmade")
    )


def _ahead(view: HomeView) -> Any:
    rows = view.ahead
    if rows.is_empty():
        return _waits(view) or remark("Nothing runs out within what is forecast.")
    told = [
        (
            html.A(row["node"], href=_capacity(row), className="pw-link pw-whole-word"),
            row["binding"] or ABSENT,
            _range(row),
            _whole(_date(row["order_by"])),
        )
        for row in rows.head(_SHOWN).iter_rows(named=True)
    ]
    more = f" {rows.height - _SHOWN} more run out later." if rows.height > _SHOWN else ""
    caption = f"Dates by which one in ten, half and nine in ten of the outcomes have run out.{more}"
    return small_table(("Node", "Of what", "Runs out", "Order by"), told, caption=caption)


def _capacity(row: Mapping[str, Any]) -> str:
    """Where the evidence is: the page of capacity, of the site."""
    return f"/capacity?site={quote(row['site'], safe='')}" if row["site"] else "/capacity"


def _range(row: Mapping[str, Any]) -> Any:
    horizon = row["horizon"]
    beyond = "later" if horizon is None else f"after {horizon:%Y-%m-%d}"
    # What is beyond what is forecast is said once.
    told = dict.fromkeys(_date(row[f"runway_p{one}"], beyond) for one in (10, 50, 90))
    first, *others = (_whole(text) for text in told)
    return html.Span([first, *(part for one in others for part in (" – ", one))])


def _whole(text: str) -> Any:
    """A date that no line breaks."""
    return html.Span(text, className="pw-whole-word")


def _date(moment: datetime | None, absent: str = ABSENT) -> str:
    return absent if moment is None else f"{moment:%Y-%m-%d}"


def _decisions(view: HomeView) -> Any:
    rows = view.decisions
    if rows.is_empty():
        return _waits(view) or remark("No decision is due.")
    parts: list[Any] = [
        html.Ul([_decision(row, view.end) for row in rows.head(_SHOWN).iter_rows(named=True)], className="pw-list")
    ]
    if rows.height > _SHOWN:
        parts.append(
            html.A(f"{rows.height - _SHOWN} more wait for a decision", href="/capacity", className="pw-link pw-more")
        )
    return parts


def _decision(row: Mapping[str, Any], end: datetime | None) -> Any:
    deadline = row["deadline"]
    late = deadline is not None and end is not None and deadline.replace(tzinfo=UTC) <= end
    when_due = "" if deadline is None else f"{'overdue since' if late else 'by'} {_date(deadline)}"
    due = html.Span(when_due, className="pw-due pw-over" if late else "pw-due") if when_due else None
    return html.Li(
        [
            html.Div(
                [badge(row["kind"]), due, html.A(coded(row["summary"]), href=_capacity(row), className="pw-plain")],
                className="pw-list-head",
            ),
            html.Div(html.Code(row["query"], className="pw-code"), className="pw-list-note"),
        ]
    )


# ---------------------------------------------------------------------------------------------------------------- page


def _offer(stored: Stored, _values: Values) -> Offer:
    known = stored.fleet()
    return {"site": [site.name for site in known.sites] if known is not None else []}


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        view = data.view(stored, values)
        if name == "tree":
            return pl.concat([view.tree, view.racks])
        found: pl.DataFrame = getattr(view, name)
        return found

    return frame


PAGE: Final = Page(
    name="home",
    at="/",
    label="Home",
    group="Now",
    title="The fleet now",
    about="Load against limits, what is wrong, what runs out and what is to be decided.",
    controls=(SITES,),
    body=_body,
    content=_content,
    offer=_offer,
    twins={
        "tree": _twin("tree"),
        "wrong": _twin("incidents"),
        "ahead": _twin("ahead"),
        "decisions": _twin("decisions"),
        "sites": _twin("sites"),
    },
    slots=_SLOTS,
    linked=_SLOTS,
    live=True,
)
