"""The agent over real workers: what hangs, crashes or leaves is its own gap and nobody else's."""

from collections.abc import Callable
from typing import Any

Start = Callable[..., Any]


def test_every_source_is_read_on_every_tick(control: Any, start: Start) -> None:
    control.put("a")
    control.put("b")
    running = start(control.source())
    running.recorder.until_more("fake:a", 10)
    assert abs(len(running.recorder.good("fake:a")) - len(running.recorder.good("fake:b"))) <= 1
    assert running.recorder.gaps("fake:a") == []
