"""Configuration: every value checked, every origin known, every error with its file, key, value and limit."""

import json
import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError
from importlib import import_module
from pathlib import Path

import pytest

from collector import config
from collector.config import ConfigError, load
from collector.sources import OPENERS

NVML = '[[source]]\ntype = "nvml"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "perfwatt.toml"


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "etc.toml"
    monkeypatch.setattr(config, "SYSTEM_FILE", path)
    return path


def refusal(path: Path | None = None, env: dict[str, str] | None = None, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, env=env or {}, overrides={key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value)


def test_without_any_file_nvidia_devices_are_read_every_second_and_served_locally() -> None:
    found = load(env={})
    assert [(source.type, source.name, source.period_s) for source in found.sources] == [("nvml", "nvml", 1.0)]
    assert found.prometheus.listen == "127.0.0.1:9400"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        load(env={}).agent.period_s = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("[agent]\nperiod = 1", "agent.period", "is no known key; known: period_s"),
        ("[agnet]\nperiod_s = 1", "agnet", "is no known section; known: agent, store, prometheus, source"),
        ("[agent]\nperiod_s = '1'", "agent.period_s", "is '1', not a number"),
        ("[agent]\nperiod_s = true", "agent.period_s", "is True, not a number"),
        ("[agent]\nperiod_s = 0.001", "agent.period_s", "is 0.001, below the least of 0.02"),
        ("[agent]\nperiod_s = 1e9", "agent.period_s", "is 1e+09, above the most of 86400"),
        ("[agent]\nperiod_s = nan", "agent.period_s", "is nan, below the least of 0.02"),
        ("[agent]\nperiod_s = inf", "agent.period_s", "is inf, above the most of 86400"),
        ("[agent]\nlog_level = 'loud'", "agent.log_level", "is 'loud', not one of debug, info, warning"),
        ("[agent]\nhost = 7", "agent.host", "is 7, not text"),
        ("agent = 3", "agent", "is 3, not a table; write [agent]"),
        ("[prometheus]\nlisten = '9400'", "prometheus.listen", "is not HOST:PORT with a port of 0 to 65535"),
        ("[prometheus]\nlisten = 'a:70000'", "prometheus.listen", "is not HOST:PORT with a port of 0 to 65535"),
        ("[prometheus]\nlisten = '::1:9400'", "prometheus.listen", "write an IPv6 address in brackets"),
        ("[store]\nretain_days = {raw = -1}", "store.retain_days", "raw = -1, which is not a whole number of days"),
        ("[store]\nretain_days = {samples = 3}", "store.retain_days", "names 'samples', which is no table"),
        ("[store]\nretain_days = 3", "store.retain_days", "is 3, not a table"),
        ("[store]\nroot = ''\n[prometheus]\nlisten = ''", "store.root", "nothing would be kept or served"),
        ("source = 3", "source", "is not a list of tables; write [[source]]"),
        ("[source]\ntype = 'nvml'", "source", "is not a list of tables; write [[source]]"),
        ("[[source]]\nname = 'x'", "source[0].type", "is missing"),
        ("[[source]]\ntype = 'nvlm'", "source[0].type", "is 'nvlm': is no known source type; known: nvml"),
        (NVML + NVML, "source[1].name", "is 'nvml' as source[0] has it"),
        (NVML + "name = 'a b'", "source[0].name", "is not 1 to 100 letters"),
        (NVML + "period_s = 0.1\ndeadline_s = 0.2", "source[0].deadline_s", "above this source's period_s of 0.1"),
        ("[agent", "configuration file", "is not TOML"),
    ],
)
def test_what_is_wrong_is_told_with_file_key_value_and_limit(file: Path, text: str, key: str, told: str) -> None:
    file.write_text(text)
    message = refusal(file)
    assert message.startswith(f"{file}: {key}: ")
    assert told in message


def test_a_file_that_was_named_must_exist(file: Path) -> None:
    assert "cannot be read: No such file" in refusal(file)
    assert "cannot be read: No such file" in refusal(env={"PERFWATT_CONFIG": str(file)})


def test_a_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in refusal(file)


def test_flag_beats_environment_beats_user_file_beats_machine_file_beats_default(
    tmp_path: Path, system_file: Path
) -> None:
    user = tmp_path / "xdg/perfwatt/perfwatt.toml"
    user.parent.mkdir(parents=True)
    system_file.write_text("[agent]\nperiod_s = 5\ndeadline_s = 0.4\nhost = 'machine'\nlog_level = 'debug'")
    user.write_text("[agent]\nperiod_s = 4\ndeadline_s = 0.3\nhost = 'user'")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "PERFWATT_AGENT_PERIOD_S": "3", "PERFWATT_AGENT_HOST": "variable"}
    found = load(env=env, overrides={"agent.period_s": 2})
    assert found.agent.period_s == 2.0
    assert found.agent.host == "variable"
    assert found.agent.deadline_s == 0.3
    assert found.agent.log_level == "debug"
    origins = {key: origin for key, _, origin in found.rows()}
    assert origins["agent.period_s"] == "flag"
    assert origins["agent.host"] == "environment PERFWATT_AGENT_HOST"
    assert origins["agent.deadline_s"] == f"file {user}"
    assert origins["agent.log_level"] == f"file {system_file}"
    assert origins["agent.log_format"] == "default"


def test_a_named_file_stands_alone(file: Path, system_file: Path) -> None:
    system_file.write_text("[agent]\nperiod_s = 5")
    file.write_text("[agent]\nhost = 'x'")
    assert load(file, env={}).agent.period_s == 1.0


