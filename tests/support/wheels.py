"""Wheels of the project and of all that it needs, for hosts without a network. Knows pip; knows no host."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.support.hosts import BOOKWORM, HostsUnavailable, Suite, cache_directory
from tests.support.hosts.compiling import compile_wheels
from tests.support.hosts.machine import locked

ROOT = Path(__file__).parents[2]
COMPILED = "systemd"  # the extra of which there are sources only
LIBRARIES = ["libsystemd-dev"]  # what that is compiled against
PIP_TIMEOUT_S = 900


def dependency_wheels(suite: Suite = BOOKWORM) -> Path:
    """A directory with the wheels of what the project needs there, from the cache or made now.

    Whatever Python runs this. Raises HostsUnavailable.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ready, compiled = project["dependencies"], project["optional-dependencies"][COMPILED]
    key = hashlib.sha256(repr([suite, ready, compiled, LIBRARIES]).encode()).hexdigest()[:16]
    directory = cache_directory() / f"wheels-{key}"
    with locked(cache_directory() / "wheels.lock", PIP_TIMEOUT_S):
        if not directory.is_dir():
            for left in cache_directory().glob("making-wheels-*"):  # by a run that was killed
                shutil.rmtree(left)
            making = Path(tempfile.mkdtemp(prefix="making-wheels-", dir=cache_directory()))
            try:
                _download(making, ready, suite)
                _compile(making, compiled, suite)
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
        _pip("wheel", "--wheel-dir", str(made), "--no-deps", str(source))
        (wheel,) = made.glob("*.whl")
        return Path(shutil.copy(wheel, directory))


def wheels_for_hosts(directory: Path, version: str | None = None, suite: Suite = BOOKWORM) -> None:
    """Fill `directory` with the project's wheel and those that it needs: a site's stick, so to speak."""
    directory.chmod(0o755)  # anybody's, as a stick is
    for wheel in dependency_wheels(suite).glob("*.whl"):
        try:
            os.link(wheel, directory / wheel.name)
        except OSError:  # another file system
            shutil.copy(wheel, directory)
    project_wheel(directory, version)


def _download(directory: Path, needs: Sequence[str], suite: Suite) -> None:
    """Those that are ready for the suite; pip judges markers by the Python that it runs on, not by the suite's."""
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(5, suite.glibc + 1)] + [f"manylinux2014_{machine}"]
    platforms = [option for tag in tags for option in ("--platform", tag)]
    target = ["--only-binary=:all:", "--python-version", suite.python, *platforms]
    _pip("download", "--dest", str(directory), *target, *needs)


def _compile(directory: Path, needs: Sequence[str], suite: Suite) -> None:
    names = ",".join(need.partition("==")[0] for need in needs)
    with tempfile.TemporaryDirectory() as scratch:
        _pip("download", "--dest", scratch, "--no-deps", "--no-binary", names, *needs)
        compile_wheels(suite, Path(scratch), LIBRARIES)
        for wheel in Path(scratch).glob("*.whl"):
            shutil.copy(wheel, directory)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--no-input", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
    if done.returncode != 0:
        raise HostsUnavailable(f"wheels for the test hosts could not be made: {done.stderr.strip()[-500:]}")
