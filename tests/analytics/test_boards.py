"""A calibration enters every figure in joules, in one way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import cli
from analytics.boards import calibrated, fits_of, with_calibrations
from analytics.calibration import FIT, calibrated_energy
from analytics.energy import device_steps, energy
from analytics.fleet import Fleet
from analytics.frames import boards, scan, spliced
from analytics.intervals import SIGMAS
from analytics.jobs.functions import energy as job
from analytics.jobs.job import Window
from analytics.rollups import energy_of_rollups
from collector.store import Store
from dashboards.data import fleet as fleet_page
from dashboards.data.stored import Stored
from dashboards.selection import Selection

NS = 1_000_000_000
DAY_NS = 1_772_323_200 * NS
GAIN, OFFSET_W = 0.9, 12.0
UNTIL_S = 4 * 3600


def fit(device: str = "a", **more: Any) -> pl.DataFrame:
    told = {
        "device": device, "metric": "power_w", "time": DAY_NS + 10 * UNTIL_S * NS, "source": "s", "reference": "meter",
        "gain_ratio": GAIN, "offset_w": OFFSET_W, "gain_error_ratio": 0.004, "offset_error_w": 0.8,
        "gain_offset_covariance_w": -0.0025, "reference_error_ratio": 0.005, "update_period_s": 0.1, "window_s": 0.1,
    } | more  # fmt: skip
    return pl.DataFrame({name: [told.get(name)] for name in FIT}, schema=FIT)


def samples() -> pl.DataFrame:
    """Two boards that show 0.9 of their power and 12 W, with counters that count what is shown; busy and idle hours."""
    at = np.arange(0, UNTIL_S, 10)
    busy = np.where(at // 3600 % 2 == 0, 0.9, 0.0)
    shown = GAIN * (100.0 + 500.0 * busy + 20 * np.sin(at / 300)) + OFFSET_W
    parts = [
        pl.DataFrame({
            "device": device, "source": "s", "host": "h", "power_method": "instant", "power_scope": "device",
            "time": DAY_NS + at * NS, "power_w": shown, "utilization_ratio": busy,
            "energy_j": 1e6 + np.cumsum(np.append(0.0, (shown[1:] + shown[:-1]) / 2 * 10)),
        })
        for device in ("a", "b")
    ]  # fmt: skip
    return pl.concat(parts)


def make(root: Path, *fits: pl.DataFrame) -> Store:
    store = Store.create(root)
    store.write("device_samples", samples())
    held = {"workload": ["w"] * 2, "device": ["a", "b"], "host": ["h"] * 2, "start": [DAY_NS] * 2, "time": [DAY_NS] * 2}
    store.write("allocations", held | {"end": [DAY_NS + UNTIL_S * NS] * 2, "user": ["u"] * 2, "team": ["t"] * 2})
    at = DAY_NS + np.arange(0, UNTIL_S, 10) * NS
    work = {"workload": "w", "source": "s", "model": "m", "time": at, "tokens_out": np.arange(at.size) * 1e3}
    store.write("workload_samples", pl.DataFrame({**work, "requests": np.arange(at.size) * 1.0}))
    described = {"device": ["a", "b"], "source": ["s"] * 2, "host": ["h"] * 2, "time": [DAY_NS] * 2}
    store.write("devices", described | {"model": ["NVIDIA H100 80GB HBM3"] * 2})
    if fits:
        store.write("calibrations", pl.concat(fits))
    return store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """Without calibrations, and with those of both boards."""
    folder = tmp_path_factory.mktemp("boards")
    return make(folder / "plain"), make(folder / "known", fit("a"), fit("b"))


def true_j() -> float:
    rows = samples().filter(pl.col("device") == "a")
    true_w = (rows["power_w"].to_numpy() - OFFSET_W) / GAIN
    return float(((true_w[1:] + true_w[:-1]) / 2 * 10).sum())


def known(*fits: pl.DataFrame) -> pl.LazyFrame:
    told = pl.LazyFrame({"device": ["a", "b"], "parent": [None, None]}, schema_overrides={"parent": pl.String})
    return with_calibrations(told, pl.concat(fits or [fit()]).lazy())


def test_a_calibrated_board_has_the_joules_of_its_power_and_the_others_keep_theirs() -> None:
    a, b = energy(samples().lazy(), devices=known()).collect().rows(named=True)
    plain = energy(samples().lazy()).filter(pl.col("device") == "b").collect().row(0, named=True)
    assert a["energy_j"] == pytest.approx(true_j(), rel=1e-12)
    assert (a["counter_j"], a["power_method"]) == (0.0, "instant")
    assert b == plain
    assert b["power_method"] == "counter"


def test_the_interval_holds_gain_offset_their_covariance_and_the_meter() -> None:
    steady = samples().filter(pl.col("device") == "a").with_columns(power_w=pl.lit(GAIN * 300 + OFFSET_W))
    (row,) = energy(steady.lazy(), devices=known()).collect().to_dicts()
    joules, seconds = row["energy_j"], row["covered_s"]
    assert joules == pytest.approx(300 * seconds)
    variance = (joules * 0.004) ** 2 + (seconds * 0.8) ** 2 + 2 * joules * seconds * -0.0025
    half = np.sqrt(SIGMAS**2 * variance / GAIN**2 + (0.005 * joules) ** 2)
    assert row["energy_high_j"] - joules == pytest.approx(half, rel=1e-9)
    assert joules - row["energy_low_j"] == pytest.approx(half, rel=1e-9)


def test_parts_of_a_board_are_no_surer_together_than_the_whole() -> None:
    (whole,) = energy(samples().lazy().filter(pl.col("device") == "a"), devices=known()).collect().to_dicts()
    parts = energy(samples().lazy().filter(pl.col("device") == "a"), by="5m", devices=known()).collect()
    half = (parts["energy_high_j"] - parts["energy_j"]).sum()
    assert parts["energy_j"].sum() == pytest.approx(whole["energy_j"], rel=1e-12)
    assert half >= (whole["energy_high_j"] - whole["energy_j"]) * (1 - 1e-12)


def test_the_figure_is_that_of_the_command_that_looks_closer() -> None:
    closer = calibrated_energy(samples().lazy(), fit().lazy(), devices=known()).collect()
    found = energy(samples().lazy(), devices=known()).collect()
    assert found["energy_j"].to_list() == pytest.approx(closer["energy_j"].to_list(), rel=1e-12)
    assert closer["energy_raw_j"][0] != pytest.approx(found["energy_j"][0], rel=0.01)


def test_steps_and_windows_are_of_the_same_joules() -> None:
    steps = device_steps(samples().lazy(), devices=known(fit("a"), fit("b"))).collect()
    assert steps["energy_j"].sum() == pytest.approx(2 * true_j(), rel=1e-12)
    idle = steps.filter(pl.col("idle_j") > 0)
    assert (idle["idle_error_j"] > 0).all()
    assert (idle["idle_error_j"] / idle["idle_j"]).max() < 0.05


def test_what_is_modelled_is_not_calibrated_and_power_is_never_below_0() -> None:
    rows = pl.LazyFrame({
        "device": ["a", "a"], "power_w": [100.0, 5.0], "energy_j": [1.0, 2.0], "power_method": ["modelled", "instant"],
    })  # fmt: skip
    found = calibrated(rows, known()).collect()
    assert found["power_w"].to_list() == [100.0, 0.0]
    assert found["energy_j"].to_list() == [1.0, None]


def test_of_several_calibrations_the_latest_holds_also_for_boards_that_were_never_seen() -> None:
    told = known(fit("z", time=1, gain_ratio=0.5), fit("z", time=2, gain_ratio=0.7), fit("z", time=3, metric="other"))
    assert fits_of(told).select("device", "gain_ratio").rows() == [("z", 0.7)]
    assert fits_of(None).is_empty()
    assert fits_of(pl.LazyFrame({"device": ["a"]})).is_empty()


def ask(store: Store, *words: str) -> pl.DataFrame:
    result = CliRunner().invoke(cli.app, [*words, "--store", str(store.root), "-o", "jsonl"])
    assert result.exit_code == 0, result.output
    return pl.DataFrame([json.loads(line) for line in result.stdout.splitlines()], infer_schema_length=None)


@pytest.mark.parametrize(
    "words",
    ["energy", "energy --by 5m", "attribution --per user", "efficiency", "efficiency --per host", "waste --per host",
     "cost --per user"],
)  # fmt: skip
def test_every_command_has_the_calibrated_joules_and_their_interval(stores: tuple[Store, Store], words: str) -> None:
    plain, told = (ask(store, *words.split()).filter(pl.col("energy_j") > 0) for store in stores)
    shown_j, joules = plain["energy_j"].sum(), told["energy_j"].sum()
    assert joules == pytest.approx(2 * true_j(), rel=1e-7)
    assert shown_j == pytest.approx(joules * GAIN + OFFSET_W * 2 * (UNTIL_S - 10), rel=1e-7)
    half = (told["energy_high_j"] - told["energy_j"]) / told["energy_j"]
    assert half.max() < 0.03 < ((plain["energy_high_j"] - plain["energy_j"]) / plain["energy_j"]).min()


def test_joules_per_token_are_as_sure_as_the_calibration(stores: tuple[Store, Store]) -> None:
    plain, told = (ask(store, "efficiency").row(0, named=True) for store in stores)
    for row, most in ((plain, 0.05), (told, 0.012)):
        for name in ("joules_per_token", "joules_per_request"):
            half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2 / row[name]
            assert 0.2 * most < half <= most, name
    assert told["joules_per_token"] == pytest.approx(2 * true_j() / told["tokens"], rel=1e-3)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Both boards calibrated beside one meter that is off by up to 4 %, which is nearly all that is not known."""
    little = dict.fromkeys(("gain_error_ratio", "offset_error_w", "gain_offset_covariance_w"), 1e-6)
    fits = [fit(device, reference_error_ratio=0.04, **little) for device in ("a", "b")]
    store = make(tmp_path_factory.mktemp("beside") / "store", *fits)
    (store.root / "fleet.toml").write_text(
        '[[site]]\nname = "s"\nhosts = ["h"]\ncurrency = "EUR"\nprice_per_kwh = 0.1\n', encoding="utf-8"
    )
    return store


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("attribution --per team", "energy_j"),
        ("attribution --per team", "joules_per_token"),
        ("efficiency", "energy_j"),
        ("efficiency", "joules_per_token"),
        ("efficiency", "joules_per_request"),
        ("efficiency --per fleet", "joules_per_token"),
        ("efficiency --per team --least 1", "joules_per_token"),
        ("waste --per team", "energy_j"),
        ("waste --per team", "energy_cost"),
        ("funnel", "energy_j"),
        ("cost --per team", "energy_cost"),
    ],
)  # fmt: skip
def test_what_boards_share_of_one_meter_does_not_average_out(beside: Store, words: str, name: str) -> None:
    rows = ask(beside, *words.split()).drop_nulls(name).filter(pl.col(name) > 0)
    high = f"{name.removesuffix('_j')}_high_j" if name.endswith("_j") else f"{name}_high"
    assert rows.height
    assert (rows[high] / rows[name] - 1).to_list() == pytest.approx([0.04] * rows.height, rel=0.01)


