"""What a power reading means, and the energy counter against integrated power."""

import itertools
from typing import Any

import pytest

from collector.catalogue import ENERGY, POWER, POWER_AVERAGE, POWER_INSTANT, POWER_MODULE
from collector.sources.nvml_energy import CounterPower, EnergyCheck, power_meaning

PASCAL, TURING, AMPERE, ADA, HOPPER = 4, 6, 7, 8, 9


@pytest.mark.parametrize(
    ("metrics", "architecture", "capability", "driver", "expected"),
    [
        ({POWER_AVERAGE, POWER_INSTANT, POWER}, HOPPER, (9, 0), "590.48.01", (POWER_AVERAGE, "average", 1.0)),
        ({POWER_INSTANT, POWER}, AMPERE, (8, 0), "550.54.15", (POWER_INSTANT, "instant", 0.025)),
        ({POWER_INSTANT, POWER}, TURING, (7, 5), "595.71.05", (POWER_INSTANT, "instant", 0.1)),
        ({POWER}, HOPPER, (9, 0), "525.60.13", (POWER, "average", 1.0)),
        ({POWER}, AMPERE, (8, 6), "525.60.13", (POWER, "average", 1.0)),
        ({POWER}, AMPERE, (8, 6), "530.30.02", (POWER, "instant", 0.1)),
        ({POWER}, ADA, (8, 9), "530.30.02", (POWER, "instant", 0.1)),
        ({POWER}, AMPERE, (8, 0), "525.60.13", (POWER, "instant", 0.025)),
        ({POWER}, PASCAL, (6, 0), "470.82.01", (POWER, "instant", 0.01)),
        ({POWER}, 3, (5, 2), "470.82.01", (POWER, "average", None)),
        ({ENERGY}, HOPPER, (9, 0), "590.48.01", (ENERGY, "counter", None)),
    ],
)
def test_the_meaning_of_power_goes_by_what_is_read_by_architecture_and_by_driver(
    metrics: Any, architecture: int, capability: tuple[int, int], driver: str, expected: tuple[Any, str, float | None]
) -> None:
    meaning = power_meaning(metrics, architecture=architecture, capability=capability, driver=driver)
    assert meaning is not None
    assert (meaning.metric, meaning.method, meaning.window_s) == expected
    assert meaning.scope == "device"


def test_power_of_a_module_is_called_so() -> None:
    meaning = power_meaning({POWER_MODULE, ENERGY, POWER}, architecture=9, capability=(9, 0), driver="560.1")
    assert meaning is not None
    assert (meaning.metric, meaning.scope) == (POWER_MODULE, "module")


def test_a_board_that_tells_neither_power_nor_energy_has_no_meaning() -> None:
    assert power_meaning(set(), architecture=9, capability=(9, 0), driver="560.1") is None


def test_the_average_lags_by_its_window_and_the_instant_does_not(bench: Any, nvml: Any) -> None:
    nvml.device[0].swing_w, nvml.device[0].period_s = 300, 20
    values = bench.open().values()
    average, instant = (nvml.energy_j(0, 1000 - window, 1000) / window for window in (1.0, 0.025))
    assert values["power_average_w"] == pytest.approx(average, abs=0.002)
    assert values["power_instant_w"] == pytest.approx(instant, abs=0.05)
    assert values["power_w"] == values["power_average_w"]
    assert abs(average - instant) > 20


def test_an_a100_has_instant_power_only(bench: Any, nvml: Any) -> None:
    nvml.device[0].architecture = 70
    (sample,) = bench.open().read().samples
    assert sample.text["power_method"] == "instant"
    assert sample.values[POWER] == sample.values[POWER_INSTANT]
    assert POWER_AVERAGE not in sample.values
    (device,) = bench.open().read().devices
    assert device.power_window_s == 0.025


