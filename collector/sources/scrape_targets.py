"""Which targets there are: from the configuration, and from files that a service discovery writes."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from collector.errors import ConfigError
from collector.sources.scrape_http import Access, Door
from collector.sources.scrape_mapping import Table, choose

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_S: Final = 15.0
DEFAULT_TIMEOUT_S: Final = 10.0
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}
# Keys of a [[source]] table that are not this source's own.
_OUTER: Final = {"type", "name", "period_s", "deadline_s"}
_GROUP: Final = {
    "targets", "target_files", "labels", "mapping", "interval_s", "timeout_s", "scheme", "metrics_path", "headers",
    "basic_auth", "bearer_token_file", "tls", "max_body_bytes",
}  # fmt: skip
_TLS: Final = {"ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """One endpoint and how it is read; two are the same when their address is."""

    url: str
    instance: str
    host: str
    labels: Mapping[str, str] = field(compare=False)
    interval_s: float
    timeout_s: float
    tables: tuple[Table, ...] = field(compare=False)
    door: Door = field(compare=False)


def _number(options: Mapping[str, Any], key: str, default: float, low: float, high: float, where: str) -> float:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{where}{key}", f"{value!r} is not a number from {low:g} to {high:g}")
    return float(value)


def _known(options: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in options:
        if key not in known:
            raise ConfigError(f"{where}{key}", f"unknown key; known are {', '.join(sorted(known))}")


def _path(options: Mapping[str, Any], key: str, where: str) -> Path | None:
    value = options.get(key)
    if value is None:
        return None
    path = Path(value)
    if not path.is_file():
        raise ConfigError(f"{where}{key}", f"{path} is not a file")
    return path


def _text_map(options: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = options.get(key, {})
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for word in value.values()):
        raise ConfigError(f"{where}{key}", "must be a table of texts")
    return dict(value)


def _access(options: Mapping[str, Any], where: str) -> Access:
    tls = options.get("tls", {})
    _known(tls, _TLS, f"{where}tls.")
    basic = options.get("basic_auth", {})
    _known(basic, {"username", "password_file"}, f"{where}basic_auth.")
    if basic and "bearer_token_file" in options:
        raise ConfigError(f"{where}basic_auth", "cannot stand beside bearer_token_file")
    if ("key_file" in tls) != ("cert_file" in tls):
        raise ConfigError(f"{where}tls", "needs cert_file and key_file together")
    return Access(
        headers=_text_map(options, "headers", where),
        username=str(basic.get("username", "")),
        password_file=_path(basic, "password_file", f"{where}basic_auth."),
        bearer_token_file=_path(options, "bearer_token_file", where),
        ca_file=_path(tls, "ca_file", f"{where}tls."),
        cert_file=_path(tls, "cert_file", f"{where}tls."),
        key_file=_path(tls, "key_file", f"{where}tls."),
        server_name=str(tls.get("server_name", "")),
        insecure_skip_verify=bool(tls.get("insecure_skip_verify", False)),
        max_body_bytes=int(_number(options, "max_body_bytes", 16 << 20, 1024, 1 << 30, where)),
    )


@dataclass(frozen=True, kw_only=True)
class Group:
    """Targets that are read alike, and the files that name more of them."""

    targets: tuple[Target, ...]
    files: tuple[str, ...]
    options: Mapping[str, Any]
    where: str
    door: Door
    tables: tuple[Table, ...]


def read_options(options: Mapping[str, Any], local_host: str) -> list[Group]:
    """
    The groups of a ``[[source]]`` table: the table itself, and each table of its ``group`` list on top of it.

    Raises: ConfigError.
    """
    _known(options, _OUTER | _GROUP | {"group"}, "")
    outer = {key: value for key, value in options.items() if key in _GROUP}
    groups = []
    if "targets" in outer or "target_files" in outer:
        groups.append(_group(outer, "", local_host))
    shared = {key: value for key, value in outer.items() if key not in {"targets", "target_files"}}
    for number, inner in enumerate(options.get("group", ())):
        where = f"group[{number}]."
        _known(inner, _GROUP, where)
        groups.append(_group({**shared, **inner}, where, local_host))
    if not groups:
        raise ConfigError("targets", "a scrape source needs targets, target_files or a group with one of them")
    return groups


def _group(options: Mapping[str, Any], where: str, local_host: str) -> Group:
    door = Door(_access(options, where), key=f"{where}tls")
    tables = choose(options.get("mapping", "auto"), key=f"{where}mapping")
    files = options.get("target_files", ())
    if isinstance(files, str) or not all(isinstance(name, str) for name in files):
        raise ConfigError(f"{where}target_files", "must be a list of paths, which may hold * in their last part")
    listed = options.get("targets", ())
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ConfigError(f"{where}targets", "must be a list")
    return Group(
        targets=tuple(_target(one, options, f"{where}targets", local_host, door, tables) for one in listed),
        files=tuple(files),
        options=options,
        where=where,
        door=door,
        tables=tables,
    )


def _target(
    given: str | Mapping[str, Any],
    options: Mapping[str, Any],
    where: str,
    local_host: str,
    door: Door,
    tables: tuple[Table, ...],
) -> Target:
    said: Mapping[str, Any] = {"url": given} if isinstance(given, str) else given
    if not isinstance(said, Mapping) or not isinstance(said.get("url"), str):
        raise ConfigError(where, f"{given!r} is neither an address nor a table with a url")
    _known(said, {"url", "labels", "interval_s", "timeout_s", "mapping"}, f"{where}.")
    labels = {**_text_map(options, "labels", f"{where}."), **_text_map(said, "labels", f"{where}.")}
    url = address(
        said["url"],
        scheme=labels.get("__scheme__", options.get("scheme", "http")),
        path=labels.get("__metrics_path__", options.get("metrics_path", "/metrics")),
        key=where,
    )
    parts = urlsplit(url)
    name = parts.hostname or ""
    merged = {**options, **said}
    interval_s = _number(merged, "interval_s", DEFAULT_INTERVAL_S, 0.05, 86_400, f"{where}.")
    timeout_s = _number(merged, "timeout_s", min(DEFAULT_TIMEOUT_S, interval_s), 0.01, interval_s, f"{where}.")
    return Target(
        url=url,
        instance=parts.netloc.rpartition("@")[2],
        host=local_host if name in _LOOPBACK or name.startswith("127.") else name,
        labels=labels,
        interval_s=interval_s,
        timeout_s=timeout_s,
        tables=choose(said["mapping"], key=f"{where}.mapping") if "mapping" in said else tables,
        door=door,
    )


def address(given: str, *, scheme: str = "http", path: str = "/metrics", key: str = "targets") -> str:
    """
    The URL that *given* (a URL, or ``host:port``) means.

    Raises: ConfigError.
    """
    url = given if "://" in given else f"{scheme}://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(key, f"{given!r}: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ConfigError(key, f"{given!r} is no http or https address")
    if parts.username or parts.password:
        raise ConfigError(key, f"{parts.hostname}: credentials belong into basic_auth, not into the address")
    return url if parts.path or parts.query else url + path


def _parse_json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError("target_files", f"is not JSON: {error}", path=path) from error


def _parse_yaml(path: Path, text: str) -> object:
    import yaml  # only where such a file is

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("target_files", f"is not YAML: {error}", path=path) from error


def _files(pattern: Path) -> list[str]:
    return sorted(str(found) for found in pattern.parent.glob(pattern.name))


class TargetFiles:
    """
    The targets that files name, in the form of Prometheus' file_sd: JSON or YAML, a list of ``targets`` with
    ``labels``.

    A file that cannot be read keeps the targets it had; one that is gone loses them.
    """

    def __init__(self, groups: Iterable[Group], local_host: str) -> None:
        self._groups = [group for group in groups if group.files]
        self._local_host = local_host
        self._seen: dict[tuple[int, str], tuple[int, int]] = {}
        self._targets: dict[tuple[int, str], tuple[Target, ...]] = {}

    def read(self, *, strict: bool = False) -> tuple[Target, ...] | None:
        """
        Every target of the files, or None where no file changed.

        Raises: ConfigError, when *strict*.
        """
        changed = False
        present: set[tuple[int, str]] = set()
        for number, group in enumerate(self._groups):
            for name in (found for pattern in group.files for found in _files(Path(pattern))):
                key = number, name
                try:
                    status = Path(name).stat()
                    present.add(key)
                    stamp = status.st_mtime_ns, status.st_size
                    if self._seen.get(key) == stamp:
                        continue
                    self._seen[key] = stamp
                    self._targets[key] = self._parse(Path(name), group)
                    changed = True
                except FileNotFoundError:
                    continue
                except (OSError, ConfigError) as error:
                    if strict:
                        raise
                    log.warning("target file refused, its former targets stay", extra={"error": str(error)})
        for key in self._targets.keys() - present:
            del self._targets[key]
            self._seen.pop(key, None)
            changed = True
        return tuple(target for targets in self._targets.values() for target in targets) if changed else None

    def _parse(self, path: Path, group: Group) -> tuple[Target, ...]:
        text = path.read_text(encoding="utf-8")
        listed = _parse_yaml(path, text) if path.suffix in {".yml", ".yaml"} else _parse_json(path, text)
        if not isinstance(listed, list):
            raise ConfigError("target_files", "must hold a list of groups with 'targets'", path=path)
        targets: list[Target] = []
        for number, one in enumerate(listed):
            if not isinstance(one, dict) or not isinstance(one.get("targets"), list):
                raise ConfigError(f"[{number}].targets", "is missing or not a list", path=path)
            options = {**group.options, "labels": {**group.options.get("labels", {}), **(one.get("labels") or {})}}
            targets.extend(
                _target(target, options, f"[{number}].targets", self._local_host, group.door, group.tables)
                for target in one["targets"]
            )
        return tuple(targets)
