"""What a worker owes, and whether it gets on with it. Knows reports and a clock; knows no process and no client."""

import time
from collections.abc import Callable
from enum import Enum

from appliance.engine.ipc import CanaryAnswer, Prepared, Ready, Rejected, Report, Step

# What a prefill is allowed that can't be watched (`llm`): a tenth of what two small cores do with a 0.5B model.
SLOWEST_PREFILL_TOKENS_PER_S = 20.0
# How often the KV cache may fill without a token or an end: once to its brim, and once more after what a cancel frees.
FILLS_MAX = 2.0


class _State(Enum):
    PREPARING = "the worker owes its length"
    PREPARED = "it waits for its start; the worker owes nothing"
    RUNNING = "the worker owes tokens, or an end"


class _Request:
    def __init__(self) -> None:
        self.state = _State.PREPARING
        self.prompt_tokens = 0
        self.cancelled = False
        self.has_tokens = False


class Progress:
    """What one worker holds, and since when it has shown nothing for it.

    Progress is what only work can bring: new tokens, the end of a request, a prefill that fills the KV cache further.
    A worker that merely sends frames makes none, and a length that was told keeps no generation alive.
    """

    def __init__(self, stall_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_timeout_s
        self._clock = clock
        self._requests: dict[int, _Request] = {}
        self._generated_at = self._answered_at = clock()
        self._shows_prefill = True
        self._cache_ratio = 0.0
        self._canary_at: float | None = None  # when the canary was asked that has not been answered yet
        self._mute = False  # it was answered without a token
        self._filled = 0.0  # by how much cache use has risen since the last token or end

    def holds(self, request_id: int) -> bool:
        """Whether the worker has this request, prepared or running."""
        return request_id in self._requests

    @property
    def due(self) -> list[int]:
        """Requests that the worker owes something for, and that are lost with it; what is merely prepared is not."""
        return [number for number, request in self._requests.items() if request.state is not _State.PREPARED]

    @property
    def busy(self) -> bool:
        """Whether the worker owes anything for a request."""
        return any(request.state is not _State.PREPARED for request in self._requests.values())

    def forget_waiting(self) -> list[int]:
        """Hold what runs and nothing else, since it is prepared elsewhere; returns what is held no more."""
        waiting = [number for number, request in self._requests.items() if request.state is not _State.RUNNING]
        for number in waiting:
            del self._requests[number]
        return waiting

    def prepare(self, request_id: int) -> None:
        """The worker was asked for a prompt's length."""
        if not self._in(_State.PREPARING):
            self._answered_at = self._clock()
        self._requests[request_id] = _Request()

    def start(self, request_id: int) -> None:
        """The worker was asked to answer a prepared request."""
        if not self._in(_State.RUNNING):
            self._generated_at = self._clock()
        self._requests[request_id].state = _State.RUNNING

    def cancel(self, request_id: int) -> None:
        """The worker was told to stop; it still owes an end, or the length that it was asked for."""
        request = self._requests[request_id]
        request.cancelled = True
        if request.state is _State.PREPARED:
            del self._requests[request_id]

    def ask_canary(self) -> None:
        """The worker was asked for a token of its own."""
        self._canary_at = self._clock()

    def unproved_s(self) -> float:
        """Seconds since it last generated anything; 0 while it owes something, which proves it, or else its loss."""
        return 0.0 if self.busy or self._canary_at is not None else self._clock() - self._generated_at

    def note(self, report: Report) -> bool:
        """Take in what the worker says; False where it answers for a request that is no longer asked of it."""
        match report:
            case Ready(shows_prefill=shows_prefill):
                self._shows_prefill = shows_prefill
                self._generated_at = self._clock()
            case CanaryAnswer(tokens=tokens):
                self._canary_at = None
                self._mute = not tokens
                self._generated_at = self._clock()
            case Prepared(id=request_id, prompt_tokens=prompt_tokens):
                return self._prepared(request_id, prompt_tokens)
            case Rejected(id=request_id):
                self._answered_at = self._clock()
                return self._requests.pop(request_id, None) is not None
            case Step():
                self._step(report)
            case _:
                pass
        return True

    def _prepared(self, request_id: int, prompt_tokens: int) -> bool:
        request = self._requests.get(request_id)
        if request is None or request.state is not _State.PREPARING:
            return False
        self._answered_at = self._clock()
        if request.cancelled:
            del self._requests[request_id]
        request.state, request.prompt_tokens = _State.PREPARED, prompt_tokens
        return True

    def _step(self, step: Step) -> None:
        grown = [delta.id for delta in step.deltas if delta.tokens]
        for request_id in grown:
            if request_id in self._requests:
                self._requests[request_id].has_tokens = True
        for finish in step.finished:
            self._requests.pop(finish.id, None)
        ratio = step.stats.kv_cache_usage_ratio or 0.0
        risen, self._cache_ratio = max(0.0, ratio - self._cache_ratio), ratio
        self._filled = 0.0 if grown or step.finished else self._filled + risen
        if grown or step.finished or (risen and self._filled <= FILLS_MAX):
            self._generated_at = self._clock()

    def stalled(self) -> str | None:
        """In words, what has been due for too long; None while all is well."""
        now = self._clock()
        if self._mute:
            return "a canary was answered without a token"
        if self._canary_at is not None and now - self._canary_at > self._stall_s:
            return f"a canary was not answered for {self._stall_s:g} s (engine.stall_timeout_s)"
        if self._in(_State.RUNNING):
            unseen = self._unseen_prefill_tokens()
            allowed_s = self._stall_s + unseen / SLOWEST_PREFILL_TOKENS_PER_S
            if now - self._generated_at > allowed_s:
                prefill = f" and {unseen} prompt tokens at {SLOWEST_PREFILL_TOKENS_PER_S:g} a second" if unseen else ""
                return f"no progress for {allowed_s:g} s (engine.stall_timeout_s{prefill})"
        since = max(self._answered_at, self._generated_at)  # a prompt waits for the step under way
        if self._in(_State.PREPARING) and now - since > self._stall_s:
            return f"no prompt tokenized for {self._stall_s:g} s (engine.stall_timeout_s)"
        return None

    def _unseen_prefill_tokens(self) -> int:
        """The longest prompt that may be in a prefill which can't be watched."""
        if self._shows_prefill:
            return 0
        running = [r for r in self._requests.values() if r.state is _State.RUNNING and not r.has_tokens]
        return max((request.prompt_tokens for request in running), default=0)

    def _in(self, state: _State) -> bool:
        return any(request.state is state for request in self._requests.values())
