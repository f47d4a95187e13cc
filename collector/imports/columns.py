"""Lines of fields into columns of values: what is absent is null, what is wrong is a reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from collector.catalogue import Metric
from collector.imports.clocks import Zone, out_of_order
from collector.imports.lines import BROKEN, Lines, looks_whole
from collector.imports.nvidia_fields import Field
from collector.imports.report import Account
from collector.imports.tables import implausible

# What nvidia-smi says where there is no value: [N/A], [Not Supported], [Unknown Error], [GPU is lost], ERR!, -
_ABSENT = r"^(?:\[[^\[\]]*\]|N/A|n/a|Not Supported|ERR!|-|)$"
_HEXADECIMAL = r"^0x([0-9A-Fa-f]{1,16})$"
_NUMBER = r"^([+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?: ?([^0-9+\-. ][^0-9+\-.]*))?$"


@dataclass(frozen=True, slots=True)
class Column:
    """The field at `position`, with its name and the unit that the header wrote (None: none written)."""

    position: int
    name: str
    unit: str | None


def split(lines: Lines, numbers: Sequence[int], separator: str | None, width: int) -> pl.DataFrame:
    """
    The lines with these numbers, in columns ``f0`` to ``f{width-1}`` of stripped text, with line, text and reason.

    *separator* None means any white space.
    """
    data = pl.DataFrame(
        {"line": list(numbers), "text": [lines.texts[number - 1] for number in numbers]},
        schema={"line": pl.Int64, "text": pl.String},
    )
    fields = (
        pl.col("text").str.split(separator)
        if separator
        else pl.col("text").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    )
    return (
        data.with_columns(fields=fields)
        .with_columns(
            reason=pl.when(pl.col("fields").list.len() != width).then(
                pl.format("{} fields, the header has {}", pl.col("fields").list.len(), pl.lit(width))
            )
        )
        .with_columns(
            pl.col("fields").list.get(at, null_on_oob=True).str.strip_chars().alias(f"f{at}") for at in range(width)
        )
        .drop("fields")
    )


def text(data: pl.DataFrame, column: Column, name: str) -> pl.DataFrame:
    """*data* with the field as text in *name*, null where nvidia-smi has none."""
    value = pl.col(f"f{column.position}")
    return data.with_columns(pl.when(~value.str.contains(_ABSENT)).then(value).alias(name))


def value(data: pl.DataFrame, column: Column, field: Field) -> pl.DataFrame:
    """*data* with the field as a value in its metric's column and catalogue unit, and a reason where it is none."""
    written = pl.col(f"f{column.position}")
    metric = field.metric.column
    parts = data.select(
        absent=written.str.contains(_ABSENT),
        number=written.str.extract(_NUMBER, 1).cast(pl.Float64, strict=False),
        unit=written.str.extract(_NUMBER, 2).str.strip_chars(),
        word=written.replace_strict(dict(field.words), default=None, return_dtype=pl.Float64),
    )
    heading = field.unit if column.unit is None else column.unit
    # A value with a unit of its own must have the header's: one of them is wrong otherwise, and nobody can say which.
    fits = pl.col("unit").is_null() | (pl.col("unit") == heading)
    found = parts.with_columns(
        value=pl.when(~pl.col("absent")).then(
            pl.coalesce("word", pl.when(fits).then(pl.col("number") * field.units[heading]))
        ),
        wrong_unit=~fits & ~pl.col("absent"),
    )
    data = data.with_columns(found["value"].alias(metric))
    impossible = data.select(implausible(field.metric)).to_series()
    described = f"{column.name} is no value: "
    bad = (
        pl.when(found["wrong_unit"])
        .then(pl.format(f"{column.name} is in {{}}, the header says {heading or 'no unit'}", found["unit"]))
        .when(found["value"].is_null() & ~found["absent"])
        .then(pl.concat_str(pl.lit(described), written))
        .when(impossible)
        .then(pl.concat_str(pl.lit(f"{column.name} cannot be true: "), written))
    )
    return data.with_columns(reason=pl.coalesce("reason", bad))


def mask(data: pl.DataFrame, column: Column, bits: Iterable[tuple[Metric, int]]) -> pl.DataFrame:
    """*data* with a hexadecimal field's *bits* as metrics that it does not have yet; a reason where it is no number."""
    written = pl.col(f"f{column.position}")
    absent = written.str.contains(_ABSENT)
    number = written.str.extract(_HEXADECIMAL, 1).str.to_integer(base=16, dtype=pl.UInt64, strict=False)
    bad = pl.when(~absent & number.is_null()).then(pl.concat_str(pl.lit(f"{column.name} is no value: "), written))
    return data.with_columns(
        *(
            ((number & bit) != 0).cast(pl.Float64).alias(metric.column)
            for metric, bit in bits
            if metric.column not in data.columns
        ),
        reason=pl.coalesce("reason", bad),
    )


def refuse(lines: Lines, account: Account, data: pl.DataFrame, *, separator: str | None) -> pl.DataFrame:
    """*data* without the lines that have a reason or broken characters, or were cut off; those go into the account."""
    bad = dict(data.filter(pl.col("reason").is_not_null()).select("line", "reason").iter_rows())
    bad |= dict.fromkeys(data.filter(pl.col("text").str.contains(BROKEN))["line"], "broken characters")
    last = len(lines.texts)
    if lines.unfinished and last not in bad and data.height and data["line"][-1] == last:
        ends = (said.split(separator)[-1].strip() for said in data["text"][:-1].tail(1000) if said.strip())
        if not looks_whole(lines.texts[-1].split(separator)[-1].strip(), list(ends)):
            bad[last] = "has no line end: cut off"
    for line in sorted(bad):
        account.refuse(line, bad[line], lines.texts[line - 1])
    return data.filter(~pl.col("line").is_in(list(bad)))


def to_utc(lines: Lines, account: Account, data: pl.DataFrame, zone: Zone) -> pl.DataFrame:
    """*data* with the column time from local; a line whose time cannot be true goes into the account instead."""
    utc, unsure = zone.utc(data["local"])
    if unsure:
        account.notes.append(f"{unsure} readings in the hour that occurs twice are taken as the first")
    data = data.with_columns(time=utc).with_columns(wrong=out_of_order("time"))
    good = pl.col("time").is_not_null() & ~pl.col("wrong")
    for line, local, time in data.filter(~good).select("line", "local", "time").iter_rows():
        reason = "its time does not fit the lines before and after"
        if time is None:
            reason = "its time is no time" if local is None else f"its time does not exist in {zone.name}"
        account.refuse(line, reason, lines.texts[line - 1])
    return data.filter(good)


def best(columns: Iterable[tuple[Column, Field]]) -> list[tuple[Column, Field]]:
    """One column for each metric: of several that say the same, the one that says it best."""
    chosen: dict[str, tuple[Column, Field]] = {}
    for column, field in columns:
        other = chosen.get(field.metric.column)
        if other is None or field.rank < other[1].rank:
            chosen[field.metric.column] = (column, field)
    return list(chosen.values())
