"""Numbers as people read them."""

import pytest

from dashboards import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 W"), (0.51234, "0.512 W"), (9.996, "10.0 W"), (99.96, "100 W"), (999.4, "999 W"), (999.6, "1.00 kW"),
        (12_345.0, "12.3 kW"), (2.5e6, "2.50 MW"), (-300.0, "-300 W"), (None, "– W"),
    ],
)  # fmt: skip
def test_a_number_has_three_digits_and_a_prefix(value: float | None, text: str) -> None:
    assert words.joined(value, "W") == text


def test_nothing_is_rounded_to_all_or_to_nothing() -> None:
    assert words.percent(0.99999) == "99.9 %"
    assert words.percent(0.00001) == "<0.1 %"
    assert words.percent(0.0) == "0 %"
    assert words.percent(None) == "–"
