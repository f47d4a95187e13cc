"""
MLPerf training: ``result_N.txt`` (MLLOG) with ``power/result_N/node_K.txt`` and ``sw_K.txt`` beside it.

Power is the machine's, at the wall (AC) or behind the supplies (DC); it is stored as it was read, and the report says
which. A node becomes a host, a switch a meter, a run a workload with the samples it had processed when it said so.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from collector.catalogue import HOST_PLATFORM_POWER, METER_POWER, SAMPLES, STEPS
from collector.errors import ImportFailed
from collector.imports.clocks import Shift, Zone, find_shift, hours, out_of_order
from collector.imports.lines import read_lines
from collector.imports.mllog import Entry, entries, is_number
from collector.imports.report import Account, Unit, merged
from collector.imports.submission import Submission, submission_of
from collector.imports.tables import allocation_row, event_row, rows
from collector.sample import Allocation, Event, Severity

SOURCE = "import:mlperf-training"
_MS = 1_000_000
# What ``epoch_num`` counts differs by benchmark (MLPerf training rules); others tell samples_count or nothing.
_EPOCH_IS_SAMPLES = {"bert", "unet3d"}
_EPOCH_IS_EPOCHS = {"resnet", "ssd", "dlrm_dcnv2"}


@dataclass(slots=True)
class _Run:
    """What a result file says of its run."""

    name: str
    account: Account
    begin: Entry | None = None
    end: Entry | None = None
    values: dict[str, Any] = field(default_factory=dict)
    progress: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[Entry] = field(default_factory=list)
    throughputs: list[float] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        return str(self.values.get("submission_benchmark", "unknown"))


@dataclass(slots=True)
class _PowerLog:
    """One power log: readings by millisecond, each with all the values that carry it."""

    name: str
    account: Account
    readings: dict[int, list[float]] = field(default_factory=dict)
    measurement: str | None = None
    conversion: float | None = None


def read_training(directory: Path, *, host: str | None = None, tz: Zone | None = None) -> Iterator[Unit]:
    """
    The runs below *directory*, in order: one unit for each ``power/result_N``.

    *host* names the system instead of what its files call it; *tz* is the offset of logs whose clock is not UTC, for
    when it cannot be found from the run's start and stop. Raises: ImportFailed.
    """
    if not directory.is_dir():
        raise ImportFailed(directory, "is no directory")
    folders = sorted(
        folder for folder in directory.rglob("*") if folder.is_dir() and folder.parent.name == "power" and _logs(folder)
    )
    for folder in folders:
        yield _unit(folder, host=host, tz=tz)


def _logs(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.glob("*.txt") if path.stem.split("_")[0] in {"node", "sw", "switch"}),
        key=lambda path: (path.stem.split("_")[0], len(path.stem), path.stem),
    )


def _unit(folder: Path, *, host: str | None, tz: Zone | None) -> Unit:
    place = folder.parent.parent
    result = place / f"{folder.name}.txt"
    logs = [_read_power(path) for path in _logs(folder)]
    run = _read_result(result) if result.is_file() else _Run(folder.name, Account(result))
    submission = submission_of(place)
    system = host or str(run.values.get("submission_platform") or submission.system or place.resolve().name)
    workload = f"mlperf-training/{system}/{run.benchmark}/{run.name}"
    unit = Unit(
        name=str(result),
        identity=("mlperf-training", workload, str(run.begin.time_ns if run.begin else folder)),
        files=[run.account, *(log.account for log in logs)],
        facts={"system": system, "benchmark": run.benchmark, "workload": workload},
    )
    if run.begin is None or run.end is None:
        missing = "run_start" if run.begin is None else "run_stop"
        unit.error = f"no {missing} in {result}: the clocks of the power logs cannot be checked"
        return unit
    begin, end = run.begin, run.end
    unit.facts["run_s"] = round((end.time_ms - begin.time_ms) / 1e3, 3)
    unit.facts["status"] = end.metadata.get("status")
    if run.throughputs:
        unit.facts["throughput_samples_per_s"] = round(statistics.fmean(run.throughputs), 4)
    shifts = {log.name: _shift(log, run, tz) for log in logs if log.readings}
    guessed = [log for log in logs if log.name in shifts and shifts[log.name].others]
    if guessed:
        names = ", ".join(log.name for log in guessed)
        unit.error = f"the clocks of {names} are off by one of several hours that fit; name the offset with --tz"
        return unit
    for log in logs:
        _note(unit, log, shifts.get(log.name))
    unit.frames = merged(
        {
            "host_samples": rows("host_samples", _host_rows(system, logs, shifts)),
            "facility_samples": rows("facility_samples", _switch_rows(system, logs, shifts)),
            "workload_samples": rows("workload_samples", _workload_rows(system, workload, run)),
            "allocations": rows("allocations", _allocations(system, workload, run, logs)),
            "events": rows("events", _events(system, workload, run, logs, shifts)),
            "results": rows("results", [_result(system, workload, run, submission)]),
        }
    )
    return unit


# ------------------------------------------------------------------------------------------------------ result_N.txt


def _read_result(path: Path) -> _Run:
    lines = read_lines(path)
    account = Account(path, lines=len(lines.texts))
    run = _Run(path.stem, account)
    for entry in entries(lines, account, only=False):
        account.kept["reading"] += 1
        match entry.key:
            case "run_start":
                run.begin = run.begin or entry
            case "run_stop":
                run.end = entry
            case "eval_accuracy" if is_number(entry.value):
                run.evaluations.append(entry)
            case "tracked_stats" if isinstance(entry.value, dict) and is_number(entry.value.get("throughput")):
                run.throughputs.append(entry.value["throughput"])
            case _ if entry.key.startswith("submission_") or entry.key in {"global_batch_size", "train_samples"}:
                run.values[entry.key] = entry.value
        samples = _samples(run, entry)
        if samples is not None:
            run.progress.append((entry.time_ns, samples))
    return run


def _samples(run: _Run, entry: Entry) -> float | None:
    """The samples processed so far, where the line says so."""
    count = entry.metadata.get("samples_count")
    if is_number(count):
        return float(count)
    epoch = entry.metadata.get("epoch_num")
    if entry.key != "eval_accuracy" or not is_number(epoch):
        return None
    if run.benchmark in _EPOCH_IS_SAMPLES:
        return float(epoch)
    per_epoch = run.values.get("train_samples")
    if run.benchmark in _EPOCH_IS_EPOCHS and is_number(per_epoch):
        return round(float(epoch) * float(per_epoch))
    return None


def _workload_rows(system: str, workload: str, run: _Run) -> Iterator[dict[str, Any]]:
    assert run.begin is not None
    batch = run.values.get("global_batch_size")
    reached: dict[int, float] = {run.begin.time_ns: 0.0}
    for time_ns, samples in run.progress:
        if time_ns >= run.begin.time_ns:
            reached[time_ns] = max(samples, reached.get(time_ns, 0.0))
    so_far = -1.0
    for time_ns, samples in sorted(reached.items()):
        if samples < so_far:
            continue
        so_far = samples
        row = {
            "workload": workload,
            "time": time_ns,
            "source": SOURCE,
            "host": system,
            "model": run.benchmark,
            "framework": "mlperf-training",
            SAMPLES.column: samples,
        }
        if is_number(batch) and batch and samples % batch == 0:
            row[STEPS.column] = samples / batch
        yield row


def _result(system: str, workload: str, run: _Run, submission: Submission) -> dict[str, Any]:
    """The run as a result; its own file's word counts before the description's."""
    assert run.begin is not None
    assert run.end is not None
    said = {name: run.values.get(f"submission_{key}") for name, key in (("submitter", "org"), ("division", "division"))}
    samples = max((samples for _, samples in run.progress), default=None)
    return {
        **submission.columns,
        **{name: str(value) for name, value in said.items() if value},
        "workload": workload,
        "time": run.end.time_ns,
        "source": SOURCE,
        "host": system,
        "suite": "mlperf-training",
        "system": system,
        "benchmark": run.benchmark,
        "phase": run.name,
        "metric": "train_s",
        "verdict": str(run.end.metadata.get("status") or "") or None,
        "start": run.begin.time_ns,
        "end": run.end.time_ns,
        "samples": samples,
        "samples_per_s": statistics.fmean(run.throughputs) if run.throughputs else None,
    }


# ------------------------------------------------------------------------------------------------------------- power


def _read_power(path: Path) -> _PowerLog:
    lines = read_lines(path)
    account = Account(path, lines=len(lines.texts))
    log = _PowerLog(path.stem, account)
    found: list[Entry] = []
    for entry in entries(lines, account, only=True):
        if entry.key == "power_reading":
            if is_number(entry.value) and entry.value < 0:
                account.kept["absent"] += 1
            elif not is_number(entry.value):
                account.refuse(entry.line, f"power_reading is no power: {entry.value!r}", lines.texts[entry.line - 1])
            else:
                found.append(entry)
            continue
        account.kept["other"] += 1
        if entry.key == "conversion_eff":
            log.measurement = entry.metadata.get("measurement_type")
            log.conversion = entry.value if is_number(entry.value) else None
    times = pl.DataFrame({"time": [round(entry.time_ms) for entry in found]}, schema={"time": pl.Datetime("ms")})
    wrong = times.select(out_of_order("time"))["time"].to_list() if found else []
    for entry, is_wrong in zip(found, wrong, strict=True):
        if is_wrong:
            account.refuse(entry.line, "its time does not fit the lines around it", lines.texts[entry.line - 1])
            continue
        values = log.readings.setdefault(round(entry.time_ms), [])
        account.kept["duplicate" if entry.value in values else "reading"] += 1
        if entry.value not in values:
            values.append(entry.value)
    return log


def _shift(log: _PowerLog, run: _Run, tz: Zone | None) -> Shift:
    assert run.begin is not None
    assert run.end is not None
    first, last = min(log.readings) / 1e3, max(log.readings) / 1e3
    begin, end = run.begin.time_ms / 1e3, run.end.time_ms / 1e3
    found = find_shift(first, last, begin, end)
    if tz is None or tz.offset_s is None or (found.seconds == 0 and found.covered > 0.5):
        return found
    covered = max(0.0, min(last - tz.offset_s, end) - max(first - tz.offset_s, begin)) / (end - begin)
    return Shift(-tz.offset_s, covered)


def _note(unit: Unit, log: _PowerLog, shift: Shift | None) -> None:
    notes = log.account.notes
    if shift is None:
        notes.append("no power reading")
        return
    if shift.seconds:
        notes.append(f"clock shifted by {hours(shift.seconds)} to meet the run")
        unit.facts.setdefault("clock_shifts_s", {})[log.name] = shift.seconds
    if shift.covered < 0.99:
        notes.append(f"covers {shift.covered:.1%} of the run")
    absent = log.account.kept["absent"]
    if absent:
        notes.append(f"{absent} negative readings (the meter had none): left absent")
    several = sum(len(values) > 1 for values in log.readings.values())
    if several:
        notes.append(f"{several} moments with several different readings: their mean is stored")
    if log.measurement:
        notes.append(f"measured as {log.measurement}, conversion efficiency {log.conversion}; stored as read")


def _is_switch(log: _PowerLog) -> bool:
    return not log.name.startswith("node")


def _readings(log: _PowerLog, shifts: dict[str, Shift]) -> Iterator[tuple[int, float]]:
    for time_ms, values in log.readings.items():
        yield time_ms * _MS + shifts[log.name].seconds * 1000 * _MS, statistics.fmean(values)


def _host_rows(system: str, logs: Sequence[_PowerLog], shifts: dict[str, Shift]) -> Iterator[dict[str, Any]]:
    for log in logs:
        if not _is_switch(log):
            for time_ns, watts in _readings(log, shifts):
                host = f"{system}-{log.name}"
                yield {"host": host, "time": time_ns, "source": SOURCE, HOST_PLATFORM_POWER.column: watts}


def _switch_rows(system: str, logs: Sequence[_PowerLog], shifts: dict[str, Shift]) -> Iterator[dict[str, Any]]:
    for log in logs:
        if _is_switch(log):
            for time_ns, watts in _readings(log, shifts):
                meter = f"{system}-{log.name}"
                yield {"meter": meter, "time": time_ns, "source": SOURCE, "host": system, METER_POWER.column: watts}


# ---------------------------------------------------------------------------------------------- allocations, events


def _allocations(system: str, workload: str, run: _Run, logs: Sequence[_PowerLog]) -> Iterator[dict[str, Any]]:
    """The whole machine is what was measured, so that the allocation's device is the machine."""
    assert run.begin is not None
    assert run.end is not None
    for log in logs:
        if not _is_switch(log):
            host = f"{system}-{log.name}"
            allocation = Allocation(
                time_ns=run.begin.time_ns,
                workload=workload,
                device=host,
                host=host,
                start_ns=run.begin.time_ns,
                end_ns=run.end.time_ns,
                name=run.benchmark,
                team=str(run.values.get("submission_org") or "") or None,
            )
            yield allocation_row(allocation, SOURCE)


