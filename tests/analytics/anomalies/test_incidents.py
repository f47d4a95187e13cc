"""Stretches become incidents: once, of the place that they are of, and not flapping."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.anomalies.findings import Stretch
from analytics.anomalies.incidents import build, subjects_of, subjects_text
from analytics.anomalies.places import Place, Places
from analytics.anomalies.rows import frame_of, rows_before, rows_of
from analytics.anomalies.rules import Rule, Rules
from analytics.fleet_toml import parse_fleet
from collector.moments import NS

MINUTE_NS = 60 * NS
START_NS = 1_767_225_600 * NS
DAY_NS = 86_400 * NS

HOT = Rule(
    name="hot", kind="hot", severity="warning", says="it is {value:.0f} °C", action="Cool it.",
    for_ns=10 * MINUTE_NS, quiet_ns=30 * MINUTE_NS, again_ns=240 * MINUTE_NS,
)  # fmt: skip
XID = Rule(
    name="xid", kind="lost", severity="critical", says="XID {codes}", action="Reset it.", quiet_ns=10 * MINUTE_NS
)
ABSENT = Rule(name="absent", kind="lost", severity="warning", says="nothing was read", action="Look.")
ECC = replace(HOT, name="ecc", kind="ecc", says="{count} errors", for_ns=0, widens=False)
MORE = [replace(ABSENT, name=f"more_{n}", says=f"finding {n}") for n in range(3)]
RULES = Rules(rules=(XID, HOT, ABSENT, ECC, *MORE))

FLEET = """
[[site]]
name = "oslo"
[[domain]]
name = "row-a"
kind = "row"
site = "oslo"
[[domain]]
name = "row-b"
kind = "row"
site = "oslo"
""" + "".join(
    f'[[rack]]\nname = "r{n}"\nfeeds = ["row-{"a" if n < 3 else "b"}"]\nhosts = ["h{2 * n}", "h{2 * n + 1}"]\n'
    for n in range(6)
)


def places(fleet: str = FLEET, hosts: int = 12, devices: int = 4) -> Places:
    """Six racks of two hosts of four devices; three racks to each of two rows."""
    return Places({f"h{h}d{d}": f"h{h}" for h in range(hosts) for d in range(devices)}, parse_fleet(fleet))


def stretch(device: str, first: float, last: float, rule: Rule = HOT, **more: Any) -> Stretch:
    """A stretch of minutes from the window's start."""
    told = {"value": 90.0, "count": 1, "codes": "79", "code": "79", **more.pop("says", {})}
    return Stretch(
        rule=rule, scope=more.pop("scope", "device"), name=device, host=device.partition("d")[0],
        start_ns=START_NS + round(first * MINUTE_NS), end_ns=START_NS + round(last * MINUTE_NS),
        windows=max(1, round((last - first) / 5)), says=told, **more,
    )  # fmt: skip


def told(
    stretches: Iterable[Stretch],
    *,
    until: float = 1440,
    before: Sequence[dict[str, Any]] = (),
    start_ns: int = START_NS,
    where: Places | None = None,
) -> list[dict[str, Any]]:
    where = where or places()
    ordered = sorted(stretches, key=lambda one: (one.start_ns, one.rule.name, one.name))
    found = build(ordered, RULES, where, before=before, start_ns=start_ns)
    until_ns = START_NS + round(until * MINUTE_NS)
    rows = rows_of(found, RULES, where, start_ns=start_ns, until_ns=until_ns)
    return sorted(rows, key=lambda row: (row["part_of"] is not None, row["start"], row["name"]))


def brief(rows: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (row["scope"], row["name"], row["state"], minutes(row["start"]), minutes(row["last"]))
        for row in rows
        if row["part_of"] is None
    ]


def minutes(moment_ns: int) -> float:
    return (moment_ns - START_NS) / MINUTE_NS


# ------------------------------------------------------------------------------------------------------------ in time


