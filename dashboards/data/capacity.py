"""What the Capacity page shows: headroom, runway, stranded power and forecasts as the jobs told them last."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

import polars as pl

from analytics.fleet import Fleet
from analytics.forecasts.job import SUBJECTS, history
from analytics.frames import scan
from dashboards.controls import Values
from dashboards.data.derived import Standing, standing
from dashboards.data.stored import NS, Stored

SHOWN: Final = ("domains", "racks", "all")
"""Which nodes are charted; the table has them all."""
BEFORE_S: Final = 48 * 3600
"""So much of what was is drawn beside what will be."""
_TABLES: Final = ("headroom", "stranded", "recommendations", "forecasts")
_HISTORY: Final = ("device_energy", "efficiency", "<allocations")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityView:
    """
    What the jobs told last.

    nodes: the table headroom of the chosen sites, each node below the one that it hangs from, with depth. stranded: the
    table of that name. recommendations: those not decided yet. forecast: the rows of `series`, by horizon; before:
    time, value, of the two days before it was issued. `standing` says how old all of it is.
    """

    standing: Standing

    nodes: pl.DataFrame
    stranded: pl.DataFrame
    recommendations: pl.DataFrame
    series: str | None = None
    forecast: pl.DataFrame = field(default_factory=pl.DataFrame)
    before: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def as_of(self) -> datetime | None:
        """When capacity was last looked at."""
        found: datetime | None = self.nodes["time"].max() if self.nodes.height else None  # type: ignore[assignment]
        return found

    def charted(self, show: str) -> pl.DataFrame:
        """The nodes that a choice of `SHOWN` draws, of which a limit is known; what they carry beside it comes too."""
        racks = pl.col("kind") == "rack"
        of = {"domains": ~racks & (pl.col("kind") != "group"), "racks": racks, "all": pl.lit(value=True)}[show]
        known = self.nodes.filter(of & (pl.col("safe_w") > 0) & pl.col("failure_load_w").is_not_null())
        return known.with_columns(
            load_ratio=pl.col("load_w") / pl.col("safe_w"),
            failure_ratio=pl.col("failure_load_w") / pl.col("safe_w"),
            derated_ratio=pl.col("derated_w") / pl.col("safe_w"),
        )

    @property
    def ahead(self) -> pl.DataFrame:
        """What runs out by itself, the first first; what waits for a node above goes with that one."""
        own = ~pl.col("binding").fill_null("").str.starts_with("power of ")
        found = self.nodes.filter(pl.col("runway_p10").is_not_null() & own & (pl.col("kind") != "group"))
        return found.sort("runway_p10", "runway_p50", "node", nulls_last=True)


def view(stored: Stored, values: Values) -> CapacityView:
    """
    What the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    told = stored.kept(("capacity", stored.version(_TABLES, None, None)), lambda: _told(stored))
    sites = values["site"] if isinstance(values["site"], tuple) else ()

    def of_sites(table: str) -> pl.DataFrame:
        return told[table].filter(pl.col("site").is_in(sites)) if sites else told[table]

    series = _series(told["forecasts"], str(values["series"] or ""), sites)
    rows = told["forecasts"].filter(pl.col("series") == pl.lit(series, pl.String)).sort("horizon_s")
    return CapacityView(
        nodes=of_sites("headroom"),
        stranded=of_sites("stranded"),
        recommendations=of_sites("recommendations").filter(pl.col("state").is_in(["new", "needs_data"])),
        series=series,
        forecast=rows,
        before=_before(stored, rows),
        standing=standing(stored, "headroom"),
    )


def known(stored: Stored, _values: Values) -> dict[str, list[str]]:
    """The sites that were surveyed, and the series that are forecast."""
    told = stored.kept(("capacity", stored.version(_TABLES, None, None)), lambda: _told(stored))
    sites = told["headroom"]["site"].unique().drop_nulls().to_list()
    return {"site": sorted(sites), "series": sorted(told["forecasts"]["series"].unique().to_list())}


