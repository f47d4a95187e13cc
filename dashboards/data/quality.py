"""What the Data quality page shows: for each device, whether its numbers are to be trusted, and why not."""

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from analytics.energy import without_partitions
from analytics.frames import by_device, scan
from analytics.quality import quality
from analytics.steps import readings
from dashboards.data.stored import Stored, utc
from dashboards.selection import Selection, span_of

VERDICTS: Final = ("good", "fair", "poor")
_TABLES: Final = ("device_samples", "<devices", "<events", "<calibrations")
_REASON: Final = re.compile(r"(?P<reason>[^,]+?) (?P<seconds>\d+) s(?:, |$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityView:
    """
    The devices of a selection.

    devices: as `analytics.quality.quality` gives them, and site. gaps: reason, seconds and devices without readings,
    the longest first.
    """

    start: datetime
    end: datetime
    devices: pl.DataFrame
    gaps: pl.DataFrame


def view(stored: Stored, selection: Selection) -> QualityView:
    """
    The devices of *selection*, the poorest first.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    span = span_of(selection, stored.now_ns())
    devices = stored.kept(("quality", span, stored.version(_TABLES, *span)), lambda: _every(stored, *span))
    if selection.sites:
        devices = devices.filter(pl.col("site").is_in(selection.sites))
    if selection.hosts:
        devices = devices.filter(pl.col("host").is_in(selection.hosts))
    return QualityView(start=utc(span[0]), end=utc(span[1]), devices=devices, gaps=_gaps(devices))


def _every(stored: Stored, start_ns: int, end_ns: int) -> pl.DataFrame:
    store = stored.store()
    known = scan(store, "devices")
    parts = by_device(store, "device_samples", start_ns, end_ns, rows=stored.part_rows)
    found = quality(
        (readings(without_partitions(part, known)).collect() for part in parts),
        devices=known,
        events=scan(store, "events", None, end_ns),
        calibrations=scan(store, "calibrations", None, end_ns),
        start_ns=start_ns,
        end_ns=end_ns,
    )
    sites = stored.sites(sorted(set(found["host"].drop_nulls())))
    site = pl.col("host").replace_strict(sites, default=None, return_dtype=pl.String)
    return found.with_columns(site=site)


def _gaps(devices: pl.DataFrame) -> pl.DataFrame:
    """Seconds without readings and devices that had them, by reason."""
    seconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for said in devices["gap_reasons"].drop_nulls():
        for found in _REASON.finditer(said):
            seconds[found["reason"]] += int(found["seconds"])
            counts[found["reason"]] += 1
    rows = [(reason, total, counts[reason]) for reason, total in seconds.most_common()]
    return pl.DataFrame(rows, orient="row", schema={"reason": pl.String, "gap_s": pl.Float64, "devices": pl.Int64})
