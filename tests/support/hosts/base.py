"""The root that all hosts share: Debian 12, made once by debootstrap. Knows its packages; knows no running host."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.hosts.machine import HostsUnavailable, cache_directory, locked

SUITE = "bookworm"
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


def base_root() -> Path:
    """The root, from the cache or made now. Raises HostsUnavailable where it can't be made, TimeoutError."""
    recipe = "\n".join([SUITE, *sorted(PACKAGES), SETUP])
    root = cache_directory() / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(cache_directory() / "root.lock", MAKE_TIMEOUT_S):
        if not root.is_dir():
            _make(root)
    return root


def _make(root: Path) -> None:
    debs = cache_directory() / "debs"
    debs.mkdir(exist_ok=True)
    for left in cache_directory().glob("making-root-*"):  # by a run that was killed
        shutil.rmtree(left)
    making = Path(tempfile.mkdtemp(prefix="making-root-", dir=cache_directory()))
    making.chmod(0o755)
    try:
        _run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--cache-dir={debs}",
                f"--include={','.join(PACKAGES)}",
                SUITE,
                making,
            ]
        )
        _run(["sh", "-c", SETUP], cwd=making)
        making.rename(root)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _run(command: list[str | Path], cwd: Path | None = None) -> None:
    # New session: debootstrap leaves its children where it is killed.
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount", *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=MAKE_TIMEOUT_S,
    )
    if done.returncode != 0:
        tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        raise HostsUnavailable(f"the root of the test hosts could not be made: {command[0]} failed: {tail}")
