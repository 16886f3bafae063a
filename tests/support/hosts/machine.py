"""What this machine must have to run hosts. Knows tools, cgroup hierarchies and the cache; knows no host."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}  # command: its Debian package; deploy/bootstrap.sh deploy installs the same
CGROUPS = Path("/sys/fs/cgroup")
POLL_S = 0.02


class HostsUnavailable(Exception):
    """This machine can't run hosts; the text says in one line why."""


def cache_directory() -> Path:
    """Where roots, wheels and running hosts are kept; outside the repository, on a file system with overlays."""
    directory = platformdirs.user_cache_path("edge-chat-appliance-hosts")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def hierarchies() -> list[Path]:
    """The cgroup trees that a host gets a group of its own in."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [tree for name in ("systemd", "unified") if (tree := CGROUPS / name).is_dir()]


def kill_tree() -> Path:
    """The tree with cgroup.kill, which ends a group's processes in one step."""
    return CGROUPS if (CGROUPS / "cgroup.controllers").exists() else CGROUPS / "unified"


def why_not() -> str | None:
    """Why no host can run here, in one line; None where they can."""
    if os.geteuid() != 0:
        return "test hosts need root (systemd-nspawn, overlay mounts, a bridge)"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return f"test hosts need the Debian packages {' '.join(missing)}; `make test-deploy` installs them for root"
    if not hierarchies() or not kill_tree().is_dir():
        return f"test hosts need a unified cgroup hierarchy at {CGROUPS} or {CGROUPS}/unified"
    return _no_cgroup() or _no_overlay()


def _no_cgroup() -> str | None:
    for tree in hierarchies():
        probe = tree / f"eca-probe-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            return f"test hosts need to make cgroups in {tree}: {error.strerror}"
    return None


def _no_overlay() -> str | None:
    with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
        for name in ("lower", "upper", "work", "root"):
            Path(scratch, name).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        mount = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, f"{scratch}/root"]
        done = subprocess.run(mount, capture_output=True, text=True, timeout=30)
    if done.returncode == 0:
        return None
    return f"test hosts need overlay mounts below {cache_directory()}: {done.stderr.strip()}"


def wait_until(holds: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    """Return once `holds()`; after `timeout_s` seconds TimeoutError with what `what()` says."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what()} (waited {timeout_s:g} s)")
        time.sleep(POLL_S)


@contextlib.contextmanager
def locked(file: Path, timeout_s: float) -> Iterator[None]:
    """One process at a time; the others wait. The kernel frees the lock of one that dies."""
    with file.open("a") as lock:
        wait_until(lambda: try_lock(lock.fileno()), timeout_s, lambda: f"{file} is held by another run")
        yield


def try_lock(descriptor: int) -> bool:
    """Lock a file without waiting; False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
