"""The job of forecasts over a store: at once on the first run, from what is kept on every later one."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics.fleet_toml import parse_fleet
from analytics.forecasts import learned
from analytics.forecasts.job import STEP_S, forecasts
from analytics.forecasts.methods import pooled
from analytics.forecasts.panel import Panel
from analytics.frames import schema
from analytics.jobs.chain import JOBS
from analytics.jobs.job import DAY_NS, NS, Window
from analytics.jobs.running import Documents, run
from analytics.models import versions
from collector.errors import NotEnoughData
from collector.store import Store
from collector.store.derived import DEVICE_ENERGY, EFFICIENCY
from collector.store.schema import ALLOCATIONS

START_NS = 1_767_225_600 * NS
FLEET = '[[site]]\nname = "oslo"\nhosts = ["oslo-*"]\n[[site]]\nname = "dublin"\nhosts = ["dublin-*"]\n'
MODEL = "forecast/power_w"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def counted(known: Panel, horizons: Sequence[int]) -> object:
        found.append(known.steps)
        return pooled(known, horizons, rows=2000, iterations=15)

    monkeypatch.setattr(learned, "pooled", counted)
    return found


def energy(days: float) -> pl.DataFrame:
    """The energy of a device at each of two sites whose power returns to its mean."""
    random = np.random.default_rng(1)
    steps = round(days * 86_400 / STEP_S)
    power = np.zeros((2, steps))
    for at in range(1, steps):
        power[:, at] = 0.9 * power[:, at - 1] + random.normal(0, 10, 2)
    time = pl.from_epoch(pl.Series(START_NS + np.arange(steps) * STEP_S * NS), "ns")
    return pl.concat(
        pl.DataFrame(
            {
                "device": f"{site}-gpu", "host": f"{site}-1", "time": time,
                "window_s": pl.repeat(STEP_S, steps, dtype=pl.Int32, eager=True), "energy_j": (400 + values) * STEP_S,
                "covered_s": [float(STEP_S)] * steps, "modelled_j": [0.0] * steps,
            }
        )
        for site, values in zip(("oslo", "dublin"), power, strict=True)
    )  # fmt: skip


def frames(days: float) -> dict[str, pl.LazyFrame]:
    empty = {table.name: pl.LazyFrame(schema=schema(table)) for table in (EFFICIENCY, ALLOCATIONS)}
    return {**empty, DEVICE_ENERGY.name: energy(days).lazy()}


def ask(root: Path, days: float) -> pl.DataFrame:
    """The forecasts at the end of so many days."""
    day = int(days - 1e-6)
    window = Window(START_NS + day * DAY_NS, START_NS + (day + 1) * DAY_NS, START_NS + round(days * DAY_NS))
    return forecasts(frames(days), window, parse_fleet(FLEET, path=None), root)


def test_the_first_run_forecasts_and_later_runs_do_from_what_is_kept(tmp_path: Path, fits: list[int]) -> None:
    root = Store.create(tmp_path / "store").root
    first, again = ask(root, 9.5), ask(root, 9.5)
    assert first.equals(again)
    assert first.select("name", "horizon_s").rows() == [
        (site, hours * 3600) for site in ("dublin", "oslo") for hours in (1, 6, 24)
    ]
    later = ask(root, 9.75)
    assert later["time"].max() > first["time"].max()
    assert len(fits) == 1
    used = pl.concat([first, later]).filter(pl.col("model_version").is_not_null())
    assert set(used["model_version"]) == {versions.champion(root, MODEL)}
    assert used.filter(pl.col("horizon_s") == 86_400).height
    assert (first["model_version"].is_null() == first["method"].is_in(["last value", "same time of day"])).all()


def test_the_chain_forecasts_in_its_first_run_over_a_new_store(tmp_path: Path, fits: list[int]) -> None:
    store = Store.create(tmp_path / "store")
    store.write("device_energy", {name: energy(9.0)[name].to_list() for name in energy(9.0).columns}, writer="history")
    jobs = tuple(job for job in JOBS if job.name == "forecasts")
    go = partial(run, store.root, jobs=jobs, documents=Documents(texts={"fleet": FLEET}))
    now_ns = START_NS + 9 * DAY_NS
    (outcome,) = go(now_ns=now_ns)
    assert (outcome.state, outcome.error, outcome.rows) == ("done", None, 6)
    assert go(now_ns=now_ns) == []
    assert len(fits) == 1
    assert versions.listed(store.root)["state"].to_list() == ["champion"]


def test_before_a_step_of_the_day_is_over_nothing_is_issued_in_it(tmp_path: Path, fits: list[int]) -> None:
    root = Store.create(tmp_path / "store").root
    with pytest.raises(NotEnoughData, match="power: no step of 15 minutes is over since the day began"):
        ask(root, 9 + 5 / 1440)
    later = ask(root, 9 + 50 / 1440)
    assert later["time"].min() >= datetime(2026, 1, 10)
