"""
Which numbers not to trust: for each device what its readings lack, and a verdict with its reasons.

A figure is as good as what it was read from: how much of the time is covered, whether counter and power tell the same,
what the sensor sees, whether somebody calibrated it, and what happened on the way (gaps, clock jumps, repeated rows).
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import polars as pl

from analytics.boards import latest_fits
from analytics.energy import energy
from analytics.sensors import SENSORS, sensors
from analytics.steps import Ordered, nanoseconds, ordered
from collector.catalogue import POWER, UTILIZATION
from collector.gaps import GAP_PERIODS, GAP_S, LONGEST_GAP_S

COVERED: Final = (0.5, 0.95)
"""Below the first share of the time a figure is poor, below the second fair."""
AGREES: Final = (0.9, 1.1)
"""Counter over integrated power; the agent's own check has the same bounds."""
CALIBRATED_S: Final = 400 * 86_400.0
"""A calibration is of its year: sensors age, and drivers change what they show."""
LATE_PERIODS: Final = 1.5
"""A reading that comes after so many of its device's own periods is late."""
FEW: Final = 0.01
"""Up to this share of the readings may come late or twice."""
GONE_S: Final = 3600.0
"""A device that was not read for so long before the end of the window is gone, not late."""
SEEN: Final = 0.9
"""A sensor that sees less of the time than this misses short loads."""
PROBED: Final = 5000
"""The readings of a device, back from its last one, that its sensor is judged by."""
STILL: Final = (30, 0.1)
"""Power that stayed the same for so many readings while utilisation moved by more than this is no reading."""

_NS: Final = 1_000_000_000
_LOST: Final = ("source_lost", "device_gone")
_BACK: Final = ("source_back", "device_back", "device_appeared")
EVENTS: Final = (*_LOST, *_BACK, "clock_jump")
"""The kinds of events that tell why there was no reading."""
QUALITY: Final = pl.Schema(
    {
        **dict.fromkeys(("device", "verdict", "reason", "host", "source"), pl.String()),
        "readings": pl.Int64(),
        **dict.fromkeys(("first_reading", "last_reading"), pl.Datetime("ns")),
        **dict.fromkeys(("age_s", "period_s", "covered_s", "covered_ratio"), pl.Float64()),
        "gaps": pl.Int64(),
        **dict.fromkeys(("gap_s", "longest_gap_s"), pl.Float64()),
        **dict.fromkeys(("gap_reasons", "power_method"), pl.String()),
        **dict.fromkeys(("modelled_ratio", "agreement_ratio"), pl.Float64()),
        "stuck": pl.Boolean(),
        **dict.fromkeys(("late", "duplicates", "clock_jumps"), pl.Int64()),
        "calibrated": pl.Boolean(),
        "calibration_age_s": pl.Float64(),
        **dict.fromkeys(("update_period_s", "sensor_window_s", "sensor_seen_ratio"), pl.Float64()),
        "sensor_reason": pl.String(),
    }
)


