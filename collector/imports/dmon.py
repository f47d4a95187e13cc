"""
``nvidia-smi dmon``: text in columns below ``#`` headings, any selection (-s), with or without date and time (-o DT).

It has no zone, without -o no times, and knows devices by index only: the caller says what the file does not.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from collector.errors import ConfigError, ImportFailed
from collector.imports import columns
from collector.imports.clocks import Zone, parsed
from collector.imports.columns import Column
from collector.imports.lines import Lines, read_lines
from collector.imports.nvidia_fields import DMON
from collector.imports.report import Account, Unit, merged
from collector.imports.tables import shaped

SOURCE = "import:nvidia-smi-dmon"
_INDEX = ("gpu", "Idx")


def read_dmon(
    path: Path,
    *,
    tz: Zone | None,
    host: str | None = None,
    devices: Mapping[str, str] | None = None,
    start: datetime | None = None,
    period_s: float | None = None,
) -> Iterator[Unit]:
    """
    The readings of one file: one unit.

    *devices* gives ids by index (or with the key ``""`` the id of the only one). *start* is the local time of the first
    line where the file has no dates, *period_s* the time between lines of one device where it has no times.
    Raises: ImportFailed, ConfigError.
    """
    lines = read_lines(path)
    account = Account(path, lines=len(lines.texts))
    blocks = list(_blocks(lines, account))
    if not blocks:
        raise ImportFailed(path, "has no dmon heading ('# gpu ...')")
    data = pl.concat([_read_block(lines, account, *block) for block in blocks], how="diagonal_relaxed")
    account.ignored = tuple(
        dict.fromkeys(
            column.name
            for heading, _ in blocks
            for column in heading
            if column.name not in {*DMON, "gpu", "Date", "Time"}
        )
    )
    data = _timed(path, data, [number for _, numbers in blocks for number in numbers], start, period_s)
    if tz is None:
        raise ConfigError("--tz", f"{path}: its times are local; name their zone, as Europe/Berlin or +01:00")
    data = columns.to_utc(lines, account, _named(path, data, devices or {}), tz)
    once = data.unique(["device", "time"], keep="last", maintain_order=True)
    account.kept["duplicate"] += data.height - once.height
    account.kept["reading"] += once.height
    unit = Unit(path.name, ("dmon",), [account])
    if not once.height:
        unit.error = None if account.bad_count else "has a heading and no reading"
        return iter([unit])
    metrics = sorted({field.metric.column for field in DMON.values()} & set(once.columns))
    first = once.row(0, named=True)
    unit.identity = ("dmon", str(host), first["device"], str(first["time"]))
    unit.frames = merged(
        {
            "device_samples": shaped(
                "device_samples",
                once.select(
                    "device", "time", pl.lit(SOURCE).alias("source"), pl.lit(host, pl.String).alias("host"), *metrics
                ),
            )
        }
    )
    unit.facts = {
        "devices": once["device"].unique(maintain_order=True).to_list(),
        "first": str(once["time"].min()),
        "last": str(once["time"].max()),
    }
    return iter([unit])


def _blocks(lines: Lines, account: Account) -> Iterator[tuple[list[Column], list[int]]]:
    """
    Headings with the line numbers below each.

    A heading is a line of names and a line of units, both with ``#``; dmon repeats it, and each repetition is skipped.
    """
    names: list[str] = []
    heading: list[Column] = []
    numbers: list[int] = []
    for number, line in enumerate(lines.texts, 1):
        if not line.strip():
            account.kept["blank"] += 1
            continue
        if not line.lstrip().startswith("#"):
            numbers.append(number)
            continue
        account.kept["header"] += 1
        words = line.lstrip().removeprefix("#").replace(",", " ").split()
        if "gpu" in words and "pid" in words:
            # Its shares are of a process; taken for the board's, each process would overwrite the one before.
            raise ImportFailed(lines.path, "is pmon's output: shares of processes, not of devices", line=number)
        if "gpu" in words:
            if heading and numbers:
                yield heading, numbers
                numbers = []
            names = words
            heading = [Column(at, name, None) for at, name in enumerate(names)]
        elif names and len(words) == len(names) and "Idx" in words:
            heading = [Column(at, name, unit) for at, (name, unit) in enumerate(zip(names, words, strict=True))]
    if heading:
        yield heading, numbers
    else:
        for number in numbers:
            account.refuse(number, "before the heading", lines.texts[number - 1])


def _read_block(lines: Lines, account: Account, heading: list[Column], numbers: list[int]) -> pl.DataFrame:
    comma = any("," in lines.texts[number - 1] for number in numbers[:10])
    separator = "," if comma else None
    data = columns.split(lines, numbers, separator, len(heading))
    names = {column.name: column for column in heading}
    data = columns.text(data, names["gpu"], "index").with_columns(
        reason=pl.coalesce(
            "reason",
            pl.when(~pl.col("index").str.contains(r"^[0-9]{1,4}$").fill_null(False)).then(pl.lit("no device index")),
        )
    )
    for name in ("Date", "Time"):
        if name in names:
            data = columns.text(data, names[name], name.lower())
    for column in heading:
        field = DMON.get(column.name)
        if field is None:
            continue
        if column.unit is not None and column.unit not in field.units:
            raise ImportFailed(
                lines.path, f"{column.name} has the unit {column.unit!r}; known are {', '.join(sorted(field.units))}"
            )
        data = columns.value(data, column, field)
    return columns.refuse(lines, account, data, separator=separator).drop(f"f{at}" for at in range(len(heading)))


def _timed(
    path: Path, data: pl.DataFrame, numbers: list[int], start: datetime | None, period_s: float | None
) -> pl.DataFrame:
    """*data* with the column local: from date and time, from start and time, or from start and period."""
    if "date" in data.columns and "time" in data.columns:
        return data.with_columns(local=parsed(pl.concat_str("date", pl.lit(" "), "time"), "%Y%m%d %H:%M:%S"))
    if start is None:
        has = "times without a date" if "time" in data.columns else "no times (dmon was run without -o DT)"
        raise ConfigError("--start", f"{path}: has {has}; say when its first line was written")
    if "time" in data.columns:
        dated = data.with_columns(clock=parsed(pl.concat_str(pl.lit(f"{start:%Y%m%d} "), "time"), "%Y%m%d %H:%M:%S"))
        # Past midnight the clock starts again: a fall of more than half a day is the next day.
        midnights = (pl.col("clock").diff() < timedelta(hours=-12)).fill_null(False).cum_sum()
        return dated.with_columns(local=pl.col("clock") + midnights * pl.duration(days=1)).drop("clock")
    if period_s is None:
        raise ConfigError("--period", f"{path}: has no times; say how many seconds lie between lines of one device")
    # Counted over all lines, bad ones too, so that a line kept out does not pull the later ones forward.
    place = pl.Series(numbers, dtype=pl.Int64).search_sorted(data["line"]) // max(data["index"].n_unique(), 1)
    return data.with_columns(
        local=pl.lit(start).cast(pl.Datetime("ns"))
        + pl.duration(nanoseconds=pl.lit(place.cast(pl.Int64) * round(period_s * 1e9)), time_unit="ns")
    )


def _named(path: Path, data: pl.DataFrame, devices: Mapping[str, str]) -> pl.DataFrame:
    indices = data["index"].unique(maintain_order=True).to_list()
    ids = {index: devices.get(index, devices.get("") if len(indices) == 1 else None) for index in indices}
    missing = [index for index, device in ids.items() if device is None]
    if missing:
        raise ConfigError(
            "--device", f"{path}: dmon names devices by index only; name index {', '.join(missing)} as INDEX=ID"
        )
    return data.with_columns(device=pl.col("index").replace_strict(ids, return_dtype=pl.String))
