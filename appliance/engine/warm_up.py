"""Answers that nobody asked for: a worker's first, and an idle one's proof that it works. Knows the Pipeline only."""

from appliance.engine.base import Pipeline
from appliance.types import Message, Sampling

WARM_UP_TOKENS = 4


def warm_up(pipeline: Pipeline) -> None:
    """Generate a few tokens: a worker compiles lazily, and nobody should wait for it. Raises RuntimeError where none
    comes.
    """
    if not generate(pipeline, WARM_UP_TOKENS):
        raise RuntimeError("the warm-up produced no token")


def generate(pipeline: Pipeline, max_tokens: int) -> int:
    """Answer a tiny prompt to its end, while nothing else runs; returns how many tokens came."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
    pipeline.start(0, pipeline.prepare([Message("user", "Hello")]), sampling)
    produced = 0
    while pipeline.busy:
        output = pipeline.step()
        produced += len(output.tokens.get(0, ())) if output else 0
    return produced
