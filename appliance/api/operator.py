"""What an operator may have a running daemon do. Knows the daemon; knows no HTTP and no terminal."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from appliance.api.activation import InheritedSocket
from appliance.api.overruled import ADDRESS_SETTINGS, overruled
from appliance.api.state import Daemon
from appliance.config import Effective, Settings
from appliance.config.certificate import Served, open_certificate
from appliance.config.changes import Changes, compare, same_files, taken_up
from appliance.errors import ConfigError
from appliance.observability.events import Event, event
from appliance.observability.logs import fields
from appliance.observability.notify import Notifier, monotonic_usec

log = logging.getLogger(__name__)


def tell_untrustworthy(served: Served | None) -> None:
    """Log a warning where no client can trust the certificate: it is served all the same."""
    problem = None if served is None else served.certificate.problem()
    if served is not None and problem is not None:
        log.warning(
            "clients will refuse the certificate",
            extra=fields(file=str(served.file), reason=problem, remedy="have it renewed, then: appliance reload"),
        )


class Operator:
    """Takes the daemon out of service, and back; has it read its settings again."""

    def __init__(
        self,
        daemon: Daemon,
        reread: Callable[[], Effective],
        notifier: Notifier,
        inherited: Sequence[InheritedSocket] = (),
    ) -> None:
        """`reread`: the settings as a start would have them now; may block, and raises ConfigError.

        `inherited`: the sockets that systemd has made.
        """
        self._inherited = inherited
        self._daemon = daemon
        self._reread = reread
        self._notifier = notifier
        self._reloading = asyncio.Lock()

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
            log.info("drained by the operator", extra=event(Event.DRAINED, running=self.running, waiting=self.waiting))
        self._daemon.dispatcher.drained = True

    def undrain(self) -> None:
        """Take requests again."""
        if self.drained:
            log.info("undrained by the operator", extra=event(Event.UNDRAINED))
        self._daemon.dispatcher.drained = False

    async def reload(self) -> Changes:
        """Put in force what can change in a running daemon, and tell what can't.

        Raises ConfigError where file or environment are wrong; then nothing has changed.
        """
        async with self._reloading:
            telling = self._daemon.served.is_set() and not self._daemon.dispatcher.draining
            if telling:
                self._notifier.tell(RELOADING=1, MONOTONIC_USEC=monotonic_usec())
            try:
                return self._take_up(*await asyncio.to_thread(self._read))
            except ConfigError as error:
                extra = event(Event.SETTINGS_REFUSED, reason=str(error))
                log.error("settings not reloaded, the old ones stay", extra=extra)  # noqa: TRY400
                raise
            finally:
                if telling:
                    self._notifier.tell(READY=1)

    def _read(self) -> tuple[Effective, Served | None]:
        """The settings, and the certificate where the files of it are the same ones. Blocks. Raises ConfigError.

        From TLS to none, and back, or to other files, wants a restart.
        """
        effective = self._reread()
        if self._daemon.certificate is None or not same_files(self._daemon.settings, effective.settings):
            return effective, None
        return effective, open_certificate(effective.settings.server)

    def _take_up(self, effective: Effective, certificate: Served | None) -> Changes:
        old, new = self._daemon.settings, effective.settings
        changes = replace(self._compare(old, effective), certificate_until=self._show(certificate))
        self._daemon.take_up(taken_up(old, new), needs_restart=changes.needs_restart)
        if "logging.level" in changes.changed:
            logging.getLogger().setLevel(new.logging.level.upper())
        log.info(
            "settings reloaded",
            extra=event(
                Event.SETTINGS_RELOADED,
                changed=" ".join(changes.changed),
                needs_restart=" ".join(changes.needs_restart),
                socket_decides=" ".join(changes.socket_decides) or None,
                certificate_until=changes.certificate_until,
            ),
        )
        return changes

    def _show(self, read: Served | None) -> str | None:
        """Show it from now on; until when it is valid, None where it is none, or the one that is shown already."""
        before = self._daemon.certificate
        if read is None or before is None:
            return None
        self._daemon.show(read)  # the same, too: its chain may be another
        if read.certificate.sha256 == before.certificate.sha256:
            return None
        tell_untrustworthy(read)
        return read.certificate.not_after.isoformat()

    def _compare(self, old: Settings, effective: Effective) -> Changes:
        """With systemd's sockets no restart gives the settings of the address an effect."""
        changes = compare(old, effective.settings)
        if not self._inherited:
            return changes
        needs_restart = [name for name in changes.needs_restart if name not in ADDRESS_SETTINGS]
        return Changes(changes.changed, needs_restart, overruled(self._inherited, effective))
