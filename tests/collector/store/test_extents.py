"""What footers say of the subjects in a segment."""

from pathlib import Path

import pytest

from collector.errors import StoreError
from collector.store import Store

LONG = "GPU-" + "f" * 200


def test_extents_tell_the_range_of_devices_and_the_rows_of_each_segment(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for devices in (["b", "a", "c"], ["d", LONG]):
        store.write(
            "device_samples", {"device": devices, "time": list(range(len(devices))), "source": ["s"] * len(devices)}
        )
    segments = store.segments("device_samples")
    found = store.extents(segments)
    assert [(extent.segment, extent.rows) for extent in found] == [(segments[0], 3), (segments[1], 2)]
    assert (found[0].low, found[0].high) == ("a", "c")
    # A footer may leave out words that are long, or cut them; what it says holds.
    assert found[1].low is None or found[1].low <= LONG
    assert found[1].high is None or found[1].high >= "d"
    assert store.extents([]) == []


def test_a_segment_without_a_footer_is_named(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    (segment,) = store.write("device_samples", {"device": ["a"], "time": [0], "source": ["s"]})
    segment.path.write_bytes(b"PAR1")
    with pytest.raises(StoreError):
        store.extents([segment])
