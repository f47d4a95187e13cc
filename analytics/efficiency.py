"""
What the energy brought: tokens, samples and steps per joule, for workloads and for places.

A workload's energy is that of the devices allocated to it, while they are. Its tokens belong to the group: with tensor
parallelism one engine's tokens come from all its devices, so energy is summed over the group first and then divided.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from analytics.boards import with_meters
from analytics.energy import Group, device_steps, energy, group_of, seconds
from analytics.intervals import BOUNDS, bounds, error_of_sums, measured, total
from analytics.work import WORK, counters, work_of
from collector.catalogue import REQUESTS, SAMPLES, STEPS, TOKENS_IN, TOKENS_OUT

PER_TOKEN: Final = ("joules_per_token_low", "joules_per_token_high")

_NS: Final = 1_000_000_000
# The end of what is still held: far enough for any store and near enough that nanoseconds do not overflow.
_OPEN: Final = pl.lit(2**62).cast(pl.Datetime("ns"))
_SHARED: Final = ("energy_j", "counter_j", "modelled_j", "error_j")
_SUMS: Final = (*_SHARED, "covered_s", "busy_s", "busy_covered_s")


def tokens_per_joule(tokens: pl.Expr, energy_j: pl.Expr) -> pl.Expr:
    """Tokens per joule, which is also tokens per second per watt; null without energy."""
    return pl.when(energy_j > 0).then(tokens / energy_j)


def joules_per_token(tokens: pl.Expr, energy_j: pl.Expr) -> pl.Expr:
    """Joules per token (or sample, or step); null without tokens."""
    return pl.when(tokens > 0).then(energy_j / tokens)


def efficiency(
    device_samples: pl.LazyFrame,
    workload_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    *,
    max_gap_s: float | None = None,
    by: str | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Energy and work of each workload.

    In:  device_samples as `analytics.energy.energy` takes them; workload_samples: workload, time, and what there is of
         source, model, tokens_out, tokens_in, samples, steps, requests (cumulative); allocations: workload, device,
         start, end (null while it runs), time, share. Of allocations with the same workload, device and start the one
         with the latest time counts.
    Out: workload, window (with *by* such as ``5m``), model, name, user, team, devices, allocated_s (device-seconds),
         energy_j (null where nothing was covered), energy_low_j and energy_high_j (see `analytics.intervals`),
         covered_s (device-seconds), covered_ratio, power_mean_w (of one device), utilization_ratio, modelled_ratio,
         counted_j (the energy while the workload's counters were read), tokens, tokens_in, samples, steps, requests,
         tokens_per_s, joules_per_token, joules_per_token_low and joules_per_token_high, tokens_per_s_per_w,
         joules_per_sample, samples_per_joule, joules_per_step, both with _low and _high too.

    Efficiencies divide over the time in which devices were held and counters read: what was counted before the first
    allocation or after the last has no energy here, so it is left out. Device-seconds without energy in that time are
    taken at the mean of those with (covered_ratio says how many there are). A workload that several sources report is
    taken from the one that covers more. One without devices has no energy and all its tokens, one without counters no
    tokens.
    """
    steps = device_steps(device_samples, max_gap_s=max_gap_s, devices=devices)
    drawn = with_meters(held_energy(steps, counted_times(workload_samples), allocations, by=by), devices)
    return of_workloads(drawn, workload_samples, by=by)


def held_energy(steps: pl.LazyFrame, read: pl.LazyFrame, allocations: pl.LazyFrame, *, by: str | None) -> pl.LazyFrame:
    """
    What the devices of each workload drew, twice: while it held them, and (`counted`) while its counters were read too.

    In:  steps as `analytics.energy.device_steps` gives them; read: of `counted_times`; allocations as `efficiency`.
    Out: workload, device, counted, window (with *by*), start, end, share, name, user, team, span_s, covered_s, and the
         share's energy_j, counter_j, modelled_j, error_j; busy_s, busy_covered_s.
    """
    spans = _spans(current(allocations), read, seconds(by) if by else None)
    return energy_in(spans, steps).collect().lazy()


def counted_edges(read: pl.LazyFrame, allocations: pl.LazyFrame) -> pl.DataFrame:
    """Where the counters of who holds a device begin and end to be read (of `counted_times`): device, edge."""
    counted = _spans(current(allocations), read, None).filter(pl.col("counted")).collect()
    return pl.concat([counted.select("device", edge=edge) for edge in ("start", "end")]).unique()


