from dataclasses import replace

import pytest
from fake_jobs import COUNTED, HOURS, JOBS, PEAKS

from analytics.jobs.chain import JOBS as CHAIN
from analytics.jobs.job import Input, Job, Window, closure, in_sequence
from collector.store.schema import TABLES


def test_a_job_comes_after_what_it_needs() -> None:
    assert [job.name for job in in_sequence((PEAKS, COUNTED, HOURS))] == ["counted", "hours", "peaks"]
    assert [job.name for job in closure(("peaks",), JOBS)] == ["hours", "peaks"]
    assert [job.name for job in closure((), JOBS)] == ["hours", "counted", "peaks"]


def test_what_a_job_can_do_without_is_not_run_for_it_and_comes_before_it_all_the_same() -> None:
    peaks = replace(PEAKS, inputs=(replace(PEAKS.inputs[0], needed=False), Input("device_samples")))
    assert [job.name for job in closure(("peaks",), (HOURS, peaks))] == ["peaks"]
    assert [job.name for job in closure((), (peaks, HOURS))] == ["hours", "peaks"]


def test_a_circle_and_a_name_given_twice_are_refused() -> None:
    back = replace(HOURS, inputs=(Input("anomaly_scores"),))
    with pytest.raises(ValueError, match="wait for each other: hours, peaks"):
        in_sequence((back, PEAKS))
    with pytest.raises(ValueError, match="same name"):
        in_sequence((HOURS, HOURS))
    with pytest.raises(KeyError, match="nobody"):
        closure(("nobody",), JOBS)
    with pytest.raises(ValueError, match="needs \\('moon',\\)"):
        replace(HOURS, needs=("moon",))


def test_an_input_reaches_as_far_as_it_says() -> None:
    window = Window(100 * 10**9, 200 * 10**9, 150 * 10**9)
    assert Input("events", 10.0, 5.0).reads(window) == (90 * 10**9, 205 * 10**9)
    assert Input("events", None).reads(window) == (None, 200 * 10**9)
    assert Input("events", None).depends(window) == (100 * 10**9, 200 * 10**9)
    assert window.until_ns == 150 * 10**9


@pytest.mark.parametrize("job", CHAIN, ids=lambda job: str(job.name))
def test_every_job_of_the_chain_reads_and_writes_tables_that_there_are(job: Job) -> None:
    assert {item.table for item in job.inputs} | set(job.outputs) <= set(TABLES)
    if job.function:
        assert callable(job.load())


def test_the_chain_has_a_sequence() -> None:
    assert {job.name for job in in_sequence(CHAIN)} == {job.name for job in CHAIN}
