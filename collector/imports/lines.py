"""The lines of a text file, whatever wrote it: encodings, line ends, compression, a last line cut off."""

import codecs
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from collector.errors import ImportFailed

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BROKEN = r"[\x00-\x08\x0a-\x1f\ufffd]"
"""Broken bytes and control characters, which no line of text has (a tab is text)."""
_BROKEN = re.compile(BROKEN)


@dataclass(frozen=True, slots=True)
class Lines:
    """
    A file's lines without their ends; line *n* is ``texts[n - 1]``.

    `unfinished` is true when the last line has no line end: its writer may have been cut off in the middle of a number.
    """

    path: Path
    texts: list[str]
    encoding: str
    unfinished: bool


def read_lines(path: Path) -> Lines:
    """
    Read *path* as text: UTF-8 or UTF-16 (Windows redirects), with or without a byte-order mark, gzipped or not.

    A byte that is not text becomes U+FFFD, by which a reader knows the line as bad. Raises: ImportFailed.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ImportFailed(path, f"cannot be read: {error}") from error
    encoding = _encoding(data)
    text = data.decode(encoding, errors="replace")
    texts = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    unfinished = texts[-1] != ""
    if not unfinished:
        texts.pop()
    return Lines(path, texts, encoding, unfinished)


def _encoding(data: bytes) -> str:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    head = data[:4096]
    # Text of these formats is ASCII, so that UTF-16 without a mark shows as every other byte zero.
    if len(head) >= 4 and head[1::2].count(0) > len(head) // 4:
        return "utf-16-le"
    if len(head) >= 4 and head[0::2].count(0) > len(head) // 4:
        return "utf-16-be"
    return "utf-8"


def is_text(line: str) -> bool:
    """Whether a line is free of broken bytes and control characters (a tab is text)."""
    return _BROKEN.search(line) is None


_DECIMALS = re.compile(r"[0-9]\.([0-9]+)")


def looks_whole(last: str, others: list[str]) -> bool:
    """
    Whether the last field of an unfinished line has the form that the field has in other lines.

    A number cut off in the middle is a wrong number. With decimals, or a unit behind it, the form is fixed; a whole
    number must have the length that all the others have.
    """
    if not others:
        return False
    return _form(last) in {_form(other) for other in others[:1000]} and bool(
        _DECIMALS.search(last) or not last[-1:].isdigit() or len({len(other) for other in others[:1000]}) == 1
    )


def _form(field: str) -> tuple[int, str] | int:
    found = _DECIMALS.search(field)
    if found is None and field.isdigit():
        return len(field)
    return (len(found.group(1)) if found else -1, re.sub(r"[0-9.+-]", "", field).strip())
