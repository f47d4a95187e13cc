"""One suite of checks over every detector: what whoever writes another has to hold."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics.anomalies.detector import SCORED, Detector
from analytics.anomalies.expectation import Expectation
from analytics.anomalies.peers import Peers
from collector.errors import NotEnoughData

sys.path.append(str(Path(__file__).parent))
from windows import FEATURES, windows

DETECTORS: tuple[Detector, ...] = (Expectation(features=FEATURES), Peers())
every = pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)

PAST = windows(hosts=12, per_host=5, steps=160)
LATER = windows(hosts=12, per_host=5, steps=60, seed=1)
AT = 1000  # a row somewhere in the middle


def changed(frame: pl.DataFrame, row: int, times: float) -> pl.DataFrame:
    at = pl.int_range(pl.len()) == row
    return frame.with_columns(value=pl.when(at).then(pl.col("value") * times).otherwise("value"))


@every
def test_a_spike_outranks_what_is_normal_to_either_side(detector: Detector) -> None:
    fitted = detector.fit(PAST)
    for times, sign in ((1.5, 1), (0.6, -1)):
        score = fitted.score(changed(LATER, AT, times))["score"]
        assert score[AT] * sign > 0
        assert score.abs().arg_max() == AT


@every
def test_each_row_has_one_finite_score_or_none(detector: Detector) -> None:
    nothing = {"value": None, "base": None, "group": None}
    holes = LATER.with_columns(
        pl.when(pl.int_range(pl.len()) % 7 != place).then(pl.col(name)).alias(name)
        for place, name in enumerate(nothing)
    )
    found = detector.fit(PAST).score(holes)
    assert found.schema == SCORED
    assert found.height == holes.height
    known = found["score"].is_not_null()
    assert known.any()
    assert not (known & holes["value"].is_null()).any()
    for name in ("score", "deviation", "expected", "below", "above"):
        assert found[name].is_finite().fill_null(True).all()
        assert (found[name].is_not_null() == known).all()


@every
def test_what_measured_nothing_is_as_odd_as_can_be_and_finite(detector: Detector) -> None:
    found = detector.fit(PAST).score(changed(LATER, AT, 0.0))
    assert found["deviation"][AT] == pytest.approx(-3.0)
    assert found["score"].abs().arg_max() == AT


@every
def test_the_order_of_rows_does_not_matter(detector: Detector) -> None:
    order = np.random.default_rng(3).permutation(PAST.height)
    one, other = detector.fit(PAST), detector.fit(PAST[order])
    mixed = np.random.default_rng(4).permutation(LATER.height)
    assert one.score(LATER)[mixed].equals(other.score(LATER[mixed]))


@every
def test_a_state_that_was_kept_scores_the_same(detector: Detector) -> None:
    fitted = detector.fit(PAST)
    state = fitted.state()
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in state.values())
    assert detector.restored(state).score(LATER).equals(fitted.score(LATER))
    with pytest.raises(ValueError):
        detector.restored({"other": np.zeros(3)})


@every
def test_the_same_seed_learns_the_same(detector: Detector) -> None:
    assert detector.fit(PAST, seed=5).score(LATER).equals(detector.fit(PAST, seed=5).score(LATER))


@every
def test_no_row_is_judged_by_what_was_learned_from_it(detector: Detector) -> None:
    odd = changed(PAST, AT, 3.0)
    assert detector.fit(odd).score(odd)["expected"][AT] == detector.fit(PAST).score(PAST)["expected"][AT]


@every
def test_from_almost_nothing_it_does_not_learn(detector: Detector) -> None:
    with pytest.raises(NotEnoughData, match="are wanted"):
        detector.fit(PAST.head(40))


# ------------------------------------------------------------------------------------------------- of one detector each


def test_a_host_is_judged_by_what_other_hosts_taught() -> None:
    """A whole host that draws a fifth more throughout is odd, also in the windows that were fitted on."""
    detector = Expectation(features=FEATURES)
    off = pl.when(pl.col("host") == "node-0").then(pl.col("value") * 1.2).otherwise("value")
    odd = PAST.with_columns(value=off)
    mine = odd["host"] == "node-0"
    deviation = detector.fit(odd).score(odd)["deviation"].filter(mine)
    assert deviation.median() == pytest.approx(np.log(1.2), abs=0.03)


def test_of_one_host_time_is_divided_instead() -> None:
    alone = windows(hosts=1, steps=300)
    fitted = Expectation(features=FEATURES).fit(alone)
    assert fitted.by_time
    assert not Expectation(features=FEATURES).fit(PAST).by_time
    error = fitted.score(windows(hosts=1, steps=60, seed=2))["deviation"].abs().median()
    assert error < 0.03  # type: ignore[operator]


def test_nine_in_ten_are_within_what_is_told_as_usual() -> None:
    found = Expectation(features=FEATURES).fit(PAST).score(LATER)
    inside = found["score"].abs() <= 1
    assert 0.6 < inside.mean() < 0.95  # type: ignore[operator]


def test_what_a_type_of_device_never_tells_is_no_feature_of_it() -> None:
    silent = PAST.with_columns(temperature_c=pl.lit(None, pl.Float64))
    found = Expectation(features=FEATURES).fit(silent).score(LATER.with_columns(temperature_c=pl.lit(50.0)))
    without = Expectation(features=FEATURES[:2]).fit(PAST).score(LATER)
    assert found["expected"].to_list() == pytest.approx(without["expected"].to_list(), nan_ok=True)


def test_another_number_of_features_is_another_model() -> None:
    state = Expectation(features=FEATURES).fit(PAST).state()
    with pytest.raises(ValueError, match="3 features, not on the 2"):
        Expectation(features=FEATURES[:2]).restored(state)


def slow_peers(frame: pl.DataFrame, fewest: int) -> list[float | None]:
    rows = list(frame.iter_rows(named=True))
    found: list[float | None] = []
    for at, row in enumerate(rows):
        others = [
            other["value"]
            for number, other in enumerate(rows)
            if number != at and other["group"] == row["group"] and other["time"] == row["time"]
        ]
        found.append(float(np.median(others)) if len(others) >= fewest and row["group"] else None)
    return found


@pytest.mark.parametrize("members", [1, 4, 5, 6, 9])
def test_peers_expect_the_median_of_the_others(members: int) -> None:
    frame = windows(hosts=1, per_host=members, steps=3, seed=members)
    frame = frame.with_columns(value=(pl.col("value") / 10).round() * 10)  # some are equal
    found = Peers(usual=0.01).score(frame)
    assert found["expected"].to_list() == pytest.approx(slow_peers(frame, 4))
    assert set(found["peers"]) == ({members - 1} if members > 4 else {None})
