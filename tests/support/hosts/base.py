"""The root that all hosts of a suite share: a Debian, made once by debootstrap. Knows its packages; knows no host."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.hosts.machine import HostsUnavailable, cache_directory, locked


@dataclass(frozen=True)
class Suite:
    """A release of Debian, by its code name, and the versions in it that wheels and tests have to do with."""

    name: str
    systemd: int
    python: str
    glibc: int  # 2.…

    def __str__(self) -> str:
        return self.name


BOOKWORM = Suite("bookworm", systemd=252, python="3.11", glibc=36)
TRIXIE = Suite("trixie", systemd=257, python="3.13", glibc=41)

PACKAGES = [
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "python3",
    "python3-venv",
    "python3-apt",
    "python3-packaging",
    "python3-systemd",
    "sudo",
    "iproute2",
    "iputils-ping",
    "procps",
    "nftables",
    "ca-certificates",
    "curl",
    "kmod",
    "libfaketime",
    "strace",
]
MAKE_TIMEOUT_S = 900  # 65 s on an idle machine with a near mirror

# Host keys and machine-id are each host's own; the name server is none, as the hosts have no route out.
SETUP = """
set -e
: >etc/machine-id
rm -f var/lib/dbus/machine-id etc/ssh/ssh_host_* etc/resolv.conf
ln -s /etc/machine-id var/lib/dbus/machine-id
mkdir -pm 700 root/.ssh
mkdir -p var/log/journal
chroot . systemctl --quiet enable systemd-networkd ssh
chroot . systemctl --quiet mask systemd-networkd-wait-online.service systemd-resolved.service \\
  apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer getty@.service console-getty.service
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*
"""


def base_root(suite: Suite = BOOKWORM) -> Path:
    """The root, from the cache or made now. Raises HostsUnavailable where it can't be made, TimeoutError."""
    recipe = "\n".join([suite.name, *sorted(PACKAGES), SETUP])
    root = cache_directory() / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(cache_directory() / "root.lock", MAKE_TIMEOUT_S):
        if not root.is_dir():
            _make(root, suite)
    return root


def _make(root: Path, suite: Suite) -> None:
    debs = cache_directory() / "debs"
    debs.mkdir(exist_ok=True)
    for left in cache_directory().glob("making-root-*"):  # by a run that was killed
        shutil.rmtree(left)
    making = Path(tempfile.mkdtemp(prefix="making-root-", dir=cache_directory()))
    making.chmod(0o755)
    options = ["--variant=minbase", "--force-check-gpg", f"--cache-dir={debs}", f"--include={','.join(PACKAGES)}"]
    what = f"the {suite} root of the test hosts"
    try:
        run_apart(["debootstrap", *options, suite.name, making], what)
        run_apart(["sh", "-c", SETUP], what, cwd=making)
        making.rename(root)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def run_apart(command: list[str | Path], what: str, cwd: Path | None = None) -> None:
    """Run a command that makes `what`, with mounts and children that end with it. Raises HostsUnavailable."""
    # A process namespace: debootstrap leaves its children where it is killed.
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount", *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=MAKE_TIMEOUT_S,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        raise HostsUnavailable(f"{what} could not be made: {command[0]} failed: {tail}")
