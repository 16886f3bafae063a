"""The first answer of a worker, which compiles lazily and nobody should wait for. Knows the Pipeline contract."""

from appliance.engine.base import Pipeline
from appliance.types import Message, Sampling

WARM_UP_TOKENS = 4


def warm_up(pipeline: Pipeline) -> None:
    """Generate a few tokens. Raises RuntimeError where none comes."""
    sampling = Sampling(max_tokens=WARM_UP_TOKENS, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
    pipeline.start(0, pipeline.prepare([Message("user", "Hello")]), sampling)
    produced = 0
    while pipeline.busy:
        output = pipeline.step()
        produced += len(output.tokens.get(0, ())) if output else 0
    if not produced:
        raise RuntimeError("the warm-up produced no token")
