"""Wheels of the project and of all that it needs, for hosts without a network. Knows pip; knows no host."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.support.hosts import HostsUnavailable, cache_directory
from tests.support.hosts.machine import locked

ROOT = Path(__file__).parents[2]
EXTRAS = ("systemd",)  # what an appliance has
HOSTS_PYTHON = (3, 11)
PIP_TIMEOUT_S = 900


def dependency_wheels() -> Path:
    """A directory with the wheels of what the project needs, from the cache or made now. Raises HostsUnavailable."""
    if sys.version_info[:2] != HOSTS_PYTHON:
        raise HostsUnavailable(
            "test hosts have Python 3.11 and need its wheels; run with PYTHON=python3.11 make test-deploy"
        )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needs = [*project["dependencies"], *(need for extra in EXTRAS for need in project["optional-dependencies"][extra])]
    directory = cache_directory() / f"wheels-{hashlib.sha256(repr(needs).encode()).hexdigest()[:16]}"
    with locked(cache_directory() / "wheels.lock", PIP_TIMEOUT_S):
        if not directory.is_dir():
            for left in cache_directory().glob("making-wheels-*"):  # by a run that was killed
                shutil.rmtree(left)
            making = Path(tempfile.mkdtemp(prefix="making-wheels-", dir=cache_directory()))
            try:
                _wheel(making, needs)
                making.chmod(0o755)
                making.rename(directory)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
    return directory


def project_wheel(directory: Path, version: str | None = None) -> Path:
    """Build the project's wheel in `directory`; with `version`, one that says it is that one."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = (
            subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout.decode().split("\0")
        )
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, source / name)
        if version is not None:
            file = source / "appliance/__init__.py"
            file.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', file.read_text()))
        made = Path(scratch, "made")
        _wheel(made, ["--no-deps", str(source)])
        (wheel,) = made.glob("*.whl")
        return Path(shutil.copy(wheel, directory))


def wheels_for_hosts(directory: Path, version: str | None = None) -> None:
    """Fill `directory` with the project's wheel and those that it needs: a site's stick, so to speak."""
    directory.chmod(0o755)  # anybody's, as a stick is
    for wheel in dependency_wheels().glob("*.whl"):
        try:
            os.link(wheel, directory / wheel.name)
        except OSError:  # another file system
            shutil.copy(wheel, directory)
    project_wheel(directory, version)


def _wheel(directory: Path, arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-input", "--wheel-dir", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
    if done.returncode != 0:
        raise HostsUnavailable(f"wheels for the test hosts could not be made: {done.stderr.strip()[-500:]}")
