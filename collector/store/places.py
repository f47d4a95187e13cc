"""Where rows that come in parts, each mostly in order, belong when all of them are in order."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_SHORT: Final = 16
"""Runs of rows shorter than this are moved row by row."""


class Places:
    """
    The places of the rows of some parts, by series and time.

    Rows of parts of one group (not negative) replace earlier ones of the same series and time. A segment is sorted, so
    its rows come in runs of one series that rise; where the runs of a series follow each other it is runs that are
    moved, else rows one by one.
    """

    def __init__(self, series: Sequence[Ints], time: Sequence[Ints], group: Sequence[int]) -> None:
        sizes = [len(one) for one in time]
        starts = [_run_starts(*both) for both in zip(series, time, strict=True)]
        part = np.repeat(np.arange(len(starts)), [len(one) for one in starts])
        length = _joined([np.diff(np.append(one, size)) for one, size in zip(starts, sizes, strict=True)])
        of = _joined([one[at] for one, at in zip(series, starts, strict=True)])
        first = _joined([one[at] for one, at in zip(time, starts, strict=True)])
        last = _joined([one[np.append(at[1:], len(one))[: len(at)] - 1] for one, at in zip(time, starts, strict=True)])
        order = np.lexsort((first, of))
        follow = (of[order][1:] > of[order][:-1]) | (first[order][1:] > last[order][:-1])
        self._rows: list[Ints] | None = None
        if follow.all():
            self.size = int(length.sum())
            place = np.empty(len(order), np.int64)
            place[order] = np.cumsum(length[order]) - length[order]
            self._runs = [(starts[at], place[part == at], length[part == at]) for at in range(len(starts))]
            return
        whole, moment = _joined(series), _joined(time)
        rows = np.lexsort((moment, whole))
        whole, moment, groups = whole[rows], moment[rows], np.repeat(group, sizes)[rows]
        again = (whole[1:] == whole[:-1]) & (moment[1:] == moment[:-1]) & (groups[1:] == groups[:-1])
        rows = rows[np.append(~(again & (groups[1:] >= 0)), True)]
        self.size = len(rows)
        # What another replaces has no place.
        found = np.full(sum(sizes), -1)
        found[rows] = np.arange(self.size)
        self._rows = np.split(found, np.cumsum(sizes)[:-1])

    def put(self, part: int, values: NDArray[Any], into: NDArray[Any]) -> None:
        """Put *values*, one of each row of a part, where they belong."""
        if self._rows is not None:
            there = self._rows[part] >= 0
            into[self._rows[part][there]] = values[there]
            return
        starts, places, lengths = self._runs[part]
        if len(values) < _SHORT * len(starts):
            into[np.repeat(places - starts, lengths) + np.arange(len(values))] = values
            return
        for start, place, length in zip(starts.tolist(), places.tolist(), lengths.tolist(), strict=True):
            into[place : place + length] = values[start : start + length]

    def together(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The values of all parts, in order."""
        into = np.empty(self.size, np.result_type(*values))
        for part, some in enumerate(values):
            self.put(part, some, into)
        return into


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _run_starts(series: Ints, time: Ints) -> Ints:
    """The rows with which another series begins, or time does not rise."""
    other = (series[1:] != series[:-1]) | (time[1:] <= time[:-1])
    return np.append(0, np.flatnonzero(other) + 1)[: len(series)]
