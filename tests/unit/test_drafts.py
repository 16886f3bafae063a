"""Drafts from the prompt: what they would bring, and how many tokens each request drafts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.drafts import GAIN_WINDOW_S, Drafts, kind_of
from appliance.engine.ngram import DRAFT_MAX_TOKENS, NGRAM_MAX_TOKENS, Shadow
from appliance.types import Message

PROGRAM = "def total(items):\n    result = 0\n    for item in items:\n        result += item\n    return result\n"


def draft_of(ids: list[int]) -> list[int]:
    """GenAI's own search, as its source has it (prompt_lookup, generate_candidates)."""
    longest = len(ids) // 2 if len(ids) <= NGRAM_MAX_TOKENS else NGRAM_MAX_TOKENS
    for size in range(longest, 0, -1):
        for place in range(len(ids) - size):
            if ids[place : place + size] == ids[-size:]:
                return ids[place + size : place + size + DRAFT_MAX_TOKENS]
    return []


def rights_of(prompt: list[int], answer: list[int]) -> list[int]:
    """The right beginnings of the drafts of an answer, step by step."""
    rights, ids, rest = [], [*prompt, *answer[:1]], answer[1:]
    while rest:
        right = 0
        for drafted, token in zip(draft_of(ids), rest, strict=False):
            if drafted != token:
                break
            right += 1
        if right == len(rest):
            break  # undecided: the answer ends within the draft
        rights.append(right)
        ids += rest[: right + 1]
        rest = rest[right + 1 :]
    return rights


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.lists(st.integers(0, 4), max_size=30), st.data())
def test_the_shadow_drafts_as_genai_does(prompt: list[int], answer: list[int], data: st.DataObject) -> None:
    shadow, seen, place = Shadow(prompt), [], 0
    while place < len(answer):  # however ids fall into steps
        size = data.draw(st.integers(1, len(answer) - place))
        seen += shadow.grow(answer[place : place + size])
        place += size
    assert seen == rights_of(prompt, answer)


def test_an_answer_that_repeats_its_prompt_is_drafted_whole() -> None:
    text = list(range(100, 100 + 1 + 3 * (DRAFT_MAX_TOKENS + 1)))  # the first token, then all drafted and one more
    assert Shadow(text).grow(text) == [DRAFT_MAX_TOKENS] * 3


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Tell a story about a baker.", "free"),
        ("word " * 400, "document"),
        (f"Rename total in this:\n{PROGRAM}", "code"),
        ("What is wrong here?\n```\nx = 1\n```", "code"),
        ("int a;\nint b;\nint c;\nint d;\n", "code"),
    ],
)
def test_a_prompt_is_known_by_its_length_and_its_lines(text: str, kind: str) -> None:
    assert kind_of([Message("system", "Be brief."), Message("user", text)]) == kind


def answer(drafts: Drafts, request_id: int, ids: list[int]) -> None:
    """One token a step, however many are drafted."""
    for token in ids:
        drafts.step({request_id: [token]}, (), 0.03)


def test_alone_a_program_drafts_much_and_a_story_little() -> None:
    drafts = Drafts(drafting=True)
    assert drafts.start(1, "code", 0.0, [1, 2, 3]) >= 4
    drafts.step({}, [1], 0.1)
    assert drafts.start(2, "free", 0.7, [1, 2, 3]) == 1


def test_under_load_nobody_drafts_much() -> None:
    drafts = Drafts(drafting=True)
    counts = [drafts.start(number, "document", 0.7, [1, 2, 3]) for number in range(8)]
    assert counts[-1] == 1


def test_what_a_kind_brought_counts_more_than_what_was_expected_of_it() -> None:
    drafts = Drafts(drafting=True)
    text = list(range(1000, 1600))
    assert drafts.start(1, "free", 0.0, text) <= 2
    answer(drafts, 1, text)
    drafts.step({}, [1], 0.03)
    assert drafts.start(2, "free", 0.0, text) == DRAFT_MAX_TOKENS
    drafts.step({}, [2], 0.03)
    assert drafts.start(3, "free", 0.9, text) <= 2, "sampled answers are another kind"


@pytest.mark.parametrize("drafting", [True, False])
def test_the_gain_is_told_with_and_without_drafting_and_falls_with_the_load(drafting: bool) -> None:
    drafts = Drafts(drafting=drafting)
    before = drafts.gain
    text = list(range(1000, 1000 + round(2 * GAIN_WINDOW_S / 0.03)))
    assert (drafts.start(1, "code", 0.0, text) > 0) == drafting
    answer(drafts, 1, text)
    alone = drafts.gain
    drafts.step({}, [1], 0.03)
    rows = sum(1 + drafts.start(number, "free", 0.7, [number]) for number in range(2, 10))
    for place in range(round(5 * GAIN_WINDOW_S / 0.06)):  # no two alike: nothing could be drafted
        drafts.step({number: [number * 10_000 + place] for number in range(2, 10)}, (), 0.02 + 0.005 * rows)
    under_load = drafts.gain
    assert before is None
    assert alone is not None
    assert alone > 1.5
    assert under_load is not None
    assert under_load < 0.95


def test_what_was_drafted_and_right_is_counted() -> None:
    drafts = Drafts(drafting=True)
    count = drafts.start(1, "code", 0.0, [1, 2, 3, 4])
    assert drafts.step({1: [1]}, (), 0.03) == (0, 0)  # the end of the prefill
    assert drafts.step({1: [2, 3]}, (), 0.03) == (count, 1)
    assert drafts.step({1: [9]}, [1], 0.03) == (count, 0)
    assert drafts.step({1: [9]}, (), 0.03) == (0, 0)


def whole(drafts: Drafts, request_id: int, prompt: list[int], ids: list[int]) -> int:
    """Answer a long prompt, one token a step; returns how many tokens the request drafts."""
    drafted = drafts.start(request_id, "document", 0.0, prompt)
    answer(drafts, request_id, ids)
    drafts.step({}, [request_id], 0.03)
    return drafted


def test_an_answer_that_quotes_is_seen_to_gain_though_others_of_its_kind_did_not() -> None:
    drafts = Drafts(drafting=False)
    for number in range(5):  # no two tokens alike: nothing could be drafted
        whole(drafts, number, [1], list(range(1000 * number, 1000 * number + 200)))
    before = drafts.gain
    text = list(range(50_000, 50_128))
    drafts.start(9, "document", 0.0, text)
    answer(drafts, 9, text)
    assert before is not None
    assert before < 1.1
    assert drafts.gain is not None
    assert drafts.gain > 1.5


def test_the_last_answers_count_more_than_those_before() -> None:
    drafts = Drafts(drafting=True)
    for number in range(3):
        whole(drafts, number, [1], list(range(1000 * number, 1000 * number + 100)))
    text = list(range(50_000, 50_120))
    counts = [whole(drafts, 10 + number, text, text) for number in range(10)]
    assert counts[0] <= 2
    assert counts[-1] >= DRAFT_MAX_TOKENS // 2
    assert whole(drafts, 30, [1], list(range(60_000, 60_300))) == counts[-1]
    assert drafts.start(31, "document", 0.0, text) < counts[-1]
