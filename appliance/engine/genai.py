"""The only importer of openvino_genai: its two pipelines, and what importing a model needs of it."""

import os
import queue
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino_genai as ov_genai
import psutil

from appliance.engine.base import Ended, EngineLimits, Prompt, RequestRejected, StepOutput
from appliance.engine.ipc import Load
from appliance.types import FinishReason, Message, Sampling

BLOCK_TOKENS = 32  # of a KV block on CPU
WARM_UP_TOKENS = 4
TOKEN_WAIT_S = 0.01  # how long a step of `llm` waits for a token, and so how late a command is heard

_native = ov_genai.py_openvino_genai
_FINISH: dict[Any, FinishReason] = {
    _native.GenerationFinishReason.STOP: "stop",
    _native.GenerationFinishReason.LENGTH: "length",
    _native.GenerationFinishReason.TOOL_CALL: "tool_calls",
}


def versions() -> dict[str, str]:
    """Versions of what answers."""
    return {name: version(name) for name in ("openvino", "openvino-genai")}


def open_pipeline(load: Load) -> "ContinuousBatching | OneAtATime":
    """The pipeline that `load.pipeline` names. Raises RuntimeError with GenAI's words where it can't load."""
    return ContinuousBatching(load) if load.pipeline == "continuous_batching" else OneAtATime(load)


def _properties(load: Load) -> dict[str, Any]:
    # cgroup quotas and CPU affinity are not seen when OpenVINO sizes its thread pool, so it is told.
    cores = psutil.cpu_count(logical=False) or 1
    threads = load.threads or min(cores, len(os.sched_getaffinity(0)))
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if load.precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = load.precision
    return properties


def _scheduler(load: Load) -> ov_genai.SchedulerConfig:
    scheduler = ov_genai.SchedulerConfig()
    scheduler.num_kv_blocks = load.kv_cache_tokens // BLOCK_TOKENS
    scheduler.cache_size = 0  # whole GB only; both zero would mean growth without bound
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_batched_tokens = load.max_num_batched_tokens
    scheduler.enable_prefix_caching = True
    return scheduler


def _generation_config(load: Load, sampling: Sampling) -> ov_genai.GenerationConfig:
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = sampling.max_tokens  # unlimited by default
    config.rng_seed = sampling.seed  # 0, the same sample every time, by default
    config.repetition_penalty = sampling.repetition_penalty
    if load.eos_token_ids:
        config.eos_token_id = load.eos_token_ids[0]
        config.stop_token_ids = set(load.eos_token_ids)
    if sampling.temperature > 0:
        config.do_sample = True
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
    return config


class _Text:
    """Template, tokenizer and detokenizer, which both pipelines share."""

    def __init__(self, tokenizer: ov_genai.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def prepare(self, messages: Sequence[Message]) -> Prompt:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, True)
            # The template has written the special tokens itself.
            ids = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        except RuntimeError as error:
            raise RequestRejected(f"the model's chat template refused the messages: {_reason(error)}") from error
        return Prompt(tokens=ids.shape[1], ids=ids)

    def decode(self, batch: list[list[int]]) -> list[str]:
        return list(self._tokenizer.decode(batch))


