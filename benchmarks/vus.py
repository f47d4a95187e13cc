"""
VUS-PR: the volume under the surface of range-aware precision and recall over buffers around each event.

Paparrizos et al. 2022 (Volume Under the Surface), as TSB-AD computes it: 250 thresholds at equal steps of rank, buffers
of 0 to the length of the series' own period, labels that fall off with the root of the distance within half a buffer,
recall times the share of events that are touched at all, and precision weighted by the soft labels. No point is ever
counted as found because its neighbour was.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import argrelextrema

Floats = NDArray[np.float64]

THRESHOLDS = 250
LAGS = 400
ROWS = 20_000
"""The period is looked for in so many rows."""
NO_PERIOD = 125


def vus_pr(labels: NDArray[np.integer], scores: Floats, longest: int) -> float:
    """
    Mean over buffers of 0 to *longest* rows of the area under range-aware precision and recall.

    In:  labels 0 or 1, scores (higher is odder), a row each.

    Raises: ValueError (no event, another length, a score that is no number).
    """
    faulty, scores = np.asarray(labels) > 0, np.asarray(scores, dtype=float)
    if faulty.shape != scores.shape or not np.isfinite(scores).all():
        raise ValueError(f"{faulty.shape} labels and {scores.shape} scores, all of which must be numbers")
    events = events_of(faulty)
    if not len(events):
        raise ValueError("no event to find")
    ordered = np.sort(scores)[::-1]
    thresholds = ordered[np.linspace(0, len(scores) - 1, THRESHOLDS).astype(int)]
    # The first threshold at which each row is an alarm, so that counts at all thresholds are one cumulative sum.
    first = np.searchsorted(-thresholds, -scores, side="left")
    alarms = _cumulated(first, np.ones(len(scores)))
    inside = _cumulated(first, faulty.astype(float))
    positives = faulty.sum()
    areas = []
    for buffer in range(longest + 1):
        soft = softened(faulty, events, buffer)
        found = _cumulated(first, soft)
        # Labels that fall off count as far as they are alarms, those of the event itself always.
        wanted = (positives + positives + found - inside) / 2
        touched = np.zeros(THRESHOLDS)
        ranges = merged(events, buffer // 2, len(faulty))
        for start, last in ranges:
            touched[first[start : last + 1].min() :] += 1
        recall = np.minimum(found / wanted, 1) * touched / len(ranges)
        areas.append(float(np.sum(np.diff(recall, prepend=0.0) * found / alarms)))
    return float(np.mean(areas))


def events_of(labels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and last row of each run of true labels: (events, 2)."""
    edges = np.diff(np.concatenate([[0], labels.astype(int), [0]]))
    return np.column_stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1])


def softened(labels: NDArray[np.bool_], events: NDArray[np.int64], buffer: int) -> Floats:
    """Labels that fall off from each event over half of *buffer*, at most 1 where two meet."""
    soft: Floats = labels.astype(float)
    for start, last in events:
        after = np.arange(last + 1, min(last + buffer // 2 + 1, len(soft)))
        before = np.arange(max(start - buffer // 2, 0), start)
        soft[after] += np.sqrt(1 - (after - last) / buffer) if buffer else 0.0
        soft[before] += np.sqrt(1 - (start - before) / buffer) if buffer else 0.0
    return np.asarray(np.minimum(soft, 1.0))


def merged(events: NDArray[np.int64], half: int, rows: int) -> list[tuple[int, int]]:
    """The events with *half* a buffer on each side; those that meet are one."""
    ranges: list[tuple[int, int]] = []
    for start, last in events:
        low, high = max(int(start) - half, 0), min(int(last) + half, rows - 1)
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], high)
        else:
            ranges.append((low, high))
    return ranges


def period_of(values: Floats) -> int:
    """The lag of the highest local maximum of the autocorrelation between 6 and 303 rows, 125 without one."""
    part = values[:ROWS] - values[:ROWS].mean()
    size = 1 << (2 * len(part) - 1).bit_length()
    spectrum = np.fft.rfft(part, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[: min(LAGS + 1, len(part))]
    if not covariance[0] > 0:
        return NO_PERIOD
    correlation = (covariance / covariance[0])[3:]
    (peaks,) = argrelextrema(correlation, np.greater)
    if not len(peaks):
        return NO_PERIOD
    best = int(peaks[np.argmax(correlation[peaks])])
    return NO_PERIOD if best < 3 or best > 300 else best + 3


def _cumulated(first: NDArray[np.int64], weights: Floats) -> Floats:
    return np.asarray(np.bincount(first, weights=weights, minlength=THRESHOLDS).cumsum(), dtype=float)
