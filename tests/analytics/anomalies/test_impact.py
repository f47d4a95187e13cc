"""What an incident costs, against numbers worked out by hand."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from analytics.anomalies.findings import Stretch
from analytics.anomalies.impact import impacts, with_impacts
from analytics.anomalies.incidents import Incident
from analytics.anomalies.places import Place, Places
from analytics.anomalies.rules import Rule, Rules
from analytics.fleet_toml import parse_fleet
from analytics.frames import schema
from collector.moments import NS
from collector.store.derived import DEVICE_ENERGY, EFFICIENCY, JOB_ENERGY
from collector.store.schema import FACILITY_SAMPLES

START_NS = 1_767_225_600 * NS
MINUTE_NS = 60 * NS
QUARTER_NS = 15 * MINUTE_NS
UNTIL_NS = START_NS + 24 * 60 * MINUTE_NS
FLEET = '[[site]]\nname = "oslo"\nhosts = ["h"]\npue = 1.5\ncurrency = "NOK"\nprice_per_kwh = 2.0\n'


def frame(rows: Sequence[dict[str, Any]], table: Any) -> pl.LazyFrame:
    wanted = schema(table)
    times = [name for name, kind in wanted.items() if isinstance(kind, pl.Datetime)]
    physical = pl.Schema({name: pl.Int64() if name in times else kind for name, kind in wanted.items()})
    return pl.DataFrame(list(rows), schema=physical).with_columns(pl.col(times).cast(pl.Datetime("ns"))).lazy()


def quarter(at: int) -> dict[str, Any]:
    return {"time": START_NS + at * QUARTER_NS, "window_s": 900}


def cost(
    waste: str,
    first: float,
    last: float,
    *,
    devices: Sequence[str] = ("a",),
    energy: Sequence[dict[str, Any]] = (),
    held: Sequence[dict[str, Any]] = (),
    work: Sequence[dict[str, Any]] = (),
    fleet: str = FLEET,
    **more: Any,
) -> dict[str, Any]:
    rule = Rule(name="r", kind="r", severity="warning", says="x", action="y.", waste=waste)  # type: ignore[arg-type]
    stretches = [
        Stretch(
            rule=rule, scope="device", name=name, host="h", start_ns=START_NS + round(first * MINUTE_NS),
            end_ns=START_NS + round(last * MINUTE_NS), **more,
        )
        for name in devices
    ]  # fmt: skip
    one = Incident(
        id="i", kind="r", place=Place("device", "a"), host="h", start_ns=stretches[0].start_ns,
        last_ns=stretches[0].end_ns, stretches=stretches, members={Place("device", name) for name in devices},
    )  # fmt: skip
    found = impacts(
        [one], Rules(rules=(rule,)), Places(dict.fromkeys("abc", "h"), parse_fleet(fleet)), parse_fleet(fleet),
        device_energy=frame(energy, DEVICE_ENERGY), job_energy=frame(held, JOB_ENERGY),
        efficiency=frame(work, EFFICIENCY), facility_samples=frame([], FACILITY_SAMPLES),
        start_ns=START_NS, until_ns=UNTIL_NS,
    )  # fmt: skip
    (row,) = found.iter_rows(named=True)
    return row


def test_all_energy_of_the_affected_counts_by_the_time_within() -> None:
    energy = [{"device": name, **quarter(at), "energy_j": 3.6e6} for name in "ab" for at in range(4)]
    # From 7.5 to 30 minutes: half of the first quarter, all of the second; two devices.
    row = cost("all", 7.5, 30, devices="ab", energy=energy)
    assert row["wasted_j"] == pytest.approx(2 * 1.5 * 3.6e6)
    assert row["wasted_cost"] == pytest.approx(3.0 * 1.5 * 2.0)
    assert (row["currency"], row["lost_tokens"], row["workload"]) == ("NOK", None, None)


def test_what_was_beyond_the_expected_counts_where_it_is_known() -> None:
    row = cost("excess", 10, 40, excess=7.2e6)
    assert row["wasted_j"] == pytest.approx(7.2e6)
    assert row["wasted_cost"] == pytest.approx(2.0 * 1.5 * 2.0)
    assert cost("excess", 10, 40, excess=-5.0)["wasted_j"] == 0.0
    assert cost("excess", 10, 40)["wasted_j"] is None


HELD = [{"device": "a", **quarter(at), "kind": "used", "workload": "w"} for at in range(20)]


def rate(at: int, tokens_per_s: float | None) -> dict[str, Any]:
    return {"workload": "w", **quarter(at), "tokens_per_s": tokens_per_s, "energy_j": 8e6}


def test_a_workload_is_as_far_behind_as_its_rate_is_below_its_own_before() -> None:
    work = [rate(at, 1000.0) for at in range(8)] + [rate(8, 250.0), rate(9, 500.0), rate(10, 1000.0)]
    row = cost("slow", 120, 165, held=HELD, work=work)
    assert row["lost_tokens"] == pytest.approx((750 + 500) * 900)
    assert row["wasted_j"] == pytest.approx(8e6 * (0.75 + 0.5))
    assert row["workload"] == "w"
    # On two affected devices it suffers once.
    both = HELD + [{**one, "device": "b"} for one in HELD]
    assert cost("slow", 120, 165, devices="ab", held=both, work=work)["lost_tokens"] == row["lost_tokens"]


def test_without_enough_before_it_nothing_is_known_of_what_was_lost() -> None:
    work = [rate(at, 1000.0) for at in range(7)] + [rate(8, 250.0)]
    row = cost("slow", 120, 135, held=HELD, work=work)
    assert (row["lost_tokens"], row["wasted_j"], row["wasted_cost"]) == (None, None, None)


def test_a_workload_that_makes_no_tokens_has_lost_none() -> None:
    row = cost("slow", 120, 135, held=HELD, work=[rate(at, None) for at in range(9)])
    assert (row["lost_tokens"], row["wasted_j"]) == (None, None)


def test_without_a_price_there_is_no_cost() -> None:
    energy = [{"device": "a", **quarter(0), "energy_j": 3.6e6}]
    row = cost("all", 0, 15, energy=energy, fleet='[[site]]\nname = "oslo"\nhosts = ["h"]\n')
    assert (row["wasted_j"], row["wasted_cost"], row["currency"]) == (3.6e6, None, None)


ROW = {"incident": "i"}
DAY = {"incident": "i", "wasted_j": 5.0, "wasted_cost": 1.0, "currency": "NOK", "lost_tokens": None, "workload": None}


def summed(now: dict[str, Any] | None, before: dict[str, Any] | None) -> tuple[Any, ...]:
    found = pl.DataFrame([now] if now else [], schema={name: pl.Float64() for name in ()} if not now else None)
    (row,) = with_impacts([ROW], found, [before] if before else [])
    return tuple(row[name] for name in ("wasted_j", "wasted_cost", "currency", "lost_tokens"))


def test_days_add_up_and_what_is_priced_of_one_day_only_has_no_cost() -> None:
    assert summed({**DAY, "lost_tokens": 7.0}, DAY) == (10.0, 2.0, "NOK", 7.0)
    assert summed(None, DAY) == (5.0, 1.0, "NOK", None)
    assert summed(None, None) == (None, None, None, None)
    assert summed({**DAY, "wasted_cost": None, "currency": None}, DAY) == (10.0, None, None, None)
    assert summed({**DAY, "currency": "EUR"}, DAY) == (10.0, None, None, None)
