"""
The types that a segment stores its columns in: chosen from its own values, so that none is damaged.

Telemetry is decimal: a sensor gives milliwatts, whole percents, multiples of a step. As an integer of such steps with
delta encoding a value takes half the bytes of a double, which hides the step in 52 noisy bits. A column is therefore
stored as the decimal with the fewest digits in which every value is exact, else rounded to its metric's resolution
where it has one, else as doubles. Time is stored in the coarsest unit in which every value is exact.
"""

import math
from collections.abc import Sequence
from typing import Any

from collector.store.engine import Engine
from collector.store.sql import quoted
from collector.store.table import Column, Table

_DIGITS = (0, 1, 2, 3, 4, 6)
# The digits of some rows are looked at first, and those found then proven on all rows.
_PROBED_ROWS = 20_000
# A double holds every integer below 2**53; beyond, an integer would pretend to digits that were never measured.
_EXACT = 2**53


def packed_columns(engine: Engine, table: Table, source: str, rows: int, keep: Sequence[str] = ()) -> list[str]:
    """
    The columns of *source* that hold a value, as expressions in the types to store them in.

    *source* has *rows* rows and columns of *table*; *keep* are columns that are known to hold values.
    """
    stored = {name for name, *_ in engine.run(f"DESCRIBE SELECT * FROM {source}")}
    columns = [column for column in table if column.name in stored]
    measured = [column for column in columns if column.type == "DOUBLE"]
    probe = (
        source
        if rows <= 2 * _PROBED_ROWS
        else f"(SELECT * FROM {source} USING SAMPLE {100 * _PROBED_ROWS / rows}% (system))"
    )
    found = _exactness(engine, measured, probe)
    digits_of = {column.name: _fewest(column, found) for column in measured}

    proofs = {("time", unit): f"bool_and(epoch_ns(time) % {unit} = 0)" for unit in (1_000_000, 1_000)}
    for column in columns:
        name, digits = quoted(column.name), digits_of.get(column.name)
        if column in measured:
            proofs[column.name, -1] = f"max(abs({name}::DOUBLE))"
            if digits is not None and probe is not source:
                proofs[column.name, digits] = _exact(column, digits)
        elif column.name != "time" and column.name not in (*table.keys, *keep):
            proofs[column.name, -1] = f"count({name})"
    proven = _one_row(engine, proofs, source)

    # What a sample of the rows promised and the rest did not keep is looked at in full; that is rare.
    broken = [column for column in measured if proven.get((column.name, digits_of[column.name] or 0)) is False]
    if broken:
        found = _exactness(engine, broken, source)
        digits_of.update({column.name: _fewest(column, found) for column in broken})

    chosen = []
    for column in columns:
        largest = proven.get((column.name, -1))
        if column in measured:
            if largest is not None or column.name in table.keys:
                chosen.append(_as(column, stored_type(column, digits_of[column.name], float(largest or 0.0))))
        elif column.name == "time":
            exact = [word for unit, word in ((1_000_000, "TIMESTAMP_MS"), (1_000, "TIMESTAMP")) if proven["time", unit]]
            chosen.append(_as(column, exact[0] if exact else column.type))
        elif largest is None or largest:
            chosen.append(_as(column, column.type))
    return chosen


def candidates(column: Column) -> list[int]:
    """Numbers of digits that a column may be stored in, the fewest first; none finer than its metric's resolution."""
    finest = resolution_digits(column)
    return [digits for digits in _DIGITS if finest is None or digits <= finest]


def resolution_digits(column: Column) -> int | None:
    """The digits of the metric's resolution, if it has one."""
    if column.metric is None or column.metric.resolution is None:
        return None
    return max(0, round(-math.log10(column.metric.resolution)))


def _exactness(engine: Engine, columns: Sequence[Column], source: str) -> dict[tuple[str, int], Any]:
    """
    Whether all values of a column are exact in so many digits, by name and digits; None where it has no values.

    The columns are looked at as one, a value a row: an expression for each column and number of digits takes DuckDB
    longer to plan (0.6 ms each) than to work out.
    """
    if not columns:
        return {}
    values = ", ".join(f"{quoted(column.name)}::DOUBLE AS {quoted(column.name)}" for column in columns)
    tests = ", ".join(_exact_in("the_value", digits) for digits in _DIGITS)
    rows = engine.run(
        f"SELECT the_name, {tests} FROM (UNPIVOT (SELECT {values} FROM {source}) ON COLUMNS(*) "
        f"INTO NAME the_name VALUE the_value) GROUP BY the_name"
    )
    found = {name: dict(zip(_DIGITS, flags, strict=True)) for name, *flags in rows}
    return {(column.name, digits): found.get(column.name, {}).get(digits) for column in columns for digits in _DIGITS}


def _exact(column: Column, digits: int) -> str:
    return _exact_in(f"{quoted(column.name)}::DOUBLE", digits)


def _exact_in(value: str, digits: int) -> str:
    # A decimal has no minus zero.
    return f"bool_and(round({value} * 1e{digits}) / 1e{digits} = {value} AND signbit({value}) = ({value} < 0))"


def _fewest(column: Column, found: dict[tuple[str, int], Any]) -> int | None:
    return next((digits for digits in candidates(column) if found[column.name, digits] is not False), None)


def stored_type(column: Column, digits: int | None, largest: float) -> str:
    """The type of a column that is exact in *digits* (None: in no number of them), its values up to *largest*."""
    if digits is None:
        digits = resolution_digits(column)
    if digits is None or largest * 10**digits >= _EXACT:
        return "DOUBLE"
    wide = largest * 10**digits >= 999_999_999
    if digits == 0:
        return "BIGINT" if wide else "INTEGER"
    return f"DECIMAL({18 if wide else 9},{digits})"


def _as(column: Column, kind: str) -> str:
    name = quoted(column.name)
    return f"{name}::{kind} AS {name}"


def _one_row(engine: Engine, expressions: dict[tuple[str, int], str], source: str) -> dict[tuple[str, int], Any]:
    if not expressions:
        return {}
    return dict(zip(expressions, engine.run(f"SELECT {', '.join(expressions.values())} FROM {source}")[0], strict=True))
