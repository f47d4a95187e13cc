"""Numbers as incidents say them."""

import pytest

from analytics.anomalies.figures import Figure


@pytest.mark.parametrize(
    ("value", "spec", "said"),
    [
        (2861.0, ".3g", "2,860"),
        (0.0123, ".3g", "0.0123"),
        (1.851e9, ".4g Hz", "1.851 GHz"),
        (3.45e8, ".4g Hz", "345 MHz"),
        (999.0, ".0f W", "999 W"),
        (1851.0, ".2f W", "1.85 kW"),
        (0.5, ".1f s", "0.5 s"),
    ],
)
def test_a_number_has_no_exponent_and_its_units_prefix(value: float, spec: str, said: str) -> None:
    assert format(Figure(value), spec) == said
