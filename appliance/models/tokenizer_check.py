"""Whether an IR's tokenizer is the model's own: texts there and back, and the ids of special tokens. Pure.

A tokenizer that loses spaces or digits still answers, only worse: it has to be looked for. What a token stands for
is taken from a GGUF's own vocabulary, and what a text becomes from a checkpoint's own tokenizer, not from the IR.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

TEXTS = (
    "Hello, world! How are you today?",
    "  two spaces,\ttab,\n\nblank line   and a trailing space ",
    "In 2026, 1234567890 people paid 3.14159 € or $99.95 (−40 °C).",
    "def area(r: float) -> float:\n    return 3.14 * r ** 2  # m²\n",
    '{"key": [1, 2.5e-3, null], "path": "C:\\\\temp\\\\x.txt"}',
    "L'été, où naïve façade — “guillemets” … ½",
    "Größe, Straße, Übung; ¿Qué mañana? Ação, coração.",
    "Привет, мир! Съешь ещё этих булок.",
    "Γειά σου Κόσμε, ελληνικά.",
    "你好,世界!今天天气怎么样?",
    "日本語のテキストと漢字、カタカナ。",
    "안녕하세요, 세계!",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Xin chào thế giới, tiếng Việt có dấu.",
    "😀🎉👩‍👩‍👧‍👦🏳️‍🌈 emoji of every kind 👍🏽",
)
MOST_SPECIAL = 64  # tokens that are tried; some vocabularies have hundreds of reserved ones

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


class Vocabulary(Struct, frozen=True):
    """What the GGUF says of its tokens."""

    tokens: Sequence[str]
    types: Sequence[int]
    special_ids: Sequence[int]
    """Those that the file names: the ends, the padding."""


class Reference(NamedTuple):
    """A checkpoint's own tokenizer."""

    encode: Encode
    """Adds nothing."""
    decode: Decode
    """Leaves special tokens out."""
    special: Mapping[int, str]


def difference_of(reference: Reference, encode: Encode, decode: Decode) -> str:
    """What a tokenizer does otherwise than the reference, in a line; "" where nothing is."""
    for text in TEXTS:
        ids, wanted = encode(text), reference.encode(text)
        if ids != wanted:
            return f"{text!r} becomes {ids}, not {wanted}"
        if decode(ids) != reference.decode(wanted):
            return f"{text!r} comes back as {decode(ids)!r}"
    for number, token in sorted(reference.special.items())[:MOST_SPECIAL]:
        if encode(token) != [number]:
            return f"{token!r} becomes {encode(token)}, not [{number}]"
    return ""


def problem_of(vocabulary: Vocabulary, encode: Encode, decode: Decode) -> str:
    """What is wrong with a tokenizer, in a line; "" where nothing is."""
    for text in TEXTS:
        ids = encode(text)
        if not all(0 <= number < len(vocabulary.tokens) for number in ids):
            return f"{text!r} becomes token ids that the vocabulary does not have"
        found = b"".join(_bytes_of(vocabulary, number) for number in ids)
        if found != text.encode():
            return f"{text!r} becomes the tokens of {found.decode('utf-8', 'replace')!r}"
        if decode(ids) != text:
            return f"{text!r} comes back as {decode(ids)!r}"
    for number in _special(vocabulary):
        if encode(vocabulary.tokens[number]) != [number]:
            return f"{vocabulary.tokens[number]!r} becomes {encode(vocabulary.tokens[number])}, not [{number}]"
    return ""


def _special(vocabulary: Vocabulary) -> list[int]:
    control = [number for number, kind in enumerate(vocabulary.types) if kind == _CONTROL]
    named = [number for number in vocabulary.special_ids if 0 <= number < len(vocabulary.tokens)]
    return sorted({*named, *control[:MOST_SPECIAL]})


def _bytes_of(vocabulary: Vocabulary, number: int) -> bytes:
    token = vocabulary.tokens[number]
    kind = vocabulary.types[number] if number < len(vocabulary.types) else 0
    if kind in (_CONTROL, _USER_DEFINED):
        return token.encode()
    return b"".join(bytes([_BYTES[char]]) if char in _BYTES else char.encode() for char in token)


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: the printable ones stand for themselves, the others for U+0100 and what follows."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in own}
    others = [byte for byte in range(256) if byte not in own]
    return letters | {chr(0x100 + position): byte for position, byte in enumerate(others)}


_BYTES = _byte_letters()
