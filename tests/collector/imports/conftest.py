"""What the import tests share: the recordings, a store to look into, and a real Prometheus server."""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from collector.store import Store

SHARED = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture
def recordings() -> Path:
    """The folder of real recordings."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data: the recordings are not part of the repository")
    return SHARED


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def stored(store: Store) -> Callable[[str], pl.DataFrame]:
    """All rows of a table, as a reader of the store gets them, sorted."""

    def read(table: str) -> pl.DataFrame:
        if table not in store.tables():
            return pl.DataFrame()
        with store.connect() as connection:
            found = connection.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in found.description]
            rows = found.fetchall()
        return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)

    return read


@pytest.fixture
def prometheus(tmp_path: Path) -> Callable[[str], object]:
    """Starts Debian's Prometheus over samples in OpenMetrics text; gives its URL within the context."""
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian package prometheus)")

    @contextmanager
    def serve(openmetrics: str) -> Iterator[str]:
        text = tmp_path / "samples.om"
        text.write_text(openmetrics)
        blocks = tmp_path / "tsdb"
        subprocess.run(
            ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(blocks)],
            check=True,
            capture_output=True,
        )
        configuration = tmp_path / "prometheus.yml"
        configuration.write_text("{}\n")
        port = _free_port()
        server = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={blocks}",
                "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/-/ready", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)

    return serve


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Callable[[str], object]:
    """Starts Debian's VictoriaMetrics and gives it samples in OpenMetrics text; gives its URL within the context."""
    program = shutil.which("victoria-metrics")
    if program is None:
        pytest.skip("victoria-metrics is not installed (Debian package victoria-metrics)")

    @contextmanager
    def serve(openmetrics: str) -> Iterator[str]:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        options = [f"-storageDataPath={tmp_path / 'vm'}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait(f"{url}/health", server)
            # It takes the text format, whose times are milliseconds.
            split = [line.rsplit(" ", 1) for line in openmetrics.splitlines() if line and not line.startswith("#")]
            text = "\n".join(f"{series} {round(float(at) * 1000)}" for series, at in split)
            for path, body in (("/api/v1/import/prometheus", text.encode()), ("/internal/force_flush", None)):
                with urllib.request.urlopen(f"{url}{path}", data=body, timeout=60):
                    pass
            yield url
        finally:
            server.terminate()
            server.wait(30)

    return serve


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError("the server is not ready within a minute")
