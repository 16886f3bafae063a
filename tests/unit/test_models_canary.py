"""The verdict on a canary: what is nonsense, in several languages, and what is too slow."""

import pytest

from appliance.engine.fake import expected_answer
from appliance.models.canary import expected_speed, nonsense, shown
from appliance.models.slots import Measured, Slot

A, B = Slot("model", "a" * 16), Slot("other", "b" * 16)

SANE = [
    "Paris.",
    "Paris is the capital and most populous city of France, with an estimated population of 2.1 million.",
    "巴黎(Paris)是法国的首都,也是法国最大的城市,位于塞纳河畔。这座城市以其艺术、时尚和美食而闻名。",
    "パリ (Paris) はフランスの首都であり、セーヌ川のほとりにある世界で最も有名な都市のひとつです。",
    "Париж (Paris) — столица и крупнейший город Франции, расположенный на реке Сене.",
    "# Paris\n\n- **Country**: France\n- **River**: Seine\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "Paris, Paris, Paris! The city of light 🗼✨ has π ≈ 3.14 million reasons.",
    expected_answer("Tell me about Paris, the capital of France.", 32),
]
NONSENSE = [
    ("", "empty"),
    (" \n\t ", "empty"),
    ("!" * 32, "over and over"),
    ("the " * 32, "over and over"),
    ("巴" * 40, "over and over"),
    ("Paris \ufffd\ufffd\ufffd \ufffd and \ufffd", "none that can be shown"),
    ("Paris\x00\x01\x02\x03\x04", "none that can be shown"),
    ("Paris لل 쥬스 наш ευ zürich กข fin 法 deux", "mixes"),
    ("The capital is a very large town with many people in it and some of them", "does not contain 'Paris'"),
]


@pytest.mark.parametrize("text", SANE)
def test_what_a_model_may_say_is_sane(text: str) -> None:
    assert nonsense(text, "Paris") is None


@pytest.mark.parametrize(("text", "reason"), NONSENSE)
def test_what_broken_weights_say_is_nonsense(text: str, reason: str) -> None:
    assert reason in (nonsense(text, "Paris") or "")


def test_what_is_expected_is_found_in_any_case_and_may_be_anything() -> None:
    assert nonsense("PARIS, OF COURSE", "paris") is None
    assert nonsense("Lyon, perhaps", "") is None


def test_what_is_shown_is_short_and_harmless() -> None:
    assert shown("one\n\x1b[31mtwo") == r"'one \x1b[31mtwo'"
    assert len(shown("x" * 500)) == 85


def measured(read_bytes: int | None) -> Measured:
    return Measured(slot=A, tokens_per_s=40.0, read_bytes=read_bytes, at="now")


def test_without_a_measurement_or_a_ratio_nothing_is_expected() -> None:
    assert expected_speed(None, B, 100, 0.5) is None
    assert expected_speed(measured(100), B, 100, 0.0) is None


@pytest.mark.parametrize(
    ("slot", "before", "after", "expected"),
    [
        (A, 100, 200, 20.0),  # the same model: as it was
        (B, 100, 200, 10.0),  # one that reads twice as much for a token is half as fast
        (B, 100, 50, 40.0),
        (B, None, 200, 20.0),
        (B, 100, None, 20.0),
    ],
)
def test_speed_is_expected_by_what_a_model_reads(
    slot: Slot, before: int | None, after: int | None, expected: float
) -> None:
    found = expected_speed(measured(before), slot, after, 0.5)
    assert found is not None
    assert found.tokens_per_s == expected
    assert f"0.5 (models.min_speed_ratio) of 40.0 with {A}" in found.why
