"""Pages that are encoded here: every reader reads what was given, whatever it was and however it was encoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.store.encoding import FAST, WAYS, Effort, Encoder, Way, deltas, indices
from collector.store.parquet import DELTAS, PLAIN, Chunk, Field, is_whole, write

EVERY_WAY = (*WAYS, Way(128, whole=False), Way(1024, whole=False), Way(None, whole=False))
READER = duckdb.connect(config={"threads": 1})
SIZES = st.sampled_from([1, 2, 3, 127, 128, 129, 130, 257, 1025, 1500])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages") / "rows.parquet"


def only(way: Way, worth: float = 1.0) -> Effort:
    """As *way* says; values too many for a dictionary come as deltas."""
    return FAST._replace(ways=[way] if way.block is not None else [way, Way(128)], worth=worth)


def read(path: Path, field: Field, groups: Sequence[tuple[int, Chunk]]) -> list[Any]:
    """What polars and DuckDB make of a file of one column, which must be the same."""
    with path.open("wb") as out:
        write(out, [field], [(rows, [chunk]) for rows, chunk in groups], {"of": "a test"})
    rows = [row[0] for row in READER.execute(f"SELECT {field.name} FROM '{path}'").fetchall()]
    # As text, because NaN equals nothing and minus zero equals zero.
    assert repr(pl.read_parquet(path)[field.name].to_list()) == repr(rows)
    return rows


def present(values: Sequence[Any]) -> np.ndarray:
    return np.array([value is not None for value in values])


def numbers(values: Sequence[int | None]) -> np.ndarray:
    return np.array([value or 0 for value in values], np.int64)


@st.composite
def whole_numbers(draw: st.DrawFn, bits: int) -> list[int | None]:
    """Runs, steps, noise and extremes, of which some are null."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    size = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["constant", "steps", "noise", "few", "extremes", "jumps"]))
    start = draw(st.integers(low // 2, high // 2))
    made = {
        "constant": lambda: np.full(size, start),
        "steps": lambda: start // 2 + np.arange(size) * draw(st.integers(-1000, 1000)),
        "noise": lambda: start // 2 + rng.integers(-(1 << draw(st.integers(1, bits - 4))), 1 << (bits - 4), size),
        "few": lambda: rng.choice(rng.integers(low, high, draw(st.sampled_from([1, 2, 255, 256, 257]))), size),
        "extremes": lambda: rng.choice([low, high, 0, -1, low + 1, high - 1], size),
        "jumps": lambda: np.where(rng.random(size) < 0.01, start, rng.integers(0, 4, size)),
    }[kind]()
    absent = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return [None if gone else int(value) for value, gone in zip(made, rng.random(size) < absent, strict=True)]


@pytest.mark.parametrize(("kind", "bits"), [("INTEGER", 32), ("BIGINT", 64)])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whole_numbers_come_back_from_every_encoding(path: Path, kind: str, bits: int, data: st.DataObject) -> None:
    values, more = data.draw(whole_numbers(bits)), data.draw(whole_numbers(bits))
    field, way = Field("n", kind), data.draw(st.sampled_from(EVERY_WAY))
    # The encoding is chosen on the first group and must hold for the second, which is of another kind.
    encoder = Encoder(field, only(way, data.draw(st.sampled_from([0.0, 1.0]))))
    groups = [(len(part), encoder.integers(numbers(part), present(part))) for part in (values, more)]
    assert read(path, field, groups) == values + more


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.none() | st.floats() | st.sampled_from([-0.0, 5e-324, -2.2e-308, 1.7e308]), min_size=1))
def test_doubles_come_back_bit_by_bit(path: Path, values: list[float | None]) -> None:
    encoder = Encoder(Field("x", "DOUBLE"), FAST)
    chunk = encoder.doubles(np.array([0.0 if v is None else v for v in values]), present(values))
    found = read(path, Field("x", "DOUBLE"), [(len(values), chunk)])
    assert [None if v is None else v.hex() for v in found] == [None if v is None else v.hex() for v in values]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_text_and_flags_come_back(path: Path, data: st.DataObject) -> None:
    words = sorted(data.draw(st.sets(st.text(st.characters(exclude_categories=("Cs",))), min_size=1, max_size=20)))
    runs = data.draw(st.lists(st.tuples(st.integers(-1, len(words) - 1), st.integers(1, 60)), min_size=1))
    codes = np.array([code for code, length in runs for _ in range(length)])
    text = Encoder(Field("w", "VARCHAR"), FAST).words(codes, words)
    expected = [None if code < 0 else words[code] for code in codes]
    assert read(path, Field("w", "VARCHAR"), [(len(codes), text)]) == expected
    flags = Encoder(Field("f", "BOOLEAN"), FAST).flags(codes % 2 == 0, codes >= 0)
    expected = [None if code < 0 else bool(code % 2 == 0) for code in codes]
    assert read(path, Field("f", "BOOLEAN"), [(len(codes), flags)]) == expected


