"""plan.toml: read strictly, for a fleet."""

from datetime import date
from pathlib import Path

import pytest

from analytics.fleet_toml import parse_fleet
from analytics.planning.request import parse_plan
from collector.errors import ConfigError

FLEET = parse_fleet(
    '[[site]]\nname = "s"\n'
    '[[sku]]\nname = "X"\nflop_per_s = 2e12\n[sku.server]\naccelerators = 8\n'
    '[[sku]]\nname = "bare"\n'
)
PLAN = """
start = 2027-01-01
periods = 3
budget = [1, 2, 3]
[[demand]]
name = "d"
sku = "x"
amount = [4, 0, 2]
"""


def test_amounts_add_up_and_nothing_comes_after_the_last() -> None:
    request = parse_plan(PLAN.replace("[4, 0, 2]", "[4, 2]"), FLEET)
    (demand,) = request.demands
    assert (demand.needed, demand.skus, request.budget) == ((4.0, 6.0, 6.0), ("X",), (1.0, 2.0, 3.0))
    assert (request.start, request.begin(1).date()) == (date(2027, 1, 1), date(2027, 1, 31))


def test_a_server_brings_what_the_unit_asks_for() -> None:
    sku = FLEET.sku("X")
    assert sku is not None

    def supply(rest: str) -> float:
        return parse_plan(PLAN + rest, FLEET).demands[0].supply(sku)

    assert supply("") == 1.0
    assert supply('unit = "accelerators"') == 8.0
    assert supply('unit = "flop_per_s"') == 16e12
    assert supply('unit = "tokens_per_s"\n[demand.per_server]\nX = 25e3') == 25e3


def test_a_lead_time_is_over_in_the_period_that_begins_after_it() -> None:
    request = parse_plan(PLAN, FLEET)
    assert [request.first_period(days) for days in (0, 1, 30, 31, 60)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("start = 3 =\n", "plan.toml", "is not TOML"),
        ("periods = 3\n", "start", "is missing"),
        ("start = 2027-01-01\n", "demand", "is missing"),
        (PLAN.replace("2027-01-01", '"soon"'), "start", "not a date"),
        (PLAN.replace("periods = 3", "periods = 0"), "periods", "below the least of 1"),
        (PLAN.replace("[1, 2, 3]", "[1, 2]"), "budget", "has 2 numbers, and there are 3 periods"),
        (PLAN.replace("[1, 2, 3]", "[1, 2, -3]"), "budget", "below the least of 0"),
        (PLAN.replace("budget =", "power = 'mean'\nbudget ="), "power", "not one of peak, nameplate"),
        (PLAN.replace("budget =", "budget_carries = 1\nbudget ="), "budget_carries", "not true or false"),
        (PLAN.replace("budget =", "sites = ['t']\nbudget ="), "sites", "'t', which no"),
        (PLAN.replace("budget =", "colour = 1\nbudget ="), "colour", "is not a key"),
        (PLAN.replace('"x"', '"Y"'), "demand[0].sku", "'Y', which no"),
        (PLAN.replace('"x"', '"bare"'), "demand[0].sku", "has no .sku.server"),
        (PLAN.replace("[4, 0, 2]", "[4, 0, 2, 1]"), "demand[0].amount", "has 4 numbers, and there are 3 periods"),
        (PLAN.replace("[4, 0, 2]", "[4, -1]"), "demand[0].amount", "no amount is below 0"),
        (PLAN + 'unit = "tokens"', "demand[0].per_server", "is missing"),
        (PLAN + "[demand.per_server]\nX = 1", "demand[0].per_server", "is beside the unit servers"),
        (PLAN + '[[demand]]\nname = "d"\nsku = "X"\namount = [1]', "demand[1].name", r"as demand\[0\]"),
    ],
)
def test_a_wrong_plan_names_file_key_value_and_limit(text: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failed:
        parse_plan(text, FLEET, path=Path("plan.toml"))
    assert failed.value.key == key
    assert str(failed.value).startswith("plan.toml: ")