def of_workloads(found: pl.LazyFrame, workload_samples: pl.LazyFrame, *, by: str | None) -> pl.LazyFrame:
    """
    Energy and work of each workload, from what its devices drew.

    In:  found as `held_energy` gives it, with what `analytics.boards.with_meters` adds; the rest as `efficiency`.
    Out: as `efficiency`.
    """
    wanted = seconds(by) if by else None
    keys = ["workload"] if wanted is None else ["workload", "window"]
    work = work_of(workload_samples, wanted, within=held_hull(found))
    whole, counted = pl.col("counted").not_(), pl.col("counted")
    used = found.group_by(keys).agg(
        pl.col("name", "user", "team").drop_nulls().last(),
        devices=pl.col("device").filter(whole).n_unique(),
        allocated_s=pl.col("span_s").filter(whole).sum(),
        **{name: pl.col(name).filter(whole).sum() for name in _SUMS},
        counted_j=pl.col("energy_j").filter(counted).sum(),
        counted_s=pl.col("covered_s").filter(counted).sum(),
        counted_span_s=pl.col("span_s").filter(counted).sum(),
    )
    halves = {"": whole, "counted_": counted}
    parted = found.with_columns(
        pl.when(which).then(name).otherwise(0.0).alias(f"{half}{name}")
        for half, which in halves.items()
        for name in ("error_j", "energy_j")
    )
    off = error_of_sums(parted, keys, {f"{half}error_j": f"{half}energy_j" for half in halves})
    used = used.drop("error_j").join(off, on=keys)
    covered = pl.col("covered_s") > 0
    error_j, counted_error_j = (measured(pl.col(n), pl.col("modelled_j")) for n in ("error_j", "counted_error_j"))
    full = pl.when(pl.col("counted_s") > 0).then(pl.col("counted_span_s") / pl.col("counted_s"))
    full_j = pl.col("counted_j") * full
    tokens, samples, steps = pl.col(TOKENS_OUT.column), pl.col(SAMPLES.column), pl.col(STEPS.column)
    return (
        used.join(work, on=keys, how="full", coalesce=True, nulls_equal=True)
        .join(_names(workload_samples), on="workload", how="left")
        .select(
            *keys,
            "model",
            "name",
            "user",
            "team",
            pl.col("devices").fill_null(0),
            pl.col("allocated_s").fill_null(0.0),
            pl.when(covered).then("energy_j"),
            *bounds(pl.when(covered).then("energy_j"), error_j),
            covered_s=pl.col("covered_s").fill_null(0.0),
            covered_ratio=pl.when(pl.col("allocated_s") > 0).then(pl.col("covered_s") / pl.col("allocated_s")),
            power_mean_w=pl.when(covered).then(pl.col("energy_j") / pl.col("covered_s")),
            utilization_ratio=pl.when(pl.col("busy_covered_s") > 0).then(pl.col("busy_s") / pl.col("busy_covered_s")),
            modelled_ratio=pl.when(pl.col("energy_j") > 0).then(pl.col("modelled_j") / pl.col("energy_j")),
            counted_j=pl.when(pl.col("counted_s") > 0).then("counted_j"),
            tokens=tokens,
            tokens_in=pl.col(TOKENS_IN.column),
            samples=samples,
            steps=steps,
            requests=pl.col(REQUESTS.column),
            tokens_per_s=pl.when(pl.col("work_s") > 0).then(tokens / pl.col("work_s")),
            joules_per_token=joules_per_token(tokens, full_j),
            **_ends("token", tokens, full_j, counted_error_j * full),
            tokens_per_s_per_w=tokens_per_joule(tokens, full_j),
            joules_per_sample=joules_per_token(samples, full_j),
            **_ends("sample", samples, full_j, counted_error_j * full),
            samples_per_joule=tokens_per_joule(samples, full_j),
            joules_per_step=joules_per_token(steps, full_j),
            **_ends("step", steps, full_j, counted_error_j * full),
        )
        .sort(keys)
    )


def held_hull(spans: pl.LazyFrame) -> pl.LazyFrame:
    """From when until when each workload held devices while its counters were read: of what `held_energy` gives."""
    return spans.filter("counted").group_by("workload").agg(pl.col("start").min(), pl.col("end").max())


def _ends(unit: str, count: pl.Expr, energy_j: pl.Expr, error_j: pl.Expr) -> dict[str, pl.Expr]:
    """The ends of joules per token, sample or step."""
    names = (f"joules_per_{unit}_low", f"joules_per_{unit}_high")
    return {name: joules_per_token(count, end) for name, end in zip(names, bounds(energy_j, error_j), strict=True)}


