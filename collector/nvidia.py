"""What NVIDIA's numbers mean, for whoever reads them: from the library, or from what nvidia-smi wrote down."""

from typing import Final

from collector import catalogue as c
from collector.catalogue import Metric

REASON_BITS: Final[tuple[tuple[Metric, int], ...]] = (
    (c.THROTTLING_IDLE, 0x1),
    (c.THROTTLING_SETTING, 0x2),
    (c.THROTTLING_POWER, 0x4),
    (c.THROTTLING_HARDWARE, 0x8),
    (c.THROTTLING_SYNC, 0x10),
    (c.THROTTLING_THERMAL, 0x20),
    (c.THROTTLING_THERMAL_HARDWARE, 0x40),
    (c.THROTTLING_POWER_BRAKE, 0x80),
)
"""What holds the clocks down, by the bit of the mask of reasons."""
