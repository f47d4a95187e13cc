"""What racks drew in each minute: by meters, platform sensors, accelerators and nameplates, in that order."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from analytics.capacity.load import Load, Minutes, device_minutes, host_minutes, load_of, meter_minutes
from analytics.capacity.tree import trees
from analytics.fleet_toml import parse_fleet

START = datetime(2026, 3, 2)
START_NS = 1_772_409_600_000_000_000
MINUTE_NS = 60_000_000_000
FLEET = """
[[site]]
name = "s"
hosts = ["loose"]
[[domain]]
name = "a"
rating_w = 100e3
[[domain]]
name = "b"
rating_w = 100e3
other_w = 50
[[rack]]
name = "r"
feeds = ["a", "b"]
hosts = ["n1", "n2"]
units = 42
[[sku]]
name = "X"
model = "X"
tdp_w = 300
[sku.server]
accelerators = 2
rack_units = 4
nameplate_w = 1000
peak_w = 900
"""


def series(subject: str, name: str, watts: list[float | None], *, column: str, **text: str) -> pl.LazyFrame:
    """A reading at the start and the middle of each minute."""
    rows = [(name, START + timedelta(seconds=30 * n), watts[n // 2]) for n in range(2 * len(watts))]
    frame = pl.LazyFrame(rows, orient="row", schema={subject: pl.String, "time": pl.Datetime("ns"), column: pl.Float64})
    return frame.with_columns(source=pl.lit(text.pop("source", "t")), **{k: pl.lit(v) for k, v in text.items()})


def device(name: str, host: str, watts: list[float | None], method: str = "instant", source: str = "t") -> pl.LazyFrame:
    return series("device", name, watts, column="power_w", host=host, power_method=method, source=source)


def wall(host: str, watts: list[float | None]) -> pl.LazyFrame:
    return series("host", host, watts, column="platform_power_w")


def loaded(
    devices: list[pl.LazyFrame],
    hosts: list[pl.LazyFrame] | None = None,
    meters: list[pl.LazyFrame] | None = None,
    *,
    fleet: str = FLEET,
    minutes: int = 20,
    models: dict[str, tuple[str | None, int]] | None = None,
) -> Load:
    parsed = parse_fleet(fleet)
    told = Minutes(
        devices=device_minutes(pl.concat([device("-", "-", []), *devices])).collect(),
        hosts=host_minutes(pl.concat([wall("-", []), *(hosts or [])])).collect(),
        meters=meter_minutes(
            pl.concat([series("meter", "-", [], column="meter_power_w"), *(meters or [])])
        ).collect(),
        models=models or {"n1": ("X", 2), "n2": ("X", 2)},
        start_ns=START_NS,
        end_ns=START_NS + minutes * MINUTE_NS,
    )  # fmt: skip
    (tree,) = trees(parsed)
    return load_of(tree, parsed, told)


def watts(load: Load, leaf: str) -> np.ndarray:
    row: np.ndarray = load.power_w[[one.name for one in load.leaves].index(leaf)]
    return row


def test_a_minute_is_the_mean_of_its_readings_and_devices_of_a_host_add_up() -> None:
    found = device_minutes(pl.concat([device("d1", "n", [100.0, 200.0]), device("d2", "n", [50.0, None])])).collect()
    assert found.sort("time")["power_w"].to_list() == [150.0, 200.0]
    assert found.sort("time")["devices"].to_list() == [2, 1]


def test_a_minute_in_pieces_is_one_minute_and_none_at_all_is_no_row() -> None:
    one = device("d1", "n", [100.0, 200.0])
    pieces = pl.concat([one.slice(0, 1), device("d2", "n", [50.0, 70.0]), one.slice(1, 3)])
    found = device_minutes(pieces).collect().sort("time")
    assert found["power_w"].to_list() == [150.0, 270.0]
    assert found["devices"].to_list() == [2, 2]
    none = device_minutes(one.clear()).collect()
    assert (none.height, none.schema) == (0, found.schema)


def test_of_two_sources_of_a_device_one_counts_and_the_measured_one() -> None:
    both = [device("d", "n", [100.0] * 3), device("d", "n", [90.0] * 5, source="u")]
    assert device_minutes(pl.concat(both)).collect()["power_w"].to_list() == [90.0] * 5
    modelled = [device("d", "n", [100.0] * 3), device("d", "n", [90.0] * 5, "modelled", source="u")]
    assert device_minutes(pl.concat(modelled)).collect()["power_w"].to_list() == [100.0] * 3


def test_a_partitions_power_is_its_parents() -> None:
    both = pl.concat([device("d", "n", [100.0]), device("d/1", "n", [40.0])])
    assert device_minutes(both, ["d/1"]).collect()["power_w"].to_list() == [100.0]


def test_the_machine_at_the_wall_goes_before_its_accelerators() -> None:
    load = loaded(
        [device("d1", "n1", [300.0] * 20), device("d2", "n2", [300.0] * 20)], [wall("n1", [800.0] * 20)],
        models={"n1": ("X", 1), "n2": ("X", 1)},
    )  # fmt: skip
    # n2: its one accelerator, and the 300 W that the server draws besides two of 300.
    assert watts(load, "r") == pytest.approx(800.0 + 300.0 + 300.0)
    rack = load.leaves[0]
    assert (rack.measured_w, rack.modelled_w, rack.assumed_w) == pytest.approx((800.0 + 300.0, 300.0, 0.0))
    assert (rack.nameplate_w, rack.rack_units, load.partial) == (2000.0, 8, ())


def test_a_host_that_is_not_measured_counts_with_its_nameplate_and_is_marked() -> None:
    load = loaded([device("d1", "n1", [600.0] * 20)], [wall("n1", [800.0] * 20)])
    assert watts(load, "r") == pytest.approx(800.0 + 1000.0)
    assert load.leaves[0].assumed_w == 1000.0


def test_a_host_of_which_nothing_is_known_is_told_not_left_out() -> None:
    load = loaded([device("d1", "n1", [600.0] * 20)], [wall("n1", [800.0] * 20)], models={"n1": ("X", 2)})
    assert load.leaves[0].unknown == ("n2",)
    named = FLEET.replace('hosts = ["n1", "n2"]', 'hosts = ["n1", "n2"]\nnameplate_w = 5000')
    load = loaded([], [wall("n1", [800.0] * 20)], fleet=named, models={})
    assert watts(load, "r") == pytest.approx(800.0 + 2500.0)


def test_without_what_a_server_draws_besides_a_host_counts_partly_and_is_told() -> None:
    load = loaded([device("d1", "n1", [300.0] * 20)], fleet=FLEET[: FLEET.index("[[sku]]")], models={"n1": ("X", 1)})
    assert load.partial == ("n1",)
    assert watts(load, "r") == pytest.approx(300.0)


def test_a_racks_meters_go_before_its_hosts() -> None:
    fleet = FLEET.replace("units = 42", 'units = 42\nmeters = ["pa", "pb"]')
    meters = [series("meter", name, [700.0] * 20, column="meter_power_w") for name in ("pa", "pb")]
    load = loaded([device("d1", "n1", [300.0] * 20)], None, meters, fleet=fleet)
    assert watts(load, "r") == pytest.approx(1400.0)
    assert (load.leaves[0].measured_w, load.leaves[0].assumed_w) == (pytest.approx(1400.0), 0.0)
    half = loaded([device("d1", "n1", [300.0] * 20)], None, meters[:1], fleet=fleet)
    assert watts(half, "r") == pytest.approx(2 * 300.0 + 300.0 + 1000.0)


def test_a_meter_on_a_domain_finds_what_hangs_there_besides() -> None:
    fleet = FLEET.replace('name = "a"', 'name = "a"\nmeter = "ma"')
    meters = [series("meter", "ma", [1000.0] * 20, column="meter_power_w")]
    load = loaded([], [wall("n1", [800.0] * 20), wall("n2", [800.0] * 20)], meters, fleet=fleet, models={})
    assert watts(load, "a (other)") == pytest.approx(1000.0 - 800.0)
    assert watts(load, "b (other)") == pytest.approx(50.0)


def test_hosts_in_no_rack_hang_on_the_site() -> None:
    load = loaded([], [wall("loose", [100.0] * 20), wall("n1", [1.0] * 20), wall("n2", [1.0] * 20)])
    leaf = next(leaf for leaf in load.leaves if leaf.name == "s (no rack)")
    assert (leaf.pool, leaf.measured_w) == ((), pytest.approx(100.0))


def test_minutes_in_which_too_little_is_measured_do_not_count_and_nothing_is_zero_for_want_of_a_reading() -> None:
    gap: list[float | None] = [800.0] * 10 + [None] * 5 + [800.0] * 5
    load = loaded([], [wall("n1", gap), wall("n2", [500.0] * 20)], models={})
    assert len(load.times) == 15
    assert watts(load, "r").min() == pytest.approx(1300.0)
    assert load.covered_ratio == pytest.approx(35 / 40)
    many = [wall(f"n{n}", [100.0] * 20) for n in range(3, 33)]
    fleet = FLEET.replace('["n1", "n2"]', str([f"n{n}" for n in range(1, 33)]))
    load = loaded([], [wall("n1", gap), wall("n2", [500.0] * 20), *many], fleet=fleet, models={})
    assert len(load.times) == 20
    assert watts(load, "r") == pytest.approx(1300.0 + 3000.0)


def test_a_host_draws_nothing_before_it_came_and_goes_on_drawing_when_it_falls_silent() -> None:
    later: list[float | None] = [None] * 10 + [800.0] * 10
    silent: list[float | None] = [500.0] * 15 + [None] * 5
    others = [wall(f"n{n}", [0.0] * 20) for n in range(3, 43)]
    fleet = FLEET.replace('["n1", "n2"]', str([f"n{n}" for n in range(1, 43)]))
    load = loaded([], [wall("n1", later), wall("n2", silent), *others], fleet=fleet, models={})
    assert watts(load, "r").tolist() == pytest.approx([500.0] * 10 + [1300.0] * 10)


def test_without_any_measurement_there_is_one_minute_of_nameplates() -> None:
    load = loaded([], models={"n1": ("X", 2), "n2": ("X", 2)})
    assert (load.measured, load.power_w.shape[1], load.days < 0.01) == (False, 1, True)
    assert watts(load, "r") == pytest.approx(2000.0)
