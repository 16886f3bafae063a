"""One release: a virtual environment that is whole or not there. Knows venv, pip and disks; never systemd."""

import ctypes
import email
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from appliance.installing.errors import InstallError
from appliance.installing.layout import Layout
from appliance.installing.running import attempt, last_words
from appliance.installing.source import PROJECT, Source
from appliance.models.durable import exchange

RECORD_NAME = "release.json"  # in a release: what it was made of; there means whole
DEFAULT_EXTRAS = ["systemd"]  # without it the daemon can't tell systemd anything
MAKING = ".making-"  # how the name of one begins that is not whole
NEEDED_BYTES = 600_000_000  # 330 MB, what pip unpacks beside it, and some rest for what the host does meanwhile
INSTALL_TIMEOUT_S = 1800.0
PYTHONS = ((3, 11), (3, 14))
HIDDEN_FROM_SERVICES = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108, by ProtectHome= and PrivateTmp=
UNREACHED = re.compile(r"connection broken by '.*")  # as pip warns of each attempt
SATISFIES = re.compile(r"(?:satisfies the requirement|No matching distribution found for) ([^\s;]+)")


def is_whole(release: Path) -> bool:
    """Whether the release is there."""
    return bool(record_of(release))


def record_of(release: Path) -> dict[str, Any]:
    """What it was made of: version, extras, wheel_sha256, python; empty where it is not whole."""
    try:
        found = json.loads((release / RECORD_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def systemd_files(release: Path) -> Path:
    """The files for systemd of a release. Raises InstallError."""
    found = next(release.glob("lib/python3*/site-packages/appliance/data/systemd"), None)
    if found is None:
        raise InstallError(f"the release in {release} has no files for systemd; install another")
    return found


def make(layout: Layout, source: Source, extras: list[str]) -> None:
    """Make the release of `source`, in place of one of the same version. Raises InstallError; nothing is left then."""
    python = base_python()
    layout.releases.mkdir(parents=True, exist_ok=True)
    remove_unfinished(layout)
    _require_room(layout.releases)
    making = Path(tempfile.mkdtemp(prefix=MAKING, dir=layout.releases))
    final = layout.release(source.version)
    try:
        with tempfile.TemporaryDirectory(prefix="appliance-wheel-") as scratch:
            wheel = source.wheel(Path(scratch))
            _require_extras(wheel, extras)
            making.chmod(0o755)
            _make_environment(python, making)
            _install(making, wheel, source, extras)
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        _prove(making, source.version)
        _relocate(making, Path("/") / final.relative_to(layout.root))
        record = {"version": source.version, "extras": extras, "wheel_sha256": digest, "python": str(python)}
        (making / RECORD_NAME).write_text(json.dumps(record) + "\n", "utf-8")
        _sync(making)
        _put_in_place(making, final)
    except OSError as error:
        raise InstallError(f"the release {source.version} could not be made: {error}") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)


def remove_unfinished(layout: Layout) -> None:
    """What an interrupted installation has left."""
    for left in unfinished(layout):
        shutil.rmtree(left, ignore_errors=True)


def unfinished(layout: Layout) -> list[Path]:
    """Releases that were never whole."""
    return sorted(layout.releases.glob(f"{MAKING}*"))


def superfluous(layout: Layout) -> list[Path]:
    """Old releases: all but the current and the one before it."""
    kept = {layout.version_of(layout.current), layout.version_of(layout.previous)}
    there = layout.releases.iterdir() if layout.releases.is_dir() else ()
    return sorted(release for release in there if release.name not in kept and not release.name.startswith("."))


def base_python() -> Path:
    """This one's interpreter, or Debian's where services can't see it. Raises InstallError."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not str(own).startswith(tuple(f"{place}/" for place in HIDDEN_FROM_SERVICES)):
        return own
    system = Path("/usr/bin/python3").resolve()
    ask = "import sys, venv; print(*sys.version_info[:2])"
    done = attempt([system, "-c", ask]) if system.exists() else None
    if done is not None and done.returncode == 0:
        major, minor = done.stdout.split()
        if PYTHONS[0] <= (int(major), int(minor)) <= PYTHONS[1]:
            return system
    raise InstallError(
        f"services can't see {own}, and /usr/bin/python3 is no Python 3.11 to 3.14: apt install python3-venv"
    )


def _require_room(place: Path) -> None:
    free = shutil.disk_usage(place).free
    if free < NEEDED_BYTES:
        needed_mb, free_mb = NEEDED_BYTES // 1_000_000, free // 1_000_000
        raise InstallError(
            f"{place} has {free_mb} MB free, and a release wants {needed_mb} MB; make room and try again"
        )


def _require_extras(wheel: Path, extras: list[str]) -> None:
    """Pip would only warn of one that does not exist."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            known = email.message_from_bytes(archive.read(name)).get_all("Provides-Extra", [])
    except (StopIteration, zipfile.BadZipFile) as error:
        raise InstallError(f"{wheel.name} is no wheel: {error or 'it has no METADATA'}") from None
    if unknown := sorted(set(extras) - set(known)):
        raise InstallError(f"--extras: there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def _make_environment(python: Path, venv: Path) -> None:
    done = attempt([python, "-m", "venv", "--without-pip", venv])
    if done.returncode != 0:
        remedy = "; apt install python3-venv" if "No module named" in done.stderr else ""
        raise InstallError(f"{python} could not make an environment: {last_words(done)}{remedy}")


def _install(venv: Path, wheel: Path, source: Source, extras: list[str]) -> None:
    """By the pip of this process into the other environment, which then needs none of its own."""
    wanted = f"{PROJECT}[{','.join(extras)}] @ {wheel.as_uri()}" if extras else str(wheel)
    pip = [sys.executable, "-m", "pip", f"--python={venv / 'bin/python'}", "--disable-pip-version-check", "--no-input"]
    flags = ["--quiet", "--no-warn-script-location"]
    done = attempt([*pip, "install", *flags, *source.pip_options, wanted], INSTALL_TIMEOUT_S)
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if "No space left on device" in said:
        raise InstallError(f"no room left on the disk of {venv.parent}; make room and try again")
    if unreached := UNREACHED.findall(said):
        reason = re.search(r"\[Errno -?\d+\] ([\w ]+)", unreached[-1])
        raise InstallError(
            f"pip reaches no package index ({reason[1] if reason else 'no connection'}): --wheels DIR installs from a "
            "directory without a network; `pip config list` says where pip looks"
        )
    if missing := SATISFIES.findall(said):
        raise InstallError(f"a wheel is missing in {source.shown}, or is for another Python: {missing[-1]}")
    hint = "; systemd-python wants gcc pkg-config libsystemd-dev python3-dev" if "systemd" in said else ""
    raise InstallError(f"pip could not install {source.shown}: {last_words(done)}{hint}")


def _prove(venv: Path, version: str) -> None:
    """It starts, and says that it is what it should be."""
    done = attempt([venv / "bin/python", "-I", "-m", "appliance", "--version"])
    if done.stdout.strip() != f"appliance {version}":
        raise InstallError(f"the release {version} does not start: {last_words(done)}")


def _relocate(venv: Path, final: Path) -> None:
    """Have the scripts name the directory that it is going to be."""
    old, new = os.fsencode(venv), os.fsencode(final)
    for file in [venv / "pyvenv.cfg", *(venv / "bin").iterdir()]:
        if file.is_symlink() or not file.is_file():
            continue
        content = file.read_bytes()
        if old in content:
            file.write_bytes(content.replace(old, new))


def _sync(place: Path) -> None:
    """Put some thousand files on the disk at once: the release's name must not be there before they are."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:  # Python has os.sync() alone, for all disks
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    finally:
        os.close(descriptor)


def _put_in_place(making: Path, final: Path) -> None:
    """In one step, with the older of the same version taking the name that is removed."""
    if not final.exists():
        making.rename(final)
    elif not exchange(making, final):
        shutil.rmtree(final)  # NFS and the like: for a moment there is none
        making.rename(final)
