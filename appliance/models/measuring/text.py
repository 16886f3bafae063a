"""Held-out text: samples in a JSONL file, by kind and language. Reads them; knows no tokenizer.

One JSON object a line: {"kind": "chat", "language": "en", "messages": [{"role": "user", "content": "…"}, …]}
or {"kind": "code", "language": "python", "text": "…"}.
"""

from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from appliance.errors import ConfigError
from appliance.models.shipped import shipped_models
from appliance.types import ROLES, Message

MOST_BYTES = 16 << 20
MOST_SAMPLES = 10_000

Word = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_+#.-]{0,31}\Z")]


class Sample(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text, or one conversation; exactly one of the two."""

    kind: Word
    language: Word
    text: str = ""
    messages: Sequence[Message] = ()


def held_out_file() -> Traversable:
    """The text that ships with the appliance."""
    return shipped_models() / "text" / "held-out.jsonl"


def read_samples(content: bytes, name: str) -> list[Sample]:
    """The samples in `content`, which people know as `name`; empty lines are skipped.

    Raises ConfigError, naming the file, the line and what is wrong with it.
    """
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{name} has {len(content):,} bytes, at most {MOST_BYTES:,} are measured; give less text")
    samples = [
        _sample(line, f"{name}, line {number}")
        for number, line in enumerate(content.split(b"\n"), start=1)
        if line.strip()
    ]
    if not 0 < len(samples) <= MOST_SAMPLES:
        raise ConfigError(
            f"{name} has {len(samples):,} samples, expected 1 to {MOST_SAMPLES:,}, one JSON object a line"
        )
    return samples


def _sample(line: bytes, where: str) -> Sample:
    try:
        sample = msgspec.json.decode(line, type=Sample)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from None
    if bool(sample.text.strip()) == bool(sample.messages):
        raise ConfigError(f"{where}: give either text or messages")
    unknown = {message.role for message in sample.messages} - ROLES
    if unknown:
        raise ConfigError(f"{where}: role {min(unknown)!r} is none of {', '.join(sorted(ROLES))}")
    if sample.messages and not any(message.role == "assistant" for message in sample.messages):
        raise ConfigError(
            f"{where}: a conversation needs an answer, a message of role assistant: that is what is measured"
        )
    return sample
