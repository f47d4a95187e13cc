"""
How well workloads used their devices: of the peak, by the request, by the step, and at the wall.

* MFU, model FLOP utilisation: the FLOP of the model's own arithmetic over the peak of the devices in the time in which
  they were held (Chowdhery et al. 2022, PaLM, appendix B). MBU is the same of bytes and memory bandwidth. Peaks are
  dense BF16, as makers state them.
* EDP, the energy-delay product: joules times seconds of one request, or of one step (Gonzalez and Horowitz 1996, IEEE
  JSSC 31(9)). Two configurations of one EDP trade energy for time at par; the lower one wins both ways.
* Performance per wall watt: of the energy of the devices and their share of what their machines draw, by energy.

What an engine estimates of its own FLOP and bytes is an estimate; whatever one of them needs and nobody told is absent.
"""

from typing import Final

import polars as pl

from analytics.attribution import overhead, platform_steps
from analytics.boards import with_meters
from analytics.efficiency import (
    counted_times,
    held_energy,
    held_hull,
    joules_per_token,
    of_workloads,
    tokens_per_joule,
)
from analytics.energy import device_steps, seconds, window_start
from analytics.intervals import bounds, error_of_sums, measured
from analytics.work import work_of
from collector import catalogue as c

TIMES: Final = {
    "request_s": (c.REQUEST_SECONDS, c.REQUEST_COUNT),
    "first_token_s": (c.FIRST_TOKEN_SECONDS, c.FIRST_TOKEN_COUNT),
    "token_s": (c.TOKEN_SECONDS, c.TOKEN_COUNT),
}
"""Mean times, and the counters of their sums and of what they are sums over."""
QUANTILES: Final = {
    "latency_p50_s": c.LATENCY_P50, "latency_p90_s": c.LATENCY_P90, "latency_p99_s": c.LATENCY_P99,
}  # fmt: skip
"""Quantiles of request latency that an engine reports."""
_MORE: Final = tuple(
    metric.column
    for metric in (
        c.WORK, c.MEMORY_TRAFFIC, c.WORK_PER_DEVICE, c.MEMORY_READ_PER_DEVICE, c.MEMORY_WRITTEN_PER_DEVICE,
        *(metric for pair in TIMES.values() for metric in pair),
    )
)  # fmt: skip


