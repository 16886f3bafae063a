"""Template, tokenizer and detokenizer of a loaded model, which both pipelines share."""

from collections.abc import Sequence

import openvino_genai as ov_genai

from appliance.engine.base import Prompt, RequestRejected
from appliance.engine.genai.options import reason
from appliance.types import Message


class Text:
    """The prepare and decode of a Pipeline."""

    def __init__(self, tokenizer: ov_genai.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def prepare(self, messages: Sequence[Message]) -> Prompt:
        """See Pipeline."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, True)
            # The template has written the special tokens itself.
            ids = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        except RuntimeError as error:
            raise RequestRejected(f"the model's chat template refused the messages: {reason(error)}") from error
        return Prompt(tokens=ids.shape[1], ids=ids)

    def decode(self, batch: list[list[int]]) -> list[str]:
        """See Pipeline."""
        return list(self._tokenizer.decode(batch))
