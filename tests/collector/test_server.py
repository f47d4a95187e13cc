"""The agent's HTTP server, as its clients see it, a real Prometheus among them."""

import base64
import contextlib
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import bcrypt
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from collector.catalogue import ENERGY, POWER, Scope, metrics
from collector.errors import ConfigError
from collector.exposition import Exposition
from collector.sample import Device, Reading, Sample
from collector.server import IDLE_THREADS, Server

PASSWORD = "a long enough one"
HASHED = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def fill(exposition: Exposition, *, devices: int = 1, time_ns: int = 1) -> None:
    values = dict.fromkeys(metrics(Scope.DEVICE)[:45], 1.5) | {POWER: 300.0, ENERGY: 5000.0}
    for n in range(devices):
        device = Device(id=f"GPU-{n}", host="node1", vendor="NVIDIA", model="H100")
        sample = Sample(scope=Scope.DEVICE, subject=device.id, host="node1", time_ns=time_ns, values=values)
        exposition.take([Reading(source=f"nvml:{n}", samples=[sample], devices=[device])])


@contextmanager
def serving(web_config: Path | None = None, *, devices: int = 1, **options: object) -> Iterator[Server]:
    exposition = Exposition(stale_after_s=600.0)
    fill(exposition, devices=devices)
    server = Server(exposition, "127.0.0.1:0", web_config=web_config, **options)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.close()


def get(
    url: str, *, context: ssl.SSLContext | None = None, user: str = "", password: str = "", **headers: str
) -> HTTPResponse:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    response: HTTPResponse = urllib.request.urlopen(request, timeout=10, context=context)
    return response


def status(url: str, **options: object) -> int:
    try:
        with get(url, **options) as response:  # type: ignore[arg-type]
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def until(found: Callable[[], object], *, for_s: float = 20.0) -> None:
    end_s = time.monotonic() + for_s
    while not found():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's certificate, two clients' certificates by that CA, and a client's by nobody."""
    folder = tmp_path_factory.mktemp("certificates")

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "nobody"):
        run("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, san, ca in (
        ("server", "IP:127.0.0.1", "ca"),
        ("server2", "IP:127.0.0.1", "ca"),
        ("prometheus", "DNS:prometheus.example", "ca"),
        ("stranger", "DNS:stranger.example", "ca"),
        ("forged", "DNS:prometheus.example", "nobody"),
    ):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(f"subjectAltName={san}\nauthorityKeyIdentifier=keyid\n")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    return folder


def client(certificates: Path, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def tls(certificates: Path, *more: str, name: str = "server") -> str:
    lines = (f"cert_file: {certificates}/{name}.pem", f"key_file: {certificates}/{name}.key", *more)
    return "tls_server_config:\n" + "".join(f"  {line}\n" for line in lines)


def test_it_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    with closing(Server(Exposition(), "127.0.0.1:0")):
        from collector.server import LISTEN

        assert LISTEN.startswith("127.0.0.1:")


def test_metrics_health_and_a_page() -> None:
    with serving() as server:
        with get(server.url) as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert 'accel_power_watts{device="GPU-0"' in response.read().decode()
        base = server.url.removesuffix("metrics")
        with get(base) as response:
            assert 'href="metrics"' in response.read().decode()
        assert [status(base + path) for path in ("healthz", "readyz", "nowhere")] == [200, 200, 404]


def test_openmetrics_and_gzip_for_those_who_ask() -> None:
    with serving() as server:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        with get(server.url, Accept=accept, Accept_Encoding="gzip") as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            text = gzip.decompress(response.read()).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["accel_energy_joules"].unit == "joules"


def test_some_names_only() -> None:
    with (
        serving() as server,
        get(server.url + "?" + urllib.parse.urlencode({"name[]": "accel_power_watts"})) as response,
    ):
        assert [line.split("{")[0] for line in response.read().decode().splitlines()[2:]] == ["accel_power_watts"]


def test_alive_and_ready_are_different_questions() -> None:
    exposition = Exposition()
    wrong: list[str] = []
    server = Server(exposition, "127.0.0.1:0", alive=lambda: wrong[0] if wrong else None)
    server.start()
    with closing(server):
        base = server.url.removesuffix("metrics")
        assert (status(base + "healthz"), status(base + "readyz")) == (200, 503)
        fill(exposition)
        assert (status(base + "healthz"), status(base + "readyz")) == (200, 200)
        wrong.append("the loop has not ticked for 30 s")
        assert (status(base + "healthz"), status(base + "readyz")) == (503, 200)


def test_one_connection_serves_many_scrapes() -> None:
    with serving() as server, closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for _ in range(3):
            connection.request("GET", "/metrics")
            assert connection.getresponse().read()
        connection.request("HEAD", "/metrics")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        connection.request("POST", "/metrics", body=b"GET /metrics HTTP/1.1\r\n\r\n")
        response = connection.getresponse()
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_threads_that_served_a_connection_serve_the_next_and_end_with_the_server() -> None:
    before = set(threading.enumerate())

    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread not in before}

    with serving() as server:
        for _ in range(20):
            assert get(server.url).status == 200
        # The one that accepts and those that wait for a connection, none of them still with the last one.
        until(lambda: len(ours()) == 1 + server._idle)
        held_ones = ours()
        assert 1 < len(held_ones) <= 1 + IDLE_THREADS
        assert get(server.url).status == 200
        assert ours() <= held_ones
    until(lambda: not ours())


