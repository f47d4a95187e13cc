"""The format: what goes in comes out, and nothing that a file claims is believed."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from analytics.models import files
from collector.errors import StoreError

HERE = Path("models/m/1.npz")
DOCUMENT = {"kind": "linear", "rows": 3}


class Trap:
    """Executes when it is unpickled."""

    touched = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Trap, "touched", True)


def archive(**members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "."), content)
    return held.getvalue()


def member(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array(held, array, version=(1, 0), allow_pickle=allow_pickle)
    return held.getvalue()


MODEL = json.dumps({"format": files.FORMAT}).encode()


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i8", "u1", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_what_is_packed_is_unpacked(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    document, arrays = files.unpack(files.pack(DOCUMENT, {"a": array, "b2": array.T}), HERE)
    assert document == {**DOCUMENT, "format": files.FORMAT}
    assert arrays["a"].dtype == array.dtype
    np.testing.assert_array_equal(arrays["a"], array)
    np.testing.assert_array_equal(arrays["b2"], array.T)


def test_equal_content_is_equal_bytes() -> None:
    one, two = np.array([1.0, 2.0]), np.array([3])
    assert files.pack(DOCUMENT, {"a": one, "b": two}) == files.pack(
        dict(reversed(DOCUMENT.items())), {"b": two, "a": one}
    )


def test_numpy_reads_the_arrays_too(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(files.pack(DOCUMENT, {"a": np.array([1.5])}))
    with np.load(tmp_path / "m.npz", allow_pickle=False) as loaded:
        assert loaded["a"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.array([{}], dtype=object)}, "only numbers"),
        ({"a": np.array(["x"])}, "only numbers"),
        ({"../a": np.array([1])}, "no name of an array"),
    ],
)
def test_what_is_no_number_is_not_packed(arrays: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        files.pack(DOCUMENT, arrays)


def test_a_number_that_is_none_is_not_packed() -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.pack({"error": float("nan")}, {})


def test_a_pickle_is_not_executed() -> None:
    trap = member(np.array([Trap()], dtype=object), allow_pickle=True)
    for content in (archive(model__json=MODEL, a__npy=trap), archive(model__json=MODEL, a__npy=pickle.dumps(Trap()))):
        with pytest.raises(StoreError, match=r"m/1\.npz"):
            files.unpack(content, HERE)
    assert not Trap.touched


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (b"not a zip at all", "is damaged"),
        (archive(a__npy=member(np.array([1]))), "is no model"),
        (archive(model__json=b"{"), "is damaged"),
        (archive(model__json=b"[]"), "of format None"),
        (archive(model__json=b'{"format": "perfwatt-model/2"}'), "'perfwatt-model/2'; this perfwatt reads"),
        (archive(model__json=MODEL, a__txt=b"x"), "is no array"),
        (archive(model__json=MODEL, a__npy=member(np.array([1, 2]))[:-1]), "15 bytes that are there"),
        (archive(model__json=MODEL, a__npy=member(np.array(["x"]))), "only numbers"),
        (
            archive(model__json=MODEL, a__npy=member(np.zeros(4)).replace(b"(4,)", b"(9,)")),
            "is not the 32 bytes that are there",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named_and_refused(content: bytes, said: str) -> None:
    with pytest.raises(StoreError, match=r"m/1\.npz") as raised:
        files.unpack(content, HERE)
    assert said in str(raised.value)


def test_every_cut_and_most_flipped_bytes_are_found() -> None:
    whole = files.pack(DOCUMENT, {"a": np.arange(50.0)})
    for length in range(0, len(whole), 7):
        with pytest.raises(StoreError):
            files.unpack(whole[:length], HERE)
    for at in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        try:
            document, arrays = files.unpack(bytes(damaged), HERE)
        except StoreError:
            continue
        # What the zip's own sums do not cover: dates, flags of the system, comments.
        assert document["rows"] == 3
        assert list(arrays) in ([], ["a"])
        assert files.checksum(bytes(damaged)) != files.checksum(whole)


def test_a_file_that_unpacks_to_far_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 100_000)
    content = files.pack({}, {"a": np.zeros(100_000)})
    assert len(content) < 10_000
    with pytest.raises(StoreError, match="the most is 100,000"):
        files.unpack(content, HERE)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    class Full(files.Files):
        def commit(self, temporary: Path, final: Path) -> None:
            raise OSError(28, "No space left on device")

    path = tmp_path / "models" / "m" / "1.npz"
    with pytest.raises(StoreError, match=r"1\.npz: cannot be written: No space left"):
        files.write(path, b"x", Full())
    assert list(path.parent.iterdir()) == []
    files.write(path, b"x")
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"x"]
