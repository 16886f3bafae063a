"""What is measured, as the load sees it: something that can be asked. Knows no transport."""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

from msgspec import Struct

from appliance.types import Message


class TargetError(Exception):
    """A request failed; `code` is one short word, such as the protocol's error codes."""

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.retry_after_s = retry_after_s


class Ending(Struct, frozen=True, kw_only=True):
    """What a target tells of an answer that has ended."""

    outcome: Literal["stop", "length"]
    tokens: int | None = None
    """Of the answer; None where what was yielded is all that is known."""
    prompt_tokens: int | None = None
    text: str = ""
    """The answer, for the next turn of a chat."""


class Target(Protocol):
    """One client's way to a server. It is asked one thing at a time."""

    name: str
    ending: Ending | None
    """Of the last answer; None while one comes, after a failure, and where the target can't tell."""

    def ask(self, messages: list[Message], *, max_tokens: int, seed: int) -> AsyncGenerator[int, None]:
        """The numbers of new tokens as they come (where a target can't tell: 1 for each chunk of text), to the end.

        Raises TargetError. Leaving the iteration (`aclose`, where it is a generator) cancels the request.
        """
