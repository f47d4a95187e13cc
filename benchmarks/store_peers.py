"""VictoriaMetrics and Prometheus as Debian ships them, each given samples by the fastest way it has."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hub import cpu_s
from benchmarks.store_fleet import Sampled

READY_S = 60.0
# Above this the making of JSON lines takes minutes; on fewer samples they are no faster than remote write.
JSON_SAMPLES = 10_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(url: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> bytes:
    request = urllib.request.Request(url, data=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return bytes(answer.read())


class Server:
    """A server of ours on 127.0.0.1, stopped by its own process number."""

    def __init__(self, arguments: list[str], port: int, health: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + READY_S
        while True:
            try:
                call(self.url + health)
                return
            except (urllib.error.URLError, ConnectionError):
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{arguments[0]} did not start") from None
                time.sleep(0.05)

    @property
    def processor_s(self) -> float:
        """Processor time it has taken."""
        return cpu_s(self._process.pid)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def query(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """The result of a PromQL query."""
        text = call(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}")
        answer: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return answer


class VictoriaMetrics:
    """
    Single-node VictoriaMetrics.

    It is timed on each way in that a client has, and besides on its own native format, blocks that are already encoded
    and that only another instance can make.
    """

    name = "VictoriaMetrics"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Server | None = None
        self._data = folder / "second"
        self.processor_s = float("inf")
        """What remote write took of the processor, at best."""

    def _start(self, data: Path) -> Server:
        port = free_port()
        arguments = ["victoria-metrics", f"-storageDataPath={data}", f"-httpListenAddr=127.0.0.1:{port}"]
        # Its default refuses queries that touch many samples or answer many points; the work asked here needs more.
        limits = [
            "-retentionPeriod=10y",
            "-search.maxSamplesPerQuery=4000000000",
            "-search.maxUniqueTimeseries=1000000",
        ]
        return Server([*arguments, *limits, "-dedup.minScrapeInterval=0"], port, "/health")

    def ingest(self, data: Sampled, attempts: int) -> dict[str, float]:
        """
        Samples per second until they can be queried, by way in; what is sent is made outside the time that counts.

        The best of *attempts* for each way of a client. The last instance stays, to be weighed and queried.
        """
        path, headers = "/api/v1/write", {"Content_Type": "application/x-protobuf", "Content_Encoding": "snappy"}
        rates = {"remote write": 0.0}
        for _ in range(attempts):
            with self._fresh() as server:
                before = server.processor_s
                rate = self._timed(server, path, remote_writes(data), data.samples, headers)
                self.processor_s = min(self.processor_s, server.processor_s - before)
                rates["remote write"] = max(rates["remote write"], rate)
                window = {"start": int(data.time_ms.min()) // 1000, "end": int(data.time_ms.max()) // 1000 + 1}
                query = urllib.parse.urlencode({"match[]": '{__name__!=""}', **window})
                native = call(f"{server.url}/api/v1/export/native?{query}")
        for _ in range(attempts if data.samples <= JSON_SAMPLES else 0):
            with self._fresh() as server:
                rate = self._timed(server, "/api/v1/import", _json_lines(data), data.samples, {})
                rates["JSON lines"] = max(rates.get("JSON lines", 0.0), rate)
        self._server = self._start(self._data)
        rates["native"] = self._timed(self._server, "/api/v1/import/native", iter([native]), data.samples, {})
        return rates

    @contextmanager
    def _fresh(self) -> Iterator[Server]:
        """An instance of no data, which goes again."""
        folder = self._folder / "first"
        server = self._start(folder)
        try:
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder)

    @staticmethod
    def _timed(server: Server, path: str, bodies: Iterator[bytes], samples: int, headers: dict[str, str]) -> float:
        spent = 0.0
        for body in bodies:
            began = time.perf_counter()
            call(server.url + path, body, **headers)
            spent += time.perf_counter() - began
        began = time.perf_counter()
        call(f"{server.url}/internal/force_flush")
        return samples / (spent + time.perf_counter() - began)

    def bytes_on_disk(self) -> int:
        """Data and index after a final merge."""
        assert self._server is not None
        call(f"{self._server.url}/internal/force_merge")
        size, steady = -1, 0
        # Merging goes on in the background, and memory is written out each five seconds: nothing may change for seven.
        while steady < 28:
            time.sleep(0.25)
            now = sum(path.stat().st_size for path in self._data.rglob("*") if path.is_file())
            steady, size = (steady + 1 if now == size else 0), now
        return size

    def query(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        assert self._server is not None
        # nocache: it must compute the answer each time, as the others do.
        return self._server.query(path, nocache=1, **parameters)

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()


class Prometheus:
    """Prometheus by remote write, its fastest way in that keeps it running."""

    name = "Prometheus"

    def __init__(self, folder: Path) -> None:
        self._data = folder / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "prometheus.yml"
        config.write_text("global: {}\n")
        port = free_port()
        self._server = Server(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._data}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-remote-write-receiver",
                "--storage.tsdb.retention.time=10y",
                "--query.max-samples=500000000",
                "--query.timeout=10m",
                "--log.level=error",
            ],
            port,
            "/-/ready",
        )

    def ingest(self, data: Sampled) -> float:
        """Samples per second of remote write; the bytes to send are made outside the time that counts."""
        spent = 0.0
        for body in remote_writes(data):
            began = time.perf_counter()
            call(
                f"{self._server.url}/api/v1/write",
                body,
                Content_Type="application/x-protobuf",
                Content_Encoding="snappy",
            )
            spent += time.perf_counter() - began
        return data.samples / spent

    def bytes_per_sample(self, wait_s: float) -> float | None:
        """Of the blocks it has made; the newest hours stay in memory and in its log. None if it has made none yet."""
        until = time.monotonic() + wait_s
        while not (metas := list(self._data.glob("*/meta.json"))) and time.monotonic() < until:
            time.sleep(0.5)
        if not metas:
            return None
        samples = sum(json.loads(meta.read_text())["stats"]["numSamples"] for meta in metas)
        size = sum(path.stat().st_size for meta in metas for path in meta.parent.rglob("*") if path.is_file())
        return float(size / samples)

    def query(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        return self._server.query(path, **parameters)

    def close(self) -> None:
        self._server.stop()


def _json_lines(data: Sampled) -> Iterator[bytes]:
    """Requests of VictoriaMetrics' JSON line format, fifty series each."""
    lines: list[str] = []
    for series in data.series():
        metric = {"__name__": series.name, **series.labels}
        lines.append(
            json.dumps({"metric": metric, "values": series.values.tolist(), "timestamps": series.time_ms.tolist()})
        )
        if len(lines) == 50:
            yield "\n".join(lines).encode()
            lines = []
    if lines:
        yield "\n".join(lines).encode()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _samples(values: np.ndarray, time_ms: np.ndarray) -> bytes:
    """Sample messages of remote write: a double and a varint of six bytes (any time between 2004 and 2109)."""
    record = np.dtype([("tag", "u1"), ("size", "u1"), ("t1", "u1"), ("value", "<f8"), ("t2", "u1"), ("time", "u1", 6)])
    out = np.zeros(len(values), record)
    out["tag"], out["size"], out["t1"], out["t2"] = 2 << 3 | 2, 16, 1 << 3 | 1, 2 << 3
    out["value"] = values
    shifts = np.arange(6, dtype=np.int64) * 7
    out["time"] = (time_ms[:, None] >> shifts & 0x7F) | np.array([0x80] * 5 + [0])
    return out.tobytes()


