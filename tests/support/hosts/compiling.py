"""Makes wheels of sources in a suite's own Debian: a compiler over its root, while that takes. Knows no host."""

import tempfile
from pathlib import Path

from tests.support.hosts.base import Suite, base_root, run_apart
from tests.support.hosts.machine import cache_directory

TOOLS = ["gcc", "libc6-dev", "pkg-config", "python3-dev", "python3-pip", "python3-setuptools", "python3-wheel"]

# Over the base root rather than in it: the hosts have no compiler. volatile: nothing of it is kept.
SCRIPT = """
set -e
base=$1 scratch=$2 sources=$3; shift 3
mount -t overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work,volatile" overlay "$scratch/root"
mount -t proc proc "$scratch/root/proc"
mount --bind "$sources" "$scratch/root/srv"
cp -L /etc/resolv.conf "$scratch/root/etc/resolv.conf"
chroot "$scratch/root" apt-get -q update
chroot "$scratch/root" apt-get -qy --no-install-recommends install "$@"
# --isolated: the settings of this machine's pip name places that are not there.
chroot "$scratch/root" sh -c 'cd /srv && python3 -m pip --isolated wheel --no-input --no-index --no-deps \\
  --no-build-isolation --wheel-dir /srv ./*.tar.gz'
"""


def compile_wheels(suite: Suite, directory: Path, libraries: list[str]) -> None:
    """Make wheels of the source distributions in `directory`, for the suite's own Python, and put them beside those.

    `libraries`: the Debian packages that they are compiled against. Wants a network. Raises HostsUnavailable.
    """
    with tempfile.TemporaryDirectory(prefix="making-wheels-", dir=cache_directory()) as scratch:
        for name in ("upper", "work", "root"):
            Path(scratch, name).mkdir()
        script: list[str | Path] = ["sh", "-c", SCRIPT, "compile", base_root(suite), scratch, directory]
        run_apart([*script, *TOOLS, *libraries], f"wheels for {suite}")
