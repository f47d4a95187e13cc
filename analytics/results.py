"""
Results of benchmark runs beside the power they were measured with, as MLPerf tells them.

Power is the mean of the analyzer's readings from a run's start to its end, over all hosts and switches that took part
(MLPerf Inference and Training power rules); efficiency is throughput over power. What a run reported is its own; a
throughput that it did not report is worked out, and `throughput_basis` says how.
"""

from collections.abc import Sequence
from typing import Final, Literal

import polars as pl

from collector.catalogue import HOST_PLATFORM_POWER, METER_POWER

SCENARIOS: Final = {
    "offline": "Offline",
    "server": "Server",
    "interactive": "Interactive",
    "singlestream": "SingleStream",
    "multistream": "MultiStream",
}
"""The scenarios of MLPerf Inference, as submissions write them in small letters and as the rules do."""
MULTISTREAM: Final = 8
"""Samples of a MultiStream query (MLPerf Inference rules, since v2.0)."""
RANGING: Final = "ranging"
"""The phase that finds the analyzer's ranges; the other is the result."""
Phase = Literal["result", "ranging", "any"]
MAX_GAP_S: Final = 10.0

_NS: Final = 1_000_000_000
_RUN: Final = (
    "suite", "version", "division", "submitter", "system", "accelerator", "accelerators", "nodes", "benchmark",
    "scenario", "phase", "framework", "metric", "verdict",
)  # fmt: skip
_LATENCIES: Final = ("latency_mean_s", "latency_p50_s", "latency_p90_s", "latency_p99_s")


def results(
    runs: pl.LazyFrame,
    host_samples: pl.LazyFrame,
    facility_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    *,
    max_gap_s: float = MAX_GAP_S,
) -> pl.LazyFrame:
    """
    Each benchmark run with its power, energy and efficiency.

    In:  runs: the table ``results``; host_samples: host, time, platform_power_w; facility_samples: meter, host, time,
         meter_power_w; allocations: workload, device, start, time: the hosts that took part (none: the run's own).
    Out: workload, suite, version, division, submitter, system, accelerator, accelerators, nodes, benchmark, scenario,
         phase, framework, metric, verdict, start, end, run_s, hosts (and meters whose power it is), readings,
         covered_ratio (the share of the run in which readings came no further apart than *max_gap_s*; the least of the
         hosts), power_mean_w (the sum of the means of the hosts' readings from start to end; null where a host has
         none), power_per_accelerator_w, energy_j (mean power over the run), samples_per_s, tokens_per_s,
         throughput_basis (``reported``; ``counted``: work done over the run's time; ``latency``: queries follow one
         another, so it is samples per query over the mean latency), joules_per_sample, samples_per_joule,
         joules_per_token, tokens_per_joule, latency_mean_s, latency_p50_s, latency_p90_s, latency_p99_s.

    A system's own meters count where it has no reading as a host: the switches of a cluster do, the channels of an
    analyzer whose sum is the host do not.
    """
    known = _known(runs)
    power = _power(known, host_samples, facility_samples, allocations, round(max_gap_s * _NS))
    watts, run_s = pl.col("power_mean_w"), (_ns("end") - _ns("start")) / _NS
    samples, tokens = pl.col("samples_per_s"), pl.col("tokens_per_s")
    return (
        known.join(power, on="workload", how="left")
        .with_columns(run_s=run_s, hosts=pl.col("hosts").fill_null(0), readings=pl.col("readings").fill_null(0))
        .with_columns(**_throughput())
        .select(
            "workload",
            *_RUN,
            "start",
            "end",
            "run_s",
            "hosts",
            "readings",
            "covered_ratio",
            "power_mean_w",
            power_per_accelerator_w=pl.when(pl.col("accelerators") > 0).then(watts / pl.col("accelerators")),
            energy_j=watts * pl.col("run_s"),
            samples_per_s=samples,
            tokens_per_s=tokens,
            throughput_basis="throughput_basis",
            joules_per_sample=pl.when(samples > 0).then(watts / samples),
            samples_per_joule=pl.when(watts > 0).then(samples / watts),
            joules_per_token=pl.when(tokens > 0).then(watts / tokens),
            tokens_per_joule=pl.when(watts > 0).then(tokens / watts),
            **{name: pl.col(name) for name in _LATENCIES},
        )
        .sort("suite", "benchmark", "scenario", "samples_per_joule", "workload", descending=[False] * 3 + [True, False],
              nulls_last=True)
    )  # fmt: skip


