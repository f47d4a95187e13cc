"""From deviations to p-values."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import poisson

from analytics.anomalies import calibration
from analytics.anomalies.calibration import FEWEST, judged, ranks
from analytics.anomalies.peers import Peers

sys.path.append(str(Path(__file__).parent))
from windows import START_NS, STEP_NS, windows

STEPS = 240
SINCE = 180
SINCE_NS = START_NS + SINCE * STEP_NS


def judge(frame: pl.DataFrame, since_ns: int = SINCE_NS) -> pl.DataFrame:
    past = frame.filter(pl.col("time").to_physical() < since_ns)
    found = pl.concat([frame, Peers().fit(past).score(frame)], how="horizontal")
    return judged(found, since_ns=since_ns)


def test_ranks_are_the_share_that_is_at_least_as_large() -> None:
    known = np.array([1.0, 2.0, 2.0, 3.0])
    found = ranks(np.array([0.0, 1.0, 2.0, 2.5, 9.0, np.nan]), known)
    assert found[:5] == pytest.approx([1.0, 1.0, 4 / 5, 2 / 5, 1 / 5])
    assert np.isnan(found[5])


def test_of_normal_windows_as_many_are_below_a_p_value_as_it_says() -> None:
    p = judge(windows(steps=STEPS, seed=8))["p_value"]
    assert len(p) == 48 * (STEPS - SINCE)
    for level in (0.01, 0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, rel=0.5)


def test_a_board_is_judged_beside_its_own_past() -> None:
    """A gain that was always 15 % off is no finding; one that changes by 8 % is."""
    frame = windows(steps=STEPS)
    late = pl.col("time").to_physical() >= START_NS + (SINCE + 10) * STEP_NS
    always = pl.when(pl.col("subject") == "GPU-000").then(1.15).otherwise(1.0)
    changed = pl.when((pl.col("subject") == "GPU-001") & late).then(1.08).otherwise(1.0)
    found = judge(frame.with_columns(value=pl.col("value") * always * changed))
    odd = found.filter(pl.col("p_value") <= 0.001)
    share = odd.group_by("subject").len()
    assert dict(share.iter_rows())["GPU-001"] >= 45
    row = odd.filter(pl.col("subject") == "GPU-001").row(20, named=True)
    assert row["value"] / row["expected_mid"] == pytest.approx(1.08, abs=0.03)
    assert row["expected_low"] < row["expected_mid"] < row["expected_high"] < row["value"]


SEEDS = range(24)


def odd_by_chance() -> tuple[int, int]:
    """How many windows of fleets in which nothing is wrong are as rare as 1 in 1000, and how many there are."""
    p_values = pl.concat([judge(windows(steps=STEPS, seed=seed))["p_value"] for seed in SEEDS])
    return int((p_values <= 0.001).sum()), len(p_values)


def most_by_chance(count: int) -> float:
    """More than so many are seen once in a thousand times where 1 in 1000 is odd by chance."""
    return float(poisson.ppf(0.999, 0.001 * count))


def test_of_normal_windows_no_more_are_odd_than_by_chance() -> None:
    found, count = odd_by_chance()
    assert found <= most_by_chance(count)


@pytest.mark.parametrize("times", [2, 3])
def test_a_calibration_that_alarms_twice_as_often_would_be_seen(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "ranks", lambda size, known: ranks(size, known) / times)
    found, count = odd_by_chance()
    assert found > most_by_chance(count)


def test_who_is_new_is_not_judged_until_its_level_is_known() -> None:
    frame = windows(steps=STEPS)
    new = (pl.col("subject") == "GPU-003") & (pl.col("time").to_physical() < SINCE_NS)
    found = judge(frame.filter(~new)).filter(pl.col("subject") == "GPU-003")
    assert (found["time"].to_physical().min() - SINCE_NS) / 3.6e12 >= 3  # type: ignore[operator]


def test_a_level_of_few_hours_counts_only_with_what_the_subject_is_at_all() -> None:
    """A new job's first hours were of its start: after three of them its later ones are not odd beside those."""
    first = SINCE - 12 * 3
    frame = windows(steps=STEPS)
    step = (pl.col("time").to_physical() - START_NS) // STEP_NS
    new = (pl.col("host") == "node-0") & (step >= first)
    cool = new & (step < SINCE) & (pl.col("subject") == "GPU-004")
    frame = frame.with_columns(
        work=pl.when(new).then(pl.lit("new")).otherwise("work"),
        value=pl.when(cool).then(pl.col("value") * 0.955).otherwise("value"),
    )
    found = judge(frame).filter(pl.col("subject") == "GPU-004")
    assert found.height == STEPS - SINCE
    assert found["off"].abs().max() < 0.03  # type: ignore[operator]


def test_a_fault_of_the_past_neither_hides_one_of_today_nor_is_it_normal() -> None:
    frame = windows(steps=STEPS)
    step = (pl.col("time").to_physical() - START_NS) // STEP_NS
    times = (
        pl.when((pl.col("subject") == "GPU-005") & step.is_between(60, 130)).then(1.3)
        .when((pl.col("subject") == "GPU-006") & (step > SINCE + 5)).then(1.3)
        .otherwise(1.0)
    )  # fmt: skip
    found = judge(frame.with_columns(value=pl.col("value") * times))
    today = found.filter((pl.col("subject") == "GPU-006") & (pl.col("time").to_physical() > SINCE_NS + 6 * STEP_NS))
    assert (today["p_value"] <= 0.001).mean() > 0.9  # type: ignore[operator]
    after = found.filter(pl.col("subject") == "GPU-005")
    assert after["p_value"].min() > 0.0001  # type: ignore[operator]


def test_what_is_known_to_be_held_down_is_not_normal() -> None:
    frame = windows(steps=STEPS)
    step = (pl.col("time").to_physical() - START_NS) // STEP_NS
    hot = (pl.col("subject") < "GPU-004") & (step < SINCE) & (step % 5 == 0)
    slow = frame.with_columns(value=pl.when(hot).then(pl.col("value") * 0.96).otherwise("value"))
    lowest = {
        known: judge(slow.with_columns(normal=~hot if known else pl.lit(True)))["p_value"].quantile(0.02)
        for known in (True, False)
    }
    assert lowest[True] < lowest[False]  # type: ignore[operator]


def test_with_too_few_normal_windows_nobody_is_judged() -> None:
    frame = windows(hosts=1, steps=STEPS)
    assert FEWEST > 8 * SINCE
    assert judge(frame).is_empty()
