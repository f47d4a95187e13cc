"""Energy is split between prefill and decode where the tokens tell it apart, and nowhere else."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.phases import _least_squares, phases

START = datetime(2026, 3, 1)
NS = pl.Datetime("ns")
BASE_W, PREFILL_J, DECODE_J = 100.0, 0.02, 0.5


def split(
    prompt: np.ndarray, generated: np.ndarray, *, noise_w: float = 0.0, cached: float = 0.0, read: bool = True
) -> dict[str, Any]:
    """Tokens in each minute; the devices draw what the model says, and a little noise."""
    rng = np.random.default_rng(1)
    minutes = len(prompt)
    joules = BASE_W * 60 + PREFILL_J * prompt + DECODE_J * generated + rng.normal(0, noise_w * 60, minutes)
    times = [START + timedelta(minutes=m) for m in range(minutes + 1)]
    energy = np.concatenate([[0.0], np.cumsum(joules)])
    samples = pl.LazyFrame(
        {"device": "a", "source": "s", "host": "h", "time": times, "energy_j": energy}, schema_overrides={"time": NS}
    )
    columns = {
        "tokens_in": np.concatenate([[0.0], np.cumsum(prompt * (1 + cached))]),
        "tokens_cached": np.concatenate([[0.0], np.cumsum(prompt * cached)]),
        "tokens_out": np.concatenate([[0.0], np.cumsum(generated)]),
    }
    if not read:
        del columns["tokens_in"]
    work = pl.LazyFrame(
        {"workload": "w", "source": "v", "model": "m", "time": times, **columns}, schema_overrides={"time": NS}
    )
    held = pl.LazyFrame(
        {"workload": ["w"], "device": ["a"], "start": [START], "end": [None], "time": [START]},
        schema_overrides={"start": NS, "end": NS, "time": NS},
    )
    (row,) = phases(samples, work, held).collect().to_dicts()
    return row


def load(minutes: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.uniform(0, 200_000, minutes), rng.uniform(0, 20_000, minutes)


def test_a_split_is_found_back_with_an_interval_that_holds_it() -> None:
    found = split(*load(), noise_w=5.0)
    assert (found["basis"], found["reason"], found["model"]) == ("modelled", None, "m")
    for name, truth in (("prefill", PREFILL_J), ("decode", DECODE_J)):
        assert found[f"{name}_joules_per_token"] == pytest.approx(truth, rel=0.05)
        assert found[f"{name}_joules_per_token_low"] < truth < found[f"{name}_joules_per_token_high"]
    assert found["base_w"] == pytest.approx(BASE_W, rel=0.1)
    assert found["explained_ratio"] > 0.9
    assert found["windows"] == 240


def test_prompt_tokens_from_a_cache_do_not_count() -> None:
    plain, cached = split(*load()), split(*load(), cached=3.0)
    assert cached["prefill_joules_per_token"] == pytest.approx(plain["prefill_joules_per_token"], rel=1e-6)
    assert cached["tokens_in"] == pytest.approx(plain["tokens_in"])


def test_tokens_that_rise_and_fall_together_tell_nothing_apart() -> None:
    prompt, _ = load()
    found = split(prompt, prompt / 10, noise_w=5.0)
    assert (found["basis"], found["prefill_joules_per_token"], found["decode_joules_per_token"]) == (None, None, None)
    assert "rise and fall together" in found["reason"]


def test_an_engine_of_one_phase_is_measured() -> None:
    prompt, generated = load()
    only = split(prompt, prompt * 1e-3)
    assert (only["basis"], only["decode_joules_per_token"]) == ("measured", None)
    assert only["prefill_joules_per_token"] == pytest.approx(
        (BASE_W * 60 * 240 + (PREFILL_J + DECODE_J * 1e-3) * prompt.sum()) / prompt.sum()
    )
    assert split(generated * 0, generated)["basis"] == "measured"


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (lambda: split(*load(20)), "20 windows with energy and tokens; 30 are needed"),
        (lambda: split(*load(), noise_w=2000.0), "tokens explain"),
        (lambda: split(*load(), read=False), "not both counted"),
        (lambda: split(np.full(240, 1e5), np.full(240, 1e4)), "tokens explain"),
    ],
)
def test_without_enough_to_tell_there_is_no_split_and_the_reason(case: Any, why: str) -> None:
    found = case()
    assert (found["basis"], found["prefill_joules_per_token"]) == (None, None)
    assert why in found["reason"]


@given(st.integers(0, 2**32 - 1))
def test_least_squares_has_no_part_below_zero_and_none_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(1, 1, (20, 3)), rng.normal(0, 2, 20)
    found = _least_squares(x, y)
    error = ((y - x @ found) ** 2).sum()
    assert (found >= 0).all()
    for _ in range(50):
        other = np.abs(found + rng.normal(0, 0.3, 3)) * rng.integers(0, 2, 3)
        assert error <= ((y - x @ other) ** 2).sum() + 1e-9
