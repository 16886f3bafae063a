"""What layers exchange: messages, sampling, usage, timings. Knows no wire format and no engine."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled", "tool_calls"]
AnswerSource = Literal["model", "faq", "cache", "fallback"]

ROLES: frozenset[str] = frozenset({"system", "user", "assistant"})


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation; `role` is one of ROLES once a request has been validated."""

    role: str
    content: str


class Sampling(Struct, frozen=True, kw_only=True):
    """How one answer is sampled, complete: every default has been filled in."""

    max_tokens: int
    """Upper bound of completion tokens, >= 1; lowered at admission where prompt + answer would not fit the context."""
    temperature: float
    """0 means greedy."""
    top_p: float
    top_k: int
    """0 means no limit."""
    repetition_penalty: float
    seed: int
    """0 to 2**63 - 1."""
    stop: tuple[str, ...] = ()


class ChatRequest(Struct, frozen=True, kw_only=True):
    """A validated request, ready for dispatch."""

    client: str
    """Whom fairness and bounds count for: the peer's address."""
    messages: Sequence[Message]
    sampling: Sampling
    deadline_s: float
    """Seconds from arrival after which the request fails with deadline_exceeded."""


class Usage(Struct, frozen=True):
    """Token counts as the engine reported them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    """None: the engine can't tell."""


class Timings(Struct, frozen=True):
    """Milliseconds, measured from the request's arrival at the front process."""

    queue_ms: float
    ttft_ms: float | None
    """None where no text was produced."""
    tpot_ms: float | None
    """Mean time per output token after the first; None for fewer than two tokens."""
    total_ms: float


class EngineStats(Struct, frozen=True, array_like=True):
    """What the engine says of itself after a step."""

    step_s: float
    running: int
    kv_cache_usage_ratio: float | None
    """0 to 1; None where the pipeline can't tell."""
    kv_cache_bytes: int | None
    rss_bytes: int
    drafted: int = 0
    """Tokens drafted from prompts in this step."""
    drafted_right: int = 0
    """Those of them that were right: tokens that took no step of their own."""
    draft_gain: float | None = None
    """Tokens a second with drafts over that without, for the load of the last seconds; None where nobody watches."""


class GenerationDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling where a request does not say; from the model's manifest."""

    temperature: Annotated[float, Meta(ge=0, le=2)]
    top_p: Annotated[float, Meta(gt=0, le=1)]
    top_k: Annotated[int, Meta(ge=0)]
    """0 means no limit."""
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)]


class ServedModel(Struct, frozen=True, kw_only=True):
    """The model that a daemon answers with."""

    id: str
    digest: str
    directory: str
    context_tokens: int
    eos_token_ids: list[int]
    generation: GenerationDefaults
    quantization: str
    weights_bytes: int | None = None
    """Of openvino_model.bin; None where there is none."""
    weights_read_bytes: int | None = None
    """Of these, what is read for each token; None where it can't be known."""
