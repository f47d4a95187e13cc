"""
What a run of a system should draw, learned from few runs: what it shares with others tells most of it.

The logarithm of power is a sum of effects (of the system, of the benchmark, of the accelerator with the benchmark ...),
each of which is drawn towards zero as far as its kind of effect is small: partial pooling, as a Gaussian process whose
covariance is one number for each kind of effect that two runs share. An additive model is the case in which no effect
is drawn in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Effect = tuple[str, ...]

_MEAN_VARIANCE: Final = 25.0
"""Of the logarithm of what all share: power may be anything from milliwatts to megawatts."""
_BOUNDS: Final = (-12.0, 3.0)
_START: Final = -3.0
_ROUNDS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """
    Kinds of effect, each the columns whose equal values share one, with the logarithms of their variances.

    size: a column (> 0) with the logarithm of which that of power rises in a straight line. variances: of each effect,
    of the slope, and of what is left.
    """

    effects: tuple[Effect, ...]
    size: str
    variances: tuple[float, ...] = ()

    def tuned(self, runs: pl.DataFrame, value: str) -> "Pooled":
        """With the variances under which *value* of *runs* is likeliest. None of the runs is to be predicted later."""
        shares, target = self._shares(runs), np.log(runs[value].to_numpy())

        def unlikely(variances: Floats) -> float:
            factor = cho_factor(_covariance(variances, shares), lower=True)
            return float(target @ cho_solve(factor, target) / 2 + np.log(np.diag(factor[0])).sum())

        start = np.full(len(shares) + 1, _START)
        found = minimize(
            unlikely, start, method="L-BFGS-B", bounds=[_BOUNDS] * len(start), options={"maxiter": _ROUNDS}
        )
        return Pooled(effects=self.effects, size=self.size, variances=tuple(float(one) for one in found.x))

    def left_out(self, runs: pl.DataFrame, value: str) -> Floats:
        """What *value* of each run is expected to be from all the others, in its unit (Rasmussen & Williams, 5.12)."""
        covariance = _covariance(np.array(self.variances), self._shares(runs))
        target = np.log(runs[value].to_numpy())
        inverse = np.linalg.inv(covariance)
        expected: Floats = np.exp(target - (inverse @ target) / np.diag(inverse))
        return expected

    def _shares(self, runs: pl.DataFrame) -> Sequence[Floats]:
        """For each kind of effect how much of it each two runs share."""
        found = []
        for effect in self.effects:
            words = pl.concat_str(pl.col(effect).cast(pl.String).fill_null(""), separator="|")
            code = runs.select(words.rank("dense")).to_series().to_numpy()
            found.append((code[:, None] == code[None, :]).astype(np.float64))
        size = np.log(runs[self.size].cast(pl.Float64).to_numpy())
        return [*found, np.outer(size, size)]


def _covariance(variances: Floats, shares: Sequence[Floats]) -> Floats:
    runs = len(shares[0])
    whole = np.full((runs, runs), _MEAN_VARIANCE)
    for variance, share in zip(np.exp(variances[:-1]), shares, strict=True):
        whole += variance * share
    whole[np.diag_indices(runs)] += np.exp(variances[-1])
    return whole


def additive(runs: pl.DataFrame, value: str, effects: Sequence[str]) -> Floats:
    """
    What *value* of each run is expected to be from all the others by an additive model of its logarithm.

    NaN where no other run shares an effect with it.
    """
    target = np.log(runs[value].to_numpy())
    columns = []
    alone = np.zeros(len(target), bool)
    for effect in effects:
        code = runs[effect].rank("dense").to_numpy() - 1
        columns.append(np.eye(int(code.max()) + 1)[code])
        alone |= np.bincount(code)[code] < 2
    design = np.concatenate(columns, axis=1)
    hat = design @ np.linalg.pinv(design)
    left = 1 - np.diag(hat)
    off = np.full(len(target), np.nan)
    np.divide(target - hat @ target, left, out=off, where=~alone & (left > 1e-9))
    expected: Floats = np.exp(target - off)
    return expected
