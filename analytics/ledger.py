"""
Where energy and device time went without work: a ledger in which every joule and every device-second has one cause.

A device's time is cut where who holds it changes, where it fails and recovers, and into stretches of five minutes. The
first that holds, from the top, is the cause:

* ``failed``: lost, or in need of a reset or a repair, until it is read or works again (``lost``, ``xid``,
  ``row_remap``), whoever held it;
* ``unallocated``: nobody held it;
* ``unmeasured``: held, and nothing tells how it was used: gaps, and devices without a measure of activity;
* ``idle``: held, and no kernel ran;
* ``stalled``: in use at low activity beside a sign of what it waited for (``input``, ``network``);
* ``underused``: in use at low activity;
* ``throttled``: the time lost to clocks that were held down (``thermal``, ``power_brake``, ``hardware``,
  ``power_cap``, ``sync``): of each second held down, one less the clock over the highest clock, and that share of the
  energy. A device at the limit it ships with is not throttled: it gives what it was bought for;
* ``useful``: the rest.

Money, shares and totals are sums over it; see `analytics.waste`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import polars as pl

from analytics.attribution import (
    OWNER,
    STRETCH_S,
    held_parts,
    holders_of,
    partition_shares,
    pieces_of,
)
from analytics.cells import IDLE_RATIO
from analytics.efficiency import cut_spans, energy_in
from analytics.energy import device_cells, device_steps, of_boards, seconds, window_start, without_partitions
from analytics.frames import over_devices
from analytics.intervals import bounds, measured
from analytics.signals import MEANS, REASONS, sums
from analytics.steps import falls, in_order, nanoseconds, readings
from collector import catalogue as c

CAUSES: Final = (
    "failed", "unallocated", "unmeasured", "idle", "stalled", "underused", "throttled", "useful",
)  # fmt: skip
"""In the order in which they are asked; the first that holds has the joule."""
AMOUNTS: Final = ("span_s", "covered_s", "energy_j", "modelled_j", "error_j", "judged_s")
"""
What adds up: device-seconds, those with energy, joules, modelled joules, half the interval (of one device), and the
device-seconds judged by the activity of compute units.
"""
EFFECTIVE_RATIO: Final = 0.5
"""A device is used effectively while more of its compute units than this hold work."""
FATAL_XIDS: Final = ("48", "62", "64", "74", "79", "95", "110", "119", "120", "140", "143", "149")
"""XIDs after which a device needs a reset or a repair, by the driver's own list."""
PCIE_BUSY: Final = 0.7
"""A PCIe link this full is the bottleneck: protocol overhead takes most of the rest."""
HOST_BUSY: Final = 0.9
"""Host CPUs this busy are the bottleneck."""
RESIDENT: Final = 0.9
"""A kernel that waits for others is resident nearly all the time..."""
FABRIC_BYTES_PER_S: Final = 1e9
"""...while the fabric moves data."""

REMOVED_S: Final = 30 * 86_400.0
"""A device that was lost this long before the window is taken for removed."""

_NS: Final = 1_000_000_000
_EXACT: Final = 1e-9
_DRAWN: Final = ("span_s", "covered_s", "energy_j", "modelled_j", "error_j")
_IDLE: Final = {"covered_s": "idle_s", "energy_j": "idle_j", "modelled_j": "idle_modelled_j", "error_j": "idle_error_j"}
_SUMS: Final = ("energy_j", "modelled_j", "covered_s", "error_j", "busy_covered_s", *_IDLE.values())
_CRUMB_S: Final = 1e-6
FAILURES: Final = ("lost", "xid", "row_remap")
_BEGUN: Final = pl.Schema({**dict.fromkeys(("device", "host", "reason"), pl.String()), "start": pl.Datetime("ns")})


