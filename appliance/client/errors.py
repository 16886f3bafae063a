"""What can go wrong for a client, each with a text for people. Knows no sockets."""

from appliance.errors import ApplianceError


class ClientError(ApplianceError):
    """Root of what the client raises."""


class BadAddress(ClientError):
    """The URL is not one that a client can connect to; nothing was tried."""


class ConnectFailed(ClientError):
    """No connection came about: refused, no answer in time, or turned away by the server."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnsupportedProtocol(ConnectFailed):
    """The server speaks another version of the protocol, or another protocol; trying again does not help."""


class TlsFailed(ConnectFailed):
    """No TLS that is to be trusted came about, or only one side speaks it; trying again does not help."""


class ConnectionLost(ClientError):
    """The connection ended while the answer was still coming, or before it was asked for."""


class ProtocolViolation(ClientError):
    """The server sent text that does not fit what came before it; the answer is not to be trusted."""


class SlowReader(ClientError):
    """The consumer of one answer is so far behind that its text is no longer kept."""


class RequestFailed(ClientError):
    """The server ended this request with an `error`; `code` is one of the protocol's stable words."""

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
