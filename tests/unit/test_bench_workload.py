"""Prompts for measuring: deterministic, of the wanted length, and unlike each other."""

from itertools import combinations

import pytest

from appliance.bench.workload import (
    CHAT_TURNS,
    KINDS,
    LEAST_PROMPT_TOKENS,
    TEMPLATE_TOKENS,
    Kind,
    Workload,
    estimated_tokens,
    messages,
    sampling_seed,
)

BLOCK_WORDS = 6  # far below what fills a block of any prefix cache


def workload(kind: Kind, prompt_tokens: int = 249, *, shared_prefix: float = 0.0, seed: int = 1) -> Workload:
    return Workload(kind=kind, prompt_tokens=prompt_tokens, output_tokens=48, shared_prefix=shared_prefix, seed=seed)


def common_words(one: str, other: str) -> int:
    pairs = zip(one.split(), other.split(), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.split()), len(other.split())))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_workload_client_and_turn_ask_the_same(kind: Kind) -> None:
    first, again = (messages(workload(kind), 3, 17) for _ in range(2))
    assert first == again
    assert sampling_seed(workload(kind), 3, 17) == sampling_seed(workload(kind), 3, 17)
    assert messages(workload(kind, seed=2), 3, 17) != first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt_tokens", [249, 969])
def test_prompts_are_as_long_as_wanted(kind: Kind, prompt_tokens: int) -> None:
    for client in range(5):
        prompt = messages(workload(kind, prompt_tokens), client, 0)
        tokens = TEMPLATE_TOKENS + sum(estimated_tokens(message.content) for message in prompt)
        assert tokens == pytest.approx(prompt_tokens, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_prompt_of_a_kind_has_its_length(kind: Kind) -> None:
    least = LEAST_PROMPT_TOKENS[kind]
    prompt = messages(workload(kind, least), 0, 0)
    assert TEMPLATE_TOKENS + sum(estimated_tokens(message.content) for message in prompt) == pytest.approx(
        least, rel=0.1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_requests_begin_alike(kind: Kind) -> None:
    step = CHAT_TURNS if kind == "chat" else 1
    openings = [messages(workload(kind), client, turn * step)[0].content for client in range(8) for turn in range(20)]
    assert max(common_words(one, other) for one, other in combinations(openings, 2)) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_begins_otherwise_from_the_first_request_on(kind: Kind) -> None:
    openings = [messages(workload(kind, seed=seed), 0, 0)[0].content for seed in range(100)]
    assert max(common_words(one, other) for one, other in combinations(openings, 2)) < BLOCK_WORDS
    assert len({opening.split()[0] for opening in openings}) > 50


def test_a_share_of_the_requests_begins_with_the_common_text() -> None:
    half = workload("free", shared_prefix=0.5)
    openings = [messages(half, client, turn)[0].content for client in range(10) for turn in range(20)]
    common = max(set(openings), key=openings.count)
    assert 60 < openings.count(common) < 140
    assert estimated_tokens(common) == pytest.approx(249 / 2, rel=0.15)
    everything = [messages(workload("free", shared_prefix=1.0), client, 5) for client in range(10)]
    assert {prompt[0].content for prompt in everything} == {common}
    questions = [prompt[1].content for prompt in everything]
    assert all(common_words(one, other) < BLOCK_WORDS for one, other in combinations(questions, 2))


def test_a_chat_goes_on_where_it_was_and_begins_anew_after_its_turns() -> None:
    chat = workload("chat")
    answers = [f"Answer {turn}." for turn in range(CHAT_TURNS)]
    for turn in range(1, CHAT_TURNS):
        before, now = (messages(chat, 2, t, answers[:t]) for t in (turn - 1, turn))
        assert now[: len(before)] == before
        assert [message.role for message in now[len(before) :]] == ["assistant", "user"]
        assert now[len(before)].content == answers[turn - 1]
    assert len(messages(chat, 2, CHAT_TURNS)) == 2
    assert messages(chat, 2, CHAT_TURNS)[0] != messages(chat, 2, 0)[0]


def test_a_chat_without_answers_has_texts_of_their_length_in_their_place() -> None:
    prompt = messages(workload("chat"), 0, 2)
    assert [message.role for message in prompt] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [estimated_tokens(m.content) for m in prompt if m.role == "assistant"] == [48, 48]


def test_a_grounded_request_has_a_document_to_quote() -> None:
    text = messages(workload("grounded"), 0, 0)[1].content
    heading, document, wish = text.split("\n", 1)[0], *text.split("\n", 1)[1].split("\n\n")
    assert heading == "Document:"
    assert estimated_tokens(document) > 200
    assert "document" in wish


def test_a_program_compiles_and_has_the_name_that_is_to_be_changed() -> None:
    for turn in range(20):
        text = messages(workload("code"), 0, turn)[1].content
        program = text.split("```python\n")[1].split("\n```")[0]
        compile(program, "workload", "exec")
        name = text.split("with the name ")[1].split(" changed")[0]
        assert f"def {name}(" in program
