"""Log lines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from collector import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level


def line(stream: io.StringIO, form: str = "logfmt", env: dict[str, str] | None = None, **fields: object) -> str:
    logs.configure(level="info", form=form, env=env or {}, stream=stream)
    logging.getLogger("collector.agent").warning("source lost", extra=fields)
    return stream.getvalue()


def test_a_line_has_time_level_event_and_fields(stream: io.StringIO) -> None:
    text = line(stream, source="nvml:GPU-1", pause_s=0.1)
    assert text.startswith("time=2")
    assert text.endswith('level=warning logger=collector.agent event="source lost" source=nvml:GPU-1 pause_s=0.1\n')


@pytest.mark.parametrize("value", ["two\nlines", 'a "quote"', "a=b", "", "\x1b[31mred", "back\\slash"])
def test_no_field_can_break_a_line_or_pass_for_another(stream: io.StringIO, value: str) -> None:
    text = line(stream, error=value)
    assert text.count("\n") == 1
    assert json.loads(text.partition(" error=")[2]) == value
    assert "\x1b" not in text


def test_json_lines_are_json(stream: io.StringIO) -> None:
    found = json.loads(line(stream, form="json", source="a", path=object))
    assert (found["event"], found["level"], found["source"]) == ("source lost", "warning", "a")


def test_the_journal_gets_a_priority_and_no_time(stream: io.StringIO) -> None:
    assert line(stream, env={"JOURNAL_STREAM": "8:1"}).startswith("<4>level=warning ")


def test_a_traceback_is_one_field_of_one_line(stream: io.StringIO) -> None:
    logs.configure(level="info", form="logfmt", env={}, stream=stream)
    try:
        raise ValueError("a bug")
    except ValueError:
        logging.getLogger("x").exception("turn failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: a bug" in stream.getvalue()


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    logs.configure(level="warning", form="logfmt", env={}, stream=stream)
    logging.getLogger("x").info("nothing")
    assert stream.getvalue() == ""
