"""
A mixed-integer program whose constraints have names, solved by HiGHS; of one that cannot be met, which names conflict.

The conflict is a minimal set: without any one of its names the rest could be met. It is found by QuickXplain (Junker,
2004), which halves the names instead of trying them one by one.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from analytics.capacity.tree import Floats

INFEASIBLE: Final = 2
"""What scipy.optimize.milp calls a program that cannot be met."""
TOLERANCE: Final = 1e-6
"""By how much a row may be off, in its own unit; rows are scaled so that servers are about one."""


@dataclass(frozen=True, slots=True)
class Solution:
    """
    What a solver found: `values` (None: nothing), its cost, and a bound below which no cost can be.

    `status` is ``optimal``, ``feasible`` (a limit was reached first), ``infeasible`` or ``unknown``.
    """

    status: str
    values: Floats | None = None
    cost: float = np.inf
    bound: float = -np.inf

    @property
    def gap_ratio(self) -> float:
        """How far the cost may be from the best."""
        if not np.isfinite(self.cost) or self.cost == self.bound:
            return 0.0 if self.cost == self.bound else np.inf
        return (self.cost - self.bound) / max(abs(self.cost), 1e-12)


@dataclass(slots=True)
class Model:
    """Variables with costs and bounds, and rows with names; rows without a name hold always."""

    costs: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[str, list[int], list[float], float, float]] = field(default_factory=list)

    def variables(self, count: int, *, high: float | Sequence[float] = np.inf, whole: bool = True) -> list[int]:
        """New variables from 0 to *high*, of no cost; their numbers."""
        first = len(self.costs)
        self.costs += [0.0] * count
        self.lows += [0.0] * count
        self.highs += [high] * count if isinstance(high, int | float) else list(high)
        self.whole += [whole] * count
        return list(range(first, first + count))

    def row(
        self,
        name: str,
        columns: Sequence[int],
        weights: Sequence[float],
        *,
        low: float = -np.inf,
        high: float = np.inf,
    ) -> None:
        """A row: low <= weights @ columns <= high."""
        self.rows.append((name, list(columns), [float(weight) for weight in weights], low, high))

    @property
    def names(self) -> list[str]:
        """The names of rows, each once."""
        return [name for name in dict.fromkeys(row[0] for row in self.rows) if name]

    def solve(
        self,
        *,
        gap_ratio: float = 0.0,
        time_s: float = np.inf,
        only: Collection[str] | None = None,
        costs: Sequence[float] | None = None,
        without: Collection[int] = (),
        relaxed: bool = False,
    ) -> Solution:
        """
        The cheapest values, with the rows of *only* some names (and those without one).

        Variables *without* are 0; *relaxed*, none need be whole.
        """
        wanted = [row for row in self.rows if only is None or not row[0] or row[0] in only]
        rows, highs = [], list(self.highs)
        for column in without:
            highs[column] = 0.0
        whole = np.array(self.whole) & (not relaxed)
        for row in wanted:
            if len(row[1]) == 1 and row[3] == -np.inf and row[2][0] > 0:
                # A row of one variable is a bound of it.
                highs[row[1][0]] = min(highs[row[1][0]], row[4] / row[2][0] + TOLERANCE)
            else:
                rows.append(row)
        constraints = []
        if rows:
            starts = np.cumsum([0, *(len(row[1]) for row in rows)])
            columns = np.concatenate([np.array(row[1], dtype=np.int64) for row in rows])
            weights = np.concatenate([np.array(row[2]) for row in rows])
            matrix = csr_array((weights, columns, starts), shape=(len(rows), len(self.costs)))
            constraints = [LinearConstraint(matrix, [row[3] for row in rows], [row[4] for row in rows])]
        options: dict[str, float] = {"mip_rel_gap": gap_ratio}
        if np.isfinite(time_s):
            options["time_limit"] = max(0.01, time_s)
        prices = np.array(self.costs if costs is None else costs)
        # Costs of millions would drown the solver's tolerances.
        scale = float(np.abs(prices).max(initial=0.0)) or 1.0
        found = milp(
            prices / scale, integrality=whole.astype(int), bounds=Bounds(self.lows, highs),
            constraints=constraints, options=options,
        )  # fmt: skip
        if found.status == INFEASIBLE:
            return Solution("infeasible")
        if found.x is None:
            return Solution("unknown")
        values = np.where(whole, np.round(found.x), found.x)
        bound = found.mip_dual_bound
        cost = float(prices @ values)
        low = cost if bound is None else min(cost, float(bound) * scale)
        return Solution("optimal" if found.status == 0 else "feasible", values, cost, low)


def conflict(model: Model, *, time_s: float = 20.0) -> tuple[str, ...]:
    """
    Names whose rows cannot all be met, of which none can be left out; empty where all can be met.

    What a solver could not decide within its share of *time_s* counts as can be met, so a set may keep a name too many.
    """
    until = time.monotonic() + time_s

    def possible(names: Sequence[str]) -> bool:
        left = until - time.monotonic()
        return (
            model.solve(only=set(names), costs=[0.0] * len(model.costs), time_s=max(0.5, left / 4)).status
            != "infeasible"
        )

    def explain(background: list[str], added: bool, names: list[str]) -> list[str]:
        if added and not possible(background):
            return []
        if len(names) == 1:
            return names
        half = len(names) // 2
        first, second = names[:half], names[half:]
        needed = explain([*background, *first], bool(first), second)
        return [*explain([*background, *needed], bool(needed), first), *needed]

    names = model.names
    if possible(names):
        return ()
    if not possible([]):
        return ()
    return tuple(sorted(explain([], False, names), key=names.index))
