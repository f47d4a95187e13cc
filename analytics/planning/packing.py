"""From servers in a group of racks to servers in racks: what the group has room for together may still not pack."""

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np

from analytics.planning.model import Model
from analytics.planning.stages import RESOURCES, Group

Counts = dict[tuple[str, str, int], int]
"""Servers by (rack, SKU, stage), those of earlier stages included."""


def pack(
    group: Group, wanted: Mapping[tuple[str, int], int], needs: Mapping[str, Mapping[str, float]], stages: int
) -> Counts | None:
    """
    A rack for each of *wanted* servers, by (SKU, stage), those of earlier stages included; None where there is none.

    Servers stay where an earlier stage put them. First fit by what draws most is tried, then a search that decides.
    """
    return _first_fit(group, wanted, needs, stages) or _searched(group, wanted, needs, stages)


def _first_fit(
    group: Group, wanted: Mapping[tuple[str, int], int], needs: Mapping[str, Mapping[str, float]], stages: int
) -> Counts | None:
    skus = sorted(needs, key=lambda sku: (-needs[sku]["circuits"], sku))
    counts: Counts = {}
    taken = {(rack, sku): 0 for rack in group.racks for sku in skus}
    for stage in range(stages):
        for sku in skus:
            missing = wanted.get((sku, stage), 0) - sum(taken[rack, sku] for rack in group.racks)
            for rack in group.racks:
                while missing > 0 and _holds(group, rack, stage, taken, sku, needs):
                    taken[rack, sku] += 1
                    missing -= 1
            if missing > 0:
                return None
        counts.update({(rack, sku, stage): count for (rack, sku), count in taken.items() if count})
    return counts


def _holds(
    group: Group,
    rack: str,
    stage: int,
    taken: Mapping[tuple[str, str], int],
    sku: str,
    needs: Mapping[str, Mapping[str, float]],
) -> bool:
    """Whether a rack takes one more of *sku*."""
    room = group.room[rack, stage]
    return stage in group.stands and all(
        sum(taken[rack, other] * need[name] for other, need in needs.items()) + needs[sku][name] <= room[name] + 1e-6
        for name in RESOURCES
    )


def _searched(
    group: Group, wanted: Mapping[tuple[str, int], int], needs: Mapping[str, Mapping[str, float]], stages: int
) -> Counts | None:
    skus = [sku for sku in needs if any(wanted.get((sku, stage)) for stage in range(stages))]
    model = Model()
    at = {
        (rack, sku, stage): model.variables(1, high=_most(group, rack, stage, needs[sku]))[0]
        for rack in group.racks for sku in skus for stage in range(stages)
    }  # fmt: skip
    for stage in range(stages):
        for sku in skus:
            count = float(wanted.get((sku, stage), 0))
            model.row(
                "", [at[rack, sku, stage] for rack in group.racks], [1.0] * len(group.racks), low=count, high=count
            )
            for rack in group.racks if stage else ():
                model.row("", [at[rack, sku, stage], at[rack, sku, stage - 1]], [1.0, -1.0], low=0.0)
        for rack in group.racks:
            room = group.room[rack, stage]
            for name in RESOURCES:
                if np.isfinite(room[name]) and room[name] > 0:
                    columns = [at[rack, sku, stage] for sku in skus]
                    model.row("", columns, [needs[sku][name] / room[name] for sku in skus], high=1.0 + 1e-9)
    solved = model.solve(time_s=5.0)
    if solved.values is None:
        return None
    return {key: int(solved.values[column]) for key, column in at.items() if solved.values[column] > 0}


def _most(group: Group, rack: str, stage: int, need: Mapping[str, float]) -> float:
    if stage not in group.stands:
        return 0.0
    room = group.room[rack, stage]
    least: Sequence[float] = [room[name] // need[name] for name in RESOURCES if need[name] > 0 and room[name] < inf]
    return float(min(least, default=10_000))