def _reason(error: RuntimeError) -> str:
    """GenAI's message without its source path."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


class ContinuousBatching:
    """Many requests share each step (ContinuousBatchingPipeline); step() holds the GIL."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline = ov_genai.ContinuousBatchingPipeline(load.directory, _scheduler(load), "CPU", _properties(load))
        self._text = _Text(self._pipeline.get_tokenizer())
        self.prepare, self.decode = self._text.prepare, self._text.decode
        self.limits = EngineLimits(
            max_running_requests=load.max_running_requests,
            kv_blocks=load.kv_cache_tokens // BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
        )
        self._handles: dict[int, Any] = {}
        self._cancelled: set[int] = set()
        self._settling = 0

    def warm_up(self) -> None:
        """A first step compiles lazily and takes over a second."""
        _warm_up(self)

    def start(self, request_id: int, prompt: Prompt, sampling: Sampling) -> None:
        """Add the request to the scheduler."""
        try:
            config = _generation_config(self._load, sampling)
            self._handles[request_id] = self._pipeline.add_request(request_id, prompt.ids, config)
        except RuntimeError as error:
            raise RequestRejected(f"the engine refused the request: {_reason(error)}") from error

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
        self._pipeline.step()
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
        return StepOutput(tokens, ended, metrics.cache_usage / 100, metrics.cache_size_in_bytes)

    @staticmethod
    def _read(handle: Any, ids: list[int]) -> Ended | None:
        end = None
        while handle.can_read():
            for output in handle.read().values():
                ids += output.generated_ids
                reason = _FINISH.get(output.finish_reason)
                end = Ended(reason) if reason else end
        status = handle.get_status()
        if status == _native.GenerationStatus.IGNORED:
            return Ended("cancelled", "the engine had no room in its KV cache for this request")
        if end is None and status != _native.GenerationStatus.RUNNING:
            return Ended("cancelled", f"the engine ended the request as {status.name}")
        return end


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
        self._thread = threading.Thread(target=self._run, args=(pipeline, prompt, config), name="generate")
        self._thread.start()

    def _run(self, pipeline: Any, prompt: Prompt, config: Any) -> None:
        ended = Ended("cancelled")
        try:
            result = pipeline.generate(prompt.ids, config, self.streamer)
            if not self.streamer.cancelled.is_set():
                ended = Ended(_FINISH.get(result.finish_reasons[0], "stop"))
        except RuntimeError as error:
            ended = Ended("cancelled", f"the engine failed: {_reason(error)}")
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
    """One request at a time (LLMPipeline): the simplest path. A prefill can't be cut short."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline = ov_genai.LLMPipeline(
            load.directory, "CPU", scheduler_config=_scheduler(load), **_properties(load)
        )
        self._text = _Text(self._pipeline.get_tokenizer())
        self.prepare, self.decode = self._text.prepare, self._text.decode
        self.limits = EngineLimits(
            max_running_requests=1, kv_blocks=load.kv_cache_tokens // BLOCK_TOKENS, block_tokens=BLOCK_TOKENS
        )
        self._current: _Generation | None = None

    def warm_up(self) -> None:
        """A first generate() compiles lazily and takes over a second."""
        _warm_up(self)

    def start(self, request_id: int, prompt: Prompt, sampling: Sampling) -> None:
        """Generate on a thread of its own. Raises RequestRejected while another request runs."""
        if self._current is not None:
            raise RequestRejected("the engine runs one request at a time, and one is running")
        config = _generation_config(self._load, sampling)
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
        return StepOutput({current.request_id: ids}, ended, None, None) if ids or ended else None


def _warm_up(pipeline: ContinuousBatching | OneAtATime) -> None:
    sampling = Sampling(max_tokens=WARM_UP_TOKENS, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
    pipeline.start(0, pipeline.prepare([Message("user", "Hello")]), sampling)
    produced = 0
    while pipeline.busy:
        output = pipeline.step()
        produced += len(output.tokens.get(0, ())) if output else 0
    if not produced:
        raise RuntimeError("the warm-up produced no token")


def convert_gguf(gguf: Path, directory: Path) -> None:
    """Write the OpenVINO IR and both tokenizers of `gguf` into `directory`, quantized as the file is.

    GenAI writes beside the file it reads, so the file is linked into `directory` for as long as that takes.
    Raises RuntimeError with GenAI's own words; on a full disk those are "basic_ios::clear: iostream error".
    """
    link = directory / gguf.name
    link.symlink_to(gguf.resolve())
    try:
        ov_genai.LLMPipeline(link, "CPU", enable_save_ov_model=True)
    finally:
        link.unlink()


def probe(directory: Path, eos_tokens: list[str], tokens: int = 8) -> dict[str, object]:
    """Load the IR in `directory` and generate, as proof that the files work together.

    Returns eos_token_ids (those of `eos_tokens` that the vocabulary has, and the tokenizer's own),
    chat_template (bool) and text (the greedy answer). Raises RuntimeError with GenAI's own words.
    """
    pipeline = ov_genai.LLMPipeline(directory, "CPU")
    tokenizer = pipeline.get_tokenizer()
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[token.encode()] for token in eos_tokens if token.encode() in vocabulary}
    own = tokenizer.get_eos_token_id()
    if own >= 0:
        ids.add(own)
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = tokens
    answer = str(pipeline.generate("Hello", config))
    return {"eos_token_ids": sorted(ids), "chat_template": bool(tokenizer.chat_template), "text": answer}
