"""Three days of a reading each ten minutes, of three devices."""

import polars as pl

NS = 1_000_000_000
HOUR_NS = 3600 * NS
DAY_NS = 24 * HOUR_NS
START_NS = 1_767_225_600 * NS
DAYS = 3
NOW_NS = START_NS + DAYS * DAY_NS + HOUR_NS
STEP_NS = 600 * NS


def samples(start_ns: int, end_ns: int, *, devices: int = 3, more_w: float = 0.0) -> pl.DataFrame:
    """Readings whose power depends on device and time."""
    rows = [(device, at) for device in range(devices) for at in range(start_ns, end_ns, STEP_NS)]
    return pl.DataFrame(
        {
            "device": [f"d{device}" for device, _ in rows],
            "time": pl.Series([at for _, at in rows], dtype=pl.Int64).cast(pl.Datetime("ns")),
            "source": ["s"] * len(rows),
            "power_w": [100.0 + more_w + 13 * d + (at // STEP_NS * (7 + 3 * d)) % 101 for d, at in rows],
        }
    )
