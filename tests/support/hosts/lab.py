"""All hosts of one run of the tests: their bridge, addresses and key. Cleans up, also after a run that was killed."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.hosts import keeper
from tests.support.hosts.host import Host
from tests.support.hosts.machine import HostsUnavailable, cache_directory, hierarchies, kill_tree, try_lock

SLOTS = 16  # runs beside each other
FIRST_HOST = 10  # the last number of its address


class Lab:
    """What hosts are made in. One run's alone: of SLOTS, the one whose lock this process holds."""

    def __init__(self, slot: int, directory: Path, base: Path) -> None:
        self.base = base
        self.hosts: list[Host] = []
        self._slot = slot
        self._directory = directory
        self._bridge = _prefix(slot)
        self._made = 0
        self._below: dict[Path, list[Path]] = {}
        self._key = directory / "key"
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test hosts", "-f", str(self._key)]
        subprocess.run(key, check=True, timeout=30, stdin=subprocess.DEVNULL)
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.gateway}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    @property
    def gateway(self) -> str:
        """This machine's address, as the hosts see it; they have no route further."""
        return f"10.77.{self._slot}.1"

    def host(self, name: str, *, over: Sequence[Path] = (), shared: Mapping[Path, str] | None = None) -> Host:
        """A new host, off.

        `over`: what others were frozen to, the topmost first. `shared`: directories of here, to where it sees them.
        """
        over = [layer for top in over for layer in (top, *self._below.get(top, []))]
        self._made += 1
        host = Host(
            name=name,
            machine=f"{_prefix(self._slot)}-{self._made}-{name}"[:60],
            address=f"10.77.{self._slot}.{FIRST_HOST + self._made}",
            directory=self._directory / f"{self._made}-{name}",
            lower=[*over, self.base],
            bridge=self._bridge,
            key=self._key,
            shared=shared or {},
        )
        self.hosts.append(host)
        return host

    def frozen(self, host: Host) -> Path:
        """Shut `host` down and make what it has become something for others to begin with."""
        host.off()
        for log in (host.upper / "var/log/journal").glob("*"):
            shutil.rmtree(log)  # the others are not that machine
        for file in ("etc/machine-id", "var/lib/systemd/random-seed"):
            (host.upper / file).unlink(missing_ok=True)
        self._below[host.upper] = host.lower[:-1]
        return host.upper

    def remove(self, host: Host) -> None:
        """End a host and forget it."""
        host.remove()
        self.hosts.remove(host)


@contextlib.contextmanager
def open_lab(base: Path) -> Iterator[Lab]:
    """A lab of this run, of which nothing is left at the end. Removes what runs that were killed have left."""
    runs = cache_directory() / "runs"
    runs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        slot = _take_slot(runs, stack)
        directory = runs / str(slot)
        stack.callback(_clean, slot, directory)
        directory.mkdir()
        lab = Lab(slot, directory, base)
        try:
            yield lab
        finally:
            for host in lab.hosts:
                host.remove()


def _take_slot(runs: Path, stack: contextlib.ExitStack) -> int:
    """The first free one, locked until `stack` ends; all free ones are cleaned. Raises HostsUnavailable."""
    taken = None
    for slot in range(SLOTS):
        lock = (runs / f"{slot}.lock").open("a")
        if not try_lock(lock.fileno()):  # its run is alive
            lock.close()
            continue
        _clean(slot, runs / str(slot))
        if taken is None and not _is_routed(slot):
            taken = slot
            stack.enter_context(lock)
        else:
            lock.close()
    if taken is None:
        raise HostsUnavailable(f"no network is free for test hosts: 10.77.0.0/24 to 10.77.{SLOTS - 1}.0/24 are in use")
    return taken


def _clean(slot: int, directory: Path) -> None:
    """Remove what is there of a slot: processes, cgroups, bridge, mounts, files."""
    for tree in sorted(hierarchies(), key=lambda tree: tree != kill_tree()):
        for group in tree.glob(f"{_prefix(slot)}-*"):
            if tree == kill_tree():
                (group / "cgroup.kill").write_text("1")
            keeper.remove_group(group)
    if Path(f"/sys/class/net/{_prefix(slot)}").exists():
        _ip("link", "delete", _prefix(slot))
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", place], check=True)
    if directory.exists():
        shutil.rmtree(directory)


def _prefix(slot: int) -> str:
    """Of the names of all that a slot has on this machine; an interface's name, so at most 15 characters."""
    return f"eca{slot}"


def _is_routed(slot: int) -> bool:
    """Whether that network is somebody else's."""
    shown = subprocess.run(["ip", "route", "show", f"10.77.{slot}.0/24"], capture_output=True, text=True, timeout=10)
    return bool(shown.stdout.strip())


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise HostsUnavailable(f"test hosts need a bridge: ip {' '.join(arguments)}: {done.stderr.strip()}")
