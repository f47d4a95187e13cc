"""The power tree as linear constraints: what more racks draw, over every node in every failure case."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analytics.capacity.headroom import Survey
from analytics.capacity.tree import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRows:
    """
    Constraints ``weights @ watts <= slack_w``: rows by columns; each row is of a node in a case.

    Rows that another row of the same node implies are left out.
    """

    weights: Floats
    slack_w: Floats
    nodes: tuple[str, ...]
    cases: tuple[str, ...]


def power_rows(found: Survey, columns: Sequence[str], *, slack_w: Floats | None = None) -> PowerRows:
    """
    The constraints on what more each of *columns* draws: racks, each of which stands for others with the same feeds.

    *slack_w* (cases by nodes) is what is left, by default of what was measured.
    """
    tree = found.tree
    slack = found.slack_w if slack_w is None else slack_w
    of_pool = [tree.pools.index(tree.racks[name]) for name in columns]
    carried = found.weights[:, :, of_pool] if columns else np.zeros((*slack.shape, 0))
    for at, case in enumerate(tree.cases):
        if case.rack is not None and case.rack in columns:
            carried[at, :, columns.index(case.rack)] = tree.rack_weights(case.rack, case)
    rows: list[tuple[Floats, float, str, str]] = []
    for node, named in enumerate(tree.nodes):
        known = np.flatnonzero(np.isfinite(slack[:, node]) & (carried[:, node] > 0).any(axis=1))
        for at in _needed(carried[known, node], slack[known, node]):
            which = int(known[at])
            rows.append((carried[which, node], float(slack[which, node]), named.name, tree.cases[which].name))
    return PowerRows(
        weights=np.stack([row[0] for row in rows]) if rows else np.zeros((0, len(columns))),
        slack_w=np.array([row[1] for row in rows]),
        nodes=tuple(row[2] for row in rows),
        cases=tuple(row[3] for row in rows),
    )


def _needed(weights: Floats, slack: Floats) -> list[int]:
    """The rows that no other implies: none with at least the same weights and no more slack."""
    kept: list[int] = []
    # A row with less slack cannot be implied by one with more, so one pass in that order is enough.
    for at in sorted(range(len(slack)), key=lambda row: (slack[row], -weights[row].sum())):
        if not any((weights[other] >= weights[at]).all() for other in kept):
            kept.append(at)
    return kept
