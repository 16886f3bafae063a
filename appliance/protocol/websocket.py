"""WebSocket protocol, version 1: the messages as tagged unions, and their JSON. See docs/protocol.md."""

import json
from typing import Any, Literal, TypeGuard

import msgspec
from msgspec import UNSET, Struct, UnsetType

from appliance.errors import BadMessage, BadRequest
from appliance.types import AnswerSource, FinishReason, Message, Timings, Usage

PROTOCOL_VERSION = 1
ID_MAX_CHARS = 64


# ---- client to server ------------------------------------------------------------------------------------


class ChatParams(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sampling as the client wants it; what is left out comes from the model's manifest."""

    max_tokens: int | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    repetition_penalty: float | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    stop: list[str] | UnsetType = UNSET


class Chat(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="chat"):
    """Ask for an answer to `messages`; `id` is the client's own, unique among its live requests."""

    id: str
    messages: list[Message]
    params: ChatParams = msgspec.field(default_factory=ChatParams)
    deadline_s: float | UnsetType = UNSET
    resumable: bool = False


class Cancel(Struct, frozen=True, forbid_unknown_fields=True, tag="cancel"):
    """Stop a live request; its terminal event is a `done` with finish_reason `cancelled`."""

    id: str


class Resume(Struct, frozen=True, forbid_unknown_fields=True, tag="resume"):
    """Continue a request that was sent with `resumable` over the socket of `session`, from character `offset`."""

    session: str
    id: str
    offset: int


class Ping(Struct, frozen=True, forbid_unknown_fields=True, tag="ping"):
    """A ping for clients that can't send WebSocket pings."""

    data: str = ""


ClientMessage = Chat | Cancel | Resume | Ping


# ---- server to client ------------------------------------------------------------------------------------


class HelloModel(Struct, frozen=True):
    """The model that answers."""

    id: str
    context_tokens: int


class Limits(Struct, frozen=True, kw_only=True):
    """What one socket may ask for."""

    max_prompt_tokens: int
    max_tokens: int
    max_message_bytes: int
    max_live_requests: int
    resume_grace_s: float = 0.0
    """Seconds that a resumable request waits for its client to come back; 0: it ends with its socket."""


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """The first message on every socket."""

    protocol: int = PROTOCOL_VERSION
    server: str
    model: HelloModel
    limits: Limits
    session: str


class Queued(Struct, frozen=True, tag="queued"):
    """The request waits; `position` 1 is next, `eta_s` None until a speed has been measured."""

    id: str
    position: int
    eta_s: float | None


class Started(Struct, frozen=True, tag="started"):
    """The engine has taken the request."""

    id: str
    prompt_tokens: int


class Delta(Struct, frozen=True, tag="delta"):
    """New text; `offset` counts the Unicode code points before it in this answer."""

    id: str
    offset: int
    text: str


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """The terminal event of a request that ended well or was cancelled."""

    id: str
    finish_reason: FinishReason
    model: str
    source: AnswerSource = "model"
    usage: Usage
    timings: Timings


class Error(Struct, frozen=True, tag="error"):
    """The terminal event of a request that failed; with id None it is about the connection or a message."""

    id: str | None
    code: str
    message: str
    retry_after_s: float | None = None


class GoingAway(Struct, frozen=True, tag="going_away"):
    """The server drains; live requests have `deadline_s` seconds to finish."""

    deadline_s: float


class Pong(Struct, frozen=True, tag="pong"):
    """The answer to a `ping`, with its data."""

    data: str


ServerMessage = Hello | Queued | Started | Delta | Done | Error | GoingAway | Pong

_client_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_server_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
_encoder = msgspec.json.Encoder()


class _Envelope(Struct):
    type: Any = None
    id: Any = None


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def encode(message: ClientMessage | ServerMessage) -> str:
    """One JSON object, as text for one frame."""
    return _encoder.encode(message).decode()


def decode_client_message(text: str) -> ClientMessage:
    """The message in one text frame.

    Raises BadMessage, with the reason in words for the sender: not JSON, nested too deep, an unknown type,
    a missing, unknown or mistyped field; BadRequest for a lone surrogate.
    """
    try:
        return _client_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise BadMessage(f"message does not fit the protocol: {error}") from None
    except RecursionError:
        raise BadMessage("message is nested too deep") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        if _has_lone_surrogate(_decode_leniently(text)):
            raise BadRequest("a text in the message has a lone surrogate, which is no character") from None
        raise BadMessage(f"message is not valid JSON: {error}") from None


def id_of(text: str) -> str | None:
    """The id that a message which could not be decoded carries, where it has one that is well-formed."""
    try:
        request_id = _envelope_decoder.decode(text).id
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        request_id = (_decode_leniently(text) or {}).get("id")
    return request_id if is_request_id(request_id) and request_id.isprintable() else None


def _has_lone_surrogate(decoded: dict[str, Any] | None) -> bool:
    try:
        json.dumps(decoded, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _decode_leniently(text: str) -> dict[str, Any] | None:
    """The object in a text that is JSON to Python, which takes NaN and lone surrogates (halves of emoji) too."""
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def is_request_id(value: object) -> TypeGuard[str]:
    """Whether `value` is a string of 1 to ID_MAX_CHARS characters."""
    return isinstance(value, str) and 1 <= len(value) <= ID_MAX_CHARS


def decode_server_message(text: str) -> ServerMessage | None:
    """The message in one text frame from a server; None for a type that this version does not know.

    Raises BadMessage where it is no message at all. Unknown fields are ignored, as the protocol asks.
    """
    try:
        return _server_decoder.decode(text)
    except msgspec.ValidationError as error:
        if "Invalid value" in str(error) and "$.type" in str(error):
            return None
        raise BadMessage(f"server sent a message that does not fit the protocol: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadMessage(f"server sent no JSON: {error}") from None


ReadyReason = Literal["loading", "warming", "draining", "restarting", "stalled", "no_model"]