def quality(
    parts: Iterable[pl.DataFrame],
    *,
    devices: pl.LazyFrame | None = None,
    events: pl.LazyFrame | None = None,
    calibrations: pl.LazyFrame | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    max_gap_s: float | None = None,
) -> pl.DataFrame:
    """
    What the readings of each device are worth.

    In:  *parts* of `analytics.steps.readings`, each with every row of its devices (see `analytics.frames.by_device`),
         without partitions; *devices*: device, parent, host, time; *events*: host, kind, device, code, source, time,
         from before the window on, since a device may have been lost then; *calibrations*: the table of that name.
         *start_ns*, *end_ns*: the window that was asked for; not given, from each device's first sign of life to the
         last reading of any.
    Out: device, verdict (``good``, ``fair``, ``poor``), reason (all of them, the gravest first; null where good), host,
         source (the one that energy was taken from last), readings, first_reading, last_reading, age_s (of the last
         reading, at the end of the window), period_s (the usual time between readings), covered_s (with energy),
         covered_ratio (of the window, from the device's first sign of life on), gaps, gap_s, longest_gap_s (stretches
         without a reading: between two, before the first and after the last), gap_reasons (``timeout 340 s, unknown
         30 s``: what events tell of them, the longest first), power_method, modelled_ratio, agreement_ratio (counter
         over integrated power), stuck (power stood still while utilisation moved), late (readings that came after one
         and a half periods or more and were no gap), duplicates (rows with the time of another), clock_jumps (of the
         host), calibrated, calibration_age_s (at the end of the window), update_period_s, sensor_window_s (of the power
         sensor, by `analytics.sensors`; null where its readings do not tell: sensor_reason says why), sensor_seen_ratio
         (the share of the time that the sensor sees). By verdict, the poorest first, and device. A device that
         described itself and was not read has a row, too.
    """
    found = [_Part.of(rows, max_gap_s) for rows in parts if not rows.is_empty()]
    seen = pl.concat([_Part.nothing(), *(part.devices for part in found)])
    if end_ns is None:
        last = seen["last_reading"].to_physical().max()
        end_ns = int(last) if isinstance(last, int) else 0
    every = _described(devices, end_ns).join(seen, on="device", how="full", coalesce=True)
    begin = pl.min_horizontal(nanoseconds("first_reading"), nanoseconds("described"))
    if start_ns is not None:
        begin = pl.max_horizontal(pl.lit(start_ns), begin)
    every = every.with_columns(
        host=pl.coalesce("host", "told_host"),
        readings=pl.col("readings").fill_null(0),
        limit_s=pl.col("limit_s").fill_null(max_gap_s or GAP_S),
        begin_ns=begin.clip(upper_bound=end_ns),
        end_ns=pl.lit(end_ns, pl.Int64),
    )
    gaps = pl.concat([_Part.no_gaps(), *(part.gaps for part in found), *_outer_gaps(every)])
    told = _summed(_with_reasons(gaps.filter(pl.col("begin") >= (start_ns or -(2**62))), every, events))
    whole_s = (pl.col("end_ns") - pl.col("begin_ns")) / _NS
    return (
        every.join(told, on="device", how="left")
        .join(_calibrated(calibrations, end_ns), on="device", how="left")
        .join(_jumps(events, start_ns, end_ns), on="host", how="left")
        .with_columns(
            pl.col("covered_s", "gap_s").fill_null(0.0),
            pl.col("gaps", "late", "duplicates", "clock_jumps").fill_null(0),
            age_s=(pl.col("end_ns") - nanoseconds("last_reading")) / _NS,
            calibrated=pl.col("calibration_age_s").is_not_null(),
            sensor_seen_ratio=(pl.col("sensor_window_s") / pl.col("update_period_s")).clip(upper_bound=1.0),
        )
        .with_columns(covered_ratio=pl.when(whole_s > 0).then(pl.col("covered_s") / whole_s).clip(upper_bound=1.0))
        .with_columns(**_verdict())
        .select(pl.col(name).cast(kind) for name, kind in QUALITY.items())
        .sort(pl.col("verdict").replace_strict({"poor": 0, "fair": 1, "good": 2}, return_dtype=pl.Int8), "device")
    )


# ------------------------------------------------------------------------------------------------------------ a part

_SEEN: Final = pl.Schema(
    {
        **dict.fromkeys(("device", "host", "source"), pl.String()),
        "readings": pl.Int64(),
        **dict.fromkeys(("first_reading", "last_reading"), pl.Datetime("ns")),
        **dict.fromkeys(("period_s", "limit_s"), pl.Float64()),
        **dict.fromkeys(("late", "duplicates"), pl.Int64()),
        "covered_s": pl.Float64(),
        "power_method": pl.String(),
        **dict.fromkeys(("modelled_ratio", "agreement_ratio"), pl.Float64()),
        "stuck": pl.Boolean(),
        **dict.fromkeys(("update_period_s", "sensor_window_s"), pl.Float64()),
        "sensor_reason": pl.String(),
    }
)
_GAPS: Final = pl.Schema(
    {**dict.fromkeys(("device", "source"), pl.String()), **dict.fromkeys(("begin", "end"), pl.Int64())}
)