@pytest.mark.parametrize("count", [255, 256, 257, 65_536, 65_537])
def test_a_dictionary_may_have_more_words_than_a_byte_or_two_count(path: Path, count: int) -> None:
    words = [f"{number:06d}" for number in range(count)]
    codes = np.random.default_rng(1).permutation(count)
    chunk = Encoder(Field("w", "VARCHAR"), FAST).words(codes, words)
    assert read(path, Field("w", "VARCHAR"), [(count, chunk)]) == [words[code] for code in codes]


def test_deltas_lie_on_whole_bytes_and_noise_on_fewest_bits() -> None:
    rng = np.random.default_rng(2)
    jitter = np.cumsum(1000 + rng.integers(-3, 4, 12_801))
    assert 12_800 < len(deltas(jitter, 128)) < 12_800 * 1.05
    assert len(deltas(jitter, 128, whole=False)) < 12_800 * 0.45
    assert len(deltas(np.arange(12_801) * 10, 128)) < 12_800 * 0.04
    assert len(indices(np.arange(1600) % 3, 3, whole=False)) < 410 < len(indices(np.arange(1600) % 3, 3))
    assert len(indices(np.repeat(np.arange(4), 400), 4)) < 20


def test_numbers_whose_deltas_are_too_far_apart_are_not_made_into_deltas() -> None:
    far = np.array([-(1 << 31), (1 << 31) - 1, -(1 << 31)], np.int64)
    there = np.ones(3, bool)
    assert Encoder(Field("n", "INTEGER"), FAST).integers(far, there).data.encoding == PLAIN
    assert Encoder(Field("n", "BIGINT"), only(Way(128))).integers(far, there).data.encoding == DELTAS


def test_readers_can_skip_by_the_extremes_of_a_column(path: Path) -> None:
    fields = [Field("d", "DECIMAL(9,3)"), Field("t", "TIMESTAMP_MS"), Field("x", "DOUBLE"), Field("w", "VARCHAR")]
    there, whole = np.ones(3, bool), np.array([-1500, 0, 2500])
    chunks = [
        Encoder(fields[0], FAST).integers(whole, there),
        Encoder(fields[1], FAST).integers(whole, there),
        Encoder(fields[2], FAST).doubles(np.array([0.0, -0.0, 2.5]), there),
        Encoder(fields[3], FAST).words(np.array([1, 0, -1]), ["a", "é"]),
    ]
    with path.open("wb") as out:
        write(out, fields, [(3, chunks)], {})
    found = READER.execute(
        f"SELECT path_in_schema, stats_min_value, stats_max_value, stats_null_count FROM parquet_metadata('{path}')"
    ).fetchall()
    assert found == [
        ("d", "-1.500", "2.500", 0),
        ("t", "1969-12-31 23:59:58.5", "1970-01-01 00:00:02.5", 0),
        ("x", "-0.0", "2.5", 0),
        ("w", "a", "é", 1),
    ]
    assert READER.execute(f"SELECT count(*) FROM '{path}' WHERE x = 0.0").fetchall() == [(2,)]
    assert pl.scan_parquet(path).filter(pl.col("x") == 0.0).collect().height == 2


def test_a_page_knows_whether_it_is_as_it_was_written(path: Path) -> None:
    field, there = Field("n", "BIGINT"), np.ones(1000, bool)
    chunk = Encoder(field, only(Way(128), worth=0.0)).integers(np.arange(1000) ** 2, there)
    read(path, field, [(1000, chunk)])
    (place,) = READER.execute(
        f"SELECT data_page_offset, total_compressed_size FROM parquet_metadata('{path}')"
    ).fetchall()
    page = path.read_bytes()[place[0] : sum(place)]
    assert is_whole(page)
    assert not is_whole(page[:-1] + bytes([page[-1] ^ 1]))
    assert not is_whole(page[: len(page) // 2])
