"""What is forecast, as series: power of places, devices that are held, tokens that are generated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import polars as pl

from analytics.efficiency import current
from analytics.energy import energy, group_of
from analytics.work import work_of
from collector.catalogue import TOKENS_OUT

What = Literal["power", "devices", "tokens"]
Place = Literal["fleet", "site", "host"]
WHATS: Final[tuple[What, ...]] = ("power", "devices", "tokens")
COVERED: Final = 0.5
"""The share of a step that must be measured before its mean power counts."""

_NS: Final = 1_000_000_000


def power_series(
    parts: Sequence[pl.LazyFrame],
    over: Callable[[Callable[[pl.LazyFrame], pl.LazyFrame], Sequence[pl.LazyFrame]], pl.DataFrame],
    *,
    step_s: int,
    place: Place = "site",
    hosts: Mapping[str, str] | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Mean power of the devices of each place, step by step.

    In:  parts of device_samples that hold devices whole, and what goes over them (`analytics.frames.over_devices`).
    Out: series (``power/PLACE``), time, value (watts).

    A step counts where at least half of the device-seconds of the devices seen in it were measured; the sum is then
    taken up to all of them, so that a lost reading is no dip. Modelled power is left out: it is no measurement.
    """

    def of_part(part: pl.LazyFrame) -> pl.LazyFrame:
        found = energy(part, by=f"{step_s}s", devices=devices)
        return found.select("device", "host", "window", "energy_j", "covered_s", "modelled_j")

    return power_of_windows(over(of_part, parts).lazy(), step_s=step_s, place=place, hosts=hosts)


def power_of_windows(
    windows: pl.LazyFrame, *, step_s: int, place: Place = "site", hosts: Mapping[str, str] | None = None
) -> pl.LazyFrame:
    """
    As `power_series`, from the energy of devices.

    In:  device, host, window (of *step_s*), energy_j, covered_s, modelled_j.
    """
    return (
        windows.filter(pl.col("modelled_j") == 0)
        .with_columns(group=group_of(place, hosts))
        .group_by("group", "window")
        .agg(
            joules=pl.col("energy_j").sum(), covered=pl.col("covered_s").sum(),
            seen=pl.col("device").n_unique() * float(step_s),
        )
        .filter(pl.col("covered") >= COVERED * pl.col("seen"))
        .select(
            series=pl.concat_str(pl.lit("power/"), "group"), time="window",
            value=pl.col("joules") / pl.col("covered") * pl.col("seen") / step_s,
        )
    )  # fmt: skip


def devices_series(
    allocations: pl.LazyFrame, start_ns: int, end_ns: int, *, step_s: int, per: str = "team"
) -> pl.LazyFrame:
    """
    How many devices are held, in the mean of each step, by each *per* (team, user, workload name, or ``fleet``).

    In:  allocations as the table has them (end null while held).
    Out: series (``devices/WHO``), time, value. A step in which somebody holds nothing is 0, since that is known; before
         the first allocation of all nothing is.
    """
    step_ns = step_s * _NS
    first, last = start_ns // step_ns, (end_ns - 1) // step_ns
    held = (
        current(allocations)
        .with_columns(
            who=pl.lit("fleet") if per == "fleet" else pl.coalesce(per, pl.lit("unknown")),
            begin=pl.col("start").to_physical().clip(start_ns, end_ns),
            finish=pl.col("end").to_physical().fill_null(end_ns).clip(start_ns, end_ns),
            weight=pl.coalesce("share", pl.lit(1.0)),
        )
        .filter(pl.col("finish") > pl.col("begin"))
        .with_columns(step=pl.int_ranges(pl.col("begin") // step_ns, (pl.col("finish") - 1) // step_ns + 1))
        .explode("step", empty_as_null=False, keep_nulls=False)
        .with_columns(
            inside=pl.min_horizontal("finish", (pl.col("step") + 1) * step_ns)
            - pl.max_horizontal("begin", pl.col("step") * step_ns)
        )
        .group_by("who", "step")
        .agg(value=(pl.col("inside") * pl.col("weight")).sum() / step_ns)
    )  # fmt: skip
    steps = pl.LazyFrame({"step": pl.int_range(first, last + 1, eager=True)})
    known = steps.join(held.select(begun=pl.col("step").min()), how="cross").filter(pl.col("step") >= pl.col("begun"))
    grid = held.select("who").unique().join(known.select("step"), how="cross")
    return grid.join(held, on=["who", "step"], how="left").select(
        series=pl.concat_str(pl.lit("devices/"), "who"), time=(pl.col("step") * step_ns).cast(pl.Datetime("ns")),
        value=pl.col("value").fill_null(0.0),
    )  # fmt: skip


def tokens_series(workload_samples: pl.LazyFrame, *, step_s: int) -> pl.LazyFrame:
    """
    Tokens per second that the engines of each model generate, in each step.

    In:  workload_samples: workload, time, source, model, tokens_out.
    Out: series (``tokens/MODEL``), time, value (tokens/s). A step counts only for the time its counters were read.
    """
    models = workload_samples.group_by("workload").agg(pl.col("model").drop_nulls().last())
    return (
        work_of(workload_samples, float(step_s))
        .join(models, on="workload", how="left")
        .filter((pl.col("work_s") > 0) & pl.col(TOKENS_OUT.column).is_not_null())
        .group_by(model=pl.coalesce("model", pl.lit("unknown")), time="window")
        .agg(value=(pl.col(TOKENS_OUT.column) / pl.col("work_s")).sum())
        .select(series=pl.concat_str(pl.lit("tokens/"), "model"), time="time", value="value")
    )
