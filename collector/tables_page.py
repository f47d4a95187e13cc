"""TABLES.md, written from the schema: ``python -m collector.tables_page`` (or ``make metrics``)."""

from pathlib import Path

from collector.catalogue import Kind
from collector.store.derived import DERIVED_TABLES
from collector.store.schema import ROLLUP_TABLES, STATISTICS
from collector.store.sketch import ACCURACY
from collector.store.table import Table

PATH = Path(__file__).with_name("TABLES.md")

_HEAD = """# Derived tables

Written from `collector/store/derived.py` and `schema.py` by `make metrics`; a test holds them together. What was
measured is in [METRICS.md](METRICS.md).

A row is found by its key (in bold) and `time` (UTC); a later row with the same key replaces an earlier one. Where rows
are states, `<table>_now` holds the last one of each key. What has no value is null, never 0.
"""


def page() -> str:
    """The whole text of TABLES.md."""
    return _HEAD + "".join(map(_section, DERIVED_TABLES)) + "".join(map(_rollups, ROLLUP_TABLES.values())) + _SKETCHES


def _section(table: Table) -> str:
    states = f" States: `{table.now}` has the last one of each." if table.states else ""
    lines = [f"\n## {table.name}\n", f"{table.help}{states}\n", "| column | type | meaning |", "|---|---|---|"]
    for column in table:
        name = f"**`{column.name}`**" if column.name in table.keys else f"`{column.name}`"
        lines.append(f"| {name} | {column.type} | {column.help.replace('``', '`') or _TIME} |")
    return "\n".join(lines) + "\n"


def _rollups(table: Table) -> str:
    """What each of its columns is; those of a metric's statistics are told once for all metrics of a kind."""
    lines = [f"\n## {table.name}\n", f"{table.help}\n", "| column | type | meaning |", "|---|---|---|"]
    for column in table:
        if column.metric is None:
            name = f"**`{column.name}`**" if column.name in table.keys else f"`{column.name}`"
            lines.append(f"| {name} | {column.type} | {column.help or _TIME} |")
    for kind, statistics in STATISTICS.items():
        shown = ", ".join(f"`<metric>_{statistic}_<unit>`" for statistic in statistics)
        lines.append(f"| {shown} | DOUBLE | {_STATISTICS[kind]} |")
    return "\n".join(lines) + "\n"


_STATISTICS = {
    Kind.GAUGE: "Of each gauge: the exact least and greatest reading, and the mean of the readings.",
    Kind.COUNTER: "Of each counter: how much it rose, falls being resets.",
}
_SKETCHES = f"""
A sketch says how many readings lie in each of bins that grow by a constant factor (DDSketch). A quantile of it is off
by {ACCURACY:.0%} of itself at most, whatever was merged, in SQL
`sketch_quantile(power_sketch_w, 0.99)` of a row and `sketch_quantile(flatten(list(power_sketch_w)), 0.99)` of many.
"""
_TIME = "Start of the window, or the moment from which it was so."


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
