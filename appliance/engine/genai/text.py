"""Template, tokenizer and detokenizer of a loaded model, which both pipelines share."""

import re
from collections.abc import Sequence

import openvino_genai as ov_genai

from appliance.engine.base import Prompt, RequestRejected
from appliance.engine.drafts import kind_of
from appliance.engine.genai.options import reason
from appliance.types import Message

ZERO_WIDTH_SPACE = "\u200b"
_NAME = re.compile(rb"<[\x21-\x7e]+>|\[[A-Z_/]+\]")  # <|im_end|>, <s>, [INST]


class Text:
    """The prepare and decode of a Pipeline."""

    def __init__(self, tokenizer: ov_genai.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = _control_tokens(tokenizer)

    def prepare(self, messages: Sequence[Message]) -> Prompt:
        """See Pipeline."""
        turns = [{"role": message.role, "content": self._as_text(message.content)} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, True)
            # The template has written the special tokens itself.
            ids = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        except RuntimeError as error:
            raise RequestRejected(f"the model's chat template refused the messages: {reason(error)}") from error
        return Prompt(tokens=ids.shape[1], ids=ids, kind=kind_of(messages))

    def _as_text(self, content: str) -> str:
        """Content in which no control token is left, so that nobody can end a turn and speak as the system: an
        invisible U+200B after its first character makes a token's name plain text.
        """
        return self._control.sub(lambda name: name[0][0] + ZERO_WIDTH_SPACE + name[0][1:], content)

    def decode(self, batch: list[list[int]]) -> list[str]:
        """See Pipeline."""
        return list(self._tokenizer.decode(batch))


def _control_tokens(tokenizer: ov_genai.Tokenizer) -> re.Pattern[str]:
    """Matches the names of the tokens that the tokenizer reads as commands, such as <|im_end|>: they have no text."""
    named = [(name.decode(), token) for name, token in tokenizer.get_vocab().items() if _NAME.fullmatch(name)]
    texts = tokenizer.decode([[token] for _, token in named]) if named else []
    names = [name for (name, _), text in zip(named, texts, strict=True) if not text]
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)")
