"""
Columns as arrays, encoded for Parquet so that what repeats lies on whole bytes, where compression finds it.

The deltas of DELTA_BINARY_PACKED are packed by most writers into as few bits as hold them, which hides from the
compressor that they repeat. The format lets a writer take more bits, and count from any number at or below the least
delta. Here a delta takes whole bytes and counts from the same number in as many blocks as possible; an index of a
dictionary takes whole bytes, too. Where values are noise, fewest bits are best after all: each column is encoded in the
way that came out smallest on some of its first rows.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.store.parquet import (
    DELTAS,
    DICTIONARY,
    GZIP,
    PLAIN,
    SPLIT,
    UNCOMPRESSED,
    Chunk,
    Field,
    Page,
    levels,
    varint,
    zigzag,
)

Integers = NDArray[np.int64]
Present = NDArray[np.bool_]


class Way(NamedTuple):
    """
    How whole numbers are encoded.

    block: deltas to a block, a multiple of 128; 0 for one block of all; None for indices of a dictionary instead.
    whole: in whole bytes; else in the fewest bits.
    """

    block: int | None
    whole: bool = True


_MOST_WORDS: Final = 256
_LOOKED_AT: Final = 16_384
_STRETCHES: Final = 8
# A reader skips by the extremes of short words, such as devices; of long ones they would only fill the footer.
_LONGEST_EXTREME: Final = 64
# Of numbers further apart than this, by their bytes, deltas lie too far apart for so many bytes.
_FURTHEST: Final = {4: 1 << 31, 8: 1 << 62}


class Compression(NamedTuple):
    """A codec of Parquet; one of `words` takes whole words of 32 bits only."""

    codec: int
    compress: Callable[[bytes], bytes]
    words: bool = False


class Effort(NamedTuple):
    """
    What a file may cost: how a column's pages are compressed, and how its encoding is chosen.

    It is the one of *ways* in which some *tried* values come out smallest by *rank*, which also tells whether to
    compress at all: only to less than *worth* of what there was, because what is not compressed is read twice as fast.
    Pages that are read to their end, where what fills up a word would be taken for a value, are compressed by *exact*.
    """

    compression: Compression
    exact: Compression
    ways: Sequence[Way]
    tried: int
    rank: Callable[[bytes], bytes]
    worth: float = 1.0


_NONE: Final = Compression(UNCOMPRESSED, bytes)


def gzip(level: int) -> Compression:
    """Python's own."""
    return Compression(GZIP, lambda content: zlib.compress(content, level, wbits=31))


# Narrow blocks where series are quiet, or deltas of one width throughout, which compress better.
WAYS: Final = (Way(128), Way(1024), Way(0), Way(None))
FAST: Final = Effort(gzip(1), gzip(1), WAYS, tried=8_192, rank=gzip(1).compress, worth=0.5)
"""For what is written while somebody waits."""
QUICK: Final = FAST._replace(ways=(Way(128), Way(None)))
"""For what is soon replaced: half the time, 6 % more bytes."""