def test_what_does_not_last_is_none() -> None:
    assert told([stretch("h0d0", 10, 15)]) == []
    assert brief(told([stretch("h0d0", 10, 20)])) == [("device", "h0d0", "resolved", 10, 20)]


def test_short_ones_go_on_with_one_that_lasted() -> None:
    rows = told([stretch("h0d0", 10, 25), stretch("h0d0", 40, 45), stretch("h0d0", 60, 65)], until=70)
    assert brief(rows) == [("device", "h0d0", "open", 10, 65)]
    assert (rows[0]["flaps"], rows[0]["windows"]) == (0, 5)


def test_it_is_open_until_it_has_been_quiet_for_long_enough() -> None:
    one = [stretch("h0d0", 10, 25)]
    assert told(one, until=54)[0]["state"] == "open"
    assert told(one, until=54)[0]["end"] is None
    resolved = told(one, until=55)[0]
    assert (resolved["state"], minutes(resolved["end"])) == ("resolved", 25)
    assert told([replace(one[0], ongoing=True)], until=300)[0]["state"] == "open"


def test_what_comes_back_is_the_same_and_must_stay_away_twice_as_long() -> None:
    twice = [stretch("h0d0", 10, 25), stretch("h0d0", 100, 115)]
    (row,) = told(twice, until=116 + 58)
    assert (row["state"], row["flaps"], minutes(row["start"])) == ("open", 1, 10)
    assert told(twice, until=116 + 60)[0]["state"] == "resolved"
    assert ", back 1 time" in row["evidence"]
    # Within the doubled time it goes on, and has not come back again.
    (row,) = told([*twice, stretch("h0d0", 170, 185)], until=190)
    assert row["flaps"] == 1
    (row,) = told([*twice, stretch("h0d0", 180, 195)], until=200)
    assert row["flaps"] == 2


def test_after_a_long_time_it_is_another_one() -> None:
    rows = told([stretch("h0d0", 10, 25), stretch("h0d0", 300, 320)])
    assert brief(rows) == [("device", "h0d0", "resolved", 10, 25), ("device", "h0d0", "resolved", 300, 320)]
    assert rows[0]["incident"] != rows[1]["incident"]


def test_rules_of_one_kind_make_one_incident_and_the_worst_speaks_first() -> None:
    rows = told([stretch("h0d0", 10, 40, ABSENT), stretch("h0d0", 9, 9, XID)])
    (row,) = rows
    assert (row["kind"], row["severity"], row["rule"], row["action"]) == ("lost", "critical", "xid absent", "Reset it.")
    assert row["evidence"] == ("h0d0 on h0: XID 79; nothing was read, since 2026-01-01 00:09 UTC, for 31 min")
    assert (minutes(row["start"]), minutes(row["last"])) == (9, 40)


def test_kinds_and_devices_are_apart() -> None:
    rows = told([stretch("h0d0", 10, 30), stretch("h0d0", 10, 30, ABSENT), stretch("h2d0", 10, 30)])
    assert [(row["kind"], row["name"]) for row in rows] == [("hot", "h0d0"), ("lost", "h0d0"), ("hot", "h2d0")]
    assert len({row["incident"] for row in rows}) == 3


def test_events_are_counted() -> None:
    rows = told([stretch("h0d0", 10 + n, 10 + n, ECC, says={"count": 5}) for n in range(3)])
    assert rows[0]["evidence"].startswith("h0d0 on h0: 15 errors, since")
    assert rows[0]["windows"] == 3


def test_what_is_unknown_is_said_to_be() -> None:
    rows = told([stretch("h0d0", 10, 30, says={"value": None})])
    assert "it is an unknown number of °C" in rows[0]["evidence"]


# ----------------------------------------------------------------------------------------------------------- in places


def host(name: str, first: float = 10, last: float = 40, devices: int = 4, **more: Any) -> list[Stretch]:
    return [stretch(f"{name}d{d}", first, last, **more) for d in range(devices)]


