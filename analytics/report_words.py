"""What a report of a job says, in words: for its screen and for its page."""

from datetime import tzinfo
from typing import Final

from analytics.report_records import JobReport
from collector.moments import format_moment
from collector.units import PREFIXES

_HOUR_NS: Final = 3_600_000_000_000


def who(report: JobReport) -> str:
    """Whose it is and what ran: its name, user, team, model and framework."""
    user = f"{report.name or 'unnamed'}, user {report.user or 'unknown'}" + (
        f" of {report.team}" if report.team else ""
    )
    ran = " on ".join(filter(None, (report.model, report.framework)))
    return f"{user} | {ran}" if ran else user


def where(report: JobReport) -> str:
    """On which devices, hosts and sites."""
    skus: dict[str, int] = {}
    for device in report.devices:
        skus[device.sku or "unknown device"] = skus.get(device.sku or "unknown device", 0) + 1
    devices = ", ".join(f"{count} x {sku}" for sku, count in sorted(skus.items()))
    hosts = ", ".join(report.hosts[:8]) + (f" and {len(report.hosts) - 8} more" if len(report.hosts) > 8 else "")
    sites = f" ({', '.join(report.sites)})" if report.sites else ""
    return f"{devices} on {hosts or 'unknown hosts'}{sites}"


def when(report: JobReport, tz: tzinfo) -> str:
    """From when until when, and how many device-hours were seen of it."""
    start = format_moment(report.start_ns, tz)
    if report.end_ns is not None:
        span = _span((report.end_ns - report.start_ns) / 1e9)
        text = f"{start} to {format_moment(report.end_ns, tz)}, {span}"
    else:
        text = f"since {start}, still running"
    text += f"; {report.device_h:.1f} device-hours seen"
    if report.seen_ns is not None and report.seen_ns[0] > report.start_ns + _HOUR_NS:
        text += f", from {format_moment(report.seen_ns[0], tz)} on"
    return text


def energy(report: JobReport) -> str:
    """Its energy with the interval, and how it was measured."""
    told = report.energy
    if told.energy_j is None:
        if told.wall_j is None or told.wall_ratio is None:
            return "not measured"
        machines = "its machine" if len(report.hosts) == 1 else f"its {len(report.hosts)} machines"
        return (
            f"{amount(told.wall_j)} of {machines} as a whole, {told.wall_ratio:.0%} of the time; devices not measured"
        )
    text = amount(told.energy_j)
    if told.low_j is not None and told.high_j is not None:
        text += f", between {scaled_joules(told.low_j)} and {scaled_joules(told.high_j)}"
    text += f"; {told.covered_ratio:.0%} of the time covered"
    if told.counter_ratio is not None:
        text += f", {told.counter_ratio:.0%} by energy counters, {told.modelled_ratio or 0.0:.0%} modelled"
    return f"{text}; {told.power_mean_w:.0f} W a device" if told.power_mean_w is not None else text


def cost(report: JobReport) -> str:
    """What it cost and emitted, as far as fleet.toml has prices."""
    money = report.money
    if money.energy is None and money.devices is None and money.carbon_location_kg is None:
        return "not known: fleet.toml has no prices for it"
    unit = money.currency or ""
    parts = []
    if money.total is not None:
        shares = f"energy {money.energy:.2f} ({money.price_basis}), devices {money.devices:.2f}"
        parts.append(f"{money.total:.2f} {unit}: {shares}")
    elif money.energy is not None:
        parts.append(f"energy {money.energy:.2f} {unit} ({money.price_basis})")
    elif money.devices is not None:
        parts.append(f"devices {money.devices:.2f} {unit}")
    if money.facility is not None and money.pue is not None:
        parts.append(f"the facility adds {money.facility:.2f} (PUE {money.pue:.2f})")
    if money.carbon_location_kg is not None:
        market = "" if money.carbon_market_kg is None else f", {money.carbon_market_kg:.1f} kg market-based"
        parts.append(f"{money.carbon_location_kg:.1f} kg CO2e{market}")
    return "; ".join(parts)


def work(report: JobReport) -> str:
    """What it did, and what that took."""
    told = report.work
    parts = []
    for count, name in ((told.tokens, "tokens"), (told.steps, "steps"), (told.samples, "samples"),
                        (told.requests, "requests")):  # fmt: skip
        if count is not None:
            parts.append(f"{_count(count)} {name}")
    if told.tokens_per_s is not None:
        parts.append(f"{_count(told.tokens_per_s)} tokens/s")
    for value, name in ((told.joules_per_token, "J/token"), (told.joules_per_step, "J/step"),
                        (told.joules_per_sample, "J/sample")):  # fmt: skip
        if value is not None:
            parts.append(f"{joules(value)} {name}")
    if told.best_joules_per_token is not None:
        parts.append(f"at best {joules(told.best_joules_per_token)} J/token")
    if told.latency_p50_s is not None:
        parts.append(f"latency p50 {told.latency_p50_s:.2g} s")
    return ", ".join(parts) or "nothing was counted"


def standing(report: JobReport) -> str:
    """How it compares with other runs of the same."""
    told = report.standing
    if told is None:
        return "not known"
    unit = "J/" + told.metric.removeprefix("joules_per_")
    return (
        f"needs less than {told.better_ratio:.0%} of {told.runs} other runs of {told.of}: "
        f"{joules(told.value)} {unit}, median {joules(told.median)}, best {joules(told.best)} "
        f"({told.best_run})"
    )


def joules(value: float) -> str:
    """Joules with four digits, whole ones from a thousand on."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def amount(energy_j: float) -> str:
    """
    An energy as it is measured, and as it is paid for.

    >>> amount(3.6e6), amount(36_000.0)
    ('3.6 MJ (1 kWh)', '36 kJ (10 Wh)')
    """
    value = energy_j / 3.6e6
    return f"{scaled_joules(energy_j)} ({f'{value:.3g} kWh' if value >= 0.1 else f'{1000 * value:.3g} Wh'})"


def scaled_joules(energy_j: float) -> str:
    """Joules with three digits and a prefix."""
    for size, prefix in PREFIXES:
        if abs(energy_j) >= 0.9995 * size:
            return f"{energy_j / size:.3g} {prefix}J"
    return f"{energy_j:.3g} J"


def _count(value: float) -> str:
    for size, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (size if size > 1e4 else 1e3):.3g}{name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    return (f"{days} d " if days else "") + (f"{hours} h " if hours or days else "") + f"{minutes % 60} min"
