"""The check of a tokenizer finds what a broken one does to texts. The tokenizers here know bytes only."""

from collections.abc import Callable

import pytest

from appliance.models.tokenizer_check import _BYTES, Vocabulary, problem_of

LETTERS = {byte: letter for letter, byte in _BYTES.items()}
END = 256
VOCABULARY = Vocabulary([*(LETTERS[byte] for byte in range(256)), "<|im_end|>"], [*[1] * 256, 3], [END])


def encode(text: str) -> list[int]:
    return [END] if text == "<|im_end|>" else list(text.encode())


def decode(ids: list[int]) -> str:
    return bytes(ids).decode()


def test_a_faithful_tokenizer_passes() -> None:
    assert problem_of(VOCABULARY, encode, decode) == ""


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda text: encode(text.replace(" ", "")), "becomes the tokens of"),
        (lambda text: encode("".join(char for char in text if not char.isdigit())), "becomes the tokens of"),
        (lambda text: list(text.encode()), r"'<|im_end|>' becomes \[60, .*, not \[256\]"),
        (lambda text: [300], "does not have"),
    ],
)
def test_a_tokenizer_that_loses_something_is_found_out(broken: Callable[[str], list[int]], said: str) -> None:
    import re

    assert re.search(said.replace("|", r"\|"), problem_of(VOCABULARY, broken, decode))


def test_a_detokenizer_that_loses_something_is_found_out() -> None:
    assert "comes back as" in problem_of(VOCABULARY, encode, lambda ids: decode(ids).strip())