class _Part:
    """What the readings of some devices tell of themselves."""

    def __init__(self, devices: pl.DataFrame, gaps: pl.DataFrame) -> None:
        self.devices = devices
        self.gaps = gaps

    @staticmethod
    def nothing() -> pl.DataFrame:
        return pl.DataFrame(schema=_SEEN)

    @staticmethod
    def no_gaps() -> pl.DataFrame:
        return pl.DataFrame(schema=_GAPS)

    @staticmethod
    def of(rows: pl.DataFrame, max_gap_s: float | None) -> "_Part":
        found = ordered(rows)
        used = energy(rows.lazy(), max_gap_s=max_gap_s).collect()
        series = found.rows.group_by("device", "source").agg(
            still=_still(), power=pl.col(POWER.column).count()
        )  # fmt: skip
        of_source = (
            used.select("device", "host", "source", "covered_s", "power_method", "modelled_ratio", "agreement_ratio")
            .join(series, on=["device", "source"], how="left", nulls_equal=True)
            .join(_sensed(found, used), on=["device", "source"], how="left", nulls_equal=True)
        )
        times, gaps = _intervals(found, max_gap_s)
        counted = rows.group_by("device").agg(rows=pl.len().cast(pl.Int64))
        kept = found.rows.group_by("device").agg(kept=pl.len().cast(pl.Int64))
        devices = (
            times.join(of_source, on="device", how="left")
            .join(counted.join(kept, on="device"), on="device")
            .with_columns(duplicates=pl.col("rows") - pl.col("kept"), stuck=pl.col("still"))
            .select(pl.col(name).cast(kind) for name, kind in _SEEN.items())
        )
        named = gaps.join(used.select("device", "source"), on="device", how="left")
        return _Part(devices, named.select(pl.col(name).cast(kind) for name, kind in _GAPS.items()))


def _still() -> pl.Expr:
    """Whether power stood still while utilisation moved."""
    power, busy = pl.col(POWER.column), pl.col(UTILIZATION.column)
    readings, moved = STILL
    still = (power.count() >= readings) & (power.min() == power.max())
    return (still & (busy.max() - busy.min() > moved)).fill_null(False)


def _sensed(found: Ordered, used: pl.DataFrame) -> pl.DataFrame:
    """The update period and window of each device's power sensor, by its last readings of the source in use."""
    power = found.rows.select("device", "source", "time", POWER.column).filter(pl.col(POWER.column).is_not_null())
    last = power.join(used.select("device", "source"), on=["device", "source"], how="semi", nulls_equal=True)
    last = last.group_by("device", "source", maintain_order=True).tail(PROBED)
    told = sensors(last.lazy(), column=POWER.column).collect() if last.height else pl.DataFrame(schema=SENSORS)
    return told.select("device", "source", "update_period_s", sensor_window_s="window_s", sensor_reason="reason")


