"""What the files of a model say of it, in this project's words, whatever kind of files they are. Reads none."""

import re
from collections.abc import Iterable
from typing import TypeGuard

from msgspec import Struct

from appliance.types import GenerationDefaults

KNOWN_ENDS = frozenset({"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>"})
LEAST_CONTEXT_TOKENS = 128
MOST_CONTEXT_TOKENS = 1 << 24
MOST_TEXT = 200
MOST_LANGUAGES = 64

_LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC-BY-4.0"}
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]")


class Facts(Struct, frozen=True, kw_only=True):
    """What an import needs to know before it begins."""

    architecture: str
    name: str = ""
    licence: str = ""
    """SPDX where the files' word is known, else that word; empty where they have none."""
    languages: tuple[str, ...] = ()
    context_tokens: int
    parameters: int
    """Weights in the files; a matrix that is there twice counts twice."""
    f16_bytes: int
    """Of the same model with F16 matrices."""
    matrix_types: tuple[str, ...]
    """Largest share first."""
    eos_tokens: tuple[str, ...] = ()
    generation: GenerationDefaults | None = None
    """The makers' own defaults, where the files have them."""


def one_line(value: object) -> str:
    """For people and terminals: printable characters, not too many; "" where it is no text."""
    return _UNPRINTABLE.sub(" ", value).strip()[:MOST_TEXT] if isinstance(value, str) else ""


def licence_of(value: object) -> str:
    """The SPDX id of a licence that is known, else its own word for itself."""
    text = one_line(value)
    return _LICENCES.get(text.lower(), text)


def is_context(value: object) -> TypeGuard[int]:
    """Whether that is a number of tokens that a model may read at once."""
    return isinstance(value, int) and LEAST_CONTEXT_TOKENS <= value <= MOST_CONTEXT_TOKENS


def languages_of(codes: Iterable[str]) -> tuple[str, ...]:
    """Codes of languages, in the files' order; not too many, and none too long."""
    return tuple(one_line(code)[:16] for code in codes)[:MOST_LANGUAGES]


def types_of(matrices: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    """The types of matrices, given with their weights; the largest share first."""
    shares: dict[str, int] = {}
    for name, weights in matrices:
        shares[name] = shares.get(name, 0) + weights
    return tuple(sorted(shares, key=lambda name: -shares[name]))


def ends_of(tokens: Iterable[str]) -> tuple[str, ...]:
    """Tokens that end an answer, each once; none that is empty or too long to be one."""
    return tuple(dict.fromkeys(token for token in tokens if token and len(token) <= MOST_TEXT))
