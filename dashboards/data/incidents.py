"""What the pages of incidents show: what is and was wrong, and one incident with the series that show it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl

from analytics.anomalies.evidence import Evidence, evidence
from analytics.anomalies.incidents import subjects_of
from analytics.anomalies.listed import listed
from analytics.anomalies.rules import SEVERITIES, Rules, parse_rules
from analytics.fleet import Fleet
from analytics.frames import latest, scan
from analytics.inventory import device_types
from collector.errors import ConfigError
from dashboards.controls import Values
from dashboards.data.derived import Standing, standing
from dashboards.data.stored import NS, Stored, utc

SPANS: Final = {"24h": 86_400, "7d": 604_800, "30d": 2_592_000, "all": None}
"""How long ago an incident may have been seen last, in seconds."""
STATES: Final = ("open", "past", "all")
DEVICES: Final = 8
"""Devices of an incident whose series are drawn."""

_BEFORE_S: Final = (3600, 24 * 3600)
_HOUR_NS: Final = 3600 * NS


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentsView:
    """
    The incidents that a choice lets through, the worst and then the latest first.

    incidents: as `analytics.anomalies.listed`, and host, rule, end.
    """

    end: datetime
    incidents: pl.DataFrame
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentView:
    """
    One incident: its last row, what its rules looked at, the power of its devices and what happened on them.

    history: time, state, severity, evidence, each time that they changed. power: subject, time, value (mean power of
    five minutes). events: those of its devices and hosts. devices: its devices with their host; parts: the incidents
    that it took in. without: why there is nothing to show of what a rule looked at, by rule.
    """

    row: Mapping[str, Any]
    start: datetime
    end: datetime
    evidence: tuple[Evidence, ...]
    without: Mapping[str, str]
    power: pl.DataFrame
    events: pl.DataFrame
    history: pl.DataFrame
    devices: pl.DataFrame
    parts: pl.DataFrame


def view(stored: Stored, values: Values) -> IncidentsView:
    """
    What the page's controls ask for.

    Raises: StoreError.
    """
    newest_ns = stored.newest_ns() or stored.now_ns()
    span_s = SPANS[str(values["window"])]
    rows = _all(stored)
    if span_s is not None:
        rows = rows.filter((pl.col("last").to_physical() >= newest_ns - span_s * NS) | (pl.col("state") == "open"))
    state = str(values["state"])
    if state != "all":
        rows = rows.filter(pl.col("state") == ("open" if state == "open" else "resolved"))
    worst = SEVERITIES[: SEVERITIES.index(str(values["severity"])) + 1]
    rows = rows.filter(pl.col("severity").is_in(worst))
    for key in ("site", "host", "kind"):
        chosen = values[key]
        if isinstance(chosen, tuple) and chosen:
            rows = rows.filter(pl.col(key).is_in(chosen))
    rules = values["rule"]
    if isinstance(rules, tuple) and rules:
        rows = rows.filter(pl.col("rule").str.split(" ").list.eval(pl.element().is_in(rules)).list.any())
    return IncidentsView(end=utc(newest_ns), incidents=rows, standing=standing(stored, "incidents"))


def known(stored: Stored) -> dict[str, list[str]]:
    """What there is to choose from, by control."""
    rows = _all(stored)
    found = {key: sorted(rows[key].drop_nulls().unique()) for key in ("site", "host", "kind")}
    return found | {"rule": sorted(set(rows["rule"].drop_nulls().str.split(" ").explode()))}


def of_device(stored: Stored, device: str, workloads: Iterable[str], start_ns: int, end_ns: int) -> pl.DataFrame:
    """The incidents of *device* and of the *workloads* that it worked for, seen in a window, or open."""
    rows = _all(stored)
    places = [f"device:{device}", *(f"workload:{workload}" for workload in workloads)]
    mine = rows["subjects"].fill_null("").str.split(" ").list.eval(pl.element().is_in(places)).list.any()
    seen = pl.col("last").to_physical() >= start_ns
    return rows.filter(mine).filter((seen | (pl.col("state") == "open")) & (pl.col("start").to_physical() < end_ns))


def _all(stored: Stored) -> pl.DataFrame:
    key = ("incidents", stored.version(("<incidents",), None, None))
    return stored.kept(key, lambda: _read(stored))


def _read(stored: Stored) -> pl.DataFrame:
    rows = scan(stored.store(), "incidents")
    last = rows.sort("time").unique("incident", keep="last")
    told = listed(rows, resolved=True).join(
        last.select("incident", "host", "rule", "end", "subjects"), on="incident", how="left", maintain_order="left"
    )
    return told.collect()


def rules_of(stored: Stored) -> Rules:
    """
    The rules, with those of the store's rules.toml over them.

    Raises: ConfigError.
    """
    path = stored.root / "rules.toml"
    if not path.exists():
        return parse_rules()
    try:
        return parse_rules(path.read_text(encoding="utf-8"), path=path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("rules.toml", f"cannot be read: {error}", path=path) from error


def incident(stored: Stored, id: str) -> IncidentView | None:
    """
    The incident called *id*; None where there is none.

    Raises: StoreError, ConfigError (rules.toml, fleet.toml).
    """
    seen = stored.version(("<incidents", "<events", "<anomaly_scores", "<headroom"), None, None)
    key = ("incident", id, seen, stored.newest_ns("device_rollups"))
    return stored.kept(key, lambda: _incident(stored, id))


def _incident(stored: Stored, id: str) -> IncidentView | None:
    store = stored.store()
    rows = (
        scan(store, "incidents").filter((pl.col("incident") == id) | (pl.col("part_of") == id)).sort("time").collect()
    )
    mine = rows.filter(pl.col("incident") == id)
    if mine.is_empty():
        return None
    row = mine.with_columns(pl.col(pl.Datetime("ns")).to_physical()).row(-1, named=True)
    lasted_ns = max(0, row["last"] - row["start"])
    # So long before and after as it lasted, within reason: what is normal has to be seen beside it.
    around_ns = min(max(lasted_ns, _BEFORE_S[0] * NS), _BEFORE_S[1] * NS)
    start_ns, end_ns = row["start"] - around_ns, (row["end"] or row["last"]) + around_ns
    end_ns = max(min(end_ns, stored.newest_ns() or end_ns), row["last"] + _HOUR_NS)
    rollups = scan(store, "device_rollups", start_ns, end_ns, pl.col("window_s") == 300)
    events = scan(store, "events", start_ns, end_ns)
    names = [place.name for place in subjects_of(row) if place.scope == "device"]
    devices = latest_devices(stored).filter(pl.col("device").is_in(names)).select("device", "host", "model").collect()
    told, without = evidence(
        row,
        rules_of(stored),
        rollups=rollups,
        workload_rollups=scan(store, "workload_rollups", start_ns, end_ns),
        events=events,
        anomaly_scores=scan(store, "anomaly_scores", start_ns, end_ns),
        headroom=scan(store, "headroom"),
        types=device_types(scan(store, "devices"), stored.fleet() or Fleet()),
        start_ns=start_ns,
        end_ns=end_ns,
    )
    watts = (
        rollups.filter(pl.col("device").is_in(names))
        .group_by("time", subject="device")
        .agg(value=pl.col("power_mean_w").max())
        .drop_nulls("value")
        .sort("subject", "time")
    )
    hosts = [row["host"]] if row["host"] else []
    on_it = pl.col("device").is_in(names) | (pl.col("device").is_null() & pl.col("host").is_in(hosts))
    changed = pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(name).shift(1)) for name in ("state", "severity", "evidence")
    )
    parts = rows.filter(pl.col("part_of") == id).unique("incident", keep="last").sort("start")
    return IncidentView(
        row=row,
        start=utc(start_ns),
        end=utc(end_ns),
        evidence=tuple(told),
        without=without,
        power=watts.collect(),
        events=events.filter(on_it).sort("time").select("time", "host", "device", "kind", "code", "message").collect(),
        history=mine.filter(changed).select("time", "state", "severity", "evidence"),
        devices=devices,
        parts=parts.select("incident", "name", "kind", "evidence"),
    )


def latest_devices(stored: Stored) -> pl.LazyFrame:
    """The last word of each device on itself."""
    return latest(stored.store(), "devices")


def ids(stored: Stored) -> list[str]:
    """All incidents, the worst and latest first, open ones before past ones."""
    return _all(stored).sort(pl.col("state") != "open", maintain_order=True)["incident"].to_list()
