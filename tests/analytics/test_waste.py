"""Waste by cause and the funnel add up to the ledger, in time, energy and money, and every row says what to do."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analytics.cost import priced, rates
from analytics.fleet_toml import parse_fleet
from analytics.inventory import device_types
from analytics.waste import funnel, over_windows, placed, waste

START = datetime(2026, 3, 1)
FLEET = parse_fleet(
    """
[[site]]
name = "dub"
hosts = ["dub-*"]
currency = "EUR"
price_per_kwh = 0.25

[[site]]
name = "phx"
hosts = ["phx-*"]

[[sku]]
model = "X"
capex = 8760
currency = "EUR"
discount_ratio = 0
life_years = 1
"""
)
HOUR_J = 3.6e6
"""A kWh."""
ENDS = {"energy_j": 1.0, "energy_low_j": 0.95, "energy_high_j": 1.05}


def line(cause: str, hours: float, kwh: float | None, **more: Any) -> dict[str, Any]:
    """A line of the ledger: of the device d of dub-1, held by w unless it is told otherwise."""
    told = {
        "cause": cause, "reason": None, "device": "d", "host": "dub-1", "workload": "w", "name": None, "user": "ada",
        "team": "ml", "span_s": hours * 3600, "covered_s": 0.0 if kwh is None else hours * 3600,
        **{name: None if kwh is None else kwh * HOUR_J * end for name, end in ENDS.items()},
        "modelled_j": 0.0, "judged_s": 0.0, "window": START,
    }  # fmt: skip
    return {**told, **more}


FREE = {"workload": None, "user": None, "team": None}
LINES = [
    line("useful", 5, 3.0, judged_s=5 * 3600),
    line("throttled", 1, 0.5, reason="thermal", judged_s=3600),
    line("underused", 2, 0.5),
    line("idle", 2, 0.25, device="e", host="phx-1"),
    line("unallocated", 6, 0.6, **FREE),
    line("failed", 4, None, reason="lost", device="f", **FREE),
]


def frame(*lines: dict[str, Any]) -> pl.LazyFrame:
    text = ("cause", "reason", "device", "host", "workload", "name", "user", "team")
    return pl.LazyFrame(
        list(lines),
        schema_overrides={
            **dict.fromkeys(text, pl.String()),
            **dict.fromkeys(ENDS, pl.Float64()),
            "window": pl.Datetime("ns"),
        },
    )


def devices() -> pl.LazyFrame:
    return pl.LazyFrame({"device": ["d", "e", "f"], "model": ["X", "Y", "X"], "time": [START] * 3})


def costs(*lines: dict[str, Any]) -> pl.LazyFrame:
    told = placed(frame(*lines), hosts={"dub-1": "dub", "phx-1": "phx"}, types=device_types(devices(), FLEET))
    return priced(told, rates(FLEET, [START]), devices(), FLEET)


def rows(found: pl.LazyFrame, *keys: str) -> dict[Any, dict[str, Any]]:
    return {
        tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]: row for row in found.collect().to_dicts()
    }


def test_waste_by_cause_adds_up_and_puts_the_dearest_first_and_what_was_useful_last() -> None:
    found = waste(frame(*LINES)).collect()
    assert found["cause"].to_list() == ["unallocated", "underused", "throttled", "idle", "failed", "useful"]
    assert found["device_h"].sum() == pytest.approx(20.0)
    assert found["time_ratio"].sum() == pytest.approx(1.0)
    assert found["energy_j"].sum() == pytest.approx(4.85 * HOUR_J)
    assert found.filter(pl.col("cause") == "failed")["energy_j"].item() is None
    assert "currency" not in found.columns


def test_with_prices_a_row_costs_its_energy_and_its_device_hours() -> None:
    found = rows(waste(costs(*LINES)), "cause")
    assert list(found) == ["unallocated", "failed", "underused", "throttled", "idle", "useful"]
    free = found["unallocated"]
    assert (free["energy_cost"], free["fixed_cost"]) == pytest.approx((0.6 * 0.25, 6.0))
    assert (free["cost"], free["cost_basis"], free["currency"]) == (pytest.approx(6.15), "energy+devices", "EUR")
    # What draws nothing still costs its hours, and what has no price costs nobody knows what.
    assert (found["failed"]["cost"], found["failed"]["cost_basis"]) == (pytest.approx(4.0), "devices")
    assert (found["idle"]["cost"], found["idle"]["cost_basis"], found["idle"]["currency"]) == (None, None, None)


def test_a_sum_of_which_a_part_has_no_price_has_none() -> None:
    more = [line("idle", 1, 0.1), line("idle", 1, 0.1, device="e", host="dub-1")]
    (row,) = waste(costs(*more)).collect().to_dicts()
    assert (row["energy_cost"], row["fixed_cost"]) == (pytest.approx(0.05), None)
    assert (row["cost"], row["cost_basis"]) == (pytest.approx(0.05), "energy")


@pytest.mark.parametrize("per", ["workload", "user", "team", "host", "sku", "site", "fleet"])
def test_waste_of_anybody_adds_up_to_the_whole(per: Any) -> None:
    found = waste(costs(*LINES), per=per).collect()
    assert found.columns[:3] == [per, "cause", "reason"]
    assert found["device_h"].sum() == pytest.approx(20.0)
    assert found["energy_j"].sum() == pytest.approx(4.85 * HOUR_J)
    assert found.group_by(per).agg(pl.col("time_ratio").sum())["time_ratio"].to_list() == pytest.approx(
        [1.0] * found[per].n_unique()
    )


@pytest.mark.parametrize("per", ["cause", "workload", "team", "host", "sku", "site", "fleet"])
def test_windows_summed_first_change_nothing(per: Any) -> None:
    """Also where of some windows no energy, no interval or no price is known."""
    later = START + timedelta(hours=1)
    more = [{**one, "window": later} for one in LINES]
    more += [
        line("useful", 1, None, window=later), line("idle", 1, 0.2, window=later, energy_low_j=None, energy_high_j=None)
    ]  # fmt: skip
    lines = costs(*LINES, *more).collect()
    fewer = over_windows(lines.lazy()).collect()
    assert fewer.height < lines.height
    assert "window" not in fewer.columns
    for some in (lines, lines.drop("currency", "energy_cost", "energy_cost_low", "energy_cost_high", "fixed_cost")):
        summed = over_windows(some.lazy())
        assert_frame_equal(waste(summed, per=per).collect(), waste(some.lazy(), per=per).collect())
        of = "fleet" if per == "cause" else per
        assert_frame_equal(
            funnel(summed, length_s=7200.0, per=of).collect().sort(pl.all()),
            funnel(some.lazy(), length_s=7200.0, per=of).collect().sort(pl.all()),
        )


def test_every_row_of_waste_is_a_number_and_what_to_change() -> None:
    found = rows(waste(frame(*LINES)), "cause")
    assert found["idle"]["advice"] == (
        "2.0 device-hours (10.0 %) held without a kernel running: end jobs when they are done (--time), ask for fewer "
        "devices (--gpus, nvidia.com/gpu)."
    )
    assert found["useful"]["advice"] is None
    assert all(row["advice"] for cause, row in found.items() if cause != "useful")


def test_every_cause_and_reason_has_its_advice() -> None:
    from analytics.ledger import CAUSES, FAILURES
    from analytics.signals import REASONS

    reasons = {"failed": FAILURES, "stalled": ("input", "network"), "throttled": REASONS}
    lines = [line(cause, 1, 1, reason=reason) for cause in CAUSES for reason in reasons.get(cause, (None,))]
    found = waste(frame(*lines)).collect()
    assert found.height == len(lines)
    assert found.filter(pl.col("advice").is_null())["cause"].to_list() == ["useful"]


def test_the_funnel_loses_at_each_step_what_the_next_has_less() -> None:
    found = rows(funnel(placed(frame(*LINES)), length_s=2 * 3600), "step")
    assert list(found) == ["total", "allocated", "active", "effective"]
    assert [row["device_h"] for row in found.values()] == pytest.approx([20.0, 10.0, 8.0, 6.0])
    assert [row["devices"] for row in found.values()] == pytest.approx([10.0, 5.0, 4.0, 3.0])
    assert [row["ratio"] for row in found.values()] == pytest.approx([1.0, 0.5, 0.4, 0.3])
    assert [row["energy_j"] / HOUR_J for row in found.values()] == pytest.approx([4.85, 4.25, 4.0, 3.5])
    assert [row["power_mean_w"] for row in found.values()] == pytest.approx([2425.0, 2125.0, 2000.0, 1750.0])
    assert [row["lost_device_h"] for row in found.values()] == [None, *(pytest.approx(n) for n in (10.0, 2.0, 2.0))]
    assert found["total"]["covered_ratio"] == pytest.approx(16 / 20)
    assert found["active"]["judged_ratio"] == pytest.approx(6 / 8)
    for before, after in zip(list(found.values()), list(found.values())[1:], strict=False):
        for lost, of in (
            ("lost_device_h", "device_h"),
            ("lost_energy_j", "energy_j"),
            ("lost_power_w", "power_mean_w"),
        ):
            assert after[of] + after[lost] == pytest.approx(before[of], rel=1e-12)


def test_the_funnel_of_a_site_has_its_money() -> None:
    found = rows(funnel(costs(*LINES), length_s=3600, per="site"), "site", "step")
    assert [found["dub", step]["cost"] for step in ("total", "allocated", "effective")] == pytest.approx(
        [18 + 4.6 * 0.25, 8 + 4.0 * 0.25, 6 + 3.5 * 0.25]
    )
    assert found["dub", "active"]["lost_cost"] == pytest.approx(0.0)
    assert found["phx", "total"]["cost"] is None


def test_what_failed_takes_hours_and_no_joules() -> None:
    lines = [line("useful", 1, 1.0), line("failed", 1, None, reason="lost", **FREE)]
    found = rows(funnel(placed(frame(*lines)), length_s=3600), "step")
    assert (found["allocated"]["lost_device_h"], found["allocated"]["lost_energy_j"]) == pytest.approx((1.0, 0.0))


def test_an_unmeasured_or_failed_device_that_is_held_is_allocated_but_not_active() -> None:
    lines = [line("unmeasured", 1, None), line("failed", 1, None, reason="xid"), line("useful", 1, 1.0)]
    found = rows(funnel(placed(frame(*lines)), length_s=3600), "step")
    assert [row["device_h"] for row in found.values()] == pytest.approx([3.0, 3.0, 1.0, 1.0])


def test_energy_of_which_a_part_has_no_price_has_no_cost() -> None:
    later = START + timedelta(days=40)
    known = rates(FLEET, [START])
    told = placed(
        frame(line("idle", 1, 0.5), line("idle", 1, 0.5, window=later)),
        hosts={"dub-1": "dub"}, types=device_types(devices(), FLEET),
    )  # fmt: skip
    (row,) = waste(priced(told, known, devices(), FLEET)).collect().to_dicts()
    assert (row["energy_cost"], row["energy_cost_high"]) == (None, None)
    assert (row["cost"], row["cost_basis"]) == (pytest.approx(2.0), "devices")


def test_boards_are_off_independently_of_each_other() -> None:
    lines = [line("idle", 1, 3.0), line("idle", 1, 4.0, device="e")]
    (row,) = waste(frame(*lines)).collect().to_dicts()
    assert row["energy_high_j"] - row["energy_j"] == pytest.approx(0.05 * 5.0 * HOUR_J)
    (row,) = waste(frame(line("idle", 1, 3.0), line("idle", 1, 4.0))).collect().to_dicts()
    assert row["energy_high_j"] - row["energy_j"] == pytest.approx(0.05 * 7.0 * HOUR_J)
