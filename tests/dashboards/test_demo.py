"""`perfwatt demo`: there at once, the same fleet again, and gone when it is told to go."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics.fleet_toml import parse_fleet
from analytics.planning.request import parse_plan
from collector.errors import ConfigError
from collector.sources.simulated import faults, working
from collector.store import Store
from dashboards.demo import Place, fill, fleet, require_port
from dashboards.story import HOUR_NS, NS, fleet_toml, options_of, plan_toml

ROOT = Path(__file__).parents[2]


def quiet(text: str) -> None:
    pass


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_in_use_is_an_error_that_names_port_and_flag(taken: int) -> None:
    with pytest.raises(ConfigError, match=rf"--port: 127\.0\.0\.1:{taken} .*in use"):
        require_port("127.0.0.1", taken)


def test_the_same_fleet_is_taken_up_and_another_begins_anew(tmp_path: Path) -> None:
    place, now_ns = Place(tmp_path), time.time_ns()
    first = fleet(place, hours=1, devices=4, now_ns=now_ns, say=quiet)
    Store.create(place.store)
    assert fleet(place, hours=1, devices=4, now_ns=now_ns + HOUR_NS, say=quiet) == first
    assert place.store.exists()
    assert fleet(place, hours=1, devices=5, now_ns=now_ns, say=quiet) != first
    assert not place.store.exists()


def test_a_fleet_whose_faults_are_used_up_begins_anew(tmp_path: Path) -> None:
    place, now_ns = Place(tmp_path), time.time_ns()
    first = fleet(place, hours=1, devices=4, now_ns=now_ns, say=quiet)
    assert fleet(place, hours=1, devices=4, now_ns=now_ns + 29 * 24 * HOUR_NS, say=quiet) == first
    assert fleet(place, hours=1, devices=4, now_ns=now_ns + 31 * 24 * HOUR_NS, say=quiet)["origin"] > first["origin"]


def test_a_store_that_no_demonstration_made_is_never_touched(tmp_path: Path) -> None:
    place = Place(tmp_path)
    Store.create(place.store)
    with pytest.raises(ConfigError, match="not a demonstration's"):
        fleet(place, hours=1, devices=4, now_ns=time.time_ns(), say=quiet)
    assert place.store.exists()


def test_only_the_missing_hours_are_filled(tmp_path: Path) -> None:
    place, now_ns = Place(tmp_path), time.time_ns()
    options = fleet(place, hours=1, devices=2, now_ns=now_ns - HOUR_NS // 2, say=quiet)
    first = fill(place, options, hours=1, now_ns=now_ns - HOUR_NS // 2, say=quiet)
    again = fill(place, options, hours=1, now_ns=now_ns, say=quiet)
    assert first == pytest.approx(2 * 362, abs=4)
    assert again == pytest.approx(2 * 180, abs=4)
    assert [site.name for site in parse_fleet((place.store / "fleet.toml").read_text()).sites] == ["dublin"]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def answer(url: str, until_s: float) -> bytes:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as page:
                body: bytes = page.read()
                return body
        except OSError:
            assert time.monotonic() < until_s, f"{url} does not answer"
            time.sleep(0.2)


def start(directory: Path, port: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cli", "demo", "--directory", str(directory), "--port", str(port), "--no-browser"]
    return subprocess.Popen(
        [*command, "--hours", "0.5", "--devices", "4"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_is_live_and_leaves_nothing_running(tmp_path: Path, taken: int, end: signal.Signals) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    running = start(tmp_path / "demo", port)
    try:
        until_s = time.monotonic() + 90
        assert b"<html" in answer(f"http://127.0.0.1:{port}/", until_s)
        agents = children(running.pid)
        assert agents
        store = Store(tmp_path / "demo/store")
        while not any(s.writer.startswith("agent") for s in store.segments("device_samples")):
            assert time.monotonic() < until_s, (tmp_path / "demo/agent.log").read_text()
            time.sleep(0.2)
        workers = [worker for agent in agents for worker in children(agent)]
        second = subprocess.run(
            [sys.executable, "-m", "cli", "demo", "--directory", str(tmp_path / "demo"), "--port", str(port)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (second.returncode, f"127.0.0.1:{port}" in second.stderr) == (2, True)
    finally:
        running.send_signal(end)
        stdout, stderr = running.communicate(timeout=60)
    assert stdout == ""
    assert f"http://127.0.0.1:{port}/" in stderr
    assert "Traceback" not in stderr
    assert running.returncode in (0, 128 + end)
    for pid in (*agents, *workers):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_options_of_the_fleet_are_kept_as_json(tmp_path: Path) -> None:
    place = Place(tmp_path)
    options: dict[str, Any] = fleet(place, hours=1, devices=4, now_ns=time.time_ns(), say=quiet)
    assert json.loads(place.fleet.read_text()) == options


ORIGIN_NS = 1_788_220_800 * NS


def test_some_faults_are_under_way_when_the_page_opens_on_devices_that_work() -> None:
    hours = 72.0
    options = options_of(240, hours, ORIGIN_NS)
    now_ns = ORIGIN_NS + round(hours * HOUR_NS)
    under_way = faults(options, now_ns, now_ns + NS)
    assert {"fan_failure", "power_cap", "straggler", "ecc_storm", "device_lost"} <= {fault.kind for fault in under_way}
    for fault in under_way:
        busy = {device for _, devices in working(options, fault.start_ns, fault.start_ns + NS) for device in devices}
        assert busy.intersection(fault.devices), fault
    touched = [device for fault in under_way for device in fault.devices]
    assert len(touched) == len(set(touched))


def test_the_planner_has_one_site_that_is_short_and_one_that_is_not() -> None:
    options = options_of(240, 24, ORIGIN_NS)
    told = parse_fleet(fleet_toml(options))
    plain = {domain.name: domain.rating for domain in parse_fleet(fleet_toml(options)).domains}
    assert {site.name for site in told.sites} == {"dublin", "phoenix", "lulea"}
    assert {site.currency for site in told.sites} == {"USD"}
    short, ample = plain["dublin-ups-a"], plain["lulea-ups-a"]
    assert short is not None
    assert ample is not None
    assert 1.5 * short.w < ample.w


def test_its_planner_asks_for_what_the_fleet_knows() -> None:
    options = options_of(240, 336, 0)
    asked = parse_plan(plan_toml(1_788_220_800 * NS), parse_fleet(fleet_toml(options)))
    assert (asked.periods, [demand.name for demand in asked.demands]) == (6, ["serving", "training"])
    # Nothing is asked for before a server can be there.
    first = min(asked.first_period(120.0), asked.periods)
    assert all(demand.needed[first - 1] == 0 for demand in asked.demands)


def test_work_grows_over_the_history_of_a_fleet_of_sites() -> None:
    options = options_of(240, 336, ORIGIN_NS)
    day_ns = 24 * HOUR_NS

    def devices(day: int) -> int:
        at_ns = ORIGIN_NS + day * day_ns
        return sum(len(held) for _, held in working(options, at_ns, at_ns + NS))

    assert devices(0) < 0.9 * devices(13)
