"""What has been said, and how answers are sampled. Knows no terminal and no sockets."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.types import Message


class Conversation:
    """The turns so far. A question becomes a turn together with its answer, or with what was shown of it."""

    def __init__(self, *, system: str | None = None, params: dict[str, Any] | None = None) -> None:
        self.system = _sendable(system) if system else None
        self.params: dict[str, Any] = dict(params or {})
        """Keyword arguments of Client.stream."""
        self.turns: list[Message] = []

    def with_question(self, question: str) -> list[Message]:
        """The messages to send."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.turns, Message("user", _sendable(question))]

    def add(self, question: str, answer: str) -> None:
        """Keep a question with its answer; a question to which nothing was said is not kept."""
        if answer:
            self.turns += [Message("user", _sendable(question)), Message("assistant", answer)]

    def set(self, name: str, text: str) -> None:
        """Set a parameter of the answers to come from what was typed; `default` takes the server's.

        Raises ValueError, with what would be right.
        """
        if name not in _SETTABLE:
            raise ValueError(f"{name}: unknown; known: {', '.join(_SETTABLE)}")
        if text == "default":
            self.params.pop(name, None)
            return
        read, right, expected = _SETTABLE[name]
        try:
            value = read(text)
        except ValueError:
            value = None
        if value is None or not right(value):
            raise ValueError(f"{name} {text}: expected {expected}, or default")
        self.params[name] = value

    def save(self, file: Path) -> None:
        """Write the conversation to a new file, for its owner only: JSON for `.json`, else Markdown.

        Raises OSError, FileExistsError where the file is there.
        """
        messages = ([Message("system", self.system)] if self.system else []) + self.turns
        if file.suffix == ".json":
            turns = [{"role": m.role, "content": m.content} for m in messages]
            text = json.dumps({"messages": turns}, ensure_ascii=False, indent=2) + "\n"
        else:
            text = "\n".join(f"## {m.role}\n\n{m.content}\n" for m in messages)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)


def _sendable(text: str) -> str:
    """Text whose undecodable bytes, kept as lone surrogates by the terminal or the shell, are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


_SETTABLE: dict[str, tuple[Callable[[str], Any], Callable[[Any], bool], str]] = {
    "max_tokens": (int, lambda n: n >= 1, "a whole number from 1"),
    "temperature": (float, lambda x: 0 <= x < math.inf, "a number from 0"),
    "top_p": (float, lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "top_k": (int, lambda n: n >= 0, "a whole number from 0"),
    "repetition_penalty": (float, lambda x: 0 < x < math.inf, "a number above 0"),
    "seed": (int, lambda n: n >= 0, "a whole number from 0"),
    "stop": (lambda text: [text.replace("\\n", "\n")], lambda texts: bool(texts[0]), "a text"),
    "deadline_s": (float, lambda x: 0 < x < math.inf, "a number of seconds above 0"),
}
