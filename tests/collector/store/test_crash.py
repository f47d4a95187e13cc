"""kill -9 at any instant: what was sealed stays, once; only what was not sealed is lost."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analytics import frames
from collector.sample import Reading
from collector.store import Store
from collector.store.segments import present

KILLS = 50


def numbers(root: Path) -> list[int]:
    found = frames.scan(root, "device_samples").select(pl.col("energy_j").cast(pl.Int64)).collect()
    return found["energy_j"].sort().to_list()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_kills_amid_sealing_and_merging_lose_and_double_no_sealed_row(
    tmp_path: Path, agents: Any, day_ns: int
) -> None:
    root, side = tmp_path / "store", tmp_path / "sealed"
    chance = random.Random(5)
    kept: list[int] = []
    merged = 0
    for round_ in range(KILLS):
        # A run's clock starts where no earlier one has been, and gains 1,000 s a second: merges all the time.
        start_ns = day_ns + round_ * 400 * 10**9
        pid = agents.start(root, side, round_ * 1_000_000, start_ns, 1000, 0, 0, 60)
        # Killed after some more rows and not after some time: a busy machine seals less, and is to be tried as hard.
        wanted = lines(side) + chance.randint(1, 16)
        until = time.monotonic() + 60
        while lines(side) < wanted:
            assert time.monotonic() < until, "the agent seals nothing any more"
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))
        agents.kill(pid)
        sealed = [int(line) for line in side.read_text().split("\n")[:-1]]
        there = numbers(root)
        assert len(there) == len(set(there)), "a row twice"
        assert set(sealed) <= set(there), "a sealed row lost"
        # What was there after the last kill is there still; what is more than recorded was renamed in the last instant.
        assert set(kept) <= set(there)
        assert len(set(there) - set(sealed)) <= 4 * (round_ + 1)
        kept = there
        merged += any(s.generation for s in present(root, "device_samples", frames_day(root)))
    assert merged > KILLS // 2, "the kills did not meet merging"
    assert len(kept) > KILLS * 4


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def frames_day(root: Path) -> Any:
    return Store(root).segments("device_samples")[0].date


def test_half_files_of_a_crash_are_removed_when_their_writer_starts_again(
    store: Store, reading: Callable[..., Reading]
) -> None:
    with_rows = store.writer("agent", background=False)
    with_rows.take([reading(0)])
    with_rows.seal()
    with_rows.close()
    folder = store.segments("device_samples")[0].path.parent
    mine, other = (
        folder / ".agent-0-1-1-00000000-00000000.parquet.tmp",
        folder / ".agent-9-0-1-1-00000000-00000000.parquet.tmp",
    )
    mine.write_bytes(b"half")
    other.write_bytes(b"half")
    store.writer("agent", background=False).close()
    assert not mine.exists()
    assert other.exists(), "another writer's file in the making was removed"
