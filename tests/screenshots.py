"""
``make screenshots``: every page at 1440 and 390 pixels, in the light and in the dark, as PNG files in screenshots/.

The store is the demonstration's fleet of a fortnight with what the jobs made of it, and the recordings of MLPerf where
../shared/data has them. The few pictures that README shows are made small besides. ``python -m tests.screenshots FOLDER
STORE`` takes pictures of another store, as of its newest reading.
"""

import base64
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

from analytics.jobs.running import Documents, run
from collector.imports.mapping import read_mapping
from collector.imports.report import take_in
from collector.imports.table import read_table
from collector.sources.simulated import simulate
from collector.store import Store
from dashboards.app import PAGES, create
from dashboards.data import incidents
from dashboards.data.jobs import workloads
from dashboards.data.stored import Stored
from dashboards.story import HOUR_NS, fleet_toml, options_of, plan_toml

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "../shared/data/mlperf/tables"
PICTURES = ROOT / "dashboards/pictures"
SHOWN = ("home", "incident")
"""The pages of which README has a picture."""
CHROMIUM = "/usr/bin/chromium"
NS = 1_000_000_000
DEVICES = 240
DAYS = 14
END_NS = int(datetime(2026, 3, 4, 12, 0, tzinfo=UTC).timestamp()) * NS
START_NS = END_NS - DAYS * 24 * HOUR_NS
READ_S = 60.0
JOBS = ("energy", "anomaly_scores", "incidents", "forecasts", "capacity")


def fill(store: Store) -> None:
    """A fleet with a fortnight behind it, what others measured, and what the jobs make of it."""
    options = options_of(DEVICES, 24 * DAYS, START_NS)
    for tables in simulate(options, START_NS, END_NS, READ_S):
        for name, columns in tables.items():
            store.write(name, columns, writer="history")
    (store.root / "fleet.toml").write_text(fleet_toml(options), encoding="utf-8")
    (store.root / "plan.toml").write_text(plan_toml(END_NS), encoding="utf-8")
    if TABLES.is_dir():
        for name, mapping in (
            ("inference_runs.csv", "mlperf-inference-runs"),
            ("inference_power_1hz.parquet", "mlperf-inference-power"),
        ):
            take_in("table", name, read_table(TABLES / name, read_mapping(Path(mapping))), store)
    run(store.root, names=JOBS, documents=Documents.read(store.root, fleet=None, rules=None), now_ns=END_NS)


@contextmanager
def served(stored: Stored) -> Iterator[str]:
    """The pages over *stored*, on a free port."""
    import uvicorn

    config = uvicorn.Config(create(stored.root, stored=stored).server, host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def shoot(page: Any, path: Path) -> None:
    """The whole page, once it says that nothing is being worked out; grids draw only what has been in sight."""
    ready = (
        "document.querySelector('#page .pw-tile, #page > div > [role=status]:not(:empty)')"
        " && !document.querySelector('[aria-busy=true], [data-dash-is-loading=true]')"
        " && [...document.querySelectorAll('.pw-plot')].every(x => !x.offsetParent || x.querySelector('.main-svg'))"
    )
    end_s = time.monotonic() + 180
    while not page.evaluate(ready):
        if time.monotonic() > end_s:
            raise SystemExit(f"{path.stem}: the page did not fill")
        page.wait_for_timeout(100)
    for grid in page.locator(".ag-root-wrapper:visible").all():
        grid.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
    page.set_viewport_size({**page.viewport_size, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.wait_for_timeout(800)
    page.screenshot(path=path)


def addresses(stored: Stored) -> dict[str, str]:
    """Where each page is; those of one thing show the one that tells most."""
    (first, *_) = incidents.ids(stored)
    found = incidents.incident(stored, first)
    assert found is not None
    hot = [name for name in incidents.ids(stored) if name in set(_of_kind(stored, "throttle_thermal"))]
    shown = incidents.incident(stored, hot[0]) if hot else found
    assert shown is not None
    of = {
        "job": f"/job?id={quote(next(name for name in workloads(stored) if name.startswith('train')), safe='')}",
        "incident": f"/incident?id={shown.row['incident']}",
        "device": f"/devices/{quote(shown.devices['device'][0], safe='')}?window=24h",
        "incidents": "/incidents?state=all",
    }
    return {page.name: of.get(page.name, page.path) for page in PAGES}


def _of_kind(stored: Stored, kind: str) -> list[str]:
    everything = {"window": "all", "state": "all", "severity": "info", "site": (), "host": (), "rule": ()}
    return incidents.view(stored, {**everything, "kind": (kind,)}).incidents["incident"].to_list()


def small(picture: Path, path: Path) -> None:
    """Write the upper part of a picture as WebP, at two thirds of its width."""
    from playwright.sync_api import sync_playwright

    data = base64.b64encode(picture.read_bytes()).decode()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        path.write_bytes(base64.b64decode(_webp(browser.new_page(), data).partition(",")[2]))
        browser.close()


def _webp(page: Any, data: str) -> str:
    """What a browser makes of a PNG, as a data URL."""
    found: str = page.evaluate(
        """async data => {
            const image = new Image();
            image.src = "data:image/png;base64," + data;
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = Math.round(image.width * 2 / 3);
            canvas.height = Math.round(Math.min(image.height, image.width) * 2 / 3);
            const drawn = canvas.getContext("2d");
            drawn.imageSmoothingQuality = "high";
            drawn.drawImage(image, 0, 0, canvas.width, Math.round(image.height * 2 / 3));
            return canvas.toDataURL("image/webp", 0.8);
        }""",
        data,
    )
    return found


def main(folder: Path) -> None:
    """Write the pictures of the demonstration's fleet into *folder*, and those of README into dashboards/pictures/."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        fill(Store.create(root))
        take(Stored(root, clock_ns=lambda: END_NS), folder)
    for name in SHOWN:
        small(folder / f"{name}-1440-light.png", PICTURES / f"{name}.webp")


def take(stored: Stored, folder: Path) -> None:
    """Write the pictures of the pages over a store into *folder*."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    where = addresses(stored)
    with served(stored) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in product((1440, 390), ("light", "dark")):
            for one in PAGES:
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
                )
                page = context.new_page()
                page.goto(f"{url}{where[one.name]}")
                shoot(page, folder / f"{one.name}-{width}-{scheme}.png")
                context.close()
        browser.close()


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "screenshots"
    if len(sys.argv) > 2:
        other = Stored(sys.argv[2])
        newest_ns = other.newest_ns()
        if newest_ns is None:
            raise SystemExit(f"{sys.argv[2]}: a store without a reading has nothing to show")
        other.now_ns = lambda: newest_ns
        take(other, chosen)
    else:
        main(chosen)
