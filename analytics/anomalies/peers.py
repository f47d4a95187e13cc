"""
Peers: devices that do the same work measure the same, and one that does not is odd (Minder, NSDI'25).

A subject is compared with the median of the others of its group in the same window. What a deviation means is learned
from how much subjects usually move beside their own level among their peers: a gain or a warm slot is lasting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import polars as pl

from analytics.anomalies.detector import MAD_SIGMA, Array, Floats, scored
from analytics.anomalies.groups import numbered, pairs
from collector.errors import NotEnoughData

FEWEST: Final = 4
"""A median of fewer others is somebody's value, not what is usual."""
LEAST_WINDOWS: Final = 200
"""Windows with peers that there must be to tell how much subjects usually move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """
    Compares with others of the same `group` (null: of none) and time.

    usual: how much a subject moves beside its own median deviation, as a logarithm (1.48 times the median).
    """

    usual: float = np.nan
    fewest: int = FEWEST

    @property
    def name(self) -> str:
        """What it is called."""
        return "peers"

    def fit(self, windows: pl.DataFrame, *, seed: int = 0) -> Self:
        """
        Learn how much subjects move among their peers. Nothing in it is random, so *seed* changes nothing.

        Raises: NotEnoughData.
        """
        del seed
        told = scored(windows, *_compared(windows, self.fewest), 1.0).select("deviation", subject=windows["subject"])
        known = told.drop_nulls().with_columns(off=pl.col("deviation") - pl.col("deviation").median().over("subject"))
        if known.height < LEAST_WINDOWS:
            raise NotEnoughData(f"{known.height} windows with {self.fewest} peers; {LEAST_WINDOWS} are wanted")
        return replace(self, usual=MAD_SIGMA * float(np.median(known["off"].abs().to_numpy())))

    def score(self, windows: pl.DataFrame) -> pl.DataFrame:
        """See `Detector.score`; no expectation of what has too few peers."""
        expected, peers = _compared(windows, self.fewest)
        return scored(windows, expected, peers, self.usual)

    def state(self) -> dict[str, Array]:
        """What it learned."""
        return {"usual": np.array(self.usual), "fewest": np.array(self.fewest)}

    def restored(self, state: Mapping[str, Array]) -> Self:
        """
        The detector of a state.

        Raises: ValueError.
        """
        if set(state) != {"usual", "fewest"}:
            raise ValueError(f"arrays {', '.join(sorted(state))} are no state of peers")
        return replace(self, usual=float(state["usual"]), fewest=int(state["fewest"]))


def _compared(windows: pl.DataFrame, fewest: int) -> tuple[Floats, Array]:
    """For each row the median of the others of its group at its time (NaN: too few), and how many there are."""
    told = windows.select(
        "value",
        group=pl.Series(pairs(numbered(windows["group"]), windows["time"].to_physical().to_numpy())),
        judged=pl.col("group").is_not_null() & (pl.col("value") >= 0),
    )
    rows = np.flatnonzero(told["judged"].fill_null(False).to_numpy())
    group, value = told["group"].to_numpy()[rows], told["value"].to_numpy()[rows].astype(np.float64)
    order = np.lexsort((value, group))
    rows, group, value = rows[order], group[order], value[order]
    starts = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    count = np.diff(np.append(starts, len(group)))
    start, size = np.repeat(starts, count), np.repeat(count, count)
    others = size - 1
    expected, peers = np.full(windows.height, np.nan), np.zeros(windows.height, np.int64)
    enough = others >= fewest
    place = np.arange(len(value)) - start
    # The two in the middle of the others, who move up by one from the row's own place on.
    low, high = (others[enough] - 1) // 2, others[enough] // 2
    first, own = start[enough], place[enough]
    expected[rows[enough]] = (value[first + low + (own <= low)] + value[first + high + (own <= high)]) / 2
    peers[rows] = others
    return expected, peers
