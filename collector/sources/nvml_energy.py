"""
What a board's power reading means, and whether its energy counter tells the same.

The same function gives a mean over 1 s on one board and 25 ms of every 100 ms on another, by architecture and driver
(measured by Yang, Adámek and Armour, SC24). And the energy counter of an idle board has been seen 1.7 times off what
its own power reading integrates to. So the first is written down with every sample, the second checked all the time.
"""

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

import pynvml

from collector.catalogue import ENERGY, POWER, POWER_AVERAGE, POWER_INSTANT, POWER_MODULE, Metric


@dataclass(frozen=True, slots=True)
class Meaning:
    """Which reading is the power of the board, by which method, of what scope, over which window."""

    metric: Metric
    method: str
    scope: str = "device"
    window_s: float | None = None


def power_meaning(
    metrics: Set[Metric], *, architecture: int, capability: tuple[int, int], driver: str
) -> Meaning | None:
    """
    What to take for the power of a board that reads *metrics*; None where it tells neither power nor energy.

    A mean over a second goes first: at one reading a second it misses nothing, where short windows alias with load.
    """
    window_s = instant_window_s(architecture, capability)
    if POWER_AVERAGE in metrics:
        return Meaning(POWER_AVERAGE, "average", window_s=1.0)
    if POWER_INSTANT in metrics:
        return Meaning(POWER_INSTANT, "instant", window_s=window_s)
    if POWER_MODULE in metrics:  # GH200 without GPU-scope readings
        return Meaning(POWER_MODULE, "average", scope="module", window_s=1.0)
    if POWER in metrics:
        return _meaning_of_usage(architecture, capability, driver, window_s)
    if ENERGY in metrics:
        return Meaning(ENERGY, "counter")
    return None


def _meaning_of_usage(architecture: int, capability: tuple[int, int], driver: str, window_s: float | None) -> Meaning:
    if architecture < pynvml.NVML_DEVICE_ARCH_PASCAL:
        return Meaning(POWER, "average")  # a low-pass filter without a window
    if architecture < pynvml.NVML_DEVICE_ARCH_AMPERE or capability == (8, 0):
        return Meaning(POWER, "instant", window_s=window_s)
    if driver.split(".", 1)[0] == "530" and architecture <= pynvml.NVML_DEVICE_ARCH_ADA:
        return Meaning(POWER, "instant", window_s=0.1)
    return Meaning(POWER, "average", window_s=1.0)


def instant_window_s(architecture: int, capability: tuple[int, int]) -> float | None:
    """The window of an instant reading, where it was measured; compute capability 8.0 is GA100, the A100's chip."""
    if capability == (8, 0) or architecture == pynvml.NVML_DEVICE_ARCH_HOPPER:
        return 0.025
    return {
        pynvml.NVML_DEVICE_ARCH_PASCAL: 0.01,
        pynvml.NVML_DEVICE_ARCH_VOLTA: 0.01,
        pynvml.NVML_DEVICE_ARCH_TURING: 0.1,
        pynvml.NVML_DEVICE_ARCH_AMPERE: 0.1,
        pynvml.NVML_DEVICE_ARCH_ADA: 0.1,
    }.get(architecture)


class CounterPower:
    """
    Power from the energy counter, for a board that has nothing else.

    The counter moves about every 100 ms. A reading equal to the one before means that it has not moved yet, not 0 W.
    """

    def __init__(self) -> None:
        self._moved: tuple[float, float] | None = None

    def of(self, time_s: float, energy_j: float) -> float | None:
        """Mean power since the counter last moved, or None while it has not."""
        if self._moved is None or energy_j < self._moved[1]:
            self._moved = (time_s, energy_j)
            return None
        then_s, then_j = self._moved
        if energy_j == then_j:
            return None
        self._moved = (time_s, energy_j)
        return (energy_j - then_j) / (time_s - then_s)


@dataclass(slots=True)
class _Bucket:
    """Seconds of the window: how long, and the joules by each account."""

    start_s: float
    covered_s: float = 0.0
    counter_j: float = 0.0
    integral_j: float = 0.0
    module_j: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A change of what the check thinks: a kind of event, the ratio it saw, and words."""

    kind: str
    ratio: float
    message: str


WINDOW_S: Final = 300.0
BUCKET_S: Final = 10.0
COVERED_S: Final = 30.0
"""Below this much of the window the ratio says little: the counter's tick is 0.1 s."""
PATIENCE_S: Final = 120.0
BOUNDS: Final = (0.9, 1.1)
"""Counter over integral. Sound boards differ by up to 1 %, and a sensor's gain (5 %) touches both the same."""
CALM: Final = (0.95, 1.05)


