"""Whether an error means that memory ran out. Knows what Python, C++ and OpenVINO say then, and nothing else."""

import re

# posix_memalign is what OpenVINO's buffers are made with; its 12 is ENOMEM.
_SAID = re.compile(
    r"MemoryError|bad_alloc|posix_memalign failed|annot allocate memory|ailed to allocate|an't alloc|out of memory",
    re.IGNORECASE,
)


def is_out_of_memory(error: Exception | str) -> bool:
    """Native code often tells it as some other error, in words only."""
    return isinstance(error, MemoryError) or _SAID.search(str(error)) is not None
