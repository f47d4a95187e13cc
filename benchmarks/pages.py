"""
The pages as people meet them, in Chromium: how soon Home is there, and how soon a page follows another choice.

Two fleets: the one that ``perfwatt demo`` shows, and 500 devices of a fortnight at 10 s; what jobs make of them is
there, as it is on a host on which their timer runs. The pages are served by a process of their own, as it has just
started. A choice is made as by hand: a control gets another value, and the time runs until what the page shows of it is
drawn. No choice is made twice, so none is answered from what was kept of itself.
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
from typing import Any
from urllib.parse import quote

import numpy as np

from analytics.jobs.running import Documents
from analytics.jobs.running import run as run_jobs
from benchmarks.jobs import DAY_S, DAYS, DEVICES, NS, START_NS, STEP_S, fortnight
from benchmarks.rows import Row
from collector.sources.simulated import simulate
from collector.store import Store
from dashboards.story import fleet_toml, options_of

BENCHMARK = "pages"
DEMO_DEVICES, DEMO_STEP_S = 240, 30
HOME_S, FILTER_MS = 2.0, 500.0
CHROMIUM = "/usr/bin/chromium"
OPENED = 5
_READY = """document.querySelector('.pw-status')?.innerText
    && !document.querySelector('[data-dash-is-loading=true]')
    && [...document.querySelectorAll('.dash-graph')].every(x => x.querySelector('.main-svg'))"""
# From the choice to the frame in which nothing is being worked out any more.
_CHOOSE = """async ([id, value]) => {
    const frame = () => new Promise(done => requestAnimationFrame(done));
    const busy = () => document.querySelector('[data-dash-is-loading=true]');
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
        rows = _judged("the demonstration's fleet", *demo(folder / "demo"))
        shutil.rmtree(folder / "demo")
        rows += _judged("a large fleet", *large(folder / "large"))
        return rows
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
    _concluded(root, end_ns)
    return root, end_ns, f"{DEMO_DEVICES} devices, {DAYS} days at {DEMO_STEP_S} s: {rows / 1e6:.0f} M rows"


def large(root: Path) -> tuple[Path, int, str]:
    """The fleet that the jobs are timed on."""
    rows, end_ns = fortnight(root), START_NS + DAYS * DAY_S * NS
    _concluded(root, end_ns)
    return root, end_ns, f"{DEVICES} devices, {DAYS} days at {STEP_S} s: {rows / 1e6:.0f} M rows"


def _concluded(root: Path, now_ns: int) -> None:
    outcomes = run_jobs(root, documents=Documents.read(root, fleet=None), now_ns=now_ns)
    wrong = [outcome.error for outcome in outcomes if outcome.state == "failed"]
    if wrong:
        raise RuntimeError(str(wrong[0]))


def _judged(name: str, root: Path, now_ns: int, size: str) -> list[Row]:
    from playwright.sync_api import sync_playwright

    subject = f"{name} ({size})"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with served(root, now_ns) as url:
            home = [_opened(browser, f"{url}/") for _ in range(OPENED)]
            found = {page: _chosen(browser, f"{url}{path}", page, made) for page, path, made in choices(root, now_ns)}
        browser.close()
    first_s, again_s = home[0], median(home[1:])
    rows = [
        Row(benchmark=BENCHMARK, subject=subject, measure="Home, from the address to the last part drawn, the first "
            "time after the start of the server", value=first_s, unit="s", bar=f"< {HOME_S:g} s", ok=first_s < HOME_S),
        Row(benchmark=BENCHMARK, subject=subject, measure="Home, the times after that, median", value=again_s, unit="s",
            bar=f"< {HOME_S:g} s", ok=again_s < HOME_S),
    ]  # fmt: skip
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


def _opened(browser: Any, url: str) -> float:
    """Seconds from asking for a page to its last part, in a browser that has never been there."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    _wait(page, _READY)
    took = time.perf_counter() - began
    context.close()
    return took


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
    yield "device", f"/devices/{device}", [("device", one) for one in known.devices[1:9]]
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


def _serve(root: Path, now_ns: int, say: Callable[[str], None]) -> None:
    import uvicorn

    from dashboards.app import create
    from dashboards.data.stored import Stored

    stored = Stored(root, clock_ns=lambda: now_ns)
    config = uvicorn.Config(create(root, stored=stored).server, host="127.0.0.1", port=0, log_level="error")

    class Saying(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            say(json.dumps(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"))

    Saying(config).run()


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "2")
    _serve(Path(sys.argv[1]), int(sys.argv[2]), lambda text: print(text, flush=True))
