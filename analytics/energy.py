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

from analytics.boards import calibrated, with_bounds, with_errors
from analytics.cells import AMOUNTS, CELLS, HOUR_S, IDLE_RATIO, TRUST, USE, Cells, best_hours, cells
from analytics.intervals import BOUNDS, bounds, measured
from analytics.steps import BUSY, JOULES, KEYS, Ordered, difference, falls, in_order, ordered, readings, trapezoid
from analytics.steps import nanoseconds as _ns
from analytics.steps import steps as _steps
from collector.catalogue import POWER
from collector.gaps import MAX_COUNTER_GAP_S

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
         *devices* (device, parent) names the partitions, which are left out: their parent's energy is theirs; as of
         `analytics.boards.with_calibrations` it also tells what calibrated boards draw, and how sure that is.
    Out: device, host, source, window (start of the window, with *by* such as ``5m``), energy_j (null where nothing was
         covered), energy_low_j and energy_high_j (which hold the true energy in 95 of 100 cases, see
         `analytics.intervals`; null where some of it is modelled), covered_s, power_mean_w, power_method (``counter``,
         or what the source says of its power), power_scope, counter_j (the part that a counter measured), modelled_j
         (the part that is not measured), modelled_ratio, agreement_ratio (counter over integrated power where both are
         known), max_gap_s, power_min_w and power_max_w (of the readings, one on the edge between two windows being of
         the earlier).

    Counter and power are chosen for each step: where a counter fell, the integral of the power stands in. A counter
    that disagrees with the power beyond `analytics.cells.TRUST` is not used. Of several sources of a device one is
    chosen for each hour: measured before modelled, then the one that covers more; never their sum. A step that crosses
    the edge of a window or an hour is shared by time, so windows add up to the whole.

    Power is not integrated between readings further apart than *max_gap_s*. Not given, that is 10 s, or three and a
    half times the device's own median interval where that is longer, at most 300 s; the column max_gap_s says what it
    was.
    """
    wanted = seconds(by) if by else None
    lengths_s = () if wanted is None else (wanted,)
    found = _of_rows(partial(_cells, lengths_s=lengths_s, max_gap_s=max_gap_s), samples, devices, _CELLS)
    return energy_of_cells(found, wanted, devices)


def _cells(rows: pl.DataFrame, *, lengths_s: Sequence[float], max_gap_s: float | None) -> pl.DataFrame:
    return cells(ordered(rows), lengths_s=lengths_s, max_gap_s=max_gap_s).frame.select(_CELLS.names())


def energy_of_cells(found: pl.LazyFrame, window_s: float | None, devices: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """
    The columns of `energy` from `analytics.cells.cells` that are cut at windows of *window_s*.

    In:  cells of readings as `of_boards` gives them for the same *devices*.
    """
    found, keys = with_errors(found, devices), ["device"]
    if window_s is not None:
        found = found.with_columns(window=window_start("begin", window_s))
        keys = ["device", "window"]
    columns = _ENERGY_COLUMNS if window_s is None else _WINDOW_COLUMNS
    return with_bounds(found.group_by(keys).agg(*_OUT).select(columns), devices).sort(keys)


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
    device, host, window, utilization_ratio (the mean of what was read). swings: what `regrouped` needs, where hosts
    were asked for.
    """

    devices: pl.DataFrame
    power: dict[Group, pl.DataFrame]
    utilization: pl.DataFrame
    swings: "Swings | None" = None


class Swings(NamedTuple):
    """
    How far the power of each host is from the sum of its devices' means, on a grid.

    of: by host, W, in *slots* places for each window of *length* nanoseconds, from window number *first* on.
    """

    of: dict[str, np.ndarray]
    length: int
    slots: int
    first: int