def measures(
    device_samples: pl.LazyFrame,
    workload_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    *,
    types: pl.LazyFrame | None = None,
    host_samples: pl.LazyFrame | None = None,
    max_gap_s: float | None = None,
    by: str | None = None,
    devices: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    As `analytics.efficiency.efficiency`, and how well the devices were used.

    In:  as `efficiency`; of workload_samples also FLOP, memory traffic, times and latencies; *types*: device,
         flop_per_s, memory_bandwidth_bytes_per_s, as `analytics.inventory.device_types` gives them; *host_samples*:
         host, time, source, platform_power_w, platform_energy_j.
    Out: the columns of `efficiency`, then tokens_per_s_per_device, joules_per_request, work_flop,
         memory_traffic_bytes, mfu_ratio, mbu_ratio (null where a device's peak is not known), request_s, first_token_s,
         token_s (means; the last is between two tokens), latency_p50_s, latency_p90_s, latency_p99_s (means of what the
         engine reports), edp_request_js and edp_step_js (joules times seconds), wall_j (null where one of the machines
         was not measured), tokens_per_wall_joule (also tokens/s per wall watt), samples_per_wall_joule.
         joules_per_request and the EDPs have ends, _low and _high before the unit, as sure as their joules: times and
         counts are taken as they were told, and so are the FLOP and bytes of MFU and MBU, which have no interval.

    All are over the time in which the workload's counters were read, waiting included.
    """
    steps = device_steps(device_samples, max_gap_s=max_gap_s, devices=devices).collect().lazy()
    found = with_meters(held_energy(steps, counted_times(workload_samples), allocations, by=by), devices)
    keys = ["workload"] if by is None else ["workload", "window"]
    work = work_of(workload_samples, seconds(by) if by else None, more=_MORE, within=held_hull(found))
    boards = _boards(steps, types, host_samples, max_gap_s=max_gap_s, by=by)
    used = _used(found, boards, keys)
    traffic = pl.col(c.MEMORY_READ_PER_DEVICE.column) + pl.col(c.MEMORY_WRITTEN_PER_DEVICE.column)
    more = (
        used.join(work.drop(name for name in _COUNTED if name not in {c.REQUESTS.column, c.STEPS.column}), on=keys)
        .join(latencies(workload_samples, by), on=keys, how="left")
        .with_columns(
            work_flop=pl.coalesce(c.WORK.column, pl.col(c.WORK_PER_DEVICE.column) * pl.col("counted_devices")),
            memory_traffic_bytes=pl.coalesce(c.MEMORY_TRAFFIC.column, traffic * pl.col("counted_devices")),
            **{
                name: pl.when(pl.col(count.column) > 0).then(pl.col(sums.column) / pl.col(count.column))
                for name, (sums, count) in TIMES.items()
            },
            joules_per_request=joules_per_token(pl.col(c.REQUESTS.column), pl.col("full_j")),
            step_s=joules_per_token(pl.col(c.STEPS.column), pl.col("work_s")),
            step_j=joules_per_token(pl.col(c.STEPS.column), pl.col("full_j")),
        )
        .with_columns(
            joules_per_request_error=joules_per_token(pl.col(c.REQUESTS.column), pl.col("full_error_j")),
            step_error_j=joules_per_token(pl.col(c.STEPS.column), pl.col("full_error_j")),
            edp_request_js=pl.col("joules_per_request") * pl.col("request_s"),
            edp_step_js=pl.col("step_j") * pl.col("step_s"),
        )
        .with_columns(
            *_ends("joules_per_request", pl.col("joules_per_request_error")),
            *_ends("edp_request_js", pl.col("joules_per_request_error") * pl.col("request_s")),
            *_ends("edp_step_js", pl.col("step_error_j") * pl.col("step_s")),
        )
    )
    peak = {"mfu_ratio": ("work_flop", "peak_flop"), "mbu_ratio": ("memory_traffic_bytes", "peak_bytes")}
    found = of_workloads(found, workload_samples, by=by)
    return (
        found.join(
            more.select(
                *keys, "work_flop", "memory_traffic_bytes", *_with_ends("joules_per_request"), *TIMES, *QUANTILES,
                "wall_j", "counted_devices", *_with_ends("edp_request_js"), *_with_ends("edp_step_js"),
                **{name: pl.when(pl.col(most) > 0).then(pl.col(done) / pl.col(most)) for name, (done, most) in
                   peak.items()},
            ),
            on=keys,
            how="left",
            nulls_equal=True,
        )
        .select(
            *found.collect_schema().names(),
            tokens_per_s_per_device=pl.col("tokens_per_s") / pl.col("counted_devices"),
            **{name: pl.col(name) for name in (
                *_with_ends("joules_per_request"), "work_flop", "memory_traffic_bytes", "mfu_ratio", "mbu_ratio",
                *TIMES, *QUANTILES, *_with_ends("edp_request_js"), *_with_ends("edp_step_js"), "wall_j",
            )},
            tokens_per_wall_joule=tokens_per_joule(pl.col("tokens"), pl.col("wall_j")),
            samples_per_wall_joule=tokens_per_joule(pl.col("samples"), pl.col("wall_j")),
        )
        .sort(keys)
    )  # fmt: skip


def _with_ends(name: str) -> tuple[str, str, str]:
    """A figure and the ends of its interval; a unit that is a suffix stays the last word."""
    stem, unit = (name.removesuffix("_js"), "_js") if name.endswith("_js") else (name, "")
    return name, f"{stem}_low{unit}", f"{stem}_high{unit}"


def _ends(name: str, error: pl.Expr) -> list[pl.Expr]:
    return bounds(pl.col(name), error, _with_ends(name)[1:])


_COUNTED: Final = (c.TOKENS_OUT.column, c.TOKENS_IN.column, c.SAMPLES.column, c.STEPS.column, c.REQUESTS.column)


def wall_ratios(
    steps: pl.LazyFrame, host_samples: pl.LazyFrame, *, max_gap_s: float | None = None, by: str | None = None
) -> pl.LazyFrame:
    """
    What each machine draws over what its devices do: the ITUE of a host.

    In:  steps as `analytics.energy.device_steps` gives them; host_samples: host, time, source, platform_power_w,
         platform_energy_j.
    Out: host, window (with *by*), wall_ratio, and of the time in which machine and devices were all measured covered_s,
         whole_j (of the machine), parts_j (of its devices), whole_error_j and parts_error_j (half their intervals).
    """
    belongs = steps.select(part="device", whole="host").drop_nulls().unique()
    window = [] if by is None else ["window"]
    known = overhead(platform_steps(host_samples, max_gap_s=max_gap_s), steps, belongs, by=by)
    return known.filter(pl.col("parts_j") > 0).select(
        *window,
        "covered_s",
        "whole_j",
        "parts_j",
        "whole_error_j",
        "parts_error_j",
        host="whole",
        wall_ratio=pl.col("whole_j") / pl.col("parts_j"),
    )


def _boards(
    steps: pl.LazyFrame,
    types: pl.LazyFrame | None,
    host_samples: pl.LazyFrame | None,
    *,
    max_gap_s: float | None,
    by: str | None,
) -> pl.LazyFrame:
    """Of each device its peaks and its machine's ratio: device, window (with *by*), the peaks, wall_ratio."""
    none = {name: pl.lit(None, pl.Float64) for name in (*_PEAKS, "wall_ratio")}
    boards = steps.select("device", "host").drop_nulls("device").unique("device", keep="last").with_columns(**none)
    if types is not None:
        boards = boards.drop(_PEAKS).join(types.select("device", *_PEAKS), on="device", how="left")
    if host_samples is not None:
        ratios = wall_ratios(steps, host_samples, max_gap_s=max_gap_s, by=by)
        window = [] if by is None else ["window"]
        boards = boards.drop("wall_ratio").join(ratios.select("host", *window, "wall_ratio"), on="host", how="left")
    return boards.drop("host")


_PEAKS: Final = ("flop_per_s", "memory_bandwidth_bytes_per_s")


def _used(found: pl.LazyFrame, boards: pl.LazyFrame, keys: list[str]) -> pl.LazyFrame:
    """
    What the devices of each workload could have done while its counters were read, and what they and their machines
    drew: counted_devices, full_j and its full_error_j (half its interval; null where some is modelled), peak_flop,
    peak_bytes, wall_j; null where it is not known of one of them.
    """
    on = ["device", *(name for name in keys[1:] if name in boards.collect_schema().names())]
    held_s, scale = pl.col("span_s") * pl.col("share"), pl.col("span_s").sum() / pl.col("covered_s").sum()

    def of_all(value: pl.Expr) -> pl.Expr:
        return pl.when(value.is_not_null().all()).then(value.sum())

    counted = found.filter("counted")
    off = error_of_sums(counted, keys, {"error_j": "energy_j"})
    return (
        counted.join(boards, on=on, how="left")
        .group_by(keys)
        .agg(
            counted_devices=pl.col("device").n_unique(),
            full_j=pl.when(pl.col("covered_s").sum() > 0).then(pl.col("energy_j").sum() * scale),
            peak_flop=of_all(held_s * pl.col("flop_per_s")),
            peak_bytes=of_all(held_s * pl.col("memory_bandwidth_bytes_per_s")),
            wall_j=pl.when(pl.col("covered_s").sum() > 0).then(
                of_all(pl.col("energy_j") * pl.col("wall_ratio")) * scale
            ),
            scale=scale,
            modelled_j=pl.col("modelled_j").sum(),
        )
        .join(off, on=keys, nulls_equal=True)
        .with_columns(full_error_j=measured(pl.col("error_j"), pl.col("modelled_j")) * pl.col("scale"))
        .drop("error_j", "scale", "modelled_j")
    )  # fmt: skip


def mean_time(name: str) -> pl.Expr:
    """One of `TIMES` over rows: the sum of the seconds over the sum of what they are of; null where nothing is."""
    seconds_of, count = (pl.col(metric.column).sum() for metric in TIMES[name])
    return pl.when(count > 0).then(seconds_of / count)


def latencies(workload_samples: pl.LazyFrame, by: str | None) -> pl.LazyFrame:
    """
    The means of the quantiles that engines report.

    In:  workload_samples: workload, time, and what there is of latency_p50_s, latency_p90_s, latency_p99_s.
    Out: workload, window (with *by*), and the columns of `QUANTILES`.
    """
    known = workload_samples.collect_schema().names()
    means = {
        name: (pl.col(metric.column) if metric.column in known else pl.lit(None, pl.Float64)).mean()
        for name, metric in QUANTILES.items()
    }
    rows = workload_samples.with_columns(pl.col("time").cast(pl.Datetime("ns")))
    if by is None:
        return rows.group_by("workload").agg(**means)
    return rows.group_by("workload", window=window_start("time", seconds(by))).agg(**means)
