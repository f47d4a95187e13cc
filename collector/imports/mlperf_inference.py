"""
MLPerf inference: ``spl.txt`` (SPEC PTDaemon's log of wall power) with LoadGen's ``mlperf_log_*.txt`` beside it.

PTDaemon writes local time without a zone; LoadGen's power_begin and power_end are UTC (its test_datetime says Z and is
local: never used), so that the run tells the zone. The analyzer says -1 when it had no reading: that is absent.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from collector.catalogue import (
    FIRST_TOKEN_COUNT,
    FIRST_TOKEN_SECONDS,
    HOST_PLATFORM_POWER,
    LATENCY_P50,
    LATENCY_P90,
    LATENCY_P99,
    METER_POWER,
    METER_POWER_FACTOR,
    METER_VOLTAGE,
    REQUESTS,
    SAMPLES,
    THROUGHPUT,
    TOKENS_OUT,
    Metric,
)
from collector.errors import ImportFailed
from collector.imports import columns
from collector.imports.clocks import Shift, Zone, find_shift, hours, out_of_order, parsed
from collector.imports.lines import is_text, read_lines
from collector.imports.mllog import entries
from collector.imports.report import Account, Unit, merged
from collector.imports.submission import Submission, submission_of
from collector.imports.tables import allocation_row, event_row, rows, shaped
from collector.sample import Allocation, Event, Severity

SOURCE = "import:mlperf-inference"
_TIME = "%m-%d-%Y %H:%M:%S%.f"
_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_ELECTRIC = rf"Watts,{_NUMBER},Volts,{_NUMBER},Amps,{_NUMBER},PF,{_NUMBER}"
_HEAD = (
    r"^Time,(?P<time>[0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?)"
    rf",Watts,(?P<watts>{_NUMBER}),Volts,(?P<volts>{_NUMBER}),Amps,(?P<amps>{_NUMBER}),PF,(?P<pf>{_NUMBER})"
    rf"(?:,Mark,(?P<mark>[^,]*))?(?P<channels>(?:,Ch[0-9]+,{_ELECTRIC})*)\s*$"
)
_CHANNEL = r",Ch{number},Watts,(?P<watts>{n}),Volts,(?P<volts>{n}),Amps,(?P<amps>{n}),PF,(?P<pf>{n})"
_SUMMARY = re.compile(r"^\s*(?P<key>[^:=]+?)\s*:\s*(?P<value>.+?)\s*$")
_LATENCIES = (("50.00", LATENCY_P50), ("90.00", LATENCY_P90), ("99.00", LATENCY_P99))
_PHASES = re.compile(r"^(ranging|run_[0-9]+|testing)$")


@dataclass(slots=True)
class _Run:
    """What LoadGen says of a run; `detail` by key, `summary` by the words before the colon."""

    detail: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, str] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)

    def moment(self, key: str) -> int | None:
        """power_begin or power_end in nanoseconds, UTC."""
        value = self.detail.get(key)
        if not isinstance(value, str):
            return None
        form = "%m-%d-%Y %H:%M:%S.%f" if "." in value else "%m-%d-%Y %H:%M:%S"
        try:
            moment = datetime.strptime(value, form).replace(tzinfo=UTC)
        except ValueError:
            return None
        return round(moment.timestamp() * 1000) * 1_000_000

    def number(self, *words: str) -> float | None:
        """The first of these summary lines that has a number."""
        for word in words:
            try:
                return float(self.summary[word])
            except (KeyError, ValueError):
                continue
        return None

    @property
    def scenario(self) -> str:
        return str(self.detail.get("effective_scenario") or self.summary.get("Scenario") or "unknown")


def read_inference(directory: Path, *, host: str | None = None, tz: Zone | None = None) -> Iterator[Unit]:
    """
    The runs below *directory*: one unit for each folder with a ``spl.txt``.

    *host* names the system instead of its folder; *tz* is the zone of the power log's clock, for when it cannot be
    found from the run. Raises: ImportFailed.
    """
    if not directory.is_dir():
        raise ImportFailed(directory, "is no directory")
    for path in sorted(directory.rglob("spl.txt")):
        yield _unit(path, host=host, tz=tz)


def _unit(path: Path, *, host: str | None, tz: Zone | None) -> Unit:
    folder = path.resolve().parent
    run = _read_run(path.parent)
    system, benchmark, phase = _names(folder, run.scenario)
    system = host or system
    workload = "/".join(filter(None, ("mlperf-inference", system, benchmark, run.scenario, phase)))
    power, account = _read_power(path)
    begin, end = run.moment("power_begin"), run.moment("power_end")
    unit = Unit(
        name=str(path.parent),
        identity=("mlperf-inference", workload, str(begin or path.resolve())),
        files=[account, *run.accounts],
        facts={"system": system, "benchmark": benchmark, "scenario": run.scenario, "workload": workload},
    )
    if power.is_empty():
        unit.error = "spl.txt has no reading"
        return unit
    if (begin is None or end is None or end <= begin) and tz is None:
        unit.error = (
            "mlperf_log_detail.txt has no power_begin and power_end: the zone of spl.txt is unknown; name it with --tz"
        )
        return unit
    power, shift = _to_utc(power, begin, end, tz)
    if shift is not None and shift.others:
        unit.error = "the clock of spl.txt is off by one of several hours that fit; name its zone with --tz"
        return unit
    if shift is not None:
        unit.facts["clock_shift_s"] = shift.seconds
        unit.facts["window_covered"] = round(shift.covered, 4)
        if shift.seconds:
            account.notes.append(f"local time is UTC{hours(-shift.seconds)}; shifted to UTC")
    absent = power.filter(pl.col("watts") < 0).height
    if absent:
        account.notes.append(f"{absent} readings without power (the analyzer had none): left absent")
    if begin is not None and end is not None:
        unit.facts["run_s"] = round((end - begin) / 1e9, 3)
        unit.frames["workload_samples"] = rows(
            "workload_samples", _workload_rows(system, workload, benchmark, run, begin, end)
        )
        unit.frames["allocations"] = rows("allocations", [_allocation(system, workload, benchmark, begin, end)])
        unit.frames["events"] = rows("events", _events(system, workload, run, begin, end, shift))
        told = submission_of(folder, system)
        unit.frames["results"] = rows("results", [_result(system, workload, benchmark, phase, run, begin, end, told)])
    unit.frames |= _power_frames(system, power)
    unit.frames = merged(unit.frames)
    return unit


def _names(folder: Path, scenario: str) -> tuple[str, str, str | None]:
    """System, benchmark and phase, from a submission's tree (results/SYSTEM/BENCHMARK/...) or from SYSTEM/RUN."""
    phase = folder.name if _PHASES.match(folder.name) else None
    parts = folder.parts
    if "results" in parts[:-2]:
        at = len(parts) - 1 - parts[::-1].index("results")
        if at + 2 < len(parts):
            return parts[at + 1], parts[at + 2], phase
    if phase:
        parts = parts[:-1]
    benchmark = re.sub(rf"[-_]{re.escape(scenario)}$", "", parts[-1], flags=re.IGNORECASE)
    return parts[-2] if len(parts) > 2 else parts[-1], benchmark, phase


