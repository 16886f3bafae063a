"""`appliance version`, and how errors leave the program."""

import json
import subprocess
import sys

import pytest

from appliance import __version__


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "appliance", *arguments], capture_output=True, text=True, timeout=60)


def test_versions_are_told_for_people_and_scripts() -> None:
    told = json.loads(run("version", "--json").stdout)
    assert told["appliance"] == __version__
    assert told["openvino-genai"].startswith("2026.")
    plain = run("version").stdout
    assert all(name in plain for name in told)
    assert run("--version").stdout == f"appliance {__version__}\n"


def test_the_version_is_told_without_importing_what_it_names() -> None:
    code = "import sys; from appliance.cli.version import installed_versions; installed_versions(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.split()
    assert not {"openvino", "openvino_genai", "aiohttp"} & set(loaded)


@pytest.mark.parametrize("command", [[], ["serve"], ["chat"], ["models"], ["models", "pull"], ["config", "show"]])
def test_help_is_everywhere(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout


@pytest.mark.parametrize(
    ("command", "status"),
    [(["nope"], 2), (["serve", "--port", "x"], 2), (["serve", "--port", "70000"], 78), (["models", "remove", "x"], 1)],
)
def test_errors_are_short_and_have_a_status(command: list[str], status: int) -> None:
    done = run(*command)
    assert done.returncode == status
    assert done.stderr
    assert "Traceback" not in done.stderr