def test_a_report_holds_what_boards_share_of_one_meter(beside: Store) -> None:
    result = CliRunner().invoke(cli.app, ["report", "job", "w", "--store", str(beside.root), "-o", "json"])
    told = json.loads(result.stdout)["energy"]
    assert told["high_j"] / told["energy_j"] - 1 == pytest.approx(0.04, rel=0.01)


def test_rollups_give_the_calibrated_joules(stores: tuple[Store, Store]) -> None:
    _, store = stores
    store.roll_up(DAY_NS + 2 * UNTIL_S * NS)
    for by in (None, "5m", "1h"):
        found = spliced(store, window_s=300)
        assert found is not None
        rolled = energy_of_rollups(found, by=by, devices=boards(store)).collect()
        expected = energy(scan(store, "device_samples"), by=by, devices=boards(store)).collect()
        names = [name for name in expected.columns if name not in {"max_gap_s", "power_mean_w"}]
        assert_frame_equal(rolled.select(names), expected.select(names), rel_tol=1e-9, abs_tol=1e-4)


def test_the_job_writes_the_calibrated_joules(stores: tuple[Store, Store]) -> None:
    _, store = stores
    names = ("host_samples", "workload_samples", "facility_samples", "allocations", "devices", "calibrations")
    frames: dict[str, Any] = {name: scan(store, name) for name in names}
    frames["device_samples"] = [scan(store, "device_samples")]
    end_ns = DAY_NS + 24 * 3600 * NS
    found = job(frames, Window(DAY_NS, end_ns, end_ns), Fleet())
    for table in ("device_energy", "job_energy", "efficiency"):
        rows = found[table].filter(pl.col("energy_j") > 0)
        assert rows["energy_j"].sum() == pytest.approx(2 * true_j(), rel=1e-7), table
        assert ((rows["energy_high_j"] - rows["energy_j"]) / rows["energy_j"]).max() < 0.03


def test_the_page_of_the_fleet_has_the_calibrated_joules(stores: tuple[Store, Store]) -> None:
    for store, joules in zip(stores, (2 * (true_j() * GAIN + OFFSET_W * (UNTIL_S - 10)), 2 * true_j()), strict=True):
        stored = Stored(store.root, clock_ns=lambda: DAY_NS + UNTIL_S * NS)
        view = fleet_page.view(stored, Selection(window="24h", by="device"))
        assert view.totals.energy_j == pytest.approx(joules, rel=1e-6)
