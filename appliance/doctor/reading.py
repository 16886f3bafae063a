"""Small files of proc and sys, as texts and numbers; None where the host does not tell. Knows no meaning."""

import re
from collections.abc import Iterator
from pathlib import Path

FILE_MAX_BYTES = 1 << 20  # proc and sys have none that are larger and wanted


def text(file: Path) -> str | None:
    """What is in `file`, stripped; None where it can't be read or is empty."""
    try:
        with file.open("rb") as content:
            return content.read(FILE_MAX_BYTES).decode("utf-8", "replace").strip() or None
    except OSError:  # sys has files that are there and answer with an error
        return None


def number(file: Path) -> int | None:
    """The whole number in `file`; None where there is none."""
    try:
        return int(text(file) or "")
    except ValueError:
        return None


def table(file: Path) -> dict[str, int]:
    """Lines such as "SwapFree:  12 kB" or "oom_kill 3", by name, as they stand there."""
    found = {}
    for line in (text(file) or "").splitlines():
        match = re.match(r"([A-Za-z_()0-9]+):?\s+(\d+)(?:\s|$)", line)
        if match:
            found[match[1]] = int(match[2])
    return found


def cpu_directories(root: Path) -> Iterator[Path]:
    """Of each CPU, in order."""
    found = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return iter(sorted(found, key=lambda path: int(path.name.removeprefix("cpu"))))
