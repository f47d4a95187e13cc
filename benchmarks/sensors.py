"""
What a sensor does, and energy with and without a calibration: nvidia-smi beside an external 4.78 kHz meter.

Every figure goes the way of a user: import, store, calibrate, energy. The meter's joules are summed here, over the same
seconds, by a loop over the CSV. A calibration is judged on another recording than it was fitted on, in both directions.
"""

import csv
import gzip
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from analytics.boards import latest_fits
from analytics.calibration import calibrate, calibrated_energy
from analytics.frames import scan
from analytics.sensors import arrays, response, update_period
from benchmarks.rows import Row
from collector.imports.clocks import zone_of
from collector.imports.nvidia_smi import read_query
from collector.imports.report import take_in
from collector.imports.table import read_mapping, read_table
from collector.store import Store

DATA = Path(__file__).parents[1] / "../shared/data/sensors"
H100 = Path(__file__).parents[1] / "tests/recordings/h100"
MAPPING = """
table = "facility_samples"
[time]
column = "unix_ms"
format = "unix_ms"
[subject]
value = "pmd"
[metrics]
meter_power_w = { column = "pmd_w", unit = "W" }
"""
RUNS = {
    "A100": ("Transient_Response_A100_TR", "5050_A100"),
    "RTX 3090": ("Transient_Response_3090_TR", "5050_3090"),
}
METRICS = {"A100": ("power_w",), "RTX 3090": ("power_w", "power_instant_w")}
# As published: update period and averaging window by architecture and driver.
WINDOWS = {("A100", "power_w"): 0.025, ("RTX 3090", "power_w"): 1.0, ("RTX 3090", "power_instant_w"): 0.1}
PERIODS = {"A100": (0.1, 0.005), "V100": (0.02, 0.003), "RTX 3090": (0.1, 0.005)}
ENERGY_BAR = 0.02
WINDOW_BAR = 0.25


def run() -> list[Row]:
    if not DATA.is_dir():
        return [*h100(), row("recordings", "present", 0, "", bar="not measured: no ../shared/data", ok=None)]
    with tempfile.TemporaryDirectory() as folder:
        mapping = Path(folder) / "meter.toml"
        mapping.write_text(MAPPING)
        stores = {name: stored(Path(folder) / name, name, mapping) for names in RUNS.values() for name in names}
        rows = h100() + periods(Path(folder))
        for board, names in RUNS.items():
            rows += [found for name in names for found in period_rows(board, name, samples(stores[name]))]
            for metric in METRICS[board]:
                rows += windows(board, metric, names, stores)
                rows += energies(board, metric, names, stores)
    return rows


def row(subject: str, measure: str, value: float, unit: str, *, bar: str, ok: bool | None, **peer: object) -> Row:
    return Row(benchmark="sensors", subject=subject, measure=measure, value=value, unit=unit, bar=bar, ok=ok, **peer)  # type: ignore[arg-type]


def stored(root: Path, name: str, mapping: Path) -> Store:
    store = Store.create(root)
    smi = read_query(DATA / name / "gpudata.csv", tz=zone_of("+01:00"), host="lab", devices={"": "GPU"})
    assert take_in("nvidia-smi", name, smi, store).ok
    meter = read_table(DATA / name / "meter_5ms.csv", read_mapping(mapping))
    assert take_in("table", name, meter, store).ok
    return store


def samples(store: Store) -> pl.LazyFrame:
    return scan(store, "device_samples")


# --------------------------------------------------------------------------------------- a board and its energy counter


def h100() -> list[Row]:
    """Both power sensors of an H100, read every 3 ms; the meter is the mean power between ticks of its own counter."""
    read = pl.read_csv(gzip.decompress((H100 / "fast.csv.gz").read_bytes()))
    time_s = (read["time_ns"] - read["time_ns"][0]).to_numpy() / 1e9
    joules = read["energy_mj"].to_numpy() / 1e3
    ticks = np.flatnonzero(np.diff(joules)) + 1
    meter_s = (time_s[ticks[1:]] + time_s[ticks[:-1]]) / 2
    meter_w = np.diff(joules[ticks]) / np.diff(time_s[ticks])
    rows = []
    for name, published in (("average", 1.0), ("instant", 0.025)):
        watts = read[f"{name}_mw"].to_numpy() / 1e3
        period_s = update_period(time_s, watts).update_period_s
        rows.append(row(f"H100 {name}", "update period", period_s or 0.0, "s", peer="published", peer_value=0.1,
                        bar="within 5 ms", ok=period_s is not None and abs(period_s - 0.1) <= 0.005))  # fmt: skip
        found = response(time_s, watts, meter_s, meter_w)
        assert found is not None
        window_s = found.window.window_s
        if window_s is None:
            rows.append(row(f"H100 {name}: not identifiable, and said so; at most", "averaging window",
                            found.window.at_most_s or 0.0, "s", peer="published", peer_value=published,
                            bar="", ok=None))  # fmt: skip
            continue
        rows.append(row(f"H100 {name}", "averaging window", window_s, "s", peer="published", peer_value=published,
                        bar=f"within {WINDOW_BAR:.0%}", ok=abs(window_s / published - 1) <= WINDOW_BAR))  # fmt: skip
    samples = scan(H100 / "store", "device_samples").sort("time").collect()
    at_s, counter_j = samples["time"].cast(pl.Int64).to_numpy() / 1e9, samples["energy_j"].to_numpy()
    for column in ("power_average_w", "power_instant_w"):
        integral_j = float(np.trapezoid(samples[column].to_numpy(), at_s))
        off = integral_j / float(counter_j[-1] - counter_j[0]) - 1
        rows.append(row(f"H100, 141 s of many loads, {column} at 10 Hz", "integral over the counter, less one", off, "",
                        bar="within 2 %", ok=abs(off) <= ENERGY_BAR))  # fmt: skip
    return rows