class Encoder:
    """A column, encoded group of rows by group of rows; how is chosen by trial on the first."""

    def __init__(self, field: Field, effort: Effort) -> None:
        self._kind = f"<i{field.bytes}"
        self._furthest = _FURTHEST[field.bytes]
        self._effort = effort
        self._way: Way | None = None
        self._compresses = True

    def words(self, codes: NDArray[Any], words: Sequence[str]) -> Chunk:
        """Text as codes into sorted *words*; a negative code is null."""
        present = codes >= 0
        held = codes if present.all() else codes[present]
        used = np.flatnonzero(np.bincount(held, minlength=len(words)))
        place = np.zeros(len(words), np.int64)
        place[used] = np.arange(len(used))
        texts = [words[index].encode() for index in used.tolist()]
        ends = [texts[0], texts[-1]] if texts and max(map(len, texts)) <= _LONGEST_EXTREME else [None, None]
        plain = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        return self._chunk(present, indices(place[held], len(used)), DICTIONARY, ends, (plain, len(used)))

    def integers(self, values: Integers, present: Present) -> Chunk:
        """Whole numbers: times, counts, decimals as multiples of their last digit."""
        held = values if present.all() else values[present]
        return self._chunk(present, *self._whole(held))

    def listed(self, values: Integers, lengths: Integers) -> Chunk:
        """The whole numbers of all lists, one after another; a list of none is null."""
        content, encoding, _, dictionary = self._whole(values)
        there = lengths > 0
        entries = np.maximum(lengths, 1)
        again = np.ones(int(entries.sum()), bool)
        again[np.cumsum(entries) - entries] = False
        held = np.repeat(there, entries)
        # How deep a value is, in two bits: 0 for a list that is null, 2 for what is in one.
        depth = np.zeros((held.size, 2), bool)
        depth[:, 1] = held
        content = _packed_levels(again[:, None]) + _packed_levels(depth) + content
        return self._paged(held.size, held.size - len(values), content, encoding, (None, None), dictionary)

    def _whole(self, held: Integers) -> tuple[bytes, int, Sequence[bytes | None], tuple[bytes, int] | None]:
        """Whole numbers, none of them null: encoded, how, their extremes, and the words of a dictionary."""
        if not len(held):
            return b"", PLAIN, (None, None), None
        low, high = int(held.min()), int(held.max())
        ends = [np.array(end, self._kind).tobytes() for end in (low, high)]
        if high - low >= self._furthest:
            return held.astype(self._kind).tobytes(), PLAIN, ends, None
        if self._way is None:
            self._way = self._best_way(_some(held, self._effort.tried))
        block, whole = self._way
        if block is not None:
            return deltas(held, block, whole=whole), DELTAS, ends, None
        found = _dictionary(held)
        if found is None:
            return deltas(held, 128), DELTAS, ends, None
        listed, places = found
        plain = listed.astype(self._kind).tobytes()
        return indices(places, len(listed), whole=whole), DICTIONARY, ends, (plain, len(listed))

    def doubles(self, values: NDArray[np.float64], present: Present) -> Chunk:
        """Numbers of any size, each byte of all of them together."""
        held = values if present.all() else values[present]
        ends: list[bytes | None] = [None, None]
        if len(held) and not np.isnan(held).any():
            # Minus zero is less than zero to some readers and equal to others: the bounds hold for both.
            low, high = float(held.min()) or -0.0, float(held.max()) or 0.0
            ends = [np.float64(end).tobytes() for end in (low, high)]
        return self._chunk(
            present, np.ascontiguousarray(held, "<f8").view(np.uint8).reshape(-1, 8).T.tobytes(), SPLIT, ends
        )

    def flags(self, values: Present, present: Present) -> Chunk:
        """True and false, a bit each."""
        return self._chunk(present, np.packbits(values[present], bitorder="little").tobytes(), PLAIN)

    def _best_way(self, values: Integers) -> Way:
        tried = {way: sizes for way in self._effort.ways if (sizes := self._sizes(values, way)) is not None}
        way = min(tried, key=lambda way: tried[way])
        _, self._compresses = tried[way]
        return way

    def _sizes(self, values: Integers, way: Way) -> tuple[float, bool] | None:
        """What *values* take in *way*, and whether that is compressed; None if they cannot be had so."""
        extra = 1.0
        if way.block is not None:
            content = deltas(values, way.block, whole=way.whole)
        elif (found := _dictionary(values)) is not None:
            listed, places = found
            content = listed.astype(self._kind).tobytes() + indices(places, len(listed), whole=way.whole)
            # The rest may have words that these rows do not: what is only just shorter will not stay so.
            extra = 1.125
        else:
            return None
        compressed = len(self._effort.rank(_filled(content)))
        if compressed < self._effort.worth * len(content):
            return compressed * extra, True
        return len(content) * extra, False

    def _chunk(
        self,
        present: Present,
        content: bytes,
        encoding: int,
        ends: Sequence[bytes | None] = (None, None),
        dictionary: tuple[bytes, int] | None = None,
    ) -> Chunk:
        nulls = len(present) - int(np.count_nonzero(present))
        return self._paged(len(present), nulls, _levels(present) + content, encoding, ends, dictionary)

    def _paged(
        self,
        values: int,
        nulls: int,
        content: bytes,
        encoding: int,
        ends: Sequence[bytes | None],
        dictionary: tuple[bytes, int] | None,
    ) -> Chunk:
        compression = self._effort.exact if encoding in {PLAIN, SPLIT} else self._effort.compression
        if not self._compresses:
            compression = _NONE
        words = None
        if dictionary is not None:
            plain, count = dictionary
            words = _page(compression, PLAIN, count, plain)
        return Chunk(compression.codec, _page(compression, encoding, values, content), words, nulls, *ends)


def _page(compression: Compression, encoding: int, values: int, content: bytes) -> Page:
    if compression.words:
        content = _filled(content)
    return Page(encoding, values, len(content), compression.compress(content))


