"""A small model, and trials of candidates that keep, lose or win alarms."""

import numpy as np

from analytics.models.comparison import Trial
from analytics.models.versions import Meta

DAY_NS = 86_400 * 1_000_000_000
END_NS = 1_767_225_600 * 1_000_000_000 + 14 * DAY_NS
NAME = "expectation/power_w/NVIDIA H100"


def arrays(number: float = 1.0) -> dict[str, np.ndarray]:
    return {"coefficients": np.array([number, 2.0]), "levels": np.array([5, 50, 95], dtype=np.int32)}


def meta(end_ns: int = END_NS) -> Meta:
    return Meta(
        kind="linear", start_ns=END_NS - 14 * DAY_NS, end_ns=end_ns, rows=20_000, metrics={"mape_ratio": 0.031},
        settings={"columns": ["utilization_ratio", "clock_core_hz"]},
    )  # fmt: skip


def trial(
    *, lost: int = 0, false_alarms: int = 0, found: int = 0, sure: bool = False, events: int = 60, windows: int = 6000
) -> Trial:
    """
    Events of five windows, of which the champion sees all but every sixth and has one false alarm in a hundred.

    The candidate loses or invents so many windows without being *sure*, finds so many, and has none of the champion's
    false alarms, without being sure of it either.
    """
    truth = np.zeros(windows, dtype=np.int8)
    starts = np.arange(events) * (windows // events)
    for offset in range(5):
        truth[starts + offset] = 1
    seen = truth == 1
    missed = np.repeat(starts[::6], 5) + np.tile(np.arange(5), len(starts[::6]))
    seen[missed] = False
    champion = np.where(seen, 0.9, 0.1)
    candidate = champion.copy()
    champion[50::100] = 0.9
    candidate[np.flatnonzero(seen)[:lost]] = 0.0 if sure else 0.4
    candidate[np.flatnonzero(truth == 0)[10 : 10 + false_alarms]] = 0.6
    candidate[missed[:found]] = 0.95
    return Trial(
        series=np.zeros(windows, dtype=np.int32), time_ns=np.arange(windows) * 60_000_000_000, truth=truth,
        champion=champion, candidate=candidate,
    )  # fmt: skip
