"""Numbers as people read them: with a prefix, a unit and no more digits than they carry."""

from datetime import UTC, datetime
from typing import Final

from collector.units import PREFIXES

ABSENT: Final = "–"
J_PER_WH: Final = 3600.0


def scaled(value: float | None, unit: str) -> tuple[str, str]:
    """
    The number and the unit, apart.

    >>> scaled(12345.6, "W")
    ('12.3', 'kW')
    >>> scaled(None, "W")
    ('–', 'W')
    """
    if value is None:
        return ABSENT, unit
    # No prefixes below one: a mWh is too easily read as a thousand million of them.
    factor, prefix = next(((f, p) for f, p in PREFIXES if abs(value) >= f * 0.9995), (1.0, ""))
    number = value / factor
    digits = next((digits for limit, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)) if abs(number) >= limit), 3)
    return f"{number:.{0 if number == 0 else digits}f}", f"{prefix}{unit}"


def number(value: float | None) -> str:
    """
    Three digits, without a unit.

    >>> number(0.0123456), number(1234.5), number(12.0), number(None)
    ('0.0123', '1,230', '12', '–')
    """
    if value is None:
        return ABSENT
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"


def watt_hours(joules: float | None) -> float | None:
    """Joules as watt-hours; what was not measured stays so."""
    return None if joules is None else joules / J_PER_WH


def joined(value: float | None, unit: str) -> str:
    """The number and its unit in one piece."""
    number, scaled_unit = scaled(value, unit)
    return f"{number} {scaled_unit}" if scaled_unit else number


def percent(ratio: float | None) -> str:
    """
    A share in whole percent where that says enough.

    Almost all is not all, and a little is not nothing.

    >>> percent(0.9996), percent(1.0), percent(0.0004), percent(0.514)
    ('99.9 %', '100 %', '<0.1 %', '51 %')
    """
    if ratio is None:
        return ABSENT
    if 0.0 < ratio < 0.001:
        return "<0.1 %"
    if 0.995 <= ratio < 1.0:
        return f"{min(ratio * 100, 99.9):.1f} %"
    return f"{ratio * 100:.1f} %" if ratio < 0.1 and ratio > 0 else f"{ratio * 100:.0f} %"


def money(amount: float, currency: str | None) -> str:
    """
    An amount with as many digits as matter.

    >>> money(0.054, "EUR"), money(1234.5, "USD"), money(12.3, None)
    ('0.05 EUR', '1,234 USD', '12.30')
    """
    return f"{amount:,.{2 if abs(amount) < 100 else 0}f} {currency or ''}".rstrip()


def apart(text: str) -> tuple[str, str]:
    """A number and its unit, apart, as a tile has them: ``apart(percent(0.5))``."""
    number, _, unit = text.partition(" ")
    return number, unit


def money_apart(amount: float | None, currency: str | None) -> tuple[str, str]:
    """
    An amount as a tile has it, with a prefix where it is large.

    >>> money_apart(1234567.0, "USD"), money_apart(12.3, "EUR"), money_apart(None, "EUR")
    (('1.23', 'M USD'), ('12.30', 'EUR'), ('–', ''))
    """
    if amount is None:
        return ABSENT, ""
    if abs(amount) < 1000:
        return f"{amount:,.{2 if abs(amount) < 100 else 0}f}", currency or ""
    number, prefix = scaled(amount, "")
    return number, f"{prefix} {currency or ''}".rstrip()


def date_apart(moment: datetime | None) -> tuple[str, str]:
    """
    A date as a tile has it: day and month, and the year.

    >>> date_apart(datetime(2026, 7, 2)), date_apart(None)
    (('2 Jul', '2026'), ('–', ''))
    """
    return (ABSENT, "") if moment is None else (f"{moment.day} {moment:%b}", f"{moment:%Y}")


def when(moment: datetime | None) -> str:
    """A time in UTC, to the second."""
    return ABSENT if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def length(seconds: float) -> str:
    """
    A length of time in its largest whole unit.

    >>> length(15), length(3600), length(604800)
    ('15 s', '1 h', '7 d')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"
