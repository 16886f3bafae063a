"""One question to a worker that takes no requests yet: what it says, and how fast. Knows no model, has no verdict."""

import asyncio
import time

from msgspec import Struct

from appliance.engine.ipc import Prepared, Rejected, Step
from appliance.engine.watched import WatchedWorker
from appliance.errors import ReplaceError
from appliance.types import Message, Sampling

REQUEST_ID = 0  # the dispatcher's begin with 1


class TrialAnswer(Struct, frozen=True, kw_only=True):
    """What came of one question."""

    text: str
    tokens: int
    ttft_s: float | None
    """Seconds from asking to the first token; None where none came."""
    tokens_per_s: float | None
    """After the first token; None for fewer than two."""


class Trial:
    """A warm worker that is asked before it may take over."""

    def __init__(self, worker: WatchedWorker) -> None:
        self._worker = worker
        worker.hear = self._note
        self._over = asyncio.Event()
        self._sampling: Sampling
        self._forget()

    async def ask(self, prompt: str, max_tokens: int, timeout_s: float) -> TrialAnswer:
        """Its greedy answer to one user message. Raises ReplaceError where none came in time, or the worker is lost."""
        self._forget()
        self._sampling = Sampling(max_tokens=max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
        self._asked_at = time.monotonic()
        self._worker.prepare(REQUEST_ID, [Message("user", prompt)])
        lost = asyncio.create_task(self._worker.ended.wait())
        answered = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({lost, answered}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            answered.cancel()
        if not self._over.is_set():
            raise ReplaceError(
                f"the new worker was lost: {self._worker.reason}"
                if self._worker.ended.is_set()
                else f"the canary was not answered to its end within {timeout_s:g} s ({self._tokens} tokens came)"
            )
        if self._failed is not None:
            raise ReplaceError(f"the canary failed: {self._failed}")
        return self._answer()

    def _forget(self) -> None:
        self._over.clear()
        self._text = ""
        self._tokens = 0
        self._first_tokens = 0
        self._failed: str | None = None
        self._asked_at = self._first_at = self._last_at = 0.0

    def _answer(self) -> TrialAnswer:
        spent_s, later = self._last_at - self._first_at, self._tokens - self._first_tokens
        return TrialAnswer(
            text=self._text,
            tokens=self._tokens,
            ttft_s=self._first_at - self._asked_at if self._tokens else None,
            tokens_per_s=later / spent_s if later and spent_s > 0 else None,
        )

    def _note(self, report: Step | Prepared | Rejected) -> None:
        match report:
            case Prepared():
                self._worker.start(REQUEST_ID, self._sampling)
            case Rejected(message=message):
                self._failed = message
                self._over.set()
            case Step():
                self._note_step(report)

    def _note_step(self, step: Step) -> None:
        for delta in step.deltas:
            self._text += delta.text
            if delta.tokens:
                self._last_at = time.monotonic()
                if not self._tokens:
                    self._first_at, self._first_tokens = self._last_at, delta.tokens
                self._tokens += delta.tokens
        for finish in step.finished:
            self._failed = finish.error
            self._over.set()
