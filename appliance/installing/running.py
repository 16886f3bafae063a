"""Runs the host's own tools, and tells of their failures in one line. Knows processes; never what they are for."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from appliance.installing.errors import InstallError

TOOL_TIMEOUT_S = 120.0
START_TIMEOUT_S = 1800.0  # a big model on a slow disk; the unit has limits of its own


def call(command: Sequence[str | Path], timeout_s: float = TOOL_TIMEOUT_S) -> str:
    """What the command prints. Raises InstallError, with the last that it said."""
    done = attempt(command, timeout_s)
    if done.returncode != 0:
        raise InstallError(f"{_named(command)} failed: {last_words(done)}")
    return done.stdout


def attempt(command: Sequence[str | Path], timeout_s: float = TOOL_TIMEOUT_S) -> "subprocess.CompletedProcess[str]":
    """Run the command, whatever its exit status. Raises InstallError where it is missing or takes too long."""
    # C.UTF-8: what tools say is read here; PAGER: nobody pages.
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    try:
        return subprocess.run(  # noqa: S603, the words are ours
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
        )
    except FileNotFoundError:
        raise InstallError(f"{command[0]} is missing on this host") from None
    except subprocess.TimeoutExpired:
        raise InstallError(f"{_named(command)} was not done after {timeout_s:g} s") from None


def last_words(done: "subprocess.CompletedProcess[str]") -> str:
    """The last lines that a command said, in one."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return " ".join(lines[-2:]) or f"exit status {done.returncode}"


def _named(command: Sequence[str | Path]) -> str:
    return " ".join(str(word) for word in command[:3])