def _events(
    system: str, workload: str, run: _Run, logs: Sequence[_PowerLog], shifts: dict[str, Shift]
) -> Iterator[dict[str, Any]]:
    assert run.begin is not None
    assert run.end is not None
    begin, end = run.begin, run.end
    told = [Event(time_ns=begin.time_ns, kind="run_start", host=system, code=run.name, message=workload)]
    told += [
        Event(time_ns=entry.time_ns, kind="evaluation", host=system, code=run.name, value=float(entry.value))
        for entry in run.evaluations
    ]
    status = str(end.metadata.get("status") or "")
    severity = Severity.INFO if status in {"", "success"} else Severity.WARNING
    message = f"{workload}: {status}".removesuffix(": ")
    told.append(
        Event(time_ns=end.time_ns, kind="run_stop", host=system, code=run.name, message=message, severity=severity)
    )
    told += [
        Event(
            time_ns=begin.time_ns,
            kind="clock_shifted",
            host=f"{system}-{log.name}",
            code=run.name,
            severity=Severity.WARNING,
            message=f"the power log's clock was shifted by {hours(shifts[log.name].seconds)} to meet the run",
            value=float(shifts[log.name].seconds),
        )
        for log in logs
        if log.name in shifts and shifts[log.name].seconds
    ]
    return (event_row(event, SOURCE) for event in told)
