"""
A board's own gain and offset against a reference meter, and how sure a figure in joules is with them or without.

A sensor shows ``gain x true power + offset``, each board its own: 0.87 to 1.06 and -24 to +16 W have been measured on
boards of the same model. Without a calibration a figure is good to the vendors' own 5 %.
"""

from typing import Final

import numpy as np
import polars as pl

from analytics.boards import COEFFICIENTS, half_interval, variance
from analytics.energy import energy as energy_of
from analytics.energy import seconds
from analytics.intervals import bounds
from analytics.sensors import BLOCKS, Floats, Response, arrays, line, response, update_period
from collector.errors import NotEnoughData
from collector.gaps import GAP_PERIODS, GAP_S, LONGEST_GAP_S

METER_RATIO: Final = 0.01
"""The accuracy of a reference whose accuracy is not told."""
MIN_SPAN: Final = 0.2
"""The load must vary by this share of its maximum, or a gain and an offset cannot be told apart."""
MIN_EXPLAINED: Final = 0.8
STEADY_RATIO: Final = 0.1
"""A utilisation that wavers by less (standard deviation) is the same throughout."""
CLOCK_S: Final = 0.005
"""How far the moment of an update is off: half a reading period of fast readings, and the meter's own step."""

_NS: Final = 1_000_000_000

FIT: Final = pl.Schema(
    {
        "device": pl.String(),
        "metric": pl.String(),
        "time": pl.Datetime("ns"),
        "source": pl.String(),
        "reference": pl.String(),
        "start": pl.Datetime("ns"),
        "end": pl.Datetime("ns"),
        "gain_ratio": pl.Float64(),
        "offset_w": pl.Float64(),
        "gain_error_ratio": pl.Float64(),
        "offset_error_w": pl.Float64(),
        "gain_offset_covariance_w": pl.Float64(),
        "readings": pl.Int64(),
        "residual_w": pl.Float64(),
        "explained_ratio": pl.Float64(),
        "reference_error_ratio": pl.Float64(),
        "update_period_s": pl.Float64(),
        "window_s": pl.Float64(),
        "window_error_s": pl.Float64(),
        "lag_s": pl.Float64(),
    }
)
"""A row of the table `calibrations`."""


def calibrate(
    samples: pl.LazyFrame,
    meter: pl.LazyFrame,
    *,
    column: str = "power_w",
    meter_column: str = "meter_power_w",
    search_s: float = 1.0,
    reference_error_ratio: float = METER_RATIO,
) -> pl.DataFrame:
    """
    Fit the gain and offset of one board's sensor beside a reference meter.

    In:  samples: device, source, time, *column*, of one device and source; meter: meter, time, *meter_column*, of one
         meter, which reads faster than the sensor averages. Any row order. *reference_error_ratio* is the meter's own
         accuracy; clocks may differ by up to *search_s*.
    Out: one row of the table `calibrations`: `FIT`; `time` is when the recording ended.

    Each reading is compared with the meter's mean over the sensor's own window, so a sensor that sees a quarter of the
    time is not judged by what it cannot see. Raises: NotEnoughData.
    """
    rows = samples.select("device", "source", "time", column).collect()
    reference = meter.select("meter", "time", meter_column).collect()
    device, source, name = (
        _only(frame, key) for frame, key in ((rows, "device"), (rows, "source"), (reference, "meter"))
    )
    time_s, watts, origin = arrays(rows, column)
    meter_s, meter_w, _ = arrays(reference, meter_column, origin)
    if len(meter_s) < 100 or len(time_s) < 30:
        raise NotEnoughData(
            f"{len(time_s)} readings of {device} and {len(meter_s)} of {name}; 30 and 100 are needed for a calibration"
        )
    begin, end = max(time_s[0], meter_s[0] - search_s), min(time_s[-1], meter_s[-1] + search_s)
    near = (time_s >= begin) & (time_s <= end)
    found = response(time_s[near], watts[near], meter_s, meter_w, search_s=search_s) if near.any() else None
    if found is None:
        raise NotEnoughData(
            f"{device} and {name} were not measured at the same time long enough: "
            f"30 updates are needed, with clocks no further apart than {search_s:g} s"
        )
    _usable(found, device, name, search_s)
    gain, offset, covariance, residual = _fit(found)
    start_ns, end_ns = (origin + round(float(found.time_s[at]) * _NS) for at in (0, -1))
    row = {
        "device": device,
        "metric": column,
        "time": end_ns,
        "source": source,
        "reference": name,
        "start": start_ns,
        "end": end_ns,
        "gain_ratio": gain,
        "offset_w": offset,
        "gain_error_ratio": float(np.sqrt(covariance[0, 0])),
        "offset_error_w": float(np.sqrt(covariance[1, 1])),
        "gain_offset_covariance_w": float(covariance[0, 1]),
        "readings": len(found.watts),
        "residual_w": residual,
        "explained_ratio": found.explained_ratio,
        "reference_error_ratio": reference_error_ratio,
        "update_period_s": update_period(time_s, watts).update_period_s,
        "window_s": found.window.window_s,
        "window_error_s": found.window.standard_error_s,
        "lag_s": found.window.lag_s,
    }
    return pl.DataFrame({key: [value] for key, value in row.items()}, schema=FIT)


