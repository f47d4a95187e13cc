"""What the Results page shows: benchmark runs beside their measured power."""

from dataclasses import dataclass
from typing import Final, Literal, cast

import polars as pl

from analytics.frames import scan
from analytics.results import RANGING, Phase, best, chosen, front, results, times_of
from dashboards.controls import Values
from dashboards.data.stored import Stored

ANY: Final = "any"
SUITES: Final = ("inference", "training")
SCENARIOS: Final = ("Offline", "Server", "SingleStream", "MultiStream", ANY)
PHASES: Final = ("result", RANGING, ANY)
_READINGS: Final = ("host_samples", "facility_samples", "<allocations")

Work = Literal["sample", "token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsView:
    """
    What was asked for.

    every: all results of the suite, scenario and phase, of the chosen accelerators and submitters. runs: those of
    `benchmark` with front (whether nothing beats it). best: the most efficient of every by accelerator and benchmark.
    `work` is what the benchmark counts.
    """

    suite: str
    benchmark: str | None
    every: pl.DataFrame
    runs: pl.DataFrame
    best: pl.DataFrame
    work: Work

    @property
    def rate(self) -> str:
        """The column of the throughput."""
        return f"{self.work}s_per_s"

    @property
    def gain(self) -> str:
        """The column of the efficiency."""
        return f"{self.work}s_per_joule"


def all_results(stored: Stored) -> pl.DataFrame:
    """
    Every result of the store, with power.

    Raises: StoreError.
    """
    told = stored.version(("results",), None, None)
    runs = stored.kept(("runs", told), lambda: _runs(stored))
    # Only readings of their time can change them, and new ones come every second.
    start_ns, end_ns = times_of(runs)
    key = ("results", told, stored.version(_READINGS, start_ns, end_ns))
    return stored.kept(key, lambda: _with_power(stored, runs, start_ns, end_ns))


def view(stored: Stored, values: Values) -> ResultsView:
    """
    What the page's controls ask for.

    Raises: StoreError.
    """
    suite, scenario = str(values["suite"]), str(values["scenario"])
    every = chosen(
        all_results(stored).lazy(),
        phase=cast("Phase", values["phase"]),
        suite=f"mlperf-{suite}",
        scenario=scenario if scenario != ANY and suite == "inference" else None,
        **{key: cast("tuple[str, ...]", values[key]) for key in ("accelerator", "submitter", "version")},
    ).collect()
    asked = str(values["benchmark"] or "")
    benchmark = asked or _usual(every)
    runs = every.filter(pl.col("benchmark") == pl.lit(benchmark, pl.String))
    return ResultsView(
        suite=suite,
        benchmark=benchmark,
        every=every,
        runs=front(runs.lazy()).collect().sort("samples_per_joule", descending=True, nulls_last=True),
        best=best(every.lazy(), by=("accelerator", "benchmark")).collect(),
        work="token" if runs["tokens_per_joule"].count() else "sample",
    )


def known(stored: Stored, values: Values) -> dict[str, list[str]]:
    """What there is to choose from in the suite, by control."""
    of_suite = all_results(stored).filter(pl.col("suite") == f"mlperf-{values['suite']}")
    keys = ("benchmark", "accelerator", "submitter", "version")
    return {key: sorted(of_suite[key].drop_nulls().unique().to_list()) for key in keys}


def _usual(every: pl.DataFrame) -> str | None:
    """The benchmark that most ran; of several the first by name."""
    counts = every.group_by("benchmark").len().sort("len", "benchmark", descending=[True, False])
    return None if counts.is_empty() else str(counts["benchmark"][0])


def _runs(stored: Stored) -> pl.DataFrame:
    return scan(stored.store(), "results").collect()


def _with_power(stored: Stored, runs: pl.DataFrame, start_ns: int, end_ns: int) -> pl.DataFrame:
    store = stored.store()
    return results(
        runs.lazy(),
        scan(store, "host_samples", start_ns, end_ns),
        scan(store, "facility_samples", start_ns, end_ns),
        scan(store, "allocations", None, end_ns),
    ).collect()
