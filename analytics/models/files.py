"""
One model in one file: a zip of ``model.json`` and an ``.npy`` for each array.

Reading executes nothing: JSON, and numbers whose type, shape and size are checked before they are taken. Equal content
gives equal bytes, so that a file's SHA-256 says what is in it.
"""

import hashlib
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from collector.errors import StoreError
from collector.store.files import FILES, Files

FORMAT: Final = "perfwatt-model/1"
DOCUMENT: Final = "model.json"
MOST_BYTES: Final = 1 << 30
"""Unpacked; a small file can claim to hold far more."""
_KINDS: Final = "biuf"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)

Array = NDArray[Any]


class Content(NamedTuple):
    """What a file holds."""

    document: dict[str, Any]
    arrays: dict[str, Array]


def pack(document: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """
    A model as the bytes of its file. *document* is JSON; *arrays* hold numbers or truth values.

    Raises: ValueError (a name, type or value that the format does not have).
    """
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps({"format": FORMAT, **document}, sort_keys=True, allow_nan=False, indent=1)
        archive.writestr(_entry(DOCUMENT), text)
        for name, array in sorted(arrays.items()):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an array: a-z, 0-9 and _, at most 64")
            if array.dtype.kind not in _KINDS:
                raise ValueError(f"array {name!r} is of {array.dtype}: only numbers and truth values are stored")
            member = io.BytesIO()
            plain = np.ascontiguousarray(array).reshape(array.shape)
            npy.write_array(member, plain, version=(1, 0), allow_pickle=False)
            archive.writestr(_entry(f"{name}.npy"), member.getvalue())
    return held.getvalue()


def unpack(content: bytes, path: Path) -> Content:
    """
    What the file *path*, whose bytes are *content*, holds.

    Raises: StoreError (it is damaged, foreign, too large, or of a format that this perfwatt does not know).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > MOST_BYTES:
                raise StoreError(path, f"claims to hold {size:,} bytes; the most is {MOST_BYTES:,}")
            if DOCUMENT not in archive.namelist():
                raise StoreError(path, f"is no model: it has no {DOCUMENT}")
            document = json.loads(archive.read(DOCUMENT))
            found = document.get("format") if isinstance(document, dict) else None
            if found != FORMAT:
                raise StoreError(path, f"is of format {found!r}; this perfwatt reads {FORMAT!r}")
            arrays = {
                member.filename.removesuffix(".npy"): _array(archive.read(member), member.filename, path)
                for member in members
                if member.filename != DOCUMENT
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise StoreError(path, f"is damaged: {error}") from error
    return Content(document, arrays)


def write(path: Path, content: bytes, files: Files = FILES) -> None:
    """
    Put a file there whole or not at all.

    Raises: StoreError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        files.make_folder(path.parent)
        try:
            temporary.write_bytes(content)
            files.commit(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(path, f"cannot be written: {error.strerror or error}") from error


def read(path: Path) -> bytes:
    """
    The bytes of a file.

    Raises: StoreError.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(path, f"cannot be read: {error.strerror or error}") from error


def checksum(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _array(member: bytes, name: str, path: Path) -> Array:
    """
    An array, whose header is believed only as far as the bytes that follow it.

    Raises: StoreError, ValueError (no such header).
    """
    if not name.endswith(".npy") or not _NAME.fullmatch(name.removesuffix(".npy")):
        raise StoreError(path, f"holds {name!r}, which is no array of a model")
    held = io.BytesIO(member)
    if npy.read_magic(held) != (1, 0):
        raise StoreError(path, f"array {name!r} is of another version than 1.0")
    shape, fortran, dtype = npy.read_array_header_1_0(held)
    if dtype.kind not in _KINDS or fortran:
        raise StoreError(path, f"array {name!r} is of {dtype}: only numbers and truth values are read")
    bytes_left = len(member) - held.tell()
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != bytes_left:
        raise StoreError(path, f"array {name!r} of {shape} {dtype} is not the {bytes_left:,} bytes that are there")
    return np.frombuffer(member, dtype, offset=held.tell()).reshape(shape)
