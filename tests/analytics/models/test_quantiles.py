"""Trees of a quantile are those of scikit-learn."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from analytics.models.quantiles import QuantileRegressor, quantile

LEVELS = (0.025, 0.1, 0.3, 0.5, 0.9, 0.975)


@pytest.mark.parametrize("level", LEVELS)
def test_a_quantile_is_that_of_numpy_to_the_last_bit(level: float) -> None:
    rng = np.random.default_rng(1)
    for size in (*range(1, 60), 997):
        values = rng.normal(size=size)
        assert quantile(values, 100 * level / 100) == np.percentile(values, 100 * level)
        assert quantile(np.round(values), 100 * level / 100) == np.percentile(np.round(values), 100 * level)


@pytest.mark.parametrize("level", LEVELS)
def test_trees_predict_to_the_last_bit_what_those_of_the_library_do(level: float) -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(1500, 4))
    rows[::7, 1] = np.nan
    target = rows[:, 0] ** 2 + rng.exponential(size=1500)
    settings = {
        "loss": "quantile", "quantile": level, "max_iter": 12, "min_samples_leaf": 15, "random_state": 0,
        "early_stopping": False,
    }  # fmt: skip
    mine, theirs = QuantileRegressor(**settings), HistGradientBoostingRegressor(**settings)
    assert np.array_equal(mine.fit(rows, target).predict(rows), theirs.fit(rows, target).predict(rows))


def test_what_is_no_quantile_or_weighted_is_refused() -> None:
    rows, target = np.arange(60.0).reshape(30, 2), np.arange(30.0)
    with pytest.raises(ValueError, match="loss 'quantile'"):
        QuantileRegressor(loss="squared_error").fit(rows, target)
    with pytest.raises(ValueError, match="without weights"):
        QuantileRegressor(loss="quantile", quantile=0.5).fit(rows, target, sample_weight=np.ones(30))
