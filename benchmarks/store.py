"""
The store beside VictoriaMetrics and Prometheus: the same samples in, the same questions, on one machine in one run.

Each is given samples by the ways in that a client has; what is sent is made beforehand. VictoriaMetrics has a native
format besides, its own encoded blocks, which only another instance can make: in the table without a bar.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from analytics import frames
from benchmarks.rows import Row
from benchmarks.store_fleet import DAY_MS, RECORDINGS, Sampled, fleet, inference_power, training_power
from benchmarks.store_peers import Prometheus, VictoriaMetrics
from collector.store import Store

DEVICES = 1000
REPEATS = 5
FEW_SAMPLES = 10_000_000
LATER_NS = 3600 * 10**9
ENERGY_QUERY = "increase(accel_energy_joules_total[1d])"
MEAN_QUERY = "avg(avg_over_time(accel_power_watts[5m]))"
MAX_QUERY = "max(max_over_time(accel_power_watts[5m]))"


def run(devices: int = DEVICES) -> list[Row]:
    # Yesterday, because Prometheus takes nothing much older than its newest sample and nothing from the future.
    end_ms = int(time.time() // 86_400) * DAY_MS
    rows: list[Row] = []
    recordings = [inference_power, training_power] if RECORDINGS.is_dir() else []
    for make in recordings:
        rows += _compare(make(end_ms), end_ms)
    return rows + _compare(fleet(devices, end_ms - DAY_MS), end_ms, queries=True)


def _compare(data: Sampled, end_ms: int, *, queries: bool = False) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="perfwatt-benchmark-"))
    try:
        return _measure(folder, data, end_ms, queries=queries)
    finally:
        shutil.rmtree(folder)


def _measure(folder: Path, data: Sampled, end_ms: int, *, queries: bool) -> list[Row]:
    # The best of several for each, so that what else the machine does weighs on none; of many samples one will do.
    attempts = 3 if data.samples <= FEW_SAMPLES else 1
    ours, processor_s = 0.0, float("inf")
    columns = data.columns()
    for attempt in range(attempts):
        store = Store.create(folder / f"store-{attempt}")
        began, before = time.perf_counter(), time.process_time()
        store.write(data.table, columns)
        ours = max(ours, data.samples / (time.perf_counter() - began))
        processor_s = min(processor_s, time.process_time() - before)
        if attempt < attempts - 1:
            shutil.rmtree(store.root)
    written = sum(segment.bytes for segment in store.segments(data.table)) / data.samples
    began = time.perf_counter()
    # As an hour later: what is over is packed then. The peer is asked for its final merge, too, before it is weighed.
    store.maintain(time.time_ns() + LATER_NS)
    upkeep_s = time.perf_counter() - began
    size = sum(segment.bytes for segment in store.segments(data.table)) / data.samples

    metrics = VictoriaMetrics(folder / "victoria")
    prometheus = Prometheus(folder / "prometheus")
    try:
        rates = metrics.ingest(data, attempts)
        prometheus_rate = prometheus.ingest(data)
        best = max(rate for way, rate in rates.items() if way != "native")
        theirs = metrics.bytes_on_disk() / data.samples
        rows = [
            _row(data, "ingest", ours, "samples/s", "VictoriaMetrics", best, "at least 5x", ours >= 5 * best),
            _row(data, "ingest", ours, "samples/s", "VictoriaMetrics, its own encoded blocks", rates["native"]),
            _row(data, "ingest", ours, "samples/s", "Prometheus, remote write", prometheus_rate),
            _row(data, "ingest", processor_s, "CPU s", "VictoriaMetrics, remote write", metrics.processor_s),
            _row(data, "size", size, "bytes/sample", "VictoriaMetrics", theirs, "at most as much", size <= theirs),
            _row(data, "size as written, until the day is packed", written, "bytes/sample"),
            _row(data, "rolling up and packing the day, once", upkeep_s, "s"),
        ]
        if (blocks := prometheus.bytes_per_sample(wait_s=60 if queries else 0)) is not None:
            rows.append(_row(data, "size", size, "bytes/sample", "Prometheus, blocks", blocks))
        return rows + (_queries(data, store, metrics, prometheus, end_ms) if queries else [])
    finally:
        metrics.close()
        prometheus.close()


def _queries(data: Sampled, store: Store, metrics: VictoriaMetrics, prometheus: Prometheus, end_ms: int) -> list[Row]:
    end_s = end_ms // 1000
    # A reading on the edge of two windows is of the earlier one, here as there.
    steps = {"start": end_s - 86_400 + 300, "end": end_s, "step": 300}

    def energy(peer: Any) -> dict[str, float]:
        found = peer.query("/api/v1/query", query=ENERGY_QUERY, time=end_s)
        return {series["metric"]["device"]: float(series["value"][1]) for series in found}

    def load(peer: Any) -> tuple[dict[int, float], ...]:
        found = [peer.query("/api/v1/query_range", query=query, **steps) for query in (MEAN_QUERY, MAX_QUERY)]
        return tuple({round(float(t)): float(v) for t, v in some["values"]} for (some,) in found)

    rows = []
    for name, ask, ours, raw in (
        ("energy per device for a day", energy, lambda: _energy(store), lambda: _energy_raw(store)),
        ("5-minute mean and max of the fleet", load, lambda: _load(store), lambda: _load_raw(store)),
    ):
        spent, answer = _fastest(ours)
        raw_spent, raw_answer = _fastest(raw)
        peers = {peer.name: _fastest(partial(ask, peer)) for peer in (metrics, prometheus)}
        for peer, (_, theirs) in peers.items():
            _agree(peer, answer, theirs)
        _agree("raw rows", answer, raw_answer)
        fastest = min(peers, key=lambda peer: peers[peer][0])
        quick = peers[fastest][0]
        rows.append(_row(data, name, spent, "s", fastest, quick, "at least 5x faster", spent * 5 <= quick))
        rows.append(_row(data, f"{name}, from raw rows", raw_spent, "s", fastest, quick))
        rows += [_row(data, name, spent, "s", peer, other) for peer, (other, _) in peers.items() if peer != fastest]
    return rows


def _row(
    data: Sampled,
    measure: str,
    value: float,
    unit: str,
    peer: str | None = None,
    peer_value: float | None = None,
    bar: str = "",
    ok: bool | None = None,
) -> Row:
    return Row(
        benchmark="store",
        subject=data.name,
        measure=measure,
        value=value,
        unit=unit,
        peer=peer,
        peer_value=peer_value,
        bar=bar,
        ok=ok,
    )


def _fastest(ask: Callable[[], Any]) -> tuple[float, Any]:
    best, answer = float("inf"), None
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer = ask()
        best = min(best, time.perf_counter() - began)
    return best, answer


def _energy(store: Store) -> dict[str, float]:
    rows = frames.scan(store, "device_rollups", where=pl.col("window_s") == 3600)
    return dict(rows.group_by("device").agg(pl.col("energy_increase_j").sum()).collect().iter_rows())


def _energy_raw(store: Store) -> dict[str, float]:
    rise = pl.col("energy_j").sort_by("time").diff().clip(0).sum()
    rows = frames.scan(store, "device_samples").group_by("device").agg(rise)
    return dict(rows.collect(engine="streaming").iter_rows())


def _load(store: Store) -> tuple[dict[int, float], dict[int, float]]:
    rows = frames.scan(store, "device_rollups", where=pl.col("window_s") == 300).group_by("time")
    mean = (pl.col("power_mean_w") * pl.col("rows")).sum() / pl.col("rows").sum()
    return _by_end(rows.agg(mean=mean, most=pl.col("power_max_w").max()).collect())


def _load_raw(store: Store) -> tuple[dict[int, float], dict[int, float]]:
    rows = frames.scan(store, "device_samples").group_by(
        # The first reading has no window before it.
        (pl.col("time") - pl.duration(nanoseconds=1)).clip(pl.col("time").min()).dt.truncate("5m").alias("time")
    )
    watts = pl.col("power_w")
    return _by_end(rows.agg(mean=watts.mean(), most=watts.max()).collect(engine="streaming"))


def _by_end(rows: pl.DataFrame) -> tuple[dict[int, float], dict[int, float]]:
    # PromQL names a window by its end, the store by its start.
    ends = (rows["time"].dt.epoch("s") + 300).to_list()
    return dict(zip(ends, rows["mean"], strict=True)), dict(zip(ends, rows["most"], strict=True))


def _agree(peer: str, ours: Any, theirs: Any) -> None:
    """Raise unless two answers have the same keys and values within 1 %."""
    pairs = list(zip(ours, theirs, strict=True)) if isinstance(ours, tuple) else [(ours, theirs)]
    for one, other in pairs:
        apart = {key for key in one.keys() & other.keys() if abs(one[key] - other[key]) > 0.01 * abs(other[key])}
        if apart or one.keys() ^ other.keys():
            sample = [(key, one.get(key), other.get(key)) for key in sorted(apart | (one.keys() ^ other.keys()))[:3]]
            raise AssertionError(f"{peer} answers otherwise: {len(apart)} of {len(one)} differ, as {sample}")


if __name__ == "__main__":
    import sys

    for row in run(int(sys.argv[1]) if len(sys.argv) > 1 else DEVICES):
        print(row)
