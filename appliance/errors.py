"""The one tree of errors: the code on the wire, the HTTP status, when to come back. Knows no transport.

Three kinds, never mixed: this request is wrong (RequestError); the appliance can't now (UnavailableError,
which says when to retry); the operator must act (ConfigError, exit status 78).
"""

EXIT_CONFIG = 78  # sysexits.h EX_CONFIG: systemd's RestartPreventExitStatus names it


class ApplianceError(Exception):
    """Root of all errors that are shown to people."""


class ConfigError(ApplianceError):
    """The operator must act. One line that names the thing, where it was said, and the remedy."""

    exit_status = EXIT_CONFIG


class StartError(ApplianceError):
    """The daemon can't start now, for a reason that may pass (port in use, engine fails): exit status 1."""

    exit_status = 1


class ReplaceError(ApplianceError):
    """The engine's worker could not be replaced now; whoever served goes on, or is being started again."""


class RequestError(ApplianceError):
    """A request or message that can't be served; the text is safe to send to the client."""

    code = "internal"
    http_status = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadMessage(RequestError):
    """Not JSON, no known type, or fields of the wrong type."""

    code = "bad_message"
    http_status = 400


class BadRequest(RequestError):
    """A well-formed message with a value that can't be served."""

    code = "bad_request"
    http_status = 400


class DuplicateId(RequestError):
    """The id belongs to a live request of this socket."""

    code = "duplicate_id"
    http_status = 400


class UnknownId(RequestError):
    """No live request of this socket has the id, or nothing can be resumed under it."""

    code = "unknown_id"
    http_status = 404


class TakenOver(RequestError):
    """The request goes on over another socket of its client, which has resumed it."""

    code = "taken_over"
    http_status = 409


class PromptTooLong(RequestError):
    """The prompt does not fit the context or the KV cache; nothing was generated."""

    code = "prompt_too_long"
    http_status = 400


class OriginRefused(RequestError):
    """A browser page from an origin that is not allowed asked for a socket."""

    code = "origin_refused"
    http_status = 403


class RateLimited(RequestError):
    """The client has as many live requests as it may have."""

    code = "rate_limited"
    http_status = 429


class DeadlineExceeded(RequestError):
    """The request's own deadline passed, in the queue or while running."""

    code = "deadline_exceeded"
    http_status = 504


class InternalError(RequestError):
    """A defect of the appliance; the journal has the details."""


class UnavailableError(RequestError):
    """The appliance can't now; retry_after_s says when it may."""

    http_status = 503

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class QueueFull(UnavailableError):
    """The bounded queue has no place left."""

    code = "queue_full"


class EngineRestarted(UnavailableError):
    """The engine worker ended while it held the request; a new one is being started."""

    code = "engine_restarted"


class TooManyConnections(UnavailableError):
    """As many sockets are open as may be."""

    code = "too_many_connections"


class Drained(UnavailableError):
    """The operator has taken the appliance out of service; what it has, it finishes."""

    code = "drained"


class NotStarted(UnavailableError):
    """The daemon can't start before its operator has mended something."""

    code = "not_started"


class ShuttingDown(UnavailableError):
    """The daemon drains and takes no new requests."""

    code = "shutting_down"
