"""How long a prompt may be, and what a request may come to take. Knows counts of tokens and KV blocks only."""

from msgspec import Struct

from appliance.engine.base import EngineLimits


class Capacity(Struct, frozen=True, kw_only=True):
    """What one request may take of the model and the KV cache, known before the engine is ready."""

    context_tokens: int
    kv_cache_tokens: int

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves room for one token of answer."""
        return min(self.context_tokens, self.kv_cache_tokens) - 1

    def longest_prompt(self, limits: EngineLimits) -> int:
        """The same in tokens, once an engine has said what its KV cache really holds."""
        return min(self.max_prompt_tokens, limits.kv_blocks * limits.block_tokens - 1)

    def worst_case(self, prompt_tokens: int, max_tokens: int, limits: EngineLimits) -> tuple[int, int]:
        """Most tokens of an answer, at most `max_tokens`, that the context leaves; KV blocks of prompt and answer."""
        room = min(self.context_tokens, limits.kv_blocks * limits.block_tokens) - prompt_tokens
        most = min(max_tokens, room)
        return most, -(-(prompt_tokens + most) // limits.block_tokens)
