"""Text that models read: what recipes are calibrated with, and what is held out for measuring. Knows no tokenizer.

One JSON object a line: {"kind": "chat", "language": "en", "messages": [{"role": "user", "content": "…"}, …]}
or {"kind": "code", "language": "python", "text": "…"}.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.errors import ConfigError
from appliance.models.shipped import shipped_models
from appliance.types import ROLES, Message

TEXT_NAME = "text"
MOST_BYTES = 16 << 20
MOST_SAMPLES = 10_000

Word = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_+#.-]{0,31}\Z")]


class Sample(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text, or one conversation; exactly one of the two."""

    kind: Word
    """Such as chat, prose, code, json, table, maths or instruction."""
    language: Word
    """A code such as zh, or a programming language."""
    text: str = ""
    messages: tuple[Message, ...] = ()


def read_shipped(name: Literal["calibration", "held-out"]) -> list[Sample]:
    """All of one file that comes with the appliance. Raises ConfigError where an installation is damaged."""
    file = shipped_models() / TEXT_NAME / f"{name}.jsonl"
    try:
        return read_samples(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}; install the appliance again") from None
    except ConfigError as error:
        raise ConfigError(f"{error}; install the appliance again") from None


def read_samples(content: bytes, name: str) -> list[Sample]:
    """The samples in `content`, which people know as `name`; empty lines are skipped.

    Raises ConfigError, naming the file, the line and what is wrong with it.
    """
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{name} has {len(content):,} bytes, at most {MOST_BYTES:,} are read; give less text")
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


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of the samples, at even distances and so of all kinds, by which the file is ordered; at most all."""
    if count >= len(samples):
        return list(samples)
    return [samples[number * len(samples) // count] for number in range(count)]
