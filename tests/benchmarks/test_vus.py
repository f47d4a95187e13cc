"""VUS-PR by hand, by the definition, and what it does not reward."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.vus import merged, period_of, softened, vus_pr

Floats = NDArray[np.float64]


def by_the_definition(labels: NDArray[np.int64], scores: Floats, longest: int) -> float:
    """One buffer and one threshold after the other, row by row."""
    rows = len(labels)
    events, start = [], None
    for at in range(rows + 1):
        inside = at < rows and labels[at] == 1
        if inside and start is None:
            start = at
        if not inside and start is not None:
            events.append((start, at - 1))
            start = None
    areas = []
    for buffer in range(longest + 1):
        half = buffer // 2
        soft = [float(label) for label in labels]
        for first, last in events:
            for at in range(rows):
                away = first - at if at < first else at - last
                if not first <= at <= last and away <= half:
                    soft[at] += math.sqrt(1 - away / buffer)
        soft = [min(value, 1.0) for value in soft]
        ranges: list[list[int]] = []
        for first, last in events:
            low, high = max(first - half, 0), min(last + half, rows - 1)
            if ranges and low <= ranges[-1][1]:
                ranges[-1][1] = high
            else:
                ranges.append([low, high])
        before, area = 0.0, 0.0
        for place in np.linspace(0, rows - 1, 250).astype(int):
            alarms = scores >= np.sort(scores)[::-1][place]
            found = sum(value for value, alarm in zip(soft, alarms, strict=True) if alarm)
            wanted = sum(
                1.0 if label else value * alarm for label, value, alarm in zip(labels, soft, alarms, strict=True)
            )
            touched = sum(bool(alarms[low : high + 1].any()) for low, high in ranges)
            recall = min(found / ((labels.sum() + wanted) / 2), 1) * touched / len(ranges)
            area += (recall - before) * found / alarms.sum()
            before = recall
        areas.append(area)
    return float(np.mean(areas))


def scored(labels: list[int], scores: list[float], longest: int = 0) -> float:
    return vus_pr(np.array(labels), np.array(scores), longest)


def test_alarms_on_every_row_of_an_event_and_no_other_are_worth_one() -> None:
    assert scored([0, 1, 1, 0], [0, 1, 1, 0]) == 1.0


def test_scores_that_say_nothing_are_worth_the_share_of_faults() -> None:
    assert scored([0, 1, 1, 0, 0], [3, 3, 3, 3, 3]) == pytest.approx(2 / 5)


def test_a_false_alarm_first_costs_precision() -> None:
    # Half of the event at a precision of 1/2, the other half at 2/3.
    assert scored([0, 1, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 3)


def test_an_event_that_is_not_touched_costs_recall() -> None:
    # One of two events: half of the rows times half of the events; then all, with one false alarm among three.
    assert scored([1, 0, 1, 0], [0.9, 0.6, 0.5, 0.2]) == pytest.approx(0.25 * 1 + 0.75 * 2 / 3)


def test_an_alarm_beside_an_event_is_worth_what_the_buffer_gives() -> None:
    beside = math.sqrt(1 / 2)
    first = beside / ((1 + 1 + beside) / 2)
    whole = (1 + 2 * beside) / 5
    buffered = first * beside + (1 - first) * whole
    # Buffers of 0 and 1 reach no neighbour, that of 2 does.
    assert scored([0, 0, 1, 0, 0], [0, 0, 0, 1, 0], longest=2) == pytest.approx((1 / 5 + 1 / 5 + buffered) / 3)


def test_one_row_of_a_long_event_does_not_find_the_event() -> None:
    labels = [0] * 50 + [1] * 50 + [0] * 100
    one = [0.0] * 200
    one[60] = 1.0
    # Point adjustment would call this perfect.
    assert scored(labels, one, longest=10) < 0.35


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_the_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(60, dtype=int)
    for start in rng.integers(0, 60, 3):
        labels[start : start + rng.integers(1, 8)] = 1
    scores = np.round(rng.random(60) + 0.3 * labels, 1 if seed % 2 else 6)
    assert vus_pr(labels, scores, 9) == pytest.approx(by_the_definition(labels, scores, 9), abs=1e-12)


def test_buffers_that_meet_are_one_range_and_at_most_one() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0, 0]) > 0
    events = np.array([[1, 1], [4, 4]])
    assert merged(events, 1, 10) == [(0, 2), (3, 5)]
    assert merged(events, 2, 10) == [(0, 6)]
    assert softened(labels, events, 6).max() == 1.0


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be numbers"):
        scored([0, 1], [0.0, math.nan])
    with pytest.raises(ValueError, match="no event"):
        scored([0, 0], [0.0, 1.0])


@pytest.mark.parametrize("period", [7, 24, 288])
def test_a_period_is_found(period: int) -> None:
    at = np.arange(20 * period)
    wave = np.sin(2 * np.pi * at / period) + np.random.default_rng(0).normal(0, 0.05, len(at))
    assert period_of(wave) == pytest.approx(period, abs=1)


def test_what_has_no_period_has_the_usual() -> None:
    assert period_of(np.ones(500)) == 125
    assert period_of(np.arange(300.0)) == 125
