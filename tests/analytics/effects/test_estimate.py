"""The statistics of comparisons, against loops and known distributions."""

import numpy as np
import pytest

from analytics.effects.estimate import (
    FEWEST_BLOCKS,
    Panel,
    apart_over_time,
    contrasts,
    half_of,
    halves,
    long_run,
    moved,
    of_groups,
    over_groups,
    over_time,
    side_by_side,
)


def panel(before: list[list[float]], after: list[list[float]], cell: list[int] | None = None) -> Panel:
    first, second = np.array(before, float), np.array(after, float)
    counts = tuple(np.where(np.isnan(values), 0.0, 1.0) for values in (first, second))
    groups = np.arange(first.shape[0])
    return Panel((first, second), (counts[0], counts[1]), np.array(cell or [0] * groups.size), groups)


NAN = float("nan")


def drawn(rng: np.random.Generator, groups: int, blocks: int, switch: bool) -> Panel:
    values = rng.normal(0, 1, (groups, blocks))
    values[rng.random((groups, blocks)) < 0.2] = NAN
    late = np.arange(blocks) >= blocks // 2
    before = np.where(late & switch, NAN, values)
    after = np.where(late & switch, values, NAN)
    return panel(before.tolist(), after.tolist())


def test_contrasts_are_differences_of_differences_over_common_blocks() -> None:
    rng = np.random.default_rng(0)
    changed, stayed = drawn(rng, 3, 20, switch=True), drawn(rng, 4, 20, switch=False)
    found = contrasts(changed, stayed)
    for u in range(3):
        for v in range(4):
            level = stayed.mean[0][v]
            ends = [
                np.mean([changed.mean[s][u, b] - level[b] for b in range(20)
                         if np.isfinite(changed.mean[s][u, b]) and np.isfinite(level[b])])
                for s in (0, 1)
            ]  # fmt: skip
            assert found[u, v] == pytest.approx(ends[1] - ends[0])


def test_groups_of_different_cells_are_never_contrasted() -> None:
    changed = panel([[1.0, NAN]], [[NAN, 2.0]], cell=[1])
    stayed = panel([[1.0, 1.0]], [[NAN, NAN]], cell=[0])
    assert np.isnan(contrasts(changed, stayed)).all()
    assert np.isnan(side_by_side(stayed, changed)).all()


def test_side_by_side_takes_common_blocks_only() -> None:
    left = panel([[1.0, 2.0, NAN]], [[NAN] * 3])
    right = panel([[NAN] * 3], [[NAN, 5.0, 9.0]])
    assert side_by_side(left, right)[0, 0] == pytest.approx(3.0)


def test_the_interval_over_groups_is_that_of_welch() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 1.0, 6), rng.normal(0.4, 2.0, 9)
    apart = one[:, None] - other[None, :]
    nothing = panel([[0.0]] * 6, [[0.0]] * 6), panel([[0.0]] * 9, [[0.0]] * 9)
    found = over_groups(apart, *nothing)
    parts = one.var(ddof=1) / 6, other.var(ddof=1) / 9
    free = sum(parts) ** 2 / (parts[0] ** 2 / 5 + parts[1] ** 2 / 8)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert found.free == pytest.approx(free)
    assert found.half == pytest.approx(half_of(sum(parts), free))


def test_one_group_that_changed_has_the_spread_of_those_that_stayed() -> None:
    rng = np.random.default_rng(2)
    others = rng.normal(0, 1.0, 8)
    found = over_groups(3.0 - others[None, :], panel([[0.0]], [[0.0]]), panel([[0.0]] * 8, [[0.0]] * 8))
    assert found.free == 7
    assert found.half == pytest.approx(half_of(others.var(ddof=1) * (1 + 1 / 8), 7))


def test_groups_of_one_host_count_once() -> None:
    moves = np.array([1.0, 1.1, 3.0, 3.1])
    alone = of_groups(moves, np.array([0, 0, 1, 1]))
    assert (alone.changed, alone.free) == (2, 1.0)
    assert of_groups(moves, np.arange(4)).half < alone.half


def test_one_group_has_no_interval_over_groups() -> None:
    assert of_groups(np.array([1.0]), np.array([0])).half == float("inf")


def test_the_long_run_variance_of_white_noise_is_its_variance() -> None:
    rng = np.random.default_rng(3)
    found = [long_run(rng.normal(0, 2.0, 100))[0] for _ in range(300)]
    assert np.mean(found) == pytest.approx(400.0, rel=0.1)


def test_the_long_run_variance_of_noise_with_a_memory_is_larger() -> None:
    rng = np.random.default_rng(4)

    def remembering() -> np.ndarray:
        values = np.zeros(200)
        for n in range(1, 200):
            values[n] = 0.7 * values[n - 1] + rng.normal()
        return values

    series = [remembering() for _ in range(200)]
    true = np.var([values.sum() for values in series])
    assert np.mean([long_run(values)[0] for values in series]) == pytest.approx(true, rel=0.25)


def test_a_series_too_short_has_no_variance() -> None:
    assert long_run(np.zeros(FEWEST_BLOCKS - 1)) == (float("inf"), 0.0)


def test_what_moved_those_that_stayed_is_taken_off_over_time() -> None:
    blocks = np.arange(24)
    drift = 0.1 * blocks
    changed = panel([np.where(blocks < 12, drift, NAN).tolist()], [np.where(blocks >= 12, drift + 5.0, NAN).tolist()])
    stayed = panel([(drift + 2.0).tolist()], [[NAN] * 24])
    assert over_time(changed, stayed).value == pytest.approx(5.0)
    nobody = stayed.only(np.zeros(1, bool))
    assert over_time(changed, nobody).value == pytest.approx(5.0 + 1.2)
    assert moved(changed)[0] == pytest.approx(6.2)


def test_panels_apart_over_time_hold_their_own_memory() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 1, 60)
    left, right = panel([noise.tolist()], [[NAN] * 60]), panel([[NAN] * 60], [(noise + 2.0).tolist()])
    found = apart_over_time(left, right)
    assert found.value == pytest.approx(2.0)
    assert found.half == pytest.approx(0.0, abs=1e-9)


def test_halves_of_before_are_as_many_blocks_each() -> None:
    before = [1.0, 2.0, NAN, 3.0, 4.0, NAN]
    found = halves(panel([before], [[NAN] * 5 + [9.0]]))
    assert np.nansum(found.mean[0]) == 3.0
    assert np.nansum(found.mean[1]) == 7.0
