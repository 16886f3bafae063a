"""How much memory this process may come to use: the machine's, or its control group's. Reads files under a root."""

from pathlib import Path


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """The least of what the machine has and what any control group above this process allows.

    `root`: where proc and sys are looked for. Raises OSError and ValueError where /proc/meminfo is no such file.
    """
    return min([_machine_bytes(root), *_group_limits(root)])


def _machine_bytes(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    raise ValueError("MemTotal is not in /proc/meminfo")


def _group_limits(root: Path) -> list[int]:
    """Limits of the process's group and of those above it, in both versions of control groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    limits: list[int] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            limits += _limits_up(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_up(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return limits


def _limits_up(mount: Path, path: str, name: str) -> list[int]:
    group = mount / path.lstrip("/")
    found = [_limit(directory / name) for directory in (group, *group.parents) if directory.is_relative_to(mount)]
    return [limit for limit in found if limit is not None]


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text("ascii").strip()
    except OSError:
        return None  # the root group has no limit; a container may not see the groups above its own
    return None if text == "max" else int(text)
