"""
The agent's configuration: frozen dataclasses from TOML, the environment and flags.

Precedence, key by key: flag, environment (``PERFWATT_AGENT_PERIOD_S``), the user's file
(``~/.config/perfwatt/perfwatt.toml``), the machine's file (``/etc/perfwatt/perfwatt.toml``), default. A file named by
``--config`` or ``PERFWATT_CONFIG`` stands alone and must exist. `Config.origins` says where each value came from.

The fields below are the one list of keys: reading, checking, the JSON schema and the example file derive from them.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from collector.errors import ConfigError
from collector.sources import OPENERS

SYSTEM_FILE: Final = Path("/etc/perfwatt/perfwatt.toml")
ENTRY_POINTS: Final = "perfwatt.sources"
SECRET: Final = "***"
DEFAULT: Final = "default"

_SECRET_KEY = re.compile(
    r"(password|passwd|secret|token|api[_-]?key|credential|authorization|cookie)s?$", re.IGNORECASE
)
_URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
# Kubernetes gives every pod variables for each Service: one called perfwatt-agent must not stop an agent.
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_TYPE_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", dict: "a table"}
_JSON_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string", dict: "object"}


def _option(
    default: object,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    # `check` says what is wrong with a value, in words that follow the value; None when nothing is.
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "check": check}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def _check_listen(value: str) -> str | None:
    if not value:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        return "is not HOST:PORT with a port of 0 to 65535"
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return "is not HOST:PORT; write an IPv6 address in brackets"
    return None


def _check_retain(value: Mapping[str, object]) -> str | None:
    if not value:
        return None
    from collector.store.schema import TABLES  # brings duckdb, which most who read a configuration can do without

    for table, days in value.items():
        if table != "raw" and table not in TABLES:
            return f"names {table!r}, which is no table; known: raw, {', '.join(TABLES)}"
        if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= 36_500:
            return f"has {table} = {days!r}, which is not a whole number of days from 0 (for ever) to 36500"
    return None


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """The schedule and the log; `host` empty means this machine's name."""

    period_s: float = _option(1.0, "Seconds between reads of a source.", low=0.02, high=86400)
    deadline_s: float = _option(0.5, "Seconds after which a read counts as hung; never above the period.", low=0.005)
    host: str = _option("", "Name of this machine in samples; empty: the host name of the system.")
    log_level: str = _option("info", "The least severe message that is logged.", choices=("debug", "info", "warning"))
    log_format: str = _option("logfmt", "How a log line is written.", choices=("logfmt", "json"))


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where and how long samples are kept; `root` empty means that nothing is stored."""

    root: str = _option("/var/lib/perfwatt", "Directory of the store; empty: store nothing.")
    seal_s: float = _option(5.0, "Seconds between segments: what a crash can lose.", low=0.1, high=3600)
    maintain_s: float = _option(3600.0, "Seconds between roll-ups, merges and expiry; 0: never.", low=0, high=1e6)
    retain_days: Mapping[str, int] = _option(
        {}, "Days to keep, by table, 0 for ever; 'raw' stands for the tables of samples.", check=_check_retain
    )


@dataclass(frozen=True, kw_only=True)
class PrometheusConfig:
    """What Prometheus scrapes; `listen` empty means that nothing is served."""

    listen: str = _option("127.0.0.1:9400", "HOST:PORT to serve /metrics on; empty: do not serve.", check=_check_listen)
    web_config: str = _option("", "exporter-toolkit web configuration: TLS, client certificates, passwords.")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One ``[[source]]``: what to read, how often, and `options` as the source type defines them."""

    type: str = _option(MISSING, "Source type, or 'module:function' of an opener.")
    name: str = _option("", "Name of this source in metrics and logs; empty: its type.")
    period_s: float = _option(1.0, "Seconds between reads; default: agent.period_s.", low=0.02, high=86400)
    deadline_s: float = _option(0.5, "Seconds after which a read counts as hung; default: agent.deadline_s.", low=0.005)
    options: Mapping[str, Any] = field(default_factory=dict)


