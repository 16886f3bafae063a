"""Drafts from the ids so far, as GenAI's prompt lookup makes them, to compare with what came. Knows token ids only."""

from collections import deque
from collections.abc import Iterable

DRAFT_MAX_TOKENS = 16  # benchmarks/README.md: more has not paid on any prompt seen; less than a block of the KV cache
NGRAM_MAX_TOKENS = 3


class Shadow:
    """What drafts would bring one request, computed without any.

    A draft is what came after the earliest place of the last 3 ids, else of the last 2, else of the last one. A step
    yields the part of it that is right, and one token more.
    """

    def __init__(self, prompt: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._place_after: dict[tuple[int, ...], int] = {}
        self._draft: deque[int] | None = None  # None: prefill has not ended
        self._right = 0
        for token in prompt:
            self._append(token)

    def grow(self, ids: Iterable[int]) -> list[int]:
        """How many tokens were right of each draft that `ids` decide, 0 to DRAFT_MAX_TOKENS."""
        decided = []
        for token in ids:
            draft = self._draft
            self._append(token)
            if draft and token == draft[0]:
                draft.popleft()
                self._right += 1
                continue
            if draft is not None:
                decided.append(self._right)
            self._right = 0
            self._draft = deque(self._next())
        return decided

    def _append(self, token: int) -> None:
        place = len(self._ids)
        for size in range(1, min(NGRAM_MAX_TOKENS, place) + 1):
            self._place_after.setdefault(tuple(self._ids[place - size :]), place)
        self._ids.append(token)

    def _next(self) -> list[int]:
        count = len(self._ids)
        longest = NGRAM_MAX_TOKENS if count > NGRAM_MAX_TOKENS else count // 2
        for size in range(longest, 0, -1):
            place = self._place_after.get(tuple(self._ids[-size:]))
            if place is not None:
                return self._ids[place : place + DRAFT_MAX_TOKENS]
        return []
