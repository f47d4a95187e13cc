"""Rows of several parts find their places, whether they come in runs, mixed, or in place of one another."""

import numpy as np
import pytest

from collector.store import places
from collector.store.places import Places


def whole_of(*parts: tuple[list[int], list[int]], groups: list[int] | None = None) -> tuple[Places, list[list[int]]]:
    """The places of parts of series and times, and the row that came to each: series, time, part."""
    series = [np.array(one, np.int64) for one, _ in parts]
    time = [np.array(one, np.int64) for _, one in parts]
    found = Places(series, time, groups or [-1] * len(parts))
    part = [np.full(len(one), at) for at, one in enumerate(time)]
    columns = [found.together(values).tolist() for values in (series, time, part)]
    return found, [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("short", [0, 1000])
def test_runs_of_a_series_follow_each_other(monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    monkeypatch.setattr(places, "_SHORT", short)
    found, rows = whole_of(([0, 0, 1], [5, 6, 5]), ([0, 1, 1], [7, 6, 7]), ([], []), ([1], [4]))
    assert found.size == 7
    assert rows == [[0, 5, 0], [0, 6, 0], [0, 7, 1], [1, 4, 3], [1, 5, 0], [1, 6, 1], [1, 7, 1]]


def test_rows_that_come_mixed_are_put_in_order_one_by_one() -> None:
    _, rows = whole_of(([1, 0, 1], [5, 6, 4]), ([0, 0], [5, 7]), ([0], [6]))
    assert rows == [[0, 5, 1], [0, 6, 0], [0, 6, 2], [0, 7, 1], [1, 4, 0], [1, 5, 0]]


def test_the_last_of_a_group_replaces_and_another_groups_does_not() -> None:
    parts = ([0, 0, 1], [5, 6, 5]), ([0, 1], [5, 5]), ([0], [6])
    found, rows = whole_of(*parts, groups=[0, 0, 1])
    assert rows == [[0, 5, 1], [0, 6, 0], [0, 6, 2], [1, 5, 1]]
    into = np.zeros(found.size)
    found.put(0, np.array([1.0, 2.0, 3.0]), into)
    assert into.tolist() == [0.0, 2.0, 0.0, 0.0]
    assert [row[2] for row in whole_of(*parts)[1]] == [0, 1, 0, 2, 0, 1]
