"""
How fast history comes in: nvidia-smi CSV and a mapped CSV against a plain polars read of the same file.

The plain read gives text and numbers as they stand; the import checks every field, converts units, places times in UTC
and accounts for every line. Both end with a frame in memory; the last row adds the store.
"""

import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from benchmarks.rows import Row
from collector.imports.clocks import zone_of
from collector.imports.nvidia_smi import read_query
from collector.imports.report import take_in
from collector.imports.table import read_mapping, read_table
from collector.store import Store

LINES = 400_000
HEADER = "timestamp, uuid, power.draw [W], utilization.gpu [%], memory.used [MiB], clocks.current.sm [MHz], pstate"
MAPPING = """
table = "device_samples"
[time]
column = "ms"
format = "unix_ms"
[subject]
column = "uuid"
[metrics]
power_w = { column = "watts", unit = "W" }
utilization_ratio = { column = "util", unit = "%" }
"""


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        smi, table, mapping = root / "smi.csv", root / "table.csv", root / "mapping.toml"
        smi.write_text("\n".join([HEADER, *_smi_lines()]) + "\n")
        table.write_text("\n".join(["ms,uuid,watts,util", *_table_lines()]) + "\n")
        mapping.write_text(MAPPING)
        store = Store.create(root / "store")
        zone = zone_of("Europe/Berlin")
        checked = read_mapping(mapping)
        return [
            _row("nvidia-smi CSV", lambda: list(read_query(smi, tz=zone)), lambda: pl.read_csv(smi)),
            _row("CSV by a mapping", lambda: list(read_table(table, checked)), lambda: pl.read_csv(table)),
            _row(
                "nvidia-smi CSV, stored",
                lambda: take_in("nvidia-smi", "smi.csv", read_query(smi, tz=zone), store),
                lambda: pl.read_csv(smi).write_parquet(root / "plain.parquet"),
            ),
        ]


def _smi_lines() -> list[str]:
    start = datetime(2024, 5, 1)
    return [
        f"{start + timedelta(milliseconds=125 * n):%Y/%m/%d %H:%M:%S}.{125 * n % 1000:03d}, GPU-{n % 8}, "
        f"{100 + n % 600}.{n % 100:02d} W, {n % 101} %, {n % 81_000} MiB, {210 + n % 1770} MHz, P0"
        for n in range(LINES)
    ]


def _table_lines() -> list[str]:
    return [f"{1_700_000_000_000 + 125 * n},GPU-{n % 8},{100 + n % 600}.{n % 100:02d},{n % 101}" for n in range(LINES)]


def _row(subject: str, ours: Callable[[], object], plain: Callable[[], object]) -> Row:
    ours_s, plain_s = _seconds(ours), _seconds(plain)
    return Row(
        benchmark="imports",
        subject=subject,
        measure="lines per second",
        value=LINES / ours_s,
        unit="lines/s",
        peer="polars read_csv, unchecked",
        peer_value=LINES / plain_s,
        bar="",
        ok=None,
    )


def _seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