def _only(frame: pl.DataFrame, key: str) -> str:
    names = frame[key].drop_nulls().unique().sort().to_list()
    if len(names) == 1:
        return str(names[0])
    if not names:
        raise NotEnoughData(f"no {key} was measured in this window")
    raise NotEnoughData(f"several of {key}: {', '.join(names[:5])}; a calibration is of one")


def _usable(found: Response, device: str, name: str, search_s: float) -> None:
    low, high = np.quantile(found.reference_w, [0.05, 0.95])
    if high - low < MIN_SPAN * high:
        raise NotEnoughData(
            f"{name} was between {low:.1f} and {high:.1f} W: the load must vary by {MIN_SPAN:.0%} of its maximum, or a "
            "gain and an offset cannot be told apart"
        )
    if found.explained_ratio < MIN_EXPLAINED:
        raise NotEnoughData(
            f"{name} explains {found.explained_ratio:.0%} of what {device} shows; {MIN_EXPLAINED:.0%} is needed: it "
            f"measures something else, or the clocks are more than {search_s:g} s apart"
        )


def _fit(found: Response) -> tuple[float, float, Floats, float]:
    """Gain, offset, their covariance (by the jackknife over stretches of the recording), and the residual (W)."""
    weight = _weights(found)
    x, y = found.reference_w, found.watts
    gain, offset = line(x, y, weight)
    block = np.arange(len(x)) * BLOCKS // len(x)
    without = np.array([line(x[block != left], y[block != left], weight[block != left]) for left in range(BLOCKS)])
    away = without - without.mean(axis=0)
    covariance: Floats = (BLOCKS - 1) / BLOCKS * away.T @ away
    residual = float(np.sqrt(np.average((y - gain * x - offset) ** 2, weights=weight)))
    return gain, offset, covariance, residual


def _weights(found: Response) -> Floats:
    """
    How much each reading says of the board: near an edge of the load a clock that is off by milliseconds decides.

    Unweighted, such readings lie between the levels whatever the reference shows, and the gain comes out too low.
    """
    noise = 1.0
    weight = np.ones_like(found.watts)
    for _ in range(8):
        gain, offset = line(found.reference_w, found.watts, weight)
        rest = np.abs(found.watts - gain * found.reference_w - offset)
        clock = gain * found.shift_w_per_s * CLOCK_S
        quiet = np.abs(clock) <= np.median(np.abs(clock))
        noise = max(0.1, 1.4826 * float(np.median(rest[quiet])))
        allowed = np.sqrt(noise**2 + clock**2)
        # Beyond three times what noise and clocks allow, a reading counts less the further it is off (Huber).
        weight = np.minimum(1.0, 3 * allowed / np.maximum(rest, 1e-9)) / allowed**2
    return weight


# -------------------------------------------------------------------------------------------------------------- figures


def by_power(samples: pl.LazyFrame, fits: pl.LazyFrame) -> pl.LazyFrame:
    """
    The samples without the energy counters of calibrated devices: their power is what was compared with the meter.

    In:  device, and what there is of energy_j; fits: of `analytics.boards.latest_fits`. Out: the same columns.
    """
    if "energy_j" not in samples.collect_schema().names():
        return samples
    known = fits.select("device", __calibrated=pl.lit(True))
    return (
        samples.join(known, on="device", how="left")
        .with_columns(energy_j=pl.when(pl.col("__calibrated").is_null()).then("energy_j"))
        .drop("__calibrated")
    )


