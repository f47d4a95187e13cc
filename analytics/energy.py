"""
Energy from samples: counters differenced, power integrated, one source for each device.

Everything here is built on *steps*: the time from one reading of a device to the next, and its joules.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import polars as pl

from collector.catalogue import POWER

KEYS: Final = ("device", "source")
TRUST: Final = (0.1, 10.0)
"""A counter whose total over the integrated power lies outside is stuck or in a wrong unit: not used (Zeus' rule)."""
MAX_COUNTER_GAP_S: Final = 3600.0
"""A counter counts while nobody reads; beyond this a reboot between two readings is likelier than a quiet reader."""
CHUNK_S: Final = 3600.0
"""Sources of one device are chosen for each hour, so that a hand-over from one to another loses no more."""

_NS: Final = 1_000_000_000
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_GROUP: Final = "__group"
_TEXT: Final = ("device", "source", "host", "power_method", "power_scope")
_NUMBERS: Final = ("power_w", "energy_j", "utilization_ratio")

Group = Literal["fleet", "site", "host", "device"]


def seconds(window: str) -> float:
    """
    The seconds of a window such as ``30s``, ``5m``, ``1h``, ``1d``.

    Raises: ValueError.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", window)
    if not found or float(found[1]) <= 0:
        raise ValueError(f"window {window!r}: a number and one of ms, s, m, h, d, w is wanted, such as 5m")
    return float(found[1]) * _SECONDS[found[2]]


def integrate_power(
    samples: pl.LazyFrame, *, keys: Sequence[str] = ("device",), column: str = "power_w", max_gap_s: float = 10.0
) -> pl.LazyFrame:
    """
    Integrate power into energy by the trapezoid rule.

    In:  *keys*, time, *column* (watts, null where unread). Any row order; of rows with the same keys and time the last
         counts.
    Out: *keys*, energy_j (null where nothing was covered), covered_s: the seconds that the energy accounts for.

    A pair of readings further apart than *max_gap_s* adds nothing to either column.
    """
    joules, covered = _trapezoid(column, max_gap_s)
    return _total(in_order(samples, keys, (column,)).select(*keys, energy_j=joules, covered_s=covered), keys)


def energy_from_counters(
    samples: pl.LazyFrame,
    *,
    keys: Sequence[str] = KEYS,
    column: str = "energy_j",
    max_gap_s: float = MAX_COUNTER_GAP_S,
    max_power_w: float = POWER.high or 50_000.0,
) -> pl.LazyFrame:
    """
    Difference an energy counter.

    In:  *keys* (what tells one counter from another: device and source, or host, source and zone), time, *column*
         (joules, cumulative, null where unread). Any row order; of rows with the same keys and time the last counts.
    Out: *keys*, energy_j (null where nothing was covered), covered_s, resets: how often the counter fell.

    A fall is a reset and adds nothing; neither does a rise steeper than *max_power_w*, which no device can draw, nor a
    pair of readings further apart than *max_gap_s*. Counters are differenced one by one, before anything is summed.
    """
    joules, covered = difference(column, max_gap_s, max_power_w)
    fell = pl.col(column) < _earlier(column)
    steps = in_order(samples, keys, (column,)).select(
        *keys, energy_j=joules, covered_s=covered, resets=(fell & _continues(column)).fill_null(False).cast(pl.UInt32)
    )
    return _total(steps, keys, pl.col("resets").sum())


def energy(
    samples: pl.LazyFrame,
    *,
    by: str | None = None,
    max_gap_s: float = 10.0,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Energy of each device: from its counter where there is one, else from its power.

    In:  device, time, and what there is of source, host, power_method, power_scope, power_w, energy_j. Any row order.
         *devices* (device, parent) names the partitions, which are left out: their parent's energy is theirs.
    Out: device, host, source, window (start of the window, with *by* such as ``5m``), energy_j (null where nothing was
         covered), covered_s, power_mean_w, power_method (``counter``, or what the source says of its power),
         power_scope, counter_j (the part that a counter measured), modelled_j (the part that is not measured),
         modelled_ratio, agreement_ratio (counter over integrated power where both are known).

    Counter and power are chosen for each step: where a counter fell, the integral of the power stands in. A counter
    that disagrees with the power beyond `TRUST` is not used. Of several sources of a device one is chosen for each hour
    (or window, where that is shorter): measured before modelled, then the one that covers more; never their sum.
    A step that crosses the edge of a window is shared by time.
    """
    wanted = seconds(by) if by else None
    pieces = split(_steps(without_partitions(samples, devices), max_gap_s=max_gap_s), _chunk(wanted))
    chosen = _best_source(_tallied(pieces))
    keys = ["device"]
    if wanted is not None:
        chosen = chosen.with_columns(window=window_start("chunk", wanted))
        keys = ["device", "window"]
    return chosen.group_by(keys).agg(*_TALLY_OUT).select(_ENERGY_COLUMNS if by is None else _WINDOW_COLUMNS).sort(keys)


def power_over_time(
    samples: pl.LazyFrame,
    *,
    every_s: float,
    by: Group = "fleet",
    hosts: Mapping[str, str] | None = None,
    step_s: float = 10.0,
    max_gap_s: float = 10.0,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Power of the fleet, of each site, host or device, in windows of *every_s*.

    In:  device, time, power_w, and what there is of source, host, energy_j, power_method. *hosts* gives each host's
         site (a host it does not name is in the site ``unknown``).
    Out: window (its start), group (the device, host or site; ``fleet``), power_mean_w, power_max_w, power_min_w,
         devices, covered_ratio: covered device-seconds over devices times window, modelled_ratio.

    The mean is the sum of the devices' means. Maximum and minimum are of the group's power at one time: devices are
    added up on a grid of *step_s* (which should be no finer than the sampling period), and a device without a reading
    in a step counts with its mean of the window, so a late reading is no dip. Each device counts once, by its best
    source.
    """
    samples = without_partitions(samples, devices)
    tally = _best_source(_tallied(split(_steps(samples, max_gap_s=max_gap_s), every_s))).filter(pl.col("covered_s") > 0)
    tally = tally.select(
        "device",
        "source",
        "chunk",
        "covered_s",
        "energy_j",
        "modelled_j",
        mean=pl.col("energy_j") / pl.col("covered_s"),
        group=group_of(by, hosts),
    )
    grid = min(step_s, every_s)
    cells = (
        _readings(samples)
        .filter(pl.col("power_w").is_not_null())
        .select("device", "source", "power_w", cell=window_start("time", grid), chunk=window_start("time", every_s))
        .group_by("device", "source", "chunk", "cell")
        .agg(pl.col("power_w").mean())
        .join(tally, on=["device", "source", "chunk"], nulls_equal=True)
        .group_by("group", "chunk", "cell")
        .agg(swing=(pl.col("power_w") - pl.col("mean")).sum())
        .group_by("group", "chunk")
        .agg(high=pl.col("swing").max(), low=pl.col("swing").min())
    )
    means = tally.group_by("group", "chunk").agg(
        pl.col("mean").sum(),
        pl.col("covered_s").sum(),
        pl.col("energy_j").sum(),
        pl.col("modelled_j").sum(),
        devices=pl.col("device").n_unique(),
    )
    mean = pl.col("mean")
    return (
        means.join(cells, on=["group", "chunk"], how="left")
        .select(
            window=pl.col("chunk"),
            group=pl.col("group"),
            power_mean_w=mean,
            power_max_w=pl.max_horizontal(mean, mean + pl.col("high")),
            power_min_w=pl.max_horizontal(pl.lit(0.0), pl.min_horizontal(mean, mean + pl.col("low"))),
            devices=pl.col("devices"),
            covered_ratio=pl.min_horizontal(pl.lit(1.0), pl.col("covered_s") / (pl.col("devices") * every_s)),
            modelled_ratio=_ratio("modelled_j", "energy_j"),
        )
        .sort("window", "group")
    )


def device_steps(
    samples: pl.LazyFrame, *, max_gap_s: float = 10.0, devices: pl.LazyFrame | None = None
) -> pl.LazyFrame:
    """
    The steps of each device by its best source, for whoever cuts energy at other edges than windows.

    In:  as `energy`.
    Out: device, host, begin, time (the step's end; both Datetime ns), energy_j, covered_s, counter_j, modelled_j,
         busy_s (utilisation integrated over time), busy_covered_s. Sorted by device and time; steps do not overlap.
    """
    steps = _steps(without_partitions(samples, devices), max_gap_s=max_gap_s).with_columns(
        chunk=window_start("time", CHUNK_S)
    )
    best = _best_source(_tallied(steps)).select("device", "source", "chunk", "trusted")
    counted, power = pl.col("trusted") & pl.col("by_counter"), ~pl.col("trusted")
    return (
        steps.join(best, on=["device", "source", "chunk"], nulls_equal=True)
        .select(
            "device",
            "host",
            "begin",
            "time",
            energy_j=pl.when(power).then("power_j").otherwise("mixed_j"),
            covered_s=pl.when(power).then("power_s").otherwise("mixed_s"),
            counter_j=pl.when(counted).then("mixed_j").otherwise(0.0),
            modelled_j=pl.when(pl.col("modelled"))
            .then(pl.when(power).then("power_j").otherwise("mixed_j"))
            .otherwise(0.0),
            busy_s=pl.col("busy_s"),
            busy_covered_s=pl.col("busy_covered_s"),
        )
        .sort("device", "time")
    )


# ------------------------------------------------------------------------------------------------------------ steps


def _readings(samples: pl.LazyFrame) -> pl.LazyFrame:
    """The columns that matter, with nulls for those that the frame lacks."""
    known = samples.collect_schema().names()
    absent = [pl.lit(None, pl.String).alias(name) for name in _TEXT if name not in known]
    absent += [pl.lit(None, pl.Float64).alias(name) for name in _NUMBERS if name not in known]
    return samples.with_columns(absent).select(*_TEXT, pl.col("time").cast(pl.Datetime("ns")), *_NUMBERS)


def without_partitions(samples: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """The samples of whole devices: a partition's energy is its parent's."""
    if devices is None:
        return samples
    return samples.join(devices.filter(pl.col("parent").is_not_null()).select("device"), on="device", how="anti")


def in_order(samples: pl.LazyFrame, keys: Sequence[str], columns: Sequence[str]) -> pl.LazyFrame:
    """Sorted by *keys* and time, each time once, with `_GROUP`: a number for each combination of keys."""
    ordered = samples.with_columns(
        pl.col("time").cast(pl.Datetime("ns")), *(pl.col(c).cast(pl.Float64) for c in columns)
    )
    ordered = ordered.sort([*keys, "time"], maintain_order=True)
    # Comparing neighbours of a sorted frame costs a tenth of a window function over two text columns.
    changed = pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift(1)) for key in keys)
    ordered = ordered.with_columns(changed.fill_null(True).cum_sum().alias(_GROUP))
    again = (pl.col(_GROUP) == pl.col(_GROUP).shift(-1)) & (pl.col("time") == pl.col("time").shift(-1))
    return ordered.filter(~again.fill_null(False))


def _where_read(column: str, value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col(column).is_not_null()).then(value)


def _earlier(column: str) -> pl.Expr:
    """The last value of *column* before this row; it may be another group's, see `_continues`."""
    return pl.col(column).shift(1).forward_fill()


def _continues(column: str) -> pl.Expr:
    """Whether the last value before this row and the next from it on are both of this row's group."""
    group = _where_read(column, pl.col(_GROUP))
    return (group.shift(1).forward_fill() == pl.col(_GROUP)) & (group.backward_fill() == pl.col(_GROUP))


def _around(column: str) -> tuple[pl.Expr, pl.Expr]:
    """The times (ns) of the last reading of *column* before this row, and of the next from this row on."""
    read = _where_read(column, _ns("time"))
    return read.shift(1).forward_fill(), read.backward_fill()


def _ns(column: str) -> pl.Expr:
    return pl.col(column).to_physical()


def _length_s() -> pl.Expr:
    """Seconds since the row before."""
    return (_ns("time") - _ns("time").shift(1)) / _NS


def _trapezoid(column: str, max_gap_s: float) -> tuple[pl.Expr, pl.Expr]:
    """Integral and covered seconds of each step: the value half-way between its ends, on the line between readings."""
    earlier, later = _around(column)
    near = (later - earlier) <= round(max_gap_s * _NS)
    first, last = _earlier(column), pl.col(column).backward_fill()
    middle = ((_ns("time") - earlier) + (_ns("time").shift(1) - earlier)) / 2 / (later - earlier)
    counts = (near & _continues(column)).fill_null(False)
    return (
        pl.when(counts).then((first + (last - first) * middle) * _length_s()).otherwise(0.0),
        pl.when(counts).then(_length_s()).otherwise(0.0),
    )


def difference(column: str, max_gap_s: float, max_power_w: float) -> tuple[pl.Expr, pl.Expr]:
    """Rise and covered seconds of each step; rows between two readings of the counter share its rise by time."""
    earlier, later = _around(column)
    rise = pl.col(column).backward_fill() - _earlier(column)
    # Compared in whole nanoseconds: as seconds, polars gives 15.000000000000002 for 15 s where a frame is in chunks.
    span = later - earlier
    possible = (rise >= 0) & (rise * _NS <= max_power_w * span)
    counts = (possible & (span <= round(max_gap_s * _NS)) & _continues(column)).fill_null(False)
    share = (_ns("time") - _ns("time").shift(1)) / span
    return (
        pl.when(counts).then(rise * share).otherwise(0.0),
        pl.when(counts).then(_length_s()).otherwise(0.0),
    )


def _total(steps: pl.LazyFrame, keys: Sequence[str], *more: pl.Expr) -> pl.LazyFrame:
    covered = pl.col("covered_s").sum()
    joules = pl.when(covered > 0).then(pl.col("energy_j").sum())
    return steps.group_by(keys).agg(joules.alias("energy_j"), covered, *more).sort(keys)


def _steps(samples: pl.LazyFrame, *, max_gap_s: float) -> pl.LazyFrame:
    """
    One row for each reading: the step that ends with it.

    Out: device, source, host, power_method, power_scope, begin, time, power_j and power_s (by the power), mixed_j and
    mixed_s (by the counter where it is good), by_counter, both_counter_j and both_power_j (where both are known),
    modelled, busy_s, busy_covered_s.
    """
    power_j, power_s = _trapezoid("power_w", max_gap_s)
    counter_j, counter_s = difference("energy_j", MAX_COUNTER_GAP_S, POWER.high or 50_000.0)
    busy_s, busy_covered_s = _trapezoid("utilization_ratio", max_gap_s)
    first = pl.col(_GROUP) != pl.col(_GROUP).shift(1)
    by_counter = pl.col("counter_s") > 0
    both = by_counter & (pl.col("power_s") > 0)
    return (
        in_order(_readings(samples), KEYS, _NUMBERS)
        .select(
            *_TEXT,
            "time",
            begin=pl.when(first.fill_null(True)).then("time").otherwise(pl.col("time").shift(1)),
            power_j=power_j,
            power_s=power_s,
            counter_j=counter_j,
            counter_s=counter_s,
            busy_s=busy_s,
            busy_covered_s=busy_covered_s,
            modelled=(pl.col("power_method") == "modelled").fill_null(False),
        )
        .with_columns(
            by_counter=by_counter,
            mixed_j=pl.when(by_counter).then("counter_j").otherwise("power_j"),
            mixed_s=pl.when(by_counter).then("counter_s").otherwise("power_s"),
            both_counter_j=pl.when(both).then("counter_j").otherwise(0.0),
            both_power_j=pl.when(both).then("power_j").otherwise(0.0),
        )
    )


def window_start(column: str, length_s: float) -> pl.Expr:
    """The start of the window that holds *column*; windows are counted from the epoch, in UTC."""
    length = round(length_s * _NS)
    return (_ns(column) // length * length).cast(pl.Datetime("ns"))


def _chunk(window_s: float | None) -> float:
    """The finest division that sources are chosen in: hours, unless windows are finer or no whole number of hours."""
    return CHUNK_S if window_s is None or window_s % CHUNK_S == 0 else window_s


_AMOUNTS: Final = (
    "power_j", "power_s", "mixed_j", "mixed_s", "both_counter_j", "both_power_j", "busy_s", "busy_covered_s",
)  # fmt: skip


def split(steps: pl.LazyFrame, length_s: float, amounts: Sequence[str] = _AMOUNTS) -> pl.LazyFrame:
    """Cut steps at the edges of windows and share their amounts by time; `chunk` is the window's start."""
    length = round(length_s * _NS)
    steps = steps.with_columns(
        __first=_ns("begin") // length,
        # A step that ends on an edge belongs to the window before it.
        __last=pl.max_horizontal((_ns("time") - 1) // length, _ns("begin") // length),
    )
    crossing = pl.col("__first") != pl.col("__last")
    start = pl.col("__part") * length
    share = (pl.min_horizontal(_ns("time"), start + length) - pl.max_horizontal(_ns("begin"), start)) / (
        _ns("time") - _ns("begin")
    )
    whole = steps.filter(~crossing).with_columns(chunk=(pl.col("__first") * length).cast(pl.Datetime("ns")))
    cut = (
        # Where a step carries nothing (a gap of days), there is nothing to share.
        steps.filter(crossing & pl.any_horizontal(pl.col(name) > 0 for name in amounts))
        .with_columns(__part=pl.int_ranges("__first", pl.col("__last") + 1))
        .explode("__part", empty_as_null=True, keep_nulls=True)
        .with_columns(*(pl.col(name) * share for name in amounts), chunk=start.cast(pl.Datetime("ns")))
    )
    return pl.concat([whole, cut.drop("__part")]).drop("__first", "__last")


# ---------------------------------------------------------------------------------------------------------- choosing


def _tallied(pieces: pl.LazyFrame) -> pl.LazyFrame:
    """Sums for each device, source and chunk, and whether the counter of that source is trusted."""
    counted = pl.col("mixed_j").filter(pl.col("by_counter")).sum()
    sums = pieces.group_by("device", "source", "chunk").agg(
        *(pl.col(name).sum() for name in _AMOUNTS),
        pl.col("host", "power_method", "power_scope").drop_nulls().last(),
        counter_j=counted,
        mixed_modelled_j=pl.col("mixed_j").filter(pl.col("modelled")).sum(),
        power_modelled_j=pl.col("power_j").filter(pl.col("modelled")).sum(),
    )
    agreement = sums.group_by("device", "source").agg(
        agreement_ratio=_ratio("both_counter_j", "both_power_j", total=True)
    )
    low, high = TRUST
    trusted = pl.col("agreement_ratio").is_between(low, high).fill_null(True)
    joined = sums.join(agreement, on=["device", "source"], how="left", nulls_equal=True).with_columns(trusted=trusted)
    return joined.select(
        "device",
        "source",
        "chunk",
        "host",
        "power_method",
        "power_scope",
        "agreement_ratio",
        "trusted",
        energy_j=pl.when("trusted").then("mixed_j").otherwise("power_j"),
        covered_s=pl.when("trusted").then("mixed_s").otherwise("power_s"),
        counter_j=pl.when("trusted").then("counter_j").otherwise(0.0),
        modelled_j=pl.when("trusted").then("mixed_modelled_j").otherwise("power_modelled_j"),
    )


def _best_source(tally: pl.LazyFrame) -> pl.LazyFrame:
    """
    One row for each device and chunk.

    A source that covers less than nine tenths of what the best one does is out; among the others measured goes before
    modelled, a counter before power, more coverage before less, and then the name decides.
    """
    enough = pl.col("covered_s") >= 0.9 * pl.col("covered_s").max().over("device", "chunk")
    rank = [
        enough,
        pl.col("power_method").ne_missing("modelled"),
        pl.col("counter_j") > 0,
        pl.col("covered_s").round(3),
    ]
    return (
        tally.with_columns(__rank=pl.struct(rank_part.alias(f"r{i}") for i, rank_part in enumerate(rank)))
        .unnest("__rank")
        .sort(
            "device",
            "chunk",
            "r0",
            "r1",
            "r2",
            "r3",
            "source",
            descending=[False, False, True, True, True, True, False],
        )
        .unique(["device", "chunk"], keep="first", maintain_order=True)
        .drop("r0", "r1", "r2", "r3")
    )


def _ratio(part: str, whole: str, *, total: bool = False) -> pl.Expr:
    above, below = (pl.col(part).sum(), pl.col(whole).sum()) if total else (pl.col(part), pl.col(whole))
    return pl.when(below > 0).then(above / below)


def group_of(by: Group, hosts: Mapping[str, str] | None) -> pl.Expr:
    """What a row belongs to: its device, its host, its host's site, or the fleet."""
    if by == "fleet":
        return pl.lit("fleet")
    if by == "site":
        return pl.col("host").replace_strict(dict(hosts or {}), default="unknown", return_dtype=pl.String)
    if by in {"host", "device"}:
        return pl.col(by).fill_null("unknown")
    raise ValueError(f"by {by!r}: one of fleet, site, host, device is wanted")


_COVERED: Final = pl.col("covered_s").sum()
_TALLY_OUT: Final = (
    pl.col("host").drop_nulls().last(),
    pl.col("source").last(),
    pl.when(_COVERED > 0).then(pl.col("energy_j").sum()).alias("energy_j"),
    _COVERED,
    pl.when(_COVERED > 0).then(pl.col("energy_j").sum() / _COVERED).alias("power_mean_w"),
    pl.when((pl.col("counter_j").sum() * 2 >= pl.col("energy_j").sum()) & (pl.col("counter_j").sum() > 0))
    .then(pl.lit("counter"))
    .otherwise(pl.col("power_method").drop_nulls().last())
    .alias("power_method"),
    pl.col("power_scope").drop_nulls().last(),
    pl.col("counter_j").sum(),
    pl.col("modelled_j").sum(),
    _ratio("modelled_j", "energy_j", total=True).alias("modelled_ratio"),
    pl.col("agreement_ratio").drop_nulls().last(),
)
_ENERGY_COLUMNS: Final = (
    "device", "host", "source", "energy_j", "covered_s", "power_mean_w", "power_method", "power_scope", "counter_j",
    "modelled_j", "modelled_ratio", "agreement_ratio",
)  # fmt: skip
_WINDOW_COLUMNS: Final = ("device", "host", "window", *_ENERGY_COLUMNS[2:])
