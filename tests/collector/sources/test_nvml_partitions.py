"""MIG: a board and its instances, without counting anything twice."""

from typing import Any

import pytest

from collector.catalogue import ENERGY, MEMORY_TOTAL, MEMORY_USED, POWER, UTILIZATION, Scope, metrics

MIB = 1 << 20
BOARD = "GPU-00000000-0000-4000-8000-000000000000"


def test_instances_are_devices_with_the_board_as_parent(bench: Any, nvml: Any) -> None:
    nvml.device[0].instances = 3
    devices = bench.open().read().devices
    board, *instances = devices
    assert (board.id, board.parent, board.mode) == (BOARD, None, "mig")
    assert [device.parent for device in instances] == [BOARD] * 3
    assert [device.partition for device in instances] == ["3g.40gb", "2g.20gb", "1g.10gb"]
    assert [device.ordinal for device in instances] == [0, 1, 2]
    assert all(device.id.startswith("MIG-") and device.bus == board.bus for device in instances)
    assert {(device.power_method, device.power_limit_w) for device in instances} == {(None, None)}


def test_power_and_energy_are_the_boards_alone(bench: Any, nvml: Any) -> None:
    # Asked for an instance, the library gives the whole board's; a sum over devices would be four times too high.
    nvml.device[0].instances = 3
    bench.open().read()
    nvml.advance(1)
    board, *instances = bench.read().samples
    assert POWER in board.values
    assert ENERGY in board.values
    assert [set(sample.values) for sample in instances] == [
        {metric for metric in metrics(Scope.DEVICE) if metric.column.startswith("memory_")}
    ] * 3
    assert [sample.text for sample in instances] == [{}] * 3


def test_an_instance_has_its_own_memory(bench: Any, nvml: Any) -> None:
    nvml.device[0].instances = 2
    board, first, second = bench.open().read().samples
    assert (first.values[MEMORY_TOTAL], first.values[MEMORY_USED]) == (40448 * MIB, 17 * MIB)
    assert second.values[MEMORY_TOTAL] == 20096 * MIB
    assert board.values[MEMORY_TOTAL] == 81559 * MIB


def test_a_board_in_mig_mode_has_no_utilisation_and_gets_it_back(bench: Any, nvml: Any) -> None:
    nvml.device[0].instances = 2
    (board, *_) = bench.open().read().samples
    assert UTILIZATION not in board.values
    nvml.device[0].instances = 0
    nvml.advance(10)
    reading = bench.read()
    (board,) = reading.samples
    assert board.values[UTILIZATION] == 0.5
    assert len(reading.gone) == 2


def test_mig_that_is_switched_on_brings_instances_and_keeps_the_integral(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.advance(9)
    before = bench.values()["energy_integrated_j"]
    nvml.device[0].instances = 2
    nvml.advance(1)
    reading = bench.read()
    assert len(reading.samples) == 3
    assert [device.mode for device in reading.devices] == ["mig", None, None]
    assert bench.values()["energy_integrated_j"] > before > 0
    assert reading.gone == []


def test_another_layout_ends_the_old_instances(bench: Any, nvml: Any) -> None:
    nvml.device[0].instances = 2
    first = {device.id for device in bench.open().read().devices} - {BOARD}
    nvml.device[0].layout = 1
    nvml.advance(10)
    reading = bench.read()
    assert set(reading.gone) == first
    assert len({device.id for device in reading.devices} - first - {BOARD}) == 2


def test_an_instance_that_was_destroyed_between_looks_is_gone_at_once(bench: Any, nvml: Any) -> None:
    nvml.device[0].instances = 3
    *_, third = bench.open().read().devices
    nvml.device[0].instances = 2
    nvml.advance(1)
    reading = bench.read()
    assert reading.gone == [third.id]
    assert len(reading.samples) == 3
    nvml.advance(1)
    assert bench.read().gone == []


def test_a_lost_board_takes_its_instances_with_it(bench: Any, nvml: Any) -> None:
    from collector.sources.one_by_one import OneByOne

    nvml.device[0].instances = 2
    sources = OneByOne(bench.open().sources)
    (first, _) = sources.tick(5)
    nvml.device[0].lost = 1
    gone = {device for reading in sources.tick(5) for device in reading.gone}
    assert gone == {device.id for device in first.devices}


def test_activity_of_an_instance_is_its_own(bench: Any, nvml: Any) -> None:
    nvml.device[0].instances = 2
    bench.open(activity=True).read()
    nvml.advance(1)
    board, first, second = (
        {metric.column: value for metric, value in sample.values.items()} for sample in bench.read().samples
    )
    assert [values["activity_sm_ratio"] for values in (board, first, second)] == pytest.approx([0.20, 0.21, 0.22])
