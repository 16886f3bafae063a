"""Token ids to streamable text: whole characters, exact sums, stop strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.text import REPLACEMENT, Answer, advance_all


def decode(batch: list[list[int]]) -> list[str]:
    """A tokenizer whose ids are bytes; 256 is a special token, left out."""
    return [bytes(i for i in ids if i < 256).decode(errors="replace") for ids in batch]


def spaced(batch: list[list[int]]) -> list[str]:
    """A tokenizer that strips the space before the first id of a list, as sentencepiece does."""
    return ["".join(f" w{i}" for i in ids).removeprefix(" ") for ids in batch]


def stream(steps: list[list[int]], *stop: str, using: object = decode) -> list[str]:
    answer = Answer(stop)
    texts = []
    for ids in steps:
        answer.ids += ids
        texts += advance_all([answer], using)  # type: ignore[arg-type] # one of the two above
    return [*texts, answer.rest()]


@given(st.text(), st.integers(1, 5))
def test_deltas_join_to_the_text_whatever_the_cut(text: str, size: int) -> None:
    ids = list(text.encode())
    steps = [ids[i : i + size] for i in range(0, len(ids), size)]
    assert "".join(stream(steps)) == text.rstrip(REPLACEMENT)


@given(st.lists(st.lists(st.integers(0, 256), max_size=4), max_size=30))
def test_any_bytes_join_to_their_decoding_less_an_incomplete_end(steps: list[list[int]]) -> None:
    whole = decode([[i for ids in steps for i in ids]])[0]
    assert "".join(stream(steps)) == whole.rstrip(REPLACEMENT)


def test_a_character_in_pieces_comes_once_and_whole() -> None:
    assert stream([[byte] for byte in "a😀b".encode()]) == ["a", "", "", "", "😀", "b", ""]


def test_an_incomplete_last_character_is_left_out() -> None:
    assert "".join(stream([list("ok 😀".encode())[:-1]])) == "ok "


def test_a_tokenizer_that_strips_the_first_space_keeps_the_others() -> None:
    assert "".join(stream([[1], [2], [3, 4]], using=spaced)) == "w1 w2 w3 w4"


def test_decoding_costs_the_same_late_as_early() -> None:
    answer = Answer()
    sizes = []
    for _ in range(500):
        answer.ids += list(b"ab")
        sizes.append(sum(map(len, answer.window())))
        advance_all([answer], decode)
    assert max(sizes) <= 6


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("abcabd", ["abd"], "abc"),
        ("no such thing", ["END"], "no such thing"),
        ("ends in a part of it: EN", ["END"], "ends in a part of it: EN"),
        ("日本語です", ["語"], "日本"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str], expected: str, size: int) -> None:
    ids = list(text.encode())
    assert "".join(stream([ids[i : i + size] for i in range(0, len(ids), size)], *stop)) == expected


def test_nothing_that_may_be_a_stop_string_is_sent_early() -> None:
    assert stream([list(b"x\n"), list(b"\n"), list(b"y")], "\n\n") == ["x", "", "", ""]


@given(
    st.text("abc", min_size=1, max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(2, 13),
)
def test_the_cut_does_not_depend_on_how_tokens_fall_into_steps(text: str, stop: list[str], size: int) -> None:
    ids = list(text.encode())
    one_by_one = "".join(stream([[i] for i in ids], *stop))
    assert "".join(stream([ids[i : i + size] for i in range(0, len(ids), size)], *stop)) == one_by_one