def ledger(
    device_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    *,
    devices: pl.LazyFrame | None = None,
    types: pl.LazyFrame | None = None,
    partition_samples: pl.LazyFrame | None = None,
    events: pl.LazyFrame | None = None,
    host_samples: pl.LazyFrame | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    by: str | None = None,
    idle_ratio: float = IDLE_RATIO,
    effective_ratio: float = EFFECTIVE_RATIO,
    max_gap_s: float | None = None,
) -> pl.LazyFrame:
    """
    The time and energy of each device by cause; the lines of a device add up to it.

    In:  device_samples: as `analytics.energy.energy` takes them, and what there is of utilisation, activity, clocks,
         throttling, PCIe and fabric; allocations as `analytics.efficiency.efficiency` takes them; *devices*: device,
         parent, partition, model, time; *types*: as `analytics.inventory.device_types`, for the power limit that a
         device ships with where it is not read; *partition_samples*: those of partitions, if device_samples have them
         not; *events*: device, host, kind, code, time, from `REMOVED_S` before the window on; *host_samples*: host,
         time, cpu_utilization_ratio. *since_ns*, *until_ns*: the window, which what failed counts in, read or not; not
         given, from the event to the last reading of any.
    Out: cause, reason (null but of failed, stalled, throttled), device (whole), host, workload, name, user, team (null
         where nobody held it), window (with *by*), span_s (device-seconds), covered_s (those of them with energy),
         energy_j (null where nothing was covered), energy_low_j and energy_high_j (as of `analytics.energy.energy`),
         modelled_j, judged_s: those in use that were judged by the activity of compute units or tensor pipes. Where
         neither was read, the engine's activity or the utilisation stands in, which is higher: less is underused then.

    Shares of devices are by allocation, as in `analytics.attribution.attribute`, and idle is judged as there, step by
    step. Activity is the mean over the part of a stretch in which the device was not idle; a partition's own where it
    was read. Signs of a stall are the PCIe link's or the host CPUs' limits (input), or a kernel that stays resident
    while the fabric moves data and memory does not (network): where such signals were not read, no stall is claimed.
    """
    stretch_s = STRETCH_S if by is None or seconds(by) % STRETCH_S == 0 else seconds(by)
    rows = readings(of_boards(device_samples, devices)).collect()
    begun = _begun(events, device_samples, since_ns)
    if until_ns is None and not rows.is_empty():
        last = device_cells(rows, lengths_s=[stretch_s], max_gap_s=max_gap_s)["time"].to_physical().sort()
        until_ns = int(last[-1])
    # Only of what failed every step matters.
    mine = device_samples.filter(pl.col("device").is_in(begun.select("device").collect().to_series().implode()))
    steps = device_steps(mine.collect().lazy(), max_gap_s=max_gap_s, devices=devices)
    failed = _failures(begun, events, device_samples, steps, until_ns, since_ns, idle_ratio).collect().lazy()
    held = held_parts(allocations, devices).collect().lazy()
    edges = [frame.select("device", edge=edge) for frame in (held, failed) for edge in ("start", "end")]
    cells = device_cells(
        rows, edges=pl.concat(edges).unique().collect(), lengths_s=[stretch_s], max_gap_s=max_gap_s,
        idle_ratio=idle_ratio, devices=devices,
    ).lazy()  # fmt: skip
    known = cells.group_by("device").agg(
        pl.col("host").drop_nulls().last(), first=pl.col("begin").min(), last=pl.col("time").max()
    )
    extents = _extents(known, failed).collect().lazy()
    held = (
        held.join(extents.drop("host"), on="device")
        .with_columns(start=pl.max_horizontal("start", "first"), end=pl.min_horizontal("end", "last"))
        .filter(pl.col("start") < pl.col("end"))
        .collect()
        .lazy()
    )
    of_time = ["device", "start", "end"]
    cuts = pl.concat([held.select(of_time), failed.select(of_time)])
    pieces = pieces_of(extents, cuts, None).join(extents.select("device", "host"), on="device").collect().lazy()
    holders = holders_of(pieces, held, None).collect().lazy()
    spans = cut_spans(pieces.with_columns(window_s=pl.lit(stretch_s))).rename({"window": "stretch"})
    spans = spans.join(_failed_pieces(pieces, failed), on="piece", how="left").collect().lazy()
    spans = _with_energy(spans, cells)
    told = device_samples
    if partition_samples is not None:
        told = pl.concat([without_partitions(device_samples, devices), partition_samples], how="diagonal")
    signs = _signs(told, types, devices, pieces, stretch_s, idle_ratio).collect().lazy()
    shares = _with_signs(spans.join(holders, on="piece"), signs, _host_signs(host_samples, stretch_s), idle_ratio)
    lines = pl.concat([_free(spans, holders), *_held(shares.collect().lazy(), effective_ratio)])
    window = [] if by is None else ["window"]
    if by is not None:
        lines = lines.with_columns(window=window_start("stretch", seconds(by)))
    keys = ["cause", "reason", "device", "host", *OWNER, *window]
    joules = pl.when(pl.col("covered_s") > 0).then("energy_j")
    return (
        lines.group_by(keys)
        .agg(pl.col(name).sum() for name in AMOUNTS)
        .filter(pl.col("span_s") > 0)
        .select(
            *keys,
            "span_s",
            "covered_s",
            joules.alias("energy_j"),
            *bounds(joules, measured(pl.col("error_j"), pl.col("modelled_j"))),
            "modelled_j",
            "judged_s",
        )
        .sort("device", *window, "cause", "reason", "workload")
    )


