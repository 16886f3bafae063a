"""What one run found, as it is kept in JSON. Knows no contender but by name, and judges nothing."""

from datetime import datetime

from msgspec import Struct, field

from appliance.bench.host import Host
from appliance.bench.samples import Level, Sample
from benchmarks.cells import Cell
from benchmarks.processes import Use

SCHEMA = 1


class Round(Struct, kw_only=True):
    """A cell once, on each contender in turn; all got the same prompts."""

    levels: dict[str, Level] = field(default_factory=dict)
    """By contender."""
    prompt_tokens: dict[str, list[int]] = field(default_factory=dict)
    """Shortest and longest prompt, by contender, as each counts."""
    front: Use | None = None
    """What the daemon's front process took for its level."""


class CellResult(Struct, kw_only=True):
    """All rounds of a cell."""

    cell: Cell
    rounds: list[Round]


class ChatRun(Struct, kw_only=True):
    """A conversation, and fresh ones beside it whose whole prompt is as long as what its last turn added."""

    contender: str
    turns: list[Sample]
    new_tokens: int
    """Of the last turn's prompt, that the prompt before had not: an answer and a question."""
    question_tokens: int
    """Of these, those that had never been computed."""
    fresh: Level
    """Chats of `new_tokens`."""
    fresh_question: Level
    """Chats as short as `question_tokens`, or the shortest that there are."""


class PrefillRun(Struct, frozen=True, kw_only=True):
    """A long prompt of one client beside another's stream."""

    max_num_batched_tokens: int
    prompt_tokens: int
    stall_ms: float
    """The stream's largest gap between tokens while the prompt was computed."""
    gap_before_ms: float
    """Its median gap before that."""
    ttft_ms: float
    """Of the long prompt."""


class LlamaMethod(Struct, frozen=True, kw_only=True):
    """How llama.cpp was built and run."""

    package: str
    flags: list[str]
    compiler: str
    options: dict[str, list[str]]
    """By contender, besides the model, slots, context and threads."""


class Method(Struct, frozen=True, kw_only=True):
    """What was compared, exactly."""

    gguf: str
    gguf_sha256: str
    model_digest: str
    quantization: str
    threads: int
    isa_cap: str
    engine: dict[str, object]
    """The daemon's engine settings."""
    llama: LlamaMethod | None
    seed: int
    commit: str | None
    """Of this repository; None outside a checkout."""


class Verdict(Struct, frozen=True, kw_only=True):
    """One target, and what became of it."""

    name: str
    sense: str
    """`at least` or `at most`."""
    bound: float
    unit: str
    """Empty for a ratio."""
    rounds: list[float]
    """The figure of each round."""
    median: float | None
    """None where it was not measured."""
    met: bool | None


class Results(Struct, kw_only=True):
    """One run of the benchmark."""

    schema: int = SCHEMA
    began_at: datetime
    wall_s: float = 0.0
    host: Host
    method: Method
    cells: list[CellResult] = field(default_factory=list)
    chats: list[ChatRun] = field(default_factory=list)
    prefills: list[PrefillRun] = field(default_factory=list)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """Resident after the KV cache was used from end to end, of the daemon's `front` and `worker`."""
    verdicts: list[Verdict] = field(default_factory=list)

    def cell(self, name: str) -> CellResult | None:
        """The cell of that name; None where it was not run."""
        return next((result for result in self.cells if result.cell.name == name), None)
