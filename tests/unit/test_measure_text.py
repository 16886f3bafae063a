"""Held-out text: what a file may hold, and which of its tokens are measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.models.measuring import tokens
from appliance.models.measuring.child import parts_of
from appliance.models.measuring.tokens import pieces_of, tokens_of
from appliance.models.texts import Sample, read_samples, read_shipped
from appliance.types import Message

HELD_OUT = Path(__file__).parents[1] / "support" / "held_out.jsonl"
CHAT = Sample(
    kind="chat",
    language="en",
    messages=(Message("user", "a"), Message("assistant", "bc"), Message("user", "d"), Message("assistant", "e")),
)


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def chatml(messages: Sequence[Message], begin_answer: bool) -> str:
    turns = "".join(f"<{message.role[0]}>{message.content}</>\n" for message in messages)
    return turns + ("<a>" if begin_answer else "")


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_the_tests_own_text_is_read() -> None:
    samples = read_samples(HELD_OUT.read_bytes(), HELD_OUT.name)
    assert {sample.kind for sample in samples} == {"prose", "code", "chat", "json"}
    assert [bool(sample.messages) for sample in samples] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"{", "line 2: "),
        (b"\xff", "line 2: "),
        (b"[" * 100_000, "line 2: "),
        (line(kind="chat", language="en"), "line 2: give either text or messages"),
        (line(kind="chat", language="en", text="a", messages=[{"role": "user", "content": "b"}]), "either text or"),
        (line(kind="chat", language="en", text="a", source="web"), "source"),
        (line(kind="", language="en", text="a"), "kind"),
        (line(kind="\x1b[31m", language="en", text="a"), "kind"),
        (line(kind="chat", language="en", messages=[{"role": "tool", "content": "b"}]), "role 'tool' is none of"),
        (line(kind="chat", language="en", messages=[{"role": "user", "content": "b"}]), "needs an answer"),
    ],
)
def test_what_is_no_sample_is_told_with_its_line(wrong: bytes, said: str) -> None:
    content = line(kind="prose", language="en", text="Good.") + b"\n" + wrong
    with pytest.raises(ConfigError, match=r"^mine\.jsonl, line 2: ") as caught:
        read_samples(content, "mine.jsonl")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_samples_or_with_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="0 samples, expected 1"):
        read_samples(b"\n\n", "empty.jsonl")
    with pytest.raises(ConfigError, match="10,001 samples"):
        read_samples((line(kind="p", language="en", text="x") + b"\n") * 10_001, "much.jsonl")
    with pytest.raises(ConfigError, match="give less text"):
        read_samples(bytes(17 << 20), "much.jsonl")


def test_all_of_a_text_counts_after_its_first_token() -> None:
    found = tokens_of(Sample(kind="prose", language="en", text="abc"), encode, chatml)
    assert found.ids == encode("abc")
    assert found.counted == [0, 1]
    assert not found.cut
    assert tokens_of(Sample(kind="prose", language="en", text="a"), encode, chatml).counted == []


def test_of_a_conversation_the_answers_count_with_their_ends() -> None:
    found = tokens_of(CHAT, encode, chatml)
    assert "".join(map(chr, found.ids)) == chatml(CHAT.messages, False)
    assert "".join(chr(found.ids[position + 1]) for position in found.counted) == "bc</>e</>"


def test_an_answer_is_tokenized_as_it_would_be_generated() -> None:
    """The beginning of an answer ends the prompt: no token reaches over it."""
    texts: list[str] = []

    def listening(text: str) -> list[int]:
        texts.append(text)
        return encode(text)

    tokens_of(CHAT, listening, chatml)
    assert texts == ["<u>a</>\n<a>", "bc</>", "\n<u>d</>\n<a>", "e</>", "\n"]


def test_a_template_that_rewrites_earlier_answers_makes_one_piece() -> None:
    def forgetful(messages: Sequence[Message], begin_answer: bool) -> str:
        shown = [m if m is messages[-1] or m.role == "user" else Message(m.role, "…") for m in messages]
        return chatml(shown, begin_answer)

    assert pieces_of(CHAT, forgetful) == [(forgetful(CHAT.messages, False), True)]


def test_a_long_sample_is_cut_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_TOKENS", 3)
    found = tokens_of(Sample(kind="prose", language="en", text="abcdef"), encode, chatml)
    assert (found.ids, found.counted, found.cut) == (encode("abc"), [0, 1], True)


def test_samples_are_parted_by_language_and_by_kind() -> None:
    samples = read_samples(HELD_OUT.read_bytes(), HELD_OUT.name)
    numbers = [10, 11, 12, 13, 14]
    assert parts_of(samples, numbers) == [
        ("language", "en", [10, 13, 14]), ("language", "zh", [11]), ("language", "python", [12]),
        ("kind", "prose", [10, 11]), ("kind", "code", [12]), ("kind", "chat", [13]), ("kind", "json", [14]),
    ]  # fmt: skip


def test_the_text_that_ships_can_be_measured() -> None:
    samples = read_shipped("held-out")
    assert len(samples) >= 100
    assert {sample.language for sample in samples} == {"zh", "en", "code", "json"}
