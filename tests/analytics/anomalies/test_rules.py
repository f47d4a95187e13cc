import pytest

from analytics.anomalies.rules import EventRule, MissingRule, Rule, ThresholdRule, parse_rules
from collector.errors import ConfigError
from collector.moments import NS

BUILT_IN = parse_rules()


@pytest.mark.parametrize("rule", BUILT_IN.rules, ids=lambda rule: str(rule.name))
def test_a_built_in_rule_says_what_is_the_case_and_what_to_do(rule: Rule) -> None:
    assert not rule.says.endswith(".")
    assert rule.action.endswith(".")
    assert len(rule.action.split()) >= 3
    assert rule.again_ns >= rule.quiet_ns or rule.again_ns == 0


def test_every_xid_has_one_rule_and_tells_its_number() -> None:
    codes = [code for rule in BUILT_IN.of(EventRule) if rule.event == "xid" for code in rule.codes]
    assert len(codes) == len(set(codes))
    for rule in BUILT_IN.rules:
        if rule.name.startswith("xid_"):
            assert rule.says.startswith(f"XID {rule.name.removeprefix('xid_')}: ")


def test_the_drivers_own_list_of_xids_is_covered() -> None:
    from collector.sources.nvml_events import XIDS

    codes = {code for rule in BUILT_IN.of(EventRule) if rule.event == "xid" for code in rule.codes}
    assert {str(code) for code in XIDS} <= codes
    severities = {next(iter(rule.codes)): rule.severity for rule in BUILT_IN.rules if rule.name.startswith("xid_")}  # type: ignore[attr-defined]
    for code, severity in severities.items():
        if int(code) in XIDS:
            assert XIDS[int(code)][0].value == severity, code


def test_a_users_rule_of_a_known_name_changes_the_keys_that_it_has() -> None:
    changed = parse_rules('[[threshold]]\nname = "hot"\nraise_below = 10\nclear_above = 12\nfor = "1h"\n')
    hot, before = changed.named("hot"), BUILT_IN.named("hot")
    assert isinstance(hot, ThresholdRule)
    assert isinstance(before, ThresholdRule)
    assert (hot.raise_limit, hot.clear_limit, hot.for_ns) == (10.0, 12.0, 3600 * NS)
    assert (hot.values, hot.says, hot.quiet_ns) == (before.values, before.says, before.quiet_ns)
    assert [rule.name for rule in changed.rules] == [rule.name for rule in BUILT_IN.rules]


def test_a_rule_can_be_switched_off_and_a_new_one_added() -> None:
    text = """
[[missing]]
name = "absent"
enabled = false

[[threshold]]
name = "fans_off"
severity = "warning"
value = "fan_speed_mean_ratio"
raise_below = 0.05
says = "its fans stand still ({value:.0%})"
action = "Look at the fans."
"""
    rules = parse_rules(text)
    assert rules.named("absent") is None
    assert not rules.of(MissingRule)
    fans = rules.named("fans_off")
    assert isinstance(fans, ThresholdRule)
    assert (fans.kind, fans.above, fans.raise_limit, fans.clear_limit) == ("fans_off", False, 0.05, 0.05)


NEW = 'severity = "warning"\nsays = "it is"\naction = "Do it."\n'


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('[[rule]]\nname = "x"', "rule", "known: event, headroom, missing, score, stalled, threshold, xid"),
        ("x = = 1", "rules.toml", "is not TOML"),
        ('[[score]]\nname = "heat_disagrees"\nwindow = "2h"', "score[0].window", "5m, 1h"),
        ('[[threshold]]\nname = "hot"\nraise_above = 3', "threshold[0].raise_above", "and raise_below are both there"),
        (f'[[threshold]]\nname = "x"\nvalue = "power_max_w"\n{NEW}', "threshold[0].raise_above", "is missing"),
        (f'[[threshold]]\nname = "x"\nraise_above = 1\n{NEW}', "threshold[0].value", "is missing"),
        (
            f'[[threshold]]\nname = "x"\nvalue = "temprature_max_c"\nraise_above = 1\n{NEW}',
            "threshold[0].value",
            "no column of numbers of device_rollups; there are temperature_max_c",
        ),
        (
            f'[[threshold]]\nname = "x"\nvalue = "power_max_w * 2"\nraise_above = 1\n{NEW}',
            "threshold[0].value",
            "write a column, 'a / b' or 'a - b'",
        ),
        (
            '[[threshold]]\nname = "throttle_thermal"\nclear_below = 0.5',
            "threshold[0].clear_below",
            "is 0.5, above 0.2, where it begins",
        ),
        (
            '[[threshold]]\nname = "throttle_thermal"\nclear_above = 0.5',
            "threshold[0].clear_above",
            "does not go with raise_above",
        ),
        ('[[threshold]]\nname = "hot"\nfor = "7h"', "threshold[0].for", "longer than the most of 6 h"),
        ('[[threshold]]\nname = "hot"\nfor = "soon"', "threshold[0].for", "write 90s, 15m"),
        ('[[threshold]]\nname = "hot"\nsays = "{volts} V"', "threshold[0].says", "has {volts}; there are {value}"),
        ('[[threshold]]\nname = "hot"\nsays = "{value.real}"', "threshold[0].says", "has {value.real}"),
        ('[[threshold]]\nname = "hot"\nsays = "{value:q}"', "threshold[0].says", "format code"),
        ('[[threshold]]\nname = "hot"\nsays = "{value"', "threshold[0].says", "expected '}'"),
        ('[[xid]]\ncode = 79\nseverity = "fatal"', "xid[0].severity", "not one of critical, warning, info"),
        ('[[xid]]\ncode = "79"', "xid[0].code", "not a whole number"),
        ("[[xid]]\ncode = 79\n[[xid]]\ncode = 79", "xid[1].name", "as another rule's"),
        ('[[event]]\nname = "hot"', "event[0].name", "which is a [[threshold]]"),
        (f'[[event]]\nname = "x"\n{NEW}', "event[0].event", "is missing"),
        ('[[event]]\nname = "device_gone"\ncolour = 1', "event[0].colour", "is not a key"),
        ('[[missing]]\nname = "absent"\nafter = "1m"', "missing[0].after", "shorter than the least of 300 s"),
        ('[[missing]]\nname = "absent"\nenabled = "no"', "missing[0].enabled", "not true or false"),
        (
            '[[headroom]]\nname = "overload"\nvalue = "lod_w"',
            "headroom[0].value",
            "no column of numbers of headroom; there are load_w",
        ),
        ('[[headroom]]\nname = "overload"\nsays = "{power}"', "headroom[0].says", "has {power}; there are {value}"),
        ('[[score]]\nname = "power_high"\np_below = 2', "score[0].p_below", "above the most of 1"),
        ('[[score]]\nname = "power_high"\nwaste = "some"', "score[0].waste", "not one of all, excess, slow"),
        (f'[[score]]\nname = "x"\nmetric = "power_w"\np_below = 0.1\n{NEW}', "score[0].side", "is missing"),
        ('[[event]]\nname = "x"\nevent = "y"\nsays = "z"\naction = "a."', "event[0].severity", "is missing"),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_limit(text: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(text, path="site/rules.toml")
    assert caught.value.key == key
    assert str(caught.value).startswith(f"site/rules.toml: {key}: ")
    assert message in str(caught.value)
