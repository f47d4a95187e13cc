"""Reads a store over and over in one of three ways; prints how often, or dies of the first error."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import duckdb
import polars as pl

from analytics import frames
from collector.store import Store

SQL = "SELECT count(*), count(DISTINCT energy_j), coalesce(max(energy_j), -1) FROM device_samples"


def by_frames(root: str) -> tuple[float, ...]:
    energy = pl.col("energy_j")
    rows = frames.scan(root, "device_samples").select(pl.len(), n=energy.n_unique(), m=energy.max().fill_null(-1))
    return tuple(rows.collect().row(0))


def by_views(root: str) -> tuple[float, ...]:
    with Store(root).connect(threads=1) as connection:
        row = connection.execute(SQL).fetchone()
    assert row is not None
    return tuple(row)


def opened(path: str) -> duckdb.DuckDBPyConnection:
    """
    The published database.

    DuckDB 2.0 opens a file three times for one connection: the header of one that is replaced meanwhile says where its
    successor's content is. Any client that met this opens it again, and so does this one, where that was the reason.
    """
    while True:
        before = Path(path).stat()
        try:
            return duckdb.connect(path, read_only=True)
        except duckdb.Error:
            now = Path(path).stat()
            if (before.st_ino, before.st_mtime_ns) == (now.st_ino, now.st_mtime_ns):
                raise


def by_database(root: str) -> tuple[float, ...]:
    connection = opened(f"{root}/perfwatt.duckdb")
    try:
        row = connection.execute(SQL).fetchone()
    finally:
        connection.close()
    assert row is not None
    return tuple(row)


def main(how: str, root: str, run_s: str) -> None:
    read = {"frames": by_frames, "views": by_views, "database": by_database}[how]
    until, reads, seen = time.monotonic() + float(run_s), 0, 0
    while time.monotonic() < until:
        rows, distinct, last = read(root)
        # Rows are numbered in the order they were sealed: any that is missing, doubled or half read shows.
        assert rows == distinct == last + 1, f"{rows} rows, {distinct} numbers, up to {last}"
        assert rows >= seen, f"{rows} rows after {seen}"
        seen, reads = int(rows), reads + 1
        time.sleep(0.05)
    print(reads, seen)


if __name__ == "__main__":
    main(*sys.argv[1:])
