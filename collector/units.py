"""Units of measure: SI, with the three spellings every surface needs."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Unit:
    """
    A unit as a column suffix, as a Prometheus word and as people write it.

    A count has no suffix and no word: ``steps``, not ``steps_count``.
    """

    suffix: str
    prometheus: str
    symbol: str


PREFIXES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
"""What makes a number readable, the largest first."""

WATT = Unit("w", "watts", "W")
JOULE = Unit("j", "joules", "J")
RATIO = Unit("ratio", "ratio", "")
HERTZ = Unit("hz", "hertz", "Hz")
CELSIUS = Unit("c", "celsius", "°C")
VOLT = Unit("v", "volts", "V")
BYTE = Unit("bytes", "bytes", "B")
BYTES_PER_SECOND = Unit("bytes_per_s", "bytes_per_second", "B/s")
SECOND = Unit("s", "seconds", "s")
RPM = Unit("rpm", "rpm", "rpm")
COUNT = Unit("", "", "")
LANES = Unit("lanes", "lanes", "lanes")
FLOP = Unit("flop", "flop", "FLOP")
TOKENS_PER_SECOND = Unit("tokens_per_s", "tokens_per_second", "tokens/s")
# Tariffs and grid factors are quoted per kWh everywhere; per joule nobody could check them by eye.
CURRENCY_PER_KWH = Unit("per_kwh", "per_kwh", "currency/kWh")
GRAM_PER_KWH = Unit("g_per_kwh", "grams_per_kwh", "gCO2e/kWh")

UNITS = (
    WATT,
    JOULE,
    RATIO,
    HERTZ,
    CELSIUS,
    VOLT,
    BYTE,
    BYTES_PER_SECOND,
    SECOND,
    RPM,
    COUNT,
    LANES,
    FLOP,
    TOKENS_PER_SECOND,
    CURRENCY_PER_KWH,
    GRAM_PER_KWH,
)
