"""What the Plans page shows: a plan of several periods, as a file beside fleet.toml asks for it, or as one was kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl

from analytics.fleet import Fleet
from analytics.frames import read_plan, scan
from analytics.planning.periods import PERIODS, by_period
from analytics.planning.plan import plan
from analytics.planning.request import Request, request_of
from analytics.planning.result import Plan
from collector.errors import ConfigError, NotEnoughData
from dashboards.controls import Values
from dashboards.data.plan import moment, surveyed
from dashboards.data.stored import Stored

SOLVE_S: Final = 60.0
"""As long as `perfwatt plan` takes at most, unless it is told otherwise."""
FILES: Final = "plan*.toml"
"""What asks for plans are called that lie beside fleet.toml."""
_KEPT: Final = pl.Schema(
    {
        "plan": pl.String(), "time": pl.Datetime("ns"), "status": pl.String(), "servers": pl.Int64(),
        "cost": pl.Float64(), "currency": pl.String(), "request": pl.String(),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PlansView:
    """
    An answer.

    `name` is the ask that is shown; `plan` is None where there is none to give, and `why` says so. periods: as
    `analytics.planning.periods.PERIODS`. kept: plan, time, status, servers, cost, currency and request of the plans
    that were kept, the latest first. kept_at, kept_cost: of the ask that is shown, where it is one of them.
    """

    names: tuple[str, ...]
    kept: pl.DataFrame
    name: str | None = None
    plan: Plan | None = None
    periods: pl.DataFrame
    why: str | None = None
    surveyed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    kept_at: datetime | None = None
    kept_cost: float | None = None


def view(stored: Stored, values: Values) -> PlansView:
    """
    What the page's controls ask for.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    fleet, files, kept = stored.fleet() or Fleet(), _files(stored), _kept(stored)
    names = (*files, *kept["plan"])
    name = str(values["plan"] or "") or next(iter(names), "")
    known = {"names": names, "kept": kept, "name": name or None}
    none = pl.DataFrame(schema=PERIODS)
    if name not in names:
        return PlansView(**known, periods=none, why=_unknown(stored, name))  # type: ignore[arg-type] # by name
    before = kept.filter(pl.col("plan") == name)
    try:
        asked = read_plan(files[name], fleet) if name in files else request_of(before["request"][0])
        found, pue = surveyed(stored, fleet)
        told = stored.kept(
            ("plans", moment(stored), repr(asked)), lambda: plan(found, asked, pue=pue, time_s=SOLVE_S)
        )  # fmt: skip
        periods = by_period(told, fleet)
    except (ConfigError, NotEnoughData, ValueError) as error:
        return PlansView(**known, periods=none, why=str(error))  # type: ignore[arg-type]
    return PlansView(
        **known,  # type: ignore[arg-type]
        plan=told,
        periods=periods,
        refused=tuple(found.refused.values()),
        surveyed=tuple(one.tree.site.name for one in found.surveys),
        kept_at=None if before.is_empty() else before["time"][0],
        kept_cost=None if before.is_empty() else before["cost"][0],
    )


def known(stored: Stored, _values: Values) -> dict[str, list[str]]:
    """The asks that there are."""
    return {"plan": [*_files(stored), *_kept(stored)["plan"]]}


def asked(request: Request) -> Mapping[str, tuple[float, ...]]:
    """What each demand asks for more in each period, by its name."""
    return {
        demand.name: tuple(now - before for before, now in zip((0.0, *demand.needed), demand.needed, strict=False))
        for demand in request.demands
    }


def _files(stored: Stored) -> dict[str, Path]:
    """The files that ask for a plan, by name."""
    return {path.stem: path for path in sorted(stored.root.glob(FILES))}


def _kept(stored: Stored) -> pl.DataFrame:
    """The plans that were kept, each as it was told last."""
    version = stored.version(("<plans",), None, None)
    return stored.kept(("kept plans", version), lambda: _last(stored))


def _last(stored: Stored) -> pl.DataFrame:
    rows = scan(stored.store(), "plans").filter(pl.col("time") == pl.col("time").max().over("plan"))
    best = rows.filter(pl.col("option") == 1).group_by("plan").agg(
        pl.col("time", "status", "currency", "request").first(), pl.col("servers").sum(),
        cost=pl.when(pl.col("cost").count() > 0).then(pl.col("cost").sum()),
    )  # fmt: skip
    return best.select(_KEPT.names()).sort("time", "plan", descending=[True, False]).collect().cast(_KEPT)


def _unknown(stored: Stored, name: str) -> str:
    if name:
        return f"there is no plan {name!r}"
    return f"no {FILES} lies beside fleet.toml in {stored.root}, and no plan was kept"
