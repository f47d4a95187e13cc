"""Versions: kept once, promoted within the budget, taken back, and never half of anything."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analytics.models import versions
from analytics.models.comparison import SURE, Budget, HandOver
from analytics.models.versions import Judge
from collector.errors import NotEnoughData, OverBudget, StoreBusy, StoreError
from collector.store import Store
from collector.store.files import Files, WriterLock
from tests.analytics.models.trials import END_NS, NAME, arrays, meta, trial

HERE = Path(__file__).parent
RULE = HandOver(0.35, 0.49)


def states(store: Store) -> dict[str, str]:
    return dict(versions.listed(store.root).select("version", "state").iter_rows())


def kept(store: Store, number: float) -> str:
    return versions.save(store.root, NAME, arrays(number), meta())


@pytest.fixture
def two(store: Store) -> tuple[str, str]:
    """A champion and a candidate."""
    first = kept(store, 1)
    versions.promote(store.root, NAME, first, by="test")
    return first, kept(store, 2)


def test_what_is_saved_is_loaded(store: Store) -> None:
    version = kept(store, 1)
    assert version.startswith("20260115-")
    model = versions.load(store.root, NAME, version)
    assert (model.name, model.version) == (NAME, version)
    assert model.meta == meta()
    assert set(model.meta.libraries) == {"numpy", "scikit-learn", "perfwatt"}
    np.testing.assert_array_equal(model.arrays["coefficients"], [1.0, 2.0])


def test_the_same_model_again_is_the_same_version_and_changes_nothing(store: Store) -> None:
    first = kept(store, 1)
    versions.promote(store.root, NAME, first, by="test")
    assert kept(store, 1) == first
    assert states(store) == {first: "champion"}
    assert kept(store, 2) != first


def test_sql_sees_the_versions(store: Store, two: tuple[str, str]) -> None:
    with store.connect() as connection:
        found = connection.execute(
            "SELECT version, state, rows, bytes, checksum, path FROM model_versions_now ORDER BY state"
        ).fetchall()
    assert [(row[0], row[1], row[2]) for row in found] == [(two[1], "candidate", 20_000), (two[0], "champion", 20_000)]
    for version, _, _, size, checksum, path in found:
        file = store.root / path
        assert file.stat().st_size == size
        assert version.endswith(checksum[:12])


def test_models_do_not_meet(store: Store, two: tuple[str, str]) -> None:
    other = versions.save(store.root, "forecast/power_w", arrays(1), meta())
    assert versions.champion(store.root, "forecast/power_w") is None
    versions.promote(store.root, "forecast/power_w", other, by="test")
    assert versions.champion(store.root, NAME) == two[0]
    assert versions.champion(store.root, "none") is None
    assert versions.in_use(store.root, "none") == []


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "/", "x" * 300])
def test_a_name_that_is_none_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a model"):
        versions.save(store.root, name, arrays(), meta())


@pytest.mark.parametrize("name", ["../../up", "a/../../b", "a\0b", "Ä/ö %41", "a/b.npz"])
def test_a_name_never_leaves_the_folder(store: Store, name: str) -> None:
    version = versions.save(store.root, name, arrays(), meta())
    (file,) = [path for path in store.root.rglob("*.npz") if path.is_file()]
    assert file.parent.parent == store.root / "models"
    assert versions.load(store.root, name, version).name == name


def test_a_version_is_no_path(store: Store) -> None:
    for version in ("../x", ".hidden", ""):
        with pytest.raises(ValueError, match="no version of a model"):
            versions.load(store.root, NAME, version)


# ------------------------------------------------------------------------------------------------------------ damage


def test_a_damaged_candidate_is_named_and_the_champion_stays(store: Store, two: tuple[str, str]) -> None:
    path = versions.path_of(store.root, NAME, two[1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged: its checksum") as raised:
        versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    assert str(path) in str(raised.value)
    assert versions.champion(store.root, NAME) == two[0]
    assert states(store)[two[1]] == "candidate"


def test_a_file_of_a_newer_format_is_named_and_the_champion_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept(store, 1)
    versions.promote(store.root, NAME, first, by="test")
    monkeypatch.setattr("analytics.models.files.FORMAT", "perfwatt-model/9")
    newer = kept(store, 2)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="'perfwatt-model/9'; this perfwatt reads 'perfwatt-model/1'"):
        versions.promote(store.root, NAME, newer, by="test", force=True, reason="x")
    assert versions.champion(store.root, NAME) == first


def test_a_file_that_is_gone_is_named_and_the_champion_stays(store: Store, two: tuple[str, str]) -> None:
    versions.path_of(store.root, NAME, two[1]).unlink()
    with pytest.raises(StoreError, match=r"npz: cannot be read: No such file"):
        versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    assert versions.champion(store.root, NAME) == two[0]


@pytest.mark.parametrize("lost", [Path.unlink, lambda path: path.write_bytes(b"damaged")])
def test_a_file_that_was_lost_or_damaged_is_kept_anew_under_the_state_it_had(store: Store, lost: Any) -> None:
    first = kept(store, 1)
    versions.promote(store.root, NAME, first, by="test")
    lost(versions.path_of(store.root, NAME, first))
    assert kept(store, 1) == first
    assert versions.load(store.root, NAME, first).version == first
    assert versions.champion(store.root, NAME) == first


# --------------------------------------------------------------------------------------------------------- promoting


def test_a_candidate_within_the_budget_takes_over(store: Store, two: tuple[str, str]) -> None:
    versions.record_trial(store.root, NAME, two[1], trial(found=30))
    versions.promote(store.root, NAME, two[1], by="test")
    assert states(store) == {two[0]: "retired", two[1]: "champion"}
    assert versions.in_use(store.root, NAME) == [Judge(two[1], None)]
    row = versions.listed(store.root, NAME).row(0, named=True)
    assert (row["champion"], row["reason"], row["by"]) == (two[0], "within the budget", "test")
    assert row["error"] < row["champion_error"]
    assert (row["negative_flip_ratio"], row["lost_alarm_ratio"]) == (0.0, 0.0)


def test_a_candidate_beyond_the_budget_does_not(store: Store, two: tuple[str, str]) -> None:
    versions.record_trial(store.root, NAME, two[1], trial(lost=25, found=50))
    with pytest.raises(OverBudget, match=f"champion {two[0]} stays: .*lost_alarm_ratio is 0.1"):
        versions.promote(store.root, NAME, two[1], by="test")
    assert versions.champion(store.root, NAME) == two[0]
    wide = Budget(lost_alarm_ratio=0.5, negative_flip_ratio=0.5)
    versions.promote(store.root, NAME, two[1], by="test", budget=wide)
    assert versions.champion(store.root, NAME) == two[1]


def test_without_a_trial_against_this_champion_nothing_is_promoted(store: Store, two: tuple[str, str]) -> None:
    with pytest.raises(NotEnoughData, match="no trial of"):
        versions.promote(store.root, NAME, two[1], by="test")
    versions.record_trial(store.root, NAME, two[1], trial(found=30))
    third = kept(store, 3)
    versions.promote(store.root, NAME, third, by="test", force=True, reason="urgent")
    with pytest.raises(NotEnoughData, match=f"against the champion {third}"):
        versions.promote(store.root, NAME, two[1], by="test")


def test_by_the_rule_old_and_new_judge_together(store: Store, two: tuple[str, str]) -> None:
    versions.record_trial(store.root, NAME, two[1], trial(lost=25, found=50))
    versions.promote(store.root, NAME, two[1], by="test", hand_over=RULE)
    assert versions.in_use(store.root, NAME) == [Judge(two[0], None), Judge(two[1], RULE)]
    versions.path_of(store.root, NAME, two[0]).unlink()
    third = kept(store, 3)
    versions.record_trial(store.root, NAME, third, trial(found=30))
    with pytest.raises(StoreError, match="cannot be read"):
        versions.promote(store.root, NAME, third, by="test", hand_over=RULE)
    versions.promote(store.root, NAME, third, by="test")
    assert versions.in_use(store.root, NAME) == [Judge(third, None)]


def test_a_row_of_the_time_of_one_margin_means_it_for_both_directions(store: Store, two: tuple[str, str]) -> None:
    versions.promote(store.root, NAME, two[1], by="test", hand_over=RULE, force=True, reason="x")
    (row,) = versions.listed(store.root, NAME).filter(state="champion").iter_rows(named=True)
    told = json.loads(row["metrics"])["judges"]
    assert told == [[two[0], None], [two[1], [0.35, 0.49]]]
    assert versions._judges({**row, "metrics": json.dumps({"judges": [[two[0], None], [two[1], 0.35]]})}) == [
        Judge(two[0], None), Judge(two[1], HandOver(0.35, 0.35)),
    ]  # fmt: skip


def test_the_rule_does_not_pile_up_versions_for_ever(store: Store, two: tuple[str, str]) -> None:
    for number in range(2, versions.MOST_JUDGES + 1):
        version = kept(store, number)
        versions.promote(store.root, NAME, version, by="test", hand_over=RULE, force=True, reason="x")
    assert len(versions.in_use(store.root, NAME)) == versions.MOST_JUDGES
    with pytest.raises(OverBudget, match="must take over alone"):
        versions.promote(store.root, NAME, kept(store, 99), by="test", hand_over=RULE, force=True, reason="x")
    # Who must take over alone is not told of a hand-over that would be within the budget.
    torn = kept(store, 100)
    versions.record_trial(store.root, NAME, torn, trial(lost=25, found=50))
    with pytest.raises(OverBudget, match="stays: lost_alarm_ratio is") as refused:
        versions.promote(store.root, NAME, torn, by="test")
    assert "--hand-over" not in str(refused.value)


def test_a_job_offers_and_the_gate_decides(store: Store) -> None:
    root = store.root
    first, state = versions.offer(root, NAME, arrays(1), meta())
    assert state == "champion"
    assert versions.offer(root, NAME, arrays(1), meta()) == (first, "champion")
    second, state = versions.offer(root, NAME, arrays(2), meta())
    assert state == "candidate"
    third, state = versions.offer(root, NAME, arrays(3), meta(), trial(lost=25, sure=True))
    assert state == "rejected"
    fourth, state = versions.offer(root, NAME, arrays(4), meta(), trial(found=30))
    assert state == "champion"
    assert states(store) == {first: "retired", second: "candidate", third: "rejected", fourth: "champion"}
    # What was rejected comes in only by force.
    assert versions.offer(root, NAME, arrays(3), meta(), trial(found=30)) == (third, "rejected")
    with pytest.raises(OverBudget, match="was rejected"):
        versions.promote(root, NAME, third, by="test")
    versions.promote(root, NAME, third, by="test", force=True, reason="I know")
    assert versions.champion(root, NAME) == third


def test_what_was_learned_of_older_data_does_not_take_over_by_itself(store: Store) -> None:
    first, _ = versions.offer(store.root, NAME, arrays(1), meta())
    older, state = versions.offer(store.root, NAME, arrays(2), meta(END_NS - 1), trial(found=30))
    assert state == "candidate"
    assert states(store) == {first: "champion", older: "candidate"}


def test_a_trial_against_one_that_is_no_longer_in_use_does_not_count(store: Store, two: tuple[str, str]) -> None:
    third = kept(store, 3)
    versions.promote(store.root, NAME, third, by="test", force=True, reason="x")
    with pytest.raises(NotEnoughData, match=f"was tried against {two[0]}, and the champion is {third} now"):
        versions.record_trial(store.root, NAME, two[1], trial(found=30), against=two[0])


def test_the_first_of_two_that_are_offered_at_once_is_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    promote = versions.promote

    def overtaken(root: Path, name: str, version: str, **options: Any) -> None:
        monkeypatch.setattr(versions, "promote", promote)
        versions.offer(root, name, arrays(2), meta())
        promote(root, name, version, **options)

    monkeypatch.setattr(versions, "promote", overtaken)
    made, state = versions.offer(store.root, NAME, arrays(1), meta())
    assert state == "candidate"
    assert states(store)[made] == "candidate"
    assert versions.champion(store.root, NAME) != made


def test_what_was_found_against_another_champion_does_not_count(store: Store, two: tuple[str, str]) -> None:
    """Also where a trial against the champion of now is there, by which the candidate would be beyond the budget."""
    found = versions.record_trial(store.root, NAME, two[1], trial(found=30))
    third = kept(store, 3)
    versions.promote(store.root, NAME, third, by="test", force=True, reason="x")
    versions.record_trial(store.root, NAME, two[1], trial(lost=25))
    with pytest.raises(NotEnoughData, match=f"compared with {two[0]}, and the champion is {third} now"):
        versions.promote(store.root, NAME, two[1], by="test", found=found, against=two[0])
    assert versions.champion(store.root, NAME) == third


def test_a_job_hands_over_by_the_rule_until_as_many_judge_as_may(store: Store) -> None:
    for number in range(1, versions.MOST_JUDGES + 1):
        assert versions.offer(store.root, NAME, arrays(number), meta(), trial(found=30))[1] == "champion"
    found = [judge.hand_over for judge in versions.in_use(store.root, NAME)]
    assert found == [None, *[HandOver(SURE, 0.5)] * (versions.MOST_JUDGES - 1)]
    # One more may not judge beside them: it must hold the limits alone.
    assert versions.offer(store.root, NAME, arrays(98), meta(), trial(lost=25, found=50))[1] == "rejected"
    alone, state = versions.offer(store.root, NAME, arrays(99), meta(), trial(found=30))
    assert state == "champion"
    assert versions.in_use(store.root, NAME) == [Judge(alone, None)]


def test_a_job_hands_over_by_what_errs_least_within_the_budget(store: Store) -> None:
    first, _ = versions.offer(store.root, NAME, arrays(1), meta())
    second, state = versions.offer(store.root, NAME, arrays(2), meta(), trial(lost=25, found=50))
    assert state == "champion"
    assert versions.in_use(store.root, NAME) == [Judge(first, None), Judge(second, HandOver(SURE, 0.5))]


def test_what_would_change_no_verdict_takes_no_place_beside_the_champion(store: Store) -> None:
    first, _ = versions.offer(store.root, NAME, arrays(1), meta())
    unsure, state = versions.offer(store.root, NAME, arrays(2), meta(), trial())
    assert state == "rejected"
    (row,) = versions.listed(store.root, NAME).filter(version=unsure).iter_rows(named=True)
    assert f"the champion {first} stays: handed over by the rule it errs no less" in row["reason"]
    # Who asks for it gets it: it is within the budget.
    versions.promote(store.root, NAME, unsure, by="test", hand_over=HandOver(SURE, SURE), force=True, reason="x")
    assert versions.champion(store.root, NAME) == unsure


def test_a_trial_that_was_damaged_is_named(store: Store, two: tuple[str, str]) -> None:
    versions.record_trial(store.root, NAME, two[1], trial(found=30))
    (path,) = store.root.rglob("*against*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"against-.*is damaged"):
        versions.promote(store.root, NAME, two[1], by="test")
    assert versions.champion(store.root, NAME) == two[0]


def test_a_trial_of_another_candidate_does_not_count(store: Store, two: tuple[str, str]) -> None:
    versions.record_trial(store.root, NAME, two[1], trial(found=30))
    third = kept(store, 3)
    (path,) = store.root.rglob("*against*")
    path.with_name(path.name.replace(two[1], third)).write_bytes(path.read_bytes())
    with pytest.raises(StoreError, match=f"is a trial of {two[1]} against {two[0]}"):
        versions.promote(store.root, NAME, third, by="test")


# -------------------------------------------------------------------------------------------------------- rolling back


def test_a_bad_promotion_is_taken_back(store: Store, two: tuple[str, str]) -> None:
    versions.promote(store.root, NAME, two[1], by="test", force=True, reason="hope")
    assert versions.rollback(store.root, NAME, by="test", reason="pages all night") == two[0]
    assert states(store) == {two[0]: "champion", two[1]: "rejected"}
    rows = {row["version"]: row for row in versions.listed(store.root, NAME).iter_rows(named=True)}
    assert "pages all night" in rows[two[1]]["reason"]
    with pytest.raises(StoreError, match="nothing was in use before"):
        versions.rollback(store.root, NAME, by="test", reason="again")


def test_rolling_back_goes_on_to_what_was_before_with_the_rule_it_had(store: Store, two: tuple[str, str]) -> None:
    versions.promote(store.root, NAME, two[1], by="test", hand_over=RULE, force=True, reason="x")
    third, fourth = kept(store, 3), kept(store, 4)
    versions.promote(store.root, NAME, third, by="test", force=True, reason="x")
    versions.promote(store.root, NAME, fourth, by="test", force=True, reason="x")
    assert versions.rollback(store.root, NAME, by="test", reason="x") == third
    assert versions.rollback(store.root, NAME, by="test", reason="x") == two[1]
    assert versions.in_use(store.root, NAME) == [Judge(two[0], None), Judge(two[1], RULE)]
    assert versions.rollback(store.root, NAME, by="test", reason="x", to=fourth) == fourth
    with pytest.raises(StoreError, match="was not in use before"):
        versions.rollback(store.root, NAME, by="test", reason="x", to=fourth)


def test_rolling_back_to_a_file_that_is_gone_leaves_the_champion(store: Store, two: tuple[str, str]) -> None:
    versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    versions.path_of(store.root, NAME, two[0]).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        versions.rollback(store.root, NAME, by="test", reason="x")
    assert versions.champion(store.root, NAME) == two[1]


def test_a_champion_that_was_damaged_is_named_and_can_be_taken_back(store: Store, two: tuple[str, str]) -> None:
    versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    versions.path_of(store.root, NAME, two[1]).write_bytes(b"")
    with pytest.raises(StoreError, match=r"npz: is damaged"):
        versions.load(store.root, NAME, two[1])
    assert versions.rollback(store.root, NAME, by="test", reason="damaged") == two[0]


def test_a_clock_that_was_set_back_changes_no_order(
    store: Store, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: END_NS)
    versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    assert states(store) == {two[0]: "retired", two[1]: "champion"}


def test_the_order_survives_upkeep(store: Store, two: tuple[str, str]) -> None:
    versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    before = versions.listed(store.root)
    store.maintain(END_NS + 400 * 86_400_000_000_000)
    assert versions.listed(store.root).equals(before)
    assert versions.load(store.root, NAME, two[1]).version == two[1]


# -------------------------------------------------------------------------------------------------------------- pruning

DAY_NS = 86_400 * 1_000_000_000


def held(store: Store) -> set[str]:
    """The versions whose files are there."""
    return {path.stem for path in store.root.glob("models/*/*.npz") if ".against-" not in path.name}


def chain(store: Store, count: int) -> list[str]:
    """So many versions that took over one from another, the champion last."""
    made = []
    for number in range(count):
        made.append(versions.save(store.root, NAME, arrays(number), meta(END_NS + number)))
        versions.promote(store.root, NAME, made[-1], by="test", force=True, reason="x")
    return made


def later(days: float = 2) -> int:
    return time.time_ns() + round(days * DAY_NS)


def test_the_champion_and_those_before_it_stay_and_older_files_go(store: Store) -> None:
    made = chain(store, versions.KEPT + 4)
    gone = versions.prune(store.root, NAME, now_ns=later())
    assert set(gone) == set(made[:3])
    assert held(store) == set(made[3:])
    assert states(store) == {**dict.fromkeys(made[:-1], "retired"), made[-1]: "champion"}
    row = versions.listed(store.root, NAME).filter(version=made[0]).row(0, named=True)
    assert (row["path"], row["bytes"], row["rows"]) == (None, None, 20_000)
    assert "its file is no longer kept" in row["reason"]
    assert versions.prune(store.root, NAME, now_ns=later()) == []
    # All that is kept can be gone back to, one by one.
    for before in reversed(made[3:-1]):
        assert versions.rollback(store.root, NAME, by="test", reason="x") == before
    with pytest.raises(StoreError, match="nothing was in use before"):
        versions.rollback(store.root, NAME, by="test", reason="x")
    for act in (
        lambda: versions.rollback(store.root, NAME, by="test", reason="x", to=made[0]),
        lambda: versions.promote(store.root, NAME, made[0], by="test", force=True, reason="x"),
    ):
        with pytest.raises(StoreError, match=f"{made[0]}: its file is no longer kept; the last 8 "):
            act()
    assert versions.champion(store.root, NAME) == made[3]


def test_what_judges_together_with_one_that_is_kept_stays(store: Store) -> None:
    first = versions.save(store.root, NAME, arrays(100), meta(END_NS - 2))
    versions.promote(store.root, NAME, first, by="test")
    second = versions.save(store.root, NAME, arrays(101), meta(END_NS - 1))
    versions.promote(store.root, NAME, second, by="test", hand_over=RULE, force=True, reason="x")
    made = chain(store, versions.KEPT)
    # The first is one too many itself; the second, the last that is kept, judges only with it.
    assert versions.prune(store.root, NAME, now_ns=later()) == []
    assert {first, second} <= held(store)
    newest = versions.save(store.root, NAME, arrays(102), meta(END_NS + 100))
    versions.promote(store.root, NAME, newest, by="test", force=True, reason="x")
    assert set(versions.prune(store.root, NAME, now_ns=later())) == {first, second}
    assert held(store) == {*made, newest}


def test_a_candidate_that_may_yet_be_promoted_stays(store: Store, two: tuple[str, str]) -> None:
    tried = versions.save(store.root, NAME, arrays(3), meta(END_NS - 5))
    versions.record_trial(store.root, NAME, tried, trial(lost=25))
    newer, older, refused = (versions.save(store.root, NAME, arrays(4 + at), meta(END_NS + 1 - at)) for at in (0, 1, 2))
    versions.reject(store.root, NAME, refused, by="test", reason="x")
    gone = versions.prune(store.root, NAME, now_ns=later())
    assert set(gone) == {two[1], older, refused}  # with data that end no later than the champion's, and not tried
    assert held(store) == {two[0], tried, newer}
    assert versions.compared(store.root, NAME, tried).breaches()
    versions.promote(store.root, NAME, newer, by="test", force=True, reason="x")
    # Tried against what is no longer the champion, it would have to be tried anew.
    assert versions.prune(store.root, NAME, now_ns=later()) == [tried]
    assert list(store.root.glob("models/*/*.against-*")) == []


def test_what_was_decided_today_stays_until_tomorrow(store: Store, two: tuple[str, str]) -> None:
    versions.reject(store.root, NAME, two[1], by="test", reason="x")
    assert versions.prune(store.root, NAME, now_ns=later(0.9)) == []
    assert versions.prune(store.root, NAME, now_ns=later(1.1)) == [two[1]]


def test_a_model_without_a_champion_and_others_models_lose_nothing(store: Store, two: tuple[str, str]) -> None:
    other = versions.save(store.root, "forecast/power_w", arrays(9), meta(END_NS - 9))
    assert versions.prune(store.root, "forecast/power_w", now_ns=later()) == []
    assert versions.prune(store.root, NAME, now_ns=later()) == [two[1]]
    assert held(store) == {two[0], other}


def test_who_is_killed_while_pruning_leaves_nothing_that_is_told_and_not_there(
    store: Store, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_self: Files, _path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(Files, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            versions.prune(store.root, NAME, now_ns=later())
    assert held(store) == set(two)
    with pytest.raises(StoreError, match="no longer kept"):
        versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    versions.prune(store.root, NAME, now_ns=later(3))
    assert held(store) == {two[0]}


def test_a_version_that_is_made_again_after_its_file_went_is_whole_again(store: Store, two: tuple[str, str]) -> None:
    versions.prune(store.root, NAME, now_ns=later())
    assert held(store) == {two[0]}
    assert kept(store, 2) == two[1]
    assert states(store)[two[1]] == "candidate"
    versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    assert versions.load(store.root, NAME, two[1]).version == two[1]


def test_a_job_that_offers_leaves_no_more_than_may_be_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "GRACE_NS", 0)
    monkeypatch.setattr(versions, "KEPT", 2)
    for number in range(12):
        versions.offer(store.root, NAME, arrays(number), meta(END_NS + number), trial(found=30 + number))
    # The champion and the two before it, and the one that all three judge together with since it took over alone.
    assert held(store) == {judge.version for judge in versions.in_use(store.root, NAME)}
    assert len(held(store)) == 4
    assert versions.listed(store.root, NAME).height == 12


# ------------------------------------------------------------------------------------------------------ kills and locks


def promoting(store: Store, version: str, point: int) -> int:
    command = [sys.executable, "-m", "tests.analytics.models.promoting", str(store.root), NAME, version, str(point)]
    done = subprocess.run(
        command, cwd=HERE.parents[2], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_killed_at_any_point_of_a_promotion_there_is_one_champion(store: Store, two: tuple[str, str]) -> None:
    seen = []
    for point in range(12):
        code = promoting(store, two[1], point)
        current = versions.champion(store.root, NAME)
        found = states(store)
        expected = {two[0]: "champion", two[1]: "candidate"}, {two[0]: "retired", two[1]: "champion"}
        assert found in expected, point
        assert current is not None
        versions.load(store.root, NAME, current)
        seen.append(current)
        if code == 0:
            break
        if current == two[1]:
            # Done before it died; as a person would, take it back and try the next point.
            versions.rollback(store.root, NAME, by="test", reason="next")
            versions.promote(store.root, NAME, two[1], by="test", force=True, reason="next")
            break
    assert seen[0] == two[0]
    assert seen[-1] == two[1]
    assert len(seen) > 2
    assert store.check() == []


def test_two_do_not_change_at_once(store: Store, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "WAIT_S", 0.1)
    with WriterLock(store.root, versions.LOCK), pytest.raises(StoreBusy):
        versions.promote(store.root, NAME, two[1], by="test", force=True, reason="x")
    assert versions.champion(store.root, NAME) == two[0]


def test_the_row_tells_what_else_was_measured(store: Store, two: tuple[str, str]) -> None:
    row: dict[str, Any] = versions.listed(store.root, NAME).row(0, named=True)
    assert json.loads(row["metrics"])["mape_ratio"] == 0.031
    assert json.loads(row["metrics"])["kind"] == "linear"
