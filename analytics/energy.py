"""
Energy from samples: counters differenced, power integrated, one source for each device.

Everything here is built on *steps*: the time from one reading of a device to the next, and its joules; see `steps`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl

from analytics.intervals import BOUNDS, bounds, measured, sensor_error
from analytics.steps import (
    AMOUNTS,
    BUSY,
    KEYS,
    MAX_COUNTER_GAP_S,
    TALLY,
    Ordered,
    difference,
    falls,
    in_order,
    ordered,
    readings,
    tally,
    tally_of,
    trapezoid,
)
from analytics.steps import nanoseconds as _ns
from analytics.steps import steps as _steps
from collector.catalogue import POWER

TRUST: Final = (0.1, 10.0)
"""A counter whose total over the integrated power lies outside is stuck or in a wrong unit: not used (Zeus' rule)."""
CHUNK_S: Final = 3600.0
"""Sources of one device are chosen for each hour, so that a hand-over from one to another loses no more."""

_NS: Final = 1_000_000_000
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

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
    joules, covered = trapezoid(column, round(max_gap_s * _NS))
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
    steps = in_order(samples, keys, (column,)).select(
        *keys, energy_j=joules, covered_s=covered, resets=falls(column).cast(pl.UInt32)
    )
    return _total(steps, keys, pl.col("resets").sum())


def energy(
    samples: pl.LazyFrame,
    *,
    by: str | None = None,
    max_gap_s: float | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Energy of each device: from its counter where there is one, else from its power.

    In:  device, time, and what there is of source, host, power_method, power_scope, power_w, energy_j. Any row order.
         *devices* (device, parent) names the partitions, which are left out: their parent's energy is theirs.
    Out: device, host, source, window (start of the window, with *by* such as ``5m``), energy_j (null where nothing was
         covered), energy_low_j and energy_high_j (which hold the true energy in 95 of 100 cases, see
         `analytics.intervals`; null where some of it is modelled), covered_s, power_mean_w, power_method (``counter``,
         or what the source says of its power), power_scope, counter_j (the part that a counter measured), modelled_j
         (the part that is not measured), modelled_ratio, agreement_ratio (counter over integrated power where both are
         known), max_gap_s, power_min_w and power_max_w (of the readings, one on the edge between two windows being of
         the earlier).

    Counter and power are chosen for each step: where a counter fell, the integral of the power stands in. A counter
    that disagrees with the power beyond `TRUST` is not used. Of several sources of a device one is chosen for each hour
    (or window, where that is shorter): measured before modelled, then the one that covers more; never their sum.
    A step that crosses the edge of a window is shared by time.

    Power is not integrated between readings further apart than *max_gap_s*. Not given, that is 10 s, or three times the
    device's own median interval where that is longer, at most 300 s; the column max_gap_s says what it was.
    """
    wanted = seconds(by) if by else None
    sums = _of_rows(partial(tally, length_s=_chunk(wanted), max_gap_s=max_gap_s), samples, devices, TALLY)
    return _answer(_best_source(_trusted(sums)), wanted)


def _answer(chosen: pl.LazyFrame, window_s: float | None) -> pl.LazyFrame:
    """The columns of `energy` from what was chosen."""
    keys = ["device"]
    if window_s is not None:
        chosen = chosen.with_columns(window=window_start("chunk", window_s))
        keys = ["device", "window"]
    columns = _ENERGY_COLUMNS if window_s is None else _WINDOW_COLUMNS
    return chosen.group_by(keys).agg(*_TALLY_OUT).select(columns).sort(keys)


def power_over_time(
    samples: pl.LazyFrame,
    *,
    every_s: float,
    by: Group = "fleet",
    hosts: Mapping[str, str] | None = None,
    step_s: float = 10.0,
    max_gap_s: float | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Power of the fleet, of each site, host or device, in windows of *every_s*.

    In:  device, time, power_w, and what there is of source, host, energy_j, power_method. *hosts* gives each host's
         site (a host it does not name is in the site ``unknown``). *max_gap_s* as in `energy`.
    Out: window (its start), group (the device, host or site; ``fleet``), power_mean_w, power_max_w, power_min_w,
         devices, covered_ratio: covered device-seconds over devices times window, modelled_ratio.

    The mean is the sum of the devices' means. Maximum and minimum are of the group's power at one time: devices are
    added up on a grid of *step_s* (which should be no finer than the sampling period), and a device without a reading
    in a step counts with its mean of the window, so a late reading is no dip. Each device counts once, by its best
    source.
    """
    group_of(by, hosts)  # refuses a group that is none before anything is read

    def of_rows(rows: pl.DataFrame) -> pl.DataFrame:
        return over_time([rows], every_s=every_s, by=(by,), hosts=hosts, step_s=step_s, max_gap_s=max_gap_s).power[by]

    return _of_rows(of_rows, samples, devices, POWER_OVER_TIME)


class Windows(NamedTuple):
    """
    What `over_time` finds.

    devices: as `energy` by windows of every_s. power: as `power_over_time`, for each group asked for. utilization:
    device, host, window, utilization_ratio (the mean of what was read).
    """

    devices: pl.DataFrame
    power: dict[Group, pl.DataFrame]
    utilization: pl.DataFrame


def over_time(
    parts: Iterable[pl.DataFrame],
    *,
    every_s: float,
    by: Sequence[Group] = ("fleet",),
    hosts: Mapping[str, str] | None = None,
    step_s: float = 10.0,
    max_gap_s: float | None = None,
    within_ns: tuple[int, int] | None = None,
) -> Windows:
    """
    Energy, power and utilisation in windows of *every_s*, in one pass over *parts* of `analytics.steps.readings`.

    A device must be whole within a part. *within_ns* is the stretch that all parts are of; without it there may be one
    part only.
    """
    length, grid = round(every_s * _NS), round(min(step_s, every_s) * _NS)
    cells = -(-length // grid)
    chosen: list[pl.DataFrame] = []
    busy: list[pl.DataFrame] = []
    swings: dict[Group, dict[str, np.ndarray]] = {group: {} for group in by}
    extremes: dict[Group, list[pl.DataFrame]] = {group: [] for group in by}
    first = 0
    for rows in parts:
        if rows.is_empty():
            continue
        found = ordered(rows)
        best = _best_source(_trusted(tally_of(found, length_s=every_s, max_gap_s=max_gap_s).lazy())).collect()
        chosen.append(best)
        if within_ns is None:
            ends = found.rows.select(pl.col("time").min().alias("a"), pl.col("time").max().alias("b"))
            within_ns = (int(ends["a"].to_physical().item()), int(ends["b"].to_physical().item()) + 1)
        first, count = within_ns[0] // length, (within_ns[1] - 1) // length - within_ns[0] // length + 1
        read = _Read.of(found, best, length, grid, first, count)
        busy.append(read.utilization())
        of_devices = read.of_devices()
        for group in by:
            for name, swing in read.swings(of_devices, group_of(group, hosts)):
                held = swings[group].get(name)
                swings[group][name] = swing if held is None else held + swing
            if group == "device":
                extremes[group].append(_extremes(swings[group], cells, first, length))
                swings[group] = {}
    for group in by:
        extremes[group].append(_extremes(swings[group], cells, first, length))
    all_chosen = pl.concat(chosen) if chosen else _best_source(_trusted(pl.LazyFrame(schema=TALLY))).collect()
    read_by = pl.concat([_Read.nothing(), *busy]).group_by("device", "window")
    return Windows(
        _answer(all_chosen.lazy(), every_s).collect(),
        {group: _power(all_chosen, pl.concat(extremes[group]), group_of(group, hosts), every_s) for group in by},
        read_by.agg(pl.col("host").last(), utilization_ratio=pl.col("sum").sum() / pl.col("n").sum()),
    )


class _Read(NamedTuple):
    """The readings of a part against the means of their windows."""

    found: Ordered
    best: pl.DataFrame
    length: int
    first: int
    windows: int
    cells: int
    window: np.ndarray
    """Number of each reading's window, and of its series: series times count, plus windows since the first."""
    cell: np.ndarray

    @staticmethod
    def of(found: Ordered, best: pl.DataFrame, length: int, grid: int, first: int, count: int) -> "_Read":
        time = found.rows["time"].to_physical().to_numpy()
        window = time // length
        cell = (time - window * length) // grid
        series = found.series.to_numpy().astype(np.int64)
        return _Read(found, best, length, first, count, -(-length // grid), series * count + (window - first), cell)

    @staticmethod
    def nothing() -> pl.DataFrame:
        """No readings of utilisation."""
        return pl.DataFrame(schema=_UTILIZATION)

    def _heads(self) -> pl.DataFrame:
        return self.found.rows.select(KEYS).filter(self.found.first).with_row_index("series")

    def utilization(self) -> pl.DataFrame:
        """Sum and number of the readings of utilisation of each device, source and window."""
        read = self.found.rows["utilization_ratio"]
        if read.null_count() == read.len():
            return self.nothing()
        number = pl.Series("window", self.window).set_sorted()
        frame = pl.DataFrame({"window": number, "value": read}).with_row_index("row")
        sums = frame.group_by("window").agg(
            pl.col("row").max(), sum=pl.col("value").sum(), n=pl.col("value").count().cast(pl.UInt32)
        )
        return sums.filter(pl.col("n") > 0).select(
            *(pl.lit(self.found.rows[name]).gather(pl.col("row")) for name in ("device", "host")),
            window=((pl.col("window") % self.windows + self.first) * self.length).cast(pl.Datetime("ns")),
            sum="sum",
            n="n",
        )

    def of_devices(self) -> "_Swings":
        """How far each device's power is from its mean of the window, in each cell of each window."""
        best = self.best.filter(pl.col("covered_s") > 0).join(self._heads(), on=["device", "source"], nulls_equal=True)
        at = best["series"].to_numpy() * self.windows + best["chunk"].to_physical().to_numpy() // self.length
        mean = np.full(int(self.found.series[-1] + 1) * self.windows, np.nan)
        mean[at - self.first] = best["energy_j"].to_numpy() / best["covered_s"].to_numpy()
        swing = self.found.rows["power_w"].to_numpy() - mean[self.window]
        window, cell = self.window, self.cell
        read = ~np.isnan(swing)
        if not read.all():
            swing, window, cell = swing[read], window[read], cell[read]
        slot = window * self.cells + cell
        fresh = np.append(True, slot[1:] != slot[:-1]) if slot.size else np.zeros(0, bool)
        if not fresh.all():
            # Several readings of a device in a cell are one: their mean.
            starts = np.flatnonzero(fresh)
            swing = np.add.reduceat(swing, starts) / np.diff(np.append(starts, slot.size))
            window, slot = window[starts], slot[starts]
        return _Swings(best, at - self.first, mean.size, window, slot % (self.windows * self.cells), swing)

    def swings(self, devices: "_Swings", group: pl.Expr) -> Iterable[tuple[str, np.ndarray]]:
        """For each group how far its power is from the sum of its devices' means, in each cell of each window."""
        names = devices.best.select(group.alias("group").cast(pl.String)).to_series()
        if names.len() != devices.best.height:  # one word for all
            names = names.new_from_index(0, devices.best.height)
        words = names.unique(maintain_order=True)
        size = self.windows * self.cells
        if words.len() == 1:
            yield words[0], np.bincount(devices.slot, weights=devices.swing, minlength=size)
        elif words.len() > 1:
            home = np.zeros(devices.slots, np.int64)
            home[devices.at] = names.cast(pl.Enum(words)).to_physical().to_numpy()
            slot = home[devices.window] * size + devices.slot
            total = np.bincount(slot, weights=devices.swing, minlength=words.len() * size)
            yield from zip(words, total.reshape(words.len(), size), strict=True)


class _Swings(NamedTuple):
    """Swings of devices: of each the number of its series and window, the cell it is in, and its watts."""

    best: pl.DataFrame
    at: np.ndarray
    slots: int
    window: np.ndarray
    slot: np.ndarray
    swing: np.ndarray


def _extremes(swings: Mapping[str, np.ndarray], cells: int, first: int, length: int) -> pl.DataFrame:
    """The largest and smallest swing of each group in each window."""
    schema = {"group": pl.String(), "chunk": pl.Datetime("ns"), "high": pl.Float64(), "low": pl.Float64()}
    if not swings:
        return pl.DataFrame(schema=schema)
    values = np.stack(list(swings.values())).reshape(len(swings), -1, cells)
    count = values.shape[1]
    starts = (np.arange(first, first + count) * length).astype("datetime64[ns]")
    columns = {
        "group": np.repeat(np.array(list(swings), dtype=object), count),
        "chunk": np.tile(starts, len(swings)),
        "high": values.max(axis=2).ravel(),
        "low": values.min(axis=2).ravel(),
    }
    return pl.DataFrame(columns, schema=schema)


def _power(chosen: pl.DataFrame, extremes: pl.DataFrame, group: pl.Expr, every_s: float) -> pl.DataFrame:
    mean = pl.col("mean")
    return (
        chosen.lazy()
        .filter(pl.col("covered_s") > 0)
        .with_columns(group=group, mean=pl.col("energy_j") / pl.col("covered_s"))
        .group_by("group", "chunk")
        .agg(
            pl.col("mean", "covered_s", "energy_j", "modelled_j").sum(),
            devices=pl.col("device").n_unique(),
        )
        .join(extremes.lazy(), on=["group", "chunk"], how="left")
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
        .collect()
    )


def device_steps(
    samples: pl.LazyFrame, *, max_gap_s: float | None = None, devices: pl.LazyFrame | None = None
) -> pl.LazyFrame:
    """
    The steps of each device by its best source, for whoever cuts energy at other edges than windows.

    In:  as `energy`.
    Out: device, host, begin, time (the step's end; both Datetime ns), energy_j, covered_s, counter_j, modelled_j,
         error_j (half the interval, by `analytics.intervals.sensor_error`), busy_s (utilisation integrated over time),
         busy_covered_s. Sorted by device and time; steps do not overlap.
    """
    return _of_rows(partial(_device_steps, max_gap_s=max_gap_s), samples, devices, DEVICE_STEPS).sort("device", "time")


def _device_steps(rows: pl.DataFrame, *, max_gap_s: float | None) -> pl.DataFrame:
    if rows.is_empty():
        return pl.DataFrame(schema=DEVICE_STEPS)
    found = ordered(rows)
    taken = _steps(found, max_gap_s, busy=True)
    absent = {name: pl.lit(0.0) for name in (*AMOUNTS, *BUSY) if name not in taken.columns}
    if "mixed_j" not in taken.columns:
        absent |= {"mixed_j": pl.col("power_j"), "mixed_s": pl.col("power_s")}
    if "mixed_modelled_j" not in taken.columns and "power_modelled_j" in taken.columns:
        absent["mixed_modelled_j"] = pl.col("power_modelled_j")
    chunk = (pl.col("time") // round(CHUNK_S * _NS) * round(CHUNK_S * _NS)).cast(pl.Datetime("ns"))
    taken = taken.with_columns(**absent, chunk=chunk).with_columns(
        found.rows.select("device", "source", "host", "power_method", "power_scope")
    )
    run = (pl.col("first") | (pl.col("chunk") != pl.col("chunk").shift(1))).fill_null(True).cum_sum().set_sorted()
    taken = taken.with_columns(run=run)
    sums = taken.group_by("run").agg(
        pl.col("device", "source", "chunk").first(),
        pl.col("host", "power_method", "power_scope").drop_nulls().last(),
        *(pl.col(name).sum() for name in AMOUNTS),
        max_gap_s=pl.lit(0.0),
    )
    best = _best_source(_trusted(sums.lazy())).collect().select("run", "trusted", "agreement_ratio")
    power = ~pl.col("trusted")

    def either(by_power: str, by_counter: str) -> pl.Expr:
        return pl.when(power).then(by_power).otherwise(by_counter)

    energy_j, counter_j = either("power_j", "mixed_j"), pl.when("trusted").then("counter_j").otherwise(0.0)
    return taken.join(best, on="run").select(
        "device",
        "host",
        begin=pl.when("first").then("time").otherwise(pl.col("time") - pl.col("span")).cast(pl.Datetime("ns")),
        time=pl.col("time").cast(pl.Datetime("ns")),
        energy_j=energy_j,
        covered_s=either("power_s", "mixed_s"),
        counter_j=counter_j,
        modelled_j=either("power_modelled_j", "mixed_modelled_j"),
        error_j=sensor_error(energy_j, counter_j, pl.col("agreement_ratio")),
        busy_s=pl.col("busy_s"),
        busy_covered_s=pl.col("busy_covered_s"),
    )


def _of_rows(
    function: Callable[[pl.DataFrame], pl.DataFrame],
    samples: pl.LazyFrame,
    devices: pl.LazyFrame | None,
    schema: pl.Schema,
) -> pl.LazyFrame:
    """What *function* makes of the readings of whole devices: it looks at all of them at once."""
    return readings(without_partitions(samples, devices)).map_batches(
        function, schema=schema, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
    )


_UTILIZATION: Final = pl.Schema(
    {
        **dict.fromkeys(("device", "host"), pl.String()),
        "window": pl.Datetime("ns"),
        "sum": pl.Float64(),
        "n": pl.UInt32(),
    }
)
POWER_OVER_TIME: Final = pl.Schema(
    {
        "window": pl.Datetime("ns"),
        "group": pl.String(),
        **dict.fromkeys(("power_mean_w", "power_max_w", "power_min_w"), pl.Float64()),
        "devices": pl.UInt32(),
        **dict.fromkeys(("covered_ratio", "modelled_ratio"), pl.Float64()),
    }
)
DEVICE_STEPS: Final = pl.Schema(
    {
        **dict.fromkeys(("device", "host"), pl.String()),
        **dict.fromkeys(("begin", "time"), pl.Datetime("ns")),
        **dict.fromkeys(
            ("energy_j", "covered_s", "counter_j", "modelled_j", "error_j", "busy_s", "busy_covered_s"), pl.Float64()
        ),
    }
)


# ------------------------------------------------------------------------------------------------------------ steps


def without_partitions(samples: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """The samples of whole devices: a partition's energy is its parent's."""
    if devices is None:
        return samples
    return samples.join(devices.filter(pl.col("parent").is_not_null()).select("device"), on="device", how="anti")


def _total(steps: pl.LazyFrame, keys: Sequence[str], *more: pl.Expr) -> pl.LazyFrame:
    covered = pl.col("covered_s").sum()
    joules = pl.when(covered > 0).then(pl.col("energy_j").sum())
    return steps.group_by(keys).agg(joules.alias("energy_j"), covered, *more).sort(keys)


def window_start(column: str, length_s: float) -> pl.Expr:
    """The start of the window that holds *column*; windows are counted from the epoch, in UTC."""
    length = round(length_s * _NS)
    return (_ns(column) // length * length).cast(pl.Datetime("ns"))


def _chunk(window_s: float | None) -> float:
    """The finest division that sources are chosen in: hours, unless windows are finer or no whole number of hours."""
    return CHUNK_S if window_s is None or window_s % CHUNK_S == 0 else window_s


def split(steps: pl.LazyFrame, length_s: float, amounts: Sequence[str]) -> pl.LazyFrame:
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


def _trusted(sums: pl.LazyFrame) -> pl.LazyFrame:
    """Sums for each device, source and chunk: by the counter of that source if it is trusted, else by its power."""
    agreement = sums.group_by("device", "source").agg(
        agreement_ratio=_ratio("both_counter_j", "both_power_j", total=True)
    )
    low, high = TRUST
    trusted = pl.col("agreement_ratio").is_between(low, high).fill_null(True)
    joined = sums.join(agreement, on=["device", "source"], how="left", nulls_equal=True).with_columns(trusted=trusted)
    found = joined.with_columns(
        energy_j=pl.when("trusted").then("mixed_j").otherwise("power_j"),
        covered_s=pl.when("trusted").then("mixed_s").otherwise("power_s"),
        counter_j=pl.when("trusted").then("counter_j").otherwise(0.0),
        modelled_j=pl.when("trusted").then("mixed_modelled_j").otherwise("power_modelled_j"),
    ).drop(*(name for name in AMOUNTS if name != "counter_j"))
    error_j = sensor_error(*(pl.col(name) for name in ("energy_j", "counter_j", "agreement_ratio")))
    return found.with_columns(error_j=error_j)


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
_JOULES: Final = pl.when(_COVERED > 0).then(pl.col("energy_j").sum())
_TALLY_OUT: Final = (
    pl.col("host").drop_nulls().last(),
    pl.col("source").last(),
    _JOULES.alias("energy_j"),
    *bounds(_JOULES, measured(pl.col("error_j").sum(), pl.col("modelled_j").sum())),
    _COVERED,
    (_JOULES / _COVERED).alias("power_mean_w"),
    pl.when((pl.col("counter_j").sum() * 2 >= pl.col("energy_j").sum()) & (pl.col("counter_j").sum() > 0))
    .then(pl.lit("counter"))
    .otherwise(pl.col("power_method").drop_nulls().last())
    .alias("power_method"),
    pl.col("power_scope").drop_nulls().last(),
    pl.col("counter_j").sum(),
    pl.col("modelled_j").sum(),
    _ratio("modelled_j", "energy_j", total=True).alias("modelled_ratio"),
    pl.col("agreement_ratio").drop_nulls().last(),
    pl.col("max_gap_s").last(),
    pl.col("power_min_w").min(),
    pl.col("power_max_w").max(),
)
_ENERGY_COLUMNS: Final = (
    "device", "host", "source", "energy_j", *BOUNDS, "covered_s", "power_mean_w", "power_method", "power_scope",
    "counter_j", "modelled_j", "modelled_ratio", "agreement_ratio", "max_gap_s", "power_min_w", "power_max_w",
)  # fmt: skip
_WINDOW_COLUMNS: Final = ("device", "host", "window", *_ENERGY_COLUMNS[2:])
