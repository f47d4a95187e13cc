"""
The windows that detectors look at: of devices, and of workloads, with what explains their power and throughput.

A window counts where most of it was measured and one and the same workload, or none, held the device throughout: what
is partly one and partly the other is like neither.
"""

from typing import Final

import polars as pl

from analytics.anomalies.findings import STEP_S, windows_of
from analytics.anomalies.peers import FEWEST
from analytics.fleet import Fleet
from analytics.inventory import device_types, held
from collector.moments import NS

FEATURES: Final = {
    "utilization_ratio": "utilization_mean_ratio",
    "activity_sm_ratio": "activity_sm_mean_ratio",
    "activity_tensor_ratio": "activity_tensor_mean_ratio",
    "activity_dram_ratio": "activity_dram_mean_ratio",
    "utilization_memory_ratio": "utilization_memory_mean_ratio",
    "memory_used_bytes": "memory_used_mean_bytes",
    "clock_sm_hz": "clock_sm_mean_hz",
    "clock_memory_hz": "clock_memory_mean_hz",
    "temperature_c": "temperature_mean_c",
    "power_limit_w": "power_limit_mean_w",
}
"""What power is expected from, by column of device_rollups; clock and temperature are also looked at themselves."""
AGREE: Final = 1.5
"""A counter is believed up to so many times its readings, or so much below: it resets, freezes, or counts a module."""
WHOLE: Final = 0.98
"""Of a window so much must have been measured to divide what a counter counted by it: it counts through a gap, too."""
LEAST_COVERED: Final = 0.5
"""Of a window so much must have been measured."""
AIR_C: Final = 22.0
"""What air enters at, in the middle of what ASHRAE recommends (18 to 27 °C): among devices of one host it cancels."""
LEAST_RISE_C: Final = 12.0
"""A device that is less warmer than the air tells too little of its cooling: readings come in whole degrees."""
ALIKE: Final = 1.5
"""Cooling is compared among devices that draw at most so many times what is usual in their host, or so much less."""
OF_WORKLOAD: Final = "workload|"
"""What the names of groups begin with whose devices hold one workload together."""
_HELD_DOWN: Final = (
    "throttle_thermal_hardware_increase_s", "throttle_thermal_increase_s", "throttle_power_brake_increase_s",
)  # fmt: skip
_LONGEST_HELD: Final = 0.05


def device_windows(
    rollups: pl.LazyFrame,
    allocations: pl.LazyFrame,
    devices: pl.LazyFrame,
    fleet: Fleet,
    *,
    until_ns: int,
    step_s: int = STEP_S,
) -> pl.DataFrame:
    """
    The windows of *step_s* of whole devices.

    In:  rollups: device_rollups; allocations, devices: the tables of these names.
    Out: subject, scope, time, host, kind (the type of device), work (what the workload calls itself), workload, group
         (of peers; null where there are too few), air (the group that shares a host's fans, likewise), covered_ratio,
         normal (nothing known held its clocks down), power_w, resistance_c_per_w (how much warmer than the air for each
         watt), and `FEATURES`; sorted by subject and time.
    """
    wanted = [*FEATURES.values(), "power_mean_w", "energy_increase_j", *_HELD_DOWN]
    columns = ("device", "time", "source", "window_s", "host", "rows", "covered_s", *wanted)
    told = windows_of(rollups.select(columns), step_s)
    types = device_types(devices, fleet).select("device", kind="sku")
    partitions = devices.filter(pl.col("parent").is_not_null()).select("device").unique()
    frame = (
        told.filter(pl.col("covered_s") >= LEAST_COVERED * step_s)
        .join(partitions, on="device", how="anti")
        .join(types, on="device", how="left")
        .select(
            "device", "time", "host", pl.col("kind").fill_null("unknown"), scope=pl.lit("device"),
            covered_ratio=pl.min_horizontal(pl.col("covered_s") / step_s, 1.0),
            normal=pl.sum_horizontal(_HELD_DOWN) <= _LONGEST_HELD * pl.col("covered_s"),
            power_w=_power(step_s),
            **{name: pl.col(column) for name, column in FEATURES.items()},
        )
    )  # fmt: skip
    whole = _with_workloads(frame, allocations, until_ns, step_s).collect()
    racks = fleet.rack_of(whole["host"].drop_nulls().unique())
    rack = pl.col("host").replace_strict(racks, default=None, return_dtype=pl.String)
    grouped = _grouped(whole, rack).with_columns(resistance_c_per_w=_resistance())
    return grouped.rename({"device": "subject", "name": "work"}).sort("subject", "time")


