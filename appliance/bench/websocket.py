"""The appliance as a target, through its public client: one socket for each client. Knows no load.

Another transport is another Target beside this one, and another `open_targets`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from appliance.bench.target import Ending, Target, TargetError
from appliance.client import Client, ClientError, ConnectFailed, ConnectionLost, Message, RequestFailed, connect
from appliance.client.address import Address
from appliance.protocol.websocket import Done

CONNECT_TIMEOUT_S = 10.0
GREEDY = 0.0


class WebSocketTarget:
    """A Target on one client, whose requests it makes."""

    def __init__(self, client: Client, *, name: str = "appliance", temperature: float | None = GREEDY) -> None:
        """`temperature`: None leaves it to the model's manifest."""
        self.name = name
        self.ending: Ending | None = None
        self._client = client
        self._temperature = temperature

    async def ask(self, messages: list[Message], *, max_tokens: int, seed: int) -> AsyncGenerator[int, None]:
        """See Target: 1 for each delta, as the protocol tells no tokens before the end."""
        self.ending = None
        stream = self._client.stream(messages, max_tokens=max_tokens, seed=seed, temperature=self._temperature)
        try:
            async with stream as answer:
                async for _ in answer:
                    yield 1
                done = answer.done
        except ClientError as error:
            raise _as_target_error(error) from error
        self.ending = _ending(done, answer.text)


@asynccontextmanager
async def open_targets(url: str | Address, clients: int) -> AsyncIterator[Callable[[int], Target]]:
    """A target for each of `clients` clients at `url`, each with a connection of its own, while the block lasts.

    Raises BadAddress, ConnectFailed.
    """
    async with AsyncExitStack() as stack:
        targets = [
            WebSocketTarget(await stack.enter_async_context(connect(url, connect_timeout_s=CONNECT_TIMEOUT_S)))
            for _ in range(clients)
        ]
        yield targets.__getitem__


def _as_target_error(error: ClientError) -> TargetError:
    match error:
        case RequestFailed():
            return TargetError(error.code, error.message, retry_after_s=error.retry_after_s)
        case ConnectFailed():
            return TargetError("connect_failed", str(error), retry_after_s=error.retry_after_s)
        case ConnectionLost():
            return TargetError("connection_lost", str(error))
        case _:
            return TargetError("protocol_violation", str(error))


def _ending(done: Done, text: str) -> Ending:
    if done.finish_reason == "cancelled":
        raise TargetError("cancelled", "the server ended the request as cancelled")
    return Ending(
        outcome="length" if done.finish_reason == "length" else "stop",
        tokens=done.usage.completion_tokens,
        prompt_tokens=done.usage.prompt_tokens,
        text=text,
    )
