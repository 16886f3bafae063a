"""How many models a comparison can hold at once. Knows sizes of files and memory; opens no model."""

from collections.abc import Sequence
from pathlib import Path

from appliance.models.errors import MB, ModelError

BASE_BYTES = 700 * MB  # Python, OpenVINO, logits and arithmetic for a vocabulary of 151,936, with some room
# Of openvino_model.bin, besides what is mapped of the file, which the kernel can drop. Seen of 0.5 B parameters on
# OpenVINO 2026.4.1: F16 becomes F32, and that is there twice, 4.0; INT4 1.4.
FLOAT_COPIES = 4.2
INTEGER_COPIES = 1.6


class TooLittleMemory(ModelError):
    """The reference and one artefact do not fit what memory is free."""


def memory_bytes(directory: Path, *, integers: bool) -> int:
    """What the model in `directory` takes while it is compared; `integers`: it is quantized. Raises OSError."""
    size = (directory / "openvino_model.bin").stat().st_size
    return int(size * (INTEGER_COPIES if integers else FLOAT_COPIES))


def groups_of(reference_bytes: int, artefact_bytes: Sequence[int], available_bytes: int) -> list[list[int]]:
    """The artefacts' numbers in groups, each of which fits beside the reference, in their order; as few as can be.

    Fewer groups are faster: each reads the reference once. Raises TooLittleMemory where one alone does not fit.
    """
    room = available_bytes - BASE_BYTES - reference_bytes
    groups: list[list[int]] = []
    left = 0
    for number, needed in enumerate(artefact_bytes):
        if needed > room:
            total = BASE_BYTES + reference_bytes + needed
            raise TooLittleMemory(
                f"comparing takes about {total // MB:,} MB of memory, {available_bytes // MB:,} MB are free; stop the "
                "daemon and other programs, or measure on a larger machine"
            )
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(number)
        left -= needed
    return groups