def _some(values: Integers, count: int) -> Integers:
    """About *count* of the values, in stretches from all over: where one meets the next is like where series meet."""
    stretch = count // _STRETCHES
    starts = range(0, len(values), max(1, len(values) // _STRETCHES))
    return values if len(values) <= count else np.concatenate([values[start : start + stretch] for start in starts])


def _filled(content: bytes) -> bytes:
    """*content* as whole words of 32 bits; a reader knows how many values there are, and stops before what is added."""
    return content + bytes(-len(content) % 4)


def _levels(present: Present) -> bytes:
    if (count := np.count_nonzero(present)) in {0, len(present)}:
        return levels(len(present), bool(count))
    return levels(len(present), np.packbits(present, bitorder="little").tobytes())


def _packed_levels(bits: Present) -> bytes:
    """Levels of lists, the bits of each a row from the lowest on: one run of packed ones, and before it its bytes."""
    groups = -(-len(bits) // 8)
    filled = np.zeros((groups * 8, bits.shape[1]), bool)
    filled[: len(bits)] = bits
    run = varint(groups << 1 | 1) + np.packbits(filled, bitorder="little").tobytes()
    return len(run).to_bytes(4, "little") + run


# ------------------------------------------------------------------------------------------------------- dictionaries


def _dictionary(values: Integers) -> tuple[Integers, Integers] | None:
    """The values that there are and each one's place among them; None if they are many."""
    some = np.unique(values[:_LOOKED_AT])
    if len(some) > _MOST_WORDS:
        return None
    places = np.searchsorted(some, values)
    places[places == len(some)] = 0
    strange = some[places] != values
    if strange.any():
        some = np.unique(np.concatenate([some, np.unique(values[strange])]))
        if len(some) > _MOST_WORDS:
            return None
        places = np.searchsorted(some, values)
    return some, places


def indices(places: Integers, words: int, *, whole: bool = True) -> bytes:
    """*places* in a dictionary of *words* as RLE_DICTIONARY has them: in runs, if they come in runs, else packed."""
    bits = max(1, (words - 1).bit_length())
    width = -(-bits // 8) * 8 if whole else bits
    starts = np.append(0, np.flatnonzero(places[1:] != places[:-1]) + 1)[: len(places)]
    if len(starts) * 8 <= len(places):
        lengths = np.diff(np.append(starts, len(places)))
        runs = zip(lengths.tolist(), places[starts].tolist(), strict=True)
        size = -(-width // 8)
        return bytes([width]) + b"".join(varint(n << 1) + place.to_bytes(size, "little") for n, place in runs)
    filled = np.zeros((1, -(-len(places) // 8) * 8), np.int64)
    filled[0, : len(places)] = places
    return bytes([width]) + varint(filled.size // 8 << 1 | 1) + _packed(filled, width).tobytes()


# ------------------------------------------------------------------------------------------------------------- deltas


def deltas(values: Integers, block: int, *, whole: bool = True) -> bytes:
    """*values* as DELTA_BINARY_PACKED, in blocks of *block* deltas (see `Way`), each of one miniblock."""
    block = block or max(128, -(-(len(values) - 1) // 128) * 128)
    head = varint(block) + varint(1) + varint(len(values)) + zigzag(int(values[0]))
    if len(values) == 1:
        return head
    steps = np.empty(-(-(len(values) - 1) // block) * block, np.int64)
    np.subtract(values[1:], values[:-1], out=steps[: len(values) - 1])
    steps[len(values) - 1 :] = steps[len(values) - 2]
    return head + _blocks(steps.reshape(-1, block), whole=whole)


def _blocks(steps: Integers, *, whole: bool) -> bytes:
    """Each row as a block: what its deltas count from, how many bits each takes, and they."""
    low, high = steps.min(axis=1), steps.max(axis=1)
    references, widths = _frames(low, high) if whole else (low, _bits(high - low))
    kinds, which = np.unique(np.stack([references, widths]), axis=1, return_inverse=True)
    heads = [zigzag(reference) + bytes([width]) for reference, width in kinds.T.tolist()]
    blocks = [heads[kind] for kind in which.ravel().tolist()]
    for width in np.unique(widths[widths > 0]).tolist():
        mine = np.flatnonzero(widths == width)
        packed = _packed(steps[mine] - references[mine, None], width).tobytes()
        size = steps.shape[1] // 8 * width
        for nth, block in enumerate(mine.tolist()):
            blocks[block] += packed[nth * size : (nth + 1) * size]
    return b"".join(blocks)


def _packed(numbers: Integers, width: int) -> NDArray[np.uint8]:
    """Each row's numbers, *width* bits of each, one after the other."""
    if width in {8, 16, 32, 64}:
        return np.ascontiguousarray(numbers.astype(f"<u{width // 8}")).view(np.uint8)
    size = -(-width // 8)
    cut = np.ascontiguousarray(numbers, "<i8").view(np.uint8).reshape(*numbers.shape, 8)[:, :, :size]
    if width % 8:
        bits = np.unpackbits(cut, axis=2, bitorder="little")[:, :, :width]
        return np.packbits(bits.reshape(len(numbers), -1), axis=1, bitorder="little")
    return cut.reshape(len(numbers), -1)


def _bits(numbers: Integers) -> Integers:
    """How many bits each takes."""
    return np.array([number.bit_length() for number in numbers.tolist()], np.int64)


def _frames(low: Integers, high: Integers) -> tuple[Integers, Integers]:
    """What deltas from *low* to *high* count from, and how many bits each takes: whole bytes."""
    references, widths = low.copy(), np.where(low == high, 0, 64)
    for width in range(56, 0, -8):
        half = 1 << (width - 1)
        # From the middle where that does, else from a round number: the same in many blocks.
        rounded = low // (half >> 2) * (half >> 2)
        middle, above = (low >= -half) & (high < half), high - rounded < 2 * half
        fits = (middle | above) & (widths > 0)
        references = np.where(fits, np.where(middle, -half, rounded), references)
        widths = np.where(fits, width, widths)
    return references, widths
