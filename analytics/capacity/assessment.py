"""
All of it together: the surveys of every site, and the rows of headroom, runway and what servers still fit.

This is what the command, the job and the pages call.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import polars as pl

from analytics.capacity.headroom import MIN_DAYS, NODES, PERCENTILE, Survey, headroom, require_days, survey
from analytics.capacity.ledger import most_servers, server_w
from analytics.capacity.load import Load, Minutes, load_of
from analytics.capacity.runway import RUNWAY, runway
from analytics.capacity.tree import Tree, trees
from analytics.fleet import Fleet, Sku, standing
from collector.errors import ConfigError, NotEnoughData

ROWS: Final = pl.Schema(
    {
        **NODES,
        "free_w": pl.Float64(),
        "servers": pl.Int64(),
        "stranded_w": pl.Float64(),
        **{name: kind for name, kind in RUNWAY.items() if name != "node"},
    }
)


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The surveys of the sites that there is enough data of, and why the others have none."""

    fleet: Fleet
    surveys: tuple[Survey, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


def assess(
    fleet: Fleet,
    told: Minutes,
    *,
    pue: Mapping[str, float] | None = None,
    percentile: float = PERCENTILE,
    min_days: float = MIN_DAYS,
) -> Assessment:
    """
    Survey every site of *fleet* by what *told* says was drawn; *pue* as measured, where the file tells none.

    Raises: ConfigError (no site is described), NotEnoughData (no site has as many as *min_days*).
    """
    if not fleet.sites:
        raise ConfigError("site", "is missing: no site is described", path=fleet.path)
    surveys, refused = [], {}
    for tree, load, stands in _loads(fleet, told, pue or {}):
        try:
            require_days(load, tree.site.name, min_days)
        except NotEnoughData as error:
            refused[tree.site.name] = str(error)
        else:
            surveys.append(survey(tree, load, stands, percentile=percentile))
    if not surveys:
        raise NotEnoughData("; ".join(refused.values()))
    return Assessment(fleet=fleet, surveys=tuple(surveys), refused=refused)


def _loads(fleet: Fleet, told: Minutes, pue: Mapping[str, float]) -> Iterator[tuple[Tree, Load, Fleet]]:
    """Each site as it stands at the end of the window: what is built later carries and takes nothing yet."""
    found = [(tree, load_of(tree, fleet, told)) for tree in trees(fleet, pue)]
    leaves = [(leaf.name, row) for _, load in found for leaf, row in zip(load.leaves, load.power_w, strict=True)]
    today = datetime.fromtimestamp(told.end_ns / 1e9, tz=UTC).date()
    stands = standing(fleet, today, [name for name, row in leaves if np.any(row > 0)])
    if stands != fleet:
        found = [(tree, load_of(tree, stands, told)) for tree in trees(stands, pue)]
    for tree, load in found:
        yield tree, load, stands


def nodes(
    found: Assessment, *, sku: Sku | None = None, paths: Mapping[str, pl.DataFrame] | None = None
) -> pl.DataFrame:
    """
    One row for each node and rack of the sites that were surveyed.

    In:  *sku*: the server that is to fit; *paths*: sample paths of each site (see `analytics.capacity.runway`).
    Out: `ROWS`: those of `headroom`; free_w (of a rack: what more it may draw, whatever limits it); servers (how many
         more of *sku* fit below the node, if they go nowhere else); stranded_w (headroom that no further server can
         use: what is left of it with these in place); those of `runway` (null without paths of the site).
    """
    parts = []
    for one in found.surveys:
        rows = headroom(one).join(_room(one, sku), on="node", how="left")
        ahead = (paths or {}).get(one.tree.site.name)
        told = pl.DataFrame(schema=RUNWAY) if ahead is None else runway(one, ahead, found.fleet)
        parts.append(rows.join(told, on="node", how="left").select(ROWS.names()))
    return pl.concat([pl.DataFrame(schema=ROWS), *parts])


def _room(found: Survey, sku: Sku | None) -> pl.DataFrame:
    """What more fits at each node: node, free_w, servers, stranded_w."""
    server = None if sku is None else sku.server
    unit = server_w(server)
    rows: list[tuple[str, float | None, int | None, float | None]] = []
    for at, node in enumerate(found.tree.nodes):
        servers = stranded = None
        inside = [rack for rack in found.racks if node.name in _above(found, rack.name)]
        if server is not None and unit is not None and inside:
            placed = most_servers(found, server, inside)
            worst = int(found.worst[at])
            slack = float(found.slack_w[worst, at])
            taken = sum(
                count * unit * float(found.weights[worst, at, found.tree.pools.index(found.tree.racks[name])])
                for name, count in placed.items()
            )
            servers = sum(placed.values())
            stranded = None if np.isnan(slack) else max(0.0, slack - taken)
        rows.append((node.name, None, servers, stranded))
    for rack in found.racks:
        free = found.rack_free_w(rack)[0]
        servers = None if server is None or unit is None else sum(most_servers(found, server, [rack]).values())
        known = np.isfinite(free)
        stranded = max(0.0, free - (servers or 0) * (unit or 0.0)) if known and servers is not None else None
        rows.append((rack.name, free if known else None, servers, stranded))
    schema = {"node": pl.String(), "free_w": pl.Float64(), "servers": pl.Int64(), "stranded_w": pl.Float64()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _above(found: Survey, rack: str) -> frozenset[str]:
    site = frozenset({found.tree.site.name})
    return site.union(*(found.tree.above[feed] for feed in found.tree.racks[rack]))