def workload_windows(rollups: pl.LazyFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """
    The windows of workloads that generate tokens, with the means of what their devices did.

    In:  rollups: workload_rollups; devices: as `device_windows` gives them.
    Out: subject, scope, time, host, kind (the types of device that it runs on), work, workload, group (null),
         covered_ratio, normal, serves (it answers requests), waiting
         (requests), tokens_per_s, and `FEATURES`; sorted by subject and time.
    """
    of_devices = (
        devices.lazy()
        .filter(pl.col("workload").is_not_null())
        .group_by("workload", "time")
        .agg(
            pl.col("host").min(), pl.col("work").first(), pl.col("normal").all(),
            kind=pl.col("kind").unique().sort().str.join(" + "),
            **{name: pl.col(name).mean() for name in FEATURES},
        )
    )  # fmt: skip
    keys = ["workload", "time"]
    told = (
        rollups.filter((pl.col("window_s") == STEP_S) & (pl.col("covered_s") >= LEAST_COVERED * STEP_S))
        .group_by(keys)
        .agg(tokens=pl.col("tokens_out_increase").sum(), covered_s=pl.col("covered_s").max(),
             counted=pl.col("tokens_out_increase").count(), serves=pl.col("requests_increase").count() > 0,
             waiting=pl.col("queue_length_mean").max())
        .filter(pl.col("counted") > 0)
    )  # fmt: skip
    return (
        told.join(of_devices, on=keys)
        .select(
            "time", "host", "kind", "work", "workload", "normal", "serves", "waiting", *FEATURES,
            subject=pl.col("workload"), scope=pl.lit("workload"), group=pl.lit(None, pl.String),
            covered_ratio=pl.min_horizontal(pl.col("covered_s") / STEP_S, 1.0),
            tokens_per_s=pl.col("tokens") / pl.col("covered_s"),
        )
        .sort("subject", "time")
        .collect()
    )  # fmt: skip


def _power(step_s: int) -> pl.Expr:
    """
    Mean power: of the counter, where it agrees with the readings, which are of moments and miss what is between.

    Of a window with a gap the readings tell more: the counter went on through it, for how long is not known.
    """
    counted = pl.col("energy_increase_j") / pl.col("covered_s")
    agree = counted.is_between(pl.col("power_mean_w") / AGREE, pl.col("power_mean_w") * AGREE)
    whole = pl.col("covered_s") >= WHOLE * step_s
    return pl.when(agree & whole).then(counted).otherwise("power_mean_w")


def _resistance() -> pl.Expr:
    """
    Degrees above the air for each watt: it rises as cooling fails, and falls where power is read too high.

    The air that reaches a device is warmer than what enters, by how much is not known: of devices that draw alike that
    cancels, beside others a device that idles would look badly cooled.
    """
    rise, power = pl.col("temperature_c") - AIR_C, pl.col("power_w")
    usual = power.median().over("air", "time")
    alike = power.is_between(usual / ALIKE, usual * ALIKE) & pl.col("air").is_not_null()
    return pl.when(alike & (rise >= LEAST_RISE_C) & (power > 0)).then(rise / power)


def _with_workloads(frame: pl.LazyFrame, allocations: pl.LazyFrame, until_ns: int, step_s: int) -> pl.LazyFrame:
    """Each window with who held the device; without windows in which that changed."""
    owners = held(allocations, None, until_ns).select("device", "workload", "name", "start", "end").sort("start")
    first, last = pl.col("time"), pl.col("time") + pl.duration(nanoseconds=step_s * NS)
    told = (
        frame.sort("time")
        .with_columns(last=last)
        .join_asof(
            owners,
            left_on="last",
            right_on="start",
            by="device",
            strategy="backward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
    )
    until = pl.lit(until_ns).cast(pl.Datetime("ns"))
    over = pl.col("end") <= first
    # What ends at the end of what is known goes on, as far as is known.
    mixed = ((pl.col("start") > first) | ((pl.col("end") < last) & (pl.col("end") < until))) & ~over
    return (
        told.filter(~mixed.fill_null(False))
        .with_columns(pl.when(~over).then(pl.col("workload", "name")).name.keep())
        .drop("start", "end", "last")
    )


def _grouped(frame: pl.DataFrame, rack: pl.Expr) -> pl.DataFrame:
    """With the narrowest group that has enough others (of the workload, its name, the host, the rack), and `air`."""
    places = {"workload": pl.col("workload"), "name": pl.col("name"), "host": pl.col("host"), "rack": rack}
    keys = {
        f"by_{place}": pl.concat_str(pl.lit(place), column, "kind", separator="|") for place, column in places.items()
    }
    told = frame.with_columns(**keys)
    groups = [pl.when(pl.len().over(key, "time") > FEWEST).then(pl.col(key)) for key in keys]
    return told.with_columns(group=pl.coalesce(groups), air=groups[list(places).index("host")]).drop(*keys)