def ledger_in_parts(
    parts: Sequence[pl.LazyFrame],
    events: pl.LazyFrame,
    of_part: Callable[[pl.LazyFrame, pl.LazyFrame], pl.LazyFrame],
    *,
    threads: int | None = None,
) -> pl.DataFrame:
    """
    The ledger of devices in parts (`analytics.frames.by_device`), and of what failed and was never read.

    In:  parts of device_samples, each with all rows of its devices; events as `ledger` takes them; *of_part*: `ledger`
         of a part and its events. It should be told the window, since a part does not know when the others end.
    """
    events = events.collect().lazy()

    def of_mine(part: pl.LazyFrame) -> pl.LazyFrame:
        return of_part(part, events.join(part.select("device").unique(), on="device", how="semi"))

    found = over_devices(of_mine, parts, threads=threads)
    seen = pl.concat([part.select("device").unique() for part in parts])
    silent = of_part(parts[0].head(0), events.join(seen, on="device", how="anti"))
    return pl.concat([found, silent.collect()])


# ---------------------------------------------------------------------------------------------------------- failures


def _begun(events: pl.LazyFrame | None, samples: pl.LazyFrame, since_ns: int | None) -> pl.LazyFrame:
    """What failed when: device, host, reason, start."""
    starts = []
    if events is not None:
        told = events.filter(pl.col("device").is_not_null()).with_columns(pl.col("time").cast(pl.Datetime("ns")))
        fatal = (pl.col("kind") == "xid") & pl.col("code").is_in(FATAL_XIDS)
        recent = pl.lit(True)
        if since_ns is not None:
            # Whether it worked again before the window is not seen; whether it came back is an event.
            fatal = fatal & (nanoseconds("time") >= since_ns)
            recent = nanoseconds("time") >= since_ns - round(REMOVED_S * _NS)
        gone = (pl.col("kind") == "device_gone") & recent
        starts = [
            told.filter(which).select("device", "host", reason=pl.lit(reason), start="time")
            for which, reason in ((gone, "lost"), (fatal, "xid"))
        ]
    if c.ROW_REMAP_FAILED.column in samples.collect_schema().names():
        remap = samples.filter(pl.col(c.ROW_REMAP_FAILED.column) > 0).group_by("device")
        first = remap.agg(pl.col("host").last(), start=pl.col("time").cast(pl.Datetime("ns")).min())
        starts.append(first.select("device", "host", reason=pl.lit("row_remap"), start="start"))
    if not starts:
        return pl.LazyFrame(schema=_BEGUN)
    return pl.concat(starts).unique().collect().lazy()


