"""How long a prompt may be. Knows token counts only."""

from msgspec import Struct


class Capacity(Struct, frozen=True, kw_only=True):
    """What one request may take of the model and the KV cache, known before the engine is ready."""

    context_tokens: int
    kv_cache_tokens: int

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves room for one token of answer."""
        return min(self.context_tokens, self.kv_cache_tokens) - 1
