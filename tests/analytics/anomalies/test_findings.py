"""Stretches by rule: thresholds with hysteresis, events, absences, scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from analytics.anomalies.findings import (
    STEP_NS,
    Standing,
    Stretch,
    events,
    missing,
    overloads,
    scores,
    stalled,
    thresholds,
    value_of,
    windows_of,
)
from analytics.anomalies.rules import (
    EventRule,
    HeadroomRule,
    MissingRule,
    ScoreRule,
    StalledRule,
    ThresholdRule,
    Value,
    parse_rules,
)
from analytics.frames import schema
from collector.moments import NS
from collector.store.derived import ANOMALY_SCORES, HEADROOM
from collector.store.schema import DEVICE_ROLLUPS, EVENTS, WORKLOAD_ROLLUPS

START_NS = 1_767_225_600 * NS
MINUTE_NS = 60 * NS
DAY_NS = 86_400 * NS


Row = dict[str, Any]


def frame(rows: Sequence[Mapping[str, Any]], table: Any) -> pl.LazyFrame:
    wanted = schema(table)
    times = [name for name, kind in wanted.items() if isinstance(kind, pl.Datetime)]
    physical = pl.Schema({name: pl.Int64() if name in times else kind for name, kind in wanted.items()})
    return pl.DataFrame(list(rows), schema=physical).with_columns(pl.col(times).cast(pl.Datetime("ns"))).lazy()


def rollups(
    device: str, column: str, values: Sequence[float | None], first: int = 0, **more: Any
) -> list[dict[str, Any]]:
    """Windows of five minutes with one value each; None is a window without the value, NaN no window at all."""
    rows = []
    for at, value in enumerate(values, first):
        if value is None or value == value:
            row = {"device": device, "host": "h1", "source": "s", "window_s": 300, "rows": 30, "covered_s": 300.0}
            rows.append({**row, "time": START_NS + at * STEP_NS, column: value, **more})
    return rows


def windows(*rows: Sequence[dict[str, Any]]) -> pl.LazyFrame:
    told = windows_of(frame([row for some in rows for row in some], DEVICE_ROLLUPS))
    return told.with_columns(tdp_w=pl.lit(None, pl.Float64))


def threshold(**keys: Any) -> ThresholdRule:
    told = {
        "values": (Value(left="temperature_max_c"),), "above": True, "raise_limit": 80.0, "clear_limit": 70.0, **keys
    }  # fmt: skip
    return ThresholdRule(name="t", kind="t", severity="warning", says="{value}", action="Do.", **told)


def spans(found: Sequence[Stretch]) -> list[tuple[str, float, float]]:
    return [(one.name, (one.start_ns - START_NS) / MINUTE_NS, (one.end_ns - START_NS) / MINUTE_NS) for one in found]


UNTIL_NS = START_NS + DAY_NS


def test_a_threshold_holds_from_the_one_limit_to_the_other() -> None:
    told = windows(rollups("a", "temperature_max_c", [60, 75, 85, 75, 72, 69, 75, 79, 81, 60]))
    assert spans(thresholds(told, [threshold()], UNTIL_NS)) == [("a", 10, 25), ("a", 40, 45)]
    assert spans(thresholds(told, [threshold(clear_limit=80.0)], UNTIL_NS)) == [("a", 10, 15), ("a", 40, 45)]
    below = threshold(above=False, raise_limit=70.0, clear_limit=76.0)
    assert spans(thresholds(told, [below], UNTIL_NS)) == [("a", 0, 10), ("a", 25, 35), ("a", 45, 50)]


def test_on_the_limit_is_not_beyond_it() -> None:
    told = windows(rollups("a", "ecc_uncorrected_increase", [0, 0, 1, 0]))
    rule = threshold(values=(Value(left="ecc_uncorrected_increase"),), raise_limit=0.0, clear_limit=0.0)
    assert spans(thresholds(told, [rule], UNTIL_NS)) == [("a", 10, 15)]


def test_a_window_that_was_not_measured_does_not_end_it_and_hours_do() -> None:
    gap = [85.0, 85.0, None, 85.0, float("nan"), 85.0, *[float("nan")] * 6, 75.0, 85.0]
    told = windows(rollups("a", "temperature_max_c", gap))
    assert spans(thresholds(told, [threshold()], UNTIL_NS)) == [("a", 0, 30), ("a", 65, 70)]


def test_devices_are_told_apart_and_of_two_sources_the_fuller_counts() -> None:
    poor = rollups("b", "temperature_max_c", [99, 99], source="poor", rows=3)
    told = windows(rollups("b", "temperature_max_c", [60, 60]), poor, rollups("a", "temperature_max_c", [85, 85]))
    assert spans(thresholds(told, [threshold()], UNTIL_NS)) == [("a", 0, 10)]


def test_what_reaches_to_the_end_goes_on() -> None:
    told = windows(rollups("a", "temperature_max_c", [60, 85, 85]), rollups("b", "temperature_max_c", [85, 60, 60]))
    on, over = thresholds(told, [threshold()], START_NS + 13 * MINUTE_NS)
    assert (on.name, on.ongoing, on.end_ns) == ("a", True, START_NS + 13 * MINUTE_NS)
    assert (over.name, over.ongoing) == ("b", False)


def test_the_worst_window_is_told_with_what_was_measured_then() -> None:
    rows = rollups("a", "temperature_max_c", [81, 95, 83])
    for row, watts in zip(rows, [500.0, 300.0, 700.0], strict=True):
        row["power_mean_w"] = watts
    (one,) = thresholds(windows(rows), [threshold(shows=("power_mean_w",))], UNTIL_NS)
    assert one.says["value"] == one.observed == 95
    assert one.says["power_mean_w"] == 300.0
    assert (one.says["sum"], one.windows, one.expected) == (259, 3, (None, None, 80.0))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((Value(left="power_max_w"),), 300.0),
        ((Value(left="energy_increase_j", sign="/", right="covered_s"),), 2.0),
        ((Value(left="power_max_w", sign="-", right="power_min_w"),), 100.0),
        ((Value(left="temperature_max_c"), Value(left="power_min_w")), 200.0),
        ((Value(left="energy_increase_j", sign="/", right="rows"),), None),
        # Through a gap a counter of seconds went on: no share of what was covered is above all of it.
        ((Value(left="throttle_thermal_increase_s", sign="/", right="covered_s"),), 1.0),
    ],
)
def test_a_value_is_a_column_a_share_a_difference_or_the_first_that_was_measured(value: Any, expected: Any) -> None:
    row = {
        "power_max_w": 300.0, "power_min_w": 200.0, "energy_increase_j": 600.0, "covered_s": 300.0, "rows": 0,
        "temperature_max_c": None, "throttle_thermal_increase_s": 2100.0,
    }  # fmt: skip
    told = pl.DataFrame([row], schema_overrides={"temperature_max_c": pl.Float64})
    assert told.select(value_of(value)).item() == expected


# -------------------------------------------------------------------------------------------------------------- events


def event(minute: float, kind: str, device: str | None = "a", code: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "time": START_NS + round(minute * MINUTE_NS), "kind": kind, "host": "h1", "device": device, "code": code,
        "source": "s", **more,
    }  # fmt: skip


def found(rows: Sequence[dict[str, Any]], standing: Sequence[Standing] = ()) -> list[Stretch]:
    rules = parse_rules().of(EventRule)
    return events(frame(rows, EVENTS), rules, START_NS + 60 * MINUTE_NS, standing)


def test_an_xid_is_known_by_its_code_and_a_storm_is_counted() -> None:
    told = found([event(0.1 * n, "xid", code="94") for n in range(1, 40)] + [event(20, "xid", code="79")])
    assert [(one.rule.name, one.says["count"]) for one in told] == [("xid_94", 39), ("xid_79", 1)]
    assert told[0].rule.kind == "memory_errors"


def test_a_code_that_no_rule_has_is_told_all_the_same_and_a_programs_fault_is_no_alarm() -> None:
    told = found([event(1, "xid", code="999"), event(2, "xid", code="13"), event(3, "driver_changed")])
    assert [(one.rule.name, one.rule.severity, one.says["codes"]) for one in told] == [
        ("unknown_xids", "warning", "999"),
        ("program_faults", "info", "13"),
    ]


def test_an_event_that_another_ends_lasts_until_then_or_goes_on() -> None:
    rows = [event(5, "device_gone"), event(25, "device_back"), event(30, "device_gone", device="b")]
    told = found(rows)
    assert spans(told) == [("a", 5, 25), ("b", 30, 60)]
    assert [one.ongoing for one in told] == [False, True]


def test_a_source_that_comes_back_is_not_another_one() -> None:
    rows = [
        event(5, "source_lost", device=None, code="timeout", source="nvml:GPU-1"),
        event(10, "source_lost", device=None, code="timeout", source="nvml:GPU-2"),
        event(20, "source_back", device=None, source="nvml:GPU-2"),
    ]
    told = found(rows)
    assert sorted(spans(told)) == [("h1", 5, 60), ("h1", 10, 20)]
    assert {one.scope for one in told} == {"host"}


def test_what_was_left_open_before_goes_on_until_it_is_ended() -> None:
    since_ns = START_NS - 30 * MINUTE_NS
    gone = Standing(
        rules=frozenset({"device_gone"}), scope="device", name="a", host="h1", start_ns=since_ns, last_ns=since_ns
    )
    left = [gone, replace(gone, name="b")]
    told = found([event(10, "device_back")], left)
    assert sorted(spans(told)) == [("a", -30, 10), ("b", -30, 60)]
    assert {one.name: one.ongoing for one in told} == {"a": False, "b": True}


# ------------------------------------------------------------------------------------------------------------- absence


def absent(told: pl.LazyFrame, minutes: float, *, now: float | None = None, **more: Any) -> list[Stretch]:
    (rule,) = parse_rules().of(MissingRule)
    until_ns = START_NS + round(minutes * MINUTE_NS)
    now_ns = until_ns if now is None else START_NS + round(now * MINUTE_NS)
    return missing(told, more.pop("partitions", ()), rule, until_ns, now_ns, more.pop("standing", ()))


def power(device: str, minutes: range, **more: Any) -> list[dict[str, Any]]:
    return [
        row
        for first in (minutes.start // 5,)
        for row in rollups(device, "power_max_w", [300.0] * (len(minutes) // 5), first, **more)
    ]


def test_a_device_of_which_nothing_comes_is_missing_until_it_is_read_again() -> None:
    told = windows(
        power("a", range(0, 60)), power("b", range(0, 20)), power("b", range(40, 60)), power("c", range(0, 30))
    )
    found = absent(told, 60)
    assert spans(found) == [("b", 20, 40), ("c", 30, 60)]
    assert [one.ongoing for one in found] == [False, True]


def test_a_short_gap_is_none() -> None:
    told = windows(power("a", range(0, 60)), power("b", range(0, 20)), power("b", range(25, 60)))
    assert absent(told, 60) == []
    assert spans(absent(windows(power("a", range(0, 60)), power("b", range(0, 55))), 60)) == []


def test_a_partition_an_import_and_a_recording_that_is_over_are_not_missing() -> None:
    told = windows(power("a", range(0, 120)), power("mig", range(0, 20)), power("old", range(0, 20), source="import:x"))
    assert absent(told, 120, partitions={"mig"}) == []
    everything = windows(power("a", range(0, 20)), power("b", range(0, 60)))
    assert spans(absent(everything, 1440, now=5 * 1440)) == [("a", 20, 60)]
    assert spans(absent(everything, 120)) == [("a", 20, 120), ("b", 60, 120)]


def away(days: int) -> Standing:
    since_ns = START_NS - days * DAY_NS
    return Standing(
        rules=frozenset({"absent"}), scope="device", name="z", host="h1", start_ns=since_ns, last_ns=since_ns
    )


def test_one_that_is_missing_for_days_stays_missing() -> None:
    left = [away(2)]
    told = windows(power("a", range(0, 60)))
    (one,) = absent(told, 60, standing=left)
    assert (one.name, one.start_ns, one.ongoing) == ("z", START_NS - 2 * DAY_NS, True)
    back = windows(power("a", range(0, 60)), power("z", range(30, 60)))
    (one,) = absent(back, 60, standing=left)
    assert (one.end_ns, one.ongoing) == (START_NS + 30 * MINUTE_NS, False)


def test_one_that_stays_away_counts_as_removed_in_the_end() -> None:
    assert absent(windows(power("a", range(0, 60))), 60, standing=[away(4)]) == []


# ------------------------------------------------------------------------------------------------------------- stalled


def made(column: str, values: Sequence[float], workload: str = "w", **more: Any) -> list[dict[str, Any]]:
    """Windows of a workload with what it made in each."""
    common = {"workload": workload, "source": "s", "host": "h1", "window_s": 300, "covered_s": 300.0, **more}
    return [{**common, "time": START_NS + at * STEP_NS, column: value} for at, value in enumerate(values)]


def stalls(*rows: Sequence[dict[str, Any]], **more: Any) -> list[Stretch]:
    (rule,) = parse_rules().of(StalledRule)
    return stalled(frame([row for some in rows for row in some], WORKLOAD_ROLLUPS), rule, UNTIL_NS, **more)


def test_what_made_steps_and_makes_none_is_stalled_until_it_goes_on() -> None:
    (one,) = stalls(made("steps_increase", [60, 60, 30, 0, 0, 0, 0, 60, 60]))
    assert spans([one]) == [("w", 15, 35)]
    assert (one.scope, one.ongoing, one.windows, one.observed) == ("workload", False, 4, 0.0)
    assert one.rule.says.format_map(one.says) == "it makes no steps any more, after 0.2 a second"


def test_what_has_not_made_anything_yet_is_loading() -> None:
    assert stalls(made("steps_increase", [0] * 20)) == []
    before = Standing(rules=frozenset({"stalled"}), scope="workload", name="w", host="h1", start_ns=0, last_ns=0)
    assert len(stalls(made("steps_increase", [0] * 20), standing=[before])) == 1


def test_a_service_that_nobody_asks_is_idle_and_one_that_lets_requests_wait_is_stalled() -> None:
    tokens = [900, 900, 0, 0, 0, 0]
    assert stalls(made("tokens_out_increase", tokens, requests_increase=0.0, queue_length_max=0.0)) == []
    (one,) = stalls(made("tokens_out_increase", tokens, requests_increase=0.0, queue_length_max=37.0))
    assert one.rule.says.format_map(one.says) == (
        "it makes no tokens any more, after 3 a second, and 37 requests wait or run"
    )


def test_a_workload_that_is_hardly_measured_or_counts_nothing_is_not_judged() -> None:
    assert stalls(made("steps_increase", [60, 60, 0, 0, 0, 0], covered_s=100.0)) == []
    assert stalls(made("cache_used_mean_ratio", [0.5, 0.5, 0, 0, 0, 0])) == []


def test_several_hosts_of_a_workload_go_on_together() -> None:
    one, other = ([60, 60, 60, 60, 60], [60, 0, 0, 0, 0])
    assert stalls(made("steps_increase", one), made("steps_increase", other, source="t")) == []


# -------------------------------------------------------------------------------------------------------------- scores


def score(at: int, observed: float, p: float, subject: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "subject": subject, "time": START_NS + at * STEP_NS, "window_s": 300, "scope": "device", "host": "h1",
        "detector": "peers", "metric": "power_w", "observed": observed, "expected_mid": 500.0, "expected_low": 480.0,
        "expected_high": 520.0, "p_value": p, "score": observed - 500.0, **more,
    }  # fmt: skip


def odd(rows: Sequence[dict[str, Any]]) -> list[Stretch]:
    return scores(frame(rows, ANOMALY_SCORES), parse_rules().of(ScoreRule), UNTIL_NS)


def test_windows_that_are_odd_enough_to_one_side_are_a_stretch() -> None:
    rows = [score(n, 600.0, 1e-4) for n in range(3)] + [score(n, 400.0, 1e-4) for n in range(3, 5)]
    high, low = odd(rows)
    assert (high.rule.name, low.rule.name) == ("power_high", "power_low")
    assert spans([high, low]) == [("a", 0, 15), ("a", 15, 25)]
    assert (high.observed, high.expected, high.p_value) == (600.0, (480.0, 500.0, 520.0), 1e-4)
    assert high.excess == pytest.approx(3 * 100.0 * 300)


def test_windows_between_odd_ones_do_not_count_as_time_for_which_it_was_odd() -> None:
    """Half an hour is wanted: six windows that follow one another, or six with others between."""
    whole = [score(n, 600.0, 1e-4) for n in range(8)]
    assert [one.enough_ns for one in odd(whole)] == [START_NS + 30 * MINUTE_NS]
    (five,) = odd([score(n, 600.0, 1e-4) for n in (0, 2, 4, 6, 8)])
    assert (five.windows, five.enough_ns, spans([five])) == (5, None, [("a", 0, 45)])
    (six,) = odd([score(n, 600.0, 1e-4) for n in (0, 2, 4, 6, 8, 9)])
    assert six.enough_ns == START_NS + 50 * MINUTE_NS


def test_what_is_not_odd_enough_is_none() -> None:
    assert odd([score(n, 600.0, 0.01) for n in range(9)]) == []


def test_a_deviation_within_what_boards_differ_by_is_none_however_odd() -> None:
    # A gain is off by up to 5 %, and boards move by up to 7 % from job to job: 7 % more watts prove nothing.
    assert odd([score(n, 535.0, 1e-9) for n in range(9)]) == []
    assert len(odd([score(n, 541.0, 1e-9) for n in range(9)])) == 1


def test_a_few_watts_of_a_board_that_idles_are_none_however_odd() -> None:
    assert odd([score(n, 62.0, 1e-9, expected_mid=80.0) for n in range(9)]) == []
    assert len(odd([score(n, 59.0, 1e-9, expected_mid=80.0) for n in range(9)])) == 1


def test_a_rule_judges_windows_of_its_own_length() -> None:
    creeps = {"metric": "resistance_c_per_w", "expected_mid": 0.1}
    hours = [score(12 * n, 0.09, 1e-4, window_s=3600, **creeps) for n in range(3)]
    (one,) = odd([*hours, *(score(n, 0.09, 1e-4, **creeps) for n in range(36))])
    assert (one.rule.name, one.windows) == ("heat_disagrees", 3)
    assert spans([one]) == [("a", 0, 180)]


def test_another_metric_and_another_subject_are_apart() -> None:
    rows = [
        score(0, 600, 1e-4),
        score(1, 600, 1e-4, subject="b"),
        score(1, 90, 1e-4, metric="temperature_c", expected_mid=60.0),
    ]
    assert [(one.name, one.rule.name) for one in odd(rows)] == [
        ("a", "power_high"),
        ("b", "power_high"),
        ("a", "temperature_high"),
    ]


# ------------------------------------------------------------------------------------------------------------ capacity


def node(at_h: float, headroom_w: float | None, name: str = "row-a", kind: str = "row", **more: Any) -> Row:
    return {
        "node": name, "time": START_NS + round(at_h * 60 * MINUTE_NS), "kind": kind, "safe_w": 1000.0,
        "derated_w": 1250.0, "load_w": 800.0, "failure_load_w": None if headroom_w is None else 1000.0 - headroom_w,
        "headroom_w": headroom_w, "worst_failure": "ups-b", **more,
    }  # fmt: skip


def short(rows: Sequence[Row], hours: float = 24) -> list[tuple[str, str, str, float, float, bool]]:
    until_ns = START_NS + round(hours * 60 * MINUTE_NS)
    told = overloads(frame(rows, HEADROOM), parse_rules().of(HeadroomRule), until_ns)
    return [
        (one.rule.name, one.scope, one.name, *spans([one])[0][1:], one.ongoing) for one in told
    ]  # fmt: skip


def test_a_node_is_short_from_the_row_that_says_so_to_the_next_that_does_not() -> None:
    rows = [node(0, 200.0), node(6, -50.0), node(12, -10.0), node(18, 100.0)]
    assert short(rows) == [
        ("overload_on_failure", "domain", "row-a", 360, 1080, False),
        ("headroom_short", "domain", "row-a", 360, 1080, False),
    ]
    assert short(rows, hours=15) == [
        ("overload_on_failure", "domain", "row-a", 360, 900, True),
        ("headroom_short", "domain", "row-a", 360, 900, True),
    ]


def test_what_is_not_known_of_a_node_raises_nothing_and_a_rack_is_a_rack() -> None:
    assert short([node(0, None), node(6, None)]) == []
    told = short([node(0, -5.0, name="r1", kind="rack"), node(0, 500.0, name="oslo", kind="site")])
    assert {(scope, name) for _, scope, name, *_ in told} == {("rack", "r1")}


def test_runway_and_orders_are_told_in_days_from_their_row() -> None:
    soon = {"runway_p50": START_NS + 40 * DAY_NS, "order_by": START_NS - 3 * DAY_NS, "binding": "power"}
    told = overloads(frame([node(0, 500.0, **soon)], HEADROOM), parse_rules().of(HeadroomRule), UNTIL_NS)
    assert {one.rule.name: one.says["value"] for one in told} == {"runway_short": 40.0, "order_due": -3.0}
    assert told[1].rule.says.format(**told[1].says).endswith("should have been ordered 3 days ago")
    later = {"runway_p50": START_NS + 400 * DAY_NS, "order_by": START_NS + 30 * DAY_NS}
    assert short([node(0, 500.0, **later)]) == []


def test_what_runs_out_above_is_told_there_and_not_of_all_that_hang_on_it() -> None:
    soon = {"runway_p50": START_NS + 40 * DAY_NS, "order_by": START_NS - 3 * DAY_NS, "binding": "power of ups-a"}
    assert short([node(0, 500.0, **soon)]) == []
