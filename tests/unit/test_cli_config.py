"""`appliance config` as operators run it, in a process of its own."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from appliance.cli import app
from tests.support.terminal import shown_on_a_terminal

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    settings = tmp_path / "appliance.toml"
    settings.write_text('[server]\nport = 9000\n\n[models]\npreferred = ["a", "b"]\n')
    return settings


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `appliance config ARGUMENTS` with variables NAME=value beside an otherwise bare environment."""

    def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "appliance", "config", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_command


def test_show_prints_every_setting_with_its_origin_as_toml(run: Run, file: Path) -> None:
    shown = run("show", "--config", str(file), APPLIANCE__LOGGING__LEVEL="debug")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == f"# file: {file}"
    origins = {line.split(" = ")[0]: line.rpartition("  # ")[2] for line in lines if " = " in line}
    assert origins["server.host"] == "default"
    assert origins["server.port"] == "file"
    assert origins["logging.level"] == "environment APPLIANCE__LOGGING__LEVEL"
    values = tomllib.loads(shown.stdout)
    assert values["server"]["port"] == 9000
    assert values["models"]["preferred"] == ["a", "b"]
    assert values["logging"]["level"] == "debug"
    assert list(values)[:4] == ["server", "engine", "models", "dispatch"]


def test_what_show_prints_can_be_used_as_a_settings_file(run: Run, file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    copy.write_text(run("show", "--config", str(file)).stdout)
    assert "server.port = 9000" in run("show", "--config", str(copy)).stdout


def test_show_as_json(run: Run, file: Path) -> None:
    shown = json.loads(run("show", "--json", "--config", str(file), APPLIANCE__SERVER__HOST="::").stdout)
    assert shown["file"] == str(file)
    server = shown["settings"]["server"]
    assert server["port"] == {"value": 9000, "origin": "file"}
    assert server["host"] == {"value": "::", "origin": "environment APPLIANCE__SERVER__HOST"}
    assert server["heartbeat_s"] == {"value": 20.0, "origin": "default"}
    assert shown["settings"]["models"]["preferred"]["value"] == ["a", "b"]


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_wrong_setting_is_one_line_and_status_78(run: Run, file: Path, command: str) -> None:
    file.write_text("[server]\nport = 70000\n")
    wrong = run(command, "--config", str(file))
    assert (wrong.returncode, wrong.stdout) == (78, "")
    assert wrong.stderr == (f"appliance: server.port = 70000 ({file}): expected a whole number from 0 to 65535\n")


def test_check_says_what_it_has_read(run: Run, file: Path) -> None:
    checked = run("check", "--config", str(file))
    assert (checked.returncode, checked.stdout) == (0, f"ok: {file}, 2 settings not left at the default\n")


def test_show_loads_neither_network_nor_colours(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom appliance.cli import main\nsys.argv = ['appliance', 'config', 'show']\n"
        "try:\n    main()\nexcept SystemExit as leaving:\n    assert not leaving.code, leaving.code\n"
        "print(sorted({'aiohttp', 'openvino', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_show_is_coloured_on_a_terminal(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance", "config", "show", "--config", str(file)]
    status, shown = shown_on_a_terminal(
        command, {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", "TERM": "xterm"}
    )
    assert status == 0
    assert b"\x1b[36mserver.port = \x1b[0m\x1b[1;33m9000" in shown


def config_options(command: Any, name: str = "appliance") -> Iterator[tuple[str, Any]]:
    """Each command that takes a settings file, with what its option asks of that."""
    for parameter in command.params:
        if "--config" in parameter.opts:
            yield name, parameter.type_descriptor.parameter_info
    for below, inner in getattr(command, "commands", {}).items():
        yield from config_options(inner, f"{name} {below}")


def test_no_command_judges_the_settings_file_before_it_is_read() -> None:
    """The parser would end with exit status 2 and no remedy; reading it ends with 78 and one."""
    found = dict(config_options(typer.main.get_command(app)))
    assert {"appliance serve", "appliance reload", "appliance config check", "appliance doctor"} <= set(found)
    assert [name for name, option in found.items() if option.readable or option.exists] == []
