"""
What lies between two readings: up to how far apart they tell what was between them.

One rule for whoever integrates: the rollups of the store and the analyses of raw readings agree because of it.
"""

from typing import Final

GAP_S: Final = 10.0
"""The least that counts as a gap where the caller does not say."""
GAP_PERIODS: Final = 3.5
"""Of a device's own interval: two readings that are missed are bridged, three are not, whatever the clock's jitter."""
LONGEST_GAP_S: Final = 300.0
"""The most that a device's own interval makes of a gap: power is not known between readings a quarter-hour apart."""
FEW_INTERVALS: Final = 3
"""Intervals that a device's own one is told from, at least."""
MAX_COUNTER_GAP_S: Final = 3600.0
"""A counter counts while nobody reads; beyond this a reboot between two readings is likelier than a quiet reader."""