def chosen(
    found: pl.LazyFrame,
    *,
    phase: Phase = "result",
    suite: str | None = None,
    scenario: str | None = None,
    **names: Sequence[str],
) -> pl.LazyFrame:
    """
    Some of the results: of a *phase*, a *suite* and a *scenario*, and of those *names* that are told for a column.

    In:  found as `results` gives it.
    Out: the same columns. No names for a column let every row through.
    """
    ranging = (pl.col("phase") == RANGING).fill_null(False)
    conditions = [] if phase == "any" else [ranging if phase == RANGING else ~ranging]
    conditions += [pl.col("suite") == suite] if suite is not None else []
    conditions += [pl.col("scenario").str.to_lowercase() == scenario.lower()] if scenario is not None else []
    conditions += [pl.col(column).is_in(list(values)) for column, values in names.items() if values]
    return found.filter(*conditions) if conditions else found


def times_of(runs: pl.DataFrame) -> tuple[int, int]:
    """From when until when there may be readings of *runs*, in nanoseconds: [first start, last end]; empty: (0, 0)."""
    ends = runs.select(_ns("start").min().alias("first"), _ns("end").max().alias("last")).row(0)
    return (0, 0) if None in ends else (int(ends[0]), int(ends[1]) + 1)


def best(found: pl.LazyFrame, *, by: Sequence[str] = ("accelerator", "benchmark", "scenario")) -> pl.LazyFrame:
    """
    The run of each group that did most per joule.

    In:  found as `results` gives it.
    Out: the same columns, one row for each *by*, with runs: how many there were. Runs without power have no place.
    """
    keys = list(by)
    return (
        found.filter(pl.col("samples_per_joule").is_not_null())
        .with_columns(runs=pl.len().over(keys))
        .sort("samples_per_joule", "workload", descending=[True, False])
        .unique(keys, keep="first", maintain_order=True)
        .sort(keys, nulls_last=True)
    )


def front(found: pl.LazyFrame, *, within: Sequence[str] = ("benchmark", "scenario")) -> pl.LazyFrame:
    """
    Which runs nothing beats in both throughput and efficiency.

    In:  found as `results` gives it.
    Out: the same columns and front: whether no other run of *within* has as much throughput and samples per joule, and
         more of one; null without either.
    """
    keys, rate, gain = list(within), pl.col("samples_per_s"), pl.col("samples_per_joule")
    compared = found.filter(rate.is_not_null() & gain.is_not_null()).select("workload", *keys, rate, gain)
    # From the fastest on: a run is on the front where it does more per joule than all that are as fast or faster.
    steps = compared.group_by(*keys, rate).agg(most=gain.max()).sort(*keys, rate, descending=True)
    steps = steps.with_columns(before=pl.col("most").cum_max().shift(1).over(keys))
    marked = compared.join(steps, on=[*keys, "samples_per_s"], nulls_equal=True).select(
        "workload", front=(gain == pl.col("most")) & (gain > pl.col("before")).fill_null(True)
    )
    return found.join(marked, on="workload", how="left", maintain_order="left")


# ------------------------------------------------------------------------------------------------------------- runs


def _ns(column: str) -> pl.Expr:
    return pl.col(column).to_physical()


def _known(runs: pl.LazyFrame) -> pl.LazyFrame:
    """The last word on each run, its scenario as the rules write it."""
    scenario = pl.col("scenario")
    return (
        runs.with_columns(pl.col("start", "end", "time").cast(pl.Datetime("ns")))
        .sort("time", "source", maintain_order=True)
        .unique("workload", keep="last", maintain_order=True)
        .with_columns(
            scenario=pl.coalesce(scenario.str.to_lowercase().replace_strict(SCENARIOS, default=None), scenario)
        )
    )


def _throughput() -> dict[str, pl.Expr]:
    """What there is of samples and tokens per second, and how it is known."""
    run_s, samples, tokens = pl.col("run_s"), pl.col("samples"), pl.col("tokens")
    ended = pl.when(run_s > 0)
    # A result in the 90th percentile is of single queries, whatever the scenario it was submitted for.
    per_query = pl.coalesce(
        "samples_per_query",
        pl.when(pl.col("metric") == "p90_latency_ns").then(1.0),
        pl.when((pl.col("metric") == "p99_latency_ns") & (pl.col("scenario") == "MultiStream")).then(
            float(MULTISTREAM)
        ),
    )
    counted, in_turn = ended.then(samples / run_s), per_query / pl.col("latency_mean_s")
    # What training reports leaves out what is between the steps; its joules do not.
    said = pl.when(counted.is_null() | (pl.col("metric") != "train_s").fill_null(True)).then("samples_per_s")
    basis = (
        pl.when(said.is_not_null() | pl.col("tokens_per_s").is_not_null())
        .then(pl.lit("reported"))
        .when(counted.is_not_null())
        .then(pl.lit("counted"))
        .when(in_turn.is_not_null())
        .then(pl.lit("latency"))
    )
    return {
        "throughput_basis": basis,
        "samples_per_s": pl.coalesce(said, counted, in_turn),
        "tokens_per_s": pl.coalesce("tokens_per_s", ended.then(tokens / run_s)),
    }