def over_time(
    parts: Iterable[pl.DataFrame],
    *,
    every_s: float,
    by: Sequence[Group] = ("fleet",),
    hosts: Mapping[str, str] | None = None,
    step_s: float = 10.0,
    max_gap_s: float | None = None,
    within_ns: tuple[int, int] | None = None,
    devices: pl.LazyFrame | None = None,
) -> Windows:
    """
    Energy, power and utilisation in windows of *every_s*, in one pass over *parts* of `analytics.steps.readings`.

    A device must be whole within a part; the parts are of `of_boards` for the same *devices*. *within_ns* is the
    stretch that all parts are of; without it there may be one part only.
    """
    length, grid = round(every_s * _NS), round(min(step_s, every_s) * _NS)
    slots = -(-length // grid)
    chosen = [pl.DataFrame(schema=_CELLS)]
    busy = [pl.DataFrame(schema=_UTILIZATION)]
    swings: dict[Group, dict[str, np.ndarray]] = {group: {} for group in by}
    extremes: dict[Group, list[pl.DataFrame]] = {group: [] for group in by}
    first = 0
    for rows in parts:
        if rows.is_empty():
            continue
        found = ordered(rows)
        of = cells(found, lengths_s=(every_s,), max_gap_s=max_gap_s)
        chosen.append(of.frame.select(_CELLS.names()))
        if within_ns is None:
            within_ns = (int(found.time.min()), int(found.time.max()) + 1)
        first, count = within_ns[0] // length, (within_ns[1] - 1) // length - within_ns[0] // length + 1
        busy.append(_utilization(found, length))
        words, totals = _swings(found, of, length, grid, first, count, finest="device" if "device" in by else "host")
        for group in by:
            for name, number in words.select(group_of(group, hosts).alias("group"), at="at").iter_rows():
                held = swings[group].get(name)
                swings[group][name] = totals[number].copy() if held is None else np.add(held, totals[number], out=held)
            if group == "device":
                extremes[group].append(_extremes(swings[group], slots, first, length))
                swings[group] = {}
    for group in by:
        extremes[group].append(_extremes(swings[group], slots, first, length))
    of_devices = energy_of_cells(pl.concat(chosen).lazy(), every_s, devices).collect()
    return Windows(
        of_devices,
        {
            group: power_of_groups(of_devices, pl.concat(extremes[group]), group_of(group, hosts), every_s)
            for group in by
        },
        mean_utilization(pl.concat(busy).lazy()).collect(),
        Swings(swings["host"], length, slots, first) if "host" in by else None,
    )


def mean_utilization(sums: pl.LazyFrame) -> pl.LazyFrame:
    """The column utilization of `Windows` from sums of readings: device, host, window, sum, n."""
    means = {"utilization_ratio": pl.col("sum").sum() / pl.col("n").sum()}
    return sums.group_by("device", "window").agg(pl.col("host").last(), **means)


def regrouped(found: Windows, *, by: Group, hosts: Mapping[str, str] | None = None) -> pl.DataFrame:
    """
    As `power_over_time`, of windows that `over_time` made of hosts: the same for other groups of them.

    Whoever wants only some of the hosts leaves the others out of *found*: its devices and its swings.
    """
    assert found.swings is not None
    swings, length, slots, first = found.swings
    names = pl.DataFrame({"host": list(swings)}, schema={"host": pl.String()})
    sums: dict[str, np.ndarray] = {}
    for host, name in names.select("host", group=group_of(by, hosts)).iter_rows():
        sums[name] = swings[host] if name not in sums else sums[name] + swings[host]
    return power_of_groups(found.devices, _extremes(sums, slots, first, length), group_of(by, hosts), length / _NS)


def _utilization(found: Ordered, length: int) -> pl.DataFrame:
    """Sum and number of the readings of utilisation of each device, source and window."""
    unread = found.rows["utilization_ratio"].null_count()
    if unread == found.rows.height:
        return pl.DataFrame(schema=_UTILIZATION)
    values, window = found.values("utilization_ratio"), found.time // length
    starts = np.flatnonzero((np.diff(window, prepend=-1) != 0) | found.first)
    last = np.append(starts[1:], window.size) - 1
    there = ~np.isnan(values) if unread else np.ones(window.size, bool)
    sums = {
        "window": (window[starts] * length).astype("datetime64[ns]"),
        "sum": np.add.reduceat(np.where(there, values, 0.0) if unread else values, starts),
        "n": np.add.reduceat(there.astype(np.uint32), starts),
    }
    words = {name: found.rows[name].gather(last) for name in ("device", "host")}
    return pl.DataFrame({**words, **sums}, schema=_UTILIZATION).filter(pl.col("n") > 0)


def _swings(
    found: Ordered, of: Cells, length: int, grid: int, first: int, count: int, *, finest: Group
) -> tuple[pl.DataFrame, np.ndarray]:
    """
    How far the power of each host or device is from the sum of its devices' means, on the grid of all windows.

    Out: device, host and at: the row of the sums (which has a column for each place of the grid) that is theirs.
    """
    slots = -(-length // grid)
    covered_s = pl.col("covered_s").sum().over(_PLACE)
    told = of.frame.with_columns(window=window_start("begin", length / _NS)).select(
        "device",
        pl.col("host").fill_null("unknown"),
        mean=pl.when(covered_s > 0).then(pl.col("energy_j").sum().over(_PLACE) / covered_s),
    )
    words = told.unique(finest, keep="last", maintain_order=True).select("device", "host").with_row_index("at")
    home = told.join(words.select(finest, "at"), on=finest, how="left", maintain_order="left")["at"]
    # What is in none of the cells reads the last of each, which is nothing.
    mean = np.append(told["mean"].fill_null(np.nan).to_numpy(), np.nan)
    row = np.append(home.to_numpy().astype(np.int64) * (count * slots), 0)
    swing = found.values("power_w") - mean[of.of_row]
    window = found.time // length
    place = row[of.of_row] + (window - first) * slots + (found.time - window * length) // grid
    series, read = found.series, ~np.isnan(swing)
    if not read.all():
        swing, place, series = swing[read], place[read], series[read]
    new = (np.diff(place, prepend=-1) != 0) | (np.diff(series, prepend=-1) != 0)
    if not new.all():
        # Several readings of a device at one place of the grid are one: their mean.
        starts = np.flatnonzero(new)
        swing = np.add.reduceat(swing, starts) / np.diff(np.append(starts, place.size))
        place = place[starts]
    total = np.bincount(place, weights=swing, minlength=words.height * count * slots)
    return words, total.reshape(words.height, count * slots)


def _extremes(swings: Mapping[str, np.ndarray], cells: int, first: int, length: int) -> pl.DataFrame:
    """The largest and smallest swing of each group in each window."""
    schema = {"group": pl.String(), "window": pl.Datetime("ns"), "high": pl.Float64(), "low": pl.Float64()}
    if not swings:
        return pl.DataFrame(schema=schema)
    values = np.stack(list(swings.values())).reshape(len(swings), -1, cells)
    count = values.shape[1]
    starts = (np.arange(first, first + count) * length).astype("datetime64[ns]")
    columns = {
        "group": np.repeat(np.array(list(swings), dtype=object), count),
        "window": np.tile(starts, len(swings)),
        "high": values.max(axis=2).ravel(),
        "low": values.min(axis=2).ravel(),
    }
    return pl.DataFrame(columns, schema=schema)


def power_of_groups(devices: pl.DataFrame, extremes: pl.DataFrame, group: pl.Expr, every_s: float) -> pl.DataFrame:
    """
    The columns of `power_over_time`.

    In:  devices: as `energy` by windows of *every_s*; extremes: group, window, high and low: how far the power of the
         group was above and below the sum of its devices' means.
    """
    mean = pl.col("mean")
    return (
        devices.lazy()
        .filter(pl.col("covered_s") > 0)
        .with_columns(group=group, mean=pl.col("power_mean_w"))
        .group_by("group", "window")
        .agg(
            pl.col("mean", "covered_s", "energy_j", "modelled_j").sum(),
            devices=pl.col("device").n_unique(),
        )
        .join(extremes.lazy(), on=["group", "window"], how="left")
        .select(
            "window",
            "group",
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
    samples: pl.LazyFrame,
    *,
    max_gap_s: float | None = None,
    devices: pl.LazyFrame | None = None,
    idle_ratio: float = IDLE_RATIO,
) -> pl.LazyFrame:
    """
    The steps of each device by its best source, for whoever cuts energy at other edges than windows.

    In:  as `energy`.
    Out: device, host, begin, time (the step's end; both Datetime ns), energy_j, covered_s, counter_j, modelled_j,
         error_j (half the interval, by `analytics.intervals.sensor_error`), busy_s (utilisation integrated over time),
         busy_covered_s, and idle_j, idle_s, idle_counter_j, idle_modelled_j, idle_error_j: the same of a step of which
         no more than *idle_ratio* was in use. Sorted by device and time; steps do not overlap, and end at full hours.
    """
    of_rows = partial(_device_steps, max_gap_s=max_gap_s, idle_ratio=idle_ratio, devices=devices)
    return _of_rows(of_rows, samples, devices, DEVICE_STEPS).sort("device", "time")


def _device_steps(
    rows: pl.DataFrame, *, max_gap_s: float | None, idle_ratio: float, devices: pl.LazyFrame | None
) -> pl.DataFrame:
    if rows.is_empty():
        return pl.DataFrame(schema=DEVICE_STEPS)
    found = ordered(rows)
    taken = _steps(found, max_gap_s, busy=True)
    named = dict.fromkeys((*JOULES, *BUSY), np.zeros(found.rows.height)) | taken
    if "mixed_j" not in taken:
        named |= {f"mixed_{name}": named[f"power_{name}"] for name in ("j", "s", "modelled_j")}
    told = found.rows.select("device", "source", "host", "power_method")
    agreement = pl.when(pl.col("both_power_j").sum() > 0).then(
        pl.col("both_counter_j").sum() / pl.col("both_power_j").sum()
    )
    judged = (
        pl.DataFrame({"begin": found.time - found.span, "time": found.time, **named})
        .with_columns(told)
        .with_columns(agreement_ratio=agreement.over("device", "source"))
        .with_columns(trusted=pl.col("agreement_ratio").is_between(*TRUST).fill_null(True))
    )

    def either(by_counter: str, by_power: str) -> pl.Expr:
        return pl.when("trusted").then(by_counter).otherwise(by_power)

    steps = judged.lazy().select(
        *told.columns,
        "agreement_ratio",
        *BUSY,
        pl.col("begin", "time").cast(pl.Datetime("ns")),
        energy_j=either("mixed_j", "power_j"),
        covered_s=either("mixed_s", "power_s"),
        counter_j=pl.when("trusted").then("counter_j").otherwise(0.0),
        modelled_j=either("mixed_modelled_j", "power_modelled_j"),
    )
    idle = (pl.col("busy_covered_s") > 0) & (pl.col("busy_s") / pl.col("busy_covered_s") <= idle_ratio)
    whole = {
        "idle_j": "energy_j",
        "idle_s": "covered_s",
        "idle_counter_j": "counter_j",
        "idle_modelled_j": "modelled_j",
    }
    # Over a gap nothing is shared; that the device was read at its end remains.
    carries = pl.any_horizontal(pl.col(name) > 0 for name in (*AMOUNTS, *BUSY))
    hour = round(HOUR_S * _NS)
    last_hour = ((_ns("time") - 1) // hour * hour).cast(pl.Datetime("ns"))
    cut = (
        split(
            steps.with_columns(begin=pl.when(carries).then("begin").otherwise(pl.max_horizontal("begin", last_hour))),
            HOUR_S,
            (*AMOUNTS, *BUSY),
        )
        .rename({"chunk": "hour"})
        .with_columns(
            begin=pl.max_horizontal("begin", "hour"),
            time=pl.min_horizontal("time", pl.col("hour").dt.offset_by("1h")),
            **{part: pl.when(idle).then(name).otherwise(0.0) for part, name in whole.items()},
        )
        .pipe(with_errors, devices)
        .collect()
    )
    best = best_hours(cut)
    return cut.join(best, on=["device", "source", "hour"], how="semi", nulls_equal=True).select(DEVICE_STEPS.names())


def device_cells(
    rows: pl.DataFrame,
    *,
    edges: pl.DataFrame | None = None,
    lengths_s: Sequence[float] = (),
    max_gap_s: float | None = None,
    idle_ratio: float = IDLE_RATIO,
    devices: pl.LazyFrame | None = None,
    at_gaps: bool = False,
) -> pl.DataFrame:
    """
    As `device_steps`, joined together between edges: of hours, of windows of each of *lengths_s*, and *edges*; with
    *at_gaps* also of stretches without energy.

    In:  rows: of `analytics.steps.readings`, of `of_boards` for the same *devices*; *edges*: device, edge.
    Out: the columns of `device_steps`, and of `analytics.cells.CELLS`.

    Whatever begins and ends on edges (`analytics.efficiency.energy_in`) finds the same in them as in the steps, for a
    hundredth of the work.
    """
    of = cells(
        ordered(rows), lengths_s=lengths_s, edges=edges, max_gap_s=max_gap_s, idle_ratio=idle_ratio, use=True,
        at_gaps=at_gaps,
    )  # fmt: skip
    return with_errors(of.frame.lazy(), devices).collect()


def _of_rows(
    function: Callable[[pl.DataFrame], pl.DataFrame],
    samples: pl.LazyFrame,
    devices: pl.LazyFrame | None,
    schema: pl.Schema,
) -> pl.LazyFrame:
    """What *function* makes of the readings of whole devices: it looks at all of them at once."""
    return readings(of_boards(samples, devices)).map_batches(
        function, schema=schema, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
    )


_PLACE: Final = ("device", "window")
_CELLS: Final = pl.Schema({name: kind for name, kind in CELLS.items() if name not in USE})
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
        **dict.fromkeys((*AMOUNTS, *USE, "error_j", "idle_error_j"), pl.Float64()),
    }
)


# ------------------------------------------------------------------------------------------------------------ steps


def without_partitions(samples: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """The samples of whole devices: a partition's energy is its parent's."""
    if devices is None:
        return samples
    partitions = devices.filter(pl.col("parent").is_not_null()).select("device")
    # Rows come in order, which to find again costs more than all that is done with them.
    return samples.join(partitions, on="device", how="anti", maintain_order="left")


def of_boards(samples: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """The samples of whole devices, with what calibrated boards draw (`analytics.boards.calibrated`)."""
    return calibrated(without_partitions(samples, devices), devices)


def _total(steps: pl.LazyFrame, keys: Sequence[str], *more: pl.Expr) -> pl.LazyFrame:
    covered = pl.col("covered_s").sum()
    joules = pl.when(covered > 0).then(pl.col("energy_j").sum())
    return steps.group_by(keys).agg(joules.alias("energy_j"), covered, *more).sort(keys)


def window_start(column: str, length_s: float) -> pl.Expr:
    """The start of the window that holds *column*; windows are counted from the epoch, in UTC."""
    length = round(length_s * _NS)
    return (_ns(column) // length * length).cast(pl.Datetime("ns"))


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


# ------------------------------------------------------------------------------------------------------------ columns


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
_OUT: Final = (
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
