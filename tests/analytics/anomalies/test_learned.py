"""Which version judges a window, and when another is learned."""

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics.anomalies.calibration import judged
from analytics.anomalies.expectation import Expectation
from analytics.anomalies.learned import KIND, REFIT_S, RETRY_S, Learned, learned, tried
from analytics.jobs.job import DAY_NS, NS, Window
from analytics.models import versions
from analytics.models.versions import listed
from collector.errors import NotEnoughData
from collector.store import Store

sys.path.append(str(Path(__file__).parent))
from windows import FEATURES, START_NS, windows

BLANK = Expectation(features=FEATURES)
MODEL = "expectation/power_w/H100"
PAST = windows(hosts=12, per_host=3, steps=120)


def window(day: int) -> Window:
    return Window(START_NS + day * DAY_NS, START_NS + (day + 1) * DAY_NS, START_NS + 30 * DAY_NS)


def ask(root: Path, day: int, *, blank: Expectation = BLANK) -> Learned:
    return learned(root, MODEL, blank, PAST, window(day))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Store.create(tmp_path / "store").root


def test_the_first_is_learned_kept_and_in_use_from_then_on(root: Path) -> None:
    first = ask(root, 1)
    rows = listed(root, MODEL)
    assert rows.select("version", "state").rows() == [(first.version, "champion")]
    later = ask(root, 2)
    assert (later.version, later.candidate) == (first.version, None)
    assert later.detector.score(PAST).equals(first.detector.score(PAST))


def test_a_window_done_again_is_judged_as_before(root: Path) -> None:
    first = ask(root, 1)
    again = ask(root, 1)
    assert again.version == first.version
    assert listed(root, MODEL).height == 1


def test_after_a_week_a_candidate_is_tried_and_in_use_from_the_next_window_on(root: Path) -> None:
    first = ask(root, 1)
    day = 1 + REFIT_S * NS // DAY_NS
    assert ask(root, day - 1).candidate is None
    old = ask(root, day)
    assert old.version == first.version
    assert old.candidate is not None
    since_ns = START_NS + 100 * 300 * NS
    found = [
        judged(pl.concat([PAST, one.score(PAST)], how="horizontal"), since_ns=since_ns)
        for one in (old.detector, old.candidate)
    ]
    version, state = tried(root, MODEL, old.candidate, PAST, window(day), *found)
    assert state == "champion"  # of the same past it learned the same
    assert ask(root, day).version == first.version
    assert ask(root, day).candidate is None
    assert ask(root, day + 1).version == version


def test_a_candidate_that_expects_worse_is_rejected_and_the_next_is_learned_days_later(root: Path) -> None:
    first = ask(root, 1)
    day = 1 + REFIT_S * NS // DAY_NS
    old = ask(root, day)
    assert old.candidate is not None
    mine = judged(pl.concat([PAST, old.detector.score(PAST)], how="horizontal"), since_ns=START_NS + 100 * 300 * NS)
    worse = mine.with_columns(pl.col("off") * 1.5)
    _, state = tried(root, MODEL, old.candidate, PAST, window(day), mine, worse)
    assert state == "rejected"
    days = RETRY_S * NS // DAY_NS
    assert days > 1
    for later in range(day, day + days):
        again = ask(root, later)
        assert (again.version, again.candidate) == (first.version, None)
    assert ask(root, day + days).candidate is not None


def test_what_looked_at_other_columns_is_not_used(root: Path) -> None:
    first = ask(root, 1)
    fewer = ask(root, 2, blank=Expectation(features=FEATURES[:2]))
    assert fewer.version != first.version
    assert ask(root, 3, blank=Expectation(features=FEATURES[:2])).version == fewer.version


def test_a_window_whose_version_is_no_longer_kept_is_judged_by_one_that_is_learned_then(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(root, 1)
    second = versions.save(
        root,
        MODEL,
        {"any": np.ones(1)},
        versions.Meta(kind=KIND, start_ns=0, end_ns=window(9).start_ns, rows=1, settings={"features": FEATURES}),
    )
    versions.promote(root, MODEL, second, by="test", force=True, reason="x")
    monkeypatch.setattr(versions, "KEPT", 0)
    assert versions.prune(root, MODEL, now_ns=time.time_ns() + 2 * DAY_NS) == [first.version]
    again = ask(root, 2)
    assert again.version not in {first.version, second}
    assert again.detector.score(PAST).equals(first.detector.score(PAST))
    assert versions.champion(root, MODEL) == second


def test_without_enough_to_learn_from_there_is_none(root: Path) -> None:
    with pytest.raises(NotEnoughData):
        learned(root, MODEL, BLANK, PAST.head(20), window(1))
    assert listed(root, MODEL).is_empty()
