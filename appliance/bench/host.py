"""The machine that a result was measured on: CPU, memory and its bandwidth, versions. Knows no server.

It reads files and measures: call it on a thread.
"""

import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import psutil
from msgspec import Struct

from appliance.observability.host import cpu_info

MIB = 1 << 20
FLAGS = ("avx2", "fma", "f16c", "avx_vnni", "avx512", "amx")  # beginnings of those that decide how fast it computes
DISTRIBUTIONS = ("edge-chat-appliance", "openvino", "openvino-genai", "openvino-tokenizers", "aiohttp", "numpy")
ISA_CAP_VARIABLE = "ONEDNN_MAX_CPU_ISA"

LEAST_BYTES = 256 * MIB
CACHES = 2  # times the last cache level that is read: what stays in it would be no memory
MEMORY_SHARE = 4  # at most one part in four of what is free
PASSES = 5  # the best counts: whatever else runs only makes it slower


class Bandwidth(Struct, frozen=True, kw_only=True):
    """How fast memory is read."""

    gb_per_s: float
    """10^9 bytes a second."""
    method: str
    """For people: what was read, how often, by how many threads."""


class Host(Struct, frozen=True, kw_only=True):
    """One machine, as far as it tells; None where it does not."""

    cpu_model: str | None
    flags: list[str]
    """Those beginning with one of FLAGS."""
    cores_physical: int | None
    cores_usable: int
    """Logical CPUs that this process may use."""
    governor: str | None
    """Of the first CPU's frequency."""
    memory_bytes: int
    memory_bandwidth: Bandwidth | None
    kernel: str
    python: str
    packages: dict[str, str | None]
    """Version by distribution; None where it is not installed."""
    isa_cap: str | None
    """ONEDNN_MAX_CPU_ISA of this process; the daemon has its own."""


def describe_host(*, root: Path = Path("/"), bandwidth: bool = True) -> Host:
    """This machine; `bandwidth` takes about a second and memory of two last-level caches.

    `root`: where proc and sys are looked for.
    """
    cpu = cpu_info(root)
    return Host(
        cpu_model=cpu.get("model name"),
        flags=sorted(flag for flag in cpu.get("flags", "").split() if flag.startswith(FLAGS)),
        cores_physical=psutil.cpu_count(logical=False),
        cores_usable=len(os.sched_getaffinity(0)),
        governor=_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes=psutil.virtual_memory().total,
        memory_bandwidth=measure_bandwidth(_test_bytes(root)) if bandwidth else None,
        kernel=platform.release(),
        python=platform.python_version(),
        packages=dict(_versions()),
        isa_cap=os.environ.get(ISA_CAP_VARIABLE),
    )


def measure_bandwidth(size_bytes: int, threads: int | None = None) -> Bandwidth:
    """Read `size_bytes` of memory several times with numpy; `threads`: one for each physical core.

    A read test, as decoding only reads the weights: the greatest of float32 numbers is looked for, which costs less
    than fetching them.
    """
    import numpy as np

    if threads is None:
        threads = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    numbers = np.ones(max(threads, size_bytes // 4), np.float32)  # written, so that each page is memory of its own
    parts = np.array_split(numbers, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PASSES):
            began = time.perf_counter()
            for _ in pool.map(np.max, parts):
                pass
            best_s = min(best_s, time.perf_counter() - began)
    return Bandwidth(
        gb_per_s=numbers.nbytes / best_s / 1e9,
        method=f"best of {PASSES} passes of numpy.max over {numbers.nbytes // MIB} MiB of float32, {threads} threads",
    )


def _test_bytes(root: Path) -> int:
    wanted = max(LEAST_BYTES, CACHES * _last_cache_bytes(root))
    return min(wanted, psutil.virtual_memory().available // MEMORY_SHARE)


def _last_cache_bytes(root: Path) -> int:
    """Of the first CPU; 0 where the host does not tell."""
    sizes = [_line(file) or "" for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def _line(file: Path) -> str | None:
    try:
        return file.read_text("utf-8", "replace").strip() or None
    except OSError:
        return None


def _versions() -> Iterator[tuple[str, str | None]]:
    for name in DISTRIBUTIONS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, None
