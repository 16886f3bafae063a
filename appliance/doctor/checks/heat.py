"""Whether the CPU is slowed down for heat, now and since boot. Reads thermal zones and the kernel's counters."""

import time
from pathlib import Path

from msgspec import Struct

from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.reading import cpu_directories, number, text
from appliance.doctor.surroundings import Surroundings

SAMPLE_S = 1.0
NEAR_C = 10.0  # degrees below the point where the firmware switches off
SENSIBLE_C = (1.0, 150.0)  # sensors that are not there say 0 or -273
COOL = "clean the fan and the vents, give it room and cooler air"


class Zone(Struct, frozen=True, kw_only=True):
    """One sensor of the kernel's."""

    name: str
    celsius: float
    passive_c: float | None
    """From where on the kernel slows the CPU down."""
    critical_c: float | None
    """From where on the machine is switched off."""


def check_heat(here: Surroundings, *, sample_s: float = SAMPLE_S) -> Finding:
    """Throttled in this second, or near it; throttled since boot."""
    before = _throttled(here.root)
    time.sleep(0 if before is None else sample_s)
    after = _throttled(here.root)
    zones = _zones(here.root)
    hottest = max(zones, key=lambda zone: zone.celsius, default=None)
    facts = {
        "celsius": None if hottest is None else hottest.celsius,
        "throttled_since_boot": after,
        "throttled_in_1_s": None if before is None or after is None else after - before,
        "throttled_total_s": _throttled_s(here.root),
    }
    at = "temperature not told" if hottest is None else f"{hottest.celsius:.0f} °C ({hottest.name})"
    if facts["throttled_in_1_s"]:
        return red("heat", f"{at}, throttled for heat now: answers come slowly", COOL, **facts)
    for zone in zones:
        if zone.critical_c is not None and zone.celsius >= zone.critical_c - NEAR_C:
            return red("heat", f"{zone.celsius:.0f} °C ({zone.name}), switched off at {zone.critical_c:.0f} °C", COOL,
                       **facts)  # fmt: skip
        if zone.passive_c is not None and zone.celsius >= zone.passive_c:
            return yellow("heat", f"{zone.celsius:.0f} °C ({zone.name}), slowed down from {zone.passive_c:.0f} °C on",
                          COOL, **facts)  # fmt: skip
    if after:
        lasted = f", {facts['throttled_total_s']:.0f} s in all" if facts["throttled_total_s"] else ""
        return yellow("heat", f"{at} now; throttled for heat {after} times since boot{lasted}", COOL, **facts)
    if after is None:
        return unknown("heat", f"{at}; whether it is throttled for heat the host does not tell",
                       "look on the machine itself, where this is a virtual one", **facts)  # fmt: skip
    return green("heat", f"{at}, not throttled since boot", **facts)


def _throttled(root: Path) -> int | None:
    """Times that a core or package was throttled since boot, by whichever counts more; None where nobody counts."""
    cores, packages = 0, 0
    found = False
    for cpu in cpu_directories(root):
        core, package = (number(cpu / "thermal_throttle" / f"{name}_throttle_count") for name in ("core", "package"))
        found |= core is not None or package is not None
        cores += core or 0
        packages = max(packages, package or 0)  # each CPU of a package says the same
    return max(cores, packages) if found else None


def _throttled_s(root: Path) -> float | None:
    """Seconds that the package was throttled since boot; None where the kernel is too old to tell."""
    times = [number(cpu / "thermal_throttle/package_throttle_total_time_ms") for cpu in cpu_directories(root)]
    known = [time_ms for time_ms in times if time_ms is not None]
    return max(known) / 1000 if known else None


def _zones(root: Path) -> list[Zone]:
    zones = []
    for directory in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        celsius = _celsius(directory / "temp")
        if celsius is None:
            continue
        zones.append(
            Zone(
                name=text(directory / "type") or directory.name,
                celsius=celsius,
                passive_c=_trip(directory, "passive"),
                critical_c=_trip(directory, "critical"),
            )
        )
    return zones


def _trip(zone: Path, kind: str) -> float | None:
    points = [file for file in zone.glob("trip_point_*_type") if text(file) == kind]
    values = [_celsius(file.with_name(file.name.replace("_type", "_temp"))) for file in points]
    return min((value for value in values if value is not None), default=None)


def _celsius(file: Path) -> float | None:
    """Of a file in thousandths of a degree; None where it says what can't be."""
    value = number(file)
    if value is None or not SENSIBLE_C[0] <= value / 1000 <= SENSIBLE_C[1]:
        return None
    return value / 1000
