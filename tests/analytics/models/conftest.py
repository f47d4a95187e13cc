"""An empty store."""

from pathlib import Path

import pytest

from collector.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")
