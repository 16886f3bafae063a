"""How much memory there is, and is left, for this process: the machine's, or its control group's. Reads files."""

from pathlib import Path


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """The least of what the machine has and what any control group above this process allows.

    `root`: where proc and sys are looked for. Raises OSError and ValueError where /proc/meminfo is no such file.
    """
    return min([_machine_bytes(root, "MemTotal"), *(limit for _, limit in _groups(root))])


def available_memory_bytes(root: Path = Path("/")) -> int:
    """The least of what the machine has available and what any control group above this process has left.

    `root`, and what is raised: as above.
    """
    left = [limit - _used(group) for group, limit in _groups(root)]
    return max(0, min([_machine_bytes(root, "MemAvailable"), *left]))


def _machine_bytes(root: Path, wanted: str) -> int:
    for line in (root / "proc/meminfo").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == wanted:
            return int(value.split()[0]) * 1024
    raise ValueError(f"{wanted} is not in /proc/meminfo")


def _used(group: Path) -> int:
    """What a group uses, less the file pages that the kernel would give up first."""
    v2 = (group / "memory.current").exists()
    used = _number(group / ("memory.current" if v2 else "memory.usage_in_bytes")) or 0
    try:
        lines = (group / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return used
    name = "inactive_file " if v2 else "total_inactive_file "
    return used - sum(int(line.split()[1]) for line in lines if line.startswith(name))


def _groups(root: Path) -> list[tuple[Path, int]]:
    """The process's group and those above it that have a limit, in both versions of control groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    groups: list[tuple[Path, int]] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            groups += _limited(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            groups += _limited(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return groups


def _limited(mount: Path, path: str, name: str) -> list[tuple[Path, int]]:
    group = mount / path.lstrip("/")
    above = [directory for directory in (group, *group.parents) if directory.is_relative_to(mount)]
    return [(directory, limit) for directory in above if (limit := _number(directory / name)) is not None]


def _number(file: Path) -> int | None:
    try:
        text = file.read_text("ascii").strip()
    except OSError:
        return None  # the root group has no limit; a container may not see the groups above its own
    return None if text == "max" else int(text)
