"""Forecasts: nothing of the future is seen, quantiles are in order, and a model has to earn its place."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.forecasts.backtest import BASELINES, WIDEN, Track, backtest, baselines, choose, forecasts_of
from analytics.forecasts.features import Past
from analytics.forecasts.forecast import SCHEMA, forecast
from analytics.forecasts.methods import QUANTILES, Method, pooled
from analytics.forecasts.panel import Floats, Panel, held, panel, scale_of
from analytics.forecasts.scores import coverage, pinball, scaled_quantile_loss, weighted_quantile_loss
from analytics.forecasts.series import devices_series, power_series, tokens_series

STEP_S = 3600
T0 = datetime(2026, 3, 2, tzinfo=UTC)
NS = 1_000_000_000


def daily(days: int = 12, series: int = 4, *, seed: int = 0, noise: float = 1.0) -> Panel:
    """Series with the swing of a day, each with its own level, and noise."""
    random = np.random.default_rng(seed)
    hours = np.arange(days * 24)
    level = 100.0 * (1 + np.arange(series))[:, None]
    swing = level * 0.3 * np.sin(2 * np.pi * hours / 24)[None]
    values = level + swing + random.normal(0, noise * level / 50, (series, hours.size))
    return Panel(tuple(f"s{at}" for at in range(series)), round(T0.timestamp()) * NS, STEP_S, np.maximum(values, 0.0))


def quick(known: Panel, horizons: Sequence[int], quantiles: Sequence[float] = QUANTILES) -> Method:
    return pooled(known, horizons, quantiles, rows=1200, iterations=12)


def every(known: Panel, horizons: Sequence[int]) -> list[Method]:
    return [*baselines(known, horizons), quick(known, horizons)]


def test_no_forecast_changes_when_the_future_does() -> None:
    whole = daily()
    scale = scale_of(whole.until(200).values, 1)
    changed = Panel(whole.names, whole.start_ns, STEP_S, whole.values.copy())
    changed.values[:, 201:] *= 7.0
    methods = every(whole.until(200), [1, 24])
    origins = np.array([150, 199, 200])
    before = forecasts_of(methods, Past.of(whole, scale), origins)
    after = forecasts_of(methods, Past.of(changed, scale), origins)
    for name, made in before.items():
        np.testing.assert_array_equal(made, after[name], err_msg=name)


def test_the_last_known_value_does_change_the_forecast() -> None:
    whole = daily()
    changed = Panel(whole.names, whole.start_ns, STEP_S, whole.values.copy())
    changed.values[:, 200] *= 2.0
    scale = scale_of(whole.values, 1)
    methods = every(whole.until(200), [1])
    one, other = (forecasts_of(methods, Past.of(some, scale), np.array([200])) for some in (whole, changed))
    assert all((one[name] != other[name]).any() for name in ("last value", "pooled model"))


def test_a_backtest_forecasts_as_one_would_have() -> None:
    """What is issued at a moment is the same whether the series went on afterwards or not."""
    whole = daily()
    short = backtest(whole.until(250), [1, 6], start=220, refit=10**6, fit=quick)
    longer = backtest(whole, [1, 6], start=220, refit=10**6, fit=quick)
    both = min(len(short.origins), len(longer.origins))
    assert both > 20
    np.testing.assert_allclose(short.forecast[:, :both], longer.forecast[:, :both])


def test_quantiles_never_cross_and_watts_are_not_negative() -> None:
    found = backtest(daily(noise=20.0), [1, 24], start=220, stride=3, refit=10**6, fit=quick)
    assert (np.diff(found.forecast, axis=-1) >= 0).all()
    assert found.forecast.min() >= 0


def test_the_model_is_taken_where_it_is_better_and_the_last_value_where_nothing_can_be() -> None:
    # What returns to its mean is forecast badly by its last value, and by that of yesterday.
    random = np.random.default_rng(6)
    back = np.zeros((3, 400))
    for at in range(1, 400):
        back[:, at] = 0.6 * back[:, at - 1] + random.normal(0, 10, 3)
    found = backtest(Panel(("a", "b", "c"), 0, STEP_S, 1e3 + back), [6], start=300, refit=10**6, fit=quick)
    assert found.chosen[0] not in BASELINES
    assert found.scores["chosen", 6].loss < 0.9 * min(found.scores[name, 6].loss for name in BASELINES)

    walk = Panel(("a", "b"), 0, STEP_S, 1e4 + np.random.default_rng(1).normal(0, 10, (2, 400)).cumsum(axis=1))
    found = backtest(walk, [1], start=300, refit=10**6, fit=quick)
    assert found.scores["chosen", 1].loss < 1.05 * found.scores["last value", 1].loss


def test_a_tie_goes_to_the_baseline() -> None:
    losses = {"last value": np.array([1.0]), "same time of day": np.array([2.0]), "pooled model": np.array([0.995])}
    assert choose(losses, 1) == ("last value",)
    assert choose({**losses, "pooled model": np.array([0.9])}, 1) == ("pooled model",)
    assert choose({**losses, "pooled model": np.array([np.nan])}, 1) == ("last value",)


def test_the_calibration_moves_quantiles_to_where_outcomes_were() -> None:
    """A method that is always ten too low is moved up by ten, in the scale of each series."""
    flat = Panel(("a", "b"), 0, STEP_S, np.tile(np.random.default_rng(0).normal(100, 1, 300), (2, 1)))
    track = Track(flat, [1], QUANTILES, np.array([1.0, 1.0]))
    origins = np.arange(200, 290)
    low = np.full((2, len(origins), 1, len(QUANTILES)), 90.0)
    track.go_through(origins, {"low": low})
    moved = track.issue(np.array([291]), {"low": low[:, :1]})["low"]
    assert moved[0, 0, 0, QUANTILES.index(0.5)] == pytest.approx(100, abs=0.5)
    assert np.ptp(moved[0, 0, 0]) > 2  # the spread of the outcomes
    # What is not known yet counts for nothing.
    early = Track(flat, [1], QUANTILES, np.array([1.0, 1.0]))
    np.testing.assert_array_equal(early.issue(origins[:3], {"low": low[:, :3]})["low"], low[:, :3])


@pytest.mark.parametrize(("widen", "least", "most"), [(WIDEN, 0.77, 0.83), (0.0, 0.0, 0.77)])
def test_coverage_holds_while_the_spread_grows_since_what_was_issued_feeds_back(
    monkeypatch: pytest.MonkeyPatch, widen: float, least: float, most: float
) -> None:
    """Quantiles of the last days alone are always of the narrower past: without feedback they cover too little."""
    monkeypatch.setattr("analytics.forecasts.backtest.WIDEN", widen)
    random = np.random.default_rng(8)
    growing = Panel(("a", "b", "c", "d"), 0, STEP_S, 1e4 + random.normal(0, 1, (4, 500)) * 1.003 ** np.arange(500))
    origins = np.arange(50, 490)
    track = Track(growing, [6], QUANTILES, np.ones(4))
    made = np.full((4, len(origins), 1, len(QUANTILES)), 1e4)
    issued = [
        track.issue(origins[at : at + 6], {"level": made[:, at : at + 6]})["level"] for at in range(0, len(origins), 6)
    ]
    outcome = growing.values[:, np.minimum(origins + 6, 499)]
    found, _ = coverage(outcome[:, 150:], np.concatenate(issued, axis=1)[:, 150:, 0], QUANTILES)
    assert least < found < most


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_features_are_of_the_past_whatever_the_gaps(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(10, 3, (2, 120))
    values[random.random(values.shape) < 0.3] = np.nan
    later = values.copy()
    later[:, 80:] = random.normal(1e6, 1, (2, 40))
    one, other = (Past.of(Panel(("a", "b"), 0, STEP_S, some), np.ones(2)) for some in (values, later))
    series, origin, horizon = np.array([0, 1, 0, 1]), np.array([79, 79, 60, 30]), np.array([1, 24, 5, 30])
    np.testing.assert_array_equal(one.features(series, origin, horizon), other.features(series, origin, horizon))


# ------------------------------------------------------------------------------------------------------------ scores


def test_losses_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(2)
    outcome, made, levels = random.normal(5, 2, (3, 4)), random.normal(5, 2, (3, 4, 2)), (0.1, 0.9)
    total = 0.0
    for i in range(3):
        for j in range(4):
            for k, level in enumerate(levels):
                error = outcome[i, j] - made[i, j, k]
                total += level * error if error >= 0 else (level - 1) * error
    assert pinball(outcome, made, levels).sum() == pytest.approx(total)
    assert weighted_quantile_loss(outcome, made, levels) == pytest.approx(2 * total / 2 / np.abs(outcome).sum())
    assert scaled_quantile_loss(outcome, made, levels, np.ones((3, 1))) == pytest.approx(2 * total / 2 / 12)


def test_what_stands_still_is_covered_as_often_as_it_should_be() -> None:
    """A point mass lies at all levels at once; counted as inside it would make any interval look too wide."""
    still = np.zeros((10, len(QUANTILES)))
    shared, closed = coverage(np.zeros(10), still, QUANTILES)
    assert shared == pytest.approx(0.8)
    assert closed == 1.0
    random = np.random.default_rng(3)
    normal = np.tile(np.quantile(random.normal(size=100_000), QUANTILES), (20_000, 1))
    shared, closed = coverage(random.normal(size=20_000), normal, QUANTILES)
    assert shared == closed == pytest.approx(0.8, abs=0.01)


def test_what_is_not_known_is_not_scored() -> None:
    made = np.tile(np.array(QUANTILES), (2, 1))
    assert coverage(np.array([0.5, np.nan]), made, QUANTILES) == (1.0, 1.0)
    assert np.isnan(coverage(np.array([np.nan]), made[:1], QUANTILES)[0])
    assert np.isnan(weighted_quantile_loss(np.array([np.nan]), made[:1], QUANTILES))


# ------------------------------------------------------------------------------------------------- panels and frames


def rows(values: Floats, step_s: int = STEP_S, name: str = "a") -> pl.DataFrame:
    times = [T0.replace(tzinfo=None) + timedelta(seconds=step_s * at) for at in range(len(values))]
    return pl.DataFrame({"series": [name] * len(values), "time": times, "value": values})


def test_a_panel_has_means_of_steps_and_nothing_where_nothing_was_read() -> None:
    found = panel(pl.concat([rows(np.array([1.0, 3.0, 5.0]), 1800), rows(np.array([7.0]), 1800, "b")]), step_s=3600)
    assert found.names == ("a", "b")
    np.testing.assert_array_equal(found.values, [[2.0, 5.0], [7.0, np.nan]])


def test_gaps_are_held_for_an_hour_and_no_longer() -> None:
    np.testing.assert_array_equal(
        held(np.array([[np.nan, 1.0, np.nan, np.nan, np.nan, 2.0]]), 2), [[np.nan, 1, 1, 1, np.nan, 2]]
    )


@pytest.mark.parametrize(("step_s", "told"), [(7, "divid|whole"), (0, "whole")])
def test_a_step_that_divides_no_day_is_refused(step_s: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        panel(rows(np.ones(3)), step_s=step_s)


def test_a_forecast_says_its_method_its_loss_and_the_baseline_s(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = np.arange(24 * 21)
    random = np.random.default_rng(4)
    values = 100 + 30 * np.sin(2 * np.pi * hours / 24) + random.normal(0, 2, hours.size)
    monkeypatch.setattr("analytics.forecasts.forecast.pooled", quick)
    found = forecast(rows(values).lazy(), horizons_s=[6 * 3600, 12 * 3600], step_s=3600)
    assert found.schema == SCHEMA
    assert found["horizon_s"].to_list() == [21_600, 43_200]
    assert (found["loss"] <= found["baseline_loss"] + 1e-12).all()
    assert found["method"].is_in([*BASELINES, "pooled model", "model and last value"]).all()
    true = 100 + 30 * np.sin(2 * np.pi * (hours[-2] + np.array([6, 12])) / 24)
    assert np.abs(found["q50"].to_numpy() - true).max() < 12
    levels = found.select(f"q{round(q * 100):02}" for q in QUANTILES).to_numpy()
    assert (np.diff(levels, axis=1) >= 0).all()


def test_thin_history_says_how_much_more_is_needed() -> None:
    with pytest.raises(ValueError, match=r"1\.2 days of history: 1\.3 more"):
        forecast(rows(np.arange(30.0)).lazy(), horizons_s=[86_400], step_s=3600)


def test_four_days_of_history_suffice_for_a_model_though_no_week_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seen(known: Panel, horizons: Sequence[int]) -> Method:
        asked.append(known.steps)
        return quick(known, horizons)

    monkeypatch.setattr("analytics.forecasts.forecast.pooled", seen)
    short = daily(4, 6)
    known = pl.concat(rows(values, name=name) for name, values in zip(short.names, short.values, strict=True))
    found = forecast(known.lazy(), horizons_s=[3600, 86_400], step_s=3600)
    assert found["horizon_s"].to_list() == [3600, 86_400] * 6
    assert asked == [76]


def test_a_series_that_stopped_has_no_forecast() -> None:
    random = np.random.default_rng(5)
    alive, dead = random.normal(50, 2, 24 * 5), random.normal(50, 2, 24 * 4)
    found = forecast(pl.concat([rows(alive), rows(dead, name="gone")]).lazy(), horizons_s=[3600], step_s=3600)
    assert found["series"].to_list() == ["a"]


def test_devices_held_are_counted_by_the_share_of_the_step() -> None:
    start = T0.replace(tzinfo=None)
    allocations = pl.LazyFrame(
        {
            "workload": ["w", "w", "v"],
            "device": ["d0", "d1", "d2"],
            "start": [start, start + timedelta(minutes=30), start],
            "end": [start + timedelta(hours=1), None, start + timedelta(hours=2)],
            "team": ["red", "red", "blue"],
            "time": [start] * 3,
        }
    )
    begin = round(T0.timestamp()) * NS
    found = devices_series(allocations, begin, begin + 3 * 3600 * NS, step_s=3600).sort("series", "time").collect()
    assert found["series"].to_list() == ["devices/blue"] * 3 + ["devices/red"] * 3
    assert found["value"].to_list() == [1.0, 1.0, 0.0, 1.5, 1.0, 1.0]
    # Before anything was held nothing is known: zeros would be learned from.
    longer = devices_series(allocations, begin - 48 * 3600 * NS, begin + 3 * 3600 * NS, step_s=3600).collect()
    assert longer.sort("series", "time").equals(found)


def test_power_of_a_place_is_of_all_its_devices_though_one_lost_a_reading() -> None:
    from functools import partial

    from analytics.frames import over_devices

    times = [T0.replace(tzinfo=None) + timedelta(seconds=10 * at) for at in range(121)]
    frames = [
        pl.DataFrame({"device": name, "host": "h", "source": "s", "time": times, "power_w": power})
        for name, power in (("a", 100.0), ("b", 300.0))
    ]
    # b is silent for two of the ten minutes of the first step.
    silent = pl.col("time").is_between(times[10], times[22], closed="none")
    frames[1] = frames[1].filter(~silent)
    series = power_series([pl.concat(frames).lazy()], partial(over_devices, threads=1), step_s=600, place="host")
    found = series.sort("time").collect()
    assert found["series"].unique().to_list() == ["power/h"]
    assert found["value"][1] == pytest.approx(400.0)
    # The mean over what was measured, brought up to both devices: between a's and the true sum.
    assert 350.0 < found["value"][0] <= 400.0


def test_tokens_are_rates_of_the_engines_of_a_model() -> None:
    times = [T0.replace(tzinfo=None) + timedelta(seconds=60 * at) for at in range(21)]
    work = pl.concat(
        pl.DataFrame(
            {"workload": name, "time": times, "source": "s", "tokens_out": [rate * 60 * t for t in range(21)]}
        )
        for name, rate in (("e1", 5.0), ("e2", 7.0))
    )  # fmt: skip
    found = tokens_series(work.lazy().with_columns(model=pl.lit("m")), step_s=600).sort("time").collect()
    assert found["value"].to_list() == pytest.approx([12.0, 12.0])
