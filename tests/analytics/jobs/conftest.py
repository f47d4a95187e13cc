"""A store of three days, and the small jobs over it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analytics.frames import scan
from collector.store import Store

sys.path.append(str(Path(__file__).parent))  # the small jobs are found by name, as all jobs are
from three_days import DAY_NS, DAYS, START_NS, samples


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    def make(name: str = "store") -> Store:
        store = Store.create(tmp_path / name)
        for day in range(DAYS):
            store.write("device_samples", samples(START_NS + day * DAY_NS, START_NS + (day + 1) * DAY_NS))
        return store

    return make


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


@pytest.fixture
def rows() -> Callable[..., list[tuple[Any, ...]]]:
    """The rows of a table, in a fixed order."""

    def read(store: Store, table: str) -> list[tuple[Any, ...]]:
        found = scan(store, table).collect()
        return sorted(found.cast({pl.Datetime: pl.Int64}).rows(), key=repr)

    return read
