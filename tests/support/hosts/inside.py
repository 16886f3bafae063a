"""Commands in a running host, by the namespaces of its first process. Needs no network and no bus in it."""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
NAMESPACES = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]


def enter(
    leader: int,
    groups: Sequence[Path],
    command: str | Sequence[str],
    timeout_s: float,
    stdin: bytes,
    environment: Mapping[str, str],
) -> "subprocess.CompletedProcess[bytes]":
    """Run `command` in the host whose first process is `leader`.

    Raises subprocess.TimeoutExpired; it is killed then.

    It joins the host's cgroups, so that it ends with it.
    """
    arguments = ["sh", "-c", command] if isinstance(command, str) else list(command)
    nsenter = ["nsenter", f"--target={leader}", *NAMESPACES, "--", "env", "--chdir=/root", *arguments]
    places = [str(_innermost(group) / "cgroup.procs") for group in groups]
    join = f'for place in {shlex.join(places)}; do echo $$ >"$place"; done 2>/dev/null; exec "$@"'
    with subprocess.Popen(
        ["sh", "-c", join, "enter", *nsenter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | dict(environment),
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def first_process(keeper: int) -> int | None:
    """The process that is number 1 in the host's own namespace: below the keeper and nspawn."""
    for nspawn in _children(keeper):
        for child in _children(nspawn):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return child
    return None


def _innermost(group: Path) -> Path:
    """Where the first process is; nspawn puts the host below `payload` where it wants to keep out of its group."""
    below = [group / "payload/init.scope", group / "init.scope", group / "payload"]
    return next((place for place in below if place.is_dir()), group)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