def _failures(
    begun: pl.LazyFrame,
    events: pl.LazyFrame | None,
    samples: pl.LazyFrame,
    steps: pl.LazyFrame,
    until_ns: int | None,
    since_ns: int | None,
    idle_ratio: float,
) -> pl.LazyFrame:
    """
    When each device was failed, within the window: device, host, reason, start, end.

    A lost device is one until it is read again. One with a fatal XID or a row remap that failed is, until it works
    again, comes back, or was reset (its counter begins anew): a job that goes on is proof that it did not fail.
    """
    read = steps.join(begun, on="device", how="semi")
    unknown = (pl.col("busy_covered_s") == 0) & (pl.col("covered_s") > 0)
    works = read.filter((pl.col("busy_s") > idle_ratio * pl.col("busy_covered_s")) | unknown)
    back = pl.LazyFrame(schema={"device": pl.String(), "at": pl.Datetime("ns")})
    if events is not None:
        at = pl.col("time").cast(pl.Datetime("ns"))
        back = events.filter(pl.col("kind") == "device_back").select("device", at=at)
    ends = [
        pl.concat([back, read.select("device", at="time")]).with_columns(lost=pl.lit(True)),
        pl.concat([back, works.select("device", at="begin"), _resets(samples, begun)]).with_columns(lost=pl.lit(False)),
    ]
    last = pl.lit(until_ns, pl.Int64).cast(pl.Datetime("ns"))
    first = pl.lit(since_ns, pl.Int64).cast(pl.Datetime("ns"))
    return (
        begun.with_columns(lost=pl.col("reason") == "lost")
        .sort("start")
        .join_asof(
            pl.concat(ends).sort("at"), left_on="start", right_on="at", by=["device", "lost"], strategy="forward",
            coalesce=False, check_sortedness=False,
        )
        .select(
            "device", "host", "reason", start=pl.max_horizontal("start", first),
            end=pl.min_horizontal(pl.col("at").fill_null(last), last),
        )
        .filter(pl.col("start") < pl.col("end"))
    )  # fmt: skip


def _resets(samples: pl.LazyFrame, begun: pl.LazyFrame) -> pl.LazyFrame:
    """When the energy counters of devices that failed began anew: device, at."""
    mine = samples.join(begun, on="device", how="semi")
    known = samples.collect_schema().names()
    if not {"energy_j", "source"} <= set(known):
        return pl.LazyFrame(schema={"device": pl.String(), "at": pl.Datetime("ns")})
    rows = in_order(mine.select("device", "source", "time", "energy_j"), ("device", "source"), ("energy_j",))
    return rows.filter(falls("energy_j")).select("device", at="time")


def _extents(known: pl.LazyFrame, failed: pl.LazyFrame) -> pl.LazyFrame:
    """From when until when each device counts: as long as it was read or failed."""
    reach = failed.group_by("device").agg(pl.col("host").last(), pl.col("start").min(), pl.col("end").max())
    return known.join(reach, on="device", how="full", coalesce=True).select(
        "device",
        host=pl.coalesce("host", "host_right"),
        first=pl.min_horizontal("first", "start"),
        last=pl.max_horizontal("last", "end"),
    )


def _failed_pieces(pieces: pl.LazyFrame, failed: pl.LazyFrame) -> pl.LazyFrame:
    """The pieces in which a device was failed: piece, failed (why; the first of `FAILURES` that holds)."""
    rank = pl.col("reason").replace_strict({name: at for at, name in enumerate(FAILURES)}, return_dtype=pl.Int64)
    return (
        failed.join(pieces.select("device", "start", at="piece"), on=["device", "start"])
        .join(pieces.select("device", "end", to="piece"), on=["device", "end"])
        .with_columns(piece=pl.int_ranges("at", pl.col("to") + 1))
        .explode("piece", empty_as_null=True, keep_nulls=True)
        .group_by("piece")
        .agg(failed=pl.col("reason").sort_by(rank).first())
    )


# ------------------------------------------------------------------------------------------------------------- signs


def _with_energy(spans: pl.LazyFrame, cells: pl.LazyFrame) -> pl.LazyFrame:
    """The spans with what was drawn in them; the part of a span beyond the readings of its device has nothing."""
    found = energy_in(spans.select("device", "piece", "stretch", "start", "end", share=pl.lit(1.0)), cells, sums=_SUMS)
    return (
        spans.join(found.select("piece", "stretch", *_SUMS), on=["piece", "stretch"], how="left")
        .with_columns(pl.col(_SUMS).fill_null(0.0), span_s=(nanoseconds("end") - nanoseconds("start")) / _NS)
        # Sums that differ by their rounding are the same, or crumbs of it would be lines of their own.
        .with_columns(covered_s=pl.when(_reaches("covered_s", "span_s")).then("span_s").otherwise("covered_s"))
        .with_columns(
            pl.when(_reaches("idle_s", "covered_s"))
            .then(whole)
            .when(pl.col("idle_s") > _CRUMB_S)
            .then(idle)
            .otherwise(0.0)
            .alias(idle)
            for whole, idle in _IDLE.items()
        )
        .collect()
        .lazy()
    )


