"""What one finding explains of others: of one cause one incident tells."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from analytics.anomalies.findings import Stretch
from analytics.anomalies.rules import MissingRule, StalledRule
from analytics.inventory import held


def without_stalls_of_absence(found: Sequence[Stretch], allocations: pl.LazyFrame, until_ns: int) -> list[Stretch]:
    """
    *found* without the time for which workloads are stalled because a device that they hold is missing.

    The device's absence names them instead. What makes nothing for long after the device is back hangs by itself.

    In:  allocations: the table of that name, up to *until_ns*.
    Out: by their start.
    """
    absences = [one for one in found if isinstance(one.rule, MissingRule)]
    stalls = [one for one in found if isinstance(one.rule, StalledRule)]
    if not absences or not stalls:
        return list(found)
    holders = _holders(allocations, absences, stalls, until_ns)
    waiting: dict[int, list[str]] = {at: [] for at in range(len(absences))}
    left: list[Stretch] = []
    for stall in stalls:
        start_ns = stall.start_ns
        for at in sorted(waiting, key=lambda at: absences[at].start_ns):
            one = absences[at]
            # What was told before the device went has another reason.
            began = one.start_ns < start_ns + stall.rule.for_ns and one.end_ns > start_ns
            if began and any(name == stall.name and first < one.end_ns and last > one.start_ns
                             for name, first, last in holders.get(one.name, [])):  # fmt: skip
                waiting[at].append(f"{stall.name} makes no {stall.says['what']}")
                start_ns = one.end_ns
        if start_ns < stall.end_ns:
            left.append(replace(stall, start_ns=start_ns))
    told = [
        replace(one, says={**one.says, "stalls": f", and {', '.join(names)} without it"}) if names else one
        for one, names in zip(absences, waiting.values(), strict=True)
    ]
    others = [one for one in found if not isinstance(one.rule, MissingRule | StalledRule)]
    return sorted([*others, *told, *left], key=lambda stretch: (stretch.start_ns, stretch.rule.name, stretch.name))


def _holders(
    allocations: pl.LazyFrame, absences: Sequence[Stretch], stalls: Sequence[Stretch], until_ns: int
) -> dict[str, list[tuple[str, int, int]]]:
    """Of each missing device the stalled workloads that held it, from when until when."""
    mine = pl.col("device").is_in([one.name for one in absences])
    mine &= pl.col("workload").is_in([one.name for one in stalls])
    times = pl.col("start", "end").cast(pl.Datetime("ns")).cast(pl.Int64)
    found: dict[str, list[tuple[str, int, int]]] = {}
    rows = held(allocations.filter(mine), None, until_ns).select("device", "workload", times).collect()
    for device, *hold in rows.iter_rows():
        found.setdefault(device, []).append((hold[0], hold[1], hold[2]))
    return found