def efficiency_by_place(
    device_samples: pl.LazyFrame,
    workload_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    *,
    place: Group = "fleet",
    hosts: Mapping[str, str] | None = None,
    max_gap_s: float | None = None,
    by: str | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Energy and tokens of the fleet, of each site, host or device, idle energy included.

    In:  as `efficiency`; *hosts* gives each host's site.
    Out: group, window (with *by*), devices, energy_j, energy_low_j, energy_high_j, covered_s, tokens, joules_per_token,
         joules_per_token_low, joules_per_token_high, tokens_per_s_per_w.

    A workload's tokens are shared over its devices by the device-seconds it had them, so places sum to the fleet. A
    device of a group has none of its own: what a tensor-parallel group did is nobody's alone. So per device there are
    tokens only where it did all the work of its workloads by itself.
    """
    wanted = seconds(by) if by else None
    keys = ["device"] if wanted is None else ["device", "window"]
    group_keys = ["group", *keys[1:]]
    tokens = tokens_of_devices(workload_samples, allocations, by=by)
    found = energy(device_samples, by=by, max_gap_s=max_gap_s, devices=devices).with_columns(
        group=group_of(place, hosts)
    )
    if place == "device":
        tokens = tokens.filter("alone")
    found, count = found.collect().lazy(), pl.col("tokens")
    sums = (
        found.join(tokens, on=keys, how="left")
        .group_by(group_keys)
        .agg(
            pl.col("covered_s").sum(),
            devices=pl.col("device").n_unique(),
            tokens=pl.when(count.count() > 0).then(count.sum()),
        )
    )
    per_token = {name: joules_per_token(count, pl.col(end)) for name, end in zip(PER_TOKEN, BOUNDS, strict=True)}
    return (
        total(with_meters(found, devices), group_keys)
        .join(sums, on=group_keys)
        .select(
            *group_keys, "devices", "energy_j", *BOUNDS, "covered_s", "tokens",
            joules_per_token=joules_per_token(count, pl.col("energy_j")), **per_token,
            tokens_per_s_per_w=tokens_per_joule(count, pl.col("energy_j")),
        )
        .sort(group_keys)
    )  # fmt: skip


def tokens_of_devices(workload_samples: pl.LazyFrame, allocations: pl.LazyFrame, *, by: str | None) -> pl.LazyFrame:
    """
    The tokens of each workload, shared over its devices by the device-seconds it had them.

    In:  as `efficiency`.
    Out: device, window (with *by*), tokens, alone: whether nobody else had a part in them; else they are a share.
    """
    wanted = seconds(by) if by else None
    keys = ["device"] if wanted is None else ["device", "window"]
    of_workload = ["workload", *keys[1:]]
    spans = _spans(current(allocations), counted_times(workload_samples), wanted)
    held = cut_spans(spans.filter(pl.col("counted")))
    held = held.with_columns(span_s=(_ns("end") - _ns("start")) / _NS)
    return (
        held.join(work_of(workload_samples, wanted, within=held_hull(spans)), on=of_workload)
        .with_columns(
            tokens=pl.col(TOKENS_OUT.column) * pl.col("span_s") / pl.col("span_s").sum().over(of_workload),
            alone=pl.col("device").n_unique().over(of_workload) == 1,
        )
        .group_by(keys)
        .agg(
            pl.when(pl.col("tokens").count() > 0).then(pl.col("tokens").sum()).alias("tokens"),
            pl.col("alone").filter(pl.col("tokens").is_not_null()).all(),
        )
    )


# ------------------------------------------------------------------------------------------------------- allocations


def _ns(column: str) -> pl.Expr:
    return pl.col(column).to_physical()


def _with_nulls(frame: pl.LazyFrame, columns: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    known = frame.collect_schema().names()
    return frame.with_columns(pl.lit(None, type_).alias(name) for name, type_ in columns.items() if name not in known)


def current(allocations: pl.LazyFrame) -> pl.LazyFrame:
    """The last word on each allocation."""
    nanoseconds = pl.Datetime("ns")
    optional = {name: pl.String() for name in ("name", "user", "team")} | {"share": pl.Float64(), "end": nanoseconds}
    return (
        _with_nulls(allocations, {**optional, "time": nanoseconds})
        .select(
            "workload",
            "device",
            pl.col("start", "end", "time").cast(nanoseconds),
            "name",
            "user",
            "team",
            share=pl.col("share").fill_null(1.0),
        )
        .sort("time", maintain_order=True, nulls_last=False)
        .unique(["workload", "device", "start"], keep="last", maintain_order=True)
    )


def counted_times(workload_samples: pl.LazyFrame) -> pl.LazyFrame:
    """From when until when each workload's counters were read: workload, first, last."""
    read = pl.any_horizontal(pl.col(name).is_not_null() for name in WORK)
    of_workload = counters(workload_samples).filter(read).group_by("workload")
    return of_workload.agg(first=pl.col("time").min(), last=pl.col("time").max())


def _names(workload_samples: pl.LazyFrame) -> pl.LazyFrame:
    return counters(workload_samples).group_by("workload").agg(pl.col("model").drop_nulls().last())


def _spans(allocations: pl.LazyFrame, seen: pl.LazyFrame, window_s: float | None) -> pl.LazyFrame:
    """
    When each workload held each device, twice: whole, and (`counted`) while its counters were read.

    Cut at the edges of windows where there are any. An allocation that still runs ends with what has been seen of it.
    """
    end = pl.col("end").fill_null(_OPEN)
    whole = allocations.with_columns(end=end, counted=pl.lit(False))
    counted = (
        whole.join(seen, on="workload")
        .with_columns(
            start=pl.max_horizontal("start", "first"), end=pl.min_horizontal("end", "last"), counted=pl.lit(True)
        )
        .drop("first", "last")
    )
    spans = pl.concat([whole, counted]).filter(pl.col("start") < pl.col("end"))
    if window_s is None:
        return spans
    return spans.with_columns(window_s=pl.lit(window_s))


def cut_spans(spans: pl.LazyFrame) -> pl.LazyFrame:
    """Cut spans at the edges of their windows."""
    if "window_s" not in spans.collect_schema().names():
        return spans
    length = (pl.col("window_s") * _NS).round().cast(pl.Int64)
    start = pl.col("__part") * length
    return (
        spans.with_columns(__part=pl.int_ranges(_ns("start") // length, (_ns("end") - 1) // length + 1))
        .explode("__part", empty_as_null=True, keep_nulls=True)
        .with_columns(
            window=start.cast(pl.Datetime("ns")),
            start=pl.max_horizontal("start", start.cast(pl.Datetime("ns"))),
            end=pl.min_horizontal("end", (start + length).cast(pl.Datetime("ns"))),
        )
        .drop("__part", "window_s")
    )


def energy_in(spans: pl.LazyFrame, steps: pl.LazyFrame, *, sums: Sequence[str] = _SUMS) -> pl.LazyFrame:
    """
    What the devices drew in each span.

    In:  spans: device, start, end, share, with `window_s` to be cut at windows too, and whatever else; steps as
         `analytics.energy.device_steps` gives them; *sums*: the amounts of the steps that are wanted.
    Out: the spans within what is known of their device, with *sums* (energies times the share) and span_s.

    A running total over the steps is looked up at both ends of a span and interpolated within the step that holds it:
    the cost does not depend on how many allocations overlap, and spans that share an edge share the step exactly.
    """
    # One running total over all devices: differences within a device are the same, and no window function is needed.
    totals = steps.with_columns(pl.col(name).cum_sum().alias(f"{name}_total") for name in sums)
    known = steps.group_by("device").agg(first=pl.col("begin").min(), last=pl.col("time").max())
    inside = (
        spans.join(known, on="device", how="left")
        # Of a device that was never seen nothing says when what is still held ends.
        .filter(pl.col("last").is_not_null() | (pl.col("end") < _OPEN))
        .with_columns(start=pl.max_horizontal("start", "first"), end=pl.min_horizontal("end", "last"))
        .drop("first", "last")
        .filter((pl.col("start") < pl.col("end")) & pl.col("end").is_not_null())
        .pipe(cut_spans)
    )
    for edge in ("start", "end"):
        named = totals.select(
            "device",
            *(pl.col(name).alias(f"{name}_{edge}") for name in ("begin", "time", *sums)),
            *(pl.col(f"{name}_total").alias(f"{name}_total_{edge}") for name in sums),
        ).sort(f"time_{edge}")
        inside = inside.sort(edge).join_asof(
            named,
            left_on=edge,
            right_on=f"time_{edge}",
            by="device",
            strategy="forward",
            coalesce=False,
            check_sortedness=False,
        )
    return inside.with_columns(
        (_total_at(name, "end") - _total_at(name, "start")).clip(0.0) * (pl.col("share") if name in _SHARED else 1.0)
        for name in sums
    ).with_columns(span_s=(_ns("end") - _ns("start")) / _NS)


def _total_at(name: str, edge: str) -> pl.Expr:
    """The running total at an edge: at the reading after it, less what the step brought after the edge."""
    time, begin = _ns(f"time_{edge}"), _ns(f"begin_{edge}")
    # Between steps nothing is known: then all of the next one is after the edge.
    after = pl.when(time > begin).then((time - pl.max_horizontal(_ns(edge), begin)) / (time - begin)).otherwise(0.0)
    return (pl.col(f"{name}_total_{edge}") - pl.col(f"{name}_{edge}") * after).alias(name)
