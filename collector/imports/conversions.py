"""The units that others write, to the catalogue's."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from collector import units as u
from collector.units import Unit


class Conversion(NamedTuple):
    """catalogue value = (written value + offset) * factor."""

    factor: float
    offset: float = 0.0


def _factors(**factors: float) -> dict[str, Conversion]:
    return {name: Conversion(factor) for name, factor in factors.items()}


_BYTES = _factors(B=1, kB=1e3, MB=1e6, GB=1e9, TB=1e12, KiB=2.0**10, MiB=2.0**20, GiB=2.0**30, TiB=2.0**40)

KNOWN: Final[Mapping[Unit, Mapping[str, Conversion]]] = {
    u.WATT: _factors(W=1, uW=1e-6, mW=1e-3, kW=1e3, MW=1e6),
    u.JOULE: _factors(J=1, uJ=1e-6, mJ=1e-3, kJ=1e3, MJ=1e6, Wh=3.6e3, kWh=3.6e6, MWh=3.6e9),
    u.RATIO: {"ratio": Conversion(1.0), "%": Conversion(0.01)},
    u.HERTZ: _factors(Hz=1, kHz=1e3, MHz=1e6, GHz=1e9),
    u.CELSIUS: {"C": Conversion(1.0), "F": Conversion(5 / 9, -32.0), "K": Conversion(1.0, -273.15)},
    u.VOLT: _factors(V=1, mV=1e-3, uV=1e-6),
    u.BYTE: _BYTES,
    u.BYTES_PER_SECOND: {
        **{f"{name}/s": conversion for name, conversion in _BYTES.items()},
        **_factors(**{"Mb/s": 1e6 / 8, "Gb/s": 1e9 / 8}),
    },
    u.SECOND: _factors(s=1, ns=1e-9, us=1e-6, ms=1e-3, min=60, h=3600),
    u.RPM: _factors(rpm=1),
    u.COUNT: {"count": Conversion(1.0), "": Conversion(1.0), "thousand": Conversion(1e3), "million": Conversion(1e6)},
    u.LANES: _factors(lanes=1),
    u.FLOP: _factors(FLOP=1, GFLOP=1e9, TFLOP=1e12, PFLOP=1e15),
    u.TOKENS_PER_SECOND: {"tokens/s": Conversion(1.0), "tokens/min": Conversion(1 / 60)},
    u.CURRENCY_PER_KWH: {
        "currency/kWh": Conversion(1.0),
        "currency/MWh": Conversion(1e-3),
        "cent/kWh": Conversion(0.01),
    },
    u.GRAM_PER_KWH: {"g/kWh": Conversion(1.0), "kg/kWh": Conversion(1e3), "kg/MWh": Conversion(1.0)},
}
"""For each unit of the catalogue, the spellings a mapping may use."""