@dataclass(slots=True)
class EnergyCheck:
    """
    Integrates power beside the hardware counter and compares the two over the last five minutes.

    Both are taken over the same pairs of readings; a pair further apart than *max_gap_s*, or over which the counter
    fell (the driver was reloaded), adds nothing, and `integrated_j` is None until a pair did. On a module (GH200) the
    counter may cover the CPU, too: where the module's power agrees with it and the GPU's does not, `scope` becomes
    ``module`` and the comparison follows.
    """

    max_gap_s: float = 10.0
    integrated_j: float | None = None
    scope: str = "device"
    agreement: float | None = None
    _last: tuple[float, float, float | None, float | None] | None = None
    _window: deque[_Bucket] = field(default_factory=deque)
    _disagrees: bool = False
    _odd_since_s: float | None = None

    def take(
        self, time_s: float, power_w: float, *, module_w: float | None = None, energy_j: float | None = None
    ) -> Finding | None:
        """Take the readings of one moment of the monotonic clock; gives what is new to tell a person."""
        last, self._last = self._last, (time_s, power_w, module_w, energy_j)
        if last is None:
            return None
        then_s, then_w, then_module_w, then_j = last
        elapsed_s = time_s - then_s
        if not 0 < elapsed_s <= self.max_gap_s:
            return None
        joules = (power_w + then_w) / 2 * elapsed_s
        self.integrated_j = (self.integrated_j or 0.0) + joules
        if energy_j is None or then_j is None:
            return None
        if energy_j < then_j:
            return Finding(
                "energy_counter_reset", energy_j, f"the energy counter fell from {then_j:.0f} J to {energy_j:.0f} J"
            )
        finding = None
        if not self._window or time_s - self._window[-1].start_s >= BUCKET_S:
            finding = self._judge(time_s)
            self._window.append(_Bucket(time_s))
        bucket = self._window[-1]
        bucket.covered_s += elapsed_s
        bucket.counter_j += energy_j - then_j
        bucket.integral_j += joules
        if module_w is not None and then_module_w is not None:
            bucket.module_j += (module_w + then_module_w) / 2 * elapsed_s
        return finding

    def _judge(self, time_s: float) -> Finding | None:
        while self._window and time_s - self._window[0].start_s > WINDOW_S:
            self._window.popleft()
        covered_s = counter_j = integral_j = module_j = 0.0
        for bucket in self._window:
            covered_s += bucket.covered_s
            counter_j += bucket.counter_j
            integral_j += bucket.integral_j
            module_j += bucket.module_j
        if covered_s < COVERED_S or integral_j <= 0:
            self.agreement = None
            return None
        if (
            self.scope == "device"
            and module_j > 0
            and _within(counter_j / module_j)
            and not _within(counter_j / integral_j)
        ):
            self.scope = "module"
            return Finding(
                "energy_counter_scope",
                counter_j / module_j,
                "the energy counter covers the whole module, not the accelerator alone",
            )
        self.agreement = counter_j / (module_j if self.scope == "module" and module_j > 0 else integral_j)
        return self._settle(time_s, self.agreement)

    def _settle(self, time_s: float, ratio: float) -> Finding | None:
        low, high = CALM if self._disagrees else BOUNDS
        if (low <= ratio <= high) is not self._disagrees:
            self._odd_since_s = None
            return None
        if self._odd_since_s is None:
            self._odd_since_s = time_s
        if time_s - self._odd_since_s < PATIENCE_S:
            return None
        self._odd_since_s = None
        self._disagrees = not self._disagrees
        if self._disagrees:
            return Finding(
                "energy_disagrees", ratio, f"the energy counter is {ratio:.2f} times what power integrates to"
            )
        return Finding(
            "energy_agrees", ratio, f"the energy counter is again {ratio:.2f} times what power integrates to"
        )


def _within(ratio: float) -> bool:
    return BOUNDS[0] <= ratio <= BOUNDS[1]
