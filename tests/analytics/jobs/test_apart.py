"""Jobs in a process beside this one: the same results, and a process that is killed is told and replaced."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_jobs import COUNTED, HOURS, JOBS
from three_days import DAY_NS, NOW_NS, START_NS

from analytics.frames import scan
from analytics.jobs.engine import Apart, Task
from analytics.jobs.job import Input, Window
from analytics.jobs.running import run
from collector.store import Store

Rows = Callable[[Store, str], list[tuple[Any, ...]]]


def tasks(store: Store, function: str = "fake_jobs:process") -> list[Task]:
    job = replace(HOURS, function=function, output="incidents", every="day")
    starts = [START_NS + day * DAY_NS for day in range(3)]
    return [Task(root=str(store.root), job=job, window=Window(start, start + DAY_NS, NOW_NS)) for start in starts]


def processes(store: Store) -> list[int]:
    """The processes that the three days were done in."""
    return scan(store, "incidents").sort("time").collect()["windows"].to_list()


def test_what_goes_on_from_its_windows_before_comes_to_the_same_apart(
    make_store: Callable[..., Store], rows: Rows
) -> None:
    assert COUNTED.in_order
    here, there = make_store("here"), make_store("there")
    run(here.root, jobs=JOBS, now_ns=NOW_NS)
    with closing(Apart()) as apart:
        outcomes = run(there.root, jobs=JOBS, now_ns=NOW_NS, apart=apart, at_once=2)
    assert {outcome.state for outcome in outcomes} == {"done"}
    for table in ("device_energy", "anomaly_scores", "incidents"):
        assert rows(here, table) == rows(there, table)


def test_only_windows_that_go_on_from_one_another_are_done_apart(store: Store) -> None:
    alone = replace(HOURS, function="fake_jobs:process", output="incidents", every="day")
    goes_on = replace(alone, inputs=(*alone.inputs, Input("incidents", None)))
    for job, others in ((alone, 0), (goes_on, 1)):
        with closing(Apart()) as apart:
            run(store.root, jobs=(job,), now_ns=NOW_NS, force=True, apart=apart, at_once=2)
        assert len({*processes(store)} - {os.getpid()}) == others


def test_the_first_task_is_done_here_and_the_others_in_one_process_beside(store: Store) -> None:
    with closing(Apart()) as apart:
        assert {outcome.state for outcome in apart.run(tasks(store))} == {"done"}
    here, *there = processes(store)
    assert here == os.getpid()
    assert there[0] == there[1] != here


def test_a_process_that_is_killed_is_told_and_another_takes_its_place(store: Store) -> None:
    with closing(Apart()) as apart:
        list(apart.run(tasks(store)[:1]))
        (killed,) = apart.run(tasks(store, "fake_jobs:ends")[:1])
        assert killed.state == "failed"
        assert "was killed" in (killed.error or "")
        assert {outcome.state for outcome in apart.run(tasks(store))} == {"done"}
    assert os.getpid() not in processes(store)


def test_where_there_can_be_no_other_process_it_is_done_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError("no memory to share")

    monkeypatch.setattr("analytics.jobs.engine.ProcessPoolExecutor", none)
    with closing(Apart()) as apart:
        assert {outcome.state for outcome in apart.run(tasks(store))} == {"done"}
    assert {*processes(store)} == {os.getpid()}


def test_the_process_ends_with_the_one_that_began_it(store: Store) -> None:
    code = (
        "import sys, time, pickle\nfrom analytics.jobs.engine import Apart\n"
        "apart = Apart()\nlist(apart.run(pickle.loads(sys.stdin.buffer.read())))\nprint(flush=True)\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=os.environ | {"PYTHONPATH": path}) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(pickle.dumps(tasks(store)))
        parent.stdin.close()
        parent.stdout.readline()
        here, beside, _ = processes(store)
        assert here == parent.pid
        os.kill(beside, 0)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while _runs(beside):
        assert time.monotonic() < until, "it goes on by itself"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