def _reaches(part: str, whole: str) -> pl.Expr:
    return pl.col(part) > pl.col(whole) - _CRUMB_S


def _signs(
    samples: pl.LazyFrame,
    types: pl.LazyFrame | None,
    devices: pl.LazyFrame | None,
    pieces: pl.LazyFrame,
    stretch_s: float,
    idle_ratio: float,
) -> pl.LazyFrame:
    """
    How each part was used in each stretch of each piece, while it was not idle.

    Out: part, piece, stretch, idle_share (of the time; null where no utilisation was read), judged (by compute units or
    tensor pipes), and `analytics.signals.MEANS`.
    """
    cuts = pieces.select("device", "piece", "start", "end")
    edges = pl.concat([cuts.select("device", edge=edge) for edge in ("start", "end")]).unique()
    belongs = pl.LazyFrame(schema={"part": pl.String(), "parent": pl.String()})
    if devices is not None:
        belongs = partition_shares(devices).select("part", "parent")
        of_parts = edges.join(belongs, left_on="device", right_on="parent").select(device="part", edge="edge")
        edges = pl.concat([edges, of_parts])
    told = sums(samples, types, edges=edges.collect(), length_s=stretch_s, idle_ratio=idle_ratio).lazy()
    # A step that ends on an edge belongs to what ended there.
    told = told.join(belongs, on="part", how="left").with_columns(
        device=pl.coalesce("parent", "part"), before=(nanoseconds("time") - 1).cast(pl.Datetime("ns"))
    )
    keys = ["part", "piece", "stretch"]
    return (
        told.sort("before")
        .join_asof(
            cuts.sort("start"), left_on="before", right_on="start", by="device", strategy="backward",
            check_sortedness=False,
        )
        .filter(pl.col("before") < pl.col("end"))
        .with_columns(stretch=window_start("before", stretch_s))
        .group_by(keys)
        .agg(pl.col("judged").any(), pl.col("told_s", "idle_s").sum(), pl.col(*MEANS, *(f"{n}_s" for n in MEANS)).sum())
        .select(
            *keys, "judged",
            idle_share=pl.when(pl.col("told_s") > 0).then(pl.col("idle_s") / pl.col("told_s")),
            **{name: pl.when(pl.col(f"{name}_s") > 0).then(pl.col(name) / pl.col(f"{name}_s")) for name in MEANS},
        )
        .with_columns(pl.col(f"lost_{reason}").fill_null(0.0) for reason in REASONS)
    )  # fmt: skip


def _host_signs(host_samples: pl.LazyFrame | None, stretch_s: float) -> pl.LazyFrame:
    """How busy the CPUs of each host were: host, stretch, cpu_ratio."""
    column = c.HOST_CPU_UTILIZATION.column
    if host_samples is None or column not in host_samples.collect_schema().names():
        return pl.LazyFrame(schema={"host": pl.String, "stretch": pl.Datetime("ns"), "cpu_ratio": pl.Float64})
    return (
        host_samples.with_columns(pl.col("time").cast(pl.Datetime("ns")))
        .group_by("host", stretch=window_start("time", stretch_s))
        .agg(cpu_ratio=pl.col(column).mean())
    )


# ----------------------------------------------------------------------------------------------------------- verdicts


def _with_signs(mine: pl.LazyFrame, signs: pl.LazyFrame, hosts: pl.LazyFrame, idle_ratio: float) -> pl.LazyFrame:
    """
    What each holder held with what its own part tells, or the whole device where the part tells nothing.

    Amounts are the holder's share; those of `_IDLE` are what of them went without work.
    """
    place = ["piece", "stretch"]
    own = mine.join(signs, on=["part", *place], how="left")
    names = signs.collect_schema().names()[3:]
    whole = signs.rename({name: f"{name}_whole" for name in names}).rename({"part": "device"})
    told = own.join(whole, on=["device", *place], how="left").join(hosts, on=["host", "stretch"], how="left")
    told = told.with_columns(pl.coalesce(name, f"{name}_whole").alias(name) for name in names)
    of_steps = pl.col("busy_covered_s") > 0
    quiet = pl.when(~of_steps & (pl.col("activity_ratio") <= idle_ratio)).then(1.0)
    partition = pl.when(pl.col("part") != pl.col("device")).then("idle_share")
    # A partition's own idle time where it is known; else the board's, step by step.
    share = pl.coalesce(partition, quiet).fill_null(-1.0)
    told = told.with_columns(
        pl.when(share >= 0).then(pl.col(whole) * share).otherwise(pl.col(idle)).alias(idle)
        for whole, idle in _IDLE.items()
    )
    return told.with_columns(pl.col(*_DRAWN, *_IDLE.values()) * pl.col("share"))