def test_the_user_file_is_found_in_the_home(tmp_path: Path) -> None:
    path = tmp_path / ".config/perfwatt/perfwatt.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[agent]\nhost = 'home'")
    assert load(env={"HOME": str(tmp_path)}).agent.host == "home"


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("PERFWATT_AGENT_PERIOD_S", "soon", "agent.period_s: is 'soon', not a number"),
        ("PERFWATT_AGENT_PERIOD", "1", "agent.period: is no known key"),
        ("PERFWATT_STORE_SEAL_S", "0", "store.seal_s: is 0, below the least of 0.1"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(variable: str, text: str, told: str) -> None:
    message = refusal(env={variable: text})
    assert message.startswith(f"environment {variable}: ")
    assert told in message


@pytest.mark.parametrize(
    "variable",
    ["PERFWATT_AGENT_SERVICE_HOST", "PERFWATT_AGENT_PORT", "PERFWATT_STORE_PORT_9400_TCP_ADDR", "PERFWATT_OTHER"],
)
def test_variables_that_kubernetes_sets_for_a_service_are_no_keys(variable: str) -> None:
    assert load(env={variable: "tcp://10.0.0.1:9400"}) == load(env={})


def test_a_flag_may_be_text_or_a_value_and_must_exist() -> None:
    assert load(env={}, overrides={"agent.period_s": "2"}).agent.period_s == 2.0
    assert load(env={}, overrides={"store.retain_days": '{"raw": 3}'}).store.retain_days == {"raw": 3}
    assert refusal(agent__perod_s=1) == "agent.perod_s: is not a key of the configuration"
    assert refusal(agent__period_s=0) == "flag: agent.period_s: is 0, below the least of 0.02"


def test_a_source_inherits_period_and_deadline_and_never_has_a_deadline_above_its_period(file: Path) -> None:
    file.write_text(
        "[agent]\nperiod_s = 2\ndeadline_s = 1.5\n"
        + NVML
        + "[[source]]\ntype = 'scrape'\nperiod_s = 0.5\n[[source]]\ntype = 'replay'\nperiod_s = 30\ndeadline_s = 10\n"
    )
    found = load(file, env={})
    assert [(s.period_s, s.deadline_s) for s in found.sources] == [(2.0, 1.5), (0.5, 0.5), (30.0, 10.0)]


def test_what_the_agent_does_not_know_is_an_option_of_the_source(file: Path) -> None:
    file.write_text("[[source]]\ntype = 'scrape'\nname = 'serving'\ntargets = ['http://a/metrics']\n")
    (source,) = load(file, env={}).sources
    assert source.options == {"targets": ["http://a/metrics"]}


def test_an_opener_of_ones_own_can_be_named(file: Path) -> None:
    file.write_text("[[source]]\ntype = 'my_module:open_mine'\nname = 'mine'\n")
    (source,) = load(file, env={}).sources
    assert config.opener_of(source.type) == "my_module:open_mine"


@pytest.mark.parametrize("type", sorted(OPENERS))
def test_each_source_type_has_an_opener(type: str) -> None:
    module, _, function = str(config.opener_of(type)).partition(":")
    assert callable(getattr(import_module(module), function))


def test_secrets_are_not_shown(file: Path) -> None:
    file.write_text(
        "[[source]]\ntype = 'scrape'\ntargets = ['https://me:hunter2@a/metrics']\npassword = 'hunter2'\n"
        "[source.headers]\nX-Api-Key = 'hunter2'\nAccept = 'text/plain'\n"
    )
    found = load(file, env={})
    assert "hunter2" not in repr(found.redacted()) + repr(list(found.rows()))
    assert found.redacted()["source"][0]["headers"]["Accept"] == "text/plain"
    assert found.sources[0].options["password"] == "hunter2"


def test_the_example_is_a_valid_file_whose_comments_are_the_defaults(file: Path) -> None:
    file.write_text(config.example())
    assert load(file, env={}) == load(env={})
    lines = [line.removeprefix("# ") for line in config.example().splitlines()]
    keys = [line for line in lines if " = " in line or line.startswith("[")]
    first = keys.index("[[source]]")
    shown = tomllib.loads("\n".join(keys[:first]))
    known = load(env={}).redacted()
    assert shown == {section: known[section] for section in ("agent", "store", "prometheus")}


def test_the_schema_knows_every_key() -> None:
    schema = config.schema()
    shown = load(env={}).redacted()
    for section in ("agent", "store", "prometheus"):
        assert set(schema["properties"][section]["properties"]) == set(shown[section])
        assert schema["properties"][section]["additionalProperties"] is False
    assert schema["properties"]["agent"]["properties"]["period_s"]["minimum"] == 0.02
    json.dumps(schema)


def checked(file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "collector.config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(folder)}, check=False)


def test_the_check_tells_a_wrong_option_of_a_source(file: Path) -> None:
    file.write_text("[[source]]\ntype = 'fake_sources:open_fake'\nname = 'fake'\nwatts = 3\n")
    found = checked(file, Path(__file__).parent)
    assert found.stdout == f"{file}: source[0].watts: is no option of this source"
    assert found.returncode == 2


def test_the_check_finds_nothing_wrong_with_the_example(file: Path) -> None:
    file.write_text(config.example())
    found = checked(file, Path(__file__).parent)
    assert (found.stdout, found.returncode) == ("", 0)
