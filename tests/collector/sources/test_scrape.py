"""The scrape source against real servers on this machine: the living, the dead, the slow, the hostile."""

import errno
import gzip
import json
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from collector.catalogue import POWER
from collector.errors import ConfigError
from collector.sample import Reading
from collector.sources.scrape import Scrape, doctor, open_scrape
from collector.sources.scrape_targets import address, read_options

TEXT = 'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-%s",modelName="H100",Hostname="n"} 300\nDCGM_FI_DEV_MADE_UP 1\n'


class Server(ThreadingHTTPServer):
    """An exporter whose answers a test writes; it remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, dict[str, str], int]] = []
        self.hold = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some of these tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def say(self, path: str, body: bytes, *, status: int = 200, **headers: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer
        return self.url + path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append((self.path, dict(self.headers), self.client_address[1]))
        self.server.answers[self.path](self)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def take(scrape: Scrape, enough: Callable[[list[Reading]], bool], within_s: float = 10.0) -> list[Reading]:
    """The readings of as many ticks as it takes until there are *enough*."""
    readings: list[Reading] = []
    until = time.monotonic() + within_s
    while not enough(readings):
        assert time.monotonic() < until, [(r.source, r.gap) for r in readings]
        readings.extend(scrape.tick(0.2))
    return readings


def first(options: dict[str, Any]) -> Reading:
    with open_scrape({"interval_s": 5.0, **options}, "here") as scrape:
        return take(scrape, lambda readings: len(readings) >= 1)[0]


def test_a_target_becomes_samples_with_the_devices_they_are_of(server: Server) -> None:
    url = server.say("/metrics", (TEXT % "a").encode())
    reading = first({"type": "scrape", "name": "gpus", "period_s": 1.0, "targets": [url]})
    assert reading.source == f"scrape:{url}"
    assert reading.gap is None
    assert reading.samples[0].values == {POWER: 300.0}
    assert abs(reading.samples[0].time_ns - time.time_ns()) < 10e9
    assert [device.id for device in reading.devices] == ["GPU-a"]
    assert reading.read_s > 0


def test_a_target_is_asked_again_and_again_over_one_connection(server: Server) -> None:
    url = server.say("/metrics", (TEXT % "a").encode())
    with open_scrape({"targets": [url], "interval_s": 0.05}, "here") as scrape:
        readings = take(scrape, lambda readings: len(readings) >= 5)
        assert scrape.unknown() == {url: ["DCGM_FI_DEV_MADE_UP"]}
    assert all(reading.gap is None for reading in readings)
    assert len({port for _, _, port in server.asked}) == 1
    times = [reading.samples[0].time_ns / 1e9 for reading in readings]
    assert times == sorted(times)


def gap_of(options: dict[str, Any]) -> str:
    reading = first(options)
    assert reading.gap is not None
    assert not reading.samples
    assert reading.gap.message
    return reading.gap.reason


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nobody_there_is_refused() -> None:
    assert gap_of({"targets": [f"127.0.0.1:{free_port()}"]}) == "refused"


def test_a_name_that_nobody_knows_is_dns() -> None:
    assert gap_of({"targets": ["no-such-host.invalid:9400"], "timeout_s": 0.5}) in {"dns", "timeout"}


def test_a_slow_target_is_a_timeout(server: Server) -> None:
    server.answers["/metrics"] = lambda handler: server.hold.wait(20) and None
    assert gap_of({"targets": [f"{server.url}/metrics"], "timeout_s": 0.1}) == "timeout"


def test_a_target_that_drips_is_a_timeout_too(server: Server) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not server.hold.wait(0.02):
            handler.wfile.write(b"a")

    server.answers["/metrics"] = drip
    assert gap_of({"targets": [f"{server.url}/metrics"], "timeout_s": 0.2}) == "timeout"


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_another_status_than_200_is_a_gap_with_the_status(server: Server, status: int) -> None:
    reading = first({"targets": [server.say("/metrics", b"a 1\n", status=status)]})
    assert reading.gap is not None
    assert reading.gap.reason == "http_status"
    assert str(status) in reading.gap.message


def test_a_redirect_is_not_followed_so_that_credentials_go_nowhere_else(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    elsewhere = server.say("/elsewhere", b"a 1\n")
    url = server.say("/metrics", b"", status=302, Location=elsewhere)
    assert gap_of({"targets": [url], "bearer_token_file": str(tmp_path / "token")}) == "redirect"
    assert "/elsewhere" not in {path for path, _, _ in server.asked}


def test_text_that_is_no_metrics_is_a_gap_with_the_line(server: Server) -> None:
    reading = first({"targets": [server.say("/metrics", b"<html>\n<body>log in</body></html>\n")]})
    assert reading.gap is not None
    assert (reading.gap.reason, "line 1" in reading.gap.message) == ("parse", True)


def test_an_answer_beyond_the_limit_is_given_up_told_in_advance_or_not(server: Server) -> None:
    body = b"# " + b"x" * 300_000 + b"\n"
    assert gap_of({"targets": [server.say("/metrics", body)], "max_body_bytes": 65536}) == "too_large"

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while not server.hold.is_set():
            handler.wfile.write(body)

    server.answers["/endless"] = endless
    assert gap_of({"targets": [f"{server.url}/endless"], "max_body_bytes": 1 << 20}) == "too_large"


def test_a_compressed_answer_is_read(server: Server) -> None:
    body = gzip.compress((TEXT % "a").encode())
    reading = first({"targets": [server.say("/metrics", body, Content_Encoding="gzip")]})
    assert reading.samples[0].values == {POWER: 300.0}
    assert "gzip" in server.asked[0][1]["Accept-Encoding"]


def test_a_decompression_bomb_does_not_unfold(server: Server) -> None:
    bomb = gzip.compress(b"\n" * 200_000_000, compresslevel=9)
    assert len(bomb) < 1 << 20
    url = server.say("/metrics", bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert gap_of({"targets": [url], "max_body_bytes": 1 << 20}) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"not gzip", "gzip"), (gzip.compress(b"a 1\n" * 999)[:-20], "gzip"), (b"a 1\n", "br")]
)
def test_an_encoding_that_is_broken_or_unasked_for_is_a_gap(server: Server, body: bytes, encoding: str) -> None:
    assert gap_of({"targets": [server.say("/metrics", body, Content_Encoding=encoding)]}) == "encoding"


def test_a_connection_that_ends_early_is_a_gap(server: Server) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"a 1\n")
        handler.close_connection = True

    server.answers["/metrics"] = hang_up
    assert gap_of({"targets": [f"{server.url}/metrics"]}) == "disconnected"


def test_dead_and_slow_targets_delay_no_living_one(server: Server) -> None:
    server.answers["/slow"] = lambda handler: server.hold.wait(20) and None
    living = [server.say(f"/{n}", (TEXT % n).encode()) for n in range(10)]
    dead = [f"http://127.0.0.1:{free_port()}/{n}" for n in range(10)]
    slow = [f"{server.url}/slow?{n}" for n in range(10)]
    for n in range(10):
        server.answers[f"/slow?{n}"] = server.answers["/slow"]
    with open_scrape({"targets": [*living, *dead, *slow], "interval_s": 1.0, "timeout_s": 0.9}, "here") as scrape:
        # Five rounds of the living, and no longer than five rounds take.
        readings = take(scrape, lambda readings: sum(r.gap is None for r in readings) >= 50, within_s=15.0)
    told = Counter(reading.gap.reason for reading in readings if reading.gap is not None)
    assert set(told) == {"refused", "timeout"}
    good = Counter(reading.source for reading in readings if reading.gap is None)
    assert len(good) == 10
    assert max(good.values()) - min(good.values()) <= 2


def test_a_target_that_came_back_is_read_again_at_once_or_within_the_backoff(server: Server) -> None:
    url = server.say("/metrics", b"", status=503)
    with open_scrape({"targets": [url], "interval_s": 0.05}, "here") as scrape:
        take(scrape, lambda readings: len(readings) >= 4)
        server.say("/metrics", (TEXT % "a").encode())
        take(scrape, lambda readings: any(r.gap is None for r in readings))


def test_a_long_dead_target_is_asked_more_seldom_but_at_least_once_a_minute() -> None:
    from collector.sources.scrape import _Turn

    (group,) = read_options({"targets": ["a:1"], "interval_s": 15}, "here")
    turn = _Turn(group.targets[0], reader=None)  # type: ignore[arg-type]
    skips = []
    for turn.failures in range(10):
        skips.append(turn.skip())
    assert skips == [1, 1, 1, 2, 4, 4, 4, 4, 4, 4]


def test_targets_are_spread_over_the_interval_the_same_way_in_every_process() -> None:
    from collector.sources.scrape import _offset

    offsets = sorted(_offset(f"http://node{n}:9400/metrics", 15.0) for n in range(1000))
    per_second = Counter(int(offset) for offset in offsets)
    assert len(per_second) == 15
    assert max(per_second.values()) < 100
    assert _offset("http://node1:9400/metrics", 15.0) == pytest.approx(13.9925, abs=1e-3)


def refused_after_the_handshake() -> OSError:
    # TLS 1.3: the server looks at the client's certificate after the client has taken the handshake for done.
    error = aiohttp.ClientOSError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required")
    error.__cause__ = ssl.SSLError(*error.args)
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiohttp.ClientConnectionResetError("Cannot write to closing transport"), "disconnected"),
        (aiohttp.ClientOSError(), "disconnected"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"), "disconnected"),
        (aiohttp.ClientOSError(errno.EHOSTUNREACH, "No route to host"), "unreachable"),
        (refused_after_the_handshake(), "tls"),
    ],
)
def test_what_ends_a_connection_that_was_reached_is_told_apart(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    async def write(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("aiohttp.http_writer.StreamWriter.write_headers", write)
    server.say("/metrics", (TEXT % "a").encode())
    assert gap_of({"targets": [f"{server.url}/metrics"]}) == reason


# ------------------------------------------------------------------------------------------------- who may ask, and how


def test_basic_auth_headers_and_a_rotated_token_are_sent(server: Server, tmp_path: Path) -> None:
    url = server.say("/metrics", (TEXT % "a").encode())
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    first(
        {"targets": [url], "basic_auth": {"username": "ali", "password_file": str(secret)}, "headers": {"X-Site": "m"}}
    )
    assert server.asked[-1][1]["Authorization"] == "Basic YWxpOm9wZW4gc2VzYW1l"
    assert server.asked[-1][1]["X-Site"] == "m"
    with open_scrape({"targets": [url], "bearer_token_file": str(secret), "interval_s": 0.05}, "here") as scrape:
        take(scrape, lambda readings: len(readings) >= 1)
        assert server.asked[-1][1]["Authorization"] == "Bearer open sesame"
        secret.write_text("another one")
        take(scrape, lambda readings: server.asked[-1][1]["Authorization"] == "Bearer another one")
        secret.unlink()
        gaps = take(scrape, lambda readings: any(r.gap for r in readings))
    assert next(r.gap.reason for r in gaps if r.gap) == "credentials"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, and one for a client."""
    at = tmp_path_factory.mktemp("certificates")
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "subjectAltName=DNS:client")):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", f"/CN={name}", "-addext", extension),
                *("-keyout", str(at / f"{name}.key"), "-out", str(at / f"{name}.pem")),
            ],
            check=True,
            capture_output=True,
        )
    return at


