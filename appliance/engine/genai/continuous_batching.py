"""GenAI's ContinuousBatchingPipeline as a Pipeline: many requests share each step; step() holds the GIL."""

import time
from typing import Any

import openvino_genai as ov_genai
from msgspec.structs import replace

from appliance.engine.base import Ended, EngineLimits, Prompt, RequestRejected, StepOutput
from appliance.engine.drafts import Drafts
from appliance.engine.genai.options import (
    BLOCK_TOKENS,
    FINISH,
    generation_config,
    native,
    properties,
    reason,
    scheduler_config,
)
from appliance.engine.genai.text import Text
from appliance.engine.ipc import Load
from appliance.engine.ngram import NGRAM_MAX_TOKENS
from appliance.types import Sampling


class ContinuousBatching:
    """Many requests share each step (ContinuousBatchingPipeline); step() holds the GIL."""

    shows_prefill = True

    def __init__(self, load: Load) -> None:
        self._load = load
        lookup = {"prompt_lookup": True} if load.prompt_lookup else {}
        self._pipeline = ov_genai.ContinuousBatchingPipeline(
            load.directory, scheduler_config(load), "CPU", {**properties(load), **lookup}
        )
        watched = load.prompt_lookup or load.watch_drafts
        self._drafts = Drafts(drafting=load.prompt_lookup) if watched else None
        self._text = Text(self._pipeline.get_tokenizer())
        self.prepare, self.decode = self._text.prepare, self._text.decode
        self.limits = EngineLimits(
            max_running_requests=load.max_running_requests,
            kv_blocks=load.kv_cache_tokens // BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
        )
        self._handles: dict[int, Any] = {}
        self._cancelled: set[int] = set()
        self._settling = 0

    def start(self, request_id: int, prompt: Prompt, sampling: Sampling) -> None:
        """Add the request to the scheduler."""
        try:
            config = generation_config(self._load, sampling)
            if self._drafts is not None:
                ids = prompt.ids.data[0].tolist()
                drafted = self._drafts.start(request_id, prompt.kind, sampling.temperature, ids)
                if drafted:  # a pipeline that can't draft refuses either value
                    config.num_assistant_tokens, config.max_ngram_size = drafted, NGRAM_MAX_TOKENS
            self._handles[request_id] = self._pipeline.add_request(request_id, prompt.ids, config)
        except RuntimeError as error:
            raise RequestRejected(f"the engine refused the request: {reason(error)}") from error

    def cancel(self, request_id: int) -> None:
        """Marked now; its blocks are free, and its end reported, after the next step."""
        if request_id in self._handles and request_id not in self._cancelled:
            self._handles[request_id].cancel()
            self._cancelled.add(request_id)

    @property
    def busy(self) -> bool:
        """Also while cache use, which is only refreshed in step(), has not yet settled."""
        return bool(self._handles) or self._settling > 0

    def step(self) -> StepOutput:
        """One scheduler step."""
        begun = time.perf_counter()
        self._pipeline.step()
        step_s = time.perf_counter() - begun
        tokens: dict[int, list[int]] = {}
        ended: dict[int, Ended] = {}
        for request_id, handle in self._handles.items():
            if request_id in self._cancelled:
                ended[request_id] = Ended("cancelled")  # read() raises after cancel()
                continue
            end = self._read(handle, tokens.setdefault(request_id, []))
            if end is not None:
                ended[request_id] = end
        for request_id in ended:
            del self._handles[request_id]
        self._cancelled -= ended.keys()
        self._settling = 2 if self._handles else max(0, self._settling - 1)
        metrics = self._pipeline.get_metrics()
        output = StepOutput(tokens, ended, metrics.cache_usage / 100, metrics.cache_size_in_bytes)
        if self._drafts is None:
            return output
        drafted, right = self._drafts.step(tokens, ended, step_s)
        return replace(output, drafted=drafted, drafted_right=right, draft_gain=self._drafts.gain)

    @staticmethod
    def _read(handle: Any, ids: list[int]) -> Ended | None:
        end = None
        while handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                reason = FINISH.get(output.finish_reason)
                end = Ended(reason) if reason else end
        status = handle.get_status()
        if status == native.GenerationStatus.IGNORED:
            return Ended("cancelled", "the engine had no room in its KV cache for this request")
        if end is None and status != native.GenerationStatus.RUNNING:
            return Ended("cancelled", f"the engine ended the request as {status.name}")
        return end
