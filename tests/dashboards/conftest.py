"""A small store whose numbers are known, and the pages over it."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import axe_playwright_python
import polars as pl
import pytest

from collector.store import Store
from tests.dashboards import told

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


RUN_NS = int(datetime(2024, 7, 17, 9, 0, tzinfo=UTC).timestamp()) * NS


def results() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Runs of a benchmark of a minute each, and the power of their systems: four of bert, one of them ranging."""
    runs, power = [], []
    for at, (system, accelerator, count, benchmark, phase, rate, watts) in enumerate(
        (
            ("big", "Accel X", 8, "bert", "run_1", 4000.0, 1000.0),
            ("small", "Accel Y", 1, "bert", "run_1", 600.0, 100.0),
            ("beaten", "Accel Y", 1, "bert", "run_1", 500.0, 125.0),
            ("big", "Accel X", 8, "bert", "ranging", 3900.0, 990.0),
            ("big", "Accel X", 8, "rnnt", "run_1", 9000.0, 900.0),
        )
    ):
        begin = RUN_NS + at * 3600 * NS
        runs.append(
            {
                "workload": f"{system}/{benchmark}/{phase}",
                "time": begin + 60 * NS,
                "source": "test",
                "host": system,
                "suite": "mlperf-inference",
                "version": "v4.1",
                "division": "closed",
                "submitter": "Acme",
                "system": system,
                "benchmark": benchmark,
                "scenario": "offline",
                "phase": phase,
                "accelerator": accelerator,
                "accelerators": count,
                "start": begin,
                "end": begin + 60 * NS,
                "samples_per_s": rate,
            }
        )
        power += [
            {"host": system, "time": begin + n * NS, "source": "test", "platform_power_w": watts} for n in range(61)
        ]
    times = [pl.col(name).cast(pl.Datetime("ns")) for name in ("time", "start", "end")]
    return pl.DataFrame(runs).with_columns(times), pl.DataFrame(power).with_columns(times[0])


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
    runs, power = results()
    store.write("results", runs)
    store.write("host_samples", power)
    store.write("incidents", told.framed(store, "incidents", told.INCIDENTS))
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
        from dashboards.data.stored import Stored

        app = create(root, stored=Stored(root, clock_ns=clock_ns))
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
def told_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which jobs have told something; see told.py."""
    root = tmp_path_factory.mktemp("told")
    store = Store.create(root)
    store.write("device_samples", devices())
    told.fill(store)
    store.write("device_rollups", told.framed(store, "device_rollups", told.hot()))
    return root


@pytest.fixture(scope="session")
def told_url(told_root: Path) -> Iterator[str]:
    with Serving(told_root, lambda: told.NOW_NS) as address:
        yield address


@pytest.fixture(scope="session")
def url(store_root: Path) -> Iterator[str]:
    with Serving(store_root, lambda: END_NS) as address:
        yield address


# ------------------------------------------------------------------------------------------------------------ browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


class Tab:
    """A page, and everything it complained of or asked of others."""

    def __init__(self, browser: Any, base: str, *, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.base = base
        self.trouble: list[str] = []
        self.page.on("console", lambda m: m.type in {"error", "warning", "trace"} and self.trouble.append(m.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.trouble.append(f"asked {request.url}")

    def open(self, path: str) -> Any:
        """Open a page of the app and wait until it has its content."""
        self.page.goto(f"{self.base}{path}")
        self.filled()
        return self.page

    def filled(self) -> None:
        """Wait until what was asked is answered, and every chart that has something is drawn."""
        self.until(
            "document.querySelector('#page .pw-status')?.innerText"
            " && !document.querySelector('[aria-busy=true], [data-dash-is-loading=true]')"
            " && [...document.querySelectorAll('.pw-plot')].every(x => x.querySelector('.main-svg'))"
        )

    def until(self, script: str, *, for_s: float = 60.0) -> None:
        # Playwright's own wait_for_function compiles a string, which the page's policy rightly refuses.
        end_s = monotonic() + for_s
        while not self.page.evaluate(script):
            assert monotonic() < end_s, f"it did not happen: {script}"
            self.page.wait_for_timeout(50)

    def text(self, selector: str) -> str:
        """What a part says, in one line."""
        return " ".join(self.page.locator(selector).inner_text().split())

    def barriers(self) -> list[Any]:
        """What axe finds that shuts somebody out: rule, help, and where."""
        for grid in self.page.locator(".ag-root-wrapper:visible").all():
            grid.scroll_into_view_if_needed()
        self.page.wait_for_timeout(300)
        self.page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [(rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def tab_at(browser: Any, url: str) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, closes them, and holds that none had anything to complain of."""
    opened: list[Tab] = []

    def open_(path: str | None = None, *, base: str = url, **options: Any) -> Tab:
        tab = Tab(browser, base, **options)
        opened.append(tab)
        if path is not None:
            tab.open(path)
        return tab

    yield open_
    complaints = [tab.trouble for tab in opened]
    for tab in opened:
        tab.close()
    assert not any(complaints), complaints
