"""What a client may expect of a server, message by message. Knows the protocol, no sockets."""

from collections import Counter

from msgspec import Struct

from appliance.errors import BadMessage
from appliance.protocol.websocket import (
    PROTOCOL_VERSION,
    Delta,
    Done,
    Error,
    Hello,
    Queued,
    ServerMessage,
    Started,
    decode_server_message,
)

VIOLATIONS_KEPT = 50  # of each soak; the others are counted


class Findings:
    """What all clients of a soak have seen together."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.violation_count = 0
        self.errors: Counter[str] = Counter()
        """By code, those that were provoked among them."""
        self.counts: Counter[str] = Counter()
        """What was done."""

    def violation(self, text: str) -> None:
        """The server did what the protocol does not allow."""
        self.violation_count += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(text)


class _Live(Struct):
    max_tokens: int
    chars: int = 0
    started: bool = False


class Checker:
    """Holds one connection to the protocol; violations go to the findings."""

    def __init__(self, findings: Findings, who: str) -> None:
        self._findings = findings
        self._who = who
        self._greeted = False
        self._live: dict[str, _Live] = {}
        self._refusable: set[str] = set()  # ids that are not live, and for which an error may come
        self._complaints = 0  # errors without an id that were provoked

    def began(self, request_id: str, max_tokens: int) -> None:
        """A request is about to be sent."""
        self._live[request_id] = _Live(max_tokens)

    def provoked(self, request_id: str | None = None) -> None:
        """A message is about to be sent that deserves one error, with that id or with none."""
        self._complaints += 1
        if request_id is not None:
            self._refusable.add(request_id)

    def live(self, request_id: str) -> bool:
        """Whether the request has had no terminal event."""
        return request_id in self._live

    def feed(self, text: str) -> ServerMessage | None:
        """The message in a frame, seen to be allowed; None for one that a later version may know."""
        try:
            message = decode_server_message(text)
        except BadMessage as error:
            self._violation(str(error))
            return None
        if not self._greeted:
            self._greeted = True
            if not isinstance(message, Hello) or message.protocol != PROTOCOL_VERSION:
                self._violation(f"the first message is no hello of version {PROTOCOL_VERSION}: {text[:80]}")
            return message
        match message:
            case Queued() | Started() | Delta() | Done():
                self._event(message)
            case Error():
                self._error(message)
            case Hello():
                self._violation("a second hello")
        return message

    def _event(self, event: Queued | Started | Delta | Done) -> None:
        live = self._live.get(event.id)
        if live is None:
            self._violation(f"{_name(event)} for {event.id!r}, which is not live")
            return
        match event:
            case Queued(position=position) if live.started or position < 1:
                self._violation(f"queued with position {position}" + (" after started" if live.started else ""))
            case Started():
                if live.started:
                    self._violation("started twice")
                live.started = True
            case Delta(offset=offset, text=text):
                if not live.started or not text or offset != live.chars:
                    self._violation(f"delta of {len(text)} characters at {offset} instead of {live.chars}")
                live.chars = offset + len(text)
            case Done():
                self._done(event, live)

    def _done(self, done: Done, live: _Live) -> None:
        del self._live[done.id]
        tokens, reason = done.usage.completion_tokens, done.finish_reason
        if reason == "length" and tokens != live.max_tokens:
            self._violation(f"finish_reason length after {tokens} tokens of {live.max_tokens}")
        if tokens > live.max_tokens:
            self._violation(f"{tokens} tokens of at most {live.max_tokens}")
        if live.chars and not tokens:
            self._violation(f"{live.chars} characters of no token")

    def _error(self, error: Error) -> None:
        self._findings.errors[error.code] += 1
        if error.code == "internal":
            self._violation(f"internal error: {error.message[:200]}")
        if error.id is not None and error.id in self._live:
            del self._live[error.id]
        elif error.id is not None and error.id in self._refusable and error.code == "unknown_id":
            pass  # a cancel that crossed the end of its request
        elif self._complaints and (error.id is None or error.id in self._refusable):
            self._complaints -= 1
        else:
            self._violation(f"error {error.code} for {error.id!r}, which is not live: {error.message[:200]}")

    def cancelled(self, request_id: str) -> None:
        """A cancel is about to be sent, which may cross the request's end."""
        self._refusable.add(request_id)

    def _violation(self, text: str) -> None:
        self._findings.violation(f"{self._who}: {text}")


def _name(event: ServerMessage) -> str:
    return type(event).__name__.lower()
