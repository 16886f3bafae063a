"""Joined deltas against the real tokenizer's own decoding, in this process."""

import random
from typing import TYPE_CHECKING

import pytest

from appliance.engine.ipc import Load
from appliance.engine.text import REPLACEMENT, Answer, advance_all
from appliance.types import Message, Sampling

if TYPE_CHECKING:
    from appliance.engine.genai.continuous_batching import ContinuousBatching

pytestmark = pytest.mark.model

TEXTS = [
    "😀🎉👩‍👩‍👧‍👦🏳️‍🌈 emoji of every kind",
    "日本語のテキストと漢字。你好,世界!한국어 텍스트",
    "€ £ naïve façade — “quotes” … ½ ² ∑ √",
    "\n\n  leading and trailing space  \n\ttabs\t\n",
    "العربية עברית ไทย हिन्दी",
]


@pytest.fixture(scope="module")
def pipeline(real_load: Load) -> "ContinuousBatching":
    from appliance.engine.genai.continuous_batching import ContinuousBatching

    return ContinuousBatching(real_load)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 3])
def test_text_survives_tokens_one_by_one(pipeline: "ContinuousBatching", text: str, size: int) -> None:
    ids = pipeline.prepare([Message("user", text)]).ids.data[0].tolist()
    whole = pipeline.decode([ids])[0]
    assert text.strip() in whole
    assert joined(pipeline, [ids[i : i + size] for i in range(0, len(ids), size)]) == whole


def test_any_ids_join_to_their_decoding_less_an_incomplete_end(pipeline: "ContinuousBatching") -> None:
    generator = random.Random(20)
    for _ in range(50):
        ids = [generator.randrange(49_000) for _ in range(40)]
        assert joined(pipeline, [[i] for i in ids]) == pipeline.decode([ids])[0].rstrip(REPLACEMENT)


def test_a_generated_answer_joins_to_the_decoding_of_its_ids(pipeline: "ContinuousBatching") -> None:
    sampling = Sampling(max_tokens=120, temperature=0.9, top_p=1, top_k=0, repetition_penalty=1, seed=3)
    pipeline.start(1, pipeline.prepare([Message("user", "Repeat: 😀 日本語 🎉 €uro 你好 👍🏽")]), sampling)
    answer, texts = Answer(), []
    while pipeline.busy:
        output = pipeline.step()
        answer.ids += output.tokens.get(1, []) if output else []
        texts += advance_all([answer], pipeline.decode)
    assert any(ord(char) > 0x2000 for char in "".join(texts)), "no emoji came, so nothing was tried"
    assert "".join(texts) == pipeline.decode([answer.ids])[0].rstrip(REPLACEMENT)


def joined(pipeline: "ContinuousBatching", steps: list[list[int]]) -> str:
    answer, texts = Answer(), []
    for ids in steps:
        answer.ids += ids
        texts += advance_all([answer], pipeline.decode)
    return "".join(texts)
