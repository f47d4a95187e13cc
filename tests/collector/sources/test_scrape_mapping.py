"""The mapping tables as data: every line means something, and a wrong line is named."""

import re
from pathlib import Path

import pytest

from collector.catalogue import CATALOGUE, HOST_CPU_POWER, POWER, Kind, Metric, Scope
from collector.errors import ConfigError
from collector.sources.scrape_mapping import _RULE_KEYS, _TABLE_KEYS, TABLES, Rule, Table, choose, load_table, tables
from collector.sources.scrape_series import Reader

RULES = [(table, rule) for table in tables() for rules in table.rules.values() for rule in rules]


def test_every_exporter_has_its_table() -> None:
    assert {table.name for table in tables()} == {
        *("dcgm", "all_smi", "amd", "omnistat", "neuron", "gaudi", "xpumd", "xpum", "nvidia_gpu_exporter", "nvitop"),
        *("jobstats", "node_rapl", "kepler", "ceems", "scaphandre", "triton", "vllm", "sglang", "tgi", "tpu"),
        "perfwatt",
    }


@pytest.mark.parametrize(("table", "rule"), RULES, ids=lambda one: one.name)
def test_every_rule_is_for_a_metric_of_the_catalogue_or_says_why_not(table: Table, rule: Rule) -> None:
    if rule.drop:
        assert rule.metric is None
        assert len(rule.drop) > 10
        return
    metrics = [rule.metric] if rule.metric else [metric for _, metric in rule.bits]
    assert metrics or rule.info or rule.must is not None
    for metric in metrics:
        assert metric in CATALOGUE
        assert metric.scope in {Scope.DEVICE, Scope.HOST, Scope.WORKLOAD} or table.name == "perfwatt"
    if rule.metric is POWER:
        assert rule.power_scope


# What the last words of a vendor's name say of its unit, whatever the vendor.
@pytest.mark.parametrize(
    ("ending", "unit", "scale"),
    [
        (r"_milliwatts$|_mW$", "w", 1e-3),
        (r"_microwatts$", "w", 1e-6),
        (r"_microjoules$", "j", 1e-6),
        (r"(?i)_mhz$", "hz", 1e6),
        (r"_MiB$", "bytes", 1048576),
        (r"_MiBps$", "bytes_per_s", 1048576),
        (r"_bytes$", "bytes", 1),
        (r"_(percent|percentage|Percentage)$", "ratio", 0.01),
        (r"_duration_us$", "s", 1e-6),
        (r"_(joules_total|joules)$", "j", 1),
        (r"(?i)_celsius$|_C$", "c", 1),
    ],
)
def test_a_unit_in_the_name_is_the_unit_of_the_rule(ending: str, unit: str, scale: float) -> None:
    found = [rule for _, rule in RULES if re.search(ending, rule.name) and rule.metric]
    assert found
    for rule in found:
        assert rule.metric is not None
        assert (rule.metric.unit.suffix, rule.scale) == (unit, scale), rule.name


def test_a_ratio_is_never_a_percentage() -> None:
    for table, rule in RULES:
        if rule.metric and rule.metric.unit.suffix == "ratio":
            percent = rule.scale == 0.01
            assert percent or rule.scale == 1.0, rule.name
            # Named a ratio, and in percent: only DCGM's new names for its old percent fields.
            assert not (percent and rule.name.endswith("_ratio")), f"{table.name}: {rule.name}"


def test_a_gauge_is_never_added_up_where_copies_of_it_exist() -> None:
    added = {rule.name for _, rule in RULES if rule.merging in {"sum", "total"} and rule.scope is Scope.DEVICE}
    assert all(metric_kind(name) is Kind.COUNTER or "memory" in name for name in added)


def metric_kind(name: str) -> Kind:
    return next(rule.metric.kind for _, rule in RULES if rule.name == name and rule.metric is not None)


def test_the_readme_tells_every_key() -> None:
    text = (TABLES / "README.md").read_text(encoding="utf-8")
    for key in (_RULE_KEYS | _TABLE_KEYS) - {"metrics", "labels"}:
        assert f"`{key}" in text or f"[{key}]" in text, key


def test_a_name_belongs_to_one_exporter_only() -> None:
    owners: dict[str, set[str]] = {}
    for table, rule in RULES:
        owners.setdefault(rule.name, set()).add(table.name)
    assert {name: who for name, who in owners.items() if len(who) > 1} == {}


def test_a_mapping_of_ones_own_is_used_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(
        'name = "rig"\ndetect = ["rig_*"]\nvendor = "Acme"\n[labels]\nid = "chip"\n'
        '[metrics]\nrig_milliwatts = { to = "power_w", scale = 1e-3, method = "instant" }\n'
        'rig_cpu_watts = { to = "host.cpu_power_w" }\n[drop]\n"rig_*" = "nobody needs it"\n'
    )
    reader = Reader(choose(["vllm", str(path)]), source="scrape:x", host="h", instance="h:1")
    reading = reader.read(b'rig_milliwatts{chip="c9"} 1500\nrig_cpu_watts 70\nrig_colour 3\n', time_ns=1)
    assert [(s.subject, s.values) for s in reading.samples] == [("c9", {POWER: 1.5}), ("h", {HOST_CPU_POWER: 70.0})]
    assert reading.devices[0].vendor == "Acme"
    assert reader.dropped == {"rig_colour": "nobody needs it"}


HEAD = 'name = "x"\ndetect = ["x_*"]\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("name = ", "mapping"),
        ('name = "x"\n', "detect"),
        (HEAD, "metrics"),
        (HEAD + "colour = 1\n[metrics]\n", "colour"),
        (HEAD + 'blanks = "nan"\n[metrics]\n', "blanks"),
        (HEAD + '[labels]\nuuid = "x"\n[metrics]\n', "labels.uuid"),
        (HEAD + '[metrics]\nx_a = { to = "powr_w" }\n', "metrics.x_a.to"),
        (HEAD + '[metrics]\nx_a = { to = "rack.power_w" }\n', "metrics.x_a.to"),
        (HEAD + "[metrics]\nx_a = { scale = 2 }\n", "metrics.x_a"),
        (HEAD + '[metrics]\nx_a = { to = "power_w", factor = 2 }\n', "metrics.x_a.factor"),
        (HEAD + '[metrics]\nx_a = { to = "power_w", merge = "median" }\n', "metrics.x_a.merge"),
        (HEAD + '[metrics]\nx_a = { to = "power_w", when = { l = ["a", "!b"] } }\n', "metrics.x_a.when.l"),
    ],
)
def test_a_wrong_line_of_a_mapping_is_named_with_its_file(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.toml") as caught:
        load_table(path)
    assert caught.value.key == key


def test_a_mapping_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"[Nn]o such file"):
        choose("/no/such/table.toml")
    with pytest.raises(ConfigError, match="dcgm"):
        choose("dgcm")


def test_a_condition_with_an_exclamation_mark_means_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(HEAD + '[metrics]\nx_a = { to = "host.cpu_power_w", when = { kind = ["!mmio*", "!psys"] } }\n')
    reader = Reader(choose(str(path)), source="s", host="h", instance="h:1")
    reading = reader.read(b'x_a{kind="mmio-0"} 1\nx_a{kind="psys"} 2\nx_a{kind="package"} 3\n', time_ns=1)
    found: list[dict[Metric, float]] = [dict(sample.values) for sample in reading.samples]
    assert found == [{HOST_CPU_POWER: 3.0}]