def test_an_address_that_cannot_be_had_is_a_wrong_configuration() -> None:
    with (
        serving() as server,
        pytest.raises(ConfigError, match=r"prometheus.listen: 127.0.0.1:\d+: Address already in use"),
    ):
        Server(Exposition(), f"127.0.0.1:{server.port}")
    for listen in ("9400", "127.0.0.1:http", "127.0.0.1:70000"):
        with pytest.raises(ConfigError, match="must be HOST:PORT"):
            Server(Exposition(), listen)


def test_passwords_are_asked_for_on_every_path(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  ada: {HASHED}\n")
    with serving(path) as server:
        base = server.url.removesuffix("metrics")
        for page in ("", "metrics", "healthz", "readyz"):
            assert status(base + page) == 401
            assert status(base + page, user="ada", password="wrong") == 401
            assert status(base + page, user="eve", password=PASSWORD) == 401
            assert status(base + page, user="ada", password=PASSWORD) == 200
        for header in ("Basic", "Basic !!", "Bearer abc", "Basic " + base64.b64encode(b"\xff:\xff").decode()):
            assert status(server.url, Authorization=header) == 401


def test_headers_and_a_rate_limit(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\nrate_limit:\n  interval: 1h\n  burst: 2\n"
    )
    with serving(path) as server:
        with get(server.url) as response:
            assert response.headers["X-Frame-Options"] == "deny"
        assert [status(server.url) for _ in range(2)] == [200, 429]


@needs_openssl
def test_a_changed_file_is_in_force_at_once_and_a_wrong_one_is_not(tmp_path: Path, certificates: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(tls(certificates))
    with serving(path) as server:
        server.web_config._check_every_s = 0.0
        assert server.url.startswith("https://")
        context = client(certificates)

        def serial() -> str:
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                return str((secure.getpeercert() or {})["serialNumber"])

        first = serial()
        path.write_text(tls(certificates, name="server2"))
        second = serial()
        assert second != first
        path.write_text(tls(certificates, "min_version: TLS99"))
        assert serial() == second
        assert "TLS99" in str(server.web_config.error)
        path.write_text(tls(certificates))
        assert serial() == first
        assert server.web_config.error is None


@needs_openssl
def test_client_certificates(tmp_path: Path, certificates: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(
        tls(
            certificates,
            "client_auth_type: RequireAndVerifyClientCert",
            f"client_ca_file: {certificates}/ca.pem",
            "client_allowed_sans: [prometheus.example]",
        )
    )
    with serving(path) as server:
        assert status(server.url, context=client(certificates, "prometheus")) == 200
        for name in (None, "stranger", "forged"):
            with pytest.raises((OSError, urllib.error.URLError)):
                status(server.url, context=client(certificates, name))


@needs_openssl
def test_a_client_that_speaks_no_tls_gets_nothing(tmp_path: Path, certificates: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(tls(certificates))
    with serving(path) as server:
        with held(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(4096):
                    answer += part
        # At most a TLS alert: not a word of HTTP.
        assert len(answer) < 16
        assert b"HTTP" not in answer
        assert status(server.url, context=client(certificates)) == 200


def held(server: Server, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(sent)
    return connection


@pytest.mark.parametrize("encrypted", [False, pytest.param(True, marks=needs_openssl)])
def test_clients_that_say_nothing_neither_delay_a_scrape_nor_stay(
    tmp_path: Path, certificates: Path, encrypted: bool
) -> None:
    path = tmp_path / "web.yml"
    path.write_text(tls(certificates) if encrypted else "")
    with serving(path, request_s=1.0) as server, ExitStack() as stack:
        slow = [stack.enter_context(held(server, b"" if encrypted else b"GET /metrics HT")) for _ in range(10)]
        begun_s = time.monotonic()
        assert status(server.url, context=client(certificates) if encrypted else None) == 200
        assert time.monotonic() - begun_s < 0.9
        for connection in slow:
            assert connection.recv(1) == b""


def test_a_client_that_drips_is_cut_at_its_deadline_not_at_its_last_byte() -> None:
    with serving(request_s=1.0) as server, held(server) as connection:
        begun_s = time.monotonic()

        def drip() -> None:
            while time.monotonic() - begun_s < 10:
                connection.sendall(b"G")
                time.sleep(0.05)

        with pytest.raises(OSError):
            drip()
        assert time.monotonic() - begun_s < 5


def test_the_number_of_connections_is_bounded_and_idle_ones_make_room() -> None:
    with serving(max_connections=4, request_s=60.0) as server, ExitStack() as stack:
        busy = [stack.enter_context(held(server, b"GET /metrics HT")) for _ in range(3)]
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as idle:
            idle.request("GET", "/healthz")
            idle.getresponse().read()
            until(lambda: any(connection.idle for connection in server._connections.values()))
            assert status(server.url) == 200
            assert idle.sock.recv(1) == b""
        until(lambda: len(server._connections) == 3)
        busy.append(stack.enter_context(held(server, b"GET /metrics HT")))
        until(lambda: len(server._connections) == 4)
        with held(server) as refused:
            assert refused.recv(1) == b""


def test_closing_cuts_every_connection_at_once() -> None:
    with serving() as server, held(server) as connection:
        until(lambda: server._connections)
        begun_s = time.monotonic()
        server.close()
        assert connection.recv(1) == b""
        assert time.monotonic() - begun_s < 1.5


def test_sixteen_devices_answer_in_under_20_ms_while_the_agent_samples() -> None:
    with serving(devices=16) as server:
        done = threading.Event()

        def sample() -> None:
            time_ns = 1
            while not done.wait(0.05):  # twenty times as often as the agent
                time_ns += 1
                fill(server.exposition, devices=16, time_ns=time_ns)

        sampling = threading.Thread(target=sample)
        sampling.start()
        took_s = []
        try:
            with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
                for _ in range(30):
                    begun_s = time.perf_counter()
                    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
                    body = connection.getresponse().read()
                    took_s.append(time.perf_counter() - begun_s)
        finally:
            done.set()
            sampling.join()
        assert gzip.decompress(body).count(b"\n") > 16 * 45
        # The median: other work on the machine that runs the tests is no property of the server.
        assert sorted(took_s)[len(took_s) // 2] < 0.020


@contextmanager
def prometheus(folder: Path, jobs: str) -> Iterator[Callable[[str], list[dict[str, object]]]]:
    """A real Prometheus that scrapes *jobs*; yields its instant query."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "prometheus.yml"
    config.write_text(f"global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\nscrape_configs:\n{jobs}")
    words = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    words.append(f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:

            def query(text: str) -> list[dict[str, object]]:
                url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": text})
                try:
                    with urllib.request.urlopen(url, timeout=5) as response:
                        found: list[dict[str, object]] = json.load(response)["data"]["result"]
                        return found
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None, (folder / "log").read_text()
                    return []

            yield query
        finally:
            process.terminate()
            process.wait(20)


@needs_prometheus
@needs_openssl
def test_a_real_prometheus_scrapes_it_plainly_and_with_tls_password_and_certificate(
    tmp_path: Path, certificates: Path
) -> None:
    path = tmp_path / "web.yml"
    path.write_text(
        tls(certificates, "client_auth_type: RequireAndVerifyClientCert", f"client_ca_file: {certificates}/ca.pem")
        + f"basic_auth_users:\n  prometheus: {HASHED}\n"
    )
    with serving() as plain, serving(path) as secure:
        target = "    static_configs: [{{targets: ['127.0.0.1:{}']}}]\n"
        secured = f"""    scheme: https
    basic_auth: {{username: prometheus, password: {PASSWORD}}}
    tls_config:
      ca_file: {certificates}/ca.pem
      cert_file: {certificates}/prometheus.pem
      key_file: {certificates}/prometheus.key
"""
        jobs = f"  - job_name: plain\n{target.format(plain.port)}"
        jobs += f"  - job_name: secure\n{secured}{target.format(secure.port)}"
        jobs += f"  - job_name: intruder\n{target.format(secure.port)}"
        with prometheus(tmp_path, jobs) as query:
            until(lambda: len(query("accel_power_watts")) == 2 and len(query("up")) == 3)
            power = {str(row["metric"]["job"]): row["value"][1] for row in query("accel_power_watts")}  # type: ignore[index]
            assert power == {"plain": "300", "secure": "300"}
            up = {str(row["metric"]["job"]): row["value"][1] for row in query("up")}  # type: ignore[index]
            assert up == {"plain": "1", "secure": "1", "intruder": "0"}
            assert query('accel_energy_joules_total{job="secure",device="GPU-0"}')