def test_tls_is_checked_and_a_client_certificate_shown(certificates: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "client.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(context) as server:
        server.say("/metrics", (TEXT % "a").encode())
        targets = [f"{server.url.replace('http:', 'https:')}/metrics"]
        ours = {"cert_file": str(certificates / "client.pem"), "key_file": str(certificates / "client.key")}
        ca = {"ca_file": str(certificates / "server.pem")}
        assert first({"targets": targets, "tls": ca | ours}).gap is None
        assert first({"targets": targets, "tls": {"insecure_skip_verify": True} | ours}).gap is None
        # Nobody vouches for the server; the server does not know the client.
        assert gap_of({"targets": targets, "tls": ours}) == "tls"
        assert gap_of({"targets": targets, "tls": ca}) in {"tls", "disconnected"}


# -------------------------------------------------------------------------------------------------------- configuration


def test_a_group_has_what_its_source_has_and_its_own_on_top() -> None:
    outer, inner = read_options(
        {
            "targets": ["gpu1:9400"],
            "interval_s": 30,
            "labels": {"team": "ml"},
            "group": [
                {"targets": [{"url": "llm1:8000", "labels": {"workload": "chat"}}], "interval_s": 5, "mapping": "vllm"}
            ],
        },
        "here",
    )  # fmt: skip
    assert (outer.targets[0].url, outer.targets[0].interval_s) == ("http://gpu1:9400/metrics", 30.0)
    (target,) = inner.targets
    assert (target.interval_s, target.timeout_s) == (5.0, 5.0)
    assert target.labels == {"team": "ml", "workload": "chat"}
    assert [table.name for table in target.tables] == ["vllm"]


def test_the_host_of_a_target_is_its_address_and_on_loopback_this_machine() -> None:
    (group,) = read_options({"targets": ["node7:9400", "localhost:9400", "127.0.0.1:1", "[::1]:9"]}, "here")
    assert [target.host for target in group.targets] == ["node7", "here", "here", "here"]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("node7:9400", "http://node7:9400/metrics"),
        ("https://node7/federate?match=x", "https://node7/federate?match=x"),
        ("http://[fe80::1]:9400", "http://[fe80::1]:9400/metrics"),
    ],
)
def test_an_address_is_made_whole(given: str, url: str) -> None:
    assert address(given) == url


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "targets"),
        ({"targets": "node7:9400"}, "targets"),
        ({"targets": ["ftp://node7"]}, "targets"),
        ({"targets": ["node7:99999"]}, "targets"),
        ({"targets": ["http://me:secret@node7/"]}, "targets"),
        ({"targets": [7]}, "targets"),
        ({"targets": ["a:1"], "intervall_s": 5}, "intervall_s"),
        ({"targets": ["a:1"], "interval_s": 0}, "targets.interval_s"),
        ({"targets": ["a:1"], "interval_s": 5, "timeout_s": 6}, "targets.timeout_s"),
        ({"targets": ["a:1"], "interval_s": True}, "targets.interval_s"),
        ({"targets": ["a:1"], "mapping": "dgcm"}, "mapping"),
        ({"targets": ["a:1"], "max_body_bytes": 1}, "max_body_bytes"),
        ({"targets": ["a:1"], "bearer_token_file": "/no/such/file"}, "bearer_token_file"),
        ({"targets": ["a:1"], "tls": {"cert_file": __file__}}, "tls"),
        ({"targets": ["a:1"], "tls": {"cafile": "x"}}, "tls.cafile"),
        ({"targets": ["a:1"], "tls": {"ca_file": __file__}}, "tls"),
        ({"targets": ["a:1"], "basic_auth": {"user": "x"}}, "basic_auth.user"),
        ({"targets": ["a:1"], "labels": {"host": 7}}, "targets.labels"),
        ({"group": [{"targets": ["a:1"], "colour": "red"}]}, "group[0].colour"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_options(options, "here")
    assert caught.value.key == key
    assert "secret" not in str(caught.value)


def test_target_files_are_followed_as_they_change(server: Server, tmp_path: Path) -> None:
    port = server.server_address[1]
    for name in "abc":
        server.say(f"/{name}", (TEXT % name).encode())
    file = tmp_path / "fleet.json"

    def write(*names: str) -> None:
        listed = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"__metrics_path__": f"/{n}", "host": f"h-{n}"}} for n in names
        ]
        beside = tmp_path / "new"
        beside.write_text(json.dumps(listed))
        beside.rename(file)

    write("a", "b")
    with open_scrape({"target_files": [str(tmp_path / "*.json")], "interval_s": 0.1}, "here") as scrape:
        seen = take(scrape, lambda readings: len({r.source for r in readings}) == 2)
        assert {reading.samples[0].host for reading in seen} == {"h-a", "h-b"}
        write("b", "c")
        seen = take(scrape, lambda readings: any(r.source.endswith("/c") for r in readings))
        # What left the file is over: its devices are gone.
        assert any(reading.gone == ["GPU-a"] for reading in seen)
        assert set(scrape.targets()) == {f"{server.url}/b", f"{server.url}/c"}
        file.write_text('[{"targets": "not a list"}]')
        before = len(server.asked)
        take(scrape, lambda readings: len(server.asked) > before + 50, within_s=15)
        assert set(scrape.targets()) == {f"{server.url}/b", f"{server.url}/c"}


