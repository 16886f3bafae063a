"""Listening sockets that systemd made and hands over. Knows LISTEN_FDS; knows no routes."""

import errno
import os
import socket
from collections.abc import MutableMapping

from appliance.errors import ConfigError
from appliance.observability.notify import library

VARIABLES = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID")


class InheritedSocket(socket.socket):
    """One that systemd keeps open too: what connects while nobody accepts waits in it for the next daemon."""

    def listen(self, _backlog: int = 0, /) -> None:
        """Nothing, as it listens: with the backlog of the socket unit, which another would replace."""


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> list[InheritedSocket]:
    """The sockets of the socket unit, none where there is no such unit. No child inherits them, nor their variables.

    To be called once, before any child is started. Raises ConfigError where one of them is no listening TCP socket, or
    where systemd-python is missing.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS"):
        return []
    names: dict[int, str] = library(environ).listen_fds_with_names(unset_environment=True)
    for variable in VARIABLES:
        environ.pop(variable, None)
    return [_checked(descriptor, name) for descriptor, name in names.items()]


def _checked(descriptor: int, name: str) -> InheritedSocket:
    try:
        inherited = InheritedSocket(fileno=descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOTSOCK, errno.EBADF):
            raise
        raise _wrong(descriptor, name, "no socket") from None
    if inherited.family not in (socket.AF_INET, socket.AF_INET6) or inherited.type != socket.SOCK_STREAM:
        raise _wrong(descriptor, name, "no TCP socket")
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _wrong(descriptor, name, "not listening (Accept=yes is not served)")
    inherited.setblocking(False)
    inherited.set_inheritable(False)
    return inherited


def _wrong(descriptor: int, name: str, what: str) -> ConfigError:
    return ConfigError(
        f"file descriptor {descriptor} ({name}) from systemd is {what}: "
        "the socket unit takes ListenStream= with a port, or an address and a port"
    )
