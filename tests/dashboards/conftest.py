"""A small store whose numbers are known, and the pages over it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import polars as pl
import pytest

from collector.store import Store

NS = 1_000_000_000
END_NS = int(datetime(2026, 3, 4, 12, 0, tzinfo=UTC).timestamp()) * NS
PERIOD_S = 5
ROWS = 181
"""A quarter of an hour, both ends included."""

FLEET = """
[[site]]
name = "oslo"
hosts = ["node-a*"]

[[site]]
name = "dallas"
hosts = ["node-b1"]
"""


def times() -> list[int]:
    # The last reading is a second before the end.
    return [END_NS - NS - n * PERIOD_S * NS for n in reversed(range(ROWS))]


def devices() -> pl.DataFrame:
    """Two measured devices in Oslo, one modelled in Dallas that has a spike and a gap."""
    frames = []
    for device, host, watts, method in (
        ("GPU-a1", "node-a1", 300.0, "instant"),
        ("GPU-a2", "node-a2", 400.0, "instant"),
        ("TPU-b1", "node-b1", 100.0, "modelled"),
    ):
        power = [watts] * ROWS
        if device == "TPU-b1":
            power[100] = 900.0
        frame = pl.DataFrame(
            {
                "device": device,
                "time": pl.Series(times(), dtype=pl.Int64).cast(pl.Datetime("ns")),
                "source": "test",
                "host": host,
                "power_method": method,
                "power_scope": "device",
                "power_w": power,
                "utilization_ratio": [0.25 if device == "GPU-a1" else 0.75] * ROWS,
            }
        )
        if device == "TPU-b1":
            frame = pl.concat([frame[:30], frame[60:]])
        frames.append(frame)
    return pl.concat(frames)


@pytest.fixture(scope="session")
def samples() -> pl.DataFrame:
    return devices()


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    store = Store.create(root)
    store.write("device_samples", devices())
    moments = pl.Series(times(), dtype=pl.Int64).cast(pl.Datetime("ns"))
    tokens = [1000.0 * PERIOD_S * n for n in range(ROWS)]
    work = pl.DataFrame(
        {
            "workload": "vllm",
            "time": moments,
            "source": "test",
            "host": "node-a1",
            "model": "llama",
            "tokens_out": tokens,
        }
    )
    store.write("workload_samples", work)
    first = moments[0]
    store.write(
        "allocations",
        pl.DataFrame({"workload": ["vllm"], "device": ["GPU-a1"], "start": [first], "time": [first], "share": [1.0]}),
    )
    (root / "fleet.toml").write_text(FLEET, encoding="utf-8")
    return root


@pytest.fixture
def clock_ns() -> Callable[[], int]:
    return lambda: END_NS


@pytest.fixture(scope="session")
def serving() -> Callable[..., "Serving"]:
    return Serving


class Serving:
    """The pages over a store, on a free port, in a thread of this process."""

    def __init__(self, root: Path, clock_ns: Callable[[], int]) -> None:
        import uvicorn

        from dashboards.app import create
        from dashboards.data import FleetData

        app = create(root, data=FleetData(root, clock_ns=clock_ns))
        self._server = uvicorn.Server(uvicorn.Config(app.server, host="127.0.0.1", port=0, log_level="error"))
        self._thread = Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        end_s = monotonic() + 30
        while not self._server.started:
            assert monotonic() < end_s, "the server did not start"
            sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture(scope="session")
def url(store_root: Path) -> Iterator[str]:
    with Serving(store_root, lambda: END_NS) as address:
        yield address
