"""Whether a model answers sanely and fast enough to take over. Knows one question and a last measurement; no engine."""

import re
import unicodedata

from msgspec import Struct

from appliance.models.slots import Measured, Slot

MAX_TOKENS = 32  # about a second of a 0.5B model on a small CPU
TIMEOUT_S = 60.0  # for one answer; a worker without any progress is found out sooner (engine.stall_timeout_s)
TRIES = 3  # of which the fastest counts: the machine serves meanwhile
LEAST_TIMED_TOKENS = 8  # fewer say nothing of speed
LEAST_UNITS = 12  # words, or characters where nothing is between them, of which some must differ
LEAST_DISTINCT_RATIO = 0.15
MOST_UNPRINTABLE_RATIO = 0.05
MOST_SCRIPTS = 3  # a name, a formula and the language itself; broken weights mix them all
SHOWN_CHARS = 80


class Expected(Struct, frozen=True, kw_only=True):
    """How fast a model has to be."""

    tokens_per_s: float
    why: str
    """In words, where that comes from."""


def nonsense(text: str, expect: str) -> str | None:
    """In words, what is wrong with a canary's answer; None where it is sane.

    `expect`: what it has to contain, in whatever case; empty for anything.
    """
    stripped = text.strip()
    if not stripped:
        return "it is empty"
    odd = sum(unicodedata.category(character)[0] == "C" or character == "\N{REPLACEMENT CHARACTER}" for character in
              re.sub(r"\s", "", stripped))  # fmt: skip
    if odd > MOST_UNPRINTABLE_RATIO * len(stripped):
        return f"{odd} of its {len(stripped)} characters are none that can be shown"
    words = stripped.split()
    units = words if len(words) >= LEAST_UNITS else list("".join(words))
    if len(units) >= LEAST_UNITS and len(set(units)) < LEAST_DISTINCT_RATIO * len(units):
        return "it says the same over and over"
    scripts = {_script(character) for character in stripped if character.isalpha()}
    if len(scripts) > MOST_SCRIPTS:
        return f"it mixes {len(scripts)} scripts"
    if expect.casefold() not in stripped.casefold():
        return f"it does not contain {expect!r} (models.canary_expect)"
    return None


def shown(text: str) -> str:
    """The beginning of an answer, for a log."""
    text = " ".join(text.split())
    return ascii(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "...")


def expected_speed(last: Measured | None, slot: Slot, read_bytes: int | None, min_ratio: float) -> Expected | None:
    """What `slot` has to reach after the last good measurement; None where there is none, or nothing is asked.

    Another model is expected to be slower as it reads more bytes for a token, which is what bounds decoding.
    """
    if last is None or not min_ratio:
        return None
    speed, scaled = last.tokens_per_s, ""
    if slot != last.slot and read_bytes and last.read_bytes:
        speed *= last.read_bytes / read_bytes
        scaled = f", {speed:.1f} for the bytes that this one reads"
    return Expected(
        tokens_per_s=min_ratio * speed,
        why=f"{min_ratio:g} (models.min_speed_ratio) of {last.tokens_per_s:.1f} with {last.slot}{scaled}",
    )


def _script(character: str) -> str:
    """LATIN, CYRILLIC, CJK …; what writes Japanese is one."""
    name = unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name
