"""Which version forecasts: learned once, kept, replaced only within the budget, and never used when it is not whole."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics.forecasts import learned
from analytics.forecasts.backtest import split_of
from analytics.forecasts.features import NAMES, Past
from analytics.forecasts.forecast import Learned, forecast
from analytics.forecasts.learned import in_use
from analytics.forecasts.methods import QUANTILES, Pooled, pooled
from analytics.forecasts.panel import Panel, scale_of
from analytics.models import files, versions
from analytics.models.versions import Meta
from collector.moments import NS
from collector.store import Store

NAME = "forecast/power_w"
STEP_S = 3600
DAY = 24
START_NS = 1_767_225_600 * NS
HORIZONS = (1, 6, 24)


def panel(steps: int) -> Panel:
    """The first *steps* hours of three series that return to their mean, which no baseline forecasts well."""
    random = np.random.default_rng(4)
    values = np.zeros((3, 40 * DAY))
    for at in range(1, values.shape[1]):
        values[:, at] = 0.6 * values[:, at - 1] + random.normal(0, 10, 3)
    return Panel(("a", "b", "c"), START_NS, STEP_S, 1000 + values).until(steps)


WHOLE = panel(20 * DAY)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Store.create(tmp_path / "store").root


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the panels that were fitted on."""
    found: list[int] = []

    def counted(known: Panel, horizons: Sequence[int]) -> Pooled:
        found.append(known.steps)
        return pooled(known, horizons, rows=1000, iterations=8)

    monkeypatch.setattr(learned, "pooled", counted)
    return found


def ask(root: Path, found: Panel, horizons: tuple[int, ...] = HORIZONS) -> Learned:
    return in_use(root, NAME, found, horizons)


def states(root: Path) -> dict[str, str]:
    return dict(versions.listed(root, NAME).select("version", "state").iter_rows())


def made(one: Learned, found: Panel = WHOLE) -> np.ndarray:
    return one.model.predict(Past.of(found, scale_of(found.values, 1)), np.array([found.steps - 1]))


def test_it_is_learned_once_and_forecasts_the_same_when_it_is_read_again(root: Path, fits: list[int]) -> None:
    first = ask(root, WHOLE)
    again = ask(root, WHOLE)
    later = ask(root, panel(WHOLE.steps + DAY - 1))
    assert fits == [split_of(WHOLE)]
    assert first.version == again.version == later.version
    np.testing.assert_array_equal(made(first), made(again))
    (row,) = versions.listed(root, NAME).iter_rows(named=True)
    assert (row["state"], row["rows"], len(row["checksum"])) == ("champion", 3 * split_of(WHOLE), 64)
    # Of what returns to its mean, a model knows more than the last value does.
    assert '"loss_ratio_86400_s": 0.' in row["metrics"]


def test_after_a_day_it_is_learned_anew_and_tried_on_what_neither_has_seen(root: Path, fits: list[int]) -> None:
    first = ask(root, WHOLE)
    longer = panel(WHOLE.steps + 2 * DAY)
    second = ask(root, longer)
    assert fits == [split_of(WHOLE), split_of(longer)]
    assert states(root) == {first.version: "retired", second.version: "champion"}
    tried = pl.col("test_start").to_physical()
    row = versions.listed(root, NAME).with_columns(tried).row(0, named=True)
    assert row["test_start"] == START_NS + split_of(longer) * STEP_S * NS
    assert row["error"] < 1.02 * row["champion_error"]
    assert row["error"] < row["baseline_error"]