def test_most_devices_of_a_host_are_the_host() -> None:
    assert brief(told(host("h0", devices=2))) == [
        ("device", "h0d0", "resolved", 10, 40),
        ("device", "h0d1", "resolved", 10, 40),
    ]
    rows = told(host("h0", devices=3))
    assert brief(rows) == [("host", "h0", "resolved", 10, 40)]
    assert rows[0]["evidence"].startswith("3 of 4 devices of host h0: it is 90 °C, since")
    assert (rows[0]["devices"], rows[0]["host"], rows[0]["site"]) == (3, "h0", "oslo")
    assert subjects_of(rows[0]) == [Place("device", f"h0d{d}") for d in range(3)]


def test_most_hosts_of_a_rack_are_the_rack_and_so_on_up_to_the_site() -> None:
    rack = host("h0") + host("h1")
    assert brief(told(rack)) == [("rack", "r0", "resolved", 10, 40)]
    row_a = [one for n in range(4) for one in host(f"h{n}")]
    rows = told(row_a)
    assert brief(rows) == [("domain", "row-a", "resolved", 10, 40)]
    assert rows[0]["evidence"].startswith("2 of 3 racks of power domain row-a: ")
    site = [one for n in (0, 1, 2, 3, 6, 7, 8, 9) for one in host(f"h{n}")]
    rows = told(site)
    assert brief(rows) == [("site", "oslo", "resolved", 10, 40)]
    assert rows[0]["devices"] == 32


def test_two_of_two_power_domains_are_needed_for_a_site() -> None:
    spread = [one for n in (0, 1, 6, 7) for one in host(f"h{n}")]
    assert brief(told(spread)) == [("rack", "r0", "resolved", 10, 40), ("rack", "r3", "resolved", 10, 40)]


def test_not_at_the_same_time_is_not_the_host() -> None:
    apart = [stretch(f"h0d{d}", 10 + 200 * d, 30 + 200 * d) for d in range(4)]
    assert [row["scope"] for row in told(apart)] == ["device"] * 4


def test_some_rules_never_widen() -> None:
    assert [row["scope"] for row in told([stretch(f"h0d{d}", 10, 40, ECC) for d in range(4)])] == ["device"] * 4


def test_the_one_that_began_keeps_its_id_and_those_taken_in_are_resolved() -> None:
    first, second, third = stretch("h0d2", 10, 100), stretch("h0d0", 30, 100), stretch("h0d1", 60, 100)
    (alone,) = told([replace(first, end_ns=START_NS + 25 * MINUTE_NS, ongoing=True)], until=25)
    both = told([first, second], until=50)
    wide, taken = told([first, second, third], until=100)
    assert (wide["scope"], wide["incident"], minutes(wide["start"])) == ("host", alone["incident"], 10)
    assert {row["incident"] for row in both} == {alone["incident"], taken["incident"]}
    # The third was hot for ten minutes at 70; from then on it was most of the host.
    assert (taken["name"], taken["state"], minutes(taken["end"])) == ("h0d0", "resolved", 70)
    assert taken["part_of"] == wide["incident"]
    assert f"; part of {wide['incident']} from then on" in taken["evidence"]


def test_one_that_follows_while_it_lasts_belongs_to_it() -> None:
    rows = told([*host("h0", 10, 60, devices=3), stretch("h0d3", 45, 70)])
    assert brief(rows) == [("host", "h0", "resolved", 10, 70)]
    assert rows[0]["devices"] == 4


def test_one_that_had_it_for_hours_has_a_story_of_its_own() -> None:
    rows = told([stretch("h0d0", 10, 400), *[stretch(f"h0d{d}", 300, 400) for d in (1, 2, 3)]])
    assert brief(rows) == [("device", "h0d0", "resolved", 10, 400), ("host", "h0", "resolved", 300, 400)]
    assert rows[1]["evidence"].startswith("3 of 4 devices of host h0")
    slowly = [stretch(f"h0d{d}", 10 + 50 * d, 400) for d in range(4)]
    assert brief(told(slowly)) == [("host", "h0", "resolved", 10, 400)]


