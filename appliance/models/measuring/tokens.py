"""Samples as token ids, and which of them are measured. Knows samples and a tokenizer's functions; no tokenizer."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from appliance.models.texts import Sample
from appliance.types import Message

MOST_TOKENS = 2048  # of a sample; the rest of a longer one is left out

Encode = Callable[[str], list[int]]
Render = Callable[[Sequence[Message], bool], str]
"""The chat template's text of messages; true adds the beginning of an answer."""


class Tokens(Struct, frozen=True):
    """A sample as models read it."""

    ids: Sequence[int]
    counted: Sequence[int]
    """Positions that are measured, ascending: what the model expects after ids[position] is ids[position + 1]."""
    cut: bool
    """Whether the sample was longer."""


def tokens_of(sample: Sample, encode: Encode, render: Render) -> Tokens:
    """The whole of a text counts, of a conversation what the model would have said: its answers, ends included."""
    ids: list[int] = []
    counted: list[int] = []
    for text, is_answer in pieces_of(sample, render):
        begin = len(ids)
        ids += encode(text)
        if is_answer:
            counted += range(max(0, begin - 1), len(ids) - 1)
    last = min(len(ids), MOST_TOKENS) - 1
    return Tokens(ids[: last + 1], [position for position in counted if position < last], len(ids) > MOST_TOKENS)


def pieces_of(sample: Sample, render: Render) -> list[tuple[str, bool]]:
    """The sample's text in pieces that are tokenized by themselves, as prompt and answer are; true: an answer.

    Where a template writes earlier answers differently than it began them, the conversation is one piece, and counts.
    """
    if not sample.messages:
        return [(sample.text, True)]
    whole = render(sample.messages, False)
    pieces: list[tuple[str, bool]] = []
    done = 0
    for number, message in enumerate(sample.messages):
        if message.role != "assistant":
            continue
        before = render(sample.messages[:number], True)
        after = render(sample.messages[: number + 1], False).rstrip()  # behind the end of an answer nothing is said
        if not (after.startswith(before) and whole.startswith(after)):
            return [(whole, True)]
        pieces += [(whole[done : len(before)], False), (after[len(before) :], True)]
        done = len(after)
    return [*pieces, (whole[done:], False)]
