"""The series that show an incident, for each sort of rule."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analytics.anomalies.evidence import Evidence, evidence
from analytics.anomalies.rules import parse_rules
from analytics.frames import schema
from collector.moments import NS
from collector.store.derived import ANOMALY_SCORES, HEADROOM
from collector.store.schema import DEVICE_ROLLUPS, EVENTS, WORKLOAD_ROLLUPS

START = datetime(2026, 3, 4, 10, 0)
START_NS = int((START - datetime(1970, 1, 1)).total_seconds()) * NS
END_NS = START_NS + 3600 * NS


def rows(table: Any, *told: dict[str, Any]) -> pl.LazyFrame:
    return pl.DataFrame(list(told), schema=schema(table)).lazy()


def window(number: int, **values: Any) -> dict[str, Any]:
    time = START + timedelta(minutes=5 * number)
    return {
        "device": "GPU-1",
        "source": "test",
        "time": time,
        "window_s": 300,
        "rows": 60,
        "covered_s": 300.0,
        **values,
    }


def found(rule: str, subject: str = "device:GPU-1", **tables: pl.LazyFrame) -> list[Evidence]:
    return found_and_not(rule, subject, **tables)[0]


def found_and_not(
    rule: str, subject: str = "device:GPU-1", **tables: pl.LazyFrame
) -> tuple[list[Evidence], dict[str, str]]:
    row = {"rule": rule, "name": "GPU-1", "subjects": subject}
    empty = {
        "rollups": DEVICE_ROLLUPS, "workload_rollups": WORKLOAD_ROLLUPS, "events": EVENTS,
        "anomaly_scores": ANOMALY_SCORES, "headroom": HEADROOM,
    }  # fmt: skip
    types = pl.LazyFrame({"device": ["GPU-1"], "tdp_w": [700.0]})
    given = {name: tables.get(name, rows(table)) for name, table in empty.items()}
    return evidence(row, parse_rules(), **given, types=types, start_ns=START_NS, end_ns=END_NS)


def test_a_threshold_is_shown_by_the_first_of_its_values_that_was_measured() -> None:
    windows = rows(DEVICE_ROLLUPS, window(0, power_limit_mean_w=700.0), window(1, power_limit_mean_w=350.0))
    (one,) = found("power_capped", rollups=windows)
    assert one.title == "Power limit over TDP"
    assert one.series["value"].to_list() == [1.0, 0.5]
    assert one.limits == {"limit": 0.95, "clear": 0.98}


def test_where_nothing_was_read_there_are_no_readings_rather_than_no_value() -> None:
    (one,) = found("absent", rollups=rows(DEVICE_ROLLUPS, window(0), window(1), window(5)))
    assert one.counted
    assert one.series["value"].to_list() == [60, 60, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0]


def test_events_are_counted_by_window_and_code() -> None:
    def xid(minute: int, code: str, device: str = "GPU-1") -> dict[str, Any]:
        return {"host": "n1", "device": device, "kind": "xid", "code": code, "time": START + timedelta(minutes=minute)}

    happened = rows(EVENTS, xid(1, "94"), xid(2, "94"), xid(11, "94"), xid(3, "48"), xid(4, "94", "GPU-2"))
    (one,) = found("xid_94", events=happened)
    assert one.series["value"].to_list() == [2, 0, 1, *[0] * 9]
    assert one.title == "Events xid 94 in five minutes"


def test_a_score_is_shown_with_what_was_expected() -> None:
    score = {
        "subject": "GPU-1", "time": START, "window_s": 300, "detector": "peers", "metric": "power_w", "observed": 500.0,
        "expected_low": 380.0, "expected_mid": 400.0, "expected_high": 420.0, "p_value": 0.0001,
    }  # fmt: skip
    other = {**score, "metric": "tokens_per_s"}
    (one,) = found("power_high", anomaly_scores=rows(ANOMALY_SCORES, score, other))
    assert one.series.row(0) == ("GPU-1", START, 500.0, 380.0, 400.0, 420.0)
    assert (one.step_ns, one.title, one.limits) == (300 * NS, "Power (W)", {})


@pytest.mark.parametrize(("rule", "value"), [("overload_on_failure", -500.0), ("runway_short", 30.0)])
def test_a_node_is_shown_by_its_headroom_and_its_days(rule: str, value: float) -> None:
    node = {"node": "GPU-1", "time": START, "headroom_w": -500.0, "runway_p50": START + timedelta(days=30)}
    (one,) = found(rule, headroom=rows(HEADROOM, node))
    assert one.series["value"].to_list() == [value]


def test_what_is_not_kept_any_more_and_rules_that_are_gone_show_nothing() -> None:
    assert found("throttle_thermal a_rule_that_is_gone xid_94 power_high overload") == []


def test_a_stall_is_shown_by_what_the_workload_made() -> None:
    told = [
        {"workload": "train-1", "source": "s", "time": START + timedelta(minutes=5 * n), "window_s": 300,
         "covered_s": 300.0, "steps_increase": steps}
        for n, steps in enumerate([30.0, 30.0, 0.0])
    ]  # fmt: skip
    (one,) = found("stalled", "workload:train-1", workload_rollups=rows(WORKLOAD_ROLLUPS, *told))
    assert one.title == "Steps per second"
    assert one.series["value"].to_list() == [0.1, 0.1, 0.0]


def test_scores_of_hours_are_shown_to_a_rule_of_hours_alone() -> None:
    common = {
        "subject": "GPU-1", "time": START, "detector": "peers", "metric": "resistance_c_per_w", "expected_mid": 0.1,
    }  # fmt: skip
    scores = rows(
        ANOMALY_SCORES, {**common, "window_s": 300, "observed": 0.3}, {**common, "window_s": 3600, "observed": 0.08}
    )
    (hours,), (minutes,) = (found(name, anomaly_scores=scores) for name in ("heat_disagrees", "cooling_weak"))
    assert (hours.series["value"].to_list(), hours.step_ns) == ([0.08], 3600 * NS)
    assert minutes.series["value"].to_list() == [0.3]
    assert minutes.title == "Warming by each watt (°C/W)"


def test_a_rule_of_which_there_is_nothing_to_show_is_named_with_the_reason() -> None:
    shown, without = found_and_not("hot gone_since absent", rollups=rows(DEVICE_ROLLUPS, window(0)))
    assert [one.rule for one in shown] == ["absent"]
    assert without == {
        "hot": "what it looked at is no longer in the store",
        "gone_since": "there is no such rule any more, or it is not enabled",
    }
