"""GGUF of any quantization to an IR with F16 matrices: an import that stops before it quantizes, and tries nothing."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from appliance.models.errors import MB
from appliance.models.importers.gguf import run_child
from appliance.models.importers.quantizing import STEP_S_PER_MB, STEP_TIMEOUT_S, STEPS, require_room, scan
from appliance.models.progress import Progress


class _Done(Struct):
    """What of a step's report matters here."""

    tied: int = 0


def convert_f16(gguf: Path, directory: Path, name: str, progress: Progress) -> Sequence[str]:
    """Write IR and tokenizers of `gguf` into `directory`, which is empty; returns the file's types of matrices.

    `name`: of the model, for people; `directory` has a parent of its own, where an F16 file lies meanwhile. Raises
    DiskFull before anything is written, ImportFailed, OSError (ENOSPC).
    """
    facts = scan(gguf, name, progress)
    require_room(directory, facts.f16_bytes)
    f16 = directory.parent / "f16.gguf"
    steps = {
        "dequantizing": ["dequantize", "--", str(gguf), str(f16)],
        "converting": ["build", "--", str(f16), str(directory), str(facts.f16_bytes)],
    }
    for label, arguments in steps.items():
        progress.stage(f"{name}: {label}")
        done = run_child(
            [*STEPS, *arguments],
            name,
            progress,
            room=(directory, gguf),
            timeout_s=STEP_TIMEOUT_S + STEP_S_PER_MB * facts.f16_bytes / MB,
            type=_Done,
        )
        if done.tied:
            progress.note(f"{name}: embedding and output matrix are one; the better copy of the two is taken")
    f16.unlink()
    return facts.matrix_types
