"""Odd stretches: of level, of shape, of what moves together; and what is asked for wrongly."""

import numpy as np
import pytest
from numpy.typing import NDArray

from analytics.anomalies.subsequence import Subsequences, fit
from collector.errors import NotEnoughData

Floats = NDArray[np.float64]
ODD = slice(1500, 1600)


def daily(rows: int = 3000, *, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    at = np.arange(rows)
    return (10 + 3 * np.sin(2 * np.pi * at / 96) + rng.normal(0, 0.3, rows))[:, None]


def found(values: Floats, odd: slice = ODD) -> float:
    """How many of the hundred oddest rows are in the stretch, as a ratio."""
    scores = fit(values).score(values)
    assert scores.shape == (len(values),)
    assert np.isfinite(scores).all()
    oddest = np.argsort(scores)[-100:]
    return float(((oddest >= odd.start - 30) & (oddest < odd.stop + 30)).mean())


def test_a_level_that_was_never_seen_is_odd() -> None:
    values = daily()
    values[ODD] += 6
    assert found(values) > 0.95


def test_a_shape_that_was_never_seen_is_odd_though_in_range() -> None:
    values = daily()
    values[ODD] = 12.9
    assert found(values) > 0.95


def test_columns_that_no_longer_move_together_are_odd() -> None:
    rng = np.random.default_rng(2)
    cause = rng.normal(size=(3000, 1))
    values = cause @ np.array([[1.0, 2.0, -1.0]]) + rng.normal(0, 0.05, (3000, 3))
    values[ODD, 1] = rng.permutation(values[ODD, 1])
    assert found(values) > 0.9


def test_units_of_the_columns_do_not_matter() -> None:
    values = np.column_stack([daily(seed=1)[:, 0], daily(seed=2)[:, 0]])
    scaled = values * np.array([1e-6, 1e9]) + np.array([5.0, -3e9])
    np.testing.assert_allclose(fit(values).score(values), fit(scaled).score(scaled), rtol=1e-5, atol=1e-5)


def test_what_was_learned_scores_other_recordings_and_does_not_change() -> None:
    learned = fit(daily(seed=1))
    other = daily(seed=5)
    other[ODD] += 6
    scores = learned.score(other)
    assert np.argmax(scores) in range(ODD.start - 30, ODD.stop + 30)
    np.testing.assert_array_equal(scores, learned.score(other))
    assert np.abs(np.median(scores)) < 2


def test_the_same_rows_and_seed_learn_the_same() -> None:
    one, two = (fit(daily(), seed=3).arrays() for _ in range(2))
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def test_what_was_not_measured_counts_as_what_the_other_columns_let_expect() -> None:
    values = np.column_stack([daily(seed=1)[:, 0], daily(seed=2)[:, 0]])
    whole = fit(values).score(values)
    gaps = values.copy()
    gaps[200:260, 0] = np.nan
    gaps[700:760] = np.nan
    scores = fit(gaps).score(gaps)
    assert np.isfinite(scores).all()
    # A zero in place of the first would tear the two apart for hours.
    assert scores[200:260].max() < whole.max() + 1
    gaps[220:240, 1] += 6
    assert np.argmax(fit(gaps).score(gaps)) in range(190, 270)


def test_a_column_that_stands_still_is_no_trouble() -> None:
    values = np.column_stack([daily()[:, 0], np.full(3000, 7.0)])
    values[ODD, 0] += 6
    assert found(values) > 0.9


def test_it_is_kept_as_numbers() -> None:
    learned = fit(daily())
    kept = learned.arrays()
    again = Subsequences(**{**kept, "window": int(kept["window"])})  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.score(daily(seed=4)), learned.score(daily(seed=4)))


def test_too_little_or_other_columns_are_told() -> None:
    with pytest.raises(NotEnoughData, match="60 rows; windows of 10 need 80"):
        fit(daily(60))
    with pytest.raises(NotEnoughData, match="column 1 was never measured"):
        fit(np.column_stack([daily()[:, 0], np.full(3000, np.nan)]))
    with pytest.raises(ValueError, match="learned of 1"):
        fit(daily()).score(np.zeros((100, 2)))
    with pytest.raises(NotEnoughData, match="a window has 128"):
        fit(daily()).score(daily(100))
