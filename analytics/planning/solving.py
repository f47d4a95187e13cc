"""
How the program of a plan is solved: from a bound that is near, to whole servers.

What is bought has a price and is hard to make whole; where it stands costs nothing. So servers are bought whole while
their places may be parts of one, and then each site by itself is asked for whole places. Only a site that has none is
solved with whole places from the start. What is bought is looked for first where the relaxation buys something: that is
near enough whenever its cost is within the gap of the relaxation's, which nothing can be below.
"""

import time
from collections.abc import Collection
from typing import Final

import numpy as np

from analytics.planning.model import Model, Solution
from analytics.planning.program import Ask, Program

NEAR_RATIO: Final = 0.75
"""The share of the time in which servers are looked for where the relaxation has some."""

_NOTHING: Final = 1e-6


def cheapest(made: Program, ask: Ask, *, gap_ratio: float, time_s: float) -> Solution:
    """The cheapest whole servers in whole places, or why there are none."""
    until = time.monotonic() + time_s
    tight: set[int] = set()
    while True:
        _loosen(made, tight)
        solved = _bought(made, gap_ratio, until)
        if solved.values is None:
            return solved
        values, stuck = _placed(made, ask, solved, tight, until)
        if not stuck:
            return Solution(solved.status, values, solved.cost, solved.bound)
        tight |= stuck


def _loosen(made: Program, tight: Collection[int]) -> None:
    """Only places at *tight* sites need be whole."""
    made.model.whole = [True] * len(made.model.whole)
    for key, column in made.stands.items():
        made.model.whole[column] = made.site_of[key[1]] in tight


def _bought(made: Program, gap_ratio: float, until: float) -> Solution:
    """Whole servers: within reach of the relaxation, or looked for everywhere."""
    model = made.model
    relaxed = model.solve(time_s=until - time.monotonic(), relaxed=True)
    if relaxed.values is None:
        return relaxed
    near: Solution | None = None
    if gap_ratio > 0 and any(model.costs):
        idle = _idle(made, relaxed.values)
        near = model.solve(gap_ratio=gap_ratio / 2, time_s=(until - time.monotonic()) * NEAR_RATIO, without=idle)
        if near.values is not None:
            near = Solution("feasible", near.values, near.cost, relaxed.cost)
            if near.gap_ratio <= gap_ratio:
                return Solution("optimal", near.values, near.cost, near.bound)
    best = model.solve(gap_ratio=gap_ratio, time_s=until - time.monotonic())
    if near is None or near.values is None or best.status in {"optimal", "infeasible"} or best.cost <= near.cost:
        return best
    return Solution("feasible", near.values, near.cost, max(near.bound, best.bound))


def _idle(made: Program, values: np.ndarray) -> list[int]:
    """Servers of a SKU at a site where the relaxation buys none of them."""
    used = {(s, p) for (s, p, _), column in made.bought.items() if values[column] > _NOTHING}
    return [column for (s, p, _), column in made.bought.items() if (s, p) not in used]


def _placed(
    made: Program, ask: Ask, solved: Solution, tight: Collection[int], until: float
) -> tuple[np.ndarray, set[int]]:
    """Whole places for what was bought, site by site; and the sites that have none."""
    assert solved.values is not None
    values, stuck = solved.values.copy(), set()
    for p in range(len(ask.sites)):
        stands = {column for key, column in made.stands.items() if made.site_of[key[1]] == p}
        if p in tight or not stands:
            continue
        order = sorted(stands)
        at = {column: number for number, column in enumerate(order)}
        own = Model()
        own.variables(len(order), high=[made.model.highs[column] for column in order])
        for name, columns, weights, low, high in made.model.rows:
            if not stands.isdisjoint(columns):
                fixed = sum(w * values[c] for c, w in zip(columns, weights, strict=True) if c not in stands)
                inside = [(at[c], w) for c, w in zip(columns, weights, strict=True) if c in stands]
                own.row(name, [c for c, _ in inside], [w for _, w in inside], low=low - fixed, high=high - fixed)
        found = own.solve(time_s=max(1.0, until - time.monotonic()))
        if found.values is None:
            stuck.add(p)
        else:
            values[order] = found.values
    return values, stuck
