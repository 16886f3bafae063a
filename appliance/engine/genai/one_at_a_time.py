"""GenAI's LLMPipeline as a Pipeline: one request at a time, each on a thread of its own."""

import queue
import threading
from typing import Any

import openvino_genai as ov_genai

from appliance.engine.base import Ended, EngineLimits, Prompt, RequestRejected, StepOutput
from appliance.engine.genai.options import (
    BLOCK_TOKENS,
    FINISH,
    generation_config,
    properties,
    reason,
    scheduler_config,
)
from appliance.engine.genai.text import Text
from appliance.engine.ipc import Load
from appliance.types import Sampling

TOKEN_WAIT_S = 0.01  # how long a step waits for a token, and so how late a command is heard


class _Streamer(ov_genai.StreamerBase):  # type: ignore[misc] # no type information
    """Hands tokens from generate()'s thread to step()."""

    def __init__(self, sink: "queue.SimpleQueue[list[int]]") -> None:
        super().__init__()
        self._sink = sink
        self.cancelled = threading.Event()

    def write(self, tokens: int | list[int]) -> Any:
        self._sink.put(tokens if isinstance(tokens, list) else [tokens])
        cancelled = self.cancelled.is_set()
        return ov_genai.StreamingStatus.CANCEL if cancelled else ov_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Called twice by the paged-attention backend; the thread's own end is what counts."""


class _Generation:
    """One generate() on a thread; GenAI releases the GIL while it runs."""

    def __init__(self, request_id: int, pipeline: Any, prompt: Prompt, config: Any) -> None:
        self.request_id = request_id
        self.tokens: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.streamer = _Streamer(self.tokens)
        self.ended: Ended | None = None
        self._thread = threading.Thread(target=self._run, args=(pipeline, prompt, config), name="generate", daemon=True)
        self._thread.start()

    def _run(self, pipeline: Any, prompt: Prompt, config: Any) -> None:
        ended = Ended("cancelled")
        try:
            result = pipeline.generate(prompt.ids, config, self.streamer)
            if not self.streamer.cancelled.is_set():
                ended = Ended(FINISH.get(result.finish_reasons[0], "stop"))
        except RuntimeError as error:
            ended = Ended("cancelled", f"the engine failed: {reason(error)}")
        except Exception as error:
            ended = Ended("cancelled", f"the engine failed ({type(error).__name__})")
        self.ended = ended
        self.tokens.put([])  # wakes a waiting step()

    def take(self) -> list[int]:
        """Tokens that have come; waits for the first at most TOKEN_WAIT_S."""
        ids: list[int] = []
        try:
            ids += self.tokens.get(timeout=TOKEN_WAIT_S)
            while True:
                ids += self.tokens.get_nowait()
        except queue.Empty:
            return ids

    def join(self) -> None:
        self._thread.join()


class OneAtATime:
    """One request at a time (LLMPipeline): the simplest path. A prefill can't be cut short, and tells nothing."""

    shows_prefill = False

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline = ov_genai.LLMPipeline(
            load.directory, "CPU", scheduler_config=scheduler_config(load), **properties(load)
        )
        self._text = Text(self._pipeline.get_tokenizer())
        self.prepare, self.decode = self._text.prepare, self._text.decode
        self.limits = EngineLimits(
            max_running_requests=1, kv_blocks=load.kv_cache_tokens // BLOCK_TOKENS, block_tokens=BLOCK_TOKENS
        )
        self._current: _Generation | None = None

    def start(self, request_id: int, prompt: Prompt, sampling: Sampling) -> None:
        """Generate on a thread of its own. Raises RequestRejected while another request runs."""
        if self._current is not None:
            raise RequestRejected("the engine runs one request at a time, and one is running")
        config = generation_config(self._load, sampling)
        try:
            config.validate()
        except RuntimeError as error:
            raise RequestRejected(f"the engine refused the request: {reason(error)}") from error
        self._current = _Generation(request_id, self._pipeline, prompt, config)

    def cancel(self, request_id: int) -> None:
        """Takes effect at the next token."""
        if self._current is not None and self._current.request_id == request_id:
            self._current.streamer.cancelled.set()

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self._current is not None

    def step(self) -> StepOutput | None:
        """What generate() has brought since the last step; waits a moment for it."""
        current = self._current
        if current is None:
            return None
        over = current.ended  # read before the tokens, so that none comes after it
        ids = current.take()
        ended: dict[int, Ended] = {}
        if over is not None:
            current.join()
            ended[current.request_id] = over
            self._current = None
        if ids or ended:
            return StepOutput({current.request_id: ids}, ended, None, None)
        return None
