"""What a comparison counts, its bounds, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from analytics.models.comparison import (
    BUDGET,
    LEAST_BLOCKS,
    SURE,
    UNKNOWN,
    HandOver,
    Trial,
    alarm_probability,
    best_hand_over,
    block_of,
    compare,
    hand_overs,
    judge,
    keep_unless_sure,
)
from tests.analytics.models.trials import trial


def small(truth: str, champion: str, candidate: str) -> Trial:
    """A window for each letter: x a fault or an alarm, . none, ? unknown."""
    count = len(truth)
    return Trial(
        series=np.zeros(count, dtype=int),
        time_ns=np.arange(count),
        truth=np.array([{"x": 1, ".": 0, "?": -1}[letter] for letter in truth]),
        champion=np.array([0.9 if letter == "x" else 0.1 for letter in champion]),
        candidate=np.array([0.9 if letter == "x" else 0.1 for letter in candidate]),
    )


def test_what_is_counted_is_what_the_champion_had_right() -> None:
    found = compare(small("xxxx....??", "xxx.x.....", "x..xx.x..x"))
    assert found.windows == 10
    assert found.known == 8
    # Right were xxx and three of the four without fault; of those the candidate gets two and one wrong.
    assert found.of("negative_flip_ratio").value == 3 / 6
    assert found.of("lost_alarm_ratio").value == 2 / 3
    assert found.of("new_false_alarm_ratio").value == 1 / 3
    assert found.of("positive_flip_ratio").value == 1 / 2
    assert found.of("churn_ratio").value == 5 / 10
    assert found.of("error")[1] == 4 / 8
    assert found.of("error").champion == 2 / 8
    assert found.of("error_ratio").value == 2.0


def test_the_rule_keeps_the_old_verdict_unless_the_new_model_is_sure() -> None:
    old = np.array([True, True, True, False, False, False])
    probability = np.array([0.15, 0.151, 0.9, 0.85, 0.849, 0.1])
    by = HandOver(0.35, 0.35)
    assert keep_unless_sure(old, probability, by).tolist() == [False, True, True, True, False, False]
    assert keep_unless_sure(old, probability, HandOver(0.0, 0.0)).tolist() == (probability > 0.5).tolist()


def test_an_alarm_is_withdrawn_by_its_own_margin() -> None:
    old = np.array([True, True, True, False, False])
    probability = np.array([0.01, 0.001, 0.6, 0.96, 0.94])
    assert keep_unless_sure(old, probability, HandOver(0.45, 0.499)).tolist() == [True, False, True, True, False]
    assert keep_unless_sure(old, probability, HandOver(0.45, 0.45)).tolist() == [False, False, True, True, False]
    # At one half only who is certain withdraws.
    certain = np.array([0.001, 0.0, 0.6, 0.96, 0.94])
    assert keep_unless_sure(old, certain, HandOver(0.45, 0.5)).tolist() == [True, False, True, True, False]


def test_versions_judge_in_their_order() -> None:
    first, second, third = np.array([0.9, 0.1, 0.9]), np.array([0.4, 0.9, 0.1]), np.array([0.6, 0.6, 0.05])
    assert judge([first], [None]).tolist() == [True, False, True]
    equal, torn = (HandOver(0.35, 0.35), HandOver(0.4, 0.4)), (HandOver(0.45, 0.35), HandOver(0.4, 0.49))
    assert judge([first, second, third], [None, *equal]).tolist() == [True, True, False]
    assert judge([first, second, third], [None, *torn]).tolist() == [True, False, False]
    assert judge([first, second], [None, None]).tolist() == (second > 0.5).tolist()


def test_a_p_value_at_the_limit_is_a_probability_of_one_half() -> None:
    p_values = np.array([0.0, 0.001, 0.01, 0.1, 1.0])
    probability = alarm_probability(p_values, alpha=0.01)
    assert probability[2] == 0.5
    assert (np.diff(probability) < 0).all()
    assert ((probability >= 0) & (probability <= 1)).all()


def test_the_rule_is_what_is_compared_where_it_is_asked_for() -> None:
    unsure = trial(lost=40, found=40)
    assert compare(unsure).of("lost_alarm_ratio").value == pytest.approx(40 / 250)
    kept = compare(unsure, hand_over=HandOver(0.35, 0.35))
    assert kept.of("lost_alarm_ratio").value == 0
    # What the candidate is sure of still gets through.
    assert kept.of("positive_flip_ratio").value == compare(unsure).of("positive_flip_ratio").value


def test_right_verdicts_are_handed_over_by_the_rule_though_the_budget_would_allow_more() -> None:
    gentle = trial(found=40)
    gentle.candidate[230] = 0.6
    assert compare(gentle).of("new_false_alarm_ratio").value != 0
    assert compare(gentle).breaches() == []
    handed = best_hand_over(gentle)
    assert handed is not None
    # Nothing that could be withdrawn would be right to, so nothing may be.
    assert (handed[0], handed[1].of("negative_flip_ratio").value) == (HandOver(SURE, 0.5), 0)
    assert best_hand_over(trial(lost=40, found=40, sure=True)) is None


def test_of_hand_overs_within_the_budget_the_one_that_errs_least_is_taken() -> None:
    """Rather sure of what it would lose and surer of the false alarms, it needs a margin for each direction."""
    torn = trial(found=50)
    seen, false_alarms = (torn.truth == 1) & (torn.champion > 0.5), (torn.truth == 0) & (torn.champion > 0.5)
    torn.candidate[np.flatnonzero(seen)[:25]] = 0.03
    torn.candidate[false_alarms] = 0.004
    best = best_hand_over(torn)
    assert best is not None
    assert best[0] == HandOver(SURE, 0.495)
    assert best[1].of("lost_alarm_ratio").value == 0
    assert best[1].of("error").value == 0
    assert compare(torn, hand_over=HandOver(SURE, SURE)).breaches() != []
    # With one margin for both either alarms are lost, or what the candidate found is.
    errors = [compare(torn, hand_over=HandOver(both, both)).of("error").value for both in (SURE, 0.475, 0.49, 0.495)]
    assert min(errors) > 0


def test_where_nothing_is_known_to_be_right_the_first_to_try_is_outright() -> None:
    unknown = replace(trial(found=1), truth=np.full(6000, UNKNOWN))
    assert hand_overs(unknown)[:2] == (None, HandOver(0.1, 0.1))
    outright = best_hand_over(replace(unknown, candidate=unknown.champion))
    assert outright is not None
    assert outright[0] is None
    assert None not in hand_overs(trial(found=1))


def test_alone_a_candidate_takes_over_outright_or_not_at_all() -> None:
    outright = best_hand_over(trial(found=30), alone=True)
    assert outright is not None
    assert outright[0] is None
    assert best_hand_over(trial(lost=40, found=40), alone=True) is None


def test_a_candidate_within_the_budget_breaches_nothing() -> None:
    assert compare(trial(found=30)).breaches() == []


@pytest.mark.parametrize(
    ("candidate", "measure"),
    [
        (trial(lost=10, found=50), "lost_alarm_ratio"),
        (trial(false_alarms=60, found=50), "new_false_alarm_ratio"),
        (trial(false_alarms=100), "error_ratio"),
    ],
)
def test_a_better_candidate_that_costs_too_much_is_told(candidate: Trial, measure: str) -> None:
    said = compare(candidate).breaches()
    assert any(line.startswith(measure) and "the limit is" in line for line in said), said


def test_the_limit_is_held_by_the_upper_bound_not_the_value() -> None:
    found = compare(trial(lost=2, found=50)).of("lost_alarm_ratio")
    assert found.value is not None
    assert found.high is not None
    assert found.value < BUDGET.lost_alarm_ratio < found.high
    assert found.within is False


def test_too_few_blocks_have_no_bounds_and_are_within_no_limit() -> None:
    few = trial(events=LEAST_BLOCKS, found=5)
    figure = compare(few).of("lost_alarm_ratio")
    assert (figure.value, figure.high, figure.within) == (0.0, None, False)
    assert f"{LEAST_BLOCKS} are needed" in " ".join(compare(few).breaches())


def test_a_champion_that_sees_nothing_has_nothing_to_lose() -> None:
    blind = trial(found=30)
    blind = replace(blind, champion=np.full(len(blind.champion), 0.1))
    assert compare(blind).of("lost_alarm_ratio")[1:2] == (None,)
    assert compare(blind).breaches() == []


def test_without_faults_nobody_can_tell_whether_alarms_are_lost() -> None:
    calm = trial()
    calm = replace(calm, truth=np.zeros(len(calm.truth), dtype=int))
    assert [line.split()[0] for line in compare(calm).breaches()] == ["lost_alarm_ratio"] or any(
        line.startswith("lost_alarm_ratio cannot be judged") for line in compare(calm).breaches()
    )


def test_where_no_truth_is_known_churn_is_what_counts() -> None:
    unknown = trial(lost=100)
    unknown = replace(unknown, truth=np.full(len(unknown.truth), -1))
    found = compare(unknown)
    assert [figure.measure for figure in found.figures if figure.limit is not None] == ["churn_ratio"]
    assert found.breaches()[0].startswith("churn_ratio")


def test_an_error_of_any_unit_is_compared_as_given() -> None:
    given = trial(found=30)
    watts = np.full(len(given.truth), 10.0)
    better = compare(replace(given, champion_error=watts, candidate_error=watts * 0.9, baseline_error=watts * 3))
    assert better.of("error").value == pytest.approx(9.0)
    assert better.of("error").champion == pytest.approx(10.0)
    assert better.of("baseline_error").value == pytest.approx(30.0)
    worse = compare(replace(given, champion_error=watts, candidate_error=watts * 1.1))
    assert worse.breaches() == ["error_ratio is 1.1, at most 1.1, and the limit is 1.02"]


def test_a_window_whose_error_one_of_them_cannot_tell_counts_for_neither() -> None:
    given = trial(found=30)
    theirs, mine = np.full(len(given.truth), 10.0), np.full(len(given.truth), 9.0)
    theirs[:600], mine[300:900] = np.nan, np.nan
    found = compare(replace(given, champion_error=theirs, candidate_error=mine))
    assert found.of("error").value == pytest.approx(9.0)
    assert found.of("error_ratio").value == pytest.approx(0.9)
    silent = compare(replace(given, champion_error=theirs * np.nan, candidate_error=mine))
    assert silent.breaches() == ["error_ratio cannot be judged: 0 blocks of the trial count for it, and 10 are needed"]


def test_neighbours_are_one_witness_and_so_bounds_are_wider_than_of_single_windows() -> None:
    rng = np.random.default_rng(5)
    runs = np.repeat(rng.random(300) < 0.1, 100)
    count = len(runs)
    together = Trial(
        series=np.zeros(count, dtype=int), time_ns=np.arange(count), truth=np.zeros(count, dtype=int),
        champion=np.zeros(count), candidate=runs * 0.9,
    )  # fmt: skip
    apart = replace(together, candidate=rng.permutation(together.candidate))
    widths = [
        figure.high - figure.low
        for figure in (compare(one).of("negative_flip_ratio") for one in (together, apart))
        if figure.high is not None and figure.low is not None
    ]
    assert widths[0] > 4 * widths[1]


def test_the_bounds_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(60):
        flips = np.repeat(rng.random(400) < 0.05, 5)
        count = len(flips)
        figure = compare(
            Trial(
                series=np.zeros(count, dtype=int), time_ns=np.arange(count), truth=np.zeros(count, dtype=int),
                champion=np.zeros(count), candidate=flips * 1.0,
            ),
            draws=400,
        ).of("negative_flip_ratio")  # fmt: skip
        assert figure.low is not None
        assert figure.high is not None
        inside += figure.low <= 0.05 <= figure.high
    assert 46 <= inside <= 60  # 90 of 100, by 60 tries


def test_blocks_are_of_one_series_and_do_not_cut_a_fault() -> None:
    truth = np.zeros(1000, dtype=int)
    truth[95:160] = 1
    order = np.random.default_rng(1).permutation(2000)
    both = Trial(
        series=np.repeat([0, 1], 1000)[order], time_ns=np.tile(np.arange(1000), 2)[order],
        truth=np.tile(truth, 2)[order], champion=np.zeros(2000), candidate=np.zeros(2000),
    )  # fmt: skip
    blocks = block_of(both, blocks=20)
    assert len(set(blocks)) in range(16, 21)
    for block in set(blocks):
        inside = blocks == block
        assert len(set(both.series[inside])) == 1
        times = np.sort(both.time_ns[inside])
        assert (np.diff(times) == 1).all()
    for series in (0, 1):
        assert len(set(blocks[(both.series == series) & (both.truth == 1)])) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"champion": np.zeros(3)}, "but there are"),
        ({"candidate": np.full(6000, 1.5)}, "candidate has a probability outside"),
        ({"candidate": np.full(6000, np.nan)}, "candidate has a probability outside"),
        ({"truth": np.full(6000, 2)}, "truth"),
        ({"champion_error": np.zeros(6000)}, "the other's is not"),
    ],
)
def test_a_trial_that_is_none_is_refused(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(trial(), **change)
