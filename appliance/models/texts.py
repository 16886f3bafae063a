"""Text that comes with the appliance: what recipes are calibrated with, and what is held out. Knows no tokenizer."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.shipped import shipped_models
from appliance.types import Message

TEXT_NAME = "text"


class Text(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One text, or one conversation."""

    kind: str
    """chat, prose, code, json, table, maths or instruction."""
    language: str
    """A code such as zh, or a programming language."""
    text: str = ""
    messages: tuple[Message, ...] = ()


def read_texts(name: Literal["calibration", "held-out"]) -> tuple[Text, ...]:
    """All of one file. Raises ConfigError where an installation is damaged, naming the file and the line."""
    file = shipped_models() / TEXT_NAME / f"{name}.jsonl"
    texts = []
    try:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                texts.append(msgspec.json.decode(line, type=Text))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}, line {number}: {error}; install the appliance again") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}; install the appliance again") from None
    return tuple(texts)


def spread(texts: Sequence[Text], count: int) -> list[Text]:
    """`count` of the texts, at even distances and so of all kinds, by which the file is ordered; at most all."""
    if count >= len(texts):
        return list(texts)
    return [texts[number * len(texts) // count] for number in range(count)]
