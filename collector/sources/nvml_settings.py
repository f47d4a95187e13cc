"""The options of an ``nvml`` source, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from collector.errors import ConfigError
from collector.sources import Options

_NUMBERS: Final = {
    "slow_s": (0.0, 3600.0),
    "processes_s": (0.0, 3600.0),
    "max_gap_s": (0.1, 3600.0),
    "rescan_s": (0.1, 3600.0),
}
_SWITCHES: Final = ("activity", "pcie_throughput")
_PATHS: Final = ("sysfs", "proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of an ``nvml`` source."""

    library: str | None = None
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    slow_s: float = 10.0
    processes_s: float = 30.0
    max_gap_s: float = 10.0
    rescan_s: float = 10.0
    activity: bool = False
    pcie_throughput: bool = False


def settings_of(options: Options) -> Settings:
    """
    The settings in *options*.

    Raises: ConfigError.
    """
    found: dict[str, Any] = {}
    for key, value in options.items():
        if key in _NUMBERS:
            found[key] = _number(key, value, *_NUMBERS[key])
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                raise ConfigError(key, f"{value!r} is neither true nor false")
            found[key] = value
        elif key in _PATHS or key == "library":
            if not isinstance(value, str):
                raise ConfigError(key, f"{value!r} is not a path")
            found[key] = value if key == "library" else Path(value)
        else:
            known = ", ".join(sorted((*_NUMBERS, *_SWITCHES, *_PATHS, "library")))
            raise ConfigError(key, f"an nvml source has no such option; it has {known}")
    return Settings(**found)


def _number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(key, f"{value!r} is not a number")
    if not low <= value <= high:
        raise ConfigError(key, f"{value} is not between {low:g} and {high:g}")
    return float(value)
