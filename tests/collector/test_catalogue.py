import ast
import pickle
import re
from pathlib import Path

import pytest

from collector import catalogue
from collector.catalogue import CATALOGUE, ENERGY, POWER, UTILIZATION, Kind, Metric, Scope, metric_of, metrics
from collector.metrics_page import PATH, page
from collector.store.schema import SAMPLE_TABLES, TABLES
from collector.units import UNITS

ROOT = Path(__file__).parents[2]
every_metric = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: f"{metric.scope.value}.{metric.column}")


@every_metric
def test_a_metric_has_one_spelling_on_every_surface(metric: Metric) -> None:
    assert metric_of(metric.scope, metric.column) is metric
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.column)
    assert metric.column.endswith(metric.unit.suffix)
    assert re.fullmatch(rf"{metric.scope.prefix}_[a-z0-9_]+", metric.prometheus)
    assert metric.prometheus.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.unit.prometheus in metric.prometheus
    assert metric.unit in UNITS
    assert metric.unit.symbol in metric.title
    assert metric.help.endswith(".")
    if metric.scope is not Scope.AGENT:
        column = next(column for column in SAMPLE_TABLES[metric.scope] if column.name == metric.column)
        assert column.metric is metric
    assert f"| `{metric.column}` |" in PATH.read_text(encoding="utf-8")


@every_metric
def test_a_metric_survives_the_way_between_processes(metric: Metric) -> None:
    assert pickle.loads(pickle.dumps(metric)) is metric


def test_columns_are_unique_in_their_table() -> None:
    for table in TABLES.values():
        assert len(set(table.names)) == len(table.names)


def test_series_are_unique_in_prometheus() -> None:
    series = [(metric.prometheus, metric.labels) for metric in CATALOGUE]
    assert len(set(series)) == len(series)


def test_a_prometheus_family_has_one_kind_and_one_set_of_labels() -> None:
    seen: dict[str, tuple[Kind, tuple[str, ...]]] = {}
    for metric in CATALOGUE:
        shape = (metric.kind, tuple(name for name, _ in metric.labels))
        assert seen.setdefault(metric.prometheus, shape) == shape, metric


def test_every_metric_in_the_module_is_in_the_catalogue() -> None:
    tree = ast.parse(Path(catalogue.__file__).read_text(encoding="utf-8"))
    constants = [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and node.target.id.isupper()]
    declared = [getattr(catalogue, name) for name in constants if isinstance(getattr(catalogue, name), Metric)]
    assert tuple(declared) == CATALOGUE


def test_the_metrics_page_is_current() -> None:
    assert PATH.read_text(encoding="utf-8") == page(), "run `make metrics`"


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (POWER, -1.0),
        (POWER, float("nan")),
        (POWER, 9223372036854775794.0),
        (POWER, 2147483632.0),
        (POWER, 140737488355328.0),
        (UTILIZATION, 57.0),
        (ENERGY, float("inf")),
    ],
)
def test_sentinels_and_unit_errors_are_not_plausible(metric: Metric, value: float) -> None:
    assert not metric.plausible(value)


def test_zero_is_a_measurement() -> None:
    assert POWER.plausible(0.0)


def test_each_scope_has_metrics() -> None:
    assert sum(len(metrics(scope)) for scope in Scope) == len(CATALOGUE)
    assert all(metrics(scope) for scope in Scope)
