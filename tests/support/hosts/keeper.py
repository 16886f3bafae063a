"""Runs one host until it is off: its mount namespace, its cgroups, nspawn again after each reboot. Knows no test.

A process of its own, on the standard library alone. When whoever started it dies, the host is shut down; its mounts go
with its processes.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

REBOOT = 133  # nspawn's exit status where the guest asked for a reboot
PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x20000
REMOVE_TIMEOUT_S = 10.0

libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, directory: Path, overlay: str, groups: list[Path], nspawn: list[str]) -> int:
    """Run it. `groups`: the host's cgroups, which are there already."""
    die_with_parent(parent)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    mount(overlay, directory)
    keeper = os.getpid()

    def in_its_groups() -> None:
        die_with_parent(keeper)
        for group in groups:
            (group / "cgroup.procs").write_text("0")

    asked = threading.Event()
    guests: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()
        for guest in guests:
            guest.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then stops this
    status = REBOOT
    with (directory / "console.log").open("ab") as console:
        while status == REBOOT and not asked.is_set():
            guest = subprocess.Popen(
                nspawn,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=in_its_groups,  # noqa: PLW1509, there is one thread
                start_new_session=True,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
            guests[:] = [guest]
            if asked.is_set():
                guest.terminate()
            status = guest.wait()
    for group in groups:
        remove_group(group)
    return 0 if status in (0, REBOOT) else 1


def mount(overlay: str, directory: Path) -> None:
    """Mount a host's root; volatile: what the host syncs needs not be on this machine's disk.

    The kernel refuses to mount such a one again before its mark is removed, as it might have lost something in a crash;
    a run does not outlive that.
    """
    shutil.rmtree(directory / "work/work/incompat", ignore_errors=True)
    options = f"{overlay},volatile"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, directory / "root"], check=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when `parent` dies, which may have been already."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def remove_group(group: Path) -> None:
    """Remove a cgroup and those below it; what still runs in it has REMOVE_TIMEOUT_S."""
    end = time.monotonic() + REMOVE_TIMEOUT_S
    while group.is_dir():
        for place, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(place).rmdir()
        if time.monotonic() > end:
            return
        time.sleep(0.01)


if __name__ == "__main__":
    _, its_parent, its_directory, its_overlay, its_groups, its_nspawn = sys.argv
    its_places = [Path(group) for group in its_groups.split(":")]
    sys.exit(main(int(its_parent), Path(its_directory), its_overlay, its_places, shlex.split(its_nspawn)))
