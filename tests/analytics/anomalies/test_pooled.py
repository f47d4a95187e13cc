"""Power of runs from few others."""

import numpy as np
import polars as pl
import pytest

from analytics.anomalies.pooled import Pooled, additive

EFFECTS = (("system",), ("benchmark",), ("system", "benchmark"))


def runs(seed: int, systems: int = 14, benchmarks: int = 5, share: float = 0.6) -> pl.DataFrame:
    """Systems of one, two, four or eight devices that did some of the benchmarks, some twice."""
    rng = np.random.default_rng(seed)
    of_system, of_benchmark = 0.2 * rng.standard_normal(systems), 0.1 * rng.standard_normal(benchmarks)
    devices = rng.choice([1, 2, 4, 8], systems)
    rows = []
    for system in range(systems):
        for benchmark in range(benchmarks):
            own = 0.03 * rng.standard_normal()
            for _ in range(int(rng.random() < share) * int(rng.integers(1, 3))):
                off = of_system[system] + of_benchmark[benchmark] + own + 0.01 * rng.standard_normal()
                rows.append((f"s{system}", f"b{benchmark}", int(devices[system]), 500 * devices[system] * np.exp(off)))
    return pl.DataFrame(rows, schema=["system", "benchmark", "devices", "power_w"], orient="row")


def error(expected: np.ndarray, found: pl.DataFrame) -> float:
    off = np.abs(expected / found["power_w"].to_numpy() - 1)
    return float(np.nanmean(off))


def test_it_expects_runs_of_systems_it_was_not_tuned_on_better_than_an_additive_model() -> None:
    model = Pooled(effects=EFFECTS, size="devices").tuned(runs(1), "power_w")
    tested = runs(2)
    assert error(model.left_out(tested, "power_w"), tested) < error(
        additive(tested, "power_w", ("system", "benchmark")), tested
    )


@pytest.mark.parametrize("method", ["pooled", "additive"])
def test_a_run_is_not_expected_from_itself(method: str) -> None:
    found = runs(3)
    model = Pooled(effects=EFFECTS, size="devices", variances=(-3.0, -4.0, -6.0, -3.0, -8.0))
    changed = found.with_columns(power_w=pl.when(pl.int_range(pl.len()) == 7).then(10.0).otherwise("power_w"))
    one, other = (
        model.left_out(frame, "power_w") if method == "pooled" else additive(frame, "power_w", ("system", "benchmark"))
        for frame in (found, changed)
    )
    assert one[7] == pytest.approx(other[7], rel=1e-6)
    assert not np.allclose(one, other, equal_nan=True)


def test_an_additive_model_does_not_tell_of_what_nothing_is_shared_with() -> None:
    found = runs(4)
    alone = pl.DataFrame({"system": ["other"], "benchmark": ["b0"], "devices": [8], "power_w": [3000.0]})
    assert np.isnan(additive(pl.concat([found, alone]), "power_w", ("system", "benchmark"))[-1])
