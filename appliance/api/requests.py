"""From a client's message to a request for dispatch: defaults filled in, every value checked. Knows no sockets."""

import secrets
from typing import Any

import msgspec
from msgspec import UNSET

from appliance.config import Settings
from appliance.errors import BadRequest
from appliance.protocol.websocket import Chat, ChatParams
from appliance.types import ROLES, ChatRequest, Message, Sampling, ServedModel

SEED_MAX = 2**63 - 1
STOP_MAX_CHARS = 64
# Beyond these no model answers sensibly, and some engines divide by zero: (least, most).
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0.001, 1),
    "top_k": (0, 100_000),
    "repetition_penalty": (0.01, 5),
    "seed": (0, SEED_MAX),
}
GREEDY_BELOW = 0.01  # a temperature so low only ever takes the likeliest token, or overflows


def chat_request(chat: Chat, client: str, model: ServedModel, settings: Settings) -> ChatRequest:
    """What `chat` asks for, complete. Raises BadRequest, naming the field, its value and what would be right."""
    _check_messages(chat.messages, settings.limits.max_messages)
    dispatch = settings.dispatch
    deadline_s = _given(chat.deadline_s, min(dispatch.default_deadline_s, dispatch.max_deadline_s))
    if not 0 < deadline_s <= dispatch.max_deadline_s:
        raise BadRequest(f"deadline_s is {deadline_s:g}; expected above 0 and at most {dispatch.max_deadline_s:g}")
    return ChatRequest(
        client=client,
        messages=chat.messages,
        sampling=_sampling(chat.params, model, settings),
        deadline_s=deadline_s,
    )


def _check_messages(messages: list[Message], most: int) -> None:
    if not messages:
        raise BadRequest("messages is empty; expected at least one")
    if len(messages) > most:
        raise BadRequest(f"messages has {len(messages)} entries; expected at most {most} (limits.max_messages)")
    for place, message in enumerate(messages):
        if message.role not in ROLES:
            known = ", ".join(sorted(ROLES))
            raise BadRequest(f"messages[{place}].role is {_shown(message.role)}; expected one of {known}")
        _check_text(f"messages[{place}].content", message.content)


def _check_text(name: str, text: str) -> None:
    if "\0" in text:
        raise BadRequest(f"{name} has a NUL character at {text.index(chr(0))}; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{name} has a lone surrogate at {error.start}; it is no character") from None


def _sampling(params: ChatParams, model: ServedModel, settings: Settings) -> Sampling:
    defaults = model.generation
    max_tokens = _given(params.max_tokens, min(settings.engine.default_max_tokens, settings.limits.max_tokens))
    if not 1 <= max_tokens <= settings.limits.max_tokens:
        raise BadRequest(
            f"max_tokens is {max_tokens}; expected from 1 to {settings.limits.max_tokens} (limits.max_tokens)"
        )
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=_given(params.temperature, defaults.temperature),
        top_p=_given(params.top_p, defaults.top_p),
        top_k=_given(params.top_k, defaults.top_k),
        repetition_penalty=_given(params.repetition_penalty, defaults.repetition_penalty),
        seed=_given(params.seed, secrets.randbelow(SEED_MAX)),
        stop=tuple(_given(params.stop, ())),
    )
    for name, (least, most) in RANGES.items():
        value = getattr(sampling, name)
        if not least <= value <= most:
            raise BadRequest(f"{name} is {value}; expected from {least:g} to {most}")
    _check_stop(sampling.stop, settings.limits.max_stop)
    if sampling.temperature < GREEDY_BELOW:
        return msgspec.structs.replace(sampling, temperature=0)
    return sampling


def _check_stop(stop: tuple[str, ...], most: int) -> None:
    if len(stop) > most:
        raise BadRequest(f"stop has {len(stop)} strings; expected at most {most} (limits.max_stop)")
    for place, text in enumerate(stop):
        if not 1 <= len(text) <= STOP_MAX_CHARS:
            raise BadRequest(f"stop[{place}] has {len(text)} characters; expected from 1 to {STOP_MAX_CHARS}")
        _check_text(f"stop[{place}]", text)


def _given(value: Any, default: Any) -> Any:
    return default if value is UNSET else value


def _shown(text: str) -> str:
    """A client's word, short enough and printable, for an error message."""
    return repr(text if len(text) <= 32 else text[:32] + "…")
