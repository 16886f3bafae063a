"""`appliance doctor` as operators run it: a process of its own, beside a real daemon with the fake engine."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.doctor import N100_FLAGS, write
from tests.support.process import Served, environment, serving
from tests.support.terminal import shown_on_a_terminal


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, engine__pipeline="fake") as served:
        served.worker_pid()
        yield served


def doctor(home: Path, *arguments: str, **settings: object) -> tuple[int, str]:
    """Exit status and standard output; nothing may be on standard error."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "appliance", "doctor", *arguments],
        env=environment(home, engine__pipeline="fake", **settings),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def findings(home: Path, *arguments: str, **settings: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and findings by check."""
    status, out = doctor(home, "--json", *arguments, **settings)
    found = json.loads(out)
    assert (found["schema"], found["schema_version"]) == ("appliance-doctor", 1)
    return status, {finding["check"]: finding for finding in found["findings"]}


def port_of(daemon: Served) -> int:
    return int(daemon.url.rpartition(":")[2])


def test_a_daemon_that_is_well(daemon: Served, tmp_path: Path) -> None:
    status, found = findings(tmp_path, server__port=port_of(daemon))
    assert status in (0, 1, 2)  # this machine's disk and clock are what they are
    assert found["daemon"]["status"] == found["port"]["status"] == "green"
    assert "ready, fake" in found["daemon"]["finding"]
    assert found["daemon"]["facts"]["requests"] == {"running": 0, "waiting": 0, "detached": 0}
    assert found["model"]["status"] == "green"


def test_a_lost_engine_is_seen(daemon: Served, tmp_path: Path) -> None:
    port = port_of(daemon)
    (worker,) = (entry["worker_pid"] for entry in daemon.log if entry["event"] == "engine ready")
    os.kill(worker, signal.SIGKILL)
    daemon.worker_pid()
    _, found = findings(tmp_path, server__port=port)
    assert found["daemon"]["status"] == "yellow"
    assert "its engine was lost 1 times" in found["daemon"]["finding"]


def test_without_a_daemon_one_screen_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    status, out = doctor(tmp_path, server__port=port)
    assert status in (1, 2)
    lines = out.splitlines()
    assert len(lines) <= 40
    (place,) = (number for number, line in enumerate(lines) if line.startswith("yellow   daemon "))
    assert lines[place + 1].strip() == "→ start it with: appliance serve"


def test_a_port_that_another_program_has_is_red(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        status, found = findings(tmp_path, server__port=other.getsockname()[1])
    assert status == 2
    assert found["port"]["status"] == "red"
    assert f"user id {os.getuid()}" in found["port"]["finding"]


def test_wrong_settings_are_a_finding_and_no_end(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[server]\nprot = 1\n")
    status, found = findings(tmp_path, "--config", str(file))
    assert status == 2
    assert "did you mean port?" in found["settings"]["finding"]
    assert found["cpu"]["finding"]


def test_a_made_up_host_is_looked_at_below_its_root(tmp_path: Path) -> None:
    root = write(
        tmp_path / "host",
        {
            "proc/cpuinfo": f"model name : Made-up N100\nflags : {N100_FLAGS}\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
        },
    )
    _, found = findings(tmp_path, "--root", str(root), server__port=1)
    assert found["cpu"]["finding"].startswith("Made-up N100")
    assert found["frequency"]["finding"].startswith("turbo is off")


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "appliance", "doctor"]
    status, shown = shown_on_a_terminal(
        command, environment(tmp_path, engine__pipeline="fake", server__port=1) | {"TERM": "xterm", "LANG": "C.UTF-8"}
    )
    assert status in (1, 2)
    assert b"\x1b[33myellow" in shown
    assert "→ start it with: appliance serve".encode() in shown
