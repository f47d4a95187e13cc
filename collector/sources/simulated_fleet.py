"""What the simulated fleet is: device types, sites, racks, hosts, devices, and the options that choose them."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.errors import ConfigError

Floats = NDArray[Any]
Integers = NDArray[Any]

CELL_S: Final = 10
"""The physics advances in cells of this many seconds; within a cell everything has a closed form."""
NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sku:
    """A device type. Power, clocks and memory are the makers' figures; the rest is set so that recordings are met."""

    name: str
    vendor: str
    model: str
    tdp_w: float
    limit_min_w: float
    base_w: float
    leakage_w: float
    memory_w: float
    clock_min_hz: float
    clock_max_hz: float
    clock_step_hz: float
    clock_memory_hz: float
    memory_bytes: float
    flop_per_s: float
    bytes_per_s: float
    volts_min: float
    volts_max: float
    slowdown_c: float
    shutdown_c: float
    # `power_w` is a boxcar of this length; `power_instant_w`, where there is one, of instant_s.
    method: str
    window_s: float
    instant_s: float | None
    counter: bool = True


def _mhz(value: float) -> float:
    return value * 1e6


SKUS: Final = {
    sku.name: sku
    for sku in (
        Sku(
            name="H100", vendor="nvidia", model="NVIDIA H100 80GB HBM3", tdp_w=700, limit_min_w=200, base_w=42,
            leakage_w=55, memory_w=95, clock_min_hz=_mhz(345), clock_max_hz=_mhz(1980), clock_step_hz=_mhz(15),
            clock_memory_hz=_mhz(2619), memory_bytes=85_520_809_984, flop_per_s=989e12, bytes_per_s=3.35e12,
            volts_min=0.67, volts_max=1.05, slowdown_c=87, shutdown_c=92, method="average", window_s=1.0,
            instant_s=0.025,
        ),
        Sku(
            name="H200", vendor="nvidia", model="NVIDIA H200", tdp_w=700, limit_min_w=200, base_w=48, leakage_w=55,
            memory_w=110, clock_min_hz=_mhz(345), clock_max_hz=_mhz(1980), clock_step_hz=_mhz(15),
            clock_memory_hz=_mhz(3201), memory_bytes=150_754_820_096, flop_per_s=989e12, bytes_per_s=4.8e12,
            volts_min=0.67, volts_max=1.05, slowdown_c=87, shutdown_c=92, method="average", window_s=1.0,
            instant_s=0.025,
        ),
        Sku(
            name="A100", vendor="nvidia", model="NVIDIA A100-SXM4-80GB", tdp_w=400, limit_min_w=100, base_w=36,
            leakage_w=35, memory_w=60, clock_min_hz=_mhz(210), clock_max_hz=_mhz(1410), clock_step_hz=_mhz(15),
            clock_memory_hz=_mhz(1593), memory_bytes=85_899_345_920, flop_per_s=312e12, bytes_per_s=2.04e12,
            volts_min=0.70, volts_max=1.03, slowdown_c=89, shutdown_c=92, method="instant", window_s=0.025,
            instant_s=None,
        ),
        Sku(
            name="B200", vendor="nvidia", model="NVIDIA B200", tdp_w=1000, limit_min_w=200, base_w=85, leakage_w=85,
            memory_w=150, clock_min_hz=_mhz(120), clock_max_hz=_mhz(1965), clock_step_hz=_mhz(15),
            clock_memory_hz=_mhz(3996), memory_bytes=192_265_846_784, flop_per_s=2250e12, bytes_per_s=8.0e12,
            volts_min=0.66, volts_max=1.02, slowdown_c=87, shutdown_c=92, method="average", window_s=1.0,
            instant_s=0.025,
        ),
        Sku(
            name="L40S", vendor="nvidia", model="NVIDIA L40S", tdp_w=350, limit_min_w=100, base_w=20, leakage_w=25,
            memory_w=45, clock_min_hz=_mhz(210), clock_max_hz=_mhz(2520), clock_step_hz=_mhz(15),
            clock_memory_hz=_mhz(9001), memory_bytes=48_305_799_168, flop_per_s=362e12, bytes_per_s=0.864e12,
            volts_min=0.68, volts_max=1.07, slowdown_c=88, shutdown_c=93, method="average", window_s=1.0,
            instant_s=0.1,
        ),
        Sku(
            name="MI300X", vendor="amd", model="AMD Instinct MI300X OAM", tdp_w=750, limit_min_w=150, base_w=90,
            leakage_w=65, memory_w=110, clock_min_hz=_mhz(132), clock_max_hz=_mhz(2100), clock_step_hz=_mhz(1),
            clock_memory_hz=_mhz(1300), memory_bytes=206_141_652_992, flop_per_s=1307e12, bytes_per_s=5.3e12,
            volts_min=0.65, volts_max=1.05, slowdown_c=92, shutdown_c=105, method="instant", window_s=0.1,
            instant_s=None,
        ),
        Sku(
            name="Gaudi3", vendor="intel", model="Intel Gaudi 3 HL-325L", tdp_w=900, limit_min_w=300, base_w=120,
            leakage_w=70, memory_w=110, clock_min_hz=_mhz(200), clock_max_hz=_mhz(1600), clock_step_hz=_mhz(1),
            clock_memory_hz=_mhz(1800), memory_bytes=137_438_953_472, flop_per_s=1835e12, bytes_per_s=3.7e12,
            volts_min=0.65, volts_max=0.95, slowdown_c=95, shutdown_c=110, method="average", window_s=1.0,
            instant_s=None, counter=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place with its weather (means and swings, in °C), its grid and what an hour of the day is there."""

    name: str
    hours_east: float
    outdoor_c: float
    outdoor_year_c: float
    outdoor_day_c: float
    currency: str
    price_per_kwh: float
    carbon_g_per_kwh: float


SITES: Final = (
    Site(name="dublin", hours_east=0, outdoor_c=10, outdoor_year_c=6, outdoor_day_c=4, currency="EUR",
         price_per_kwh=0.12, carbon_g_per_kwh=301),
    Site(name="phoenix", hours_east=-7, outdoor_c=24, outdoor_year_c=11, outdoor_day_c=8, currency="USD",
         price_per_kwh=0.075, carbon_g_per_kwh=363),
    Site(name="lulea", hours_east=1, outdoor_c=3, outdoor_year_c=13, outdoor_day_c=4, currency="EUR",
         price_per_kwh=0.045, carbon_g_per_kwh=21),
    Site(name="singapore", hours_east=8, outdoor_c=28, outdoor_year_c=1, outdoor_day_c=4, currency="USD",
         price_per_kwh=0.16, carbon_g_per_kwh=483),
    Site(name="frankfurt", hours_east=1, outdoor_c=11, outdoor_year_c=10, outdoor_day_c=5, currency="EUR",
         price_per_kwh=0.14, carbon_g_per_kwh=342),
    Site(name="oregon", hours_east=-8, outdoor_c=11, outdoor_year_c=9, outdoor_day_c=6, currency="USD",
         price_per_kwh=0.06, carbon_g_per_kwh=130),
)  # fmt: skip

DEVICES_PER_HOST: Final = 8
HOSTS_PER_RACK: Final = 4
RACKS_PER_ROW: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What the ``[[source]]`` table of a simulated fleet says; `parse` is the way to make one from it."""

    devices: int = 16
    devices_per_host: int = DEVICES_PER_HOST
    sites: int = 1
    seed: int = 0
    step_s: float = 10.0
    mix: Mapping[str, float] = field(default_factory=lambda: {"H100": 1.0})
    faults: float | tuple[Mapping[str, Any], ...] = 0.0
    origin_ns: int | None = None
    speed: float = 1.0
    noise: float = 1.0
    busy: float = 1.0
    growth: float = 0.0
    checkpoint: Path | None = None

    @property
    def hosts(self) -> int:
        """How many hosts hold the devices."""
        return -(-self.devices // self.devices_per_host)


_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "devices": (1, 100_000),
    "devices_per_host": (1, 72),
    "hosts": (1, 20_000),
    "sites": (1, len(SITES)),
    "seed": (0, 2**63 - 1),
    "step_s": (0.1, 3600),
    "speed": (0.01, 100_000),
    "noise": (0, 10),
    "busy": (0.01, 1),
    "growth": (0, 1),
}
_WHOLE: Final = {"devices", "devices_per_host", "hosts", "sites", "seed"}


def parse(options: Mapping[str, Any]) -> FleetOptions:
    """
    Options from a table: devices or hosts, devices_per_host, sites, seed, step_s, mix, faults, origin, speed, noise,
    busy, growth, checkpoint.

    *mix* is a table of shares by device type, given to whole hosts. *faults* is a number (of faults for each
    device-day) or a list of tables with kind, subject, start, end (seconds from the origin) and value. *origin* is when
    the simulation begins: an ISO time or nanoseconds; None: midnight UTC before the first moment asked for. *busy* is
    the share of the devices of each site that are given work at the origin, *growth* how much more of them each day.
    *checkpoint* is a file that a live fleet keeps its state in, so that a start need not begin at the origin.
    Raises: ConfigError.
    """
    known = {*_LIMITS, "mix", "faults", "origin", "checkpoint"}
    for key in options:
        if key not in known:
            raise ConfigError(key, f"unknown; a simulated fleet takes {', '.join(sorted(known))}")
    values: dict[str, Any] = {key: _number(key, options[key]) for key in _LIMITS if key in options}
    per_host = values.get("devices_per_host", DEVICES_PER_HOST)
    hosts = values.pop("hosts", None)
    if hosts is not None:
        if values.get("devices", hosts * per_host) != hosts * per_host:
            raise ConfigError("hosts", f"{hosts} hosts of {per_host} devices are not {values['devices']} devices")
        values["devices"] = hosts * per_host
    if "mix" in options:
        values["mix"] = _mix(options["mix"])
    if "faults" in options:
        values["faults"] = _faults(options["faults"])
    if options.get("origin") is not None:
        values["origin_ns"] = _moment("origin", options["origin"])
    if options.get("checkpoint") is not None:
        values["checkpoint"] = _path("checkpoint", options["checkpoint"])
    made = FleetOptions(**values)
    if made.hosts < made.sites:
        raise ConfigError("sites", f"{made.sites} sites need as many hosts; there are {made.hosts}")
    return made


def _number(key: str, value: object) -> float | int:
    low, high = _LIMITS[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or (key in _WHOLE and value != int(value)):
        raise ConfigError(key, f"{value!r}: a {'whole number' if key in _WHOLE else 'number'} is wanted")
    if not low <= value <= high:
        raise ConfigError(key, f"{value}: between {low:g} and {high:g} is wanted")
    return int(value) if key in _WHOLE else float(value)


def _mix(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigError("mix", f"{value!r}: a table of device types and shares is wanted, such as {{ H100 = 0.7 }}")
    for name, share in value.items():
        if name not in SKUS:
            raise ConfigError(f"mix.{name}", f"unknown device type; there are {', '.join(SKUS)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise ConfigError(f"mix.{name}", f"{share!r}: a share of 0 or more is wanted")
    if sum(value.values()) <= 0:
        raise ConfigError("mix", "the shares are all 0")
    return {name: float(share) for name, share in value.items()}


def _faults(value: object) -> float | tuple[Mapping[str, Any], ...]:
    if isinstance(value, bool):
        raise ConfigError("faults", f"{value!r}: faults for each device-day, or a list of faults, is wanted")
    if isinstance(value, int | float):
        if not 0 <= value <= 24:
            raise ConfigError("faults", f"{value}: between 0 and 24 for each device-day is wanted")
        return float(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, Mapping) for v in value):
        return tuple(value)
    raise ConfigError("faults", f"{value!r}: faults for each device-day, or a list of faults, is wanted")


def _path(key: str, value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ConfigError(key, f"{value!r}: a file's path is wanted")
    return Path(value)


def _moment(key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        moment = value
    elif isinstance(value, str | datetime):
        try:
            parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            raise ConfigError(key, f"{value!r}: an ISO time is wanted, such as 2026-01-31T00:00:00Z") from None
        parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        moment = round(parsed.timestamp()) * NS
    else:
        raise ConfigError(key, f"{value!r}: an ISO time or nanoseconds are wanted")
    if moment < 0 or moment % (CELL_S * NS):
        raise ConfigError(key, f"{value!r}: a multiple of {CELL_S} s since 1970 is wanted")
    return moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Every device of the simulated fleet as arrays in one order: site, rack, host, slot."""

    options: FleetOptions
    ids: tuple[str, ...]
    skus: tuple[Sku, ...]
    sku_of: Integers
    host_names: tuple[str, ...]
    host_of: Integers
    host_site: Integers
    host_rack: tuple[str, ...]
    sites: tuple[Site, ...]
    slot: Integers

    @property
    def size(self) -> int:
        """How many devices there are."""
        return len(self.ids)

    @property
    def site_of(self) -> Integers:
        """The site of each device."""
        sites: Integers = self.host_site[self.host_of]
        return sites

    def each(self, name: str) -> Floats:
        """A figure of the device type, for each device."""
        return np.array([float(getattr(sku, name) or 0.0) for sku in self.skus])[self.sku_of]

    def sku(self, device: int) -> Sku:
        """The type of a device."""
        return self.skus[int(self.sku_of[device])]


def seed_of(*parts: object) -> int:
    """A number that depends on all *parts* and is the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def build(options: FleetOptions) -> Fleet:
    """Lay the fleet out: sites take equal shares of the hosts, device types of *mix* take theirs host by host."""
    hosts = options.hosts
    host_site = np.arange(hosts) * options.sites // hosts
    names, racks, seen = [], [], [0] * options.sites
    for site in host_site.tolist():
        rack, place = divmod(seen[site], HOSTS_PER_RACK)
        racks.append(f"{SITES[site].name}-r{rack + 1:02d}")
        names.append(f"{racks[-1]}-n{place + 1}")
        seen[site] += 1
    skus = tuple(SKUS[name] for name, share in options.mix.items() if share > 0)
    host_sku = _shared_out(hosts, [options.mix[sku.name] for sku in skus])
    index = np.arange(options.devices)
    host_of = index // options.devices_per_host
    return Fleet(
        options=options,
        ids=tuple(_id(skus[host_sku[host]], options.seed, i) for i, host in enumerate(host_of.tolist())),
        skus=skus,
        sku_of=host_sku[host_of],
        host_names=tuple(names),
        host_of=host_of,
        host_site=host_site,
        host_rack=tuple(racks),
        sites=SITES[: options.sites],
        slot=index % options.devices_per_host,
    )


def _shared_out(count: int, shares: Sequence[float]) -> Integers:
    """Which of the shares each of *count* places goes to: always the one that is furthest behind."""
    weights = np.array(shares) / sum(shares)
    given = np.zeros(len(shares))
    chosen = np.empty(count, dtype=np.int64)
    for place in range(count):
        chosen[place] = np.argmax(weights * (place + 1) - given)
        given[chosen[place]] += 1
    return chosen


def _id(sku: Sku, seed: int, index: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=16).digest()
    if sku.vendor == "nvidia":
        return f"GPU-{uuid.UUID(bytes=digest)}"
    return f"0x{digest[:8].hex()}" if sku.vendor == "amd" else f"AN{digest[:6].hex().upper()}"


def describe(fleet: Fleet) -> dict[str, Any]:
    """
    The fleet as a planner would write it down: sites, power tree, racks, hosts and device types, for fleet.toml.

    Each site has two utility feeds, each with its UPS; each row of racks hangs on a panel of either. A site is built
    for what stands in it and a little more, so that something is short everywhere: panels, UPS or grid connection.
    """
    host_sku = [
        fleet.skus[int(fleet.sku_of[np.flatnonzero(fleet.host_of == host)[0]])] for host in range(_hosts(fleet))
    ]
    per_host = np.bincount(fleet.host_of, minlength=_hosts(fleet))
    sites, domains, racks = [], [], []
    for number, site in enumerate(fleet.sites):
        ours = [host for host in range(_hosts(fleet)) if fleet.host_site[host] == number]
        names = dict.fromkeys(fleet.host_rack[host] for host in ours)
        rows: dict[str, list[int]] = {}
        for at, name in enumerate(names):
            inside = [host for host in ours if fleet.host_rack[host] == name]
            rows.setdefault(f"{site.name}-row{at // RACKS_PER_ROW + 1}", []).extend(inside)
            racks.append({
                "name": name, "feeds": [f"{site.name}-row{at // RACKS_PER_ROW + 1}-{side}" for side in "ab"],
                "rating_v": 415.0, "rating_a": 125.0, "phases": 3, "units": 48, "cooling_w": 80e3, "ports": 64,
                "hosts": [fleet.host_names[host] for host in inside], "sku": host_sku[inside[0]].name,
            })  # fmt: skip
        peak_w = sum(_server_w(host_sku[host], int(per_host[host]), 1.0) for host in ours)
        sites.append({
            "name": site.name, "hours_east": site.hours_east, "currency": site.currency, "power_factor": 0.98,
            "pue": 1.25, "price_per_kwh": site.price_per_kwh, "carbon_g_per_kwh": site.carbon_g_per_kwh,
            "limit_w": _step(peak_w * 1.45), "cooling_w": _step(peak_w * 1.2), "lead_days": 900.0,
        })  # fmt: skip
        for side in "ab":
            up = f"{site.name}-utility-{side}"
            domains.append({"name": up, "kind": "utility", "site": site.name, "rating_w": _step(peak_w * 1.3)})
            domains.append({
                "name": f"{site.name}-ups-{side}", "kind": "ups", "parents": [up], "efficiency_ratio": 0.96,
                "group": f"{site.name}-ups", "redundancy": "2N", "rating_w": _step(peak_w * 1.1), "lead_days": 240.0,
            })  # fmt: skip
            for row, inside in rows.items():
                of_row = sum(_server_w(host_sku[host], int(per_host[host]), 1.0) for host in inside)
                domains.append({
                    "name": f"{row}-{side}", "kind": "rpp", "parents": [f"{site.name}-ups-{side}"],
                    "rating_w": _step(of_row * 1.2), "derating_ratio": 0.8, "lead_days": 90.0,
                })  # fmt: skip
    return {"site": sites, "domain": domains, "rack": racks, "sku": [_described(fleet, sku) for sku in fleet.skus]}


def _hosts(fleet: Fleet) -> int:
    return len(fleet.host_names)


def _step(watts: float) -> float:
    """Feeds are sold in steps."""
    return float(np.ceil(watts / 5_000) * 5_000)


def _server_w(sku: Sku, devices: int, share: float) -> float:
    """The draw of a server with all of its devices at a share of their rated power; fans and CPUs come on top."""
    return devices * float(sku.tdp_w) * 1.15 * share + 900.0


def _described(fleet: Fleet, sku: Sku) -> dict[str, Any]:
    devices = fleet.options.devices_per_host
    return {
        "name": sku.name,
        "vendor": sku.vendor,
        "model": sku.model,
        "tdp_w": float(sku.tdp_w),
        "memory_bytes": float(sku.memory_bytes),
        "flop_per_s": sku.flop_per_s,
        "memory_bandwidth_bytes_per_s": sku.bytes_per_s,
        "server": {
            "accelerators": devices, "rack_units": 8, "ports": 10,
            "nameplate_w": _step(_server_w(sku, devices, 1.0) * 1.1), "peak_w": _server_w(sku, devices, 1.0),
            "mean_w": _server_w(sku, devices, 0.6), "lead_days": 120.0,
        },
    }  # fmt: skip
