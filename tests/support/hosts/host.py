"""One test host: start, ask, reboot, cut the power, remove. Knows nspawn; knows nothing of the appliance."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.hosts import keeper
from tests.support.hosts.inside import enter, first_process
from tests.support.hosts.machine import hierarchies, kill_tree, wait_until

BOOT_TIMEOUT_S = 90.0  # 1.5 s on an idle machine
OFF_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
SSH_PORT = 22

NETWORK = "[Match]\nName=host0\n[Network]\nAddress={}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"


class CommandFailed(AssertionError):
    """A command in a host failed: its exit status and what it said."""

    def __init__(self, name: str, command: str, done: "subprocess.CompletedProcess[str]") -> None:
        super().__init__(f"{name}: {command!r} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        self.done = done


class Host:
    """A Debian with systemd as its first process. Made by a Lab; off at first.

    `lower`: what it begins with, the topmost first. What it changes goes to `upper`, which stays over reboots and power
    cuts. A power cut is one of processes: what they wrote without fsync is not lost as it would be.
    """

    def __init__(
        self,
        name: str,
        machine: str,
        address: str,
        directory: Path,
        lower: Sequence[Path],
        bridge: str,
        key: Path,
        shared: Mapping[Path, str],
    ) -> None:
        self.name = name
        self.address = address
        self.upper = directory / "upper"
        self.lower = list(lower)
        self._machine = machine
        self._directory = directory
        self._bridge = bridge
        self._key = key
        self._shared = dict(shared)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None
        self._prepare()

    def start(self) -> "Host":
        """Turn it on, and return when it is ready. Raises TimeoutError."""
        self.turn_on()
        self.wait_ready()
        return self

    def turn_on(self) -> None:
        """Begin to boot."""
        assert self._keeper is None, f"{self.name} is on already"
        for group in self._groups():
            group.mkdir(exist_ok=True)
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--system-call-filter=bpf"),
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off", f"--machine={self._machine}"),
            *(f"--hostname={self.name}", f"--network-bridge={self._bridge}", "-D", str(self._directory / "root")),
            *(f"--bind-ro={source}:{target}" for source, target in self._shared.items()),
        ]
        places = ":".join(map(str, self._groups()))
        arguments = [str(os.getpid()), str(self._directory), self._overlay(), places, shlex.join(nspawn)]
        with (self._directory / "console.log").open("ab") as console:
            self._keeper = subprocess.Popen(
                [sys.executable, "-P", keeper.__file__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def wait_ready(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Until systemd has started everything and the network answers. Raises TimeoutError."""
        self._wait_leader(None, timeout_s)
        # `running` wants every unit well; `degraded` is for the test to find.
        bus = "systemctl is-system-running --wait | grep -qE 'running|degraded'"
        wait_until(lambda: self._ask(bus, timeout_s) == 0, timeout_s, self._not_ready)
        wait_until(self._answers, timeout_s, self._not_ready)

    def run(
        self,
        command: str | Sequence[str],
        timeout_s: float = COMMAND_TIMEOUT_S,
        *,
        check: bool = True,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run `command` (a text by sh) as root in the host; its exit status, stdout and stderr.

        Raises CommandFailed where `check` and it ends with another status than 0, subprocess.TimeoutExpired; it is
        killed then, but for what it has put in the background.
        """
        done = self._enter(command, timeout_s, stdin.encode(), environment)
        result = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and result.returncode != 0:
            raise CommandFailed(self.name, command if isinstance(command, str) else shlex.join(command), result)
        return result

    def ask(self, command: str | Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """What a command that succeeds prints, without the space around it."""
        return self.run(command, timeout_s).stdout.strip()

    def ssh(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> "subprocess.CompletedProcess[str]":
        """Run a command over the network, as Ansible does."""
        return subprocess.run([*self.ssh_command(), command], capture_output=True, text=True, timeout=timeout_s)

    def ssh_command(self) -> list[str]:
        """ssh with all options, up to the command that is to run. No connection is kept."""
        options = ["BatchMode=yes", "ConnectTimeout=5", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        options += ["LogLevel=ERROR", "ControlMaster=no", "ControlPath=none", "IdentitiesOnly=yes"]
        flags = [part for option in options for part in ("-o", option)]
        return ["ssh", "-F", "none", *flags, "-i", str(self._key), f"root@{self.address}"]

    def put(self, content: bytes | str | Path, target: str, mode: int = 0o644) -> None:
        """Write a file, and the directories that it needs."""
        data = content.read_bytes() if isinstance(content, Path) else content
        data = data.encode() if isinstance(data, str) else data
        quoted = shlex.quote(target)
        command = f'mkdir -p "$(dirname {quoted})" && cat >{quoted} && chmod {mode:o} {quoted}'
        done = self._enter(command, COMMAND_TIMEOUT_S, data, None)
        assert done.returncode == 0, f"{self.name}: {target}: {done.stderr.decode()}"

    def get(self, path: str) -> bytes:
        """The content of a file."""
        done = self._enter(["cat", path], COMMAND_TIMEOUT_S, b"", None)
        assert done.returncode == 0, f"{self.name}: {path}: {done.stderr.decode()}"
        return done.stdout

    def reboot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """`systemctl reboot`, and wait until it is ready again. Raises TimeoutError."""
        before = self._leader
        self.run("systemctl reboot --no-block")
        self._wait_leader(before, timeout_s)
        self.wait_ready(timeout_s)

    def power_cut(self) -> None:
        """Every process ends at once, without a signal that it could see."""
        self._kill()
        self._wait_off()

    def off(self) -> None:
        """Shut down in order. Raises TimeoutError where a service does not let it; the host is killed then."""
        if self._keeper is None:
            return
        self._keeper.send_signal(signal.SIGTERM)
        try:
            self._keeper.wait(OFF_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.power_cut()
            raise TimeoutError(f"{self.name} was not off after {OFF_TIMEOUT_S:g} s: {self._console()}") from None
        self._wait_off()

    def remove(self) -> None:
        """End it at once, and leave nothing of it."""
        self._kill()
        self._wait_off()
        for group in self._groups():
            keeper.remove_group(group)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def is_on(self) -> bool:
        """Whether its processes run."""
        return self._keeper is not None and self._keeper.poll() is None

    @contextlib.contextmanager
    def disk(self) -> Iterator[Path]:
        """Its root while it is off, to look at and to change."""
        assert self._keeper is None, f"{self.name} is on"
        root = self._directory / "root"
        keeper.mount(self._overlay(), self._directory)
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)

    def _prepare(self) -> None:
        """What is its own: name, identity, address, keys."""
        for place in ("work", "root", "upper/etc/ssh", "upper/etc/systemd/network", "upper/root/.ssh"):
            (self._directory / place).mkdir(parents=True)
        etc = self.upper / "etc"
        (self.upper / "root").chmod(0o700)
        (self.upper / "root/.ssh").chmod(0o700)
        shutil.copyfile(self._key.with_suffix(".pub"), self.upper / "root/.ssh/authorized_keys")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "systemd/network/10-host0.network").write_text(NETWORK.format(self.address))
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "ssh/ssh_host_ed25519_key")]
        subprocess.run(key, check=True, timeout=30, stdin=subprocess.DEVNULL)

    def _overlay(self) -> str:
        lower = ":".join(map(str, self.lower))
        return f"lowerdir={lower},upperdir={self.upper},workdir={self._directory / 'work'}"

    def _groups(self) -> list[Path]:
        return [tree / self._machine for tree in hierarchies()]

    def _enter(
        self, command: str | Sequence[str], timeout_s: float, stdin: bytes, environment: Mapping[str, str] | None
    ) -> "subprocess.CompletedProcess[bytes]":
        assert self._leader is not None, f"{self.name} is off"
        return enter(self._leader, self._groups(), command, timeout_s, stdin, environment or {})

    def _ask(self, command: str, timeout_s: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._enter(command, timeout_s, b"", None).returncode
        return None

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, SSH_PORT), timeout=2):
                return True
        except OSError:
            return False

    def _wait_leader(self, before: int | None, timeout_s: float) -> None:
        """Until there is a first process, and another one than `before`."""

        def found() -> bool:
            assert self._keeper is not None, f"{self.name} was never turned on"
            assert self._keeper.poll() is None, self._not_ready()
            leader = first_process(self._keeper.pid)
            if leader is None or leader == before:
                return False
            self._leader = leader
            return True

        wait_until(found, timeout_s, self._not_ready)

    def _kill(self) -> None:
        for group in self._groups():
            if group.parent == kill_tree() and group.is_dir():
                (group / "cgroup.kill").write_text("1")

    def _wait_off(self) -> None:
        if self._keeper is not None:
            try:
                self._keeper.wait(OFF_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
        self._keeper = self._leader = None

    def _not_ready(self) -> str:
        return f"{self.name} is not ready; its console ends with: {self._console()}"

    def _console(self) -> str:
        log = self._directory / "console.log"
        return log.read_bytes()[-2000:].decode(errors="replace") if log.exists() else ""
