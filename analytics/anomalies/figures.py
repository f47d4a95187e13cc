"""Numbers in what is said of an incident."""

from collector.units import PREFIXES


class Figure(float):
    """
    A number that is never written with an exponent, whatever a text asks for; with a unit after the digits it takes
    the prefix that suits it.

    >>> f"{Figure(2861.0):.3g} tokens; {Figure(1.851e9):.4g Hz}"
    '2,860 tokens; 1.851 GHz'
    """

    def __format__(self, spec: str) -> str:
        digits, _, unit = spec.partition(" ")
        factor, prefix = next(((f, p) for f, p in PREFIXES if unit and abs(self) >= f), (1.0, ""))
        text = format(float(self) / factor, digits)
        text = f"{float(text):,.0f}" if "e+" in text else text
        return f"{text} {prefix}{unit}" if unit else text