# ------------------------------------------------------------------------------------------------------- update periods


def periods(folder: Path) -> list[Row]:
    rows = []
    for path in sorted((DATA / "update_period").glob("*_gpudata.csv")):
        board = path.name.split("_")[0]
        store = Store.create(folder / path.stem)
        smi = read_query(path, tz=zone_of("+01:00"), host="lab", devices={"": "GPU"})
        assert take_in("nvidia-smi", path.name, smi, store).ok
        rows += period_rows(board, path.stem, samples(store))
    return rows


def period_rows(board: str, name: str, found: pl.LazyFrame) -> list[Row]:
    time_s, watts, _ = arrays(found.collect(), "power_w")
    inferred = update_period(time_s, watts).update_period_s
    published, bar = PERIODS[board]
    return [
        row(f"{board}, {name}", "update period", inferred or 0.0, "s", peer="published", peer_value=published,
            bar=f"within {bar * 1e3:g} ms", ok=inferred is not None and abs(inferred - published) <= bar),
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- averaging windows


def windows(board: str, metric: str, names: tuple[str, str], stores: dict[str, Store]) -> list[Row]:
    """The window from each recording; one that cannot tell says so, and then the other one must."""
    published = WINDOWS[board, metric]
    rows, told = [], 0
    for name in names:
        time_s, watts, origin = arrays(samples(stores[name]).collect(), metric)
        meter_s, meter_w, _ = arrays(scan(stores[name], "facility_samples").collect(), "meter_power_w", origin)
        found = response(time_s, watts, meter_s, meter_w)
        assert found is not None
        inferred = found.window.window_s
        told += inferred is not None
        if inferred is None:
            subject = f"{board} {metric}, {name}: not identifiable, and said so; at most"
            rows.append(row(subject, "averaging window", found.window.at_most_s or 0.0, "s", peer="published",
                            peer_value=published, bar="", ok=None))  # fmt: skip
            continue
        rows.append(row(f"{board} {metric}, {name}", "averaging window", inferred, "s", peer="published",
                        peer_value=published, bar=f"within {WINDOW_BAR:.0%}",
                        ok=abs(inferred / published - 1) <= WINDOW_BAR))  # fmt: skip
    rows.append(row(f"{board} {metric}", "recordings that tell the window", told, "", bar=">= 1", ok=told >= 1))
    return rows


# --------------------------------------------------------------------------------------------------------------- energy


def energies(board: str, metric: str, names: tuple[str, str], stores: dict[str, Store]) -> list[Row]:
    rows = []
    for fitted, tested in (names, names[::-1]):
        fit = calibrate(
            samples(stores[fitted]).with_columns(power_w=metric), scan(stores[fitted], "facility_samples")
        ).lazy()
        begin_ms, end_ms, joules = by_meter(DATA / tested / "meter_5ms.csv")
        within = samples(stores[tested]).filter(
            pl.col("time").cast(pl.Int64).is_between(begin_ms * 10**6, end_ms * 10**6)
        )
        found = calibrated_energy(within.with_columns(power_w=metric), latest_fits(fit)).collect().row(0, named=True)
        expected = joules * found["covered_s"] * 1e3 / (end_ms - begin_ms)
        raw, corrected = found["energy_raw_j"] / expected - 1, found["energy_j"] / expected - 1
        about = f"{board} {metric}, {tested}"
        held, half = f"{about}, calibrated on {fitted}", found["energy_high_j"] / found["energy_j"] - 1
        rows += [
            row(about, "energy deviation without calibration", raw, "", bar="", ok=None),
            row(held, "energy deviation", corrected, "", bar=f"<= {ENERGY_BAR:g}", ok=abs(corrected) <= ENERGY_BAR),
            row(held, "half of the interval", half, "", bar="holds the meter",
                ok=found["energy_low_j"] <= expected <= found["energy_high_j"]),
        ]  # fmt: skip
    return rows


def by_meter(path: Path) -> tuple[int, int, float]:
    """First and last millisecond of the meter's CSV, and the joules between by the trapezoid rule."""
    with path.open(newline="") as file:
        readings = [(int(line["unix_ms"]), float(line["pmd_w"])) for line in csv.DictReader(file)]
    joules = sum((p0 + p1) / 2 * (t1 - t0) / 1e3 for (t0, p0), (t1, p1) in pairwise(readings))
    return readings[0][0], readings[-1][0], joules
