"""The exporter-toolkit's web configuration file: what it may say, and how a wrong one is named."""

import shutil
import subprocess
import threading
import time
from pathlib import Path

import bcrypt
import pytest

from collector.errors import ConfigError
from collector.web_config import Doorkeeper, Reloading, Throttle, WebConfig, load

HASHED = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"

WRONG = {
    "[1]": "web_config: must be a mapping",
    "a: [": "web_config: is not YAML",
    "tls_config: {}": "tls_config: unknown section",
    "tls_server_config: {certfile: x}": r"tls_server_config\.certfile: unknown key",
    "tls_server_config: {cert_file: 7}": r"tls_server_config\.cert_file: 7: must be str",
    "tls_server_config: {cert_file: gone.pem, key_file: gone.key}": r"cert_file: .*gone\.pem: No such file",
    "tls_server_config: {cert: x}": r"tls_server_config\.key_file: missing",
    "tls_server_config: {key: x}": r"tls_server_config\.cert_file: missing",
    "tls_server_config: {client_auth_type: NoClientCert}": r"tls_server_config\.cert_file: missing",
    "tls_server_config: {cert: x, cert_file: y, key: z}": r"tls_server_config\.cert: give it or cert_file, not both",
    "tls_server_config: {cert: x, key: y}": r"tls_server_config\.cert_file: certificate and key cannot be used",
    "tls_server_config: {cert: x, key: y, min_version: SSL3}": r"min_version: 'SSL3': must be one of TLS10",
    "tls_server_config: {cert: x, key: y, min_version: TLS13, max_version: TLS12}": "min_version: is above max_version",
    "tls_server_config: {cert: x, key: y, cipher_suites: [TLS_NULL]}": "cipher_suites: 'TLS_NULL': unknown",
    "tls_server_config: {cert: x, key: y, curve_preferences: [X]}": "curve_preferences: 'X': unknown",
    "tls_server_config: {cert: x, key: y, curve_preferences: [X25519, CurveP256]}": "one curve at most",
    "tls_server_config: {cert: x, key: y, client_allowed_sans: [1]}": "client_allowed_sans: must be a list of strings",
    "http_server_config: {http2: 1}": r"http_server_config\.http2: 1: must be bool",
    "http_server_config: {headers: {X-Powered-By: me}}": r"headers\.X-Powered-By: unknown header",
    "http_server_config: {headers: {X-Frame-Options: maybe}}": r"X-Frame-Options: 'maybe': must be one of deny",
    'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nA: b"}}': "must be a string of one line",
    "basic_auth_users: {ada: secret}": r"basic_auth_users\.ada: is not a bcrypt hash",
    "basic_auth_users: [ada]": "basic_auth_users: must map",
    f"basic_auth_users: {{'a:b': {HASHED}}}": "a user is a string without a colon",
    "rate_limit: {interval: fast, burst: 1}": r"rate_limit\.interval: 'fast': must be a duration",
    "rate_limit: {interval: 1s}": r"rate_limit\.burst: 0: with an interval it must be at least 1",
    "rate_limit: {interval: 1s, burst: true}": r"rate_limit\.burst: True: must be int",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "web.yml")


