"""
Expectation: what a device draws or a workload makes at its utilisation, clocks, temperature, caps and memory activity.

Quantiles by gradient-boosted trees, fitted on hosts apart: those of one part are judged by what was learned from the
others', so that no row is judged by a model that has seen its host. Where there are too few hosts to have seen all that
is done, time is divided instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from zlib import crc32

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from analytics.anomalies.detector import MAD_SIGMA, Array, Floats, scored
from analytics.models.quantiles import QuantileRegressor
from analytics.models.trees import Trees, predictions, trees
from collector.errors import NotEnoughData
from collector.moments import NS

PARTS: Final = 3
"""Hosts, or stretches of time, are divided into so many parts."""
QUANTILES: Final = {"low": 0.1, "mid": 0.5, "high": 0.9}
"""What lies between low and high is usual; the width of that is what deviations are measured in."""
ROWS: Final = 12_000
"""Rows that the trees of a part are fitted on; more made expectations no better and fits slower."""
FEWEST: Final = 300
"""Windows that a part must have."""
HOSTS: Final = 4 * PARTS
"""Of fewer, what one does is often done by no other."""
STRETCH_NS: Final = 2 * 3600 * NS
"""Where time is divided, stretches of so long take turns."""
_MOST_OF_ALL: Final = 0.75
# Small trees, and enough rows in a leaf for a tenth of them to tell something.
_TREES: Final[dict[str, Any]] = {
    "max_iter": 60, "max_leaf_nodes": 12, "max_depth": 5, "min_samples_leaf": 40, "learning_rate": 0.12,
    "early_stopping": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """
    Expects `value` over `base` (what it is a share of; null: not judged) from the columns *features*.

    models: of each part the trees of each quantile, fitted on the other parts. by_time: whether parts are of time.
    usual: how much deviates usually, as a logarithm (1.48 times the median on parts that were not fitted on): where
    trees claim to know better, they are sure by chance.
    """

    features: tuple[str, ...]
    models: tuple[Mapping[str, Trees], ...] = ()
    by_time: bool = False
    usual: float = 0.0

    @property
    def name(self) -> str:
        """What it is called."""
        return "expectation"

    def fit(self, windows: pl.DataFrame, *, seed: int = 0) -> Self:
        """
        Learn from *windows*, of which zeros say nothing of what a device at work measures.

        Raises: NotEnoughData (a part has too few).
        """
        known = windows.filter((pl.col("value") > 0) & (pl.col("base") > 0)).sort("host", "subject", "time")
        by_time = known["host"].n_unique() < HOSTS or not _divides(_parts(known, by_time=False))
        part = _parts(known, by_time=by_time)
        counts = [int((part != one).sum()) for one in range(PARTS)]
        if not _divides(part) or min(counts) < FEWEST:
            raise NotEnoughData(f"{known.height} windows, in parts {counts}; {FEWEST} of each part are wanted")
        rows = self._rows(known)
        target = np.log((known["value"] / known["base"]).to_numpy())
        models = []
        for one in range(PARTS):
            others = np.flatnonzero(part != one)
            rng = np.random.default_rng([seed, one])
            taken = np.sort(rng.choice(others, min(ROWS, others.size), replace=False))
            models.append({name: _fitted(rows[taken], target[taken], level, seed) for name, level in QUANTILES.items()})
        fitted = replace(self, models=tuple(models), by_time=by_time)
        tried = known.gather_every(-(-known.height // ROWS))
        usual = MAD_SIGMA * float(np.nanmedian(np.abs(fitted.score(tried)["deviation"].to_numpy())))
        return replace(fitted, usual=usual)

    def score(self, windows: pl.DataFrame) -> pl.DataFrame:
        """See `Detector.score`."""
        rows, part = self._rows(windows), _parts(windows, by_time=self.by_time)
        base = windows["base"].cast(pl.Float64()).fill_null(np.nan).to_numpy()
        found = {name: np.full(len(rows), np.nan) for name in QUANTILES}
        for one, models in enumerate(self.models):
            mine = np.flatnonzero((part == one) & (base > 0))
            for name, predicted in zip(models, predictions(list(models.values()), rows[mine]), strict=True):
                found[name][mine] = predicted
        low, mid, high = found["low"], found["mid"], found["high"]
        return scored(
            windows, base * np.exp(mid), None, np.fmax(mid - low, self.usual), np.fmax(high - mid, self.usual)
        )

    def state(self) -> dict[str, Array]:
        """What it learned; features are told apart by their place."""
        arrays: dict[str, Array] = {"by_time": np.array(self.by_time), "usual": np.array(self.usual)}
        for one, models in enumerate(self.models):
            for name, model in models.items():
                arrays |= model.arrays(f"part{one}_{name}_")
        return arrays

    def restored(self, state: Mapping[str, Array]) -> Self:
        """
        The detector of a state.

        Raises: ValueError.
        """
        if not {"by_time", "usual"} <= set(state):
            raise ValueError(f"arrays {', '.join(sorted(state))} are no state of an expectation")
        models = tuple({name: Trees.of(state, f"part{one}_{name}_") for name in QUANTILES} for one in range(PARTS))
        wrong = {model.features for one in models for model in one.values()} - {len(self.features)}
        if wrong:
            raise ValueError(f"it was fitted on {wrong.pop()} features, not on the {len(self.features)} of today")
        return replace(self, models=models, by_time=bool(state["by_time"]), usual=float(state["usual"]))

    def _rows(self, windows: pl.DataFrame) -> Floats:
        return windows.select(pl.col(self.features).cast(pl.Float64()).fill_null(np.nan)).to_numpy()


def _fitted(rows: Floats, target: Floats, level: float, seed: int) -> Trees:
    """The trees of a quantile, grown by one thread: of so few rows several only wait for each other, at full speed."""
    # A type of device that never tells a feature must not cost the fit, which wants a value of each.
    rows = np.where(np.isnan(rows).all(axis=0), 0.0, rows)
    model = QuantileRegressor(loss="quantile", quantile=level, random_state=seed, **_TREES)
    with threadpool_limits(1):
        return trees(model.fit(rows, target))


def _parts(windows: pl.DataFrame, *, by_time: bool) -> Array:
    """Which part each row belongs to."""
    if by_time:
        stretch: Array = windows["time"].to_physical().to_numpy() // STRETCH_NS % PARTS
        return stretch
    hosts = windows["host"].fill_null("")
    part = {host: crc32(host.encode()) % PARTS for host in hosts.unique()}
    return hosts.replace_strict(part, return_dtype=pl.Int64).to_numpy()


def _divides(part: Array) -> bool:
    """Whether no part is so large that the others would tell little of it."""
    return len(part) > 0 and float(np.bincount(part, minlength=PARTS).max()) <= _MOST_OF_ALL * len(part)
