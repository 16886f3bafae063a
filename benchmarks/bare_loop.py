"""GenAI's pipeline with nothing around it, in a process of its own: what the daemon is measured against.

The same model, scheduler and sampling as the appliance's worker, by its own functions; N clients in a closed loop on
one thread, no text made of the tokens, times taken right after step(). Orders come on standard input, samples go to
standard output, a JSON line each.

    python -m benchmarks.bare_loop SETTINGS.toml MODEL
"""

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import openvino_genai as ov_genai
from msgspec import Struct

from appliance.api.state import engine_load
from appliance.bench.samples import Sample
from appliance.bench.workload import CHAT_TURNS, Workload, messages, sampling_seed
from appliance.config import load as load_settings
from appliance.config.paths import store_directory
from appliance.engine.genai.options import FINISH, generation_config, properties, scheduler_config
from appliance.engine.genai.text import Text
from appliance.engine.ipc import Load
from appliance.models.served import served_model
from appliance.models.store import Store
from appliance.types import Message, Sampling

WARM_UP_TOKENS = 4


class Order(Struct, frozen=True, kw_only=True):
    """One level to run; the first line that comes back after the start is `ready`."""

    workload: Workload
    concurrency: int
    requests: int
    """Of each client."""


class Ready(Struct, frozen=True, tag="ready"):
    """The pipeline is warm."""


class BareLoop:
    """One pipeline; levels one after another."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pipeline = ov_genai.ContinuousBatchingPipeline(
            load.directory, scheduler_config(load), "CPU", properties(load)
        )
        self._text = Text(self._pipeline.get_tokenizer())
        self._ids = 0

    def warm_up(self) -> None:
        """The first answer compiles lazily."""
        request = self.start([Message("user", "Hello")], WARM_UP_TOKENS, 0)
        while request.outcome is None:
            self._pipeline.step()
            request.read(time.perf_counter())

    def run(self, order: Order) -> list[Sample]:
        """The samples of a level, in order of their end."""
        began = time.perf_counter()
        clients = [_Client(self, order, number, began) for number in range(order.concurrency)]
        live = clients
        for client in clients:
            client.ask(began)
        while live:
            self._pipeline.step()
            now = time.perf_counter()
            for client in live:
                client.after_step(now)
            live = [client for client in live if client.request is not None]
        return sorted((sample for client in clients for sample in client.samples), key=lambda sample: sample.began_s)

    def start(self, turns: list[Message], max_tokens: int, seed: int) -> "_Request":
        """Add a greedy request to the scheduler."""
        prompt = self._text.prepare(turns)
        sampling = Sampling(
            max_tokens=max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=seed, stop=()
        )
        self._ids += 1
        handle = self._pipeline.add_request(self._ids, prompt.ids, generation_config(self._load, sampling))
        return _Request(handle, prompt.tokens)

    def decode(self, ids: list[int]) -> str:
        """The text of an answer."""
        return self._text.decode([ids])[0]


class _Request:
    """One request in the scheduler, and when its tokens came."""

    def __init__(self, handle: Any, prompt_tokens: int) -> None:
        self._handle = handle
        self.prompt_tokens = prompt_tokens
        self.ids: list[int] = []
        self.arrivals: list[float] = []
        self.outcome: str | None = None

    def read(self, now: float) -> None:
        """What the last step brought."""
        known = len(self.ids)
        while self._handle.can_read():
            for output in self._handle.read().values():
                self.ids += output.generated_ids
                self.outcome = FINISH.get(output.finish_reason) or self.outcome
        if len(self.ids) > known:
            self.arrivals.append(now)
        status = self._handle.get_status().name
        if self.outcome is None and status != "RUNNING":
            self.outcome = status.lower()


class _Client:
    """One client of the closed loop; asks again in the moment in which it is answered."""

    def __init__(self, loop: BareLoop, order: Order, number: int, began: float) -> None:
        self.samples: list[Sample] = []
        self.request: _Request | None = None
        self._loop = loop
        self._order = order
        self._number = number
        self._began = began
        self._asked = began
        self._turn = 0
        self._answers: list[str] = []

    def ask(self, now: float) -> None:
        workload = self._order.workload
        if self._turn % CHAT_TURNS == 0:
            self._answers = []
        self._asked = now
        turns = messages(workload, self._number, self._turn, self._answers)
        seed = sampling_seed(workload, self._number, self._turn)
        self.request = self._loop.start(turns, workload.output_tokens, seed)

    def after_step(self, now: float) -> None:
        request = self.request
        if request is None:
            return
        request.read(now)
        if request.outcome is None:
            return
        self.samples.append(self._sample(request, request.outcome, now))
        self.request = None
        self._answers.append(self._loop.decode(request.ids) if self._order.workload.kind == "chat" else "")
        self._turn += 1
        if self._turn < self._order.requests:
            self.ask(now)

    def _sample(self, request: _Request, outcome: str, now: float) -> Sample:
        arrivals = request.arrivals
        return Sample(
            client=self._number,
            turn=self._turn,
            began_s=self._asked - self._began,
            ttft_ms=(arrivals[0] - self._asked) * 1000 if arrivals else None,
            gaps_ms=[(after - before) * 1000 for before, after in itertools.pairwise(arrivals)],
            total_ms=(now - self._asked) * 1000,
            tokens=len(request.ids),
            prompt_tokens=request.prompt_tokens,
            outcome=outcome,
        )


def main() -> None:
    """Serve orders until end of file."""
    # What native code prints must not end up among the samples.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings = load_settings(Path(sys.argv[1])).settings
    installed = Store(store_directory(settings.models.directory)).choose([sys.argv[2]])
    load = engine_load(settings, served_model(installed))
    loop = BareLoop(load)
    loop.warm_up()
    _reply(replies, Ready())
    decoder = msgspec.json.Decoder(Order)
    for line in sys.stdin.buffer:
        _reply(replies, loop.run(decoder.decode(line)))
    os._exit(0)  # as the appliance's worker does: no native thread is waited for


def _reply(replies: BinaryIO, what: Ready | list[Sample]) -> None:
    replies.write(msgspec.json.encode(what) + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