def test_a_yaml_target_file_is_read_and_a_broken_one_refused_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "t.yml"
    file.write_text("- targets: [node1:9400, node2:9400]\n  labels: {host: x}\n")
    from collector.sources.scrape_targets import TargetFiles

    groups = read_options({"target_files": [str(file)]}, "here")
    assert [t.url for t in TargetFiles(groups, "here").read(strict=True) or ()] == [
        "http://node1:9400/metrics",
        "http://node2:9400/metrics",
    ]
    for text in ("- [", "targets: [a:1]", "- targets: [ftp://x]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"t\.yml|ftp"):
            TargetFiles(groups, "here").read(strict=True)


# --------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_tells_what_it_made_of_each_name(server: Server) -> None:
    text = (TEXT % "a") + 'DCGM_FI_DEV_VGPU_LICENSE_STATUS{gpu="0",UUID="GPU-a"} 0\n'
    report = doctor(server.say("/metrics", text.encode()))
    assert report.gap is None
    assert [line.split(" ")[0] for line in report.mappings] == ["dcgm"]
    assert report.mapped == {"DCGM_FI_DEV_POWER_USAGE": ["power_w"]}
    assert report.unknown == ["DCGM_FI_DEV_MADE_UP"]
    assert list(report.dropped) == ["DCGM_FI_DEV_VGPU_LICENSE_STATUS"]
    assert (report.devices, report.samples) == (["GPU-a"], 1)


def test_doctor_tells_why_it_got_no_answer() -> None:
    report = doctor(f"127.0.0.1:{free_port()}")
    assert report.gap is not None
    assert report.gap.reason == "refused"


def test_stopping_leaves_no_thread_and_no_connection(server: Server) -> None:
    server.answers["/metrics"] = lambda handler: server.hold.wait(20) and None
    before = threading.active_count()
    with open_scrape({"targets": [f"{server.url}/metrics"], "interval_s": 5, "timeout_s": 5}, "here") as scrape:
        until = time.monotonic() + 5
        while not server.asked and time.monotonic() < until:
            list(scrape.tick(0.05))
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    server.hold.set()
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert threading.active_count() <= before
