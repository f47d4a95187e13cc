"""
What a change of model costs those who rely on its verdicts.

A better model on average can be a worse one to live with: it loses alarms that people had come to trust. So a candidate
and the champion judge the same windows, and what counts beside the error is what the champion had right and the
candidate gets wrong: all of it (negative flips; 1 - BTC of Srivastava et al. 2020), the true alarms, and the windows
without fault. Bounds come from a bootstrap over contiguous blocks, since neighbouring windows are wrong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdicts = NDArray[np.bool_]

SURE: Final = 0.45
"""A new model overrules a verdict when its probability is further than this from one half."""
BLOCKS: Final = 200
DRAWS: Final = 2_000
TAIL: Final = 0.05
"""Of the draws, what is beyond each bound."""
LEAST_BLOCKS: Final = 10
"""A share has bounds when so many blocks have a part in it; of fewer, a bootstrap finds too little spread."""
UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """
    The same windows judged by the champion and by a candidate, neither of which was fitted on them.

    series: whose window it is, as a number. time_ns: when; within a series in order. truth: 1 a fault, 0 none, -1 not
    known. champion, candidate: the probability of a fault (above one half is an alarm); a champion in use with a rule
    of its own gives 0 or 1. champion_error, candidate_error, baseline_error: what each window adds to the error, in any
    unit, NaN where not known; not given, a wrong verdict on a window of known truth is 1.

    Raises: ValueError (lengths differ, no windows, a probability outside 0 to 1).
    """

    series: NDArray[np.integer[Any]]
    time_ns: NDArray[np.int64]
    truth: NDArray[np.integer[Any]]
    champion: Floats
    candidate: Floats
    champion_error: Floats | None = None
    candidate_error: Floats | None = None
    baseline_error: Floats | None = None

    def __post_init__(self) -> None:
        for name, array in self.arrays().items():
            if array.shape != (len(self.time_ns),):
                raise ValueError(f"{name} has {array.shape}, but there are {len(self.time_ns)} windows")
        if not len(self.time_ns):
            raise ValueError("a trial of no windows")
        if (self.champion_error is None) != (self.candidate_error is None):
            raise ValueError("the error of one model is given and the other's is not")
        for name in ("champion", "candidate"):
            values = getattr(self, name)
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ValueError(f"{name} has a probability outside 0 to 1")
        if not set(np.unique(self.truth)) <= {UNKNOWN, 0, 1}:
            raise ValueError("truth is other than -1, 0 and 1")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is known, by name, as it is stored."""
        every = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: array for name, array in every.items() if array is not None}


class HandOver(NamedTuple):
    """
    How far from one half the new model's probability must be to overrule the old verdict.

    add: for an alarm where the old model gave none. withdraw: for none where it gave one. Of a new model that has met
    few faults lately the second is the bold claim, and what was an alarm is what people act on.
    """

    add: float
    withdraw: float


MARGINS: Final = (0.1, 0.2, 0.35, SURE, 0.49)
ADDS: Final = (SURE, 0.49)
WITHDRAWS: Final = (0.5, 0.499, 0.4975, 0.495, 0.49, 0.475, SURE)
"""The boldest last. At 0.5 only a model that is certain withdraws an alarm."""