def plan_query(command: str | None) -> str | None:
    """The query of the Plan page that asks what a ``perfwatt fit`` does; None for any other command."""
    words = shlex.split(command or "")
    if words[:2] != ["perfwatt", "fit"]:
        return None
    options = dict(zip(words[2::2], words[3::2], strict=False))
    pairs = {"--sku": "sku", "--count": "count", "--site": "site"}
    return "?" + urlencode({key: options[option] for option, key in pairs.items() if option in options})


def _told(stored: Stored) -> dict[str, pl.DataFrame]:
    found = {name: _last(stored, name) for name in _TABLES}
    return {**found, "headroom": in_order(found["headroom"])}


def _last(stored: Stored, table: str) -> pl.DataFrame:
    """What a job told last: it tells all at once, and what it tells no more is no longer so."""
    rows = scan(stored.store(), table)
    return rows.filter(pl.col("time") == pl.col("time").max()).collect()


def in_order(nodes: pl.DataFrame) -> pl.DataFrame:
    """The nodes of headroom, each below the one that it hangs from first, with its depth."""
    rows: dict[str, Mapping[str, Any]] = {row["node"]: row for row in nodes.sort("node").iter_rows(named=True)}
    below: dict[str | None, list[str]] = {}
    for name, row in rows.items():
        parent = row["parent"] if row["parent"] in rows else None if row["kind"] == "site" else row["site"]
        below.setdefault(parent if parent != name else None, []).append(name)

    def branch(name: str, depth: int) -> Iterator[tuple[str, int]]:
        yield name, depth
        for child in below.get(name, ()):
            yield from branch(child, depth + 1)

    order = [found for root in below.get(None, ()) for found in branch(root, 0)]
    places = pl.DataFrame(order, schema={"node": pl.String, "depth": pl.Int64}, orient="row").with_row_index("at")
    return nodes.join(places, on="node", how="left").sort("at", nulls_last=True).drop("at")


def _series(forecasts: pl.DataFrame, asked: str, sites: tuple[str, ...]) -> str | None:
    """The series that is asked for; else the power of the site that was chosen, or of the one that draws most."""
    if asked and asked in forecasts["series"]:
        return asked
    power = forecasts.filter(pl.col("metric") == "power_w")
    if sites:
        power = power.filter(pl.col("name").is_in(sites))
    power = forecasts if power.is_empty() else power
    found = power.sort("q50", "series", descending=[True, False], nulls_last=True)
    return str(found["series"][0]) if found.height else None


def _before(stored: Stored, rows: pl.DataFrame) -> pl.DataFrame:
    if rows.is_empty():
        return pl.DataFrame(schema={"time": pl.Datetime("ns"), "value": pl.Float64})
    series, issued = str(rows["series"][0]), rows["time"][0]
    until_ns = int(rows["time"].to_physical()[0])
    key = ("before", series, issued, stored.version(_HISTORY, until_ns - BEFORE_S * NS, until_ns))
    return stored.kept(key, lambda: _past(stored, series, str(rows["metric"][0]), until_ns))


def _past(stored: Stored, series: str, metric: str, until_ns: int) -> pl.DataFrame:
    kind = next(kind for kind, (_, told) in SUBJECTS.items() if told == metric)
    since_ns, store = until_ns - BEFORE_S * NS, stored.store()
    frames = {
        name: scan(store, name, since_ns, until_ns).filter(pl.col("window_s") == 900)
        for name in ("device_energy", "efficiency")
    }
    frames["allocations"] = scan(store, "allocations", None, until_ns)
    found = history(kind, frames, stored.fleet() or Fleet(), since_ns, until_ns)
    own = found.filter(pl.col("series") == series, pl.col("time").to_physical() >= since_ns)
    return own.select("time", "value").sort("time").collect()