_SECTIONS: Final[dict[str, type[Any]]] = {"agent": AgentConfig, "store": StoreConfig, "prometheus": PrometheusConfig}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that an agent is told; `origins` maps a key such as ``agent.period_s`` to where its value is from."""

    agent: AgentConfig = field(default_factory=AgentConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    prometheus: PrometheusConfig = field(default_factory=PrometheusConfig)
    sources: tuple[SourceConfig, ...] = (SourceConfig(type="nvml", name="nvml"),)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """Each key with its value, secrets hidden, and its origin."""
        shown = self.redacted()
        for section in _SECTIONS:
            for key, value in shown[section].items():
                yield f"{section}.{key}", value, self.origins.get(f"{section}.{key}", DEFAULT)
        for number, source in enumerate(shown["source"]):
            for key, value in source.items():
                yield f"source[{number}].{key}", value, self.origins.get(f"source[{number}].{key}", DEFAULT)

    def redacted(self) -> dict[str, Any]:
        """The configuration in the shape of its file, secrets hidden."""
        shown: dict[str, Any] = {name: asdict(getattr(self, name)) for name in _SECTIONS}
        shown["source"] = [
            {**{key: value for key, value in asdict(source).items() if key != "options"}, **source.options}
            for source in self.sources
        ]
        return cast(dict[str, Any], _hide(shown))


def _hide(value: object, key: str = "") -> object:
    if isinstance(value, Mapping):
        return {name: _hide(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(inner, key) for inner in value]
    if _SECRET_KEY.search(key) and value not in {"", None}:
        return SECRET
    return _URL_USER.sub(SECRET, value) if isinstance(value, str) else value


def load(path: Path | None = None, *, env: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Config:
    """
    The configuration from *path* (or the usual files), *env* and *overrides* (``{"agent.period_s": 2.0}``: flags).

    Raises: ConfigError naming the file, the key, the value and the limit.
    """
    layers = [(f"file {file}", file, _parse(file)) for file in _files(path, env)]
    for _, file, table in layers:
        unknown = sorted(set(table) - set(_SECTIONS) - {"source"})
        if unknown:
            raise ConfigError(unknown[0], _unknown("section", [*_SECTIONS, "source"]), path=file)
    flags = dict(overrides or {})
    origins: dict[str, str] = {}
    sections = {name: _section(name, cls, layers, env, flags, origins) for name, cls in _SECTIONS.items()}
    if flags:
        raise ConfigError(sorted(flags)[0], "is not a key of the configuration")
    config = Config(**sections, origins=origins)
    if not config.store.root and not config.prometheus.listen:
        message = "is empty and so is prometheus.listen: nothing would be kept or served"
        raise ConfigError("store.root", message, path=layers[-1][1] if layers else None)
    entries = next(((file, table["source"]) for _, file, table in reversed(layers) if "source" in table), None)
    if entries is None:
        return replace(config, sources=(_source(0, {"type": "nvml"}, config.agent, origins, None),))
    return replace(config, sources=_sources(entries[1], config.agent, origins, entries[0]))


def user_file(env: Mapping[str, str]) -> Path | None:
    """Where the user's own file lies, or None without a home."""
    if env.get("XDG_CONFIG_HOME"):
        return Path(env["XDG_CONFIG_HOME"]) / "perfwatt/perfwatt.toml"
    return Path(env["HOME"]) / ".config/perfwatt/perfwatt.toml" if env.get("HOME") else None


