"""
What a board's sensor shows, and what the board draws: the one place where a calibration enters a figure in joules.

A row of the table `calibrations` says what `analytics.calibration.calibrate` fitted. Frames of devices carry it (see
`with_calibrations`), and whatever turns readings into joules takes those: energy, attribution, efficiency, the ledger,
pages and jobs. A board that nobody calibrated is taken as it shows itself, and is off by the vendors' own 5 %.
"""

from typing import Final

import polars as pl

from analytics.intervals import BOUNDS, METERS, SIGMAS, bounds, measured, sensor_error

COEFFICIENTS: Final = (
    "gain_ratio", "offset_w", "gain_error_ratio", "offset_error_w", "gain_offset_covariance_w", "reference_error_ratio",
)  # fmt: skip
"""What of a calibration enters a figure."""
_FIT: Final = pl.Schema({**dict.fromkeys(COEFFICIENTS, pl.Float64()), "reference": pl.String()})


def latest_fits(calibrations: pl.LazyFrame, *, column: str = "power_w") -> pl.LazyFrame:
    """
    The calibration that holds for each device.

    In:  the table `calibrations`. Out: the same columns, the latest row of each device for *column*.
    """
    of_metric = calibrations.filter(pl.col("metric") == column)
    return of_metric.sort("time").unique("device", keep="last", maintain_order=True)


def with_calibrations(devices: pl.LazyFrame, calibrations: pl.LazyFrame) -> pl.LazyFrame:
    """
    Devices as they were observed, each row with how its board is calibrated.

    In:  device; the table `calibrations`. Out: the columns of *devices*, `COEFFICIENTS` and the reference (the meter),
         null of who is not; a row of its own for who is calibrated and was never observed.
    """
    fits = latest_fits(calibrations).select("device", *_FIT)
    return devices.join(fits, on="device", how="full", coalesce=True, maintain_order="left")


def fits_of(devices: pl.LazyFrame | None) -> pl.DataFrame:
    """The device, `COEFFICIENTS` and reference of those *devices* (of `with_calibrations`, or any) that have them."""
    if devices is None or COEFFICIENTS[0] not in devices.collect_schema().names():
        return pl.DataFrame(schema={"device": pl.String(), **_FIT})
    told = devices.filter(pl.col(COEFFICIENTS[0]).is_not_null()).select("device", *_FIT)
    return told.unique("device", keep="last").collect()


def with_meters(parts: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """
    Parts with the meter that their board was calibrated beside, for whoever adds them up (`analytics.intervals.total`).

    In:  device; *devices* of `with_calibrations`.
    Out: the parts and `METERS`, null where nobody calibrated; without any calibration the parts as they are.
    """
    fits = fits_of(devices)
    if fits.is_empty():
        return parts
    return parts.join(fits.lazy().select("device", *METERS), on="device", how="left", maintain_order="left")


def calibrated(samples: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """
    The samples with the power that calibrated boards draw, not less than 0, in place of what they show.

    In:  device, and what there is of power_w, energy_j, power_method; *devices* of `with_calibrations`.
    Out: the same columns. Calibrated boards are without their counters: their power is what was compared with the
         meter. What is modelled stays as it is, since it comes from no sensor.
    """
    fits, names = fits_of(devices), samples.collect_schema().names()
    if fits.is_empty() or "power_w" not in names:
        return samples
    own = pl.col("gain_ratio").is_not_null()
    if "power_method" in names:
        own = own & pl.col("power_method").ne_missing("modelled")
    drawn = ((pl.col("power_w") - pl.col("offset_w")) / pl.col("gain_ratio")).clip(0.0)
    values = {"power_w": pl.when(own).then(drawn).otherwise("power_w")}
    if "energy_j" in names:
        values["energy_j"] = pl.when(~own).then("energy_j")
    told = fits.lazy().select("device", "gain_ratio", "offset_w")
    return samples.join(told, on="device", how="left", maintain_order="left").with_columns(**values).select(names)


def with_errors(parts: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """
    How sure each part of a board's energy is.

    In:  device, energy_j, covered_s, counter_j, modelled_j, agreement_ratio, and what there is of idle_j, idle_s,
         idle_counter_j, idle_modelled_j: parts of readings as `calibrated` gives them.
    Out: the same with error_j (and idle_error_j): half the interval, which adds up over the parts of a board. Of a
         calibrated board it is that of gain, offset and meter; else `analytics.intervals.sensor_error`.

    Both ends of a board's errors are the same for all of its parts, so their sum over parts is the error of the sum if
    all parts have the mean power of the whole, and more if they have not: an interval is rather too wide than too
    narrow.
    """
    names = [name for name in parts.collect_schema().names() if name not in {"error_j", "idle_error_j"}]
    fits = fits_of(devices)
    plain = {"error_j": sensor_error()}
    if "idle_j" in names:
        plain["idle_error_j"] = sensor_error("idle_j", "idle_counter_j")
    if fits.is_empty():
        return parts.with_columns(**plain)
    # Of what is modelled the error is of no use to anybody: `analytics.intervals.measured` takes it away.
    own = pl.col("gain_ratio").is_not_null()
    of = {"error_j": ("energy_j", "covered_s"), "idle_error_j": ("idle_j", "idle_s")}
    errors = {name: pl.when(own).then(_error(*of[name])).otherwise(value) for name, value in plain.items()}
    joined = parts.join(fits.lazy(), on="device", how="left", maintain_order="left")
    return joined.with_columns(**errors).select(*names, *errors)


def with_bounds(energy: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """
    The energy of whole boards with the intervals of those that are calibrated.

    In:  device, energy_j, its bounds, covered_s, modelled_j. Out: the same; the error is that of the sum, into whatever
         parts it was cut before.
    """
    fits, names = fits_of(devices), energy.collect_schema().names()
    if fits.is_empty():
        return energy
    ends = bounds(pl.col("energy_j"), measured(_error("energy_j", "covered_s"), pl.col("modelled_j")))
    own = pl.col("gain_ratio").is_not_null()
    kept = [pl.when(own).then(end).otherwise(name).alias(name) for name, end in zip(BOUNDS, ends, strict=True)]
    joined = energy.join(fits.lazy(), on="device", how="left", maintain_order="left")
    return joined.with_columns(kept).select(names)


def _error(energy_j: str, covered_s: str) -> pl.Expr:
    """Half the interval of the energy of a calibrated board."""
    joules, seconds, gain = pl.col(energy_j), pl.col(covered_s), pl.col("gain_ratio")
    return half_interval(joules, variance(joules, seconds) / gain**2)


def variance(joules: pl.Expr, covered_s: pl.Expr) -> pl.Expr:
    """The variance of what a sensor with `COEFFICIENTS` shows of *joules*, by its gain and offset (J²)."""
    return (
        joules**2 * pl.col("gain_error_ratio") ** 2
        + covered_s**2 * pl.col("offset_error_w") ** 2
        + 2 * joules * covered_s * pl.col("gain_offset_covariance_w")
    ).clip(0.0)


def half_interval(joules: pl.Expr, variance_j2: pl.Expr) -> pl.Expr:
    """Half the interval of *joules* with a variance, and with the error of the meter."""
    return (SIGMAS**2 * variance_j2 + (pl.col("reference_error_ratio") * joules) ** 2).sqrt()
