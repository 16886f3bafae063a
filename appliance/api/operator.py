"""What an operator may have a running daemon do. Knows the daemon; knows no HTTP and no terminal."""

import logging

from appliance.api.state import Daemon
from appliance.observability.logs import fields

log = logging.getLogger(__name__)


class Operator:
    """Takes the daemon out of service, and back."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @property
    def drained(self) -> bool:
        """Whether new requests are refused until `undrain`."""
        return self._daemon.dispatcher.drained

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return self._daemon.dispatcher.running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._daemon.dispatcher.waiting

    def drain(self) -> None:
        """Refuse new requests; those that were taken are answered. Not for ever: the next start knows nothing of it."""
        if not self.drained:
            log.info("drained by the operator", extra=fields(running=self.running, waiting=self.waiting))
        self._daemon.dispatcher.drained = True

    def undrain(self) -> None:
        """Take requests again."""
        if self.drained:
            log.info("undrained by the operator", extra=fields())
        self._daemon.dispatcher.drained = False
