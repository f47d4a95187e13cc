"""The simulated fleet: how fast a day of 1,000 devices is stored, and whether its physics is that of real devices."""

import csv
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.rows import Row
from collector.catalogue import POWER
from collector.sources.simulated import simulate
from collector.sources.simulated_fleet import CELL_S, NS, parse
from collector.sources.simulated_history import Simulation
from collector.store import Store

DEVICES, STEP_S, DAY_S = 1000, 10, 86_400
START_NS = 1_788_220_800 * NS
MIX = {"H100": 0.5, "B200": 0.2, "A100": 0.1, "MI300X": 0.1, "Gaudi3": 0.1}
DATA = Path(__file__).parents[1] / "../shared/data"
BENCHMARK = "simulate"
VIRUS_TIME = 1.545
"""Time for the same work of a bf16 power virus at 550 of 900 W on a B300, as measured."""


def run() -> list[Row]:
    """Speed, then the physics against what was recorded where the recordings are at hand."""
    return [*_day(), *_energy_within_a_day(), *_caps(), *_mlperf(), *_windows()]


def _day() -> list[Row]:
    """A day into a store, the writing beside the simulating, each on its own core."""
    options = {"devices": DEVICES, "sites": 3, "mix": MIX, "faults": 0.02, "origin": START_NS}
    root = Path(tempfile.mkdtemp(prefix="perfwatt-simulate-"))
    rows = values = metrics = 0
    busy = 0.0
    try:
        store = Store.create(root / "store")
        began = time.perf_counter()
        busy = time.process_time()
        with ThreadPoolExecutor(1) as writing:
            waiting: list[Future[object]] = []
            for tables in simulate(options, START_NS, START_NS + DAY_S * NS, STEP_S):
                for table, columns in tables.items():
                    measured = [
                        name for name, column in columns.items() if getattr(column, "dtype", None) == np.float64
                    ]
                    if table == "device_samples":
                        rows += len(columns["time"])
                        metrics = max(metrics, len(measured))
                    values += len(measured) * len(columns["time"])
                    waiting.append(writing.submit(store.write, table, columns, writer="simulated"))
                # Two hours at most wait to be written: memory stays bounded.
                while len(waiting) > 2:
                    waiting.pop(0).result()
            for write in waiting:
                write.result()
        took = time.perf_counter() - began
        size = sum(path.stat().st_size for path in root.rglob("*.parquet"))
    finally:
        shutil.rmtree(root)
    busy = time.process_time() - busy
    began = time.perf_counter()
    rng = np.random.default_rng(0)
    for _ in range(24):
        rng.standard_normal(values // 24)
    numpy_s = time.perf_counter() - began
    subject = f"{DEVICES} devices, a day at {STEP_S} s, {metrics} device metrics, stored"
    return [
        Row(
            benchmark=BENCHMARK, subject=subject, measure="time", value=took, unit="s",
            peer="numpy: as many normal numbers, not stored", peer_value=numpy_s, bar="< 60 s", ok=took < 60,
        ),
        Row(
            benchmark=BENCHMARK, subject=subject, measure="speed", value=rows / took, unit="device rows/s",
            peer="numpy: as many normal numbers, not stored", peer_value=rows / numpy_s,
        ),
        Row(benchmark=BENCHMARK, subject=subject, measure="processor time", value=busy, unit="s"),
        Row(benchmark=BENCHMARK, subject=subject, measure="size", value=size / values, unit="bytes/value"),
    ]  # fmt: skip


def _energy_within_a_day() -> list[Row]:
    """Counters against true energy (which they see through their gain), and power read at 1 Hz against counters."""
    simulation = Simulation(parse({"devices": 64, "mix": MIX, "origin": START_NS}), START_NS)
    block = simulation.advance()
    times = START_NS + np.arange(3600) * NS
    power = simulation.sensors.devices(block, times)[POWER]
    true = simulation.sensors.true_energy(block, times)
    read = np.trapezoid(power, times / NS, axis=1) / simulation.physics.parts.gain
    error = np.abs(read / (true[-1] - true[0]) - 1)
    return [
        Row(
            benchmark=BENCHMARK, subject="64 devices, an hour read at 1 Hz", measure="integrated over true energy",
            value=float(error.max() * 100), unit="% worst error", bar="< 1 %", ok=bool(error.max() < 0.01),
        )
    ]  # fmt: skip


def _caps() -> list[Row]:
    """Energy and time of training at a lower limit, against measured sweeps (Zeus: medians over configurations)."""
    recorded = _zeus(0.6)
    if recorded is None:
        return []
    spent = {}
    for share in (1.0, 0.6):
        fault = [{"kind": "power_cap", "subject": 0, "start": 0, "end": 7200, "value": share}]
        options = parse({"devices": 8, "seed": 2, "faults": fault, "origin": START_NS, "noise": 0})
        block = Simulation(options, START_NS).advance()
        number = next(number for number, job in enumerate(block.jobs) if job.kind == "training")
        devices = list(block.jobs[number].devices)
        steps = block.job_steps[-1, number] - block.job_steps[59, number]
        spent[share] = ((block.true_j[-1, devices] - block.true_j[60, devices]).sum() / steps, 3010 / steps)
    rows = []
    # What a cap costs depends on the work: Zeus' networks seldom need the whole limit, a power virus always does.
    for place, (what, low, high) in enumerate((("energy", 0.70, 0.95), ("time", 1.05, VIRUS_TIME))):
        value, peer = spent[0.6][place] / spent[1.0][place], recorded[place]
        rows.append(
            Row(
                benchmark=BENCHMARK,
                subject="training at 60 % of the power limit",
                measure=f"{what} for the same work",
                value=float(value),
                unit="of that at full power",
                peer="measured: V100, Zeus sweeps (median)",
                peer_value=peer,
                bar=f"{low:g} to {high:g}",
                ok=bool(low < value < high),
            )
        )
    return rows


def _zeus(share: float) -> tuple[float, float] | None:
    path = DATA / "efficiency/zeus/summary_power_v100.csv"
    if not path.exists():
        return None
    runs: dict[tuple[str, ...], dict[float, tuple[float, float]]] = {}
    for row in csv.DictReader(path.open(encoding="utf-8")):
        config = (row["dataset"], row["network"], row["batch_size"], row["optimizer"])
        took = float(row["time_per_epoch"])
        runs.setdefault(config, {})[float(row["power_limit"])] = (took * float(row["average_power"]), took)
    capped = 250 * share
    pairs = [(limits[capped], limits[250.0]) for limits in runs.values() if capped in limits and 250.0 in limits]
    energy, took = (float(np.median([low[i] / full[i] for low, full in pairs])) for i in (0, 1))
    return energy, took


def _mlperf() -> list[Row]:
    """Mean wall power of 8 x H100 nodes in training over eight times the rated power, simulated and recorded."""
    path = DATA / "mlperf/tables/training_node_runs.csv"
    if not path.exists():
        return []
    recorded = [
        float(row["mean_w"]) / 5600
        for row in csv.DictReader(path.open(encoding="utf-8"))
        if "1xSMC-H100" in row["system"] and float(row["n"]) >= 60
    ]
    simulation = Simulation(parse({"devices": 64, "origin": START_NS}), START_NS)
    block = simulation.advance()
    simulated = []
    for job in (job for job in block.jobs if job.kind == "training" and job.end_ns > START_NS + 3600 * NS):
        for host in {int(simulation.fleet.host_of[device]) for device in job.devices}:
            first = max(1, (job.start_ns - START_NS) // (CELL_S * NS) + 1)
            simulated.append(float(block.platform_w[first:, host].mean()) / 5600)
    low, high = float(np.min(recorded)), float(np.max(recorded))
    mean = float(np.mean(simulated))
    return [
        Row(
            benchmark=BENCHMARK, subject="8 x H100 node in training", measure="mean wall power", value=mean,
            unit="of the devices' rated power", peer="measured: MLPerf training, median node run",
            peer_value=float(np.median(recorded)), bar=f"within what was measured, {low:.2f} to {high:.2f}",
            ok=low <= mean <= high,
        )
    ]  # fmt: skip


def _windows() -> list[Row]:
    """From 10 to 90 % of a step of load in the average that the sensor gives, simulated (H100) and recorded (3090)."""
    recorded = _rise_recorded()
    if recorded is None:
        return []
    simulation = Simulation(parse({"devices": 256, "origin": START_NS, "noise": 0}), START_NS)
    block = simulation.advance()
    # The lull between two steps has to be longer than the window, or the average never falls to it.
    training = [job for job in block.jobs if job.kind == "training" and job.start_ns < START_NS]
    job = max(training, key=lambda job: (1 - job.duty) * job.period_s)
    times = START_NS + 1400 * NS + np.arange(0, 20 * NS, NS // 100)
    power = simulation.sensors.devices(block, times)[POWER][job.devices[0]]
    value = _rise(times / NS, power)
    return [
        Row(
            benchmark=BENCHMARK, subject="power.draw after a step of load", measure="rise from 10 to 90 %", value=value,
            unit="s", peer="measured: RTX 3090, the same 1 s window", peer_value=recorded,
            bar="within 0.2 s of measured", ok=abs(value - recorded) < 0.2,
        )
    ]  # fmt: skip


def _rise(at_s: "np.ndarray", power: "np.ndarray") -> float:
    """Seconds that the steepest rise takes between 10 and 90 % of its height."""
    low, high = np.percentile(power, 3), np.percentile(power, 90)
    above = power > low + 0.9 * (high - low)
    ups = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    took = []
    for up in ups:
        below = np.flatnonzero(power[:up] < low + 0.1 * (high - low))
        if below.size:
            took.append(float(at_s[up] - at_s[below[-1]]))
    return float(np.median(took))


def _rise_recorded() -> float | None:
    path = DATA / "sensors/Transient_Response_3090_TR/gpudata.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as lines:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    names = [name.split(" ")[0] for name in rows[0]]
    column, stamp = names.index("power.draw"), names.index("timestamp")
    day = np.array([_seconds(row[stamp]) for row in rows[1:] if len(row) == len(names)])
    power = np.array([float(row[column].removesuffix(" W")) for row in rows[1:] if len(row) == len(names)])
    return _rise(day, power)


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = stamp.split(" ")[1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