# ----------------------------------------------------------------------------------------------------------- spl.txt


def _read_power(path: Path) -> tuple[pl.DataFrame, Account]:
    """Readings in local time with watts, volts, pf and, per channel, watts_1, volts_1, pf_1 ... as written."""
    lines = read_lines(path)
    account = Account(path, lines=len(lines.texts))
    data = pl.DataFrame(
        {"line": range(1, len(lines.texts) + 1), "text": lines.texts}, schema={"line": pl.Int64, "text": pl.String}
    )
    blank = data["text"].str.strip_chars() == ""
    account.kept["blank"] += int(blank.sum())
    found = (
        data.filter(~blank)
        .with_columns(pl.col("text").str.extract_groups(_HEAD).alias("found"))
        .unnest("found")
        .with_columns(local=parsed(pl.col("time"), _TIME))
        .with_columns(pl.col("watts", "volts", "amps", "pf").cast(pl.Float64))
        .with_columns(numbers=pl.col("channels").str.extract_all(r",Ch[0-9]+,").list.join(""))
    )
    counts = found.filter(pl.col("local").is_not_null())["numbers"].value_counts(sort=True)
    usual = str(counts["numbers"][0]) if len(counts) else ""
    channels = re.findall("[0-9]+", usual)  # not always from 1: an analyzer may have others on its first inputs
    for number in channels:
        found = found.with_columns(
            pl.col("channels")
            .str.extract_groups(_CHANNEL.format(number=number, n=_NUMBER))
            .struct.rename_fields([f"{name}_{number}" for name in ("watts", "volts", "amps", "pf")])
            .alias("found")
        ).unnest("found")
        found = found.with_columns(
            pl.col(f"{name}_{number}").cast(pl.Float64) for name in ("watts", "volts", "amps", "pf")
        )
    reason = (
        pl.when(pl.col("local").is_null())
        .then(pl.lit("no PTDaemon reading"))
        .when(pl.col("numbers") != usual)
        .then(pl.lit(f"not the channels of the other lines ({', '.join(channels) or 'none'})"))
        .when(_disagree(channels))
        .then(pl.lit("the channels' watts do not add up to the total"))
        .when(out_of_order("local"))
        .then(pl.lit("its time does not fit the lines before and after"))
    )
    found = columns.refuse(lines, account, found.with_columns(reason=reason), separator=",")
    once = found.unique(["local"], keep="last", maintain_order=True)
    account.kept["duplicate"] += found.height - once.height
    account.kept["reading"] += once.height
    return once.drop("text", "reason", "channels", "numbers", "time").sort("local"), account


