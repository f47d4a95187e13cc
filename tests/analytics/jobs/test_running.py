import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_jobs import COUNTED, HOURS, JOBS, PEAKS, SAMPLES
from three_days import DAY_NS, HOUR_NS, NOW_NS, NS, START_NS, samples

from analytics.frames import scan
from analytics.jobs.chain import JOBS as CHAIN
from analytics.jobs.engine import Outcome, Task, perform
from analytics.jobs.job import Input, Job, closure
from analytics.jobs.running import LOCK, Documents, _Chain, run, status
from collector.errors import StoreBusy
from collector.store import Store
from collector.store.files import WriterLock
from collector.store.segments import day_of

Rows = Callable[[Store, str], list[tuple[Any, ...]]]
TABLES = ("device_energy", "anomaly_scores", "incidents")
KEEP: dict[str, int | None] = {"device_samples": None}


def go(store: Store, jobs: Sequence[Job] = JOBS, *, now_ns: int = NOW_NS, **options: Any) -> list[Outcome]:
    return run(store.root, jobs=tuple(jobs), now_ns=now_ns, **options)


def ran(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    return [(outcome.job, (outcome.window.start_ns - START_NS) // DAY_NS) for outcome in outcomes]


def test_every_job_does_every_day_after_what_it_needs(store: Store, rows: Rows) -> None:
    outcomes = go(store)
    assert ran(outcomes) == [(job, day) for job in ("hours", "counted", "peaks") for day in range(3)]
    assert {(outcome.state, outcome.changed) for outcome in outcomes} == {("done", True)}
    assert len(rows(store, "device_energy")) == 3 * 24 * 3
    assert scan(store, "incidents").sort("time").collect()["windows"].to_list() == [432, 864, 1296]
    kept = scan(store, "job_runs").collect()
    assert sorted(zip(kept["job"], kept["rows"], strict=True)) == sorted((o.job, o.rows) for o in outcomes)


def test_jobs_that_need_not_wait_for_each_other_run_side_by_side(
    store: Store, make_store: Callable[..., Store], rows: Rows
) -> None:
    together = (
        replace(HOURS, function="fake_jobs:hours_together", every="day"),
        PEAKS,
        replace(COUNTED, function="fake_jobs:counted_together"),
    )
    outcomes = go(store, together, at_once=2)
    assert {(outcome.state, outcome.error) for outcome in outcomes} == {("done", None)}
    order = [outcome.job for outcome in outcomes]
    assert [order.count(job.name) for job in together] == [3, 3, 3]
    assert order.index("peaks") > max(at for at, name in enumerate(order) if name == "hours")
    assert scan(store, "job_runs").select(pl.len()).collect().item() == 9
    alone = make_store("alone")
    go(alone, (replace(HOURS, every="day"), PEAKS, COUNTED))
    assert [rows(store, table) for table in TABLES] == [rows(alone, table) for table in TABLES]


def test_side_by_side_rollups_go_first_and_before_others_what_goes_window_by_window() -> None:
    waiting, begun = list(closure((), CHAIN)), list[list[str]]()
    while waiting:
        some = _Chain._next(waiting, [], 2)
        waiting = [job for job in waiting if job not in some]
        begun.append([job.name for job in some])
    assert begun == [["rollups", "capacity"], ["anomaly_scores", "energy"], ["incidents", "forecasts"]]


def test_beside_rollups_nothing_runs_that_takes_long() -> None:
    waiting = list(closure((), CHAIN))
    rollups, capacity = _Chain._next(waiting, [], 2)
    waiting = [job for job in waiting if job not in (rollups, capacity)]
    assert _Chain._next(waiting, [rollups], 2) == []
    assert [job.name for job in _Chain._next(waiting, [capacity], 2)] == ["anomaly_scores"]


def test_side_by_side_one_that_fails_holds_up_only_what_needs_it(store: Store) -> None:
    broken = replace(HOURS, function="fake_jobs:broken", every="day")
    told = {(o.job, o.state) for o in go(store, [broken, PEAKS, COUNTED], at_once=2)}
    assert told == {("hours", "done"), ("hours", "failed"), ("peaks", "done"), ("counted", "done")}


def test_interrupted_the_jobs_beside_it_end_with_the_window_they_are_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PAUSE_S", "3")
    slow = replace(COUNTED, function="fake_jobs:slow_counted")
    told = []

    def interrupted(outcome: Outcome, *_: int) -> None:
        told.append(outcome.job)
        if outcome.job == "hours":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(store, [HOURS, PEAKS, slow], at_once=2, tell=interrupted)
    assert told == ["hours", "counted"]
    assert {outcome.state for outcome in go(store)} == {"done"}
    assert scan(store, "incidents").sort("time").collect()["windows"].to_list() == [432, 864, 1296]


def test_nothing_is_done_twice_and_a_merge_is_no_news(store: Store) -> None:
    go(store)
    assert go(store) == []
    for hour in (1, 2):
        start_ns = START_NS + hour * HOUR_NS
        store.write("device_samples", samples(start_ns, start_ns + HOUR_NS, devices=1, more_w=5), writer="second")
    assert ran(go(store))
    files = {segment.path for segment in store.segments("device_samples")}
    store.maintain(now_ns=time.time_ns() + DAY_NS, retain_days=KEEP)
    assert {segment.path for segment in store.segments("device_samples")} != files
    assert go(store) == []


def test_late_rows_are_done_again_with_what_looks_back_at_them(make_store: Callable[..., Store], rows: Rows) -> None:
    store, whole = make_store(), make_store("whole")
    go(store)
    count = len(rows(store, "device_energy"))
    last_hour = START_NS + 2 * DAY_NS - HOUR_NS
    for late in (store, whole):
        late.write("device_samples", samples(last_hour, last_hour + HOUR_NS, more_w=1000.0), writer="late")
    # `counted` goes on from the day before, so its third day follows; `peaks` looks an hour back.
    assert ran(go(store)) == [("hours", 1), ("counted", 1), ("counted", 2), ("peaks", 1), ("peaks", 2)]
    assert len(rows(store, "device_energy")) == count
    go(whole)
    for table in TABLES:
        assert rows(store, table) == rows(whole, table)


def test_what_came_out_as_before_goes_no_further(store: Store) -> None:
    go(store, [HOURS, PEAKS])
    hours = store.segments("device_energy")
    # A reading without power: a new segment, and the same hours.
    store.write("device_samples", {"device": ["d9"], "time": [START_NS], "source": ["s"]}, writer="again")
    more = replace(HOURS, function="fake_jobs:hours_with_power")
    outcomes = go(store, [more, PEAKS])
    assert [(o.job, o.changed) for o in outcomes] == [("hours", False)]
    assert store.segments("device_energy") == hours


def test_hours_of_the_day_that_runs_become_a_day_when_it_is_over(store: Store, rows: Rows) -> None:
    noon = START_NS + 2 * DAY_NS + 12 * HOUR_NS + 60 * NS
    outcomes = go(store, [HOURS], now_ns=noon)
    # What was missed of the day that runs comes at once, and then its hours.
    assert [(o.window.end_ns - o.window.start_ns) // HOUR_NS for o in outcomes] == [24, 24, 12, 1]
    assert go(store, [HOURS], now_ns=noon + 60 * NS) == []
    hour = START_NS + 2 * DAY_NS + 12 * HOUR_NS
    store.write("device_samples", samples(hour, hour + HOUR_NS, more_w=3.0), writer="live")
    assert [o.window.start_ns for o in go(store, [HOURS], now_ns=noon)] == [hour]
    store.maintain(now_ns=noon + 1800 * NS, retain_days=KEEP)
    assert len(rows(store, "device_energy")) == (24 + 24 + 13) * 3
    (day,) = go(store, [HOURS])
    assert (day.window.start_ns, day.window.end_ns) == (START_NS + 2 * DAY_NS, START_NS + 3 * DAY_NS)
    assert len(rows(store, "device_energy")) == 3 * 24 * 3
    # Also where the day's hours were merged before it was done as a day.
    store.maintain(now_ns=NOW_NS + DAY_NS, retain_days=KEEP)
    go(store, [HOURS], force=True)
    assert len(rows(store, "device_energy")) == 3 * 24 * 3


def test_hours_that_were_missed_come_at_once_and_those_that_were_done_stay(store: Store) -> None:
    day = START_NS + 2 * DAY_NS

    def parts(hour: float) -> list[tuple[int, int]]:
        done = go(store, [HOURS], now_ns=day + round(hour * HOUR_NS), start_ns=day)
        return [((o.window.start_ns - day) // HOUR_NS, (o.window.end_ns - day) // HOUR_NS) for o in done]

    assert parts(2.5) == [(0, 2), (2, 3)]
    assert parts(3.5) == [(3, 4)]
    assert parts(8.5) == [(4, 8), (8, 9)]
    late = day + HOUR_NS
    store.write("device_samples", samples(late, late + HOUR_NS, more_w=3.0), writer="late")
    assert parts(8.6) == [(0, 2)]


def test_a_day_covers_its_hours_after_they_were_merged(store: Store, rows: Rows) -> None:
    go(store, [HOURS], now_ns=START_NS + DAY_NS - 60 * NS)
    files = len(store.segments("device_energy"))
    store.maintain(now_ns=START_NS + 2 * DAY_NS, retain_days=KEEP)
    assert len(store.segments("device_energy")) < files
    go(store, [HOURS])
    assert len(rows(store, "device_energy")) == 3 * 24 * 3


def test_forced_it_is_done_again_and_nothing_changes(store: Store, rows: Rows) -> None:
    go(store)
    before = {table: rows(store, table) for table in TABLES}
    outcomes = go(store, force=True, start_ns=START_NS + DAY_NS, end_ns=START_NS + 2 * DAY_NS)
    assert ran(outcomes) == [("hours", 1), ("counted", 1), ("peaks", 1)]
    assert not any(outcome.changed for outcome in outcomes)
    assert {table: rows(store, table) for table in TABLES} == before


def test_what_somebody_deleted_is_made_again(store: Store, rows: Rows) -> None:
    go(store)
    before = rows(store, "device_energy")
    for segment in store.segments("device_energy"):
        segment.path.unlink()
    go(store, force=True)
    assert rows(store, "device_energy") == before


def test_without_its_progress_a_job_does_everything_again_to_the_same_end(store: Store, rows: Rows) -> None:
    go(store)
    before = rows(store, "incidents")
    (store.root / "job_runs" / "counted.json").write_text("{ half a fi", encoding="utf-8")
    assert ran(go(store)) == [("counted", 0), ("counted", 1), ("counted", 2)]
    assert rows(store, "incidents") == before


@pytest.mark.parametrize("after", [1, 4, 7])
def test_killed_in_the_middle_it_goes_on_to_the_same_end(
    after: int, make_store: Callable[..., Store], rows: Rows
) -> None:
    killed, whole = make_store("killed"), make_store("whole")
    script = Path(__file__).with_name("fake_jobs.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[3])}
    child = subprocess.Popen(
        [sys.executable, str(script), str(killed.root), "0.1"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    done = [child.stdout.readline() for _ in range(after)]
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    child.stdout.close()
    assert all(done)
    outcomes = go(killed)
    assert 0 < len(outcomes) <= 9 - after + 1
    go(whole)
    for table in TABLES:
        assert rows(killed, table) == rows(whole, table)
    assert go(killed) == []


def test_one_that_fails_is_told_and_kept_apart(store: Store) -> None:
    broken = replace(HOURS, function="fake_jobs:broken", every="day")
    outcomes = go(store, [broken, PEAKS, COUNTED])
    told = {(o.job, (o.window.start_ns - START_NS) // DAY_NS): (o.state, o.error) for o in outcomes}
    assert told[("hours", 0)] == ("done", None)
    assert told[("hours", 1)][0] == "failed"
    error = str(told[("hours", 1)][1])
    assert error.startswith("ZeroDivisionError: no devices on the second day (fake_jobs.py:")
    assert told[("peaks", 0)] == ("done", None)
    assert ("peaks", 1) not in told  # nothing was ever made of that day, so there is nothing to look at
    assert [told[("counted", day)] for day in range(3)] == [("done", None)] * 3
    kept = scan(store, "job_runs").collect()
    assert kept.filter(kept["state"] == "failed")["error"].to_list() == [error, error]
    standing = status(store.root, jobs=(broken, PEAKS, COUNTED), now_ns=NOW_NS).rows_by_key("job", named=True)
    assert (standing["hours"][0]["state"], standing["hours"][0]["failed"]) == ("failed", 2)
    assert standing["hours"][0]["error"] == error
    assert (standing["counted"][0]["state"], standing["counted"][0]["error"]) == ("done", None)
    # Mended, only what failed and what waited for it is done.
    assert ran(go(store)) == [("hours", 1), ("hours", 2), ("peaks", 1), ("peaks", 2)]
    standing = status(store.root, jobs=JOBS, now_ns=NOW_NS).rows_by_key("job", named=True)
    assert (standing["hours"][0]["state"], standing["hours"][0]["failed"]) == ("done", 0)


def test_what_needs_one_that_failed_is_skipped_with_the_reason_and_keeps_what_it_had(store: Store, rows: Rows) -> None:
    go(store)
    before = rows(store, "anomaly_scores")
    store.write("device_samples", samples(START_NS + DAY_NS, START_NS + 2 * DAY_NS, more_w=9.0), writer="late")
    broken = replace(HOURS, function="fake_jobs:broken", every="day")
    outcomes = go(store, [broken, PEAKS], force=True)
    told = {(o.job, (o.window.start_ns - START_NS) // DAY_NS): (o.state, o.error) for o in outcomes}
    assert told[("peaks", 0)] == ("done", None)
    assert told[("peaks", 1)] == ("skipped", "needs hours of 2026-01-02 00:00, which failed")
    assert told[("peaks", 2)][0] == "skipped"
    assert rows(store, "anomaly_scores") == before


def test_after_a_failure_nothing_follows_of_a_job_that_goes_on_from_the_day_before(store: Store) -> None:
    broken = replace(HOURS, function="fake_jobs:broken", every="day", inputs=(SAMPLES, Input("device_energy", None)))
    outcomes = go(store, [broken])
    assert [(o.state, o.error) for o in outcomes] == [
        ("done", None),
        ("failed", outcomes[1].error),
        ("skipped", "goes on from 2026-01-02 00:00, which failed"),
    ]


def test_rows_outside_the_window_are_refused(store: Store) -> None:
    (first, *_) = go(store, [replace(HOURS, function="fake_jobs:outside", every="day")])
    assert first.state == "failed"
    assert "are not within the window" in str(first.error)


def test_without_enough_data_a_job_says_so_and_is_not_tried_until_more_comes(store: Store) -> None:
    thin = replace(HOURS, function="fake_jobs:thin", every="day")
    outcomes = go(store, [thin])
    assert {(o.state, o.error) for o in outcomes} == {("skipped", "2 days of data, 14 are needed")}
    assert go(store, [thin]) == []
    store.write("device_samples", samples(START_NS, START_NS + HOUR_NS), writer="more")
    assert ran(go(store, [thin])) == [("hours", 0)]


def test_what_was_made_of_days_that_expired_stays(store: Store, rows: Rows) -> None:
    go(store)
    before = {table: rows(store, table) for table in TABLES}
    (store.root / "device_samples" / f"date={day_of(START_NS)}" / ".expired").touch()
    assert go(store) == []
    assert ran(go(store, force=True)) == [
        ("hours", 1), ("hours", 2), ("counted", 1), ("counted", 2), ("peaks", 0), ("peaks", 1), ("peaks", 2),
    ]  # fmt: skip
    assert {table: rows(store, table) for table in TABLES} == before


def test_a_change_of_the_fleet_makes_due_what_needs_it(store: Store) -> None:
    priced = replace(HOURS, function="fake_jobs:priced", needs=("fleet",), every="day")
    one = Documents(texts={"fleet": '[[site]]\nname = "a"\n'})
    assert len(go(store, [priced], documents=one)) == 3
    assert go(store, [priced], documents=one) == []
    outcomes = go(store, [priced], documents=Documents(texts={"fleet": '[[site]]\nname = "b"\n'}))
    assert [(o.state, o.changed) for o in outcomes] == [("done", False)] * 3
    two = Documents(texts={"fleet": '[[site]]\nname = "a"\n[[site]]\nname = "b"\n'})
    assert [o.changed for o in go(store, [priced], documents=two)] == [True] * 3


def test_a_job_that_looks_for_what_did_not_come_goes_on_for_a_day(store: Store) -> None:
    always = replace(HOURS, always=True, every="day")
    later = START_NS + 3 * DAY_NS + HOUR_NS
    assert ran(go(store, [always], now_ns=later)) == [("hours", 0), ("hours", 1), ("hours", 2), ("hours", 3)]
    assert ran(go(store, [always], now_ns=later + HOUR_NS)) == [("hours", 3)]
    assert ran(go(store, [always], now_ns=later + 40 * DAY_NS)) == []


def test_a_job_about_how_things_stand_does_the_last_window_only_and_rests(store: Store) -> None:
    last = replace(HOURS, every="day", only_last=True, rest_s=7200.0)
    assert ran(go(store, [last])) == [("hours", 2)]
    start_ns = START_NS + 2 * DAY_NS
    store.write("device_samples", samples(start_ns, start_ns + HOUR_NS, more_w=1.0), writer="more")
    assert go(store, [last], now_ns=NOW_NS + 7199 * NS) == []
    assert ran(go(store, [last], now_ns=NOW_NS + 7200 * NS)) == [("hours", 2)]


def test_a_job_about_how_things_stand_rests_over_midnight(store: Store) -> None:
    last = replace(HOURS, every="day", only_last=True, rest_s=7200.0)
    midnight_ns = START_NS + 3 * DAY_NS
    assert ran(go(store, [last], now_ns=midnight_ns - 60 * NS)) == [("hours", 2)]
    store.write("device_samples", samples(midnight_ns, midnight_ns + HOUR_NS), writer="more")
    assert go(store, [last], now_ns=midnight_ns + 300 * NS) == []
    assert ran(go(store, [last], now_ns=midnight_ns + 7140 * NS)) == [("hours", 3)]


def test_what_is_not_needed_does_not_hold_a_job_up(store: Store) -> None:
    broken = replace(HOURS, function="fake_jobs:broken", every="day")
    energy = Input("device_energy", needed=False)
    outcomes = go(store, [broken, replace(COUNTED, inputs=(*COUNTED.inputs, energy))])
    assert [outcome.state for outcome in outcomes if outcome.job == "counted"] == ["done"] * 3
    outcomes = go(store, [broken, replace(COUNTED, inputs=(*COUNTED.inputs, Input("device_energy")))], force=True)
    assert [outcome.state for outcome in outcomes if outcome.job == "counted"] == ["done", "skipped", "skipped"]


def test_two_runs_at_once_are_one_too_many(store: Store) -> None:
    with WriterLock(store.root, LOCK), pytest.raises(StoreBusy, match=f"in process {os.getpid()}"):
        go(store)


class Elsewhere:
    """An engine of other processes, which get a task as bytes and nothing else."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_path, initargs=(sys.path,)) as pool:
            for answer in pool.map(_performed, [pickle.dumps(task) for task in tasks]):
                yield pickle.loads(answer)


def _path(path: list[str]) -> None:
    sys.path[:] = path


def _performed(task: bytes) -> bytes:
    return pickle.dumps(perform(pickle.loads(task)))


def test_an_engine_of_other_processes_comes_to_the_same(make_store: Callable[..., Store], rows: Rows) -> None:
    here, there = make_store("here"), make_store("there")
    go(here, [HOURS])
    go(there, [HOURS], engine=Elsewhere())
    assert rows(here, "device_energy") == rows(there, "device_energy")


def test_in_parts_it_comes_to_the_same_and_a_job_may_make_several_tables(
    make_store: Callable[..., Store], rows: Rows, tmp_path: Path
) -> None:
    whole, parts = make_store("whole"), Store.create(tmp_path / "parts")
    for day in range(3):
        of_day = samples(START_NS + day * DAY_NS, START_NS + (day + 1) * DAY_NS)
        for (device,), of_device in of_day.partition_by("device", as_dict=True).items():
            parts.write("device_samples", of_device, writer=f"host-of-{device}")
    go(whole, [HOURS])
    several = replace(
        HOURS, function="fake_jobs:hours_in_parts", also=("incidents",), every="day", by_device=True, part_rows=100
    )
    outcomes = go(parts, [several, PEAKS])
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert rows(parts, "device_energy") == rows(whole, "device_energy")
    assert scan(parts, "incidents").collect()["windows"].to_list() == [3, 3, 3]
    # Its tables are news one by one.
    several = replace(several, part_rows=10_000)
    outcomes = go(parts, [several, PEAKS], names=["hours", "peaks"], force=True)
    assert [outcome.changed for outcome in outcomes] == [True] * 3 + [False] * 3
    assert go(parts, [several, PEAKS]) == []


def test_a_job_that_leaves_a_table_out_is_told_so(store: Store) -> None:
    (first, *_) = go(store, [replace(HOURS, function="fake_jobs:half", also=("incidents",), every="day")])
    assert first.error is not None
    assert "gives device_energy, not device_energy, incidents" in first.error


def test_progress_is_small_and_plain(store: Store) -> None:
    go(store)
    listed = json.loads((store.root / "job_runs" / "peaks.json").read_text(encoding="utf-8"))
    assert [one["rows"] for one in listed] == [24, 24, 24]
    hours = [f"device_energy of hours/{START_NS + day * DAY_NS}" for day in (0, 1)]
    assert sorted(listed[1]["inputs"]) == hours