def test_a_host_with_one_device_stands_for_it() -> None:
    where = places(hosts=12, devices=1)
    rows = told([stretch("h0d0", 10, 40), stretch("h1d0", 10, 40)], where=where)
    assert brief(rows) == [("rack", "r0", "resolved", 10, 40)]


def test_without_a_fleet_hosts_are_as_wide_as_it_gets() -> None:
    rows = told([one for n in range(6) for one in host(f"h{n}")], where=places(""))
    assert [row["scope"] for row in rows] == ["host"] * 6
    assert {row["site"] for row in rows} == {None}


def test_of_two_feeds_that_carry_the_same_racks_nobody_can_say_which_it_is() -> None:
    twice = FLEET.replace('"row-a"]', '"row-a", "spare"]') + '[[domain]]\nname = "spare"\nsite = "oslo"\nkind = "row"\n'
    rows = told([one for n in range(4) for one in host(f"h{n}")], where=places(twice))
    assert brief(rows) == [("domain", "row-a + spare", "resolved", 10, 40)]
    both = FLEET.replace('"row-a"]', '"row-a", "all"]').replace('"row-b"]', '"row-b", "all"]')
    both += '[[domain]]\nname = "all"\nsite = "oslo"\nkind = "row"\n'
    rows = told([one for n in range(4) for one in host(f"h{n}")], where=places(both))
    assert brief(rows) == [("domain", "row-a", "resolved", 10, 40)]


# ------------------------------------------------------------------------------------------------- from day to day

NEXT_NS = START_NS + DAY_NS


