"""
The fleet that the demonstration shows: where it stands, what goes wrong with it, and what its planner wrote down.

Work grows until one site runs out of power; another was built for more than stands in it. Faults come as they do, drawn
by the simulation, and a few are under way when the page opens. All of them are labelled in ``fleet.json``.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from collector.sources.simulated import faults, fleet, working
from collector.sources.simulated_faults import KINDS
from collector.sources.simulated_fleet import CELL_S, DEVICES_PER_HOST

NS: Final = 1_000_000_000
HOUR_NS: Final = 3600 * NS
STORY_DEVICES: Final = 96
"""With fewer there is one site, or two, of which little can be told."""
STEP_S: Final = 30.0
LONG_HOURS: Final = 48.0
"""A history up to this long has a step of 10 s."""
FAULTS_PER_DEVICE_DAY: Final = 0.01
DAYS_AHEAD: Final = 30
"""Faults are drawn for so long after the history: a demonstration may be shown for weeks."""

_SIZE: Final = {"dublin": 0.95, "phoenix": 1.3, "lulea": 1.7}
"""How large panels and UPS are beside what the simulated fleet comes with."""
_LEAD_DAYS: Final = {"rpp": 14.0, "ups": 28.0}
"""Two weeks of history tell no more than two months ahead: equipment of a demonstration comes quickly."""
_CAPEX: Final = {"H100": 30_000.0, "B200": 45_000.0, "MI300X": 18_000.0}
"""Round figures for a device, its share of the server with it: a demonstration's, nobody's offer."""


def options_of(devices: int, hours: float, origin_ns: int) -> dict[str, Any]:
    """The options of the simulated source, with the faults as a list."""
    made: dict[str, Any] = {
        "devices": devices,
        "sites": 3 if devices >= STORY_DEVICES else 2 if devices >= 16 else 1,
        "seed": 7,
        "mix": {"H100": 0.5, "MI300X": 0.3, "B200": 0.2} if devices >= 16 else {"H100": 1.0},
        "origin": origin_ns,
    }
    if devices >= STORY_DEVICES:
        days = max(1.0, hours / 24)
        made |= {"busy": 0.78, "growth": round(0.15 / days, 4)}
    end_ns = origin_ns + round((hours + 24 * DAYS_AHEAD) * HOUR_NS)
    drawn = faults({**made, "faults": FAULTS_PER_DEVICE_DAY}, origin_ns, end_ns)
    now_s = _cells(hours)
    told = list(_under_way(made, now_s))
    busy = {subject for fault in told for subject in _touched(made, fault)}
    told += [
        {
            "kind": fault.kind, "subject": fault.subject, "value": fault.value,
            "start": (fault.start_ns - origin_ns) // NS, "end": (fault.end_ns - origin_ns) // NS,
        }
        for fault in drawn
        # What is under way is to be seen as what it is.
        if busy.isdisjoint(fault.devices)
    ]  # fmt: skip
    return {**made, "faults": sorted(told, key=lambda fault: (fault["start"], fault["kind"]))}


def _under_way(made: Mapping[str, Any], now_s: int) -> Iterator[dict[str, Any]]:
    """What is wrong at the moment that the page opens, each on devices that work then: hours ago, hours from now."""
    begun = (
        ("fan_failure", "serving", 5.0, 19.0, 0.3),
        ("power_cap", "serving", 30.0, 90.0, 0.7),
        ("idle_allocated", "training", 7.0, 12.0, 1.0),
        ("straggler", "training", 9.0, 30.0, 0.78),
        ("ecc_storm", "serving", 0.7, 0.5, 40.0),
        ("device_lost", "serving", 1.5, 5.0, 1.0),
    )
    if made["devices"] < STORY_DEVICES or now_s < LONG_HOURS * 3600:
        return
    taken: set[int] = set()
    for kind, role, before_h, after_h, value in begun:
        start_s, end_s = now_s - _cells(before_h), now_s + _cells(after_h)
        for of, devices in working(made, made["origin"] + start_s * NS, made["origin"] + now_s * NS):
            subject = devices[0] // DEVICES_PER_HOST if KINDS[kind].of_host else devices[0]
            fault = {"kind": kind, "subject": subject, "start": start_s, "end": end_s, "value": value}
            touched = {*devices, *_touched(made, fault)}
            if of == role and taken.isdisjoint(touched):
                taken |= touched
                yield fault
                break


def _cells(hours: float) -> int:
    return round(hours * 3600 / CELL_S) * CELL_S


def _touched(made: Mapping[str, Any], fault: Mapping[str, Any]) -> Sequence[int]:
    origin = int(made["origin"])
    labels = faults({**made, "faults": [fault]}, origin, origin + (int(fault["end"]) + 1) * NS)
    return labels[0].devices if labels else ()


def plan_toml(end_ns: int) -> str:
    """What its planner asks for of the year that begins a month after *end_ns*: plan.toml."""
    start = datetime.fromtimestamp(end_ns / NS, tz=UTC).date() + timedelta(days=30)
    return f"""\
# Of `perfwatt demo`: what is wanted in a year, and what may be spent; the page Plans and `perfwatt plan` answer.
start = {start}
periods = 6
period_days = 60
currency = "USD"
discount_ratio = 0.08
growth_ratio_per_year = 0.05   # of the load that is there already
budget = 900e3                 # of capital, a period
budget_carries = true          # what is left goes on to the next

[[demand]]
name = "serving"
sku = ["H100", "MI300X"]       # which may serve it
amount = [0, 0, 2, 1, 1, 1]    # how many more servers from each period on; they take their lead time to come

[[demand]]
name = "training"
sku = "B200"
amount = [0, 0, 1, 0, 1]
"""


def fleet_toml(options: Mapping[str, Any]) -> str:
    """The fleet as its planner keeps it: fleet.toml."""
    from analytics.tables import write_toml

    told = fleet(options)
    for site in told["site"]:
        site |= {
            "currency": "USD",
            "lead_days": 30.0,
            "limit_w": site["limit_w"] * 2,
            "cooling_w": site["cooling_w"] * 1.5,
        }
    for domain in told["domain"]:
        size = next((size for name, size in _SIZE.items() if domain["name"].startswith(name)), 1.0)
        domain["rating_w"] = round(domain["rating_w"] * size, -3)
        if domain["kind"] in _LEAD_DAYS:
            domain["lead_days"] = _LEAD_DAYS[domain["kind"]]
    for sku in told["sku"]:
        capex = _CAPEX[sku["name"]]
        sku |= {"capex": capex, "currency": "USD", "discount_ratio": 0.08, "life_years": 5.0, "opex_per_h": 0.05}
        sku["server"]["capex"] = capex * sku["server"]["accelerators"]
        # A table within a table is the last thing of it.
        sku["server"] = sku.pop("server")
    return "# Of `perfwatt demo`; prices are round figures.\n" + write_toml(told)
