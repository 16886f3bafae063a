"""A model hub on this host: the endpoints that huggingface_hub asks, which can be told to answer otherwise.

Two addresses, as the public one has: the hub itself, which knows repositories, and the store of large files, to which
it redirects.
"""

import asyncio
import hashlib
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import pytest
from aiohttp import web

from tests.support.hub_answers import WAIT_S, Answer, failing

REPOSITORY = "Tiny/Tiny-GGUF"
FILE_NAME = "tiny.gguf"
WEIGHTS = os.urandom(1_000_000)  # some of the client's chunks
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
COMMIT = "1234567890abcdef1234567890abcdef12345678"
MIRROR_PATH = "/artifacts/api/hub"
"""The hub is there too: some mirrors are not at the root of their host."""
WRITE_BYTES = 1 << 20


class Asked(NamedTuple):
    """One request."""

    step: str
    """api, head, get (of the hub) or file (of the store)."""
    path: str
    headers: dict[str, str]


class Hub:
    """One repository with some files, and what is to go wrong with the next requests."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.in_git: set[str] = set()
        """Names of small files: the hub has them itself, and announces what git calls them."""
        self.repository = REPOSITORY
        self.url = ""
        self.store_url = ""
        self.asked: list[Asked] = []
        self.instead: dict[str, list[Answer]] = {"api": [], "head": [], "get": [], "file": []}
        """By step: answers to the next requests; the last one stays where `for_ever` names the step."""
        self.for_ever: set[str] = set()
        self.xet = False
        """Files also lie in the new kind of storage."""
        self.commit = COMMIT
        """The commit of all that is asked for."""
        self.knows_ranges = True
        """The store of files sends what is asked for, not always the whole."""
        self.spoiled: dict[str, bytes] = {}
        """What it sends of small files instead of what it announces."""
        self.names_blobs = True
        """The repository's description has digests; some mirrors leave them out."""
        self.digest: str | None = None
        """What it says a file's sha256 is."""
        self.size_bytes: int | None = None
        """What it says a file's size is."""
        self._digests: dict[str, tuple[bytes, str]] = {}
        self.go_on = threading.Event()
        self.go_on.set()

    def steps(self) -> list[str]:
        """What was asked, in order."""
        return [request.step for request in self.asked]

    def ranges(self) -> list[str]:
        """The Range of each request for a file's bytes; "" where it had none."""
        return [request.headers.get("Range", "") for request in self.asked if request.step == "file"]

    def will(self, step: str, *answers: Answer, for_ever: bool = False) -> None:
        """Answer the next requests of `step` so."""
        self.instead[step] = list(answers)
        if for_ever:
            self.for_ever.add(step)

    async def answer(self, step: str, request: web.Request, usual: Answer) -> web.StreamResponse:
        self.asked.append(Asked(step, request.path_qs, dict(request.headers)))
        answers = self.instead[step]
        if not answers:
            return await usual(request)
        return await (answers[0] if step in self.for_ever and len(answers) == 1 else answers.pop(0))(request)

    async def api(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/models/OWNER/NAME[/revision/REVISION]`."""
        if f"{request.match_info['owner']}/{request.match_info['name']}" != self.repository:
            return failing(404, "RepoNotFound", "Repository not found")
        if request.match_info.get("revision", "main") not in ("main", COMMIT):
            return failing(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": name, **(self._blob(name) if self.names_blobs else {})} for name in self.files]
        return web.json_response(
            {
                "_id": "0",
                "id": self.repository,
                "modelId": self.repository,
                "sha": self.commit,
                "private": False,
                "gated": False,
                "tags": ["gguf"],
                "lastModified": "2026-01-01T00:00:00.000Z",
                "siblings": siblings,
            }
        )

    def _blob(self, name: str) -> dict[str, object]:
        digest, size = self._told(name)
        if name in self.in_git:
            return {"size": size, "blobId": digest}
        return {"size": size, "blobId": "0" * 40, "lfs": {"sha256": digest, "size": size, "pointerSize": 134}}

    def _told(self, name: str) -> tuple[str, int]:
        content = self.files[name]
        if name in self.in_git:
            return git_sha1(content), len(content)
        digest = self.digest or self._sha256(name)
        return digest, len(content) if self.size_bytes is None else self.size_bytes

    def _sha256(self, name: str) -> str:
        content = self.files[name]
        known = self._digests.get(name)
        if known is None or known[0] is not content:
            known = self._digests[name] = (content, hashlib.sha256(content).hexdigest())
        return known[1]

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        """`HEAD` and `GET /OWNER/NAME/resolve/REVISION/FILE`."""
        name = request.match_info["file"]
        if name not in self.files:
            return failing(404, "EntryNotFound", "Entry not found")
        digest, size = self._told(name)
        if name in self.in_git:
            git = {"ETag": f'"{digest}"', "X-Repo-Commit": self.commit}
            return web.Response(body=self.spoiled.get(name, self.files[name]), headers=git)
        headers = {
            "Location": f"{self.store_url}/{digest}?Signature=secret-signature",
            "X-Repo-Commit": self.commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(size),
            "ETag": '"of-the-redirect"',
        }
        if self.xet:
            headers |= {"X-Xet-Hash": digest, "X-Xet-Refresh-Route": f"{self.url}/api/xet-token"}
        return web.Response(status=302, headers=headers)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """`GET /SHA256`, whole or from a byte on."""
        return await self._send(request, stop=None)

    def cut(self, after: int) -> Answer:
        """The connection ends after so many bytes of what was asked for."""

        async def answer(request: web.Request) -> web.StreamResponse:
            return await self._send(request, stop=after)

        return answer

    async def _send(self, request: web.Request, stop: int | None) -> web.StreamResponse:
        wanted = request.match_info["digest"]
        first = next(iter(self.files))
        name = next((name for name in self.files if self._told(name)[0] == wanted), first)
        content = memoryview(self.files[name])
        begin = 0
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")) if self.knows_ranges else None
        if asked is not None:
            begin = int(asked[1])
            if begin >= len(content):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        response = web.StreamResponse(status=206 if asked else 200)
        response.content_length = len(content) - begin
        if asked is not None:
            response.headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        end = len(content) if stop is None else begin + stop
        middle = (begin + end) // 2
        await write(response, content[begin:middle])
        await asyncio.get_running_loop().run_in_executor(None, self.go_on.wait, WAIT_S)
        await write(response, content[middle:end])
        if stop is not None and request.transport is not None:
            request.transport.close()
        return response


async def write(response: web.StreamResponse, content: memoryview) -> None:
    """Send it piece by piece, as fast as it is taken."""
    for begin in range(0, len(content), WRITE_BYTES):
        await response.write(content[begin : begin + WRITE_BYTES])


def git_sha1(content: bytes) -> str:
    """What git calls a file with that content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()  # noqa: S324 # git's own


@contextmanager
def running_hub(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub that serves until the block ends, in a thread of its own: what asks it are processes."""
    hub = Hub(files)
    ready = threading.Event()
    done = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with _serving(hub):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(WAIT_S)
    try:
        yield hub
    finally:
        hub.go_on.set()
        loops[0].call_soon_threadsafe(done.set)
        thread.join(WAIT_S)


@asynccontextmanager
async def _serving(hub: Hub) -> AsyncIterator[None]:
    def routed(step: str, usual: Answer) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            return await hub.answer(step, request, usual)

        return answer

    front, store = web.Application(), web.Application()
    for prefix in ("", MIRROR_PATH):
        model = f"{prefix}/api/models/{{owner}}/{{name}}"
        front.router.add_get(model, routed("api", hub.api))
        front.router.add_get(f"{model}/revision/{{revision}}", routed("api", hub.api))
        resolve = f"{prefix}/{{owner}}/{{name}}/resolve/{{revision}}/{{file:.+}}"
        front.router.add_head(resolve, routed("head", hub.resolve))
        front.router.add_get(resolve, routed("get", hub.resolve), allow_head=False)
    store.router.add_get("/{digest}", routed("file", hub.file))
    runners = []
    for application in (front, store):
        runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
    hub.url, hub.store_url = (f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners)
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have huggingface_hub ask `url`, whatever the environment says otherwise."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", url)
