"""The commands that show: top, dashboard, demo."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analytics.subjects import By, Sort
from collector.options import ConfigOption, QuietOption, StoreOption, TzOption, say, store_root

if TYPE_CHECKING:
    from analytics.top import Overview

app = typer.Typer(rich_markup_mode=None)


@app.command()
def top(
    store: StoreOption = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="An agent's or exporter's /metrics, instead of a store. May be repeated.",
        ),
    ] = None,
    by: Annotated[By, typer.Option("--by", help="What a line is about.")] = By.DEVICE,
    sort: Annotated[Sort, typer.Option("--sort", help="What the lines are ordered by.")] = Sort.POWER,
    match: Annotated[str, typer.Option("--filter", metavar="TEXT", help="Only lines that have this text.")] = "",
    window: Annotated[str, typer.Option("--window", metavar="SPAN", help="How far back to look.")] = "10m",
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end; so too without a terminal.")] = False,
    tz: TzOption = "UTC",
    config: ConfigOption = None,
) -> None:
    """
    Watch devices, hosts or workloads live: of a store, or with --url of agents and exporters themselves.

    Keys: d, h, w for devices, hosts, workloads; s what to sort by; r the other way round; / filter; arrows or j and k
    to move; q to quit.
    """
    from analytics.top import overview
    from collector.moments import NS, parse_length, zone
    from dashboards import terminal

    place, window_s = zone(tz), parse_length(window, option="--window") / NS
    view = terminal.View(by=by, sort=sort, match=match)
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    once = once or not interactive

    def show(fetch: Callable[[By], "Overview"]) -> None:
        if once:
            terminal.once(fetch, view, tz=place)
        else:
            terminal.live(fetch, view, every_s=interval, tz=place)

    if url:
        from collector.errors import ConfigError
        from dashboards.remote import watched

        if store is not None:
            raise ConfigError("--url", "takes the place of --store; give one of them")
        # What cannot be read is told on the screen, which a line of a log would break.
        logging.getLogger("collector").setLevel(logging.CRITICAL)
        rounds = 2 if once and by is By.WORKLOAD else 1  # a rate needs two readings
        with watched(url, interval_s=interval, window_s=window_s, rounds=rounds) as look:
            show(look)
        return
    root = store_root(store)
    show(lambda subject: overview(root, by=subject, now_ns=time.time_ns(), window_s=window_s))


@app.command()
def dashboard(
    store: StoreOption = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="Port to serve on.")] = 8050,
    host: Annotated[str, typer.Option("--host", help="Address to serve on.")] = "127.0.0.1",
    alertmanager: Annotated[
        list[str] | None,
        typer.Option("--alertmanager", metavar="URL", help="Asked what it knows of an incident. May be repeated."),
    ] = None,
    quiet: QuietOption = False,
    config: ConfigOption = None,
) -> None:
    """Serve the dashboard over a store until interrupted."""
    from dashboards.data.alertmanager import require_urls
    from dashboards.demo import require_port

    root, urls = store_root(store), require_urls(alertmanager or (), option="--alertmanager")
    require_port(host, port)
    from dashboards.app import serve

    say(f"dashboard: http://{host}:{port}/ (store {root}); Ctrl-C ends it")
    serve(root, host, port, alertmanagers=urls)


@app.command()
def demo(
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="Port of the dashboard.")] = 8050,
    hours: Annotated[float, typer.Option("--hours", min=0.1, max=2000, help="Hours of history to begin with.")] = 336.0,
    devices: Annotated[int, typer.Option("--devices", min=1, max=4096, help="Devices of the simulated fleet.")] = 240,
    directory: Annotated[
        Path, typer.Option("--directory", metavar="DIR", help="Where the demonstration keeps its data.")
    ] = Path(".demo"),
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    quiet: QuietOption = False,
) -> None:
    """
    Show a simulated fleet live: its history, what the jobs make of it, an agent that goes on with it, the dashboard.

    Everything stays in --directory and on this machine. Ctrl-C ends it; the next start takes up where this one ended.
    """
    from dashboards.demo import run

    run(directory, port=port, hours=hours, devices=devices, browser=browser, say=say)
