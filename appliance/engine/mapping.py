"""Gives memory back: what a model's file takes once it was read, and what was freed. Knows /proc, madvise and glibc;
knows no model.

OpenVINO maps the weights and copies them into an order that suits the CPU; the mapped pages stay resident, as large
again as the weights, and are not read any more. They are the file's own: one that is needed after all is mapped again.
"""

import contextlib
import ctypes
import os
import re
from pathlib import Path

MADV_DONTNEED = 4  # <sys/mman.h>

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r--s [0-9a-f]+ \S+ \d+ +(/.*)")  # shared and read-only: nothing to lose


def release_mapped(directory: Path) -> int:
    """Take what is mapped of files in `directory` out of this process's resident memory; returns the bytes mapped.

    Raises OSError where /proc can't be read or the kernel refuses.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    inside = str(directory.resolve()) + "/"
    released = 0
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        found = _MAPPING.fullmatch(line)
        if found is None or not found[3].startswith(inside):
            continue
        begin, end = int(found[1], 16), int(found[2], 16)
        if madvise(begin, end - begin, MADV_DONTNEED) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), found[3])
        released += end - begin
    return released


def release_freed() -> None:
    """Give the kernel back what this process has freed, and the allocator keeps. Nothing where that is not glibc."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
