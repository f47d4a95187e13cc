"""
A new model as a committee: refits that each leave out a part of the past, and overrule a verdict only together.

One refit is sure of much that it learned from a single stretch of time. Where refits without that stretch are sure of
it, too, it holds elsewhere. So a committee at a hand-over breaks far less than one model that is as sure of itself, for
no more error, at the price of as many fits and predictions as it has members.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MEMBERS: Final = 6
SHARE: Final = 0.7
"""Of the blocks each member is fitted on so many."""
AGREED: Final = 0.1
"""The margin of `analytics.models.comparison.keep_unless_sure` for a committee, since that it agrees says most."""


def drawn(
    block: NDArray[np.integer[Any]], *, members: int = MEMBERS, share: float = SHARE, seed: int = 0
) -> list[NDArray[np.bool_]]:
    """
    For each member which rows it is fitted on: those of some of the blocks, whole, since neighbours are alike.

    Raises: ValueError (fewer than two blocks).

    >>> [int(one.sum()) for one in drawn(np.repeat(np.arange(10), 5), members=2)]
    [35, 35]
    """
    blocks = np.unique(block)
    if len(blocks) < 2:
        raise ValueError(f"{len(blocks)} blocks of rows; of two or more a member can leave some out")
    rng = np.random.default_rng(seed)
    kept = min(max(1, round(share * len(blocks))), len(blocks) - 1)
    return [np.isin(block, rng.permutation(blocks)[:kept]) for _ in range(members)]


def least_sure(probabilities: Sequence[Floats]) -> Floats:
    """
    What a committee says: where all members are on one side of one half, the one nearest to it; else one half.

    >>> least_sure([np.array([0.9, 0.2, 0.7]), np.array([0.6, 0.3, 0.4])]).tolist()
    [0.6, 0.3, 0.5]
    """
    lowest, highest = np.min(probabilities, axis=0), np.max(probabilities, axis=0)
    said: Floats = np.where(lowest > 0.5, lowest, np.where(highest < 0.5, highest, 0.5))
    return said
