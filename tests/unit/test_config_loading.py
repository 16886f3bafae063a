"""Where settings come from, which wins, and what is said of one that is wrong."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config import load
from appliance.config import loading as loading_module
from appliance.config.loading import SECTIONS, expectation
from appliance.config.paths import config_candidates, runtime_directory, state_directory, store_directory
from appliance.errors import EXIT_CONFIG, ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the settings file."""

    def write_file(text: str) -> Path:
        file = tmp_path / "appliance.toml"
        file.write_text(text)
        return file

    return write_file


def error_of(file: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> str:
    """What is said of wrong settings."""
    with pytest.raises(ConfigError) as caught:
        load(file, {name.replace("__", "."): value for name, value in flags.items()}, environ or {})
    assert caught.value.exit_status == EXIT_CONFIG == 78
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_need_no_file_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_module, "config_candidates", list)
    effective = load(environ={})
    assert effective.settings.server.host == "127.0.0.1"
    assert effective.origins == {}
    assert effective.file is None


def test_file_wins_over_default_environment_over_file_and_flag_over_all(write: Write) -> None:
    file = write('[server]\nhost = "10.0.0.1"\nport = 1001\nheartbeat_s = 11\n')
    environ = {"APPLIANCE__SERVER__PORT": "1002", "APPLIANCE__SERVER__HEARTBEAT_S": "12.5"}
    effective = load(file, {"server.port": 1003, "server.host": None}, environ)
    server = effective.settings.server
    assert (server.host, server.port, server.heartbeat_s) == ("10.0.0.1", 1003, 12.5)
    assert server.max_connections == 256
    assert effective.file == file
    assert effective.origins == {
        "server.host": str(file),
        "server.port": "flag --port",
        "server.heartbeat_s": "environment APPLIANCE__SERVER__HEARTBEAT_S",
    }


def test_what_others_put_into_the_environment_does_not_count() -> None:
    environ = {"APPLIANCE_HOME": "/x", "PATH": "/bin", "STATE_DIRECTORY": "/y"}
    assert load(environ=environ).origins.keys().isdisjoint(environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sever]\n", "[sever] in {file}: unknown section 'sever'; did you mean server?"),
        ("[server]\nprot = 1\n", "server.prot in {file}: unknown setting 'prot'; did you mean port?"),
        ("[zzz]\n", "[zzz] in {file}: unknown section 'zzz'; known sections: server, "),
        ("[logging]\nzzz = 1\n", "logging.zzz in {file}: unknown setting 'zzz'; known settings: level, format"),
        ("server = 1\n", "server in {file}: expected a table, as in [server]"),
        ("[[server]]\nport = 1\n", "server in {file}: expected a table"),
    ],
)
def test_unknown_names_in_the_file_are_told_with_what_was_meant(write: Write, text: str, said: str) -> None:
    file = write(text)
    assert error_of(file).startswith(said.format(file=file))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("APPLIANCE__SEVER__PORT", "unknown section 'sever'; did you mean server?"),
        ("APPLIANCE__SERVER__PROT", "unknown setting 'prot'; did you mean port?"),
        ("APPLIANCE__SERVER", "unknown setting ''"),
    ],
)
def test_unknown_names_in_the_environment_are_told(name: str, said: str) -> None:
    assert error_of(environ={name: "1"}).startswith(f"{name} in the environment: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 65536", "server.port = 65536 ({file}): expected a whole number from 0 to 65535"),
        ("[server]\nport = -1", "server.port = -1 ({file}): expected a whole number from 0 to 65535"),
        ("[server]\nport = 80.5", "server.port = 80.5 ({file}): expected a whole number"),
        ("[server]\nport = true", "server.port = true ({file}): expected a whole number"),
        ('[server]\nport = "80"', 'server.port = "80" ({file}): expected a whole number'),
        (f"[server]\nport = {10**30}", f"server.port = {10**30} ({{file}}): expected a whole number"),
        ("[server]\nmax_connections = 0", "server.max_connections = 0 ({file}): expected a whole number from 1"),
        ("[server]\nheartbeat_s = 0", "server.heartbeat_s = 0 ({file}): expected a number above 0 to 86400"),
        ("[server]\nheartbeat_s = nan", "server.heartbeat_s = NaN ({file}): expected a number above 0 to 86400"),
        ("[server]\nheartbeat_s = inf", "server.heartbeat_s = Infinity ({file}): expected a number above 0"),
        ('[server]\nhost = ""', 'server.host = "" ({file}): expected a text that is not empty'),
        ("[server]\nhost = 1", "server.host = 1 ({file}): expected a text"),
        ("[server.host]\na = 1", 'server.host = {{"a": 1}} ({file}): expected a text'),
        ('[logging]\nlevel = "INFO"', 'logging.level = "INFO" ({file}): expected one of debug, error, info, warning'),
        ("[models]\npreferred = []", "models.preferred = [] ({file}): expected a list of texts, at least 1"),
        ('[models]\npreferred = "a"', 'models.preferred = "a" ({file}): expected a list of texts'),
        ("[models]\npreferred = [1]", "models.preferred = [1] ({file}): expected a list of texts"),
        ("[server]\nport = 2026-01-02", 'server.port = "2026-01-02" ({file}): expected a whole number'),
    ],
)
def test_a_wrong_value_is_told_with_its_place_and_what_is_right(write: Write, text: str, said: str) -> None:
    file = write(text)
    assert error_of(file).startswith(said.format(file=file))


