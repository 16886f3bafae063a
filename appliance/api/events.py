"""The events of a request as messages with the client's id. Knows dispatch's sink and the protocol; knows no socket."""

from collections.abc import Callable

from appliance.errors import RequestError
from appliance.protocol import websocket as wire
from appliance.types import FinishReason, Timings, Usage

ERROR_MAX_CHARS = 400

Event = wire.Queued | wire.Started | wire.Delta | wire.Done | wire.Error


class Messages:
    """A sink that gives each event of one request to `tell`, as a message."""

    def __init__(self, request_id: str, model: Callable[[], str], tell: Callable[[Event], None]) -> None:
        """`model`: the id of what would start a request now."""
        self._id = request_id
        self._model_now = model
        self._model = model()
        self._tell = tell

    def queued(self, position: int, eta_s: float | None) -> None:
        """See RequestSink."""
        self._tell(wire.Queued(self._id, position, eta_s))

    def started(self, prompt_tokens: int) -> None:
        """See RequestSink."""
        self._model = self._model_now()  # it may have changed while the request waited
        self._tell(wire.Started(self._id, prompt_tokens))

    def delta(self, offset: int, text: str) -> None:
        """See RequestSink."""
        self._tell(wire.Delta(self._id, offset, text))

    def done(self, reason: FinishReason, usage: Usage, timings: Timings) -> None:
        """See RequestSink."""
        self._tell(wire.Done(id=self._id, finish_reason=reason, model=self._model, usage=usage, timings=timings))

    def failed(self, error: RequestError) -> None:
        """See RequestSink."""
        self._tell(error_message(self._id, error))


def error_message(request_id: str | None, error: RequestError) -> wire.Error:
    """What a message says of its sender's own words is cut: nobody needs a megabyte of them back."""
    text = str(error)
    if len(text) > ERROR_MAX_CHARS:
        text = text[:ERROR_MAX_CHARS] + "…"
    return wire.Error(request_id, error.code, text, error.retry_after_s)
