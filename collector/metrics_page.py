"""METRICS.md, written from the catalogue: ``python -m collector.metrics_page`` (or ``make metrics``)."""

from pathlib import Path

from collector.catalogue import Metric, Scope, metrics
from collector.store.schema import SAMPLE_TABLES

PATH = Path(__file__).with_name("METRICS.md")

_HEAD = """# Metrics

Written from `collector/catalogue.py` by `make metrics`; a test holds the two together.

The column is the name in the store, in the unit that ends it. A metric that was not measured is absent: null in the
store, no series in Prometheus. Counters are cumulative as the hardware or the engine gives them and may reset.
"""

_TITLES = {
    Scope.DEVICE: "Devices",
    Scope.HOST: "Hosts",
    Scope.WORKLOAD: "Workloads",
    Scope.FACILITY: "Facilities",
    Scope.AGENT: "perfwatt itself",
}


def page() -> str:
    """The whole text of METRICS.md."""
    return _HEAD + "".join(_section(scope) for scope in Scope)


def _section(scope: Scope) -> str:
    table = SAMPLE_TABLES.get(scope)
    where = f"Table `{table.name}`." if table else "Exported to Prometheus only."
    lines = [f"\n## {_TITLES[scope]}\n", f"{where}\n", "| column | unit | kind | Prometheus | meaning |"]
    lines.append("|---|---|---|---|---|")
    lines += [_row(metric) for metric in metrics(scope)]
    return "\n".join(lines) + "\n"


def _row(metric: Metric) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in metric.labels)
    series = f"{metric.prometheus}{{{labels}}}" if labels else metric.prometheus
    unit = metric.unit.symbol or "1"
    return f"| `{metric.column}` | {unit} | {metric.kind.value} | `{series}` | {metric.help} |"


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
