"""
The pages as people meet them, in Chromium: how soon Home is there, and how soon a page follows another choice.

Two fleets: the one that ``perfwatt demo`` shows, and 500 devices of a fortnight at 10 s; what jobs make of them is
there, as it is on a host on which their timer runs. The demonstration is also looked at while most of its jobs still
run beside it, as in the first minutes after its start. The pages are served by a process of their own, as it has just
started. A page is painted when what it says stands in a frame of the browser, and at hand when its controls answer. A
choice is made as by hand: a control gets another value, and the time runs until what of it is in sight is drawn. No
choice is made twice, so none is answered from what was kept of itself.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any
from urllib.parse import quote

import numpy as np

from analytics.jobs.running import Documents
from analytics.jobs.running import run as run_jobs
from benchmarks.jobs import DAY_S, DAYS, DEVICES, NS, START_NS, STEP_S, fortnight
from benchmarks.rows import Row
from collector.sources.simulated import simulate
from collector.store import Store
from dashboards.demo import FIRST, JOBS_NICENESS
from dashboards.story import fleet_toml, options_of, plan_toml

BENCHMARK = "pages"
DEMO_DEVICES, DEMO_STEP_S = 240, 30
FIRST_HOURS = 30.0
"""As `perfwatt demo` has it."""
HOME_S, FILTER_MS = 2.0, 500.0
CHROMIUM = "/usr/bin/chromium"
OPENED = 5
OPENED_BESIDE, PAUSE_S = 12, 5.0
"""So often, and with such pauses, Home is opened while jobs run."""
# Before any script of the page: the frame after the one that has what the page says.
_PAINTED = """(() => {
    const look = () => requestAnimationFrame(() => {
        const said = document.querySelector('.pw-status')?.textContent && document.querySelector('.pw-tile');
        if (said) { requestAnimationFrame(() => { window.paintedAt = performance.now(); }); } else { look(); }
    });
    look();
})()"""
_READY = """document.querySelector('#page .pw-status')?.innerText
    && !document.querySelector('[aria-busy=true], [data-dash-is-loading=true]')
    && [...document.querySelectorAll('.pw-plot')].every(x => x.querySelector('.main-svg'))"""
# From the choice to the frame in which nothing is being worked out any more and what is in sight is drawn.
_CHOOSE = """async ([id, value]) => {
    const frame = () => new Promise(done => requestAnimationFrame(done));
    const busy = () => document.querySelector('#page[aria-busy=true], [data-dash-is-loading=true]');
    const began = performance.now();
    let seen = false;
    dash_clientside.set_props(id, {value: value});
    while (performance.now() - began < 120000) {
        await frame();
        if (busy()) { seen = true; }
        else if (seen || performance.now() - began > 2000) { break; }
    }
    await frame();
    return seen ? performance.now() - began : null;
}"""

Choice = tuple[str, Any]


def run() -> list[Row]:
    """Lay each fleet down, run the jobs, and use the pages."""
    folder = Path(tempfile.mkdtemp(prefix="perfwatt-pages-"))
    try:
        root, now_ns, size = demo(folder / "demo")
        rows = _begun(f"the demonstration's fleet ({size})", root, now_ns)
        rows += _judged(f"the demonstration's fleet ({size})", root, now_ns)
        shutil.rmtree(root)
        root, now_ns, size = large(folder / "large")
        return rows + _judged(f"a large fleet ({size})", root, now_ns)
    finally:
        shutil.rmtree(folder)


def demo(root: Path) -> tuple[Path, int, str]:
    """The fleet of ``perfwatt demo``: where it is, what time it is there, and how large it is in words."""
    end_ns = START_NS + DAYS * DAY_S * NS
    store, options = Store.create(root), options_of(DEMO_DEVICES, 24.0 * DAYS, START_NS)
    rows = 0
    for tables in simulate(options, START_NS, end_ns, DEMO_STEP_S):
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
            rows += len(columns["time"]) if name == "device_samples" else 0
    (root / "fleet.toml").write_text(fleet_toml(options), encoding="utf-8")
    (root / "plan.toml").write_text(plan_toml(end_ns), encoding="utf-8")
    _concluded(root, end_ns, FIRST, FIRST_HOURS)
    return root, end_ns, f"{DEMO_DEVICES} devices, {DAYS} days at {DEMO_STEP_S} s: {rows / 1e6:.0f} M rows"


def large(root: Path) -> tuple[Path, int, str]:
    """The fleet that the jobs are timed on."""
    rows, end_ns = fortnight(root), START_NS + DAYS * DAY_S * NS
    _concluded(root, end_ns)
    return root, end_ns, f"{DEVICES} devices, {DAYS} days at {STEP_S} s: {rows / 1e6:.0f} M rows"


def _concluded(root: Path, now_ns: int, names: Sequence[str] = (), hours: float | None = None) -> None:
    """Run the jobs *names*, or all, of the last *hours*, or of everything."""
    since_ns = None if hours is None else now_ns - round(hours * 3600) * NS
    outcomes = run_jobs(root, names=names, documents=Documents.read(root, fleet=None), start_ns=since_ns, now_ns=now_ns)
    wrong = [outcome.error for outcome in outcomes if outcome.state == "failed"]
    if wrong:
        raise RuntimeError(str(wrong[0]))


def _begun(subject: str, root: Path, now_ns: int) -> list[Row]:
    """Home while the jobs that take longer run beside the server, which has just started; then they are done."""
    from playwright.sync_api import sync_playwright

    opened: list[tuple[float, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with _beside(root, now_ns) as jobs, served(root, now_ns) as url:
            while len(opened) < OPENED_BESIDE and jobs.poll() is None:
                opened.append(_opened(browser, f"{url}/"))
                time.sleep(PAUSE_S)
        browser.close()
    return _home(subject, f"Home while jobs run, {len(opened)} times from the start of the server", opened)


def _home(subject: str, measure: str, opened: Sequence[tuple[float, float]]) -> list[Row]:
    """The slowest to be painted is judged."""
    painted_s, hand_s = ([one[at] for one in opened] for at in (0, 1))
    return [
        Row(benchmark=BENCHMARK, subject=subject, measure=f"{measure}: painted, the slowest (median "
            f"{median(painted_s):.2f} s)", value=max(painted_s), unit="s", bar=f"< {HOME_S:g} s",
            ok=max(painted_s) < HOME_S),
        Row(benchmark=BENCHMARK, subject=subject, measure=f"{measure}: at hand, the slowest (median "
            f"{median(hand_s):.2f} s)", value=max(hand_s), unit="s"),
    ]  # fmt: skip


def _judged(subject: str, root: Path, now_ns: int) -> list[Row]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with served(root, now_ns) as url:
            home = [_opened(browser, f"{url}/") for _ in range(OPENED)]
            found = {page: _chosen(browser, f"{url}{path}", page, made) for page, path, made in choices(root, now_ns)}
        browser.close()
    rows = _home(subject, "Home, the first time after the start of the server", home[:1])
    rows += _home(subject, f"Home, {len(home) - 1} times after that", home[1:])
    for page, times in found.items():
        kinds = ("filter", "window") if page not in {"plan", "plans"} else ("question",)
        for kind in kinds:
            took = [ms for key, ms in times if (key == "window") == (kind == "window")]
            if not took:
                continue
            middle, high = (float(np.percentile(took, q)) for q in (50, 95))
            judged = kind == "filter"
            rows.append(
                Row(benchmark=BENCHMARK, subject=subject, measure=f"{page}: another {kind}, p95 of {len(took)} "
                    f"(p50 {middle:.0f} ms)", value=high, unit="ms", bar=f"< {FILTER_MS:g} ms" if judged else "",
                    ok=high < FILTER_MS if judged else None)
            )  # fmt: skip
    return rows


def _opened(browser: Any, url: str) -> tuple[float, float]:
    """Seconds from asking for a page until it is painted and at hand, in a browser that has never been there."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.add_init_script(_PAINTED)
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    _wait(page, _READY)
    took_s = time.perf_counter() - began
    _wait(page, "window.paintedAt")
    painted_s = float(page.evaluate("window.paintedAt")) / 1000
    context.close()
    return painted_s, took_s


