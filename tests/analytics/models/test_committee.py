"""A committee says only what all of its members say."""

import numpy as np
import pytest

from analytics.models.committee import AGREED, drawn, least_sure
from analytics.models.comparison import keep_unless_sure


def test_one_member_that_disagrees_keeps_the_old_verdict() -> None:
    members = [np.array([0.99, 0.01, 0.9]), np.array([0.98, 0.02, 0.45]), np.array([0.97, 0.6, 0.8])]
    old = np.array([False, True, False])
    said = least_sure(members)
    assert said.tolist() == [0.97, 0.5, 0.5]
    assert keep_unless_sure(old, said, sure=AGREED).tolist() == [True, True, False]


def test_a_member_on_the_fence_keeps_the_old_verdict_even_without_a_margin() -> None:
    said = least_sure([np.array([0.9, 0.1]), np.array([0.5, 0.5])])
    assert keep_unless_sure(np.array([False, True]), said, sure=AGREED).tolist() == [False, True]


def test_members_leave_out_whole_blocks_and_not_the_same_ones() -> None:
    block = np.repeat(np.arange(20), 7)
    members = drawn(block, members=5, seed=3)
    for mine in members:
        assert all(len(set(mine[block == one])) == 1 for one in range(20))
        assert mine.sum() == 14 * 7
    assert len({mine.tobytes() for mine in members}) == 5
    assert all((one == other).all() for one, other in zip(members, drawn(block, members=5, seed=3), strict=True))


def test_of_two_blocks_one_is_left_out_and_of_one_nothing_can_be() -> None:
    assert [mine.sum() for mine in drawn(np.array([0, 0, 1, 1]), share=0.99)] == [2] * 6
    with pytest.raises(ValueError, match="1 blocks of rows"):
        drawn(np.zeros(9, np.int64))
