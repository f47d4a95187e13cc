"""Readings survive the way from a worker to the agent."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import wire
from collector.catalogue import CATALOGUE, ENERGY, POWER, TEMPERATURE, Metric, Scope, metrics
from collector.sample import Allocation, Device, Event, Gap, Process, Reading, Sample, Severity

DEVICE = Device(id="GPU-1", host="node1", vendor="nvidia", model="H100", ordinal=0, power_limit_w=700.0)


def across(*readings: Reading, encoder: wire.Encoder | None = None) -> list[Reading]:
    encoder, decoder, unframer = encoder or wire.Encoder(), wire.Decoder(), wire.Unframer()
    data = wire.frame((wire.TICK, 1, True, 0, [encoder.encode(reading) for reading in readings], {}))
    (message,) = unframer.feed(data)
    return [decoder.decode(reading) for reading in message[4]]


def sample(values: dict[Metric, float]) -> Sample:
    return Sample(scope=Scope.DEVICE, subject="GPU-1", host="node1", time_ns=123, values=values, text={"a": "b"})


def test_everything_in_a_reading_arrives() -> None:
    reading = Reading(
        source="nvml:GPU-1",
        samples=[sample({POWER: 100.5, ENERGY: 1e9})],
        devices=[DEVICE],
        events=[Event(time_ns=1, kind="xid", host="node1", severity=Severity.CRITICAL, code="79", value=1.0)],
        allocations=[Allocation(time_ns=1, workload="j", device="GPU-1", host="node1", start_ns=1)],
        processes=[Process(time_ns=1, device="GPU-1", host="node1", pid=7, name="python")],
        gone=("GPU-2",),
        gap=Gap(reason="timeout", message="no answer"),
        read_s=0.25,
    )
    assert across(reading) == [reading]


def plausible(metric: Metric) -> st.SearchStrategy[float]:
    return st.floats(min_value=metric.low, max_value=metric.high, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.sampled_from(metrics(Scope.DEVICE)), unique=True).flatmap(
        lambda found: st.fixed_dictionaries({metric: plausible(metric) for metric in found})
    )
)
def test_plausible_values_arrive_bit_for_bit(values: dict[Metric, float]) -> None:
    (reading,) = across(Reading(source="a", samples=[sample(values)]))
    assert list(reading.samples[0].values.items()) == list(values.items())


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (POWER, math.nan),
        (POWER, math.inf),
        (POWER, -1.0),
        (POWER, 2147483.647),
        (POWER, 9.2e18),
        (TEMPERATURE, -274.0),
        (ENERGY, -math.inf),
    ],
)
def test_a_value_that_cannot_be_true_is_left_out_and_counted(metric: Metric, value: float) -> None:
    decoder = wire.Decoder()
    other = next(known for known in (POWER, ENERGY) if known is not metric)
    reading = Reading(source="a", samples=[sample({metric: value, other: 5.0})])
    found = decoder.decode(wire.Encoder().encode(reading))
    assert dict(found.samples[0].values) == {other: 5.0}
    assert decoder.dropped == {"a": {metric: 1}}
    assert not metric.plausible(value)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: f"{metric.scope.value}.{metric.column}")
def test_the_door_and_the_catalogue_agree_on_what_is_plausible(metric: Metric) -> None:
    tried = [0.0, -1.0, 1e30, math.nan, math.inf, *(v for v in (metric.low, metric.high) if v is not None)]
    for value in tried:
        reading = Reading(source="a", samples=[sample({metric: value})])
        (found,) = across(reading)
        assert bool(found.samples[0].values) == metric.plausible(value), value


def test_a_device_is_sent_when_it_is_new_changed_or_back() -> None:
    encoder = wire.Encoder()
    changed = Device(id="GPU-1", host="node1", vendor="nvidia", model="H100", power_limit_w=500.0)

    def sent(device: Device, gone: Iterable[str] = ()) -> int:
        (found,) = across(Reading(source="a", devices=[device], gone=tuple(gone)), encoder=encoder)
        return len(found.devices)

    assert [sent(DEVICE), sent(DEVICE), sent(changed), sent(changed)] == [1, 0, 1, 0]
    across(Reading(source="a", gone=("GPU-1",)), encoder=encoder)
    assert sent(changed) == 1


@given(st.lists(st.integers(min_value=1, max_value=50)))
def test_messages_arrive_whole_however_the_bytes_are_cut(cuts: list[int]) -> None:
    sent = [(wire.READY, ("a", "b")), (wire.FAILED, "x", "y" * 100), (wire.HELLO, wire.VERSION)]
    data = b"".join(wire.frame(message) for message in sent)
    unframer, found = wire.Unframer(), []
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        found += list(unframer.feed(piece))
    assert found == sent


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\x03\x00\x00\x00abc", wire.frame((99, 1)), wire.frame("text")])  # type: ignore[arg-type]
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        list(wire.Unframer().feed(data))


def test_a_page_tells_the_order_once_and_the_mark_always() -> None:
    order = wire.Order(name="a", opener="m:f", options={"password": "x"}, host="n", period_s=1.0, deadline_s=0.5)
    page = wire.Page.create(order)
    assert page.order() == order
    with pytest.raises(EOFError):
        page.order()
    assert page.marked() == ""
    page.mark("nvml:GPU-é" * 40)
    assert page.marked().startswith("nvml:GPU-é")
    page.mark("b")
    assert page.marked() == "b"
    page.close()