def _chosen(browser: Any, url: str, name: str, made: Sequence[Choice]) -> list[tuple[str, float]]:
    """Milliseconds of each choice, by its control; one that the page did not have to follow has none."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url)
    _wait(page, _READY)
    found = []
    for key, value in made:
        took = page.evaluate(_CHOOSE, [f"{name}-{key}", value])
        if took is not None:
            found.append((key, float(took)))
        # What is out of sight is drawn after that; nobody chooses again so soon.
        _wait(page, _READY)
        page.wait_for_timeout(100)
    context.close()
    return found


def _wait(page: Any, script: str) -> None:
    end_s = time.monotonic() + 180
    while not page.evaluate(script):
        if time.monotonic() > end_s:
            raise RuntimeError(f"{page.url} did not fill")
        page.wait_for_timeout(10)


def choices(root: Path, now_ns: int) -> Iterator[tuple[str, str, list[Choice]]]:
    """The pages that have controls, where they are, and what is chosen there, one after the other."""
    from dashboards.data import capacity, fleet, incidents, jobs
    from dashboards.data.stored import Stored
    from dashboards.selection import Selection

    stored = Stored(root, clock_ns=lambda: now_ns)
    known = fleet.known(stored, Selection(window="6h"))
    owners = jobs.known(stored, {"window": "6h", "until": None})
    sites: list[Choice] = [("site", [site]) for site in known.sites] + [("site", list(known.sites[:2])), ("site", [])]
    hosts: list[Choice] = [("host", [host]) for host in known.hosts[:: max(1, len(known.hosts) // 8)]] + [("host", [])]
    kinds = incidents.view(stored, {**_EVERY, "state": "all"}).incidents["kind"].unique().sort().to_list()
    series = capacity.known(stored, {})["series"]
    windows: list[Choice] = [("window", window) for window in ("6h", "24h", "7d", "15m")]
    yield "home", "/", sites
    yield "fleet", "/fleet", [
        *sites, *hosts, ("by", "site"), ("by", "device"), *[("device", [one]) for one in known.devices[:3]],
        ("device", []), ("by", "host"), *windows,
    ]  # fmt: skip
    yield "incidents", "/incidents", [
        ("state", "all"), *[("kind", [kind]) for kind in kinds], ("kind", []), ("severity", "warning"), *sites, *hosts,
    ]  # fmt: skip
    yield "capacity", "/capacity", [
        ("show", "racks"), ("show", "all"), *sites, *[("series", one) for one in series[:8]],
    ]  # fmt: skip
    yield "efficiency", "/efficiency", [
        *[("by", by) for by in ("model", "driver", "framework", "team", "site", "type")], ("measure", "step"),
        ("measure", "token"), ("against", "p99 latency"), *sites, *hosts, ("window", "1h"), ("window", "24h"),
        ("window", "7d"),
    ]  # fmt: skip
    yield "jobs", "/jobs", [
        *[(key, [one]) for key in ("team", "user", "model") for one in owners[key][:6]], ("window", "1h"),
    ]  # fmt: skip
    yield "quality", "/quality", [*sites, *hosts]
    device = quote(known.devices[0], safe="")
    yield "device", f"/devices/{device}", [("id", one) for one in known.devices[1:9]]
    yield "plan", "/plan", [("count", count) for count in (2, 4, 8, 3)]


_EVERY: dict[str, Any] = {"window": "all", "severity": "info", "site": (), "host": (), "kind": (), "rule": ()}


# ------------------------------------------------------------------------------------------------------------- serving


@contextmanager
def served(root: Path, now_ns: int) -> Iterator[str]:
    """The pages over a store, in a process that has just started and for which it is *now_ns*."""
    command = [sys.executable, "-m", "benchmarks.pages", str(root), str(now_ns)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        told = child.stdout.readline()
        if not told:
            raise RuntimeError(f"the pages were not served: exit code {child.wait(10)}")
        yield json.loads(told)
    finally:
        child.terminate()
        child.wait(20)


@contextmanager
def _beside(root: Path, now_ns: int) -> Iterator["subprocess.Popen[str]"]:
    """All jobs that are due, at the priority that `perfwatt demo` gives them; in the end they are done."""
    command = [sys.executable, "-m", "benchmarks.pages", str(root), str(now_ns), "jobs"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True) as child:
        yield child
        if child.wait():
            raise RuntimeError(f"the jobs failed: exit code {child.returncode}")


def _serve(root: Path, now_ns: int, say: Callable[[str], None]) -> None:
    import uvicorn

    from dashboards.app import create_ready
    from dashboards.data.stored import Stored

    stop = Event()
    app = create_ready(Stored(root, clock_ns=lambda: now_ns), stop)
    config = uvicorn.Config(app.server, host="127.0.0.1", port=0, log_level="error")

    class Saying(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            say(json.dumps(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"))

    Saying(config).run()
    stop.set()


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "2")
    store_root, moment_ns = Path(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3:] == ["jobs"]:
        os.nice(JOBS_NICENESS)
        _concluded(store_root, moment_ns)
    else:
        _serve(store_root, moment_ns, lambda text: print(text, flush=True))
