"""What the host tells of itself: CPU temperature and throttling. Reads files: call it from a thread."""

from pathlib import Path

import psutil

CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "acpitz")  # best first


def cpu_temperature_celsius() -> float | None:
    """The hottest reading of the best CPU sensor; None where the host has none."""
    sensors = psutil.sensors_temperatures()
    for name in CPU_SENSORS:
        readings = [reading.current for reading in sensors.get(name, ())]
        if readings:
            return max(readings)
    return None


def cpu_throttle_count(root: Path = Path("/")) -> int | None:
    """Times that the kernel saw a core throttled for heat, since boot; None where the host does not tell."""
    counts = [
        int(path.read_text())
        for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    ]
    return sum(counts) if counts else None


def cpu_info(root: Path = Path("/")) -> dict[str, str]:
    """What /proc/cpuinfo says of the first CPU ("model name", "flags" …); nothing where the host does not tell."""
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def resident_memory_bytes(pid: int | None = None) -> int | None:
    """Resident memory of a process, this one by default; None where it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return None
