"""How many tokens to draft for a request: from what drafts of its kind brought, and what a wider step costs.

Knows token ids and step times; knows no pipeline.

Prompt lookup lets one step yield several tokens where the answer repeats its prompt, and makes each step wider, and so
slower, where it does not. What it brings, or would bring, is known with and without it: see `Shadow`.
"""

import math
import re
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from msgspec import Struct

from appliance.engine.ngram import DRAFT_MAX_TOKENS, Shadow
from appliance.types import Message

GAIN_WINDOW_S = 4.0  # of steps, over which the gain is averaged
DOCUMENT_CHARS = 1200  # about 300 tokens
CODE_LINES = 4
GREEDY_BELOW = 0.3  # a temperature that mostly takes the likeliest token
STEPS_REMEMBERED = 15  # of each width; their median is not moved by a step that compiles, or waits for a busy core

_CODE = re.compile(r"^(?: {2,}|\t)\S|[;{}]\s*$|^\s*(?:def|class|import|return|function|#include)\b", re.MULTILINE)

# Before anything has been seen: the share of drafts whose first token is right, and of those the share whose next is.
_PRIOR = {"code": (0.70, 0.87), "document": (0.30, 0.70), "free": (0.08, 0.50)}
_PRIOR_WEIGHT = 6.0  # drafts that the prior counts for: about as many as one answer decides that quotes its prompt
_MEMORY = 0.998  # what one draft leaves of the weight of those before it: about the last 500 count
_FADE = 0.75  # and what one answer leaves: a row of answers of one sort tells more than all of the morning
_OWN_WEIGHT = 2.0  # drafts that its kind counts for in what one answer is thought to gain
GAIN_EVERY_STEPS = 8  # it takes as long as making text of the tokens, and changes slowly

# Milliseconds of a step by its rows (tokens computed), as on 2 cores with AVX2_VNNI; only ratios matter, and what is
# seen replaces them.
_ROWS = (1, 2, 4, 6, 9, 13, 17, 26, 36, 52, 68)
_STEP_MS = (26.0, 27.5, 34.0, 40.0, 48.0, 61.0, 76.0, 115.0, 155.0, 215.0, 320.0)


def kind_of(messages: Sequence[Message]) -> str:
    """What a prompt is, as far as drafts care: "code", "document" or "free"."""
    text = "\n".join(message.content for message in messages)
    if "```" in text or sum(1 for _ in zip(range(CODE_LINES), _CODE.finditer(text), strict=False)) == CODE_LINES:
        return "code"
    return "document" if len(text) >= DOCUMENT_CHARS else "free"


class _Acceptance:
    """Of the drafts of one kind, or of one answer: the share of which at least 1, 2 … tokens were right."""

    def __init__(self, weight: float, right: list[float]) -> None:
        self._weight = weight
        self._right = right

    @classmethod
    def of_kind(cls, kind: str) -> "_Acceptance":
        first, further = _PRIOR[kind]
        return cls(_PRIOR_WEIGHT, [_PRIOR_WEIGHT * first * further**place for place in range(DRAFT_MAX_TOKENS)])

    def of_one_more(self) -> "_Acceptance":
        """What an answer of this kind begins with: soon its own drafts decide."""
        return _Acceptance(_OWN_WEIGHT, [count * _OWN_WEIGHT / self._weight for count in self._right])

    def fade(self) -> None:
        """An answer has ended: those before it count for less."""
        self._weight *= _FADE
        self._right = [count * _FADE for count in self._right]

    def add(self, right: int) -> None:
        self._weight = self._weight * _MEMORY + 1
        self._right = [count * _MEMORY + (right > place) for place, count in enumerate(self._right)]

    def tokens_per_step(self, drafted: int) -> float:
        """Tokens that one step yields with `drafted` draft tokens, >= 1."""
        return 1 + sum(self._right[:drafted]) / self._weight


class _StepTimes:
    """How long a step of so many rows takes."""

    def __init__(self) -> None:
        self._ratios: dict[int, deque[float]] = {}
        self._typical: dict[int, float] = {}

    def add(self, rows: int, step_s: float) -> None:
        nearest = min(_ROWS, key=lambda known: abs(known - rows))
        ratios = self._ratios.setdefault(nearest, deque(maxlen=STEPS_REMEMBERED))
        ratios.append(step_s / _prior_s(rows))
        self._typical[nearest] = median(ratios)

    def of(self, rows: int) -> float:
        """Seconds; of a width that was not seen as long as its nearest lets expect."""
        if not self._typical:
            return _prior_s(rows)
        return _prior_s(rows) * self._typical[min(self._typical, key=lambda known: abs(known - rows))]