def calibrated_energy(
    samples: pl.LazyFrame,
    fits: pl.LazyFrame,
    *,
    by: str | None = None,
    max_gap_s: float | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Energy of each device with its interval, corrected where the board is calibrated.

    In:  as `analytics.energy.energy`; fits: of `analytics.boards.latest_fits`. Out: as `with_interval`.
    """
    # As the sensors show it: `with_interval` corrects it, by more than gain and offset.
    shown = None if devices is None else devices.drop(COEFFICIENTS, strict=False)
    found = energy_of(by_power(samples, fits), by=by, max_gap_s=max_gap_s, devices=shown)
    window_s = None if by is None else seconds(by)
    return with_interval(found, fits, samples, window_s=window_s, max_gap_s=max_gap_s)


def with_interval(
    energy: pl.LazyFrame,
    fits: pl.LazyFrame,
    samples: pl.LazyFrame,
    *,
    window_s: float | None = None,
    max_gap_s: float | None = None,
) -> pl.LazyFrame:
    """
    Energy corrected by each board's calibration, with the interval that holds it in 95 of 100 cases.

    In:  energy: device, source, energy_j and its interval, covered_s, modelled_j, and window where it is by windows of
         *window_s*, as `analytics.energy.energy` gives it of `by_power`; fits: as `analytics.boards.latest_fits` gives
         them; samples: what the energy is of.
    Out: the columns of energy, where energy_j, its interval and the powers are corrected for calibrated devices, then
         energy_raw_j (as the sensor had it), calibrated, and beats_j (the part of the correction that is for beats;
         null without).

    Without a calibration the interval stays as it is. With one it holds the uncertainty of gain and offset, of the
    meter, and of what the sensor did not see: where a load jumps between two updates, and where a device is partly busy
    and its sensor, which sees part of the time, shows slow swings that can be beats with the load's own period. Where
    the utilisation stays the same through the swings they are beats, and the mean over whole ones is taken; windows
    shorter than that are not corrected, so their sum may differ from the whole, within the interval.
    """
    place = ["device", "source"] if window_s is None else ["device", "source", "window"]
    names = energy.collect_schema().names()
    unseen = _unseen(samples, fits, window_s=window_s, max_gap_s=max_gap_s)
    raw, covered, gain = pl.col("energy_raw_j"), pl.col("covered_s"), pl.col("gain_ratio")
    own, joules = pl.col("calibrated"), pl.col("energy_j")
    modelled = (pl.col("modelled_j") > 0).fill_null(False)
    half = half_interval(joules, (variance(joules, covered) + pl.col("jumps_j").fill_null(0.0) ** 2) / gain**2)
    wide = (
        pl.when(own)
        # Once with the mean over whole swings, the interval holds what the sum would be without, too.
        .then(half + pl.coalesce(pl.col("beats_j").abs(), "beats_most_j", pl.lit(0.0)) / gain)
        .otherwise(pl.col("energy_high_j") - raw)
    )
    seen = raw + pl.col("beats_j").fill_null(0.0)
    corrected = pl.when(own).then((seen - pl.col("offset_w") * covered) / gain).otherwise(raw)
    return (
        energy.join(fits.select("device", *COEFFICIENTS), on="device", how="left")
        .join(unseen, on=place, how="left", nulls_equal=True)
        .with_columns(energy_raw_j=joules, calibrated=gain.is_not_null() & ~modelled)
        .with_columns(energy_j=pl.max_horizontal(pl.when(raw.is_not_null()).then(0.0), corrected))
        .with_columns(
            pl.when(own).then(joules / covered).otherwise("power_mean_w").alias("power_mean_w"),
            *(
                pl.when(own).then((pl.col(name) - pl.col("offset_w")) / gain).otherwise(name).alias(name)
                for name in ("power_min_w", "power_max_w")
                if name in names
            ),
        )
        .with_columns(bounds(joules, wide))
        .select(*names, "energy_raw_j", "calibrated", "beats_j")
        .sort([name for name in ("device", "window") if name in names])
    )


def _between(edges: pl.Expr) -> pl.Expr:
    """Mean power from the first to the last of *edges*: over whole swings; null with fewer than two."""
    joules, covered = (pl.col(name).filter(edges) for name in ("joules", "seconds"))
    return pl.when(edges.sum() >= 2).then((joules.last() - joules.first()) / (covered.last() - covered.first()))


def _unseen(
    samples: pl.LazyFrame, fits: pl.LazyFrame, *, window_s: float | None, max_gap_s: float | None
) -> pl.LazyFrame:
    """
    What the sensor cannot have seen, of calibrated devices.

    Out: device, source, window (with *window_s*), jumps_j (standard error: a jump is anywhere between two updates),
         beats_most_j (how far slow swings that may be beats can put the sum off at most, by how many of them there
         were), beats_j (what the sum would gain by the mean over whole swings; null where they are no beats).
    """
    known = samples.collect_schema().names()
    busy = pl.col("utilization_ratio") if "utilization_ratio" in known else pl.lit(None, pl.Float64)
    place = ["device", "source"]
    keep = pl.col("time").cast(pl.Datetime("ns")).alias("time")
    rows = (
        samples.filter(pl.col("power_w").is_not_null())
        .select(*place, keep, "power_w", busy=busy)
        .join(fits.select("device", "update_period_s", period="window_s"), on="device", how="inner")
        .sort(*place, "time")
    )
    if window_s is not None:
        length = round(window_s * _NS)
        rows = rows.with_columns(window=(pl.col("time").to_physical() // length * length).cast(pl.Datetime("ns")))
        place = [*place, "window"]
    span = pl.col("time").diff().over("device", "source").dt.total_nanoseconds() / _NS
    usual = (GAP_PERIODS * pl.col("span").median().over("device", "source")).clip(GAP_S, LONGEST_GAP_S)
    gap = usual if max_gap_s is None else pl.lit(max_gap_s)
    rows = rows.with_columns(span=span)
    update = pl.max_horizontal("update_period_s", "span")
    # A sensor whose window is not known may well see only part of the time.
    part_time = (pl.col("period") < 0.9 * update).fill_null(True) & pl.col("busy").is_between(0.05, 0.95)
    jumps = rows.with_columns(
        jump=pl.col("power_w").diff().over("device", "source"),
        step_j=(pl.col("power_w") + pl.col("power_w").shift(1).over("device", "source")) / 2 * pl.col("span"),
    ).filter(pl.col("span") <= gap)
    off, earlier = pl.col("off"), pl.col("off").shift(1)
    ups, downs = (off > 0) & (earlier <= 0), (off <= 0) & (earlier > 0)
    beats = (
        jumps.filter(part_time)
        .with_columns(
            off=pl.col("power_w") - pl.col("power_w").mean().over(place),
            joules=pl.col("step_j").cum_sum().over(place),
            seconds=pl.col("span").cum_sum().over(place),
        )
        .group_by(place, maintain_order=True)
        .agg(
            swing=pl.col("power_w").std(ddof=0),
            swings=pl.max_horizontal(pl.lit(1.0), (ups | downs).sum() / 2),
            stretch=pl.col("span").sum(),
            total=pl.col("step_j").sum(),
            wavering=pl.col("busy").std(ddof=0),
            whole_w=pl.mean_horizontal(*(_between(edges) for edges in (ups, downs))),
        )
        .with_columns(
            # Work that really came and went this slowly would show in the utilisation.
            whole=(pl.col("wavering") <= STEADY_RATIO) & (pl.col("swing") * pl.col("stretch") > 0.1 * pl.col("total")),
        )
        .select(
            *place,
            beats_j=pl.when("whole").then(pl.col("whole_w") * pl.col("stretch") - pl.col("total")),
            # The mean over some whole swings and a part is off by no more than an amplitude over pi times their number.
            beats_most_j=pl.col("swing") * float(np.sqrt(2) / np.pi) / pl.col("swings") * pl.col("stretch"),
        )
    )
    return (
        jumps.group_by(place)
        .agg(jumps_j=((pl.col("jump") * update) ** 2 / 12).sum().sqrt())
        .join(beats, on=place, how="left", nulls_equal=True)
    )