@pytest.mark.parametrize("name", [f"{s}.{key}" for s, cls in SECTIONS.items() for key in cls.__struct_fields__])
def test_every_setting_refuses_what_it_is_not_and_says_what_it_is(write: Write, name: str) -> None:
    section, _, key = name.partition(".")
    file = write(f"[{section}]\n{key} = {{ never = [1] }}\n")
    assert error_of(file) == f'{name} = {{"never": [1]}} ({file}): expected {expectation(section, key)}'


def test_a_switch_expects_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    monkeypatch.setitem(loading_module._SHAPES, ("server", "tls"), msgspec.inspect.type_info(bool))
    assert expectation("server", "tls") == "true or false"


def test_a_wrong_value_in_the_environment_names_the_variable() -> None:
    assert error_of(environ={"APPLIANCE__SERVER__PORT": "eighty"}) == (
        'server.port = "eighty" (environment APPLIANCE__SERVER__PORT): expected a whole number from 0 to 65535'
    )


def test_a_wrong_flag_names_the_flag() -> None:
    assert error_of(server__port=70_000).startswith("server.port = 70000 (flag --port): expected a whole number")


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a", ("a",)),
        ("a, b ,c,", ("a", "b", "c")),
        ('["a", "b,c"]', ("a", "b,c")),
        (' ["a"]', ("a",)),
    ],
)
def test_lists_in_the_environment(text: str, texts: tuple[str, ...]) -> None:
    assert load(environ={"APPLIANCE__MODELS__PREFERRED": text}).settings.models.preferred == texts


def test_an_empty_list_in_the_environment() -> None:
    environ = {"APPLIANCE__SERVER__ALLOWED_ORIGINS": ""}
    assert load(environ=environ).settings.server.allowed_origins == ()


@pytest.mark.parametrize("text", ["[a", '["a", 1]', "", "[" * 100_000], ids=["no JSON", "a number", "empty", "deep"])
def test_a_wrong_list_in_the_environment(text: str) -> None:
    assert "expected a list of texts, at least 1" in error_of(environ={"APPLIANCE__MODELS__PREFERRED": text})


def test_a_syntax_error_names_file_and_line(write: Write) -> None:
    file = write("[server]\nport = \n")
    said = error_of(file)
    assert said.startswith(f"{file} is not valid TOML: ")
    assert "line 2" in said


def test_a_table_that_is_there_twice_is_named_as_people_write_it(write: Write) -> None:
    assert "[server] twice" in error_of(write("[server]\nport = 1\n[server]\n"))


def test_deep_nesting_is_a_syntax_error(write: Write) -> None:
    assert "nested too deep" in error_of(write("a = " + "[" * 100_000))


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_bytes(b"\xff\xfe")
    assert error_of(file).startswith(f"{file} can't be read: ")


def test_a_file_that_is_asked_for_must_exist(tmp_path: Path) -> None:
    for absent in (tmp_path / "none.toml", tmp_path):
        assert error_of(absent) == f"--config {absent}: no such file; write one (an empty one will do), or name another"


def test_a_directory_that_may_not_be_searched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    file = tmp_path / "appliance.toml"
    monkeypatch.setattr(loading_module, "config_candidates", lambda: [file])
    monkeypatch.setattr(Path, "is_file", refuse)  # root may search every directory
    account = pwd.getpwuid(os.geteuid()).pw_name
    assert error_of() == f"{file} can't be read by {account}: Permission denied; as root: chmod 644 {file}"


def test_the_first_candidate_that_exists_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [tmp_path / name for name in ("absent.toml", "first.toml", "second.toml")]
    candidates[1].write_text("[server]\nport = 1\n")
    candidates[2].write_text("[server]\nport = 2\n")
    monkeypatch.setattr(loading_module, "config_candidates", lambda: candidates)
    effective = load(environ={})
    assert (effective.settings.server.port, effective.file) == (1, candidates[1])


def test_the_users_own_file_is_in_the_xdg_config_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_candidates() == [Path("/etc/appliance/appliance.toml"), tmp_path / "appliance" / "appliance.toml"]


def test_state_is_where_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/appliance:/var/lib/other")
    assert state_directory() == Path("/var/lib/appliance")
    assert store_directory("") == Path("/var/lib/appliance/models")


def test_state_is_in_the_xdg_data_directory_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("appliance.config.paths.SYSTEM_STATE", tmp_path / "absent")
    assert state_directory() == tmp_path / "data" / "appliance"


def test_state_is_in_the_system_directory_where_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr("appliance.config.paths.SYSTEM_STATE", tmp_path)
    assert state_directory() == tmp_path


def test_the_store_is_where_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert store_directory("~/models") == Path("/home/someone/models")


def test_a_host_without_a_runtime_directory_hears_no_warning(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("appliance.config.paths.SYSTEM_RUNTIME", Path("/nowhere"))
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert runtime_directory().is_absolute()
    assert list(recwarn) == []
