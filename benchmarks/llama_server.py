"""llama.cpp's own server as a process, and one client of it. Knows its HTTP interface and flags; builds nothing."""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec
from msgspec import Struct

from appliance.bench.target import Ending, TargetError
from appliance.types import Message
from benchmarks.llama_build import LlamaCpp
from benchmarks.processes import Child, free_port, serving

READY_TIMEOUT_S = 120.0
SLOT_TOKENS = 2048  # of context for each slot: more than any prompt and answer of the cells
EVENT = b"data: "
END = b"[DONE]"


class Variant(Struct, frozen=True, kw_only=True):
    """One way to run the server."""

    name: str
    model: Path
    options: tuple[str, ...] = ()


@contextlib.asynccontextmanager
async def llama_server(build: LlamaCpp, variant: Variant, slots: int, threads: int, log: Path) -> AsyncIterator[Child]:
    """A server with `slots` requests at once, for as long as the block lasts. Raises BenchmarkError."""
    port = free_port()
    command: list[str | Path] = [build.server, "--model", variant.model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--parallel", str(slots), "--ctx-size", str(slots * SLOT_TOKENS)]
    command += ["--threads", str(threads), "--threads-batch", str(threads), "--offline", "--no-webui"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    async with serving(
        [*command, *variant.options],
        port=port,
        health_path="/health",
        environment=environment,
        log=log,
        timeout_s=READY_TIMEOUT_S,
    ) as child:
        yield child


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta
    finish_reason: Literal["stop", "length"] | None = None


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_chunk_decoder = msgspec.json.Decoder(_Chunk)


class LlamaTarget:
    """One client of a server: POST /v1/chat/completions, streamed. The server tells of text, not of tokens."""

    def __init__(self, name: str, url: str, session: aiohttp.ClientSession) -> None:
        self.name = name
        self.ending: Ending | None = None
        self._url = f"{url}/v1/chat/completions"
        self._session = session

    async def ask(self, messages: list[Message], *, max_tokens: int, seed: int) -> AsyncGenerator[int, None]:
        """See Target."""
        self.ending = None
        request = {
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0,
            "repeat_penalty": 1,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": True,
        }
        parts: list[str] = []
        usage: _Usage | None = None
        outcome: Literal["stop", "length"] = "length"
        try:
            async with self._session.post(self._url, data=msgspec.json.encode(request)) as response:
                if response.status != 200:
                    raise TargetError(f"http_{response.status}", (await response.text())[:200])
                async for line in response.content:
                    if not line.startswith(EVENT) or line.strip().endswith(END):
                        continue
                    chunk = _chunk_decoder.decode(line[len(EVENT) :])
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        outcome = choice.finish_reason or outcome
                        if choice.delta.content:
                            parts.append(choice.delta.content)
                            yield 1
        except (aiohttp.ClientError, msgspec.DecodeError, OSError) as error:
            raise TargetError("connection", f"{self.name}: {error}") from error
        if usage is None:
            raise TargetError("broken_off", f"{self.name} ended an answer without saying so")
        self.ending = Ending(
            outcome=outcome,
            tokens=usage.completion_tokens,
            prompt_tokens=usage.prompt_tokens,
            text="".join(parts),
        )
