"""Of one cause one incident tells."""

import polars as pl
import pytest

from analytics.anomalies.causes import without_stalls_of_absence
from analytics.anomalies.findings import Stretch
from analytics.anomalies.rules import MissingRule, StalledRule, parse_rules
from analytics.frames import schema
from collector.moments import NS
from collector.store.schema import ALLOCATIONS

START_NS = 1_767_225_600 * NS
MINUTE_NS = 60 * NS
UNTIL_NS = START_NS + 600 * MINUTE_NS
(ABSENT,) = parse_rules().of(MissingRule)
(STALLED,) = parse_rules().of(StalledRule)


def absence(first: int, last: int, device: str = "GPU-1") -> Stretch:
    return Stretch(rule=ABSENT, scope="device", name=device, host="h1", start_ns=START_NS + first * MINUTE_NS,
                   end_ns=START_NS + last * MINUTE_NS, says={"stalls": ""})  # fmt: skip


def stall(first: int, last: int, workload: str = "train-7") -> Stretch:
    says = {"what": "steps", "before": 0.2, "waits": ""}
    return Stretch(rule=STALLED, scope="workload", name=workload, host="h1", start_ns=START_NS + first * MINUTE_NS,
                   end_ns=START_NS + last * MINUTE_NS, says=says)  # fmt: skip


def told(*found: Stretch, device: str = "GPU-1") -> dict[str, tuple[float, float]]:
    """Minutes of what is left that lasted for long enough, and what absences say."""
    rows = [{"device": device, "workload": "train-7", "time": START_NS, "start": START_NS - 60 * MINUTE_NS}]
    times = {"time", "start", "end"}
    wanted = schema(ALLOCATIONS)
    physical = pl.Schema({name: pl.Int64() if name in times else kind for name, kind in wanted.items()})
    held = pl.DataFrame(rows, schema=physical).with_columns(pl.col(name).cast(wanted[name]) for name in times)
    left = without_stalls_of_absence(found, held.lazy(), UNTIL_NS)
    return {
        one.rule.says.format_map(one.says): ((one.start_ns - START_NS) / MINUTE_NS, (one.end_ns - START_NS) / MINUTE_NS)
        for one in left
        if one.enough_ns is not None
    }


HANGS = "it makes no steps any more, after 0.2 a second"


def test_what_hangs_without_its_device_is_told_by_the_device_that_is_missing() -> None:
    assert told(stall(100, 165), absence(102, 160)) == {
        "nothing was read, and train-7 makes no steps without it": (102, 160)
    }


def test_what_hangs_for_long_after_the_device_is_back_is_stalled_from_then_on() -> None:
    found = told(stall(100, 200), absence(102, 160))
    assert found[HANGS] == (160, 200)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("first", "device"), [(130, "GPU-1"), (102, "GPU-2")], ids=["told before it went", "a device that it does not hold"]
)
def test_what_hangs_for_another_reason_is_told_by_itself(first: int, device: str) -> None:
    found = told(stall(100, 165), absence(first, 160), device=device)
    assert found[HANGS] == (100, 165)
    assert found["nothing was read"] == (first, 160)


def test_devices_that_went_one_after_the_other_each_tell() -> None:
    assert told(stall(100, 190), absence(102, 160), absence(158, 185)) == {
        "nothing was read, and train-7 makes no steps without it": (158, 185)
    }