def again(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the next window gets them: through the table."""
    return rows_before(frame_of(rows).lazy())


def test_an_incident_goes_on_over_midnight() -> None:
    before = again(told([stretch("h0d0", 1400, 1440, ongoing=True)]))
    assert before[0]["state"] == "open"
    # The job looks hours back: what was told before is seen again.
    (row,) = told([stretch("h0d0", 1400, 1500)], before=before, start_ns=NEXT_NS, until=1600)
    assert (row["incident"], minutes(row["start"]), minutes(row["last"])) == (before[0]["incident"], 1400, 1500)
    assert (row["state"], row["time"], row["flaps"]) == ("resolved", NEXT_NS, 0)
    assert row["windows"] == 8 + 12
    assert before[0]["time"] < row["time"]


def test_what_nothing_more_is_heard_of_is_resolved_in_the_next_window() -> None:
    before = again(told([stretch("h0d0", 1400, 1430)]))
    assert before[0]["state"] == "open"
    (row,) = told([], before=before, start_ns=NEXT_NS, until=1500)
    assert (row["state"], minutes(row["end"])) == ("resolved", 1430)
    assert row["evidence"] == "h0d0 on h0: it is 90 °C, since 2026-01-01 23:20 UTC, for 30 min"
    assert (row["severity"], row["action"]) == ("warning", "Cool it.")
    assert told([], before=again([row]), start_ns=NEXT_NS + DAY_NS, until=4000) == []


def test_what_another_rule_finds_later_is_told_beside_what_holds() -> None:
    before = again(told([stretch("h0d0", 1438, 1438, XID)]))
    (row,) = told([stretch("h0d0", 1442, 1460, ABSENT)], before=before, start_ns=NEXT_NS, until=1470)
    assert row["rule"] == "xid absent"
    assert row["evidence"].startswith("h0d0 on h0: XID 79; nothing was read, since")


def test_how_many_more_findings_there_are_is_told() -> None:
    some = [stretch("h0d0", 10 + n, 40, rule) for n, rule in enumerate([XID, ABSENT, *MORE])]
    (row,) = told(some)
    assert row["evidence"].startswith("h0d0 on h0: XID 79; nothing was read; finding 0; and 2 more findings, since")
    (row,) = told(some[:4])
    assert "; finding 0; and 1 more finding, since" in row["evidence"]


def test_what_was_resolved_before_midnight_may_come_back_after_it() -> None:
    before = again(told([stretch("h0d0", 1300, 1320)]))
    assert before[0]["state"] == "resolved"
    (row,) = told([stretch("h0d0", 1445, 1460)], before=before, start_ns=NEXT_NS, until=1470)
    assert (row["incident"], row["state"], row["flaps"]) == (before[0]["incident"], "open", 1)


def test_what_began_before_midnight_and_was_not_yet_told_is_told_then() -> None:
    assert told([stretch("h0d0", 1435, 1440, ongoing=True)]) == []
    (row,) = told([stretch("h0d0", 1435, 1450)], start_ns=NEXT_NS, until=1455)
    assert (minutes(row["start"]), row["time"]) == (1435, NEXT_NS)


def test_what_ended_before_the_window_is_not_told_again() -> None:
    old = stretch("h0d0", 1200, 1230)
    before = again(told([old]))
    assert told([old], before=before, start_ns=NEXT_NS, until=1500) == []


def test_a_wide_one_goes_on_with_any_of_its_places_and_others_of_it_join() -> None:
    before = again(told([one for d in range(3) for one in [stretch(f"h0d{d}", 1400, 1440, ongoing=True)]]))
    assert (before[0]["scope"], before[0]["state"]) == ("host", "open")
    now = [stretch("h0d1", 1400, 1480), stretch("h0d3", 1450, 1470), stretch("h2d0", 1450, 1470)]
    rows = told(now, before=before, start_ns=NEXT_NS, until=1490)
    assert brief(rows) == [("host", "h0", "open", 1400, 1480), ("device", "h2d0", "open", 1450, 1470)]
    assert (rows[0]["incident"], rows[0]["devices"]) == (before[0]["incident"], 4)


def test_one_of_yesterday_grows_into_the_host_of_today() -> None:
    before = again(told([stretch("h0d0", 1400, 1440, ongoing=True)]))
    now = [stretch("h0d0", 1400, 1500), stretch("h0d1", 1450, 1500), stretch("h0d2", 1450, 1500)]
    rows = told(now, before=before, start_ns=NEXT_NS, until=1510)
    assert brief(rows) == [("host", "h0", "open", 1400, 1500)]
    assert rows[0]["incident"] == before[0]["incident"]


def test_an_id_of_today_is_none_of_yesterday() -> None:
    yesterday = told([stretch("h0d0", 10, 30)])
    today = told([stretch("h0d0", 1500, 1520)], before=again(yesterday), start_ns=NEXT_NS, until=1600)
    assert yesterday[0]["incident"] != today[0]["incident"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 280), st.integers(1, 40)),
        min_size=1,
        max_size=14,
    )
)
def test_computed_twice_or_in_any_order_it_is_the_same_and_every_long_stretch_is_in_one(
    drawn: list[tuple[int, int, int, int]],
) -> None:
    stretches = [stretch(f"h{h}d{d}", 5 * at, 5 * (at + long)) for h, d, at, long in drawn]
    rows = told(stretches)
    assert told(list(reversed(stretches))) == rows
    assert len({row["incident"] for row in rows}) == len(rows)
    for one in stretches:
        if one.end_ns - one.start_ns >= HOT.for_ns:
            mine = [
                row
                for row in rows
                if Place("device", one.name) in subjects_of(row)
                and row["start"] <= one.start_ns
                and one.end_ns <= row["last"]
                and row["part_of"] is None
            ]
            assert len(mine) == 1


@pytest.mark.parametrize("name", ["GPU-1", "a b", "x:y", "ü/%"])
def test_the_affected_survive_the_way_into_a_column_and_back(name: str) -> None:
    one = [Place("device", name), Place("host", "h")]
    assert subjects_of({"subjects": subjects_text(one)}) == sorted(one)
