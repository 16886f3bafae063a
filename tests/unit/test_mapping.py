"""What is mapped of a model's files leaves resident memory, and is still there."""

import ctypes
import mmap
import os
import re
from pathlib import Path

from appliance.engine.mapping import release_freed, release_mapped

SIZE_BYTES = 8 << 20


def resident_bytes(file: Path) -> int:
    """Of this process's mapping of a file."""
    block = re.search(rf" {re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    return int(block[1]) * 1024 if block else 0


def test_mapped_files_of_the_directory_leave_memory_and_can_be_read_again(tmp_path: Path) -> None:
    inside, outside = tmp_path / "model" / "weights.bin", tmp_path / "model-2.bin"
    inside.parent.mkdir()
    content = bytes(range(256)) * (SIZE_BYTES // 256)
    for file in (inside, outside):
        file.write_bytes(content)
    with (
        inside.open("rb") as first,
        outside.open("rb") as second,
        mmap.mmap(first.fileno(), 0, prot=mmap.PROT_READ) as weights,
        mmap.mmap(second.fileno(), 0, prot=mmap.PROT_READ) as other,
    ):
        assert weights[:] == other[:] == content
        assert resident_bytes(inside) == resident_bytes(outside) == SIZE_BYTES
        assert release_mapped(inside.parent) == SIZE_BYTES
        assert resident_bytes(inside) == 0
        assert resident_bytes(outside) == SIZE_BYTES
        assert weights[:] == content


def test_what_was_freed_leaves_memory() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    blocks = [libc.malloc(64_000) for _ in range(1000)]  # small enough to come from the heap
    for block in blocks:
        libc.memset(block, 1, 64_000)
    for block in blocks[:-1]:  # the last one keeps the heap's end where it is
        libc.free(block)
    before = resident_pages()
    release_freed()
    libc.free(blocks[-1])
    assert (before - resident_pages()) * os.sysconf("SC_PAGE_SIZE") > 50_000_000


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
