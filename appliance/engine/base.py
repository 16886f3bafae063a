"""The engine contracts. Knows text and token counts; knows nothing of sockets, queues or OpenVINO.

`Engine` is what the front process uses; `Pipeline` is what runs inside the worker behind it.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from appliance.engine.ipc import Ready, Step
from appliance.types import FinishReason, Message, Sampling

EngineState = Literal["loading", "warming", "ready", "restarting", "stalled", "stopped"]


class EngineLimits(Struct, frozen=True, kw_only=True):
    """What the engine can hold, for admission."""

    max_running_requests: int
    kv_blocks: int
    block_tokens: int


def limits_of(ready: Ready) -> EngineLimits:
    """What a worker said that it can hold."""
    return EngineLimits(
        max_running_requests=ready.max_running_requests, kv_blocks=ready.kv_blocks, block_tokens=ready.block_tokens
    )


class EngineListener(Protocol):
    """Told of everything that the engine does, from the event loop, in order."""

    def engine_ready(self, limits: EngineLimits) -> None:
        """A worker has warmed up and takes requests from now on; those that wait are to be prepared on it."""

    def engine_away(self) -> None:
        """No worker takes requests until the next `engine_ready`. What runs goes on running, what waits waits."""

    def prompt_prepared(self, request_id: int, prompt_tokens: int) -> None:
        """Answers `prepare`."""

    def request_rejected(self, request_id: int, message: str) -> None:
        """Ends a request that was prepared or started."""

    def step_done(self, step: Step) -> None:
        """Deltas and ends of started requests."""

    def requests_lost(self, request_ids: Sequence[int], retry_after_s: float) -> None:
        """A worker is gone, and with it these, which it prepared or ran. A stop that was asked for is no loss."""


class Engine(Protocol):
    """A supervised engine. Calls never block; what they lead to comes through the listener.

    Between `engine_away` and the next `engine_ready`, `prepare` and `start` are allowed and have no effect.
    """

    @property
    def state(self) -> EngineState:
        """What it is doing now."""

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        """Have a prompt rendered and tokenized; `request_id` is new."""

    def start(self, request_id: int, sampling: Sampling) -> None:
        """Generate for a prepared request."""

    def cancel(self, request_id: int) -> None:
        """Stop a started request (its end is reported), or forget a prepared one (nothing is reported)."""


class Prompt(Struct, frozen=True):
    """A tokenized prompt, in whatever form its pipeline wants it back."""

    tokens: int
    ids: Any
    kind: str = "free"
    """What drafts expect of it, see drafts.kind_of."""


class Ended(Struct, frozen=True):
    """Why a pipeline stopped generating; its KV blocks are free."""

    reason: FinishReason
    error: str | None = None


class StepOutput(Struct, frozen=True):
    """What one step brought: new token ids by request, and ends."""

    tokens: dict[int, list[int]]
    ended: dict[int, Ended]
    kv_cache_usage_ratio: float | None
    """0 to 1; None where the pipeline can't tell."""
    kv_cache_bytes: int | None
    drafted: int = 0
    """Tokens drafted from prompts in this step."""
    drafted_right: int = 0
    """Those of them that were right: tokens that took no step of their own."""
    draft_gain: float | None = None
    """See Drafts.gain; None where nobody watches."""


class RequestRejected(Exception):
    """The pipeline can't take this request; others are unharmed. The text is safe to send to the client."""


class Pipeline(Protocol):
    """Prompts in, token ids out, one step at a time, on one thread. Text is made of the ids outside it."""

    limits: EngineLimits
    shows_prefill: bool
    """Whether kv_cache_usage_ratio grows while a prompt is computed, so that a slow prefill is told from a stall."""

    def prepare(self, messages: Sequence[Message]) -> Prompt:
        """Render the chat template and tokenize. Raises RequestRejected."""

    def start(self, request_id: int, prompt: Prompt, sampling: Sampling) -> None:
        """Take the request into the following steps. Raises RequestRejected."""

    def cancel(self, request_id: int) -> None:
        """Stop a started request; a later step reports it as ended."""

    @property
    def busy(self) -> bool:
        """Whether step() has something to do."""

    def step(self) -> StepOutput | None:
        """Compute once for all running requests; None where nothing has come of it."""

    def decode(self, batch: list[list[int]]) -> list[str]:
        """The text of each list of ids, special tokens left out, incomplete characters as U+FFFD."""