def _prior_s(rows: int) -> float:
    if rows >= _ROWS[-1]:
        return _STEP_MS[-1] * rows / _ROWS[-1] / 1000
    upper = next(place for place, known in enumerate(_ROWS) if known >= rows)
    if _ROWS[upper] == rows:
        return _STEP_MS[upper] / 1000
    share = (rows - _ROWS[upper - 1]) / (_ROWS[upper] - _ROWS[upper - 1])
    return (_STEP_MS[upper - 1] + share * (_STEP_MS[upper] - _STEP_MS[upper - 1])) / 1000


class _Request(Struct):
    kind: _Acceptance
    own: _Acceptance
    drafted: int
    shadow: Shadow
    answering: bool = False


class Drafts:
    """The requests of one pipeline: how much each drafts, and what drafting gains over none."""

    def __init__(self, *, drafting: bool) -> None:
        self._drafting = drafting
        self._requests: dict[int, _Request] = {}
        self._acceptances: dict[tuple[str, bool], _Acceptance] = {}
        self._times = _StepTimes()
        self._steps = 0
        self._decoding_gain_now = 1.0
        self._seconds_with = 0.0
        self._seconds_without = 0.0

    @property
    def gain(self) -> float | None:
        """Speed with the best number of draft tokens over that without any, prompts and answers together, for the load
        of the last seconds: above 1 drafting pays. None until something was computed.
        """
        return self._seconds_without / self._seconds_with if self._seconds_with else None

    def start(self, request_id: int, kind: str, temperature: float, prompt: Iterable[int]) -> int:
        """Draft tokens for a new request, 1 to DRAFT_MAX_TOKENS: what yields the most tokens a second beside those that
        run, whose drafts stay as they are. 0 where this pipeline doesn't draft.
        """
        key = (kind, temperature < GREEDY_BELOW)
        acceptance = self._acceptances.setdefault(key, _Acceptance.of_kind(kind))
        drafted = self._best_for(acceptance) if self._drafting else 0
        self._requests[request_id] = _Request(acceptance, acceptance.of_one_more(), drafted, Shadow(prompt))
        return drafted

    def step(self, tokens: dict[int, list[int]], ended: Iterable[int], step_s: float) -> tuple[int, int]:
        """What one step brought; returns the tokens drafted in it, and those of them that were right."""
        running = self._requests.values()
        if running and all(request.answering for request in running):  # no prefill among them
            self._times.add(sum(1 + request.drafted for request in running), step_s)
            if self._steps % GAIN_EVERY_STEPS == 0:
                self._decoding_gain_now = self._decoding_gain()
            self._steps += 1
            self._weigh(step_s, self._decoding_gain_now)
        elif running:
            self._weigh(step_s, 1.0)  # prompts take as long either way
        drafted = right = 0
        for request_id, ids in tokens.items():
            request = self._requests.get(request_id)
            if request is None or not ids:
                continue
            if request.answering:
                drafted += request.drafted
                right += min(len(ids) - 1, request.drafted)
            request.answering = True
            for length in request.shadow.grow(ids):
                request.kind.add(length)
                request.own.add(length)
        for request_id in ended:
            gone = self._requests.pop(request_id, None)
            if gone is not None and gone.answering:
                gone.kind.fade()
        return drafted, right

    def _best_for(self, acceptance: _Acceptance) -> int:
        rows = sum(1 + request.drafted for request in self._requests.values())
        tokens = sum(request.own.tokens_per_step(request.drafted) for request in self._requests.values())

        def tokens_per_s(drafted: int) -> float:
            return (tokens + acceptance.tokens_per_step(drafted)) / self._times.of(rows + 1 + drafted)

        return max(range(1, DRAFT_MAX_TOKENS + 1), key=tokens_per_s)

    def _decoding_gain(self) -> float:
        count = len(self._requests)

        def tokens_per_s(drafted: int) -> float:
            tokens = sum(request.own.tokens_per_step(drafted) for request in self._requests.values())
            return tokens / self._times.of(count * (1 + drafted))

        return max(map(tokens_per_s, range(1, DRAFT_MAX_TOKENS + 1))) / tokens_per_s(0)

    def _weigh(self, step_s: float, gain: float) -> None:
        """Count what a step took, and what it would have taken the other way, against those before it."""
        rest = math.exp(-step_s / GAIN_WINDOW_S)
        took_with = step_s if self._drafting else step_s / gain
        self._seconds_with = self._seconds_with * rest + took_with
        self._seconds_without = self._seconds_without * rest + took_with * gain