def test_a_candidate_that_errs_more_is_rejected_and_not_tried_again_each_hour(
    root: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(root, WHOLE)
    good = learned.pooled

    def worse(known: Panel, horizons: Sequence[int]) -> Pooled:
        model = good(known, horizons)
        return replace(model, models=tuple(replace(one, baseline=one.baseline + 2.0) for one in model.models))

    monkeypatch.setattr(learned, "pooled", worse)
    for hours in (2 * DAY, 2 * DAY + 1, 2 * DAY + 2):
        assert ask(root, panel(WHOLE.steps + hours)).version == first.version
    assert len(fits) == 2
    (other,) = set(states(root)) - {first.version}
    assert states(root) == {first.version: "champion", other: "rejected"}
    told = versions.listed(root, NAME).filter(version=other).row(0, named=True)
    assert told["error"] > told["champion_error"]
    assert "error_ratio is" in told["reason"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def turn(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, turn, Path.unlink])
def test_a_damaged_version_is_learned_anew_and_never_forecasts(
    root: Path, fits: list[int], damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = ask(root, WHOLE)
    damage(versions.path_of(root, NAME, str(first.version)))
    longer = panel(WHOLE.steps + 2)
    second = ask(root, longer)
    assert fits == [split_of(WHOLE), split_of(longer)]
    assert states(root) == {first.version: "retired", second.version: "champion"}
    reason = versions.listed(root, NAME).row(0, named=True)["reason"]
    assert f"forced: {first.version} " in reason
    assert f"{first.version}.npz" in reason
    assert caplog.messages == ["forecast_model_unusable"]
    assert ask(root, longer).version == second.version
    assert len(fits) == 2


def test_a_damaged_version_of_the_same_days_is_healed(root: Path, fits: list[int]) -> None:
    first = ask(root, WHOLE)
    cut(versions.path_of(root, NAME, str(first.version)))
    second = ask(root, WHOLE)
    assert (second.version, len(fits)) == (first.version, 2)
    np.testing.assert_array_equal(made(first), made(ask(root, WHOLE)))
    assert len(fits) == 2


def kept(root: Path, settings: dict[str, object], kind: str = learned.KIND, arrays: dict[str, np.ndarray] | None = None,
         features: int | None = None) -> str:  # fmt: skip
    """A champion that looks like one of these, but for what is given."""
    model = pooled(WHOLE.until(split_of(WHOLE)), HORIZONS, rows=600, iterations=2)
    if features is not None:
        model = replace(model, models=tuple(replace(one, features=features) for one in model.models))
    wanted = {
        "step_s": STEP_S, "horizons_s": [h * STEP_S for h in HORIZONS], "quantiles": list(QUANTILES),
        "features": list(NAMES),
    }  # fmt: skip
    end_ns = START_NS + split_of(WHOLE) * STEP_S * NS
    meta = Meta(kind=kind, start_ns=START_NS, end_ns=end_ns, rows=1, settings={**wanted, **settings})
    version = versions.save(root, NAME, model.arrays() if arrays is None else arrays, meta)
    versions.promote(root, NAME, version, by="test")
    return version


def test_one_that_fits_is_used(root: Path, fits: list[int]) -> None:
    version = kept(root, {})
    assert (ask(root, WHOLE).version, fits) == (version, [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settings": {"step_s": 900}}, "another step_s"),
        ({"settings": {"horizons_s": [3600]}}, "another horizons_s"),
        ({"settings": {"quantiles": [0.5]}}, "another quantiles"),
        ({"settings": {"features": [*NAMES[1:], "temperature"]}}, "another features"),
        ({"settings": {}, "kind": "forecast/0"}, "of kind 'forecast/0'"),
        ({"settings": {}, "arrays": {"weights": np.ones(3)}}, "these are no trees"),
        ({"settings": {}, "features": len(NAMES) + 3}, f"not on the {len(NAMES)} of today"),
    ],
)
def test_a_version_of_another_schema_is_replaced_and_the_reason_says_so(
    root: Path, fits: list[int], changes: dict[str, object], told: str
) -> None:
    foreign = kept(root, **changes)  # type: ignore[arg-type]
    second = ask(root, WHOLE)
    assert second.version != foreign
    assert fits == [split_of(WHOLE)]
    assert states(root) == {foreign: "retired", second.version: "champion"}
    assert told in versions.listed(root, NAME).row(0, named=True)["reason"]


def test_a_file_of_a_later_format_is_replaced_too(root: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FORMAT", "perfwatt-model/9")
    version = kept(root, {})
    monkeypatch.undo()
    monkeypatch.setattr(learned, "pooled", lambda known, horizons: pooled(known, horizons, rows=600, iterations=2))
    second = ask(root, WHOLE)
    assert second.version != version
    assert "is of format 'perfwatt-model/9'" in versions.listed(root, NAME).row(0, named=True)["reason"]


def test_days_that_a_version_was_fitted_on_calibrate_nothing(root: Path, fits: list[int]) -> None:
    """As of a moment before the end of its data, a version's errors are those of a pupil who saw the answers."""
    later = ask(root, panel(30 * DAY))
    earlier = ask(root, panel(24 * DAY))
    assert earlier.version != later.version
    assert earlier.until == split_of(panel(24 * DAY))
    # What is in use is not changed by looking back.
    assert versions.champion(root, NAME) == later.version


def test_a_forecast_says_which_version_made_it(root: Path, fits: list[int]) -> None:
    times = pl.from_epoch(pl.Series(WHOLE.times_ns()), "ns")
    rows = pl.concat(
        pl.DataFrame({"series": name, "time": times, "value": values[: len(times)]})
        for name, values in zip(WHOLE.names, WHOLE.values, strict=True)
    )

    def of(until: int) -> pl.DataFrame:
        known = rows.filter(pl.col("time") < times[until])
        return forecast(known.lazy(), horizons_s=[6 * 3600], step_s=STEP_S, learn=partial(in_use, root, NAME))

    first, again = of(400), of(400)
    assert first.equals(again)
    assert len(fits) == 1
    model = first.filter(pl.col("method") != "last value")
    assert model.height == 3
    assert set(model["model_version"]) == {versions.champion(root, NAME)}