def _files(path: Path | None, env: Mapping[str, str]) -> list[Path]:
    explicit = path or (Path(env["PERFWATT_CONFIG"]) if env.get("PERFWATT_CONFIG") else None)
    if explicit is not None:
        return [explicit]
    return [file for file in (SYSTEM_FILE, user_file(env)) if file is not None and file.is_file()]


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("configuration file", f"cannot be read: {error.strerror}", path=file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("configuration file", f"is not TOML: {error}", path=file) from error


def _section(
    name: str,
    cls: type[Any],
    layers: Sequence[tuple[str, Path, Mapping[str, Any]]],
    env: Mapping[str, str],
    flags: dict[str, object],
    origins: dict[str, str],
) -> Any:
    # Takes its keys out of *flags*, so that what is left is unknown. A wrong value is an error even where a layer
    # above hides it: it would come to light on the day that layer goes.
    known = {spec.name: spec for spec in fields(cls)}
    values: dict[str, Any] = {}
    for origin, file, table in layers:
        section = table.get(name, {})
        if not isinstance(section, dict):
            raise ConfigError(name, f"is {section!r}, not a table; write [{name}]", path=file)
        for key, value in section.items():
            if key not in known:
                raise ConfigError(f"{name}.{key}", _unknown("key", known), path=file)
            values[key] = _value(f"{name}.{key}", known[key], value, file)
            origins[f"{name}.{key}"] = origin
    prefix = f"PERFWATT_{name.upper()}_"
    for variable, text in env.items():
        if not variable.startswith(prefix) or _SERVICE_LINK.search(variable):
            continue
        key = variable.removeprefix(prefix).lower()
        if key not in known:
            raise ConfigError(f"{name}.{key}", _unknown("key", known), path=f"environment {variable}")
        values[key] = _value(f"{name}.{key}", known[key], _from_text(known[key], text), f"environment {variable}")
        origins[f"{name}.{key}"] = f"environment {variable}"
    for key, spec in known.items():
        if f"{name}.{key}" in flags:
            value = flags.pop(f"{name}.{key}")
            value = _from_text(spec, value) if isinstance(value, str) else value
            values[key] = _value(f"{name}.{key}", spec, value, "flag")
            origins[f"{name}.{key}"] = "flag"
    return cls(**values)


def _kind(spec: "Field[Any]") -> type[Any]:
    return dict if str(spec.type).startswith("collections.abc.Mapping") else cast(type[Any], spec.type)


def _from_text(spec: "Field[Any]", text: str) -> object:
    kind = _kind(spec)
    if kind is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # refused as it stands, by its type


def _value(key: str, spec: "Field[Any]", value: Any, where: Path | str | None) -> Any:
    kind, rules = _kind(spec), spec.metadata
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(key, f"is {value!r}, not {_TYPE_WORDS[kind]}", path=where)
    low, high = rules["low"], rules["high"]
    if low is not None and not value >= low:
        raise ConfigError(key, f"is {value:g}, below the least of {low:g}", path=where)
    if kind is float and not value <= (high if high is not None else 1e12):
        raise ConfigError(key, f"is {value:g}, above the most of {high if high is not None else 1e12:g}", path=where)
    if rules["choices"] and value not in rules["choices"]:
        raise ConfigError(key, f"is {value!r}, not one of {', '.join(rules['choices'])}", path=where)
    fault = rules["check"](value) if rules["check"] else None
    if fault:
        raise ConfigError(key, f"is {value!r}: it {fault}" if kind is str else fault, path=where)
    return value


def _unknown(what: str, known: Mapping[str, object] | Sequence[str]) -> str:
    return f"is no known {what}; known: {', '.join(known)}"


def _sources(
    entries: object, agent: AgentConfig, origins: dict[str, str], file: Path | None
) -> tuple[SourceConfig, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("source", "is not a list of tables; write [[source]]", path=file)
    sources = [_source(number, entry, agent, origins, file) for number, entry in enumerate(entries)]
    names: dict[str, int] = {}
    for number, source in enumerate(sources):
        if source.name in names:
            twin = names[source.name]
            raise ConfigError(f"source[{number}].name", f"is {source.name!r} as source[{twin}] has it", path=file)
        names[source.name] = number
    return tuple(sources)


def _source(
    number: int, entry: Mapping[str, Any], agent: AgentConfig, origins: dict[str, str], file: Path | None
) -> SourceConfig:
    known = {spec.name: spec for spec in fields(SourceConfig) if spec.name != "options"}
    if "type" not in entry:
        raise ConfigError(f"source[{number}].type", "is missing", path=file)
    values: dict[str, Any] = {"period_s": agent.period_s}
    for key, value in entry.items():
        if file is not None:
            origins[f"source[{number}].{key}"] = f"file {file}"
        if key in known:
            values[key] = _value(f"source[{number}].{key}", known[key], value, file)
    values["name"] = values.get("name") or values["type"]
    if not _NAME.fullmatch(values["name"]):
        limit = "is not 1 to 100 letters, digits and . _ : - with a letter or digit first"
        raise ConfigError(f"source[{number}].name", f"is {values['name']!r}: it {limit}", path=file)
    # The agent's deadline is a default for slow and fast sources alike; one that a source names itself must make sense.
    values.setdefault("deadline_s", min(agent.deadline_s, values["period_s"]))
    if values["deadline_s"] > values["period_s"]:
        limit = f"is {values['deadline_s']:g}, above this source's period_s of {values['period_s']:g}"
        raise ConfigError(f"source[{number}].deadline_s", limit, path=file)
    if opener_of(values["type"]) is None:
        raise ConfigError(
            f"source[{number}].type", f"is {values['type']!r}: {_unknown('source type', OPENERS)}", path=file
        )
    return SourceConfig(**values, options={key: value for key, value in entry.items() if key not in known})


def opener_of(type: str) -> str | None:
    """The ``module:function`` behind a source type, or None when there is no such type."""
    if ":" in type:
        return type
    if type in OPENERS:
        return OPENERS[type]
    from importlib.metadata import entry_points  # slow, and seldom needed

    return next((entry.value for entry in entry_points(group=ENTRY_POINTS, name=type)), None)


def check_options(config: Config) -> None:
    """
    Ask each source type whether its options are right.

    This imports the source modules, with whatever libraries they need; the agent has it done by a child (`main`).
    A module takes part by a function ``check_options(options)`` that raises ConfigError with the option's own name.
    Raises: ConfigError.
    """
    for number, source in enumerate(config.sources):
        opener = opener_of(source.type)
        try:
            module = import_module((opener or "").partition(":")[0])
        except ImportError:
            continue  # an extra that is not installed here: the worker says so, and tries again later
        check = getattr(module, "check_options", None)
        if check is None:
            continue
        try:
            check(source.options)
        except ConfigError as error:
            where = config.origins.get(f"source[{number}].type", "").removeprefix("file ") or None
            message = str(error).partition(f"{error.key}: ")[2] or str(error)
            key = error.key.removeprefix("source.")
            raise ConfigError(f"source[{number}].{key}", message, path=error.path or where) from error


def schema() -> dict[str, Any]:
    """The JSON schema of the file."""
    properties: dict[str, Any] = {name: _schema_of(cls) for name, cls in _SECTIONS.items()}
    source = _schema_of(SourceConfig) | {"required": ["type"], "additionalProperties": True}
    properties["source"] = {"type": "array", "items": source, "description": "What to read; default: nvml."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "perfwatt",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _schema_of(cls: type[Any]) -> dict[str, Any]:
    properties = {}
    for spec in fields(cls):
        if spec.name == "options":
            continue
        rules = spec.metadata
        entry: dict[str, Any] = {"type": _JSON_TYPES[_kind(spec)], "description": rules["help"]}
        entry |= {"minimum": rules["low"]} if rules["low"] is not None else {}
        entry |= {"maximum": rules["high"]} if rules["high"] is not None else {}
        entry |= {"enum": list(rules["choices"])} if rules["choices"] else {}
        entry |= {"default": spec.default} if spec.default is not MISSING and cls is not SourceConfig else {}
        properties[spec.name] = entry
    return {"type": "object", "properties": properties, "additionalProperties": False}


def example() -> str:
    """A file with every key at its default, commented out, and the sources that most people want."""
    lines = ["# perfwatt: every key is optional; what is commented out shows the default.", ""]
    for name, cls in _SECTIONS.items():
        lines.append(f"[{name}]")
        for spec in fields(cls):
            default = spec.default if spec.default is not MISSING else {}
            lines.append(f"# {spec.metadata['help']}")
            lines.append(f"# {spec.name} = {json.dumps(default)}")
        lines.append("")
    lines += [
        "# What to read; without any [[source]], NVIDIA devices through their library.",
        "[[source]]",
        'type = "nvml"',
        "",
        "# [[source]]",
        '# type = "scrape"',
        '# name = "serving"',
        "# interval_s = 15",
        "# timeout_s = 10",
        '# targets = ["http://127.0.0.1:8000/metrics"]',
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Load and check the file named in *arguments* (or the usual files); an error goes to stdout, with exit code 2."""
    try:
        check_options(load(Path(arguments[0]) if arguments else None, env=os.environ))
    except ConfigError as error:
        sys.stdout.write(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
