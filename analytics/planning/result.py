"""What a plan comes to: placements, proof, what limits it, or what is in conflict; and its rows in the store."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import polars as pl

from analytics.planning.proof import PROOF
from analytics.planning.request import Request

PLACEMENTS: Final = pl.Schema(
    {
        "option": pl.Int64(), "site": pl.String(), "rack": pl.String(), "domain": pl.String(), "sku": pl.String(),
        "period": pl.Int64(), "start": pl.Datetime("ns"), "order_by": pl.Datetime("ns"), "servers": pl.Int64(),
        "power_w": pl.Float64(), "cost": pl.Float64(), "currency": pl.String(), "worst_failure": pl.String(),
        "margin_w": pl.Float64(), "binding": pl.String(),
    }
)  # fmt: skip
BINDING: Final = pl.Schema(
    {
        "constraint": pl.String(), "case": pl.String(), "used": pl.Float64(), "limit": pl.Float64(),
        "left": pl.Float64(), "servers": pl.Float64(),
    }
)  # fmt: skip
TABLE: Final = pl.Schema(
    {
        "plan": pl.String(), "time": pl.Datetime("ns"), "option": pl.Int32(), "site": pl.String(),
        "domain": pl.String(), "sku": pl.String(), "period": pl.Int32(), "start": pl.Datetime("ns"),
        "order_by": pl.Datetime("ns"), "servers": pl.Int64(), "power_w": pl.Float64(), "cost": pl.Float64(),
        "currency": pl.String(), "worst_failure": pl.String(), "margin_w": pl.Float64(), "binding": pl.String(),
        "status": pl.String(), "gap_ratio": pl.Float64(), "conflict": pl.String(), "request": pl.String(),
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    A plan and its proof.

    status: ``optimal`` (within the gap that was asked for), ``feasible`` (the time was up), ``infeasible`` or
    ``unknown``. placements: `PLACEMENTS`; proof: `analytics.planning.proof.PROOF`, a row for each site, period and
    failure case; violations: what the proof found, empty if the plan holds. binding: `BINDING`, the limits that leave
    less than one more server. conflict: the constraints that cannot all be met, of which none can be left out; most:
    how much of each demand could be met. cost is None where no prices were asked for.
    """

    status: str
    request: Request
    placements: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PLACEMENTS))
    proof: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PROOF))
    violations: tuple[str, ...] = ()
    binding: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BINDING))
    cost: float | None = None
    bound: float | None = None
    currency: str | None = None
    basis: str | None = None
    gap_ratio: float = 0.0
    took_s: float = 0.0
    conflict: tuple[str, ...] = ()
    most: Mapping[str, float] = field(default_factory=dict)
    runner_up: "Plan | None" = None

    @property
    def found(self) -> bool:
        """Whether there is a placement."""
        return self.status in {"optimal", "feasible"}

    def said(self) -> Iterator[str]:
        """What a plan comes to, in lines."""
        if not self.found:
            return
        cases, sites = self.proof.height, self.proof["site"].n_unique()
        yield f"{self.status}: {self._where()}; {self._money()}"
        yield f"safe in each of {cases} failure cases of {sites} sites, walked through one by one"
        for row in self.binding.head(5).iter_rows(named=True):
            case = f" with {row['case']} lost" if row["case"] and row["case"] != "none" else ""
            yield f"limit: {row['constraint']}{case} has room for {row['servers']:.2f} of a server"
        if self.runner_up is not None:
            yield f"next best: {self.runner_up._where()}; {self.runner_up._money()}"

    def refusal(self) -> str:
        """Why there is no plan."""
        if self.status != "infeasible":
            return "no plan was found in time, nor that there is none; give it more --seconds"
        most = ", ".join(f"{amount:g} of {name}" for name, amount in self.most.items())
        return f"there is no plan: in conflict are {'; '.join(self.conflict)}" + (f". At most {most}" if most else "")

    def _where(self) -> str:
        """How many servers go to each site."""
        sites = (
            self.placements.group_by("site")
            .agg(pl.col("servers").sum())
            .sort("servers", "site", descending=[True, False])
        )
        listed = ", ".join(f"{site} {servers}" for site, servers in sites.iter_rows())
        return f"{self.placements['servers'].sum() or 0} servers" + (f" ({listed})" if listed else "")

    def _money(self) -> str:
        if self.cost is None:
            return self.basis or "without prices"
        near = f", within {self.gap_ratio:.2%} of the best" if self.gap_ratio > 1e-6 else ""
        return f"{self.cost:,.0f} {self.currency}{near} ({self.basis})"


def table(told: Plan, *, time_ns: int) -> pl.DataFrame:
    """
    A plan and its runner-up as rows of the table plans, by the domains that feed the racks.

    Out: `TABLE`; of a plan that is infeasible one row, with the conflict.
    """
    head = {
        "plan": hashlib.blake2b(repr(told.request).encode(), digest_size=8).hexdigest(), "time": time_ns,
        "request": json.dumps(asdict(told.request), default=str, sort_keys=True),
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for option, one in enumerate((told, told.runner_up), start=1):
        if one is None:
            continue
        state = {"option": option, "status": one.status, "gap_ratio": one.gap_ratio if one.cost is not None else None,
                 "conflict": "; ".join(one.conflict) or None}  # fmt: skip
        groups = one.placements.group_by("site", "domain", "sku", "period", maintain_order=True).agg(
            pl.col("start", "order_by", "currency").first(), pl.col("servers", "power_w").sum(),
            cost=pl.when(pl.col("cost").is_not_null().all()).then(pl.col("cost").sum()),
            worst_failure=pl.col("worst_failure").sort_by("margin_w").first(), margin_w=pl.col("margin_w").min(),
            binding=pl.col("binding").sort_by("margin_w").first(),
        )  # fmt: skip
        rows += [{**head, **state, **row} for row in groups.iter_rows(named=True)] or [{**head, **state}]
    return pl.DataFrame(rows, schema=TABLE, orient="row")
