"""The chat template of a directory of tokenizers, applied to text of our own. Knows no model and no pipeline."""

from collections.abc import Callable, Sequence
from pathlib import Path

import openvino_genai as ov_genai

from appliance.types import Message


def open_renderer(directory: Path) -> Callable[[Sequence[Message], bool], str]:
    """The template's text of messages; true adds the beginning of an answer.

    What messages contain is not made harmless, as it is in a pipeline. The function raises RuntimeError in GenAI's
    words where there is no template, or it refuses the messages.
    """
    tokenizer = ov_genai.Tokenizer(directory)

    def render(messages: Sequence[Message], begin_answer: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(tokenizer.apply_chat_template(turns, begin_answer))

    return render