def _intervals(found: Ordered, max_gap_s: float | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """How often each device was read, by whichever source, and when it was not: (a row each, its gaps)."""
    heads = found.heads["device"]
    several = heads.n_unique() < heads.len()
    of_series = heads.rank("dense").to_numpy().astype(np.int64) if several else np.arange(heads.len())
    number, time = of_series[found.series], found.time
    if several:
        # A device of several sources was read whenever one of them read it.
        order = np.lexsort((time, number))
        number, time = number[order], time[order]
        again = np.append(False, (np.diff(number) == 0) & (np.diff(time) == 0))
        number, time = number[~again], time[~again]
    names = pl.DataFrame({"number": of_series, "device": heads}).unique("number")
    spans = pl.DataFrame({"number": pl.Series(number).set_sorted(), "time": time}).with_columns(
        span=pl.when(pl.col("number") == pl.col("number").shift(1)).then(pl.col("time").diff())
    )
    period = pl.col("span").median() / _NS
    own = pl.when(pl.col("span").count() >= 3).then((GAP_PERIODS * period).clip(GAP_S, LONGEST_GAP_S)).otherwise(GAP_S)
    devices = spans.group_by("number").agg(
        readings=pl.len().cast(pl.Int64),
        first_reading=pl.col("time").first().cast(pl.Datetime("ns")),
        last_reading=pl.col("time").last().cast(pl.Datetime("ns")),
        period_s=period,
        limit_s=own if max_gap_s is None else pl.lit(max_gap_s),
    )
    devices = devices.join(names, on="number")
    spans = spans.join(devices.select("number", "period_s", "limit_s"), on="number", how="left")
    apart_s = pl.col("span") / _NS
    late = spans.filter((apart_s >= LATE_PERIODS * pl.col("period_s")) & (apart_s <= pl.col("limit_s")))
    gaps = spans.filter(apart_s > pl.col("limit_s")).join(names, on="number")
    gaps = gaps.select("device", begin=pl.col("time") - pl.col("span"), end="time")
    counts = late.group_by("number").agg(late=pl.len().cast(pl.Int64))
    return devices.join(counts, on="number", how="left").with_columns(pl.col("late").fill_null(0)), gaps


# --------------------------------------------------------------------------------------------------------- the window


def _described(devices: pl.LazyFrame | None, end_ns: int) -> pl.DataFrame:
    """The whole devices that described themselves before the end, and when first."""
    if devices is None:
        return pl.DataFrame(schema={"device": pl.String(), "told_host": pl.String(), "described": pl.Datetime("ns")})
    return (
        devices.with_columns(pl.col("time").cast(pl.Datetime("ns")))
        .filter(nanoseconds("time") < end_ns)
        .sort("time")
        .group_by("device")
        .agg(pl.col("parent").last(), told_host=pl.col("host").drop_nulls().last(), described=pl.col("time").min())
        .filter(pl.col("parent").is_null())
        .drop("parent")
        .collect()
    )


def _outer_gaps(every: pl.DataFrame) -> list[pl.DataFrame]:
    """What is missing before the first reading of a device and after its last."""
    first, last = nanoseconds("first_reading"), nanoseconds("last_reading")
    ends = [(pl.col("begin_ns"), first.fill_null(pl.col("end_ns"))), (last, pl.col("end_ns"))]
    gaps = [every.select("device", "source", "limit_s", begin=begin, end=end) for begin, end in ends]
    apart_s = (pl.col("end") - pl.col("begin")) / _NS
    return [some.filter(apart_s > pl.col("limit_s")).drop("limit_s") for some in gaps]


def _with_reasons(gaps: pl.DataFrame, every: pl.DataFrame, events: pl.LazyFrame | None) -> pl.DataFrame:
    """Gaps with what events tell of them: of the device itself, of its source, or of its host's clock."""
    known = every.select("device", "host", first=nanoseconds("first_reading"))
    gaps = gaps.join(known, on="device", how="left").sort("begin")
    if events is None or gaps.is_empty():
        return gaps.with_columns(reason=pl.lit("unknown"))
    told = (
        events.filter(pl.col("kind").is_in(EVENTS))
        .select(
            "device", "source", "host", "kind",
            at=pl.col("time").cast(pl.Datetime("ns")).to_physical(),
            reason=pl.when(pl.col("kind") == "source_lost").then(pl.coalesce("code", "kind")).otherwise("kind"),
        )
        .sort("at")
        .collect()
    )  # fmt: skip
    if told.is_empty():
        return gaps.with_columns(reason=pl.lit("unknown"))
    lost, jumps = pl.col("kind").is_in(_LOST), pl.col("kind") == "clock_jump"
    for number, (key, of_key) in enumerate(
        (("device", pl.col("device").is_not_null()), ("source", pl.col("device").is_null()), ("host", jumps))
    ):
        some = told.filter(of_key & pl.col(key).is_not_null())
        inside, before = f"inside{number}", f"before{number}"
        within = some.filter(lost | jumps).select(key, at="at", **{inside: pl.col("reason")})
        gaps = gaps.join_asof(
            within, left_on="begin", right_on="at", by=key, strategy="forward", check_sortedness=False, coalesce=False
        ).with_columns(pl.when(pl.col("at") <= pl.col("end")).then(inside).alias(inside)).drop("at")  # fmt: skip
        # What was lost before it was read at all, and was not back when the gap began.
        state = some.filter(~jumps).select(
            key, at="at", **{before: pl.when(lost).then("reason").otherwise(pl.lit(None, pl.String))}
        )
        unread = (pl.col("begin") < pl.col("first")) | pl.col("first").is_null()
        gaps = gaps.join_asof(
            state, left_on="begin", right_on="at", by=key, strategy="backward", check_sortedness=False, coalesce=False
        ).with_columns(pl.when(unread).then(before).alias(before)).drop("at")  # fmt: skip
    reasons = [f"{when}{number}" for when in ("inside", "before") for number in range(3)]
    return gaps.with_columns(reason=pl.coalesce(*reasons, pl.lit("unknown"))).drop(*reasons, "first")


def _summed(gaps: pl.DataFrame) -> pl.DataFrame:
    """The gaps of each device: how many, how long, and why."""
    seconds = (pl.col("end") - pl.col("begin")) / _NS
    by_reason = gaps.group_by("device", "reason").agg(
        n=pl.len().cast(pl.Int64), sum_s=seconds.sum(), longest_s=seconds.max()
    )
    by_reason = by_reason.sort("device", "sum_s", "reason", descending=[False, True, False])
    text = pl.format("{} {} s", "reason", pl.col("sum_s").round(0).cast(pl.Int64))
    return by_reason.group_by("device").agg(
        gaps=pl.col("n").sum(),
        gap_s=pl.col("sum_s").sum(),
        longest_gap_s=pl.col("longest_s").max(),
        gap_reasons=text.str.join(", "),
    )


def _calibrated(calibrations: pl.LazyFrame | None, end_ns: int) -> pl.DataFrame:
    if calibrations is None:
        return pl.DataFrame(schema={"device": pl.String(), "calibration_age_s": pl.Float64()})
    age_s = (end_ns - pl.col("time").cast(pl.Datetime("ns")).to_physical()) / _NS
    return latest_fits(calibrations).select("device", calibration_age_s=age_s).collect()


def _jumps(events: pl.LazyFrame | None, start_ns: int | None, end_ns: int) -> pl.DataFrame:
    if events is None:
        return pl.DataFrame(schema={"host": pl.String(), "clock_jumps": pl.Int64()})
    at = pl.col("time").cast(pl.Datetime("ns")).to_physical()
    jumps = events.filter((pl.col("kind") == "clock_jump") & (at < end_ns) & (at >= (start_ns or -(2**62))))
    return jumps.group_by("host").agg(clock_jumps=pl.len().cast(pl.Int64)).collect()


# --------------------------------------------------------------------------------------------------------- the verdict


def _verdict() -> dict[str, pl.Expr]:
    """The columns verdict and reason."""
    covered, agrees, age_s = pl.col("covered_ratio"), pl.col("agreement_ratio"), pl.col("age_s")
    percent = (covered * 100).round(1)
    some = pl.format("{}% of the time is covered", percent)
    gaps = pl.when(pl.col("gap_reasons").is_not_null()).then(pl.format("{} (gaps: {})", some, "gap_reasons"))
    uncovered = gaps.otherwise(some)
    unseen = pl.format("not read for the last {} s", age_s.round(0).cast(pl.Int64))
    apart = pl.format("the energy counter is {} times what power integrates to", agrees.round(2))
    count = pl.col("readings")
    poor = [
        (count == 0, pl.format("not read at all ({})", pl.col("gap_reasons").fill_null("no event tells why"))),
        ((count > 0) & (covered < COVERED[0]), uncovered),
        ((count > 0) & (age_s > GONE_S), unseen),
        (pl.col("stuck"), pl.lit("power stands still while utilisation moves")),
        (~agrees.is_between(0.5, 2.0), apart),
    ]
    fair = [
        ((count > 0) & covered.is_between(*COVERED, closed="left"), uncovered),
        (age_s.is_between(pl.col("limit_s"), GONE_S, closed="right"), unseen),
        (agrees.is_between(0.5, 2.0) & ~agrees.is_between(*AGREES), apart),
        (
            pl.col("modelled_ratio") > 0,
            pl.format("{}% of the energy is modelled", (pl.col("modelled_ratio") * 100).round(1)),
        ),
        (
            pl.col("sensor_seen_ratio") < SEEN,
            pl.format("its sensor sees {}% of the time", (pl.col("sensor_seen_ratio") * 100).round(0).cast(pl.Int64)),
        ),
        (pl.col("clock_jumps") > 0, pl.format("the clock of its host jumped {} times", "clock_jumps")),
        (pl.col("duplicates") > FEW * count, pl.format("{} rows repeat the time of another", "duplicates")),
        (pl.col("late") > FEW * count, pl.format("{} readings came late", "late")),
        (
            pl.col("calibration_age_s") > CALIBRATED_S,
            pl.format("calibrated {} days ago", (pl.col("calibration_age_s") / 86_400).round(0).cast(pl.Int64)),
        ),
    ]
    told = [pl.when(when.fill_null(False)).then(text) for when, text in (*poor, *fair)]
    reason = pl.concat_str(told, separator="; ", ignore_nulls=True)
    is_poor, is_fair = (pl.any_horizontal(when.fill_null(False) for when, _ in some) for some in (poor, fair))
    return {
        "verdict": pl.when(is_poor).then(pl.lit("poor")).when(is_fair).then(pl.lit("fair")).otherwise(pl.lit("good")),
        "reason": pl.when(reason != "").then(reason),
    }
