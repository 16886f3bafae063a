"""A client of llama.cpp's server, against a scripted one that speaks as it does; and where its build comes from."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from appliance.bench.target import TargetError
from appliance.types import Message
from benchmarks import llama_build, models
from benchmarks.errors import BenchmarkError
from benchmarks.llama_build import LlamaCpp, llama_cpp, quantized
from benchmarks.llama_server import LlamaTarget

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PROMPT = [Message("user", "Hello")]


def event(**fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def choice(content: str | None = None, finish_reason: str | None = None) -> bytes:
    return event(
        choices=[{"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": finish_reason}]
    )


USAGE = event(choices=[], usage={"prompt_tokens": 31, "completion_tokens": 2, "total_tokens": 33}, timings={"x": 1})
END = b"data: [DONE]\n\n"


def streams(*parts: bytes) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    return handle


async def asking(handle: Handler, max_tokens: int = 48) -> AsyncIterator[tuple[LlamaTarget, AsyncGenerator[int, None]]]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        target = LlamaTarget("llama", str(server.make_url("")).rstrip("/"), session)
        yield target, target.ask(PROMPT, max_tokens=max_tokens, seed=7)


async def test_each_text_counts_and_the_end_tells_tokens() -> None:
    async for target, counts in asking(
        streams(choice(), choice("Good"), choice("bye"), choice(None, "stop"), USAGE, END)
    ):
        assert [count async for count in counts] == [1, 1]
        ending = target.ending
        assert ending is not None
        assert (ending.outcome, ending.tokens, ending.prompt_tokens, ending.text) == ("stop", 2, 31, "Goodbye")


async def test_it_asks_for_a_greedy_answer_without_a_penalty() -> None:
    asked: dict[str, Any] = {}

    async def note(request: web.Request) -> web.StreamResponse:
        asked.update(await request.json())
        return await streams(choice("x", "length"), USAGE, END)(request)

    async for _, counts in asking(note, max_tokens=5):
        assert [count async for count in counts] == [1]
    assert asked["messages"] == [{"role": "user", "content": "Hello"}]
    assert (asked["max_tokens"], asked["temperature"], asked["repeat_penalty"], asked["stream"]) == (5, 0, 1, True)


async def test_a_refusal_is_told_with_its_status() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "no slot"}, status=503)

    async for target, counts in asking(refuse):
        with pytest.raises(TargetError, match="no slot") as raised:
            [count async for count in counts]
        assert raised.value.code == "http_503"
        assert target.ending is None


async def test_an_answer_that_breaks_off_is_a_failure() -> None:
    async for target, counts in asking(streams(choice("Good"))):
        with pytest.raises(TargetError):
            [count async for count in counts]
        assert target.ending is None


async def test_leaving_the_iteration_ends_the_request() -> None:
    gone = asyncio.Event()

    async def for_ever(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(choice("more"))
                await asyncio.sleep(0.001)
        finally:
            gone.set()

    async for _, counts in asking(for_ever):
        async for _ in counts:
            break
        await counts.aclose()
        async with asyncio.timeout(10):
            await gone.wait()


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(llama_build, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(llama_build, "_tool_path", lambda: str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"apt-get install g\+\+"):
        llama_cpp(print)


def test_a_failed_quantization_tells_the_end_of_its_log_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(llama_build, "cache_directory", lambda: tmp_path)
    build = LlamaCpp(directory=tmp_path / "build", package="llama==1", flags=(), compiler="c++")
    build.directory.mkdir()
    build.quantizer.write_text('#!/bin/sh\ntouch "$3"; echo the file is no model; exit 3\n')
    build.quantizer.chmod(0o755)
    with pytest.raises(BenchmarkError, match=r"(?s)status 3.*the file is no model"):
        quantized(build, tmp_path / "model.gguf", "ab" * 32, "Q4_0", print)
    assert not list(tmp_path.glob("gguf/*.gguf*")) + list(tmp_path.glob("gguf/*partial*"))


@pytest.mark.parametrize(("named", "told"), [("", "is not set"), ("/nowhere.gguf", "which is no file")])
def test_a_run_without_a_model_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, named: str, told: str) -> None:
    monkeypatch.setenv(models.GGUF_VARIABLE, named)
    with pytest.raises(BenchmarkError, match=told):
        models.gguf_file()