def _snappy(raw: bytes) -> bytes:
    """Snappy's framing without compression: literals only, which every decoder takes at its fastest."""
    out = [_varint(len(raw))]
    for at in range(0, len(raw), 65_536):
        piece = raw[at : at + 65_536]
        out += [bytes([61 << 2]), (len(piece) - 1).to_bytes(2, "little"), piece]
    return b"".join(out)


def remote_writes(data: Sampled, hour_ms: int = 3_600_000) -> Iterator[bytes]:
    """Requests in order of time, an hour of some hundred series each: a head takes nothing that is hours older."""
    series = list(data.series())
    first, last = int(data.time_ms.min()), int(data.time_ms.max())
    for start in range(first, last + 1, hour_ms):
        request: list[bytes] = []
        for one in series:
            low, high = np.searchsorted(one.time_ms, (start, start + hour_ms))
            if low == high:
                continue
            labels = sorted({"__name__": one.name, **one.labels}.items())
            head = b"".join(_field(1, _field(1, k.encode()) + _field(2, v.encode())) for k, v in labels)
            request.append(_field(1, head + _samples(one.values[low:high], one.time_ms[low:high])))
            if len(request) >= 500:
                yield _snappy(b"".join(request))
                request = []
        if request:
            yield _snappy(b"".join(request))
