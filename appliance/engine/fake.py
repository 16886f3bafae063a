"""A pipeline without a model: deterministic, fast, shipped, for trying clients and for tests.

It answers with the last message's words, by turns, one word or character a step, forever. Sampling does not
matter to it but for max_tokens. Words in the last message steer it:
`fake:stop-after=N` ends the answer after N tokens; `fake:step-ms=N` makes steps last N ms while it runs;
`fake:bytes` gives one token a byte, so that characters come in pieces;
`fake:reject` has the prompt refused; `fake:crash` ends the process in prefill; `fake:raise` raises in a step;
`fake:wedge` never returns from a step; `fake:idle-steps` makes steps, and nothing in them;
`fake:allocate-mib=N` takes so much memory in a step, and gives it back; `fake:leak-mib=N` keeps it;
`fake:mute` has every later answer end without a token; `fake:draft-gain=N` says that drafts gain N percent.

A model that it is given (see models/fake.py) steers it too, by what its openvino_model.bin begins with:
`fake:load-crash` ends the process while it loads, `fake:load-ms=N` has it take that long;
`fake:nonsense` has it answer everything with one character; `fake:token-ms=N` makes each of its steps last N ms.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from appliance.engine.base import Ended, EngineLimits, Prompt, RequestRejected, StepOutput
from appliance.engine.ipc import Load
from appliance.types import Message, Sampling

BLOCK_TOKENS = 32
MIB = 1 << 20
WORD_MAX_CHARS = 32_768  # a step of many requests has to fit a frame
_BYTE_TOKENS = 256  # ids below are bytes, above are words
_STEER = re.compile(r"fake:([a-z-]+)(?:=(\d+))?")
MODEL_STEERING_BYTES = 256  # of a file that may be a real model's


class _Running:
    def __init__(self, prompt: Prompt, sampling: Sampling, steering: dict[str, int], ids: Iterator[int]) -> None:
        self.prompt = prompt
        self.steering = steering
        self.ids = ids
        self.limit = min(sampling.max_tokens, steering.get("stop-after", sampling.max_tokens))
        self.ends_with_stop = steering.get("stop-after", sampling.max_tokens + 1) <= sampling.max_tokens
        self.prefilled = 0
        self.produced = 0
        self.cancelled = False


class FakePipeline:
    """The Pipeline contract, kept without OpenVINO."""

    shows_prefill = True

    def __init__(self, load: Load) -> None:
        self.limits = EngineLimits(
            max_running_requests=load.max_running_requests,
            kv_blocks=load.kv_cache_tokens // BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
        )
        self._model = _model_steering(load.directory)
        time.sleep(self._model.get("load-ms", 0) / 1000)
        if "load-crash" in self._model:
            os._exit(71)
        self._batched_tokens = load.max_num_batched_tokens
        self._running: dict[int, _Running] = {}
        self._words: dict[str, int] = {}
        self._texts: list[str] = []
        self._mute = False
        self._leaked: list[bytes] = []

    def prepare(self, messages: Sequence[Message]) -> Prompt:
        """A token a word of all messages, and one for each role."""
        if "fake:reject" in messages[-1].content:
            raise RequestRejected("the fake engine was told to reject this prompt")
        tokens = sum(1 + len(message.content.split()) for message in messages)
        return Prompt(tokens=tokens, ids=messages[-1].content)

    def start(self, request_id: int, prompt: Prompt, sampling: Sampling) -> None:
        """Take the request into the following steps."""
        steering = {name: int(value or 0) for name, value in _STEER.findall(prompt.ids)}
        self._running[request_id] = _Running(prompt, sampling, steering, self._answer(prompt.ids, steering))

    def cancel(self, request_id: int) -> None:
        """Reported as ended by the next step."""
        if request_id in self._running:
            self._running[request_id].cancelled = True

    @property
    def busy(self) -> bool:
        """Whether any request runs."""
        return bool(self._running)

    def step(self) -> StepOutput:
        """Prefill of at most max_num_batched_tokens, or one token, for each running request."""
        steps_ms = [r.steering.get("step-ms", 0) for r in self._running.values()]
        time.sleep(max(*steps_ms, self._model.get("token-ms", 0), 0) / 1000)
        tokens: dict[int, list[int]] = {}
        ended: dict[int, Ended] = {}
        for request_id, running in self._running.items():
            if running.cancelled or self._mute:
                ended[request_id] = Ended("cancelled")
                continue
            tokens[request_id] = self._advance(running)
            self._mute = "mute" in running.steering
            if running.produced >= running.limit:
                ended[request_id] = Ended("stop" if running.ends_with_stop else "length")
        for request_id in ended:
            del self._running[request_id]
        used = sum(-(-(r.prefilled + r.produced) // BLOCK_TOKENS) for r in self._running.values())
        gains = [r.steering["draft-gain"] / 100 for r in self._running.values() if "draft-gain" in r.steering]
        gain = gains[0] if gains else None
        return StepOutput(tokens, ended, used / self.limits.kv_blocks, used * BLOCK_TOKENS, draft_gain=gain)

    def _advance(self, running: _Running) -> list[int]:
        if "idle-steps" in running.steering:
            return []
        if running.prefilled < running.prompt.tokens:
            running.prefilled = min(running.prompt.tokens, running.prefilled + self._batched_tokens)
            if running.prefilled < running.prompt.tokens:
                return []
        if "crash" in running.steering:
            os._exit(70)
        if "raise" in running.steering:
            raise RuntimeError("the fake engine was told to raise")
        while "wedge" in running.steering:
            time.sleep(1)
        bytes(running.steering.get("allocate-mib", 0) * MIB)
        if running.steering.get("leak-mib") and not running.produced:
            self._leaked.append(b"x" * (running.steering["leak-mib"] * MIB))
        running.produced += 1
        return [next(running.ids)]

    def _answer(self, text: str, steering: dict[str, int]) -> Iterator[int]:
        plain = _STEER.sub("", text).strip() or "nothing"
        if "nonsense" in self._model:
            return cycle([self._id("!")])
        if "bytes" in steering:
            return cycle(plain.encode() + b" ")
        return cycle([self._id(f"{word[:WORD_MAX_CHARS]} ") for word in plain.split()])

    def _id(self, word: str) -> int:
        if word not in self._words:
            self._words[word] = _BYTE_TOKENS + len(self._texts)
            self._texts.append(word)
        return self._words[word]

    def decode(self, batch: list[list[int]]) -> list[str]:
        """Words joined; runs of byte ids decoded together."""
        return [b"".join(map(self._bytes, ids)).decode(errors="replace") for ids in batch]

    def _bytes(self, token: int) -> bytes:
        return bytes([token]) if token < _BYTE_TOKENS else self._texts[token - _BYTE_TOKENS].encode()


def _model_steering(directory: str) -> dict[str, int]:
    """What the model in `directory` says; nothing where there is none."""
    try:
        with (Path(directory) / "openvino_model.bin").open("rb") as weights:
            text = weights.read(MODEL_STEERING_BYTES).decode("ascii", "replace")
    except OSError:
        return {}
    return {name: int(value or 0) for name, value in _STEER.findall(text)}


def expected_answer(text: str, tokens: int) -> str:
    """What the fake answers to a last message `text` without steering, in `tokens` tokens."""
    return "".join(f"{word} " for word in islice(cycle(text.split()), tokens))
