"""One measurement: GGUF files to IR, comparisons in children, speed through workers. Computes nothing itself."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from appliance.config import EngineSettings
from appliance.models.children import run_until_terminated
from appliance.models.errors import MB, DiskFull, ImportFailed, ModelError
from appliance.models.gguf.header import read_header
from appliance.models.importers.gguf import run_child
from appliance.models.importers.unquantized import convert_f16
from appliance.models.measuring.artefacts import Artefact, Weights, weights_of_gguf, weights_of_ir
from appliance.models.measuring.child import Found, Model, Order, Report
from appliance.models.measuring.figures import Measured, Measurement, ReferenceRecord, Speed, TextRecord
from appliance.models.measuring.room import BASE_BYTES, groups_of, memory_bytes
from appliance.models.measuring.speed import ANSWER_TOKENS, ANSWERS, ROUNDS, measure_speed
from appliance.models.measuring.tokens import MOST_TOKENS
from appliance.models.progress import Progress
from appliance.models.texts import Sample
from appliance.observability.memory import available_memory_bytes

CHILD = ("-m", "appliance.models.measuring.child")
TIMEOUT_S = 6 * 3600.0  # whatever the text and the machine; who waits sees how far it is
MOST_NAMES = 3  # in the line that tells how far it is
GUARD_BYTES = 2_000 * MB  # above what a comparison should take: libraries, and a stack for each core of a large builder


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure."""

    reference: Artefact
    artefacts: Sequence[Artefact]
    samples: Sequence[Sample]
    text_file: str
    """For people."""
    engine: EngineSettings
    speed: bool


class NotMeasured(ModelError):
    """The reference or an artefact could not be read, or they can't be compared; the text names them."""


class _Ready(Struct, frozen=True):
    """An artefact whose IR is there."""

    artefact: Artefact
    directory: Path
    weights: Weights

    @property
    def memory_bytes(self) -> int:
        integers = self.artefact.source != "gguf" and bool(self.weights.integer_types)
        return memory_bytes(self.directory, integers=integers)


def measure(plan: Plan, scratch: Path, progress: Progress) -> Measurement:
    """Measure, with what is needed for a while below `scratch`.

    Raises ImportFailed for a GGUF file that can't be read, NotMeasured, TooLittleMemory, DiskFull, SpeedNotMeasured.
    """
    with _full_disk_told(scratch):
        samples = b"".join(msgspec.json.encode(sample) + b"\n" for sample in plan.samples)
        (scratch / "samples.jsonl").write_bytes(samples)
        reference, *ready = _made_ready([plan.reference, *plan.artefacts], scratch, progress)
        found, cut = _compared(reference, ready, scratch, progress)
    speeds = _speeds(ready, plan, progress)
    positions = found[0].quality.positions
    return Measurement(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reference=_record(reference),
        text=TextRecord(
            file=plan.text_file,
            sha256=hashlib.sha256(samples).hexdigest(),
            samples=len(plan.samples),
            positions=positions,
            cut=cut,
        ),
        artefacts=[
            Measured(
                name=one.artefact.name,
                source=one.artefact.source,
                path=str(one.artefact.path),
                digest=one.artefact.digest,
                weights=one.weights.described,
                weights_read_bytes=one.weights.read_bytes,
                quality=figures.quality,
                parts=figures.parts,
                speed=speed,
            )
            for one, figures, speed in zip(ready, found, speeds, strict=True)
        ],
        how=_how(plan),
        notes=notes_of(reference.artefact, reference.weights, cut),
    )


def notes_of(reference: Artefact, weights: Weights, cut: int) -> list[str]:
    """What a reader must know."""
    notes = []
    if weights.integer_types and reference.source == "gguf":
        notes.append(
            f"the reference is itself dequantized: {reference.name} holds {', '.join(weights.integer_types)}, so "
            "distances are those to that file's weights, not to the original model's, and an artefact on the same "
            "grid is at an advantage"
        )
    elif weights.integer_types:
        notes.append(f"the reference {reference.name} is itself quantized: {weights.described}")
    if cut:
        notes.append(f"{cut} samples are longer than {MOST_TOKENS} tokens, and were read so far only")
    return notes


