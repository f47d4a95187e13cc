"""Medians of groups are those of polars, to the last bit."""

import numpy as np
import polars as pl

from analytics.anomalies.groups import Groups, numbered, pairs

RNG = np.random.default_rng(5)
ROWS = 5000


def test_medians_are_those_of_each_group_without_what_has_no_value() -> None:
    """Groups of one row and of hundreds, in any order; one of which nothing is known."""
    number = np.concatenate([RNG.integers(0, 40, ROWS) ** 2, [-1, 10**15, 10**15]])
    values = RNG.normal(size=len(number))
    values[RNG.random(len(number)) < 0.2] = np.nan
    values[-3:] = np.nan, 1.0, 3.0
    groups = Groups(number)
    frame = pl.DataFrame({"number": number, "value": values}, nan_to_null=True)
    expected = frame.group_by("number").agg(pl.col("value").median()).sort("number")
    assert groups.numbers.tolist() == expected["number"].to_list()
    np.testing.assert_array_equal(groups.medians(values), expected["value"].fill_null(np.nan).to_numpy())
    over = frame.select(pl.col("value").median().over("number")).to_series()
    np.testing.assert_array_equal(groups.over(values), over.fill_null(np.nan).to_numpy())


def test_of_no_rows_there_are_no_groups() -> None:
    groups = Groups(np.zeros(0, np.int64))
    assert groups.medians(np.zeros(0)).size == groups.numbers.size == 0


def test_names_have_numbers_and_what_has_none_is_apart() -> None:
    found = numbered(pl.Series(["b", None, "a", "b", ""]))
    assert found[0] == found[3]
    assert found[1] == -1
    assert len(set(found.tolist())) == 4


def test_pairs_are_told_apart_also_of_what_is_below_zero() -> None:
    first, second = (part.ravel() for part in np.meshgrid(np.arange(-1, 4), np.arange(7) * 300 * 10**9 - 10**15))
    found = pairs(first, second)
    assert len(set(found.tolist())) == len(found) == 35
    assert np.array_equal(np.argsort(found), np.lexsort((second, first)))
