"""Whether memory is enough for what serving takes, and whether it is memory and not swap. Changes no limit."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.doctor.checks.models import MAKE_ONE
from appliance.doctor.checks.served import engine_settings, served_model
from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.reading import table, text
from appliance.doctor.surroundings import Surroundings
from appliance.engine.memory import MIB, MemoryBudget, memory_budget, require_room
from appliance.errors import ConfigError
from appliance.observability.memory import available_memory_bytes, memory_limit_bytes

SAMPLE_S = 1.0
PRESSURE_PERCENT = 10.0  # of the last minute that some task waited for memory
SWAPPED_BYTES = 1 << 20  # of the appliance: what is less may be a library's start-up code
PAGES_NOW = 100  # read back within SAMPLE_S: more than a stray page
SMALLER = "lower engine.kv_cache_tokens, take a smaller model, or give it more memory"


class Room(Struct, frozen=True, kw_only=True):
    """What there is, in bytes."""

    limit: int
    """Of the machine, or of the unit."""
    limited_by: str
    available: int
    resident: int
    """What the appliance has already."""


def check_memory(here: Surroundings) -> Finding:
    """The budget against what there is; pressure, and what the kernel had to end."""
    if here.settings.engine.pipeline == "fake":
        return green("memory", "no model is loaded (engine.pipeline = fake)")
    try:
        model = served_model(here)
        if model is None:
            return unknown("memory", "no model is installed, so what serving takes is not known",
                           MAKE_ONE)  # fmt: skip
        engine = engine_settings(here, model.manifest.digest)
        budget = memory_budget(model.directory, engine.kv_cache_tokens, engine.kv_cache_precision)
        room = _room(here)
    except (OSError, ValueError, ConfigError) as error:
        return unknown("memory", f"what serving takes is not known: {str(error).partition('; ')[0]}", "run it as root")
    facts = _facts(here, budget, room)
    try:
        require_room(budget, engine.kv_cache_tokens, room.limit)
    except ConfigError as error:
        return red("memory", f"{error} ({room.limited_by})", SMALLER, **facts)
    more = max(0, budget.total_bytes - room.resident)
    shown = f"serving takes {_mib(budget.total_bytes)} of {_mib(room.limit)} ({room.limited_by})"
    if facts["oom_kills_since_boot"]:
        return yellow("memory", f"{shown}; the kernel ended {facts['oom_kills_since_boot']} processes for want of "
                      "memory since boot", "journalctl -k | grep -i 'out of memory' tells which; " + SMALLER,
                      **facts)  # fmt: skip
    if more > room.available:
        return yellow("memory", f"{shown}; {_mib(more)} more than now when the KV cache is full, and "
                      f"{_mib(room.available)} are available", f"end what else takes memory, or {SMALLER}",
                      **facts)  # fmt: skip
    pressure = facts["pressure_percent"]
    if pressure is not None and pressure > PRESSURE_PERCENT:
        return yellow("memory", f"{shown}; tasks waited for memory {pressure:.0f} % of the last minute",
                      "end what else takes memory", **facts)  # fmt: skip
    return green("memory", f"{shown}, {_mib(room.available)} available", **facts)


def check_swap(here: Surroundings, *, sample_s: float = SAMPLE_S) -> Finding:
    """Weights that come back from swap are a hundred times slower than memory."""
    memory = table(here.root / "proc/meminfo")
    if "SwapTotal" not in memory:
        return unknown("swap", "/proc/meminfo tells nothing of swap", "run it where /proc/meminfo can be read")
    total, used = memory["SwapTotal"] * 1024, (memory["SwapTotal"] - memory.get("SwapFree", 0)) * 1024
    own = sum(swapped for pid in _pids(here) if (swapped := _swapped(here.root, pid)) is not None)
    facts = {"total_bytes": total, "used_bytes": used, "appliance_bytes": own if here.status else None}
    if not total:
        return green("swap", "none", **facts)
    if not used:
        return green("swap", f"none used of {_mib(total)}", **facts)
    before = _read_back(here.root)
    time.sleep(sample_s)
    now = _read_back(here.root) - before
    facts["pages_read_back_in_1_s"] = now
    remedy = "end what else takes memory, lower engine.kv_cache_tokens, or: sysctl vm.swappiness=10"
    if now > PAGES_NOW:
        return red("swap", f"{_mib(used)} used, and memory is read back from it now ({now} pages a second)", remedy,
                   **facts)  # fmt: skip
    if own > SWAPPED_BYTES:
        return yellow("swap", f"{_mib(own)} of the appliance are in swap: the next answers wait for the disk", remedy
                      + "; a restart brings them back", **facts)  # fmt: skip
    if here.status is None:
        return yellow("swap", f"{_mib(used)} of {_mib(total)} used", remedy, **facts)
    return green("swap", f"{_mib(used)} of {_mib(total)} used, none by the appliance", **facts)


def _facts(here: Surroundings, budget: MemoryBudget, room: Room) -> dict[str, Any]:
    return {
        "budget_bytes": budget.total_bytes,
        "weights_bytes": budget.weights_bytes,
        "kv_cache_bytes": budget.kv_cache_bytes,
        "limit_bytes": room.limit,
        "limited_by": room.limited_by,
        "available_bytes": room.available,
        "resident_bytes": room.resident,
        "oom_kills_since_boot": table(here.root / "proc/vmstat").get("oom_kill"),
        "pressure_percent": _pressure(here.root),
    }


def _room(here: Surroundings) -> Room:
    """Raises OSError, ValueError."""
    limits = {"this machine": memory_limit_bytes(here.root)}
    for name in ("MemoryMax", "MemoryHigh"):
        value = here.service.get(name, "")
        if value.isdecimal():
            limits[f"{name} of the unit"] = int(value)
    limited_by = min(limits, key=lambda name: limits[name])
    resident = sum(here.of_status("rss_bytes", name) or 0 for name in ("front", "engine"))
    available = available_memory_bytes(here.root)
    if limited_by != "this machine":
        available = min(available, max(0, limits[limited_by] - resident))
    return Room(limit=limits[limited_by], limited_by=limited_by, available=available, resident=resident)


def _pressure(root: Path) -> float | None:
    """Percent of the last minute in which some task waited; None where the kernel does not count."""
    for line in (text(root / "proc/pressure/memory") or "").splitlines():
        values = dict(field.split("=", 1) for field in line.split() if "=" in field)
        if line.startswith("some") and "avg60" in values:
            return float(values["avg60"])
    return None


def _pids(here: Surroundings) -> Iterator[int]:
    pids = [here.of_status("engine", "pid"), here.service.get("MainPID", "")]
    return (int(pid) for pid in pids if str(pid or "").isdecimal() and int(pid))


def _swapped(root: Path, pid: int) -> int | None:
    kib = table(root / "proc" / str(pid) / "status").get("VmSwap")
    return None if kib is None else kib * 1024


def _read_back(root: Path) -> int:
    return table(root / "proc/vmstat").get("pswpin", 0)


def _mib(size_bytes: int) -> str:
    return f"{-(-size_bytes // MIB):,} MiB"