def _disagree(channels: Sequence[str]) -> pl.Expr:
    """Whether the channels, where all have a reading, say another power than the total: a damaged digit."""
    if not channels:
        return pl.lit(False)
    names = [f"watts_{number}" for number in channels]
    total = pl.sum_horizontal(names)
    read = pl.min_horizontal("watts", *names) >= 0
    # Each channel is rounded on its own; 1 W and 1 % is far beyond that.
    return read & ((total - pl.col("watts")).abs() > 1.0 + 0.01 * pl.col("watts"))


def _to_utc(
    power: pl.DataFrame, begin: int | None, end: int | None, tz: Zone | None
) -> tuple[pl.DataFrame, Shift | None]:
    first, last = (moment.timestamp() for moment in _ends(power["local"]))
    if tz is not None:
        utc, _ = tz.utc(power["local"])
        power = power.with_columns(time=utc).filter(pl.col("time").is_not_null())
        if begin is None or end is None:
            return power, None
        start, stop = (moment.timestamp() for moment in _ends(power["time"]))
        covered = max(0.0, min(stop, end / 1e9) - max(start, begin / 1e9)) / ((end - begin) / 1e9)
        return power, Shift(round(start - first), covered)
    assert begin is not None
    assert end is not None
    shift = find_shift(first, last, begin / 1e9, end / 1e9)
    return power.with_columns(time=pl.col("local").dt.offset_by(f"{shift.seconds}s")), shift


def _ends(times: pl.Series) -> tuple[datetime, datetime]:
    first, last = times.min(), times.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return first.replace(tzinfo=UTC), last.replace(tzinfo=UTC)


