"""What is mapped of a model's files leaves resident memory, and is still there."""

import mmap
import re
from pathlib import Path

from appliance.engine.mapping import release_mapped

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
