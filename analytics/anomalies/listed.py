"""Incidents as people look at them."""

from collections.abc import Sequence
from typing import Final

import polars as pl

from analytics.anomalies.incidents import OPEN
from analytics.anomalies.rules import SEVERITIES
from collector.moments import NS

COLUMNS: Final = (
    "incident", "severity", "state", "kind", "scope", "name", "site", "start", "last", "lasted_s", "devices",
    "workload", "wasted_j", "wasted_cost", "currency", "lost_tokens", "flaps", "evidence", "action", "runbook",
)  # fmt: skip


def listed(
    incidents: pl.LazyFrame,
    *,
    resolved: bool = False,
    severity: str = "info",
    kinds: Sequence[str] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> pl.LazyFrame:
    """
    The last word on each incident, the worst and then the latest first; without those that are part of a wider one.

    In:  the table incidents. With *resolved* those too that are over; of *severity* or worse; of *kinds*, if any; last
         seen at or after *start_ns*, begun before *end_ns*.
    Out: `COLUMNS`.
    """
    worst = list(SEVERITIES[: SEVERITIES.index(severity) + 1])
    found = (
        incidents.sort("time")
        .unique("incident", keep="last", maintain_order=True)
        .filter(pl.col("part_of").is_null() & pl.col("severity").is_in(worst))
    )
    if not resolved:
        found = found.filter(pl.col("state") == OPEN)
    if kinds:
        found = found.filter(pl.col("kind").is_in(list(kinds)))
    if start_ns is not None:
        found = found.filter(pl.col("last").to_physical() >= start_ns)
    if end_ns is not None:
        found = found.filter(pl.col("start").to_physical() < end_ns)
    order = pl.col("severity").replace_strict({name: at for at, name in enumerate(SEVERITIES)}, return_dtype=pl.Int8)
    lasted = (pl.coalesce("end", "last") - pl.col("start")).dt.total_nanoseconds() / NS
    return (
        found.with_columns(lasted_s=lasted, order=order)
        .sort("order", "start", "incident", descending=[False, True, False])
        .select(COLUMNS)
    )
