"""
The web configuration file of Prometheus's exporter-toolkit: TLS, client certificates, passwords, headers, rate limit.

The format is the exporter-toolkit's, so that the file an operator has for node_exporter serves here. Two settings
cannot be had from Python's ssl and are refused by name, not ignored: `RequireAnyClientCert` and more than one curve.
"""

import hashlib
import hmac
import logging
import re
import secrets
import ssl
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from collector.errors import ConfigError

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_TLS_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CURVES: Final = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_CIPHERS: Final = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
}
# TLS 1.3 suites cannot be chosen, in Go as here; a list may still name them.
_CIPHERS_13: Final = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
_VERIFY: Final = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    # Asked for but never looked at: no different to the client's rights from not asking.
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_HEADERS: Final[Mapping[str, Sequence[str] | None]] = {
    "Content-Security-Policy": None,
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": None,
    "Strict-Transport-Security": None,
}
_SECTIONS: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "tls_server_config": {
        "cert": str,
        "key": str,
        "client_ca": str,
        "cert_file": str,
        "key_file": str,
        "client_ca_file": str,
        "client_auth_type": str,
        "client_allowed_sans": list,
        "min_version": str,
        "max_version": str,
        "cipher_suites": list,
        "prefer_server_cipher_suites": bool,
        "curve_preferences": list,
    },
    "http_server_config": {"http2": bool, "headers": dict},
    "rate_limit": {"interval": (str, int), "burst": int},
}
_BCRYPT: Final = re.compile(r"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")
# Checked for users that are not there, so that their refusal takes as long as that of a wrong password (cost 10).
_NOBODY: Final = "$2b$10$abcdefghijklmnopqrstuuvDB3DDmIPHHRoC4tk7zZrgBN7cW1c2K"
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """What one reading of the file said; `files` are all that it was read from."""

    tls: ssl.SSLContext | None = None
    client_allowed_sans: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    interval_s: float = 0.0
    burst: int = 0
    files: tuple[Path, ...] = ()

    def client_allowed(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a verified client certificate (as `SSLSocket.getpeercert` gives it) names someone who may come in."""
        if not self.client_allowed_sans:
            return True
        names = {str(value) for _kind, value in (certificate or {}).get("subjectAltName", ())}
        return not self.client_allowed_sans.isdisjoint(names)


def load(path: Path) -> WebConfig:
    """
    Read the file at *path* and everything it names.

    Raises: ConfigError, with the file and the key.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError("web_config", f"cannot be read: {error.strerror}", path=path) from error
    except yaml.YAMLError as error:
        raise ConfigError("web_config", f"is not YAML: {' '.join(str(error).split())}", path=path) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError("web_config", "must be a mapping of sections", path=path)
    known = (*_SECTIONS, "basic_auth_users")
    for section in content:
        if section not in known:
            raise ConfigError(str(section), f"unknown section; known are {', '.join(known)}", path=path)
    parts = {name: _section(content, name, path) for name in _SECTIONS}
    users = _users(content.get("basic_auth_users"), path)
    interval_s = _duration(parts["rate_limit"].get("interval", 0), path)
    burst = parts["rate_limit"].get("burst", 0)
    if interval_s > 0 and burst < 1:
        raise ConfigError("rate_limit.burst", f"{burst}: with an interval it must be at least 1", path=path)
    tls = parts["tls_server_config"]
    return WebConfig(
        tls=_tls(tls, path) if tls else None,
        client_allowed_sans=frozenset(tls.get("client_allowed_sans", ())),
        headers=_headers(parts["http_server_config"].get("headers", {}), path),
        users=users,
        interval_s=interval_s,
        burst=burst,
        files=(path, *(_file(tls, key, path) for key in ("cert_file", "key_file", "client_ca_file") if tls.get(key))),
    )


def _section(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(name, "must be a mapping", path=path)
    for key, value in section.items():
        wanted = _SECTIONS[name].get(key)
        if wanted is None:
            raise ConfigError(f"{name}.{key}", f"unknown key; known are {', '.join(_SECTIONS[name])}", path=path)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            wanted_name = " or ".join(x.__name__ for x in (wanted if isinstance(wanted, tuple) else (wanted,)))
            raise ConfigError(f"{name}.{key}", f"{value!r}: must be {wanted_name}", path=path)
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name}.{key}", "must be a list of strings", path=path)
    return section


def _users(users: Any, path: Path) -> dict[str, str]:
    if users is None:
        return {}
    if not isinstance(users, dict):
        raise ConfigError("basic_auth_users", "must map each user to a bcrypt hash", path=path)
    for user, hashed in users.items():
        # The value is a secret and stays out of the message.
        key = f"basic_auth_users.{user}"
        if not isinstance(user, str) or ":" in user:
            raise ConfigError(key, "a user is a string without a colon", path=path)
        found = _BCRYPT.fullmatch(hashed) if isinstance(hashed, str) else None
        if found is None or not 4 <= int(found[1]) <= 31:
            raise ConfigError(key, "is not a bcrypt hash; make one with: htpasswd -nBC 10 NAME", path=path)
    return dict(users)


def _headers(headers: Any, path: Path) -> dict[str, str]:
    for name, value in headers.items():
        key = f"http_server_config.headers.{name}"
        if name not in _HEADERS:
            raise ConfigError(key, f"unknown header; known are {', '.join(_HEADERS)}", path=path)
        allowed = _HEADERS[name]
        if not isinstance(value, str) or "\n" in value or "\r" in value:
            raise ConfigError(key, f"{value!r}: must be a string of one line", path=path)
        if allowed and value and value.lower() not in allowed:
            raise ConfigError(key, f"{value!r}: must be one of {', '.join(allowed)}", path=path)
    return {name: value for name, value in headers.items() if value}


def _duration(value: str | int, path: Path) -> float:
    if value in (0, "0"):
        return 0.0
    text = str(value)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError("rate_limit.interval", f"{value!r}: must be a duration such as 1s or 200ms", path=path)
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _file(tls: Mapping[str, Any], key: str, path: Path) -> Path:
    return path.parent / str(tls[key])


def _text(tls: Mapping[str, Any], key: str, path: Path) -> str | None:
    """What `<key>` holds or `<key>_file` points to; None where neither is there."""
    if tls.get(key) and tls.get(f"{key}_file"):
        raise ConfigError(f"tls_server_config.{key}", f"give it or {key}_file, not both", path=path)
    if tls.get(key):
        return str(tls[key])
    if not tls.get(f"{key}_file"):
        return None
    try:
        return _file(tls, f"{key}_file", path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not PEM text"
        message = f"{_file(tls, f'{key}_file', path)}: {reason}"
        raise ConfigError(f"tls_server_config.{key}_file", message, path=path) from error


def _choice(tls: Mapping[str, Any], key: str, choices: Mapping[str, _T], default: str, path: Path) -> _T:
    value = tls.get(key, default)
    if value not in choices:
        known = ", ".join(choice for choice in choices if choice)
        raise ConfigError(f"tls_server_config.{key}", f"{value!r}: must be one of {known}", path=path)
    return choices[value]


def _tls(tls: Mapping[str, Any], path: Path) -> ssl.SSLContext:
    section = "tls_server_config"
    cert, key, client_ca = (_text(tls, name, path) for name in ("cert", "key", "client_ca"))
    if cert is None or key is None:
        missing = "cert" if cert is None else "key"
        raise ConfigError(f"{section}.{missing}_file", f"missing; TLS needs {missing}_file or {missing}", path=path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _choice(tls, "min_version", _TLS_VERSIONS, "TLS12", path)
    context.maximum_version = _choice(tls, "max_version", _TLS_VERSIONS, "TLS13", path)
    if context.minimum_version > context.maximum_version:
        raise ConfigError(f"{section}.min_version", "is above max_version", path=path)
    if tls.get("prefer_server_cipher_suites", True):
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    _choose_algorithms(context, tls, path)
    # ssl takes files only; a key given inline is on disk for a moment, readable by this user alone.
    with tempfile.TemporaryDirectory(prefix="perfwatt-") as folder:
        for name, text in (("cert", cert), ("key", key)):
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            context.load_cert_chain(Path(folder) / "cert", Path(folder) / "key", password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            message = f"certificate and key cannot be used together: {error}"
            raise ConfigError(f"{section}.cert_file", message, path=path) from error
    _choose_clients(context, tls, client_ca, path)
    return context


def _no_password() -> bytes:
    # Without this an encrypted key would make OpenSSL ask on the terminal and the agent wait for ever.
    raise ValueError("the key is encrypted; give it unencrypted, readable by the agent alone")


def _choose_algorithms(context: ssl.SSLContext, tls: Mapping[str, Any], path: Path) -> None:
    suites = tls.get("cipher_suites") or []
    for suite in suites:
        if suite not in _CIPHERS and suite not in _CIPHERS_13:
            message = f"{suite!r}: unknown; known are {', '.join(_CIPHERS)}"
            raise ConfigError("tls_server_config.cipher_suites", message, path=path)
    chosen = [_CIPHERS[suite] for suite in suites if suite in _CIPHERS]
    if chosen:
        context.set_ciphers(":".join(chosen))
    curves = tls.get("curve_preferences") or []
    if len(curves) > 1:
        message = f"{', '.join(curves)}: one curve at most can be set here; name the one you want or leave the key out"
        raise ConfigError("tls_server_config.curve_preferences", message, path=path)
    for curve in curves:
        if curve not in _CURVES:
            message = f"{curve!r}: unknown; known are {', '.join(_CURVES)}"
            raise ConfigError("tls_server_config.curve_preferences", message, path=path)
        context.set_ecdh_curve(_CURVES[curve])


def _choose_clients(context: ssl.SSLContext, tls: Mapping[str, Any], client_ca: str | None, path: Path) -> None:
    section = "tls_server_config"
    if tls.get("client_auth_type") in ("RequireAnyClientCert", "RequireClientCert"):
        message = (
            "an unverified certificate proves nothing and cannot be asked for here; use RequireAndVerifyClientCert"
        )
        raise ConfigError(f"{section}.client_auth_type", message, path=path)
    verify = _choice(tls, "client_auth_type", _VERIFY, "", path)
    if client_ca is not None and tls.get("client_auth_type", "") in ("", "NoClientCert"):
        raise ConfigError(f"{section}.client_auth_type", "missing; a client CA has no effect without it", path=path)
    if verify is not ssl.CERT_NONE and client_ca is None:
        raise ConfigError(f"{section}.client_ca_file", "missing; client_auth_type verifies against it", path=path)
    if tls.get("client_allowed_sans") is not None and verify is not ssl.CERT_REQUIRED:
        message = (
            "needs client_auth_type RequireAndVerifyClientCert; without it a client may come without a certificate"
        )
        raise ConfigError(f"{section}.client_allowed_sans", message, path=path)
    if verify is not ssl.CERT_NONE:
        try:
            context.load_verify_locations(cadata=client_ca)
        except ssl.SSLError as error:
            raise ConfigError(f"{section}.client_ca_file", f"no usable certificate: {error}", path=path) from error
    context.verify_mode = verify


class Reloading:
    """
    The configuration in force, read again when a file of it changed.

    A change for the worse is logged once and leaves the configuration before it in force: a typing error neither stops
    the scrapes nor opens the door.
    """

    def __init__(self, path: Path | None, *, check_every_s: float = 1.0) -> None:
        """
        Read *path* for the first time; None is a server without TLS and passwords.

        Raises: ConfigError.
        """
        self._path = path
        self._check_every_s = check_every_s
        self._lock = threading.Lock()
        self._config = WebConfig() if path is None else load(path)
        self._seen = self._state()
        self._checked_s = time.monotonic()
        self.error: ConfigError | None = None

    def __call__(self) -> WebConfig:
        """The configuration to use now."""
        if self._path is None or time.monotonic() - self._checked_s < self._check_every_s:
            return self._config
        with self._lock:
            self._checked_s = time.monotonic()
            state = self._state()
            # While the file is wrong it is tried again each time: what mends it may be a file that it names.
            if state != self._seen or self.error is not None:
                self._seen = state
                self._reload(self._path)
        return self._config

    def _reload(self, path: Path) -> None:
        try:
            self._config = load(path)
        except ConfigError as error:
            if str(error) != str(self.error):
                log.warning("web_config_refused", extra={"path": str(path), "error": str(error)})
            self.error = error
        else:
            self.error = None
            self._seen = self._state()
            log.info("web_config_reloaded", extra={"path": str(path)})

    def _state(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._config.files)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Doorkeeper:
    """
    Checks passwords, one at a time, and remembers the answers.

    bcrypt is slow on purpose: a scrape every few seconds must not pay for it, and a stranger who guesses must not take
    the machine's time. So an answer is kept under a keyed hash of user, stored hash and password; a changed hash in the
    file is another key. Good and bad answers are kept apart: guessing does not push a good one out.
    """

    def __init__(self, *, remembered: int = 100) -> None:
        self._remembered = remembered
        self._key = secrets.token_bytes(32)
        self._answers: dict[bool, OrderedDict[bytes, None]] = {True: OrderedDict(), False: OrderedDict()}
        self._lock = threading.Lock()

    def admits(self, users: Mapping[str, str], user: str, password: bytes) -> bool:
        """Whether *password* is that of *user*; a user who is not there takes as long as a wrong password."""
        hashed = users.get(user, _NOBODY)
        parts = (user.encode(), hashed.encode(), password)
        # Lengths in front, so that no two triples are one string of bytes.
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        name = hmac.new(self._key, message, hashlib.sha256).digest()
        answer = self._remembered_answer(name)
        if answer is None:
            with self._lock:
                answer = self._remembered_answer(name)
                if answer is None:
                    answer = self._check(hashed, password) and user in users
                    answers = self._answers[answer]
                    answers[name] = None
                    if len(answers) > self._remembered:
                        answers.popitem(last=False)
        return answer

    def _remembered_answer(self, name: bytes) -> bool | None:
        return next((answer for answer, names in self._answers.items() if name in names), None)

    @staticmethod
    def _check(hashed: str, password: bytes) -> bool:
        import bcrypt

        # bcrypt looks at 72 bytes and this binding refuses more.
        return bool(bcrypt.checkpw(password[:72], hashed.encode()))


class Throttle:
    """A token bucket: one request per interval, and a burst on top."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: float | None = None
        self._filled_s = clock()

    def admits(self, interval_s: float, burst: int) -> bool:
        """Whether one more request may be answered now."""
        if interval_s <= 0:
            return True
        with self._lock:
            now_s = self._clock()
            tokens = float(burst) if self._tokens is None else self._tokens + (now_s - self._filled_s) / interval_s
            self._filled_s = now_s
            self._tokens = min(tokens, float(burst))
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
