"""TABLES.md, written from the schema: ``python -m collector.tables_page`` (or ``make metrics``)."""

from pathlib import Path

from collector.store.derived import DERIVED_TABLES
from collector.store.table import Table

PATH = Path(__file__).with_name("TABLES.md")

_HEAD = """# Derived tables

Written from `collector/store/derived.py` by `make metrics`; a test holds the two together. What was measured is in
[METRICS.md](METRICS.md).

A row is found by its key (in bold) and `time` (UTC); a later row with the same key replaces an earlier one. Where rows
are states, `<table>_now` holds the last one of each key. What has no value is null, never 0.
"""


def page() -> str:
    """The whole text of TABLES.md."""
    return _HEAD + "".join(_section(table) for table in DERIVED_TABLES)


def _section(table: Table) -> str:
    states = f" States: `{table.now}` has the last one of each." if table.states else ""
    lines = [f"\n## {table.name}\n", f"{table.help}{states}\n", "| column | type | meaning |", "|---|---|---|"]
    for column in table:
        name = f"**`{column.name}`**" if column.name in table.keys else f"`{column.name}`"
        lines.append(f"| {name} | {column.type} | {column.help.replace('``', '`') or _TIME} |")
    return "\n".join(lines) + "\n"


_TIME = "Start of the window, or the moment from which it was so."


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
