"""Ensembles as arrays predict what the library predicts, and arrays that are no trees are refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from analytics.models.trees import Trees, predictions, trees

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(9000, 5))
ROWS[RNG.random(ROWS.shape) < 0.1] = np.nan
TARGET = np.nan_to_num(ROWS[:, 0]) + np.nan_to_num(ROWS[:, 1]) ** 2 + RNG.normal(size=len(ROWS))

FITTED = [
    HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=40).fit(ROWS, TARGET),
    HistGradientBoostingRegressor(max_leaf_nodes=None, max_iter=5).fit(ROWS, TARGET),
    HistGradientBoostingRegressor(max_iter=10).fit(np.nan_to_num(ROWS), TARGET),
    HistGradientBoostingClassifier(max_iter=40).fit(ROWS, TARGET > 1),
    HistGradientBoostingRegressor(max_iter=2).fit(ROWS[:5], TARGET[:5]),
]


def predicted(fitted: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (
        fitted.predict_proba(rows)[:, 1] if hasattr(fitted, "predict_proba") else fitted.predict(rows)
    )
    return found


@pytest.mark.parametrize("fitted", FITTED)
def test_the_arrays_predict_to_the_last_bit_what_the_library_predicts(fitted: Any) -> None:
    found = trees(fitted)
    others = np.random.default_rng(4).normal(size=(9000, 5), scale=3)
    others[0], others[1], others[2] = np.nan, np.inf, -np.inf
    for rows in (ROWS, others, others[:1], others[:0].reshape(0, 5)):
        expected = predicted(fitted, rows) if len(rows) else np.empty(0)
        np.testing.assert_array_equal(found.predict(rows), expected)


def test_several_models_predict_together_what_each_does() -> None:
    """Of up to 16, 64 and more leaves, and one that never divides; also of a single row."""
    some = [
        HistGradientBoostingRegressor(max_leaf_nodes=16, max_iter=7).fit(ROWS, TARGET),
        HistGradientBoostingRegressor(max_leaf_nodes=64, min_samples_leaf=5, max_iter=3).fit(ROWS, TARGET),
        HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=9000).fit(ROWS, TARGET),
    ]
    for chosen in (some, some[:1], some[2:], [*some, FITTED[1]]):
        for rows in (ROWS, ROWS[:1]):
            for found, fitted in zip(predictions([trees(one) for one in chosen], rows), chosen, strict=True):
                np.testing.assert_array_equal(found, fitted.predict(rows))


def test_arrays_survive_a_round_trip_beside_others() -> None:
    low, high = trees(FITTED[0]), trees(FITTED[1])
    arrays = {**low.arrays("q10_"), **high.arrays("q90_")}
    np.testing.assert_array_equal(Trees.of(arrays, "q10_").predict(ROWS), low.predict(ROWS))
    np.testing.assert_array_equal(Trees.of(arrays, "q90_").predict(ROWS), high.predict(ROWS))


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="the model has 5"):
        trees(FITTED[0]).predict(ROWS[:, :4])


def test_what_cannot_be_turned_is_refused() -> None:
    three = HistGradientBoostingClassifier(max_iter=2).fit(ROWS, np.digitize(TARGET, [0, 1]))
    with pytest.raises(ValueError, match="3 trees at a time"):
        trees(three)
    counts = HistGradientBoostingRegressor(loss="poisson", max_iter=2).fit(ROWS, np.abs(TARGET))
    with pytest.raises(ValueError, match="LogLink"):
        trees(counts)
    kinds = HistGradientBoostingRegressor(max_iter=2, categorical_features=[0]).fit(
        np.column_stack([np.arange(len(TARGET)) % 3, TARGET]), np.arange(len(TARGET)) % 3
    )
    with pytest.raises(ValueError, match="categories"):
        trees(kinds)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("left", lambda a: a * 0, "a child that is before it"),
        ("right", lambda a: a + 10**6, "a child that is before it or not there"),
        ("feature", lambda a: a + 5, "array feature"),
        ("roots", lambda a: a - 1, "array roots"),
        ("roots", lambda a: np.append(a, a[1]), "or twice one of these"),
        ("roots", lambda a: a[1:], "a node is below no other"),
        ("value", lambda a: a[:-1], r"is of .\d+,., not of"),
        ("value", lambda a: a * np.nan, "no number"),
        ("threshold", lambda a: a.astype(np.int64), "array threshold is of int64"),
        ("baseline", lambda a: np.array([1.0, 2.0]), "not one number"),
    ],
)
def test_arrays_that_are_no_trees_are_refused(name: str, change: Any, said: str) -> None:
    arrays = trees(FITTED[0]).arrays()
    with pytest.raises(ValueError, match=said):
        Trees.of({**arrays, name: change(arrays[name])})
    del arrays[name]
    with pytest.raises(ValueError, match=f"no array {name}"):
        Trees.of(arrays)
