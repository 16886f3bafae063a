"""Token ids to text that can be streamed: whole characters, cut at stop strings. Knows no engine and no model."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for bytes that are no character (yet)

Decode = Callable[[list[list[int]]], list[str]]


class Answer:
    """The text of one answer as it grows.

    Only a window of the last ids is decoded, from a place where text and ids were known to agree, so a token that
    has text costs the same late in an answer as early, and a tokenizer that treats the first id of a list in its own
    way still gives the right text. Joined, the deltas are the decoding of all ids, less an incomplete last
    character, cut before the first stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.stopped = False
        self._stop = tuple(stop)
        self._window_start = 0
        self._agreed_end = 0
        self._sent_chars: int | None = None  # of the window's text; None: as far as _agreed_end reaches
        self._held = ""  # text that may be the beginning of a stop string

    def window(self) -> tuple[list[int], list[int]]:
        """The ids to decode for `advance`: those whose text went out, and all of the window."""
        return self.ids[self._window_start : self._agreed_end], self.ids[self._window_start :]

    def advance(self, agreed_text: str, window_text: str) -> str:
        """The new text, given the decoding of both parts of `window`."""
        sent = len(agreed_text) if self._sent_chars is None else self._sent_chars
        whole = window_text.rstrip(REPLACEMENT)
        fresh = whole[sent:]
        if len(whole) == len(window_text) and fresh:
            self._window_start, self._agreed_end = self._agreed_end, len(self.ids)
            self._sent_chars = None
        else:
            self._sent_chars = max(sent, len(whole))
        return self._cut(fresh)

    def rest(self) -> str:
        """What was held back for a stop string that did not come; call once, at the end."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _cut(self, fresh: str) -> str:
        if not self._stop or self.stopped:
            return "" if self.stopped else fresh
        text = self._held + fresh
        found = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]  # of the one that is complete first, however tokens fall into steps
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def advance_all(answers: Sequence[Answer], decode: Decode) -> list[str]:
    """The new text of each answer, with one call of the tokenizer for all."""
    windows = [part for answer in answers for part in answer.window()]
    if not windows:
        return []
    filled = [part for part in windows if part]
    texts = iter(decode(filled) if filled else [])
    decoded = [next(texts) if part else "" for part in windows]
    return [answer.advance(decoded[2 * i], decoded[2 * i + 1]) for i, answer in enumerate(answers)]