def test_an_old_driver_without_the_fields_has_power_by_the_plain_function(bench: Any, nvml: Any) -> None:
    nvml.deny(*(f"field {number} {scope}" for number in (185, 186) for scope in (0, 1, 2)))
    nvml.switches.driver = b"525.60.13"
    nvml.device[0].architecture = 7
    (sample,) = bench.open().read().samples
    assert sample.text["power_method"] == "average"
    assert sample.values[POWER] == pytest.approx(nvml.energy_j(0, 999, 1000), abs=0.002)


def test_integrated_power_is_the_true_energy(bench: Any, nvml: Any) -> None:
    bench.open().read()
    for _ in range(120):
        nvml.advance(1)
        values = bench.values()
    # The mean over a second lags half a second; over whole periods of the load that is nothing.
    assert values["energy_integrated_j"] == pytest.approx(nvml.energy_j(0, 1000, 1120), rel=1e-3)
    assert values["energy_agreement_ratio"] == pytest.approx(1, abs=0.01)


def test_readings_further_apart_than_the_gap_are_not_integrated(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.advance(1)
    before = bench.values()["energy_integrated_j"]
    nvml.advance(10.5)
    assert bench.values()["energy_integrated_j"] == before
    nvml.advance(10)
    assert bench.values()["energy_integrated_j"] > before


def test_where_nothing_can_be_integrated_there_is_no_integral(bench: Any, nvml: Any) -> None:
    bench.open(max_gap_s=5.0)
    for _ in range(5):
        assert "energy_integrated_j" not in bench.values()
        nvml.advance(15)


def test_the_ratio_waits_for_half_a_minute_of_evidence(bench: Any, nvml: Any) -> None:
    bench.open().read()
    for second in range(1, 60):
        nvml.advance(1)
        assert ("energy_agreement_ratio" in bench.values()) == (second >= 31)


def test_a_counter_that_counts_too_much_is_told_after_minutes_and_taken_back(bench: Any, nvml: Any) -> None:
    bench.open().read()
    nvml.device[0].counter_gain = 1.7
    events = []
    nvml.advance(1)
    bench.read()  # where the gain sets in the counter jumps
    bench.close()
    bench.open().read()
    for _ in range(400):
        nvml.advance(1)
        events += [(nvml.monotonic(), event) for event in bench.read().events]
    ((when, event),) = events
    assert (event.kind, event.severity.value, event.device) == ("energy_disagrees", "warning", bench.sources[0].id)
    assert event.value == pytest.approx(1.7, abs=0.05)
    assert "1.7" in event.message
    assert 140 <= when - 1001 <= 180


def test_a_counter_that_jumps_about_the_bound_is_told_once() -> None:
    check = EnergyCheck()
    energy, kinds = 0.0, []
    for second in range(3000):
        gain = 1.2 if 500 <= second < 1500 else 1.0
        gain += 0.02 if second % 20 < 10 else -0.02
        energy += 100 * gain
        if finding := check.take(second, 100, energy_j=energy):
            kinds.append((finding.kind, second))
    assert [kind for kind, _ in kinds] == ["energy_disagrees", "energy_agrees"]
    assert 500 < kinds[0][1] < 1000
    assert 1500 < kinds[1][1] < 2100


def test_what_disagreed_agrees_again_only_well_within_the_bounds() -> None:
    check = EnergyCheck()
    energy, kinds = 0.0, []
    for second in range(4000):
        energy += 100 * (1.3 if second < 1000 else 1.08 if second < 3000 else 1.02)
        if finding := check.take(second, 100, energy_j=energy):
            kinds.append((finding.kind, second // 1000))
    assert kinds == [("energy_disagrees", 0), ("energy_agrees", 3)]


def test_a_short_disagreement_is_not_told() -> None:
    check = EnergyCheck()
    energy, kinds = 0.0, []
    for second in range(1500):
        energy += 100 * (2.0 if 500 <= second < 560 else 1.0)
        if finding := check.take(second, 100, energy_j=energy):
            kinds.append(finding.kind)
    # 60 s at twice the rate keep the five-minute ratio at 1.2 for long enough to tell; 20 s do not.
    assert kinds == ["energy_disagrees", "energy_agrees"]
    check, energy, kinds = EnergyCheck(), 0.0, []
    for second in range(1500):
        energy += 100 * (2.0 if 500 <= second < 520 else 1.0)
        if finding := check.take(second, 100, energy_j=energy):
            kinds.append(finding.kind)
    assert kinds == []


def test_a_counter_that_fell_is_a_reset_and_never_negative_energy(bench: Any, nvml: Any) -> None:
    bench.open().read()
    for _ in range(60):
        nvml.advance(1)
        bench.read()
    nvml.device[0].reset_at_mj = round(nvml.energy_j(0, 0, nvml.monotonic()) * 1e3)
    nvml.advance(1)
    reading = bench.read()
    (event,) = reading.events
    assert (event.kind, event.severity.value) == ("energy_counter_reset", "info")
    assert reading.samples[0].values[ENERGY] < 1000  # as the hardware gives it
    for _ in range(60):
        nvml.advance(1)
        values = bench.values()
    assert values["energy_agreement_ratio"] == pytest.approx(1, abs=0.01)
    assert values["energy_integrated_j"] == pytest.approx(nvml.energy_j(0, 1000, 1121), rel=0.01)


def test_the_counter_of_a_module_is_compared_with_the_module(bench: Any, nvml: Any) -> None:
    device = nvml.device[0]
    device.module_scope, device.swing_w = 1, 0
    device.counter_gain = (device.mean_w + 250) / device.mean_w  # the counter covers the CPU, too
    events, devices = [], []
    bench.open()
    for _ in range(600):
        nvml.advance(1)
        reading = bench.read()
        events += reading.events
        devices += reading.devices
    assert [event.kind for event in events] == ["energy_counter_scope"]
    assert [device.energy_scope for device in devices] == ["device", "module"]
    values = bench.values()
    assert values["energy_agreement_ratio"] == pytest.approx(1, abs=0.01)
    assert (values["power_w"], values["power_module_w"]) == (400, 650)


def test_a_module_without_power_of_its_gpu_says_that_power_is_the_modules(bench: Any, nvml: Any) -> None:
    nvml.device[0].module_scope = 2
    (sample,) = bench.open().read().samples
    assert sample.text["power_scope"] == "module"
    assert sample.values[POWER] == sample.values[POWER_MODULE]
    assert POWER_INSTANT not in sample.values


def test_equal_successive_counter_readings_are_not_zero_watts(bench: Any, nvml: Any) -> None:
    nvml.deny("nvmlDeviceGetPowerUsage", *(f"field {number} {scope}" for number in (185, 186) for scope in (0, 1, 2)))
    bench.open().read()
    powers = []
    for _ in range(100):
        nvml.advance(0.03)  # faster than the counter's 100 ms
        powers.append(bench.values().get("power_w"))
    told = [power for power in powers if power is not None]
    assert None in powers
    assert min(told) > 100
    assert sum(told) / len(told) == pytest.approx(nvml.energy_j(0, 1000, 1003) / 3, rel=0.02)
    assert bench.read().samples[0].text["power_method"] == "counter"


def test_power_from_a_counter_starts_anew_when_it_fell() -> None:
    power = CounterPower()
    readings = [(0.0, 100.0), (1.0, 150.0), (2.0, 10.0), (3.0, 60.0)]
    assert [power.of(*reading) for reading in readings] == [None, 50.0, None, 50.0]


def test_the_tick_of_the_counter_does_not_bend_the_ratio(bench: Any, nvml: Any) -> None:
    for tick_ms, period_s in itertools.product((20, 100), (0.05, 1.0)):
        nvml.reset()
        nvml.switches.tick_ms = tick_ms
        bench.open().read()
        for _ in range(round(60 / period_s)):
            nvml.advance(period_s)
            ratio = bench.values().get("energy_agreement_ratio")
        assert ratio == pytest.approx(1, abs=0.01)