class Figure(NamedTuple):
    """A measure of the candidate with its bounds, the champion's own where it has one, and the limit if any."""

    measure: str
    value: float | None
    low: float | None
    high: float | None
    champion: float | None
    limit: float | None
    within: bool | None
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    What a promotion may cost at most. A limit is held when the upper bound (95 of 100 draws) is within it.

    error_ratio: the candidate's error over the champion's. negative_flip_ratio: of the champion's right verdicts, those
    that the candidate gets wrong. lost_alarm_ratio: of its true alarms, those that are lost. new_false_alarm_ratio: of
    the windows that it rightly passed, those that now alarm. churn_ratio: verdicts that differ, which is judged only
    where no truth is known.
    """

    error_ratio: float = 1.02
    negative_flip_ratio: float = 0.01
    lost_alarm_ratio: float = 0.01
    new_false_alarm_ratio: float = 0.005
    churn_ratio: float = 0.01


BUDGET: Final = Budget()


class Comparison(NamedTuple):
    """A candidate beside the champion on the same windows."""

    figures: tuple[Figure, ...]
    windows: int
    known: int

    def of(self, measure: str) -> Figure:
        """The figure of a measure."""
        return next(figure for figure in self.figures if figure.measure == measure)

    def breaches(self) -> list[str]:
        """The limits that are not held, each in words; what could not be measured is within no limit."""
        return [_breach(figure) for figure in self.figures if figure.within is False]


def keep_unless_sure(old: Verdicts, probability: Floats, hand_over: HandOver) -> Verdicts:
    """
    The verdicts at a hand-over: the old one, unless the new model is sure of its own: |p - 1/2| is at least the margin.

    With equal margins what the cost-ratio rule of Träuble et al. 2021 (Backward-compatible prediction updates) is to
    many classes.

    >>> keep_unless_sure(np.array([True, True, False]), np.array([0.04, 0.001, 0.96]), HandOver(0.45, 0.495)).tolist()
    [True, False, True]
    """
    # A limit written as 0.35 must admit 0.85 and 0.15, which in floats are a hair closer to one half.
    needed = np.where(old, hand_over.withdraw, hand_over.add) - 1e-12
    return np.where(np.abs(probability - 0.5) >= needed, probability > 0.5, old)


def judge(probabilities: Sequence[Floats], hand_overs: Sequence[HandOver | None]) -> Verdicts:
    """
    The verdicts of versions in use together, the oldest first: each overrules those before it only where it is sure.

    One whose hand-over is None has taken over outright.
    """
    found = probabilities[0] > 0.5
    for probability, hand_over in zip(probabilities[1:], hand_overs[1:], strict=True):
        found = probability > 0.5 if hand_over is None else keep_unless_sure(found, probability, hand_over)
    return found


def alarm_probability(p_value: Floats, *, alpha: float) -> Floats:
    """
    A conformal p-value as a probability of alarm: one half where the p-value is *alpha*, at which alarms begin.

    >>> alarm_probability(np.array([0.0, 0.01, 1.0]), alpha=0.01).round(3).tolist()
    [1.0, 0.5, 0.01]
    """
    return alpha / (alpha + np.asarray(p_value, dtype=np.float64))


def compare(
    trial: Trial,
    *,
    hand_over: HandOver | None = None,
    budget: Budget = BUDGET,
    draws: int = DRAWS,
    seed: int = 0,
    resample: "Bootstrap | None" = None,
) -> Comparison:
    """
    What *trial* says of the candidate, handed over with the rule of `keep_unless_sure` where *hand_over* is given.

    A measure of too few blocks (`LEAST_BLOCKS`) has no bounds and so is not within its limit. A champion that had
    nothing right of what the trial could tell has nothing to lose. Where no truth is known at all, churn stands for
    flips. Who compares one trial several times gives its draws: *resample* instead of *draws* and *seed*.
    """
    old = trial.champion > 0.5
    new = trial.candidate > 0.5 if hand_over is None else keep_unless_sure(old, trial.candidate, hand_over)
    known = trial.truth != UNKNOWN
    fault = trial.truth == 1
    was_right, is_right = known & (old == fault), known & (new == fault)
    every = np.ones(len(old), dtype=bool)
    resample = resample or Bootstrap(block_of(trial), draws=draws, seed=seed)
    # Each with what the candidate does, of what the champion did, and of what it could have done.
    flips = (
        ("negative_flip_ratio", was_right & ~is_right, was_right, known),
        ("lost_alarm_ratio", was_right & fault & ~is_right, was_right & fault, known & fault),
        ("new_false_alarm_ratio", was_right & ~fault & ~is_right, was_right & ~fault, known & ~fault),
    )
    labelled = bool(known.any())
    figures = _errors(trial, known, was_right, is_right, resample, budget.error_ratio)
    for measure, part, whole, possible in flips:
        limit = getattr(budget, measure) if labelled else None
        figures.append(_figure(measure, resample, part, whole, limit, possible=possible))
    figures.append(_figure("positive_flip_ratio", resample, known & ~was_right & is_right, known & ~was_right))
    figures.append(_figure("churn_ratio", resample, old != new, every, None if labelled else budget.churn_ratio))
    return Comparison(tuple(figures), len(old), int(known.sum()))


def hand_overs(trial: Trial, *, alone: bool = False) -> tuple[HandOver | None, ...]:
    """
    The hand-overs to try, None being outright; with *alone* that only.

    Where the truth is known there are right verdicts to keep, and nothing below `SURE` keeps enough of them; where it
    is not, what changes is counted, and taking over outright comes first.
    """
    if alone:
        return (None,)
    if bool((trial.truth != UNKNOWN).any()):
        return tuple(HandOver(add, withdraw) for add in ADDS for withdraw in WITHDRAWS)
    return (None, *(HandOver(margin, margin) for margin in MARGINS))


def best_hand_over(
    trial: Trial, *, budget: Budget = BUDGET, alone: bool = False
) -> tuple[HandOver | None, Comparison] | None:
    """
    Of `hand_overs` within the budget the one with the least error, and what was found with it; None if none is.

    Of equals the first: what withdraws fewer alarms. One by the rule must err less than the champion, since it takes
    one of a few places beside it. Where no truth is known the first that is within the budget.
    """
    resample = Bootstrap(block_of(trial))
    labelled = bool((trial.truth != UNKNOWN).any())
    best: tuple[HandOver | None, Comparison] | None = None
    for hand_over in hand_overs(trial, alone=alone):
        found = compare(trial, hand_over=hand_over, budget=budget, resample=resample)
        if found.breaches():
            continue
        if not labelled or hand_over is None:
            return hand_over, found
        error = found.of("error")
        least = error.champion if best is None else best[1].of("error").value
        if error.value is not None and least is not None and error.value < least:
            best = hand_over, found
    return best


def block_of(trial: Trial, *, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """The block of each window: about *blocks* runs of neighbours in all, none over two series or ending in a fault."""
    order = np.lexsort((trial.time_ns, trial.series))
    series, fault = trial.series[order], trial.truth[order] == 1
    length = max(1, -(-len(order) // blocks))
    new_series = np.concatenate([[True], series[1:] != series[:-1]])
    # An event that is cut would be two witnesses of one thing.
    within = np.concatenate([[False], fault[1:] & fault[:-1]]) & ~new_series
    first_of, may_begin = np.flatnonzero(new_series), np.flatnonzero(~within)
    begins, at = np.zeros(len(order), dtype=np.int64), 0
    while at < len(order):
        begins[at] = 1
        at = min(_next(first_of, at + 1, len(order)), _next(may_begin, at + length, len(order)))
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.cumsum(begins) - 1
    return found


def _next(places: NDArray[np.int64], at: int, end: int) -> int:
    """The first of *places*, which are in order, from *at* on; else *end*."""
    number = int(np.searchsorted(places, at))
    return int(places[number]) if number < len(places) else end


class Bootstrap:
    """Draws of whole blocks, the same for every measure and every comparison of one trial."""

    def __init__(self, block: NDArray[np.int64], *, draws: int = DRAWS, seed: int = 0) -> None:
        self.block = block
        self.count = int(block.max()) + 1
        rng = np.random.default_rng(seed)
        self.times = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=draws)

    def sums(self, values: NDArray[Any]) -> Floats:
        """The sum of *values* in each block."""
        return np.bincount(self.block, weights=values.astype(np.float64), minlength=self.count).astype(np.float64)

    def bounds(self, part: Floats, whole: Floats) -> tuple[float | None, float | None]:
        """Of the sums by block of a numerator and a denominator, the bounds of their ratio."""
        below = self.times @ whole
        drawn = np.divide(self.times @ part, below, out=np.full(len(below), np.nan), where=below > 0)
        drawn = drawn[np.isfinite(drawn)]
        if (whole > 0).sum() < LEAST_BLOCKS or not len(drawn):
            return None, None
        low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
        return float(low), float(high)


def _figure(
    measure: str,
    resample: Bootstrap,
    part: NDArray[Any],
    whole: NDArray[Any],
    limit: float | None = None,
    *,
    champion: float | None = None,
    possible: Verdicts | None = None,
) -> Figure:
    parts, wholes = resample.sums(part), resample.sums(whole)
    total = float(wholes.sum())
    value = float(parts.sum()) / total if total > 0 else None
    low, high = resample.bounds(parts, wholes)
    within = None if limit is None else high is not None and high <= limit
    blocks = int((wholes > 0).sum())
    if limit is not None and possible is not None and not total:
        blocks = int((resample.sums(possible) > 0).sum())
        within = blocks >= LEAST_BLOCKS
    return Figure(measure, value, low, high, champion, limit, within, blocks)


def _errors(
    trial: Trial,
    known: Verdicts,
    was_right: Verdicts,
    is_right: Verdicts,
    resample: Bootstrap,
    limit: float,
) -> list[Figure]:
    """The mean error of the candidate beside the champion's, and their ratio, which has the limit."""
    judged = True
    if trial.champion_error is not None and trial.candidate_error is not None:
        counted = np.isfinite(trial.champion_error) & np.isfinite(trial.candidate_error)
        theirs, mine = (np.where(counted, error, 0.0) for error in (trial.champion_error, trial.candidate_error))
    else:
        theirs, mine, counted = (known & ~was_right).astype(float), (known & ~is_right).astype(float), known
        judged = bool(known.any())
    total = float(counted.sum())
    figures = [
        _figure("error", resample, mine, counted, champion=float(theirs.sum()) / total if total else None),
        _figure("error_ratio", resample, mine, theirs, limit if judged else None, champion=1.0),
    ]
    if trial.baseline_error is not None:
        told = counted & np.isfinite(trial.baseline_error)
        figures.append(_figure("baseline_error", resample, np.where(told, trial.baseline_error, 0.0), told))
    return figures


def _breach(figure: Figure) -> str:
    if figure.high is None:
        counted = f"{figure.blocks} blocks of the trial count for it, and {LEAST_BLOCKS} are needed"
        return f"{figure.measure} cannot be judged: {counted}"
    return f"{figure.measure} is {figure.value:.4g}, at most {figure.high:.4g}, and the limit is {figure.limit:.4g}"