def _lines(frame: pl.LazyFrame, cause: pl.Expr, reason: pl.Expr, **amounts: pl.Expr | str) -> pl.LazyFrame:
    nothing = {name: pl.lit(0.0) for name in AMOUNTS}
    told = frame.select(
        "device", "host", *OWNER, "stretch", cause=cause, reason=reason.cast(pl.String), **{**nothing, **amounts}
    )
    # Most spans have most causes for no time at all.
    return told.filter(pl.col("span_s") != 0)


def _free(spans: pl.LazyFrame, holders: pl.LazyFrame) -> pl.LazyFrame:
    """What nobody held."""
    taken = holders.group_by("piece").agg(taken=pl.col("share").sum())
    free = 1.0 - pl.col("taken").fill_null(0.0)
    free = pl.when(free > _EXACT).then(free).otherwise(0.0)
    nobody = spans.join(taken, on="piece", how="left").with_columns(pl.lit(None, pl.String).alias(n) for n in OWNER)
    amounts = {name: pl.col(name) * free for name in _DRAWN}
    cause = pl.when(pl.col("failed").is_not_null()).then(pl.lit("failed")).otherwise(pl.lit("unallocated"))
    return _lines(nobody, cause, pl.col("failed"), **amounts)


def _held(mine: pl.LazyFrame, effective_ratio: float) -> Iterator[pl.LazyFrame]:
    """What was held, by cause."""
    none, failed = pl.lit(None, pl.String), pl.col("failed").is_not_null()
    whole = {name: pl.col(name) for name in _DRAWN}
    yield _lines(mine.filter(failed), pl.lit("failed"), pl.col("failed"), **whole)
    mine = mine.filter(~failed)
    yield _lines(mine, pl.lit("unmeasured"), none, span_s=pl.col("span_s") - pl.col("covered_s"))
    yield _lines(mine, pl.lit("idle"), none, span_s="idle_s", **_IDLE)
    busy = {whole: pl.col(whole) - pl.col(idle) for whole, idle in _IDLE.items()}
    busy |= {"span_s": busy["covered_s"], "judged_s": busy["covered_s"] * pl.col("judged").fill_null(False)}
    activity, utilization = pl.col("activity_ratio"), pl.col("utilization_ratio")
    waits = (pl.col("pcie_ratio") >= PCIE_BUSY) | ((pl.col("cpu_ratio") >= HOST_BUSY) & (utilization < RESIDENT))
    quiet_memory = (pl.col("dram_ratio") < EFFECTIVE_RATIO).fill_null(True)
    meets = (utilization >= RESIDENT) & (pl.col("fabric_bytes_per_s") >= FABRIC_BYTES_PER_S) & quiet_memory
    reason = pl.when(waits.fill_null(False)).then(pl.lit("input")).when(meets.fill_null(False)).then(pl.lit("network"))
    low = mine.filter((activity <= effective_ratio).fill_null(True)).with_columns(stall=reason)
    cause = (
        pl.when(activity.is_null())
        .then(pl.lit("unmeasured"))
        .when(pl.col("stall").is_not_null())
        .then(pl.lit("stalled"))
        .otherwise(pl.lit("underused"))
    )
    yield _lines(low, cause, pl.when(cause == "stalled").then("stall"), **busy)
    effective = mine.filter(activity > effective_ratio)
    lost = {reason: pl.col(f"lost_{reason}") for reason in REASONS}
    for name, share in lost.items():
        some = effective.filter(share > 0)
        yield _lines(
            some, pl.lit("throttled"), pl.lit(name), **{amount: value * share for amount, value in busy.items()}
        )
    useful = 1.0 - pl.sum_horizontal(lost.values())
    yield _lines(effective, pl.lit("useful"), none, **{amount: value * useful for amount, value in busy.items()})