# ------------------------------------------------------------------------------------------------------------ power


def _power(
    runs: pl.LazyFrame,
    host_samples: pl.LazyFrame,
    facility_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    max_gap_ns: int,
) -> pl.LazyFrame:
    """workload, hosts, readings, covered_ratio, power_mean_w."""
    meter, host = METER_POWER.column, HOST_PLATFORM_POWER.column
    # A place is a host, or a system with its meters; a unit is what has readings of its own: the host, or one meter.
    places = _places(runs, allocations).collect().lazy()
    readings = (
        pl.concat(
            [
                host_samples.select(place="host", unit=pl.lit(""), time="time", watts=host),
                facility_samples.select(place="host", unit="meter", time="time", watts=meter),
            ]
        )
        .filter(pl.col("watts").is_not_null())
        .join(places, on="place", how="semi")
    )
    at = pl.col("time").to_physical()
    unit = ["place", "unit"]
    step = at.diff().over(unit)
    running = (
        readings.with_columns(pl.col("time").cast(pl.Datetime("ns")))
        .sort("time")
        .with_columns(
            count=pl.int_range(1, pl.len() + 1).over(unit),
            sum=pl.col("watts").cum_sum().over(unit),
            near_ns=pl.when(step <= max_gap_ns).then(step).otherwise(0).cum_sum().over(unit),
        )
        .drop("watts")
        .collect()
        .lazy()
    )
    windows = places.join(running.select(unit).unique(), on="place", how="left")
    for edge, inclusive in (("start", False), ("end", True)):
        # The last reading before the start, and the last one up to the end: between them are those of the run.
        windows = (
            windows.sort(edge)
            .join_asof(
                running.rename({name: f"{name}_{edge}" for name in ("count", "sum", "near_ns")}),
                left_on=edge,
                right_on="time",
                by=unit,
                strategy="backward",
                allow_exact_matches=inclusive,
                check_sortedness=False,
            )
            .drop("time")
        )
    found, total, near = (
        pl.col(f"{name}_end") - pl.col(f"{name}_start").fill_null(0) for name in ("count", "sum", "near_ns")
    )
    length = _ns("end") - _ns("start")
    is_host = pl.col("unit") == ""
    read = pl.col("readings") > 0
    of_units = windows.with_columns(
        readings=found.fill_null(0), watts=total / found, covered_ratio=(near / length).clip(0.0, 1.0)
    ).filter(read | pl.col("needed"))
    # The host's own readings where there are any, else its meters'.
    chosen = of_units.filter(~read | is_host | ~(read & is_host).any().over("workload", "place"))
    chosen = chosen.filter(read | ~read.any().over("workload", "place"))
    return chosen.group_by("workload").agg(
        hosts=pl.len(),
        readings=pl.col("readings").sum(),
        covered_ratio=pl.when(read.all()).then(pl.col("covered_ratio").min()),
        power_mean_w=pl.when(read.all()).then(pl.col("watts").sum()),
    )


def _places(runs: pl.LazyFrame, allocations: pl.LazyFrame) -> pl.LazyFrame:
    """workload, place, start, end, needed: each host once; the system itself may have no readings beside its nodes'."""
    held = (
        allocations.join(runs.select("workload"), on="workload", how="semi").select("workload", place="device").unique()
    )
    own = runs.select("workload", place="host").drop_nulls("place")
    alone = own.join(held, on="workload", how="anti").with_columns(needed=pl.lit(True))
    beside = (
        own.join(held, on="workload", how="semi")
        .join(held, on=["workload", "place"], how="anti")
        .with_columns(needed=pl.lit(False))
    )
    every = pl.concat([held.with_columns(needed=pl.lit(True)), alone, beside])
    return every.join(runs.select("workload", "start", "end"), on="workload").filter(pl.col("start") < pl.col("end"))