def test_a_secret_stays_out_of_the_message(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text("basic_auth_users: {ada: plain-text-password}")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "plain-text" not in str(caught.value)


def test_what_a_file_says_is_what_is_in_force(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(
        f"basic_auth_users: {{ada: {HASHED}}}\n"
        "http_server_config: {http2: true, headers: {X-Frame-Options: SAMEORIGIN, X-XSS-Protection: ''}}\n"
        "rate_limit: {interval: 1m30s, burst: 5}\n"
    )
    config = load(path)
    assert config.users == {"ada": HASHED}
    assert config.headers == {"X-Frame-Options": "SAMEORIGIN"}
    assert (config.interval_s, config.burst, config.tls) == (90.0, 5, None)


def test_an_empty_file_is_a_server_without_anything(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text("")
    assert load(path) == WebConfig(files=(path,))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout k.pem -out c.pem -subj /CN=x -days 2"
    )
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    return tmp_path / "c.pem", tmp_path / "k.pem"


CLIENTS = {
    "client_auth_type: RequireAnyClientCert": "an unverified certificate proves nothing",
    "client_auth_type: Sometimes": "client_auth_type: 'Sometimes': must be one of NoClientCert",
    "client_auth_type: RequireAndVerifyClientCert": "client_ca_file: missing",
    "client_ca_file: c.pem": "client_auth_type: missing; a client CA has no effect",
    "client_ca: nonsense\n  client_auth_type: RequireAndVerifyClientCert": "client_ca_file: no usable certificate",
    "client_allowed_sans: [a]": "client_allowed_sans: needs client_auth_type RequireAndVerifyClientCert",
    "client_allowed_sans: [a]\n  client_ca: x\n  client_auth_type: VerifyClientCertIfGiven": "may come without",
}


@pytest.mark.parametrize("more", CLIENTS)
def test_client_settings_that_would_let_anybody_in_are_refused(pair: tuple[Path, Path], more: str) -> None:
    path = pair[0].parent / "web.yml"
    path.write_text(f"tls_server_config:\n  cert_file: c.pem\n  key_file: k.pem\n  {more}\n")
    with pytest.raises(ConfigError, match=CLIENTS[more]):
        load(path)


def test_files_are_found_beside_the_configuration_and_watched(pair: tuple[Path, Path]) -> None:
    path = pair[0].parent / "web.yml"
    path.write_text("tls_server_config: {cert_file: c.pem, key_file: k.pem, cipher_suites: [TLS_AES_128_GCM_SHA256]}")
    config = load(path)
    assert config.files == (path, *pair)
    assert config.tls is not None
    assert config.tls.minimum_version.name == "TLSv1_2"


def test_certificates_may_stand_in_the_file_itself(pair: tuple[Path, Path]) -> None:
    import json

    path = pair[0].parent / "web.yml"
    parts = {
        "cert": pair[0].read_text(),
        "key": pair[1].read_text(),
        "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
    }
    path.write_text(json.dumps({"tls_server_config": parts}))
    config = load(path)
    assert config.tls is not None
    assert {x["name"] for x in config.tls.get_ciphers() if x["protocol"] == "TLSv1.2"} == {
        "ECDHE-ECDSA-AES128-GCM-SHA256"
    }


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(pair: tuple[Path, Path]) -> None:
    words = "pkey -in k.pem -aes256 -passout pass:secret -out e.pem"
    subprocess.run(["openssl", *words.split()], cwd=pair[0].parent, check=True, capture_output=True, timeout=30)
    path = pair[0].parent / "web.yml"
    path.write_text("tls_server_config: {cert_file: c.pem, key_file: e.pem}")
    with pytest.raises(ConfigError, match="the key is encrypted"):
        load(path)


def test_a_wrong_change_leaves_the_one_before_in_force_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{ada: {HASHED}}}")
    config = Reloading(path, check_every_s=0.0)
    path.write_text("basic_auth_users: {ada: oops}")
    assert config().users == {"ada": HASHED}
    assert config.error is not None
    path.unlink()
    assert config().users == {"ada": HASHED}
    path.write_text("")
    assert config().users == {}
    assert config.error is None


def test_a_wrong_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Reloading(tmp_path / "gone.yml")


def test_a_right_password_is_worked_out_once_and_guesses_do_not_push_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []

    def check(password: bytes, hashed: bytes) -> bool:
        calls.append(password)
        return password == b"right"

    monkeypatch.setattr(bcrypt, "checkpw", check)
    door = Doorkeeper(remembered=10)
    assert door.admits({"ada": HASHED}, "ada", b"right")
    for n in range(50):
        assert not door.admits({"ada": HASHED}, "ada", b"%d" % n)
    assert not door.admits({"ada": HASHED}, "eve", b"right")
    calls.clear()
    assert door.admits({"ada": HASHED}, "ada", b"right")
    assert calls == []
    assert door.admits({"ada": HASHED.replace("X0h", "X0i")}, "ada", b"right")
    assert calls == [b"right"]


def test_passwords_are_checked_by_bcrypt_even_long_ones_and_for_nobody() -> None:
    long = b"x" * 100
    hashed = bcrypt.hashpw(long[:72], bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    door = Doorkeeper()
    assert door.admits({"ada": hashed}, "ada", long)
    assert not door.admits({"ada": hashed}, "ada", b"x")
    assert not door.admits({"ada": hashed}, "eve", long)


def test_a_user_who_is_not_there_takes_as_long_as_a_wrong_password() -> None:
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()

    def cpu_s(user: str) -> float:
        begun_s = time.thread_time()
        assert not Doorkeeper().admits({"ada": hashed}, user, b"wrong")
        return time.thread_time() - begun_s

    assert 0.5 < min(cpu_s("eve") for _ in range(3)) / min(cpu_s("ada") for _ in range(3)) < 2.0


def test_many_at_once_work_out_one_password(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    started = threading.Event()

    def check(password: bytes, hashed: bytes) -> bool:
        calls.append(password)
        started.wait(5)
        return True

    monkeypatch.setattr(bcrypt, "checkpw", check)
    door = Doorkeeper()
    threads = [threading.Thread(target=door.admits, args=({"ada": HASHED}, "ada", b"x")) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    assert calls == [b"x"]


def test_a_bucket_lets_a_burst_through_and_then_one_per_interval() -> None:
    now_s = [0.0]
    throttle = Throttle(clock=lambda: now_s[0])
    assert [throttle.admits(2.0, 3) for _ in range(4)] == [True, True, True, False]
    now_s[0] = 2.0
    assert [throttle.admits(2.0, 3) for _ in range(2)] == [True, False]
    now_s[0] = 1000.0
    assert [throttle.admits(2.0, 3) for _ in range(4)] == [True, True, True, False]
    assert throttle.admits(0.0, 0)


def test_a_wrong_change_is_mended_by_a_file_that_it_names(pair: tuple[Path, Path]) -> None:
    path = pair[0].parent / "web.yml"
    path.write_text("")
    config = Reloading(path, check_every_s=0.0)
    path.write_text("tls_server_config: {cert_file: later.pem, key_file: k.pem}")
    assert config().tls is None
    assert config.error is not None
    shutil.copy(pair[0], pair[0].parent / "later.pem")
    assert config().tls is not None
    assert config.error is None