def _power_frames(system: str, power: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The total as the host's power; each channel (or the total, where it is the only one) as a meter."""
    channels = [name.removeprefix("watts_") for name in power.columns if name.startswith("watts_")]
    meters = [(f"{system}-ch{number}", f"_{number}") for number in channels] or [(f"{system}-wall", "")]
    return {
        "host_samples": shaped(
            "host_samples",
            power.filter(pl.col("watts") >= 0).select(
                pl.lit(system).alias("host"),
                "time",
                pl.lit(SOURCE).alias("source"),
                pl.col("watts").alias(HOST_PLATFORM_POWER.column),
            ),
        ),
        "facility_samples": shaped(
            "facility_samples",
            pl.concat(
                [
                    power.select(
                        pl.lit(meter).alias("meter"),
                        "time",
                        pl.lit(SOURCE).alias("source"),
                        pl.lit(system).alias("host"),
                        *(
                            pl.when(pl.col(f"{name}{suffix}") >= 0).then(f"{name}{suffix}").alias(metric.column)
                            for name, metric in (
                                ("watts", METER_POWER),
                                ("volts", METER_VOLTAGE),
                                ("pf", METER_POWER_FACTOR),
                            )
                        ),
                    )
                    for meter, suffix in meters
                ]
            ).filter(pl.col(METER_POWER.column).is_not_null()),
        ),
    }


# ---------------------------------------------------------------------------------------------------- mlperf_log_*.txt


def _read_run(folder: Path) -> _Run:
    run = _Run()
    detail = folder / "mlperf_log_detail.txt"
    if detail.is_file():
        lines = read_lines(detail)
        account = Account(detail, lines=len(lines.texts))
        for entry in entries(lines, account, only=False):
            account.kept["reading"] += 1
            run.detail[entry.key] = entry.value
        run.accounts.append(account)
    summary = folder / "mlperf_log_summary.txt"
    if summary.is_file():
        lines = read_lines(summary)
        account = Account(summary, lines=len(lines.texts))
        for number, text in enumerate(lines.texts, 1):
            found = _SUMMARY.match(text)
            if not text.strip():
                account.kept["blank"] += 1
            elif not is_text(text):
                account.refuse(number, "broken characters", text)
            elif found:
                account.kept["reading"] += 1
                run.summary.setdefault(found["key"], found["value"])
            else:
                account.kept["other"] += 1
        run.accounts.append(account)
    return run


def _workload_rows(
    system: str, workload: str, benchmark: str, run: _Run, begin: int, end: int
) -> Iterator[dict[str, Any]]:
    """Nothing done at the start; at the end what LoadGen counted, in its own duration."""
    base = {
        "workload": workload,
        "source": SOURCE,
        "host": system,
        "model": benchmark,
        "framework": f"mlperf-inference {run.scenario}",
    }
    done = _done(run)
    counters = (SAMPLES, TOKENS_OUT, REQUESTS, FIRST_TOKEN_SECONDS, FIRST_TOKEN_COUNT)
    yield base | {"time": begin} | {metric.column: 0.0 for metric in counters if metric in done}
    yield base | {"time": end} | {metric.column: value for metric, value in done.items()}


def _done(run: _Run) -> dict[Metric, float]:
    done: dict[Metric, float] = {}
    queries, per_query = run.detail.get("generated_query_count"), run.detail.get("generated_samples_per_query")
    rate = run.number("Samples per second", "Completed samples per second")
    tokens_per_s = run.number("Tokens per second", "Completed tokens per second")
    longest_ns = run.number("Max latency (ns)")
    if rate and longest_ns and run.scenario.lower() == "offline":
        # LoadGen fills the one query up with whole passes over the data set and says the number before that: what it
        # divides by is the time to the last sample.
        done[SAMPLES] = float(round(rate * longest_ns / 1e9))
    elif isinstance(queries, int) and isinstance(per_query, int):
        done[SAMPLES] = float(queries * per_query)
        if per_query == 1:
            done[REQUESTS] = float(queries)
    if SAMPLES in done:
        if rate and tokens_per_s:
            done[TOKENS_OUT] = tokens_per_s * done[SAMPLES] / rate
        first_token_ns = run.number("Mean First Token latency (ns)")
        if first_token_ns is not None:
            done[FIRST_TOKEN_SECONDS] = first_token_ns / 1e9 * done[SAMPLES]
            done[FIRST_TOKEN_COUNT] = done[SAMPLES]
    if tokens_per_s is not None:
        done[THROUGHPUT] = tokens_per_s
    for percentile, metric in _LATENCIES:
        latency_ns = run.number(f"{percentile} percentile latency (ns)")
        if latency_ns is not None:
            done[metric] = latency_ns / 1e9
    return done


_METRICS = {"SingleStream": "p90_latency_ns", "MultiStream": "p99_latency_ns"}


def _result(
    system: str, workload: str, benchmark: str, phase: str | None, run: _Run, begin: int, end: int, told: Submission
) -> dict[str, Any]:
    """The run as a result: what it reported, and the work it did."""
    done = _done(run)
    per_query, mean_ns = run.detail.get("generated_samples_per_query"), run.number("Mean latency (ns)")
    rate = "tokens_per_s" if THROUGHPUT in done else "samples_per_s"
    return {
        **told.columns,
        "workload": workload,
        "time": end,
        "source": SOURCE,
        "host": system,
        "suite": "mlperf-inference",
        "system": system,
        "benchmark": benchmark,
        "scenario": run.scenario,
        "phase": phase,
        "metric": _METRICS.get(run.scenario, rate),
        "verdict": run.summary.get("Result is"),
        "start": begin,
        "end": end,
        "samples": done.get(SAMPLES),
        "tokens": done.get(TOKENS_OUT),
        "samples_per_query": float(per_query) if isinstance(per_query, int) else None,
        "samples_per_s": run.number(
            "Samples per second", "Completed samples per second", "Scheduled samples per second"
        ),
        "tokens_per_s": done.get(THROUGHPUT),
        "latency_mean_s": None if mean_ns is None else mean_ns / 1e9,
        **{
            f"latency_p{n}_s": done.get(metric)
            for n, metric in ((50, LATENCY_P50), (90, LATENCY_P90), (99, LATENCY_P99))
        },
    }


def _allocation(system: str, workload: str, benchmark: str, begin: int, end: int) -> dict[str, Any]:
    """The whole machine is what was measured, so that the allocation's device is the machine."""
    return allocation_row(
        Allocation(
            time_ns=begin,
            workload=workload,
            device=system,
            host=system,
            start_ns=begin,
            end_ns=end,
            name=benchmark,
        ),
        SOURCE,
    )


def _events(
    system: str, workload: str, run: _Run, begin: int, end: int, shift: Shift | None
) -> Iterator[dict[str, Any]]:
    verdict = run.summary.get("Result is", "")
    rate = run.number("Samples per second", "Completed samples per second", "Scheduled samples per second")
    severity = Severity.INFO if verdict in {"", "VALID"} else Severity.WARNING
    told = [
        Event(time_ns=begin, kind="run_start", host=system, code=run.scenario, message=workload),
        Event(
            time_ns=end,
            kind="run_stop",
            host=system,
            code=run.scenario,
            severity=severity,
            message=f"{workload}: {verdict}".removesuffix(": "),
            value=rate,
        ),
    ]
    if shift is not None and shift.seconds:
        told.append(
            Event(
                time_ns=begin,
                kind="clock_shifted",
                host=system,
                code=run.scenario,
                severity=Severity.WARNING,
                message=f"the power log's clock was shifted by {hours(shift.seconds)} to UTC",
                value=float(shift.seconds),
            )
        )
    return (event_row(event, SOURCE) for event in told)