def _made_ready(artefacts: Sequence[Artefact], scratch: Path, progress: Progress) -> list[_Ready]:
    """Each with an IR; a file that is named twice, as reference too, is made into one once."""
    made: dict[Path, _Ready] = {}
    for number, artefact in enumerate(artefacts):
        place = artefact.path.resolve()
        if place not in made:
            made[place] = _with_ir(artefact, scratch / str(number), progress)
    return [
        _Ready(artefact, made[place].directory, made[place].weights)
        for artefact in artefacts
        for place in [artefact.path.resolve()]
    ]


def _with_ir(artefact: Artefact, scratch: Path, progress: Progress) -> _Ready:
    if artefact.source != "gguf":
        return _Ready(artefact, artefact.path, weights_of_ir(artefact.path))
    directory = scratch / "model"
    directory.mkdir(parents=True)
    types = convert_f16(artefact.path, directory, artefact.name, progress)
    return _Ready(artefact, directory, weights_of_gguf(read_header(artefact.path), types))


def _compared(reference: _Ready, ready: Sequence[_Ready], scratch: Path, progress: Progress) -> tuple[list[Found], int]:
    """Figures of all, and how many samples were cut."""
    needed = [one.memory_bytes for one in ready]
    found: list[Found] = []
    cut = 0
    for group in groups_of(reference.memory_bytes, needed, available_memory_bytes()):
        order = Order(
            reference=_model(reference),
            artefacts=[_model(ready[number]) for number in group],
            samples=str(scratch / "samples.jsonl"),
            threads=_threads(),
            memory_bytes=GUARD_BYTES + BASE_BYTES + reference.memory_bytes + sum(needed[number] for number in group),
        )
        file = scratch / "order.json"
        file.write_bytes(msgspec.json.encode(order))
        names = ", ".join(model.name for model in order.artefacts)
        if len(group) > MOST_NAMES:
            names = f"{len(group)} artefacts"
        progress.stage(f"{names}: loading")
        progress.count(0, 1)  # not bytes
        report = _report(file, names, progress)
        found += report.found
        cut = report.cut
    return found, cut


def _report(order: Path, names: str, progress: Progress) -> Report:
    arguments = [*CHILD, str(order)]
    try:
        return run_child(arguments, names, progress, room=(order.parent, order), timeout_s=TIMEOUT_S, type=Report)
    except ImportFailed as error:
        raise NotMeasured(str(error).replace("the conversion", "the comparison")) from None


def _speeds(ready: Sequence[_Ready], plan: Plan, progress: Progress) -> list[Speed | None]:
    """Of those that can be served; None for GGUF files, and for all where no speed is wanted."""
    served = [one for one in ready if one.artefact.source != "gguf"]
    if not plan.speed or not served:
        return [None] * len(ready)
    progress.stage("measuring speed")
    progress.count(0, 1)
    # The fake answers whatever the artefact: not what is asked for here.
    engine = replace(plan.engine, pipeline="continuous_batching") if plan.engine.pipeline == "fake" else plan.engine
    speeds = iter(run_until_terminated(measure_speed([one.directory for one in served], engine, progress.count)))
    return [None if one.artefact.source == "gguf" else next(speeds) for one in ready]


def _record(reference: _Ready) -> ReferenceRecord:
    return ReferenceRecord(
        name=reference.artefact.name,
        source=reference.artefact.source,
        path=str(reference.artefact.path),
        weights=reference.weights.described,
        dequantized_from=reference.weights.integer_types,
    )


def _how(plan: Plan) -> dict[str, str]:
    how = {
        "reference": "OpenVINO on the CPU in f32, with an f32 KV cache and activations that are not quantized",
        "artefacts": "OpenVINO on the CPU in f32, else as it computes by itself: u8 KV cache, quantized activations "
        "where the weights are integers",
        "positions": "all of a text after its first token; of a conversation the answers, ends included",
        "mean KL": "KL(reference ‖ artefact) of next-token distributions, nats a token, all positions alike; "
        "± is its standard error with samples as independent draws",
    }
    if plan.speed:
        engine = plan.engine
        how["speed"] = (
            f"{ROUNDS} rounds of {ANSWERS} answers of {ANSWER_TOKENS} tokens, one stream, interleaved; medians; "
            f"engine.threads {engine.threads}, engine.precision {engine.precision}, "
            f"engine.max_num_batched_tokens {engine.max_num_batched_tokens}"
        )
    return how


def _model(one: _Ready) -> Model:
    return Model(one.artefact.name, str(one.directory.absolute()))


def _threads() -> int:
    return min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))


@contextmanager
def _full_disk_told(scratch: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(scratch).free
        raise DiskFull(scratch, 0, free) from None
