"""One question from the main thread to a client on another, with Ctrl-C. Knows no commands and no history.

The event loop has a thread of its own: while the main thread sits in input(), or writes to a terminal that was
stopped, the loop goes on answering the server's pings. Signals arrive in the main thread, so that its handler can tell
the loop without breaking into anything.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from appliance.cli.chat.conversation import Conversation
from appliance.cli.chat.screen import Screen
from appliance.client import (
    Answer,
    Client,
    ConnectionLost,
    Interrupted,
    connect,
)
from appliance.client.address import Address
from appliance.protocol.websocket import Delta, Done, Queued

T = TypeVar("T")


class LoopThread:
    """An event loop on its own thread for as long as the block lasts."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="appliance-chat-loop")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, from the main thread; an exception here, KeyboardInterrupt among them, cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _run(self) -> None:
        # Or SIGINT may interrupt this thread and leave input() asleep in the main one. Threads begun here inherit it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        asyncio.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()


class Question:
    """A question on its way; `text` is what was shown of its answer."""

    def __init__(self, client: Client, conversation: Conversation, question: str, screen: Screen | None) -> None:
        self._client = client
        self._messages = conversation.with_question(question)
        self._params = dict(conversation.params)
        self._screen = screen
        self._answer: Answer | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._interrupted = False

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._answer.text if self._answer is not None else ""

    def ask(self, thread: LoopThread) -> Done:
        """Wait for the whole answer, showing it where there is a screen.

        Ctrl-C cancels the request, which then ends as always; a second one raises KeyboardInterrupt, and so does the
        first where there is no request yet. Raises ClientError.
        """

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            thread.loop.call_soon_threadsafe(self._cancel)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            return thread.run(self._ask())
        except CancelledError:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGINT, before)

    async def _ask(self) -> Done:
        self._task = asyncio.current_task()
        if self._interrupted:  # before this began
            raise asyncio.CancelledError
        if not self._client.connected and self._screen is not None:
            await asyncio.to_thread(self._screen.status, "connecting again …")
        async with self._client.stream(self._messages, resumable=True, **self._params) as answer:
            self._answer = answer
            async for event in answer.events():
                match event:
                    case Interrupted() if self._screen is not None:
                        await asyncio.to_thread(self._screen.status, "connecting again …")
                    case Queued(position=position) if self._screen is not None:
                        await asyncio.to_thread(self._screen.status, f"queued, position {position}")
                    case Delta(text=text) if self._screen is not None:
                        await asyncio.to_thread(self._screen.text, text)
        return answer.done

    def _cancel(self) -> None:
        if self._answer is not None:
            self._cancelling = asyncio.get_running_loop().create_task(self._ask_for_the_end(self._answer))
        elif self._task is not None:
            self._task.cancel()

    @staticmethod
    async def _ask_for_the_end(answer: Answer) -> None:
        with contextlib.suppress(ConnectionLost):  # the iteration tells
            await answer.cancel()


@contextmanager
def open_client(url: str | Address) -> Iterator[tuple[LoopThread, Client]]:
    """A connected client and the thread it lives on. Raises BadAddress, ConnectFailed."""
    with LoopThread() as thread:
        connecting = connect(url)
        client = thread.run(connecting.__aenter__())
        try:
            yield thread, client
        finally:
            thread.run(connecting.__aexit__(None, None, None))
