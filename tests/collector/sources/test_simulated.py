"""The simulated fleet: its physics, its sensors, its faults; the same in bulk and live."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from collector import catalogue as c
from collector.catalogue import Scope, metrics
from collector.errors import ConfigError
from collector.sample import Coded, Reading, Sample
from collector.sources.simulated import check_options, faults, fleet, open_simulated, simulate, working
from collector.sources.simulated_fleet import CELL_S, NS, SKUS, build, parse
from collector.sources.simulated_history import Simulation
from collector.sources.simulated_physics import BLOCK_NS, CELLS, SUPPLY_EFFICIENCY, UNIT_W, high_seconds

DAY = 1_788_220_800 * NS  # a Tuesday, midnight UTC
HOUR = 3600 * NS
MIX = {"H100": 2.0, "B200": 1.0, "A100": 1.0, "MI300X": 1.0, "Gaudi3": 1.0}


def history(
    options: dict[str, Any], hours: float = 2, *, start: int = DAY, step_s: float = 10
) -> dict[str, dict[str, Any]]:
    """Columns of a stretch of history, text decoded."""
    parts: dict[str, dict[str, list[Any]]] = {}
    for tables in simulate({"origin": DAY // NS * NS, **options}, start, start + round(hours * HOUR), step_s):
        for table, columns in tables.items():
            for name, column in columns.items():
                parts.setdefault(table, {}).setdefault(name, []).append(decoded(column))
    return {t: {name: np.concatenate(arrays) for name, arrays in columns.items()} for t, columns in parts.items()}


def decoded(column: Any) -> Any:
    return np.array([*column.words, None], dtype=object)[column.codes] if isinstance(column, Coded) else column


def of(columns: dict[str, Any], device: str) -> dict[str, Any]:
    mine = columns["device"] == device
    return {name: column[mine] for name, column in columns.items()}


def live(options: dict[str, Any], moments: Iterable[int]) -> list[list[Reading]]:
    times = iter(moments)
    current = [next(times)]
    with open_simulated({"origin": DAY, **options}, "here", clock_ns=lambda: current[0]) as sources:
        ticks = [list(sources.tick(0.5))]
        for moment in times:
            current[0] = moment
            ticks.append(list(sources.tick(0.5)))
    return ticks


def samples(readings: Iterable[Reading], scope: Scope) -> list[Sample]:
    return [sample for reading in readings for sample in reading.samples if sample.scope is scope]


# --------------------------------------------------------------------------------------------- deterministic, one fleet


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, column in one.items():
        if column.dtype == object:
            assert column.tolist() == other[name].tolist(), name
        else:
            np.testing.assert_array_equal(column, other[name], err_msg=name)


def test_the_same_seed_gives_the_same_fleet_and_another_seed_another() -> None:
    one, again = history({"devices": 16, "faults": 0.5}), history({"devices": 16, "faults": 0.5})
    assert one.keys() == again.keys()
    for table in one:
        same(one[table], again[table])
    other = history({"devices": 16, "faults": 0.5, "seed": 1})["device_samples"]
    assert set(other["device"]).isdisjoint(one["device_samples"]["device"])


def test_a_stretch_cut_in_two_gives_the_same_samples_as_whole() -> None:
    options = {"devices": 16, "mix": MIX, "faults": 1.0}
    whole = history(options, 3)
    first, second = history(options, 1.5), history(options, 1.5, start=DAY + round(1.5 * HOUR))
    for table in ("device_samples", "host_samples", "facility_samples"):
        late = {name: column[whole[table]["time"] >= DAY + 1.5 * HOUR] for name, column in whole[table].items()}
        early = {name: column[whole[table]["time"] < DAY + 1.5 * HOUR] for name, column in whole[table].items()}
        same(early, first[table])
        same(late, second[table])


def test_a_coarser_step_gives_a_part_of_the_finer_one() -> None:
    fine, coarse = (history({"devices": 8}, 1, step_s=step)["device_samples"] for step in (1.0, 30.0))
    kept = fine["time"] % (30 * NS) == 0
    same({name: column[kept] for name, column in fine.items()}, coarse)


@pytest.mark.parametrize("options", [{"devices": 24, "mix": MIX, "faults": 2.0, "sites": 2}])
def test_live_shows_what_bulk_shows_at_the_same_moment(options: dict[str, Any]) -> None:
    bulk = history(options, 2, step_s=60)
    moments = [DAY + 41 * 60 * NS, DAY + 59 * 60 * NS, DAY + 61 * 60 * NS]
    for moment, readings in zip(moments, live(options, moments), strict=True):
        for scope, table, subject in (
            (Scope.DEVICE, "device_samples", "device"),
            (Scope.HOST, "host_samples", "host"),
            (Scope.WORKLOAD, "workload_samples", "workload"),
            (Scope.FACILITY, "facility_samples", "meter"),
        ):
            rows = bulk[table]
            at = np.flatnonzero(rows["time"] == moment)
            shown = {sample.subject: sample for sample in samples(readings, scope)}
            answering = {r.source for r in readings if r.gap is None}
            at = np.array([row for row in at if rows["source"][row] in answering])
            assert set(rows[subject][at]) == set(shown)
            for row in at:
                sample = shown[rows[subject][row]]
                expected = {m: rows[m.column][row] for m in metrics(scope) if m.column in rows}
                assert sample.values == {m: v for m, v in expected.items() if not math.isnan(v)}
                assert sample.time_ns == moment


def test_live_tells_of_every_event_and_allocation_that_bulk_writes() -> None:
    options = {"devices": 16, "faults": [{"kind": "device_lost", "subject": 3, "start": 1800, "end": 5400}]}
    bulk = history(options, 3)
    ticks = live(options, range(DAY, DAY + 3 * HOUR, 97 * NS))
    told = [event for tick in ticks for reading in tick for event in reading.events]
    last = DAY + 3 * HOUR // (97 * NS) * 97 * NS
    written = [
        (time, kind) for time, kind in zip(bulk["events"]["time"], bulk["events"]["kind"], strict=True) if time <= last
    ]
    assert sorted((event.time_ns, event.kind) for event in told) == sorted(written)
    held = {(a.workload, a.device, a.end_ns) for tick in ticks for r in tick for a in r.allocations}
    ends = bulk["allocations"]["end"].astype(np.int64)
    for row, end in enumerate(ends.tolist()):
        if max(end, bulk["allocations"]["time"][row].astype(np.int64)) <= last:
            end_ns = None if end == np.iinfo(np.int64).min else end
            assert (bulk["allocations"]["workload"][row], bulk["allocations"]["device"][row], end_ns) in held


def test_a_live_fleet_runs_faster_when_told_to() -> None:
    moments = [DAY + 100 * NS, DAY + 110 * NS]
    ticks = live({"devices": 8, "speed": 60.0}, moments)
    first, second = (samples(tick, Scope.DEVICE)[0].time_ns for tick in ticks)
    assert second - first == 600 * NS


def test_live_needs_an_origin_that_has_been() -> None:
    with pytest.raises(ConfigError, match="in the future"):
        live({"devices": 8, "origin": DAY + HOUR}, [DAY])


def test_a_clock_that_is_set_back_repeats_a_moment_and_breaks_nothing() -> None:
    ticks = live({"devices": 8}, [DAY + HOUR, DAY + HOUR - 1000 * NS])
    first, second = (samples(tick, Scope.DEVICE) for tick in ticks)
    assert first == second


def test_a_live_fleet_that_slept_for_hours_tells_what_happened_meanwhile() -> None:
    lost = {"kind": "device_lost", "subject": 3, "start": 4000, "end": 9000}
    _, late = live({"devices": 8, "faults": [lost]}, [DAY + 100 * NS, DAY + 4 * HOUR])
    assert [e.kind for r in late for e in r.events] == ["xid", "device_gone", "device_back"]


# -------------------------------------------------------------------------------------------------------------- physics


def test_every_value_is_plausible_by_the_catalogue_and_every_column_known() -> None:
    tables = history({"devices": 48, "mix": MIX, "sites": 2, "faults": 1.0}, 4)
    for scope, table in (
        (Scope.DEVICE, "device_samples"),
        (Scope.HOST, "host_samples"),
        (Scope.WORKLOAD, "workload_samples"),
        (Scope.FACILITY, "facility_samples"),
    ):
        known = {metric.column: metric for metric in metrics(scope)}
        measured = [name for name, column in tables[table].items() if column.dtype == np.float64]
        assert len(measured) >= 8
        for name in measured:
            values = tables[table][name][~np.isnan(tables[table][name])]
            assert values.size
            assert known[name].plausible(float(values.min())), name
            assert known[name].plausible(float(values.max())), name


def test_the_energy_counter_is_the_integral_of_true_power_times_the_sensors_gain() -> None:
    simulation = Simulation(parse({"devices": 16, "noise": 0}), DAY)
    for _ in range(2):
        block = simulation.advance()
    times = np.arange(block.start_ns, block.start_ns + 600 * NS, NS // 10)
    # A boxcar over each 100 ms, summed, is the integral; nothing of it comes from the counter's own arithmetic.
    grid = np.arange(block.start_ns, block.start_ns + 600 * NS, NS // 1000)
    place = (grid - block.start_ns) // (CELL_S * NS) + 1
    tau = (grid - block.start_ns) % (CELL_S * NS) / NS
    phase = block.wave_at[place] + block.wave_hz[place] * tau[:, None]
    high = np.where(block.wave_hz[place] > 0, np.mod(phase, 1.0) < block.duty[place], block.duty[place])
    power = block.low_w[place] + (block.high_w[place] - block.low_w[place]) * high
    integral = power.sum(axis=0) * 1e-3
    counter = simulation.sensors.devices(block, times)[c.ENERGY]
    gain = simulation.physics.parts.gain
    drawn = (counter[:, -1] - counter[:, 0]) / gain
    np.testing.assert_allclose(drawn, integral - power[-100:].sum(axis=0) * 1e-3, rtol=2e-4)


def test_integrated_power_agrees_with_the_counter() -> None:
    rows = history({"devices": 16, "noise": 1}, 2, step_s=1)["device_samples"]
    for device in set(rows["device"]):
        mine = of(rows, device)
        integral = float(np.trapezoid(mine["power_w"], mine["time"] / NS))
        assert integral == pytest.approx(mine["energy_j"][-1] - mine["energy_j"][0], rel=5e-3)


def test_the_square_wave_s_integral_is_what_adding_it_up_gives() -> None:
    rng = np.random.default_rng(1)
    at, hz, duty, span = (
        rng.uniform(0, 9, 50),
        rng.uniform(0.05, 2, 50),
        rng.uniform(0, 1, 50),
        rng.uniform(0.1, 10, 50),
    )
    grid = (np.arange(200_000) + 0.5) / 200_000
    added = (np.mod(at[:, None] + hz[:, None] * grid * span[:, None], 1.0) < duty[:, None]).mean(axis=1) * span
    np.testing.assert_allclose(high_seconds(at, hz, duty, span), added, atol=1e-3)


def test_a_steady_device_settles_where_its_thermal_resistance_says() -> None:
    simulation = Simulation(parse({"devices": 64, "noise": 0}), DAY)
    block = simulation.advance()
    made, host_of = simulation.physics.parts, simulation.fleet.host_of
    mean_w = np.diff(block.true_j, axis=0)[1:] / CELL_S
    found = 0
    for cell in range(20, CELLS):
        past = slice(cell - 12, cell)
        steady = (np.ptp(mean_w[past], axis=0) < 25) & (np.ptp(block.fan[past], axis=0) < 0.02)[host_of]
        air = block.inlet_c[cell][host_of] + made.preheat_c
        rise = made.resistance * (0.4 + 0.6 / block.fan[past].mean(axis=0)[host_of]) * mean_w[past].mean(axis=0)
        np.testing.assert_allclose(block.temperature_c[cell][steady], (air + rise)[steady], atol=2.0)
        found += int(steady.sum())
    assert found > 1000


def test_no_device_draws_more_than_its_limit_and_heavy_work_draws_nearly_all_of_it() -> None:
    simulation = Simulation(parse({"devices": 64, "mix": MIX}), DAY)
    highest = np.zeros(64)
    for _ in range(3):
        block = simulation.advance()
        assert (block.high_w[1:] <= block.limit_w + 0.5).all()
        highest = np.maximum(highest, (block.high_w[1:] / block.limit_w).max(axis=0))
    assert highest.max() > 0.97


def cap(value: float) -> dict[str, Any]:
    return {"kind": "power_cap", "subject": 0, "start": 1800, "end": 3600, "value": value}


def test_a_power_cap_lowers_power_clock_and_speed_and_throttle_seconds_grow() -> None:
    options: dict[str, Any] = {"devices": 16, "seed": 2}
    free, capped = history(options, 1), history({**options, "faults": [cap(0.5)]}, 1)
    rows, base = capped["device_samples"], free["device_samples"]
    host = rows["host"] == sorted(set(rows["host"]))[0]
    during = host & (rows["time"] >= DAY + 1900 * NS) & (base["utilization_ratio"] > 0.9)
    assert during.any()
    assert set(rows["power_limit_w"][during]) == {350.0}
    assert rows["power_w"][during].max() <= 350 * 1.07  # the sensor's gain and noise
    assert rows["clock_sm_hz"][during].mean() < base["clock_sm_hz"][during].mean()
    before = host & (rows["time"] < DAY + 1800 * NS)
    same({k: v[before] for k, v in rows.items()}, {k: v[before] for k, v in base.items()})

    def grown(columns: dict[str, Any]) -> float:
        late, early = columns["time"] == DAY + 3590 * NS, columns["time"] == DAY + 1800 * NS
        return float((columns["throttle_power_s"][late & host] - columns["throttle_power_s"][early & host]).sum())

    # Training is power-limited at any limit; the next test has work that is not.
    assert grown(rows) > 1000
    assert ((rows["throttling_power"] == 1) & during).any()

    def steps(tables: dict[str, dict[str, Any]]) -> float:
        work = tables["workload_samples"]
        return float(np.nansum(work["steps"][work["time"] == DAY + 3590 * NS]))

    assert steps(capped) < steps(free)


def test_throttle_seconds_grow_only_while_capped_where_the_work_fits_the_default_limit() -> None:
    options: dict[str, Any] = {"devices": 64, "seed": 1}
    free = history(options, 1)["device_samples"]
    light = [
        device
        for device in sorted(set(free["device"]))
        if not of(free, device)["throttling_power"].any() and of(free, device)["power_w"].min() > 300
    ]
    assert light
    host = of(free, light[0])["host"][0]
    number = build(parse(options)).host_names.index(host)
    capped = of(history({**options, "faults": [{**cap(0.4), "subject": number}]}, 1)["device_samples"], light[0])
    seconds = np.diff(capped["throttle_power_s"])
    during = (capped["time"][1:] > DAY + 1800 * NS) & (capped["time"][1:] <= DAY + 3600 * NS)
    assert seconds[during].sum() == pytest.approx(1790, abs=1)
    assert not seconds[~during].any()


def test_a_cap_saves_energy_for_each_step_of_training() -> None:
    """Dynamic power falls with V² f, work with f: measured cards spend 10 to 20 % less energy at 60 to 70 %."""
    spent = {}
    for value in (1.0, 0.65):
        simulation = Simulation(
            parse({"devices": 8, "seed": 2, "faults": [{**cap(value), "subject": 0, "start": 0, "end": 7200}]}), DAY
        )
        block = simulation.advance()
        (number, *_) = [n for n, job in enumerate(block.jobs) if job.kind == "training"] or pytest.skip("no training")
        devices = list(block.jobs[number].devices)
        joules = (block.true_j[-1, devices] - block.true_j[60, devices]).sum()
        spent[value] = joules / (block.job_steps[-1, number] - block.job_steps[59, number])
    assert 0.75 < spent[0.65] / spent[1.0] < 0.95


def test_training_devices_swing_together_and_idle_ones_do_not() -> None:
    simulation = Simulation(parse({"devices": 32, "noise": 0}), DAY)
    block = simulation.advance()
    job = next(job for job in block.jobs if job.kind == "training" and job.start_ns < block.start_ns)
    times = np.arange(block.start_ns + 1400 * NS, block.start_ns + 1430 * NS, NS // 10)
    power = simulation.sensors.true_power(block, times, 0.1)[:, list(job.devices)]
    assert (power.max(axis=0) - power.min(axis=0) > 0.2 * 700).all()
    assert np.corrcoef(power.T).min() > 0.9


def test_the_average_lags_behind_the_instant_by_its_window() -> None:
    simulation = Simulation(parse({"devices": 32, "noise": 0}), DAY)
    block = simulation.advance()
    job = next(job for job in block.jobs if job.kind == "training" and job.start_ns < block.start_ns)
    times = np.arange(block.start_ns + 1400 * NS, block.start_ns + 1430 * NS, NS // 10)
    values = simulation.sensors.devices(block, times)
    average, instant = (values[metric][job.devices[0]] for metric in (c.POWER, c.POWER_INSTANT))
    assert np.abs(np.diff(instant)).max() > 5 * np.abs(np.diff(average)).max()
    # Ten readings of 100 ms make up the second that the average looks back over.
    means = np.convolve(instant, np.ones(10) / 10, mode="valid")
    assert np.abs(means - average[9:]).max() < 0.1 * 700


def test_sensors_show_whole_steps() -> None:
    rows = history({"devices": 8, "mix": {"H100": 1}}, 1)["device_samples"]
    for column, step in (("temperature_c", 1.0), ("utilization_ratio", 0.01), ("clock_sm_hz", 15e6), ("power_w", 1e-3)):
        values = rows[column] / step
        np.testing.assert_allclose(values, np.rint(values), atol=1e-6, err_msg=column)


def test_the_energy_counter_moves_in_ticks_of_100_ms() -> None:
    simulation = Simulation(parse({"devices": 8}), DAY)
    block = simulation.advance()
    times = block.start_ns + np.arange(1000) * 10_000_000
    counter = simulation.sensors.devices(block, times)[c.ENERGY]
    assert (np.diff(counter).astype(bool).sum(axis=1) == 99).all()


def test_what_a_device_type_does_not_measure_is_absent() -> None:
    rows = history({"devices": 16, "mix": {"Gaudi3": 1, "MI300X": 1}}, 0.2)["device_samples"]
    counted = {device: not np.isnan(of(rows, device)["energy_j"]).any() for device in set(rows["device"])}
    assert {device[:2]: has for device, has in counted.items()} == {"AN": False, "0x": True}
    assert "power_instant_w" not in rows
    assert "xid_errors" not in rows


def test_hosts_and_sites_add_up() -> None:
    simulation = Simulation(parse({"devices": 32, "sites": 2, "mix": MIX}), DAY)
    block = simulation.advance()
    device_w = np.diff(block.true_j, axis=0)[1:] / CELL_S
    parts = device_w.reshape(CELLS, 4, 8).sum(axis=2) + block.cpu_w[1:] + block.dram_w[1:] + UNIT_W
    fans = block.platform_w[1:] * SUPPLY_EFFICIENCY - parts
    assert (fans > 0).all()
    assert (fans < 700).all()
    site = block.platform_w.reshape(CELLS + 1, 2, 2).sum(axis=2)
    np.testing.assert_allclose(site, block.site_w)
    pue = block.meter_w / block.site_w
    assert (pue > 1.05).all()
    assert (pue < 1.5).all()


def test_it_costs_more_to_cool_when_it_is_hot_outdoors() -> None:
    tables = history({"devices": 48, "sites": 3}, 24, step_s=600)["facility_samples"]
    pue = tables["meter_power_w"] / tables["it_power_w"]
    hot, cold = tables["outdoor_temperature_c"] > 28, tables["outdoor_temperature_c"] < 10
    assert pue[hot].min() > pue[cold].max()


# ----------------------------------------------------------------------------------------------------------------- jobs


def test_a_groups_tokens_are_counted_once_and_belong_to_devices_of_one_site() -> None:
    options = {"devices": 96, "sites": 2}
    tables = history(options, 1)
    work, held = tables["workload_samples"], tables["allocations"]
    pairs = list(zip(work["workload"].tolist(), work["time"].tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    sites = {host: host.split("-")[0] for host in set(held["host"])}
    for workload in set(held["workload"]):
        assert len({sites[host] for host in held["host"][held["workload"] == workload]}) == 1
    groups = [workload for workload in set(work["workload"]) if (held["workload"] == workload).sum() >= 8]
    assert groups


def test_counters_of_work_never_fall_and_serving_follows_the_day() -> None:
    work = history({"devices": 96}, 24, step_s=300)["workload_samples"]
    for workload in set(work["workload"]):
        mine = {name: column[work["workload"] == workload] for name, column in work.items()}
        for name in ("tokens_out", "steps", "samples", "requests"):
            assert (np.diff(mine[name][~np.isnan(mine[name])]) >= 0).all(), (workload, name)
    serving = ~np.isnan(work["throughput_tokens_per_s"])
    hour = work["time"] // HOUR % 24

    def rate(hours: set[int]) -> float:
        return float(np.nanmean(work["throughput_tokens_per_s"][serving & np.isin(hour, list(hours))]))

    assert rate({14, 15, 16, 17}) > 1.8 * rate({2, 3, 4, 5})


def test_no_device_has_two_jobs_at_once() -> None:
    simulation = Simulation(parse({"devices": 64}), DAY)
    seen: dict[str, Any] = {}
    for _ in range(30):
        seen |= {job.id: job for job in simulation.advance().jobs}
    for device in range(64):
        spans = sorted((job.start_ns, job.end_ns) for job in seen.values() if device in job.devices)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


# --------------------------------------------------------------------------------------------------------------- faults


def with_fault(
    kind: str, *, subject: int = 0, **more: Any
) -> tuple[dict[str, Any], dict[str, Any], Any, dict[str, Any]]:
    """Rows of one device with and without a fault from minute 30 to minute 60, which of them are inside, all tables."""
    options: dict[str, Any] = {"devices": 16, "seed": 2}
    fault = {"kind": kind, "subject": subject, "start": 1800, "end": 3600, **more}
    device = build(parse(options)).ids[0]
    tables = history({**options, "faults": [fault]}, 1.5)
    rows, base = of(tables["device_samples"], device), of(history(options, 1.5)["device_samples"], device)
    inside = (base["time"] >= DAY + 1800 * NS) & (base["time"] < DAY + 3600 * NS)
    return rows, base, inside, tables


def test_a_stuck_sensor_repeats_itself_exactly_in_its_window_while_the_counter_goes_on() -> None:
    rows, base, inside, _ = with_fault("power_stuck")
    assert len(set(rows["power_w"][inside])) == 1
    assert rows["power_w"][inside][0] == pytest.approx(base["power_w"][inside][0], rel=0.03)
    np.testing.assert_array_equal(rows["power_w"][~inside], base["power_w"][~inside])
    np.testing.assert_array_equal(rows["energy_j"], base["energy_j"])


def test_a_lost_device_has_no_rows_an_xid_79_and_counters_from_zero_when_back() -> None:
    rows, base, inside, tables = with_fault("device_lost")
    np.testing.assert_array_equal(rows["time"], base["time"][~inside])
    back = rows["time"] >= DAY + 3600 * NS
    assert rows["energy_j"][back][0] == 0.0
    assert rows["energy_j"][~back][-1] > 1e6
    events = tables["events"]
    mine = events["device"] == rows["device"][0]
    assert list(zip(events["kind"][mine], events["code"][mine], strict=True)) == [
        ("xid", "79"),
        ("device_gone", None),
        ("device_back", None),
    ]
    assert events["time"][mine].tolist() == [DAY + 1800 * NS, DAY + 1800 * NS, DAY + 3600 * NS]


def test_live_ends_the_series_of_a_lost_device_and_takes_it_up_again() -> None:
    lost = {"kind": "device_lost", "subject": 3, "start": 1800, "end": 2400}
    options = {"devices": 8, "faults": [lost]}
    device = build(parse(options)).ids[3]
    before, at, during, back = live(options, [DAY + s * NS for s in (1700, 1800, 1900, 2400)])
    assert device in {d.id for r in before for d in r.devices}
    assert [r.gone for r in at] == [(device,), ()] or (device,) in [r.gone for r in at]
    assert device not in {s.subject for s in samples(at, Scope.DEVICE) + samples(during, Scope.DEVICE)}
    assert not any(r.gone for r in during)
    assert device in {d.id for r in back for d in r.devices}
    assert device in {s.subject for s in samples(back, Scope.DEVICE)}


@pytest.mark.parametrize("kind", ["thermal_degradation", "fan_failure"])
def test_bad_cooling_heats_and_then_slows_a_busy_device(kind: str) -> None:
    rows, base, inside, _ = with_fault(kind, value=2.4 if kind == "thermal_degradation" else 0.25)
    late = inside & (base["time"] >= DAY + 2700 * NS)
    assert rows["temperature_c"][late].mean() > base["temperature_c"][late].mean() + 5
    assert rows["throttle_thermal_s"][-1] > 60
    assert rows["clock_sm_hz"][late].mean() < base["clock_sm_hz"][late].mean()
    assert rows["temperature_c"].max() <= 87 + 8


def test_a_power_brake_slows_a_whole_host_with_its_reason() -> None:
    rows, _, inside, tables = with_fault("power_brake")
    assert (rows["throttling_power_brake"] == inside).all()
    assert rows["throttle_power_brake_s"][-1] == 1800
    assert rows["clock_sm_hz"][inside].max() <= 0.2 * 1980e6
    braked = tables["device_samples"]["throttling_power_brake"] == 1
    assert set(tables["device_samples"]["host"][braked]) == {rows["host"][0]}


def test_a_straggler_slows_its_whole_group_at_unchanged_clocks() -> None:
    options: dict[str, Any] = {"devices": 16, "seed": 2}
    fault = {"kind": "straggler", "subject": 0, "start": 0, "end": 3600, "value": 0.6}
    slow, base = (history({**options, **more}, 1) for more in ({"faults": [fault]}, {}))
    device = build(parse(options)).ids[0]
    workload = base["allocations"]["workload"][base["allocations"]["device"] == device][0]
    ends = []
    for tables in (slow, base):
        work = tables["workload_samples"]
        steps = work["steps"][work["workload"] == workload]
        ends.append(steps[-1] - steps[0])
    assert ends[0] == pytest.approx(0.6 * ends[1], rel=0.05)
    group = np.isin(
        base["device_samples"]["device"], base["allocations"]["device"][base["allocations"]["workload"] == workload]
    )
    peers = group & (base["device_samples"]["device"] != device)
    waiting = slow["device_samples"]["activity_sm_ratio"][peers].mean()
    assert waiting < base["device_samples"]["activity_sm_ratio"][peers].mean()


def test_a_stuck_clock_gives_no_reason() -> None:
    rows, base, inside, _ = with_fault("clock_stuck")
    busy = inside & (base["utilization_ratio"] > 0.9)
    assert rows["clock_sm_hz"][busy].max() <= 0.5 * 1980e6
    assert not rows["throttling_power"][busy].any()
    assert not rows["throttling_thermal"][busy].any()


def test_a_hung_job_is_idle_but_allocated() -> None:
    rows, base, inside, tables = with_fault("idle_allocated")
    assert not rows["utilization_ratio"][inside].any()
    assert rows["power_w"][inside][2:].max() < 0.25 * 700
    assert rows["memory_used_bytes"][inside].tolist() == base["memory_used_bytes"][inside].tolist()
    assert rows["device"][0] in tables["allocations"]["device"]


def test_a_hung_job_makes_nothing_and_what_asks_it_waits() -> None:
    options: dict[str, Any] = {"devices": 16, "seed": 2, "origin": DAY}
    jobs = dict(working(options, DAY, DAY + 5400 * NS))
    for kind, counter in (("training", "steps"), ("serving", "tokens_out")):
        fault = {"kind": "idle_allocated", "subject": jobs[kind][0], "start": 1800, "end": 3600}
        tables = history({**options, "faults": [fault]}, 1.5)
        held = of(tables["allocations"], build(parse(options)).ids[jobs[kind][0]])["workload"][0]
        samples = tables["workload_samples"]
        rows = {name: column[samples["workload"] == held] for name, column in samples.items()}
        inside = (rows["time"] >= DAY + 1800 * NS) & (rows["time"] < DAY + 3600 * NS)
        assert len(set(rows[counter][inside])) == 1
        assert len(set(rows[counter][~inside])) > 10
        if kind == "serving":
            assert rows["queue_length"][inside].min() >= 1


def test_an_ecc_storm_counts_errors_and_xids_in_its_window() -> None:
    rows, _, _, tables = with_fault("ecc_storm", value=40.0)
    assert rows["ecc_corrected"][-1] - rows["ecc_corrected"][0] == 40 * 1800
    outside = (rows["time"] <= DAY + 1800 * NS) | (rows["time"] > DAY + 3600 * NS)
    assert len(set(rows["ecc_corrected"][outside])) == 2
    mine = tables["events"]["device"] == rows["device"][0]
    assert set(tables["events"]["code"][mine]) == {"94"}
    assert rows["xid_errors"][-1] - rows["xid_errors"][0] == mine.sum() == 6


def test_missing_samples_are_missing_exactly_in_their_window() -> None:
    rows, base, inside, _ = with_fault("missing_samples")
    same(rows, {name: column[~inside] for name, column in base.items()})


def test_a_counter_reset_goes_to_zero_once_and_counts_on() -> None:
    rows, base, inside, _ = with_fault("counter_reset", end=1810)
    at = int(np.argmax(inside))
    assert rows["energy_j"][at] == 0.0
    np.testing.assert_array_equal(rows["energy_j"][:at], base["energy_j"][:at])
    np.testing.assert_allclose(np.diff(rows["energy_j"][at:]), np.diff(base["energy_j"][at:]), atol=2e-3)


def test_a_drifting_sensor_reads_more_and_more() -> None:
    rows, base, inside, _ = with_fault("gain_drift", value=1.2)
    ratio = rows["power_w"][inside] / base["power_w"][inside]
    assert ratio[1] == pytest.approx(1.0, abs=0.01)
    assert ratio[-1] == pytest.approx(1.2, abs=0.01)
    assert (np.diff(ratio) > -1e-3).all()
    np.testing.assert_array_equal(rows["temperature_c"], base["temperature_c"])


def test_random_faults_are_labelled_within_the_fleet_and_none_meets_another_on_a_device() -> None:
    options = {"devices": 64, "faults": 1.0, "origin": DAY}
    labels = faults(options, DAY, DAY + 24 * HOUR)
    assert len({label.kind for label in labels}) >= 8
    for label in labels:
        assert label.end_ns > label.start_ns >= DAY
        assert label.start_ns % (CELL_S * NS) == 0
    for one in labels:
        for other in labels:
            together = one.start_ns < other.end_ns and other.start_ns < one.end_ns
            assert one is other or not together or set(one.devices).isdisjoint(other.devices)


def test_labels_are_in_no_table() -> None:
    tables = history({"devices": 16, "faults": 3.0}, 2)
    kinds = set(tables.get("events", {"kind": np.array([])})["kind"])
    assert kinds <= {"xid", "device_gone", "device_back"}


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "key", "says"),
    [
        ({"device": 3}, "device", "unknown"),
        ({"devices": 0}, "devices", "between 1 and 100000"),
        ({"devices": 2.5}, "devices", "whole number"),
        ({"devices": True}, "devices", "whole number"),
        ({"hosts": 2, "devices": 20}, "hosts", "2 hosts of 8 devices"),
        ({"sites": 7}, "sites", "between 1 and 6"),
        ({"sites": 3}, "sites", "3 sites need as many hosts; there are 2"),
        ({"seed": -1}, "seed", "between 0"),
        ({"step_s": "1"}, "step_s", "number is wanted"),
        ({"step_s": float("nan")}, "step_s", "between"),
        ({"mix": {"H300": 1}}, "mix.H300", "there are H100"),
        ({"mix": {"H100": -1}}, "mix.H100", "share of 0 or more"),
        ({"mix": {"H100": 0}}, "mix", "all 0"),
        ({"mix": "H100"}, "mix", "a table"),
        ({"faults": -0.1}, "faults", "between 0 and 24"),
        ({"faults": "many"}, "faults", "number of faults|faults for each"),
        ({"faults": [{"kind": "gremlin"}]}, "faults[0].kind", "one of power_stuck"),
        ({"faults": [{"kind": "power_brake", "subject": 9, "end": 10}]}, "faults[0].subject", "below 2"),
        ({"faults": [{"kind": "power_stuck", "start": 5, "end": 20}]}, "faults[0].start", "multiple of 10"),
        ({"faults": [{"kind": "power_stuck", "start": 20, "end": 20}]}, "faults[0].end", "more than the start"),
        ({"faults": [{"kind": "straggler", "end": 20, "value": 2}]}, "faults[0].value", "between 0.05 and 1"),
        ({"faults": [{"kind": "straggler", "end": 20, "size": 2}]}, "faults[0].size", "unknown"),
        ({"origin": "yesterday"}, "origin", "ISO time"),
        ({"origin": "2026-01-01T00:00:03Z"}, "origin", "multiple of 10 s"),
        ({"speed": 0}, "speed", "between 0.01"),
    ],
)
def test_a_wrong_option_is_named_with_its_limit(options: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check_options(options)
    assert caught.value.key == key


def test_hosts_may_be_given_for_devices() -> None:
    assert parse({"hosts": 3}).devices == 24
    assert parse({"hosts": 3, "devices_per_host": 4}).devices == 12


def test_the_mix_is_given_to_whole_hosts_in_its_shares() -> None:
    made = build(parse({"devices": 800, "mix": {"H100": 3, "B200": 1}}))
    assert np.bincount(made.sku_of).tolist() == [600, 200]
    for host in range(100):
        assert len(set(made.sku_of[made.host_of == host].tolist())) == 1


def test_the_description_holds_every_host_once_within_its_feeds() -> None:
    told = fleet({"devices": 400, "sites": 3, "mix": MIX})
    hosts = [host for rack in told["rack"] for host in rack["hosts"]]
    assert sorted(hosts) == sorted(build(parse({"devices": 400, "sites": 3, "mix": MIX})).host_names)
    panels = {domain["name"] for domain in told["domain"] if domain["kind"] == "rpp"}
    assert {feed for rack in told["rack"] for feed in rack["feeds"]} == panels


def test_device_types_keep_their_makers_order_of_power() -> None:
    """The busiest hour of each type stays within its rated power, and idle is a tenth to a quarter of it."""
    for name, sku in SKUS.items():
        rows = history({"devices": 16, "mix": {name: 1.0}, "noise": 0}, 2)["device_samples"]
        idle = rows["power_w"][rows["utilization_ratio"] == 0]
        assert rows["power_w"].max() <= sku.tdp_w * 1.06, name
        assert rows["power_w"].max() >= sku.tdp_w * 0.75, name
        if idle.size:
            assert 0.06 * sku.tdp_w < idle.min() < 0.3 * sku.tdp_w, name


def test_blocks_are_whole_hours() -> None:
    assert BLOCK_NS == HOUR
