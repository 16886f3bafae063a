"""Messages that deserve an error, and which one. Knows the protocol, sends nothing."""

from msgspec import Struct

MESSAGES = '"messages": [{"role": "user", "content": "hello"}]'


class BadMessage(Struct, frozen=True):
    """A frame, the code that it deserves, and the id that the error may bear besides none."""

    name: str
    text: str
    """Empty for one that is more than a text."""
    code: str
    error_id: str | None = None


BAD_MESSAGES = (
    BadMessage("not JSON", "hello?", "bad_message"),
    BadMessage("half an object", '{"type": "chat", "id": "r"', "bad_message"),
    BadMessage("a list", "[1, 2, 3]", "bad_message"),
    BadMessage("nested deep", "[" * 5000, "bad_message"),
    BadMessage("unknown type", '{"type": "dance", "id": "r"}', "bad_message", "r"),
    BadMessage("no type", '{"id": "r"}', "bad_message", "r"),
    BadMessage("no messages", '{"type": "chat", "id": "r"}', "bad_message", "r"),
    BadMessage("unknown field", f'{{"type": "chat", "id": "r", {MESSAGES}, "colour": "red"}}', "bad_message", "r"),
    BadMessage("mistyped", f'{{"type": "chat", "id": "r", {MESSAGES}, "deadline_s": "soon"}}', "bad_message", "r"),
    BadMessage("id of a wrong type", f'{{"type": "chat", "id": 7, {MESSAGES}}}', "bad_message"),
    BadMessage("empty id", f'{{"type": "chat", "id": "", {MESSAGES}}}', "bad_message"),
    BadMessage("long id", f'{{"type": "chat", "id": "{"r" * 65}", {MESSAGES}}}', "bad_message"),
    BadMessage("empty messages", '{"type": "chat", "id": "r", "messages": []}', "bad_request", "r"),
    BadMessage(
        "unknown role",
        '{"type": "chat", "id": "r", "messages": [{"role": "wizard", "content": "hello"}]}',
        "bad_request",
        "r",
    ),
    BadMessage(
        "too hot", f'{{"type": "chat", "id": "r", {MESSAGES}, "params": {{"temperature": 9}}}}', "bad_request", "r"
    ),
    BadMessage(
        "half a character",
        '{"type": "chat", "id": "r", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        "bad_request",
        "r",
    ),
    BadMessage("unknown id", '{"type": "cancel", "id": "nobody"}', "unknown_id", "nobody"),
    BadMessage("long ping", f'{{"type": "ping", "data": "{"x" * 300}"}}', "bad_request"),
    BadMessage("binary", "", "bad_message"),
    BadMessage("duplicate id", "", "duplicate_id"),
    BadMessage("too large", "", ""),
)
