"""GGUF of any quantization to a quantized IR, step by step, each in a child. Knows the steps' order and their needs.

Reading, dequantizing, building and compressing are processes of their own so that none pays for the memory of the
one before, and so that a file that crashes one of them ends in one line.
"""

import shutil
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from appliance.models.catalog import CatalogModel
from appliance.models.errors import MB, DiskFull, ImportFailed
from appliance.models.facts import Facts
from appliance.models.gguf.ggml import READ_BY_GENAI
from appliance.models.importers import Converted
from appliance.models.importers.gguf import Report, T, check_report, convert, run_child
from appliance.models.progress import Progress
from appliance.models.recipes import Recipe

STEPS = ("-m", "appliance.models.steps")
SCAN_TIMEOUT_S = 60.0
STEP_TIMEOUT_S = 900.0  # for any size; a hundred times what 0.5 B parameters take on two desktop cores
STEP_S_PER_MB = 1.0  # and so much more for each MB of F16
CALIBRATED_STEPS = 8  # a recipe that reads calibration text has the time of so many steps
F16_FILES = 2  # at the peak: the rewritten GGUF and the IR that GenAI makes of it
F16_IN_MEMORY = 2.2  # copies that GenAI holds at its peak; 2.1 seen, besides the file itself, which the kernel can drop
F16_AND_F32_FILES = 3  # the IR, and its weights in F32 while calibration text is read
F16_CALIBRATING = 3.0  # 2.1 while text is read, as OpenVINO packs the weights in F32; 2.94 as integers are written
F16_CALIBRATING_GPTQ = 5.2  # and keeps them in F32 in memory besides; 5.1 seen
MARGIN_BYTES = 64 * MB


class _Dequantized(Struct):
    parameters: int
    tied: int = 0


class Nothing(Struct):
    """A step that has nothing to tell."""


def scan(file: Path, name: str, progress: Progress) -> Facts:
    """What a GGUF's header, or a checkpoint's small files, say. Raises ImportFailed in one line, whatever they hold."""
    if not file.is_file() and not file.is_dir():  # a pipe would keep whoever opens it waiting
        raise ImportFailed(f"{name}: no such file: {file}")
    progress.stage(f"{name}: reading the header")
    arguments = [*STEPS, "scan", str(file)]
    try:
        return run_child(arguments, name, progress, room=(file.parent, file), timeout_s=SCAN_TIMEOUT_S, type=Facts)
    except ImportFailed as error:
        raise ImportFailed(str(error).replace("the conversion failed", "can't be imported")) from None


class QuantizingConverter:
    """A Converter that makes F16 of whatever the file holds and quantizes that by `recipe`."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def __call__(self, gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
        """See Converter. Raises DiskFull before anything is written, besides."""
        facts = scan(gguf, model.id, progress)
        require_room(directory, facts.f16_bytes, recipe=self._recipe)
        run = Steps(model, directory, facts.f16_bytes, progress)
        f16 = directory.parent / "f16.gguf"
        dequantized = run.step("dequantizing", _Dequantized, "dequantize", str(gguf), str(f16))
        if dequantized.tied:
            progress.note(f"{model.id}: embedding and output matrix are one; the better copy of the two is taken")
        run.step("converting", Nothing, "build", str(f16), str(directory), str(facts.f16_bytes))
        f16.unlink()
        return run.finish(self._recipe, gguf, dequantized.parameters)


def convert_copy(gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
    """A Converter that leaves the weights as they are, of a copy: GenAI maps the file that it reads for writing.

    Raises ImportFailed for types that GenAI does not read, and as `convert` does.
    """
    facts = scan(gguf, model.id, progress)
    others = [name for name in facts.matrix_types if name not in READ_BY_GENAI]
    if others:
        raise ImportFailed(
            f"{model.id}: GenAI does not read {', '.join(others)} itself; import it without --keep-quantization"
        )
    copy = directory.parent / "copy.gguf"
    progress.stage(f"{model.id}: copying")
    shutil.copyfile(gguf, copy)
    converted = convert(copy, directory, model, progress)
    copy.unlink()
    return converted


def conversion_bytes(f16_bytes: int, recipe: Recipe | None = None) -> int:
    """What a conversion takes of the disk at its peak; `recipe`: what quantizes, None where nothing does."""
    lean = recipe is not None and recipe.methods and not recipe.gptq
    return (F16_AND_F32_FILES if lean else F16_FILES) * f16_bytes + MARGIN_BYTES


def memory_bytes(f16_bytes: int, recipe: Recipe | None = None) -> int:
    """What it takes of memory at its peak, without pages of files, which the kernel can drop."""
    copies = F16_IN_MEMORY
    if recipe is not None and recipe.methods:
        copies = F16_CALIBRATING_GPTQ if recipe.gptq else F16_CALIBRATING
    return int(copies * f16_bytes)


def require_room(directory: Path, f16_bytes: int, besides_bytes: int = 0, *, recipe: Recipe | None = None) -> None:
    """Raises DiskFull or ImportFailed where disk or memory can't hold what a conversion takes at its peak.

    `besides_bytes`: what else is going to be written to that disk before.
    """
    needed = conversion_bytes(f16_bytes, recipe) + besides_bytes
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DiskFull(directory.parent.parent, needed, free)
    memory = psutil.virtual_memory().available + psutil.swap_memory().free
    wanted = memory_bytes(f16_bytes, recipe)
    if memory < wanted:
        raise ImportFailed(
            f"the conversion takes about {wanted // MB} MB of memory, {memory // MB} MB are free; "
            "import it on a larger machine and copy the store"
        )


class Steps:
    """Runs the steps of one import."""

    def __init__(self, model: CatalogModel, directory: Path, f16_bytes: int, progress: Progress) -> None:
        self._model = model
        self._directory = directory
        self._f16_bytes = f16_bytes
        self._progress = progress
        self._timeout_s = STEP_TIMEOUT_S + STEP_S_PER_MB * f16_bytes / MB

    def finish(self, recipe: Recipe, source: Path, parameters: int) -> Converted:
        """Quantize the F16 IR that is there now, and try it; `source`: what it was made of."""
        text = msgspec.json.encode(recipe).decode()
        arguments = (str(self._directory), text, str(self._f16_bytes))
        times = CALIBRATED_STEPS if recipe.methods else 1
        self.step(f"quantizing ({recipe.name})", Nothing, "compress", *arguments, times=times)
        report = self.step("trying", Report, "prove", str(self._directory), str(source), *self._model.eos_tokens)
        check_report(self._model, report)
        return Converted(
            eos_token_ids=report.eos_token_ids,
            weights=report.weights,
            recipe=recipe.name,
            parameters=parameters,
        )

    def step(self, label: str, type: type[T], name: str, *arguments: str, times: int = 1) -> T:
        """Run one, which has so many times the usual time, and return its report."""
        self._progress.stage(f"{self._model.id}: {label}")
        largest = max(self._directory.parent.rglob("*"), key=lambda path: path.stat().st_size)
        return run_child(
            [*STEPS, name, "--", *arguments],
            self._model.id,
            self._progress,
            room=(self._directory, largest),
            timeout_s=times * self._timeout_s,
            type=type,
        )
